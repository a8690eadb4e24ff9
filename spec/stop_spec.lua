-- A stop (time-out, cancel) of a task: which code its error reaches, that nothing of this library
-- swallows it, and what is not disturbed by it.

local mantichora = require "mantichora"
local shell = require "spec.support.shell"

local function spin() while true do end end

-- What `f(trace)` writes through `trace` while it is stopped, how the task ended, and whether its
-- worker lives on.
local function stopped(f, options)
  options = options or {}
  local file = shell.folder() .. "/trace"
  local before, failure, after
  do
    local pool <close> = mantichora { nworkers = 1, on_error = "return", progressbar = options.progressbar or false }
    pool:start()
    before = pool:workers()[1].pid
    local runid = pool:run_with({ timeout = options.timeout or 0.2 }, function()
      local out <close> = assert(io.open(file, "a"))
      out:setvbuf("no")
      local function trace(text) out:write(text, "\n") end
      local _ <close> = setmetatable({}, { __close = function() trace "closed" end })
      f(trace)
    end)
    if options.cancel then
      while not io.open(file) do pool:poll(0.01) end
      pool:poll(0.1)
      assert.are.equal("running", pool:cancel(runid))
    end
    failure = select(2, pool:receive_one(30))
    pool:run(function() end)
    pool:receive_one()
    after = pool:workers()[1].pid
  end
  local input <close> = assert(io.open(file))
  return input:read("a"), failure.kind, before == after
end

local function assert_stopped(trace, f, options)
  local got, kind, same = stopped(f, options)
  assert.are.equal(trace, got)
  assert.are.equal("timeout", kind)
  assert.is_true(same, "its worker was killed")
end

describe("the error of a stop passes through", function()
  local logging = require "mantichora.logging"
  -- Millions of records come.
  setup(function() logging.basic_config { stream = function() end } end)
  teardown(function() logging.basic_config { stream = io.stderr } end)

  local atpbar = require "mantichora.atpbar"
  local function forever() while true do mantichora.sleep(0) end end
  local slow = setmetatable({}, { __tostring = function() spin() end })

  local deeds = {
    ["log calls"] = function() for i = 1, 1e9 do logging.debug("step %d", i) end end,
    ["log calls that are sent"] = function() for i = 1, 1e9 do logging.error("step %d", i) end end,
    ["a value that a log call shows"] = function() logging.error(slow) end,
    ["an argument of a log call"] = function() logging.error("%s", slow) end,
    ["bars"] = function() for _ in atpbar(math.maxinteger) do end end,
    ["bars around iterators"] = function() for _ in atpbar.wrap(nil, "x", function() return 1 end) do end end,
    ["bar objects"] = function()
      local bar <close> = atpbar.bar { name = "x", total = 100 }
      while true do bar:set(50) end
    end,
    ["sleep"] = function() while true do mantichora.sleep(100) end end,
    ["short sleeps"] = forever,
    ["a coroutine"] = function() coroutine.wrap(spin)() end,
    ["a coroutine made before, resumed after"] = function()
      local co = coroutine.create(spin)
      pcall(spin)
      assert(coroutine.resume(co))
    end,
    ["explain"] = function()
      while true do mantichora.explain(print, setmetatable({}, { __mantichora = spin })) end
    end,
    ["a pool that is made"] = function()
      while true do local _ <close> = mantichora { nworkers = 1 } end
    end,
    ["an inner pool's returns"] = function()
      local pool <close> = mantichora { nworkers = 2 }
      pool:run(forever)
      pool:returns()
    end,
    ["an inner pool's map"] = function()
      local pool <close> = mantichora { nworkers = 2 }
      while true do pool:map(function(i) return i end, { 1, 2, 3 }) end
    end,
    ["an inner pool's imap"] = function()
      local pool <close> = mantichora { nworkers = 2 }
      for _ in pool:imap(function(i) return i end, function() return 1 end) do end
    end,
    ["an inner pool's close"] = function()
      local pool <close> = mantichora { nworkers = 2 }
      pool:run(forever)
      pool:close()
    end,
    ["what an inner pool sends"] = function()
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(print, setmetatable({}, { __mantichora = spin }))
    end,
    ["what an inner pool rebuilds"] = function()
      local pool <close> = mantichora { nworkers = 1, on_error = "return" }
      pool:run(function()
        return setmetatable({}, { __mantichora = function() return function() while true do end end end })
      end)
      pool:returns()
      while true do mantichora.sleep(0.01) end
    end,
    ["items that an inner pool rebuilds"] = function()
      local pool <close> = mantichora { nworkers = 1, on_error = "return" }
      while true do
        pool:map(function()
          return setmetatable({}, { __mantichora = function() return function() while true do end end end })
        end, { 1, 2 })
      end
    end,
    ["a task of an inline pool"] = function()
      local pool <close> = mantichora { engine = "inline", on_error = "return" }
      while true do
        pool:run(spin)
        pool:returns()
      end
    end,
    ["tasks of a snapshot pool"] = function()
      local pool <close> = mantichora { engine = "snapshot", on_error = "return" }
      while true do
        pool:run(spin)
        pool:returns()
      end
    end,
  }
  for name, deed in pairs(deeds) do
    it(name, function()
      assert_stopped("closed\n", deed)
    end)
  end

  it("log calls, when it is cancelled", function()
    local got, kind, same = stopped(function()
      for i = 1, 1e9 do logging.warning("step %d", i) end
    end, { timeout = 100, cancel = true })
    assert.are.same({ "closed\n", "cancelled", true }, { got, kind, same })
  end)
end)

