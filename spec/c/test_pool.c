/* runtime/pool: the state machine of tasks, over an engine made of lists. */
#include "runtime/pool/pool_state.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <poll.h>
#include <stdio.h>

#include "check.h"

/* -- the engine --------------------------------------------------------------------------- */

enum { MOST = 4096 };

struct fake_engine {
  struct mch_engine base;
  struct mch_engine_config config;
  struct mch_task *tasks[MOST]; /* submitted, in order */
  size_t count, capacity;
  size_t begun; /* the first of them run: no recall, and a stop is a request */
  int start_fails, submit_fails, started, completed, stops, flushes;
};

static struct fake_engine *the_engine; /* the last one made */

static int fake_start(struct mch_engine *base, struct mch_error *error) {
  struct fake_engine *engine = (struct fake_engine *)base;
  engine->started++;
  return engine->start_fails ? mch_error_set(error, MCH_SYSTEM, "no worker today") : 0;
}

/* The first worker has the task by now. */
static int fake_add(struct mch_engine *base, size_t queued, struct mch_error *error) {
  struct fake_engine *engine = (struct fake_engine *)base;
  (void)queued;
  (void)error;
  engine->completed++;
  CHECK(engine->started == 0 || engine->count > 0 || engine->submit_fails);
  return 0;
}

static int fake_submit(struct mch_engine *base, struct mch_task *task, int owner,
                       struct mch_error *error) {
  struct fake_engine *engine = (struct fake_engine *)base;
  (void)owner;
  if (engine->submit_fails)
    return mch_error_set(error, MCH_NOMEM, "no memory today");
  if (engine->count == engine->capacity)
    return MCH_FULL;
  engine->tasks[engine->count++] = task;
  return 0;
}

static struct mch_task *fake_remove(struct fake_engine *engine, size_t at) {
  struct mch_task *task = engine->tasks[at];
  engine->count--;
  engine->begun -= at < engine->begun;
  memmove(&engine->tasks[at], &engine->tasks[at + 1], (engine->count - at) * sizeof task);
  return task;
}

static void fake_finish(size_t at, enum mch_kind kind) {
  struct fake_engine *engine = the_engine;
  struct mch_task *task = fake_remove(engine, at);
  if (task->stop != 0)
    kind = (enum mch_kind)task->stop;
  engine->config.events.finished(engine->config.events.ud, task,
                                 mch_result_new(kind, NULL, &task->runid, sizeof task->runid));
}

static void fake_return(size_t at) {
  struct mch_events *events = &the_engine->config.events;
  events->returned(events->ud, fake_remove(the_engine, at));
}

static void fake_stop(struct mch_engine *base, struct mch_task *task) {
  struct fake_engine *engine = (struct fake_engine *)base;
  size_t i;
  engine->stops++;
  for (i = engine->begun; i < engine->count; i++)
    if (engine->tasks[i] == task) {
      fake_finish(i, MCH_KIND_OK);
      return;
    }
}

/* From the last to the first, as a worker's stream is taken back. */
static void fake_recall(struct mch_engine *base, int32_t priority) {
  struct fake_engine *engine = (struct fake_engine *)base;
  size_t i;
  for (i = engine->count; i-- > engine->begun;)
    if (engine->tasks[i]->priority < priority)
      fake_return(i);
}

static int fake_reclaim(struct mch_engine *base, struct mch_task *task) {
  struct fake_engine *engine = (struct fake_engine *)base;
  size_t i;
  for (i = engine->begun; i < engine->count; i++)
    if (engine->tasks[i] == task) {
      fake_return(i);
      return 1;
    }
  return 0;
}

