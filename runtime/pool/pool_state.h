/* Runs in: parent.
 *
 * What the files of a pool share. All of it is used with the pool's lock held; public functions
 * (pool.h) take the lock, those below have it. */
#ifndef MCH_POOL_STATE_H
#define MCH_POOL_STATE_H

#include <pthread.h>

#include "driver.h"
#include "pool.h"
#include "queue.h"
#include "runtime/wire/codes.h"

/* A log record on its way to Lua. */
struct record {
  struct record *next;
  size_t length;
  unsigned char graph[];
};

/* A part of a result on its way to Lua. */
struct piece {
  struct mch_piece head;
  struct piece *next;
  unsigned char bytes[];
};

/* What has happened and was not told. There is always room for one more for each unfinished task
 * while somebody listens. */
struct event_queue {
  struct mch_event *events; /* a ring */
  size_t first, count, room;
  uint64_t last; /* number of the last one that was made */
  uint64_t told; /* of the last one that was handed over */
};

enum {
  CROWD = 32,    /* so many results at once are many */
  FEED = 192,    /* with so many tasks in the queue it is looked whether workers want some */
  FEED_STEP = 16 /* how often */
};

/* What stands against giving a task to a worker. */
struct mch_admission {
  uint64_t min_free; /* bytes; 0: none need be free */
  const char *root;  /* for mch_memory_available() */
  uint64_t looked;   /* when that was last asked */
  int scarce;        /* what it said */
  int jobserver;     /* tasks want a permit of jobserver.h */
  size_t permits;    /* that were taken, for those that are submitted */
  int waits;         /* a task waits for one */
  int listens;       /* the engine's poller has its descriptor */
};

/* Code that only tasks before this run ID need. */
struct mch_stale {
  uint64_t before;
  uint32_t id;
};

struct mch_pool {
  pthread_mutex_t lock;
  struct mch_engine *engine;
  struct mch_output *output;
  int background;            /* whether a thread is wanted while there are tasks */
  struct mch_driver *driver; /* NULL: none, or not yet */
  struct mch_queue queue;
  struct mch_task **paused; /* a heap: the one that is due first is the first */
  size_t paused_count, paused_room;
  int halting; /* a group has a cause, and its tasks have yet to be ended */
  /* Every accepted task that was not taken, by run ID: index[(runid - base) + start]. */
  struct mch_task **index;
  size_t index_start, index_room;
  uint64_t base, next_runid;
  size_t submitted;
  size_t unfinished; /* tasks and items of all groups that have not ended */
  size_t finished;   /* that have, and were not taken */
  struct record *records, *last_record;
  size_t record_bytes;
  struct piece *pieces, *last_piece;
  struct event_queue events;
  int listening;            /* events are made, and kept for the owner */
  unsigned observed;        /* a sum of what those who observe want, MCH_WISH_... */
  struct mch_rolled rolled; /* on the hub's roll */
  struct mch_words words;
  struct mch_pool_facts facts;
  int paused_on;  /* no task starts */
  int poke[2];    /* a pipe in the engine's poller: who waits in the pool shall look; -1: none */
  int poked;      /* a byte is in it */
  int hasty;      /* tasks may be taken whose end was not told */
  uint64_t calls; /* groups of maps so far */
  struct mch_tally tally;
  struct mch_result *no_memory; /* stands in for a result that there is no memory for */
  struct mch_dictionary dictionary;
  struct mch_stale *stale; /* what it holds for tasks that have yet to end */
  size_t stale_count, stale_room;
  size_t open_groups;           /* of maps that go on, and may make such tasks */
  char *bar_name;               /* NULL: no bar for all tasks */
  struct mch_bar *bar;          /* while there are tasks that were not taken */
  struct mch_bar_tasks counted; /* what it shows */
  uint64_t accepted;            /* since it began */
  uint64_t began;               /* when the first task came; 0: none yet */
  size_t coming;                /* tasks that groups have announced */
  int overfull;                 /* a group is since the last pump */
  uint64_t *unwanted;           /* items that are to end as cancelled, by run ID: see stop_item() */
  size_t unwanted_count, unwanted_room;
  size_t ended_since_wait;      /* tasks that ended since the owner last waited */
  int attended;                 /* the owner waits inside, or works for it */
  uint64_t workless_since;      /* no worker could be forked and none lives; 0: not so */
  uint64_t drives, drives_seen; /* pumps by the driver; those before the owner's last pump */
  uint64_t runs_seen;           /* next_runid at the driver's last pump */
  uint64_t last_run;            /* when a task came that could go at once */
  uint64_t held_until; /* tasks in the queue go then at the latest; MCH_NEVER: none is held */
  int has_anew;        /* tasks are in the queue for another attempt since the last pump, */
  int32_t anew;        /* of this priority at most: those sent ahead make way for them */
  int started;
  struct mch_admission admission;
  struct mch_recorder *recorder; /* or NULL */
  int looks_again;               /* tasks with a record start only when they were just looked at */
  uint64_t looked[MCH_MOST_LOOKED]; /* run IDs of these */
  size_t looked_count;
  struct mch_poller *outer;  /* for mch_pool_fd(): the engine's poller and `wakeup` */
  struct mch_poller *joined; /* somebody's who waits for several pools: the same two; or NULL */
  int wakeup[2];             /* a pipe: there is something for the owner that no worker says; -1:
                                   nobody waits by a descriptor */
  int wakeup_raised;
};

