-- How pools end: by the end of their scope, close, collection, the end of the state; what is told of tasks
-- and failures that nobody waited for; and that nothing is lost where code of the user runs meanwhile.

local mantichora = require "mantichora"
local logging = require "mantichora.logging"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

-- What the logger `mantichora` says while f runs: lines like "ERROR: ..."; and what pcall says of f.
local function heard(f, ...)
  local lines = {}
  local log = logging.get("mantichora")
  local function note(record) lines[#lines + 1] = record.levelname .. ": " .. record.message end
  log.propagate = false
  log:add_handler(note)
  local said = table.pack(pcall(f, ...))
  log:remove_handler(note)
  log.propagate = true
  return lines, table.unpack(said, 1, said.n)
end

local function touch(path) io.open(path, "w"):close() end

local function exists(path)
  local file <close> = io.open(path)
  return file ~= nil
end

-- Run a script under the interpreter that this run of the specs is about.
local function run(script, options)
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", [[
    local mantichora = require "mantichora"
    local logging = require "mantichora.logging"
    local process = arg[1] and require "spec.support.process"
    local folder = arg[0]:match("^(.*)/")
  ]] .. script)
  local got = shell.run((options or "") .. " " .. shell.interpreter .. " " .. folder .. "/script.lua", { timeout = 30 })
  got.files = shell.run("ls " .. folder).out
  shell.remove(folder)
  return got
end

