-- lua5.4 scripts/floors.lua: whether the C sources keep to the house's floors.
--
-- An include names a file of the same folder or of a floor below, by its path from the top of the tree;
-- no two rooms include each other, not even by way of others; no source includes a source; runtime/ knows
-- no Lua; no file has more than 1,000 lines. Says what does not, and exits with 1 then.

-- From the ground up. A folder's own files may include each other.
local floors = {
  "runtime/base",
  "runtime/links", -- carriers between machines
  "runtime/amqp", -- a program of its own: a carrier by way of a broker
  "runtime/show",
  "runtime/wire",
  "runtime/engines",
  "runtime/hosts", -- the engine of many machines, and the supervisor of one
  "runtime/pool",
  "runtime/watch", -- what a run leaves for those who look: trace and report
  "runtime/commands", -- for the program's own commands
  "runtime/web", -- the server of the page of `mantichora top --web`
  "bindings/ground", -- those files beside the folders that every room of bindings/ stands on
  "bindings/values",
  "bindings/show",
  "bindings/pool",
  "bindings/hosts", -- in the program: the supervisor's Lua state
  "bindings/journal", -- a module of its own; the pool knows of it what it is given at run time
  "bindings/top", -- module.c and capi.c, which register what is below
  "bindings/web",
  "bindings/commands",
  "bindings/host",
}
local ground = {
  ["bindings/context"] = true, ["bindings/part"] = true, ["bindings/embedded"] = true,
  ["bindings/notices"] = true, ["bindings/lwatch"] = true, ["bindings/threads"] = true, ["bindings/lbuf"] = true,
}
local public = "runtime/mantichora.h"
local longest = 1000

local height = {}
for i, folder in ipairs(floors) do
  height[folder] = i
end

local complaints = 0
local function complain(...)
  complaints = complaints + 1
  print(string.format(...))
end

local function folder_of(path)
  local folder, name = path:match("^(.*)/([^/]+)%.[ch]$")
  if folder == "bindings" then
    return ground["bindings/" .. name] and "bindings/ground" or "bindings/top"
  end
  return folder
end

local function sources()
  local list = {}
  local pipe <close> = assert(io.popen("find runtime bindings -name '*.[ch]' | sort"))
  for path in pipe:lines() do
    list[#list + 1] = path
  end
  return list
end

local function exists(path)
  local file <close> = io.open(path)
  return file ~= nil
end

-- The file that an include of ours names.
local function resolve(from, name)
  local beside = from:match("^(.*)/") .. "/" .. name
  return exists(beside) and beside or name
end

local function check_include(path, line, name)
  local to = resolve(path, name)
  if to:find("%.c$") then
    complain("%s:%d includes a source: %s", path, line, to)
  elseif not exists(to) then
    complain("%s:%d includes %s, which is no path from the top of the tree", path, line, name)
  elseif to ~= public then
    local here, there = folder_of(path), folder_of(to)
    if not height[there] then
      complain("%s is on no floor", to)
    elseif here ~= there and height[here] < height[there] then
      complain("%s:%d includes %s, which is above it", path, line, to)
    end
  end
  return to
end

local function room_of(path)
  return (path:gsub("%.[ch]$", ""))
end

-- Checks one file; notes in `edges` what it includes: of headers the headers, of sources the rooms
-- (a source and its header), so that a header which several sources share ties none of them.
local function check(path, edges)
  local number, here = 0, path:find("%.c$") and room_of(path) or path
  edges[here] = edges[here] or {}
  if path ~= public and not height[folder_of(path)] then
    return complain("%s is on no floor", path)
  end
  for line in io.lines(path) do
    number = number + 1
    local name = line:match('^#%s*include%s*"([^"]+)"')
    if name then
      local to = check_include(path, number, name)
      if here == path then
        edges[here][to] = true
      elseif exists(room_of(to) .. ".c") then
        edges[here][room_of(to)] = true
      end
    elseif path:find("^runtime/") and line:find("^#%s*include%s*<l[ua]+[xlib]*%.h>") then
      complain("%s:%d includes a header of Lua", path, number)
    end
  end
  if number > longest then
    complain("%s has %d lines", path, number)
  end
end

-- Complains of each circle among rooms once.
local function check_circles(edges)
  local state, trail = {}, {}
  local function visit(room)
    if state[room] == "open" then
      complain("a circle: %s -> %s", table.concat(trail, " -> "), room)
    elseif not state[room] then
      state[room] = "open"
      trail[#trail + 1] = room
      for to in pairs(edges[room] or {}) do
        if to ~= room then
          visit(to)
        end
      end
      trail[#trail] = nil
      state[room] = "closed"
    end
  end
  for room in pairs(edges) do
    visit(room)
  end
end

local edges = {}
for _, path in ipairs(sources()) do
  check(path, edges)
end
check_circles(edges)
os.exit(complaints == 0)
