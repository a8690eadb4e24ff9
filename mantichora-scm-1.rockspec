-- `luarocks --lua-version 5.4 make` builds and installs the module from this tree, without a network.
rockspec_format = "3.0"
package = "mantichora"
version = "scm-1"
source = { url = "file://." } -- of the tree at hand: whoever uploads a rock names its place here
description = {
  summary = "Runs Lua functions concurrently in background processes",
  detailed = [[
    Lua closures go to a pool of forked workers, with their upvalues, and their return values come
    back in the order in which the functions were given. Progress bars, log records and the output
    of tasks come out of the parent, whole and in order.]],
  license = "BSD-3-Clause",
}
supported_platforms = { "unix" }
dependencies = { "lua >= 5.4, < 5.6" }
build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "RelWithDebInfo",
    MANTICHORA_MODULE_ONLY = "ON",
    MANTICHORA_LUA_INCLUDE_DIRS = "$(LUA_INCDIR)",
    MANTICHORA_LUA_CMOD_DIR = "$(LIBDIR)",
    MANTICHORA_LUA_LMOD_DIR = "$(LUADIR)",
  },
}
