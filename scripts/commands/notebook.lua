-- The host's side of a notebook: does what its kernel (scripts/jupyter/kernel.py) asks for. A frame is a
-- list of strings, the first says what it is.

local cell = require "commands.cell"
local core = require "mantichora.commands.kernel"
local mantichora = require "mantichora"

local pack, unpack, concat = table.pack, table.unpack, table.concat
local tostring, type, pcall, next, getmetatable = tostring, type, pcall, next, debug.getmetatable
local rawget, getinfo, getlocal = rawget, debug.getinfo, debug.getlocal
local stderr = io.stderr

local COLUMNS = 100 -- of what is shown

-- What follows a thing that is shown must stand below it.
local is_shown = { display = true, result = true }

local function send(kind, ...)
  local fields = pack(kind, ...)
  for i = 1, fields.n do fields[i] = ("<s4"):pack(fields[i]) end
  return core.send(concat(fields), is_shown[kind])
end

-- A part of the prompt that prints, and what it printed by its last call.
local function silent(name)
  local lines = {}
  local function collect(...)
    local values = pack(...)
    for i = 1, values.n do values[i] = tostring(values[i]) end
    lines[#lines + 1] = concat(values, "\t")
  end
  local f = core.part(name, setmetatable({ print = collect }, { __index = _G }))
  return f and function(...)
    lines = {}
    f(...)
    return concat(lines, "\n")
  end
end

local complete = core.part "mantichora.complete"
local show_all = silent "mantichora.show"
local help = silent "mantichora.help"
local usual_print = print

local function show(...)
  return show_all(COLUMNS, ...)
end

-- Rich results

-- What the value says of itself for MIME types, a list of pairs; nil: nothing.
local function rich(value)
  local meta = getmetatable(value)
  local f = type(meta) == "table" and rawget(meta, "__jupyter")
  if not f then return nil end
  local data = f(value)
  if type(data) ~= "table" then
    error("__jupyter must return a table from MIME types to data: it has returned a " .. type(data) .. " value", 0)
  end
  local list = {}
  for mime, bytes in next, data do
    if type(mime) ~= "string" or not mime:find("^[%w.+-]+/[%w.+-]+$") then
      error("__jupyter has returned data for '" .. tostring(mime) .. "', which is no MIME type", 0)
    elseif type(bytes) ~= "string" then
      error("__jupyter has returned a " .. type(bytes) .. " value for " .. mime .. ": it must be a string", 0)
    end
    list[#list + 1] = mime
    list[#list + 1] = bytes
  end
  return list, data["text/plain"] ~= nil
end

-- All values as a list of pairs, the first one's rich data with the text of all.
local function describe(...)
  local list, has_text
  if select("#", ...) == 1 then list, has_text = rich((...)) end
  list = list or {}
  if not has_text then
    list[#list + 1] = "text/plain"
    list[#list + 1] = show(...)
  end
  return list
end

local function display(...)
  for i = 1, select("#", ...) do
    local list = describe((select(i, ...)))
    if mantichora.is_worker() then
      for at = 1, #list, 2 do
        if list[at] == "text/plain" then print(list[at + 1]) end
      end
    else
      send("display", unpack(list))
    end
  end
end

-- Inspection

local function parameters(f)
  local info, names = getinfo(f, "u"), {}
  for i = 1, info.nparams do names[i] = getlocal(f, i) end
  if info.isvararg then names[#names + 1] = "..." end
  return concat(names, ", ")
end

local cells = {} -- code by chunk name

-- The comment above a function of a cell.
local function comment_above(info)
  local code, lines = cells[info.source], {}
  if not code then return nil end
  for line in (code .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
  local first = info.linedefined
  while first > 1 and lines[first - 1]:find("^%s*%-%-") do first = first - 1 end
  if first == info.linedefined then return nil end
  local text = concat(lines, "\n", first, info.linedefined - 1)
  return (("\n" .. text):gsub("\n%s*%-%-+ ?", "\n"):sub(2))
end

-- What is known of a value: what the prompt's help says of it, or what it is.
local function inspect(name, value)
  local good, text = pcall(help or error, value)
  if good and text ~= "" then return text end
  local lines = { name .. ": " .. type(value) }
  if type(value) == "function" then
    local info = getinfo(value, "S")
    if info.what ~= "C" then
      lines[1] = ("%s(%s)"):format(name, parameters(value))
      lines[2] = ("defined at %s:%d"):format(info.short_src, info.linedefined)
      lines[3] = comment_above(info)
    end
  else
    lines[2] = show(value)
  end
  return concat(lines, "\n")
end

-- `a` or `a.b` where a value is a global or stands in a table that is one.
local function name_of(value)
  for name, found in next, _G do
    if rawequal(found, value) and type(name) == "string" and name ~= "_" then return name end
  end
  for name, place in next, _G do
    if type(name) == "string" and type(place) == "table" then
      for field, found in next, place do
        if rawequal(found, value) and type(field) == "string" then return name .. "." .. field end
      end
    end
  end
end

-- help() of a notebook; help(value) is that of the prompt, where that knows something.
local function explain(...)
  if select("#", ...) == 0 then
    print("help(value) or name? tells what is known of a value. display(value) shows it in the middle of a cell.\n"
      .. "mantichora, atpbar and logging are there without require. The manual: man mantichora-notebook")
  else
    print(inspect(name_of((...)) or "value", (...)))
  end
end

-- Cells

local function is_rich(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__jupyter") ~= nil
end

-- Show what a cell has returned.
local function show_result(...)
  if select("#", ...) == 0 then return end
  _G._ = (...)
  if rawequal(print, usual_print) or is_rich((...)) then
    send("result", unpack(describe(...)))
  else
    print(...) -- somebody's own
  end
end

local function report(value, message, traceback)
  _G._ERR = value
  send("done", "error", tostring(message), traceback or "")
end

local function finish(good, ...)
  if not good then return report(...) end
  local values = pack(...)
  local fine, value, message, traceback = core.call(show_result, unpack(values, 1, values.n))
  if not fine then return report(value, message, traceback) end
  send("done", "ok")
end

local handlers = {}

function handlers.run(count, code)
  local name = ("=In[%s]"):format(count)
  local f, argument = cell.compile(code, name, core.is_incomplete)
  if not f then return report(argument, argument) end
  cells[name] = code
  finish(core.call(f, argument))
end

function handlers.complete(text)
  local names, prefix = complete(text)
  send("completed", prefix, unpack(names))
end

function handlers.is_complete(code)
  local f, _, incomplete = cell.compile(code, "=cell", core.is_incomplete)
  send("completeness", f and "complete" or incomplete and "incomplete" or "invalid")
end

function handlers.inspect(path)
  local _, _, follow = complete(path)
  local value = follow(path)
  if value == nil then return send("inspected") end
  local good, text = pcall(inspect, path, value)
  send("inspected", good and text or tostring(value))
end

-- What the prompt has without `require`.
local function set_globals()
  local globals = {
    mantichora = mantichora, display = display,
    atpbar = require "mantichora.atpbar", logging = require "mantichora.logging",
    help = explain,
  }
  for name, value in next, globals do
    if _G[name] == nil then _G[name] = value end
  end
end

return function(...)
  core.open(...)
  set_globals()
  send("hello", mantichora._VERSION or "", _VERSION)
  while true do
    local good, frame = pcall(core.receive)
    if not good then
      stderr:write(tostring(frame), "\n") -- what a handler has raised, between cells
    elseif not frame then
      return 0
    else
      local fields = core.fields(frame)
      local handler = handlers[fields[1]]
      if handler then handler(unpack(fields, 2)) end
    end
  end
end
