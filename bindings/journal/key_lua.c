/* Runs in: parent.
 *
 * Keys as a function of Lua, for specs. */
#include "key.h"

#include <lauxlib.h>
#include <string.h>

#include "runtime/base/buf.h"

/* Its key in the registry is the address of this. */
static const char keyer_key = 0;

static void push_keyer(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &keyer_key) == LUA_TUSERDATA)
    return;
  lua_pop(L, 1);
  mch_keyer_push(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &keyer_key);
}

/* Push an option, and return where it is; 0 for nil, which is pushed as well. */
static int push_option(lua_State *L, const char *name) {
  return lua_getfield(L, 1, name) == LUA_TNIL ? 0 : lua_gettop(L);
}

/* Append the parts to the list on top of the stack, as {path, hash}. */
static void add_parts(lua_State *L, const char *at, size_t length) {
  const char *end = at + length;
  struct mch_key_part part;
  while (mch_key_next_part(&at, end, &part)) {
    lua_createtable(L, 2, 0);
    lua_pushlstring(L, part.path, part.length);
    lua_rawseti(L, -2, 1);
    lua_pushinteger(L, (lua_Integer)part.hash);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  }
}

static void push_bytes(lua_State *L, const unsigned char hash[MCH_HASH_SIZE]) {
  lua_pushlstring(L, (const char *)hash, MCH_HASH_SIZE);
}

int mch_key_difference_lua(lua_State *L) {
  size_t older_length, newer_length, count;
  const char *older = luaL_checklstring(L, 1, &older_length);
  const char *newer = luaL_checklstring(L, 2, &newer_length);
  struct mch_key_part first;
  count = mch_key_difference(older, older_length, newer, newer_length, &first);
  lua_pushinteger(L, (lua_Integer)count);
  if (count == 0)
    return 1;
  lua_pushlstring(L, first.path, first.length);
  return 2;
}

int mch_key_lua(lua_State *L) {
  unsigned char seed[MCH_HASH_SIZE] = {0}, key[MCH_HASH_SIZE];
  struct mch_key_call call;
  struct mch_key_task task;
  struct mch_key_place place;
  struct mch_keyed keyed;
  int keyer;
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checkany(L, 2);
  memset(&call, 0, sizeof call);
  memset(&place, 0, sizeof place);
  task.first = 3;
  task.n = lua_gettop(L) - 2;
  luaL_checkstack(L, 30, NULL);
  push_keyer(L);
  keyer = lua_gettop(L);
  call.function = 2;
  call.init = push_option(L, "init");
  call.name = push_option(L, "name");
  call.version = push_option(L, "version");
  task.inputs = push_option(L, "inputs");
  task.outputs = push_option(L, "outputs");
  place.key = push_option(L, "key");
  lua_getfield(L, 1, "occurrence");
  place.occurrence = (uint64_t)lua_tointeger(L, -1);
  lua_getfield(L, 1, "seed");
  mch_store_u64(seed, (uint64_t)lua_tointeger(L, -1));
  place.seed = seed;
  if (!mch_keyer_begin(L, keyer, &call) || !mch_keyer_task(L, keyer, &task, &keyed)) {
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
  }
  mch_key_finish(L, &keyed, &place, key);
  push_bytes(L, key);
  lua_newtable(L);
  add_parts(L, keyed.common, keyed.common_length);
  add_parts(L, keyed.own, keyed.own_length);
  lua_pushlstring(L, keyed.common, keyed.common_length);
  lua_pushlstring(L, keyed.own, keyed.own_length);
  lua_concat(L, 2);
  mch_keyer_end(L, keyer);
  return 3;
}
