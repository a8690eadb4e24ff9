-- Mixed load for a given time; does this process stay as it is?
--
--     lua5.4 scripts/bench/soak.lua [SECONDS [SEED]] >/dev/null          (default: 600 1)
--
-- Rounds of tasks of all kinds (tiny, large, failing, dying, stopped, cancelled, nested, with bars and
-- log records) on two pools that live all the time and one that lives for a round. Every few rounds a
-- line tells how large this process is and what it has open. At the end a verdict: `flat` if the last
-- quarter of the time needs no more than the second did and all tasks ended as they should; exit
-- status 0 then, else 1. (The size goes up and down by some MiB, as large results come and go.)

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
local logging = require "mantichora.logging"

local seconds, seed = tonumber(arg[1] or 600), tonumber(arg[2] or 1)
math.randomseed(seed)
assert(seconds and seconds > 0, "usage: soak.lua [SECONDS [SEED]]")

local function clock()
  local file <close> = assert(io.open("/proc/uptime"))
  return file:read("n")
end

-- A number that a command of the shell prints. Not by a pipe, which would be one more descriptor.
local function ask(command)
  local path = os.tmpname()
  os.execute(command .. " >" .. path)
  local file <close> = assert(io.open(path))
  os.remove(path)
  return file:read("n") or 0
end

local function measure()
  collectgarbage()
  collectgarbage()
  local file <close> = assert(io.open("/proc/self/status"))
  local status = file:read("a")
  return {
    rss = tonumber(status:match("VmRSS:%s*(%d+)")),
    threads = tonumber(status:match("Threads:%s*(%d+)")),
    lua = collectgarbage("count") // 1,
    descriptors = ask("ls /proc/$PPID/fd | wc -l"),
    maps = ask("wc -l < /proc/$PPID/maps"),
  }
end

-- ---------------------------------------------------------------------------------------------
-- Tasks: each a function, how often it comes in a round, and the ways in which it may end.

local function tiny(i) return i + 1 end

local function large(n)
  local text = ("0123456789"):rep(n)
  return text, { text, text }
end

local function takes_large(text) return #text end

local function tables(n)
  local list = {}
  for i = 1, n do list[i] = { name = "item " .. i, value = i / 3, list = list } end
  return list
end

local function logs(i)
  for k = 1, 5 do logging.warning("record %d of %d", k, i) end
end

local function bars(i)
  for _ in atpbar(200, "bar " .. i) do end
end

local function prints(i) print("printed by " .. i) end

local function raises(i) error { number = i } end
local function dies() os.execute("kill -9 $PPID") mantichora.sleep(60) end
local function exits(i) os.exit(i % 200) end
local function unsendable() return coroutine.create(tiny) end
local function sleeps() mantichora.sleep(60) end
local function spins() while true do end end

local function nests(i)
  local inner <close> = mantichora { nworkers = 2 }
  return #inner:map(tiny, { i, i, i })
end

local expected = { ok = 0, error = 0, killed = 0, exited = 0, unsendable = 0, timeout = 0, cancelled = 0 }
local got = { ok = 0, error = 0, killed = 0, exited = 0, unsendable = 0, timeout = 0, cancelled = 0 }

local function load(mcore, small)
  local function run(times, kind, options, f, ...)
    for _ = 1, small and (times + 9) // 10 or times do
      mcore:run_with(options, f, ...)
      expected[kind] = expected[kind] + 1
    end
  end
  run(400, "ok", nil, tiny, 1)
  run(4, "ok", nil, large, 100000)
  run(4, "ok", nil, takes_large, ("x"):rep(1000000))
  run(4, "ok", nil, tables, 1000)
  run(10, "ok", nil, logs, 1)
  run(10, "ok", nil, bars, 2)
  run(10, "ok", nil, prints, 3)
  run(10, "error", nil, raises, 4)
  run(5, "unsendable", nil, unsendable)
  run(2, "exited", nil, exits, 5)
  run(2, "killed", nil, dies)
  run(1, "killed", { retries = 1 }, dies)
  run(1, "timeout", { timeout = 0.02 }, spins)
  run(1, "ok", nil, nests, 6)
  run(20, "ok", { priority = 1 }, tiny, 2)
  local cancelled = {}
  for i = 1, small and 1 or 5 do
    cancelled[i] = mcore:run(sleeps)
    expected.cancelled = expected.cancelled + 1
  end
  for _, runid in ipairs(cancelled) do mcore:cancel(runid) end
