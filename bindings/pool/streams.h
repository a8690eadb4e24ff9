/* Runs in: child.
 *
 * The streams of module io in a new worker, where they must be others than the parent's. */
#ifndef MCH_STREAMS_H
#define MCH_STREAMS_H

#include <lua.h>

/* Once, before anything of a task runs: what is written to stdout and stderr, if both are one file,
 * stays in its order; stdin is one that can be read. */
void mch_streams_settle(lua_State *L);

#endif
