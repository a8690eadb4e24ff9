-- Completes names at the prompt: globals and keywords, fields after a dot, methods after a colon.
-- Loaded by bindings/host/repl.c, which calls the function returned as complete(text, columns). Looks at
-- tables raw and along __index tables; never calls a metamethod. Without `columns` it returns all
-- candidates, the prefix that they complete, and the function that finds the value of `a.b.c`.

-- What lists the names in a folder; nil: modules are found by what is loaded only.
local list_folder = ...

local next, rawget, type = next, rawget, type
local getmetatable = debug.getmetatable
local concat, sort = table.concat, table.sort
local find, gmatch, gsub, match, rep, sub =
  string.find, string.gmatch, string.gsub, string.match, string.rep, string.sub
local globals = _G

local CHAIN = 20  -- __index tables that are followed
local LINES = 20  -- of candidates that are shown

local keywords = {}
for word in gmatch([[and break do else elseif end false for function goto if in local nil not or
    repeat return then true until while]], "%a+") do
  keywords[word] = true
end

-- The tables in which a field of this value is looked for, in order.
local function places(value)
  local list, place = {}, value
  for _ = 1, CHAIN do
    if type(place) == "table" then list[#list + 1] = place end
    local meta = getmetatable(place)
    place = type(meta) == "table" and rawget(meta, "__index")
    if type(place) ~= "table" then break end
  end
  return list
end

local function field(value, name)
  for _, place in next, places(value) do
    local found = rawget(place, name)
    if found ~= nil then return found end
  end
end

local function is_callable(value)
  local meta = getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and rawget(meta, "__call") ~= nil
end

-- The value of `a.b.c`, nil if there is none.
local function follow(path)
  local value = globals
  for name in gmatch(path, "[^.:]+") do
    value = field(value, name)
    if value == nil then return nil end
  end
  return value
end

-- All names that begin with `prefix`, sorted.
local function candidates(value, prefix, only_callable, extra)
  local seen, list = {}, {}
  local function consider(name, found)
    if type(name) == "string" and sub(name, 1, #prefix) == prefix and match(name, "^[%a_][%w_]*$")
      and not seen[name] and (not only_callable or is_callable(found)) then
      seen[name] = true
      list[#list + 1] = name
    end
  end
  for name in next, extra or {} do consider(name) end
  for _, place in next, places(value) do
    for name, found in next, place do consider(name, found) end
  end
  sort(list)
  return list
end

-- What all of them begin with.
local function common(list)
  local first, last = list[1], list[#list] -- sorted: these differ most
  local length = 0
  while length < #first and sub(first, length + 1, length + 1) == sub(last, length + 1, length + 1) do
    length = length + 1
  end
  return sub(first, 1, length)
end

-- In columns, read downwards.
local function layout(list, columns)
  local width = 0
  for _, name in next, list do width = #name > width and #name or width end
  width = width + 2
  local across = (columns - 1) // width
  if across < 1 then across = 1 end
  local down = (#list + across - 1) // across
  local lines = {}
  for row = 1, down do
    if row > LINES then
      lines[row] = ("... and %d more"):format(#list - LINES * across)
      break
    end
    local cells = {}
    for i = row, #list, down do cells[#cells + 1] = list[i] .. rep(" ", width - #list[i]) end
    lines[row] = match(concat(cells), "^(.-) *$")
  end
  return concat(lines, "\n") .. "\n"
end

local function find_fields(text)
  local path, mark, prefix = match(text, "([%a_][%w_.]*)([.:])([%w_]*)$")
  if not path then
    prefix = match(text, "[%a_][%w_]*$") or ""
    if find(sub(text, 1, #text - #prefix), "[%w.:]$") then return {}, prefix end
    return candidates(globals, prefix, false, keywords), prefix
  end
  if find(sub(text, 1, #text - #path - #mark - #prefix), "[.:%])\"']%s*$") then return {}, prefix end
  local value = follow(path)
  if value == nil then return {}, prefix end
  return candidates(value, prefix, mark == ":"), prefix
end

-- Names inside of `require "`: what is loaded, and what package.path and package.cpath lead to.

-- Files of a folder as a template wants them: the part of each name for which the mark stands, which
-- begins with `prefix`.
local function find_files(add, folder, ending, prefix)
  for _, file in next, list_folder(folder) do
    if #file > #ending and sub(file, -#ending) == ending and sub(file, 1, #prefix) == prefix then
      add(sub(file, 1, -#ending - 1))
    end
  end
end

-- Folders below that hold something of the template's kind: what stands in it (`a/init.lua`), or more.
local function find_folders(add, folder, ending, prefix)
  for _, name in next, list_folder(folder) do
    if sub(name, 1, #prefix) == prefix and match(name, "^[%w_-]+$") then
      for _, file in next, list_folder(folder .. name) do
        if ending == "/" .. file then add(name) end
        if sub(ending, 1, 1) == "." and #file > #ending and sub(file, -#ending) == ending then add(name .. ".") end
      end
    end
  end
end

local hidden = { _G = true, ["mantichora.report"] = true } -- no modules, and not for people

local function find_modules(prefix)
  local seen, list = {}, {}
  local function consider(name)
    if type(name) == "string" and sub(name, 1, #prefix) == prefix and not hidden[name] and not seen[name] then
      seen[name] = true
      list[#list + 1] = name
    end
  end
  local package = rawget(globals, "package")
  if type(package) ~= "table" then return list end
  for _, place in next, { package.loaded, package.preload } do
    for name in next, type(place) == "table" and place or {} do consider(name) end
  end
  if list_folder then
    local above, rest = match(prefix, "^(.*%.)([^.]*)$")
    above, rest = above or "", rest or prefix
    local function add(name)
      if not find(name, ".", 1, true) or sub(name, -1) == "." then consider(above .. name) end
    end
    for _, path in next, { package.path, package.cpath } do
      for template in gmatch(type(path) == "string" and path or "", "[^;]+") do
        local folder, ending = match(template, "^([^?]*/)%?([^?]*)$")
        if folder then
          folder = folder .. gsub(above, "%.", "/")
          find_files(add, folder, ending, rest)
          find_folders(add, folder, ending, rest)
        end
      end
    end
  end
  sort(list)
  return list
end

local function find_names(text)
  local prefix = match(text, "require%s*%(?%s*[\"']([%w_.-]*)$")
  if prefix then return find_modules(prefix), prefix end
  return find_fields(text)
end

return function(text, columns)
  if not columns then
    local list, prefix = find_names(text)
    return list, prefix, follow
  end
  if not find(text, "[^ \t\n]%s*$") or find(text, "\n%s*$") then return "  " end -- indentation
  local list, prefix = find_names(text)
  if #list == 0 then return end
  local rest = sub(common(list), #prefix + 1)
  if rest ~= "" or #list == 1 then return rest end
  return nil, layout(list, columns)
end
