-- One iteration of a loop under a progress bar, in this process and in a task; bars are drawn.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function bare(size, clock, range)
  local start = clock()
  for _ in range(size) do end
  return (clock() - start) / size
end

local function under_bar(size, clock, atpbar)
  local start = clock()
  for _ in atpbar(size, "bar") do end
  return (clock() - start) / size
end

return bench.main {
  name = "atpbar", size = 10000000, quick = 10000, rounds = 7,
  ours = {
    bare = function(size)
      local limits = bench.limits()
      return function() return bare(size, limits.clock, limits.range) end
    end,
    here = function(size)
      local clock, atpbar = bench.limits().clock, require "mantichora.atpbar"
      return function() return under_bar(size, clock, atpbar) end
    end,
    task = function(size)
      local clock, atpbar = bench.limits().clock, require "mantichora.atpbar"
      local mcore = require "mantichora" { nworkers = 1 }
      return function()
        mcore:run(under_bar, size, clock, atpbar)
        return select(2, mcore:receive_one())
      end, function() mcore:close() end
    end,
  },
  programs = function(size)
    return {
      { "here", bench.drawing(bench.ours("here", size)) },
      { "task", bench.drawing(bench.ours("task", size)) },
      { "bare", bench.ours("bare", size) },
      { "tqdm", bench.drawing(bench.python("tqdm", size // 10)) },
      { "atpbar", bench.drawing(bench.python("atpbar", size // 100)) },
    }
  end,
  rows = function()
    local work = "an iteration of atpbar"
    local function here(f) return f.here end
    local function bare_loop(f) return f.bare end
    local loop = "a bare for with an iterator in C"
    return {
      { work = work, unit = "ns", ours = here, against = loop, theirs = bare_loop, target = { "<=", 1.5 },
        label = "an iteration under a bar", side = "limit" },
      { work = work .. ", in a task", unit = "ns", ours = function(f) return f.task end, against = loop,
        theirs = bare_loop, target = { "<=", 1.5 } },
      { work = work, unit = "ns", ours = here, against = "tqdm", theirs = function(f) return f.tqdm end,
        label = "an iteration under a bar", side = "Python" },
      { work = work, unit = "ns", ours = here, against = "Python's atpbar", theirs = function(f) return f.atpbar end },
    }
  end,
}
