-- A table of many floats as a result: building it in the worker, and the way back.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function build(size)
  local list = {}
  for i = 1, size do list[i] = i * 0.1 end
  return list
end

return bench.main {
  name = "floats", size = 1000000, quick = 1000, rounds = 15,
  ours = {
    pool = function(size)
      local clock = bench.limits().clock
      local mcore = require "mantichora" { nworkers = 2 }
      return function()
        collectgarbage()
        local start = clock()
        mcore:run(build, size)
        local list = select(2, mcore:receive_one())
        local seconds = clock() - start
        assert(#list == size and list[size] == size * 0.1)
        return seconds
      end, function() mcore:close() end
    end,
    build = function(size)
      local clock = bench.limits().clock
      return function()
        collectgarbage()
        local start = clock()
        local list = build(size)
        local seconds = clock() - start
        assert(#list == size)
        return seconds
      end
    end,
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size) },
      { "build", bench.ours("build", size), times = 3 },
      { "pool", bench.python("pool_floats", size) },
    }
  end,
  rows = function(size)
    local work = ("a table of %d floats as a result"):format(size)
    local function ours(f) return f.ours end
    return {
      { work = work, unit = "ms", ours = ours, against = "building it in Lua",
        theirs = function(f) return f.build end, target = { "<=", 2.5 },
        label = "a table of a million floats", side = "limit" },
      { work = work, unit = "ms", ours = ours, against = "mp.Pool.apply",
        theirs = function(f) return f.pool end, label = "a table of a million floats", side = "Python" },
    }
  end,
}
