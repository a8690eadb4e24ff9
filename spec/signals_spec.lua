-- Ctrl-C, Ctrl-Z, signals to the parent and its death, on a terminal with a shell, under the interpreter
-- that this run of the specs is about.

local process = require "spec.support.process"
local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local slow = shell.interpreter:find("asan") and 2 or 1 -- a factor

local count = 0
local mark

-- An interactive shell on a terminal, with the prompt `READY$ `, and a script to run in it.
local function start(script, rows)
  count = count + 1
  mark = ("MANTICHORA_SIGNALS=%d-%d"):format(process.pid(), count)
  -- Without noflsh the kernel drops what a terminal has yet to show when Ctrl-C or Ctrl-Z is typed.
  local t = terminal.start("stty noflsh; env PS1='READY$ ' HISTFILE= bash --norc --noprofile -i", 160, rows or 24)
  shell.write(t.folder .. "/script.lua", script or "")
  t:wait(function(lines) return lines[1] == "READY$" end)
  return t
end

-- Type the command that runs the script, and wait for it to say "running".
local function run(t, options)
  t:enter(("clear; env %s %s %s/script.lua %s"):format(mark, shell.interpreter, t.folder, options or ""))
  t:wait(function(lines) return table.concat(lines, "\n"):find("running", 1, true) end)
end

local function count_of(lines, text)
  local _, times = table.concat(lines, "\n"):gsub(text, "")
  return times
end

