-- The way of items from the input through the workers to the output.
--
-- Items are cut from the input in batches, as the bytes that they are. A batch is a task of the pool; it
-- lies in a tray (runtime/commands/tray.h), memory that the workers share with us, and so do its results,
-- item by item. Batches grow while they are done quickly.
--
-- The items that are on the way stand in a list of segments in the order of the input. A segment is a batch
-- or, after something has happened to it, a piece of one: the items that were done; the one that ended
-- its worker, or was stopped; those that were taken back, and wait for a worker again. Results are
-- printed from the head of the list.

local core = require "mantichora.commands.core"
local mantichora = require "mantichora"
local resume = require "commands.resume"

local stream = {}
stream.__index = stream

local most_held = 64 * 2 ^ 20 -- bytes of results that wait for their turn
local segment_cost = 256      -- counts for what a segment takes
local batch_time = 0.02       -- seconds that a batch shall take
local tick = 0.1              -- how often running batches are looked at
local most_looked_for = 64    -- items that are looked for in a journal at once
local steal_after = 0.05      -- an item that takes longer does not hold up those behind it in its batch

-- ---------------------------------------------------------------------------------------------
-- Segments

-- `count` items from number `first` on, `items` being their bytes. `attempts`: those that the first of
-- them has behind it.
local function new_segment(self, source, first, count, items, line)
  return {
    file = source.file, names = source.names, first = first, count = count, items = items, line = line,
    attempts = 0, stored = {}, order = self.next_order,
  }
end

local function append(self, segment)
  if self.tail then self.tail.next = segment else self.head = segment end
  self.tail = segment
  self.held = self.held + segment_cost
end

local function insert_after(self, segment, new)
  new.next = segment.next
  segment.next = new
  if self.tail == segment then self.tail = new end
  self.held = self.held + segment_cost
end

-- Segments that wait for a worker, in the order of their items.
local function await_worker(self, segment)
  local at = #self.waiting + 1
  while at > 1 and self.waiting[at - 1].first > segment.first do at = at - 1 end
  table.insert(self.waiting, at, segment)
end

-- Take the items from `index` (from 0) on away from the segment. They become one that follows it.
local function split(self, segment, index, source_count)
  local count = segment.count - index
  if source_count then count = source_count end
  local at, _, lines = core.find(segment.items, index)
  local rest = new_segment(self, segment, segment.first + index, count, segment.items:sub(at + 1),
    segment.line + lines)
  segment.count = index
  insert_after(self, segment, rest)
  return rest
end

-- ---------------------------------------------------------------------------------------------
-- What is printed and told

local function item_of(segment, record)
  return segment.items:sub(record.at + 1, record.at + record.size)
end

local function without_end(self, item)
  if self.format == "nul" then return (item:gsub("%z$", "")) end
  item = item:gsub("\n$", "")
  return self.format == "csv" and (item:gsub("\r$", "")) or item
end

-- Write what was put, if it is so much. Ctrl-C is noticed between the steps.
local function flush(least)
  local done, message
  repeat
    done, message = core.flush(least or 0)
    if message then error("stdout cannot be written: " .. message, 0) end
    least = 0
  until done
end

-- A line that a command has not completed is completed.
local function put_lines(put, text)
  if text == "" then return end
  put(text)
  if text:sub(-1) ~= "\n" then put("\n") end
end

local function to_stderr(text) io.stderr:write(text) end

-- Print what became of an item, and tell its failure.
local function show_record(self, segment, record)
  local payload = record.payload
  if self.verb == "run" then
    put_lines(core.put, payload:sub(1, record.printed))
  else
    core.put(payload:sub(1, record.printed))
  end
  if record.length - record.message > record.printed then
    flush()
    put_lines(to_stderr, payload:sub(record.printed + 1, record.length - record.message))
  end
  if record.kind == "ok" then return end
  local is_bad = record.kind == "bad"
  if is_bad and self.skips_bad then
    self.report.bad = self.report.bad + 1
  else
    self.failed = self.failed + 1
  end
  flush()
  self.report:tell_failure(segment.file, segment.line + record.line, payload:sub(record.length - record.message + 1),
    without_end(self, item_of(segment, record)))
end

local function is_shown(self, segment)
  return self.unordered or segment == self.head
end

