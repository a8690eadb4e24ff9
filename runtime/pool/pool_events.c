/* Runs in: parent.
 *
 * What happens, as events for those who listen, and as counts for everybody. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"
#include "runtime/engines/task.h"

/* How a task, or `count` items of a batch from its first open one on, ended. */
struct ending {
  enum mch_kind kind;
  int begun;
  uint64_t count, received;
  struct mch_course course;
  struct mch_result *result; /* of one that failed; NULL: none */
};

/* -- the queue ---------------------------------------------------------------------------- */

/* See to it that so many more fit besides the ends of all tasks. 0, or MCH_NOMEM. */
int mch_events_reserve(struct mch_pool *pool, size_t more) {
  struct event_queue *queue = &pool->events;
  size_t need = queue->count + pool->unfinished + more, room = 2 * queue->room, i;
  struct mch_event *events;
  if (need <= queue->room)
    return 0;
  if (room < need)
    room = need + 16;
  if (room > SIZE_MAX / sizeof *events || (events = malloc(room * sizeof *events)) == NULL)
    return MCH_NOMEM;
  for (i = 0; i < queue->count; i++)
    events[i] = queue->events[(queue->first + i) % queue->room];
  free(queue->events);
  queue->events = events;
  queue->first = 0;
  queue->room = room;
  return 0;
}

static uint64_t wall_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Something that happened at this time; 0: now. */
static void begin(struct mch_event *event, enum mch_event_type type, uint64_t clock) {
  uint64_t now = mch_now();
  memset(event, 0, sizeof *event);
  event->type = type;
  event->clock = clock != 0 ? clock : now;
  event->time = wall_now() - (now - event->clock);
  event->count = 1;
  event->course.elapsed = event->course.cpu = event->course.maxrss = MCH_UNMEASURED;
  event->waited = event->sent = event->received = MCH_UNMEASURED;
}

/* Whether all that happens to tasks is told to anybody. */
static int is_told(const struct mch_pool *pool) {
  return pool->listening || mch_observe_wants(pool, MCH_WISH_TASKS);
}

/* Keep it for the owner, who listens; there is room for it. */
static struct mch_event *keep(struct mch_pool *pool, const struct mch_event *event) {
  struct event_queue *queue = &pool->events;
  struct mch_event *kept = &queue->events[(queue->first + queue->count++) % queue->room];
  *kept = *event;
  kept->number = ++queue->last;
  mch_ends_raise_wakeup(pool);
  return kept;
}

/* The same for one that was not provided for. NULL: nobody listens, or there is no memory. */
static struct mch_event *try_keep(struct mch_pool *pool, const struct mch_event *event) {
  return pool->listening && mch_events_reserve(pool, 1) == 0 ? keep(pool, event) : NULL;
}

void mch_events_drop_all(struct mch_pool *pool) {
  struct event_queue *queue = &pool->events;
  for (; queue->count > 0; queue->count--) {
    struct mch_event *event = &queue->events[queue->first];
    if (event->type == MCH_EVENT_EMITTED && event->source != 0)
      pool->engine->ops->accept(pool->engine, event->source, event->length);
    mch_event_clear(event);
    queue->first = (queue->first + 1) % queue->room;
  }
  free(queue->events);
  queue->events = NULL;
  queue->first = queue->room = 0;
  queue->told = queue->last;
}

int mch_pool_listen(struct mch_pool *pool, int on, struct mch_error *error) {
  int code = 0;
  pthread_mutex_lock(&pool->lock);
  if (on && !pool->listening)
    code = mch_events_reserve(pool, 0);
  if (code == 0 && on != pool->listening) {
    pool->listening = on;
    pool->engine->ops->listen(pool->engine, is_told(pool) || pool->recorder != NULL);
  }
  if (!on)
    mch_events_drop_all(pool);
  pthread_mutex_unlock(&pool->lock);
  return code == 0 ? 0 : mch_error_set(error, code, "not enough memory to tell what happens");
}

