-- Events of busted on their way from the worker that runs a file to the parent, whose output handler
-- hears them. Elements (describe, it, ...) get numbers; the parent makes stand-ins for those it does not have.

local replay = {}

-- Stands for what only the worker can have: functions, userdata, threads.
local function stub() end

-- A value without what cannot be sent. Metatables stay behind: handlers print data.
local function plain(value, seen)
  local kind = type(value)
  if kind == "function" or kind == "userdata" or kind == "thread" then return stub end
  if kind ~= "table" then return value end
  if seen[value] then return seen[value] end
  local copy = {}
  seen[value] = copy
  for k, v in next, value do copy[plain(k, seen)] = plain(v, seen) end
  return copy
end

local function is_scalar(value)
  local kind = type(value)
  return kind == "string" or kind == "number" or kind == "boolean"
end

-- What handlers look at beyond names and numbers.
local data_fields = { trace = true, attributes = true, message = true }

--- In the worker: a function that turns the arguments of an event into what can be sent: the changes of
-- elements, and the arguments. `file` is the element of the file that runs.
function replay.recorder(busted, root, file)
  local context = busted.context
  local ids, sent, count = { [root] = 0, [file] = 1 }, {}, 1
  for i, child in ipairs(context.children(root)) do
    if child ~= file then ids[child] = -i end
  end

  -- The lists of an element's children by descriptor, as handlers copy them.
  local refer
  local function child_list(list, changes)
    local numbers = {}
    for i, child in ipairs(list) do
      if type(child) ~= "table" or not context.parent(child) then return nil end
      numbers[i] = refer(child, changes)
    end
    return { list = numbers }
  end

  -- The number of an element. What is new about it and those around it goes into `changes`.
  function refer(element, changes, deep)
    local parent = context.parent(element)
    local parent_id = parent and refer(parent, changes)
    local fresh = not ids[element]
    if fresh then
      count = count + 1
      ids[element] = count
    end
    local before = sent[element] or {}
    sent[element] = before
    local id, fields, lists = ids[element], {}, {}
    for k, v in next, element do
      if is_scalar(v) or type(k) == "string" and data_fields[k] then
        if before[k] ~= v then
          before[k] = v
          fields[k] = plain(v, {})
        end
      elseif fresh and type(v) == "function" then
        fields[k] = stub
      end
    end
    if fresh or next(fields) ~= nil then
      changes[#changes + 1] = { id = id, parent = fresh and parent_id or nil, fields = fields }
    end
    if deep then
      for k, v in next, element do
        if type(v) == "table" and not data_fields[k] and k ~= "env" and k ~= "run" then
          lists[k] = child_list(v, changes)
        end
      end
      changes[#changes + 1] = { id = id, fields = {}, lists = lists }
    end
    return id
  end

  return function(channel, ...)
    local changes, arguments = {}, { n = select("#", ...), ... }
    local deep = channel[1] == "error" or channel[1] == "failure"
    for i = 1, arguments.n do
      local value = arguments[i]
      if type(value) == "table" and (ids[value] or context.parent(value)) then
        local leaf = value.descriptor == "it" or value.descriptor == "pending"
        arguments[i] = { id = refer(value, changes, deep and i == 1 and not leaf) }
      else
        arguments[i] = { value = plain(value, {}) }
      end
    end
    return changes, arguments
  end
end

--- In the parent: the elements of one file's run. Its `publish(channel, changes, arguments)` does here what
-- was done there, and `abort(message)` ends what a worker that is gone has left open.
function replay.player(busted, root, file)
  local context = busted.context
  local elements = { [0] = root, [1] = file }
  for i, child in ipairs(context.children(root)) do elements[-i] = child end
  local open, player = {}, {}

  local function attach(element, parent)
    if not parent or parent == root then return end
    context.push(parent)
    context.attach(element)
    context.pop()
  end

  local function change(what)
    local element = elements[what.id]
    if not element then
      element = {}
      elements[what.id] = element
      attach(element, elements[what.parent])
    end
    for k, v in next, what.fields do element[k] = v end
    for k, numbers in next, what.lists or {} do
      local list = {}
      for i, id in ipairs(numbers.list) do list[i] = elements[id] end
      element[k] = list
    end
  end

  -- As busted itself publishes: with the element as the context, and errors of handlers told.
  local function publish(channel, element, arguments)
    local function go() busted.publish(channel, table.unpack(arguments, 1, arguments.n)) end
    if type(element) ~= "table" or not context.parent(element) then return go() end
    local descriptor = channel[1] == "test" and element.descriptor ~= "pending" and "test" or element.descriptor
    busted.safe(descriptor, go, element)
  end

  -- What has begun and not ended, the innermost last.
  local function follow(channel, element)
    if channel[2] == "start" then
      open[#open + 1] = { channel = channel[1], element = element }
    elseif channel[2] == "end" and open[#open] and open[#open].element == element then
      open[#open] = nil
    end
  end

  function player.publish(channel, changes, arguments)
    for _, what in ipairs(changes) do change(what) end
    local values = { n = arguments.n }
    for i = 1, arguments.n do
      local argument = arguments[i]
      if argument.id then values[i] = elements[argument.id] else values[i] = argument.value end
    end
    follow(channel, values[1])
    publish(channel, values[1], values)
  end

  local function finish(element, channel, status)
    element.endtick, element.endtime = busted.monotime(), busted.gettime()
    element.duration = element.starttick and element.endtick - element.starttick or 0
    local parent = context.parent(element)
    if channel == "file" then return publish({ channel, "end" }, element, { n = 1, element }) end
    publish({ channel, "end" }, element, { n = 3, element, parent, status })
  end

  function player.abort(message)
    local last = open[#open]
    local element = last and last.element
    if not element or element == file then
      -- As busted tells of a file that does not load: handlers copy the element, and a file's own holds functions.
      element = { descriptor = "file", name = file.name }
    end
    local trace = element.trace
      or { short_src = file.name, source = "@" .. file.name, currentline = 1, what = "main", traceback = "" }
    local descriptor = last and last.channel == "test" and "it" or element.descriptor
    publish({ "error", descriptor }, element, { n = 4, element, context.parent(element), message, trace })
    while open[1] do
      local ending = table.remove(open)
      finish(ending.element, ending.channel, ending.channel == "test" and "error" or nil)
    end
  end

  return player
end

return replay
