-- What `cmake --install` puts under a prefix, and the programs that are built against it.

local shell = require "spec.support.shell"

local build = os.getenv("MANTICHORA_BUILD") or "build"
local folder, prefix

local CONSUMER = [[
#include <lauxlib.h>
#include <lualib.h>
#include <mantichora.h>
#include <stdio.h>

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  int status;
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_pop(L, 1);
  status = argc == 2 ? luaL_dostring(L, argv[1]) : LUA_ERRRUN;
  if (status != LUA_OK)
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
  lua_close(L);
  return status;
}
]]

local CMAKE = [[
cmake_minimum_required(VERSION 3.18)
project(consumer LANGUAGES C)
find_package(mantichora %s REQUIRED)
add_executable(shared main.c)
target_link_libraries(shared PRIVATE mantichora::mantichora)
add_executable(static main.c)
target_link_libraries(static PRIVATE mantichora::static)
]]

local SCRIPT = [[
  local mantichora = require "mantichora"
  local logging = require "mantichora.logging"
  logging.basic_config { stream = io.stdout, format = "%%(message)s" }
  logging.error(mantichora._VERSION)
]]
SCRIPT = SCRIPT:gsub("%%%%", "%%"):gsub("\n", " ")

-- Run a command line that must succeed; its output.
local function must(command, ...)
  local line = command:format(...)
  local got = shell.run(line, { timeout = 240 })
  assert.are.equal(0, got.status, line .. "\n" .. got.out .. got.err)
  return got.out
end

local function version()
  return must("sed -n 's/^project(mantichora VERSION \\([0-9.]*\\).*/\\1/p' CMakeLists.txt"):match("%S+")
end

