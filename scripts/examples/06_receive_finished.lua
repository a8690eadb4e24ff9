-- Values of all tasks that have finished by now, without waiting for any.
--
--     mantichora scripts/examples/06_receive_finished.lua

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
  while #pairs_ < #runids do
    for _, entry in ipairs(mcore:receive_finished()) do
      local runid, value = table.unpack(entry, 1, entry.n)
      pairs_[#pairs_ + 1] = ("(%d, %s)"):format(runid, value)
    end
    mantichora.sleep(0.02) -- here a program would do something else
  end
end

print(table.concat(runids, ", "))
print(table.concat(pairs_, ", "))