static void fake_flush(struct mch_engine *base) {
  ((struct fake_engine *)base)->flushes++;
}
static void fake_pump(struct mch_engine *base, int owner, size_t queued) {
  (void)base, (void)owner, (void)queued;
}
static int fake_short(struct mch_engine *base, size_t queued) {
  (void)base, (void)queued;
  return 0;
}
static uint64_t fake_deadline(struct mch_engine *base) {
  (void)base;
  return MCH_NEVER;
}
static int fake_hungry(struct mch_engine *base) {
  (void)base;
  return 0;
}
static unsigned fake_running(struct mch_engine *base, const struct mch_group *group,
                             unsigned *others) {
  (void)group;
  (void)others;
  return (unsigned)((struct fake_engine *)base)->begun;
}
static size_t fake_workers(struct mch_engine *base, struct mch_worker_info *infos, size_t room) {
  (void)base, (void)infos, (void)room;
  return 0;
}
static void fake_threshold(struct mch_engine *base, int level) {
  (void)base, (void)level;
}
static void fake_quit(struct mch_engine *base, int kill) {
  (void)base, (void)kill;
}
static int fake_gone(struct mch_engine *base) {
  (void)base;
  return 1;
}
static void fake_free(struct mch_engine *base) {
  mch_poller_free(base->poller);
  free(base);
}

static const struct mch_engine_ops fake_ops = {
    .start = fake_start,
    .submit = fake_submit,
    .stop = fake_stop,
    .reclaim = fake_reclaim,
    .recall = fake_recall,
    .flush = fake_flush,
    .pump = fake_pump,
    .wants_tasks = fake_hungry,
    .short_of_workers = fake_short,
    .add = fake_add,
    .deadline = fake_deadline,
    .running = fake_running,
    .workers = fake_workers,
    .log_threshold = fake_threshold,
    .quit = fake_quit,
    .gone = fake_gone,
    .free = fake_free,
};

static struct mch_engine *fake_engine_new(const struct mch_engine_config *config,
                                          struct mch_error *error) {
  the_engine = calloc(1, sizeof *the_engine);
  the_engine->base.ops = &fake_ops;
  the_engine->base.poller = mch_poller_new(error);
  the_engine->config = *config;
  the_engine->capacity = MOST;
  return &the_engine->base;
}

/* -- help --------------------------------------------------------------------------------- */

static struct mch_output *the_output;

static struct mch_pool *new_pool(void) {
  struct mch_pool_config config;
  struct mch_error error;
  struct mch_pool *pool;
  memset(&config, 0, sizeof config);
  config.make = fake_engine_new;
  config.engine.nworkers = 1;
  config.engine.output = the_output;
  pool = mch_pool_new(&config, &error);
  if (pool == NULL)
    fprintf(stderr, "%s\n", error.text), exit(1);
  return pool;
}

/* Let go of what the engine still has, then of the pool. */
static void free_pool(struct mch_pool *pool) {
  the_engine->count = the_engine->begun = 0;
  mch_pool_free(pool);
}

static uint64_t the_delay; /* of those that are run with retries */

static uint64_t run_with(struct mch_pool *pool, struct mch_group *group, int32_t priority,
                         unsigned retries) {
  struct mch_task *task = mch_task_new(NULL, 0, "graph", 5);
  struct mch_error error;
  uint64_t runid = UINT64_MAX;
  task->priority = priority;
  if (retries > 0) {
    task->extra = calloc(1, sizeof *task->extra);
    task->extra->retries = retries;
    task->extra->delay = the_delay;
    task->extra->retry_on = 1u << MCH_KIND_KILLED | 1u << MCH_KIND_EXITED;
  }
  CHECK(mch_pool_run(pool, task, group, &runid, &error) == 0);
  return runid;
}

static uint64_t run(struct mch_pool *pool, struct mch_group *group) {
  return run_with(pool, group, 0, 0);
}

/* Take one: its run ID (or -1) and kind. */
static int64_t take_one(struct mch_pool *pool, struct mch_group *group, enum mch_kind *kind) {
  struct mch_task *task = mch_pool_take(pool, group);
  int64_t runid = task != NULL ? (int64_t)task->runid : -1;
  if (task != NULL && kind != NULL)
    *kind = task->result->kind;
  mch_pool_discard(pool, task);
  return runid;
}

/* The engine has these, in this order. */
static int engine_has(size_t count, const uint64_t *runids) {
  size_t i;
  int right = the_engine->count == count;
  for (i = 0; right && i < count; i++)
    right = the_engine->tasks[i]->runid == runids[i];
  if (!right) {
    fprintf(stderr, "the engine has");
    for (i = 0; i < the_engine->count; i++)
      fprintf(stderr, " %d", (int)the_engine->tasks[i]->runid);
    fprintf(stderr, "\n");
  }
  return right;
}
#define ENGINE_HAS(count, ...) CHECK(engine_has(count, (const uint64_t[]){__VA_ARGS__}))

