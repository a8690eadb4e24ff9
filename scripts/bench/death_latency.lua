-- How long after a worker was killed does the pool's receive return?
--
--     lua5.4 scripts/bench/death_latency.lua [DEATHS]          (default: 200)
--
-- A shell kills the worker of a running task by SIGKILL after a random time and notes the clock right
-- before it. receive_one() waits meanwhile; when it returns it tells the shell, which looks at the
-- clock again. So what is printed has the way back to the shell in it, some tens of microseconds.

local mantichora = require "mantichora"

local deaths = tonumber(arg[1] or 200)
math.randomseed(1)

-- Reads `PID SECONDS`, kills, waits for a line, and prints the microseconds between.
local script = [[
while read -r pid seconds; do
  sleep "$seconds"
  start=${EPOCHREALTIME/./}
  kill -9 "$pid"
  read -r _
  echo $((${EPOCHREALTIME/./} - start))
done]]

local function sleeps() mantichora.sleep(60) end
local function spins() while true do end end
local function blocks() os.execute("sleep 60") end

local function one_death(mcore, task, tell)
  mcore:run(task)
  local pid
  repeat
    mcore:poll(0.001)
    for _, worker in ipairs(mcore:workers()) do pid = worker.runid and worker.pid or pid end
  until pid
  tell("%d %.4f\n", pid, math.random() * 0.03)
  local _, failure = mcore:receive_one(10)
  tell("received\n")
  assert(failure.kind == "killed" and failure.pid == pid, tostring(failure))
end

local function measure(options, task)
  local path = os.tmpname()
  local shell = assert(io.popen(("exec bash -c '%s' >%s"):format(script, path), "w"))
  do
    local mcore <close> = mantichora(options)
    for _ = 1, deaths do
      one_death(mcore, task, function(...) shell:write(string.format(...)) shell:flush() end)
    end
  end
  shell:close()
  local times = {}
  for line in io.lines(path) do times[#times + 1] = tonumber(line) / 1000 end
  os.remove(path)
  assert(#times == deaths)
  table.sort(times)
  return times
end

print(("%d deaths each; milliseconds          median      worst"):format(deaths))
for _, engine in ipairs { "fork", "snapshot" } do
  for name, task in pairs { sleeping = sleeps, ["busy in Lua"] = spins, ["in a blocking call"] = blocks } do
    local times = measure({ nworkers = 2, engine = engine, on_error = "return" }, task)
    print(("%-9s worker %-20s %8.2f   %8.2f"):format(engine, name, times[(#times + 1) // 2], times[#times]))
  end
end
