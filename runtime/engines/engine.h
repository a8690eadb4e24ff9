/* Runs in: parent.
 *
 * The interface of an engine, which runs tasks for a pool. A pool owns tasks and their run IDs; an
 * engine gets them one by one, and reports by events how they ended. The interface speaks of tasks,
 * never of processes: it fits workers forked here, this process itself, and later workers on other
 * machines.
 *
 * All calls are made under the pool's lock, one at a time; none of them blocks. Only calls with
 * `owner` = 1 are on the thread of the pool's owner, where forking and Lua are allowed. */
#ifndef MCH_ENGINE_H
#define MCH_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/chaos.h"
#include "runtime/base/error.h"
#include "runtime/show/output.h"
#include "runtime/base/platform.h"
#include "task.h"

struct mch_hosts;
struct mch_level;
struct mch_worker;

/* What an engine tells its pool. */
struct mch_events {
  void *ud;
  /* The task ended; the result is the pool's from now on. */
  void (*finished)(void *ud, struct mch_task *task, struct mch_result *result);
  /* The task was submitted and provably never started: it goes back to the head of the queue. */
  void (*returned)(void *ud, struct mch_task *task);
  /* The next item of a batch has this OK answer; or ended in another way (see failed). */
  void (*answered)(void *ud, struct mch_task *batch, const unsigned char *graph, size_t length,
                   const struct mch_course *course);
  /* The next `count` items have these OK answers: `length` bytes of records as in ITEMS. */
  void (*answered_many)(void *ud, struct mch_task *batch, const unsigned char *records,
                        size_t length, uint32_t count, const struct mch_course *course);
  /* It ended in this way; NULL: there was no memory to say how. */
  void (*failed)(void *ud, struct mch_task *batch, struct mch_result *result);
  /* A batch is over, its items ran for so many nanoseconds. All are answered or split off. */
  void (*batch_over)(void *ud, struct mch_task *batch, uint64_t elapsed);
  /* The items of a batch that were at its end are a batch of their own, `rest`, never begun. It
   * goes back to the queue, or `stays` with the engine, as if it had been submitted. */
  void (*split)(void *ud, struct mch_task *batch, struct mch_task *rest, int stays);
  /* A piece of the task's result came ahead. */
  void (*early)(void *ud, struct mch_task *task, const unsigned char *piece, size_t length);
  /* While somebody listens (see listen): the task began, or the next item of a batch. That it had
   * begun is said once more by how it ended. */
  void (*started)(void *ud, struct mch_task *task, const struct mch_course *course);
  /* It gave these values to its pool. 0: nobody wants them, nor is their worker to wait for that;
   * else see accept. */
  int (*emitted)(void *ud, struct mch_task *task, int source, const char *host,
                 const unsigned char *graph, size_t length);
  /* A worker came; or (why, of static storage) went. `host`: NULL, or as in struct mch_course. */
  void (*worker)(void *ud, int pid, unsigned slot, const char *host, const char *why);
  /* A log record came; to be handed to Lua on the owner's thread before later results. */
  void (*log)(void *ud, const unsigned char *graph, size_t length);
  /* A sentence for the log of the host, at WARNING. */
  void (*notice)(void *ud, const char *text);
  /* Let go of the pool's lock around code of the host, and take it again. */
  void (*unlock)(void *ud);
  void (*lock)(void *ud);
};

/* Bytecode by id, for workers that do not have it yet. NULL when there is none. */
struct mch_codes {
  void *ud;
  const void *(*get)(void *ud, uint32_t id, size_t *length);
};

/* What a worker does with a task; implemented by the binding, called where tasks run. */
struct mch_run {
  const unsigned char *function; /* an item's: its batch's function; NULL: it is in `graph` */
  size_t function_length;
  int first;      /* of its batch */
  int precise;    /* an item: see own_time */
  uint64_t began; /* an item: when the one before was over */
  uint64_t runid;
  uint64_t stream;  /* names its random numbers; mostly the run ID */
  const char *name; /* not terminated */
  size_t name_length;
  const unsigned char *graph; /* NULL: there was no memory for it, the task is to fail */
  size_t length;
  int64_t anchor;   /* inline: of the task's cargo, in the owner's words; 0: none */
  uint64_t timeout; /* nanoseconds; the runner is to stop the task then. 0: that is others' part */
  int stopped;      /* set by the runner: it did */
  /* Set by the runner: nanoseconds that the task's own code took, at most. Of an item that may be
   * all since `began`, which spares a look at the clock, unless it is to be precise. */
  uint64_t own_time;
  uint64_t ended; /* set by the runner: when it was over */
};

