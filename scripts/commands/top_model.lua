-- What `mantichora top` knows of a script: the picture that the lines of its socket make. Bounded, whatever the script
-- does and however long.
--
-- model:take(line, now)   a decoded line of the socket, and the viewer's clock

local most_failures, most_log, most_ended_bars = 200, 500, 20
local rate_span = 10 -- seconds that a rate is about

local kinds = { "ok", "error", "unsendable", "exited", "killed", "timeout", "cancelled" }

local model = {}
model.__index = model

local function forget(self)
  self.pools, self.workers, self.bars = {}, {}, {}
  self.failures, self.log = {}, {}
  self.ended_bars = {}
end

local function new()
  local self = setmetatable({ kinds = kinds, clock = 0, serial = 0 }, model)
  forget(self)
  return self
end

local function key_of(pool, slot) return pool * 8192 + slot end

-- Seconds since 1970 at that moment of the script's clock.
function model:time(clock)
  local hello = self.hello
  return hello and hello.time and clock and hello.time + (clock - hello.clock)
end

local function push(list, value, most)
  list[#list + 1] = value
  if #list > most + most // 4 then table.move(list, #list - most + 1, #list + most, 1) end
end

-- How many tasks of a pool have ended.
local function ended_of(tick)
  local sum = 0
  for _, kind in ipairs(kinds) do sum = sum + (tick[kind] or 0) end
  return sum
end

local function note_pace(pool, tick)
  local pace, ended = pool.pace, ended_of(tick)
  pool.ended = ended
  if pace[#pace] and tick.clock <= pace[#pace].clock then return end
  pace[#pace + 1] = { clock = tick.clock, ended = ended }
  while #pace > 2 and pace[2].clock < tick.clock - rate_span do table.remove(pace, 1) end
end

--- Tasks a second of late, and seconds until all are done; nil where that is not known.
function model:rate(pool)
  local pace = pool.pace
  local first, last = pace[1], pace[#pace]
  local span = last and self.clock - first.clock or 0
  if span < 0.5 or last.ended == first.ended then return nil end
  local rate = (last.ended - first.ended) / span
  local left = (pool.tick.queued or 0) + (pool.tick.running or 0) + (pool.tick.coming or 0)
  return rate, left > 0 and left / rate or nil
end

local function pool_of(self, number)
  local pool = self.pools[number]
  if not pool then
    pool = { number = number, tick = {}, pace = {}, ended = 0 }
    self.pools[number] = pool
  end
  return pool
end

local takers = {}

function takers.snapshot(self)
  forget(self)
  self.complete = false
end

function takers.ready(self) self.complete = true end

function takers.pool(self, line)
  local pool = pool_of(self, line.pool)
  pool.name, pool.engine, pool.nworkers, pool.since = line.name, line.engine, line.nworkers, line.since
end

function takers.pool_closed(self, line)
  local pool = self.pools[line.pool]
  if pool then pool.closed = true end
  for key, worker in pairs(self.workers) do
    if worker.pool == line.pool then self.workers[key] = nil end
  end
end

function takers.tick(self, line)
  local pool = pool_of(self, line.pool)
  pool.tick = line
  note_pace(pool, line)
end

function takers.worker(self, line)
  local key = key_of(line.pool, line.slot)
  local before = self.workers[key]
  if not line.gone then
    self.workers[key] = line
  elseif before and before.pid == line.pid then
    self.workers[key] = nil
  end
end

-- What a worker does, until its next line; one that has just come has had none.
function takers.started(self, line)
  if not line.slot or not line.pid then return end
  local key = key_of(line.pool, line.slot)
  local worker = self.workers[key]
  if not worker or worker.pid ~= line.pid then
    worker = { event = "worker", pool = line.pool, slot = line.slot, pid = line.pid, host = line.host, tasks = 0 }
    self.workers[key] = worker
  end
  worker.runid, worker.name, worker.place = line.runid, line.name, line.place
  worker.index, worker.attempt, worker.since = line.index, line.attempt, line.clock
end

local function stop_task(self, line)
  local worker = line.slot and self.workers[key_of(line.pool, line.slot)]
  if worker and worker.pid == line.pid and worker.runid == line.runid then worker.runid = nil end
end

function takers.ended(self, line)
  if not line.past then stop_task(self, line) end
  if line.kind == "ok" or line.kind == "cancelled" then return end
  self.serial = self.serial + 1
  line.serial = self.serial
  push(self.failures, line, most_failures)
end

takers.retried = stop_task

function takers.bar(self, line)
  if line.state == "running" then
    self.bars[line.bar] = line
    return
  end
  self.bars[line.bar] = nil
  push(self.ended_bars, line, most_ended_bars)
end

function takers.log(self, line) push(self.log, line, most_log) end

takers.line = takers.log

function takers.stats(self, line) self.stats = line end

function takers.paused(self, line) self.paused = line.paused end

function takers.skipped(self, line) self.skipped = (self.skipped or 0) + (tonumber(line.lines) or 0) end

function takers.answer(self, line)
  self.answer = line
end

takers["end"] = function(self) self.ended = true end

-- A line that is not as it should be is left out.
function model:take(line, now)
  if type(line) ~= "table" then return end
  self.heard = now
  if line.mantichora then
    self.hello = line
    self.clock = line.clock or 0
    return
  end
  if type(line.clock) == "number" and line.clock > self.clock then self.clock, self.clock_at = line.clock, now end
  local taker = takers[line.event]
  if taker then pcall(taker, self, line) end
end

--- The script's clock as it is now.
function model:now(now)
  if self.gone or not self.clock_at then return self.clock end
  return self.clock + (now - self.clock_at)
end

local function sorted(map, less)
  local list = {}
  for _, value in pairs(map) do list[#list + 1] = value end
  table.sort(list, less)
  return list
end

--- Open pools, the last closed one if there is no other; workers; running bars: in order.
function model:pool_list()
  local list = sorted(self.pools, function(a, b) return a.number < b.number end)
  local open = {}
  for _, pool in ipairs(list) do
    if not pool.closed then open[#open + 1] = pool end
  end
  return open[1] and open or { list[#list] }
end

function model:worker_list()
  return sorted(self.workers, function(a, b)
    return a.pool < b.pool or a.pool == b.pool and a.slot < b.slot
  end)
end

function model:bar_list() return sorted(self.bars, function(a, b) return a.bar < b.bar end) end

return { new = new, kinds = kinds }
