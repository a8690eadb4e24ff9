-- Runs a command of the shell and catches all that it says.

local shell = {}

--- Quote a word for the shell.
function shell.quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

local function read_and_remove(path)
  local file <close> = assert(io.open(path, "rb"))
  os.remove(path)
  return file:read("a")
end

--- Run a command line. `options`: `stdin`, a string (default: nothing to read); `timeout`, in
-- seconds, after which it is killed with status 124 (default 60).
-- @return table with `out`, `err` and `status` (128 + n for signal n)
function shell.run(command, options)
  options = options or {}
  local paths = { os.tmpname(), os.tmpname(), os.tmpname(), os.tmpname() }
  local input <close> = assert(io.open(paths[1], "wb"))
  input:write(options.stdin or "")
  input:flush()
  local script <close> = assert(io.open(paths[4], "wb"))
  script:write(command, "\n")
  script:flush()
  local _, how, code = os.execute(("timeout -k 5 %g sh %s <%s >%s 2>%s"):format(
    options.timeout or 60, paths[4], paths[1], paths[2], paths[3]))
  os.remove(paths[1])
  os.remove(paths[4])
  return {
    out = read_and_remove(paths[2]),
    err = read_and_remove(paths[3]),
    status = how == "exit" and code or 128 + code,
  }
end

--- A new empty folder; remove it with shell.remove.
function shell.folder()
  local pipe <close> = assert(io.popen("mktemp -d"))
  return pipe:read("l")
end

function shell.remove(folder)
  os.execute("rm -rf " .. shell.quote(folder))
end

function shell.write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
end

--- The interpreters: ours, the stock one, and the one that this run of the specs is about. The last
-- is a piece of a command line, which finds the module in the build folder.
shell.host = os.getenv("MANTICHORA_HOST") or "build/bin/mantichora"
shell.lua = os.getenv("MANTICHORA_LUA") or "lua5.4"
shell.interpreter = os.getenv("MANTICHORA_INTERPRETER") or shell.lua
if not os.getenv("LUA_CPATH") then
  shell.interpreter = "env LUA_CPATH='build/lua/?.so;;' " .. shell.interpreter
end

return shell
