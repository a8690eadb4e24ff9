-- mantichora top: finds the script that is to be watched, and hands its connection over to what shows it:
-- commands.top_screen in the terminal, commands.web in a browser, or its lines as they are.

local socket = require "mantichora.commands.socket"
local web_core = require "mantichora.commands.web"
local nearest_of = require "commands.nearest"

local wrong_use = 255

local usage = [[
usage: mantichora top [options] [PID]
Shows what a running script does: its workers, bars, queue, failures and log. Without PID: the only script of
yours, or a list of them. A script can be watched from its first pool or bar on; under another Lua than
mantichora's, if MANTICHORA_ATTACH=1 is set.
Available options are:
  --web    serve a page for a browser, on this machine only, and print its address; Ctrl-C ends that
  --once   print one picture and end
  --json   print what the script says, a line of JSON each (with --once: a snapshot)
  --help   show this text
Keys: arrows and Enter a task's report, p pause and go on, c cancel the task, + and - workers, q leave.
]]

local function complain(text)
  io.stderr:write("mantichora top: ", text, "\n")
end

-- Names are text on a terminal too.
local function plain(text)
  return (tostring(text):gsub("[%c\x7f]", "?"))
end

local known = { "--web", "--once", "--json", "--help" }

-- Options by name, and `pid`; or nil and a sentence.
local function read_options(words)
  local given, only_words = {}, false
  for _, word in ipairs(words) do
    if word == "--" and not only_words then
      only_words = true
    elseif word:find("^%-") and not only_words then
      local name = word == "-h" and "--help" or word
      local found = false
      for _, one in ipairs(known) do found = found or one == name end
      if not found then
        return nil, ("unknown option '%s'; the nearest is %s (see --help)"):format(plain(word),
          nearest_of(word, known))
      end
      given[name:sub(3)] = true
    elseif given.pid then
      return nil, "only one script can be watched at once"
    else
      given.pid = word:match("^%d+$") and math.tointeger(tonumber(word))
      if not given.pid then return nil, ("'%s' is no PID, a number"):format(plain(word)) end
    end
  end
  if given.web and (given.once or given.json) then return nil, "--web goes with neither --once nor --json" end
  return given
end

-- --- the scripts -------------------------------------------------------------------------------------------

-- A connection; or nil and why not. A script that is just making its socket does not hear yet.
local function connect(folder, pid)
  local connection, problem
  for _ = 1, 50 do
    connection, problem = socket.connect(("%s/%d.sock"):format(folder, pid))
    if connection or problem ~= "refused" or not socket.runs(pid) then break end
    web_core.wait(-1, 0.02)
  end
  return connection, problem ~= "refused" and problem or "none"
end

-- What a script says first; nil: nothing within a second.
local function first_line(connection)
  local deadline = web_core.clock() + 1
  repeat
    local lines = connection:lines()
    if not lines or lines[1] then return lines and lines[1] end
    web_core.wait(connection:fd(), 0.1)
  until web_core.clock() > deadline
end

