/* Runs in: both.
 *
 * Whether this state can be watched by others of the user: its socket (runtime/watch/server.h). */
#ifndef MCH_LATTACH_H
#define MCH_LATTACH_H

#include <lua.h>

/* A pool or bar is about to be made: if that is wanted, there is a socket from now on. What stands
 * against it is logged once, at INFO. */
void mch_lattach_begin(lua_State *L);

/* attach(): see pool.lua. */
int mch_lattach_call(lua_State *L);

#endif
