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

local _, core = ...

local error, ipairs, next, pairs, select, setmetatable, tonumber, type =
  error, ipairs, next, pairs, select, setmetatable, tonumber, type
local pack = table.pack
local to_text, tointeger = core.text, core.tointeger

-- Another part of ours, given the core and what else it takes.
local function part(name, ...) return core.part("mantichora." .. name)(core, ...) end

local failures_of, options_of = part "failure", part "options"
local check_options = options_of.check

-- ---------------------------------------------------------------------------------------------
-- Receiving

local settings_of = setmetatable({}, { __mode = "k" })

local function logger() return core.logging().get("mantichora") end

local hosts_of = part("hosts", function(...) logger():warning(...) end)

-- The number that "auto" means, and whether tasks need tokens of make's jobserver.
local function auto_workers()
  local count, jobserver, why = core.auto_workers()
  if why then
    logger():warning('nworkers = "auto" under make -j, whose jobserver cannot be used: %s; one task runs at a time',
      why)
  end
  return count, jobserver
end

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
  if failed then return runid, true, failures_of.new((...), settings_of[self].name) end
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

-- Take everything finished, in `form`: the list, its length, the failures, and what succeeded by run ID. What a
-- halt has cancelled does not stand in the list if failures are raised.
local function take_list(self, from, form)
  local list, n, failures, results = {}, 0, failures_of.sum(), {}
  local raising = raises(self)
  local copies = form ~= forms.first and 2 or 1
  local function add(runid, failed, ...)
    if runid == nil then return false end
    if from then from = runid + 1 end
    if failed and raising then
      failures:add((...))
      return true
    end
    n = n + 1
    local value = form(runid, failed, ...)
    list[n] = value
    if failed then failures:add((...)) else results[runid] = value end
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
  if failures:any() and raises(self) then error(failures:as_one(results), 0) end
  return list, n
end

--- Wait for all outstanding tasks and return their first return values.
-- Only what was not received before.
-- @function returns
-- @tparam[opt] table options `packed = true`: all values of each, as `table.pack` makes them
-- @treturn table the values in run order, with `n`
-- @raise the `failure` of the lowest run ID, once all have ended; after a `halt` the one that was its cause. All
-- of these tasks then count as received: their failures and values are in its fields `failures` and `results`.
-- @blocks until the last of them has ended
function methods:returns(options)
  check(self)
  local packed = check_options("returns", options, 2).packed
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
    if runid ~= nil then return received(self, runid, ...) end
    -- A log handler that ran meanwhile may have taken it, or its end was not told to this very listener yet.
    local unfinished, finished = core.counts(self)
    if unfinished + finished == 0 then return nil end
    if timeout and timeout <= 0 then return nil, "timeout" end
    return self:receive_one(timeout)
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
-- @blocks while as many tasks of `run` are queued as the pool's `max_queued` allows; else never for a task. The
-- first call forks the workers
methods.run = core.run

--- Queue a task with options of its own.
-- @function run_with
-- @tparam table options `name`: string for messages, log records and reports. `timeout`: seconds of run
-- time, of each attempt. `retries`: further attempts, up to 65,535, after the kinds of failures that `retry_on`
-- lists (default `{"killed", "exited"}`, that is when its worker died; what was cancelled is never tried again).
-- `retry_delay`: seconds before the second attempt, default 0; doubled for each further one, up to 60 s. In the
-- pause the task counts as queued. `priority`: integer, default 0; higher ones start first, equal ones in run
-- order. `key`: string or number that names the task's random stream instead of the run ID, so that it keeps its
-- numbers when others come before it; 1, 1.0 and "1" are three keys. `wait = false`: see below. In a pool with a
-- `journal` (see its chapter): `inputs` and `outputs`, lists of paths of files that the task reads and writes;
-- `version`, a string or number that stands for its code (with `name`); `key` tells equal tasks apart;
-- `journal = false`: the task runs, and is not recorded.
-- @tparam function f function, or a table that can be called
-- @param ... its arguments
-- @treturn integer run ID; nil and `"full"` with `wait = false` where the pool's `max_queued` would have it wait
-- @raise as `run`
-- @blocks as `run`
function methods:run_with(options, ...)
  check(self)
  local runid, why = core.run_with(self, check_options("run_with", options, 2), ...)
  if runid == nil then return nil, why end
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

local function in_pool(self)
  local name = settings_of[self].name
  return name and ("pool %q: "):format(name) or ""
