-- A screen model: a small terminal. Feed it the bytes that a program wrote and ask what a person
-- sees. It knows what mantichora emits and a little more, wraps at the right margin like a VT100
-- (the cursor waits in the last column), scrolls, keeps what has scrolled off, and counts frames.
-- What it does not know it collects in `unknown`, so that a test notices.

local screen = {}
screen.__index = screen

local wide = {
  { 0x1100, 0x115F }, { 0x2E80, 0x303E }, { 0x3041, 0x33FF }, { 0x3400, 0x4DBF },
  { 0x4E00, 0x9FFF }, { 0xA000, 0xA4CF }, { 0xAC00, 0xD7A3 }, { 0xF900, 0xFAFF },
  { 0xFE30, 0xFE6F }, { 0xFF00, 0xFF60 }, { 0xFFE0, 0xFFE6 }, { 0x1F300, 0x1F64F },
  { 0x1F680, 0x1F6FF }, { 0x1F900, 0x1F9FF }, { 0x20000, 0x3FFFD },
}

local zero = {
  { 0x0300, 0x036F }, { 0x200B, 0x200F }, { 0x20D0, 0x20FF }, { 0xFE00, 0xFE0F },
}

local function within(code, ranges)
  for _, range in ipairs(ranges) do
    if code >= range[1] and code <= range[2] then return true end
  end
  return false
end

local function width(code)
  if within(code, zero) then return 0 end
  return within(code, wide) and 2 or 1
end

-- columns, rows: the size of the window. Line feeds return the carriage, as terminals do for
-- programs (ONLCR).
function screen.new(columns, rows)
  local self = setmetatable({
    columns = columns, lines = rows,
    row = 1, column = 1, waiting = false, -- waiting: behind the last column
    history = {}, grid = {}, unknown = {},
    frames = 0, synchronized = false, cursor = true, rest = "",
  }, screen)
  for row = 1, rows do self.grid[row] = {} end
  return self
end

