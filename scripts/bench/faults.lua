-- What happens when something goes wrong: here, and in the two pools of Python's library.
--
--     lua5.4 scripts/bench/faults.lua [SECONDS]          (default: 8; prints a table in Markdown)
--
-- Each probe is a program of its own. The first task of a pool of two workers comes to grief while a
-- second, healthy one runs beside it; afterwards a third is run. What does not come in SECONDS hangs.

local patience = tonumber(arg[1] or 8)

local systems = { "mantichora", "multiprocessing.Pool", "concurrent.futures" }

-- What the programs start with. A line `NAME: OUTCOME` is printed as soon as it is known.
local preludes = {
  mantichora = [[
    mantichora = require "mantichora"
    local function word(value)
      return type(value) == "table" and value.kind or tostring(value):gsub("\n.*", "")
    end
    function say(name, f, ...)
      local fine, value = pcall(f, ...)
      print(name .. ": " .. (fine and word(value) or "raises: " .. word(value)))
      io.stdout:flush()
    end
    function healthy() mantichora.sleep(0.3) return "done" end
    function probe(...)
      local pool <close> = mantichora { nworkers = 2, on_error = "return" }
      local sent, why = pcall(pool.run, pool, ...)
      local second = pool:run(healthy)
      local results = {}
      for runid, value in pool:as_completed() do results[runid] = value end
      say("second", function() return results[second] end)
      pool:run(healthy)
      say("third", function() return select(2, pool:receive_one()) end)
      say("first", function() return sent and results[0] or error("at run: " .. why, 0) end)
    end ]],
  ["multiprocessing.Pool"] = [[
import multiprocessing, os, signal, sys, time
def say(name, f):
    try: text = str(f())
    except BaseException as e: text = "raises: " + type(e).__name__
    print(name + ": " + text, flush=True)
def healthy(): time.sleep(0.3); return "done"
def new(): return multiprocessing.Pool(2)
def probe(f, *args):
    pool = new()
    first = pool.apply_async(f, args)
    second = pool.apply_async(healthy)
    say("second", second.get)
    say("third", lambda: pool.apply(healthy))
    say("first", first.get)
    pool.terminate()
]],
  ["concurrent.futures"] = [[
import concurrent.futures, os, signal, sys, time
def say(name, f):
    try: text = str(f())
    except BaseException as e: text = "raises: " + type(e).__name__
    print(name + ": " + text, flush=True)
def healthy(): time.sleep(0.3); return "done"
def new(): return concurrent.futures.ProcessPoolExecutor(2)
def probe(f, *args):
    pool = new()
    first = pool.submit(f, *args)
    second = pool.submit(healthy)
    say("second", second.result)
    say("third", lambda: pool.submit(healthy).result())
    say("first", first.result)
    pool.shutdown()
]],
}

-- Each probe: its program in Lua and in Python, or in each kind of Python.
local probes = {
  { "a task raises", lua = [[probe(function() error("oh") end)]], python = [[
def f(): raise ValueError("oh")
probe(f)]] },
  { "a worker is killed", lua = [[probe(function() os.execute("kill -9 $PPID") end)]], python = [[
def f(): os.kill(os.getpid(), signal.SIGKILL)
probe(f)]] },
  { "a task exits", lua = [[probe(function() os.exit(3) end)]], python = [[
def f(): os._exit(3)
probe(f)]] },
  { "a task exits politely", lua = [[probe(function() os.exit(true) end)]], python = [[
def f(): sys.exit(3)
probe(f)]] },
  { "the function is a closure (lambda)", lua = [[local n = 1 probe(function() return n end)]],
    python = [[
n = 1
probe(lambda: n)]] },
  { "an argument cannot be sent", lua = [[probe(function() end, io.tmpfile())]], python = [[
def f(file): pass
probe(f, open("/dev/null"))]] },
  { "a result cannot be sent", lua = [[probe(function() return coroutine.create(print) end)]],
    python = [[
def f(): return open("/dev/null")
probe(f)]] },
  { "results are asked for after terminate", lua = [[
    local pool <close> = mantichora { on_error = "return" }
    pool:run(mantichora.sleep, 60)
    pool:terminate()
    say("first", function() return select(2, pool:receive_one()) end)]],
    ["multiprocessing.Pool"] = [[
pool = new()
first = pool.apply_async(time.sleep, (60,))
pool.terminate()
say("first", first.get)]],
    ["concurrent.futures"] = [[
pool = new()
first = pool.submit(time.sleep, 60)
pool.shutdown(wait=False, cancel_futures=True)
say("first", first.result)]] },
}

