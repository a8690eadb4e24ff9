-- Values as tasks finish: receive_one waits for the next one and says whose it is.
--
--     mantichora scripts/examples/05_receive_one.lua

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"

local function task_loop(name, ret)
  local n = math.random(1000, 10000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  return ret
end

local runids, pairs_ = {}, {}
do
  local mcore <close> = mantichora()
  for i = 1, 6 do
    runids[i] = mcore:run(task_loop, "task" .. i, "result" .. i)
  end
  for i = 1, #runids do
    local runid, value = mcore:receive_one()
    pairs_[i] = ("(%d, %s)"):format(runid, value)
  end
  assert(mcore:receive_one() == nil) -- none is outstanding
end

print(table.concat(runids, ", "))
print(table.concat(pairs_, ", "))
