-- The whole life of a pool of four: made, a first result, closed.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function answer() return 42 end

return bench.main {
  name = "cycle", size = 4, rounds = 20,
  ours = {
    pool = function(size)
      local clock = bench.limits().clock
      local mantichora = require "mantichora"
      return function()
        local start = clock()
        local mcore = mantichora { nworkers = size }
        mcore:run(answer)
        local _, value = mcore:receive_one()
        mcore:close()
        local seconds = clock() - start
        assert(value == 42)
        return seconds
      end
    end,
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size), times = 5 },
      { "forks", bench.limit("forks", size), times = 5 },
      { "pool", bench.python("pool_cycle", size) },
      { "futures", bench.python("futures_cycle", size) },
    }
  end,
  rows = function(size)
    local work = ("a pool of %d: make, first result, close"):format(size)
    local function ours(f) return f.ours end
    return {
      { work = work, unit = "ms", ours = ours, against = ("C, %d times fork, exit, wait"):format(size),
        theirs = function(f) return f.forks end, target = { "<=", 3 },
        label = "a pool of 4: make, use, close", side = "limit" },
      { work = work, unit = "ms", ours = ours, against = "mp.Pool",
        theirs = function(f) return f.pool end, label = "a pool of 4: make, use, close", side = "Python" },
      { work = work, unit = "ms", ours = ours, against = "ProcessPoolExecutor",
        theirs = function(f) return f.futures end },
    }
  end,
}
