-- Faults: every accepted task ends in exactly one way, every call returns, nothing is left behind.
-- Each case is a script of its own in a process of its own, so that a fault cannot take busted along.

local process = require "spec.support.process"
local shell = require "spec.support.shell"

local prelude = [[
local m = require "mantichora"
local process = require "spec.support.process"
local execute, exit = os.execute, os.exit
local function kill(signal, pid) execute(("kill -%s %d"):format(signal, pid)) end
-- Wait until some worker of the pool runs a task; its PID.
local function busy(pool)
  return process.wait(function()
    pool:poll(0)
    for _, worker in ipairs(pool:workers()) do
      if worker.runid then return worker.pid end
    end
  end)
end
local function kinds(list)
  local words = {}
  for i = 1, list.n do words[i] = type(list[i]) == "table" and list[i].kind or tostring(list[i]) end
  return table.concat(words, " ")
end
]]

local count = 0
local function new_mark()
  count = count + 1
  return ("fault-%d-%d-%d"):format(process.pid(), os.time(), count)
end

-- Processes that have the mark in their environment.
local function marked(mark)
  local found = {}
  local pipe <close> = assert(io.popen(("grep -alsF 'MANTICHORA_FAULT=%s' /proc/[0-9]*/environ"):format(mark)))
  for path in pipe:lines() do
    local pid = tonumber(path:match("%d+"))
    if process.runs(pid) then found[#found + 1] = pid end
  end
  return found
end

-- Run a script; `before` is put before the interpreter (limits, redirections' group), `after` behind
-- the script. Whatever it left behind fails the case.
local function run(script, options)
  options = options or {}
  local mark, path = new_mark(), os.tmpname()
  shell.write(path, prelude .. script)
  local got = shell.run(("export MANTICHORA_FAULT=%s\n%s %s %s %s"):format(mark, options.before or "",
    options.interpreter or shell.interpreter, path, options.after or ""), { timeout = options.timeout or 30 })
  os.remove(path)
  local deadline = process.clock() + 1.5
  local left
  repeat
    left = marked(mark)
  until #left == 0 or process.clock() > deadline
  for _, pid in ipairs(left) do os.execute("kill -9 " .. pid) end
  assert.are.equal(0, #left, "processes left behind; " .. got.err)
  return got
end

-- What a script that must succeed has printed.
local function output_of(script, options)
  local got = run(script, options)
  assert.are.equal(0, got.status, got.err .. got.out)
  assert.are.equal("", got.err)
  return got.out
end

describe("a killed worker", function()
  it("that was idle is replaced and costs nothing", function()
    assert.are.equal("1 2 3\n2\n", output_of [[
      local p <close> = m { nworkers = 2 }
      p:run(function() end) p:returns()
      for _, worker in ipairs(p:workers()) do kill(9, worker.pid) end
      m.sleep(0.1)
      for i = 1, 3 do p:run(function() return i end) end
      print(kinds(p:returns()))
      print(#p:workers())]])
  end)

  it("that never had a task is replaced once there is work for two", function()
    assert.are.equal("2\n", output_of [[
      local p <close> = m { nworkers = 2 }
      p:start()
      kill(9, p:workers()[1].pid)
      m.sleep(0.1)
      p:run(execute, "sleep 0.2")
      p:run(execute, "sleep 0.2")
      process.wait(function() p:poll(0) return #p:workers() == 2 end)
      p:returns()
      print(#p:workers())]])
  end)

  local tasks = {
    ["that is in a loop"] = "function() while true do end end",
    ["that waits for a program"] = "function() execute('sleep 100') end",
    ["that prints"] = "function() while true do print(('x'):rep(99)) end end",
    ["that sends a large result"] = "function() return ('x'):rep(1 << 26) end",
  }
  for what, task in pairs(tasks) do
    it(what .. " ends its task as killed, and only that", function()
      local out = output_of([[
        local p <close> = m { nworkers = 2, on_error = "return", background = false }
        p:run(]] .. task .. [[)
        local pid = busy(p)
        execute("sleep 0.1")
        kill(9, pid)
        local other = p:run(function() return "fine" end)
        local results = p:returns()
        local failure = results[1]
        io.stderr:write(failure.kind, " ", failure.signal, " ", failure.pid == pid and "same" or "other")
        print("")
        print(results[2])
        p:run(function() return 1 end)
        p:run(function() return 2 end)
        print(kinds(p:returns()), #p:workers())]], { after = "2>&1 | sed 's/^x*$//' | grep -v '^$'" })
      assert.are.equal("killed 9 same\nfine\n1 2\t2\n", out)
    end)
  end

  for signal, number in pairs { SEGV = 11, TERM = 15, PIPE = 13, ABRT = 6 } do
    it("is told by its signal: " .. signal, function()
      assert.are.equal(("killed %d\n"):format(number), output_of([[
        local p <close> = m { nworkers = 1, on_error = "return" }
        p:run(function() execute("ulimit -c 0; kill -]] .. signal .. [[ $PPID; sleep 1") end)
        local failure = p:returns()[1]
        print(failure.kind, failure.signal)]]):gsub("\t", " "), nil)
    end)
  end

  it("takes the programs that it started along", function()
    output_of [[
      local p <close> = m { nworkers = 1, on_error = "return" }
      p:run(execute, "sleep 100 & sleep 100")
      kill(9, busy(p))
      assert(p:returns()[1].kind == "killed")]]
  end)
end)

describe("a worker that", function()
  it("is stopped goes on when it is continued", function()
    assert.are.equal("timeout\n7\n", output_of [[
      local p <close> = m { nworkers = 1 }
      p:run(function() execute("sleep 0.1") return 7 end)
      local pid = busy(p)
      kill("STOP", pid)
      print(select(2, p:receive_one(0.3)))
      kill("CONT", pid)
      print(select(2, p:receive_one()))]])
  end)

  it("is stopped meets its timeout and the end of the pool", function()
    assert.are.equal("timeout\n", output_of [[
      do
        local p <close> = m { nworkers = 2, timeout = 0.2, on_error = "return" }
        p:run(function() while true do end end)
        kill("STOP", busy(p))
        print(p:returns()[1].kind)
        for _, worker in ipairs(p:workers()) do kill("STOP", worker.pid) end
      end]])
  end)

  it("exits tells its status after its output", function()
    assert.are.equal("partial\nexited 3\nexited 0\nexited 1\n", (output_of [[
      local p <close> = m { nworkers = 2, on_error = "return" }
      p:run(function() io.write("partial") exit(3) end)
      p:run(function() exit() end)
      p:run(function() exit(false) end)
      for _, failure in ipairs(p:returns()) do print(failure.kind, failure.exitcode) end]]):gsub("\t", " "), nil)
  end)

  it("is ended by exit() of C leaves in the same way", function()
    -- The snapshot's task has the host's own os.exit, which calls exit().
    assert.are.equal("partial\nexited 5\n", (output_of [[
      local p <close> = m { nworkers = 1, on_error = "return", engine = "snapshot" }
      p:run(function() io.write("partial") exit(5) end)
      local failure = p:returns()[1]
      print(failure.kind, failure.exitcode)]]):gsub("\t", " "), nil)
  end)

  it("leaves a running program behind when it exits in peace ends its task all the same", function()
    assert.are.equal("exited\n", output_of [[
      local p <close> = m { nworkers = 1, on_error = "return" }
      p:run(function() execute("exec sleep 1 &") exit(3) end)
      local start = process.clock()
      print(p:returns()[1].kind)
      assert(process.clock() - start < 0.8)]])
  end)
end)

describe("taken back tasks", function()
  it("make room again, however many there are", function()
    -- A worker that has passed over all of them says nothing: the pool must look by itself. (When
    -- it is to look is in spec/c/test_engine_fork.c; whether this case meets it is a matter of time.)
    output_of [[
      local p <close> = m { nworkers = 1, on_error = "return", background = false }
      for _ = 1, 30 do
        p:run(execute, "sleep 0.01")
        p:poll(0)
        for _ = 1, 3 do
          local runids = {}
          for i = 1, 63 do runids[i] = p:run(function() end) end
          p:poll(0)
          for _, runid in ipairs(runids) do p:cancel(runid) end
        end
        for _ = 1, 3 do p:run(function() end) end
        repeat
          local runid, why = p:receive_one(2)
          assert(why ~= "timeout", tostring(p))
        until not runid
      end]]
  end)
end)

describe("the end of the parent by SIGKILL", function()
  local tasks = {
    ["a loop of Lua"] = "p:run(function() while true do end end) busy(p)",
    ["a loop of C"] = "p:run(string.find, ('a'):rep(60000), ('a-'):rep(60) .. 'b') busy(p)",
    ["a program"] = "p:run(execute, 'sleep 100; true') busy(p)",
    ["a program with its signals blocked"] = [[p:run(execute, "trap '' HUP INT TERM PIPE; sleep 100; true") busy(p)]],
    ["nothing"] = "p:start()",
    ["a stopped worker"] = "p:start() for _, worker in ipairs(p:workers()) do kill('STOP', worker.pid) end",
    ["a full pipe"] = "p:run(function() while true do print(('x'):rep(999)) end end) busy(p) execute('sleep 0.1')",
    ["a pool of its own"] = [[p:run(function()
        local inner <close> = require "mantichora" { nworkers = 2 }
        for _ = 1, 2 do inner:run(function() while true do end end) end
        inner:poll(0)
        execute("touch " .. os.getenv("MANTICHORA_READY") .. ".inner")
        inner:returns()
      end) busy(p) process.wait(function() return os.remove(os.getenv("MANTICHORA_READY") .. ".inner") end)]],
    ["another pool, forked in between"] = [[
      p:run(function() end) p:returns()
      local q = m { nworkers = 2 } q:start()
      for _, worker in ipairs(p:workers()) do kill(9, worker.pid) end
      m.sleep(0.1)
      for _ = 1, 2 do
        p:run(function() while true do end end)
        q:run(function() while true do end end)
      end
      busy(p) busy(q)]],
  }
  for what, setup in pairs(tasks) do
    it("ends all workers within a second: " .. what, function()
      local mark, path, ready = new_mark(), os.tmpname(), os.tmpname()
      os.remove(ready)
      shell.write(path, prelude .. "local p = m { nworkers = 2, background = false }\n" .. setup .. [[

        execute("touch " .. os.getenv("MANTICHORA_READY"))
        while true do execute("sleep 0.1") end]])
      local pipe <close> = assert(io.popen(("export MANTICHORA_READY=%s MANTICHORA_FAULT=%s; echo $$; exec %s %s 2>&1")
        :format(ready, mark, shell.interpreter, path)))
      local pid = pipe:read("n", "l")
      process.wait(function() return os.remove(ready) end)
      os.execute("kill -9 " .. pid)
      local start = process.clock()
      local left
      repeat
        left = marked(mark)
      until #left == 0 or process.clock() - start > 1
      for _, each in ipairs(left) do os.execute("kill -9 " .. each) end
      os.remove(path)
      assert.are.equal(0, #left)
    end)
  end
end)

describe("too few", function()
  it("descriptors end in an error or in work done, and never in a busy wait", function()
    for limit = 6, 45 do
      local got = run([[
        local p <close> = m { nworkers = 4, on_error = "return" }
        for i = 1, 20 do p:run(function() return i end) end
        local results = p:returns()
        for i = 1, 20 do assert(results[i] == i, tostring(results[i])) end
        print("done")]], { before = ("ulimit -n %d;"):format(limit), timeout = 20 })
      local said = ("limit %d, status %d: %s%s"):format(limit, got.status, got.out, got.err)
      if got.status == 0 then
        assert.are.equal("done\n", got.out, said)
      else
        assert.are.equal(1, got.status, said)
        assert.truthy(got.err:find("Too many open files", 1, true) or got.err:find("Resource temporarily", 1, true)
          or got.err:find("cannot", 1, true), said)
      end
    end
  end)

  it("workers do not make the helper thread spin", function()
    output_of([[
      local p <close> = m { nworkers = 16 }
      p:start()
      local workers = #p:workers()
      assert(workers > 0 and workers < 16, workers)
      p:run(execute, "sleep 1")
      execute("sleep 0.3") -- past the time of another try to fork
      local before = os.clock()
      execute("sleep 0.5")
      assert(os.clock() - before < 0.1, os.clock() - before)
      p:returns()]], { before = "ulimit -n 60;" })
  end)
end)

describe("a parent", function()
  it("that ignores SIGCHLD gets results and failures", function()
    local out = output_of([[
      local p <close> = m { nworkers = 2, on_error = "return" }
      p:run(function() return 1 end)
      p:run(function() execute("kill -9 $PPID; sleep 1") end)
      p:run(function() exit(4) end)
      p:run(function() return (execute("true")) end)
      local results = p:returns()
      print(kinds(results))
      print(results[3].exitcode)]], { before = "trap '' CHLD;" })
    assert.are.equal("1 killed exited true\n4\n", out)
  end)

  for what, closed in pairs {
    ["stdin"] = "<&-", ["stdout"] = ">&-", ["stderr"] = "2>&-", ["stdin and stdout"] = "<&- >&-",
    ["all three"] = "<&- >&- 2>&-",
  } do
    it("without " .. what .. " has workers that have all", function()
      local path = os.tmpname()
      local got = run([[
        local p = m { nworkers = 2, on_error = "return" }
        local popen, stdin, write = io.popen, io.stdin, io.write
        p:run(function()
          local pipe <close> = popen("cat 2>&1; echo $?")
          return pipe:read("a")
        end)
        p:run(function() return tostring(stdin:read("a")) end)
        p:run(function() return tostring(write("to stdout\n") ~= nil) end)
        p:run(function() return tostring(io.stderr:write("to stderr\n") ~= nil) end)
        local results = p:returns()
        p:close()
        local file <close> = io.open("]] .. path .. [[", "w") -- may get one of the closed numbers
        file:write(table.concat(results, "|"))]], { after = closed })
      assert.are.equal(0, got.status)
      local file <close> = io.open(path)
      os.remove(path)
      assert.are.equal("0\n||true|true", file:read("a"))
    end)
  end
end)

describe("SIGINT", function()
  for what, wait in pairs {
    ["returns()"] = "p:returns()",
    ["receive_one() in a coroutine"] = "assert(coroutine.resume(coroutine.create(function() p:receive_one() end)))",
    ["sleep()"] = "m.sleep(60)",
  } do
    it("ends a script that waits in " .. what, function()
      local got = run([[
        local p <close> = m { nworkers = 3 }
        for _ = 1, 5 do p:run(function() while true do end end) end
        p:run(execute, "sleep 100")
        busy(p)
        execute("{ sleep 0.2; date +%s.%N; kill -INT " .. process.pid() .. "; } &")
        ]] .. wait, { after = "; echo status $?; date +%s.%N", timeout = 20 })
      local sent, status, ended = got.out:match("^(%S+)\nstatus (%d+)\n(%S+)\n$")
      assert.truthy(sent, got.out .. got.err)
      assert.are.equal("1", status)
      assert.is_true(tonumber(ended) - tonumber(sent) < 0.5 + 0.5, "it took its time")
      local _, times = got.err:gsub("interrupted!", "")
      assert.are.equal(1, times, got.err)
    end)
  end
end)

describe("output of tasks", function()
  local mixed = [[
    local p <close> = m { nworkers = 4 }
    print("first")
    for i = 1, 40 do
      p:run(function()
        for part = 1, 5 do
          for piece = 1, 4 do io.write(("%d.%d.%d;"):format(i, part, piece)) io.flush() end
          io.write("\n")
        end
        execute(("printf 'program %d\nrest %d'"):format(i, i))
      end)
    end
    p:returns()
    print("last")]]
  local places = { ["a pipe"] = "| cat", ["a file"] = ">%s; cat %s", ["the same as stderr"] = "2>&1 | cat" }
  for where, after in pairs(places) do
    it("comes in whole lines to " .. where, function()
      local path = os.tmpname()
      local out = output_of(mixed, { after = (after:gsub("%%s", path)) })
      os.remove(path)
      local lines, seen = 0, {}
      for line in out:gmatch("([^\n]*)\n") do
        lines = lines + 1
        assert.is_nil(seen[line])
        seen[line] = lines
        local a, b, c, d = line:match("^(%d+%.%d)%.1;(%d+%.%d)%.2;(%d+%.%d)%.3;(%d+%.%d)%.4;$")
        assert.truthy(a and a == b and b == c and c == d or line:match("^program %d+$") or
          line:match("^rest %d+$") or line == "first" or line == "last", line)
      end
      assert.are.equal(40 * 7 + 2, lines)
      assert.are.equal(1, seen.first)
      assert.are.equal(lines, seen.last)
      for i = 1, 40 do
        assert.is_true(seen["program " .. i] < seen["rest " .. i])
        assert.is_true(seen[("%d.5.1;%d.5.2;%d.5.3;%d.5.4;"):format(i, i, i, i)] < seen["program " .. i])
      end
    end)
  end

  it("is all there after a slow reader", function()
    local out = output_of([[
      local p <close> = m { nworkers = 2 }
      for i = 1, 10 do
        p:run(function()
          local line = ("%d "):format(i) .. ("x"):rep(1020)
          for _ = 1, 1024 do print(line) end
          return i
        end)
      end
      assert(p:returns().n == 10)]],
      { after = "| { sleep 1; cat; } | sort | uniq -c | awk '{ print $2, $1, length($3) }' | sort -n" })
    local expected = {}
    for i = 1, 10 do expected[i] = ("%d 1024 1020\n"):format(i) end
    assert.are.equal(table.concat(expected), out)
  end)

  it("comes before the task's result, and after what the parent printed", function()
    local expected = {}
    for i = 1, 200 do expected[i] = ("before %d\nin %d\nafter %d\n"):format(i, i, i) end
    assert.are.equal(table.concat(expected), output_of([[
      local p <close> = m { nworkers = 2 }
      for i = 1, 200 do
        print("before " .. i)
        p:run(function() print("in " .. i) end)
        p:receive_one()
        print("after " .. i)
      end]], { after = "| cat" }))
  end)
end)

describe("a program that outlives its task", function()
  for what, options in pairs {
    ["lives on"] = "", ["is replaced"] = "max_tasks_per_worker = 1", ["was for one task"] = "engine = 'snapshot'",
  } do
    it("is heard while the pool is there, where the worker " .. what, function()
      assert.are.equal("now\ntask\nlate\nlast\n", output_of([[
        local p <close> = m { nworkers = 1, ]] .. options .. [[ }
        local fifo = os.tmpname()
        execute("rm " .. fifo .. "; mkfifo " .. fifo)
        local command = ("{ read _ <%s; echo late; printf last; rm %s; } & echo now"):format(fifo, fifo)
        p:run(function()
          execute(command)
          local file <close> = io.open("/proc/self/stat")
          return file:read("n")
        end)
        local pid = p:returns()[1]
        print("task")
        local stays = ]] .. tostring(options == "") .. [[

        process.wait(function() p:poll(0) return stays or not process.runs(pid) end)
        p:poll(0)
        execute("echo go >" .. fifo)
        process.wait(function() return not execute("test -e " .. fifo) end)
        p:poll(0)]]))
    end)
  end
end)

describe("a storm of 5,000 tasks with deaths", function()
  it("ends each in one way, and prints each line once", function()
    local out = output_of([[
      local p <close> = m { nworkers = 4, on_error = "return", background = arg[1] ~= "alone" }
      local getpid = function() local f <close> = io.open("/proc/self/stat") return f:read("n") end
      local function task(i)
        print("line " .. i)
        local fate = math.random(20)
        if fate == 1 then execute("kill -9 $PPID; sleep 1") end
        if fate == 2 then exit(i % 100) end
        if fate == 3 then error("no " .. i) end
        if fate == 4 then return print, coroutine.create(print) end
        return i
      end
      for i = 0, 4999 do assert(p:run(task, i) == i) end
      local tally, n = {}, 0
      for runid, value in p:as_completed() do
        n = n + 1
        local kind = type(value) == "table" and value.kind or "ok"
        assert(kind ~= "ok" or value == runid)
        assert(kind ~= "exited" or value.exitcode == runid % 100)
        assert(kind ~= "killed" or value.signal == 9)
        assert(kind ~= "error" or value.message:find("no " .. runid, 1, true))
        tally[kind] = (tally[kind] or 0) + 1
      end
      assert(n == 5000, n)
      for _, kind in ipairs { "ok", "killed", "exited", "error", "unsendable" } do
        assert(tally[kind] > (kind == "ok" and 3600 or 150), kind)
      end
      print("tally", n)]], { after = "| sort | uniq -c | awk '{ print $1, $2 }' | sort | uniq -c", timeout = 120 })
    assert.are.equal("      1 1 tally\n   5000 1 line\n", out:gsub("^(%s+5000 1 line\n)(%s+1 1 tally\n)$", "%2%1"), nil)
  end)
end)
