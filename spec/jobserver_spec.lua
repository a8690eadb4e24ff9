-- nworkers = "auto" under make -j: tasks beside another want a token of make's jobserver.

local shell = require "spec.support.shell"

local folder
local count = 0
setup(function() folder = shell.folder() end)
teardown(function() shell.remove(folder) end)

-- `trace` has a line for each begin and end of a task.
local prelude = [[
  local m = require "mantichora"
  local logging = require "mantichora.logging"
  local trace = ...
  local function note(text)
    local file <close> = assert(io.open(trace, "a"))
    file:write(text .. "\n")
  end
  local function noting(duration)
    return function()
      note "begin"
      m.sleep(duration or 0.1)
      note "end"
      return m.runid()
    end
  end
]]

-- Files of a test: the script, its trace, a FIFO.
local function files(body)
  count = count + 1
  local base = ("%s/%d"):format(folder, count)
  shell.write(base .. ".lua", prelude .. body)
  return { script = base .. ".lua", trace = base .. ".trace", fifo = base .. ".fifo", makefile = base .. ".mk",
    command = ("%s %s.lua %s.trace"):format(shell.interpreter, base, base) }
end

local function trace_of(file)
  local running, most, lines = 0, 0, 0
  local input <close> = io.open(file.trace)
  for line in (input and input:lines() or function() end) do
    lines = lines + 1
    running = running + (line == "begin" and 1 or line == "end" and -1 or 0)
    if running > most then most = running end
  end
  return most, lines
end

