/* Runs in: both. Purpose: part.h. */
#include "part.h"

#include <lauxlib.h>

#include "embedded.h"

void mch_part_push(lua_State *L, const char *name) {
  const struct mch_embedded *part = mch_embedded_find(name);
  if (part == NULL)
    luaL_error(L, "%s is not part of this build", name);
  if (luaL_loadbufferx(L, (const char *)part->bytes, part->length, part->chunkname, "t") != LUA_OK)
    lua_error(L);
}

int mch_part_call(lua_State *L) {
  mch_part_push(L, luaL_checkstring(L, 1));
  return 1;
}
