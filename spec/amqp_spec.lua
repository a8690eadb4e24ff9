-- mantichora-amqp: the site key, what it refuses, and a fleet behind a real broker on loopback. In the place of
-- the supervisor stands test_links, which sends back what it gets.

local broker = require "spec.support.broker"
local process = require "spec.support.process"
local shell = require "spec.support.shell"

local build = shell.host:match("^(.*)/bin/[^/]*$") or "build"
local program = build .. "/bin/mantichora-amqp"
local there = io.open(program) ~= nil

local function mode_of(path)
  return shell.run("stat -c %a " .. path).out:match("%d+")
end

describe("mantichora-amqp", function()
  if not there then
    pending("was not built: librabbitmq or OpenSSL is missing")
    return
  end

  local links = require "links_module"
  local echo = build .. "/spec/test_links"
  local home

  -- A command line with the settings of this test.
  local function with(words, more)
    return ("env HOME=%s XDG_CONFIG_HOME= %s %s %s"):format(home, more or "", program, words)
  end
  local function run(words, more)
    return shell.run(with(words, more), { timeout = 20 })
  end

  setup(function()
    home = shell.folder()
    assert.equal(0, run("key new").status)
  end)
  teardown(function() shell.remove(home) end)

  describe("key new", function()
    it("makes a file that only its owner reads, with 32 random bytes", function()
      local path = home .. "/.config/mantichora/key"
      assert.equal("600", mode_of(path))
      local file <close> = io.open(path)
      local first = file:read("a")
      assert.truthy(first:find("^%x+\n$"))
      assert.equal(65, #first)
      local got = shell.run(("umask 0; HOME=%s %s key new %s/another"):format(home, program, home))
      assert.equal(0, got.status)
      assert.truthy(got.out:find(home .. "/another is a new site key", 1, true))
      assert.equal("600", mode_of(home .. "/another"))
      local other <close> = io.open(home .. "/another")
      assert.not_equal(first, other:read("a"))
    end)

    it("leaves a file that exists as it is, also a link to nowhere", function()
      local got = run("key new")
      assert.equal(1, got.status)
      assert.truthy(got.err:find("key exists: it was left as it is", 1, true))
      os.execute(("ln -s %s/nowhere %s/link"):format(home, home))
      assert.equal(1, run(("key new %s/link"):format(home)).status)
      assert.is_nil(io.open(home .. "/nowhere"))
    end)

    it("takes its file from MANTICHORA_KEY_FILE", function()
      assert.equal(0, run("key new", "MANTICHORA_KEY_FILE=" .. home .. "/deep/er/key").status)
      assert.equal("600", mode_of(home .. "/deep/er/key"))
      assert.equal(2, run("key").status)
      assert.equal(2, run("key old").status)
    end)
  end)

  it("is what `mantichora key` and `mantichora worker` of a fleet call", function()
    local host = ("env HOME=%s XDG_CONFIG_HOME= %s "):format(home, shell.host)
    local got = shell.run(host .. "key new " .. home .. "/by-host")
    assert.equal(0, got.status, got.err)
    assert.equal("600", mode_of(home .. "/by-host"))
    got = shell.run(host .. "worker --slots 2 amqp://joe:s3cret@mq.example/x")
    assert.equal(1, got.status)
    assert.truthy(got.err:find("amqp:// to mq.example would send", 1, true), got.err)
    assert.is_nil(got.err:find("s3cret", 1, true))
  end)

  describe("refuses", function()
    local function refusal(words, more, text)
      local got = run(words, more)
      assert.equal(1, got.status)
      assert.truthy(got.err:find(text, 1, true), got.err)
      assert.is_nil((got.out .. got.err):find("s3cret", 1, true))
    end

    it("to start without a site key, or with one that others can read", function()
      local url = "worker --allow-root amqp://guest:s3cret@localhost:1/x"
      refusal(url, "MANTICHORA_KEY_FILE=/no/where", "there is no site key in /no/where: make one with")
      shell.write(home .. "/loose", ("a"):rep(64) .. "\n")
      os.execute("chmod 640 " .. home .. "/loose")
      refusal(url, "MANTICHORA_KEY_FILE=" .. home .. "/loose", "may be read or written by others: `chmod 600`")
      os.execute("chmod 600 " .. home .. "/loose")
      shell.write(home .. "/loose", "not hexadecimal")
      refusal(url, "MANTICHORA_KEY_FILE=" .. home .. "/loose", "holds no site key, which is 64 hexadecimal digits")
    end)

    it("amqp:// to anything but this machine", function()
      for _, words in ipairs { "worker --allow-root", "list" } do
        for _, host in ipairs { "mq.example", "10.0.0.1", "127.0.0.1.example", "127.evil", "[fe80::1]" } do
          refusal(("%s amqp://guest:s3cret@%s/x"):format(words, host), "",
            " would send password and tasks unencrypted: use amqps://")
        end
      end
    end)

    it("to run tasks as root without being told to", function()
      if not shell.run("id -u").out:find("^0") then
        return pending("this is not root")
      end
      refusal("worker amqp://guest:s3cret@localhost:1/x", "", "say --allow-root")
    end)

    it("a password that it has not, or that others can read", function()
      refusal("list amqp://joe@localhost:1/x", "", "there is no password for joe at the broker")
      shell.write(home .. "/.config/mantichora/amqp", "s3cret\n")
      refusal("list amqp://joe@localhost:1/x", "", "mantichora/amqp may be read or written by others")
      os.execute("chmod 600 " .. home .. "/.config/mantichora/amqp")
      refusal("list amqp://joe@localhost:1/x", "", "cannot connect (broker localhost:1)")
      os.remove(home .. "/.config/mantichora/amqp")
    end)

    it("what is no URL, and shows no password in it", function()
      for _, url in ipairs { "amqp://joe:s3cret@localhost:x/y", "amqp://joe:s3c/s3cret@lo calhost/y",
        "amqp://joe:s3cret@/y", "amqp://joe:s3cret@localhost/%0a", "amqp://joe:s3cret@-host/y" } do
        refusal("list " .. shell.quote(url), "", "is no URL of a broker")
      end
    end)
  end)

  it("reads URLs as AMQP has them", function()
    local function parse(url) return (links.parse(url)) end
    assert.equal("plain|localhost|5672||", parse "amqp://localhost")
    assert.equal("tls|mq.example|5671|farm|render", parse "amqps://farm@mq.example/render")
    assert.equal("tls|::1|99|a@b|/x", parse "amqps://a%40b@[::1]:99/%2Fx")
    assert.is_nil(parse "amqp://a@b/c/d")
    assert.same({ "amqp://u@h/v", "p@:%" }, { links.split "amqp://u:p%40:%25@h/v" })
    assert.same({ "amqp://u@h/v", "p@q" }, { links.split "amqp://u:p@q@h/v" })
    assert.same({ "amqp://u@h/v", "p/q" }, { links.split "amqp://u:p/q@h/v" })
    assert.same({ "amqp://h:1/a@b" }, { links.split "amqp://h:1/a@b" })
    assert.same({ "amqp://u@h" }, { links.split "amqp://u@h" })
  end)

  describe("with a broker", function()
    if not broker.is_there() then
      pending("there is no RabbitMQ here")
      return
    end

    local mq, mark
    local agents = {}

    -- A machine of the fleet; its process's number and the file of what it says.
    local function machine(fleet, slots, more)
      local log = os.tmpname()
      local pid = shell.run(("%s >%s 2>&1 & echo $!"):format(with(("worker %s --slots %d --allow-root --program %s")
        :format(mq:url(fleet), slots, echo), more), log)).out:match("%d+")
      agents[#agents + 1] = { pid = tonumber(pid), log = log }
      return agents[#agents]
    end
    local function said(agent)
      local file <close> = io.open(agent.log)
      return file:read("a")
    end
    local function start(words, options)
      options = options or {}
      options.command = { program, table.unpack(words) }
      options.environment = { "HOME=" .. home, "XDG_CONFIG_HOME=", "MANTICHORA_TEST=" .. mark,
        table.unpack(options.environment or {}) }
      return links.start(options)
    end
    local function list(fleet, options) return start({ "list", mq:url(fleet) }, options) end
    local function expect(link, what, seconds)
      local event = link:next(seconds or 20)
      assert.equal(what, event and event.what, (event and event.text or "") .. link:said())
      return event
    end
    -- The next of this type.
    local function message(link, type, seconds)
      while true do
        local event = expect(link, "message", seconds)
        if event.type == type then return event.bytes end
      end
    end
    local function lost(link, seconds)
      local event
      repeat event = link:next(seconds or 10) until not event or event.what == "lost"
      assert.truthy(event)
      return event
    end
    local function connect(fleet, id, options)
      local link = start({ "connect", mq:url(fleet), id }, options)
      expect(link, "up")
      return link
    end
    local function echoes(link, text, seconds)
      link:send(2, text)
      return message(link, 2, seconds) == text
    end
    -- The supervisor, its helper, a worker of it.
    local function pids(link)
      link:send(1)
      local supervisor, helper, worker = string.unpack("<i4i4i4", message(link, 1))
      return { supervisor, helper, worker }
    end
    local function none_runs(list_of_pids, seconds)
      return pcall(process.wait, function()
        for _, pid in ipairs(list_of_pids) do
          if process.runs(pid) then return false end
        end
        return true
      end, seconds)
    end
    -- The process of `list_of_pids[2]`'s carrier on the machine.
    local function parent_of(pid)
      return tonumber(shell.run("ps -o ppid= -p " .. pid).out:match("%d+"))
    end

    -- A certificate authority, and what it has signed for localhost.
    local function make_certificates(folder)
      local got = shell.run(([[cd %s && exec 2>&1
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost
        printf 'subjectAltName=DNS:localhost\n' >extensions
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
          -out server.pem]]):format(folder))
      assert.equal(0, got.status, got.out)
    end

    setup(function()
      mq = broker.start([[
listeners.ssl.1 = 127.0.0.1:$TLS
ssl_options.cacertfile = $FOLDER/ca.pem
ssl_options.certfile = $FOLDER/server.pem
ssl_options.keyfile = $FOLDER/server.key
]], make_certificates)
      mark = "mark" .. process.pid()
    end)
    after_each(function()
      for _, agent in ipairs(agents) do
        os.execute("kill " .. agent.pid .. " 2>/dev/null")
      end
      for _, agent in ipairs(agents) do
        process.wait(function() return not process.runs(agent.pid) end)
        os.remove(agent.log)
      end
      agents = {}
      assert.same({}, process.outlive("MANTICHORA_TEST=" .. mark, 4))
    end)
    teardown(function() mq:stop() end)

    it("finds machines as they come and go, and carries messages of any length", function()
      local all <close> = list("one")
      expect(all, "up")
      local agent = machine("one", 6)
      local id, slots = message(all, 1):match("^(%S+) (%d+) %S+$")
      assert.equal("6", slots)
      local link <close> = connect("one", id)
      for _, length in ipairs { 0, 1, 65000, 65536, 3000000 } do
        assert.truthy(echoes(link, ("abcdefgh"):rep(length // 8) .. ("x"):rep(length % 8)))
      end
      assert.truthy(link:rtt() > 0)
      local gone = pids(link)
      link:close()
      assert.equal("it ended", lost(link).text)
      assert.truthy(none_runs(gone, 3))
      os.execute("kill " .. agent.pid)
      assert.equal(id, message(all, 2))
      -- Asked once more it is not there.
      local late <close> = start({ "connect", mq:url("one"), id })
      local event = lost(late)
      assert.truthy(event.refused)
      assert.truthy(event.text:find("the machine has left the fleet", 1, true), event.text)
    end)

    it("encrypts to a broker whose certificate verifies and names it, and to no other", function()
      local ca = "MANTICHORA_AMQP_CAFILE=" .. mq.folder .. "/ca.pem"
      local function try(host, more)
        local link <close> = links.start{ command = { program, "list",
          ("amqps://guest@%s:%d/tls"):format(host, mq.port + 3) },
          environment = { "HOME=" .. home, "XDG_CONFIG_HOME=", "MANTICHORA_AMQP_PASSWORD=guest",
            "MANTICHORA_TEST=" .. mark, more } }
        local event = link:next(20)
        return event and event.what, event and event.text
      end
      assert.equal("up", (try("localhost", ca)))
      local what, text = try("localhost")
      assert.equal("lost", what)
      assert.truthy(text:find("its certificate must verify and name this host", 1, true), text)
      what, text = try("127.0.0.1", ca) -- which the certificate does not name
      assert.equal("lost", what)
      assert.truthy(text:find("its certificate must verify and name this host", 1, true), text)
    end)

    it("drops what another key made, and says so", function()
      local other = "MANTICHORA_KEY_FILE=" .. home .. "/other"
      run("key new " .. home .. "/other")
      local agent = machine("keys", 1)
      process.wait(function() return said(agent):find("joined", 1, true) end)
      local stranger <close> = list("keys", { environment = { other } })
      expect(stranger, "up")
      process.wait(function() return said(agent):find("made by another site key", 1, true) end)
      local friend <close> = list("keys")
      expect(friend, "up")
      local id = message(friend, 1):match("^%S+")
      -- Who knows a machine's name but not the key gets nothing from it.
      local link <close> = start({ "connect", mq:url("keys"), id }, { environment = { other }, connect_timeout = 1 })
      local event = lost(link)
      assert.truthy(event.refused)
      assert.truthy(event.text:find("no answer within 1 s", 1, true), event.text)
      assert.is_nil(said(agent):find("session", 1, true))
    end)

    it("shares the slots of a machine among the scripts", function()
      machine("share", 5)
      local all <close> = list("share")
      expect(all, "up")
      local id = message(all, 1):match("^%S+")
      local function slots(link) return (string.unpack("<I4", message(link, 6))) end
      local first <close> = connect("share", id)
      assert.equal(5, slots(first))
      local second <close> = connect("share", id)
      assert.equal(2, slots(second))
      assert.equal(3, slots(first))
      second:free()
      assert.equal(5, slots(first))
    end)

    it("leaves nothing, whichever process is killed", function()
      machine("kill", 2)
      local all <close> = list("kill")
      expect(all, "up")
      local id = message(all, 1):match("^%S+")
      for _, victim in ipairs { "supervisor", "helper", "session", "connect", "script's helper" } do
        local link <close> = connect("kill", id)
        local there_pids = pids(link)
        local here = shell.run(("pgrep -f '[m]antichora-amqp connect .*%s'"):format(id)).out
        there_pids[4] = parent_of(there_pids[2])
        there_pids[5] = tonumber(here:match("%d+"))
        there_pids[6] = parent_of(there_pids[5])
        local number = ({ supervisor = 1, helper = 2, session = 4, connect = 5, ["script's helper"] = 6 })[victim]
        os.execute("kill -9 " .. there_pids[number])
        assert.truthy(none_runs(there_pids, 2), victim)
      end
    end)

    it("ends every session when the agent is killed", function()
      local agent = machine("agent", 2)
      local all <close> = list("agent")
      expect(all, "up")
      local link <close> = connect("agent", message(all, 1):match("^%S+"), { lease = 2 })
      local gone = pids(link)
      os.execute("kill -9 " .. agent.pid)
      assert.truthy(none_runs(gone, 2))
      assert.falsy(lost(link, 12).refused)
    end)

    it("runs the tasks of a pool", function()
      local log = os.tmpname()
      local command = ("env MANTICHORA_TEST=%s HOME=%s XDG_CONFIG_HOME="):format(mark, home)
      local agent = shell.run(("%s %s worker %s --slots 2 --allow-root >%s 2>&1 & echo $!")
        :format(command, shell.host, mq:url("pool"), log)).out:match("%d+")
      agents[#agents + 1] = { pid = tonumber(agent), log = log }
      local script = os.tmpname()
      shell.write(script, [[
        local mantichora = require "mantichora"
        local pool <close> = mantichora { hosts = arg[1], progressbar = false }
        for n = 1, 20 do pool:run(function(x) return x * x end, n) end
        print(table.concat(pool:returns(), " "))
        print(#pool:workers(), pool:workers()[1].host ~= nil)
      ]])
      local got = shell.run(("%s %s %s %s"):format(command, shell.host, script,
        mq:url("pool"):gsub("://", "://guest:guest@")), { timeout = 40 })
      os.remove(script)
      assert.equal("1 4 9 16 25 36 49 64 81 100 121 144 169 196 225 256 289 324 361 400\n2\ttrue\n", got.out, got.err)
      -- Nobody there: no call hangs, and no password is shown.
      got = shell.run(([[%s %s -e 'local mantichora = require "mantichora"
        local pool <close> = mantichora { hosts = "%s", connect_timeout = 0.5, progressbar = false }
        pool:run(print)
        print(pcall(pool.returns, pool))']]):format(command, shell.host,
        mq:url("nobody"):gsub("://", "://guest:guest@")), { timeout = 40 })
      assert.truthy(got.out:find("no machine is left", 1, true), got.out .. got.err)
      assert.is_nil((got.out .. got.err):find("guest:guest", 1, true))
    end)

    -- The program's own words for a command line of this fleet.
    local function by_host(words)
      return ("env MANTICHORA_TEST=%s HOME=%s XDG_CONFIG_HOME= %s %s"):format(mark, home, shell.host, words)
    end

    it("takes a machine that joins late, and one that comes in the place of one that was killed", function()
      local folder = shell.folder()
      shell.write(folder .. "/script", [[
        local mantichora = require "mantichora"
        local url, folder, agent = table.unpack(arg)
        local function read(name)
          local file <close> = assert(io.open(folder .. "/" .. name))
          return file:read("a")
        end
        local function start(name)
          os.execute(("%s >%s/%s.log 2>&1 & echo $! >%s/%s"):format(agent, folder, name, folder, name))
          return read(name)
        end
        local pool = mantichora { hosts = url, progressbar = false, connect_timeout = 60 }
        pool:run(string.upper, "late")
        assert(pool:poll(0.3) == 0) -- nobody is there
        local first = start "first"
        print(pool:returns()[1], #pool:workers())
        os.execute("kill -9 " .. first)
        start "second"
        local id = read "first.log":match "(%S+) joined"
        repeat pool:poll(0.02) until not os.execute(("pgrep -f '[c]onnect %s %s' >/dev/null"):format(url, id))
          and #pool:workers() == 4
        pool:run(string.upper, "again")
        print(pool:returns()[1])
        os.execute("kill " .. read "second")
        os.exit(0, false) -- to wait for the lease of the first is not what this is about
      ]])
      local got = shell.run(by_host(("%s/script %s %s %s"):format(folder, mq:url("late"), folder,
        shell.quote(by_host(("worker %s --slots 2 --allow-root"):format(mq:url("late")))))), { timeout = 40 })
      shell.remove(folder)
      assert.equal("LATE\t2\nAGAIN\n", got.out, got.err)
    end)

    it("is shared evenly by scripts that have work, each with modules and values of its own", function()
      local folder = shell.folder()
      shell.write(folder .. "/script", [[
        local mantichora = require "mantichora"
        local url, folder, name, other, first = table.unpack(arg)
        package.preload.mine = function() return { name = name } end
        own = name
        local pool <close> = mantichora { hosts = url, progressbar = false }
        local function reach(what)
          local file <close> = assert(io.open(folder .. "/" .. name .. what, "w"))
        end
        local function meet(what)
          reach(what)
          repeat
            local file <close> = io.open(folder .. "/" .. other .. what)
          until file or not pool:poll(0.02)
        end
        local function slots(count)
          repeat pool:poll(0.02) until #pool:workers() == count
        end
        if first then
          pool:start()
          slots(4)
        end
        meet "there"
        pool:start()
        slots(2)
        meet "half"
        local values = pool:map(function()
          mantichora.sleep(0.01)
          seen = (seen or own) .. own
          return require "mine".name .. own .. (seen:match("[^" .. own .. "]") or "")
        end, { n = 30 })
        for i = 1, 30 do assert(values[i] == name .. name, values[i]) end
        print(name, #pool:workers())
        meet "done"
        if first then slots(4) end
        reach "left"
      ]])
      local agent = shell.run(by_host(("worker %s --slots 4 --allow-root >%s/log 2>&1 & echo $!"):format(
        mq:url("even"), folder))).out:match("%d+")
      agents[#agents + 1] = { pid = tonumber(agent), log = folder .. "/log" }
      local function script(words)
        return by_host(("%s/script %s %s %s"):format(folder, mq:url("even"), folder, words))
      end
      local got = shell.run(("{ %s & %s; wait; } | sort"):format(script "a b first", script "b a"), { timeout = 40 })
      assert.equal("a\t2\nb\t2\n", got.out, got.err)
      shell.remove(folder)
    end)

    it("goes on after the broker was killed and started again", function()
      machine("restart", 2)
      local all <close> = list("restart")
      expect(all, "up")
      local id = message(all, 1):match("^%S+")
      local link <close> = connect("restart", id, { lease = 100 })
      assert.truthy(echoes(link, "before"))
      local before = pids(link)
      -- The other side takes nothing of this from the broker before that is killed, which so loses all.
      local session = parent_of(before[2])
      os.execute("kill -STOP " .. session)
      for i = 1, 50 do link:send(2, ("%d "):format(i) .. ("y"):rep(10000)) end
      process.wait(function()
        assert.is_nil(link:next(0.01)) -- it also sends what its socket did not take
        return mq:waiting() >= 500000
      end)
      mq:kill()
      os.execute("kill -CONT " .. session)
      for i = 51, 100 do link:send(2, ("%d "):format(i) .. ("y"):rep(10000)) end
      mq:boot()
      for i = 1, 100 do
        local text
        repeat
          local event = link:next(60)
          assert.truthy(event)
          assert.not_equal("lost", event.what, event.text)
          text = event.type == 2 and event.bytes
        until text
        assert.equal(i, tonumber(text:match("^%d+")))
        assert.equal(10001 + #tostring(i), #text)
      end
      assert.same(before, pids(link))
      -- And the fleet is there for others, by the same agent.
      local again <close> = list("restart")
      expect(again, "up")
      assert.equal(id, message(again, 1, 30):match("^%S+"))
    end)

    it("names the setting of the broker that must change", function()
      -- A user who may not do what is needed.
      mq:control [[eval '
        rabbit_auth_backend_internal:add_user(<<"joe">>, <<"joe">>, <<"test">>),
        rabbit_auth_backend_internal:set_permissions(<<"joe">>, <<"/">>, <<"x">>, <<"x">>, <<"x">>, <<"test">>),
        application:set_env(rabbit, channel_tick_interval, 100),
        application:set_env(rabbit, consumer_timeout, 500).']] -- of channels from now on: no test comes behind this
      local refused <close> = start({ "list", mq:url("settings", "joe") },
        { environment = { "MANTICHORA_AMQP_PASSWORD=joe" } })
      local text = lost(refused).text
      assert.truthy(text:find("ACCESS_REFUSED", 1, true), text)
      local advice = "`rabbitmqctl set_permissions -p VHOST USER '^mantichora' " ..
        "'^(mantichora|amq\\.default)' '^mantichora'`"
      assert.truthy(text:find(advice, 1, true), text)
      -- A process that is stopped, and leaves what it gets unacknowledged.
      machine("settings", 1)
      local all <close> = list("settings")
      expect(all, "up")
      local id = message(all, 1):match("^%S+")
      local link <close> = connect("settings", id)
      local session = parent_of(pids(link)[2])
      os.execute("kill -STOP " .. session)
      link:send(2, "text")
      process.wait(function()
        link:next(0.05)
        return link:said():find("the other side's connection to the broker ended", 1, true)
      end)
      os.execute("kill -CONT " .. session)
      process.wait(function() return said(agents[1]):find("consumer_timeout = ", 1, true) end)
    end)
  end)
end)
