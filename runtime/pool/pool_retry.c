/* Runs in: parent.
 *
 * Attempts after the first one, and the pauses before them. Who waits so keeps its result, which is
 * its end if there will be no other attempt, and its level in the queue. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <stdlib.h>

#include "runtime/base/platform.h"
#include "runtime/engines/task.h"

static const uint64_t longest_delay = 60000000000u; /* to which pauses grow: 60 s */

/* Whether an attempt that ended so is followed by another one. */
int mch_retry_is_due(const struct mch_task *task, const struct mch_result *result) {
  enum mch_kind kind = result != NULL ? result->kind : MCH_KIND_ERROR;
  const struct mch_task_extra *extra = task->extra;
  return extra != NULL && task->attempt < extra->retries && kind != MCH_KIND_CANCELLED &&
         (extra->retry_on & 1u << kind) != 0 && task->stop != MCH_KIND_CANCELLED &&
         task->group->cause == NULL && !task->group->abandoned;
}

/* How this attempt ends is how the task does. */
void mch_retry_never(struct mch_task *task) {
  if (task->extra != NULL)
    task->extra->retries = 0;
}

/* -- the heap ----------------------------------------------------------------------------- */

static void put_at(struct mch_pool *pool, struct mch_task *task, size_t place) {
  pool->paused[place] = task;
  task->extra->place = place;
}

/* Move the task at this place to where it belongs, up or down. */
static void settle(struct mch_pool *pool, size_t at) {
  struct mch_task *task = pool->paused[at];
  uint64_t due = task->extra->due;
  size_t child;
  for (; at > 0 && pool->paused[(at - 1) / 2]->extra->due > due; at = (at - 1) / 2)
    put_at(pool, pool->paused[(at - 1) / 2], at);
  while ((child = 2 * at + 1) < pool->paused_count) {
    if (child + 1 < pool->paused_count &&
        pool->paused[child + 1]->extra->due < pool->paused[child]->extra->due)
      child++;
    if (pool->paused[child]->extra->due >= due)
      break;
    put_at(pool, pool->paused[child], at);
    at = child;
  }
  put_at(pool, task, at);
}

static int reserve(struct mch_pool *pool) {
  size_t room = pool->paused_room == 0 ? 16 : pool->paused_room * 2;
  struct mch_task **paused;
  if (pool->paused_count < pool->paused_room)
    return 1;
  paused = realloc(pool->paused, room * sizeof *paused);
  if (paused == NULL)
    return 0;
  pool->paused = paused;
  pool->paused_room = room;
  return 1;
}

/* -- pauses ------------------------------------------------------------------------------- */

static uint64_t pause_of(const struct mch_task *task) {
  uint64_t pause = task->extra->delay;
  unsigned i;
  for (i = 0; i < task->attempt && pause < longest_delay; i++)
    pause = 2 * pause < longest_delay ? 2 * pause : longest_delay;
  return pause;
}

/* It waits for its next attempt no longer; what it was is forgotten. */
static void begin_anew(struct mch_pool *pool, struct mch_task *task) {
  if (!task->borrows)
    mch_result_free(task->result);
  task->result = NULL;
  task->borrows = 0;
  task->stop = 0;
  task->attempt++;
  if (!pool->has_anew || task->priority > pool->anew)
    pool->anew = task->priority;
  pool->has_anew = 1;
  mch_queue_add(&pool->queue, task);
}

/* An attempt has ended with `result`, and another one follows. Without memory for a pause it
 * follows at once. */
void mch_retry_again(struct mch_pool *pool, struct mch_task *task, struct mch_result *result) {
  uint64_t pause = pause_of(task);
  mch_events_retried(pool, task, result);
  mch_ends_drop_early(task);
  task->result = result;
  if (pause == 0 || !reserve(pool)) {
    begin_anew(pool, task);
    return;
  }
  task->state = MCH_TASK_PAUSED;
  task->extra->due = mch_now() + pause;
  pool->paused[pool->paused_count] = task;
  settle(pool, pool->paused_count++);
}

/* Take it out of the list of those that are paused, with what it has of the last attempt. */
void mch_retry_leave(struct mch_pool *pool, struct mch_task *task) {
  size_t at = task->extra->place;
  struct mch_task *last = pool->paused[--pool->paused_count];
  if (last != task) {
    pool->paused[at] = last;
    settle(pool, at);
  }
  mch_result_free(task->result);
  task->result = NULL;
  task->stop = 0;
}

/* Those whose time has come wait for a worker again. */
void mch_retry_release(struct mch_pool *pool, uint64_t now) {
  while (pool->paused_count > 0 && pool->paused[0]->extra->due <= now) {
    struct mch_task *task = pool->paused[0];
    mch_retry_leave(pool, task);
    begin_anew(pool, task);
  }
}

uint64_t mch_retry_next(const struct mch_pool *pool) {
  return pool->paused_count > 0 ? pool->paused[0]->extra->due : MCH_NEVER;
}
