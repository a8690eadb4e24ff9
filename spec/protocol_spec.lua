-- What tasks do to the worker that they run in: they fork it by other means, close its descriptors and
-- write over the memory that it shares with its pool. Each accepted task ends once, what was begun
-- is never begun again, the others are as if nothing had been.

local mantichora = require "mantichora"
local meddle = require "meddle_module"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local broke = "its worker broke the protocol"

local tallies_folder
local tallies_made = 0

setup(function() tallies_folder = shell.folder() end)
teardown(function() shell.remove(tallies_folder) end)

-- A file that gets a byte whenever a task begins, and how many it has.
local function new_tally()
  tallies_made = tallies_made + 1
  local path = ("%s/begun%d"):format(tallies_folder, tallies_made)
  return {
    path = path,
    count = function()
      local file <close> = io.open(path)
      return file and #file:read("a") or 0
    end,
  }
end

local function is_failure(value) return type(value) == "table" and value.kind ~= nil end

local function begin(path)
  local file <close> = assert(io.open(path, "a"))
  file:write(".")
end

-- Wait in a task, in pieces that a stop reaches.
local function sleep_long() mantichora.sleep(30) end

local function run_lua(text, argument)
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", text)
  local got = shell.run(("%s %s/script.lua %s"):format(shell.interpreter, folder, argument or ""))
  shell.remove(folder)
  return got
end

-- Run a task that meddles among innocent ones that come behind it and were sent ahead; how it ended.
local function among_innocents(meddler, timeout)
  local count = 40
  local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
  local tallies = {}
  for i = 0, count do tallies[i] = new_tally() end
  local path = tallies[0].path
  mcore:run_with({ timeout = timeout }, function()
    begin(path)
    mantichora.sleep(0.02) -- so that the others are here
    return meddler()
  end)
  for i = 1, count do
    local own = tallies[i].path
    mcore:run(function(n) begin(own) return n * n end, i)
  end
  local results = mcore:returns()
  for i = 1, count do
    assert.are.equal(i * i, results[i + 1], tostring(results[i + 1]))
    assert.are.equal(1, tallies[i].count())
  end
  assert.are.equal(1, tallies[0].count())
  mcore:run(function() return "usable" end)
  assert.are.equal("usable", (mcore:returns()[1]))
  mcore:close()
  return results[1]
end

