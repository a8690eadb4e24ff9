-- What a failure does to the rest of a pool's tasks, or of a map's items: the option `halt`.

local logging = require "mantichora.logging"
local mantichora = require "mantichora"
local new_notes = require "spec.support.notes"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local engines = { "fork", "snapshot", "inline" }

-- Tasks note here that they have begun.
local function new_marks()
  local marks = new_notes()
  local note, read = marks.note, marks.read

  -- To be sent to tasks: notes `id`, and fails if it is one of `bad`.
  function marks.task(bad)
    return function(id)
      note(id)
      for _, one in ipairs(bad) do
        if id == one then error("boom " .. id, 0) end
      end
      return id
    end
  end

  function marks.read()
    local list = {}
    for i, text in ipairs(read()) do list[i] = tonumber(text) end
    table.sort(list)
    return list
  end

  return marks
end

local function range(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

local function kinds_of(list)
  local kinds = {}
  for i, value in ipairs(list) do kinds[i] = type(value) == "table" and value.kind or "ok" end
  return table.concat(kinds, " ")
end

describe("halt", function()
  for _, engine in ipairs(engines) do
    describe("with engine " .. engine, function()
      it("soon starts no further task, and raises the failure that was the cause", function()
        local marks <close> = new_marks()
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon" }
        local task = marks.task { 3 }
        for i = 1, 20 do pool:run(task, i) end
        local fine, failure = pcall(pool.returns, pool)
        assert.is_false(fine)
        assert.are.equal("error", failure.kind)
        assert.are.equal(2, failure.runid)
        assert.are.equal("boom 3", failure.value)
        assert.are.same({ 1, 17 }, { failure.failed, failure.cancelled })
        assert.are.equal(1, #failure.failures)
        assert.are.equal(failure, failure.failures[1])
        assert.are.same({ [0] = 1, 2 }, failure.results)
        assert.are.same({ 1, 2, 3 }, marks.read())
      end)

      it("gives each task its own end to calls that receive one", function()
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon" }
        for i = 1, 4 do pool:run_with({ name = "number " .. i }, function() if i == 2 then error("boom", 0) end end) end
        assert.are.equal(0, pool:receive_one())
        local _, cause = pcall(pool.receive_one, pool)
        assert.are.equal("error", cause.kind)
        for _ = 1, 2 do
          local _, failure = pcall(pool.receive_one, pool)
          assert.are.equal("cancelled", failure.kind)
          assert.are.equal(cause, failure.cause)
          assert.truthy(failure.message:find("because of task 1 (\"number 2\", function <spec/halt_spec.lua:", 1, true),
            failure.message)
          assert.truthy(failure.message:find("error: boom", 1, true), failure.message)
        end
        assert.is_nil(pool:receive_one())
      end)

      it("ends tasks that are run later, until the cause was handed over", function()
        local marks <close> = new_marks()
        local task = marks.task { 1, 5 }
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon" }
        pool:run(task, 1)
        pool:poll(10)
        pool:run(task, 2)
        pool:run_multiple { function() return task(3) end, function() return task(4) end }
        local _, failure = pcall(pool.returns, pool)
        assert.are.same({ 1, 3 }, { failure.failed, failure.cancelled })
        assert.are.same({ 1 }, marks.read())
        pool:run(task, 6)
        assert.are.equal(6, pool:returns()[1])
        pool:run(task, 5)
        pool:run(task, 7)
        assert.are.equal(4, select(2, pcall(pool.returns, pool)).runid - 1)
        assert.are.same({ 1, 5, 6 }, marks.read())
      end)

      it("counts to n, and counts anew", function()
        local pool <close> = mantichora { nworkers = 1, engine = engine, on_error = "return",
          halt = { "soon", fail = 3 } }
        local function task(ok) if not ok then error("no", 0) end end
        for _ = 1, 2 do
          for i = 1, 8 do pool:run(task, i % 2 == 0) end
          assert.are.equal("error ok error ok error cancelled cancelled cancelled",
            kinds_of(pool:returns { packed = true }):gsub("table", "ok"))
        end
      end)

      it("takes a share of what has ended, from 3 failures on", function()
        local pool <close> = mantichora { nworkers = 1, engine = engine, on_error = "return",
          halt = { "soon", fail = 0.5 } }
        local function run(pattern)
          for c in pattern:gmatch(".") do
            pool:run(function() if c == "x" then error("no", 0) end return c end)
          end
          return kinds_of(pool:returns())
        end
        assert.are.equal("error error error cancelled", run "xxx.")
        assert.are.equal("ok ok ok ok error error error ok error error cancelled", run "....xxx.xx.")
      end)

      it("is a map's own, and the pool's is its default", function()
        local marks <close> = new_marks()
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon" }
        local items = range(300)
        local fine, failure = pcall(pool.map, pool, marks.task { 7, 9 }, items)
        assert.is_false(fine)
        assert.are.same({ 7, 7, 1, 293 }, { failure.index, failure.item, failure.failed, failure.cancelled })
        assert.are.same(range(6), failure.results)
        assert.are.same(range(7), marks.read())
        fine, failure = pcall(pool.map, pool, marks.task { 7, 9 }, items, { halt = "never" })
        assert.is_false(fine)
        assert.are.equal(2, #failure.failures)
        assert.is_nil(failure.cancelled)
        fine, failure = pcall(pool.map, pool, marks.task { 7, 9 }, items, { halt = { "soon", fail = 2 } })
        assert.is_false(fine)
        assert.are.same({ 9, 2, 291 }, { failure.index, failure.failed, failure.cancelled })
      end)

      it("leaves other groups alone", function()
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = { "soon", fail = 2 } }
        local function fail() error("no", 0) end
        pool:run(fail)
        assert.is_false((pcall(pool.map, pool, fail, { 1, 2, 3 })))
        pool:run(function() return 1 end)
        local _, failure = pcall(pool.returns, pool)
        assert.are.equal(0, failure.runid)
        assert.are.equal(1, select(2, next(failure.results)))
        assert.is_nil(failure.cancelled)
        pool:run(fail)
        pool:run(fail)
        pool:poll(10)
        local values = pool:map(function(x) return x end, { 1, 2 }, { halt = "soon" })
        assert.are.same({ 1, 2, n = 2 }, values)
        assert.is_false((pcall(pool.returns, pool)))
      end)

      it("has an ordered imap hand over what succeeded, and raise the cause", function()
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon" }
        local got = {}
        local fine, failure = pcall(function()
          for i, value in pool:imap(function(x) if x == 5 then error("boom", 0) end return x * x end, range(100)) do
            got[i] = value
          end
        end)
        assert.is_false(fine)
        assert.are.same({ 1, 4, 9, 16 }, got)
        assert.are.same({ 5, 5, "boom" }, { failure.index, failure.item, failure.value })
      end)

      it("goes on in an imap that returns failures, after the cause", function()
        local pool <close> = mantichora { nworkers = 1, engine = engine, halt = "soon", on_error = "return" }
        local kinds = {}
        local given = 0
        local function items()
          given = given + 1
          return given <= 60 and given or nil
        end
        for i, value in pool:imap(function(x) if x == 5 then error("boom", 0) end return x end, items) do
          kinds[i] = type(value) == "table" and value.kind or "ok"
          if kinds[i] == "cancelled" then assert.are.equal(5, value.cause.index) end
        end
        assert.are.equal(60, #kinds)
        assert.are.equal("error", kinds[5])
        assert.are.equal("ok", kinds[60])
      end)
    end)
  end

  it("now stops what runs, soon lets it finish", function()
    for _, case in ipairs { { "now", "cancelled" }, { "soon", "ok" } } do
      local folder = shell.folder()
      local pool <close> = mantichora { nworkers = 2, halt = case[1], on_error = "return" }
      pool:run(function()
        shell.write(folder .. "/runs", "")
        process.wait(function() return io.open(folder .. "/go") ~= nil end, 10)
        return "done"
      end)
      pool:run(function()
        process.wait(function() return io.open(folder .. "/runs") ~= nil end, 10)
        error("boom", 0)
      end)
      pool:run(function() end)
      local kinds = {}
      local function receive()
        local runid, value = pool:receive_one()
        kinds[runid] = type(value) == "table" and value.kind or "ok"
      end
      receive() -- the failure
      if case[1] == "soon" then shell.write(folder .. "/go", "") end
      receive()
      receive()
      assert.are.same({ [0] = case[2], "error", "cancelled" }, kinds)
      shell.remove(folder)
    end
  end)

  it("stops the running item of a batch", function()
    local folder = shell.folder()
    local pool <close> = mantichora { nworkers = 2, halt = "now", on_error = "return" }
    local values = pool:map(function(i)
      if i == 1 then
        shell.write(folder .. "/runs", "")
        mantichora.sleep(60)
      elseif i == 2 then
        process.wait(function() return io.open(folder .. "/runs") ~= nil end, 10)
        error("boom", 0)
      end
      return i
    end, range(50))
    assert.are.same({ "cancelled", "error" }, { values[1].kind, values[2].kind })
    assert.are.equal(values[2], values[1].cause)
    assert.are.equal(50, values.n)
    shell.remove(folder)
  end)

  it("lists at most 1,000 failures, and counts all", function()
    local pool <close> = mantichora { nworkers = 2, halt = { "soon", fail = 1500 } }
    for _ = 1, 2000 do pool:run(function() error("no", 0) end) end
    local _, failure = pcall(pool.returns, pool)
    assert.are.equal(1000, #failure.failures)
    assert.is_true(failure.failed >= 1500 and failure.failed <= 1501, failure.failed)
    assert.are.equal(2000, failure.failed + failure.cancelled)
    for _, one in ipairs(failure.failures) do assert.are.equal("error", one.kind) end
  end)

  it("is over when the failure was logged or raised at the end of a scope", function()
    local function fail() error("boom", 0) end
    local fine, failure = pcall(function()
      local pool <close> = mantichora { nworkers = 1, halt = "soon" }
      for _ = 1, 4 do pool:run(fail) end
    end)
    assert.is_false(fine)
    assert.are.same({ 0, 1, 3 }, { failure.runid, failure.failed, failure.cancelled })
    local lines = {}
    local handler = logging.add_handler(function(record) lines[#lines + 1] = record.message end)
    local pool = mantichora { nworkers = 1, halt = "soon" }
    for _ = 1, 4 do pool:run(fail) end
    pool:close()
    logging.remove_handler(handler)
    assert.are.equal(1, #lines)
    assert.truthy(lines[1]:find("1 task failed and nobody received its failure: task 0", 1, true), lines[1])
  end)

  it("raises the cause again for those that it has cancelled", function()
    local pool <close> = mantichora { nworkers = 1, halt = "soon" }
    for i = 1, 3 do pool:run(function() if i == 1 then error("boom", 0) end end) end
    local _, cause = pcall(pool.receive_one, pool)
    local _, failure = pcall(pool.returns, pool)
    assert.are.same({ cause.runid, 0, 2 }, { failure.runid, failure.failed, failure.cancelled })
  end)

  it("does not mind what was cancelled by hand", function()
    local pool <close> = mantichora { nworkers = 1, halt = "soon", on_error = "return" }
    pool:run(function() return 1 end)
    local second = pool:run(function() return 2 end)
    pool:run(function() return 3 end)
    pool:cancel(second)
    local values = pool:returns()
    assert.are.same({ 1, 3 }, { values[1], values[3] })
  end)

  it("refuses what it does not know", function()
    for _, case in ipairs {
      { "later", [["later" is given]] }, { {}, "halt must be" }, { { fail = 2 }, "halt must be" },
      { { "soon", fail = 0 }, "'halt.fail'" }, { { "soon", fail = 1.5 }, "'halt.fail'" }, { true, "halt must be" },
      { { "soon", fail = "2" }, "'halt.fail'" }, { { "soon", n = 2 }, "no 'n'" }, { { "never" }, "halt must be" },
    } do
      local fine, problem = pcall(mantichora, { halt = case[1] })
      assert.is_false(fine)
      assert.truthy(problem:find(case[2], 1, true), problem)
    end
    local pool <close> = mantichora { halt = { "now", fail = 2.0 } }
    assert.is_false((pcall(pool.map, pool, print, {}, { halt = "x" })))
  end)

  -- Whatever happens to workers: each task ends in one way, and what has not begun when the failure is known never
  -- does.
  for seed = 1, 6 do
    for _, engine in ipairs { "fork", "snapshot" } do
      it(("keeps its promises under chaos: %d, engine %s"):format(seed, engine), function()
        local got = shell.run(("MANTICHORA_PROGRESS=off MANTICHORA_CHAOS=%d,0.02 %s spec/support/halting.lua %s")
          :format(seed, shell.interpreter, engine), { timeout = 60 })
        assert.are.equal("fine\n", got.out, got.err)
        assert.are.equal(0, got.status, got.err)
      end)
    end
  end
end)
