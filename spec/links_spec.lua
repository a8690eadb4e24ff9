-- Links over ssh between two network namespaces, whose cable is cut. In the place of the supervisor stands test_links,
-- which has a worker and sends back what it gets. Needs root; makes, and takes away, all that it uses.

local process = require "spec.support.process"
local shell = require "spec.support.shell"

local build = shell.host:match("^(.*)/bin/[^/]*$") or "build"

local function must(command, ...)
  command = command:format(...)
  local got = shell.run(command)
  assert.equal(0, got.status, command .. ": " .. got.err)
  return got.out
end

local function why_not()
  if not must("id -u"):find("^0") then return "this is not root" end
  if shell.run("ip netns add mch-try && ip netns del mch-try").status ~= 0 then return "no network namespaces here" end
  if shell.run("test -x /usr/sbin/sshd && command -v ssh").status ~= 0 then return "no ssh here" end
end

describe("a link over a cable", function()
  local reason = why_not()
  if reason then
    pending(reason)
    return
  end

  local links = require "links_module"
  local echo = must("realpath %s/spec/test_links", build):match("[^\n]+")
  local number = process.pid() % 60000
  local here, there = "mchh" .. number, "mcht" .. number -- namespaces, and names of the cable's ends
  local folder, sshd

  setup(function()
    folder = shell.folder()
    must("ip netns add %s && ip netns add %s", here, there)
    must("ip link add %s netns %s type veth peer name %s netns %s", here, here, there, there)
    for name, address in pairs { [here] = "10.213.0.1", [there] = "10.213.0.2" } do
      must("ip -n %s addr add %s/24 dev %s", name, address, name)
      must("ip -n %s link set lo up && ip -n %s link set %s up", name, name, name)
    end
    must("ssh-keygen -q -t ed25519 -N '' -f %s/host && ssh-keygen -q -t ed25519 -N '' -f %s/user", folder, folder)
    must("mkdir -p /run/sshd && cp %s/user.pub %s/authorized", folder, folder)
    shell.write(folder .. "/sshd_config", ("HostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\n" ..
      "UsePAM no\nPermitRootLogin yes\nPidFile none\nPasswordAuthentication no\n"):format(folder, folder))
    sshd = tonumber(must("ip netns exec %s /usr/sbin/sshd -D -e -p 2222 -f %s/sshd_config >%s/sshd.log 2>&1 & echo $!",
      there, folder, folder):match("%d+"))
    process.wait(function()
      return shell.run(("ip netns exec %s ss -ltnH 'sport = :2222'"):format(there)).out ~= ""
    end)
  end)

  teardown(function()
    os.execute("kill " .. sshd)
    process.wait(function() return not process.runs(sshd) end)
    must("ip netns del %s; ip netns del %s", here, there)
    shell.remove(folder)
  end)

  -- The server can be reached: after a cut that takes a moment, until each has found the other's address.
  local function reach()
    process.wait(function()
      return shell.run(("ip netns exec %s timeout 1 bash -c '</dev/tcp/10.213.0.2/2222'"):format(here)).status == 0
    end, 15)
  end
  local function start(options)
    reach()
    options.command = { "ip", "netns", "exec", here, "ssh", "-F", "none", "-p", "2222", "-i", folder .. "/user",
      "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
      "-o", "LogLevel=ERROR", "--", "root@10.213.0.2", options.words or echo .. " machine" }
    return links.start(options)
  end
  local function expect(link, what, seconds)
    local event = link:next(seconds or 15)
    assert.equal(what, event and event.what, event and event.text)
    return event
  end
  local function skip_to(link, what, seconds)
    local event
    repeat event = link:next(seconds or 15) until not event or event.what == what
    assert.truthy(event, "no event " .. what)
    return event
  end
  -- The supervisor, its helper, a worker of it.
  local function pids(link)
    link:send(1)
    local supervisor, helper, worker = string.unpack("<i4i4i4", expect(link, "message").bytes)
    return { supervisor, helper, worker }
  end
  local function some_runs(list)
    for _, pid in ipairs(list) do
      if process.runs(pid) then return true end
    end
    return false
  end
  local function cable(state)
    must("ip -n %s link set %s %s", there, there, state)
    if state == "up" then must("ip -n %s link set %s up", here, here) end
  end
  local function wait_for_end(list, seconds)
    process.wait(function() return not some_runs(list) end, seconds)
  end

  it("stands a cut that is shorter than the lease", function()
    local link <close> = start { lease = 4 }
    expect(link, "up")
    local before = pids(link)
    cable "down"
    link:send(2, "sent meanwhile")
    expect(link, "suspect", 8)
    cable "up"
    local heard, answer = false, nil -- in whichever order they come
    while not (heard and answer) do
      local event = link:next(15)
      assert.truthy(event)
      assert.not_equal("lost", event.what, event.text)
      heard = heard or event.what == "again"
      answer = answer or event.what == "message" and event.bytes
    end
    assert.equal("sent meanwhile", answer)
    assert.same(before, pids(link))
    link:close()
    assert.equal("it ended", skip_to(link, "lost").text)
    wait_for_end(before, 3)
  end)

  it("ends the work before the script counts it as lost", function()
    local link <close> = start { lease = 1 }
    expect(link, "up")
    local there_pids = pids(link)
    local cut = links.clock()
    cable "down"
    wait_for_end(there_pids, 4)
    local ended = links.clock() - cut
    local event = skip_to(link, "lost")
    local lost = links.clock() - cut
    cable "up"
    assert.truthy(event.text:find("it was silent for 1 s", 1, true), event.text)
    assert.is_false(event.refused)
    -- Its end, as seen by who looks often; and the script's beginning elsewhere.
    assert.truthy(ended < 3 and lost > 5, ("ended after %.1f s, lost after %.1f s"):format(ended, lost))
  end)

  it("ends at once where the connection breaks", function()
    for _, victim in ipairs { "ssh", "sshd" } do
      local link <close> = start { lease = 4 }
      expect(link, "up")
      local there_pids = pids(link)
      -- Between the two: the shell that sshd started may be in between.
      local pattern = victim == "ssh" and "ssh -F none.*" .. folder or "sshd: root@notty"
      local found = must("pgrep -n -f '[s]%s'", pattern:sub(2)):match("%d+")
      must("kill -9 %s", found)
      wait_for_end(there_pids, 3)
      assert.is_false(skip_to(link, "lost", victim == "ssh" and 4 or 15).refused)
    end
  end)

  it("refuses with what ssh says", function()
    for words, text in pairs { ["no-such-program"] = "no-such-program", ["echo welcome"] = "it said: welcome" } do
      local link <close> = start { words = words }
      local event = expect(link, "lost")
      assert.truthy(event.refused)
      assert.truthy(event.text:find(text, 1, true), event.text)
    end
  end)
end)
