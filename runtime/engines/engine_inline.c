/* Runs in: parent.
 *
 * The null engine: tasks run in this process, on the owner's thread, one in each pump. For
 * debugging: same values, same reports, no processes. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"

struct engine_inline {
  struct mch_engine base;
  struct mch_engine_config config;
  struct mch_task *waiting; /* the one submitted task, or NULL */
  struct mch_task *running; /* while it runs; its code may call the pool */
  uint64_t cpu;             /* processor time used when it began */
  uint64_t worked, since;   /* nanoseconds so far; when the first one began, 0: none did */
};

static int start(struct mch_engine *base, struct mch_error *error) {
  (void)base;
  (void)error;
  return 0;
}

static int submit(struct mch_engine *base, struct mch_task *task, int owner,
                  struct mch_error *error) {
  struct engine_inline *engine = (struct engine_inline *)base;
  (void)owner;
  (void)error;
  if (engine->waiting != NULL || engine->running != NULL)
    return MCH_FULL;
  engine->waiting = task;
  return 0;
}

static void finish(struct engine_inline *engine, struct mch_task *task, enum mch_kind kind,
                   const struct mch_buf *graph, uint64_t elapsed) {
  /* One that was cancelled has no values, though it returned. */
  int counts = graph != NULL && (task->stop == 0 || kind != MCH_KIND_OK);
  struct mch_result *result =
      mch_result_new(task->stop != 0 ? (enum mch_kind)task->stop : kind, NULL,
                     counts ? graph->data : NULL, counts ? graph->length : 0);
  engine->worked += elapsed;
  if (result != NULL) {
    result->elapsed = elapsed;
    result->maxrss = mch_platform_maxrss();
    result->begun = graph != NULL;
    if (result->begun) {
      result->started = mch_now() - elapsed;
      result->cpu = mch_platform_cpu_time() - engine->cpu;
    }
  }
  engine->config.events.finished(engine->config.events.ud, task, result);
}

static void stop(struct mch_engine *base, struct mch_task *task) {
  struct engine_inline *engine = (struct engine_inline *)base;
  if (engine->waiting == task) {
    engine->waiting = NULL;
    finish(engine, task, MCH_KIND_CANCELLED, NULL, 0);
  }
}

static void recall(struct mch_engine *base, int32_t priority) {
  struct engine_inline *engine = (struct engine_inline *)base;
  struct mch_task *task = engine->waiting;
  if (task == NULL || task->priority >= priority)
    return;
  engine->waiting = NULL;
  engine->config.events.returned(engine->config.events.ud, task);
}

static void flush(struct mch_engine *base) {
  (void)base;
}

static void give_codes(struct engine_inline *engine, const struct mch_task *task) {
  uint32_t i;
  for (i = 0; i < task->codes; i++) {
    uint32_t id;
    size_t length;
    const void *bytes;
    memcpy(&id, task->body + i * sizeof id, sizeof id);
    bytes = engine->config.codes.get(engine->config.codes.ud, id, &length);
    if (bytes != NULL)
      engine->config.runner.code(engine->config.runner.ud, id, bytes, length);
  }
}

/* Cargo is brought in one piece, `whole`, for which there may be no memory. */
static void find_graph(const struct mch_task *task, struct mch_run *run, unsigned char **whole) {
  struct mch_body graph = mch_task_graph(task);
  run->graph = graph.bytes;
  run->length = mch_body_size(&graph);
  if (graph.count == 0)
    return;
  run->graph = *whole = malloc(run->length);
  if (*whole != NULL)
    mch_body_copy(&graph, *whole);
}

/* The pool's lock is let go while the task runs: its code is the host's own and may call us. */
static void pump(struct mch_engine *base, int owner, size_t queued) {
  struct engine_inline *engine = (struct engine_inline *)base;
  const struct mch_events *events = &engine->config.events;
  struct mch_task *task = engine->waiting;
  struct mch_buf graph;
  struct mch_run run;
  enum mch_kind kind;
  uint64_t start_time;
  unsigned char *whole = NULL;
  struct mch_course course = {
      .elapsed = MCH_UNMEASURED, .cpu = MCH_UNMEASURED, .maxrss = MCH_UNMEASURED};
  (void)queued;
  if (task == NULL || !owner)
    return;
  engine->waiting = NULL;
  engine->running = task;
  memset(&graph, 0, sizeof graph);
  memset(&run, 0, sizeof run);
  run.runid = task->runid;
  run.stream = mch_task_stream(task);
  run.name = task->extra != NULL ? task->extra->name : "";
  run.name_length = task->extra != NULL ? task->extra->name_length : 0;
  run.timeout = task->extra != NULL && task->extra->timeout != 0 ? task->extra->timeout
                                                                 : engine->config.timeout;
  run.anchor = task->cargo != NULL ? task->cargo->anchor : 0;
  find_graph(task, &run, &whole);
  give_codes(engine, task);
  start_time = mch_now();
  if (engine->since == 0)
    engine->since = start_time;
  course.started = start_time;
  events->started(events->ud, task, &course);
  engine->cpu = mch_platform_cpu_time();
  events->unlock(events->ud);
  kind = engine->config.runner.run(engine->config.runner.ud, &run, &graph);
  events->lock(events->ud);
  engine->running = NULL;
  free(whole);
  if (run.stopped && task->stop == 0)
    task->stop = MCH_KIND_TIMEOUT;
  finish(engine, task, kind, &graph, mch_now() - start_time);
  mch_buf_free(&graph);
}

