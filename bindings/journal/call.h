/* Runs in: parent.
 *
 * A call as bytes that stand for themselves: with the function, its arguments, the pool's `init`,
 * and the globals that these name. `replay` makes values of it again. */
#ifndef MCH_CALL_H
#define MCH_CALL_H

#include <lua.h>

#include "runtime/base/buf.h"

/* Calls of more bytes are not kept. */
enum { MCH_CALL_MOST = 16 * 1024 * 1024 };

/* Stack indices; 0: there is none. */
struct mch_call {
  int function, arguments; /* so many stand behind it */
  int init;
  int hooked; /* of struct mch_encoder */
};

/* Append a call. 1; or 0, and nothing is there: something of it cannot be sent, or it is too large.
 */
int mch_call_store(lua_State *L, const struct mch_call *call, struct mch_buf *to);

/* rebuild(bytes): init or nil, the function and its arguments. Sets the globals that came along. */
int mch_call_rebuild(lua_State *L);

#endif
