/* Runs in: parent.
 *
 * Whether code that was typed wants another line. */
#ifndef MCH_INCOMPLETE_H
#define MCH_INCOMPLETE_H

#include <stdbool.h>

#include <lua.h>

/* Whether a chunk failed to compile, with this status and the message on top of the stack, only
 * because it is not complete yet. */
bool mch_incomplete(lua_State *L, int status);

#endif
