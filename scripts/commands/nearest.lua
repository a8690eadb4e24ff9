-- The nearest name for a wrong one.

local core = require "mantichora.commands.core"

--- The first of the names that are nearest to a word.
return function(word, names)
  local distance = core.part "mantichora.distance"()
  local best, least
  for _, name in ipairs(names) do
    local d = distance(word, name)
    if not least or d < least then best, least = name, d end
  end
  return best
end
