/* Runs in: parent.
 *
 * All pools of a state: pumped and waited for together. */
#include "lpool_state.h"
#include "limit.h"

#include <lauxlib.h>

#include "bindings/context.h"
#include "bindings/notices.h"
#include "bindings/show/loutput.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/show/output.h"
#include "runtime/show/output_state.h"

/* -- all pools of a state ----------------------------------------------------------------- */

#define GATHERING "mantichora gathering"

/* Leave an open pool that this visit has not seen yet on the stack and return it; NULL (and
 * nothing) when all were seen. It starts anew each time: handlers make and close pools meanwhile.
 */
static struct lpool *next_to_visit(lua_State *L, uint64_t visit) {
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (lpool->visit != visit && mch_lpool_is_open(lpool)) {
      lpool->visit = visit;
      lua_remove(L, -2);
      return lpool;
    }
  }
  lua_pop(L, 1);
  return NULL;
}

/* A userdata without a body: as the state closes its pools leave the poller, which is freed. */
static int leave_poller(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  struct lpool *lpool;
  context->visit++;
  while ((lpool = next_to_visit(L, context->visit)) != NULL) {
    mch_pool_part(lpool->pool);
    lpool->joined = 0;
    lua_pop(L, 1);
  }
  mch_context_drop_poller(context);
  return 0;
}

/* The poller that all open pools of this state join, made at the first call in this process. NULL:
 * none is to be had. */
struct mch_poller *mch_lpools_poller(lua_State *L, struct mch_error *error) {
  struct mch_context *context = mch_context_get(L);
  if (context->poller != NULL && mch_mark_is_ours(&context->poller_mark))
    return context->poller;
  mch_context_drop_poller(context); /* that of the process which we are a fork of */
  lua_newuserdatauv(L, 0, 0);
  if (luaL_newmetatable(L, GATHERING)) {
    lua_pushcfunction(L, leave_poller);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  luaL_ref(L, LUA_REGISTRYINDEX);
  context->poller = mch_poller_new(error);
  if (context->poller != NULL)
    mch_mark_make(&context->poller_mark);
  return context->poller;
}

/* Have the pool tell `poller` when it has something to do. 0, or a code. */
int mch_lpools_join(struct mch_poller *poller, struct lpool *lpool, struct mch_error *error) {
  int code = lpool->joined ? 0 : mch_pool_join(lpool->pool, poller, lpool, error);
  lpool->joined = code == 0;
  return code;
}

/* Note which pools the poller names. A pool leaves it before it is freed. */
static void mark_ready(struct mch_poller *poller) {
  struct mch_ready ready[64];
  int count = poller != NULL ? mch_poller_wait(poller, ready, 64, 0, NULL) : 0, i;
  for (i = 0; i < count; i++)
    ((struct lpool *)ready[i].ud)->ready = 1;
}

/* What there is to know of all pools together. */
struct tally {
  size_t finished, unfinished; /* tasks of run() */
  int untold;                  /* some have failed, and nobody was told */
  uint64_t due;                /* when one has something to do though the poller says nothing */
};

/* Call f with each open pool of this state; it runs no Lua. */
static void each_open(lua_State *L, void (*f)(struct lpool *lpool, void *ud), void *ud) {
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (mch_lpool_is_open(lpool))
      f(lpool, ud);
  }
  lua_pop(L, 1);
}

static void count_tasks(struct lpool *lpool, void *ud) {
  struct tally *tally = ud;
  tally->finished += mch_pool_finished(lpool->pool, &lpool->group);
  tally->unfinished += mch_pool_unfinished(lpool->pool, &lpool->group);
  tally->untold |= mch_pool_has_untold(lpool->pool, &lpool->group);
}

static void look_when_due(struct lpool *lpool, void *ud) {
  struct tally *tally = ud;
  tally->due = mch_sooner(tally->due, mch_pool_deadline(lpool->pool));
  if (!lpool->joined)
    tally->due = mch_sooner(tally->due, mch_now() + SLICE);
}

/* `due` costs a little: filled in only if it is wanted. */
static struct tally add_up(lua_State *L, int want_due) {
  struct tally tally = {0, 0, 0, MCH_NEVER};
  each_open(L, count_tasks, &tally);
  if (want_due)
    each_open(L, look_when_due, &tally);
  return tally;
}

/* Pump each pool that has something to do. */
static void pump_all(lua_State *L, struct mch_poller *poller, int frugal) {
  struct mch_context *context = mch_context_get(L);
  struct lpool *lpool;
  uint64_t visit = ++context->visit, now = mch_now();
  struct mch_error error;
  mark_ready(poller);
  while ((lpool = next_to_visit(L, visit)) != NULL) {
    if (poller == NULL || mch_lpools_join(poller, lpool, &error) != 0 || lpool->ready ||
        mch_pool_deadline(lpool->pool) <= now) {
      lpool->ready = 0;
      mch_lserve_pump(L, lpool, frugal);
    }
    lua_pop(L, 1);
  }
}

/* What ends a wait for all pools, besides an error: a time, a descriptor, a signal, a result. */
struct end {
  uint64_t until;
  int fd;             /* -1: none */
  int (*woken)(void); /* NULL: nobody else knows of signals */
  int result;         /* a task waits to be received, or none is outstanding */
  int frugal;         /* workers are not replaced while others live */
  int untold;         /* a task has failed, and nobody was told */
};

