--- @submodule mantichora

-- The options, their checks and the messages about wrong ones. Loaded by pool.lua with the core; returns the options by
-- what takes them, and the check.

local core = ...

local ipairs, pairs, tostring, type = ipairs, pairs, tostring, type
local to_text, tointeger = core.text, core.tointeger

-- The known name that looks most like this one, and how far it is away. Names that begin alike, and one that
-- ends with the other, are near.
local function nearest(name, known)
  local distance = core.part "mantichora.distance"()
  local word = tostring(name):lower()
  local best, least, more
  for candidate in pairs(known) do
    local whole = distance(word, candidate)
    local d, short, long = whole, word, candidate
    if #short > #long then short, long = long, short end
    if d > 2 and #short > 2 and (long:sub(1, 3) == short:sub(1, 3) or long:sub(-#short) == short) then d = 2 end
    if not least or d < least or d == least and (whole < more or whole == more and candidate < best) then
      best, least, more = candidate, d, whole
    end
  end
  return best, least
end

local function shown(value) return type(value) == "string" and ("%q"):format(value) or to_text(value) end

local function complain(name, expected, value)
  return ("option '%s' must be %s: %s is given"):format(name, expected, shown(value))
end

-- Each check returns the value to use, or nil and a message.

local function integer_from(least, expected)
  return function(name, value)
    local number = type(value) == "number" and tointeger(value)
    if not number or number < least then return nil, complain(name, expected, value) end
    return number
  end
end

local function choice_of(...)
  local words = { ... }
  local expected = '"' .. table.concat(words, '" or "') .. '"'
  return function(name, value)
    for _, word in ipairs(words) do
      if value == word then return value end
    end
    return nil, complain(name, expected, value)
  end
end

local function of_type(wanted, expected)
  return function(name, value)
    if type(value) ~= wanted then return nil, complain(name, expected, value) end
    return value
  end
end

local function seconds(name, value)
  if type(value) ~= "number" or not (value > 0) then
    return nil, complain(name, "a positive number of seconds", value)
  end
  return value
end

local function check_nworkers(name, value)
  if value == "auto" then return value end
  local number = type(value) == "number" and tointeger(value)
  if not number then return nil, complain(name, 'an integer or "auto"', value) end
  if number < 1 then return nil, ("nworkers must be at least one: %d is given"):format(number) end
  if number > 4096 then return nil, complain(name, "at most 4096", value) end
  return number
end

local halts = "halt must be \"never\", \"soon\", \"now\" or { \"soon\" or \"now\", fail = a number }: "

-- When the tasks of a group shall halt: false for never, else a table with `how`, and `after` (so many failures) or
-- `share` (of what has ended).
local function check_halt(name, value)
  if value == "never" then return false end
  local given = type(value) == "table" and value or { value }
  local how, fail = given[1], given.fail
  for key in pairs(given) do
    if key ~= 1 and key ~= "fail" then
      return nil, ("option '%s' has 'fail' and no '%s'"):format(name, to_text(key))
    end
  end
  if how ~= "soon" and how ~= "now" then
    return nil, ("option '%s': %s%s is given"):format(name, halts, shown(how == nil and value or how))
  end
  if fail == nil then return { how = how, after = 1 } end
  local number = type(fail) == "number" and tointeger(fail)
  if number and number >= 1 then return { how = how, after = number } end
  if type(fail) == "number" and fail > 0 and fail < 1 then return { how = how, share = fail } end
  return nil, complain(name .. ".fail", "an integer from 1, or a share between 0 and 1", fail)
end

-- Kinds of ends after which a task is tried again, as bits of an integer.
local function check_kinds(name, value)
  if type(value) ~= "table" then return nil, complain(name, "a list of kinds of failures", value) end
  local bits = 0
  for key, kind in pairs(value) do
    local number = core.kinds[kind]
    if not tointeger(key) or not number or kind == "ok" or kind == "cancelled" then
      return nil, complain(name, 'a list of "error", "unsendable", "exited", "killed" and "timeout"',
        tointeger(key) and kind or key)
    end
    bits = bits | 1 << number
  end
  return bits
end

local function check_delay(name, value)
  if type(value) ~= "number" or not (value >= 0) then
    return nil, complain(name, "a number of seconds that is not negative", value)
  end
  return value
end

local function check_key(name, value)
  if type(value) ~= "string" and type(value) ~= "number" then
    return nil, complain(name, "a string or a number", value)
  end
  return value
