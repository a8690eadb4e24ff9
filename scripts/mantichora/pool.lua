--- Runs Lua functions concurrently in background processes and hands back their return values in
-- the order in which the functions were given.
--
-- `require` makes no process, no thread and no global.
--
--     local mantichora = require "mantichora"
--     local mcore <close> = mantichora { nworkers = 3 }
--     mcore:run(function(a, b) return a + b end, 20, 22)
--     print(mcore:returns()[1])   --> 42
--
-- @module mantichora

-- The pool's methods, put together from the small steps of the core (bindings/pool/lpool.c), and the
-- module's functions. Loaded by luaopen_mantichora with the core as argument.

local _, core, load_map = ...

local error, ipairs, next, pairs, select, setmetatable, tonumber, tostring, type =
  error, ipairs, next, pairs, select, setmetatable, tonumber, tostring, type
local pack, sort = table.pack, table.sort
local fixed, to_text, tointeger = core.fixed, core.text, core.tointeger

-- ---------------------------------------------------------------------------------------------
-- Failures

local signal_names = {
  [1] = "SIGHUP", [2] = "SIGINT", [3] = "SIGQUIT", [4] = "SIGILL", [6] = "SIGABRT", [7] = "SIGBUS",
  [8] = "SIGFPE", [9] = "SIGKILL", [11] = "SIGSEGV", [13] = "SIGPIPE", [14] = "SIGALRM",
  [15] = "SIGTERM", [24] = "SIGXCPU", [25] = "SIGXFSZ",
}

local function killed_by(failure)
  local number = failure.signal
  if not number then return "its worker was killed" end
  local name = signal_names[number]
  return ("its worker was killed by signal %d%s"):format(number, name and " (" .. name .. ")" or "")
end

-- What happened, by kind, in words. `reason` is what the worker or the pool said, if anything.
local wordings = {
  error = function(_, reason) return reason or "not enough memory" end,
  unsendable = function(_, reason) return reason or "its result could not be sent" end,
  exited = function(failure, reason)
    return ("its worker exited with status %d%s"):format(failure.exitcode or 0,
      reason and " " .. reason or "")
  end,
  killed = function(failure, reason)
    if reason == "its worker broke the protocol" then return reason end
    return killed_by(failure) .. (failure.perhaps_oom and ", perhaps because memory was short" or "")
      .. (reason and " " .. reason or "")
  end,
  timeout = function(failure, reason) -- what the task said comes with a traceback
    local what = reason == "init" and not failure.traceback and reason or "it"
    return ("%s ran longer than allowed (%s s)"):format(what, fixed(failure.elapsed, 2))
  end,
  cancelled = function() return "it was cancelled" end,
}

--- How a task failed. The call that receives the task raises this table, or with `on_error = "return"`
-- returns it in place of the value. `tostring` makes a full report of it. Fields that are not known are nil.
-- @table failure
-- @field kind `"error"`: it raised. `"unsendable"`: it returned what cannot be sent. `"exited"`: it
-- ended its process. `"killed"`: a signal ended its worker. `"timeout"`: it ran longer than allowed.
-- `"cancelled"`: by `pool:cancel` or `pool:terminate`.
-- @field runid the task's run ID
-- @field index number of its item, in a `map` or `imap`
-- @field item the item itself, the very value that was given
-- @field name the task's name, from `run_with`
-- @field message what happened, a string
-- @field value the original error value, if it could be sent and rebuilt
-- @field lost why an error value that was sent could not be rebuilt
-- @field shown what was in an error value that is a table without a `__tostring`, as a short text; the
-- report has it in the place of the message
-- @field traceback the worker's, a string
-- @field place where the function is defined, as `<file:line>`
-- @field pid the worker's process ID
-- @field signal the signal's number, of kind `"killed"`
-- @field exitcode the exit status, of kind `"exited"`
-- @field elapsed seconds that the task ran
-- @field maxrss the worker's peak memory so far, in bytes
-- @field attempts how many attempts were made, if more than one
-- @field progress where the task's last bar stood when its worker died
-- @field last_log message of the last record that the task logged before its worker died
-- @field pool the pool's name
-- @field failures the list of all failures, where one is raised for several tasks
-- @field results with `failures`: the values of the other tasks, by run ID; those of a `map` by `index`

local failure_meta = { __name = "mantichora failure" }