function screen:_scroll()
  self.history[#self.history + 1] = self:_text(self.grid[1])
  table.remove(self.grid, 1)
  self.grid[self.lines] = {}
end

function screen:_down()
  if self.row == self.lines then self:_scroll() else self.row = self.row + 1 end
end

function screen:_put(character, cells)
  local line
  if cells == 0 then
    local at = self.waiting and self.column or self.column - 1
    line = self.grid[self.row]
    if line[at] == "" then at = at - 1 end -- right half of a wide one
    if at >= 1 then line[at] = (line[at] or " ") .. character end
    return
  end
  if self.waiting or self.column + cells - 1 > self.columns then
    self.column, self.waiting = 1, false
    self:_down()
  end
  line = self.grid[self.row]
  line[self.column] = character
  if cells == 2 then line[self.column + 1] = "" end
  self.column = self.column + cells
  if self.column > self.columns then
    self.column, self.waiting = self.columns, true
  end
end

local controls = {}
controls["\n"] = function(self)
  self.column, self.waiting = 1, false
  self:_down()
end
controls["\r"] = function(self) self.column, self.waiting = 1, false end
controls["\b"] = function(self) self.column, self.waiting = math.max(1, self.column - 1), false end
controls["\t"] = function(self)
  self.column = math.min(self.columns, (self.column - 1) // 8 * 8 + 9)
end
controls["\a"] = function() end

local sequences = {}
local function count(parameters)
  local n = tonumber(parameters)
  return n and n > 0 and n or 1
end
function sequences.A(self, p) self.row, self.waiting = math.max(1, self.row - count(p)), false end
function sequences.B(self, p)
  self.row, self.waiting = math.min(self.lines, self.row + count(p)), false
end
function sequences.G(self, p) self.column, self.waiting = math.min(count(p), self.columns), false end
function sequences.K(self, p)
  assert(p == "" or p == "0", "erase in line: " .. p)
  for column = self.column, self.columns do self.grid[self.row][column] = nil end
end
function sequences.J(self, p)
  assert(p == "" or p == "0", "erase in display: " .. p)
  if self.row == 1 and self.column == 1 then -- tmux and others keep what a cleared window has shown
    for _, row in ipairs(self:rows()) do self.history[#self.history + 1] = row end
  end
  sequences.K(self, "")
  for row = self.row + 1, self.lines do self.grid[row] = {} end
end
function sequences.m() end
function sequences.h(self, p)
  if p == "?2026" then self.synchronized = true
  elseif p == "?25" then self.cursor = true
  else self.unknown[#self.unknown + 1] = p .. "h" end
end
function sequences.l(self, p)
  if p == "?2026" then
    self.synchronized = false
    self.frames = self.frames + 1
  elseif p == "?25" then self.cursor = false
  else self.unknown[#self.unknown + 1] = p .. "l" end
end

-- One thing off the front of `bytes` at `at`: the position behind it, or nil if more must come.
function screen:_take(bytes, at)
  local byte = bytes:sub(at, at)
  if controls[byte] then
    controls[byte](self)
    return at + 1
  end
  if byte == "\27" then
    local parameters, final, behind = bytes:match("^%[([%d;?]*)([@-~])()", at + 1)
    if parameters then
      if sequences[final] then sequences[final](self, parameters)
      else self.unknown[#self.unknown + 1] = parameters .. final end
      return behind
    end
    if #bytes - at < 16 and bytes:match("^%[?[%d;?]*$", at + 1) then return nil end
    self.unknown[#self.unknown + 1] = bytes:sub(at, at + 1)
    return at + 1
  end
  local character = bytes:match("^[%z\1-\127\194-\244][\128-\191]*", at)
  if not character or not utf8.len(character) then
    if byte:byte() >= 0xC2 and #bytes - at < 3 and not utf8.len(bytes, at) then return nil end
    self.unknown[#self.unknown + 1] = ("byte %02x"):format(byte:byte())
    self:_put("?", 1)
    return at + 1
  end
  local code = utf8.codepoint(character)
  if code < 32 or code >= 127 and code < 160 then
    self.unknown[#self.unknown + 1] = ("control %02x"):format(code)
  else
    self:_put(character, width(code))
  end
  return at + #character
end

function screen:feed(bytes)
  bytes = self.rest .. bytes
  local at = 1
  while at <= #bytes do
    local behind = self:_take(bytes, at)
    if not behind then break end
    at = behind
  end
  self.rest = bytes:sub(at)
  return self
end

function screen:_text(line)
  local cells = {}
  for column = 1, self.columns do cells[column] = line[column] or " " end
  return (table.concat(cells):gsub("%s+$", ""))
end

-- The rows in the window, without spaces at their ends; empty rows at the bottom left out.
function screen:rows()
  local rows = {}
  for row = 1, self.lines do rows[row] = self:_text(self.grid[row]) end
  while rows[#rows] == "" do rows[#rows] = nil end
  return rows
end

-- The same, what has scrolled off before them.
function screen:all()
  local rows = table.move(self.history, 1, #self.history, 1, {})
  for _, row in ipairs(self:rows()) do rows[#rows + 1] = row end
  return rows
end

function screen:text() return table.concat(self:rows(), "\n") end

-- A new size. The rows around the cursor stay; with `fold`, lines that are too long are folded as
-- most terminals do, else they are cut.
function screen:resize(columns, rows, fold)
  local grid, cursor = {}, nil
  for row = 1, self.lines do
    local line = self.grid[row]
    local last = 0
    for column in pairs(line) do last = math.max(last, column) end
    if row == self.row then cursor = #grid + 1 end
    repeat
      local part = {}
      for column = 1, columns do part[column] = line[column] end
      grid[#grid + 1] = part
      line = table.move(line, columns + 1, math.max(last, columns + 1), 1, {})
      last = last - columns
    until not fold or last <= 0
  end
  self.columns, self.lines = columns, rows
  self.column, self.waiting = math.min(self.column, columns), false
  while cursor > rows do
    self.history[#self.history + 1] = self:_text(table.remove(grid, 1))
    cursor = cursor - 1
  end
  for row = 1, rows do grid[row] = grid[row] or {} end
  for row = #grid, rows + 1, -1 do grid[row] = nil end
  self.grid, self.row = grid, cursor
end

return screen