end

local function is_failure(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__name == "mantichora failure"
end

local function receive(mcore)
  for _, value in mcore:as_completed() do
    local kind = is_failure(value) and value.kind or "ok"
    got[kind] = got[kind] + 1
  end
end

-- ---------------------------------------------------------------------------------------------

local records = 0
logging.basic_config { level = "INFO", stream = function() records = records + 1 end }

-- What tasks print goes to stdout, the report to stderr; bars are drawn for nobody.
local report = io.stderr
atpbar.set_renderer(function() end)

local fork = mantichora { nworkers = 3, on_error = "return", seed = seed, name = "fork" }
local snapshot = mantichora { nworkers = 2, engine = "snapshot", on_error = "return", background = false }
local start, rounds, samples, next_sample = clock(), 0, {}, 0
local interval = math.max(0.5, seconds / 40)

report:write("seconds  rounds    tasks   rss KiB  lua KiB  descriptors  maps  threads\n")
while clock() - start < seconds do
  load(fork)
  load(snapshot, true)
  do
    local brief <close> = mantichora { nworkers = 2, on_error = "return", background = rounds % 2 == 0 }
    load(brief, true)
    receive(brief)
  end
  receive(fork)
  receive(snapshot)
  rounds = rounds + 1
  if clock() - start >= next_sample then
    mantichora.sleep(0.05) -- dead workers are replaced meanwhile
    local sample = measure()
    samples[#samples + 1] = sample
    next_sample = next_sample + interval
    local tasks = 0
    for _, n in pairs(got) do tasks = tasks + n end
    report:write(("%7.1f %7d %8d %9d %8d %12d %5d %8d\n"):format(clock() - start, rounds, tasks,
      sample.rss, sample.lua, sample.descriptors, sample.maps, sample.threads))
    report:flush()
  end
end
fork:close()
snapshot:close()

-- The values of a figure over a part of the samples, from the least to the greatest.
local function values(figure, from, to)
  local list = {}
  for i = math.floor(#samples * from) + 1, math.max(1, math.floor(#samples * to)) do
    list[#list + 1] = samples[i][figure]
  end
  table.sort(list)
  return list
end

local faults = {}
local function compare(figure, slack, place)
  local second, last = values(figure, 0.25, 0.5), values(figure, 0.75, 1)
  if #second == 0 or #last == 0 then return end
  local before, after = second[place(#second)], last[place(#last)]
  if after > before + slack then
    faults[#faults + 1] = ("%s grew from %d to %d"):format(figure, before, after)
  end
end
local function middle(n) return (n + 1) // 2 end
local function greatest(n) return n end
local function least() return 1 end
-- What a leak raises. In a short run the allocator has not found its size yet.
compare("rss", seconds < 120 and 32768 or 8192, least)
compare("lua", 128, middle)
compare("descriptors", 0, greatest)
compare("maps", 8, middle)
compare("threads", 0, greatest)
for kind, n in pairs(expected) do
  if got[kind] ~= n then faults[#faults + 1] = ("%d ended as %s, not %d"):format(got[kind], kind, n) end
end
if ask("ps -o comm= --ppid $PPID | grep -vcE '^(ps|sh|grep)$'") > 0 then
  faults[#faults + 1] = "processes are left"
end
table.sort(faults)
report:write(("ok %d, error %d, killed %d, exited %d, unsendable %d, timeout %d, cancelled %d; %d log records\n")
  :format(got.ok, got.error, got.killed, got.exited, got.unsendable, got.timeout, got.cancelled, records))
report:write(faults[1] and "not flat: " .. table.concat(faults, "; ") or "flat", "\n")
os.exit(not faults[1])
