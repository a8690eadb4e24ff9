/* Runs in: parent.
 *
 * What host.c and repl.c share. */
#ifndef MCH_HOST_H
#define MCH_HOST_H

#include <lua.h>

/* Print who we are: our version, and Lua's. */
void mch_host_version(void);

/* Read, evaluate and print until the end of stdin. */
void mch_repl_run(lua_State *L);

#endif
