-- How tasks end: the seven kinds, time-outs, cancelling, retries, limits, init, reports.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local function failing(options)
  options = options or {}
  options.on_error = "return"
  options.nworkers = options.nworkers or 2
  return mantichora(options)
end

-- The failure of one task.
local function failure_of(mcore, f, options)
  mcore:run_with(options or {}, f)
  local _, failure = mcore:receive_one(30)
  return failure
end

local function spin() while true do end end

for _, engine in ipairs { "fork", "snapshot" } do
  describe("engine " .. engine, function()
    it("names the seven kinds", function()
      local mcore <close> = failing { engine = engine }
      mcore:run(function() return "fine" end)
      mcore:run(function() error("raised") end)
      mcore:run(function() return coroutine.create(print) end)
      mcore:run(function() os.exit(3) end)
      mcore:run(function() os.execute("kill -9 $PPID") mantichora.sleep(10) end)
      mcore:run_with({ timeout = 0.1 }, spin)
      local last = mcore:run(spin)
      for _ = 0, 5 do mcore:receive_one() end
      assert.truthy(mcore:cancel(last))
      mcore:close()
    end)

    it("tells what it knows of each", function()
      local mcore <close> = failing { engine = engine }
      local failure = failure_of(mcore, function() os.exit(3) end, { name = "leaver" })
      assert.are.same({ "exited", 3, "leaver", nil }, { failure.kind, failure.exitcode, failure.name, failure.signal })
      assert.are.equal("its worker exited with status 3", failure.message)
      failure = failure_of(mcore, function() os.exit(true) end)
      assert.are.same({ "exited", 0 }, { failure.kind, failure.exitcode })
      failure = failure_of(mcore, function() os.execute("kill -SEGV $PPID") mantichora.sleep(10) end)
      assert.are.same({ "killed", 11, nil }, { failure.kind, failure.signal, failure.exitcode })
      assert.are.equal("its worker was killed by signal 11 (SIGSEGV)", failure.message)
      assert.is_true(failure.pid > 0 and failure.elapsed >= 0 and failure.maxrss > 0)
    end)

    -- What a task may be doing when its time is over, and whether Lua can be reached there.
    local deeds = {
      ["a loop"] = { spin, true },
      ["a loop in a coroutine"] = { function() coroutine.wrap(spin)() end, true },
      ["a loop in a coroutine of a coroutine"] = {
        function() coroutine.wrap(function() coroutine.wrap(spin)() end)() end, true },
      ["a sleep"] = { function() mantichora.sleep(30) end, true },
      ["a program"] = { function() os.execute("sleep 30") end, false },
      ["a read from a program"] = { function() io.popen("sleep 30"):read("a") end, true },
      ["a loop that catches the stop"] = { function() while true do pcall(spin) end end, false },
      ["a loop in C"] = {
        function() string.rep("a", 40):find(string.rep("a?", 40) .. string.rep("a", 40) .. "b") end, false },
      ["a task that catches the stop and returns"] = { function() pcall(spin) return "survived" end, true },
    }
    for name, deed in pairs(deeds) do
      it("stops " .. name .. " in time", function()
        local mcore <close> = failing { engine = engine, nworkers = 1 }
        local start = process.clock()
        local failure = failure_of(mcore, deed[1], { timeout = 0.2 })
        local took = process.clock() - start
        assert.are.equal("timeout", failure.kind)
        assert.is_nil(failure.value)
        assert.is_true(took >= 0.19, took)
        assert.is_true(took < 2.5, took) -- 0.2 s, perhaps 0.5 s of grace, and a busy machine
        mcore:run(function() return "next" end)
        assert.are.same({ n = 1, "next" }, mcore:returns())
      end)
    end

    it("ends the programs of a task that is stopped", function()
      local path = os.tmpname()
      local mcore <close> = failing { engine = engine, nworkers = 1 }
      local write_pid = "echo $$ >" .. path
      for _, command in ipairs { write_pid .. "; exec sleep 60", write_pid .. "; sleep 60; true" } do
        local failure = failure_of(mcore, function() io.popen(command):read("a") end, { timeout = 0.2 })
        assert.are.equal("timeout", failure.kind)
        local file <close> = assert(io.open(path))
        local pid = file:read("n")
        process.wait(function()
          mcore:poll()
          return not process.runs(pid)
        end, 5)
      end
      os.remove(path)
    end)

    it("lets <close> run in a task that is stopped", function()
      local path = os.tmpname()
      local mcore <close> = failing { engine = engine }
      local failure = failure_of(mcore, function()
        local _ <close> = setmetatable({}, { __close = function()
          local file <close> = io.open(path, "w")
          file:write("cleaned up")
        end })
        spin()
      end, { timeout = 0.1 })
      assert.are.equal("timeout", failure.kind)
      local file <close> = assert(io.open(path))
      assert.are.equal("cleaned up", file:read("a"))
      os.remove(path)
    end)
  end)