-- A record has come: print it, or keep it until its turn.
local function settle(self, segment, record)
  segment.had = (segment.had or 0) + 1
  if record.header > 0 then self:learn_columns(record.payload) end
  if self.columns == true and record.header == 0 and record.lines > 0 then self.columns = nil end
  self.report:count(1)
  local number = segment.first + segment.had - 1
  if self.report.is_detailed then
    self.report:note(number, without_end(self, item_of(segment, record)), record)
  end
  if self.resume and not record.found then
    self.resume:note(number, without_end(self, item_of(segment, record)), record)
  end
  if is_shown(self, segment) then
    show_record(self, segment, record)
  else
    table.insert(segment.stored, record)
    self.held = self.held + record.length
  end
end

-- Take what is in the segment's tray by now.
local function collect(self, segment)
  local shown = is_shown(self, segment)
  while not segment.away do
    if not self.report.is_detailed and self.columns ~= true and not self.resume then
      local count, text = core.drain(segment.tray, not shown)
      if count > 0 then
        segment.had = (segment.had or 0) + count
        self.report:count(count)
        if not shown and text ~= "" then
          table.insert(segment.stored, text)
          self.held = self.held + #text
        end
      end
    end
    local record = core.next(segment.tray)
    if not record then return end
    if record.payload then settle(self, segment, record) else segment.away = record end
  end
end

local function show_stored(self, segment)
  for i, stored in ipairs(segment.stored) do
    if type(stored) == "string" then
      self.held = self.held - #stored
      core.put(stored)
    else
      self.held = self.held - stored.length
      show_record(self, segment, stored)
    end
    segment.stored[i] = nil
    flush(65536)
  end
end

-- Print what has its turn.
local function present(self)
  while self.head do
    local segment = self.head
    show_stored(self, segment)
    if not segment.is_done then
      -- It may have become the head just now.
      if segment.tray and not self.unordered then collect(self, segment) end
      if not self.unordered then return end
      return self:drop_done()
    end
    self.head = segment.next
    self.held = self.held - segment_cost
    if not self.head then self.tail = nil end
  end
end

-- Without an order, segments that are done leave from anywhere.
function stream:drop_done()
  local before, segment = nil, self.head
  while segment do
    if segment.is_done then
      if before then before.next = segment.next else self.head = segment.next end
      if self.tail == segment then self.tail = before end
      self.held = self.held - segment_cost
    else
      before = segment
    end
    segment = segment.next
  end
end

-- ---------------------------------------------------------------------------------------------
-- Input

-- The columns of CSV out, as the header says that comes before the first line.
function stream:learn_columns(payload)
  local columns = core.fields(payload:sub(1, (payload:find("\n", 1, true)))) or core.fields(payload)
  columns.of = {}
  for _, name in ipairs(columns) do columns.of[name] = true end
  self.columns = columns
end

local function cannot_read(path, message)
  error(("%s cannot be read: %s"):format(path == "-" and "stdin" or "'" .. path .. "'", message), 0)
end

-- Read more from the source, if that does not wait. True if there is more now; nil if there is nothing.
local function fill(self, source)
  if not core.await(source.input, self.pollfd, 0) then return nil end
  local more, message = source.input:fill()
  if more == nil then cannot_read(source.file, message) end
  return true
end

-- The header of CSV, which must be whole before anything else is. True, or nil: it is not there yet.
local function read_header(self, source)
  while true do
    local header = source.input:cut(1, 1)
    if header then return self:take_header(source, header) end
    if source.input:has_ended() then
      source.names = {}
      return true
    end
    if not fill(self, source) then return nil end
  end
end