/* -- the cases ---------------------------------------------------------------------------- */

static void test_order(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0}, other = {0};
  enum mch_kind kind;
  uint64_t from = 0;
  struct mch_task *task;
  int i;
  the_engine->capacity = 3;
  for (i = 0; i < 6; i++)
    CHECK(run(pool, i == 5 ? &other : &group) == (uint64_t)i);
  mch_pool_pump(pool);
  ENGINE_HAS(3, 0, 1, 2);
  CHECK(mch_pool_unfinished(pool, &group) == 5 && mch_pool_unfinished(pool, &other) == 1);
  fake_finish(2, MCH_KIND_OK);
  fake_finish(0, MCH_KIND_ERROR);
  mch_pool_pump(pool);
  ENGINE_HAS(3, 1, 3, 4);
  CHECK(take_one(pool, &group, &kind) == 2 && kind == MCH_KIND_OK);
  CHECK(take_one(pool, &group, &kind) == 0 && kind == MCH_KIND_ERROR);
  CHECK(take_one(pool, &group, NULL) == -1);
  while (the_engine->count > 0) {
    fake_finish(the_engine->count - 1, MCH_KIND_OK);
    mch_pool_pump(pool);
  }
  CHECK(mch_pool_unfinished(pool, &group) == 0 && mch_pool_finished(pool, &group) == 3);
  for (i = 1; (task = mch_pool_take_in_order(pool, &group, &from)) != NULL; i += i == 1 ? 2 : 1) {
    CHECK(task->runid == (uint64_t)i && from == task->runid + 1);
    mch_pool_discard(pool, task);
  }
  CHECK(i == 5);
  CHECK(take_one(pool, &other, NULL) == 5);
  CHECK(pool->base == 6 && pool->queue.count == 0 && pool->submitted == 0);
  free_pool(pool);
}

/* Higher first, equal ones in run order, also those that were sent ahead. */
static void test_priority(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  the_engine->capacity = 3;
  run(pool, &group);
  run(pool, &group);
  run(pool, &group);
  mch_pool_pump(pool);
  the_engine->begun = 1;
  ENGINE_HAS(3, 0, 1, 2);
  run(pool, &group); /* 3: waits in the pool */
  run_with(pool, &group, 5, 0);
  ENGINE_HAS(3, 0, 4, 1);
  run_with(pool, &group, -1, 0);
  run_with(pool, &group, 5, 0);
  run_with(pool, &group, INT32_MAX, 0);
  ENGINE_HAS(3, 0, 7, 4);
  the_engine->capacity = 100;
  mch_pool_pump(pool);
  ENGINE_HAS(8, 0, 7, 4, 6, 1, 2, 3, 5);
  free_pool(pool);
}

/* A task that was never urgent is overtaken by one of the middle. */
static void test_priority_below_zero(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  the_engine->capacity = 2;
  run_with(pool, &group, -5, 0);
  run_with(pool, &group, -5, 0);
  mch_pool_pump(pool);
  the_engine->begun = 1;
  run(pool, &group);
  ENGINE_HAS(2, 0, 2);
  free_pool(pool);
}

/* What comes back from several workers stands in run order again. */
static void test_returned(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  int i;
  the_engine->capacity = 6;
  for (i = 0; i < 8; i++)
    run(pool, &group);
  mch_pool_pump(pool);
  ENGINE_HAS(6, 0, 1, 2, 3, 4, 5);
  fake_return(4);
  fake_return(2);
  fake_return(0); /* one worker's 0, 2, 4, then another's 1, 3, 5 */
  fake_return(2);
  fake_return(1);
  fake_return(0);
  mch_pool_pump(pool);
  ENGINE_HAS(6, 0, 1, 2, 3, 4, 5);
  free_pool(pool);
}

/* Whether the pool has something to do after so many hours, and not before. */
static int is_due_in(struct mch_pool *pool, uint64_t hours) {
  const uint64_t hour = 3600000000000u;
  uint64_t due = mch_pool_deadline(pool), now = mch_now();
  return due > now + hours * hour - hour / 2 && due < now + hours * hour + hour / 2;
}

