-- `mantichora --trace FILE` and MANTICHORA_TRACE: a trace of the run, whole at any moment.

local process = require "spec.support.process"
local shell = require "spec.support.shell"
local trace = require "spec.support.trace"

describe("A trace", function()
  local folder, path

  before_each(function()
    folder = shell.folder()
    path = folder .. "/trace.json"
  end)
  after_each(function() shell.remove(folder) end)

  local prelude = 'local mantichora = require "mantichora"\n'

  local function script(text)
    shell.write(folder .. "/script.lua", prelude .. text)
    return folder .. "/script.lua"
  end

  -- Run it with MANTICHORA_TRACE; what it said.
  local function run(text)
    return shell.run(("env MANTICHORA_TRACE=%s %s %s"):format(path, shell.interpreter, script(text)))
  end

  local function picture(of)
    return trace.check(assert(trace.read(of or path)))
  end

  -- Start it in the background; its number.
  local function start(text)
    local file = folder .. "/pid"
    os.execute(("env MANTICHORA_TRACE=%s %s %s >%s/out 2>&1 & echo $! >%s"):format(
      path, shell.interpreter, script(text), folder, file))
    for line in io.lines(file) do return tonumber(line) end
  end

  local function boxes_of(now, name)
    local found = {}
    for _, box in ipairs(now.boxes) do
      if box.name == name then found[#found + 1] = box end
    end
    return found
  end

  local function values(t)
    local list = {}
    for _, value in pairs(t) do list[#list + 1] = value end
    table.sort(list)
    return list
  end

  it("has a thread a slot and a box an attempt, and its sums are those of stats", function()
    local result = run [[
      local pool = mantichora{ nworkers = 3, on_error = "return" }
      for i = 1, 30 do
        pool:run_with({ name = "task " .. i, retries = 2, retry_on = { "error" } }, function()
          mantichora.sleep(0.002)
          if i == 7 then error("seven") end
          if i == 9 then os.exit(3) end
          return i
        end)
      end
      pool:returns()
      pool:map(function(x) return { x } end, { 1, 2, 3 })
      local s = pool:stats()
      print(s.ok, s.error, s.exited, s.retried, s.working.sum)
      pool:close()
    ]]
    assert.are.equal(0, result.status, result.err)
    local ok, failed, exited, retried, sum = result.out:match("(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%S+)")
    local now = picture()
    assert.are.same({ ok = tonumber(ok), error = failed + retried, exited = tonumber(exited) }, now.kinds)
    assert.are.same({ "slot 1", "slot 2", "slot 3" }, values(now.names))
    local all, tries = 0, boxes_of(now, "task 7")
    for _, box in ipairs(now.boxes) do
      if box.args.kind == "ok" or box.args.kind == "exited" or box.args.attempt == 3 then all = all + box.dur / 1e6 end
    end
    assert.is_true(math.abs(all - sum) < 1e-3, all .. " against " .. sum)
    assert.are.equal(3, #tries)
    for i, box in ipairs(tries) do
      assert.are.same({ "error", i, 6, "task 7" }, { box.args.kind, box.args.attempt, box.args.runid, box.args.name })
    end
    local one = boxes_of(now, "task 1")[1]
    assert.is_true(one.args.maxrss > 2 ^ 18 and one.dur >= 2000)
    assert.are.equal(1, #now.deaths)
    assert.are.equal("exited", now.deaths[1].args.why)
    assert.are.equal(boxes_of(now, "task 9")[1].args.worker, now.deaths[1].args.worker)
    assert.are.same({ queued = 0, running = 0 }, now.counters.queue[#now.counters.queue])
    assert.is_true(now.counters.memory[1].script > 2 ^ 18)
  end)

  it("shows that a worker was killed, and its slot goes on", function()
    local result = run [[
      local pool <close> = mantichora{ nworkers = 1, on_error = "return" }
      pool:run(function() os.execute("kill -9 $PPID") end)
      pool:run_with({ timeout = 0.05 }, function() mantichora.sleep(10) end)
      pool:run(function() return 1 end)
      pool:returns()
    ]]
    assert.are.equal(0, result.status, result.err)
    local now = picture()
    assert.are.same({ killed = 1, timeout = 1, ok = 1 }, now.kinds)
    assert.are.same({ "slot 1" }, values(now.names))
    assert.are.equal("killed", now.deaths[1].args.why)
  end)

  it("has names of any bytes as text", function()
    local result = run [[
      local pool <close> = mantichora()
      pool:run_with({ name = "</script><img src=x onerror=alert(1)>" }, function() end)
      pool:run_with({ name = "a\xffb\xc3\xa4\0\n\"\\" }, function() end)
      pool:run(function() end)
      pool:returns()
    ]]
    assert.are.equal(0, result.status, result.err)
    local now = picture()
    assert.are.equal(1, #boxes_of(now, "</script><img src=x onerror=alert(1)>"))
    assert.are.equal(1, #boxes_of(now, "a\u{FFFD}b\u{E4}\0\n\"\\"))
    assert.are.equal(1, #boxes_of(now, "<" .. folder .. "/script.lua:5>"))
  end)

  it("has pools of one process side by side, one after the other in the same rows", function()
    local result = run [[
      local a, b = mantichora{ nworkers = 1 }, mantichora{ nworkers = 1, name = "fetch" }
      local c = mantichora{ nworkers = 1 }
      for _, pool in ipairs{ a, b, c } do pool:run(mantichora.sleep, 0.01) end
      for _, pool in ipairs{ a, b, c } do pool:close() end
      for _ = 1, 5 do
        local pool <close> = mantichora{ nworkers = 2 }
        pool:map(mantichora.sleep, { 0.01, 0.01 })
      end
    ]]
    assert.are.equal(0, result.status, result.err)
    local now = picture()
    assert.are.same({ "fetch slot 1", "pool 2 slot 1", "slot 1", "slot 2" }, values(now.names))
    assert.are.equal(13, now.kinds.ok)
  end)

  for _, engine in ipairs { "fork", "snapshot", "inline" } do
    it("is made by engine " .. engine .. ", and has pools in tasks as processes of their own", function()
      local result = run(([[
        local pool <close> = mantichora{ nworkers = 2, engine = %q }
        for i = 1, 4 do
          pool:run_with({ name = "outer" }, function()
            local inner <close> = mantichora{ nworkers = 2 }
            for j = 1, 3 do inner:run_with({ name = "inner" }, mantichora.sleep, 0.005) end
            inner:returns()
          end)
        end
        pool:returns()
      ]]):format(engine))
      assert.are.equal(0, result.status, result.err)
      local now = picture()
      local outer, inner = boxes_of(now, "outer"), boxes_of(now, "inner")
      assert.are.same({ 4, 12 }, { #outer, #inner })
      local owners = {}
      for _, box in ipairs(outer) do owners[box.args.worker or box.pid] = true end
      for _, box in ipairs(inner) do
        assert.is_true(owners[box.pid])
        assert.are.equal(engine == "inline", box.pid == outer[1].pid)
      end
    end)
  end

  it("is whole whenever somebody reads it, and up to a second before a kill", function()
    for _, signal in ipairs { "TERM", "KILL" } do
      local pid = start [[
        local pool = mantichora{ nworkers = 2 }
        for i = 1, 200 do pool:run_with({ name = "early" }, mantichora.sleep, 0.001) end
        pool:returns()
        for i = 1, 1e6 do pool:map(mantichora.sleep, { 0.001, 0.001, 0.001, 0.001 }) end
      ]]
      local looks = 0
      process.wait(function()
        local events, why = trace.read(path)
        if not events then
          assert(why == "no file", why)
          return false
        end
        looks = looks + 1
        return #boxes_of(trace.check(events), "early") == 200
      end, 20)
      assert.is_true(process.runs(pid))
      os.execute("kill -" .. signal .. " " .. pid)
      process.wait(function() return not process.runs(pid) end)
      assert.is_true(looks > 0)
      assert.are.equal(200, #boxes_of(picture(), "early"))
      os.remove(path)
    end
  end)

  it("is written while the script is busy with something else, and by its calls where there is no thread", function()
    local busy = [[
      local pool = mantichora{ nworkers = 1, background = %s }
      pool:run_with({ name = "seen" }, function() end)
      pool:returns()
      for i = 1, 3 do pool:run_with({ name = "seen" }, function() end) end
      io.open(%q, "w"):close()
      while true do %s end
    ]]
    for _, case in ipairs { { "true", "" }, { "false", "pool:poll(0.01)" } } do
      local pid = start(busy:format(case[1], folder .. "/ready", case[2]))
      process.wait(function() return io.open(folder .. "/ready") end)
      process.wait(function()
        local events = trace.read(path)
        return events and #boxes_of(trace.check(events), "seen") == 4
      end, 20)
      os.execute("kill -9 " .. pid)
      process.wait(function() return not process.runs(pid) end)
      os.remove(path)
      os.remove(folder .. "/ready")
    end
  end)

  it("is complete after os.exit, an error and Ctrl-C", function()
    for _, ending in ipairs {
      "os.exit(0)", "os.exit(0, true)", "error('the end')", "os.execute('kill -INT $PPID') mantichora.sleep(5)",
    } do
      run([[
        local pool = mantichora{ nworkers = 2 }
        for i = 1, 20 do pool:run_with({ name = "seen" }, function() end) end
        pool:returns()
      ]] .. ending)
      assert.are.equal(20, #boxes_of(picture(), "seen"), ending)
    end
  end)

  it("is refused where its file is in use, with one error, and the script runs on", function()
    local other = ("env MANTICHORA_TRACE=%s %s -e \"%s\""):format(path, shell.interpreter,
      "local m = require 'mantichora' local p <close> = m() p:run(print, 42)")
    local result = run(([[
      local pool <close> = mantichora()
      pool:run_with({ name = "first" }, function() end)
      pool:returns()
      os.execute(%q)
    ]]):format(other))
    assert.are.equal("42\n", result.out)
    assert.are.equal("ERROR:mantichora:there is no trace of this run: " .. path .. " is in use by another run\n",
      result.err)
    assert.are.equal(1, #picture().boxes)
  end)

  it("is refused where there can be no such file", function()
    local found = {}
    for _, name in ipairs { "/nowhere/at/all", "/dev/null", folder } do
      path = name
      local result = run [[print(mantichora().run ~= nil)]]
      assert.are.equal("true\n", result.out)
      found[#found + 1] = result.err:match("^ERROR:mantichora:there is no trace of this run: ([^\n]*)\n$") or result.err
    end
    assert.are.same({
      "/nowhere/at/all: No such file or directory",
      "/dev/null is no ordinary file, which a trace needs",
      folder .. ": Is a directory",
    }, found)
  end)

  it("has the number of its process in the name", function()
    path = folder .. "/%p.json"
    local result = run [[io.write(io.open("/proc/self/stat"):read("n"), "")]]
    assert.are.same({}, picture(("%s/%d.json"):format(folder, result.out)).boxes)
  end)

  it("begins anew with each run", function()
    for _, name in ipairs { "one", "two" } do
      run(([[
        local pool <close> = mantichora()
        pool:run_with({ name = %q }, function() end)
        pool:returns()
      ]]):format(name))
    end
    assert.are.equal("two", picture().boxes[1].name)
    assert.are.equal(1, #picture().boxes)
  end)

  describe("of the program", function()
    it("is an option, which programs that it starts do not have", function()
      local result = shell.run(("%s --trace %s %s"):format(shell.host, path, script(([[
        local pool <close> = mantichora()
        pool:run_with({ name = "first" }, function() end)
        pool:returns()
        os.execute(%q)
      ]]):format(shell.host .. " -e \"print(os.getenv('MANTICHORA_TRACE'))\""))))
      assert.are.same({ out = "nil\n", err = "", status = 0 }, result)
      assert.are.equal(1, #picture().boxes)
      assert.are.equal(folder .. "/script.lua", picture().processes[picture().boxes[1].pid])
    end)

    it("is one of its commands, too", function()
      local result = shell.run(("seq 10 | %s --trace=%s map '_ + 1'"):format(shell.host, path))
      assert.are.equal("2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n", result.out)
      assert.is_true(#picture().boxes > 0)
    end)

    it("wants the name of a file", function()
      for _, words in ipairs { "--trace", "--trace=", "--trace ''" } do
        local result = shell.run(("%s %s"):format(shell.host, words))
        assert.are.equal(1, result.status)
        assert.is_truthy(result.err:find(words == "--trace" and "'--trace' needs argument"
          or "'--trace' must be the name of a file: '' is given", 1, true), result.err)
      end
    end)
  end)
end)
