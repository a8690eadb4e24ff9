/* Runs in: parent.
 *
 * All pools of a state: pumped and waited for together. */
#include "lpool_state.h"

#include <lauxlib.h>

#include "bindings/context.h"
#include "bindings/notices.h"
#include "bindings/show/latpbar.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/show/output.h"
#include "runtime/show/output_state.h"

/* The first pool of this state that is open, or NULL. */
static struct lpool *pump_others(lua_State *L, struct lpool *first) {
  struct lpool *found = NULL;
  luaL_checkstack(L, 6, NULL);
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (lpool == first || lpool->pool == NULL || !mch_mark_is_ours(&lpool->mark))
      continue;
    mch_pool_pump(lpool->pool);
    found = lpool;
  }
  lua_pop(L, 1);
  return found;
}

void mch_lpool_sleep(lua_State *L, uint64_t until) {
  struct mch_output *output = mch_atpbar_output(L);
  struct hooks own = {NULL, 0}, of_main = {NULL, 0};
  struct goal goal = {UNTIL_TIME, NULL, 0};
  struct mch_look look = {L, mch_lwait_main_thread(L), &own, &of_main, NULL};
  for (;;) {
    uint64_t now = mch_now(), next = mch_output_next(output);
    struct lpool *lpool = pump_others(L, NULL);
    if (lpool != NULL) {
      /* Others have drivers of their own, or wait for their turn in slices. */
      uint64_t slice = now + 20000000u;
      int alone = pump_others(L, lpool) == NULL;
      if (mch_lwait_wait_for(L, lpool, &goal, alone || slice > until ? until : slice) == 0 &&
          mch_now() >= until)
        return;
      continue;
    }
    mch_atpbar_pump(L);
    if (now >= until)
      return;
    mch_sleep_until(next < until ? next : until, mch_lwait_interrupted, &look);
    mch_lwait_obey_hooks(L, output, &own, &of_main, 0);
  }
}

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
  uint64_t due;                /* when one has something to do though the poller says nothing */
};

/* `due` costs a little: filled in only if it is wanted. */
static struct tally add_up(lua_State *L, int want_due) {
  struct tally tally = {0, 0, MCH_NEVER};
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (!mch_lpool_is_open(lpool))
      continue;
    tally.finished += mch_pool_finished(lpool->pool, &lpool->group);
    tally.unfinished += mch_pool_unfinished(lpool->pool, &lpool->group);
    if (want_due)
      tally.due = mch_sooner(tally.due, mch_pool_deadline(lpool->pool));
    if (want_due && !lpool->joined)
      tally.due = mch_sooner(tally.due, mch_now() + SLICE);
  }
  lua_pop(L, 1);
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

/* A frame of an engine has no time for forks. */
size_t mch_lpool_poll(lua_State *L, uint64_t until) {
  int frugal = until == 0 && mch_context_get(L)->embedded;
  struct mch_output *output = mch_atpbar_output(L);
  struct hooks own = {NULL, 0}, of_main = {NULL, 0};
  struct mch_look look = {L, mch_lwait_main_thread(L), &own, &of_main, NULL};
  struct mch_error error;
  mch_notices_tell(L);
  luaL_checkstack(L, 8, NULL);
  for (;;) {
    struct mch_poller *poller = mch_lpools_poller(L, &error);
    struct tally tally;
    uint64_t now, due;
    pump_all(L, poller, frugal);
    now = mch_now();
    if (mch_output_next(output) <= now || mch_output_wants_owner(output, now))
      mch_atpbar_pump(L);
    tally = add_up(L, now < until);
    if (tally.finished > 0 || tally.unfinished == 0 || now >= until)
      return tally.finished;
    due = mch_sooner(until, mch_sooner(tally.due, mch_output_next(output)));
    if (poller != NULL)
      mch_wait(poller, due, mch_lwait_interrupted, &look);
    else
      mch_sleep_until(due, mch_lwait_interrupted, &look);
    mch_lwait_obey_hooks(L, output, &own, &of_main, 0);
  }
}

int mch_lpool_await(lua_State *L, int fd, int (*woken)(void)) {
  struct mch_output *output = mch_atpbar_output(L);
  struct hooks own = {NULL, 0}, of_main = {NULL, 0};
  struct mch_look look = {L, mch_lwait_main_thread(L), &own, &of_main, woken};
  int readable = 0;
  mch_notices_tell(L);
  luaL_checkstack(L, 8, NULL);
  while (!readable && !woken()) {
    struct mch_error error;
    struct mch_poller *poller = mch_lpools_poller(L, &error);
    int fds[] = {fd, poller != NULL ? mch_poller_fd(poller) : -1}; /* poll(2) passes over -1 */
    pump_all(L, poller, 0);
    mch_atpbar_pump(L);
    readable = mch_await_until(fds, 2, mch_lpool_due(L), mch_lwait_interrupted, &look);
    mch_lwait_obey_hooks(L, output, &own, &of_main, 0);
  }
  return readable;
}

uint64_t mch_lpool_due(lua_State *L) {
  luaL_checkstack(L, 8, NULL);
  return mch_sooner(add_up(L, 1).due, mch_output_next(mch_atpbar_output(L)));
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
  return poller == NULL || code != 0 ? -1 : mch_poller_fd(poller);
}

/* sleep(seconds) */
int mch_core_sleep(lua_State *L) {
  uint64_t until = mch_lpool_deadline_arg(L, 1);
  mch_notices_tell(L);
  mch_lpool_sleep(L, until == 0 ? mch_now() : until);
  return 0;
}

void mch_lpool_log_threshold(lua_State *L, int level) {
  mch_context_get(L)->log_level = level;
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (lpool->pool != NULL && mch_mark_is_ours(&lpool->mark))
      mch_pool_log_threshold(lpool->pool, level);
  }
  lua_pop(L, 1);
}