static void test_pauses(void) {
  static const uint64_t hours[] = {3, 1, 5, 2, 4};
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  struct mch_pool_counts counts;
  enum mch_kind kind;
  size_t i;
  for (i = 0; i < 5; i++) {
    the_delay = hours[i] * 3600000000000u;
    run_with(pool, &group, (int32_t)i, 5);
  }
  mch_pool_pump(pool);
  while (the_engine->count > 0)
    fake_finish(0, MCH_KIND_KILLED);
  mch_pool_pump(pool);
  mch_pool_count(pool, &counts);
  CHECK(the_engine->count == 0 && counts.queued == 5 && is_due_in(pool, 1));
  CHECK(mch_pool_cancel(pool, 3) == 1 && is_due_in(pool, 1));
  CHECK(mch_pool_cancel(pool, 1) == 1 && is_due_in(pool, 3));
  CHECK(take_one(pool, &group, &kind) == 3 && kind == MCH_KIND_CANCELLED);
  CHECK(take_one(pool, &group, &kind) == 1 && kind == MCH_KIND_CANCELLED);
  the_delay = 1;
  run_with(pool, &group, 0, 1);
  fake_finish(0, MCH_KIND_ERROR); /* not among those that are tried again */
  CHECK(take_one(pool, &group, &kind) == 5 && kind == MCH_KIND_ERROR);
  run_with(pool, &group, 0, 1);
  fake_finish(0, MCH_KIND_KILLED);
  CHECK(the_engine->count == 0);
  mch_pool_pump(pool);
  CHECK(the_engine->count == 1 && the_engine->tasks[0]->attempt == 1);
  the_delay = 0;
  free_pool(pool); /* with three that pause */
}

static void test_halt(int how) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0}, other = {0};
  struct mch_task *task;
  enum mch_kind kind;
  uint64_t i;
  group.halt.how = (enum mch_halt_how)how;
  group.halt.after = 2;
  the_engine->capacity = 4;
  run(pool, &other);
  for (i = 1; i <= 6; i++)
    run(pool, &group);
  mch_pool_pump(pool);
  ENGINE_HAS(4, 0, 1, 2, 3);
  the_engine->begun = 3;
  fake_finish(1, MCH_KIND_ERROR);
  mch_pool_pump(pool);
  ENGINE_HAS(4, 0, 2, 3, 4);
  the_engine->begun = 3;
  fake_finish(1, MCH_KIND_KILLED);
  ENGINE_HAS(3, 0, 3, 4);
  mch_pool_pump(pool);
  ENGINE_HAS(2, 0, 3); /* 4 was taken back */
  CHECK(the_engine->stops == (how == MCH_HALT_NOW));
  CHECK(run(pool, &group) == 7 && run(pool, &other) == 8);
  mch_pool_pump(pool);
  ENGINE_HAS(3, 0, 3, 8);
  fake_finish(1, MCH_KIND_OK);
  CHECK(take_one(pool, &group, &kind) == 1 && kind == MCH_KIND_ERROR && group.cause != NULL);
  CHECK(take_one(pool, &group, &kind) == 2 && kind == MCH_KIND_KILLED && group.cause == NULL);
  for (i = 4; i <= 7; i++) {
    CHECK((task = mch_pool_take(pool, &group)) != NULL && task->runid == i);
    CHECK(task->result->kind == MCH_KIND_CANCELLED && task->cause->runid == 2);
    mch_pool_discard(pool, task);
  }
  CHECK(take_one(pool, &group, &kind) == 3);
  CHECK(kind == (how == MCH_HALT_NOW ? MCH_KIND_CANCELLED : MCH_KIND_OK));
  run(pool, &group);
  mch_pool_pump(pool);
  ENGINE_HAS(3, 0, 8, 9);
  fake_finish(2, MCH_KIND_ERROR); /* the first of the new count */
  CHECK(group.cause == NULL);
  free_pool(pool);
}

