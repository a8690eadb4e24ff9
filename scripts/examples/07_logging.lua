-- What tasks log arrives in the main process, which collects the lines here.
--
--     mantichora scripts/examples/07_logging.lua

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
local logging = require "mantichora.logging"

local function task_log(name, ret)
  local n = math.random(1000, 10000)
  for _ in atpbar(n, name) do
    mantichora.sleep(0.0001)
  end
  logging.info('finishing "%s"', name)
  return ret
end

local lines = {}
logging.basic_config {
  level = "INFO",
  stream = function(line) lines[#lines + 1] = line end,
}

do
  local mcore <close> = mantichora()
  for i = 1, 4 do
    mcore:run(task_log, "task" .. i, "result" .. i)
  end
  mcore:returns()
end

print(table.concat(lines, "\n"))
