-- What a pool takes of the machine: how many workers (resize), their memory, the free memory; and what they do
-- at their end (fini).

local logging = require "mantichora.logging"
local mantichora = require "mantichora"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local folder
setup(function() folder = shell.folder() end)
teardown(function() shell.remove(folder) end)

local function lines_of(path)
  local list = {}
  local file <close> = io.open(path)
  for line in (file and file:lines() or function() end) do list[#list + 1] = line end
  return list
end

local function slots(pool)
  local list = {}
  for i, worker in ipairs(pool:workers()) do list[i] = worker.slot end
  return list
end

-- A task that notes in the file when it begins and ends.
local function noting(path, duration)
  return function()
    local file <close> = assert(io.open(path, "a"))
    file:setvbuf("no")
    file:write "begin\n"
    require("mantichora").sleep(duration)
    file:write "end\n"
  end
end

-- How many ran at most at any begin behind the line `mark`.
local function most_at_begin(path, mark)
  local running, most, counts = 0, 0, mark == nil
  for _, line in ipairs(lines_of(path)) do
    if line == mark then counts = true end
    running = running + (line == "begin" and 1 or line == "end" and -1 or 0)
    if counts and line == "begin" and running > most then most = running end
  end
  return most
end

local function mark(path, text)
  local file <close> = assert(io.open(path, "a"))
  file:write(text, "\n")
end

describe("resize", function()
  it("forks more workers, and has superfluous ones leave", function()
    local pool <close> = mantichora { nworkers = 2, progressbar = false }
    pool:start()
    assert.are.same({ 1, 2 }, slots(pool))
    pool:resize(5)
    assert.are.same({ 1, 2, 3, 4, 5 }, slots(pool))
    assert.are.equal("mantichora: 5 workers, 0 running, 0 queued", tostring(pool))
    pool:resize(1)
    assert.are.same({ 1 }, slots(pool))
    process.wait(function() pool:poll() return #process.children() <= 1 end, 20)
    pool:resize(3)
    assert.are.same({ 1, 2, 3 }, slots(pool))
    for i = 1, 12 do pool:run(function() return i end) end
    assert.are.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, n = 12 }, pool:returns())
  end)

  it("takes what nworkers takes", function()
    local pool <close> = mantichora { nworkers = 2 }
    assert.has_error(function() pool:resize(0) end, "nworkers must be at least one: 0 is given")
    assert.has_error(function() pool:resize("many") end,
      "option 'nworkers' must be an integer or \"auto\": \"many\" is given")
    assert.has_error(function() pool:resize() end, "option 'nworkers' must be an integer or \"auto\": nil is given")
    pool:resize(3.0)
    pool:run(function() end)
    pool:returns()
    assert.are.same({ 1, 2, 3 }, slots(pool))
    pool:close()
    assert.has_error(function() pool:resize(1) end, "pool is closed")
  end)

  for _, engine in ipairs { "fork", "snapshot" } do
    it("starts no task while as many run (" .. engine .. ")", function()
      local path = folder .. "/shrink-" .. engine
      local pool <close> = mantichora { nworkers = 4, progressbar = false, engine = engine }
      for _ = 1, 16 do pool:run(noting(path, 0.15)) end
      process.wait(function() pool:poll() return most_at_begin(path) == 4 end, 20)
      pool:resize(2)
      mark(path, "smaller")
      pool:returns()
      assert.are.equal(2, most_at_begin(path, "smaller"))
      assert.are.equal(16 * 2 + 1, #lines_of(path))
    end)
  end

  it("holds for the items of batches, too", function()
    local path = folder .. "/items"
    local pool <close> = mantichora { nworkers = 4, progressbar = false }
    local marked
    for i in pool:imap(noting(path, 0.002), (function()
      local list = {}
      for i = 1, 2000 do list[i] = i end
      return list
    end)()) do
      if i == 1000 then
        pool:resize(1)
        mark(path, "smaller")
        marked = true
      end
    end
    assert.is_true(marked)
    assert.are.equal(1, most_at_begin(path, "smaller"))
  end)

  it("goes on with more while workers have yet to leave", function()
    local path = folder .. "/back"
    local pool <close> = mantichora { nworkers = 3, progressbar = false }
    for _ = 1, 12 do pool:run(noting(path, 0.1)) end
    process.wait(function() pool:poll() return most_at_begin(path) == 3 end, 20)
    pool:resize(1)
    pool:resize(4)
    pool:returns()
    assert.are.equal(4, most_at_begin(path))
    assert.are.same({ 1, 2, 3, 4 }, slots(pool))
  end)

  it("is for later where there are no workers yet, and nothing to the engine inline", function()
    local pool <close> = mantichora { nworkers = 3 }
    pool:resize(1)
    assert.are.same({}, pool:workers())
    pool:run(function() end)
    pool:returns()
    assert.are.same({ 1 }, slots(pool))
    local inline <close> = mantichora { engine = "inline" }
    inline:resize(2)
    inline:run(function() return 7 end)
    assert.are.equal(7, inline:returns()[1])
  end)
end)
