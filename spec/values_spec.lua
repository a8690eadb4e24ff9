-- What crosses between processes, seen by users of pools: each sentence holds with every engine.

local mantichora = require "mantichora"
local shell = require "spec.support.shell"

local ENGINES = { "fork", "snapshot", "inline" }

-- A test for each engine. `body` gets what makes a pool of it.
local function each_engine(name, body)
  for _, engine in ipairs(ENGINES) do
    it(("%s (%s)"):format(name, engine), function()
      body(function(options)
        options = options or {}
        options.engine, options.nworkers = engine, options.nworkers or 2
        return mantichora(options)
      end, engine)
    end)
  end
end

describe("an error value that cannot be rebuilt in the parent", function()
  -- What rebuilds it here: it raises, gives nothing, or breaks off in the middle of a larger value.
  local rebuilds = {
    raises = function() error("cannot be rebuilt") end,
    ["gives nil"] = function() return nil end,
    ["raises a table"] = function() error({}) end,
  }

  local function fail(rebuild, nested)
    local object = setmetatable({}, {
      __tostring = function() return "disk full" end,
      __mantichora = function() return rebuild end,
    })
    if nested then
      object = setmetatable({ why = { object } }, { __tostring = function() return "disk full" end })
    end
    error(object)
  end

  local function check_failure(failure)
    assert.are.equal("error", failure.kind)
    assert.are.equal("disk full", failure.message)
    assert.is_nil(failure.value)
    assert.truthy(failure.traceback:find("values_spec.lua:%d+: in "))
    assert.truthy(tostring(failure):find("disk full\n.*cannot rebuild error value.*values_spec.lua"))
  end

  for how, rebuild in pairs(rebuilds) do
    each_engine("leaves message and traceback: it " .. how, function(new)
      local pool <close> = new { on_error = "return" }
      for _, nested in ipairs { false, true } do
        pool:run(fail, rebuild, nested)
        check_failure(select(2, pool:receive_one()))
        pool:run(fail, rebuild, nested)
        check_failure(pool:receive_all()[1][2])
        pool:run(fail, rebuild, nested)
        check_failure(pool:returns()[1])
      end
    end)

    each_engine("leaves them among the items of a batch, too: it " .. how, function(new)
      local pool <close> = new { on_error = "return" }
      local function f(x)
        if x % 10 == 0 then fail(rebuild) end
        return x
      end
      local items = {}
      for i = 1, 300 do items[i] = i end
      local mapped = pool:map(f, items)
      for i, value in pool:imap(f, items) do
        for _, got in ipairs { mapped[i], value } do
          if i % 10 == 0 then check_failure(got) else assert.are.equal(i, got) end
        end
      end
    end)
  end
end)

