-- What storm_spec runs under conditions that are hard: a small pool whose tasks print, log and draw.
-- lua5.4 spec/support/errand.lua NWORKERS ENGINE

local fine, problem = pcall(function()
  local mantichora = require "mantichora"
  local atpbar = require "mantichora.atpbar"
  local logging = require "mantichora.logging"
  local count = tonumber(arg[1])
  print("printed by parent")
  local mcore <close> = mantichora { nworkers = count, engine = arg[2], on_error = "return" }
  for i = 1, 3 * count do
    mcore:run(function()
      print("printed by " .. i)
      logging.warning("logged by %d", i)
      for _ in atpbar(10, "bar") do end
      return i
    end)
  end
  local sum = 0
  for _, value in mcore:as_completed() do
    if math.type(value) ~= "integer" then error(value, 0) end
    sum = sum + value
  end
  io.stderr:write("sum ", sum, "\n")
end)
if not fine then io.stderr:write("problem: ", tostring(problem), "\n") end
os.exit(fine)
