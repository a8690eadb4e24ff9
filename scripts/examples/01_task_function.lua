-- A task function, called directly, without a pool: a progress bar and a value.
--
--     mantichora scripts/examples/01_task_function.lua

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"

-- Sleeps 0.0001 seconds as many times as it happens to choose. `name` stands at the bar, `ret` is
-- what it returns.
local function task_loop(name, ret)
  local n = math.random(1000, 10000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  return ret
end

local result = task_loop("task1", "result1")
atpbar.flush()
print(result)
