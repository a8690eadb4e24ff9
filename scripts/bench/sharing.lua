-- A parent with a large heap of small tables, and workers that collect garbage: how much memory do all
-- use together (proportional set size), against the parent alone and what the workers made themselves?

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local NWORKERS = 4

local function small_tables(bytes)
  local list, base = {}, collectgarbage "count" * 1024
  repeat
    for _ = 1, 1000 do list[#list + 1] = { #list } end
  until collectgarbage "count" * 1024 - base >= bytes
  return list
end

local function used(pid)
  local file <close> = assert(io.open(("/proc/%s/smaps_rollup"):format(pid)))
  return tonumber(file:read("a"):match("\nPss:%s*(%d+)")) * 1024
end

-- In a worker: some live data, then garbage until the collector has come round several times. The size
-- of what lives, the collections, and the worker. It sleeps a little, so that each worker gets a task.
local function collects(small, times, sleep)
  local base = collectgarbage "count"
  live = small(1 << 20) -- luacheck: ignore 111
  local size = (collectgarbage "count" - base) * 1024
  local seen = 0
  local function again()
    setmetatable({}, { __gc = function()
      seen = seen + 1
      again()
    end })
  end
  again()
  repeat
    for i = 1, 10000 do local _ = { i, { i } } end
  until seen >= times
  sleep(0.3)
  return size, seen
end

local function build_pool(options)
  return function(size)
    local mantichora = require "mantichora"
    local heap = small_tables(size << 20)
    return function()
      local alone = used "self"
      local mcore <close> = mantichora { nworkers = NWORKERS, gc = options.gc }
      for _ = 1, NWORKERS do mcore:run(collects, small_tables, 10, mantichora.sleep) end
      local live = 0
      for _, bytes in mcore:as_completed() do live = live + bytes end
      local together = used "self"
      for _, worker in ipairs(mcore:workers()) do
        assert(worker.tasks == 1, "a worker had no task")
        together = together + used(worker.pid)
      end
      assert(#heap > 0)
      return together, alone + live
    end
  end
end

return bench.main {
  name = "sharing", size = 512, quick = 4, rounds = 3, -- MiB
  ours = { auto = build_pool { gc = "auto" } },
  programs = function(size)
    return { { "ours", bench.ours("auto", size) }, { "pool", bench.python("pool_sharing", size) } }
  end,
  rows = function(size)
    local work = ("memory of %d workers over %d MiB of tables"):format(NWORKERS, size)
    return {
      { work = work, unit = "MiB", ours = function(f) return f.ours[1] end,
        against = "the parent alone + what workers keep", theirs = function(f) return f.ours[2] end,
        target = { "<=", 1.05 }, label = "memory over a large heap", side = "limit" },
      { work = work .. ", by the parent alone", unit = "fold",
        ours = function(f) return f.ours[1] / f.ours[2] end, against = "mp.Pool with gc.freeze",
        theirs = function(f) return f.pool end, label = "memory over a large heap", side = "Python" },
    }
  end,
}
