/* Runs in: parent.
 *
 * Receiving: hands results, answers of items, log records and early pieces of results to the owner.
 */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"

/* Whether all tasks have been taken, by which the bar has ended now. Owner only. */
int mch_take_all_taken(struct mch_pool *pool) {
  int over = pool->bar != NULL && pool->base == pool->next_runid && pool->coming == 0;
  if (over)
    mch_ends_end_bar(pool, MCH_BAR_FINISHED);
  return over;
}

/* -- log records and pieces --------------------------------------------------------------- */

int mch_pool_take_log(struct mch_pool *pool, struct mch_buf *to) {
  struct record *record;
  mch_buf_clear(to);
  pthread_mutex_lock(&pool->lock);
  record = pool->records;
  if (record != NULL) {
    pool->records = record->next;
    if (pool->records == NULL)
      pool->last_record = NULL;
    pool->record_bytes -= record->length;
    if (pool->records == NULL && pool->driver != NULL)
      mch_driver_notice(pool->driver); /* it may have rested because there were too many */
  }
  pthread_mutex_unlock(&pool->lock);
  if (record == NULL)
    return 0;
  mch_buf_append(to, record->graph, record->length);
  free(record);
  return 1;
}

int mch_pool_has_logs(struct mch_pool *pool) {
  int some;
  pthread_mutex_lock(&pool->lock);
  some = pool->records != NULL;
  pthread_mutex_unlock(&pool->lock);
  return some;
}

const struct mch_piece *mch_pool_piece(struct mch_pool *pool) {
  const struct piece *piece;
  pthread_mutex_lock(&pool->lock);
  piece = pool->pieces;
  pthread_mutex_unlock(&pool->lock);
  return piece != NULL ? &piece->head : NULL;
}

void mch_pool_drop_piece(struct mch_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  mch_ends_drop_piece(pool);
  pthread_mutex_unlock(&pool->lock);
}

/* -- results ------------------------------------------------------------------------------ */

static int has_failed(const struct mch_task *task) {
  return task->batch == NULL && task->result->kind != MCH_KIND_OK &&
         task->result->kind != MCH_KIND_CANCELLED;
}

/* It is the owner's from now on. */
void mch_take_done(struct mch_pool *pool, struct mch_task *task) {
  if (task == task->group->cause && !task->group->calling)
    mch_halt_forget(task->group);
  mch_ends_unlist(task);
  mch_ends_remove_bytes(task->group, mch_ends_result_size(task));
  task->group->finished--;
  task->group->untold -= has_failed(task) && !task->noted;
  mch_index_remove(pool, task->runid);
  pool->finished--;
}

/* The owner has taken one. When it was the last, the bar is shown as it ends: what is printed next
 * comes under it. */
void mch_take_unlock(struct mch_pool *pool) {
  int over = mch_take_all_taken(pool);
  pthread_mutex_unlock(&pool->lock);
  if (over)
    mch_output_flush(pool->output);
}

/* Take the answers of a batch that is listed. */
void mch_take_answers(struct mch_pool *pool, struct mch_task *task, struct mch_answers *answers) {
  struct mch_batch *batch = task->batch;
  uint32_t i;
  memset(answers, 0, sizeof *answers);
  answers->graphs = batch->answers;
  mch_ends_remove_bytes(task->group, batch->answers.length);
  memset(&batch->answers, 0, sizeof batch->answers);
  answers->index = batch->index + batch->from;
  answers->runid = task->runid + batch->from;
  answers->count = batch->answered - batch->from;
  for (i = batch->from; i < batch->answered; i++)
    if (mch_index_find(pool, task->runid + i) == task) {
      mch_index_remove(pool, task->runid + i);
      answers->taken++;
    }
  batch->kept -= answers->taken;
  task->group->finished -= answers->taken;
  pool->finished -= answers->taken;
  batch->from = batch->answered;
  batch->listed = 0;
  mch_ends_unlist(task);
  mch_ends_free_if_over(task);
}

int mch_pool_take_answers(struct mch_pool *pool, struct mch_group *group,
                          struct mch_answers *answers) {
  struct mch_task *task;
  int taken;
  pthread_mutex_lock(&pool->lock);
  task = pool->records == NULL ? group->first : NULL;
  taken = task != NULL && task->batch != NULL && !mch_events_hold(pool, task);
  if (taken)
    mch_take_answers(pool, task, answers);
  mch_take_unlock(pool);
  return taken;
}

struct mch_task *mch_pool_take(struct mch_pool *pool, struct mch_group *group) {
  struct mch_task *task;
  pthread_mutex_lock(&pool->lock);
  task = pool->records == NULL ? group->first : NULL;
  if (task != NULL && (task->batch != NULL || mch_events_hold(pool, task)))
    task = NULL;
  if (task != NULL)
    mch_take_done(pool, task);
  mch_take_unlock(pool);
  return task;
}

struct mch_task *mch_pool_take_in_order(struct mch_pool *pool, struct mch_group *group,
                                        uint64_t *from) {
  struct mch_task *task = NULL;
  pthread_mutex_lock(&pool->lock);
  if (*from < pool->base)
    *from = pool->base;
  for (; pool->records == NULL && *from < pool->next_runid; ++*from) {
    task = *mch_index_slot(pool, *from);
    if (task != NULL && task->group == group && task->state == MCH_TASK_DONE) {
      if (mch_events_hold(pool, task))
        task = NULL;
      break;
    }
    task = NULL;
  }
  if (task != NULL) {
    mch_take_done(pool, task);
    ++*from;
  }
  mch_take_unlock(pool);
  return task;
}

size_t mch_pool_failed(struct mch_pool *pool, const struct mch_group *group, uint64_t from) {
  const struct mch_task *task;
  size_t count = 0;
  pthread_mutex_lock(&pool->lock);
  for (task = group->first; task != NULL; task = task->next)
    count += has_failed(task) && task->runid >= from;
  pthread_mutex_unlock(&pool->lock);
  return count;
}

const struct mch_task *mch_pool_untold(struct mch_pool *pool, struct mch_group *group) {
  struct mch_task *task = NULL;
  pthread_mutex_lock(&pool->lock);
  if (group->untold > 0) {
    for (task = group->first; task != NULL && (!has_failed(task) || task->noted);)
      task = task->next;
  }
  if (task != NULL) {
    task->noted = 1;
    group->untold--;
  }
  pthread_mutex_unlock(&pool->lock);
  return task;
}

int mch_pool_has_untold(struct mch_pool *pool, const struct mch_group *group) {
  int some;
  pthread_mutex_lock(&pool->lock);
  some = group->untold > 0;
  pthread_mutex_unlock(&pool->lock);
  return some;
}

void mch_pool_drop(struct mch_pool *pool, struct mch_group *group, int all) {
  struct mch_task *task, *next;
  pthread_mutex_lock(&pool->lock);
  for (task = group->first; task != NULL; task = next) {
    next = task->next;
    if (!all && has_failed(task))
      continue;
    mch_take_done(pool, task);
    mch_pool_discard(pool, task);
  }
  mch_take_unlock(pool);
}
