-- mantichora busted: busted's own runner, with the files of specs run in workers.
--
-- The runner loads all, as ever. In the place of running a file, its events are awaited from a worker (a fork of
-- this process) that runs it, and published here, so that the output handler hears them in the order of files.

local core = require "mantichora.commands.core"
local mantichora = require "mantichora"
local nearest = require "commands.nearest"
local replay = require "commands.replay"
local streams = require "mantichora.commands.streams"

local wrong_use = 255

local function complain(message)
  io.stdout:flush()
  io.stderr:write("mantichora busted: ", message, "\n")
  return wrong_use
end

-- --- the command line ---------------------------------------------------------------------------

local help = [[
usage: mantichora busted [options] [options of busted] [ROOT..]
Runs busted's specs on all processors, a file at a time in each worker, and prints what busted prints, in
the order of the files.

Options are:
  -j N               workers: a number, or auto (default): as many as processors
  --timeout S        seconds that a file may take; it fails then
  --journal FILE     notes in this journal how long files take, and begins with the slowest
  --help             print this text

Each file runs in a process of its own, which has TEST_WORKER in its environment: a number from 1 to the
number of workers, which no other has at the same time. With --no-auto-insulate all files run in one process.

]]

-- Those of busted's options that take an argument, and the flags; the latter also with --no-.
local with_argument = {
  "-p", "--pattern", "--exclude-pattern", "-e", "-o", "--output", "-C", "--directory", "-f", "--config-file",
  "--coverage-config-file", "-t", "--tags", "--exclude-tags", "--filter", "--filter-out", "-m", "--lpath",
  "--cpath", "-r", "--run", "--repeat", "--seed", "--lang", "--loaders", "--helper", "--lua", "-Xoutput",
  "-Xhelper",
}
local flags = {
  "--version", "--help", "-h", "--ignore-lua", "-c", "--coverage", "-v", "--verbose", "-s", "--enable-sound", "-l",
  "--list", "--lazy", "--auto-insulate", "-k", "--keep-going", "-R", "--recursive", "--shuffle",
  "--shuffle-files", "--shuffle-tests", "--sort", "--sort-files", "--sort-tests", "--suppress-pending",
  "--defer-print",
}
local ours = { "-j", "--timeout", "--journal" }

