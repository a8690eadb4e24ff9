-- The rock of a release: whoever uploads it names the place of its archive in `source.url`.
rockspec_format = "3.0"
package = "mantichora"
version = "0.2.0-1"
source = { url = "mantichora-0.2.0.tar.gz", dir = "mantichora-0.2.0" }
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
