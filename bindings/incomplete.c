/* Runs in: parent. Purpose: incomplete.h. */
#include "bindings/incomplete.h"

#include <string.h>

bool mch_incomplete(lua_State *L, int status) {
  static const char mark[] = "<eof>";
  size_t length;
  const char *message;
  if (status != LUA_ERRSYNTAX)
    return false;
  message = lua_tolstring(L, -1, &length);
  return length >= sizeof mark - 1 && strcmp(message + length - (sizeof mark - 1), mark) == 0;
}
