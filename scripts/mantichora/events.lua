--- @submodule mantichora

-- What happens to the tasks and workers of a pool, told to functions of the script. Loaded by pool.lua with the
-- core and with what makes a failure; returns what adds a listener, and what it is to know of maps.

--- What `pool:on` tells. Besides these fields there are `time` (seconds since 1970) and `clock` (seconds of a clock
-- that nobody sets); what is not known is nil.
-- @table event
-- @field event `"queued"`: a task was accepted. `"started"`: a worker began it. `"emitted"`: it handed over values by
-- `mantichora.emit`. `"retried"`: an attempt failed, and another follows. `"ended"`: once for each task.
-- `"worker_started"`, `"worker_ended"`.
-- @field runid the task's run ID
-- @field name what `run_with` called it (queued, ended)
-- @field priority (queued)
-- @field place where its function is defined, as `<file:line>` (queued)
-- @field index number of its item in a `map` or `imap` (queued, ended)
-- @field call which `map` or `imap` of the pool that is, from 1 (queued, ended)
-- @field attempt from 1 (started, emitted, retried, ended)
-- @field values a `table.pack` of what was emitted
-- @field kind `"ok"`, or that of the failure (retried, ended)
-- @field failure the `failure` that a call which receives it gives (ended; retried)
-- @field waited seconds from `queued` to the start of the last attempt (ended)
-- @field elapsed seconds that it ran (ended)
-- @field cpu seconds of processor time of its worker meanwhile (ended)
-- @field maxrss bytes that its worker used at most so far (ended)
-- @field sent bytes of its message (ended)
-- @field received bytes of its answer (ended)
-- @field exitcode of kind `"exited"` (ended)
-- @field signal of kind `"killed"` (ended)
-- @field pid of the worker (started, ended, and those of workers)
-- @field slot of the worker (likewise), as `pool:workers` has it
-- @field why `"closed"`: the pool ends. `"replaced"`: it did its share. `"exited"`: its task ended it. `"killed"`
-- (worker_ended)

local core, tools = ...

local error, ipairs, next, pcall, setmetatable, type = error, ipairs, next, pcall, setmetatable, type
local move, remove = table.move, table.remove

-- By pool: its listeners in their order, each { f = function, since = number of the last event before it }.
local listeners_of = setmetatable({}, { __mode = "k" })

-- By pool: the maps that are there, by their numbers.
local maps_of = setmetatable({}, { __mode = "k" })

-- By pool and number of the map: how many of its items were told as queued and not as ended, and the map, which has
-- them: nobody else may hold it any more when they end, as when its loop was left.
local outstanding_of = setmetatable({}, { __mode = "k" })

-- The error of Ctrl-C and that of a task's stop go on their way. The latter may have become another value: it
-- shows in the count of stops.
local function is_stop(problem, stops)
  return core.stops() ~= stops or type(problem) == "string" and problem:find("interrupted!", -12, true) ~= nil
end

local function copy(event)
  local copied = {}
  for name, value in next, event do copied[name] = value end
  return copied
end

local function complain(pool, problem)
  core.logging().get("mantichora"):error("%sa listener failed: %s", tools.in_pool(pool), core.text(problem))
end

local function hold(pool, event)
  local outstanding = outstanding_of[pool] or {}
  local of_map = outstanding[event.call]
  outstanding_of[pool] = outstanding
  if event.event == "queued" then
    of_map = of_map or { count = 0, map = maps_of[pool] and maps_of[pool][event.call] }
    of_map.count = of_map.count + 1
    outstanding[event.call] = of_map
  elseif event.event == "ended" and of_map then
    of_map.count = of_map.count - 1
    if of_map.count == 0 then outstanding[event.call] = nil end
  end
end

-- Called by the core: each listener that was there when it happened gets a table of its own.
core.set_teller(function(pool, event, number)
  local stop
  if event.failure then
    local map = event.call and maps_of[pool] and maps_of[pool][event.call]
    event.failure = tools.new_failure(pool, event.failure)
    if map then event.failure.item = map:item(event.index) end
  end
  if event.call then hold(pool, event) end
  if event.lost then
    core.logging().get("mantichora"):error("%svalues that task %d has emitted are lost: %s", tools.in_pool(pool),
      event.runid, core.text(event.lost))
    return
  end
  local listeners = listeners_of[pool] or {}
  for _, listener in ipairs(move(listeners, 1, #listeners, 1, {})) do
    if listener.f and listener.since < number then
      local stops = core.stops()
      local fine, problem = pcall(listener.f, copy(event))
      if not fine and is_stop(problem, stops) then
        stop = { problem }
      elseif not fine then
        complain(pool, problem)
      end
    end
  end
  if stop then error(stop[1], 0) end
end)

local events = {}

-- A map or imap begins, this is its number.
function events.note_map(pool, call, map)
  maps_of[pool] = maps_of[pool] or setmetatable({}, { __mode = "v" })
  maps_of[pool][call] = map
end

-- Call f with each event of the pool from now on; returns what ends that.
function events.listen(pool, f)
  local listeners = listeners_of[pool] or {}
  local listener = { f = f, since = core.last_event(pool) }
  core.listen(pool, true)
  listeners_of[pool] = listeners
  listeners[#listeners + 1] = listener
  return function()
    if not listener.f then return end
    listener.f = nil
    for at, other in ipairs(listeners) do
      if other == listener then remove(listeners, at) break end
    end
    if not listeners[1] and not core.problem(pool) then core.listen(pool, false) end
  end
end

return events
