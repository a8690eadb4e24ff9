-- Many tasks of a millisecond and two that are long, in orders that are bad for who sends ahead, by two
-- workers. The ideal is computed: each task begins, in order, as soon as a worker is free.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function spin(seconds, clock)
  local stop = clock() + seconds
  repeat until clock() >= stop
end

local function durations(size, long_first)
  local list = {}
  for i = 1, size do list[i] = 0.001 end
  table.insert(list, long_first and 1 or #list + 1, size / 1000)
  list[#list + 1] = size / 1000
  return list
end

local function ideal(list, nworkers)
  local free = {}
  for i = 1, nworkers do free[i] = 0 end
  for _, seconds in ipairs(list) do
    table.sort(free)
    free[1] = free[1] + seconds
  end
  return math.max(table.unpack(free))
end

local function pool(long_first)
  return function(size)
    local clock = bench.limits().clock
    local list = durations(size, long_first)
    local mcore = require "mantichora" { nworkers = 2 }
    return function()
      local start = clock()
      for _, seconds in ipairs(list) do mcore:run(spin, seconds, clock) end
      mcore:returns()
      return clock() - start
    end, function() mcore:close() end
  end
end

return bench.main {
  name = "order", size = 1000, quick = 20, rounds = 3,
  ours = { last = pool(false), around = pool(true) },
  programs = function(size)
    return {
      { "last", bench.ours("last", size) },
      { "around", bench.ours("around", size) },
      { "pool", bench.python("pool_order", size) },
    }
  end,
  rows = function(size)
    local work = ("%d tasks of 1 ms, then two of %g s"):format(size, size / 1000)
    local function last(f) return f.last end
    return {
      { work = work, unit = "s", ours = last, against = "ideal list scheduling",
        theirs = function() return ideal(durations(size, false), 2) end, target = { "<=", 1.05 },
        label = "long tasks after short ones", side = "limit" },
      { work = "the same, one of the two first", unit = "s", ours = function(f) return f.around end,
        against = "ideal list scheduling", theirs = function() return ideal(durations(size, true), 2) end,
        target = { "<=", 1.05 } },
      { work = work, unit = "s", ours = last, against = "mp.Pool.imap_unordered",
        theirs = function(f) return f.pool end, label = "long tasks after short ones", side = "Python" },
    }
  end,
}
