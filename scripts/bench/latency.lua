-- One task to a pool that waits, and its result back: the median of many in a row.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function answer() return 42 end

return bench.main {
  name = "latency", size = 1000, quick = 20, rounds = 9,
  ours = {
    pool = function(size)
      local clock = bench.limits().clock
      local mcore = require "mantichora" { nworkers = 2 }
      local times = {}
      return function()
        for i = 1, size do
          local start = clock()
          mcore:run(answer)
          local _, value = mcore:receive_one()
          times[i] = clock() - start
          assert(value == 42)
        end
        table.sort(times)
        return times[(size + 1) // 2], times[(size * 99 + 99) // 100]
      end, function() mcore:close() end
    end,
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size) },
      { "both", bench.limit("pingpong", "both", size) },
      { "one", bench.limit("pingpong", "one", size) },
      { "pool", bench.python("pool_latency", size) },
      { "futures", bench.python("futures_latency", size) },
    }
  end,
  rows = function()
    local work = "a task and back, p50"
    local function ours(f) return f.ours[1] end
    return {
      { work = work, unit = "us", ours = ours, against = "C ping-pong, 64 bytes, across cores",
        theirs = function(f) return f.both end, target = { "<=", 1.2 },
        label = "one task and back", side = "limit" },
      { work = work, unit = "us", ours = ours, against = "C ping-pong, 64 bytes, on one core",
        theirs = function(f) return f.one end },
      { work = work, unit = "us", ours = ours, against = "mp.Pool.apply",
        theirs = function(f) return f.pool end, label = "one task and back", side = "Python" },
      { work = work, unit = "us", ours = ours, against = "ProcessPoolExecutor.submit ... result",
        theirs = function(f) return f.futures end },
      { work = "a task and back, p99", unit = "us", ours = function(f) return f.ours[2] end,
        against = "C ping-pong across cores, p50", theirs = function(f) return f.both end },
    }
  end,
}
