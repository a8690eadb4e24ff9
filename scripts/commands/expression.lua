-- EXPR: text to a function of item and number.

local expression = {}

-- The names stand on the first line, before the text, so that lines in messages are those of the text.
local head = "local _, i = ...; "

local function compile(text, name)
  local f = load(head .. "return " .. text .. "\n", "=" .. name, "t")
  if f then return f end
  return load(head .. text .. "\n", "=" .. name, "t")
end

--- The function of an EXPR, or nil and a message. What compiles after `return` is an expression; else
-- it is a chunk.
function expression.compile(text)
  return compile(text, "EXPR")
end

--- The function that a file returns which was loaded as a chunk, or nil and a message.
function expression.of_file(path, chunk)
  local fine, f = pcall(chunk)
  if not fine then return nil, tostring(f) end
  if type(f) ~= "function" then
    return nil, ("%s must return a function of item and number: it returned a %s"):format(path, type(f))
  end
  return f
end

return expression