function stream:take_header(source, header)
  local text = header:gsub("^\xEF\xBB\xBF", "")
  local names, column, message = core.fields(text)
  if not names then error(("%s:1: column %d: %s, in the header"):format(source.file, column, message), 0) end
  local seen = {}
  for _, name in ipairs(names) do
    if seen[name] then error(("%s:1: two columns are called '%s'"):format(source.file, name), 0) end
    seen[name] = true
  end
  source.names, source.line = names, 1 + select(2, header:gsub("\n", "\n"))
  if not self.header then
    self.header = header
    core.csv(#names > 1, header:find("\r\n$") ~= nil)
    self.skips_blank = #names > 1
    if self.verb == "filter" then
      core.put(header)
      if header:sub(-1) ~= "\n" then core.put("\n") end
    end
  elseif self.verb == "filter" and without_end(self, header) ~= without_end(self, self.header) then
    error(("%s:1: its header is another than that of the first file"):format(source.file), 0)
  end
  if self.skips_blank then source.input:skip_blank() end
  return true
end

-- The source that is read now; nil: all have ended.
local function current(self)
  if self.source then return self.source end
  local path = table.remove(self.files, 1)
  if not path then return nil end
  local input, message = core.open(path, self.format)
  if not input then cannot_read(path, message) end
  self.source = { file = path, input = input, line = 1, needs_header = self.has_header }
  return self.source
end

-- The next items as a segment, or nil: there are none now. `may_wait`: it is better to wait for a whole
-- batch than to take what is there.
local function next_items(self, may_wait)
  while true do
    local source = current(self)
    if not source then return nil end
    if source.needs_header then
      if not read_header(self, source) then return nil end
      source.needs_header = false
    end
    local wanted = math.min(self.size * self.item_bytes, core.most_bytes)
    while source.input:buffered() < wanted and not source.input:has_ended() do
      if not fill(self, source) then
        if may_wait then return nil end
        break
      end
    end
    local items, count, lines = source.input:cut(self.size, core.most_bytes)
    if items then
      local segment = new_segment(self, source, self.next_number, count, items, source.line)
      source.line = source.line + lines
      if count > 0 then
        self.next_number = self.next_number + count
        self.item_bytes = #items / count
        return segment
      end
    elseif source.input:has_ended() then
      source.input:close()
      self.source = nil
    elseif not fill(self, source) then
      return nil
    end
  end
end

-- ---------------------------------------------------------------------------------------------
-- Items that a journal has

-- The items of a segment are done: these are their records.
local function settle_found(self, segment, found, from)
  segment.had = 0
  for i = 1, segment.count do
    local record = found[from + i - 1]
    record.at, record.size, record.line = core.find(segment.items, i - 1)
    settle(self, segment, record)
  end
  segment.is_done = true
end

-- What the journal has of a new segment is done, and the rest waits for a worker.
local function look_for(self, segment)
  local found, from = self.resume:look(segment, self.columns), 1
  append(self, segment)
  repeat
    local count = 1
    while count < segment.count and not found[from + count] == not found[from] do count = count + 1 end
    local rest = count < segment.count and split(self, segment, count) or nil
    if found[from] then
      settle_found(self, segment, found, from)
      self.goes_on = true
    else
      await_worker(self, segment)
    end
    segment, from = rest, from + count
  until not segment
end

-- ---------------------------------------------------------------------------------------------
-- Workers

local batch_options = { journal = false } -- its items are recorded, one by one

local function start(self, segment)
  local tray = table.remove(self.trays)
  local is_large = #segment.items > core.most_bytes
  core.fill(tray, not is_large and segment.items or nil, segment.count)
  segment.tray, segment.had, segment.away = tray, 0, nil
  segment.runid = self.pool:run_with(batch_options, core.work, tray, segment.first, segment.attempts, segment.names,
    self.columns, is_large and segment.items or nil)
  self.running[segment.runid] = segment
  self.nrunning = self.nrunning + 1
end

-- As many batches are on the way as keep the workers busy.
local function in_flight(self)
  return self.columns == true and 1 or self.nworkers + math.max(1, self.nworkers // 2)
end

-- Give work to the workers.
local function feed(self)
  while self.nrunning < in_flight(self) do
    local segment = self.waiting[1]
    if segment then
      if self.held >= most_held and segment ~= self.head then return end
      table.remove(self.waiting, 1)
      segment.waits = nil
    else
      if self.held >= most_held or core.halted() then return end
      segment = next_items(self, self.nrunning >= self.nworkers)
      if not segment then return end
      if self.resume and self.columns ~= true then
        look_for(self, segment)
        segment = nil
        if self.goes_on then return end -- what was found is printed first
      else
        append(self, segment)
      end
    end
    if segment then start(self, segment) end
  end
end

local function adapt(self, seconds, count)
  if count == 0 then return end
  local each = math.max(seconds / count, 1e-7)
  local fitting = math.max(1, math.floor(batch_time / each))
  self.size = math.min(fitting, 8 * self.size, self.resume and most_looked_for or core.most_items)
end

-- How a task's failure is told of the item that ran.
local function wording(self, segment, failure)
  if segment.stop == "timeout" then
    return ("it ran longer than allowed (%g s)"):format(self.timeout)
  end
  return failure and failure.message or "its result was lost"
end

-- An item that has no record of its own: its worker died with it, or it was stopped.
local function failed_record(self, segment, index, failure)
  local at, size, line = core.find(segment.items, index)
  local _, _, _, _, started = core.look(segment.tray)
  local message = wording(self, segment, failure)
  return {
    kind = "failed", payload = message, length = #message, printed = 0, lines = 0, message = #message, header = 0,
    line = line, at = at, size = size, started = started, ended = core.clocks(),
    signal = failure and failure.signal, exitcode = failure and failure.exitcode,
    timed_out = segment.stop == "timeout",
  }
end

-- The item after those that are done has failed, with `attempts` behind it. It gets another attempt, or
-- this one counts.
local function fail_item(self, segment, record, attempts)
  if attempts < self.retries and not core.halted() then
    local again = split(self, segment, segment.had, nil)
    local rest = again.count > 1 and split(self, again, 1) or nil
    again.attempts, again.last = attempts + 1, record
    again.items = again.items:sub(1, record.size)
    await_worker(self, again)
    return rest
  end
  core.count(segment.first + segment.had)
  local index = segment.had
  local rest = segment.count > index + 1 and split(self, segment, index + 1) or nil
  settle(self, segment, record)
  return rest
end

-- Items that were not begun go to a worker again, unless a halt was for them.
local function give_back(self, rest)
  if not rest then return end
  local halted = core.halted()
  if halted and rest.first >= halted then
    rest.is_done = true
  else
    await_worker(self, rest)
  end
end

-- A batch has come back. `result`: what its task has given.
local function finish(self, segment, seconds, payload)
  local failure = type(seconds) == "table" and seconds or nil
  collect(self, segment)
  if segment.away then
    local record = segment.away
    segment.away = nil
    record.payload = not failure and payload or nil
    if not record.payload then
      record = failed_record(self, segment, segment.had, failure)
    end
    settle(self, segment, record)
  end
  local done, _, runs, stopped, _, attempt = core.look(segment.tray)
  if not failure then adapt(self, seconds, done) end
  local rest
  if runs and stopped and segment.stop == "halt" then
    segment.count = done
  elseif runs then
    rest = fail_item(self, segment, failed_record(self, segment, done, failure),
      (done == 0 and segment.attempts or 0) + attempt)
  elseif done < segment.count then
    segment.deaths = failure and done == 0 and (segment.deaths or 0) + 1 or 0
    if segment.deaths >= 3 then
      rest = fail_item(self, segment, failed_record(self, segment, done, failure), self.retries)
    else
      rest = split(self, segment, done)
      rest.attempts, rest.deaths = done == 0 and segment.attempts or 0, segment.deaths
    end
  end
  give_back(self, rest)
  segment.is_done, segment.items = true, segment.stored[1] and segment.items or ""
  table.insert(self.trays, segment.tray)
  segment.tray = nil
end

local function receive(self)
  for _, entry in ipairs(self.pool:receive_finished()) do
    local segment = self.running[entry[1]]
    self.running[entry[1]] = nil
    self.nrunning = self.nrunning - 1
    finish(self, segment, entry[2], entry[3])
  end
end

-- Items that have not begun behind one that takes long go to workers that have nothing to do.
local function steal(self, segment, now)
  local done, limit, runs, _, started = core.look(segment.tray)
  if not runs or limit <= done + 1 or now - started < steal_after then return end
  local begun = core.cut(segment.tray)
  if begun >= segment.count then return end
  local rest = split(self, segment, begun)
  local share = math.max(1, rest.count // self.nworkers)
  while rest do
    local more = rest.count > share and split(self, rest, share) or nil
    await_worker(self, rest)
    rest = more
  end
  self.size = 1
end

local function check_time(self, segment, now)
  local done, _, runs, _, started = core.look(segment.tray)
  if segment.stop or not runs or now - started < self.timeout then return end
  if core.stop(segment.tray, done) then
    segment.stop = "timeout"
    self.pool:cancel(segment.runid)
  end
end

-- Look at what runs.
local function look(self)
  local now = core.clocks()
  if now - self.looked < tick / 2 then return end
  self.looked = now
  for _, segment in pairs(self.running) do
    if is_shown(self, segment) then collect(self, segment) end
    if self.timeout then check_time(self, segment, now) end
    if self.nrunning < self.nworkers and #self.waiting == 0 then
      steal(self, segment, now)
    end
  end
end

-- One that failed before, and gets no further attempt, has failed.
local function give_up(self, segment)
  if not segment.last then return end
  segment.had, segment.count = 0, 1
  segment.last.at, segment.last.line = 0, 0
  core.count(segment.first)
  settle(self, segment, segment.last)
  segment.is_done = true
end

-- Failures have called for a halt: what follows does not begin any more.
local function check_halt(self)
  local halted = core.halted()
  if self.is_halted or not halted then return end
  self.is_halted = true
  self.files, self.source = {}, nil
  local waiting = self.waiting
  self.waiting = {}
  for _, segment in ipairs(waiting) do
    give_up(self, segment)
    if not segment.is_done then give_back(self, segment) end
  end
  if self.halt.when == "soon" then return end
  for runid, segment in pairs(self.running) do
    core.cut(segment.tray)
    if core.stop(segment.tray) then segment.stop = "halt" end
    self.pool:cancel(runid)
  end
end

-- How long nothing may happen before we look by ourselves.
local function pause(self)
  return self.nrunning > 0 and tick or 0.25
end

local function has_more(self)
  return self.nrunning > 0 or #self.waiting > 0 or self.source or self.files[1]
end

local function wait(self)
  flush()
  self.report:flush()
  local wants_input = not self.is_halted and self.source and self.held < most_held
    and self.nrunning < in_flight(self) and #self.waiting == 0
  core.await(wants_input and self.source.input or nil, self.pollfd, pause(self))
end

local function loop(self)
  while has_more(self) do
    feed(self)
    receive(self)
    look(self)
    check_halt(self)
    present(self)
    flush(65536)
    if has_more(self) and not self.goes_on then wait(self) end
    self.goes_on = false
  end
  present(self)
end

-- ---------------------------------------------------------------------------------------------
-- All of it

-- What each item would do, without doing it.
local function dry_run(self)
  self.size = 1
  while self.source or self.files[1] do
    local segment = next_items(self, false)
    if segment then
      local item = without_end(self, segment.items:sub(core.find(segment.items, 0) + 1))
      local fine, column, message = true, nil, nil
      if self.format == "jsonl" then fine, column, message = core.check(item) end
      if not fine then
        if not self.skips_bad then self.failed = self.failed + 1 end
        self.report:tell_failure(segment.file, segment.line, ("column %d: %s"):format(column, message), item)
      elseif self.verb == "run" then
        fine, message = pcall(core.command, item, segment.first)
        if fine then
          core.put(message .. "\n")
        else
          self.failed = self.failed + 1
          self.report:tell_failure(segment.file, segment.line, message, item)
        end
      else
        core.put(item .. (self.format == "nul" and "\0" or "\n"))
      end
      flush(65536)
    elseif self.source then
      flush()
      core.await(self.source.input, -1, 0.25)
    end
  end
  flush()
  return self.failed
end

local function first_columns(verb, given)
  if verb == "map" and given.out == "csv" then return true end
end

--- Do what `verb` says with all items of the files. `f`: the function of map and filter, or the pieces
-- of run's command. Returns how many items failed, or nil and a message.
function stream.run(verb, given, f, files, told)
  local self = setmetatable({
    verb = verb, format = given["in"], files = table.move(files, 1, #files, 1, {}), report = told,
    has_header = given["in"] == "csv" and not given["no-header"],
    unordered = given.unordered, skips_bad = given["skip-bad"], retries = given.retries or 0,
    timeout = given.timeout, halt = given.halt or { when = verb == "run" and "never" or "soon", count = verb ~= "run"
      and 1 or nil }, nworkers = given.workers, columns = first_columns(verb, given),
    running = {}, nrunning = 0, waiting = {}, held = 0, trays = {}, failed = 0, looked = 0, size = 1, item_bytes = 1,
    next_number = 1, pollfd = -1,
  }, stream)
  local trays = self.nworkers + math.max(1, self.nworkers // 2)
  for i = 1, trays do self.trays[i] = i end
  core.setup({
    verb = verb, input = self.format, output = given.out, retries = self.retries, tag = given.tag,
    skip_bad = self.skips_bad, keep = given.results ~= nil, trays = trays,
    halt_count = self.halt.when ~= "never" and self.halt.count or 0,
    halt_share = self.halt.when ~= "never" and self.halt.share or 0,
    halts_all = self.halt.when == "now",
  }, f)
  if given["dry-run"] then return dry_run(self) end
  local pool <close> = mantichora { nworkers = self.nworkers, on_error = "return", name = "mantichora " .. verb,
    capture_warn = 0, journal = given.journal and { path = given.journal, keep = "none" } or false }
  self.pool = pool
  if given.journal then self.resume = resume.new(given.journal, verb, given, f) end
  if self.resume then self.size = most_looked_for // 2 end
  self.pollfd = pool:pollfd()
  loop(self)
  flush()
  if self.header and self.columns == true then
    core.put(self.header)
    flush()
  end
  return self.failed
end

return stream
