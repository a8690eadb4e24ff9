/* Runs in: both. Purpose: lbuf.h. */
#include "lbuf.h"

#include <lauxlib.h>
#include <string.h>

#define TYPE "mantichora buffer"

static int free_buffer(lua_State *L) {
  mch_buf_free(luaL_checkudata(L, 1, TYPE));
  return 0;
}

struct mch_buf *mch_lbuf_push(lua_State *L) {
  struct mch_buf *buf = lua_newuserdatauv(L, sizeof *buf, 0);
  memset(buf, 0, sizeof *buf);
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, free_buffer);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return buf;
}