-- Wait for the prompt after what `act` does; the screen, and the seconds that it took.
local function until_prompt(t, act, seconds)
  local from = process.clock()
  act()
  local lines
  t:wait(function(now)
    lines = now
    return now[#now] == "READY$"
  end, seconds)
  return lines, process.clock() - from
end

local function assert_clean(t)
  local x, _, shown = t:cursor()
  assert.are.equal(7, x) -- after the prompt, which stands on a line of its own
  assert.is_true(shown)
  assert.are.same({}, process.outlive(mark, 1.2))
end

-- All tasks run when "running" is said.
local prelude = [[
  local mantichora = require "mantichora"
  local atpbar = require "mantichora.atpbar"
  local function running(pool, number)
    repeat
      pool:poll(0.01)
      local count = 0
      for _, worker in ipairs(pool:workers()) do count = count + (worker.runid and 1 or 0) end
    until count == number
    io.stderr:write("running\n")
  end
]]

local with_bars = prelude .. [[
  local pool <close> = mantichora { nworkers = 2 }
  for i = 1, 2 do
    pool:run(function()
      for _ in atpbar(1000, "bar " .. i) do mantichora.sleep(0.01) end
    end)
  end
  running(pool, 2)
  %s
]]

local waits = {
  ["returns"] = "pool:returns()",
  ["receive_one"] = "pool:receive_one()",
  ["as_completed"] = "for _ in pool:as_completed() do end",
  ["map"] = "pool:map(function() mantichora.sleep(20) end, { 1, 2, 3 })",
  ["close"] = "pool:close()",
  ["run"] = [[
    local full <close> = mantichora { nworkers = 1, max_queued = 1 }
    for _ = 1, 3 do full:run(mantichora.sleep, 20) end
  ]],
  ["sleep"] = "mantichora.sleep(20)",
  ["a coroutine"] = "coroutine.wrap(function() pool:returns() end)()",
  ["a coroutine in a coroutine"] =
    "coroutine.wrap(function() coroutine.wrap(function() pool:receive_one() end)() end)()",
  ["the host's own code"] = "while true do end",
}

describe("Ctrl-C", function()
  for wait, code in pairs(waits) do
    it("ends a wait in " .. wait, function()
      local t <close> = start(with_bars:format(code))
      run(t)
      local lines, seconds = until_prompt(t, function() t:type("C-c") end)
      assert.are.equal(1, count_of(lines, "interrupted!"), table.concat(lines, "\n"))
      assert.is_true(seconds < 0.8 * slow, tostring(seconds))
      assert_clean(t)
    end)
  end

  it("leaves a full queue as it is: the task is not accepted", function()
    local t <close> = start(prelude .. [[
      local pool <close> = mantichora { nworkers = 1, max_queued = 1 }
      local function task() mantichora.sleep(2) return "done" end
      pool:run(task)
      running(pool, 1)
      pool:run(task)
      local fine, message = pcall(pool.run, pool, task)
      print("caught", fine, message)
      print("received", pool:returns().n)
    ]])
    run(t)
    local lines = until_prompt(t, function() t:type("C-c") end)
    assert.are.equal(1, count_of(lines, "caught%s+false%s+%S*%s*interrupted!"), table.concat(lines, "\n"))
    assert.are.equal(1, count_of(lines, "received%s+2"), table.concat(lines, "\n"))
    assert_clean(t)
  end)

  it("can be caught: the wait is abandoned, not the tasks", function()
    local t <close> = start(prelude .. [[
      local pool <close> = mantichora { nworkers = 2 }
      pool:run(function() mantichora.sleep(1) return "done" end)
      running(pool, 1)
      local fine, message = pcall(pool.returns, pool)
      print("caught", fine, message)
      print("received", pool:returns()[1])
    ]])
    run(t)
    local lines = until_prompt(t, function() t:type("C-c") end)
    assert.are.equal(1, count_of(lines, "caught%s+false%s+%S*%s*interrupted!"), table.concat(lines, "\n"))
    assert.are.equal(1, count_of(lines, "received%s+done"), table.concat(lines, "\n"))
    assert_clean(t)
  end)

  it("ends tasks that ignore a stop after the grace", function()
    local t <close> = start(prelude .. [[
      local pool <close> = mantichora { nworkers = 2 }
      pool:run(function() while true do pcall(function() while true do end end) end end)
      pool:run(function() os.execute("trap '' INT TERM HUP; while :; do sleep 1; done") end)
      running(pool, 2)
      pool:returns()
    ]])
    run(t)
    local lines, seconds = until_prompt(t, function() t:type("C-c") end)
    assert.are.equal(1, count_of(lines, "interrupted!"), table.concat(lines, "\n"))
    assert.is_true(seconds < 1.5 * slow, tostring(seconds))
    assert_clean(t)
  end)

  it("twice ends at once", function()
    local t <close> = start(prelude .. [[
      local pool <close> = mantichora { nworkers = 2 }
      local slow <close> = setmetatable({}, { __close = function()
        print("cleaning")
        mantichora.sleep(20)
      end })
      pool:run(function() while true do pcall(function() while true do end end) end end)
      pool:run(function() os.execute("trap '' INT TERM HUP; while :; do sleep 1; done") end)
      running(pool, 2)
      pool:returns()
    ]])
    run(t)
    t:type("C-c")
    t:wait(function(lines) return count_of(lines, "cleaning") == 1 end)
    -- `lua` ends by the second; under our host it ends the wait, and the pool's scope stops the tasks.
    local _, seconds = until_prompt(t, function() t:type("C-c") end)
    assert.is_true(seconds < (shell.interpreter:find("lua5.4") and 0.5 or 1.3) * slow, tostring(seconds))
    assert_clean(t)
  end)

  it("that is caught works every time under our host", function()
    local real = shell.interpreter
    shell.interpreter = real:gsub("%S+$", "") .. shell.host
    finally(function() shell.interpreter = real end)
    local t <close> = start(prelude .. [[
      local pool <close> = mantichora { nworkers = 2, on_error = "return" }
      pool:run(function() mantichora.sleep(60) end)
      pool:run(function() mantichora.sleep(60) end)
      running(pool, 2)
      local waits = { pool.returns, pool.receive_one, pool.close, pool.receive_all, function() while true do end end }
      for i, wait in ipairs(waits) do
        io.stderr:write("waiting ", i, "\n")
        print("caught " .. i, select(2, pcall(wait, pool)))
        io.stdout:flush()
      end
      io.stderr:write("leaving\n")
    ]], 40)
    run(t)
    for i = 1, 5 do
      t:wait(function(lines) return count_of(lines, "waiting " .. i) == 1 end)
      t:type("C-c")
      t:wait(function(lines) return count_of(lines, "caught " .. i .. "%s[^\n]*interrupted!") == 1 end)
    end
    t:wait(function(lines) return count_of(lines, "leaving") == 1 end)
    local lines, seconds = until_prompt(t, function() t:type("C-c") end)
    assert.are.equal(6, count_of(lines, "interrupted!"), table.concat(lines, "\n"))
    assert.is_true(seconds < 1.5 * slow, tostring(seconds))
    assert_clean(t)
  end)
end)

describe("Ctrl-Z", function()
  it("stops the parent, not the tasks; fg goes on with nothing lost", function()
    local t <close> = start(prelude .. [[
      local pool <close> = mantichora { nworkers = 2 }
      for i = 1, 2 do
        pool:run(function(file)
          for n = 1, 20 do
            print(("line %d.%02d"):format(i, n))
            mantichora.sleep(0.02)
            while n == 10 and not io.open(file .. ".go") do mantichora.sleep(0.01) end
          end
          assert(io.open(file .. ".done" .. i, "w")):close()
          return i
        end, arg[0])
      end
      running(pool, 2)
      local results = pool:returns()
      print("results", results[1], results[2])
    ]], 60)
    run(t)
    local lines = until_prompt(t, function() t:type("C-z") end)
    assert.truthy(table.concat(lines, "\n"):find("Stopped", 1, true))
    shell.write(t.folder .. "/script.lua.go", "")
    -- The tasks go on to their ends meanwhile.
    process.wait(function()
      local one <close> = io.open(t.folder .. "/script.lua.done1")
      local two <close> = io.open(t.folder .. "/script.lua.done2")
      return one and two
    end, 10)
    -- The parent is stopped, and two workers are not.
    process.wait(function()
      local states = {}
      for _, pid in ipairs(process.marked(mark)) do
        local file <close> = assert(io.open(("/proc/%d/stat"):format(pid)))
        states[#states + 1] = file:read("a"):match("%) (%a)")
      end
      table.sort(states)
      return table.concat(states) == "SST"
    end, 5)
    lines = until_prompt(t, function()
      t:enter("fg")
      t:wait(function(now) return count_of(now, "results%s+1%s+2") == 1 end)
    end)
    for i = 1, 2 do
      for n = 1, 20 do
        assert.are.equal(1, count_of(lines, ("line %d.%02d"):format(i, n)), table.concat(lines, "\n"))
      end
    end
    assert_clean(t)
  end)

  it("blocks tasks whose pipes are full, and loses nothing", function()
    local t <close> = start(prelude .. [[
      local pool <close> = mantichora { nworkers = 2 }
      for i = 1, 2 do
        pool:run(function()
          for n = 1, 30000 do io.write(("line %d.%05d of this task\n"):format(i, n)) end
          return ("x"):rep(1 << 22)
        end)
      end
      running(pool, 2)
      local results = pool:returns()
      io.stderr:write("results ", #results[1], " ", #results[2], "\n")
    ]])
    run(t, "| (read line; echo $line; exec cat >" .. t.folder .. "/all)")
    until_prompt(t, function() t:type("C-z") end)
    local lines = until_prompt(t, function()
      t:enter("fg")
      t:wait(function(now) return count_of(now, "results 4194304 4194304") == 1 end)
    end)
    assert.are.equal(1, count_of(lines, "line %d%.%d+ of this task"), table.concat(lines, "\n"))
    local seen, total = { 0, 0 }, 0
    for line in io.lines(t.folder .. "/all") do
      local i, n = line:match("^line (%d)%.(%d+) of this task$")
      i, n = tonumber(i), tonumber(n)
      assert(n == seen[i] + 1 or n == 2 and seen[i] == 0, line) -- the very first was on the screen
      seen[i], total = n, total + 1
    end
    assert.are.same({ 30000, 30000 }, seen)
    assert.are.equal(59999, total)
    assert_clean(t)
  end)

  it("a killed job leaves no worker", function()
    local t <close> = start(with_bars:format("pool:returns()"))
    run(t)
    until_prompt(t, function() t:type("C-z") end)
    assert.is_true(#process.marked(mark) >= 3)
    t:enter("kill -9 %1; wait")
    assert.are.same({}, process.outlive(mark, 1.5))
  end)
end)

describe("the death of the parent", function()
  local busy = prelude .. [[
    local pool <close> = mantichora { nworkers = 4 }
    pool:run(function() while true do end end)
    pool:run(function() string.rep("a", 1 << 14):find((".-"):rep(40) .. "b") end)
    pool:run(function() os.execute("sleep 60") end)
    pool:run(function()
      local inner <close> = mantichora { nworkers = 1 }
      inner:run(function() while true do end end)
      inner:returns()
    end)
    running(pool, 4)
    local other <close> = mantichora { nworkers = 2 }
    other:start()
    io.stdout:write("pid ", (io.open("/proc/self/stat"):read("n")), "\n")
    io.stdout:flush()
    pool:returns()
  ]]

  for _, signal in ipairs { "TERM", "HUP", "KILL", "QUIT", "SEGV", "PIPE", "ALRM" } do
    it("by SIG" .. signal .. " takes all workers along", function()
      local t <close> = start(busy)
      run(t)
      local pid
      t:wait(function(lines)
        pid = table.concat(lines, "\n"):match("pid (%d+)")
        return pid
      end)
      assert.is_true(#process.marked(mark) >= 7)
      os.execute(("kill -%s %s"):format(signal, pid))
      -- A sanitizer takes its time to report a SIGSEGV before it lets the parent die.
      process.wait(function() return not process.runs(pid) end, signal == "SEGV" and 10 * slow or 1.2)
      assert.are.same({}, process.outlive(mark, 1.2))
      until_prompt(t, function() end)
      local x, _, shown = t:cursor()
      assert.are.equal(7, x)
      assert.is_true(shown)
    end)
  end

  it("with its terminal takes all workers along", function()
    local t <close> = start(busy)
    run(t)
    t:wait(function(lines) return table.concat(lines, "\n"):find("pid %d+") end)
    t:tmux("kill-server")
    assert.are.same({}, process.outlive(mark, 1.5))
  end)
end)

describe("Ctrl-C at the REPL", function()
  it("ends the wait; the pool and its tasks stay", function()
    local t <close> = start()
    t:enter(("clear; env %s %s"):format(mark, shell.host))
    t:wait(function(lines) return lines[#lines] == ">" end)
    t:enter('mantichora = require "mantichora"')
    t:enter("pool = mantichora { nworkers = 2 }")
    t:enter('pool:run(function() mantichora.sleep(1.5) return "kept" end)')
    t:wait(function(lines) return lines[#lines] == ">" and lines[#lines - 1] == "0" end)
    t:enter("pool:returns()")
    t:wait(function(lines) return lines[#lines]:find("returns") end)
    os.execute("sleep 0.2")
    t:type("C-c")
    t:wait(function(lines) return count_of(lines, "interrupted!") == 1 and lines[#lines] == ">" end, 2)
    -- The same pool, the same task.
    t:enter("=pool:returns()[1]")
    t:wait(function(lines) return lines[#lines - 1] == "kept" and lines[#lines] == ">" end)
    t:enter('pool:run(function() return "another" end)')
    t:enter("=pool:returns()[1]")
    t:wait(function(lines) return lines[#lines - 1] == "another" and lines[#lines] == ">" end)
    local _, _, shown = t:cursor()
    assert.is_true(shown)
    t:type("C-d")
    t:wait(function(lines) return lines[#lines] == "READY$" end)
    assert.are.same({}, process.outlive(mark, 1.2))
  end)

  it("drops the line, again and again", function()
    local t <close> = start()
    t:enter(("clear; env %s %s"):format(mark, shell.host))
    t:wait(function(lines) return lines[#lines] == ">" end)
    for _ = 1, 3 do
      t:text("error(1")
      t:wait(function(lines) return lines[#lines] == "> error(1" end)
      t:type("C-c")
      t:wait(function(lines) return lines[#lines] == ">" end, 2)
    end
    t:enter("=6 * 7")
    t:wait(function(lines) return lines[#lines - 1] == "42" end)
  end)
end)