/* pool.c: the pump, and when it is due. */

void mch_pool_step(struct mch_pool *pool);

uint64_t mch_pool_next_deadline(struct mch_pool *pool);
void mch_pool_pump_as_owner(struct mch_pool *pool);
void mch_pool_accept(struct mch_pool *pool, struct mch_task *task, struct mch_group *group);
void mch_pool_have_driver(struct mch_pool *pool);

/* pool_admit.c: whether a task may be given to a worker now. dispatch() asks before each, between
 * begin() and end(). */

void mch_admit_begin(struct mch_pool *pool);
int mch_admit_one(struct mch_pool *pool, int owner);
void mch_admit_end(struct mch_pool *pool);
void mch_admit_use_jobserver(struct mch_pool *pool, const char *makeflags);
uint64_t mch_admit_deadline(const struct mch_pool *pool);

/* pool_observe.c: those who observe. */

void mch_observe_begin(struct mch_pool *pool, const struct mch_pool_config *config);
void mch_observe_free(struct mch_pool *pool);
void mch_observe_changed(struct mch_pool *pool);
void mch_observe_lower(struct mch_pool *pool);
void mch_observe_tell(struct mch_pool *pool, const struct mch_event *event,
                      const struct mch_task *task, const struct mch_result *result);
static inline int mch_observe_wants(const struct mch_pool *pool, unsigned wish) {
  return (pool->observed & wish) != 0;
}

/* pool_events.c: what happens, for those who listen. */

int mch_events_reserve(struct mch_pool *pool, size_t more);
void mch_events_queued(struct mch_pool *pool, const struct mch_task *task);
void mch_events_started(void *ud, struct mch_task *task, const struct mch_course *course);
void mch_events_emitted_again(struct mch_pool *pool, uint64_t runid,
                              const struct mch_emitted_again *emitted);
int mch_events_emitted(void *ud, struct mch_task *task, int source, const char *host,
                       const unsigned char *graph, size_t length);
void mch_events_worker(void *ud, int pid, unsigned slot, const char *host, const char *why);
void mch_events_retried(struct mch_pool *pool, const struct mch_task *task,
                        struct mch_result *result);
/* A task, or the next item of a batch, ended; or so many items have OK answers. To be called before
 * they count as finished. */
void mch_events_ended(struct mch_pool *pool, struct mch_task *task, struct mch_result *result);
void mch_events_answered(struct mch_pool *pool, struct mch_task *task, uint32_t count,
                         size_t length, const struct mch_course *course);
void mch_events_forgotten(struct mch_pool *pool, struct mch_task *task, uint32_t count);
void mch_events_batch_over(struct mch_pool *pool, const struct mch_task *task, uint64_t elapsed);
int mch_events_hold(const struct mch_pool *pool, const struct mch_task *task);
void mch_events_drop_all(struct mch_pool *pool);

/* pool_index.c: tasks by run ID. mch_index_find() may be asked for any number, mch_index_slot() for
 * those from `base` to `next_runid`. */

struct mch_task **mch_index_slot(struct mch_pool *pool, uint64_t runid);
struct mch_task *mch_index_find(struct mch_pool *pool, uint64_t runid);
int mch_index_reserve(struct mch_pool *pool, size_t count);
void mch_index_remove(struct mch_pool *pool, uint64_t runid);
void mch_index_count_submitted(struct mch_pool *pool, struct mch_task *task, int step);

/* pool_cancel.c: as mch_pool_cancel(). */

int mch_cancel_one(struct mch_pool *pool, uint64_t runid);

/* pool_halt.c: what a failure does to the others of its group. */