/* Split off the first of many. */
static void take_one(struct mch_event *from, struct mch_event *event) {
  *event = *from;
  event->count = 1;
  from->count--;
  from->runid++;
  from->index += from->index > 0;
  event->about = from->about != NULL ? mch_task_about(from->about) : NULL;
}

/* That a task began is told before its end at the latest. */
static void take_begin(struct mch_event *from, struct mch_event *event) {
  *event = *from;
  from->begins = 0;
  event->type = MCH_EVENT_STARTED;
  event->count = 1;
  event->index = 0;
  event->about = NULL;
  if (from->course.started != 0) {
    event->time -= event->clock - from->course.started;
    event->clock = from->course.started;
  }
}

int mch_pool_take_event(struct mch_pool *pool, struct mch_event *event) {
  struct event_queue *queue = &pool->events;
  int some;
  pthread_mutex_lock(&pool->lock);
  some = queue->count > 0;
  if (some) {
    struct mch_event *from = &queue->events[queue->first];
    if (from->begins)
      take_begin(from, event);
    else if (from->count > 1) {
      take_one(from, event);
      from->begins = from->type == MCH_EVENT_ENDED && from->many_begin;
    } else {
      *event = *from;
      queue->told = from->number;
      queue->first = (queue->first + 1) % queue->room;
      queue->count--;
      if (event->type == MCH_EVENT_EMITTED && event->source != 0)
        pool->engine->ops->accept(pool->engine, event->source, event->length);
    }
  }
  pthread_mutex_unlock(&pool->lock);
  return some;
}

int mch_pool_has_events(struct mch_pool *pool) {
  int some;
  pthread_mutex_lock(&pool->lock);
  some = pool->events.count > 0;
  pthread_mutex_unlock(&pool->lock);
  return some;
}

uint64_t mch_pool_last_event(struct mch_pool *pool) {
  uint64_t last;
  pthread_mutex_lock(&pool->lock);
  last = pool->events.last;
  pthread_mutex_unlock(&pool->lock);
  return last;
}

void mch_pool_be_hasty(struct mch_pool *pool, int hasty) {
  pthread_mutex_lock(&pool->lock);
  pool->hasty = hasty;
  pthread_mutex_unlock(&pool->lock);
}

/* Whether the task's end is to be told before it is taken. */
int mch_events_hold(const struct mch_pool *pool, const struct mch_task *task) {
  return task->said > pool->events.told && !pool->hasty;
}

/* -- what happens ------------------------------------------------------------------------- */

/* The task was accepted; there is room. */
void mch_events_queued(struct mch_pool *pool, const struct mch_task *task) {
  struct mch_event event;
  if (!is_told(pool))
    return;
  begin(&event, MCH_EVENT_QUEUED, task->accepted);
  event.runid = task->runid;
  event.index = task->index;
  event.call = task->group->call;
  event.priority = task->priority;
  event.count = mch_task_count(task);
  mch_observe_tell(pool, &event, task, NULL);
  if (pool->listening)
    keep(pool, &event)->about = mch_task_about(task);
}

static unsigned attempt_of(const struct mch_task *task) {
  return task->attempt + 1u;
}

/* The attempts, or items, of it that were begun with the one that runs now. */
static uint32_t begun_with(const struct mch_task *task) {
  return task->batch != NULL ? task->batch->answered + 1 : attempt_of(task);
}

void mch_events_started(void *ud, struct mch_task *task, const struct mch_course *course) {
  struct mch_pool *pool = ud;
  struct mch_event event;
  if (task->told >= begun_with(task) || !is_told(pool))
    return;
  begin(&event, MCH_EVENT_STARTED, course->started);
  event.runid = task->runid + (task->batch != NULL ? task->batch->answered : 0);
  event.index = task->index + (task->index > 0 ? event.runid - task->runid : 0);
  event.attempt = attempt_of(task);
  event.course = *course;
  mch_observe_tell(pool, &event, task, NULL);
  event.index = 0;
  if (!pool->listening || try_keep(pool, &event) != NULL)
    task->told = begun_with(task);
}

