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

-- The pool's methods, put together from the small steps of the core (bindings/lpool.c), and the
-- module's functions. Loaded by luaopen_mantichora with the core as argument.

local _, core = ...

local error, ipairs, pairs, select, setmetatable, tostring, type =
  error, ipairs, pairs, select, setmetatable, tostring, type
local math_tointeger, pack, sort = math.tointeger, table.pack, table.sort

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
  timeout = function(failure) return ("it ran longer than allowed (%.2f s)"):format(failure.elapsed) end,
  cancelled = function() return "it was cancelled" end,
}

--- How a task ended that did not return. A call that receives it raises it, or with
-- `on_error = "return"` gives it in the place of the value. `tostring` makes a full report of it.
-- Fields that are not known are nil.
-- @table failure
-- @field kind `"error"`: it raised. `"unsendable"`: it returned what cannot be sent. `"exited"`: it
-- ended its process. `"killed"`: a signal ended its worker. `"timeout"`: it ran longer than allowed.
-- `"cancelled"`: by `pool:cancel` or `pool:terminate`.
-- @field runid the task's run ID
-- @field name what `run_with` called it
-- @field message what happened, a string
-- @field value the original error value, if it could be sent
-- @field traceback the worker's, a string
-- @field place where the function is defined, as `<file:line>`
-- @field pid the worker's process ID
-- @field signal the signal's number, of kind `"killed"`
-- @field exitcode the exit status, of kind `"exited"`
-- @field elapsed seconds that it ran
-- @field maxrss bytes that the worker used at most, over its life so far
-- @field attempts how many attempts were made, if more than one
-- @field progress where the last bar of a task stood whose worker died
-- @field last_log message of the last record that such a task logged
-- @field pool the pool's name
-- @field failures where several tasks failed and one is raised for all: the list of them
-- @field results with `failures`: what the others gave, by run ID

local failure_meta = { __name = "mantichora failure" }

