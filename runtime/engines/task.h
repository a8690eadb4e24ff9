/* Runs in: parent.
 *
 * What a task, a batch of items and a result are; how they are made, split and freed. Knows neither
 * pools nor engines. */
#ifndef MCH_TASK_H
#define MCH_TASK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "runtime/base/buf.h"
#include "runtime/wire/cargo.h"
#include "runtime/wire/protocol.h"

struct mch_group;
struct mch_record;

/* What few tasks have. */
struct mch_task_extra {
  uint64_t timeout;  /* nanoseconds of run time; 0: the pool's */
  uint64_t index;    /* of an item that is not in a batch: the caller's number; 0: it is no item */
  uint64_t stream;   /* of its random numbers, if it is `keyed`; else that of its run ID */
  uint64_t delay;    /* nanoseconds before the next attempt */
  uint64_t due;      /* PAUSED: when that is */
  size_t place;      /* PAUSED: in the pool's list of those */
  unsigned retries;  /* extra attempts, at most UINT16_MAX, after the kinds of ends in `retry_on` */
  unsigned retry_on; /* by bits: 1 << enum mch_kind */
  int keyed;
  struct mch_record *record; /* of its recorder, while that wants to know its end; or NULL */
  size_t name_length;
  char name[]; /* not terminated */
};

/* What a task has that stands for many: items of one function, with run IDs that follow each other.
 * Its body is ids, the function's graph, and for each item u32 length and graph. */
struct mch_batch {
  uint32_t count;           /* items, those answered included */
  uint32_t answered;        /* from the first on */
  uint32_t whole;           /* items in the task's body: more than `count` once it was split */
  uint32_t kept;            /* items that the pool's index still leads to this task for */
  uint32_t function_length; /* bytes of the function's graph */
  uint64_t index;           /* the caller's number of the first item */
  /* The pool's: answers that were not taken, from item `from` on, as records: u8 length (1 to
   * MCH_RECORD_MAX) and a graph; MCH_ANSWER_LONG, u32 length and a graph; or MCH_ANSWER_APART. */
  struct mch_buf answers;
  uint32_t from;
  int lost;       /* there was no memory for an answer: it and those behind it are not there */
  int listed;     /* in its group's list of results */
  size_t next_at; /* where in the body item `next` is, for who asks for one after the other */
  uint32_t next;
  uint32_t timed;      /* answered items whose own time was told */
  uint64_t timed_span; /* nanoseconds that these took */
};

/* In the place of an answer's length: a u32 has it; the item is a task of its own now. */
#define MCH_ANSWER_LONG 255u
#define MCH_ANSWER_APART 0u

enum mch_task_state {
  MCH_TASK_QUEUED,    /* in the pool's queue */
  MCH_TASK_SUBMITTED, /* with the engine */
  MCH_TASK_PAUSED,    /* has failed, and waits for its next attempt */
  MCH_TASK_DONE       /* has a result, waits to be received */
};

struct mch_task {
  struct mch_task *next, *previous; /* in the pool's queue or its group's list of results */
  struct mch_group *group;
  struct mch_task_extra *extra; /* NULL: nothing special */
  struct mch_result *result;    /* when DONE or PAUSED */
  struct mch_task *cause;       /* a failed one that is why this was cancelled (held), or NULL */
  struct mch_batch *batch;      /* NULL: one task */
  struct mch_level *level;      /* of the pool's queue, until DONE; NULL: it was never there */
  uint64_t runid;
  uint64_t index;    /* the caller's number of an item, or of the first of a batch; 0: no item */
  uint64_t accepted; /* when it was */
  uint64_t said;     /* the event that told its end, of a batch the last one; 0: none did */
  int32_t priority;
  uint16_t attempt;        /* from 0 */
  uint32_t told;           /* attempts, of a batch items, that were told to have started */
  uint8_t state;           /* enum mch_task_state */
  uint8_t stop;            /* 0, or the enum mch_kind that it must end with */
  uint8_t careful;         /* its failure may be the end of others: see MCH_OPTION_CAREFUL */
  uint8_t halts;           /* others were halted by its failure */
  uint8_t borrows;         /* `result` is not its own */
  _Atomic uint32_t holds;  /* by others than who frees it */
  uint32_t ticket;         /* the engine's */
  void *holder;            /* the engine's: who has it; NULL: nobody */
  uint32_t codes;          /* count of bytecode ids (u32) at the front of `body` */
  uint8_t noted;           /* that it failed: see mch_pool_untold() */
  uint8_t found;           /* it did not run: its result comes from a journal */
  size_t length;           /* bytes of `body` and of the cargo */
  struct mch_cargo *cargo; /* a graph that is large, until the task is DONE; NULL: see `body` */
  struct mch_cargo *early; /* held by it and by the pieces that came; the owner's anchor is what
                              they became. NULL: none came. Of a task that was found: what the
                              owner needs to rebuild it */
  size_t early_bytes;      /* of the pieces that came */
  unsigned char body[];    /* ids, then the graph unless it is cargo */
};