end

local function check_key_function(name, value)
  if not core.is_callable(value) then return nil, complain(name, "a function of item and index", value) end
  return value
end

-- What the journal of a pool is: false, or a table with `path` and `keep`.
local function check_journal(name, value)
  if value == false then return value end
  local given = type(value) == "table" and value or { path = value }
  if type(given.path) ~= "string" or given.path == "" or given.path:find("\0", 1, true) then
    return nil, complain(type(value) == "table" and name .. ".path" or name,
      "a path, a table with 'path' and 'keep', or false", given.path)
  end
  local keep = given.keep == nil and "failed" or given.keep
  if keep ~= "failed" and keep ~= "all" and keep ~= "none" then
    return nil, complain(name .. ".keep", '"failed", "all" or "none"', keep)
  end
  for key in pairs(given) do
    if key ~= "path" and key ~= "keep" then
      return nil, ("unknown option '%s.%s' (it has 'path' and 'keep')"):format(name, to_text(key))
    end
  end
  return { path = given.path, keep = keep }
end

-- A list of paths, copied.
local function check_paths(name, value)
  if type(value) ~= "table" then return nil, complain(name, "a list of paths", value) end
  local list = {}
  for i = 1, #value do
    local path = value[i]
    if type(path) ~= "string" or path == "" or path:find("\0", 1, true) then
      return nil, complain(("%s[%d]"):format(name, i), "a path", path)
    end
    list[i] = path
  end
  for key in pairs(value) do
    if not tointeger(key) or not list[key] then
      return nil, ("option '%s' must be a list of paths: it has a field '%s'"):format(name, to_text(key))
    end
  end
  return list
end

local function check_version(name, value)
  if type(value) ~= "string" and type(value) ~= "number" then
    return nil, complain(name, "a string or a number", value)
  end
  return value
end

local function check_unrecorded(name, value)
  if value ~= false then return nil, complain(name, "false, or be left out", value) end
  return value
end

local options_of = {} -- by what takes them: filled in below

local limit_options = {
  memory = integer_from(1, "a positive number of bytes"),
  cpu = integer_from(1, "a positive whole number of seconds"),
  files = integer_from(1, "a positive integer"),
}

-- What is wrong with a key that is no name, as in { "box1" }; nil: it is one.
local function nameless(key)
  if type(key) == "string" then return end
  local what = (type(key) == "number" or type(key) == "boolean") and tostring(key) or "a " .. core.typename(key)
  return ("options have names: [%s] has none (a list may have been meant as the value of an option)"):format(what)
end

local function check_limits(name, value)
  if type(value) ~= "table" then return nil, complain(name, "a table", value) end
  local checked = {}
  for key, limit in pairs(value) do
    local check_limit, problem = limit_options[key], nameless(key)
    if problem then return nil, "option 'limits': " .. problem end
    if not check_limit then
      local hint = options_of.pool[key] and "it is an option of the pool: " .. key
        or ("did you mean 'limits.%s'?"):format((nearest(key, limit_options)))
      return nil, ("unknown option 'limits.%s' (%s)"):format(tostring(key), hint)
    end
    local good, message = check_limit("limits." .. key, limit)
    if message then return nil, message end
    checked[key] = good
  end
  return checked
end

