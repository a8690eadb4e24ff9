-- Wrong arguments: each error names the user's line, the function and the argument's number, and what is
-- wrong with it.

local atpbar = require "mantichora.atpbar"
local logging = require "mantichora.logging"
local mantichora = require "mantichora"

local pool, bar, log -- while a case runs
local coroutine_value = coroutine.create(print)

-- What a case runs, and what is said behind the place.
local cases = {
  -- Arguments of methods count without the pool, as with Lua's own.
  { function() pool:run() end, "bad argument #1 to 'run' (function or callable table expected, got no value)" },
  { function() pool:run(nil) end, "bad argument #1 to 'run' (function or callable table expected, got nil)" },
  { function() pool:run(coroutine_value) end,
    "bad argument #1 to 'run' (function or callable table expected, got thread)" },
  { function() pool.run(pool, 5) end, "bad argument #2 to 'run' (function or callable table expected, got number)" },
  { function() pool:run_with() end,
    "bad argument #2 to 'run_with' (function or callable table expected, got no value)" },
  { function() pool:run_with({}) end,
    "bad argument #2 to 'run_with' (function or callable table expected, got no value)" },
  { function() pool:run_with({}, nil) end,
    "bad argument #2 to 'run_with' (function or callable table expected, got nil)" },
  { function() pool:run_with({}, {}) end,
    "bad argument #2 to 'run_with' (function or callable table expected, got table)" },
  { function() pool:run_with(print) end, "bad argument #1 to 'run_with' (options must be a table: function is given)" },
  { function() pool:run_with({ timeout = -1 }, print) end,
    "option 'timeout' must be a positive number of seconds: -1 is given" },
  { function() pool:run_with({ retrys = 1 }, print) end, "unknown option 'retrys' (did you mean 'retries'?)" },
  { function() pool:run_with({ nworkers = 1 }, print) end, "unknown option 'nworkers' (it is an option of the pool)" },
  { function() pool:run_with({ [5] = 1 }, print) end,
    "options have names: [5] has none (a list may have been meant as the value of an option)" },
  { function() mantichora { "box1" } end,
    "options have names: [1] has none (a list may have been meant as the value of an option)" },
  { function() mantichora { limits = { [print] = 1 } } end,
    "option 'limits': options have names: [a function] has none "
      .. "(a list may have been meant as the value of an option)" },
  { function() pool:run_multiple() end,
    "bad argument #1 to 'run_multiple' (run_multiple takes a list of functions: nil is given)" },
  { function() pool:run_multiple(print) end,
    "bad argument #1 to 'run_multiple' (run_multiple takes a list of functions: function is given)" },
  { function() pool:run_multiple { print, {} } end,
    "bad argument #1 to 'run_multiple' (run_multiple takes a list of functions: at 2, table is given)" },
  { function() pool:run_multiple { print, function() return coroutine_value end } end,
    "function 2: cannot send upvalue 'coroutine_value' of function <spec/misuse_spec.lua:%d+>: coroutine (thread)" },
  { function() pool:returns(5) end, "bad argument #1 to 'returns' (options must be a table: number is given)" },
  { function() pool:returns { pack = true } end, "unknown option 'pack' (did you mean 'packed'?)" },
  { function() pool:returns { packed = 1 } end, "option 'packed' must be true or false: 1 is given" },
  { function() pool:receive_one("x") end,
    "bad argument #1 to 'receive_one' (timeout must be a number of seconds: x is given)" },
  { function() pool:receive_one(0 / 0) end,
    "bad argument #1 to 'receive_one' (timeout must be a number of seconds: %S+ is given)" },
  { function() pool:poll {} end,
    "bad argument #1 to 'poll' (timeout must be a number of seconds: table: 0x%x+ is given)" },
  { function() pool.poll(pool, true) end,
    "bad argument #2 to 'poll' (timeout must be a number of seconds: true is given)" },
  { function() pool:map() end, "bad argument #1 to 'map' (map takes a function and items: nil is given)" },
  { function() pool:map({}, {}) end, "bad argument #1 to 'map' (map takes a function and items: table is given)" },
  { function() pool:map(print) end, "bad argument #2 to 'map' (map takes a list: nil is given)" },
  { function() pool:map(print, print) end, "bad argument #2 to 'map' (map takes a list: function is given)" },
  { function() pool:map(print, { n = "x" }) end,
    "bad argument #2 to 'map' (map takes a list whose n is an integer: x is given)" },
  { function() pool:imap(5, {}) end, "bad argument #1 to 'imap' (imap takes a function and items: number is given)" },
  { function() pool:imap(print, 5) end,
    "bad argument #2 to 'imap' (imap takes a list or an iterator: number is given)" },
  { function() for _ in pool:imap(print, nil) do error "no" end end,
    "bad argument #2 to 'imap' (imap takes a list or an iterator: nil is given)" },
  { function() pool:imap(print, {}, { order = 1 }) end, "unknown option 'order' (did you mean 'ordered'?)" },
  { function() pool:cancel() end, "bad argument #1 to 'cancel' (cancel takes a run ID: nil is given)" },
  { function() pool:cancel("1") end, "bad argument #1 to 'cancel' (cancel takes a run ID: 1 is given)" },
  { function() pool:cancel(1.5) end, "bad argument #1 to 'cancel' (cancel takes a run ID: 1.5 is given)" },
  -- A method without its pool.
  { function() for _ in pool.as_completed do error "no" end end,
    "bad argument #1 to 'as_completed' (mantichora pool expected, got nil)" },
  -- The module.
  { function() mantichora(5) end, "bad argument #1 to 'mantichora' (options must be a table: number is given)" },
  { function() mantichora.new(print) end, "bad argument #1 to 'new' (options must be a table: function is given)" },
  { function() mantichora { nworkers = "x" } end, "option 'nworkers' must be an integer or \"auto\": \"x\" is given" },
  { function() mantichora { nworker = 3 } end, "unknown option 'nworker' (did you mean 'nworkers'?)" },
  { function() mantichora { worker = 3 } end, "unknown option 'worker' (did you mean 'nworkers'?)" },
  { function() mantichora { Timeout = 3 } end, "unknown option 'Timeout' (did you mean 'timeout'?)" },
  { function() mantichora { retries = 3 } end, "unknown option 'retries' (it is an option of run_with)" },
  { function() mantichora { retry = 3 } end,
    "unknown option 'retry' (did you mean 'retries'? That is an option of run_with)" },
  { function() mantichora { priority = 3 } end, "unknown option 'priority' (it is an option of run_with)" },
  { function() mantichora { packed = true } end, "unknown option 'packed' (it is an option of returns)" },
  { function() mantichora { ordered = true } end, "unknown option 'ordered' (it is an option of imap)" },
  { function() mantichora { memory = 3 } end, "unknown option 'memory' (it is an option of the pool's limits)" },
  { function() mantichora { mem = 3 } end,
    "unknown option 'mem' (did you mean 'memory'? That is an option of the pool's limits)" },
  { function() mantichora { limits = { mem = 3 } } end, "unknown option 'limits.mem' (did you mean 'limits.memory'?)" },
  { function() mantichora { limits = { cpus = 3 } } end, "unknown option 'limits.cpus' (did you mean 'limits.cpu'?)" },
  { function() mantichora { limits = { file = 3 } } end,
    "unknown option 'limits.file' (did you mean 'limits.files'?)" },
  { function() mantichora { limits = { timeout = 3 } } end,
    "unknown option 'limits.timeout' (it is an option of the pool: timeout)" },
  { function() mantichora.sleep() end, "bad argument #1 to 'sleep' (sleep takes a number of seconds: nil is given)" },
  { function() mantichora.sleep("1") end, "bad argument #1 to 'sleep' (sleep takes a number of seconds: 1 is given)" },
  { function() mantichora.explain() end, "bad argument #1 to 'explain' (value expected)" },
  -- Bars.
  { function() atpbar() end, "bad argument #1 to 'atpbar' (count or list expected, got nil)" },
  { function() atpbar(nil, "x") end, "bad argument #1 to 'atpbar' (count or list expected, got nil)" },
  { function() atpbar("5") end, "bad argument #1 to 'atpbar' (count or list expected, got string)" },
  { function() atpbar(1.5) end, "bad argument #1 to 'atpbar' (number has no integer representation)" },
  { function() atpbar(5, {}) end, "bad argument #2 to 'atpbar' (name: string expected, got table)" },
  { function() for _ in atpbar do error "no" end end, "bad argument #1 to 'atpbar' (count or list expected, got nil)" },
  { function() atpbar.pairs() end, "bad argument #1 to 'pairs' (table expected, got nil)" },
  { function() atpbar.pairs(5) end, "bad argument #1 to 'pairs' (table expected, got number)" },
  { function() atpbar.pairs({}, 5) end, "bad argument #2 to 'pairs' (name: string expected, got number)" },
  { function() atpbar.wrap("x", "name", print) end, "bad argument #1 to 'wrap' (number expected, got string)" },
  { function() atpbar.wrap(5, print) end, "bad argument #2 to 'wrap' (name: string expected, got function)" },
  { function() atpbar.wrap(5, "name") end, "bad argument #3 to 'wrap' (iterator expected, got no value)" },
  { function() atpbar.bar() end, "bad argument #1 to 'bar' (table expected, got nil)" },
  { function() atpbar.bar(5) end, "bad argument #1 to 'bar' (table expected, got number)" },
  { function() atpbar.bar { total = "x" } end, "bad argument #1 to 'bar' (total: integer expected, got string)" },
  { function() atpbar.bar { name = 5 } end, "bad argument #1 to 'bar' (name: string expected, got number)" },
  { function() bar:add("x") end, "bad argument #1 to 'add' (number expected, got string)" },
  { function() bar:set() end, "bad argument #1 to 'set' (number expected, got no value)" },
  { function() bar.add(5) end, "bad argument #1 to 'add' (mantichora.atpbar.bar expected, got number)" },
  { function() bar.close() end, "bad argument #1 to 'close' (mantichora.atpbar.bar expected, got no value)" },
  { function() atpbar.set_renderer(5) end, "bad argument #1 to 'set_renderer' (function expected, got number)" },
  -- Logging. Log calls themselves take anything.
  { function() logging.basic_config(5) end,
    "bad argument #1 to 'basic_config' (options must be a table: number is given)" },
  { function() logging.basic_config { lvl = 5 } end, "unknown option 'lvl' (the nearest is 'level')" },
  { function() logging.basic_config { level = "INFOS" } end, "unknown level 'INFOS' (the nearest is 'INFO')" },
  { function() logging.get(5) end, "bad argument #1 to 'get' (name must be a string: number is given)" },
  { function() logging.add_handler(5) end,
    "bad argument #1 to 'add_handler' (handler must be a function: number is given)" },
  { function() log:add_handler() end, "bad argument #1 to 'add_handler' (handler must be a function: nil is given)" },
  { function() log:add_handler(print, "x") end, "unknown level 'x' (the nearest is 'INFO')" },
  { function() log:set_level("x") end, "unknown level 'x' (the nearest is 'INFO')" },
}

