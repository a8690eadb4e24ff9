-- Compiles a cell of a notebook: Lua as at the prompt, of many lines, whose last expression has its
-- values returned.

local find, match, sub = string.find, string.match, string.sub

local cell = {}

-- Words that open a block, and those that close one. (`while` and `for` have their `do`.)
local opens = { ["if"] = true, ["do"] = true, ["function"] = true, ["repeat"] = true }
local closes = { ["end"] = true, ["until"] = true }
-- Words that an expression can begin with; all other keywords begin none.
local keywords = {}
for word in ([[and break do else elseif end for goto if in local or repeat return then until
    while]]):gmatch("%a+") do
  keywords[word] = true
end

-- Where a long bracket that begins at `at` ends; nil: there is none, or it is not closed.
local function skip_long(code, at)
  local level = match(code, "^%[(=*)%[", at)
  if not level then return nil end
  local _, last = find(code, "]" .. level .. "]", at, true)
  return (last or #code) + 1
end

local function skip_quoted(code, at)
  local quote = sub(code, at, at)
  at = at + 1
  while at <= #code do
    local c = sub(code, at, at)
    if c == "\\" then at = at + 1 elseif c == quote or c == "\n" then return at + 1 end
    at = at + 1
  end
  return at
end

-- The token at `at`: what it is, and where the next one may begin.
local function read_token(code, at)
  local c = sub(code, at, at)
  if sub(code, at, at + 1) == "--" then
    return "comment", skip_long(code, at + 2) or find(code, "\n", at, true) or #code + 1
  end
  if c == '"' or c == "'" then return "string", skip_quoted(code, at) end
  local after = c == "[" and skip_long(code, at)
  if after then return "string", after end
  local _, last = find(code, "^[%a_\x80-\xFF][%w_\x80-\xFF]*", at)
  if last then return sub(code, at, last), last + 1 end
  _, last = find(code, "^%.?%d[%w.]*", at)
  if last then return "number", last + 1 end
  _, last = find(code, "^::", at)
  if last then return "::", last + 1 end
  return c, at + 1
end

-- Tokens that can go on with the expression before them, whatever that is; and those that make a call
-- or an index of what can be called or indexed.
local continues, suffixes = {}, { ["("] = true, ["["] = true, ["{"] = true, string = true }
for _, token in ipairs { "+", "-", "*", "/", "%", "^", "&", "~", "|", "<", ">", "=", ".", ":", ",", ")", "]", "}",
  "and", "or" } do
  continues[token] = true
end
-- After these nothing can be called or indexed.
local ends_value = { ["end"] = true, number = true, ["nil"] = true, ["true"] = true, ["false"] = true }

-- After these a statement may have ended.
local function may_end(token)
  return ends_value[token] or token == ")" or token == "]" or token == "}" or token == "string" or token == "::"
    or token == "break" or find(token, "^[%a_\x80-\xFF]") and not keywords[token] and token ~= "not"
    and token ~= "function"
end

local function may_begin(token, before)
  if before == nil or before == ";" then return token ~= ";" end
  if continues[token] or token == ";" or not may_end(before) then return false end
  return not suffixes[token] or ends_value[before] == true
end

-- The places where the last statement may begin, which are outside of all blocks and brackets; the last
-- place first.
local function places(code)
  local list, depth, at, before = {}, 0, 1, nil
  while true do
    at = match(code, "^%s*()", at)
    if at > #code then break end
    local token, after = read_token(code, at)
    if token ~= "comment" then
      if depth == 0 and may_begin(token, before) then
        table.insert(list, 1, { at = at, token = token })
      end
      if opens[token] or token == "(" or token == "{" or token == "[" then
        depth = depth + 1
      elseif closes[token] or token == ")" or token == "}" or token == "]" then
        depth = depth - 1
      end
      before = token
    end
    at = after
  end
  return list
end

-- With the place of the last expression in tracebacks: its call is no tail call when its values go through
-- a function, which the cell gets as its argument.
local function pass(...) return ... end

local function load_result(head, tail, name)
  local f, problem = load(head .. "return " .. tail, name, "t")
  if not f or find(head .. tail, "...", 1, true) then return f, problem end
  local through = load(head .. "return (...)(" .. tail .. "\n)", name, "t")
  if through then return through, pass end
  return f
end

--- Compile a cell. `is_incomplete` tells by its message whether code goes on.
-- @return the function and its argument; or nil, the message, and whether more lines could mend it
function cell.compile(code, name, is_incomplete)
  if find(code, "^%s*=") then code = code:gsub("=", "return ", 1) end
  code = code:gsub("^#[^\n]*", "")
  local whole, message = load(code, name, "t")
  local incomplete = not whole and is_incomplete(message)
  for _, place in ipairs(places(code)) do
    if not keywords[place.token] and place.token ~= "::" then
      local head = sub(code, 1, place.at - 1)
      local f, problem = load_result(head, sub(code, place.at), name)
      if f then return f, problem end
      incomplete = incomplete or is_incomplete(problem)
      if whole and load(head, name, "t") then break end -- this is the last statement, and no expression
    elseif whole then
      break
    end
  end
  if whole then return whole end
  return nil, message, incomplete
end

return cell
