-- Programs of Debian 12 that embed Lua 5.4, and how each is brought to run a Lua file.
--
-- Each host is a table: `name`; `package`, to install; `program` and perhaps `file`, both of which must
-- be there; `run(folder, mark)`: run `folder/body.lua` inside, to the host's end; what shell.run returns.
-- The body is called with the folder as its argument. `folder/ok` exists if the host was well after it,
-- and `answered` in the result says that it did its own work. `no_stdout`, `no_stderr`: it closes its own.

local process = require "spec.support.process"
local shell = require "spec.support.shell"

local hosts = {}

-- The module is found as a user of a stock Lua would have it found.
local function environment(mark)
  return ("env MANTICHORA_INSIDE=%s LUA_CPATH=%s "):format(mark,
    shell.quote(os.getenv("PWD") .. "/build/lua/?.so;;"))
end

local function exists(path)
  local file <close> = io.open(path)
  return file ~= nil
end

local function call(folder)
  return ("assert(loadfile(%q, 't', _ENV))(%q)"):format(folder .. "/body.lua", folder)
end

local function well(folder)
  return ("io.open(%q, 'w'):close()"):format(folder .. "/ok")
end

-- clingo's own main is replaced; `where` is in it, before solving or in a model's turn.
local function clingo(arguments, before, on_model)
  return function(folder, mark)
    shell.write(folder .. "/program.lp", ([[
      #script(lua)
      local done
      local function body() if not done then done = true; %s end end
      function main(control)
        control:ground { { "base", {} } }
        %s
        control:solve { on_model = function(model) %s end }
        %s
      end
      #end.
      { a; b; c }.
    ]]):format(call(folder), before and "body()" or "", on_model and "body()" or "", well(folder)))
    local got = shell.run(environment(mark) .. ("clingo %s %s/program.lp 0"):format(arguments, folder))
    got.answered = got.out:find("Models *: 8") ~= nil
    return got
  end
end

hosts[#hosts + 1] = {
  name = "clingo", package = "gringo", program = "clingo",
  version = "clingo --version", run = clingo("", true, false),
}
hosts[#hosts + 1] = {
  name = "clingo -t4, on_model", package = "gringo", program = "clingo",
  version = "clingo --version", run = clingo("-t4", false, true),
}

hosts[#hosts + 1] = {
  name = "neomutt", package = "neomutt", program = "neomutt", version = "neomutt -v",
  run = function(folder, mark)
    shell.write(folder .. "/muttrc", ("lua-source %s/script.lua\nset attribution=after\n"):format(folder))
    shell.write(folder .. "/script.lua", call(folder) .. "\n" .. well(folder))
    local got = shell.run(environment(mark) .. ("HOME=%s neomutt -n -F %s/muttrc -Q attribution"):format(
      folder, folder))
    got.answered = got.out:find('attribution = "after"', 1, true) ~= nil
    return got
  end,
}

hosts[#hosts + 1] = {
  name = "mle", package = "mle", program = "mle", version = "mle -v",
  run = function(folder, mark)
    shell.write(folder .. "/script.lua", call(folder) .. "\n" .. well(folder))
    local got = shell.run(environment(mark) .. ("HOME=%s mle -N -H 1 -x %s/script.lua"):format(folder, folder),
      { stdin = "text\n" })
    got.answered = got.out == "text\n" or got.out:find("\ntext\n$") ~= nil
    return got
  end,
}

hosts[#hosts + 1] = {
  name = "gnuplot", package = "gnuplot-nox", program = "gnuplot", version = "gnuplot --version",
  run = function(folder, mark)
    shell.write(folder .. "/script.lua", call(folder) .. "\n" .. well(folder))
    local got = shell.run(environment(mark) .. ("gnuplot -e 'set term lua \"%s/script.lua\"; print 6 * 7'"):format(
      folder))
    got.answered = got.err:find("\n42\n") ~= nil or got.err:find("^42\n") ~= nil
    return got
  end,
}

