-- Every benchmark works and prints its rows. How fast anything is, is no subject of tests.

local shell = require "spec.support.shell"

-- The cells of the lines of a table in Markdown, without its head.
local function rows_of(text)
  local rows = {}
  for line in text:gmatch("[^\n]+") do
    local cells = {}
    for cell in line:gmatch("| ([^|]*)") do cells[#cells + 1] = cell:match("^(.-) *$") end
    if #cells == 7 and not line:find("^| work") and not line:find("^|%-") then rows[#rows + 1] = cells end
  end
  return rows
end

local function is_figure(cell) return cell:find("^%-?%d[%d.e+-]* ") ~= nil end

local function run(words)
  local got = shell.run("lua5.4 scripts/bench/" .. words, { timeout = 200 })
  assert(got.status == 0, got.out .. got.err)
  return got.out
end

local benchmarks = { -- and how many of their rows have targets
  closures = 2, map = 2, latency = 1, floats = 1, strings = 6, queued = 1, cycle = 1, atpbar = 2, waiting = 1,
  order = 2, scaling = 1, sharing = 1, scale = 5, memory = 3, codec = 16, tricks = 0, trace = 1, journal = 2, hosts = 7,
}

describe("the benchmark", function()
  for name, targets in pairs(benchmarks) do
    it(name .. " prints a row for each of its targets", function()
      local out = run(name .. ".lua --quick")
      local judged = 0
      for _, row in ipairs(rows_of(out)) do
        assert.is_true(is_figure(row[2]), out)
        if row[6] ~= "" then
          judged = judged + 1
          assert.is_truthy(row[6]:find("^at least %d") or row[6]:find("^at most %d"), out)
          assert.is_true(is_figure(row[4]) and is_figure(row[5]), out)
          assert.is_truthy(row[7] == "met" or row[7] == "**missed**", out)
        end
      end
      assert.equal(targets, judged, out)
    end)
  end
end)

describe("the benchmark of the shell's commands", function()
  it("prints figures, and what becomes of values", function()
    local out = run("shell.lua --quick")
    assert.is_truthy(out:find("\n| mantichora map | %d[%d.]* s | %d[%d.]* | %d[%d.]* s | "), out)
    assert.is_truthy(out:find("\n| mantichora run true | %d[%d.]* s | "), out)
    assert.is_truthy(out:find("\n| `12345678901234567` | [^|]* | [^|]* | `12345678901234567` |\n"), out)
  end)
end)

describe("the command for all benchmarks", function()
  it("says on what it was run, and prints one table", function()
    local out = run("all.lua --quick waiting scaling")
    assert.is_truthy(out:find("^[^\n]*, %d+ cores; Linux [^\n]*Lua 5%.4[^\n]*load average %d[^\n]*\n\n| work"), out)
    local rows = rows_of(out)
    assert.equal("CPU of the parent that waits", rows[1][1])
    assert.equal("CPU-bound tasks, 2 workers against 1", rows[#rows][1])
  end)

  it("goes on without a peer, and says which", function()
    local out = shell.run("PYTHON=/no/python lua5.4 scripts/bench/all.lua --quick cycle waiting").out
    assert.is_truthy(out:find("not measured here: cycle: pool: it does not start", 1, true), out)
    assert.is_truthy(out:find("not measured here: waiting: pool: it does not start", 1, true), out)
    local rows = rows_of(out)
    assert.equal(5, #rows)
    assert.is_truthy(rows[1][7] == "met" or rows[1][7] == "**missed**", out) -- the limit is there
    assert.equal("?", rows[5][4])
    assert.is_truthy(rows[5][7] == "met" or rows[5][7] == "**missed**", out) -- a target of our own figure
  end)

  it("refuses names that are none", function()
    local got = shell.run("lua5.4 scripts/bench/all.lua nonsense")
    assert.not_equal(0, got.status)
    assert.is_truthy(got.err:find("there is no benchmark nonsense", 1, true), got.err)
  end)

  it("puts its figures into a README and draws them", function()
    local folder = shell.folder()
    local _ <close> = setmetatable({}, { __close = function() shell.remove(folder) end })
    shell.run(("mkdir %s/scripts && cp -r scripts/bench %s/scripts && cp README.md %s"):format(folder, folder, folder))
    local environment = os.getenv("LUA_CPATH") and "" or "LUA_CPATH=$PWD/build/lua/?.so "
    local got = shell.run(environment .. "lua5.4 " .. folder .. "/scripts/bench/all.lua --quick --save waiting scaling")
    assert.equal(0, got.status, got.out .. got.err)
    local readme = shell.run("cat " .. folder .. "/README.md").out
    local lines = readme:match("<!%-%- speed %-%->\n(.*)\n<!%-%- /speed %-%->")
    assert.is_truthy(lines:find("\n| CPU of the parent that waits | %d[^|]* |  | [^|]*: %*%*%d[^|]*x%*%* |\n"), lines)
    assert.is_truthy(lines:find("\n| CPU%-bound tasks, 2 workers against 1 | %d[^|]* times | %d[^|]* |  |\n"), lines)
    local original = shell.run("cat README.md").out
    local function around(text) return (text:gsub("<!%-%- speed %-%->.*<!%-%- /speed %-%->", "")) end
    assert.equal(around(original), around(readme))
    local picture = shell.run("cat " .. folder .. "/scripts/bench/speed.svg").out
    assert.is_truthy(picture:find("CPU while waiting", 1, true) and picture:find("</svg>", 1, true))
  end)

  it("knows all that are there", function()
    local pipe <close> = assert(io.popen("ls scripts/bench/*.lua"))
    local text = shell.run("sed -n '/^local NAMES/,/}/p' scripts/bench/all.lua").out
    for path in pipe:lines() do
      local name = path:match("([^/]*)%.lua$")
      if shell.run("grep -c 'return bench.main' " .. path).out ~= "0\n" then
        local alone = name == "codec" or name == "tricks" or name == "hosts"
        assert.is_truthy(alone or text:find('"' .. name .. '"', 1, true), name)
        assert.is_truthy(benchmarks[name], name)
      end
    end
  end)
end)
