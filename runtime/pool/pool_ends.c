/* Runs in: parent.
 *
 * The one way into DONE. The engine says by struct mch_events how tasks and items end, come back or
 * are split; here groups, the index, the pool's bar and whoever waits learn of it. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/buf.h"
#include "runtime/base/platform.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"
#include "runtime/show/progress.h"
#include "runtime/wire/cargo.h"
#include "runtime/wire/protocol.h"

/* -- the bar for all tasks ---------------------------------------------------------------- */

static void begin_bar(struct mch_pool *pool) {
  struct mch_bar_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.name = pool->bar_name;
  spec.name_length = strlen(pool->bar_name);
  spec.total = pool->accepted + pool->coming;
  spec.tasks = &pool->counted;
  spec.runid = -1;
  pool->bar = mch_output_bar_start(pool->output, &spec);
}

/* What ended in another way than by being cancelled. */
static uint64_t count_ended(struct mch_pool *pool) {
  return pool->accepted - pool->unfinished - atomic_load(&pool->counted.cancelled);
}

/* What is known without asking the workers. */
static void count_bar(struct mch_pool *pool) {
  if (pool->bar == NULL)
    return;
  mch_bar_set_total(pool->bar, pool->accepted + pool->coming);
  mch_bar_set(pool->bar, count_ended(pool));
}

void mch_ends_update_bar(struct mch_pool *pool) {
  if (pool->bar != NULL)
    atomic_store_explicit(&pool->counted.running,
                          pool->engine->ops->running(pool->engine, NULL, NULL),
                          memory_order_relaxed);
  count_bar(pool);
}

void mch_ends_end_bar(struct mch_pool *pool, enum mch_bar_end how) {
  atomic_store(&pool->counted.running, 0);
  mch_output_bar_end(pool->output, pool->bar, count_ended(pool), pool->accepted + pool->coming,
                     how);
  pool->bar = NULL;
  pool->accepted = 0;
  atomic_store(&pool->counted.failed, 0);
  atomic_store(&pool->counted.cancelled, 0);
  atomic_store(&pool->counted.found, 0);
}

/* So many more tasks. */
void mch_ends_count_in(struct mch_pool *pool, struct mch_group *group, uint32_t count) {
  size_t announced = count < group->coming ? count : group->coming;
  group->coming -= announced;
  pool->coming -= announced;
  pool->accepted += count;
  if (pool->began == 0)
    pool->began = mch_now();
  if (pool->bar_name != NULL && pool->accepted == count)
    begin_bar(pool);
  count_bar(pool);
}

static void count_failure(struct mch_pool *pool, const struct mch_result *result) {
  if (result == NULL)
    return;
  if (result->kind == MCH_KIND_CANCELLED)
    atomic_fetch_add(&pool->counted.cancelled, 1);
  else if (result->kind != MCH_KIND_OK)
    atomic_fetch_add(&pool->counted.failed, 1);
}

void mch_pool_get_tally(struct mch_pool *pool, struct mch_pool_tally *tally) {
  pthread_mutex_lock(&pool->lock);
  tally->ok = pool->tally.ended[MCH_KIND_OK];
  tally->cancelled = pool->tally.ended[MCH_KIND_CANCELLED];
  tally->failed = pool->next_runid - pool->unfinished - tally->ok - tally->cancelled;
  tally->elapsed = pool->began != 0 ? mch_now() - pool->began : 0;
  pthread_mutex_unlock(&pool->lock);
}

/* Whether the task of this run ID, or item of a batch, has not ended. */
int mch_ends_is_open(const struct mch_task *task, uint64_t runid) {
  return task->batch != NULL ? runid - task->runid >= task->batch->answered
                             : task->state != MCH_TASK_DONE;
}

/* -- the owner's event loop --------------------------------------------------------------- */

/* It shall look in. */
void mch_ends_raise_wakeup(struct mch_pool *pool) {
  if (pool->wakeup[1] >= 0 && !pool->wakeup_raised && write(pool->wakeup[1], "", 1) == 1)
    pool->wakeup_raised = 1;
}

