-- A parent with a large heap of small tables, and tasks that build and drop structures: how much memory do
-- all processes use together at the most (proportional set size), against what the manual promises: 1.3 times
-- the parent's size at the fork, and 3 times what the tasks have alive?

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local NWORKERS = 4

local function tables(n)
  local list = {}
  for i = 1, n do list[i] = { i } end
  return list
end

-- Bytes of a structure of n tables.
local function size_of(n)
  collectgarbage()
  local before = collectgarbage "count"
  local list = tables(n)
  collectgarbage()
  return (collectgarbage "count" - before) * 1024 * #list // n
end

local function used(pid)
  local file <close> = io.open(("/proc/%s/smaps_rollup"):format(pid)) -- not of a worker that has left
  local text = file and file:read("a") or ""
  return tonumber(text:match("\nPss:%s*(%d+)") or 0) * 1024
end

local function build(make, n, times)
  for _ = 1, times do make(n) end
end

-- So many tasks, each of which builds a structure of n tables so many times.
local function program(n, tasks, times)
  return function(size)
    local mantichora = require "mantichora"
    local heap = tables((size << 20) // 88)
    local live = size_of(n) * NWORKERS
    collectgarbage()
    return function()
      local alone, most = used "self", 0
      local mcore <close> = mantichora { nworkers = NWORKERS, gc = "auto" }
      for _ = 1, tasks do mcore:run(build, tables, n, times) end
      repeat
        local finished, together = mcore:poll(0.02), used "self"
        for _, worker in ipairs(mcore:workers()) do together = together + used(worker.pid) end
        most = math.max(most, together)
      until finished == tasks
      assert(#heap > 0)
      return most, 1.3 * alone + 3 * live
    end
  end
end

local works = {
  { "one", "200,000 tables, 40 times in each of 4 tasks", program(200000, NWORKERS, 40) },
  { "many", "200,000 tables in each of 160 tasks", program(200000, 40 * NWORKERS, 1) },
  { "small", "20,000 tables, 40 times in each of 4 tasks", program(20000, NWORKERS, 40) },
}

local ours = {}
for _, work in ipairs(works) do ours[work[1]] = work[3] end

return bench.main {
  name = "memory", size = 512, quick = 128, rounds = 1, -- MiB
  ours = ours,
  programs = function(size)
    local programs = {}
    for i, work in ipairs(works) do programs[i] = { work[1], bench.ours(work[1], size) } end
    return programs
  end,
  rows = function(size)
    local rows = {}
    for i, work in ipairs(works) do
      rows[i] = {
        work = ("memory over %d MiB of tables: %s"):format(size, work[2]), unit = "MiB",
        ours = function(f) return f[work[1]][1] end, against = "1.3 x the parent + 3 x what lives",
        theirs = function(f) return f[work[1]][2] end, target = { "<=", 1 },
      }
    end
    return rows
  end,
}
