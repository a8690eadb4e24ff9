-- What the page of `mantichora top --web` shows: the picture that the lines of a script's socket make, and what
-- of it has changed since the last look. All of it is bounded, whatever the script does and however long.
--
-- state:take(line)   a line of the socket, decoded
-- state:changes()    a table for JSON of what is new, or nil; the next call tells what came later
-- state:whole()      a table for JSON of everything, the last changes included

local json = require "mantichora.commands.json"

local most_boxes = 20000 -- after which older ones are merged
local most_bars = 100 -- of those that have ended
local most_bars_at_once = 1000 -- more are not shown
local most_failures = 200
local most_log = 500
local most_samples = 1200 -- after which every other one goes
local minutes = 20 -- how long a box is kept
local fine = 60 -- seconds: what is younger is merged only if that must be

local kinds = { "ok", "error", "unsendable", "exited", "killed", "timeout", "cancelled" }

local state = {}
state.__index = state

-- What a viewer forgets when the script says `snapshot`.
local function forget(self)
  self.pools, self.workers, self.bars = {}, {}, {}
  self.failures, self.log = {}, {}
  self.bar_count, self.bars_here, self.ended_bars = 0, 0, {}
  self.paused = false
end

local function new_changes()
  return { boxes = {}, failures = {}, log = {}, bars = {}, samples = {}, dropped = 0 }
end

local function new()
  local self = setmetatable({
    now = 0, -- the script's clock
    rows = {}, -- by id; each has its boxes in order
    row_list = {},
    box_count = 0,
    known = {}, -- failed attempts that have a box
    samples = {}, -- { clock, queued, running, done, failed, bytes, cpu }
    every = 1, -- each so many seconds one is kept
    beats = 0,
    changed = new_changes(),
  }, state)
  forget(self)
  return self
end

-- --- the timeline ------------------------------------------------------------------------------------------

local function row_of(self, line)
  local id = line.pool .. "." .. line.slot
  local row = self.rows[id]
  if not row then
    row = { id = id, pool = line.pool, slot = line.slot, boxes = {} }
    self.rows[id] = row
    local list, at = self.row_list, 1
    while list[at] and (list[at].pool < row.pool or list[at].pool == row.pool and list[at].slot < row.slot) do
      at = at + 1
    end
    table.insert(list, at, row)
    self.changed.rows = true
  end
  if line.host and row.host ~= line.host then
    row.host = line.host
    self.changed.rows = true
  end
  return row
end

