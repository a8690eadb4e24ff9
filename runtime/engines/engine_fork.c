/* Runs in: parent.
 *
 * Workers by fork: the engine's table of functions, its pump, and when it wants to be pumped again.
 * What it is made of: fork_child.c a worker as seen from here; fork_spawn.c the fork; fork_feed.c
 * who gets which task; fork_time.c time-outs and stops; fork_hear.c what workers say; fork_bury.c
 * their deaths. fork_state.h has the drawing of a worker's life. */
#define _POSIX_C_SOURCE 200809L
#include "fork_state.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/base/chaos.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/show/output.h"
#include "runtime/wire/protocol.h"
#include "task.h"
#include "worker.h"

/* -- what was begun of a batch ------------------------------------------------------------ */

/* Whether the mark says that item `number` of the batch was begun, or one behind it. */
int mch_fork_is_marked_item(const struct child *child, const struct mch_task *task,
                            uint32_t number) {
  uint64_t mark = mch_platform_mark_get(child->begun);
  return (mark & MCH_BEGUN_EXACT) != 0 && mch_begun_ticket(mark) == task->ticket &&
         mch_begun_bound(mark) > number;
}

/* The first item of a batch that the worker has not begun: the page tells, unless the mark says
 * that it cannot. Then it is the one behind the first without an answer, which runs, while the
 * stream is whole; else answers may be lost, and all that may have begun had. */
uint32_t mch_fork_first_unbegun(const struct child *child, const struct mch_task *task) {
  const struct mch_batch *batch = task->batch;
  uint64_t word = atomic_load(&child->shared->items), mark = mch_platform_mark_get(child->begun);
  uint32_t bound = mch_begun_bound(mark), next = mch_items_next(word);
  int is_marked_batch = mch_begun_ticket(mark) == task->ticket && bound <= batch->count;
  if (!is_marked_batch)
    bound = batch->count;
  if (mch_child_is_items_word(task, word) && next <= (uint64_t)bound + 1 &&
      !mch_fork_is_marked_item(child, task, next))
    return next;
  if (bound <= batch->answered)
    return batch->answered;
  return child->garbled ? bound : batch->answered + 1;
}

/* -- the pump ----------------------------------------------------------------------------- */

static int start(struct mch_engine *base, struct mch_error *error) {
  struct engine_fork *engine = (struct engine_fork *)base;
  engine->quitting = 0;
  engine->started = 1;
  engine->died_idle = 0;
  return engine->config.snapshot || engine->live > 0
             ? 0
             : mch_spawn_fork_worker(engine, NULL, 0, error);
}

/* A stream that has ended stays "ready" for ever: do not watch it any longer. */
static void unwatch_ended(struct child *child) {
  if (child->stream_ended != 0 && child->channel.fd >= 0) {
    mch_poller_remove(child->engine->base.poller, child->channel.fd);
    close(child->channel.fd);
    child->channel.fd = -1;
  }
}

static void collect_ready(struct engine_fork *engine) {
  struct mch_ready ready[64];
  int count = mch_poller_wait(engine->base.poller, ready, 64, 0, NULL), i;
  for (i = 0; i < count; i++) {
    struct source *source = ready[i].ud;
    if (source == NULL || mch_chaos_strikes(&engine->chaos))
      continue;
    source->child->ready |= source->bit;
    mch_child_wake(source->child);
  }
}

/* Serve the workers in another order from now on. */
static void rotate(struct engine_fork *engine) {
  struct child *first = engine->children, **end = &engine->children;
  if (first == NULL)
    return;
  engine->children = first->next;
  while (*end != NULL)
    end = &(*end)->next;
  *end = first;
  first->next = NULL;
}

static void chaos_step(struct engine_fork *engine) {
  mch_chaos_pause(&engine->chaos);
  if (mch_chaos_strikes(&engine->chaos))
    rotate(engine);
  if (mch_chaos_strikes(&engine->chaos))
    mch_feed_recall(&engine->base, INT32_MAX);
  if (mch_chaos_strikes(&engine->chaos))
    mch_feed_steal(engine, 0);
}

/* Do all that there is to do with this worker now. */
static void visit(struct engine_fork *engine, struct child *child, uint64_t now) {
  if ((child->ready & (CHANNEL | STDOUT | STDERR)) || mch_channel_waiting(&child->channel))
    mch_hear_drain(child);
  mch_chaos_pause(&engine->chaos);
  unwatch_ended(child);
  mch_bury_check_end(child, now);
  child->ready = 0;
  if (child->state != ENDED) {
    mch_hear_check_page(child);
    mch_feed_ring_for(child, now);
    mch_time_check_time(child, now);
    mch_time_retire(engine, child);
  }
}

