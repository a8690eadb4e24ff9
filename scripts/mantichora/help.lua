-- What the prompt's help() says: made of the comments that the manual's reference is made of, which the build
-- puts before this file as `reference` (runtime/reference.cmake). Loaded by bindings/host/repl.c; returns
-- help(value), which prints by the global `print` and says whether it knew something.
-- luacheck: read_globals reference

local getmetatable, getregistry = debug.getmetatable, debug.getregistry
local ipairs, next, open, rawget, select, type = ipairs, next, io.open, rawget, select, type
local concat, sort = table.concat, table.sort
local find, gmatch, gsub, match, rep, sub =
  string.find, string.gmatch, string.gsub, string.match, string.rep, string.sub
local globals, print = _G, print
local blocks = reference

local WIDTH = 78

-- ---------------------------------------------------------------------------------------------
-- The comments: each becomes an item with what its tags say

-- "[opt=0] number timeout seconds to wait" and the like: name, type, what stands for nothing, text.
local typed = { tparam = true, int = "integer", string = "string", treturn = true }

local function read_parameter(tag, modifiers, text)
  local parameter = { default = match(modifiers, "opt=?([^%],]*)") }
  if typed[tag] == true then
    parameter.type, text = match(text, "^(%S+)%s*(.*)$")
  else
    parameter.type = typed[tag]
  end
  parameter.name, parameter.text = match(text, "^(%S*)%s*(.*)$")
  return parameter
end

