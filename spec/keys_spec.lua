-- What makes two tasks the same task: keys of the journal, made in processes of their own.

local shell = require "spec.support.shell"

local have = shell.run(shell.interpreter .. " -e 'require [[mantichora.journal]]'")
local _, journal = pcall(require, "mantichora.journal")
if have.status ~= 0 then
  describe("keys of the journal", function()
    it("are made where SQLite and libsodium are there", function()
      assert.truthy(have.err:find("module 'mantichora.journal' not found", 1, true), have.err)
    end)
  end)
  return
end

-- What programs begin with: key(options, f, ...) writes a line with the key, then one for each part.
local prelude = [=[
journal = require "mantichora.journal"
local folder = arg[1]
package.path = folder .. "/?.lua;" .. package.path
local function hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
function key(options, f, ...)
  local made, parts, bytes = journal.key(options, f, ...)
  if not made then print("no " .. parts) return end
  print("key " .. hex(made))
  print("bytes " .. hex(bytes))
  for _, part in ipairs(parts) do print(("part %x %s"):format(part[2], part[1])) end
end
]=]

local function parse(text)
  local keys = {}
  for line in text:gmatch("[^\n]+") do
    local word, rest = line:match("^(%S+) (.*)$")
    if word == "key" then
      keys[#keys + 1] = { key = rest, parts = {} }
    elseif word == "bytes" then
      keys[#keys].bytes = rest:gsub("..", function(digits) return string.char(tonumber(digits, 16)) end)
    elseif word == "no" then
      keys[#keys + 1] = { refused = rest, parts = {} }
    elseif word == "part" then
      local hash, path = rest:match("^(%S+) (.*)$")
      local parts = keys[#keys].parts
      parts[#parts + 1], parts[path] = path, hash
    end
  end
  return keys
end

-- Run the files (main.lua is the program) in a folder of their own; the list of what it writes.
local function run(files, environment)
  local folder = shell.folder()
  shell.write(folder .. "/prelude.lua", prelude)
  for name, text in pairs(files) do
    shell.write(folder .. "/" .. name, name == "main.lua" and "dofile(arg[1] .. '/prelude.lua') " .. text or text)
  end
  local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
  local got = shell.run(("cd %s && %s %s ./main.lua ."):format(shell.quote(folder), environment or "", interpreter))
  shell.remove(folder)
  assert(got.status == 0, got.err)
  local keys = parse(got.out)
  assert(#keys > 0, got.out .. got.err)
  return keys
end

local function run1(text) return run({ ["main.lua"] = text })[1] end

-- The parts without the lines at their ends, since moved code is the same.
local function stable(path) return (path:gsub(", line %d+(%)?)$", "%1")) end

-- Paths of parts that are in one of two keys only, or differ.
local function differing(old, new)
  local list, before, after = {}, {}, {}
  for _, path in ipairs(old.parts) do before[stable(path)] = old.parts[path] end
  for _, path in ipairs(new.parts) do
    after[stable(path)] = true
    if before[stable(path)] ~= new.parts[path] then list[#list + 1] = path end
  end
  for _, path in ipairs(old.parts) do
    if not after[stable(path)] then list[#list + 1] = path end
  end
  return list
end

local main = [=[
local deep = require "deep"
local unrelated = 1
local factor = 2
local function second(x)
  return x * factor + 7
end
local function first(x)
  return second(x) + 1
end
function second_global(x)
  return x + 10
end
function first_global(x)
  return second_global(x)
end
local settings = { quality = 3, names = { "a", "b" } }
local function task(x)
  local y = first(x)
  local function inner(z)
    return z + y + settings.quality
  end
  return inner(first_global(x)) + deep.f(x)
end
key({}, task, 5)
]=]

local deep = [=[
local M = {}
local step = 4
local function hidden(x)
  return x - step
end
function M.f(x)
  return hidden(x) / 2
end
function M.other(x)
  return x
end
return M
]=]

-- What makes the key of a program, beside deep.lua, after a plain replacement in one of the two.
local function editing(program)
  return function(from, to, file)
    local files = { ["main.lua"] = program, ["deep.lua"] = deep }
    local name = file or "main.lua"
    local at, last = files[name]:find(from, 1, true)
    assert(at, "no such text: " .. from)
    files[name] = files[name]:sub(1, at - 1) .. to .. files[name]:sub(last + 1)
    return run(files)[1]
  end
end

describe("the key of a task", function()
  local base = run({ ["main.lua"] = main, ["deep.lua"] = deep })[1]
  local after = editing(main)

  local same = {
    { "comments", "local y = first(x)", "-- a comment\n  --[[ and\n another ]] local y = first(x) -- here" },
    { "another layout", "local y = first(x)", "local y =\n\n      first(\n  x)" },
    { "empty lines above", "local deep", "\n\n\nlocal deep" },
    { "another name of a local", "inner(z)\n    return z +", "inner(w)\n    return w +" },
    { "an unrelated local around it", "local unrelated = 1", "local unrelated, more, yet = 1, 2, {}" },
    { "no unrelated local around it", "local unrelated = 1\n", "" },
    { "a nested function on other lines", "local function inner", "\n\n\n  local function inner" },
    { "comments in a helper", "return second(x) + 1", "return second(x) + 1 -- more" },
    { "comments in a module", "return hidden(x) / 2", "-- half\n  return hidden(x) / 2", "deep.lua" },
    { "another function of a module", "M.other(x)\n  return x", "M.other(x)\n  return x + 1", "deep.lua" },
    { "one function more in a module", "return M", "function M.more() end\nreturn M", "deep.lua" },
    { "another order of entries", "{ quality = 3, names = { \"a\", \"b\" } }",
      "{ names = { [2] = \"b\", [1] = \"a\" }, quality = 3 }" },
  }
  for _, case in ipairs(same) do
    it("stays with " .. case[1], function()
      local got = after(case[2], case[3], case[4])
      assert.same({}, differing(base, got))
      assert.equal(base.key, got.key)
    end)
  end

  it("stays when names of upvalues change", function()
    local files = { ["main.lua"] = main:gsub("settings", "options"):gsub("first%(", "one("):gsub("second%(", "two("),
      ["deep.lua"] = deep:gsub("step", "stride") }
    assert.equal(base.key, run(files)[1].key)
  end)

  local other = {
    { "a constant", "z + y + settings", "z + y + 1 + settings", { "its code, line 17" } },
    { "an argument", "task, 5", "task, 6", { "argument 1" } },
    { "the type of an argument", "task, 5", "task, 5.0", { "argument 1" } },
    { "an upvalue of a helper's helper", "factor = 2", "factor = 3",
      { "upvalue 'factor' of upvalue 'second' of upvalue 'first'" } },
    { "a helper two calls deep as upvalue", "factor + 7", "factor + 8",
      { "upvalue 'second' of upvalue 'first' (its code, line 4)" } },
    { "a helper two calls deep as global", "x + 10", "x + 11", { "global 'second_global' (its code, line 10)" } },
    { "a field of a table", "quality = 3", "quality = 4", { "upvalue 'settings'.quality" } },
    { "a field deep in a table", "\"b\"", "\"c\"", { "upvalue 'settings'.names[2]" } },
    { "a field more", "quality = 3", "quality = 3, more = 1", { "upvalue 'settings'.more" } },
    { "a function of a module", "/ 2", "/ 3", { "module 'deep' (function f, line 6)" }, "deep.lua" },
    { "a local function of a module", "x - step", "x + step",
      { "module 'deep' (function hidden, line 3)" }, "deep.lua" },
    { "a local of a module", "step = 4", "step = 5",
      { "upvalue 'step' of module 'deep' (function hidden)" }, "deep.lua" },
  }
  for _, case in ipairs(other) do
    it("differs with " .. case[1], function()
      local got = after(case[2], case[3], case[5])
      assert.same(case[4], differing(base, got))
      assert.same({ 1, case[4][1] }, { journal.difference(base.bytes, got.bytes) })
      assert.not_equal(base.key, got.key)
    end)
  end

  it("is compared by values, not by names and lines", function()
    local files = { ["main.lua"] = "\n" .. main:gsub("settings", "options"):gsub("z %+ y", "z - y"),
      ["deep.lua"] = "\n" .. deep:gsub("step", "stride") }
    local got = run(files)[1]
    assert.same({ 1, "its code, line 18" }, { journal.difference(base.bytes, got.bytes) })
    assert.same({ 0 }, { journal.difference(got.bytes, got.bytes) })
  end)

  it("is the same in every process", function()
    for _ = 1, 3 do assert.equal(base.key, run({ ["main.lua"] = main, ["deep.lua"] = deep })[1].key) end
  end)
end)

describe("values in a key", function()
  it("differ as Lua tells them apart, and more", function()
    local keys = run { ["main.lua"] = [=[
      local function f() end
      local shared = {}
      local function copy() return {} end
      for _, value in ipairs { 1, 1.0, "1", true, false, 0.0, -0.0, 0, "", {}, { 1 }, { [1.5] = 1 },
        { ["1"] = 1 }, { true }, { [true] = 1 }, { shared, shared }, { copy(), copy() }, setmetatable({}, {}), f, print,
        math.sin, 0/0, math.huge, -math.huge, math.mininteger, "a\0b", "a\0c", ("x"):rep(5000), ("x"):rep(5000) .. "y",
        { { { 1 } } }, { { 1 } }, io.stdout, io.stderr, setmetatable({}, { __mode = "k" }) } do
        key({}, f, value)
      end
      key({}, f, nil)
      key({}, f)
      key({}, f, nil, nil)
      local cycle = {}
      cycle[1] = cycle
      key({}, f, cycle)
      key({}, f, { cycle })
    ]=] }
    local met = {}
    for i, got in ipairs(keys) do
      assert(got.key, got.refused)
      assert.is_nil(met[got.key], ("%d is as %s"):format(i, met[got.key]))
      met[got.key] = i
    end
    assert.equal(39, #keys)
  end)

  it("that have no order or no hash are named by their path", function()
    local keys = run { ["main.lua"] = [=[
      local function f() end
      local co = coroutine.create(f)
      local file = io.tmpfile()
      key({}, f, { [{}] = 1 })
      key({}, f, 1, { { x = { [print] = 1 } } })
      key({}, function() return co end)
      key({}, f, co)
      key({}, f, { socket = { file } })
      key({}, f, ("x"):gmatch("y"))
      thread = co
      key({}, function() return thread end)
      key({ init = function() return co end }, f)
      local function helper() return file end
      key({}, function() return helper() end)
    ]=] }
    local refused = {}
    for i, got in ipairs(keys) do refused[i] = got.refused or got.key end
    assert.same({
      "argument 1[table]", "argument 2[1].x[function]", "upvalue 'co': coroutine (thread)",
      "argument 1: coroutine (thread)", "argument 1.socket[1]: userdata (FILE*)", "argument 1: C function",
      "global 'thread': coroutine (thread)", "upvalue 'co' of init: coroutine (thread)",
      "upvalue 'file' of upvalue 'helper': userdata (FILE*)",
    }, refused)
  end)

  it("come from hooks, and weak tables do not count", function()
    local keys = run { ["main.lua"] = [=[
      local function f() end
      local function rebuild() end
      local meta = { __mantichora = function(self) return rebuild, self.n end }
      key({}, f, setmetatable({ n = 1, junk = io.tmpfile() }, meta))
      key({}, f, setmetatable({ n = 1, junk = coroutine.create(f) }, meta))
      key({}, f, setmetatable({ n = 2 }, meta))
      local weak = setmetatable({}, { __mode = "v" })
      local function g() return weak end
      key({}, g)
      weak[1] = {}
      key({}, g)
    ]=] }
    assert.equal(keys[1].key, keys[2].key)
    assert.not_equal(keys[1].key, keys[3].key)
    assert.equal(keys[4].key, keys[5].key)
  end)

  it("differ when closures share a variable", function()
    local keys = run { ["main.lua"] = [=[
      local function pair(shares)
        local a, b = 1, 1
        local function add() a = a + 1 end
        return add, shares and function() return a end or function() return b end
      end
      key({}, function() end, pair(true))
      key({}, function() end, pair(false))
    ]=] }
    assert.not_equal(keys[1].key, keys[2].key)
  end)

  it("are the same however a graph was built, in every process, and any change gives another", function()
    local text = [=[
      local order = tonumber(os.getenv("ORDER"))
      local random = {} -- of its own: the same numbers in every process
      function random.new(seed) return setmetatable({ state = seed * 7919 + 1 }, { __index = random }) end
      function random:int(n)
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff
        return (self.state >> 33) % n + 1
      end
      local function scalar(r)
        local kinds = { r:int(100), r:int(100) / 4, "s" .. r:int(50), r:int(2) == 1, ("long"):rep(r:int(30)) }
        return kinds[r:int(#kinds)]
      end
      -- A list of {object, key, value} by number of an object, or {scalar}.
      local function describe(seed)
        local r = random.new(seed)
        local n, entries, used = r:int(12), {}, {}
        for _ = 1, r:int(40) do
          local from, key = r:int(n), scalar(r)
          local id = ("%d %s %s"):format(from, type(key), math.tointeger(key) or key)
          if not used[id] then
            used[id] = true
            entries[#entries + 1] = { from, key, r:int(2) == 1 and { scalar(r) } or r:int(n) }
          end
        end
        return n, entries
      end
      local function build(n, entries, r)
        local objects = {}
        for i = 1, n do objects[i] = {} end
        local left = { table.unpack(entries) }
        while #left > 0 do
          local entry = table.remove(left, r:int(#left))
          local value = entry[3]
          if type(value) == "table" then value = value[1] else value = objects[value] end
          objects[entry[1]][entry[2]] = value
        end
        return objects
      end
      for seed = 1, 60 do
        local n, entries = describe(seed)
        local all = build(n, entries, random.new(order))
        local function f() return all end
        key({}, f, all[1])
        if #entries > 0 then
          entries[seed % #entries + 1][3] = { "changed" }
          all = build(n, entries, random.new(order))
          key({}, f, all[1])
        end
      end
    ]=]
    local first = run({ ["main.lua"] = text }, "ORDER=1")
    local met = {}
    for i, got in ipairs(first) do
      assert(got.key, got.refused)
      assert.is_nil(met[got.key], i)
      met[got.key] = true
    end
    for order = 2, 4 do
      for i, got in ipairs(run({ ["main.lua"] = text }, "ORDER=" .. order)) do
        assert.equal(first[i].key, got.key, ("graph %d"):format(i))
      end
    end
  end)
end)

describe("options in a key", function()
  it("count where they say something of the task", function()
    local keys = run { ["main.lua"] = [=[
      local function f() end
      key({}, f)
      key({ name = "a" }, f)
      key({ occurrence = 1 }, f)
      key({ key = 1 }, f)
      key({ key = 1, occurrence = 1 }, f)
      key({ key = "1" }, f)
      key({ key = 1.0 }, f)
      key({ seed = 1 }, f)
      key({ init = f }, f)
      key({ init = function() return 1 end }, f)
    ]=] }
    assert.equal(keys[1].key, keys[2].key)
    assert.equal(keys[4].key, keys[5].key)
    local met = {}
    for _, i in ipairs { 1, 3, 4, 6, 7, 8, 9, 10 } do
      assert.is_nil(met[keys[i].key], i)
      met[keys[i].key] = true
    end
  end)

  it("count files by path and content", function()
    local keys = run { ["main.lua"] = [=[
      local function f() end
      local function write(path, text) local file <close> = assert(io.open(path, "w")) file:write(text) end
      write("a", "1")
      write("b", "1")
      key({ inputs = { "a" } }, f)
      key({ inputs = { "b" } }, f)
      key({ inputs = { "a", "b" } }, f)
      key({ inputs = { "b", "a" } }, f)
      key({ inputs = { "./a" } }, f)
      key({ outputs = { "a" } }, f)
      key({ inputs = { "missing" } }, f)
      write("missing", "")
      key({ inputs = { "missing" } }, f)
      write("a", "2")
      key({ inputs = { "a" } }, f)
      write("a", "1")
      key({ inputs = { "a" } }, f)
      os.execute("touch -d '1 hour ago' a")
      key({ inputs = { "a" } }, f)
      key({ outputs = { "missing" } }, f)
      os.remove("missing")
      key({ outputs = { "missing" } }, f)
      print("no " .. select(2, pcall(journal.key, { inputs = { "." } }, f)))
      print("no " .. select(2, pcall(journal.key, { inputs = { 1, {} } }, f)))
    ]=] }
    for i = 1, 9 do
      for k = i + 1, 9 do assert.not_equal(keys[i].key, keys[k].key, i .. " and " .. k) end
    end
    assert.equal(keys[1].key, keys[10].key)
    assert.equal(keys[1].key, keys[11].key)
    assert.equal(keys[12].key, keys[13].key)
    assert.same({ "input a" }, differing(keys[1], keys[9]))
    assert.equal("inputs: '.' is a directory: give the files in it", keys[14].refused)
    assert.equal("inputs must be a list of paths: element 1 is a number", keys[15].refused)
  end)
end)

describe("globals in a key", function()
  it("count as the code names them, whatever the environment", function()
    local keys = run { ["main.lua"] = [=[
      level = 1
      local function f() return level end
      key({}, f)
      level = 2
      key({}, f)
      unnamed = 3
      key({}, f)
      local environment = setmetatable({ level = 1 }, { __index = _G })
      local chunk = load("return function() return level end", "=x", "t", environment)
      key({}, chunk())
      key({}, load(string.dump(f, true)))
      function string.shout(s) return s:upper() .. "!" end
      local function g(s) return s:shout() end
      key({}, g, "a")
      function string.shout(s) return s:upper() .. "!!" end
      key({}, g, "a")
    ]=] }
    assert.not_equal(keys[1].key, keys[2].key)
    assert.equal(keys[2].key, keys[3].key)
    assert.equal(keys[1].key, keys[4].key)
    assert.not_equal(keys[6].key, keys[7].key)
  end)
end)

describe("modules in a key", function()
  local function edited(main_text, from, to)
    local module = [=[
      local M = { level = 1 }
      M.__index = M
      function M.new() return setmetatable({}, M) end
      function M.f() return M.level end
      function M:method() return 1 end
      function M.rest() return 2 end
      return M
    ]=]
    local before = run { ["main.lua"] = main_text, ["x.lua"] = module }[1]
    assert(module:find(from, 1, true))
    local now = run { ["main.lua"] = main_text, ["x.lua"] = (module:gsub(from, to)) }[1]
    return before.key ~= now.key, differing(before, now)
  end

  it("count with what is named of them", function()
    for _, text in ipairs {
      "local x = require 'x' key({}, function() return x.f() end)",
      "x = require 'x' key({}, function() return x.f() end)",
      "require 'x' key({}, function() return require('x').f() end)",
      "local x = require 'x' key({}, function(m) return m.f() end, x)",
      "local x = require 'x' local function help(m) return m.f() end key({}, function() return help(x) end)",
      "local x = require 'x' key({}, function() local y = x return (function() return y.f() end)() end)",
      "require 'x' key({}, function() local fine, m = pcall(require, 'x') return fine and m.f() end)",
    } do
      assert.is_false(edited(text, "return 2", "return 3"), text)
      assert.is_true(edited(text, "level = 1", "level = 2"), text)
    end
  end)

  it("count as a whole if they are indexed otherwise", function()
    for _, text in ipairs {
      "local x = require 'x' local k = 'r' key({}, function() return x[k .. 'est']() end)",
      "x = require 'x' key({}, function() for k, v in pairs(x) do print(k, v) end end)",
      "require 'x' key({}, function(k) local m = require 'x' return m[k]() end, 'rest')",
      "local x = require 'x' key({}, function(m, k) return m[k] end, x, 'rest')",
      "local x = require 'x' local function h(m, k) return m[k] end key({}, function(k) return h(x, k) end, 'rest')",
      "local all = { x = require 'x' } key({}, function(k) return all.x[k] end, 'rest')",
      "local x = require 'x' key({}, function(k) local y = x return (function() return y[k]() end)() end, 'rest')",
      "local x = require 'x' key({}, function(k) local y if k then y = x else y = {} end return y[k] end, 'rest')",
      "local x = require 'x' key({}, function(k) local y local function g() return y[k] end y = x return g() end)",
      "local x = require 'x' key({}, function(...) return (select('#', x, ...)) end)",
    } do
      assert.is_true(edited(text, "return 2", "return 3"), text)
    end
  end)

  it("count with their methods by name, and with their metamethods", function()
    local text = "local x = require 'x' key({}, function() return x.new():method() end)"
    assert.is_false(edited(text, "return 2", "return 3"))
    assert.is_true(edited(text, "return 1", "return 4"))
    assert.is_true(edited("local x = require 'x' key({}, function(o) return o + 1 end, x.new())", "M.__index = M",
      "M.__index = M M.__add = function() return 1 end"))
  end)

  it("count by their file's code as long as they are not loaded", function()
    local text = "key({}, function() return require('x').f() end)"
    assert.is_true(edited(text, "level = 1", "level = 2"))
    assert.is_false(edited(text, "return 2", "return 2 --[[ as ever ]]"))
  end)

  it("count as they are named when they are found in package.loaded, or loaders with them", function()
    local text = "require 'x' key({}, function() return package.loaded.x.f(), package.searchers end)"
    assert.is_false(edited(text, "return 2", "return 3"), text)
    assert.is_true(edited(text, "level = 1", "level = 2"), text)
  end)

  it("in C count by name, ours as well", function()
    local keys = run { ["main.lua"] = [=[
      local logging = require "mantichora.logging"
      local mantichora = require "mantichora"
      local log = logging.get("a")
      key({}, function() log:info("x") return mantichora.runid(), logging.warning("x") end)
      logging.basic_config { level = "DEBUG" }
      key({}, function() log:info("x") return mantichora.runid(), logging.warning("x") end)
    ]=] }
    assert.equal(keys[1].key, keys[2].key)
  end)

  it("may be the task's function, in C and ours in Lua", function()
    local files = { ["main.lua"] = [=[
      local mantichora, logging = require "mantichora", require "mantichora.logging"
      key({}, mantichora.sleep, 0.1)
      key({}, logging.info, 0.1)
      key({}, mantichora.emit, 0.1)
      key({}, logging.get("a").info, 0.1)
      key({}, logging.warning, 0.1)
      key({}, string.rep, 0.1)
      key({}, ("").len, 0.1)
      key({}, (ipairs {}), 0.1)
      key({}, next, 0.1)
      key({}, require "lfs".currentdir, 0.1)
    ]=] }
    local keys, again, seen = run(files), run(files), {}
    assert.equal(10, #keys)
    for i, made in ipairs(keys) do
      assert.equal(nil, made.refused)
      assert.equal(made.key, again[i].key)
      assert.equal(nil, seen[made.key])
      seen[made.key] = i
    end
  end)
end)

describe("a version in a key", function()
  local program = [=[
    local deep = require "deep"
    local settings = { quality = 3 }
    local factor = 2
    level = 7
    local function helper(x)
      return x * factor + level
    end
    function global_helper(x)
      return x + settings.quality
    end
    local function task(x)
      return helper(x) + global_helper(x) + deep.f(x)
    end
    key({ name = "a", version = 1 }, task, 5, { helper })
  ]=]
  local base = run({ ["main.lua"] = program, ["deep.lua"] = deep })[1]

  local after = editing(program)

  it("stands for all code that is reached", function()
    for _, edit in ipairs {
      { "x * factor + level", "level - x // factor" }, { "x + settings.quality", "x * 3 - settings.quality" },
      { "return helper(x) + global_helper(x)", "local y = global_helper(x)\nprint(y) return y // helper(x)" },
      { "x - step", "step + x * 3", "deep.lua" },
    } do
      local got = after(table.unpack(edit))
      assert.equal(base.key, got.key, edit[2])
    end
  end)

  it("leaves the values that are no functions", function()
    for _, edit in ipairs {
      { "quality = 3", "quality = 4", "upvalue 'settings'.quality" },
      { "factor = 2", "factor = 3", "upvalue 'factor'" },
      { "level = 7", "level = 8", "global 'level'" }, { "step = 4", "step = 5", "upvalue 'step'", "deep.lua" },
      { "task, 5", "task, 6", "argument 1" }, { "version = 1", "version = 2", "version" },
      { "version = 1", "version = '1'", "version" }, { "\"a\"", "\"b\"", "version" },
      { "{ helper }", "{ helper, 1 }", "argument 2[2]" },
    } do
      local got = after(edit[1], edit[2], edit[4])
      assert.not_equal(base.key, got.key, edit[2])
      assert.same({ edit[3] }, differing(base, got))
    end
  end)

  it("needs a name, and refuses what cannot be keyed", function()
    local keys = run { ["main.lua"] = [=[
      print("no " .. select(2, pcall(journal.key, { version = 1 }, print)))
      local co = coroutine.create(print)
      key({ name = "a", version = 1 }, function() return { co } end)
      key({ name = "a", version = 1 }, function() end, { co })
      key({ name = "a", version = 1 }, function() end, 1)
      key({ name = "a", version = 1 }, function() return 1 end, 1)
      key({}, function() return 1 end, 1)
    ]=] }
    assert.truthy(keys[1].refused:find("version needs a name", 1, true))
    assert.equal("upvalue 'co': coroutine (thread)", keys[2].refused)
    assert.equal("argument 1[1]: coroutine (thread)", keys[3].refused)
    assert.equal(keys[4].key, keys[5].key)
    assert.not_equal(keys[5].key, keys[6].key)
  end)
end)

-- Pools whose workers were forked before something changed, not by assignment to a global.
describe("what a task of a pool with a journal sees", function()
  local module = [=[
    local M = { level = 1, names = { "a" } }
    local count, cache = 0, {}
    local function hidden() return count end
    function M.bump() count = count + 1 cache[#cache + 1] = count end
    function M.count() return hidden() end
    function M.size() return #cache end
    function M.label() return M.level .. table.concat(M.names) end
    return M
  ]=]
  local program = [=[
    local mantichora = require "mantichora"
    local state = require "state"
    settings = { quality = 1 }
    factor = 10
    do
      local n = 5
      function set_n(v) n = v end
      function get_n() return n end
    end
    function helper() return settings.quality * factor end
    local options = load("return " .. os.getenv("OPTIONS"))()
    options.journal, options.nworkers = "x.mj", 2
    local pool <close> = mantichora(options)
    local function ask(...) pool:run(...) return pool:returns()[1] end
    local function all()
      local mapped = pool:map(function(_) return helper() + state.count() end, { 1, 2 })
      print(ask(function() return helper() end), ask(function() return get_n() end),
        ask(function() return state.count() end), ask(function() return state.size() end),
        ask(function() return state.label() end), ask(function() return require("state").label() end),
        ask(function(k) return state[k] end, "level"), mapped[1], mapped[2])
    end
    all()
    settings.quality, factor, state.level = 2, 20, 2
    set_n(6)
    state.bump()
    state.bump()
    all()
    state.names[2], settings.quality = "b", 3
    all()
    all()
    print("found", pool:stats().found, "of", pool:stats().ok)
  ]=]
  local lines = "10\t5\t0\t0\t1a\t1a\t1\t10\t10\n" .. "40\t6\t2\t2\t2a\t2a\t2\t42\t42\n"
    .. ("60\t6\t2\t2\t2ab\t2ab\t2\t62\t62\n"):rep(2)

  local function twice(options)
    local folder = shell.folder()
    local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
    shell.write(folder .. "/main.lua", program)
    shell.write(folder .. "/state.lua", module)
    for run_number = 1, 2 do
      local got = shell.run(("cd %s && OPTIONS='%s' LUA_PATH='./?.lua;;' %s ./main.lua"):format(
        shell.quote(folder), options, interpreter))
      assert.equal("", got.err)
      assert.equal(lines .. ("found\t%d\tof\t36\n"):format(run_number == 1 and 0 or 36), got.out)
    end
    shell.remove(folder)
  end

  it("is what its key describes", function() twice("{}") end)
  it("is so in workers that are replaced", function() twice("{ max_tasks_per_worker = 1 }") end)
  it("is so of what was too large to be looked at before the fork", function()
    local folder = shell.folder()
    local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
    shell.write(folder .. "/main.lua", [=[
      local pool <close> = require "mantichora" { nworkers = 1, journal = "x.mj" }
      list, words, text = {}, {}, { ("x"):rep(300000) }
      for i = 1, 5000 do list[i], words["w" .. i] = i, i end
      local function ask(f) pool:run(f) return pool:returns()[1] end
      io.write(ask(function() return 0 end))
      list[1], words.w1, text[2] = "a", "b", "c"
      io.write(ask(function() return list[1] .. words.w1 .. text[2] end))
      list[1] = "d"
      io.write(ask(function() return list[1] .. words.w1 .. text[2] end))
    ]=])
    for _ = 1, 2 do
      local got = shell.run(("cd %s && %s ./main.lua"):format(shell.quote(folder), interpreter))
      assert.same({ "0abcdbc", "" }, { got.out, got.err })
    end
    shell.remove(folder)
  end)

  it("is so in every engine", function()
    twice("{ engine = \"inline\" }")
    twice("{ engine = \"snapshot\" }")
  end)

  it("is what there is when it starts, in the engine snapshot", function()
    local folder = shell.folder()
    local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
    shell.write(folder .. "/main.lua", [=[
      local mantichora = require "mantichora"
      local options = { engine = "snapshot", nworkers = 1, journal = "x.mj", background = false }
      local pool <close> = mantichora(options)
      level = tonumber(arg[1])
      local function first() while not io.open("go") do end return "first" end
      pool:run_with({ journal = false }, first)
      pool:run(function(x) return level + x end, 10) -- waits for the slot
      pool:run_with({ key = "k" }, function(x) return level * x end, 10)
      level = tonumber(arg[2])
      io.open("go", "w"):close()
      local results = pool:returns()
      io.write(results[2], " ", results[3], " found ", pool:stats().found, "\n")
    ]=])
    local function run_it(before, after)
      os.remove(folder .. "/go")
      local got = shell.run(("cd %s && %s ./main.lua %d %d"):format(shell.quote(folder), interpreter, before, after))
      assert.equal("", got.err)
      return got.out
    end
    assert.equal("12 20 found 0\n", run_it(1, 2)) -- recorded as with 2
    assert.equal("11 10 found 0\n", run_it(1, 1))
    assert.equal("12 20 found 2\n", run_it(2, 2))
    assert.equal("11 10 found 2\n", run_it(1, 1))
    shell.remove(folder)
  end)

  it("is what there is when it starts, in the engine inline", function()
    local folder = shell.folder()
    local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
    shell.write(folder .. "/main.lua", [=[
      local pool <close> = require "mantichora" { engine = "inline", journal = "x.mj" }
      local function hooked(n)
        local meta = {}
        function meta.__mantichora(self) return function(m) return { n = m } end, self.n end
        return setmetatable({ n = n }, meta)
      end
      local list, a, b, c = { tonumber(arg[1]) }, hooked(1), hooked(2), ("c"):rep(100000)
      level, state = list[1], list
      pool:run(function(x) return level + x end, 10)
      pool:run_with({ key = "k" }, function(x) return state[1] * x + math.random(0) * 0 end, 10)
      pool:run(function(x) return level * (x.n + b.n) end, a)
      pool:run(function(x) return level + #x end, c)
      pool:run(function(x) return list[1] * x end, 10) -- of that the task has got a copy
      level = tonumber(arg[2])
      list[1] = level
      local results = pool:receive_all()
      for i = 1, 5 do io.write(results[i][2], " ") end
      io.write("found ", pool:stats().found, "\n")
    ]=])
    local function run_it(before, after)
      local got = shell.run(("cd %s && %s ./main.lua %d %d"):format(shell.quote(folder), interpreter, before, after))
      assert.equal("", got.err)
      return got.out
    end
    assert.equal("12 20 6 100002 10 found 0\n", run_it(1, 2)) -- recorded as with 2
    assert.equal("11 10 3 100001 10 found 1\n", run_it(1, 1))
    assert.equal("12 20 6 100002 20 found 3\n", run_it(2, 2)) -- all but what hooks are called for
    assert.equal("12 20 6 100002 20 found 5\n", run_it(2, 2))
    assert.equal("11 10 3 100001 10 found 5\n", run_it(1, 1))
    shell.remove(folder)
  end)

  it("is asked of a hook once a task", function()
    local folder = shell.folder()
    local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
    shell.write(folder .. "/main.lua", [=[
      local mantichora = require "mantichora"
      local calls = {}
      local function hooked(n)
        local meta = {}
        function meta.__mantichora(self)
          if n == "bad" then error("no way", 0) end
          if not mantichora.is_worker() then calls[self] = (calls[self] or 0) + 1 end
          return function(m) return { n = m } end, self.n
        end
        return setmetatable({ n = n }, meta)
      end
      local function sum() local all = 0 for _, n in pairs(calls) do all = all + n end return all end
      for _, engine in ipairs { "fork", "snapshot", "inline" } do
        local pool <close> = mantichora { engine = engine, nworkers = 1, journal = "x.mj" }
        local a, b = hooked(1), hooked(2)
        pool:run(function(x, y) return x.n + y.n + b.n end, a, a)
        pool:run_with({ name = "sum", version = 1 }, function(x) return x.n + b.n end, a)
        io.write(pool:returns()[1], " ", calls[a], " ", calls[b], " ")
        local before = sum()
        local list = pool:map(function(x) return x.n + b.n end, { hooked(3), hooked(4) })
        io.write(list[1] + list[2], " ", sum() - before, " ", pool:stats().found, "\n")
        local _, problem = pcall(pool.run, pool, function() end, hooked("bad"))
        if engine ~= "snapshot" then io.write(problem, "\n") end
      end
    ]=])
    local bad = "\ncannot send argument 1: its __mantichora failed: no way"
    for run_number = 1, 2 do
      local got = shell.run(("cd %s && %s ./main.lua"):format(shell.quote(folder), interpreter))
      -- In a map b is asked once for the key, and once for each item that runs. What waits to start is asked again.
      local line = run_number == 1 and "4 2 2 11 4 0" or "4 2 2 11 3 4"
      local forked, snapshot, inline = got.out:match("^(.-)" .. bad .. "\n(.-)\n(.-)" .. bad .. "\n$")
      assert.equal(line, forked)
      assert.equal(line, inline)
      assert.truthy(snapshot:match(run_number == 1 and "^4 [23] [23] 11 [4-8] 0$" or "^4 2 2 11 3 4$"), snapshot)
    end
    shell.remove(folder)
  end)

  it("counts equal tasks whatever pools their own tasks make", function()
    local folder = shell.folder()
    local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
    shell.write(folder .. "/main.lua", [=[
      local pool <close> = require "mantichora" { engine = "inline", journal = "x.mj" }
      local function number() return math.random(0) end
      local function ask(f) pool:run(f) return pool:returns()[1] end
      local function outer()
        local inner <close> = require "mantichora" { nworkers = 1, journal = "x.mj" }
        inner:run(number)
        inner:run(number)
        local got = inner:returns()
        return got[1] ~= got[2]
      end
      local first, differ, second = ask(number), ask(outer), ask(number)
      print(differ, first ~= second, pool:stats().found)
    ]=])
    for _, found in ipairs{ 0, 3 } do
      local got = shell.run(("cd %s && %s ./main.lua"):format(shell.quote(folder), interpreter))
      assert.same({ ("true\ttrue\t%d\n"):format(found), "" }, { got.out, got.err })
    end
    shell.remove(folder)
  end)

  it("is not recorded if it cannot be sent", function()
    local folder = shell.folder()
    local interpreter = (" " .. shell.interpreter):gsub("([ '=])build/", "%1" .. os.getenv("PWD") .. "/build/")
    shell.write(folder .. "/main.lua", [=[
      local fails = false
      thing = setmetatable({ n = 1 }, { __mantichora = function(self)
        if fails then return self.n end -- which does for the key, not for the message
        return setmetatable, { n = self.n }, {}
      end })
      do
        local pool <close> = require "mantichora" { nworkers = 1, journal = { path = "x.mj", keep = "none" } }
        local function task() return thing.n end
        pool:run(task)
        print(pool:returns()[1])
        fails, thing.n = true, 2
        pool:run(task)
        pool:returns()
      end
      local names = {}
      for line in io.popen(arg[1] .. " journal x.mj ls --json"):lines() do names[#names + 1] = line end
      print(#names)
    ]=])
    local host = shell.host:find("^/") and shell.host or os.getenv("PWD") .. "/" .. shell.host
    local got = shell.run(("cd %s && %s ./main.lua %s"):format(shell.quote(folder), interpreter, shell.quote(host)))
    shell.remove(folder)
    assert.equal("1\n1\n", got.out)
    assert.truthy(got.err:find("it cannot be keyed: global 'thing' was changed", 1, true), got.err)
  end)
end)

describe("an unkeyable program", function()
  it("leaves the next key as it was", function()
    local keys = run { ["main.lua"] = [=[
      local function f() end
      key({}, f, 1)
      key({}, f, { [f] = 1 })
      key({}, f, 1)
      print("no " .. tostring(select(2, pcall(journal.key, {}, f, setmetatable({}, { __mantichora = error })))))
      key({}, f, 1)
    ]=] }
    assert.equal(keys[1].key, keys[3].key)
    assert.equal(keys[1].key, keys[5].key)
    assert.is_nil(run1("key({}, function() end)").refused)
  end)
end)