/* Time is up for one of them at least, or may be. */
void mch_fork_visit_all(struct engine_fork *engine, uint64_t now) {
  struct child *child;
  engine->look = MCH_NEVER;
  for (child = engine->children; child != NULL; child = child->next) {
    visit(engine, child, now);
    mch_child_look_at(engine, mch_time_due_at(child, now));
  }
}

static void pump(struct mch_engine *base, int owner, size_t queued) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child, *next;
  uint64_t now;
  (void)owner;
  if (engine->chaos.rate != 0)
    chaos_step(engine);
  collect_ready(engine);
  engine->pumped = now = mch_now();
  engine->waits_for_tickets = 0;
  mch_feed_open_all(engine);
  if (engine->look <= now)
    mch_fork_visit_all(engine, now);
  else
    for (child = engine->awake; child != NULL; child = next) {
      next = child->links[AWAKE].next;
      visit(engine, child, now);
    }
  mch_bury_remove_ended(engine);
  mch_feed_steal(engine, queued);
}

/* Workers that wait for the pool's conclusions go on. */
static void say_heard(struct engine_fork *engine) {
  struct child *child;
  for (child = engine->children; engine->heard && child != NULL; child = child->next) {
    if (child->heard != 0)
      atomic_store(&child->shared->orders.heard, child->heard);
    child->heard = 0;
  }
  engine->heard = 0;
}

/* After the pool has submitted what it could. */
static void flush_all(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child, *next;
  say_heard(engine);
  for (child = engine->unsent; child != NULL; child = next) {
    next = child->links[UNSENT].next;
    mch_chaos_pause(&engine->chaos);
    mch_time_flush(child);
  }
}

/* When to pump again. Workers that have nothing to say are told to ring a bell from now on. */
static uint64_t deadline(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  uint64_t soonest = engine->look;
  struct child *child, *next;
  for (child = engine->awake; child != NULL; child = next) {
    next = child->links[AWAKE].next;
    if (child->state != ENDED && mch_channel_stays_awake(&child->channel))
      soonest = 0;
    else
      mch_child_take_out(child, AWAKE);
  }
  /* Once only: the owner forks at the pump that it brings, the driver's thread never can. */
  if (engine->started && !engine->quitting && engine->live < mch_spawn_wanted(engine) &&
      engine->fork_again > engine->pumped)
    soonest = mch_sooner(soonest, engine->fork_again);
  if (engine->waits_for_tickets != 0)
    soonest = mch_sooner(soonest, mch_now() + engine->waits_for_tickets);
  return soonest;
}

/* -- the rest of the interface ------------------------------------------------------------ */

/* The task that runs as far as its owner is concerned: a batch whose items are all answered has
 * only its last word to say. */
static struct mch_task *runs(const struct child *child) {
  struct mch_task *task = mch_child_begun(child);
  return task != NULL && task->batch != NULL && task->batch->answered == task->batch->count ? NULL
                                                                                            : task;
}

static unsigned running(struct mch_engine *base, const struct mch_group *group, unsigned *others) {
  struct engine_fork *engine = (struct engine_fork *)base;
  unsigned count = 0, not_begun = 0;
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next) {
    const struct mch_task *task = runs(child);
    count += task != NULL && (group == NULL || task->group == group);
    not_begun += task == NULL && child->outstanding > 0;
  }
  if (others != NULL)
    *others = not_begun;
  return count;
}

/* The run ID of a task that runs; of a batch, that of the first item without an answer. */
static uint64_t running_id(const struct mch_task *task) {
  return task->runid + (task->batch != NULL ? task->batch->answered : 0);
}

static int by_slot(const void *one, const void *other) {
  unsigned a = ((const struct mch_worker_info *)one)->slot;
  unsigned b = ((const struct mch_worker_info *)other)->slot;
  return (a > b) - (a < b);
}

static size_t workers(struct mch_engine *base, struct mch_worker_info *infos, size_t room) {
  struct engine_fork *engine = (struct engine_fork *)base;
  size_t count = 0;
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next) {
    const struct mch_task *task = runs(child);
    if (child->state != LIVE || count == room)
      continue;
    infos[count].pid = (int)child->pid;
    infos[count].busy = task != NULL;
    infos[count].runid = task != NULL ? running_id(task) : 0;
    infos[count].since =
        task != NULL ? mch_child_believed(child, atomic_load(&child->shared->running_since)) : 0;
    infos[count].tasks = child->tasks;
    infos[count].slot = child->slot;
    infos[count].maxrss = child->maxrss;
    infos[count].host = NULL;
    count++;
  }
  qsort(infos, count, sizeof *infos, by_slot);
  return count;
}

