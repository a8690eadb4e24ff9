-- A RabbitMQ of this test's own, on loopback, in a folder of its own; with its own epmd. What it starts it ends,
-- by number.

local shell = require "spec.support.shell"
local process = require "spec.support.process"

local broker = {}
broker.__index = broker

local function read(path)
  local file <close> = io.open(path)
  return file and file:read("a") or "" -- it may not be there yet
end

-- Ports that nobody has now: four in a row from somewhere in the upper half.
local function free_port()
  for port = 30000 + process.pid() % 500 * 50, 64000, 7 do
    local used = shell.run(("ss -ltnH '( sport >= :%d and sport <= :%d )'"):format(port, port + 3)).out
    if used == "" then return port end
  end
  error("no free ports")
end

--- Whether there is one to be started.
function broker.is_there()
  return os.execute("command -v epmd >/dev/null 2>&1 && test -x /usr/lib/rabbitmq/bin/rabbitmq-server") == true
end

local script = [[
export HOME=%s ERL_EPMD_PORT=%d ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_NODENAME=mantichora%d@localhost
export RABBITMQ_DIST_PORT=%d RABBITMQ_MNESIA_BASE=$HOME/mnesia RABBITMQ_LOG_BASE=$HOME/log
export RABBITMQ_CONFIG_FILE=$HOME/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE=$HOME/plugins
export RABBITMQ_CONF_ENV_FILE=$HOME/none
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +sbwt none'
]]

--- Start one; `lines`: more of its rabbitmq.conf, in which $FOLDER is its folder, which `prepare(folder)` can put
-- files into, and $TLS a free port. It is up when this returns.
function broker.start(lines, prepare)
  local self = setmetatable({ folder = shell.folder(), port = free_port() }, broker)
  self.environment = script:format(self.folder, self.port + 1, self.port, self.port + 2)
  shell.write(self.folder .. "/rabbitmq.conf", ("listeners.tcp.1 = 127.0.0.1:%d\nlog.console = false\n%s")
    :format(self.port, lines and lines:gsub("%$FOLDER", self.folder):gsub("%$TLS", self.port + 3) or ""))
  shell.write(self.folder .. "/plugins", "[].")
  if prepare then prepare(self.folder) end
  os.execute(("cd %s; epmd -port %d -address 127.0.0.1 >/dev/null 2>&1 & echo $! >%s/epmd.pid")
    :format(self.folder, self.port + 1, self.folder))
  self:boot()
  return self
end

--- Start it (again).
function broker:boot()
  shell.write(self.folder .. "/boot", self.environment .. "cd $HOME\necho $$ >$HOME/pid\n" ..
    "exec /usr/lib/rabbitmq/bin/rabbitmq-server >$HOME/out 2>&1\n")
  os.remove(self.folder .. "/out")
  os.remove(self.folder .. "/pid")
  os.execute(("setsid sh %s/boot &"):format(self.folder))
  process.wait(function() return read(self.folder .. "/out"):find("Starting broker... completed", 1, true) end, 90)
  self.pid = tonumber(read(self.folder .. "/pid"))
end

--- kill -9, and wait until it has gone.
function broker:kill()
  os.execute(("kill -9 -%d 2>/dev/null"):format(self.pid))
  process.wait(function() return not process.runs(self.pid) end)
end

--- What `rabbitmqctl` says to these words.
function broker:control(words)
  local got = shell.run(self.environment .. "/usr/lib/rabbitmq/bin/rabbitmqctl -q " .. words)
  return got.status == 0 and got.out or error(got.err)
end

--- Bytes that it holds in its queues.
function broker:waiting()
  local sum = 0
  for bytes in self:control("list_queues message_bytes"):gmatch("%d+") do sum = sum + tonumber(bytes) end
  return sum
end

--- The URL of a fleet.
function broker:url(name, user)
  return ("amqp://%s127.0.0.1:%d/%s"):format(user and user .. "@" or "", self.port, name)
end

function broker:stop()
  self:kill()
  os.execute("kill " .. read(self.folder .. "/epmd.pid"))
  shell.remove(self.folder)
end
broker.__close = broker.stop

return broker
