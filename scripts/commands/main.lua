-- map, filter and run from their command lines to their exit statuses.

local core = require "mantichora.commands.core"
local expression = require "commands.expression"
local options = require "commands.options"
local report = require "commands.report"
local stream = require "commands.stream"
local template = require "commands.template"
local mantichora = require "mantichora"

local wrong_use = 255

local function complain(verb, message)
  io.stderr:write("mantichora ", verb, ": ", message, "\n")
  return wrong_use
end

-- -l mod, -l name=mod, -e 'CODE': as the program lua does. Nil and a message, if one fails.
local function run_before(before)
  for _, entry in ipairs(before) do
    local name, text = table.unpack(entry)
    local fine, message
    if name == "l" then
      local global, module = text:match("^([^=]*)=(.*)$")
      global, module = global or text:match("^[^-]*"), module or text
      fine, message = pcall(require, module)
      if fine then _G[global] = message end
    else
      local chunk
      chunk, message = load(text, "=-e", "t")
      fine = chunk ~= nil
      if chunk then fine, message = pcall(chunk) end
    end
    if not fine then return nil, tostring(message) end
  end
  -- Results do not go through Lua's buffer.
  io.stdout:flush()
  return true
end

-- What the verb does with an item: a function, the chunk of a file that will return it, or the pieces of
-- a command; and the files. Or nil and a message.
local function subject(verb, given)
  local words = given.words
  if given.f then
    local chunk, message = loadfile(given.f)
    return chunk, chunk and words or message
  end
  local text = table.remove(words, 1)
  given.expression = text
  if verb == "run" then
    if not text then return nil, "a command is missing (see --help)" end
    local pieces, message = template.parse(text)
    return pieces, pieces and words or message
  end
  if not text then return nil, "an expression is missing (see --help)" end
  local f, message = expression.compile(text)
  return f, f and words or "the expression does not compile: " .. tostring(message)
end

-- All files must be there before anything runs. Nil and a message.
local function check_files(files)
  for _, path in ipairs(files) do
    if path ~= "-" then
      local fine, message = core.check_file(path)
      if not fine then return nil, ("'%s' cannot be read: %s"):format(path, message) end
    end
  end
  return true
end

local function check(verb, given)
  if given.journal and not pcall(require, "mantichora.journal") then
    return nil, "--journal needs SQLite and libsodium, which this program was built without (Debian: libsqlite3-dev "
      .. "libsodium-dev)"
  end
  given["in"] = given["in"] or (verb == "run" and "lines" or "jsonl")
  given.out = given.out or (verb == "run" and "lines" or given["in"])
  if given["in"] == "jsonl" and not core.has_json then
    return nil, "JSON cannot be read, as this program was built without yajl (Debian: libyajl-dev)"
  end
  if given["no-header"] and given["in"] ~= "csv" then return nil, "--no-header is for --in csv" end
  if given.out == "csv" and given.tag then return nil, "--tag cannot stand before lines of CSV" end
  if verb == "filter" and given.out == "csv" and given["in"] ~= "csv" then
    return nil, "filter prints the input's own bytes, which are no CSV"
  end
  return true
end

-- The exit status of GNU parallel.
local function status_of(failed)
  return failed > 100 and 101 or failed
end

local function open_bar(verb, given)
  if not given.bar then return nil end
  local atpbar = require "mantichora.atpbar"
  return atpbar.bar { name = verb }
end

local function go(verb, given, f, files)
  if #files == 0 then files = { "-" } end
  local bar <close> = open_bar(verb, given)
  local told, message = report.new(verb, given, bar)
  if not told then return complain(verb, message) end
  local failed
  failed, message = stream.run(verb, given, f, files, told)
  told:close()
  if not failed then return complain(verb, message) end
  return status_of(failed)
end

local function main(verb, arguments)
  local given, message = options.read(verb, arguments)
  if not given then return complain(verb, message) end
  if given.help then
    io.stdout:write(options.help(verb))
    io.stdout:flush()
    return 0
  end
  local fine
  fine, message = check(verb, given)
  if not fine then return complain(verb, message) end
  -- luacheck: push globals null list
  null, list = core.null, core.list
  -- luacheck: pop
  local f, files = subject(verb, given)
  if not f then return complain(verb, files) end
  fine, message = check_files(files)
  if not fine then return complain(verb, message) end
  core.watch_reader()
  fine, message = run_before(given.before)
  if not fine then return complain(verb, message) end
  if given.f then
    f, message = expression.of_file(given.f, f)
    if not f then return complain(verb, message) end
  end
  given.workers = given.j == nil and mantichora.cpu_count() or given.j == "auto" and mantichora.cpu_count()
    or given.j
  return go(verb, given, f, files)
end

-- Ctrl-C comes as an error of the host.
return function(verb, ...)
  local fine, status = xpcall(main, function(problem)
    local text = tostring(problem)
    if text:find("interrupted!", 1, true) then return 130 end
    return text
  end, verb, { ... })
  if fine then return status end
  if status == 130 then return 130 end
  return complain(verb, status)
end
