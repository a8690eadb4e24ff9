---@meta mantichora

-- Annotations for LuaLS, made of the comments in the sources (cmake --build build --target annotations).
-- luacheck: ignore

--- A named logger; dots in names form a hierarchy.
--- A record goes to the handlers of its logger and of all
--- above it, up to the root or to the first logger whose field `propagate` is false. A logger that is sent to
--- a task becomes the logger of that name there.
---@class mantichora.logger
local logger = {}

--- Log a message to the root logger at level `"DEBUG"`.
---@param ... any the message, as it is; or a format and its arguments, as for `string.format`
function logger:debug(...) end

--- Log a message to the root logger at level `"INFO"`.
---@param ... any as for `debug`
function logger:info(...) end

--- Log a message to the root logger at level `"WARNING"`.
---@param ... any as for `debug`
function logger:warning(...) end

--- Log a message to the root logger at level `"ERROR"`.
---@param ... any as for `debug`
function logger:error(...) end

--- Log a message to the root logger at level `"CRITICAL"`.
---@param ... any as for `debug`
function logger:critical(...) end

--- Log a message.
--- The methods `debug`, `info`, `warning`, `error` and `critical` do so at their levels.
---@param level any name or number
---@param ... any the message, as it is; or a format and its arguments, as for `string.format`
function logger:log(level, ...) end

--- Set the least level that this logger, and those below it that have none, let pass.
---
--- In a worker it changes nothing, which is logged once at WARNING: the parent's levels decide.
---
--- Raises: an unknown level, with the nearest right name
---@param level any name or number; nil: that of the logger above
function logger:set_level(level) end

--- The level in effect for this logger.
---@return integer
function logger:get_effective_level() end

--- Whether a record of this level would be made now; saves the work of making a message.
---
--- Raises: an unknown level
---@param level any name or number
---@return boolean
function logger:is_enabled_for(level) end