/* Values of the run ID's task; 0: dropped. */
static int keep_values(struct mch_pool *pool, uint64_t runid, unsigned attempt, int source,
                       const char *host, const void *graph, size_t length) {
  unsigned char *values = pool->listening ? malloc(length) : NULL;
  struct mch_event event;
  if (values == NULL)
    return 0;
  memcpy(values, graph, length);
  begin(&event, MCH_EVENT_EMITTED, 0);
  event.runid = runid;
  event.attempt = attempt;
  event.source = source;
  event.course.host = host;
  event.values = values;
  event.length = length;
  if (try_keep(pool, &event) != NULL)
    return 1;
  free(values);
  return 0;
}

void mch_events_emitted_again(struct mch_pool *pool, uint64_t runid,
                              const struct mch_emitted_again *emitted) {
  struct event_queue *queue = &pool->events;
  if (keep_values(pool, runid, emitted->attempt, 0, NULL, emitted->graph, emitted->length))
    queue->events[(queue->first + queue->count - 1) % queue->room].found = 1;
}

int mch_events_emitted(void *ud, struct mch_task *task, int source, const char *host,
                       const unsigned char *graph, size_t length) {
  uint64_t runid = task->runid + (task->batch != NULL ? task->batch->answered : 0);
  mch_record_emitted(task, attempt_of(task), graph, length);
  return keep_values(ud, runid, attempt_of(task), source, host, graph, length);
}

int mch_pool_emit(struct mch_pool *pool, uint64_t runid, const void *graph, size_t length) {
  const struct mch_task *task;
  int code = 0;
  pthread_mutex_lock(&pool->lock);
  task = mch_index_find(pool, runid);
  mch_record_emitted(task, task != NULL ? attempt_of(task) : 1, graph, length);
  if (pool->listening &&
      !keep_values(pool, runid, task != NULL ? attempt_of(task) : 1, 0, NULL, graph, length))
    code = MCH_NOMEM;
  pthread_mutex_unlock(&pool->lock);
  return code;
}

void mch_events_worker(void *ud, int pid, unsigned slot, const char *host, const char *why) {
  struct mch_pool *pool = ud;
  struct mch_event event;
  if (!is_told(pool))
    return;
  begin(&event, why != NULL ? MCH_EVENT_WORKER_ENDED : MCH_EVENT_WORKER_STARTED, 0);
  event.course.pid = pid;
  event.course.slot = slot;
  event.course.host = host;
  event.why = why;
  mch_observe_tell(pool, &event, NULL, NULL);
  try_keep(pool, &event);
}

/* -- counting ----------------------------------------------------------------------------- */

static void count_span(struct mch_time_span *span, uint64_t count, uint64_t sum, uint64_t most) {
  span->count += count;
  span->sum += sum;
  if (most > span->most)
    span->most = most;
}

/* One of the slowest? They stand with the slowest first. */
static void note_slow(struct mch_tally *tally, const struct mch_task *task, uint64_t number,
                      enum mch_kind kind, uint64_t elapsed) {
  struct mch_slow slow = {task->runid + number, task->index + (task->index > 0 ? number : 0),
                          elapsed, kind, ""};
  size_t length = task->extra != NULL ? task->extra->name_length : 0;
  unsigned at = tally->slow;
  if (length > sizeof slow.name - 1)
    length = sizeof slow.name - 1;
  if (length > 0)
    memcpy(slow.name, task->extra->name, length);
  slow.name[length] = '\0';
  if (at < MCH_SLOWEST)
    tally->slow++;
  else
    at--;
  for (; at > 0 && tally->slowest[at - 1].elapsed < elapsed; at--)
    tally->slowest[at] = tally->slowest[at - 1];
  tally->slowest[at] = slow;
}

static uint64_t waited_until(const struct mch_task *task, uint64_t started, int begun) {
  if (started == 0)
    started = begun ? task->accepted : mch_now();
  return started > task->accepted ? started - task->accepted : 0;
}