void mch_ends_lower_wakeup(struct mch_pool *pool) {
  char bytes[16];
  if (pool->wakeup_raised && read(pool->wakeup[0], bytes, sizeof bytes) > 0)
    pool->wakeup_raised = 0;
}

/* -- ends of tasks ------------------------------------------------------------------------ */

/* An abandoned group goes with the last of its tasks. */
void mch_ends_free_if_idle(struct mch_group *group) {
  if (group->abandoned && group->unfinished == 0 && group->batches == 0)
    mch_pool_free_group(group);
}

/* Put it at the end of its group's results. */
static void list(struct mch_task *task) {
  struct mch_group *group = task->group;
  task->next = NULL;
  task->previous = group->last;
  if (group->last != NULL)
    group->last->next = task;
  else
    group->first = task;
  group->last = task;
}

void mch_ends_unlist(struct mch_task *task) {
  struct mch_group *group = task->group;
  if (task->previous != NULL)
    task->previous->next = task->next;
  else
    group->first = task->next;
  if (task->next != NULL)
    task->next->previous = task->previous;
  else
    group->last = task->previous;
  task->next = task->previous = NULL;
}

static void count_done(struct mch_pool *pool, struct mch_group *group, uint32_t count) {
  group->unfinished -= count;
  group->finished += count;
  pool->unfinished -= count;
  pool->finished += count;
  pool->ended_since_wait += count;
}

int mch_ends_is_over(const struct mch_group *group) {
  return group->most > 0 && group->bytes + group->kept > group->most;
}

/* Results of so many bytes have come. */
static void add_bytes(struct mch_pool *pool, struct mch_group *group, size_t bytes) {
  group->bytes += bytes;
  if (mch_ends_is_over(group) && !group->overfull)
    group->overfull = pool->overfull = 1;
}

/* They were taken; the owner says soon what is kept of them, if they are many. */
void mch_ends_remove_bytes(struct mch_group *group, size_t bytes) {
  group->bytes -= bytes < group->bytes ? bytes : group->bytes;
  if (bytes >= MCH_KEEP_STEP)
    group->kept += bytes;
}

size_t mch_ends_result_size(const struct mch_task *task) {
  return task->result->length + task->early_bytes;
}

void mch_ends_drop_early(struct mch_task *task) {
  mch_cargo_drop(task->early);
  task->early = NULL;
  task->early_bytes = 0;
}

/* The one way into DONE for one task; `is_told`: its end was. */
static void set_done(struct mch_pool *pool, struct mch_task *task, struct mch_result *result,
                     int is_told) {
  struct mch_group *group = task->group;
  task->state = MCH_TASK_DONE;
  mch_queue_leave(&pool->queue, task);
  mch_cargo_drop(task->cargo);
  task->cargo = NULL;
  task->borrows = result == NULL;
  task->result = result != NULL ? result : pool->no_memory;
  mch_record_ended(pool, task);
  if (!is_told)
    mch_events_ended(pool, task, task->result);
  if (task->result->kind != MCH_KIND_OK)
    mch_ends_drop_early(task);
  list(task);
  count_done(pool, group, 1);
  add_bytes(pool, group, mch_ends_result_size(task));
  count_failure(pool, task->result);
  task->noted = 0;
  group->untold += task->result->kind != MCH_KIND_OK && task->result->kind != MCH_KIND_CANCELLED;
  if (task->result->kind == MCH_KIND_OK)
    mch_halt_count_ok(group, 1);
  else
    mch_halt_count_failure(pool, task);
  if (group->abandoned) {
    mch_take_done(pool, task);
    mch_pool_discard(pool, task);
    mch_ends_free_if_idle(group);
  }
  mch_ends_raise_wakeup(pool);
}

void mch_ends_set_done(struct mch_pool *pool, struct mch_task *task, struct mch_result *result) {
  set_done(pool, task, result, 0);
}

