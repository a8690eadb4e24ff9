-- What map and imap are made of: tasks of one function over many items, which are a group of their own.
-- Loaded by pool.lua with the core and with what it has for all ways of receiving.

local core, tools = ...

local error, getmetatable, next, pack, pairs, pcall, select, setmetatable, sort, type, unpack =
  error, getmetatable, next, table.pack, pairs, pcall, select, setmetatable, table.sort, type, table.unpack
local move = table.move

local batch_time <const> = 0.02 -- seconds that the items of a batch shall take together
local most_bytes <const> = 60 << 20 -- of items and results that wait: 64 MiB with what is on its way
local most_kept <const> = 40 << 20 -- of results: if they suddenly turn out large, no further task starts
local longest_pause <const> = 0.02 -- seconds
local told_step <const> = 256 << 10 -- the pool is told of so many bytes more or less
local heavy <const> = 1024 -- bytes: what is smaller is not worth counting
local batch_bytes <const> = 1 << 20 -- results of a batch shall not be more together
local first_items <const> = 4 -- for each worker, until it is known how large their results are

local function smaller(a, b) return a < b and a or b end
local function larger(a, b) return a > b and a or b end

-- Whether an error is that of Ctrl-C or of a task's stop, which nothing may keep back. The latter may have
-- become another value on its way: it shows in the count of stops, which was `stops`.
local function is_stop(problem, stops)
  return core.stops() ~= stops or type(problem) == "string" and problem:find("interrupted!", -12, true) ~= nil
end

-- Where items come from: a function that returns up to `most` of them: a list, the index in it of the first,
-- how many, and whether each is packed; nil when there are none now. The second function is then called with
-- how many of them were taken.

-- One without metamethods is read where it is.
local function plain_list(list, n)
  local at = 1
  return function(_, most)
    local count = smaller(most, n - at + 1)
    if count > 0 then return list, at, count, false end
  end, function(taken) at = at + taken end
end

-- Of another one each item is read once.
local function other_list(list, n)
  local at, had, from, to = 1, nil, 1, 0
  return function(mapping, most)
    if from > to then
      local count = smaller(most, n - at + 1)
      if count <= 0 then return nil end
      local stops = core.stops()
      local fine, read = pcall(move, list, at, at + count - 1, 1, {})
      if not fine then return mapping:break_off(read, stops) end
      had, from, to, at = read, 1, count, at + count
    end
    return had, from, smaller(most, to - from + 1), false
  end, function(taken) from = from + taken end
end

