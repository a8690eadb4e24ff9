/* Runs in: both.
 *
 * What would be sent: an encoding that tells all its parts to scripts/mantichora/explain.lua, which
 * makes a tree of them. */
#include <lauxlib.h>
#include <string.h>

#include "embedded.h"
#include "graph.h"

static int free_buffer(lua_State *L) {
  mch_buf_free(lua_touserdata(L, 1));
  return 0;
}

static struct mch_buf *new_buffer(lua_State *L) {
  struct mch_buf *buf = lua_newuserdatauv(L, sizeof *buf, 0);
  memset(buf, 0, sizeof *buf);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, free_buffer);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  return buf;
}

/* Push what the Lua part returns: the function to tell the parts to, and the one that makes the
 * report. */
static void push_recorder(lua_State *L) {
  const struct mch_embedded *part = mch_embedded_find("mantichora.explain");
  if (part == NULL)
    luaL_error(L, "mantichora.explain is not part of this build");
  if (luaL_loadbufferx(L, (const char *)part->bytes, part->length, part->chunkname, "t") != LUA_OK)
    lua_error(L);
  lua_call(L, 0, 2);
}

void mch_explain(lua_State *L, int notes, int first, int n) {
  struct mch_encoder encoder;
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  memset(&encoder, 0, sizeof encoder);
  encoder.notes = notes != 0 ? lua_absindex(L, notes) : 0;
  encoder.kind = MCH_SEND_TASK;
  encoder.out = new_buffer(L);
  push_recorder(L);
  encoder.explain = top + 2;
  mch_encode(L, &encoder, first, n);
  lua_pushinteger(L, (lua_Integer)mch_buf_unread(encoder.out));
  lua_call(L, 1, 1);
  mch_buf_free(encoder.out);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

int mch_explain_call(lua_State *L) {
  luaL_checkany(L, 1);
  mch_explain(L, 0, 1, lua_gettop(L));
  return 1;
}