/* The one with the highest number of those that have nothing to do; NULL: all have. */
static struct child *last_idle(const struct engine_fork *engine) {
  struct child *child, *last = NULL;
  for (child = engine->children; child != NULL; child = child->next)
    if (child->state == LIVE && child->outstanding == 0 &&
        (last == NULL || child->slot > last->slot))
      last = child;
  return last;
}

static void resize(struct mch_engine *base, unsigned nworkers) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  int shrinks = nworkers < engine->config.nworkers;
  engine->config.nworkers = nworkers;
  if (shrinks)
    mch_feed_withdraw(base);
  while (mch_time_has_too_many(engine) && (child = last_idle(engine)) != NULL) {
    mch_time_send_quit(child);
    mch_time_flush(child);
  }
}

static void log_threshold(struct mch_engine *base, int level) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  engine->log_level = level;
  for (child = engine->children; child != NULL; child = child->next)
    atomic_store(&child->shared->orders.log_threshold, level);
}

static void quit(struct mch_engine *base, int kill) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  engine->quitting = 1;
  for (child = engine->children; child != NULL; child = child->next) {
    if (child->state != ENDED)
      child->why = "closed";
    if (kill)
      mch_child_kill_now(child);
    else {
      mch_time_send_quit(child);
      mch_time_flush(child);
    }
  }
}

static void set_listening(struct mch_engine *base, int on) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  engine->listening = on;
  for (child = engine->children; child != NULL; child = child->next)
    atomic_store(&child->shared->orders.listening, (uint32_t)on);
}

static void accept_emitted(struct mch_engine *base, int source, size_t bytes) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next)
    if (child->pid == source && child->state != ENDED)
      atomic_fetch_add(&child->shared->orders.accepted, bytes);
}

/* What runs counts up to now. */
static size_t work(struct mch_engine *base, uint64_t *worked, size_t room, uint64_t *since) {
  const struct engine_fork *engine = (struct engine_fork *)base;
  const struct child *child;
  uint64_t now = mch_now();
  size_t count = engine->slots < room ? engine->slots : room, i;
  *since = engine->first_fork;
  for (i = 0; i < count; i++)
    worked[i] = engine->worked[i];
  for (child = engine->children; child != NULL; child = child->next)
    if (child->state == LIVE && child->slot - 1 < count && mch_child_begun(child) != NULL) {
      uint64_t began = mch_child_believed(child, atomic_load(&child->shared->running_since));
      worked[child->slot - 1] += began != 0 ? now - began : 0;
    }
  return count;
}

static int gone(struct mch_engine *base) {
  return ((struct engine_fork *)base)->children == NULL;
}

static void free_engine(struct mch_engine *base) {
  struct engine_fork *engine = (struct engine_fork *)base;
  while (engine->children != NULL) {
    struct child *child = engine->children;
    engine->children = child->next;
    mch_bury_close_child(child);
  }
  mch_output_unref(engine->config.output);
  mch_poller_free(base->poller);
  free(engine->worked);
  free(engine);
}

static const struct mch_engine_ops ops = {start,
                                          mch_feed_submit,
                                          mch_time_stop,
                                          mch_feed_reclaim,
                                          mch_feed_shorten,
                                          NULL,
                                          mch_feed_recall,
                                          mch_feed_forget_code,
                                          flush_all,
                                          pump,
                                          mch_feed_wants_tasks,
                                          mch_spawn_short_of_workers,
                                          mch_spawn_add,
                                          resize,
                                          mch_feed_withdraw,
                                          mch_feed_could_start,
                                          deadline,
                                          running,
                                          workers,
                                          log_threshold,
                                          set_listening,
                                          accept_emitted,
                                          work,
                                          quit,
                                          gone,
                                          free_engine};

struct mch_engine *mch_engine_fork_new(const struct mch_engine_config *config,
                                       struct mch_error *error) {
  struct engine_fork *engine = calloc(1, sizeof *engine);
  if (engine == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory for a pool");
    return NULL;
  }
  engine->base.ops = &ops;
  engine->look = MCH_NEVER;
  engine->lowest = INT32_MAX;
  engine->base.poller = mch_poller_new(error);
  if (engine->base.poller == NULL) {
    free(engine);
    return NULL;
  }
  engine->config = *config;
  engine->chaos = config->chaos;
  if (config->self != NULL)
    engine->chaos = mch_chaos_nest(&config->self->chaos);
  engine->timeouts = config->timeout != 0;
  engine->log_level = config->log_level;
  mch_output_ref(config->output);
  return &engine->base;
}
