-- The journal: what a script has done is found the next time. Whether two tasks are the same is key_spec's business;
-- here is what is kept of them, where, and what comes of it.

local logging = require "mantichora.logging"
local mantichora = require "mantichora"
local shell = require "spec.support.shell"

local engines = { "fork", "snapshot", "inline" }

describe("a pool with a journal", function()
  local folder, path, records, handler
  before_each(function()
    folder = shell.folder()
    path = folder .. "/x.mj"
    records = {}
    handler = logging.add_handler(function(record) records[#records + 1] = record end)
  end)
  after_each(function()
    logging.remove_handler(handler)
    shell.remove(folder)
  end)

  -- Said by the logger at this level.
  local function said(level)
    local list = {}
    for _, record in ipairs(records) do
      if record.level == level or record.levelname == level then list[#list + 1] = record.message end
    end
    return list
  end

  -- A file that counts how often tasks ran.
  local function counter()
    local name = folder .. "/ran"
    return function()
      local file <close> = io.open(name) or { read = function() return "" end, close = function() end }
      return #file:read("a")
    end, name
  end

  -- Run what `f` runs in a new process's stead: all pools of one file count equal tasks, so each run is a script.
  local function script(text, options)
    options = options or {}
    shell.write(folder .. "/script.lua", "local path, folder = ...\n" .. text)
    local got = shell.run(("%s %s %s/script.lua %s %s"):format(options.env or "", shell.interpreter, folder, path,
      folder), { timeout = options.timeout or 30 })
    if not options.may_fail then assert.are.equal(0, got.status, got.err) end
    return got
  end

  for _, engine in ipairs(engines) do
    it("finds what it has done before, engine " .. engine, function()
      local text = ([[
        local mantichora = require "mantichora"
        local pool <close> = mantichora { nworkers = 2, journal = path, engine = %q, progressbar = false }
        local heard = {}
        pool:on(function(event)
          local is_known = event.event == "ended" and not event.found or event.event == "started"
          heard[#heard + 1] = event.event .. (event.runid or "") .. (event.found and "found" or "")
            .. (is_known and "!" or "")
          if event.event == "emitted" then heard[#heard] = "emitted " .. event.runid .. event.values[1] end
        end)
        for i = 1, 3 do
          pool:run(function()
            print("task", i)
            mantichora.emit("a" .. i)
            mantichora.emit("b" .. i)
            return i, nil, { i, x = "y" }, nil
          end)
        end
        for runid, a, b, c, d in pool:as_completed() do
          io.stderr:write(("%%d %%s %%s %%s %%s %%s;"):format(runid, a, b, c[1], c.x, d))
        end
        local stats = pool:stats()
        io.stderr:write("\n", stats.ok, " ", stats.found, "\n")
        local all = table.concat(heard, " ")
        io.stderr:write(all, "\n", tostring(all:find("worker_started", 1, true) ~= nil), "\n")
      ]]):format(engine)
      local first, second = script(text), script(text)
      local values = "0 1 nil 1 y nil;1 2 nil 2 y nil;2 3 nil 3 y nil;"
      assert.are.equal(3, select(2, first.out:gsub("task", "")))
      assert.are.equal("", second.out)
      assert.truthy(second.err:find(values, 1, true), second.err)
      assert.truthy(first.err:find("\n3 0\n", 1, true), first.err)
      assert.truthy(second.err:find("\n3 3\n", 1, true), second.err)
      assert.truthy(second.err:find("queued0 emitted 0a1 emitted 0b1 ended0found", 1, true), second.err)
      assert.is_nil(second.err:find("started", 1, true), second.err)
      assert.truthy(second.err:find("\nfalse\n$"), second.err)
    end)
  end

  it("finds instances of the script's own classes", function()
    shell.write(folder .. "/shape.lua", [[
      local shape, secret = { Square = {} }, {}
      shape.Square.__index = shape.Square
      secret.__index = secret
      function shape.new(n) return setmetatable({ n = n }, shape.Square) end
      function shape.hide(n) return setmetatable({ n = n }, secret) end
      function shape.is_hidden(value) return getmetatable(value) == secret end
      return shape
    ]])
    local text = [[
      package.path = folder .. "/?.lua;" .. package.path
      local mantichora, shape = require "mantichora", require "shape"
      local Cat, null = {}, setmetatable({}, { __tostring = function() return "null" end })
      Cat.__index = Cat
      function Cat:say() return EDITED and "mew" or "miaow" end
      local make = setmetatable({}, { __call = function(class, n) return setmetatable({ n = n }, class) end })
      local zoo = { classes = { Cat = Cat }, Dog = setmetatable({ __index = Cat }, { __index = Cat }) }
      World = { __index = Cat }
      for _, engine in ipairs { "fork", "snapshot", "inline" } do
        local pool <close> = mantichora { nworkers = 2, journal = path, engine = engine, progressbar = false }
        local emitted = 0
        pool:on(function(event)
          if event.event == "emitted" and getmetatable(event.values[1]) == Cat then emitted = emitted + 1 end
        end)
        pool:run(function(n) mantichora.emit(setmetatable({}, Cat)) return setmetatable({ n = n }, Cat), Cat end, 1)
        pool:run(function() return make(3), { null, null } end)
        pool:run(function() return setmetatable({}, zoo.Dog), zoo.classes.Cat end)
        pool:run(function(cat, again) return cat, getmetatable(again) end, setmetatable({}, Cat), setmetatable({}, Cat))
        pool:run(function() return setmetatable({}, World) end)
        pool:run(function() return shape.new(1), require "shape".new(2), shape.hide(3) end)
        pool:run_with({ name = "cat", version = 1 }, function(f)
          return setmetatable({ EDITED }, Cat), setmetatable({}, zoo.Dog), null, f()
        end, function() return setmetatable({}, make) end)
        local results = pool:receive_all()
        local function is(value, class) return getmetatable(value) == class end
        local checks = {
          is(results[1][2], Cat), results[1][3] == Cat, results[1][2]:say() == (EDITED and "mew" or "miaow"),
          is(results[2][2], make), results[2][3][1] == null, results[2][3][2] == null,
          is(results[3][2], zoo.Dog), results[3][3] == Cat,
          is(results[4][2], Cat), results[4][3] == Cat,
          is(results[5][2], World),
          is(results[6][2], shape.Square), is(results[6][3], shape.Square), shape.is_hidden(results[6][4]),
          is(results[7][2], Cat), is(results[7][3], zoo.Dog), results[7][4] == null,
          is(results[7][5], make),
        }
        local cats = pool:map(function(n) return setmetatable({ n }, Cat), zoo end, { 1, 2, 3 })
        for i = 1, 3 do checks[#checks + 1] = is(cats[i], Cat) end
        for _, cat in pool:imap(function(item) return item end, { setmetatable({}, Cat) }) do
          checks[#checks + 1] = is(cat, Cat)
        end
        for i, fine in ipairs(checks) do if not fine then print(engine, "check", i) end end
        print(#checks, emitted, pool:stats().found)
      end
    ]]
    for run_number = 1, 2 do
      assert.are.equal(("22\t1\t%d\n"):format(run_number == 1 and 0 or 11):rep(3), script(text).out)
    end
    -- A version stands for the code of methods, too: the class is the one of now.
    local edited = script((text:gsub("EDITED", "true"))).out
    assert.are.equal(("22\t1\t3\n"):rep(3), edited)
    assert.are.same({}, said("WARNING"))
  end)

  it("hands found results over in run order among others, and counts equal calls", function()
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 3, journal = path }
      local count = tonumber(os.getenv "COUNT")
      for _ = 1, count do pool:run(function() print "ran" return "same" end) end
      for i = 1, count do pool:run(math.max, i, 7) end
      local results = pool:returns()
      for i = 1, 2 * count do
        assert(results[i] == (i <= count and "same" or math.max(i - count, 7)), i)
      end
      io.stderr:write(pool:stats().found, "\n")
    ]]
    local first = script(text, { env = "COUNT=100" })
    assert.are.equal(100, select(2, first.out:gsub("ran", "")))
    assert.are.equal("0\n", first.err)
    local second = script(text, { env = "COUNT=103" })
    assert.are.equal(3, select(2, second.out:gsub("ran", "")))
    assert.are.equal("200\n", second.err)
  end)

  it("records other ends, and runs their tasks again", function()
    local ran, name = counter()
    local text = ([[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1, journal = path, on_error = "return" }
      local function ran() local file <close> = io.open(%q, "a") file:write("x") end
      pool:run(function() ran() error("no") end)
      pool:run_with({ timeout = 0.05 }, function() ran() while true do end end)
      pool:run(function() ran() os.exit(3) end)
      pool:run(function() ran() return coroutine.create(print) end)
      local kinds = {}
      for i, failure in ipairs(pool:returns()) do kinds[i] = failure.kind end
      io.stderr:write(table.concat(kinds, " "), "\n")
    ]]):format(name)
    for round = 1, 2 do
      assert.are.equal("error timeout exited unsendable\n", script(text).err)
      assert.are.equal(4 * round, ran())
    end
    local listed = shell.run(("%s journal %s ls --json"):format(shell.host, path))
    local kinds = {}
    for kind in listed.out:gmatch('"kind":"(%a+)"') do kinds[#kinds + 1] = kind end
    assert.are.equal("error timeout exited unsendable error timeout exited unsendable", table.concat(kinds, " "))
  end)

  it("is for map, imap and run_multiple", function()
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 2, journal = path }
      local function double(n) print "ran" return 2 * n, n end
      local doubled = pool:map(double, { 1, 2, 3, 3, 4 })
      local list = {}
      for i, two, one in pool:imap(double, { 5, 6, 7 }) do list[#list + 1] = i .. ":" .. two .. "/" .. one end
      pool:run_multiple { function() print "ran" return "a" end, function() print "ran" return "b" end }
      local last = pool:returns()
      io.stderr:write(table.concat(doubled, " "), " ", table.concat(list, " "), " ", last[1], last[2], " ",
        pool:stats().found, "\n")
    ]]
    local first, second = script(text), script(text)
    local values = "2 4 6 6 8 1:10/5 2:12/6 3:14/7 ab "
    assert.are.equal(10, select(2, first.out:gsub("ran", "")))
    assert.are.equal(values .. "0\n", first.err)
    assert.are.equal("", second.out)
    assert.are.equal(values .. "10\n", second.err)
  end)

  it("gives tasks random numbers by their keys, with the seed of its file", function()
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 2, journal = path, seed = tonumber(os.getenv "SEED") }
      if os.getenv "BEFORE" then pool:run(math.abs, 1) end
      local ids = {}
      for i = 1, 3 do ids[i] = pool:run_with({ journal = os.getenv "UNRECORDED" and false or nil },
        function(n) return math.random(1 << 40) + n * 0 end, i) end
      local results, list = pool:receive_all(), {}
      for _, entry in ipairs(results) do if entry[1] >= ids[1] then list[#list + 1] = entry[2] end end
      io.stderr:write(table.concat(list, " "), "\n")
    ]]
    local first = script(text, { env = "SEED=5" }).err
    local other = folder .. "/y.mj"
    path, other = other, path
    assert.are.equal(first, script(text, { env = "SEED=5 BEFORE=1" }).err)
    -- A file that cannot be used: streams are the same.
    path = folder .. "/z.mj"
    shell.write(path, ("This is no database. "):rep(100))
    local got = script(text, { env = "SEED=5" }).err
    assert.truthy(got:find("ERROR", 1, true), got)
    assert.truthy(got:find(first, 1, true), got)
    path = other
    local refused = script(text, { env = "SEED=6", may_fail = true })
    assert.are_not.equal(0, refused.status)
    assert.truthy(refused.err:find("has the seed 5, and 6 is given", 1, true), refused.err)
    assert.are.equal(first, script(text).err)
  end)

  it("counts the outer task's key in pools of tasks", function()
    local ran, name = counter()
    local text = ([[
      local mantichora = require "mantichora"
      local function inner(n) local file <close> = io.open(%q, "a") file:write("x") return n end
      local pool <close> = mantichora { nworkers = 2, journal = path, on_error = "return" }
      for i = 1, 2 do
        pool:run(function()
          local own <close> = mantichora { nworkers = 1, journal = path }
          own:run(inner, 1)
          own:run(inner, 1)
          local sum = own:returns()
          if os.getenv "FAILS" then error("not yet") end
          return i + sum[1] + sum[2]
        end)
      end
      for i, value in ipairs(pool:returns()) do io.stderr:write(type(value) == "table" and value.kind or value, " ") end
    ]]):format(name)
    assert.are.equal("error error ", script(text, { env = "FAILS=1" }).err)
    assert.are.equal(4, ran())
    assert.are.equal("3 4 ", script(text).err)
    assert.are.equal(4, ran())
  end)

  it("says in its bar how many were found", function()
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 2, journal = path, poolbar = true }
      for i = 1, 12 do pool:run(math.max, i) end
      pool:returns()
    ]]
    script(text)
    local got = script(text, { env = "MANTICHORA_PROGRESS=text" })
    assert.truthy(got.err:find("12 found", 1, true), got.err)
    assert.truthy(script(text, { env = "MANTICHORA_PROGRESS=json" }).err:find('"found":12', 1, true))
  end)

  it("keeps large values in files beside it, and what else it has to itself", function()
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 2, journal = path }
      pool:run(function() return ("x"):rep(3 << 20), 1 end)
      pool:run(function() return ("y"):rep(100) end)
      local results = pool:returns { packed = true }
      assert(results[1][1] == ("x"):rep(3 << 20) and results[1][2] == 1 and results[2][1] == ("y"):rep(100))
      io.stderr:write(pool:stats().found, "\n")
    ]]
    assert.are.equal("0\n", script(text).err)
    assert.are.equal("2\n", script(text).err)
    local modes = shell.run(("stat -c '%%a %%F' %s %s-values %s-values/*"):format(path, path, path)).out
    assert.are.equal("600 regular file\n700 directory\n600 regular file\n", modes)
    os.execute(("for f in %s-values/*; do printf z | dd of=$f bs=1 seek=99 conv=notrunc 2>&-; done"):format(path))
    local damaged = script(text).err
    assert.truthy(damaged:find("1\n$"), damaged)
    assert.are.equal(1, select(2, damaged:gsub("WARNING:mantichora:[^\n]*damaged", "")), damaged)
    os.execute(("rm -r %s-values"):format(path))
    assert.truthy(script(text).err:find("1\n$"))
    assert.are.equal("2\n", script(text).err)
  end)

  it("is chosen by the environment and the host, not for workers, and turned off", function()
    local text = [[
      local mantichora = require "mantichora"
      local options = { nworkers = 1 }
      if os.getenv "OFF" then options.journal = false end
      local pool <close> = mantichora(options)
      pool:run(function()
        local own <close> = mantichora { nworkers = 1 }
        own:run(print, "inner")
        own:returns()
        print "outer"
      end)
      pool:run_with({ journal = false }, print, "never")
      pool:returns()
      io.stderr:write(pool:stats().found, "\n")
    ]]
    shell.write(folder .. "/script.lua", text)
    local function run(how)
      return shell.run(("cd %s && %s"):format(folder, how))
    end
    local here = io.popen("pwd"):read("l")
    local lua = "env LUA_CPATH='" .. (os.getenv("LUA_CPATH") or here .. "/build/lua/?.so;;") .. "' lua5.4"
    local got = run("MANTICHORA_JOURNAL=env.mj " .. lua .. " script.lua")
    assert.are.equal("inner\nouter\nnever\n0\n", got.out .. got.err)
    got = run("MANTICHORA_JOURNAL=env.mj " .. lua .. " script.lua")
    assert.are.equal("never\n1\n", got.out .. got.err)
    local host = shell.host:sub(1, 1) == "/" and shell.host or here .. "/" .. shell.host
    got = run(host .. " --journal env.mj script.lua")
    assert.are.equal("never\n1\n", got.out .. got.err)
    got = run("OFF=1 " .. host .. " --journal=env.mj script.lua")
    assert.are.equal("inner\nouter\nnever\n0\n", got.out .. got.err)
  end)

  describe("with files", function()
    local text = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1, journal = path }
      local source, target = folder .. "/in", folder .. "/out"
      pool:run_with({ name = "copy", inputs = { source }, outputs = { target } }, function()
        local file <close> = io.open(source)
        local bytes = file and file:read("a") or "none"
        if os.getenv "MEDDLE" then
          local again <close> = io.open(source, "w")
          again:write("meddled with")
        end
        if not os.getenv "FORGET" then
          local out <close> = io.open(target, "w")
          out:write(bytes)
        end
        return bytes
      end)
      io.stderr:write(pool:returns()[1], " ", pool:stats().found, "\n")
    ]]

    it("runs again when an input or an output changed, and only then", function()
      shell.write(folder .. "/in", "one")
      assert.are.equal("one 0\n", script(text).err)
      assert.are.equal("one 1\n", script(text).err)
      os.execute(("touch -d '2 hours ago' %s/in %s/out"):format(folder, folder))
      assert.are.equal("one 1\n", script(text).err)
      shell.write(folder .. "/in", "two")
      assert.are.equal("two 0\n", script(text).err)
      shell.write(folder .. "/in", "one")
      assert.are.equal("one 0\n", script(text).err) -- its output is that of the other
      os.remove(folder .. "/out")
      assert.are.equal("one 0\n", script(text).err)
      assert.are.equal("one 1\n", script(text).err)
      local why = shell.run(("%s journal %s why 4"):format(shell.host, path)).out
      assert.are.equal(("output %s/out is gone\n"):format(folder), why)
      os.remove(folder .. "/in")
      assert.are.equal("none 0\n", script(text).err)
      assert.are.equal("none 1\n", script(text).err)
    end)

    it("reads an input once for all runs, unless it is young", function()
      local journal = require "mantichora.journal"
      local function forge()
        assert(journal.look(path, true)):exec("UPDATE files SET hash = zeroblob(32)")
        collectgarbage() -- closes it
      end
      shell.write(folder .. "/in", "one")
      assert.are.equal("one 0\n", script(text).err)
      forge()
      assert.are.equal("one 1\n", script(text).err) -- it was read again
      os.execute(("touch -d '2 hours ago' %s/in"):format(folder))
      assert.are.equal("one 1\n", script(text).err)
      assert.are.equal("one 1\n", script(text).err)
      forge()
      assert.are.equal("one 0\n", script(text).err) -- it was not
      os.execute(("touch -d '3 hours ago' %s/in"):format(folder))
      assert.are.equal("one 1\n", script(text).err)
    end)

    it("does not record what no longer stands for its inputs, or made no output", function()
      shell.write(folder .. "/in", "one")
      local got = script(text, { env = "MEDDLE=1" }).err
      assert.truthy(got:find("one 0\n", 1, true), got)
      assert.are.equal(1, select(2, got:gsub("WARNING:mantichora:[^\n]*its input [^\n]*/in changed", "")), got)
      shell.write(folder .. "/in", "one")
      os.remove(folder .. "/out")
      got = script(text, { env = "FORGET=1" }).err
      assert.truthy(got:find("one 0\n", 1, true), got)
      assert.are.equal(1, select(2, got:gsub("WARNING:mantichora:[^\n]*its output [^\n]*/out is missing", "")), got)
      assert.are.equal("one 0\n", script(text).err)
      assert.are.equal("one 1\n", script(text).err)
    end)

    it("asks functions of item and number in a map, and refuses a folder", function()
      for i = 1, 3 do shell.write(("%s/%d.in"):format(folder, i), "text " .. i) end
      local mapping = [[
        local mantichora = require "mantichora"
        local pool <close> = mantichora { nworkers = 2, journal = path }
        local lengths = pool:map(function(name)
          print(name)
          local file <close> = io.open(folder .. "/" .. name)
          return #file:read("a")
        end, { "1.in", "2.in", "3.in" }, { inputs = function(name, i)
          assert(name == i .. ".in")
          return { folder .. "/" .. name }
        end })
        io.stderr:write(table.concat(lengths, " "), "\n")
      ]]
      assert.are.equal("6 6 6\n", script(mapping).err)
      shell.write(folder .. "/2.in", "longer text")
      local second = script(mapping)
      assert.are.equal("6 11 6\n", second.err)
      assert.are.equal("2.in\n", second.out)
      local pool <close> = mantichora { nworkers = 1, journal = path }
      assert.has_error(function() pool:run_with({ inputs = { folder } }, print) end)
      local fine, problem = pcall(pool.run_with, pool, { outputs = { folder } }, print)
      assert.is_false(fine)
      assert.truthy(problem:find("is a directory: give the files in it", 1, true), problem)
    end)
  end)

  it("takes options of the right kind only", function()
    local function refused(message, options, more)
      local fine, problem = pcall(function()
        local pool <close> = mantichora(options)
        pool:run_with(more or {}, math.abs, 1)
      end)
      assert.is_false(fine)
      assert.truthy(tostring(problem):find(message, 1, true), problem)
    end
    refused("option 'journal' must be a path, a table with 'path' and 'keep', or false: 7 is given", { journal = 7 })
    refused("option 'journal.path' must be a path", { journal = {} })
    refused("option 'journal.keep' must be \"failed\", \"all\" or \"none\"",
      { journal = { path = path, keep = "some" } })
    refused("unknown option 'journal.keeps'", { journal = { path = path, keeps = "all" } })
    refused("option 'inputs' must be a list of paths", { nworkers = 1 }, { inputs = "a" })
    refused("option 'inputs[1]' must be a path", { nworkers = 1 }, { inputs = { 1 } })
    refused("option 'outputs' must be a list of paths: it has a field 'x'", { nworkers = 1 }, { outputs = { x = "a" } })
    refused("option 'version' stands for the code", { nworkers = 1 }, { version = 1 })
    refused("option 'journal' must be false, or be left out", { nworkers = 1 }, { journal = "x" })
    refused("the folder of the journal", { journal = folder .. "/none/x.mj" })
    assert.are.same({}, said("ERROR"))
  end)
end)
