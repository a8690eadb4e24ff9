-- How bars share the screen: their order among lines, their width, their marks; and what is said where
-- they or a task's output cannot be shown.

local cjson = require "cjson"
local pty = require "spec.support.pty"
local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local HEAD = [[
local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
]]

local SIZES = { { 100, 30 }, { 80, 24 }, { 40, 10 } }

-- On the screen model; all rows.
local function run(code, options)
  options = options or {}
  options.columns, options.rows = options.columns or 100, options.rows or 30
  local got = pty.run(HEAD .. code, options)
  assert.equal(options.status or 0, got.status, got.screen:text())
  return got.screen:all(), got
end

-- Without a terminal: standard output, standard error, status.
local function plain(code, options)
  options = options or {}
  local folder = shell.folder()
  shell.write(folder .. "/s.lua", HEAD .. code)
  local got = shell.run(("%s %s %s/s.lua %s"):format(options.environment or "", shell.interpreter, folder,
    options.redirect or ""), { timeout = 60 })
  shell.remove(folder)
  return got
end

-- What is left of a row: the name of a bar and its mark, or the row.
local function brief(rows)
  local list = {}
  for i, row in ipairs(rows) do
    local bar, name = row:match("^[ %d.]+%% (.-)|.*: +(.-)$")
    local mark = bar and bar:match("([a-z]+) $")
    list[i] = bar and name .. (mark and " " .. mark or "") or row
  end
  return list
end

local function bar_width(row) return #row:match("^[ %d.]+%%( .- )|") - 2 end