for _, method in ipairs { "run", "run_with", "run_multiple", "returns", "receive_one", "receive_all",
  "receive_finished", "as_completed", "map", "imap", "cancel", "terminate", "close", "poll", "pollfd", "events",
  "timeout", "start", "workers" } do
  cases[#cases + 1] = { function() pool[method]() end,
    ("bad argument #1 to '%s' (mantichora pool expected, got %s)"):format(method, method == "run" and "no value"
      or "nil") }
  cases[#cases + 1] = { function() pool[method](5, print, {}) end,
    ("bad argument #1 to '%s' (mantichora pool expected, got number)"):format(method) }
end

for _, method in ipairs { "debug", "info", "warning", "error", "critical", "log", "set_level", "add_handler",
  "remove_handler", "get_effective_level", "is_enabled_for" } do
  cases[#cases + 1] = { function() log[method]("slow") end,
    ("bad argument #1 to '%s' (mantichora.logger expected, got string)"):format(method) }
end

describe("wrong arguments", function()
  -- What stands in a pattern is one where the case has a % in it.
  local function matches(text, expected)
    if not expected:find("%", 1, true) then return text == expected end
    return text:find("^" .. expected:gsub("[%(%)%?%*%-%[%]]", "%%%0"):gsub("%%%-", "-") .. "$")
  end

  for number, case in ipairs(cases) do
    it(("are told: %d, %s"):format(number, case[2]), function()
      local mcore <close> = mantichora { nworkers = 1, background = false }
      pool, log = mcore, logging.get("misuse_spec")
      local renderer = function() end
      atpbar.set_renderer(renderer)
      local closing <close> = atpbar.bar { name = "x" }
      bar = closing
      local fine, problem = pcall(case[1])
      atpbar.set_renderer()
      assert.is_false(fine)
      local line, text = problem:match("^spec/misuse_spec.lua:(%d+): (.*)$")
      assert.truthy(line, problem)
      local info = debug.getinfo(case[1], "S")
      assert.is_true(tonumber(line) >= info.linedefined and tonumber(line) <= info.lastlinedefined, problem)
      assert.truthy(matches(text, case[2]), text)
    end)
  end

  it("are told with the method's name and the user's line in a pcall", function()
    local mcore <close> = mantichora { nworkers = 1, background = false }
    local _, problem = pcall(mcore.run_with, mcore, {}, nil)
    assert.truthy(problem:find("^spec/misuse_spec.lua:%d+: bad argument #3 to 'run_with' "), problem)
    _, problem = pcall(mantichora.sleep, {})
    assert.truthy(problem:find("^spec/misuse_spec.lua:%d+: bad argument #1 to 'sleep' "), problem)
  end)
end)
