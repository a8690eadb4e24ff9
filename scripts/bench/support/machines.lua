-- Ways to a machine that is this one: a command, a long way, an ssh server, a broker. What is started ends with the
-- program that asked for it, however that ends.

local programs = require "support.programs"

local machines = {}

local here <close> = assert(io.popen(("cd '%s' && pwd"):format(programs.root)))
local root = here:read("l")
local mantichora = root .. "/build/bin/mantichora"
local worker = "'" .. mantichora .. "' worker --stdio"

local function output_of(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read("a")
end

local keepers = {}

-- A shell that does this once this program has gone. Begun after all that it ends, which must not hold its pipe open.
local function at_end(command)
  keepers[#keepers + 1] = assert(io.popen(("trap '' INT TERM; cat >/dev/null; %s"):format(command), "w"))
end

-- All ways are values of MANTICHORA_HOSTS.

--- A command on this machine.
function machines.command() return "cmd:" .. worker end

--- The same with a way of so many milliseconds in each direction.
function machines.far(milliseconds)
  return ("cmd:'%s' %d %s"):format(programs.limit("delay"), milliseconds, worker)
end

local CONFIG <const> = [[
ListenAddress 127.0.0.1
HostKey %s/host
AuthorizedKeysFile %s/user.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
PasswordAuthentication no
]]

--- An ssh server on loopback: the command line that leads to it. nil and why not.
function machines.ssh()
  local folder = output_of "mktemp -d":match("[^\n]+")
  local function finish() os.execute("rm -rf " .. folder) end
  if not os.execute(("ssh-keygen -q -t ed25519 -N '' -f %s/host && ssh-keygen -q -t ed25519 -N '' -f %s/user && " ..
    "test -x /usr/sbin/sshd && { test $(id -u) != 0 || mkdir -p /run/sshd; }"):format(folder, folder)) then
    finish()
    return nil, "there is no ssh server here"
  end
  local config <close> = assert(io.open(folder .. "/config", "w"))
  config:write(CONFIG:format(folder, folder))
  config:flush()
  local port = 20000 + tonumber(output_of "echo $$") % 20000
  repeat
    port = port + 1
  until output_of(("ss -ltnH 'sport = :%d'"):format(port)) == ""
  local pid = output_of(("/usr/sbin/sshd -D -e -p %d -f %s/config </dev/null >%s/log 2>&1 & echo $!")
    :format(port, folder, folder)):match("%d+")
  at_end(("kill %s; rm -rf %s"):format(pid, folder))
  for _ = 1, 500 do
    if output_of(("ss -ltnH 'sport = :%d'"):format(port)) ~= "" then break end
    os.execute "sleep 0.01"
  end
  return ("ssh -F none -p %d -i %s/user -o BatchMode=yes -o StrictHostKeyChecking=no " ..
    "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -- %s@127.0.0.1"):format(port, folder,
    output_of "id -un":match("%S+"))
end

--- The way over ssh, by these words.
function machines.by_ssh(words) return ("cmd:%s %s"):format(words, worker) end

--- A broker on loopback, and behind it a fleet of one machine, which is this one: its port, the fleet, and the
-- variable that leads there. nil and why not.
function machines.broker()
  package.path = package.path .. ";" .. root .. "/?.lua"
  local broker = require "spec.support.broker"
  if not broker.is_there() then return nil, "there is no RabbitMQ here" end
  local mq = broker.start()
  at_end(("kill -9 -%d; kill $(cat %s/epmd.pid); rm -rf %s"):format(mq.pid, mq.folder, mq.folder))
  local key = mq.folder .. "/key"
  if not os.execute(("'%s' key new %s >/dev/null"):format(mantichora, key)) then
    return nil, "mantichora-amqp was not built"
  end
  local environment = "MANTICHORA_KEY_FILE=" .. key
  local pid = output_of(("env %s '%s' worker %s --slots 2 --allow-root </dev/null >%s/agent 2>&1 & echo $!"):format(
    environment, mantichora, mq:url "bench", mq.folder)):match("%d+")
  at_end("kill " .. pid)
  return mq.port, mq:url "bench", environment
end

return machines
