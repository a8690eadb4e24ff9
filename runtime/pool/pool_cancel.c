/* Runs in: parent.
 *
 * Cancelling: a task, many, an item of a batch, a group that is abandoned. What waits ends here;
 * what runs is stopped by the engine, and ends when that says so. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <pthread.h>

#include "runtime/base/buf.h"
#include "runtime/base/grow.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"

/* 0: it had ended, 1: it ends now, 2: it runs; its end comes later. */
static int cancel(struct mch_pool *pool, struct mch_task *task);

/* -- groups ------------------------------------------------------------------------------- */

static void drop_finished(struct mch_pool *pool, struct mch_group *group) {
  while (group->first != NULL) {
    struct mch_task *task = group->first;
    struct mch_answers answers;
    if (task->batch != NULL) {
      mch_take_answers(pool, task, &answers);
      mch_buf_free(&answers.graphs);
    } else {
      mch_take_done(pool, task);
      mch_pool_discard(pool, task);
    }
  }
}

void mch_pool_abandon(struct mch_pool *pool, struct mch_group *group) {
  uint64_t runid;
  pthread_mutex_lock(&pool->lock);
  drop_finished(pool, group);
  mch_output_begin_stop(pool->output);
  /* The group is kept by `abandoned` = 0 while its tasks are looked up; ends come in between. */
  for (runid = pool->next_runid; group->unfinished > 0 && runid-- > pool->base;) {
    struct mch_task *task = *mch_index_slot(pool, runid);
    if (task != NULL && task->group == group && mch_ends_is_open(task, runid))
      cancel(pool, task);
  }
  drop_finished(pool, group);
  mch_halt_forget(group);
  pool->coming -= group->coming;
  group->coming = 0;
  group->abandoned = 1;
  pool->open_groups--;
  mch_ends_free_if_idle(group);
  mch_take_unlock(pool);
}

/* -- tasks and items ---------------------------------------------------------------------- */

static void end_queued(struct mch_pool *pool, struct mch_task *task) {
  mch_queue_remove(&pool->queue, task);
  mch_ends_end_task(pool, task, MCH_KIND_CANCELLED, NULL);
}

/* The item of a begun batch that runs, if one does. */
static int cancel_running(struct mch_pool *pool, struct mch_task *task) {
  if (task->batch->answered == task->batch->count)
    return 0;
  task->stop = MCH_KIND_CANCELLED;
  pool->engine->ops->stop(pool->engine, task);
  return task->stop != 0 ? 2 : 0;
}

/* All items of a batch that have not ended. */
static int cancel_batch(struct mch_pool *pool, struct mch_task *task) {
  uint64_t end = task->runid + task->batch->count;
  if (task->stop != 0)
    return 2;
  if (task->state == MCH_TASK_SUBMITTED)
    pool->engine->ops->reclaim(pool->engine, task);
  if (task->state == MCH_TASK_QUEUED) {
    end_queued(pool, task);
    return 1;
  }
  pool->engine->ops->shorten(pool->engine, task, 0);
  if (task->runid + task->batch->count < end)
    end_queued(pool, *mch_index_slot(pool, task->runid + task->batch->count));
  return cancel_running(pool, task);
}

/* Cut one item out of a batch in the queue, and end it. */
static int cut_item(struct mch_pool *pool, struct mch_task *task, uint32_t number) {
  struct mch_task *after = NULL, *single = NULL;
  if (number + 1 < task->batch->count && (after = mch_task_split(task, number + 1)) == NULL)
    return 0;
  if (number > 0 && (single = mch_task_split(task, number)) == NULL) {
    mch_task_free(after);
    return 0;
  }
  mch_queue_remove(&pool->queue, task);
  if (after != NULL) {
    task->batch->count = number + 1;
    mch_ends_split(pool, task, after, 0);
  }
  if (single != NULL) { /* it was split off with what is behind it */
    single->batch->count = single->batch->kept = 1;
    task->batch->count = number;
    mch_ends_adopt(pool, task, single);
    mch_queue_add(&pool->queue, task);
  }
  mch_ends_end_task(pool, single != NULL ? single : task, MCH_KIND_CANCELLED, NULL);
  return 1;
}

/* Where the item is among those that are to end as cancelled; NULL: it is not. */
static uint64_t *find_unwanted(const struct mch_pool *pool, uint64_t runid) {
  size_t i;
  for (i = 0; i < pool->unwanted_count; i++)
    if (pool->unwanted[i] == runid)
      return &pool->unwanted[i];
  return NULL;
}

/* The engine will say what has become of it: whatever that is, the item ends as cancelled. */
static int cancel_item_there(struct mch_pool *pool, struct mch_task *task, uint64_t runid) {
  uint64_t *unwanted;
  if (find_unwanted(pool, runid) != NULL)
    return 2;
  unwanted =
      mch_grow(pool->unwanted, &pool->unwanted_room, pool->unwanted_count + 1, sizeof *unwanted);
  if (unwanted == NULL)
    return 0;
  pool->unwanted = unwanted;
  pool->unwanted[pool->unwanted_count++] = runid;
  pool->engine->ops->stop_item(pool->engine, task, (uint32_t)(runid - task->runid));
  return 2;
}

