-- What a pool takes of the machine: how many workers (resize), their memory, the free memory; and what they do
-- at their end (fini).

local logging = require "mantichora.logging"
local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local folder
setup(function() folder = shell.folder() end)
teardown(function() shell.remove(folder) end)

local function lines_of(path)
  local list = {}
  local file <close> = io.open(path)
  for line in (file and file:lines() or function() end) do list[#list + 1] = line end
  return list
end

local function slots(pool)
  local list = {}
  for i, worker in ipairs(pool:workers()) do list[i] = worker.slot end
  return list
end

-- A task that notes in the file when it begins and ends.
local function noting(path, duration)
  return function()
    local file <close> = assert(io.open(path, "a"))
    file:setvbuf("no")
    file:write "begin\n"
    require("mantichora").sleep(duration)
    file:write "end\n"
  end
end

-- How many ran at most at any begin behind the line `mark`.
local function most_at_begin(path, mark)
  local running, most, counts = 0, 0, mark == nil
  for _, line in ipairs(lines_of(path)) do
    if line == mark then counts = true end
    running = running + (line == "begin" and 1 or line == "end" and -1 or 0)
    if counts and line == "begin" and running > most then most = running end
  end
  return most
end

local function mark(path, text)
  local file <close> = assert(io.open(path, "a"))
  file:write(text .. "\n")
end

describe("resize", function()
  it("forks more workers, and has superfluous ones leave", function()
    local pool <close> = mantichora { nworkers = 2, progressbar = false }
    pool:start()
    assert.are.same({ 1, 2 }, slots(pool))
    pool:resize(5)
    assert.are.same({ 1, 2, 3, 4, 5 }, slots(pool))
    assert.are.equal("mantichora: 5 workers, 0 running, 0 queued", tostring(pool))
    pool:resize(1)
    assert.are.same({ 1 }, slots(pool))
    process.wait(function() pool:poll() return #process.children() <= 1 end, 20)
    pool:resize(3)
    assert.are.same({ 1, 2, 3 }, slots(pool))
    for i = 1, 12 do pool:run(function() return i end) end
    assert.are.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, n = 12 }, pool:returns())
  end)

  it("takes what nworkers takes", function()
    local pool <close> = mantichora { nworkers = 2 }
    assert.has_error(function() pool:resize(0) end, "nworkers must be at least one: 0 is given")
    assert.has_error(function() pool:resize("many") end,
      "option 'nworkers' must be an integer or \"auto\": \"many\" is given")
    assert.has_error(function() pool:resize() end, "option 'nworkers' must be an integer or \"auto\": nil is given")
    pool:resize(3.0)
    pool:run(function() end)
    pool:returns()
    assert.are.same({ 1, 2, 3 }, slots(pool))
    pool:close()
    assert.has_error(function() pool:resize(1) end, "pool is closed")
  end)

  for _, engine in ipairs { "fork", "snapshot" } do
    it("starts no task while as many run (" .. engine .. ")", function()
      local path = folder .. "/shrink-" .. engine
      local pool <close> = mantichora { nworkers = 4, progressbar = false, engine = engine }
      for _ = 1, 16 do pool:run(noting(path, 0.15)) end
      process.wait(function() pool:poll() return most_at_begin(path) == 4 end, 20)
      pool:resize(2)
      mark(path, "smaller")
      pool:returns()
      assert.are.equal(2, most_at_begin(path, "smaller"))
      assert.are.equal(16 * 2 + 1, #lines_of(path))
    end)
  end

  it("holds for the items of batches, too", function()
    local path = folder .. "/items"
    local pool <close> = mantichora { nworkers = 4, progressbar = false }
    local marked
    for i in pool:imap(noting(path, 0.002), (function()
      local list = {}
      for i = 1, 2000 do list[i] = i end
      return list
    end)()) do
      if i == 1000 then
        pool:resize(1)
        mark(path, "smaller")
        marked = true
      end
    end
    assert.is_true(marked)
    assert.are.equal(1, most_at_begin(path, "smaller"))
  end)

  it("goes on with more while workers have yet to leave", function()
    local path = folder .. "/back"
    local pool <close> = mantichora { nworkers = 3, progressbar = false }
    for _ = 1, 12 do pool:run(noting(path, 0.1)) end
    process.wait(function() pool:poll() return most_at_begin(path) == 3 end, 20)
    pool:resize(1)
    pool:resize(4)
    pool:returns()
    assert.are.equal(4, most_at_begin(path))
    assert.are.same({ 1, 2, 3, 4 }, slots(pool))
  end)

  it("is for later where there are no workers yet, and nothing to the engine inline", function()
    local pool <close> = mantichora { nworkers = 3 }
    pool:resize(1)
    assert.are.same({}, pool:workers())
    pool:run(function() end)
    pool:returns()
    assert.are.same({ 1 }, slots(pool))
    local inline <close> = mantichora { engine = "inline" }
    inline:resize(2)
    inline:run(function() return 7 end)
    assert.are.equal(7, inline:returns()[1])
  end)
end)

-- What `act(note)` has noted, line by line; `note(text)` may be called in any process.
local count = 0
local function noted(act)
  count = count + 1
  local path = ("%s/notes-%d"):format(folder, count)
  local fine, problem = pcall(act, function(text)
    local file <close> = assert(io.open(path, "a"))
    file:write(text .. "\n")
  end)
  return lines_of(path), fine, problem
end

local function caught(act)
  local records = {}
  logging.basic_config { stream = function() end }
  local handler = logging.add_handler(function(record) records[#records + 1] = record end)
  local fine, problem = pcall(act)
  logging.remove_handler(handler)
  assert(fine, problem)
  return records
end

describe("fini", function()
  it("runs once in each worker at close, after its last task", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 3, progressbar = false, fini = function()
        assert(require("mantichora").is_worker() and require("mantichora").runid() == nil)
        note "fini"
      end }
      for _ = 1, 6 do pool:run(note, "task") end
      pool:returns()
      pool:close()
    end)
    assert.are.same({ "task", "task", "task", "task", "task", "task", "fini", "fini", "fini" }, lines)
  end)

  it("runs at the end of the scope, also by an error, and in workers that never had a task", function()
    local lines, fine, problem = noted(function(note)
      local pool <close> = mantichora { nworkers = 2, progressbar = false, fini = function() note "fini" end }
      pool:start()
      error("no", 0)
    end)
    assert.are.same({ { "fini", "fini" }, false, "no" }, { lines, fine, problem })
    lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, progressbar = false, fini = function() note "fini" end }
      pool:run(note, "task")
    end)
    assert.are.same({ "task", "fini" }, lines)
  end)

  it("runs in workers that are replaced", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, max_tasks_per_worker = 2, progressbar = false,
        fini = function() note "fini" end }
      for i = 1, 4 do
        pool:run(note, "task " .. i)
        pool:returns()
      end
      process.wait(function() pool:poll(0.01) return #pool:workers() == 1 and pool:workers()[1].tasks == 0 end, 20)
      note "close"
    end)
    -- The next worker begins while the one before leaves.
    assert.truthy(table.concat(lines, " "):find("^task 1 task 2 .-fini"))
    table.sort(lines)
    assert.are.same({ "close", "fini", "fini", "fini", "task 1", "task 2", "task 3", "task 4" }, lines)
  end)

  it("runs in workers that a resize makes superfluous", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 3, progressbar = false, fini = function() note "fini" end }
      pool:start()
      pool:resize(1)
      process.wait(function() pool:poll(0.01) return #process.children() <= 1 end, 20)
      note "close"
    end)
    assert.are.same({ "fini", "fini", "close", "fini" }, lines)
  end)

  it("runs where init has succeeded only", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, progressbar = false, on_error = "return",
        init = function() note "init" error "no" end, fini = function() note "fini" end }
      pool:run(note, "task")
      assert.are.equal("error", pool:returns()[1].kind)
    end)
    assert.are.equal("init", lines[1])
    for _, line in ipairs(lines) do assert.are.equal("init", line) end
    lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, progressbar = false,
        init = function() note "init" end, fini = function() note "fini" end }
      pool:run(note, "task")
    end)
    assert.are.same({ "init", "task", "fini" }, lines)
  end)

  it("does not run where a task ended its process, in workers that were killed, nor at collection", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, progressbar = false, on_error = "return",
        fini = function() note "fini" end }
      pool:run(os.exit, 3)
      assert.are.equal("exited", pool:returns()[1].kind)
      pool:run(function() os.execute("kill -9 $PPID") end)
      assert.are.equal("killed", pool:returns()[1].kind)
      pool:run_with({ timeout = 0.1 }, function()
        while true do pcall(function() while true do end end) end
      end)
      assert.are.equal("timeout", pool:returns()[1].kind)
      note "close"
    end)
    assert.are.equal("close", lines[1])
    lines = noted(function(note)
      do
        local pool = mantichora { nworkers = 1, progressbar = false, fini = function() note "fini" end }
        pool:run(note, "task")
        pool:returns()
      end
      collectgarbage()
      collectgarbage()
      process.wait(function() return #process.children() == 0 end, 20)
    end)
    assert.are.same({ "task" }, lines)
    caught(mantichora.cpu_count)
  end)

  it("has its output and records delivered, and its error logged", function()
    local script = folder .. "/fini.lua"
    shell.write(script, [[
      local m, logging = require "mantichora", require "mantichora.logging"
      logging.basic_config { level = "INFO", stream = io.stderr }
      local p <close> = m { nworkers = 1, progressbar = false, fini = function()
        print "line"
        io.write "no newline"
        logging.info "record"
        error "fini fails"
      end }
      p:run(print, "task")
    ]])
    local result = shell.run(shell.interpreter .. " " .. script)
    assert.are.equal("task\nline\nno newline\n", result.out)
    assert.are.equal(0, result.status)
    assert.is_truthy(result.err:find("^INFO:root:record\nERROR:mantichora:fini of a worker raised an error: [^\n]*"
      .. "fini.lua:7: fini fails\n$"), result.err)
  end)

  it("is stopped after the grace, and what never stops is killed", function()
    local lines
    local records = caught(function()
      lines = noted(function(note)
        local pool <close> = mantichora { nworkers = 2, progressbar = false, fini = function()
          note "begin"
          while true do end
        end }
        pool:start()
        local before = process.clock()
        pool:close()
        assert.is_true(process.clock() - before < 10)
      end)
    end)
    assert.are.same({ "begin", "begin" }, lines)
    assert.are.equal(2, #records)
    for _, record in ipairs(records) do
      assert.are.equal("ERROR", record.levelname)
      assert.are.equal("fini of a worker took too long and was stopped", record.message)
    end
    lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, progressbar = false, fini = function()
        note "begin"
        while true do pcall(function() while true do end end) end
      end }
      pool:start()
    end)
    assert.are.same({ "begin" }, lines)
  end)

  it("has the whole grace, also where the worker leaves by itself, and holds up nothing", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, max_tasks_per_worker = 1, progressbar = false, fini = function()
        require("mantichora").sleep(0.3)
        note "fini"
      end }
      for i = 1, 3 do pool:run(note, "task " .. i) end
      pool:returns()
    end)
    local finis = 0
    for _, line in ipairs(lines) do finis = finis + (line == "fini" and 1 or 0) end
    assert.is_true(finis == 3 or finis == 4, table.concat(lines, " "))
  end)

  it("runs in each fork of the engine snapshot, and at close of inline", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 2, engine = "snapshot", progressbar = false,
        fini = function() note "fini" end }
      for _ = 1, 3 do pool:run(note, "task") end
      pool:returns()
    end)
    table.sort(lines)
    assert.are.same({ "fini", "fini", "fini", "task", "task", "task" }, lines)
    lines = noted(function(note)
      local pool <close> = mantichora { engine = "inline", fini = function() note "fini" end }
      pool:run(note, "task")
      pool:returns()
      pool:close()
      pool:close()
      note "closed"
    end)
    assert.are.same({ "task", "fini", "closed" }, lines)
    local records = caught(function()
      local pool <close> = mantichora { engine = "inline", fini = function() error "no" end }
      pool:run(function() end)
      pool:returns()
    end)
    assert.are.equal(1, #records)
    assert.is_truthy(records[1].message:find("fini of a worker raised an error: .*no"), records[1].message)
  end)

  it("must be a function", function()
    assert.has_error(function() mantichora { fini = 1 } end, "option 'fini' must be a function: 1 is given")
  end)
