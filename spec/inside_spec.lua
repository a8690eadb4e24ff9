-- Inside other programs: real hosts of Lua 5.4, with handlers, threads and children of their own.

local hosts = require "spec.support.hosts"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

-- What every host is asked to run. It reports by lines `name: value` in a file, since a host may keep
-- stdout for itself. (It travels as text: the specs check it from outside.)
local tasks = [==[
local folder = ...
local report <close> = assert(io.open(folder .. "/report", "a"))
report:setvbuf("line")
local function say(name, ...) report:write(name, ": ", table.concat({ ... }, " "), "\n") end

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
local logging = require "mantichora.logging"

local function masks(path)
  local found = {}
  for line in io.lines(path) do
    local name, value = line:match("^(Sig%a+):%s+(%x+)")
    if name then found[name] = tonumber(value, 16) end
  end
  return found
end

do
  local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
  for i = 1, 6 do
    mcore:run(function(n)
      io.write("printed by task ", n, "\n") -- some hosts have a `print` of their own
      io.stderr:write("complaint of task ", n, "\n")
      for _ in atpbar(3, "bar " .. n) do end
      return n * n
    end, i)
  end
  say("results", table.concat(mcore:returns(), " "))

  mcore:run(function() error "on purpose" end)
  mcore:run(function() os.exit(3) end)
  mcore:run(function() return coroutine.create(print) end)
  for _, failure in ipairs(mcore:returns()) do say("failure", failure.kind, failure.exitcode or "") end

  -- What a worker does with signals: its masks, beside those of this process.
  mcore:run(masks, "/proc/self/status")
  local worker, host = mcore:returns()[1], masks("/proc/self/status")
  say("blocked", worker.SigBlk)
  local ours = (1 << 31) - 1 -- those above belong to the C library, which takes them when a thread is made
  say("ignored", worker.SigIgn & ours == host.SigIgn & ours & ~(1 << 16) and "like the host's" or worker.SigIgn)
  local caught = 0
  for number = 1, 31 do -- some above belong to the C library
    if worker.SigCgt & 1 << number - 1 ~= 0 then caught = caught + 1 end
  end
  say("caught", caught)

  -- A worker that is killed, by a signal that no host can hold off.
  local victim, pid = mcore:run(function() while true do end end)
  while not pid do
    mcore:poll(0.01)
    for _, one in ipairs(mcore:workers()) do
      if one.runid == victim then pid = one.pid end
    end
  end
  mcore:run(function(number) os.execute("kill -9 " .. number) end, pid)
  for runid, value in mcore:as_completed() do
    if runid == victim then say("victim", value.kind) end
  end

  -- One that is too slow, one that is cancelled, and a result from a coroutine.
  mcore:run_with({ timeout = 0.05 }, function() while true do end end)
  say("slow", mcore:returns()[1].kind)
  local runid = mcore:run(function() mantichora.sleep(60) end)
  while mcore:cancel(runid) do mcore:poll(0.01) end
  say("cancelled", select(2, mcore:receive_one()).kind)
  coroutine.wrap(function()
    mcore:run(function() return "from a coroutine" end)
    say("coroutine", (mcore:returns()[1]))
  end)()

  local records = {}
  logging.basic_config { level = "INFO", stream = function(line) records[#records + 1] = line end }
  mcore:run(function() logging.info("a record") end)
  mcore:returns()
  say("records", table.concat(records, ","))

  -- A pool in a task, and one that forks for each task.
  mcore:run(function()
    local inner <close> = mantichora { nworkers = 1 }
    inner:run(function() return "inner" end)
    return inner:returns()[1]
  end)
  say("nested", (mcore:returns()[1]))
  local snapshot <close> = mantichora { nworkers = 2, engine = "snapshot" }
  local thread = coroutine.wrap(function() coroutine.yield("inherited") end)
  snapshot:run(function() return thread() end)
  say("snapshot", (snapshot:returns()[1]))
  for _, one in ipairs(mcore:workers()) do say("worker", one.pid) end
end
say("closed")
]==]

-- A pool that the script leaves open, with a task that does not end by itself.
local abandoned = [==[
local folder = ...
local mantichora = require "mantichora"
open_pool = mantichora { nworkers = 2 }
open_pool:run(function() while true do end end)
open_pool:run(function() os.execute("sleep 60") end)
while #open_pool:workers() < 2 or not (open_pool:workers()[1].runid and open_pool:workers()[2].runid) do
  open_pool:poll(0.01)
end
local report <close> = assert(io.open(folder .. "/report", "a"))
for _, one in ipairs(open_pool:workers()) do report:write("worker: ", one.pid, "\n") end
]==]

local count = 0

-- Run a body in a host: what it said, the lines of its report by name, and the mark of its processes.
local function inside(host, body)
  count = count + 1
  local mark = ("%d-%d"):format(process.pid(), count)
  local folder = shell.folder()
  shell.write(folder .. "/body.lua", body)
  local got = host.run(folder, mark)
  local report = {}
  local file <close> = io.open(folder .. "/report")
  for line in (file and file:read("a") or ""):gmatch("[^\n]+") do
    local name, value = line:match("^(%w+): (.*)$")
    report[name] = report[name] and report[name] .. ", " .. value or value
  end
  local ok <close> = io.open(folder .. "/ok")
  got.well = ok ~= nil
  shell.remove(folder)
  return got, report, mark
end

local function assert_nothing_left(mark, report)
  assert.are.same({}, process.outlive("MANTICHORA_INSIDE=" .. mark, 1.5))
  assert.truthy(report.worker)
  for pid in report.worker:gmatch("%d+") do -- one that is ending has no environment any more
    process.wait(function() return not process.runs(pid) end, 1.5)
  end
end

for _, host in ipairs(hosts) do
  local missing = hosts.missing(host)

  describe("inside " .. host.name, function()
    it("tasks run, fail, speak and end as anywhere", function()
      if missing then return pending(missing) end
      local got, report, mark = inside(host, tasks)
      local said = got.out .. got.err
      assert.are.equal("1 4 9 16 25 36", report.results, said)
      assert.are.equal("error , exited 3, unsendable ", report.failure)
      assert.are.equal("killed", report.victim)
      assert.are.equal("timeout", report.slow)
      assert.are.equal("cancelled", report.cancelled)
      assert.are.equal("from a coroutine", report.coroutine)
      assert.are.equal("INFO:root:a record", report.records)
      assert.are.equal("inner", report.nested)
      assert.are.equal("inherited", report.snapshot)
      assert.is_string(report.closed, said)
      for i = 1, 6 do
        local _, out = got.out:gsub("printed by task " .. i .. "\n", "")
        local _, err = got.err:gsub("complaint of task " .. i .. "\n", "")
        assert.are.equal(host.no_stdout and 0 or 1, out, said)
        assert.are.equal(host.no_stderr and 0 or 1, err, said)
      end
      -- The host was well afterwards and did its own work to its end.
      assert.is_true(got.well, said)
      assert.is_true(got.answered, said)
      assert_nothing_left(mark, report)
    end)

    it("workers have no handler of the host", function()
      if missing then return pending(missing) end
      local _, report = inside(host, tasks)
      assert.are.equal("0", report.blocked)
      assert.are.equal("like the host's", report.ignored)
      assert.are.equal("2", report.caught) -- ours: stop the task, look whether the owner lives
    end)

    it("nothing is left when it ends with an open pool", function()
      if missing then return pending(missing) end
      local got, report, mark = inside(host, abandoned)
      assert.is_true(got.well and got.answered, got.out .. got.err)
      assert_nothing_left(mark, report)
    end)
  end)
end

describe("a signal that clingo handles", function()
  it("is handled in clingo's way and by clingo alone", function()
    local host = hosts[1]
    local missing = hosts.missing(host)
    if missing then return pending(missing) end
    for _, signal in ipairs { "INT", "TERM" } do
      local got, report, mark = inside(host, ([==[
        local folder = ...
        local mantichora = require "mantichora"
        local pool <close> = mantichora { nworkers = 3 }
        local pid = io.open("/proc/self/stat"):read("n")
        pool:start()
        local report <close> = assert(io.open(folder .. "/report", "a"))
        for _, one in ipairs(pool:workers()) do report:write("worker: ", one.pid, "\n") end
        report:close()
        pool:run(function() mantichora.sleep(60) end)
        pool:run(function() os.execute("kill -%s " .. pid) end)
        pool:returns()
      ]==]):format(signal))
      local _, times = (got.out .. got.err):gsub("INTERRUPTED by signal!", "")
      assert.are.equal(1, times, got.out .. got.err)
      assert.is_false(got.well) -- it did not come so far
      assert_nothing_left(mark, report)
    end
  end)
end)