--- What `mantichora(options)` and `new(options)` take. All may be absent.
-- @table options
-- @field nworkers how many tasks run at a time at most: 1 to 4096, default 4. `"auto"`: as many as
-- `cpu_count()` returns; under `make -j`, as many as its jobserver has tokens for beside that (see the chapter on
-- pools). The environment variable MANTICHORA_WORKERS changes the default.
-- @field engine `"fork"` (default): a pool of workers that are reused. `"snapshot"`: one fork for each task,
-- from the state that this process has when the task starts; only results are serialized. `"inline"`: in this
-- process, when its result is received, for debugging.
-- @field progressbar false: bars of tasks are not shown. Default true.
-- @field poolbar true: one more bar shows how many of the pool's tasks are done, run, wait and have
-- failed. Default false.
-- @field leave `"failed"`: on a terminal the bars of tasks that ended well go, and the pool ends with
-- one line such as `1000 tasks: 997 ok, 3 failed, 12.3 s` on stderr, if bars are shown. true (default):
-- all stay.
-- @field on_error `"raise"` (default): calls that receive raise failures. `"return"`: they return them.
-- @field timeout seconds that each task, and `init`, may run; default: no limit
-- @field halt what a failure does to the rest of the tasks. `"never"` (default): nothing. `"soon"`: no further
-- task starts, those that run may finish; `"now"`: those that run are stopped, too. `{ "soon", fail = n }` and
-- `{ "now", fail = n }`: at the n-th failure; with `fail` between 0 and 1, when that share of the tasks that have
-- ended so far has failed, and at least 3 have. Neither cancelled tasks nor failures that are retried count. What
-- does not start ends as `cancelled`, with a message that names the failure, which is its `cause`; so do tasks that
-- are run later, until that failure has been given, raised or logged. Then counting begins anew. Calls that receive
-- many raise that failure. Each `map` or `imap` counts and stops for itself.
-- @field max_queued `run` and `run_with` wait while so many tasks of theirs are queued, `run_multiple` before its
-- first; default: any number. Not in handlers, sinks and renderers, nor with the engine `"inline"`.
-- @field max_tasks_per_worker a worker is replaced after this many tasks; default: never
-- @field max_memory_per_worker bytes: a worker that has more memory of its own than that after a task is replaced
-- (what it shares with nobody; where the system does not tell, what it has grown at most); default: never
-- @field min_free_memory bytes: no task or batch is given to a worker while less is available, unless none runs.
-- What the machine can give without swapping, and in a control group its limit minus its use, in which file cache
-- that can be dropped does not count. Looked at every 0.1 to 0.5 seconds while tasks wait. Default: none.
-- @field seed integer from which the random streams of the tasks are derived; default: random
-- @field init function, run once in each new worker before its first task. Workers get it by the fork, not
-- serialized, so it may have any upvalues. When it raises, runs longer than `timeout` or ends its process,
-- the task that waits for it fails, and the others go to other workers.
-- @field fini function, run once in each worker that leaves in an orderly way (`close`, the end of the scope, also
-- by an error, replacement), after its last task, for half a second at most. It runs where `init` has succeeded or
-- there is none; not in workers that were killed or ended by a task, and not when the pool is collected. What it
-- prints and logs is delivered, an error in it is logged at ERROR of the logger `mantichora`. Engine
-- `"snapshot"`: in each fork. `"inline"`: in this process, at `close`.
-- @field limits table of limits for each worker: `memory` (bytes that it adds after its fork), `cpu`
-- (seconds over its life), `files` (open descriptors)
-- @field gc `"auto"` (default): with a heap above 64 MiB, this state's collector is switched to generational
-- mode before the first fork, so that workers share its pages, and back at `close`; a worker is replaced
-- after a task that left much in it, or that ran a full collection. `"keep"`: the collector is not touched.
-- @field background true: from the first `run` to `close` a helper thread of this process advances the pool
-- between calls (if no thread can be started, only calls do). false: no thread. Default true.
-- @field capture_warn bytes: a task whose message is larger is logged, once for each function, at
-- WARNING of the logger `mantichora`. Default 8 MiB; 0: never.
-- @field journal path of a file in which results are kept, by the content of their tasks: a task that is there is
-- not run again (see the chapter on the journal). Or a table with `path` and `keep`: `"failed"` (default), `"all"` or
-- `"none"`, the calls that `mantichora journal FILE replay` can run again. `false`: none, also where the
-- environment variable MANTICHORA_JOURNAL names one.
-- @field name string, shown in messages
-- @field hosts other machines that run the tasks: a string or a list of names for ssh (`"box2:8"` with 8 slots),
-- `"localhost"`, `"cmd:WORDS"`, or tables with `command`, `slots` and `name`; see the chapter on many machines.
-- MANTICHORA_HOSTS changes the default. `nworkers` is then of all of them together, default: their slots.
-- @field lease with `hosts`: seconds of silence after which a machine counts as lost; default 20
-- @field connect_timeout with `hosts`: seconds in which a machine must answer; default 15
-- @field cwd with `hosts`: the directory in which workers begin; default: the script's, where it exists
-- @field env with `hosts`: list of names of variables of the environment, and pairs of names and values
-- @field program with `hosts`: the path of the program `mantichora` there
-- @field modules with `hosts`: `"loaded"`: Lua modules that the script has not loaded are not served; default `"all"`

