-- The codec alone: five values to bytes and back, against lua-cjson and python3's pickle (protocol 5),
-- and for closures against Lua's own string.dump and load. Ours ends in the buffer from which a pool
-- writes. Not one of all.lua's: a second command.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function tree(depth)
  if depth == 0 then return { leaf = true } end
  return { left = tree(depth - 1), right = tree(depth - 1), value = depth }
end

local function closure(a, b, c, d, e)
  return function(x) return e and a + b * x + d or c end
end

-- The values by name, each made of so many pieces. support/peers.py has the same.
local VALUES = { "integers", "floats", "records", "tree", "closures" }
local function make(name, size)
  if name == "tree" then
    local depth = math.floor(math.log(size, 2)) - 8
    return tree(depth), 2 ^ (depth + 1) - 1
  end
  local list, count = {}, (name == "integers" or name == "floats") and size or size // 10
  for i = 1, count do
    list[i] = name == "integers" and i * 7 or name == "floats" and i * 0.1
      or name == "records" and { id = i, name = "item " .. i, x = i * 0.5, y = i * 0.25 }
      or closure(i, i + 1, "s", 2.5, true)
  end
  return list, count
end

-- Processor time: nothing here waits.
local function time(f, ...)
  collectgarbage()
  local start = os.clock()
  local result = f(...)
  return os.clock() - start, result
end

-- A program whose rounds answer with the times of encoding and decoding each value, for a piece: all of
-- the first codec, then all of the second. They take turns with each value.
local function codec(names, codecs, size)
  local values, counts = {}, {}
  for i, name in ipairs(names) do values[i], counts[i] = make(name, size) end
  return function()
    local answers = {}
    for i, value in ipairs(values) do
      for k, one in ipairs(codecs) do
        local encoding, encoded = time(one.encode, value)
        local decoding = time(one.decode, one.bytes and one.bytes(value) or encoded)
        local place = 2 * (#values * (k - 1) + i) - 1
        answers[place], answers[place + 1] = encoding / counts[i], decoding / counts[i]
      end
    end
    return table.unpack(answers, 1, 2 * #values * #codecs)
  end
end

local function ours()
  local module = require "codec_module"
  return {
    encode = module.put, bytes = function(value) return (module.encode({}, value)) end,
    decode = function(bytes) return module.decode({}, bytes) end,
  }
end

local function each(f)
  return function(list)
    local done = {}
    for i = 1, #list do done[i] = f(list[i]) end
    return done
  end
end

local PLAIN = { table.unpack(VALUES, 1, 4) }

return bench.main {
  name = "codec", size = 1000000, quick = 10000, rounds = 9,
  ours = {
    codec = function(size) return codec(VALUES, { ours() }, size) end,
    lua = function(size)
      local decode = each(function(bytes) return load(bytes, "=?", "b") end)
      return codec({ "closures" }, { { encode = each(string.dump), decode = decode } }, size)
    end,
    -- With ours in the same process: in what order a table is traversed, forwards or backwards in
    -- memory, differs from one to the next, and so does the time.
    cjson = function(size)
      local fine, cjson = pcall(require, "cjson")
      if not fine then return nil, "lua-cjson is not installed" end
      return codec(PLAIN, { cjson, ours() }, size)
    end,
  },
  programs = function(size)
    return {
      { "ours", bench.ours("codec", size) },
      { "lua", bench.ours("lua", size) },
      { "cjson", bench.peer("cjson", size) },
      { "pickle", bench.python("pickled", size) },
    }
  end,
  rows = function()
    local rows = {}
    local function add(value, way, against, theirs, target)
      local place = 2 * value - 1 + way
      rows[#rows + 1] = {
        work = ("%s, %s, a piece"):format(VALUES[value], way == 0 and "encode" or "decode"), unit = "ns",
        ours = function(f)
          return against == "lua-cjson" and f.cjson and f.cjson[2 * #PLAIN + place] or f.ours[place]
        end,
        against = against,
        theirs = function(f) return theirs(f, place) end, target = target,
      }
    end
    local function cjson(f, place) return f.cjson[place] end
    local function pickle(f, place) return f.pickle[place] end
    -- How many times faster we want to be.
    local wanted = {
      { cjson = { 3, 3 }, pickle = { 1.2, 2 } }, { cjson = { 3, 3 }, pickle = { 1, 2 } },
      { cjson = { 2, 2 }, pickle = { 1.5, 1 } }, { cjson = { 2, 2 }, pickle = {} },
    }
    for value = 1, #PLAIN do
      for way = 0, 1 do
        local times = wanted[value]
        add(value, way, "lua-cjson", cjson, { "<=", 1 / times.cjson[way + 1] })
        local over = times.pickle[way + 1]
        add(value, way, "pickle", pickle, over and { "<=", 1 / over })
      end
    end
    for way = 0, 1 do
      rows[#rows + 1] = {
        work = ("closures, %s, each beyond Lua's share"):format(way == 0 and "encode" or "decode"), unit = "ns",
        ours = function(f) return f.ours[9 + way] - f.lua[1 + way] end,
        against = way == 0 and "string.dump" or "load", theirs = function(f) return f.lua[1 + way] end,
        target = { "<=", 1e-6, of = "ours" },
      }
    end
    return rows
  end,
}
