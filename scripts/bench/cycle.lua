-- The whole life of a pool of four: made, a first result, closed.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function answer() return 42 end

local function in_our_process(limit)
  return function(size)
    local limits = bench.limits()
    require "mantichora"
    return function() return limits[limit](size) end
  end
end

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
    -- What our process costs to fork, and a pool's bare bones in it.
    forks_here = in_our_process "forks",
    bones = in_our_process "bare_pool",
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size), times = 5 },
      { "forks", bench.limit("forks", size), times = 5 },
      { "forks_here", bench.peer("forks_here", size), times = 5 },
      { "bones", bench.peer("bones", size), times = 5 },
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
      { work = work, unit = "ms", ours = ours, against = "C in the same process: the same",
        theirs = function(f) return f.forks_here end },
      { work = "... its bare bones: forks, descriptors, a thread, an answer", unit = "ms",
        ours = function(f) return f.bones end, against = ("C, %d times fork, exit, wait"):format(size),
        theirs = function(f) return f.forks end },
      { work = work, unit = "ms", ours = ours, against = "its bare bones in C",
        theirs = function(f) return f.bones end },
      { work = work, unit = "ms", ours = ours, against = "mp.Pool",
        theirs = function(f) return f.pool end, label = "a pool of 4: make, use, close", side = "Python" },
      { work = work, unit = "ms", ours = ours, against = "ProcessPoolExecutor",
        theirs = function(f) return f.futures end },
    }
  end,
}
