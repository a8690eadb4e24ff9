-- What a pool tells of its tasks and workers: pool:on, emit, stats, is_failure.

local mantichora = require "mantichora"
local logging = require "mantichora.logging"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local function is_failure(value) return mantichora.is_failure(value) end

-- A list that gets all events, and what ends that.
local function record(mcore)
  local events = {}
  return events, mcore:on(function(event) events[#events + 1] = event end)
end

-- What was told of a task, in one line.
local function story(events, runid)
  local words = {}
  for _, event in ipairs(events) do
    if event.runid == runid then words[#words + 1] = event.event end
  end
  return table.concat(words, " ")
end

local function find(events, name, runid)
  for _, event in ipairs(events) do
    if event.event == name and (runid == nil or event.runid == runid) then return event end
  end
end

-- Log lines of the logger `mantichora` while f runs.
local function logged(f)
  local lines = {}
  logging.basic_config { level = "WARNING", stream = function(line) lines[#lines + 1] = line end }
  local fine, problem = pcall(f, lines)
  logging.basic_config { level = "WARNING", stream = io.stderr }
  if not fine then error(problem, 0) end
  return lines
end

local function raises(pattern, f, ...)
  local fine, problem = pcall(f, ...)
  assert.is_false(fine)
  assert.truthy(tostring(problem):find(pattern, 1, true), tostring(problem))
end

for _, engine in ipairs { "fork", "snapshot", "inline" } do
  local is_inline = engine == "inline"

  describe("events of engine " .. engine, function()
    local function new(options)
      options = options or {}
      options.engine, options.on_error = engine, options.on_error or "return"
      options.nworkers = options.nworkers or 2
      return mantichora(options)
    end

    it("tell each task once, in their order and with what is known", function()
      local mcore <close> = new()
      local before = os.time()
      local events = record(mcore)
      local line = debug.getinfo(1, "l").currentline + 1
      local ok = mcore:run_with({ name = "first", priority = 3 }, function(x) return x end, "value")
      local bad = mcore:run(function() error({ code = 7 }) end)
      assert.are.equal("queued", story(events, ok):match("^%a+"))
      assert.are.equal("queued", story(events, bad):match("^%a+"))
      local results = mcore:returns()
      for runid = 0, 1 do assert.are.equal("queued started ended", story(events, runid)) end
      local queued, started, ended = find(events, "queued", ok), find(events, "started", ok), find(events, "ended", ok)
      assert.are.equal("first", queued.name)
      assert.are.equal(3, queued.priority)
      assert.are.equal(("<%s:%d>"):format(debug.getinfo(1, "S").short_src, line), queued.place)
      assert.is_nil(queued.index)
      assert.is_nil(queued.call)
      assert.are.equal(1, started.attempt)
      assert.are.equal("ok", ended.kind)
      assert.are.equal("first", ended.name)
      assert.are.equal(1, ended.attempt)
      assert.is_nil(ended.failure)
      if not is_inline then
        assert.are.equal(started.pid, ended.pid)
        assert.are.equal(started.slot, ended.slot)
        assert.is_true(started.slot == 1 or started.slot == 2)
        assert.is_true(math.type(started.pid) == "integer" and started.pid > 1)
      end
      for _, name in ipairs { "waited", "elapsed", "cpu" } do
        assert.is_true(ended[name] >= 0 and ended[name] < 60, name)
      end
      for _, name in ipairs { "maxrss", "sent", "received" } do
        assert.is_true(math.type(ended[name]) == "integer" and ended[name] > 0, name)
      end
      for _, event in ipairs(events) do
        assert.is_true(event.time >= before and event.time < os.time() + 2)
        assert.are.equal("number", type(event.clock))
      end
      assert.is_true(queued.clock <= started.clock and started.clock <= ended.clock)
      local failure = find(events, "ended", bad).failure
      assert.is_true(is_failure(failure))
      assert.are.equal(tostring(results[2]), tostring(failure))
      assert.are.same({ code = 7 }, failure.value)
      assert.are.equal("error", find(events, "ended", bad).kind)
    end)

    it("go to several listeners, each with a table of its own, in the order of on", function()
      local mcore <close> = new()
      local order = {}
      for i = 1, 3 do
        mcore:on(function(event)
          if event.event ~= "queued" then return end
          assert.is_nil(event.mark)
          event.mark = i
          order[#order + 1] = i
        end)
      end
      mcore:run(function() end)
      assert.are.same({ 1, 2, 3 }, order)
      mcore:returns()
    end)

    it("go to nobody any more when that was ended, and not to who came later", function()
      local mcore <close> = new()
      local first, stop = record(mcore)
      mcore:run(function() end)
      local second, stop_second = record(mcore)
      mcore:returns()
      assert.are.equal("queued started ended", story(first, 0))
      assert.are.equal("started ended", story(second, 0))
      stop()
      stop()
      mcore:run(function() end)
      mcore:returns()
      assert.are.equal("", story(first, 1))
      assert.are.equal("queued started ended", story(second, 1))
      stop_second()
      mcore:run(function() end)
      mcore:returns()
      assert.are.equal("", story(second, 2))
      local third = record(mcore)
      mcore:run(function() end)
      mcore:returns()
      assert.are.equal("queued started ended", story(third, 3))
      mcore:close()
      stop() -- of a pool that is closed
    end)

    it("are no longer told to one that was ended by one before it", function()
      local mcore <close> = new()
      local told, stop = 0, nil
      mcore:on(function() stop() end)
      stop = mcore:on(function() told = told + 1 end)
      mcore:run(function() end)
      mcore:returns()
      assert.are.equal(0, told)
    end)

    it("are told to a listener that came while the task was on its way", function()
      local mcore <close> = new()
      local flag = shell.folder() .. "/go"
      for _ = 1, 5 do
        mcore:run(function()
          while not io.open(flag) do mantichora.sleep(0.005) end
        end)
      end
      local events = record(mcore)
      io.open(flag, "w"):close()
      mcore:returns()
      for runid = 0, 4 do
        assert.truthy(("started ended"):find(story(events, runid), 1, true), story(events, runid))
        assert.truthy(story(events, runid):find("ended$"))
      end
    end)

    it("survive a listener that raises: it is logged, and the task is not harmed", function()
      local mcore <close> = new { name = "mine" }
      local after
      local lines = logged(function()
        mcore:on(function(event) if event.event == "ended" then error("listener's own") end end)
        after = record(mcore)
        mcore:run(function() return 5 end)
        assert.are.same({ n = 1, 5 }, mcore:returns())
      end)
      assert.are.equal(1, #lines, table.concat(lines, "\n"))
      assert.truthy(lines[1]:find('^ERROR:mantichora:pool "mine": a listener failed: .*listener\'s own'), lines[1])
      assert.are.equal("queued started ended", story(after, 0))
    end)

    it("may run and cancel; what that causes is told after the listener returned", function()
      local mcore <close> = new()
      local inside, events, more = false, {}, 0
      mcore:on(function(event)
        assert.is_false(inside)
        inside = true
        events[#events + 1] = event
        if event.event == "ended" and more < 4 then
          more = more + 1
          local runid = mcore:run(function() return "more" end)
          if more % 2 == 0 then mcore:cancel(runid) end
        end
        inside = false
      end)
      mcore:run(function() return "first" end)
      local count = 0
      while mcore:receive_one() do count = count + 1 end
      assert.are.equal(5, count)
      for runid = 0, 4 do
        local told = story(events, runid)
        assert.is_true(told == "queued started ended" or told == "queued ended", told)
      end
      assert.are.equal("", story(events, 5))
    end)

    it("refuse what waits, and close, and a yield", function()
      local mcore = new()
      local other <close> = new()
      other:run(function() return 1 end)
      local problems = {}
      local tried = false
      local stop = mcore:on(function(event)
        if event.event ~= "queued" or tried then return end
        tried = true
        local function try(name, f, ...)
          local fine, problem = pcall(f, ...)
          problems[name] = not fine and problem or false
        end
        for _, name in ipairs { "returns", "receive_all", "receive_one", "terminate", "close" } do
          try(name, mcore[name], mcore)
          try("other " .. name, other[name], other)
        end
        try("map", mcore.map, mcore, tostring, { 1 })
        try("imap", function() for _ in mcore:imap(tostring, { 1 }) do break end end)
        try("as_completed", function() for _ in mcore:as_completed() do break end end)
        try("poll", mcore.poll, mcore, 0.01)
        try("sleep", mantichora.sleep, 0.01)
        mcore:poll()
        mcore:poll(0)
        assert.are.same({}, mcore:receive_finished())
        assert.are.same({ nil, "timeout" }, { mcore:receive_one(0) })
        assert(tostring(mcore) and mcore:workers() and mcore:stats())
      end)
      assert.are.same({}, logged(function() mcore:run(function() return 2 end) end))
      local count = 0
      for name, problem in pairs(problems) do
        count = count + 1
        assert.truthy(problem and tostring(problem):find("a listener cannot wait", 1, true)
          or name == "close" and tostring(problem):find("handing over", 1, true), name .. ": " .. tostring(problem))
      end
      assert.are.equal(15, count)
      assert.are.same({ n = 1, 2 }, mcore:returns())
      assert.are.same({ n = 1, 1 }, other:returns())
      stop()
      local lines = logged(function()
        coroutine.wrap(function()
          mcore:on(function() coroutine.yield() end)
          mcore:run(function() return 3 end)
        end)()
        assert.are.same({ n = 1, 3 }, mcore:returns())
      end)
      assert.truthy(lines[1]:find("attempt to yield across a C-call boundary", 1, true), lines[1])
      logged(function() mcore:close() end)
    end)

    it("tell the end before the result is handed over, in every way", function()
      local mcore <close> = new()
      local ended, early = {}, {}
      mcore:on(function(event)
        if event.event ~= "ended" then return end
        ended[event.runid] = true
        for _, entry in ipairs(mcore:receive_finished()) do
          early[#early + 1] = entry[1]
          assert.is_true(ended[entry[1]])
        end
      end)
      local function receive(way)
        for _ = 1, 20 do mcore:run(function() end) end
        way()
      end
      receive(function() for runid in mcore:as_completed() do assert.is_true(ended[runid]) end end)
      receive(function() for _, entry in ipairs(mcore:receive_all()) do assert.is_true(ended[entry[1]]) end end)
      receive(function() mcore:returns() end)
      receive(function()
        repeat
          mcore:poll(0.01)
          mcore:receive_finished()
          local stats = mcore:stats()
        until stats.queued + stats.running + stats.unreceived == 0
      end)
      for runid = 0, 79 do assert.is_true(ended[runid]) end
      assert.is_true(#early > 0)
    end)

    it("number the items of a map and name the call", function()
      local mcore <close> = new()
      local events = record(mcore)
      local function f(x) if x == 30 then error("no 30") end return x end
      mcore:run(function() end)
      local list = {}
      for i = 1, 40 do list[i] = i end
      local values = mcore:map(f, list)
      assert.are.equal(40, values.n)
      for _ in mcore:imap(f, { 1, 2 }) do end -- luacheck: ignore
      mcore:returns()
      for i = 1, 40 do
        local runid = i
        assert.are.equal("queued started ended", story(events, runid))
        for _, name in ipairs { "queued", "ended" } do
          local event = find(events, name, runid)
          assert.are.equal(i, event.index)
          assert.are.equal(1, event.call)
        end
        assert.are.equal(i == 30 and "error" or "ok", find(events, "ended", runid).kind)
      end
      local failure = find(events, "ended", 30).failure
      assert.are.equal(30, failure.index)
      assert.are.equal(30, failure.item)
      assert.are.equal(tostring(values[30]), tostring(failure))
      for i = 1, 2 do
        assert.are.equal(i, find(events, "queued", 40 + i).index)
        assert.are.equal(2, find(events, "queued", 40 + i).call)
      end
    end)

    it("end what a loop leaves", function()
      local mcore <close> = new { nworkers = 1 }
      local events = record(mcore)
      local function slow(x)
        mantichora.sleep(0.05)
        return x
      end
      for _ in mcore:imap(slow, { 1, 2, 3, 4, 5, 6, 7, 8, 9 }, { name = "alone" }) do break end
      local open = 0 -- told as the loop is left; what was running may not have been told to have started
      for _, event in ipairs(events) do
        if event.event == "queued" and story(events, event.runid) == "queued" then open = open + 1 end
      end
      assert.is_true(open <= 1, open)
      for i in mcore:imap(function(x) return x end, function() return 1 end) do
        if i == 3 then break end
      end
      mcore:run(function() end)
      mcore:returns()
      mcore:terminate()
      local ends = 0
      for _, event in ipairs(events) do
        if event.event == "queued" then
          local told = story(events, event.runid)
          assert.is_true(told == "queued started ended" or told == "queued ended", told)
          ends = ends + 1
        end
      end
      assert.is_true(ends >= 4)
    end)

    it("are not told inside of log handlers and renderers, but soon after", function()
      local mcore <close> = new()
      local events = record(mcore)
      local inside, seen = false, 0
      mcore:on(function() assert.is_false(inside) seen = seen + 1 end)
      local function handler()
        inside = true
        local runid = mcore:run(function() return "of a handler" end)
        assert.are.equal("", story(events, runid))
        mcore:poll(0)
        assert.are.equal("", story(events, runid))
        if runid == 1 then
          local got, value = mcore:receive_one()
          assert.are.equal("of a handler", value)
          assert.are.equal("", story(events, got))
        end
        inside = false
      end
      local lines = logged(function()
        logging.add_handler(handler, "ERROR")
        mcore:run(function() return "first" end)
        assert.are.equal("first", select(2, mcore:receive_one()))
        logging.error("from here")
        logging.remove_handler(handler)
        mcore:poll()
        assert.are.equal("queued", story(events, 1):match("^%a+"))
        mcore:returns()
      end)
      assert.are.same({ "ERROR:root:from here" }, lines)
      assert.are.equal("queued started ended", story(events, 1))
      assert.is_true(seen > 3)
    end)

    it("say how tasks ended that did not return", function()
      local mcore <close> = new()
      local events = record(mcore)
      local kinds = {}
      local function expect(kind, pattern, options, f)
        kinds[mcore:run_with(options, f)] = { kind, pattern }
      end
      expect("unsendable", "queued started ended", {}, function() return coroutine.create(print) end)
      if not is_inline then
        expect("exited", "queued started ended", {}, function() os.exit(9) end)
        expect("killed", "queued started ended", {}, function()
          os.execute("kill -9 $PPID")
          mantichora.sleep(20)
        end)
        expect("timeout", "queued started ended", { timeout = 0.1 }, function() while true do end end)
        expect("killed", "queued started retried started retried started ended", { retries = 2 }, function()
          os.execute("kill -9 $PPID")
          mantichora.sleep(20)
        end)
      end
      local late = mcore:run(function() end)
      if mcore:cancel(late) == "queued" then kinds[late] = { "cancelled", "queued ended" } end
      mcore:returns()
      for runid, expected in pairs(kinds) do
        local ended = find(events, "ended", runid)
        assert.are.equal(expected[1], ended.kind)
        assert.are.equal(expected[2], story(events, runid))
        assert.are.equal(ended.kind, ended.failure.kind)
        if ended.kind == "killed" then assert.are.equal(9, ended.signal) end
        if ended.kind == "exited" then assert.are.equal(9, ended.exitcode) end
      end
      if not is_inline then
        local retried = find(events, "retried")
        assert.are.equal(1, retried.attempt)
        assert.are.equal("killed", retried.kind)
        assert.are.equal("killed", retried.failure.kind)
        assert.are.equal(3, find(events, "ended", retried.runid).attempt)
      end
    end)

    it("hand over what tasks emit, in order and before the result", function()
      local mcore <close> = new()
      local events = record(mcore)
      local runid = mcore:run(function(n)
        for i = 1, n do mantichora.emit(i, nil, { i }, nil) end
        mantichora.emit()
        return "done"
      end, 100)
      assert.are.same({ n = 1, "done" }, mcore:returns())
      assert.are.equal("queued started " .. ("emitted "):rep(101) .. "ended", story(events, runid))
      local at = 0
      for _, event in ipairs(events) do
        if event.event == "emitted" then
          at = at + 1
          assert.are.equal(1, event.attempt)
          assert.are.same(at <= 100 and { n = 4, at, nil, { at } } or { n = 0 }, event.values)
        end
      end
      local list = {}
      for i = 1, 50 do list[i] = i end
      mcore:map(function(x) if x % 10 == 0 then mantichora.emit(x) end return x end, list)
      local emitted = {}
      for _, event in ipairs(events) do
        if event.event == "emitted" and event.runid > runid then
          emitted[#emitted + 1] = event.values[1]
          assert.are.equal(event.values[1], event.runid - runid)
        end
      end
      table.sort(emitted)
      assert.are.same({ 10, 20, 30, 40, 50 }, emitted)
    end)

    it("raise at emit what cannot be sent, and outside of tasks", function()
      local mcore <close> = new()
      for _ = 1, 2 do
        mcore:run(function()
          local fine, problem = pcall(mantichora.emit, 1, { deep = { coroutine.create(print) } })
          return fine, problem
        end)
        local entry = mcore:receive_all()[1]
        assert.is_false(entry[2])
        assert.truthy(entry[3]:find("argument 2.deep[1]: coroutine (thread)", 1, true), entry[3])
        mcore:on(function() end)
      end
      raises("emit is for tasks", mantichora.emit, 1)
    end)

    it("drop what is emitted where nobody listens", function()
      local mcore <close> = new()
      mcore:run(function() for _ = 1, 100 do mantichora.emit(("x"):rep(100000)) end return "done" end)
      assert.are.same({ n = 1, "done" }, mcore:returns())
    end)

    it("count in stats()", function()
      local mcore <close> = new()
      local zero = mcore:stats()
      for _, name in ipairs { "ok", "error", "unsendable", "exited", "killed", "timeout", "cancelled", "retried",
          "found", "queued", "running", "unreceived", "bytes_sent", "bytes_received" } do
        assert.are.equal(0, zero[name], name)
      end
      assert.are.same({ sum = 0.0, mean = 0.0, max = 0.0 }, zero.waiting)
      assert.are.same({ sum = 0.0, mean = 0.0, max = 0.0 }, zero.working)
      assert.are.same({}, zero.slots)
      assert.are.same({}, zero.slowest)
      for i = 1, 3 do mcore:run_with({ name = "n" .. i }, function() mantichora.sleep(0.1 * i) end) end
      mcore:run(error, "x")
      mcore:map(function(x) return x end, { 1, 2, 3, 4, 5 })
      if not is_inline then
        mcore:run_with({ retries = 1 }, function() os.exit(1) end)
      end
      while mcore:stats().queued + mcore:stats().running > 0 do mcore:poll(0.01) mcore:receive_finished() end
      mcore:receive_all()
      mcore:run(function() end)
      mcore:cancel(mcore:run(function() mantichora.sleep(60) end))
      process.wait(function() mcore:poll(0) return mcore:stats().unreceived == 2 end)
      local stats = mcore:stats()
      assert.are.equal(1, stats.error)
      assert.are.equal(1, stats.cancelled)
      if not is_inline then
        assert.are.equal(1, stats.exited)
        assert.are.equal(1, stats.retried)
      end
      assert.is_true(stats.ok == 8 or stats.ok == 9)
      assert.are.equal(2, stats.queued + stats.running + stats.unreceived)
      assert.is_true(stats.working.sum >= 0.06, stats.working.sum)
      assert.is_true(stats.working.max >= 0.03 and stats.working.max <= stats.working.sum)
      assert.is_true(stats.waiting.sum > 0 and stats.waiting.mean <= stats.waiting.max)
      assert.is_true(#stats.slots >= 1 and #stats.slots <= 2)
      local share = 0
      for _, part in ipairs(stats.slots) do
        assert.is_true(part >= 0 and part <= 1)
        share = share + part
      end
      assert.is_true(share > 0)
      local slow = {}
      for _, task in ipairs(stats.slowest) do slow[task.name or task.runid] = task.elapsed end
      assert.is_true(slow.n3 >= 0.3 and stats.slowest[1].elapsed >= slow.n3)
      for _, task in ipairs(stats.slowest) do assert.is_true(task.name == nil or task.kind == "ok") end
      assert.is_true(#stats.slowest <= 5)
      for i = 2, #stats.slowest do assert.is_true(stats.slowest[i].elapsed <= stats.slowest[i - 1].elapsed) end
      assert.is_true(stats.bytes_sent > 0 and stats.bytes_received > 0)
      mcore:returns()
      assert.are.equal(0, mcore:stats().unreceived)
    end)

    it("tell every end when leaving the scope is interrupted again and again", function()
      local events = {}
      raises("interrupted!", function()
        local mcore <close> = new()
        mcore:on(function(event)
          events[#events + 1] = event
          if event.event == "ended" then error("interrupted!", 0) end
        end)
        for i = 1, 10 do -- each may be interrupted by the end of one before
          pcall(mcore.run, mcore, function() if i % 2 == 0 then mantichora.sleep(is_inline and 0 or 30) end end)
        end
        error("left")
      end)
      local ends = 0
      for _, event in ipairs(events) do ends = ends + (event.event == "ended" and 1 or 0) end
      assert.are.equal(10, ends)
      assert.are.same({}, process.children())
    end)

    it("let a pool be collected whose listener holds it", function()
      local got = shell.run(("%s -e %s"):format(shell.interpreter, shell.quote(([[
        local mantichora = require "mantichora"
        local told = 0
        do
          local mcore = mantichora { engine = %q, nworkers = 1 }
          mcore:on(function() told = told + 1 return mcore end)
          mcore:run(function() mantichora.sleep(60) end)
          mcore = nil
        end
        local before = told
        collectgarbage() collectgarbage()
        mantichora.sleep(0.01)
        assert(told == before, "told after it was collected")
        io.write("fine")]]):format(engine))), { timeout = 20 })
      assert.are.equal("fine", got.out, got.err)
      assert.truthy(got.err:find("1 pool was collected", 1, true), got.err)
    end)

    it("of a pool inside of a task are that task's own", function()
      local mcore <close> = new()
      local outer = record(mcore)
      mcore:run(function()
        local inner <close> = mantichora { nworkers = 1, on_error = "return" }
        local words = {}
        inner:on(function(event)
          if event.runid then words[#words + 1] = event.event .. (event.values and event.values[1] or "") end
        end)
        inner:run(function() mantichora.emit("in") end)
        inner:returns()
        mantichora.emit("out")
        return table.concat(words, " ")
      end)
      assert.are.equal("queued started emittedin ended", mcore:returns()[1])
      assert.are.equal("queued started emitted ended", story(outer, 0))
      assert.are.equal("out", find(outer, "emitted").values[1])
    end)
  end)
end

describe("events of workers", function()
  it("tell when they come and why they go", function()
    local mcore = mantichora { nworkers = 2, max_tasks_per_worker = 2, on_error = "return" }
    local events = record(mcore)
    for i = 1, 6 do mcore:run(function() return i end) end
    mcore:returns()
    mcore:run(os.exit)
    mcore:run(function() os.execute("kill -9 $PPID") mantichora.sleep(20) end)
    mcore:returns()
    mcore:close()
    local living, why = {}, {}
    for _, event in ipairs(events) do
      if event.event == "worker_started" then
        assert.is_nil(living[event.pid])
        living[event.pid] = event.slot
      elseif event.event == "worker_ended" then
        assert.are.equal(living[event.pid], event.slot)
        living[event.pid] = nil
        why[event.why] = (why[event.why] or 0) + 1
      end
    end
    assert.are.same({}, living)
    assert.are.equal(1, why.exited)
    assert.are.equal(1, why.killed)
    assert.is_true(why.replaced >= 2, why.replaced)
    assert.is_true((why.closed or 0) >= 1)
  end)
end)

describe("a listener", function()
  it("is told through an event loop's descriptor", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:pollfd()
    local events = record(mcore)
    mcore:run(function() end)
    process.wait(function() mcore:poll(0) return story(events, 0) == "queued started ended" end)
    mcore:returns()
  end)

  it("must be callable", function()
    local mcore <close> = mantichora { nworkers = 1 }
    raises("bad argument #1 to 'on' (on takes a function: nil is given)", function() mcore:on() end)
    raises("bad argument #1 to 'on' (on takes a function: number is given)", function() mcore:on(3) end)
    local told = 0
    mcore:on(setmetatable({}, { __call = function(_, event) assert(event.event) told = told + 1 end }))
    mcore:run(function() end)
    mcore:returns()
    assert.is_true(told >= 3)
  end)

  it("lets Ctrl-C through, and others are told still", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:on(function(event) if event.event == "queued" then error("interrupted!") end end)
    local events = record(mcore)
    raises("interrupted!", function() mcore:run(function() end) end)
    assert.are.equal("queued", story(events, 0))
    mcore:returns()
    assert.are.equal("queued started ended", story(events, 0))
  end)
end)

describe("emit", function()
  local program = [[
    local mantichora = require "mantichora"
    local function rss(pid)
      for line in io.lines("/proc/" .. pid .. "/status") do
        local kib = line:match("^VmRSS:%s*(%d+)")
        if kib then return tonumber(kib) / 1024 end
      end
    end
    local function own() local f <close> = io.open("/proc/self/stat") return f:read("n") end
  ]]

  for _, background in ipairs { true, false } do
    it("of 1 GB while the parent sleeps takes little memory, background " .. tostring(background), function()
      local got = shell.run(("%s -e %s"):format(shell.interpreter, shell.quote(program .. ([[
        local mcore = mantichora { nworkers = 2, background = %s, timeout = 3, on_error = "return" }
        local count = 0
        mcore:on(function(event) if event.event == "emitted" then count = count + 1 end end)
        mcore:start()
        local before, workers, worker_before = rss(own()), mcore:workers(), {}
        for i, worker in ipairs(workers) do worker_before[i] = rss(worker.pid) end
        for _ = 1, 2 do
          mcore:run(function()
            local piece = ("x"):rep(1 << 20)
            for _ = 1, 1024 do mantichora.emit(piece) end
          end)
        end
        os.execute("sleep 1")
        assert(rss(own()) - before < 64, "parent: " .. rss(own()) - before)
        for i, worker in ipairs(workers) do
          local more = rss(worker.pid) - worker_before[i]
          assert(more < 64, "worker: " .. more)
        end
        assert(count == 0)
        os.execute("sleep 2.5")
        for _, failure in ipairs(mcore:returns()) do
          assert(failure.kind == "timeout" or failure == nil, failure.kind)
        end
        assert(count >= 1, count)
        mcore:close()
        io.write("fine")]]):format(background))), { timeout = 40 })
      assert.are.equal("fine", got.out, got.err)
    end)
  end

  it("of more than waits at most comes whole when the parent looks", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local sum, next_of = 0, {}
    mcore:on(function(event)
      if event.event ~= "emitted" then return end
      local at = next_of[event.runid] or 1
      assert.are.equal(at, event.values[1])
      next_of[event.runid] = at + 1
      sum = sum + #event.values[2]
    end)
    for _ = 1, 2 do
      mcore:run(function()
        for i = 1, 40 do mantichora.emit(i, ("x"):rep(i == 20 and 9 << 20 or 1 << 20)) end
      end)
    end
    mcore:returns()
    assert.are.equal(2 * (39 + 9) << 20, sum)
  end)

  it("is stopped like any other code while it waits", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    local last
    mcore:on(function(event)
      if event.event ~= "emitted" then return end
      last = event.values[1]
      os.execute("sleep 0.02")
    end)
    local runid = mcore:run(function()
      local _, problem = pcall(function()
        while true do mantichora.emit(("x"):rep(1 << 20)) end
      end)
      mantichora.emit("cleaned up")
      error(problem, 0)
    end)
    os.execute("sleep 0.3")
    assert.are.equal("running", mcore:cancel(runid))
    local _, failure = mcore:receive_one()
    assert.are.equal("cancelled", failure.kind)
    assert.are.equal("cleaned up", last)
  end)
end)

describe("a loop that was left", function()
  it("has the items of those that end after it, collected or not", function()
    local path = os.tmpname()
    shell.write(path, [[
      local mantichora = require "mantichora"
      local told, wrong, list = 0, 0, {}
      for i = 1, 200 do list[i] = i * 10 end
      for _ = 1, 30 do
        local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
        mcore:on(function(event)
          if event.event ~= "ended" or event.kind ~= "error" then return end
          told = told + 1
          if event.failure.item ~= event.index * 10 then wrong = wrong + 1 end
        end)
        for i in mcore:imap(function(x) if x % 20 == 0 then error("x") end return x end, list) do
          if i == 3 then break end
        end
        collectgarbage()
        collectgarbage()
        mcore:poll(0.01)
      end
      print(told > 0, wrong)]])
    local got = shell.run(shell.interpreter .. " " .. path, { timeout = 60 })
    os.remove(path)
    assert.are.same({ 0, "true\t0\n" }, { got.status, got.out }, got.err)
  end)
end)

describe("is_failure", function()
  it("knows failures", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    mcore:run(error, "x")
    mcore:run(function() return { kind = "error" } end)
    local results = mcore:returns()
    assert.is_true(mantichora.is_failure(results[1]))
    for _, value in ipairs { results[2], 1, "x", {}, print, true } do
      assert.is_false(mantichora.is_failure(value))
    end
    assert.is_false(mantichora.is_failure(nil))
    assert.is_false(mantichora.is_failure())
  end)
end)
