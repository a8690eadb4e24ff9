/* Runs in: both.
 *
 * luaopen_mantichora and the openers of its parts: registration and nothing else. */
#include "embedded.h"
#include "lpool.h"
#include "lreport.h"
#include "ltask.h"
#include "mantichora.h"

#include <lauxlib.h>
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

/* Push the embedded part of this name as a function. */
static void push_part(lua_State *L, const char *name) {
  const struct mch_embedded *part = mch_embedded_find(name);
  if (luaL_loadbufferx(L, (const char *)part->bytes, part->length, part->chunkname, "t") != LUA_OK)
    lua_error(L);
}

/* The Lua half of the pool, given its C half and what map and imap are made of. */
static void push_module(lua_State *L) {
  push_part(L, "mantichora.pool");
  lua_pushliteral(L, "mantichora");
  mch_lpool_open(L);
  push_part(L, "mantichora.map");
  lua_call(L, 3, 1);
}

int luaopen_mantichora(lua_State *L) {
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
