-- For "did you mean": how far two words are apart.
-- Returns the function when it is called; loaded where a message needs it.

-- The number of letters to insert, remove or replace to make `a` of `b`.
return function(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local least = diagonal + (a:byte(i) == b:byte(j) and 0 or 1)
      if row[j] + 1 < least then least = row[j] + 1 end
      if row[j - 1] + 1 < least then least = row[j - 1] + 1 end
      diagonal, row[j] = row[j], least
    end
  end
  return row[#b]
end
