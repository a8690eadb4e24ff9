-- Makes the pictures of the README: runs programs on a terminal (tmux) and writes what a person sees
-- as SVG into a folder, which is its own if none is named.
--
--     build/bin/mantichora scripts/screens/make.lua [FOLDER]

package.path = "./?.lua;" .. package.path
local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local PATIENCE = 60
local into = arg[1] or "scripts/screens"
local scratch <close> = setmetatable({ path = shell.folder() },
  { __close = function(self) shell.remove(self.path) end })

-- Pictures

local CELL, ROW, SIZE, MARGIN = 8.4, 18, 14, 16
local TEXT, BACK = "#d8dee9", "#20242c"
local COLOURS = {
  [30] = "#4c566a", [31] = "#e06c75", [32] = "#98c379", [33] = "#e5c07b", [34] = "#61afef", [35] = "#c678dd",
  [36] = "#56b6c2", [37] = "#d8dee9",
}

local function escape(text)
  return (text:gsub("[<>&]", { ["<"] = "&lt;", [">"] = "&gt;", ["&"] = "&amp;" }))
end

-- Calls put(column, word, colour) for each word of a line with colours.
local function words(line, put)
  local colour, column, at = TEXT, 0, 1
  while at <= #line do
    local codes, behind = line:match("^\27%[([%d;]*)m()", at)
    if codes then
      for code in (codes == "" and "0" or codes):gmatch("%d+") do
        colour = COLOURS[tonumber(code)] or (code == "0" or code == "39") and TEXT or colour
      end
    else
      local blanks, word
      blanks, word, behind = line:match("^( *)([^ \27]*)()", at)
      column = column + #blanks
      if word ~= "" then put(column, word, colour) end
      column = column + utf8.len(word)
    end
    at = behind
  end
end

local function svg(title, lines, cursor)
  local columns, rows = 0, #lines
  local body = {}
  if cursor then
    columns = cursor[1] + 1
    body[1] = ('<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>'):format(
      MARGIN + cursor[1] * CELL, MARGIN + cursor[2] * ROW, CELL, ROW, TEXT)
  end
  for row, line in ipairs(lines) do
    local y = MARGIN + row * ROW - 5
    words(line, function(column, word, colour)
      columns = math.max(columns, column + utf8.len(word))
      local fill = colour ~= TEXT and (' fill="%s"'):format(colour) or ""
      body[#body + 1] = ('<text x="%.1f" y="%d"%s>%s</text>'):format(MARGIN + column * CELL, y, fill, escape(word))
    end)
  end
  local width, height = math.ceil(columns * CELL) + 2 * MARGIN, rows * ROW + 2 * MARGIN
  return ([[
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">
<title>%s</title>
<rect width="100%%" height="100%%" rx="8" fill="%s"/>
<g fill="%s" font-family="'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace" font-size="%d">
%s
</g>
</svg>
]]):format(width, height, width, height, escape(title), BACK, TEXT, SIZE, table.concat(body, "\n"))
end

-- Sessions

local function open(columns, rows)
  local programs = shell.host:gsub("[^/]*$", "")
  local t = terminal.start(("PATH=$(cd %s. && pwd):$PATH PS1='\\[\\e[32m\\]$\\[\\e[m\\] ' HISTFILE= LC_ALL=C.UTF-8 "
    .. "bash --norc --noprofile -i"):format(programs), columns, rows)
  t:wait(function(lines) return lines[#lines] == "$" end, PATIENCE)
  return t
end

local function wait_prompt(t, prompt)
  t:wait(function(lines) return lines[#lines] == prompt end, PATIENCE)
end

-- Write what is to be seen now, once `ready` says so of the lines.
local function picture(t, name, title, with_cursor, ready)
  t:wait(ready, PATIENCE)
  local lines = {}
  for line in t:tmux("capture-pane -e -p").out:gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  while lines[#lines] and lines[#lines]:gsub("\27%[[%d;]*m", ""):find("^ *$") do lines[#lines] = nil end
  local x, y = t:cursor()
  local path = ("%s/%s.svg"):format(into, name)
  shell.write(path, svg(title, lines, with_cursor and { x, y } or nil))
  print(path)
end

local function running(lines)
  local count = 0
  for _, line in ipairs(lines) do
    if line:find("^ +%d+%.%d+%% :") and not line:find("^ 100") then count = count + 1 end
  end
  return count
end

do
  local t <close> = open(96, 14)
  t:enter("mantichora scripts/examples/02_quick_start.lua")
  picture(t, "quick-start", "The quick start in the middle: one task is done, three run", false, function(lines)
    return running(lines) == 3 and table.concat(lines, "\n"):find(" 100%.00%%")
  end)
  picture(t, "quick-start-end", "The quick start at its end: six bars, and the results", false, function(lines)
    return lines[#lines] == "$" and lines[#lines - 1]:find("result6")
  end)
end

do
  local t <close> = open(110, 40)
  shell.write(scratch.path .. "/lines.lua", [[
local mantichora = require "mantichora"

local function count(path)
  local n = 0
  for _ in io.lines(path) do n = n + 1 end
  return n
end

local mcore <close> = mantichora()
mcore:run(count, "README.md")
mcore:run(count, "REDME.md")
print(table.concat(mcore:returns(), ", "))
]])
  t:enter(("cp README.md %s; cd %s; clear"):format(scratch.path, scratch.path))
  wait_prompt(t, "$")
  t:enter("cat lines.lua")
  t:wait(function(lines) return lines[#lines] == "$" and #lines > 10 end, PATIENCE)
  t:enter("mantichora lines.lua")
  picture(t, "error", "A script, and the report of the task that failed in it", false, function(lines)
    return lines[#lines] == "$" and table.concat(lines, "\n"):find("worker's stack traceback", 1, true)
  end)
end

do
  local t <close> = open(96, 40)
  t:enter("mantichora")
  wait_prompt(t, ">")
  for _, line in ipairs {
    "function work(n)", 'for _ in atpbar(n, "work " .. n) do mantichora.sleep(0.001) end',
    'logging.warning("%d is done", n)', "return n, n * n", "end",
  } do
    t:enter(line)
  end
  wait_prompt(t, ">")
  t:enter("pool = mantichora { nworkers = 3 }")
  t:enter("for n = 1000, 6000, 1000 do pool:run(work, n) end")
  t:wait(function(lines) return table.concat(lines, "\n"):find("2000 is done", 1, true) end, PATIENCE)
  t:enter("pool")
  t:enter("pool:receive_finished()")
  t:wait(function(lines) return table.concat(lines, "\n"):find("{ { 0, 1000", 1, true) end, PATIENCE)
  t:text("for runid, value in pool:as")
  t:type("Tab")
  picture(t, "prompt", "The prompt while tasks run: their bars and log lines are above what is typed", true,
    function(lines) return lines[#lines]:find("pool:as_completed$") and running(lines) == 3 end)
  t:type("C-c C-d")
  t:wait(function(lines) return table.concat(lines, "\n"):find("once more", 1, true) end, PATIENCE)
  t:type("C-d")
  wait_prompt(t, "$")
end
