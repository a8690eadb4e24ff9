/* Runs in: parent.
 *
 * All coroutines of a state, so that a signal handler can set a hook on each: one on the main
 * thread does not fire in another. */
#ifndef MCH_COROUTINES_H
#define MCH_COROUTINES_H

#include <lua.h>

#include "bindings/threads.h"

struct mch_coroutines {
  lua_Alloc forward; /* the state's own allocator */
  void *forward_ud;
  struct mch_threads threads;
};

/* Stand between the state and its allocator, until the set is left. Begin with zeroes. */
void mch_coroutines_watch(struct mch_coroutines *set, lua_State *L);
void mch_coroutines_leave(struct mch_coroutines *set, lua_State *L);

/* Set or clear a hook on all coroutines that live; the main thread is not among them. May be called
 * in signal handlers: 0: the set was being changed, nothing was done. */
int mch_coroutines_set_hook(struct mch_coroutines *set, lua_Hook hook, int mask, int count);

#endif
