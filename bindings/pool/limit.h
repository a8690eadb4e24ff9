/* Runs in: parent (engine "inline"; also that of a pool in a worker).
 *
 * A bound for the time that code of the user runs in this process. There is nobody beside it who
 * could stop it: Lua itself looks at the clock now and then, by a hook. Code in C is not stopped,
 * nor is any where somebody else has a hook (a debugger, a profiler, luacov). */
#ifndef MCH_LIMIT_H
#define MCH_LIMIT_H

#include <lua.h>
#include <stdint.h>

struct mch_context;

struct mch_limit {
  struct mch_context *context;
  struct mch_limit *outer; /* that holds for what it is begun in */
  lua_State *L;
  uint64_t due; /* when its error is raised, next */
  int raised;   /* so often it was */
};

/* Until `limit` ends, code on L, and on coroutines that it makes, may run so long, in nanoseconds
 * (0: as long as it likes). Then `task stopped` is raised in it, and again if it goes on. */
void mch_limit_begin(struct mch_limit *limit, lua_State *L, struct mch_context *context,
                     uint64_t nanoseconds);

/* Whether the error was raised. */
int mch_limit_end(struct mch_limit *limit);

/* When the time of what runs now is over; MCH_NEVER: it has no limit. And, once that has come, the
 * error: for code in C that waits. */
uint64_t mch_limit_due(lua_State *L);
void mch_limit_check(lua_State *L);

/* Whether the hook of this thread is that of a limit. */
int mch_limit_holds(lua_State *L);

#endif
