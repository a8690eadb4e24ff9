-- `map` over many small integers, by two workers, and over objects of a class of the script; batches adapt by
-- themselves.

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"

local function increment(x) return x + 1 end

local Point = {}
Point.__index = Point
function Point.new(x, y) return setmetatable({ x = x, y = y }, Point) end
function Point:scale(k) return Point.new(self.x * k, self.y * k) end
function Point:area() return self.x * self.y end
function Point.__add(a, b) return Point.new(a.x + b.x, a.y + b.y) end
function Point.__eq(a, b) return a.x == b.x and a.y == b.y end

-- A program whose rounds map over so many items: what makes one, the function, and what is right.
local function mapping(make, f, is_right)
  return function(size)
    local clock = bench.limits().clock
    local mcore = require "mantichora" { nworkers = 2 }
    local list = {}
    for i = 1, size do list[i] = make(i) end
    return function()
      local start = clock()
      local results = mcore:map(f, list)
      local seconds = clock() - start
      assert(results.n == size and is_right(results[1], 1) and is_right(results[size], size))
      return seconds
    end, function() mcore:close() end
  end
end

return bench.main {
  name = "map", size = 1000000, quick = 1000, rounds = 7,
  ours = {
    pool = mapping(function(i) return i end, increment, function(x, i) return x == i + 1 end),
    objects = mapping(function(i) return Point.new(i, i + 1) end, function(p) return p:scale(2) end,
      function(p, i) return getmetatable(p) == Point and p.x == 2 * i end),
    tables = mapping(function(i) return { x = i, y = i + 1 } end, function(p) return { x = p.x * 2, y = p.y * 2 } end,
      function(p, i) return p.x == 2 * i end),
  },
  programs = function(size)
    return {
      { "ours", bench.ours("pool", size) },
      { "pool", bench.python("pool_map", size) },
      { "futures", bench.python("futures_map", size, size // 8) },
      { "objects", bench.ours("objects", size // 10) },
      { "tables", bench.ours("tables", size // 10) },
    }
  end,
  rows = function(size)
    local work = ("map over %d integers"):format(size)
    local function ours(f) return size / f.ours end
    return {
      { work = work, unit = "M/s", ours = ours, against = "mp.Pool.map, automatic chunks",
        theirs = function(f) return size / f.pool end, target = { ">=", 1 },
        label = "map, small items", side = "Python" },
      { work = work, unit = "M/s", ours = ours, against = "ProcessPoolExecutor.map, 8 chunks",
        theirs = function(f) return size / f.futures end },
      { work = ("map over %d objects"):format(size // 10), unit = "M/s",
        ours = function(f) return size // 10 / f.objects end, against = "tables without a class",
        theirs = function(f) return size // 10 / f.tables end, target = { ">=", 0.5 } },
    }
  end,
}
