-- Looks at this process from outside: what it has open, its threads, its children.

local process = {}

-- Not by a pipe: this process closes its other end some time after the command has begun.
local function list(command)
  local path, lines = os.tmpname(), {}
  os.execute(command .. " >" .. path)
  for line in io.lines(path) do lines[#lines + 1] = line end
  os.remove(path)
  return lines
end

--- This process's number.
function process.pid()
  local file <close> = assert(io.open("/proc/self/stat"))
  return file:read("n")
end

--- Open descriptors, without those of the look itself.
function process.descriptors()
  return #list(("ls /proc/%d/fd"):format(process.pid()))
end

function process.threads()
  local count = 0
  for _, line in ipairs(list(("cat /proc/%d/task/*/stat 2>/dev/null"):format(process.pid()))) do
    local flags = line:match(".*%) %a" .. (" %-?%d+"):rep(5) .. " (%d+)")
    if tonumber(flags) & 4 == 0 then count = count + 1 end -- PF_EXITING: it was joined, and is about to go
  end
  return count
end

--- Processes whose parent is this one, zombies too, without those of the look itself.
function process.children()
  local children = {}
  for _, line in ipairs(list(("ps -o pid=,comm= --ppid %d"):format(process.pid()))) do
    local pid, command = line:match("(%d+) (.*)")
    if command ~= "sh" and command ~= "ps" then children[#children + 1] = tonumber(pid) end
  end
  return children
end

--- Whether a process runs: a zombie, which waits for somebody to take its status, does not.
function process.runs(pid)
  local file <close> = io.open(("/proc/%d/stat"):format(pid))
  local text = file and file:read("a") -- nothing, if it ended since
  local state = text and text:match("%) (%a)")
  return state ~= nil and state ~= "Z" and state ~= "X"
end

--- The processes, of whatever parent, that have this text in their environment.
function process.marked(text)
  local found = {}
  for _, path in ipairs(list(("grep -alsF %s /proc/[0-9]*/environ"):format(text))) do
    local pid = tonumber(path:match("%d+"))
    if process.runs(pid) then found[#found + 1] = pid end
  end
  return found
end

--- Wait for the processes so marked to end. Those that have not after `seconds` are killed, and returned.
function process.outlive(text, seconds)
  pcall(process.wait, function() return #process.marked(text) == 0 end, seconds)
  local left = process.marked(text)
  for _, pid in ipairs(left) do os.execute("kill -9 " .. pid) end
  return left
end

--- Seconds of a clock that never goes back.
function process.clock()
  local file <close> = assert(io.open("/proc/uptime"))
  return file:read("n")
end

--- Wait until `predicate()` says so; its value. Raises after `seconds`.
function process.wait(predicate, seconds)
  local deadline = process.clock() + (seconds or 10)
  while true do
    local value = predicate()
    if value then return value end
    if process.clock() > deadline then error("it did not come to this in time", 2) end
    os.execute("sleep 0.01")
  end
end

return process