int mch_cancel_is_due(struct mch_pool *pool, uint64_t runid) {
  uint64_t *unwanted = find_unwanted(pool, runid);
  if (unwanted == NULL)
    return 0;
  *unwanted = pool->unwanted[--pool->unwanted_count];
  return 1;
}

static int cancel_item(struct mch_pool *pool, struct mch_task *task, uint64_t runid) {
  uint32_t number = (uint32_t)(runid - task->runid);
  if (!mch_ends_is_open(task, runid))
    return 0;
  if (task->state == MCH_TASK_SUBMITTED && !pool->engine->ops->reclaim(pool->engine, task)) {
    if (pool->engine->ops->stop_item != NULL)
      return cancel_item_there(pool, task, runid);
    pool->engine->ops->shorten(pool->engine, task, number);
    /* Still there: it has begun; if others have after it, it is over. */
    if (*mch_index_slot(pool, runid) == task)
      return number + 1 == task->batch->count ? cancel_running(pool, task) : 0;
    task = *mch_index_slot(pool, runid);
    number = 0;
  }
  return cut_item(pool, task, number);
}

void mch_cancel_again(struct mch_pool *pool, const struct mch_task *task) {
  uint64_t first = task->runid, count = mch_task_count(task);
  size_t i = pool->unwanted_count;
  while (i-- > 0) {
    uint64_t runid = i < pool->unwanted_count ? pool->unwanted[i] : first + count;
    struct mch_task *now;
    if (runid - first >= count)
      continue;
    now = *mch_index_slot(pool, runid);
    if (now->state == MCH_TASK_QUEUED)
      cut_item(pool, now, (uint32_t)(runid - now->runid)); /* which forgets it */
  }
}

static int cancel(struct mch_pool *pool, struct mch_task *task) {
  if (task == NULL || task->state == MCH_TASK_DONE)
    return 0;
  if (task->batch != NULL)
    return cancel_batch(pool, task);
  mch_retry_never(task);
  if (task->stop != 0)
    return 2;
  task->stop = MCH_KIND_CANCELLED;
  if (task->state == MCH_TASK_SUBMITTED) {
    pool->engine->ops->stop(pool->engine, task);
    return task->state == MCH_TASK_DONE ? 1 : 2;
  }
  if (task->state == MCH_TASK_PAUSED)
    mch_retry_leave(pool, task);
  else
    mch_queue_remove(&pool->queue, task);
  mch_ends_set_done(pool, task, mch_result_new(MCH_KIND_CANCELLED, NULL, NULL, 0));
  return 1;
}

int mch_cancel_one(struct mch_pool *pool, uint64_t runid) {
  struct mch_task *task;
  mch_output_begin_stop(pool->output);
  task = mch_index_find(pool, runid);
  return task != NULL && task->batch != NULL ? cancel_item(pool, task, runid) : cancel(pool, task);
}

int mch_pool_cancel(struct mch_pool *pool, uint64_t runid) {
  int was;
  pthread_mutex_lock(&pool->lock);
  was = mch_cancel_one(pool, runid);
  pthread_mutex_unlock(&pool->lock);
  return was;
}

static int is_told_to_run(struct mch_engine *engine, uint64_t runid) {
  enum { MOST = 256 };
  struct mch_worker_info infos[MOST];
  size_t count = engine->ops->workers(engine, infos, MOST);
  return count == MOST || mch_is_run_by(infos, count, runid);
}

int mch_pool_what_was_cancelled(struct mch_pool *pool, uint64_t runid) {
  const struct mch_task *task;
  int was = 2;
  pthread_mutex_lock(&pool->lock);
  task = pool->engine->ops->stop_item != NULL ? mch_index_find(pool, runid) : NULL;
  if (task != NULL && task->batch == NULL) {
    if (task->state == MCH_TASK_DONE)
      was = task->result == NULL || !task->result->begun ? 1 : 2;
    else
      was = is_told_to_run(pool->engine, runid) ? 2 : 0;
  }
  pthread_mutex_unlock(&pool->lock);
  return was;
}

void mch_pool_cancel_all(struct mch_pool *pool, const struct mch_group *group, uint64_t limit) {
  uint64_t runid;
  pthread_mutex_lock(&pool->lock);
  mch_output_begin_stop(pool->output);
  for (runid = limit < pool->next_runid ? limit : pool->next_runid; runid-- > pool->base;) {
    struct mch_task *task = *mch_index_slot(pool, runid);
    if (task != NULL && (group == NULL || task->group == group))
      cancel(pool, task);
  }
  pthread_mutex_unlock(&pool->lock);
}
