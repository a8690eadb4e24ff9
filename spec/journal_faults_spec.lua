-- What a journal does where something is wrong with it, or around it: the run goes on with right results, one line
-- says what is wrong, and what others could have written is not used.

local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local is_root = io.popen("id -u"):read("n") == 0

describe("a journal", function()
  local folder, path
  before_each(function()
    folder = shell.folder()
    path = folder .. "/x.mj"
  end)
  after_each(function() shell.remove(folder) end)

  local function run(text, options)
    options = options or {}
    shell.write(folder .. "/script.lua", "local path, folder = ...\n" .. text)
    return shell.run(("%s %s %s/script.lua %s %s"):format(options.before or "", shell.interpreter, folder, path,
      folder), { timeout = options.timeout or 30 })
  end

  local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

  local squares = [[
    local mantichora = require "mantichora"
    local pool <close> = mantichora { nworkers = 2, journal = path }
    local squares = pool:map(function(n) return n * n end, { 1, 2, 3, 4, 5 })
    io.stderr:write(table.concat(squares, " "), " ", pool:stats().found, "\n")
  ]]

  local function refused(what)
    local fine, problem = pcall(mantichora, { journal = path })
    assert.is_false(fine)
    assert.truthy(tostring(problem):find(what, 1, true), problem)
  end

  it("is refused where others could have written it", function()
    assert.are.equal("1 4 9 16 25 0\n", run(squares).err)
    os.execute(("chmod g+w %s"):format(path))
    refused("others may write")
    os.execute(("chmod g-w %s; mv %s %s.real; ln -s %s.real %s"):format(path, path, path, path, path))
    refused("is a symbolic link")
    os.execute(("rm %s; mv %s.real %s; ln -s /dev/null %s-wal"):format(path, path, path, path))
    refused("-wal is a symbolic link")
    os.execute(("rm %s-wal; mkfifo %s-shm"):format(path, path))
    refused("-shm is no plain file")
    os.execute(("rm %s-shm; chmod o+w %s"):format(path, folder))
    refused("others may write its folder")
    os.execute(("chmod +t %s"):format(folder))
    assert.are.equal("1 4 9 16 25 5\n", run(squares).err)
    os.execute(("ln -s /tmp %s-values"):format(path))
    refused("-values is a symbolic link")
    os.execute(("rm %s-values; mkdir %s-values; chmod 777 %s-values"):format(path, path, path))
    refused("others may write")
    os.execute(("chmod 700 %s-values"):format(path))
    if not is_root then return print("not root: a file of another user was not tried") end
    os.execute(("chown 65534 %s"):format(path))
    refused("belongs to another user")
  end)

  it("does not take large values out of files of others", function()
    if not is_root then return print("not root: files of another user were not tried") end
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1, journal = path }
      pool:run(string.rep, "x", 2 << 20)
      assert(#pool:returns()[1] == 2 << 20)
      io.stderr:write(pool:stats().found, "\n")
    ]]
    assert.are.equal("0\n", run(text).err)
    assert.are.equal("1\n", run(text).err)
    os.execute(("chown 65534 %s-values/*"):format(path))
    assert.truthy(run(text).err:find("\n0\n$"))
    os.execute(("for f in %s-values/*; do mv $f $f.real; ln -s $f.real $f; done"):format(path))
    assert.truthy(run(text).err:find("\n0\n$"))
  end)

  it("that is no journal, or of another version, is left as it is", function()
    shell.write(path, ("some other file "):rep(500))
    local got = run(squares).err
    assert.are.equal(1, count(got, "ERROR:mantichora:"), got)
    assert.truthy(got:find("is no journal of mantichora", 1, true), got)
    assert.truthy(got:find("\n1 4 9 16 25 0\n", 1, true), got)
    assert.are.equal(("some other file "):rep(500), io.open(path):read("a"))
    os.remove(path)
    run(squares)
    local journal = require "mantichora.journal"
    for _, sql in ipairs { "PRAGMA user_version = 99", "PRAGMA application_id = 3",
      "UPDATE meta SET value = 'Lua 9.9 graph 1' WHERE name = 'format'" } do
      os.execute(("cp %s %s/copy"):format(path, folder))
      local file = assert(journal.look(path, true))
      file:exec(sql)
      file = nil -- luacheck: ignore
      collectgarbage()
      local before = io.open(path):read("a")
      got = run(squares).err
      assert.are.equal(1, count(got, "ERROR:mantichora:"), got)
      assert.truthy(got:find("\n1 4 9 16 25 0\n", 1, true), got)
      assert.is_true(before == io.open(path):read("a"))
      os.execute(("rm -f %s*; cp %s/copy %s"):format(path, folder, path))
    end
    assert.are.equal("1 4 9 16 25 5\n", run(squares).err)
  end)

  it("whose values are damaged runs their tasks again, with one line", function()
    run(squares)
    local journal = require "mantichora.journal"
    local file = assert(journal.look(path, true))
    file:exec("UPDATE tasks SET value = x'0401024b53' WHERE id < 4")
    file = nil -- luacheck: ignore
    collectgarbage()
    local got = run(squares).err
    assert.are.equal(1, count(got, "WARNING:mantichora:"), got)
    assert.truthy(got:find("\n1 4 9 16 25 2\n", 1, true), got)
    assert.are.equal("1 4 9 16 25 5\n", run(squares).err)
  end)

  it("whose pages are damaged costs no result", function()
    run(squares)
    local size = #io.open(path):read("a")
    for at = 4096, size - 4096, 8192 do
      os.execute(("cp %s %s/copy; head -c 4000 /dev/urandom | dd of=%s bs=1 seek=%d conv=notrunc 2>/dev/null"):format(
        path, folder, path, at))
      local got = run(squares)
      assert.are.equal(0, got.status, got.err)
      assert.truthy(got.err:find("1 4 9 16 25 %d\n"), got.err)
      assert.is_true(count(got.err, "[A-Z]+:mantichora:") <= 2, got.err)
      os.execute(("rm -f %s*; cp %s/copy %s"):format(path, folder, path))
    end
  end)

  it("that can only be read gives what it has", function()
    if not is_root then return print("not root: no other user to run as") end
    run(squares)
    os.execute(("chown -R 65534 %s; chmod 500 %s; chmod 400 %s"):format(folder, folder, path))
    local got = run(squares, { before = "setpriv --reuid=65534 --clear-groups" }).err
    assert.are.equal(1, count(got, "ERROR:mantichora:"), got)
    assert.truthy(got:find("\n1 4 9 16 25 5\n", 1, true), got)
  end)

  it("whose file may not grow goes on with right results", function()
    for _, blocks in ipairs { 1, 100 } do -- it cannot be made; not all fits in
      local got = run([[
        local pool <close> = require "mantichora" { nworkers = 2, journal = path }
        for i = 1, 300 do pool:run(function() return ("x"):rep(1000) .. i end) end
        local sum = 0
        for _, value in ipairs(pool:returns()) do sum = sum + #value end
        io.stderr:write(sum, " ", pool:stats().ok, "\n")
      ]], { before = ("ulimit -f %d;"):format(blocks) })
      assert.are.equal(0, got.status, got.err)
      assert.truthy(got.err:find("300792 300\n", 1, true), got.err)
      assert.are.equal(1, count(got.err, "ERROR:mantichora:the journal [^\n]* cannot be written"), got.err)
    end
    assert.are.equal("1 4 9 16 25 0\n", run(squares).err)
    assert.are.equal("1 4 9 16 25 5\n", run(squares).err)
  end)

  it("on a full disk goes on with right results", function()
    if not is_root or not os.execute(("mount -t tmpfs -o size=300k,mode=700 tmpfs %s 2>/dev/null"):format(folder)) then
      return print("no tmpfs can be mounted: a full disk was not tried")
    end
    finally(function() os.execute(("umount %s"):format(folder)) end)
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 2, journal = path }
      for i = 1, 40 do pool:run(function() return ("x"):rep(10000) .. i end) end
      for i, value in ipairs(pool:returns()) do assert(value == ("x"):rep(10000) .. i) end
      local first = pool:map(function(n) return n + 1 end, { 1, 2 })
      assert(first[1] == 2 and first[2] == 3)
      io.stderr:write("fine ", pool:stats().found, "\n")
    ]]
    local got = run(text)
    assert.are.equal(0, got.status, got.err)
    assert.are.equal(1, count(got.err, "ERROR:mantichora:[^\n]*disk is full"), got.err)
    assert.truthy(got.err:find("fine 0\n", 1, true))
    got = run(text)
    assert.are.equal(0, got.status, got.err)
    assert.truthy(got.err:find("fine %d+\n"), got.err)
  end)

  it("is used by several scripts at once", function()
    local text = [[
      local mantichora = require "mantichora"
      local own = tonumber(os.getenv "OWN")
      for round = 1, 3 do
        local pool <close> = mantichora { nworkers = 2, journal = path }
        for i = 1, 150 do pool:run_with({ key = round }, function() return own * 1000 + i end) end
        for i, value in ipairs(pool:returns()) do assert(value == own * 1000 + i) end
      end
    ]]
    shell.write(folder .. "/script.lua", "local path, folder = ...\n" .. text)
    local parts = {}
    for own = 1, 3 do
      parts[own] = ("OWN=%d %s %s/script.lua %s & p%d=$!"):format(own, shell.interpreter, folder, path, own)
    end
    local got = shell.run(table.concat(parts, "\n") .. "\nwait $p1 && wait $p2 && wait $p3")
    assert.are.equal(0, got.status, got.err)
    assert.are.equal("", got.err)
    local file = assert(require "mantichora.journal".look(path))
    local row = file:rows("SELECT count(*) AS n, count(DISTINCT key) AS keys, count(DISTINCT run) AS runs FROM tasks")()
    assert.are.same({ n = 1350, keys = 1350, runs = 3 }, row)
  end)

  it("that another script keeps busy is written later", function()
    run(squares)
    local text = [[
      local mantichora = require "mantichora"
      local file = require "mantichora.journal".look(path, true)
      file:exec "BEGIN IMMEDIATE"
      local pool <close> = mantichora { nworkers = 2, journal = path }
      local found = 0
      for i = 1, 20 do pool:run(function() return -i end) end
      assert(#pool:returns() == 20)
      for i = 1, 5 do pool:run(function(n) return n * n end, i) end -- others than before: it counts who comes
      pool:returns()
      mantichora.sleep(0.3)
      local rows = 0
      for row in require "mantichora.journal".look(path):rows "SELECT id FROM tasks" do rows = rows + 1 end
      assert(rows == 5)
      file:exec "ROLLBACK"
      local deadline = os.time() + 10
      repeat
        mantichora.sleep(0.02)
        rows = 0
        for row in require "mantichora.journal".look(path):rows "SELECT id FROM tasks" do rows = rows + 1 end
      until rows >= 25 or os.time() > deadline
      io.stderr:write(rows, "\n")
    ]]
    local got = run(text)
    assert.truthy(got.err:find("^%d+\n$"), got.err)
    assert.is_true(tonumber(got.err) >= 25)
  end)

  -- A script that is killed at any moment goes on where it was.
  local bake = [[
    local mantichora = require "mantichora"
    local background = os.getenv "BACKGROUND" == "1"
    local pool <close> = mantichora { nworkers = 3, journal = path, background = background, seed = 7 }
    local list = {}
    for i = 1, 60 do list[i] = i end
    local function step(i)
      local sum = 0
      for k = 1, 40000 do sum = sum + k % i end
      mantichora.emit(i)
      return i * i + sum * 0, math.random(1 << 30), { ("v"):rep(i), i }
    end
    for i in ipairs(list) do pool:run_with({ retries = 20, retry_on = { "killed", "exited" } }, step, i) end
    local lines = {}
    for _, value in ipairs(pool:receive_all()) do
      lines[#lines + 1] = ("%d %d %d %d"):format(value[2], value[3], #value[4][1], value[4][2])
    end
    for i, value in pool:imap(step, list, { retries = 20 }) do lines[#lines + 1] = i .. " " .. value end
    io.stdout:write(table.concat(lines, "\n"), "\n")
    io.stderr:write("found ", pool:stats().found, "\n")
  ]]

  -- For the figures: MANTICHORA_KILLS=200 busted spec/journal_faults_spec.lua
  it("is whole after kill -9 of its script at random moments, under chaos", function()
    local kills = tonumber(os.getenv("MANTICHORA_KILLS")) or 6
    local function seconds() return tonumber(io.open("/proc/uptime"):read("a"):match("%S+")) end
    local begun = seconds()
    local expected = run(bake, { before = "BACKGROUND=1" })
    local span = seconds() - begun
    assert.are.equal(0, expected.status, expected.err)
    os.execute(("rm -f %s*"):format(path))
    local found_most, killed, finished = 0, 0, 0
    math.randomseed(tonumber(os.getenv("MANTICHORA_KILLS_SEED")) or 20)
    for i = 1, kills do
      local how = "timeout -s KILL %.3f env MANTICHORA_CHAOS=%d,0.01 BACKGROUND=%d"
      local got = run(bake, { timeout = 60, before = how:format(0.02 + math.random() * span, i, i % 2) })
      if got.status == 0 then
        finished = finished + 1
        assert.are.equal(expected.out, got.out)
        os.execute(("rm -f %s*"):format(path))
      else
        killed = killed + 1
        assert.are.equal(137, got.status, got.err)
      end
      assert.is_nil(got.err:find("ERROR", 1, true), got.err)
      if i % 4 == 0 then
        got = run(bake, { before = "BACKGROUND=1" })
        assert.are.equal(0, got.status, got.err)
        assert.are.equal(expected.out, got.out)
        found_most = math.max(found_most, tonumber(got.err:match("found (%d+)")))
        if i % 8 == 0 then os.execute(("rm -f %s*"):format(path)) end
      end
    end
    local file = require "mantichora.journal".look(path)
    for row in file and file:rows "PRAGMA integrity_check" or function() end do
      assert.are.equal("ok", row.integrity_check)
    end
    if kills > 6 then
      print(("%d killed, %d finished before; %d found at most"):format(killed, finished, found_most))
    end
  end)

  it("leaves no thread or descriptor behind", function()
    local function once()
      local pool <close> = mantichora { nworkers = 1, journal = path }
      pool:run(math.abs, -1)
      pool:returns()
    end
    once()
    local descriptors, threads = process.descriptors(), process.threads()
    for _ = 1, 3 do once() end
    assert.are.equal(descriptors, process.descriptors())
    assert.are.equal(threads, process.threads())
  end)
end)
