-- The codec: what crosses, how it looks on the other side, and what is refused. "The other side" is a
-- second Lua state in this process where identity matters, and this state where it does not.

local codec = require "codec_module"

-- Encode and decode in this state, in the way in which a task is sent.
local function send(...)
  return codec.decode({}, (codec.encode({}, ...)))
end

-- Run `source` in a fresh Lua state with the values sent there as its arguments.
local function there(source, ...)
  local state = codec.state()
  return state:run("local function body(...) " .. source .. " end\n" ..
    "local bytes = ... return body(codec.decode({}, bytes))", (codec.encode({}, ...)))
end

local function refusal(opts, ...)
  local fine, message = pcall(codec.encode, opts, ...)
  assert.is_false(fine)
  return (message:gsub("<[^<>]*/?spec/", "<spec/"):gsub("<%./", "<"))
end

local function bits(number)
  return math.type(number), string.pack("n", number)
end

describe("scalars", function()
  it("keep their number, trailing nils too", function()
    assert.are.equal(0, select("#", send()))
    assert.are.equal(3, select("#", send(nil, 1, nil)))
    assert.are.same({ n = 4, true, false, nil, nil }, table.pack(send(true, false, nil, nil)))
  end)

  local integers = { 0, 1, 63, 64, 127, 128, 255, 256, 32767, 32768, 65536, 2 ^ 31 | 0, 2 ^ 53 | 0,
    math.maxinteger }
  for _, integer in ipairs(integers) do
    it("keep the integers around " .. integer, function()
      for delta = -1, 1 do
        for _, sent in ipairs { integer + delta, -integer + delta } do
          assert.are.equal(sent, send(sent))
          assert.are.equal("integer", math.type(send(sent)))
          assert.are.equal(sent, send({ sent })[1])
          assert.are.equal(sent, send({ k = sent }).k)
        end
      end
    end)
  end

  it("keep floats bit for bit", function()
    local floats = { 0.0, -0.0, 1.0, -1.5, 1 / 0, -1 / 0, 0 / 0, -(0 / 0), 5e-324, -5e-324, 2.0 ^ -1022,
      1.7976931348623157e308, 0.1, 2.0 ^ 53, 63.0, string.unpack("d", string.pack("I8", 0x7ff8dead00000001)) }
    for _, sent in ipairs(floats) do
      local kind, image = bits(sent)
      for _, got in ipairs { (send(sent)), send({ sent })[1], send({ x = sent }).x } do
        assert.are.same({ kind, image }, { bits(got) })
      end
    end
    local run = send(floats)
    for i, sent in ipairs(floats) do assert.are.same({ bits(sent) }, { bits(run[i]) }) end
  end)

  it("keep 1 and 1.0 apart, in arrays of both too", function()
    local got = send({ 1, 1.0, 2, 2.0, 3.0, 4.0, 5.0, 6.0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17.0 })
    local kinds = {}
    for i, value in ipairs(got) do kinds[i] = math.type(value):sub(1, 1) end
    assert.are.equal("ififffffiiiiiiiiiif", table.concat(kinds))
  end)

  it("keep strings of any bytes and length", function()
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    local bytes = table.concat(all)
    for _, length in ipairs { 0, 1, 2, 30, 31, 32, 33, 39, 40, 41, 127, 128, 255, 256, 16383, 16384, 100000 } do
      local sent = bytes:rep(length // 256 + 1):sub(1, length)
      assert.are.equal(sent, (send(sent)))
      assert.are.equal(sent, next(send({ [sent] = true })))
    end
  end)

  it("are small", function()
    assert.are.equal(4, #codec.encode({}, 5))
    assert.are.equal(3 + 3, #codec.encode({}, "ab"))
  end)
end)

describe("tables", function()
  it("have keys of every kind", function()
    local key, f = { "key" }, function() return 1 end
    local got = send({ [1] = "i", [-1] = "n", [1.5] = "f", [true] = "t", [false] = "b", s = "s", [""] = "e",
      [key] = key, [f] = f, [print] = print, [math.maxinteger] = "max", [2 ^ 63] = "big" })
    assert.are.equal("infbe", got[1] .. got[-1] .. got[1.5] .. got[false] .. got[""])
    assert.are.equal("ts", got[true] .. got.s)
    assert.are.equal("max", got[math.maxinteger])
    assert.are.equal("big", got[2 ^ 63])
    assert.are.equal(print, got[print])
    local seen = 0
    for k, v in pairs(got) do
      if type(k) == "table" then
        assert.are.equal(k, v)
        assert.are.equal("key", k[1])
        seen = seen + 1
      elseif type(k) == "function" then
        assert.are.equal(k, v)
        seen = seen + 1
      end
    end
    assert.are.equal(3, seen)
  end)

  it("keep cycles and sharing, across arguments and upvalues", function()
    local t = {}
    t.t, t[t], t[1] = t, t, { t }
    local function f() return t end
    local a, g, b = send(t, f, { t, t })
    assert.are.equal(a, a.t)
    assert.are.equal(a, a[a])
    assert.are.equal(a, a[1][1])
    assert.are.equal(a, g())
    assert.are.equal(a, b[1])
    assert.are.equal(a, b[2])
    assert.are_not.equal(t, a)
  end)

  it("may have holes, borders anywhere and integer keys in the hash part", function()
    local tables = { { 1, nil, 3 }, { nil, nil, 3 }, { n = 3 }, {}, table.pack(nil, nil), { [3] = 1, [2] = 2 } }
    local reverse, sparse, gaps, grown = {}, {}, {}, {}
    for i = 500, 1, -1 do reverse[i] = i end
    for i = 0, 30 do sparse[1 << i] = i end
    for i = 1, 3000 do gaps[i] = i % 7 ~= 0 and i or nil end
    for i = 1, 1000 do grown[i] = i end
    for i = 3, 998 do grown[i] = nil end
    grown[5000], grown.x = 1, 2
    local presized = table.move({}, 1, 0, 1)
    for i = 1, 300 do presized["k" .. i] = i end
    for i = 1, 300 do presized[i] = i end
    for i = 1, 280 do presized["k" .. i] = nil end
    for i = 301, 330 do presized[i] = i end
    for _, t in ipairs { reverse, sparse, gaps, grown, presized } do tables[#tables + 1] = t end
    for _, t in ipairs(tables) do
      local got = send(t)
      for k, v in pairs(t) do assert.are.equal(v, got[k]) end
      for k in pairs(got) do assert.is_not_nil(t[k]) end
    end
    assert.is_true(#codec.encode({}, sparse) < 1000)
  end)

  it("of every size around the limits of the format", function()
    for n = 0, 40 do
      local array, record, mixed = {}, {}, { "x", "y" }
      for i = 1, n do array[i], record["k" .. i], mixed[("k"):rep(i)] = ("v"):rep(i), i, { i } end
      assert.are.same({ array, record, mixed }, send({ array, record, mixed }))
    end
  end)

  it("that are records share their keys", function()
    local records = {}
    for i = 1, 100 do records[i] = { id = i, name = "n" .. i, x = i / 4, ok = i % 2 == 0 } end
    local bytes = codec.encode({}, records)
    assert.are.same(records, codec.decode({}, bytes))
    assert.is_true(#bytes < 100 * 24)
  end)

  describe("that begin like a record met before", function()
    -- Records with the keys `names`, made so that those of the same keys are traversed in one order.
    local function record(names, value)
      local made = {}
      for name in names:gmatch "%a+" do made[name] = type(value) == "function" and value(name) or value end
      return made
    end

    -- Each of the other records follows ten that are alike, so that it is taken for one of them.
    local function among(others, value)
      local list = {}
      for _, names in ipairs(others) do
        for _ = 1, 10 do list[#list + 1] = record("a b c d", value) end
        list[#list + 1] = record(names, value)
      end
      return list
    end
    local others = { "a b c d e", "a b c", "a", "b", "c", "d", "a b c e", "a c d", "b c d", "e", "a b c d e f g",
      "a b c d e f g h i j k l m n o p", "a b c d e f g h i j k l m n o p q r s t u v w x y z", "d c b a" }

    it("may have more keys, or fewer, or others", function()
      local list = among(others, 1)
      assert.are.same(list, (send(list)))
      list = among(others, function(name) return name .. name end)
      assert.are.same(list, (send(list)))
    end)

    it("may have tables in their fields, that begin so as well", function()
      local list = among(others, function(name)
        return name == "b" and { a = { 1 }, b = {} } or name == "c" and { a = 1, b = 2, c = 3 } or
          name == "d" and record("a b c d", 1) or #name
      end)
      assert.are.same(list, (send(list)))
    end)

    it("may have keys of other kinds, and holes where there was something", function()
      local list = {}
      for i = 1, 40 do
        list[i] = record("a b c d", { a = i, b = { c = i } })
        if i % 4 == 1 then list[i][i + 0.5] = { a = 1, b = 2 } end
        if i % 4 == 2 then list[i].a = nil end
        if i % 4 == 3 then list[i][list[i]] = nil list[i][true] = list[i].b end
      end
      local got = send(list)
      assert.are.same(list, got)
      assert.are.equal(got[3].b, got[3][true])
    end)

    it("keep metatables, sharing and cycles", function()
      local list, shared, meta = {}, { a = 1, b = 2 }, { __name = "M" }
      for i = 1, 60 do
        list[i] = setmetatable(record("a b c d", shared), i % 2 == 0 and meta or nil)
        if i % 3 == 0 then list[i].e = list end
        if i % 5 == 0 then list[i].b = list[i - 1] end
        if i % 7 == 0 then list[i].c = nil end
      end
      local got = send(list)
      for i = 1, 60 do
        assert.are.equal(i % 2 == 0 and getmetatable(got[2]) or nil, getmetatable(got[i]))
        assert.are.equal(got[1].a, got[i].a)
        assert.are.equal(i % 5 == 0 and got[i - 1] or got[1].a, got[i].b)
        assert.are.equal(i % 7 ~= 0 and got[1].a or nil, got[i].c)
        assert.are.equal(i % 3 == 0 and got or nil, got[i].e)
      end
      assert.are.equal("M", getmetatable(got[2]).__name)
    end)

    it("may be changed by a hook on the way", function()
      local list = {}
      for i = 1, 30 do
        list[i] = record("a b c d", 1)
        list[i].b = setmetatable({}, { __mantichora = function()
          list[i].a, list[i].c, list[i].d = nil, nil, nil
          return tostring, i
        end })
      end
      local got = send(list)
      for i = 1, 30 do assert.are.equal(tostring(i), got[i].b) end
    end)

    it("name the path to what cannot go", function()
      local list = among({ "a b c d" }, function() return { a = 1, b = 2 } end)
      list[11].c.a = coroutine.create(print)
      assert.are.equal("cannot send argument 1[11].c.a: coroutine (thread)", refusal({}, print, list))
      list[11].c.a = 1
      list[11].e = coroutine.create(print)
      assert.are.equal("cannot send argument 1[11].e: coroutine (thread)", refusal({}, print, list))
      list[11].e = nil
      setmetatable(list[11], { __index = coroutine.create(print) })
      assert.are.equal("cannot send argument 1[11].(metatable).__index: coroutine (thread)",
        refusal({}, print, list))
    end)

    it("go up and down where the stack is moved", function()
      local root = { a = 1, b = 2 }
      for i = 1, 20000 do
        root = { a = { a = i, b = root } , b = i }
        if i % 1000 == 0 then root.c = { a = i } end
      end
      local got = send(root)
      for i = 20000, 1, -1 do
        assert.are.equal(i, got.b)
        assert.are.equal(i % 1000 == 0 and i or nil, got.c and got.c.a)
        got = got.a.b
      end
    end)
  end)

  it("keep sharing when many messages follow each other", function()
    for round = 1, 20 do
      local list, n = {}, round % 2 == 0 and 5000 or 40 + round
      for i = 1, n do list[i] = { i } end
      for i = 1, n do list[n + i] = list[n + 1 - i] end
      local got = send(list)
      for i = 1, n do
        assert.are.equal(i, got[i][1])
        assert.are.equal(got[n + 1 - i], got[n + i])
      end
    end
  end)

  it("keep their metatables, with all fields", function()
    local mt = { __name = "thing", __mode = "k", __close = function() end, __gc = function() end,
      __index = { x = 5 }, __metatable = "locked", other = { 1 } }
    local got, other = send(setmetatable({}, mt), setmetatable({}, mt))
    local back = debug.getmetatable(got)
    assert.are.equal(back, debug.getmetatable(other))
    assert.are.equal("thing k locked 5 1",
      table.concat({ back.__name, back.__mode, back.__metatable, got.x, back.other[1] }, " "))
    assert.are.equal("function", type(back.__close))
  end)

  it("with __gc are finalized on the other side, once, and not before", function()
    local log = there([[
      local box, init = ...
      init()
      collectgarbage()
      local before = #finalized
      box[1] = nil
      collectgarbage()
      collectgarbage()
      return before .. #finalized]],
      { setmetatable({}, { __gc = load "finalized[#finalized + 1] = 1" }) },
      load "finalized = {}")
    assert.are.equal("01", log)
  end)

  it("with weak modes keep what something else holds", function()
    local key = {}
    local weak = setmetatable({ [key] = "v", [{}] = "gone" }, { __mode = "k" })
    local got, k = send(weak, key)
    assert.are.equal("v", got[k])
    collectgarbage()
    local n = 0
    for _ in pairs(got) do n = n + 1 end
    assert.are.equal(1, n)
  end)

  it("are read raw: no metamethod is called", function()
    local called = {}
    local mt = {}
    for _, event in ipairs { "index", "newindex", "call", "pairs", "len", "eq", "lt", "le", "tostring", "concat",
      "close", "add", "unm" } do
      mt["__" .. event] = function() called[#called + 1] = event return nil end
    end
    local bytes = codec.encode({}, setmetatable({ 1, 2, x = setmetatable({}, mt) }, mt))
    local got = codec.decode({}, bytes)
    assert.are.same({}, called)
    assert.are.equal(2, rawlen(got))
  end)

  it("may be nested as deeply as memory allows", function()
    local top = {}
    local at = top
    for i = 1, 200000 do
      at[1], at.i = {}, i
      at = at[1]
    end
    local got = send(top)
    local depth = 0
    while got[1] do
      depth = depth + 1
      assert.are.equal(depth, got.i)
      got = got[1]
    end
    assert.are.equal(200000, depth)
    at.bad = coroutine.create(print)
    assert.truthy(refusal({}, print, top):find("^cannot send argument 1.*%[1%]%.bad: coroutine %(thread%)$"))
  end)

  it("may go up and down where the stack is moved", function()
    local top = {}
    local at = top
    for i = 1, 4000 do
      at.siblings = {}
      for k = 1, i % 3 do at.siblings[k] = { i, { k } } end
      at.flat = { { p = i, q = "q" }, { p = -i, q = "q" } }
      at.a, at.child, at.z = i, {}, -i
      at = at.child
    end
    local got = send(top)
    for i = 1, 4000 do
      assert.are.equal(i, got.a)
      assert.are.equal(-i, got.z)
      assert.are.equal(i % 3, #got.siblings)
      assert.are.equal(-i, got.flat[2].p - got.flat[1].p + i)
      for k, v in ipairs(got.siblings) do assert.are.same({ i, { k } }, v) end
      got = got.child
    end
  end)
end)

describe("functions", function()
  it("keep code, upvalues, names and lines", function()
    local x, y = 1, { 2 }
    local function f(a) return x + y[1] + a end
    local g = send(f)
    assert.are.equal(6, g(3))
    local was, is = debug.getinfo(f, "Slu"), debug.getinfo(g, "Slu")
    was.func, is.func = nil, nil
    assert.are.same(was, is)
    assert.are.equal("x", (debug.getupvalue(g, 1)))
    local _, message = pcall(g)
    assert.truthy(message:find("codec_spec.lua:%d+: attempt to perform arithmetic on a nil value %(local 'a'%)"))
  end)

  it("share variables as before", function()
    local n = 0
    local function inc() n = n + 1 end
    local function get() return n end
    local function apart() local own = 7 return function() own = own + 1 return own end end
    local i, g, a, b = send(inc, get, apart(), apart())
    i() i()
    assert.are.equal(2, g())
    assert.are.equal(0, n)
    assert.are.equal("8 9 8", a() .. " " .. a() .. " " .. b())
  end)

  it("may call themselves and each other", function()
    local function fact(k) return k <= 1 and 1 or k * fact(k - 1) end
    local even, odd
    function even(k) return k == 0 or odd(k - 1) end
    function odd(k) return k ~= 0 and even(k - 1) end
    local f, e = send(fact, even)
    assert.are.equal(120, f(5))
    assert.is_true(e(10))
    assert.are.equal(f, select(2, debug.getupvalue(f, 1)))
  end)

  it("made in a loop are apart", function()
    local made = {}
    for i = 1, 5 do
      local count = i
      made[i] = function() count = count + 1 return count end
    end
    local got = send(made)
    assert.are.equal("2 3 3 4", table.concat({ got[1](), got[1](), got[2](), got[3]() }, " "))
  end)

  it("have up to 255 upvalues", function()
    local locals, sum = {}, {}
    for i = 1, 200 do locals[i], sum[i] = "a" .. i .. "=" .. i, "a" .. i end
    local inner = {}
    for i = 1, 55 do inner[i] = "b" .. i .. "=" .. i end
    local sums = {}
    for i = 1, 55 do sums[i] = "b" .. i end
    local source = "local " .. table.concat(locals, " local ") .. " return (function() local " ..
      table.concat(inner, " local ") .. " return function() return " .. table.concat(sum, "+") .. "+" ..
      table.concat(sums, "+") .. " end end)()"
    local f = assert(load(source))()
    assert.are.equal(255, debug.getinfo(f, "u").nups)
    assert.are.equal(200 * 201 // 2 + 55 * 28, send(f)())
  end)

  it("see the receiver's globals", function()
    local result = there("local f, g = ... there_only = 5 return f(), g == _G",
      load "return there_only", _G)
    assert.are.equal(5, result)
    local other = codec.state()
    assert.is_true(other:run([[
      local f, t = codec.decode({}, ...)
      return f() == _G and t.g == _G and t.mt == _G]], (codec.encode({}, load "return _ENV",
        { g = _G, mt = setmetatable({}, { __index = _G }) and _G }))))
  end)

  it("of one code send it once", function()
    local made = {}
    for i = 1, 100 do made[i] = function() return i, "some code that takes a few bytes" end end
    local one = #codec.encode({}, made[1])
    assert.is_true(#codec.encode({}, made) < one + 100 * 8)
  end)

  it("are known by an id to whom has a dictionary", function()
    local x, y = 10, 20
    local function f() return x + y end
    local dictionary, baseline = {}, codec.baseline()
    local opts = { dictionary = dictionary, baseline = baseline }
    for _ = 1, 2 do
      local bytes, ids = codec.encode(opts, f, f)
      assert.are.same({ 1 }, ids)
      assert.are.equal(1, #dictionary)
      assert.is_true(#bytes <= 12)
      assert.are.equal(30, codec.decode(opts, bytes)())
    end
    local function other() return x end
    local _, ids = codec.encode(opts, f, other, f)
    assert.are.same({ 1, 2 }, ids)
    assert.has_error(function() codec.decode({}, (codec.encode(opts, f))) end)
  end)

  describe("whose code comes often", function()
    local function upvalues(count) -- the sum of so many variables, and their number
      local chunk = { "local t = ... " }
      local function sum(from, to)
        local names = {}
        for i = from, to do names[#names + 1] = "v" .. i end
        return #names > 0 and table.concat(names, "+") or "0"
      end
      for i = 1, math.min(count, 150) do chunk[#chunk + 1] = ("local v%d = t + %d "):format(i, i) end
      chunk[#chunk + 1] = "return (function() "
      for i = 151, count do chunk[#chunk + 1] = ("local v%d = t + %d "):format(i, i) end
      chunk[#chunk + 1] = ("return function() return %s + %s end end)()"):format(sum(1, math.min(count, 150)),
        sum(151, count))
      local make = assert(load(table.concat(chunk), "=sums"))
      return function(t) return make(t), count * t + count * (count + 1) // 2 end
    end

    local kinds = {
      ["a counter"] = function(t)
        local n = t
        return function() n = n + 1 return n end, t + 1
      end,
      ["one that calls itself"] = function(t)
        local function fact(k) return k <= 1 and 1 or k * fact(k - 1) end
        return fact, fact(t), t
      end,
      ["inner functions and varargs"] = function(t)
        local function f(...)
          local n = select("#", ...)
          local function add(x) n = n + x + t return n end
          add(1)
          return (function() return add(2) end)()
        end
        return f, 5 + 2 * t, "a", "b"
      end,
      ["a stripped one"] = function(t)
        local f = load(string.dump(function() return t end, true))
        debug.setupvalue(f, 1, t)
        return f, t
      end,
      ["a chunk"] = function() return load("local x <const> = 3 return x + #tostring(print)"), 3 + #tostring(print) end,
      ["no upvalues"] = function() return function(x) return x end, 7, 7 end,
      ["one upvalue"] = upvalues(1),
      ["100 upvalues"] = upvalues(100),
      ["101 upvalues"] = upvalues(101),
      ["255 upvalues"] = upvalues(255),
    }
    -- A part of one of Lua 5.5's dumps is at home in that dump only: there is no factory.
    local factory = _VERSION == "Lua 5.4" and "function" or "boolean"
    for kind, make in pairs(kinds) do
      it("are new each time: " .. kind, function()
        local dictionary, baseline, factories, met = {}, codec.baseline(), {}, {}
        local opts = { dictionary = dictionary, baseline = baseline, factories = factories }
        for t = 1, 6 do
          local made = table.pack(make(t))
          local f, expected = made[1], made[2]
          local was = debug.getinfo(f, "SLlu")
          local bytes = codec.encode(opts, f, f)
          local g, again = codec.decode(opts, bytes)
          assert.are.equal(g, again)
          assert.are.same(was, debug.getinfo(g, "SLlu"))
          assert.are.equal(expected, g(table.unpack(made, 3, made.n)))
          assert.is_nil(met[g])
          met[g] = true
          for i = 1, was.nups do
            assert.are.equal((debug.getupvalue(f, i)), (debug.getupvalue(g, i)))
            local variable = debug.upvalueid(g, i)
            assert.is_nil(met[variable])
            met[variable] = g
          end
        end
        assert.are.equal(1, #dictionary)
        assert.are.equal(kind:find("101") and "boolean" or kind:find("255") and "boolean" or factory,
          type(factories[1]))
      end)
    end

    it("are known among others that come in any order", function()
      local dictionary = {}
      local opts = { dictionary = dictionary, baseline = codec.baseline(), memory = codec.memory() }
      local function first(a, b) return function() return a + b end end
      local function second(a, b) return function() return a - b end end
      -- The beginnings of their code are the same: other names of variables only.
      local twins = {
        load("local a, b = ... return function() return a + b end", "=twin"),
        load("local x, y = ... return function() return x + y end", "=twin"),
        load("local a, b = ... return function() local c return a + b end", "=twin"),
      }
      local factories = { first, second, first, first, second, second, first, twins[1], twins[2], twins[2], twins[1],
        twins[3], twins[1], twins[3] }
      for round = 1, 20 do
        for i, make in ipairs(factories) do
          local f = make(round, i)
          local g = codec.decode(opts, (codec.encode(opts, f)))
          assert.are.equal(f(), g())
          assert.are.same(debug.getinfo(f, "SLlu"), debug.getinfo(g, "SLlu"))
          assert.are.equal((debug.getupvalue(f, 1)), (debug.getupvalue(g, 1)))
        end
      end
      assert.are.equal(5, #dictionary)
    end)

    it("use globals as they are now, and may be met again", function()
      local opts = { dictionary = {}, baseline = codec.baseline(), memory = codec.memory() }
      local closure = load "local i = ... return function() return i + codec_spec_offset end"
      rawset(_G, "codec_spec_offset", 1000)
      finally(function() rawset(_G, "codec_spec_offset", nil) end)
      local function sum(i) return codec.decode(opts, (codec.encode(opts, closure(i))))() end
      for i = 1, 100 do assert.are.equal(1000 + i, sum(i)) end
      rawset(_G, "codec_spec_offset", 2000)
      assert.are.equal(2001, sum(1))
      local closed = closure(1)
      for _ = 1, 40 do
        assert.are.equal(2001, codec.decode(opts, (codec.encode(opts, closed)))())
      end
    end)

    it("are not made in sight of a hook", function()
      local dictionary, baseline, factories, n = {}, codec.baseline(), {}, 5
      local opts = { dictionary = dictionary, baseline = baseline, factories = factories }
      local bytes = codec.encode(opts, function() return n end)
      for _ = 1, 3 do codec.decode(opts, bytes) end
      assert.are.equal(factory, type(factories[1]))
      local sethook, getinfo, seen = debug.sethook, debug.getinfo, 0
      sethook(function() if getinfo(2, "S").what ~= "C" then seen = seen + 1 end end, "c")
      local f = codec.decode(opts, bytes)
      sethook()
      assert.are.equal(0, seen)
      assert.are.equal(5, f())
    end)
  end)

  it("that are callable tables go too", function()
    local object = setmetatable({ 3 }, { __call = function(self, x) return self[1] * x end })
    assert.are.equal(12, send(object)(4))
  end)
end)

describe("what loaded modules have", function()
  it("goes by name", function()
    for _, value in ipairs { string, string.format, table.concat, print, math, io, os.time, require, coroutine,
      io.stdout, io.stderr, io.stdin } do
      assert.are.equal(value, (send(value)))
    end
    assert.is_true(there("return (...) == string.format", string.format))
    assert.is_true(there("local t = ... return t[1] == string and t[2] == io.stdout and t.k == table.insert",
      { string, io.stdout, k = table.insert }))
  end)

  it("is a module only if it is a table or function", function()
    package.loaded["codec.plain"] = "a plain value"
    assert.are.equal("a plain value", (send("a plain value")))
    package.loaded["codec.plain"] = nil
  end)

  local function with_module(name, source, body)
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder .. "/codectest"))
    local path = folder .. "/" .. name:gsub("%.", "/") .. ".lua"
    local file <close> = assert(io.open(path, "w"))
    file:write(source)
    file:flush()
    local before = package.path
    package.path = folder .. "/?.lua;" .. before
    local fine, message = pcall(body, path, folder)
    package.path = before
    package.loaded[name] = nil
    os.execute("rm -r " .. folder)
    if not fine then error(message, 0) end
  end

  local MODULE = [[
    local M = { count = 0 }
    M.Class = {}
    M.Class.__index = M.Class
    function M.Class:double() return self.x * 2 end
    M.plain = { 1, 2 }
    M.marker = { __name = "only a metatable" }
    function M.f(x) M.count = M.count + 1 return x end
    return M]]

  it("loaded after the fork is required on the other side", function()
    local baseline = codec.baseline()
    with_module("codectest.late", MODULE, function()
      local M = require "codectest.late"
      local other = codec.state()
      local object = setmetatable({ x = 21 }, M.Class)
      local bytes = codec.encode({ baseline = baseline }, M, M.f, object, M.plain, setmetatable({}, M.marker))
      assert.are.equal("true true true 42 false 2 true", other:run([[
        local path, bytes = ...
        package.path = path
        local m, f, object, plain, marked = codec.decode({}, bytes)
        local M = require "codectest.late"
        return table.concat({ tostring(m == M), tostring(f == M.f), tostring(getmetatable(object) == M.Class),
          object:double(), tostring(plain == M.plain), #plain, tostring(getmetatable(marked) == M.marker) }, " ")]],
        package.path, bytes))
    end)
  end)

  it("fails with its name and the path where the module cannot be loaded", function()
    with_module("codectest.gone", MODULE, function()
      local M = require "codectest.gone"
      local bytes = codec.encode({}, print, { a = { b = M } })
      package.loaded["codectest.gone"] = nil
      package.path = ""
      local fine, message = pcall(codec.decode, {}, bytes)
      assert.is_false(fine)
      assert.truthy(message:find("cannot rebuild argument 1.a.b: module 'codectest.gone' cannot be loaded: ", 1, true))
    end)
  end)

  it("goes by value when it was put there by others", function()
    local baseline = codec.baseline()
    with_module("codectest.patched", MODULE, function()
      local M = require "codectest.patched"
      local own = M.f
      M.g = function() return "patched" end
      local opts = { baseline = baseline }
      local g, f = codec.decode(opts, (codec.encode(opts, M.g, own)))
      assert.are_not.equal(M.g, g)
      assert.are.equal("patched", g())
      assert.are.equal(own, f)
    end)
  end)

  it("goes by value when the name means something else since the fork", function()
    local module = { f = function() return 1 end, C = { __index = {} } }
    package.loaded["codectest.changed"] = module
    local baseline = codec.baseline()
    local opts = { baseline = baseline }
    local was = module.f
    assert.are.equal(was, codec.decode(opts, (codec.encode(opts, was))))
    module.f = function() return 2 end
    assert.are_not.equal(was, codec.decode(opts, (codec.encode(opts, was))))
    assert.are.equal(2, codec.decode(opts, (codec.encode(opts, module.f)))())
    module.f = was
    assert.are.equal(was, codec.decode(opts, (codec.encode(opts, was))))
    -- a worker forked later has another function there, but keeps what was noted
    local bytes = codec.encode(opts, was)
    module.f = print
    assert.are.equal(print, codec.decode({}, bytes))
    module.f = function() end
    assert.are.equal(was, codec.decode(opts, bytes))
    local class = module.C
    assert.are.equal(class, codec.decode(opts, (codec.encode(opts, class))))
    module.C = nil
    assert.are_not.equal(class, codec.decode(opts, (codec.encode(opts, class))))
    package.loaded["codectest.changed"] = nil
  end)

  it("is refused when it is a C function whose name was given away", function()
    local baseline = codec.baseline()
    local was = string.rep
    string.rep = function() end -- luacheck: ignore
    local message = refusal({ baseline = baseline }, print, { was })
    string.rep = was -- luacheck: ignore
    assert.are.equal("cannot send argument 1[1]: C function", message)
    assert.are.equal(was, codec.decode({}, (codec.encode({ baseline = baseline }, was))))
  end)

  it("is known by the worker's own C function", function()
    local baseline = codec.baseline()
    local was, own = os.exit, debug.sethook
    os.exit = own -- luacheck: ignore
    codec.replace(baseline, "os", "exit")
    local bytes = codec.encode({ baseline = baseline, kind = "result" }, own)
    os.exit = was -- luacheck: ignore
    assert.are.equal(was, codec.decode({ baseline = codec.baseline() }, bytes))
  end)

  it("does not include Lua functions that are globals", function()
    codec_spec_global = function() return 5 end -- luacheck: ignore
    _G.codec_spec_global = codec_spec_global -- luacheck: ignore
    local got = send(_G.codec_spec_global)
    assert.are_not.equal(_G.codec_spec_global, got)
    assert.are.equal(5, got())
    _G.codec_spec_global = nil
  end)
end)

describe("globals", function()
  -- A parent and its worker: two states that begin alike; `set` runs in the parent after the fork.
  local function worker_sees(before, after, task)
    local parent, worker = codec.state(), codec.state()
    worker:run(before)
    local bytes = parent:run(before .. "\nlocal baseline = codec.baseline() " .. after ..
      "\nreturn (codec.encode({ baseline = baseline }, " .. task .. "))")
    return worker:run("return codec.decode({}, ...)()", bytes)
  end

  it("that changed since the fork go along when the code names them", function()
    assert.are.equal(2, worker_sees("x = 1", "x = 2", "function() return x end"))
    assert.are.equal("new", worker_sees("", "x = 'new'", "function() return x end"))
    assert.is_nil(worker_sees("x = 1", "x = nil", "function() return x end"))
    assert.are.equal(1, worker_sees("x = 1", "x = 2", "function() return _G['x'] end"))
    assert.are.equal(1, worker_sees("x = {1}", "x[1] = 2", "function() return x[1] end"))
    assert.are.equal(2, worker_sees("x = {1}", "x = {2}", "function() return x[1] end"))
  end)

  it("go along with the functions that go along", function()
    assert.are.equal(7, worker_sees("", "function f() return g() end function g() return y end y = 7",
      "function() return f() end"))
    assert.are.equal(7, worker_sees("", "y = 7 local function f() return y end", "function() return f() end"))
    assert.are.equal(7, worker_sees("", "y = 7 ",
      "function() return (function() return (function() return y end)() end)() end"))
    assert.are.equal(7, worker_sees("", "y = 7 t = { f = function() return y end }", "function() return t.f() end"))
    assert.are.equal(120, worker_sees("", "function fact(n) return n <= 1 and 1 or n * fact(n - 1) end",
      "function() return fact(5) end"))
  end)

  it("are told from fields and constants", function()
    assert.is_nil(worker_sees("", "z = 1 t = {}", "function() local z = t.z return z end"))
    assert.is_true(worker_sees("", "z = coroutine.create(print)", "function() local s = 'z' return s == 'z' end"))
    local parent = codec.state()
    local lean, full = parent:run([[
      local baseline = codec.baseline()
      zzz = ("x"):rep(1000)
      local function size(f) return #codec.encode({ baseline = baseline }, f) end
      return size(function(t) return t.zzz, "zzz" end), size(function() return zzz end)]])
    assert.is_true(lean < 500 and full > 1000)
  end)

  it("are found with more than 255 constants and long names", function()
    local name = "a_name_of_more_than_forty_characters_is_a_long_string"
    local filler = {}
    for i = 1, 300 do filler[i] = "c = " .. i .. ".5" end
    local body = "local c " .. table.concat(filler, " ")
    assert.are.equal("1 2 3", worker_sees("", name .. " = 1 second = 2 third = 3",
      "function() " .. body .. " local a, b = " .. name .. ", second return a .. ' ' .. b .. ' ' .. third end"))
    assert.are.equal("gone!", worker_sees("x = 1", "x = nil",
      "function() " .. body .. " x = (x or 'gone') .. '!' return x end"))
    local many = {}
    for i = 1, 140000 do many[i] = i .. ".25" end
    assert.are.equal(9, worker_sees("", "seen = 9",
      "function() local t = {" .. table.concat(many, ",") .. "} return seen end"))
  end)

  it("that cannot be sent are left as they are", function()
    assert.are.equal("was here", worker_sees("x = 'was here'", "x = coroutine.create(print)",
      "function() return x end"))
    assert.are.equal("true was here 3", worker_sees("x, y, z = 'was here', 1, 1",
      "local deep = { coroutine.create(print) } function f() return z, deep end y = f x = { { f, y } } z = 3 ",
      "function() return table.concat({ tostring(y == 1), x, z }, ' ') end"))
    assert.are.equal("old 3", worker_sees("", [[
      local shared = { 3 }
      a = { shared, coroutine.create(print) }
      b = shared]], "function() return (a and 'new' or 'old') .. ' ' .. b[1] end"))
  end)

  it("are sent from now on once workers differ in them", function()
    local parent, worker = codec.state(), codec.state()
    local bytes = parent:run([[
      x, same, y = 1, 5, nil
      baseline = codec.baseline()
      x, y = 2, 2
      codec.update(baseline)
      x, y = 1, nil
      return (codec.encode({ baseline = baseline }, function() return x, y, same end))]])
    assert.are.same({ n = 3, 1, nil, nil }, table.pack(worker:run("x, y = 2, 2 return codec.decode({}, ...)()", bytes)))
  end)

  it("are sent again when they are what they were at the fork, but a worker got another value", function()
    local parent, worker = codec.state(), codec.state()
    local source = "x = 1 "
    worker:run(source)
    parent:run(source .. "baseline = codec.baseline()")
    for _, step in ipairs { { "x, y = 2, 3", "2 3" }, { "x, y = 1, nil", "1 nil" }, { "", "1 nil" } } do
      local bytes = parent:run(step[1] .. " return (codec.encode({ baseline = baseline }, function() return x, y end))")
      assert.are.equal(step[2], worker:run([[
        local a, b = codec.decode({}, ...)()
        return tostring(a) .. " " .. tostring(b)]], bytes))
    end
  end)

  it("do not come along with results", function()
    local worker = codec.state()
    local bytes = worker:run([[
      local baseline = codec.baseline()
      x = "the worker's"
      return (codec.encode({ baseline = baseline, kind = "result" }, function() return x end))]])
    assert.are.equal("the parent's", codec.state():run("x = \"the parent's\" return codec.decode({}, ...)()", bytes))
  end)

  it("are not kept alive by the baseline", function()
    assert.is_true(codec.state():run([[
      big = setmetatable({}, { __gc = function() gone = true end })
      baseline = codec.baseline()
      big = nil
      collectgarbage()
      return gone and #codec.encode({ baseline = baseline }, function() return big end) > 0]]))
  end)
end)

describe("a custom _ENV", function()
  it("travels as far as the code names it", function()
    local env = setmetatable({ used = 5, unused = coroutine.create(print) }, { __index = _G })
    local f = load("return used, unused_too, tostring(used)", "=f", "t", env)
    assert.are.same({ n = 3, 5, nil, "5" }, table.pack(send(f)()))
    assert.are.equal("nil", there("local f = ... f() return type(used)", load("used = 3", "=f", "t", env)))
  end)

  it("is found along __index tables, and may end before _G", function()
    local base = { b = 2 }
    local env = setmetatable({ a = 1 }, { __index = setmetatable({}, { __index = base }) })
    assert.are.same({ n = 3, 1, 2, nil }, table.pack(send(load("return a, b, print", "=f", "t", env))()))
  end)

  it("with an __index function falls back on _G", function()
    local env = setmetatable({ mine = 1 }, { __index = function() error("called") end })
    local f = send(load("return mine, tostring", "=f", "t", env))
    assert.are.same({ 1, tostring }, { f() })
  end)

  it("stays shared by those that share it", function()
    local env = setmetatable({ x = 1, y = 2 }, { __index = _G })
    local f, g = send(load("x = x + 1 return y", "=f", "t", env), load("return x", "=g", "t", env))
    assert.are.equal(2, f())
    assert.are.equal(2, g())
  end)

  it("goes as a whole when the code takes it as a value or computes a key", function()
    local env = { k = "v", f = 1, pairs = pairs }
    for _, source in ipairs { "return _ENV", "local e = _ENV return e", "local k = ... return { k = _ENV[k], f = f }",
      "for k, v in pairs(_ENV) do f = f end return _ENV", "return { k = (function() return _ENV end)().k, f = 1 }",
      "function m(self) return self end return _ENV:m()" } do
      local got = send(load(source, "=f", "t", env))("k")
      assert.are.equal("v1", got.k .. got.f, source)
    end
    local partial, whole = load("return f", "=f", "t", env), load("return _ENV", "=f", "t", env)
    for _, order in ipairs { { partial, whole }, { whole, partial }, { partial, env }, { env, partial } } do
      local got = send(order)
      for i = 1, 2 do
        local table_of = order[i] == whole and got[i]() or order[i] == env and got[i] or nil
        if table_of then
          assert.are.equal("v", table_of.k)
          assert.are.equal(pairs, table_of.pairs)
        else
          assert.are.equal(1, got[i]())
        end
      end
    end
  end)

  it("brings the functions it names, and theirs", function()
    local env = setmetatable({}, { __index = _G })
    load("function helper(n) return n == 0 and limit or helper(n - 1) end limit = 9", "=l", "t", env)()
    assert.are.equal(9, send(load("return helper(3)", "=f", "t", env))())
  end)

  it("refuses what it names and cannot go", function()
    local env = { conn = { socket = coroutine.create(print) } }
    assert.are.equal("cannot send _ENV.conn.socket: coroutine (thread)",
      refusal({}, load("return conn", "=f", "t", env)))
  end)

  it("of this spec, which busted made, works", function()
    spec_level_global = 11 -- luacheck: ignore
    local function f() return spec_level_global, type(print) end -- luacheck: ignore
    local got = table.pack(send(f)())
    assert.are.equal("function", got[2])
  end)
end)

describe("__mantichora", function()
  local Point = {}
  Point.__index = Point
  local calls = 0
  function Point.new(x, y) return setmetatable({ x = x, y = y, secret = coroutine.create(print) }, Point) end
  local new = Point.new
  function Point.__mantichora(self)
    calls = calls + 1
    return new, self.x, self.y
  end

  it("rebuilds the value on the other side, once for each object", function()
    calls = 0
    local p = Point.new(1, 2)
    local a, b = send({ p, p }, p)
    assert.are.equal(1, calls)
    assert.are.equal(a[1], a[2])
    assert.are.equal(a[1], b)
    assert.are.equal("1 2", b.x .. " " .. b.y)
    assert.are_not.equal(p, b)
  end)

  it("works for keys, upvalues, metatables and nested values", function()
    local p = Point.new(3, setmetatable({}, { __mantichora = function() return load "return 7" end }))
    local function f() return p end
    assert.are.equal("3 7", send(f)().x .. " " .. send(f)().y)
    assert.are.equal(3, next(send({ [p] = 1 })).x)
  end)

  it("gets complete arguments, globals and environments", function()
    local env = { helper = function(t) return getmetatable(t[1]).k end, setmetatable = setmetatable }
    local rebuild = load("local t = ... return setmetatable({}, { value = helper(t) })", "=r", "t", env)
    local object = setmetatable({}, { __mantichora = function()
      return rebuild, { setmetatable({}, { k = "complete" }) }
    end })
    assert.are.equal("complete", getmetatable(send({ object })[1]).value)
    local parent, worker = codec.state(), codec.state()
    local bytes = parent:run([[
      local baseline = codec.baseline()
      function helper(x) return { x + offset } end
      offset = 100
      local object = setmetatable({}, { __mantichora = function() return function(x) return helper(x) end, 5 end })
      return (codec.encode({ baseline = baseline }, print, object, function() return helper(1) end))]])
    assert.are.equal(105, worker:run("local _, o = codec.decode({}, ...) return o[1]", bytes))
  end)

  it("tells what went wrong", function()
    local function with(hook) return setmetatable({}, { __mantichora = hook }) end
    assert.are.equal("cannot send argument 1.p: its __mantichora failed: oops",
      refusal({}, print, { p = with(function() error("oops", 0) end) }))
    assert.are.equal("cannot send argument 1: its __mantichora returned no function",
      refusal({}, print, with(function() end)))
    assert.are.equal("cannot send argument 1: its __mantichora returned no function",
      refusal({}, print, with(function() return 5 end)))
    assert.are.equal("cannot send argument 1.(__mantichora)[1]: coroutine (thread)",
      refusal({}, print, with(function() return print, { coroutine.create(print) } end)))
    local loop = with(nil)
    getmetatable(loop).__mantichora = function(self) return print, { self } end
    assert.are.equal("cannot send argument 1.(__mantichora)[1]: what its __mantichora returned leads back to it",
      refusal({}, print, loop))
    local fails = codec.encode({}, print, { x = with(function() return error, "no way" end) })
    assert.has_error(function() codec.decode({}, fails) end,
      "cannot rebuild argument 1.x: what its __mantichora returned failed: no way")
    local empty = codec.encode({}, print, with(function() return load "" end))
    assert.has_error(function() codec.decode({}, empty) end,
      "cannot rebuild argument 1: what its __mantichora returned gave nil")
  end)

  it("may drop what was put and make other objects: these are not taken for those", function()
    codec.state():run([[
      for _ = 1, 300 do
        local list, last = {}, 100
        for i = 1, last do list[i] = { "old" } end
        list[41] = setmetatable({}, { __mantichora = function()
          for i = 1, 40 do list[i] = nil end
          for i = 1, 1000 do local _ = { i, i } end -- the heap is small: the collector runs
          for i = 42, last do list[i] = { i } end
          return tostring, "rebuilt"
        end })
        local _, got = codec.decode({}, (codec.encode({}, print, list)))
        assert(got[41] == "rebuilt")
        for i = 42, last do assert(got[i][1] == i) end
      end]])
  end)

  it("leaves the collector running, or stopped", function()
    local hooked = setmetatable({}, { __mantichora = function() return tostring, 1 end })
    local fails = setmetatable({}, { __mantichora = error })
    send(hooked, { hooked })
    assert.is_true(collectgarbage("isrunning"))
    refusal({}, print, hooked, { fails })
    assert.is_true(collectgarbage("isrunning"))
    collectgarbage("stop")
    send(hooked)
    refusal({}, print, hooked, { fails })
    assert.is_false(collectgarbage("isrunning"))
    collectgarbage("restart")
  end)

  it("that fails leaves out only the global it is in", function()
    local parent, worker = codec.state(), codec.state()
    local bytes = parent:run([[
      local baseline = codec.baseline()
      count = 0
      local function hook() count = count + 1 return print, coroutine.create(print) end
      local bad = setmetatable({}, { __mantichora = hook })
      a, b, c = { bad }, 2, { bad }
      return (codec.encode({ baseline = baseline }, function() return a, b, c end))]])
    assert.are.equal(1, parent:run("return count"))
    assert.are.same({ n = 3, nil, 2, nil }, table.pack(worker:run("return codec.decode({}, ...)()", bytes)))
  end)
end)

describe("refusals", function()
  local file = io.tmpfile()

  it("name the kind and the path", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local function f() return file end
    assert.are.equal("cannot send upvalue 'file' of function <spec/codec_spec.lua:" .. line .. ">: userdata (FILE*)",
      refusal({}, f))
    assert.are.equal("cannot send argument 2.conn.socket: userdata (FILE*)",
      refusal({}, print, 1, { conn = { socket = file } }))
    assert.are.equal("cannot send argument 1[3]: coroutine (thread)", refusal({}, print, { 1, 2, coroutine.create(f) }))
    assert.are.equal("cannot send argument 1[\"not a name\"][true][-1.5]: C function",
      refusal({}, print, { ["not a name"] = { [true] = { [-1.5] = string.gmatch("a", "a") } } }))
    assert.are.equal("cannot send result 2: coroutine (thread)", refusal({ kind = "result" }, 1, coroutine.create(f)))
    assert.are.equal("cannot send error value.x: coroutine (thread)",
      refusal({ kind = "error" }, { x = coroutine.create(f) }))
    assert.are.equal("cannot send argument 1.(metatable).__gc: userdata (FILE*)",
      refusal({}, print, debug.setmetatable({}, { __gc = file })))
    assert.are.equal("cannot send argument 1[<userdata>]: userdata (FILE*)", refusal({}, print, { [file] = 1 }))
  end)

  it("name the functions on the way", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local state = { deep = { file = file } }
    local function helper() return state end
    local function f() return helper() end
    assert.are.equal("cannot send upvalue 'state'.deep.file of function <spec/codec_spec.lua:" .. line + 1 ..
      "> in upvalue 'helper' of function <spec/codec_spec.lua:" .. line + 2 .. ">: userdata (FILE*)", refusal({}, f))
    assert.are.equal("cannot send upvalue 'state'.deep.file of function <spec/codec_spec.lua:" .. line + 1 ..
      "> in argument 1.callback: userdata (FILE*)", refusal({}, print, { callback = helper }))
  end)

  it("leave nothing behind that the next message could meet", function()
    assert.is_false(pcall(codec.encode, {}, { 1, { file } }))
    assert.are.same({ 1, { 2 } }, send({ 1, { 2 } }))
  end)
end)

describe("light userdata", function()
  it("goes", function()
    local null = require "cjson".null
    assert.are.equal(null, (send(null)))
    assert.are.equal(null, send({ null })[1])
  end)
end)

describe("bytes from elsewhere", function()
  it("give an error when cut short or continued", function()
    local _, bytes = nil, codec.encode({}, { 1, "two", { x = 3.5, y = { "long" .. ("g"):rep(40) } }, 1, 2, 3, 4, 5 },
      function() return send end)
    for length = 0, #bytes - 1 do
      local fine, message = pcall(codec.decode, {}, bytes:sub(1, length))
      assert.is_false(fine, "at " .. length)
      assert.is_string(message)
    end
    assert.has_error(function() codec.decode({}, bytes .. "\0") end)
  end)

  it("give an error when records do not end as they should", function()
    local head = "\4\1\xc1\1\0" -- a table of one item
    assert.are.same({ { a = 1 } }, (codec.decode({}, head .. "\xc2\1\x81a\1\x53")))
    local shape = "\4\1\xc1\2\0\xc2\2\x81a\x81b\1\2\xc9\0" -- a record, and a loose one
    assert.are.same({ { a = 1, b = 2 }, {} }, (codec.decode({}, shape .. "\x54\x53\x53")))
    assert.are.same({ { a = 1, b = 2 }, { a = 3 } }, (codec.decode({}, shape .. "\3\x54\x53\x53")))
    assert.are.same({ { a = 1, b = 2 }, { a = 3, b = 4, c = 5 } },
      (codec.decode({}, shape .. "\3\4\x54\x81c\5\x53\x53")))
    for _, wrong in ipairs { "\x53", "\3\4\x53\x53", "\3\4\5\x54\x53\x53", "\3\x54\x81c\x53\x53",
      "\3\x54\x40\1\x53\x53", "\x54", "\x54\x53", "\3\x54\x54\x53\x53" } do
      assert.has_error_match(function() codec.decode({}, shape .. wrong) end, "malformed message")
    end
    assert.has_error_match(function() codec.decode({}, head .. "\xc2\1\x81a\x54\x53\x53") end, "unknown tag")
  end)

  it("do not run code that is not allowed", function()
    for _, value in ipairs { function() end, setmetatable({}, { __mantichora = function() return print end }) } do
      local bytes = codec.encode({}, value)
      assert.has_error(function() codec.decode({ code = false }, bytes) end)
    end
    assert.are.equal(string.rep, codec.decode({ code = false }, (codec.encode({}, string.rep))))
  end)
end)

describe("large tables of numbers", function()
  local MANY = 65536 + 5 -- from 65536 items on they go ahead, where they are known to be an array
  local PIECE = 16384

  local function numbers(n, f)
    local list = {}
    for i = 1, n do list[i] = f(i) end
    return list
  end

  local function float(i) return i * 0.1 end

  -- Encode and decode; how many pieces went ahead.
  local function send_early(...)
    local pieces = {}
    local bytes = codec.encode({ kind = "result", ahead = pieces }, ...)
    return #pieces, codec.decode({ kind = "result", ahead = pieces }, bytes)
  end

  local function same(a, b)
    if #a ~= #b then return false end
    for key, value in next, a do
      local other = rawget(b, key)
      if math.type(value) ~= math.type(other) or value ~= other and (value == value or other == other) then
        return false
      end
    end
    for key in next, b do
      if rawget(a, key) == nil then return false end
    end
    return true
  end

  it("go ahead in pieces, as they are", function()
    for name, f in pairs {
      floats = float, whole = function(i) return i * 1.0 end, small = function(i) return i & 127 end,
      int2 = function(i) return -i & 0x7fff end, int4 = function(i) return i << 10 end,
      int8 = function(i) return i << 40 | i end,
      special = function(i) return ({ 0 / 0, -0.0, 1 / 0, -1 / 0, 2.0 ^ 52, 2.0 ^ 63, 5e-324, 1.5 })[i % 8 + 1] end,
      kinds = function(i) return i // PIECE % 2 == 0 and i or i + 0.5 end,
    } do
      for _, n in ipairs { MANY, MANY + 1, MANY + PIECE - 1, 2 * MANY } do
        local list = numbers(n, f)
        local pieces, got = send_early(list)
        assert.are.equal(name == "kinds" and 0 or n // PIECE, pieces, name)
        assert.is_true(same(list, got), name .. " " .. n)
      end
    end
  end)

  it("are told from integers where a float has no fraction", function()
    for _, at in ipairs { 1, 2, 5, 900, 1024, 1025, PIECE, PIECE + 1, MANY } do
      for _, other in ipairs { 3, 1 << 52, (1 << 53) + 1, math.maxinteger, math.mininteger } do
        local list = numbers(MANY, float)
        list[at] = other
        local _, got = send_early(list)
        assert.is_true(same(list, got))
        list = numbers(MANY, function(i) return i end)
        list[at] = other + 0.0
        _, got = send_early(list)
        assert.is_true(same(list, got))
      end
    end
  end)

  it("keep what is behind the numbers", function()
    for at = 3 * PIECE, 3 * PIECE + 2 do
      local list = numbers(MANY + 100, float)
      list[at] = "text"
      local pieces, got = send_early(list)
      assert.are.equal((at - 1) // PIECE, pieces)
      assert.is_true(same(list, got))
    end
    local list = numbers(MANY + 10, float)
    list.name, list[-1], list[1.5], list[MANY + 200] = "n", 2, 3, 4
    setmetatable(list, { __name = "list" })
    list.self = list
    local pieces, got, again = send_early(list, list)
    assert.are.equal(MANY // PIECE, pieces)
    assert.are.equal(got, again)
    assert.are.equal(got, got.self)
    assert.are.equal("list", getmetatable(got).__name)
    got.self, list.self = nil, nil
    assert.is_true(same(list, got))
  end)

  it("may be several, in one another and beside refused ones", function()
    local a, b, c = numbers(MANY, float), numbers(2 * MANY, function(i) return i end), numbers(MANY, float)
    a[MANY + 1], b.c = b, c
    local pieces, got, second = send_early({ a }, c)
    assert.are.equal(4 * MANY // PIECE, pieces)
    assert.are.equal(second, got[1][MANY + 1].c)
    assert.is_true(same(c, second))
    got = got[1][MANY + 1]
    b.c, got.c = nil, nil
    assert.is_true(same(b, got))
    pieces = {}
    assert.has_error_match(function() codec.encode({ ahead = pieces }, c, coroutine.create(print)) end, "cannot send")
    assert.are.equal(MANY // PIECE, #pieces)
  end)

  it("are not rebuilt when a piece is lost, comes twice or is none", function()
    local list, pieces = numbers(2 * MANY, float), {}
    local bytes = codec.encode({ kind = "result", ahead = pieces }, list)
    local lost = table.move(pieces, 2, #pieces, 1, {})
    local twice = table.move(pieces, 1, #pieces, 2, { pieces[1] })
    for _, wrong in ipairs { lost, twice, {}, false } do
      assert.has_error(function() codec.decode({ kind = "result", ahead = wrong }, bytes) end)
    end
    assert.has_error(function() codec.decode({ kind = "result", ahead = lost }, bytes) end,
      "cannot rebuild result 1: not enough memory")
    for _, wrong in ipairs { "", "\1", "\0\5\x4d\1\1", "\1\5\x4d\6\1\1\1\1\1\1", "\1\5\x4d\2\1", "\1\5\x4d",
      "\1\5\x40", "\1\5\x52\0", "\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\x4d\1\1", ("\xff"):rep(20) } do
      assert.has_error_match(function() codec.decode({ ahead = { wrong } }, bytes) end, "malformed message")
    end
    assert.has_error(function() -- one table for two
      codec.decode({ ahead = { "\1\3\x4d\3\1\2\3" } }, "\4\2\xca\1\3\3\0\xca\1\3\3\0\x53")
    end)
    assert.are.same({ { 1, 2, 3 } }, { (codec.decode({ ahead = { "\1\3\x4d\3\1\2\3" } }, "\4\1\xca\1\3\3\0\x53")) })
    assert.has_error_match(function()
      codec.decode({ ahead = { "\1\3\x4d\3\1\2\3" } }, "\4\1\xca\1\3\2\0\x53")
    end, "too many elements")
  end)
end)

describe("explain", function()
  local function part_at(report, path)
    local found
    local function look(list)
      for _, part in ipairs(list) do
        if part.path:gsub(" of function <[^>]*>", "") == path then found = part end
        look(part.parts)
      end
    end
    look(report.parts)
    return assert(found, path)
  end

  it("tells how each part goes, and how large it is", function()
    local shared, file = { 1, 2, 3 }, io.tmpfile()
    local big = {}
    for i = 1, 1000 do big[i] = { i } end
    local n = 1
    local function helper() return shared, string.rep, n end
    local hooked = setmetatable({}, { __mantichora = function() return print, { 1 } end })
    local report = codec.explain(nil, load("local h = ... return function() some_global = h() end")(helper),
      { a = shared, conn = { file = file } }, big, hooked, _G, ("s"):rep(500))
    assert.are.equal("value", part_at(report, "upvalue 'h'").how)
    assert.are.equal("value", part_at(report, "upvalue 'shared' in upvalue 'h'").how)
    assert.are.equal("number", part_at(report, "upvalue 'n' in upvalue 'h'").kind)
    assert.are.equal("shared", part_at(report, "argument 1.a").how)
    assert.truthy(part_at(report, "argument 1.a").detail:find("^upvalue 'shared' of function"))
    assert.are.same({ "refused", "userdata (FILE*)" },
      { part_at(report, "argument 1.conn.file").how, part_at(report, "argument 1.conn.file").detail })
    assert.are.equal("hook", part_at(report, "argument 3").how)
    assert.are.equal("globals", part_at(report, "argument 4").how)
    assert.are.same({ "argument 1.conn.file" }, { report.refused[1].path, report.refused[2] })
    assert.are.same({ "some_global" }, report.globals)
    assert.are.equal("argument 2", report:largest(1)[1].path)
    local sum = 0
    for _, part in ipairs(report.parts) do sum = sum + part.size end
    assert.is_true(sum < report.size and sum > report.size - 5)
    local text = tostring(report)
    for _, line in ipairs { " in all\n", "argument 1: table, by value, %d+ bytes", "%[12%]: table", "and 988 more",
      "globals that the code mentions: some_global", "CANNOT BE SENT: userdata %(FILE%*%)" } do
      assert.truthy(text:find(line), line .. " in\n" .. text)
    end
  end)

  it("tells modules, environments and globals that go along", function()
    local env = setmetatable({ x = { 1 } }, { __index = _G })
    local report = codec.explain(nil, load("return x", "=f", "t", env), string, string.format)
    assert.are.equal("environment", part_at(report, "upvalue '_ENV'").how)
    assert.are.equal("string", part_at(report, "argument 1").detail)
    assert.are.equal("string.format", part_at(report, "argument 2").detail)
    assert.are.equal("value", part_at(report, "_ENV.x").how)
    local baseline = codec.baseline()
    rawset(_G, "explained_global", coroutine.create(print))
    report = codec.explain(baseline, load "return explained_global")
    rawset(_G, "explained_global", nil)
    assert.are.equal("refused", part_at(report, "global 'explained_global'").how)
  end)
end)
