/* Runs in: parent.
 *
 * Those who observe a pool from outside (show/observe.h): what they are told, what they may look
 * at, and what they may ask for. */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/gate.h"
#include "runtime/base/platform.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"

static struct mch_hub *hub_of(const struct mch_pool *pool) {
  return mch_output_hub(pool->output);
}

/* A fork of the owner's waits until this is done, and has the lock before: the lock comes first. */
static void enter(struct mch_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  mch_gate_hold_off();
}

static void leave(struct mch_pool *pool) {
  mch_gate_let_go();
  pthread_mutex_unlock(&pool->lock);
}

static char *copy(const char *text) {
  return text != NULL ? strdup(text) : NULL;
}

/* Without memory for them these facts are not known. */
void mch_observe_begin(struct mch_pool *pool, const struct mch_pool_config *config) {
  pool->words = config->words;
  pool->facts = config->facts;
  pool->facts.name = copy(config->facts.name);
  pool->facts.options = copy(config->facts.options);
  pool->facts.nworkers = config->engine.nworkers;
  pool->facts.since = mch_now();
  pool->rolled.pool = pool;
  pool->rolled.changed = mch_observe_changed;
  mch_hub_enter(hub_of(pool), &pool->rolled);
}

void mch_observe_free(struct mch_pool *pool) {
  if (pool->poke[0] >= 0) {
    mch_poller_remove(pool->engine->poller, pool->poke[0]);
    close(pool->poke[0]);
    close(pool->poke[1]);
  }
  free((char *)pool->facts.name);
  free((char *)pool->facts.options);
}

/* -- waking the owner ---------------------------------------------------------------------- */

/* A pipe in the engine's poller, made when it is first needed. Where pollers have no descriptor the
 * owner sleeps only for a short time. */
static void make_poke(struct mch_pool *pool) {
  struct mch_error error;
  if (pool->poke[0] >= 0 || mch_poller_fd(pool->engine->poller) < 0 ||
      mch_platform_pipe(pool->poke, &error) != 0)
    return;
  mch_platform_nonblocking(pool->poke[0]);
  mch_platform_nonblocking(pool->poke[1]);
  if (mch_poller_add(pool->engine->poller, pool->poke[0], NULL) == 0)
    return;
  close(pool->poke[0]);
  close(pool->poke[1]);
  pool->poke[0] = pool->poke[1] = -1;
}

/* Who sleeps in the pool shall look. */
static void poke(struct mch_pool *pool) {
  make_poke(pool);
  pool->drives++;
  if (!pool->poked && pool->poke[1] >= 0 && write(pool->poke[1], "", 1) == 1)
    pool->poked = 1;
  mch_ends_raise_wakeup(pool);
  if (pool->driver != NULL)
    mch_driver_notice(pool->driver);
}

void mch_observe_lower(struct mch_pool *pool) {
  char bytes[16];
  if (pool->poked && read(pool->poke[0], bytes, sizeof bytes) > 0)
    pool->poked = 0;
}

/* No task starts from now on, and what was sent ahead comes back; or they do again. */
static void pause_locked(struct mch_pool *pool, int on) {
  if (on == pool->paused_on)
    return;
  pool->paused_on = on;
  if (on)
    pool->engine->ops->withdraw(pool->engine);
  mch_pool_step(pool);
  poke(pool);
}

/* -- telling ------------------------------------------------------------------------------- */

void mch_observe_changed(struct mch_pool *pool) {
  unsigned wants = mch_hub_wants(hub_of(pool));
  enter(pool);
  pause_locked(pool, mch_hub_is_paused(hub_of(pool)));
  if ((wants ^ pool->observed) & MCH_WISH_TASKS && !pool->listening && pool->recorder == NULL)
    pool->engine->ops->listen(pool->engine, (wants & MCH_WISH_TASKS) != 0);
  pool->observed = wants;
  if (pool->driver != NULL)
    mch_driver_look(pool->driver);
  leave(pool);
}

