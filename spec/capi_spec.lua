-- The C API as a C++ program sees it; what it does is tested by spec/c/test_capi.c.

local shell = require "spec.support.shell"

local build = os.getenv("MANTICHORA_BUILD") or "build"
local COMPILE = "c++ -std=c++11 -pedantic -Wall -Wextra -Wshadow -Werror -Iruntime spec/c/embedding.cc "
  .. "$(pkg-config --cflags --libs lua5.4) -pthread "

describe("the C API in C++", function()
  local folder

  setup(function()
    folder = shell.folder()
  end)

  teardown(function()
    shell.remove(folder)
  end)

  for _, library in ipairs { "libmantichora.a", "libmantichora.so" } do
    it("serves a loop that sleeps, with " .. library, function()
      local program = folder .. "/embedding"
      -- The flags again: a static library takes Lua from what stands behind it.
      local got = shell.run(("%s %s/lib/%s $(pkg-config --libs lua5.4) -Wl,-rpath,$PWD/%s/lib -o %s"):format(
        COMPILE, build, library, build, program), { timeout = 120 })
      assert.are.equal("", got.out .. got.err)
      got = shell.run(program)
      assert.are.equal("", got.err)
      assert.are.equal("4 waiting, 4 logs, 4 starts, 4 ends, 2 dropped\n", got.out)
      assert.are.equal(0, got.status)
    end)
  end
end)
