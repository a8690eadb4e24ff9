-- The host takes what `lua` takes: both get the same command lines, and must say and do the same.

local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local folder

setup(function()
  folder = shell.folder()
  shell.write(folder .. "/args.lua", [[
    print(#arg, select("#", ...), ...)
    for i = -8, #arg do
      -- The interpreter's own name differs.
      if arg[i] and arg[i - 1] then print(i, arg[i]) end
    end
  ]])
  shell.write(folder .. "/shebang.lua", "#!/usr/bin/env lua\nprint('after the first line') error('here')\n")
  shell.write(folder .. "/library.lua", "print('loading', ...) return { name = 'library' }\n")
  shell.write(folder .. "/broken.lua", "x = = 1\n")
  shell.write(folder .. "/-", "print('a file named -')\n")
  shell.write(folder .. "/close.lua", [[
    local guard <close> = setmetatable({}, { __close = function() print("closed") end })
    setmetatable({}, { __gc = function() print("collected at the end") end })
    error(setmetatable({}, { __tostring = function() return "an object" end }))
  ]])
  for name, code in pairs {
    number = "error(setmetatable({}, { __tostring = function() return 42 end }))",
    named = "error(setmetatable({}, { __name = 'My type' }))",
    nothing = "error(nil)",
    inner = "error(setmetatable({}, { __tostring = function() error('inner') end }))",
    closing = "local t <close> = setmetatable({}, { __close = function() error('close') end }) error('body')",
    yield = "coroutine.yield(1)",
    strict = "setmetatable(_G, { __index = function(_, k) error('undefined ' .. k, 2) end }) print(foo)",
    finalizer = "setmetatable({}, { __gc = function() error('gc') end }) collectgarbage()",
  } do
    shell.write(("%s/raises_%s.lua"):format(folder, name), code .. "\n")
  end
  shell.write(folder .. "/dumped.lua", string.dump(load("return print('bytecode', ...)", "=dumped")))
end)

teardown(function()
  shell.remove(folder)
end)

-- What a program said, with its own name taken out.
local function observe(program, case)
  local prefix = case.env and case.env .. " " or ""
  local path = program:find("/", 1, true) and "$OLDPWD/" .. program or program
  if program:sub(1, 1) == "/" then path = program end
  local result = shell.run(("cd %s && %s%s %s"):format(shell.quote(folder), prefix, path, case[1]),
    { stdin = case.stdin, timeout = 30 })
  local expanded = path:gsub("%$OLDPWD", function() return os.getenv("PWD") end)
  for _, name in ipairs { expanded, path } do
    local start = 1
    while true do
      local from, to = result.err:find(name, start, true)
      if not from then break end
      result.err = result.err:sub(1, from - 1) .. "lua" .. result.err:sub(to + 1)
      start = from + 3
    end
  end
  return result
end

local cases = {
  -- scripts and their arguments
  { "args.lua" },
  { "args.lua one 'two words' ''" },
  { "-e 'local x' -W args.lua -e -i" },
  { "-- args.lua one" },
  { "args.lua -- -" },
  { "shebang.lua" },
  { "broken.lua" },
  { "close.lua" },
  { "dumped.lua x" },
  { "raises_number.lua" },
  { "raises_named.lua" },
  { "raises_nothing.lua" },
  { "raises_inner.lua" },
  { "raises_closing.lua" },
  { "raises_yield.lua" },
  { "raises_strict.lua" },
  { "-W raises_finalizer.lua" },
  { "missing.lua" },
  { "." },
  { "-e 'arg = nil' args.lua" },
  { "-e 'arg = { \"changed\" }' args.lua original" },
  -- stdin
  { "", stdin = "print('from stdin', ...) error('x')" },
  { "-", stdin = "print('from stdin', ..., arg[0])" },
  { "- one two", stdin = "print('from stdin', ..., arg[0])" },
  { "-- -", stdin = "print('not read')" },
  { "", stdin = "syntax error here" },
  { "", stdin = "#! first line\nprint(1)" },
  { "-E", stdin = "print(2)" },
  { "-W", stdin = "warn('shown')" },
  -- -e, -l
  { "-e 'print(1)' -e 'print(2)'" },
  { "-e'print(1)'" },
  { "-e 'print(arg[0] ~= nil, arg[1], arg[2])'" },
  { "-e 'x = 1' -e 'error(\"no\")' -e 'print(2)'" },
  { "-e 'x = '" },
  { "-e 'error()'" },
  { "-e 'error({})'" },
  { "-e 'error(setmetatable({}, {__tostring = function() return \"said\" end}))'" },
  { "-e 'error(\"level 2\", 2)'" },
  { "-e 'error(12)'" },
  { "-e 'local function f() local t = nil; t.x = 1 end f()'" },
  { "-e 'coroutine.wrap(function() error(\"in a coroutine\") end)()'" },
  { "-e 'print(...)'" },
  { "-l library -e 'print(library.name)'" },
  { "-llibrary -e 'print(library.name)'" },
  { "-l short=library -e 'print(short.name, library)'" },
  { "-e 'print(1)' -l library -e 'print(2)'" },
  { "-l string -e 'print(string.rep(\"x\", 3))'" },
  { "-l broken" },
  { "-l nowhere" },
  -- other options
  { "-W -e 'warn(\"shown\") warn(\"@off\") warn(\"hidden\")'" },
  { "-e 'warn(\"hidden\") warn(\"@on\") warn(\"sho\", \"wn\")'" },
  { "-e 'print(collectgarbage(\"count\") > 0, collectgarbage(\"incremental\"))'" },
  { "-E -e 'print(package.path == (os.getenv \"LUA_PATH\"))'", env = "LUA_PATH='./?.x'" },
  { "-e 'print(package.path)'", env = "LUA_PATH='./?.x'" },
  { "-e 'print(package.path == \"./?.x\")'", env = "LUA_PATH_5_4='./?.x' LUA_PATH=y" },
  -- LUA_INIT
  { "-e 'print(x)'", env = "LUA_INIT='x = 1'" },
  { "-e 'print(x)'", env = "LUA_INIT='x = 1' LUA_INIT_5_4='x = 2'" },
  { "-e 'print(x)'", env = "LUA_INIT='error(1)'" },
  { "-e 'print(x)'", env = "LUA_INIT_5_4='x ='" },
  { "-E -e 'print(x)'", env = "LUA_INIT='x = 1'" },
  { "-e 'print(x)'", env = "LUA_INIT=@library.lua" },
  { "-e 'print(x)'", env = "LUA_INIT=@nowhere.lua" },
  { "-e 'print(x)'", env = "LUA_INIT=" },
  -- exit status
  { "-e 'os.exit(3)'" },
  { "-e 'os.exit(true)'" },
  { "-e 'os.exit(false)'" },
  { "-e 'os.exit(0, true)'" },
  { "-e 'io.stdout:write(\"no newline\") os.exit(4, true)'" },
  { "-e 'io.stderr:close() error(\"nowhere to say\")'" },
}

-- What is wrong with the line is the first thing said; the options that follow differ.
local wrong = {
  "-x", "-e", "-l", "-e -i", "-l -", "-i2", "-vv", "-EE", "-Wx", "--unknown", "-e 'print(1)' -x",
  "-e 'print(1)' -e", "--workersx",
}

describe("host", function()
  for _, case in ipairs(cases) do
    it("does as lua: " .. (case.env or "") .. " lua " .. case[1], function()
      local expected = observe(shell.lua, case)
      local got = observe(shell.host, case)
      assert.are.same(expected, got)
    end)
  end

  for _, line in ipairs(wrong) do
    it("refuses as lua: lua " .. line, function()
      local expected = observe(shell.lua, { line })
      local got = observe(shell.host, { line })
      assert.are.equal(expected.status, got.status)
      assert.are.equal("", got.out)
      assert.are.equal(expected.err:match("^[^\n]*"), got.err:match("^[^\n]*"))
      assert.are.equal(expected.err:match("\n(usage[^\n]*)"), got.err:match("\n(usage[^\n]*)"))
    end)
  end

  -- The stock program may use readline, which echoes; so only its messages are compared.
  it("evaluates at the prompt as lua does", function()
    local input = table.concat({
      "1 + 1", "=2 + 2", "x = 5", "x", "nil, 1, nil", "for i = 1, 2 do", "print(i)", "end", "return x",
      "function f()", "return 'f'", "end", "f()", "print('a') error('b')", "error({})", "x = = 1", "f(",
      "1)", "_PROMPT = '? '", "_PROMPT2 = nil",
      "setmetatable({}, {__tostring = function() return 'T' end})", "print = nil", "1", }, "\n")
    local got = shell.run(shell.host .. " -i", { stdin = input, timeout = 30 })
    local expected = shell.run(shell.lua .. " -i", { stdin = input, timeout = 30 })
    assert.are.equal(expected.err, got.err)
    assert.are.equal(0, got.status)
    local shown = got.out:gsub("\n[>? ]+", "\n"):gsub("^[^\n]*\n", "")
    assert.are.equal("2\n4\n5\nnil\t1\tnil\n1\n2\n5\nf\na\nT\n\n", shown)
    assert.are.equal(5, select(2, got.out:gsub("%? ", "")))
  end)

  it("says which versions it is made of", function()
    local got = shell.run(shell.host .. " -v")
    assert.truthy(got.out:match("^mantichora %d+%.%d+%.%d+, Lua 5%.4[^\n]*\n$"))
    assert.are.equal(0, got.status)
    assert.are.equal("mantichora " .. got.out:match("%d+%.%d+%.%d+"),
      shell.run(shell.host .. [[ -e 'io.write(require "mantichora"._VERSION)']]).out)
  end)

  it("explains itself", function()
    local got = shell.run(shell.host .. " --help")
    assert.are.equal(0, got.status)
    assert.are.equal("", got.err)
    for _, option in ipairs { "-e stat", "-l mod", "--workers", "--progress", "--log-level", "--help" } do
      assert.truthy(got.out:find(option, 1, true), option)
    end
  end)

  it("hands its own options to the module and to programs started by the script", function()
    local print_all = [[ -e 'print(os.getenv "MANTICHORA_WORKERS", os.getenv "MANTICHORA_PROGRESS",
      os.getenv "MANTICHORA_LOG_LEVEL", #arg)' ]]
    local unset = "unset MANTICHORA_WORKERS MANTICHORA_PROGRESS MANTICHORA_LOG_LEVEL\n"
    assert.are.equal("3\toff\tinfo\t7\n", shell.run(unset .. shell.host
      .. " --workers 3 --progress off --log-level=info" .. print_all).out)
    assert.are.equal("auto\tnil\tnil\t3\n",
      shell.run(unset .. shell.host .. " --workers=auto" .. print_all).out)
    assert.are.equal("nil\tnil\tnil\t2\n", shell.run(unset .. shell.host .. print_all).out)
  end)

  it("makes the defaults of pools from them", function()
    local got = shell.run(shell.host .. [[ --workers 3 --log-level ERROR --progress off -e '
      local logging, atpbar = require "mantichora.logging", require "mantichora.atpbar"
      print(require "mantichora"())
      logging.warning("hidden")
      logging.error("seen")
      for _ in atpbar(3, "hidden") do end']])
    assert.are.equal("mantichora: 3 workers, 0 running, 0 queued\n", got.out)
    assert.are.equal("ERROR:root:seen\n", got.err)
  end)

  for line, message in pairs {
    ["--workers 0 -e 'print(1)'"] = "'--workers' must be a number above 0, or auto: '0' is given",
    ["--workers=-1"] = "'--workers' must be a number above 0, or auto: '-1' is given",
    ["--workers=1.5"] = "'--workers' must be a number above 0, or auto: '1.5' is given",
    ["--workers="] = "'--workers' must be a number above 0, or auto: '' is given",
    ["--workers"] = "'--workers' needs argument",
    ["--progress fast"] = "'--progress' must be auto, bar, text, json, off or eta: 'fast' is given",
    ["--log-level LOUD"] =
      "'--log-level' must be DEBUG, INFO, WARNING, ERROR, CRITICAL or a number: 'LOUD' is given",
  } do
    it("refuses " .. line, function()
      local got = shell.run(shell.host .. " " .. line)
      assert.are.equal(1, got.status)
      assert.are.equal("", got.out)
      assert.are.equal(shell.host .. ": " .. message, got.err:match("^[^\n]*"))
    end)
  end

  it("has the module inside, and shows Lua's symbols to C modules", function()
    local host = (shell.host:sub(1, 1) == "/" and "" or "$OLDPWD/") .. shell.host
    local got = shell.run("cd / && LUA_CPATH= LUA_PATH= " .. host
      .. [[ -e 'print(require "mantichora", require "mantichora.logging" ~= nil)']])
    assert.are.equal("", got.err)
    assert.truthy(got.out:find("true\n$"))
    got = shell.run(shell.host .. [[ -e 'print(require "cjson".encode { 1, "x" })']])
    assert.are.equal('[1,"x"]\n', got.out)
  end)

  it("stops a script at Ctrl-C with one message, as often as it is caught", function()
    local got = shell.run(shell.host .. [[ -e '
      local guard <close> = setmetatable({}, { __close = function() print("closed") end })
      io.popen("kill -INT $PPID"):close()
      while true do end']], { timeout = 30 })
    assert.are.equal("closed\n", got.out)
    assert.are.equal(1, got.status)
    assert.truthy(got.err:find("interrupted!\nstack traceback:", 1, true))
    assert.are.equal(1, select(2, got.err:gsub("interrupted!", "")))
    got = shell.run("exec " .. shell.host .. [[ -e '
      for i = 1, 5 do
        print("caught", select(2, pcall(function() io.popen("kill -INT $PPID"):close() while true do end end)))
      end
      io.popen("kill -INT $PPID"):close()
      while true do end']], { timeout = 30 })
    assert.are.equal(5, select(2, got.out:gsub("caught\t[^\n]*interrupted!\n", "")), got.out)
    assert.are.equal(1, got.status)
    assert.are.equal(1, select(2, got.err:gsub("interrupted!", "")))
  end)

  it("ends at once at a second Ctrl-C where Lua did not come round to the first", function()
    local got = shell.run("exec " .. shell.host .. [[ -e '
      io.popen("(sleep 0.2; kill -INT $PPID; sleep 0.3; kill -INT $PPID) >&- &"):close()
      print("begin")
      io.stdout:flush()
      pcall(string.find, ("a"):rep(60), ("a?"):rep(60) .. ("a"):rep(60) .. "b")
      print("not reached")']], { timeout = 30 })
    assert.are.equal("begin\n", got.out)
    assert.are.equal(130, got.status)
    assert.are.equal("", got.err)
  end)

  it("keeps its prompt at Ctrl-C", function()
    local screen <close> = terminal.start(shell.host, 80, 24)
    local function shows(text)
      screen:wait(function(lines)
        return table.concat(lines, "\n"):find(text, 1, true)
      end, 10)
    end
    screen:wait(function(lines) return lines[3] == ">" end, 10)
    screen:text("half a line")
    shows("half a line")
    screen:type("C-c")
    screen:wait(function(lines) return lines[4] == ">" end, 10)
    screen:text("x = 5 for i = 1, 2 do")
    screen:type("Enter")
    shows("\n>>")
    screen:type("C-c")
    screen:wait(function(lines) return lines[6] == ">" end, 10)
    screen:text("while true do x = 6 end")
    screen:type("Enter")
    shows("x = 6 end")
    screen:wait(function(lines) return #lines == 6 end, 10)
    screen:type("C-c")
    shows("interrupted!\nstack traceback:")
    screen:text('print("x is", x)')
    screen:type("Enter")
    shows("x is    6")
    screen:type("C-d")
    assert.are.equal(0, (screen:finish(10)))
  end)
end)
