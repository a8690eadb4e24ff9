-- CPU-bound tasks: how many times faster are two workers than one?

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local TASKS = 20

local function work(size)
  local sum = 0.0
  for _ = 1, size do sum = sum + 1.5 end
  return sum
end

return bench.main {
  name = "scaling", size = 100000000, quick = 100000, rounds = 7,
  ours = {
    pools = function(size)
      local clock = bench.limits().clock
      local mantichora = require "mantichora"
      local function timed(nworkers)
        local mcore <close> = mantichora { nworkers = nworkers }
        mcore:start()
        local start = clock()
        for _ = 1, TASKS do mcore:run(work, size // TASKS) end
        mcore:returns()
        return clock() - start
      end
      return function() return timed(1) / timed(2) end
    end,
  },
  programs = function(size)
    return { { "ours", bench.ours("pools", size) }, { "loops", bench.limit("loops", size * 5) } }
  end,
  rows = function()
    return {
      { work = "CPU-bound tasks, 2 workers against 1", unit = "times", ours = function(f) return f.ours end,
        against = "C, 2 processes against 1", theirs = function(f) return f.loops end,
        target = { ">=", 1.95, of = "ours" }, label = "2 workers against 1", side = "limit" },
    }
  end,
}
