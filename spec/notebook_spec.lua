-- Notebooks: the kernel for Jupyter around our host.

local cjson = require "cjson"
local shell = require "spec.support.shell"

local PYTHON = "/usr/bin/python3" -- Debian's, which has jupyter_client and ipykernel
local BAR = "^ +([%d.]+)%% (.*) | +(%d+) / +(%d+) |:  (.-) *$"

local host = shell.run("readlink -f " .. shell.host).out:match("^[^\n]+")
local folder
local finish_unreachable -- what takes long is begun before the tests
local executed -- the notebooks of scripts/examples, while they are

local function must(command, options)
  local got = shell.run(command, options)
  assert.are.equal(0, got.status, got.out .. got.err)
  return got.out
end

-- Begin to do the steps, see spec/support/notebook.py; finish() gives what came of them, and fails if a
-- process is left behind.
local function begin(steps)
  local path = os.tmpname()
  shell.write(path, cjson.encode(steps))
  local pipe = io.popen(("JUPYTER_PATH=%s/share/jupyter IPYTHONDIR=%s/ipython timeout -k 5 40 %s "
    .. "spec/support/notebook.py <%s 2>&1"):format(folder, folder, PYTHON, path))
  return function()
    local text = pipe:read("a")
    assert.is_true(pipe:close(), text)
    os.remove(path)
    local results = cjson.decode(text:match("%[[%[{][^\n]*"))
    assert.are.same({}, table.remove(results), "processes that are left behind")
    return results
  end
end

local function drive(steps)
  return begin(steps)()
end

-- One line for each output: its kind (or stream), a colon and its text.
local function told(result)
  local lines = {}
  for i, output in ipairs(result.outputs) do
    local text = type(output[2]) == "table" and output[2]["text/plain"] or output[2]
    lines[i] = output[1] .. ": " .. tostring(text)
  end
  return lines
end

