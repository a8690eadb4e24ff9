/* Runs in: child. Purpose: coverage.h. */
#include "bindings/pool/coverage.h"

#include <lauxlib.h>

#include "runtime/base/lockfile.h"

/* Where debug.sethook() keeps its functions, in the registry. */
static const char hooks_key[] = "_HOOKKEY";

/* Push luacov.runner: 1. Or push nothing: 0, it does not count. */
static int push_runner(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushliteral(L, "luacov.runner");
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    int counts;
    lua_pushliteral(L, "initialized");
    lua_rawget(L, -2);
    counts = lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_remove(L, -2);
    if (!counts)
      lua_pop(L, 1);
    return counts;
  }
  lua_pop(L, 2);
  return 0;
}

static void set_raw(lua_State *L, int table, const char *name) {
  lua_pushstring(L, name);
  lua_insert(L, -2);
  lua_rawset(L, table);
}

static void copy_hook(lua_State *L, lua_State *from) {
  if (L == from || lua_gethook(from) == NULL)
    return;
  lua_sethook(L, lua_gethook(from), lua_gethookmask(from), lua_gethookcount(from));
  if (lua_getfield(L, LUA_REGISTRYINDEX, hooks_key) == LUA_TTABLE) {
    lua_pushthread(L);
    lua_pushthread(from);
    lua_xmove(from, L, 1);
    lua_rawget(L, -3);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
}

void mch_coverage_follow(lua_State *L, lua_State *from) {
  if (!push_runner(L))
    return;
  lua_pop(L, 1);
  copy_hook(L, from);
}

int mch_coverage_begin(lua_State *L, lua_State *from) {
  int runner;
  if (!push_runner(L))
    return 0;
  runner = lua_gettop(L);
  lua_newtable(L);
  set_raw(L, runner, "data");
  lua_pushboolean(L, 0); /* it would save in between, and not wait for other workers */
  set_raw(L, runner, "tick");
  lua_pop(L, 1);
  copy_hook(L, from);
  return 1;
}

static int save(lua_State *L) {
  struct mch_lockfile *lock = lua_touserdata(L, 1);
  if (!push_runner(L))
    return 0;
  if (lua_getfield(L, -1, "configuration") == LUA_TTABLE &&
      lua_getfield(L, -1, "statsfile") == LUA_TSTRING)
    mch_lockfile_take(lock, lua_tostring(L, -1));
  lua_settop(L, 2);
  lua_getfield(L, 2, "save_stats");
  lua_call(L, 0, 0);
  return 0;
}

void mch_coverage_save(lua_State *L) {
  struct mch_lockfile lock = {-1, NULL};
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 8))
    return;
  lua_pushcfunction(L, save);
  lua_pushlightuserdata(L, &lock);
  lua_pcall(L, 1, 0, 0);
  mch_lockfile_drop(&lock);
  lua_settop(L, top);
}
