-- mantichora journal: asks a journal what is in it, and forgets what is not needed. Apart from `replay` nothing here
-- builds a function, metatable or hook of what is stored.

local core = require "mantichora.commands.core"
local graph = require "commands.graph"
local nearest_of = require "commands.nearest"

local wrong_use = 255

local usage = [==[
usage: mantichora journal FILE [ls [--failed] [--json]]
       mantichora journal FILE show|why ID
       mantichora journal FILE replay [-i] ID
       mantichora journal FILE log
       mantichora journal FILE rm ID..
       mantichora journal FILE prune --unused N
Asks a journal what is in it. Commands are:
  ls               runs and their tasks (this is done if nothing is said)
  show ID          one task: how it ended, and its values
  why ID           why it ran: the part of it that was new
  replay ID        run it again, here
  log              the tasks as GNU parallel's table of jobs
  rm ID..          forget tasks
  prune            forget the tasks that the last N runs did not use
Options are:
  --failed         only tasks that did not end well
  --json           one JSON object a task
  -i               with a prompt where it raised an error
  --unused N       runs that count
  --help           print this text
Exit status: 0; 1: there is no such task; 255: it was used wrong, or the file cannot be used.
]==]

local function complain(...)
  io.stderr:write("mantichora journal: ", ...)
  io.stderr:write("\n")
  return wrong_use
end

-- What is told of a mistake in use: raised, and caught below.
local function misuse(...) error({ message = string.format(...) }, 0) end

-- -- the command line ------------------------------------------------------------------------

-- By command: its options, and whether they take a value; whether it takes IDs.
local commands = {
  ls = { options = { ["--failed"] = false, ["--json"] = false }, ids = 0 },
  show = { options = {}, ids = 1 },
  why = { options = {}, ids = 1 },
  replay = { options = { ["-i"] = false }, ids = 1 },
  log = { options = {}, ids = 0 },
  rm = { options = {}, ids = math.huge, writes = true },
  prune = { options = { ["--unused"] = true }, ids = 0, writes = true },
}

local function names_of(list)
  local names = {}
  for name in pairs(list) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function take_option(command, known, name)
  if known[name] ~= nil then return known[name] end
  local names = names_of(known)
  if #names == 0 then misuse("unknown option '%s': %s has none", name, command) end
  misuse("unknown option '%s' (did you mean '%s'?)", name, nearest_of(name, names))
end

local function whole(text)
  return text:match("^%d+$") and math.tointeger(tonumber(text)) or nil
end

