/* Runs in: parent. Purpose: pool.h.
 *
 * Here: the pump, the driver's view, how tasks come in, and the descriptors to wait by. How they
 * end is in pool_ends.c, how they are taken in pool_take.c, by run ID in pool_index.c. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/error.h"
#include "runtime/base/grow.h"
#include "runtime/base/platform.h"
#include "runtime/base/tricks.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/recorder.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"

/* With so many bytes of log records or lines waiting for the owner, the driver reads no more. */
enum { MOST_RECORD_BYTES = 64 * 1024 * 1024, MOST_BACKLOG = 16 * 1024 * 1024 };

static const uint64_t burst_gap = 10000u;   /* 10 us between two tasks */
static const uint64_t hold_limit = 300000u; /* 0.3 ms: a task that waits for others to go with */

static const uint64_t patience_without_workers = 5000000000u; /* 5 s */

/* -- groups whose results wait ------------------------------------------------------------ */

/* Whether tasks of a group may not start: enough results wait. */
static int is_held(const struct mch_group *group) {
  return mch_ends_is_over(group) && !(group->wanted && group->submitted == 0);
}

/* The first task in the queue that may start. */
static struct mch_task *next_ready(const struct mch_pool *pool) {
  struct mch_task *task = mch_queue_head(&pool->queue);
  while (task != NULL && is_held(task->group))
    task = mch_queue_next(&pool->queue, task);
  return task;
}

/* Where enough waits, a single item goes. Without memory for that, all do. */
static void cut_short(struct mch_pool *pool, struct mch_task *task) {
  struct mch_task *rest;
  if (task->batch == NULL || task->batch->count == 1 || !mch_ends_is_over(task->group) ||
      (rest = mch_task_split(task, 1)) == NULL)
    return;
  task->batch->count = 1;
  mch_ends_split(pool, task, rest, 0);
}

/* Take back what was sent ahead, and was not begun, of groups that have become overfull. */
static void take_back(struct mch_pool *pool) {
  uint64_t runid;
  if (!pool->overfull)
    return;
  pool->overfull = 0;
  pool->engine->ops->recall(pool->engine, INT32_MAX);
  for (runid = pool->base; runid < pool->next_runid; runid++) {
    struct mch_task *task = mch_index_find(pool, runid);
    if (task != NULL && task->batch != NULL && task->state == MCH_TASK_SUBMITTED &&
        mch_ends_is_over(task->group))
      pool->engine->ops->shorten(pool->engine, task, 0);
  }
}

/* A task that is to be attempted again was there before those of its priority that were sent ahead
 * and have not begun, and above all before less urgent ones. */
static void make_way(struct mch_pool *pool) {
  if (!pool->has_anew)
    return;
  pool->has_anew = 0;
  pool->engine->ops->recall(pool->engine, pool->anew < INT32_MAX ? pool->anew + 1 : INT32_MAX);
}

/* -- the pump ----------------------------------------------------------------------------- */

static void dispatch(struct mch_pool *pool, int owner) {
  const struct mch_engine_ops *ops = pool->engine->ops;
  struct mch_task *task;
  struct mch_error error;
  pool->held_until = MCH_NEVER;
  if (pool->paused_on) {
    pool->engine->gated = 1;
    ops->flush(pool->engine);
    return;
  }
  mch_admit_begin(pool);
  while ((task = next_ready(pool)) != NULL && mch_record_may_start(pool, task) &&
         mch_admit_one(pool, owner)) {
    int code;
    cut_short(pool, task);
    code = ops->submit(pool->engine, task, owner, &error);
    if (code == MCH_FULL)
      break;
    mch_queue_remove(&pool->queue, task);
    if (code == 0) {
      task->state = MCH_TASK_SUBMITTED;
      mch_index_count_submitted(pool, task, 1);
    } else
      mch_ends_end_task(pool, task, MCH_KIND_ERROR, error.text);
  }
  mch_admit_end(pool);
  ops->flush(pool->engine);
}

