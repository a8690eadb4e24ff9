/* Runs in: parent.
 *
 * What a failure does to the others of its group.
 *
 *     an end --count--> enough have failed: that task is the group's `cause`, which is kept
 *        pump --------> the others end: what waits as cancelled, what is between two attempts by
 *                       its last failure, what runs (NOW) is stopped
 *     run(), returned, split off --> ends at once
 *        `cause` is handed over (taken, or mch_pool_go_on()): tasks run again, counting begins anew
 *
 * Ends are counted inside of the engine's events, where nothing may be asked of it: so the others
 * end after its pump, before anything is submitted. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <stdlib.h>

#include "runtime/engines/task.h"

enum { LEAST_OF_SHARE = 3 }; /* failures; fewer are chance */

void mch_halt_count_ok(struct mch_group *group, uint32_t count) {
  group->ended += count;
}

static int is_enough(const struct mch_group *group) {
  if (group->halt.how == MCH_HALT_NEVER)
    return 0;
  if (group->halt.after > 0)
    return group->failed >= group->halt.after;
  return group->failed >= LEAST_OF_SHARE &&
         (double)group->failed >= group->halt.share * (double)group->ended;
}

/* This task has ended, and not well. */
void mch_halt_count_failure(struct mch_pool *pool, struct mch_task *task) {
  struct mch_group *group = task->group;
  if (task->result->kind == MCH_KIND_CANCELLED)
    return;
  mch_task_free(task->cause); /* it was to be stopped, and has ended before */
  task->cause = NULL;
  group->ended++;
  group->failed++;
  if (group->cause != NULL || group->abandoned || !is_enough(group))
    return;
  group->cause = mch_task_hold(task);
  task->halts = 1;
  pool->halting = 1;
}

void mch_halt_forget(struct mch_group *group) {
  mch_task_free(group->cause);
  group->cause = NULL;
  group->ended = group->failed = 0;
}

static void name_cause(struct mch_task *task) {
  if (task->cause == NULL)
    task->cause = mch_task_hold(task->group->cause);
}

/* A task that is with nobody ends because of its group's cause. */
void mch_halt_end(struct mch_pool *pool, struct mch_task *task) {
  name_cause(task);
  mch_ends_end_task(pool, task, MCH_KIND_CANCELLED, NULL);
}

/* It is not tried again: how its last attempt ended is its end. */
static void end_paused(struct mch_pool *pool, struct mch_task *task) {
  struct mch_result *last = task->result;
  task->result = NULL;
  mch_retry_leave(pool, task);
  mch_ends_set_done(pool, task, last);
}

/* What the engine has not begun comes back, and ends by that. What runs is stopped if it shall be.
 */
static void halt_submitted(struct mch_pool *pool, struct mch_task *task) {
  const struct mch_engine_ops *ops = pool->engine->ops;
  if (task->stop != 0 || ops->reclaim(pool->engine, task))
    return;
  if (task->batch != NULL) {
    ops->shorten(pool->engine, task, 0);
    if (task->batch->answered == task->batch->count)
      return;
  }
  if (task->group->halt.how != MCH_HALT_NOW)
    return;
  name_cause(task);
  task->stop = MCH_KIND_CANCELLED;
  ops->stop(pool->engine, task);
}

/* The others of halted groups end. */
void mch_halt_carry_out(struct mch_pool *pool) {
  uint64_t runid;
  if (!pool->halting)
    return;
  pool->halting = 0;
  mch_output_begin_stop(pool->output); /* their bars move up together */
  for (runid = pool->base; runid < pool->next_runid; runid++) {
    struct mch_task *task = *mch_index_slot(pool, runid);
    if (task == NULL || task->group->cause == NULL)
      continue;
    if (task->state == MCH_TASK_SUBMITTED)
      halt_submitted(pool, task);
    else if (task->state == MCH_TASK_PAUSED)
      end_paused(pool, task);
    else if (task->state == MCH_TASK_QUEUED) {
      mch_queue_remove(&pool->queue, task);
      mch_halt_end(pool, task);
    }
  }
}

void mch_pool_go_on(struct mch_pool *pool, struct mch_group *group, uint64_t runid) {
  pthread_mutex_lock(&pool->lock);
  if (group->cause != NULL && group->cause->runid == runid)
    mch_halt_forget(group);
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_free_group(struct mch_group *group) {
  mch_task_free(group->cause);
  free(group);
}
