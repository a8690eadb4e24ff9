--- Log records of tasks and of the main process, in one place.
--
-- A logger has a name and a level, and hands its records to handlers.
--
--     local logging = require "mantichora.logging"
--     logging.basic_config{ level = "INFO" }
--     logging.info('finishing "%s"', name)           -- INFO:root:finishing "task1"
--     local log = logging.get("net.http")
--     log:warning("slow")                            -- WARNING:net.http:slow
--
-- A record made in a worker is not shown there: it is sent to the parent, before the task's result, and the
-- levels and handlers set in the parent apply. Without mantichora's C part this file is a logging module for
-- one process.
--
-- A log call never raises, whatever it is given and whatever a handler does; errors are reported through
-- `warn`. (Only the error of Ctrl-C, `interrupted!`, and that of a task that is being stopped pass through.)
--
-- Levels are the names `"DEBUG"`, `"INFO"`, `"WARNING"`, `"ERROR"` and `"CRITICAL"`, or numbers: the named
-- ones are 10 to 50, and are fields of the module, as `logging.INFO`.
-- @module mantichora.logging

-- Runs in: both.

local logging = {}

-- The C part: where we are, and the way to the parent. See the stand-in below for what it offers.
local _, report = ...
local found = type(report) == "table" -- not so where this file is loaded by its path
if not found then found, report = pcall(require, "mantichora.report") end
if not found and type(report) == "string" and report:find("task stopped", 1, true) then error(report, 0) end
if not found or type(report) ~= "table" then
  report = {
    in_worker = function() return false end,
    process = function() end,
    runid = function() end,
    taskname = function() end,
    set_log_threshold = function() end,
    write_line = function(line, stream)
      stream:write(line, "\n")
      stream:flush()
    end,
    on_log = function() end,
  }
end

-- A program that embeds Lua may leave these out; standard error is there all the same.
local io, os = io or {}, os or {}
local stderr = io.stderr or { write = function() end, flush = function() end }

local DEFAULT_FORMAT = "%(levelname)s:%(name)s:%(message)s"
local DEFAULT_DATEFMT = "%Y-%m-%d %H:%M:%S"

-- ---------------------------------------------------------------------------------------------
-- Small helpers

local function smaller(a, b) return a < b and a or b end

-- A number with an integral value as an integer; nil of anything else. (There may be no library math.)
local function to_integer(value)
  if type(value) == "number" and value == value // 1 and value >= -2 ^ 63 and value < 2 ^ 63 then
    return value // 1 | 0
  end
end