static void pump(struct mch_pool *pool, int owner) {
  pool->engine->ops->pump(pool->engine, owner, pool->queue.count);
  take_back(pool);
  mch_halt_carry_out(pool);
  mch_retry_release(pool, mch_now());
  make_way(pool);
  dispatch(pool, owner);
  mch_ends_update_bar(pool);
}

/* By somebody who is not the owner. */
void mch_pool_step(struct mch_pool *pool) {
  pump(pool, 0);
}

void mch_pool_spare_forks(struct mch_pool *pool, int on) {
  pthread_mutex_lock(&pool->lock);
  pool->engine->frugal = on;
  pthread_mutex_unlock(&pool->lock);
}

int mch_pool_short_of_workers(struct mch_pool *pool) {
  int is_short;
  pthread_mutex_lock(&pool->lock);
  is_short = pool->engine->ops->short_of_workers(pool->engine, pool->queue.count);
  pthread_mutex_unlock(&pool->lock);
  return is_short;
}

/* No worker can be had: what waits for one ends. */
static void fail_queued(struct mch_pool *pool, const char *why) {
  struct mch_task *task;
  while ((task = mch_queue_head(&pool->queue)) != NULL) {
    mch_queue_remove(&pool->queue, task);
    mch_ends_end_task(pool, task, MCH_KIND_ERROR, why);
  }
}

void mch_pool_add_workers(struct mch_pool *pool) {
  struct mch_error error;
  pthread_mutex_lock(&pool->lock);
  if (pool->engine->ops->add(pool->engine, pool->queue.count, &error) == 0)
    pool->workless_since = 0;
  else if (pool->workless_since == 0)
    pool->workless_since = mch_now();
  else if (mch_now() - pool->workless_since > patience_without_workers)
    fail_queued(pool, error.text);
  pump(pool, 1); /* what was sent ahead to others is for those that came, too */
  pool->looked_count = 0;
  pthread_mutex_unlock(&pool->lock);
}

uint64_t mch_pool_next_deadline(struct mch_pool *pool) {
  uint64_t engine = pool->engine->ops->deadline(pool->engine);
  uint64_t output = mch_output_next(pool->output);
  uint64_t due = engine < output ? engine : output, paused = mch_retry_next(pool);
  uint64_t admission = mch_admit_deadline(pool);
  if (pool->driver == NULL)
    due = mch_sooner(due, mch_record_due(pool));
  if (pool->held_until < due)
    due = pool->held_until;
  if (admission < due)
    due = admission;
  due = mch_sooner(due, mch_hub_next_look(mch_output_hub(pool->output)));
  return paused < due ? paused : due;
}

/* Descriptors that are not the system's own say what is so from here on. */
static void settle(struct mch_pool *pool, int owner) {
  mch_poller_settle(pool->engine->poller);
  if (pool->outer != NULL)
    mch_poller_settle(pool->outer);
  if (pool->joined != NULL && owner)
    mch_poller_settle(pool->joined);
}

void mch_pool_pump_as_owner(struct mch_pool *pool) {
  mch_ends_lower_wakeup(pool);
  mch_observe_lower(pool);
  pump(pool, 1);
  mch_take_all_taken(pool);
  pool->drives_seen = pool->drives;
  if (pool->driver == NULL)
    mch_record_write_if_due(pool);
  /* An event loop sleeps without telling: from here on its descriptor has to say all. */
  if (pool->wakeup[1] >= 0 && mch_pool_next_deadline(pool) == 0)
    mch_ends_raise_wakeup(pool);
  settle(pool, 1);
  if (pool->driver != NULL)
    mch_driver_notice(pool->driver);
}

void mch_pool_pump(struct mch_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  mch_pool_pump_as_owner(pool);
  pthread_mutex_unlock(&pool->lock);
  if (mch_hub_next_look(mch_output_hub(pool->output)) != MCH_NEVER)
    mch_hub_look(mch_output_hub(pool->output), mch_now());
}

/* -- the driver's view -------------------------------------------------------------------- */

