/* Runs in: both.
 *
 * What makes many small tasks of one function cheap: scalars go to bytes and back without the
 * codec's walk, in its format. */
#ifndef MCH_ITEMS_H
#define MCH_ITEMS_H

#include <lua.h>
#include <stddef.h>

#include "runtime/base/buf.h"

/* Append the message of one value if it is a scalar (scalar.h): 1. Else, or
 * without memory, 0, and nothing is appended. */
int mch_items_put(struct mch_buf *out, lua_State *L, int index);

/* Append it behind its length, u32. */
int mch_items_put_sized(struct mch_buf *out, lua_State *L, int index);

/* Do so with the integers in a table from this index on, read raw, at most so many and until `out`
 * is as long as `full`; returns how many. May raise on memory. */
size_t mch_items_put_integers(struct mch_buf *out, size_t full, lua_State *L, int table,
                              lua_Integer from, size_t most);

/* Push the value of such a message: 1. 0: it is not one. */
int mch_items_get(lua_State *L, const unsigned char *bytes, size_t length);

/* Whether pushing it cannot raise: it is such a message, and not that of a string. */
int mch_items_is_safe(const unsigned char *bytes, size_t length);

/* The message of no values: append it (0: no memory); whether it is this. */
int mch_items_put_none(struct mch_buf *out);
int mch_items_is_none(const unsigned char *bytes, size_t length);

#endif
