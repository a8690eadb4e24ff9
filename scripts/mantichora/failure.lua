--- @submodule mantichora

-- Failures: the table, and its report. Loaded by pool.lua with the core;
-- returns a function that makes a failure of what the core says, and one that puts it into one line.

local core = ...

local getmetatable, setmetatable, sort, tostring, type = getmetatable, setmetatable, table.sort, tostring, type
local fixed = core.fixed

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
    if reason == "its worker broke the protocol" or failure.whole then return reason end
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
-- `"cancelled"`: by `pool:cancel` or `pool:terminate`, or because another task failed and the pool halts.
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
-- @field host the machine on which it ran, as the pool's option `hosts` names it; nil: this one
-- @field signal the signal's number, of kind `"killed"`
-- @field exitcode the exit status, of kind `"exited"`
-- @field elapsed seconds that the task ran
-- @field maxrss the worker's peak memory so far, in bytes
-- @field attempts how many attempts were made, if more than one
-- @field progress where the task's last bar stood when its worker died
-- @field last_log message of the last record that the task logged before its worker died
-- @field pool the pool's name
-- @field cause of kind `"cancelled"`, where the pool halts: the failure of the other task
-- @field failures the list of all failures, where one is raised for several tasks. After a `halt` without those
-- that were cancelled, and at most 1,000
-- @field failed where one is raised after a `halt`: how many tasks have failed, without those that were cancelled
-- @field cancelled likewise: how many were cancelled
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
    parts[#parts + 1] = ("\n  in worker %d%s, after %s s"):format(self.pid,
      self.host and " on " .. self.host or "", fixed(self.elapsed or 0, 3))
    if self.maxrss then
      parts[#parts + 1] = (", %s MiB at most"):format(fixed(self.maxrss / 2 ^ 20, 1))
    end
  end
  if self.attempts then parts[#parts + 1] = (", at attempt %d"):format(self.attempts) end
  if self.progress then parts[#parts + 1] = "\n  last progress: " .. self.progress end
  if self.last_log then parts[#parts + 1] = "\n  last log line: " .. tostring(self.last_log) end
  if self.traceback then parts[#parts + 1] = "\nworker's " .. self.traceback end
  local others = (self.failed or self.failures and #self.failures or 1) - 1
  if others > 0 then parts[#parts + 1] = ("\nand %d more tasks failed"):format(others) end
  if self.cancelled and self.cancelled > 0 then
    parts[#parts + 1] = self.cancelled == 1 and "\n1 task was cancelled"
      or ("\n%d tasks were cancelled"):format(self.cancelled)
  end
  return table.concat(parts)
end

local failure = {}

local most_listed <const> = 1000

-- What is known of failures that have halted others: their reports in one line.
local causes = setmetatable({}, { __mode = "k" })

-- Whether a value is one.
function failure.is(value) return type(value) == "table" and getmetatable(value) == failure_meta end

-- The first line of a report, and what its message says, in one line.
local function in_one_line(self)
  local report = tostring(self)
  local head = report:match("^(.-)\n  in ") or report
  return (head:gsub("\nworker's .*", ""):gsub("%s*[\r\n]+%s*", " "))
end

failure.in_one_line = in_one_line

-- Make a failure of what the core says of a task, in the pool of this name. One that has halted others comes again
-- with each of them.
function failure.new(raw, pool_name)
  if getmetatable(raw) == failure_meta then return raw end
  local halts, cause = raw.halts, raw.cause
  if cause then raw.cause = failure.new(cause, pool_name) end
  raw.message = cause and "it was cancelled because of " .. causes[cause] or wordings[raw.kind](raw, raw.reason)
  raw.reason, raw.perhaps_oom, raw.halts, raw.whole, raw.pool = nil, nil, nil, nil, pool_name
  if raw.kind == "timeout" or raw.kind == "cancelled" then raw.value = nil end
  setmetatable(raw, failure_meta)
  if halts then causes[raw] = in_one_line(raw) end
  return raw
end

-- Whether this failure has halted others.
function failure.is_cause(self) return causes[self] ~= nil end

-- Failures that are to be raised as one.
local Sum = {}
Sum.__index = Sum

function failure.sum() return setmetatable({ list = {}, n = 0, cancelled = 0 }, Sum) end

-- Add one. What was halted is only counted.
function Sum:add(one)
  if one.kind == "cancelled" then self.cancelled = self.cancelled + 1 end
  if causes[one] then
    if not self.cause or not self.has_cause or one.runid < self.cause.runid then self.cause = one end
    self.has_cause = true
  elseif one.cause then
    self.cause = self.cause or one.cause
    return
  end
  self.n = self.n + 1
  self.list[self.n] = one
end

function Sum:any() return self.n > 0 or self.cause ~= nil end

-- Those with run IDs from `from` on, and the others; both without what was cancelled, but for counts.
function Sum:split(from)
  local later, others = failure.sum(), failure.sum()
  for i = 1, self.n do
    local one = self.list[i]
    if one.kind ~= "cancelled" then (one.runid >= from and later or others):add(one) end
  end
  if not later.cause and self.cause and self.cause.runid >= from then later.cause = self.cause end
  later.cancelled = self.cancelled
  return later, others
end

local function by_runid(a, b) return a.runid < b.runid end

-- The one that has halted others, with those that have failed and counts of all; else the one of the lowest run ID,
-- with all. And with what succeeded.
function Sum:as_one(results)
  local list, cause = self.list, self.cause
  sort(list, by_runid)
  if not cause then
    local first = list[1]
    first.failures, first.results = list, results
    return first
  end
  local failed, listed, has_cause = 0, {}, false
  for i = 1, self.n do
    local one = list[i]
    if one.kind ~= "cancelled" then
      failed = failed + 1
      if failed <= most_listed then
        listed[failed] = one
        has_cause = has_cause or one == cause
      end
    end
  end
  if failed > most_listed and self.has_cause and not has_cause then listed[most_listed] = cause end
  cause.failures, cause.results, cause.failed, cause.cancelled = listed, results, failed, self.cancelled
  return cause
end

return failure
