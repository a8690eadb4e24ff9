-- Reads messages of values (bindings/values/graph.h has the format) for people: tables, strings and numbers as they
-- are, in the place of all else a mark that says what it is. No function, metatable or hook is made of the bytes.

local TABLE <const>, SHAPED <const>, RECORD <const>, FUNCTION <const>, MODULE <const>, FIELD <const> =
  0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6
local STRING <const>, HOOK <const>, ENV <const>, LOOSE <const>, EARLY <const>, CLASS <const> =
  0xc0, 0xc7, 0xc8, 0xc9, 0xca, 0xcb
local SET <const>, END <const>, CUT <const>, CELL <const>, SKIP <const> = 0x52, 0x53, 0x54, 0x4b, 0x4c
local deepest <const> = 150 -- tables inside of tables; what is deeper is not shown

local mark_meta = { __tostring = function(mark) return mark.text end }

-- Stands for what is not built.
local function mark(text) return setmetatable({ text = text }, mark_meta) end

local Reading = {}
Reading.__index = Reading

local function damaged() error("the bytes of the value are damaged", 0) end

function Reading:byte()
  local byte = self.bytes:byte(self.at)
  if not byte then damaged() end
  self.at = self.at + 1
  return byte
end

function Reading:varint()
  local value, shift = 0, 0
  repeat
    local byte = self:byte()
    value = value | (byte & 0x7f) << shift
    shift = shift + 7
    if shift > 70 then damaged() end
  until byte < 0x80
  return value
end

function Reading:take(count)
  if count < 0 or count > #self.bytes - self.at + 1 then damaged() end
  local bytes = self.bytes:sub(self.at, self.at + count - 1)
  self.at = self.at + count
  return bytes
end

function Reading:unpack(format, size)
  return (string.unpack(format, self:take(size)))
end

-- The next object gets its number before its contents are read.
function Reading:number_object()
  self.objects = self.objects + 1
  return self.objects
end

function Reading:keep(number, value)
  self.kept[number] = value
  return value
end

function Reading:text()
  local value = self:value()
  return type(value) == "string" and value or damaged()
end

local runs = { [0x4d] = { "<i1", 1 }, [0x4e] = { "<i2", 2 }, [0x4f] = { "<i4", 4 }, [0x50] = { "<i8", 8 },
  [0x51] = { "<d", 8 } }

function Reading:elements(to, count)
  local i = 1
  while i <= count do
    local tag = self:byte()
    local run = runs[tag]
    if tag == SKIP then
      i = i + self:varint()
    elseif run then
      local n = self:varint()
      if n > count then damaged() end
      for k = i, i + n - 1 do to[k] = self:unpack(run[1], run[2]) end
      i = i + n
    else
      to[i] = self:value(tag)
      i = i + 1
    end
  end
end

-- Marks as keys are told apart; nan and nil cannot be keys.
local function put(to, key, value)
  if key ~= nil and key == key then to[key] = value end
end

function Reading:table(number, has_metatable)
  local to = self:keep(number, {})
  local array, hash = self:varint(), self:varint()
  if array > #self.bytes * 64 or hash > #self.bytes then damaged() end
  self:elements(to, array)
  for _ = 1, hash do
    local key = self:value()
    put(to, key, self:value())
  end
  if has_metatable then self:value() end
  return to
end

function Reading:shape()
  local keys, n = {}, self:varint()
  if n > #self.bytes then damaged() end
  for i = 1, n do keys[i] = self:text() end
  self.shapes[#self.shapes + 1] = keys
  return keys
end

function Reading:record(number, base, has_metatable)
  local to = self:keep(number, {})
  local keys
  if base == SHAPED then keys = self:shape() else keys = self.shapes[self:varint() + 1] or damaged() end
  if base == LOOSE then
    local i = 1
    while true do
      local tag = self:byte()
      if tag == CUT then break end
      to[keys[i] or damaged()] = self:value(tag)
      i = i + 1
    end
    while true do
      local tag = self:byte()
      if tag == END then break end
      local key = self:value(tag)
      put(to, key, self:value())
    end
  else
    for i = 1, #keys do to[keys[i]] = self:value() end
  end
  if has_metatable then self:value() end
  return to
end

function Reading:func(number)
  local value = self:keep(number, mark "<function>")
  if self:varint() == 0 then self:take(self:varint()) end
  for _ = 1, self:varint() do
    local tag = self:byte()
    if tag == CELL then
      self:varint()
      self:varint()
    else
      self:value(tag)
    end
  end
  return value
end

function Reading:sets()
  while true do
    local tag = self:byte()
    if tag == END then return end
    if tag ~= SET then damaged() end
    for _ = 1, 3 do self:value() end
  end
end

function Reading:hook(number)
  local value = self:keep(number, mark "<object>")
  for _ = 1, self:varint() do self:value() end
  self:sets()
  return value
end

function Reading:object(tag)
  local number = self:number_object()
  if tag < 0xc0 then return self:keep(number, self:take(tag & 0x1f)) end
  local base, more = tag & ~0x30, tag & 0x10 ~= 0
  if base == STRING then return self:keep(number, self:take(self:varint())) end
  if base == TABLE then return self:table(number, more) end
  if base == SHAPED or base == RECORD or base == LOOSE then return self:record(number, base, more) end
  if base == FUNCTION then return self:func(number) end
  if base == MODULE then return self:keep(number, mark(("<module %s>"):format(self:text()))) end
  if base == FIELD then
    local module, name = self:text(), self:text()
    return self:keep(number, mark(("<%s.%s>"):format(module, name)))
  end
  if base == HOOK then return self:hook(number) end
  if base == ENV then return self:keep(number, mark "<environment>") end
  if base == CLASS then
    self:varint()
    return self:keep(number, more and self:value() or mark "<class>")
  end
  if base == EARLY then
    self:varint()
    self:varint()
    return self:table(number, more)
  end
  damaged()
end

local integers = { [0x43] = { "<i1", 1 }, [0x44] = { "<i2", 2 }, [0x45] = { "<i4", 4 }, [0x46] = { "<i8", 8 } }

function Reading:value(tag)
  tag = tag or self:byte()
  if tag < 0x40 then return tag end
  if tag >= 0x80 then
    self.depth = self.depth + 1
    if self.depth > deepest then error("it is nested too deep to be shown", 0) end
    local value = self:object(tag)
    self.depth = self.depth - 1
    return value
  end
  local integer = integers[tag]
  if integer then return self:unpack(integer[1], integer[2]) end
  if tag == 0x40 then return nil end
  if tag == 0x41 or tag == 0x42 then return tag == 0x42 end
  if tag == 0x47 then return self:unpack("<d", 8) end
  if tag == 0x48 then
    self:take(8)
    return mark "<light userdata>"
  end
  if tag == 0x49 then return mark "_G" end
  if tag == 0x4a then return self.kept[self:varint() + 1] end
  damaged()
end

local graph = {}

--- The values of a message, as a table.pack; or nil and why not.
function graph.read(bytes)
  local reading = setmetatable({ bytes = bytes, at = 2, objects = 0, kept = {}, shapes = {}, depth = 0 }, Reading)
  local values = { n = 0 }
  local fine, message = pcall(function()
    local count = reading:varint()
    for i = 1, count do
      values[i] = reading:value()
      values.n = i
    end
  end)
  if not fine then return nil, message end
  return values
end

return graph
