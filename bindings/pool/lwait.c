/* Runs in: parent.
 *
 * Waiting for one pool. */
#include "lpool_state.h"

#include <lauxlib.h>

#include "bindings/context.h"
#include "bindings/lwatch.h"
#include "bindings/show/loutput.h"
#include "runtime/base/platform.h"
#include "runtime/pool/pool_state.h"
#include "runtime/show/output.h"
#include "runtime/show/output_state.h"
#include "runtime/wire/cargo.h"

enum { SHORTEST_LOOK = 50000, LONGEST_LOOK = 5000000 }; /* nanoseconds, for room in the queue */
enum { LONGEST_ASK = 1000000000 };                      /* what a cancelled task was */

/* -- waiting ------------------------------------------------------------------------------ */

lua_State *mch_lwait_main_thread(lua_State *L) {
  lua_State *main;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  main = lua_tothread(L, -1);
  lua_pop(L, 1);
  return main;
}

struct hooks mch_lwait_hooks_of(lua_State *L) {
  struct hooks hooks = {lua_gethook(L), lua_gethookmask(L)};
  return hooks;
}

static int same_hooks(struct hooks a, struct hooks b) {
  return a.hook == b.hook && (a.hook == NULL || a.mask == b.mask);
}

/* A handler of the host (lua.c's for SIGINT is the model) speaks by setting a hook. Signals are
 * blocked here. */
int mch_lwait_interrupted(void *ud) {
  const struct mch_look *look = ud;
  return !same_hooks(mch_lwait_hooks_of(look->L), *look->own_hooks) ||
         !same_hooks(mch_lwait_hooks_of(look->main), *look->main_hooks) ||
         (look->woken != NULL && look->woken());
}

static int no_operation(lua_State *L) {
  (void)L;
  return 0;
}

/* Let a new hook of L fire: it may raise. One on the main thread does not see a coroutine's calls:
 * then the error that it means is raised here. The error of a stop is raised too, but not where the
 * wait is for the end of a pool (`is_ending`). */
void mch_lwait_obey_hooks(lua_State *L, struct mch_output *output, struct hooks *own_hooks,
                          struct hooks *main_hooks, int is_ending) {
  lua_State *main = mch_lwait_main_thread(L);
  mch_lwatch_check(L, !is_ending);
  if (!same_hooks(mch_lwait_hooks_of(L), *own_hooks)) {
    mch_output_detach(output);
    lua_pushcfunction(L, no_operation);
    lua_call(L, 0, 0);
    *own_hooks = mch_lwait_hooks_of(L); /* it did not raise: a debugger's, say */
    if (L == main)
      *main_hooks = *own_hooks;
  }
  if (L != main && !same_hooks(mch_lwait_hooks_of(main), *main_hooks)) {
    lua_sethook(main, main_hooks->hook, main_hooks->mask, 0);
    mch_output_detach(output);
    lua_pushliteral(L, "interrupted!");
    lua_error(L);
  }
}

static int is_met(const struct lpool *lpool, const struct goal *goal) {
  struct mch_pool *pool = lpool->pool;
  switch (goal->condition) {
  case UNTIL_ONE:
    return mch_pool_finished(pool, goal->group) > 0 || mch_pool_unfinished(pool, goal->group) == 0;
  case UNTIL_MANY:
    return mch_pool_finished(pool, goal->group) >= goal->limit ||
           mch_pool_unfinished(pool, goal->group) == 0;
  case UNTIL_ALL:
    return mch_pool_unfinished(pool, goal->group) == 0;
  case UNTIL_IDLE:
    return mch_pool_unfinished(pool, NULL) == 0;
  case UNTIL_BELOW:
    return mch_pool_unfinished(pool, NULL) == 0 ||
           mch_pool_unfinished_below(pool, goal->limit) == 0;
  case UNTIL_GONE:
    return mch_pool_gone(pool);
  case UNTIL_ROOM:
    return !mch_pool_is_full(pool, goal->group, (size_t)goal->limit);
  case UNTIL_KNOWN:
    return mch_pool_what_was_cancelled(pool, goal->limit) != 0;
  case UNTIL_TIME:
  default:
    return 0;
  }
}

/* Each coroutine has its own hooks; those last seen belong to whoever waited last. */
static void look_at_hooks(lua_State *L, struct lpool *lpool) {
  if (L == mch_lwait_main_thread(L))
    lpool->own_hooks = lpool->main_hooks;
  else if (mch_lwait_hooks_of(L).hook == NULL)
    lpool->own_hooks = mch_lwait_hooks_of(L);
}

/* Results that the last pump has brought are received without another one, for a moment: so that a
 * crowd of small ones costs one pump. */
static int is_fresh(const struct lpool *lpool, const struct goal *goal) {
  return goal->condition == UNTIL_ONE && mch_pool_finished(lpool->pool, goal->group) > 0 &&
         mch_now() - lpool->pumped < FRESH_NANOSECONDS;
}