local function bars(result)
  local list = {}
  for _, output in ipairs(result.outputs) do
    local text = output[1] == "display_data" and output[2]["text/plain"] or ""
    local percent, _, done, total, name = text:match(BAR)
    if percent then
      list[#list + 1] = { percent = percent, done = tonumber(done), total = tonumber(total), name = name, text = text }
    end
  end
  return list
end

-- Run each code as a cell of one kernel; the lines of what came of each.
local function cells(...)
  local steps = {}
  for i, code in ipairs { ... } do steps[i] = { run = code } end
  local lines = {}
  for i, result in ipairs(drive(steps)) do lines[i] = told(result) end
  return lines
end

describe("notebook", function()
  setup(function()
    assert(os.execute(PYTHON .. " -c 'import ipykernel, jupyter_client, nbconvert' 2>/dev/null"),
      "sh scripts/setup test installs what is missing")
    folder = shell.folder()
    must(("%s jupyter install --prefix %s --python %s"):format(host, folder, PYTHON))
    -- They mostly sleep, and are looked at in the end.
    executed = io.popen(([[export JUPYTER_PATH=%s/share/jupyter
      execute() { timeout 120 %s -m jupyter nbconvert --execute --to notebook --output-dir %s/run "$@" 2>&1; }
      execute scripts/examples/0[1-3]*.ipynb &
      execute scripts/examples/0[4-7]*.ipynb
      wait]]):format(folder, PYTHON, folder))
    finish_unreachable = begin {
      { run = "x = 1 string.rep('a', 300000):find(('.-'):rep(60) .. 'b')", interrupt = 0.2, lasts = 6 },
      { restart = false },
      { run = "x" },
    }
  end)

  teardown(function()
    executed:close()
    shell.remove(folder)
  end)

  describe("installation", function()
    it("names Python and host by their full paths", function()
      local place = folder .. "/share/jupyter/kernels/mantichora/"
      local file <close> = assert(io.open(place .. "kernel.json"))
      local spec = cjson.decode(file:read("a"))
      assert.are.equal("Lua (mantichora)", spec.display_name)
      assert.are.equal("lua", spec.language)
      assert.are.equal(PYTHON, spec.argv[1])
      assert.truthy(table.concat(spec.argv, " "):find("--host=" .. host, 1, true))
      assert.are.equal(0, shell.run("test -s " .. place .. "kernel.py").status)
    end)

    it("takes the Python that jupyter runs with", function()
      local bin = shell.folder()
      -- One that cannot run the kernel comes first on the path, as with pyenv.
      shell.write(bin .. "/python3", "#!/bin/sh\nexit 1\n")
      shell.write(bin .. "/jupyter", "#!" .. PYTHON .. "\n")
      must(("chmod +x %s/python3 %s/jupyter"):format(bin, bin))
      local out = must(("PATH=%s:$PATH %s jupyter install --prefix %s/p"):format(bin, host, bin))
      assert.truthy(out:find("runs with " .. PYTHON .. "\n", 1, true), out)
      -- A script that finds the Python itself is asked.
      shell.write(bin .. "/jupyter", ("#!/bin/sh\n[ \"$1\" = troubleshoot ] && "
        .. "printf '$PATH:\\n\\t/bin\\n\\nsys.executable:\\n\\t%s\\n'\n"):format(PYTHON))
      out = must(("PATH=%s:$PATH %s jupyter install --prefix %s/p"):format(bin, host, bin))
      assert.truthy(out:find("runs with " .. PYTHON .. "\n", 1, true), out)
      shell.remove(bin)
    end)

    it("says in a sentence that ipykernel is missing", function()
      local bin = shell.folder()
      shell.write(bin .. "/python", "#!/bin/sh\ncase \"$2\" in *ipykernel*) exit 1 ;; *) echo 1 ;; esac\n")
      must("chmod +x " .. bin .. "/python")
      local got = shell.run(("%s jupyter install --prefix %s/p --python %s/python"):format(host, bin, bin))
      assert.are.equal(1, got.status == 0 and 0 or 1)
      assert.truthy(got.err:find("^mantichora jupyter: " .. bin .. "/python has no ipykernel"), got.err)
      assert.truthy(got.err:find("python3-ipykernel", 1, true), got.err)
      got = shell.run(("%s jupyter install --python %s/nowhere"):format(host, bin))
      assert.are.equal(("mantichora jupyter: '%s/nowhere' is no Python that runs\n"):format(bin), got.err)
      shell.remove(bin)
    end)

    it("is for the user, or below the prefix of the Python", function()
      local home = shell.folder()
      must(("HOME=%s %s jupyter install --user --python %s"):format(home, host, PYTHON))
      must(("test -f %s/.local/share/jupyter/kernels/mantichora/kernel.json"):format(home))
      must(("%s -m venv --system-site-packages --without-pip %s/venv"):format(PYTHON, home))
      must(("%s jupyter install --sys-prefix --python=%s/venv/bin/python"):format(host, home))
      must(("grep -q '\"%s/venv/bin/python\"' %s/venv/share/jupyter/kernels/mantichora/kernel.json"):format(home, home))
      shell.remove(home)
    end)

    it("says what is wrong on its command line", function()
      for words, message in pairs {
        ["install --usr"] = "unknown option '--usr' (see --help)",
        ["install --prefix"] = "option '--prefix' needs an argument",
        ["install --user --prefix x"] = "only one of --user, --prefix and --sys-prefix can be given",
      } do
        local got = shell.run(host .. " jupyter " .. words)
        assert.are.equal(255, got.status)
        assert.are.equal("mantichora jupyter: " .. message .. "\n", got.err)
      end
      assert.are.equal(255, shell.run(host .. " jupyter").status)
      assert.truthy(must(host .. " jupyter install --help"):find("^usage: mantichora jupyter install"))
    end)
  end)

  describe("cell", function()
    it("is what a line is at the prompt, of many lines", function()
      assert.are.same({
        { "execute_result: 3" },
        { "execute_result: nil\t1\t{ a = 1 }" },
        { "stdout: two\n", "execute_result: 6" },
        { "execute_result: 6" },
        {},
        { "execute_result: two" },
        { "execute_result: 5" },
        { "execute_result: 7" },
        {},
        { "execute_result: { 1, 2 }" },
        { "execute_result: a\nb" },
        { "execute_result: 3" },
      }, cells(
        "x = 1\nlocal y = 2\n\nx + y -- the value", -- and y ends here
        "y, x, { a = x }",
        "do\n  print('two')\nend\nlocal z = x + 2; z * 2",
        "_",
        "if x then\n  tostring(x)\nend",
        "s = [[\ntwo]]\ns",
        "=x + 4",
        "f = function(n)\n  return n + 6\nend\nf(\n  x\n)",
        "-- only a comment",
        "x = 5\n{ 1, 2 }",
        "('%s\\n%s'):format('a', 'b')",
        "x = 1 y = x + 1 x + y"))
    end)

    it("keeps Lua's own reading of statements that go on", function()
      assert.are.same({
        {}, { "execute_result: 3" },
        { "stdout: called\t5\n" },
        { "error: In[4]:2: syntax error near 'y'" },
      }, cells(
        "y = 5\n- 2", "y",
        "f = print\nlocal called = 'called'\nf\n(called, 5)",
        "x = [[ return\nx ]] x y"))
    end)

    it("has errors with its number and line, and a traceback", function()
      local lines = cells("function f(x)\n  return x.y.z\nend", "local t = {}\nf(t)", "_ERR",
        "error(setmetatable({}, { __tostring = function() return 'mine' end }))", "error({})", "for")
      assert.are.same({ "error: In[1]:2: attempt to index a nil value (field 'y')\nstack traceback:\n"
        .. "\tIn[1]:2: in function 'f'\n\tIn[2]:2: in main chunk" }, lines[2])
      assert.are.same({ "execute_result: In[1]:2: attempt to index a nil value (field 'y')" }, lines[3])
      assert.are.same({ "error: mine" }, lines[4])
      assert.truthy(lines[5][1]:find("^error: %(error object is a table value%)\nstack traceback:"))
      assert.truthy(lines[6][1]:find("^error: In%[6%]:1: .* near <eof>$"))
    end)

    it("has all text, whole and in order, and as text", function()
      local lines = cells(
        "print('<b>')\ndo io.stdout:write('no end') end",
        "for i = 1, 3 do print(i) io.stdout:flush() display(i * i) end print('last')",
        "os.execute('echo program; echo wrong >&2')\ndo io.stderr:write('err\\n') end",
        [[local big = ("\u{e4}"):rep(50000)
          print(big)
          print(#big)]],
        [[p = mantichora { nworkers = 2 }
          p:run(function()
            for i = 1, 2000 do print("line " .. i) end
            os.execute("echo of a program")
            logging.warning("careful")
          end)
          p:close()
          print("after")]])
      assert.are.same({ "stdout: <b>\nno end" }, lines[1])
      assert.are.same({ "stdout: 1\n", "display_data: 1", "stdout: 2\n", "display_data: 4", "stdout: 3\n",
        "display_data: 9", "stdout: last\n" }, lines[2])
      table.sort(lines[3])
      assert.are.same({ "stderr: wrong\nerr\n", "stdout: program\n" }, lines[3])
      assert.are.same({ "stdout: " .. ("\u{e4}"):rep(50000) .. "\n100000\n" }, lines[4])
      local out, err = {}, {}
      for _, line in ipairs(lines[5]) do
        local kind, text = line:match("^(std...): (.*)$")
        table.insert(kind == "stdout" and out or err, text)
      end
      local expected = {}
      for i = 1, 2000 do expected[i] = "line " .. i end
      assert.are.equal(table.concat(expected, "\n") .. "\nof a program\nafter\n", table.concat(out))
      assert.are.equal("WARNING:root:careful\n", table.concat(err))
    end)

    it("shows what a value says of itself", function()
      local results = drive {
        { run = [[Picture = { __jupyter = function(p)
            return { ["image/png"] = "\x89PNG\0\xff", ["text/html"] = "<b>" .. p.name .. "</b>",
              ["application/json"] = '{"a":[1]}' } end }
            setmetatable({ name = "n" }, Picture)]] },
        { run = "display(setmetatable({ name = 'd' }, Picture)) display(5)" },
        { run = "setmetatable({}, { __jupyter = function() return { ['text/plain'] = 'mine' } end })" },
        { run = "setmetatable({}, { __jupyter = function() return 5 end })" },
        { run = "setmetatable({}, { __jupyter = function() return { ['image/png'] = {} } end })" },
        { run = "p = mantichora {} p:run(function() display { 1 } end) p:close()" },
      }
      local data = results[1].outputs[1][2]
      assert.are.equal("execute_result", results[1].outputs[1][1])
      assert.are.equal("iVBORwD/", data["image/png"])
      assert.are.equal("<b>n</b>", data["text/html"])
      assert.are.same({ a = { 1 } }, data["application/json"])
      assert.are.equal("{ name = \"n\" }", data["text/plain"])
      assert.are.equal("<b>d</b>", results[2].outputs[1][2]["text/html"])
      assert.are.same({ ["text/plain"] = "5" }, results[2].outputs[2][2])
      assert.are.same({ "execute_result: mine" }, told(results[3]))
      assert.truthy(told(results[4])[1]:find("__jupyter must return a table from MIME types to data", 1, true))
      assert.truthy(told(results[5])[1]:find("a table value for image/png: it must be a string", 1, true))
      assert.are.same({ "stdout: { 1 }\n" }, told(results[6]))
    end)

    it("asks for what io.stdin is read for", function()
      local results = drive {
        { run = "io.read()", input = { "a line" } },
        { run = "io.read('n', 'l', 'L')", input = { "12 rest", "next" } },
        { run = "for line in io.lines() do print(line) end", input = { "u", "v", cjson.null } },
        { run = "io.read('a')", input = { "u", "v", cjson.null } },
        { run = "io.read()", input = { cjson.null } },
        { run = "io.read()" },
        { run = "p = mantichora {} p:run(function() return io.read() == nil end) p:returns()[1]", input = { "x" } },
        { run = "io.read()", input = {}, interrupt = 0.3 },
        { run = "io.read()", input = { "later" } },
      }
      assert.are.same({ "execute_result: a line" }, told(results[1]))
      assert.are.same({ "execute_result: 12\t rest\tnext\n" }, told(results[2]))
      assert.are.same({ "stdout: u\nv\n" }, told(results[3]))
      assert.are.same({ "execute_result: u\nv\n" }, told(results[4]))
      assert.are.same({ "execute_result: nil" }, told(results[5]))
      assert.truthy(told(results[6])[1]:find("^error: In%[6%]:1: nobody can be asked for input here\n"))
      assert.are.same({ "execute_result: true" }, told(results[7]))
      assert.truthy(told(results[8])[1]:find("^error: [^\n]*interrupted!\n"))
      assert.is_true(results[8].seconds < 1)
      assert.are.same({ "execute_result: later" }, told(results[9]))
    end)
  end)

  describe("bars", function()
    it("are one output each, which stays at its last line", function()
      local results = drive {
        { run = "for i = 1, 60 do for _ in atpbar(3, 'bar' .. i) do end end print('end')" },
        { run = "for _ in atpbar(20, 'slow <b>&') do mantichora.sleep(0.05) end" },
        { run = "for i in atpbar(4, 'left') do if i == 3 then break end end" },
        { run = "for i in atpbar(4, 'raised') do if i == 3 then error('x') end end" },
        { run = "b = atpbar.bar { name = 'open' } b:add(5) mantichora.sleep(0.3)" },
        { run = "p = mantichora { progressbar = false }\n"
          .. "p:run(function() for _ in atpbar(3, 'x') do end end) p:close()" },
        { run = "atpbar.disable() for _ in atpbar(3, 'x') do end" },
      }
      local list = bars(results[1])
      assert.are.equal(60, #list)
      for i, bar in ipairs(list) do
        assert.are.same({ "100.00", 3, "bar" .. i }, { bar.percent, bar.done, bar.name })
      end
      assert.are.same({ "stdout", "end\n" }, results[1].outputs[61])
      assert.are.equal((" 100.00%% %s | %8d / %8d |:  %s"):format((":"):rep(40), 20, 20, "slow <b>&"),
        bars(results[2])[1].text)
      assert.is_true(results[2].updates >= 5 and results[2].updates <= 15, results[2].updates)
      local html = results[2].outputs[1][2]["text/html"]
      assert.truthy(html:find("slow &lt;b&gt;&amp;", 1, true), html)
      assert.falsy(html:find("<b>", 1, true))
      assert.are.equal(1, #results[3].outputs)
      assert.truthy(results[3].outputs[1][2]["text/plain"]:find("^  50.00%% .* left$"))
      assert.truthy(results[4].outputs[1][2]["text/plain"]:find("50.00%%.*raised"))
      assert.truthy(results[5].outputs[1][2]["text/plain"]:find("| +5 .*|:  open"))
      assert.are.same({ {}, {} }, { results[6].outputs, results[7].outputs }) -- hidden by pool and script
    end)

    it("are at most twenty at a time, and none is left out at the end", function()
      local results = drive {
        { run = [[p = mantichora { nworkers = 57 }
            for i = 1, 57 do
              p:run(function() for _ in atpbar(6, "bar" .. i) do mantichora.sleep(0.2) end end)
            end
            p:close()]] },
      }
      assert.are.equal(57, #results[1].outputs)
      local list = bars(results[1])
      assert.are.equal(57, #list)
      for _, bar in ipairs(list) do assert.are.equal("100.00", bar.percent) end
      local most = 0
      for _, text in ipairs(results[1].seen) do
        most = math.max(most, tonumber(text:match("^%.%.%. and (%d+) more$")) or 0)
      end
      assert.are.equal(37, most)
    end)

    it("belong to the cell in which they began, and go on after it", function()
      local results = drive {
        { run = [[p = mantichora { nworkers = 1 }
            p:run(function() for _ in atpbar(30, "on") do mantichora.sleep(0.03) end end)
            mantichora.sleep(0.3)]] },
        { wait = 1.5 },
        { run = "p:returns().n" },
        { all = true },
      }
      assert.are.equal(1, #bars(results[1]))
      assert.are.same({}, results[2].outputs)
      assert.are.same({ "execute_result: 1" }, told(results[3]))
      assert.are.equal("100.00", bars(results[4])[1].percent)
    end)
  end)

  describe("interrupt", function()
    local function interrupted(codes)
      local steps = { { run = "p = mantichora { nworkers = 2 }" } }
      for _, code in ipairs(codes) do steps[#steps + 1] = { run = code, interrupt = 0.3 } end
      steps[#steps + 1] = { run = "p:run(function() return 'pool and kernel stay' end) r = p:returns() r[r.n]" }
      local results = drive(steps)
      for i, code in ipairs(codes) do
        local result = results[i + 1]
        local text = told(result)[#result.outputs] or ""
        assert.are.equal("error", result.status, code)
        assert.truthy(text:find("^error: [^\n]*interrupted!\n"), code .. "\n" .. text)
        assert.is_true(result.seconds < 1, code .. ": " .. result.seconds)
      end
      assert.are.same({ "execute_result: pool and kernel stay" }, told(results[#results]))
    end

    it("reaches Lua, coroutines, waiting calls and programs", function()
      interrupted {
        "while true do end",
        "coroutine.wrap(function() while true do end end)()",
        "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
        "while true do coroutine.create(print) end",
        "mantichora.sleep(30)",
        "p:run(function() mantichora.sleep(1) end) p:returns()",
        "coroutine.wrap(function() mantichora.sleep(30) end)()",
        "for _ in atpbar(1000, 'x') do mantichora.sleep(0.1) end",
        "os.execute('sleep 30')",
        "os.execute('sleep 30') x = 1",
        "io.popen('sleep 30'):read('a')",
        "coroutine.wrap(function() os.execute('sleep 30') end)()",
        "os.execute('trap : INT; sleep 30') while true do end",
      }
    end)

    it("runs what a scope has to close, once", function()
      local results = drive {
        { run = "local x <close> = setmetatable({}, { __close = function() mantichora.sleep(0.5) print('closed') end })"
          .. "\nwhile true do end", interrupt = 0.3 },
        { run = "local q <close> = mantichora {} q:run(function() mantichora.sleep(20) end)\nq:returns()",
          interrupt = 0.3 },
      }
      assert.are.equal("stdout: closed\n", told(results[1])[1])
      assert.truthy(told(results[1])[2]:find("^error: interrupted!"))
      assert.truthy(told(results[2])[1]:find("^error: interrupted!"))
    end)

    it("says what to do where code in C cannot be reached, and a restart ends it", function()
      local results = finish_unreachable()
      assert.are.equal("busy", results[1].status)
      assert.are.equal("stderr: the cell has not stopped within 5 seconds: it is in code that cannot be interrupted; "
        .. "restarting the kernel ends it\n", told(results[1])[1])
      assert.are.same({ "execute_result: nil" }, told(results[3]))
    end)
  end)

  describe("process", function()
    local CRASH = [[x = 1
      local file = io.open("/proc/self/stat")
      local pid = file:read("n")
      p = mantichora { nworkers = 2 }
      p:run(function() for _ in atpbar(100, "task") do mantichora.sleep(0.1) end end)
      mantichora.sleep(0.3)
      os.execute("kill -ABRT " .. pid) -- sanitizers take SIGSEGV
      mantichora.sleep(10)]]

    it("that crashes is told of in the cell, and another takes its place", function()
      local results = drive { { run = CRASH }, { run = "x" }, { run = "print('bye') os.exit(3)" }, { run = "x" },
        { run = "os.execute('(sleep 0.3; kill -9 '.. io.open('/proc/self/stat'):read('n') .. ') >/dev/null 2>&1 &')" },
        { wait = 1 }, { run = "x" } }
      local gone = ": its values and pools are gone; a new one has been started"
      assert.truthy(told(results[1])[1]:find("killed | .* task"))
      assert.are.equal("error: the host was killed by signal 6 (SIGABRT)" .. gone, told(results[1])[2])
      assert.are.same({ "execute_result: nil" }, told(results[2]))
      assert.are.same({ "stdout: bye\n", "error: the host has ended with status 3" .. gone }, told(results[3]))
      assert.are.same({ "execute_result: nil" }, told(results[4]))
      assert.are.same({ "stderr: the host was killed by signal 9 (SIGKILL)" .. gone .. "\n" }, told(results[6]))
      assert.are.same({ "execute_result: nil" }, told(results[7]))
    end)

    -- drive() looks for what is left.
    for _, how in ipairs { "shutdown", "busy", "kill" } do
      it("is ended by restarts and when the kernel ends: " .. how, function()
        local results = drive {
          { run = "x = 1 os.execute('sleep 60 &')" }, { restart = how ~= "shutdown" }, { run = "x" },
          { run = [[p = mantichora { nworkers = 2 }
            p:run(function() while true do end end)
            p:run(function() os.execute("sleep 60") end)
            os.execute("sleep 60 &")
            mantichora.sleep(0.2)]] },
          { ["end"] = how },
        }
        assert.are.same({ "execute_result: nil" }, told(results[3]))
      end)
    end
  end)

  it("shows no bars where the user wants none", function()
    shell.write(folder .. "/off.json", cjson.encode { { run = "for _ in atpbar(3, 'x') do end" } })
    local got = must(("MANTICHORA_PROGRESS=off JUPYTER_PATH=%s/share/jupyter %s spec/support/notebook.py <%s/off.json")
      :format(folder, PYTHON, folder))
    assert.are.same({}, cjson.decode(got)[1].outputs)
  end)

  it("completes, inspects, and knows what is complete", function()
    local results = drive {
      { run = "-- Adds one.\nfunction add(n, ...)\n  return n + 1\nend\nt = { field = 1, fill = 2 }" },
      { complete = "x = 1\nprint(t.f" }, { complete = "coroutine.wr" }, { complete = "x.y.z" },
      { inspect = "add(" }, { inspect = "nothing" },
      { is_complete = "for i = 1, 2 do" }, { is_complete = "t.f" }, { is_complete = "x = = 1" },
      { is_complete = "t.f +" }, { is_complete = "s = [[" },
      { run = "add?" },
      { run = "help(add)" }, { run = "help(mantichora.new)" },
    }
    assert.are.same({ "field", "fill" }, results[2].matches)
    assert.are.same({ 14, 15 }, { results[2].cursor_start, results[2].cursor_end })
    assert.are.same({ "wrap" }, results[3].matches)
    assert.are.same({}, results[4].matches)
    assert.truthy(results[5].data["text/plain"]:find("add(n, ...)", 1, true))
    assert.truthy(results[5].data["text/plain"]:find("Adds one.", 1, true))
    assert.is_false(results[6].found)
    local states = {}
    for i = 7, 11 do states[#states + 1] = results[i].status end
    assert.are.same({ "incomplete", "complete", "invalid", "incomplete", "incomplete" }, states)
    assert.are.equal("ok", results[12].status)
    assert.are.same({}, results[12].outputs)
    assert.truthy(told(results[13])[1]:find("add%(n, %.%.%.%).*Adds one%."))
    assert.truthy(told(results[14])[1]:find("mantichora.new([options])", 1, true))
  end)

  -- What must be in the outputs of an example: names of bars at 100 %, and a pattern of the text.
  local RESULTS = "^result1, result2, result3, result4, result5, result6\n$"
  local SIX = { "another task", "more task", "still another task", "task", "task again", "yet another task" }
  local NUMBERED = { "task1", "task2", "task3", "task4", "task5", "task6" }
  local PAIRS = "^0, 1, 2, 3, 4, 5\n" .. ("%(%d, result%d%), "):rep(5) .. "%(%d, result%d%)\n$"
  local LINE = 'INFO:root:finishing "task%d"\n'
  local examples = {
    { "01_task_function", { "task1" }, "^result1\n$" },
    { "02_quick_start", SIX, RESULTS },
    { "03_close", SIX, RESULTS },
    { "04_terminate", nil, "^" .. ("cancelled\n"):rep(6) .. "$" },
    { "05_receive_one", NUMBERED, PAIRS },
    { "06_receive_finished", NUMBERED, PAIRS },
    { "07_logging", { "task1", "task2", "task3", "task4" }, "^" .. LINE:rep(4) .. "$" },
  }

  it("examples have the outputs of the scripts", function()
    local log = executed:read("a")
    for _, example in ipairs(examples) do
      local name, names, pattern = table.unpack(example)
      local file <close> = assert(io.open(("%s/run/%s.ipynb"):format(folder, name)), log)
      local text, ended = {}, {}
      for _, cell in ipairs(cjson.decode(file:read("a")).cells) do
        for _, output in ipairs(cell.outputs or {}) do
          local data = output.data and output.data["text/plain"] or output.text
          data = type(data) == "table" and table.concat(data) or data
          local percent, _, done, total, bar = data:match(BAR)
          if bar and names then
            assert.are.equal("100.00", percent)
            assert.are.equal(total, done)
          end
          if bar then ended[#ended + 1] = bar else text[#text + 1] = data end
        end
      end
      table.sort(ended)
      assert.truthy(table.concat(text):find(pattern), name .. "\n" .. table.concat(text))
      if names then assert.are.same(names, ended, name) else assert.is_true(#ended >= 4) end
    end
    -- As a page.
    must(("%s -m jupyter nbconvert --to html %s/run/02_quick_start.ipynb"):format(PYTHON, folder))
    local page <close> = assert(io.open(folder .. "/run/02_quick_start.html"))
    local html = page:read("a")
    for _, name in ipairs(SIX) do
      assert.truthy(html:find("100.00%% | +%d+ / +%d+ |:  " .. name .. "<"), name)
    end
    assert.truthy(html:find("result1, result2, result3, result4, result5, result6", 1, true))
  end)
end)
