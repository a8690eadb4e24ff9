/* Runs in: both. Purpose: walk.h. */
#include "walk.h"

#include <lauxlib.h>

#include "modules.h"

void mch_walk_begin(lua_State *L, struct mch_walk *walk, int baseline) {
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_newtable(L);
  lua_newtable(L);
  walk->seen = lua_gettop(L);
  walk->list = walk->seen - 1;
  walk->names = walk->seen - 2;
  walk->first = walk->last = 0;
}

static int type_in(lua_State *L, int table, int object) {
  int type;
  lua_pushvalue(L, object);
  type = lua_rawget(L, table);
  lua_pop(L, 1);
  return type;
}

int mch_walk_is_named(lua_State *L, const struct mch_walk *walk, int object) {
  return type_in(L, walk->names, object) == LUA_TSTRING;
}

int mch_walk_is_new(lua_State *L, const struct mch_walk *walk, int object) {
  return type_in(L, walk->seen, object) == LUA_TNIL;
}

void mch_walk_add(lua_State *L, struct mch_walk *walk, int object) {
  lua_pushvalue(L, object);
  lua_pushboolean(L, 1);
  lua_rawset(L, walk->seen);
  lua_pushvalue(L, object);
  lua_rawseti(L, walk->list, ++walk->last);
}

int mch_walk_next(lua_State *L, struct mch_walk *walk) {
  if (walk->first == walk->last)
    return 0;
  lua_rawgeti(L, walk->list, ++walk->first);
  return 1;
}
