-- Pools in event loops of others: cqueues and libuv (luv), as they come with Debian. Each test is a
-- program of its own that sleeps in its loop and counts how often it wakes: a loop that spins is
-- seen by that number, not by the time it takes.

local shell = require "spec.support.shell"

-- What a program needs of a loop: watch(pool, ready) calls `ready` when there may be something to do,
-- until stop(); run() returns when all was stopped. `wakes` counts.
local loops = {
  cqueues = [[
    local cqueues = require "cqueues"
    local loop, stopped, wakes = cqueues.new(), false, 0
    local ended = require "cqueues.condition".new()
    local function watch(pool, ready)
      loop:wrap(function()
        while not stopped do
          wakes = wakes + 1
          pool:poll()
          ready(pool)
          if not stopped then cqueues.poll(pool, ended) end
        end
      end)
    end
    local function stop()
      stopped = true
      ended:signal()
    end
    local function run() assert(loop:loop()) end
  ]],
  luv = [[
    local uv = require "luv"
    local closing, wakes = {}, 0
    local function watch(pool, ready)
      local handle, timer = uv.new_poll(pool:pollfd()), uv.new_timer()
      local function step()
        wakes = wakes + 1
        pool:poll()
        ready(pool)
        if handle:is_closing() then return end
        local seconds = pool:timeout()
        if seconds then timer:start(math.ceil(seconds * 1000), 0, step) else timer:stop() end
      end
      handle:start("r", step)
      local start = uv.new_timer() -- so that `ready` is called inside the loop only
      start:start(0, 0, function() start:close() step() end)
      closing[#closing + 1] = function() handle:close() timer:close() end
    end
    local function stop() for _, close in ipairs(closing) do close() end end
    local function run() uv.run() end
  ]],
}

local PRELUDE = [[
  local mantichora = require "mantichora"
  local background = ...
  background = background == "true"
  local function new(options)
    options.background, options.progressbar = background, false
    return mantichora(options)
  end
]]

-- Run a program in a loop; its last line of output and the number of wakes.
local function run(name, background, program)
  local file = os.tmpname()
  shell.write(file, PRELUDE .. loops[name] .. program .. " print('wakes', wakes)")
  local got = shell.run(("%s %s %s"):format(shell.interpreter, file, background), { timeout = 60 })
  os.remove(file)
  assert.are.equal(0, got.status, got.out .. got.err)
  local wakes = tonumber(got.out:match("wakes\t(%d+)\n$"))
  return got.out:gsub("wakes\t%d+\n$", ""), wakes
end

for name in pairs(loops) do
  for _, background in ipairs { "true", "false" } do
    describe(("a pool in a %s loop, background = %s,"):format(name, background), function()
      it("delivers results, and the loop sleeps between them", function()
        local out, wakes = run(name, background, [[
          local pool <close> = new { nworkers = 2 }
          local sum, count = 0, 0
          for i = 1, 12 do pool:run(function() mantichora.sleep(0.03) return i end) end
          watch(pool, function()
            for _, entry in ipairs(pool:receive_finished()) do
              sum, count = sum + entry[2], count + 1
            end
            if count == 12 then stop() end
          end)
          run()
          print(sum)
        ]])
        assert.are.equal("78\n", out)
        assert.is_true(wakes < 120, "woke " .. wakes .. " times")
      end)

      it("serves several pools, and tasks that come from the loop", function()
        local out, wakes = run(name, background, [[
          local pools, sum, count = {}, 0, 0
          local function ready(pool)
            for _, entry in ipairs(pool:receive_finished()) do
              sum, count = sum + entry[2], count + 1
              if entry[2] < 5 then pool:run(function(n) mantichora.sleep(0.01) return n + 1 end, entry[2]) end
            end
            if count == 15 then stop() end
          end
          for i = 1, 3 do
            pools[i] = new { nworkers = i }
            pools[i]:run(function() return 1 end)
            watch(pools[i], ready)
          end
          run()
          for i = 1, 3 do pools[i]:close() end
          print(sum)
        ]])
        assert.are.equal("45\n", out)
        assert.is_true(wakes < 200, "woke " .. wakes .. " times")
      end)

      it("ends a task whose time is over while the loop sleeps", function()
        local out, wakes = run(name, background, [[
          local pool <close> = new { nworkers = 1, on_error = "return" }
          pool:run_with({ timeout = 0.3 }, function() while true do end end)
          pool:run_with({ timeout = 0.3 }, function() while true do pcall(function() while true do end end) end end)
          local kinds = {}
          watch(pool, function()
            for _, entry in ipairs(pool:receive_finished()) do kinds[#kinds + 1] = entry[2].kind end
            if #kinds == 2 then stop() end
          end)
          run()
          print(table.concat(kinds, " "))
        ]])
        assert.are.equal("timeout timeout\n", out)
        assert.is_true(wakes < 60, "woke " .. wakes .. " times")
      end)

      it("tells of a worker that dies, and goes on with another", function()
        local out, wakes = run(name, background, [[
          local pool <close> = new { nworkers = 1, on_error = "return" }
          pool:run(function() os.execute("kill -9 $PPID") mantichora.sleep(20) end)
          pool:run(function() return "alive" end)
          local ends = {}
          watch(pool, function()
            for _, entry in ipairs(pool:receive_finished()) do
              ends[#ends + 1] = type(entry[2]) == "table" and entry[2].kind or entry[2]
            end
            if #ends == 2 then stop() end
          end)
          run()
          print(table.concat(ends, " "))
        ]])
        assert.are.equal("killed alive\n", out)
        assert.is_true(wakes < 60, "woke " .. wakes .. " times")
      end)

      it("hands log records over while their task still runs", function()
        local out, wakes = run(name, background, [[
          local logging = require "mantichora.logging"
          local pool <close> = new { nworkers = 1 }
          logging.basic_config { stream = function(line)
            print(line)
            stop()
          end }
          pool:run(function()
            logging.warning("early")
            mantichora.sleep(30)
          end)
          watch(pool, function() end)
          run()
          print(#pool:receive_finished())
          pool:terminate()
        ]])
        assert.are.equal("WARNING:root:early\n0\n", out)
        assert.is_true(wakes < 60, "woke " .. wakes .. " times")
      end)

      it("takes crowds of small tasks", function()
        local out = run(name, background, [[
          local pool <close> = new { nworkers = 2 }
          local sum, count = 0, 0
          for i = 1, 3000 do pool:run(function() return i end) end
          watch(pool, function()
            for _, entry in ipairs(pool:receive_finished()) do
              sum, count = sum + entry[2], count + 1
            end
            if count == 3000 then stop() end
          end)
          run()
          print(sum)
        ]])
        assert.are.equal("4501500\n", out)
      end)
    end)
  end
end
