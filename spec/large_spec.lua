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
    local mcore <close> = mantichora { nworkers = 1, background = false, on_error = "return" }
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
