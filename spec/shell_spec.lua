-- mantichora map, filter and run: what a user of a shell sees of them.

local screen = require "spec.support.screen"
local shell = require "spec.support.shell"

local host = shell.quote(shell.host)
local absolute = shell.quote((shell.run("realpath " .. host).out:gsub("\n", "")))

-- Lines of a shell that wait for a condition, twenty seconds at most.
local function until_true(condition)
  return "for n in $(seq 200); do " .. condition .. " && break; sleep 0.1; done"
end

-- Run a command of the host: its arguments, as text for the shell.
local function mantichora(arguments, stdin, options)
  options = options or {}
  options.stdin = stdin
  return shell.run(host .. " " .. arguments, options)
end

local function seq(n)
  local lines = {}
  for i = 1, n do lines[i] = i .. "\n" end
  return table.concat(lines)
end

-- Lines of a shell that wait until a file has more than `least` bytes, `now`, and no longer grows.
local function until_still(path, least)
  return ([[
    before=-1; same=0
    for n in $(seq 300); do
      now=$(cat %s 2>/dev/null | wc -c)
      [ "$now" = "$before" ] && [ "$now" -gt %d ] && same=$((same + 1)) || same=0
      [ $same = 8 ] && break
      before=$now; sleep 0.2
    done]]):format(path, least)
end

describe("mantichora map", function()
  it("prints what an expression makes of each item, in order", function()
    local told = mantichora("map '_ * 2'", seq(1000))
    local lines = {}
    for i = 1, 1000 do lines[i] = i * 2 .. "\n" end
    assert.are.equal("", told.err)
    assert.are.equal(table.concat(lines), told.out)
    assert.are.equal(0, told.status)
  end)

  it("takes a last item that has no end of its own, of any length", function()
    for length = 1, 40 do
      local last = ("x"):rep(length)
      for _, before in ipairs { "", "a", "ab\n", "a\n\nbc" } do
        local lines = before .. last
        local told = mantichora("map --in lines _", lines)
        assert.are.same({ lines .. "\n", "", 0 }, { told.out, told.err, told.status }, lines)
      end
    end
    local long = ("x"):rep(200000)
    assert.are.equal(long .. "\n", mantichora("filter --in lines true", long).out)
    assert.are.equal("12\n", mantichora("map _", "12").out)
    assert.are.equal("b\n", mantichora("run --in nul echo", "b").out)
    assert.are.equal("a,b\n1,2\n", mantichora("map --in csv _", "a,b\n1,2").out)
  end)

  it("takes a chunk, several values, nil and false", function()
    local told = mantichora(
      "map 'if _ == 1 then return nil elseif _ == 2 then return end return nil, false, i'", seq(3))
    assert.are.equal("null\nfalse\n3\n", told.out)
    assert.are.equal(0, told.status)
    assert.are.equal("false\n", mantichora("map false", "1\n").out)
  end)

  it("numbers items across files, and passes over empty lines", function()
    local folder = shell.folder()
    shell.write(folder .. "/a", "1\n\n  \n2\n")
    shell.write(folder .. "/b", "3")
    local told = mantichora(("map '{_, i}' %s/a - %s/b"):format(folder, folder), "true\n")
    shell.remove(folder)
    assert.are.equal("[1,1]\n[2,2]\n[true,3]\n[3,4]\n", told.out)
  end)

  it("reads a pipe by its name", function()
    local folder = shell.folder()
    local told = shell.run(("cd %s; mkfifo in; seq 1000 >in & %s map _ %s/in"):format(folder, absolute, folder))
    shell.remove(folder)
    assert.are.equal(seq(1000), told.out)
  end)

  it("prints what -e prints before all results", function()
    assert.are.equal("begin\n1\n", mantichora("map -e 'print(\"begin\")' _", "1\n").out)
  end)

  it("takes a function from a file, libraries and code", function()
    local folder = shell.folder()
    shell.write(folder .. "/f.lua", "return function(item, number) return item + number + offset end")
    shell.write(folder .. "/lib.lua", "return { name = 'lib' }")
    local told = mantichora(("map -e 'offset = 100' -f %s/f.lua"):format(folder), seq(2))
    assert.are.equal("102\n104\n", told.out)
    told = shell.run(("cd %s && echo 1 | LUA_PATH='./?.lua' %s map -l lib -l x=lib 'lib.name .. x.name'"):format(
      folder, absolute))
    shell.remove(folder)
    assert.are.equal('"liblib"\n', told.out)
  end)
end)

