/* Runs in: parent.
 *
 * The interface of a way to get work done. A pool owns tasks and their run IDs; an engine gets them
 * one by one, and tells by events how they ended. It speaks of tasks, never of processes: the same
 * interface fits workers forked here, this process itself, and later workers on other machines.
 *
 * All calls come under the pool's lock, one at a time; none of them blocks. Only calls with `owner`
 * = 1 are on the thread of the pool's owner, where forking and Lua are allowed. */
#ifndef MCH_ENGINE_H
#define MCH_ENGINE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/base/buf.h"
#include "runtime/wire/cargo.h"
#include "runtime/base/chaos.h"
#include "runtime/base/error.h"
#include "runtime/show/output.h"
#include "runtime/base/platform.h"
#include "runtime/wire/protocol.h"

struct mch_group;
struct mch_level;
struct mch_worker;

/* What few tasks have. */
struct mch_task_extra {
  uint64_t timeout; /* nanoseconds of run time; 0: the pool's */
  uint64_t index;   /* of an item that left its batch: the caller's number */
  unsigned retries; /* extra attempts when its worker died */
  size_t name_length;
  char name[]; /* not terminated */
};

/* What a task has that stands for many: items of one function, with run IDs that follow each other.
 * Its body is ids, the function's graph, and for each item u32 length and graph. */
struct mch_batch {
  uint32_t count;           /* items, those answered included */
  uint32_t answered;        /* from the first on */
  uint32_t kept;            /* items that the pool's index still leads to this task for */
  uint32_t function_length; /* bytes of the function's graph */
  uint64_t index;           /* the caller's number of the first item */
  /* The pool's: answers that were not taken, from item `from` on, as records: u8 length (1 to
   * MCH_RECORD_MAX) and a graph; MCH_ANSWER_LONG, u32 length and a graph; or MCH_ANSWER_APART. */
  struct mch_buf answers;
  uint32_t from;
  int lost;   /* there was no memory for an answer: it and those behind it are not there */
  int listed; /* in its group's list of results */
};

/* In the place of an answer's length: a u32 has it; the item is a task of its own now. */
#define MCH_ANSWER_LONG 255u
#define MCH_ANSWER_APART 0u

enum mch_task_state {
  MCH_TASK_QUEUED,    /* in the pool's queue */
  MCH_TASK_SUBMITTED, /* with the engine */
  MCH_TASK_DONE       /* has a result, waits to be received */
};

struct mch_task {
  struct mch_task *next, *previous; /* in the pool's queue or its group's list of results */
  struct mch_group *group;
  struct mch_task_extra *extra; /* NULL: nothing special */
  struct mch_result *result;    /* when DONE */
  struct mch_batch *batch;      /* NULL: one task */
  struct mch_level *level;      /* of the pool's queue, until DONE; NULL: it was never there */
  uint64_t runid;
  int32_t priority;
  uint16_t attempt;        /* from 0 */
  uint8_t state;           /* enum mch_task_state */
  uint8_t stop;            /* 0, or the enum mch_kind that it must end with */
  uint32_t ticket;         /* the engine's */
  void *holder;            /* the engine's: who has it; NULL: nobody */
  uint32_t codes;          /* count of bytecode ids (u32) at the front of `body` */
  size_t length;           /* bytes of `body` and of the cargo */
  struct mch_cargo *cargo; /* a graph that is large, until the task is DONE; NULL: see `body` */
  struct mch_cargo *ahead; /* held by it and by the pieces that came; the owner's anchor is what
                              they became. NULL: none came */
  size_t ahead_bytes;      /* of the pieces that came */
  unsigned char body[];    /* ids, then the graph unless it is cargo */
};

/* The graph of a task that is not DONE, in pieces. */
struct mch_body mch_task_graph(const struct mch_task *task);

/* How a task ended, and what it returned. */
struct mch_result {
  enum mch_kind kind;
  int pid;          /* of the worker, 0: none */
  int signal;       /* KILLED: by which, 0: unknown */
  int exitcode;     /* EXITED */
  uint64_t elapsed; /* nanoseconds of run time */
  uint64_t maxrss;  /* bytes, 0: unknown */
  char *text;       /* why, worded by this side; NULL: see the graph */
  char *progress;   /* where its bar stood when its worker died, or NULL */
  int graph_is_log; /* the graph is the last log record of a task whose worker died */
  int perhaps_oom;  /* KILLED, and the kernel killed somebody for want of memory */
  size_t length;
  const unsigned char *graph; /* the worker's values; for ERROR see ltask */
  void *memory;               /* what `graph` is in; NULL: `inlined` */
  unsigned char inlined[];
};

/* Tasks that it stands for. */
static inline uint32_t mch_task_count(const struct mch_task *task) {
  return task->batch != NULL ? task->batch->count : 1;
}

/* A batch of the items of `batch` from `number` on, with a copy of what they need; `batch` stays as
 * it is. NULL: no memory. */
struct mch_task *mch_task_split(const struct mch_task *batch, uint32_t number);
void mch_task_free(struct mch_task *task);

/* A result with a copy of `length` bytes of graph, or NULL. `text` is copied, NULL for none. */
struct mch_result *mch_result_new(enum mch_kind kind, const char *text, const void *graph,
                                  size_t length);