describe("a global that functions name which are not sent", function()
  -- A script of its own for each, since it is about globals.
  local function prints(expected, script)
    local got = shell.run(shell.interpreter .. " -", { stdin = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1 }
      local function result(f, ...)
        pool:run(f, ...)
        return pool:returns()[1]
      end
    ]] .. script })
    assert.are.equal("", got.err)
    assert.are.equal(expected .. "\n", got.out)
  end

  it("is as it was assigned last", function()
    prints("9 nil 6 7", [[
      LIMIT = 6
      function lower() return LIMIT end
      pool:start()
      local function f() return lower() end
      LIMIT = 9
      local first = result(f)
      LIMIT = nil
      local second = tostring(result(f))
      LIMIT = 6
      local third = result(f)
      LIMIT = 7
      print(table.concat({ first, second, third, pool:map(f, { 1 })[1] }, " "))]])
  end)

  it("is so through functions of functions, recursion and upvalues", function()
    prints("9 9 9 9 nine", [[
      function a() return b() end
      function b() return c() end
      function c() return LIMIT end
      function even(n) if n == 0 then return LIMIT end return odd(n - 1) end
      function odd(n) return even(n - 1) end
      local function helper() return (function() return LIMIT end)() end
      function through_upvalue() return helper() end
      local env = setmetatable({ own = function() return LIMIT end }, { __index = _G })
      sandboxed = load("return LIMIT", "=s", "t", env)
      pool:start()
      LIMIT = 9
      local list = { result(function() return a() end), result(function() return even(8) end),
        result(function() return through_upvalue() end), result(function() return sandboxed() end) }
      function c() return NAME end
      NAME = "nine"
      list[5] = result(function() return a() end)
      print(table.concat(list, " "))]])
  end)

  it("is so when nothing had changed for some tasks", function()
    prints("nil nil 1 2 2 3 nil", [[
      function a() return b() end
      function b() return c() end
      function c() return LIMIT end
      local list = {}
      local function note() list[#list + 1] = tostring(result(function() return a() end)) end
      note() note()
      LIMIT = 1
      note()
      LIMIT = 2
      note() note()
      function c() return OTHER end
      OTHER = 3
      note()
      OTHER = nil
      note()
      print(table.concat(list, " "))]])
  end)

  it("is so with a function that goes by name", function()
    local folder = shell.folder()
    shell.write(folder .. "/values_job.lua", "return { run = function() return LIMIT end }")
    prints("6 9 9", ("package.path = %q .. package.path\n"):format(folder .. "/?.lua;") .. [[
      local job = require "values_job"
      LIMIT = 6
      local list = { result(job.run) }
      LIMIT = 9
      list[2] = result(job.run)
      local run = job.run
      list[3] = result(function() return run() end)
      print(table.concat(list, " "))]])
    shell.remove(folder)
  end)

  it("is so after another one that names it could not be sent", function()
    prints("was 9", [[
      function lower() return LIMIT end
      function stuck() return "was" end
      pool:start()
      LIMIT = 9
      local thread = coroutine.create(print)
      function stuck() return lower(), thread end
      print(result(function() return stuck() .. " " .. lower() end))]])
  end)
end)