end

describe("a time-out", function()
  it("counts run time, not time in the queue", function()
    local mcore <close> = failing { nworkers = 1, timeout = 0.5 }
    for _ = 1, 6 do mcore:run(function() mantichora.sleep(0.15) return "in time" end) end
    for _, result in ipairs(mcore:returns()) do assert.are.equal("in time", result) end
  end)

  it("is the task's own, or else the pool's", function()
    local mcore <close> = failing { nworkers = 2, timeout = 0.1 }
    mcore:run_with({ timeout = 20 }, function() mantichora.sleep(0.4) return "long" end)
    mcore:run(function() mantichora.sleep(20) end)
    local results = mcore:returns()
    assert.are.equal("long", results[1])
    assert.are.equal("timeout", results[2].kind)
    assert.truthy(results[2].message:find("^it ran longer than allowed %(0%.%d+ s%)$"), results[2].message)
  end)

  it("may be longer than anybody waits, and shorter than a nanosecond", function()
    for _, long in ipairs { 18446744073, 1e300, math.huge } do -- the first: 2^64 ns, nearly
      local mcore <close> = failing { nworkers = 2, timeout = long }
      mcore:run(function() mantichora.sleep(0.1) return "in time" end)
      local short <close> = failing { nworkers = 1, timeout = 0.05 }
      short:run_with({ timeout = long }, function() mantichora.sleep(0.3) return "in time" end)
      assert.are.same({ n = 1, "in time" }, mcore:returns())
      assert.are.same({ n = 1, "in time" }, short:returns())
    end
    local mcore <close> = failing { nworkers = 1 }
    mcore:run_with({ timeout = 1e-12 }, function() mantichora.sleep(60) end)
    local _, failure = mcore:receive_one(10)
    assert.are.equal("timeout", failure.kind)
  end)
end)

