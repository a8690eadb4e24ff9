-- What a person sees while tasks run and the script prints: on a terminal, above the bars.

local cjson = require "cjson"
local pty = require "spec.support.pty"
local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local HEAD = [[
local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
]]

local function run(code, options)
  options = options or {}
  options.columns, options.rows = options.columns or 100, options.rows or 30
  local got = pty.run(HEAD .. code, options)
  assert.equal("", table.concat(got.screen.unknown, " "))
  assert.equal(options.status or 0, got.status, got.screen:text())
  assert.is_true(got.screen.cursor)
  assert.is_false(got.screen.synchronized)
  return got
end

-- The rows that are no bars.
local function others(rows)
  local list = {}
  for _, row in ipairs(rows) do
    if not row:find("%d%%") then list[#list + 1] = row end
  end
  return list
end

local function bars(rows)
  local list = {}
  for _, row in ipairs(rows) do
    if row:find("%d%%") then list[#list + 1] = row end
  end
  return list
end

local function numbers(first, last, format)
  local list = {}
  for i = first, last do list[#list + 1] = format:format(i) end
  return list
end

describe("the script's own prints", function()
  it("go above its bar, whichever way they are made", function()
    local got = run([[
      for i in atpbar(200, "loop") do
        print("print", i)
        io.write("write ", i, "\n")
        io.stderr:write("stderr ", i, "\n")
        io.stdout:write("flushed ", i, "\n"):flush()
      end]])
    local rows = got.screen:all()
    assert.equal(801, #rows)
    for i = 1, 200 do
      assert.equal("print   " .. i, rows[i * 4 - 3])
      assert.equal("write " .. i, rows[i * 4 - 2])
      assert.equal("stderr " .. i, rows[i * 4 - 1])
      assert.equal("flushed " .. i, rows[i * 4])
    end
    assert.truthy(rows[801]:find("100.00%", 1, true))
  end)

  it("do so unbuffered and fully buffered", function()
    for _, mode in ipairs{ "no", "line", "full" } do
      local got = run(([[
        io.stdout:setvbuf("%s")
        for i in atpbar(50, "loop") do io.write("a", i, "\n") atpbar.flush() end
        print("mode")]]):format(mode))
      local rows = got.screen:all()
      assert.same(numbers(1, 50, "a%d"), table.move(rows, 1, 50, 1, {}))
      assert.same({ "mode" }, table.move(rows, 52, 60, 1, {}))
    end
  end)

  it("may come in pieces", function()
    local got = run([[
      io.write("before ")
      for i in atpbar(3, "loop") do
        io.write(i, " ")
        atpbar.flush()
        if i == 2 then io.write("end\nnext ") end
      end
      io.write("after\n")]])
    assert.same({ "before 1 2 end", "next 3 after" }, others(got.screen:rows()))
  end)

  it("may be longer than a row", function()
    local got = run([[
      for i in atpbar(3, "loop") do io.write(("%d"):format(i):rep(50)) atpbar.flush() end
      print()]], { columns = 40, rows = 20 })
    assert.equal(("1"):rep(50) .. ("2"):rep(50) .. ("3"):rep(50),
      table.concat(others(got.screen:rows())))
  end)

  it("may be coloured; a colour left on does not colour the bars", function()
    local got = run([[for i in atpbar(2, "loop") do print("\27[31mred", i) atpbar.flush() end]])
    assert.same({ "red     1", "red     2" }, others(got.screen:rows()))
    assert.falsy(got.bytes:find("\27%[31mred[^\27]*%d%%"))
  end)

  it("are not lost when the script exits in the middle", function()
    for _, how in ipairs{ "os.exit(3)", "os.exit(3, true)" } do
      local got = run(([[
        for i in atpbar(10, "loop") do
          print("print", i)
          io.write("tail")
          if i == 5 then %s end
        end]]):format(how), { status = 3 })
      local text = table.concat(others(got.screen:rows()), "\n")
      assert.equal("print   1\ntailprint       2\ntailprint       3\ntailprint       4\ntailprint       5\ntail", text)
      assert.truthy(bars(got.screen:rows())[1]:find("40.00%%.*|        4 /       10 |:  loop"))
    end
  end)

  it("are not lost when the script fails", function()
    local got = run([[for i in atpbar(10, "loop") do print("print", i) if i == 2 then error "oops" end end]],
      { status = 1 })
    local rows = got.screen:rows()
    assert.equal("print   2", rows[2])
    assert.truthy(rows[3]:find(" 10.00%%.*|        1 /       10 |:  loop"))
    assert.truthy(rows[4]:find("oops", 1, true))
  end)

  it("stay in a file, and bars on the terminal", function()
    local path = os.tmpname()
    local got = run([[for i in atpbar(100, "loop") do print(i) io.stderr:write("e", i, "\n") end]],
      { redirect = ">" .. path })
    local file <close> = io.open(path)
    assert.equal(table.concat(numbers(1, 100, "%d\n")), file:read("a"))
    assert.same(numbers(1, 100, "e%d"), others(got.screen:all()))
    os.remove(path)
  end)

  it("leave no descriptor and no thread behind", function()
    local got = run([[
      local lfs = require "lfs"
      local function entries(path) local n = 0 for _ in lfs.dir(path) do n = n + 1 end return n end
      local files, threads = entries("/proc/self/fd"), entries("/proc/self/task")
      for round = 1, 20 do
        for i in atpbar(10, "loop") do print(i) end
      end
      print("same", files == entries("/proc/self/fd"), threads == entries("/proc/self/task"))]],
      { environment = "MANTICHORA_ATTACH=0" }) -- the socket of those who watch would stay
    local rows = got.screen:all()
    assert.equal("same    true    true", rows[#rows])
  end)

  it("appear at once, also when the loop is slow", function()
    local t <close> = setmetatable({}, { __close = function(self) self[1]:close() shell.remove(self.folder) end })
    t.folder = shell.folder()
    shell.write(t.folder .. "/s.lua", HEAD .. [[
      for i in atpbar(2, "slow") do
        print("begun", i)
        io.stderr:write("more ", i, "\n")
        while not io.open(arg[1] .. "/go" .. i) do end
      end
      print "end"]])
    t[1] = terminal.start(("%s %s/s.lua %s"):format(shell.interpreter, t.folder, t.folder), 80, 20)
    for i = 1, 2 do
      t[1]:wait(function(rows)
        return #rows == 2 * i + 1 and rows[2 * i - 1] == "begun   " .. i and rows[2 * i] == "more " .. i
          and rows[2 * i + 1]:find("slow$")
      end, 10)
      shell.write(t.folder .. "/go" .. i, "")
    end
    t[1]:wait(function(rows) return rows[6] == "end" end, 10)
  end)
end)

describe("bars of tasks", function()
  local LOOP = [[
    local function loop(name, n, pause)
      for i in atpbar(n, name) do mantichora.sleep(pause) end
      return name
    end
  ]]

  it("are drawn with their output and the script's above them, at most every 0.1 s", function()
    local got = run(LOOP .. [[
      local mcore <close> = mantichora{ nworkers = 2 }
      local function task(k)
        for i in atpbar(100, "task" .. k) do
          mantichora.sleep(0.005)
          if i % 25 == 0 then print(("task %d at %d"):format(k, i)) io.stderr:write("to stderr\n") end
        end
      end
      local start = os.time()
      for k = 1, 4 do mcore:run(task, k) end
      for i = 1, 5 do print("script", i) print("busy") mantichora.sleep(0.1) end
      mcore:returns()
      print("end")]])
    local rows = got.screen:all()
    assert.equal(4, #bars(rows))
    for _, row in ipairs(bars(rows)) do
      assert.truthy(row:find("^ 100.00%% " .. (":"):rep(40) .. " |      100 /      100 |:  task%d$"), row)
    end
    local counts = {}
    for _, row in ipairs(others(rows)) do counts[row] = (counts[row] or 0) + 1 end
    for i = 1, 5 do assert.equal(1, counts["script  " .. i]) end
    assert.equal(5, counts["busy"])
    assert.equal(16, counts["to stderr"])
    for k = 1, 4 do
      for i = 25, 100, 25 do assert.equal(1, counts[("task %d at %d"):format(k, i)]) end
    end
    assert.equal("end", rows[#rows])
    assert.equal(4 + 5 + 5 + 16 + 16 + 1, #rows)
    -- About 1.1 s: a dozen frames, and one for each task's output before its result.
    assert.is_true(got.screen.frames >= 5 and got.screen.frames <= 30, "frames: " .. got.screen.frames)
  end)

  it("are there without a helper thread", function()
    local got = run(LOOP .. [[
      local mcore <close> = mantichora{ nworkers = 2, background = false }
      for k = 1, 3 do mcore:run(loop, "task" .. k, 20, 0.01) end
      print(table.concat(mcore:returns(), " "))]])
    assert.equal(3, #bars(got.screen:rows()))
    assert.same({ "task1 task2 task3" }, others(got.screen:rows()))
  end)

  it("stop where their task was stopped, and say so", function()
    local got = run([[
      local mcore <close> = mantichora{ nworkers = 3, on_error = "return" }
      local function part(name, n, stop)
        for i in atpbar(n, name) do if i == 5 then stop() end end
      end
      local pid = io.open("/proc/self/stat"):read("n")
      mcore:run(part, "killed", 10, function() os.execute("kill -9 $PPID") mantichora.sleep(10) end)
      mcore:returns()
      mcore:run(part, "exits", 10, function() os.exit(3) end)
      mcore:returns()
      mcore:run(part, "raises", 10, function() error("oops") end)
      mcore:returns()
      mcore:run_with({ timeout = 0.3 }, part, "slow", 10, function() while true do end end)
      mcore:returns()]])
    local rows = bars(got.screen:rows())
    assert.equal(4, #rows, got.screen:text())
    local ends = { { "killed", "killed" }, { "exits", "exited" }, { "raises", "error" }, { "slow", "timeout" } }
    for i, how in ipairs(ends) do
      assert.truthy(rows[i]:find(("^  40.00%%%% :+ +%s |        4 /       10 |:  %s$"):format(how[2], how[1])), rows[i])
    end
  end)

  it("leave the screen clean when the script fails, and when it is interrupted", function()
    local got = run(LOOP .. [[
      local mcore <close> = mantichora{ nworkers = 2 }
      for k = 1, 2 do mcore:run(loop, "task" .. k, 1000, 0.01) end
      mantichora.sleep(0.3)
      error "oops"]], { status = 1 })
    assert.equal(1, got.screen.column)
    assert.truthy(got.screen:text():find("oops", 1, true))
    local t <close> = setmetatable({}, { __close = function(self) self[1]:close() shell.remove(self.folder) end })
    t.folder = shell.folder()
    shell.write(t.folder .. "/s.lua", HEAD .. LOOP .. [[
      local mcore <close> = mantichora{ nworkers = 2 }
      for k = 1, 2 do mcore:run(loop, "task" .. k, 1000, 0.01) end
      mcore:returns()]])
    t[1] = terminal.start(("trap : INT; %s %s/s.lua; echo prompt"):format(shell.interpreter, t.folder), 80, 20)
    t[1]:wait(function(rows) return #bars(rows) == 2 and bars(rows)[1]:find(":::") end)
    t[1]:type("C-c")
    t[1]:wait(function(rows) return rows[#rows] == "prompt" end)
    local text = table.concat(t[1]:screen(), "\n")
    assert.truthy(text:find("interrupted!", 1, true), text)
    local _, _, shown = t[1]:cursor()
    assert.is_true(shown)
  end)

  it("survive a resize in the middle, on a real terminal", function()
    local t <close> = setmetatable({}, { __close = function(self) self[1]:close() shell.remove(self.folder) end })
    t.folder = shell.folder()
    shell.write(t.folder .. "/s.lua", HEAD .. LOOP .. [[
      print "first line"
      local mcore <close> = mantichora{ nworkers = 3 }
      for k = 1, 3 do mcore:run(loop, "task" .. k, 300, 0.01) end
      for i = 1, 3 do mantichora.sleep(0.5) print("line", i) end
      mcore:returns()
      print "end"]])
    t[1] = terminal.start(("%s %s/s.lua"):format(shell.interpreter, t.folder), 100, 30)
    local function seen(width)
      return function(rows)
        local list = bars(rows)
        return #list == 3 and #list[3] <= width and list[3]:find(":", 20, true) and true
      end
    end
    t[1]:wait(seen(100))
    t[1]:resize(60, 20)
    t[1]:wait(seen(60))
    t[1]:resize(90, 25)
    t[1]:wait(function(rows) return rows[#rows] == "end" end)
    -- tmux moves rows into its history when the window shrinks, where nobody can take them back: what
    -- counts is what stands in the window.
    local rows = t[1]:screen()
    local text = table.concat(rows, "\n")
    assert.truthy(text:find("line    2\nline    3\n 100.00%", 1, true), text)
    assert.equal(3, #bars(rows), text)
  end)

  it("are never more than the screen has lines", function()
    local got = run([[
      local list = {}
      for i = 1, 300 do list[i] = atpbar.bar{ name = "bar\n" .. i, total = 2 } end
      for round = 1, 3 do
        for i = 1, 300 do list[i]:add(round == 2 and 1 or 0) end
        print("round", round)
        atpbar.flush()
      end
      for i = 1, 300 do list[i]:add() list[i]:close() end]], { columns = 20, rows = 5 })
    local rows = got.screen:all()
    local expected = numbers(1, 3, "round   %d")
    for i = 1, 300 do expected[#expected + 1] = (" 100.00%% |: bar %d"):format(i):sub(1, 19) end
    assert.same(expected, rows)
  end)

  it("say how many more there are", function()
    local got = run([[
      for i = 1, 300 do Keep = { Keep, atpbar.bar{ name = "x" .. i, total = 2 } } end
      atpbar.flush()
      os.execute("kill -9 $PPID")]], { columns = 20, rows = 5, status = 137 })
    assert.same({ "   0.00% :::: |: x1", "   0.00%      |: x2", "   0.00%      |: x3", "... and 297 more" },
      { (got.screen:rows()[1]:gsub("     |", ":::: |")), table.unpack(got.screen:rows(), 2) })
    assert.same({ 5, 1 }, { got.screen.row, got.screen.column }) -- and the prompt has a line of its own
  end)

  it("have harmless names, cut to the screen", function()
    local got = run([[
      for _, name in ipairs{ "two\nlines", "\27[2Jcleared\27[10A", "bell\a\b\b\b", "\xff\xfeinvalid", "tab\tname",
          "日本語の長い名前です", "e\u{301}\u{301}clair", "🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉", ("long "):rep(50) } do
        for i in atpbar(2, name) do atpbar.flush() end
      end]], { columns = 40, rows = 20 })
    local names = {}
    for i, row in ipairs(got.screen:rows()) do names[i] = row:match("^ 100.00%% [:]+ | 2 / 2 |:  (.*)$") or row end
    assert.same({ "two…nes", "?[2…10A", "bel…???", "??i…lid", "tab…ame", "日…す", "e\u{301}\u{301}clair",
      "🎉…🎉", "lon…ng" }, names)
  end)

  it("come and go by the thousand without many frames", function()
    local got = run([[
      local outer = atpbar.bar{ name = "outer", total = 3000 }
      for k = 1, 3000 do
        for i in atpbar(3, "short") do end
        outer:add()
      end
      outer:close()]])
    assert.equal(3001, #got.screen:all())
    assert.is_true(got.screen.frames < 30, "frames: " .. got.screen.frames)
  end)
end)

describe("the bar of a pool", function()
  it("counts its tasks and ends when all are received", function()
    local got = run([[
      local mcore <close> = mantichora{ nworkers = 2, poolbar = true, name = "baking", on_error = "return" }
      for k = 1, 6 do
        mcore:run(function()
          for i in atpbar(10, "task" .. k) do mantichora.sleep(0.02) end
          if k == 2 then error "burnt" end
        end)
      end
      mcore:returns()
      print("returned")
      mcore:map(function(i) return i end, { 1, 2, 3 })
      print("mapped")]])
    local rows = got.screen:all()
    assert.equal(6 + 1 + 1 + 1 + 1, #rows)
    assert.same({ " 100.00% " .. (":"):rep(40) .. " |        6 /        6 |:  baking: 1 failed", "returned",
      " 100.00% " .. (":"):rep(40) .. " |        3 /        3 |:  baking: 0 failed", "mapped" },
      table.move(rows, 7, 10, 1, {}))
    -- In between, in the order of arrival: the first of the bars below.
    assert.truthy(got.bytes:find("%.%d%d%% [: ]+|        [1-5] /        6 |:  " ..
      "baking: %dr %dq %df"))
  end)

  it("is told to renderers, and as JSON", function()
    local code = [[
      local mcore <close> = mantichora{ nworkers = 2, poolbar = true, progressbar = false, on_error = "return" }
      for k = 1, 3 do
        mcore:run(function()
          for i in atpbar(10, "hidden") do end
          mantichora.sleep(k == 3 and 0.3 or 0)
          if k == 2 then error "x" end
        end)
      end
      mcore:returns()]]
    local got = run([[
      local told = {}
      atpbar.set_renderer(function(r)
        told[#told + 1] = ("%s %s %d/%d: %d %d %d %s"):format(r.event, r.name, r.done, r.total, r.running, r.queued,
          r.failed, r.state)
      end)]] .. code .. " atpbar.flush() print(table.concat(told, ';'))", { columns = 500 })
    local text = got.screen:text()
    assert.truthy(text:find("^start tasks 0/1: 0 1 0 nil;.*;end tasks 3/3: 0 0 1 finished$"), text)
    local records = {}
    for record in run(code, { environment = "MANTICHORA_PROGRESS=json", columns = 500 }).bytes:gmatch("{[^\n]*}") do
      records[#records + 1] = cjson.decode(record)
    end
    local last, middle = records[#records], false
    for _, r in ipairs(records) do
      middle = middle or r.name == "tasks" and r.done == 2 and r.total == 3 and r.running == 1 and r.queued == 0
        and r.failed == 1
    end
    assert.is_true(middle)
    assert.same({ "tasks", 3, 3, 0, 0, 1, "finished" },
      { last.name, last.done, last.total, last.running, last.queued, last.failed, last.state })
  end)

  it("knows how long a list is, and what was left of it", function()
    local got = run([[
      local told
      atpbar.set_renderer(function(r) told = told or r.total end)
      local mcore <close> = mantichora{ nworkers = 1, poolbar = true }
      local list = {}
      for i = 1, 1000 do list[i] = i end
      for i in mcore:imap(function(i) return i end, list) do if i == 5 then break end end
      local total
      atpbar.set_renderer(function(r) total = r.event == "end" and r.total or total end)
      for _ = 1, 1000 do -- what ran as the loop was left is stopped
        if total then break end
        mantichora.sleep(0.01)
      end
      print(told, total < 5 + 2 * 192)]]) -- what may be ahead of the loop
    assert.same({ "1000    true" }, got.screen:rows())
  end)

  it("may be asked for by true and false only", function()
    local got = run([[print((select(2, pcall(mantichora, { poolbar = "yes" })):gsub("^.-:%d+: ", "")))]])
    assert.same({ [=[option 'poolbar' must be true or false: "yes" is given]=] }, got.screen:rows())
  end)
end)

describe("a terminal that takes nothing", function()
  it("costs frames, not lines", function()
    -- A pipe of 4 KiB in place of standard error, read late.
    local folder = shell.folder()
    shell.write(folder .. "/s.lua", HEAD .. [[
      local n = 0
      for i in atpbar(300, "loop") do io.stderr:write("") atpbar.flush() end
      io.open(arg[1], "w"):write("through"):close()
      for i = 1, 3 do local bar <close> = atpbar.bar{ name = "last" } end]])
    shell.write(folder .. "/block.py", [[
import fcntl, os, subprocess, sys, time
r, w = os.pipe()
fcntl.fcntl(w, 1031, 4096)
fcntl.fcntl(w, fcntl.F_SETFL, os.O_NONBLOCK)
p = subprocess.Popen(sys.argv[1:], stderr=w)
os.close(w)
limit = time.time() + 30
while not os.path.exists(sys.argv[-1]) and time.time() < limit: time.sleep(0.02)
print(os.path.exists(sys.argv[-1]))
data = b""
while True:
  part = os.read(r, 65536)
  if not part: break
  data += part
print(p.wait(), data.count(b"last"))
]])
    local got = shell.run(("MANTICHORA_PROGRESS=bar python3 %s/block.py %s %s/s.lua %s/mark"):format(folder,
      shell.interpreter, folder, folder))
    shell.remove(folder)
    assert.equal("True\n0 3\n", got.out, got.err)
  end)
end)

describe("a pool in a task", function()
  local NESTED = [[
    local function outer(name)
      local inner <close> = mantichora{ nworkers = 2 }
      for k = 1, 3 do
        inner:run(function()
          for i in atpbar(20, name .. "/" .. k) do mantichora.sleep(0.005) end
          print("inner", name, k)
        end)
      end
      for i in atpbar(10, name) do mantichora.sleep(0.01) end
      inner:returns()
      return name
    end
    local mcore <close> = mantichora{ nworkers = 2 }
    for k = 1, 2 do mcore:run_with({ name = "T" .. k }, outer, "task" .. k) end
    local results = mcore:returns()
    print(table.concat(results, " "))
  ]]

  it("shows its bars and its output in the outermost process", function()
    local got = run(NESTED)
    local rows = got.screen:all()
    local seen = {}
    for _, row in ipairs(bars(rows)) do
      assert.truthy(row:find("^ 100.00%%"), row)
      seen[#seen + 1] = row:match("|:  (.*)$")
    end
    table.sort(seen)
    assert.same({ "task1", "task1/1", "task1/2", "task1/3", "task2", "task2/1", "task2/2", "task2/3" }, seen)
    local texts = others(rows)
    assert.equal("task1 task2", table.remove(texts))
    table.sort(texts)
    assert.same({ "inner   task1   1", "inner   task1   2", "inner   task1   3",
      "inner   task2   1", "inner   task2   2", "inner   task2   3" }, texts)
  end)

  it("tells a renderer of the outermost process about each bar once", function()
    local got = run([[
      local told = {}
      atpbar.set_renderer(function(r)
        if r.event ~= "update" then
          told[#told + 1] = ("%s %s %d %s %s"):format(r.event, r.name, r.done, r.runid, r.task)
        end
      end)]] .. NESTED .. [[
      table.sort(told)
      print(table.concat(told, "\n"))]], { rows = 60 })
    local expected = {}
    for _, event in ipairs{ "end", "start" } do
      for k = 1, 2 do
        for i = 0, 3 do
          expected[#expected + 1] = ("%s task%d%s %d %d T%d"):format(event, k, i > 0 and "/" .. i or "",
            event == "start" and 0 or i > 0 and 20 or 10, k - 1, k)
        end
      end
    end
    table.sort(expected)
    local rows = got.screen:rows()
    assert.same(expected, table.move(rows, #rows - 15, #rows, 1, {}))
  end)
end)

describe("log lines", function()
  it("go above the bars, once each, without a frame each", function()
    local got = run([[
      local logging = require "mantichora.logging"
      logging.basic_config{ level = "INFO" }
      local mcore <close> = mantichora{ nworkers = 2 }
      for k = 1, 2 do
        mcore:run(function()
          local logging = require "mantichora.logging"
          for i in atpbar(200, "task" .. k) do logging.info("task %d at %d", k, i) mantichora.sleep(0.001) end
        end)
      end
      for i in atpbar(2000, "mine") do logging.warning("mine %d", i) end
      mcore:returns()]])
    local rows = got.screen:all()
    assert.equal(3, #bars(rows))
    local last, counts = 0, { 0, 0 }
    for _, row in ipairs(others(rows)) do
      local k, i = row:match("^INFO:root:task (%d) at (%d+)$")
      local mine = row:match("^WARNING:root:mine (%d+)$")
      assert.truthy(k or mine, row)
      if mine then
        last = last + 1
        assert.equal(last, tonumber(mine))
      else
        counts[tonumber(k)] = counts[tonumber(k)] + 1
        assert.equal(counts[tonumber(k)], tonumber(i))
      end
    end
    assert.same({ 2000, 200, 200 }, { last, counts[1], counts[2] })
    assert.is_true(got.screen.frames < 60, "frames: " .. got.screen.frames)
  end)

  it("are neither doubled nor torn nor late when there are many", function()
    local n = shell.interpreter:find("asan") and 5000 or 25000 -- each takes several times as long there
    local got = run("local n = " .. n .. "\n" .. [[
      local logging = require "mantichora.logging"
      local late, wrong, last, ended = 0, 0, { 0, 0, 0, 0 }, {}
      logging.basic_config{ level = "INFO", stream = function(line)
        local k, i, rest = line:match("^INFO:load:task (%d) record (%d+) (x*)$")
        k, i = tonumber(k), tonumber(i)
        if not k or #rest ~= i % 100 or i ~= last[k] + 1 then wrong = wrong + 1 return end
        if ended[k] then late = late + 1 end
        last[k] = i
      end }
      local mcore <close> = mantichora{ nworkers = 4 }
      for k = 1, 4 do
        mcore:run(function()
          local log = logging.get("load")
          for i = 1, n do
            log:debug("not wanted")
            log:info("task %d record %d %s", k, i, ("x"):rep(i % 100))
          end
          return k
        end)
      end
      for _, k in mcore:as_completed() do
        assert(last[k] == n)
        ended[k] = true
      end
      print(late, wrong, table.concat(last, " "))]])
    assert.same({ "0       0       " .. table.concat({ n, n, n, n }, " ") }, got.screen:rows())
  end)
end)