static void test_retries(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  enum mch_kind kind;
  run_with(pool, &group, 0, 2);
  fake_finish(0, MCH_KIND_KILLED);
  CHECK(mch_pool_unfinished(pool, &group) == 1);
  mch_pool_pump(pool);
  CHECK(the_engine->count == 1 && the_engine->tasks[0]->attempt == 1);
  fake_finish(0, MCH_KIND_EXITED);
  mch_pool_pump(pool);
  fake_finish(0, MCH_KIND_KILLED);
  CHECK(take_one(pool, &group, &kind) == 0 && kind == MCH_KIND_KILLED);
  run_with(pool, &group, 0, 2);
  fake_finish(0, MCH_KIND_ERROR);
  CHECK(take_one(pool, &group, &kind) == 1 && kind == MCH_KIND_ERROR);
  run_with(pool, &group, 0, 2);
  fake_finish(0, MCH_KIND_TIMEOUT);
  CHECK(take_one(pool, &group, &kind) == 2 && kind == MCH_KIND_TIMEOUT);
  run_with(pool, &group, 0, 2);
  the_engine->begun = 1;
  CHECK(mch_pool_cancel(pool, 3) == 2);
  fake_finish(0, MCH_KIND_KILLED);
  CHECK(take_one(pool, &group, &kind) == 3 && kind == MCH_KIND_CANCELLED);
  CHECK(pool->submitted == 0 && pool->queue.count == 0);
  free_pool(pool);
}

static void test_cancel(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  enum mch_kind kind;
  the_engine->capacity = 2;
  run(pool, &group);
  run(pool, &group);
  run(pool, &group);
  mch_pool_pump(pool);
  the_engine->begun = 1;
  CHECK(mch_pool_cancel(pool, 2) == 1 && the_engine->stops == 0); /* waits in the pool */
  CHECK(take_one(pool, &group, &kind) == 2 && kind == MCH_KIND_CANCELLED);
  CHECK(mch_pool_cancel(pool, 1) == 1 && the_engine->stops == 1); /* was sent ahead */
  CHECK(take_one(pool, &group, &kind) == 1 && kind == MCH_KIND_CANCELLED);
  CHECK(mch_pool_cancel(pool, 0) == 2 && mch_pool_cancel(pool, 0) == 2); /* runs */
  CHECK(the_engine->stops == 2);
  CHECK(take_one(pool, &group, NULL) == -1);
  fake_finish(0, MCH_KIND_OK);
  CHECK(mch_pool_cancel(pool, 0) == 0); /* done, not taken */
  CHECK(take_one(pool, &group, &kind) == 0 && kind == MCH_KIND_CANCELLED);
  CHECK(mch_pool_cancel(pool, 0) == 0 && mch_pool_cancel(pool, 3) == 0);
  CHECK(mch_pool_cancel(pool, UINT64_MAX) == 0);
  /* One that is asked to stop and then comes back unbegun does not start again. */
  run(pool, &group);
  the_engine->begun = 1;
  CHECK(mch_pool_cancel(pool, 3) == 2);
  fake_return(0);
  mch_pool_pump(pool);
  CHECK(the_engine->count == 0);
  CHECK(take_one(pool, &group, &kind) == 3 && kind == MCH_KIND_CANCELLED);
  free_pool(pool);
}

static void test_cancel_all(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0}, other = {0};
  int i;
  the_engine->capacity = 3;
  for (i = 0; i < 10; i++)
    run(pool, i % 2 ? &other : &group);
  mch_pool_pump(pool);
  the_engine->begun = 1;
  CHECK(mch_pool_unfinished_below(pool, 8) == 8);
  mch_pool_cancel_all(pool, NULL, 4);
  CHECK(mch_pool_unfinished_below(pool, 4) == 1 && mch_pool_unfinished_below(pool, 100) == 7);
  fake_finish(0, MCH_KIND_OK);
  CHECK(mch_pool_unfinished_below(pool, 4) == 0);
  mch_pool_cancel_all(pool, &other, UINT64_MAX);
  CHECK(mch_pool_unfinished(pool, &other) == 0 && mch_pool_unfinished(pool, &group) == 3);
  mch_pool_cancel_all(pool, NULL, UINT64_MAX);
  CHECK(mch_pool_unfinished(pool, &group) == 0);
  for (i = 0; take_one(pool, &group, NULL) >= 0 || take_one(pool, &other, NULL) >= 0; i++)
    ;
  CHECK(i == 10 && pool->base == 10);
  free_pool(pool);
}

