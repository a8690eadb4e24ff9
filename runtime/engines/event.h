/* Runs in: parent.
 *
 * What happens to tasks and workers, as a stream that a program can look at. The engine says what
 * only it can know (a worker began a task, came or went); the pool makes the events of that, keeps
 * them in their order, and the owner hands them over when nothing else is going on. Nobody listens:
 * none is made. */
#ifndef MCH_EVENT_H
#define MCH_EVENT_H

#include <stdint.h>

#include "runtime/wire/protocol.h"

struct mch_task;

/* name, word, fields besides type, number, time and clock. A time is in nanoseconds. */
#define MCH_EVENTS(X)                                                                              \
  X(QUEUED, "queued", "runid, about (name, function), priority, index, call")                      \
  X(STARTED, "started", "runid, attempt, pid, slot")                                               \
  X(EMITTED, "emitted", "runid, attempt, source, values")                                          \
  X(RETRIED, "retried", "runid, attempt, kind")                                                    \
  X(ENDED, "ended", "runid, about (name, result unless ok), index, all that is measured")          \
  X(WORKER_STARTED, "worker_started", "pid, slot")                                                 \
  X(WORKER_ENDED, "worker_ended", "pid, slot, why")

enum mch_event_type {
#define MCH_EVENT_CODE(name, word, fields) MCH_EVENT_##name,
  MCH_EVENTS(MCH_EVENT_CODE)
#undef MCH_EVENT_CODE
};

#define MCH_UNMEASURED UINT64_MAX

/* When and where a task ran. */
struct mch_course {
  int pid;                       /* 0: unknown */
  unsigned slot;                 /* from 1; 0: none */
  uint64_t started;              /* mch_now() of its worker; 0: unknown */
  uint64_t elapsed, cpu, maxrss; /* nanoseconds, bytes; MCH_UNMEASURED */
  const char *host;              /* lasts longer than the pool; NULL: this machine */
};

struct mch_event {
  enum mch_event_type type;
  enum mch_kind kind;
  uint64_t number; /* they are counted from 1 */
  uint64_t clock;  /* mch_now() when it happened */
  uint64_t time;   /* nanoseconds since 1970 */
  uint32_t count;  /* it stands for so many tasks with run IDs that follow each other */
  int begins;      /* ENDED: that the first of them began was not told */
  int many_begin;  /* likewise: nor that the others did */
  int found;       /* ENDED, EMITTED: it did not run, its result is from a journal */
  uint64_t runid;
  uint64_t index; /* number of the item in its map; 0: no item */
  uint64_t call;  /* which map of the pool; 0: none */
  int32_t priority;
  unsigned attempt; /* from 1 */
  struct mch_course course;
  uint64_t waited, sent, received; /* nanoseconds, bytes; MCH_UNMEASURED */
  const char *why;                 /* of static storage */
  struct mch_task *about; /* its own: a task without its values, with the result of one that failed;
                             NULL: nothing to say */
  int source;             /* EMITTED: the worker, as the engine knows it */
  unsigned char *values;  /* its own: `length` bytes of a graph */
  size_t length;
};

/* Free what it has. */
void mch_event_clear(struct mch_event *event);

const char *mch_event_word(enum mch_event_type type);
const char *mch_kind_word(enum mch_kind kind);

#endif