describe("JSON at the shell is exact:", function()
  -- Input, and what comes back if that is another text.
  local same = {
    "9223372036854775807", "-9223372036854775808", "12345678901234567", "0", "1.0", "-0.0", "0.1",
    "0.30000000000000004",
    "1.7976931348623157e+308", "5e-324", "2.2250738585072014e-308", "1e+23", "123456789.12345679", "100000.0",
    "4.35", "0.000123", "null", "true", "false", "[]", "{}", "[[],{},[null]]", '""', '"\\u0000\\u001f\\n\\"\\\\"',
    '"\xff\xfe\x80"', '"\u{1F600}"', '{"":1,"a":2,"b":{"A":[],"a":{}}}', '[1,1.0,"1"]',
  }
  for _, text in ipairs(same) do
    it(("%q"):format(text), function()
      local told = mantichora("map _", text .. "\n")
      assert.are.equal("", told.err)
      assert.are.equal(text .. "\n", told.out)
    end)
  end

  local others = {
    { "1E2", "100.0" }, { "1e400", false }, { "-1e400", false }, { "1e-400", false }, { "0e-400", "0.0" },
    { "9223372036854775808", false }, { "-9223372036854775809", false }, { "123456789012345678901", false },
    { '{"b":1,"a":2,"B":3}', '{"B":3,"a":2,"b":1}' }, { ' [ 1 , 2 ] ', "[1,2]" },
    { '"\\ud83d\\ude00\\/"', '"\u{1F600}/"' },
    { '"\\ud83d"', false }, { '"\\ude00x"', false }, { '"\\\\ud83d"', '"\\\\ud83d"' },
    { "0.1000000000000000055511151231257827", "0.1" },
    { "1.0e0", "1.0" }, { "3.0000000000000001", "3.0" },
  }
  for _, pair in ipairs(others) do
    it(("%q"):format(pair[1]), function()
      local told = mantichora("map _", pair[1] .. "\n")
      assert.are.equal(pair[2] and pair[2] .. "\n" or "", told.out)
      assert.are.equal(pair[2] and 0 or 1, told.status)
    end)
  end

  it("every float comes back bit for bit", function()
    local lines = {}
    math.randomseed(7)
    for i = 1, 2000 do
      local x
      repeat x = string.unpack("d", string.pack("j", math.random(0))) until x == x and x - x == 0
      lines[i] = ("%.17g"):format(x)
      if not lines[i]:find("[.e]") then lines[i] = lines[i] .. ".0" end
    end
    local told = mantichora("map _", table.concat(lines, "\n") .. "\n")
    local i = 0
    for line in told.out:gmatch("[^\n]+") do
      i = i + 1
      assert.are.equal(tonumber(lines[i]), tonumber(line))
      assert.are.equal("float", math.type(tonumber(line)))
      local digits = line:gsub("[eE].*", ""):gsub("^%-?0*", ""):gsub("%.", ""):gsub("^0+", ""):gsub("0+$", "")
      assert.is_true(#digits <= 17)
    end
    assert.are.equal(2000, i)
  end)

  it("null is a global, and lists that become empty stay lists", function()
    assert.are.equal("true\n", mantichora("map '_ == null'", "null\n").out)
    assert.are.equal("[]\n", mantichora("map 'table.remove(_) return _'", "[1]\n").out)
    assert.are.equal("{}\n", mantichora("map '_.a = nil return _'", '{"a":1}\n').out)
    assert.are.equal('{"a":null}\n', mantichora("map '{a = null}'", "1\n").out)
  end)

  it("lists and objects may stand 10,000 deep in each other", function()
    local deep = ("["):rep(9999) .. ("]"):rep(9999) .. "\n" .. ('{"a":'):rep(9999) .. "1" .. ("}"):rep(9999) .. "\n"
    assert.are.equal(deep, mantichora("map _", deep).out)
    local told = mantichora("map _", ("["):rep(20000) .. "\n")
    assert.is_truthy(told.err:find("stdin:1: column 10001: lists and objects stand too deep", 1, true))
  end)

  it("refuses what is no JSON, with its path", function()
    local told = mantichora("map --halt never '_G[_] or {a = {print}}'", '"nothing"\n')
    assert.is_truthy(told.err:find("the result.a[1] cannot be written as JSON: function", 1, true))
    told = mantichora("map '{x = {1, 2, y = 3}}'", "1\n")
    assert.is_truthy(told.err:find("the result.x cannot be written as JSON: a table is a list and has names too",
      1, true))
    told = mantichora("map '0/0'", "1\n")
    assert.is_truthy(told.err:find("inf and nan are no numbers there", 1, true))
    told = mantichora("map 'local t = {} t.t = t return t'", "1\n")
    assert.is_truthy(told.err:find("too deep", 1, true))
    assert.are.equal(1, told.status)
  end)

  it("tells bad input with file, line and column, and goes on if told so", function()
    local told = mantichora("map --halt never _", '{"a":1}\n\n{"a":tru}\n[1,\n5 6\n2\n')
    assert.are.equal('{"a":1}\n2\n', told.out)
    assert.are.equal(3, told.status)
    assert.is_truthy(told.err:find("stdin:3: column 9: ", 1, true))
    assert.is_truthy(told.err:find("stdin:4: column 4: the value does not end", 1, true))
    assert.is_truthy(told.err:find("stdin:5: column 3: more than one value", 1, true))
    told = mantichora("map --skip-bad _", "1\nx\n2\n")
    assert.are.equal("1\n2\n", told.out)
    assert.is_truthy(told.err:find("stdin:2: column 1: ", 1, true))
    assert.are.equal(0, told.status)
  end)
end)

describe("formats at the shell:", function()
  it("lines and NULs", function()
    assert.are.equal("[a b ]\n[]\n[c]\n", mantichora("map --in lines '\"[\" .. _ .. \"]\"'", "a b \n\nc").out)
    assert.are.equal("a\nb\0\0", mantichora("map --in nul _", "a\nb\0\0").out)
    assert.are.equal('"a"\n', mantichora("map --in lines --out jsonl _", "a\n").out)
    assert.are.equal("0.1\n1.0\nnull\n[1]\n", mantichora("map --out lines _", "0.1\n1.0\nnull\n[1]\n").out)
  end)

  it("columns of bad JSON are those where it begins to be wrong", function()
    local columns = {
      { "x", 1 }, { '{"a":tru}', 9 }, { "[1,]", 4 }, { "[1 22]", 4 }, { '{"a" "b\\"cd"}', 6 }, { "{1:2}", 2 },
      { '"a\\qb"', 4 },
      { '"a\tb"', 3 }, { "01", 1 }, { '{"a":1}}', 8 }, { "]", 1 }, { "  x", 3 }, { '{"a":1} {"b":2}', 9 },
      { "[1e999]", 2 },
      { "[1, 99999999999999999999]", 5 }, { "[1", 3 },
    }
    local lines = {}
    for i, pair in ipairs(columns) do lines[i] = pair[1] .. "\n" end
    local told = mantichora("map --halt never _", table.concat(lines))
    for i, pair in ipairs(columns) do
      local place = ("stdin:%d: column %d: "):format(i, pair[2])
      assert.is_truthy(told.err:find(place, 1, true), pair[1] .. "\n" .. told.err)
    end
    assert.are.equal(#columns, told.status)
  end)

  it("CSV by RFC 4180", function()
    local text = 'name,"a ""b""",z\r\nx,"1,\r\n2",\r\n"q""",,3\r\n'
    assert.are.equal(text, mantichora("map --in csv _", text).out)
    assert.are.equal(text, mantichora("filter --in csv true", text).out)
    assert.are.equal('name,"a ""b""",z\r\n"q""",,3\r\n', mantichora("filter --in csv '_.z == \"3\"'", text).out)
    assert.are.equal('{"a \\"b\\"":"1,\\r\\n2","name":"x","z":""}\n',
      mantichora("map --in csv --out jsonl 'i == 1 and _ or nil'", text).out)
    assert.are.equal("1,2\n", mantichora("map --in csv --no-header _", "1,2\n").out)
  end)

  it("CSV out has the input's columns, then new ones by name as the first line has them", function()
    local told = mantichora("map --in csv '_.z = i _.c = _.a .. _.b return _'", "b,a\n1,2\n3,4\n")
    assert.are.equal("b,a,c,z\n1,2,21,1\n3,4,43,2\n", told.out)
    told = mantichora("map -j1 --in csv 'if i == 2 then _.new = 1 end return _'", "a\n1\n2\n3\n")
    assert.are.equal("a\n1\n", told.out)
    assert.is_truthy(told.err:find("column 'new' is not in the header", 1, true))
    assert.are.equal("a,b\n1,\n2,x\n", mantichora("map --out csv _", '{"a":1,"b":null}\n{"b":"x","a":2}\n').out)
  end)

  it("bad CSV is told with line and column", function()
    local told = mantichora("map --halt never --in csv _", 'a,b\n1,2\n1,2,3\n"x"y,1\nq"q,1\n5,6\n"open,1\n')
    assert.are.equal("a,b\n1,2\n5,6\n", told.out)
    assert.are.equal(4, told.status)
    assert.is_truthy(told.err:find("stdin:3: column 1: there are 3 fields here and 2 names in the header", 1, true))
    assert.is_truthy(told.err:find("stdin:4: column 4: ", 1, true))
    assert.is_truthy(told.err:find("stdin:5: column 2: ", 1, true))
    assert.is_truthy(told.err:find("stdin:7: column 1: a quote is not closed", 1, true))
  end)

  it("filter prints the input's own bytes", function()
    local told = mantichora("filter '_.a'", '{"a" : 1.50 }\r\n{"a":null}\n{"a":false}\n {"b":1,"a":[]}')
    assert.are.equal('{"a" : 1.50 }\r\n {"b":1,"a":[]}\n', told.out)
  end)

  it("--tag puts the item before each line", function()
    assert.are.equal("1\t1\n1\t2\n", mantichora("map --tag '1, 2'", "1\n").out)
    assert.are.equal("a b\tx\na b\ty\n", mantichora("run --tag 'set {}; printf \"x\\ny\"'", "a b\n").out)
  end)
end)

describe("mantichora map --results", function()
  it("keeps what an item has printed, by itself and as its result", function()
    local folder = shell.folder()
    local told = mantichora(([[map --halt never --results %s/r -l io=io 'print("out", i) os.execute("echo prog")
      io.stderr:write("err\n") if _ == 2 then error("no") end return _']]):format(folder), "1\n2\n")
    local kept = shell.run(("cd %s/r; for n in 1 2; do cat $n/item; echo; cat $n/stdout $n/stderr $n/status; done")
      :format(folder)).out
    shell.remove(folder)
    assert.are.equal("1\nout\t1\nprog\n1\nerr\n0\n2\nout\t2\nprog\nerr\nEXPR:2: no\n1\n", kept)
    assert.are.equal("out\t1\nprog\n1\nout\t2\nprog\n", told.out)
    assert.are.equal("err\nerr\nmantichora map: stdin:2: EXPR:2: no, in item 2\n", told.err)
  end)
end)

describe("mantichora run", function()
  it("puts the item as one word, whatever bytes it has", function()
    local items = { "it's", "$(echo X)", "`echo X`", '"; echo X; "', "a  b", "\\", "*", "{}", "{#}",
      "-n", "\xff\xfe", "!x", "~", "#c" }
    local told = mantichora("run 'printf \"%s|\\n\" pre{}post {#} {a,b} ${#}'", table.concat(items, "\n") .. "\n")
    local expected = {}
    for i, item in ipairs(items) do expected[i] = ("pre%spost|\n%d|\n{a,b}|\n0|\n"):format(item, i) end
    assert.are.equal(table.concat(expected), told.out)
    assert.are.equal("", told.err)
  end)

  it("puts items with newlines, and empty ones, where NULs end them", function()
    local told = mantichora("run --in nul 'printf \"<%s>\" {}'", "a\nb'\n\0\0c")
    assert.are.equal("<a\nb'\n>\n<>\n<c>\n", told.out)
  end)

  it("puts the item last where there is no {}", function()
    assert.are.equal("1 a b\n", mantichora("run 'echo {#}'", "a b\n").out)
  end)

  for _, command in ipairs {
    [[echo "{}"]], [[echo '{}']], [[echo \{}]], [[echo `echo {}`]], [[echo "$(echo {})"]], [[echo "$(echo "{}")"]],
    [[echo # {}]], "cat <<X\n{}\nX", [[echo $(({}))]], [[echo ${x:-{}}]], [[echo "a" "{#}"]], [[echo '{#}']],
    [[echo \{#}]], [["]], [[echo #]], [[echo 'a]], "cat <<X", [[echo \]], [[echo "$(case x in x) echo "{}";; esac)"]],
    "echo $(x)# '\n{} '", [[awk '{ print "{}" }']], [[echo $'\'{}']],
  } do
    it("refuses " .. command:gsub("\n", "\\n"), function()
      local told = mantichora("run " .. shell.quote(command), "$(echo X >&2)\n")
      assert.are.equal("", told.out)
      assert.are.equal(255, told.status)
      assert.is_nil(told.err:find("^X"))
    end)
  end

  for _, command in ipairs {
    [[echo {} | cat]], [[echo $(echo {})]], [[x={}; echo "$x"]], [[printf '%s\n' {} | awk '{ print }']],
    [[echo "$(date +%Y)" >/dev/null; echo {}]], [[if true; then echo {}; fi]], [[(echo {})]],
    [[case {} in *) echo {};; esac]],
    [[echo "a`true`" >/dev/null; echo {} # it's fine]],
    [[echo {} "${x:-}"|sed 's/ $//']], [[echo "\"" >/dev/null; echo {}]],
  } do
    it("takes " .. command, function()
      assert.are.equal("$(echo 'X' Y)\n", mantichora("run " .. shell.quote(command), "$(echo 'X' Y)\n").out)
    end)
  end

  it("lets no item out of its word, whatever command is taken", function()
    local template = assert(loadfile("scripts/commands/template.lua"))()
    local pieces = {
      "'", '"', "\\", "$(", ")", "`", "${", "}", "#", "\n", "((", "))", "$((", "<<X", "\nX\n", "echo ", " ",
      "case x in x)", ";;", "esac", ";", "a", "$'", "x:-", "$", "(", "&&", "|", "\\\n", "=", "[", "]", "$[" }
    local items = { "$(touch out)`touch out`", "\ntouch out\n", "'; touch out; '", '"; touch out; "', ")\ntouch out\n(",
      "}; touch out\n", "X\ntouch out\n", "a[$(touch out)]" }
    local folder = shell.folder()
    local lines, taken = { "cd " .. folder }, 0
    math.randomseed(11)
    while taken < 100 do
      local words = {}
      for i = 1, math.random(2, 10) do words[i] = math.random(4) == 1 and "{}" or pieces[math.random(#pieces)] end
      local text = "echo " .. table.concat(words) .. "{}"
      local parsed = template.parse(text)
      if parsed then
        taken = taken + 1
        for _, item in ipairs(items) do
          local command = {}
          for i, piece in ipairs(parsed) do command[i] = piece == 1 and shell.quote(item) or tostring(piece) end
          lines[#lines + 1] = ("timeout 5 sh -c %s >log 2>&1 </dev/null; [ ! -e out ] || { echo %s; rm out; }"):format(
            shell.quote(table.concat(command)), shell.quote(text))
        end
      end
    end
    local told = shell.run(table.concat(lines, "\n"), { timeout = 100 })
    shell.remove(folder)
    assert.are.equal("", told.out)
  end)

  it("prints stdout and stderr in the order of the items, and goes on after failures", function()
    local told = mantichora("run -j4 'sleep 0.$((5 - {#})); echo {}; echo e{} >&2; exit {}'", seq(4))
    assert.are.equal(255, told.status) -- in arithmetic {#} is refused, too
    told = mantichora("run -j4 'x={#}; sleep 0.$((5 - x)); echo {}; echo e{} >&2; exit {}'", "3\n0\n1\n0\n")
    assert.are.equal("3\n0\n1\n0\n", told.out)
    assert.are.equal(2, told.status)
    local order = {}
    for line in told.err:gmatch("[^\n]+") do order[#order + 1] = line end
    assert.are.equal("e3", order[1])
    assert.are.equal("mantichora run: stdin:1: the command ended with status 3, in item 3", order[2])
    assert.are.equal("e0", order[3])
  end)

  it("gives an item another attempt", function()
    local folder = shell.folder()
    local told = mantichora(("run --retries 2 'echo x >> %s/{}; test $(wc -l < %s/{}) = 3'"):format(folder,
      folder), "a\nb\n")
    shell.remove(folder)
    assert.are.equal("", told.err)
    assert.are.equal(0, told.status)
  end)

  it("says what it would run", function()
    local told = mantichora("run --dry-run 'rm {} {#}'", "a b\nit's\n")
    assert.are.equal("rm 'a b' 1\nrm 'it'\\''s' 2\n", told.out)
  end)

  it("writes GNU parallel's table, and a folder for each item", function()
    local folder = shell.folder()
    local told = mantichora(("run --joblog %s/log --results %s/r 'echo {}; echo e >&2; exit {}'"):format(folder,
      folder), "0\n7\n")
    assert.are.equal("0\n7\n", told.out)
    local log = shell.run("sort -n " .. folder .. "/log").out
    assert.is_truthy(log:find("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n", 1, true))
    assert.is_truthy(log:find("\n2\t:\t%d+%.%d%d%d\t +%d+%.%d%d%d\t0\t2\t7\t0\techo '7'; echo e >&2; exit '7'\n"))
    local kept = shell.run(("cd %s/r/2 && cat item && echo / && cat stdout stderr status"):format(folder)).out
    shell.remove(folder)
    assert.are.equal("7/\n7\ne\n7\n", kept)
  end)
end)

describe("ends at the shell:", function()
  it("the exit status counts failed items", function()
    assert.are.equal(100, mantichora("map --halt never 'error()'", seq(100)).status)
    assert.are.equal(101, mantichora("map --halt never 'error()'", seq(101)).status)
    assert.are.equal(3, mantichora("run 'test {} -gt 3'", seq(9)).status)
  end)

  it("wrong use is 255, and nothing runs", function()
    for _, arguments in ipairs { "map", "map 'x y'", "map _ /nowhere/x", "map _ /", "map -j0 _", "map --in xml _",
      "run",
      "map --halt soon _", "map --retries -1 _", "map --no-such _", "map --journal /nowhere/j _",
      "map -f /nowhere/f.lua",
      "map -l no.such.module _", "map -e 'error(1)' _", "map --halt soon,fail=0 _", "map --bar=1 _" } do
      local told = mantichora(arguments, "1\n")
      assert.are.equal(255, told.status, arguments)
      assert.are.equal("", told.out, arguments)
      assert.is_truthy(told.err:find("^mantichora %l+: "), arguments)
    end
    assert.is_truthy(mantichora("map --unorderd _").err:find("did you mean '--unordered'?", 1, true))
    assert.is_truthy(mantichora("run --ou x _").err:find("did you mean", 1, true))
  end)

  it("each command has --help; a script of its name is run as ./map", function()
    for _, verb in ipairs { "map", "filter", "run" } do
      local told = mantichora(verb .. " --help")
      assert.are.equal(0, told.status)
      assert.is_truthy(told.out:find("usage: mantichora " .. verb, 1, true))
      assert.is_truthy(told.out:find("--skip-bad", 1, true))
    end
    local folder = shell.folder()
    shell.write(folder .. "/map", "print('script', ...)")
    local told = shell.run(("cd %s && %s ./map a"):format(folder, absolute))
    shell.remove(folder)
    assert.are.equal("script\ta\n", told.out)
  end)

  it("what came before a failure is printed, and nothing behind it begins", function()
    local told = mantichora("map -j3 'if _ == 5000 then error(\"here\") end return _'", seq(100000))
    assert.are.equal(seq(4999), told.out:sub(1, #seq(4999)))
    assert.are.equal(1, told.status)
    assert.is_truthy(told.err:find("stdin:5000: EXPR:1: here, in item 5000", 1, true))
    assert.is_nil(told.out:find("\n100000\n", 1, true))
    assert.are.equal("1\n2\n", mantichora("map -j1 'if _ == 3 then error() end return _'", seq(5)).out)
  end)

  it("--halt at the n-th failure, or at a share of them", function()
    local bad = "'if _ %% 2 == 0 then error() end return _'"
    assert.are.equal("1\n3\n5\n", mantichora("map -j1 --halt soon,fail=3 " .. bad:gsub("%%%%", "%%"), seq(50)).out)
    assert.are.equal("1\n3\n", mantichora("map -j1 --halt now,fail=2 " .. bad:gsub("%%%%", "%%"), seq(50)).out)
    assert.are.equal(3, mantichora("map -j1 --halt now,fail=50% " .. bad:gsub("%%%%", "%%"), seq(50)).status)
    assert.are.equal("1\n2\n", mantichora("run -j1 --halt soon,fail=1 'echo {}; test {} != 2'", seq(9)).out)
  end)

  it("a worker that dies costs the item that it was at", function()
    local told = mantichora("map --in lines --halt never 'if _ == \"3\" then os.exit(9) end return _'", seq(2000))
    assert.are.equal((seq(2000):gsub("\n3\n", "\n")), told.out)
    assert.are.equal(1, told.status)
    assert.is_truthy(told.err:find("stdin:3: its worker exited with status 9, in item 3", 1, true))
  end)

  it("an item that takes too long fails alone", function()
    local told = mantichora("map -j2 --halt never --timeout 0.3 'if _ == 2 then while true do end end return _'",
      seq(50))
    assert.are.equal((seq(50):gsub("\n2\n", "\n", 1)), told.out)
    assert.is_truthy(told.err:find("stdin:2: it ran longer than allowed (0.3 s), in item 2", 1, true))
  end)

  it("attempts are counted whatever ends them", function()
    for _, how in ipairs { "error('again')", "os.exit(3)", "os.execute('kill -9 $PPID')", "while true do end" } do
      local folder = shell.folder()
      shell.write(folder .. "/f.lua", ([[
        local function attempts()
          local file <close> = io.open("%s/tries", "a+")
          file:write("x")
          file:flush()
          return file:seek("end")
        end
        return function(item)
          if item == 2 and attempts() < limit then %s end
          return item
        end
      ]]):format(folder, how))
      local options = ("map -j2 --halt never --timeout 0.3 --retries 2 -f %s/f.lua"):format(folder)
      local told = mantichora("-e 'limit = 3' " .. options, seq(3))
      assert.are.equal("1\n2\n3\n", told.out, how)
      assert.are.equal("", told.err, how)
      os.remove(folder .. "/tries")
      told = mantichora("-e 'limit = 9' " .. options, seq(3))
      assert.are.equal("1\n3\n", told.out, how)
      assert.are.equal(1, told.status, how)
      assert.are.equal("3\n", shell.run(("wc -c <%s/tries"):format(folder)).out, how)
      shell.remove(folder)
    end
  end)

  it("output that cannot be written is 255", function()
    local told = mantichora("map _ >/dev/full", "1\n")
    assert.are.equal(255, told.status)
    assert.is_truthy(told.err:find("stdout cannot be written: ", 1, true))
    told = mantichora("map _ >&-", "1\n")
    assert.are.equal(255, told.status)
    assert.is_truthy(told.err:find("stdout is closed", 1, true))
  end)

  it("ends at once, without a word, when its reader goes", function()
    local folder = shell.folder()
    local told = shell.run(([[
      cd %s; mkfifo in
      { %s map _ <in; echo $? >status; } 2>err | head -1 &
      exec 9>in; echo 1 >&9
      %s
      cat status err; exec 9>&-
    ]]):format(folder, absolute, until_true("[ -s status ]")))
    shell.remove(folder)
    assert.are.equal("1\n141\n", told.out)
  end)

  it("Ctrl-C is 130, and nothing is left running", function()
    local folder = shell.folder()
    local told = shell.run(([[
      cd %s; mkfifo in
      %s run "touch mark; sleep 19.731; echo {}" <in &
      exec 9>in; echo 1 >&9
      %s
      kill -INT $!; wait $!; echo $?
      %s
      pgrep -f 'sleep 19.73[1]' | wc -l
    ]]):format(folder, absolute, until_true("[ -e mark ]"), until_true("! pgrep -f 'sleep 19.73[1]' >/dev/null")))
    shell.remove(folder)
    assert.are.equal("130\n0\n", told.out)
  end)
end)

describe("Ctrl-C", function()
  it("is heeded while nobody reads the output", function()
    local folder = shell.folder()
    local told = shell.run(([[
      cd %s; mkfifo out; exec 8<>out
      seq 100000 >in
      %s map --out lines 'io.open("begun", "a"):write("x"):close() return ("x"):rep(1000)' <in >out 8<&- &
      %s
      kill -INT $!; wait $!; echo $?
    ]]):format(folder, absolute, until_still("begun", 60)))
    shell.remove(folder)
    assert.are.equal("130\n", told.out)
    assert.are.equal("", told.err)
  end)
end)

describe("on a terminal", function()
  it("results stand above the bar", function()
    local folder = shell.folder()
    shell.write(folder .. "/run", ("seq 3 | %s map --bar 'os.execute(\"sleep 0.2\") return _ * 11'\n"):format(absolute))
    local got = shell.run(("stty cols 80 rows 24 2>/dev/null; TERM=xterm script -qec 'sh %s/run' /dev/null"):format(
      folder))
    shell.remove(folder)
    local lines = screen.new(80, 24):feed(got.out):rows()
    assert.are.same({ "11", "22", "33" }, { lines[1], lines[2], lines[3] })
    assert.is_truthy(lines[4]:find("        3 .*|:  map"), got.out)
  end)

  it("bash completes commands, options and their values", function()
    local function complete(...)
      local words = {}
      for i, word in ipairs { shell.host, ... } do words[i] = shell.quote(word) end
      return shell.run(([[bash -c '. scripts/completion/mantichora; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _mantichora; printf "%%s\n" "${COMPREPLY[@]}"' bash %s]]):format(table.concat(words, " "))).out
    end
    assert.are.equal("run\n", complete("ru"):match("run\n"))
    assert.are.equal("--unordered\n", complete("map", "--un"))
    assert.are.equal("csv\n", complete("map", "--in", "c"))
    assert.are.equal("csv\n", complete("map", "--in", "=", "c"))
    assert.are.equal("eta\n", complete("--progress", "e"))
    assert.are.equal("CMakeLists.txt\n", complete("filter", "_", "CMakeL"))
    assert.is_nil(complete("run", "--"):find("--out", 1, true))
  end)
end)

describe("the way through the workers:", function()
  it("keeps the order of 100,000 lines, and loses and doubles none", function()
    local text = seq(100000)
    assert.are.equal(text, mantichora("map -j4 _", text).out)
    local told = mantichora("map -j4 --unordered _", text)
    local lines, seen = 0, {}
    for line in told.out:gmatch("[^\n]+") do lines, seen[line] = lines + 1, true end
    assert.are.equal(100000, lines)
    for i = 1, 100000 do assert(seen[tostring(i)]) end
  end)

  it("takes items and results that are larger than its memory for them", function()
    local large = '"' .. ("x"):rep(700000) .. '"\n'
    local told = mantichora("map 'type(_) == \"string\" and #_ or _'", large .. "1\n" .. large)
    assert.are.equal("700000\n1\n700000\n", told.out)
    told = mantichora("map --out lines '(\"y\"):rep(_)'", "700000\n1\n300000\n")
    assert.are.equal(("y"):rep(700000) .. "\ny\n" .. ("y"):rep(300000) .. "\n", told.out)
    told = mantichora("map --out lines '(\"z\"):rep(1000)'", seq(3000))
    assert.are.equal((("z"):rep(1000) .. "\n"):rep(3000), told.out)
  end)

  it("shows a result before its batch has ended", function()
    local folder = shell.folder()
    shell.write(folder .. "/f.lua", [[
      return function(item)
        if item == 1500 then
          while not io.open("go") do os.execute("sleep 0.1") end
        end
        return item
      end
    ]])
    local told = shell.run(([[
      cd %s; mkfifo in
      %s map -j1 -f f.lua <in >out &
      exec 9>in; seq 1 2000 >&9
      %s
      wc -l <out; touch go
      %s
      wc -l <out; exec 9>&-; wait
    ]]):format(folder, absolute, until_true('[ "$(wc -l <out)" = 1499 ]'), until_true('[ "$(wc -l <out)" = 2000 ]')))
    shell.remove(folder)
    assert.are.equal("1499\n2000\n", told.out)
  end)

  it("starts no item beyond 64 MiB of results that wait", function()
    local folder = shell.folder()
    shell.write(folder .. "/f.lua", [[
      return function(item)
        if item == 1 then
          while not io.open("go") do os.execute("sleep 0.1") end
        end
        local begun <close> = io.open("begun", "a")
        begun:write("x")
        return ("z"):rep(1000000)
      end
    ]])
    local told = shell.run(([[
      cd %s
      seq 1 400 | %s map -j2 --out lines -f f.lua >out &
      %s
      [ "$now" -lt 90 ] && echo bounded
      touch go; wait; wc -c <out
    ]]):format(folder, absolute, until_still("begun", 50)), { timeout = 100 })
    shell.remove(folder)
    assert.are.equal("bounded\n400000400\n", told.out)
  end)
end)
