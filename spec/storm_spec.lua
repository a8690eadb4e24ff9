-- Storms: many tasks of all kinds while MANTICHORA_CHAOS kills workers, delays, tears and reorders; and
-- the faults of a system that has nothing left. Every task ends in one way, every result is right,
-- every line comes once, nothing hangs and nothing is left behind.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

-- Under sanitizers processes are slow to fork.
local scale = shell.interpreter:find("asan", 1, true) and 0.1 or 1

-- Without the socket of those who watch, which stays for the life of the script: storm.lua counts descriptors.
local function run_storm(storm)
  local command = "MANTICHORA_ATTACH=0 MANTICHORA_PROGRESS=off MANTICHORA_CHAOS=%s %s spec/support/storm.lua %d %s %s"
  return shell.run(command:format(
    storm.chaos, shell.interpreter, math.max(60, storm.tasks * scale), storm.engine or "fork",
    storm.background), { timeout = 60 })
end

-- What tasks have said they printed against what came.
local function check_lines(out, err)
  local printed = {}
  for line in out:gmatch("([^\n]*)\n") do
    local k, runid = line:match("^line ([12]) of task (%d+)%.$")
    assert.truthy(k, "a torn line: " .. line)
    printed[runid] = printed[runid] or {}
    assert.is_nil(printed[runid][k], "twice: " .. line)
    printed[runid][k] = true
  end
  local ended = 0
  for runid, how, least, most in err:gmatch("ended (%d+) (%a+) (%d) (%d)\n") do
    local n = 0
    for _ in pairs(printed[runid] or {}) do n = n + 1 end
    ended = ended + 1
    assert.is_true(n >= tonumber(least) and n <= tonumber(most),
      ("task %s ended as %s and printed %d lines"):format(runid, how, n))
  end
  return ended
end

describe("a storm", function()
  local storms = {
    { chaos = "1,0", tasks = 2000, background = true },
    { chaos = "2,0.002", tasks = 3000, background = true },
    { chaos = "3,0.01", tasks = 2500, background = false },
    { chaos = "4,0.01", tasks = 2500, background = true },
    { chaos = "5,0.05", tasks = 700, background = true },
    { chaos = "6,0.05", tasks = 700, background = false },
    { chaos = "7,0.2", tasks = 100, background = true },
    { chaos = "8,0.2", tasks = 100, background = false },
    { chaos = "9,0.01", tasks = 600, engine = "snapshot", background = true },
    { chaos = "10,0.05", tasks = 300, engine = "snapshot", background = false },
  }
  for _, storm in ipairs(storms) do
    it(("of %d tasks, chaos %s, engine %s, background %s"):format(storm.tasks, storm.chaos,
      storm.engine or "fork", storm.background), function()
      local got = run_storm(storm)
      local last = got.err:gsub("ended [^\n]*\n", "")
      assert.are.equal(0, got.status, last)
      assert.truthy(last:find("^fine: "), last)
      assert.are.equal(tonumber(last:match("(%d+) tasks")), check_lines(got.out, got.err))
    end)
  end

  for i, storm in ipairs {
    { "1,0", true, "fork" }, { "2,0.002", false, "fork" }, { "3,0.01", true, "fork" }, { "4,0.01", false, "fork" },
    { "5,0.05", true, "fork" }, { "6,0.05", false, "fork" }, { "7,0.01", true, "snapshot" },
  } do
    it(("of maps, chaos %s, background %s, engine %s: each end is told once"):format(table.unpack(storm)), function()
      local rounds = math.ceil((i == 7 and 4 or 20) * scale)
      local got = shell.run(("MANTICHORA_PROGRESS=off MANTICHORA_CHAOS=%s %s spec/support/map_storm.lua %d %s %s")
        :format(storm[1], shell.interpreter, rounds, storm[3], storm[2]), { timeout = 60 })
      assert.are.equal(0, got.status, got.err)
      assert.truthy(got.err:find("fine: "), got.err)
    end)
  end

  for _, background in ipairs { true, false } do
    it("over one task at a time, background " .. tostring(background), function()
      local got = shell.run(("MANTICHORA_CHAOS=1,0.1 %s -e %s"):format(shell.interpreter, shell.quote(([[
        local mantichora = require "mantichora"
        local mcore <close> = mantichora { nworkers = 1, background = %s }
        for i = 1, 100 do
          local runid = mcore:run_with({ retries = 1000 }, function() return i end)
          local received, value = mcore:receive_one(10) -- nothing else moves things on
          assert(received == runid and value == i, value)
        end
        io.write("all came")]]):format(background))), { timeout = 60 })
      assert.are.equal("all came", got.out, got.err)
    end)
  end

  it("is refused when the words are unclear", function()
    for _, words in ipairs { "x", "1,2", "1,", "1,0.5 ", "1;2" } do
      local got = shell.run(("MANTICHORA_CHAOS=%s %s -e 'require \"mantichora\"()'"):format(
        shell.quote(words), shell.interpreter))
      assert.truthy(got.err:find('MANTICHORA_CHAOS must be seed[,rate], an integer and a number from 0 to 1: "'
        .. words .. '" is given', 1, true), got.err)
      assert.are.equal(1, got.status)
    end
  end)
end)

