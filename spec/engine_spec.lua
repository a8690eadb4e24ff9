-- The engine of scripts/examples/engine, without a screen: its results and its picture, not its times.

local shell = require "spec.support.shell"

local build = os.getenv("MANTICHORA_BUILD") or "build"
local ENGINE = build .. "/examples/engine"
local WIDTH, HEIGHT = 96, 72

local function is_built()
  local file = io.open(ENGINE, "rb")
  return file and file:close() or false
end

local function run(options)
  return shell.run(("SDL_VIDEODRIVER=dummy %s --size %dx%d --tile 24 --samples 8 %s"):format(ENGINE, WIDTH,
    HEIGHT, options), { timeout = 120 })
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

-- A function that gives the three bytes of a pixel, and the bytes themselves.
local function read_ppm(path)
  local width, height, bytes = read(path):match("^P6\n(%d+) (%d+)\n255\n(.*)$")
  assert.are.equal(WIDTH, tonumber(width))
  assert.are.equal(HEIGHT, tonumber(height))
  assert.are.equal(WIDTH * HEIGHT * 3, #bytes)
  return function(x, y)
    return bytes:byte(3 * (y * WIDTH + x) + 1, 3 * (y * WIDTH + x) + 3)
  end, bytes
end

describe("the engine", function()
  local folder

  setup(function()
    folder = shell.folder()
  end)

  teardown(function()
    shell.remove(folder)
  end)

  if not is_built() then
    pending("is not built: SDL2, SDL2_gfx or libpng was not found")
    return
  end

  it("bakes all tiles while it draws, and measures its frames", function()
    local got = run("--frames 20 --measure 10")
    assert.are.equal("", got.err)
    assert.are.equal(0, got.status)
    assert.truthy(got.out:find("^12 of 12 tiles\n"), got.out)
    assert.are.equal("10", got.out:match("\nframe without the pool +(%d+) +[%d.]+ +[%d.]+ +[%d.]+ +%d+\n"))
    for _, row in ipairs { "frame while it bakes", "of that: the pool's calls", "their processor time" } do
      local frames = got.out:match("\n" .. row .. " +(%d+) +[%d.]+ +[%d.]+ +[%d.]+ +%d+\n")
      assert.is_true(tonumber(frames) >= 1, got.out)
    end
  end)

  it("shows the right picture: sky, ground and a red sphere", function()
    local path = folder .. "/picture.ppm"
    assert.are.equal(0, run("--frames 1 --picture " .. path).status)
    local pixel, bytes = read_ppm(path)
    assert.falsy(bytes:find("\0\0\0", 1, true)) -- no tile is missing
    local r, g, b = pixel(WIDTH // 2, 2)
    assert.is_true(b > g and g > r and r > 150, ("sky %d %d %d"):format(r, g, b))
    r, g, b = pixel(WIDTH * 28 // 100, HEIGHT * 45 // 100)
    assert.is_true(r > g + 40 and r > b + 40, ("sphere %d %d %d"):format(r, g, b))
    for x = 0, WIDTH - 1 do
      r, g, b = pixel(x, HEIGHT - 1)
      assert.is_true(math.max(r, g, b) - math.min(r, g, b) < 70, ("ground %d %d %d"):format(r, g, b))
    end
  end)

  it("bakes the same picture with any number of workers", function()
    local pictures = {}
    for i, workers in ipairs { 1, 3 } do
      local path = ("%s/%d.ppm"):format(folder, workers)
      assert.are.equal(0, run(("--frames 1 --workers %d --picture %s"):format(workers, path)).status)
      pictures[i] = read(path)
    end
    assert.is_true(pictures[1] == pictures[2])
  end)

  it("makes a screenshot", function()
    local path = folder .. "/screenshot.png"
    assert.are.equal(0, run(("--frames 1 --screenshot %s 6"):format(path)).status)
    local png = read(path)
    assert.are.equal("\137PNG\r\n\26\n", png:sub(1, 8))
    assert.are.equal("IHDR", png:sub(13, 16))
    assert.are.same({ 800, 450, 25 }, { string.unpack(">I4I4", png, 17) })
    assert.are.equal("IEND", png:sub(-8, -5))
    assert.is_true(#png > 4000, #png .. " bytes")
  end)
end)