describe("what is printed after a bar has ended stands below its line", function()
  local CODE = [[
    local outer = atpbar.bar{ name = "outer", total = 9 }
    for k = 1, 2 do
      print("before " .. k)
      for i in atpbar(3, "inner " .. k) do mantichora.sleep(0.01) end
      print("after " .. k)
      for i in atpbar(3, "quick " .. k) do end
      io.stderr:write("said ", k, "\n")
    end
    local mcore <close> = mantichora{ nworkers = 1 }
    for k = 1, 3 do
      mcore:run(function()
        print("task begins " .. k)
        for i in atpbar(3, "first " .. k) do end
        print("task goes on " .. k)
        for i in atpbar(3, "last " .. k) do end
        io.stderr:write("task ends ", k, "\n")
      end)
    end
    mcore:returns()
    print "end"
    outer:close()]]
  local WANTED = { "before 1", "inner 1", "after 1", "quick 1", "said 1", "before 2", "inner 2", "after 2", "quick 2",
    "said 2", "task begins 1", "first 1", "task goes on 1", "last 1", "task ends 1", "task begins 2", "first 2",
    "task goes on 2", "last 2", "task ends 2", "task begins 3", "first 3", "task goes on 3", "last 3",
    "task ends 3", "end", "outer" }

  for _, size in ipairs(SIZES) do
    it(("at %d x %d"):format(size[1], size[2]), function()
      assert.same(WANTED, brief((run(CODE, { columns = size[1], rows = size[2] }))))
    end)
  end

  it("as text", function()
    local list = {}
    for line in plain(CODE, { redirect = "2>&1" }).out:gmatch("[^\n]+") do
      local percent, name = line:match("%( *([%d.]+)%%%): (.*)$")
      if not percent then list[#list + 1] = line end
      if percent and percent ~= "0.00" or name == "outer" and list[#list] == "end" then list[#list + 1] = name end
    end
    assert.same(WANTED, list)
  end)

  it("with the message of an error, and the bars in their order", function()
    local rows = run([[
      local a = atpbar.bar{ name = "a", total = 3 }
      local b = atpbar.bar{ name = "b", total = 3 }
      mantichora.sleep(0.15)
      print "printed"
      mantichora.sleep(0.15)
      error("oops", 0)]], { status = 1 })
    local first = brief(rows)
    assert.same({ "printed", "a", "b" }, table.move(first, 1, 3, 1, {}))
    assert.truthy(rows[4]:find("oops", 1, true), rows[4])
  end)
end)

describe("bars that one call has stopped", function()
  local TASKS = [[
    local mcore <close> = mantichora{ nworkers = 6 }
    for k = 1, 6 do
      mcore:run(function()
        for i in atpbar(10 ^ 6 // 1, "task " .. k) do
          local first = i
          if k % 2 == 0 then pcall(function() while true do end end) else mantichora.sleep(0.01) end
        end
      end)
      local at = os.time()
      local function busy()
        local count = 0
        for _, worker in ipairs(mcore:workers()) do if worker.runid then count = count + 1 end end
        return count == k
      end
      repeat mcore:poll(0.01) until busy() or os.time() > at + 20
      mantichora.sleep(0.1)
    end]]
  local WANTED = { "task 1 cancelled", "task 2 cancelled", "task 3 cancelled", "task 4 cancelled", "task 5 cancelled",
    "task 6 cancelled" }

  for _, size in ipairs{ { 100, 30 }, { 80, 24 } } do
    it(("move up in their order, above what comes later, at %d x %d"):format(size[1], size[2]), function()
      local rows = brief((run(TASKS .. " mcore:terminate() print 'done'", { columns = size[1], rows = size[2] })))
      assert.same(WANTED, table.move(rows, 1, 6, 1, {}))
      assert.equal("done", rows[7])
    end)
  end

  it("do so at Ctrl-C", function()
    local folder = shell.folder()
    shell.write(folder .. "/s.lua", HEAD .. TASKS .. " mcore:returns()")
    local t <close> = terminal.start(shell.interpreter .. " " .. folder .. "/s.lua", 100, 30)
    t:wait(function(rows) return #rows == 6 and rows[6]:find("task 6", 1, true) end)
    t:type("C-c")
    t:finish()
    local rows = brief(t:screen())
    shell.remove(folder)
    assert.same(WANTED, table.move(rows, 1, 6, 1, {}))
  end)
end)

describe("the mark of a bar", function()
  it("stands over the end of its field, behind the name where that is short", function()
    local code = [[
      pcall(function() for i in atpbar(10, "raised") do if i == 10 then error "x" end end end)
      for i in atpbar(10, "left") do if i == 8 then break end end
      pcall(function() local bar <close> = atpbar.bar{ name = "whole", total = 1 } bar:add() error "x" end)
      pcall(function() local bar <close> = atpbar.bar{ name = "by hand", total = 4 } bar:add(3) error "x" end)
      local mcore <close> = mantichora{ nworkers = 1, on_error = "return" }
      mcore:run(function() local bar = atpbar.bar{ name = "left open", total = 2 } bar:add() error "x" end)
      mcore:returns()
      mcore:run(function() pcall(function() for i in atpbar(4, "caught") do if i == 3 then error "y" end end end) end)
      mcore:returns()
      mcore:run_with({ timeout = 0.2 }, function() for i in atpbar(4, "slow") do while true do end end end)
      mcore:returns()]]
    local rows = run(code)
    assert.equal("  90.00% :::::::::::::::::::::::::::::::::: error |        9 /       10 |:  raised", rows[1])
    assert.equal("  70.00% ::::::::::::::::::::::::::::             |        7 /       10 |:  left", rows[2])
    assert.same({ "whole", "by hand error", "left open error", "caught error", "slow timeout" },
      table.move(brief(rows), 3, 7, 1, {}))
    rows = run(code, { columns = 40, rows = 10 })
    assert.truthy(rows[1]:find("raised (error)", 1, true) or rows[1]:find("error |", 1, true), rows[1])
    for _, row in ipairs(rows) do assert.is_true(utf8.len(row) < 40, row) end
    rows = run(code, { columns = 46, rows = 10 })
    assert.truthy(rows[7]:find("timeout | 0 / 4 |:  slow", 1, true), rows[7])
    local got = plain(code)
    assert.truthy(got.err:find("raised (error)\n", 1, true), got.err)
    assert.truthy(got.err:find("slow (timeout)\n", 1, true), got.err)
  end)
end)

describe("all bars of a frame", function()
  local CODE = [[
    local bars = {}
    for i, name in ipairs{ "a", "a/long/path/to/a/place/of/file.png", "ccc", "a name of some length" } do
      bars[i] = atpbar.bar{ name = name, total = 10000 }
      bars[i]:set(1762 + 588 * i)
      atpbar.flush()
    end
    for i = 1, 4 do bars[i]:set(10000):close() atpbar.flush() end]]

  for _, size in ipairs(SIZES) do
    it(("have one width that does not jump, at %d x %d"):format(size[1], size[2]), function()
      local rows, got = run(CODE, { columns = size[1], rows = size[2] })
      local least = math.maxinteger
      for line in got.bytes:gmatch("[ %d.]+%% [: ]- |[^\n\27]*") do
        local width = bar_width(line)
        assert.is_true(width <= least or least == math.maxinteger, "it grew: " .. line)
        least = math.min(least, width)
      end
      for _, row in ipairs(rows) do
        assert.is_true(utf8.len(row) < size[1], row)
        if size[1] == 80 then assert.equal(20, bar_width(row), row) end
      end
      local long = rows[2]:match("|: +(.*)$")
      assert.truthy(size[1] == 100 or long:find("^a/.*….*%.?png$"), long)
    end)
  end

  it("grow when the window widens and when none stands", function()
    local rows = run([[
      local long = ("x"):rep(60)
      for i in atpbar(1, long) do end
      for i in atpbar(1, "short") do end]])
    assert.same({ 20, 40 }, { bar_width(rows[1]), bar_width(rows[2]) })
  end)
end)

describe("a bar", function()
  it("counts bytes, has another name, and goes", function()
    local rows = run([[
      local bar = atpbar.bar{ name = "copy", total = 10 ^ 9 // 1, unit = "B", leave = false }
      bar:set(3000000)
      atpbar.flush()
      bar:set_name("the copy")
      atpbar.flush()
      local other = atpbar.bar{ name = "binary", total = 3 << 30, unit = "iB" }
      other:set(3 << 20)
      bar:close()
      other:close()
      local mcore <close> = mantichora{ nworkers = 1 }
      mcore:run(function()
        local bar <close> = atpbar.bar{ name = "x", total = 2000, unit = "B" }
        bar:set_name("renamed"):set(2000)
        local gone <close> = atpbar.bar{ name = "gone", leave = false }
      end)
      mcore:returns()]])
    assert.equal(2, #rows, table.concat(rows, "\n"))
    assert.truthy(rows[1]:find("|    3.00M /    3.00G |:  binary$"), rows[1])
    assert.truthy(rows[2]:find("|    2.00k /    2.00k |:  renamed$"), rows[2])
    local _, got = run([[
      local bar = atpbar.bar{ name = "copy", total = 10 ^ 9 // 1, unit = "B", leave = false }
      bar:set(3000000)
      atpbar.flush()
      bar:set_name("the copy")
      atpbar.flush()]])
    assert.truthy(got.bytes:find("|    3.00M /    1.00G |:  copy", 1, true))
    assert.truthy(got.bytes:find("|    3.00M /    1.00G |:  the copy", 1, true))
    local json = plain([[
      local bar <close> = atpbar.bar{ name = "a", unit = "iB" }]], { environment = "MANTICHORA_PROGRESS=json" })
    assert.equal("iB", cjson.decode(json.err:match("[^\n]+")).unit)
  end)

  it("says no for wrong totals, units and ways to leave", function()
    local got = plain([[
      for _, f in ipairs{ function() atpbar.bar{ total = -1 } end, function() atpbar.wrap(-2, "x", print) end,
          function() atpbar(-4) end, function() atpbar.bar{}:set_total(-3) end,
          function() atpbar.bar{ unit = "KB" } end, function() atpbar.bar{ leave = "failed" } end,
          function() atpbar.bar{}:set_name(3) end } do
        print(select(2, pcall(f)))
      end]], { environment = "MANTICHORA_PROGRESS=off" })
    assert.equal([[
bad argument #1 to 'bar' (total must not be negative: -1 is given)
bad argument #1 to 'wrap' (total must not be negative: -2 is given)
bad argument #1 to 'atpbar' (total must not be negative: -4 is given)
bad argument #1 to 'set_total' (total must not be negative: -3 is given)
bad argument #1 to 'bar' (unit: "B" or "iB" expected, got KB)
bad argument #1 to 'bar' (leave: true or false expected, got string)
bad argument #1 to 'set_name' (string expected, got number)
]], (got.out:gsub("[^\n]-(bad argument)", "%1")))
  end)

  it("shows count and rate beyond its total, and no colour of its name", function()
    local rows = run([[
      local bar = atpbar.bar{ name = "\27[1;31mred\27[m name", total = 5 }
      bar:set(10)
      bar:close()]])
    assert.truthy(rows[1]:find("^ +|       10 +[%d.]+[kM]?/s |:  red name$"), rows[1])
  end)

  it("tells the time that remains by its pace of late", function()
    local _, got = run([[
      for i in atpbar(100, "half") do if i > 50 then mantichora.sleep(0.05) end end]],
      { environment = "MANTICHORA_PROGRESS=eta" })
    local seen = 0
    for done, seconds in got.bytes:gmatch("|%s+(%d+) /%s+100 | 00:00 < 00:(%d%d)") do
      if tonumber(done) > 54 then
        seen = seen + 1
        assert.is_true(tonumber(seconds) >= 2, done .. ": " .. seconds)
      end
    end
    assert.is_true(seen > 0)
  end)
end)

describe("the bar of a pool", function()
  it("counts neither what was cancelled as done nor retried attempts as failed", function()
    local rows = run([[
      local mcore <close> = mantichora{ nworkers = 1, poolbar = true, name = "work", on_error = "return" }
      for i = 1, 6 do mcore:run(function() end) end
      for i = 1, 34 do mcore:run(function() mantichora.sleep(20) end) end
      for i = 1, 6 do mcore:receive_one() end
      mcore:terminate()
      mcore:returns()
      mcore:run_with({ retries = 2 }, function()
        if mantichora.sleep(0) or not io.open(arg[0] .. ".second") then
          io.open(arg[0] .. ".second", "w"):close()
          os.execute("kill -9 $PPID")
          mantichora.sleep(20)
        end
      end)
      mcore:returns()
      os.remove(arg[0] .. ".second")]])
    assert.truthy(rows[1]:find("^  15.00%% :+ +|        6 /       40 |:  work: 0 ?f[ailed]*,? 34 ?c"), rows[1])
    assert.truthy(rows[2]:find("^ 100.00%% :+ |        1 /        1 |:  work: 0 failed$"), rows[2])
  end)

  it("shortens its counts before anything else", function()
    for _, columns in ipairs{ 100, 80, 60, 50 } do
      local _, got = run([[
        local mcore <close> = mantichora{ nworkers = 1, poolbar = true, on_error = "return" }
        mcore:run(function() error "x" end)
        mcore:receive_one()
        mcore:run(function() mantichora.sleep(0.5) end)
        mcore:run(function() mantichora.sleep(0.1) end)
        mcore:returns()]], { columns = columns })
      assert.truthy(got.bytes:find("1r 1q 0f", 1, true) or got.bytes:find("1 running, 1 queued, 0 failed", 1, true),
        columns .. got.screen:text())
    end
  end)
end)

describe("a pool that leaves what failed", function()
  local CODE = [[
    do
      local mcore <close> = mantichora{ nworkers = 2, leave = "failed", on_error = "return" }
      for k = 1, 9 do
        mcore:run(function() for i in atpbar(4, "task " .. k) do if k == 3 and i == 3 then error "x" end end end)
      end
      mcore:returns()
    end
    print "end"]]

  it("ends with a line that counts", function()
    local rows = run(CODE)
    assert.equal(3, #rows, table.concat(rows, "\n"))
    assert.same({ "task 3 error" }, brief{ rows[1] })
    assert.truthy(rows[2]:find("^9 tasks: 8 ok, 1 failed, %d+%.%d s$"), rows[2])
    assert.equal("end", rows[3])
    local got = plain(CODE)
    assert.truthy(got.err:find("\n9 tasks: 8 ok, 1 failed, %d+%.%d s\n$"), got.err)
    assert.is_nil(plain(CODE, { environment = "MANTICHORA_PROGRESS=off" }).err:find("tasks:", 1, true))
    assert.is_nil(plain(CODE, { environment = "MANTICHORA_PROGRESS=json" }).err:find("tasks:", 1, true))
  end)
end)

describe("what a task writes", function()
  local CODE = [[
    local mcore <close> = mantichora{ nworkers = 1, engine = ... or "fork" }
    mcore:run(function()
      for i = 1, 3 do io.stderr:write("err ", i, "\n") print("out " .. i) end
      io.write("un") io.stderr:write("finished\n")
      io.stderr:write("part ") print("rest")
      os.execute("echo child; echo child >&2")
      io.write("end")
    end)
    mcore:returns()
    print "script"]]
  local WANTED = "err 1\nout 1\nerr 2\nout 2\nerr 3\nout 3\nunfinished\npart rest\nchild\nchild\nend\nscript\n"

  it("to one file by two streams comes in its order", function()
    for _ = 1, 5 do assert.equal(WANTED, plain(CODE, { redirect = "2>&1" }).out) end
    assert.equal(WANTED, plain(CODE, { redirect = "snapshot 2>&1" }).out)
    assert.equal(WANTED, table.concat(run(CODE), "\n") .. "\n")
    local apart = plain(CODE)
    assert.equal("out 1\nout 2\nout 3\nunrest\nchild\nend\nscript\n", apart.out)
    assert.equal("err 1\nerr 2\nerr 3\nfinished\npart child\n", apart.err)
  end)

  local FLOOD = [[
    local mcore <close> = mantichora{ nworkers = 2 }
    for k = 1, 40 do mcore:run(function() for i = 1, 50 do print(("line "):rep(20)) end end) end
    mcore:returns()
    io.stderr:write("end\n")]]

  it("to a pipe that nobody reads ends the program by SIGPIPE", function()
    local got = plain(FLOOD, { redirect = "3>&1 >&- 2>&3 3>&-", environment = "" })
    assert.equal("", got.err)
    local folder = shell.folder()
    shell.write(folder .. "/s.lua", HEAD .. FLOOD)
    local piped = shell.run(("{ %s %s/s.lua; echo $? >&2; } | head -n 1"):format(shell.interpreter, folder),
      { timeout = 60 })
    assert.equal("141\n", piped.err:match("%d+\n"), piped.err)
    assert.is_nil(piped.err:find("end\n", 1, true))
    -- Where it is ignored, the loss is logged, once.
    piped = shell.run(("{ (trap '' PIPE; exec %s %s/s.lua); echo $? >&2; } | head -n 1"):format(shell.interpreter,
      folder), { timeout = 60 })
    shell.remove(folder)
    assert.equal("ERROR:mantichora:output to stdout cannot be written and is lost: Broken pipe\nend\n0\n", piped.err)
  end)

  it("to a full disk is lost, which is logged once", function()
    local got = plain(FLOOD, { redirect = ">/dev/full" })
    assert.equal("ERROR:mantichora:output to stdout cannot be written and is lost: No space left on device\nend\n",
      got.err)
  end)
end)

describe("a wrong value of the environment", function()
  it("is logged once, with the right ones", function()
    local got = plain([[
      for _ = 1, 2 do
        local mcore <close> = mantichora()
        mcore:run(function() for i in atpbar(2, "x") do end require("mantichora.logging").info("never") end)
        mcore:returns()
      end
      require("mantichora.logging").info("never")]],
      { environment = "MANTICHORA_PROGRESS=bars MANTICHORA_WORKERS=many MANTICHORA_LOG_LEVEL=loud" })
    local list = {}
    for line in got.err:gmatch("WARNING:mantichora:([^\n]*)") do list[#list + 1] = line end
    table.sort(list)
    assert.same({
      "MANTICHORA_LOG_LEVEL is 'loud': DEBUG, INFO, WARNING, ERROR, CRITICAL or a whole number is expected",
      "MANTICHORA_PROGRESS is 'bars': auto, bar, text, json, off or eta is expected",
      "MANTICHORA_WORKERS is 'many': a whole number from 1 to 4096 or auto is expected" }, list)
    assert.equal("", plain("local p <close> = mantichora() for i in atpbar(1, 'x') do end", { environment =
      "MANTICHORA_PROGRESS=off MANTICHORA_WORKERS= MANTICHORA_LOG_LEVEL=" }).err)
  end)
end)

describe("a worker", function()
  it("tells that handlers and levels are not its own", function()
    local got = plain([[
      local logging = require "mantichora.logging"
      local mcore <close> = mantichora{ nworkers = 1 }
      for _ = 1, 2 do
        mcore:run(function()
          logging.add_handler(print)
          logging.get("net"):set_level("DEBUG")
          logging.set_level("DEBUG")
        end)
      end
      mcore:returns()]])
    assert.equal([[
WARNING:mantichora:add_handler has no effect in a worker: levels and handlers of the parent decide
WARNING:mantichora:set_level has no effect in a worker: levels and handlers of the parent decide
]], got.err)
  end)
end)

describe("a narrower window", function()
  it("folds lines in tmux, whatever ran it", function()
    local folder = shell.folder()
    shell.write(folder .. "/s.lua", HEAD .. [[
      local bars = {}
      print "first"
      print "second"
      for i = 1, 3 do bars[i] = atpbar.bar{ name = "bar " .. i, total = 4 } end
      while not io.open(arg[1]) do bars[1]:add(0) mantichora.sleep(0.05) end
      for i = 1, 3 do bars[i]:close() end]])
    local t <close> = terminal.start(("XTERM_VERSION='XTerm(379)' %s %s/s.lua %s/go"):format(shell.interpreter, folder,
      folder), 100, 20)
    t:wait(function(rows) return #rows == 5 end)
    t:resize(40, 20)
    t:wait(function(rows) return rows[#rows]:find("| 0 / 4 |:  bar 3", 1, true) end)
    shell.write(folder .. "/go", "")
    t:finish()
    local bars = 0
    for _, row in ipairs(t:screen()) do
      if row:find("|:", 1, true) then bars = bars + 1 end
    end
    assert.equal(3, bars, table.concat(t:screen(), "\n"))
    shell.remove(folder)
  end)
end)

describe("what is typed under bars", function()
  -- Bars of two tasks, until a file is there; and what the script does meanwhile.
  local TASKS = [[
    local mcore <close> = mantichora{ nworkers = 2 }
    for i = 1, 2 do
      mcore:run(function(path)
        local bar <close> = atpbar.bar{ name = "task " .. i, total = 100000 }
        if i == 2 then print "a line" end
        repeat bar:add() mantichora.sleep(0.01) local file <close> = io.open(path) until file
      end, arg[1])
    end
    ]]

  local function start(code)
    local folder = shell.folder()
    shell.write(folder .. "/s.lua", HEAD .. TASKS .. code)
    local t = terminal.start(("%s %s/s.lua %s/go"):format(shell.interpreter, folder, folder), 80, 10)
    return t, function()
      shell.write(folder .. "/go", "")
      local status = t:finish()
      shell.remove(folder)
      assert.equal(0, status, table.concat(t:screen(), "\n"))
      return t:screen()
    end
  end

  local function is_bar(row) return row:find("100000 |:  task ", 1, true) ~= nil end

  -- How far the last bar is; nil while none is there.
  local function progress(rows)
    return is_bar(rows[#rows] or "") and tonumber(rows[#rows]:match("| +(%d+) /"))
  end

  local function wait_for_frames(t)
    local from = t:wait(progress)
    t:wait(function(rows) return (progress(rows) or 0) > from + 25 end)
  end

  it("leaves no row of theirs behind", function()
    local t <close>, finish = start "mcore:returns() print 'end'"
    wait_for_frames(t)
    for _, keys in ipairs{ "Enter", "Enter", "a b c Enter", "Enter" } do
      t:type(keys)
      wait_for_frames(t)
      local rows = t:screen()
      assert.same({ 3, "a line", true, true }, { #rows, rows[1], is_bar(rows[2]), is_bar(rows[3]) },
        table.concat(rows, "\n"))
    end
    local rows = finish()
    assert.same({ "a line", true, true, "end" }, { rows[1], is_bar(rows[2]), is_bar(rows[3]), rows[4] })
  end)

  it("is asked for without bars, which come again under it", function()
    local t <close>, finish = start [[
      mantichora.sleep(0.3)
      io.write "name? "
      print("hello " .. io.read())
      mcore:returns()]]
    t:wait(function(rows) return #rows == 2 and rows[2] == "name?" end)
    assert.same({ 6, 1, true }, { t:cursor() }, "where the cursor is")
    t:enter "Bob"
    wait_for_frames(t)
    local rows = t:screen()
    assert.same({ "a line", "name? Bob", "hello Bob", true, true, 5 },
      { rows[1], rows[2], rows[3], is_bar(rows[4]), is_bar(rows[5]), #rows }, table.concat(rows, "\n"))
    rows = finish()
    assert.same({ "a line", "name? Bob", "hello Bob", true, true, 5 },
      { rows[1], rows[2], rows[3], is_bar(rows[4]), is_bar(rows[5]), #rows }, table.concat(rows, "\n"))
  end)
end)