local function read_tag(item, tag, modifiers, text)
  text = gsub(text, "%s*\n%s*", " ")
  if tag == "return" or tag == "treturn" then
    local kind, rest = match(text, "^(%S+)%s*(.*)$")
    if tag == "treturn" then text = rest == "" and kind or ("%s (%s)"):format(rest, kind) end
    item.returns = item.returns and item.returns .. ", " .. text or text
  elseif tag == "param" or tag == "field" or typed[tag] then
    item.parameters[#item.parameters + 1] = read_parameter(tag, modifiers, text)
  else
    item[tag] = text
  end
end

-- One comment: the text before its first tag, and the tags.
local function read_block(block)
  local item = { parameters = {} }
  local text, tags = match("\n" .. block, "^(.-)\n%s*(@.*)$")
  text = gsub(text or block, "^%s*\n", "")
  -- Those of Lua stand one blank behind their hyphens.
  item.text = find(text, "^ ") and gsub(gsub(text, "^ ", ""), "\n ", "\n") or text
  for tag, modifiers, rest in gmatch("\n" .. gsub(tags or "", "\n ?@", "\n\0@"), "@(%a+)(%b[])([^\0]*)") do
    read_tag(item, tag, modifiers, match(rest, "^%s*(.-)%s*$"))
  end
  return item
end

-- Tags without modifiers get empty ones, so that one pattern reads all.
local function even(block) return (gsub(block, "(\n ?@%a+)([^%a%[])", "%1[]%2")) end

local short_names = { mantichora = "mantichora", ["mantichora.atpbar"] = "atpbar", ["mantichora.logging"] = "logging" }

-- All items, in the order of the sources, and by their names: "pool:run", "atpbar.wrap", "options".
local items, by_name

local function add(item, name)
  item.name = name
  items[#items + 1] = item
  by_name[name] = item
end

local function read_reference()
  items, by_name = {}, {}
  local module, class
  for block in gmatch(gsub(blocks, "@@\n", "\0") .. "\0", "([^\0]*)\0") do
    local item = read_block(even("\n" .. block .. "\n"))
    if item.module or item.submodule then
      module, class = item.module or item.submodule, nil
      if item.module then add(item, short_names[module]) end
    elseif item.section then
      class = nil
    elseif item.type then
      class = item.type
      add(item, class)
    elseif item.table then
      add(item, item.table)
    elseif item["function"] then
      local short, name = short_names[module], item["function"]
      item.owner = class or short
      add(item, class and class .. ":" .. name or name == short and name .. "()" or short .. "." .. name)
    end
  end
end

-- ---------------------------------------------------------------------------------------------
-- Which item a value is

-- The methods of a kind of object: what its metatable's __index has.
local function methods_of(meta)
  local methods = type(meta) == "table" and rawget(meta, "__index")
  return type(methods) == "table" and methods or {}
end

local function loaded(name)
  local list = rawget(getregistry(), "_LOADED")
  local value = type(list) == "table" and rawget(list, name)
  return type(value) == "table" and value or nil
end

-- Metatables of the types that the reference names.
local function metatables()
  local registry, logging = getregistry(), loaded "mantichora.logging"
  return {
    pool = rawget(registry, "mantichora pool"), bar = rawget(registry, "mantichora.atpbar.bar"),
    logger = logging and getmetatable(logging.get()),
  }
end

local function item_of_function(f)
  for module, short in next, short_names do
    for name, value in next, loaded(module) or {} do
      if value == f then return by_name[short .. "." .. name] end
    end
  end
  for class, meta in next, metatables() do
    local best
    for name, value in next, methods_of(meta) do
      if value == f then best = by_name[class .. ":" .. name] or best or by_name[class] end
    end
    if best then return best end
  end
end

local function item_of(value)
  if type(value) == "function" then return item_of_function(value) end
  for module, short in next, short_names do
    if value == loaded(module) then return by_name[short] end
  end
  local meta = getmetatable(value)
  if meta == nil or type(value) == "string" then return nil end
  for class, its in next, metatables() do
    if meta == its then return by_name[class] end
  end
  local name = type(meta) == "table" and rawget(meta, "__name")
  return name == "mantichora failure" and by_name.failure or nil
end

-- Those whose name is this one, or ends with it.
local function items_named(word)
  local found = by_name[word] or by_name[word .. "()"]
  if found then return { found } end
  local list = {}
  for _, item in ipairs(items) do
    if match(item.name, "[.:](.*)$") == word then list[#list + 1] = item end
    for _, field in ipairs(item.table and item.parameters or {}) do
      if field.name == word then
        list[#list + 1] = { name = item.table .. "." .. word, text = field.text, parameters = {} }
      end
    end
  end
  return list
end

-- ---------------------------------------------------------------------------------------------
-- Text

-- Words of a paragraph on lines that fit; what stands before the first of them, and before the others.
local function wrap(text, first, others)
  local lines, line = {}, first
  for word in gmatch(text, "%S+") do
    local is_begin = find(line, "^%s*$") ~= nil or line == first
    if not is_begin and #line + 1 + #word > WIDTH then
      lines[#lines + 1] = line
      line, is_begin = others, true
    end
    line = line .. (is_begin and "" or " ") .. word
  end
  lines[#lines + 1] = line
  return concat(lines, "\n")
end

-- Paragraphs are wrapped; indented lines stand as they are, and items of lists begin anew.
local function format_text(text)
  local out, words = {}, {}
  local function finish()
    if words[1] then
      local whole = concat(words, " ")
      out[#out + 1] = wrap(whole, "", find(whole, "^%- ") and "  " or "")
    end
    words = {}
  end
  for line in gmatch(text .. "\n", "(.-)\n") do
    if find(line, "^    ") or not find(line, "%S") then
      finish()
      if find(line, "%S") or out[1] and out[#out] ~= "" then out[#out + 1] = gsub(line, "%s+$", "") end
    else
      if find(line, "^%- ") then finish() end
      words[#words + 1] = line
    end
  end
  finish()
  while out[#out] == "" do out[#out] = nil end
  return concat(out, "\n")
end

local function signature(item)
  local words = {}
  for _, parameter in ipairs(item.parameters) do
    if parameter.name == "..." or not find(parameter.name, ".", 1, true) then
      local comma = words[1] and ", " or ""
      words[#words + 1] = parameter.default and "[" .. comma .. parameter.name .. "]" or comma .. parameter.name
    end
  end
  return gsub(item.name, "%(%)$", "") .. "(" .. concat(words) .. ")"
end

local function add_parameters(lines, item)
  local width = 0
  for _, parameter in ipairs(item.parameters) do
    if #parameter.name > width and #parameter.name < 21 then width = #parameter.name end
  end
  for _, parameter in ipairs(item.parameters) do
    local head = "  " .. parameter.name .. rep(" ", width - #parameter.name) .. "  "
    local notes = {}
    notes[#notes + 1] = parameter.type
    if parameter.default then
      notes[#notes + 1] = parameter.default == "" and "optional" or "default " .. parameter.default
    end
    local note = notes[1] and ("(%s) "):format(concat(notes, ", ")) or ""
    lines[#lines + 1] = wrap(note .. parameter.text, head, rep(" ", width + 4))
  end
end

local function function_text(item)
  local lines = { signature(item), "", format_text(item.text) }
  if item.parameters[1] then lines[#lines + 1] = "" end
  add_parameters(lines, item)
  local facts = { { "Returns", item.returns }, { "Raises", item.raise }, { "Blocks", item.blocks } }
  local first = true
  for i = 1, 3 do
    if facts[i][2] then
      if first then lines[#lines + 1] = "" end
      first = false
      lines[#lines + 1] = wrap(facts[i][2], facts[i][1] .. ": ", "  ")
    end
  end
  return concat(lines, "\n")
end

-- The first sentence.
local function brief(item)
  local text = gsub(match(item.text, "^(.-)\n%s*\n") or item.text, "%s+", " ")
  return match(text, "^(.-%.)%s") or text
end

-- A line each: what a module or a type has.
local function add_members(lines, owner)
  for _, item in ipairs(items) do
    if item.owner == owner then
      local head, margin = "  " .. signature(item), rep(" ", 33)
      if #head > 31 then
        lines[#lines + 1] = head
        head = ""
      end
      lines[#lines + 1] = wrap(brief(item), head .. sub(margin, #head + 1), margin)
    end
  end
end

local function whole_text(item)
  local lines = { item.name, "", format_text(item.text) }
  if item.parameters[1] then
    lines[#lines + 1] = ""
    add_parameters(lines, item)
  end
  local before = #lines
  add_members(lines, item.name)
  if #lines > before then
    table.insert(lines, before + 1, "")
    lines[#lines + 1] = ""
    lines[#lines + 1] = ('help "%s" tells more of one of them.'):format(
      match(concat(lines, "\n", before + 2), "([%w_]+[.:][%w_]+)%("))
  end
  return concat(lines, "\n")
end

local function item_text(item)
  return item["function"] and function_text(item) or whole_text(item)
end

-- ---------------------------------------------------------------------------------------------
-- help() itself

-- Where the manual is installed, as far as that can be seen from here.
local function manual_path()
  local arguments, program = rawget(globals, "arg"), nil
  if type(arguments) == "table" then
    local at = 0
    while arguments[at - 1] do at = at - 1 end
    program = type(arguments[at]) == "string" and match(arguments[at], "^(.*/)[^/]*$")
  end
  local places = { "/usr/local/", "/usr/" }
  if program then
    table.insert(places, 1, program .. "../")
    table.insert(places, 2, program .. "../../") -- a build's
  end
  for _, place in ipairs(places) do
    for _, below in ipairs { "share/doc/mantichora/html/index.html", "build/manual/html/index.html" } do
      local file = open(place .. below)
      if file then
        file:close()
        return (gsub(gsub(place .. below, "[^/]+/%.%./%.%./", "../"), "[^/]+/%.%./", ""))
      end
    end
  end
  return "share/doc/mantichora/html/index.html, below the folder where it was installed"
end

local COMMANDS = [[
At the prompt
  expression        its values are shown; _ is the first of them, _ERR the last error
  help(value)       what a function or module of mantichora is for: help(mantichora.new)
  help "name"       the same by name: help "pool:run", help "options", help "failure"
  Tab               completes names, also inside of require "
  Up, Down, Ctrl-R  lines that were typed before
  Ctrl-C            stops the line, or the call that waits; pools and their tasks go on
  Ctrl-D            leaves, as os.exit() does
]]

local function members(owner)
  local names = {}
  for _, item in ipairs(items) do
    if item.owner == owner then names[#names + 1] = gsub(item.name, "^.*[.:]", "") end
  end
  sort(names)
  return concat(names, ", ")
end

local function overview()
  local lines = { COMMANDS, "There without require" }
  for _, name in ipairs { "mantichora", "atpbar", "logging" } do
    lines[#lines + 1] = wrap(members(name), "  " .. name .. rep(" ", 18 - #name), rep(" ", 20))
  end
  lines[#lines + 1] = "\nMethods"
  for _, name in ipairs { "pool", "bar", "logger" } do
    lines[#lines + 1] = wrap(members(name), "  " .. name .. rep(" ", 18 - #name), rep(" ", 20))
  end
  lines[#lines + 1] = "\nThe manual: man mantichora-guide (where to begin), man mantichora (this program)"
  lines[#lines + 1] = "  " .. manual_path()
  return concat(lines, "\n")
end

local function help(...)
  if not items then read_reference() end
  local value = ...
  if select("#", ...) == 0 or value == help then
    print(overview())
    return true
  end
  local found = type(value) == "string" and items_named(value) or { item_of(value) }
  for i, item in ipairs(found) do
    if i > 1 then print "" end
    print(item_text(item))
  end
  return found[1] ~= nil
end

return help
