/* Runs in: parent.
 *
 * What a journal has to do with a pool: how tasks end is told to its recorder (recorder.h), and
 * tasks whose results it has are accepted and end at once, without a worker. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/engines/recorder.h"
#include "runtime/engines/task.h"

/* -- how tasks end ------------------------------------------------------------------------ */

/* The helper thread writes; where there is none, the owner in its pumps. */
static void notice(struct mch_pool *pool) {
  if (pool->driver != NULL)
    mch_driver_notice(pool->driver);
}

void mch_record_ended(struct mch_pool *pool, struct mch_task *task) {
  const struct mch_result *result = task->result;
  struct mch_record *record = task->extra != NULL ? task->extra->record : NULL;
  struct mch_recorded ended;
  if (record == NULL)
    return;
  task->extra->record = NULL;
  ended = (struct mch_recorded){
      .kind = result->kind,
      .runid = task->runid,
      .index = task->index,
      .attempt = task->attempt + 1u,
      .pid = result->pid,
      .slot = result->slot,
      .signal = result->kind == MCH_KIND_KILLED ? result->signal : 0,
      .exitcode = result->kind == MCH_KIND_EXITED ? result->exitcode : 0,
      .waited = result->started > task->accepted ? result->started - task->accepted : 0,
      .elapsed = result->begun ? result->elapsed : MCH_UNMEASURED,
      .cpu = result->cpu,
      .maxrss = result->maxrss != 0 ? result->maxrss : MCH_UNMEASURED,
      .sent = task->length,
      .received = result->length,
      .graph = result->graph,
      .length = result->graph_is_log ? 0 : result->length,
      .text = result->text};
  record->recorder->ended(record, &ended);
  notice(pool);
}

void mch_record_emitted(const struct mch_task *task, unsigned attempt, const void *graph,
                        size_t length) {
  struct mch_record *record = task != NULL && task->extra != NULL ? task->extra->record : NULL;
  if (record != NULL)
    record->recorder->emitted(record, attempt, graph, length);
}

/* -- tasks that are about to start -------------------------------------------------------- */

static int goes_with_record(const struct mch_task *task) {
  return task->extra != NULL && task->extra->record != NULL && task->batch == NULL &&
         task->length >= sizeof(uint64_t);
}

int mch_record_may_start(const struct mch_pool *pool, const struct mch_task *task) {
  size_t i;
  if (!pool->looks_again || !goes_with_record(task))
    return 1;
  for (i = 0; i < pool->looked_count; i++)
    if (pool->looked[i] == task->runid)
      return 1;
  return 0;
}

size_t mch_pool_coming(struct mch_pool *pool, struct mch_coming *coming, size_t most) {
  const struct mch_task *task;
  size_t count = 0, looked = 0;
  if (most > MCH_MOST_LOOKED)
    most = MCH_MOST_LOOKED;
  pthread_mutex_lock(&pool->lock);
  for (task = mch_queue_head(&pool->queue); task != NULL && looked < most;
       task = mch_queue_next(&pool->queue, task), looked++)
    if (goes_with_record(task)) {
      pool->looked[count] = task->runid;
      coming[count++] = (struct mch_coming){task->runid, mch_load_u64(task->body)};
    }
  pool->looked_count = count;
  pthread_mutex_unlock(&pool->lock);
  return count;
}

void mch_pool_record_anew(struct mch_pool *pool, uint64_t runid, struct mch_record **record,
                          int keyed, uint64_t stream) {
  struct mch_task *task;
  pthread_mutex_lock(&pool->lock);
  task = mch_index_find(pool, runid);
  if (task != NULL && task->state <= MCH_TASK_SUBMITTED && goes_with_record(task)) {
    struct mch_record *old = task->extra->record;
    task->extra->record = *record;
    *record = NULL;
    old->recorder->drop(old);
    if (keyed) {
      task->extra->keyed = 1;
      task->extra->stream = stream;
    }
  }
  pthread_mutex_unlock(&pool->lock);
}

/* -- when it writes ----------------------------------------------------------------------- */

uint64_t mch_record_due(const struct mch_pool *pool) {
  return pool->recorder != NULL ? pool->recorder->due(pool->recorder) : MCH_NEVER;
}

void mch_record_write_if_due(struct mch_pool *pool) {
  if (mch_record_due(pool) <= mch_now())
    pool->recorder->write(pool->recorder, 0);
}

/* -- tasks that are found ----------------------------------------------------------------- */

static int reserve(struct mch_pool *pool, struct mch_task *task, const struct mch_found *found) {
  return mch_index_reserve(pool, 1) == 0 &&
         (!pool->listening || mch_events_reserve(pool, found->count + 2) == 0) &&
         (task->level != NULL || mch_queue_enter(&pool->queue, task) == 0);
}

/* What it has emitted is emitted again. */
static void emit_again(struct mch_pool *pool, struct mch_task *task,
                       const struct mch_found *found) {
  size_t i;
  for (i = 0; i < found->count; i++)
    mch_events_emitted_again(pool, task->runid, &found->emitted[i]);
}

int mch_pool_find(struct mch_pool *pool, struct mch_task *task, struct mch_group *group,
                  struct mch_found *found, uint64_t *runid, struct mch_error *error) {
  int code = 0;
  pthread_mutex_lock(&pool->lock);
  if (!reserve(pool, task, found))
    code = mch_error_set(error, MCH_NOMEM, "not enough memory for another task");
  else {
    mch_pool_accept(pool, task, group);
    *runid = task->runid;
    if (group->cause != NULL) {
      mch_result_free(found->result);
      mch_halt_end(pool, task);
    } else {
      task->found = 1;
      pool->tally.found++;
      atomic_fetch_add(&pool->counted.found, 1);
      emit_again(pool, task, found);
      mch_ends_set_done(pool, task, found->result);
    }
    found->result = NULL;
    mch_pool_have_driver(pool);
    notice(pool);
  }
  pthread_mutex_unlock(&pool->lock);
  return code;
}

int64_t mch_pool_found_anchor(struct mch_pool *pool, uint64_t runid) {
  const struct mch_task *task;
  int64_t anchor = 0;
  if (pool == NULL)
    return 0;
  pthread_mutex_lock(&pool->lock);
  task = mch_index_find(pool, runid);
  if (task != NULL && task->found && task->early != NULL)
    anchor = task->early->anchor;
  pthread_mutex_unlock(&pool->lock);
  return anchor;
}
