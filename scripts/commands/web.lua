-- mantichora top --web: serves the page of one script, from its socket to browsers.
--
-- `source` is the connection: source:fd() to wait for, source:lines() what has come, nil when the script has gone.

local core = require "mantichora.commands.web"
local json = require "mantichora.commands.json"
local web_state = require "commands.web_state"

local pace = 0.2 -- seconds from one picture to the next
local heartbeat = 1 -- seconds after which viewers hear that nothing is new
local patience = 10 -- seconds for the script's first line

-- Names are text on a terminal too.
local function plain(text)
  return (text:gsub("[%c\x7f]", "?"))
end

local function send(server, message, is_snapshot)
  if server:viewers() > 0 then server:publish(json.write(message) .. "\n", is_snapshot) end
end

-- Once a turn: those who are up to date get what is new, those who wait for it everything. In this order: what
-- is new is in everything too. Whether there was something.
local function publish(server, state, always)
  local message = state:changes(always)
  if message then send(server, message, false) end
  if server:wanting() > 0 and state.complete and not state.starting then send(server, state:whole(), true) end
  return message ~= nil
end

local function listen(state, lines)
  for _, line in ipairs(lines or {}) do state:take(line) end
  return lines ~= nil
end

local function see_silence(state, heard, now)
  local before = state.silent
  local silent = not state.gone and now - heard >= 3 and math.floor(now - heard) or nil
  state.silent = silent
  return silent ~= before
end

local function serve(source, first, server)
  local state = web_state.new()
  listen(state, first)
  local heard, turn, told, open = core.clock(), 0, 0, true
  while true do
    local now = core.clock()
    local readable = server:serve(open and source:fd() or nil, math.max(0, math.min(pace, turn + pace - now)))
    now = core.clock()
    local news = false
    if readable then
      heard = now
      open = listen(state, source:lines())
      if not open then
        -- A script that goes in its snapshot leaves what there is.
        state.starting, state.complete = false, true
        state.gone = state.ended and "ended" or "lost"
        news = true
      end
    end
    news = see_silence(state, heard, now) or news
    if news or now >= turn + pace or (server:wanting() > 0 and now >= turn + pace / 4) then
      if publish(server, state, news or now >= told + heartbeat) then told = now end
      turn = now
    end
  end
end

-- Ctrl-C is how a server ends.
local function serve_until_interrupted(source, first, server)
  local fine, problem = xpcall(serve, function(problem)
    local text = tostring(problem)
    return text:find("interrupted!", 1, true) and "interrupted" or debug.traceback(text)
  end, source, first, server)
  if not fine and problem ~= "interrupted" then error(problem, 0) end
  if server:viewers() > 0 then server:publish('{"bye":true}\n', false) end
end

-- The script's first line, which says what protocol follows; or nil and what is wrong.
local function greet(source, lines, given)
  local before = core.clock()
  while core.clock() < before + patience do
    local more = source:lines()
    if not more then return nil, given.why_refused() end
    table.move(more, 1, #more, #lines + 1, lines)
    if lines[1] then break end
    core.wait(source:fd(), 0.1)
  end
  if not lines[1] then return nil, ("the script said nothing for %d s"):format(patience) end
  local protocol = lines[1].mantichora
  if protocol ~= 1 then
    return nil, ("the script speaks protocol %s, and this mantichora 1"):format(tostring(protocol))
  end
  return lines
end

--- Serve the page of the script at the other side of `source` until Ctrl-C: a connection of mantichora.commands.socket.
-- `given.why_refused()`: a sentence, if it says nothing. True; or nil and why it cannot be.
local function run(source, given)
  if not json.read then return nil, "this program was built without yajl (Debian: libyajl-dev), which reads JSON" end
  local server, message = core.open()
  if not server then return nil, message end
  local server <close> = server -- luacheck: ignore 411
  local lines
  lines, message = greet(source, {}, given)
  if not lines then return nil, message end
  io.stdout:write(server:url(), "\n")
  io.stdout:flush()
  io.stderr:write(("mantichora top: the page of %s (PID %s) is there; Ctrl-C ends it, and the script goes on\n"):format(
    plain(lines[1].script or "a script"), plain(tostring(lines[1].pid))))
  serve_until_interrupted(source, lines, server)
  return true
end

return { run = run }