/* -- ends of batches ---------------------------------------------------------------------- */

/* Free it once it is over and nothing of it is waited for. */
void mch_ends_free_if_over(struct mch_task *task) {
  if (task->state == MCH_TASK_DONE && !task->batch->listed && task->batch->kept == 0)
    mch_task_free(task);
}

/* Its next items are answered. The answers of an abandoned group are for nobody. */
static void count_answered(struct mch_pool *pool, struct mch_task *task, uint32_t count) {
  struct mch_batch *batch = task->batch;
  uint32_t i;
  count_done(pool, task->group, count);
  mch_halt_count_ok(task->group, count);
  if (task->group->abandoned) {
    for (i = 0; i < count; i++)
      mch_index_remove(pool, task->runid + batch->answered + i);
    batch->kept -= count;
    batch->from += count;
    task->group->finished -= count;
    pool->finished -= count;
  } else if (!batch->listed) {
    batch->listed = 1;
    list(task);
  }
  batch->answered += count;
  mch_ends_raise_wakeup(pool);
}

/* Keep records for the owner: a head and what is behind it. */
static void keep_answers(struct mch_pool *pool, struct mch_task *task, const unsigned char *head,
                         size_t head_length, const unsigned char *records, size_t length) {
  struct mch_batch *batch = task->batch;
  if (task->group->abandoned || batch->lost)
    return;
  if (length > SIZE_MAX - head_length ||
      mch_buf_reserve(&batch->answers, head_length + length) != 0) {
    batch->lost = 1;
    return;
  }
  mch_buf_append(&batch->answers, head, head_length);
  mch_buf_append(&batch->answers, records, length);
  add_bytes(pool, task->group, head_length + length);
}

void mch_ends_answered(void *ud, struct mch_task *task, const unsigned char *graph, size_t length,
                       const struct mch_course *course) {
  struct mch_pool *pool = ud;
  unsigned char head[5] = {(unsigned char)length};
  size_t head_length = 1;
  if (mch_cancel_is_due(pool, task->runid + task->batch->answered)) {
    mch_ends_failed(pool, task, mch_result_new(MCH_KIND_CANCELLED, NULL, NULL, 0));
    return;
  }
  if (length - 1 >= MCH_RECORD_MAX) {
    head[0] = MCH_ANSWER_LONG;
    mch_store_u32(head + 1, (uint32_t)length);
    head_length = sizeof head;
  }
  if (length > UINT32_MAX)
    task->batch->lost = 1;
  mch_events_answered(ud, task, 1, length, course);
  keep_answers(ud, task, head, head_length, graph, length);
  count_answered(ud, task, 1);
}

/* One by one, since some may be to end as cancelled. */
static void answer_each(struct mch_pool *pool, struct mch_task *task, const unsigned char *records,
                        uint32_t count, const struct mch_course *course) {
  struct mch_course each = *course;
  uint32_t i;
  if (each.elapsed != MCH_UNMEASURED)
    each.elapsed /= count;
  if (each.cpu != MCH_UNMEASURED)
    each.cpu /= count;
  for (i = 0; i < count; i++, records += 1 + records[0])
    mch_ends_answered(pool, task, records + 1, records[0], &each);
}

void mch_ends_answered_many(void *ud, struct mch_task *task, const unsigned char *records,
                            size_t length, uint32_t count, const struct mch_course *course) {
  const struct mch_pool *pool = ud;
  if (pool->unwanted_count > 0) {
    answer_each(ud, task, records, count, course);
    return;
  }
  mch_events_answered(ud, task, count, length - count, course);
  keep_answers(ud, task, NULL, 0, records, length);
  count_answered(ud, task, count);
}

/* It was to end so, and has ended in another way before. */
static void cancel_result(struct mch_result *result) {
  if (result->kind == MCH_KIND_CANCELLED)
    return;
  result->kind = MCH_KIND_CANCELLED;
  result->length = 0;
  result->graph_is_log = 0;
  free(result->text);
  result->text = NULL;
}

