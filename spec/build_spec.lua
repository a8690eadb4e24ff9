-- What the options of the build promise. Configured and installed in folders of their own.

local shell = require "spec.support.shell"

local function must(command, ...)
  local line = command:format(...)
  local got = shell.run(line, { timeout = 240 })
  assert.are.equal(0, got.status, line .. "\n" .. got.out .. got.err)
  return got.out
end

local PARENT = [[
cmake_minimum_required(VERSION 3.18)
project(parent LANGUAGES C)
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_EXTENSIONS OFF)
add_subdirectory(%s mantichora)
add_executable(program main.c)
target_link_libraries(program PRIVATE mantichora::static)
]]

local MAIN = [[
#include <mantichora.h>
#include <lauxlib.h>
#include <lualib.h>
int main(void) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 1);
  return luaL_dostring(L, "local p <close> = mantichora() p:run(math.abs, -3) print(p:returns()[1])");
}
]]

describe("the build", function()
  local folder, root

  setup(function()
    folder = shell.folder()
    root = must("pwd"):match("[^\n]+")
  end)

  teardown(function()
    shell.remove(folder)
  end)

  local function targets(options)
    must("cmake -S . -B %s/b %s", folder, options)
    local list = must("cmake --build %s/b --target help", folder)
    must("rm -rf %s/b", folder)
    return list
  end

  it("has tests only if they are asked for and BUILD_TESTING is not off", function()
    assert.falsy(targets(""):find("test_codec", 1, true))
    assert.truthy(targets("-DMANTICHORA_TESTS=ON"):find("test_codec", 1, true))
    assert.falsy(targets("-DMANTICHORA_TESTS=ON -DBUILD_TESTING=OFF"):find("test_codec", 1, true))
  end)

  it("never fails by a warning unless that is asked for", function()
    must("cmake -S . -B %s/b -DCMAKE_EXPORT_COMPILE_COMMANDS=ON", folder)
    assert.are.equal("0\n", must("grep -c -e -Werror %s/b/compile_commands.json || true", folder))
    must("rm -rf %s/b", folder)
  end)

  it("refuses a Lua that it does not know", function()
    local got = shell.run(("cmake -S . -B %s/b -DMANTICHORA_LUA_VERSION=5.3"):format(folder))
    assert.are_not.equal(0, got.status)
    assert.truthy(got.err:find("5.4 and 5.5", 1, true), got.err)
    must("rm -rf %s/b && mkdir %s/lua", folder, folder)
    shell.write(folder .. "/lua/lua.h", '#define LUA_VERSION_MAJOR_N 5\n#define LUA_VERSION_MINOR_N 6\n')
    got = shell.run(("cmake -S . -B %s/b -DMANTICHORA_LUA_INCLUDE_DIRS=%s/lua"):format(folder, folder))
    assert.are_not.equal(0, got.status)
    assert.truthy(got.err:find("5.6", 1, true), got.err)
    must("rm -rf %s/b", folder)
  end)

  it("names by its place a Lua of which pkg-config knows nothing, and by name any other", function()
    must("mkdir '%s/a lua'", folder)
    shell.write(folder .. "/a lua/lua.h", '#define LUA_VERSION_MAJOR "5"\n#define LUA_VERSION_MINOR "4"\n')
    must("cmake -S . -B %s/b '-DMANTICHORA_LUA_INCLUDE_DIRS=%s/a lua' '-DMANTICHORA_LUA_LIBRARIES=%s/a lua/liblua.a;m'",
      folder, folder, folder)
    local given = ("PKG_CONFIG_PATH=%s/b pkg-config "):format(folder)
    assert.is_nil(must(given .. "--print-requires mantichora"):find("%S"))
    assert.truthy(must(given .. "--cflags mantichora"):find((" -I%s/a\\ lua"):format(folder), 1, true))
    assert.truthy(must(given .. "--libs mantichora"):find((" %s/a\\ lua/liblua.a -lm"):format(folder), 1, true))
    must("rm -rf %s/b", folder)
    local found = must("grep ^Requires %s/mantichora.pc", os.getenv("MANTICHORA_BUILD") or "build"):match("%S+ (%S+)")
    assert.truthy(found:find("lua", 1, true), found)
  end)

  it("is part of a C11 program's, which gets Lua with it", function()
    shell.write(folder .. "/CMakeLists.txt", PARENT:format(root))
    shell.write(folder .. "/main.c", MAIN)
    must("cmake -S %s -B %s/b -DCMAKE_BUILD_TYPE=Debug && cmake --build %s/b -j2 --target program", folder, folder,
      folder)
    assert.are.equal("3\n", must("%s/b/program", folder))
  end)

  it("takes away what was installed last, and nothing else", function()
    must("mkdir %s/share && touch %s/share/mine", folder, folder)
    must("cmake -D MANIFEST=%s/none -P runtime/uninstall.cmake || true", folder)
    must("cp -r %s/share %s/p", folder, folder)
    must("mkdir -p %s/p/lib/cmake/mantichora %s/p/share/mantichora && touch %s/p/lib/cmake/mantichora/a.cmake "
      .. "%s/p/share/mantichora/kept", folder, folder, folder, folder)
    shell.write(folder .. "/manifest", folder .. "/p/lib/cmake/mantichora/a.cmake\n" .. folder .. "/p/gone\n")
    must("cmake -D MANIFEST=%s/manifest -P runtime/uninstall.cmake", folder)
    assert.are.equal(("%s/p/mine\n%s/p/share/mantichora/kept\n"):format(folder, folder),
      must("find %s/p -type f | sort", folder))
    assert.are_not.equal(0, shell.run(("test -e %s/p/lib/cmake/mantichora"):format(folder)).status)
    assert.are.equal(0, shell.run(("test -d %s/p/lib/cmake"):format(folder)).status)
  end)
end)