/* The graph of a task that is not DONE, in pieces. */
struct mch_body mch_task_graph(const struct mch_task *task);

/* How a task ended, and what it returned. */
struct mch_result {
  enum mch_kind kind;
  int pid;            /* of the worker, 0: none */
  int signal;         /* KILLED: by which, 0: unknown */
  int exitcode;       /* EXITED */
  uint64_t elapsed;   /* nanoseconds of run time */
  uint64_t maxrss;    /* bytes, 0: unknown */
  char *text;         /* why, worded by this side; NULL: see the graph */
  char *progress;     /* where its bar stood when its worker died, or NULL */
  const char *host;   /* where it ran, as in struct mch_course */
  int whole;          /* `text` is all that there is to say */
  int graph_is_log;   /* the graph is the last log record of a task whose worker died */
  int begun;          /* the task was; the next two say more of that */
  unsigned slot;      /* of the worker, from 1; 0: none */
  uint64_t started;   /* when, by its worker's clock (mch_now); 0: unknown */
  uint64_t cpu;       /* nanoseconds of processor time; MCH_UNMEASURED */
  atomic_uint shared; /* further owners */
  int perhaps_oom;    /* KILLED, and the kernel killed somebody for want of memory */
  size_t length;
  const unsigned char *graph; /* the worker's values; for ERROR see ltask */
  void *memory;               /* what `graph` is in; NULL: `inlined` */
  unsigned char inlined[];
};

/* Tasks that it stands for. */
static inline uint32_t mch_task_count(const struct mch_task *task) {
  return task->batch != NULL ? task->batch->count : 1;
}

/* Whether it is to begin before the other: by priority, then by age. */
static inline int mch_task_goes_before(const struct mch_task *task, const struct mch_task *other) {
  return task->priority != other->priority ? task->priority > other->priority
                                           : task->runid < other->runid;
}

/* What names its random numbers. */
static inline uint64_t mch_task_stream(const struct mch_task *task) {
  return task->extra != NULL && task->extra->keyed ? task->extra->stream : task->runid;
}

/* A batch of the items of `batch` from `number` on, with a copy of what they need; `batch` stays as
 * it is. NULL: no memory. */
struct mch_task *mch_task_split(const struct mch_task *batch, uint32_t number);
/* What there is to say about a task without its values: run ID, name, and what tells where its
 * function is from. NULL: no memory. */
struct mch_task *mch_task_about(const struct mch_task *task);
/* Bytes of the next item of a batch. */
size_t mch_task_item_length(const struct mch_task *batch);
/* With its result; when nobody holds it any more. */
void mch_task_free(struct mch_task *task);
/* It is needed once more until another mch_task_free(). */
struct mch_task *mch_task_hold(struct mch_task *task);

/* A result with a copy of `length` bytes of graph, or NULL. `text` is copied, NULL for none. */
struct mch_result *mch_result_new(enum mch_kind kind, const char *text, const void *graph,
                                  size_t length);
/* A result without a copy: it takes over `memory`, in which the graph is, also on failure (NULL).
 */
struct mch_result *mch_result_adopt(enum mch_kind kind, void *memory, const unsigned char *graph,
                                    size_t length);
/* One more owner frees it. */
struct mch_result *mch_result_share(struct mch_result *result);
void mch_result_free(struct mch_result *result);

/* A task whose body is `codes` ids and `length` bytes of graph; the caller's until mch_pool_run()
 * takes it. NULL: no memory. */
struct mch_task *mch_task_new(const uint32_t *ids, uint32_t codes, const void *graph,
                              size_t length);
/* Give such a task its graph as cargo instead, which is the task's from now on. */
void mch_task_carry(struct mch_task *task, struct mch_cargo *cargo);

/* A batch: a task for `count` items of one function. Of the `length` bytes of `graph` the first
 * `function_length` are the function's; then come the items, u32 length and graph each. `index` is
 * the caller's number of the first one. NULL: no memory. */
struct mch_task *mch_batch_new(const uint32_t *ids, uint32_t codes, const void *graph,
                               size_t length, size_t function_length, uint32_t count,
                               uint64_t index);

#endif
