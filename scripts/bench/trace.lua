-- What a trace costs: tasks that compute for a millisecond by two workers, with MANTICHORA_TRACE and without,
-- in turns.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

-- The same amount of work whatever the machine's load is.
local function compute(steps)
  local x = 0
  for i = 1, steps do x = x ~ i * 3 end
  return x
end

-- How many steps take a millisecond here.
local function calibrate(clock)
  local steps, fastest = 20000, math.huge
  for _ = 1, 50 do
    local start = clock()
    compute(steps)
    fastest = math.min(fastest, clock() - start)
  end
  return math.ceil(steps * 1e-3 / fastest)
end

local function tasks(size)
  local clock = bench.limits().clock
  local steps = calibrate(clock)
  local mcore = require "mantichora" { nworkers = 2 }
  return function()
    local start = clock()
    for _ = 1, size do mcore:run(compute, steps) end
    mcore:returns()
    return (clock() - start) / (steps * size)  * 1e6 -- for a million steps: each has calibrated by itself
  end, function()
    mcore:close()
    os.remove(os.getenv("MANTICHORA_TRACE") or "")
  end
end

-- The command with a trace in a file of its own.
local function traced(words)
  local with = { "env", "MANTICHORA_TRACE=" .. os.tmpname(), ours = words.ours }
  return table.move(words, 1, #words, #with + 1, with)
end

return bench.main {
  name = "trace", size = 1000, quick = 20, rounds = 15,
  ours = { plain = tasks, traced = tasks },
  programs = function(size)
    return { { "plain", bench.ours("plain", size) }, { "traced", traced(bench.ours("traced", size)) } }
  end,
  rows = function(size)
    return {
      { work = ("%d tasks of 1 ms with a trace"):format(size), unit = "ms",
        ours = function(f) return f.traced end, against = "without one",
        theirs = function(f) return f.plain end, target = { "<=", 1.05 } },
    }
  end,
}
