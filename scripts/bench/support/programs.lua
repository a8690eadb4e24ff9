-- Programs that measure: each says `ready`, then reads a line for each round and answers with its numbers.
--
-- They live through all rounds, so that their pools are warm and they can take turns. The limits (C) are
-- compiled when they are asked for first, into build/bench.

local programs = {}

local folder = arg[0]:match("^(.*)/[^/]*$") or "."
local root = folder .. "/../.."
local compiled = root .. "/build/bench"

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Compile unless the result is newer; by way of another name, for two benchmarks may run at once.
local compile = [[
set -e
mkdir -p %s
for source in %s/limits/*.h %s; do
  [ %s -nt "$source" ] || stale=yes
done
[ -n "${stale:-}" ] || exit 0
new=$(mktemp %s.XXXXXX)
trap 'rm -f "$new"' EXIT
cc -O2 -std=c11 -D_GNU_SOURCE %s -o "$new" %s
chmod 755 "$new"
mv "$new" %s]]

local function build(source, result, flags)
  source, result = quote(source), quote(result)
  local command = compile:format(quote(compiled), quote(folder), source, result, result, source, flags, result)
  assert(os.execute(command), "cannot compile " .. source)
end

--- The path of a compiled program of limits/; `flags`: more for the compiler.
function programs.limit(name, flags)
  local result = compiled .. "/" .. name
  build(("%s/limits/%s.c"):format(folder, name), result, flags or "")
  return result
end

--- The module of limits/lua_limits.c: `bare_pool`, `clock`, `cpu`, `forks`, `range`, `trim`.
function programs.lua_limits()
  local result = compiled .. "/lua_limits.so"
  build(folder .. "/limits/lua_limits.c", result,
    "-shared -fPIC $(pkg-config --cflags lua5.4 2>/dev/null || echo -I/usr/include/lua5.4)")
  local module = assert(package.loadlib(result, "luaopen_lua_limits"))()
  package.loaded.lua_limits = module -- so that tasks can name it
  return module
end

--- The folder of the tree.
programs.root = root

--- Our module: where LUA_CPATH says, or as built in this tree.
function programs.use_build()
  local built = root .. "/build/lua/?.so"
  local given = os.getenv("LUA_CPATH_5_4") or os.getenv("LUA_CPATH")
  package.cpath = given and package.cpath .. ";" .. built or built .. ";" .. package.cpath
end

--- The one that $PYTHON names, Debian's, or what there is.
function programs.python()
  local chosen = os.getenv("PYTHON")
  if chosen then return chosen end
  local file <close> = io.open("/usr/bin/python3")
  return file and "/usr/bin/python3" or "python3"
end

-- Options of the environment that would change what is measured.
local CLEAN = "env -u MANTICHORA_CHAOS -u MANTICHORA_WORKERS -u MANTICHORA_PROGRESS -u MANTICHORA_LOG_LEVEL " ..
  "-u MANTICHORA_HOSTS"
local SECONDS = 100

local program = {}
program.__index = program

--- Start a program given by its words. nil and why if it cannot do what it should.
function programs.start(words)
  local quoted = {}
  for i, word in ipairs(words) do quoted[i] = quote(tostring(word)) end
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkfifo -m 600 " .. quote(path)))
  local questions = assert(io.popen(("exec %s timeout -k 5 %d %s >%s"):format(CLEAN, SECONDS,
    table.concat(quoted, " "), quote(path)), "w"))
  questions:setvbuf("line")
  local self = setmetatable({ questions = questions, answers = assert(io.open(path)) }, program)
  os.remove(path)
  local word = self.answers:read("l")
  if word == "ready" then return self end
  self:stop()
  return nil, word or "it does not start"
end

--- One round: its numbers, in a list.
function program:ask()
  self.questions:write("\n")
  local line = self.answers:read("l") or error("a program ended in the middle", 0)
  local numbers = {}
  for word in line:gmatch("%S+") do numbers[#numbers + 1] = tonumber(word) end
  return numbers
end

--- Let it end, and wait for that.
function program:stop()
  self.questions:close()
  self.answers:close()
end

return programs
