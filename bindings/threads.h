/* Runs in: both.
 *
 * The coroutines of a state, as its allocator sees them come and go: an open-addressing set that a
 * signal handler may walk through, to set a hook on each (one on the main thread does not fire in
 * another). */
#ifndef MCH_THREADS_H
#define MCH_THREADS_H

#include <lua.h>
#include <signal.h>
#include <stddef.h>

/* A coroutine, and what lwatch.c knows of it: 0 at first. */
struct mch_thread {
  lua_State *L;
  sig_atomic_t met; /* the last request to stop whose error it has met; 0: none */
  int under;        /* it was resuming another one that met it, and has had no event since */
};

/* Begin with zeroes. */
struct mch_threads {
  struct mch_thread *places;
  size_t count, used, room;
  size_t thread_size;             /* of a block that holds a thread; 0: none was seen yet */
  volatile sig_atomic_t changing; /* `places` is in the middle of a change */
};

/* A block was allocated for a thread (LUA_TTHREAD): zero it, since a hook may be set on the thread
 * before Lua has filled it in, and add the thread. Without memory for that, it is not in the set.
 */
void mch_threads_add(struct mch_threads *set, void *block, size_t size);

/* Whether a block of this size may hold a thread. */
static inline int mch_threads_is_size(const struct mch_threads *set, size_t size) {
  return size == set->thread_size && size != 0;
}

/* A block that may hold a thread is about to be freed: take the thread out. */
void mch_threads_drop(struct mch_threads *set, void *block);

/* NULL: it is not in the set. */
struct mch_thread *mch_threads_find(struct mch_threads *set, const lua_State *L);

/* The first thread from the place *at on, which moves behind it. NULL: there is no other. For
 * signal handlers too, unless the set is `changing`. */
struct mch_thread *mch_threads_next(struct mch_threads *set, size_t *at);

/* Free what is kept; then it is empty. */
void mch_threads_free(struct mch_threads *set);

#endif