describe("A process that a task forks", function()
  -- How the new process goes on, and the status that it has in the end.
  local ways = {
    ["returns"] = { function() return "child" end, 0 },
    ["returns what cannot be sent"] = { function() return coroutine.create(print) end, 0 },
    ["returns a large value"] = { function() return ("x"):rep(3000000) end, 0 },
    ["returns an object with code of its own"] = {
      function() return setmetatable({}, { __mantichora = function() os.exit(9) end }) end, 0 },
    ["raises"] = { function() error("in the child") end, 1 },
    ["raises a value that cannot be sent"] = { function() error(coroutine.create(print)) end, 1 },
    ["raises what describes itself"] = {
      function() error(setmetatable({}, { __tostring = function() return "text" end })) end, 1 },
    ["calls os.exit(7)"] = { function() os.exit(7) end, 7 },
    ["calls os.exit()"] = { function() os.exit() end, 0 },
    ["calls os.exit(false)"] = { function() os.exit(false) end, 1 },
    ["calls os.exit(5, true)"] = { function() os.exit(5, true) end, 5 },
    ["calls exit in C"] = { function() meddle.exit(6) end, 6 },
    ["calls _exit in C"] = { function() meddle._exit(4) end, 4 },
    ["logs and returns"] = { function()
      local logging = require "mantichora.logging"
      for i = 1, 50 do logging.error("child %d", i) end
    end, 0 },
    ["shows bars and raises"] = { function()
      local atpbar = require "mantichora.atpbar"
      for _ = 1, 100 do for _ in atpbar(3, "child") do end end
      error "after its bars"
    end, 1 },
    ["leaves a bar"] = { function()
      for _ in require "mantichora.atpbar"(10, "child") do error "in a bar" end
    end, 1 },
    ["raises in a coroutine"] = { function() coroutine.wrap(function() error "inside" end)() end, 1 },
    ["returns through a coroutine"] = { function() return coroutine.wrap(function() return 1 end)() end, 0 },
    ["is told to stop"] = { function()
      meddle.raise(23) -- SIGURG
      meddle.raise(28) -- SIGWINCH
      return 1
    end, 0 },
  }

  for name, way in pairs(ways) do
    for _, how in ipairs { "fork", "raw_fork" } do
      it("that " .. name .. " is no worker: " .. how, function()
        local child, status = way[1], way[2]
        local result = among_innocents(function()
          local pid = meddle[how]()
          if pid == 0 then return child() end
          local what, number = meddle.wait(pid)
          return ("%s %d"):format(what, number)
        end)
        assert.are.equal("exit " .. status, result)
      end)
    end
  end

  for _, engine in ipairs { "fork", "snapshot" } do
    it("writes what it wrote itself, once: " .. engine, function()
      local got = run_lua([[
        local meddle, engine = require "meddle_module", ...
        local mcore <close> = require "mantichora" { nworkers = 1, engine = engine, progressbar = false }
        mcore:run(function()
          io.write("before ")
          local file = assert(io.open(os.tmpname(), "w+"))
          file:write("kept once")
          local pid = meddle.fork()
          if pid == 0 then
            io.write("child ")
            io.stderr:write("error of child\n")
            os.exit(3)
          end
          meddle.wait(pid)
          io.write("after\n")
          file:seek("set")
          print(file:read("a"))
        end)
        mcore:returns()
      ]], engine)
      assert.are.equal("before child after\nkept once\n", got.out)
      assert.are.equal("error of child\n", got.err)
    end)
  end

  it("sends no record and no bar", function()
    local got = run_lua([[
      local meddle, logging = require "meddle_module", require "mantichora.logging"
      local atpbar = require "mantichora.atpbar"
      local mcore <close> = require "mantichora" { nworkers = 1 }
      mcore:run(function()
        for i in atpbar(4, "parent's bar") do
          if i == 2 then
            local pid = meddle.fork()
            if pid == 0 then
              logging.error("a record of the child")
              for _ in atpbar(3, "child's bar") do end
              os.exit(0)
            end
            meddle.wait(pid)
          end
        end
        logging.error("a record of the worker")
      end)
      mcore:returns()
    ]])
    local all = got.out .. got.err
    assert.truthy(all:find("a record of the worker", 1, true))
    assert.truthy(all:find("parent's bar", 1, true))
    assert.falsy(all:find("of the child", 1, true))
    assert.falsy(all:find("child's bar", 1, true))
  end)

  it("says itself that it is none, and has no pool", function()
    local result = among_innocents(function()
      local inner = mantichora { nworkers = 1 }
      inner:run(function() return 1 end)
      local pid = meddle.fork()
      if pid == 0 then
        local code = mantichora.is_worker() and 10 or 20
        if not pcall(inner.run, inner, function() end) then code = code + 1 end
        if not pcall(inner.returns, inner) then code = code + 1 end
        os.exit(code)
      end
      local how, number = meddle.wait(pid)
      local value = inner:returns()[1]
      inner:close()
      return ("%s %d %s"):format(how, number, value)
    end)
    assert.are.equal("exit 22 1", result)
  end)

  it("may live on behind its task", function()
    local folder = shell.folder()
    local function is_there(name)
      local file <close> = io.open(folder .. "/" .. name)
      return file ~= nil
    end
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function()
      local pid = meddle.fork()
      if pid > 0 then return pid end
      process.wait(function() return is_there "go" end, 20)
      begin(folder .. "/gone")
    end)
    local pid = mcore:returns()[1]
    for i = 1, 20 do mcore:run(function() return i end) end
    for i, value in ipairs(mcore:returns()) do assert.are.equal(i, value) end
    begin(folder .. "/go")
    process.wait(function() return is_there "gone" and not process.runs(pid) end, 20)
    assert.are.equal("usable", (mcore:map(function() return "usable" end, { 1 })[1]))
  end)

  it("does not run the task again from the code that rebuilds a value", function()
    local tally = new_tally()
    local mcore <close> = mantichora { nworkers = 1 }
    local value = setmetatable({}, { __mantichora = function()
      return function()
        local pid = meddle.fork()
        if pid > 0 then meddle.wait(pid) end
        return "rebuilt"
      end
    end })
    mcore:run(function(path, given) begin(path) return given end, tally.path, value)
    assert.are.same({ "rebuilt", n = 1 }, mcore:returns())
    assert.are.equal(1, tally.count())
  end)

  it("is fine inside init", function()
    for _, way in ipairs { "return", "error", "exit" } do
      local mcore <close> = mantichora { nworkers = 2, init = function()
        local pid = meddle.fork()
        if pid == 0 then
          if way == "error" then error "in the child of init" end
          if way == "exit" then os.exit(0) end
          return
        end
        assert(select(2, meddle.wait(pid)) == (way == "error" and 1 or 0))
      end }
      for i = 1, 20 do mcore:run(function() return i end) end
      for i, value in ipairs(mcore:returns()) do assert.are.equal(i, value) end
    end
  end)

  it("is no worker in an item of map either", function()
    local mcore <close> = mantichora { nworkers = 2 }
    local results = mcore:map(function(i)
      if i % 7 == 0 then
        local pid = meddle.fork()
        if pid == 0 then
          if i % 2 == 0 then error "in the child" end
          return -i
        end
        return select(2, meddle.wait(pid))
      end
      return i
    end, (function() local list = {} for i = 1, 300 do list[i] = i end return list end)())
    for i = 1, 300 do
      assert.are.equal(i % 7 ~= 0 and i or i % 2 == 0 and 1 or 0, results[i])
    end
  end)
