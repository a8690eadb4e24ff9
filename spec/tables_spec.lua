-- No entry of a table is lost or added on its way, whatever was done to the table before.

local shell = require "spec.support.shell"

describe("a table whose entries came and went", function()
  -- The order in which Lua gives the entries, and so what can go wrong, depends on the seed of a state's
  -- hashes: each process has its own.
  local PROCESSES, SEEDS = 16, 20

  it("has all of them on the other side, in any process", function()
    for process = 1, PROCESSES do
      local got = shell.run(("%s spec/support/tables.lua %d %d"):format(shell.interpreter,
        process * 1000, SEEDS), { timeout = 120 })
      assert.are.equal("", got.err)
      assert.are.equal(0, got.status)
    end
  end)

  it("has all of them in a task", function()
    local got = shell.run(shell.interpreter .. " -", { stdin = [[
      local mantichora = require "mantichora"
      local pool <close> = mantichora { nworkers = 1 }
      local t = { name = "n", kind = "k", size = 1, color = "c", owner = "o", state = "s" }
      for id = 100, 1, -1 do t[id] = id end
      t[100] = nil
      local function count(list) local n = 0 for _ in pairs(list) do n = n + 1 end return n, list end
      pool:run(count, t)
      local _, n, back = pool:receive_one()
      print(n, (count(back)))
    ]] })
    assert.are.equal("105\t105\n", got.out)
    assert.are.equal("", got.err)
  end)
end)
