/* Runs in: parent.
 *
 * The inside of a queue, for queue.c and its test. */
#ifndef MCH_QUEUE_STATE_H
#define MCH_QUEUE_STATE_H

#include "queue.h"

/* Tasks of one priority. */
struct mch_level {
  struct mch_level *left, *right; /* more urgent ones, less urgent ones */
  uint64_t weight;
  int32_t priority;
  int waits, away;               /* in the part of the tree from here on */
  struct mch_task *first, *last; /* that wait */
  struct mch_task *near;         /* of those the one that came back last, or a neighbour; or NULL */
  size_t submitted;              /* that are with the engine */
  size_t tasks;                  /* that have not ended */
};

#endif