end)

describe("A worker whose descriptors a task damages", function()
  -- Those that belong to the worker, not the host's.
  local hosts = {}
  for _, fd in ipairs(meddle.descriptors()) do hosts[fd] = true end
  local function descriptors()
    local list = {}
    for _, fd in ipairs(meddle.descriptors()) do
      if not hosts[fd] then list[#list + 1] = fd end
    end
    return list
  end
  local deeds = {
    ["closes its socket"] = { function()
      for _, fd in ipairs(meddle.sockets()) do meddle.close(fd) end
      sleep_long()
    end },
    ["closes its socket and returns"] = { function()
      for _, fd in ipairs(meddle.sockets()) do meddle.close(fd) end
      return 1
    end, true },
    ["shuts its socket"] = { function()
      for _, fd in ipairs(meddle.sockets()) do meddle.shut(fd) end
      sleep_long()
    end },
    ["closes all descriptors"] = { function()
      for fd = 3, 200 do meddle.close(fd) end
      sleep_long()
    end },
    ["closes all descriptors and returns"] = { function()
      for fd = 3, 200 do meddle.close(fd) end
      return 1
    end, true },
    ["writes into all descriptors"] = { function()
      for _, fd in ipairs(descriptors()) do meddle.write(fd, "garbage") end
      return 1
    end, true },
    ["rewinds all descriptors"] = { function()
      for _, fd in ipairs(descriptors()) do meddle.rewind(fd) end
      return 1
    end, true },
    ["puts another file in the place of all descriptors"] = { function()
      local file = assert(io.open("/dev/null", "r+"))
      local fds = descriptors()
      for i = 1, #fds - 1 do meddle.dup2(fds[#fds], fds[i]) end
      file:close()
      return 1
    end, true },
  }
  for name, deed in pairs(deeds) do
    it("that " .. name .. " takes no innocent task along", function()
      local result = among_innocents(deed[1])
      if is_failure(result) then
        assert.are.equal("killed", result.kind)
      else
        assert.is_true(deed[2])
      end
    end)
  end
end)

describe("A worker whose shared page a task damages", function()
  local deeds = {
    ["zeros"] = function() meddle.fill(0) end,
    ["ones"] = function() meddle.fill(255) end,
    ["claims of zero"] = function() for i = 0, 255 do meddle.set("claims", 0, i) end end,
    ["claims that are offered"] = function()
      for i = 0, 255 do
        local word = meddle.get("claims", i)
        if word ~= 0 then meddle.set("claims", word & ~3 | 1, i) end
      end
    end,
    ["its own claim revoked"] = function() meddle.set("claims", 1 << 2 | 3, 1) end,
    ["passed of +1000"] = function() meddle.set("passed", meddle.get("passed") + 1000) end,
    ["passed of +1"] = function() meddle.set("passed", meddle.get("passed") + 1) end,
    ["passed of -1"] = function() meddle.set("passed", meddle.get("passed") - 1) end,
    ["a beginning of its stream that comes again"] = function() meddle.set("up.read", meddle.get("up.read") - 8) end,
    ["more in its stream than there is"] = function() meddle.set("up.written", meddle.get("up.written") + 100) end,
    ["far more in its stream"] = function() meddle.set("up.written", meddle.get("up.written") + 1000000) end,
    ["less in its stream"] = function() meddle.set("up.written", meddle.get("up.written") - 5) end,
    ["tasks that it has read"] = function() meddle.set("down.read", meddle.get("down.read") + 13) end,
    ["tasks that it has to read again"] = function() meddle.set("down.read", 0) end,
    ["no tasks"] = function() meddle.set("down.written", meddle.get("down.read")) end,
    ["too many tasks"] = function() meddle.set("down.written", meddle.get("down.read") + 1000000) end,
    ["sleepers"] = function()
      for _, ring in ipairs { "up", "down" } do
        meddle.set(ring .. ".reader_sleeps", 0)
        meddle.set(ring .. ".writer_sleeps", 77)
      end
    end,
    ["bars"] = function() for i = 0, 191 do meddle.set("bars", -i, i) end end,
    ["an older copy"] = function()
      local copy = meddle.copy()
      require "mantichora.logging".debug("moves the stream on")
      require "mantichora.logging".error("moves the stream on")
      mantichora.sleep(0.02)
      meddle.restore(copy)
    end,
  }
  for name, deed in pairs(deeds) do
    for _, goes_on in ipairs { "returns", "dies", "is stopped" } do
      it(("%s: innocent tasks do not know; it %s"):format(name, goes_on), function()
        local result = among_innocents(function()
          deed()
          if goes_on == "dies" then meddle.raise(9) end
          if goes_on == "is stopped" then sleep_long() end
          return "fine"
        end, goes_on == "is stopped" and 0.3 or nil)
        if is_failure(result) then
          assert.truthy(result.kind == "killed" or goes_on == "is stopped" and result.kind == "timeout")
          if goes_on == "returns" then assert.are.equal(broke, result.message) end
        else
          assert.are.equal("fine", result)
        end
      end)
    end
  end

  it("ends no other way than by its time when running_since lies in the future", function()
    local mcore <close> = mantichora { nworkers = 1, timeout = 0.3, on_error = "return" }
    mcore:run(function()
      meddle.set("running_since", math.maxinteger)
      while true do end
    end)
    mcore:run(function() return "next" end)
    local results = mcore:returns()
    assert.truthy(results[1].kind == "killed" and results[1].message == broke)
    assert.are.equal("next", results[2])
  end)

  it("is stopped in time when it says that it has passed over the task that runs", function()
    local mcore <close> = mantichora { nworkers = 1, timeout = 0.3, on_error = "return" }
    mcore:run(function()
      meddle.set("passed", meddle.get("passed") + 1)
      while true do end
    end)
    mcore:run(function() return "next" end)
    local results = mcore:returns()
    assert.are.same({ "killed", broke }, { results[1].kind, results[1].message })
    assert.are.equal("next", results[2])
  end)

  it("cannot write what the pool says there", function()
    local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
    mcore:run(function() meddle.set("orders", 0) end)
    mcore:run(function() meddle.set("down.bytes", 0) end)
    mcore:run(function() return "next" end)
    local results = mcore:returns()
    for i = 1, 2 do assert.are.same({ "killed", 11 }, { results[i].kind, results[i].signal }) end
    assert.are.equal("next", results[3])
  end)

  it("does not begin again what it began and calls offered, for a free worker neither", function()
    local tally, folder = new_tally(), shell.folder()
    local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
    mcore:start()
    mcore:run(function(path)
      begin(path)
      for i = 0, 255 do
        local word = meddle.get("claims", i)
        if word & 3 == 2 then meddle.set("claims", word & ~3 | 1, i) end
      end
      mantichora.sleep(0.5)
      return "done"
    end, tally.path)
    for _ = 1, 30 do mcore:run(mantichora.sleep, 0.005) end
    local results = mcore:returns()
    assert.are.equal(1, tally.count())
    assert.are.equal("killed", results[1].kind)
    assert.are.equal(broke, results[1].message)
    assert.truthy(folder)
  end)

  it("makes no task of a batch begin twice", function()
    for number, deed in ipairs {
      function() meddle.fill(0) end,
      function() meddle.set("items", 0) end,
      function() meddle.set("items", meddle.get("items") - 1) end,
      function() meddle.set("items", meddle.get("items") + 20) end,
      function() meddle.set("items", meddle.get("items") | 0xffff0000) end,
      function() meddle.fill(0) meddle.raise(9) end,
      function() meddle.set("items", 0) meddle.raise(9) end,
      function() meddle.set("items", meddle.get("items") - 1) meddle.raise(9) end,
    } do
      local folder = shell.folder()
      local list = {}
      for i = 1, 400 do list[i] = i end
      local mcore <close> = mantichora { nworkers = 2, on_error = "return" }
      local results = mcore:map(function(i)
        begin(folder .. "/" .. i)
        if i == 200 then deed() end
        return i
      end, list)
      for i = 1, 400 do
        local file <close> = io.open(folder .. "/" .. i)
        local begun = file and #file:read("a") or 0
        assert.are.equal(1, begun)
        if results[i] ~= i then assert.are.equal("killed", results[i].kind) end
      end
      assert.truthy(is_failure(results[200]) or number < 6 and results[200] == 200)
      for i = 201, 400 do assert.are.equal(i, results[i], tostring(results[i])) end
    end
  end)

  it("is survived for many seeds", function()
    local mark = "MANTICHORA_PROTOCOL=" .. tostring({}):match("0x%x+")
    for seed = 1, 25 do
      local got = shell.run(mark .. " " .. shell.interpreter .. " spec/support/scribble.lua " .. seed)
      assert.are.equal("fine\n", got.out, got.out .. got.err)
    end
    assert.are.same({}, process.outlive(mark, 10))
  end)
end)

describe("A worker that was stopped", function()
  local function stop_idle(mcore)
    local pids = {}
    for _, worker in ipairs(mcore:workers()) do pids[#pids + 1] = worker.pid end
    meddle.kill(pids[1], 19)
    return pids[1]
  end

  -- The values of four tasks, which come in any order.
  local function four(mcore)
    local values = {}
    for i = 1, 4 do values[i] = select(2, mcore:receive_one(20)) end
    table.sort(values)
    return values
  end

  it("holds back no task while another is free", function()
    local mcore <close> = mantichora { nworkers = 2 }
    mcore:start()
    for _ = 1, 2 do mcore:run(mantichora.sleep, 0.05) end
    mcore:returns()
    local pid = stop_idle(mcore)
    for i = 1, 4 do mcore:run(function() return i end) end
    assert.are.same({ 1, 2, 3, 4 }, four(mcore))
    meddle.kill(pid, 18)
    for i = 1, 50 do mcore:run(function() return i end) end
    for i, value in ipairs(mcore:returns()) do assert.are.equal(i, value) end
  end)

  it("holds back no item of map", function()
    local mcore <close> = mantichora { nworkers = 2 }
    mcore:start()
    for _ = 1, 2 do mcore:run(mantichora.sleep, 0.05) end
    mcore:returns()
    local pid = stop_idle(mcore)
    local list = {}
    for i = 1, 2000 do list[i] = i end
    local results = mcore:map(function(i) return i + 1 end, list)
    for i = 1, 2000 do assert.are.equal(i + 1, results[i]) end
    for i, value in mcore:imap(function(i) return i end, list) do assert.are.equal(i, value) end
    meddle.kill(pid, 18)
  end)

  it("before it began with anything, holds back none either", function()
    local mcore <close> = mantichora { nworkers = 2 }
    mcore:start()
    mcore:poll(0)
    local pid = stop_idle(mcore)
    for i = 1, 4 do mcore:run(function() return i end) end
    assert.are.same({ 1, 2, 3, 4 }, four(mcore))
    meddle.kill(pid, 18)
  end)

  it("goes on with its tasks when it is the only one", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function() return 0 end)
    mcore:returns()
    local pid = stop_idle(mcore)
    for i = 1, 4 do mcore:run(function() return i end) end
    assert.are.same({ nil, "timeout" }, { mcore:receive_one(0.3) })
    meddle.kill(pid, 18)
    assert.are.same({ 1, 2, 3, 4, n = 4 }, mcore:returns())
  end)

  it("can be left", function()
    local mcore <close> = mantichora { nworkers = 1 }
    mcore:run(function() return 0 end)
    mcore:returns()
    local pid = stop_idle(mcore)
    local id = mcore:run(function() return 1 end)
    assert.are.equal("queued", mcore:cancel(id))
    mcore:terminate()
    mcore:close()
    process.wait(function() return not process.runs(pid) end, 10)
  end)
end)
