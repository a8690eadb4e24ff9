-- Tables as programs leave them: filled in any order, emptied, filled again, grown and shrunk. Each is sent
-- and compared entry by entry. Run as a program of its own, since the order of a table's entries depends on
-- the seed of a state's hashes:
--
--   lua tables.lua first-seed count

local codec = require "codec_module"

local first, count = tonumber(arg[1]), tonumber(arg[2])
local random = math.random

local NAMES = { "name", "kind", "size", "color", "owner", "state", "weight", "x", "y", "z", "n", "id", "parent",
  "first", "last", "next", "previous", "title", "text", "flags", "width", "height", "depth", "speed" }

local values = {
  integers = function(i) return i end,
  floats = function(i) return i + 0.25 end,
  strings = function(i) return "s" .. i end,
  mixed = function(i) return i % 3 == 0 and i or i % 3 == 1 and "s" .. i or i + 0.5 end,
  tables = function(i) return { i } end,
}

local function order(from, to)
  local list = {}
  for i = from, to do list[#list + 1] = i end
  local way = random(3)
  if way == 1 then
    table.sort(list, function(a, b) return a > b end)
  elseif way == 2 then
    for i = #list, 2, -1 do
      local k = random(i)
      list[i], list[k] = list[k], list[i]
    end
  end
  return list
end

local function add_fields(t, value)
  for i = 1, random(0, #NAMES) do t[NAMES[random(#NAMES)]] = value(i) end
  if random(4) == 1 then t[0], t[-1], t[2.5], t[true] = value(0), value(1), value(2), value(3) end
  if random(6) == 1 then t[1 << random(30, 50)] = value(4) end
end

local function remove_fields(t)
  for _ = 1, random(0, #NAMES) do t[NAMES[random(#NAMES)]] = nil end
end

local steps = {
  function(t, value, most) -- a stretch of items
    local from = random(most)
    for _, i in ipairs(order(from, random(from, most))) do t[i] = value(i) end
  end,
  function(t, value, most) for _, i in ipairs(order(1, random(most))) do t[i] = value(i) end end,
  function(t, _, most) for _ = 1, random(10) do t[random(most)] = nil end end,
  function(t, _, most) -- the end, down to somewhere: also what was never there
    local from = random(most)
    for i = random(from, most + 20), from, -1 do t[i] = nil end
  end,
  function(t, _, most) for i = 1, random(most) do t[i] = nil end end,
  function(t) t[#t + 1] = nil end,
  function(t) t[#t] = nil end,
  function(t, value) for _ = 1, random(5) do t[#t + 1] = value(#t + 1) end end,
  add_fields,
  remove_fields,
}

-- With room for fields, for items, or for nothing.
local function new_table()
  local way = random(4)
  if way == 1 then return {} end
  local source = { "return { " }
  for i = 1, random(140) do source[#source + 1] = way == 2 and "nil, " or ("k%d = nil, "):format(i) end
  return assert(load(table.concat(source) .. "}"))()
end

local function describe(t)
  local entries = 0
  for _ in next, t do entries = entries + 1 end
  return entries
end

local function compare(t, got, what)
  for key, value in next, t do
    local other = got[key]
    if type(value) == "table" then value, other = value[1], type(other) == "table" and other[1] end
    if value ~= other or math.type(value) ~= math.type(other) then
      error(("%s: [%s] is %s, not %s (of %d entries)"):format(what, tostring(key), tostring(other), tostring(value),
        describe(t)))
    end
  end
  if describe(t) ~= describe(got) then
    error(("%s: %d entries became %d"):format(what, describe(t), describe(got)))
  end
end

local function send_and_compare(t, what)
  compare(t, (codec.decode({}, (codec.encode({}, t)))), what)
  local pieces = {}
  local bytes = codec.encode({ kind = "result", ahead = pieces }, t)
  compare(t, (codec.decode({ kind = "result", ahead = pieces }, bytes)), what .. ", pieces ahead")
  return #pieces
end

-- The smallest one known that lost entries.
local function known(value)
  local t = { name = "n", kind = "k", size = 1, color = "c", owner = "o", state = "s" }
  for id = 100, 1, -1 do t[id] = value(id) end
  t[100] = nil
  return t
end

-- Large enough for pieces to go ahead, with fields that may stand anywhere.
local function large()
  local t = {}
  add_fields(t, values.integers)
  for _, i in ipairs(order(1, 70000)) do t[i] = i * 3 end
  for _ = 1, random(3) do steps[random(#steps)](t, values.integers, 70000) end
  return t
end

for seed = first, first + count - 1 do
  math.randomseed(seed)
  for kind, value in pairs(values) do
    send_and_compare(known(value), ("seed %d, known, %s"):format(seed, kind))
    local t, most = new_table(), 2 ^ random(1, 9) // 1 | 0
    for step = 1, random(20) do
      steps[random(#steps)](t, value, most)
      send_and_compare(t, ("seed %d, step %d, %s"):format(seed, step, kind))
    end
  end
end
math.randomseed(first)
print("pieces", send_and_compare(large(), "large"))
