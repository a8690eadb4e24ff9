-- What crosses between processes, seen by users of pools: each sentence holds with every engine.

local mantichora = require "mantichora"

local ENGINES = { "fork", "snapshot", "inline" }

-- A test for each engine. `body` gets what makes a pool of it.
local function each_engine(name, body)
  for _, engine in ipairs(ENGINES) do
    it(("%s (%s)"):format(name, engine), function()
      body(function(options)
        options = options or {}
        options.engine, options.nworkers = engine, options.nworkers or 2
        return mantichora(options)
      end, engine)
    end)
  end
end

describe("an error value that cannot be rebuilt in the parent", function()
  -- What rebuilds it here: it raises, gives nothing, or breaks off in the middle of a larger value.
  local rebuilds = {
    raises = function() error("cannot be rebuilt") end,
    ["gives nil"] = function() return nil end,
    ["raises a table"] = function() error({}) end,
  }

  local function fail(rebuild, nested)
    local object = setmetatable({}, {
      __tostring = function() return "disk full" end,
      __mantichora = function() return rebuild end,
    })
    if nested then
      object = setmetatable({ why = { object } }, { __tostring = function() return "disk full" end })
    end
    error(object)
  end

  local function check_failure(failure)
    assert.are.equal("error", failure.kind)
    assert.are.equal("disk full", failure.message)
    assert.is_nil(failure.value)
    assert.truthy(failure.traceback:find("values_spec.lua:%d+: in "))
    assert.truthy(tostring(failure):find("disk full.*values_spec.lua"))
  end

  for how, rebuild in pairs(rebuilds) do
    each_engine("leaves message and traceback: it " .. how, function(new)
      local pool <close> = new { on_error = "return" }
      for _, nested in ipairs { false, true } do
        pool:run(fail, rebuild, nested)
        check_failure(select(2, pool:receive_one()))
        pool:run(fail, rebuild, nested)
        check_failure(pool:receive_all()[1][2])
        pool:run(fail, rebuild, nested)
        check_failure(pool:returns()[1])
      end
    end)

    each_engine("leaves them among the items of a batch, too: it " .. how, function(new)
      local pool <close> = new { on_error = "return" }
      local function f(x)
        if x % 10 == 0 then fail(rebuild) end
        return x
      end
      local items = {}
      for i = 1, 300 do items[i] = i end
      local mapped = pool:map(f, items)
      for i, value in pool:imap(f, items) do
        for _, got in ipairs { mapped[i], value } do
          if i % 10 == 0 then check_failure(got) else assert.are.equal(i, got) end
        end
      end
    end)
  end
end)
