-- mantichora busted: what it prints is what busted prints, with files of specs in workers.

local shell = require "spec.support.shell"

local host = shell.quote((shell.run("realpath " .. shell.quote(shell.host)).out:gsub("\n", "")))
local program = shell.quote((shell.run("command -v busted").out:gsub("\n", "")))

-- A folder with the files of specs, by name.
local function suite(files)
  local folder = shell.folder()
  shell.run("mkdir -p " .. shell.quote(folder .. "/spec"))
  for name, text in pairs(files) do shell.write(folder .. "/" .. name, text) end
  return folder
end

local function run_in(folder, command)
  return shell.run("cd " .. shell.quote(folder) .. " && " .. command)
end

local function ours(folder, arguments)
  return run_in(folder, host .. " busted " .. arguments)
end

-- What differs between two runs of busted itself: times, addresses, and the order of what it takes from
-- tables without an order (attributes of junit, keys of json).
local function settled(text)
  text = text:gsub("%d+%.%d+ seconds", "T seconds"):gsub("%(%d+%.%d+ ms", "(T ms"):gsub("0x%x+", "0x")
    :gsub("time='[^']*'", "time='T'"):gsub("timestamp='[^']*'", "timestamp='T'")
  text = text:gsub("<(%l+) ([^<>]*)>", function(name, attributes)
    local list = {}
    for attribute in attributes:gmatch("%l+='[^']*'") do list[#list + 1] = attribute end
    table.sort(list)
    return "<" .. name .. " " .. table.concat(list, " ") .. attributes:match("/?$") .. ">"
  end)
  local before, object = text:match('^(.-)(%b{})\n$')
  local value = object and require "dkjson".decode(object)
  if not value or not value.successes then return text end
  local function list(of, path, lines)
    for k, v in pairs(of) do
      local at = path .. "." .. k
      if type(v) == "table" then
        list(v, at, lines)
      elseif not at:find("tick$") and not at:find("time$") and not at:find("duration$") then
        lines[#lines + 1] = at .. " = " .. tostring(v)
      end
    end
    return lines
  end
  local lines = list(value, "", {})
  table.sort(lines)
  return before .. table.concat(lines, "\n")
end

local function same(folder, arguments, workers)
  local expected = run_in(folder, host .. " " .. program .. " " .. arguments)
  local told = ours(folder, (workers or "-j2") .. " " .. arguments)
  assert.are.equal(settled(expected.out), settled(told.out), arguments)
  assert.are.equal(settled(expected.err), settled(told.err), arguments)
  assert.are.equal(expected.status, told.status, arguments)
  return told
end

local good = {
  ["spec/a_spec.lua"] = [[
    describe("a", function()
      it("prints", function() print("from a") end)
      it("waits", function() pending("why") end)
      pending("later")
      describe("inner", function()
        before_each(function() io.write("before ") end)
        it("has a #tag", function() os.execute("echo child") io.stderr:write("told\n") end)
      end)
    end)]],
  ["spec/b_spec.lua"] = [[
    insulate("b", function()
      lazy_setup(function() print("lazily") end)
      it("is fine", function() _G.leaked = 1 end)
      it("is fine again", function() assert.are.equal(1, 1) end)
    end)]],
  ["spec/c_spec.lua"] = [[it("stands alone", function() assert.is_nil(leaked) end)]],
}

local bad = {
  ["spec/a_spec.lua"] = [[
    describe("a", function()
      it("fails", function() assert.are.same({ 1, { x = 2 } }, { 1, { x = 3 } }) end)
      it("raises a table", function() error({ x = 1 }) end)
      it("is fine", function() finally(function() error("at last") end) end)
    end)]],
  ["spec/b_spec.lua"] = [[
    describe("broken", function() error("in describe") end)
    describe("not set up", function()
      setup(function() error("in setup") end)
      it("never runs", function() end)
    end)
    describe("not torn down", function()
      teardown(function() error("in teardown") end)
      after_each(function() error("after each") end)
      it("runs", function() print("runs") end)
    end)]],
  ["spec/d_spec.lua"] = [[error("in the file")]],
}

local handlers = { "plainTerminal", "utfTerminal", "TAP", "junit", "json", "gtest" }

describe("mantichora busted", function()
  it("prints what busted prints, with every handler", function()
    local fine, failing = suite(good), suite(bad)
    for _, handler in ipairs(handlers) do
      local told = same(fine, "-o " .. handler)
      -- busted's json fails where a spec is pending.
      assert.are.equal(handler == "json" and 1 or 0, told.status)
      assert.truthy(told.out:find("from a", 1, true))
      assert.are.equal(1, same(failing, "-v -o " .. handler).status)
    end
  end)

  it("prints json that can be read", function()
    local folder = suite { ["spec/a_spec.lua"] = [[it("is fine", function() end)]], ["spec/b_spec.lua"] = [[
      describe("b", function() it("is fine too", function() end) end)]] }
    local told = same(folder, "-o json")
    local value = require "dkjson".decode(told.out)
    assert.are.equal("is fine", value.successes[1].name)
    assert.are.equal("b is fine too", value.successes[2].name)
    assert.are.equal(0, told.status)
  end)

  it("does so with a file that does not compile", function()
    local folder = suite { ["spec/a_spec.lua"] = good["spec/a_spec.lua"], ["spec/b_spec.lua"] = "this is no Lua" }
    for _, handler in ipairs(handlers) do same(folder, "-o " .. handler) end
  end)

  it("has all of busted's options", function()
    local folder = suite(good)
    shell.write(folder .. "/help.lua", [[
      local busted = require "busted"
      local word = arg[1]
      busted.subscribe({ "test", "start" }, function() print("begins", word) return nil, true end)]])
    for _, arguments in ipairs { "--list", "--repeat=3", "--shuffle --seed=3 -o TAP", "--sort -o TAP", "--tags=tag",
      "-t tag -o TAP", "--exclude-tags=tag -o TAP", "--filter=fine -o TAP", "--filter-out=fine -o TAP", "--lazy",
      "--defer-print", "--suppress-pending -o TAP", "--no-auto-insulate -o TAP", "--version", "no_such_folder",
      "-p nothing", "-e 'print(1)'", "--helper=help.lua -Xhelper word", "--helper=no_such_helper", "-o no_such_handler",
      "-C spec .", "-o utfTerminal -Xoutput --plain", "-- spec/b_spec.lua", "--exclude-pattern=b_ -o gtest",
      "--shuffle-tests --seed=7 -o gtest --repeat 2", "--lang=de -o TAP",
      "spec/c_spec.lua spec/a_spec.lua spec/c_spec.lua" } do
      same(folder, arguments)
    end
    assert.truthy(ours(folder, "--helper=help.lua -Xhelper word").out:find("begins\tword", 1, true))
  end)

  it("does what a helper asks for around all files", function()
    local folder = suite(good)
    shell.write(folder .. "/help.lua", [[
      local busted = require "busted"
      busted.setup(function() print("set up") end)
      busted.before_each(function() io.write("before each ") end)
      busted.teardown(function() print("torn down") end)
      busted.describe("of the helper", function() busted.it("runs", function() print("in a test") end) end)]])
    for _, arguments in ipairs { "-o TAP", "-o junit", "-o gtest", "-o TAP --list", "--repeat=2" } do
      same(folder, "--helper=help.lua " .. arguments)
    end
    assert.truthy(ours(folder, "--helper=help.lua -o TAP").out:find("set up\n.*before each .*\ntorn down\n"))
  end)

  it("ends at the first failure without --keep-going", function()
    local folder = suite(bad)
    for _, handler in ipairs(handlers) do same(folder, "--no-keep-going -o " .. handler) end
  end)

  it("keeps what is written to one place in order", function()
    local folder = suite(good)
    local expected = run_in(folder, host .. " " .. program .. " -o TAP 2>&1")
    local told = ours(folder, "-o TAP 2>&1")
    assert.truthy(expected.out:find("child\ntold\n", 1, true))
    assert.are.equal(expected.out, told.out)
  end)

  it("lets a spec that crashes, leaves or hangs fail alone, and names it", function()
    local folder = suite {
      ["spec/a_spec.lua"] = [[describe("a", function()
        it("is fine", function() print("said before") end)
        it("crashes", function() os.execute("kill -SEGV $PPID") end)
        it("never runs", function() end)
      end)]],
      ["spec/b_spec.lua"] = [[it("leaves", function() os.exit(0) end)]],
      ["spec/c_spec.lua"] = [[it("hangs", function() while true do end end)]],
      ["spec/d_spec.lua"] = [[os.execute("kill -KILL $PPID")]],
      ["spec/e_spec.lua"] = [[it("is well", function() end)]],
    }
    local told = ours(folder, "-j2 --timeout 1 -o TAP")
    assert.are.equal(1, told.status)
    assert.are.equal("", told.err)
    assert.are.equal([[
said before
ok 1 - a is fine
not ok 2 - a crashes
# spec/a_spec.lua @ 3
# Failure message: spec/a_spec.lua: this file crashed: its worker was killed by signal 11 (SIGSEGV)
not ok 3 - leaves
# spec/b_spec.lua @ 1
# Failure message: spec/b_spec.lua: this file left its process: its worker exited with status 0
not ok 4 - hangs
# spec/c_spec.lua @ 1
# Failure message: spec/c_spec.lua: this file took longer than 1 s and was stopped
not ok 5 - spec/d_spec.lua
# spec/d_spec.lua @ 1
# Failure message: spec/d_spec.lua: this file crashed: its worker was killed by signal 9 (SIGKILL)
ok 6 - is well
1..6
]], told.out)
    for _, handler in ipairs(handlers) do
      told = ours(folder, "-j2 --timeout 1 -o " .. handler)
      assert.are.equal(1, told.status)
      for _, name in ipairs { "a crashes", "leaves", "hangs", "d_spec.lua: this file crashed", "is well" } do
        if not handler:find("Terminal") or name ~= "is well" then
          assert.truthy(told.out:find(name, 1, true), handler .. ": " .. name)
        end
      end
    end
  end)

  it("runs as many files at once as there are workers, each with a TEST_WORKER of its own", function()
    local files = {}
    for i = 1, 2 do
      -- Each waits until the other has begun.
      files["spec/" .. i .. "_spec.lua"] = ([[it("meets the other", function()
        local me = os.getenv("TEST_WORKER")
        assert(io.open("here." .. me, "w")):close()
        os.execute("for n in $(seq 200); do [ -e here." .. 3 - me .. " ] && exit; sleep 0.1; done")
        assert(io.open("here." .. math.tointeger(3 - me))):close()
      end)]])
    end
    local told = ours(suite(files), "-j2 -o TAP")
    assert.are.equal("ok 1 - meets the other\nok 2 - meets the other\n1..2\n", told.out)
    local folder = suite {
      ["spec/a_spec.lua"] = [[it("a", function() print(os.getenv("TEST_WORKER")) end)]],
      ["spec/b_spec.lua"] = [[it("b", function() print(os.getenv("TEST_WORKER")) end)]],
    }
    assert.are.equal("1\nok 1 - a\n1\nok 2 - b\n1..2\n", ours(folder, "-j 1 -o TAP").out)
    assert.are.equal("nil\nok 1 - a\nnil\nok 2 - b\n1..2\n", ours(folder, "--no-auto-insulate -o TAP").out)
  end)

  it("runs many files while the first takes long, with few descriptors", function()
    local files = { ["spec/000_spec.lua"] = [[it("waits for the last", function()
      os.execute("for n in $(seq 300); do [ -e last ] && exit; sleep 0.1; done")
      assert(io.open("last"))
    end)]] }
    for i = 1, 60 do
      files[("spec/%03d_spec.lua"):format(i)] = ([[it("is fine", function() print(%d)
        if %d == 60 then assert(io.open("last", "w")):close() end end)]]):format(i, i)
    end
    local expected = { "ok 1 - waits for the last\n" }
    for i = 1, 60 do expected[i + 1] = ("%d\nok %d - is fine\n"):format(i, i + 1) end
    local told = run_in(suite(files), "ulimit -n 48; " .. host .. " busted -j2 -o TAP")
    assert.are.equal("", told.err)
    assert.are.equal(table.concat(expected) .. "1..61\n", told.out)
  end)

  it("lets specs do as they like with their streams", function()
    local folder = suite { ["spec/a_spec.lua"] = [[
      it("takes io.write", function() finally(function() io.write = write end) write = io.write io.write = error end)
      it("takes io.stdout", function() local out = io.stdout io.stdout = nil out:write("out\n") io.stdout = out end)
      it("takes print", function() print = nil end)
      it("takes the default output", function()
        io.output("file") io.write("x") io.output():close() io.output(io.stdout)
      end)
      it("has a long error", function() error(("x"):rep(5000000)) end)]] }
    for _, handler in ipairs { "TAP", "plainTerminal", "junit", "gtest" } do same(folder, "-o " .. handler) end
  end)

  it("hands over much output", function()
    local folder = suite { ["spec/a_spec.lua"] = [[
      for i = 1, 300 do it("t" .. i, function() io.write(("x"):rep(10000), "\n") end) end]] }
    local told = same(folder, "-o TAP")
    assert.is_true(#told.out > 3000000)
  end)

  -- Debian has no luacov. This one keeps what busted and mantichora use of it, and its file.
  local luacov = [[
    local runner = { data = {}, configuration = {}, initialized = false }
    local function add(to, name, line, hits)
      local lines = to[name] or { max = 0, max_hits = 0 }
      to[name] = lines
      lines[line] = (lines[line] or 0) + hits
      lines.max, lines.max_hits = math.max(lines.max, line), math.max(lines.max_hits, lines[line])
    end
    function runner.save_stats()
      local sum, names, path = {}, {}, runner.configuration.statsfile
      local before = io.open(path)
      if before then
        for text in before:lines() do
          local line, name = 0, text:match("^%d+:(.*)$")
          for hits in before:read("l"):gmatch("%d+") do
            line = line + 1
            add(sum, name, line, math.tointeger(hits))
          end
        end
        before:close()
      end
      for name, lines in pairs(runner.data) do
        for line = 1, lines.max do add(sum, name, line, lines[line] or 0) end
      end
      for name in pairs(sum) do names[#names + 1] = name end
      table.sort(names)
      local file = assert(io.open(path, "w"))
      for _, name in ipairs(names) do
        file:write(sum[name].max, ":", name, "\n", table.concat(sum[name], " "), "\n")
      end
      file:close()
      runner.data = {}
    end
    local at_end
    return setmetatable(runner, { __call = function()
      runner.configuration = { exclude = {}, statsfile = "luacov.stats.out" }
      runner.initialized = true
      debug.sethook(function(_, line)
        local name = debug.getinfo(2, "S").source:match("^@(.*counted.lua)$")
        if not name then return end
        add(runner.data, name, line, 1)
      end, "l")
      at_end = setmetatable({}, { __gc = function() runner.save_stats() end })
      runner.at_end = at_end
    end })]]

  it("counts with --coverage what the files run together", function()
    local folder = suite {
      ["counted.lua"] = "local function f(x)\n  if x then\n    return 1\n  end\n  return 2\nend\nreturn f\n",
      ["spec/a_spec.lua"] = [[it("a", function() for _ = 1, 3 do dofile("counted.lua")(true) end end)]],
      ["spec/b_spec.lua"] = [[it("b", function() for _ = 1, 4 do dofile("counted.lua")(false) end end)]],
      ["spec/c_spec.lua"] = [[it("c", function() dofile("counted.lua") end)]],
    }
    shell.run("mkdir -p " .. shell.quote(folder .. "/luacov"))
    shell.write(folder .. "/luacov/runner.lua", luacov)
    local function count(command)
      os.remove(folder .. "/luacov.stats.out")
      local told = run_in(folder, command .. " -c -m './?.lua' -o TAP")
      assert.are.equal("", told.err)
      assert.are.equal(0, told.status)
      local file <close> = assert(io.open(folder .. "/luacov.stats.out"))
      return file:read("a")
    end
    local expected = count(host .. " " .. program)
    assert.are.equal("7:counted.lua\n0 7 3 0 4 8 8\n", expected)
    assert.are.equal(expected, count(host .. " busted -j2"))
  end)

  it("is not needed for that: lines run in tasks of any script count", function()
    local folder = shell.folder()
    shell.run("mkdir -p " .. shell.quote(folder .. "/luacov"))
    shell.write(folder .. "/luacov/runner.lua", luacov)
    shell.write(folder .. "/luacov.lua", [[require "luacov.runner"()]])
    shell.write(folder .. "/counted.lua",
      "return function(x)\n  if x > 50 then\n    return 1\n  end\n  return 2\nend\n")
    shell.write(folder .. "/script.lua", [[
      local mantichora = require "mantichora"
      local f = dofile("counted.lua")
      for _, engine in ipairs { "fork", "snapshot", "inline" } do
        local pool <close> = mantichora { nworkers = 4, engine = engine, progressbar = false }
        pool:map(function(x) return f(x) end, (function()
          local list = {}
          for i = 1, 100 do list[i] = i end
          return list
        end)())
        pool:run(f, 1)
        pool:run(f, 100)
        pool:returns()
      end
      f(1)]])
    local told = run_in(folder, "LUA_PATH='./?.lua;;' " .. host .. " -l luacov script.lua")
    assert.are.equal("", told.err)
    assert.are.equal(0, told.status)
    local file <close> = assert(io.open(folder .. "/luacov.stats.out"))
    assert.are.equal("6:counted.lua\n0 307 153 0 154 1\n", file:read("a"))
    assert.are.equal("", run_in(folder, "ls *.lock 2>/dev/null").out)
  end)

  it("refuses what it does not know", function()
    local folder = suite(good)
    local function refused(arguments, message)
      local told = ours(folder, arguments)
      assert.are.equal("mantichora busted: " .. message .. "\n", told.err)
      assert.are.equal("", told.out)
      assert.are.equal(255, told.status)
    end
    refused("--shufle", "unknown option '--shufle' (did you mean '--shuffle'?)")
    refused("--timout 3", "unknown option '--timout' (did you mean '--timeout'?)")
    refused("-j 0", "option '-j' must be a number from 1 to 4096, or auto: '0' is given")
    refused("-j", "option '-j' needs an argument (see --help)")
    refused("--timeout=never", "option '--timeout' must be a number of seconds above 0: 'never' is given")
    assert.are.equal(0, ours(folder, "-jauto -e '_G.j = 1' -o TAP").status)
    local help = ours(folder, "--help")
    assert.truthy(help.out:find("--timeout S", 1, true))
    assert.truthy(help.out:find("--shuffle", 1, true))
    assert.are.equal(0, help.status)
  end)

  it("begins with the files that took longest, as a journal knows", function()
    local files = {}
    for i, name in ipairs { "a", "b", "c" } do
      files["spec/" .. name .. "_spec.lua"] = ([[
        it("takes its time", function()
          local order <close> = io.open("order", "a")
          order:write("%s")
          order:flush()
          os.execute("sleep %g")
        end)]]):format(name, i * 0.3)
    end
    local folder = suite(files)
    local plain = ours(folder, "-j1 -o TAP")
    local function order()
      local file <close> = io.open(folder .. "/order")
      local text = file:read("a")
      os.remove(folder .. "/order")
      return text
    end
    assert.are.equal("abc", order())
    for _, expected in ipairs { "abc", "cba", "cba" } do
      local told = ours(folder, "-j1 --journal times.mj -o TAP")
      assert.are.equal(plain.out, told.out)
      assert.are.equal(0, told.status)
      assert.are.equal(expected, order())
    end
    local listed = run_in(folder, host .. " journal times.mj ls --json").out
    assert.are.equal(9, select(2, listed:gsub('"place":"busted"', "")), listed)
    os.execute("rm -f " .. folder .. "/times.mj*")
  end)

  it("ends with Ctrl-C, and leaves nothing behind", function()
    local folder = suite {
      ["spec/a_spec.lua"] = [[it("hangs", function()
        assert(io.open("pid", "w")):write("begun"):close()
        while true do end
      end)]],
      ["spec/b_spec.lua"] = [[it("never", function() print("never") end)]],
    }
    local told = run_in(folder, "timeout -s INT 20 sh -c 'exec " .. host .. " busted -j1 & p=$!; "
      .. "for n in $(seq 200); do [ -s pid ] && break; sleep 0.1; done; kill -INT $p; wait $p; echo status $?'")
    assert.truthy(told.out:find("status 130", 1, true), told.out .. told.err)
    assert.is_nil(told.out:find("never", 1, true))
  end)
end)