/* The next item leaves its batch, as a task of its own that has failed. */
void mch_ends_failed(void *ud, struct mch_task *task, struct mch_result *result) {
  struct mch_pool *pool = ud;
  struct mch_batch *batch = task->batch;
  struct mch_task *item = mch_task_new(
      task->codes > 0 ? (const uint32_t *)(void *)task->body : NULL, task->codes, NULL, 0);
  struct mch_task_extra *extra = calloc(1, sizeof *extra);
  if (mch_cancel_is_due(pool, task->runid + batch->answered) && result != NULL)
    cancel_result(result);
  mch_events_ended(pool, task, result != NULL ? result : pool->no_memory);
  if (!task->group->abandoned && !batch->lost) {
    batch->lost = item == NULL || extra == NULL || mch_buf_reserve(&batch->answers, 1) != 0;
    if (!batch->lost)
      mch_buf_u8(&batch->answers, MCH_ANSWER_APART);
  }
  if (task->group->abandoned || batch->lost) {
    count_failure(pool, result);
    mch_task_free(item);
    free(extra);
    mch_result_free(result);
    count_answered(pool, task, 1);
    return;
  }
  item->extra = extra;
  item->extra->index = item->index = batch->index + batch->answered;
  item->accepted = task->accepted;
  item->said = task->said;
  item->runid = task->runid + batch->answered;
  item->group = task->group;
  item->cause = task->cause != NULL ? mch_task_hold(task->cause) : NULL;
  *mch_index_slot(pool, item->runid) = item;
  batch->kept--;
  batch->answered++;
  set_done(pool, item, result, 1);
}

static void close_batch(struct mch_pool *pool, struct mch_task *task) {
  struct mch_group *group = task->group;
  task->state = MCH_TASK_DONE;
  mch_queue_leave(&pool->queue, task);
  group->batches--;
  mch_ends_free_if_over(task);
  mch_ends_free_if_idle(group);
}

void mch_ends_batch_over(void *ud, struct mch_task *task, uint64_t elapsed) {
  struct mch_pool *pool = ud;
  struct mch_group *group = task->group;
  mch_index_count_submitted(pool, task, -1);
  mch_events_batch_over(pool, task, elapsed);
  group->item_time += elapsed;
  group->items += elapsed > 0 ? task->batch->count : 0;
  close_batch(pool, task);
}

/* End all items of a batch that is with nobody. */
static void end_batch(struct mch_pool *pool, struct mch_task *task, enum mch_kind kind,
                      const char *why) {
  while (task->batch->answered < task->batch->count)
    mch_ends_failed(pool, task, mch_result_new(kind, why, NULL, 0));
  close_batch(pool, task);
}

/* From now on the items that were split off belong to the task `rest`. */
void mch_ends_adopt(struct mch_pool *pool, struct mch_task *task, struct mch_task *rest) {
  uint32_t i;
  for (i = 0; i < rest->batch->count; i++)
    *mch_index_slot(pool, rest->runid + i) = rest;
  mch_queue_enter_with(rest, task);
  task->batch->kept -= rest->batch->count;
  rest->group->batches++;
}

/* Begun without having been in the queue: what was said to all that is submitted is said again. */
static void stay(struct mch_pool *pool, struct mch_task *rest) {
  rest->state = MCH_TASK_SUBMITTED;
  mch_index_count_submitted(pool, rest, 1);
  pool->overfull |= mch_ends_is_over(rest->group);
  pool->halting |= rest->group->cause != NULL;
}

void mch_ends_split(void *ud, struct mch_task *task, struct mch_task *rest, int stays) {
  struct mch_pool *pool = ud;
  mch_ends_adopt(pool, task, rest);
  if (stays)
    stay(pool, rest);
  else if (rest->group->abandoned)
    end_batch(pool, rest, MCH_KIND_CANCELLED, NULL);
  else if (rest->group->cause != NULL)
    mch_halt_end(pool, rest);
  else {
    mch_queue_add(&pool->queue, rest);
    mch_cancel_again(pool, rest);
  }
}

