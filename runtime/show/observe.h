/* Runs in: parent.
 *
 * Who wants to see what happens, beside the script and its listeners: viewers by a socket, a trace,
 * a report. One struct mch_hub per Lua state, that of its output (mch_output_hub); all pools of the
 * state are on its roll. Nothing here knows Lua.
 *
 * How it is used:
 *   - an observer fills in a struct mch_observer, and is told from mch_hub_add() on of what it
 *     `wants`; what that is may change (mch_hub_want). Nobody wants anything: nothing is made, and
 *     what would be told costs a look at one word.
 *   - it is told on whichever thread something happens: that of a pool's driver, or the owner's.
 *     One call at a time, under the hub's lock, which is the last of all locks: from inside of a
 *     call no function of pools, output or hub may be called but those that say so. What takes time
 *     (files, sockets) is for `serve`.
 *   - `serve` is called without a lock, by one thread at a time, when its time has come or `fd` is
 *     readable; on the driver's thread, or inside of calls where there is none. What it shares with
 *     the calls above it locks by mch_hub_lock(). It may use pools by mch_hub_each_pool().
 *
 * Order of locks: roll, pool, output, hub. A fork of the process has no observers (forked). */
#ifndef MCH_OBSERVE_H
#define MCH_OBSERVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "render.h"
#include "runtime/base/platform.h"

struct mch_event;
struct mch_hub;
struct mch_pool;
struct mch_result;
struct mch_task;

enum mch_wish {
  MCH_WISH_TASKS = 1,    /* all events of tasks and workers; workers say more then */
  MCH_WISH_FAILURES = 2, /* ENDED and RETRIED of what is not ok: costs nothing else */
  MCH_WISH_BARS = 4,
  MCH_WISH_LINES = 8,
  MCH_WISH_LOG = 16
};

/* Something that happened in a pool. The pool's lock is held. All of it holds during the call. */
struct mch_told {
  struct mch_pool *pool;
  uint64_t number; /* of the pool, from 1 */
  /* As in engines/event.h, with `count` tasks from `runid` on, and for each ENDED a STARTED before
   * it if the task began and that was not told. `about` and `values` are not there, `number` is
   * nothing. EMITTED is not told. */
  const struct mch_event *event;
  const struct mch_task *task;     /* or its batch: its name, place; NULL: an event of a worker */
  const struct mch_result *result; /* ENDED, RETRIED: of what is not ok; else NULL */
};

/* A log record that passed the levels. Text is not terminated; NULL: not known. */
struct mch_log_record {
  double time; /* seconds since 1970 */
  int level;
  const char *level_name, *logger, *message, *task;
  size_t level_length, logger_length, message_length, task_length;
  int64_t process, runid; /* -1: not known */
};

struct mch_observer {
  void *ud;
  unsigned wants; /* a sum of MCH_WISH_...: by mch_hub_want() once it was added */
  void (*event)(void *ud, const struct mch_told *told);
  /* A bar began (MCH_REPORT_START), has another name (UPDATE), ended (END). What it counts
   * meanwhile is seen by mch_output_each_bar() from `serve`. */
  void (*bar)(void *ud, const struct mch_report *report);
  /* Whole lines of a task, each with its newline, of stream 1 or 2. */
  void (*lines)(void *ud, int stream, const char *bytes, size_t length);
  void (*log)(void *ud, const struct mch_log_record *record);
  /* A pool came, or goes (`comes` = 0) after all its events. Its lock is not held, nothing may be
   * asked of it. */
  void (*pool)(void *ud, struct mch_pool *pool, uint64_t number, int comes);
  /* One is about to go: it may be looked at for the last time. As `serve` it is called alone and
   * without a lock but that of the roll. */
  void (*leaving)(void *ud, struct mch_pool *pool, uint64_t number);
  /* Do what takes time; return when to be called at the latest (MCH_NEVER: when `fd` is readable).
   */
  uint64_t (*serve)(void *ud, uint64_t now);
  int fd; /* as of a poller, or -1; from mch_hub_add() to mch_hub_remove() */
  /* This is a fork now: let go of descriptors and memory, touch nothing outside of them. */
  void (*forked)(void *ud);
  /* All of these may be NULL. */
  struct mch_observer *next; /* the hub's, as are those that follow */
  uint64_t due;
};

