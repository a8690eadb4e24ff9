-- How much memory workers over a large heap use, all together with their parent, as the kernel counts it.

local shell = require "spec.support.shell"

local sanitized = shell.interpreter:find("asan", 1, true) or shell.interpreter:find("tsan", 1, true)

local prelude = [[
local mantichora = require "mantichora"
local function tables(n)
  local list = {}
  for i = 1, n do list[i] = { i } end
  return list
end
local function closures(n)
  local list = {}
  for i = 1, n do list[i] = function() return i end end
  return list
end
local function chain(n)
  local last
  for i = 1, n do last = { last, i } end
  return last
end
local function size_of(make, n)
  collectgarbage()
  local before = collectgarbage "count"
  local kept = make(n)
  collectgarbage()
  return (collectgarbage "count" - before) * 1024, kept
end
local function used(pid)
  local file <close> = io.open(("/proc/%s/smaps_rollup"):format(pid))
  return tonumber((file and file:read("a") or ""):match("\nPss:%s*(%d+)") or 0) * 1024
end
]]

-- Tasks that build and drop; what was used at the most, and what may be.
local measure = prelude .. [=[
local make = ({ tables = tables, closures = closures, chain = chain })[arg[1]]
local n, ntasks, times, nworkers = tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4]), 3
collectgarbage(arg[5])
local live = size_of(make, n) * nworkers
local heap = tables(1200000)
collectgarbage()
if arg[6] == "grown" then collectgarbage "generational" end
for i = #heap, 2200000 do heap[i] = { i } end
if arg[6] ~= "grown" then collectgarbage() end
local alone, most = used "self", 0
local pool <close> = mantichora { nworkers = nworkers, gc = "auto" }
for _ = 1, ntasks do pool:run(function() for _ = 1, times do make(n) end end) end
repeat
  local finished, together = pool:poll(0.02), used "self"
  for _, worker in ipairs(pool:workers()) do together = together + used(worker.pid) end
  if together > most then most = together end
until finished == ntasks
assert(#heap > 0)
print(most // 2^20, (1.3 * alone + 3 * live) // 2^20)
]=]

local function run(code, ...)
  local folder = shell.folder()
  shell.write(folder .. "/program.lua", code)
  local words = { shell.interpreter, folder .. "/program.lua", ... }
  local got = shell.run(table.concat(words, " "), { timeout = 100 })
  shell.remove(folder)
  assert.equal(0, got.status, got.err)
  return got.out
end

describe("memory of workers over a large heap", function()
  local cases = {
    { "a structure that one task builds again and again", "tables", 100000, 3, 40 },
    { "small structures of one task", "tables", 12000, 3, 200 },
    { "a structure of each of many tasks", "tables", 100000, 90, 1 },
    { "closures", "closures", 100000, 3, 40 },
    { "a chain of tables", "chain", 100000, 3, 40 },
  }
  for _, case in ipairs(cases) do
    for _, mode in ipairs { "incremental", "generational" } do
      it(("is bounded: %s, before %s"):format(case[1], mode), function()
        if sanitized then return pending("sanitizers have memory of their own") end
        local out = run(measure, case[2], case[3], case[4], case[5], mode)
        local most, allowed = out:match("^(%S+)\t(%S+)\n$")
        assert.is_true(tonumber(most) <= tonumber(allowed), out)
      end)
    end
  end

  it("is bounded where the parent's next full collection is near", function()
    if sanitized then return pending("sanitizers have memory of their own") end
    local out = run(measure, "tables", 100000, 3, 40, "generational", "grown")
    local most, allowed = out:match("^(%S+)\t(%S+)\n$")
    assert.is_true(tonumber(most) <= tonumber(allowed), out)
  end)

  local replaced = prelude .. [=[
    local heap = tables(arg[1] == "large" and 1000000 or 10)
    local pool <close> = mantichora { nworkers = 1, gc = arg[2] }
    pool:run(function() end)
    pool:returns()
    local before = pool:workers()[1].pid
    pool:run(load(arg[3]))
    pool:run(function() end)
    pool:returns()
    print(pool:workers()[1].pid ~= before, #heap > 0)
  ]=]

  it("is given back after a task that collects all garbage", function()
    assert.equal("true\ttrue\n", run(replaced, "large", "auto", "'collectgarbage()'"))
  end)

  it("is given back after a task that leaves much", function()
    assert.equal("true\ttrue\n", run(replaced, "large", "auto", "'kept = (\"x\"):rep(100 << 20)'"))
  end)

  it("is let alone after tasks that leave little", function()
    assert.equal("false\ttrue\n", run(replaced, "large", "auto", "'local t = {} for i = 1, 2e5 do t = { i } end'"))
  end)

  it("is let alone where the heap is small, or shall be", function()
    assert.equal("false\ttrue\n", run(replaced, "small", "auto", "'collectgarbage()'"))
    assert.equal("false\ttrue\n", run(replaced, "large", "keep", "'collectgarbage()'"))
  end)

  it("keeps the collector of the parent as it was", function()
    for _, mode in ipairs { "incremental", "generational" } do
      assert.equal(mode .. "\n", run(prelude .. [[
        collectgarbage(arg[1])
        local heap = tables(1000000)
        local pool = mantichora { nworkers = 1 }
        pool:run(function() end)
        pool:returns()
        assert(collectgarbage "generational" == "generational" and #heap > 0)
        pool:close()
        print(collectgarbage "incremental")
      ]], mode))
    end
  end)
end)
