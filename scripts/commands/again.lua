-- mantichora journal FILE replay: calls a task of a journal again, in this process. The one command that runs what is
-- stored.

local core = require "mantichora.commands.core"
local journal = require "mantichora.journal"
local mantichora = require "mantichora"

local function say(...) io.stderr:write(string.format(...), "\n") end

-- Where it ran: folder and paths of modules.
local function go_there(file, task)
  local run = file:rows("SELECT * FROM runs WHERE id = ?1", task.run)()
  if not run then return end
  if run.path then package.path = run.path end
  if run.cpath then package.cpath = run.cpath end
  if run.folder then
    local fine, message = core.chdir(run.folder)
    if not fine then say("the folder %s cannot be entered: %s", run.folder, message) end
  end
end

-- What a task has of its pool is here, too: its run ID, and listeners who are shown what it emits.
local function stand_in(task, show)
  function mantichora.runid() return task.runid end
  function mantichora.is_worker() return true end
  function mantichora.emit(...) show("emitted", ...) end
end

-- Which modules are not what they were, as far as the task reaches them.
local function name_changed_modules(file, task, init, f, ...)
  local fine, key, _, bytes = pcall(journal.key, { name = task.name, init = init }, f, ...)
  if not fine or not key then return end
  local row = file:rows("SELECT bytes FROM parts WHERE hash = CAST(?1 AS BLOB)", task.parts)()
  local before, now, changed = journal.parts(row and row.bytes or ""), journal.parts(bytes), {}
  for path, hash in pairs(before) do
    if path:find("^module '") and now[path] ~= hash then changed[#changed + 1] = path end
  end
  table.sort(changed)
  for _, path in ipairs(changed) do say("changed since: %s", path) end
end

-- The variables of the function at this level, by name; and those that it has from outside.
local function variables_at(level)
  local found = {}
  local f = debug.getinfo(level + 1, "f").func
  for i = 1, math.huge do
    local name, value = debug.getupvalue(f, i)
    if not name then break end
    if name ~= "_ENV" then found[name] = { value } end
  end
  for i = 1, math.huge do
    local name, value = debug.getlocal(level + 1, i)
    if not name then break end
    if name:sub(1, 1) ~= "(" then found[name] = { value } end
  end
  return found
end

-- The innermost function written in Lua, from where an error was raised; as a level for who calls this.
local function level_of_error()
  for level = 3, math.huge do
    local info = debug.getinfo(level, "S")
    if not info then return nil end
    if info.what ~= "C" then return level - 1 end
  end
end

-- A prompt that knows these variables, besides the globals.
local function prompt_with(variables)
  local before = getmetatable(_G)
  setmetatable(_G, { __index = function(_, name)
    local variable = variables[name]
    if variable then return variable[1] end
    local index = before and before.__index
    if type(index) == "function" then return index(_G, name) end
    return index and index[name]
  end })
  local names = {}
  for name in pairs(variables) do names[#names + 1] = name end
  table.sort(names)
  say("its variables here: %s", #names > 0 and table.concat(names, ", ") or "none")
  require "mantichora.commands.prompt" ()
  setmetatable(_G, before)
end

local function show(label, ...)
  local _, readable = core.part "mantichora.show"()
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    print(("%s %d: %s"):format(label, i, type(value) == "table" and tostring(readable(100, value))
      or type(value) == "string" and ("%q"):format(value) or tostring(value)))
  end
end

-- A traceback without its last lines.
local function without_last(traceback, count)
  local lines = {}
  for line in traceback:gmatch("[^\n]+") do lines[#lines + 1] = line end
  for _ = 1, count do lines[#lines] = nil end
  return table.concat(lines, "\n")
end

local function text_of(problem)
  if type(problem) == "string" then return problem end
  local mt = debug.getmetatable(problem)
  if type(mt) == "table" and rawget(mt, "__tostring") ~= nil then return tostring(problem) end
  show("error value", problem)
  return ("(the error value is a %s)"):format(type(problem))
end

local function call(is_interactive, f, ...)
  local ours -- frames below the task
  xpcall(error, function() ours = select(2, debug.traceback("", 2):gsub("\n", "")) - 2 end)
  return xpcall(f, function(problem)
    local text = text_of(problem)
    io.stdout:flush()
    say("%s", without_last(debug.traceback(text, 2), ours))
    if is_interactive then
      local level = level_of_error()
      if level then prompt_with(variables_at(level)) else prompt_with {} end
    end
    return problem
  end, ...)
end

--- Call the task again. The exit status.
return function(file, task, is_interactive)
  local call_row = file:rows("SELECT bytes FROM calls WHERE task = ?1", task.id)()
  if not call_row then
    say("mantichora journal: the call of task %d is not stored: %s", task.id, task.kind == "ok"
      and "a pool keeps those of all tasks with journal = { path = ..., keep = \"all\" }"
      or "it could not be, or the pool has journal = { path = ..., keep = \"none\" }")
    return 1
  end
  go_there(file, task)
  stand_in(task, show)
  local values = table.pack(pcall(journal.rebuild, call_row.bytes))
  if not values[1] then
    say("mantichora journal: the call of task %d cannot be rebuilt: %s", task.id, tostring(values[2]))
    return 1
  end
  local init, f = values[2], values[3]
  name_changed_modules(file, task, init, f, table.unpack(values, 4, values.n))
  if init then init() end
  local seed = file:rows "SELECT value FROM meta WHERE name = 'seed'"().value
  math.randomseed(journal.random_seeds(seed, task.key))
  local results = table.pack(call(is_interactive, f, table.unpack(values, 4, values.n)))
  if not results[1] then return 1 end
  show("result", table.unpack(results, 2, results.n))
  io.stdout:flush()
  return 0
end
