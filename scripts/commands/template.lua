-- The command of `run`: where `{}` and `{#}` stand in it, and whether they may.
--
-- The item takes the place of `{}` as a word in single quotes. That is one word, whatever bytes it has,
-- only where the shell reads a word: not inside of quotes, where these quotes would end the others; not
-- in a comment or a here-document, where quotes mean nothing and the next line is a command, or $(...) is
-- run; not in backquotes, ${...} or arithmetic, which read quotes in ways of their own. There it is
-- refused, before anything runs; so it is behind what shells do not agree about.

local template = {}

local item, number = 1, 2

-- Where a placeholder must not stand, by what it is in.
local places = {
  single = "inside of single quotes", double = "inside of double quotes", back = "inside of backquotes",
  dollar = "inside of $'...'", comment = "in a comment", braces = "inside of ${...}",
  arithmetic = "in arithmetic", document = "in or behind a here-document",
  unclear = "behind what shells read in different ways", backslash = "after a backslash",
}

-- A scan: `stack` has what the place is in, the innermost last: "plain" (the command itself), "parens"
-- ($(...) and (...)), or one of the places above.
local scan = {}
scan.__index = scan

function scan:top() return self.stack[#self.stack] end
function scan:push(state) table.insert(self.stack, state) end
function scan:pop() if #self.stack > 1 then table.remove(self.stack) end end

-- Why no placeholder may stand here; nil: it may.
function scan:obstacle()
  if self.text:sub(self.at - 1, self.at - 1) == "\\" then return "backslash" end
  for i = #self.stack, 1, -1 do
    if places[self.stack[i]] then return self.stack[i] end
  end
  return self.is_unclear and "unclear" or self.in_document and "document" or nil
end

function scan:is_quoted()
  for _, state in ipairs(self.stack) do
    if state == "double" then return true end
  end
  return false
end

local openings = {
  { "$((", "arithmetic" }, { "$(", "parens" }, { "${", "braces" }, { "`", "back" },
}

-- What opens in words and in double quotes alike. The number of characters, or nil.
function scan:open()
  for _, opening in ipairs(openings) do
    local text, state = table.unpack(opening)
    if self.text:sub(self.at, self.at + #text - 1) == text then
      if state ~= "braces" or self.text:sub(self.at, self.at + 3) ~= "${#}" then
        self:push(state)
        if state == "arithmetic" then self.parens = 2 end
      end
      return #text
    end
  end
end

-- A # begins a comment where a word could begin.
function scan:comment()
  local before = self.text:sub(self.at - 1, self.at - 1)
  local unclear = before == ")" or self.text:sub(self.at - 2, self.at - 1) == "\\\n"
  if unclear then self.is_unclear = true end
  if before == "" or before:find("[%s;&|(<>]") then self:push("comment") end
  return 1
end

local words = {}

-- Where the shell reads commands.
function words.plain(self, c)
  local text, at = self.text, self.at
  if c == "\\" then return 2 end
  if c == "'" then self:push("single") return 1 end
  if c == '"' then self:push("double") return 1 end
  if text:sub(at, at + 1) == "$'" then self:push("dollar") return 2 end
  if text:sub(at, at + 1) == "$[" then self.is_unclear = true return 2 end
  if text:sub(at, at + 1) == "((" then self:push("arithmetic") self.parens = 2 return 2 end
  if text:sub(at, at + 1) == "<<" and text:sub(at, at + 2) ~= "<<<" then self.has_document = true return 2 end
  if text:sub(at, at + 2) == "<<<" then return 3 end
  if c == "\n" and self.has_document then self.in_document = true end
  if c == "#" then return self:comment() end
  if c == "(" then self:push("parens") return 1 end
  if c == ")" and self:top() == "parens" then self:pop() return 1 end
  -- The closing parenthesis of its patterns has no opening one.
  if text:match("^case%f[%W]", at) and #self.stack > 1 then self.is_unclear = true end
  return self:open() or 1
end
words.parens = words.plain

function words.single(self, c)
  if c == "'" then self:pop() end
  return 1
end

-- A shell that does not know $'...' reads \' in it as the end.
function words.dollar(self, c)
  if c == "\\" then self.is_unclear = true return 2 end
  return words.single(self, c)
end

function words.double(self, c)
  if c == "\\" then return 2 end
  if c == '"' then self:pop() return 1 end
  return self:open() or 1
end

function words.back(self, c)
  if c == "\\" then return 2 end
  if c == "`" then self:pop() end
  return 1
end

function words.comment(self, c)
  if c == "\n" then
    self:pop()
    return 0
  end
  return 1
end

function words.braces(self, c)
  if c == "\\" then return 2 end
  if c == "}" then self:pop() return 1 end
  if c == '"' then self:push("double") return 1 end
  if c == "'" then
    if self:is_quoted() then self.is_unclear = true else self:push("single") end
    return 1
  end
  return self:open() or 1
end

function words.arithmetic(self, c)
  if c == "(" then self.parens = self.parens + 1 end
  if c == ")" then
    self.parens = self.parens - 1
    if self.parens == 0 then self:pop() end
  end
  if c:find("[\\'\"`$]") then self.is_unclear = self.is_unclear or c ~= "$" or self.text:sub(self.at + 1,
    self.at + 1):find("[({]") ~= nil end
  return 1
end

-- The placeholder that begins here: its text and its piece.
function scan:placeholder()
  local text, at = self.text, self.at
  if text:sub(at, at + 1) == "{}" then return "{}", item end
  if text:sub(at, at + 2) == "{#}" and text:sub(at - 1, at - 1) ~= "$" then return "{#}", number end
end

-- A backslash takes the next character along, but a placeholder behind it is seen.
function scan:step()
  local length = words[self:top()](self, self.text:sub(self.at, self.at))
  self.at = self.at + (length == 2 and self.text:sub(self.at, self.at) == "\\"
    and self.text:sub(self.at + 1, self.at + 1) == "{" and 1 or length)
end

local function refuse(text, at, what, place)
  return nil, ("%s stands %s, at character %d of '%s': it must stand outside of quotes, as a word or as a part of one")
    :format(what, places[place], at, text)
end

-- Put the item at the end, if that is a place for a word.
local function append(pieces, self)
  local text = self.text
  local place = self:obstacle() or self.has_document and "document"
    or #text:match("\\*$") % 2 == 1 and "backslash"
  if #self.stack > 1 and not place then
    return nil, ("the item cannot be put at the end of '%s', where a parenthesis is open"):format(text)
  elseif place then
    return nil, ("the item cannot be put at the end of '%s', which is %s: write {} where it belongs")
      :format(text, places[place])
  end
  table.insert(pieces, " ")
  table.insert(pieces, item)
  return pieces
end

--- The pieces of a command: strings, 1 for the item, 2 for its number; or nil and a message.
function template.parse(text)
  if text:find("\0", 1, true) then return nil, "the command has a NUL in it" end
  local self = setmetatable({ text = text, at = 1, stack = { "plain" } }, scan)
  local pieces, from, has_item = {}, 1, false
  while self.at <= #text do
    local what, piece = self:placeholder()
    if what then
      local place = self:obstacle()
      if place then return refuse(text, self.at, what, place) end
      if from < self.at then table.insert(pieces, text:sub(from, self.at - 1)) end
      table.insert(pieces, piece)
      has_item = has_item or piece == item
      self.at = self.at + #what
      from = self.at
    else
      self:step()
    end
  end
  if from <= #text then table.insert(pieces, text:sub(from)) end
  if has_item then return pieces end
  return append(pieces, self)
end

return template
