/* Runs in: parent only.
 *
 * Tasks: queue, dispatch, collection, cancellation. A non-blocking state machine with one entry,
 * the pump, and three callers: a waiting call, an event loop's poll, and the driver's thread. Knows
 * no Lua and no process.
 *
 * The life of a task
 *
 *     run --> QUEUED --submit--> SUBMITTED --finished--> DONE --take--> freed
 *               ^ ^                  |   |
 *               | +---- returned ----+   |   never started: stolen, recalled, its worker died
 *               +---- PAUSED <- failed --+   it is tried again, at once or later
 *
 * What becomes of the others of its group when one has failed is in pool_halt.c.
 *
 * Threads: the pool has an owner, the thread that happens to call into it (one at a time); the
 * driver's thread comes between those calls. Each function takes the pool's lock by itself. */
#ifndef MCH_POOL_H
#define MCH_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/event.h"
#include "runtime/show/observe.h"

struct mch_pool;
struct mch_recorder;

/* What those who observe are told in words that only the binding knows. Called under the pool's
 * lock on any thread; uses no Lua. Each appends text, or nothing if it is not known. */
struct mch_words {
  /* Where the task's function is defined: "<file.lua:12>". */
  void (*place)(const struct mch_pool *pool, const struct mch_task *task, struct mch_buf *place);
  /* How it failed: what happened, and the whole report. The run ID and number (0: it is no item)
   * are those of one task of a batch. */
  void (*failure)(const struct mch_pool *pool, const struct mch_task *task,
                  const struct mch_result *result, uint64_t runid, uint64_t index,
                  struct mch_buf *message, struct mch_buf *report);
};

/* What a pool is, as its maker has said. Text is not terminated anywhere. */
struct mch_pool_facts {
  const char *name; /* NULL: none */
  const char *engine;
  const char *options; /* a JSON object of those that were set */
  unsigned nworkers;   /* at most; changes */
  uint64_t since;      /* mch_now() */
};

struct mch_pool_config {
  mch_engine_maker *make;      /* what gets the work done */
  struct mch_pool_facts facts; /* the first three, copied */
  struct mch_words words;
  struct mch_engine_config engine; /* its events and codes are filled in by the pool */
  int background;                  /* have a driver */
  const char *bar;                 /* name of the bar for all its tasks (copied); NULL: none */
  const char *makeflags;           /* of the jobserver that tasks need tokens of; NULL: none */
  uint64_t min_free_memory;        /* bytes: no task starts beside another while less is left */
  const char *memory_root;         /* see mch_memory_available(); NULL: the usual one */
  struct mch_recorder *recorder;   /* gets to know how tasks end that have a record; or NULL */
};

/* What failures do to the others of a group. Those that are retried do not count, nor those that
 * were cancelled. */
struct mch_halt {
  enum mch_halt_how {
    MCH_HALT_NEVER,
    MCH_HALT_SOON,
    MCH_HALT_NOW
  } how;          /* NOW: what runs is stopped, too */
  uint64_t after; /* when so many have failed; 0: see `share` */
  double share;   /* when 3 have failed and they are this share of all that ended, or more */
};

/* Tasks that are received together: those of run(), or those of one map or imap. */
struct mch_group {
  struct mch_task *first, *last; /* DONE ones, in order of completion */
  size_t unfinished;             /* accepted and not DONE */
  size_t finished;               /* DONE and not taken */
  size_t coming;                 /* announced, and not accepted yet */
  size_t batches;                /* that are not over */
  uint64_t item_time, items;     /* nanoseconds that items of batches took, and how many */
  size_t most;       /* bytes of results that may wait before no further task starts; 0: any */
  size_t bytes;      /* of those that wait here */
  size_t kept;       /* of those that the owner has taken, and keeps */
  size_t untold;     /* finished tasks that failed, and were neither taken nor told of */
  size_t submitted;  /* tasks and batches with the engine */
  int wanted;        /* the owner waits for any of them, whatever waits already */
  int overfull;      /* more than `most` wait; what was sent ahead was taken back */
  uint64_t call;     /* which map of the pool; 0: run() */
  uint64_t accepted; /* tasks so far */
  int abandoned;     /* nobody will take anything: drop what finishes, then the group */
  struct mch_halt halt;
  uint64_t ended, failed; /* since counting began: not cancelled ones; of them, failures */
  struct mch_task *cause; /* the failure (held) because of which all others end; NULL: none */
  int calling;            /* `cause` is only over when mch_pool_go_on() says so, not when taken */
};

