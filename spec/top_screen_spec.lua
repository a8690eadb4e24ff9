-- mantichora top in a terminal: the picture, its keys, and the terminal afterwards.

local process = require "spec.support.process"
local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local host = shell.host:find("^/") and shell.host or io.popen("pwd"):read("l") .. "/" .. shell.host

-- Before each script: it waits for files of its folder.
local head = [[
local mantichora = require "mantichora"
local atpbar, logging = require "mantichora.atpbar", require "mantichora.logging"
local function is_there(name)
  local file = io.open(os.getenv "XDG_RUNTIME_DIR" .. "/" .. name)
  return file and file:close()
end
local function await(name) while not is_there(name) do mantichora.sleep(0.01) end end
]]

-- Most tests look at this one.
local busy = [[
  local pool <close> = mantichora { nworkers = 2, name = "fetch", on_error = "return" }
  pool:run_with({ name = "bad\27[31m" }, function() error("no luck") end)
  pool:returns()
  for i = 1, 2 do
    pool:run_with({ name = "page " .. i }, function()
      local bar <close> = atpbar.bar { name = "bar " .. i, total = 10 }
      bar:add(5)
      if i == 1 then print("a \27[2Jline") logging.warning("a record") end
      await "stop"
    end)
  end
  for i = 1, 3 do pool:run(function() await "stop" end) end
  pool:returns()
]]

