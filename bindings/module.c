/* Runs in: both.
 *
 * luaopen_mantichora and the openers of its parts: registration and nothing else. */
#include "context.h"
#include "part.h"
#include "bindings/pool/lpool.h"
#include "bindings/pool/ltrace.h"
#include "bindings/show/lreport.h"
#include "bindings/pool/ltask.h"
#include "runtime/mantichora.h"

#include <lauxlib.h>
#include <string.h>
#include <lua.h>
#include <lualib.h>

/* What our parts in Lua cannot do without. A program may have opened as little as it likes. */
static void check_libraries(lua_State *L) {
  static const char *const needed[] = {"pairs", LUA_STRLIBNAME, LUA_TABLIBNAME};
  size_t i;
  for (i = 0; i < sizeof needed / sizeof needed[0]; i++) {
    if (lua_getglobal(L, needed[i]) == LUA_TNIL)
      luaL_error(
          L,
          "mantichora needs Lua's basic library, string and table, but '%s' is missing: open "
          "them first (luaL_openlibs opens all)",
          needed[i]);
    lua_pop(L, 1);
  }
}

/* Leave the module on top where those that are loaded stand: a state may have no `require`. */
static void set_loaded(lua_State *L, const char *name) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, name);
  lua_pop(L, 1);
}

/* Let `require` find the part inside, unless somebody has already said where it is. */
static void preload(lua_State *L, const char *name, lua_CFunction opener) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  if (lua_getfield(L, -1, name) == LUA_TNIL) {
    lua_pushcfunction(L, opener);
    lua_setfield(L, -3, name);
  }
  lua_settop(L, 0);
}

int luaopen_mantichora_logging(lua_State *L) {
  lua_settop(L, 0);
  check_libraries(L);
  preload(L, "mantichora.report", luaopen_mantichora_report);
  mch_part_push(L, "mantichora.logging");
  lua_pushliteral(L, "mantichora.logging");
  luaL_requiref(L, "mantichora.report", luaopen_mantichora_report, 0);
  lua_call(L, 2, 1);
  set_loaded(L, "mantichora.logging");
  return 1;
}

/* The Lua half of the pool, given its C half. */
static void push_module(lua_State *L) {
  mch_part_push(L, "mantichora.pool");
  lua_pushliteral(L, "mantichora");
  mch_lpool_open(L);
  lua_call(L, 2, 1);
}

/* Whether a program in C gave this state the library: by luaL_requiref() (one argument), in
 * package.preload, or by a plain call. `require` tells a loader the file that it has found. */
static int is_given(lua_State *L) {
  lua_Debug caller;
  if (lua_gettop(L) > 1)
    return lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), ":preload:") == 0;
  return lua_gettop(L) == 1 || !lua_getstack(L, 1, &caller) || !lua_getinfo(L, "S", &caller) ||
         strcmp(caller.what, "C") == 0;
}

int luaopen_mantichora(lua_State *L) {
  if (is_given(L))
    mch_context_get(L)->embedded = 1;
  lua_settop(L, 0);
  check_libraries(L);
  preload(L, "mantichora.atpbar", luaopen_mantichora_atpbar);
  preload(L, "mantichora.logging", luaopen_mantichora_logging);
  preload(L, "mantichora.report", luaopen_mantichora_report);
  mch_ltask_open(L);
  push_module(L);
  lua_pushliteral(L, "mantichora " MANTICHORA_VERSION);
  lua_setfield(L, -2, "_VERSION");
  set_loaded(L, "mantichora");
  mch_ltrace_open(L, NULL, NULL);
  return 1;
}