-- An iterator is asked for one item at a time: it may be slow. Its items gather to batches while it is
-- fast, the workers have something to do, and nothing has come that is to be handed over first.
local function iterator(ask)
  local gathered, asking = {}, false
  local function note(mapping, stops, fine, ...)
    asking = false
    if not fine then
      mapping:break_off((...), stops)
    elseif (...) == nil then
      mapping.ended = true
    else
      gathered[#gathered + 1] = pack(...)
    end
  end
  local function give()
    local count = #gathered
    if count > 0 then return gathered, 1, count, true end
  end
  return function(mapping, most)
    if asking then error("the iterator of an imap cannot ask for the values that it leads to", 0) end
    local pool, group, glance = mapping.pool, mapping.group, core.glance
    local there, urgent = glance(pool, group, true)
    local pause
    for _ = #gathered + 1, most do
      if there or mapping.ended then break end
      asking = true
      note(mapping, core.stops(), pcall(ask))
      there, urgent, pause = glance(pool, group)
      if urgent then break end
    end
    -- The step was unexpectedly slow: what had gathered waited for it, and shall not wait for another one.
    mapping.pause = pause and #gathered > 1 and smaller(pause / 10, longest_pause)
    mapping.there = there
    if there and not urgent and mapping.ahead >= mapping.nworkers * mapping.size then return nil end
    return give()
  end, function(taken)
    gathered = move(gathered, taken + 1, #gathered, 1, {})
  end
end

local Mapping = {}
Mapping.__index = Mapping

-- Runs `f` for each item. What comes back is kept by the number of its item: `values` has single values,
-- `packed` (of an imap) what is more than one, or nil, `failures` what failed.
local function new_mapping(pool, f, source, options)
  if options.halt == nil then options.halt = tools.halt(pool) end
  local known = not core.is_callable(source) and core.tointeger(source.n or #source)
  local expected = larger(known or 0, 0)
  local group, call = core.group(pool, expected, options.window and most_kept or 0, options.halt)
  local mapping = setmetatable({
    pool = pool, f = f, options = options, nworkers = tools.nworkers(pool), count_workers = tools.nworkers,
    group = group, size = 1, told = 0,
    values = core.list(options.window and 0 or expected), failures = {}, sum = tools.failures_of.sum(),
    packed = options.window and {} or nil,
    index = 0, -- items that were queued
    ahead = 0, -- of them, those that were not received
    seen = 0, given = 0, -- received; handed over
    index_of = {}, -- by run ID, of tasks that travel alone
    stops = core.stops(),
    problems = {}, -- what the core cannot turn into values
    weights = {}, weight = 0, -- bytes of large results that wait, by number, and together
    item_weights = {}, item_weight = 0, -- of large items that were sent
    result_estimate = 0, item_estimate = 0, -- bytes that the next one may have
  }, Mapping)
  if not known then
    mapping.fetch, mapping.taken = iterator(source)
    mapping.items = {}
  else
    local is_plain = getmetatable(source) == nil
    mapping.fetch, mapping.taken = (is_plain and plain_list or other_list)(source, known)
    -- What a loop over the values does to the list meanwhile changes no failure.
    mapping.items = (options.window or not is_plain) and {} or nil
    mapping.list = source
  end
  mapping.is_iterator, mapping.known = not known, known or 0
  tools.note(pool, call, mapping)
  return mapping
end

-- There are no more items, and `problem` is why: raised when all that came before has been handed over. `stops`
-- is the count of stops before it.
function Mapping:break_off(problem, stops)
  if is_stop(problem, stops) then error(problem, 0) end
  self.ended, self.problem = true, { problem }
end

-- -- Sending -----------------------------------------------------------------------------------

-- Batches grow while their items are short and small, and shrink when they turn out otherwise.
function Mapping:adapt()
  if next(self.index_of) ~= nil then return end
  local pace = core.pace(self.pool, self.group)
  local fitting = pace and batch_time / pace or self.size
  local size = smaller(2 * self.size, smaller(fitting // 1, self.options.most_in_batch))
  self.size = larger(1, smaller(size, batch_bytes // (self.result_estimate + self.item_estimate + 1)))
end

-- How many more items may be had now. An imap looks only so far ahead, in items and in bytes.
function Mapping:room()
  self.nworkers = self.count_workers(self.pool) -- it may have been resized
  local nworkers, window = self.nworkers, self.options.window
  local room = nworkers * larger(32, self.options.batches * self.size) - self.ahead
  if not window then return room end
  local waiting = self.index - self.given
  if self.seen < nworkers then window = smaller(first_items, window) end
  room = smaller(room, window * nworkers - waiting)
  local left = most_bytes - self.weight - self.item_weight - self.ahead * self.result_estimate
  room = smaller(room, left // (self.result_estimate + self.item_estimate + 1))
  return larger(room, nworkers - waiting)
end

-- So many more were sent, from list[from] on.
function Mapping:note(list, from, count, packed, bytes)
  local index = self.index
  if self.items and not packed then
    move(list, from, from + count - 1, index + 1, self.items)
  elseif self.items then
    for i = 0, count - 1 do self.items[index + 1 + i] = list[from + i][1] end
  end
  local each = bytes // count
  if each >= heavy then
    for at = index + 1, index + count do self.item_weights[at] = each end
    self.item_weight = self.item_weight + count * each
  end
  self.item_estimate = larger(each, self.item_estimate * 15 // 16)
  self.index, self.ahead = index + count, self.ahead + count
  self.taken(count)
end

-- The next item cannot be sent.
function Mapping:refuse(problem)
  if type(problem) == "string" then problem = ("%s (item %d)"):format(problem, self.index + 1) end
  self:break_off(problem, self.stops)
  self.refused = true
end

-- What a function of the user makes of the next item, as an option of its own. False: there is none, for a reason
-- that ends the mapping.
function Mapping:find_option(name, item, check)
  local options, stops = self.options, core.stops()
  local fine, value = pcall(options[name .. "_of"], item, self.index + 1)
  if not fine then
    self:break_off(value, stops)
    self.refused, self.is_foreign = true, true
    return false
  end
  local good, message = check(name, value)
  if message then
    self:refuse(message)
    return false
  end
  options[name] = good
  return true
end

local function check_key(_, key)
  if type(key) == "string" or type(key) == "number" then return key end
  return nil, ("the key of an item must be a string or a number: %s is given"):format(core.typename(key))
end

function Mapping:find_options(item, packed)
  local options = self.options
  if packed then item = item[1] end
  return (not options.key_of or self:find_option("key", item, check_key))
    and (not options.inputs_of or self:find_option("inputs", item, tools.check_paths))
    and (not options.outputs_of or self:find_option("outputs", item, tools.check_paths))
end

function Mapping:send_one(list, from, packed)
  local item, options, runid, bytes = list[from], self.options
  if not self:find_options(item, packed) then return end
  if packed then
    runid, bytes = core.run_in(self.pool, self.group, options, self.f, unpack(item, 1, item.n))
  else
    runid, bytes = core.run_in(self.pool, self.group, options, self.f, item)
  end
  if not runid then return self:refuse(bytes) end
  self.index_of[runid] = self.index + 1
  self:note(list, from, 1, packed, bytes)
end

function Mapping:send(list, from, count, packed)
  if self.options.alone then return self:send_one(list, from, packed) end
  local queued, first, bytes = core.run_batch(self.pool, self.group, self.options.priority, self.f, list, from,
    count, packed, self.index + 1)
  if queued then
    self:note(list, from, queued, packed, bytes)
  elseif queued == false then
    self:refuse(first) -- why
  else
    self:send_one(list, from, packed)
  end
end

-- Keep the workers busy as far as there is room; true when something has come that is to be handed over
-- before an iterator is asked again.
function Mapping:feed()
  if self.refused then return false end
  if self.failed and not tools.keeps(self.pool) and (self.options.window or self.sum.cause) then
    return false -- what follows is for nobody, or would not start
  end
  self:adapt()
  self.there = false
  repeat
    local room, size = self:room(), self.size
    if room < 1 or room < size and self.ahead > 0 then break end -- whole batches: a small one costs as much
    local list, from, count, packed = self.fetch(self, smaller(size, room))
    if not list then break end
    self:send(list, from, count, packed)
    if self.pause then
      local pause = self.pause
      self.pause = nil
      core.wait(self.pool, "all", nil, pause, self.group)
      return true
    end
  until self.there or self.refused
  return self.there
end

-- -- Receiving ---------------------------------------------------------------------------------

-- The item at `at` is not needed any more: it has ended.
function Mapping:drop_item(at)
  local weight = self.item_weights[at]
  if weight then
    self.item_weights[at], self.item_weight = nil, self.item_weight - weight
  end
end

-- So many more bytes of results wait here.
function Mapping:add_weight(bytes, taken)
  self.weight = self.weight + bytes
  local more = self.weight - self.told
  if taken >= told_step or more > told_step or more < -told_step then
    self.told = self.weight
    core.keep(self.pool, self.group, self.weight)
  end
end

function Mapping:weigh(at, bytes)
  self.result_estimate = larger(bytes, self.result_estimate * 15 // 16)
  if bytes >= heavy and self.packed then
    self.weights[at] = bytes
    self:add_weight(bytes, bytes)
  end
end

-- The item at `at`, which has not been received.
function Mapping:item(at) return (self.items or self.list)[at] end

function Mapping:fail(at, failure)
  failure.index, failure.item = at, self:item(at)
  if failure.cause then failure.cause.item = failure.cause.item or self:item(failure.cause.index) end
  self.failed = true
  if not tools.keeps(self.pool) then self.sum:add(failure) end
  self.failures[at] = self.options.window == nil and failure.cause and not tools.keeps(self.pool) and true or failure
  if self.items then self.items[at] = nil end
end

function Mapping:keep(runid, failed, ...)
  if runid == nil then return false end
  local at = self.index_of[runid] or (...).index
  self.index_of[runid] = nil
  self.ahead, self.seen = self.ahead - 1, self.seen + 1
  self:weigh(at, core.weight(self.pool))
  self:drop_item(at)
  if failed then
    self:fail(at, (...))
    return true
  end
  if self.items then self.items[at] = nil end
  if self.packed and (select("#", ...) ~= 1 or (...) == nil) then
    self.packed[at] = pack(...)
  else
    self.values[at] = (...)
  end
  return true
end

function Mapping:keep_batch(taken, first, last, bytes, largest, all)
  self.ahead, self.seen = self.ahead - taken, self.seen + taken
  if bytes > 0 or all >= told_step then self:add_weight(bytes, all) end
  self.result_estimate = larger(largest, self.result_estimate * 15 // 16)
  if self.item_weight > 0 then
    for at = first, last do self:drop_item(at) end
  end
  local problems = self.problems
  for i = 1, #problems do
    local raw = problems[i]
    problems[i] = nil
    self:fail(raw.index, tools.new_failure(self.pool, raw))
  end
end

-- Keep something that has ended; false when there is nothing now.
function Mapping:collect_one()
  local taken, first, last, bytes, largest, all = core.take_batch(self.pool, self.group, self.values, self.packed,
    self.problems, self.items, self.packed and self.weights)
  if not taken then return self:keep(tools.take(self.pool, self.group)) end
  self:keep_batch(taken, first, last, bytes, largest, all)
  return true
end

function Mapping:collect()
  local some = false
  while self:collect_one() do some = true end
  return some
end

-- Keep something more; false when all has come. What is there goes before an iterator is asked.
function Mapping:advance()
  local some = self:collect()
  if some and self.is_iterator then return true end
  if self:feed() or some then return true end
  if self.ahead == 0 then return false end
  local patient = not self.options.window
  if self.weight > 0 then core.want(self.pool, self.group, true) end
  core.wait(self.pool, patient and "many" or "one", smaller(self.ahead, self.size), nil, self.group)
  if self.weight > 0 then core.want(self.pool, self.group, false) end
  self:collect()
  if not self.is_iterator then self:feed() end -- before the caller is busy with what has come
  return true
end

-- -- map ---------------------------------------------------------------------------------------

local map = {}

-- All values, in order, with `n`; or false and why not.
function map.all(pool, f, list, options)
  local mapping = new_mapping(pool, f, list, options)
  local _ <close> = mapping.group
  while not mapping.problem and mapping:advance() do end
  if mapping.problem then return false, mapping.problem[1], mapping.is_foreign end
  if mapping.failed and tools.keeps(pool) then
    for at, failure in pairs(mapping.failures) do mapping.values[at] = failure end
  elseif mapping.failed then
    mapping.sum.cancelled = mapping.sum.cancelled + larger(mapping.known - mapping.index, 0)
    error(mapping.sum:as_one(mapping.values), 0)
  end
  mapping.values.n = mapping.index
  return mapping.values
end

-- -- imap --------------------------------------------------------------------------------------

-- Give what the mapping has for the item at `at`, which it keeps no longer.
function Mapping:give(at)
  local value, weight = self.values[at], self.weight > 0 and self.weights[at]
  self.given = self.given + 1
  if weight then
    self.weights[at] = nil
    self:add_weight(-weight, 0)
  end
  if value ~= nil then
    self.values[at] = nil
    return at, value
  end
  local failure, packed = self.failures[at], self.packed[at]
  self.failures[at], self.packed[at] = nil, nil
  if failure and not tools.keeps(self.pool) then
    core.abandon(self.group)
    error(self.sum.cause and self.sum:as_one() or failure, 0)
  end
  if failure and tools.failures_of.is_cause(failure) then core.go_on(self.pool, self.group, failure.runid) end
  if packed then return at, unpack(packed, 1, packed.n) end
  return at, failure
end

function Mapping:has(at)
  return self.values[at] ~= nil or self.packed[at] or self.failures[at]
end

local function in_order(mapping)
  local turn = 0
  return function()
    while not mapping:has(turn + 1) do
      if not mapping:advance() then return nil end
    end
    turn = turn + 1
    return mapping:give(turn)
  end
end

-- What comes first goes first; of what comes together, the earlier items.
local function as_they_end(mapping)
  local ready, next_ready = {}, 1
  local function gather()
    ready, next_ready = {}, 1
    for _, kept in pairs { mapping.values, mapping.packed, mapping.failures } do
      for at in pairs(kept) do ready[#ready + 1] = at end
    end
    sort(ready)
  end
  return function()
    while not ready[next_ready] do
      if not mapping:advance() then return nil end
      gather()
    end
    next_ready = next_ready + 1
    return mapping:give(ready[next_ready - 1])
  end
end

-- An iterator over number and values, and the group to close.
function map.iterate(pool, f, source, options)
  local mapping = new_mapping(pool, f, source, options)
  local step = (options.ordered and in_order or as_they_end)(mapping)
  local function checked(at, ...)
    if at == nil and mapping.problem then
      core.abandon(mapping.group)
      error(mapping.problem[1], mapping.refused and not mapping.is_foreign and 2 or 0)
    end
    return at, ...
  end
  return function() return checked(step()) end, mapping.group -- a tail call: the error is at the loop
end

return map
