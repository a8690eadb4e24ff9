-- The quick start: six tasks for three workers; their values come in the order of the calls.
--
--     mantichora scripts/examples/02_quick_start.lua

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"

local function task_loop(name, ret)
  local n = math.random(1000, 10000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  return ret
end

local results
do
  local mcore <close> = mantichora { nworkers = 3 }
  mcore:run(task_loop, "task", "result1")
  mcore:run(task_loop, "another task", "result2")
  mcore:run(task_loop, "still another task", "result3")
  mcore:run(task_loop, "yet another task", "result4")
  mcore:run(task_loop, "task again", "result5")
  mcore:run(task_loop, "more task", "result6")
  results = mcore:returns()
end

print(table.concat(results, ", "))
