-- A storm: tasks of all kinds under MANTICHORA_CHAOS, deaths from outside on top, and at the end a
-- look at what is left. A program of its own, since it is about what a whole process leaves behind:
--
--     MANTICHORA_CHAOS=seed,rate lua5.4 spec/support/storm.lua TASKS [ENGINE [BACKGROUND]]
--
-- stdout gets the lines that tasks print, `line K of task RUNID.` stderr gets for each task a line
-- `ended RUNID HOW LEAST MOST`, the last two being how many lines it may have printed, and at the end
-- `fine: ` and some figures. Anything wrong is raised.

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
  return { retries = 50 }, square, { i }, { ok = function(value) return value == i * i end }
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
  dies = 4, unsendable = 10, slow = 2, cancelled = 6, nests = 2,
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
logging.basic_config { level = "WARNING", stream = function(line)
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

local function start(i)
  local kind = order[i % #order + 1]
  local options, f, arguments, good = kinds[kind](i)
  local runid = mcore:run_with(options, f, table.unpack(arguments))
  assert(runid == i, "a run ID was passed over")
  waiting[runid] = { kind = kind, good = good }
  if kind == "cancelled" then doomed[#doomed + 1] = runid end
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
  local check = task.good[how]
  if check then
    assert(check(...), ("a wrong result of task %d (%s): %s"):format(runid, task.kind, shown(value)))
  elseif how ~= "killed" or value.signal ~= nil and value.signal ~= 9 then
    error(("task %d (%s) ended as %s: %s"):format(runid, task.kind, how, shown(value)))
  end
  if how == "killed" and task.kind == "retried" then error("51 attempts were not enough") end
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
    waiting[runid].was = mcore:cancel(runid)
  end
end

local started = 0
while received < count do
  while started < count and started - received < 150 do
    start(started)
    started = started + 1
  end
  cancel_one()
  if received // 100 > strikes then strike() end
  receive_in_some_way()
end
assert(next(waiting) == nil)
assert(mcore:receive_one() == nil, "more tasks ended than were run")

mcore:close()
assert(#process.children() == 0, "a process is left")
assert(process.threads() == 1, "a thread is left")
assert(process.descriptors() == descriptors_before, "a descriptor is left")
assert(shared_maps() == maps_before, "shared memory is left")
local figures = {}
for how, n in pairs(ends) do figures[#figures + 1] = how .. " " .. n end
table.sort(figures)
io.stderr:write(("fine: %d tasks, %d strikes: %s\n"):format(received, strikes, table.concat(figures, ", ")))
