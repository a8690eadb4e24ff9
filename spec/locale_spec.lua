-- Numbers of the library have a point in every locale: here in one with a decimal comma, made for this.

local shell = require "spec.support.shell"

local folder = shell.folder()
local made = shell.run(("localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8"):format(folder))

describe("in a locale with a decimal comma", function()
  teardown(function() shell.remove(folder) end)

  -- What a script prints there; each begins by setting the locale.
  local function run(script, environment)
    local path = folder .. "/script.lua"
    shell.write(path, 'assert(os.setlocale("de_DE.UTF-8"))\nassert(("%.1f"):format(0.5) == "0,5")\n' .. script)
    local got = shell.run(("LOCPATH=%s LC_ALL=de_DE.UTF-8 %s %s %s"):format(folder, environment or "",
      shell.interpreter, path))
    assert.are.equal(0, got.status, got.err)
    return got
  end

  it("there is one", function()
    assert.are.equal(0, made.status, made.err .. " (sh scripts/setup test installs what it needs)")
  end)

  it("bars have points", function()
    local script = [[
      local atpbar = require "mantichora.atpbar"
      local bar <close> = atpbar.bar { name = "copy", total = 800 }
      bar:add(1)
      for _ in atpbar.wrap(nil, "count", io.lines("/proc/self/maps")) do end
      for _ in atpbar({ 0.5, 2 }) do end
      local mcore <close> = require "mantichora" { nworkers = 1 }
      mcore:run(function() for _ in atpbar(3, "three") do end end)
      mcore:returns()
      atpbar.flush()]]
    local text = run(script, "MANTICHORA_PROGRESS=text").err
    assert.truthy(text:find("(100.00%): three", 1, true), text)
    assert.truthy(text:find("[0.5, 2]", 1, true), text)
    assert.falsy(text:find("%d,%d"), text)
    local bars = run(script, "MANTICHORA_PROGRESS=bar TERM=xterm COLUMNS=200").err
    assert.truthy(bars:find("100.00%", 1, true), bars)
    assert.falsy(bars:find("%d,%d"), bars)
    local json = run(script, "MANTICHORA_PROGRESS=json").err
    assert.truthy(json:find("three", 1, true), json)
    for line in json:gmatch("[^\n]+") do
      assert.falsy(line:gsub('"[^"]*"', ""):find(":%d+,%d"), line)
    end
  end)

  it("reports and messages have points", function()
    local got = run [[
      local mantichora = require "mantichora"
      local mcore <close> = mantichora { nworkers = 1, on_error = "return" }
      mcore:run_with({ timeout = 0.5 }, mantichora.sleep, 60)
      mcore:run(error, "plain", 0)
      mcore:run(error, 0.5)
      local results = mcore:returns()
      for _, failure in ipairs(results) do print(tostring(failure)) end
      print(results[1].message)
      assert(type(results[3].value) == "number" and results[3].message == "0.5")
      print(select(2, pcall(mantichora, { nworkers = 2.5 })))
      print(select(2, pcall(mantichora, { timeout = -0.5 })))
      print(select(2, pcall(mcore.cancel, mcore, 1.5)))
      print(select(2, pcall(mcore.receive_one, mcore, 0/0)))
      print(select(2, pcall(mcore.map, mcore, print, { n = 2.5 })))
      print(select(2, pcall(mcore.run, mcore, print, { [1.5] = io.tmpfile() })))
      print(mantichora.explain(print, ("x"):rep(3000)))]]
    assert.truthy(got.out:find("it ran longer than allowed (0.", 1, true), got.out)
    assert.truthy(got.out:find("MiB at most", 1, true), got.out)
    assert.truthy(got.out:find("2.9 KiB", 1, true), got.out)
    for _, given in ipairs { "2.5 is given", "-0.5 is given", "1.5 is given", "argument 1[1.5]" } do
      assert.truthy(got.out:find(given, 1, true), given .. "\n" .. got.out)
    end
    assert.falsy(got.out:find("%d,%d"), got.out)
  end)

  it("log records have points", function()
    local got = run [[
      local mantichora, logging = require "mantichora", require "mantichora.logging"
      logging.basic_config {
        level = "INFO", stream = print, format = "%(created).3f %(msecs)d %(created)g %(message)s",
      }
      local mcore <close> = mantichora { nworkers = 1 }
      mcore:run(function() logging.info(0.25) end)
      mcore:returns()
      logging.info("here")]]
    assert.truthy(got.out:find("^%d+%.%d%d%d %d+ %d%.%d*e%+09 0%.25\n"), got.out)
    assert.falsy(got.out:find("%d,%d"), got.out)
  end)

  it("values arrive as they are", function()
    run [[
      local mcore <close> = require "mantichora" { nworkers = 1 }
      local value = { 0.5, -1e300, 2^-1074, [1.25] = 3 }
      local back = mcore:map(function(x) return x[1], x end, { value })
      assert(back[1] == 0.5)
      mcore:run(function(x) return x end, value)
      local all = mcore:returns()[1]
      assert(all[1] == 0.5 and all[2] == -1e300 and all[3] == 2^-1074 and all[1.25] == 3)]]
  end)

  it("MANTICHORA_CHAOS is read", function()
    run([[
      local mcore <close> = require "mantichora" { nworkers = 2 }
      mcore:map(function(x) return x end, { 1, 2, 3 })]], "MANTICHORA_CHAOS=1,0.0")
    local got = run([[
      print(pcall((require "mantichora")))]], "MANTICHORA_CHAOS=1,0,05")
    assert.truthy(got.out:find("MANTICHORA_CHAOS must be seed[,rate]", 1, true), got.out)
  end)
end)