-- Start a daemon that stays in the foreground; wait for `ready()`, then stop it. What it said.
local function serve(folder, command, ready)
  shell.write(folder .. "/serve", ("(%s >%s/out 2>%s/err </dev/null; echo $? >%s/status) &\n"):format(
    command, folder, folder, folder))
  os.execute("sh " .. folder .. "/serve")
  local fine, message = pcall(process.wait, ready, 20)
  local stop = fine and "-TERM" or "-KILL"
  os.execute(("kill %s $(cat %s/pid) 2>/dev/null"):format(stop, folder))
  process.wait(function() return exists(folder .. "/status") end, 20)
  local got = {}
  for _, name in ipairs { "out", "err", "status" } do
    local file <close> = assert(io.open(folder .. "/" .. name))
    got[name] = file:read("a")
  end
  got.status = tonumber(got.status)
  if not fine then got.err = got.err .. "\n" .. message end
  got.answered = fine
  return got
end

hosts[#hosts + 1] = {
  name = "lighttpd", package = "lighttpd-modules-lua", program = "lighttpd", version = "lighttpd -v",
  file = "/usr/lib/lighttpd/mod_magnet.so", no_stdout = true,
  run = function(folder, mark)
    -- The first request runs the body; the second shows that the server lives on.
    shell.write(folder .. "/magnet.lua", ([[
      if lighty.r.req_attr["uri.path"] == "/body" then %s end
      lighty.r.resp_body.set("well\n")
      return 200
    ]]):format(call(folder)))
    local port = 20000 + process.pid() % 20000
    shell.write(folder .. "/conf", ([[
      server.document-root = "%s"
      server.port = %d
      server.bind = "127.0.0.1"
      server.pid-file = "%s/pid"
      server.modules = ("mod_magnet")
      magnet.attract-raw-url-to = ("%s/magnet.lua")
    ]]):format(folder, port, folder, folder))
    local function get(path)
      return shell.run([[bash -c 'exec 3<>/dev/tcp/127.0.0.1/]] .. port .. [[ &&
        printf "GET ]] .. path .. [[ HTTP/1.0\r\n\r\n" >&3 && cat <&3']]).out
    end
    local got = serve(folder, environment(mark) .. ("lighttpd -D -f %s/conf"):format(folder), function()
      local answer = get("/body")
      if answer == "" then return false end -- it does not listen yet
      assert(answer:find(" 200 ", 1, true), answer)
      assert(get("/other"):find("\r\n\r\nwell\n", 1, true))
      io.open(folder .. "/ok", "w"):close()
      return true
    end)
    return got
  end,
}

hosts[#hosts + 1] = {
  name = "dnsmasq", package = "dnsmasq-base-lua", program = "dnsmasq", version = "dnsmasq -v",
  no_stdout = true, no_stderr = true,
  available = function() return shell.run("dnsmasq -v").out:find("[^-]Lua") and shell.run("id -u").out == "0\n" end,
  run = function(folder, mark)
    -- The leases that it knows at its start are told to the script, one call each.
    shell.write(folder .. "/script.lua", ([[
      local calls = 0
      function options() end
      function lease()
        calls = calls + 1
        if calls == 1 then %s else %s end
      end
    ]]):format(call(folder), well(folder)))
    local expiry = os.time() + 3600
    shell.write(folder .. "/leases", ("%d 02:00:00:00:00:0%d 127.0.0.%d * *\n"):format(expiry, 1, 8)
      .. ("%d 02:00:00:00:00:0%d 127.0.0.%d * *\n"):format(expiry, 2, 9))
    local port = 20000 + process.pid() % 20000
    return serve(folder, environment(mark) .. ([[dnsmasq -k --conf-file=/dev/null --port=0 --interface=lo
      --bind-interfaces --dhcp-alternate-port=%d,%d --dhcp-range=127.0.0.5,127.0.0.20,1h
      --dhcp-leasefile=%s/leases --dhcp-luascript=%s/script.lua --dhcp-scriptuser=root
      --log-facility=- --pid-file=%s/pid]]):gsub("%s*\n%s*", " "):format(port, port + 1, folder, folder, folder),
      function() return exists(folder .. "/ok") and exists(folder .. "/pid") end)
  end,
}

--- Why a host cannot be tested here; nil: it can.
function hosts.missing(host)
  local there = shell.run("command -v " .. host.program).status == 0 and (not host.file or exists(host.file)) and
    (not host.available or host.available())
  if not there then return ("%s is not installed (Debian package %s)"):format(host.program, host.package) end
end

return hosts
