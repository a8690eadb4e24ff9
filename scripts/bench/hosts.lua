-- Many machines, each of them this one: empty tasks, `map`, and 100 MB there and back, by two slots, over each of the
-- carriers in turn with the fork engine; and short tasks over a long way. The targets are those that are promised.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"
local machines = require "support.machines"
local programs = require "support.programs"

local function empty() end
local function increment(x) return x + 1 end
local function echo(text) return text end
local function nap(mantichora) mantichora.sleep(0.01) end

local ITEMS <const>, BYTES <const>, SHORT <const> = 20, 5000, 0.01 -- for each task of `size`
local TRIP <const> = 20 -- milliseconds
local QUICK <const> = 200

-- Seconds that `work` takes.
local function timed(clock, work, ...)
  collectgarbage()
  local start = clock()
  work(...)
  return clock() - start
end

-- Whether MANTICHORA_HOSTS says another machine is the caller's business.
local function pool(size)
  local clock = bench.limits().clock
  local mcore = require "mantichora" { nworkers = 2, capture_warn = 0, progressbar = false }
  local list, text = {}, ("0123456789abcdef"):rep(size * BYTES // 16)
  for i = 1, size * ITEMS do list[i] = i end
  mcore:run(empty)
  mcore:returns()
  local function run()
    for _ = 1, size do mcore:run(empty) end
    assert(mcore:returns().n == size)
  end
  local function map()
    local results = mcore:map(increment, list)
    assert(results.n == #list and results[#list] == #list + 1)
  end
  local function carry()
    mcore:run(echo, text)
    assert(mcore:returns()[1] == text)
  end
  return function() return timed(clock, run), timed(clock, map), timed(clock, carry) end, function() mcore:close() end
end

-- Tasks of 10 ms.
local function naps(size)
  local mantichora = require "mantichora"
  local clock, count = bench.limits().clock, math.ceil(size * SHORT)
  local mcore = mantichora { nworkers = 2, progressbar = false }
  local function run()
    for _ = 1, count do mcore:run(nap, mantichora) end
    assert(mcore:returns().n == count)
  end
  run()
  return function() return timed(clock, run) / (count * 0.01 / 2) end, function() mcore:close() end
end

-- The bytes of `carry` through a command.
local function through(command, clock, bytes)
  local path = os.tmpname()
  local file <close> = assert(io.open(path, "wb"))
  file:write(("0123456789abcdef"):rep(bytes // 16))
  file:flush()
  return function() return timed(clock, os.execute, ("%s <%s >/dev/null"):format(command, path)) end,
    function() os.remove(path) end
end

return bench.main {
  name = "hosts", size = 20000, quick = QUICK, rounds = 9,
  ours = {
    pool = pool, naps = naps,
    cat = function(size) return through(os.getenv "BENCH_SSH" .. " cat", bench.limits().clock, size * BYTES) end,
  },
  programs = function(size)
    local list = {
      { "fork", bench.ours("pool", size) },
      { "stdio", bench.with(bench.ours("pool", size), "MANTICHORA_HOSTS=" .. machines.command()) },
      { "far", bench.with(bench.ours("naps", size), "MANTICHORA_HOSTS=" .. machines.far(TRIP // 2)) },
    }
    local ssh, why = machines.ssh()
    if ssh then
      list[#list + 1] = { "ssh", bench.with(bench.peer("pool", size), "MANTICHORA_HOSTS=" .. machines.by_ssh(ssh)) }
      list[#list + 1] = { "cat", bench.with(bench.peer("cat", size), "BENCH_SSH=" .. ssh) }
    else
      io.stderr:write(why, "\n")
    end
    if size == QUICK then return list end -- a broker takes seconds to start
    local port, fleet, environment = machines.broker()
    if port then
      list[#list + 1] = { "mq", bench.with(bench.peer("pool", size), "MANTICHORA_HOSTS=" .. fleet, environment) }
      list[#list + 1] = { "broker", { programs.limit("broker", "-lrabbitmq"), port, size * BYTES } }
      list[#list + 1] = { "keeper", { programs.limit("broker", "-lrabbitmq"), port, size * BYTES, "persistent" } }
    else
      io.stderr:write(fleet, "\n")
    end
    return list
  end,
  rows = function(size)
    local rows = {}
    local names = { stdio = "a command", ssh = "ssh", mq = "RabbitMQ" }
    local function rates(column, count, unit, work, targets)
      for i, way in ipairs { "stdio", "ssh", "mq" } do
        rows[#rows + 1] = { work = ("%s, %s"):format(work:format(count), names[way]), unit = unit,
          against = "the fork engine", ours = function(f) return count / f[way][column] end,
          theirs = function(f) return count / f.fork[column] end, target = { ">=", targets[i] } }
      end
    end
    rates(1, size, "k/s", "%d empty tasks", { 0.6, 0.25, 0.1 })
    rates(2, size * ITEMS, "M/s", "map over %d integers", { 0.8, 0.5, 0.25 })
    local echoes = ("%d MB there and back"):format(size * BYTES // 1000000)
    for _, echoed in ipairs {
      { "stdio", 3, "the fork engine", function(f) return f.fork[3] end },
      { "ssh", 2, "ssh host cat", function(f) return f.cat end },
      { "mq", 2, "the broker alone", function(f) return f.broker end },
      { "mq", nil, "it alone, writing all to disk", function(f) return f.keeper end },
    } do
      local way, most, against, theirs = table.unpack(echoed)
      rows[#rows + 1] = { work = echoes .. ", " .. names[way], unit = "ms", against = against, theirs = theirs,
        ours = function(f) return f[way][3] end, target = most and { "<=", most } }
    end
    rows[#rows + 1] = { work = ("%d tasks of 10 ms, round trip %d ms"):format(math.ceil(size * SHORT), TRIP),
      unit = "times", ours = function(f) return f.far end, against = "without a way", theirs = function() return 1 end,
      target = { "<=", 1.3 } }
    return rows
  end,
}

