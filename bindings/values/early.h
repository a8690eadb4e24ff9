/* Runs in: both.
 *
 * What comes before a message: tables that fill with numbers, piece by piece (graph.h has the
 * format), while the other side still makes the rest. Trusts nothing, as decode.c.
 *
 * A list of tables is a Lua table: [k] is table k, [-k] the number of elements that it has. */
#ifndef MCH_EARLY_H
#define MCH_EARLY_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

/* Whether the list at stack index `list` has the table for a piece: if not, make it (the collector
 * may run other code then) and look again with what is the next piece by now. Raises a sentence on
 * malformed bytes, and on memory. */
int mch_early_is_ready(lua_State *L, int list, const unsigned char *piece, size_t len);

/* Store the numbers of a piece into its table, which is there. Runs no other code. Raises likewise.
 */
void mch_early_store(lua_State *L, int list, const unsigned char *piece, size_t len);

/* Push table k and take it off the list, if `count` elements came for it: 1. Else 0: some were
 * lost.
 */
int mch_early_take(lua_State *L, int list, uint64_t k, uint64_t count);

#endif
