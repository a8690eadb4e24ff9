-- What a task leaves behind for the next one: settings of the interpreter are set back to what `init` left.

local mantichora = require "mantichora"
local shell = require "spec.support.shell"

-- What a task tells of these settings.
local function settings()
  local pause, stepmul = collectgarbage("setpause", 200), collectgarbage("setstepmul", 100)
  collectgarbage("setpause", pause)
  collectgarbage("setstepmul", stepmul)
  local mode = collectgarbage("incremental")
  collectgarbage(mode)
  return {
    hook = debug.gethook() ~= nil, running = collectgarbage("isrunning"), mode = mode, pause = pause,
    stepmul = stepmul, input = io.input() == io.stdin, output = io.output() == io.stdout,
  }
end

local function mess(file)
  debug.sethook(function() end, "l")
  collectgarbage("stop")
  collectgarbage(collectgarbage("generational") == "generational" and "incremental" or "generational")
  collectgarbage("setpause", 555)
  collectgarbage("setstepmul", 777)
  io.output(file)
  io.write("kept")
  io.input("/dev/null")
end

for _, engine in ipairs { "fork", "inline" } do
  describe("engine " .. engine .. ": a task that", function()
    it("changes settings leaves them to the next as they were", function()
      local pool <close> = mantichora { nworkers = 1, engine = engine }
      local file = shell.folder() .. "/output"
      pool:run(settings)
      pool:run(mess, file)
      pool:run(settings)
      pool:run(function()
        local input <close> = assert(io.open(file))
        return input:read("a")
      end)
      local results = pool:returns()
      if engine == "inline" then results[1].mode, results[3].mode = nil, nil end
      assert.are.same(results[1], results[3])
      assert.are.equal("kept", results[4])
    end)

    it("fails leaves nothing either", function()
      local pool <close> = mantichora { nworkers = 1, engine = engine, on_error = "return" }
      pool:run(function()
        debug.sethook(function() end, "l")
        collectgarbage("stop")
        io.output("/dev/null")
        error("x")
      end)
      pool:run(settings)
      local results = pool:returns()
      assert.are.equal("error", results[1].kind)
      assert.are.same({ false, true, true }, { results[2].hook, results[2].running, results[2].output })
    end)

    it("takes a default file of its own does not close it", function()
      local pool <close> = mantichora { nworkers = 1, engine = engine }
      local file = shell.folder() .. "/kept"
      pool:run(function(name)
        _G.kept = io.open(name, "w")
        io.output(_G.kept)
        io.write("one ")
      end, file)
      pool:run(function(name)
        _G.kept:write("two")
        _G.kept:close()
        local input <close> = assert(io.open(name))
        return input:read("a"), io.type(io.output())
      end, file)
      local results = pool:returns { packed = true }
      assert.are.same({ "one two", "file", n = 2 }, results[2])
    end)
  end)
end

describe("items of a batch", function()
  it("leave nothing to those behind them", function()
    local pool <close> = mantichora { nworkers = 1 }
    local function item(i)
      local found = debug.gethook() ~= nil or not collectgarbage("isrunning") or io.output() ~= io.stdout
      if i % 3 == 0 then debug.sethook(function() end, "l") end
      if i % 3 == 1 then collectgarbage("stop") end
      if i % 3 == 2 then io.output(io.stderr) end
      return found
    end
    local list = {}
    for i = 1, 2000 do list[i] = i end
    local found = 0
    for _, value in ipairs(pool:map(item, list)) do found = found + (value and 1 or 0) end
    assert.are.equal(0, found)
  end)
end)