-- The full report: the task, its function, what happened, the worker's traceback.
function failure_meta:__tostring()
  local parts = { ("task %d"):format(self.runid) }
  local details = {}
  if self.index then details[#details + 1] = ("item %d"):format(self.index) end
  if self.name then details[#details + 1] = ("%q"):format(self.name) end
  if self.place then details[#details + 1] = "function " .. self.place end
  if details[1] then parts[#parts + 1] = " (" .. table.concat(details, ", ") .. ")" end
  parts[#parts + 1] = (": %s: %s"):format(self.kind, self.shown or tostring(self.message))
  if self.lost then parts[#parts + 1] = "\n  its error value is not here: " .. self.lost end
  if self.pool then parts[#parts + 1] = ("\n  in pool %q"):format(self.pool) end
  if self.pid then
    parts[#parts + 1] = ("\n  in worker %d, after %s s"):format(self.pid, fixed(self.elapsed or 0, 3))
    if self.maxrss then
      parts[#parts + 1] = (", %s MiB at most"):format(fixed(self.maxrss / 2 ^ 20, 1))
    end
  end
  if self.attempts then parts[#parts + 1] = (", at attempt %d"):format(self.attempts) end
  if self.progress then parts[#parts + 1] = "\n  last progress: " .. self.progress end
  if self.last_log then parts[#parts + 1] = "\n  last log line: " .. tostring(self.last_log) end
  if self.traceback then parts[#parts + 1] = "\nworker's " .. self.traceback end
  if self.failures and #self.failures > 1 then
    parts[#parts + 1] = ("\nand %d more tasks failed"):format(#self.failures - 1)
  end
  return table.concat(parts)
end

local function new_failure(raw, pool_name)
  raw.message = wordings[raw.kind](raw, raw.reason)
  raw.reason, raw.perhaps_oom, raw.pool = nil, nil, pool_name
  if raw.kind == "timeout" or raw.kind == "cancelled" then raw.value = nil end
  return setmetatable(raw, failure_meta)
end

-- ---------------------------------------------------------------------------------------------
-- Options

local function smaller(a, b) return a < b and a or b end

-- For "did you mean": how far two names are apart, and their edit distance. Names that begin alike, and one
-- that ends with the other, are near.
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], smaller(row[j] + 1, smaller(row[j - 1] + 1, diagonal + cost))
    end
  end
  local short, long = a, b
  if #short > #long then short, long = long, short end
  if #short > 2 and (long:sub(1, 3) == short:sub(1, 3) or long:sub(-#short) == short) then
    return smaller(row[#b], 2), row[#b]
  end
  return row[#b], row[#b]
end

-- The known name that looks most like this one, and how far it is away.
local function nearest(name, known)
  local best, least, more
  for candidate in pairs(known) do
    local d, whole = distance(tostring(name):lower(), candidate)
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
  if value == "auto" then return core.cpu_count() end
  local number = type(value) == "number" and tointeger(value)
  if not number then return nil, complain(name, 'an integer or "auto"', value) end
  if number < 1 then return nil, ("nworkers must be at least one: %d is given"):format(number) end
  if number > 4096 then return nil, complain(name, "at most 4096", value) end
  return number
end

local options_of = {} -- by what takes them: filled in below

local limit_options = {
  memory = integer_from(1, "a positive number of bytes"),
  cpu = integer_from(1, "a positive whole number of seconds"),
  files = integer_from(1, "a positive integer"),
}

local function check_limits(name, value)
  if type(value) ~= "table" then return nil, complain(name, "a table", value) end
  local checked = {}
  for key, limit in pairs(value) do
    local check_limit = limit_options[key]
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
-- `cpu_count()` returns. The environment variable MANTICHORA_WORKERS changes the default.
-- @field engine `"fork"` (default): a pool of workers that are reused. `"snapshot"`: one fork for each task,
-- from the state that this process has when the task starts; only results are serialized. `"inline"`: in this
-- process, when its result is received, for debugging.
-- @field progressbar false: bars of tasks are not shown. Default true.
-- @field poolbar true: one more bar shows how many of the pool's tasks are done, run, wait and have
-- failed. Default false.
-- @field on_error `"raise"` (default): calls that receive raise failures. `"return"`: they return them.
-- @field timeout seconds that each task, and `init`, may run; default: no limit
-- @field max_tasks_per_worker a worker is replaced after this many tasks; default: never
-- @field seed integer from which the random streams of the tasks are derived; default: random
-- @field init function, run once in each new worker before its first task. Workers get it by the fork, not
-- serialized, so it may have any upvalues. When it raises, runs longer than `timeout` or ends its process,
-- the task that waits for it fails, and the others go to other workers.
-- @field limits table of limits for each worker: `memory` (bytes that it adds after its fork), `cpu`
-- (seconds over its life), `files` (open descriptors)
-- @field gc `"auto"` (default): with a heap above 64 MiB, this state's collector is switched to generational
-- mode before the first fork, so that workers share its pages, and back at `close`; a worker is replaced
-- after a task that left much in it, or that ran a full collection. `"keep"`: the collector is not touched.
-- @field background true: from the first `run` to `close` a helper thread of this process advances the pool
-- between calls (if no thread can be started, only calls do). false: no thread. Default true.
-- @field capture_warn bytes: a task whose message is larger is logged, once for each function, at
-- WARNING of the logger `mantichora`. Default 8 MiB; 0: never.
-- @field name string, shown in messages

local pool_options = {
  nworkers = check_nworkers,
  engine = choice_of("fork", "snapshot", "inline"),
  progressbar = of_type("boolean", "true or false"),
  poolbar = of_type("boolean", "true or false"),
  on_error = choice_of("raise", "return"),
  timeout = seconds,
  max_tasks_per_worker = integer_from(1, "a positive integer"),
  seed = integer_from(1 << 63, "an integer"),
  init = of_type("function", "a function"),
  limits = check_limits,
  capture_warn = integer_from(0, "a number of bytes (0: never)"),
  gc = choice_of("auto", "keep"),
  background = of_type("boolean", "true or false"),
  name = of_type("string", "a string"),
}

options_of.pool = pool_options

local run_options = {
  name = of_type("string", "a string"),
  timeout = seconds,
  retries = integer_from(0, "an integer that is not negative"),
  priority = integer_from(1 << 63, "an integer"),
}

local returns_options = { packed = of_type("boolean", "true or false") }

-- What to say of an option that is not known: whose it is, or what looks most like it.
local function unknown_option(name, known, elsewhere)
  local best, least = nearest(name, known)
  local hint = ("did you mean '%s'?"):format(best)
  for _, other in ipairs(elsewhere or {}) do
    local its_best, its_least = nearest(name, other.options)
    if other.options[name] then
      hint = ("it is an option of %s"):format(other.name)
    elseif its_least < least and its_least <= 3 and its_least < #tostring(name) then
      hint, least = ("did you mean '%s'? That is an option of %s"):format(its_best, other.name), its_least
    end
  end
  return ("unknown option '%s' (%s)"):format(tostring(name), hint)
end

-- A checked copy of `options`, which is argument `number`; an error at the user's call names what is wrong.
-- `elsewhere` tells of the options of other functions.
local function check_options(options, known, number, elsewhere)
  local checked = {}
  if options == nil then return checked end
  if type(options) ~= "table" then
    core.argument(number, "options must be a table: " .. core.typename(options) .. " is given")
  end
  for name, value in pairs(options) do
    local check = known[name]
    if not check then core.raise(unknown_option(name, known, elsewhere)) end
    local good, message = check(name, value)
    if message then core.raise(message) end
    checked[name] = good
  end
  return checked
end

local of_run_with = { name = "run_with", options = run_options }
local of_returns = { name = "returns", options = returns_options }
local of_pool = { name = "the pool", options = pool_options }
local of_limits = { name = "the pool's limits", options = limit_options }

-- ---------------------------------------------------------------------------------------------
-- Receiving

local settings_of = setmetatable({}, { __mode = "k" })

--- A pool of workers, made by `mantichora(options)`.
--
-- Keep it in a `<close>` variable. Leaving its scope in the ordinary way waits for all tasks and closes the
-- pool: a task is not lost because nobody asked for its value. If tasks failed and nobody received their
-- failures, it raises the one that `returns` would raise (with `on_error = "return"` they are logged as by
-- `close`); failures of tasks accepted before a `terminate` are logged, and cancelled tasks do not count.
-- Leaving it by an error acts as `terminate` and then `close`, and so does Ctrl-C while it waits. To leave
-- early without waiting, call `terminate`.
--
-- When a pool is collected without having been closed, its workers are killed; the next call of the library
-- logs that, at WARNING of the logger `mantichora`, with how many tasks had not ended. A pool belongs to the
-- process that made it; in any other its methods raise. After `close` they raise `pool is closed`.
--
-- Ctrl-C interrupts a call that waits, as the host handles it: `lua` and `mantichora` raise `interrupted!`.
-- The tasks go on then.
-- @type pool

local methods = {}

-- Raise at the caller of a method what stands against using the pool here.
local function check(self)
  local problem = core.problem(self)
  if problem then core.raise(problem) end
end

local function check_timeout(timeout)
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout) then
    core.argument(2, "timeout must be a number of seconds: " .. to_text(timeout) .. " is given")
  end
end

local function raises(self) return settings_of[self].on_error == "raise" end

-- The next finished task: run ID, whether it failed, and its values or failure.
local function deliver(self, runid, failed, ...)
  if failed then return runid, true, new_failure((...), settings_of[self].name) end
  return runid, failed, ...
end

local function take(self, from, group, copies)
  return deliver(self, core.take(self, from, group, copies))
end

-- Ways in which a received task can stand in a list.
local forms = {}
function forms.first(_, _, ...) return (...) end
function forms.packed(_, failed, ...)
  if failed then return (...) end
  return pack(...)
end
function forms.entry(runid, _, ...) return { runid, n = 1 + select("#", ...), ... } end

-- The failure of the lowest run ID, with the others and with what succeeded.
local function failures_as_one(failures, results)
  sort(failures, function(a, b) return a.runid < b.runid end)
  local first = failures[1]
  first.failures, first.results = failures, results
  return first
end

local function raise_lowest(failures, results)
  error(failures_as_one(failures, results), 0)
end

-- Take everything finished, in `form`: the list, its length, the failures, and what succeeded by run ID.
local function take_list(self, from, form)
  local list, n, failures, results = {}, 0, {}, {}
  local copies = form ~= forms.first and 2 or 1
  local function add(runid, failed, ...)
    if runid == nil then return false end
    n = n + 1
    local value = form(runid, failed, ...)
    list[n] = value
    if failed then failures[#failures + 1] = (...) else results[runid] = value end
    if from then from = runid + 1 end
    return true
  end
  repeat
    if form == forms.first then from, n = core.take_plain(self, from, list, n, results) end
  until not add(take(self, from, nil, copies))
  return list, n, failures, results
end

-- Receive everything finished into a list. Failures are gathered, and raised at the end if so
-- wished: the one of the lowest run ID, with the others and with what succeeded.
local function receive_list(self, from, form)
  local list, n, failures, results = core.hand_over(self, take_list, self, from, form)
  if failures[1] and raises(self) then raise_lowest(failures, results) end
  return list, n
end

--- Wait for all outstanding tasks and return their first return values.
-- Only what was not received before.
-- @function returns
-- @tparam[opt] table options `packed = true`: all values of each, as `table.pack` makes them
-- @treturn table the values in run order, with `n`
-- @raise the `failure` of the lowest run ID, once all have ended. All of these tasks then count as received:
-- their failures and values are in its fields `failures` and `results`.
-- @blocks until the last of them has ended
function methods:returns(options)
  check(self)
  local packed = check_options(options, returns_options, 2, { of_pool, of_run_with }).packed
  core.wait(self, "all")
  local list, n = receive_list(self, 0, packed and forms.packed or forms.first)
  list.n = n
  return list
end

--- Wait for all outstanding tasks and return all their values with their run IDs.
-- @function receive_all
-- @treturn table list of `{runid, value, ..., n=}` in run order; `{}` if none was outstanding
-- @raise as `returns`
-- @blocks until the last of them has ended
function methods:receive_all()
  check(self)
  core.wait(self, "all")
  return (receive_list(self, 0, forms.entry))
end

--- Receive the tasks that have ended by now.
-- @function receive_finished
-- @treturn table list of `{runid, value, ..., n=}` in the order in which they ended; `{}` if none has
-- @raise as `returns`, of these tasks
-- @blocks never
function methods:receive_finished()
  check(self)
  core.pump(self)
  return (receive_list(self, nil, forms.entry))
end

local function received(self, runid, failed, ...)
  if failed and raises(self) then error((...), 0) end
  return runid, ...
end

--- Receive one task, the first that has ended.
-- @function receive_one
-- @tparam[opt] number timeout seconds to wait at most; 0: do not wait
-- @return its run ID and all its values; nil when no task is outstanding; nil and `"timeout"` when none
-- ended in time
-- @raise its `failure`
-- @blocks until a task has ended, or for `timeout` seconds
function methods:receive_one(timeout)
  check(self)
  check_timeout(timeout)
  local in_time = core.wait(self, "one", nil, timeout)
  if not in_time then return nil, "timeout" end
  local function again(runid, ...)
    -- A log handler that ran meanwhile may have taken it.
    if runid == nil and core.counts(self) > 0 then return self:receive_one(timeout) end
    return received(self, runid, ...)
  end
  return again(take(self))
end

--- Iterate over tasks as they end: `for runid, value in mcore:as_completed() do`.
-- A `break` leaves the other tasks outstanding. Tasks that the loop's body queues are received in it too.
-- @function as_completed
-- @return iterator over run ID and values
-- @raise at each step, the `failure` of the task
-- @blocks at each step, until a task has ended
function methods:as_completed()
  check(self)
  return function() return self:receive_one() end
end

-- ---------------------------------------------------------------------------------------------
-- Running

--- Queue a task: `f(...)`.
-- Function, upvalues and arguments are serialized during the call: the task does not see later changes. (With
-- the engine `"snapshot"` they are not serialized; the task has them as they are at its fork.)
-- @function run
-- @tparam function f function, or a table that can be called
-- @param ... its arguments
-- @treturn integer run ID: 0, 1, 2, ... in each pool
-- @raise what cannot be sent, with the path to it; that no worker could be forked
-- @blocks never for a task; the first call forks the workers
methods.run = core.run

--- Queue a task with options of its own.
-- @function run_with
-- @tparam table options `name`: string for messages, log records and reports. `timeout`: seconds of run time.
-- `retries`: further attempts if its worker dies, and only then. `priority`: integer, default 0; higher ones
-- start first, equal ones in run order.
-- @tparam function f function, or a table that can be called
-- @param ... its arguments
-- @treturn integer run ID
-- @raise as `run`
-- @blocks as `run`
function methods:run_with(options, ...)
  check(self)
  local o = check_options(options, run_options, 2, { of_limits, of_pool, of_returns })
  local runid = core.run_with(self, o.name, o.timeout, o.retries or 0, o.priority or 0, ...)
  return runid
end

--- Queue several functions without arguments.
-- @function run_multiple
-- @tparam table functions list of them
-- @treturn table list of their run IDs. All are queued, or none.
-- @raise as `run`, with the position in the list of what cannot be sent; then none is queued
-- @blocks as `run`
function methods:run_multiple(functions)
  check(self)
  if type(functions) ~= "table" then
    core.argument(2, "run_multiple takes a list of functions: " .. core.typename(functions) .. " is given")
  end
  local list = {}
  for i, f in ipairs(functions) do
    if not core.is_callable(f) then
      core.argument(2, ("run_multiple takes a list of functions: at %d, %s is given"):format(i, core.typename(f)))
    end
    list[i] = f
  end
  return (core.run_many(self, list))
end

-- ---------------------------------------------------------------------------------------------
-- Mapping (map.lua has what it is made of)

local map_options = {
  name = run_options.name, timeout = run_options.timeout, retries = run_options.retries,
  priority = run_options.priority,
}
local imap_options = { ordered = of_type("boolean", "true or false") }
local of_imap = { name = "imap", options = { ordered = imap_options.ordered } }
for name, check_option in pairs(map_options) do imap_options[name] = check_option end

local map = load_map(core, {
  take = function(pool, group) return take(pool, nil, group) end, raise_lowest = raise_lowest,
  keeps = function(pool) return not raises(pool) end,
  -- Engine "inline" runs one at a time, and none while an iterator is asked: it does not look ahead.
  nworkers = function(pool) return settings_of[pool].inline and 1 or settings_of[pool].nworkers end,
  new_failure = function(pool, raw) return new_failure(raw, settings_of[pool].name) end,
})

local function check_map(method, f, source)
  if f == nil or not core.is_callable(f) then
    core.argument(2, ("%s takes a function and items: %s is given"):format(method, core.typename(f)))
  end
  if type(source) ~= "table" and (method == "map" or source == nil or not core.is_callable(source)) then
    core.argument(3, ("%s takes a list%s: %s is given"):format(method,
      method == "map" and "" or " or an iterator", core.typename(source)))
  end
  local n = not core.is_callable(source) and source.n
  if n and not (type(n) == "number" and tointeger(n)) then
    core.argument(3, ("%s takes a list whose n is an integer: %s is given"):format(method, to_text(n)))
  end
end

-- `imap(f, pairs(t))` gives three values of which the last two look like options and one thing more.
local function check_not_triple(source, options, ...)
  if core.is_callable(source) and (source == next or options ~= nil and (...) ~= nil or
    options ~= nil and select("#", ...) > 0 and (type(options) ~= "table" or next(options) ~= nil)) then
    error("imap takes an iterator that is called without arguments, and options: those of a generic for, "
      .. "as pairs(t) gives them, need what stands behind them. Wrap them: imap(f, coroutine.wrap(function() "
      .. "for k, v in pairs(t) do coroutine.yield(k, v) end end))", 3)
  end
end

-- Options of a mapping for the core; what a batch cannot carry makes each item travel alone.
local function for_mapping(checked, more)
  more.name, more.timeout = checked.name, checked.timeout
  more.retries, more.priority = checked.retries or 0, checked.priority or 0
  more.alone = (checked.name or checked.timeout or checked.retries) ~= nil
  return more
end

--- Call `f(item)` for each item of a list, each as a task, and return the first values.
-- Short items are sent in batches. Results of tasks that `run` queued are not touched.
-- @function map
-- @tparam function f function, or a table that can be called
-- @tparam table list read from 1 to `list.n` or `#list`
-- @tparam[opt] table options `name`, `timeout`, `retries`, `priority` of each item, as `run_with` has them
-- @treturn table the values in order, with `n`
-- @raise as `returns`, with `results` by the items' numbers; failures have `index` and `item`. Also, with the
-- item's number, what cannot be sent.
-- @blocks until the last item is done
function methods:map(f, list, options)
  check(self)
  check_map("map", f, list)
  local checked = check_options(options, map_options, 4, { of_pool, of_run_with, of_imap })
  local values, problem = map.all(self, f, list, for_mapping(checked, { most_in_batch = 4096 }))
  if not values then error(problem, 2) end
  return values
end

--- Iterate over the values of `f` for each item: `for i, value in mcore:imap(f, items) do`.
-- Its look-ahead is bounded, so that any number of items takes constant memory: at most 192 items for each
-- worker, and 64 MiB of serialized items and results that wait, or one item for each worker. Until it has
-- seen as many results as there are workers, the bound is 4 items for each worker. Results that are ready are
-- handed over before an iterator is called again, so that a slow one delays no result by more than one step.
-- A `break` or an error cancels what the loop has queued. Results of tasks that `run` queued are not touched.
-- @function imap
-- @tparam function f function, or a table that can be called
-- @param source list, or a function that gives an item (one or more values) at each call and nil at the end;
-- it is called in this process, without arguments. An error of its own is raised after the values of the
-- items before it.
-- @tparam[opt] table options `ordered = false`: in the order in which they end; and those of `map`
-- @return iterator over the item's index and its values, and what a generic `for` closes
-- @raise at the item's turn, its `failure`, with `index` and `item` (the first of several values)
-- @blocks at each step, until that item is done
function methods:imap(f, source, options, ...)
  check(self)
  check_map("imap", f, source)
  check_not_triple(source, options, ...)
  local checked = check_options(options, imap_options, 4, { of_pool, of_run_with })
  local iterator, group = map.iterate(self, f, source, for_mapping(checked, {
    window = settings_of[self].inline and 1 or 192, most_in_batch = 64, ordered = checked.ordered ~= false,
  }))
  return iterator, nil, nil, group
end

-- ---------------------------------------------------------------------------------------------
-- Moving on, stopping, ending

--- Fork the workers now, instead of at the first `run`.
-- @function start
-- @raise that no worker could be forked
-- @blocks never
function methods:start()
  check(self)
  core.start(self)
end

--- Advance the pool without receiving: start tasks, take in results, show bars, lines and log records.
-- @function poll
-- @tparam[opt=0] number timeout seconds to wait, if no task waits to be received, until one does
-- @treturn integer how many tasks wait to be received
-- @blocks for `timeout` seconds at most
function methods:poll(timeout)
  check(self)
  check_timeout(timeout)
  core.wait(self, "one", nil, timeout or 0)
  local _, finished = core.counts(self)
  return finished
end

--- The workers that are alive now.
-- @function workers
-- @treturn table list of tables with `pid`, `slot` (1 to `nworkers`; a worker's replacement takes its slot),
-- `runid` (of the task that runs; nil: none), `tasks` (how many it has ended), `maxrss` (its peak memory in
-- bytes); in order of `slot`
-- @blocks never
function methods:workers()
  check(self)
  return core.workers(self)
end

--- A descriptor that is readable when `poll(0)` has something to do, for event loops.
-- The pool's own: do not read or close it. Together with `events` and `timeout` it makes a pool an object
-- that cqueues can wait for.
-- @function pollfd
-- @treturn integer descriptor
-- @raise that the system has no such descriptor
-- @blocks never
function methods:pollfd()
  check(self)
  return core.fd(self)
end

--- What to wait for on that descriptor, in the notation of cqueues.
-- @function events
-- @treturn string `"r"`
-- @blocks never
function methods:events()
  check(self)
  return "r"
end

--- Seconds until `poll(0)` has something to do even if the descriptor is not readable.
-- @function timeout
-- @treturn number seconds, or nil: never
-- @blocks never
function methods:timeout()
  check(self)
  return core.due(self)
end

--- Cancel a task. A queued one never starts. In a running one an error is raised, once in each of its
-- coroutines and once more after 0.3 s, so that it can clean up; if it has not ended half a second after the
-- call, its worker's process group is killed.
-- Either way it ends as `cancelled`, and is received as such.
-- @function cancel
-- @tparam integer runid its run ID
-- @treturn string `"queued"` or `"running"`: what the task was; nil: it had ended
-- @blocks never
function methods:cancel(runid)
  check(self)
  local number = type(runid) == "number" and tointeger(runid)
  if not number then core.argument(2, "cancel takes a run ID: " .. to_text(runid) .. " is given") end
  return core.cancel(self, number)
end

-- What ends a pool of a task that is stopped is not cut short by that: its workers would be left.
local end_tasks = core.undisturbed(function(self, next_runid)
  core.cancel_all(self, next_runid)
  core.wait(self, "below", next_runid)
end)

--- Stop all tasks now, as `cancel` does. Results that have arrived stay. The pool stays usable. On a closed
-- pool it does nothing.
-- @function terminate
-- @blocks until the workers are gone or idle: a little more than half a second at most
function methods:terminate()
  if core.is_closed(self) then return end
  check(self)
  local _, _, _, _, next_runid = core.counts(self)
  settings_of[self].stopped_below = next_runid
  end_tasks(self, next_runid)
end

-- The first line of a report, and what its message says, in one line.
local function in_one_line(failure)
  local head = tostring(failure):match("^(.-)\n  in ") or tostring(failure)
  return (head:gsub("\nworker's .*", ""):gsub("%s*[\r\n]+%s*", " "))
end

local function logger() return core.logging().get("mantichora") end

local function in_pool(self)
  local name = settings_of[self].name
  return name and ("pool %q: "):format(name) or ""
end

local function log_failures(self, count, first)
  logger():error("%s%s: %s", in_pool(self), count == 1 and "1 task failed and nobody received its failure"
    or ("%d tasks failed and nobody received their failures; the first"):format(count), in_one_line(first))
end

-- Drop what was not received; failures that nobody will see are told.
local function drop_results(self)
  core.drop(self)
  local count = core.failed(self)
  if count == 0 then return end
  local _, _, first = take(self, 0)
  core.drop(self, true)
  log_failures(self, count, first)
end

-- End the workers and free everything.
local finish = core.undisturbed(function(self)
  drop_results(self)
  if core.is_closed(self) then return end -- by a handler of that record
  core.quit(self)
  core.wait(self, "gone")
  core.free(self)
end)

--- Wait for outstanding tasks, drop their results, end the workers. Closing twice does no harm.
-- Failures that nobody received are logged: one line at level ERROR of the logger `mantichora`, with their
-- number and the first one. `pool["end"](pool)` is the same.
-- @function close
-- @raise nothing but `interrupted!`; the pool is still open then
-- @blocks until the last task has ended
function methods:close()
  if core.is_closed(self) then return end
  check(self)
  core.check_not_busy(self)
  local fine, problem = pcall(function()
    core.wait(self, "idle")
    finish(self)
  end)
  -- A handler may have closed it meanwhile.
  if not fine and not core.is_closed(self) then error(problem, 0) end
end

methods["end"] = methods.close

local meta = core.metatable
meta.__index = methods
meta.__name = "mantichora pool"

-- terminate() and close().
local stop = core.undisturbed(function(self)
  methods.terminate(self)
  finish(self)
end)

-- Of what nobody received: the failure to raise, if there is one. Cancelled tasks do not count, nor what
-- was accepted before a terminate().
local function unreceived_failure(self)
  local from = settings_of[self].stopped_below
  if not raises(self) or core.failed(self, from) == 0 then return nil end
  local _, _, failures, results = core.hand_over(self, take_list, self, 0, forms.first)
  local counted, rest = {}, {}
  for _, failure in ipairs(failures) do
    if failure.kind ~= "cancelled" then
      local list = failure.runid >= from and counted or rest
      list[#list + 1] = failure
    end
  end
  return failures_as_one(counted, results), rest
end

-- What was accepted is waited for, and what was not received is told: the failure to raise, or nil.
local function leave_in_order(self)
  core.wait(self, "idle")
  local failure, rest = unreceived_failure(self)
  if rest and rest[1] then log_failures(self, #rest, failures_as_one(rest)) end
  if not core.is_closed(self) then finish(self) end
  return failure
end

-- Leaving the scope. Whatever is raised here, core.leaving() has the pool closed.
meta.__close = core.leaving(function(self, problem, state_closes)
  if state_closes then
    local unfinished = core.unfinished(self)
    if unfinished > 0 then
      logger():warning("%sthe state closes: %s had not ended and %s cancelled", in_pool(self),
        unfinished == 1 and "1 task" or unfinished .. " tasks", unfinished == 1 and "is" or "are")
    end
  end
  if problem ~= nil or state_closes then return stop(self) end
  local fine, failure = pcall(leave_in_order, self)
  if not fine and not core.is_closed(self) then stop(self) end
  if failure ~= nil then error(failure, 0) end
end)

function meta.__tostring(self)
  if core.is_closed(self) then return "mantichora: closed" end
  if core.problem(self) then return "mantichora: of another process" end
  local _, _, running, queued = core.counts(self)
  return ("mantichora: %d workers, %d running, %d queued"):format(settings_of[self].nworkers, running,
    queued)
end

-- ---------------------------------------------------------------------------------------------
-- The module

--- @section end

local mantichora = {}

-- What the host's --workers asks for.
local function default_nworkers()
  local text = os and os.getenv and os.getenv("MANTICHORA_WORKERS")
  local number = text and check_nworkers("nworkers", text == "auto" and text or tointeger(tonumber(text)))
  return number or 4
end

-- Called from the functions that the user calls, not by a tail call.
local function make(options)
  local o = check_options(options, pool_options, 1, { of_limits, of_run_with, of_returns, of_imap })
  local on = function(value) return value == nil or value end
  local nworkers, limits = o.nworkers or default_nworkers(), o.limits or {}
  local pool = core.new {
    nworkers = nworkers,
    snapshot = o.engine == "snapshot",
    inline = o.engine == "inline",
    background = on(o.background) and o.engine ~= "inline",
    progressbar = on(o.progressbar),
    poolbar = o.poolbar and (o.name or "tasks"),
    timeout = o.timeout,
    max_tasks_per_worker = o.max_tasks_per_worker or 0,
    seed = o.seed or core.seed(),
    init = o.init,
    limit_memory = limits.memory or 0,
    limit_cpu = limits.cpu or 0,
    limit_files = limits.files or 0,
    capture_warn = o.capture_warn or 8 << 20,
    keep_gc = o.gc == "keep" or o.gc == nil and core.embedded(),
  }
  settings_of[pool] = { on_error = o.on_error or "raise", name = o.name, nworkers = nworkers, stopped_below = 0,
    inline = o.engine == "inline" }
  return pool
end

--- Make a pool. `mantichora(options)` is the same.
-- The workers are forked at the first `run`, or by `pool:start`.
-- @function new
-- @tparam[opt] options options see below
-- @treturn pool the pool, which should stand in a `<close>` variable
-- @raise an unknown option, or one of the wrong type, with its name
-- @blocks never
function mantichora.new(options)
  local pool = make(options)
  return pool
end

--- Sleep, and advance all pools of this state meanwhile. In tasks and outside.
-- @function sleep
-- @tparam number duration seconds
-- @blocks for `duration` seconds
function mantichora.sleep(duration)
  if type(duration) ~= "number" or duration ~= duration then
    core.argument(1, "sleep takes a number of seconds: " .. to_text(duration) .. " is given")
  end
  core.sleep(duration)
end

--- How many CPUs this process may use, according to its affinity and the quota of its cgroup.
-- @function cpu_count
-- @treturn integer at least 1
-- @blocks never
mantichora.cpu_count = core.cpu_count

--- Report what `run(f, ...)` would send, and what of it cannot be sent.
-- @function explain
-- @tparam function f the function
-- @param ... its arguments
-- @treturn report whose `tostring` is a tree of paths, kinds and sizes
-- @blocks never
mantichora.explain = core.explain

--- Whether this process is a worker.
-- @function is_worker
-- @treturn boolean
-- @blocks never
mantichora.is_worker = core.is_worker

--- The run ID of the task that runs here.
-- @function runid
-- @treturn integer run ID; nil outside of tasks
-- @blocks never
mantichora.runid = core.runid

return setmetatable(mantichora, {
  __call = function(_, options)
    local pool = make(options)
    return pool
  end,
})
