/* Runs in: both.
 *
 * Buffers that belong to a Lua state: an error in the midst of filling one loses no memory. */
#ifndef MCH_LBUF_H
#define MCH_LBUF_H

#include <lua.h>

#include "runtime/base/buf.h"

/* Push an empty buffer; Lua's collector frees it, if nobody has done so before. */
struct mch_buf *mch_lbuf_push(lua_State *L);

#endif
