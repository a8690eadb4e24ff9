-- The page of `mantichora top --web`, in a headless chromium that is used by keyboard, and the server behind it.
-- What it shows comes from spec/support/watched.py, which plays a script.

-- luacheck: no max line length

local shell = require "spec.support.shell"

local evil = "</script><img src=x onerror=alert(1)>"

-- What the tests begin with.
local hello = [[
{"mantichora":1,"version":"x.y.z","pid":PID,"script":"dir/train.lua","arguments":["<b>--big</b>"],"folder":"/home/ann","host":"einstein","user":0,"started":1790000000.5,"time":1790000010.5,"clock":8000.0}
{"event":"snapshot","clock":8000.0,"time":1790000010.5}
{"event":"pool","clock":8000.0,"pool":1,"name":"fetch","engine":"fork","nworkers":2,"since":7990.0}
{"event":"tick","clock":8000.0,"pool":1,"queued":12,"running":2,"accepted":1234567,"ok":1234550,"error":2,"timeout":1}
{"event":"worker","clock":8000.0,"pool":1,"slot":1,"pid":101,"tasks":7,"rss":31457280,"cpu":0.97,"runid":5,"name":"EVIL","place":"<train.lua:12>","attempt":1,"since":7999.0}
{"event":"worker","clock":8000.0,"pool":1,"slot":2,"pid":102,"tasks":3,"rss":20971520,"cpu":0.01}
{"event":"bar","clock":8000.0,"bar":1,"name":"EVIL","done":25,"total":100,"state":"running","rate":12.5}
{"event":"bar","clock":8000.0,"bar":2,"name":"copy","done":3000000,"total":1000000000,"unit":"B","state":"cancelled"}
{"event":"ended","past":true,"clock":7995.0,"pool":1,"runid":1,"name":"early","kind":"timeout","attempt":1,"slot":2,"pid":102,"began":7993.0,"elapsed":2.0,"message":"ran longer than 2 s","report":"report of early"}
{"event":"log","past":true,"clock":7996.0,"time":1790000006.5,"level":"WARNING","levelno":30,"logger":"net","message":"EVIL","process":102}
{"event":"line","past":true,"clock":7997.0,"stream":"stdout","text":"epoch 1"}
{"event":"stats","clock":8000.0,"time":1790000010.5,"cpu":0.1,"rss":52428800,"workers_cpu":1.0,"workers_rss":52428800}
{"event":"ready","clock":8000.0}
{"event":"ended","clock":8000.4,"pool":1,"runid":4,"name":"EVIL","place":"<train.lua:12>","kind":"error","attempt":1,"slot":2,"pid":102,"began":7999.5,"elapsed":0.5,"maxrss":20971520,"message":"no such file","report":"the whole\nreport of EVIL"}
{"event":"ended","clock":8000.6,"pool":1,"runid":3,"name":"third","place":"<train.lua:14>","kind":"ok","attempt":1,"slot":1,"pid":101,"began":7996.0,"elapsed":3.0,"maxrss":20971520}
{"event":"many","clock":8000.7,"pool":1,"slot":2,"from":7996.0,"to":7999.0,"ok":900,"error":100,"worked":2.5}
@every 0.5 {"event":"paused","clock":8000.7,"paused":false}
]]

