-- Property tests of the codec, run by spec/c/test_codec.c (also under the sanitizers):
-- random graphs come back with the same structure, identity and sharing; changed bytes give a value or an
-- error, never a crash.
--
--   properties(codec, "round" | "hostile", seeds)

local codec, what, seeds = ...

local random = math.random

local SPECIAL = { 0.0, -0.0, 1 / 0, -1 / 0, 0 / 0, 5e-324, 1.0, math.maxinteger, math.mininteger, 255, 256,
  -128, -129, 65535, 2 ^ 53 }
local NAMED = { print, string, string.format, table.insert, math.pi, io.stdout, _G, coroutine }

-- ---- making ----

local function random_number()
  local kind = random(5)
  if kind == 1 then return SPECIAL[random(#SPECIAL)] end
  if kind == 2 then return random(0) end
  if kind == 3 then return (random() - 0.5) * 10 ^ random(-20, 20) end
  return random(-300, 300)
end

local WORDS = { "", "a", "id", "name", "x", "y", ("long"):rep(20), "\0\255\n" }
local function random_string()
  if random(3) > 1 then return WORDS[random(#WORDS)] end
  local bytes = {}
  for i = 1, random(0, 50) do bytes[i] = string.char(random(0, 255)) end
  return table.concat(bytes)
end

local function pair(a, b)
  local function get() return a, b end
  local function set(x) a, b = x, a return set end
  return get, set
end

local function counted(n)
  return function() n = n + 1 return n end
end

local MOST = 150 -- objects of one value, or so

-- A random value; `made` are the objects so far, to refer to again.
local function make(made, depth)
  local kind = random(depth > 0 and #made < MOST and 15 or 6)
  if kind == 1 then return nil end
  if kind == 2 then return random(2) == 1 end
  if kind <= 4 then return random_number() end
  if kind == 5 then return random_string() end
  if kind == 6 then
    if random(4) == 1 or #made == 0 then return NAMED[random(#NAMED)] end
    return made[random(#made)]
  end
  if kind == 13 then
    local get, set = pair(nil, nil)
    made[#made + 1], made[#made + 2] = get, set
    set(make(made, depth - 1))
    set(make(made, depth - 1))
    return random(2) == 1 and get or set
  end
  if kind == 14 then
    made[#made + 1] = counted(random(100))
    return made[#made]
  end
  local t = {}
  made[#made + 1] = t
  if kind <= 8 then -- items, maybe with holes
    for i = 1, random(3) == 1 and random(0, 100) or random(0, 8) do
      t[i] = make(made, depth - 1)
    end
  elseif kind == 9 then -- numbers of one kind, broken at random
    local integers = random(2) == 1
    for i = 1, random(0, 200) do
      t[i] = integers and random(-40000, 40000) or random()
      if random(30) == 1 then t[i] = random_number() end
    end
  elseif kind == 15 then -- records, most of them alike
    for i = 1, random(0, 20) do
      t[i] = {}
      made[#made + 1] = t[i]
      for _, key in ipairs(WORDS) do
        if random(20) > 1 then t[i][key] = make(made, depth - 1) end
      end
      if random(10) == 1 then t[i][random_string()] = make(made, depth - 1) end
      if random(10) == 1 then debug.setmetatable(t[i], t) end
    end
  elseif kind <= 11 then -- records
    for _ = 1, random(0, 5) do t[WORDS[random(#WORDS)]] = make(made, depth - 1) end
  else -- anything
    for _ = 1, random(0, 30) do
      local key = random(3) == 1 and random_string() or random_number()
      if random(8) == 1 then
        key = { ["#id"] = #made + 1 }
        made[#made + 1] = key
      end
      if key == key then t[key] = make(made, depth - 1) end
    end
  end
  if random(6) == 1 then
    local metatable = random(2) == 1 and t or { __name = "m", __index = make(made, depth - 1) }
    debug.setmetatable(t, metatable)
  end
  return t
end

-- ---- comparing ----

local function same_scalar(a, b)
  if type(a) == "number" and type(b) == "number" then
    return math.type(a) == math.type(b) and string.pack("n", a) == string.pack("n", b)
  end
  return rawequal(a, b)
end

local BY_NAME = {}
for _, value in ipairs(NAMED) do BY_NAME[value] = true end

local function is_object(value)
  local kind = type(value)
  return (kind == "table" or kind == "function") and not BY_NAME[value]
end

-- Raises unless b is a faithful copy of a: there is one object for each, and their parts correspond.
local function compare(a, b)
  local there, here, todo = {}, {}, {}
  local function match(x, y, where)
    if not is_object(x) then
      if not same_scalar(x, y) then error(("%s: %s became %s"):format(where, tostring(x), tostring(y))) end
      return
    end
    if type(x) ~= type(y) then error(where .. ": a " .. type(x) .. " became a " .. type(y)) end
    if there[x] == nil and here[y] == nil then
      if x == y then error(where .. ": not a copy") end
      there[x], here[y] = y, x
      todo[#todo + 1] = x
    elseif there[x] ~= y or here[y] ~= x then
      error(where .. ": identity is lost")
    end
  end
  local function match_tables(x, y)
    local ids = {}
    for key in next, y do if type(key) == "table" then ids[rawget(key, "#id")] = key end end
    local count = 0
    for key, value in next, x do
      local other = key
      if type(key) == "table" then
        other = ids[rawget(key, "#id")]
        match(key, other, "key")
      end
      match(value, rawget(y, other), "[" .. tostring(key) .. "]")
      count = count + 1
    end
    for _ in next, y do count = count - 1 end
    if count ~= 0 then error("entries were lost or added") end
    match(debug.getmetatable(x), debug.getmetatable(y), "metatable")
  end
  local cells, cells_back = {}, {}
  local function match_functions(x, y)
    if string.dump(x) ~= string.dump(y) then error("code differs") end
    for i = 1, debug.getinfo(x, "u").nups do
      local name, value = debug.getupvalue(x, i)
      local _, other = debug.getupvalue(y, i)
      match(value, other, "upvalue " .. name)
      local cell, other_cell = debug.upvalueid(x, i), debug.upvalueid(y, i)
      if cells[cell] == nil and cells_back[other_cell] == nil then
        cells[cell], cells_back[other_cell] = other_cell, cell
      elseif cells[cell] ~= other_cell then
        error("sharing of upvalue " .. name .. " is lost")
      end
    end
  end
  match(a, b, "root")
  while #todo > 0 do
    local x = table.remove(todo)
    if type(x) == "table" then match_tables(x, there[x]) else match_functions(x, there[x]) end
  end
end

-- ---- running ----

local function with_seed(seed, f)
  math.randomseed(seed)
  local fine, message = xpcall(f, debug.traceback)
  if not fine then error(("seed %d: %s"):format(seed, message), 0) end
end

local baseline, dictionary = codec.baseline(), {}

local function round_trip()
  local value = { make({}, random(0, 6)), make({}, 2) }
  local opts = { baseline = random(2) == 1 and baseline or nil, kind = random(2) == 1 and "task" or "result" }
  if random(3) == 1 then opts.dictionary = dictionary end
  local bytes = codec.encode(opts, value, value)
  local first, second = codec.decode(opts, bytes)
  assert(first == second)
  compare(value, first)
end

local function hostile()
  local bytes = codec.encode({ baseline = baseline }, { make({}, random(0, 5)) })
  for _ = 1, 20 do
    local changed = bytes
    for _ = 1, random(3) do
      local at = random(#changed)
      local kind = random(4)
      if kind == 1 then
        changed = changed:sub(1, at - 1) .. string.char(random(0, 255)) .. changed:sub(at + 1)
      elseif kind == 2 then
        changed = changed:sub(1, at - 1) .. changed:sub(at + 1)
      elseif kind == 3 then
        changed = changed:sub(1, at) .. string.char(random(0, 255)) .. changed:sub(at + 1)
      else
        local to = random(#changed)
        changed = changed:sub(1, at) .. changed:sub(to, to + random(0, 40)) .. changed:sub(at + 1)
      end
      if #changed == 0 then break end
    end
    local fine, message = pcall(codec.decode, { code = false }, changed)
    assert(fine or type(message) == "string")
  end
end

for seed = 1, seeds do
  with_seed(seed, what == "round" and round_trip or hostile)
  if seed % 50 == 0 then collectgarbage() end
end
