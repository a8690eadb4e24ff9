-- map and imap; explain and the warning of large sends.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local function square(x) return x * x end

-- An iterator over 1..n that tells how far it was asked.
local function counter(n)
  local asked = 0
  return function()
    if asked == n then return nil end
    asked = asked + 1
    return asked
  end, function() return asked end
end

for _, engine in ipairs { "fork", "snapshot", "inline" } do
  describe("engine " .. engine, function()
    local function new(options)
      options = options or {}
      options.engine, options.nworkers = engine, 2
      return mantichora(options)
    end

    it("maps a list in order, with n", function()
      local mcore <close> = new()
      assert.are.same({ n = 5, 1, 4, 9, 16, 25 }, mcore:map(square, { 1, 2, 3, 4, 5 }))
      assert.are.same({ n = 0 }, mcore:map(square, {}))
      assert.are.same({ n = 3, "nil", "x", "nil" }, mcore:map(tostring, { n = 3, nil, "x", nil }))
    end)

    it("leaves the results of other tasks alone", function()
      local mcore <close> = new()
      assert.are.equal(0, mcore:run(function() return "other" end))
      mcore:map(square, { 1, 2 })
      for _ in mcore:imap(square, { 1, 2 }) do end
      assert.are.equal(5, mcore:run(function() return "next" end))
      assert.are.same({ n = 2, "other", "next" }, mcore:returns())
    end)

    it("iterates in order, over lists and iterators", function()
      local mcore <close> = new()
      local seen = {}
      for i, value in mcore:imap(square, { 3, 2, 1 }) do seen[i] = value end
      assert.are.same({ 9, 4, 1 }, seen)
      local turn = 0
      for i, value, twice in mcore:imap(function(x) return x, 2 * x end, (counter(300))) do
        turn = turn + 1
        assert.are.same({ turn, turn, 2 * turn }, { i, value, twice })
      end
      assert.are.equal(300, turn)
    end)

    it("looks ahead only so far", function()
      local mcore <close> = new()
      local items, asked = counter(1000000)
      for i in mcore:imap(square, items) do
        assert.is_true(asked() - i < 1000)
        if i == 200 then break end
      end
      assert.is_true(asked() < 1200)
      assert.are.same({ n = 0 }, mcore:returns())
    end)

    it("raises at the failed item's turn and cancels the rest", function()
      local mcore <close> = new()
      local reached = 0
      local fine, failure = pcall(function()
        for i in mcore:imap(function(x)
          if x == 3 then error("three") end
          return x
        end, { 1, 2, 3, 4, 5 }) do reached = i end
      end)
      assert.is_false(fine)
      assert.truthy(failure.message:find("three", 1, true))
      assert.are.equal(2, failure.runid)
      assert.are.equal(2, reached)
      assert.are.same({ n = 1, 49 }, mcore:map(square, { 7 }))
    end)

    it("raises the lowest failure of a map with all others and the results", function()
      local mcore <close> = new()
      local fine, failure = pcall(mcore.map, mcore, function(x)
        if x % 2 == 0 then error("even", 0) end
        return x
      end, { 1, 2, 3, 4 })
      assert.is_false(fine)
      assert.are.same({ 1, "even", 2 }, { failure.runid, failure.message, #failure.failures })
      assert.are.same({ [1] = 1, [3] = 3 }, failure.results)
    end)

    it("puts failures in their places when asked to", function()
      local mcore <close> = new { on_error = "return" }
      local kinds = {}
      for i, value in mcore:imap(function(x)
        if x == 2 then error("two") end
        return x
      end, { 1, 2, 3 }) do kinds[i] = type(value) == "table" and value.kind or value end
      assert.are.same({ 1, "error", 3 }, kinds)
    end)

    it("gives each item its own run ID and stream of random numbers", function()
      local function draw() return mantichora.runid() .. ":" .. math.random(1 << 40) end
      local a <close> = new { seed = 5 }
      local b <close> = new { seed = 5 }
      local drawn = a:map(draw, { 1, 2, 3 })
      for _ = 1, 3 do b:run(draw) end
      assert.are.same(drawn, b:returns())
    end)

    it("complains of what it cannot map", function()
      local mcore <close> = new()
      for _, case in ipairs {
        { "map takes a function and items: nil is given", mcore.map, nil, {} },
        { "map takes a list: function is given", mcore.map, square, function() end },
        { "imap takes a list or an iterator: nil is given", mcore.imap, square, nil },
        { "map takes a list whose n is an integer: 2.5 is given", mcore.map, square, { n = 2.5 } },
        { "imap takes a list whose n is an integer: x is given", mcore.imap, square, { n = "x" } },
      } do
        local fine, message = pcall(function() return (case[2](mcore, case[3], case[4])) end)
        assert.is_false(fine)
        assert.truthy(message:find(case[1], 1, true), message)
        assert.truthy(message:find("^spec/map_spec.lua"), message)
      end
      assert.are.same({ n = 0 }, mcore:map(square, { n = -1 }))
    end)

    it("says in the caller's line what stands against it", function()
      local mcore <close> = new()
      local function message_of(f)
        local fine, message = pcall(f)
        assert.is_false(fine)
        return message
      end
      if engine ~= "snapshot" then -- which sends nothing there
        local threads = { coroutine.create(print) }
        assert.truthy(message_of(function() mcore:map(print, threads) end)
          :find("^spec/map_spec.lua:%d+: cannot send argument 1: coroutine"))
      end
      local step, _, _, group = mcore:imap(square, (counter(1000)))
      step()
      do local _ <close> = group end
      assert.truthy(message_of(function() while step() do end end)
        :find("^spec/map_spec.lua:%d+: this iteration has ended"))
      step = mcore:imap(square, (counter(1000)))
      step()
      mcore:close()
      assert.truthy(message_of(function() while step() do end end)
        :find("^spec/map_spec.lua:%d+: pool is closed"))
    end)

    it("has failures for items whose error cannot be rebuilt, and all other values", function()
      local mcore <close> = new { on_error = "return" }
      local error, setmetatable = error, setmetatable -- no globals, and many items: they travel in batches
      local function hook() return function() error("not here", 0) end end
      local function describe_it() return "it failed" end
      local list = {}
      for i = 1, 400 do list[i] = i end
      local function f(x)
        if x % 50 == 0 then error(setmetatable({}, { __mantichora = hook, __tostring = describe_it })) end
        return x
      end
      local results = mcore:map(f, list)
      assert.are.equal(400, results.n)
      for i = 1, 400 do
        if i % 50 ~= 0 then
          assert.are.equal(i, results[i])
        else
          assert.are.equal("error", results[i].kind)
          assert.are.equal(i - 1, results[i].runid)
          assert.are.equal("it failed", results[i].message)
          assert.is_nil(results[i].value)
          assert.truthy(tostring(results[i]):find("cannot rebuild error value: .*not here"))
        end
      end
    end)
  end)
end

describe("imap", function()
  it("gives in order of completion when asked to", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local order = {}
    for i in mcore:imap(mantichora.sleep, { 0.3, 0.01 }, { ordered = false }) do order[#order + 1] = i end
    assert.are.same({ 2, 1 }, order)
  end)

  it("cancels what runs when it is left", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local start = process.clock()
    for _ in mcore:imap(function(x)
      if x > 1 then mantichora.sleep(30) end
    end, { 1, 2, 3, 4 }) do break end
    assert.are.same({ n = 1, 16 }, mcore:map(square, { 4 }))
    assert.is_true(process.clock() - start < 5)
  end)

  it("is collected when it is dropped half-way", function()
    local mcore <close> = mantichora { nworkers = 2 }
    do
      local iterator = mcore:imap(square, (counter(1000000)))
      iterator()
    end
    collectgarbage()
    collectgarbage()
    assert.are.same({ n = 1, 16 }, mcore:map(square, { 4 }))
  end)
end)

describe("explain", function()
  it("shows what a run would send, and what stands against it", function()
    local upvalue = { 1, 2, { file = io.stdout } }
    local report = mantichora.explain(function() return upvalue end, coroutine.create(print))
    assert.is_true(report.size > 0)
    assert.are.equal(1, #report.refused)
    local text = tostring(report)
    assert.truthy(text:find("upvalue 'upvalue': table, by value", 1, true), text)
    assert.truthy(text:find("argument 1: .*CANNOT BE SENT: coroutine %(thread%)"), text)
  end)

  it("is behind a warning whose handler runs tasks, and for run_multiple", function()
    local got = shell.run(shell.interpreter .. [[ -e '
      local mantichora = require "mantichora"
      local logging = require "mantichora.logging"
      local mcore <close> = mantichora{ nworkers = 1, capture_warn = 100000 }
      local big = ("x"):rep(200000)
      logging.get("mantichora"):add_handler(function(record)
        print(record.levelname, record.message)
        mcore:run(function() return "from the handler" end)
      end)
      print(mcore:run(function() return #big end))
      local runids = mcore:run_multiple { function() return #big + 1 end, function() return 2 end }
      print(runids[1], runids[2])
      print(table.unpack(mcore:returns()))']])
    assert.are.equal("", got.err)
    local lines = {}
    for line in got.out:gmatch("[^\n]+") do lines[#lines + 1] = line:gsub("MiB.*", "MiB") end
    assert.are.same({ "WARNING\t0 MiB", "0", "WARNING\t0 MiB", "2\t3",
      "200000\tfrom the handler\t200001\t2\tfrom the handler" }, lines)
  end)

  it("is behind a warning of large sends, once for each function", function()
    local got = shell.run(shell.interpreter .. [[ -e '
      local mantichora = require "mantichora"
      local mcore <close> = mantichora{ nworkers = 1, capture_warn = 100000 }
      local big = ("x"):rep(200000)
      local function f() return #big end
      for i = 1, 3 do mcore:run(f) end
      mcore:run(function() end)
      mcore:returns()']])
    local _, count = got.err:gsub("WARNING:mantichora:0 MiB are sent with a task", "")
    assert.are.equal(1, count, got.err)
    assert.truthy(got.err:find("upvalue 'big' of function <(command line):5> (195 KiB)", 1, true), got.err)
  end)
end)
