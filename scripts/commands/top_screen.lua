-- mantichora top in a terminal: what the script does, drawn from the model, and the keys.
--
-- run(connection, given): a connection of mantichora.commands.socket; `given.once`: one picture, as plain lines;
-- `given.why_refused()`: a sentence, if it closes before it has said anything. The exit status.

local screen = require "mantichora.commands.screen"
local top_model = require "commands.top_model"

local fit, cells = screen.fit, screen.cells

local frame = 0.25 -- seconds between two pictures
local silence = 3 -- seconds after which it is told

-- ---------------------------------------------------------------------------------------------------------
-- Numbers as text

local function clock_text(seconds)
  if not seconds or seconds < 0 then return "-" end
  seconds = math.floor(seconds)
  if seconds < 3600 then return ("%02d:%02d"):format(seconds // 60, seconds % 60) end
  return ("%d:%02d:%02d"):format(seconds // 3600, seconds // 60 % 60, seconds % 60)
end

local function bytes_text(bytes)
  if not bytes then return "-" end
  local units, at, size = { "B", "KiB", "MiB", "GiB", "TiB" }, 1, bytes
  while size >= 1000 and at < #units do size, at = size / 1024, at + 1 end
  return (at == 1 and "%d %s" or size < 10 and "%.2f %s" or size < 100 and "%.1f %s" or "%.0f %s"):format(
    at == 1 and bytes or size, units[at])
end

local function share_text(share) return share and ("%.0f%%"):format(share * 100) or "-" end

local function rate_text(rate)
  if rate >= 1 or rate <= 0 then return ("%.1f/s"):format(rate) end
  if rate * 60 >= 1 then return ("%.1f/min"):format(rate * 60) end
  return ("%.1f/h"):format(rate * 3600)
end

local function time_text(seconds)
  return seconds and os.date("%H:%M:%S", math.floor(seconds)) or "--:--:--"
end

-- ---------------------------------------------------------------------------------------------------------
-- The parts of a picture: lists of lines, each { text, style, key }: `key` of what can be chosen

local function what_runs(worker)
  local name = worker.name or worker.place or ""
  if worker.index then name = ("item %d %s"):format(worker.index, name) end
  local attempt = (worker.attempt or 1) > 1 and (" (attempt %d)"):format(worker.attempt) or ""
  return ("task %d %s%s"):format(worker.runid, name, attempt)
end

-- What there is room for, and the state that stands at its right.
local function headline(view, columns)
  local model, hello = view.model, view.model.hello or {}
  local now = model:now(view.now)
  local since
  for _, pool in ipairs(model:pool_list()) do
    if pool.since and (not since or pool.since < since) then since = pool.since end
  end
  local script = hello.script or "a script"
  local parts = { ("%s (PID %s)"):format(script:match("[^/]+$") or script, hello.pid or view.given.pid or "?") }
  if since then parts[#parts + 1] = clock_text(now - since) end
  local stats = model.stats
  if stats then
    parts[#parts + 1] = ("CPU %s + %s"):format(share_text(stats.cpu), share_text(stats.workers_cpu))
    parts[#parts + 1] = ("memory %s + %s"):format(bytes_text(stats.rss), bytes_text(stats.workers_rss))
  end
  local state
  if model.gone then
    state = model.ended and "the script has ended" or "the script has gone: it was killed, or crashed"
  elseif view.now - (model.heard or view.now) >= silence then
    state = ("silent for %d s"):format(math.floor(view.now - model.heard))
  elseif model.paused then
    state = "paused"
  end
  local text, room = parts[1], columns - (state and cells(state) + 2 or 0)
  for i = 2, #parts do
    local more = text .. "   " .. parts[i]
    if cells(more) > room then break end
    text = more
  end
  return text, state
end

local narrow = 60 -- columns: with fewer, tables show less of what can be done without

-- The parts of one line, on as many as they need: what follows the first is set in.
local function fold(parts, columns, lines)
  local line = parts[1]
  for i = 2, #parts do
    if cells(line) + cells(parts[i]) + 3 > columns then
      lines[#lines + 1] = { line .. "," }
      line = "  " .. parts[i]
    else
      line = line .. ", " .. parts[i]
    end
  end
  lines[#lines + 1] = { line }
end

local function pool_lines(view, columns)
  local lines = {}
  for _, pool in ipairs(view.model:pool_list()) do
    local tick = pool.tick
    local head = pool.name and ('pool %d "%s":'):format(pool.number, pool.name) or ("pool %d:"):format(pool.number)
    local parts = { pool.closed and head .. " closed"
      or ("%s %s %s"):format(head, pool.nworkers or "?", pool.nworkers == 1 and "worker" or "workers"),
      ("%d running"):format(tick.running or 0), ("%d queued"):format((tick.queued or 0) + (tick.coming or 0)),
      ("%d ok"):format(tick.ok or 0) }
    for _, kind in ipairs(top_model.kinds) do
      if kind ~= "ok" and (tick[kind] or 0) > 0 then parts[#parts + 1] = ("%d %s"):format(tick[kind], kind) end
    end
    if (tick.retried or 0) > 0 then parts[#parts + 1] = ("%d retried"):format(tick.retried) end
    if (tick.found or 0) > 0 then parts[#parts + 1] = ("%d found"):format(tick.found) end
    local rate, left = view.model:rate(pool)
    if rate and not view.model.gone then
      parts[#parts + 1] = rate_text(rate) .. (left and ", ETA " .. clock_text(left) or "")
    end
    fold(parts, columns, lines)
  end
  return lines
end

local function worker_lines(view, columns)
  local lines, workers, has_host = {}, view.model:worker_list(), false
  local now, several = view.model:now(view.now), #view.model:pool_list() > 1
  for _, worker in ipairs(workers) do has_host = has_host or worker.host ~= nil end
  local function line(slot, pid, host, seconds, cpu, memory, task)
    local place = has_host and fit(host or "", columns < narrow and 6 or 12, true) .. " " or ""
    if columns < narrow then return ("%5s %s%7s %5s  %s"):format(slot, place, seconds, cpu, task) end
    return ("%5s %8s %s%9s %5s %9s  %s"):format(slot, pid, place, seconds, cpu, memory, task)
  end
  lines[1] = { fit(line("SLOT", "PID", "HOST", "SECONDS", "CPU", "MEMORY", "TASK"), columns), "head" }
  for _, worker in ipairs(workers) do
    lines[#lines + 1] = {
      line(several and worker.pool .. "/" .. worker.slot or worker.slot, worker.pid, worker.host or "here",
        worker.runid and worker.since and ("%.1f"):format(math.max(0, now - worker.since)) or "",
        share_text(worker.cpu), bytes_text(worker.rss or worker.maxrss), worker.runid and what_runs(worker) or "-"),
      nil, ("w%d/%d"):format(worker.pool, worker.slot), worker }
  end
  return lines
end

-- As the script itself draws them, with its rate if there is room behind its name.
local function bar_line(bar, columns, now)
  local width = math.max(8, math.min(40, columns // 4))
  local done, total = bar.done or 0, bar.total
  local share = total and (total > 0 and math.min(1, done / total) or 1)
  local field = ((":"):rep(math.floor((share or 0) * width + 1e-9)) .. (" "):rep(width)):sub(1, width)
  local counts = total and ("%8d / %8d"):format(done, total) or ("%8d %10s"):format(done, "")
  local state = bar.state ~= "running" and bar.state ~= "finished" and (" (%s)"):format(bar.state) or ""
  local moves = bar.state == "running" and (bar.rate or 0) > 0 and now - (bar.clock or now) < 3 + 3 / bar.rate
  local rate = moves and "  " .. rate_text(bar.rate) or "" -- one that stands still is not told of
  local line = (" %s %s"):format(share and ("%6.2f%%"):format(share * 100) or "       ", field)
    .. (columns < narrow and "" or " | " .. counts) .. " |:  "
  line = line .. (bar.name or "") .. state
  return cells(line) + cells(rate) <= columns and line .. rate or line
end

local function bar_lines(view, columns)
  local lines, now = {}, view.model:now(view.now)
  for _, bar in ipairs(view.model:bar_list()) do lines[#lines + 1] = { bar_line(bar, columns, now) } end
  if not lines[1] and view.model.gone then
    for _, bar in ipairs(view.model.ended_bars) do lines[#lines + 1] = { bar_line(bar, columns, now) } end
  end
  return lines
end

local function failure_name(failure)
  local name = failure.name or failure.place or ""
  if failure.index then name = ("item %d %s"):format(failure.index, name) end
  return ("task %d %s"):format(failure.runid or 0, name)
end

-- The last one first.
local function failure_lines(view)
  local model, lines = view.model, {}
  for i = #model.failures, 1, -1 do
    local failure = model.failures[i]
    lines[#lines + 1] = { ("%s  %s: %s: %s"):format(time_text(model:time(failure.clock)), failure_name(failure),
      failure.kind or "?", (failure.message or ""):gsub("%s+", " ")), "bad", "f" .. failure.serial, failure }
  end
  return lines
end

local function log_lines(view)
  local model, lines = view.model, {}
  for _, line in ipairs(model.log) do
    local text
    if line.event == "log" then
      text = ("%s %s:%s:%s"):format(time_text(line.time), line.level or "?", line.logger or "?", line.message or "")
    else
      text = ("%s %s"):format(time_text(model:time(line.clock)), line.text or "")
    end
    lines[#lines + 1] = { (text:gsub("%s+", " ")), (line.levelno or 0) >= 40 and "bad" or nil }
  end
  return lines
end

-- ---------------------------------------------------------------------------------------------------------
-- Putting them together

-- So many lines of a list, of which `chosen` is one if it is there; what is left out is counted.
local function cut(lines, room, key, first)
  if #lines <= room then return lines end
  local from, at = first, nil
  for i, line in ipairs(lines) do
    if key and line[3] == key then at = i end
  end
  local shown = math.max(1, room - 1)
  if at and at - from >= shown then from = at - shown + 1 end
  local list = table.move(lines, 1, first - 1, 1, {})
  table.move(lines, from, math.min(#lines, from + shown - first), first, list)
  local left = #lines - #list
  if left > 0 and #list < room then list[#list + 1] = { ("  ... and %d more"):format(left), "faint" } end
  return list
end

local function last(lines, room)
  return #lines <= room and lines or table.move(lines, #lines - room + 1, #lines, 1, {})
end

-- How many lines each part may have: what it wants, as far as there is room; in turns.
local function share(room, wanted)
  local given, left = {}, room
  for i = 1, #wanted do given[i] = 0 end
  while left > 0 do
    local before = left
    for i, want in ipairs(wanted) do
      if left > 0 and given[i] < want then given[i], left = given[i] + 1, left - 1 end
    end
    if left == before then break end
  end
  return given
end

local keys_line = "arrows and Enter: report   p: pause   c: cancel   + -: workers   q: leave"
local short_keys_line = "Enter: report  p c + -  q: leave"

-- All lines of the picture, and what can be chosen in it.
local function picture(view, columns, rows)
  local lines, choices = {}, {}
  local head, state = headline(view, columns)
  lines[1] = { head, "title", nil, nil, state }
  for _, line in ipairs(cut(pool_lines(view, columns), math.max(1, rows // 5), nil, 1)) do lines[#lines + 1] = line end
  local workers, bars = worker_lines(view, columns), bar_lines(view, columns)
  local failures, log = failure_lines(view), log_lines(view)
  for _, list in ipairs { workers, failures } do
    for _, line in ipairs(list) do
      if line[3] then choices[#choices + 1] = line end
    end
  end
  local heads = (failures[1] and 1 or 0) + (log[1] and 1 or 0)
  local room = rows - #lines - heads - (view.given.once and 0 or 1)
  local given = share(room, { #workers, #bars, #failures, #log })
  local function add(list, title)
    if title and list[1] then lines[#lines + 1] = { title, "head" } end
    for _, line in ipairs(list) do lines[#lines + 1] = line end
  end
  if given[1] > 0 then add(cut(workers, given[1], view.chosen, 2)) end
  if given[2] > 0 then add(cut(bars, given[2], nil, 1)) end
  if given[3] > 0 then add(cut(failures, given[3], view.chosen, 1), (" FAILURES (%d)"):format(#failures)) end
  if given[4] > 0 then add(last(log, given[4]), " LOG") end
  return lines, choices
end

local styles = { title = "\27[1m", head = "\27[7m", bad = "\27[31m", faint = "\27[2m", chosen = "\27[7m" }

local function paint(line, columns, chosen)
  local text, used = fit(line[1], columns)
  local state = line[5]
  if state then -- at the right, whatever stands there
    local width = math.min(columns, cells(state) + 2)
    text = fit(line[1], columns - width, true) .. " \27[7m" .. fit(state, width - 1) .. "\27[m"
    return "\27[1m" .. text
  end
  local style = chosen and "chosen" or line[2]
  if style == "head" or style == "chosen" then text = text .. (" "):rep(columns - used) end
  return style and styles[style] .. text .. "\27[m" or text
end

local function draw(view)
  local columns, rows = screen.size(1)
  if not columns then return end
  local lines, choices = picture(view, columns, rows)
  view.choices, view.rows, view.columns = choices, rows, columns
  local out = {}
  local bottom = view.said or (columns > cells(keys_line) and keys_line or short_keys_line)
  for i = 1, rows - 1 do
    local line = lines[i]
    out[i] = line and paint(line, columns, line[3] and line[3] == view.chosen) or ""
  end
  out[rows] = rows > 1 and "\27[2m" .. fit(bottom, columns - 1) .. "\27[m" or nil
  -- Each line is written over, and its rest erased: no flicker.
  screen.write("\27[H" .. table.concat(out, "\27[K\r\n") .. "\27[K\27[J")
end

-- ---------------------------------------------------------------------------------------------------------
-- One report

local function details(worker)
  local lines = { ("task %s"):format(worker.runid and what_runs(worker):sub(6) or "-"),
    ("  in worker %d, slot %d of pool %d"):format(worker.pid, worker.slot, worker.pool) }
  if worker.place then lines[#lines + 1] = "  function " .. worker.place end
  lines[#lines + 1] = ("  CPU %s, memory %s, at most %s"):format(share_text(worker.cpu), bytes_text(worker.rss),
    bytes_text(worker.maxrss))
  lines[#lines + 1] = ("  %d %s ended there before"):format(worker.tasks or 0,
    worker.tasks == 1 and "task" or "tasks")
  return table.concat(lines, "\n")
end

-- Where the character that begins at this byte ends; a byte of none is one.
local function character_end(text, at)
  return select(2, text:find("^[\xC2-\xF4][\x80-\xBF]+", at)) or at
end

-- Lines as wide as the window.
local function wrap(text, columns)
  local lines = {}
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    local from, at, used = 1, 1, 0
    while at <= #line do
      local stop = character_end(line, at)
      local width = cells(line:sub(at, stop))
      if used + width > columns and at > from then
        lines[#lines + 1] = fit(line:sub(from, at - 1), columns)
        from, used = at, 0
      end
      at, used = stop + 1, used + width
    end
    lines[#lines + 1] = fit(line:sub(from), columns)
  end
  return lines
end

local function draw_report(view)
  local columns, rows = screen.size(1)
  if not columns then return end
  local lines = wrap(view.report, columns)
  local room = math.max(1, rows - 1)
  view.top = math.max(0, math.min(view.top, #lines - room))
  local out = {}
  for i = 1, room do out[i] = lines[view.top + i] or "" end
  local more = #lines > room and ("lines %d to %d of %d; arrows move; "):format(view.top + 1,
    math.min(#lines, view.top + room), #lines) or ""
  out[#out + 1] = "\27[7m" .. fit(more .. "Enter or q: back", columns - 1) .. "\27[m"
  screen.write("\27[H" .. table.concat(out, "\27[K\r\n") .. "\27[K\27[J")
end

-- ---------------------------------------------------------------------------------------------------------
-- Keys

local names = { ["\27[A"] = "up", ["\27[B"] = "down", ["\27OA"] = "up", ["\27OB"] = "down", ["\27[5~"] = "page up",
  ["\27[6~"] = "page down", ["\27[H"] = "home", ["\27[F"] = "end", ["\r"] = "enter", ["\n"] = "enter", k = "up",
  j = "down", ["\3"] = "q", ["\26"] = "stop", ["="] = "+", ["_"] = "-" }

-- The keys in what the terminal has sent.
local function split(bytes)
  local keys, at = {}, 1
  while at <= #bytes do
    local key = bytes:match("^\27%[[%d;]*[%a~]", at) or bytes:match("^\27O%a", at) or bytes:sub(at, at)
    keys[#keys + 1] = names[key] or key
    at = at + #key
  end
  return keys
end

local function chosen_of(view)
  for i, choice in ipairs(view.choices or {}) do
    if choice[3] == view.chosen then return choice, i end
  end
end

local function say(view, text)
  view.said, view.said_until = text, view.now + 3
end

local function ask(view, command, fields)
  if view.model.gone then return say(view, "the script has gone") end
  view.asked = view.asked + 1
  local line = ('{"command":"%s","id":%d%s}\n'):format(command, view.asked, fields or "")
  if not view.connection:send(line) then say(view, "it could not be sent") end
end

local function move(view, step)
  local _, at = chosen_of(view)
  local count = #(view.choices or {})
  if count == 0 then return end
  at = at and math.max(1, math.min(count, at + step)) or step > 0 and 1 or count
  view.chosen = view.choices[at][3]
end

local function change_workers(view, step)
  local choice = chosen_of(view)
  local number = choice and choice[4].pool
  local pool = number and view.model.pools[number] or view.model:pool_list()[1]
  if not pool or pool.closed or not pool.nworkers then return say(view, "there is no pool") end
  local wanted = math.max(1, math.min(4096, (pool.wanted or pool.nworkers) + step))
  pool.wanted = wanted
  say(view, ("pool %d: %d workers"):format(pool.number, wanted))
  ask(view, "workers", (',"pool":%d,"n":%d'):format(pool.number, wanted))
end

local actions = {}

function actions.up(view) move(view, -1) end

function actions.down(view) move(view, 1) end

function actions.p(view)
  view.pauses = not view.pauses
  say(view, view.pauses and "no task starts until p is pressed again, or this ends" or "tasks start again")
  ask(view, view.pauses and "pause" or "resume")
end

function actions.c(view)
  local choice = chosen_of(view)
  local worker = choice and choice[4]
  if not worker or worker.event ~= "worker" or not worker.runid then
    return say(view, "choose a task that runs, with the arrows")
  end
  say(view, ("task %d is cancelled"):format(worker.runid))
  ask(view, "cancel", (',"pool":%d,"runid":%d'):format(worker.pool, worker.runid))
end

actions["+"] = function(view) change_workers(view, 1) end
actions["-"] = function(view) change_workers(view, -1) end

function actions.enter(view)
  local choice = chosen_of(view)
  if not choice then return say(view, "choose a task or a failure, with the arrows") end
  view.report = choice[4].report or choice[4].event == "worker" and details(choice[4]) or choice[4].message or "?"
  view.top = 0
end

actions["\27"] = function(view) view.chosen = nil end

function actions.q(view) view.done = true end

function actions.stop() screen.stop() end

-- While a report is shown.
local pages = {}
function pages.up(view) view.top = view.top - 1 end
function pages.down(view) view.top = view.top + 1 end
pages["page up"] = function(view) view.top = view.top - (view.rows or 24) + 2 end
pages["page down"] = function(view) view.top = view.top + (view.rows or 24) - 2 end
function pages.home(view) view.top = 0 end
pages["end"] = function(view) view.top = math.maxinteger // 2 end
function pages.q(view) view.report = nil end
pages.enter, pages["\27"], pages.stop = pages.q, pages.q, actions.stop
pages[" "], pages.b = pages["page down"], pages["page up"]

-- ---------------------------------------------------------------------------------------------------------
-- The two ways

local function listen(view)
  local lines = view.connection:lines()
  if not lines then
    view.model.gone = true
    return
  end
  for _, line in ipairs(lines) do view.model:take(line, view.now) end
  local answer = view.model.answer
  if answer then
    view.model.answer = nil
    if answer.ok == false then say(view, tostring(answer.message)) end
  end
  for _, pool in pairs(view.model.pools) do
    if pool.wanted == pool.nworkers then pool.wanted = nil end
  end
end

-- Why there is nothing to show; nil: there is, or may be soon.
local function check_greeting(view)
  local model = view.model
  if model.gone and not model.hello then return view.given.why_refused() end
  local protocol = model.hello and model.hello.mantichora
  if protocol and protocol ~= 1 then
    return ("the script speaks protocol %s, and this mantichora 1"):format(tostring(protocol))
  end
end

local function complain(text)
  io.stderr:write("mantichora top: ", text, "\n")
  return 1
end

local function redraw(view)
  if view.said and view.now >= view.said_until then view.said = nil end
  if view.report then draw_report(view) else draw(view) end
end

local function live(view)
  local drawn = 0
  while not view.done do
    view.now = screen.clock()
    if view.now >= drawn + frame then
      redraw(view)
      drawn = view.now
    end
    local keys, readable, changed, gone = screen.wait(not view.model.gone and view.connection:fd() or nil,
      math.max(0.001, drawn + frame - view.now))
    view.now = screen.clock()
    if readable then listen(view) end
    if gone or check_greeting(view) then return end
    for _, key in ipairs(keys and split(keys) or {}) do
      local action = (view.report and pages or actions)[key]
      if action then action(view) end
    end
    if keys or changed then drawn = 0 end
  end
end

local function stay_in_terminal(view)
  if not screen.size(1) or not screen.size(0) then
    return complain("this is no terminal: --once prints one picture, --json the lines of the script")
  end
  local fine, why = screen.open()
  if not fine then return complain("the terminal cannot be used: " .. why) end
  local problem
  fine, problem = xpcall(live, debug.traceback, view)
  screen.close()
  if not fine then
    if tostring(problem):find("interrupted!", 1, true) then return 130 end
    return complain(problem)
  end
  problem = check_greeting(view)
  return problem and complain(problem) or 0
end

-- Whether the picture is whole. What is used is known from the second time on that it is told.
local function is_whole(view, begun)
  local model = view.model
  return model.gone or model.complete and (model.stats and model.stats.cpu or view.now > begun + 2)
end

local function print_once(view)
  local begun = screen.clock()
  while not is_whole(view, begun) do
    if view.now > begun + 10 then return complain "the script said nothing for 10 s" end
    screen.rest(view.connection:fd(), 0.1)
    view.now = screen.clock()
    listen(view)
    local problem = check_greeting(view)
    if problem then return complain(problem) end
  end
  local columns = screen.size(1) or tonumber(os.getenv "COLUMNS") or 80
  local lines = picture(view, columns, 10000)
  for _, line in ipairs(lines) do
    local text = line[1] .. (line[5] and "   " .. line[5] or "")
    io.stdout:write((fit(text, columns):gsub(" +$", "")), "\n")
  end
  io.stdout:flush()
  return 0
end

return {
  run = function(connection, given)
    local view = { connection = connection, given = given, model = top_model.new(), now = screen.clock(), asked = 0 }
    view.model.heard = view.now
    return (given.once and print_once or stay_in_terminal)(view)
  end,
}
