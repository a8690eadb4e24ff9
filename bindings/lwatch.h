/* Runs in: child only.
 *
 * The worker's allocator: it forwards to the state's own, and on the way it knows all coroutines
 * that the tasks make (so that a stop reaches them: a hook on one thread does not fire in another)
 * and counts what the worker adds to Lua's memory (so that a limit raises `not enough memory`). */
#ifndef MCH_LWATCH_H
#define MCH_LWATCH_H

#include <lua.h>
#include <signal.h>
#include <stddef.h>

struct mch_lwatch {
  lua_Alloc forward;
  void *forward_ud;
  size_t added, limit; /* bytes since it was installed; limit 0: none */
  size_t due;          /* when so much is added, call when_due(), which raises it */
  void (*when_due)(struct mch_lwatch *watch, void *ud); /* may allocate nothing */
  void *due_ud;
  lua_State **threads; /* an open-addressing set */
  size_t count, used, room;
  size_t thread_size;             /* of a block that holds a thread; 0: none was seen yet */
  volatile sig_atomic_t changing; /* `threads` is in the middle of a change */
  volatile sig_atomic_t missed;   /* a stop came while it was */
  volatile sig_atomic_t hooked;   /* threads may have the stop's hook */
  lua_State *main;                /* where tasks run */
};

/* Stand between L's state and its allocator. */
void mch_lwatch_install(struct mch_lwatch *watch, lua_State *L, lua_State *main, size_t limit);

/* Have an error raised in whatever Lua code runs next, on any thread. For signal handlers. */
void mch_lwatch_interrupt(struct mch_lwatch *watch);

/* Forget a stop that has not fired everywhere. */
void mch_lwatch_calm(struct mch_lwatch *watch);

#endif
