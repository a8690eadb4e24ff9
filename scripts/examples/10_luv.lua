-- Tasks in a libuv loop: its other handles go on while they run.
--
--     mantichora scripts/examples/10_luv.lua
--
-- A poll handle watches the pool's descriptor; a timer stands for what comes without it, the end of
-- a task's time, say. Needs luv (on Debian: lua-luv).

local uv = require "luv"
local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"

-- Call `ready(stop)` whenever there may be results; `stop()` ends that, before the pool is closed.
local function watch(pool, ready)
  local handle, timer = uv.new_poll(pool:pollfd()), uv.new_timer()
  local function stop()
    handle:close()
    timer:close()
  end
  local function step()
    pool:poll()
    ready(stop)
    if handle:is_closing() then return end
    local seconds = pool:timeout()
    if seconds then timer:start(math.ceil(seconds * 1000), 0, step) else timer:stop() end
  end
  handle:start("r", step)
  step()
end

local function task_loop(name, ret)
  local n = math.random(1000, 3000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  return ret
end

local mcore <close> = mantichora { nworkers = 3 }
local results, received, beats, heart = {}, 0, 0, uv.new_timer()

for i = 1, 6 do
  mcore:run(task_loop, "task" .. i, "result" .. i)
end

watch(mcore, function(stop)
  for _, entry in ipairs(mcore:receive_finished()) do
    results[entry[1] + 1] = entry[2]
    received = received + 1
    if received == 6 then
      stop()
      heart:close()
    end
  end
end)

heart:start(20, 20, function() beats = beats + 1 end)

uv.run()
print(table.concat(results, ", "))
print(beats > 5 and "the loop was free meanwhile" or "the loop was blocked")
