-- Progress bars as a script makes them, in this process: on a terminal, not on one, as JSON, and
-- through a renderer of one's own.

local cjson = require "cjson"
local pty = require "spec.support.pty"
local shell = require "spec.support.shell"

local HEAD = 'local atpbar = require "mantichora.atpbar"\n'

-- Run on a terminal; the rows that a person sees in the end.
local function rows(code, options)
  local got = pty.run(HEAD .. code, options or { columns = 100, rows = 30 })
  assert.equal("", table.concat(got.screen.unknown, " "))
  assert.equal(0, got.status, got.screen:text())
  assert.is_true(got.screen.cursor)
  return got.screen:all(), got
end

-- Run without a terminal.
local function plain(code, environment)
  local path = os.tmpname()
  shell.write(path, HEAD .. code)
  local got = shell.run(("env %s %s %s"):format(environment or "", shell.interpreter, path))
  os.remove(path)
  return got
end

local function lines(text)
  local list = {}
  for line in text:gmatch("([^\n]*)\n") do list[#list + 1] = line end
  return list
end

local function line(percent, cells, done, total, name)
  return (" %6.2f%% %-40s | %8d / %8d |:  %s"):format(percent, (":"):rep(cells), done, total, name)
end

describe("atpbar", function()
  it("counts", function()
    local got = rows('for i in atpbar(3, "three") do print(i) end')
    assert.same({ "1", "2", "3", line(100, 40, 3, 3, "three") }, got)
  end)

  it("walks a sequence, up to its first nil", function()
    local got = rows([[
      for i, v in atpbar({ "a", "b" }, "list") do print(i, v) end
      local t = setmetatable({}, { __len = function() return 4 end,
        __index = function(_, i) return i < 3 and i * i or nil end })
      for i, v in atpbar(t, "virtual") do print(i, v) end]])
    assert.same({ "1       a", "2       b", line(100, 40, 2, 2, "list"), "1       1", "2       4",
      line(50, 20, 2, 4, "virtual") }, got)
  end)

  it("walks pairs", function()
    local got = rows([[
      local n = 0
      for k, v in atpbar.pairs({ a = 1, b = 2, 3 }, "pairs") do n = n + v end
      print(n)
      local t = setmetatable({}, { __pairs = function(t) return next, { x = 1 } end })
      for k, v in atpbar.pairs(t, "meta") do print(k, v) end]])
    assert.equal(line(100, 40, 3, 3, "pairs"), got[1])
    assert.equal("6", got[2])
    assert.equal("x       1", got[3])
    assert.truthy(got[4]:find("^ +|        1 +[%d.]+[kM]?/s |:  meta$"), got[4])
  end)

  it("wraps any iterator, and closes what it wants closed", function()
    local got = rows([[
      local closed = setmetatable({}, { __close = function(_, e) print("closed", e) end })
      local function count(state, i) if i < state then return i + 1, "x", nil, i end end
      for a, b, c, d in atpbar.wrap(3, "wrapped", count, 3, 0, closed) do print(a, b, c, d) end
      for a in atpbar.wrap(nil, "left", count, 3, 0, closed) do break end
      print(pcall(function() for a in atpbar.wrap(3, "raised", count, 3, 0, closed) do error("e", 0) end end))
      for word in atpbar.wrap(3, "words", string.gmatch("a b c", "%a")) do end
      local co = coroutine.wrap(function()
        for i in atpbar.wrap(2, "yields", function(_, i) coroutine.yield(i) if i < 2 then return i + 1 end end, nil, 0)
        do end
        return "end"
      end)
      print(co(), co(), co(), co())]])
    assert.same({ "1       x       nil     0", "2       x       nil     1", "3       x       nil     2" },
      table.move(got, 1, 3, 1, {}))
    -- The inner value is closed after the bar has ended.
    assert.same({ line(100, 40, 3, 3, "wrapped"), "closed  nil" }, table.move(got, 4, 5, 1, {}))
    assert.truthy(got[6]:find("|        0 +0.0/s |:  left$"), got[6])
    local raised = line(0, 0, 0, 3, "raised"):gsub("      |", "error |", 1)
    assert.same({ "closed  nil", raised, "closed  e", "false   e",
      line(100, 40, 3, 3, "words"), line(100, 40, 2, 2, "yields"), "0       1       2       end" },
      table.move(got, 7, 13, 1, {}))
  end)

  it("stays at the last complete iteration when a loop is left", function()
    local got = rows([[
      for i in atpbar(10, "break") do if i == 5 then break end end
      pcall(function() for i in atpbar(10, "error") do if i == 8 then error "x" end end end)
      local function f() for i in atpbar(10, "return") do return i end end f()
      local co = coroutine.create(function() for i in atpbar(4, "yield") do coroutine.yield() end end)
      for _ = 1, 3 do coroutine.resume(co) end
      coroutine.close(co)]])
    local raised = line(70, 28, 7, 10, "error"):gsub("      |", "error |", 1)
    assert.same({ line(40, 16, 4, 10, "break"), raised, line(0, 0, 0, 10, "return"),
      line(50, 20, 2, 4, "yield") }, got)
  end)

  it("ends the bar of a loop that is forgotten", function()
    local got = rows('local f = atpbar(4, "lost") f() f() f() f = nil collectgarbage() print("end")')
    assert.same({ line(50, 20, 2, 4, "lost"), "end" }, got)
  end)

  it("has nothing to do", function()
    local got = rows('for i in atpbar(0, "none") do end for i in atpbar({}) do end')
    assert.same({ line(100, 40, 0, 0, "none"), line(100, 40, 0, 0, "[]") }, got)
  end)

  it("names bars like Python's", function()
    local got = rows([[
      for _ in atpbar(2) do end
      for _ in atpbar(3.0) do end
      for _ in atpbar({ 1, "two", {} }) do end
      for _ in atpbar.pairs({ a = 1 }) do end]])
    assert.same({ line(100, 40, 2, 2, "range(0, 2)"), line(100, 40, 3, 3, "range(0, 3)"),
      line(100, 40, 3, 3, "[1, 'two', table]"), line(100, 40, 1, 1, "{'a': 1}") }, got)
  end)

  it("moves finished bars up and draws running ones in order of arrival", function()
    local got = rows([[
      local a, b, c = atpbar.bar{ name = "a", total = 2 }, atpbar.bar{ name = "b", total = 2 },
        atpbar.bar{ name = "c", total = 2 }
      b:set(2):close()
      a:add():add(1)
      atpbar.flush()
      print "print"
      a:close()
      c:close()]])
    assert.same({ line(100, 40, 2, 2, "b"), "print", line(100, 40, 2, 2, "a"), line(0, 0, 0, 2, "c") }, got)
  end)

  it("draws nested loops", function()
    local got = rows([[
      for i in atpbar(3, "outer") do
        for j in atpbar(2, "inner" .. i) do end
      end]])
    assert.same({ line(100, 40, 2, 2, "inner1"), line(100, 40, 2, 2, "inner2"), line(100, 40, 2, 2, "inner3"),
      line(100, 40, 3, 3, "outer") }, got)
  end)

  it("lets a bar be moved by hand", function()
    local got = rows([[
      do local bar <close> = atpbar.bar{ name = "copy", total = 100 } bar:add(1) bar:set(50) end
      do local bar <close> = atpbar.bar{ name = "grows", total = 10 } bar:add(15) bar:set_total(20) end
      do local bar <close> = atpbar.bar{ name = "back", total = 10 } bar:add(5) bar:add(-2) bar:set(bar and 3) end
      do local bar <close> = atpbar.bar{ name = "unknown", total = 5 } bar:set_total(nil) bar:add() end
      local bar = atpbar.bar{}
      bar:close()
      bar:close()
      print(pcall(bar.add, bar))]])
    assert.equal(line(50, 20, 50, 100, "copy"), got[1])
    assert.equal(line(75, 30, 15, 20, "grows"), got[2])
    assert.equal(line(30, 12, 3, 10, "back"), got[3])
    assert.truthy(got[4]:find("|        1 +[%d.]+[kM]?/s |:  unknown$"), got[4])
    assert.truthy(got[6]:find("bar is closed", 1, true), got[6])
  end)

  it("can be switched off", function()
    local got = rows('atpbar.disable() for i in atpbar(3, "x") do print(i) end atpbar.flush()')
    assert.same({ "1", "2", "3" }, got)
    local _, all = rows([[
      local bar = atpbar.bar{ name = "x", total = 2 } bar:add() atpbar.flush() atpbar.disable()
      print "on" bar:add() bar:close()]])
    assert.same({ line(50, 20, 1, 2, "x"), "on" }, all.screen:rows())
  end)

  it("names the argument that is wrong", function()
    local got = plain([[
      local function try(f, ...) print((select(2, pcall(f, ...)):gsub("^.-:%d+: ", ""))) end
      try(function() atpbar() end)
      try(function() atpbar(1.5) end)
      try(function() atpbar("ten") end)
      try(function() atpbar(1, {}) end)
      try(function() atpbar.pairs(1) end)
      try(function() atpbar.wrap("x", "n", next, {}) end)
      try(function() atpbar.wrap(1, "n") end)
      try(function() atpbar.bar{ totl = 1 } end)
      try(function() atpbar.bar{ total = "x" } end)
      try(function() atpbar.bar{ name = 1 } end)
      try(function() atpbar.set_renderer(1) end)
      try(function() local b = atpbar.bar{} b:set("x") end)]])
    assert.equal(0, got.status, got.err)
    assert.same({
      "bad argument #1 to 'atpbar' (count or list expected, got nil)",
      "bad argument #1 to 'atpbar' (number has no integer representation)",
      "bad argument #1 to 'atpbar' (count or list expected, got string)",
      "bad argument #2 to 'atpbar' (name: string expected, got table)",
      "bad argument #1 to 'pairs' (table expected, got number)",
      "bad argument #1 to 'wrap' (number expected, got string)",
      "bad argument #3 to 'wrap' (iterator expected, got no value)",
      "bad argument #1 to 'bar' (unknown option 'totl': 'name', 'total', 'unit' and 'leave' are known)",
      "bad argument #1 to 'bar' (total: integer expected, got string)",
      "bad argument #1 to 'bar' (name: string expected, got number)",
      "bad argument #1 to 'set_renderer' (function expected, got number)",
      "bad argument #1 to 'set' (number expected, got string)",
    }, lines(got.out))
  end)

  it("requires without side effects", function()
    local path = os.tmpname()
    shell.write(path, [[
      local lfs = require "lfs" -- busted needs it, too
      local function entries(path)
        local n = 0
        for _ in lfs.dir(path) do n = n + 1 end
        return n
      end
      local globals = {}
      for k in pairs(_G) do globals[k] = true end
      local threads, files = entries("/proc/self/task"), entries("/proc/self/fd")
      require "mantichora.atpbar"
      print(threads == entries("/proc/self/task") and files == entries("/proc/self/fd"))
      for k in pairs(_G) do if not globals[k] then print("global", k) end end]])
    local got = shell.run(shell.interpreter .. " " .. path)
    os.remove(path)
    assert.equal("true\n", got.out)
    assert.equal("", got.err)
  end)
end)

describe("atpbar without a terminal", function()
  local LINE = "^%d%d/%d%d %d%d:%d%d :        %d /        %d %(%s*[%d.]+%%%): .+$"

  it("writes a line at the start and one at the end", function()
    local got = plain('for i in atpbar(5, "five") do print(i) end for i in atpbar(2, "two") do break end')
    assert.equal("1\n2\n3\n4\n5\n", got.out)
    local list = lines(got.err)
    assert.equal(4, #list)
    for _, text in ipairs(list) do assert.truthy(text:find(LINE), text) end
    assert.truthy(list[1]:find(":        0 /        5 (  0.00%): five", 1, true))
    assert.truthy(list[2]:find(":        5 /        5 (100.00%): five", 1, true))
    assert.truthy(list[4]:find(":        0 /        2 (  0.00%): two", 1, true))
  end)

  it("does so on a dumb terminal, too", function()
    local got = rows('for i in atpbar(5, "five") do end', { environment = "TERM=dumb" })
    assert.equal(2, #got)
    for _, text in ipairs(got) do assert.truthy(text:find(LINE), text) end
  end)

  it("does what the user says", function()
    local code = 'for i in atpbar(5, "five") do end'
    assert.equal("", plain(code, "MANTICHORA_PROGRESS=off").err)
    assert.truthy(plain(code, "MANTICHORA_PROGRESS=bar").err:find(" 100.00%% :+ |        5 /        5 |:  five"))
    assert.equal(2, #lines(plain(code, "MANTICHORA_PROGRESS=text").err))
    assert.equal(2 + 1, #lines(plain(code, "MANTICHORA_PROGRESS=nonsense").err)) -- that it is logged
    local got = rows(code, { environment = "MANTICHORA_PROGRESS=off" })
    assert.same({}, got)
    got = rows(code, { environment = "MANTICHORA_PROGRESS=text" })
    assert.equal(2, #got)
  end)

  it("writes JSON that cjson reads", function()
    local name = 'a "name" \\ with\n\1\tand \xff 日本'
    local got = plain(([[
      local bar <close> = atpbar.bar{ name = %q, total = 3 } bar:add(2)
      for i in atpbar.wrap(nil, "second", next, { 1 }) do end]]):format(name), "MANTICHORA_PROGRESS=json")
    local records = {}
    for _, text in ipairs(lines(got.err)) do records[#records + 1] = cjson.decode(text) end
    assert.equal("start", records[1].event)
    assert.equal((name:gsub("\xff", "\u{FFFD}")), records[1].name)
    assert.equal(3, records[1].total)
    assert.equal(cjson.null, records[#records].total == cjson.null and cjson.null or records[2].total)
    local last = records[#records]
    assert.same({ "end", 2, 3, "broken" }, { last.event, last.done, last.total, last.state })
    assert.is_true(math.abs(last.time - os.time()) < 60)
  end)

  it("is not there for tasks of a pool without bars, nor for their pools", function()
    for _, engine in ipairs{ "fork", "snapshot", "inline" } do
      local got = plain(([[
        local mantichora = require "mantichora"
        local mcore <close> = mantichora{ engine = %q, progressbar = false }
        local outer <close> = mantichora{ nworkers = 1 }
        if %q == "inline" then function start() outer:start() end end
        mcore:run(function()
          if start then start() end -- forks workers of another pool in the middle
          for i in atpbar(2, "loop") do end
          atpbar.bar{ name = "bar" }:add():close()
          local inner <close> = mantichora{ nworkers = 1, poolbar = true }
          inner:run(function() for i in atpbar(2, "inner") do end end)
          inner:returns()
        end)
        mcore:returns()
        outer:run(function() for i in atpbar(2, "outer") do end end)
        outer:returns()
        for i in atpbar(2, "own") do end]]):format(engine, engine))
      assert.equal(0, got.status, got.err)
      assert.same({ "outer", "outer", "own", "own" }, lines((got.err:gsub("[^\n]*: ", ""))), engine)
    end
  end)

  it("survives closed descriptors and readers that have gone", function()
    local code = [[
      for i in atpbar(2000, "x") do if i %% 100 == 0 then atpbar.flush() end end
      io.open("%s", "w"):write("through")]]
    for _, redirect in ipairs{ "2>&-", "1>&- 2>&-", "2>/dev/full", "2>&1 >/dev/null | true" } do
      for _, mode in ipairs{ "bar", "text", "json" } do
        local path, mark = os.tmpname(), os.tmpname()
        shell.write(path, HEAD .. code:format(mark))
        shell.run(("env MANTICHORA_PROGRESS=%s %s %s %s"):format(mode, shell.interpreter, path, redirect))
        local file <close> = assert(io.open(mark))
        assert.equal("through", file:read("a"), redirect .. " " .. mode)
        os.remove(path)
        os.remove(mark)
      end
    end
  end)
end)

describe("times beside bars", function()
  local CODE = [[
    local bar = atpbar.bar{ name = "half", total = 10 } bar:add(5) bar:close()
    for i in atpbar(3, "all") do end
    atpbar.bar{ name = "unknown" }:add(7):close()]]
  local RATE = " +[%d.]+[kM]?/[smh][in]*"

  local function check(got)
    for i, pattern in ipairs{
      "^  50.00%% :::::+ +|        5 /       10 | 00:00 < %-%-:%-%-" .. RATE .. " |:  half$",
      "^ 100.00%% :::::+ |        3 /        3 | 00:00 < 00:00" .. RATE .. " |:  all$",
      "^ +|        7 /        %? | 00:00 < %-%-:%-%-" .. RATE .. " |:  unknown$",
    } do assert.truthy(got[i]:find(pattern), got[i]) end
  end

  it("are there when the user wants them, or the script", function()
    local function wish() return { environment = "MANTICHORA_PROGRESS=eta", columns = 100, rows = 30 } end
    check(rows(CODE, wish()))
    check(rows('atpbar.set_style("eta")' .. CODE))
    check(rows('atpbar.set_style("atpbar")' .. CODE, wish()))
    local got = rows('atpbar.set_style("eta") atpbar.set_style("atpbar")' .. CODE)
    assert.equal(line(50, 20, 5, 10, "half"), got[1])
  end)

  it("are not where there is no terminal", function()
    local list = lines(plain(CODE, "MANTICHORA_PROGRESS=eta").err)
    assert.equal(6, #list)
    for _, text in ipairs(list) do assert.falsy(text:find("<", 1, true), text) end
  end)

  it("have a style that is known", function()
    local got = plain('print(pcall(atpbar.set_style, "fancy"))')
    assert.truthy(got.out:find("bad argument #1 to 'set_style' (invalid option 'fancy')", 1, true) or
      got.out:find("invalid option 'fancy'", 1, true), got.out)
  end)
end)

describe("a renderer", function()
  it("is told all there is to tell", function()
    local got = plain([[
      local told = {}
      atpbar.set_renderer(function(r) told[#told + 1] = r end)
      for i in atpbar(3, "loop") do if i == 2 then local t = os.clock() while os.clock() < t + 0.15 do end end end
      local bar = atpbar.bar{ name = "bar" } bar:add(7) bar:close()
      atpbar.flush()
      for _, r in ipairs(told) do
        print(r.event, r.id, r.name, r.done, r.total, r.state, math.type(r.elapsed), r.runid, r.task)
      end]])
    assert.equal("", got.err)
    assert.same({
      "start\t1\tloop\t0\t3\tnil\tfloat\tnil\tnil",
      "update\t1\tloop\t2\t3\tnil\tfloat\tnil\tnil",
      "end\t1\tloop\t3\t3\tfinished\tfloat\tnil\tnil",
      "start\t2\tbar\t0\tnil\tnil\tfloat\tnil\tnil",
      "end\t2\tbar\t7\tnil\tfinished\tfloat\tnil\tnil",
    }, lines(got.out))
  end)

  it("is told whose bar it is, in every engine", function()
    for _, engine in ipairs{ "fork", "snapshot", "inline" } do
      local got = plain(([[
        local told = {}
        atpbar.set_renderer(function(r) told[r.event] = ("%%s %%s %%s"):format(r.name, r.runid, r.task) end)
        local mcore <close> = require "mantichora"{ engine = %q }
        mcore:run(function() end)
        mcore:run_with({ name = "T" }, function() for i in atpbar(3, "loop") do end end)
        mcore:returns()
        print(told.start, told["end"])]]):format(engine))
      assert.equal("", got.err, engine)
      assert.equal("loop 1 T\tloop 1 T\n", got.out, engine)
    end
  end)

  it("is told before the result of the end of bars that a task has left open", function()
    for _, engine in ipairs{ "fork", "snapshot", "inline" } do
      local got = plain(([[
        local told = {}
        atpbar.set_renderer(function(r)
          if r.event == "end" then told[#told + 1] = ("%%s %%d %%s"):format(r.name, r.done, r.state) end
        end)
        local mcore <close> = require "mantichora"{ nworkers = 1, engine = %q, on_error = "return" }
        local function finish(f)
          mcore:run(f)
          mcore:receive_one()
          print(table.concat(told, ", ", 1, math.min(#told, 4)))
        end
        finish(function()
          bar, step = atpbar.bar{ name = "bar", total = 5 }, atpbar(9, "loop")
          bar:add(2)
          for i = 1, 4 do step() end
          local all <close> = atpbar.bar{ name = "closed", total = 3 }
          all:add(3)
        end)
        finish(function() local left = atpbar.bar{ name = "left", total = 4 }:add() error("x") end)
        finish(function() -- who still holds them may use and drop them
          if step then bar:add():close() step() step = nil end
          collectgarbage()
          for i = 1, 99 do atpbar.bar{ name = "many" }:add(i) end
        end)
        print(#told)]]):format(engine))
      assert.equal("", got.err, engine)
      local first = "closed 3 finished, bar 2 broken, loop 3 broken"
      local second = first .. ", left 1 error"
      assert.same({ first, second, second, "103" }, lines(got.out), engine)
    end
  end)

  -- Whichever thread takes the task's last messages in, and when.
  it("is told of the end of a bar before its task's result", function()
    for _, engine in ipairs{ "fork", "snapshot" } do
      local got = plain(([[
        local ends, late = 0, 0
        local function count(r) if r.event == "end" then ends = ends + 1 end end
        atpbar.set_renderer(count)
        local mcore <close> = require "mantichora"{ nworkers = 1, engine = %q }
        local function task() for i in atpbar(3, "loop") do end end
        for i = 1, 600 do
          mcore:run(task)
          while #mcore:receive_finished() == 0 do end
          if ends < i then late = late + 1 ends = i end
        end
        ends = 0
        mcore:map(task, { 1, 2, 3, 4, 5, 6, 7, 8 })
        print(late, ends)]]):format(engine))
      assert.equal("0\t8\n", got.out, engine .. got.err)
    end
  end)

  it("that raises is logged once, set no more, and harms no result", function()
    for _, engine in ipairs{ "fork", "snapshot", "inline" } do
      local got = plain(([[
        local logging = require "mantichora.logging"
        local records = {}
        logging.get("mantichora"):add_handler(function(r) records[#records + 1] = r.levelname .. " " .. r.message end)
        local results, raised = 0, 0
        local mcore <close> = require "mantichora"{ nworkers = 1, engine = %q }
        for i = 1, 50 do
          atpbar.set_renderer(function(r) if r.event == "end" then error("no paint " .. i, 0) end end)
          mcore:run(function() for i in atpbar(3, "loop") do end return i end)
          mcore:run(function() for i in atpbar(3, "loop") do end return i end)
          local fine, list = pcall(mcore.returns, mcore)
          if not fine then raised = raised + 1 end
          if fine and list.n == 2 and list[1] == i and list[2] == i then results = results + 1 end
        end
        print(results, raised, #records, records[1], records[50])]]):format(engine))
      assert.equal("50\t0\t50\tERROR the renderer failed and is not called any more: no paint 1\t"
        .. "ERROR the renderer failed and is not called any more: no paint 50\n", got.out, engine .. got.err)
    end
  end)

  it("that raises in a loop, a flush or with an odd error lets it go on", function()
    local got = plain([[
      local logging = require "mantichora.logging"
      logging.basic_config{ stream = print }
      atpbar.set_renderer(function() error("no paint", 0) end)
      print(pcall(function() for i in atpbar(3, "a") do end end))
      atpbar.set_renderer(function() error(setmetatable({}, { __tostring = function() error "deep" end })) end)
      local bar = atpbar.bar{ name = "b" }
      print(pcall(atpbar.flush))
      bar:close()
      atpbar.set_renderer(function() error() end)
      print(pcall(function() for i in atpbar(3, "c") do end end))]])
    assert.same({ "ERROR:mantichora:the renderer failed and is not called any more: no paint", "true",
      "ERROR:mantichora:the renderer failed and is not called any more", "true",
      "ERROR:mantichora:the renderer failed and is not called any more: nil", "true" }, lines(got.out))
  end)

  it("may be taken back", function()
    local got = plain([[
      atpbar.set_renderer(print)
      atpbar.set_renderer(nil)
      for i in atpbar(3, "a") do end]])
    assert.equal("", got.out)
    assert.equal(2, #lines(got.err))
  end)

  it("may use bars itself", function()
    local got = plain([[
      local depth = 0
      atpbar.set_renderer(function(r)
        if r.name == "a" and r.event == "end" then for i in atpbar(2, "b") do end end
        print(r.name, r.event)
      end)
      for i in atpbar(3, "a") do end
      atpbar.flush()]])
    local list = lines(got.out)
    table.sort(list)
    assert.same({ "a\tend", "a\tstart", "b\tend", "b\tstart" }, list)
  end)
end)
