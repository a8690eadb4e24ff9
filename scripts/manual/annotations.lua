-- Makes the annotations for LuaLS, the language server of editors, of what LDoc has read: see manual.lua, whose
-- part this is, and the target `annotations` in CMakeLists.txt.
--
-- MANUAL_OUT/mantichora.d.lua declares everything; the files of the submodules return their part of it.

local out = os.getenv("MANUAL_OUT")

-- What is public and stands in no comment of its own.
local levels = { "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL" }
local more_fields = {
  mantichora = { "---@field _VERSION string" },
  ["mantichora.logging"] = { "---@field DEBUG integer", "---@field INFO integer", "---@field WARNING integer",
    "---@field ERROR integer", "---@field CRITICAL integer" },
  ["mantichora.pool"] = { '---@field ["end"] fun(self: mantichora.pool) The same as `close`.' },
}

local known = {} -- the types that are declared, by their short names

local function trim(text) return (text:gsub("^%s+", ""):gsub("%s+$", "")) end

local function one_line(text) return (trim(text):gsub("%s*\n%s*", " ")) end

local function add(lines, ...)
  for _, text in ipairs { ... } do lines[#lines + 1] = text end
end

-- A text as comment; comments of LDoc stand one blank behind their hyphens.
local function comment(lines, text)
  text = trim((text or ""):gsub("\n ", "\n"))
  if text == "" then return end
  for line in (text:gsub("\n\n\n+", "\n\n") .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = line == "" and "---" or "--- " .. line
  end
end

local function type_of(modifiers)
  local name = modifiers and type(modifiers.type) == "string" and modifiers.type or "any"
  return (name:gsub("^%?", ""):gsub("[%w_]+", function(word) return known[word] end))
end

local function parameters(item)
  local list = {}
  for _, name in ipairs(item.params or {}) do
    if name == "..." or not name:find(".", 1, true) then
      local modifiers = (item.modifiers[item.parameter] or {})[name]
      list[#list + 1] = {
        name = name, type = type_of(modifiers), optional = modifiers and modifiers.opt and name ~= "...",
        text = one_line(item.params.map[name] or ""),
      }
    end
  end
  return list
end

local function results(item)
  local list = {}
  for i, text in ipairs(item.ret or {}) do
    list[i] = { type = type_of((item.modifiers["return"] or {})[i]), text = one_line(text) }
  end
  return list
end

-- Of a value that is called: `fun(a, b?): c`.
local function signature(item)
  local words, types = {}, {}
  for i, p in ipairs(parameters(item)) do
    words[i] = p.name .. (p.optional and "?" or "") .. ": " .. p.type
  end
  for i, r in ipairs(results(item)) do types[i] = r.type == "any" and "any, ..." or r.type end
  return ("fun(%s)%s"):format(table.concat(words, ", "), types[1] and ": " .. table.concat(types, ", ") or "")
end

local function declare_function(lines, item, name)
  local names = {}
  add(lines, "")
  comment(lines, (item.summary or "") .. "\n" .. (item.description or ""))
  for _, what in ipairs { { "Raises", item.raise }, { "Blocks", (item.tags.blocks or {})[1] } } do
    if what[2] then add(lines, "---", ("--- %s: %s"):format(what[1], one_line(what[2]))) end
  end
  for i, p in ipairs(parameters(item)) do
    names[i] = p.name
    add(lines, trim(("---@param %s%s %s %s"):format(p.name, p.optional and "?" or "", p.type, p.text)))
  end
  for _, r in ipairs(results(item)) do -- one without a type may stand for several
    local text = r.text ~= "" and " # " .. r.text or ""
    add(lines, "---@return " .. r.type .. (r.type == "any" and " ..." or "") .. text)
  end
  add(lines, ("function %s(%s) end"):format(name, table.concat(names, ", ")))
end

local function declare_table(lines, item)
  add(lines, "")
  comment(lines, (item.summary or "") .. "\n" .. (item.description or ""))
  add(lines, "---@class " .. known[item.name])
  for _, name in ipairs(item.params) do
    add(lines, trim(("---@field %s? %s %s"):format(name, type_of((item.modifiers.field or {})[name]),
      one_line(item.params.map[name] or ""))))
  end
end

-- A class whose functions follow; `item`: how it is called itself.
local function declare_class(lines, class, variable, text, item)
  add(lines, "")
  comment(lines, text)
  add(lines, "---@class " .. class)
  for _, field in ipairs(more_fields[class] or {}) do add(lines, field) end
  if item then add(lines, "---@overload " .. signature(item)) end
  add(lines, ("local %s = {}"):format(variable))
end

-- The text of each type, which LDoc keeps with the module's sections.
local function class_texts(module)
  local texts = {}
  for _, section in pairs(module.sections or {}) do
    if type(section) == "table" and section.name then
      texts[section.name] = (section.summary or "") .. "\n" .. (section.description or "")
    end
  end
  return texts
end

-- A logger has functions named after the levels, too, which only the module's have comments for.
local function declare_levels(lines, module, variable)
  for _, level in ipairs(levels) do
    for _, item in ipairs(module.items) do
      if item.name == level:lower() then declare_function(lines, item, variable .. ":" .. item.name) end
    end
  end
end

local function declare_module(lines, module)
  local short = module.name:match("[^.]*$")
  local texts, functions, tables, methods, called = class_texts(module), {}, {}, {}, nil
  local variables = {}
  for _, item in ipairs(module.items) do
    local class, method = item.name:match("^([^:]+):(.*)$")
    if item.type == "table" then
      declare_table(tables, item)
    elseif class then
      if not variables[class] then
        variables[class] = true
        declare_class(methods, known[class], class, texts[class])
        if class == "logger" then declare_levels(methods, module, class) end
      end
      declare_function(methods, item, class .. ":" .. method)
    elseif item.name == short or short == "mantichora" and item.name == "new" then
      called = item
    end
    if item.type ~= "table" and not class and item.name ~= short then
      declare_function(functions, item, short .. "." .. item.name)
    end
  end
  for _, part in ipairs { tables, methods } do add(lines, table.concat(part, "\n")) end
  declare_class(lines, module.name, short, (module.summary or "") .. "\n" .. (module.description or ""), called)
  add(lines, table.concat(functions, "\n"))
end

local head = [[
---@meta %s

-- Annotations for LuaLS, made of the comments in the sources (cmake --build build --target annotations).
-- luacheck: ignore]]

local function write(name, lines)
  local file = assert(io.open(out .. "/" .. name, "wb"))
  assert(file:write((table.concat(lines, "\n"):gsub("[ \t]+\n", "\n"):gsub("\n\n\n+", "\n\n")), "\n"))
  assert(file:close())
end

local function annotate(modules)
  local lines = { head:format("mantichora") }
  local names = {}
  for i, module in ipairs(modules) do
    names[i] = module.name
    for _, item in ipairs(module.items) do
      local name = item.type == "table" and item.name or item.name:match("^([^:]+):")
      if name then known[name] = "mantichora." .. name end
    end
  end
  table.sort(modules, function(a, b) return a.name > b.name end)
  for _, module in ipairs(modules) do declare_module(lines, module) end
  add(lines, "", "return mantichora")
  write("mantichora.d.lua", lines)
  for _, name in ipairs(names) do
    local short = name:match("%.([%w_]+)$")
    if short then
      write(short .. ".d.lua", { head:format(name), "", "---@type " .. name, "local " .. short, "return " .. short })
    end
  end
end

return annotate
