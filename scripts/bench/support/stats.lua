-- Medians and quartiles.

local stats = {}

local function at(sorted, part)
  local place = 1 + (#sorted - 1) * part
  local low = math.floor(place)
  local high = math.ceil(place)
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low)
end

--- The median of a list of numbers, and its lower and upper quartile.
function stats.summary(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  return { median = at(sorted, 0.5), low = at(sorted, 0.25), high = at(sorted, 0.75) }
end

return stats
