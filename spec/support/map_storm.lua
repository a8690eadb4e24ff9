-- Maps under MANTICHORA_CHAOS with listeners that come, go, raise, run and cancel: every item that is queued
-- has one end, in the pool's order, and what the map gives agrees with it. A program of its own:
--
--     MANTICHORA_CHAOS=seed,rate lua5.4 spec/support/map_storm.lua ROUNDS [ENGINE [BACKGROUND]]

local mantichora = require "mantichora"
local logging = require "mantichora.logging"
local process = require "spec.support.process"

local rounds, engine, background = tonumber(arg[1]), arg[2] or "fork", arg[3] ~= "false"
math.randomseed(tonumber((os.getenv("MANTICHORA_CHAOS") or "0"):match("^%d+")), 2)

local mcore = mantichora { nworkers = 3, engine = engine, background = background, on_error = "return" }
local wrong = {}
logging.basic_config { level = "WARNING", stream = function(line)
  if not line:find("storm's own$") then wrong[#wrong + 1] = line end
end }

local told, last = {}, {} -- by run ID: the end; what came last
local function listen()
  return mcore:on(function(event)
    local runid = event.runid
    if not runid then return end
    assert(not told[runid], "told after its end")
    if event.event == "queued" then
      assert(not last[runid] and runid == #last + (last[0] and 1 or 0), "queued in another order")
      last[runid] = { last = "queued", index = event.index, call = event.call, emitted = 0 }
      return
    end
    local item = last[runid]
    if event.event == "started" then
      assert(item.last == "queued", "started after it was " .. item.last)
    elseif event.event == "emitted" then
      assert(item.last == "started" or item.last == "emitted")
      item.emitted = item.emitted + 1
      assert(event.values[1] == item.emitted)
    else
      assert(event.event == "ended" and event.index == item.index and event.call == item.call)
      assert(event.kind ~= "ok" or item.last ~= "queued", "ended without having been started")
      -- Of a loop that was left nobody has the items any more.
      assert(not event.failure or event.kind == "cancelled" or not item.index or event.failure.item == item.index,
        "the item is not told")
      told[runid] = event.kind
    end
    item.last = event.event
  end)
end

local function f(x)
  if x % 97 == 0 then error("no " .. x) end
  if x % 31 == 0 then for i = 1, 3 do mantichora.emit(i) end end
  if x % 997 == 0 then mantichora.sleep(0.005) end
  return x
end

listen()
mcore:on(function() if math.random(100) == 1 then error("storm's own", 0) end end)
local extra, busy = 0, true
mcore:on(function(event)
  if not busy then return end
  if event.event == "ended" and math.random(200) == 1 then
    extra = extra + 1
    local runid = mcore:run(f, extra)
    if math.random(2) == 1 then mcore:cancel(runid) end
  end
  if event.event == "queued" and math.random(300) == 1 then mcore:cancel(event.runid) end
end)

local function check(value, x, first)
  local runid = first + x - 1
  if mantichora.is_failure(value) then
    assert(told[value.runid] == value.kind, ("%s was told as %s"):format(value.kind, tostring(told[value.runid])))
  else
    assert(value == x, ("%s of item %d, run ID %d"):format(tostring(value), x, runid))
  end
end

local list = {}
for x = 1, 400 do list[x] = x end
for round = 1, rounds do
  local stop = mcore:on(function() end)
  local way = round % 3
  if way == 0 then
    local values = mcore:map(f, list)
    for x = 1, values.n do check(values[x], x, 0) end
  elseif way == 1 then
    local leave = math.random(500)
    for x, value in mcore:imap(f, list) do
      check(value, x, 0)
      if x == leave then break end
    end
  else
    local x = 0
    for at, value in mcore:imap(f, function() x = x + 1 return x <= 300 and x or nil end, { ordered = false }) do
      check(value, at, 0)
    end
  end
  stop()
  local worker = round % 5 == 0 and mcore:workers()[1]
  if worker then os.execute("kill -9 " .. worker.pid .. " 2>/dev/null") end
end
busy = false
mcore:returns()
mcore:terminate()
assert(not wrong[1], wrong[1])
local count = 0
for runid in pairs(last) do
  count = count + 1
  assert(told[runid], ("run ID %d has no end"):format(runid))
end
local stats, sum = mcore:stats(), 0
for _, kind in ipairs { "ok", "error", "unsendable", "exited", "killed", "timeout", "cancelled" } do
  sum = sum + stats[kind]
end
assert(sum == count, ("%d ends counted, %d told"):format(sum, count))
assert(stats.queued == 0 and stats.running == 0 and stats.unreceived == 0)
mcore:close()
assert(#process.children() == 0, "a process is left")
io.stderr:write(("fine: %d items, %d failures, %d extra\n"):format(count, sum - stats.ok, extra))
