-- The REPL on a terminal, as a person sees it (in tmux); what shows values and what completes names,
-- called by themselves.

local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local PATIENCE = 30
local folder

-- What the sessions of these specs begin with.
local SETUP = [[
  mantichora = require "mantichora"
  atpbar = require "mantichora.atpbar"
  logging = require "mantichora.logging"
  logging.basic_config { level = "INFO" }
  function task(name)
    for i in atpbar(1000000, name) do
      mantichora.sleep(0.01)
      if i % 20 == 0 then
        print(("%s printed %d"):format(name, i))
        logging.info("%s at %d", name, i)
      end
    end
  end
]]

setup(function()
  folder = shell.folder()
  shell.write(folder .. "/setup.lua", SETUP)
end)

teardown(function()
  shell.remove(folder)
end)

local function last(lines)
  return lines[#lines] or ""
end

-- Wait for this text in the line where the cursor is.
local function wait_line(t, text)
  t:wait(function(lines) return last(lines) == text end, PATIENCE)
end

local function wait_text(t, text)
  t:wait(function(lines) return table.concat(lines, "\n"):find(text, 1, true) end, PATIENCE)
end

-- A session, at its first prompt.
local function start(columns, rows, options, environment)
  local t = terminal.start(("env %s %s %s"):format(environment or "", shell.host, options or ""), columns, rows)
  wait_line(t, ">")
  return t
end

local function running(lines)
  local count = 0
  for _, line in ipairs(lines) do
    if line:find("^ +[%d.]+%% .*: .*[abc]$") and not line:find("cancelled |", 1, true) then count = count + 1 end
  end
  return count
end

-- With two tasks that run, and a third that waits.
local function start_tasks(columns, rows)
  local t = start(columns, rows, ("-i %s/setup.lua"):format(folder))
  t:enter("p = mantichora{nworkers=2}")
  -- What is typed before the next prompt is there is echoed by the terminal, as everywhere.
  t:wait(function(lines)
    return last(lines) == ">" and table.concat(lines):find("nworkers=2}", 1, true)
  end, PATIENCE)
  t:enter("p:run(task, 'a') p:run(task, 'b') p:run(task, 'c')")
  t:wait(function(lines) return last(lines) == ">" and running(lines) == 2 end, PATIENCE)
  return t
end

describe("the prompt while tasks run", function()
  for _, size in ipairs { { 100, 30 }, { 40, 10 }, { 20, 5 } } do
    it(("loses nothing that is typed at %dx%d"):format(size[1], size[2]), function()
      local t <close> = start_tasks(size[1], size[2])
      local text = "x = 'abcdefghijklmnopqrstuvwxyz0123456789'"
      for i = 1, #text do
        t:text(text:sub(i, i))
        if i % 10 == 0 then
          -- Something new above the prompt, with the line below as it was.
          local before = table.concat(t:screen(true), "\n")
          t:wait(function() return table.concat(t:screen(true), "\n") ~= before end, PATIENCE)
        end
      end
      t:type("Enter")
      t:enter("#x .. x:upper()")
      t:wait(function()
        return table.concat(t:screen(true)):find("36ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", 1, true)
      end, PATIENCE)
      t:text("left")
      t:wait(function(lines) return last(lines) == "> left" and #lines <= size[2] end, PATIENCE)
      t:type("C-c C-d")
      t:wait(function()
        local seen = table.concat(t:screen(true)):gsub("%s", "")
        return seen:find("3tasksareoutstanding:Ctrl-Doncemorestopsthem", 1, true)
      end, PATIENCE)
      t:type("C-d")
      assert.are.equal(0, (t:finish(PATIENCE)))
      local x, _, shown = t:cursor()
      assert.are.equal(0, x)
      assert.is_true(shown)
    end)
  end

  it("has lines of tasks and log lines above it, each whole", function()
    local t <close> = start_tasks(100, 30)
    t:text("half a li")
    for _, text in ipairs { "a printed 60", "INFO:root:b at 60", "b printed 60", "INFO:root:a at 60" } do
      t:wait(function(lines)
        local above = table.concat(lines, "\n", 1, #lines - 1)
        return last(lines) == "> half a li" and above:find(text .. "\n", 1, true)
      end, PATIENCE)
    end
    t:wait(function() return select(1, t:cursor()) == 11 end, PATIENCE)
    t:type("C-c")
    t:enter("p:terminate()")
    t:wait(function(lines) return last(lines) == ">" and running(lines) == 0 end, PATIENCE)
    for _, line in ipairs(t:screen(true)) do
      assert.truthy(line:find("^[ab] printed %d+$") or line:find("^INFO:root:[ab] at %d+$") or line:find("^>")
        or line:find("^mantichora ") or line:find("^help%(%) ")
        or line:find("^ +[%d.]+%% .* cancelled |.*|:  [ab]$") or line:find("^%d$")
        or line == "", "a torn line: " .. line)
    end
  end)

  it("follows the size of the window, and keeps the cursor in its place", function()
    local t <close> = start_tasks(100, 30)
    t:text("a = 'one two'")
    t:type("Left Left Left")
    t:wait(function() return select(1, t:cursor()) == 12 end, PATIENCE)
    for _, size in ipairs { { 60, 20 }, { 40, 10 }, { 20, 5 }, { 90, 25 } } do
      t:resize(size[1], size[2])
      t:wait(function(lines)
        return last(lines) == "> a = 'one two'" and running(lines) == 2 and select(1, t:cursor()) == 12
      end, PATIENCE)
    end
    t:text("X")
    wait_line(t, "> a = 'one tXwo'")
  end)

  it("stops a call that waits at Ctrl-C, and keeps the pool and its tasks", function()
    local t <close> = start_tasks(100, 40)
    t:enter("p:returns()")
    wait_text(t, "> p:returns()\n")
    t:wait(function(lines) return running { last(lines) } == 1 end, PATIENCE) -- it waits: no prompt
    t:type("C-c")
    wait_text(t, "interrupted!\nstack traceback:")
    wait_line(t, ">")
    t:enter("p")
    wait_text(t, "mantichora: 2 workers, 2 running, 1 queued")
    t:wait(function(lines) return last(lines) == ">" and running(lines) == 2 end, PATIENCE)
  end)

  it("moves pools on that have no helper thread, and replaces workers that have ended", function()
    local t <close> = start(80, 24, ("-i %s/setup.lua"):format(folder))
    t:enter("p = mantichora{ nworkers = 1, background = false }")
    t:enter("p:run(os.exit, 3) for i = 1, 3 do p:run(function() logging.info('%d lives', i) end) end")
    t:wait(function(lines)
      local text = table.concat(lines, "\n")
      return last(lines) == ">" and text:find("INFO:root:1 lives\nINFO:root:2 lives\nINFO:root:3 lives\n", 1, true)
    end, PATIENCE)
  end)

  it("sends a function that was typed a moment ago", function()
    local t <close> = start(80, 24, ("-i %s/setup.lua"):format(folder))
    t:enter("p = mantichora()")
    t:enter("p:run(function() return 1 end)")
    t:enter("function later(x) return 'later ' .. x end")
    t:enter("p:run(function() return later(2) end)")
    t:enter("p:returns()")
    wait_text(t, '{ 1, "later 2", n = 2 }')
  end)

  it("shows lines that bars or tasks make in other modes, too", function()
    local t <close> = start(80, 24, ("--progress text -i %s/setup.lua"):format(folder))
    t:enter("p = mantichora()")
    t:enter("p:run(function() for _ in atpbar(5, 'five') do mantichora.sleep(0.01) end print('task') end)")
    t:text("ty")
    t:wait(function(lines)
      local text = table.concat(lines, "\n")
      return last(lines) == "> ty" and text:find("0 / +5 %(  0.00%%%): five\n") and text:find("\ntask\n")
        and text:find("5 / +5 %(100.00%%%): five\n")
    end, PATIENCE)
  end)

  it("tells what handlers raise, and goes on", function()
    local t <close> = start(80, 24, ("-W -i %s/setup.lua"):format(folder))
    t:enter("logging.add_handler(function(record) print('handled') error('no') end)")
    t:enter("p = mantichora() p:run(function() logging.info('said') end)")
    t:text("ty")
    t:wait(function(lines)
      local text = table.concat(lines, "\n")
      return last(lines) == "> ty" and text:find("handled\n") and text:find("a handler failed: stdin:1: no\n")
    end, PATIENCE)
  end)
end)

describe("the prompt", function()
  it("edits lines as people know it", function()
    local t <close> = start(80, 24)
    t:text("prnt('äöü 日本語')")
    t:type("Home Right Right")
    t:text("i")
    wait_line(t, "> print('äöü 日本語')")
    t:wait(function() return select(1, t:cursor()) == 5 end, PATIENCE)
    t:type("C-e BSpace BSpace BSpace")
    wait_line(t, "> print('äöü 日本")
    t:wait(function() return select(1, t:cursor()) == 17 end, PATIENCE)
    t:text("')")
    t:type("Enter")
    wait_text(t, "\näöü 日本\n>")
    t:text("one.two")
    t:type("C-a C-k")
    wait_line(t, ">")
    t:type("C-y")
    wait_line(t, "> one.two")
    t:type("C-u C-l")
    t:wait(function(lines) return #lines == 1 and lines[1] == ">" end, PATIENCE)
    t:text("#'" .. ("0123456789"):rep(20) .. "'")
    t:type("Enter")
    wait_text(t, "\n200\n>")
  end)

  it("takes what is pasted, many lines, long ones, and bytes that are no characters", function()
    local t <close> = start(120, 24)
    local lines = { "t = {}" }
    for i = 1, 100 do lines[#lines + 1] = ("for i = 1, 1 do\n\tt[#t + 1] = %d -- ä\nend"):format(i) end
    lines[#lines + 1] = ("x = '%s'"):format(("0123456789"):rep(500))
    lines[#lines + 1] = "s = '\xFF\xC3(\xE2\x82' .. '\xF0\x9F\x8E\x89'"
    lines[#lines + 1] = "#t, t[100], #x, s:byte(1, -1)\n"
    shell.write(folder .. "/paste", table.concat(lines, "\n"))
    t:tmux("load-buffer " .. folder .. "/paste")
    t:tmux("paste-buffer")
    wait_text(t, "\n100     100     5000    255     195     40      226     130     240     159     142     137\n>")
  end)

  it("abandons the line, or those of a chunk, at Ctrl-C", function()
    local t <close> = start(80, 24)
    t:text("half")
    wait_line(t, "> half")
    t:type("C-c")
    wait_line(t, ">")
    t:enter("for i = 1, 2 do")
    wait_line(t, ">>")
    t:text("x")
    wait_line(t, ">> x")
    t:type("C-c")
    wait_line(t, ">")
    t:enter("1 + 1")
    wait_text(t, "\n2\n>")
    assert.are.same({ "> half^C", "> for i = 1, 2 do", ">> x^C", "> 1 + 1", "2", ">" },
      table.move(t:screen(), 3, 8, 1, {}))
  end)

  it("leaves at Ctrl-D, but not in the middle of a line", function()
    local t <close> = start(80, 24)
    t:text("xy")
    t:type("Home C-d")
    wait_line(t, "> y")
    t:type("C-d C-d")
    assert.are.equal(0, (t:finish(PATIENCE)))
  end)

  it("takes its text from _PROMPT and _PROMPT2", function()
    local t <close> = start(80, 24)
    t:enter([[_PROMPT2 = setmetatable({}, {__tostring = function() return ".. " end})]])
    t:enter([[_PROMPT = "\27[32mgrün\27[0m> "]])
    wait_line(t, "grün>")
    t:enter("x = (")
    wait_line(t, "..")
    t:enter("5)")
    t:text("x")
    wait_line(t, "grün> x")
    t:wait(function() return select(1, t:cursor()) == 7 end, PATIENCE)
    assert.truthy(t:tmux("capture-pane -e -p").out:find("\27%[32mgrün\27%[[%d;]*m> x"))
  end)

  it("gives the terminal back when it is stopped, and goes on after fg", function()
    local t <close> = terminal.start("env PS1='READY$ ' HISTFILE= bash --norc --noprofile -i", 80, 24)
    wait_line(t, "READY$")
    t:enter(shell.host)
    wait_line(t, ">")
    t:text("x = 'kept")
    wait_line(t, "> x = 'kept")
    t:type("C-z")
    wait_text(t, "Stopped")
    wait_line(t, "READY$")
    t:enter("stty -a | tr ' ;' '\\n\\n' | grep icanon")
    wait_text(t, "\nicanon\nREADY$")
    t:enter("fg")
    wait_line(t, "> x = 'kept")
    t:enter("'")
    t:enter("x .. x")
    wait_text(t, "\nkeptkept\n>")
    t:type("C-d")
    wait_line(t, "READY$")
  end)

  local function gives_back(name, line, status)
    it("gives the terminal back " .. name, function()
      local t <close> = terminal.start(("%s -i %s/setup.lua; echo ended $?; stty -a | tr ' ;' '\\n\\n' | grep icanon")
        :format(shell.host, folder), 80, 24)
      wait_line(t, ">")
      t:enter(line)
      wait_text(t, ("\nended %d\nicanon"):format(status))
    end)
  end
  gives_back("when a signal ends it",
    "os.execute('(sleep 0.2; kill -TERM '..io.open('/proc/self/stat'):read('n')..')&')", 143)
  gives_back("when a handler exits", "logging.add_handler(function() os.exit(7) end) p = mantichora() "
    .. "p:run(function() mantichora.sleep(0.2) logging.info('x') end)", 7)

  it("is plain on a typewriter, and where standard output is no terminal", function()
    local t <close> = start(80, 24, "", "TERM=dumb")
    t:enter("{}")
    wait_text(t, "\ntable: 0x")
    t:type("C-d")
    assert.are.equal(0, (t:finish(PATIENCE)))
    local u <close> = terminal.start(("%s >%s/out"):format(shell.host, folder), 80, 24)
    u:text("6 * 7")
    wait_text(u, "6 * 7")
    u:type("Enter C-d")
    assert.are.equal(0, (u:finish(PATIENCE)))
    local file <close> = assert(io.open(folder .. "/out"))
    assert.truthy(file:read("a"):find("\n> 42\n> \n$"))
  end)
end)

describe("history", function()
  local state, sessions

  before_each(function()
    sessions = sessions and sessions + 1 or 1
    state = ("%s/state%d"):format(folder, sessions)
  end)

  local function open()
    return start(80, 24, "", "XDG_STATE_HOME=" .. state)
  end

  local function close(t)
    t:type("C-d")
    assert.are.equal(0, (t:finish(PATIENCE)))
    t:close()
  end

  it("is kept from session to session, the user's alone", function()
    local t = open()
    t:enter("first = 1")
    t:enter("for i = 1, 1 do")
    t:enter([[print('a\nb')]])
    t:enter("end")
    wait_text(t, "\na\nb\n>")
    close(t)
    local modes = shell.run(("stat -c %%a %s/mantichora %s/mantichora/history"):format(state, state)).out
    assert.are.equal("700\n600\n", modes)
    t = open()
    t:type("Up")
    t:wait(function(lines)
      return table.concat(lines, "\n", 3) == "> for i = 1, 1 do\n  print('a\\nb')\n  end"
    end, PATIENCE)
    t:type("Enter")
    wait_text(t, "\na\nb\n>")
    t:type("Up Up")
    wait_line(t, "> first = 1")
    t:type("Down Down")
    wait_line(t, ">")
    t:type("C-r")
    t:text("irs")
    t:type("Escape Enter")
    t:enter("first")
    wait_text(t, "\n1\n>")
    close(t)
  end)

  it("loses nothing when several sessions are open", function()
    local a, b = open(), open()
    a:enter("from_a = 1")
    wait_line(a, ">")
    b:enter("from_b = 2")
    wait_line(b, ">")
    a:enter("from_a = 3")
    wait_line(a, ">")
    close(a)
    close(b)
    local file <close> = assert(io.open(state .. "/mantichora/history"))
    assert.are.equal("from_a = 1\nfrom_b = 2\nfrom_a = 3\n", file:read("a"))
  end)

  it("is cut when it has become long", function()
    os.execute("mkdir -p " .. state .. "/mantichora")
    local lines = {}
    for i = 1, 2500 do lines[i] = "x = " .. i .. "\n" end
    shell.write(state .. "/mantichora/history", table.concat(lines))
    local t = open()
    t:type("Up")
    wait_line(t, "> x = 2500")
    t:type("C-u")
    wait_line(t, ">")
    close(t)
    local file <close> = assert(io.open(state .. "/mantichora/history"))
    assert.are.equal(table.concat(lines, "", 1501), file:read("a"))
  end)

  it("does without a place for its file", function()
    for _, environment in ipairs { "-u HOME -u XDG_STATE_HOME", "XDG_STATE_HOME=/dev/null/nowhere" } do
      local t <close> = start(80, 24, "", environment)
      t:enter("x = 6")
      t:type("Up")
      wait_line(t, "> x = 6")
      t:type("C-u C-d")
      assert.are.equal(0, (t:finish(PATIENCE)))
    end
  end)
end)

describe("completion", function()
  local globals = {
    print = print, string = string, strange = 1,
    deep = { er = { value = 5, f = print, g = 2 } },
    called = 0,
  }
  local class = { method = function() end, field = 1, __index = nil }
  class.__index = class
  globals.object = setmetatable({ own = print }, setmetatable({ __index = class }, {}))
  globals.inherits = setmetatable({}, { __index = setmetatable({ below = print }, class) })
  globals.proxy = setmetatable({ real = 1 }, { __index = function() globals.called = globals.called + 1 end })
  globals.text = "a string"
  local loop = {}
  globals.loop = setmetatable(loop, { __index = loop })
  local complete = assert(loadfile("scripts/mantichora/complete.lua", "t",
    setmetatable({ _G = globals }, { __index = _G })))()

  for text, expected in pairs {
    ["pri"] = "nt",
    ["x = pri"] = "nt",
    ["string.fo"] = "rmat",
    ["print(string.rev"] = "erse",
    ["deep.er.val"] = "ue",
    ["object:me"] = "thod",
    ["object.fi"] = "eld",
    ["object:fi"] = "",    -- no function
    ["inherits:be"] = "low",
    ["inherits:me"] = "thod",
    ["text:up"] = "per",
    ["proxy.re"] = "al",
    ["whi"] = "le",
    ["st"] = "r",          -- strange, string
    ["a.st"] = "",
    ["f().st"] = "",
    ["12.st"] = "",
    ["proxy.none.st"] = "",
    ["loop.x"] = "",
    [""] = "  ",
    ["   "] = "  ",
    ["for i = 1, 2 do\n"] = "  ",
  } do
    it("of " .. ("%q"):format(text), function()
      assert.are.equal(expected, complete(text, 80) or "")
      assert.are.equal(0, globals.called)
    end)
  end

  it("shows what there is to choose from", function()
    assert.are.same({ nil, "strange  string\n" }, { complete("str", 80) })
    assert.are.same({ nil, "strange\nstring\n" }, { complete("str", 12) })
    assert.are.same({ nil, "f      g      value\n" }, { complete("deep.er.", 80) })
    assert.are.same({ "f" }, { complete("deep.er:", 80) })
  end)

  it("tells others the names, and the values of paths", function()
    local names, prefix, follow = complete("x = deep.er.")
    assert.are.same({ "f", "g", "value" }, names)
    assert.are.equal("", prefix)
    assert.are.equal(5, follow("deep.er.value"))
  end)

  it("of modules inside of require", function()
    shell.write(folder .. "/modules.lua", ([[
      package.path, package.cpath = "%s/lib/?.lua;%s/lib/?/init.lua", "%s/lib/?.so"
    ]]):format(folder, folder, folder))
    os.execute(("mkdir -p %s/lib/big/deep %s/lib/whole %s/lib/empty"):format(folder, folder, folder))
    for _, name in ipairs { "zebra.lua", "zed.so", "zoo.txt", "big/part.lua", "big/deep/er.lua", "whole/init.lua" } do
      shell.write(folder .. "/lib/" .. name, "")
    end
    local t <close> = start(80, 24, "-i " .. folder .. "/modules.lua")
    for typed, expected in pairs {
      ['require "zeb'] = 'require "zebra', ["require('ze"] = "zebra  zed", ['require "zo'] = 'require "zo',
      ['require "bi'] = 'require "big.', ['require "big.'] = "big.deep.  big.part",
      ['x = require"who'] = 'x = require"whole',
      ['require "mantichora.l'] = 'require "mantichora.logging', ['require "emp'] = 'require "emp',
    } do
      t:text(typed)
      t:type("Tab")
      t:wait(function(lines)
        return last(lines) == "> " .. expected or lines[#lines - 1] == expected and last(lines) == "> " .. typed
      end, PATIENCE)
      t:type("C-u C-l")
    end
  end)

  it("happens at Tab", function()
    local t <close> = start(80, 24, "", "")
    t:text("=string.fo")
    t:type("Tab")
    wait_line(t, "> =string.format")
    t:text("('%d', 7):re")
    t:type("C-u")
    t:text("s = 'x' s:re")
    t:type("Tab")
    t:wait(function(lines)
      return last(lines) == "> s = 'x' s:re" and #lines == 3
    end, PATIENCE)
    t:type("C-u")
    t:enter("s = 'x'")
    t:text("s:re")
    t:type("Tab")
    wait_text(t, "rep      reverse\n> s:re")
    t:text("v")
    t:type("Tab")
    wait_line(t, "> s:reverse")
  end)
end)

describe("values at the prompt", function()
  local shown
  local stub = function(...) shown = table.pack(...) end
  local show = assert(loadfile("scripts/mantichora/show.lua", "t",
    setmetatable({ print = stub }, { __index = _G })))()

  local function text_of(value, columns)
    show(columns or 80, value)
    assert.are.equal(1, shown.n)
    return shown[1]
  end

  it("are those of print where they are no tables", function()
    show(80, 1, nil, "a\27b", print, nil)
    assert.are.same({ 1, nil, "a\27b", print, nil, n = 5 }, shown)
  end)

  it("are tables on one line, or a line for each entry", function()
    assert.are.equal("{}", text_of {})
    assert.are.equal('{ 1, 2.0, "x", true, { "nested" } }', text_of { 1, 2.0, "x", true, { "nested" } })
    assert.are.equal('{\n  aaaaaaaa = 1,\n  bbbbbbbb = { 2 }\n}', text_of({ aaaaaaaa = 1, bbbbbbbb = { 2 } }, 24))
    assert.are.equal('{\n  a = {\n    "0123456789",\n    "0123456789"\n  }\n}',
      text_of({ a = { "0123456789", "0123456789" } }, 24))
  end)

  it("have sorted keys", function()
    local f = function() end
    assert.are.equal('{ 1, [-1] = 1, [1.5] = 1, [7] = 1, _x = 1, a = 1, ["b c"] = 1, ["end"] = 1, '
      .. '[true] = 1, [false] = 1 }', text_of({ 1, [7] = 1, [1.5] = 1, [-1] = 1, a = 1, ["b c"] = 1, ["end"] = 1,
        _x = 1, [true] = 1, [false] = 1 }, 120))
    assert.truthy(text_of { [f] = 1 }:find("^{ %[<function [^>]*repl_spec.lua:%d+>%] = 1 }$"))
    assert.are.equal("{ [{...}] = 1 }", text_of { [{ 1 }] = 1 })
  end)

  it("may hold themselves, go deep and be long", function()
    local t = { a = {} }
    t.a.back = t
    assert.are.equal("{ a = { back = <cycle> } }", text_of(t))
    local deep = {}
    for _ = 1, 100 do deep = { deep } end
    assert.are.equal("{ { { { { {...} } } } } }", text_of(deep))
    local long = {}
    for i = 1, 5000 do long[i] = i end
    local text = text_of(long)
    assert.truthy(text:find(", 100,\n  ... and 4900 more\n}$"))
    local wide = {}
    for i = 1, 90 do wide[i] = setmetatable({}, { __index = wide }) for k = 1, 90 do wide[i][k] = { k } end end
    assert.is_true(#text_of(wide) < 40000)
  end)

  it("have strings that do nothing to a terminal", function()
    assert.are.equal([[{ "a\n\x1B[31m\x7F\"\\\x00äöü日本\xFF\xC3\u{202E}\u{85}" }]],
      text_of { "a\n\27[31m\127\"\\\0äöü日本\xFF\xC3\u{202E}\u{85}" })
    assert.are.equal('{ "' .. ("x"):rep(500) .. '" ... (1000 bytes) }', (text_of({ ("x"):rep(1000) }, 600)))
  end)

  it("say themselves what they are", function()
    local said = setmetatable({}, { __tostring = function() return "said\27" end })
    show(80, said)
    assert.are.equal(said, shown[1])
    assert.are.equal("{ said\\x1B }", text_of { said })
    assert.are.equal("{ <error in __tostring> }",
      text_of { setmetatable({}, { __tostring = function() error "no" end }) })
    assert.are.equal("Point { x = 1 }", text_of(setmetatable({ x = 1 }, { __name = "Point" })))
    assert.are.equal("{ <C function>, <coroutine> }", text_of { print == nil or string.rep, coroutine.create(print) })
    assert.truthy(text_of { io.stdout }:find("^{ file %(0x%x+%) }$"))
  end)

  it("are read raw", function()
    local called = false
    local function call() called = true end
    local meta = { __index = call, __len = call, __pairs = call, __eq = call, __lt = call, __name = call }
    assert.are.equal("{ 1, a = 2 }", text_of(setmetatable({ 1, a = 2 }, meta)))
    assert.is_false(called)
  end)

  it("are shown so on a terminal", function()
    local t <close> = start(80, 24)
    t:enter("x = {1, {a = 'b'}}")
    t:enter("x, 2, 'str'")
    wait_text(t, '\n{ 1, { a = "b" } }      2       str\n>')
    t:enter("setmetatable({}, {__tostring = function() error('no') end})")
    wait_text(t, "error calling 'print' (stdin:1: no)")
    t:enter("p = print print = function(...) p('mine', ...) end")
    t:enter("{}")
    wait_text(t, "\nmine    table: 0x")
    t:enter("print = nil")
    t:enter("1")
    wait_text(t, "error calling 'print' (attempt to call a nil value)")
  end)
end)

describe("the pictures of the README", function()
  it("can be made again", function()
    local got = shell.run(("%s scripts/screens/make.lua %s"):format(shell.host, folder), { timeout = 200 })
    assert.are.equal("", got.err)
    for name, text in pairs {
      ["quick-start"] = " 100.00%", ["quick-start-end"] = "result6", error = "worker's stack traceback:",
      prompt = "> for runid, value in pool:as_completed",
    } do
      local file <close> = assert(io.open(("%s/%s.svg"):format(folder, name)))
      local picture = file:read("a")
      for word in text:gmatch("[^ ]+") do
        assert.truthy(picture:find(">" .. word:gsub(">", "&gt;") .. "</text>", 1, true), name .. ": " .. word)
      end
    end
  end)
end)

describe("lists at the prompt", function()
  local _, readable = assert(loadfile("scripts/mantichora/show.lua"))()

  it("show several values a line when they are long", function()
    local list = {}
    for i = 1, 12 do list[i] = i * 1000 end
    assert.are.equal("{\n  1000, 2000, 3000, 4000,\n  5000, 6000, 7000, 8000,\n  9000, 10000, 11000,\n  12000\n}",
      readable(28, list))
    for _, line in ipairs { readable(28, list):match("[^\n]+") } do assert.is_true(#line < 28) end
    list.n, list[5] = 12, { 1 }
    assert.are.equal("{\n  1000, 2000, 3000, 4000,\n  { 1 },\n  6000, 7000, 8000, 9000,\n  10000, 11000, 12000,\n  "
      .. "n = 12\n}", readable(28, list))
  end)
end)

describe("first steps at the prompt", function()
  -- Lines typed where nobody is: what the program printed, without prompts.
  local function piped(...)
    local got = shell.run(shell.host .. " -i", { stdin = table.concat({ ... }, "\n") .. "\n", timeout = 60 })
    return got.out:gsub("\n>[> ]*", "\n"):gsub("^[^\n]*\n", ""), got.err
  end

  it("are told of help() by the banner", function()
    local t <close> = start(80, 24)
    assert.truthy(table.concat(t:screen(), "\n"):find("\nhelp() ", 1, true))
    for _, word in ipairs { "help", "?", " exit ", "quit" } do
      t:type("C-l")
      t:enter(word)
      wait_text(t, word:find("[eq][xu]it") and "Ctrl-D" or "help(value)")
    end
    t:type("C-l")
    t:enter("quit = 'mine'")
    t:enter("quit")
    wait_text(t, "> quit\nmine\n>")
  end)

  it("need no require, and touch no global that is there", function()
    assert.are.equal("true\ttrue\ttrue\n", (piped("mantichora == require 'mantichora', "
      .. "atpbar == require 'mantichora.atpbar', logging == require 'mantichora.logging'")):match("^.-\n"))
    local got = shell.run(shell.host .. [[ -e "mantichora, help = 5, false" -i]],
      { stdin = "mantichora, help, type(atpbar)\n", timeout = 60 })
    assert.truthy(got.out:find("5\tfalse\ttable\n", 1, true))
    got = shell.run(shell.host .. [[ -e "print(mantichora, atpbar, logging, help, _)"]])
    assert.are.equal("nil\tnil\tnil\tnil\tnil\n", got.out)
  end)

  it("find each documented function by its value, with its arguments", function()
    local count = 0
    local function check(expression, name)
      local out = piped(("help(%s)"):format(expression))
      assert.are.equal(name, out:match("^[%w_.:]+"), expression)
      count = count + 1
    end
    for _, name in ipairs { "new", "sleep", "cpu_count", "explain", "is_worker", "runid" } do
      check("mantichora." .. name, "mantichora." .. name)
    end
    for _, name in ipairs { "run", "run_with", "returns", "map", "imap", "cancel", "close" } do
      check("mantichora()." .. name, "pool:" .. name)
    end
    for _, name in ipairs { "wrap", "bar", "pairs", "set_renderer" } do check("atpbar." .. name, "atpbar." .. name) end
    for _, name in ipairs { "basic_config", "get", "info" } do check("logging." .. name, "logging." .. name) end
    check("mantichora", "mantichora")
    check("atpbar", "atpbar")
    check("logging", "logging")
    check("mantichora()", "pool")
    check("logging.get 'x'", "logger")
    check("atpbar.bar { name = 'x' }", "bar")
    assert.are.equal(26, count)
    local out = piped("p = mantichora()", "help(p.run_with)")
    assert.truthy(out:find("pool:run_with(options, f, ...)", 1, true))
    assert.truthy(out:find("\n  f +%(function%)") and out:find("\nReturns: ") and out:find("\nRaises: "))
  end)

  it("find all that the sources document, by name", function()
    local names = {}
    local found = shell.run("grep -rhoE '^(-- |.?)@function [a-z_]+' scripts/mantichora bindings/show")
    for line in found.out:gmatch("[^\n]+") do
      names[#names + 1] = line:match("@function (%S+)$")
    end
    assert.is_true(#names > 40)
    local lines = {}
    for i, name in ipairs(names) do lines[i] = ("help %q"):format(name) end
    local out = piped(table.unpack(lines))
    assert.falsy(out:find("Nothing is known", 1, true))
    assert.truthy(piped('help "options"'):find("\n  nworkers ", 1, true))
    assert.truthy(piped('help "failure"'):find("\n  traceback ", 1, true))
    assert.truthy(piped('help "nothing"'):find("^Nothing is known"))
    assert.truthy(piped("help(print)"):find("none of mantichora's", 1, true))
    assert.truthy(piped("help()"):find("man mantichora", 1, true))
  end)

  it("keep the last line's first value in _, and its last error in _ERR", function()
    local out = piped("6 * 7, 8", "x = 1", "_", "error{ code = 5 }", "_ERR.code", "x x", "_ERR",
      "setmetatable(_G, { __newindex = error })", "_ == _G")
    assert.are.equal("42\t8\n42\n5\nstdin:1: syntax error near 'x'\n", out:match("^(.*)table: "))
    assert.truthy(out:find("\ntrue\n"))
    out = piped("p = mantichora()", "for i = 1, 3 do p:run(function() return i > 1 and i or error 'no' end) end",
      "p:returns()", "_ERR.kind, _ERR.runid, _ERR.results[1], _ERR.results[2]")
    assert.truthy(out:find("error\t0\t2\t3\n", 1, true))
  end)

  it("show what waits in a pool, and a table that was raised", function()
    local t <close> = start(80, 24)
    t:enter("p = mantichora { nworkers = 2 }")
    t:enter("for i = 1, 3 do p:run(function() return i end) end while p:poll(9) < 3 do end")
    t:enter("p")
    wait_text(t, "\nmantichora: 2 workers, 0 running, 0 queued, 3 to be received\n")
    t:enter("{ p }")
    wait_text(t, "{ mantichora: 2 workers, 0 running, 0 queued, 3 to be received }")
    t:enter("p:close()")
    t:enter("p")
    wait_text(t, "\nmantichora: closed\n")
    t:enter("error { code = 5, list = { 'a' } }")
    wait_text(t, '{ code = 5, list = { "a" } }\nstack traceback:')
  end)

  it("are told above the prompt, once, in a line, which task has failed", function()
    local t <close> = start(120, 40)
    t:enter("p = mantichora { nworkers = 1, name = 'mine' }")
    t:enter("go = os.tmpname() os.remove(go)")
    t:enter("function wait() while not io.open(go) do mantichora.sleep(0.01) end end")
    t:enter("p:run(function() wait() error('first\\nsecond') end)")
    t:enter("p:run_with({ name = 'n' }, function() os.exit(3) end)")
    t:enter("p:run(function() mantichora.sleep(600) end)")
    t:wait(function(lines) return last(lines) == ">" and lines[#lines - 1] == "2" end, PATIENCE)
    t:enter("io.open(go, 'w'):close()")
    t:text("half a li")
    t:wait(function(lines)
      local text = table.concat(lines, "\n")
      return last(lines) == "> half a li" and text:find('pool "mine": task 0 [^\n]*: error: stdin:1: first second\n')
        and text:find('pool "mine": task 1 %("n", [^\n]*%): exited: its worker exited with status 3\n')
    end, PATIENCE)
    t:type("C-u")
    t:enter("p:cancel(2)")
    t:enter("p:poll(9)")
    t:enter("print(pcall(p.returns, p)) os.remove(go)")
    wait_text(t, "false")
    wait_text(t, "and 2 more tasks failed")
    local _, count = table.concat(t:screen(true), "\n"):gsub('pool "mine": task', "")
    assert.are.equal(2, count)
  end)

  it("are told of the first ones where many fail together", function()
    local t <close> = start(80, 60)
    t:enter("p = mantichora() for i = 1, 50 do p:run(error, 'no') end while p:poll(9) < 50 do end")
    wait_text(t, "\n... and 30 more tasks have failed\n>")
    local _, count = table.concat(t:screen(), "\n"):gsub("\ntask %d+: error: no", "")
    assert.are.equal(20, count)
    t:enter("p")
    wait_text(t, "50 to be received")
  end)

  it("tell at the end of input how many tasks are outstanding, and leave at the second", function()
    local t <close> = start(80, 24)
    t:enter("p = mantichora { nworkers = 1 }")
    t:enter("for i = 1, 3 do p:run(mantichora.sleep, 600) end")
    t:type("C-d")
    wait_text(t, "\n3 tasks are outstanding: Ctrl-D once more stops them and leaves.\n>")
    t:enter("p:cancel(2)")
    wait_text(t, "queued")
    t:type("C-d")
    wait_text(t, "\n2 tasks are outstanding:")
    assert.is_nil(t:status())
    t:type("C-d")
    local status, lines = t:finish(PATIENCE)
    assert.are.equal(0, status)
    assert.falsy(table.concat(lines, "\n"):find("WARNING", 1, true))
  end)

  it("leave at the first end of input where nothing is outstanding, on a typewriter too", function()
    local t <close> = start(80, 24, "", "TERM=dumb")
    t:enter("p = mantichora() p:run(mantichora.sleep, 600)")
    t:wait(function(lines) return last(lines) == ">" and #lines > 3 end, PATIENCE)
    t:type("C-d")
    wait_text(t, "1 task is outstanding: Ctrl-D once more stops it and leaves.")
    t:type("C-d")
    assert.are.equal(0, (t:finish(PATIENCE)))
  end)
end)
