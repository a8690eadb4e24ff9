-- Reads a trace, and checks what holds for each.

local cjson = require "cjson"

local trace = {}

--- The events of the file, which is whole JSON; nil and why not.
function trace.read(path)
  local file <close> = io.open(path, "rb")
  if not file then return nil, "no file" end
  local text = file:read("a")
  local fine, events = pcall(cjson.decode, text)
  if not fine then return nil, events .. " in:\n" .. text:sub(-400) end
  return events
end

-- In nanoseconds, in which they are exact.
local function nanoseconds(microseconds) return math.tointeger(math.floor(microseconds * 1000 + 0.5)) end

local function check_box(event, picture)
  local args = event.args
  assert(math.type(args.runid) == "float" and args.attempt >= 1 and type(args.name) == "string" and args.kind, "fields")
  local thread = event.pid .. ":" .. event.tid
  picture.kinds[args.kind] = (picture.kinds[args.kind] or 0) + 1
  picture.boxes[#picture.boxes + 1] = event
  picture.seconds = picture.seconds + event.dur / 1e6
  local list = picture.threads[thread] or {}
  picture.threads[thread] = list
  list[#list + 1] = { from = nanoseconds(event.ts), to = nanoseconds(event.ts) + nanoseconds(event.dur) }
end

local function check_overlap(threads, names)
  for thread, list in pairs(threads) do
    assert(names[thread], "no name of thread " .. thread)
    table.sort(list, function(a, b) return a.from < b.from end)
    for i = 2, #list do
      assert(list[i].from >= list[i - 1].to, ("boxes %d and %d of thread %s overlap"):format(i - 1, i, thread))
    end
  end
end

--- What is in a list of events. Raises where boxes of a thread overlap, or something lacks its fields.
-- @return table: `boxes` (events X), `kinds` (how many by kind), `seconds` (their sum), `deaths` (events i),
-- `names` (of threads, by "pid:tid"), `processes` (names by pid), `counters` (lists of args by name)
function trace.check(events)
  local picture = {
    boxes = {}, kinds = {}, seconds = 0, deaths = {}, names = {}, processes = {}, counters = {}, threads = {},
  }
  for _, event in ipairs(events) do
    assert(event.pid and event.ph and event.ts, "an event without its fields")
    if event.ph == "X" then
      check_box(event, picture)
    elseif event.ph == "i" then
      picture.deaths[#picture.deaths + 1] = event
    elseif event.ph == "C" then
      local list = picture.counters[event.name] or {}
      picture.counters[event.name] = list
      list[#list + 1] = event.args
    elseif event.name == "thread_name" then
      picture.names[event.pid .. ":" .. event.tid] = event.args.name
    elseif event.name == "process_name" then
      picture.processes[event.pid] = event.args.name
    end
  end
  check_overlap(picture.threads, picture.names)
  for _, event in ipairs(picture.boxes) do assert(picture.processes[event.pid], "no name of a process") end
  return picture
end

return trace
