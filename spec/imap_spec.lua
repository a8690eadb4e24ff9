-- The flow of map and imap: what is handed over when, how far imap looks ahead, and whose item failed.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local function same(x) return x end

-- Nothing runs, nor will while nobody takes results.
local function rests(pool)
  for _ = 1, 3 do
    pool:poll(0)
    if not tostring(pool):find(" 0 running", 1, true) then return false end
    mantichora.sleep(0.01)
  end
  return true
end

-- All that the pool has accepted has ended.
local function is_quiet(pool)
  pool:poll(0)
  return tostring(pool):find("0 running, 0 queued", 1, true)
end

for _, engine in ipairs { "fork", "snapshot", "inline" } do
  for _, ordered in ipairs { true, false } do
    describe(("imap with engine %s, ordered=%s"):format(engine, ordered), function()
      local function new(options)
        options = options or {}
        options.engine, options.nworkers = engine, options.nworkers or 2
        return mantichora(options)
      end

      it("hands over what is there before it asks its iterator again", function()
        local pool <close> = new()
        local step, given, seen = 0, 0, {}
        local function slow() -- each step takes until all that was asked for before has ended
          assert(given >= step - 1, ("step %d, and only %d were given"):format(step + 1, given))
          if step > 0 then process.wait(function() return is_quiet(pool) end) end
          step = step + 1
          if step <= 6 then return step * 10 end
        end
        for i, value in pool:imap(same, slow, { ordered = ordered }) do
          given, seen[i] = given + 1, value
        end
        assert.are.same({ 10, 20, 30, 40, 50, 60 }, seen)
      end)

      it("sends what it has got at once while its iterator is slow", function()
        local pool <close> = new()
        for _ in pool:imap(same, { 1, 2, 3, 4, 5, 6, 7, 8 }) do end
        local step, given = 0, 0
        -- Many in a burst, then a pause after each of which all has ended.
        local function bursts()
          step = step + 1
          if step > 60 then return nil end
          if step % 10 == 2 and step > 2 then assert(given >= step - 2, given .. " of " .. step) end
          if step % 10 == 1 and step > 1 then
            process.wait(function() return is_quiet(pool) end)
          end
          return step
        end
        for _ in pool:imap(same, bursts, { ordered = ordered }) do given = given + 1 end
        assert.are.equal(60, given)
      end)

      it("hands over what came before its iterator raised", function()
        local pool <close> = new()
        local thrown, asked, seen = { "thrown" }, 0, {}
        local fine, raised = pcall(function()
          for i, value in pool:imap(same, function()
            asked = asked + 1
            if asked == 6 then error(thrown) end
            return asked
          end, { ordered = ordered }) do seen[i] = value end
        end)
        assert.is_false(fine)
        assert.is_true(rawequal(thrown, raised))
        assert.are.same({ 1, 2, 3, 4, 5 }, seen)
        assert.are.equal(6, asked)
        assert.are.same({ n = 1, 7 }, pool:map(same, { 7 }))
      end)

      it("keeps no Ctrl-C back", function()
        local pool <close> = new()
        local asked, seen = 0, 0
        local fine, raised = pcall(function()
          for _ in pool:imap(mantichora.sleep, function()
            asked = asked + 1
            if asked == 3 then error("interrupted!", 0) end
            return engine == "inline" and 0 or 30
          end, { ordered = ordered }) do seen = seen + 1 end
        end)
        assert.are.same({ false, "interrupted!" }, { fine, raised })
        assert.are.equal(engine == "inline" and 2 or 0, seen)
      end)

      it("hands over what came before an item that cannot be sent", function()
        if engine ~= "fork" then return end -- the others send nothing
        local pool <close> = new()
        for _, source in ipairs { "list", "iterator" } do
          local list, seen = { 1, 2, 3, 4, { deep = { io.stdout, coroutine.create(print) } }, 6 }, {}
          local at = 0
          local fine, message = pcall(function()
            for i, value in pool:imap(same, source == "list" and list or function()
              at = at + 1
              return list[at]
            end, { ordered = ordered }) do seen[i] = value end
          end)
          assert.is_false(fine)
          assert.are.same({ 1, 2, 3, 4 }, seen)
          assert.truthy(message:find("^spec/imap_spec.lua:%d+: cannot send argument 1%.deep%[2%]: coroutine"), message)
          assert.truthy(message:find("item 5", 1, true), message)
        end
      end)

      it("names the item of a failure", function()
        local pool <close> = new { on_error = "return" }
        local list = {}
        for i = 1, 200 do list[i] = { number = i } end
        local function f(item)
          if item.number % 70 == 0 then error("no " .. item.number, 0) end
          return item.number
        end
        for _, source in ipairs { "list", "iterator" } do
          local at, failures = 0, 0
          for i, value in pool:imap(f, source == "list" and list or function()
            at = at + 1
            return list[at], "more"
          end, { ordered = ordered }) do
            if type(value) == "table" then
              failures = failures + 1
              assert.are.equal(i, value.index)
              assert.is_true(rawequal(list[i], value.item))
              assert.truthy(tostring(value):find(("(item %d, function <"):format(i), 1, true), tostring(value))
            else
              assert.are.equal(i, value)
            end
          end
          assert.are.equal(2, failures)
        end
      end)

      it("takes items from an iterator that uses the pool", function()
        local pool <close> = new()
        local at, seen = 0, {}
        pool:run(same, "other")
        for i, value in pool:imap(function(x) return x + 1 end, function()
          at = at + 1
          if at > 20 then return nil end
          local sum = 0
          for _, x in pool:imap(same, { at, at }) do sum = sum + x end
          return sum + pool:map(same, { 1 })[1]
        end, { ordered = ordered }) do seen[i] = value end
        for i = 1, 20 do assert.are.equal(2 * i + 2, seen[i]) end
        assert.are.same({ n = 1, "other" }, pool:returns())
      end)

      it("says so when its iterator asks for its own values", function()
        local pool <close> = new()
        local step
        step = pool:imap(same, function() return step() end, { ordered = ordered })
        local fine, message = pcall(step)
        assert.is_false(fine)
        assert.truthy(message:find("the iterator of an imap cannot ask for the values that it leads to", 1, true))
      end)

      it("looks ahead no further than a worker's four items before results have come", function()
        if engine == "inline" then return end -- does not look ahead
        local pool <close> = new()
        local gate, asked = os.tmpname(), 0
        local function f(path, x)
          while true do
            local file <close> = io.open(path)
            if not file then return x end
            mantichora.sleep(0.002)
          end
        end
        local given = 0
        os.execute(("(sleep 0.3; rm %s) &"):format(gate))
        for _ in pool:imap(f, function()
          asked = asked + 1
          if asked > 8 then assert(not io.open(gate)) end
          if asked <= 40 then return gate, asked end
        end, { ordered = ordered }) do given = given + 1 end
        assert.are.equal(40, given)
      end)
    end)
  end
