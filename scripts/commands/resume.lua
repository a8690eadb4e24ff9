-- --journal of map, filter and run: items that were done by an earlier command are not done again. What an item is
-- counts (its bytes), and what is done with it: expression or command, formats, and the number where that is named.

local core = require "mantichora.commands.core"

local resume = {}
resume.__index = resume

-- Whether the function of map or filter may look at the number of its item. Of an EXPR its text tells.
local function names_number(f, text)
  if text then return text:find("%f[%w_]i%f[^%w_]") ~= nil end
  local info = debug.getinfo(f, "u")
  return info.nparams > 1 or info.isvararg
end

local function names_number_in(pieces)
  for _, piece in ipairs(pieces) do
    if piece == 2 then return true end
  end
  return false
end

--- What keeps the items of this command in the journal of that path, which a pool uses; nil: it cannot be.
function resume.new(path, verb, given, f)
  local journal = require "mantichora.journal"
  local file = journal.of(path)
  local work = verb == "run" and function() return f end or f
  local key, why = journal.key({}, work)
  if not key then
    io.stderr:write(("mantichora %s: nothing is resumed: the expression cannot be keyed: %s\n"):format(verb, why))
    return nil
  end
  return setmetatable({
    file = file, keys = {},
    numbered = verb == "run" and names_number_in(f) or verb ~= "run" and names_number(f, given.expression),
    prefix = table.concat({ verb, given["in"], given.out, given.tag and "tag" or "",
      given["no-header"] and "no header" or "", given.results and "results" or "", key }, "\0"),
  }, resume)
end

-- The bytes that are the key of an item, but for the item itself.
function resume:prefix_of(segment, columns, number)
  local parts = { self.prefix, self.numbered and tostring(number) or "" }
  for _, name in ipairs(segment.names or {}) do parts[#parts + 1] = name end
  parts[#parts + 1] = "\0"
  for _, name in ipairs(columns or {}) do parts[#parts + 1] = name end
  return table.concat(parts, "\0")
end

--- Look for the items of a segment: a list of records, by their places from 1; false where there is none.
function resume:look(segment, columns)
  local found, now = {}, core.clocks()
  local prefix = not self.numbered and self:prefix_of(segment, columns)
  for i = 1, segment.count do
    local number = segment.first + i - 1
    local at, size = core.find(segment.items, i - 1)
    local key = self.file:key(prefix or self:prefix_of(segment, columns, number), segment.items:sub(at + 1, at + size))
    local payload, printed, lines = self.file:find(key)
    if payload then
      found[i] = { kind = "ok", payload = payload, length = #payload, printed = printed, lines = lines, message = 0,
        header = 0, started = now, ended = now, exitcode = 0, signal = 0, found = true }
    else
      found[i] = false
      self.keys[number] = key
    end
  end
  return found
end

local kinds = { ok = "ok", bad = "error", failed = "error" }

--- An item has ended.
function resume:note(number, item, record)
  local key = self.keys[number]
  self.keys[number] = nil
  if not key then return end
  local kind = record.timed_out and "timeout" or record.signal and record.signal > 0 and "killed"
    or record.exitcode and record.exitcode > 0 and "exited" or kinds[record.kind]
  self.file:put(key, { kind = kind, name = item, number = number, elapsed = math.max(record.ended - record.started, 0),
    exitcode = record.exitcode, signal = record.signal }, record.payload:sub(record.header + 1),
    record.printed - record.header, record.lines)
end

return resume