/* The last of an abandoned group's tasks takes the group along. */
static void test_abandon(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group *group = mch_pool_group(pool, 0, 0), mine = {0};
  struct mch_pool_counts counts;
  the_engine->capacity = 3;
  run(pool, group);
  run(pool, group);
  run(pool, &mine);
  run(pool, group);
  mch_pool_pump(pool);
  the_engine->begun = 1;
  mch_pool_abandon(pool, group);
  ENGINE_HAS(2, 0, 2);
  mch_pool_cancel_all(pool, NULL, 2);
  fake_finish(0, MCH_KIND_OK);
  mch_pool_count(pool, &counts);
  CHECK(counts.queued == 1 && counts.running == 0 && counts.next_runid == 4);
  fake_finish(0, MCH_KIND_OK);
  CHECK(take_one(pool, &mine, NULL) == 2);
  CHECK(pool->base == 4);
  group = mch_pool_group(pool, 0, 0);
  mch_pool_abandon(pool, group);
  group = mch_pool_group(pool, 0, 0);
  run(pool, group);
  fake_finish(0, MCH_KIND_OK);
  mch_pool_abandon(pool, group);
  group = mch_pool_group(pool, 0, 0);
  run(pool, group);
  the_engine->begun = 1;
  mch_pool_abandon(pool, group);
  free_pool(pool); /* before it has ended */
}

static void test_failures(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  struct mch_task *task = mch_task_new(NULL, 0, NULL, 0);
  struct mch_error error;
  uint64_t runid;
  enum mch_kind kind;
  the_engine->start_fails = 1;
  CHECK(mch_pool_run(pool, task, &group, &runid, &error) == MCH_SYSTEM);
  CHECK(strcmp(error.text, "no worker today") == 0 && group.unfinished == 0);
  the_engine->start_fails = 0;
  CHECK(mch_pool_run(pool, task, &group, &runid, &error) == 0 && runid == 0);
  CHECK(the_engine->started == 2 && the_engine->completed == 1);
  /* No memory for its result: it ends all the same. */
  fake_remove(the_engine, 0);
  the_engine->config.events.finished(pool, task, NULL);
  CHECK(take_one(pool, &group, &kind) == 0 && kind == MCH_KIND_ERROR);
  the_engine->submit_fails = 1;
  run(pool, &group);
  task = mch_pool_take(pool, &group);
  CHECK(task != NULL && task->result->kind == MCH_KIND_ERROR);
  CHECK(task != NULL && strcmp(task->result->text, "no memory today") == 0);
  mch_pool_discard(pool, task);
  mch_pool_discard(pool, NULL);
  CHECK(mch_task_new(NULL, 0, NULL, SIZE_MAX - 8) == NULL);
  CHECK(mch_result_new(MCH_KIND_OK, NULL, NULL, SIZE_MAX - 8) == NULL);
  CHECK(the_engine->started == 2 && the_engine->completed == 1);
  free_pool(pool);
}

/* Records are handed over before the results that come after them. */
static void test_records(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  struct mch_buf record = {0};
  uint64_t from = 0;
  run(pool, &group);
  CHECK(!mch_pool_has_logs(pool) && mch_pool_take_log(pool, &record) == 0);
  the_engine->config.events.log(pool, (const unsigned char *)"one", 3);
  the_engine->config.events.log(pool, (const unsigned char *)"", 0);
  fake_finish(0, MCH_KIND_OK);
  CHECK(mch_pool_has_logs(pool));
  CHECK(mch_pool_take(pool, &group) == NULL);
  CHECK(mch_pool_take_in_order(pool, &group, &from) == NULL && from == 0);
  CHECK(mch_pool_take_log(pool, &record) == 1 && record.length == 3);
  CHECK(memcmp(record.data, "one", 3) == 0);
  CHECK(mch_pool_take_log(pool, &record) == 1 && record.length == 0);
  CHECK(mch_pool_take_log(pool, &record) == 0 && pool->record_bytes == 0);
  CHECK(take_one(pool, &group, NULL) == 0);
  the_engine->config.events.log(pool, (const unsigned char *)"left", 4);
  mch_buf_free(&record);
  free_pool(pool);
}

/* Where a thread makes the descriptor readable it may be a moment behind. */
static int becomes_readable(int fd) {
  struct pollfd entry = {fd, POLLIN, 0};
#if defined(MANTICHORA_PORTABLE)
  return poll(&entry, 1, 5000) == 1;
#else
  return poll(&entry, 1, 0) == 1;
#endif
}

