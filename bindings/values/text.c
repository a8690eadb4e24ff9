/* Runs in: both. Purpose: text.h. */
#include "text.h"

#include <lauxlib.h>
#include <string.h>

#include "runtime/base/decimal.h"

const char *mch_text_push(lua_State *L, int index) {
  size_t length;
  char number[MCH_DECIMAL_ROOM];
  int is_number = lua_type(L, index) == LUA_TNUMBER;
  const char *text = luaL_tolstring(L, index, &length);
  if (!is_number || length >= sizeof number)
    return text;
  memcpy(number, text, length + 1);
  mch_decimal_point(number);
  lua_pop(L, 1);
  return lua_pushstring(L, number);
}
