-- The socket by which a script is watched: who may, what comes, what may be asked for.

local shell = require "spec.support.shell"

-- Before each script: what the viewer and it wait for by files.
local head = [[
local mantichora = require "mantichora"
local atpbar, logging = require "mantichora.atpbar", require "mantichora.logging"
local function path(name) return os.getenv "XDG_RUNTIME_DIR" .. "/" .. name end
local function touch(name) io.open(path(name), "w"):close() end
local function await(name)
  local file
  repeat
    file = io.open(path(name))
    mantichora.sleep(0.01)
  until file
end
]]

-- Run a script beside a viewer (spec/support/viewer.py): what both said, and the script's status. `options`: steps of
-- the viewer, env of the script, interpreter.
local function watch(code, options)
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", head .. code)
  local steps = {}
  for i, step in ipairs(options) do steps[i] = shell.quote(step) end
  local got = shell.run(([[
export XDG_RUNTIME_DIR=%s
%s timeout 60 %s %s/script.lua >%s/out 2>%s/err <>/dev/null &
script=$!
python3 spec/support/viewer.py %s %s
echo $? >%s/viewer
wait $script
echo $? >%s/status
ls -a $XDG_RUNTIME_DIR/mantichora* 2>/dev/null | grep sock >%s/left
]]):format(folder, options.env or "MANTICHORA_ATTACH=1", options.interpreter or shell.interpreter, folder, folder,
    folder, folder, table.concat(steps, " "), folder, folder, folder), { timeout = 60 })
  local function read(name)
    local file <close> = io.open(folder .. "/" .. name)
    return file and file:read("a") or ""
  end
  local result = { lines = {}, all = got.out, out = read "out", err = read "err", status = tonumber(read "status"),
    viewer = tonumber(read "viewer"), left = read "left", said = got.err }
  for line in got.out:gmatch("[^\n]+") do result.lines[#result.lines + 1] = line end
  shell.remove(folder)
  return result
end

-- The lines with this event.
local function of(result, event)
  local found = {}
  for _, line in ipairs(result.lines) do
    if line:find(('{"event":"%s"'):format(event), 1, true) then found[#found + 1] = line end
  end
  return found
end

local function position(result, text)
  for i, line in ipairs(result.lines) do
    if line:find(text, 1, true) then return i end
  end
end

local function check(result)
  assert.are.equal(0, result.viewer, result.said .. result.err)
  assert.are.equal(0, result.status, result.err)
  assert.are.equal("", result.left)
end

describe("A script that is watched", function()
  it("gives a snapshot, then what happens, and says when it ends", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 2, name = "the pool", on_error = "return", poolbar = true }
      pool:run_with({ name = "early" }, function() error("was there before") end)
      pool:returns()
      logging.warning("an early record")
      await "go"
      pool:run_with({ name = "fine" }, function()
        for i in atpbar(100, "a bar") do end
        print "a line"
        logging.warning("a record")
      end)
      pool:run_with({ name = "bad" }, function() error("no luck") end)
      pool:returns()
    ]], { "until:\"ready\"", "touch:go", "eof" })
    check(got)
    local begin = '^{"mantichora":1,"version":"[%d.]+","pid":%d+,"script":"[^"]*script.lua"'
    assert.is_truthy(got.lines[1]:find(begin))
    assert.are.equal(2, position(got, '"event":"snapshot"'))
    assert.are.equal(#got.lines, position(got, '"event":"end"'))
    local early = position(got, "was there before")
    assert.is_true(early < position(got, '"event":"ready"'))
    assert.is_truthy(got.lines[early]:find('"past":true', 1, true))
    local report = '"report":"task 2 (\\"bad\\", function \\u003c'
    assert.is_truthy(got.lines[position(got, "no luck")]:find(report, 1, true))
    assert.is_truthy(got.all:find('"message":"[^"]*no luck'))
    assert.is_truthy(of(got, "pool")[1]:find('"pool":1,"name":"the pool","engine":"fork","nworkers":2', 1, true))
    assert.is_truthy(got.all:find('"name":"a bar","done":100,"total":100,"state":"finished"', 1, true))
    assert.is_truthy(got.all:find('{"event":"line",[^\n]*"stream":"stdout","text":"a line"}'))
    assert.is_truthy(got.all:find('"level":"WARNING","levelno":30,"logger":"root","message":"a record"', 1, true))
    local ticks = of(got, "tick")
    assert.is_truthy(ticks[#ticks]:find('"queued":0,"running":0,', 1, true))
    assert.is_truthy(ticks[#ticks]:find('"ok":1,"error":2,', 1, true))
    assert.is_truthy(of(got, "worker")[1]:find('"slot":%d,"pid":%d+'))
    assert.is_truthy(of(got, "stats")[1]:find('"viewers":1', 1, true))
    assert.are.equal(1, #of(got, "pool_closed"))
    assert.are.equal(3, #of(got, "ended"))
    assert.are.equal(2, #of(got, "started"))
  end)

  it("has names and lines as text of valid UTF-8, whatever they are", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 1 }
      await "go"
      pool:run_with({ name = "</script><img src=x onerror=alert(1)>\255\27[2J\"\n" }, function() print "\1\200" end)
      pool:returns()
    ]], { "until:\"ready\"", "touch:go", "eof" })
    check(got)
    local name = [["name":"\u003c/script>\u003cimg src=x onerror=alert(1)>\ufffd\u001b[2J\"\u000a"]]
    assert.is_truthy(got.all:find(name, 1, true))
    assert.is_truthy(got.all:find([["text":"\u0001\ufffd"]], 1, true))
  end)

  it("counts all of its tasks, though short ones are not told one by one", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 2 }
      await "go"
      for i = 1, 3000 do pool:run(function() end) end
      pool:returns()
    ]], { "until:\"ready\"", "touch:go", "eof" })
    check(got)
    local ticks, sum = of(got, "tick"), 0
    assert.is_truthy(ticks[#ticks]:find('"ok":3000,', 1, true))
    for _, line in ipairs(of(got, "many")) do sum = sum + tonumber(line:match('"ok":(%d+)')) end
    local told = #of(got, "ended")
    assert.is_true(sum > 0 and told >= 60, sum .. " and " .. told)
    assert.are.equal(3000, sum + told)
  end)

  it("is served by its helper thread while its own code is busy", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(function() end) pool:returns()
      repeat local file = io.open(path "stop") until file
    ]], { "until:\"stats\"", "until:\"stats\"", "touch:stop", "eof" })
    check(got)
  end)

  it("is served inside of its calls where there is no helper thread", function()
    for _, options in ipairs { "background = false", "engine = 'inline'" } do
      local got = watch(([[
        local pool <close> = mantichora { nworkers = 1, %s }
        while not io.open(path "stop") do pool:run(mantichora.sleep, 0.02) pool:returns() end
      ]]):format(options), { "until:\"tick\"", "until:\"stats\"", "touch:stop", "eof" })
      check(got)
    end
  end)

  it("may have bars alone", function()
    local got = watch([[
      for i in atpbar(100, "alone") do if i == 50 then await "go" end end
    ]], { "until:\"alone\",\"done\":49", "touch:go", "eof" })
    check(got)
    assert.is_truthy(got.all:find('"done":100,"total":100,"state":"finished"', 1, true))
  end)

  it("has bars whatever is shown by itself", function()
    local code = [[
      local pool <close> = mantichora { nworkers = 1, poolbar = true, name = "counts" }
      pool:run(function()
        local bar <close> = atpbar.bar { name = "in a task", total = 10 }
        bar:set(4) await "go" bar:set(10)
      end)
      for i in atpbar(10, "in a loop") do if i == 6 then await "go" end end
      pool:returns()
    ]]
    for env, before in pairs { ["MANTICHORA_PROGRESS=off MANTICHORA_ATTACH=1"] = "",
      ["MANTICHORA_ATTACH=1"] = "atpbar.disable()", ["MANTICHORA_PROGRESS=off"] = "mantichora.attach()" } do
      local got = watch(before .. "\n" .. code, { "until:\"in a task\",\"done\":4", "until:\"in a loop\",\"done\":5",
        "touch:go", "eof", env = env })
      check(got)
      for _, bar in ipairs { '"in a task","done":10,"total":10', '"in a loop","done":10,"total":10' } do
        assert.is_truthy(got.all:find(bar .. ',"state":"finished"', 1, true), env .. before)
      end
      assert.is_truthy(got.all:find('"name":"counts[^"]*","done":1,"total":1,"state":"finished"'), got.all)
      assert.are.equal("", got.err)
    end
  end)

  it("never waits for a viewer who reads nothing, and tells him so", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 2 }
      await "go"
      for i = 1, 4 do pool:run(function() for k = 1, 10000 do print(("x"):rep(100)) end end) end
      pool:returns()
      touch "done"
      await "stop"
    ]], { "until:\"ready\"", "touch:go", "await:done", "until:\"skipped\"", "until:\"snapshot\"", "until:\"ready\"",
      "touch:stop", "eof" })
    check(got)
    assert.is_truthy(of(got, "skipped")[1]:find('"lines":[1-9]'))
  end)

  it("counts what a journal had", function()
    local path = os.tmpname()
    os.remove(path)
    local function counts()
      local got = watch(([[
        local pool <close> = mantichora { nworkers = 1, journal = %q }
        await "go"
        for i = 1, 3 do pool:run(function() return i end) end
        pool:returns()
        await "stop"
      ]]):format(path), { "until:\"ready\"", "touch:go", "until:\"ok\":3", "touch:stop", "eof" })
      check(got)
      local ticks, found = of(got, "tick"), 0
      for _, line in ipairs(of(got, "ended")) do found = found + (line:find('"found":true', 1, true) and 1 or 0) end
      return { tonumber(ticks[#ticks]:match('"found":(%d+)')), found }
    end
    assert.are.same({ { 0, 0 }, { 3, 3 } }, { counts(), counts() })
    os.execute(("rm -rf %s %s-wal %s-shm"):format(path, path, path))
  end)

  it("says on which machine a worker is, and measures only those of its own", function()
    local got = watch([[
      local command = { os.getenv "HOST", "worker", "--stdio" }
      local pool <close> = mantichora { hosts = { { command = command, name = "far", slots = 1 } } }
      local near <close> = mantichora { nworkers = 1 }
      for _, one in ipairs { pool, near } do
        one:run(function() await "go" end)
        one:poll()
      end
      near:returns() pool:returns()
    ]], { "until:\"host\":\"far\",\"tasks\":0,\"runid\":0", "until:\"workers_rss\"", "touch:go", "eof",
      env = "MANTICHORA_ATTACH=1 HOST=" .. shell.host })
    check(got)
    local count = { 0, 0 }
    for _, line in ipairs(of(got, "worker")) do
      if line:find '"runid":0' then
        local pool, is_far = tonumber(line:match '"pool":(%d)'), line:find('"host":"far"', 1, true) ~= nil
        count[pool] = count[pool] + 1
        assert.are.same({ pool == 1, pool == 2 }, { is_far, line:find('"rss":', 1, true) ~= nil }, line)
        assert.is_truthy(line:find('"since":%d'), line)
      end
    end
    assert.is_true(count[1] > 0 and count[2] > 0)
    for _, line in ipairs(of(got, "ended")) do
      assert.are.equal(line:find '"pool":1' ~= nil, line:find('"host":"far"', 1, true) ~= nil)
    end
  end)

  it("pauses for a viewer, until the last who wants it has gone", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(mantichora.sleep, 0) pool:returns()
      await "paused"
      for i = 1, 6 do pool:run(mantichora.sleep, 0) end
      local other <close> = mantichora { nworkers = 1 }
      other:run(function() end)
      assert(pool:poll(0.2) == 0 and other:poll(0.1) == 0)
      touch "seen"
      pool:returns()
      other:returns()
    ]], { "until:\"ready\"", [[send:{"command":"pause","id":"p"}]], "until:\"answer\"", "touch:paused", "await:seen",
      "until:\"queued\":6,\"running\":0", "again", "until:\"ready\"", [[send:{"command":"pause"}]],
      [[send:{"command":"resume","id":7}]], "until:\"id\":7" })
    check(got)
    assert.is_truthy(got.all:find('"event":"answer","id":"p","ok":true', 1, true))
    assert.is_truthy(got.all:find('"event":"paused","paused":true', 1, true))
    assert.is_truthy(got.all:match('.*({"mantichora":1.*)'):find('"event":"paused","paused":true', 1, true))
  end)

  it("cancels a task and has other workers for a viewer, and ignores what it does not know", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 1, on_error = "return" }
      pool:run(mantichora.sleep, 60)
      pool:run(mantichora.sleep, 60)
      local results = pool:returns()
      print(results[1].kind, results[2].kind, #pool:workers())
    ]], { "until:\"runid\":0", "send:nonsense", "send:[1,2]", [[send:{"command":"dance","id":1}]],
      [[send:{"command":"workers","pool":1,"n":3,"id":2}]], "until:\"id\":2", "until:\"nworkers\":3",
      "until:\"slot\":2",
      [[send:{"more":{"x":["}"]},"command":"cancel","pool":1,"runid":0,"id":3}]],
      [[send:{"command":"cancel","pool":1,"runid":1,"id":4}]], [[send:{"command":"cancel","pool":9,"runid":1,"id":5}]],
      [[send:{"command":"cancel","pool":1,"runid":99,"id":6}]], [[send:{"command":"workers","pool":1,"n":0,"id":7}]],
      "until:\"id\":7", "eof" })
    check(got)
    assert.are.equal("cancelled\tcancelled\t3\n", got.out)
    assert.is_falsy(got.all:find('"id":1,', 1, true))
    assert.is_truthy(got.all:find('"id":3,"ok":true,"was":"running"', 1, true))
    assert.is_truthy(got.all:find('"id":5,"ok":false,"message":"there is no such pool"', 1, true))
    assert.is_truthy(got.all:find('"id":6,"ok":false', 1, true))
    assert.is_truthy(got.all:find('"id":7,"ok":false', 1, true))
  end)

  it("lets go of a viewer who says too much without a line", function()
    local got = watch([[
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(function() end) pool:returns()
      await "stop"
    ]], { "until:\"ready\"", "bytes:20000", "eof", "touch:stop" })
    check(got)
    assert.are.equal(0, #of(got, "end"))
  end)

  it("has 16 viewers at most, and the next is told so", function()
    local steps = { "until:\"ready\"" }
    for _ = 2, 16 do
      steps[#steps + 1] = "again"
      steps[#steps + 1] = "until:\"ready\""
    end
    for _, step in ipairs { "touch:full", "await:seen", "eof" } do steps[#steps + 1] = step end
    steps.env = "MANTICHORA_ATTACH=1 HOST=" .. shell.host
    local got = watch([[
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(function() end) pool:returns()
      await "full"
      for _, way in ipairs { "--json", "--once", "--web" } do
        local viewer <close> = io.popen("timeout 20 $HOST top " .. way .. " $PPID 2>&1")
        print((viewer:read("a"):gsub("%d+", "N", 1)))
      end
      touch "seen"
    ]], steps)
    check(got)
    local said = "mantichora top: script N lets nobody else in: it has as many viewers as it can have, 16\n\n"
    assert.are.equal(said:rep(3), got.out)
  end)

  it("tells what changed last though nobody closes its pool", function()
    local got = watch([[
      pool = mantichora { nworkers = 1 }
      pool:run(function() end) pool:returns()
      await "go"
      for _ = 1, 3 do pool:run(function() end) pool:returns() end
    ]], { "until:\"ready\"", "until:\"stats\"", "touch:go", "eof" })
    check(got)
    local ticks = of(got, "tick")
    assert.is_truthy(ticks[#ticks]:find('"running":0,', 1, true) and ticks[#ticks]:find('"ok":4,', 1, true), got.all)
  end)

  it("removes its socket however it ends", function()
    local code = "pool = mantichora { nworkers = 1 } pool:run(function() end) pool:returns() await 'go'"
    for _, ending in ipairs { "os.exit(0)", "os.exit(0, true)", "pool = nil" } do
      local got = watch(code .. ending, { "until:\"ready\"", "touch:go", "eof" })
      check(got)
      assert.are.equal(1, #of(got, "end"), ending)
    end
    local got = watch([[
      pool = mantichora { nworkers = 1 } pool:run(mantichora.sleep, 60)
      await "go"
      io.popen("kill -TERM $PPID"):close() mantichora.sleep(20)
    ]], { "until:\"ready\"", "touch:go", "eof", interpreter = shell.host })
    assert.are.equal("", got.left)
    assert.are.equal(143, got.status)
  end)

  it("takes the place of a socket that was left behind", function()
    local got = watch([[
      local folder = path "mantichora"
      local socket = folder .. "/" .. io.popen("echo $PPID"):read("l") .. ".sock"
      local bind = "import socket; socket.socket(socket.AF_UNIX).bind(\"" .. socket .. "\")"
      os.execute("mkdir -m 755 " .. folder .. "; python3 -c '" .. bind .. "'")
      assert(mantichora.attach() == socket, mantichora.attach())
      os.execute("stat -c %a " .. folder .. " " .. socket)
      await "go"
    ]], { "touch:go", "eof", env = "" })
    check(got)
    assert.are.equal("700\n600\n", got.out)
  end)
end)

-- Run a script alone, in a folder of its own.
local function run(code, options)
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", head .. code)
  local got = shell.run(("export XDG_RUNTIME_DIR=%s; cd %s\n%s %s script.lua"):format(
    options.runtime and folder .. options.runtime or folder, folder, options.env or "",
    options.interpreter or shell.interpreter), { timeout = 60 })
  shell.remove(folder)
  assert.are.equal(0, got.status, got.err)
  return got
end

local here = io.popen("pwd"):read("l") .. "/"
local host = shell.host:find("^/") and shell.host or here .. shell.host
-- Where the specs run under our host, as under sanitizers, the stock interpreter is left alone.
local lua = not os.getenv "MANTICHORA_INTERPRETER" and ("env LUA_CPATH=%sbuild/lua/?.so %s"):format(here, shell.lua)

describe("Whether a script can be watched", function()
  local ask = [[
    local pool <close> = mantichora { nworkers = 1 } pool:run(function() end) pool:returns()
    os.execute("ls $XDG_RUNTIME_DIR/mantichora 2>/dev/null | wc -l")
  ]]

  it("is for the host to say, and for MANTICHORA_ATTACH", function()
    assert.are.equal("1\n", run(ask, { interpreter = host }).out)
    assert.are.equal("0\n", run(ask, { interpreter = host, env = "MANTICHORA_ATTACH=0" }).out)
    local refused = run("assert(not mantichora.attach())" .. ask, { interpreter = host, env = "MANTICHORA_ATTACH=0" })
    assert.are.equal("0\n", refused.out)
    if not lua then return end
    assert.are.equal("0\n", run(ask, { interpreter = lua }).out)
    assert.are.equal("1\n", run(ask, { interpreter = lua, env = "MANTICHORA_ATTACH=1" }).out)
    assert.are.equal("1\n", run("mantichora.attach()" .. ask, { interpreter = lua }).out)
  end)

  it("begins with the first pool or bar", function()
    local count = [[os.execute("ls $XDG_RUNTIME_DIR/mantichora 2>/dev/null | wc -l")]]
    assert.are.equal("0\n", run(count, { interpreter = host }).out)
    assert.are.equal("1\n", run("for i in atpbar(3) do end" .. " " .. count, { interpreter = host }).out)
  end)

  it("is nothing for workers", function()
    local got = run([[
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(function()
        local inner <close> = mantichora { nworkers = 1 }
        local inside = inner:map(function() return (select(2, mantichora.attach())) end, { 1 })[1]
        local found = 0
        for line in io.popen("ls -l /proc/$PPID/fd"):lines() do
          if line:find("socket:", 1, true) then found = found + 1 end
        end
        return (select(2, mantichora.attach())), inside, found
      end)
      local count = #io.popen("ls $XDG_RUNTIME_DIR/mantichora"):read("a"):gsub("[^\n]", "")
      local _, why, inside, found = table.unpack(pool:receive_all()[1])
      print(why == inside, why, count, found)
    ]], { interpreter = host })
    local bare = run([[
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(function()
        local inner <close> = mantichora { nworkers = 1 }
        inner:map(function() end, { 1 })
        local found = 0
        for line in io.popen("ls -l /proc/$PPID/fd"):lines() do
          if line:find("socket:", 1, true) then found = found + 1 end
        end
        return found
      end)
      print(pool:returns()[1])
    ]], { interpreter = host, env = "MANTICHORA_ATTACH=0" })
    assert.are.equal("true\ta worker is watched through the script that has it\t1\t" .. bare.out, got.out)
  end)

  it("is told in one line where it cannot be", function()
    local code = "logging.basic_config { level = 'INFO' } " .. ask .. ask
    local long = run(code, { interpreter = host, runtime = "/" .. ("long"):rep(20) })
    assert.are.equal("", long.err) -- there is another folder
    local got = run([[
      os.execute("mkdir " .. ("long"):rep(20))
    ]] .. code, { interpreter = host, runtime = "/" .. ("long"):rep(20) })
    local said = "^INFO:mantichora:nobody can watch this script: "
    assert.is_truthy(got.err:find(said .. "the path of the socket[^\n]+\n$"), got.err)
    got = run([[os.execute("ln -s /tmp $XDG_RUNTIME_DIR/mantichora")]] .. code, { interpreter = host })
    assert.is_truthy(got.err:find(said .. "[^\n]+ is not a folder of this user\n$"), got.err)
  end)

  it("adds no thread and no port", function()
    local code = [[
      local pool <close> = mantichora { nworkers = 1 } pool:run(function() end) pool:returns()
      local pid = io.popen("echo $PPID"):read("l")
      print(#io.popen("ls /proc/" .. pid .. "/task"):read("a"):gsub("[^\n]", ""))
      print((io.popen("ss -ltnp 2>/dev/null | grep -c pid=" .. pid):read("l")))
    ]]
    local plain = run(code, { interpreter = host, env = "MANTICHORA_ATTACH=0" })
    assert.are.equal(plain.out, run(code, { interpreter = host }).out)
  end)
end)

-- Why nobody else can be played here; nil: he can.
local function why_alone()
  if not shell.run("id -u").out:find("^0\n") then return "this is not root" end
  if shell.run("command -v setpriv").status ~= 0 then return "there is no setpriv (Debian: util-linux)" end
  if shell.run("setpriv --reuid=65534 --clear-groups test -x " .. shell.quote(host)).status ~= 0 then
    return "user 65534 cannot run " .. host
  end
end

-- begin: starts a script, of another user if there is a word behind it; its process is $PID. $OTHER, before a command:
-- another user does it. $TOP: the command.
local function between_users(body)
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", [[
    local mantichora = require "mantichora"
    local pool <close> = mantichora { nworkers = 1 }
    pool:run(mantichora.sleep, 60)
    print("begun")
    io.stdout:flush()
    pool:returns()
  ]])
  local got = shell.run(([[
    cd %s; HOST=%s; HERE=$PWD
    chmod 755 .; mkdir run; chmod 777 run
    export XDG_RUNTIME_DIR=$HERE/run TMPDIR=$HERE/run
    OTHER="setpriv --reuid=65534 --clear-groups" TOP="timeout 30 $HOST top"
    begin() {
      : >begun
      ${1:+$OTHER} timeout 60 $HOST script.lua >begun 2>&1 &
      script=$!
      for _ in $(seq 400); do grep -q begun begun && break; sleep 0.05; done
      PID=$(pgrep -P $script)
    }
    %s
    kill $script
    wait
  ]]):format(folder, shell.quote(host), body), { timeout = 60 })
  shell.remove(folder)
  return got
end

describe("Another user", function()
  local reason = why_alone()

  it("cannot come to the socket, is not let in where he can, and is told whose script it is", function()
    if reason then return pending(reason) end
    local got = between_users([[
      begin
      stat -c %a run/mantichora run/mantichora/$PID.sock
      for way in "" --once --json --web; do $OTHER $TOP $way $PID; echo $?; done
      chmod 755 run/mantichora; chmod 666 run/mantichora/$PID.sock
      for way in --once --json --web; do $OTHER $TOP $way $PID; echo $?; done
      $OTHER $TOP --once 2>/dev/null; echo $?
      $TOP --once $PID | head -n 1 | cut -d " " -f 1; echo $PID >&2
    ]])
    assert.are.equal("700\n600\n" .. ("1\n"):rep(8) .. "script.lua\n", got.out, got.err)
    local said, pid = got.err:match("^(.*)\n(%d+)\n")
    local sentence = "mantichora top: process %s belongs to the user root: nobody but that user, and root, can watch it"
    assert.are.equal((sentence:format(pid) .. "\n"):rep(7), said .. "\n")
  end)

  it("is watched by root", function()
    if reason then return pending(reason) end
    local got = between_users([[
      begin other
      stat -c %u run/mantichora run/mantichora/$PID.sock
      $TOP --json --once $PID | tail -n 1 | grep -o '"event":"ready"'
    ]])
    assert.are.equal('65534\n65534\n"event":"ready"\n', got.out, got.err)
  end)
end)
