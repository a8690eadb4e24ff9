-- scripts/mantichora/logging.lua: alone, on a stand-in for the C part that shows what a parent and a
-- worker would do, and at the end with real workers.

local shell = require "spec.support.shell"

local LOG_FILE = "scripts/mantichora/logging.lua"

-- A fresh logging module; `report` stands in for the C part, false for its absence.
local function load_logging(report)
  local loaded, preload = package.loaded["mantichora.report"], package.preload["mantichora.report"]
  package.loaded["mantichora.report"] = report or nil
  package.preload["mantichora.report"] = function()
    if not report then error("not in this build") end
    return report
  end
  local logging = assert(loadfile(LOG_FILE))()
  package.loaded["mantichora.report"], package.preload["mantichora.report"] = loaded, preload
  return logging
end

-- What the C part offers, with its memory open to the spec.
local function fake_report(in_worker)
  local fake = { lines = {}, sent = {}, threshold = 30 }
  function fake.in_worker() return in_worker end
  function fake.send_log(record) fake.sent[#fake.sent + 1] = record end
  function fake.process() return 4711 end
  function fake.runid() return fake.current_runid end
  function fake.taskname() return fake.current_name end
  function fake.set_log_threshold(level) fake.threshold = level end
  function fake.log_threshold() return fake.threshold end
  function fake.write_line(line) fake.lines[#fake.lines + 1] = line end
  function fake.on_log(receive) fake.receive = receive end
  return fake
end

local function collector()
  local lines = {}
  return lines, function(line) lines[#lines + 1] = line end
end

-- Everything that is said through `warn` while f runs.
local function warnings_of(f)
  local said, real = {}, warn
  _G.warn = function(...) said[#said + 1] = table.concat { ... } end
  local fine, err = pcall(f)
  _G.warn = real
  assert(fine, err)
  return said
end

describe("logging", function()
  local report, logging, lines, stream

  before_each(function()
    report = fake_report(false)
    logging = load_logging(report)
    lines, stream = collector()
  end)

  describe("levels", function()
    it("let WARNING and above pass unless another is set", function()
      logging.basic_config { stream = stream }
      logging.debug("d") logging.info("i") logging.warning("w") logging.error("e") logging.critical("c")
      assert.are.same({ "WARNING:root:w", "ERROR:root:e", "CRITICAL:root:c" }, lines)
    end)

    it("are names in any case, or numbers", function()
      for _, level in ipairs { "INFO", "info", 20, 20.0, "20", logging.INFO } do
        logging.basic_config { stream = stream, level = level }
        assert.are.equal(20, logging.get():get_effective_level())
      end
      logging.basic_config { stream = stream, level = "FATAL" }
      assert.are.equal(50, logging.get():get_effective_level())
    end)

    it("are refused by name when unknown", function()
      assert.has_error(function() logging.basic_config { level = "INFOS" } end,
        "unknown level 'INFOS' (the nearest is 'INFO')")
      assert.has_error(function() logging.get("a"):set_level({}) end,
        "level must be a name or an integer: table is given")
      assert.has_error(function() logging.basic_config { level = 1.5 } end)
    end)

    it("are inherited along the dots of names", function()
      logging.basic_config { stream = stream, level = "ERROR" }
      logging.get("net"):set_level("DEBUG")
      logging.get("net.http.client"):debug("shown")
      logging.get("network"):warning("hidden")
      logging.get("net.dns"):set_level("CRITICAL")
      logging.get("net.dns.cache"):error("hidden")
      logging.get("net.dns"):set_level(nil)
      logging.get("net.dns.cache"):error("shown")
      assert.are.same({ "DEBUG:net.http.client:shown", "ERROR:net.dns.cache:shown" }, lines)
    end)

    it("have numbers between, by `log`", function()
      logging.basic_config { stream = stream, level = 25 }
      logging.log(24, "hidden")
      logging.log(25, "n = %d", 25)
      logging.get("a"):log("error", "e")
      assert.are.same({ "Level 25:root:n = 25", "ERROR:a:e" }, lines)
    end)

    it("tell whether a record would be made", function()
      logging.basic_config { stream = stream, level = "INFO" }
      assert.is_true(logging.get("x"):is_enabled_for("INFO"))
      assert.is_false(logging.get("x"):is_enabled_for("DEBUG"))
    end)

    it("default to MANTICHORA_LOG_LEVEL", function()
      local getenv = os.getenv
      finally(function() os.getenv = getenv end) -- luacheck: ignore
      local wish = "debug"
      os.getenv = function(name) -- luacheck: ignore
        if name == "MANTICHORA_LOG_LEVEL" then return wish end
        return getenv(name)
      end
      logging = load_logging(report)
      assert.are.equal(10, logging.get():get_effective_level())
      logging.basic_config { stream = stream }
      assert.are.equal(10, logging.get():get_effective_level())
      logging.basic_config { stream = stream, level = "ERROR" }
      assert.are.equal(40, logging.get():get_effective_level())
      wish = "loud"
      logging.basic_config { stream = stream }
      logging.basic_config { stream = stream }
      assert.are.equal(30, logging.get():get_effective_level())
      assert.are.same({ "WARNING:mantichora:MANTICHORA_LOG_LEVEL is 'loud': DEBUG, INFO, WARNING, ERROR, CRITICAL "
        .. "or a whole number is expected" }, lines)
      lines = {}
      logging = load_logging(report) -- nothing is said before it is of use
      assert.are.same({}, lines)
      logging.add_handler(function(record) lines[#lines + 1] = record.message end)
      logging.debug("never")
      logging.error("x")
      assert.are.equal(2, #lines)
      assert.truthy(lines[1]:find("MANTICHORA_LOG_LEVEL is 'loud'", 1, true))
    end)
  end)

  describe("messages", function()
    before_each(function()
      logging.basic_config { stream = stream, level = "INFO", format = "%(message)s" }
    end)

    it("are formatted by string.format when there are arguments", function()
      logging.info('finishing "%s"', "task1")
      logging.info("100%")
      logging.info("%d items, %5.1f%%", 3, 99.5)
      logging.get("a"):info("%q", "x")
      assert.are.same({ 'finishing "task1"', "100%", "3 items,  99.5%", '"x"' }, lines)
    end)

    it("may be any value", function()
      logging.info(nil)
      logging.info(12)
      logging.info(setmetatable({}, { __tostring = function() return "an object" end }))
      logging.info()
      assert.are.same({ "nil", "12", "an object", "nil" }, lines)
    end)

    it("never make a log call raise", function()
      local broken = setmetatable({}, { __tostring = function() error("no") end })
      local said = warnings_of(function()
        logging.info("%d", "x")
        logging.info("%s %s", 1)
        logging.info("%y", 1)
        logging.info(broken)
        logging.info("%s", broken)
        logging.info(broken, 1)
      end)
      assert.are.same({
        "%d x", "%s %s 1", "%y 1", "(table that cannot be shown)", "%s (table that cannot be shown)",
        "(table that cannot be shown) 1",
      }, lines)
      assert.are.equal(5, #said)
      assert.truthy(said[1]:find("^mantichora%.logging: bad format in a log call: bad argument #2"))
    end)

    it("are not made for levels that are off", function()
      logging.debug("%s", setmetatable({}, { __tostring = function() error("made") end }))
      assert.are.same({}, warnings_of(function() logging.debug("%d", "x") end))
      assert.are.same({}, lines)
    end)
  end)

  describe("formats", function()
    local function formatted(format, datefmt)
      logging.basic_config { stream = stream, level = "INFO", format = format, datefmt = datefmt }
      logging.get("net"):info("hello")
      return table.remove(lines)
    end

    it("have fields", function()
      assert.are.equal("INFO 20 net hello 4711 100% ()", formatted(
        "%(levelname)s %(levelno)d %(name)s %(message)s %(process)d 100%% ()"))
      assert.are.equal("[INFO    ] [     net]", formatted("[%(levelname)-8s] [%(name)8s]"))
      assert.are.equal("", formatted(""))
    end)

    it("know the task, or show a hyphen", function()
      local format = "%(runid)s %(taskname)s %(runid)d %(runid)3d"
      assert.are.equal("- - -   -", formatted(format))
      report.current_runid, report.current_name = 7, "bake"
      assert.are.equal("7 bake 7   7", formatted(format))
    end)

    it("know the time", function()
      assert.truthy(formatted("%(asctime)s"):find("^%d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d,%d%d%d$"))
      assert.are.equal(os.date("%Y"), formatted("%(asctime)s", "%Y"))
      report.time = function() return 86400.25 end
      assert.are.equal(os.date("%Y-%m-%d %H:%M:%S", 86400) .. ",250 86400.25 250",
        formatted("%(asctime)s %(created).2f %(msecs)d"))
    end)

    it("are refused when wrong, by what is wrong", function()
      for format, message in pairs {
        ["%(lvlname)s"] = "format: unknown field 'lvlname' (the nearest is 'levelname')",
        ["%(name)"] = "format: '%(name)' is not of the form '%(field)s'",
        ["%s"] = "format: '%s' is not of the form '%(field)s'",
        ["100%"] = "format: '%' is not of the form '%(field)s'",
        ["%(name)q"] = "format: '%(name)q' is not of the form '%(field)s'",
        ["%(name)123s"] = "format: '%(name)123s' cannot be used",
      } do
        local fine, err = pcall(logging.basic_config, { format = format })
        assert.is_false(fine)
        assert.are.equal(message, err)
      end
      assert.has_error(function() logging.basic_config { datefmt = "%Ez" } end)
      assert.has_error(function() logging.basic_config { format = 1 } end)
    end)
  end)

  describe("basic_config", function()
    it("replaces what it set before", function()
      local more, other = collector()
      logging.basic_config { stream = stream, level = "DEBUG", format = "%(message)s" }
      logging.basic_config { stream = other }
      logging.info("hidden")
      logging.warning("shown")
      assert.are.same({}, lines)
      assert.are.same({ "WARNING:root:shown" }, more)
    end)

    it("refuses unknown options and wrong values, naming them", function()
      for message, options in pairs {
        ["unknown option 'levle' (the nearest is 'level')"] = { levle = 1 },
        ["stream must be a file or a function: number is given"] = { stream = 1 },
        ["stream must be a file or a function: string is given"] = { stream = "log.txt" },
        ["only one of the options stream, filename and logger can be used"] =
          { stream = print, filename = "x" },
        ["logger must be a LuaLogging logger: boolean is given"] = { logger = true },
      } do
        local fine, err = pcall(logging.basic_config, options)
        assert.is_false(fine)
        assert.are.equal(message, err)
      end
      assert.has_error(function() logging.basic_config(1) end)
      assert.has_error(function() logging.basic_config { filename = "/nowhere/log" } end)
    end)

    it("leaves all as it was when it refuses", function()
      logging.basic_config { stream = stream, level = "INFO" }
      pcall(logging.basic_config, { level = "LOUD", stream = print })
      logging.info("still here")
      assert.are.same({ "INFO:root:still here" }, lines)
    end)

    it("writes whole lines to a file handle, at once", function()
      local path = os.tmpname()
      local file <close> = assert(io.open(path, "w"))
      finally(function() os.remove(path) end)
      logging.basic_config { stream = file }
      logging.error("one")
      logging.error("two")
      local reader <close> = assert(io.open(path))
      assert.are.equal("ERROR:root:one\nERROR:root:two\n", reader:read("a"))
    end)

    it("appends to a file by name", function()
      local path = os.tmpname()
      finally(function() os.remove(path) end)
      logging.basic_config { filename = path }
      logging.error("one")
      logging.basic_config { filename = path }
      logging.error("two")
      local reader <close> = assert(io.open(path))
      assert.are.equal("ERROR:root:one\nERROR:root:two\n", reader:read("a"))
    end)

    it("writes to stderr by those who draw the bars", function()
      logging.basic_config { stream = io.stderr }
      logging.error("one")
      logging.basic_config()
      logging.error("two")
      assert.are.same({ "ERROR:root:one", "ERROR:root:two" }, report.lines)
    end)

    it("survives a stream that fails", function()
      local file = assert(io.open("/dev/full", "w"))
      local closed = assert(io.tmpfile())
      closed:close()
      for _, bad in ipairs { file, closed, function() error("no") end } do
        logging.basic_config { stream = bad }
        local said = warnings_of(function() logging.error("x") end)
        assert.are.equal(1, #said)
        assert.truthy(said[1]:find("^mantichora%.logging: the stream failed: "))
      end
      pcall(file.close, file)
    end)

    it("passes records on to a LuaLogging logger, whose level holds", function()
      local got = {}
      local target = { level = "INFO" }
      function target:log(level, message)
        assert.are.equal(target, self)
        got[#got + 1] = level .. " " .. message
      end
      logging.basic_config { logger = target }
      logging.debug("d") logging.info("100%% i") logging.warning("w") logging.error("e")
      logging.critical("c")
      assert.are.same({ "INFO 100%% i", "WARN w", "ERROR e", "FATAL c" }, got)
      logging.basic_config { logger = target, level = "CRITICAL", format = "%(name)s %(message)s" }
      logging.error("e") logging.get("a"):critical("c")
      assert.are.equal("FATAL a c", got[5])
      assert.are.equal(5, #got)
    end)

    it("works with the real LuaLogging", function()
      package.path = package.path .. ";/usr/share/lua/5.1/?.lua"
      local found, lualogging = pcall(require, "logging")
      if not found then return pending("lua-logging is not installed") end
      local got = {}
      local target = lualogging.new(function(_, level, message)
        got[#got + 1] = level .. " " .. message
        return true
      end)
      target:setLevel(lualogging.INFO) -- which it logs
      got = {}
      logging.basic_config { logger = target }
      logging.debug("d") logging.info("at 100%") logging.critical("c")
      assert.are.same({ "INFO at 100%", "FATAL c" }, got)
    end)
  end)

  describe("handlers", function()
    it("get records", function()
      local got = {}
      local handler = logging.add_handler(function(record) got[#got + 1] = record end)
      report.current_runid, report.current_name = 3, "third"
      local before = os.time()
      logging.get("net"):error("e %d", 1)
      assert.is_true(got[1].created >= before and got[1].created <= os.time())
      got[1].created = nil
      assert.are.same({ { name = "net", levelno = 40, levelname = "ERROR", message = "e 1",
        process = 4711, runid = 3, taskname = "third" } }, got)
      assert.is_true(logging.remove_handler(handler))
      assert.is_false(logging.remove_handler(handler))
      logging.error("not seen")
      assert.are.equal(1, #got)
    end)

    it("stand beside the stream, each once", function()
      local got = {}
      logging.basic_config { stream = stream }
      logging.get("net"):add_handler(function() got[#got + 1] = "net" end)
      logging.add_handler(function() got[#got + 1] = "root" end)
      logging.get("net.http"):error("e")
      assert.are.same({ "net", "root" }, got)
      assert.are.same({ "ERROR:net.http:e" }, lines)
      logging.get("net").propagate = false
      logging.get("net.http"):error("e")
      assert.are.same({ "net", "root", "net" }, got)
      assert.are.equal(1, #lines)
    end)

    it("take the place of stderr when nothing is configured", function()
      logging.error("to stderr")
      logging.add_handler(function() end)
      logging.error("to the handler")
      assert.are.same({ "ERROR:root:to stderr" }, report.lines)
    end)

    it("may have a level of their own", function()
      local got = {}
      logging.basic_config { stream = stream, level = "INFO" }
      logging.add_handler(function(record) got[#got + 1] = record.message end, "ERROR")
      logging.info("i") logging.error("e")
      assert.are.same({ "e" }, got)
      assert.are.same({ "INFO:root:i", "ERROR:root:e" }, lines)
    end)

    it("that raise do not disturb the others, or the caller", function()
      logging.basic_config { stream = stream }
      logging.add_handler(function() error("handler broke") end)
      local said = warnings_of(function() logging.error("e") end)
      assert.are.same({ "ERROR:root:e" }, lines)
      assert.are.equal(1, #said)
      assert.truthy(said[1]:find("a handler failed: .*handler broke"))
    end)

    it("let Ctrl-C through", function()
      logging.add_handler(function() error("interrupted!", 0) end)
      assert.has_error(function() logging.error("e") end, "interrupted!")
    end)

    it("may log, and may remove themselves", function()
      local seen = {}
      local handler
      handler = function(record)
        seen[#seen + 1] = record.message
        logging.remove_handler(handler)
        if #seen < 5 then logging.error("again") end
      end
      logging.basic_config { stream = stream }
      logging.add_handler(handler)
      logging.error("first")
      assert.are.same({ "first" }, seen)
      assert.are.same({ "ERROR:root:again", "ERROR:root:first" }, lines)
    end)

    it("must be callable", function()
      assert.has_error(function() logging.add_handler("x") end)
      local got
      logging.add_handler(setmetatable({}, { __call = function(_, record) got = record.message end }))
      logging.error("called")
      assert.are.equal("called", got)
    end)
  end)

  describe("loggers", function()
    it("are one for each name", function()
      assert.are.equal(logging.get("a.b"), logging.get("a.b"))
      assert.are.equal(logging.get(), logging.get("root"))
      assert.are.equal("a.b", logging.get("a.b").name)
      assert.are.equal("logger a.b (WARNING)", tostring(logging.get("a.b")))
      assert.has_error(function() logging.get(1) end)
    end)

    it("travel by name", function()
      local rebuild, name = getmetatable(logging.get("a.b")).__mantichora(logging.get("a.b"))
      assert.are.equal(logging.get("a.b"), rebuild(name))
    end)
  end)

  describe("in a worker", function()
    local worker

    before_each(function()
      worker = fake_report(true)
      worker.current_runid, worker.current_name = 5, "fifth"
      worker.threshold = 20
      logging = load_logging(worker)
      logging.basic_config { stream = stream }
    end)

    it("sends records to the parent and shows nothing", function()
      logging.add_handler(function(record) lines[#lines + 1] = record.message end)
      logging.get("net"):info("up %d", 1)
      logging.get("net"):add_handler(print)
      assert.are.same({}, lines)
      assert.are.same({}, worker.lines)
      assert.are.same({ "WARNING mantichora", "add_handler has no effect in a worker: levels and handlers of the "
        .. "parent decide" }, { worker.sent[1].levelname .. " " .. worker.sent[1].name, worker.sent[1].message })
      table.remove(worker.sent, 1)
      worker.sent[1].created = nil
      assert.are.same({ { name = "net", levelno = 20, levelname = "INFO", message = "up 1",
        process = 4711, runid = 5, taskname = "fifth" } }, worker.sent)
    end)

    it("lets the parent's level decide", function()
      logging.set_level("CRITICAL")
      logging.info("sent")
      worker.threshold = 30
      logging.basic_config { level = "DEBUG", stream = stream }
      logging.info("not sent")
      assert.is_true(logging.get("x"):is_enabled_for("WARNING"))
      assert.is_false(logging.get("x"):is_enabled_for("INFO"))
      assert.are.same({ "set_level has no effect in a worker: levels and handlers of the parent decide", "sent" },
        { worker.sent[1].message, worker.sent[2].message })
      assert.are.equal(2, #worker.sent)
    end)

    it("passes on what its own workers send", function()
      local record = { name = "a", levelno = 30, levelname = "WARNING", message = "m" }
      worker.receive(record)
      assert.are.equal(record, worker.sent[1])
    end)

    it("survives a way up that is closed", function()
      worker.send_log = function() error("gone") end
      local said = warnings_of(function() logging.error("x") end)
      assert.are.equal(1, #said)
    end)
  end)

  describe("in the parent", function()
    local function arrive(name, level, message)
      report.receive { name = name, levelno = level, levelname = level == 40 and "ERROR" or "INFO",
        message = message, created = 86400, process = 99, runid = 4, taskname = "task 4" }
    end

    it("tells workers the least level that may be wanted", function()
      assert.are.equal(30, report.threshold)
      logging.basic_config { stream = stream, level = "ERROR" }
      assert.are.equal(40, report.threshold)
      logging.get("net"):set_level("DEBUG")
      assert.are.equal(10, report.threshold)
      logging.get("net"):set_level(nil)
      logging.set_level("CRITICAL")
      assert.are.equal(50, report.threshold)
    end)

    it("shows arriving records with where they come from", function()
      logging.basic_config { stream = stream,
        format = "%(levelname)s:%(name)s:%(message)s %(process)d %(runid)s %(taskname)s" }
      arrive("net.http", 40, "broken")
      assert.are.same({ "ERROR:net.http:broken 99 4 task 4" }, lines)
    end)

    it("filters by its own levels, without making loggers", function()
      logging.basic_config { stream = stream, level = "ERROR" }
      logging.get("net"):set_level("INFO")
      arrive("net.http.x", 20, "shown")
      arrive("other", 20, "hidden")
      arrive("root", 40, "shown")
      assert.are.same({ "INFO:net.http.x:shown", "ERROR:root:shown" }, lines)
    end)
  end)

  it("works without the C part", function()
    logging = load_logging(false)
    local path = os.tmpname()
    finally(function() os.remove(path) end)
    logging.basic_config { stream = stream, level = "INFO", format = "%(process)s %(message)s" }
    logging.info("alone")
    assert.are.same({ "- alone" }, lines)
  end)

  it("is loaded by its name", function()
    local real = require "mantichora.logging"
    assert.are.equal(20, real.INFO)
    assert.are.equal("function", type(real.basic_config))
  end)
end)

describe("logging with workers", function()
  local function run(code)
    local path = os.tmpname()
    shell.write(path, [[
      package.path = package.path .. ";/usr/share/lua/5.1/?.lua" -- where Debian has LuaLogging
      local mantichora = require "mantichora"
      local logging = require "mantichora.logging"
    ]] .. code)
    local got = shell.run(shell.interpreter .. " " .. path)
    os.remove(path)
    assert.are.equal(0, got.status, got.err)
    return got
  end

  it("knows time, process, run and task of each record, in every engine", function()
    local got = run([[
      logging.basic_config{ level = "INFO",
        format = "%(asctime)s|%(levelname)s|%(name)s|%(process)d|%(runid)s|%(taskname)s|%(message)s" }
      logging.get("quiet"):set_level("ERROR")
      logging.get("loud"):set_level("DEBUG")
      for _, engine in ipairs{ "fork", "snapshot", "inline" } do
        local mcore <close> = mantichora{ nworkers = 1, engine = engine }
        mcore:run(function() end)
        mcore:run_with({ name = "task of " .. engine }, function()
          logging.debug("not seen")
          logging.info("seen")
          logging.get("quiet.child"):warning("not seen")
          logging.get("loud.child"):debug("seen")
        end)
        mcore:returns()
        logging.info("after")
      end]])
    local lines, parent = {}, nil
    for line in got.err:gmatch("[^\n]+") do
      local time, pid, rest
      time, rest = line:match("^(%d+%-%d%d%-%d%d %d%d:%d%d:%d%d,%d%d%d)|(.*)$")
      assert.is_truthy(time, line)
      pid, rest = rest:match("|(%d+)|"), rest:gsub("|%d+|", "|", 1)
      if rest:find("after$") then
        parent = parent or pid
        assert.are.equal(parent, pid)
      end
      lines[#lines + 1] = rest
    end
    local expected = {}
    for _, engine in ipairs { "fork", "snapshot", "inline" } do
      table.insert(expected, "INFO|root|1|task of " .. engine .. "|seen")
      table.insert(expected, "DEBUG|loud.child|1|task of " .. engine .. "|seen")
      table.insert(expected, "INFO|root|-|-|after")
    end
    assert.are.same(expected, lines)
  end)

  it("reaches a LuaLogging logger, which stays in the parent", function()
    package.path = package.path .. ";/usr/share/lua/5.1/?.lua"
    if not pcall(require, "logging") then return pending("lua-logging is not installed") end
    local got = run([[
      local lualogging = require "logging"
      local logger = lualogging.new(function(_, level, message)
        print(mantichora.is_worker(), level, message)
        return true
      end)
      logger.level = "INFO"
      logging.basic_config{ logger = logger }
      local mcore <close> = mantichora{ nworkers = 2 }
      mcore:run(function() logging.debug("no") logging.info("at 100%") logging.critical("n = %d", 7) end)
      mcore:returns()
      logging.error("mine")]])
    assert.are.equal("false\tINFO\tat 100%\nfalse\tFATAL\tn = 7\nfalse\tERROR\tmine\n", got.out)
    assert.are.equal("", got.err)
  end)

  it("needs no logging in the parent", function()
    local path = os.tmpname()
    shell.write(path, [[
      local mantichora = require "mantichora"
      local mcore <close> = mantichora{ nworkers = 1 }
      mcore:run(function()
        local logging = require "mantichora.logging"
        logging.info("not seen")
        logging.get("a.b"):warning("seen")
      end)
      mcore:returns()
      io.stderr:write("returned\n")]])
    local got = shell.run(shell.interpreter .. " " .. path)
    os.remove(path)
    assert.are.equal("WARNING:a.b:seen\nreturned\n", got.err)
  end)
end)
