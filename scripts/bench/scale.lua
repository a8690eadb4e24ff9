-- What a pool costs as its numbers grow: the same tasks with one priority and with as many as there are
-- tasks, and after those were used; and tasks by 100 and by 500 workers. CPU time of the parent for each
-- thousand of tasks.

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

-- Tasks by so many workers (of 20000 tasks: 100 or 500): `each` all at once, then one after the other.
local function workers(share, each)
  return function(size)
    local count = math.max(1, size * share // 20000)
    local mcore = require "mantichora" { nworkers = count }
    mcore:start()
    return function()
      local start = os.clock()
      for _ = 1, size do
        mcore:run(empty)
        if each == 1 then mcore:receive_one() end
      end
      mcore:returns()
      return (os.clock() - start) * 1000 / size
    end, function() mcore:close() end
  end
end

return bench.main {
  name = "scale", size = 20000, quick = 200, rounds = 3,
  ours = {
    one = priorities(zero), after = priorities(zero, rising), rising = priorities(rising),
    falling = priorities(falling), few = workers(100), many = workers(500), few_alone = workers(100, 1),
    many_alone = workers(500, 1),
  },
  programs = function(size)
    local list = {}
    for i, name in ipairs {
      "one", "after", "rising", "falling", "few", "many", "few_alone", "many_alone",
    } do
      list[i] = { name, bench.ours(name, size) }
    end
    return list
  end,
  rows = function(size)
    local rows, many = {}, math.max(1, size * 500 // 20000)
    for i, case in ipairs {
      { "after", "one", ("%d tasks after as many priorities"):format(size), "one priority", 2 },
      { "rising", "one", ("%d tasks, each more urgent"):format(size), "one priority", 4 },
      { "falling", "one", ("%d tasks, each less urgent"):format(size), "one priority", 4 },
      { "many", "few", ("tasks of %d workers"):format(many), "a fifth of them", 2 },
      { "many_alone", "few_alone", "the same, one after the other", "a fifth of them", 2 },
    } do
      rows[i] = {
        work = case[3], unit = "ms", against = case[4], target = { "<=", case[5] },
        ours = function(f) return f[case[1]] end, theirs = function(f) return f[case[2]] end,
      }
    end
    return rows
  end,
}
