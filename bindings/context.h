/* Runs in: both.
 *
 * What one Lua state knows of mantichora: whether it is in a worker, which task runs, where log
 * records go. One per state, in its registry; nothing here is shared between states. */
#ifndef MCH_CONTEXT_H
#define MCH_CONTEXT_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/mantichora.h"
#include "runtime/base/platform.h"

struct mch_limit;
struct mch_lwatch;
struct mch_ltask;
struct mch_report_file;
struct mch_trace;
struct mch_worker;

/* What a program in C wants to be told. */
struct mch_sinks {
  mantichora_log_sink log;
  void *log_ud;
  mantichora_progress_sink progress;
  void *progress_ud;
  mantichora_output_sink output;
  void *output_ud;
  mantichora_task_sink task;
  void *task_ud;
  int told; /* a progress or output sink runs */
};

/* Pools that were collected unclosed, and were not told of yet. */
struct mch_collected {
  int process; /* that noted it */
  size_t pools, tasks, failures;
};

struct mch_context {
  struct mch_worker *worker; /* the worker that this process is; NULL in the outermost */
  struct mch_lwatch *watch;  /* over the tasks of that worker; NULL: it runs none yet */
  int baseline;              /* in a worker: registry reference to what it names things by, or 0 */
  int running;               /* a task runs: the fields below are valid */
  uint64_t runid;
  uint64_t stream;  /* what names its random numbers, mixed */
  uint64_t tasks;   /* so many have run in this process */
  const char *name; /* of the running task, not terminated */
  size_t name_length;
  struct mch_ltask *task;  /* of the pool whose task runs */
  struct mch_limit *limit; /* of the running time of what runs in this process; NULL: none */
  int hides_bars;          /* of the running task: its pool shows none */
  uint64_t first_bar;      /* key of the first that it has begun; 0: none */
  int log_level;           /* records below it are wanted by nobody (outermost process) */
  void (*tell_log_level)(lua_State *L, int level); /* to all pools; NULL: there are none yet */

  int embedded; /* a program uses the C API: its collector is left alone */
  struct mch_sinks sinks;
  mantichora_child_hook child_hook;
  void *child_hook_ud;
  struct mch_poller *poller; /* hears all open pools; NULL: nobody waits for all */
  struct mch_mark poller_mark;
  int telling;    /* a listener or task sink runs */
  int inside;     /* so many handlers, sinks and renderers run, one inside the other */
  uint64_t pools; /* made so far */
  uint64_t visit; /* count of the times that all pools were looked at */
  struct mch_collected collected;
  int recorded;                   /* that was seen to: ltrace.h */
  struct mch_trace *trace;        /* NULL: there is none */
  struct mch_report_file *report; /* likewise */
  char message[256];              /* of the last failure of the C API */

  int watchable;                      /* the program says that its scripts can be watched */
  void (*attached)(const char *path); /* it wants to know their socket; NULL: it has gone */
  int attach_seen;                    /* whether there is to be one was seen to */
};

/* The context of this state, made at the first call. Lives as long as the state. */
struct mch_context *mch_context_get(lua_State *L);

/* The same, or NULL if there is none yet. Raises nothing. */
struct mch_context *mch_context_find(lua_State *L);

/* In a new worker: nothing that the program in C has set is wanted here. */
void mch_context_become_worker(struct mch_context *context, struct mch_worker *worker);

/* Forget the poller; in a fork it is still the parent's. */
void mch_context_drop_poller(struct mch_context *context);

/* Push the table of this state's pools (weak keys). */
void mch_context_push_pools(lua_State *L);

/* Push a new table that is weak in this mode: "k" its keys, "v" its values. */
void mch_context_push_weak(lua_State *L, const char *mode);

/* Push the function that takes log records of workers, or nil; set it from the stack's top. */
void mch_context_push_log_handler(lua_State *L);
void mch_context_set_log_handler(lua_State *L);

#endif