static void count_work(struct mch_pool *pool, const struct mch_task *task, uint64_t number,
                       enum mch_kind kind, uint64_t elapsed) {
  struct mch_tally *tally = &pool->tally;
  count_span(&tally->working, 1, elapsed, elapsed);
  if (tally->slow < MCH_SLOWEST || elapsed > tally->slowest[MCH_SLOWEST - 1].elapsed)
    note_slow(tally, task, number, kind, elapsed);
}

/* A task, or the next item of a batch. */
static void count_result(struct mch_pool *pool, struct mch_task *task,
                         const struct mch_result *result) {
  struct mch_tally *tally = &pool->tally;
  uint64_t waited = waited_until(task, result->started, result->begun);
  tally->ended[result->kind]++;
  if (task->found)
    return;
  tally->received += result->length + task->early_bytes;
  count_span(&tally->waiting, 1, waited, waited);
  if (!result->begun)
    return;
  count_work(pool, task, task->batch != NULL ? task->batch->answered : 0, result->kind,
             result->elapsed);
  if (task->batch != NULL) {
    task->batch->timed++;
    task->batch->timed_span += result->elapsed;
  }
}

/* Items that were too short to be timed one by one are counted when their batch is over. */
static void count_answers(struct mch_pool *pool, struct mch_task *task,
                          const struct ending *ending) {
  uint64_t elapsed = ending->course.elapsed, waited;
  pool->tally.ended[ending->kind] += ending->count;
  pool->tally.received += ending->received;
  if (elapsed == MCH_UNMEASURED)
    return;
  waited = waited_until(task, ending->course.started, 1);
  count_span(&pool->tally.waiting, 1, waited, waited);
  count_work(pool, task, task->batch->answered, ending->kind, elapsed);
  task->batch->timed++;
  task->batch->timed_span += elapsed;
}

/* Its items ran one after the other, as far as is known alike. */
void mch_events_batch_over(struct mch_pool *pool, const struct mch_task *task, uint64_t elapsed) {
  const struct mch_batch *batch = task->batch;
  uint64_t count = batch->count - batch->timed, span, waited, now;
  if (count == 0 || elapsed == 0)
    return;
  now = mch_now();
  span = elapsed > batch->timed_span ? elapsed - batch->timed_span : 0;
  waited = now - elapsed > task->accepted ? now - elapsed - task->accepted : 0;
  count_span(&pool->tally.working, count, span, span / count);
  count_span(&pool->tally.waiting, count, count * waited + span * (count - 1) / 2,
             waited + span / count * (count - 1));
}

void mch_pool_stats(struct mch_pool *pool, struct mch_pool_stats *stats, uint64_t *worked,
                    size_t room) {
  pthread_mutex_lock(&pool->lock);
  stats->tally = pool->tally;
  stats->running = pool->engine->ops->running(pool->engine, NULL, NULL);
  stats->queued = pool->unfinished;
  stats->queued -= stats->running < stats->queued ? stats->running : stats->queued;
  stats->unreceived = pool->finished;
  stats->slots = pool->engine->ops->work(pool->engine, worked, room, &stats->since);
  pthread_mutex_unlock(&pool->lock);
}

/* -- ends --------------------------------------------------------------------------------- */

void mch_events_retried(struct mch_pool *pool, const struct mch_task *task,
                        struct mch_result *result) {
  struct mch_event event, *kept;
  struct mch_course course = {
      .pid = result->pid, .slot = result->slot, .started = result->started, .host = result->host};
  pool->tally.retried++;
  if (!is_told(pool) && !mch_observe_wants(pool, MCH_WISH_FAILURES))
    return;
  if (result->begun)
    mch_events_started(pool, (struct mch_task *)task, &course);
  begin(&event, MCH_EVENT_RETRIED, 0);
  event.runid = task->runid;
  event.attempt = attempt_of(task);
  event.kind = result->kind;
  event.course.pid = result->pid;
  event.course.slot = result->slot;
  event.course.host = result->host;
  mch_observe_tell(pool, &event, task, result);
  if ((kept = try_keep(pool, &event)) != NULL && (kept->about = mch_task_about(task)) != NULL)
    kept->about->result = mch_result_share(result);
}

