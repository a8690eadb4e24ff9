-- mantichora top: its options, which script it takes, and the lines that it passes on.

local shell = require "spec.support.shell"

-- A script that waits, named `word`, and has a socket when its line is there.
local script = [[
  local mantichora = require "mantichora"
  local pool <close> = mantichora { nworkers = 1, name = "one" }
  pool:run_with({ name = "</script>\27[31m" }, function() mantichora.sleep(tonumber(arg[1]) or 100) end)
  print("begun")
  io.stdout:flush()
  pool:returns()
]]

-- What `body`, a piece of shell, says and how it ends. $TOP: the command; begin WORD..: starts a script, $PID. The
-- sockets are in a folder of this test's own.
local function within(body)
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", script)
  local got = shell.run(([[
    export XDG_RUNTIME_DIR=%s/run TMPDIR=%s
    mkdir $XDG_RUNTIME_DIR
    TOP="timeout 30 %s top"
    pids=""
    begin() {
      : >$TMPDIR/out
      timeout 60 %s $TMPDIR/script.lua "$@" >$TMPDIR/out 2>/dev/null &
      pids="$pids $!"
      for _ in $(seq 400); do grep -q begun $TMPDIR/out && break; sleep 0.05; done
      PID=$(pgrep -P $!)
    }
    cd %s
    %s
    status=$?
    kill $pids 2>/dev/null
    wait
    exit $status
  ]]):format(folder, folder, shell.host, shell.host, shell.quote(os.getenv("PWD")), body), { timeout = 120 })
  shell.remove(folder)
  return got
end

describe("mantichora top", function()
  it("says what to do when nothing runs", function()
    local got = within("$TOP --web")
    assert.same("", got.out)
    assert.matches("^mantichora top: no script of yours runs that can be watched %(looked at [^ ]*/run/mantichora and "
      .. "[^ ]*/mantichora%-%d+%)%.\n.*`mantichora script%.lua`, or with MANTICHORA_ATTACH=1 .*\n$", got.err)
    assert.same(1, got.status)
  end)

  it("takes the only script there is, passes over sockets of those that have gone", function()
    local got = within([[
      begin
      kill -KILL $PID
      begin --word
      $TOP --json --once >$TMPDIR/lines
      head -n 2 $TMPDIR/lines | grep -o -e '^{"mantichora":1,' -e '"arguments":\["--word"\]' -e '^{"event":"snapshot"'
      grep -o '"event":"worker".*"name":"[^"]*"' $TMPDIR/lines | grep -o '"name.*'
      tail -n 1 $TMPDIR/lines | grep -o '^{"event":"ready"'
      $TOP --json --once $PID | grep -c '"event":"pool"'
      ls $XDG_RUNTIME_DIR/mantichora | grep -c sock
    ]])
    assert.same('{"mantichora":1,\n"arguments":["--word"]\n{"event":"snapshot"\n"name":"\\u003c/script>\\u001b[31m"\n'
      .. '{"event":"ready"\n1\n2\n', got.out)
    assert.same("", got.err)
  end)

  it("waits for a script that is just making its socket", function()
    local got = within([[python3 -c '
import os, socket, subprocess, sys, time
folder = os.environ["XDG_RUNTIME_DIR"] + "/mantichora"
os.mkdir(folder, 0o700)
script = socket.socket(socket.AF_UNIX)
script.bind("%s/%d.sock" % (folder, os.getpid()))
top = subprocess.Popen(sys.argv[1:], stdout=1)
time.sleep(0.1)
script.listen()
script.settimeout(20)
for _ in range(2): # one is looked at for the list, then one is watched
    viewer = script.accept()[0]
    viewer.sendall(b"{\"mantichora\":1}\n{\"event\":\"ready\"}\n")
top.wait()
' $TOP --json --once]])
    assert.same({ '{"mantichora":1}\n{"event":"ready"}\n', "" }, { got.out, got.err })
  end)

  it("lists several scripts", function()
    local got = within([[
      begin a; one=$PID
      begin "$(printf 'b\033[0m')"; two=$PID
      $TOP | sed "s/ *$one /ONE/; s/ *$two /TWO/"
      $TOP --json
      echo status $?
    ]])
    assert.matches("^ +PID  script\n", got.out)
    assert.matches("ONE +[^ ]*/script.lua a  %(in [^)]*%)\n", got.out)
    assert.matches("TWO +[^ ]*/script.lua b%?%[0m  %(in [^)]*%)\n", got.out)
    assert.matches("\nstatus 1\n$", got.out)
    assert.matches("several scripts run; say which by its PID\n$", got.err)
    assert.matches("script.lua a", got.err, 1, true)
  end)

  it("passes lines on until the script ends", function()
    local got = within([[
      begin 2
      $TOP --json | tail -n 1 | grep -o '"event":"[a-z]*"'
    ]])
    assert.same('"event":"end"\n', got.out)
  end)

  it("says why a process cannot be watched", function()
    local got = within("$TOP --json $$ || echo $?; $TOP --json 4194305; echo $?")
    assert.same("1\n1\n", got.out)
    assert.matches("process %d+ cannot be watched %(looked at .*MANTICHORA_ATTACH=1 or mantichora%.attach%(%)", got.err)
    assert.matches("there is no process 4194305\n$", got.err)
  end)

  it("explains wrong use", function()
    for words, message in pairs {
      ["--wep"] = "unknown option '--wep'; the nearest is --web (see --help)",
      ["1 2"] = "only one script can be watched at once",
      ["script.lua"] = "'script.lua' is no PID, a number",
      ["--web --once"] = "--web goes with neither --once nor --json",
      ["-- -3"] = "'-3' is no PID, a number",
    } do
      local got = within("$TOP " .. words)
      assert.same({ "", "mantichora top: " .. message .. "\n", 255 }, { got.out, got.err, got.status })
    end
    assert.matches("^usage: mantichora top %[options%] %[PID%]\n", within("$TOP --help").out)
    assert.matches("^usage: mantichora top ", within("$TOP -h").out)
  end)
end)