/* -- what the engine says of tasks -------------------------------------------------------- */

/* A task that is with nobody ends. */
void mch_ends_end_task(struct mch_pool *pool, struct mch_task *task, enum mch_kind kind,
                       const char *why) {
  if (task->batch != NULL)
    end_batch(pool, task, kind, why);
  else
    mch_ends_set_done(pool, task, mch_result_new(kind, why, NULL, 0));
}

void mch_ends_finished(void *ud, struct mch_task *task, struct mch_result *result) {
  struct mch_pool *pool = ud;
  mch_index_count_submitted(pool, task, -1);
  if (mch_retry_is_due(task, result))
    mch_retry_again(pool, task, result);
  else
    mch_ends_set_done(pool, task, result);
}

void mch_ends_returned(void *ud, struct mch_task *task) {
  struct mch_pool *pool = ud;
  mch_index_count_submitted(pool, task, -1);
  if (task->stop != 0)
    mch_ends_end_task(pool, task, (enum mch_kind)task->stop, NULL);
  else if (task->group->cause != NULL)
    mch_halt_end(pool, task);
  else {
    mch_queue_add(&pool->queue, task);
    mch_cancel_again(pool, task);
  }
}

/* -- pieces and log records --------------------------------------------------------------- */

/* A piece that is lost for want of memory is missed when the result is rebuilt. */
void mch_ends_early(void *ud, struct mch_task *task, const unsigned char *bytes, size_t length) {
  struct mch_pool *pool = ud;
  struct mch_buf none = {0};
  struct piece *piece;
  if (task->early == NULL && !task->group->abandoned)
    task->early = mch_cargo_new(&none, NULL, 0, NULL);
  if (task->early == NULL || (piece = malloc(sizeof *piece + length)) == NULL)
    return;
  mch_cargo_hold(task->early);
  task->early_bytes += length;
  piece->head = (struct mch_piece){task->early, piece->bytes, length};
  piece->next = NULL;
  memcpy(piece->bytes, bytes, length);
  if (pool->last_piece != NULL)
    pool->last_piece->next = piece;
  else
    pool->pieces = piece;
  pool->last_piece = piece;
}

void mch_ends_log_record(void *ud, const unsigned char *graph, size_t length) {
  struct mch_pool *pool = ud;
  struct record *record = malloc(sizeof *record + length);
  if (record == NULL)
    return; /* without memory a log line is lost, not the task */
  record->next = NULL;
  record->length = length;
  memcpy(record->graph, graph, length);
  if (pool->last_record != NULL)
    pool->last_record->next = record;
  else
    pool->records = record;
  pool->last_record = record;
  pool->record_bytes += length;
  mch_ends_raise_wakeup(pool);
}

/* It goes with the records, whose graphs begin with another byte. */
void mch_ends_notice(void *ud, const char *text) {
  struct mch_buf notice = {0};
  mch_buf_u8(&notice, MCH_NOTICE);
  mch_buf_append(&notice, text, strlen(text) + 1);
  if (notice.failed == 0)
    mch_ends_log_record(ud, notice.data, notice.length);
  mch_buf_free(&notice);
}

/* The engine calls code of the host: not under the lock. */
void mch_ends_unlock_for_host(void *ud) {
  pthread_mutex_unlock(&((struct mch_pool *)ud)->lock);
}

void mch_ends_lock_again(void *ud) {
  pthread_mutex_lock(&((struct mch_pool *)ud)->lock);
}

void mch_ends_drop_piece(struct mch_pool *pool) {
  struct piece *piece = pool->pieces;
  pool->pieces = piece->next;
  if (pool->pieces == NULL)
    pool->last_piece = NULL;
  mch_cargo_drop(piece->head.of);
  free(piece);
}

void mch_pool_discard(struct mch_pool *pool, struct mch_task *task) {
  (void)pool;
  mch_task_free(task);
}