/* What the pool asks while it waits. */
struct wait {
  struct mch_look look;
  const struct lpool *lpool;
  const struct goal *goal;
};

static int is_interrupted(void *ud) {
  return mch_lwait_interrupted(&((struct wait *)ud)->look);
}

static int is_enough(void *ud) {
  const struct wait *wait = ud;
  return is_met(wait->lpool, wait->goal) || mch_cargos_some(&wait->lpool->spent);
}

/* A wait of terminate(), close() and the end of a scope. */
static int is_end(const struct goal *goal) {
  return goal->condition == UNTIL_IDLE || goal->condition == UNTIL_BELOW ||
         goal->condition == UNTIL_GONE;
}

/* Pump, hand over log records and wait until the condition is met (1) or `until` comes (0). */
int mch_lwait_wait_for(lua_State *L, struct lpool *lpool, const struct goal *goal, uint64_t until) {
  struct wait wait = {
      {L, mch_lwait_main_thread(L), &lpool->own_hooks, &lpool->main_hooks, NULL}, lpool, goal};
  struct mch_waiting waiting = {
      until, is_enough,   is_interrupted,
      &wait, goal->group, goal->condition == UNTIL_MANY ? (size_t)goal->limit : 1};
  if (until != 0)
    mch_levents_check_may_wait(L);
  look_at_hooks(L, lpool);
  if (is_fresh(lpool, goal))
    return 1;
  for (;;) {
    mch_lserve_pump(L, lpool, 0);
    if (is_end(goal))
      mch_loutput_pump_quietly(L);
    else
      mch_loutput_pump(L);
    if (lpool->pool != NULL && is_met(lpool, goal))
      mch_levents_tell(L, lpool); /* what made it so, and came since the pump */
    if (lpool->pool == NULL)
      mch_lpool_raise_closed(L);
    if (is_met(lpool, goal))
      return 1;
    if (until != MCH_NEVER && (until == 0 || mch_now() >= until))
      return 0;
    if (until == MCH_NEVER && lpool->task.running) /* the engine "inline" runs one at a time */
      luaL_error(L, "cannot wait for the pool inside of one of its own tasks");
    mch_pool_wait(lpool->pool, &waiting);
    mch_lwait_obey_hooks(L, lpool->output, &lpool->own_hooks, &lpool->main_hooks,
                         goal->condition == UNTIL_BELOW || goal->condition == UNTIL_GONE);
  }
}

/* Whether code that is called in the middle of something, and must not wait, has called us. */
static int may_wait(lua_State *L, const struct lpool *lpool) {
  const struct mch_context *context = mch_context_get(L);
  return context->inside == 0 && !context->telling && !lpool->task.running;
}

/* Wait until fewer tasks of run() are queued than may be. No message says that a worker begins what
 * it has: then it is looked again and again. */
void mch_lwait_for_room(lua_State *L, struct lpool *lpool) {
  struct goal goal = {UNTIL_ROOM, &lpool->group, lpool->max_queued};
  uint64_t step = SHORTEST_LOOK;
  int full;
  while ((full = mch_pool_is_full(lpool->pool, &lpool->group, lpool->max_queued)) != 0) {
    if (!may_wait(L, lpool))
      return;
    if (mch_lwait_wait_for(L, lpool, &goal, full == 2 ? mch_now() + step : MCH_NEVER))
      return;
    step = 2 * step < LONGEST_LOOK ? 2 * step : LONGEST_LOOK;
  }
}

/* Whether a task that was cancelled ran, 2, or had not begun, 1: another machine has to say which,
 * and is asked for a moment where it is possible to wait. */
int mch_lwait_for_cancelled(lua_State *L, struct lpool *lpool, uint64_t runid) {
  struct goal goal = {UNTIL_KNOWN, NULL, runid};
  int was = mch_pool_what_was_cancelled(lpool->pool, runid);
  if (was == 0 && may_wait(L, lpool) &&
      mch_lwait_wait_for(L, lpool, &goal, mch_now() + LONGEST_ASK))
    was = mch_pool_what_was_cancelled(lpool->pool, runid);
  return was != 0 ? was : 2;
}

/* wait(pool, condition, limit (below: run ID, many: count) or nil, seconds or nil, group or nil):
 * whether the condition was met in time. */
int mch_core_wait(lua_State *L) {
  static const char *const names[] = {"one", "many", "all", "idle", "below", "gone", "time", NULL};
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct goal goal;
  goal.condition = (enum condition)luaL_checkoption(L, 2, NULL, names);
  goal.limit = (uint64_t)luaL_optinteger(L, 3, 0);
  goal.group = mch_lpool_group_arg(L, lpool, 5);
  lua_pushboolean(L, mch_lwait_wait_for(L, lpool, &goal, mch_lpool_deadline_arg(L, 4)));
  return 1;
}

/* pump(pool): never waits. */
int mch_core_pump(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct goal goal = {UNTIL_TIME, NULL, 0};
  mch_lwait_wait_for(L, lpool, &goal, 0);
  return 0;
}
