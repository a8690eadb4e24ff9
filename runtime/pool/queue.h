/* Runs in: parent.
 *
 * Tasks that wait: the most urgent first, equal ones by run ID. A level is there for each priority
 * that a task which has not ended has, so that a task which comes back finds its own without
 * memory; it goes with the last of them. Levels are a tree with more urgent ones to the left (a
 * treap: a node's weight, drawn by lot, is below its parent's), each with what is in its part:
 *
 *              5          first, last: tasks 7 <-> 12 <-> 13, by rising run ID
 *            /   \        waits, away: whether any task here or below waits, is with the engine
 *          9      0
 */
#ifndef MCH_QUEUE_H
#define MCH_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/engines/task.h"

struct mch_level;

struct mch_queue {
  struct mch_level *root; /* NULL: no task has entered */
  size_t count;           /* tasks that wait */
  uint64_t lots;          /* the last weight drawn */
};

/* A task comes into being, its priority is known: it has a level from now on. 0, or MCH_NOMEM. */
int mch_queue_enter(struct mch_queue *queue, struct mch_task *task);
/* A task comes into being that has the priority of `other`, which has not left: it shares the level
 * of that one, and no memory is needed. */
void mch_queue_enter_with(struct mch_task *task, const struct mch_task *other);
/* It has ended. Nothing happens to one that never entered. */
void mch_queue_leave(struct mch_queue *queue, struct mch_task *task);

/* It waits, or no longer. Next to those that came shortly before it is found fast. */
void mch_queue_add(struct mch_queue *queue, struct mch_task *task);
void mch_queue_remove(struct mch_queue *queue, struct mch_task *task);
/* The task whose turn it is; NULL: none waits. */
struct mch_task *mch_queue_head(const struct mch_queue *queue);
/* The task whose turn is after that of `task`, which waits; NULL: it is the last. */
struct mch_task *mch_queue_next(const struct mch_queue *queue, const struct mch_task *task);

/* The engine has it (`away` = 1), or no longer. */
void mch_queue_send(struct mch_queue *queue, struct mch_task *task, int away);
/* Whether a new task of this priority is to overtake some that the engine has. */
int mch_queue_overtakes(const struct mch_queue *queue, int32_t priority);

/* Levels in use. */
size_t mch_queue_levels(const struct mch_queue *queue);

void mch_queue_free(struct mch_queue *queue);

#endif
