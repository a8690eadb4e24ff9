/* Runs in: both.
 *
 * A table as text for reports: short, on one line, read raw. */
#ifndef MCH_SHOWN_H
#define MCH_SHOWN_H

#include <lua.h>

/* Is the value at this index a table that says nothing of itself by a __tostring? */
int mch_shown_is_mute(lua_State *L, int index);

/* Push what is in the table at this index, as in { 1, 2, code = 3, why = "disk full" }: bounded in
 * depth, entries and bytes. No metamethod is called, and nothing is changed. Raises on memory. */
void mch_shown_push(lua_State *L, int index);

#endif