static int is_readable(int fd) {
  struct pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

static void test_descriptor(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  int fd = mch_pool_fd(pool, NULL), i;
  CHECK(fd > 2 && mch_pool_fd(pool, NULL) == fd);
  CHECK(!is_readable(fd));
  for (i = 0; i < 3; i++) {
    run(pool, &group);
    run(pool, &group);
    mch_pool_pump(pool);
    CHECK(!is_readable(fd));
    fake_finish(1, MCH_KIND_OK); /* as by the driver */
    fake_finish(0, MCH_KIND_OK);
    CHECK(becomes_readable(fd));
    mch_pool_pump(pool);
    CHECK(!is_readable(fd));
  }
  the_engine->config.events.log(pool, (const unsigned char *)"one", 3);
  CHECK(becomes_readable(fd));
  free_pool(pool);
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* Anything in any order: each accepted task is taken exactly once, with the kind that it ended by.
 */
static void test_storm(uint32_t seed) {
  enum { COUNT = 3000 };
  static unsigned char taken[COUNT];
  struct mch_pool *pool = new_pool();
  struct mch_group groups[2] = {{0}, {0}};
  uint64_t runid = 0;
  int taken_count = 0, steps = 0, i;
  memset(taken, 0, sizeof taken);
  the_engine->capacity = 1 + next_random(&seed) % 40;
  while (taken_count < COUNT && steps++ < COUNT * 200) {
    struct fake_engine *engine = the_engine;
    uint32_t what = next_random(&seed) % 10;
    int64_t got;
    if (what < 3 && runid < COUNT)
      runid = 1 + run_with(pool, &groups[next_random(&seed) % 2],
                           (int32_t)(next_random(&seed) % 3) - 1, next_random(&seed) % 3);
    else if (what == 3)
      mch_pool_pump(pool);
    else if (what == 4 && engine->begun < engine->count)
      engine->begun++;
    else if (what == 5 && engine->begun > 0)
      fake_finish(next_random(&seed) % engine->begun,
                  (enum mch_kind)(next_random(&seed) % (MCH_KIND_KILLED + 1)));
    else if (what == 6 && engine->count > engine->begun && next_random(&seed) % 4 == 0)
      fake_return(engine->count - 1);
    else if (what == 7 && next_random(&seed) % 3 == 0)
      mch_pool_cancel(pool, next_random(&seed) % (runid + 1));
    else if ((got = take_one(pool, &groups[what % 2], NULL)) >= 0)
      taken[got]++, taken_count++;
    if (runid == COUNT)
      mch_pool_pump(pool);
  }
  CHECK(taken_count == COUNT);
  for (i = 0; i < COUNT && taken[i] == 1; i++)
    ;
  CHECK(i == COUNT);
  CHECK(pool->queue.count == 0 && pool->submitted == 0 && pool->base == pool->next_runid);
  CHECK(groups[0].unfinished + groups[1].unfinished + groups[0].finished + groups[1].finished == 0);
  CHECK(pool->index_room <= 2 * COUNT);
  free_pool(pool);
}

/* A window of tasks that moves on needs no more room, however long it does. */
static void test_index(void) {
  struct mch_pool *pool = new_pool();
  struct mch_group group = {0};
  int i;
  for (i = 0; i < 300000; i++) {
    run(pool, &group);
    if (i >= 50) {
      mch_pool_pump(pool);
      fake_finish(0, MCH_KIND_OK);
      mch_pool_discard(pool, mch_pool_take(pool, &group));
    }
  }
  CHECK(pool->index_room <= 256);
  CHECK(pool->base == 300000 - 50);
  free_pool(pool);
}

int main(void) {
  uint32_t seed;
  the_output = mch_output_new(NULL, NULL);
  test_order();
  test_priority();
  test_priority_below_zero();
  test_returned();
  test_retries();
  test_pauses();
  test_halt(MCH_HALT_SOON);
  test_halt(MCH_HALT_NOW);
  test_cancel();
  test_cancel_all();
  test_abandon();
  test_failures();
  test_records();
  test_descriptor();
  for (seed = 0; seed < 30; seed++)
    test_storm(seed);
  test_index();
  mch_output_unref(the_output);
  return check_report();
}
