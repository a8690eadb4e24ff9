/* Runs in: parent. Purpose: call.h. */
#include "call.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/values/graph.h"
#include "bindings/values/modules.h"

/* Key of the registry: what a process knows that runs nothing but `replay`. */
static const char baseline_key = 0;

/* Push it: modules by name, as here, and no global. */
static void push_baseline(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &baseline_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  mch_baseline_take(L);
  lua_newtable(L);
  lua_rawseti(L, -2, MCH_BASELINE_GLOBALS);
  lua_newtable(L);
  lua_rawseti(L, -2, MCH_BASELINE_PRESENT);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &baseline_key);
}

/* Called with the buffer, a table or nil, init or nil, the function and its arguments. */
static int encode(lua_State *L) {
  struct mch_encoder encoder;
  int count = lua_gettop(L) - 2;
  memset(&encoder, 0, sizeof encoder);
  encoder.out = lua_touserdata(L, 1);
  encoder.kind = MCH_SEND_TASK;
  encoder.stands_alone = 1;
  encoder.hooked = lua_istable(L, 2) ? 2 : 0;
  push_baseline(L);
  lua_replace(L, 1);
  encoder.baseline = 1;
  mch_encode(L, &encoder, 3, count);
  return 0;
}

static void push_or_nil(lua_State *L, int index) {
  if (index != 0)
    lua_pushvalue(L, index);
  else
    lua_pushnil(L);
}

int mch_call_store(lua_State *L, const struct mch_call *call, struct mch_buf *to) {
  int i, fine;
  luaL_checkstack(L, call->arguments + 5, "too many arguments");
  mch_buf_clear(to);
  to->maximum = MCH_CALL_MOST;
  lua_pushcfunction(L, encode);
  lua_pushlightuserdata(L, to);
  push_or_nil(L, call->hooked);
  push_or_nil(L, call->init);
  for (i = 0; i <= call->arguments; i++)
    lua_pushvalue(L, call->function + i);
  fine = lua_pcall(L, call->arguments + 4, 0, 0) == LUA_OK;
  if (!fine)
    lua_pop(L, 1);
  if (fine && to->failed == 0)
    return 1;
  mch_buf_clear(to);
  return 0;
}

int mch_call_rebuild(lua_State *L) {
  struct mch_decoder decoder;
  size_t length;
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = (const unsigned char *)luaL_checklstring(L, 1, &length);
  decoder.len = length;
  decoder.allow_code = 1;
  decoder.kind = MCH_SEND_TASK;
  lua_settop(L, 1);
  lua_newtable(L);
  decoder.own = 2;
  return mch_decode(L, &decoder);
}
