/* Runs in: both.
 *
 * luaopen_mantichora and the openers of its parts: registration and nothing else. */
#include "context.h"
#include "embedded.h"
#include "lpool.h"
#include "lreport.h"
#include "ltask.h"
#include "mantichora.h"

#include <lauxlib.h>
#include <string.h>
#include <lua.h>

/* Run the embedded part whose name is the first argument; its values are the module's. */
static int open_embedded(lua_State *L, const char *name) {
  const struct mch_embedded *part = mch_embedded_find(name);
  if (part == NULL)
    return luaL_error(L, "%s is not part of this build", name);
  if (luaL_loadbufferx(L, (const char *)part->bytes, part->length, part->chunkname, "t") != LUA_OK)
    return lua_error(L);
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
  return 1;
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
  preload(L, "mantichora.report", luaopen_mantichora_report);
  return open_embedded(L, "mantichora.logging");
}

/* The Lua half of the pool, given its C half. */
static void push_module(lua_State *L) {
  const struct mch_embedded *part = mch_embedded_find("mantichora.pool");
  if (luaL_loadbufferx(L, (const char *)part->bytes, part->length, part->chunkname, "t") != LUA_OK)
    lua_error(L);
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
  preload(L, "mantichora.atpbar", luaopen_mantichora_atpbar);
  preload(L, "mantichora.logging", luaopen_mantichora_logging);
  preload(L, "mantichora.report", luaopen_mantichora_report);
  mch_ltask_open(L);
  push_module(L);
  lua_pushliteral(L, "mantichora " MANTICHORA_VERSION);
  lua_setfield(L, -2, "_VERSION");
  return 1;
}
