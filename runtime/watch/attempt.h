/* Runs in: both.
 *
 * An attempt of a task as a box in a lane, made of the events that tell of its begin and end. */
#ifndef MCH_ATTEMPT_H
#define MCH_ATTEMPT_H

#include <stdint.h>

#include "lanes.h"
#include "runtime/base/buf.h"
#include "runtime/wire/protocol.h"

struct mch_told;

struct mch_attempt {
  uint64_t runid, index;        /* index 0: it is no item */
  uint64_t started, elapsed;    /* nanoseconds */
  uint64_t waited, cpu, maxrss; /* MCH_UNMEASURED: not known */
  enum mch_kind kind;
  unsigned number;  /* from 1 */
  int worker;       /* process; 0: not known */
  const char *host; /* NULL: this machine */
};

/* An event STARTED: what runs in the lane from now on. */
void mch_attempt_begin(struct mch_lane *lane, const struct mch_told *told);

/* Whether an event ENDED or RETRIED is about something that had begun. */
int mch_attempt_had_begun(const struct mch_told *told);

/* The i-th attempt of `event->count` that such an event is about. Boxes of a lane never overlap,
 * whatever the clocks say: it begins when the one before has ended at the earliest. */
void mch_attempt_end(struct mch_attempt *attempt, struct mch_lane *lane,
                     const struct mch_told *told, uint32_t i);

/* The same of an attempt that was made elsewhere: let it begin no earlier than it can in this lane.
 */
void mch_attempt_fit(struct mch_attempt *attempt, struct mch_lane *lane);

/* Append what the task is called: its name, else where its function is, else its number. */
void mch_attempt_name(struct mch_buf *name, const struct mch_told *told, uint64_t runid);

#endif