struct mch_runner {
  void *ud;
  /* In the pool's process, before a fork: whether the new worker shall set itself up at once, since
   * more than its tasks depends on it; else it may do so when the first one has come. */
  int (*eager)(void *ud);
  /* Once in a new worker, before its first task. It never returns an error: it keeps it for the
   * task that comes. */
  void (*begin)(void *ud, struct mch_worker *worker);
  /* Run one task: leave the answer's graph in `answer`, return its kind. Called with `begin`'s
   * worker, whose `spans` may then be used for what is large and stays where it is until calm(); or
   * with none in this process (inline). */
  enum mch_kind (*run)(void *ud, struct mch_run *run, struct mch_buf *answer);
  /* Bytecode came; 0 bytes: it is not needed any more. */
  void (*code)(void *ud, uint32_t id, const unsigned char *bytes, size_t length);
  /* Raise an error in the running task as soon as may be. Called from a signal handler. */
  void (*interrupt)(void *ud);
  /* Raise it once more, if the task has met that error and runs on. NULL: it is not raised again.
   */
  void (*insist)(void *ud);
  /* No task runs, the last answer has gone: forget an interrupt that came too late, and let go of
   * what is not needed any more. */
  void (*calm)(void *ud);
  /* In a worker that leaves in peace, after its last task. NULL: nothing is to be done then. */
  void (*end)(void *ud);
  /* Names the format of bytecode and graphs; a worker with another one is refused. */
  const char *format;
};

struct mch_engine_config {
  unsigned nworkers;
  uint64_t timeout;               /* nanoseconds; 0: none */
  uint64_t max_tasks_per_worker;  /* 0: no limit */
  uint64_t max_memory_per_worker; /* bytes of its own, after a task; 0: no limit */
  int snapshot; /* one fork for each task, which finds its work in the memory it was forked with */
  int bars;     /* show the bars of tasks */
  int leave_failed; /* but those that end well go */
  int log_level;    /* the lowest level of log records that is wanted */
  uint64_t limit_memory, limit_cpu, limit_files; /* as mch_platform_limit() has them */
  uint64_t grace;            /* nanoseconds between asking a task to stop and killing it */
  struct mch_output *output; /* referenced by the engine while it lives */
  struct mch_worker *self;   /* the worker that this process is, or NULL */
  struct mch_chaos chaos;    /* faults on purpose, for pools outside workers */
  struct mch_runner runner;
  struct mch_events events;
  struct mch_codes codes;
  void (*child_hook)(void *ud); /* run in each new worker, first of all; may be NULL */
  void *child_hook_ud;
  struct mch_hosts *hosts; /* the machines, of the engine for many of them; else NULL */
};

struct mch_worker_info {
  int pid;
  int busy; /* runid is valid */
  uint64_t runid;
  uint64_t since; /* mch_now() when that began; 0: not known */
  uint64_t tasks; /* ended so far */
  unsigned slot;  /* from 1; that of a worker that has gone is its replacement's */
  uint64_t maxrss;
  const char *host; /* of its machine; NULL: this one */
};

/* Whether one of these workers runs the task or item with this run ID. */
static inline int mch_is_run_by(const struct mch_worker_info *infos, size_t count, uint64_t runid) {
  size_t i = 0;
  while (i < count && !(infos[i].busy && infos[i].runid == runid))
    i++;
  return i < count;
}

