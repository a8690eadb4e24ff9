--- @submodule mantichora

-- Machines: what the option `hosts` and MANTICHORA_HOSTS say, checked and made to commands. Loaded by pool.lua with
-- the core and a function that warns.

local core = ...

local concat, ipairs, pairs, tostring, type = table.concat, ipairs, pairs, tostring, type
local to_text, tointeger = core.text, core.tointeger

local hosts = {}

local most_slots <const> = 4096

local function refuse(...) core.raise((...):format(select(2, ...))) end

-- Words as sh makes them of a line: quotes and backslashes, and nothing else.
local function split_words(text)
  local words, word, quote, i = {}, nil, nil, 1
  while i <= #text do
    local c = text:sub(i, i)
    if quote == "'" then
      if c == "'" then quote = nil else word = word .. c end
    elseif quote == '"' then
      if c == '"' then
        quote = nil
      elseif c == "\\" and text:find('^["\\$`]', i + 1) then
        i = i + 1
        word = word .. text:sub(i, i)
      else
        word = word .. c
      end
    elseif c == "'" or c == '"' then
      quote, word = c, word or ""
    elseif c == "\\" and i < #text then
      i = i + 1
      word = (word or "") .. text:sub(i, i)
    elseif c:find("%s") then
      if word then words[#words + 1], word = word, nil end
    else
      word = (word or "") .. c
    end
    i = i + 1
  end
  if quote then return nil, "a quote is not closed" end
  words[#words + 1] = word
  return words
end

-- Entries between commas; commas inside of quotes do not separate.
local function split_entries(text)
  local entries, from, quote, i = {}, 1, nil, 1
  local function add(to)
    local entry = text:sub(from, to):match("^%s*(.-)%s*$")
    if entry ~= "" then entries[#entries + 1] = entry end
  end
  while i <= #text do
    local c = text:sub(i, i)
    if c == "\\" and quote ~= "'" then
      i = i + 1
    elseif quote then
      if c == quote then quote = nil end
    elseif c == "'" or c == '"' then
      quote = c
    elseif c == "," then
      add(i - 1)
      from = i + 1
    end
    i = i + 1
  end
  add(#text)
  return entries
end

local function check_slots(text, entry)
  local slots = type(text) == "string" and tointeger(tonumber(text)) or type(text) == "number" and tointeger(text)
  if not slots or slots < 1 or slots > most_slots then
    refuse("hosts: the slots of '%s' must be a whole number from 1 to %d: '%s' is given", entry, most_slots,
      tostring(text))
  end
  return slots
end

-- Letters, digits and . _ - : only, and no option of ssh.
local function check_name(name, what, entry)
  if name == "" then refuse("hosts: '%s' has no %s", entry, what) end
  if name:sub(1, 1) == "-" then refuse("hosts: the %s of '%s' begins with '-'", what, entry) end
  if name:find("[^%w%._%-:]") then
    refuse("hosts: the %s of '%s' may have letters, digits and . _ - : only", what, entry)
  end
  return name
end

local function ssh(destination, port, o)
  local words = { "ssh", "-o", "BatchMode=yes", "-o", ("ConnectTimeout=%d"):format(
    math.max(1, math.ceil(o.connect_timeout or 15))) }
  if port then words[#words + 1], words[#words + 2] = "-p", port end
  for _, word in ipairs { "--", destination, o.program or "mantichora", "worker", "--stdio" } do
    words[#words + 1] = word
  end
  return words
end

-- The shell on the other side sees these words: nothing of the user's that it could take for more.
local function check_program(program)
  if program and program:find("[^%w%._%-/+@:]") then
    refuse("option 'program' may have letters, digits and . _ - / + @ : only: %q is given", program)
  end
end

-- user@host, host:8, [::1]:8
local function read_place(text, entry)
  local user, rest = text:match("^([^@]*)@(.*)$")
  rest = rest or text
  local host, tail = rest:match("^%[([^%]]*)%](.*)$")
  local bracketed = host ~= nil
  if not bracketed then
    host, tail = rest:match("^([^:]*)(.*)$")
    if tail:find(":", 2, true) then
      refuse("hosts: '%s' has several colons: an IPv6 address stands in brackets, as in [::1]:8", entry)
    end
  end
  if user then check_name(user, "user", entry) end
  check_name(host, "host", entry)
  if bracketed and host:find("[^%x:%.]") then refuse("hosts: '%s' has no IPv6 address in its brackets", entry) end
  if tail ~= "" and tail:sub(1, 1) ~= ":" then refuse("hosts: '%s' is not understood", entry) end
  return user, host, tail ~= "" and tail:sub(2) or nil, bracketed
end

-- A command on this machine that serves it. The words of the environment stay as they are.
local function here(o) return { o.program or core.program(), "worker", "--stdio" } end

local function of_url(text, entry, o)
  local place = text:match("^ssh://([^/]*)/?$")
  if not place then refuse("hosts: '%s' is not understood: ssh://user@host:port is expected", entry) end
  local user, host, port, bracketed = read_place(place, entry)
  local number = port and tointeger(tonumber(port))
  if port and (not number or number < 1 or number > 65535) then
    refuse("hosts: the port of '%s' must be a number from 1 to 65535", entry)
  end
  local shown = bracketed and "[" .. host .. "]" or host
  local name = (user and user .. "@" or "") .. shown
  return { name = name, command = ssh((user and user .. "@" or "") .. host, port, o) }
end

local function of_command(text, entry, place)
  local words, problem = split_words(text)
  if not words then refuse("hosts: '%s': %s", entry, problem) end
  if not words[1] then refuse("hosts: '%s' has no command", entry) end
  return { name = "host" .. place, command = words }
end

-- Numbers and names such as n[1-3,07] and rack[1-2]-n1, one after the other.
local function expand(list)
  local names, depth, from = {}, 0, 1
  local function add(text)
    local before, inside, after = text:match("^([^%[]*)%[([^%]]*)%](.*)$")
    if not before then
      if text ~= "" then names[#names + 1] = text end
      return
    end
    for part in inside:gmatch("[^,]+") do
      local first, last = part:match("^(%d+)-(%d+)$")
      first, last = first or part, last or part
      for number = tonumber(first) or 0, tonumber(last) or -1 do
        add(before .. ("%0" .. #first .. "d"):format(number) .. after)
        if #names > 512 then return end
      end
    end
  end
  for i = 1, #list do
    local c = list:sub(i, i)
    if c == "[" then depth = depth + 1 elseif c == "]" then depth = depth - 1 end
    if c == "," and depth == 0 then
      add(list:sub(from, i - 1))
      from = i + 1
    end
  end
  add(list:sub(from))
  return names
end

-- CPUs of the nodes, one after the other, as in 8(x2),4.
local function expand_counts(list)
  local counts = {}
  for count, times in (list or ""):gmatch("(%d+)%(?x?(%d*)%)?") do
    for _ = 1, tonumber(times) or 1 do counts[#counts + 1] = tonumber(count) end
  end
  return counts
end

-- The nodes of the allocation that this process is in, one srun for each: -u, or it would hold back its output.
local function of_slurm(list, o)
  local getenv = os and os.getenv or function() end
  local nodes = expand(getenv "SLURM_JOB_NODELIST" or "")
  local counts = expand_counts(getenv "SLURM_JOB_CPUS_PER_NODE")
  if not nodes[1] then
    refuse("hosts: 'slurm' is for scripts inside of salloc or sbatch: SLURM_JOB_NODELIST is not set")
  end
  for i, node in ipairs(nodes) do
    check_name(node, "host", node)
    local command = { "srun", "-u", "--overlap", "-N1", "-n1", "-w", node }
    if counts[i] then command[#command + 1] = "-c" .. counts[i] end
    for _, word in ipairs { o.program or "mantichora", "worker", "--stdio" } do command[#command + 1] = word end
    list[#list + 1] = { name = node, command = command, slots = counts[i] }
  end
end

-- One entry of the list.
local function of_string(entry, place, o)
  local text = entry
  local command = text:match("^cmd:(.*)$")
  if command then return of_command(command, entry, place) end
  if text:find("^amqps?://") then
    local url, program, password = core.fleet(text)
    if not url then refuse("hosts: %s", program) end
    return {
      name = url, command = { program, "list", url },
      environment = { password and "MANTICHORA_AMQP_PASSWORD=" .. password },
    }
  end
  if text:find("^ssh://") then return of_url(text, entry, o) end
  if text:find("^%a+://") then refuse("hosts: '%s' is not understood", entry) end
  local user, host, slots, bracketed = read_place(text, entry)
  local machine
  if host == "localhost" and not user then
    machine = { name = "localhost", command = here(o) }
  else
    local shown = bracketed and "[" .. host .. "]" or host
    local before = user and user .. "@" or ""
    machine = { name = before .. shown, command = ssh(before .. host, nil, o) }
  end
  if slots then machine.slots = check_slots(slots, entry) end
  return machine
end

local known = { command = true, slots = true, name = true }

local function of_table(given, place)
  for key in pairs(given) do
    if not known[key] then
      refuse("hosts: entry %d has 'command', 'slots' and 'name', and no '%s'", place, to_text(key))
    end
  end
  local machine
  if type(given.command) == "string" then
    machine = of_command(given.command, given.command, place)
  elseif type(given.command) == "table" and #given.command > 0 then
    machine = { name = "host" .. place, command = {} }
    for i, word in ipairs(given.command) do
      if type(word) ~= "string" or word:find("\0", 1, true) then
        refuse("hosts: word %d of the command of entry %d must be a string", i, place)
      end
      machine.command[i] = word
    end
  else
    refuse("hosts: entry %d has no command, which must be a string or a list of words", place)
  end
  if given.name ~= nil then
    if type(given.name) ~= "string" or given.name == "" or #given.name > 255 then
      refuse("hosts: the name of entry %d must be a string", place)
    end
    machine.name = given.name
  end
  if given.slots ~= nil then machine.slots = check_slots(given.slots, machine.name) end
  return machine
end

local function read(given, o)
  local list = {}
  local function add(one)
    if type(one) == "table" then
      list[#list + 1] = of_table(one, #list + 1)
    elseif type(one) == "string" then
      for _, entry in ipairs(split_entries(one)) do
        if entry == "slurm" then of_slurm(list, o) else list[#list + 1] = of_string(entry, #list + 1, o) end
      end
    else
      refuse("hosts: entry %d must be a string or a table: %s is given", #list + 1, core.typename(one))
    end
  end
  if type(given) == "string" then
    add(given)
  else
    for key in pairs(given) do
      if not (type(key) == "number" and tointeger(key) and key >= 1 and key <= #given) then
        refuse("option 'hosts' must be a list of machines: it has a field '%s'", to_text(key))
      end
    end
    for i = 1, #given do add(given[i]) end
  end
  if not list[1] then refuse("option 'hosts' names no machine") end
  if #list > 512 then refuse("option 'hosts' names %d machines: 512 are the most", #list) end
  return list
end

-- NAME=value, each with a zero: names to be taken from here, and pairs.
local function environment_of(env)
  local parts = {}
  for key, value in pairs(env or {}) do
    local name = type(key) == "string" and key or value
    if type(name) ~= "string" or not name:find("^[%a_][%w_]*$") or #name > 200 then
      refuse("option 'env' has names of variables, and pairs of names and strings: %s is given", to_text(name))
    end
    local text = value
    if type(key) ~= "string" then text = os and os.getenv and os.getenv(name) end
    if type(text) == "number" then text = to_text(text) end
    if text ~= nil then
      if type(text) ~= "string" or text:find("\0", 1, true) then
        refuse("option 'env': the value of %s must be a string", name)
      end
      parts[#parts + 1] = name .. "=" .. text .. "\0"
    end
  end
  return concat(parts)
end

-- What the options of a pool say of machines: nil for a pool of this machine.
function hosts.machines(o)
  local given = o.hosts
  if given == nil and (o.engine or "fork") == "fork" and not core.is_worker() then
    given = os and os.getenv and os.getenv("MANTICHORA_HOSTS")
    if given == "" then given = nil end
  end
  if given == nil then
    for _, name in ipairs { "lease", "connect_timeout", "cwd", "env", "program", "modules" } do
      if o[name] ~= nil then refuse("option '%s' is for a pool with hosts", name) end
    end
    return nil
  end
  if o.engine == "snapshot" then refuse("engine \"snapshot\" forks from this process: it cannot be used with hosts") end
  if o.engine == "inline" then refuse("engine \"inline\" runs tasks in this process: it cannot be used with hosts") end
  check_program(o.program)
  return {
    hosts = read(given, o),
    limited = true,
    lease = o.lease or 20, connect_timeout = o.connect_timeout or 15,
    cwd = o.cwd, cwd_chosen = o.cwd and 1 or 0,
    environment = environment_of(o.env),
    only_loaded = o.modules == "loaded" and 1 or 0,
  }
end

-- How many slots they have together, as far as that is known before they are asked.
function hosts.slots(machines)
  local sum = 0
  for _, machine in ipairs(machines.hosts) do sum = sum + (machine.slots or core.cpu_count()) end
  return sum < most_slots and sum or most_slots
end

return hosts
