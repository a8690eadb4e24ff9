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
    assert.truthy(tostring(failure):find("disk full.*values_spec.lua"))
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
