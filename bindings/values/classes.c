/* Runs in: both. Purpose: classes.h. */
#include "classes.h"

#include <lauxlib.h>

#include "bindings/context.h"
#include "modules.h"

void mch_classes_begin(lua_State *L, int baseline) {
  mch_context_push_weak(L, "v");
  lua_pushinteger(L, 0);
  lua_rawseti(L, -2, 0); /* the last one given */
  lua_rawseti(L, baseline, MCH_BASELINE_CLASSES);
  lua_newtable(L);
  lua_rawseti(L, baseline, MCH_BASELINE_HELD);
  lua_newtable(L);
  lua_rawseti(L, baseline, MCH_BASELINE_CAME);
}

/* The id at which the table on top of the stack has its next class. */
static lua_Integer next_id(lua_State *L, int is_sentinel) {
  lua_Integer id;
  lua_rawgeti(L, -1, 0);
  id = lua_tointeger(L, -1) + 2;
  lua_pop(L, 1);
  lua_pushinteger(L, id);
  lua_rawseti(L, -2, 0);
  return id + is_sentinel;
}

lua_Integer mch_classes_send(lua_State *L, int baseline, int object, int is_sentinel) {
  int top = lua_gettop(L), names = top + 1;
  lua_Integer id = 0;
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_pushvalue(L, object);
  if (lua_rawget(L, names) == LUA_TNUMBER)
    id = lua_tointeger(L, -1);
  if (id == 0 || (id & 1) != is_sentinel) {
    lua_rawgeti(L, baseline, MCH_BASELINE_CLASSES);
    id = next_id(L, is_sentinel);
    lua_pushvalue(L, object);
    lua_rawseti(L, -2, id);
    lua_pushvalue(L, object);
    lua_pushinteger(L, id);
    lua_rawset(L, names);
  }
  lua_rawgeti(L, baseline, MCH_BASELINE_HELD);
  lua_pushvalue(L, object);
  lua_pushinteger(L, id);
  lua_rawset(L, -3);
  lua_settop(L, top);
  return id;
}

void mch_classes_release(lua_State *L, int baseline) {
  int held;
  lua_rawgeti(L, baseline, MCH_BASELINE_HELD);
  held = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, held)) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_pushnil(L);
    lua_rawset(L, held);
  }
  lua_settop(L, held - 1);
}

void mch_classes_receive(lua_State *L, int baseline, int copy, lua_Integer id) {
  int top = lua_gettop(L);
  copy = lua_absindex(L, copy);
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_pushvalue(L, copy);
  lua_pushinteger(L, id);
  lua_rawset(L, -3);
  lua_rawgeti(L, baseline, MCH_BASELINE_CAME);
  lua_pushboolean(L, 1);
  lua_rawseti(L, -2, id);
  lua_settop(L, top);
}

void mch_classes_begin_task(lua_State *L, int baseline, int is_inherited) {
  int top = lua_gettop(L), came = top + 1, held = top + 2;
  lua_rawgeti(L, baseline, MCH_BASELINE_CAME);
  lua_rawgeti(L, baseline, MCH_BASELINE_HELD);
  lua_pushnil(L);
  if (lua_next(L, came)) { /* a new one is cheaper than to empty it */
    lua_newtable(L);
    lua_replace(L, came);
    lua_pushvalue(L, came);
    lua_rawseti(L, baseline, MCH_BASELINE_CAME);
  }
  lua_settop(L, held);
  lua_pushnil(L);
  while (is_inherited && lua_next(L, held)) {
    lua_pushboolean(L, 1);
    lua_rawseti(L, came, lua_tointeger(L, -2));
    lua_pop(L, 1);
  }
  lua_settop(L, top);
}

int mch_classes_came(lua_State *L, int baseline, lua_Integer id) {
  int came;
  lua_rawgeti(L, baseline, MCH_BASELINE_CAME);
  came = lua_rawgeti(L, -1, id) != LUA_TNIL;
  lua_pop(L, 2);
  return came;
}
