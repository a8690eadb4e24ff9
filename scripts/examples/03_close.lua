-- Without a <close> variable the pool is closed by hand.
--
--     mantichora scripts/examples/03_close.lua

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"

local function task_loop(name, ret)
  local n = math.random(1000, 10000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  return ret
end

local mcore = mantichora()

mcore:run(task_loop, "task", "result1")
mcore:run(task_loop, "another task", "result2")
mcore:run(task_loop, "still another task", "result3")
mcore:run(task_loop, "yet another task", "result4")
mcore:run(task_loop, "task again", "result5")
mcore:run(task_loop, "more task", "result6")

local results = mcore:returns()

mcore:close()
print(table.concat(results, ", "))