-- The full report: the task, its function, what happened, the worker's traceback.
function failure_meta:__tostring()
  local parts = { ("task %d"):format(self.runid) }
  local details = {}
  if self.name then details[#details + 1] = ("%q"):format(self.name) end
  if self.place then details[#details + 1] = "function " .. self.place end
  if details[1] then parts[#parts + 1] = " (" .. table.concat(details, ", ") .. ")" end
  parts[#parts + 1] = (": %s: %s"):format(self.kind, tostring(self.message))
  if self.pool then parts[#parts + 1] = ("\n  in pool %q"):format(self.pool) end
  if self.pid then
    parts[#parts + 1] = ("\n  in worker %d, after %.3f s"):format(self.pid, self.elapsed or 0)
    if self.maxrss then
      parts[#parts + 1] = (", %.1f MiB at most"):format(self.maxrss / 2 ^ 20)
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

-- Edit distance, for "did you mean".
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
    end
  end
  return row[#b]
end

local function nearest(name, known)
  local best, least
  for candidate in pairs(known) do
    local d = distance(tostring(name), candidate)
    if not least or d < least or d == least and candidate < best then best, least = candidate, d end
  end
  return best
end

local function complain(name, expected, value)
  return ("option '%s' must be %s: %s is given"):format(name, expected,
    type(value) == "string" and ("%q"):format(value) or tostring(value))
end

-- Each check returns the value to use, or nil and a message.

local function integer_from(least, expected)
  return function(name, value)
    local number = type(value) == "number" and math_tointeger(value)
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
  local number = type(value) == "number" and math_tointeger(value)
  if not number then return nil, complain(name, 'an integer or "auto"', value) end
  if number < 1 then return nil, ("nworkers must be at least one: %d is given"):format(number) end
  if number > 4096 then return nil, complain(name, "at most 4096", value) end
  return number
end

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
      return nil, ("unknown option 'limits.%s' (did you mean 'limits.%s'?)"):format(tostring(key),
        nearest(key, limit_options))
    end
    local good, message = check_limit("limits." .. key, limit)
    if message then return nil, message end
    checked[key] = good
  end
  return checked
end

--- What `mantichora(options)` and `new(options)` take. All may be absent.
-- @table options
-- @field nworkers so many tasks run at a time at most: 1 to 4096, default 4. `"auto"`: as many as
-- `cpu_count()` says. The environment variable MANTICHORA_WORKERS changes the default.
-- @field engine `"fork"` (default): a pool of workers that are used again. `"snapshot"`: a fork for each
-- task, from the state that this process has when the task starts; only results are serialized.
-- `"inline"`: in this process, when its result is received, for debugging.
-- @field progressbar false: bars of tasks are not shown. Default true.
-- @field poolbar true: one more bar shows how many of the pool's tasks are done, run, wait and have
-- failed. Default false.
-- @field on_error `"raise"` (default): calls that receive raise failures. `"return"`: they return them.
-- @field timeout seconds that each task may run; default: any time
-- @field max_tasks_per_worker a worker is replaced after so many tasks; default: never
-- @field seed integer from which the random streams of the tasks are derived; default: unforeseeable
-- @field init function, run once in each new worker before its first task. It goes along by the fork,
-- so it may have any upvalues.
-- @field limits table of limits for each worker: `memory` (bytes that it adds after its fork), `cpu`
-- (seconds over its life), `files` (open descriptors)
-- @field gc `"auto"` (default): with a heap above 64 MiB, this state's collector turns generational
-- before the first fork, so that workers share its pages, and back at `close`. `"keep"`: it is not touched.
-- @field background true: from the first `run` to `close` a helper thread of this process moves the pool on
-- between calls (where the system has no thread left, only calls do). false: no thread. Default true.
-- @field capture_warn bytes: a task whose message is larger is told through `warn`, once for each
-- function. Default 8 MiB; 0: never.
-- @field name string, shown in messages

local pool_options = {
  nworkers = check_nworkers,
  engine = choice_of("fork", "snapshot", "inline"),
  progressbar = of_type("boolean", "true or false"),
  poolbar = of_type("boolean", "true or false"),
  on_error = choice_of("raise", "return"),
  timeout = seconds,
  max_tasks_per_worker = integer_from(1, "a positive integer"),
  seed = integer_from(math.mininteger, "an integer"),
  init = of_type("function", "a function"),
  limits = check_limits,
  capture_warn = integer_from(0, "a number of bytes (0: never)"),
  gc = choice_of("auto", "keep"),
  background = of_type("boolean", "true or false"),
  name = of_type("string", "a string"),
}

local run_options = {
  name = of_type("string", "a string"),
  timeout = seconds,
  retries = integer_from(0, "an integer that is not negative"),
  priority = integer_from(math.mininteger, "an integer"),
}

local returns_options = { packed = of_type("boolean", "true or false") }

-- A checked copy of `options`; an error at `level` names what is wrong.
local function check_options(options, known, level)
  local checked = {}
  if options == nil then return checked end
  if type(options) ~= "table" then
    error("options must be a table: " .. type(options) .. " is given", level + 1)
  end
  for name, value in pairs(options) do
    local check = known[name]
    if not check then
      error(("unknown option '%s' (did you mean '%s'?)"):format(tostring(name), nearest(name, known)),
        level + 1)
    end
    local good, message = check(name, value)
    if message then error(message, level + 1) end
    checked[name] = good
  end
  return checked
end

-- ---------------------------------------------------------------------------------------------
-- Receiving

local settings_of = setmetatable({}, { __mode = "k" })

--- A pool of workers, made by `mantichora(options)`.
--
-- Keep it in a `<close>` variable: leaving the scope, also by an error, ends as `terminate` and then
-- `close` would. A pool that is collected without having been closed kills its workers and says so through
-- `warn`. It belongs to the process that made it; in any other one its methods raise. After
-- `close` they raise `pool is closed`.
--
-- What waits can be interrupted by Ctrl-C, as the host handles it: `lua` and `mantichora` raise
-- `interrupted!`. The tasks go on then.
-- @type pool

local methods = {}

-- Raise at the caller of a method what stands against using the pool here.
local function check(self)
  local problem = core.problem(self)
  if problem then error(problem, 3) end
end

local function check_timeout(timeout)
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout) then
    error("timeout must be a number of seconds: " .. tostring(timeout) .. " is given", 3)
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

-- Raise the failure of the lowest run ID, with the others and with what succeeded.
local function raise_lowest(failures, results)
  sort(failures, function(a, b) return a.runid < b.runid end)
  local first = failures[1]
  first.failures, first.results = failures, results
  error(first, 0)
end

-- Receive everything finished into a list. Failures are gathered, and raised at the end if so
-- wished: the one of the lowest run ID, with the others and with what succeeded.
local function receive_list(self, from, form)
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
  if failures[1] and raises(self) then raise_lowest(failures, results) end
  return list, n
end

--- Wait for all outstanding tasks and return their first return values.
-- Only what was not received before.
-- @function returns
-- @tparam[opt] table options `packed = true`: all values of each, as `table.pack` makes them
-- @treturn table the values in run order, with `n`
-- @raise the `failure` of the lowest run ID, once all have ended. All tasks that it covers count as
-- received: what they gave stands in its fields `failures` and `results`.
-- @blocks until the last of them has ended
function methods:returns(options)
  check(self)
  local packed = check_options(options, returns_options, 2).packed
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
-- A `break` leaves the rest outstanding. Tasks that the loop runs are received in it too.
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
-- Function, upvalues and arguments are serialized now: what is changed later is not seen. (With
-- the engine `"snapshot"` they are kept as they are until the task's fork.)
-- @function run
-- @tparam function f function, or a table that can be called
-- @param ... its arguments
-- @treturn integer run ID: 0, 1, 2, ... in each pool
-- @raise what cannot be sent, with the path to it; that no worker could be forked
-- @blocks never for a task; the first call forks the workers
methods.run = core.run

--- Queue a task with options of its own.
-- @function run_with
-- @tparam table options `name`: string for messages, log records and reports. `timeout`: seconds of run
-- time. `retries`: further attempts when its worker died, and only then. `priority`: integer, default
-- 0; higher ones start first, equal ones in run order.
-- @tparam function f function, or a table that can be called
-- @param ... its arguments
-- @treturn integer run ID
-- @raise as `run`
-- @blocks as `run`
function methods:run_with(options, ...)
  check(self)
  local o = check_options(options, run_options, 2)
  if select("#", ...) == 0 then error("a function is missing: run_with(options, f, ...)", 2) end
  return core.run_with(self, o.name, o.timeout, o.retries or 0, o.priority or 0, ...)
end

--- Queue several functions without arguments.
-- @function run_multiple
-- @tparam table functions list of them
-- @treturn table list of their run IDs
-- @raise as `run`; those before have been queued
-- @blocks as `run`
function methods:run_multiple(functions)
  check(self)
  if type(functions) ~= "table" then
    error("run_multiple takes a list of functions: " .. type(functions) .. " is given", 2)
  end
  local runids = {}
  for i, f in ipairs(functions) do
    if not core.is_callable(f) then
      error(("run_multiple takes a list of functions: at %d, %s is given"):format(i, type(f)), 2)
    end
    runids[i] = core.run(self, f)
  end
  return runids
end

-- ---------------------------------------------------------------------------------------------
-- Mapping

local imap_options = { ordered = of_type("boolean", "true or false") }

local function check_map(method, f, source)
  if f == nil or not core.is_callable(f) then
    error(("%s takes a function and items: %s is given"):format(method, type(f)), 3)
  end
  if type(source) ~= "table" and (method == "map" or source == nil or not core.is_callable(source)) then
    error(("%s takes a list%s: %s is given"):format(method, method == "map" and "" or " or an iterator",
      type(source)), 3)
  end
  local n = not core.is_callable(source) and source.n
  if n and not (type(n) == "number" and math_tointeger(n)) then
    error(("%s takes a list whose n is an integer: %s is given"):format(method, tostring(n)), 3)
  end
end

-- Where items come from: `source(most)` gives a list, the index in it of the next item, how many there
-- are up to `most`, and whether each is packed; nil when there are no more.
local function items_of(list, first)
  if not core.is_callable(list) then
    local at, n = first, list.n or #list
    return function(most)
      local from, count = at, math.min(most, n - at + 1)
      if count <= 0 then return nil end
      return list, from, count, false, function(taken) at = from + taken end
    end
  end
  local waiting, ended = {}, false
  return function(most)
    while not ended and #waiting < most do
      local item = pack(list())
      if item[1] == nil then ended = true else waiting[#waiting + 1] = item end
    end
    if not waiting[1] then return nil end
    local gathered = waiting
    return gathered, 1, #gathered, true, function(taken)
      waiting = table.move(gathered, taken + 1, #gathered, 1, {})
    end
  end
end

local batch_time = 0.02 -- seconds that the items of a batch shall take together

-- Runs `f` for each item; its tasks are a group of their own. What comes back is kept by the number of
-- its item: `values` has single values, `packed` (if asked for) what is more than one, or nil,
-- `failures` what failed. `ranges` (if asked for) says which run IDs items have. `patient`: the caller
-- has no use for a part of it.
local function new_mapping(self, f, source, options)
  local known = not core.is_callable(source) and math_tointeger(source.n or #source)
  local expected = math.max(known or 0, 0)
  local group = core.group(self, expected)
  local next_items = items_of(source, 1)
  local nworkers = settings_of[self].nworkers
  local size, ahead, index = 1, 0, 0
  local index_of = {} -- by run ID, of tasks that travel alone
  local mapping = {
    group = group, values = core.list(options.patient and expected or 0), packed = options.packed and {} or nil,
    failures = {},
    ranges = options.ranges and {} or nil, fed = 0,
  }

  -- Batches grow while their items are short, and shrink when they turn out long.
  local function adapt()
    local pace = core.pace(self, group)
    local fitting = pace and batch_time / pace or size
    size = math.max(1, math.min(2 * size, fitting // 1, options.most_in_batch))
  end

  local function note(count, runid)
    if mapping.ranges then
      mapping.ranges[#mapping.ranges + 1] = { index = index + 1, runid = runid, count = count }
    end
    index, ahead = index + count, ahead + count
    mapping.fed = index
  end

  local function feed_one(list, at, packed)
    local item = list[at]
    local runid
    if packed then
      runid = core.run_in(self, group, f, table.unpack(item, 1, item.n))
    else
      runid = core.run_in(self, group, f, item)
    end
    note(1, runid)
    index_of[runid] = index
    return 1
  end

  -- Queue a few items; false when there are no more.
  local function feed_some()
    local list, from, count, packed, taken = next_items(size)
    if not list then return false end
    local queued, runid = core.run_batch(self, group, f, list, from, count, packed, index + 1)
    if queued then note(queued, runid) end
    taken(queued or feed_one(list, from, packed))
    return true
  end

  -- Keep the workers busy, but look only so far ahead of what the caller has had up to `turn`.
  local function feed(turn)
    if mapping.failed and options.raises then return end -- what follows is for nobody
    if next(index_of) == nil then adapt() end
    while next_items do
      local room = math.min(nworkers * math.max(32, 3 * size) - ahead,
        turn + options.window * nworkers - index)
      if room < size then break end -- whole batches only: a small one costs nearly as much
      if not feed_some() then next_items = nil end
    end
  end

  local function fail(at, failure)
    mapping.failures[at] = failure
    mapping.failed = true
  end

  local problems = {}
  local function settle_problems()
    for i, raw in ipairs(problems) do
      local at = raw.index
      raw.index, problems[i] = nil, nil
      fail(at, new_failure(raw, settings_of[self].name))
    end
  end

  local function keep_one(runid, failed, ...)
    if runid == nil then return end
    local at = index_of[runid] or (...).index
    index_of[runid], ahead = nil, ahead - 1
    if failed then
      (...).index = nil
      fail(at, (...))
    elseif mapping.packed and (select("#", ...) ~= 1 or (...) == nil) then
      mapping.packed[at] = pack(...)
    else
      mapping.values[at] = (...)
    end
  end

  -- Keep something that has ended; false when there is nothing now.
  local function collect()
    local before = ahead
    local count = core.take_batch(self, group, mapping.values, mapping.packed, problems)
    if count then
      ahead = ahead - count
      settle_problems()
      return true
    end
    keep_one(take(self, nil, group))
    return ahead < before
  end

  -- Wait for something and keep it; false when all has come.
  function mapping.take(turn)
    local some = collect()
    if some then
      while collect() do end
    end
    feed(turn)
    if some then return true end
    if ahead == 0 then return false end
    core.wait(self, options.patient and "many" or "one", math.min(ahead, size), nil, group)
    while collect() do end
    return true
  end

  return mapping
end

-- The values that a mapping has, by run ID.
local function results_by_runid(mapping)
  local results = {}
  for _, range in ipairs(mapping.ranges) do
    for i = 0, range.count - 1 do results[range.runid + i] = mapping.values[range.index + i] end
  end
  return results
end

-- Raise the failure of the lowest run ID; or put each in the place of its value.
local function place_failures(self, mapping)
  local failures = {}
  for at, failure in pairs(mapping.failures) do
    failures[#failures + 1] = failure
    if not raises(self) then mapping.values[at] = failure end
  end
  if raises(self) then raise_lowest(failures, results_by_runid(mapping)) end
end

--- Call `f(item)` for each item of a list, each as a task, and return the first values.
-- Short items travel in batches. Results of tasks that `run` has queued are not touched.
-- @function map
-- @tparam function f function, or a table that can be called
-- @tparam table list read from 1 to `list.n` or `#list`
-- @treturn table the values in order, with `n`
-- @raise as `returns`
-- @blocks until the last item is done
function methods:map(f, list)
  check(self)
  check_map("map", f, list)
  local mapping = new_mapping(self, f, list, {
    window = 2 ^ 40, most_in_batch = 4096, ranges = true, patient = true,
  })
  local _ <close> = mapping.group
  while mapping.take(0) do end
  if mapping.failed then place_failures(self, mapping) end
  mapping.values.n = mapping.fed
  return mapping.values
end

-- Give what the mapping has for the item at `at`, which it keeps no longer.
local function give(self, mapping, at)
  local failure, packed, value = mapping.failures[at], mapping.packed[at], mapping.values[at]
  mapping.failures[at], mapping.packed[at], mapping.values[at] = nil, nil, nil
  if failure and raises(self) then
    core.abandon(mapping.group)
    error(failure, 0)
  end
  if packed then return at, table.unpack(packed, 1, packed.n) end
  return at, failure or value
end

local function has(mapping, at)
  return mapping.values[at] ~= nil or mapping.packed[at] or mapping.failures[at]
end

local function ordered_iterator(self, mapping)
  local turn = 0
  return function()
    turn = turn + 1
    while not has(mapping, turn) do
      if not mapping.take(turn - 1) then return nil end
    end
    return give(self, mapping, turn)
  end
end

-- What comes first goes first; of what comes together, the earlier items.
local function unordered_iterator(self, mapping)
  local given, ready, next_ready = 0, {}, 1
  local function gather()
    ready, next_ready = {}, 1
    for _, kept in ipairs { mapping.values, mapping.packed, mapping.failures } do
      for at in pairs(kept) do ready[#ready + 1] = at end
    end
    sort(ready)
  end
  return function()
    while not ready[next_ready] do
      if not mapping.take(given) then return nil end
      gather()
    end
    local at = ready[next_ready]
    next_ready, given = next_ready + 1, given + 1
    return give(self, mapping, at)
  end
end

--- Iterate over the values of `f` for each item: `for i, value in mcore:imap(f, items) do`.
-- Looks ahead only so far (at most 384 items for each worker), so that any number of items takes constant
-- memory.
-- A `break` or an error cancels what the loop has queued. Results of tasks that `run` has
-- queued are not touched.
-- @function imap
-- @tparam function f function, or a table that can be called
-- @param source list, or a function that gives an item (one or more values) at each call and nil at the
-- end; it is called in this process
-- @tparam[opt] table options `ordered = false`: in the order in which they end
-- @return iterator over the item's index and its values, and what a generic `for` closes
-- @raise at the item's turn, its `failure`
-- @blocks at each step, until that item is done
function methods:imap(f, source, options)
  check(self)
  check_map("imap", f, source)
  local ordered = check_options(options, imap_options, 2).ordered ~= false
  local mapping = new_mapping(self, f, source, {
    window = 192, most_in_batch = 64, packed = true, raises = raises(self),
  })
  local iterator = (ordered and ordered_iterator or unordered_iterator)(self, mapping)
  return iterator, nil, nil, mapping.group
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

--- Move things on without receiving: start tasks, take results in, show bars, lines and log records.
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

--- The workers that live now.
-- @function workers
-- @treturn table list of tables with `pid`, `runid` (of the task that runs; nil: none), `tasks` (how
-- many it has done), `maxrss` (bytes that it used at most)
-- @blocks never
function methods:workers()
  check(self)
  return core.workers(self)
end

--- A descriptor that is readable when `poll(0)` has something to do, for event loops.
-- The pool's own: do not read or close it. `events` and `timeout` complete what cqueues asks of an object.
-- @function pollfd
-- @treturn integer descriptor
-- @raise that the system has none
-- @blocks never
function methods:pollfd()
  check(self)
  return core.fd(self)
end

--- What to wait for on that descriptor, in the words of cqueues.
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

--- Cancel a task. A queued one never starts. In a running one an error is raised, so that it can
-- clean up; if it has not ended half a second later, its worker's process group is killed.
-- Either way it ends as `cancelled`, and is received as such.
-- @function cancel
-- @tparam integer runid its run ID
-- @treturn string `"queued"` or `"running"`: what it was; nil: it had ended
-- @blocks never
function methods:cancel(runid)
  check(self)
  local number = type(runid) == "number" and math_tointeger(runid)
  if not number then error("cancel takes a run ID: " .. tostring(runid) .. " is given", 2) end
  return core.cancel(self, number)
end

--- Stop all tasks now, as `cancel` does. Results that are there stay. The pool stays usable.
-- @function terminate
-- @blocks until the workers are gone or idle: a little more than half a second at most
function methods:terminate()
  check(self)
  local _, _, _, _, next_runid = core.counts(self)
  core.cancel_all(self, next_runid)
  core.wait(self, "below", next_runid)
end

-- End the workers and free everything.
local function finish(self)
  core.quit(self)
  core.wait(self, "gone")
  core.free(self)
end

-- Drop what was not received; failures that nobody will see are told.
local function drop_results(self)
  local function drop(runid, failed, failure)
    if runid == nil then return false end
    if failed and failure.kind ~= "cancelled" then
      warn("mantichora: dropped a failure: ", tostring(failure))
    end
    return true
  end
  while drop(take(self)) do end
end

--- Wait for outstanding tasks, drop their results, end the workers. Twice is fine.
-- A failure that is dropped is told through `warn`. `pool["end"](pool)` is the same.
-- @function close
-- @blocks until the last task has ended
function methods:close()
  if core.is_closed(self) then return end
  check(self)
  core.wait(self, "all")
  drop_results(self)
  finish(self)
end

methods["end"] = methods.close

local meta = core.metatable
meta.__index = methods
meta.__name = "mantichora pool"

-- Leaving the scope: terminate() and close().
function meta.__close(self)
  if core.problem(self) then return end
  self:terminate()
  drop_results(self)
  finish(self)
end

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
  local number = text and check_nworkers("nworkers", text == "auto" and text or math_tointeger(text))
  return number or 4
end

-- Called from the functions that the user calls, not by a tail call.
local function make(options)
  local o = check_options(options, pool_options, 3)
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
  settings_of[pool] = { on_error = o.on_error or "raise", name = o.name, nworkers = nworkers }
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

--- Sleep, and move all pools of this state on meanwhile. In tasks and outside.
-- @function sleep
-- @tparam number duration seconds
-- @blocks for so long
function mantichora.sleep(duration)
  if type(duration) ~= "number" or duration ~= duration then
    error("sleep takes a number of seconds: " .. tostring(duration) .. " is given", 2)
  end
  core.sleep(duration)
end

--- How many CPUs this process may use, by its affinity and the quota of its cgroup.
-- @function cpu_count
-- @treturn integer at least 1
-- @blocks never
mantichora.cpu_count = core.cpu_count

--- Tell what `run(f, ...)` would send, and what of it cannot be sent.
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
