-- Runs a command on a terminal (in tmux, out of sight) and looks at the screen.

local shell = require "spec.support.shell"

local terminal = {}
terminal.__index = terminal

local count = 0

local function read(path)
  local file <close> = io.open(path)
  return file and file:read("a")
end

function terminal:tmux(arguments)
  return shell.run(("tmux -u -L %s -f /dev/null %s"):format(self.socket, arguments), { timeout = 20 })
end

--- Start a command line of the shell on a terminal of this size. Stop it with close().
function terminal.start(command, columns, rows)
  count = count + 1
  local self = setmetatable({ folder = shell.folder() }, terminal)
  self.socket = "mch" .. self.folder:match("[^/.]+$") .. count
  -- The screen stays until close(), whatever becomes of the command. What it keeps of its user, such
  -- as the history of the prompt, it keeps in our folder.
  local lines = { "trap : INT", "export XDG_STATE_HOME=%s", "(%s\n)", "echo $? >%s/status", "exec sleep 600\n" }
  shell.write(self.folder .. "/run", table.concat(lines, "\n"):format(self.folder, command, self.folder))
  local got = self:tmux(("new-session -d -x %d -y %d sh %s/run"):format(columns, rows, self.folder))
  assert(got.status == 0, got.err)
  return self
end

--- The lines of the screen without trailing spaces, and without empty lines at the end. With
-- `history`, those that have scrolled off the top as well.
function terminal:screen(history)
  local text = self:tmux("capture-pane -p" .. (history and " -S -" or "")).out
  local lines = {}
  for line in text:gmatch("([^\n]*)\n") do
    lines[#lines + 1] = line:gsub(" +$", "")
  end
  while lines[#lines] == "" do
    lines[#lines] = nil
  end
  return lines
end

--- Where the cursor is (column and row, from 0) and whether it is shown.
function terminal:cursor()
  local x, y, shown = self:tmux("display -p '#{cursor_x} #{cursor_y} #{cursor_flag}'").out:match("(%d+) (%d+) (%d)")
  return tonumber(x), tonumber(y), shown == "1"
end

--- The exit status of the command, nil while it runs.
function terminal:status()
  return tonumber(read(self.folder .. "/status") or "")
end

--- Type keys, as tmux names them: `t:type("C-c")`.
function terminal:type(keys)
  self:tmux("send-keys " .. keys)
end

--- Type text as it stands; and Enter behind it.
function terminal:text(text)
  self:type("-l " .. shell.quote(text))
end

function terminal:enter(text)
  self:text(text)
  self:type("Enter")
end

function terminal:resize(columns, rows)
  self:tmux(("resize-window -x %d -y %d"):format(columns, rows))
end

--- Wait until `predicate(lines)` says so; its value. Raises, with the screen, after `seconds`.
function terminal:wait(predicate, seconds)
  local deadline = os.time() + (seconds or 30) + 1
  while true do
    local lines = self:screen()
    local value = predicate(lines)
    if value then return value end
    if os.time() > deadline then
      error("it did not come to this; the screen:\n" .. table.concat(lines, "\n"), 2)
    end
    os.execute("sleep 0.03")
  end
end

--- Wait for the command to end; its exit status and the last screen.
function terminal:finish(seconds)
  local status = self:wait(function() return self:status() end, seconds)
  return status, self:screen()
end

function terminal:close()
  self:tmux("kill-server")
  shell.remove(self.folder)
end

terminal.__close = terminal.close

return terminal