describe("a soak", function()
  it("of ten seconds leaves the process as it was", function()
    local got = shell.run(shell.interpreter .. " scripts/bench/soak.lua 10 >/dev/null", { timeout = 60 })
    if scale < 1 then -- sanitizers keep what is freed: descriptors and threads count, memory does not
      local complaints = got.err:match("not flat: (.*)\n$") or ""
      for _, what in ipairs { "maps", "rss" } do
        complaints = complaints:gsub("; " .. what .. " grew from %d+ to %d+", "")
          :gsub("^" .. what .. " grew from %d+ to %d+;? ?", "")
      end
      if complaints == "" then got.err = got.err:gsub("not flat: .*\n$", "flat\n") end
    end
    assert.truthy(got.err:find("\nflat\n$"), got.err)
  end)
end)

describe("a killed worker", function()
  it("is known of within a second, whatever it did", function()
    local got = shell.run(shell.interpreter .. " scripts/bench/death_latency.lua 8", { timeout = 60 })
    assert.are.equal(0, got.status, got.err)
    local count = 0
    for engine, what, worst in got.out:gmatch("\n(%w+) +worker ([%a ]-) +[%d.]+ +([%d.]+)") do
      count = count + 1
      assert.is_true(tonumber(worst) < 1000, ("%s, %s: %s ms"):format(engine, what, worst))
    end
    assert.are.equal(6, count, got.out)
  end)
end)

describe("a worker that passed over many cancelled tasks", function()
  -- Tickets have run round the page of claims: see has_ticket() in engine_fork.c.
  for _, counts in ipairs { { 0, 126 }, { 0, 127 }, { 1, 126 }, { 2, 124 }, { 2, 125 }, { 3, 125 }, { 60, 200 } } do
    local before, cancelled = counts[1], counts[2]
    it(("goes on: %d unread answers, %d cancelled"):format(before, cancelled), function()
      local mcore <close> = mantichora { nworkers = 1, background = false, on_error = "return" }
      for i = 1, before do mcore:run(function() return i end) end
      mcore:run(function() mantichora.sleep(0.3) return "slow" end)
      if before > 0 then
        process.wait(function() return mcore:workers()[1].runid == before end)
      end
      for _ = 1, cancelled do assert.are.equal("queued", mcore:cancel(mcore:run(print, "never"))) end
      mcore:run(function() return "last" end)
      for _ = 0, before + cancelled + 1 do
        local runid, value = assert(mcore:receive_one(20))
        if runid < before then assert.are.equal(runid + 1, value)
        elseif runid == before then assert.are.equal("slow", value)
        elseif runid == before + cancelled + 1 then assert.are.equal("last", value)
        else assert.are.equal("cancelled", value.kind) end
      end
      assert.is_nil(mcore:receive_one(0))
    end)
  end
end)

-- A program under conditions that the shell makes. It prints its sum, or the problem that was raised.
local function errand(conditions, arguments, redirections, prefix)
  return shell.run(("%s; exec %s %s spec/support/errand.lua %s %s"):format(conditions, prefix or "",
    shell.interpreter, arguments, redirections or ""), { timeout = 30 })
end

