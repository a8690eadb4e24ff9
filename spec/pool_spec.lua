-- The pool: run, receive, order, options, ends.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

-- A pool's methods never wait for what cannot come; a spec that hangs is killed by scripts/test.
local engines = { "fork", "snapshot", "inline" }

local function message_of(f, ...)
  local fine, message = pcall(f, ...)
  assert.is_false(fine)
  return tostring(message)
end

describe("module", function()
  it("has no side effects when it is required", function()
    local got = shell.run(shell.interpreter .. [[ -e '
      local before = {}
      for name in pairs(_G) do before[name] = true end
      local function threads() -- an emulator has some of its own
        local count = 0
        for _ in io.popen("ls /proc/$PPID/task"):lines() do count = count + 1 end
        return count
      end
      local had = threads()
      require "mantichora" require "mantichora.atpbar" require "mantichora.logging"
      for name in pairs(_G) do assert(before[name], name) end
      assert(had > 0)
      print(threads() - had)']])
    assert.are.equal("0\n", got.out, got.err)
  end)

  it("is called like new, and tells its version", function()
    local a <close> = mantichora()
    local b <close> = mantichora.new { nworkers = 1 }
    assert.are.equal("mantichora: 4 workers, 0 running, 0 queued", tostring(a))
    assert.are.equal("mantichora: 1 workers, 0 running, 0 queued", tostring(b))
    assert.truthy(mantichora._VERSION:find("^mantichora %d+%.%d+%.%d+$"))
    assert.is_false(mantichora.is_worker())
    assert.is_nil(mantichora.runid())
    assert.is_true(mantichora.cpu_count() >= 1)
  end)
end)

describe("options", function()
  local bad = {
    { { nworkers = 0 }, "nworkers must be at least one: 0 is given" },
    { { nworkers = -3 }, "nworkers must be at least one: -3 is given" },
    { { nworkers = 1.5 }, "option 'nworkers' must be an integer or \"auto\": 1.5 is given" },
    { { nworker = 2 }, "unknown option 'nworker' (did you mean 'nworkers'?)" },
    { { timeot = 2 }, "unknown option 'timeot' (did you mean 'timeout'?)" },
    { { timeout = "1" }, "option 'timeout' must be a positive number of seconds: \"1\" is given" },
    { { timeout = 0 }, "option 'timeout' must be a positive number of seconds: 0 is given" },
    { { engine = "threads" }, "option 'engine' must be \"fork\"" },
    { { on_error = true }, "option 'on_error' must be \"raise\" or \"return\": true is given" },
    { { background = 1 }, "option 'background' must be true or false: 1 is given" },
    { { seed = 1.5 }, "option 'seed' must be an integer: 1.5 is given" },
    { { init = 1 }, "option 'init' must be a function: 1 is given" },
    { 7, "options must be a table: number is given" },
  }
  for _, case in ipairs(bad) do
    it("complain: " .. case[2], function()
      for _, make in ipairs { mantichora.new, mantichora } do
        local message = message_of(function() return (make(case[1])) end)
        assert.truthy(message:find(case[2], 1, true), message)
        assert.truthy(message:find("^spec/pool_spec.lua:%d+: "), message)
      end
    end)
  end

  it("take numbers with an integral value", function()
    local mcore <close> = mantichora { nworkers = 2.0, seed = 3.0 }
    assert.are.equal("mantichora: 2 workers, 0 running, 0 queued", tostring(mcore))
  end)

  it('take nworkers = "auto"', function()
    local mcore <close> = mantichora { nworkers = "auto" }
    assert.truthy(tostring(mcore):find(": " .. mantichora.cpu_count() .. " workers", 1, true))
  end)
end)

for _, engine in ipairs(engines) do
  describe("pool with engine " .. engine, function()
    local function new(options)
      options = options or {}
      options.engine = engine
      options.nworkers = options.nworkers or 3
      return mantichora(options)
    end

    it("gives run IDs from 0 and returns values in run order", function()
      local mcore <close> = new()
      local runids = {}
      for i = 1, 20 do
        runids[i] = mcore:run(function(n) return "r" .. n, "second" end, i)
      end
      local results = mcore:returns()
      assert.are.equal(20, results.n)
      for i = 1, 20 do
        assert.are.equal(i - 1, runids[i])
        assert.are.equal("r" .. i, results[i])
      end
      assert.are.same({ n = 0 }, mcore:returns())
      assert.are.equal(20, mcore:run(print == nil and error or function() end))
      assert.are.same({ n = 1 }, mcore:returns())
    end)

    it("keeps the number of arguments and results, trailing nils too", function()
      local mcore <close> = new()
      mcore:run(function(...) return select("#", ...), ... end, nil, 2, nil, nil)
      mcore:run(function() end)
      local results = mcore:returns { packed = true }
      assert.are.same({ n = 5, 4, nil, 2 }, results[1])
      assert.are.same({ n = 0 }, results[2])
      mcore:run(function() return nil, nil end)
      assert.are.same({ { n = 3, 2 } }, mcore:receive_all())
    end)

    it("takes functions by run_multiple, and callable tables", function()
      local mcore <close> = new()
      local callable = setmetatable({ value = 5 }, { __call = function(self, x) return self.value + x end })
      assert.are.same({ 0, 1 }, mcore:run_multiple { function() return "a" end, function() return "b" end })
      mcore:run(callable, 2)
      assert.are.same({ n = 3, "a", "b", 7 }, mcore:returns())
    end)

    it("receives one by one", function()
      local mcore <close> = new()
      assert.is_nil(mcore:receive_one())
      local sum, count = 0, 0
      for i = 1, 6 do mcore:run(function() return i, i * i end) end
      for runid, value, square in mcore:as_completed() do
        assert.are.equal(runid + 1, value)
        assert.are.equal(value * value, square)
        sum, count = sum + value, count + 1
      end
      assert.are.equal(21, sum)
      assert.are.equal(6, count)
      assert.is_nil(mcore:receive_one())
    end)

    it("leaves the rest outstanding when as_completed is left", function()
      local mcore <close> = new()
      for i = 1, 4 do mcore:run(function() return i end) end
      local first
      for runid in mcore:as_completed() do
        first = runid
        break
      end
      local rest = mcore:receive_all()
      assert.are.equal(3, #rest)
      local before = -1
      for _, entry in ipairs(rest) do
        assert.are_not.equal(first, entry[1])
        assert.is_true(entry[1] > before)
        assert.are.equal(entry[1] + 1, entry[2])
        assert.are.equal(2, entry.n)
        before = entry[1]
      end
    end)

    it("receives what has finished without waiting", function()
      local mcore <close> = new()
      assert.are.same({}, mcore:receive_finished())
      local seen, count = {}, 0
      for i = 1, 6 do mcore:run(function() return i end) end
      process.wait(function()
        for _, entry in ipairs(mcore:receive_finished()) do seen[entry[1]], count = entry[2], count + 1 end
        return count == 6
      end)
      assert.are.same({ [0] = 1, 2, 3, 4, 5, 6 }, seen)
    end)

    it("polls", function()
      local mcore <close> = new()
      assert.are.equal(0, mcore:poll())
      for _ = 1, 3 do mcore:run(function() end) end
      process.wait(function() return mcore:poll(0.01) == 3 end)
      assert.are.same({ n = 3 }, mcore:returns())
    end)

    it("says what cannot be called", function()
      local mcore <close> = new()
      assert.truthy(message_of(mcore.run, mcore, 5):find("function or callable table expected, got number", 1, true))
      assert.truthy(message_of(mcore.run, mcore):find("function or callable table expected, got no value", 1, true))
      assert.truthy(message_of(function() mcore:run_multiple { print, 5 } end)
        :find("^spec/pool_spec.lua:%d+: bad argument #1 to 'run_multiple' .*: at 2, number is given%)$"))
      assert.truthy(message_of(function() mcore:poll("5") end)
        :find("^spec/pool_spec.lua:%d+: bad argument #1 to 'poll' %(timeout must be a number of seconds: 5 is given"))
    end)

    it("hands over results beside one that has more values than fit", function()
      local mcore <close> = new { on_error = "return" }
      for _, packed in ipairs { false, true } do
        mcore:run(function() return "before" end)
        mcore:run_with({ name = "many" }, function() return table.unpack({}, 1, 600000) end)
        mcore:run(function() return "behind" end)
        local results = mcore:returns { packed = packed }
        assert.are.equal(3, results.n)
        assert.are.same(packed and { n = 1, "before" } or "before", results[1])
        assert.are.equal("many", results[2].name)
        assert.truthy(results[2].message:find("more values than a call can hand over", 1, true), results[2].message)
        assert.are.same(packed and { n = 1, "behind" } or "behind", results[3])
      end
    end)

    local sends = engine ~= "snapshot" and it or function() end -- which sends nothing there
    sends("says what cannot be sent, and where", function()
      local mcore <close> = new()
      local file <close> = assert(io.tmpfile())
      local message = message_of(function() mcore:run(function() return file end) end)
      assert.truthy(message:find(
        "cannot send upvalue 'file' of function <spec/pool_spec.lua:%d+>: userdata %(FILE%*%)"),
        message)
      assert.truthy(message:find("^spec/pool_spec.lua:%d+: "), message)
      message = message_of(mcore.run, mcore, print, 1, { conn = { socket = coroutine.create(print) } })
      assert.truthy(message:find("argument 2.conn.socket: coroutine (thread)", 1, true), message)
      -- Nothing of that was accepted.
      assert.are.equal(0, mcore:run(function() return "fine" end))
      assert.are.same({ n = 1, "fine" }, mcore:returns())
    end)

    it("raises the failure of the lowest run ID, with all others", function()
      local mcore <close> = new()
      mcore:run(function() return "good" end)
      mcore:run_with({ name = "bad" }, function() error("boom") end)
      mcore:run(function() error { code = 7 } end)
      mcore:run(function() return coroutine.create(print) end)
      local fine, failure = pcall(mcore.returns, mcore)
      assert.is_false(fine)
      assert.are.equal("error", failure.kind)
      assert.are.equal(1, failure.runid)
      assert.are.equal("bad", failure.name)
      assert.truthy(failure.message:find("^spec/pool_spec.lua:%d+: boom$"), failure.message)
      assert.are.equal(failure.message, failure.value)
      assert.truthy(failure.traceback:find("in %a+ 'error'"), failure.traceback) -- function, or global
      assert.truthy(failure.elapsed >= 0)
      assert.are.equal(3, #failure.failures)
      assert.are.equal(failure, failure.failures[1])
      assert.are.same({ code = 7 }, failure.failures[2].value)
      assert.are.equal("unsendable", failure.failures[3].kind)
      assert.truthy(failure.failures[3].message:find("cannot send result 1: coroutine (thread)", 1, true))
      assert.are.same({ [0] = "good" }, failure.results)
      local report = tostring(failure)
      assert.truthy(report:find('task 1 ("bad"', 1, true), report)
      assert.truthy(report:find("spec/pool_spec.lua:%d+: boom"), report)
      assert.truthy(report:find("stack traceback:", 1, true), report)
      assert.are.same({ n = 0 }, mcore:returns())
    end)

    it("returns failures when asked to", function()
      local mcore <close> = new { on_error = "return" }
      mcore:run(function() return 1 end)
      mcore:run(function() error("boom", 0) end)
      local results = mcore:returns()
      assert.are.equal(1, results[1])
      assert.are.equal("boom", results[2].message)
      mcore:run(function() error(setmetatable({}, { __tostring = function() return "in words" end })) end)
      local runid, failure = mcore:receive_one()
      assert.are.equal(2, runid)
      assert.are.equal("in words", failure.message)
    end)

    it("keeps the message of an error value that cannot be sent", function()
      local mcore <close> = new { on_error = "return" }
      mcore:run(function()
        error(setmetatable({ thread = coroutine.create(print) }, { __tostring = function() return "odd" end }))
      end)
      mcore:run(function() error() end)
      local results = mcore:returns()
      assert.are.same({ "error", "odd", nil }, { results[1].kind, results[1].message, results[1].value })
      assert.are.same({ "error", "nil", nil }, { results[2].kind, results[2].message, results[2].value })
    end)

    it("is closed once and then says so", function()
      local mcore = new()
      mcore:run(function() return 1 end)
      mcore:close()
      mcore:close()
      mcore["end"](mcore)
      mcore:terminate()
      assert.are.equal("mantichora: closed", tostring(mcore))
      for _, method in ipairs { "returns", "receive_one", "receive_all", "receive_finished", "as_completed", "poll",
        "start", "workers", "timeout", "events" } do
        local message = message_of(function() return (mcore[method](mcore)) end)
        assert.truthy(message:find("^spec/pool_spec.lua:%d+: pool is closed$"), message)
      end
      assert.truthy(message_of(mcore.run, mcore, print):find("pool is closed", 1, true))
    end)

    it("knows its run ID and its stream of random numbers", function()
      local function draw()
        return mantichora.runid(), math.random(1 << 40), math.random(1 << 40)
      end
      local drawn = {}
      for _, nworkers in ipairs { 1, 3 } do
        local mcore <close> = new { seed = 42, nworkers = nworkers }
        for _ = 1, 10 do mcore:run(draw) end
        drawn[#drawn + 1] = mcore:returns { packed = true }
      end
      assert.are.same(drawn[1], drawn[2])
      local seen = {}
      for i = 1, 10 do
        assert.are.equal(i - 1, drawn[1][i][1])
        assert.is_nil(seen[drawn[1][i][2]])
        seen[drawn[1][i][2]] = true
      end
      local other <close> = new { seed = 43 }
      other:run(draw)
      assert.are_not.equal(drawn[1][1][2], other:returns { packed = true }[1][2])
    end)
  end)
end

describe("snapshot engine", function()
  it("starts each task from the present state, whatever it is made of", function()
    local mcore <close> = mantichora { nworkers = 2, engine = "snapshot" }
    local file <close> = assert(io.tmpfile())
    file:write("in the file")
    file:flush()
    local wrapped = coroutine.wrap(function() coroutine.yield(1) coroutine.yield(2) end)
    wrapped()
    _G.spec_global = "now"
    mcore:run(function(thread)
      file:seek("set")
      local fine, word = coroutine.resume(thread)
      return file:read("a"), wrapped(), fine, word, _G.spec_global
    end, coroutine.create(function() return "resumed" end))
    _G.spec_global = nil
    assert.are.same({ n = 5, "in the file", 2, true, "resumed", "now" },
      mcore:returns { packed = true }[1])
  end)

  it("forks no more than so many at once", function()
    local mcore <close> = mantichora { nworkers = 2, engine = "snapshot" }
    for _ = 1, 6 do mcore:run(function() mantichora.sleep(0.05) end) end
    assert.are.equal(2, #mcore:workers())
    assert.are.equal(6, mcore:returns().n)
    process.wait(function() -- the last ones are on their way out
      mcore:poll()
      return #mcore:workers() == 0
    end)
  end)

  it("keeps nothing of an imap that is left, or of a map that fails", function()
    local mcore <close> = mantichora { nworkers = 1, engine = "snapshot" }
    local items, alive = 0, setmetatable({}, { __mode = "k" })
    local function next_item()
      local item = { items }
      items, alive[item] = items + 1, true
      return item
    end
    for _ in mcore:imap(function(item) return item[1] end, next_item) do
      if items > 4 then break end
    end
    pcall(mcore.map, mcore, error, { next_item(), next_item() })
    collectgarbage()
    assert.is_nil((next(alive)))
    mcore:run(function(item) return item[1] end, { "more" })
    assert.are.same({ n = 1, "more" }, mcore:returns())
  end)
end)

describe("inline engine", function()
  -- In a process of its own: what fails here would wait for ever.
  local function run(code)
    local path = os.tmpname()
    shell.write(path, [[
      local mantichora = require "mantichora"
      mcore = mantichora{ engine = "inline", on_error = "return" }
      local logging = require "mantichora.logging"
      local atpbar = require "mantichora.atpbar"
      ]] .. code)
    local got = shell.run(shell.interpreter .. " -W " .. path, { timeout = 20 })
    os.remove(path)
    assert.are.equal(0, got.status, got.err)
    return got.out, got.err
  end

  local WAITS = { "returns", "receive_one", "receive_all", "terminate", "close" }

  it("runs init once before the first task, and again after one that failed for it", function()
    local calls, good = 0, false
    local mcore <close> = mantichora { engine = "inline", on_error = "return", init = function()
      calls = calls + 1
      if not good then error("not yet") end
    end }
    for i = 1, 3 do mcore:run(function() return i end) end
    local _, failure = mcore:receive_one()
    assert.are.equal("error", failure.kind)
    assert.truthy(failure.message:find("not yet", 1, true))
    good = true
    assert.are.same({ 2, 3, n = 2 }, mcore:returns())
    assert.are.equal(2, calls)
  end)

  describe("stops code that runs too long:", function()
    local function spin() while true do end end
    local codes = {
      ["a loop"] = spin,
      ["a loop in a coroutine"] = function() coroutine.wrap(spin)() end,
      ["one that catches the error"] = function() while true do pcall(spin) end end,
      ["a sleep"] = function() mantichora.sleep(30) end,
      ["a task of an inline pool of its own"] = function()
        local pool <close> = mantichora { engine = "inline" }
        pool:run(spin)
        return pool:returns()
      end,
    }
    for name, code in pairs(codes) do
      it(name, function()
        local began = os.time()
        local mcore <close> = mantichora { engine = "inline", on_error = "return", timeout = 60 }
        mcore:run_with({ timeout = 0.1 }, code)
        mcore:run(function() return "next" end)
        local _, failure = mcore:receive_one()
        assert.are.equal("timeout", failure.kind)
        assert.truthy(failure.message:find("it ran longer than allowed (", 1, true))
        assert.are.same({ "next", n = 1 }, mcore:returns())
        assert.is_true(os.time() - began < 20)
        assert.is_nil((debug.gethook()))
      end)
    end

    it("init, and the pool's own timeout", function()
      local mcore <close> = mantichora { engine = "inline", on_error = "return", timeout = 0.1, init = spin }
      mcore:run(print, "not printed")
      assert.are.equal("timeout", select(2, mcore:receive_one()).kind)
    end)

    it("fini, and says so", function()
      local _, err = run [[
        local other = mantichora { engine = "inline", fini = function() while true do end end }
        other:run(function() end)
        other:returns()
        other:close()
      ]]
      assert.are.equal("ERROR:mantichora:fini of a worker took too long and was stopped\n", err)
    end)

    it("but not where a hook of the user's is set, which stays", function()
      local mcore <close> = mantichora { engine = "inline", timeout = 0.01 }
      mcore:run(function()
        local seen = 0
        local function hook() seen = seen + 1 end
        debug.sethook(hook, "", 100)
        local began = os.clock()
        repeat until os.clock() > began + 0.05
        local mine = debug.gethook() == hook
        debug.sethook()
        return mine and seen > 10
      end)
      assert.are.same({ true, n = 1 }, mcore:returns())
    end)

    it("and closes what the code has opened", function()
      local mcore <close> = mantichora { engine = "inline", on_error = "return", timeout = 0.1 }
      mcore:run(function()
        local _ <close> = setmetatable({}, { __close = function() io.write("closed\n") end })
        spin()
      end)
      local file <close> = io.tmpfile()
      io.output(file)
      assert.are.equal("timeout", select(2, mcore:receive_one()).kind)
      io.output(io.stdout)
      file:seek("set")
      assert.are.equal("closed\n", file:read("a"))
    end)
  end)

  it("leaves the caller's random numbers as they were", function()
    local function numbers(between)
      math.randomseed(17)
      local list = {}
      for i = 1, 4 do
        list[i] = math.random(1000000)
        if i == 2 then between() end
      end
      return list
    end
    local expected = numbers(function() end)
    local mcore <close> = mantichora { engine = "inline", init = function() math.random() end }
    assert.are.same(expected, numbers(function()
      mcore:run(math.random, 1000)
      mcore:map(math.random, { 10, 20 })
      mcore:run(function() math.randomseed(5) end)
      mcore:returns()
    end))
    math.randomseed(os.time())
  end)

  it("keeps nothing of a pool that is closed", function()
    local function life()
      local mcore <close> = mantichora { engine = "inline" }
      mcore:run(function() end)
      mcore:map(tostring, { 1, 2, 3 })
      mcore:returns()
    end
    local function threads()
      local count = 0
      for _, value in pairs(debug.getregistry()) do
        if type(value) == "thread" then count = count + 1 end
      end
      return count
    end
    life()
    local before = threads()
    for _ = 1, 5 do life() end
    assert.are.equal(before, threads())
  end)

  it("refuses to wait for the task in which it waits", function()
    for _, method in ipairs(WAITS) do
      local out = run(([[
        mcore:run(function() return select(2, pcall(mcore.%s, mcore)) end)
        mcore:run(function() return select(2, pcall(mcore.map, mcore, tostring, { 1, 2 })) end)
        mcore:run(function() return select(2, mcore:receive_one(0.01)) end)
        for i = 1, 3 do print(select(2, mcore:receive_one())) end
        mcore:close()]]):format(method))
      local refused = "[^\n]*cannot wait for the pool inside of one of its own tasks\n"
      if method == "terminate" then
        assert.truthy(out:find("cancelled.*cancelled.*cancelled"), out)
      else
        assert.truthy(out:find("^" .. refused:rep(2)), method .. ": " .. out)
      end
    end
  end)

  it("does so in log handlers and renderers that the task calls", function()
    for _, method in ipairs(WAITS) do
      local out, err = run(([[
        local function wait() mcore:%s() end
        logging.add_handler(wait)
        mcore:run(function() logging.error("x") return 1 end)
        print(pcall(mcore.receive_one, mcore))
        logging.remove_handler(wait)
        atpbar.set_renderer(wait)
        mcore:run(function() return select(2, pcall(function() for i in atpbar(2) do end end)) end)
        print(select(2, mcore:receive_one()))]]):format(method))
      local _, count = (out .. err):gsub("cannot wait for the pool inside", "")
      assert.equal(2, count, method .. ": " .. out .. err)
    end
  end)

  it("refuses to end in a task that it runs", function()
    local out = run([[
      local function close() return select(2, pcall(mcore.close, mcore)) end
      for _, said in mcore:imap(close, { 1, 2 }) do print(said) end
      print(mcore:returns().n)]])
    local refused = "[^\n]*cannot close the pool inside of one of its own tasks\n"
    assert.truthy(out:find("^" .. refused:rep(2) .. "0\n$"), out)
  end)

  it("ends tasks that cancel themselves as cancelled", function()
    local out = run([[
      mcore:run(function() return mcore:cancel(0) end)
      mcore:run(function() mcore:cancel(1) error("anything") end)
      for i = 1, 2 do
        local _, failure = mcore:receive_one()
        print(failure.kind, failure.runid)
      end]])
    assert.are.equal("cancelled\t0\ncancelled\t1\n", out)
  end)
end)

describe("fork engine", function()
  it("runs tasks in other processes, at most so many at once", function()
    local own = process.pid()
    local mcore <close> = mantichora { nworkers = 2 }
    for _ = 1, 8 do
      mcore:run(function()
        mantichora.sleep(0.05)
        return process.pid(), mantichora.is_worker()
      end)
    end
    local pids, count = {}, 0
    for _, result in ipairs(mcore:returns { packed = true }) do
      assert.are_not.equal(own, result[1])
      assert.is_true(result[2])
      if not pids[result[1]] then count = count + 1 end
      pids[result[1]] = true
    end
    assert.are.equal(2, count)
    local workers = mcore:workers()
    assert.are.equal(2, #workers)
    for _, worker in ipairs(workers) do
      assert.is_true(pids[worker.pid])
      assert.is_true(worker.maxrss > 0)
    end
    assert.are.equal(8, workers[1].tasks + workers[2].tasks)
  end)

  it("tells of workers what they have ended, and their slots, which replacements keep", function()
    local mcore <close> = mantichora { nworkers = 3, on_error = "return" }
    mcore:start()
    local function slots()
      local list = {}
      for i, worker in ipairs(mcore:workers()) do list[i] = worker.slot end
      return list
    end
    assert.are.same({ 1, 2, 3 }, slots())
    local gate = os.tmpname()
    local runid = mcore:run(function() while io.open(gate) do mantichora.sleep(0.002) end end)
    local busy = process.wait(function()
      mcore:poll(0)
      for _, worker in ipairs(mcore:workers()) do
        if worker.runid == runid then return worker end
      end
    end)
    assert.are.equal(0, busy.tasks) -- it runs one, and has ended none
    os.remove(gate)
    mcore:returns()
    local sum = 0
    for _, worker in ipairs(mcore:workers()) do sum = sum + worker.tasks end
    assert.are.equal(1, sum)
    for _ = 1, 3 do
      local before = {}
      for _, worker in ipairs(mcore:workers()) do before[worker.slot] = worker.pid end
      mcore:run(os.exit, 3)
      local pid = mcore:returns()[1].pid
      process.wait(function()
        mcore:poll(0)
        return #mcore:workers() == 3
      end)
      assert.are.same({ 1, 2, 3 }, slots())
      for _, worker in ipairs(mcore:workers()) do
        assert.are.equal(before[worker.slot] ~= pid, before[worker.slot] == worker.pid)
      end
    end
  end)

  it("forks at start, or else at the first run", function()
    local mcore <close> = mantichora { nworkers = 3 }
    assert.are.same({}, mcore:workers())
    mcore:start()
    assert.are.equal(3, #mcore:workers())
  end)

  it("waits no longer than asked", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function() mantichora.sleep(0.5) return "late" end)
    local start = process.clock()
    assert.are.same({ nil, "timeout" }, { mcore:receive_one(0) })
    assert.are.same({ nil, "timeout" }, { mcore:receive_one(0.05) })
    assert.are.equal(0, mcore:poll(0.05))
    assert.is_true(process.clock() - start < 0.4)
    assert.are.same({ 0, "late" }, { mcore:receive_one(10) })
  end)

  it("hands over in order of completion and in order of run", function()
    local mcore <close> = mantichora { nworkers = 2 }
    mcore:run(function() mantichora.sleep(0.2) return "slow" end)
    mcore:run(function() return "fast" end)
    assert.are.same({ 1, "fast" }, { mcore:receive_one() })
    mcore:run(function() return "last" end)
    assert.are.same({ n = 2, "slow", "last" }, mcore:returns())
  end)

  it("prefers higher priority among what waits", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function() mantichora.sleep(0.1) end)
    for i = 1, 5 do mcore:run(function() return i end) end
    mcore:run_with({ priority = 5 }, function() return "urgent" end)
    mcore:run_with({ priority = -5 }, function() return "later" end)
    local order = {}
    for runid in mcore:as_completed() do order[#order + 1] = runid end
    assert.are.same({ 0, 6, 1, 2, 3, 4, 5, 7 }, order)
  end)

  it("takes priorities of any size", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function() mantichora.sleep(0.1) end)
    process.wait(function()
      mcore:poll()
      local worker = mcore:workers()[1] -- none before its machine is there
      return worker and worker.runid == 0
    end)
    for _, priority in ipairs { math.mininteger, 0, 1, math.maxinteger, 1 << 32, -1 << 32 } do
      mcore:run_with({ priority = priority, retries = 1 << 32 }, print)
    end
    local order = {}
    for runid in mcore:as_completed() do order[#order + 1] = runid end
    assert.are.same({ 0, 4, 5, 3, 2, 1, 6 }, order)
  end)

  it("does not let short tasks wait behind a long one", function()
    local folder = shell.folder()
    finally(function() shell.remove(folder) end)
    local mcore <close> = mantichora { nworkers = 2 }
    mcore:run(function() -- until the short ones are there
      for _ = 1, 2000 do
        local gate <close> = io.open(folder .. "/gate")
        if gate then return "long" end
        mantichora.sleep(0.01)
      end
      return "too long"
    end)
    for _ = 1, 50 do mcore:run(function() mantichora.sleep(0.002) end) end
    for _ = 1, 50 do assert.is_true(mcore:receive_one() > 0) end
    shell.write(folder .. "/gate", "")
    assert.are.same({ 0, "long" }, { mcore:receive_one() })
  end)

  local function grow(heap, kilobytes)
    repeat
      for _ = 1, 1000 do heap[#heap + 1] = { #heap } end
    until collectgarbage "count" > kilobytes
  end

  -- The most KiB that come together in a worker until its collector finds the first thing, and then the second.
  local function most_garbage()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function()
      local base, most = collectgarbage "count", 0
      local mode = collectgarbage "generational"
      for _ = 1, 2 do
        local found = false
        setmetatable({}, { __gc = function() found = true end })
        repeat
          for i = 1, 100 do most = math.max(most, #{ i, i }, collectgarbage "count" - base) end
        until found
      end
      return { most = most, mode = mode }
    end)
    local got = mcore:returns()[1]
    if got.mode == "generational" then return got.most end
    print "skipped: this Lua is older than 5.4.4"
    return 0
  end

  it("lets workers collect garbage long before they hold a fifth of the parent's heap", function()
    local heap = {}
    grow(heap, 100 * 1024)
    local most = most_garbage()
    assert.is_true(most < 12 * 1024, ("%.0f KiB of garbage"):format(most))
    assert.is_true(#heap > 0)
  end)

  it("makes no major collection in workers that is due in the parent", function()
    local former, heap = collectgarbage "incremental", {}
    local _ <close> = setmetatable({}, { __close = function() collectgarbage(former) end })
    grow(heap, 54 * 1024)
    collectgarbage()
    collectgarbage "generational"
    grow(heap, 1.94 * collectgarbage "count")
    local most = most_garbage()
    assert.is_true(most < 12 * 1024, ("%.0f KiB of garbage"):format(most))
    assert.is_true(#heap > 0)
    collectgarbage "incremental"
  end)

  it("lists what runs", function()
    local mcore <close> = mantichora { nworkers = 2 }
    for _ = 1, 4 do mcore:run(function() mantichora.sleep(5) end) end
    process.wait(function()
      mcore:poll()
      return tostring(mcore) == "mantichora: 2 workers, 2 running, 2 queued"
    end)
    local runids = {}
    for _, worker in ipairs(mcore:workers()) do runids[#runids + 1] = worker.runid end
    table.sort(runids)
    assert.are.same({ 0, 1 }, runids)
    mcore:terminate()
    assert.are.equal("mantichora: 2 workers, 0 running, 0 queued", tostring(mcore))
  end)

  it("terminates: what runs and what waits ends as cancelled, results stay", function()
    local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
    mcore:run(function() return "done" end)
    process.wait(function() return mcore:poll() == 1 end)
    mcore:run(function() while true do end end)
    mcore:run(function() os.execute("sleep 50") end)
    process.wait(function()
      mcore:poll()
      return tostring(mcore):find("2 running", 1, true)
    end)
    mcore:run(function() return "never" end)
    local start = process.clock()
    mcore:terminate()
    assert.is_true(process.clock() - start < 2)
    local kinds = {}
    for _, entry in ipairs(mcore:receive_all()) do
      kinds[#kinds + 1] = type(entry[2]) == "table" and entry[2].kind or entry[2]
    end
    assert.are.same({ "done", "cancelled", "cancelled", "cancelled" }, kinds)
    mcore:run(function() return "usable" end)
    assert.are.same({ n = 1, "usable" }, mcore:returns())
  end)

  it("moves on while the parent is busy", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local path = os.tmpname()
    for i = 1, 200 do
      mcore:run(function()
        local file <close> = io.open(path, "a")
        file:write(i, "\n")
      end)
    end
    -- Nothing is called here; only the driver's thread can feed the workers.
    process.wait(function()
      local count = 0
      for _ in io.lines(path) do count = count + 1 end
      return count == 200
    end)
    os.remove(path)
    assert.are.equal(200, mcore:returns().n)
  end)

  it("has no thread with background = false, and moves on in poll", function()
    local before = process.threads()
    local mcore <close> = mantichora { nworkers = 2, background = false }
    for i = 1, 50 do mcore:run(function() return i end) end
    assert.are.equal(before, process.threads())
    process.wait(function() return mcore:poll() == 50 end)
    assert.are.equal(50, mcore:returns().n)
  end)

  it("has a thread from its first task to its end, and none without one", function()
    local before = process.threads()
    do
      local idle <close> = mantichora { nworkers = 2 }
      idle:start()
      assert.are.equal(2, #idle:workers())
      assert.are.equal(before, process.threads())
    end
    assert.are.equal(before, process.threads())
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function() end)
    assert.are.equal(before + 1, process.threads())
    mcore:close()
    assert.are.equal(before, process.threads())
  end)

  it("replaces workers after so many tasks", function()
    local mcore <close> = mantichora { nworkers = 1, max_tasks_per_worker = 3 }
    for _ = 1, 7 do mcore:run(process.pid) end
    local pids = mcore:returns()
    assert.are.equal(pids[1], pids[3])
    assert.are_not.equal(pids[3], pids[4])
    assert.are.equal(pids[4], pids[6])
    assert.are_not.equal(pids[6], pids[7])
  end)

  it("replaces workers that a signal ends before they were asked for anything", function()
    for _, signal in ipairs { "TERM", "KILL", "INT" } do
      local mcore <close> = mantichora { nworkers = 3 }
      local fresh = {}
      mcore:start()
      for _, worker in ipairs(mcore:workers()) do
        fresh[worker.pid] = true
        os.execute(("kill -%s %d"):format(signal, worker.pid))
      end
      process.wait(function()
        mcore:poll()
        for _, worker in ipairs(mcore:workers()) do
          if fresh[worker.pid] then return false end
        end
        return true
      end)
      for i = 1, 6 do mcore:run(function() return i end) end
      assert.are.same({ 1, 2, 3, 4, 5, 6, n = 6 }, mcore:returns())
    end
  end)

  it("asks workers that have waited for long, for a moment or not at all", function()
    for _, seconds in ipairs { 0, 0.001, 0.05 } do
      local mcore <close> = mantichora { nworkers = 4 }
      mcore:run(process.pid)
      mantichora.sleep(seconds)
      local meet = os.tmpname() -- each waits for the others: so each has a worker of its own
      for _ = 1, 3 do
        mcore:run(function()
          local file <close> = io.open(meet, "a")
          file:write(process.pid(), "\n")
          file:close()
          process.wait(function()
            local count = 0
            for _ in io.lines(meet) do count = count + 1 end
            return count == 3
          end)
          return process.pid()
        end)
      end
      local pids, different = mcore:returns(), {}
      for i = 2, 4 do different[pids[i]] = true end
      os.remove(meet)
      assert.are.equal(pids.n, 4)
      local count = 0
      for _ in pairs(different) do count = count + 1 end
      assert.are.equal(3, count)
    end
  end)

  it("leaves no process, thread or descriptor behind", function()
    do -- once before counting: what is made once stays
      local mcore <close> = mantichora { nworkers = 1 }
      mcore:run(print == nil and error or function() end)
    end
    local descriptors, threads = process.descriptors(), process.threads()
    for i = 1, 5 do
      local mcore <close> = mantichora { nworkers = 3, on_error = "return" }
      mcore:run(function() return 1 end)
      mcore:run(function() os.exit(1) end)
      mcore:run(function() while true do end end)
      if i % 2 == 0 then mcore:pollfd() end
      mcore:receive_one()
      mcore:terminate()
    end
    assert.are.equal(descriptors, process.descriptors())
    assert.are.equal(threads, process.threads())
    assert.are.same({}, process.children())
  end)

  it("ends its workers when it is collected, and says so", function()
    local got = shell.run(shell.interpreter .. [[ -W -e '
      local mantichora = require "mantichora"
      local mcore = mantichora{ nworkers = 2 }
      mcore:run(function() while true do end end)
      mcore:poll()
      for _, worker in ipairs(mcore:workers()) do print(worker.pid) end
      mcore = nil
      collectgarbage()
      collectgarbage()
      io.stderr:write("collected\n")
    ']])
    assert.are.equal("collected\nWARNING:mantichora:1 pool was collected that nobody had closed: 1 task had not "
      .. "ended, 0 failures were received by nobody\n", got.err)
    for pid in got.out:gmatch("%d+") do assert.is_false(process.runs(pid)) end
  end)

  it("is refused in a worker and usable in its own process only", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    _G.spec_pool = mcore
    mcore:run(function() return _G.spec_pool:run(function() end) end)
    local failure = mcore:returns()[1]
    _G.spec_pool = nil
    assert.truthy(failure.message:find("this pool belongs to process %d+ and cannot be used in process %d+"),
      failure.message)
  end)

  it("has pools inside of tasks", function()
    local mcore <close> = mantichora { nworkers = 2, seed = 1 }
    local function outer(n)
      local inner <close> = mantichora { nworkers = 2 }
      for i = 1, n do inner:run(function() return i * i, math.random(1 << 30) end) end
      local sum, drawn = 0, {}
      for i, result in ipairs(inner:returns { packed = true }) do sum, drawn[i] = sum + result[1], result[2] end
      return sum, table.concat(drawn, " ")
    end
    mcore:run(outer, 3)
    mcore:run(outer, 4)
    local first = mcore:returns { packed = true }
    assert.are.equal(14, first[1][1])
    assert.are.equal(30, first[2][1])
    -- Their streams derive from the task's own.
    local again <close> = mantichora { nworkers = 1, seed = 1 }
    again:run(outer, 3)
    assert.are.equal(first[1][2], again:returns { packed = true }[1][2])
  end)

  it("works from coroutines", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local function client(n)
      return coroutine.wrap(function()
        mcore:run(function() return n end)
        coroutine.yield()
        return select(2, mcore:receive_one())
      end)
    end
    local a, b = client(1), client(2)
    a()
    b()
    local x, y = a(), b()
    assert.are.equal(3, x + y)
  end)

  it("starts tasks that were queued in a rush although nobody calls it again", function()
    local folder = shell.folder()
    local mcore <close> = mantichora { nworkers = 8 }
    local work = load "io.open(..., 'w'):close() require('mantichora').sleep(60)"
    local paths = {}
    for i = 1, 7 do paths[i] = folder .. "/" .. i end
    mcore:run(mantichora.sleep, 60)
    os.execute("sleep 0.1") -- the helper thread waits for it to end
    for i = 1, 7 do mcore:run(work, paths[i]) end
    local deadline, started = process.clock() + 30, 0
    while started < 7 and process.clock() < deadline do
      started = 0
      for i = 1, 7 do
        local file = io.open(folder .. "/" .. i)
        if file then
          file:close()
          started = started + 1
        end
      end
    end
    shell.remove(folder)
    mcore:terminate()
    assert.are.equal(7, started)
  end)

  it("shows its descriptor to event loops", function()
    local mcore <close> = mantichora { nworkers = 1 }
    assert.are.equal("number", type(mcore:pollfd()))
    assert.are.equal(mcore:pollfd(), mcore:pollfd())
    assert.are.equal("r", mcore:events())
    local due = mcore:timeout()
    assert.is_true(due == nil or due >= 0)
  end)
end)

it("a hook cannot close the pool that sends its value", function()
  local mcore <close> = mantichora { nworkers = 1 }
  local value = setmetatable({}, { __mantichora = function() mcore:close() end })
  local fine, message = pcall(mcore.run, mcore, print, value)
  assert.is_false(fine)
  assert.truthy(message:find("a hook or finalizer cannot close it now", 1, true), message)
  mcore:run(function() return "still there" end)
  assert.are.equal("still there", mcore:returns()[1])
end)

describe("finalizers that run while values are sent or handed over", function()
  -- Run `use` in a finalizer nearly whenever something is allocated, while `body` runs. What it raised.
  local function amid_finalizers(use, body)
    local messages, left = {}, 60
    local function finalizer()
      setmetatable({}, { __gc = function()
        local fine, message = pcall(use)
        if not fine then messages[message:gsub("^[^ ]*:%d+: ", "")] = true end
        left = left - 1
        if left > 0 then finalizer() end
      end })
    end
    finalizer()
    collectgarbage("incremental", 10, 1000, 10)
    local fine, message = pcall(body)
    left = 0
    collectgarbage("incremental", 200, 100, 13)
    assert(fine, message)
    return messages
  end

  local function without_refusals(messages)
    for _, refusal in ipairs {
      "the pool is handing over results: a finalizer cannot receive from it now",
      "the pool is sending or rebuilding a value: a hook or finalizer cannot close it now",
      "run was called from a __mantichora hook or a finalizer while another run is sending",
    } do
      messages[refusal] = nil
    end
    return messages
  end

  local makes = {
    strings = function(i) return ("a string that takes some room, number %d"):format(i) end,
    tables = function(i) return { ("a string that takes some room, number %d"):format(i) } end,
  }
  local function text_of(value) return type(value) == "table" and value[1] or value end

  for kind, make in pairs(makes) do
    it("take no results away: " .. kind, function()
      local mcore <close> = mantichora { nworkers = 2 }
      local counts = {}
      local function count(value)
        local text = text_of(value)
        counts[text] = (counts[text] or 0) + 1
      end
      local messages = amid_finalizers(function()
        local runid, value = mcore:receive_one(0)
        if runid then count(value) end
      end, function()
        for _ = 1, 10 do
          for i = 1, 100 do mcore:run(make, i) end
          local results = mcore:returns()
          for i = 1, results.n do count(results[i]) end
        end
        for _, value in ipairs((mcore:map(make, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }))) do count(value) end
      end)
      assert.are.same({}, without_refusals(messages))
      for i = 1, 100 do assert.are.equal(i <= 10 and 11 or 10, counts[text_of(make(i))]) end
    end)

    it("map on the same pool or are refused: " .. kind, function()
      local mcore <close> = mantichora { nworkers = 2 }
      local list, depth = {}, 0
      for i = 1, 2000 do list[i] = i end
      local messages = amid_finalizers(function()
        if depth > 0 then return end
        depth = 1
        local fine, message = pcall(function()
          for i, value in ipairs((mcore:map(make, { 1, 2, 3 }))) do assert(text_of(value) == text_of(make(i))) end
        end)
        depth = 0
        if not fine then error(message, 0) end
      end, function()
        for _ = 1, 5 do
          local results = mcore:map(make, list)
          for i = 1, #list do assert(text_of(results[i]) == text_of(make(i)), i) end
        end
      end)
      assert.are.same({}, without_refusals(messages))
    end)

    it("close the pool or are refused: " .. kind, function()
      for _ = 1, 20 do
        local mcore <close> = mantichora { nworkers = 2 }
        local messages = amid_finalizers(function() mcore:close() end, function()
          local fine, message = pcall(function()
            for i = 1, 50 do mcore:run(make, i) end
            assert.are.equal(50, mcore:returns().n)
          end)
          assert(fine or message:find("pool is closed", 1, true), message)
        end)
        messages["pool is closed"] = nil
        assert.are.same({}, without_refusals(messages))
      end
    end)
  end
end)
