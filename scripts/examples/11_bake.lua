-- Bakes the height maps of a folder into normal maps, and the next time only those that changed.
--
--     lua 11_bake.lua FOLDER          every FOLDER/*.pgm becomes FOLDER/*.ppm
--
-- What was done is kept in FOLDER/bake.mj. Edit a map, or the code below, and run it again: what the change reaches is
-- baked, the rest is found. `mantichora journal FOLDER/bake.mj why ID` says of a map why it was baked.

local mantichora = require "mantichora"

local strength = 2.0

-- -- maps ------------------------------------------------------------------------------------

-- A plain PGM of bytes: its width, its height, and the rows of heights from 0 to 1.
local function read_map(path)
  local file <close> = assert(io.open(path, "rb"))
  local width, height, most, at = file:read("a"):match("^P2%s+(%d+)%s+(%d+)%s+(%d+)()")
  assert(width, path .. " is no plain PGM")
  width, height, most = math.tointeger(width), math.tointeger(height), tonumber(most)
  file:seek("set", at - 1)
  local rows = {}
  for y = 1, height do
    rows[y] = {}
    for x = 1, width do
      rows[y][x] = (file:read("n") or error(path .. " ends too early", 0)) / most
    end
  end
  return width, height, rows
end

-- The height beside a point; maps go on at their other side.
local function height_at(rows, x, y)
  local row = rows[(y - 1) % #rows + 1]
  return row[(x - 1) % #row + 1]
end

local function normal_at(rows, x, y)
  local dx = (height_at(rows, x - 1, y) - height_at(rows, x + 1, y)) * strength
  local dy = (height_at(rows, x, y - 1) - height_at(rows, x, y + 1)) * strength
  local length = math.sqrt(dx * dx + dy * dy + 1)
  return dx / length, dy / length, 1 / length
end

local function as_byte(value)
  return math.floor((value + 1) * 127.5 + 0.5)
end

-- -- the task --------------------------------------------------------------------------------

-- Returns how many points it has baked.
local function bake(source, target)
  local width, height, rows = read_map(source)
  local lines = { ("P3\n%d %d\n255"):format(width, height) }
  for y = 1, height do
    for x = 1, width do
      local nx, ny, nz = normal_at(rows, x, y)
      lines[#lines + 1] = ("%d %d %d"):format(as_byte(nx), as_byte(ny), as_byte(nz))
    end
  end
  local file <close> = assert(io.open(target, "wb"))
  file:write(table.concat(lines, "\n"), "\n")
  return width * height
end

-- -- all of them -----------------------------------------------------------------------------

local function maps_of(folder)
  local sources = {}
  local pipe <close> = assert(io.popen(("ls '%s'"):format(folder:gsub("'", "'\\''"))))
  for name in pipe:lines() do
    if name:find("%.pgm$") then sources[#sources + 1] = folder .. "/" .. name end
  end
  return sources
end

local function target_of(source) return (source:gsub("%.pgm$", ".ppm")) end

local folder = ... or "."
local sources = maps_of(folder)
local pool <close> = mantichora { journal = folder .. "/bake.mj", poolbar = true, name = "maps" }
for _, source in ipairs(sources) do
  local target = target_of(source)
  pool:run_with({ name = source, inputs = { source }, outputs = { target } }, bake, source, target)
end

local points = 0
for _, baked in ipairs(pool:returns()) do points = points + baked end
local found = pool:stats().found
print(("%d maps, %d points: %d baked, %d found"):format(#sources, points, #sources - found, found))
