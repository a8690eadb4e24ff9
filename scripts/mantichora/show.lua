-- Shows values at the prompt: as `print` does, but tables readably. Loaded by bindings/host/repl.c, which
-- calls the function returned as show(columns, ...). The second one returned makes the text of one value.

local ipairs, next, pcall, rawget, rawlen = ipairs, next, pcall, rawget, rawlen
local setmetatable, tostring, type = setmetatable, tostring, type
local getinfo, getmetatable, math_type = debug.getinfo, debug.getmetatable, math.type
local concat, pack, sort, unpack = table.concat, table.pack, table.sort, table.unpack
local byte, find, format, gsub, match, rep, sub =
  string.byte, string.find, string.format, string.gsub, string.match, string.rep, string.sub
local codepoint, utf8_len = utf8.codepoint, utf8.len
local print = print

-- What is shown of a value at the most.
local DEPTH = 5     -- tables inside of tables
local ENTRIES = 100 -- of one table
local VALUES = 1000 -- in all
local BYTES = 500   -- of one string

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
    return then true until while]]):gmatch("%a+") do
  keywords[word] = true
end

-- Strings

local escapes = {
  ["\a"] = "\\a", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t",
  ["\v"] = "\\v", ["\\"] = "\\\\", ['"'] = '\\"',
}

-- Characters that are valid, and yet do something else on a terminal than being seen.
local function is_harmful(code)
  return code >= 0x80 and code <= 0x9F or code >= 0x200B and code <= 0x200F
    or code >= 0x2028 and code <= 0x202E or code >= 0x2060 and code <= 0x206F or code == 0xFEFF
end

local function escape_high(bytes)
  if utf8_len(bytes) ~= 1 then
    return (gsub(bytes, ".", function(c) return format("\\x%02X", byte(c)) end))
  end
  local code = codepoint(bytes)
  return is_harmful(code) and format("\\u{%X}", code) or bytes
end

-- Text on one line, with nothing in it that a terminal obeys. `quotes`: backslashes and quotes are
-- escaped as well, so that Lua would read it back.
local function harmless(text, quotes)
  text = gsub(text, quotes and '[%c\\"]' or "%c", function(c)
    return escapes[c] or format("\\x%02X", byte(c))
  end)
  return (gsub(text, "[\x80-\xFF][\x80-\xBF]*", escape_high))
end