describe("packaging", function()
  setup(function()
    folder = shell.folder()
    prefix = folder .. "/prefix"
    must("cmake --install %s --prefix %s", build, prefix)
    shell.write(folder .. "/main.c", CONSUMER)
    shell.write(folder .. "/CMakeLists.txt", CMAKE:format(version()))
  end)

  teardown(function()
    shell.remove(folder)
  end)

  it("installs what the contract lists, in its place", function()
    for _, path in ipairs {
      "bin/mantichora", "lib/lua/5.4/mantichora.so", "share/lua/5.4/mantichora/logging.lua",
      "lib/libmantichora.a", "lib/libmantichora.so", "lib/libmantichora.so.0", "include/mantichora.h",
      "lib/pkgconfig/mantichora.pc", "lib/cmake/mantichora/mantichora-config.cmake",
    } do
      must("test -e %s/%s", prefix, path)
    end
  end)

  it("gives stock lua a module that can be required part by part, from anywhere", function()
    local paths = ("LUA_CPATH='%s/lib/lua/5.4/?.so' LUA_PATH='%s/share/lua/5.4/?.lua'"):format(prefix, prefix)
    assert.are.equal("mantichora " .. version() .. "\n",
      must("cd / && %s %s -e '%s'", paths, shell.lua, SCRIPT))
    for _, part in ipairs { "mantichora", "mantichora.logging", "mantichora.atpbar" } do
      assert.are.equal("true\n", must("cd / && %s %s -e 'print(require \"%s\" ~= nil)'", paths, shell.lua, part))
    end
  end)

  it("has the Lua parts inside the module", function()
    local paths = ("LUA_CPATH='%s/lib/lua/5.4/?.so' LUA_PATH=''"):format(prefix)
    for _, part in ipairs { "mantichora.logging", "mantichora.atpbar" } do
      assert.are.equal("true\n", must("cd / && %s %s -e 'print(require \"%s\" ~= nil)'", paths, shell.lua, part))
    end
  end)

  it("has a host that works alone", function()
    must("cp %s/bin/mantichora %s/alone", prefix, folder)
    assert.are.equal("mantichora " .. version() .. "\n",
      must("cd / && LUA_CPATH= LUA_PATH= %s/alone -e '%s'", folder, SCRIPT))
    assert.are.equal("", must("readelf -d %s/alone | grep -i 'r.*path' || true", folder))
    local needed = must("readelf -d %s/alone | sed -n 's/.*(NEEDED).*\\[\\(.*\\)\\]/\\1/p'", folder)
    for library in needed:gmatch("%S+") do
      assert.truthy(library:find("^liblua") or library:find("^libc%.") or library:find("^libm%.")
        or library:find("^libdl") or library:find("^libpthread"), library)
    end
  end)

  it("has a manual page, which knows all options", function()
    local page = prefix .. "/share/man/man1/mantichora.1"
    local got = shell.run("LC_ALL=C groff -ww -mdoc -Tascii -P-cbou " .. page)
    assert.are.equal("", got.err)
    for option in must("%s/bin/mantichora --help", prefix):gmatch("\n  (%-[%w-]*)") do
      assert.truthy(got.out:find(" " .. option, 1, true), option)
    end
    local modes = shell.run(prefix .. "/bin/mantichora --progress x").err:match("must be ([^:]*)")
    for mode in modes:gmatch("%l+") do
      assert.truthy(got.out:find(" " .. mode, 1, true), mode)
    end
    for variable in must("strings %s/bin/mantichora | grep -o 'MANTICHORA_[A-Z_]*' | sort -u", prefix):gmatch("%S+") do
      assert.truthy(variable == "MANTICHORA_CHAOS" or got.out:find(variable, 1, true), variable)
    end
  end)

  it("has a host that can be built without libedit, and is plain then", function()
    must("cc -std=c11 -Wall -Wextra -Wconversion -Werror -DMANTICHORA_VERSION='\"0\"' -Iruntime -Ibindings "
      .. "bindings/history.c bindings/host.c bindings/lineedit.c bindings/repl.c -o %s/plain %s/lib/libmantichora.a "
      .. "$(pkg-config --cflags --libs lua5.4) -pthread", folder, build)
    assert.are.equal("> 42\n> \n", (must("echo '6 * 7' | %s/plain -i", folder):gsub("^[^\n]*\n", "")))
  end)

  it("shows no symbols of what is linked into it", function()
    assert.are.equal("", must("nm -D --defined-only %s/bin/mantichora | grep -E ' (el_|history|tget|strl|MD5)' || true",
      prefix))
  end)

  it("links no Lua into module and library, and exports nothing but ours", function()
    for _, file in ipairs { "lib/lua/5.4/mantichora.so", "lib/libmantichora.so" } do
      local needed = must("readelf -d %s/%s", prefix, file)
      assert.truthy(needed:find("NEEDED"))
      assert.falsy(needed:lower():find("liblua"))
      local symbols = must("nm -D --defined-only %s/%s", prefix, file)
      assert.truthy(symbols:find("luaopen_mantichora\n"))
      for symbol in symbols:gmatch(" (%S+)\n") do
        assert.truthy(symbol:find("^luaopen_mantichora") or symbol:find("^mantichora_"), symbol)
      end
    end
    assert.truthy(must("readelf -d %s/lib/libmantichora.so", prefix):find("soname: [libmantichora.so.0]", 1, true))
  end)

  it("builds programs by pkg-config, shared and static", function()
    local pc = ("PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config"):format(prefix)
    assert.are.equal(version() .. "\n", must("%s --modversion mantichora", pc))
    must("cd %s && cc main.c -o with_pc $(%s --cflags --libs mantichora) -Wl,-rpath,%s/lib", folder, pc, prefix)
    assert.are.equal("mantichora " .. version() .. "\n", must("%s/with_pc '%s'", folder, SCRIPT))
    must("cd %s && cc main.c -o with_a $(%s --cflags mantichora) %s/lib/libmantichora.a $(pkg-config --libs lua5.4)",
      folder, pc, prefix)
    assert.are.equal("mantichora " .. version() .. "\n", must("%s/with_a '%s'", folder, SCRIPT))
  end)

  it("builds programs by find_package, shared and static", function()
    must("cmake -S %s -B %s/b -DCMAKE_PREFIX_PATH=%s && cmake --build %s/b", folder, folder, prefix, folder)
    for _, program in ipairs { "shared", "static" } do
      assert.are.equal("mantichora " .. version() .. "\n", must("%s/b/%s '%s'", folder, program, SCRIPT))
    end
  end)

  it("has a header for C99 and C++", function()
    shell.write(folder .. "/only.c", "#include <mantichora.h>\nint main(void) { return 0; }\n")
    must("cc -std=c99 -pedantic -Wall -Wextra -Werror -I%s/include -fsyntax-only %s/only.c", prefix, folder)
    if shell.run("command -v c++").status == 0 then
      must("c++ -Wall -Wextra -Werror -I%s/include -fsyntax-only -x c++ %s/only.c", prefix, folder)
    end
  end)
end)
