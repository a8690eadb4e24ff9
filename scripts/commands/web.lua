-- mantichora top --web: serves the page of one script, from its socket to browsers.
--
-- serve(source)   until Ctrl-C, which it passes on as an error. `source`: what comes from the script:
--   source:fd()     the descriptor to wait for
--   source:lines()  the lines that are there, decoded, without waiting; nil when the script has gone

local core = require "mantichora.commands.web"
local json = require "mantichora.commands.json"
local web_state = require "commands.web_state"

local pace = 0.2 -- seconds from one picture to the next
local heartbeat = 1 -- seconds after which viewers hear that nothing is new

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

local function listen(state, source)
  local lines = source:lines()
  if not lines then return false end
  for _, line in ipairs(lines) do state:take(line) end
  return true
end

local function see_silence(state, heard, now)
  local before = state.silent
  local silent = not state.gone and now - heard >= 3 and math.floor(now - heard) or nil
  state.silent = silent
  return silent ~= before
end

local function serve(source, server)
  local state = web_state.new()
  local heard, turn, told, open = core.clock(), 0, 0, true
  while true do
    local now = core.clock()
    local readable = server:serve(open and source:fd() or nil, math.max(0, math.min(pace, turn + pace - now)))
    now = core.clock()
    local news = false
    if readable then
      heard = now
      open = listen(state, source)
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

--- Why there can be no page, or nil.
local function missing()
  if not json.read then
    return "this program was built without yajl (Debian: libyajl-dev), which reads what scripts say"
  end
end

return {
  missing = missing,
  open = core.open,
  serve = serve,
}
