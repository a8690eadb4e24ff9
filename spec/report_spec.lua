-- `mantichora --report FILE` and MANTICHORA_REPORT: one page that tells what the run was, looked at in a browser.

local cjson = require "cjson"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

describe("A report", function()
  local folder, path

  before_each(function()
    folder = shell.folder()
    path = folder .. "/report.html"
  end)
  after_each(function() shell.remove(folder) end)

  local function script(text)
    shell.write(folder .. "/script.lua", 'local mantichora = require "mantichora"\n' .. text)
    return folder .. "/script.lua"
  end

  local function run(text, interpreter)
    return shell.run(("env MANTICHORA_REPORT=%s %s %s"):format(path, interpreter or shell.interpreter, script(text)))
  end

  local function read(name)
    local file <close> = io.open(name or path, "rb")
    return file and file:read("a")
  end

  -- What the page has, which must be whole.
  local function data(of)
    local text = assert(read(of), "no file")
    assert.are.equal("</html>\n", text:sub(-8))
    return cjson.decode((assert(text:match('<script type="application/json" id="data">(.-)</script>'))))
  end

  -- Open the page and do these steps (spec/support/browser.py): what they said. The page must have no problem.
  local function browse(steps)
    local lines = { "open file://" .. path, "wait document.documentElement.dataset.drawn == 'yes'" }
    table.move(steps, 1, #steps, 3, lines)
    lines[#lines + 1] = "problems"
    local result = shell.run("python3 spec/support/browser.py " .. folder .. "/browser", {
      stdin = table.concat(lines, "\n") .. "\n", timeout = 100,
    })
    assert.are.equal(0, result.status, result.out .. result.err)
    local said = {}
    for line in result.out:gmatch("[^\n]+") do said[#said + 1] = cjson.decode('[' .. line .. ']')[1] end
    assert.are.same({}, table.remove(said))
    return said
  end

  local hostile = "</script><img src=x onerror=alert(1)>"
  local mixed = ([[
    local pool = mantichora{ nworkers = 3, on_error = "return" }
    for i = 1, 40 do
      pool:run_with({ name = i == 7 and %q or "task " .. i, retries = 1, retry_on = { "error" } }, function()
        mantichora.sleep(i == 3 and 0.3 or 0.003)
        if i == 7 then error("seven <b>") end
        if i == 9 then os.exit(3) end
      end)
    end
    pool:returns()
    pool:map(function(x) return x end, { 1, 2, 3 })
    local s = pool:stats()
    print(s.ok, s.error, s.exited, s.retried, s.working.sum)
    pool:close()
  ]]):format(hostile)

  it("shows the tasks, slowest first, the failures with their reports, and the sums of stats", function()
    local result = run(mixed)
    assert.are.equal(0, result.status, result.err)
    local ok, failed, exited, retried, sum = result.out:match("(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%S+)")
    local now = data()
    assert.are.same({ tonumber(ok), tonumber(failed), tonumber(exited), tonumber(retried), 43, true },
      { now.counts.ok, now.counts.error, now.counts.exited, now.retried, now.accepted, now.over })
    assert.is_true(math.abs(now.worked - sum) < 1e-6)
    assert.is_nil(read():find(hostile, 1, true))
    local said = browse {
      "say document.title",
      "say document.getElementById('figures').innerText.replace(/\\s+/g, ' ')",
      "say [...document.querySelectorAll('#tasks tbody tr')].length",
      "say document.querySelector('#tasks tbody tr').innerText.replace(/\\s+/g, ' ')",
      "say [...document.querySelectorAll('#failures summary')].map(e => e.textContent)",
      "say [...document.querySelectorAll('#failures pre')].map(e => e.textContent)",
      "say document.querySelectorAll('img').length",
      "say document.querySelectorAll('.slot').length",
      "say document.querySelector('#groups tbody tr').innerText.replace(/\\s+/g, ' ')",
      "say document.getElementById('state').hidden",
    }
    assert.are.equal(folder .. "/script.lua – report", said[1])
    assert.is_truthy(said[2]:find("tasks 43 ok " .. ok .. " error 1 exited 1 retried 1 time", 1, true), said[2])
    assert.are.equal(43, said[3])
    assert.is_truthy(said[4]:find("^2 task 3 ok %d"), said[4])
    assert.are.equal(2, #said[5])
    assert.is_truthy(table.concat(said[5], "\n"):find("error " .. hostile .. " (task 6", 1, true), said[5][1])
    assert.is_truthy(table.concat(said[6], "\n"):find(("task 6 (%q, function <%s/script.lua:4>): error: "):format(
      hostile, folder), 1, true), said[6][1])
    assert.is_truthy(table.concat(said[6], "\n"):find("seven <b>", 1, true), said[6][1])
    assert.is_truthy(table.concat(said[6], "\n"):find("exited: its worker exited with status 3", 1, true), said[6][2])
    assert.are.equal(0, said[7])
    assert.are.equal(3, said[8])
    assert.is_truthy(said[9]:find("<" .. folder .. "/script.lua:4> 40 2 ", 1, true), said[9])
    assert.is_true(said[10])
  end)

  it("has what pools inside of tasks did, in rows of their own, and in no sum of the others", function()
    for _, engine in ipairs { "fork", "snapshot" } do
      local result = run(([[
        local pool <close> = mantichora{ nworkers = 2, engine = %q, name = "outer" }
        for i = 1, 6 do
          pool:run(function()
            for _ = 1, 2 do
              local inner <close> = mantichora{ nworkers = 1, on_error = "return" }
              inner:run_with({ name = "inner", retries = 1, retry_on = { "error" } }, function()
                mantichora.sleep(0.01)
                error("deep <b>")
              end)
              inner:run_with({ name = "inner fine" }, mantichora.sleep, 0.01)
              inner:returns()
            end
          end)
        end
        pool:returns()
      ]]):format(engine))
      assert.are.equal(0, result.status, result.err)
      local now, counts = data(), {}
      assert.are.same({ 6, 0, 24 }, { now.counts.ok, now.counts.error, now.nested })
      for _, row in ipairs(now.rows) do
        local name, slot = row[2], now.lanes[row[4] + 1]
        local is_inner = name:find "inner" ~= nil
        assert.are.equal(is_inner and 1 or 0, slot[4])
        assert.is_truthy(slot[1]:find(is_inner and "^outer slot [12], inside slot 1$" or "^outer slot [12]$"), slot[1])
        name = is_inner and name or "outer"
        counts[name] = (counts[name] or 0) + 1
      end
      assert.are.same({ outer = 6, inner = 12, ["inner fine"] = 12 }, counts)
      assert.are.equal(12, now.failed)
      assert.is_truthy(now.failures[1][6]:find "^task 0 %(\"inner\".*error: .*deep <b>")
      local boxes, ends = {}, {}
      for _, box in ipairs(now.boxes) do
        boxes[#boxes + 1] = box
        assert.is_true(box[2] >= (ends[box[1]] or 0) - 1e-9)
        ends[box[1]] = box[2] + box[3]
      end
      assert.are.equal(6 + 12 * 3, #boxes)
      assert.are.equal("report.html\nscript.lua\n", shell.run("ls " .. folder).out)
    end
  end)

  it("is used by the keyboard, sorted and searched, at 360 pixels, in dark and light", function()
    assert.are.equal(0, run(mixed).status)
    local pictures = os.getenv("MANTICHORA_PICTURES") or folder
    local said = browse {
      "size 1200 900", "colours light", "whole " .. pictures .. "/report-light.png",
      "say getComputedStyle(document.documentElement).backgroundColor",
      "colours dark", "whole " .. pictures .. "/report-dark.png",
      "say getComputedStyle(document.documentElement).backgroundColor",
      -- the timeline: the first box, the next one, and its facts
      "say document.querySelector('.timeline-view').focus()",
      "key Enter", "key ArrowRight", "key Enter",
      "wait !document.getElementById('chosen').hidden",
      "say document.querySelector('#chosen dl').innerText.replace(/\\s+/g, ' ')",
      "say document.querySelector('.timeline-said').textContent",
      -- a column's button
      "say [...document.querySelectorAll('#tasks th button')][0].focus()",
      "key Enter",
      "say [...document.querySelectorAll('#tasks th[aria-sort]')].map(e => e.textContent + e.ariaSort).join()",
      "say document.querySelector('#tasks tbody td').textContent",
      "key Enter",
      "say document.querySelector('#tasks tbody td').textContent",
      -- a search, and the row's own button
      "say document.getElementById('filter').focus()", "type onerror",
      "wait document.querySelectorAll('#tasks tbody tr').length == 1",
      "say document.querySelector('#tasks tbody .link').focus()", "key Enter",
      "say document.querySelector('#chosen h3').textContent",
      "say document.querySelector('#chosen pre').textContent.includes('seven <b>')",
      -- a failure opens
      "say document.querySelector('#failures summary').focus()", "key Enter",
      "say document.querySelector('#failures details').open",
      "size 360 740", "whole " .. pictures .. "/report-narrow.png",
      "say document.documentElement.scrollWidth",
    }
    local answers = {}
    for _, answer in ipairs(said) do
      if answer ~= cjson.null then answers[#answers + 1] = answer end
    end
    assert.are.equal("rgb(255, 255, 255)", answers[1])
    assert.are_not.equal("rgb(255, 255, 255)", answers[2])
    assert.is_truthy(answers[3]:find("^slot slot 1 began at .* run ID %d+ kind %a+ ran %d"), answers[3])
    assert.is_truthy(answers[4]:find("^task %d+: %a+, %d"), answers[4])
    assert.are.equal("taskdescending", answers[5])
    assert.are.equal("42", answers[6])
    assert.are.equal("0", answers[7])
    assert.are.equal(hostile, answers[8])
    assert.is_true(answers[9])
    assert.is_true(answers[10])
    assert.are.equal(360, answers[11])
  end)

  it("needs no network", function()
    assert.are.equal(0, run(mixed).status)
    for _, of in ipairs {
      " src=\"", "<img", "href=\"http", "url(http", "@import", "fetch(", "XMLHttpRequest", "import(",
    } do
      local at = read():find(of, 1, true)
      assert.is_nil(at, of)
    end
    assert.is_truthy(read():find("default-src 'none'", 1, true))
  end)

  it("keeps the slowest of many tasks, says so, and stays small", function()
    local result = run [[
      local pool <close> = mantichora{ nworkers = 2, on_error = "return" }
      for i = 1, 400 do pool:run(function() error("no " .. i) end) end
      local list = {}
      for i = 1, 30000 do list[i] = i end
      pool:map(function(x) if x == 12345 then mantichora.sleep(0.3) end end, list)
      pool:returns()
    ]]
    assert.are.equal(0, result.status, result.err)
    local now = data()
    assert.are.same({ 30000, 400, 400, 300, 3000, 30400 },
      { now.counts.ok, now.counts.error, now.failed, #now.failures, #now.rows, now.timed })
    assert.is_true(#now.boxes <= 20000 and #now.boxes > 1000 and now.grain > 0 and now.grain < 1)
    local tasks = 0
    for _, box in ipairs(now.boxes) do tasks = tasks + (box[7] or 1) end
    assert.are.equal(30400, tasks)
    assert.is_true(#read() < 4e6)
    local said = browse {
      "say document.getElementById('tasks-note').textContent",
      "say document.querySelector('#tasks tbody tr').innerText.replace(/\\s+/g, ' ')",
      "say document.getElementById('failures-note').textContent",
      "say document.getElementById('grain').hidden",
      "say document.querySelectorAll('#tasks tbody tr').length",
      "say document.getElementById('more').click()",
      "say document.querySelectorAll('#tasks tbody tr').length",
      "say document.querySelector('#tasks th button').click()",
    }
    assert.is_truthy(said[1]:find("^The slowest 3\u{202F}000 of 30\u{202F}400 tasks that ran are kept here"), said[1])
    assert.is_truthy(said[2]:find("%[12345%] ok %d"), said[2])
    assert.are.equal("400 tasks failed. Shown are the first and the last ones, 300 together.", said[3])
    assert.is_false(said[4])
    assert.are.equal(200, said[5])
    assert.are.equal(1200, said[7])
  end)

  it("is whole after whatever ends the script", function()
    for _, ending in ipairs {
      "os.exit(0)", "os.exit(0, true)", "error('the end')", "os.execute('kill -INT $PPID') mantichora.sleep(5)",
    } do
      run([[
        local pool = mantichora{ nworkers = 2 }
        for i = 1, 20 do pool:run(function() end) end
        pool:returns()
      ]] .. ending)
      local now = data()
      assert.are.same({ 20, true }, { now.counts.ok, now.over }, ending)
    end
  end)

  -- Start it in the background; its number.
  local function start(text, command)
    os.execute(("%s %s >%s/out 2>&1 & echo $! >%s/pid"):format(command, script(text), folder, folder))
    return tonumber((read(folder .. "/pid")))
  end

  it("has all until SIGTERM or SIGHUP ended our program", function()
    for _, signal in ipairs { "TERM", "HUP" } do
      local pid = start(([[
        local pool = mantichora{ nworkers = 1 }
        for i = 1, 7 do pool:run(function() end) end
        pool:returns()
        pool:run_with({ name = "runs on" }, mantichora.sleep, 60)
        pool:poll(0.1)
        io.open(%q, "w"):close()
        while true do pool:poll(1) end
      ]]):format(folder .. "/ready"), ("%s --report %s --trace %s.json"):format(shell.host, path, path))
      process.wait(function() return read(folder .. "/ready") end)
      os.execute(("kill -%s %d"):format(signal, pid))
      process.wait(function() return not process.runs(pid) end)
      local now = data()
      assert.are.same({ 7, 1, false }, { now.counts.ok, now.running, now.over })
      assert.are.equal(cjson.null, now.boxes[#now.boxes][3])
      local events, boxes = require("spec.support.trace").read(path .. ".json"), 0
      for _, event in ipairs(events) do boxes = boxes + (event.ph == "X" and 1 or 0) end
      assert.are.equal(7, boxes)
      local said = browse {
        "say document.getElementById('state').textContent", "say document.getElementById('figures').innerText",
      }
      assert.is_truthy(said[1]:find("written while the script ran", 1, true))
      assert.is_truthy(said[2]:find("running\n+1\n"))
      os.remove(folder .. "/ready")
    end
  end)

  it("is written anew while the script runs, by rename, and survives kill -9", function()
    local pid = start([[
      local pool = mantichora{ nworkers = 2 }
      for i = 1, 10 do pool:run(function() end) end
      pool:returns()
      while true do end
    ]], ("env MANTICHORA_REPORT=%s %s"):format(path, shell.interpreter))
    local looks = 0
    process.wait(function()
      if not read() then return false end
      looks = looks + 1
      return data().counts.ok == 10
    end, 12)
    os.execute("kill -9 " .. pid)
    process.wait(function() return not process.runs(pid) end)
    assert.is_true(looks > 0)
    assert.are.equal(10, data().counts.ok)
  end)

  it("is where it was begun, wherever the script goes", function()
    local _, depth = os.getenv("PWD"):gsub("/[^/]+", "")
    local deep = folder .. ("/a"):rep(depth)
    os.execute("mkdir -p " .. deep)
    path = ("../"):rep(depth) .. folder:sub(2) .. "/here.html" -- a relative name
    local result = run(([[
      require("luv").chdir(%q)
      local pool <close> = mantichora()
      pool:run(function() end)
    ]]):format(deep))
    assert.are.same({ out = "", err = "", status = 0 }, result)
    assert.are.equal(1, data(folder .. "/here.html").counts.ok)
  end)

  it("is refused where it cannot be, with one error, and the script runs on", function()
    local found = {}
    for _, name in ipairs { "/nowhere/at/all", "/dev/null", folder } do
      path = name
      local result = run [[
        local pool <close> = mantichora()
        pool:run(print, 42)
        pool:returns()
      ]]
      assert.are.equal("42\n", result.out)
      local why = result.err:match("^ERROR:mantichora:there is no report of this run: ([^\n]*)\n$")
      found[#found + 1] = why or result.err
    end
    assert.are.same({
      "/nowhere/at/all: No such file or directory",
      "/dev/null is no ordinary file, which a report needs",
      folder .. " is no ordinary file, which a report needs",
    }, found)
  end)

  it("has the process's number in its name, keeps the mode of a file that was there, leaves no other", function()
    path = folder .. "/%p.html"
    local result = run [[io.write(io.open("/proc/self/stat"):read("n"), "")]]
    path = ("%s/%d.html"):format(folder, result.out)
    assert.are.equal(0, data().accepted)
    os.execute("chmod 600 " .. path)
    local saved = path
    assert.are.equal(0, run("mantichora():close()").status)
    assert.are.equal("600\n", shell.run("stat -c %a " .. saved).out)
    assert.are.equal(("%s\nscript.lua\n"):format(saved:match("[^/]*$")), shell.run("ls " .. folder).out)
    local said = browse { "say document.getElementById('failures').textContent" }
    assert.are.equal("No task failed.", said[1])
  end)
end)
