-- Attempts after the first, keys of random streams, and the bound of the queue.

local logging = require "mantichora.logging"
local mantichora = require "mantichora"
local new_notes = require "spec.support.notes"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local engines = { "fork", "snapshot", "inline" }

describe("retries", function()
  for _, engine in ipairs(engines) do
    describe("with engine " .. engine, function()
      it("come before those of their priority that were run later", function()
        for _, priority in ipairs { 0, 5 } do
          local notes <close> = new_notes()
          local note = notes.note
          local pool <close> = mantichora.new { nworkers = 1, engine = engine }
          pool:run_with({ retries = 1, retry_on = { "error" }, priority = priority }, function()
            if note "first" == 1 then error("no", 0) end
          end)
          -- The one behind it waits until its failure is known here, so that others are sent ahead.
          local gate = engine ~= "inline" and os.tmpname() or nil
          pool:run(function()
            note(1)
            for _ = 1, 2000 do
              local closed <close> = gate and io.open(gate)
              if not closed then return end
              mantichora.sleep(0.01)
            end
          end)
          for i = 2, 60 do pool:run(function() note(i) end) end
          if gate then
            process.wait(function() return pool:stats().retried == 1 end)
            os.remove(gate)
          end
          pool:returns()
          local places = {}
          for place, text in ipairs(notes.read()) do
            if text == "first" then places[#places + 1] = place end
          end
          assert.equal(1, places[1])
          -- One had begun, and one stays with the worker.
          assert.is_true(places[2] <= 4, "second attempt at place " .. places[2])
        end
      end)

      it("follow the kinds of ends in retry_on", function()
        local ways = {
          error = function() error("no", 0) end,
          unsendable = function() return coroutine.create(print) end,
          exited = engine ~= "inline" and function() os.exit(3) end or nil,
          killed = engine ~= "inline" and function() os.execute("kill -9 $PPID") mantichora.sleep(60) end or nil,
          timeout = engine ~= "inline" and function() mantichora.sleep(60) end or nil,
        }
        for kind, fail in pairs(ways) do
          local notes <close> = new_notes()
          local note = notes.note
          local pool <close> = mantichora { nworkers = 1, engine = engine, on_error = "return" }
          local timeout = kind == "timeout" and 0.1 or nil
          local function task() if note("") < 3 then return fail() end return "done" end
          pool:run_with({ retries = 2, retry_on = { kind }, timeout = timeout }, task)
          assert.are.equal("done", pool:returns()[1])
          local others = { "error", "unsendable", "exited", "killed", "timeout" }
          for i = #others, 1, -1 do if others[i] == kind then table.remove(others, i) end end
          pool:run_with({ retries = 5, retry_on = others, timeout = timeout }, fail)
          local failure = pool:returns()[1]
          assert.are.same({ kind, nil }, { failure.kind, failure.attempts })
          pool:run_with({ retries = 2, retry_on = { kind }, timeout = timeout }, fail)
          failure = pool:returns()[1]
          assert.are.same({ kind, 3 }, { failure.kind, failure.attempts })
        end
      end)

      it("wait longer each time, and count as queued meanwhile", function()
        local notes <close> = new_notes()
        local note, clock = notes.note, process.clock
        local pool <close> = mantichora { nworkers = 1, engine = engine }
        pool:run_with({ retries = 3, retry_on = { "error" }, retry_delay = 0.1 }, function()
          if note(("%.9f"):format(clock())) < 4 then error("no") end
          return true
        end)
        process.wait(function()
          pool:poll(0)
          return #notes.read() == 1 and tostring(pool):find(" 0 running") ~= nil
        end, 10)
        assert.are.equal("mantichora: 1 workers, 0 running, 1 queued", tostring(pool))
        assert.is_true(pool:timeout() <= 0.1)
        assert.is_true(pool:returns()[1])
        local times = notes.read()
        for i, least in ipairs { 0.1, 0.2, 0.4 } do
          assert.is_true(times[i + 1] - times[i] >= least - 1e-6, times[i + 1] - times[i]) -- they were rounded
        end
      end)

      it("are cancelled in a pause, which counts as queued", function()
        local notes <close> = new_notes()
        local note = notes.note
        local pool <close> = mantichora { nworkers = 1, engine = engine, on_error = "return" }
        local options = { retries = 3, retry_on = { "error" }, retry_delay = 600 }
        local function task() note("") error("no") end
        local function pause()
          local before = #notes.read()
          local runid = pool:run_with(options, task)
          process.wait(function()
            pool:poll(0)
            return #notes.read() > before and tostring(pool):find(" 0 running") ~= nil
          end, 10)
          return runid
        end
        assert.are.equal("queued", pool:cancel(pause()))
        local failure = pool:returns()[1]
        assert.are.same({ "cancelled", nil }, { failure.kind, failure.attempts })
        pause()
        pause()
        pool:terminate()
        local values = pool:returns()
        assert.are.same({ "cancelled", "cancelled" }, { values[1].kind, values[2].kind })
        pause() -- as the scope is left by an error
        assert.are.equal(4, #notes.read())
        pool:terminate()
      end)

      it("start with the same random numbers", function()
        local notes <close> = new_notes()
        local note = notes.note
        local pool <close> = mantichora { nworkers = 1, engine = engine, seed = 1 }
        pool:run_with({ retries = 2, retry_on = { "error" } }, function()
          if note(tostring(math.random(0))) < 3 then error("no") end
        end)
        pool:returns()
        local list = notes.read()
        assert.are.same({ list[1], list[1], list[1] }, list)
      end)

      it("end with their last failure when their pool halts", function()
        local notes <close> = new_notes()
        local note = notes.note
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon", on_error = "return" }
        pool:run_with({ retries = 3, retry_on = { "error" }, retry_delay = 600 }, function()
          note("")
          error("first", 0)
        end)
        pool:run_with({ retries = 2, retry_on = { "error" } }, function() error("second", 0) end)
        local values = pool:returns()
        assert.are.same({ "error", "first", "error", 3 },
          { values[1].kind, values[1].message, values[2].kind, values[2].attempts })
        assert.are.equal(1, #notes.read())
      end)

      it("do not count for a halt while another attempt follows", function()
        local notes <close> = new_notes()
        local note = notes.note
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon" }
        pool:run_with({ retries = 2, retry_on = { "error" } }, function()
          if note("") < 3 then error("no") end
          return "done"
        end)
        pool:run(function() return "other" end)
        assert.are.same({ "done", "other", n = 2 }, pool:returns())
      end)

      it("go with items of map and imap", function()
        local folder = shell.folder()
        local pool <close> = mantichora { nworkers = 1, engine = engine }
        local function once(x)
          local path = folder .. "/" .. x
          local file = io.open(path)
          if not file then
            shell.write(path, "")
            error("no")
          end
          file:close()
          return x
        end
        local options = { retries = 1, retry_on = { "error" }, retry_delay = 0.01 }
        assert.are.same({ 1, 2, 3, n = 3 }, pool:map(once, { 1, 2, 3 }, options))
        for i, x in pool:imap(once, { 4, 5, 6 }, options) do assert.are.equal(i + 3, x) end
        shell.remove(folder)
      end)

      it("let a key name the random stream", function()
        local function streams(keys, seed)
          local pool <close> = mantichora { nworkers = 1, engine = engine, seed = seed or 5 }
          for _, key in ipairs(keys) do
            pool:run_with(key ~= "none" and { key = key } or {}, function() return math.random(0) end)
          end
          return pool:returns()
        end
        local a = streams { "x", 1, 1.0, "1", "x", 0.5, "" , 2 ^ 53, 1 << 53, "a long key with more than eight bytes" }
        local b = streams { "none", "a long key with more than eight bytes", 1.0, "x", "1", 1 }
        assert.are.equal(a[1], a[5])
        assert.are.same({ a[10], a[3], a[1], a[4], a[2] }, { b[2], b[3], b[4], b[5], b[6] })
        local seen = {}
        for i, number in ipairs(a) do
          if i ~= 5 then
            assert.is_nil(seen[number])
            seen[number] = true
          end
        end
        assert.are_not.equal(a[1], streams({ "x" }, 6)[1])
        assert.are.equal(streams({ 0.0 })[1], streams({ -0.0 })[1])

        local pool <close> = mantichora { nworkers = 2, engine = engine, seed = 5 }
        local given = {}
        local function key(item, index)
          given[index] = item
          return item
        end
        local values = pool:map(function() return math.random(0) end, { "1", "x", 1 }, { key = key })
        assert.are.same({ a[4], a[1], a[2], n = 3 }, values)
        assert.are.same({ "1", "x", 1 }, given)
        for i, value in pool:imap(function() return math.random(0) end, { "x", 1.0 }, { key = key }) do
          assert.are.equal(a[2 * i - 1], value)
        end
      end)
    end)
  end

  it("have a time-out each", function()
    local notes <close> = new_notes()
    local note = notes.note
    local pool <close> = mantichora { nworkers = 1 }
    pool:run_with({ retries = 3, retry_on = { "error" }, timeout = 2 }, function()
      mantichora.sleep(0.8)
      if note("") < 4 then error("no") end
    end)
    assert.are.same({ n = 1 }, pool:returns())
  end)

  it("are not made of a running task once its pool halts", function()
    local folder = shell.folder()
    local notes <close> = new_notes()
    local note = notes.note
    local pool <close> = mantichora { nworkers = 2, halt = "soon", on_error = "return" }
    pool:run_with({ retries = 3, retry_on = { "error" } }, function()
      note("")
      shell.write(folder .. "/runs", "")
      process.wait(function() return io.open(folder .. "/go") ~= nil end, 10)
      error("runs", 0)
    end)
    pool:run(function()
      process.wait(function() return io.open(folder .. "/runs") ~= nil end, 10)
      error("halts", 0)
    end)
    process.wait(function() return pool:poll(0) == 1 end, 10)
    shell.write(folder .. "/go", "")
    local values = pool:returns()
    assert.are.same({ "runs", "halts" }, { values[1].message, values[2].message })
    assert.are.equal(1, #notes.read())
    shell.remove(folder)
  end)

  it("are not made of a running task that was cancelled while it was stopped", function()
    local notes <close> = new_notes()
    local note = notes.note
    local pool <close> = mantichora { nworkers = 1, on_error = "return" }
    local runid = pool:run_with({ retries = 100, retry_on = { "timeout" }, timeout = 0.1 }, function()
      note("")
      while true do pcall(mantichora.sleep, 10) end
    end)
    process.wait(function() pool:poll(0) return #notes.read() >= 1 end, 10)
    mantichora.sleep(0.2)
    pool:cancel(runid)
    local attempts = #notes.read()
    local failure = pool:returns()[1]
    assert.is_true(failure.kind == "timeout" or failure.kind == "cancelled")
    assert.are.equal(attempts, #notes.read())
  end)

  it("are waited for by close, in any number of pauses", function()
    local notes <close> = new_notes()
    local note = notes.note
    local pool = mantichora { nworkers = 2 }
    for i = 1, 50 do
      pool:run_with({ retries = 1, retry_on = { "error" }, retry_delay = (i * 7 % 50) / 500 }, function()
        note(tostring(i))
        error("no")
      end)
    end
    pcall(pool.returns, pool)
    pool:close()
    assert.are.equal(100, #notes.read())
  end)

  it("refuse what they do not know", function()
    local pool <close> = mantichora { nworkers = 1 }
    for _, case in ipairs {
      { { retry_on = "error" }, "'retry_on' must be a list" },
      { { retry_on = { "cancelled" } }, '"cancelled" is given' },
      { { retry_on = { "ok" } }, '"ok" is given' }, { { retry_on = { error = true } }, "'retry_on'" },
      { { retry_delay = -1 }, "'retry_delay'" }, { { retry_delay = 0 / 0 }, "'retry_delay'" },
      { { key = {} }, "'key'" },
      { { wait = 1 }, "'wait'" },
    } do
      local fine, problem = pcall(pool.run_with, pool, case[1], print)
      assert.is_false(fine)
      assert.truthy(problem:find(case[2], 1, true), problem)
    end
    local got = {}
    local fine, problem = pcall(function()
      for i in pool:imap(function(x) return x end, { 1, 2, 3 }, { key = function(x) return x < 3 and x or nil end }) do
        got[#got + 1] = i
      end
    end)
    assert.is_false(fine)
    local expected = "the key of an item must be a string or a number: nil is given (item 3)"
    assert.truthy(problem:find(expected, 1, true), problem)
    assert.are.same({ 1, 2 }, got)
    fine, problem = pcall(pool.map, pool, print, { 1 }, { key = function() error({ mine = true }) end })
    assert.is_false(fine)
    assert.is_true(problem.mine)
  end)
end)

describe("max_queued", function()
  local function queued(pool) return tonumber(tostring(pool):match("(%d+) queued")) end

  for _, engine in ipairs { "fork", "snapshot" } do
    it("has run and run_with wait, engine " .. engine, function()
      for _, background in ipairs { true, false } do
        local pool <close> = mantichora { nworkers = 2, max_queued = 3, engine = engine, background = background }
        local most = 0
        for i = 1, 60 do
          if i % 2 == 0 then
            pool:run(mantichora.sleep, 0.002)
          else
            pool:run_with({ name = "x" }, mantichora.sleep, 0.002)
          end
          most = math.max(most, queued(pool))
        end
        -- One that has just ended counts as queued until it is heard of: one a worker. The case below is exact.
        assert.is_true(most <= 3 + 2, most)
        assert.are.equal(60, pool:returns().n)
      end
    end)
  end

  it("is told instead of waited for, if so wished", function()
    local folder = shell.folder()
    local pool <close> = mantichora { nworkers = 1, max_queued = 2 }
    local function task() process.wait(function() return io.open(folder .. "/go") ~= nil end, 20) end
    pool:run(task)
    process.wait(function() pool:poll(0) return queued(pool) == 0 end, 10)
    assert.are.equal(1, pool:run_with({ wait = false }, function() end))
    assert.are.equal(2, pool:run_with({ wait = false }, function() end))
    assert.are.same({ nil, "full" }, { pool:run_with({ wait = false }, function() end) })
    shell.write(folder .. "/go", "")
    assert.are.same({ 3, 4, 5, 6 }, pool:run_multiple { task, task, task, task })
    assert.are.equal(7, pool:returns().n)
    shell.remove(folder)
  end)

  it("is ignored by engine inline", function()
    local pool <close> = mantichora { max_queued = 1, engine = "inline" }
    for _ = 1, 5 do pool:run(function() end) end
    assert.are.equal(5, pool:returns().n)
  end)

  it("lets nothing wait in a handler", function()
    local folder = shell.folder()
    local pool <close> = mantichora { nworkers = 1, max_queued = 1 }
    local function task() process.wait(function() return io.open(folder .. "/go") ~= nil end, 20) end
    pool:run(task)
    process.wait(function() pool:poll(0) return queued(pool) == 0 end, 10)
    pool:run(task)
    local handler = logging.add_handler(function() for _ = 1, 3 do pool:run(task) end end)
    logging.get("retry_spec"):error("now")
    logging.remove_handler(handler)
    assert.are.equal(4, queued(pool))
    shell.write(folder .. "/go", "")
    assert.are.equal(5, pool:returns().n)
    shell.remove(folder)
  end)

  it("refuses what is no bound", function()
    for _, value in ipairs { 0, -1, 1.5, "2" } do assert.is_false((pcall(mantichora, { max_queued = value }))) end
    mantichora { max_queued = 2.0 }:close()
  end)
end)