static int drive_pump(void *ud) {
  struct mch_pool *pool = ud;
  size_t before = pool->ended_since_wait;
  int owner_runs = pool->next_runid >= pool->runs_seen + CROWD;
  pool->runs_seen = pool->next_runid;
  if (mch_output_backlog(pool->output) >= MOST_BACKLOG)
    return 1; /* first somebody has to read that; workers wait */
  pool->drives++;
  mch_observe_lower(pool);
  pump(pool, 0);
  if (pool->engine->ops->short_of_workers(pool->engine, pool->queue.count) ||
      mch_output_wants_owner(pool->output, mch_now()))
    mch_ends_raise_wakeup(pool);
  settle(pool, 0);
  return owner_runs || pool->ended_since_wait - before >= CROWD / 4;
}

/* Not under the lock: a terminal may take its time. */
static void drive_output(void *ud) {
  mch_output_pump(((struct mch_pool *)ud)->output, mch_now(), 0);
}

static int drive_attended(void *ud) {
  return ((struct mch_pool *)ud)->attended;
}

static int drive_busy(void *ud) {
  struct mch_pool *pool = ud;
  if (pool->record_bytes >= MOST_RECORD_BYTES)
    return 0; /* only the owner can take this away */
  return pool->submitted > 0 || pool->queue.count > 0 || pool->paused_count > 0 ||
         mch_output_next(pool->output) != MCH_NEVER;
}

static uint64_t drive_deadline(void *ud) {
  return mch_pool_next_deadline(ud);
}

/* Those who observe are served by this thread, whatever the pool does. */
static int drive_side(void *ud, uint64_t *due) {
  const struct mch_hub *hub = mch_output_hub(((struct mch_pool *)ud)->output);
  *due = mch_hub_due(hub);
  return mch_hub_fd(hub);
}

static int drive_serve(void *ud) {
  return mch_hub_serve(mch_output_hub(((struct mch_pool *)ud)->output), mch_now());
}

static uint64_t drive_record_due(void *ud) {
  return mch_record_due(ud);
}

/* Not under the lock: a disk may take its time, too. */
static void drive_record(void *ud) {
  mch_record_write_if_due(ud);
}

/* Without a thread to be had, the pool moves on inside its own calls only, until there is one. */
static void start_driver(struct mch_pool *pool) {
  struct mch_driven driven = {pool,           &pool->lock,
                              drive_pump,     drive_output,
                              drive_attended, drive_busy,
                              drive_deadline, drive_record_due,
                              drive_record,   mch_poller_fd(pool->engine->poller),
                              drive_side,     drive_serve};
  pool->driver = mch_driver_new(&driven);
  if (pool->driver != NULL)
    mch_hub_count_threads(mch_output_hub(pool->output), 1);
}

static void end_driver(struct mch_pool *pool) {
  struct mch_driver *driver;
  pthread_mutex_lock(&pool->lock);
  driver = pool->driver;
  pool->driver = NULL; /* nobody gives it notice from here on */
  pthread_mutex_unlock(&pool->lock);
  if (driver == NULL)
    return;
  mch_driver_free(driver);
  mch_hub_count_threads(mch_output_hub(pool->output), -1);
}

void mch_pool_have_driver(struct mch_pool *pool) {
  if (pool->background && pool->driver == NULL)
    start_driver(pool);
}

/* -- making ------------------------------------------------------------------------------- */

static const void *get_code(void *ud, uint32_t id, size_t *length) {
  return mch_dictionary_get(&((struct mch_pool *)ud)->dictionary, id, length);
}

