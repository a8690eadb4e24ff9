-- From end to end, in tmux: what a person sees at several sizes, when the window changes, and when
-- the shell comes in between.

local shell = require "spec.support.shell"
local terminal = require "spec.support.terminal"

local HEAD = [[
local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
-- Until the spec says so.
local function wait_for(name)
  while not io.open(arg[1] .. "/" .. name) do mantichora.sleep(0.02) end
end
]]

local SIZES = { { 100, 30 }, { 40, 10 }, { 20, 5 } }

-- A script in a folder of its own, on a terminal or ready to be typed into one. Close it.
local function start(code, columns, rows, options)
  options = options or {}
  local self = { folder = shell.folder() }
  shell.write(self.folder .. "/s.lua", HEAD .. code)
  self.command = ("%s %s %s/s.lua %s %s"):format(options.environment and "env " .. options.environment or "",
    shell.interpreter, self.folder, self.folder, options.redirect or "")
  self.terminal = terminal.start(options.shell or self.command, columns, rows)
  function self.go(name) shell.write(self.folder .. "/" .. name, "") end
  return self.terminal, setmetatable(self, { __close = function()
    self.terminal:close()
    shell.remove(self.folder)
  end })
end

local function matching(rows, pattern)
  local list = {}
  for _, row in ipairs(rows) do
    if row:find(pattern) then list[#list + 1] = row end
  end
  return list
end

local function fits(rows, columns, lines)
  for _, row in ipairs(rows) do
    if utf8.len(row) >= columns then return false end
  end
  return #rows < lines
end

-- How often each of the names b1 .. bn stands at the end of a row.
local function count_names(rows, n)
  local counts, missing, twice = {}, 0, 0
  for _, row in ipairs(rows) do
    local name = row:match("|: +(b%d+)")
    if name then counts[name] = (counts[name] or 0) + 1 end
  end
  for i = 1, n do
    local count = counts["b" .. i] or 0
    if count == 0 then missing = missing + 1 elseif count > 1 then twice = twice + 1 end
  end
  return missing, twice
end

describe("300 bars of four workers", function()
  local CODE = [[
    local mcore <close> = mantichora{ nworkers = 4 }
    for k = 0, 3 do
      mcore:run(function()
        local bars = {}
        for i = 1, 75 do bars[i] = atpbar.bar{ name = "b" .. k * 75 + i, total = 8 } end
        for i = 1, 75 do bars[i]:add(i % 8) end
        wait_for("more")
        for i = 1, 75 do
          bars[i]:set(8):close()
          if i % 10 == 0 then print("line", k, i) mantichora.sleep(0.1) end
        end
      end)
    end
    mcore:returns()
    print "end"]]

  for _, size in ipairs(SIZES) do
    local columns, rows = size[1], size[2]
    it(("fit into %d x %d and leave one line each"):format(columns, rows), function()
      local t, script <close> = start(CODE, columns, rows)
      local last = ("... and %d more"):format(300 - (rows - 2))
      local seen = t:wait(function(lines) return lines[#lines] == last and lines end)
      assert.equal(rows - 1, #seen)
      assert.is_true(fits(seen, columns, rows), table.concat(seen, "\n"))
      local x, y, shown = t:cursor()
      assert.same({ 0, rows - 1, true }, { x, y, shown })
      script.go("more")
      local status = t:finish()
      assert.equal(0, status)
      local all = t:screen(true)
      assert.equal("end", all[#all])
      assert.same({ 0, 0 }, { count_names(all, 300) })
      assert.equal(28, #matching(all, "^line "))
      assert.equal(300 + 28 + 1, #all)
    end)
  end
end)

describe("a window that changes", function()
  it("is drawn into as it is", function()
    local t, script <close> = start([[
      print "first line"
      local mcore <close> = mantichora{ nworkers = 3, poolbar = true }
      for k = 1, 3 do
        mcore:run(function()
          for i in atpbar(8, "the name of task " .. k) do wait_for("step" .. i) print("task", k, i) end
        end)
      end
      for i = 1, 8 do wait_for("step" .. i) print("script", i) end
      mcore:returns()
      print "end"]], 100, 30)
    local sizes = { { 40, 10 }, { 20, 6 }, { 100, 30 }, { 60, 8 }, { 61, 8 }, { 59, 9 }, { 120, 12 } }
    for i, size in ipairs(sizes) do
      script.go("step" .. i)
      local percent = (" %6.2f%%"):format(i / 8 * 100)
      t:wait(function(rows) return #matching(rows, "^" .. percent:gsub("%p", "%%%0")) == 3 end)
      t:resize(size[1], size[2])
      -- Three bars and the pool's under it, as wide as the window lets them be.
      t:wait(function(rows)
        local live = table.move(rows, #rows - 3, #rows, 1, {})
        return #matching(live, "|: +the") == 3 and #matching(live, "|: +t[ask]*:") == 1
          and fits(live, size[1], size[2])
      end)
    end
    -- The bars of the window before fit into the last one too: wait for those drawn for it.
    t:wait(function(rows) return #matching(rows, "|:  the name of task %d$") == 3 end)
    script.go("step8")
    assert.equal(0, (t:finish()))
    local rows = t:screen()
    assert.equal("end", rows[#rows])
    assert.truthy(rows[#rows - 1]:find("100.00%% :+ |        3 /        3 |:  tasks: 0 ?f"), rows[#rows - 1])
    assert.equal(3, #matching(rows, "100.00%% :+ | +8 / +8 |:  the name of task %d$"))
    -- tmux keeps pieces of old bars that it has folded away; but every line is there once.
    local all = t:screen(true)
    for i = 1, 8 do
      assert.equal(1, #matching(all, "^script  " .. i .. "$"))
      for k = 1, 3 do assert.equal(1, #matching(all, ("^task    %d       %d$"):format(k, i))) end
    end
  end)
end)

describe("the shell", function()
  local CODE = [[
    local mcore <close> = mantichora{ nworkers = 2 }
    for k = 1, 2 do
      mcore:run(function()
        for i in atpbar(3, "task " .. k) do wait_for("step" .. i) end
      end)
    end
    for i = 1, 3 do wait_for("step" .. i) print("step", i) end
    mcore:returns()
    print "end"]]

  -- A shell with job control in which the script runs.
  local function type_into_shell(columns, rows)
    local t, script = start(CODE, columns, rows, { shell = "PS1='$ ' exec bash --norc --noprofile -i" })
    t:wait(function(lines) return lines[#lines] == "$" end)
    shell.write(script.folder .. "/run", "exec " .. script.command .. "\n")
    t:type(("-l 'sh %s/run'"):format(script.folder))
    t:type("Enter")
    t:wait(function(lines) return #matching(lines, "^   0.00%%") == 2 end)
    return t, script
  end

  it("keeps its lines while the script is in the background", function()
    local t, script <close> = type_into_shell(80, 24)
    t:type("C-z")
    t:wait(function(lines) return lines[#lines] == "$" end)
    t:type("bg Enter")
    t:wait(function(lines) return #matching(lines, "^%$ bg") == 1 and lines[#lines] == "$" end)
    script.go("step1")
    t:wait(function(lines) return lines[#lines]:find("^%$ step +1$") end) -- what it prints is seen
    t:type("-l 'echo a'b")
    t:type("Enter")
    t:wait(function(lines) return #matching(lines, "^ab$") == 1 and lines[#lines] == "$" end)
    t:type("fg Enter")
    -- The bars come back under all that.
    local lines = t:wait(function(lines) return #matching(lines, "^  33.33%%") == 2 and lines end)
    local text = table.concat(lines, "\n")
    assert.truthy(text:find("Stopped.*\n%$ bg\n.*\n%$ step +1\necho ab\nab\n%$ fg\n[^\n]*\n" ..
      "  33.33%% [^\n]*\n  33.33%% [^\n]*$"), text)
    for i = 2, 3 do script.go("step" .. i) end
    lines = t:wait(function(rows) return rows[#rows] == "$" and rows end)
    assert.equal("end", lines[#lines - 1])
    assert.equal(2, #matching(lines, "^ 100.00%%"))
    assert.equal(0, #matching(lines, "^  33.33%%"))
  end)

  it("goes on under the bars after Ctrl-Z and fg", function()
    local t, script <close> = type_into_shell(60, 12)
    t:type("C-z")
    t:wait(function(lines) return lines[#lines] == "$" end)
    script.go("step1")
    t:type("fg Enter")
    t:wait(function(lines) return #matching(lines, "^  33.33%%") == 2 end)
    for i = 2, 3 do script.go("step" .. i) end
    local lines = t:wait(function(rows) return rows[#rows] == "$" and #matching(rows, "^end$") == 1 and rows end)
    assert.equal(2, #matching(lines, "^ 100.00%%"))
    assert.equal(0, #matching(lines, "^  33.33%%"))
  end)

  it("has its prompt on a line of its own after Ctrl-C, and a cursor", function()
    for _, size in ipairs(SIZES) do
      local t, script <close> = type_into_shell(size[1], size[2])
      script.go("step1")
      t:wait(function(lines) return #matching(lines, "^  33.33%%") == 2 end)
      t:type("C-c")
      local lines = t:wait(function(rows) return rows[#rows] == "$" and rows end)
      local x, y, shown = t:cursor()
      assert.same({ 2, #lines - 1, true }, { x, y, shown })
      local all = table.concat(t:screen(true), "\n")
      assert.equal(2, select(2, all:gsub("  33.33%%", "")), all)
    end
  end)
end)

describe("one terminal", function()
  it("may have two names", function()
    for _, redirect in ipairs{ ">/dev/tty", "2>/dev/tty" } do
      local t, script <close> = start([[
        for i in atpbar(3, "loop") do print("line", i) wait_for("step" .. i) end]], 80, 12, { redirect = redirect })
      for i = 1, 3 do
        t:wait(function(rows) return #rows == i + 1 and rows[i] == "line    " .. i and rows[i + 1]:find("loop$") end)
        script.go("step" .. i)
      end
      local _, rows = t:finish()
      assert.same({ "line    1", "line    2", "line    3" }, table.move(rows, 1, 3, 1, {}))
      assert.truthy(#rows == 4 and rows[4]:find("100.00%", 1, true))
    end
  end)
end)