local function sum_of(n) return ("sum %d\n"):format(n * (n + 1) // 2) end

describe("a system with nothing left:", function()
  for _, engine in ipairs { "fork", "snapshot" } do
    describe("engine " .. engine, function()
      it("no descriptors", function()
        local problems, sums = 0, 0
        for files = 4, 40, 3 do
          local got = errand("ulimit -n " .. files, "4 " .. engine)
          local problem = got.err:match("problem: ([^\n]*)")
          if problem then
            problems = problems + 1
            assert.truthy(problem:find("Too many open files", 1, true)
              or problem:find("module 'mantichora", 1, true) -- it could not even be opened
              or problem:find("error loading module", 1, true), problem)
          elseif not got.err:find("error while loading shared libraries", 1, true) then
            sums = sums + 1
            assert.truthy(got.err:find(sum_of(12), 1, true), ("with %d: %s"):format(files, got.err))
          end
        end
        assert.is_true(problems > 0 and sums > 0)
      end)

      it("no processes", function()
        -- A user who certainly runs nothing else, nor is that of a suite beside this one; root has
        -- no such limit.
        local self <close> = assert(io.open("/proc/self/stat"))
        local as = "prlimit --nproc=%d setpriv --reuid=" .. 20000 + self:read("n") % 40000 .. " --clear-groups "
        local try = as:format(5) .. "test -r spec/support/errand.lua -a -r build"
        if shell.run(try).status ~= 0 then return pending("cannot become another user") end
        local problems, sums = 0, 0
        for most = 0, 8 do
          local got = errand(":", "4 " .. engine, nil, as:format(most))
          local problem = got.err:match("problem: ([^\n]*)")
          if problem then
            problems = problems + 1
            assert.truthy(problem:find("cannot start .*: Resource temporarily unavailable"), problem)
          else
            sums = sums + 1
            assert.truthy(got.err:find(sum_of(12), 1, true), ("with %d: %s"):format(most, got.err))
          end
        end
        assert.is_true(problems > 0 and sums > 0)
      end)

      it("no room behind stdout", function()
        local got = errand(":", "4 " .. engine, ">/dev/full")
        assert.truthy(got.err:find(sum_of(12), 1, true), got.err)
      end)

      it("no room behind stderr", function()
        local got = errand(":", "4 " .. engine, "2>/dev/full")
        local _, lines = got.out:gsub("printed by %d+\n", "")
        assert.are.equal(12, lines, got.out)
        assert.are.equal(0, got.status)
      end)

      it("no stdout", function()
        local got = errand(":", "4 " .. engine, ">&-")
        assert.truthy(got.err:find(sum_of(12), 1, true), got.err)
      end)

      it("no standard descriptor", function()
        local got = errand(":", "4 " .. engine, "<&- >&- 2>&-")
        assert.are.equal(0, got.status)
      end)
    end)
  end

  it("no memory", function()
    if scale < 1 then return pending("sanitizers want all memory there is") end
    -- The answer does not fit into this process; the others come.
    local got = shell.run("ulimit -v 120000; exec " .. shell.interpreter .. " -e " .. shell.quote [[
      local mcore <close> = require "mantichora" { nworkers = 2, on_error = "return" }
      local function large(n) return ("x"):rep(n) end
      for _, n in ipairs { 10, 30000000, 20, 90000000, 30 } do mcore:run(large, n) end
      for i, value in ipairs(mcore:returns()) do
        print(i, type(value) == "string" and #value or value.kind .. ": " .. value.message)
      end
      local many = {}
      for i = 1, 700 do many[i] = ("x"):rep(60000) end
      print(pcall(mcore.run, mcore, print, many))
      many = nil
      collectgarbage()
      mcore:run(string.len, ("x"):rep(25000000)) -- a long string is not copied
      print(mcore:returns()[1])]], { timeout = 30 })
    assert.are.equal(0, got.status, got.err)
    assert.truthy(got.out:find("^1\t10\n"), got.out)
    assert.truthy(got.out:find("\n3\t20\n"), got.out)
    assert.truthy(got.out:find("\n4\terror: not enough memory[^\n]*\n5\t30\n"), got.out)
    assert.truthy(got.out:find("\nfalse\t[^\n]*not enough memory[^\n]*\n25000000\n$"), got.out)
  end)
end)

describe("a worker that is stopped by SIGSTOP", function()
  it("goes on after SIGCONT, and the others meanwhile", function()
    local mcore <close> = mantichora { nworkers = 2 }
    for i = 1, 40 do mcore:run(function() mantichora.sleep(0.01) return i end) end
    local pid = mcore:workers()[1].pid
    os.execute("kill -STOP " .. pid)
    process.wait(function() return mcore:poll(0.01) >= 38 end)
    os.execute("kill -CONT " .. pid)
    local results = mcore:returns()
    for i = 1, 40 do assert.are.equal(i, results[i]) end
  end)

  it("meets its timeout", function()
    local mcore <close> = mantichora { nworkers = 1, timeout = 0.3, on_error = "return" }
    mcore:run(function() mantichora.sleep(30) end)
    process.wait(function() mcore:poll(0.01) return mcore:workers()[1].runid == 0 end)
    os.execute("kill -STOP " .. mcore:workers()[1].pid)
    local _, value = assert(mcore:receive_one(10))
    assert.are.equal("timeout", value.kind)
    mcore:run(function() return "next" end)
    assert.are.same({ n = 1, "next" }, mcore:returns())
  end)

  it("does not keep close from returning", function()
    local mcore = mantichora { nworkers = 2 }
    mcore:start()
    os.execute("kill -STOP " .. mcore:workers()[1].pid)
    mcore:close()
    assert.are.same({}, process.children())
  end)
end)