local function add_box(self, line, box)
  local row = row_of(self, line)
  box.row = row.id
  row.boxes[#row.boxes + 1] = box
  self.box_count = self.box_count + 1
  self.changed.boxes[#self.changed.boxes + 1] = box
end

-- What short tasks of one slot were in this time, as one box a kind, side by side: each has the share of the time
-- that was worked for it. `sums`: by kind the count and the seconds of work.
local function spread(start, stop, sums)
  local boxes, work, tasks = {}, 0, 0
  for _, sum in pairs(sums) do
    work, tasks = work + sum.busy, tasks + sum.count
  end
  for _, kind in ipairs(kinds) do
    local sum = sums[kind]
    if sum then
      local share = work > 0 and sum.busy / work or sum.count / tasks
      local box = { kind = kind, count = sum.count, busy = sum.busy, start = start }
      box.stop = start + share * (stop - start)
      start = box.stop
      stop = math.max(stop, start)
      work, tasks = work - sum.busy, tasks - sum.count
      boxes[#boxes + 1] = box
    end
  end
  return boxes
end

local function sum_of(group)
  local sums = {}
  for _, box in ipairs(group) do
    local sum = sums[box.kind] or { count = 0, busy = 0 }
    sums[box.kind] = sum
    sum.count = sum.count + (box.count or 1)
    sum.busy = sum.busy + (box.busy or box.stop - box.start)
  end
  return sums
end

-- The box of this attempt goes, by itself or into one with others.
local function forget_box(self, box)
  if box.key then self.known[box.key] = nil end
end

-- Merge neighbours that ended before `limit` and are together no longer than `span`. `all`: failures too.
local function merge(self, row, limit, span, all)
  local kept, group = {}, {}
  local function flush()
    local boxes = #group > 1 and spread(group[1].start, group[#group].stop, sum_of(group)) or group
    if #boxes < #group then
      for _, box in ipairs(group) do forget_box(self, box) end
    else
      boxes = group
    end
    for _, box in ipairs(boxes) do
      box.row = row.id
      kept[#kept + 1] = box
    end
    group = {}
  end
  for _, box in ipairs(row.boxes) do
    local mergeable = box.stop < limit and (all or box.kind == "ok")
    if #group > 0 and (not mergeable or box.stop - group[1].start > span) then flush() end
    group[#group + 1] = box
    if not mergeable then flush() end
  end
  flush()
  row.boxes = kept
end

local function drop_old(self)
  local limit = self.now - 60 * minutes
  for _, row in ipairs(self.row_list) do
    local kept = {}
    for _, box in ipairs(row.boxes) do
      if box.stop >= limit then
        kept[#kept + 1] = box
      else
        forget_box(self, box)
      end
    end
    row.boxes = kept
  end
end

local function count_boxes(self)
  local count = 0
  for _, row in ipairs(self.row_list) do count = count + #row.boxes end
  self.box_count = count
  return count
end

-- Afterwards there is room for a quarter more.
local function compact(self)
  drop_old(self)
  local goal = most_boxes * 3 // 4
  local span = 0.25
  while count_boxes(self) > goal and span < 60 * minutes do
    for _, row in ipairs(self.row_list) do
      table.sort(row.boxes, function(a, b) return a.start < b.start end)
      merge(self, row, span > 8 and math.huge or self.now - fine, span, span > 2)
    end
    span = 2 * span
  end
  self.changed.boxes = {}
  self.changed.fresh = true
end

-- What to add to the script's clock for seconds since 1970.
function state:set_time(line)
  if line.time and line.clock then self.offset = line.time - line.clock end
end

-- --- lines -------------------------------------------------------------------------------------------------

local take = {}

local function append(list, entry, most)
  list[#list + 1] = entry
  local count = #list
  if count > 2 * most then table.move(list, count - most + 1, 2 * count - most, 1) end
end

-- The last `most` of a list.
local function tail(list, most)
  return table.move(list, math.max(1, #list - most + 1), #list, 1, {})
end

function take.snapshot(self, line)
  forget(self)
  self:set_time(line)
  self.starting = true
end

function take.ready(self)
  self.starting = false
  self.changed = new_changes()
  self.changed.whole = true
  self.complete = true
end

function take.pool(self, line)
  local pool = self.pools[line.pool] or {}
  for _, name in ipairs { "pool", "name", "engine", "nworkers", "since" } do pool[name] = line[name] end
  self.pools[line.pool] = pool
  self.changed.pools = true
end

function take.pool_closed(self, line)
  local pool = self.pools[line.pool]
  if pool then pool.closed = true end
  self.changed.pools = true
end

function take.tick(self, line)
  local pool = self.pools[line.pool]
  if not pool then
    pool = { pool = line.pool }
    self.pools[line.pool] = pool
  end
  for name, value in pairs(line) do
    if math.type(value) then pool[name] = value end
  end
  self.changed.pools = true
end

function take.worker(self, line)
  local id = line.pool .. "." .. line.slot
  if line.gone then
    -- A replacement may have come before.
    if self.workers[id] and self.workers[id].pid == line.pid then self.workers[id] = nil end
  else
    row_of(self, line)
    line.event, line.clock = nil, nil
    line.row = id
    self.workers[id] = line
  end
  self.changed.workers = true
end

local function facts(line)
  return {
    pool = line.pool, runid = line.runid, name = line.name, place = line.place, index = line.index, kind = line.kind,
    attempt = line.attempt, slot = line.slot, pid = line.pid, host = line.host, elapsed = line.elapsed,
    waited = line.waited, cpu = line.cpu, maxrss = line.maxrss, exitcode = line.exitcode, signal = line.signal,
    message = line.message, report = line.report, clock = line.clock,
  }
end

local function add_failure(self, failure)
  append(self.failures, failure, most_failures)
  append(self.changed.failures, failure, most_failures)
end

function take.ended(self, line)
  local key = line.pool .. "." .. line.runid .. "." .. (line.attempt or 1)
  if line.kind ~= "ok" and line.kind ~= "cancelled" then add_failure(self, facts(line)) end
  if not line.began or not line.slot or (line.past and self.known[key]) then return end
  if line.kind ~= "ok" then self.known[key] = true end
  local box = facts(line)
  box.report, box.message, box.clock = nil, nil, nil
  box.key, box.start, box.stop = key, line.began, line.began + (line.elapsed or 0)
  add_box(self, line, box)
end

-- What a slot began last, for attempts of which only the end is told. A worker that has just come has had no line.
function take.started(self, line)
  if not line.slot then return end
  local row = row_of(self, line)
  row.begun = line
  local worker = self.workers[row.id]
  if not line.pid or worker and worker.pid == line.pid then return end
  self.workers[row.id] = { row = row.id, tasks = 0, pool = line.pool, slot = line.slot, pid = line.pid,
    host = line.host, runid = line.runid, name = line.name, place = line.place, index = line.index,
    attempt = line.attempt, since = line.clock }
  self.changed.workers = true
end

function take.retried(self, line)
  local failure = facts(line)
  failure.retried = true
  add_failure(self, failure)
  local begun = line.slot and row_of(self, line).begun
  if not begun or begun.runid ~= line.runid or begun.attempt ~= line.attempt then return end
  local box = facts(line)
  box.report, box.message, box.clock = nil, nil, nil
  box.key = line.pool .. "." .. line.runid .. "." .. (line.attempt or 1)
  box.start, box.stop = begun.clock, math.max(line.clock, begun.clock)
  add_box(self, line, box)
end

function take.many(self, line)
  local sums, count = {}, 0
  for _, kind in ipairs(kinds) do
    local number = line[kind]
    if number and number > 0 then
      sums[kind] = { count = number, busy = 0 }
      count = count + number
    end
  end
  for _, sum in pairs(sums) do sum.busy = (line.worked or 0) * sum.count / count end
  local boxes = row_of(self, line).boxes
  local before = boxes[#boxes]
  -- Those of its time that were told one by one keep their place.
  local from = before and before.stop < line.to and math.max(line.from, before.stop) or line.from
  for _, box in ipairs(spread(from, math.max(line.to, from), sums)) do add_box(self, line, box) end
end

function take.bar(self, line)
  local bar = self.bars[line.bar]
  if not bar then
    if self.bars_here >= most_bars_at_once then return end
    self.bar_count, self.bars_here = self.bar_count + 1, self.bars_here + 1
    bar = { bar = line.bar, order = self.bar_count }
    self.bars[line.bar] = bar
  end
  for name, value in pairs(line) do
    if name ~= "event" and name ~= "clock" then bar[name] = value end
  end
  self.changed.bars[line.bar] = bar
  if bar.state == nil or bar.state == "running" then return end
  local ended = self.ended_bars
  ended[#ended + 1] = line.bar
  if #ended <= most_bars then return end
  local old = table.remove(ended, 1)
  if not self.bars[old] then return end
  self.bars[old] = nil
  self.bars_here = self.bars_here - 1
  self.changed.bars[old] = { bar = old, gone = true }
end

local function add_log(self, entry)
  append(self.log, entry, most_log)
  local news = self.changed.log
  news[#news + 1] = entry
  if #news <= 2 * most_log then return end
  self.changed.dropped = self.changed.dropped + #news - most_log
  self.changed.log = tail(news, most_log)
end

function take.log(self, line)
  add_log(self, { time = line.time, clock = line.clock, level = line.level, levelno = line.levelno,
    logger = line.logger, message = line.message, process = line.process, runid = line.runid, task = line.task })
end

function take.line(self, line)
  add_log(self, { clock = line.clock, stream = line.stream, message = line.text })
end

function take.skipped(self, line)
  add_log(self, { clock = line.clock, skipped = line.lines or 0 })
end

function take.paused(self, line)
  self.paused = line.paused
  self.changed.paused = true
end

take["end"] = function(self)
  self.ended = true
end

-- Once a second: the curves over time.
function take.stats(self, line)
  self.stats = { cpu = line.cpu, rss = line.rss, workers_cpu = line.workers_cpu, workers_rss = line.workers_rss,
    viewers = line.viewers }
  self:set_time(line)
  self.changed.stats = true
  self.beats = self.beats + 1
  if self.beats % self.every ~= 0 then return end
  local queued, running, done, failed = 0, 0, 0, 0
  for _, pool in pairs(self.pools) do
    queued, running = queued + (pool.queued or 0), running + (pool.running or 0)
    for _, kind in ipairs(kinds) do
      done = done + (pool[kind] or 0)
      if kind ~= "ok" and kind ~= "cancelled" then failed = failed + (pool[kind] or 0) end
    end
  end
  local sample = json.list { line.clock, queued, running, done, failed, (line.rss or 0) + (line.workers_rss or 0),
    (line.cpu or 0) + (line.workers_cpu or 0) }
  self.samples[#self.samples + 1] = sample
  self.changed.samples[#self.changed.samples + 1] = sample
  if #self.samples <= most_samples then return end
  local kept = {}
  for i = 2, #self.samples, 2 do kept[#kept + 1] = self.samples[i] end
  self.samples = kept
  self.every = 2 * self.every
  self.changed.all_samples = true
end

function state:take(line)
  if not self.hello then
    self.hello = line
    self.now = line.clock or 0
    self:set_time(line)
    return
  end
  if line.clock and line.clock > self.now then self.now = line.clock end
  local f = take[line.event]
  if f then f(self, line) end
  if self.box_count > most_boxes then compact(self) end
end

-- --- for the page ------------------------------------------------------------------------------------------

local function values(t, less)
  local list = {}
  for _, value in pairs(t) do list[#list + 1] = value end
  table.sort(list, less)
  return json.list(list)
end

local function pools_of(self)
  return values(self.pools, function(a, b) return a.pool < b.pool end)
end

local function workers_of(self)
  return values(self.workers, function(a, b)
    if a.pool ~= b.pool then return a.pool < b.pool end
    return a.slot < b.slot
  end)
end

local function bars_of(bars)
  return values(bars, function(a, b) return (a.order or 0) < (b.order or 0) end)
end

local function rows_of(self)
  local list = json.list()
  for i, row in ipairs(self.row_list) do
    list[i] = { id = row.id, pool = row.pool, slot = row.slot, host = row.host }
  end
  return list
end

-- A box of one task without what is not known; the page has names for the places.
local function box_of(box)
  local short = { r = box.row, a = box.start, b = box.stop, k = box.kind }
  if box.count then
    short.c, short.w = box.count, box.busy
  else
    short.i, short.t, short.m, short.x, short.e = box.runid, box.name, box.maxrss, box.index, box.attempt
    short.p, short.d, short.u, short.o = box.pid, box.place, box.cpu, box.waited
  end
  return short
end

local function boxes_of(boxes, list)
  list = list or json.list()
  for _, box in ipairs(boxes) do list[#list + 1] = box_of(box) end
  return list
end

local function all_boxes(self)
  local list = json.list()
  for _, row in ipairs(self.row_list) do boxes_of(row.boxes, list) end
  return list
end

local function add_state(self, message)
  message.now, message.offset, message.silent, message.gone = self.now, self.offset, self.silent, self.gone
  message.paused = self.paused
  return message
end

function state:whole()
  return add_state(self, {
    all = true, hello = self.hello, pools = pools_of(self), workers = workers_of(self), bars = bars_of(self.bars),
    rows = rows_of(self), boxes = all_boxes(self), fresh = true, stats = self.stats,
    failures = json.list(tail(self.failures, most_failures)), log = json.list(tail(self.log, most_log)),
    samples = json.list(tail(self.samples, most_samples)),
  })
end

local function is_any(changed)
  return changed.fresh or changed.rows or changed.pools or changed.workers or changed.stats or changed.paused
    or next(changed.bars) or #changed.boxes > 0 or #changed.failures > 0 or #changed.log > 0
end

--- `always`: also if nothing is new.
function state:changes(always)
  local changed = self.changed
  if self.starting or not self.complete then return nil end
  self.changed = new_changes()
  if changed.whole then return self:whole() end
  if not always and not is_any(changed) then return nil end
  local message = add_state(self, {})
  if changed.rows then message.rows = rows_of(self) end
  if changed.pools then message.pools = pools_of(self) end
  if changed.workers then message.workers = workers_of(self) end
  if changed.stats then message.stats = self.stats end
  if next(changed.bars) then message.bars = bars_of(changed.bars) end
  if changed.fresh then
    message.boxes, message.fresh = all_boxes(self), true
  elseif #changed.boxes > 0 then
    message.boxes = boxes_of(changed.boxes)
  end
  if #changed.failures > 0 then message.failures = json.list(tail(changed.failures, most_failures)) end
  if #changed.log > 0 then
    message.log = json.list(tail(changed.log, most_log))
    message.dropped = changed.dropped + #changed.log - #message.log
  end
  if changed.all_samples then
    message.samples, message.all_samples = json.list(tail(self.samples, most_samples)), true
  elseif #changed.samples > 0 then
    message.samples = json.list(changed.samples)
  end
  return message
end

return { new = new }