-- The program `top --web` at a script that plays these lines, and what `body` does meanwhile, a piece of bash: $URL, $PORT and
-- $TOKEN, $TOP and $FAKE (their PIDs), $FOLDER. Returns what it says, and what top said and how it ended after Ctrl-C.
local function serve(lines, body)
  local folder = shell.folder()
  shell.write(folder .. "/lines", (lines:gsub("EVIL", (evil:gsub('"', '\\"')))))
  shell.write(folder .. "/body", body)
  -- With job control, so that what is in the background takes Ctrl-C.
  shell.write(folder .. "/script", ([[
    set -m
    cd %s || exit 9
    export XDG_RUNTIME_DIR=$FOLDER
    # FILE PID: until there is something in the file, or the process has ended.
    until_there() { for _ in $(seq 400); do [ -s "$1" ] && return; kill -0 $2 2>/dev/null || return; sleep 0.05; done; }
    python3 spec/support/watched.py $FOLDER/lines >$FOLDER/path 2>$FOLDER/fake.err &
    export FAKE=$!
    until_there $FOLDER/path $FAKE
    %s top --web $FAKE >$FOLDER/url 2>$FOLDER/err &
    export TOP=$!
    until_there $FOLDER/url $TOP
    export URL=$(head -n 1 $FOLDER/url)
    export PORT=$(expr "$URL" : 'http://127.0.0.1:\([0-9]*\)/')
    export TOKEN=${URL##*#t=}
    bash $FOLDER/body
    kill -INT $TOP 2>/dev/null
    wait $TOP
    echo $? >$FOLDER/status
    kill $FAKE 2>/dev/null
    wait $FAKE
  ]]):format(shell.quote(os.getenv("PWD")), shell.quote(shell.host)))
  local got = shell.run(("FOLDER=%s bash %s/script"):format(folder, folder), { timeout = 150 })
  for _, name in ipairs { "url", "err", "status", "fake.err" } do
    local file <close> = io.open(folder .. "/" .. name)
    got[name] = file and file:read("a") or "nothing"
  end
  shell.remove(folder)
  return got
end

-- A browser that goes through these steps (see spec/support/browser.py); what it says, line by line.
local function browse(steps)
  return ([[
    python3 spec/support/browser.py $FOLDER/browser <<END
%s
END
  ]]):format(steps:gsub("\\", "\\\\"):gsub("`", "\\`"):gsub("%$", "\\$"):gsub("\\%$(%u+)", "$%1"))
end

local function lines_of(text)
  local lines = {}
  for line in text:gmatch("[^\n]+") do lines[#lines + 1] = line end
  return lines
end

local function missing(program)
  return shell.run("command -v " .. program).status ~= 0
end

describe("the page of top --web", function()
  local function with_browser()
    if missing("chromium") then
      pending("chromium is not installed")
      return false
    end
    return true
  end

  it("shows a script, by keyboard too, and goes on after a reload", function()
    if not with_browser() then return end
    local got = serve(hello, browse [[
      open $URL
      size 1280 900
      wait document.getElementById("state").textContent === "live"
      say location.href.replace(/[0-9]+\/$/, "PORT/") + " " + document.cookie
      say document.getElementById("title").textContent
      say document.title
      say Array.from(document.querySelectorAll("#figures > div:not([hidden])")).slice(0, 4).map(e => e.textContent.replace(/\u202f/g, "'")).join(", ")
      say Array.from(document.querySelectorAll(".bar")).map(e => e.querySelector(".bar-name").textContent + ": " + e.querySelector(".bar-count").textContent.replace(/\u2002/g, ", ")).join("; ")
      say Array.from(document.querySelectorAll("#workers tr")).map(e => [0, 1, 2, 4, 5, 6].map(i => e.cells[i].textContent).join(" ")).join("; ")
      say Array.from(document.querySelectorAll("#failures summary")).map(e => e.querySelector(".kind").textContent + e.querySelector(".text").textContent + ": " + e.querySelector(".message").textContent).join("; ")
      say Array.from(document.querySelectorAll("#log div")).map(e => e.textContent.replace(/^\S+ /, "")).join("; ")
      say document.querySelectorAll("img").length + " " + document.querySelectorAll("#main script").length
      say document.getElementById("memory-text").textContent
      key Tab
      say document.activeElement.textContent + getComputedStyle(document.activeElement).outlineStyle
      run true
      wait (function () { document.querySelector(".timeline-view").focus(); return true; })()
      key Enter
      key ArrowRight
      key ArrowRight
      key ArrowDown
      key Home
      say document.querySelector(".timeline-said").textContent
      key ArrowRight
      say document.querySelector(".timeline-said").textContent.replace(/ in .*/, "")
      key End
      say document.querySelector(".timeline-said").textContent
      key Enter
      say document.activeElement.id + ": " + document.getElementById("chosen-title").textContent
      say document.getElementById("chosen-report").textContent
      say Array.from(document.querySelectorAll("#chosen-facts div")).map(e => e.textContent).slice(0, 3).join(", ")
      key Escape
      say document.activeElement.className + " " + document.getElementById("chosen").hidden
      wait (function () { document.querySelector("#failures summary").focus(); return true; })()
      key Enter
      wait document.querySelector("#failures pre") !== null
      say document.querySelector("#failures pre").textContent
      say Array.from(document.querySelectorAll("#last tr")).map(e => Array.from(e.cells).slice(0, 4).map(c => c.textContent).join(" ")).join("; ")
      wait (function () { document.querySelector("#last-tasks").open = true; document.querySelector("#last button").focus(); return true; })()
      key Enter
      say document.activeElement.id + ": " + document.getElementById("chosen-title").textContent
      reload
      wait document.readyState === "complete" && document.getElementById("state").textContent === "live"
      say document.querySelectorAll(".bar").length + " " + document.querySelectorAll("#failures details").length
      size 360 740
      wait document.querySelector("canvas").clientWidth < 360
      say document.documentElement.scrollWidth
      open http://127.0.0.1:$PORT/
      wait !document.getElementById("note").hidden
      say document.getElementById("state").textContent + ", " + document.getElementById("main").hidden
      open http://localhost:$PORT/#t=00000000000000000000000000000000
      wait !document.getElementById("note").hidden
      say sessionStorage.length
      open $URL
      wait document.getElementById("state").textContent === "live"
      tab 1
      say document.getElementById("state").textContent
      run kill -KILL $FAKE
      wait document.getElementById("state").textContent !== "live"
      say document.getElementById("state").textContent
      reload
      wait document.readyState === "complete" && document.querySelectorAll(".bar").length === 2
      say document.getElementById("state").textContent
      run kill -INT $TOP
      wait document.getElementById("state").textContent.startsWith("mantichora top has ended") || document.getElementById("state").textContent.startsWith("The script")
      wait fetch("/").then(() => false, () => true)
      say document.querySelectorAll(".bar").length
      problems
    ]])
    assert.same("", got.err:gsub("^mantichora top: the page of dir/train.lua %(PID %d+%) is there; Ctrl%-C ends it, "
      .. "and the script goes on\n$", ""))
    local said = lines_of(got.out)
    local expected = {
      [["http://127.0.0.1:PORT/ "]],
      [["train.lua <b>--big</b>"]],
      [["99 % train.lua · mantichora"]],
      [["done1'234'553, failed3, running2, queued12"]],
      '"' .. evil .. [[: 25.0 %, 25 / 100, 13/s; copy: 0.3 %, 3.00M / 1.00G, cancelled"]],
      [["1 101 ]] .. evil .. [[ 97 % 30.0 MiB 7; 2 102 idle 1 % 20.0 MiB 3"]],
      [["error ]] .. evil .. [[: no such file; timeout early: ran longer than 2 s"]],
      [["WARNING:net:]] .. evil .. [[; epoch 1"]],
      [["0 0"]],
      [["100 MiB, of it the script 50.0 MiB (most together 100 MiB)"]],
      [["To the taskssolid"]],
      [[""]],
      [["early: timeout, 2.00 s"]],
      [["900 tasks, 2.25 s of work"]],
      '"' .. evil .. [[: error, 500 ms"]],
      [["chosen: ]] .. evil .. '"',
      [["the whole\nreport of ]] .. evil .. '"',
      [["run ID4, error, took500 ms"]],
      [["timeline-view true"]],
      [["the whole\nreport of ]] .. evil .. '"',
      '"' .. evil .. [[ error 2 500 ms; third ok 1 3.00 s; early timeout 2 2.00 s"]],
      [["chosen: ]] .. evil .. '"',
      [["2 2"]],
      [[360]],
      [["no token, true"]],
      [[0]],
      [["live"]],
      [[""]],
      [["The script has gone without a word; this is its last picture"]],
      [["The script has gone without a word; this is its last picture"]],
      [[""]],
      [[2]],
    }
    for i, text in ipairs(expected) do assert.same(text, said[i]) end
    -- The wrong token; and the server that has gone, for which the test itself asked.
    assert.matches("^%[.*403.*%]$", said[#expected + 1])
    assert.same("0\n", got.status)
    assert.same("", got["fake.err"])
  end)

  it("holds a million tasks and 300 bars, and answers at once", function()
    if not with_browser() then return end
    local bar = '{"event":"bar","clock":8001.0,"bar":%d,"name":"bar %d","done":%d,"total":300,"state":"running"}'
    local lines = hello:gsub("@every.*", "") .. "@repeat 300 " .. bar .. "\n"
      .. '@repeat 700 {"event":"line","clock":8001.0,"stream":"stdout","text":"line %d"}\n'
    for turn = 0, 99 do
      lines = lines
        .. ('@repeat 100 {"event":"ended","clock":%d.5,"pool":1,"runid":%d%%d,"name":"task %%d","kind":"ok","slot":1,'
          .. '"pid":101,"began":%d.%%d,"elapsed":0.005}\n'):format(8001 + turn, turn + 10, 8001 + turn)
        .. ('@repeat 100 {"event":"many","clock":%d.9,"pool":1,"slot":2,"from":%d.%%d,"to":%d.9,"ok":9899,"error":1,'
          .. '"worked":0.9}\n'):format(8001 + turn, 8001 + turn, 8001 + turn)
        .. ('{"event":"tick","clock":%d.9,"pool":1,"queued":5,"running":2,"ok":%d}\n'):format(8001 + turn, 10000 * (turn + 1))
    end
    lines = lines .. '@every 0.5 {"event":"paused","clock":8101.0,"paused":true}\n'
    local got = serve(lines, browse [[
      open $URL
      size 1280 900
      wait document.getElementById("state").textContent === "paused: no task starts"
      wait document.querySelectorAll(".bar").length === 300
      say document.querySelector("#figures dd").textContent.replace(/\u202f/g, "")
      say performance.memory.usedJSHeapSize < 50e6
      wait (function () { document.querySelector(".timeline-view").focus(); return true; })()
      key Enter
      key End
      say document.querySelector(".timeline-said").textContent.replace(/[0-9]+/g, "N")
      say document.getElementsByTagName("*").length < 6000
      say (log => Math.abs(log.scrollTop + log.clientHeight - log.scrollHeight) < 3 && log.lastChild.textContent.replace(/^\S+/, ""))(document.getElementById("log"))
      problems
    ]] .. 'grep VmHWM /proc/$TOP/status\n')
    local said = lines_of(got.out)
    assert.same({ '"1000003"', "true", '"task N: ok, N.N ms"', "true", '" line 699"', "[]" },
      table.move(said, 1, 6, 1, {}))
    local kilobytes = tonumber(said[7]:match("VmHWM:%s*(%d+) kB"))
    assert.is_true(kilobytes < 150 * 1024, "the viewer has " .. kilobytes .. " kB")
    assert.same("0\n", got.status)
  end)
end)

-- What raw sockets get; the table of the server's answers is in spec/c/test_web.c as well.
describe("the server of the page", function()
  local ask = [[
    ask() { # REQUEST: the first line of the answer
      exec 3<>/dev/tcp/127.0.0.1/$PORT
      printf "$1\r\nConnection: close\r\n\r\n" >&3
      head -n 1 <&3 | tr -d '\r'
      exec 3>&-
    }
  ]]

  it("listens on the loopback interface only", function()
    local got = serve(hello, "ss -ltnp | grep pid=$TOP, | sed 's/ \\+/ /g' | cut -d ' ' -f 4 | sed s/:$PORT/:PORT/")
    assert.same("127.0.0.1:PORT\n", got.out)
    assert.same("0\n", got.status)
  end)

  it("says what it says to whom it says it", function()
    local got = serve(hello, ask .. [[
      ask "GET / HTTP/1.1\r\nHost: 127.0.0.1:$PORT"
      ask "GET /page.js HTTP/1.1\r\nHost: localhost:8080"
      ask "HEAD / HTTP/1.1\r\nHost: [::1]:1"
      ask "GET / HTTP/1.1\r\nHost: evil.example"
      ask "GET /stream HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer $TOKEN"
      ask "GET / HTTP/1.0"
      ask "POST / HTTP/1.1\r\nHost: localhost"
      ask "OPTIONS /stream HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example"
      ask "GET /stream HTTP/1.1\r\nHost: localhost"
      ask "GET /stream?t=$TOKEN HTTP/1.1\r\nHost: localhost\r\nCookie: t=$TOKEN"
      ask "GET /stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer 0$TOKEN"
      ask "GET /anything HTTP/1.1\r\nHost: localhost"
      ask "GET /stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer $TOKEN"
    ]])
    assert.same({
      "HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 421 Misdirected Request",
      "HTTP/1.1 421 Misdirected Request", "HTTP/1.1 421 Misdirected Request", "HTTP/1.1 405 Method Not Allowed",
      "HTTP/1.1 405 Method Not Allowed", "HTTP/1.1 403 Forbidden", "HTTP/1.1 403 Forbidden", "HTTP/1.1 403 Forbidden",
      "HTTP/1.1 403 Forbidden", "HTTP/1.1 200 OK",
    }, lines_of(got.out))
  end)

  it("tells of silence, and of an end with and without a word", function()
    local stream = [[
      hear() { # PATTERN: until it comes
        exec 3<>/dev/tcp/127.0.0.1/$PORT
        printf "GET /stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer $TOKEN\r\n\r\n" >&3
        timeout 20 grep -a -o -m 1 "$1" <&3
        exec 3>&-
      }
    ]]
    local silent = hello:gsub("@every.*", "")
    assert.same('"silent":3\n', serve(silent, stream .. "hear '\"silent\":[0-9]'").out)
    assert.same('"gone":"lost"\n', serve(silent .. "@close\n", stream .. "hear '\"gone\":\"[a-z]*\"'").out)
    local ended = silent .. '{"event":"end","clock":8001.0}\n@close\n'
    assert.same('"gone":"ended"\n', serve(ended, stream .. "hear '\"gone\":\"[a-z]*\"'").out)
  end)

  it("is not there where it cannot be, and says why", function()
    local got = serve(hello:gsub('"mantichora":1', '"mantichora":2'), "true")
    assert.matches("the script speaks protocol 2, and this mantichora 1", got.err, 1, true)
    assert.same("", got.url)
    got = serve(hello, [[
      : >$FOLDER/libmicrohttpd.so.12
      LD_LIBRARY_PATH=$FOLDER ]] .. shell.host .. [[ top --web $FAKE 2>&1
      echo $?
    ]])
    assert.matches("the package libmicrohttpd12 of Debian has it\n1\n$", got.out)
  end)
end)