void mch_observe_tell(struct mch_pool *pool, const struct mch_event *event,
                      const struct mch_task *task, const struct mch_result *result) {
  struct mch_told told = {pool, pool->rolled.number, event, task, result};
  if (mch_observe_wants(pool, MCH_WISH_TASKS | MCH_WISH_FAILURES))
    mch_hub_tell_event(hub_of(pool), &told);
}

/* -- words --------------------------------------------------------------------------------- */

static void append_place(const struct mch_pool *pool, const struct mch_task *task,
                         struct mch_buf *place) {
  if (pool->words.place != NULL && task != NULL)
    pool->words.place(pool, task, place);
}

void mch_pool_place(const struct mch_told *told, struct mch_buf *place) {
  append_place(told->pool, told->task, place);
}

void mch_pool_report(const struct mch_told *told, struct mch_buf *message, struct mch_buf *report) {
  const struct mch_words *words = &told->pool->words;
  if (words->failure != NULL && told->result != NULL)
    words->failure(told->pool, told->task, told->result, told->event->runid, told->event->index,
                   message, report);
}

const void *mch_observe_code(const struct mch_pool *pool, uint32_t id, size_t *length) {
  return mch_dictionary_get(&pool->dictionary, id, length);
}

const char *mch_observe_name(const struct mch_pool *pool) {
  return pool->facts.name;
}

/* -- looking ------------------------------------------------------------------------------- */

void mch_pool_get_facts(struct mch_pool *pool, struct mch_pool_facts *facts) {
  pthread_mutex_lock(&pool->lock);
  *facts = pool->facts;
  pthread_mutex_unlock(&pool->lock);
}

static void look_at(struct mch_pool *pool, struct mch_pool_view *view, uint64_t *worked,
                    struct mch_worker_info *infos, size_t room) {
  const struct mch_engine_ops *ops = pool->engine->ops;
  view->pool = pool;
  view->number = pool->rolled.number;
  view->facts = pool->facts;
  view->stats.tally = pool->tally;
  view->stats.running = ops->running(pool->engine, NULL, NULL);
  view->stats.queued = pool->unfinished;
  view->stats.queued -=
      view->stats.running < view->stats.queued ? view->stats.running : view->stats.queued;
  view->stats.unreceived = pool->finished;
  view->stats.slots = ops->work(pool->engine, worked, room, &view->stats.since);
  view->accepted = pool->next_runid;
  view->coming = pool->coming;
  view->worked = worked;
  view->workers = infos;
  view->worker_count = ops->workers(pool->engine, infos, room);
}

void mch_pool_look_at(struct mch_pool *pool, void (*f)(void *ud, const struct mch_pool_view *view),
                      void *ud) {
  size_t room = MCH_SLOTS_MOST;
  struct mch_worker_info *infos = malloc(room * sizeof *infos);
  uint64_t *worked = malloc(room * sizeof *worked);
  struct mch_pool_view view;
  memset(&view, 0, sizeof view);
  if (infos != NULL && worked != NULL) {
    enter(pool);
    look_at(pool, &view, worked, infos, room);
    f(ud, &view);
    leave(pool);
  }
  free(infos);
  free(worked);
}

const struct mch_task *mch_pool_view_task(const struct mch_pool_view *view, uint64_t runid) {
  return mch_index_find(view->pool, runid);
}

void mch_pool_view_place(const struct mch_pool_view *view, const struct mch_task *task,
                         struct mch_buf *place) {
  append_place(view->pool, task, place);
}

/* -- what is asked for --------------------------------------------------------------------- */

int mch_pool_cancel_from_outside(struct mch_pool *pool, uint64_t runid) {
  int was;
  enter(pool);
  was = mch_cancel_one(pool, runid);
  poke(pool);
  leave(pool);
  return was;
}

void mch_pool_resize_from_outside(struct mch_pool *pool, unsigned nworkers) {
  enter(pool);
  pool->facts.nworkers = nworkers;
  pool->engine->ops->resize(pool->engine, nworkers);
  mch_pool_step(pool);
  poke(pool);
  leave(pool);
}