struct mch_pool *mch_pool_new(const struct mch_pool_config *config, struct mch_error *error);

/* A new group, the pool's from mch_pool_abandon() on; NULL: no memory. `coming`: so many tasks will
 * be run in it; 0 if that is not known. `most`: while results of more bytes wait none of its tasks
 * starts, but one at a time for an owner who waits for any; 0: no such bound. */
struct mch_group *mch_pool_group(struct mch_pool *pool, size_t coming, size_t most);

/* So many bytes of results the owner has taken, and keeps: they count as if they waited. To be told
 * after so large a step, and after a task or answers so large were taken. */
enum { MCH_KEEP_STEP = 256 * 1024 };
void mch_pool_keep(struct mch_pool *pool, struct mch_group *group, size_t bytes);
/* The owner waits for any of the group's tasks, or (0) no longer. */
void mch_pool_want(struct mch_pool *pool, struct mch_group *group, int wanted);

/* Nobody is interested in this group any more: what waits never starts, what runs is stopped, what
 * has finished is dropped. Does not wait. */
void mch_pool_abandon(struct mch_pool *pool, struct mch_group *group);

/* Have the workers ready. Blocks no longer than the forks take. */
int mch_pool_start(struct mch_pool *pool, struct mch_error *error);

/* Accept a task: the pool owns it from now on, in `group`. Starts the workers if there are none.
 * On failure (no worker can be started, no memory) the task stays the caller's. */
int mch_pool_run(struct mch_pool *pool, struct mch_task *task, struct mch_group *group,
                 uint64_t *runid, struct mch_error *error);

/* What a journal has of a task: its result, which becomes the task's, and values that it emitted.
 */
struct mch_emitted_again {
  unsigned attempt;
  const void *graph;
  size_t length;
};
struct mch_found {
  struct mch_result *result;
  const struct mch_emitted_again *emitted;
  size_t count;
};
/* Accept a task that ends at once with that result: it needs no worker, and starts none. On failure
 * (no memory) both stay the caller's. */
int mch_pool_find(struct mch_pool *pool, struct mch_task *task, struct mch_group *group,
                  struct mch_found *found, uint64_t *runid, struct mch_error *error);

/* The anchor of what the task of this run ID carries as `early`, if it was found and is there; 0.
 */
int64_t mch_pool_found_anchor(struct mch_pool *pool, uint64_t runid);

/* See to it that these tasks are accepted, in this order and next: all that mch_pool_run() may lack
 * is had before. 0 or a code. */
int mch_pool_reserve(struct mch_pool *pool, struct mch_task **tasks, size_t count,
                     struct mch_error *error);

/* If this failure has halted the group: it was handed over, and tasks of the group run again. */
void mch_pool_go_on(struct mch_pool *pool, struct mch_group *group, uint64_t runid);
/* Free a group whose pool has gone. */
void mch_pool_free_group(struct mch_group *group);

/* Move tasks on; never waits. On the owner's thread, who also pumps the output. */
void mch_pool_pump(struct mch_pool *pool);

/* From here on workers that ended are replaced only when none lives, and then by one: for callers
 * that have no time for forks. Or, with 0, all of them. */
void mch_pool_spare_forks(struct mch_pool *pool, int on);

/* Whether workers have ended that mch_pool_add_workers() would replace now. */
int mch_pool_short_of_workers(struct mch_pool *pool);

/* Tasks that wait and go with a record, of those at most `most` whose turn it is next: for owners
 * whose tasks see what is there when they start. Only these start in mch_pool_add_workers(), which
 * is to come next; elsewhere none does, but for the one that an mch_pool_run() accepts. `payload`:
 * the first eight bytes of the task. */
enum { MCH_MOST_LOOKED = 16 };
struct mch_coming {
  uint64_t runid, payload;
};
size_t mch_pool_coming(struct mch_pool *pool, struct mch_coming *coming, size_t most);

/* This task, if it has no result yet, goes with another record, or, if *record is NULL, with none;
 * its old one is dropped. `keyed`: and `stream` names its random numbers. Takes the record. */
void mch_pool_record_anew(struct mch_pool *pool, uint64_t runid, struct mch_record **record,
                          int keyed, uint64_t stream);

/* Fork them; on the owner's thread. While not a single one can be had it is tried again; after some
 * seconds of that, the tasks that wait fail with the reason. */
