-- The options of map, filter and run: a table of them, what --help prints of it, and what stands on
-- a command line. Nothing here acts on an option.

local nearest_of = require "commands.nearest"

local options = {}

local usages = {
  map = [[
usage: mantichora map [options] 'EXPR' [FILE..]
       mantichora map [options] -f FILE.lua [FILE..]
Prints what EXPR, an expression or a chunk of Lua, makes of each item of the files (or of stdin), on all
processors, in the order of the items. `_` is the item, `i` its number; nil prints no line.]],
  filter = [[
usage: mantichora filter [options] 'EXPR' [FILE..]
       mantichora filter [options] -f FILE.lua [FILE..]
Prints the items of the files (or of stdin) for which EXPR is true, as they stand in the input. `_` is
the item, `i` its number; nil, false and null are not true.]],
  run = [[
usage: mantichora run [options] 'CMD {}' [FILE..]
Runs a command of the shell for each item of the files (or of stdin), on all processors, and prints what
they say in the order of the items. `{}` is the item as one word, `{#}` its number; without `{}` the item
comes last.]],
}

local function one_of(...)
  local words = { ... }
  return function(text)
    for _, word in ipairs(words) do
      if text == word then return word end
    end
    return nil, table.concat(words, ", ", 1, #words - 1) .. " or " .. words[#words]
  end
end

local function whole(least, expected)
  return function(text)
    local number = text:match("^%d+$") and math.tointeger(tonumber(text))
    if number and number >= least then return number end
    return nil, expected
  end
end

local function workers(text)
  if text == "auto" then return text end
  local number = whole(1)(text)
  if number and number <= 4096 then return number end
  return nil, "a number from 1 to 4096, or auto"
end

local function seconds(text)
  local number = text:match("^[%d.eE+-]+$") and tonumber(text)
  if number and number > 0 and number < math.huge then return number end
  return nil, "a number of seconds above 0"
end

local function halt(text)
  local expected = "never, soon,fail=N, now,fail=N or one with a share as fail=P%"
  if text == "never" then return { when = "never" } end
  local when, number, percent = text:match("^(%l+),fail=(%d+%.?%d*)(%%?)$")
  number = tonumber(number)
  if when ~= "soon" and when ~= "now" or not number or number <= 0 then return nil, expected end
  if percent == "%" then
    if number > 100 then return nil, expected end
    return { when = when, share = number / 100 }
  end
  if not math.tointeger(number) then return nil, expected end
  return { when = when, count = math.tointeger(number) }
end

local function any(text) return text end

-- In the order of --help. `value`: what stands for the argument; `check` returns the value, or nil and
-- what is expected.
local known = {
  { "-j", value = "N", check = workers, text = "workers: a number, or auto (default): as many as processors" },
  { "--in", value = "FORMAT", check = one_of("jsonl", "lines", "nul", "csv"),
    text = "what an item is: jsonl, lines, nul or csv" },
  { "--no-header", text = "CSV in has no header: an item is a list" },
  { "--out", value = "FORMAT", check = one_of("jsonl", "lines", "nul", "csv"), verbs = "map filter",
    text = "what is printed; default: as --in" },
  { "-f", value = "FILE.lua", check = any, verbs = "map filter",
    text = "the file returns a function of item and number; stands for EXPR" },
  { "-l", value = "mod", check = any, repeats = true, text = "require a library, as lua does" },
  { "-e", value = "'CODE'", check = any, repeats = true, text = "run code before the first item" },
  { "--unordered", text = "print results as they come" },
  { "--tag", text = "print the item and a tab before each line" },
  { "--results", value = "DIR", check = any,
    text = "also keep DIR/N/item, stdout, stderr and status for the item of number N" },
  { "--joblog", value = "FILE", check = any, text = "write GNU parallel's table of jobs" },
  { "--journal", value = "FILE", check = any, text = "resume: what this file has as done is not done again" },
  { "--halt", value = "WHEN", check = halt,
    text = "never, soon,fail=N or now,fail=P%: when failures end it all" },
  { "--retries", value = "N", check = whole(0, "a whole number"), text = "extra attempts after a failure" },
  { "--timeout", value = "S", check = seconds, text = "seconds that an item may take" },
  { "--bar", text = "show on stderr how many items are done" },
  { "--dry-run", text = "print what would be done, and do nothing" },
  { "--skip-bad", text = "tell bad input, and do not count it as failed" },
  { "--help", text = "print this text" },
}

local function is_for(option, verb)
  return not option.verbs or (" " .. option.verbs .. " "):find(" " .. verb .. " ", 1, true) ~= nil
end

--- The text of --help.
function options.help(verb)
  local lines = { usages[verb], "Options are:" }
  for _, option in ipairs(known) do
    if is_for(option, verb) then
      local left = option[1] .. (option.value and " " .. option.value or "")
      lines[#lines + 1] = ("  %-18s %s"):format(left, option.text)
    end
  end
  lines[#lines + 1] = "--in is " .. (verb == "run" and "lines" or "jsonl") .. " and --halt "
    .. (verb == "run" and "never" or "soon,fail=1") .. ", if nothing is said."
  lines[#lines + 1] = [[
Exit status: 0; 1 to 100: so many items failed; 101: more; 130: Ctrl-C; 141: the reader is gone; 255: it
was used wrong or could not go on.]]
  return table.concat(lines, "\n") .. "\n"
end

local function nearest(word, verb)
  local names = {}
  for _, option in ipairs(known) do
    if is_for(option, verb) then names[#names + 1] = option[1] end
  end
  return nearest_of(word, names)
end

local function find(name, verb)
  for _, option in ipairs(known) do
    if option[1] == name and is_for(option, verb) then return option end
  end
end

-- The option that a word names, and its argument if that stands in the word: --in=csv, -j4.
local function split(word, verb)
  local name, argument = word:match("^(%-%-[^=]*)=(.*)$")
  if name then return find(name, verb), argument, name end
  if word:match("^%-%-") then return find(word, verb), nil, word end
  name, argument = word:sub(1, 2), word:sub(3)
  return find(name, verb), argument ~= "" and argument or nil, word
end

--- Read a command line. Returns a table of options by name without hyphens, with the other words in
-- `words`, and a list `before` of {"l" or "e", text} in order; or nil and a message.
function options.read(verb, arguments)
  local found, at, only_words = { words = {}, before = {} }, 1, false
  while at <= #arguments do
    local word = arguments[at]
    at = at + 1
    if only_words or word == "-" or word:sub(1, 1) ~= "-" then
      table.insert(found.words, word)
    elseif word == "--" then
      only_words = true
    else
      local option, argument, name = split(word, verb)
      if not option then
        local hint = #found.words == 0 and not name:match("^%-%-") and "; what begins with - may stand after --" or ""
        return nil, ("unknown option '%s' (did you mean '%s'?%s)"):format(name, nearest(name, verb), hint)
      end
      name = option[1]:gsub("^%-+", "")
      if option.value then
        if not argument then
          argument, at = arguments[at], at + 1
          if not argument then return nil, ("option '%s' needs %s"):format(option[1], option.value) end
        end
        local value, expected = option.check(argument)
        if value == nil then
          return nil, ("option '%s' must be %s: '%s' is given"):format(option[1], expected, argument)
        end
        if option.repeats then
          table.insert(found.before, { name, value })
        else
          found[name] = value
        end
      elseif argument then
        return nil, ("option '%s' takes no argument: '%s' is given"):format(option[1], argument)
      else
        found[name] = true
      end
    end
  end
  return found
end

return options
