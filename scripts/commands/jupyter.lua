-- mantichora jupyter install: writes the kernel into a kernelspec of Jupyter.
-- mantichora jupyter host: the host that a kernel starts.

local core = require "mantichora.commands.kernel"

local wrong_use = 255

local usage = [[
usage: mantichora jupyter install [options]
Installs the kernel "Lua (mantichora)" for Jupyter's notebooks.
Options are:
  --user        for this user only
  --prefix P    below P, in P/share/jupyter/kernels
  --sys-prefix  below the prefix of the Python (of its virtual environment)
  --python P    the Python that runs the kernel; default: the one that `jupyter` runs with
  --help        print this text
Without --user, --prefix and --sys-prefix it is installed for all users of the machine. The Python needs
ipykernel (Debian: python3-ipykernel). `jupyter kernelspec remove mantichora` removes it again.
]]

local function complain(...)
  io.stderr:write("mantichora jupyter: ", ..., "\n")
  io.stderr:flush()
  return wrong_use
end

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- What a command says, without the space around it; nil where it fails.
local function ask(command)
  local pipe = io.popen(command .. " 2>/dev/null </dev/null")
  local text = pipe and pipe:read("a") or ""
  return pipe and pipe:close() and text:match("^%s*(.-)%s*$") or nil
end

-- The full path of this Python if it can run the kernel.
local function examine(python)
  return ask(quote(python) .. " -c 'import sys, ipykernel; print(sys.executable)'")
end

-- Where a program stands on the path.
local function find_program(name)
  local path = ask("command -v " .. quote(name))
  return path ~= "" and path or nil
end

-- The Python that `jupyter` runs with: its first line says so, or it does itself (where it is a script
-- that finds another one).
local function python_of_jupyter()
  local jupyter = find_program("jupyter")
  local file = jupyter and io.open(jupyter)
  if not file then return nil end
  local first = file:read("l") or ""
  file:close()
  local interpreter, argument = first:match("^#!%s*(%S+)%s*(%S*)")
  if interpreter and interpreter:find("/env$") then interpreter = argument end
  if interpreter and interpreter:find("python[%d.]*$") then return interpreter end
  local told = ask(quote(jupyter) .. " troubleshoot")
  return told and told:match("sys%.executable:%s*([^\n]+)")
end

-- The Python to use; or nil and a sentence.
local function choose_python(asked)
  local tried = asked or python_of_jupyter()
  if not tried then
    for _, name in ipairs { "python3", "/usr/bin/python3" } do
      local found = examine(name)
      if found then return found end
    end
    return nil, "no `jupyter` is on the path, and python3 has no ipykernel (Debian: apt-get install "
      .. "jupyter-notebook); --python chooses another Python"
  end
  local found = examine(tried)
  if found then return found end
  if not ask(quote(tried) .. " -c 'print(1)'") then return nil, ("'%s' is no Python that runs"):format(tried) end
  return nil, ("%s has no ipykernel, which the kernel needs (Debian: apt-get install python3-ipykernel; "
    .. "elsewhere: %s -m pip install ipykernel); --python chooses another Python"):format(tried, tried)
end

-- Options with a value, and those without.
local takes = { ["--user"] = false, ["--sys-prefix"] = false, ["--help"] = false, ["--prefix"] = true,
  ["--python"] = true }

-- Options by name; or nil and a sentence.
local function read_options(words)
  local given, at = {}, 1
  while at <= #words do
    local word = words[at]
    local name, value = word:match("^(%-%-[^=]*)=(.*)$")
    name = name or word
    if takes[name] == nil then return nil, ("unknown option '%s' (see --help)"):format(word) end
    if takes[name] and not value then
      at = at + 1
      value = words[at]
    end
    if takes[name] and (not value or value == "") then return nil, ("option '%s' needs an argument"):format(name) end
    if value and not takes[name] then return nil, ("option '%s' takes no argument"):format(name) end
    given[name:sub(3)] = value or true
    at = at + 1
  end
  local places = (given.user and 1 or 0) + (given.prefix and 1 or 0) + (given["sys-prefix"] and 1 or 0)
  if places > 1 then return nil, "only one of --user, --prefix and --sys-prefix can be given" end
  return given
end

-- As which this program was called.
local function program()
  local at = 0
  while arg[at - 1] do at = at - 1 end
  return arg[at]
end

-- Run the kernel's file, which installs itself. The exit status.
local function install(given)
  local python, sentence = choose_python(given.python)
  if not python then return complain(sentence) end
  local folder = ask("mktemp -d") -- of its own: Python looks for modules beside the file
  if not folder then return complain("no temporary folder can be made") end
  local path = folder .. "/kernel.py"
  local file = assert(io.open(path, "wb"))
  file:write(core.file "commands.kernel")
  file:close()
  local command = { quote(python), quote(path), "install", quote(program()) }
  if given.user then command[#command + 1] = "--user" end
  if given.prefix then command[#command + 1] = "--prefix=" .. quote(given.prefix) end
  if given["sys-prefix"] then command[#command + 1] = "--sys-prefix" end
  io.stdout:flush()
  local _, _, status = os.execute(table.concat(command, " "))
  os.remove(path)
  os.execute("rm -rf " .. quote(folder))
  return status == 0 and 0 or 1
end

return function(_, what, ...)
  if what == "host" then
    local status = require "commands.notebook"(...) -- no tail call: tracebacks are cut by levels
    return status
  end
  if what == "--help" then
    io.stdout:write(usage)
    return 0
  end
  if what ~= "install" then
    io.stderr:write(usage)
    return wrong_use
  end
  local given, sentence = read_options { ... }
  if not given then return complain(sentence) end
  if given.help then
    io.stdout:write(usage)
    return 0
  end
  return install(given)
end
