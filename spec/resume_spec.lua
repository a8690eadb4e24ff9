-- `--journal` of `mantichora map`, `filter` and `run`: what was done is not done again.

local shell = require "spec.support.shell"

describe("--journal at the shell", function()
  local folder
  before_each(function() folder = shell.folder() end)
  after_each(function() shell.remove(folder) end)

  local function mantichora(arguments, stdin, options)
    local here = io.popen("pwd"):read("l")
    local host = shell.host:sub(1, 1) == "/" and shell.host or here .. "/" .. shell.host
    return shell.run(("cd %s && %s %s"):format(folder, host, arguments), { stdin = stdin,
      timeout = options and options.timeout or 40 })
  end

  local function lines(n)
    local list = {}
    for i = 1, n do list[i] = i end
    return table.concat(list, "\n") .. "\n"
  end

  local function ran() return select(2, (io.open(folder .. "/ran") or io.tmpfile()):read("a"):gsub("\n", "")) end

  it("of map and filter finds items by what they are", function()
    local map = "map --journal x.mj 'io.stderr:write(\"ran\\n\") return _ * 2'"
    local first = mantichora(map, lines(200))
    assert.are.equal(200, select(2, first.err:gsub("ran", "")))
    local second = mantichora(map, "7\n1000\n" .. lines(200))
    assert.are.equal("14\n2000\n" .. first.out, second.out)
    assert.are.equal(2, select(2, second.err:gsub("ran", ""))) -- 1000, and a second 7
    assert.are.equal(first.out, mantichora(map .. " --unordered -j 3", lines(200)).out)
    local other = mantichora((map:gsub("%* 2", "* 3")), lines(200))
    assert.are.equal(200, select(2, other.err:gsub("ran", "")))
    local filter = "filter --journal x.mj 'io.stderr:write(\"ran\\n\") return _ % 3 == 0'"
    first = mantichora(filter, lines(30))
    second = mantichora(filter, lines(30))
    assert.are.equal(first.out, second.out)
    assert.are.equal("", second.err)
  end)

  it("counts the number of an item only where it is named", function()
    mantichora("map --journal x.mj '_ .. i'", '"a"\n"b"\n')
    local got = mantichora("map --journal x.mj 'io.stderr:write(\"ran\\n\") return _ .. i'", '"a"\n"b"\n')
    assert.are.equal('"a1"\n"b2"\n', got.out)
    got = mantichora("map --journal x.mj 'io.stderr:write(\"ran\\n\") return _ .. i'", '"b"\n"a"\n')
    assert.are.equal('"b1"\n"a2"\n', got.out)
    assert.are.equal(2, select(2, got.err:gsub("ran", "")))
  end)

  it("of run prints again what commands printed, in order, and runs those that failed", function()
    local run = "run --journal x.mj 'echo {} >>ran; echo out {}; echo err {} >&2; test {} != 3'"
    local first = mantichora(run, lines(5))
    assert.are.equal(1, first.status)
    assert.are.equal(5, ran())
    local second = mantichora(run, "0\n" .. lines(5))
    assert.are.equal(1, second.status)
    assert.are.equal(7, ran())
    assert.are.equal("out 0\n" .. first.out, second.out)
    for i = 0, 5 do assert.truthy(second.err:find("err " .. i .. "\n", 1, true), second.err) end
    local listed = shell.run(("%s journal %s/x.mj ls --json"):format(shell.host, folder)).out
    assert.truthy(listed:find('"name":"3","place":null,"kind":"exited"', 1, true), listed)
    assert.are.equal(2, select(2, listed:gsub('"kind":"exited"', "")))
  end)

  it("keeps the header of CSV, and lines of its columns", function()
    local map = "map --journal x.mj --in csv '_.b = _.a * 2 return _'"
    local first = mantichora(map, "a\n1\n2\n3\n")
    assert.are.equal("a,b\n1,2\n2,4\n3,6\n", first.out)
    assert.are.equal("a,b\n1,2\n2,4\n3,6\n4,8\n", mantichora(map, "a\n1\n2\n3\n4\n").out)
  end)

  it("goes on after kill -9", function()
    local run = "run -j 2 --journal x.mj 'echo {} >>ran; sleep 0.02; echo {}'"
    local killed = mantichora(run, lines(60), { timeout = 0.5 })
    assert.are_not.equal(0, killed.status)
    local got = mantichora(run, lines(60))
    assert.are.equal(0, got.status, got.err)
    assert.are.equal(lines(60), got.out)
    assert.is_true(ran() < 110)
  end)

  it("passes 20000 lines by", function()
    local map = "map --journal x.mj '_ + 1'"
    local input = lines(20000)
    assert.are.equal(0, mantichora(map, input).status)
    local got = mantichora(map, input)
    assert.are.equal(20000, select(2, got.out:gsub("\n", "")))
    assert.truthy(got.out:find("\n20001\n$"))
    local file = shell.run(("%s journal %s/x.mj ls --json | grep -c true"):format(shell.host, folder))
    assert.are.equal("20000", file.out:match("%d+"))
  end)
end)