/* The same without a copy: the result takes over `memory`, in which the graph is, also on failure.
 */
struct mch_result *mch_result_adopt(enum mch_kind kind, void *memory, const unsigned char *graph,
                                    size_t length);
void mch_result_free(struct mch_result *result);

/* What an engine tells its pool. */
struct mch_events {
  void *ud;
  /* The task ended; the result is the pool's from now on. */
  void (*finished)(void *ud, struct mch_task *task, struct mch_result *result);
  /* The task was submitted and provably never started: it goes back to the head of the queue. */
  void (*returned)(void *ud, struct mch_task *task);
  /* The next item of a batch has this OK answer; or ended in another way (see failed). */
  void (*answered)(void *ud, struct mch_task *batch, const unsigned char *graph, size_t length);
  /* The next `count` items have these OK answers: `length` bytes of records as in ITEMS. */
  void (*answered_many)(void *ud, struct mch_task *batch, const unsigned char *records,
                        size_t length, uint32_t count);
  /* It ended in this way; NULL: there was no memory to say how. */
  void (*failed)(void *ud, struct mch_task *batch, struct mch_result *result);
  /* A batch is over, its items ran for so many nanoseconds. All are answered or split off. */
  void (*batch_over)(void *ud, struct mch_task *batch, uint64_t elapsed);
  /* The items of a batch that were at its end are a batch of their own, `rest`, never begun. */
  void (*split)(void *ud, struct mch_task *batch, struct mch_task *rest);
  /* A piece of the task's result came ahead. */
  void (*ahead)(void *ud, struct mch_task *task, const unsigned char *piece, size_t length);
  /* A log record came; to be handed to Lua on the owner's thread before later results. */
  void (*log)(void *ud, const unsigned char *graph, size_t length);
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
  const char *name; /* not terminated */
  size_t name_length;
  const unsigned char *graph; /* NULL: there was no memory for it, the task is to fail */
  size_t length;
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
  /* Bytecode came. */
  void (*code)(void *ud, uint32_t id, const unsigned char *bytes, size_t length);
  /* Raise an error in the running task as soon as may be. Called from a signal handler. */
  void (*interrupt)(void *ud);
  /* The same once more, if the task has met that error and runs on. NULL: it is not told again. */
  void (*insist)(void *ud);
  /* No task runs, the last answer has gone: forget an interrupt that came too late, and let go of
   * what is not needed any more. */
  void (*calm)(void *ud);
  /* Names the format of bytecode and graphs; a worker with another one is refused. */
  const char *format;
};

struct mch_engine_config {
  unsigned nworkers;
  uint64_t timeout;              /* nanoseconds; 0: none */
  uint64_t max_tasks_per_worker; /* 0: no limit */
  int snapshot;  /* one fork for each task, which finds its work in the memory it was forked with */
  int bars;      /* show the bars of tasks */
  int log_level; /* the lowest level of log records that is wanted */
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
};

struct mch_worker_info {
  int pid;
  int busy; /* runid is valid */
  uint64_t runid;
  uint64_t tasks; /* ended so far */
  unsigned slot;  /* from 1; that of a worker that has gone is its replacement's */
  uint64_t maxrss;
};

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
  /* Take back a submitted batch that has not begun: 1 (it has come by returned()), or 0. */
  int (*reclaim)(struct mch_engine *engine, struct mch_task *batch);
  /* Take back those of its items from `number` on that have not begun: they come by split(). */
  void (*shorten)(struct mch_engine *engine, struct mch_task *batch, uint32_t number);
  /* Take back submitted tasks that have not begun and are less urgent than `priority`. */
  void (*recall)(struct mch_engine *engine, int32_t priority);
  /* Let go of what was submitted: it may have been kept to send several at once. */
  void (*flush)(struct mch_engine *engine);
  /* Do all that can be done now. `queued`: tasks that wait in the pool. */
  void (*pump)(struct mch_engine *engine, int owner, size_t queued);
  /* Whether a worker has little left to do: it is time for a pump. Costs next to nothing. */
  int (*hungry)(struct mch_engine *engine);
  /* Whether workers are missing that add() would make now. */
  int (*short_of_workers)(struct mch_engine *engine, size_t queued);
  /* Make them (owner only); those for whom no task waits may take their time. 0, or an error when
   * there is not a single one after it. */
  int (*add)(struct mch_engine *engine, size_t queued, struct mch_error *error);
  /* When pump() has something to do again without any descriptor being ready; 0: at once. */
  uint64_t (*deadline)(struct mch_engine *engine);
  /* Tasks that run now; and what workers() lists. */
  unsigned (*running)(struct mch_engine *engine);
  size_t (*workers)(struct mch_engine *engine, struct mch_worker_info *infos, size_t room);
  /* Tell the workers the lowest level of log records that is wanted. */
  void (*log_threshold)(struct mch_engine *engine, int level);
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
};

struct mch_engine *mch_engine_fork_new(const struct mch_engine_config *config,
                                       struct mch_error *error);
struct mch_engine *mch_engine_inline_new(const struct mch_engine_config *config,
                                         struct mch_error *error);

/* A fork copies every lock as it stands, also those inside the C library. Threads of ours other
 * than an owner's do all their work between these two, and forks wait until none is between them.
 */
void mch_fork_hold_off(void);
void mch_fork_let_go(void);

#endif
