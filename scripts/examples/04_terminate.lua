-- Tasks can be stopped while they run: their bars stay where they were.
--
--     mantichora scripts/examples/04_terminate.lua

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"

local function task_loop(name, ret)
  local n = math.random(8000, 10000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  return ret
end

local mcore = mantichora { on_error = "return" }

mcore:run(task_loop, "task", "result1")
mcore:run(task_loop, "another task", "result2")
mcore:run(task_loop, "still another task", "result3")
mcore:run(task_loop, "yet another task", "result4")
mcore:run(task_loop, "task again", "result5")
mcore:run(task_loop, "more task", "result6")

mantichora.sleep(0.5)
mcore:terminate()

-- What had ended before has its value; what had not is a failure that says so.
local results = mcore:returns()
mcore:close()

for i = 1, results.n do
  local result = results[i]
  print(type(result) == "table" and result.kind or result)
end
