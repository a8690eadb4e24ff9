-- What the engine bakes: a path-traced picture, one task for each tile. Run by engine.c, which gives
-- the functions engine.queued and engine.tile.

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
local logging = require "mantichora.logging"
local engine = engine -- luacheck: globals engine

local sqrt, cos, sin, max, floor, random = math.sqrt, math.cos, math.sin, math.max, math.floor, math.random

-- ---------------------------------------------------------------------------------------------
-- The picture. Everything up to bake_tile travels to the workers with each task's function.

local spheres = {
  { x = -1.7, y = 1.0, z = 0.2, radius = 1.0, r = 0.85, g = 0.25, b = 0.2 },
  { x = 0.4, y = 1.2, z = 0.9, radius = 1.2, r = 0.95, g = 0.95, b = 0.95, mirror = true },
  { x = 2.3, y = 0.7, z = -0.4, radius = 0.7, r = 0.2, g = 0.55, b = 0.3 },
  { x = 0.4, y = 0.45, z = -1.5, radius = 0.45, r = 0.9, g = 0.7, b = 0.2, mirror = true },
  { x = -0.9, y = 0.3, z = -1.6, radius = 0.3, r = 0.25, g = 0.35, b = 0.85 },
}
local sun = { x = -0.485, y = 0.728, z = -0.485 } -- towards it

-- The nearest thing that a ray meets: its distance and the sphere; `false` for the ground, nil: sky.
local function meet(ox, oy, oz, dx, dy, dz)
  local nearest, found = 1e9, nil
  if dy < 0 then nearest, found = -oy / dy, false end
  for i = 1, #spheres do
    local s = spheres[i]
    local x, y, z = ox - s.x, oy - s.y, oz - s.z
    local half = x * dx + y * dy + z * dz
    local d = half * half - (x * x + y * y + z * z - s.radius * s.radius)
    if half < 0 and d > 0 then
      local distance = -half - sqrt(d)
      if distance > 1e-4 and distance < nearest then nearest, found = distance, s end
    end
  end
  return nearest, found
end

-- A direction around a normal, the more likely the nearer.
local function scatter(nx, ny, nz)
  local z, turn = 2 * random() - 1, 6.283185307 * random()
  local around = sqrt(1 - z * z)
  local x, y
  x, y, z = nx + around * cos(turn), ny + around * sin(turn), nz + z
  local length = sqrt(x * x + y * y + z * z) + 1e-9
  return x / length, y / length, z / length
end

-- The light that comes against a ray.
local function light(ox, oy, oz, dx, dy, dz)
  local r, g, b, kr, kg, kb = 0, 0, 0, 1, 1, 1
  for _ = 1, 6 do
    local distance, hit = meet(ox, oy, oz, dx, dy, dz)
    if hit == nil then
      local up = max(dy, 0) ^ 0.6
      return r + kr * (0.95 - 0.6 * up), g + kg * (0.95 - 0.4 * up), b + kb * (0.95 - 0.02 * up)
    end
    ox, oy, oz = ox + dx * distance, oy + dy * distance, oz + dz * distance
    local nx, ny, nz, ar, ag, ab = 0, 1, 0, 0.75, 0.73, 0.7
    if hit then
      nx, ny, nz = (ox - hit.x) / hit.radius, (oy - hit.y) / hit.radius, (oz - hit.z) / hit.radius
      ar, ag, ab = hit.r, hit.g, hit.b
    elseif (floor(ox) + floor(oz)) % 2 == 0 then
      ar, ag, ab = 0.28, 0.3, 0.34
    end
    kr, kg, kb = kr * ar, kg * ag, kb * ab
    if hit and hit.mirror then
      local along = 2 * (dx * nx + dy * ny + dz * nz)
      dx, dy, dz = dx - along * nx, dy - along * ny, dz - along * nz
    else
      local facing = nx * sun.x + ny * sun.y + nz * sun.z
      if facing > 0 then
        local _, shadow = meet(ox + nx * 1e-3, oy + ny * 1e-3, oz + nz * 1e-3, sun.x, sun.y, sun.z)
        if shadow == nil then
          r, g, b = r + kr * facing * 1.1, g + kg * facing * 1.0, b + kb * facing * 0.85
        end
      end
      dx, dy, dz = scatter(nx, ny, nz)
      kr, kg, kb = kr * 0.55, kg * 0.55, kb * 0.55 -- the rest is what the sun brings
    end
    ox, oy, oz = ox + nx * 1e-3, oy + ny * 1e-3, oz + nz * 1e-3
  end
  return r, g, b
end

local function byte(value)
  return floor(255 * (value < 1 and value or 1) ^ (1 / 2.2) + 0.5)
end

-- One tile: its pixels as a string of three bytes each.
local function bake_tile(number, tile, picture)
  local rows = {}
  for row in atpbar(tile.h, "tile " .. number) do
    local bytes = {}
    for column = 0, tile.w - 1 do
      local r, g, b = 0, 0, 0
      for _ = 1, picture.samples do
        local x = (2 * (tile.x + column + random()) - picture.w) / picture.h
        local y = (picture.h - 2 * (tile.y + row - 1 + random())) / picture.h - 0.22
        local length = sqrt(x * x + y * y + 3.24)
        local pr, pg, pb = light(0.3, 1.55, -6.2, x / length, y / length, 1.8 / length)
        r, g, b = r + pr, g + pg, b + pb
      end
      bytes[#bytes + 1] = string.char(byte(r / picture.samples), byte(g / picture.samples),
        byte(b / picture.samples))
    end
    rows[row] = table.concat(bytes)
  end
  if number % 8 == 0 then logging.info("tile %d is baked", number) end
  return table.concat(rows)
end

-- ---------------------------------------------------------------------------------------------
-- What engine.c calls

local bake = {}

-- Make the pool and its workers: while the engine loads.
function bake.load(workers)
  logging.basic_config { level = "INFO" }
  bake.pool = mantichora { nworkers = workers, background = false, seed = 1, name = "bake" }
  bake.pool:start()
end

-- Queue all tiles.
function bake.start(width, height, size, samples)
  local picture, number = { w = width, h = height, samples = samples }, 0
  for y = 0, height - 1, size do
    for x = 0, width - 1, size do
      local tile = { x = x, y = y, w = math.min(size, width - x), h = math.min(size, height - y) }
      number = number + 1
      local runid = bake.pool:run(bake_tile, number, tile, picture)
      engine.queued(runid, tile.x, tile.y, tile.w, tile.h)
    end
  end
end

-- Show what has come: called when mantichora_poll() says that something waits.
function bake.receive()
  for _, entry in ipairs(bake.pool:receive_finished()) do
    engine.tile(entry[1], entry[2]) -- run ID, pixels
  end
end

function bake.stop()
  bake.pool:terminate()
  bake.pool:close()
end

return bake
