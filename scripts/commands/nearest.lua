-- The nearest name for a wrong one.

-- Edit distance.
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
    end
  end
  return row[#b]
end

--- The first of the names that are nearest to a word.
return function(word, names)
  local best, least
  for _, name in ipairs(names) do
    local d = distance(word, name)
    if not least or d < least then best, least = name, d end
  end
  return best
end
