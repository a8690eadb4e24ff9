-- A program of its own: among many tasks some write over what their worker shares with its pool.
--
--     lua5.4 spec/support/scribble.lua SEED
--
-- says `fine`; what is wrong is raised.

local mantichora = require "mantichora"
local meddle = require "meddle_module"

local seed = math.tointeger(arg[1])
local folder = os.tmpname()
os.remove(folder)
assert(os.execute("mkdir " .. folder))
local cleaner <close> = setmetatable({}, { __close = function() os.execute("rm -r " .. folder) end })
assert(cleaner)

local function is_failure(value) return type(value) == "table" and value.kind ~= nil end

local function begin(name)
  local file <close> = assert(io.open(folder .. "/" .. name, "a"))
  file:write(".")
end

local function begun(name)
  local file <close> = io.open(folder .. "/" .. name)
  return file and #file:read("a") or 0
end

local ends = {
  function() return "fine" end,
  function() meddle.raise(9) end,
  function() mantichora.sleep(0.05) return "fine" end,
  function() os.exit(3) end,
  function() error("raised") end,
}

do
  local mcore <close> = mantichora { nworkers = 3, on_error = "return", timeout = 20, progressbar = false }
  local count, guilty = 120, {}
  for i = 0, count - 1 do
    if (i * 7 + seed) % 30 == 11 then
      guilty[i] = true
      local finally, amount = ends[(i + seed) % #ends + 1], ({ 1, 10, 1000 })[(i // 3 + seed) % 3 + 1]
      mcore:run(function()
        begin(i)
        meddle.scribble(seed * 1000 + i, amount)
        return finally()
      end)
    else
      mcore:run(function() begin(i) return i * i end)
    end
  end
  local results = mcore:returns()
  assert(results.n == count)
  for i = 0, count - 1 do
    local result = results[i + 1]
    assert(begun(i) == 1, ("task %d was begun %d times: %s"):format(i, begun(i), tostring(result)))
    if not guilty[i] and result ~= i * i then
      -- its answer may have been there, not read, when another wrote over it
      assert(is_failure(result) and result.kind == "killed",
        ("task %d: %s"):format(i, tostring(result)))
      assert(result.message == "its worker broke the protocol", result.message)
    end
  end
  local list = {}
  for i = 1, 200 do list[i] = i end
  results = mcore:map(function(i)
    begin("item" .. i)
    if i % 90 == seed % 90 then meddle.scribble(seed * 31 + i, 100) end
    return i
  end, list)
  for i = 1, 200 do
    assert(begun("item" .. i) == 1, ("item %d was begun %d times"):format(i, begun("item" .. i)))
    assert(results[i] == i or results[i].kind == "killed", tostring(results[i]))
  end
  mcore:run(function() return "usable" end)
  assert(mcore:returns()[1] == "usable")
end
print "fine"
