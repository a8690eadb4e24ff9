-- Items of map and imap that travel in batches: each is a task of its own all the same.

local mantichora = require "mantichora"
local shell = require "spec.support.shell"

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

-- A file to which each item appends a line when it runs.
local function new_journal()
  local path = os.tmpname()
  local journal = { path = path }
  function journal.counts()
    local counts, total = {}, 0
    for line in io.lines(path) do
      counts[line], total = (counts[line] or 0) + 1, total + 1
    end
    return counts, total
  end
  return setmetatable(journal, { __close = function() os.remove(path) end })
end

local function each_once(journal, n)
  local counts, total = journal.counts()
  for i = 1, n do
    if counts[tostring(i)] ~= 1 then return false, i, counts[tostring(i)] end
  end
  return total == n
end

-- Where an item's work is written down. Uses no upvalue that an item could change.
local function noting(path, work)
  return load(([[
    local path, work = %q, ...
    return function(i)
      local file <close> = assert(io.open(path, "a"))
      file:write(i, "\n")
      file:close()
      return work(i)
    end]]):format(path))(work)
end

describe("items in batches", function()
  it("come back in order, all of them", function()
    local mcore <close> = mantichora { nworkers = 3 }
    local n = 100000
    local values = mcore:map(function(x) return x * 2 end, numbers(n))
    assert.are.equal(n, values.n)
    for i = 1, n do
      if values[i] ~= 2 * i then error("item " .. i) end
    end
    local turn = 0
    for i, value in mcore:imap(function(x) return -x end, numbers(n)) do
      turn = turn + 1
      if i ~= turn or value ~= -i then error("item " .. i) end
    end
    assert.are.equal(n, turn)
    local seen = 0
    for i, value in mcore:imap(function(x) return -x end, numbers(n), { ordered = false }) do
      seen = seen + 1
      if value ~= -i then error("item " .. i) end
    end
    assert.are.equal(n, seen)
  end)

  it("carry plain values bit for bit, and all others", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local function same(x) return x end
    local list = {
      0, 63, 64, -1, -128, -129, 32767, 32768, -32769, 2147483647, 2147483648, math.maxinteger,
      math.mininteger, 1.0, -0.0, 0.1, 1 / 0, -1 / 0, 5e-324, true, false, "", "a", ("b"):rep(31),
      ("c"):rep(32), ("d"):rep(100000), "\0\255", { 1, { 2 } }, print, string.format,
    }
    local values = mcore:map(same, list)
    for i, item in ipairs(list) do
      assert.are.equal(math.type(item), math.type(values[i]))
      if type(item) == "table" then
        assert.are.same(item, values[i])
      elseif item == 0 then
        assert.are.equal(1 / item, 1 / values[i])
      else
        assert.are.equal(item, values[i])
      end
    end
    local nan = mcore:map(same, { 0 / 0 })[1]
    assert.is_true(nan ~= nan)
    assert.are.same({ n = 3, nil, 2 }, mcore:map(same, { n = 3, nil, 2, nil }))
  end)

  it("hand over several values, none, and nil", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local got = {}
    local some = load "return table.unpack({ 1, nil, 3 }, 1, (...))"
    local function keep(i, ...)
      if i then got[i] = table.pack(...) end
      return i
    end
    local iterate = mcore:imap(some, { 3, 0, 1, 2 })
    while keep(iterate()) do end
    assert.are.same({ { n = 3, 1, nil, 3 }, { n = 0 }, { n = 1, 1 }, { n = 2, 1 } }, got)
  end)

  it("hand over answers of all kinds in turns", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local kinds = load [[
      local i = ...
      local kind = i % 7
      if kind == 0 then return i, { i } end
      if kind == 1 then return { i } end
      if kind == 2 then return ("x"):rep(i % 600) end
      if kind == 3 then return end
      if kind == 4 then return nil end
      return i]]
    local n, seen = 3000, 0
    local function check(i, ...)
      if i == nil then return false end
      seen = seen + 1
      assert.are.equal(seen, i)
      assert.are.same(table.pack(kinds(i)), table.pack(...))
      return true
    end
    local iterate = mcore:imap(kinds, numbers(n))
    while check(iterate()) do end
    assert.are.equal(n, seen)
    local values = mcore:map(kinds, numbers(n))
    for i = 1, n do assert.are.same((kinds(i)), values[i]) end
  end)

  it("get the function as it was when the first of them was sent", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local added, asked = 10, 0
    local function add(x) return x + added end
    for i, value in mcore:imap(add, function()
      asked, added = asked + 1, added + 1
      return asked <= 5000 and asked or nil
    end) do
      assert.are.equal(i + 11, value)
    end
    assert.are.same({ n = 2, 1 + added, 2 + added }, mcore:map(add, { 1, 2 }))
  end)

  it("fail with what they raised, as other tasks do", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    local f = load "local i = ... if i == 150 then error('no', 2) elseif i == 151 then error() end return i"
    local values = mcore:map(f, numbers(200))
    assert.are.equal("no", values[150].value)
    assert.is_nil(values[151].value)
    assert.are.equal("error", values[151].kind)
    assert.are.equal(152, values[152])
  end)

  it("have run IDs and random streams as if each was run alone", function()
    local draw = load "return math.random(0)"
    local function own_id() return mantichora.runid() end
    local n = 500
    local alone
    do
      local mcore <close> = mantichora { nworkers = 2, seed = 7 }
      for _ = 1, n do mcore:run(draw) end
      alone = mcore:returns()
    end
    local mcore <close> = mantichora { nworkers = 3, seed = 7 }
    assert.are.same(alone, mcore:map(draw, numbers(n)))
    for i, id in mcore:imap(own_id, numbers(n)) do assert.are.equal(n + i - 1, id) end
    assert.are.equal(2 * n, mcore:run(draw))
  end)

  it("get the function as it was, whatever another item does to it", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local count, store = 0, { 0 }
    local function counting()
      count = count + 1
      return count
    end
    local function storing()
      store[1] = store[1] + 1
      return store[1]
    end
    local function making()
      local made = 0
      local function more() made = made + 1 end
      more()
      return made
    end
    for _, f in ipairs { counting, storing, making } do
      for _, value in ipairs(mcore:map(f, numbers(300))) do assert.are.equal(1, value) end
    end
  end)

  it("fail alone", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local picky = load [[
      local i = ...
      if i % 1000 == 0 then error({ item = i }) end
      return i]]
    local ok, failure = pcall(mcore.map, mcore, picky, numbers(5000))
    assert.is_false(ok)
    assert.are.equal("error", failure.kind)
    assert.are.same({ item = 1000 }, failure.value)
    assert.are.equal(999, failure.runid)
    assert.are.equal(5, #failure.failures)
    local count = 0
    for index, value in pairs(failure.results) do
      assert.are.equal(index, value)
      count = count + 1
    end
    assert.are.equal(4995, count)
    local lenient <close> = mantichora { nworkers = 2, on_error = "return" }
    local values = lenient:map(picky, numbers(3000))
    assert.are.equal("error", values[2000].kind)
    assert.are.equal(2001, values[2001])
  end)

  it("whose result cannot be sent fail alone, and say where", function()
    local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
    local values = mcore:map(load [[
      local i = ...
      return i == 50 and coroutine.create(print) or i]], numbers(100))
    assert.are.equal("unsendable", values[50].kind)
    assert.are.equal(51, values[51])
    local ok, message = pcall(mcore.map, mcore, function() end, { 1, { io.tmpfile() } })
    assert.is_false(ok)
    assert.is_truthy(message:find("cannot send argument 1[1]: userdata (FILE*)", 1, true), message)
  end)

  for _, way in ipairs { "os.exit(3)", "require('mantichora').sleep(0) os.execute('kill -9 $PPID')" } do
    it("go on in another worker when one ends theirs: " .. way, function()
      local journal <close> = new_journal()
      local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
      local n = 400
      local values = mcore:map(noting(journal.path, load(([[
        local i = ...
        if i %% 100 == 50 then %s end
        return i]]):format(way))), numbers(n))
      for i = 1, n do
        if i % 100 == 50 then
          assert.are.equal(way:find("exit") and "exited" or "killed", values[i].kind)
        else
          assert.are.equal(i, values[i])
        end
      end
      assert.is_true(each_once(journal, n))
    end)
  end

  it("do not wait behind a long one", function()
    local journal <close> = new_journal()
    local mcore <close> = mantichora { nworkers = 2 }
    local n = 3000
    -- One in the middle waits until all others have run: those behind it in its batch too.
    local work = load(([[
      local path, n = %q, %d
      return function(i)
        if i ~= n // 2 then return i end
        for _ = 1, 3000 do
          local lines = 0
          for _ in io.lines(path) do lines = lines + 1 end
          if lines == n then return i end
          require("mantichora").sleep(0.01)
        end
        error("they did not run")
      end]]):format(journal.path, n))()
    local values = mcore:map(noting(journal.path, work), numbers(n))
    assert.are.equal(n // 2, values[n // 2])
    assert.is_true(each_once(journal, n))
  end)

  it("run too long alone", function()
    local journal <close> = new_journal()
    local mcore <close> = mantichora { nworkers = 2, timeout = 0.5, on_error = "return" }
    local values = mcore:map(noting(journal.path, load [[
      local i = ...
      while i == 70 do end
      return i]]), numbers(200))
    assert.are.equal("timeout", values[70].kind)
    for i = 1, 200 do
      if i ~= 70 then assert.are.equal(i, values[i]) end
    end
    assert.is_true(each_once(journal, 200))
  end)

  it("are cancelled one by one", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    local first = mcore:run(function() end) + 1
    mcore:returns()
    local cancelled, kinds = {}, {}
    for i, value in mcore:imap(function(x) return x end, numbers(500)) do
      kinds[i] = type(value) == "table" and value.kind or "ok"
      if i % 50 == 1 then cancelled[i + 20] = mcore:cancel(first + i + 20 - 1) end
    end
    local queued = 0
    for i = 1, 500 do
      local expected = cancelled[i] and "cancelled" or "ok"
      assert.are.equal(expected, kinds[i])
      queued = queued + (cancelled[i] == "queued" and 1 or 0)
    end
    assert.is_true(#kinds == 500)
    assert.is_nil(mcore:cancel(first + 10))
    assert.are.equal(4, mcore:map(function(x) return 2 * x end, { 2 })[1])
    assert.is_true(queued >= 0)
  end)

  it("are cancelled one by one while they wait", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    local gate = os.tmpname()
    local work = load(([[
      local gate = %q
      return function(i)
        while i == 2 do
          local file = io.open(gate)
          if not file then break end
          file:close()
          require("mantichora").sleep(0.001)
        end
        return i
      end]]):format(gate))()
    local kinds, was = {}, nil
    for i, value in mcore:imap(work, numbers(200)) do
      kinds[i] = type(value) == "table" and value.kind or "ok"
      if i == 1 then
        was = { mcore:cancel(20), mcore:cancel(30), mcore:cancel(1) }
        os.remove(gate)
      end
    end
    os.remove(gate)
    assert.are.equal("queued", was[1])
    assert.are.equal("queued", was[2])
    assert.is_true(was[3] == "running" or was[3] == "queued", was[3])
    assert.are.equal("cancelled", kinds[21])
    assert.are.equal("cancelled", kinds[31])
    assert.are.equal("ok", kinds[22])
    assert.are.equal("cancelled", kinds[2])
    assert.are.equal(200, #kinds)
  end)

  it("are all cancelled by terminate", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local last
    local work = load "local i = ... if i > 1000 then require('mantichora').sleep(60) end return i"
    local ok, failure = pcall(function()
      for i in mcore:imap(work, numbers(100000)) do
        last = i
        if i == 1000 then mcore:terminate() end
      end
    end)
    assert.is_false(ok)
    assert.are.equal("cancelled", failure.kind)
    assert.are.equal(1000, last)
    assert.are.equal("mantichora: 2 workers, 0 running, 0 queued", tostring(mcore))
    assert.are.same({ n = 2, 2, 4 }, mcore:map(function(x) return 2 * x end, { 1, 2 }))
  end)

  it("are dropped by a break", function()
    local mcore <close> = mantichora { nworkers = 2 }
    for _ = 1, 20 do
      for i in mcore:imap(function(x) return x end, numbers(100000)) do
        if i == 100 then break end
      end
    end
    assert.are.same({ n = 2, 2, 4 }, mcore:map(function(x) return 2 * x end, { 1, 2 }))
  end)

  it("print whole lines, before their results", function()
    local folder = shell.folder()
    shell.write(folder .. "/print.lua", [[
      local mantichora = require "mantichora"
      local mcore <close> = mantichora { nworkers = 2 }
      local list = {}
      for i = 1, 2000 do list[i] = i end
      local work = load "local i = ... io.write('item ', i, i % 2 == 0 and '\\n' or '') return i"
      for i in mcore:imap(work, list) do io.write("result ", i, "\n") end]])
    local output = shell.run(shell.interpreter .. " " .. folder .. "/print.lua").out
    shell.remove(folder)
    local items, results, lines = {}, 0, 0
    for line in output:gmatch("[^\n]*\n") do
      local item, result = line:match("^item (%d+)\n$"), line:match("^result (%d+)\n$")
      assert.is_truthy(item or result, line)
      lines = lines + 1
      if item then
        items[tonumber(item)] = true
      else
        results = results + 1
        assert.is_true(items[tonumber(result)], line)
      end
    end
    assert.are.same({ 4000, 2000 }, { lines, results })
  end)

  it("run at most once, whatever happens to their workers", function()
    local folder = shell.folder()
    shell.write(folder .. "/storm.lua", [[
      local mantichora = require "mantichora"
      local path, n = arg[1], 2000
      local work = load(("local i = ... local file <close> = io.open(%q, 'a') file:write(i, '\\n') return i")
        :format(path))
      local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
      local list = {}
      for i = 1, n do list[i] = i end
      local values = mcore:map(work, list)
      local ran, killed = {}, 0
      for line in io.lines(path) do
        assert(not ran[line], "twice: " .. line)
        ran[line] = true
      end
      for i = 1, n do
        if values[i] == i then
          assert(ran[tostring(i)], "never ran: " .. i)
        else
          assert(values[i].kind == "killed", tostring(values[i]))
          killed = killed + 1
        end
      end
      print(n, killed)]])
    local killed = 0
    for seed = 1, 6 do
      local got = shell.run(("env MANTICHORA_CHAOS=%d,0.01 %s %s/storm.lua %s/journal%d"):format(seed,
        shell.interpreter, folder, folder, seed))
      assert.are.same({ "", 0 }, { got.err, got.status })
      killed = killed + tonumber(got.out:match("^2000\t(%d+)\n$"))
    end
    shell.remove(folder)
    assert.is_true(killed > 0)
  end)

  it("are replaced with their workers under max_tasks_per_worker", function()
    local mcore <close> = mantichora { nworkers = 1, max_tasks_per_worker = 5 }
    local pid = load "return tonumber(io.open('/proc/self/stat'):read('n'))"
    local pids, count = {}, 0
    for _, value in ipairs(mcore:map(pid, numbers(20))) do
      if not pids[value] then pids[value], count = true, count + 1 end
    end
    assert.are.equal(4, count)
  end)
end)
