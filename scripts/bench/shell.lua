-- lua5.4 scripts/bench/shell.lua [--lines N] [--rounds N] [--quick]
--
-- mantichora map beside jq and GNU parallel's --pipe jq: the same small change of many lines, taking turns,
-- the CPU of all their processes and the memory of the largest one; `mantichora run` beside GNU parallel, for
-- what an item costs; and what becomes of values that are easily lost, with lua-cjson, jq and us. A peer that is
-- not there is left out (`sh scripts/setup bench` installs them).

local options = { lines = 1000000, rounds = 3 }
for i = 1, #arg do
  local name = arg[i]:match("^%-%-(%l+)$")
  if name == "quick" then
    options.lines, options.rounds = 2000, 1
  elseif name and options[name] then
    options[name] = assert(math.tointeger(tonumber(arg[i + 1])), arg[i] .. " needs a number")
  end
end

local host = os.getenv("MANTICHORA_HOST") or "build/bin/mantichora"

local function read(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read("a")
end

local function quote(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

local function has(program) return read("command -v " .. program) ~= "" end

local input, output = os.tmpname(), os.tmpname()

-- Lines such as logs have, the same at each run.
local function write_input(path, lines)
  local file <close> = assert(io.open(path, "w"))
  local seed = 1
  for i = 1, lines do
    seed = seed * 48271 % 2147483647
    file:write(('{"id":%d,"name":"user%d","score":%.3f,"tags":["a","b"]}\n'):format(i, seed % 1000,
      seed / 2147483647 * 100))
  end
end

-- Seconds of CPU of a command and all that it has waited for, seconds it took, and bytes of its largest
-- process, if time(1) is there to tell.
local function measure(command)
  local memory = has("/usr/bin/time") and ("/usr/bin/time -o %s.m -f %%M "):format(output) or ""
  local script <close> = assert(io.open(output .. ".s", "w"))
  script:write(("start=$(date +%%s.%%N)\n%ssh -c %s\ndate +%%s.%%N\necho $start\ntimes\n"):format(memory,
    quote(("%s <%s >%s 2>%s.e"):format(command, input, output, output))))
  script:close()
  local text = read(("bash %s.s"):format(output))
  local stop, start, times = text:match("^(%S+)\n(%S+)\n[^\n]*\n(.*)$")
  local cpu = 0
  for minutes, seconds in times:gmatch("(%d+)m([%d.]+)s") do cpu = cpu + 60 * minutes + seconds end
  local peak
  if memory ~= "" then
    local file <close> = assert(io.open(output .. ".m"))
    peak = tonumber(file:read("a"):match("(%d+)%s*$"))
  end
  return { cpu = cpu, wall = stop - start, memory = peak }
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

-- Programs take turns; the medians of their rounds.
local function compare(programs)
  local figures = {}
  for _ = 1, options.rounds do
    for i, program in ipairs(programs) do
      local found = measure(program[2])
      figures[i] = figures[i] or { cpu = {}, wall = {}, memory = {} }
      for name, list in pairs(figures[i]) do table.insert(list, found[name]) end
    end
  end
  for i, program in ipairs(programs) do
    print(("| %s | %.2f s | %.2f | %.2f s | %s |"):format(program[1], median(figures[i].cpu),
      median(figures[i].cpu) / median(figures[1].cpu), median(figures[i].wall),
      figures[i].memory[1] and ("%.1f MiB"):format(median(figures[i].memory) / 1024) or "?"))
  end
end

local head = "\n| program | CPU | of the first | time | largest process |\n| --- | --- | --- | --- | --- |"

write_input(input, options.lines)
print(("%d lines, %d rounds, `_.score = _.score * 2`"):format(options.lines, options.rounds))
print(head)
local programs = {}
if has("jq") then table.insert(programs, { "jq", "jq -c '.score *= 2'" }) end
table.insert(programs, { "mantichora map", host .. " map '_.score = _.score * 2 return _'" })
table.insert(programs, { "mantichora map -j1", host .. " map -j1 '_.score = _.score * 2 return _'" })
table.insert(programs, { "mantichora filter", host .. " filter '_.score > 50'" })
if has("jq") and has("parallel") then
  table.insert(programs, { "parallel --pipe -k jq", [[parallel --pipe -k "jq -c '.score *= 2'"]] })
end
compare(programs)

-- An item for each command: a hundredth of the lines.
local commands = math.max(20, options.lines // 1000)
write_input(input, commands)
print(("\n%d items"):format(commands))
print(head)
programs = { { "mantichora run true", host .. " run true" }, { "mantichora map", host .. " map _" } }
if has("parallel") then table.insert(programs, { "parallel -k true", "parallel -k true" }) end
compare(programs)

-- What comes back of a value that nobody has changed.
local has_cjson, cjson = pcall(require, "cjson")
local function by_cjson(text)
  if not has_cjson then return "?" end
  local fine, back = pcall(function() return cjson.encode(cjson.decode(text)) end)
  return fine and back or "error"
end
local function by(command, text)
  local file <close> = assert(io.open(input, "w"))
  file:write(text, "\n")
  file:close()
  local back = read(("%s <%s 2>/dev/null"):format(command, input)):gsub("\n$", "")
  return back == "" and "error" or back
end
print("\n| input | lua-cjson | jq | mantichora map _ |\n| --- | --- | --- | --- |")
for _, text in ipairs { "12345678901234567", "9223372036854775807", "9223372036854775808", "1.0", "0.1",
  "0.30000000000000004",
  "1e400", "1e-400", "5e-324", "-0.0", "100000000000000000000", "[]", "{}", "null", '{"b":1,"a":2}',
  '"\\u0000"', '"\\ud83d\\ude00"',
  '"\\ud83d"', '"\xff"' } do
  print(("| `%s` | `%s` | `%s` | `%s` |"):format(text, by_cjson(text), has("jq") and by("jq -c .", text) or "?",
    by(host .. " map _", text)))
end
for _, suffix in ipairs { "", ".m", ".e", ".s" } do os.remove(output .. suffix) end
os.remove(input)