void mch_pool_add_workers(struct mch_pool *pool);

/* What a wait is for. */
struct mch_waiting {
  uint64_t until; /* MCH_NEVER: as long as it takes */
  /* NULL: come back when there is something to pump. Else the wait pumps by itself, while nothing
   * else is to be done, until this says yes. */
  int (*enough)(void *ud);
  /* Asked with all signals blocked, right before each sleep: not 0 ends the wait at once, so that
   * no signal is lost between the look and the sleep. */
  int (*interrupted)(void *ud);
  void *ud;
  /* If more than one finished task or item of a group is waited for: how many. The wait may then
   * sleep through the first ones, for a part of the time that all will take. */
  const struct mch_group *group;
  size_t count;
};

/* Wait until there may be something to do for the caller, or until `until`, or a signal. On the
 * owner's thread; the driver keeps away meanwhile: it need not be woken for each result. */
void mch_pool_wait(struct mch_pool *pool, const struct mch_waiting *waiting);

/* The owner is about to do what its next pump or wait depends on (0: no longer): the driver keeps
 * away, as it does from a wait. */
void mch_pool_attend(struct mch_pool *pool, int attended);

/* The wait of an event loop: until one of these descriptors is readable, `until` comes, or a signal
 * has something to say by `interrupted`. Whether the first one is readable. */
int mch_await_until(const int *fds, size_t count, uint64_t until, int (*interrupted)(void *ud),
                    void *ud);

/* Sleep until `until`, or until a signal has something to say by `interrupted`. */
void mch_sleep_until(uint64_t until, int (*interrupted)(void *ud), void *ud);

/* Wait for pools that have joined `poller`, until `until` or a signal as above. Drivers do not keep
 * away. */
void mch_wait(struct mch_poller *poller, uint64_t until, int (*interrupted)(void *ud), void *ud);

/* When a pump is due although no descriptor is ready (monotonic nanoseconds). */
uint64_t mch_pool_deadline(struct mch_pool *pool);

/* The oldest log record not handed over yet, into `record` (cleared first): 1, or 0 for none. One
 * that begins with the byte MCH_NOTICE is a sentence of the engine, with its zero. */
enum { MCH_NOTICE = 0xff };
int mch_pool_take_log(struct mch_pool *pool, struct mch_buf *record);
int mch_pool_has_logs(struct mch_pool *pool);

/* Some results come in pieces ahead of their task's end, to be turned into values meanwhile. The
 * oldest piece; NULL: none is there. It stays so, and where it is, until mch_pool_drop_piece(),
 * which is for the owner only. All pieces of a task that was taken have been dropped when its
 * `ahead` is not shared any more. */
struct mch_piece {
  struct mch_cargo *of; /* its task's; the owner gives it an anchor, and the place for the spent */
  const unsigned char *bytes;
  size_t length;
};
const struct mch_piece *mch_pool_piece(struct mch_pool *pool);
void mch_pool_drop_piece(struct mch_pool *pool);

/* Take a finished task, the caller's from now on (mch_pool_discard). NULL: none now, or log records
 * have to be taken first. take: in order of completion. take_in_order: the first at or after run ID
 * *from, which moves on. */
struct mch_task *mch_pool_take(struct mch_pool *pool, struct mch_group *group);
struct mch_task *mch_pool_take_in_order(struct mch_pool *pool, struct mch_group *group,
                                        uint64_t *from);
void mch_pool_discard(struct mch_pool *pool, struct mch_task *task);

/* How many finished tasks of a group that nobody took have failed, cancelled ones not counted:
 * those with run IDs from `from` on. */
size_t mch_pool_failed(struct mch_pool *pool, const struct mch_group *group, uint64_t from);
/* The first of those that was not told of yet, and is from now on; it stays the pool's, and where
 * it is until somebody takes it. NULL: none. And whether there is one. */
const struct mch_task *mch_pool_untold(struct mch_pool *pool, struct mch_group *group);
int mch_pool_has_untold(struct mch_pool *pool, const struct mch_group *group);
/* Drop what a group has finished; unless `all` is set, the failures that are counted above stay. */
void mch_pool_drop(struct mch_pool *pool, struct mch_group *group, int all);

/* If what a group has next are answers of a batch, take them: 1. The first is that of the item with
 * the caller's number `index`. 0: none, or another task is next, or log records. */
