-- What tasks note in a file, whatever process they run in.

local shell = require "spec.support.shell"

--- A new list of notes, closed by removing its file.
return function()
  local folder = shell.folder()
  local path = folder .. "/notes"
  shell.write(path, "")
  local notes = setmetatable({}, { __close = function() shell.remove(folder) end })

  -- To be sent to tasks: notes a text, and returns how many were noted.
  function notes.note(text)
    local file <close> = assert(io.open(path, "a+"))
    file:write(text, "\n")
    file:flush()
    file:seek("set")
    local count = 0
    for _ in file:lines() do count = count + 1 end
    return count
  end

  -- The texts, in their order.
  function notes.read()
    local list = {}
    for line in io.lines(path) do list[#list + 1] = line end
    return list
  end

  return notes
end
