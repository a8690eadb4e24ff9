-- What a task that waits costs the parent: its size before and after many small closures were queued
-- behind two tasks which sleep.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function closure(a, b)
  return function() return a + b end
end

local function resident()
  local file <close> = assert(io.open("/proc/self/statm"))
  local _, pages = file:read("n", "n")
  return pages * 4096
end

return bench.main {
  name = "queued", size = 200000, quick = 2000, rounds = 3,
  ours = {
    pool = function(size)
      local mantichora = require "mantichora"
      local limits = bench.limits()
      local function settled()
        collectgarbage()
        limits.trim()
        return resident()
      end
      return function()
        local mcore <close> = mantichora { nworkers = 2 }
        for _ = 1, 2 do mcore:run(mantichora.sleep, 60) end
        for i = 1, 100 do mcore:run(closure(i, 1)) end
        mcore:poll(0.2) -- what is sent ahead has gone
        local before = settled()
        for i = 1, size do mcore:run(closure(i, 1)) end
        local each = (settled() - before) / size
        mcore:terminate()
        return each
      end
    end,
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size) },
      { "pool", bench.python("pool_queued", size // 20) },
      { "futures", bench.python("futures_queued", size // 20) },
    }
  end,
  rows = function()
    local work = "memory for a queued closure"
    local function ours(f) return f.ours end
    return {
      { work = work, unit = "B", ours = ours, against = "mp.Pool.apply_async",
        theirs = function(f) return f.pool end, target = { "<=", 160, of = "ours" },
        label = "memory of a queued task", side = "Python" },
      { work = work, unit = "B", ours = ours, against = "ProcessPoolExecutor.submit",
        theirs = function(f) return f.futures end },
    }
  end,
}
