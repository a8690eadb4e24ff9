-- Pools that halt, while MANTICHORA_CHAOS kills workers, delays, tears and reorders. A program of its own:
--
--     MANTICHORA_CHAOS=seed,rate lua5.4 spec/support/halting.lua ENGINE
--
-- Each task writes its run ID to a file when it begins. Says "fine"; anything wrong is raised.

local mantichora = require "mantichora"

local engine = arg[1]
local tasks = engine == "fork" and 400 or 100
local path = os.tmpname()

math.randomseed(tonumber((os.getenv("MANTICHORA_CHAOS") or "0"):match("^%d+")), 2)

local function begun()
  local set, count = {}, 0
  for line in io.lines(path) do
    if not set[line] then set[line], count = true, count + 1 end
  end
  return set, count
end

local function task(id, fails)
  local file <close> = assert(io.open(path, "a"))
  file:write(id, "\n")
  file:flush()
  if fails then error("no") end
  return id
end

-- Receive one by one: each ends once; when the cause comes, at most those that run begin yet.
local function check_runs(how, fail, nworkers)
  io.open(path, "w"):close()
  local pool <close> = mantichora { nworkers = nworkers, engine = engine, halt = { how, fail = fail },
    on_error = "return", background = math.random(2) == 1 }
  for i = 0, tasks - 1 do pool:run(task, i, math.random(8) == 1) end
  local ended, at_cause, cause = {}, nil, nil
  for runid, value in pool:as_completed() do
    assert(not ended[runid], "ended twice")
    local kind = type(value) == "table" and value.kind or "ok"
    ended[runid] = kind
    assert(kind ~= "ok" or value == runid)
    if kind == "cancelled" then
      assert(cause and value.cause.runid == cause, "cancelled without a cause")
    elseif kind ~= "ok" and not cause then
      fail = fail - 1
      if fail == 0 then
        cause = runid
        at_cause = select(2, begun())
      end
    end
  end
  for i = 0, tasks - 1 do assert(ended[i], "not ended: " .. i) end
  local set, at_end = begun()
  if not cause then return end
  assert(at_end - at_cause < nworkers, ("%d have begun after the end"):format(at_end - at_cause))
  if how == "now" then return end
  for runid, kind in pairs(ended) do
    assert(kind ~= "cancelled" or not set[tostring(runid)], "began and was cancelled: " .. runid)
    assert(kind == "cancelled" or kind == "killed" or set[tostring(runid)], "never began: " .. runid)
  end
end

-- The same for the items of a map, which travel in batches.
local function check_map(how, fail, nworkers)
  io.open(path, "w"):close()
  local pool <close> = mantichora { nworkers = nworkers, engine = engine, on_error = "return" }
  local items, bad = {}, {}
  for i = 1, tasks do items[i], bad[i] = i, math.random(40) == 1 end
  local values = pool:map(function(i) return task(i, bad[i]) end, items, { halt = { how, fail = fail } })
  assert(values.n == tasks)
  local set, at_end = begun()
  local failed, cancelled = 0, 0
  for i = 1, tasks do
    local kind = type(values[i]) == "table" and values[i].kind or "ok"
    if kind == "cancelled" then
      cancelled = cancelled + 1
      assert(how == "now" or not set[tostring(i)], "began and was cancelled: " .. i)
    elseif kind ~= "ok" then
      failed = failed + 1
    end
  end
  assert(cancelled == 0 or failed >= fail and failed < fail + nworkers + 1, failed .. " have failed")
  -- With "now", items whose answers a killed worker took along end as cancelled though they had run.
  assert(how == "now" or at_end <= tasks - cancelled, "more have begun than ended by themselves")
end

for _, how in ipairs { "soon", "now" } do
  for _, fail in ipairs { 1, 5 } do
    for _, nworkers in ipairs { 1, 3 } do
      check_runs(how, fail, nworkers)
      check_map(how, fail, nworkers)
    end
  end
end
os.remove(path)
print("fine")