struct mch_pool *mch_pool_new(const struct mch_pool_config *config, struct mch_error *error) {
  struct mch_engine_config engine = config->engine;
  struct mch_pool *pool = calloc(1, sizeof *pool);
  mch_error_set(error, MCH_NOMEM, "not enough memory for a pool"); /* unless another failure says */
  if (pool == NULL)
    return NULL;
  pthread_mutex_init(&pool->lock, NULL);
  pool->background = config->background;
  pool->recorder = config->recorder;
  pool->looks_again = config->recorder != NULL && config->engine.snapshot;
  pool->admission.min_free = config->min_free_memory;
  pool->admission.root = config->memory_root != NULL ? config->memory_root : "";
  pool->held_until = MCH_NEVER;
  pool->wakeup[0] = pool->wakeup[1] = -1;
  pool->poke[0] = pool->poke[1] = -1;
  pool->output = engine.output;
  mch_output_ref(pool->output);
  pool->no_memory =
      mch_result_new(MCH_KIND_ERROR, "not enough memory for the task's result", NULL, 0);
  engine.events = (struct mch_events){pool,
                                      mch_ends_finished,
                                      mch_ends_returned,
                                      mch_ends_answered,
                                      mch_ends_answered_many,
                                      mch_ends_failed,
                                      mch_ends_batch_over,
                                      mch_ends_split,
                                      mch_ends_early,
                                      mch_events_started,
                                      mch_events_emitted,
                                      mch_events_worker,
                                      mch_ends_log_record,
                                      mch_ends_notice,
                                      mch_ends_unlock_for_host,
                                      mch_ends_lock_again};
  engine.codes = (struct mch_codes){pool, get_code};
  pool->engine = config->make(&engine, error);
  if (config->bar != NULL)
    pool->bar_name = strdup(config->bar);
  if (pool->no_memory == NULL || pool->engine == NULL ||
      (config->bar != NULL && pool->bar_name == NULL)) {
    mch_pool_free(pool);
    return NULL;
  }
  mch_admit_use_jobserver(pool, config->makeflags);
  mch_observe_begin(pool, config);
  if (pool->recorder != NULL)
    pool->engine->ops->listen(pool->engine, 1);
  return pool;
}

/* The pool ends: an abandoned group goes with the last of its tasks. */
static void forget(struct mch_pool *pool, struct mch_task *task, uint64_t runid) {
  struct mch_group *group = task->group;
  int open = mch_ends_is_open(task, runid);
  group->unfinished -= (size_t)open;
  if (task->batch != NULL) {
    if (--task->batch->kept > 0)
      return;
    if (task->state != MCH_TASK_DONE)
      group->batches--, open = 1;
  }
  mch_pool_discard(pool, task);
  if (open)
    mch_ends_free_if_idle(group);
}

