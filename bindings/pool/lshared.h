/* Runs in: parent.
 *
 * Which globals share something. Functions that have a local variable of the script in common, or a
 * table, have it in common on another machine only if they go there together. */
#ifndef MCH_LSHARED_H
#define MCH_LSHARED_H

#include <lua.h>

/* Push a list of the names of other globals that share something with those in the list `names`, or
 * with one another and so with these. Looked at are functions, what they hold, and the functions in
 * tables; not what is large. Calls no metamethod. Raises on memory. */
void mch_lshared_push(lua_State *L, int names);

#endif
