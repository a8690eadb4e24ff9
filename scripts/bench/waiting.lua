-- What the parent uses of a core while it waits for one sleeping task.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

return bench.main {
  name = "waiting", size = 2000, quick = 100, rounds = 3, -- milliseconds
  ours = {
    pool = function(size)
      local clock = bench.limits().clock
      local mantichora = require "mantichora"
      local mcore = mantichora { nworkers = 2 }
      return function()
        local start, used = clock(), os.clock()
        mcore:run(mantichora.sleep, size / 1000)
        mcore:receive_one()
        return (os.clock() - used) / (clock() - start)
      end, function() mcore:close() end
    end,
  },
  programs = function(size)
    return { { "ours", bench.ours("pool", size) }, { "pool", bench.python("pool_waiting", size) } }
  end,
  rows = function()
    return {
      { work = "CPU of the parent that waits", unit = "%", ours = function(f) return f.ours end,
        against = "mp.Pool.apply", theirs = function(f) return f.pool end,
        target = { "<=", 0.001, of = "ours" }, label = "CPU while waiting", side = "Python" },
    }
  end,
}
