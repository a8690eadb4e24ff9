/* Runs in: a supervisor.
 *
 * What the files of the supervisor share. The life of a task here:
 *
 *     arrived --GRANT--> queued --submit--> with the fork engine --> FINISHED, OVER: forgotten
 *        |                 | ^                   |
 *        +--RECALL---------+ +---- returned -----+  it has not begun: RETURNED if it was asked for
 */
#ifndef MCH_HOSTS_SUPERVISOR_STATE_H
#define MCH_HOSTS_SUPERVISOR_STATE_H

#include "kept.h"
#include "supervisor.h"

/* A task of the pool that is here; `accepted` of the task is its ticket. */
struct here {
  struct here *next, *previous; /* in the queue */
  struct mch_task *task;
  uint32_t ticket;
  int granted, queued, submitted;
  int is_bare; /* it has begun, and its graph was let go */
};

/* A module that workers have asked for, and what the pool said. */
struct asked {
  struct asked *next;
  uint32_t request;
  enum { NOT_ASKED, ASKED, HAD, LACKED } state;
  struct mch_buf answer; /* as a worker gets it */
  int *waiting;          /* descriptors to answer by */
  size_t count;
  size_t length;
  char name[]; /* not terminated */
};

/* An answer on its way to a worker. */
struct reply {
  struct reply *next;
  int fd;
  const struct asked *asked;
  size_t sent;
};

struct supervisor {
  const struct mch_supervisor_config *config;
  struct mch_link *link;
  struct mch_engine *engine;           /* NULL: not configured yet */
  struct here *here[MCH_HOSTS_PLACES]; /* by ticket */
  uint32_t last_part;
  size_t count;
  struct here *first, *last; /* granted, and not with the engine */
  size_t queued;
  int recalling; /* what the engine returns goes back to the pool */
  int bodiless;  /* a TASK or BATCH came, and its BODY is next */
  int leaving;
  unsigned slots, wanted_slots; /* that it has; that the script wants */
  unsigned fleet_slots;         /* its share in a fleet; 0: it is in none */
  uint64_t owed;             /* failures of careful tasks of which the conclusions are not known */
  uint64_t flushed;          /* when what was said went last */
  uint64_t items;            /* of the batches that are here, those without an answer */
  uint64_t answered, looked; /* so many were since it was looked for work, then */
  struct mch_buf records;    /* answers that are not said yet: so many, of the batch */
  uint32_t record_count, record_ticket, record_pid, record_slot;
  uint64_t min_free, looked_at_memory;
  size_t large; /* tasks here with a large graph */
  uint64_t looked_at_workers, look_at, look_step;
  int scarce, told_busy;
  struct mch_buf head, scratch, told; /* told: the last WORKERS */
  struct mch_buf front;               /* of `records` */
  struct mch_kept kept;               /* large graphs, as the pool knows */
  struct asked *asked;
  struct reply *replies;
  uint32_t requests;
};

/* supervisor.c */

struct here *mch_supervisor_here(struct supervisor *self, uint32_t ticket);
void mch_supervisor_forget(struct supervisor *self, struct here *here);
/* A part of a batch that goes on here, by a ticket of its own. 0: it does not, and the task is the
 * caller's. */
uint32_t mch_supervisor_keep(struct supervisor *self, struct mch_task *part);
void mch_supervisor_return(struct supervisor *self, struct here *here);
void mch_supervisor_requeue(struct supervisor *self, struct here *here);
void mch_supervisor_look_soon(struct supervisor *self);
/* A message of the pool. 0, or -1: it may not say that. */
int mch_supervisor_hear(struct supervisor *self, const struct mch_link_event *event);

/* supervisor_tell.c: what goes up. */

void mch_supervisor_say(struct supervisor *self, unsigned type, const void *bytes, size_t length);
void mch_supervisor_say_hello(struct supervisor *self);
/* Before anything else is said, and before it goes: answers that were gathered. */
void mch_supervisor_say_records(struct supervisor *self);
void mch_supervisor_fail(struct supervisor *self, struct here *here, const char *why);
/* It never began, and ends in this way; of a batch that is its next item. */
void mch_supervisor_end(struct supervisor *self, struct here *here, enum mch_kind kind,
                        const char *why);
/* The items of `batch` behind its `count` are `rest` from now on, which goes on here, or back. */
void mch_supervisor_split(struct supervisor *self, const struct mch_task *batch,
                          struct mch_task *rest);
void mch_supervisor_fill_events(struct supervisor *self, struct mch_engine_config *engine);
void mch_supervisor_listen_to_output(struct supervisor *self, int joined);
void mch_supervisor_tell_workers(struct supervisor *self);

/* supervisor_ask.c: modules for workers. */

void mch_supervisor_hear_asks(struct supervisor *self);
int mch_supervisor_module(struct supervisor *self, struct mch_reader_of *reader);
void mch_supervisor_free_asks(struct supervisor *self);

#endif
