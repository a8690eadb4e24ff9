-- A storm: tasks of all kinds under MANTICHORA_CHAOS, deaths from outside on top, and at the end a
-- look at what is left. A program of its own, since it is about what a whole process leaves behind:
--
--     MANTICHORA_CHAOS=seed,rate lua5.4 spec/support/storm.lua TASKS [ENGINE [BACKGROUND]]
--
-- stdout gets the lines that tasks print, `line K of task RUNID.` stderr gets for each task a line
-- `ended RUNID HOW LEAST MOST`, the last two being how many lines it may have printed, and at the end
-- `fine: ` and some figures. Anything wrong is raised.

-- A task that emits is killed in nine of ten attempts where one call in five ends its worker: it is to
-- end well all the same in every one of the many runs of this.
local RETRIES <const> = 400

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
local logging = require "mantichora.logging"
local process = require "spec.support.process"

local count = tonumber(arg[1])
local engine = arg[2] or "fork"
local background = arg[3] ~= "false"

local kinds = {}

-- Each makes a task of its kind: options, function, arguments; and tells how it may end besides
-- being killed, with a check of what it returned.

local function square(x) return x * x end

function kinds.quick(i)
  return nil, square, { i }, { ok = function(value) return value == i * i end }
end

function kinds.retried(i)
  return { retries = RETRIES }, square, { i }, { ok = function(value) return value == i * i end }
end

function kinds.prints(i)
  return nil, function(n)
    print(("line %d of task %d."):format(1, n))
    io.write(("line %d of task %d."):format(2, n))
    return n
  end, { i }, { ok = function(value) return value == i end }
end

function kinds.logs(i)
  return nil, function(n)
    logging.warning("first of %d", n)
    logging.warning("second of %d", n)
    return n
  end, { i }, { ok = function(value) return value == i end }
end