struct mch_hub *mch_hub_new(void); /* NULL: no memory */
void mch_hub_free(struct mch_hub *hub);

/* From now on, with what it wants, until it is removed: then no call is under way. Not from inside
 * of calls, nor with a lock. 0, or MCH_NOMEM. */
int mch_hub_add(struct mch_hub *hub, struct mch_observer *observer);
void mch_hub_remove(struct mch_hub *hub, struct mch_observer *observer);

/* It wants this from now on. From `serve`, or without a lock. */
void mch_hub_want(struct mch_hub *hub, struct mch_observer *observer, unsigned wants);

/* It wants `serve` to be called at this time already. From inside of calls, too. */
void mch_hub_hasten(struct mch_hub *hub, struct mch_observer *observer, uint64_t due);

/* No task of any pool starts from now on, also of those that come; or (0) they do again. From
 * `serve`, or without a lock. */
void mch_hub_pause(struct mch_hub *hub, int on);
int mch_hub_is_paused(const struct mch_hub *hub);

/* What calls and `serve` share. */
void mch_hub_lock(struct mch_hub *hub);
void mch_hub_unlock(struct mch_hub *hub);
/* Unless that lasts longer; whether it was locked. For the end of the process. */
int mch_hub_lock_within(struct mch_hub *hub, uint64_t nanoseconds);

/* Call f with each pool, in order of their numbers, and at last with NULL; none comes or goes
 * meanwhile. From `serve`, or without a lock; f may use the pools, but not the hub otherwise than
 * by its lock. */
void mch_hub_each_pool(struct mch_hub *hub,
                       void (*f)(void *ud, struct mch_pool *pool, uint64_t number), void *ud);

/* -- for those who tell -------------------------------------------------------------------- */

/* A sum of what anybody wants; takes no lock. Of no hub: nothing. */
unsigned mch_hub_wants(const struct mch_hub *hub);

void mch_hub_tell_event(struct mch_hub *hub, const struct mch_told *told);
void mch_hub_tell_bar(struct mch_hub *hub, const struct mch_report *report);
void mch_hub_tell_lines(struct mch_hub *hub, int stream, const char *bytes, size_t length);
void mch_hub_tell_log(struct mch_hub *hub, const struct mch_log_record *record);

/* A pool on the roll. The pool has it, and fills in the first two. */
struct mch_rolled {
  struct mch_pool *pool;
  void (*changed)(struct mch_pool *pool); /* what is wanted has; its lock is not held */
  struct mch_rolled *next;
  uint64_t number;
};
void mch_hub_enter(struct mch_hub *hub, struct mch_rolled *rolled);
void mch_hub_leave(struct mch_hub *hub, struct mch_rolled *rolled);

/* -- for those who serve ------------------------------------------------------------------- */

/* What is readable when mch_hub_serve() has something to do; -1: nothing, or not known. */
int mch_hub_fd(const struct mch_hub *hub);
/* When it is due though nothing is readable; takes no lock. */
uint64_t mch_hub_due(const struct mch_hub *hub);
/* Let all observers do what they have to do, unless another thread is at it: 1; then 0. */
int mch_hub_serve(struct mch_hub *hub, uint64_t now);

/* A thread serves from now on (step = 1), or no longer (-1). */
void mch_hub_count_threads(struct mch_hub *hub, int step);
/* When a call should see to it, as no thread does; takes no lock. MCH_NEVER: no need. And do so. */
uint64_t mch_hub_next_look(const struct mch_hub *hub);
void mch_hub_look(struct mch_hub *hub, uint64_t now);

/* In a fork, by its only thread. */
void mch_hub_become_child(struct mch_hub *hub);

#endif