-- Those that can be watched: { pid =, said = the first line }, by PID.
local function find_scripts()
  local scripts = {}
  for _, folder in ipairs(socket.folders()) do
    for _, pid in ipairs(socket.pids(folder)) do
      local connection <close> = connect(folder, pid)
      if connection then scripts[#scripts + 1] = { pid = pid, said = first_line(connection) } end
    end
  end
  table.sort(scripts, function(a, b) return a.pid < b.pid end)
  return scripts
end

local function list(scripts, to)
  to:write(("%8s  %s\n"):format("PID", "script"))
  for _, script in ipairs(scripts) do
    local said = script.said or {}
    local words = { plain(said.script or "?") }
    for _, word in ipairs(said.arguments or {}) do words[#words + 1] = plain(word) end
    to:write(("%8d  %s%s\n"):format(script.pid, table.concat(words, " "),
      said.folder and "  (in " .. plain(said.folder) .. ")" or ""))
  end
end

local function looked_at(folders)
  return #folders == 0 and "" or " (looked at " .. table.concat(folders, " and ") .. ")"
end

-- Nil: nobody else's.
local function whose(pid)
  local owner = socket.owner(pid)
  return owner and ("process %d belongs to the user %s: nobody but that user, and root, can watch it"):format(pid,
    plain(owner))
end

-- Why a script has let us go before it said anything.
local function why_refused(pid)
  if not socket.runs(pid) then return ("script %d has gone"):format(pid) end
  return whose(pid) or ("script %d lets nobody else in: it has as many viewers as it can have, 16"):format(pid)
end

-- A connection; or nil and a sentence.
local function connect_to(pid)
  local folders = socket.folders(pid)
  for _, folder in ipairs(folders) do
    local connection, problem = connect(folder, pid)
    if connection then return connection end
    if problem and problem ~= "none" then
      return nil, whose(pid) or ("script %d cannot be watched: %s"):format(pid, problem)
    end
  end
  if not socket.runs(pid) then return nil, ("there is no process %d"):format(pid) end
  if whose(pid) then return nil, whose(pid) end
  return nil, ("process %d cannot be watched%s: it is no script with a pool or a bar yet, or it runs under another "
    .. "Lua than mantichora's without MANTICHORA_ATTACH=1 or mantichora.attach(), or MANTICHORA_ATTACH=0 forbids it")
    :format(pid, looked_at(folders))
end

-- A connection, to the script given.pid; or nil and the exit status.
local function choose(given)
  if given.pid then
    local connection, sentence = connect_to(given.pid)
    if connection then return connection end
    complain(sentence)
    return nil, 1
  end
  local scripts = find_scripts()
  if #scripts == 1 then
    given.pid = scripts[1].pid
    return choose(given)
  end
  if #scripts == 0 then
    complain("no script of yours runs that can be watched" .. looked_at(socket.folders()) .. ".\nA script can be from "
      .. "its first pool or bar on: start one by `mantichora script.lua`, or with MANTICHORA_ATTACH=1 under another "
      .. "Lua.")
    return nil, 1
  end
  -- Where data is wanted stdout is for data.
  local data = given.json or given.web
  list(scripts, data and io.stderr or io.stdout)
  complain("several scripts run; say which by its PID")
  return nil, data and 1 or 0
end

-- --- what is done with it ----------------------------------------------------------------------------------

local function pass_lines(connection, given)
  local heard = false
  while true do
    local lines = connection:texts()
    if not lines and not heard then
      complain(given.why_refused())
      return 1
    end
    if not lines then return 0 end
    for _, line in ipairs(lines) do
      heard = true
      if not io.stdout:write(line, "\n") then return 1 end
      if given.once and line:find('"event":"ready"', 1, true) then
        io.stdout:flush()
        return 0
      end
    end
    io.stdout:flush()
    web_core.wait(connection:fd(), 1)
  end
end

local function show(connection, given)
  function given.why_refused() return why_refused(given.pid) end
  if given.json then return pass_lines(connection, given) end
  if not given.web then return require "commands.top_screen".run(connection, given) end
  local fine, sentence = require "commands.web".run(connection, given)
  if fine then return 0 end
  complain(sentence)
  return 1
end

local function main(words)
  local given, sentence = read_options(words)
  if not given then
    complain(sentence)
    return wrong_use
  end
  if given.help then
    io.stdout:write(usage)
    return 0
  end
  if not socket.connect then
    complain("this program was built without yajl (Debian: libyajl-dev), by which it reads what scripts say")
    return 1
  end
  local connection, status = choose(given)
  if not connection then return status end
  local connection <close> = connection -- luacheck: ignore 411
  return show(connection, given)
end

return function(_, ...)
  local fine, status = xpcall(main, function(problem)
    local text = tostring(problem)
    return text:find("interrupted!", 1, true) and 130 or debug.traceback(text)
  end, { ... })
  if fine or status == 130 then return status end
  complain(status)
  return 1
end