/* The same for those who observe; that it began is told before. */
static void tell_observers(struct mch_pool *pool, const struct mch_event *event,
                           const struct mch_task *task, const struct mch_result *result) {
  struct mch_event started = *event;
  if (event->begins) {
    started.type = MCH_EVENT_STARTED;
    if (started.course.started != 0) {
      started.time -= started.clock - started.course.started;
      started.clock = started.course.started;
    }
    mch_observe_tell(pool, &started, task, NULL);
  }
  mch_observe_tell(pool, event, task, result);
}

/* To be called before it is counted as finished: there is room until then. */
static void tell_end(struct mch_pool *pool, struct mch_task *task, const struct ending *ending) {
  uint64_t number = task->batch != NULL ? task->batch->answered : 0;
  struct mch_event made, *event = &made;
  begin(event, MCH_EVENT_ENDED, 0);
  event->kind = ending->kind;
  event->count = (uint32_t)ending->count;
  event->begins = ending->begun && task->told < begun_with(task);
  event->many_begin = ending->begun;
  event->runid = task->runid + number;
  event->index = task->index + (task->index > 0 ? number : 0);
  event->call = task->group->call;
  event->attempt = attempt_of(task);
  event->priority = task->priority;
  event->course = ending->course;
  event->waited = ending->course.started != 0 || !ending->begun
                      ? waited_until(task, ending->course.started, ending->begun)
                      : MCH_UNMEASURED;
  event->found = task->found;
  if (!task->found) {
    event->sent = task->batch == NULL ? task->length : mch_task_item_length(task);
    event->received = ending->count == 1 ? ending->received : MCH_UNMEASURED;
  } else
    event->waited = MCH_UNMEASURED;
  tell_observers(pool, event, task, ending->result);
  if (!pool->listening)
    return;
  event = keep(pool, event);
  if (ending->result != NULL || task->extra != NULL)
    event->about = mch_task_about(task);
  if (event->about != NULL) {
    event->about->runid = event->runid;
    event->about->index = event->index;
    if (ending->result != NULL)
      event->about->result = mch_result_share(ending->result);
  }
  task->said = event->number;
}

void mch_events_answered(struct mch_pool *pool, struct mch_task *task, uint32_t count,
                         size_t length, const struct mch_course *course) {
  struct ending ending = {
      .kind = MCH_KIND_OK, .begun = 1, .count = count, .received = length, .course = *course};
  count_answers(pool, task, &ending);
  if (is_told(pool))
    tell_end(pool, task, &ending);
}

/* The pool ends: nobody else will say it of these. */
void mch_events_forgotten(struct mch_pool *pool, struct mch_task *task, uint32_t count) {
  struct ending ending = {
      .kind = MCH_KIND_CANCELLED,
      .count = count,
      .course = {.elapsed = MCH_UNMEASURED, .cpu = MCH_UNMEASURED, .maxrss = MCH_UNMEASURED}};
  if (is_told(pool))
    tell_end(pool, task, &ending);
}

/* A task that has this result, or the next item of a batch. */
static void tell_result(struct mch_pool *pool, struct mch_task *task, struct mch_result *result) {
  int begun = result->begun || task->told >= begun_with(task);
  struct ending ending = {
      .kind = result->kind,
      .begun = begun,
      .count = 1,
      .received = result->length + task->early_bytes,
      .course = {.pid = result->pid,
                 .slot = result->slot,
                 .started = result->started,
                 .elapsed = begun ? result->elapsed : MCH_UNMEASURED,
                 .cpu = result->cpu,
                 .maxrss = result->maxrss != 0 ? result->maxrss : MCH_UNMEASURED,
                 .host = result->host},
      .result = result->kind != MCH_KIND_OK ? result : NULL};
  tell_end(pool, task, &ending);
}

void mch_events_ended(struct mch_pool *pool, struct mch_task *task, struct mch_result *result) {
  count_result(pool, task, result);
  if (is_told(pool) || (result->kind != MCH_KIND_OK && mch_observe_wants(pool, MCH_WISH_FAILURES)))
    tell_result(pool, task, result);
}
