/* Runs in: child only (the handle exists nowhere else).
 *
 * A worker's whole life: send HELLO, take a task, run it, answer, leave by _exit. */
#ifndef MCH_WORKER_H
#define MCH_WORKER_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/wire/channel.h"
#include "runtime/base/chaos.h"
#include "runtime/base/memory.h"
#include "engine.h"
#include "runtime/wire/protocol.h"

struct mch_worker {
  struct mch_channel channel; /* to the pool */
  struct mch_shared *shared;
  int pid;
  struct mch_mark mark; /* whether this process is the worker, or a fork that a task made of it */
  int begun;            /* of the file whose position says what was begun; -1: none */
  uint32_t passed;      /* the last ticket taken off the stream */
  uint64_t since;       /* when what runs was begun, as the page has it */
  uint32_t noted;       /* of the batch that runs: items below it are noted there as begun */
  int exact;            /* of its next items so many are noted one by one */
  int precise_for;      /* so many are timed more precisely after one that seemed to take long */
  int owner;            /* the process whose pool this is */
  int lifeline;         /* read end */
  int pipes[2];     /* own copies of the ends that are stdout and stderr, to ask for positions */
  uint64_t told[2]; /* the positions last told */
  uint64_t fastest_ask; /* nanoseconds that the fastest of these questions took; 0: none yet */
  struct mch_runner runner;
  uint64_t runid;          /* of the running task */
  _Atomic uint32_t ticket; /* of the running task; 0: none */
  atomic_int preparing;    /* `init` or `fini` runs: whatever stop comes is for it */
  uint16_t attempt;
  char name[MCH_NAME_MAX];     /* likewise */
  int forgettable;             /* its message is only its own */
  struct mch_buf spans;        /* struct mch_span: what is between the bytes of its answer */
  uint64_t bars;               /* count of bars started, for their ids */
  uint64_t bar_slots;          /* bit i: shared->bars[i] is in use */
  const struct mch_task *only; /* the one task that this worker was forked for, or NULL */
  uint64_t maxrss;             /* as last asked for */
  unsigned maxrss_age;         /* tasks since */
  uint64_t cpu;                /* processor time used when the task began; MCH_UNMEASURED */
  uint64_t emitted;            /* bytes of all EMITTED so far */
  uint64_t max_memory;         /* leave after a task that left more of its own; 0: never */
  struct mch_own_memory own_memory;
  int spent;   /* leave after this task: the runner wants it, or its memory */
  int leaving; /* mch_worker_leave() runs: a second call ends at once */
  struct mch_chaos chaos;
};

/* Run tasks until the pool says QUIT or goes away. Never returns. */
void mch_worker_main(struct mch_worker *worker) __attribute__((noreturn));

/* Whether this process is not the worker but was forked from it by a task. It says nothing to the
 * pool; what is called here for it does nothing. */
int mch_worker_is_stranger(const struct mch_worker *worker);

/* If it is: it ends here with `status`, after flushing what it wrote. */
void mch_worker_end_stranger(const struct mch_worker *worker, int status);

/* End this process with `status`: what it wrote is flushed, the pool is told. Never returns. */
void mch_worker_leave(struct mch_worker *worker, int status) __attribute__((noreturn));

/* Send one log record. Blocks while the pool takes nothing; does not return when it has gone. */
void mch_worker_log(struct mch_worker *worker, const void *graph, size_t length);

/* Whether a message of so many bytes may be emitted now: what the pool's owner has yet to take is
 * bounded. 1, or 0: not yet; -1: nobody wants it. */
int mch_worker_may_emit(const struct mch_worker *worker, size_t length);
/* Emit values: as mch_worker_log(). */
void mch_worker_emit(struct mch_worker *worker, const void *graph, size_t length);

/* Send a piece of the task's result ahead. Never blocks: what the pool does not take now goes
 * before the next that is said. 1, or 0: no memory. Does not return when the pool has gone. */
int mch_worker_send_early(struct mch_worker *worker, const void *piece, size_t length);

/* The runner has read its task: the memory of the message may be given back. */
void mch_worker_forget_task(struct mch_worker *worker);

/* The lowest level of records that is wanted above. */
int mch_worker_log_threshold(const struct mch_worker *worker);

/* What mch_output_become_child() wants: bars go up to the pool. `ud` is the worker. */
struct mch_upstream mch_worker_upstream(struct mch_worker *worker);

/* In a child of this worker (a nested pool's): let go of what belongs to the worker. */
void mch_worker_disown(struct mch_worker *worker);

#endif