for _, engine in ipairs { "fork", "snapshot", "inline" } do
  local function new(options)
    options = options or {}
    options.engine, options.nworkers = engine, options.nworkers or 2
    return mantichora(options)
  end

  describe("leaving the scope of a pool with engine " .. engine, function()
    it("waits for what was accepted, however it is left", function()
      local folder = shell.folder()
      local function work(name) mantichora.sleep(0.05) touch(folder .. "/" .. name) end
      do
        local mcore <close> = new()
        for i = 1, 3 do mcore:run(work, "end" .. i) end
      end
      for _ = 1, 1 do
        local mcore <close> = new()
        mcore:run(work, "break")
        break
      end
      local function returning()
        local mcore <close> = new()
        mcore:run(work, "return")
        return 1, 2
      end
      assert.are.same({ 1, 2 }, { returning() })
      local co = coroutine.create(function()
        local mcore <close> = new()
        mcore:run(work, "coroutine")
        coroutine.yield()
      end)
      coroutine.resume(co)
      assert.is_true(coroutine.close(co))
      assert.is_false((pcall(function()
        local mcore <close> = new()
        mcore:run(work, "nil")
        error(nil)
      end)))
      for _, name in ipairs { "end1", "end2", "end3", "break", "return", "coroutine" } do
        assert.is_true(exists(folder .. "/" .. name), name)
      end
      -- Lua 5.5 makes an error of a nil: the text "<no error object>".
      assert.are.equal(_VERSION == "Lua 5.4", exists(folder .. "/nil"))
      shell.remove(folder)
    end)

    it("raises what returns would raise", function()
      local mcore
      local lines, fine, failure = heard(function()
        local pool <close> = new()
        mcore = pool
        pool:run(function() return "first" end)
        pool:run(error, "second")
        pool:run(function() return "third" end)
        pool:run(error, "fourth")
        return "never seen"
      end)
      assert.is_false(fine)
      assert.are.same({ "error", 1, "second" }, { failure.kind, failure.runid, failure.value })
      assert.are.same({ 1, 3 }, { failure.failures[1].runid, failure.failures[2].runid })
      assert.are.same({ [0] = "first", [2] = "third" }, failure.results)
      assert.are.same({}, lines)
      assert.are.equal("mantichora: closed", tostring(mcore))
    end)

    it("is silent about what was received", function()
      local lines, fine = heard(function()
        local mcore <close> = new { on_error = "raise" }
        mcore:run(error, "one")
        assert(not pcall(mcore.returns, mcore))
        mcore:run(error, "two")
        assert(not pcall(mcore.receive_one, mcore))
        mcore:run(function() return "not received" end)
      end)
      assert.are.same({ true }, { fine, lines[1] })
    end)

    it("logs instead with on_error return", function()
      local lines, fine, value = heard(function()
        local mcore <close> = new { on_error = "return", name = "mine" }
        mcore:run(error, "two\n  lines")
        mcore:run(error, "other")
        return "seen"
      end)
      assert.are.same({ true, "seen", 1 }, { fine, value, #lines })
      assert.truthy(lines[1]:find('^ERROR: pool "mine": 2 tasks failed and nobody received their failures; the first: '
        .. 'task 0: error: two lines$'), lines[1])
    end)

    it("does not count what was cancelled, nor items of a map or imap", function()
      local lines, fine, problem = heard(function()
        local mcore <close> = new()
        mcore:cancel(mcore:run(function() mantichora.sleep(20) end))
        assert(not pcall(mcore.map, mcore, error, { 1, 2, 3 }))
        assert(not pcall(function() for _ in mcore:imap(error, { 1, 2, 3 }) do error("not here") end end))
        for _ in mcore:imap(function(i) return i > 1 and error(i) or i end, { 1, 2, 3 }) do break end
        local iterator = mcore:imap(error, { 1, 2, 3 })
        assert(not pcall(iterator))
      end)
      assert.are.same({ true }, { fine, problem, lines[1] })
    end)

    it("logs what was accepted before a terminate, and raises what came later", function()
      local function fail_and_stop(mcore)
        mcore:run(error, "early")
        mcore:poll(20)
        mcore:run(mantichora.sleep, 20)
        mcore:terminate()
      end
      local lines, fine = heard(function()
        local mcore <close> = new()
        fail_and_stop(mcore)
      end)
      assert.are.same({ true, 1 }, { fine, #lines })
      assert.are.equal("ERROR: 1 task failed and nobody received its failure: task 0: error: early", lines[1])
      local failure
      lines, fine, failure = heard(function()
        local mcore <close> = new()
        fail_and_stop(mcore)
        mcore:run(error, "late")
      end)
      assert.are.same({ false, "late", 1 }, { fine, failure.value, #failure.failures })
      assert.are.equal(1, #lines)
      assert.truthy(lines[1]:find("task 0: error: early$"), lines[1])
    end)

    it("stops the tasks after an error, and logs failures", function()
      local from = process.clock()
      local lines, fine, problem = heard(function()
        local mcore <close> = new()
        mcore:run(error, "a failure")
        mcore:poll(20)
        mcore:run(mantichora.sleep, 30)
        error("mine", 0)
      end)
      assert.are.same({ false, "mine", 1 }, { fine, problem, #lines })
      assert.truthy(lines[1]:find("task 0: error: a failure$"), lines[1])
      assert.is_true(process.clock() - from < 15)
      assert.are.same({}, process.children())
    end)

    it("waits for what handlers run meanwhile", function()
      local ran = {}
      local handler
      local lines, fine = heard(function()
        local mcore <close> = new()
        handler = function(record)
          if record.message == "again" and #ran < 2 then
            ran[#ran + 1] = mcore:run(function() logging.error("again") end)
          end
        end
        logging.get("scope_spec"):add_handler(handler)
        logging.get("scope_spec").propagate = false
        mcore:run(function() require("mantichora.logging").get("scope_spec"):error("again") end)
      end)
      logging.get("scope_spec"):remove_handler(handler)
      assert.is_true(fine)
      assert.are.same({}, lines)
      assert.is_true(#ran >= 1)
    end)
  end)

  describe("close with engine " .. engine, function()
    it("logs in one line what failed and was received by nobody, and raises nothing", function()
      local lines, fine = heard(function()
        local mcore = new()
        for i = 1, 5 do mcore:run(function() if i > 2 then error("no " .. i) end end) end
        mcore:cancel(1)
        mcore:close()
        mcore:close()
        mcore:terminate()
      end)
      assert.are.same({ true, 1 }, { fine, #lines })
      assert.truthy(lines[1]:find("^ERROR: 3 tasks failed and nobody received their failures; the first: task 2 "
        .. "%(function <.*>%): error: .*: no 3$"), lines[1])
    end)
  end)

  describe("a renderer that raises, engine " .. engine, function()
    local function drawing() for _ in require("mantichora.atpbar")(3, "bar") do end end

    it("spoils neither close nor the end of a scope", function()
      local atpbar = require "mantichora.atpbar"
      for _, way in ipairs { "scope", "error", "close" } do
        local lines, fine, problem = heard(function()
          local mcore <close> = new { on_error = "return" }
          mcore:run(error, "x")
          mcore:poll(20)
          atpbar.set_renderer(function() error("renderer", 0) end)
          mcore:run(drawing)
          if way == "error" then error("mine", 0) end
          if way == "close" then mcore:close() end
        end)
        local of_renderer = 0
        for _, line in ipairs(lines) do
          if line:find("the renderer failed", 1, true) then of_renderer = of_renderer + 1 end
        end
        assert.are.equal(1, #lines - of_renderer, way)
        assert.is_true(of_renderer <= 1, way) -- once, if it was called before all was stopped
        assert.are.same(way == "error" and { false, "mine" } or { true }, { fine, problem })
        pcall(atpbar.flush)
      end
      atpbar.set_renderer()
    end)
  end)

  describe("while results are handed over, engine " .. engine, function()
    -- A task that returns an object which runs `code` when it is rebuilt here.
    local function odd(code)
      return function()
        return setmetatable({}, { __mantichora = function() return load(code) end })
      end
    end

    local deeds = {
      ["closes the pool"] = "spec_said = select(2, pcall(spec_pool.close, spec_pool)) return 2",
      ["terminates it"] = "spec_pool:terminate() return 2",
      ["leaves its scope"] = [[
        spec_said = select(2, pcall(function() local pool <close> = spec_pool end)) return 2]],
      ["collects garbage"] = "collectgarbage() return 2",
      ["polls"] = "spec_pool:poll() return 2",
      ["runs a map"] = "spec_pool:map(tostring, { 1, 2 }) return 2",
    }
    if engine == "inline" then deeds = {} end -- nothing is rebuilt
    for deed, code in pairs(deeds) do
      it("loses nothing where a rebuild function " .. deed, function()
        local mcore <close> = new { on_error = "return" }
        _G.spec_pool, _G.spec_said = mcore, nil
        finally(function() _G.spec_pool, _G.spec_said = nil, nil end)
        local function values() -- run IDs go on
          for i = 1, 4 do mcore:run(i == 2 and odd(code) or function() return i end) end
        end
        values()
        assert.are.same({ 1, 2, 3, 4, n = 4 }, mcore:returns())
        values()
        local entries = mcore:receive_all()
        for i = 1, 4 do assert.are.equal(i, entries[i][2]) end
        if deed == "terminates it" then return end -- what follows is not all there when it runs
        values()
        local seen = {}
        for _, value in mcore:as_completed() do seen[#seen + 1] = value end
        table.sort(seen)
        assert.are.same({ 1, 2, 3, 4 }, seen)
        values()
        process.wait(function() return mcore:poll(0.1) == 4 end, 20)
        assert.are.equal(4, #mcore:receive_finished())
        assert.are.same({ 1, 2, 3, 4, n = 4 }, mcore:map(function(i)
          return i == 2 and setmetatable({}, { __mantichora = function() return load(code) end }) or i
        end, { 1, 2, 3, 4 }))
        if deed:find("close") or deed:find("leaves") then
          assert.truthy(_G.spec_said:find("the pool is sending or rebuilding a value", 1, true), _G.spec_said)
        end
        mcore:run(function() return "still there" end)
        assert.are.same({ "still there", n = 1 }, mcore:returns())
      end)
    end

    it("loses nothing where a hook maps and receives meanwhile", function()
      local mcore <close> = new()
      local seen, inside = {}, 0
      for i = 1, 8 do mcore:run(function() return i % 2 == 0 and { i } or i end) end
      mcore:poll(20)
      debug.sethook(function()
        inside = inside + 1
        if inside % 7 == 0 then mcore:map(tostring, { {} }) end
      end, "", 3)
      local fine, results = pcall(mcore.returns, mcore)
      debug.sethook()
      assert.is_true(fine, tostring(results))
      for i, value in ipairs(results) do seen[i] = type(value) == "table" and value[1] or value end
      assert.are.same({ 1, 2, 3, 4, 5, 6, 7, 8 }, seen)
      assert.is_true(inside > 7)
    end)

    it("fails only the task whose rebuild function raises", function()
      if engine == "inline" then return end -- nothing is rebuilt
      local mcore <close> = new()
      for i = 1, 4 do mcore:run(i == 2 and odd("error('on purpose', 0)") or function() return i end) end
      local _, failure = pcall(mcore.returns, mcore)
      assert.are.same({ "error", 1, 1 }, { failure.kind, failure.runid, #failure.failures })
      assert.are.same({ [0] = 1, [2] = 3, [3] = 4 }, failure.results)
    end)
  end)

  describe("run_multiple with engine " .. engine, function()
    it("takes all or none", function()
      if engine ~= "fork" then return end -- the others take anything
      local path = os.tmpname()
      os.remove(path)
      local mcore <close> = new()
      local file <close> = io.tmpfile()
      local fine, problem = pcall(function()
        mcore:run_multiple { function() touch(path) end, function() return 2 end, function() return file end }
      end)
      assert.is_false(fine)
      assert.truthy(problem:find("^spec/scope_spec.lua:%d+: function 3: cannot send upvalue 'file' of function <.*>: "
        .. "userdata %(FILE%*%)$"), problem)
      assert.are.same({ n = 0 }, mcore:returns())
      assert.are.same({ 0, 1 }, mcore:run_multiple { function() return "a" end, function() return "b" end })
      assert.are.same({ "a", "b", n = 2 }, mcore:returns())
      assert.is_false(exists(path))
      assert.are.same({}, mcore:run_multiple {})
      local many = {}
      for i = 1, 1000 do many[i] = function() return i end end
      assert.are.equal(1000, #mcore:run_multiple(many))
      local results = mcore:returns()
      for i = 1, 1000 do assert.are.equal(i, results[i]) end
    end)

    it("queues them in order", function()
      local mcore <close> = new()
      assert.are.same({ 0, 1, 2 }, mcore:run_multiple { function() return 1 end, function() return 2 end,
        function() return 3 end })
      assert.are.same({ 1, 2, 3, n = 3 }, mcore:returns())
    end)
  end)
end

describe("a pool that is collected", function()
  local forgotten = [[
    do
      local mcore = mantichora { nworkers = 2, on_error = "return" }
      mcore:run(error, "x")
      mcore:poll(20)
      mcore:run(mantichora.sleep, 60)
      mcore:run(mantichora.sleep, 60)
    end
    collectgarbage()
    collectgarbage()
    io.stderr:write("collected\n")
  ]]
  local sentence = "1 pool was collected that nobody had closed: 2 tasks had not ended, 1 failure was received "
    .. "by nobody\n"

  for _, call in ipairs { "mantichora.runid()", "mantichora.explain(print)", "require('mantichora.atpbar').flush()",
    "mantichora.sleep(0)", "mantichora.cpu_count()", "mantichora():close()",
    "mantichora.is_worker()", "local p <close> = mantichora() p:run(print)" } do
    it("is told of at the next call: " .. call, function()
      local got = run(forgotten .. call .. [[ io.stderr:write("called\n")]])
      assert.are.equal("collected\nWARNING:mantichora:" .. sentence .. "called\n", got.err)
    end)
  end

  it("comes before a record that is logged next", function()
    local got = run(forgotten .. 'logging.warning("mine")')
    assert.are.equal("collected\nWARNING:mantichora:" .. sentence .. "WARNING:root:mine\n", got.err)
  end)

  it("goes to handlers, once", function()
    local got = run([[
      logging.get("mantichora"):add_handler(function(record) print(record.levelname, record.message) end)
      ]] .. forgotten .. [[
      mantichora.sleep(0)
      mantichora.sleep(0)]])
    assert.are.equal("WARNING\t" .. sentence, got.out)
    assert.are.equal("collected\n", got.err)
  end)

  it("is told of on stderr as the state closes", function()
    assert.are.equal("collected\nWARNING:mantichora:" .. sentence, run(forgotten).err)
    assert.are.equal("collected\n", run(forgotten, "MANTICHORA_LOG_LEVEL=ERROR").err)
    assert.are.equal("collected\n", run([[logging.get("mantichora"):set_level("ERROR")]] .. forgotten).err)
    assert.are.equal("collected\n", run(forgotten .. "os.exit(3)").err)
    local got = run([[
      A = mantichora { nworkers = 1 }
      B = mantichora { nworkers = 1 }
      C = mantichora { nworkers = 1 }
      A:run(mantichora.sleep, 60)
      B:run(mantichora.sleep, 60)]])
    assert.are.equal("WARNING:mantichora:2 pools were collected that nobody had closed: 2 tasks had not ended, "
      .. "0 failures were received by nobody\n", got.err)
    assert.are.equal(0, got.status)
  end)

  it("says nothing in a worker that inherited it", function()
    local mcore <close> = mantichora { nworkers = 1 }
    _G.spec_pool = mantichora { nworkers = 1 }
    _G.spec_pool:start()
    mcore:start()
    mcore:run(function()
      _G.spec_pool = nil
      collectgarbage()
      collectgarbage()
      mantichora.sleep(0)
    end)
    local lines = heard(mcore.returns, mcore)
    _G.spec_pool:run(function() return 1 end)
    assert.are.same({ 1, n = 1 }, _G.spec_pool:returns())
    _G.spec_pool:close()
    _G.spec_pool = nil
    assert.are.same({}, lines)
  end)
end)

describe("the end of the state", function()
  for _, engine in ipairs { "fork", "snapshot", "inline" } do
    it("in a scope stops the tasks, with a log line, engine " .. engine, function()
      local got = run(([[
        local mcore <close> = mantichora { nworkers = 2, engine = %q }
        mcore:run(error, "x")
        mcore:poll(20)
        mcore:run(mantichora.sleep, 60)
        os.exit(7, true)]]):format(engine))
      assert.are.equal("WARNING:mantichora:the state closes: 1 task had not ended and is cancelled\n"
        .. "ERROR:mantichora:1 task failed and nobody received its failure: task 0: error: x\n", got.err)
      assert.are.equal(7, got.status)
    end)
  end

  it("by os.exit without closing it says nothing", function()
    local got = run [[
      local mcore <close> = mantichora { nworkers = 2 }
      mcore:run(mantichora.sleep, 60)
      os.exit(7)]]
    assert.are.same({ 7, "" }, { got.status, got.err })
  end)
end)

describe("Ctrl-C", function()
  -- A script that sends itself SIGINT from a task's program.
  local interrupting = [[
    local function interrupt(seconds)
      return function()
        mantichora.sleep(seconds)
        os.execute("kill -INT " .. PARENT)
        mantichora.sleep(60)
      end
    end
    PARENT = io.open("/proc/self/stat"):read("n")
  ]]

  it("while a scope waits stops the tasks and closes the pool", function()
    local got = run(interrupting .. [[
      local kept
      print(pcall(function()
        local mcore <close> = mantichora { nworkers = 2 }
        kept = mcore
        mcore:run(interrupt(0.2))
      end))
      print(kept)]])
    assert.truthy(got.out:find("^false\t[^\n]*interrupted!\nmantichora: closed\n$"), got.out .. got.err)
    assert.are.equal("", got.err)
  end)

  it("a second time, while the tasks are stopped, closes the pool at once", function()
    local real = shell.interpreter
    shell.interpreter = real:gsub("%S+$", "") .. shell.host
    finally(function() shell.interpreter = real end)
    local got = run(interrupting .. [[
      local kept
      local function deaf() string.rep("a", 60):find(string.rep("a?", 60) .. string.rep("a", 60) .. "b") end
      print(pcall(function()
        local mcore <close> = mantichora { nworkers = 1, init = function() -- of one worker: two signals, and no more
          os.execute("(sleep 0.3; kill -INT " .. PARENT .. "; sleep 0.2; kill -INT " .. PARENT .. ") >&- 2>&- &")
        end }
        kept = mcore
        mcore:run(deaf)
      end))
      print(kept)
      print(pcall(mantichora.sleep, 0.1))]])
    assert.truthy(got.out:find("^false\t[^\n]*interrupted!\nmantichora: closed\n"), got.out .. got.err)
    assert.are.equal("", got.err)
  end)

  it("while close waits leaves the pool open", function()
    local got = run(interrupting .. [[
      local mcore = mantichora { nworkers = 2 }
      mcore:run(interrupt(0.2))
      print(pcall(mcore.close, mcore))
      print(mcore)
      mcore:terminate()
      mcore:close()
      print(mcore)]])
    assert.truthy(got.out:find("^false\t[^\n]*interrupted!\nmantichora: 2 workers, 1 running, 0 queued\n"
      .. "mantichora: closed\n$"), got.out .. got.err)
    assert.are.equal("", got.err)
  end)

  it("that is caught works again and again under our host", function()
    local ours = shell.interpreter:gsub("%S+$", "") .. shell.host
    local real = shell.interpreter
    shell.interpreter = ours
    finally(function() shell.interpreter = real end)
    local got = run(interrupting .. [[
      local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
      for i, wait in ipairs { "returns", "receive_one", "close", "receive_all" } do
        mcore:run(interrupt(0.1))
        print(i, select(2, pcall(mcore[wait], mcore)):match("interrupted!"))
        mcore:terminate()
        mcore:receive_finished()
      end
      mcore:run(interrupt(0.1))
      print(coroutine.wrap(function() return pcall(mcore.returns, mcore) end)())
      mcore:terminate()
      mcore:run(interrupt(0.1))
      print(select(2, pcall(mantichora.sleep, 20)):match("interrupted!"))
      mcore:terminate()
      mcore:run(interrupt(0.1))
      print(select(2, pcall(function() while true do end end)):match("interrupted!"))
      mcore:terminate()
      print(select(2, pcall(function()
        local inner <close> = mantichora { nworkers = 1 }
        inner:run(interrupt(0.1))
      end)):match("interrupted!"))
    ]])
    assert.are.equal("", got.err)
    assert.are.equal(0, got.status)
    local _, count = got.out:gsub("interrupted!\n", "")
    assert.are.equal(8, count, got.out)
  end)
end)
