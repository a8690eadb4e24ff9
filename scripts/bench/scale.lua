-- What a pool costs as its numbers grow: the same tasks with one priority and with as many as there are
-- tasks, before and after those were used; and tasks by 100 and by 500 workers. CPU seconds of the parent
-- for priorities, seconds of all processes for workers, both for each thousand of tasks.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function empty() end

local function run(mcore, size, priority)
  local start = os.clock()
  for i = 1, size do mcore:run_with({ priority = priority(i) }, empty) end
  mcore:returns()
  return (os.clock() - start) * 1000 / size
end

local function zero() return 0 end
local function rising(i) return i end
local function falling(i) return -i end

-- Rounds of tasks with these priorities; `before`: those of a round that comes first.
local function priorities(priority, before)
  return function(size)
    local mcore = require "mantichora" { nworkers = 2 }
    if before then run(mcore, size, before) end
    return function() return run(mcore, size, priority) end, function() mcore:close() end
  end
end

-- A pool's whole life; `share`: of `size` so many workers.
local function workers(share)
  return function(size)
    local mantichora = require "mantichora"
    return function()
      local start, count = os.clock(), math.max(1, size * share // 100)
      local mcore <close> = mantichora { nworkers = count }
      for _ = 1, count * 20 do mcore:run(empty) end
      mcore:returns()
      return (os.clock() - start) * 1000 / (count * 20)
    end
  end
end

return bench.main {
  name = "scale", size = 20000, quick = 200, rounds = 3,
  ours = {
    one = priorities(zero), after = priorities(zero, rising), rising = priorities(rising),
    falling = priorities(falling), few = workers(0.5), many = workers(2.5),
  },
  programs = function(size)
    local list = {}
    for i, name in ipairs { "one", "after", "rising", "falling", "few", "many" } do
      list[i] = { name, bench.ours(name, size) }
    end
    return list
  end,
  rows = function(size)
    local rows = {}
    for i, case in ipairs {
      { "after", "one", "%d tasks after as many priorities", size },
      { "rising", "one", "%d tasks, each more urgent", size },
      { "falling", "one", "%d tasks, each less urgent", size },
      { "many", "few", "tasks of %d workers", math.max(1, size * 2.5 // 100) },
    } do
      rows[i] = {
        work = case[3]:format(math.tointeger(case[4])), unit = "s", target = { "<=", i < 4 and 3 or 2 },
        against = case[2] == "one" and "one priority" or "a fifth of them",
        ours = function(f) return f[case[1]] end, theirs = function(f) return f[case[2]] end,
      }
    end
    return rows
  end,
}
