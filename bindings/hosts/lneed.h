/* Runs in: child, on a machine of a pool of many.
 *
 * Lua modules of the script: a searcher that asks the supervisor for their source. */
#ifndef MCH_LNEED_H
#define MCH_LNEED_H

#include <lua.h>

/* Put the searcher in front of those that look for files. `socket`: questions go there; it is used
 * in workers only. */
void mch_lneed_install(lua_State *L, int socket);

#endif