local takes, names = {}, {}
for _, name in ipairs(ours) do names[#names + 1] = name end
for _, name in ipairs(with_argument) do
  takes[name] = true
  names[#names + 1] = name
end
local is_flag = {}
for _, name in ipairs(flags) do
  is_flag[name] = true
  names[#names + 1] = name
  if name:sub(1, 2) == "--" then is_flag["--no-" .. name:sub(3)] = true end
end

local readers = {}

readers["-j"] = function(text)
  local number = text:match("^%d+$") and math.tointeger(tonumber(text))
  if text == "auto" then return mantichora.cpu_count() end
  if number and number >= 1 and number <= 4096 then return number end
  return nil, "a number from 1 to 4096, or auto"
end

readers["--timeout"] = function(text)
  local number = text:match("^[%d.eE+-]+$") and tonumber(text)
  if number and number > 0 and number < math.huge then return number end
  return nil, "a number of seconds above 0"
end

readers["--journal"] = function(text) return text end

-- An option of ours and its argument, if that stands in the word.
local function split(word)
  local name, argument = word:match("^(%-%-[^=]*)=(.*)$")
  if not name and word:match("^%-j.") then name, argument = "-j", word:sub(3) end
  name = name or word
  return readers[name] and name, argument
end

-- Whether busted knows the word; and whether its argument is the next one.
local function of_busted(word)
  local name = word:match("^(%-%-[^=]+)=") or word:match("^(%-%a)=")
  if name then return takes[name] ~= nil, false end
  if takes[word] then return true, true end
  return is_flag[word] ~= nil, false
end

-- What is ours of the words, and the rest; or nil and a message.
local function read(words)
  local found, rest, at = {}, {}, 1
  while at <= #words do
    local word = words[at]
    local name, argument = split(word)
    at = at + 1
    if word == "--" then
      table.move(words, at - 1, #words, #rest + 1, rest)
      break
    elseif name then
      if not argument then
        argument, at = words[at], at + 1
        if not argument then return nil, ("option '%s' needs an argument (see --help)"):format(name) end
      end
      local value, expected = readers[name](argument)
      if value == nil then
        return nil, ("option '%s' must be %s: '%s' is given"):format(name, expected, argument)
      end
      found[name] = value
    elseif word:sub(1, 1) == "-" and word ~= "-" then
      local known, needs = of_busted(word)
      if not known then
        return nil, ("unknown option '%s' (did you mean '%s'?)"):format(word, nearest(word:match("^[^=]*"), names))
      end
      if word == "--help" or word == "-h" then found.help = true end
      rest[#rest + 1] = word
      if needs then
        rest[#rest + 1], at = words[at], at + 1
      end
    else
      rest[#rest + 1] = word
    end
  end
  return found, rest
end

-- --- events -------------------------------------------------------------------------------------

-- Who listens to the runner's busted, and where: "handler" here only, "helper" in workers only, other
-- listeners (the runner's counts) in both.
local function instrument(busted, run)
  local subscribe, publish, register = busted.subscribe, busted.publish, busted.register

  -- A predicate that says no lets others hear, and stands in no traceback.
  function busted.subscribe(channel, listener, options)
    local phase = run.phase
    local here_only = phase == "handler" or phase == "filter" and channel[1] ~= "register"
    if not here_only and phase ~= "helper" then return subscribe(channel, listener, options) end
    if phase == "handler" and not (options and options.priority) then
      run.flushes[table.concat(channel, " ")] = true
    end
    local hears = options and options.predicate
    local own = { priority = options and options.priority }
    function own.predicate(...)
      if here_only and run.recorder or not here_only and run.replaying then return false end
      return not hears or hears(...)
    end
    return subscribe(channel, listener, own)
  end

  function busted.publish(channel, ...)
    if run.recorder and channel[1] ~= "register" then run.record(channel, ...) end
    return publish(channel, ...)
  end

  -- The runner of files, which is ours from now on.
  function busted.register(descriptor, executor, attributes)
    if descriptor == "file" and type(executor) == "function" and not run.execute_file then
      run.execute_file = executor
      executor = function(file)
        if run.insulates then return run.await(file) end
        return run.execute_file(file)
      end
    end
    return register(descriptor, executor, attributes)
  end
end

-- --- in a worker --------------------------------------------------------------------------------

-- What a handler writes has its place in stdout, which may be buffered. There a mark is written.
local function recording(run, file)
  local busted, out = run.busted, io.stdout
  local root = busted.context.get()
  local prepare, count = replay.recorder(busted, root, file), 0
  run.recorder = prepare
  function run.record(channel, ...)
    count = count + 1
    mantichora.emit(channel, prepare(channel, ...))
    pcall(out.write, out, run.mark, ("%08x"):format(count))
    local path = channel[1]
    local flush = run.flushes[path]
    for i = 2, #channel do
      path = path .. " " .. tostring(channel[i])
      flush = flush or run.flushes[path]
    end
    if flush and run.output ~= "junit" then pcall(out.flush, out) end
  end
end

-- The counters of luacov that this file alone moves. Its own saving would race with other workers.
local function counters(hook)
  local luacov = package.loaded["luacov.runner"]
  if type(luacov) ~= "table" or not luacov.initialized then return nil end
  luacov.data, luacov.tick = {}, false
  luacov.save_stats = function() end
  -- A hook is a thread's own, and a task may run in another.
  if not debug.gethook() then debug.sethook(table.unpack(hook, 1, hook.n)) end
  return luacov
end

local function run_file(run, file, saying, slot)
  local busted = run.busted
  saying:take()
  if run.is_terminal then io.stdout:setvbuf("line") end
  streams.setenv("TEST_WORKER", tostring(slot))
  -- The parent stands in the file whose turn it is.
  busted.context.pop()
  local root = busted.context.get()
  local luacov = counters(run.hook)
  recording(run, file)
  busted.safe("file", function() run.execute_file(file) end, file)
  require "busted.block"(busted).lazyTeardown(root)
  io.stdout:flush()
  return luacov and luacov.data
end

-- --- here ---------------------------------------------------------------------------------------

local function merge_counters(data)
  local luacov = package.loaded["luacov.runner"]
  if type(data) ~= "table" or not luacov then return end
  for name, lines in pairs(data) do
    local sum = luacov.data[name] or { max = 0, max_hits = 0 }
    luacov.data[name] = sum
    sum.max = math.max(sum.max, lines.max)
    lines.max, lines.max_hits = nil, nil
    for line, hits in pairs(lines) do
      sum[line] = (sum[line] or 0) + hits
      sum.max_hits = math.max(sum.max_hits, sum[line])
    end
  end
end

-- In which order files begin: those that the journal does not know, then the slowest first.
local function in_order(run, jobs)
  local order = table.move(jobs, 1, #jobs, 1, {})
  local file = run.journal and require "mantichora.journal".look(run.journal)
  if not file then return order end
  for i, job in ipairs(jobs) do
    local row = file:rows("SELECT elapsed FROM tasks WHERE name = ?1 AND place = 'busted' ORDER BY id DESC LIMIT 1",
      job.file.name)()
    job.number, job.expected = i, row and row.elapsed or math.huge
  end
  table.sort(order, function(a, b)
    if a.expected ~= b.expected then return a.expected > b.expected end
    return a.number < b.number
  end)
  return order
end

-- So long a file took.
local function note_time(run, job, event)
  local journal = run.journal and require "mantichora.journal".of(run.journal)
  if not journal or not event.elapsed then return end
  journal:put(journal:key("busted", job.file.name), { kind = event.kind, name = job.file.name, place = "busted",
    elapsed = event.elapsed, exitcode = event.exitcode, signal = event.signal })
end

-- The files from this one on, each with what is known of its run.
local function plan(run, first)
  local busted = run.busted
  local root = busted.context.parent(first)
  local jobs, found = {}, false
  for _, child in ipairs(busted.context.children(root)) do
    found = found or child == first
    if found and child.descriptor == "file" then
      jobs[#jobs + 1] = { file = child, events = {}, heard = 0, played = 0, text = "", errors = "", out = 0, err = 0 }
    end
  end
  run.jobs, run.next_job, run.by_runid = jobs, 1, {}
  for _, job in ipairs(jobs) do jobs[job.file] = job end
  run.order = in_order(run, jobs)
  run.slots = {}
  for slot = 1, run.workers do run.slots[slot] = false end
end

local function free_slot(run)
  for slot, job in ipairs(run.slots) do
    if not job then return slot end
  end
end

-- Begin files while workers are free.
local function begin(run)
  while run.order[run.next_job] and not run.busted.skipAll do
    local slot = free_slot(run)
    if not slot then return end
    local job = run.order[run.next_job]
    run.next_job = run.next_job + 1
    job.streams, job.slot, run.slots[slot] = streams.open(), slot, job
    job.player = replay.player(run.busted, run.busted.context.parent(job.file), job.file)
    io.stdout:flush()
    run.beginning, run.hook = job, table.pack(debug.gethook())
    job.runid = run.pool:run_with({ name = job.file.name, journal = false }, function()
      return run_file(run, job.file, job.streams, slot)
    end)
    run.by_runid[job.runid] = job
  end
end

local function play(run, job)
  job.played = job.played + 1
  local values = job.events[job.played]
  job.events[job.played] = nil
  run.replaying = true
  job.player.publish(values[1], values[2], values[3])
  run.replaying = false
end

-- What it has said by now. Once it has ended its files are closed: many may wait for one that is slow.
local function listen(job)
  if not job.streams then return end
  local text = job.streams:get(1, job.out)
  job.out, job.text = job.out + #text, job.text .. text
  if not job.streams:are_one() then
    text = job.streams:get(2, job.err)
    job.err, job.errors = job.err + #text, job.errors .. text
  end
  if not job.ended then return end
  job.streams:close()
  job.streams = nil
end

local function say_errors(job)
  if job.errors ~= "" then io.stderr:write(job.errors) end
  job.errors = ""
end

-- Whether an event tells that a test was stopped for the time-out. What follows in that file is not its own.
local function tells_stop(values)
  local message = values[3][3] and values[3][3].value
  return values[1][1] == "error" and type(message) == "string" and message:find("task stopped", 1, true) ~= nil
end

-- Print what the file has said up to the events that have come, and play them.
local function catch_up(run, job)
  listen(job)
  say_errors(job)
  local text, at = job.text, 1
  while true do
    local from, to = text:find(run.mark, at, true)
    local number = from and tonumber(text:sub(to + 1, to + 8), 16)
    if not number or #text < to + 8 or number > job.played and job.events[number] == nil then break end
    if run.timeout and not job.ended and job.events[number] and tells_stop(job.events[number]) then break end
    io.stdout:write(text:sub(at, from - 1))
    at = to + 9
    if job.failure and job.events[number] and tells_stop(job.events[number]) then break end
    while job.played < number do play(run, job) end
  end
  job.text = text:sub(at)
end

-- How a file's worker ended that did not finish.
local function story(run, job)
  local failure, what = job.failure
  if failure.kind == "timeout" then
    what = ("took longer than %g s and was stopped"):format(run.timeout)
  elseif failure.kind == "killed" then
    what = "crashed: " .. failure.message
  elseif failure.kind == "exited" then
    what = "left its process: " .. failure.message
  else
    what = "could not be run to its end: " .. failure.message
  end
  return ("%s: this file %s"):format(job.file.name, what)
end

local function finish(run, job)
  catch_up(run, job)
  io.stdout:write((job.text:gsub(run.mark .. ("%x"):rep(8), "")))
  while job.events[job.played + 1] and not (job.failure and tells_stop(job.events[job.played + 1])) do
    play(run, job)
  end
  if job.failure then
    run.replaying = true
    job.player.abort(story(run, job))
    run.replaying = false
  end
  job.text, job.events = nil, nil
end

-- Something of the pool, for a tenth of a second at most.
local function move_on(run)
  local runid, value = run.pool:receive_one(0.1)
  local job = runid and run.by_runid[runid]
  if not job then return end
  run.slots[job.slot] = false
  job.ended = true
  listen(job)
  if mantichora.is_failure(value) then job.failure = value else merge_counters(value) end
end

local function await(run, file)
  if not (run.jobs and run.jobs[file]) then plan(run, file) end
  local job = run.jobs[file]
  run.jobs[file] = nil
  begin(run)
  while not job.ended do
    catch_up(run, job)
    move_on(run)
    begin(run)
  end
  finish(run, job)
end

-- Ctrl-C must not be told as an error of this file by busted, which catches all.
local function await_or_leave(run, file)
  local fine, problem = xpcall(await, function(problem)
    if tostring(problem):find("interrupted!", 1, true) then return false end
    return debug.traceback(problem)
  end, run, file)
  if fine then return end
  if problem then error(problem, 0) end
  pcall(run.pool.terminate, run.pool)
  pcall(run.pool.close, run.pool)
  io.stdout:flush()
  os.exit(130)
end

local function open_pool(run)
  local pool = mantichora {
    engine = "snapshot", nworkers = run.workers, progressbar = false, on_error = "return",
    timeout = run.timeout, name = "busted", journal = run.journal and { path = run.journal, keep = "none" } or false,
  }
  pool:on(function(event)
    if event.event == "ended" and run.by_runid[event.runid] then note_time(run, run.by_runid[event.runid], event) end
    if event.event ~= "emitted" then return end
    local job = run.by_runid[event.runid] or run.beginning
    job.heard = job.heard + 1
    job.events[job.heard] = event.values
  end)
  return pool
end

-- --- the runner ---------------------------------------------------------------------------------

-- The program busted, for those who look at arg[0].
local function find_program()
  for folder in (os.getenv("PATH") or ""):gmatch("[^:]+") do
    local path = folder .. "/busted"
    local file = io.open(path)
    if file then
      file:close()
      return path
    end
  end
  return "busted"
end

-- Modules of busted that its runner takes once, replaced until it has them.
local function replace(replaced, name, make)
  local original = require(name)
  replaced[name] = original
  package.loaded[name] = make(original)
end

local function restore(replaced, ...)
  for _, name in ipairs { ... } do
    package.loaded[name] = replaced[name]
  end
end

local runner_modules = { "busted.core", "busted.modules.cli", "busted.modules.filter_loader",
  "busted.modules.helper_loader", "busted.modules.output_handler_loader" }

-- What is subscribed inside of a loader belongs to its phase.
local function in_phase(run, replaced, name, phase)
  replace(replaced, name, function(make)
    return function(...)
      local load_it = make(...)
      return function(...)
        local before = run.phase
        run.phase = phase
        local results = table.pack(load_it(...))
        run.phase = before
        return table.unpack(results, 1, results.n)
      end
    end
  end)
end

local function prepare(run)
  local replaced = {}
  replace(replaced, "busted.core", function(make)
    return function()
      run.busted = make()
      instrument(run.busted, run)
      return run.busted
    end
  end)
  replace(replaced, "busted.modules.cli", function(make)
    return function(...)
      local cli = make(...)
      local parse = cli.parse
      function cli.parse(...)
        restore(replaced, table.unpack(runner_modules))
        local given, message = parse(...)
        if given then run.insulates, run.output = given["auto-insulate"], given.output end
        return given, message
      end
      return cli
    end
  end)
  in_phase(run, replaced, "busted.modules.filter_loader", "filter")
  in_phase(run, replaced, "busted.modules.helper_loader", "helper")
  in_phase(run, replaced, "busted.modules.output_handler_loader", "handler")
  replace(replaced, "busted.execute", function(make)
    return function(busted)
      restore(replaced, "busted.execute")
      local execute = make(busted)
      return function(...)
        execute(...)
        if not run.pool then return end
        run.pool:terminate()
        run.pool:close()
      end
    end
  end)
end

local function was_interrupted(problem) return tostring(problem):find("interrupted!", 1, true) ~= nil end

-- It comes as an error message.
local function help_of_busted()
  local cli = require "busted.modules.cli" { standalone = false, output = "plainTerminal" }
  local _, text = cli:parse { "--help" }
  text = tostring(text):match("\nARGUMENTS:.*$") or ""
  return "busted's own are:\n" .. text:gsub("; re%-run with %-%-help for usage%.$", "")
end

-- An error that the runner lets through is told as if busted had been the script.
local function start(program)
  local name = arg[-1] or "mantichora"
  local script = assert(load("\n\nrequire 'busted.runner' { standalone = false }", "@" .. program))
  local fine, problem = xpcall(script, function(problem)
    if was_interrupted(problem) then return "interrupted!" end
    return debug.traceback(tostring(problem), 2)
  end)
  if fine then return 0 end
  if was_interrupted(problem) then return 130 end
  local _, last = problem:find(program .. ":3: in main chunk\n", 1, true)
  if last then problem = problem:sub(1, last) .. "\t[C]: in ?" end
  io.stdout:flush()
  io.stderr:write(name, ": ", problem, "\n")
  return 1
end

local function main(words)
  local given, rest = read(words)
  if not given then return complain(rest) end
  if given["--journal"] and not pcall(require, "mantichora.journal") then
    return complain("--journal needs SQLite and libsodium, which this program was built without (Debian: "
      .. "libsqlite3-dev libsodium-dev)")
  end
  if not pcall(require, "busted.runner") then
    return complain("busted is not installed (Debian: lua-busted), or not for this Lua")
  end
  if given.help then
    io.stdout:write(help, help_of_busted())
    io.stdout:flush()
    return 0
  end
  local run = { workers = given["-j"] or mantichora.cpu_count(), timeout = given["--timeout"], flushes = {},
    journal = given["--journal"] and core.absolute(given["--journal"]) }
  run.mark = "\0mantichora:" .. tostring(run):match("0x(%x+)") .. ("%x"):format(os.time()) .. ":"
  run.is_terminal = require "term".isatty(io.stdout)
  function run.await(file)
    run.pool = run.pool or open_pool(run)
    return await_or_leave(run, file)
  end
  prepare(run)
  local program = find_program()
  rest[0], rest[-1] = program, arg and arg[-1] or nil
  arg = rest -- luacheck: globals arg
  core.watch_reader()
  return start(program)
end

return function(_, ...)
  return main { ... }
end