-- From the words of the command line: file, command, options by name, IDs.
local function read(words)
  local file, name = words[1], nil
  if not file then misuse("a file is missing (see --help)") end
  if file:sub(1, 1) == "-" then misuse("a file is missing before '%s' (see --help)", file) end
  local at, given, ids = 2, {}, {}
  if words[2] and words[2]:sub(1, 1) ~= "-" then name, at = words[2], 3 end
  name = name or "ls"
  local command = commands[name]
  if not command then
    misuse("unknown command '%s' (did you mean '%s'?)", name, nearest_of(name, names_of(commands)))
  end
  while at <= #words do
    local word = words[at]
    at = at + 1
    if word:sub(1, 1) == "-" then
      local option, value = word:match("^(%-%-[^=]*)=(.*)$")
      option = option or word
      local takes = take_option(name, command.options, option)
      if takes and not value then
        value, at = words[at], at + 1
        if not value then misuse("option '%s' needs a number", option) end
      elseif value and not takes then
        misuse("option '%s' takes no argument", option)
      end
      given[option:gsub("^%-+", "")] = value or true
    else
      local id = whole(word)
      if not id then misuse("'%s' is no ID: a whole number, as ls shows them, is expected", word) end
      ids[#ids + 1] = id
    end
  end
  if #ids > command.ids then misuse("%s takes %s", name, command.ids == 0 and "no ID" or "one ID") end
  if command.ids > 0 and #ids == 0 then misuse("%s needs an ID (as ls shows them)", name) end
  if given.unused then
    local number = whole(given.unused)
    if not number then misuse("option '--unused' must be a whole number: '%s' is given", given.unused) end
    given.unused = number
  elseif name == "prune" then
    misuse("prune needs --unused N")
  end
  return file, name, given, ids, command.writes
end

-- -- words for people ------------------------------------------------------------------------

local _, readable = core.part "mantichora.show"()

-- Text on one line, with nothing in it that a terminal obeys.
local function harmless(text)
  text = text:gsub("%c", function(c)
    return c == "\n" and "\\n" or c == "\t" and "\\t" or ("\\x%02X"):format(c:byte())
  end)
  return (text:gsub("[\x80-\xFF]+", function(bytes)
    if utf8.len(bytes) and not bytes:find("\xC2[\x80-\x9F]") and not bytes:find("\xE2\x80[\x8B-\x8F\xA8-\xAE]") then
      return bytes
    end
    return (bytes:gsub(".", function(c) return ("\\x%02X"):format(c:byte()) end))
  end))
end

-- Several lines, each of them harmless; those of a traceback begin with a tab.
local function harmless_lines(text)
  return (text:gsub("(\t*)([^\n]+)", function(tabs, line) return tabs .. harmless(line) end))
end

-- As the prompt shows a value; a string alone with its quotes, too.
local function shown(value)
  if type(value) == "string" then return (tostring(readable(100, { value })):match("^{ (.*) }$")) end
  if type(value) == "table" then return tostring(readable(100, value)) end
  return tostring(value)
end

local function moment(time) return time and os.date("%Y-%m-%d %H:%M:%S", math.floor(time)) or "?" end

local function fixed(number, digits)
  return number and ("%." .. digits .. "f"):format(number):gsub(",", ".") or "-"
end

local function name_of(task) return harmless(task.name or task.place or "?") end

local function print_line(...)
  local written, message = io.stdout:write(string.format(...), "\n")
  if not written then error({ message = message }, 0) end
end

-- -- ls --------------------------------------------------------------------------------------

-- Tasks with the run in which they ended or were found, in order.
local listing = [[
SELECT t.id AS id, t.run AS run, t.name AS name, t.place AS place, t.kind AS kind, t.elapsed AS elapsed,
 t.attempt AS attempt, t.time AS time, 0 AS found FROM tasks t %s
UNION ALL SELECT t.id, u.run, t.name, t.place, t.kind, t.elapsed, t.attempt, t.time, 1 FROM uses u
 JOIN tasks t ON t.id = u.task %s
ORDER BY run, id, found]]

local function json_text(text)
  return '"' .. text:gsub('[%c\\"\x7f]', function(c)
    return (c == '"' or c == "\\") and "\\" .. c or c == "\n" and "\\n" or c == "\t" and "\\t"
      or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

local function json_value(value)
  if value == nil then return "null" end
  if type(value) == "string" then
    -- Bytes that are no text are told by what stands for them.
    return json_text(utf8.len(value) and value or harmless(value))
  end
  if type(value) == "boolean" or math.type(value) == "integer" then return tostring(value) end
  local text = ("%.15g"):format(value)
  if tonumber(text) ~= value then text = ("%.17g"):format(value) end
  return (text:gsub(",", "."))
end

local function print_json(task)
  local fields = {}
  for i, name in ipairs { "id", "run", "name", "place", "kind", "elapsed", "attempt", "time" } do
    fields[i] = ('"%s":%s'):format(name, json_value(task[name]))
  end
  fields[#fields + 1] = '"found":' .. tostring(task.found == 1)
  print_line("{%s}", table.concat(fields, ","))
end

local function print_run(file, id)
  for run in file:rows("SELECT * FROM runs WHERE id = ?1", id) do
    print_line("run %d, %s: %s in %s", id, moment(run.began), harmless(run.program or "?"), harmless(run.folder or "?"))
    print_line("%8s  %-10s %9s  %2s  %-19s  %s", "ID", "kind", "seconds", "at", "when", "task")
  end
end

local function ls(file, given)
  local only = given.failed and "WHERE t.kind <> 'ok'" or ""
  local last
  for task in file:rows(listing:format(only, only)) do
    if given.json then
      print_json(task)
    else
      if task.run ~= last then print_run(file, task.run) end
      last = task.run
      print_line("%8d  %-10s %9s  %2d  %-19s  %s", task.id, task.found == 1 and "found" or task.kind,
        fixed(task.elapsed, 3), task.attempt, moment(task.time), name_of(task))
    end
  end
  return 0
end

-- -- one task --------------------------------------------------------------------------------

local function find(file, id)
  local task = file:rows("SELECT * FROM tasks WHERE id = ?1", id)()
  if task then return task end
  error({ message = ("there is no task %d"):format(id), status = 1 }, 0)
end

-- The bytes of its value; nil: they are missing or damaged.
local function value_of(file, task)
  local bytes = task.value
  if task.file then bytes = file:large(task.file, task.length) end
  return bytes and file:digest_is(bytes, task.digest or "") and bytes or nil
end

local function print_values(label, bytes)
  if not bytes then return print_line("%s: missing or damaged", label) end
  local values, message = graph.read(bytes)
  if not values then return print_line("%s: %s", label, message) end
  if values.n == 0 then return print_line("%s: none", label) end
  for i = 1, values.n do
    print_line("%s %d: %s", label, i, (shown(values[i]):gsub("\n", "\n    ")))
  end
end

local function print_fact(label, text)
  if text then print_line("  %-10s %s", label, text) end
end

local function show_facts(task)
  print_line("task %d: %s, %s", task.id, name_of(task), task.kind)
  if task.name then print_fact("function", harmless(task.place or "?")) end
  print_fact("ended", moment(task.time) .. (" in run %d, as its task %d"):format(task.run, task.runid))
  print_fact("item", task.item and tostring(task.item))
  print_fact("attempt", tostring(task.attempt))
  print_fact("took", task.elapsed and ("%s s (%s s of processor time), waited %s s"):format(fixed(task.elapsed, 3),
    fixed(task.cpu, 3), fixed(task.waited, 3)))
  print_fact("worker", task.pid and ("%d, slot %d"):format(task.pid, task.slot or 0))
  print_fact("memory", task.maxrss and ("%s MiB at most"):format(fixed(task.maxrss / 2 ^ 20, 1)))
  print_fact("bytes", ("%d sent, %d received"):format(task.sent or 0, task.received or 0))
  print_fact("status", task.kind == "exited" and tostring(task.exitcode) or nil)
  print_fact("signal", task.signal and tostring(task.signal))
end

local function show_error(task, bytes)
  local said = bytes and #bytes > 0 and graph.read(bytes)
  local message = said and said.n >= 1 and said[1] or task.text
  if message then print_line("%s", harmless_lines(tostring(message))) end
  if not said then return end
  if type(said[3]) == "string" then print_line("error value: %s", harmless(said[3])) end
  if type(said[2]) == "string" then print_line("worker's %s", harmless_lines(said[2])) end
end

local function show(file, _, ids)
  local task = find(file, ids[1])
  show_facts(task)
  local bytes = value_of(file, task)
  if task.kind == "ok" then
    print_values("result", bytes)
  else
    show_error(task, bytes)
  end
  for emitted in file:rows("SELECT * FROM emitted WHERE task = ?1 ORDER BY number", task.id) do
    print_values(("emitted %d, value"):format(emitted.number), emitted.value)
  end
  return 0
end

-- -- why -------------------------------------------------------------------------------------

-- The parts of a task's key; `known`: parts that many share, by their hash.
local function parts_of(file, task, known)
  local hash = task.parts or ""
  if not known[hash] then
    local row = file:rows("SELECT bytes FROM parts WHERE hash = CAST(?1 AS BLOB)", hash)()
    known[hash] = row and row.bytes or ""
  end
  return known[hash] .. (task.own or "")
end

-- Of those that came before it, in the same file of code or by the same name, the one that differs least, and what of
-- it does. Those of earlier runs say more than those of its own, of which other functions say nothing.
local function nearest_task(file, task)
  local journal = require "mantichora.journal"
  local folder = task.place and task.place:match("^(.*:)%d+>$") or task.place or ""
  local known, best, differs = {}, nil, nil
  local mine, least = parts_of(file, task, known), math.huge
  for other in file:rows([[SELECT id, run, kind, parts, own FROM tasks WHERE id < ?1 AND
      (name IS NOT NULL AND name = ?2 OR place = ?6 OR run < ?5 AND substr(place, 1, ?4) = ?3)
      ORDER BY run < ?5 DESC, id DESC LIMIT 5000]],
      task.id, task.name, folder, #folder, task.run, task.place) do
    if best and best.run < task.run and other.run == task.run or least == 0 then break end
    local count, path = journal.difference(parts_of(file, other, known), mine)
    if count < least then best, least, differs = other, count, path end
  end
  return best, differs
end

local function why(file, _, ids)
  local task = find(file, ids[1])
  if task.why then
    print_line("%s", harmless(task.why))
    return 0
  end
  local last = file:rows([[SELECT id, kind FROM tasks WHERE key = CAST(?1 AS BLOB) AND id < ?2 ORDER BY id DESC
    LIMIT 1]], task.key, task.id)()
  if last then
    if last.kind == "ok" then
      print_line("it was not looked for, or could not be read: task %d is the same", last.id)
    else
      print_line("it did not end well before: task %d (%s)", last.id, last.kind)
    end
    return 0
  end
  local other, path = nearest_task(file, task)
  if not other then
    print_line("never seen before")
  elseif path then
    print_line("%s", harmless(path))
  else
    print_line("another one of equal tasks, or another key, than task %d", other.id)
  end
  return 0
end

-- -- log -------------------------------------------------------------------------------------

local function exitval(task)
  if task.kind == "ok" then return 0 end
  if task.kind == "exited" then return task.exitcode or 0 end
  if task.kind == "timeout" or task.kind == "cancelled" then return -1 end
  return 1
end

local function log(file)
  print_line("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand")
  for task in file:rows("SELECT * FROM tasks ORDER BY id") do
    local command = (task.name or task.place or "?"):gsub("[\\\t\n\r]", { ["\\"] = "\\\\", ["\t"] = "\\t",
      ["\n"] = "\\n", ["\r"] = "\\r" })
    print_line("%d\t:\t%s\t%10s\t%d\t%d\t%d\t%d\t%s", task.id, fixed((task.time or 0) - (task.elapsed or 0), 3),
      fixed(task.elapsed or 0, 3), task.sent or 0, task.received or 0, exitval(task), task.signal or 0, command)
  end
  return 0
end

-- -- forgetting ------------------------------------------------------------------------------

-- Forget the tasks that a condition names.
local function forget(file, condition, ...)
  local files = {}
  file:exec "BEGIN IMMEDIATE"
  for task in file:rows("SELECT file FROM tasks WHERE file IS NOT NULL AND " .. condition, ...) do
    files[#files + 1] = task.file
  end
  for _, name in ipairs { "emitted", "calls", "uses" } do
    file:exec(("DELETE FROM %s WHERE task IN (SELECT id FROM tasks WHERE %s)"):format(name, condition), ...)
  end
  local count = file:exec("DELETE FROM tasks WHERE " .. condition, ...)
  file:exec "DELETE FROM parts WHERE hash NOT IN (SELECT DISTINCT parts FROM tasks WHERE parts IS NOT NULL)"
  file:exec "COMMIT"
  for _, name in ipairs(files) do file:remove(name) end
  return count
end

local function rm(file, _, ids)
  for _, id in ipairs(ids) do find(file, id) end
  for _, id in ipairs(ids) do forget(file, "id = ?1", id) end
  return 0
end

local function prune(file, given)
  local count = forget(file, [[run NOT IN (SELECT id FROM runs ORDER BY id DESC LIMIT ?1)
    AND id NOT IN (SELECT task FROM uses WHERE run IN (SELECT id FROM runs ORDER BY id DESC LIMIT ?1))]], given.unused)
  print_line("%d task%s forgotten", count, count == 1 and "" or "s")
  return 0
end

local function replay(file, given, ids)
  local status = require "commands.again"(file, find(file, ids[1]), given.i)
  return status
end

-- --------------------------------------------------------------------------------------------

local functions = { ls = ls, show = show, why = why, log = log, rm = rm, prune = prune, replay = replay }

local function main(words)
  local path, name, given, ids, writes = read(words)
  local fine, journal = pcall(require, "mantichora.journal")
  if not fine then
    misuse("this program was built without SQLite or libsodium (Debian: libsqlite3-dev libsodium-dev)")
  end
  local file, message = journal.look(path, writes)
  if not file then misuse("%s", message) end
  core.watch_reader()
  local status = functions[name](file, given, ids)
  io.stdout:flush()
  return status
end

return function(_, ...)
  for _, word in ipairs { ... } do
    if word == "--help" then
      io.stdout:write(usage)
      io.stdout:flush()
      return 0
    end
  end
  local fine, status = xpcall(main, function(problem)
    if type(problem) == "table" then return problem end
    local text = tostring(problem)
    return { message = text, status = text:find("interrupted!", 1, true) and 130 or nil }
  end, { ... })
  if fine then return status end
  if status.status == 130 then return 130 end
  complain(status.message)
  return status.status or wrong_use
end
