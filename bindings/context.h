/* Runs in: both.
 *
 * What one Lua state knows of mantichora: whether it is in a worker, what task runs, who wants log
 * records. One per state, in its registry; nothing here is shared between states. */
#ifndef MCH_CONTEXT_H
#define MCH_CONTEXT_H

#include <lua.h>
#include <stdint.h>

struct mch_worker;

struct mch_context {
  struct mch_worker *worker; /* the worker that this process is; NULL in the outermost */
  int running;               /* a task runs: the fields below are valid */
  uint64_t runid;
  const char *name; /* of the running task, not terminated */
  size_t name_length;
  int log_level; /* records below it are wanted by nobody (outermost process) */
};

/* The context of this state, made at the first call. Lives as long as the state. */
struct mch_context *mch_context_get(lua_State *L);

/* Push the table of this state's pools (weak keys). */
void mch_context_push_pools(lua_State *L);

/* Push a new table with weak keys. */
void mch_context_push_weak(lua_State *L);

/* Push the function that takes log records of workers, or nil; set it from the stack's top. */
void mch_context_push_log_handler(lua_State *L);
void mch_context_set_log_handler(lua_State *L);

#endif
