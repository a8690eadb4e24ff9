-- `map` over many small integers, by two workers; batches adapt by themselves.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function increment(x) return x + 1 end

return bench.main {
  name = "map", size = 1000000, quick = 1000, rounds = 7,
  ours = {
    pool = function(size)
      local clock = bench.limits().clock
      local mcore = require "mantichora" { nworkers = 2 }
      local list = {}
      for i = 1, size do list[i] = i end
      return function()
        local start = clock()
        local results = mcore:map(increment, list)
        local seconds = clock() - start
        assert(results.n == size and results[1] == 2 and results[size] == size + 1)
        return seconds
      end, function() mcore:close() end
    end,
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size) },
      { "pool", bench.python("pool_map", size) },
      { "futures", bench.python("futures_map", size, size // 8) },
    }
  end,
  rows = function(size)
    local work = ("map over %d integers"):format(size)
    local function ours(f) return size / f.ours end
    return {
      { work = work, unit = "M/s", ours = ours, against = "mp.Pool.map, automatic chunks",
        theirs = function(f) return size / f.pool end, target = { ">=", 1 },
        label = "map, small items", side = "Python" },
      { work = work, unit = "M/s", ours = ours, against = "ProcessPoolExecutor.map, 8 chunks",
        theirs = function(f) return size / f.futures end },
    }
  end,
}
