-- What the prompt says besides values, and what it has without `require`. Loaded by bindings/host/repl.c with
-- the table of this state's pools, what makes the text of a value, and the function `help`; returns functions
-- that it calls.

local readable, pools, tell = ...

local globals, next, pcall, rawget, rawset, require, type = _G, next, pcall, rawget, rawset, require, type
local getmetatable = debug.getmetatable
local concat = table.concat
local match = string.match

local print, select = print, select
local MOST = 20 -- failures that are told one by one, of those that come together

-- What the prompt has as `help`.
local function help(...)
  if select("#", ...) > 0 and (...) == help then return help() end
  if tell(...) then return end
  local value = ...
  print(type(value) == "string" and ("Nothing is known by the name %q. help() shows what there is."):format(value)
    or ("This %s is none of mantichora's. help() shows what there is."):format(type(value)))
end

local prompt = {}

-- Set what is there without `require`, where nothing is; the line of the banner.
function prompt.open()
  local modules = { mantichora = "mantichora", atpbar = "mantichora.atpbar", logging = "mantichora.logging" }
  for name, module in next, modules do
    if rawget(globals, name) == nil then
      local good, value = pcall(require, module)
      if good then rawset(globals, name, value) end
    end
  end
  if rawget(globals, "help") == nil then rawset(globals, "help", help) end
  return "help() shows what there is. To leave: Ctrl-D.\n"
end

local HELP = "help() shows what there is, help(value) what a function or module of mantichora is for.\n"
local LEAVE = "To leave: Ctrl-D, or os.exit().\n"
local hints = { help = HELP, ["?"] = HELP, exit = LEAVE, quit = LEAVE }

-- What people type who do not know how it is called here; nil: it is something else, or a global of theirs.
function prompt.hint(line)
  local word = match(line, "^%s*([%a?]+)%s*$")
  if not hints[word] then return nil end
  local value = rawget(globals, word)
  return (value == nil or value == help) and hints[word] or nil
end

-- Pools that may be used here: in no order.
local function each_pool()
  local list = {}
  for pool in next, pools do
    local meta = getmetatable(pool)
    local of_prompt = type(meta) == "table" and rawget(meta, "__prompt")
    if of_prompt and of_prompt.is_open(pool) then
      list[#list + 1] = { pool = pool, failure = of_prompt.failure, counts = of_prompt.counts }
    end
  end
  return list
end

-- Tasks that have failed since this was asked last, a line each; nil: none.
function prompt.failures()
  local lines, more = {}, 0
  for _, entry in next, each_pool() do
    local line = entry.failure(entry.pool)
    while line do
      if #lines < MOST then lines[#lines + 1] = line else more = more + 1 end
      line = entry.failure(entry.pool)
    end
  end
  if lines[1] == nil then return nil end
  if more > 0 then lines[#lines + 1] = ("... and %d more tasks have failed"):format(more) end
  return concat(lines, "\n") .. "\n"
end

-- At the end of input: what is said if tasks have not ended.
function prompt.outstanding()
  local count = 0
  for _, entry in next, each_pool() do count = count + entry.counts(entry.pool) end
  if count == 0 then return nil end
  return (count == 1 and "1 task is outstanding: Ctrl-D once more stops it and leaves.\n"
    or "%d tasks are outstanding: Ctrl-D once more stops them and leaves.\n"):format(count)
end

-- When somebody leaves: what has not ended is stopped, and failures that nobody received are logged.
function prompt.leave()
  for _, entry in next, each_pool() do
    entry.pool:terminate()
    entry.pool:close()
  end
end

-- The text of an error value that is a table; nil: it says itself what it is.
function prompt.error_text(value, columns)
  local text = readable(columns, value)
  return type(text) == "string" and "error value: " .. text or nil
end

return prompt