/* The pool gives it no batches. */
static int reclaim(struct mch_engine *base, struct mch_task *task) {
  struct engine_inline *engine = (struct engine_inline *)base;
  if (engine->waiting != task)
    return 0;
  engine->waiting = NULL;
  engine->config.events.returned(engine->config.events.ud, task);
  return 1;
}

static void shorten(struct mch_engine *base, struct mch_task *batch, uint32_t number) {
  (void)base;
  (void)batch;
  (void)number;
}

static int wants_tasks(struct mch_engine *base) {
  (void)base;
  return 0;
}

static int add(struct mch_engine *base, size_t queued, struct mch_error *error) {
  (void)queued;
  return start(base, error);
}

/* It runs one at a time anyway. */
static void resize(struct mch_engine *base, unsigned nworkers) {
  (void)base;
  (void)nworkers;
}

static void withdraw(struct mch_engine *base) {
  recall(base, INT32_MAX);
}

static int could_start(struct mch_engine *base, int owner) {
  const struct engine_inline *engine = (struct engine_inline *)base;
  (void)owner;
  return engine->waiting == NULL && engine->running == NULL;
}

static int short_of_workers(struct mch_engine *base, size_t queued) {
  (void)base;
  (void)queued;
  return 0;
}

static uint64_t deadline(struct mch_engine *base) {
  return ((struct engine_inline *)base)->waiting != NULL ? 0 : MCH_NEVER;
}

static unsigned running(struct mch_engine *base, const struct mch_group *group, unsigned *others) {
  const struct mch_task *task = ((struct engine_inline *)base)->running;
  if (others != NULL)
    *others = 0;
  return task != NULL && (group == NULL || task->group == group);
}

static size_t workers(struct mch_engine *base, struct mch_worker_info *infos, size_t room) {
  (void)base;
  (void)infos;
  (void)room;
  return 0;
}

static void log_threshold(struct mch_engine *base, int level) {
  (void)base;
  (void)level;
}

static void set_listening(struct mch_engine *base, int on) {
  (void)base;
  (void)on;
}

static void accept_emitted(struct mch_engine *base, int source, size_t bytes) {
  (void)base;
  (void)source;
  (void)bytes;
}

/* One slot: this process. */
static size_t work(struct mch_engine *base, uint64_t *worked, size_t room, uint64_t *since) {
  const struct engine_inline *engine = (struct engine_inline *)base;
  *since = engine->since;
  if (engine->since == 0 || room == 0)
    return 0;
  worked[0] = engine->worked;
  return 1;
}

static void quit(struct mch_engine *base, int kill) {
  (void)base;
  (void)kill;
}

static int gone(struct mch_engine *base) {
  (void)base;
  return 1;
}

static void free_engine(struct mch_engine *base) {
  struct engine_inline *engine = (struct engine_inline *)base;
  mch_poller_free(base->poller);
  free(engine);
}

static const struct mch_engine_ops ops = {
    start,   submit,        stop,          reclaim,        shorten,     NULL,
    recall,  NULL,          flush,         pump,           wants_tasks, short_of_workers,
    add,     resize,        withdraw,      could_start,    deadline,    running,
    workers, log_threshold, set_listening, accept_emitted, work,        quit,
    gone,    free_engine};

struct mch_engine *mch_engine_inline_new(const struct mch_engine_config *config,
                                         struct mch_error *error) {
  struct engine_inline *engine = calloc(1, sizeof *engine);
  if (engine == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory for a pool");
    return NULL;
  }
  engine->base.ops = &ops;
  engine->base.poller = mch_poller_new(error);
  if (engine->base.poller == NULL) {
    free(engine);
    return NULL;
  }
  engine->config = *config;
  return &engine->base;
}