local pool_options = {
  nworkers = check_nworkers,
  engine = choice_of("fork", "snapshot", "inline"),
  progressbar = of_type("boolean", "true or false"),
  poolbar = of_type("boolean", "true or false"),
  leave = function(name, value)
    if value == true or value == "failed" then return value end
    return nil, complain(name, 'true or "failed"', value)
  end,
  on_error = choice_of("raise", "return"),
  timeout = seconds,
  halt = check_halt,
  max_queued = integer_from(1, "a positive integer"),
  max_tasks_per_worker = integer_from(1, "a positive integer"),
  max_memory_per_worker = integer_from(1, "a positive number of bytes"),
  min_free_memory = integer_from(1, "a positive number of bytes"),
  seed = integer_from(1 << 63, "an integer"),
  init = of_type("function", "a function"),
  fini = of_type("function", "a function"),
  limits = check_limits,
  capture_warn = integer_from(0, "a number of bytes (0: never)"),
  gc = choice_of("auto", "keep"),
  background = of_type("boolean", "true or false"),
  journal = check_journal,
  name = of_type("string", "a string"),
  hosts = function(name, value)
    if type(value) == "string" or type(value) == "table" then return value end
    return nil, complain(name, "a string, or a list of machines", value)
  end,
  lease = seconds,
  connect_timeout = seconds,
  cwd = of_type("string", "the path of a directory"),
  env = function(name, value)
    if type(value) == "table" then return value end
    return nil, complain(name, "a table", value)
  end,
  program = of_type("string", "the path of a program"),
  modules = choice_of("all", "loaded"),
}

options_of.pool = pool_options

local run_options = {
  name = of_type("string", "a string"),
  timeout = seconds,
  retries = integer_from(0, "an integer that is not negative"),
  retry_on = check_kinds,
  retry_delay = check_delay,
  priority = integer_from(1 << 63, "an integer"),
  key = check_key,
  wait = of_type("boolean", "true or false"),
  inputs = check_paths,
  outputs = check_paths,
  version = check_version,
  journal = check_unrecorded,
}

local returns_options = { packed = of_type("boolean", "true or false") }

-- What an item of `map` takes is what a task takes.
local map_options = {
  name = run_options.name, timeout = run_options.timeout, retries = run_options.retries,
  retry_on = run_options.retry_on, retry_delay = run_options.retry_delay, priority = run_options.priority,
  halt = check_halt, key = check_key_function, inputs = check_key_function, outputs = check_key_function,
  version = check_version, journal = check_unrecorded,
}

local imap_options = { ordered = of_type("boolean", "true or false") }
for name, check_option in pairs(map_options) do imap_options[name] = check_option end

options_of.limits, options_of.run_with, options_of.returns = limit_options, run_options, returns_options
options_of.map, options_of.imap = map_options, imap_options

-- Where to look, in this order, for the owner of an option that was given to the wrong function.
local owners = { "limits", "pool", "run_with", "returns", "imap" }
local names = { limits = "the pool's limits", pool = "the pool" }

-- The message about an option that `owner` does not have: whose it is, or which name is nearest.
local function unknown_option(name, owner)
  local problem = nameless(name)
  if problem then return problem end
  local best, least = nearest(name, options_of[owner])
  local hint = ("did you mean '%s'?"):format(best)
  for _, other in ipairs(owners) do
    local its_name = names[other] or other
    if options_of[other][name] then
      hint = "it is an option of " .. its_name
      break
    end
    local its_best, its_least = nearest(name, options_of[other])
    if other ~= owner and its_least < least and its_least <= 3 and its_least < #tostring(name) then
      hint, least = ("did you mean '%s'? That is an option of %s"):format(its_best, its_name), its_least
    end
  end
  return ("unknown option '%s' (%s)"):format(tostring(name), hint)
end

local options = { check_nworkers = check_nworkers, check_paths = check_paths }

-- A checked copy of the `given` options of `owner` ("pool", "run_with", "returns", "map" or "imap"), which are
-- argument `number`; an error at the user's call names what is wrong.
function options.check(owner, given, number)
  local checked = {}
  if given == nil then return checked end
  if type(given) ~= "table" then
    core.argument(number, "options must be a table: " .. core.typename(given) .. " is given")
  end
  for name, value in pairs(given) do
    local check = options_of[owner][name]
    if not check then core.raise(unknown_option(name, owner)) end
    local good, message = check(name, value)
    if message then core.raise(message) end
    checked[name] = good
  end
  if checked.version ~= nil and not checked.name then
    core.raise("option 'version' stands for the code of tasks of one name: option 'name' must be given, too")
  end
  return checked
end

return options
