-- No memory, no descriptors, no processes, no threads: each call that can fail fails once, and then
-- for ever. The program ends in time, each accepted task in one way, and nothing is left behind.

local process = require "spec.support.process"
local shell = require "spec.support.shell"

local script = [[
local m = require "mantichora"
local logging = require "mantichora.logging"
logging.basic_config { level = "INFO", stream = function() end }
local accepted, ended = 0, 0
local fine, message = pcall(function()
  local p <close> = m { nworkers = 2, on_error = "return", name = "scarce", background = arg[1] ~= "alone" }
  for i = 1, 12 do
    local large = ("x"):rep(i == 6 and 3000000 or 10)
    if pcall(p.run_with, p, { name = "task", retries = i % 2, priority = i % 3 }, function()
      print("line " .. i)
      logging.info("record " .. i)
      for _ in require "mantichora.atpbar"(3, "bar") do end
      if i == 9 then error("no") end
      return large, i
    end) then accepted = accepted + 1 end
  end
  for _, value in p:as_completed() do
    ended = ended + 1
    if type(value) == "string" then assert(#value == 10 or #value == 3000000)
    else assert(value.kind == "error" or value.kind == "killed" or value.kind == "exited", value.kind) end
  end
  assert(ended == accepted, ended .. " of " .. accepted)
end)
io.stderr:write(fine and "done" or "raised: " .. tostring(message), "\n")
os.exit(fine and 0 or 1, true)
]]

local map_script = [[
local m = require "mantichora"
local fine, message = pcall(function()
  local p <close> = m { nworkers = 2, on_error = "return" }
  local list = {}
  for i = 1, 300 do list[i] = i end
  local values = p:map(load "local i = ... if i == 40 then error('no') end return i % 7 == 0 and { i } or i", list)
  for i, value in ipairs(values) do
    if value ~= i and not (i % 7 == 0 and value[1] == i) then
      assert(value.kind == "error" or value.kind == "killed" or value.kind == "exited", tostring(value))
    end
  end
  assert(values.n == 300)
end)
io.stderr:write(fine and "done" or "raised: " .. tostring(message), "\n")
os.exit(fine and 0 or 1, true)
]]

local folder, library, path, map_path, touch
local marks = 0

-- Processes that a run left, some time after its end.
local function left_behind(mark)
  local deadline = process.clock() + 1.5
  local left
  repeat
    left = {}
    local pipe <close> = assert(io.popen(("grep -alsF 'MANTICHORA_SCARCE=%s' /proc/[0-9]*/environ"):format(mark)))
    for found in pipe:lines() do
      local pid = tonumber(found:match("%d+"))
      if process.runs(pid) then left[#left + 1] = pid end
    end
  until #left == 0 or process.clock() > deadline
  for _, pid in ipairs(left) do os.execute("kill -9 " .. pid) end
  return #left
end

-- Run with the calls first..last failing; false when there were not so many.
local function run_with_failing(call, first, last, argument, script_path)
  marks = marks + 1
  local mark = ("%d-%d"):format(process.pid(), marks)
  os.remove(touch)
  local settings = ("MANTICHORA_SCARCE=%s FAIL_CALL=%s FAIL_FIRST=%d FAIL_LAST=%d FAIL_TOUCH=%s LD_PRELOAD=%s")
    :format(mark, call, first, last, touch, library)
  local got = shell.run(("%s %s %s %s"):format(settings, shell.interpreter, script_path or path, argument),
    { timeout = 20 })
  local said = ("%s %d..%d %s: status %d\n%s"):format(call, first, last, argument, got.status, got.err)
  assert.is_true(got.status == 0 or got.status == 1, said)
  local reason = got.err:match("raised: ([^\n]*)") or got.err
  assert.truthy(got.status == 0 or reason:find("not enough memory", 1, true) or reason:find("cannot", 1, true), said)
  assert.is_nil(got.err:find("[^\n\t -~]"), said)
  assert.are.equal(0, left_behind(mark), said)
  -- Lines come whole, and never twice (a task that died and was tried again aside).
  for line in got.out:gmatch("[^\n]*\n?") do
    assert.truthy(line == "" or line:match("^line %d+\n$"), said .. got.out)
  end
  return os.remove(touch) ~= nil
end

-- A sanitizer's own malloc has to come first.
local sanitized = shell.run("ldd $(command -v " .. shell.interpreter:match("%S+$") .. ")").out:find("san.so", 1, true)

describe("scarcity", function()
  if sanitized then
    pending("calls cannot be made to fail under a sanitizer")
    return
  end

  setup(function()
    folder = shell.folder()
    library, path, touch = folder .. "/failing.so", folder .. "/script.lua", folder .. "/touched"
    local got = shell.run("cc -O1 -shared -fPIC -o " .. library .. " spec/c/failing.c -ldl")
    assert(got.status == 0, got.err)
    map_path = folder .. "/map.lua"
    shell.write(path, script)
    shell.write(map_path, map_script)
  end)
  teardown(function() shell.remove(folder) end)

  local calls = {
    malloc = 70, calloc = 30, realloc = 40, fork = 6, pipe2 = 12, socketpair = 5, epoll_create1 = 3, epoll_ctl = 12,
    mmap = 8, pthread_create = 2, syscall = 4,
  }
  for call, most in pairs(calls) do
    it("of " .. call .. ", once", function()
      local reached = 0
      for at = 1, most do
        if run_with_failing(call, at, at, "") then reached = reached + 1 end
      end
      assert.is_true(reached > 0)
    end)

    it("of " .. call .. ", from some time on", function()
      for at = 1, most, most > 20 and 7 or 1 do
        if not run_with_failing(call, at, 1 << 30, at % 2 == 0 and "alone" or "") then break end
      end
    end)
  end

  for _, call in ipairs { "malloc", "calloc", "realloc" } do
    it("of " .. call .. ", once, in a map", function()
      local reached = 0
      for at = 1, 60, 2 do
        if run_with_failing(call, at, at, "", map_path) then reached = reached + 1 end
      end
      assert.is_true(reached > 0)
    end)
  end

  it("of processes, after the workers died, fails the tasks that wait with the reason", function()
    local deaths = folder .. "/deaths.lua"
    shell.write(deaths, [[
      local m = require "mantichora"
      local p <close> = m { nworkers = 2, on_error = "return" }
      local execute = os.execute
      for _ = 1, 2 do p:run(function() execute("kill -9 $PPID; sleep 1") end) end
      for _ = 1, 5 do p:run(function() end) end
      local results = p:returns()
      for i = 1, 2 do assert(results[i].kind == "killed", results[i].kind) end
      for i = 3, 7 do print(results[i] and results[i].kind, results[i] and results[i].message) end]])
    local got = shell.run(("FAIL_CALL=fork FAIL_FIRST=3 FAIL_LAST=1000000 LD_PRELOAD=%s %s %s"):format(library,
      shell.interpreter, deaths), { timeout = 20 })
    assert.are.equal(0, got.status, got.err)
    assert.are.equal(("error\tcannot start a worker: Resource temporarily unavailable\n"):rep(5), got.out)
  end)
end)