describe("explain", function()
  local function environments()
    local list = {}
    local function add(env, source)
      list[#list + 1] = { env, load(source or "return _G", "=s", "t", env) }
      return env
    end
    local own = add {}
    own._G = own
    local named = add({ x = 1, long = ("x"):rep(1000) }, "return _G, x, long")
    named._G, named._ENV = named, named
    local chained = add(setmetatable({}, { __index = _G }), "return _G, print, _ENV")
    chained._G = chained
    add({ g = _G, _G = _G }, "return g, _G")
    local nested = add({}, "return me")
    nested.me = { nested }
    local both = add({}, "return f, g")
    both.f, both.g = load("return f, g", "=f", "t", both), load("return _ENV", "=g", "t", both)
    local ring, other = add {}, {}
    setmetatable(ring, { __index = setmetatable(other, { __index = ring }) })
    ring._G, other._G = other, ring
    local meta = add {}
    meta._G = setmetatable(meta, meta)
    local indexed = add({}, "return _G, absent")
    indexed._G = setmetatable(indexed, { __index = indexed })
    return list
  end

  it("tells of sandboxes whatever they hold", function()
    for _, case in ipairs(environments()) do
      local env, f = case[1], case[2]
      for _, arguments in ipairs { {}, { env }, { f, env } } do
        local report = mantichora.explain(f, table.unpack(arguments))
        assert.are.same({}, report.refused)
        assert.truthy(tostring(report):find("upvalue '_ENV': table", 1, true))
      end
      assert.truthy(mantichora.explain(print, env, f).size > 0)
    end
    local env = {}
    env._G = env
    assert.are.equal("_ENV._G", mantichora.explain(load("return _G", "=s", "t", env)).parts[2].path)
  end)

  it("names the path to what a sandbox holds and cannot go", function()
    local env = { thread = coroutine.create(print) }
    env._G = env
    local report = mantichora.explain(load("return _G", "=s", "t", env))
    assert.are.equal("_ENV.thread", report.refused[1].path)
    assert.are.equal(1, #report.refused)
  end)

  it("takes memory by the size of what it tells of, however deep that is nested", function()
    local deep = {}
    for _ = 1, 30000 do deep = { deep, next = { 1 } } end
    local report = mantichora.explain(print, deep)
    assert.is_true(#tostring(report) < 100000)
    assert.is_true(#report:largest(5) > 0)
    local at, most = report.parts, 0
    while at[1] do
      for _, part in ipairs(at) do most = math.max(most, #part.path) end
      at = (at[2] and #at[2].parts > #at[1].parts and at[2] or at[1]).parts
    end
    assert.is_true(most < 400)
  end)
end)

describe("a __mantichora that returns a new such object each time", function()
  local END = "what its __mantichora returned leads to another object that has one, and so on without an end"
  local one, two = {}, {}
  function one.__mantichora() return print, setmetatable({}, one) end
  function two.__mantichora() return print, { setmetatable({}, two), setmetatable({}, two) } end
  local kinds = { one, two }

  it("is refused, with the path", function()
    local pool <close> = mantichora { nworkers = 1 }
    for _, kind in ipairs(kinds) do
      local fine, message = pcall(pool.run, pool, print, { x = setmetatable({}, kind) })
      assert.is_false(fine)
      assert.truthy(message:find("cannot send argument 1[...]", 1, true))
      assert.truthy(message:find(".(__mantichora)", 1, true))
      assert.are.equal(END, message:sub(-#END))
    end
    pool:run(tostring, 5)
    assert.are.equal("5", pool:returns()[1])
  end)

  it("is told by explain", function()
    for _, kind in ipairs(kinds) do
      local report = mantichora.explain(print, { x = setmetatable({}, kind) })
      assert.are.equal("argument 1.x.(__mantichora)", report.refused[1].path:match("^argument 1%.x%.%(__mantichora%)"))
      assert.are.equal(END, report.refused[1].detail)
      assert.is_true(#tostring(report) < 1000000)
    end
  end)

  each_engine("fails a task that returns it, and no other", function(new)
    local pool <close> = new { on_error = "return" }
    for i, kind in ipairs(kinds) do
      pool:run(function() return { i, setmetatable({}, kind) } end)
      pool:run(function() return i end)
    end
    pool:run(function() error(setmetatable({}, { __mantichora = one.__mantichora, __tostring = function()
      return "oops"
    end })) end)
    local list = pool:returns()
    for i = 1, #kinds do
      assert.are.equal("unsendable", list[2 * i - 1].kind)
      assert.are.equal(END, list[2 * i - 1].message:sub(-#END))
      assert.are.equal(i, list[2 * i])
    end
    assert.are.equal("error", list[5].kind)
    assert.are.equal("oops", list[5].message)
  end)

  it("is something else than a long list of such objects", function()
    local node = {}
    local function rebuild(value, rest) return setmetatable({ value = value, rest = rest }, node) end
    function node.__mantichora(self) return rebuild, self.value, self.rest end
    local list
    for i = 1, 5000 do list = rebuild(i, list) end
    local pool <close> = mantichora { nworkers = 1 }
    pool:run(function(at)
      local sum = 0
      while at do sum, at = sum + at.value, at.rest end
      return sum
    end, list)
    assert.are.equal(5000 * 5001 // 2, pool:returns()[1])
  end)
end)

describe("the report of an error value that is a table", function()
  local function first_line(failure) return tostring(failure):match("^[^\n]*: error: ([^\n]*)") end
  local cycle = { 1 }
  cycle.self = cycle
  local mute = setmetatable({ 7 }, { __name = "MyError", __index = error, __pairs = error, __len = error,
    __eq = error, __lt = error, __concat = error })
  local many, wide = {}, {}
  for i = 1, 50000 do many[i], wide["k" .. i] = i, ("text"):rep(1000) end

  local cases = {
    { { code = 3 }, "{ code = 3 }" },
    { {}, "{}" },
    { { 1, "two", { x = 3.0 }, why = "disk\nfull\"", [-1] = 0.5, [true] = false, ["a b"] = 1 << 62 },
      '{ 1, "two", { x = 3.0 }, [-1] = 0.5, ["a b"] = 4611686018427387904, why = "disk\\nfull\\"", [true] = false }' },
    { { f = print, co = setmetatable({}, { __name = "Box" }) }, "{ co = Box {}, f = <C function> }" },
    { { a = { b = { c = { d = { e = 1 } } } } }, "{ a = { b = { c = { d = {...} } } } }" },
    { cycle, "{ 1, self = { 1, self = { 1, self = { 1, self = {...} } } } }" },
    { mute, "MyError { 7 }" },
    { setmetatable({ code = 3 }, { __tostring = function() return "by itself" end }), "by itself" },
    { setmetatable({ code = 4 }, { __tostring = function() error("no words") end }), "{ code = 4 }" },
    { setmetatable({ code = 5 }, { __tostring = function() return {} end }), "{ code = 5 }" },
    { many, "{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, ... and 49980 more }" },
  }

  each_engine("shows it", function(new)
    local pool <close> = new { on_error = "return" }
    for _, case in ipairs(cases) do
      pool:run(error, case[1])
      local _, failure = pool:receive_one()
      assert.are.equal(case[2], first_line(failure))
      assert.are.equal("table", type(failure.value))
    end
    pool:run(error, wide)
    local _, failure = pool:receive_one()
    assert.is_true(#tostring(failure) < 2000)
    assert.truthy(first_line(failure):find('^{ k%d+ = "texttext'))
    local mapped = pool:map(function(x) error { item = x } end, { 1, 2, 3 })
    assert.are.equal("{ item = 2 }", first_line(mapped[2]))
  end)

  each_engine("shows it even if it cannot be sent", function(new)
    local pool <close> = new { on_error = "return" }
    pool:run(function() error { code = 3, thread = coroutine.create(print) } end)
    local _, failure = pool:receive_one()
    assert.are.equal("{ code = 3, thread = <coroutine> }", first_line(failure))
    assert.is_nil(failure.value)
    assert.truthy(failure.message:find("^table: "))
  end)
end)

describe("what goes by name", function()
  each_engine("is the iterator of ipairs, too, in both directions", function(new)
    local pool <close> = new()
    local iterate, list, start = ipairs { 10, 20, 30 }
    pool:run(function(f, s, c)
      local sum = 0
      for _, value in f, s, c do sum = sum + value end
      return sum, rawequal(f, (ipairs {})), f
    end, iterate, list, start)
    assert.are.same({ 0, 60, true, iterate, n = 4 }, pool:receive_all()[1])
  end)

  it("is it even when ipairs was given to another function since", function()
    local got = shell.run(shell.interpreter .. " -", { stdin = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1 }
      local iterate = ipairs {}
      pool:start()
      function ipairs() error("not the iterator's") end
      pool:run(function(f) return f({ "one" }, 0) end, iterate)
      print(select(2, pool:receive_one()))
    ]] })
    assert.are.equal("1\tone\n", got.out)
    assert.are.equal("", got.err)
  end)

  it("is a table of a module that is a class, and no other", function()
    local module = { settings = { __version = 1, level = 1 }, Class = { __index = {} } }
    package.loaded["values_module"] = module
    local pool <close> = mantichora { nworkers = 1 }
    pool:start()
    module.settings.level = 2
    pool:run(function(settings, class)
      return settings.level, class == package.loaded["values_module"].Class
    end, module.settings, module.Class)
    assert.are.same({ 0, 2, true, n = 3 }, pool:receive_all()[1])
    package.loaded["values_module"] = nil
  end)
end)