end

local function new_failure(pool, raw) return failures_of.new(raw, settings_of[pool].name) end

local events = part("events", { in_pool = in_pool, new_failure = new_failure })

local map = part("map", {
  note = events.note_map,
  take = function(pool, group) return take(pool, nil, group) end, failures_of = failures_of,
  check_paths = options_of.check_paths,
  halt = function(pool) return settings_of[pool].halt end,
  keeps = function(pool) return not raises(pool) end,
  -- Engine "inline" runs one at a time, and none while an iterator is asked: it does not look ahead.
  nworkers = function(pool) return settings_of[pool].inline and 1 or settings_of[pool].nworkers end,
  new_failure = new_failure,
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
local function for_mapping(pool, checked, more)
  for name, value in pairs(checked) do more[name] = value end
  more.key_of, more.key, more.priority = checked.key, nil, checked.priority or 0
  more.inputs_of, more.inputs, more.outputs_of, more.outputs = checked.inputs, nil, checked.outputs, nil
  more.alone = (checked.name or checked.timeout or checked.retries or checked.key) ~= nil
  more.batches = settings_of[pool].machines and 6 or 3 -- ahead for each worker: some of a machine's are on their way
  if settings_of[pool].journal and checked.journal ~= false then
    more.alone, more.walk = true, {} -- what all its items have in common, for the journal
  end
  return more
end

--- Call `f(item)` for each item of a list, each as a task, and return the first values.
-- Short items are sent in batches. Results of tasks that `run` queued are not touched.
-- @function map
-- @tparam function f function, or a table that can be called
-- @tparam table list read from 1 to `list.n` or `#list`
-- @tparam[opt] table options `name`, `timeout`, `retries`, `retry_on`, `retry_delay`, `priority` of each item, as
-- `run_with` has them; `halt` of this call, as pools have it (default: the pool's); `key`: a function that is called
-- with each item and its number, and gives what `run_with` takes as `key`; in a pool with a journal `inputs` and
-- `outputs`, functions likewise, `version` and `journal = false`
-- @treturn table the values in order, with `n`
-- @raise as `returns`, with `results` by the items' numbers; failures have `index` and `item`. Also, with the
-- item's number, what cannot be sent; and what its `key` raises.
-- @blocks until the last item is done
function methods:map(f, list, options)
  check(self)
  core.check_may_wait()
  check_map("map", f, list)
  local checked = check_options("map", options, 4)
  local values, problem, is_foreign = map.all(self, f, list, for_mapping(self, checked, { most_in_batch = 4096 }))
  if not values then error(problem, is_foreign and 0 or 2) end
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
-- @raise at the item's turn, its `failure`, with `index` and `item` (of several values the first); after a `halt`,
-- at the turn of the first item that has no value, the failure that was its cause
-- @blocks at each step, until that item is done
function methods:imap(f, source, options, ...)
  check(self)
  check_map("imap", f, source)
  check_not_triple(source, options, ...)
  local checked = check_options("imap", options, 4)
  local iterator, group = map.iterate(self, f, source, for_mapping(self, checked, {
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

--- Have another number of workers. No task starts from now on while so many or more run; what was sent ahead to
-- workers comes back. More workers are forked at once, superfluous ones leave after their task. (A pool
-- whose workers have not been forked yet forks so many later.)
-- @function resize
-- @param n as the option `nworkers`: 1 to 4096, or `"auto"`
-- @raise that `n` is none of these
-- @blocks never
function methods:resize(n)
  check(self)
  local number, message = options_of.check_nworkers("nworkers", n)
  if not number then core.raise(message) end
  local jobserver = false
  if number == "auto" then number, jobserver = auto_workers() end
  settings_of[self].nworkers = number
  core.resize(self, number, jobserver and not settings_of[self].inline)
end

--- The workers that are alive now.
-- @function workers
-- @treturn table list of tables with `pid`, `slot` (1 to the largest `nworkers` so far; a worker's replacement
-- takes its slot), `runid` (of the task that runs; nil: none), `tasks` (how many it has ended), `maxrss` (its peak
-- memory in bytes); in order of `slot`
-- @blocks never
function methods:workers()
  check(self)
  if settings_of[self].machines then core.pump(self) end -- they may have told of others
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
-- @blocks never; for a task on another machine until that has told which it was, at most a second
function methods:cancel(runid)
  check(self)
  local number = type(runid) == "number" and tointeger(runid)
  if not number then core.argument(2, "cancel takes a run ID: " .. to_text(runid) .. " is given") end
  return core.cancel(self, number)
end

--- Be told what happens to tasks and workers, from now on.
-- `f` is called with each event, on the caller's thread at the end of a call of the library, in the order in
-- which things happened; several listeners in the order in which they were added. Never inside of another
-- listener, a log handler, a sink or a renderer: what such a function causes is told after it has returned. It
-- may call every method that does not wait; those that wait, and `close`, raise there, and it cannot yield. An
-- error in it is logged at ERROR of the logger `mantichora`. While nobody listens, nothing of this costs anything.
-- @function on
-- @tparam function f called as `f(event)`, with an `event` of its own
-- @treturn function ends it when it is called
-- @raise what cannot be called
-- @blocks never
function methods:on(f)
  check(self)
  if f == nil or not core.is_callable(f) then
    core.argument(2, "on takes a function: " .. core.typename(f) .. " is given")
  end
  return (events.listen(self, f))
end

--- What the pool has done so far, as a table.
-- Tasks that have ended, by kind: `ok`, `error`, `unsendable`, `exited`, `killed`, `timeout`, `cancelled`; and
-- `retried` (attempts that another followed), `found`, `queued`, `running`, `unreceived` (ended, and not handed
-- over). `waiting` and `working`: how long the ended ones waited and ran, each `{sum=, mean=, max=}` in seconds;
-- items of a map that are too short to be timed one by one count with the mean of their batch. `slots`: list of
-- the share of time that each slot worked since the first worker was forked. `slowest`: at most five
-- `{runid=, name=, index=, elapsed=, kind=}`, of what was timed. `bytes_sent`, `bytes_received`: of messages.
-- @function stats
-- @treturn table
-- @blocks never
function methods:stats()
  check(self)
  return core.stats(self)
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
  core.check_may_wait()
  local _, _, _, _, next_runid = core.counts(self)
  settings_of[self].stopped_below = next_runid
  end_tasks(self, next_runid)
end


local function log_failures(self, count, first)
  logger():error("%s%s: %s", in_pool(self), count == 1 and "1 task failed and nobody received its failure"
    or ("%d tasks failed and nobody received their failures; the first"):format(count), failures_of.in_one_line(first))
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
  if settings_of[self].inline and not core.is_closed(self) then core.end_inline(self) end
  if core.is_closed(self) then return end -- by a handler of that record
  core.quit(self)
  core.wait(self, "gone")
  core.wait(self, "gone") -- and has handed over the last records
  if core.is_closed(self) then return end
  core.summary(self)
  core.free(self) -- what the journal has to say of it is logged
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
  core.check_may_wait()
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
  local counted, rest = failures:split(from)
  return counted:as_one(results), rest
end

-- What was accepted is waited for, and what was not received is told: the failure to raise, or nil.
local function leave_in_order(self)
  core.wait(self, "idle")
  local failure, rest = unreceived_failure(self)
  if rest and rest:any() then log_failures(self, rest.n, rest:as_one()) end
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

-- For the prompt (prompt.lua). Of a pool that cannot be used here they say nothing.
local for_prompt = {}
meta.__prompt = for_prompt

function for_prompt.is_open(self) return not core.problem(self) end

-- In one line, the next failure that was neither received nor told by this; nil: none.
function for_prompt.failure(self)
  local raw = not core.problem(self) and core.untold(self)
  return raw and in_pool(self) .. failures_of.in_one_line(failures_of.new(raw)) or nil
end

-- How many tasks and items have not ended, and how many tasks wait to be received.
function for_prompt.counts(self)
  if core.problem(self) then return 0 end
  local _, finished = core.counts(self)
  return core.unfinished(self), finished
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

local told_of_workers = false

-- What the host's --workers asks for. What cannot be used is told once.
local function default_nworkers()
  local text = os and os.getenv and os.getenv("MANTICHORA_WORKERS")
  if not text or text == "" then return 4 end
  local number = options_of.check_nworkers("nworkers", text == "auto" and text or tointeger(tonumber(text)))
  if not number and not told_of_workers then
    told_of_workers = true
    logger():warning("MANTICHORA_WORKERS is '%s': a whole number from 1 to 4096 or auto is expected", text)
  end
  return number or 4
end

-- The journal that MANTICHORA_JOURNAL names, relative to where the script began.
local journal_variable = os and os.getenv and core.absolute(os.getenv("MANTICHORA_JOURNAL"))

local function default_journal()
  if not journal_variable or core.is_worker() then return nil end
  return { path = journal_variable, keep = "failed" }
end

local no_journal = "the option 'journal' needs the module mantichora.journal, which is part of mantichora where SQLite "
  .. "and libsodium were found when it was built (Debian: libsqlite3-dev libsodium-dev): %s"

-- The journal and the seed of a pool with these options. An error at the user's call.
local function open_journal(o)
  local asked = o.journal
  if asked == nil then asked = default_journal() end
  if not asked then return nil, o.seed or core.seed() end
  local fine, module = pcall(require or function() error("this state has no require", 0) end, "mantichora.journal")
  if not fine then core.raise(no_journal:format((to_text(module):gsub("\n.*", "")))) end
  local journal, seed = module.open(core.absolute(asked.path), asked.keep, core.seed(), o.seed)
  if not journal then core.raise(seed) end
  return journal, seed
end

-- Called from the functions that the user calls, not by a tail call.
local function make(options)
  local o = check_options("pool", options, 1)
  local on = function(value) return value == nil or value end
  local machines = hosts_of.machines(o)
  local nworkers, limits, jobserver = o.nworkers or machines and hosts_of.slots(machines) or default_nworkers(),
    o.limits or {}, false
  if machines and (nworkers == "auto" or not o.nworkers) then
    machines.limited = false
    if nworkers == "auto" then nworkers = hosts_of.slots(machines) end
  elseif nworkers == "auto" then
    nworkers, jobserver = auto_workers()
  end
  local journal, seed = open_journal(o)
  local pool = core.new {
    name = o.name,
    journal = journal,
    machines = machines,
    nworkers = machines and not machines.limited and 0 or nworkers,
    jobserver = jobserver and o.engine ~= "inline",
    snapshot = o.engine == "snapshot",
    inline = o.engine == "inline",
    background = on(o.background) and o.engine ~= "inline",
    progressbar = on(o.progressbar),
    leave_failed = o.leave == "failed",
    poolbar = o.poolbar and (o.name or "tasks"),
    timeout = o.timeout,
    max_tasks_per_worker = o.max_tasks_per_worker or 0,
    halt = o.halt,
    max_queued = o.engine ~= "inline" and o.max_queued or 0,
    max_memory_per_worker = o.max_memory_per_worker or 0,
    min_free_memory = o.min_free_memory or 0,
    seed = seed,
    init = o.init,
    fini = o.fini,
    limit_memory = limits.memory or 0,
    limit_cpu = limits.cpu or 0,
    limit_files = limits.files or 0,
    capture_warn = o.capture_warn or 8 << 20,
    keep_gc = o.gc == "keep" or o.gc == nil and core.embedded(),
  }
  settings_of[pool] = { on_error = o.on_error or "raise", name = o.name, nworkers = nworkers, stopped_below = 0,
    inline = o.engine == "inline", halt = o.halt, journal = journal ~= nil, machines = machines ~= nil }
  if journal then core.pump(pool) end -- which logs what it has to say
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

--- In a task: hand values to the process that has its pool, at once.
-- They come as an event `emitted` to its listeners (`pool:on`), in order and before the task's result. Where
-- nobody listens they are dropped. While 4 MiB of this worker wait for the parent it waits.
-- @function emit
-- @param ... values
-- @raise what cannot be sent, with the path to it; outside of tasks
-- @blocks while too much waits; it can be stopped there
mantichora.emit = core.emit

--- Let this script be watched by `mantichora top`, from a terminal or a page: see the chapter on watching.
-- Scripts that the program `mantichora` runs are, unless MANTICHORA_ATTACH is 0; under another host this
-- function, or MANTICHORA_ATTACH=1, makes their socket. Only this user and root can connect to it.
-- @function attach
-- @treturn string path of the socket; nil and a message, if there is none: MANTICHORA_ATTACH is 0, its folder is
-- somebody else's, the path would be too long, this is a worker
-- @blocks never
mantichora.attach = core.attach

--- Whether a value is a `failure`.
-- @function is_failure
-- @param value any value
-- @treturn boolean
-- @blocks never
function mantichora.is_failure(value) return failures_of.is(value) end

return setmetatable(mantichora, {
  __call = function(_, options)
    local pool = make(options)
    return pool
  end,
})
