-- Many machines, each played by a supervisor of this tree over a command's stdin and stdout.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local here = os.getenv("PWD")
local program = os.getenv("MANTICHORA_HOST") or here .. "/build/bin/mantichora"
local local_command = { program, "worker", "--stdio" }

local function machine(name, slots, command)
  return { command = command or local_command, slots = slots, name = name }
end

local function pool(options)
  options.hosts = options.hosts or { machine("b", options.slots or 2) }
  options.slots = nil
  return mantichora(options)
end

-- The supervisor of a machine, which is the parent of its workers.
local function supervisor(mcore, name)
  for _, worker in ipairs(mcore:workers()) do
    if not name or worker.host == name then
      local file <close> = io.open("/proc/" .. worker.pid .. "/stat")
      return tonumber(file:read("a"):match("%) %a (%d+)"))
    end
  end
end

-- A script in a folder of its own.
local function script_of(text)
  local path = shell.folder() .. "/script.lua"
  shell.write(path, text)
  return path
end

local function kill(signal, pid) os.execute(("kill -%s %d"):format(signal, pid)) end

describe("hosts", function()
  it("run tasks on a machine behind a command, and name it", function()
    local mcore <close> = pool { on_error = "return" }
    local k = 40
    mcore:run(function(a) return a + k, mantichora.is_worker(), nil end, 2)
    assert.are.same({ { n = 3, 42, true }, n = 1 }, mcore:returns { packed = true })
    local workers = mcore:workers()
    assert.are.equal(2, #workers)
    assert.are.equal("b", workers[1].host)
    mcore:run(error, "oops")
    local failure = mcore:returns()[1]
    assert.are.equal("error", failure.kind)
    assert.are.equal("b", failure.host)
    assert.truthy(tostring(failure):find("in worker %d+ on b, after"))
  end)

  it("answer many items at once, each with its own value", function()
    local mcore <close> = pool {}
    local list, wrong = {}, 0
    for i = 1, 200000 do list[i] = i << 40 end
    for _ = 1, 3 do
      local results = mcore:map(function(x) return x + 1 end, list)
      for i = 1, #list do
        if results[i] ~= list[i] + 1 then wrong = wrong + 1 end
      end
    end
    assert.are.equal(0, wrong)
  end)

  it("end tasks in all ways", function()
    local mcore <close> = pool { on_error = "return" }
    mcore:run(function() return 1 end)
    mcore:run(error, { code = 7 })
    mcore:run(function() return coroutine.create(print) end)
    mcore:run(os.exit, 3)
    mcore:run(function() os.execute("kill -9 $PPID") end)
    mcore:run_with({ timeout = 0.2 }, function() while true do end end)
    local runid = mcore:run(function() mantichora.sleep(30) end)
    mcore:cancel(runid)
    local kinds = {}
    for i, result in ipairs(mcore:returns()) do
      kinds[i] = mantichora.is_failure(result) and result.kind or "ok"
    end
    assert.are.same({ "ok", "error", "unsendable", "exited", "killed", "timeout", "cancelled" }, kinds)
  end)

  it("send numbers, results and batches as one machine does", function()
    local numbers = {}
    for _, hosts in ipairs { false, { machine("b", 2) } } do
      local mcore <close> = mantichora { nworkers = 2, seed = 11, hosts = hosts or nil }
      for i = 1, 5 do mcore:run(function() return i, math.random(1000) end) end
      local list = {}
      for i, packed in ipairs(mcore:returns { packed = true }) do list[i] = packed[2] end
      local items = {}
      for i = 1, 500 do items[i] = i end
      for i, value in ipairs(mcore:map(function(x) return x * 1000 + math.random(0, 999) end, items)) do
        assert.are.equal(i, value // 1000)
        list[#list + 1] = value
      end
      numbers[#numbers + 1] = list
    end
    assert.are.same(numbers[1], numbers[2])
  end)

  it("share the tasks of a pool", function()
    local mcore <close> = mantichora { hosts = { machine("a", 1), machine("b", 1) } }
    local seen = {}
    mcore:on(function(event) if event.event == "ended" then seen[event.host] = (seen[event.host] or 0) + 1 end end)
    local rounds = 0
    process.wait(function() -- one may be there long before the other
      for _ = 1, 8 do mcore:run(mantichora.sleep, 0.05) end
      mcore:returns()
      rounds = rounds + 1
      return (seen.a or 0) >= 2 and (seen.b or 0) >= 2
    end)
    assert.are.equal(8 * rounds, seen.a + seen.b)
  end)

  it("share what is left of a batch that takes long", function()
    local path = shell.folder() .. "/slow"
    local late = { "sh", "-c", ("until [ -e %s ]; do sleep 0.01; done; exec %s worker --stdio"):format(path, program) }
    local mcore <close> = mantichora { hosts = { machine("a", 1), machine("b", 1, late) } }
    local work = assert(load(([[
      local i = ...
      if i <= 2000 then return i end
      io.open(%q, "w"):close() -- from here on there is another machine
      require("mantichora").sleep(0.02)
      local file <close> = io.open("/proc/self/stat")
      return file:read("a"):match("%%) %%a (%%d+)")]]):format(path)))
    local list, counts = {}, {}
    for i = 1, 2050 do list[i] = i end
    local machines = mcore:map(work, list)
    for i = 2001, 2050 do counts[machines[i]] = (counts[machines[i]] or 0) + 1 end
    local one, other = counts[machines[2001]], 50 - counts[machines[2001]]
    assert.is_true(one >= 8 and other >= 8, ("%d and %d"):format(one, other))
  end)

  -- Later items run until all earlier ones have been received: none of these may wait behind them, though batches
  -- are split and taken back.
  it("begin no earlier item behind a later one", function()
    local path = shell.folder() .. "/received"
    local work = assert(load(([[
      local i, mantichora = ..., require "mantichora"
      if i > 400 then while not io.open(%q) do mantichora.sleep(0.01) end
      elseif i %% 37 == 0 then mantichora.sleep(0.02) end
      return i]]):format(path)))
    local list = {}
    for i = 1, 3000 do list[i] = i end
    for _ = 1, 3 do
      local mcore <close> = mantichora { hosts = { machine("a", 8) }, timeout = 10 }
      local received = 0
      for i in mcore:imap(work, list) do
        received = received + 1
        assert.are.equal(received, i)
        if i == 400 then shell.write(path, "") end
      end
      assert.are.equal(3000, received)
      os.remove(path)
    end
  end)

  -- Whatever has become of an item meanwhile, what cancel() says holds: of batches that wait, run, are split or over.
  it("cancel items of batches, these and no other", function()
    local list = {}
    for i = 1, 1000 do list[i] = i end
    for pause = 0, 2 do
      math.randomseed(pause)
      local hosts = { machine("a", 2), machine("b", 1) }
      local mcore <close> = mantichora { hosts = hosts, on_error = "return", timeout = 20 }
      local function work(i)
        if pause > 0 and i % (pause == 1 and 11 or 97) == 0 then require("mantichora").sleep(0.003) end
        return i
      end
      local first = mcore:run(work, 1) + 1
      mcore:returns()
      local kinds, said, cancelled = {}, {}, 0
      for i, value in mcore:imap(work, list, { ordered = pause ~= 1 }) do
        assert.is_nil(kinds[i])
        kinds[i] = value == i and "ok" or value.kind
        local other = math.random(i, math.min(1000, i + 200))
        local was = math.random(4) == 1 and mcore:cancel(first + other - 1) or nil
        assert.is_true(not (was and kinds[other]))
        if was then said[other] = was end
      end
      for i = 1, 1000 do
        assert.are.equal(said[i] and "cancelled" or "ok", kinds[i])
        cancelled = cancelled + (said[i] and 1 or 0)
      end
      assert.are.equal(cancelled, mcore:stats().cancelled)
    end
  end)

  it("tell of events, emitted values, lines, records and bars", function()
    local script = script_of(([[
      local mantichora = require "mantichora"
      local logging = require "mantichora.logging"
      local atpbar = require "mantichora.atpbar"
      logging.basic_config { level = "INFO", stream = function(line) print("log " .. line) end }
      local mcore <close> = mantichora { hosts = { { command = %q, name = "m", slots = 1 } } }
      mcore:on(function(e) if e.event ~= "queued" then print(e.event, e.host, e.values and e.values[1]) end end)
      mcore:run(function()
        print "a line"
        logging.info "a record"
        mantichora.emit(5)
        for _ in atpbar(3, "a bar") do end
        io.write "no newline"
      end)
      mcore:returns()
      print "end"
    ]]):format(program .. " worker --stdio"))
    local got = shell.run(program .. " --progress text " .. script)
    local order = {}
    for line in got.out:gmatch("[^\n]+") do order[#order + 1] = line end
    table.sort(order)
    assert.are.same({ "a line", "emitted\tm\t5", "end", "ended\tm\tnil", "log INFO:root:a record", "no newline",
      "started\tm\tnil", "worker_ended\tm\tnil", "worker_started\tm\tnil" }, order)
    assert.truthy(got.out:find("log INFO.*emitted.*\nended.*\nend\n"), got.out)
    assert.truthy(got.err:find("3 /        3 (100.00%): a bar", 1, true), got.err)
  end)

  it("run init and fini there", function()
    local got = shell.run(program .. " " .. script_of(([[
      local mantichora = require "mantichora"
      count = 1
      do
        local mcore <close> = mantichora { hosts = %q, nworkers = 1, init = function() ready = "yes"; count = 5 end,
          fini = function() print("fini", count) end }
        mcore:run(function() count = count + 1; return ready, count end)
        print(table.unpack(mcore:returns { packed = true }[1]))
      end
      print "end"
    ]]):format("cmd:" .. program .. " worker --stdio")))
    assert.are.equal("yes\t6\nfini\t6\nend\n", got.out .. got.err)
    local file <close> = io.tmpfile()
    local other <close> = pool { init = function() return file end }
    assert.error_matches(function() other:start() end,
      "cannot send upvalue 'file' of function <[^>]*> in init: userdata %(FILE%*%)")
  end)

  it("carry large values", function()
    local mcore <close> = pool { slots = 1, capture_warn = 0 }
    local text = ("0123456789"):rep(1000000)
    mcore:run(function(s) return s, #s end, text)
    local got = mcore:returns { packed = true }[1]
    assert.is_true(got[1] == text)
    assert.are.equal(10000000, got[2])
  end)

  it("hold a large value once as it passes, there and back", function()
    if program:find("asan", 1, true) then return pending("a sanitizer keeps freed memory") end
    local mcore <close> = pool { slots = 1, capture_warn = 0 }
    mcore:run(function() end)
    mcore:returns()
    local value = ("x"):rep(48 << 20)
    mcore:run(function(it) return it end, value)
    assert.is_true(mcore:returns()[1] == value)
    local file <close> = io.open(("/proc/%d/status"):format(supervisor(mcore)))
    local peak = tonumber(file:read("a"):match("VmHWM:%s*(%d+)")) * 1024
    assert.is_true(peak < 1.5 * #value, peak)
  end)

  it("go on through many small messages, which fill all buffers at times", function()
    local got = shell.run(program .. " " .. script_of(([[
      local mantichora = require "mantichora"
      local mcore <close> = mantichora { hosts = %q, nworkers = 2 }
      local items = {}
      for i = 1, 300000 do items[i] = i end
      for _ = 1, 3 do
        for _ = 1, 3000 do mcore:run(function() end) end
        mcore:returns()
        local values = mcore:map(function(x) return x end, items)
        assert(values.n == 300000 and values[300000] == 300000)
      end
      print "done"
    ]]):format("cmd:" .. program .. " worker --stdio")), { timeout = 40 })
    assert.are.same({ "done\n", "" }, { got.out, got.err })
  end)

  it("have pools inside of tasks, of the machine's own", function()
    local mcore <close> = pool {}
    mcore:run(function()
      local inner <close> = mantichora { nworkers = 1 }
      inner:run(function() return 5 end)
      return inner:returns()[1], inner:workers()[1].host
    end)
    assert.are.same({ n = 1, 5 }, mcore:returns())
  end)

  it("begin one task at a time where there is less memory than is to be free", function()
    local mcore <close> = pool { slots = 2, min_free_memory = 1 << 50 }
    local file = os.tmpname()
    for _ = 1, 4 do
      mcore:run(function()
        for _, sign in ipairs { "+", "-" } do
          local out <close> = io.open(file, "a")
          out:write(sign)
          if sign == "+" then
            out:flush()
            mantichora.sleep(0.03)
          end
        end
      end)
    end
    mcore:returns()
    assert.are.equal("+-+-+-+-", shell.run("cat " .. file).out)
    os.remove(file)
  end)

  it("say of a task that is cancelled whether it had begun", function()
    local mcore <close> = pool { slots = 1, on_error = "return" }
    local file = os.tmpname()
    local function begin(i)
      local out <close> = io.open(file, "a")
      out:write(i, "\n")
      out:close()
      mantichora.sleep(20)
    end
    for i = 0, 3 do mcore:run(begin, i) end
    process.wait(function()
      mcore:poll()
      return shell.run("cat " .. file).out == "0\n"
    end)
    local was = {}
    for i, runid in ipairs { 1, 3, 2, 0 } do was[i] = tostring(mcore:cancel(runid)) end
    was[#was + 1] = tostring(mcore:cancel(1))
    assert.are.equal("queued queued queued running nil", table.concat(was, " "))
    assert.are.equal(4, #mcore:receive_all())
    assert.are.equal("0\n", shell.run("cat " .. file).out)
    os.remove(file)
  end)

  it("have slots with numbers of the pool, and workers that are told when they go", function()
    local mcore <close> = pool { hosts = { machine("b", 2), machine("c", 2) } }
    mcore:start()
    local function slots()
      local numbers = {}
      for i, worker in ipairs(mcore:workers()) do numbers[i] = worker.slot end
      return table.concat(numbers, " ")
    end
    process.wait(function() return slots() == "1 2 3 4" end)
    kill("KILL", mcore:workers()[1].pid)
    process.wait(function() return #mcore:workers() == 3 end)
    for _ = 1, 8 do mcore:run(function() mantichora.sleep(0.01) end) end
    mcore:returns()
    process.wait(function() return slots() == "1 2 3 4" end)
    mcore:resize(2)
    process.wait(function() return #mcore:workers() == 2 end)
    mcore:resize(4)
    process.wait(function() return slots() == "1 2 3 4" end)
  end)
end)

describe("what travels", function()
  local old_path = package.path
  local folder

  setup(function()
    folder = shell.folder()
    os.execute("mkdir -p " .. folder .. "/deep")
    shell.write(folder .. "/deep/thing.lua", [[
      local M = { name = ... }
      M.__index = M
      function M.new(x) return setmetatable({ x = x }, M) end
      function M.fail() error "in thing" end
      return M
    ]])
    package.path = folder .. "/?.lua;" .. package.path
  end)

  teardown(function()
    package.path = old_path
    shell.remove(folder)
  end)

  -- Globals of the script, where busted's environment is not in between.
  local function run(code)
    local script = script_of(([[
      package.path = %q .. "/?.lua;" .. package.path
      local mantichora = require "mantichora"
      local mcore = mantichora { hosts = %q, nworkers = 1, on_error = "return" }
      local function task(f, ...)
        mcore:run(f, ...)
        local entry = mcore:receive_all()[1]
        print(table.unpack(entry, 2, entry.n))
      end
    ]]):format(folder, "cmd:" .. program .. " worker --stdio") .. code .. "\nmcore:close()")
    local got = shell.run(program .. " " .. script)
    return got.out, got.err
  end

  it("are Lua modules by name, on demand, and functions of package.preload", function()
    local out = run [[
      local thing = require "deep.thing"
      package.preload["pre.loaded"] = function(name) return { name = name, value = 6 } end
      task(function(o) return getmetatable(o) == thing, thing.name end, thing.new(1))
      task(function() return require "deep.thing".new(2).x, require "pre.loaded".value end)
      mcore:run(function() return thing.new(3) end)
      print(getmetatable(mcore:returns()[1]) == thing)
      mcore:run(function() return thing.fail() end)
      print((mcore:returns()[1].traceback:match("[^%s]*deep/thing.lua:4")))
    ]]
    assert.are.equal("true\tdeep.thing\n2\t6\ntrue\n" .. folder .. "/deep/thing.lua:4\n", out)
  end)

  it("are only loaded modules where that is asked for", function()
    local out = run(([[
      local function ask()
        local other <close> = mantichora { hosts = %q, nworkers = 1, modules = "loaded" }
        other:run(function() return (pcall(require, "deep.thing")) end)
        print(other:returns()[1])
      end
      ask()
      require "deep.thing"
      ask()
    ]]):format("cmd:" .. program .. " worker --stdio"))
    assert.are.equal("false\ntrue\n", out)
  end)

  it("are globals, once in each worker while they stay the same", function()
    local out, err = run [[
      count = 0
      local shared = 0
      function bump() shared = shared + 1; return shared end
      function look() return shared end
      task(function() count = count + 1; return count, bump(), look() end)
      task(function() count = count + 1; return count, bump(), look() end)
      count = 10
      task(function() count = count + 1; return count end)
      count = nil
      task(function() return count end)
      x = 1
      mcore:run(function() return x end)
      x = 2
      mcore:run(function() return x end)
      print(table.concat(mcore:returns(), " "))
      list = { 1, 2, 3 }
      task(function() return #list end)
      list[4] = 4
      task(function() return #list end)
      thread = coroutine.create(print)
      task(function() return thread end)
      task(function() return thread end)
    ]]
    assert.are.equal("1\t1\t1\n2\t2\t2\n11\nnil\n1 2\n3\n4\nnil\nnil\n", out)
    assert.are.equal("WARNING:mantichora:the global 'thread' is not sent to other machines and is absent there: "
      .. "coroutine (thread)\n", err)
  end)

  it("are globals that share a variable or a table, whichever a task names first", function()
    local out, err = run [[
      local count, none = 0, {}
      local function add(n) count = count + n end
      function bump() add(1); return count end
      function look() return count end
      function make() return none end
      Kit = { is_none = function(x) return x == none end }
      stray = coroutine.create(print)
      local kept = stray
      function alien() count = 0; return kept, none end
      task(function() return bump() end)
      task(function() return bump(), look() end)
      task(function() return make() == nil end)
      task(function() return Kit.is_none(make()) end)
      function far() count = count + 10; return count end
      task(function() return far(), look(), bump() end)
    ]]
    assert.are.equal("1\n2\t2\nfalse\ntrue\n10\t10\t11\n", out)
    assert.are.equal("", err)
  end)

  it("are classes that keep their identity", function()
    local out = run [[
      Animal = {}; Animal.__index = Animal
      function Animal.new(n) return setmetatable({ n = n }, Animal) end
      Dog = setmetatable({}, { __index = Animal }); Dog.__index = Dog
      local function check(a) return getmetatable(a) == Animal, getmetatable(Dog).__index == Animal end
      task(check, Animal.new(1))
      task(check, Animal.new(2))
      mcore:run(function() return Animal.new(3) end)
      print(getmetatable(mcore:returns()[1]) == Animal)
      local list = {}
      for i = 1, 40 do list[i] = Animal.new(i) end
      local same = 0
      for _, ok in ipairs(mcore:map(check, list)) do same = same + (ok and 1 or 0) end
      print(same)
    ]]
    assert.are.equal("true\ttrue\ntrue\ttrue\ntrue\n40\n", out)
  end)

  it("are functions that were put into the standard library", function()
    local out = run [[
      function string.trim(s) return (s:gsub("^%s+", "")) end
      task(function() return ("  a"):trim() end)
      function string.twice(s) return s .. s end
      task(function() return ("b"):twice():trim() end)
    ]]
    assert.are.equal("a\nbb\n", out)
  end)

  it("are these functions by whatever way a task comes to them, as they are at its run", function()
    local out = run [[
      local text, library = "x", math
      local Text = {}; Text.__index = Text
      function Text:mark() return self[1]:mark() end
      local hooked = setmetatable({}, { __mantichora = function() return function() return { ("x"):mark() } end end })
      local function deep() return (function() return text:mark() end)() end
      local sandbox = setmetatable({}, { __index = _G })
      local global = _G
      local ways = {
        { function() return string.mark("x") end },
        { function() return ("x"):mark() end },
        { function() return text.mark(text) end },
        { function() return text[#text == 1 and "mark"](text) end },
        { function(s) return s:mark() end, "x" },
        { function() return rawget(rawget(getmetatable(""), "__index"), "mark")("x") end },
        { function(o) return o:mark() end, setmetatable({ "x" }, Text) },
        { function(o) return rawget(o, 1) end, hooked },
        { function(f) return f() end, deep },
        { (function() local _ENV = "x"; return function() return mark(_ENV) end end)() },
        { function() return library.mark("x") end },
        { function(l) return l.mark("x") end, math },
        { function() return _G.math.mark("x") end },
        { function() return global.math.mark("x") end },
        { function(g) return g.math.mark("x") end, _G },
        { function() return _ENV["ma" .. "th"].mark("x") end },
        { function() return require "math".mark("x") end },
        { function() return load("return math.mark('x')")() end },
        { function() return debug.getregistry()._LOADED.math.mark("x") end },
        { function() return package.loaded.math.mark("x") end },
        { load("return function() return math.mark('x') end", "=sandbox", "t", sandbox)() },
        { function() return (by_global()) end },
      }
      function by_global() return math.mark("x") end
      for i, way in ipairs(ways) do
        local changed = i <= 10 and string or math -- the other one stays as it is
        function changed.mark(s) return s .. i end
        mcore:run(table.unpack(way))
      end
      function string.mark() return "late" end
      math.mark = string.mark
      print(table.concat(mcore:returns(), " "))
      function math.mark(x) return x + 1 end
      function table.mark(x) return x + 3 end
      mcore:run(function() return 1 end)
      print(table.concat(mcore:map(function(x) return x + math.mark(1) + table.mark(1) end, { 0, 1 }), " "))
    ]]
    local marks = {}
    for i = 1, 22 do marks[i] = "x" .. i end
    assert.are.equal(table.concat(marks, " ") .. "\n6 7\n", out)
  end)

  it("are large globals once to a machine", function()
    local out = run [[
      big = {}
      for i = 1, 200000 do big[i] = i end
      local start = os.clock()
      for i = 1, 50 do mcore:run(function() return #big + i end) end
      print(mcore:returns()[50])
      print(os.clock() - start < 1.5)
    ]]
    assert.are.equal("200050\ntrue\n", out)
  end)

  -- 50 versions of 1.6 MB: what no task needs any more is kept nowhere.
  it("are globals as they were when a task was handed over, whatever changes meanwhile", function()
    local out = run [[
      big, small = {}, 0
      for i = 1, 20000 do big[i] = i end
      local wanted, right = {}, 0
      local function look() return big[1], small, big[20000] end
      local list = {}
      for i = 1, 200 do list[i] = i end
      local open = mcore:imap(function(i) return i + big[20000] end, list)
      for round = 1, 200 do
        if round % 3 == 0 then big[1] = -round end
        if round % 2 == 0 then small = round end
        mcore:run(look)
        wanted[#wanted + 1] = { big[1], small }
        local _, value = open()
        right = right + (value == round + 20000 and 1 or 0)
        if round % 17 == 0 or round == 200 then
          for i, got in ipairs(mcore:returns { packed = true }) do
            right = right + (got[1] == wanted[i][1] and got[2] == wanted[i][2] and got[3] == 20000 and 1 or 0)
          end
          wanted = {}
        end
      end
      print(right)
    ]]
    assert.are.equal("400\n", out)
  end)

  it("are globals that change, and are forgotten when they have", function()
    local out = run [[
      local function resident(pid)
        for line in io.lines("/proc/" .. pid .. "/status") do
          local kilobytes = line:match("^VmRSS:%s+(%d+)")
          if kilobytes then return kilobytes // 1024 end
        end
      end
      big = {}
      for i = 1, 200000 do big[i] = i + 0.5 end
      local right = 0
      for i = 1, 50 do
        big[i] = -i
        mcore:run(function() return big[i] + big[200000] end)
        right = right + (mcore:returns()[1] == 200000.5 - i and 1 or 0)
      end
      print(right)
      local pid = mcore:workers()[1].pid
      local file <close> = io.open("/proc/" .. pid .. "/stat")
      print(resident("self") < 60, resident(pid) < 80, resident(file:read("a"):match("%) %a (%d+)")) < 60)
    ]]
    if program:find("asan", 1, true) then out = out:gsub("false", "true") end -- which keeps freed memory
    assert.are.equal("50\ntrue\ttrue\ttrue\n", out)
  end)

  it("are variables of the environment, and the working directory", function()
    local mcore <close> = pool { env = { "HOME", SPEC_HOSTS = "a b" }, cwd = "/usr" }
    mcore:run(function()
      local pipe <close> = io.popen("pwd")
      return os.getenv("SPEC_HOSTS"), os.getenv("HOME"), pipe:read("l")
    end)
    assert.are.same({ "a b", os.getenv("HOME"), "/usr", n = 3 }, mcore:returns { packed = true }[1])
  end)

  it("are modules that the script got after a task had missed them", function()
    local out = run [[
      local function ask(name)
        task(function() local fine, it = pcall(require, name) return fine and it.name end)
      end
      ask "later.one"
      package.preload["later.one"] = function(name) return { name = name } end
      ask "later.one"
      ask "thing"
      package.path = package.path:match("^[^?]*") .. "deep/?.lua;" .. package.path
      ask "thing"
    ]]
    assert.are.equal("false\nlater.one\nfalse\nthing\n", out)
  end)

  it("are no modules whose names are none", function()
    local mcore <close> = pool { slots = 1, on_error = "return" }
    for _, name in ipairs { "", "../thing", "deep/thing", "deep..thing", ".deep.thing", ("a."):rep(400) .. "b" } do
      mcore:run_with({ timeout = 5 }, function() return (pcall(require, name)) end)
      local _, got = mcore:receive_one()
      assert.are.equal(false, got, name)
    end
  end)

  -- The socket by which a question is to be answered is open in workers that were forked meanwhile.
  it("are modules asked for while another worker is forked", function()
    local dir = shell.folder()
    local function is_there(name) return shell.run(("test -e %s/%s"):format(dir, name)).status == 0 end
    local mcore <close> = pool { slots = 2, background = false, on_error = "return" }
    local function task(say, await, last)
      local sleep = mantichora.sleep
      mcore:run_with({ timeout = 5 }, function()
        io.open(dir .. "/" .. say, "w"):close()
        while not io.open(dir .. "/" .. await) do sleep(0.01) end
        return last()
      end)
    end
    task("a", "ask", function() return require "deep.thing".name end)
    task("b", "go", function() os.exit(3) end)
    for _ = 1, 2 do mcore:run(function() return "other" end) end
    process.wait(function()
      mcore:poll(0.01)
      return is_there "a" and is_there "b"
    end)
    local parent = supervisor(mcore)
    local function look(what)
      local pipe <close> = io.popen(what:format(parent, parent))
      return pipe:read("a")
    end
    local function count() return select(2, look("ls /proc/%d/fd"):gsub("%d+", "")) end
    local function children() return look("cat /proc/%d/task/%d/children") end
    local open, living = count(), children()
    shell.write(dir .. "/ask", "")
    process.wait(function() return count() > open end)
    shell.write(dir .. "/go", "")
    process.wait(function()
      local now = children()
      return now ~= living and select(2, now:gsub("%d+", "")) == 2
    end)
    local got = {}
    for _ = 1, 4 do
      local id, value = mcore:receive_one(5)
      if not id then break end
      got[#got + 1] = ("%s %s"):format(id, mantichora.is_failure(value) and value.kind or value)
    end
    table.sort(got)
    assert.are.same({ "0 deep.thing", "1 exited", "2 other", "3 other" }, got)
    mcore:terminate()
    shell.remove(dir)
  end)
end)

describe("options of hosts", function()
  local function problem(options)
    local fine, message = pcall(function()
      return (mantichora(options))
    end)
    assert.is_false(fine)
    local line = debug.getinfo(1, "l").currentline - 3
    local place = ("^[^:]*hosts_spec%%.lua:%d: "):format(line) -- the caller's own
    assert.truthy(message:find(place), message)
    return (message:gsub(place, ""))
  end

  it("are refused where they are wrong", function()
    for hosts, message in pairs {
      ["-oProxyCommand=x"] = "hosts: the host of '-oProxyCommand=x' begins with '-'",
      ["-x@box"] = "hosts: the user of '-x@box' begins with '-'",
      ["box;rm"] = "hosts: the host of 'box;rm' may have letters, digits and . _ - : only",
      ["a b"] = "hosts: the host of 'a b' may have letters, digits and . _ - : only",
      ["box:0"] = "hosts: the slots of 'box:0' must be a whole number from 1 to 4096: '0' is given",
      ["box:x"] = "hosts: the slots of 'box:x' must be a whole number from 1 to 4096: 'x' is given",
      ["::1"] = "hosts: '::1' has several colons: an IPv6 address stands in brackets, as in [::1]:8",
      ["[::g]"] = "hosts: '[::g]' has no IPv6 address in its brackets",
      ["@box"] = "hosts: '@box' has no user",
      ["ssh://box:99999"] = "hosts: the port of 'ssh://box:99999' must be a number from 1 to 65535",
      ["http://box"] = "hosts: 'http://box' is not understood",
      ["cmd:'a"] = "hosts: 'cmd:'a': a quote is not closed",
      ["cmd: "] = "hosts: 'cmd:' has no command",
      [" , "] = "option 'hosts' names no machine",
    } do
      assert.are.equal(message, problem { hosts = hosts })
    end
    assert.are.equal("hosts: entry 1 has no command, which must be a string or a list of words",
      problem { hosts = { {} } })
    assert.are.equal("hosts: entry 1 must be a string or a table: number is given", problem { hosts = { 5 } })
    assert.are.equal("option 'lease' is for a pool with hosts", problem { lease = 3 })
    assert.are.equal("option 'env' is for a pool with hosts", problem { env = {} })
    assert.truthy(problem { hosts = "box", engine = "snapshot" }:find("snapshot", 1, true))
    assert.truthy(problem { hosts = "box", program = "a;b" }:find("option 'program'", 1, true))
  end)

  it("are read as a line is: commas, quotes, slots", function()
    local mcore <close> = mantichora {
      hosts = ("cmd:'%s' worker --stdio, cmd:sh -c \"exec '%s' worker --stdio; echo a,b\""):format(program, program),
    }
    local hosts = {}
    mcore:on(function(event) if event.event == "started" then hosts[event.host] = true end end)
    for _ = 1, 16 do mcore:run(mantichora.sleep, 0.05) end
    mcore:returns()
    assert.are.same({ host1 = true, host2 = true }, hosts)
  end)

  it("come from the environment, and from the program's --hosts", function()
    local script = script_of([[
      local mantichora = require "mantichora"
      local mcore <close> = mantichora { nworkers = 1 }
      mcore:run(function() return 1 end)
      mcore:returns()
      print(mcore:workers()[1].host)
    ]])
    local hosts = "cmd:" .. program .. " worker --stdio"
    assert.are.equal("host1\n", shell.run("env MANTICHORA_HOSTS='" .. hosts .. "' " .. program .. " " .. script).out)
    assert.are.equal("host1\n", shell.run(program .. " --hosts '" .. hosts .. "' " .. script).out)
    assert.are.equal("nil\n", shell.run(program .. " " .. script).out)
  end)
end)

describe("a machine that is not there", function()
  it("is refused with its own words, and tasks end by that", function()
    local mcore <close> = mantichora {
      hosts = { machine("bad", 1, { "sh", "-c", "echo welcome; echo no such thing >&2; exit 3" }) },
      on_error = "return",
    }
    mcore:run(print)
    local failure = mcore:returns()[1]
    assert.are.equal("killed", failure.kind)
    assert.truthy(failure.message:find("^no machine is left: bad: "), failure.message)
    assert.truthy(failure.message:find("no such thing", 1, true), failure.message)
  end)

  it("is refused with the reason why it cannot be set up", function()
    local mcore <close> = pool { cwd = "/nowhere/at/all", on_error = "return" }
    mcore:run(function() end)
    assert.are.equal("no machine is left: b: the option cwd: /nowhere/at/all: No such file or directory",
      mcore:returns()[1].message)
  end)

  it("does not keep the others from working", function()
    local mcore <close> = mantichora { hosts = { machine("bad", 1, { "/nowhere/at/all" }), machine("good", 1) } }
    for i = 1, 4 do mcore:run(function() return i end) end
    assert.are.same({ n = 4, 1, 2, 3, 4 }, mcore:returns())
  end)
end)

describe("a machine that is lost", function()
  it("ends what it may have begun, and no other task; it comes back", function()
    local mcore <close> = pool { slots = 1, on_error = "return" }
    mcore:run(function() return process.pid() end)
    local worker = mcore:returns()[1]
    local mark = os.tmpname()
    os.remove(mark)
    mcore:run(function()
      io.open(mark, "w"):close()
      mantichora.sleep(30)
    end)
    process.wait(function()
      mcore:poll(0)
      return io.open(mark)
    end)
    for i = 1, 20 do mcore:run(function() return i end) end
    -- After the short task more may have been allowed ahead than one; that is taken back while the long one runs.
    mcore:poll(0.5)
    kill(9, supervisor(mcore))
    local results = mcore:returns()
    assert.are.equal("killed", results[1].kind)
    assert.are.equal("its machine b was lost", results[1].message)
    assert.are.equal("b", results[1].host)
    local lost = 0
    for i = 2, 21 do
      if mantichora.is_failure(results[i]) then
        assert.are.equal("its machine b was lost", results[i].message)
        lost = lost + 1
      else
        assert.are.equal(i - 1, results[i])
      end
    end
    assert.is_true(lost <= 1, lost)
    process.wait(function() return not process.runs(worker) end)
    os.remove(mark)
  end)

  it("has its tasks tried again where that was asked for", function()
    local mcore <close> = mantichora { hosts = { machine("a", 1), machine("b", 1) } }
    mcore:run(print == nil and error or function() end)
    mcore:returns()
    for i = 1, 6 do
      mcore:run_with({ retries = 2 }, function()
        mantichora.sleep(0.2)
        return i
      end)
    end
    mcore:poll(0.1)
    kill(9, supervisor(mcore, "a"))
    assert.are.same({ n = 6, 1, 2, 3, 4, 5, 6 }, mcore:returns())
  end)

  it("leaves no process behind, whoever is killed", function()
    local script = script_of(([[
      local mantichora = require "mantichora"
      local mcore = mantichora { hosts = { { command = %q, slots = 1 } } }
      mcore:run(function() local f = io.open("/proc/self/stat") return f:read("n") end)
      print(mcore:returns()[1])
      io.stdout:flush()
      mcore:run(mantichora.sleep, 60)
      mcore:poll(60)
    ]]):format(program .. " worker --stdio"))
    local pipe <close> = io.popen("exec " .. program .. " " .. script .. " & echo $!; wait 2>/dev/null")
    local pid = tonumber(pipe:read("l"))
    local worker = tonumber(pipe:read("l"))
    assert.is_true(process.runs(worker))
    kill(9, pid)
    process.wait(function() return not process.runs(worker) end)
  end)
end)

describe("a large upvalue", function()
  it("goes to a machine once, as long as it stays the same", function()
    local heard = os.tmpname()
    local command = { "sh", "-c", ("tee %s | exec %s worker --stdio"):format(heard, program) }
    local numbers, words = {}, {}
    for i = 1, 20000 do numbers[i], words[i] = i / 7, "word " .. i end
    local function sum() -- of what the machine has heard
      local file <close> = io.open(heard)
      return file:seek("end")
    end
    do
      local mcore <close> = pool { hosts = { machine("b", 2, command) } }
      local function check(from, to)
        for i = from, to do
          mcore:run(function(k) return numbers[k], words[i], k end, i)
          mcore:run(function() return #words + i end)
        end
        local results = mcore:returns { packed = true }
        for i = from, to do
          local at = 2 * (i - from) + 1
          assert.are.same({ n = 3, numbers[i], words[i], i }, results[at])
          assert.are.same({ n = 1, 20000 + i }, results[at + 1])
        end
      end
      check(1, 40)
      assert.is_true(sum() < 700000, sum()) -- two graphs of 400 and 240 KB at most, not forty of each
      local before = sum()
      numbers[3], words[7], words[15000] = "three", "seven", 15
      check(1, 40)
      assert.is_true(sum() - before < 700000, sum() - before)
      for i = 1, 20000 do numbers[i], words[i] = i, "other " .. i end
      check(1, 5)
      local got = mcore:map(function(i) return words[i] end, { 7, 15000, 20000 })
      assert.are.same({ n = 3, "other 7", "other 15000", "other 20000" }, got)
    end
    os.remove(heard)
  end)

  it("goes once where others are sent in between, or come with it", function()
    local heard = os.tmpname()
    local command = { "sh", "-c", ("tee %s | exec %s worker --stdio"):format(heard, program) }
    local function sum()
      local file <close> = io.open(heard)
      return file:seek("end")
    end
    local function check(mcore, most, make)
      local before = sum()
      for round = 1, 5 do
        for i = 1, 6 do
          local f, value = make(i)
          mcore:run(f, round)
          assert.are.equal(value, mcore:returns()[1])
        end
      end
      assert.is_true(sum() - before < most, sum() - before)
    end
    do
      local mcore <close> = pool { hosts = { machine("b", 1, command) } }
      local several, shared = {}, ("shared"):rep(50000)
      for i = 1, 6 do several[i] = tostring(i):rep(100000) end
      mcore:start()
      process.wait(function() return #mcore:workers() == 1 end)
      check(mcore, 700000, function(i)
        local value = several[i]
        return function() return value:sub(1, 1) end, tostring(i)
      end)
      check(mcore, 1000000, function(i)
        local one, other = shared, several[i] .. "!"
        return function() return #one .. other:sub(-2) end, #shared .. tostring(i) .. "!"
      end)
    end
    os.remove(heard)
  end)
end)
