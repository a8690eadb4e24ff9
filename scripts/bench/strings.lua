-- A large string as a result and as an argument: the time with its making, and the memory at the peak.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function build(size) return ("0123456789abcdef"):rep(size // 16) end
local function length(text) return #text end

local function fetch(mcore, size)
  mcore:run(build, size)
  return #select(2, mcore:receive_one())
end

local function give(mcore, size)
  mcore:run(length, build(size))
  return select(2, mcore:receive_one())
end

-- A round of either way; the pool is warm.
local function timed(way)
  return function(size)
    local clock = bench.limits().clock
    local mcore = require "mantichora" { nworkers = 2 }
    way(mcore, 16)
    return function()
      collectgarbage()
      local start = clock()
      local got = way(mcore, size)
      local seconds = clock() - start
      assert(got == size)
      return seconds
    end, function() mcore:close() end
  end
end

-- Bytes at the peak, of this process or another. It starts again from what is there now by clear_refs.
local function peak(pid)
  local file <close> = assert(io.open(("/proc/%s/status"):format(pid)))
  return tonumber(file:read("a"):match("VmHWM:%s*(%d+)")) * 1024
end

local function forget_peak(pid)
  local file <close> = assert(io.open(("/proc/%s/clear_refs"):format(pid), "w"))
  file:write("5")
end

-- The peaks of the parent and of its one worker, each above what they had before. The pool is new, for
-- what a worker keeps of a task before is garbage that Lua collects when it likes.
local function measured(way)
  return function(size)
    return function()
      collectgarbage()
      bench.limits().trim()
      local mcore <close> = require "mantichora" { nworkers = 1 }
      way(mcore, 16)
      local worker = mcore:workers()[1].pid
      local before = {}
      for _, pid in ipairs { "self", worker } do
        forget_peak(pid)
        before[pid] = peak(pid)
      end
      assert(way(mcore, size) == size)
      return peak("self") - before.self, peak(worker) - before[worker]
    end
  end
end

local function build_timed(size)
  local clock = bench.limits().clock
  return function()
    collectgarbage()
    local start = clock()
    assert(#build(size) == size)
    return clock() - start
  end
end

return bench.main {
  name = "strings", size = 100 << 20, quick = 1 << 20, rounds = 7,
  ours = {
    result = timed(fetch), argument = timed(give), result_memory = measured(fetch),
    argument_memory = measured(give), build = build_timed,
  },
  programs = function(size)
    return {
      { "result", bench.ours("result", size) },
      { "argument", bench.ours("argument", size) },
      { "build", bench.ours("build", size) },
      { "fresh", bench.limit("transfer", "fresh", size) },
      { "huge", bench.limit("transfer", "huge", size) },
      { "copy", bench.limit("copy", size) },
      { "pool_result", bench.python("pool_text_result", size) },
      { "pool_argument", bench.python("pool_text_argument", size) },
      { "result_memory", bench.ours("result_memory", size) },
      { "argument_memory", bench.ours("argument_memory", size) },
    }
  end,
  rows = function(size)
    local rows = {}
    for _, way in ipairs { "result", "argument" } do
      local work = ("a string of %d MiB as %s %s"):format(size >> 20, way == "result" and "a" or "an", way)
      local function time(against, theirs, target, side)
        rows[#rows + 1] = { work = work, unit = "ms", ours = function(f) return f[way] end, against = against,
          theirs = theirs, target = target, side = side,
          label = side and ("%d MiB as %s"):format(size >> 20, way == "result" and "a result" or "an argument") }
      end
      time("building it + socketpair in C, fresh memory", function(f) return f.build + f.fresh end,
        { "<=", 1.25 }, "limit")
      time("building it + socketpair in C, huge pages", function(f) return f.build + f.huge end)
      time("mp.Pool.apply", function(f) return f["pool_" .. way] end, nil, "Python")
      for i, who in ipairs { "the parent", "the worker" } do
        rows[#rows + 1] = { work = work .. ", peak of " .. who, unit = "MiB", against = "the payload",
          ours = function(f) return f[way .. "_memory"][i] end, theirs = function() return size end,
          target = { "<=", 2.1 } }
      end
    end
    rows[#rows + 1] = { work = "building it", unit = "ms", ours = function(f) return f.build end,
      against = "memcpy of as much", theirs = function(f) return f.copy end }
    return rows
  end,
}