/* Wait until any of these may have something to do; 1: the descriptor has. */
static int wait_for_any(struct mch_poller *poller, const struct end *end, uint64_t due,
                        struct mch_look *look) {
  if (end->fd >= 0) {
    int fds[] = {end->fd, poller != NULL ? mch_poller_fd(poller) : -1}; /* poll(2) passes over -1 */
    return mch_await_until(fds, 2, due, mch_lwait_interrupted, look);
  }
  if (poller != NULL)
    mch_wait(poller, due, mch_lwait_interrupted, look);
  else
    mch_sleep_until(due, mch_lwait_interrupted, look);
  return 0;
}

/* Move all pools on and draw, until one of the ends has come. Leaves in `tally` how many tasks are
 * finished. Whether the descriptor is readable. */
static int wait_for_all(lua_State *L, const struct end *end, struct tally *tally) {
  struct mch_output *output = mch_loutput_get(L);
  struct mch_hub *hub = mch_output_hub(output);
  struct hooks own = {NULL, 0}, of_main = {NULL, 0};
  struct mch_look look = {L, mch_lwait_main_thread(L), &own, &of_main, end->woken};
  struct mch_error error;
  mch_notices_tell(L);
  luaL_checkstack(L, 8, NULL);
  for (;;) {
    struct mch_poller *poller = mch_lpools_poller(L, &error);
    uint64_t now, due;
    if (end->woken != NULL && end->woken())
      return 0;
    pump_all(L, poller, end->frugal);
    now = mch_now();
    mch_hub_look(hub, now);
    if (mch_output_next(output) <= now || mch_output_wants_owner(output, now))
      mch_loutput_pump(L);
    *tally = add_up(L, now < end->until);
    if (now >= end->until || (end->untold && tally->untold) ||
        (end->result && (tally->finished > 0 || tally->unfinished == 0)))
      return 0;
    due = mch_sooner(end->until, mch_sooner(tally->due, mch_output_next(output)));
    due = mch_sooner(due, mch_hub_next_look(hub));
    if (wait_for_any(poller, end, due, &look))
      return 1;
    mch_lwait_obey_hooks(L, output, &own, &of_main, 0);
  }
}

void mch_lpool_sleep(lua_State *L, uint64_t until) {
  struct end end = {until, -1, NULL, 0, 0, 0};
  struct tally tally;
  wait_for_all(L, &end, &tally);
}

/* A frame of an engine has no time for forks. */
size_t mch_lpool_poll(lua_State *L, uint64_t until) {
  struct end end = {until, -1, NULL, 1, until == 0 && mch_context_get(L)->embedded, 0};
  struct tally tally;
  if (until != 0)
    mch_levents_check_may_wait(L);
  wait_for_all(L, &end, &tally);
  return tally.finished;
}

int mch_lpool_await(lua_State *L, int fd, int (*woken)(void)) {
  struct end end = {MCH_NEVER, fd, woken, 0, 0, 0};
  struct tally tally;
  return wait_for_all(L, &end, &tally);
}

int mch_lpool_await_failure(lua_State *L, int fd, int (*woken)(void)) {
  struct end end = {MCH_NEVER, fd, woken, 0, 0, 1};
  struct tally tally;
  return wait_for_all(L, &end, &tally);
}

uint64_t mch_lpool_due(lua_State *L) {
  luaL_checkstack(L, 8, NULL);
  return mch_sooner(add_up(L, 1).due, mch_output_next(mch_loutput_get(L)));
}

int mch_lpool_fd(lua_State *L, struct mch_error *error) {
  struct mch_poller *poller = mch_lpools_poller(L, error);
  struct lpool *lpool;
  uint64_t visit = ++mch_context_get(L)->visit;
  int code = 0;
  luaL_checkstack(L, 8, NULL);
  while (poller != NULL && code == 0 && (lpool = next_to_visit(L, visit)) != NULL) {
    code = mch_lpools_join(poller, lpool, error);
    lua_pop(L, 1);
  }
  if (poller == NULL || code != 0)
    return -1;
  code = mch_poller_fd(poller);
  if (code < 0)
    mch_error_set(error, MCH_SYSTEM, "cannot make a descriptor to wait for all pools");
  return code;
}

/* sleep(seconds) */
int mch_core_sleep(lua_State *L) {
  uint64_t until = mch_lpool_deadline_arg(L, 1);
  mch_notices_tell(L);
  mch_levents_check_may_wait(L);
  mch_lpool_sleep(L, mch_sooner(until == 0 ? mch_now() : until, mch_limit_due(L)));
  mch_limit_check(L);
  return 0;
}

static void set_listening(struct lpool *lpool, void *L) {
  mch_levents_listen(L, lpool);
}

void mch_lpool_listen_all(lua_State *L) {
  luaL_checkstack(L, 8, NULL);
  each_open(L, set_listening, L);
}

static void set_threshold(struct lpool *lpool, void *ud) {
  mch_pool_log_threshold(lpool->pool, *(const int *)ud);
}

void mch_lpools_log_threshold(lua_State *L, int level) {
  luaL_checkstack(L, 4, NULL);
  each_open(L, set_threshold, &level);
}