local waiting = {
  mantichora = [[
    local pool <close> = mantichora { nworkers = 2 }
    for _ = 1, 2 do pool:run(mantichora.sleep, 60) end
    pool:returns()]],
  ["multiprocessing.Pool"] = [[
pool = new()
pool.map(time.sleep, [60, 60])]],
  ["concurrent.futures"] = [[
pool = new()
list(pool.map(time.sleep, [60, 60]))]],
}

-- ---------------------------------------------------------------------------------------------

local function write(path, text)
  local file <close> = assert(io.open(path, "w"))
  file:write(text)
end

local function read(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read("a")
end

local marks = 0

-- Run a command line for a program of ours; all its processes carry the mark, and none is left.
local function with_program(system, code, use)
  local path = os.tmpname()
  marks = marks + 1
  local mark = ("FAULTS_MARK=%s.%d"):format(path, marks)
  write(path, preludes[system] .. code .. "\n")
  local processes = ([[grep -alsF '%s' /proc/[0-9]*/environ | sed 's|/proc/\([0-9]*\)/.*|\1|']]):format(mark)
  local interpreter = system == "mantichora" and "lua5.4" or "python3"
  local result = use(("env %s %s %s 2>/dev/null"):format(mark, interpreter, path), processes)
  os.execute("kill -9 $(" .. processes .. ") 2>/dev/null")
  os.remove(path)
  return result
end

-- In a few words what a probe printed; what is missing did not come.
local function outcome(system, code)
  return with_program(system, code, function(command)
    local text = read(("timeout -s KILL %d %s"):format(patience, command))
    local got = {}
    for name, value in text:gmatch("(%a+): ([^\n]*)\n") do
      got[name] = value:gsub("^raises: at run: [^:]*:%d+: ", "refused: "):gsub("|", "/")
    end
    local function state(name) return got[name] or "hangs" end
    local first = (state("first") == "hangs" and "**hangs**") or "`" .. state("first") .. "`"
    if not code:find("probe", 1, true) or state("second") == "done" and state("third") == "done" then return first end
    return ("%s; its neighbour: `%s`, the next task: `%s`"):format(first, state("second"), state("third"))
  end)
end

-- Processes that are left two seconds after the parent was killed in the middle of two tasks.
local function orphans(system)
  return with_program(system, waiting[system], function(command, processes)
    os.execute(("exec %s >/dev/null & echo $! >/dev/null; sleep 1.5; kill -9 $!; sleep 2"):format(command))
    local left = select(2, read(processes):gsub("%d+", ""))
    return left == 0 and "none is left" or ("**%d processes** are left"):format(left)
  end)
end

-- Processor time of all processes during three seconds of waiting.
local function idling(system)
  return with_program(system, waiting[system], function(command, processes)
    local function used()
      local sum = 0
      for pid in read(processes):gmatch("%d+") do
        local files = read(("cat /proc/%s/task/*/schedstat 2>/dev/null"):format(pid))
        for nanoseconds in files:gmatch("(%d+) %d+ %d+\n") do sum = sum + tonumber(nanoseconds) end
      end
      return sum
    end
    os.execute(("%s >/dev/null & sleep 1.5"):format(command))
    local before = used()
    os.execute("sleep 3")
    return ("%.2f ms a second"):format((used() - before) / 3e6)
  end)
end

local function row(...) print("| " .. table.concat({ ... }, " | ") .. " |") end

local function row_of(name, f)
  local cells = {}
  for i, system in ipairs(systems) do cells[i] = f(system) end
  row(name, table.unpack(cells))
end

row("fault", table.unpack(systems))
row("---", "---", "---", "---")
for _, probe in ipairs(probes) do
  row_of(probe[1], function(system)
    return outcome(system, system == "mantichora" and probe.lua or probe[system] or probe.python)
  end)
end
row_of("the parent is killed (`kill -9`)", orphans)
row_of("processor time while it waits for two sleeping tasks", idling)
