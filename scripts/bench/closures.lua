-- Many empty closures with two upvalues, from `run` to `returns`, by two workers.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function closure(a, b)
  return function() return a + b end
end

return bench.main {
  name = "closures", size = 20000, quick = 200, rounds = 9,
  ours = {
    pool = function(size)
      local clock = bench.limits().clock
      local mcore = require "mantichora" { nworkers = 2 }
      return function()
        local start = clock()
        for i = 1, size do mcore:run(closure(i, 1)) end
        local results = mcore:returns()
        local seconds = clock() - start
        assert(results.n == size and results[1] == 2 and results[size] == size + 1)
        return seconds
      end, function() mcore:close() end
    end,
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size), times = 5 },
      { "unbatched", bench.limit("pipeline", size, 1), times = 5 },
      { "batched", bench.limit("pipeline", size, 8), times = 5 },
      { "imap", bench.python("imap", size) },
      { "futures", bench.python("futures", size // 10) },
    }
  end,
  rows = function(size)
    local work = ("%d empty closures"):format(size)
    local function ours(f) return size / f.ours end
    return {
      { work = work, unit = "k/s", ours = ours, against = "C, 2 children, a call for each frame",
        theirs = function(f) return size / f.unbatched end, target = { ">=", 2 },
        label = "tiny tasks", side = "limit" },
      { work = work, unit = "k/s", ours = ours, against = "mp.Pool.imap_unordered, chunks of 1",
        theirs = function(f) return size / f.imap end, target = { ">=", 5 },
        label = "tiny tasks", side = "Python" },
      { work = work, unit = "k/s", ours = ours, against = "ProcessPoolExecutor.submit",
        theirs = function(f) return size // 10 / f.futures end },
      { work = work, unit = "k/s", ours = ours, against = "C, 8 frames in a call",
        theirs = function(f) return size / f.batched end },
    }
  end,
}
