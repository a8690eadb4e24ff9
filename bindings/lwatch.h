/* Runs in: child only.
 *
 * The worker's allocator. It forwards to the state's own allocator; on the way it registers all
 * coroutines that tasks make (so that a stop reaches them: a hook on one thread does not fire in
 * another) and counts what the worker adds to Lua's memory (so that a limit raises `not enough
 * memory`). */
#ifndef MCH_LWATCH_H
#define MCH_LWATCH_H

#include <lua.h>
#include <signal.h>
#include <stddef.h>

#include "threads.h"

struct mch_lwatch {
  lua_Alloc forward;
  void *forward_ud;
  size_t added, limit; /* bytes since it was installed; limit 0: none */
  size_t due;          /* when so much is added, call when_due(), which raises it */
  void (*when_due)(struct mch_lwatch *watch, void *ud); /* may allocate nothing */
  void *due_ud;
  struct mch_threads threads;     /* coroutines of the tasks */
  volatile sig_atomic_t missed;   /* a stop came while they were changing */
  volatile sig_atomic_t requests; /* 0, or 1: the task shall stop, 2: it was told once more */
  sig_atomic_t looked;            /* the request at which `under` was found out */
  int raised;                     /* so often was the error of a stop raised */
  int held;                       /* > 0: it is not raised now */
  struct mch_thread main;         /* where tasks run */
};

/* Stand between L's state and its allocator. */
void mch_lwatch_install(struct mch_lwatch *watch, lua_State *L, lua_State *main, size_t limit);

/* Have an error raised in whatever Lua code runs next, once on any thread. For signal handlers. */
void mch_lwatch_interrupt(struct mch_lwatch *watch);

/* The same once more, for a task that has met it and runs on. For signal handlers. */
void mch_lwatch_insist(struct mch_lwatch *watch);

/* Forget a stop that has not fired everywhere. */
void mch_lwatch_calm(struct mch_lwatch *watch);

/* The following may be called in any process; where no task can be stopped they do nothing. */

/* Whether this thread has the hook of a stop. */
int mch_lwatch_is_stopping(lua_State *L);

/* As lua_pcall(), but where it has caught the error of a stop, this is raised again as soon as Lua
 * code of L goes on: at the latest when the C function that calls this has returned to it. */
int mch_lwatch_pcall(lua_State *L, int arguments, int results, int handler);

/* How often the error was raised so far, for mch_lwatch_caught() after a call that has failed: if
 * it was raised since, have it raised again as above, and return 1. */
int mch_lwatch_stops(lua_State *L);
int mch_lwatch_caught(lua_State *L, int stops);

/* Raise the error here and now if this thread is to meet it. `held_too`: also where it is held. */
void mch_lwatch_check(lua_State *L, int held_too);

/* A C function: call its upvalue, and let no error of a stop be raised until that has returned. */
int mch_lwatch_undisturbed(lua_State *L);

#endif