end

describe("an imap's look-ahead in bytes", function()
  local MiB <const> = 1 << 20

  -- How far the iterator was ahead of the loop at most; and once `workers` results were handed over.
  local function furthest(pool, workers, f, count, make)
    local asked, given, most, later = 0, 0, 0, 0
    for _ in pool:imap(f, function()
      asked = asked + 1
      most = math.max(most, asked - given)
      if given > workers then later = math.max(later, asked - given) end
      if asked <= count then return make(asked) end
    end) do
      given = given + 1
      process.wait(function() return rests(pool) end, 30)
    end
    assert.are.equal(count, given)
    return most, later
  end

  it("is bounded by items", function()
    local pool <close> = mantichora { nworkers = 2 }
    local most = furthest(pool, 2, function(s) return #s end, 24, function(i)
      return tostring(i):rep(8 * MiB // #tostring(i))
    end)
    assert.is_true(most <= 9, most)
    most = furthest(pool, 2, function(t) return #t end, 24, function(i)
      return { tostring(i):rep(8 * MiB // #tostring(i)) }
    end)
    assert.is_true(most <= 9, most)
  end)

  for _, engine in ipairs { "fork", "snapshot" } do
    it("is bounded by results, engine " .. engine, function()
      local pool <close> = mantichora { nworkers = 2, engine = engine }
      local most = furthest(pool, 2, function(x) return tostring(x):rep(8 * MiB // #tostring(x)) end, 24, same)
      assert.is_true(most <= 9, most)
    end)
  end

  it("is one item a worker at least", function()
    local pool <close> = mantichora { nworkers = 3 }
    local most, later = furthest(pool, 3, function() return ("x"):rep(70 * MiB) end, 18, same)
    assert.is_true(most <= 12, most)
    assert.is_true(later > 0 and later <= 4, later)
  end)

  it("holds where results suddenly are large", function()
    local pool <close> = mantichora { nworkers = 2 }
    local begun = os.tmpname()
    local function f(x)
      if x <= 300 then return x end
      local file <close> = io.open(begun, "a")
      file:write("x")
      return tostring(x):rep(8 * MiB // 3)
    end
    local list = {}
    for i = 1, 600 do list[i] = i end
    local given, sum, most = 0, 0, 0
    for i, value in pool:imap(f, list) do
      given = given + 1
      sum = sum + #tostring(value)
      if i % 100 == 0 then -- nobody takes what comes meanwhile
        local before
        repeat
          local file <close> = io.open(begun)
          before = file:seek("end")
          mantichora.sleep(0.3)
        until file:seek("end") == before
        most = math.max(most, before - math.max(0, i - 300))
      end
    end
    os.remove(begun)
    assert.are.equal(600, given)
    assert.is_true(most <= 12, most) -- 64 MiB, the items that ran, and what was being sent
  end)

  it("hands over all in order, and the missing one though enough waits", function()
    local pool <close> = mantichora { nworkers = 3 }
    local gate = os.tmpname()
    local function f(path, x)
      if x == 7 then
        while io.open(path) do mantichora.sleep(0.002) end
      end
      return x, ("x"):rep(x > 5 and 30 * MiB or 1)
    end
    local asked, turn = 0, 0
    for i, x in pool:imap(f, function()
      asked = asked + 1
      if asked == 12 then os.remove(gate) end
      if asked <= 20 then return gate, asked end
    end) do
      turn = turn + 1
      assert.are.same({ turn, turn }, { i, x })
      if i == 6 then os.remove(gate) end
    end
    os.remove(gate)
    assert.are.equal(20, turn)
  end)

  local maps <close> = io.open("/proc/self/maps")
  local is_sanitized = maps and maps:read("a"):find("libasan", 1, true) or os.getenv("ASAN_OPTIONS")
  if is_sanitized then
    print("imap's memory is not measured: the sanitizer keeps what is freed")
  else
    for name, f in pairs { items = "#x", results = "x:rep(8 << 20)" } do
      it("is seen in the memory of the process: " .. name, function()
        local got = shell.run(shell.interpreter .. ([[ -e '
          local mantichora = require "mantichora"
          local pool <close> = mantichora { nworkers = 2 }
          local asked = 0
          for i in pool:imap(function(x) return %s end, function()
            asked = asked + 1
            if asked <= 100 then return %s end
          end) do
            if i %% 4 == 0 then collectgarbage() end
          end
          for line in io.lines("/proc/self/status") do
            local peak = line:match("^VmHWM:%%s*(%%d+)")
            if peak then print(peak // 1024) end
          end']]):format(f, name == "items" and '("y"):rep(8 << 20)' or '"y"'))
        -- 64 MiB wait; a few more are garbage, on their way, or copies in the making. All are 800.
        assert.is_true(tonumber(got.out) < 240, got.out .. got.err)
      end)
    end
  end
end)

describe("a failure of map", function()
  for _, engine in ipairs { "fork", "snapshot", "inline" } do
    it("names its item and keys results by index, engine " .. engine, function()
      local pool <close> = mantichora { nworkers = 2, engine = engine }
      pool:run(same, 0)
      local list = setmetatable({}, { __index = function(_, i) return i <= 300 and "item" .. i or nil end })
      local items = {}
      for i = 1, 300 do items[i] = { i } end
      local fine, failure = pcall(pool.map, pool, function(x)
        if x[1] % 100 == 77 then error("bad", 0) end
        return x[1]
      end, items)
      assert.is_false(fine)
      assert.are.equal(3, #failure.failures)
      for at, one in ipairs(failure.failures) do
        local index = at * 100 - 23
        assert.are.same({ index, index }, { one.index, one.runid })
        assert.is_true(rawequal(items[index], one.item))
        assert.truthy(tostring(one):find(("item %d"):format(index), 1, true))
      end
      for i = 1, 300 do assert.are.equal(i % 100 ~= 77 and i or nil, failure.results[i]) end
      assert.is_nil(failure.results[0])
      -- Of a list whose items are made when they are asked for, the one that was.
      fine, failure = pcall(pool.map, pool, function(x)
        if x == "item4" then error("bad", 0) end
      end, setmetatable({ n = 5 }, getmetatable(list)))
      assert.is_false(fine)
      assert.are.same({ 4, "item4" }, { failure.index, failure.item })
      assert.are.same({ n = 1, 0 }, pool:returns())
    end)
  end

  it("names the item that cannot be sent", function()
    local pool <close> = mantichora { nworkers = 2 }
    for _, count in ipairs { 2, 777 } do
      local list = {}
      for i = 1, count - 1 do list[i] = i end
      list[count] = { conn = { socket = io.tmpfile() } }
      local fine, message = pcall(function() pool:map(same, list) end)
      assert.is_false(fine)
      assert.truthy(message:find("^spec/imap_spec.lua:%d+: cannot send argument 1%.conn%.socket: userdata %(FILE%*%)"),
        message)
      assert.truthy(message:find(("item %d"):format(count), 1, true), message)
    end
    assert.are.same({ n = 1, 5 }, pool:map(same, { 5 }))
  end)
end)

describe("options of map and imap", function()
  for _, method in ipairs { "map", "imap" } do
    local function values(pool, ...)
      local all = {}
      if method == "map" then return pool:map(...) end
      for i, value in pool:imap(...) do all[i] = value end
      return all
    end

    it("name the tasks, " .. method, function()
      local pool <close> = mantichora { nworkers = 2, on_error = "return" }
      local all = values(pool, function(x)
        if x == 2 then error("two", 0) end
        return x
      end, { 1, 2, 3 }, { name = "thing" })
      assert.are.same({ 1, "thing", 3 }, { all[1], all[2].name, all[3] })
      assert.truthy(tostring(all[2]):find('item 2, "thing"', 1, true))
    end)

    it("bound the time of each item, " .. method, function()
      local pool <close> = mantichora { nworkers = 2, on_error = "return" }
      local all = values(pool, function(x) mantichora.sleep(x) return x end, { 0, 60, 0 }, { timeout = 0.2 })
      assert.are.same({ 0, "timeout", 0 }, { all[1], all[2].kind, all[3] })
      assert.are.equal(2, all[2].index)
    end)

    it("retry an item whose worker died, " .. method, function()
      local pool <close> = mantichora { nworkers = 2 }
      local mark = os.tmpname()
      local all = values(pool, function(x)
        if x == 2 and os.remove(mark) then os.exit(3) end
        return x
      end, { 1, 2, 3 }, { retries = 1 })
      os.remove(mark)
      assert.are.same({ 1, 2, 3 }, { all[1], all[2], all[3] })
    end)

    it("are checked, " .. method, function()
      local pool <close> = mantichora { nworkers = 2 }
      local fine, message = pcall(function() values(pool, same, { 1 }, { timout = 1 }) end)
      assert.is_false(fine)
      assert.truthy(message:find("unknown option 'timout' (did you mean 'timeout'?)", 1, true), message)
      fine, message = pcall(function() values(pool, same, { 1 }, { retries = -1 }) end)
      assert.is_false(fine)
      assert.truthy(message:find("option 'retries'", 1, true), message)
    end)
  end

  it("give items a priority", function()
    local pool <close> = mantichora { nworkers = 1 }
    local gate, order = os.tmpname(), os.tmpname()
    local function note(word)
      local file <close> = io.open(order, "a")
      file:write(word, " ")
    end
    pool:run(function() while io.open(gate) do mantichora.sleep(0.002) end end)
    pool:run(note, "low")
    os.execute(("(sleep 0.2; rm %s) &"):format(gate))
    pool:map(note, { "high", "high" }, { priority = 5 })
    pool:returns()
    local file <close> = io.open(order)
    assert.are.equal("high high low ", file:read("a"))
    os.remove(order)
  end)

  it("are not what pairs gives", function()
    local pool <close> = mantichora { nworkers = 2 }
    local proxy = setmetatable({}, { __pairs = function(t) return function() end, t, nil end })
    for _, f in ipairs {
      function() pool:imap(same, pairs { a = 1 }) end, function() pool:imap(same, pairs {}) end,
      function() pool:imap(same, ipairs { 1 }) end, function() pool:imap(same, ipairs {}) end,
      function() pool:imap(same, next, { 1 }) end,
      function() pool:imap(same, string.gmatch("a", "a"), "state", 1) end,
    } do
      local fine, message = pcall(f)
      assert.is_false(fine)
      assert.truthy(message:find("^spec/imap_spec.lua:%d+: imap takes an iterator that is called without arguments"),
        message)
      assert.truthy(message:find("coroutine.wrap", 1, true))
    end
    assert.is_truthy(pool:imap(same, pairs(proxy)))
    local path, lines = os.tmpname(), {}
    shell.write(path, "a\nb\n")
    for i, line in pool:imap(same, io.lines(path)) do lines[i] = line end -- four values, which need nothing
    os.remove(path)
    assert.are.same({ "a", "b" }, lines)
  end)
end)