end)

describe("max_memory_per_worker", function()
  local function pid()
    local file <close> = assert(io.open("/proc/self/stat"))
    return file:read("n")
  end

  it("replaces a worker that keeps more than that after a task, and no other", function()
    local pool <close> = mantichora { nworkers = 1, progressbar = false, max_memory_per_worker = 64 << 20 }
    local function run(f)
      pool:run(f)
      return pool:returns()[1]
    end
    local first = run(pid)
    assert.are.equal(first, run(function() _G.kept = ("x"):rep(8 << 20) return pid() end))
    assert.are.equal(first, run(pid))
    assert.are.equal(first, run(function() _G.kept = ("x"):rep(128 << 20) return pid() end))
    assert.are_not.equal(first, run(pid))
  end)

  it("does not count what is shared with this process", function()
    local large = ("y"):rep(128 << 20)
    local pool <close> = mantichora { nworkers = 1, progressbar = false, max_memory_per_worker = 64 << 20 }
    local pids = {}
    for i = 1, 5 do
      pool:run(pid)
      pids[i] = pool:returns()[1]
    end
    for i = 2, 5 do assert.are.equal(pids[1], pids[i]) end
    assert.are.equal(128 << 20, #large)
  end)

  it("loses no task and no item", function()
    local pool <close> = mantichora { nworkers = 2, progressbar = false, max_memory_per_worker = 1 }
    local list = {}
    for i = 1, 300 do list[i] = i end
    local values = pool:map(function(i) return i * 2 end, list)
    for i = 1, 300 do assert.are.equal(i * 2, values[i]) end
    for i = 1, 20 do pool:run(function() return i, pid() end) end
    local seen, different = {}, 0
    local results = pool:returns { packed = true }
    for i = 1, 20 do
      assert.are.equal(i, results[i][1])
      if not seen[results[i][2]] then different = different + 1 end
      seen[results[i][2]] = true
    end
    assert.is_true(different >= 10, different)
  end)

  it("has fini run in a worker that is replaced", function()
    local lines = noted(function(note)
      local pool <close> = mantichora { nworkers = 1, progressbar = false, max_memory_per_worker = 1,
        fini = function() note "fini" end }
      pool:run(note, "task")
      pool:returns()
      process.wait(function() pool:poll(0.01) return #lines_of(("%s/notes-%d"):format(folder, count)) == 2 end, 20)
      note "close"
    end)
    assert.are.same({ "task", "fini", "close" }, { table.unpack(lines, 1, 3) })
  end)
end)

describe("min_free_memory", function()
  -- The machine of a script in that folder, with so many bytes available.
  local function machine(bytes)
    local root = shell.folder()
    os.execute("mkdir -p " .. root .. "/proc/self")
    shell.write(root .. "/proc/meminfo", ("MemTotal: 9999 kB\nMemAvailable: %d kB\n"):format(bytes // 1024))
    shell.write(root .. "/proc/self/cgroup", "0::/\n")
    return root
  end

  local prelude = [[
    local m = require "mantichora"
    local path = ...
    local function note(text)
      local file <close> = assert(io.open(path .. "/trace", "a"))
      file:setvbuf "no"
      file:write(text .. "\n")
    end
    local function task() note "begin" m.sleep(0.05) note "end" return 1 end
    local function free(bytes)
      local file <close> = assert(io.open(path .. "/proc/new", "w"))
      file:write(("MemAvailable: %d kB\n"):format(bytes // 1024))
      file:close()
      assert(os.rename(path .. "/proc/new", path .. "/proc/meminfo"))
    end
  ]]

  local function run(root, body)
    local path = root .. "/script.lua"
    shell.write(path, prelude .. body)
    local result = shell.run(("MANTICHORA_TEST_ROOT=%s %s %s %s"):format(root, shell.interpreter, path, root))
    assert.are.equal("", result.err)
    assert.are.equal(0, result.status)
    return result.out
  end

  for _, engine in ipairs { "fork", "snapshot" } do
    it("has one task run at a time while less is free (" .. engine .. ")", function()
      local root = machine(100 << 20)
      run(root, ([[
        local p <close> = m { nworkers = 4, min_free_memory = 200 << 20, engine = "%s", progressbar = false }
        for _ = 1, 8 do p:run(task) end
        assert(p:returns().n == 8)
        local list = {}
        for i = 1, 20 do list[i] = i end
        assert(p:map(task, list).n == 20)
      ]]):format(engine))
      -- Of a batch, which is given to one worker, each item runs for itself anyway.
      assert.are.equal(1, most_at_begin(root .. "/trace"))
      assert.are.equal(56, #lines_of(root .. "/trace"))
      shell.remove(root)
    end)
  end

  it("holds nothing back while enough is free", function()
    local root = machine(300 << 20)
    run(root, [[
      local p <close> = m { nworkers = 4, min_free_memory = 200 << 20, progressbar = false }
      for _ = 1, 8 do p:run(function() note "begin" m.sleep(0.3) note "end" end) end
      p:returns()
    ]])
    assert.are.equal(4, most_at_begin(root .. "/trace"))
    shell.remove(root)
  end)

  it("takes back what was sent ahead when memory becomes scarce, and goes on when it is not", function()
    local root = machine(300 << 20)
    run(root, [[
      local p <close> = m { nworkers = 4, min_free_memory = 200 << 20, progressbar = false }
      for _ = 1, 100 do p:run(task) end
      p:receive_one()
      free(100 << 20)
      m.sleep(1.2)
      note "scarce"
      m.sleep(0.5)
      free(300 << 20)
      note "enough"
      assert(#p:receive_all() == 99)
    ]])
    local lines, running, scarce, most = lines_of(root .. "/trace"), 0, false, { [true] = 0, [false] = 0 }
    for _, line in ipairs(lines) do
      if line == "scarce" then scarce = true elseif line == "enough" then scarce = false end
      running = running + (line == "begin" and 1 or line == "end" and -1 or 0)
      if line == "begin" then most[scarce] = math.max(most[scarce], running) end
    end
    assert.are.same({ [true] = 1, [false] = 4 }, most)
    assert.are.equal(202, #lines)
    shell.remove(root)
  end)

  it("is checked", function()
    assert.has_error(function() mantichora { min_free_memory = -1 } end,
      "option 'min_free_memory' must be a positive number of bytes: -1 is given")
    assert.has_error(function() mantichora { max_memory_per_worker = 0 } end,
      "option 'max_memory_per_worker' must be a positive number of bytes: 0 is given")
    local pool <close> = mantichora { nworkers = 2, min_free_memory = 1 << 60, progressbar = false }
    for i = 1, 5 do pool:run(function() return i end) end
    assert.are.same({ 1, 2, 3, 4, 5, n = 5 }, pool:returns())
  end)
end)

-- Workers die, messages are late and torn, forks fail: each task ends, whatever is done to the pool meanwhile.
describe("on bad days", function()
  local script = [[
    local m = require "mantichora"
    math.randomseed(tonumber(arg[1]))
    local options = load("return " .. arg[2])()
    options.nworkers, options.on_error, options.progressbar = 4, "return", false
    options.fini = function() io.write "" end
    local p <close> = m(options)
    local accepted = 0
    for _ = 1, 25 do
      for _ = 1, math.random(20) do
        p:run_with({ retries = 3 }, function(x) for _ = 1, 5000 do end return x end, accepted)
        accepted = accepted + 1
      end
      p:resize(math.random(6))
      if math.random(4) == 1 then
        local list = {}
        for i = 1, 200 do list[i] = i end
        assert(p:map(function(i) return -i end, list, { retries = 3 }).n == 200)
      end
      p:poll(0)
    end
    local ended, seen = p:receive_all(), {}
    for _, entry in ipairs(ended) do
      assert(not seen[entry[1] ] and entry.n == 2)
      seen[entry[1] ] = true
      assert(type(entry[2]) == "number" or entry[2].kind == "killed" or entry[2].kind == "error", tostring(entry[2]))
    end
    assert(#ended == accepted, #ended .. " of " .. accepted)
  ]]

  for seed, options in ipairs { "{}", "{ max_memory_per_worker = 1 }", "{ min_free_memory = 1 << 60 }",
    '{ engine = "snapshot" }' } do
    it("each task ends once, with " .. options, function()
      local path = folder .. "/bad.lua"
      shell.write(path, script)
      local result = shell.run(("MANTICHORA_CHAOS=%d,0.02 %s %s %d '%s'"):format(seed, shell.interpreter, path, seed,
        options), { timeout = 120 })
      assert.are.equal("", result.err)
      assert.are.equal(0, result.status)
    end)
  end
end)