local function quote(text)
  if #text <= BYTES then return '"' .. harmless(text, true) .. '"' end
  local cut = gsub(sub(text, 1, BYTES), "[\xC2-\xF4][\x80-\xBF]*$", "")
  return ('"%s" ... (%d bytes)'):format(harmless(cut, true), #text)
end

-- Values that are no tables

local function name_of(value)
  local meta = getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and harmless(name) or nil
end

local function show_function(value)
  local info = getinfo(value, "S")
  if info.what == "C" then return "<C function>" end
  return ("<function %s:%d>"):format(harmless(info.short_src), info.linedefined)
end

-- With a point in every locale.
local function show_number(value)
  return (tostring(value):gsub("[^%w+-]+", "."))
end

local simple = {
  string = quote,
  number = show_number,
  ["function"] = show_function,
  thread = function() return "<coroutine>" end,
  userdata = function(value) return "<" .. (name_of(value) or "userdata") .. ">" end,
}

-- What the value's own __tostring says; nil where it has none.
local function by_itself(value)
  local meta = getmetatable(value)
  if type(value) == "string" or type(meta) ~= "table" or rawget(meta, "__tostring") == nil then
    return nil
  end
  local good, text = pcall(tostring, value)
  return good and harmless(text) or "<error in __tostring>"
end

-- A pool, with what waits to be received; nil: it is none.
local function show_pool(value)
  local meta = type(value) == "userdata" and getmetatable(value)
  local of_prompt = type(meta) == "table" and rawget(meta, "__prompt")
  if not of_prompt then return nil end
  local text, _, waiting = tostring(value), of_prompt.counts(value)
  return waiting and text .. (", %d to be received"):format(waiting) or text
end

-- Keys: the list first, then numbers, strings, and the rest as it comes.

local ranks = { number = 1, string = 2, boolean = 3 }

local function is_before(a, b)
  local rank_a, rank_b = ranks[type(a)] or 4, ranks[type(b)] or 4
  if rank_a ~= rank_b then return rank_a < rank_b end
  if rank_a <= 2 then return a < b end
  return rank_a == 3 and a and not b
end

-- The length of the list at the beginning, and the other keys.
local function keys_of(value)
  local length, keys = 0, {}
  for i = 1, rawlen(value) do
    if rawget(value, i) == nil then break end
    length = i
  end
  for key in next, value do
    if not (math_type(key) == "integer" and key >= 1 and key <= length) then keys[#keys + 1] = key end
  end
  if #keys <= 10000 then sort(keys, is_before) end
  return length, keys
end

-- Tables. Each becomes a list of items, which fit on the line or get a line each.

local function show_key(shown, key)
  if type(key) == "string" and match(key, "^[%a_][%w_]*$") and not keywords[key] then return key end
  return "[" .. shown:value(key, DEPTH) .. "]"
end

-- Those of the first `count` that are short stand together on lines of this width.
local function gather(items, count, width)
  local lines, line = {}, nil
  for i, item in ipairs(items) do
    local short = i <= count and not find(item, "[\n{]")
    if line and short and #line + 2 + #item < width then
      line = line .. ", " .. item
    else
      lines[#lines + 1] = line
      line = item
      if not short then
        lines[#lines + 1] = line
        line = nil
      end
    end
  end
  lines[#lines + 1] = line
  return lines
end

local function join(shown, name, items, count, indent)
  local line = "{ " .. concat(items, ", ") .. " }"
  local head = name and name .. " " or ""
  if #items == 0 then return head .. "{}" end
  if #line + #head + indent <= shown.columns and not find(line, "\n", 1, true) then
    return head .. line
  end
  local margin = "\n" .. rep(" ", indent + 2)
  items = gather(items, count, shown.columns - indent - 2)
  return head .. "{" .. margin .. concat(items, "," .. margin) .. "\n" .. rep(" ", indent) .. "}"
end

local methods = {}

function methods:items(value, depth)
  local items, length, keys = {}, keys_of(value)
  local total = length + #keys
  for i = 1, total do
    if i > ENTRIES or self.left <= 0 then
      items[i] = ("... and %d more"):format(total - i + 1)
      break
    end
    if i <= length then
      items[i] = self:value(rawget(value, i), depth + 1)
    else
      local key = keys[i - length]
      items[i] = show_key(self, key) .. " = " .. self:value(rawget(value, key), depth + 1)
    end
  end
  return items, length < ENTRIES and length or ENTRIES
end

function methods:table(value, depth)
  if self.open[value] then return "<cycle>" end
  local name = name_of(value)
  if depth >= DEPTH then return next(value) == nil and "{}" or (name and name .. " " or "") .. "{...}" end
  self.open[value] = true
  local items, listed = self:items(value, depth)
  self.open[value] = nil
  return join(self, name, items, listed, depth * 2)
end

function methods:value(value, depth)
  self.left = self.left - 1
  local text = show_pool(value) or by_itself(value)
  if text then return text end
  if type(value) == "table" then return self:table(value, depth) end
  return (simple[type(value)] or tostring)(value)
end

local meta = { __index = methods }

-- A table without a __tostring of its own becomes text, and so does a pool; all else is print's business.
local function readable(columns, value)
  if type(value) ~= "table" then return show_pool(value) or value end
  local mt = getmetatable(value)
  if type(mt) == "table" and rawget(mt, "__tostring") ~= nil then return value end
  return setmetatable({ columns = columns - 1, left = VALUES, open = {} }, meta):table(value, 0)
end

return function(columns, ...)
  local values = pack(...)
  for i = 1, values.n do values[i] = readable(columns, values[i]) end
  print(unpack(values, 1, values.n))
end, readable
