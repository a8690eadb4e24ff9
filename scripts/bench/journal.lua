-- What a journal costs: processor time of all processes for many empty closures, without one, with one that is new,
-- and with one that has them all.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function closure(i)
  return function() return i end
end

-- Seconds that this process and its children that have ended have used.
local function used()
  local file <close> = assert(io.open("/proc/self/stat"))
  local sum, at = 0, 0
  for number in file:read("a"):match("%) %S+(.*)"):gmatch("%S+") do
    at = at + 1
    if at == 13 or at == 14 then sum = sum + tonumber(number) end -- of children, in hundredths
  end
  return os.clock() + sum / 100
end

-- A program whose round runs them all; `path`: of its journal, `keeps`: which has them from the second round on.
local function program(path, keeps)
  return function(size)
    local mantichora = require "mantichora"
    local function round()
      local before = used()
      do
        local mcore <close> = mantichora { nworkers = 2, journal = path or false }
        for i = 1, size do mcore:run_with({ key = i }, closure(i)) end
        mcore:returns()
      end
      return (used() - before) / size
    end
    local function forget() os.execute(("rm -rf '%s' '%s-wal' '%s-shm'"):format(path, path, path)) end
    if keeps then round() end
    return function()
      if path and not keeps then forget() end
      return round()
    end, path and forget
  end
end

local function name() return os.tmpname() .. ".mj" end

return bench.main {
  name = "journal", size = 30000, quick = 500, rounds = 5,
  ours = { plain = program(), recorded = program(name()), found = program(name(), true) },
  programs = function(size)
    return {
      { "plain", bench.ours("plain", size) },
      { "recorded", bench.ours("recorded", size) },
      { "found", bench.ours("found", size) },
    }
  end,
  rows = function()
    return {
      { work = "a recorded task, beside its run", unit = "s", ours = function(f) return f.recorded - f.plain end,
        against = "the run itself", theirs = function(f) return f.plain end, target = { "<=", 40e-6, of = "ours" } },
      { work = "a found task", unit = "s", ours = function(f) return f.found end,
        against = "the run itself", theirs = function(f) return f.plain end, target = { "<=", 30e-6, of = "ours" } },
    }
  end,
}
