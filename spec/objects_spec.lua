-- Objects: classes keep their identity, so that an object which travelled is still an instance to the
-- library or script that made it. Each sentence holds with every engine. The class libraries here are
-- small restatements of how people's own ones work, one an idiom.

local mantichora = require "mantichora"
local shell = require "spec.support.shell"

local ENGINES = { "fork", "snapshot", "inline" }

-- A test for each engine. `body` gets go(f, ...), which runs a task and returns its values, what makes
-- a pool, and the engine.
local function each_engine(name, body)
  for _, engine in ipairs(ENGINES) do
    it(("%s (%s)"):format(name, engine), function()
      local function make(options)
        options = options or {}
        options.engine, options.nworkers = engine, options.nworkers or 1
        return mantichora(options)
      end
      local pool <close> = make()
      body(function(f, ...)
        pool:run(f, ...)
        return select(2, pool:receive_one())
      end, make, engine)
    end)
  end
end

-- Put a module into package.loaded, as `require` would, until the test ends.
local loaded = {}
local function module(name, make)
  package.loaded[name] = make()
  loaded[#loaded + 1] = name
  return package.loaded[name]
end

after_each(function()
  for i = #loaded, 1, -1 do package.loaded[loaded[i]], loaded[i] = nil, nil end
end)

-- ---- idioms: classes made in the script ----

local idioms = {}

-- The class is its instances' metatable, and their __index.
function idioms.prototype()
  local Cat = {}
  Cat.__index = Cat
  function Cat.new(name) return setmetatable({ name = name }, Cat) end
  function Cat:says() return self.name .. " meows" end
  return { class = Cat, new = Cat.new, is = function(x) return getmetatable(x) == Cat end }
end

-- Instances have a dictionary of methods as metatable, the class another with __call and __newindex,
-- and knows its subclasses weakly.
function idioms.dictionaries()
  local function class(name, super)
    local dictionary, static = {}, {}
    dictionary.__index = dictionary
    local new = { name = name, static = static, dictionary = dictionary, super = super,
      subclasses = setmetatable({}, { __mode = "k" }) }
    if super then
      for key, value in pairs(super.dictionary) do
        if key ~= "__index" then dictionary[key] = value end
      end
      setmetatable(static, { __index = function(_, key) return super.static[key] end })
      super.subclasses[new] = true
    end
    return setmetatable(new, {
      __index = static,
      __newindex = function(_, key, value) dictionary[key] = value end,
      __call = function(self, ...)
        local object = setmetatable({ class = self }, dictionary)
        object:initialize(...)
        return object
      end,
      __tostring = function() return "class " .. name end,
    })
  end
  local Animal = class("Animal")
  function Animal:initialize(name) self.name = name end
  function Animal:says() return self.name .. " speaks" end
  local Dog = class("Dog", Animal)
  function Dog:says() return self.name .. " barks" end
  local function is(x, what)
    local at = x.class
    while at do
      if at == (what or Dog) then return true end
      at = at.super
    end
    return false
  end
  return { class = Dog, super = Animal, new = function(name) return Dog(name) end,
    is = function(x) return is(x) and is(x, Animal) and x.class == Dog end }
end

-- Classes are copied from the one that they extend, metamethods and all, and are called to make one.
function idioms.extending()
  local Object = {}
  Object.__index = Object
  function Object:extend()
    local new = {}
    for key, value in pairs(self) do
      if key:sub(1, 2) == "__" then new[key] = value end
    end
    new.__index, new.super = new, self
    return setmetatable(new, self)
  end
  function Object:is(class)
    local at = getmetatable(self)
    while at do
      if at == class then return true end
      at = getmetatable(at)
    end
    return false
  end
  function Object:__call(...)
    local object = setmetatable({}, self)
    object:new(...)
    return object
  end
  local Point = Object:extend()
  function Point:new(name) self.name = name end
  function Point:says() return self.name .. " points" end
  local Rect = Point:extend()
  return { class = Rect, super = Point, new = function(name) return Rect(name) end,
    is = function(x) return x:is(Rect) and x:is(Point) and x:is(Object) end }
end

-- A function is the __index, and properties are computed.
function idioms.properties()
  local getters = { loud = function(self) return self.name:upper() end }
  local methods = { says = function(self) return self.loud end }
  local Property = {}
  function Property.__index(self, key)
    local getter = getters[key]
    return getter and getter(self) or methods[key]
  end
  return { class = Property, new = function(name) return setmetatable({ name = name }, Property) end,
    is = function(x) return getmetatable(x) == Property and x.loud end }
end

-- The metatable has operators only; it is known to nobody but functions.
function idioms.operators()
  local mt = {}
  local function new(name) return setmetatable({ name = name, says = function(x) return x.name end }, mt) end
  mt.__concat = function(a, b) return new(a.name .. b.name) end
  mt.__eq = function(a, b) return a.name == b.name end
  mt.__lt = function(a, b) return a.name < b.name end
  mt.__le = function(a, b) return a.name <= b.name end
  return { class = mt, new = new, is = function(x) return getmetatable(x) == mt end }
end

-- Methods are mixed in, and each class keeps its instances weakly.
function idioms.mixins()
  local Walks = { says = function(self) return self.name .. " walks" end }
  local Robot = { instances = setmetatable({}, { __mode = "k" }), mixins = { Walks } }
  Robot.__index = function(_, key)
    return rawget(Robot, key) or Walks[key]
  end
  function Robot.new(name)
    local robot = setmetatable({ name = name }, Robot)
    Robot.instances[robot] = true
    return robot
  end
  return { class = Robot, new = Robot.new, is = function(x) return getmetatable(x) == Robot end }
end

-- Objects are closures over what they hold, and refer to their class.
function idioms.closures()
  local Account = setmetatable({}, { __call = function(class, name)
    local self = { class = class }
    function self.says() return name end
    return self
  end })
  return { class = Account, new = function(name) return Account(name) end,
    is = function(x) return x.class == Account end }
end

describe("an object of a class of the script", function()
  for name, make in pairs(idioms) do
    each_engine("made by a task is an instance here: " .. name, function(go)
      local idiom = make()
      local object = go(function() return idiom.new("tom") end)
      assert.is_truthy(idiom.is(object))
      assert.are.equal(idiom.new("tom"):says(), object:says())
    end)

    each_engine("given to a task, it is one there and when it comes back: " .. name, function(go)
      local idiom = make()
      local there, back = go(function(x) return idiom.is(x) and x:says(), x end, idiom.new("rex"))
      assert.are.equal(idiom.new("rex"):says(), there)
      assert.is_truthy(idiom.is(back))
    end)

    each_engine("as an upvalue or in a table: " .. name, function(go)
      local idiom = make()
      local object = idiom.new("kit")
      local got = go(function(class) return { object, { class } } end, idiom.class)
      assert.is_truthy(idiom.is(got[1]))
      assert.are.equal(idiom.class, got[2][1])
    end)

    each_engine("items of a map: " .. name, function(_, new_pool)
      local idiom = make()
      local pool <close> = new_pool { nworkers = 2 }
      local list = {}
      for i = 1, 50 do list[i] = idiom.new("n" .. i) end
      local same = pool:map(function(x) return x end, list)
      local fresh = pool:map(function(x) return idiom.new(x.name or x:says()) end, list)
      for i = 1, 50 do
        assert.is_truthy(idiom.is(same[i]))
        assert.is_truthy(idiom.is(fresh[i]))
        assert.are.equal(list[i]:says(), same[i]:says())
      end
    end)
  end

  each_engine("is one in an error value, too", function(go, make)
    local idiom = idioms.dictionaries()
    local pool <close> = make { on_error = "return" }
    pool:run(function() error(idiom.new("bad")) end)
    local _, failure = pool:receive_one()
    assert.are.equal("error", failure.kind)
    assert.is_true(idiom.is(failure.value))
    assert.is_nil(go(function() end))
  end)

  each_engine("is one in an emitted value, too", function(_, make)
    local idiom = idioms.dictionaries()
    local pool <close> = make()
    local got = {}
    pool:on(function(event)
      if event.event == "emitted" then got[#got + 1] = event.values[1] end
    end)
    pool:run(function()
      mantichora.emit(idiom.new("tom"))
      return true
    end)
    assert.is_true(pool:returns()[1])
    assert.are.equal(1, #got)
    assert.is_true(idiom.is(got[1]))
  end)

  each_engine("shares its class with the results of other tasks", function(_, make)
    local idiom = idioms.prototype()
    local pool <close> = make { nworkers = 2 }
    for i = 1, 200 do pool:run(function() return idiom.new("n" .. i) end) end
    for _, object in ipairs(pool:returns()) do assert.are.equal(idiom.class, getmetatable(object)) end
  end)

  each_engine("compares with those made here", function(go)
    local idiom = idioms.operators()
    local object = go(function() return idiom.new("b") end)
    assert.is_true(object == idiom.new("b"))
    assert.is_true(idiom.new("a") < object)
    assert.are.equal("ab", (idiom.new("a") .. object).name)
  end)

  each_engine("leads from class to class", function(go)
    local idiom = idioms.dictionaries()
    local class, super, dictionary, static = go(function()
      return idiom.class, idiom.class.super, idiom.class.dictionary, idiom.super.static
    end)
    assert.are.equal(idiom.class, class)
    assert.are.equal(idiom.super, super)
    assert.are.equal(idiom.class.dictionary, dictionary)
    assert.are.equal("table", type(static))
  end)

  each_engine("reached only through upvalues of a method", function(go)
    local Hidden = {}
    Hidden.__index = Hidden
    local Factory = {}
    Factory.__index = Factory
    function Factory.make() return setmetatable({}, Hidden) end
    local factory = setmetatable({}, Factory)
    assert.are.equal(Hidden, getmetatable(go(function(f) return f.make() end, factory)))
  end)

  each_engine("in a cycle, and weak tables stay weak", function(go)
    local Node = {}
    Node.__index = Node
    local node = setmetatable({}, Node)
    node.self, node.class, node.weak = node, Node, setmetatable({ node }, { __mode = "v" })
    local back = go(function(x) return x end, node)
    assert.are.equal(back, back.self)
    assert.are.equal(back, back.weak[1])
    assert.are.equal(Node, back.class)
    assert.are.equal(Node, getmetatable(back))
    assert.are.equal("v", getmetatable(back.weak).__mode)
  end)
end)

describe("a class", function()
  each_engine("that a task changed is as it was here", function(go)
    local idiom = idioms.prototype()
    local object = go(function()
      idiom.class.says, idiom.class.extra = nil, 1
      return idiom.new("x")
    end)
    assert.are.equal(idiom.class, getmetatable(object))
    assert.are.equal("x meows", object:says())
    assert.is_nil(idiom.class.extra)
  end)

  each_engine("that a task made comes back by value, once", function(go)
    local a, b, class = go(function()
      local New = {}
      New.__index = New
      return setmetatable({}, New), setmetatable({}, New), New
    end)
    assert.are.equal(class, getmetatable(a))
    assert.are.equal(class, getmetatable(b))
    assert.are.equal(class, class.__index)
  end)

  each_engine("that a task derived has the parent's as its super", function(go)
    local Base = {}
    Base.__index = Base
    local object = go(function()
      local Derived = setmetatable({ super = Base }, Base)
      Derived.__index = Derived
      return setmetatable({}, Derived)
    end)
    local derived = getmetatable(object)
    assert.are_not.equal(Base, derived)
    assert.are.equal(Base, derived.super)
    assert.are.equal(Base, getmetatable(derived))
  end)

  each_engine("with __gc, in one message with its instance", function(go)
    local Resource = { __gc = function() end }
    Resource.__index = Resource
    local class, object = go(function(c, x) return c, x end, Resource, setmetatable({}, Resource))
    assert.are.equal(Resource, class)
    assert.are.equal(Resource, getmetatable(object))
  end)

  each_engine("met as a value before it is a metatable", function(go)
    local mt = { __add = function() return 1 end }
    local got, object = go(function(m, x) return m, x end, mt, setmetatable({ 1 }, mt))
    assert.are.equal(mt, got)
    assert.are.equal(mt, getmetatable(object))
  end)

  each_engine("is held while a task has it, and not longer", function(_, make)
    local pool <close> = make()
    local weak = setmetatable({}, { __mode = "v" })
    do
      local Passing = { v = 7 }
      Passing.__index = Passing
      weak[1] = Passing
      pool:run(function() return setmetatable({}, Passing) end)
    end
    collectgarbage()
    collectgarbage()
    local _, object = pool:receive_one()
    assert.are.equal(7, object.v)
    assert.are.equal(weak[1], getmetatable(object))
    object = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
  end)

  it("is dropped by a pool that is never idle", function()
    local pool <close> = mantichora { nworkers = 1 }
    local weak = setmetatable({}, { __mode = "v" })
    for i = 1, 200 do
      local Passing = { v = i }
      Passing.__index = Passing
      weak[i] = Passing
      pool:run(function() return setmetatable({}, Passing) end)
      if i > 3 then assert.are.equal(i - 3, select(2, pool:receive_one()).v) end
    end
    collectgarbage()
    collectgarbage()
    local count = 0
    for _ in pairs(weak) do count = count + 1 end
    assert.is_true(count < 20, count)
  end)

  it("that was collected here meanwhile comes by value, once", function()
    local pool <close> = mantichora { nworkers = 1 }
    local function go(f, ...)
      pool:run(f, ...)
      return select(2, pool:receive_one())
    end
    local weak = setmetatable({}, { __mode = "v" })
    do
      local Passing = { v = 8 }
      Passing.__index = Passing
      weak[1] = Passing
      go(function() _G.passing = Passing end)
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
    local a, b, class = go(function()
      return setmetatable({}, _G.passing), setmetatable({}, _G.passing), _G.passing
    end)
    assert.are.equal(8, a.v)
    assert.are.equal(class, getmetatable(a))
    assert.are.equal(class, getmetatable(b))
    assert.are.equal(class, class.__index)
  end)

  it("of an earlier task is the parent's own while that has it", function()
    local pool <close> = mantichora { nworkers = 1 }
    local Kept = {}
    Kept.__index = Kept
    pool:run(function() _G.kept = Kept end)
    pool:returns()
    pool:run(function() return { setmetatable({}, _G.kept), _G.kept } end)
    local _, got = pool:receive_one()
    assert.are.equal(Kept, getmetatable(got[1]))
    assert.are.equal(Kept, got[2])
  end)

  it("that a worker inherited is the parent's own", function()
    local Inherited = {}
    Inherited.__index = Inherited
    _G.objects_spec = { nested = { Class = {} } }
    _G.objects_spec.nested.Class.__index = _G.objects_spec.nested.Class
    finally(function() _G.objects_spec = nil end)
    local pool <close> = mantichora { nworkers = 1, init = function()
      _G.make_inherited = function() return setmetatable({}, Inherited) end
    end }
    pool:run(function() return _G.make_inherited() end)
    assert.are.equal(Inherited, getmetatable(select(2, pool:receive_one())))
    pool:run(load "return setmetatable({}, objects_spec.nested.Class)")
    assert.are.equal(_G.objects_spec.nested.Class, getmetatable(select(2, pool:receive_one())))
  end)

  it("does not go with the results that are of it", function()
    local idiom = idioms.prototype()
    local pool <close> = mantichora { nworkers = 1 }
    local padding = ("x"):rep(20000)
    function idiom.class.padding() return padding end
    pool:run(function() return idiom.new("a") end)
    pool:receive_one()
    local codec = require "codec_module"
    local baseline = codec.baseline()
    local bytes = codec.encode({ baseline = baseline }, function() return idiom.new("a") end)
    assert.is_true(#bytes > 20000)
    local copy = codec.decode({ baseline = baseline }, bytes)
    assert.is_true(#codec.encode({ baseline = baseline, kind = "result" }, copy()) < 50)
  end)

  each_engine("is found anew by each item of a map", function(_, make)
    local Counter = { count = 0, log = {} }
    Counter.__index = Counter
    function Counter:hit()
      Counter.count = Counter.count + 1
      Counter.log[#Counter.log + 1] = self.i
      return Counter.count, #Counter.log
    end
    local pool <close> = make { nworkers = 2 }
    local list = {}
    for i = 1, 100 do list[i] = setmetatable({ i = i }, Counter) end
    if pool:map(function() return 1 end, { 1 }) then
      local got = pool:map(function(x)
        local count, length = x:hit()
        return count * 1000 + length
      end, list)
      for i = 1, 100 do assert.are.equal(1001, got[i]) end
    end
    assert.are.equal(0, Counter.count)
  end)

  each_engine("goes to each item as it is when that is queued", function(_, make)
    local Config = { factor = 0 }
    Config.__index = Config
    function Config.of(x) return x * Config.factor end
    local pool <close> = make { nworkers = 1 }
    local function items()
      return coroutine.wrap(function()
        for i = 1, 2000 do
          Config.factor = i
          coroutine.yield(i)
        end
      end)
    end
    local last = 0
    for i, value in pool:imap(function(x) return Config.of(x) end, items()) do
      assert.is_true(value % i == 0 and value // i >= i and value // i >= last)
      last = value // i
    end
    assert.is_true(last > 1000)
  end)

  it("of a worker's own pool is the worker's, and the parent's in the end", function()
    local Cat = {}
    Cat.__index = Cat
    local pool <close> = mantichora { nworkers = 1 }
    pool:run(function(class)
      local inner <close> = require "mantichora" { nworkers = 1 }
      inner:run(function() return setmetatable({}, Cat) end)
      local cat = inner:returns()[1]
      return cat, getmetatable(cat) == class
    end, Cat)
    local _, cat, is_class = pool:receive_one()
    assert.are.equal(Cat, getmetatable(cat))
    assert.is_true(is_class)
  end)

  it("is the parent's own in a result of a task that was begun again", function()
    local Cat = {}
    Cat.__index = Cat
    local pool <close> = mantichora { nworkers = 1 }
    local mark = os.tmpname()
    finally(function() os.remove(mark) end)
    pool:run_with({ retries = 1 }, function()
      local file = io.open(mark)
      local begun = file:read("a")
      file:close()
      if begun == "" then
        file = io.open(mark, "w")
        file:write("begun")
        file:close()
        os.exit(1)
      end
      return setmetatable({}, Cat)
    end)
    assert.are.equal(Cat, getmetatable(select(2, pool:receive_one())))
  end)

  each_engine("changes here between two tasks, and each has it as it was", function(go)
    local Cat = {}
    Cat.__index = Cat
    local cat = setmetatable({}, Cat)
    assert.is_nil(go(function() return cat.purrs end))
    function Cat.purrs() return "purr" end
    assert.are.equal("purr", go(function() return cat.purrs() end))
    assert.are.equal("purr", go(function(x) return x.purrs() end, cat))
  end)
end)

describe("a sentinel of the script", function()
  each_engine("is itself again", function(go)
    local null = setmetatable({}, { __tostring = function() return "null" end })
    local one, nested = go(function(x) return x, { a = { null } } end, null)
    assert.are.equal(null, one)
    assert.are.equal(null, nested.a[1])
  end)

  each_engine("is an ordinary value once it is filled", function(go)
    local null = setmetatable({}, { __tostring = function() return "null" end })
    local got = go(function()
      null.x = 1
      return null
    end)
    assert.are_not.equal(null, got)
    assert.are.equal(1, got.x)
    assert.is_nil(next(null))
  end)

  each_engine("is none when it is an instance, or a plain empty table", function(go)
    local Class = {}
    Class.__index = Class
    local instance, plain = setmetatable({}, Class), {}
    local a, b = go(function(x, y) return x, y end, instance, plain)
    assert.are_not.equal(instance, a)
    assert.are.equal(Class, getmetatable(a))
    assert.are_not.equal(plain, b)
  end)
end)

-- ---- idioms: what is private to a module ----

-- Dates: a metatable that only the module's functions know.
local function dates()
  local mt = {}
  mt.__index = mt
  local function make(days) return setmetatable({ days = days }, mt) end
  function mt:add(days) return make(self.days + days) end
  function mt.__eq(a, b) return a.days == b.days end
  local function check(x) return getmetatable(x) == mt and x or error("invalid date") end
  return setmetatable({ diff = function(a, b) return make(check(a).days - check(b).days) end,
    is = function(x) return getmetatable(x) == mt end }, { __call = function(_, days) return make(days) end })
end

-- Placeholder expressions: operators make more of them, by way of a helper.
local function expressions()
  local operators = {}
  local function expression(op, ...) return setmetatable({ op = op, ... }, operators) end
  operators.__add = function(a, b) return expression("+", a, b) end
  local function value(x, arg)
    if getmetatable(x) ~= operators then return x end
    if x.op == "_1" then return arg end
    return value(x[1], arg) + value(x[2], arg)
  end
  return { _1 = expression("_1"), compile = function(x) return function(arg) return value(x, arg) end end }
end

-- Serializers: sentinels, one of them a field, one private.
local function serializers()
  local null = setmetatable({}, { __tostring = function() return "null" end })
  local hole = setmetatable({}, { __name = "hole" })
  return { null = null, hole = function() return hole end,
    write = function(x) return x == null and "null" or x == hole and "hole" or "value" end }
end

-- Parsers: classes in a private table of kinds.
local function parsers()
  local kinds = { number = {}, sum = {} }
  for _, kind in pairs(kinds) do kind.__index = kind end
  function kinds.number:value() return self[1] end
  function kinds.sum:value() return self[1]:value() + self[2]:value() end
  local function node(kind, ...) return setmetatable({ ... }, kinds[kind]) end
  return { parse = function(a, b) return node("sum", node("number", a), node("number", b)) end,
    is = function(x) return getmetatable(x) == kinds.sum and getmetatable(x[1]) == kinds.number end }
end

-- Iterators that hold what ipairs returns.
local function iterators()
  local mt = {}
  mt.__index = mt
  mt.__call = function(self, _, state) return self.generate(self.param, state) end
  local function wrap(generate, param, state)
    return setmetatable({ generate = generate, param = param, state = state }, mt)
  end
  function mt:map(f)
    local generate = self.generate
    return wrap(function(param, state)
      local next_state, value = generate(param, state)
      if next_state then return next_state, f(value) end
    end, self.param, self.state)
  end
  function mt:sum()
    local sum = 0
    for _, value in self.generate, self.param, self.state do sum = sum + value end
    return sum
  end
  return { iter = function(list) return wrap(ipairs(list)) end, is = function(x) return getmetatable(x) == mt end }
end

describe("what is private to a module", function()
  each_engine("is its own on the other side: dates", function(go)
    local date = module("spec_date", dates)
    local today = date(100)
    local there, diff = go(function(x) return date.is(x), date.diff(x, require "spec_date" (40)) end, today)
    assert.is_true(there)
    assert.is_true(date.is(diff))
    assert.is_true(diff == date(60))
    assert.are.equal(101, date.diff(diff:add(41), date(0)).days)
  end)

  each_engine("in a result, an upvalue, a table", function(go)
    local date = module("spec_date", dates)
    local upvalue = date(7)
    local got = go(function() return { upvalue, { date(8) } } end)
    assert.is_true(date.is(got[1]))
    assert.is_true(date.is(got[2][1]))
    assert.are.equal(getmetatable(upvalue), getmetatable(got[1]))
  end)

  each_engine("expressions", function(go)
    local func = module("spec_func", expressions)
    local made, there = go(function(x) return x + x, func.compile(x)(5) end, func._1 + 1)
    assert.are.equal(6, there)
    assert.are.equal(12, func.compile(made)(5))
  end)

  each_engine("sentinels, fields or not", function(go)
    local json = module("spec_json", serializers)
    local a, b, null, hole = go(function(n, h) return json.write(n), json.write(h), n, h end, json.null, json.hole())
    assert.are.same({ "null", "hole" }, { a, b })
    assert.are.equal(json.null, null)
    assert.are.equal(json.hole(), hole)
  end)

  each_engine("classes in a private table", function(go)
    local parser = module("spec_parser", parsers)
    local there, value, back = go(function(x) return parser.is(x), x:value(), parser.parse(3, 4) end,
      parser.parse(1, 2))
    assert.is_true(there)
    assert.are.equal(3, value)
    assert.is_true(parser.is(back))
    assert.are.equal(7, back:value())
  end)

  each_engine("iterators", function(go)
    local fun = module("spec_fun", iterators)
    local sum, is, back = go(function(it) return it:sum(), fun.is(it), it end,
      fun.iter({ 1, 2, 3 }):map(function(x) return x * 2 end))
    assert.are.equal(12, sum)
    assert.is_true(is)
    assert.is_true(fun.is(back))
    assert.are.equal(12, back:sum())
  end)

  each_engine("of the globals", function(go)
    local mt = {}
    function _G.spec_is_thing(x) return getmetatable(x) == mt end
    finally(function() _G.spec_is_thing = nil end)
    local there, back = go(load "local x = ... return spec_is_thing(x), x", setmetatable({}, mt))
    assert.is_true(there)
    assert.are.equal(mt, getmetatable(back))
  end)

  it("of a module that was loaded after the fork, in files", function()
    local folder = shell.folder()
    finally(function() shell.remove(folder) end)
    local file = assert(io.open(folder .. "/spec_late.lua", "w"))
    file:write([[local mt = {} mt.__index = mt
      local M = {}
      function M.new(v) return setmetatable({ v = v }, mt) end
      function M.is(x) return getmetatable(x) == mt end
      return M]])
    file:close()
    local path = package.path
    package.path = folder .. "/?.lua;" .. path
    finally(function() shell.remove(folder) package.path, package.loaded.spec_late = path, nil end)
    local pool <close> = mantichora { nworkers = 1 }
    pool:run(function() end)
    pool:returns()
    local late = require "spec_late"
    local function ask(x) return late.is(x), late.new(x.v + 1) end
    pool:run(ask, late.new(1))
    local _, there, back = pool:receive_one()
    assert.is_true(there)
    assert.is_true(late.is(back))
    assert.are.equal(2, back.v)
  end)

  it("goes by value when the module was loaded anew, and explain says so", function()
    module("spec_date", dates)
    local pool <close> = mantichora { nworkers = 1 }
    local old = package.loaded.spec_date
    pool:run(function() return 1 end)
    pool:returns()
    local new = dates()
    package.loaded.spec_date = new
    pool:run(function(x) return x, require "spec_date".is(x) end, new(3))
    local _, back, there = pool:receive_one()
    assert.is_true(new.is(back))
    assert.is_false(there) -- the worker has the old one
    assert.is_false(old.is(back))
    assert.is_truthy(tostring(mantichora.explain(function(x) return x end, old(3))):find("loaded anew", 1, true))
  end)
end)

describe("explain says how each class goes", function()
  local function report(...) return tostring(mantichora.explain(...)) end

  it("by its name", function()
    local date = module("spec_date", dates)
    local text = report(function(x) return x end, date(3))
    assert.is_truthy(text:find("%(metatable%): table, by reference: spec_date%.%w+, upvalue"), text)
    assert.is_nil(text:find("__eq", 1, true))
  end)

  it("by value and id", function()
    local idiom = idioms.prototype()
    local text = report(function(x) return x end, idiom.new("x"))
    assert.is_truthy(text:find("by value, %d+ bytes, a class of the script, which comes back as itself"), text)
  end)
end)
