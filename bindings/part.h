/* Runs in: both.
 *
 * Our parts in Lua, out of the bytes that are carried inside. */
#ifndef MCH_PART_H
#define MCH_PART_H

#include <lua.h>

/* Push the part of this name ("mantichora.pool") as a function, which was not called yet. Raises if
 * it is not part of this build, or for want of memory. */
void mch_part_push(lua_State *L, const char *name);

/* The same as a function of Lua: part(name). */
int mch_part_call(lua_State *L);

#endif
