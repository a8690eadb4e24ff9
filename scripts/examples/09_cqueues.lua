-- Tasks in a cqueues loop: other coroutines of the loop go on while they run.
--
--     mantichora scripts/examples/09_cqueues.lua
--
-- A pool can be polled like a socket: it has the methods pollfd, events and timeout. Needs cqueues
-- (on Debian: lua-cqueues).

local cqueues = require "cqueues"
local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"

local function task_loop(name, ret)
  local n = math.random(1000, 3000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  return ret
end

local mcore <close> = mantichora { nworkers = 3 }
local loop = cqueues.new()
local results, beats, received = {}, 0, 0

for i = 1, 6 do
  mcore:run(task_loop, "task" .. i, "result" .. i)
end

loop:wrap(function() -- receives
  while received < 6 do
    cqueues.poll(mcore) -- sleeps; other coroutines run
    mcore:poll()
    for _, entry in ipairs(mcore:receive_finished()) do
      results[entry[1] + 1] = entry[2]
      received = received + 1
    end
  end
end)

loop:wrap(function() -- does something else
  while received < 6 do
    cqueues.sleep(0.02)
    beats = beats + 1
  end
end)

assert(loop:loop())
print(table.concat(results, ", "))
print(beats > 5 and "the loop was free meanwhile" or "the loop was blocked")
