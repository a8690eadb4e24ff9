-- Large values: strings that go out from where they stand and are read to their place. They arrive as
-- they were, whatever happens meanwhile, and take no more memory than they must.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local MIB = 1 << 20
local sanitized = shell.interpreter:find("asan", 1, true) or shell.interpreter:find("tsan", 1, true)

-- Bytes that differ everywhere, so that nothing can be in a wrong place unnoticed.
local function bytes(n, seed)
  local pieces, piece = {}, {}
  for i = 1, 256 do piece[i] = string.pack("<I4", (i * 2654435761 + seed * 40503) & 0xffffffff) end
  piece = table.concat(piece)
  for i = 1, n // (#piece + 8) + 1 do pieces[i] = string.pack("<I8", i * seed) .. piece end
  return table.concat(pieces):sub(1, n)
end

-- A number that tells such strings apart, cheaper than a look at each byte.
local function sum(s)
  local h = #s
  for i = 1, #s, 997 do h = h * 31 + s:byte(i) & 0xffffffffffff end
  return h
end

local function echo(...) return ... end

local function kill(signal, pid) os.execute(("kill -%s %d"):format(signal, pid)) end

for _, engine in ipairs { "fork", "snapshot", "inline" } do
  describe("large values, engine " .. engine .. ",", function()
    it("strings of all sizes, both ways", function()
      local mcore <close> = mantichora { nworkers = 2, engine = engine }
      local sizes = { 0, 1, 31, 32, 65535, 65536, 65537, 262144, MIB - 100, MIB - 40, MIB - 1, MIB, MIB + 1,
        2 * MIB - 8, 5 * MIB + 3, (sanitized and 20 or 100) * MIB }
      for size = MIB - 64, MIB + 8, 3 do sizes[#sizes + 1] = size end
      local strings = {}
      for i, size in ipairs(sizes) do
        strings[i] = bytes(size, i)
        mcore:run(echo, strings[i])
      end
      for i, value in ipairs(mcore:returns()) do
        assert.are.equal(#strings[i], #value)
        assert.is_true(strings[i] == value, sizes[i])
      end
    end)

    it("in all places of a graph, and one string once", function()
      local mcore <close> = mantichora { nworkers = 1, engine = engine }
      local a, b, c = bytes(70000, 1), bytes(MIB, 2), bytes(3 * MIB, 3)
      local deep = { a, { b, x = c }, [b] = c, y = { { name = a, data = b }, { name = "", data = a } } }
      local function task(t, ...)
        local up = c
        assert(t[1] == a and t.y[1].data == b and #up == 3 * 1048576)
        local same = ("%p"):format(t[1]) == ("%p"):format(t.y[2].data) and ("%p"):format(b) == ("%p"):format(t[2][1])
        return t, same, up, ...
      end
      mcore:run(task, deep, nil, b, nil)
      local got = mcore:returns { packed = true }[1]
      assert.are.equal(6, got.n)
      assert.is_true(got[2])
      assert.is_true(got[3] == c and got[5] == b and got[4] == nil and got[6] == nil)
      local t = got[1]
      assert.is_true(t[1] == a and t[2][1] == b and t[2].x == c and t[b] == c)
      assert.is_true(t.y[1].name == a and t.y[1].data == b and t.y[2].data == a)
      assert.are.equal(("%p"):format(t[2].x), ("%p"):format(t[b]))
    end)
  end)
end

describe("large strings", function()
  it("among the items and results of a map", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local up, list = bytes(MIB, 99), {}
    for i = 1, 300 do list[i] = i % 20 == 0 and bytes(i * 10000, i) or i end
    local function check(values)
      assert.are.equal(300, values.n)
      for i, value in ipairs(values) do assert.is_true(value == (i % 20 == 0 and #list[i] or bytes(i * 10000, i))) end
    end
    local function make(i)
      if type(i) == "string" then return #i end
      return bytes(i * 10000, i)
    end
    check(mcore:map(make, list))
    local got, n = {}, 0
    for i, value in mcore:imap(make, list) do got[i], n = value, n + 1 end
    got.n = n
    check(got)
    local sums = mcore:map(function(i) return #up + i end, { 1, 2, 3 })
    assert.are.same({ MIB + 1, MIB + 2, MIB + 3, n = 3 }, sums)
  end)

  it("in an error value", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    local large = bytes(2 * MIB, 5)
    mcore:run(function() error({ large = large }) end)
    local failure = mcore:returns()[1]
    assert.are.equal("error", failure.kind)
    assert.is_true(failure.value.large == large)
  end)

  it("that only a hook has made", function()
    local mcore <close> = mantichora { nworkers = 1 }
    local value = setmetatable({}, { __mantichora = function()
      return function(s) return { s = s } end, bytes(MIB, 7)
    end })
    mcore:run(function(v) return v.s, v end, value)
    collectgarbage()
    local got = mcore:returns()[1]
    assert.is_true(got == bytes(MIB, 7))
  end)

  it("in a global that cannot be sent beside others that can", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:start()
    rawset(_G, "large_one", { bytes(MIB, 8), coroutine.create(print) })
    rawset(_G, "large_two", bytes(MIB, 9))
    mcore:run(function() return large_one, large_two end) -- luacheck: ignore
    local got = mcore:returns { packed = true }[1]
    rawset(_G, "large_one", nil)
    rawset(_G, "large_two", nil)
    assert.is_nil(got[1])
    assert.is_true(got[2] == bytes(MIB, 9))
  end)

  it("stay while their tasks wait, and no longer", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local count, sums = 40, {}
    mcore:start()
    collectgarbage()
    local before = collectgarbage("count")
    for i = 1, count do
      local s = bytes(MIB, i)
      sums[i] = sum(s)
      mcore:run(sum, s)
      s = nil -- luacheck: ignore
      collectgarbage("step")
    end
    collectgarbage()
    assert.are.same(sums, { table.unpack(mcore:returns(), 1, count) })
    mcore:poll()
    collectgarbage()
    assert.truthy(collectgarbage("count") - before < 4096)
  end)

  it("are sent by the helper thread while the host is busy", function()
    local mcore <close> = mantichora { nworkers = 1, background = true }
    local path = os.tmpname()
    mcore:run(function(s)
      local file <close> = io.open(path, "w")
      file:write(#s)
      return s
    end, bytes(20 * MIB, 3))
    -- No call into the pool, but garbage is made and collected.
    process.wait(function()
      for i = 1, 20 do bytes(20000, i) end
      collectgarbage()
      local file <close> = io.open(path)
      return file:read("n") == 20 * MIB
    end)
    os.remove(path)
    assert.is_true(mcore:returns()[1] == bytes(20 * MIB, 3))
  end)

  it("of a task that is cancelled half way do not disturb what follows", function()
    -- gc: over the heap of this spec a worker is replaced when it holds much garbage.
    local mcore <close> = mantichora { nworkers = 1, background = false, on_error = "return", gc = "keep" }
    mcore:start()
    local pid = mcore:workers()[1].pid
    kill("STOP", pid)
    local id = mcore:run(sum, bytes(20 * MIB, 1))
    mcore:poll(0)
    assert.are.equal("queued", mcore:cancel(id))
    collectgarbage()
    kill("CONT", pid)
    local s = bytes(5 * MIB, 2)
    for _ = 1, 3 do mcore:run(echo, s) end
    local results = mcore:returns()
    assert.are.equal("cancelled", results[1].kind)
    for i = 2, 4 do assert.is_true(results[i] == s) end
    assert.are.equal(pid, mcore:workers()[1].pid)
  end)

  it("go to another worker when the first dies half way", function()
    local mcore <close> = mantichora { nworkers = 1, background = false }
    mcore:run(echo, 1)
    mcore:returns()
    local pid = mcore:workers()[1].pid
    kill("STOP", pid)
    local s = bytes(20 * MIB, 1)
    mcore:run(echo, s)
    mcore:poll(0)
    kill("KILL", pid)
    assert.is_true(mcore:returns()[1] == s)
    assert.are_not.equal(pid, mcore:workers()[1].pid)
  end)

  it("are sent again with a task that is tried again", function()
    local mcore <close> = mantichora { nworkers = 1 }
    local path, s = os.tmpname(), bytes(10 * MIB, 4)
    local function task(large)
      local file <close> = assert(io.open(path, "a"))
      file:write("x")
      file:close()
      for line in io.lines(path) do
        if #line < 3 then os.execute("kill -9 " .. io.open("/proc/self/stat"):read("n")) end
      end
      return large
    end
    mcore:run_with({ retries = 5 }, task, s)
    s = nil -- luacheck: ignore
    collectgarbage()
    local got = mcore:returns()[1]
    os.remove(path)
    assert.is_true(got == bytes(10 * MIB, 4))
  end)

  it("of a worker that dies while it answers fail that task alone", function()
    local mcore <close> = mantichora { nworkers = 1, background = false, on_error = "return" }
    local path = os.tmpname()
    os.remove(path)
    local function task(n)
      local s = ("x"):rep(n)
      io.open(path, "w"):close()
      return s
    end
    mcore:run(task, 20 * MIB)
    local pid = mcore:workers()[1].pid
    mcore:poll(0)
    process.wait(function() return io.open(path) end)
    os.remove(path)
    -- Nobody reads: it cannot have got further than the ring is long.
    os.execute("sleep 0.1")
    mcore:run(echo, 2)
    kill("KILL", pid)
    local results = mcore:returns()
    assert.are.equal("killed", results[1].kind)
    assert.are.equal(2, results[2])
  end)

  it("for which a worker has no memory fail that task alone", function()
    if sanitized then return pending("sanitizers want all memory there is") end
    local mcore <close> = mantichora { nworkers = 1, on_error = "return", limits = { memory = 64 * MIB } }
    mcore:run(echo, 1)
    mcore:returns()
    local pid = mcore:workers()[1].pid
    local unit = ("x"):rep(MIB)
    mcore:run(sum, unit:rep(300)) -- not even its bytes fit
    mcore:run(sum, unit:rep(100)) -- these do, the string is above the limit
    mcore:run(function() return unit:rep(100) end)
    mcore:run(sum, unit:rep(20))
    local results = mcore:returns()
    for i = 1, 3 do
      assert.are.equal("error", results[i].kind)
      assert.truthy(results[i].message:find("not enough memory", 1, true), results[i].message)
    end
    assert.are.equal(sum(unit:rep(20)), results[4])
    assert.are.equal(pid, mcore:workers()[1].pid)
  end)

  it("arrive under chaos", function()
    local got = shell.run(("MANTICHORA_CHAOS=%d,0.02 MANTICHORA_PROGRESS=off %s -e %s"):format(11, shell.interpreter,
      shell.quote [[
        local mcore <close> = require "mantichora" { nworkers = 3 }
        local strings = {}
        for i = 1, 30 do
          strings[i] = ("%07d,"):format(i):rep(10000 + i * 8000)
          mcore:run_with({ retries = 1000 }, function(s, n) return { s, n, s .. "" } end, strings[i], i)
        end
        for i, value in ipairs(mcore:returns()) do
          assert(value[1] == strings[i] and value[2] == i and value[3] == strings[i])
        end
        print "fine"]]), { timeout = 120 })
    assert.are.equal("fine\n", got.out, got.err)
  end)
end)

describe("large tables of numbers", function()
  local MANY = 200000

  -- What a task returns in the specs below, and whether that came. Without upvalues.
  local function build(n, seed)
    local list = {}
    for i = 1, n do list[i] = i * 0.1 + seed end
    return list
  end

  local function is_built(list, n, seed)
    for i = 1, n do
      if list[i] ~= i * 0.1 + seed then return false end
    end
    return #list == n
  end

  for _, options in ipairs {
    { engine = "fork" }, { engine = "fork", background = false }, { engine = "snapshot" }, { engine = "inline" },
  } do
    it("arrive, engine " .. options.engine .. (options.background == false and " alone" or ""), function()
      local mcore <close> = mantichora { nworkers = 2, engine = options.engine, background = options.background }
      for seed = 1, 6 do mcore:run(build, seed % 2 == 0 and MANY or 3 * MANY, seed) end
      for seed, list in ipairs(mcore:returns()) do
        assert.is_true(is_built(list, seed % 2 == 0 and MANY or 3 * MANY, seed))
      end
      mcore:run(function(n)
        local a, b = build(n, 1), {}
        for i = 1, n do b[i] = i end
        a.b, a.self = b, a
        return a, "between", { b, nil, a }, nil
      end, MANY)
      local got = mcore:returns { packed = true }[1]
      assert.are.equal(4, got.n)
      assert.are.equal("between", got[2])
      assert.is_true(is_built(got[1], MANY, 1))
      assert.are.equal(got[1], got[1].self)
      assert.are.equal(got[1], got[3][3])
      assert.are.equal(got[1].b, got[3][1])
      assert.are.equal(MANY, got[1].b[MANY])
    end)
  end

  it("among the results of map and imap, and of an imap that is left", function()
    local mcore <close> = mantichora { nworkers = 2 }
    for seed, list in ipairs(mcore:map(function(seed) return build(MANY, seed) end, { 1, 2, 3 })) do
      assert.is_true(is_built(list, MANY, seed))
    end
    local function large(seed) return build(seed == 3 and MANY or 10, seed), seed end
    for i, list in mcore:imap(large, { 1, 2, 3, 4, 5, 6 }) do
      assert.is_true(is_built(list, i == 3 and MANY or 10, i))
    end
    for _ in mcore:imap(function(seed) return build(MANY, seed) end, { 1, 2, 3, 4, 5, 6 }) do break end
    mcore:run(build, MANY, 7)
    assert.is_true(is_built(mcore:returns()[1], MANY, 7))
  end)

  it("leave nothing behind where the rest cannot be sent, or the task is stopped", function()
    local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
    local function slow(n) -- a hook that is called when the numbers have gone
      return build(n, 1), setmetatable({}, { __mantichora = function()
        while true do mantichora.sleep(1) end
      end })
    end
    mcore:run(function() end)
    mcore:returns()
    collectgarbage()
    collectgarbage()
    local before = collectgarbage("count")
    mcore:run(function(n) return build(n, 1), coroutine.create(print) end, MANY)
    mcore:run(function(n) error(build(n, 1)) end, MANY)
    mcore:run(function(n)
      return build(n, 1), setmetatable({}, { __mantichora = function() os.exit(3) end })
    end, MANY)
    mcore:run_with({ timeout = 0.3 }, slow, MANY)
    local results = mcore:returns()
    assert.are.equal("unsendable", results[1].kind)
    assert.are.equal("error", results[2].kind)
    assert.is_true(is_built(results[2].value, MANY, 1))
    assert.are.equal("exited", results[3].kind)
    assert.are.equal("timeout", results[4].kind)
    local id = mcore:run(slow, MANY)
    process.wait(function() return mcore:poll(0.01) == 0 and collectgarbage("count") - before > MANY * 16 / 1024 end)
    mcore:cancel(id)
    assert.are.equal("cancelled", mcore:returns()[1].kind)
    results, id = nil, nil -- luacheck: ignore
    mcore:poll(0)
    collectgarbage()
    collectgarbage()
    assert.truthy(collectgarbage("count") - before < 1024, collectgarbage("count") - before)
  end)

  it("are those of the attempt that came to its end", function()
    local mcore <close> = mantichora { nworkers = 1 }
    local path = os.tmpname()
    mcore:run_with({ retries = 5 }, function(n)
      local file <close> = assert(io.open(path, "a"))
      file:write("x")
      file:close()
      local attempt = #io.open(path):read("a")
      return build(n, attempt), setmetatable({}, { __mantichora = function()
        if attempt < 3 then os.execute("kill -9 " .. io.open("/proc/self/stat"):read("n")) end
        return math.abs, -attempt
      end })
    end, MANY)
    local got = mcore:returns { packed = true }[1]
    os.remove(path)
    assert.are.equal(3, got[2])
    assert.is_true(is_built(got[1], MANY, 3))
  end)

  it("are taken by the helper thread while the host is busy", function()
    local mcore <close> = mantichora { nworkers = 1 }
    local path = os.tmpname()
    os.remove(path)
    mcore:run(build, 5 * MANY, 1)
    mcore:run(function() io.open(path, "w"):close() end)
    -- No call into the pool; the second task begins when the first has been sent.
    process.wait(function()
      local file <close> = io.open(path)
      return file ~= nil
    end)
    os.remove(path)
    assert.is_true(is_built(mcore:returns()[1], 5 * MANY, 1))
  end)

  it("may be received by finalizers that run in between, or not at all", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local usual <close> = setmetatable({}, { __close = function() collectgarbage("incremental", 200, 100, 13) end })
    local received, over = 0, not usual
    local function small_tables(n)
      local list = {}
      for i = 1, n do list[i] = { i } end
      return list
    end
    local function check(list)
      received = received + 1
      if type(list[1]) == "number" then return assert.is_true(is_built(list, 70000, math.floor(list[1]))) end
      for i = 1, 300 do assert(list[i][1] == i) end
    end
    local failure
    local function finalizer()
      setmetatable({}, { __gc = function()
        local fine, message = pcall(function()
          local id, list = mcore:receive_one(1)
          if id then check(list) end
        end)
        failure = failure or not fine and message
        if not over then finalizer() end
      end })
    end
    finalizer()
    for _ = 1, 20 do
      for seed = 1, 3 do
        mcore:run(build, 70000, seed)
        mcore:run(small_tables, 300)
      end
      collectgarbage("incremental", 10, 1000, 10) -- nearly whenever something is allocated
      for _, list in mcore:as_completed() do check(list) end
      collectgarbage("incremental", 200, 100, 13)
    end
    over = true
    assert.is_falsy(failure, failure)
    assert.are.equal(120, received)
    local other = mantichora { nworkers = 1 }
    other:run(build, MANY, 1)
    setmetatable({}, { __gc = function() other:terminate() other:close() end })
    local fine, message = pcall(function()
      while true do other:receive_one() collectgarbage() end
    end)
    assert.is_false(fine)
    assert.truthy(message:find("pool is closed", 1, true), message)
  end)

  it("for which the parent has no memory fail that task alone", function()
    if sanitized then return pending("sanitizers want all memory there is") end
    local got = shell.run(("MANTICHORA_PROGRESS=off %s -e %s"):format(shell.interpreter, shell.quote [[
      local mcore <close> = require "mantichora" { nworkers = 1, on_error = "return" }
      mcore:start()
      local size = tonumber(io.open("/proc/self/status"):read("a"):match("VmSize:%s*(%d+)"))
      assert(os.execute(("prlimit --as=%d --pid $PPID"):format((size << 10) + (48 << 20))))
      for _, n in ipairs { 5000000, 100000 } do
        mcore:run(function()
          local list = {}
          for i = 1, n do list[i] = i + 0.5 end
          return list
        end)
      end
      local results = mcore:returns()
      print(results[1].kind, results[1].message:find("not enough memory", 1, true) ~= nil, #results[2])]]))
    assert.are.equal("error\ttrue\t100000\n", got.out, got.err)
  end)

  it("arrive under chaos", function()
    local got = shell.run(("MANTICHORA_CHAOS=%d,0.02 MANTICHORA_PROGRESS=off %s -e %s"):format(12, shell.interpreter,
      shell.quote [[
        local mcore <close> = require "mantichora" { nworkers = 3 }
        for i = 1, 30 do
          mcore:run_with({ retries = 1000 }, function(n)
            local list = {}
            for k = 1, 70000 + n * 1000 do list[k] = k + n / 64 end
            return list
          end, i)
        end
        for i, list in ipairs(mcore:returns()) do
          for k = 1, 70000 + i * 1000 do assert(list[k] == k + i / 64) end
          assert(#list == 70000 + i * 1000)
        end
        print "fine"]]), { timeout = 120 })
    assert.are.equal("fine\n", got.out, got.err)
  end)
end)

describe("the memory that a large string takes", function()
  -- The largest size of both processes above what they had, in multiples of the string.
  local function peaks(script)
    local got = shell.run(("MANTICHORA_PROGRESS=off %s -e %s"):format(shell.interpreter, shell.quote([[
      local N = 64 << 20
      local mcore <close> = require "mantichora" { nworkers = 1 }
      local function build(n) return (("x"):rep(1024)):rep(n // 1024) end
      local function peak(pid)
        for line in io.lines("/proc/" .. pid .. "/status") do
          local size = line:match("^VmHWM:%s*(%d+)")
          if size then return size * 1024 end
        end
      end
      mcore:run(print)
      mcore:returns()
      local pid = mcore:workers()[1].pid
      local before, before_worker = peak("self"), peak(pid)
      ]] .. script .. [[
      print((peak("self") - before) / N, (peak(pid) - before_worker) / N)
      ]])))
    local parent, worker = got.out:match("([%d.e+-]+)\t([%d.e+-]+)\n")
    assert.truthy(parent, got.err)
    return tonumber(parent), tonumber(worker)
  end

  it("is at most twice its size on each side, as a result", function()
    if sanitized then return pending("sanitizers have memory of their own") end
    local parent, worker = peaks "mcore:run(build, N) assert(#mcore:returns()[1] == N)"
    assert.truthy(parent < 2.2, parent)
    assert.truthy(worker < 2.2, worker) -- string.rep has two of them for a moment
  end)

  it("is nothing more in the sender, and twice its size in the receiver, as an argument", function()
    if sanitized then return pending("sanitizers have memory of their own") end
    local parent, worker = peaks "local s = build(N) mcore:run(string.len, s) assert(mcore:returns()[1] == N)"
    assert.truthy(parent < 2.2, parent)
    assert.truthy(worker < 2.2, worker)
  end)

  it("is once its size while the task runs, and not more when it comes back", function()
    if sanitized then return pending("sanitizers have memory of their own") end
    local parent, worker = peaks [[
      mcore:run(function(n)
        large = build(n)
        return 1
      end, N)
      assert(mcore:returns()[1] == 1)
      mcore:run(function() return large, large, { large } end)
      local got = mcore:returns { packed = true }[1]
      assert(#got[1] == N and got[3][1] == got[2])
    ]]
    assert.truthy(parent < 2.2, parent)
    assert.truthy(worker < 2.2, worker)
  end)
end)
