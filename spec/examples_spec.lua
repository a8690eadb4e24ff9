-- Every example runs alone, on a terminal and not on one, and says what it should.

local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local FOLDER = "scripts/examples/"
local WIDTH, HEIGHT = 100, 30

local SIX = { "task", "another task", "still another task", "yet another task", "task again", "more task" }
local NUMBERED = { "task1", "task2", "task3", "task4", "task5", "task6" }
local RESULTS = "result1, result2, result3, result4, result5, result6"

-- Whether the pairs "(0, result1), ..." are all there, in any order.
local function all_pairs(line)
  local seen = 0
  for runid, number in line:gmatch("%((%d+), result(%d+)%)") do
    if tonumber(runid) + 1 ~= tonumber(number) then return false end
    seen = seen + 1
  end
  return seen == 6
end

local function all_received(lines)
  return #lines == 2 and lines[1] == "0, 1, 2, 3, 4, 5" and all_pairs(lines[2])
end

local function loop_was_free(lines)
  return #lines == 2 and lines[1] == RESULTS and lines[2] == "the loop was free meanwhile"
end

-- Name, bars that end at 100 %, and a judge of the lines of stdout.
local examples = {
  { "01_task_function", { "task1" }, function(lines) return #lines == 1 and lines[1] == "result1" end },
  { "02_quick_start", SIX, function(lines) return #lines == 1 and lines[1] == RESULTS end },
  { "03_close", SIX, function(lines) return #lines == 1 and lines[1] == RESULTS end },
  { "05_receive_one", NUMBERED, all_received },
  { "06_receive_finished", NUMBERED, all_received },
  { "07_logging", { "task1", "task2", "task3", "task4" }, function(lines)
    table.sort(lines)
    local expected = {}
    for i = 1, 4 do expected[i] = ('INFO:root:finishing "task%d"'):format(i) end
    return table.concat(lines, "\n") == table.concat(expected, "\n")
  end },
  { "09_cqueues", NUMBERED, loop_was_free },
  { "10_luv", NUMBERED, loop_was_free },
}

local function split(text)
  local lines = {}
  for line in text:gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  return lines
end

-- The parts of a line with a bar: percentage, count, total, name; nil if it is none.
local function parse_bar(line)
  local percent, cells, done, total, name = line:match("^ +([%d.]+)%% (.*) | +(%d+) / +(%d+) |:  (.-) *$")
  if not percent or #cells ~= 40 or not cells:find("^:* *[a-z]*$") then return nil end
  return { percent = tonumber(percent), done = tonumber(done), total = tonumber(total), name = name }
end

local function command(name, arguments)
  return ("%s %s%s.lua %s"):format(shell.interpreter, FOLDER, name, arguments or "")
end

describe("example", function()
  setup(function()
    assert(os.execute("command -v tmux >/dev/null"), "tmux is not installed")
  end)

  for _, example in ipairs(examples) do
    local name, bars, judge = table.unpack(example)

    it(name .. " shows its bars on a terminal", function()
      local screen <close> = terminal.start(command(name), WIDTH, HEIGHT)
      screen:wait(function(lines) -- in the middle
        for _, line in ipairs(lines) do
          local bar = parse_bar(line)
          if bar and bar.percent < 100 then return true end
        end
      end)
      local status, lines = screen:finish(60)
      local text = table.concat(lines, "\n")
      assert.are.equal(0, status, text)
      local ended, rest = {}, {}
      for _, line in ipairs(lines) do
        local bar = parse_bar(line)
        if bar then
          assert.are.equal(100, bar.percent, text)
          assert.are.equal(bar.total, bar.done, text)
          ended[#ended + 1] = bar.name
        else
          rest[#rest + 1] = line
        end
      end
      local expected = { table.unpack(bars) }
      table.sort(expected)
      table.sort(ended)
      assert.are.same(expected, ended, text)
      assert.is_true(judge(rest), text)
      local column, _, shown = screen:cursor()
      assert.are.equal(0, column)
      assert.is_true(shown)
    end)

    it(name .. " keeps stdout clean of bars", function()
      local got = shell.run("unset MANTICHORA_PROGRESS; " .. command(name), { timeout = 60 })
      assert.are.equal(0, got.status, got.err)
      assert.is_true(judge(split(got.out)), got.out)
      for _, bar in ipairs(bars) do
        assert.truthy(got.err:find("(100.00%): " .. bar .. "\n", 1, true), got.err)
      end
      assert.falsy(got.err:find("\27", 1, true))
    end)
  end

  it("04_terminate stops bars where they are", function()
    local screen <close> = terminal.start(command("04_terminate"), WIDTH + 20, HEIGHT) -- room for marks
    local status, lines = screen:finish(60)
    local text = table.concat(lines, "\n")
    assert.are.equal(0, status, text)
    local stopped, cancelled = 0, 0
    for _, line in ipairs(lines) do
      local bar = parse_bar(line)
      if bar and bar.done < bar.total then stopped = stopped + 1 end
      if line == "cancelled" then cancelled = cancelled + 1 end
    end
    assert.are.equal(6, cancelled, text)
    assert.is_true(stopped >= 4, text)
  end)

  describe("08_word_count", function()
    local folder

    before_each(function()
      folder = shell.folder()
      shell.write(folder .. "/one.txt", "The cat, the dog\nand The-End.\n")
      shell.write(folder .. "/two.txt", "cat\ncat")
      shell.write(folder .. "/empty", "")
      shell.write(folder .. "/not text", "cat\0cat")
      shell.write(folder .. "/quoted 'name'\nnewline", "dog")
      os.execute("ln -s nowhere " .. folder .. "/broken")
    end)

    after_each(function()
      shell.remove(folder)
    end)

    it("counts words, and logs what it cannot read", function()
      local got = shell.run(command("08_word_count", folder), { timeout = 60 })
      assert.are.equal(0, got.status, got.err)
      assert.are.equal(table.concat({
        "         3  cat",
        "         3  the",
        "         2  dog",
        "         1  and",
        "         1  end",
        "        10  words, 5 of them different, in 4 texts among 6 files",
        "" }, "\n"), got.out)
      local warnings = {}
      for line in got.err:gmatch("[^\n]+") do
        if line:find("^WARNING") then warnings[#warnings + 1] = line end
      end
      assert.are.same({ ("WARNING:word_count:cannot read %s/broken: No such file or directory"):format(folder) },
        warnings)
    end)

    it("agrees with a plain count of real texts, and with other tools", function()
      local texts = "/usr/share/common-licenses"
      local pooled = shell.run(command("08_word_count", texts), { timeout = 120 })
      local plain = shell.run(command("08_word_count", "--plain " .. texts), { timeout = 120 })
      assert.are.equal(0, pooled.status, pooled.err)
      assert.are.equal(plain.out, pooled.out)
      local others = shell.run("find " .. texts .. " -type f -exec cat {} + | LC_ALL=C tr -cs A-Za-z '\\n' | grep -c .")
      assert.are.equal(others.out:match("%d+"), pooled.out:match("(%d+)  words"))
    end)

    it("checks itself", function()
      local got = shell.run(command("08_word_count", "--check " .. folder), { timeout = 60 })
      assert.are.equal(0, got.status, got.err)
      assert.truthy(got.out:find("\nthe plain count of one process is the same\n$"))
    end)

    it("shows a bar for all files on a terminal", function()
      local screen <close> = terminal.start(command("08_word_count", folder), WIDTH, HEIGHT)
      local status, lines = screen:finish(60)
      local text = table.concat(lines, "\n")
      assert.are.equal(0, status, text)
      local bars = 0
      for _, line in ipairs(lines) do
        local bar = parse_bar(line)
        if bar then
          bars = bars + 1
          assert.are.same({ percent = 100, done = 6, total = 6, name = "files" }, bar)
        end
      end
      assert.are.equal(1, bars, text)
    end)
  end)

  describe("11_bake", function()
    local folder
    before_each(function() folder = shell.folder() end)
    after_each(function() shell.remove(folder) end)

    -- The script as it is, or edited, on the folder.
    local function bake(edit)
      local source = io.open(FOLDER .. "11_bake.lua"):read("a")
      if edit then
        local edited, count = source:gsub(edit[1], edit[2])
        assert.are.equal(1, count)
        source = edited
      end
      shell.write(folder .. "/bake.lua", source)
      local got = shell.run(("MANTICHORA_PROGRESS=off %s %s/bake.lua %s/maps"):format(shell.interpreter, folder,
        folder), { timeout = 60 })
      assert.are.equal(0, got.status, got.err)
      return got.out
    end

    it("bakes again what an edit reaches, and no more", function()
      os.execute("mkdir " .. folder .. "/maps")
      for i = 1, 8 do
        local numbers = {}
        for k = 1, 64 do numbers[k] = (k * i) % 256 end
        shell.write(("%s/maps/%d.pgm"):format(folder, i), "P2\n8 8\n255\n" .. table.concat(numbers, " ") .. "\n")
      end
      local all, none = "8 maps, 512 points: 8 baked, 0 found\n", "8 maps, 512 points: 0 baked, 8 found\n"
      assert.are.equal(all, bake())
      local flat = io.open(folder .. "/maps/1.ppm"):read("a")
      assert.truthy(flat:find("^P3\n8 8\n255\n%d+ %d+ %d+\n"))
      assert.are.equal(none, bake())
      -- A comment, and lines that move.
      assert.are.equal(none, bake { "local function as_byte", "-- From -1 to 1.\n\nlocal function as_byte" })
      -- One map.
      shell.write(folder .. "/maps/3.pgm", "P2\n8 8\n255\n" .. ("7 "):rep(64))
      assert.are.equal("8 maps, 512 points: 1 baked, 7 found\n", bake())
      -- A constant that a function two calls deep uses.
      assert.are.equal(all, bake { "strength = 2.0", "strength = 3.0" })
      assert.are_not.equal(flat, io.open(folder .. "/maps/1.ppm"):read("a"))
      -- And back: what was baked then is no longer there, but for the flat map, which is the same.
      assert.are.equal("8 maps, 512 points: 7 baked, 1 found\n", bake())
      assert.are.equal(flat, io.open(folder .. "/maps/1.ppm"):read("a"))
      os.remove(folder .. "/maps/5.ppm")
      assert.are.equal("8 maps, 512 points: 1 baked, 7 found\n", bake())
      assert.are.equal(none, bake())
    end)
  end)
end)
