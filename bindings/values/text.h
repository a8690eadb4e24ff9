/* Runs in: both.
 *
 * Lua values as text that does not depend on the locale. */
#ifndef MCH_TEXT_H
#define MCH_TEXT_H

#include <lua.h>

/* Push the value at `index` as luaL_tolstring() does, with a point in a number in every locale. May
 * raise, as a __tostring may. */
const char *mch_text_push(lua_State *L, int index);

#endif
