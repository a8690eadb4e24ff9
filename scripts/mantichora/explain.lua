--- Returns two functions to bindings/values/explain.c: one that receives each part of an encoding, and one
-- that makes the report of them.
-- @submodule mantichora

--- What `mantichora.explain(f, ...)` returns. `tostring` shows it as a tree.
--
-- A part is a table with
--
-- - `path`: where it is, worded as in errors: `upvalue 'conn'.socket of function <img.lua:12>`
-- - `step`: the last step of it
-- - `kind`: `table`, `function <img.lua:12>`, `C function`, `number` ...
-- - `how`: `value`, `name` (by reference), `shared` (sent with another part), `globals` (`_G`), `hook`
--   (rebuilt by the function that its `__mantichora` returned), `environment` (as far as code names
--   it), `refused`
-- - `detail`: the name (also of what is private to a module: `date.diff, upvalue 3`), the path of the other
--   part, or why it cannot be sent; of a class that is sent by value, why, and that it comes back as itself
-- - `size`: bytes, contents included; a shared part counts where it comes first
-- - `parts`: list of parts (of a table: those that are not plain numbers, booleans or short strings)
-- @table report
-- @field size bytes of the message
-- @field parts list of parts: the function and its arguments, then globals
-- @field refused list of the parts that cannot be sent; `run` would raise for the first
-- @field globals names of the globals that the code mentions, sorted; those assigned since the workers
-- were forked are sent
-- @field largest `report:largest(n)`: list of the `n` (default 3) largest parts that do not contain each
-- other

local LISTED = 12 -- parts of one whole that are shown
local DEEP = 60 -- wholes in wholes that are shown
local PATH = 160 -- bytes of a path before it is cut
local LONG = 256 -- bytes of a scalar in a table that is worth telling

local parts, refused, open, by_number, names = {}, {}, {}, {}, {}

-- A path keeps its beginning and its end: the keys of deeply nested values would fill the memory.
local function cut(path)
  if #path <= PATH then return path end
  local shown = path:gsub("%[%.%.%.%]", "")
  local first, last = shown:sub(1, PATH // 4), shown:sub(-PATH // 2)
  return (first:gsub("[%.%[][^%.%[]*$", "") .. "[...]" .. (last:match("[%.%[].*$") or last))
end

-- The words before and after the keys of deeper steps: "upvalue 'conn'" .socket " of function <img.lua:12>".
local function place(part, parent, step, tail)
  part.step = step
  if tail then -- the step begins words of its own
    part.head, part.tail = step, tail
    if parent and parent.path ~= "the function" then part.tail = tail .. " in " .. parent.path end
    if #part.tail > 2 * PATH then part.tail = part.tail:sub(1, PATH) .. " [...]" end
  else
    part.head, part.tail = cut(parent.head .. step), parent.tail
  end
  part.path = part.head .. part.tail
end

local tell = {}

function tell.part(level, step, tail, kind, how, detail, number, size, is_field)
  local parent = open[level]
  local is_object = kind == "table" or kind == "userdata" or kind:find("function", 1, true) or how == "refused"
  if how == "shared" then detail = by_number[number] end
  if (is_field or parent and parent.kind == "table") and not is_object and (size or 0) < LONG then return end
  if is_field and (how == "shared" or how == "globals") then return end -- most of them were told already
  local part = { kind = kind, how = how, detail = detail, size = size, parts = {} }
  place(part, parent, step, tail)
  if how ~= "shared" and is_object then by_number[number] = part.path end
  local list = parent and parent.parts or parts
  list[#list + 1] = part
  if how == "refused" then refused[#refused + 1] = part end
  if not size then open[level + 1] = part end
end

function tell.close(level, size)
  if open[level] then open[level].size = size end
  open[level] = nil
end

function tell.names(list)
  for _, name in ipairs(list) do names[name] = true end
end

local function show_size(size)
  if size < 1024 then return size .. " bytes" end
  local unit = "KiB"
  size = size / 1024
  if size >= 1024 then size, unit = size / 1024, "MiB" end
  local tenths = (size * 10 + 0.5) // 1 | 0 -- a format's fraction would follow the locale
  return ("%d.%d %s"):format(tenths // 10, tenths % 10, unit)
end

local SAID = {
  name = function(part) return "by reference: " .. part.detail end,
  shared = function(part) return "shared with " .. (part.detail or "what the receiver already has") end,
  globals = function() return "the receiver's _G" end,
  hook = function(part) return "rebuilt by what its __mantichora returned, " .. show_size(part.size) end,
  environment = function() return "custom _ENV, as far as the code names it" end,
  refused = function(part) return "CANNOT BE SENT: " .. part.detail end,
  value = function(part)
    return "by value, " .. show_size(part.size) .. (part.detail and ", " .. part.detail or "")
  end,
}

local function show(lines, part, indent)
  lines[#lines + 1] = ("%s%s: %s, %s"):format(indent, part.step, part.kind, SAID[part.how](part))
  for i, inner in ipairs(part.parts) do
    if #indent >= 2 * DEEP then
      lines[#lines + 1] = indent .. "  ... and its contents"
      break
    end
    if i > LISTED then
      lines[#lines + 1] = ("%s  ... and %d more"):format(indent, #part.parts - LISTED)
      break
    end
    show(lines, inner, indent .. "  ")
  end
end

local Report = { __name = "mantichora.explain" }
Report.__index = Report

function Report:__tostring()
  local lines = { ("%s in all"):format(show_size(self.size)) }
  for _, part in ipairs(self.parts) do show(lines, part, "") end
  if #self.globals > 0 then
    lines[#lines + 1] = "globals that the code mentions: " .. table.concat(self.globals, ", ")
  end
  return table.concat(lines, "\n")
end

function Report:largest(n)
  local all, lists = {}, { self.parts }
  while lists[1] do -- not by recursion: parts may be nested deeply
    for _, part in ipairs(table.remove(lists)) do
      local inside = 0
      for _, inner in ipairs(part.parts) do inside = inside + inner.size end
      -- A part stands for itself when most of it is its own, or when it has too many parts to tell.
      if inside * 2 < part.size or #part.parts > LISTED then
        all[#all + 1] = part
      else
        lists[#lists + 1] = part.parts
      end
    end
  end
  table.sort(all, function(a, b)
    if a.size ~= b.size then return a.size > b.size end
    return a.path < b.path
  end)
  n = n or 3
  return table.move(all, 1, n < #all and n or #all, 1, {})
end

local function report(size)
  local globals = {}
  for name in pairs(names) do globals[#globals + 1] = name end
  table.sort(globals)
  return setmetatable({ size = size, parts = parts, refused = refused, globals = globals }, Report)
end

return function(what, ...) tell[what](...) end, report