struct mch_engine;
struct mch_engine_ops {
  /* The first worker (owner only). 0, or an error when there is none. */
  int (*start)(struct mch_engine *engine, struct mch_error *error);
  /* Take over a task. 0, or MCH_FULL: ask again after the next pump. */
  int (*submit)(struct mch_engine *engine, struct mch_task *task, int owner,
                struct mch_error *error);
  /* Ask that a submitted task end as `task->stop`; its end comes as an event. Of a batch that is
   * the item that runs, after those behind it were taken back. */
  void (*stop)(struct mch_engine *engine, struct mch_task *task);
  /* Take back a submitted task or batch that has not begun: 1 (it has come by returned()), or 0. */
  int (*reclaim)(struct mch_engine *engine, struct mch_task *task);
  /* Take back those of its items from `number` on that have not begun: they come by split(). */
  void (*shorten)(struct mch_engine *engine, struct mch_task *batch, uint32_t number);
  /* Where it cannot be known here what has begun: ask that this item of a submitted batch end as
   * cancelled. It may be over, or come back; the pool sees to these. NULL: reclaim(), shorten() and
   * stop() say at once what they did. */
  void (*stop_item)(struct mch_engine *engine, struct mch_task *batch, uint32_t number);
  /* Take back submitted tasks that have not begun and are less urgent than `priority`. */
  void (*recall)(struct mch_engine *engine, int32_t priority);
  /* No task that is submitted or will be needs this code: workers that have it are told. 0: some
   * worker or machine cannot be told yet. */
  int (*forget_code)(struct mch_engine *engine, uint32_t id);
  /* Let go of what was submitted: it may have been kept to send several at once. Of all events so
   * far the conclusions were drawn: a worker that waits for that goes on. */
  void (*flush)(struct mch_engine *engine);
  /* Do all that can be done now. `queued`: tasks that wait in the pool. */
  void (*pump)(struct mch_engine *engine, int owner, size_t queued);
  /* Whether a worker has little left to do: it is time for a pump. Costs next to nothing. */
  int (*wants_tasks)(struct mch_engine *engine);
  /* Whether workers are missing that add() would make now. */
  int (*short_of_workers)(struct mch_engine *engine, size_t queued);
  /* Make them (owner only); those for whom no task waits may take their time. 0, or an error when
   * there is not a single one after it. */
  int (*add)(struct mch_engine *engine, size_t queued, struct mch_error *error);
  /* From now on no task starts while so many or more run. What was sent ahead comes by returned()
   * and split(); superfluous workers leave once they have nothing to do. */
  void (*resize)(struct mch_engine *engine, unsigned nworkers);
  /* Take back all that was submitted and has not begun. */
  void (*withdraw)(struct mch_engine *engine);
  /* Whether a task that is submitted now starts at once, behind no other. */
  int (*could_start)(struct mch_engine *engine, int owner);
  /* When pump() has something to do again without any descriptor being ready; 0: at once. */
  uint64_t (*deadline)(struct mch_engine *engine);
  /* Tasks (of this group, or NULL: all) that run now, and (unless it is NULL) workers that have
   * some and have not begun; and what workers() lists. */
  unsigned (*running)(struct mch_engine *engine, const struct mch_group *group, unsigned *others);
  size_t (*workers)(struct mch_engine *engine, struct mch_worker_info *infos, size_t room);
  /* Tell the workers the lowest level of log records that is wanted. */
  void (*log_threshold)(struct mch_engine *engine, int level);
  /* Whether somebody wants to know all about each task, which costs a little. */
  void (*listen)(struct mch_engine *engine, int on);
  /* So many bytes of emitted values from this source wait no longer. */
  void (*accept)(struct mch_engine *engine, int source, size_t bytes);
  /* How long each slot has worked, in nanoseconds, that of slot 1 first, and since when there are
   * workers (0: there never was one). Returns how many slots there are. */
  size_t (*work)(struct mch_engine *engine, uint64_t *worked, size_t room, uint64_t *since);
  /* End: ask the workers to leave (`kill`: end them now), no task is left with the engine. */
  void (*quit)(struct mch_engine *engine, int kill);
  /* 1 when quit() is complete: no worker is left. */
  int (*gone)(struct mch_engine *engine);
  void (*free)(struct mch_engine *engine);
};

/* The head of every engine. */
struct mch_engine {
  const struct mch_engine_ops *ops;
  struct mch_poller *poller; /* what to wait for */
  int frugal;                /* workers are made only when none lives, and then one */
  int gated;                 /* tasks wait in the pool although workers may have nothing to do */
  uint64_t burst_gap; /* tasks that follow each other sooner are sent together; 0: as usual */
};

/* Make an engine. NULL and `error`: it cannot be made. */
typedef struct mch_engine *mch_engine_maker(const struct mch_engine_config *config,
                                            struct mch_error *error);
mch_engine_maker mch_engine_fork_new, mch_engine_inline_new;
#endif