struct mch_answers {
  struct mch_buf graphs; /* as struct mch_batch has them; the caller frees it */
  uint64_t index;
  uint32_t count; /* items: those that `graphs` has not are lost, for want of memory */
  uint32_t taken; /* of them, without those that are APART */
  uint64_t runid; /* of the first */
};
int mch_pool_take_answers(struct mch_pool *pool, struct mch_group *group,
                          struct mch_answers *answers);

/* The mean run time of the items of a group's batches, in nanoseconds; 0: not known yet. */
uint64_t mch_pool_pace(struct mch_pool *pool, const struct mch_group *group);

/* Counts of a group, and of the whole pool (`unfinished` also where `group` is NULL). */
size_t mch_pool_unfinished(struct mch_pool *pool, const struct mch_group *group);
size_t mch_pool_finished(struct mch_pool *pool, const struct mch_group *group);
/* Whether so many tasks of a group (without batches) are queued: accepted, neither running nor
 * done. 2: and workers have some before them that nobody will tell when they begin. */
int mch_pool_is_full(struct mch_pool *pool, const struct mch_group *group, size_t limit);
/* Both at once, of a group: whether something has finished, and whether fewer than `few` have not.
 */
void mch_pool_look(struct mch_pool *pool, const struct mch_group *group, size_t few, int *there,
                   int *wants_tasks);
struct mch_pool_counts {
  unsigned running;
  size_t queued; /* accepted, neither running nor done */
  uint64_t next_runid;
};
void mch_pool_count(struct mch_pool *pool, struct mch_pool_counts *counts);

/* How all its tasks have ended so far, and the nanoseconds since the first one came. */
struct mch_pool_tally {
  uint64_t ok, failed, cancelled;
  uint64_t elapsed;
};
void mch_pool_get_tally(struct mch_pool *pool, struct mch_pool_tally *tally);
size_t mch_pool_workers(struct mch_pool *pool, struct mch_worker_info *infos, size_t room);

/* Ask that a task end as CANCELLED. 0: it had ended, 1: it was queued (and never starts), 2: it
 * runs; its end comes later. */
int mch_pool_cancel(struct mch_pool *pool, uint64_t runid);
/* What a task was of which it has said 2, where that is told from elsewhere: 1 or 2; 0: that is not
 * known yet. */
int mch_pool_what_was_cancelled(struct mch_pool *pool, uint64_t runid);
/* Ask it of all unfinished tasks (of one group, or NULL: of all) with run IDs below `limit`. */
void mch_pool_cancel_all(struct mch_pool *pool, const struct mch_group *group, uint64_t limit);
/* Run IDs below this are over: their results were taken or dropped. `next`: that of the next task.
 */
uint64_t mch_pool_over(struct mch_pool *pool, uint64_t *next);
/* How many tasks below `limit` have not finished. */
size_t mch_pool_unfinished_below(struct mch_pool *pool, uint64_t limit);

/* Whether somebody looks at what happens; of what happened before nothing is told. 0, or MCH_NOMEM:
 * there must be room to tell the end of each task. */
int mch_pool_listen(struct mch_pool *pool, int on, struct mch_error *error);
/* The next thing that has happened, the caller's (mch_event_clear): 1. 0: nothing. No task is taken
 * whose end is still to be told, unless `hasty` is set: for those who must take it now. */
int mch_pool_take_event(struct mch_pool *pool, struct mch_event *event);
int mch_pool_has_events(struct mch_pool *pool);
void mch_pool_be_hasty(struct mch_pool *pool, int hasty);
/* The number of the last thing that happened. */
uint64_t mch_pool_last_event(struct mch_pool *pool);
/* Values that the running task of an engine in this process has emitted. 0, or MCH_NOMEM. */
int mch_pool_emit(struct mch_pool *pool, uint64_t runid, const void *graph, size_t length);
/* Whatever has not ended does now, as CANCELLED: the workers have gone. */
void mch_pool_end_all(struct mch_pool *pool);

/* -- for those who observe (observe.h) -- */

/* Facts of the pool; name and options hold as long as it. */
void mch_pool_get_facts(struct mch_pool *pool, struct mch_pool_facts *facts);

/* For words, under the pool's lock: bytecode by its id, NULL: unknown; the pool's name or NULL. */
const void *mch_observe_code(const struct mch_pool *pool, uint32_t id, size_t *length);
const char *mch_observe_name(const struct mch_pool *pool);