-- Start a script, and `command` beside it on a terminal when it has a socket; $TOP is the command top.
local function start(code, columns, rows, command)
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", head .. code)
  local screen = terminal.start(([[
    export XDG_RUNTIME_DIR=%s TMPDIR=%s TOP="%s top"
    timeout 100 %s %s/script.lua </dev/null >/dev/null 2>&1 &
    echo $! >%s/script.pid
    until ls %s/mantichora/*.sock >/dev/null 2>&1; do sleep 0.02; done
    %s]]):format(folder, folder, host, host, folder, folder, folder, command or "$TOP"), columns, rows)
  local self = { screen = screen, folder = folder }
  function self.touch(name) shell.write(folder .. "/" .. name, "") end
  return setmetatable(self, { __close = function()
    self.touch "stop"
    screen:close()
    local file <close> = io.open(folder .. "/script.pid")
    local pid = file and file:read("n")
    if pid then
      os.execute(("kill %d 2>/dev/null"):format(pid))
      process.wait(function()
        local stat <close> = io.open(("/proc/%d/stat"):format(pid))
        return not stat or stat:read("a"):find("%) Z") -- whoever inherited it may take time to reap it
      end, 20)
    end
    shell.remove(folder)
  end })
end

local function find(lines, pattern)
  for i, line in ipairs(lines) do
    if line:find(pattern) then return i, line end
  end
  return nil
end

local function has(...)
  local patterns = { ... }
  return function(lines)
    for _, pattern in ipairs(patterns) do
      if not find(lines, pattern) then return false end
    end
    return lines
  end
end

describe("The picture of mantichora top", function()
  it("has workers, bars, counts, failures and the log, at any size, as text alone", function()
    for _, size in ipairs { { 80, 24 }, { 200, 50 }, { 40, 10 } } do
      local run <close> = start(busy, size[1], size[2])
      run.screen:wait(has("^script%.lua %(PID %d+%)", "^pool 1 \"fetch\": 2 workers, 2 runn",
        size[1] < 60 and "^ SLOT SECONDS" or "^ SLOT +PID"))
      assert.is_false((select(3, run.screen:cursor())))
      if size[1] > 40 then
        local lines = run.screen:wait(has("1 error", "^ +1 +%d+ +[%d.]+ +%d+%% +[%d.]+ MiB  task 1 page 1$",
          "task 2 page 2", "^  50%.00%% :::+ +| +5 / +10 |:  bar 1",
          "FAILURES %(1%)", "%d:%d%d  task 0 bad: error: .*no luck",
          " WARNING:root:a record$", " a %?%[2Jline$", "^arrows and Enter: report"))
        assert.is_falsy(find(lines, "\27"))
      end
      run.screen:resize(90, 20)
      run.screen:wait(function(now) return #now == 20 and find(now, "^arrows and Enter") == 20 end)
    end
  end)

  it("shows a report, pauses, cancels, and changes the number of workers", function()
    local run <close> = start(busy, 120, 30)
    local screen = run.screen
    screen:wait(has("task 2 page 2", "FAILURES"))
    screen:type("Enter")
    screen:wait(has("^choose a task or a failure"))
    screen:type("Up") -- the last that can be chosen
    screen:type("Enter")
    screen:wait(has("^task 0 %(\"bad", "worker's stack traceback:", "Enter or q: back"))
    screen:type("q")
    screen:wait(has("^pool 1"))
    screen:type("p")
    screen:wait(has("paused$"))
    screen:type("Up")
    screen:type("c")
    screen:wait(has("1 cancelled", "1 running, 3 queued"))
    screen:type("p")
    screen:wait(has("2 running, 2 queued"))
    screen:type("+")
    screen:wait(has("3 workers, 3 running, 1 queued", "^ +3 +%d+"))
    screen:type("-")
    screen:wait(has("2 workers"))
  end)

  it("has what matters in a narrow window, and breaks no character", function()
    local run <close> = start([[
      local pool <close> = mantichora { nworkers = 1, on_error = "return" }
      pool:run(function() error(("ä"):rep(59) .. ("漢"):rep(30)) end)
      pool:run_with({ name = "a page" }, function()
        local bar <close> = atpbar.bar { name = "a bar", total = 10 }
        bar:add(5)
        await "stop"
      end)
      for _ = 1, 12 do pool:run(function() end) end
      pool:returns()
    ]], 40, 16)
    local screen = run.screen
    local lines = screen:wait(has("^pool 1: 1 worker, 1 running, 12 queued,$", "^  0 ok, 1 error$",
      "^ SLOT SECONDS   CPU  TASK$", "^ +1 +[%d.]+ +%d+%%  task 1 a page$",
      "^  50%.00%% :::::      |:  a bar", "^Enter: report  p c"))
    assert.is_falsy(find(lines, "PID +SECONDS"))
    screen:type("Up")
    screen:type("Enter")
    lines = screen:wait(has("Enter or q: back"))
    local text = table.concat(lines):gsub("%s", "")
    assert.is_truthy(text:find(("ä"):rep(59) .. ("漢"):rep(30), 1, true), text)
    screen:type("q")
    screen:resize(70, 16)
    screen:wait(has("^ SLOT +PID +SECONDS", "^  50%.00%% :+ +| +5 / +10 |:  a bar"))
  end)

  it("stays when the script has gone, and says how", function()
    local run <close> = start(busy, 100, 24)
    run.screen:wait(has("FAILURES", "task 2 page 2"))
    run.touch "stop"
    local lines = run.screen:wait(has("the script has ended$"))
    assert.is_truthy(find(lines, "5 ok, 1 error"))
    assert.is_truthy(find(lines, "no luck"))
    run.screen:type("q")
    assert.are.equal(0, run.screen:finish())
    local killed <close> = start(busy, 100, 24)
    local lines_before = killed.screen:wait(has("task 2 page 2"))
    os.execute("kill -KILL " .. select(2, find(lines_before, "PID")):match("PID (%d+)"))
    killed.screen:wait(has("the script has gone: it was killed"))
  end)

  it("says for how long nothing was heard", function()
    local run <close> = start([[
      local pool <close> = mantichora { nworkers = 1, background = false }
      pool:run(function() end) pool:returns()
      await "go"
      repeat until is_there "stop"
    ]], 80, 24)
    run.screen:wait(has("1 ok"))
    run.touch "go"
    run.screen:wait(has("silent for [3-9] s$"))
    run.touch "stop"
    run.screen:wait(has("the script has ended$"))
  end)

  it("names a script that has said nothing yet by its number", function()
    local run <close> = start([[ mantichora.attach() repeat until is_there "stop" ]], 80, 24)
    run.screen:wait(has("^a script %(PID %d+%)"))
  end)

  it("leaves the terminal as it was, whatever ends it", function()
    local after = "; echo ended $?; stty -a | grep -o -e ' echo ' -e ' icanon ' | wc -w"
    for _, way in ipairs { "q", "C-c", "TERM", "HUP" } do
      local run <close> = start(busy, 80, 24, ("sh -c 'echo $$ >%s; exec $TOP'%s"):format("$TMPDIR/pid", after))
      run.screen:wait(has("task 2 page 2"))
      if way == "q" or way == "C-c" then
        run.screen:type(way)
      else
        os.execute(("kill -%s $(cat %s/pid)"):format(way, run.folder))
      end
      local lines = run.screen:wait(has("^ended %d+$", "^2$"))
      assert.is_falsy(find(lines, "SLOT"))
      assert.is_true((select(3, run.screen:cursor())))
    end
  end)

  it("stops by Ctrl-Z and goes on", function()
    local run <close> = start(busy, 80, 24, "PS1='> ' bash --norc --noprofile -i")
    run.screen:wait(has("^> *$"))
    run.screen:enter("$TOP")
    run.screen:wait(has("task 2 page 2"))
    run.screen:type("C-z")
    run.screen:wait(has("Stopped"))
    assert.is_true((select(3, run.screen:cursor())))
    run.screen:enter("fg")
    run.screen:wait(has("task 2 page 2", "^arrows"))
    run.screen:type("q")
    run.screen:wait(has("Stopped"))
  end)

  it("is printed once as plain lines", function()
    local run <close> = start(busy, 80, 24, "$TOP --once >$TMPDIR/once; echo status $?")
    run.screen:wait(has("^status 0$"))
    local file <close> = io.open(run.folder .. "/once")
    local text = file:read("a")
    assert.is_falsy(text:find("\27", 1, true))
    assert.is_truthy(text:find("\npool 1 \"fetch\": 2 workers, 2 running, 3 queued, 0 ok, 1 error\n", 1, true), text)
    assert.is_truthy(text:find("\n +2 +%d+ +[%d.]+ +%d+%% +[%d.]+ MiB  task 2 page 2\n"), text)
    assert.is_truthy(text:find("^script.lua %(PID %d+%) +%d%d:%d%d +CPU %d+%% %+ %d+%% +memory"), text)
  end)
end)

describe("mantichora top without a terminal", function()
  it("says what else there is", function()
    local run <close> = start(busy, 80, 24, "$TOP </dev/null; echo status $?")
    run.screen:wait(has("^mantichora top: this is no terminal: %-%-once prints one picture", "^status 1$"))
  end)
end)

describe("What mantichora top knows", function()
  it("has a worker as soon as it begins something, and until it goes", function()
    local model = dofile("scripts/commands/top_model.lua").new()
    local function workers()
      local list = {}
      for i, worker in ipairs(model:worker_list()) do list[i] = worker.pid .. ":" .. (worker.runid or "-") end
      return table.concat(list, " ")
    end
    for _, step in ipairs {
      { "event=pool,pool=1,nworkers=2", "" }, { "event=worker,pool=1,slot=1,pid=10,runid=0,tasks=0", "10:0" },
      { "event=started,pool=1,slot=2,pid=11,runid=1,clock=2", "10:0 11:1" },
      { "event=ended,pool=1,slot=1,pid=10,runid=0,kind=ok", "10:- 11:1" },
      { "event=worker,pool=1,slot=1,pid=10,gone=replaced", "11:1" },
      { "event=started,pool=1,slot=1,pid=12,runid=2,clock=3", "12:2 11:1" },
      { "event=started,pool=1,slot=2,pid=13,runid=3,clock=3", "12:2 13:3" },
      { "event=worker,pool=1,slot=2,pid=11,gone=replaced", "12:2 13:3" },
    } do
      local line = {}
      for name, value in step[1]:gmatch("(%a+)=(%w+)") do line[name] = tonumber(value) or value end
      model:take(line, 0)
      assert.are.equal(step[2], workers(), step[1])
    end
  end)
end)
