-- What all benchmarks share: programs take turns, round after round, and rows of ratios come out.
--
-- A benchmark is a file that returns bench.main(definition). The definition:
--
--   name      of the file
--   size      of the work; `quick` for a run that only shows that it works
--   rounds    that are counted, fewer where they take long; one more comes before them, to warm up
--   ours      programs in Lua, by name: function(size) returning a function that does one round and
--             returns its numbers (seconds, mostly), and perhaps one that ends it; or nil and why not
--   programs  function(size) returning those which take turns, in order: { name, words of the command }
--             by bench.ours(name, size), bench.limit(name, ...) or bench.python(name, ...); `times`: a
--             turn is so many rounds, whose median counts (1)
--   rows      function(size) returning rows: `work`, `unit`, `ours(f)`, `against`, `theirs(f)`, `target`.
--             f[name] is the number with which a program answered in a round, or the list of them. A
--             target is { "<=" or ">=", number }, and is for the ratio ours / theirs; { ..., of = "ours" }
--             is for our own figure. Rows with a `label` are in the README and its picture; `side` says
--             against whom they compare: "limit" or "Python".
--
-- Run alone, it prints its rows: lua5.4 scripts/bench/NAME.lua [--quick] [--rounds N]
-- scripts/bench/all.lua runs all of them. The module is that of build/, or where LUA_CPATH says.

local programs = require "support.programs"
local report = require "support.report"
local stats = require "support.stats"

local bench = {}

local SECONDS = 30 -- after which a benchmark has rounds enough, if it has three

local folder = arg[0]:match("^(.*)/[^/]*$") or "."
local defining -- the name of the benchmark whose programs are being told

function bench.ours(name, size)
  return { "lua5.4", ("%s/%s.lua"):format(folder, defining), "--serve", name, size, ours = true }
end

--- A peer in Lua that may be missing: its function among `ours` returns nil and why.
function bench.peer(name, size)
  local words = bench.ours(name, size)
  words.ours = false
  return words
end

--- The same command with more variables, each NAME=value.
function bench.with(words, ...)
  local longer = { "env", ours = words.ours }
  for i = 1, select("#", ...) do longer[#longer + 1] = select(i, ...) end
  return table.move(words, 1, #words, #longer + 1, longer)
end

--- The same command, drawing bars as on a terminal, for nobody.
function bench.drawing(words)
  local quiet = { "env", "MANTICHORA_PROGRESS=bar", "sh", "-c", 'exec "$@" 2>/dev/null', "sh", ours = words.ours }
  return table.move(words, 1, #words, #quiet + 1, quiet)
end

function bench.limit(name, ...) return { programs.limit(name), ... } end

function bench.python(name, ...)
  return { programs.python(), folder .. "/support/peers.py", name, ... }
end

--- The module of limits/lua_limits.c.
bench.limits = programs.lua_limits

-- Be one of our own programs.
local function serve(definition, name, size)
  programs.use_build()
  local round, finish = definition.ours[name](size)
  if not round then return print(finish) end
  io.stdout:setvbuf("line")
  print("ready")
  for _ in io.lines() do print(round()) end
  if finish then finish() end
end

-- What a program answers in its turn: a number, or several.
local function one_turn(entry)
  local columns = {}
  for i = 1, entry.times do
    for column, number in ipairs(entry.program:ask()) do
      columns[column] = columns[column] or {}
      columns[column][i] = number
    end
  end
  for column, numbers in ipairs(columns) do columns[column] = stats.summary(numbers).median end
  return #columns == 1 and columns[1] or columns
end

local MISSING = {} -- raised by a row that asks for the figure of a program which is not there
local figures_meta = { __index = function() error(MISSING) end }

-- The figures of a round: those of each program that answers.
local function one_round(list)
  local figures = setmetatable({}, figures_meta)
  for _, entry in ipairs(list) do figures[entry.name] = one_turn(entry) end
  return figures
end

-- Start what can be started. A missing peer is told, and is no reason to stop; ours is.
local function start(definition, size)
  local running, missing = {}, {}
  defining = definition.name
  for _, entry in ipairs(definition.programs(size)) do
    local name, words = entry[1], entry[2]
    local program, why = programs.start(words)
    if program then
      running[#running + 1] = { name = name, program = program, times = entry.times or 1 }
    else
      if words.ours then error(("%s of %s: %s (is it built?)"):format(name, definition.name, why), 0) end
      missing[#missing + 1] = ("%s: %s: %s"):format(definition.name, name, why)
    end
  end
  return running, missing
end

-- What `f` makes of the figures of each round; nil if one is missing.
local function each(rounds, f)
  local values = {}
  for i, figures in ipairs(rounds) do
    local fine, value = pcall(f, figures)
    if value == MISSING then return nil end
    values[i] = fine and value or error(value, 0)
  end
  return values
end

-- One row from the figures of all rounds; without `theirs` and `ratio` where a peer is missing.
local function make_row(definition, row, rounds)
  local ours, theirs = each(rounds, row.ours), each(rounds, row.theirs)
  if not ours then return {} end
  local made = {
    name = definition.name, work = row.work, unit = row.unit, against = row.against, target = row.target,
    label = row.label, side = row.side, ours = stats.summary(ours),
  }
  if theirs then
    local ratios = {}
    for i = 1, #rounds do ratios[i] = ours[i] / theirs[i] end
    made.theirs, made.ratio = stats.summary(theirs), stats.summary(ratios)
  end
  local judged = row.target and (row.target.of == "ours" and made.ours or made.ratio)
  if judged then
    local value, bound = judged.median, row.target[2]
    made.met = row.target[1] == ">=" and value >= bound or row.target[1] == "<=" and value <= bound
  end
  return made
end

--- Run a benchmark: its rows.
function bench.run(definition, options)
  local size = options.quick and definition.quick or definition.size
  local running, missing = start(definition, size)
  local count, rounds = options.rounds or options.quick and 1 or definition.rounds, {}
  if not options.quick then one_round(running) end
  local deadline = os.time() + SECONDS
  while #rounds < count and (#rounds < 3 or os.time() < deadline) do rounds[#rounds + 1] = one_round(running) end
  for _, entry in ipairs(running) do entry.program:stop() end
  local rows = {}
  for _, row in ipairs(definition.rows(size)) do
    local made = make_row(definition, row, rounds)
    if made.ratio or made.target then rows[#rows + 1] = made end
  end
  rows.missing = missing
  return rows
end

--- The command line's options: `quick`, `rounds`, and the other words in order.
function bench.options(words)
  local options, i = {}, 1
  while words[i] do
    if words[i] == "--quick" then
      options.quick = true
    elseif words[i] == "--save" then
      options.save = true
    elseif words[i] == "--rounds" then
      i = i + 1
      options.rounds = assert(math.tointeger(tonumber(words[i])), "--rounds wants a number")
    else
      options[#options + 1] = words[i]
    end
    i = i + 1
  end
  return options
end

--- The end of each benchmark's file: where the file is the program, run it. Returns the definition.
function bench.main(definition)
  if arg[0]:match("([^/]*)%.lua$") ~= definition.name then return definition end
  if arg[1] == "--serve" then
    serve(definition, arg[2], tonumber(arg[3]))
  else
    local rows = bench.run(definition, bench.options(arg))
    print(report.machine() .. "\n")
    report.print(rows)
  end
end

return bench