describe("the error of a stop", function()
  it("is raised once, then a second time 0.3 s later", function()
    assert_stopped("caught\ncaught\nclosed\n", function(trace)
      for _ = 1, 2 do
        pcall(spin)
        trace "caught"
      end
    end)
  end)

  it("is raised once in each coroutine, also those made after it", function()
    assert_stopped("caught\ncaught\ncaught\nclosed\n", function(trace)
      pcall(spin)
      trace "caught"
      for _ = 1, 2 do
        assert(not coroutine.resume(coroutine.create(spin)))
        trace "caught"
      end
    end)
  end)

  it("is that of all threads that it comes up through", function()
    assert_stopped("inner\nouter\nhandled\ncaught\nclosed\n", function(trace)
      local function closing(text) return setmetatable({}, { __close = function() trace(text) end }) end
      local ok = xpcall(function()
        local _ <close> = closing "outer"
        coroutine.wrap(function()
          local _ <close> = closing "inner"
          coroutine.wrap(spin)()
        end)()
      end, function(message)
        return message
      end)
      trace "handled"
      assert(not ok)
      pcall(spin)
      trace "caught"
    end)
  end)

  it("leaves clean-up alone for 0.3 s", function()
    assert_stopped("cleaned\nclosed\n", function(trace)
      local _ <close> = setmetatable({}, { __close = function()
        local sum = 0
        for i = 1, 1e4 do sum = sum + math.sin(i) end
        mantichora.sleep(0.05)
        trace "cleaned"
      end })
      spin()
    end)
  end)

  it("lets an inner pool end", function()
    local folder = shell.folder()
    local function mark(what) io.open(folder .. "/" .. what, "a"):write("x"):close() end
    assert_stopped("ended\nclosed\n", function(trace)
      local pool = mantichora { nworkers = 2 }
      local _ <close> = setmetatable({}, { __close = function()
        pool:terminate()
        pool:close()
        trace "ended"
      end })
      for _ = 1, 2 do
        pool:run(function()
          local _ <close> = setmetatable({}, { __close = function() mark "ended" end })
          mark "begun"
          spin()
        end)
      end
      pool:returns()
    end, { timeout = 0.5 })
    local function marks(what)
      local input <close> = assert(io.open(folder .. "/" .. what))
      return input:read("a")
    end
    assert.are.equal(marks "begun", marks "ended")
  end)

  it("comes to a task that catches it again and again, and then SIGKILL", function()
    local got, kind, same = stopped(function(trace)
      while true do
        pcall(spin)
        trace "caught"
      end
    end)
    assert.are.same({ "caught\ncaught\n", "timeout", false }, { got, kind, same })
  end)

  it("does not come to the task that follows", function()
    local pool <close> = mantichora { nworkers = 1, on_error = "return" }
    for _ = 1, 5 do
      pool:run_with({ timeout = 0.05 }, function()
        pcall(spin)
        coroutine.wrap(pcall)(spin)
        kept = coroutine.create(spin) -- luacheck: ignore
      end)
      pool:run(function()
        local sum = 0
        for i = 1, 1e5 do sum = sum + coroutine.wrap(function() return i end)() end
        return sum
      end)
    end
    local results = pool:returns()
    for i = 1, 10 do
      assert.are.equal(i % 2 == 1 and "timeout" or 5000050000, i % 2 == 1 and results[i].kind or results[i])
    end
  end)
end)