--- Call a function with each record of this logger and of those below it.
---
--- It is called only inside calls of this library, on the caller's thread. A record is a table with
--- `name` (the logger's), `levelno`, `levelname`, `message`, `created` (seconds since the epoch),
--- `process` (the process ID), and in tasks `runid` and `taskname`. It is the handler's to keep.
---
--- Raises: a handler that cannot be called, an unknown level
---@param handler function called as `handler(record)` In a worker it is never called, which is logged once at WARNING: the parent's handlers decide.
---@param level? any the least level that it gets; default: all
---@return any ... # the handler
function logger:add_handler(handler, level) end

--- Remove a handler.
---@param handler function
---@return boolean # whether it was there
function logger:remove_handler(handler) end

--- Log records of tasks and of the main process, in one place.
---
--- A logger has a name and a level, and hands its records to handlers.
---
---     local logging = require "mantichora.logging"
---     logging.basic_config{ level = "INFO" }
---     logging.info('finishing "%s"', name)           -- INFO:root:finishing "task1"
---     local log = logging.get("net.http")
---     log:warning("slow")                            -- WARNING:net.http:slow
---
--- A record made in a worker is not shown there: it is sent to the parent, before the task's result, and the
--- levels and handlers set in the parent apply. Without mantichora's C part this file is a logging module for
--- one process.
---
--- A log call never raises, whatever it is given and whatever a handler does; errors are reported through
--- `warn`. (Only the error of Ctrl-C, `interrupted!`, and that of a task that is being stopped pass through.)
---
--- Levels are the names `"DEBUG"`, `"INFO"`, `"WARNING"`, `"ERROR"` and `"CRITICAL"`, or numbers: the named
--- ones are 10 to 50, and are fields of the module, as `logging.INFO`.
---@class mantichora.logging
---@field DEBUG integer
---@field INFO integer
---@field WARNING integer
---@field ERROR integer
---@field CRITICAL integer
local logging = {}

--- Log a message to the root logger at level `"DEBUG"`.
---@param ... any the message, as it is; or a format and its arguments, as for `string.format`
function logging.debug(...) end

--- Log a message to the root logger at level `"INFO"`.
---@param ... any as for `debug`
function logging.info(...) end

--- Log a message to the root logger at level `"WARNING"`.
---@param ... any as for `debug`
function logging.warning(...) end

--- Log a message to the root logger at level `"ERROR"`.
---@param ... any as for `debug`
function logging.error(...) end

--- Log a message to the root logger at level `"CRITICAL"`.
---@param ... any as for `debug`
function logging.critical(...) end

--- The logger of this name; it is made at the first call.
---
--- Raises: a name that is not a string
---@param name? string
---@return mantichora.logger
function logging.get(name) end

--- Log a message to the root logger, at a level.
---@param level any name or number
---@param ... any as for `debug`
function logging.log(level, ...) end

--- Set the root logger's level: `logging.get():set_level(level)`.
---
--- Raises: an unknown level
---@param level any name or number; nil: the default, MANTICHORA_LOG_LEVEL or WARNING
function logging.set_level(level) end

--- Add a handler to the root logger: `logging.get():add_handler(handler, level)`.
---
--- Raises: a handler that cannot be called, an unknown level
---@param handler function called as `handler(record)`
---@param level? any the lowest level that it gets; default: all
---@return any ... # the handler
function logging.add_handler(handler, level) end

--- Remove a handler of the root logger.
---@param handler function
---@return boolean # whether it was there
function logging.remove_handler(handler) end

--- Set where the root logger writes, and in what format.
--- Called again, it replaces what it set before.
--- At most one of `stream`, `filename` and `logger` can be given.
---
--- Raises: an unknown option or one of the wrong type, a file that cannot be opened
---@param options? table
function logging.basic_config(options) end

--- A bar that your code advances.
---@class mantichora.bar
local bar = {}

--- Add to the count.
---
--- Raises: `bar is closed`
---@param n? int how many to add; negative: subtract, but not below 0
---@return mantichora.bar # itself
function bar:add(n) end

--- Set the count.
---
--- Raises: `bar is closed`
---@param n int how many are done
---@return mantichora.bar # itself
function bar:set(n) end

--- Set the total.
---
--- Raises: `bar is closed`
---@param total? int how many there are; nil: not known
---@return mantichora.bar # itself
function bar:set_total(total) end

--- Give it another name.
---
--- Raises: `bar is closed`
---@param name string the name
---@return mantichora.bar # itself
function bar:set_name(name) end

--- End the bar where it is, as leaving the scope of a `<close>` variable does.
--- Closing twice does no
--- harm.
function bar:close() end

--- Progress bars, for loops and by hand, in tasks and outside.
---
--- The module is called like a function.
---
---    local atpbar = require "mantichora.atpbar"
---    for i in atpbar(1000, "name") do ... end
---
--- Bars go to stderr. On a terminal they are drawn at most ten times a second; elsewhere a line is
--- written at the start, at the end, and every 60 seconds. The environment variable MANTICHORA_PROGRESS
--- chooses: `auto`, `bar`, `text`, `json`, `off` or `eta`. A bar blocks only while the terminal accepts
--- its lines; in a worker it never does.
---@class mantichora.atpbar
---@overload fun(what: any, name?: string): any, ...
local atpbar = {}

--- Loop over the pairs of a table with a progress bar.
--- With a `__pairs` metamethod the total is not
--- known.
---
--- Raises: a value that has no pairs
---@param t any table, or value with `__pairs`
---@param name? string the label
---@return any ... # what a generic `for` takes: iterator, state, control, closing value
function atpbar.pairs(t, name) end

--- Loop over any iterator with a progress bar: `for line in atpbar.wrap(100, "lines", io.lines(f))`.
---
--- Raises: a missing iterator
---@param total? int how many iterations are expected; nil: not known, count and rate are shown
---@param name? string the label
---@param ... any what a generic `for` takes: function, state, control, closing value
---@return any ... # the same, with a bar; the closing value is closed when the loop is left
function atpbar.wrap(total, name, ...) end

--- A bar that your code advances: `local bar <close> = atpbar.bar{ name = "copy", total = 100 }`.
---
--- Raises: an unknown option, or one of the wrong type
---@param options table `name`, a string; `total`, an integer from 0 (nil: not known, count and rate are shown, as they are beyond it); `unit`, `"B"` or `"iB"`: the numbers are bytes, shown as `3.00M / 1.00G` in powers of 1000, or of 1024; `leave`, false: its line goes from the terminal when it has ended
---@return mantichora.bar # the bar, which should stand in a `<close>` variable
function atpbar.bar(options) end

--- Draw all bars and write all lines now.
---
--- Blocks: until they are written
function atpbar.flush() end

--- Show no progress from now on.
--- Who watches the script from outside sees it.
function atpbar.disable() end

--- Let a function show progress.
--- It is called as `f(report)`, inside of calls of this library only, on
--- the caller's thread. A report is a table with `event` ("start", "update" or "end"), `id`, `name`,
--- `done`, `total` (nil: not known), `elapsed` (seconds); of a task's bar also `runid` and `task`; of a
--- pool's bar (`poolbar = true`) the numbers of tasks `running`, `queued`, `failed` and `cancelled`; of
--- a bar of bytes `unit`; at the end
--- `state` ("finished", "broken", or the kind of the task's end). An error in `f` is logged once at
--- ERROR by the logger `mantichora`; `f` is then called no more, and bars are shown as before.
---
--- Raises: an argument that is not a function
---@param f? function nil: bars are shown as before
function atpbar.set_renderer(f) end

--- Choose the line of bars on a terminal: "atpbar", the original's, or "eta", with elapsed and
--- remaining time and rate.
--- A user who sets MANTICHORA_PROGRESS=eta gets the latter in any case.
---
--- Raises: another name
---@param name string "atpbar" or "eta"
function atpbar.set_style(name) end

--- What `mantichora(options)` and `new(options)` take.
--- All may be absent.
---@class mantichora.options
---@field nworkers? any how many tasks run at a time at most: 1 to 4096, default 4. `"auto"`: as many as `cpu_count()` returns; under `make -j`, as many as its jobserver has tokens for beside that (see the chapter on pools). The environment variable MANTICHORA_WORKERS changes the default.
---@field engine? any `"fork"` (default): a pool of workers that are reused. `"snapshot"`: one fork for each task, from the state that this process has when the task starts; only results are serialized. `"inline"`: in this process, when its result is received, for debugging.
---@field progressbar? any false: bars of tasks are not shown. Default true.
---@field poolbar? any true: one more bar shows how many of the pool's tasks are done, run, wait and have failed. Default false.
---@field leave? any `"failed"`: on a terminal the bars of tasks that ended well go, and the pool ends with one line such as `1000 tasks: 997 ok, 3 failed, 12.3 s` on stderr, if bars are shown. true (default): all stay.
---@field on_error? any `"raise"` (default): calls that receive raise failures. `"return"`: they return them.
---@field timeout? any seconds that each task, and `init`, may run; default: no limit
---@field halt? any what a failure does to the rest of the tasks. `"never"` (default): nothing. `"soon"`: no further task starts, those that run may finish; `"now"`: those that run are stopped, too. `{ "soon", fail = n }` and `{ "now", fail = n }`: at the n-th failure; with `fail` between 0 and 1, when that share of the tasks that have ended so far has failed, and at least 3 have. Neither cancelled tasks nor failures that are retried count. What does not start ends as `cancelled`, with a message that names the failure, which is its `cause`; so do tasks that are run later, until that failure has been given, raised or logged. Then counting begins anew. Calls that receive many raise that failure. Each `map` or `imap` counts and stops for itself.
---@field max_queued? any `run` and `run_with` wait while so many tasks of theirs are queued, `run_multiple` before its first; default: any number. Not in handlers, sinks and renderers, nor with the engine `"inline"`.
---@field max_tasks_per_worker? any a worker is replaced after this many tasks; default: never
---@field max_memory_per_worker? any bytes: a worker that has more memory of its own than that after a task is replaced (what it shares with nobody; where the system does not tell, what it has grown at most); default: never
---@field min_free_memory? any bytes: no task or batch is given to a worker while less is available, unless none runs. What the machine can give without swapping, and in a control group its limit minus its use, in which file cache that can be dropped does not count. Looked at every 0.1 to 0.5 seconds while tasks wait. Default: none.
---@field seed? any integer from which the random streams of the tasks are derived; default: random
---@field init? any function, run once in each new worker before its first task. Workers get it by the fork, not serialized, so it may have any upvalues. When it raises, runs longer than `timeout` or ends its process, the task that waits for it fails, and the others go to other workers.
---@field fini? any function, run once in each worker that leaves in an orderly way (`close`, the end of the scope, also by an error, replacement), after its last task, for half a second at most. It runs where `init` has succeeded or there is none; not in workers that were killed or ended by a task, and not when the pool is collected. What it prints and logs is delivered, an error in it is logged at ERROR of the logger `mantichora`. Engine `"snapshot"`: in each fork. `"inline"`: in this process, at `close`.
---@field limits? any table of limits for each worker: `memory` (bytes that it adds after its fork), `cpu` (seconds over its life), `files` (open descriptors)
---@field gc? any `"auto"` (default): with a heap above 64 MiB, this state's collector is switched to generational mode before the first fork, so that workers share its pages, and back at `close`; a worker is replaced after a task that left much in it, or that ran a full collection. `"keep"`: the collector is not touched.
---@field background? any true: from the first `run` to `close` a helper thread of this process advances the pool between calls (if no thread can be started, only calls do). false: no thread. Default true.
---@field capture_warn? any bytes: a task whose message is larger is logged, once for each function, at WARNING of the logger `mantichora`. Default 8 MiB; 0: never.
---@field journal? any path of a file in which results are kept, by the content of their tasks: a task that is there is not run again (see the chapter on the journal). Or a table with `path` and `keep`: `"failed"` (default), `"all"` or `"none"`, the calls that `mantichora journal FILE replay` can run again. `false`: none, also where the environment variable MANTICHORA_JOURNAL names one.
---@field name? any string, shown in messages
---@field hosts? any other machines that run the tasks: a string or a list of names for ssh (`"box2:8"` with 8 slots), `"localhost"`, `"cmd:WORDS"`, or tables with `command`, `slots` and `name`; see the chapter on many machines. MANTICHORA_HOSTS changes the default. `nworkers` is then of all of them together, default: their slots.
---@field lease? any with `hosts`: seconds of silence after which a machine counts as lost; default 20
---@field connect_timeout? any with `hosts`: seconds in which a machine must answer; default 15
---@field cwd? any with `hosts`: the directory in which workers begin; default: the script's, where it exists
---@field env? any with `hosts`: list of names of variables of the environment, and pairs of names and values
---@field program? any with `hosts`: the path of the program `mantichora` there
---@field modules? any with `hosts`: `"loaded"`: Lua modules that the script has not loaded are not served; default `"all"`

--- How a task failed.
--- The call that receives the task raises this table, or with `on_error = "return"`
--- returns it in place of the value. `tostring` makes a full report of it. Fields that are not known are nil.
---@class mantichora.failure
---@field kind? any `"error"`: it raised. `"unsendable"`: it returned what cannot be sent. `"exited"`: it ended its process. `"killed"`: a signal ended its worker. `"timeout"`: it ran longer than allowed. `"cancelled"`: by `pool:cancel` or `pool:terminate`, or because another task failed and the pool halts.
---@field runid? any the task's run ID
---@field index? any number of its item, in a `map` or `imap`
---@field item? any the item itself, the very value that was given
---@field name? any the task's name, from `run_with`
---@field message? any what happened, a string
---@field value? any the original error value, if it could be sent and rebuilt
---@field lost? any why an error value that was sent could not be rebuilt
---@field shown? any what was in an error value that is a table without a `__tostring`, as a short text; the report has it in the place of the message
---@field traceback? any the worker's, a string
---@field place? any where the function is defined, as `<file:line>`
---@field pid? any the worker's process ID
---@field host? any the machine on which it ran, as the pool's option `hosts` names it; nil: this one
---@field signal? any the signal's number, of kind `"killed"`
---@field exitcode? any the exit status, of kind `"exited"`
---@field elapsed? any seconds that the task ran
---@field maxrss? any the worker's peak memory so far, in bytes
---@field attempts? any how many attempts were made, if more than one
---@field progress? any where the task's last bar stood when its worker died
---@field last_log? any message of the last record that the task logged before its worker died
---@field pool? any the pool's name
---@field cause? any of kind `"cancelled"`, where the pool halts: the failure of the other task
---@field failures? any the list of all failures, where one is raised for several tasks. After a `halt` without those that were cancelled, and at most 1,000
---@field failed? any where one is raised after a `halt`: how many tasks have failed, without those that were cancelled
---@field cancelled? any likewise: how many were cancelled
---@field results? any with `failures`: the values of the other tasks, by run ID; those of a `map` by `index`

--- What `mantichora.explain(f, ...)` returns.
--- `tostring` shows it as a tree.
---
--- A part is a table with
---
--- - `path`: where it is, worded as in errors: `upvalue 'conn'.socket of function <img.lua:12>`
--- - `step`: the last step of it
--- - `kind`: `table`, `function <img.lua:12>`, `C function`, `number` ...
--- - `how`: `value`, `name` (by reference), `shared` (sent with another part), `globals` (`_G`), `hook`
---   (rebuilt by the function that its `__mantichora` returned), `environment` (as far as code names
---   it), `refused`
--- - `detail`: the name (also of what is private to a module: `date.diff, upvalue 3`), the path of the other
---   part, or why it cannot be sent; of a class that is sent by value, why, and that it comes back as itself
--- - `size`: bytes, contents included; a shared part counts where it comes first
--- - `parts`: list of parts (of a table: those that are not plain numbers, booleans or short strings)
---@class mantichora.report
---@field size? any bytes of the message
---@field parts? any list of parts: the function and its arguments, then globals
---@field refused? any list of the parts that cannot be sent; `run` would raise for the first
---@field globals? any names of the globals that the code mentions, sorted; those assigned since the workers were forked are sent
---@field largest? any `report:largest(n)`: list of the `n` (default 3) largest parts that do not contain each other

--- A pool of workers, made by `mantichora(options)`.
---
--- Keep it in a `<close>` variable. Leaving its scope in the ordinary way waits for all tasks and closes the
--- pool: a task is not lost because nobody asked for its value. If tasks failed and nobody received their
--- failures, it raises the one that `returns` would raise (with `on_error = "return"` they are logged as by
--- `close`); failures of tasks accepted before a `terminate` are logged, and cancelled tasks do not count.
--- Leaving it by an error acts as `terminate` and then `close`, and so does Ctrl-C while it waits. To leave
--- early without waiting, call `terminate`.
---
--- When a pool is collected without having been closed, its workers are killed; the next call of the library
--- logs that, at WARNING of the logger `mantichora`, with how many tasks had not ended. A pool belongs to the
--- process that made it; in any other its methods raise. After `close` they raise `pool is closed`.
---
--- Ctrl-C interrupts a call that waits, as the host handles it: `lua` and `mantichora` raise `interrupted!`.
--- The tasks go on then.
---@class mantichora.pool
---@field ["end"] fun(self: mantichora.pool) The same as `close`.
local pool = {}

--- Wait for all outstanding tasks and return their first return values.
---
--- Only what was not received before.
---
--- Raises: the `failure` of the lowest run ID, once all have ended; after a `halt` the one that was its cause. All of these tasks then count as received: their failures and values are in its fields `failures` and `results`.
---
--- Blocks: until the last of them has ended
---@param options? table `packed = true`: all values of each, as `table.pack` makes them
---@return table # the values in run order, with `n`
function pool:returns(options) end

--- Wait for all outstanding tasks and return all their values with their run IDs.
---
--- Raises: as `returns`
---
--- Blocks: until the last of them has ended
---@return table # list of `{runid, value, ..., n=}` in run order; `{}` if none was outstanding
function pool:receive_all() end

--- Receive the tasks that have ended by now.
---
--- Raises: as `returns`, of these tasks
---
--- Blocks: never
---@return table # list of `{runid, value, ..., n=}` in the order in which they ended; `{}` if none has
function pool:receive_finished() end

--- Receive one task, the first that has ended.
---
--- Raises: its `failure`
---
--- Blocks: until a task has ended, or for `timeout` seconds
---@param timeout? number seconds to wait at most; 0: do not wait
---@return any ... # its run ID and all its values; nil when no task is outstanding; nil and `"timeout"` when none ended in time
function pool:receive_one(timeout) end

--- Iterate over tasks as they end: `for runid, value in mcore:as_completed() do`.
---
--- A `break` leaves the other tasks outstanding. Tasks that the loop's body queues are received in it too.
---
--- Raises: at each step, the `failure` of the task
---
--- Blocks: at each step, until a task has ended
---@return any ... # iterator over run ID and values
function pool:as_completed() end

--- Queue a task: `f(...)`.
---
--- Function, upvalues and arguments are serialized during the call: the task does not see later changes. (With
--- the engine `"snapshot"` they are not serialized; the task has them as they are at its fork.)
---
--- Raises: what cannot be sent, with the path to it; that no worker could be forked
---
--- Blocks: while as many tasks of `run` are queued as the pool's `max_queued` allows; else never for a task. The first call forks the workers
---@param f function function, or a table that can be called
---@param ... any its arguments
---@return integer # run ID: 0, 1, 2, ... in each pool
function pool:run(f, ...) end

--- Queue a task with options of its own.
---
--- Raises: as `run`
---
--- Blocks: as `run`
---@param options table `name`: string for messages, log records and reports. `timeout`: seconds of run time, of each attempt. `retries`: further attempts, up to 65,535, after the kinds of failures that `retry_on` lists (default `{"killed", "exited"}`, that is when its worker died; what was cancelled is never tried again). `retry_delay`: seconds before the second attempt, default 0; doubled for each further one, up to 60 s. In the pause the task counts as queued. `priority`: integer, default 0; higher ones start first, equal ones in run order. `key`: string or number that names the task's random stream instead of the run ID, so that it keeps its numbers when others come before it; 1, 1.0 and "1" are three keys. `wait = false`: see below. In a pool with a `journal` (see its chapter): `inputs` and `outputs`, lists of paths of files that the task reads and writes; `version`, a string or number that stands for its code (with `name`); `key` tells equal tasks apart; `journal = false`: the task runs, and is not recorded.
---@param f function function, or a table that can be called
---@param ... any its arguments
---@return integer # run ID; nil and `"full"` with `wait = false` where the pool's `max_queued` would have it wait
function pool:run_with(options, f, ...) end

--- Queue several functions without arguments.
---
--- Raises: as `run`, with the position in the list of what cannot be sent; then none is queued
---
--- Blocks: as `run`
---@param functions table list of them
---@return table # list of their run IDs. All are queued, or none.
function pool:run_multiple(functions) end

--- Call `f(item)` for each item of a list, each as a task, and return the first values.
---
--- Short items are sent in batches. Results of tasks that `run` queued are not touched.
---
--- Raises: as `returns`, with `results` by the items' numbers; failures have `index` and `item`. Also, with the item's number, what cannot be sent; and what its `key` raises.
---
--- Blocks: until the last item is done
---@param f function function, or a table that can be called
---@param list table read from 1 to `list.n` or `#list`
---@param options? table `name`, `timeout`, `retries`, `retry_on`, `retry_delay`, `priority` of each item, as `run_with` has them; `halt` of this call, as pools have it (default: the pool's); `key`: a function that is called with each item and its number, and gives what `run_with` takes as `key`; in a pool with a journal `inputs` and `outputs`, functions likewise, `version` and `journal = false`
---@return table # the values in order, with `n`
function pool:map(f, list, options) end

--- Iterate over the values of `f` for each item: `for i, value in mcore:imap(f, items) do`.
---
--- Its look-ahead is bounded, so that any number of items takes constant memory: at most 192 items for each
--- worker, and 64 MiB of serialized items and results that wait, or one item for each worker. Until it has
--- seen as many results as there are workers, the bound is 4 items for each worker. Results that are ready are
--- handed over before an iterator is called again, so that a slow one delays no result by more than one step.
--- A `break` or an error cancels what the loop has queued. Results of tasks that `run` queued are not touched.
---
--- Raises: at the item's turn, its `failure`, with `index` and `item` (of several values the first); after a `halt`, at the turn of the first item that has no value, the failure that was its cause
---
--- Blocks: at each step, until that item is done
---@param f function function, or a table that can be called
---@param source any list, or a function that gives an item (one or more values) at each call and nil at the end; it is called in this process, without arguments. An error of its own is raised after the values of the items before it.
---@param options? table `ordered = false`: in the order in which they end; and those of `map`
---@return any ... # iterator over the item's index and its values, and what a generic `for` closes
function pool:imap(f, source, options) end

--- Fork the workers now, instead of at the first `run`.
---
--- Raises: that no worker could be forked
---
--- Blocks: never
function pool:start() end

--- Advance the pool without receiving: start tasks, take in results, show bars, lines and log records.
---
--- Blocks: for `timeout` seconds at most
---@param timeout? number seconds to wait, if no task waits to be received, until one does
---@return integer # how many tasks wait to be received
function pool:poll(timeout) end

--- Have another number of workers.
--- No task starts from now on while so many or more run; what was sent ahead to
--- workers comes back. More workers are forked at once, superfluous ones leave after their task. (A pool
--- whose workers have not been forked yet forks so many later.)
---
--- Raises: that `n` is none of these
---
--- Blocks: never
---@param n any as the option `nworkers`: 1 to 4096, or `"auto"`
function pool:resize(n) end

--- The workers that are alive now.
---
--- Blocks: never
---@return table # list of tables with `pid`, `slot` (1 to the largest `nworkers` so far; a worker's replacement takes its slot), `runid` (of the task that runs; nil: none), `tasks` (how many it has ended), `maxrss` (its peak memory in bytes); in order of `slot`
function pool:workers() end

--- A descriptor that is readable when `poll(0)` has something to do, for event loops.
---
--- The pool's own: do not read or close it. Together with `events` and `timeout` it makes a pool an object
--- that cqueues can wait for.
---
--- Raises: that the system has no such descriptor
---
--- Blocks: never
---@return integer # descriptor
function pool:pollfd() end

--- What to wait for on that descriptor, in the notation of cqueues.
---
--- Blocks: never
---@return string # `"r"`
function pool:events() end

--- Seconds until `poll(0)` has something to do even if the descriptor is not readable.
---
--- Blocks: never
---@return number # seconds, or nil: never
function pool:timeout() end

--- Cancel a task.
--- A queued one never starts. In a running one an error is raised, once in each of its
--- coroutines and once more after 0.3 s, so that it can clean up; if it has not ended half a second after the
--- call, its worker's process group is killed.
--- Either way it ends as `cancelled`, and is received as such.
---
--- Blocks: never; for a task on another machine until that has told which it was, at most a second
---@param runid integer its run ID
---@return string # `"queued"` or `"running"`: what the task was; nil: it had ended
function pool:cancel(runid) end

--- Be told what happens to tasks and workers, from now on.
---
--- `f` is called with each event, on the caller's thread at the end of a call of the library, in the order in
--- which things happened; several listeners in the order in which they were added. Never inside of another
--- listener, a log handler, a sink or a renderer: what such a function causes is told after it has returned. It
--- may call every method that does not wait; those that wait, and `close`, raise there, and it cannot yield. An
--- error in it is logged at ERROR of the logger `mantichora`. While nobody listens, nothing of this costs anything.
---
--- Raises: what cannot be called
---
--- Blocks: never
---@param f function called as `f(event)`, with an `event` of its own
---@return function # ends it when it is called
function pool:on(f) end

--- What the pool has done so far, as a table.
---
--- Tasks that have ended, by kind: `ok`, `error`, `unsendable`, `exited`, `killed`, `timeout`, `cancelled`; and
--- `retried` (attempts that another followed), `found`, `queued`, `running`, `unreceived` (ended, and not handed
--- over). `waiting` and `working`: how long the ended ones waited and ran, each `{sum=, mean=, max=}` in seconds;
--- items of a map that are too short to be timed one by one count with the mean of their batch. `slots`: list of
--- the share of time that each slot worked since the first worker was forked. `slowest`: at most five
--- `{runid=, name=, index=, elapsed=, kind=}`, of what was timed. `bytes_sent`, `bytes_received`: of messages.
---
--- Blocks: never
---@return table
function pool:stats() end

--- Stop all tasks now, as `cancel` does.
--- Results that have arrived stay. The pool stays usable. On a closed
--- pool it does nothing.
---
--- Blocks: until the workers are gone or idle: a little more than half a second at most
function pool:terminate() end

--- Wait for outstanding tasks, drop their results, end the workers.
--- Closing twice does no harm.
--- Failures that nobody received are logged: one line at level ERROR of the logger `mantichora`, with their
--- number and the first one. `pool["end"](pool)` is the same.
---
--- Raises: nothing but `interrupted!`; the pool is still open then
---
--- Blocks: until the last task has ended
function pool:close() end

--- Runs Lua functions concurrently in background processes and hands back their return values in
--- the order in which the functions were given.
---
--- `require` makes no process, no thread and no global.
---
---     local mantichora = require "mantichora"
---     local mcore <close> = mantichora { nworkers = 3 }
---     mcore:run(function(a, b) return a + b end, 20, 22)
---     print(mcore:returns()[1])   --> 42
---@class mantichora
---@field _VERSION string
---@overload fun(options?: mantichora.options): mantichora.pool
local mantichora = {}

--- Make a pool.
--- `mantichora(options)` is the same.
--- The workers are forked at the first `run`, or by `pool:start`.
---
--- Raises: an unknown option, or one of the wrong type, with its name
---
--- Blocks: never
---@param options? mantichora.options see below
---@return mantichora.pool # the pool, which should stand in a `<close>` variable
function mantichora.new(options) end

--- Sleep, and advance all pools of this state meanwhile.
--- In tasks and outside.
---
--- Blocks: for `duration` seconds
---@param duration number seconds
function mantichora.sleep(duration) end

--- How many CPUs this process may use, according to its affinity and the quota of its cgroup.
---
--- Blocks: never
---@return integer # at least 1
function mantichora.cpu_count() end

--- Report what `run(f, ...)` would send, and what of it cannot be sent.
---
--- Blocks: never
---@param f function the function
---@param ... any its arguments
---@return mantichora.report # whose `tostring` is a tree of paths, kinds and sizes
function mantichora.explain(f, ...) end

--- Whether this process is a worker.
---
--- Blocks: never
---@return boolean
function mantichora.is_worker() end

--- The run ID of the task that runs here.
---
--- Blocks: never
---@return integer # run ID; nil outside of tasks
function mantichora.runid() end

--- In a task: hand values to the process that has its pool, at once.
---
--- They come as an event `emitted` to its listeners (`pool:on`), in order and before the task's result. Where
--- nobody listens they are dropped. While 4 MiB of this worker wait for the parent it waits.
---
--- Raises: what cannot be sent, with the path to it; outside of tasks
---
--- Blocks: while too much waits; it can be stopped there
---@param ... any values
function mantichora.emit(...) end

--- Let this script be watched by `mantichora top`, from a terminal or a page: see the chapter on watching.
---
--- Scripts that the program `mantichora` runs are, unless MANTICHORA_ATTACH is 0; under another host this
--- function, or MANTICHORA_ATTACH=1, makes their socket. Only this user and root can connect to it.
---
--- Blocks: never
---@return string # path of the socket; nil and a message, if there is none: MANTICHORA_ATTACH is 0, its folder is somebody else's, the path would be too long, this is a worker
function mantichora.attach() end

--- Whether a value is a `failure`.
---
--- Blocks: never
---@param value any any value
---@return boolean
function mantichora.is_failure(value) end

return mantichora