describe("what init sets", function()
  it("is what each task finds", function()
    local file = shell.folder() .. "/init"
    local pool <close> = mantichora { nworkers = 1, on_error = "return", init = function()
      _G.calls = 0
      debug.sethook(function() _G.calls = _G.calls + 1 end, "c")
      collectgarbage("stop")
      collectgarbage("setpause", 320)
      io.output(file)
    end }
    local function look()
      io.write("x")
      return _G.calls > 0 and debug.gethook() ~= nil, collectgarbage("isrunning"),
        collectgarbage("setpause", 320), io.output() ~= io.stdout
    end
    pool:run(look)
    pool:run(function()
      debug.sethook()
      collectgarbage("restart")
      collectgarbage("setpause", 99)
      io.output():flush()
      io.output(io.stdout)
    end)
    pool:run(function() debug.sethook(function() end, "c") end)
    pool:run_with({ timeout = 0.1 }, function() while true do end end)
    pool:run(function() _G.calls = 0 end)
    pool:run(look)
    local results = pool:returns { packed = true }
    assert.are.equal("timeout", results[4].kind)
    assert.are.same({ true, false, 320, true, n = 4 }, results[1])
    assert.are.same(results[1], results[6])
  end)
end)

describe("a worker of a worker", function()
  it("is tidy too", function()
    local pool <close> = mantichora { nworkers = 1 }
    local file = shell.folder() .. "/inner"
    pool:run(function()
      local inner <close> = mantichora { nworkers = 1 }
      inner:run(settings)
      inner:run(mess, file)
      inner:run(settings)
      return inner:returns()
    end)
    local results = pool:returns()[1]
    assert.are.same(results[1], results[3])
  end)
end)

-- A program that says in which process an object was finalized or closed; its lines.
local function lines_of(text)
  local path = shell.folder() .. "/inherited.lua"
  local file <close> = assert(io.open(path, "w"))
  file:write([[
    local mantichora = require "mantichora"
    local main = mantichora.is_worker
    local function told(what)
      local function tell() io.stderr:write(main() and "worker " or "parent ", what, "\n") end
      return setmetatable({}, { __gc = tell, __close = tell })
    end
    ]], text)
  file:close()
  local got = shell.run(("%s %s 2>&1"):format(shell.interpreter, path), { timeout = 30 })
  return got.out
end

describe("what the parent has", function()
  it("is finalized by the parent, also when a task drops it", function()
    assert.are.equal("parent module\nparent global\n", lines_of [[
      global = told "global"
      package.loaded.thing = told "module"
      local pool <close> = mantichora { nworkers = 1 }
      pool:run(function()
        global, package.loaded.thing = nil, nil
        collectgarbage()
        collectgarbage()
      end)
      pool:returns()
      pool:close()]])
  end)

  for _, engine in ipairs { "fork", "snapshot" } do
    it("is left alone by os.exit in a task of engine " .. engine, function()
      assert.are.equal("exited 3\nexited 4\nparent variable\nparent global\n", lines_of(([[
        global = told "global"
        local variable <close> = told "variable"
        getmetatable(variable).__gc = nil
        local pool <close> = mantichora { nworkers = 1, engine = %q, on_error = "return" }
        local exit = os.exit
        local function leave() exit(4, true) end
        pool:run(function() os.exit(3, true) end)
        pool:run(function() leave() end)
        for _, failure in ipairs(pool:returns()) do
          io.stderr:write(failure.kind, " ", failure.exitcode, "\n")
        end
        pool:close()]]):format(engine)))
    end)
  end
end)

describe("a pipe to a program that the parent has opened", function()
  it("is let go of in init, so that the parent can close it", function()
    assert.are.equal("nil No child processes\nnil No child processes\nclosed true\n", lines_of [[
      io.stdout:setvbuf("no")
      local pipe = io.popen("cat > /dev/null", "w")
      pipe:write("written\n")
      local pool <close> = mantichora { nworkers = 2, init = function()
        local ok, why = pipe:close()
        closed = tostring(ok) .. " " .. why
      end }
      for _ = 1, 2 do pool:run(function() mantichora.sleep(0.05) return closed end) end
      local results = pool:returns()
      print(results[1])
      print(results[2])
      print("closed " .. tostring(pipe:close()))]])
  end)
end)
