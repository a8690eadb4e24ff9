-- `mantichora journal`: what it says of a journal, what it forgets, and how it calls a task again.

local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

describe("mantichora journal", function()
  local folder, path
  before_each(function()
    folder = shell.folder()
    path = folder .. "/x.mj"
  end)
  after_each(function() shell.remove(folder) end)

  local function run(text, env)
    shell.write(folder .. "/script.lua", "local path, folder = ...\n"
      .. "package.path = folder .. '/?.lua;' .. package.path\n" .. text)
    local got = shell.run(("cd %s && %s %s script.lua %s %s"):format(folder, env or "",
      shell.interpreter:gsub("'build/", "'" .. io.popen("pwd"):read("l") .. "/build/"), path, folder), { timeout = 30 })
    assert.are.equal(0, got.status, got.err)
    return got
  end

  local function ask(words, status)
    local got = shell.run(("%s journal %s %s"):format(shell.host, path, words), { timeout = 30 })
    assert.are.equal(status or 0, got.status, got.out .. got.err)
    return got.out, got.err
  end

  local script = [[
    local mantichora = require "mantichora"
    local helper = require "helper"
    local pool <close> = mantichora { nworkers = 1, journal = path, seed = 1, on_error = "return",
      init = function() begun = true end }
    limit = 10
    local cfg = { quality = tonumber(os.getenv "QUALITY" or 1), names = { "a\27[2Jb", "c" } }
    function check(n)
      local scaled = helper.scale(n)
      if scaled > limit then error(("%d is too much, %d"):format(scaled, math.random(1 << 20))) end
      return scaled
    end
    for i = 3, 4 do
      pool:run_with({ name = "check " .. i }, function(n)
        assert(begun)
        mantichora.emit("at", n)
        local before = n
        return check(before) * cfg.quality, cfg.names
      end, i)
    end
    pool:run_with({ name = "tab\tand\nline" }, os.exit, 3)
    pool:returns()
  ]]

  local function write_helper(factor)
    shell.write(folder .. "/helper.lua", ([[
      local helper = { factor = %d }
      function helper.scale(n) return n * helper.factor end
      return helper
    ]]):format(factor))
  end

  it("lists runs and their tasks, and what was found", function()
    write_helper(3)
    run(script)
    run(script)
    local out = ask ""
    assert.truthy(out:find("^run 1, .-: script.lua in " .. folder:gsub("%p", "%%%0") .. "\n"), out)
    assert.truthy(out:find("\n +1  ok .- check 3\n"), out)
    assert.truthy(out:find("\nrun 2, .*\n +1  found .- check 3\n"), out)
    assert.truthy(out:find("tab\\tand\\nline", 1, true), out)
    local failed = ask "ls --failed"
    assert.is_nil(failed:find("check 3", 1, true), failed)
    assert.are.equal(4, select(2, failed:gsub("\n +%d+  [ek]", "")), failed)
    local lines = {}
    for line in ask("ls --json"):gmatch("[^\n]+") do lines[#lines + 1] = line end
    assert.are.equal(6, #lines)
    assert.truthy(lines[1]:find('^{"id":1,"run":1,"name":"check 3","place":"<script.lua:15>","kind":"ok",'
      .. '"elapsed":[%d.e-]+,"attempt":1,"time":%d+%.%d+,"found":false}$'), lines[1])
    assert.truthy(lines[4]:find('^{"id":1,"run":2,.*"found":true}$'), lines[4])
    assert.truthy(lines[3]:find('"name":"tab\\tand\\nline"', 1, true), lines[3])
  end)

  it("shows a task, and makes nothing of what is stored", function()
    write_helper(3)
    run(script)
    local out = ask "show 1"
    assert.truthy(out:find("^task 1: check 3, ok\n"), out)
    assert.truthy(out:find("\nresult 1: 9\n", 1, true), out)
    assert.truthy(out:find('\nresult 2: { "a\\x1B[2Jb", "c" }\n', 1, true), out)
    assert.truthy(out:find('\nemitted 1, value 1: "at"\nemitted 1, value 2: 3\n$'), out)
    out = ask "show 2"
    assert.truthy(out:find("12 is too much, %d+\nworker's stack traceback:\n"), out)
    local trap = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1, journal = path }
      local function touch() io.open(folder .. "/touched", "w") end
      pool:run(function()
        return setmetatable({ 1, f = touch, g = print, { {} } }, { __gc = touch, __close = touch, __tostring = touch,
          __name = "trap", __index = touch, __pairs = touch, __len = touch })
      end)
      pool:returns()
    ]]
    run(trap)
    os.remove(folder .. "/touched")
    out = ask "show 4"
    assert.truthy(out:find("result 1: { 1, { {} }, f = <function>, g = <_G.print> }", 1, true), out)
    for _, words in ipairs { "ls", "why 4", "log", "prune --unused 5", "rm 4" } do ask(words) end
    assert.is_nil(io.open(folder .. "/touched"))
    ask("show 99", 1)
  end)

  it("shows values of all kinds", function()
    run [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1, journal = path }
      pool:run(function()
        local list, record, shared = {}, {}, { "s" }
        for i = 1, 40 do list[i], record[i] = i * 1000, { name = "n" .. i, size = i } end
        list[50], record[41] = 2.5, shared
        local cyclic = { shared, shared }
        cyclic.self = cyclic
        return nil, true, -1, 0.5, -math.pi, math.mininteger, ("x"):rep(40), { 1.5, 2.5, nil, 3.5 }, list, record,
          cyclic, string, { [1.5] = "a", [true] = "b" }, nil
      end)
      pool:returns()
    ]]
    local out = ask "show 1"
    for _, text in ipairs { "result 1: nil", "result 2: true", "result 3: -1", "result 4: 0.5",
      "result 5: -3.1415926535898", "result 6: " .. math.mininteger, '"' .. ("x"):rep(40) .. '"', "39000", "40000",
      'name = "n40"', "size = 40", "<cycle>", "result 12: <module string>", "result 14: nil", '[1.5] = "a"' } do
      assert.truthy(out:find(text, 1, true), text .. " is not in " .. out)
    end
  end)

  it("says why a task ran", function()
    write_helper(3)
    run(script)
    assert.are.equal("never seen before\n", (ask "why 1"))
    run(script)
    assert.are.equal("it did not end well before: task 2 (error)\n", (ask "why 4"))
    run(script, "QUALITY=2")
    assert.are.equal("upvalue 'cfg'.quality\n", (ask "why 6"))
    write_helper(4)
    run(script)
    assert.are.equal("module 'helper'.factor\n", (ask "why 9"))
    run((script:gsub("for i = 3, 4", "for i = 2, 4")))
    assert.are.equal("argument 1\n", (ask "why 12"))
    run((script:gsub("limit = 10", "limit = 11")))
    assert.are.equal("global 'limit'\n", (ask "why 16"))
    run((script:gsub("n %* 1", ""):gsub("return scaled", "return scaled + 0")))
    assert.truthy(ask("why 19"):find("^global 'check' %(its code, line %d+%)\n$"))
  end)

  it("says of a first run's tasks that they were never seen, but for those of one function", function()
    run [[
      local pool <close> = require "mantichora" { nworkers = 1, journal = path }
      pool:run_with({ name = "one" }, function() return 1 end)
      pool:run_with({ name = "two" }, function() return 2 end)
      pool:run(math.max, 3)
      for i = 1, 2 do pool:run(function() return i end) end
    ]]
    for id = 1, 4 do assert.are.equal("never seen before\n", (ask("why " .. id))) end
    assert.are.equal("upvalue 'i'\n", (ask "why 5"))
  end)

  it("writes GNU parallel's table of jobs", function()
    run [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1, journal = path, on_error = "return" }
      pool:run_with({ name = "a\tb\nc\\d" }, math.abs, 1)
      pool:run_with({ name = "exits" }, os.exit, 7)
      pool:run_with({ name = "dies" }, os.execute, "kill -9 $PPID")
      pool:run_with({ name = "late", timeout = 0.02 }, function() while true do end end)
      pool:run_with({ name = "raises" }, error, "x")
      pool:returns()
      pool:cancel(pool:run_with({ name = "never" }, function() while true do end end))
      pool:returns()
    ]]
    local rows = {}
    for line in ask("log"):gmatch("[^\n]+") do
      local fields = {}
      for field in (line .. "\t"):gmatch("([^\t]*)\t") do fields[#fields + 1] = field end
      assert.are.equal(9, #fields, line)
      rows[#rows + 1] = fields
    end
    assert.are.equal("Seq Host Starttime JobRuntime Send Receive Exitval Signal Command", table.concat(rows[1], " "))
    local ends = {}
    for i = 2, #rows do ends[#ends + 1] = rows[i][7] .. "/" .. rows[i][8] .. " " .. rows[i][9] end
    assert.are.same({ "0/0 a\\tb\\nc\\\\d", "7/0 exits", "1/9 dies", "-1/0 late", "1/0 raises", "-1/0 never" }, ends)
  end)

  it("forgets tasks", function()
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1, journal = path }
      local to = tonumber(os.getenv "TO")
      for i = 1, to do pool:run(function(n) return ("x"):rep(n == 1 and 2 << 20 or n) end, i) end
      pool:returns()
      io.stderr:write(pool:stats().found)
    ]]
    assert.are.equal("0", run(text, "TO=4").err)
    assert.are.equal("2", run(text, "TO=2").err)
    assert.are.equal("0 tasks forgotten\n", (ask "prune --unused 2"))
    assert.are.equal("2 tasks forgotten\n", (ask "prune --unused 1"))
    assert.are.equal("2", run(text, "TO=4").err)
    ask "rm 1 2"
    assert.are.equal("0\n", shell.run(("ls %s-values | wc -l"):format(path)).out:gsub(" ", ""))
    assert.are.equal("2", run(text, "TO=4").err)
  end)

  it("calls a task again: the same error, numbers and frames", function()
    write_helper(3)
    run(script)
    local message = ask("show 2"):match("script.lua:%d+: 12 is too much, %d+")
    assert.truthy(message)
    local out, err = ask("replay 2", 1)
    assert.truthy(err:find(message .. "\nstack traceback:\n\t[C]: in function 'error'\n\tscript.lua:", 1, true), err)
    assert.truthy(err:find("in function <script.lua:15>\n$"), err)
    assert.are.equal('emitted 1: "at"\nemitted 2: 4\n', out)
    write_helper(4)
    out, err = ask("replay 2", 1)
    assert.truthy(err:find("^changed since: module 'helper'.factor\n[^\n]*16 is too much"), out .. err)
    write_helper(1)
    out = ask "replay 2"
    assert.truthy(out:find("result 1: 4\n", 1, true), out)
    out, err = ask("replay 1", 1)
    assert.truthy(err:find("is not stored", 1, true), out .. err)
    run(script:gsub("journal = path", 'journal = { path = path, keep = "all" }'):gsub("check 3", "c"), "QUALITY=3")
    assert.truthy(ask("replay 4"):find("result 1: 9\n", 1, true))
  end)

  it("calls it again with a prompt where it raised", function()
    write_helper(3)
    run(script)
    local screen <close> = terminal.start(("%s journal %s replay -i 2"):format(shell.host, path), 100, 30)
    screen:wait(function(lines) return table.concat(lines, "\n"):find("\n>") ~= nil end)
    screen:enter("scaled, n")
    screen:wait(function(lines) return table.concat(lines, "\n"):find("12%s+4") ~= nil end)
    screen:enter("helper.factor + limit")
    screen:wait(function(lines) return table.concat(lines, "\n"):find("\n13") ~= nil end)
    screen:type("C-d")
    local status, lines = screen:finish(20)
    assert.are.equal(1, status, table.concat(lines, "\n"))
  end)

  it("says what was used wrong, and prints help", function()
    local function wrong(words, message)
      local got = shell.run(("%s journal %s"):format(shell.host, words))
      assert.are.equal(255, got.status, got.out)
      assert.truthy(got.err:find(message, 1, true), got.err)
    end
    wrong("", "a file is missing")
    wrong("x.mj shw 1", "unknown command 'shw' (did you mean 'show'?)")
    wrong("x.mj ls --jsn", "unknown option '--jsn' (did you mean '--json'?)")
    wrong("x.mj show", "show needs an ID")
    wrong("x.mj show x", "'x' is no ID")
    wrong("x.mj show 1 2", "show takes one ID")
    wrong("x.mj prune", "prune needs --unused N")
    wrong("x.mj prune --unused x", "must be a whole number")
    wrong(folder .. "/none.mj", "there is no journal")
    shell.write(folder .. "/text", ("text "):rep(1000))
    wrong(folder .. "/text", "cannot be read")
    local help = shell.run(shell.host .. " journal --help")
    assert.are.equal(0, help.status)
    for _, word in ipairs { "ls", "show ID", "why ID", "replay ID", "log", "rm ID..", "prune", "--failed", "--json",
      "-i" } do
      assert.truthy(help.out:find("\n  " .. word, 1, true), word)
    end
  end)
end)