void mch_halt_count_ok(struct mch_group *group, uint32_t count);
void mch_halt_count_failure(struct mch_pool *pool, struct mch_task *task);
void mch_halt_end(struct mch_pool *pool, struct mch_task *task);
void mch_halt_carry_out(struct mch_pool *pool);
void mch_halt_forget(struct mch_group *group);

/* pool_retry.c: attempts after the first, and the pauses before them. */

int mch_retry_is_due(const struct mch_task *task, const struct mch_result *result);
void mch_retry_again(struct mch_pool *pool, struct mch_task *task, struct mch_result *result);
void mch_retry_never(struct mch_task *task);
void mch_retry_leave(struct mch_pool *pool, struct mch_task *task);
void mch_retry_release(struct mch_pool *pool, uint64_t now);
uint64_t mch_retry_next(const struct mch_pool *pool);

/* pool_record.c: what is told to a journal, and when it writes. A task is told of when it has its
 * result. */

void mch_record_ended(struct mch_pool *pool, struct mch_task *task);
void mch_record_emitted(const struct mch_task *task, unsigned attempt, const void *graph,
                        size_t length);
int mch_record_may_start(const struct mch_pool *pool, const struct mch_task *task);
uint64_t mch_record_due(const struct mch_pool *pool);
void mch_record_write_if_due(struct mch_pool *pool);

/* pool_take.c: results go to the owner. Who took one lets go of the lock by mch_take_unlock(),
 * which shows the end of the bar with the last. */

int mch_take_all_taken(struct mch_pool *pool);
void mch_take_done(struct mch_pool *pool, struct mch_task *task);
void mch_take_unlock(struct mch_pool *pool);
void mch_take_answers(struct mch_pool *pool, struct mch_task *task, struct mch_answers *answers);

/* pool_ends.c: the one way into DONE. Those with `ud` are the events of the engine (engine.h); the
 * others count groups and the bar, and wake the owner. */

void mch_ends_update_bar(struct mch_pool *pool);
void mch_ends_end_bar(struct mch_pool *pool, enum mch_bar_end how);
void mch_ends_count_in(struct mch_pool *pool, struct mch_group *group, uint32_t count);
/* Whether the item is to end as cancelled, which was forgotten with that. */
int mch_cancel_is_due(struct mch_pool *pool, uint64_t runid);
/* A batch has come back, with items that are to end so, perhaps. */
void mch_cancel_again(struct mch_pool *pool, const struct mch_task *task);
int mch_ends_is_open(const struct mch_task *task, uint64_t runid);
void mch_ends_raise_wakeup(struct mch_pool *pool);
void mch_ends_lower_wakeup(struct mch_pool *pool);
void mch_ends_free_if_idle(struct mch_group *group);
void mch_ends_unlist(struct mch_task *task);
int mch_ends_is_over(const struct mch_group *group);
void mch_ends_remove_bytes(struct mch_group *group, size_t bytes);
size_t mch_ends_result_size(const struct mch_task *task);
void mch_ends_set_done(struct mch_pool *pool, struct mch_task *task, struct mch_result *result);
void mch_ends_free_if_over(struct mch_task *task);
void mch_ends_answered(void *ud, struct mch_task *task, const unsigned char *graph, size_t length,
                       const struct mch_course *course);
void mch_ends_answered_many(void *ud, struct mch_task *task, const unsigned char *records,
                            size_t length, uint32_t count, const struct mch_course *course);
void mch_ends_failed(void *ud, struct mch_task *task, struct mch_result *result);
void mch_ends_batch_over(void *ud, struct mch_task *task, uint64_t elapsed);
void mch_ends_adopt(struct mch_pool *pool, struct mch_task *task, struct mch_task *rest);
void mch_ends_split(void *ud, struct mch_task *task, struct mch_task *rest, int stays);
void mch_ends_end_task(struct mch_pool *pool, struct mch_task *task, enum mch_kind kind,
                       const char *why);
void mch_ends_drop_early(struct mch_task *task);
void mch_ends_finished(void *ud, struct mch_task *task, struct mch_result *result);
void mch_ends_returned(void *ud, struct mch_task *task);
void mch_ends_early(void *ud, struct mch_task *task, const unsigned char *bytes, size_t length);
void mch_ends_log_record(void *ud, const unsigned char *graph, size_t length);
void mch_ends_notice(void *ud, const char *text);
void mch_ends_unlock_for_host(void *ud);
void mch_ends_lock_again(void *ud);
void mch_ends_drop_piece(struct mch_pool *pool);

#endif