function kinds.bars(i)
  return nil, function(n)
    local sum = 0
    for k in atpbar(n % 50, "bar " .. n) do sum = sum + k end
    return sum
  end, { i }, { ok = function(value) local n = i % 50 return value == n * (n + 1) // 2 end }
end

function kinds.large(i)
  local text = ("%d "):format(i):rep(i % 100 == 0 and 300000 or 20000)
  return nil, function(s) return s:upper(), #s end, { text },
    { ok = function(value, length) return value == text and length == #text end }
end

function kinds.raises(i)
  return nil, function(n) error({ number = n }) end, { i },
    { error = function(failure) return failure.value.number == i end }
end

function kinds.exits(i)
  return nil, function(n) os.exit(n % 256) end, { i },
    { exited = function(failure) return failure.exitcode == i % 256 end }
end

function kinds.dies(i)
  return nil, function() os.execute("kill -9 $PPID") mantichora.sleep(60) end, { i },
    { killed = function(failure) return failure.signal == 9 end }
end

function kinds.unsendable()
  return nil, function() return coroutine.create(print) end, {},
    { unsendable = function(failure) return failure.message:find("coroutine") end }
end

function kinds.slow()
  return { timeout = 0.05 }, function() while true do end end, {},
    { timeout = function(failure) return failure.elapsed < 10 end }
end

function kinds.cancelled(i)
  return nil, function(n)
    print(("line 1 of task %d."):format(n))
    mantichora.sleep(60)
  end, { i }, { cancelled = function() return true end }
end

function kinds.emits(i)
  return { retries = RETRIES }, function(n)
    for k = 1, 5 do mantichora.emit(k, n) end
    return n
  end, { i }, { ok = function(value) return value == i end }
end

function kinds.nests(i)
  return nil, function(n)
    local inner <close> = mantichora { nworkers = 2, background = n % 2 == 0, on_error = "return" }
    for k = 1, 4 do inner:run_with({ retries = 1000 }, function(x) return x + n end, k) end
    local sum = 0
    for _, value in inner:as_completed() do sum = sum + value end
    return sum
  end, { i }, { ok = function(value) return value == 10 + 4 * i end }
end

-- How often each kind comes: the quick ones most.
local order = {}
for kind, share in pairs {
  quick = 260, retried = 60, prints = 60, logs = 60, bars = 40, large = 12, raises = 20, exits = 6,
  dies = 4, unsendable = 10, slow = 2, cancelled = 6, nests = 2, emits = 20,
} do
  for _ = 1, share do order[#order + 1] = kind end
end
table.sort(order)
local seed = (os.getenv("MANTICHORA_CHAOS") or ""):match("^%d+")
math.randomseed(tonumber(seed or 0), 1)
for i = #order, 2, -1 do
  local j = math.random(i)
  order[i], order[j] = order[j], order[i]
end

-- What is seen

local logged = {}
local complaints = 0
logging.basic_config { level = "WARNING", stream = function(line)
  if line:find("^ERROR:mantichora:a listener failed: .*storm's own$") then
    complaints = complaints + 1
    return
  end
  local which, i = line:match("^WARNING:root:(%a+) of (%d+)$")
  assert(which, "a torn log line: " .. line)
  local lines = logged[tonumber(i)] or {}
  logged[tonumber(i)] = lines
  lines[#lines + 1] = which
end }

local function shared_maps()
  local maps = 0
  for line in io.lines("/proc/self/maps") do
    if line:find(" rw%-s ") then maps = maps + 1 end
  end
  return maps
end

local maps_before, descriptors_before = shared_maps(), process.descriptors()
local mcore = mantichora { nworkers = 4, engine = engine, background = background, on_error = "return" }

local ends = {}     -- by kind of end
local waiting = {}  -- by run ID: what may come
local doomed = {}   -- run IDs that are to be cancelled
local received = 0
local started = 0

local function start()
  local i = started
  started = started + 1 -- a listener may start the next one before this returns
  local kind = order[i % #order + 1]
  local options, f, arguments, good = kinds[kind](i)
  local runid = mcore:run_with(options, f, table.unpack(arguments))
  assert(runid == i, "a run ID was passed over")
  waiting[runid] = { kind = kind, good = good }
  if kind == "cancelled" then doomed[#doomed + 1] = runid end
end

-- What is told of the tasks

local told = {} -- by run ID: what came last, how it ended, what it emitted

-- The whole story, from the first task on.
mcore:on(function(event)
  local runid = event.runid
  if not runid then return end
  local task = told[runid]
  if event.event == "queued" then
    assert(not task, "queued twice")
    told[runid] = { last = "queued", retried = 0, emitted = {} }
    return
  end
  assert(task, "not queued: " .. event.event)
  assert(not task.kind, "told after its end: " .. event.event)
  if event.event == "started" then
    assert(task.last == "queued" or task.last == "retried", "started after it was " .. task.last)
    assert(event.attempt == task.retried + 1, "an attempt was passed over")
    task.emitted = {}
  elseif event.event == "emitted" then
    assert(task.last == "started" or task.last == "emitted", "emitted after it was " .. task.last)
    assert(event.values.n == 2 and event.values[1] == #task.emitted + 1 and event.values[2] == runid)
    task.emitted[#task.emitted + 1] = event.values[1]
  elseif event.event == "retried" then
    task.retried = task.retried + 1
    assert(event.attempt == task.retried, "another attempt is tried again")
  else
    assert(event.event == "ended")
    task.kind = event.kind
    assert((event.kind == "ok") == (event.failure == nil))
    assert(not event.failure or event.failure.kind == event.kind and event.failure.runid == runid)
    assert(event.kind ~= "ok" or task.last ~= "queued", "ended without having been started")
  end
  task.last = event.event
end)

-- One that raises, one that runs and cancels.
local raised = 0
mcore:on(function()
  if math.random(50) == 1 then
    raised = raised + 1
    error("storm's own", 0)
  end
end)

local busy = true
mcore:on(function(event)
  if not busy or event.event ~= "ended" then return end
  if math.random(4) == 1 and started < count and started - received < 150 then start() end
  local runid = math.random(20) == 1 and table.remove(doomed)
  if runid and waiting[runid] then waiting[runid].was = waiting[runid].was or mcore:cancel(runid) end
end)

-- Some that come late and go early: what they see begin, they see end.
local visitors = {}
local function visit()
  local open, seen = {}, {}
  local stop = mcore:on(function(event)
    if event.event == "queued" then open[event.runid] = true end
    if event.event ~= "ended" then return end
    assert(not seen[event.runid], "ended twice for a visitor")
    seen[event.runid], open[event.runid] = true, nil
  end)
  visitors[#visitors + 1] = { open = open, stop = stop }
end

local function shown(value)
  return tostring(value):sub(1, 1000)
end

local function is_failure(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__name == "mantichora failure"
end

local function receive(runid, ...)
  local value = ...
  local task = waiting[runid]
  assert(task, "a task ended twice: " .. tostring(runid))
  waiting[runid] = nil
  received = received + 1
  local how = is_failure(value) and value.kind or "ok"
  ends[how] = (ends[how] or 0) + 1
  assert(told[runid] and told[runid].kind == how, ("task %d ended as %s, it was told: %s"):format(runid, how,
    tostring(told[runid] and told[runid].kind)))
  if task.kind == "emits" and how == "ok" then assert(#told[runid].emitted == 5, "emitted values are missing") end
  local check = task.good[how]
  if check then
    assert(check(...), ("a wrong result of task %d (%s): %s"):format(runid, task.kind, shown(value)))
  elseif how ~= "killed" or value.signal ~= nil and value.signal ~= 9 then
    error(("task %d (%s) ended as %s: %s"):format(runid, task.kind, how, shown(value)))
  end
  if how == "killed" and (task.kind == "retried" or task.kind == "emits") then
    error(RETRIES + 1 .. " attempts were not enough")
  end
  if task.kind == "logs" and how == "ok" then
    local lines = table.concat(logged[runid] or {}, " ")
    assert(lines == "first second", ("task %d has logged: %s"):format(runid, lines))
  end
  local most = task.kind == "prints" and 2 or task.kind == "cancelled" and 1 or 0
  local least = how == "ok" and most or 0
  if task.was == "queued" then most = 0 end
  io.stderr:write(("ended %d %s %d %d\n"):format(runid, how, least, most))
end

local function receive_in_some_way()
  local function take(runid, ...)
    if runid then receive(runid, ...) end
  end
  local way = math.random(4)
  if way == 1 then
    for _, entry in ipairs(mcore:receive_finished()) do receive(table.unpack(entry, 1, entry.n)) end
  elseif way == 2 then
    mcore:poll(0)
  elseif way == 3 then
    take(mcore:receive_one(0.001))
  else
    take(mcore:receive_one(30))
  end
end

-- Deaths that come from outside, at any moment.
local strikes = 0
local function strike()
  local workers = mcore:workers()
  if #workers == 0 then return end
  strikes = strikes + 1
  os.execute("kill -9 " .. workers[math.random(#workers)].pid .. " 2>/dev/null")
end

local function cancel_one()
  local runid = table.remove(doomed)
  if runid and waiting[runid] then
    waiting[runid].was = waiting[runid].was or mcore:cancel(runid)
  end
end

while received < count do
  while started < count and started - received < 150 do start() end
  if math.random(30) == 1 then visit() end
  if math.random(60) == 1 and visitors[1] then table.remove(visitors, math.random(#visitors)).stop() end
  cancel_one()
  if received // 100 > strikes then strike() end
  receive_in_some_way()
end
assert(next(waiting) == nil)
assert(mcore:receive_one() == nil, "more tasks ended than were run")
for _, visitor in ipairs(visitors) do assert(next(visitor.open) == nil, "a visitor has missed an end") end
for runid = 0, count - 1 do assert(told[runid].kind, "an end was not told") end
local stats, counted = mcore:stats(), 0
for how, n in pairs(ends) do
  assert(stats[how] == n, ("stats count %d as %s"):format(stats[how], how))
  counted = counted + n
end
assert(counted == count and stats.queued == 0 and stats.running == 0 and stats.unreceived == 0)
assert(raised == complaints, "errors of listeners are not logged")

mcore:close()
assert(#process.children() == 0, "a process is left")
assert(process.threads() == 1, "a thread is left")
assert(process.descriptors() == descriptors_before, "a descriptor is left")
assert(shared_maps() == maps_before, "shared memory is left")
local figures = {}
for how, n in pairs(ends) do figures[#figures + 1] = how .. " " .. n end
table.sort(figures)
io.stderr:write(("fine: %d tasks, %d strikes: %s\n"):format(received, strikes, table.concat(figures, ", ")))