-- Run the commands beside a jobserver with these tokens; what they print, and then the tokens that it has left.
local function beside(tokens, file, commands, options)
  local result = shell.run(([[
    mkfifo %s
    exec 9<>%s
    printf '%%s' '%s' >&9
    %s
    status=$?
    echo
    dd if=%s iflag=nonblock bs=64 count=1 2>/dev/null
    exit $status
  ]]):format(file.fifo, file.fifo, tokens, commands, file.fifo), options)
  local out, left = result.out:match("^(.*)\n(.-)$")
  local sorted = {}
  for byte in left:gmatch(".") do sorted[#sorted + 1] = byte end
  table.sort(sorted)
  return out, table.concat(sorted), result
end

local function flags_fifo(file) return ("MAKEFLAGS=' -j3 --jobserver-auth=fifo:%s' "):format(file.fifo) end
local flags_pipe = "MAKEFLAGS='k -j3 --jobserver-auth=9,8 -- X=--jobserver-auth=1,2' "

describe("under make -j", function()
  it("two scripts of make -j2 run 2 tasks, not 4", function()
    local file = files [[
      local p <close> = m { nworkers = "auto", progressbar = false }
      for _ = 1, 8 do p:run(noting()) end
      assert(p:returns().n == 8)
    ]]
    shell.write(file.makefile, ("all: a b\na b:\n\t+@%s\n"):format(file.command))
    local result = shell.run("make -s -j2 -f " .. file.makefile)
    assert.are.equal("", result.err)
    assert.are.equal(0, result.status)
    local most, lines = trace_of(file)
    assert.are.equal(32, lines)
    assert.are.equal(2, most)
  end)

  it("one script of make -j2 runs 2 tasks, of make -j1 one, of make without -j as many as there are CPUs", function()
    local body = [[
      local p <close> = m { nworkers = "auto", progressbar = false }
      for _ = 1, 6 do p:run(noting(0.2)) end
      p:returns()
      print(#p:workers())
    ]]
    local cpus = shell.run(shell.interpreter .. " -e \"print(require('mantichora').cpu_count())\"").out
    local function under(flags)
      local file = files(body)
      shell.write(file.makefile, ("all:\n\t+@%s\n"):format(file.command))
      local result = shell.run("make -s " .. flags .. " -f " .. file.makefile)
      assert.are.equal("", result.err)
      local most, lines = trace_of(file)
      assert.are.equal(12, lines)
      return most, result.out
    end
    if tonumber(cpus) >= 2 then
      local most, out = under "-j2"
      assert.are.same({ 2, "2\n" }, { most, out })
    else
      print "(one CPU only: not tried with two)"
    end
    local most, out = under "-j1"
    assert.are.same({ 1, "1\n" }, { most, out })
    most, out = under ""
    assert.are.same({ math.min(6, tonumber(cpus)), cpus }, { most, out })
  end)

  it("says once that the recipe has no +, and runs one task at a time", function()
    local file = files [[
      for _ = 1, 2 do
        local p <close> = m { nworkers = "auto", progressbar = false }
        for _ = 1, 3 do p:run(noting(0.05)) end
        p:returns()
      end
    ]]
    shell.write(file.makefile, ("all:\n\t@%s\n"):format(file.command))
    local result = shell.run("make -s -j2 -f " .. file.makefile)
    local most, lines = trace_of(file)
    assert.are.equal(12, lines)
    if result.err ~= "" then -- make 4.4 hands out a FIFO, which needs no +
      assert.are.equal(1, most)
      assert.is_truthy(result.err:find("^WARNING:mantichora:nworkers = \"auto\" under make %-j, whose jobserver cannot "
        .. "be used: [^\n]*closed[^\n]*; one task runs at a time\n$"), result.err)
    else
      assert.are.equal(2, most)
    end
  end)

  it("other words of MAKEFLAGS", function()
    local function warned(makeflags)
      local file = files [[
        local p <close> = m { nworkers = "auto", progressbar = false }
        for _ = 1, 3 do p:run(noting(0.1)) end
        p:returns()
        io.write(#p:workers())
      ]]
      local result = shell.run(("MAKEFLAGS='%s' %s"):format(makeflags, file.command))
      local lines = select(2, result.err:gsub("WARNING:mantichora:[^\n]*\n", ""))
      assert.are.equal(lines, select(2, result.err:gsub("\n", "")))
      return lines, result.out == "1"
    end
    for _, flags in ipairs { " -j4", "kj", "w --jobs=3", " -j2 --jobserver-auth=-2,-2", " -j2 --jobserver-auth=57,58",
      " -j2 --jobserver-auth=0,1", " -j2 --jobserver-fds=nonsense", " -j2 --jobserver-auth=fifo:/nowhere/at/all",
      "--jobserver-auth=fifo:/dev/null -j" } do
      local lines, alone = warned(flags)
      assert.are.same({ 1, true, flags }, { lines, alone, flags })
    end
    assert.are.same({ 0, true }, { warned " -j1" })
    for _, flags in ipairs { "", "w", "ks", " -- A=-j2", "-k -- --jobserver-auth=1,2" } do
      assert.are.equal(0, (warned(flags)), flags)
    end
  end)

  it("explicit numbers ask for nothing", function()
    local file = files [[
      local p <close> = m { nworkers = 3, progressbar = false }
      for _ = 1, 3 do p:run(noting(0.5)) end
      p:returns()
    ]]
    local _, left, result = beside("", file, flags_fifo(file) .. file.command)
    assert.are.same({ "", "", 3 }, { left, result.err, (trace_of(file)) })
  end)

  for form, flags in pairs { fifo = flags_fifo, pipe = function() return "exec 8>&9\n" .. flags_pipe end } do
    it("takes tokens and gives the same ones back (" .. form .. ")", function()
      local file = files [[
        local p <close> = m { nworkers = "auto", progressbar = false }
        for _ = 1, 6 do p:run(noting()) end
        assert(p:returns().n == 6)
        local list = {}
        for i = 1, 50 do list[i] = i end
        local values = p:map(function(i) return -i end, list)
        for i = 1, 50 do assert(values[i] == -i) end
        for i, v in p:imap(function(i) return -i end, list) do assert(v == -i) end
      ]]
      local _, left, result = beside("xy", file, flags(file) .. file.command)
      assert.are.equal("", result.err)
      assert.are.equal("xy", left)
      assert.are.equal(0, result.status)
      local most, lines = trace_of(file)
      assert.are.equal(12, lines)
      assert.is_true(most <= 3)
    end)
  end

  it("runs one task at a time while there is no token, and polls without waiting", function()
    local file = files [[
      local p <close> = m { nworkers = "auto", progressbar = false }
      for _ = 1, 3 do p:run(noting(0.2)) end
      for _ = 1, 100 do p:poll(0) end
      assert(p:returns().n == 3)
      p:run(m.sleep, 60)
      local second = p:run(m.sleep, 60)
      p:poll(0.1)
      assert(p:cancel(second) == "queued")
      assert(p:cancel(second - 1) == "running")
    ]]
    local _, left, result = beside("", file, flags_fifo(file) .. file.command)
    assert.are.same({ "", "", 0, 1 }, { result.err, left, result.status, (trace_of(file)) })
  end)

  it("goes on when a token comes", function()
    local file = files [[
      local p <close> = m { nworkers = "auto", progressbar = false }
      local first = p:run(function() while not io.open(trace .. ".done") do m.sleep(0.01) end return "first" end)
      p:run(function() io.open(trace .. ".done", "w"):close() return "second" end)
      p:poll(0.3)
      assert(not io.open(trace .. ".done"), "it ran without a token")
      io.open(trace .. ".waits", "w"):close()
      local results = p:returns()
      io.write(results[1], results[2])
    ]]
    local commands = "%s%s &\nwhile ! test -e %s.waits; do sleep 0.02; done\nprintf z >&9\nwait $!"
    local out, left, result = beside("", file, commands:format(flags_fifo(file), file.command, file.trace))
    assert.are.same({ "firstsecond", "z", "" }, { out, left, result.err })
  end)

  -- Two long tasks run, one of them with the token; then the script ends in some way.
  local busy = [[
    local p <close> = m { nworkers = "auto", progressbar = false }
    p:start()
    for i = 1, 2 do
      p:run(function()
        io.open(trace .. ".runs" .. i, "w"):close()
        m.sleep(60)
      end)
    end
    while not (io.open(trace .. ".runs1") and io.open(trace .. ".runs2")) do p:poll(0.01) end
  ]]
  local function runs(file)
    return ("while ! test -e %s.runs1 || ! test -e %s.runs2; do sleep 0.02; done\n"):format(file.trace, file.trace)
  end

  for name, signal in pairs { SIGTERM = "TERM", ["Ctrl-C"] = "INT", SIGHUP = "HUP" } do
    it("gives tokens back at " .. name, function()
      local file = files(busy .. "p:returns()")
      -- A shell starts what it runs in the background with SIGINT ignored.
      local commands = "%s env --default-signal=INT %s 2>/dev/null &\n%skill -%s $!\nwait $! 2>/dev/null"
      local out, left, result = beside("t", file, commands:format(flags_fifo(file), file.command, runs(file), signal))
      assert.are.same({ "", "t" }, { out, left })
      assert.is_true(result.status ~= 0)
    end)
  end

  for name, ending in pairs { ["the end of the scope"] = "error('no', 0)", ["os.exit"] = "os.exit(3)",
    ["lua_close"] = "os.exit(3, true)", ["close after terminate"] = "p:terminate() p:close() os.exit(3)",
    collection = "q = m { nworkers = 'auto' } q:run(m.sleep, 60) q = nil p:terminate() collectgarbage() os.exit(3)" } do
    it("gives tokens back at " .. name, function()
      local file = files(busy .. ending)
      local _, left, result = beside("t", file, flags_fifo(file) .. file.command)
      assert.are.equal("t", left)
      assert.is_true(result.status ~= 0)
    end)
  end

  it("has pools of one process share", function()
    local file = files [[
      local p <close> = m { nworkers = "auto", progressbar = false }
      local q <close> = m { nworkers = "auto", progressbar = false }
      for _ = 1, 4 do
        p:run(noting())
        q:run(noting())
      end
      assert(p:returns().n == 4 and q:returns().n == 4)
    ]]
    local _, left, result = beside("t", file, flags_fifo(file) .. file.command)
    assert.are.same({ "", "t" }, { result.err, left })
    local most, lines = trace_of(file)
    assert.are.equal(16, lines)
    assert.is_true(most <= 2, most)
    file = files [[
      local p <close> = m { nworkers = "auto", progressbar = false }
      local q <close> = m { nworkers = "auto", progressbar = false }
      p:run(noting(0.3))
      q:run(noting())
      assert(q:returns().n == 1 and p:returns().n == 1)
    ]]
    _, left, result = beside("", file, flags_fifo(file) .. file.command)
    assert.are.same({ "", "", 1 }, { result.err, left, (trace_of(file)) })
  end)

  it("has pools of tasks share, and gets back what a killed one had", function()
    local file = files [[
      local p <close> = m { nworkers = "auto", progressbar = false, on_error = "return" }
      for _ = 1, 2 do
        p:run(function()
          local q <close> = m { nworkers = "auto", progressbar = false }
          for _ = 1, 4 do q:run(noting(0.05)) end
          return q:returns().n
        end)
      end
      local results = p:returns()
      assert(results[1] == 4 and results[2] == 4)
      p:run(function()
        local q <close> = m { nworkers = "auto", progressbar = false }
        for i = 1, 2 do
          q:run(function()
            io.open(trace .. ".runs" .. i, "w"):close()
            m.sleep(60)
          end)
        end
        while not (io.open(trace .. ".runs1") and io.open(trace .. ".runs2")) do q:poll(0.01) end
        os.execute "kill -9 $PPID"
      end)
      assert(p:returns()[1].kind == "killed")
      p:run(function() -- only beside another that has the token can it see the file
        for _ = 1, 500 do
          if io.open(trace .. ".beside") then return true end
          m.sleep(0.01)
        end
        return false
      end)
      p:run(function() io.open(trace .. ".beside", "w"):close() end)
      assert(p:returns()[1] == true)
    ]]
    local _, left, result = beside("t", file, flags_fifo(file) .. file.command)
    assert.are.same({ "", "t", 0 }, { result.err, left, result.status })
    local most, lines = trace_of(file)
    assert.are.equal(16, lines)
    assert.is_true(most <= 2, most)
  end)

  it("works with the engine snapshot, with resize, and leaves no descriptor", function()
    local file = files [[
      local function open() -- not by a pipe, of which both ends may be open at that time
        os.execute("ls /proc/$PPID/fd | wc -l >" .. trace .. ".open")
        local file <close> = assert(io.open(trace .. ".open"))
        return file:read "n"
      end
      local before = open()
      do
        local p <close> = m { nworkers = "auto", engine = "snapshot", progressbar = false }
        for _ = 1, 4 do p:run(noting(0.05)) end
        assert(p:returns().n == 4)
      end
      do
        local p <close> = m { nworkers = 1, progressbar = false }
        p:run(noting(0.05))
        p:resize "auto"
        for _ = 1, 4 do p:run(noting(0.05)) end
        assert(p:returns().n == 5)
        p:resize(1)
        p:resize "auto"
        p:resize "auto"
        for _ = 1, 4 do p:run(noting(0.05)) end
        assert(p:returns().n == 4)
      end
      assert(open() == before)
    ]]
    local _, left, result = beside("t", file, flags_fifo(file) .. "MANTICHORA_ATTACH=0 " .. file.command)
    assert.are.same({ "", "t", 0 }, { result.err, left, result.status })
    assert.are.equal(26, (select(2, trace_of(file))))
    assert.is_true(trace_of(file) <= 2)
  end)
end)
