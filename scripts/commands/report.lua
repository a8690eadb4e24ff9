-- What is told of items besides their results: failures on stderr, GNU parallel's table of jobs,
-- a folder for each item.

local core = require "mantichora.commands.core"

local report = {}
report.__index = report

--- Open what the options ask for. Returns the report, or nil and a message.
function report.new(verb, options, bar)
  local self = setmetatable({ verb = verb, folder = options.results, bar = bar, failed = 0, bad = 0 }, report)
  local clock, wall = core.clocks()
  self.offset = wall - clock
  if options.joblog then
    local log, message = io.open(options.joblog, "w")
    if not log then return nil, "the job log cannot be written: " .. message end
    log:write("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n")
    log:flush()
    self.log = log
  end
  if self.folder then
    local made, message = core.mkdir(self.folder)
    if not made then return nil, ("folder '%s' cannot be made: %s"):format(self.folder, message) end
  end
  -- Each record is looked at, then.
  self.is_detailed = verb == "run" or self.log ~= nil or self.folder ~= nil
  return self
end

-- A text for a line of its own: no control characters, and no more than can be read.
local function shown(text)
  text = text:gsub("%c", function(c)
    return c == "\n" and "\\n" or c == "\t" and "\\t" or ("\\x%02x"):format(c:byte())
  end)
  if #text > 200 then text = text:sub(1, utf8.offset(text, 0, 198) - 1) .. "..." end
  return text
end

--- Tell something on stderr.
function report:tell(message)
  io.stderr:write("mantichora ", self.verb, ": ", message, "\n")
end

--- Tell that an item has failed, where it stands, and what it is.
function report:tell_failure(file, line, message, item)
  if file == "-" then file = "stdin" end
  self:tell(("%s:%d: %s, in item %s"):format(file, line, message:gsub("[\r\n]+$", ""), shown(item)))
end

local function write_file(path, bytes)
  local file, message = io.open(path, "wb")
  if not file then error(message, 0) end
  local written
  written, message = file:write(bytes)
  if written then written, message = file:close() end
  if not written then error(path .. ": " .. message, 0) end
end

-- The exit status that stands for how a record ended.
local function status_of(record)
  if record.kind == "ok" then return 0 end
  if record.signal and record.signal > 0 then return 128 + record.signal end
  return record.exitcode and record.exitcode ~= 0 and record.exitcode or 1
end

--- Keep what an item has given in its folder.
function report:keep(number, item, record)
  local folder = ("%s/%d"):format(self.folder, number)
  local made, message = core.mkdir(folder)
  if not made then error(("folder '%s' cannot be made: %s"):format(folder, message), 0) end
  local errors = record.payload:sub(record.printed + 1, record.length - record.message)
  if self.verb ~= "run" and record.message > 0 then
    errors = errors .. record.payload:sub(-record.message) .. "\n"
  end
  write_file(folder .. "/item", item)
  write_file(folder .. "/stdout", record.payload:sub(record.header + 1, record.printed))
  write_file(folder .. "/stderr", errors)
  write_file(folder .. "/status", status_of(record) .. "\n")
end

--- Write an item's line of the table of jobs.
function report:log_job(number, item, record)
  local command = item
  if self.verb == "run" then
    local fine, made = pcall(core.command, item, number)
    command = fine and made or item
  end
  local exitval = record.exitcode or 0
  if record.kind ~= "ok" and exitval == 0 and (record.signal or 0) == 0 then exitval = record.timed_out and -1 or 1 end
  self.log:write(("%d\t:\t%.3f\t%10.3f\t0\t%d\t%d\t%d\t%s\n"):format(number,
    record.started + self.offset, record.ended - record.started, record.printed, exitval,
    record.signal or 0, (command:gsub("%c", " "))))
end

--- An item has ended: note it where that is asked for. `item` is its bytes without their end.
function report:note(number, item, record)
  if self.log then self:log_job(number, item, record) end
  if self.folder then self:keep(number, item, record) end
end

--- Count items that have ended.
function report:count(n)
  if self.bar then self.bar:add(n) end
end

--- Write what was noted, before nothing happens for a while.
function report:flush()
  if self.log then self.log:flush() end
end

function report:close()
  if self.log then self.log:close() end
end

return report