describe("cancel", function()
  it("keeps a queued task from starting, also one that was sent ahead", function()
    local path = os.tmpname()
    local mcore <close> = failing { nworkers = 1 }
    mcore:run(function() mantichora.sleep(0.3) end)
    local runids = {}
    for i = 1, 50 do
      runids[i] = mcore:run(function()
        local file <close> = io.open(path, "a")
        file:write(i, "\n")
      end)
    end
    process.wait(function()
      mcore:poll()
      local worker = mcore:workers()[1]
      return worker and worker.runid == 0
    end)
    for i = 1, 50 do
      if i % 2 == 0 then assert.are.equal("queued", mcore:cancel(runids[i])) end
    end
    local results = mcore:returns()
    for i = 1, 50 do
      assert.are.equal(i % 2 == 0 and "cancelled" or nil, results[i + 1] and results[i + 1].kind)
    end
    local ran = {}
    for line in io.lines(path) do ran[#ran + 1] = tonumber(line) end
    assert.are.equal(25, #ran)
    for _, i in ipairs(ran) do assert.are.equal(1, i % 2) end
    os.remove(path)
  end)

  it("stops a running task, once", function()
    local mcore <close> = failing { nworkers = 1 }
    local runid = mcore:run(spin)
    process.wait(function()
      mcore:poll()
      local worker = mcore:workers()[1] -- none before its machine is there
      return worker and worker.runid == runid
    end)
    assert.are.equal("running", mcore:cancel(runid))
    local failure = mcore:returns()[1]
    assert.are.equal("cancelled", failure.kind)
    assert.are.equal("it was cancelled", failure.message)
    assert.is_nil(mcore:cancel(runid))
    assert.is_nil(mcore:cancel(99))
  end)
end)

describe("retries", function()
  it("try again when the worker died, and only then", function()
    local path = os.tmpname()
    local mcore <close> = failing { nworkers = 2 }
    local function attempt()
      local file <close> = io.open(path, "a+")
      file:write("x")
      file:seek("set")
      return #file:read("a")
    end
    mcore:run_with({ retries = 3 }, function()
      local n = attempt()
      if n < 3 then os.execute("kill -9 $PPID") mantichora.sleep(10) end
      return n
    end)
    assert.are.same({ n = 1, 3 }, mcore:returns())
    os.remove(path)
    local failure = failure_of(mcore, function() attempt() error("raised") end, { retries = 3 })
    assert.are.equal("error", failure.kind)
    assert.are.equal(2, attempt())
    os.remove(path)
    failure = failure_of(mcore, function() attempt() os.exit(4) end, { retries = 2 })
    assert.are.same({ "exited", 4 }, { failure.kind, failure.exitcode })
    assert.are.equal(4, attempt())
    assert.truthy(tostring(failure):find("at attempt 3", 1, true), tostring(failure))
    os.remove(path)
  end)
end)

describe("limits", function()
  it("of memory raise an error that can be caught", function()
    -- What is freed there goes into a quarantine, and counts.
    if shell.interpreter:find("asan", 1, true) then return pending("a sanitizer keeps freed memory") end
    local mcore <close> = failing { nworkers = 1, limits = { memory = 64 << 20 } }
    local function hoard()
      local t = {}
      for i = 1, 1e9 do t[i] = i end
      return t
    end
    local failure = failure_of(mcore, hoard)
    assert.are.same({ "error", "not enough memory" }, { failure.kind, failure.message })
    mcore:run(function()
      local _, message = pcall(hoard)
      collectgarbage()
      return message, #("x"):rep(30 << 20)
    end)
    assert.are.same({ n = 2, "not enough memory", 30 << 20 }, mcore:returns { packed = true }[1])
  end)

  it("of processor time kill", function()
    local mcore <close> = failing { nworkers = 1, limits = { cpu = 1 } }
    local failure = failure_of(mcore, spin)
    assert.are.same({ "killed", 24 }, { failure.kind, failure.signal })
    assert.truthy(failure.message:find("SIGXCPU", 1, true))
  end)

  it("of files are the system's", function()
    local mcore <close> = failing { nworkers = 1, limits = { files = 50 } }
    local failure = failure_of(mcore, function()
      local t = {}
      for i = 1, 100 do t[i] = assert(io.open("/dev/null")) end
      return #t
    end)
    assert.truthy(failure.message:find("Too many open files", 1, true), failure.message)
  end)

  it("are checked", function()
    for _, case in ipairs {
      { { memry = 1 }, "unknown option 'limits.memry' (did you mean 'limits.memory'?)" },
      { { memory = 0 }, "option 'limits.memory' must be a positive number of bytes: 0 is given" },
      { 5, "option 'limits' must be a table: 5 is given" },
    } do
      local fine, message = pcall(mantichora, { limits = case[1] })
      assert.is_false(fine)
      assert.truthy(message:find(case[2], 1, true), message)
    end
  end)
end)

describe("init", function()
  it("runs once in each worker, before its first task", function()
    local mcore <close> = mantichora { nworkers = 2, init = function() _G.spec_begun = (_G.spec_begun or 0) + 1 end }
    for _ = 1, 10 do mcore:run(function() return _G.spec_begun end) end
    local results = mcore:returns()
    for i = 1, 10 do assert.are.equal(1, results[i]) end
    assert.is_nil(_G.spec_begun)
  end)

  it("that fails, fails the tasks that wait, and forks no more than that", function()
    local path -- of each pool its own: its last worker may note something when the tasks have failed
    local function note()
      local file <close> = io.open(path, "a")
      file:write("x")
    end
    for _, case in ipairs {
      { function() note() error("init broke") end, "error", "init broke" },
      { function() note() os.exit(9) end, "exited", "its worker exited with status 9 before its first task" },
    } do
      path = os.tmpname()
      local mcore <close> = failing { nworkers = 1, init = case[1] }
      for _ = 1, 3 do mcore:run(function() return "never" end) end
      for _, failure in ipairs(mcore:returns()) do
        assert.are.equal(case[2], failure.kind)
        assert.truthy(failure.message:find(case[3], 1, true), failure.message)
      end
      local file <close> = assert(io.open(path))
      local forks = #file:read("a")
      assert.is_true(forks >= 3 and forks <= 4, forks)
      mcore:close()
      os.remove(path)
    end
  end)

  -- Each way of not coming to an end, with whether clean-up of it runs.
  local endless = {
    { "in Lua", function(note)
      local _ <close> = setmetatable({}, { __close = function() note("c") end })
      while true do end
    end, true },
    { "in C", function() string.find(("a"):rep(40), ("a?"):rep(40) .. ("a"):rep(40)) end },
    { "behind pcall", function() while true do pcall(function() while true do end end) end end },
    { "in another program", function() os.execute("sleep 100") end },
  }

  for _, engine in ipairs { "fork", "snapshot" } do
    for _, case in ipairs(endless) do
      it(("that does not end %s has the pool's timeout, with engine %s"):format(case[1], engine), function()
        local path = os.tmpname()
        local function note(what)
          local file <close> = io.open(path, "a")
          file:write(what)
        end
        do
          local mcore <close> = failing { engine = engine, nworkers = 2, timeout = 0.1, init = function()
            note("i")
            case[2](note)
          end }
          for _ = 1, 3 do mcore:run_with({ timeout = 60, retries = 2 }, function() return "never" end) end
          local results = mcore:returns()
          for i = 1, 3 do
            assert.are.equal("timeout", results[i].kind)
            assert.truthy(results[i].message:find("^init ran longer than allowed %(0%.%d+ s%)$"), results[i].message)
            assert.is_nil(results[i].attempts)
          end
          results = mcore:map(function() return "never" end, { 1, 2, 3 })
          for i = 1, 3 do assert.are.equal("timeout", results[i].kind) end
        end
        local file <close> = assert(io.open(path))
        local _, begun = file:read("a"):gsub("i", "")
        file:seek("set")
        local _, cleaned = file:read("a"):gsub("c", "")
        assert.is_true(begun >= 6 and begun <= 8, begun)
        if case[3] then assert.is_true(cleaned >= 6, cleaned) else assert.are.equal(0, cleaned) end
        os.remove(path)
      end)
    end
  end

  it("that takes long counts for the task that comes later, and for none that is stopped", function()
    local mcore <close> = failing { nworkers = 1, timeout = 0.1, init = function() while true do end end }
    mcore:start()
    mantichora.sleep(0.2)
    mcore:run(function() return "never" end)
    assert.are.equal("timeout", mcore:returns()[1].kind)
    for _ = 1, 2 do mcore:run(function() return "never" end) end
    assert.are.equal("queued", mcore:cancel(1))
    mcore:terminate()
    for _, failure in ipairs(mcore:returns()) do assert.are.equal("cancelled", failure.kind) end
  end)

  it("has no time-out of a task", function()
    for _, timeout in ipairs { false, 60 } do
      local mcore <close> = failing { nworkers = 1, timeout = timeout or nil, init = function()
        os.execute("sleep 1.2")
      end }
      for _ = 1, 3 do mcore:run_with({ timeout = 1 }, function() return "done" end) end
      assert.are.same({ "done", "done", "done", n = 3 }, mcore:returns())
    end
  end)

  it("that hangs in one worker holds back no task of another", function()
    local path = os.tmpname()
    local mcore <close> = failing { nworkers = 2, timeout = 1, init = function()
      if os.remove(path) then while true do end end -- one of them can
    end }
    for i = 1, 20 do mcore:run(function() return i end) end
    local results, late = mcore:returns(), 0
    for i = 1, 20 do
      if results[i] ~= i then
        late = late + 1
        assert.are.equal("timeout", results[i].kind)
      end
    end
    assert.is_true(late <= 1, late)
    assert.is_nil(io.open(path))
  end)
end)

describe("a report", function()
  it("names the last progress and the last log line of a task whose worker died", function()
    local got = shell.run("MANTICHORA_PROGRESS=text " .. shell.interpreter .. [[ -e '
      local mantichora = require "mantichora"
      local atpbar = require "mantichora.atpbar"
      local logging = require "mantichora.logging"
      logging.basic_config{ stream = function() end }
      local mcore <close> = mantichora{ nworkers = 1, on_error = "return", name = "demo" }
      mcore:run_with({ name = "copy" }, function()
        logging.warning("about to break")
        for i in atpbar(100, "files") do
          if i == 40 then os.execute("kill -9 $PPID") mantichora.sleep(10) end
        end
      end)
      print(mcore:returns()[1])']])
    for _, words in ipairs { 'task 0 ("copy", function <(command line):7>): killed', 'in pool "demo"',
      "last progress: files: 39 / 100", "last log line: about to break" } do
      assert.truthy(got.out:find(words, 1, true), got.out .. got.err)
    end
  end)
end)