/* A batch ends with its last item. */
void mch_pool_end_all(struct mch_pool *pool) {
  uint64_t runid;
  pthread_mutex_lock(&pool->lock);
  for (runid = pool->base; runid < pool->next_runid; runid++) {
    struct mch_task *task = *mch_index_slot(pool, runid);
    if (task == NULL || !mch_ends_is_open(task, runid))
      continue;
    if (task->batch == NULL)
      mch_events_forgotten(pool, task, 1);
    else if (runid == task->runid + task->batch->answered)
      mch_events_forgotten(pool, task, task->batch->count - task->batch->answered);
  }
  pool->listening = 0;
  pool->observed = 0;
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_free(struct mch_pool *pool) {
  end_driver(pool);
  if (pool->observed != 0)
    mch_pool_end_all(pool);
  mch_hub_leave(mch_output_hub(pool->output), &pool->rolled);
  if (pool->engine != NULL)
    mch_events_drop_all(pool);
  while (pool->base < pool->next_runid) {
    struct mch_task *task = pool->index[pool->index_start];
    if (task != NULL)
      forget(pool, task, pool->base);
    pool->base++;
    pool->index_start++;
  }
  while (pool->pieces != NULL)
    mch_ends_drop_piece(pool);
  while (pool->records != NULL) {
    struct record *record = pool->records;
    pool->records = record->next;
    free(record);
  }
  if (pool->recorder != NULL)
    pool->recorder->write(pool->recorder, 1);
  mch_ends_end_bar(pool, MCH_BAR_CANCELLED);
  free(pool->bar_name);
  if (pool->engine != NULL)
    mch_observe_free(pool);
  mch_pool_part(pool);
  if (pool->engine != NULL)
    mch_admit_use_jobserver(pool, NULL);
  if (pool->engine != NULL)
    pool->engine->ops->free(pool->engine);
  mch_poller_free(pool->outer);
  if (pool->wakeup[0] >= 0) {
    close(pool->wakeup[0]);
    close(pool->wakeup[1]);
  }
  mch_dictionary_free(&pool->dictionary);
  mch_result_free(pool->no_memory);
  mch_queue_free(&pool->queue);
  free(pool->paused);
  free(pool->unwanted);
  free(pool->stale);
  free(pool->index);
  mch_output_unref(pool->output);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

/* Have a worker. */
static int start(struct mch_pool *pool, struct mch_error *error) {
  return pool->started ? 0 : pool->engine->ops->start(pool->engine, error);
}

/* Have the others, too. While none can be had of them it is tried again when the pool is pumped. */
static void complete(struct mch_pool *pool) {
  struct mch_error error;
  int frugal = pool->engine->frugal;
  pool->engine->frugal = 0; /* these are not replacements */
  if (!pool->started)
    pool->engine->ops->add(pool->engine, pool->queue.count, &error);
  pool->engine->frugal = frugal;
  pool->started = 1;
}

int mch_pool_start(struct mch_pool *pool, struct mch_error *error) {
  int code;
  pthread_mutex_lock(&pool->lock);
  if ((code = start(pool, error)) == 0)
    complete(pool);
  pthread_mutex_unlock(&pool->lock);
  return code;
}

int mch_pool_reserve(struct mch_pool *pool, struct mch_task **tasks, size_t count,
                     struct mch_error *error) {
  size_t entered = 0;
  int code;
  if (!pool->started)
    end_driver(pool); /* as in mch_pool_run() */
  pthread_mutex_lock(&pool->lock);
  if ((code = start(pool, error)) == 0) {
    if (mch_index_reserve(pool, count) == 0 &&
        (!pool->listening || mch_events_reserve(pool, 2 * count) == 0))
      while (entered < count && mch_queue_enter(&pool->queue, tasks[entered]) == 0)
        entered++;
    if (entered < count) {
      while (entered > 0)
        mch_queue_leave(&pool->queue, tasks[--entered]);
      code = mch_error_set(error, MCH_NOMEM, "not enough memory for so many tasks");
    }
  }
  pthread_mutex_unlock(&pool->lock);
  return code;
}

/* Whether the owner queues one task after the other: then they are held to go many at once. The
 * helper thread sees to it that none waits long if the owner goes away. A task that no other is
 * before goes at once: its owner may wait for each in turn. */
static int in_burst(struct mch_pool *pool) {
  uint64_t now = mch_now(), since = now - pool->last_run, gap = pool->engine->burst_gap;
  pool->last_run = now;
  if (pool->driver == NULL || pool->submitted == 0 || since >= (gap != 0 ? gap : burst_gap) ||
      mch_without(MCH_TRICK_BURST))
    return 0;
  pool->held_until = now + hold_limit;
  return 1;
}

/* Have an accepted task run as soon as that may be. */
static void put_in_queue(struct mch_pool *pool, struct mch_task *task) {
  int urgent = mch_queue_overtakes(&pool->queue, task->priority);
  mch_queue_add(&pool->queue, task);
  pool->looked[0] = task->runid; /* its key was made in this call */
  pool->looked_count = 1;
  if (urgent)
    pool->engine->ops->recall(pool->engine, task->priority);
  if (urgent || (pool->queue.count == 1 && !in_burst(pool)))
    dispatch(pool, 1);
  else if (pool->queue.count >= FEED && pool->queue.count % FEED_STEP == 0 &&
           !mch_without(MCH_TRICK_FEED) && pool->engine->ops->wants_tasks(pool->engine))
    pump(pool, 1);
  else
    mch_ends_raise_wakeup(pool); /* a pump is due */
  pool->looked_count = 0;
}

/* It has a run ID, and counts, from now on; there is room for it everywhere. */
void mch_pool_accept(struct mch_pool *pool, struct mch_task *task, struct mch_group *group) {
  uint32_t count = mch_task_count(task), i;
  task->runid = pool->next_runid;
  for (i = 0; i < count; i++)
    *mch_index_slot(pool, pool->next_runid++) = task;
  task->group = group;
  task->careful = group->halt.how != MCH_HALT_NEVER;
  task->accepted = mch_now();
  if (group->call != 0)
    task->index = group->accepted + 1;
  group->accepted += count;
  mch_events_queued(pool, task);
  group->unfinished += count;
  group->batches += task->batch != NULL;
  pool->unfinished += count;
  mch_ends_count_in(pool, group, count);
}

/* The first worker has its task before the others are forked, and is already running it meanwhile;
 * the helper thread comes last, since a process with one thread is forked faster. */
int mch_pool_run(struct mch_pool *pool, struct mch_task *task, struct mch_group *group,
                 uint64_t *runid, struct mch_error *error) {
  uint32_t count = mch_task_count(task);
  int code;
  if (!pool->started)
    end_driver(pool); /* mch_pool_quit() told it to, and the workers */
  pthread_mutex_lock(&pool->lock);
  if ((code = start(pool, error)) == 0 &&
      (mch_index_reserve(pool, count) != 0 ||
       (pool->listening && mch_events_reserve(pool, count + 1) != 0) ||
       (task->level == NULL && mch_queue_enter(&pool->queue, task) != 0)))
    code = mch_error_set(error, MCH_NOMEM, "not enough memory for another task");
  if (code == 0) {
    mch_pool_accept(pool, task, group);
    *runid = task->runid;
    pool->tally.sent += task->length;
    if (group->cause != NULL)
      mch_halt_end(pool, task);
    else
      put_in_queue(pool, task);
    complete(pool);
    mch_pool_have_driver(pool);
    if (pool->driver != NULL)
      mch_driver_notice(pool->driver);
  }
  pthread_mutex_unlock(&pool->lock);
  return code;
}

uint64_t mch_pool_deadline(struct mch_pool *pool) {
  uint64_t result;
  pthread_mutex_lock(&pool->lock);
  result = mch_pool_next_deadline(pool);
  pthread_mutex_unlock(&pool->lock);
  return result;
}

uint64_t mch_pool_pace(struct mch_pool *pool, const struct mch_group *group) {
  uint64_t pace;
  pthread_mutex_lock(&pool->lock);
  pace = group->items > 0 ? group->item_time / group->items : 0;
  pthread_mutex_unlock(&pool->lock);
  return pace;
}

struct mch_group *mch_pool_group(struct mch_pool *pool, size_t coming, size_t most) {
  struct mch_group *group = calloc(1, sizeof *group);
  if (group == NULL)
    return NULL;
  pthread_mutex_lock(&pool->lock);
  group->coming = coming;
  group->most = most;
  group->call = ++pool->calls;
  pool->coming += coming;
  pool->open_groups++;
  pthread_mutex_unlock(&pool->lock);
  return group;
}

void mch_pool_keep(struct mch_pool *pool, struct mch_group *group, size_t bytes) {
  pthread_mutex_lock(&pool->lock);
  group->kept = bytes;
  if (mch_ends_is_over(group))
    group->overfull = pool->overfull = 1;
  else if (group->overfull) {
    group->overfull = 0;
    dispatch(pool, 1);
  }
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_want(struct mch_pool *pool, struct mch_group *group, int wanted) {
  if (group->most == 0)
    return;
  pthread_mutex_lock(&pool->lock);
  group->wanted = wanted;
  if (wanted && mch_ends_is_over(group))
    dispatch(pool, 1);
  pthread_mutex_unlock(&pool->lock);
}

size_t mch_pool_unfinished(struct mch_pool *pool, const struct mch_group *group) {
  size_t count;
  pthread_mutex_lock(&pool->lock);
  count = group != NULL ? group->unfinished : pool->unfinished;
  pthread_mutex_unlock(&pool->lock);
  return count;
}

size_t mch_pool_finished(struct mch_pool *pool, const struct mch_group *group) {
  size_t count;
  pthread_mutex_lock(&pool->lock);
  count = group->finished;
  pthread_mutex_unlock(&pool->lock);
  return count;
}

void mch_pool_look(struct mch_pool *pool, const struct mch_group *group, size_t few, int *there,
                   int *wants_tasks) {
  pthread_mutex_lock(&pool->lock);
  *there = group->finished > 0;
  *wants_tasks = group->unfinished < few;
  pthread_mutex_unlock(&pool->lock);
}

int mch_pool_is_full(struct mch_pool *pool, const struct mch_group *group, size_t limit) {
  const struct mch_engine_ops *ops = pool->engine->ops;
  unsigned running, before_workers = 0;
  int full;
  pthread_mutex_lock(&pool->lock);
  full = group->unfinished >= limit;
  if (full) {
    running = ops->running(pool->engine, group, &before_workers);
    full = group->unfinished >= limit + running;
  }
  pthread_mutex_unlock(&pool->lock);
  return full && before_workers > 0 ? 2 : full;
}

void mch_pool_count(struct mch_pool *pool, struct mch_pool_counts *counts) {
  pthread_mutex_lock(&pool->lock);
  counts->running = pool->engine->ops->running(pool->engine, NULL, NULL);
  counts->queued = pool->unfinished;
  counts->queued -= counts->running < counts->queued ? counts->running : counts->queued;
  counts->next_runid = pool->next_runid;
  pthread_mutex_unlock(&pool->lock);
}

size_t mch_pool_workers(struct mch_pool *pool, struct mch_worker_info *infos, size_t room) {
  size_t count;
  pthread_mutex_lock(&pool->lock);
  count = pool->engine->ops->workers(pool->engine, infos, room);
  pthread_mutex_unlock(&pool->lock);
  return count;
}

uint64_t mch_pool_over(struct mch_pool *pool, uint64_t *next) {
  uint64_t over;
  pthread_mutex_lock(&pool->lock);
  over = pool->base;
  *next = pool->next_runid;
  pthread_mutex_unlock(&pool->lock);
  return over;
}

size_t mch_pool_unfinished_below(struct mch_pool *pool, uint64_t limit) {
  size_t count = 0;
  uint64_t runid;
  pthread_mutex_lock(&pool->lock);
  for (runid = pool->base; runid < limit && runid < pool->next_runid; runid++) {
    struct mch_task *task = *mch_index_slot(pool, runid);
    count += task != NULL && mch_ends_is_open(task, runid);
  }
  pthread_mutex_unlock(&pool->lock);
  return count;
}

/* -- the rest ----------------------------------------------------------------------------- */

uint32_t mch_pool_intern(struct mch_pool *pool, const void *bytes, size_t length) {
  uint32_t id;
  pthread_mutex_lock(&pool->lock);
  id = mch_dictionary_intern(&pool->dictionary, bytes, length);
  pthread_mutex_unlock(&pool->lock);
  return id;
}

uint32_t mch_pool_store(struct mch_pool *pool, const void *bytes, size_t length) {
  uint32_t id;
  pthread_mutex_lock(&pool->lock);
  id = mch_dictionary_add(&pool->dictionary, bytes, length);
  pthread_mutex_unlock(&pool->lock);
  return id;
}

/* What no task needs any more, goes. */
static void drop_stale(struct mch_pool *pool) {
  const struct mch_engine_ops *ops = pool->engine->ops;
  size_t i, left = 0;
  for (i = 0; i < pool->stale_count; i++) {
    struct mch_stale stale = pool->stale[i];
    if (pool->open_groups == 0 && stale.before <= pool->base && ops->forget_code != NULL &&
        ops->forget_code(pool->engine, stale.id))
      mch_dictionary_forget(&pool->dictionary, stale.id);
    else
      pool->stale[left++] = stale;
  }
  pool->stale_count = left;
}

void mch_pool_retire(struct mch_pool *pool, uint32_t id) {
  struct mch_stale *stale;
  pthread_mutex_lock(&pool->lock);
  stale = mch_grow(pool->stale, &pool->stale_room, pool->stale_count + 1, sizeof *stale);
  if (stale != NULL) {
    pool->stale = stale;
    pool->stale[pool->stale_count++] = (struct mch_stale){pool->next_runid, id};
  }
  drop_stale(pool);
  pthread_mutex_unlock(&pool->lock);
}

const void *mch_pool_code(struct mch_pool *pool, uint32_t id, size_t *length) {
  const void *bytes;
  pthread_mutex_lock(&pool->lock);
  bytes = mch_dictionary_get(&pool->dictionary, id, length);
  pthread_mutex_unlock(&pool->lock);
  return bytes;
}

void mch_pool_log_threshold(struct mch_pool *pool, int level) {
  pthread_mutex_lock(&pool->lock);
  pool->engine->ops->log_threshold(pool->engine, level);
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_resize(struct mch_pool *pool, unsigned nworkers, const char *makeflags) {
  pthread_mutex_lock(&pool->lock);
  pool->facts.nworkers = nworkers;
  pool->engine->ops->resize(pool->engine, nworkers);
  mch_admit_use_jobserver(pool, makeflags);
  pthread_mutex_unlock(&pool->lock);
}

/* Whoever waits by a descriptor is told by it from now on. */
static int make_wakeup(struct mch_pool *pool, struct mch_error *error) {
  int code = 0;
  if (pool->wakeup[0] >= 0)
    return 0;
  if ((code = mch_platform_pipe(pool->wakeup, error)) != 0)
    return code;
  mch_platform_nonblocking(pool->wakeup[0]);
  mch_platform_nonblocking(pool->wakeup[1]);
  if (pool->queue.count > 0 || pool->records != NULL || pool->drives != pool->drives_seen)
    mch_ends_raise_wakeup(pool);
  return 0;
}

static int listen(struct mch_pool *pool, struct mch_poller *poller, void *ud,
                  struct mch_error *error) {
  if (mch_poller_add_inner(poller, pool->engine->poller, ud) == 0 &&
      mch_poller_add(poller, pool->wakeup[0], ud) == 0)
    return 0;
  return mch_error_system(error, "cannot make a descriptor to wait for a pool");
}

static int make_outer(struct mch_pool *pool, struct mch_error *error) {
  if (make_wakeup(pool, error) != 0)
    return MCH_SYSTEM;
  pool->outer = mch_poller_new(error);
  if (pool->outer == NULL || listen(pool, pool->outer, NULL, error) != 0) {
    mch_poller_free(pool->outer);
    pool->outer = NULL;
    return MCH_SYSTEM;
  }
  return 0;
}

int mch_pool_fd(struct mch_pool *pool, struct mch_error *error) {
  int fd = -1;
  pthread_mutex_lock(&pool->lock);
  if (pool->outer != NULL || make_outer(pool, error) == 0)
    fd = mch_poller_fd(pool->outer);
  if (pool->outer != NULL && fd < 0)
    mch_error_set(error, MCH_SYSTEM, "cannot make a descriptor to wait for a pool");
  pthread_mutex_unlock(&pool->lock);
  return fd;
}

static void part(struct mch_pool *pool) {
  if (pool->joined == NULL)
    return;
  mch_poller_remove_inner(pool->joined, pool->engine->poller);
  mch_poller_remove(pool->joined, pool->wakeup[0]);
  pool->joined = NULL;
}

int mch_pool_join(struct mch_pool *pool, struct mch_poller *poller, void *ud,
                  struct mch_error *error) {
  int code;
  pthread_mutex_lock(&pool->lock);
  part(pool);
  code = make_wakeup(pool, error);
  if (code == 0) {
    pool->joined = poller;
    code = listen(pool, poller, ud, error);
  }
  if (code != 0)
    part(pool);
  pthread_mutex_unlock(&pool->lock);
  return code;
}

void mch_pool_part(struct mch_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  part(pool);
  pthread_mutex_unlock(&pool->lock);
}

void mch_pool_quit(struct mch_pool *pool, int kill) {
  pthread_mutex_lock(&pool->lock);
  pool->engine->ops->quit(pool->engine, kill);
  pool->started = 0;
  pthread_mutex_unlock(&pool->lock);
  if (pool->driver != NULL)
    mch_driver_stop(pool->driver); /* it ends while the workers do */
}

int mch_pool_gone(struct mch_pool *pool) {
  int gone;
  pthread_mutex_lock(&pool->lock);
  gone = pool->engine->ops->gone(pool->engine);
  pthread_mutex_unlock(&pool->lock);
  return gone;
}