-- The number of letters to insert, remove or replace to make `a` of `b`.
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal
    diagonal, row[0] = row[0], i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], smaller(row[j] + 1, smaller(row[j - 1] + 1, diagonal + cost))
    end
  end
  return row[#b]
end

-- The name in the table's keys that looks most like `name`.
local function nearest(name, names)
  local best, least
  for candidate in pairs(names) do
    local d = distance(name, candidate)
    if not least or d < least or d == least and candidate < best then
      best, least = candidate, d
    end
  end
  return best
end

local function tell(...)
  warn("mantichora.logging: ", ...)
end

-- pcall for what users have given us. The error that stops a task goes on its way, as does that of Ctrl-C:
-- else a loop that logs could be stopped only between its calls. Whatever the error has become on its way up,
-- their count tells whether there was one.
local stops_so_far = report.stops or function() return 0 end

local function settle(stops, fine, ...)
  if fine then return true, ... end
  local err = ...
  if stops_so_far() ~= stops or type(err) == "string" and err:find("interrupted!", 1, true) then
    error(err, 0)
  end
  return false, err
end

local function try(f, ...)
  return settle(stops_so_far(), pcall(f, ...))
end

-- Any value as a string: __tostring may raise, or return something else.
local function to_string(value)
  local fine, text = try(tostring, value)
  if type(value) == "number" then text = text:gsub("[^%w+-]+", ".") end -- in every locale
  return fine and text or ("(%s that cannot be shown)"):format(type(value))
end

local enter = report.enter or function() end

local function leave(...)
  enter(-1)
  return ...
end

-- Call in protected mode and warn of an error, except for that of Ctrl-C, which is passed on.
-- Meanwhile no listener of a pool is called.
local function guarded(what, f, ...)
  enter(1)
  local fine, err = settle(stops_so_far(), leave(pcall(f, ...)))
  if fine then return end
  local text = to_string(err)
  if text:find("interrupted!", 1, true) then error(err, 0) end
  tell(what, ": ", text)
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local metatable = getmetatable(value)
  return type(metatable) == "table" and metatable.__call ~= nil
end

-- ---------------------------------------------------------------------------------------------
-- Levels

local LEVELS = { DEBUG = 10, INFO = 20, WARNING = 30, ERROR = 40, CRITICAL = 50 }
local ALIASES = { WARN = 30, FATAL = 50 }
local NAMES = {}
for name, number in pairs(LEVELS) do
  NAMES[number] = name
  logging[name] = number
end

local function level_name(number)
  return NAMES[number] or "Level " .. number
end

-- A name in any case, or a number.
local function level_number(level)
  if to_integer(level) then return to_integer(level) end
  if type(level) == "string" then
    local name = level:upper()
    local number = LEVELS[name] or ALIASES[name] or to_integer(tonumber(name))
    if number then return number end
    return nil, ("unknown level '%s' (the nearest is '%s')"):format(level, nearest(name, LEVELS))
  end
  return nil, ("level must be a name or an integer: %s is given"):format(type(level))
end

local function check_level(level, depth)
  local number, message = level_number(level)
  if not number then error(message, depth + 1) end
  return number
end

-- Raise at the user's call that an argument is wrong; for functions that the user calls.
local function bad_argument(number, name, problem, depth)
  error(("bad argument #%d to '%s' (%s)"):format(number, name, problem), depth or 3)
end

local wrong_level -- MANTICHORA_LOG_LEVEL if it is none and was not told of; false: it was

-- The level of a program that sets none: the user's wish, from outside, or WARNING.
local function default_level()
  local wish = os.getenv and os.getenv("MANTICHORA_LOG_LEVEL")
  if not wish or wish == "" then return LEVELS.WARNING end
  local number = level_number(wish)
  if not number then wrong_level = wrong_level == nil and wish end
  return number or LEVELS.WARNING
end

-- ---------------------------------------------------------------------------------------------
-- Formats: %(field)s with the flags and conversions of string.format

local FIELDS = {
  name = true, levelno = true, levelname = true, message = true, asctime = true, created = true,
  msecs = true, process = true, runid = true, taskname = true,
}

local function field_value(record, field, datefmt)
  if field == "asctime" and os.date then
    local seconds = record.created // 1 | 0
    if datefmt then return os.date(datefmt, seconds) end
    local milliseconds = (record.created - seconds) * 1000 // 1 | 0
    return ("%s,%03d"):format(os.date(DEFAULT_DATEFMT, seconds), milliseconds)
  elseif field == "msecs" then
    return record.created % 1 * 1000 // 1 | 0
  end
  return record[field]
end

-- The text of one field; what is not known (the run ID outside of tasks) is a hyphen.
local function format_field(record, part, datefmt)
  local value = field_value(record, part.field, datefmt)
  if value == nil then value = "-" end
  local fine, text = try(string.format, part.conversion, value)
  if fine and part.fraction then return (text:gsub("[^%w+ -]+", ".")) end -- in every locale
  if fine then return text end
  return ("%" .. part.flags .. "s"):format(to_string(value))
end

-- Take a format apart into strings and fields; nil and a message if it is wrong.
local function parse_format(format)
  local parts, at = {}, 1
  while at <= #format do
    local percent = format:find("%", at, true) or #format + 1
    if percent > at then parts[#parts + 1] = format:sub(at, percent - 1) end
    if percent > #format then break end
    local field, flags, letter, after = format:match("^%%%(([^)]*)%)([-+ #0]*%d*%.?%d*)(%a)()", percent)
    if format:sub(percent + 1, percent + 1) == "%" then
      parts[#parts + 1], after = "%", percent + 2
    elseif not field or not ("diouxXeEfgGsc"):find(letter, 1, true) then
      return nil, ("format: '%s' is not of the form '%%(field)s'"):format(format:sub(percent, percent + 15))
    elseif not FIELDS[field] then
      return nil, ("format: unknown field '%s' (the nearest is '%s')"):format(field, nearest(field, FIELDS))
    else
      if letter == "i" or letter == "u" then letter = "d" end
      local plain = flags:match("^%-?%d?%d?") -- what %s accepts
      parts[#parts + 1] = {
        field = field, conversion = "%" .. flags .. letter, flags = plain, fraction = ("eEfgG"):find(letter, 1, true),
      }
      if not try(string.format, "%" .. flags .. letter, letter == "s" and "" or 0) then
        return nil, ("format: '%s' cannot be used"):format(format:sub(percent, after - 1))
      end
    end
    at = after
  end
  return parts
end

local function make_formatter(parts, datefmt)
  return function(record)
    local texts = {}
    for i, part in ipairs(parts) do
      texts[i] = type(part) == "string" and part or format_field(record, part, datefmt)
    end
    return table.concat(texts)
  end
end

local default_formatter = make_formatter(assert(parse_format(DEFAULT_FORMAT)))

-- ---------------------------------------------------------------------------------------------
-- Where lines go

local function write_to(stream)
  -- What may share a terminal with progress bars is written by the output that draws them.
  if stream == stderr or stream == io.stdout then
    return function(line) report.write_line(line, stream) end
  end
  return function(line)
    local fine, message = stream:write(line, "\n")
    if fine and stream.flush then fine, message = stream:flush() end
    if fine == nil and message then error(message, 0) end
  end
end

local function has_write(stream)
  local fine, method = try(function() return stream.write end)
  return fine and method ~= nil
end

-- A handler that writes lines to a function or to anything with a write method; or nil, message.
local function stream_handler(stream, formatter)
  local write
  if is_callable(stream) then
    write = stream
  elseif type(stream) ~= "string" and has_write(stream) then
    write = write_to(stream)
  else
    return nil, ("stream must be a file or a function: %s is given"):format(type(stream))
  end
  return function(record) write(formatter(record)) end
end

local to_stderr = stream_handler(stderr, default_formatter)

-- LuaLogging's names of our levels, and the other way round.
local function lualogging_level(number)
  if number >= LEVELS.CRITICAL then return "FATAL" end
  if number >= LEVELS.ERROR then return "ERROR" end
  if number >= LEVELS.WARNING then return "WARN" end
  if number >= LEVELS.INFO then return "INFO" end
  return "DEBUG"
end

local function logger_handler(target, formatter)
  if type(target) ~= "table" or not is_callable(target.log) then
    return nil, ("logger must be a LuaLogging logger: %s is given"):format(type(target))
  end
  return function(record)
    target:log(lualogging_level(record.levelno), formatter and formatter(record) or record.message)
  end
end

-- ---------------------------------------------------------------------------------------------
-- Loggers

--- A named logger; dots in names form a hierarchy. A record goes to the handlers of its logger and of all
-- above it, up to the root or to the first logger whose field `propagate` is false. A logger that is sent to
-- a task becomes the logger of that name there.
-- @type logger
local Logger = {}
Logger.__index = Logger
Logger.__name = "mantichora.logger"

function Logger:__tostring()
  return ("logger %s (%s)"):format(self.name, level_name(self:get_effective_level()))
end

-- A logger that is sent to a task becomes the logger of that name there.
function Logger:__mantichora()
  return logging.get, self.name
end

-- A method that was called with a dot has something else in the logger's place.
local function check_self(self, name)
  if getmetatable(self) ~= Logger then
    bad_argument(1, name, ("%s expected, got %s"):format(Logger.__name, self == nil and "no value" or type(self)), 4)
  end
end

local function new_logger(name, parent)
  return setmetatable({ name = name, parent = parent, handlers = {}, propagate = true }, Logger)
end

local root = new_logger("root")
root.level = default_level()

local loggers = {} -- by name; without the root
local basic        -- the handler made by basic_config

local function parent_name(name)
  return name:match("^(.*)%.[^.]*$")
end

-- The logger of this name or the nearest above it, without making one.
local function find_logger(name)
  while name do
    if loggers[name] then return loggers[name] end
    name = parent_name(name)
  end
  return root
end

local function get_logger(name)
  if not name or name == "root" then return root end
  if not loggers[name] then loggers[name] = new_logger(name, get_logger(parent_name(name))) end
  return loggers[name]
end

-- Workers need not send what no logger here lets pass. A worker's level comes from its parent.
local function tell_workers()
  if report.in_worker() then return end
  local least = root.level
  for _, logger in pairs(loggers) do
    if logger.level and logger.level < least then least = logger.level end
  end
  report.set_log_threshold(least)
end

-- Give the record to the handlers of the logger and of those above it.
local function call_handlers(logger, record)
  -- The program that we are part of may want to see records instead of any stream.
  local in_sink = report.sink and report.sink(record)
  local handled = in_sink
  while logger do
    -- A handler may remove itself, or others.
    for _, entry in ipairs { table.unpack(logger.handlers) } do
      handled = true
      if record.levelno >= entry.level then guarded("a handler failed", entry.handler, record) end
    end
    if logger == root and basic and not in_sink then
      handled = true
      guarded("the stream failed", basic, record)
    end
    logger = logger.propagate and logger.parent or nil
  end
  if not handled then guarded("stderr failed", to_stderr, record) end
end

-- Where a wish of the user is first of use, and records have somewhere to go.
local function tell_of_level()
  if not wrong_level or report.in_worker() then return end
  local wish = wrong_level
  wrong_level = false
  get_logger("mantichora"):warning(
    "MANTICHORA_LOG_LEVEL is '%s': DEBUG, INFO, WARNING, ERROR, CRITICAL or a whole number is expected", wish)
end

local told = {} -- in a worker, by function: that it has no effect there

-- Handlers and levels are the parent's: nothing that a worker sets is ever asked.
local function tell_in_worker(name)
  if not report.in_worker() or told[name] then return end
  told[name] = true
  get_logger("mantichora"):warning("%s has no effect in a worker: levels and handlers of the parent decide", name)
end

-- A record has arrived at the process that shows it, or at one on the way there.
local function receive(record)
  tell_of_level()
  if report.in_worker() then
    report.send_log(record)
    return
  end
  local logger = find_logger(record.name)
  if record.levelno >= logger:get_effective_level() then call_handlers(logger, record) end
end

-- The message of a log call. With arguments it is a format; a bad one shows all of its parts.
local function make_message(format, ...)
  local count = select("#", ...)
  if count == 0 then return to_string(format) end
  local fine, message = try(string.format, format, ...)
  if fine then return message end
  tell("bad format in a log call: ", to_string(message))
  local parts = table.pack(format, ...)
  for i = 1, parts.n do parts[i] = to_string(parts[i]) end
  return table.concat(parts, " ")
end

local function is_wanted(logger, number)
  tell_of_level()
  if report.in_worker() then return number >= (report.log_threshold() or root.level) end
  return number >= logger:get_effective_level()
end

local function log(logger, number, ...)
  if not is_wanted(logger, number) then return end
  if report.notices then report.notices() end -- they come first
  local record = {
    name = logger.name,
    levelno = number,
    levelname = level_name(number),
    message = make_message(...),
    created = report.time and report.time() or os.time and os.time() or 0,
    process = report.process(),
    runid = report.runid(),
    taskname = report.taskname(),
  }
  if report.in_worker() then
    guarded("a record could not be sent", report.send_log, record)
  else
    call_handlers(logger, record)
  end
end

--- Log a message. The methods `debug`, `info`, `warning`, `error` and `critical` do so at their levels.
-- @function log
-- @param level name or number
-- @param ... the message, as it is; or a format and its arguments, as for `string.format`
function Logger:log(level, ...)
  check_self(self, "log")
  local number, message = level_number(level)
  if not number then
    tell(message)
    number = LEVELS.WARNING
  end
  log(self, number, ...)
end

for name, number in pairs(LEVELS) do
  Logger[name:lower()] = function(self, ...)
    check_self(self, name:lower())
    log(self, number, ...)
  end
  logging[name:lower()] = function(...) log(root, number, ...) end
end

--- Set the least level that this logger, and those below it that have none, let pass.
-- In a worker it changes nothing, which is logged once at WARNING: the parent's levels decide.
-- @function set_level
-- @param level name or number; nil: that of the logger above
-- @raise an unknown level, with the nearest right name
function Logger:set_level(level)
  check_self(self, "set_level")
  tell_in_worker("set_level")
  self.level = level ~= nil and check_level(level, 2) or nil
  if self == root and not self.level then self.level = default_level() end
  tell_workers()
end

--- The level in effect for this logger.
-- @function get_effective_level
-- @treturn integer
function Logger:get_effective_level()
  check_self(self, "get_effective_level")
  local logger = self
  while not logger.level do logger = logger.parent end
  return logger.level
end

--- Whether a record of this level would be made now; saves the work of making a message.
-- @function is_enabled_for
-- @param level name or number
-- @treturn boolean
-- @raise an unknown level
function Logger:is_enabled_for(level)
  check_self(self, "is_enabled_for")
  return is_wanted(self, check_level(level, 2))
end

--- Call a function with each record of this logger and of those below it.
-- It is called only inside calls of this library, on the caller's thread. A record is a table with
-- `name` (the logger's), `levelno`, `levelname`, `message`, `created` (seconds since the epoch),
-- `process` (the process ID), and in tasks `runid` and `taskname`. It is the handler's to keep.
-- @function add_handler
-- @tparam function handler called as `handler(record)`
-- In a worker it is never called, which is logged once at WARNING: the parent's handlers decide.
-- @param[opt] level the least level that it gets; default: all
-- @return the handler
-- @raise a handler that cannot be called, an unknown level
function Logger:add_handler(handler, level)
  check_self(self, "add_handler")
  tell_in_worker("add_handler")
  if not is_callable(handler) then
    bad_argument(1, "add_handler", ("handler must be a function: %s is given"):format(type(handler)))
  end
  table.insert(self.handlers, { handler = handler, level = level and check_level(level, 2) or 0 })
  return handler
end

--- Remove a handler.
-- @function remove_handler
-- @tparam function handler
-- @treturn boolean whether it was there
function Logger:remove_handler(handler)
  check_self(self, "remove_handler")
  for i, entry in ipairs(self.handlers) do
    if rawequal(entry.handler, handler) then
      table.remove(self.handlers, i)
      return true
    end
  end
  return false
end

-- ---------------------------------------------------------------------------------------------
-- The module's functions

--- @section end

--- Log a message to the root logger at level `"DEBUG"`.
-- @function debug
-- @param ... the message, as it is; or a format and its arguments, as for `string.format`

--- Log a message to the root logger at level `"INFO"`.
-- @function info
-- @param ... as for `debug`

--- Log a message to the root logger at level `"WARNING"`.
-- @function warning
-- @param ... as for `debug`

--- Log a message to the root logger at level `"ERROR"`.
-- @function error
-- @param ... as for `debug`

--- Log a message to the root logger at level `"CRITICAL"`.
-- @function critical
-- @param ... as for `debug`

--- The logger of this name; it is made at the first call.
-- @function get
-- @tparam[opt="root"] string name
-- @treturn logger
-- @raise a name that is not a string
function logging.get(name)
  if name ~= nil and type(name) ~= "string" then
    bad_argument(1, "get", ("name must be a string: %s is given"):format(type(name)))
  end
  return get_logger(name)
end

--- Log a message to the root logger, at a level.
-- @function log
-- @param level name or number
-- @param ... as for `debug`
function logging.log(level, ...)
  root:log(level, ...)
end

--- Set the root logger's level: `logging.get():set_level(level)`.
-- @function set_level
-- @param level name or number; nil: the default, MANTICHORA_LOG_LEVEL or WARNING
-- @raise an unknown level
function logging.set_level(level)
  tell_in_worker("set_level")
  root.level = level ~= nil and check_level(level, 2) or default_level()
  tell_workers()
end

--- Add a handler to the root logger: `logging.get():add_handler(handler, level)`.
-- @function add_handler
-- @tparam function handler called as `handler(record)`
-- @param[opt] level the lowest level that it gets; default: all
-- @return the handler
-- @raise a handler that cannot be called, an unknown level
function logging.add_handler(handler, level)
  if not is_callable(handler) then
    bad_argument(1, "add_handler", ("handler must be a function: %s is given"):format(type(handler)))
  end
  return root:add_handler(handler, level and check_level(level, 2))
end

--- Remove a handler of the root logger.
-- @function remove_handler
-- @tparam function handler
-- @treturn boolean whether it was there
function logging.remove_handler(handler)
  return root:remove_handler(handler)
end

local OPTIONS = {
  level = true, stream = true, filename = true, format = true, datefmt = true, logger = true,
}

local function check_options(options)
  for name in pairs(options) do
    if not OPTIONS[name] then
      local text = to_string(name)
      return ("unknown option '%s' (the nearest is '%s')"):format(text, nearest(text, OPTIONS))
    end
  end
  local targets = 0
  for _, name in ipairs { "stream", "filename", "logger" } do
    if options[name] ~= nil then targets = targets + 1 end
  end
  if targets > 1 then return "only one of the options stream, filename and logger can be used" end
end

local function make_basic_formatter(options)
  local format, datefmt = options.format, options.datefmt
  if format ~= nil and type(format) ~= "string" then
    return nil, ("format must be a string: %s is given"):format(type(format))
  end
  if datefmt ~= nil and not (type(datefmt) == "string" and (not os.date or try(os.date, datefmt, 0))) then
    return nil, "datefmt must be a format of os.date"
  end
  local parts, message = parse_format(format or DEFAULT_FORMAT)
  if not parts then return nil, message end
  return make_formatter(parts, datefmt)
end

local function make_basic_handler(options)
  local formatter, message = make_basic_formatter(options)
  if not formatter then return nil, message end
  if options.logger ~= nil then return logger_handler(options.logger, options.format and formatter) end
  local stream = options.stream
  if options.filename ~= nil then
    if not io.open then return nil, "filename cannot be used: there is no io library here" end
    stream, message = io.open(tostring(options.filename), "a")
    if not stream then return nil, message end
  end
  return stream_handler(stream == nil and stderr or stream, formatter)
end

--- Set where the root logger writes, and in what format. Called again, it replaces what it set before.
-- At most one of `stream`, `filename` and `logger` can be given.
-- @function basic_config
-- @tparam[opt] table options
-- @param options.level name or number; default: the environment variable MANTICHORA_LOG_LEVEL, or
-- `"WARNING"`; with `logger`, that logger's own
-- @param options.stream a file handle, or a function that gets each line without its newline; default:
-- `io.stderr`
-- @param options.filename a file to append to
-- @param options.logger a LuaLogging logger; it gets the bare message unless a `format` is given
-- @param options.format a string with fields: `%(levelname)s`, `%(levelno)d`, `%(name)s`,
-- `%(message)s`, `%(asctime)s`, `%(created)f`, `%(msecs)d`, `%(process)d`, `%(runid)s`, `%(taskname)s`;
-- default: `"%(levelname)s:%(name)s:%(message)s"`
-- @param options.datefmt how `%(asctime)s` looks, as for `os.date`
-- @raise an unknown option or one of the wrong type, a file that cannot be opened
function logging.basic_config(options)
  options = options == nil and {} or options
  if type(options) ~= "table" then
    bad_argument(1, "basic_config", ("options must be a table: %s is given"):format(type(options)))
  end
  local problem = check_options(options)
  if problem then error(problem, 2) end
  local handler, message = make_basic_handler(options)
  if not handler then error(message, 2) end
  local level = options.level
  if level == nil and options.logger then level = level_number(options.logger.level) end
  level = level == nil and default_level() or check_level(level, 2)
  root.level, basic = level, handler
  tell_workers()
  tell_of_level()
end

tell_workers()
report.on_log(receive)

return logging