/* Words about what was told, appended; inside of the call, under the pool's lock. */
void mch_pool_place(const struct mch_told *told, struct mch_buf *place);
void mch_pool_report(const struct mch_told *told, struct mch_buf *message, struct mch_buf *report);

/* As mch_pool_cancel() and mch_pool_resize(), by somebody who is not the owner: who waits in the
 * pool sees to what there is to do. */
int mch_pool_cancel_from_outside(struct mch_pool *pool, uint64_t runid);
void mch_pool_resize_from_outside(struct mch_pool *pool, unsigned nworkers);

enum { MCH_SLOTS_MOST = 4096 + 2 };

/* Call f with all that there is to know, under the pool's lock: what is told from then on happened
 * after it. */
struct mch_pool_view;
void mch_pool_look_at(struct mch_pool *pool, void (*f)(void *ud, const struct mch_pool_view *view),
                      void *ud);

/* What the pool has counted so far. Times are in nanoseconds. */
enum { MCH_SLOWEST = 5 };
struct mch_slow {
  uint64_t runid, index, elapsed;
  enum mch_kind kind;
  char name[64]; /* terminated, the beginning of it; "": none */
};
struct mch_time_span {
  uint64_t count, sum, most;
};
struct mch_tally {
  uint64_t ended[MCH_KIND_COUNT]; /* by kind */
  uint64_t retried;
  uint64_t found; /* among those that are OK */
  struct mch_time_span waiting, working;
  uint64_t sent, received; /* bytes */
  struct mch_slow slowest[MCH_SLOWEST];
  unsigned slow; /* of them in use */
};
struct mch_pool_stats {
  struct mch_tally tally;
  size_t queued, running, unreceived;
  uint64_t since; /* of the first worker; 0: there was none */
  size_t slots;
};
struct mch_pool_view {
  struct mch_pool *pool;
  uint64_t number; /* in its hub */
  struct mch_pool_facts facts;
  struct mch_pool_stats stats;
  uint64_t accepted, coming; /* tasks so far; announced by maps */
  const uint64_t *worked;    /* nanoseconds by slot: stats.slots of them */
  const struct mch_worker_info *workers;
  size_t worker_count;
};
/* The task of this run ID, of a view; NULL: none is outstanding. Its place and name. */
const struct mch_task *mch_pool_view_task(const struct mch_pool_view *view, uint64_t runid);
void mch_pool_view_place(const struct mch_pool_view *view, const struct mch_task *task,
                         struct mch_buf *place);

/* `worked` gets nanoseconds by slot. */
void mch_pool_stats(struct mch_pool *pool, struct mch_pool_stats *stats, uint64_t *worked,
                    size_t room);

/* Bytecode to its id in this pool; 0: send it with the message. */
uint32_t mch_pool_intern(struct mch_pool *pool, const void *bytes, size_t length);
/* A new id for bytes that are sent once to each worker, as bytecode is. 0: no memory. */
uint32_t mch_pool_store(struct mch_pool *pool, const void *bytes, size_t length);
/* What was stored as this is not for tasks that are made from now on; it goes once all before have
 * ended, and all maps that go on. */
void mch_pool_retire(struct mch_pool *pool, uint32_t id);
/* And back; the bytes stay where they are while the pool lives. NULL: unknown. */
const void *mch_pool_code(struct mch_pool *pool, uint32_t id, size_t *length);

void mch_pool_log_threshold(struct mch_pool *pool, int level);

/* From now on no task starts while so many or more run. Missing workers are made by the next
 * mch_pool_add_workers(); superfluous ones leave after their task. `makeflags`: as in the config.
 */
void mch_pool_resize(struct mch_pool *pool, unsigned nworkers, const char *makeflags);

/* A descriptor that is readable when a pump has something to do; -1 where there is none. */
int mch_pool_fd(struct mch_pool *pool, struct mch_error *error);

/* Have mch_poller_wait() of `poller` say `ud` when a pump has something to do. 0 or a code. One
 * poller at most; mch_pool_part() before it is freed. */
int mch_pool_join(struct mch_pool *pool, struct mch_poller *poller, void *ud,
                  struct mch_error *error);
void mch_pool_part(struct mch_pool *pool);

/* Ask all workers to leave, or end them now. mch_pool_gone(): 1 when none is left (pump and wait
 * until then). */
void mch_pool_quit(struct mch_pool *pool, int kill);
int mch_pool_gone(struct mch_pool *pool);

/* End the driver and free everything. Workers must be gone. */
void mch_pool_free(struct mch_pool *pool);
#endif
