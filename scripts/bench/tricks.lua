-- What each trick of runtime/base/tricks.h gains: works with and without it, in turns. The ratios are
-- with / without, so below 1 it pays; wall time, and processor time of the parent and its workers, which
-- a busy machine disturbs less. Not one of all.lua's: a second command, with a build of its own that has
-- the switches (build/tricks), made when it is missing or old.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local folder = arg[0]:match("^(.*)/[^/]*$") or "."
local root = folder .. "/../.."

-- The works that a trick is for: name, words, size; the tricks that may matter there.
local WORKS = {
  { "closures", "10000 empty closures, run and returned", 10000, { "feed", "burst", "naps", "silent" } },
  { "busy", "2000 tasks of 30 us, run and returned", 2000, { "feed", "burst", "naps" } },
  { "alone", "2000 tasks of 30 us, no helper thread", 2000, { "feed" } },
  { "map", "map over 200000 integers", 200000, { "naps", "silent", "items" } },
  { "turns", "2000 tasks, each waited for", 2000, { "burst", "silent" } },
  { "cycle", "30 pools of 8: make, one result, close", 30, { "lazy" } },
  { "floats", "4 results of 500000 floats", 4, { "early", "huge" } },
  { "strings", "8 results of 16 MiB strings", 8, { "huge" } },
}

local function closure(a, b)
  return function() return a + b end
end

local function floats(count)
  local list = {}
  for i = 1, count do list[i] = i * 0.1 end
  return list
end

-- One round of each work, with a pool that is made before and closed after.
local rounds = {}

function rounds.closures(mantichora, size)
  local mcore <close> = mantichora { nworkers = 2 }
  for i = 1, size do mcore:run(closure(i, 1)) end
  assert(mcore:returns().n == size)
end

local function busy(n)
  return function()
    local sum = 0
    for i = 1, 3000 do sum = sum + i % n end
    return sum
  end
end

function rounds.busy(mantichora, size)
  local mcore <close> = mantichora { nworkers = 2 }
  for i = 1, size do mcore:run(busy(i)) end
  assert(mcore:returns().n == size)
end

function rounds.alone(mantichora, size)
  local mcore <close> = mantichora { nworkers = 2, background = false }
  for i = 1, size do mcore:run(busy(i)) end
  assert(mcore:returns().n == size)
end

function rounds.map(mantichora, size)
  local mcore <close> = mantichora { nworkers = 2 }
  local list = {}
  for i = 1, size do list[i] = i end
  assert(mcore:map(function(x) return x + 1 end, list).n == size)
end

function rounds.turns(mantichora, size)
  local mcore <close> = mantichora { nworkers = 2 }
  for i = 1, size do
    mcore:run(closure(i, 1))
    local _, value = mcore:receive_one()
    assert(value == i + 1)
  end
end

function rounds.cycle(mantichora, size)
  for i = 1, size do
    local mcore <close> = mantichora { nworkers = 8 }
    mcore:run(closure(i, 1))
    local _, value = mcore:receive_one()
    assert(value == i + 1)
  end
end

function rounds.floats(mantichora, size)
  local mcore <close> = mantichora { nworkers = 2 }
  for _ = 1, size do
    mcore:run(function() return floats(500000) end)
    local _, list = mcore:receive_one()
    assert(#list == 500000)
  end
end

function rounds.strings(mantichora, size)
  local mcore <close> = mantichora { nworkers = 2 }
  for _ = 1, size do
    mcore:run(function() return ("x"):rep(2 ^ 24) end)
    local _, text = mcore:receive_one()
    assert(#text == 2 ^ 24)
  end
end

-- A program: wall and processor seconds of a round.
local function program(work)
  return function(size)
    local limits = bench.limits()
    local mantichora = require "mantichora"
    return function()
      collectgarbage()
      local wall, cpu = limits.clock(), limits.cpu()
      rounds[work](mantichora, size)
      return ("%.9f %.9f"):format(limits.clock() - wall, limits.cpu() - cpu)
    end
  end
end

local ours = {} -- programs by name
for _, work in ipairs(WORKS) do ours[work[1]] = program(work[1]) end

local function with_switches(words, without)
  local command = { "env", ("LUA_CPATH=%s/build/tricks/lua/?.so"):format(root), "MANTICHORA_WITHOUT=" .. without,
    ours = true }
  return table.move(words, 1, #words, #command + 1, command)
end

local function build()
  local command = ("cd '%s' && cmake -S . -B build/tricks -DMANTICHORA_SWITCHES=ON -DMANTICHORA_MODULE_ONLY=ON"
    .. " >/dev/null && cmake --build build/tricks >/dev/null"):format(root)
  assert(os.execute(command), "cannot build with switches")
end

local function programs(quick)
  build()
  local list = {}
  for _, work in ipairs(WORKS) do
    local size = quick and 2 or work[3]
    list[#list + 1] = { work[1], with_switches(bench.ours(work[1], size), ""), times = 3 }
    for _, trick in ipairs(work[4]) do
      list[#list + 1] = { work[1] .. "-" .. trick, with_switches(bench.ours(work[1], size), trick),
        times = 3 }
    end
  end
  return list
end

local function rows()
  local list = {}
  for _, work in ipairs(WORKS) do
    for _, trick in ipairs(work[4]) do
      for column, what in ipairs { "time", "CPU" } do
        list[#list + 1] = { work = ("%s: %s"):format(work[2], what), unit = "ms", against = "without " .. trick,
          ours = function(f) return f[work[1]][column] end,
          theirs = function(f) return f[work[1] .. "-" .. trick][column] end }
      end
    end
  end
  return list
end

return bench.main {
  name = "tricks", size = 0, quick = 1, rounds = 7, ours = ours,
  programs = function(size) return programs(size == 1) end, rows = rows,
}
