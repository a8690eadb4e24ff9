-- The examples of README.md and of the guide do what they say, and the reference has every function.
--
-- A block of Lua is run as a program of its own; what it prints stands behind `-->` in it. A block of C
-- is compiled, and run if it has a main. What a fragment needs around it stands in an HTML comment
-- before it, which readers do not see:
--
--     <!-- setup
--     local mcore = require "mantichora" ()
--     ...
--     mcore:close()
--     -->
--
-- The block takes the place of the line `...`, or comes at the end.

local shell = require "spec.support.shell"

local build = os.getenv("MANTICHORA_BUILD") or "build"
local folder

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local function list(pattern)
  local paths = {}
  for path in shell.run("ls " .. pattern).out:gmatch("[^\n]+") do paths[#paths + 1] = path end
  return paths
end

-- The code blocks of a Markdown file: language, text with its setup, line.
local function blocks_of(path)
  local blocks, setup, block, number = {}, nil, nil, 0
  for line in (read(path) .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    local language = line:match("^```(%w*)")
    if block and language then
      block.text = table.concat(block, "\n")
      blocks[#blocks + 1], block = block, nil
    elseif language then
      block = { language = language, line = number, setup = setup }
      setup = nil
    elseif block then
      block[#block + 1] = line
    elseif line == "<!-- setup" then
      setup = {}
    elseif line == "-->" and setup then
      setup = table.concat(setup, "\n") .. "\n"
    elseif type(setup) == "table" then
      setup[#setup + 1] = line
    elseif line:find("%S") then
      setup = nil
    end
  end
  assert(not block, path .. " ends in a block of code")
  return blocks
end

local function whole(block)
  local text = block.text:gsub("do %.%.%. end", "do end")
  if not block.setup then return text end
  local before, after = block.setup:match("^(.-)\n?%.%.%.\n(.*)$")
  return before and table.concat({ before, text, after }, "\n") or block.setup .. text
end

-- What stands behind `-->`.
local function promised(text)
  local lines = {}
  for line in text:gmatch("%-%-> ([^\n]*)") do lines[#lines + 1] = line .. "\n" end
  return table.concat(lines)
end

local function run_lua(block)
  shell.write(folder .. "/block.lua", whole(block))
  local got = shell.run(("unset MANTICHORA_PROGRESS MANTICHORA_LOG_LEVEL MANTICHORA_WORKERS; %s %s/block.lua"):format(
    shell.interpreter, folder), { timeout = 60 })
  assert.are.equal(0, got.status, got.err)
  local lines = promised(block.text)
  if lines ~= "" then assert.are.equal(lines, got.out, got.err) end
end

local function run_c(block)
  local text = whole(block)
  shell.write(folder .. "/block.c", text)
  local line = ("cc -std=c99 -D_DEFAULT_SOURCE -Wall -Wextra -Werror -I%s/include %s/block.c "):format(build, folder)
    .. "$(pkg-config --cflags lua5.4) "
  local program = folder .. "/block"
  if text:find("int main%(") then
    line = line .. ("%s/lib/libmantichora.a -Wl,-E -pthread $(pkg-config --libs lua5.4) -o %s && %s"):format(build,
      program, program)
  else
    line = line .. "-fsyntax-only"
  end
  local got = shell.run(line, { timeout = 120 })
  assert.are.equal(0, got.status, got.err)
end

local runners = { lua = run_lua, c = run_c }

describe("manual", function()
  setup(function()
    folder = shell.folder()
  end)

  teardown(function()
    shell.remove(folder)
  end)

  for _, path in ipairs(list("README.md scripts/manual/*.md")) do
    for _, block in ipairs(blocks_of(path)) do
      if runners[block.language] then
        it(("has an example that works: %s:%d"):format(path, block.line), function()
          runners[block.language](block)
        end)
      end
    end
  end
end)

-- Names that are functions in `where`.
local function functions_in(where)
  local names = {}
  for name, value in pairs(where) do
    if type(name) == "string" and name:find("^%l") and type(value) == "function" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

describe("reference", function()
  local pages = {}

  local function page(name)
    pages[name] = pages[name] or read(folder .. "/html/" .. name .. ".html")
    return pages[name]
  end

  setup(function()
    folder = shell.folder()
    local got = shell.run(([[cd scripts/manual && MANUAL_SOURCE="$OLDPWD" MANUAL_OUT=%s MANUAL_VERSION=9.8.7 \
      MANUAL_LOWDOWN=lowdown LUA_PATH="$PWD/?.lua;;" ldoc --fatalwarnings --filter manual.make .]]):format(folder))
    assert.are.equal(0, got.status, got.out .. got.err)
  end)

  teardown(function()
    shell.remove(folder)
  end)

  -- Each function of a table has a heading of its own, and each heading a function.
  local function covers(name, prefix, where)
    local headings = {}
    for heading in page(name):gmatch('<h3 id="[^"]*"><code>' .. prefix:gsub("%p", "%%%0") .. "([%w_]+)%(") do
      headings[#headings + 1] = heading
    end
    table.sort(headings)
    assert.are.same(functions_in(where), headings)
  end

  it("has every function of the Lua modules, and no other", function()
    local mantichora, atpbar = require "mantichora", require "mantichora.atpbar"
    local logging = require "mantichora.logging"
    local mcore <close> = mantichora()
    covers("mantichora", "mantichora.", mantichora)
    local methods = {}
    for name, method in pairs(getmetatable(mcore).__index) do
      if name ~= "end" then methods[name] = method end
    end
    covers("mantichora", "pool:", methods)
    covers("mantichora.atpbar", "atpbar.", atpbar)
    covers("mantichora.logging", "logging.", logging)
    covers("mantichora.atpbar", "bar:", debug.getregistry()["mantichora.atpbar.bar"].__index)
    local logger = {}
    for name, method in pairs(getmetatable(logging.get()).__index) do
      if not logging[name:upper()] then logger[name] = method end -- debug() and so on are short for log()
    end
    covers("mantichora.logging", "logger:", logger)
  end)

  it("has every option of a pool", function()
    local mantichora = require "mantichora"
    local options = {}
    for name in page("mantichora"):match('<h2 id="options">.-</ul>'):gmatch("<strong>([%w_]+)</strong>") do
      options[#options + 1] = name
      -- A known option complains of its type, an unknown one of its name.
      local _, message = pcall(mantichora, { [name] = print })
      assert.falsy(name ~= "init" and tostring(message):find("unknown option"), name)
    end
    local source = read("scripts/mantichora/options.lua"):match("\nlocal pool_options = {\n(.-)\n}\n")
    local known = {}
    for name in ("\n" .. source):gmatch("\n  ([%w_]+) =") do known[#known + 1] = name end
    table.sort(options)
    table.sort(known)
    assert.are.same(known, options)
  end)

  it("has every function of the C header", function()
    local count = 0
    for name in read("runtime/mantichora.h"):gmatch("\nMANTICHORA_API [^;(]-([%w_]+)%(") do
      if not name:find("_report$") then -- internal
        assert.truthy(page("mantichora.h"):find("<code>" .. name .. "</code>", 1, true), name)
        count = count + 1
      end
    end
    assert.is_true(count >= 3)
  end)

  it("is there for editors: the annotations are made of the comments as they are", function()
    local got = shell.run(([[cd scripts/manual && MANUAL_OUT=%s LUA_PATH="$PWD/?.lua;;" \
      ldoc --fatalwarnings --filter manual.annotate .]]):format(folder))
    assert.are.equal(0, got.status, got.out .. got.err)
    for _, name in ipairs { "mantichora", "atpbar", "logging" } do
      local path = name .. ".d.lua"
      assert.are.equal(read(folder .. "/" .. path), read("scripts/annotations/" .. path),
        "made anew by: cmake --build build --target annotations")
      local tag = name == "mantichora" and name or "mantichora." .. name
      assert.truthy(read(folder .. "/" .. path):find("^---@meta " .. tag:gsub("%p", "%%%0") .. "\n"))
      assert(loadfile(folder .. "/" .. path))
    end
  end)

  it("annotates every public name", function()
    local text = read("scripts/annotations/mantichora.d.lua")
    local mantichora, atpbar = require "mantichora", require "mantichora.atpbar"
    local logging = require "mantichora.logging"
    local mcore <close> = mantichora()
    local count = 0
    -- `class` is declared, and each name of the table is a field or function of it.
    local function covers_names(class, variable, names)
      local start = assert(text:find("\n---@class " .. class:gsub("%p", "%%%0") .. "\n", 1), class)
      local fields = text:sub(start + 1):match("^(.-)\n[^-]")
      for name in pairs(names) do
        if type(name) == "string" and not name:find("^__") then
          count = count + 1
          local there = fields:find("\n---@field " .. name .. "%f[^%w_]") or fields:find('["' .. name .. '"]', 1, true)
            or text:find("\nfunction " .. variable .. "[.:]" .. name .. "%(")
          assert.truthy(there, variable .. "." .. name)
        end
      end
    end
    covers_names("mantichora", "mantichora", mantichora)
    covers_names("mantichora.pool", "pool", getmetatable(mcore).__index)
    covers_names("mantichora.atpbar", "atpbar", atpbar)
    covers_names("mantichora.bar", "bar", debug.getregistry()["mantichora.atpbar.bar"].__index)
    covers_names("mantichora.logging", "logging", logging)
    covers_names("mantichora.logger", "logger", getmetatable(logging.get()).__index)
    local options = {}
    for name in ("\n" .. read("scripts/mantichora/options.lua"):match("\nlocal pool_options = {\n(.-)\n}\n"))
      :gmatch("\n  ([%w_]+) =") do options[name .. "?"] = true end
    for name in pairs(options) do
      assert.truthy(text:find("\n---@field " .. name .. " ", 1, true), name)
    end
    assert.is_true(count > 50)
  end)

  it("links only to what is there", function()
    for _, path in ipairs(list(folder .. "/html/*.html")) do
      for target in read(path):gmatch('href="([^"]+)"') do
        local file, id = target:match("^([^#]*)#?(.*)$")
        if not file:find("^https?:") then
          local other = file == "" and path or folder .. "/html/" .. file
          local html = read(other)
          if id ~= "" then assert.truthy(html:find('id="' .. id .. '"', 1, true), path .. ": " .. target) end
        end
      end
    end
  end)

  it("says its version, and man pages are well formed", function()
    assert.truthy(page("index"):find("9.8.7", 1, true))
    local paths = list(folder .. "/man/man*/*")
    assert.is_true(#paths > 8)
    for _, path in ipairs(paths) do
      local text = read(path)
      assert.truthy(text:find('.TH "', 1, true) and text:find("9.8.7", 1, true), path)
      assert.truthy(text:find("\n%.SH\nNAME\n%.LP\n[%w%.%-]+ %- [^\n]+\n"), path)
    end
  end)
end)
