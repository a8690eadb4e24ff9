/* Runs in: both.
 *
 * The ways in which a pool ends: by its methods, at the end of a scope, by the collector, with its
 * state. */
#include "lpool_state.h"

#include <lauxlib.h>

#include "bindings/notices.h"
#include "lhosts.h"
#include "ltrace.h"
#include "lyoung.h"
#include "runtime/base/buf.h"
#include "runtime/base/platform.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/task.h"
#include "runtime/pool/pool_state.h"
#include "runtime/show/output.h"
#include "runtime/wire/protocol.h"

/* Why the pool cannot be closed now: code that runs inside of another call, which needs it, wants
 * to. NULL: it can. */
static const char *why_busy(const struct lpool *lpool) {
  if (lpool->task.running) /* engine "inline": the pump that runs it is the pool's */
    return mch_pool_unfinished(lpool->pool, &lpool->group) > 0
               ? "cannot wait for the pool inside of one of its own tasks"
               : "cannot close the pool inside of one of its own tasks";
  if (lpool->encoding || lpool->in_bulk || lpool->decoding > 0)
    return "the pool is sending or rebuilding a value: a hook or finalizer cannot close it now";
  if (lpool->handing > 0 || lpool->held != NULL)
    return "the pool is handing over results: close it when that call has returned";
  return NULL;
}

static void check_not_busy(lua_State *L, const struct lpool *lpool) {
  const char *why = why_busy(lpool);
  if (why != NULL)
    mch_lpool_raise_sentence(L, why);
}

/* check_not_busy(pool): raises where it cannot be closed. */
int mch_core_check_not_busy(lua_State *L) {
  check_not_busy(L, mch_lpool_check_pool(L));
  return 0;
}

int mch_core_quit(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  check_not_busy(L, lpool);
  mch_pool_quit(lpool->pool, 0);
  return 0;
}

/* hand_over(pool, function, ...): what the function returns, while which the pool cannot be closed,
 * so that nothing that was received gets lost. */
int mch_core_hand_over(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  int status;
  lua_remove(L, 1);
  lpool->handing++;
  status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  lpool->handing--;
  if (status != LUA_OK)
    return lua_error(L);
  return lua_gettop(L);
}

/* failed(pool, from): how many tasks of run() from that run ID on have failed, other than by being
 * cancelled, and were received by nobody. */
int mch_core_failed(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  uint64_t from = (uint64_t)luaL_optinteger(L, 2, 0);
  lua_Integer count = (lua_Integer)mch_pool_failed(lpool->pool, &lpool->group, from);
  if (lpool->left != NULL && lpool->left->runid >= from) {
    enum mch_kind kind = lpool->left->result->kind;
    count += kind != MCH_KIND_OK && kind != MCH_KIND_CANCELLED;
  }
  lua_pushinteger(L, count);
  return 1;
}

/* drop(pool, all): the results of run() that nobody received; failures stay, unless `all` is set.
 */
int mch_core_drop(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  int all = lua_toboolean(L, 2);
  enum mch_kind kind = lpool->left != NULL ? lpool->left->result->kind : MCH_KIND_OK;
  if (lpool->left != NULL && (all || kind == MCH_KIND_OK || kind == MCH_KIND_CANCELLED)) {
    mch_pool_discard(lpool->pool, lpool->left);
    lpool->left = NULL;
  }
  mch_pool_drop(lpool->pool, &lpool->group, all);
  if (mch_output_backlog(lpool->output) > 0)
    mch_output_flush(lpool->output);
  return 0;
}

static void free_pool(lua_State *L, struct lpool *lpool) {
  struct mch_pool *pool = lpool->pool;
  lpool->pool = NULL;
  if (pool == NULL)
    return;
  mch_pool_discard(pool, lpool->taken);
  mch_pool_discard(pool, lpool->left);
  lpool->taken = lpool->left = NULL;
  while (lpool->held != NULL) {
    struct mch_task *next = lpool->held->next;
    mch_pool_discard(pool, lpool->held);
    lpool->held = next;
  }
  mch_task_free(lpool->group.cause);
  lpool->group.cause = NULL;
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->places);
  mch_output_ref(lpool->output); /* as a state closes, the pool's may be the last one */
  mch_lrecord_settle(L, lpool);
  mch_pool_free(pool);
  mch_ltrace_flush(mch_context_get(L));
  mch_lserve_release_lent(L, lpool);
  mch_lserve_release_spent(L, lpool);
  mch_ltask_close(L, &lpool->task);
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->warned);
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->asked);
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->causes);
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->journal_anchor);
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->place);
  mch_parent_heap_restore(L, &lpool->task.heap);
  mch_buf_free(&lpool->graph);
  mch_buf_free(&lpool->spans);
  mch_buf_free(&lpool->ids);
  mch_buf_free(&lpool->record);
  mch_buf_free(&lpool->answers.graphs);
  mch_mark_free(&lpool->mark);
  if (lpool->started)
    mch_output_detach(lpool->output);
  mch_output_unref(lpool->output);
}

/* free(pool). What its journal has to say of the last things that it wrote is logged. */
int mch_core_free(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->journal_anchor);
  free_pool(L, lpool);
  mch_lrecord_tell(L, lpool);
  lpool->journal = NULL;
  return 0;
}

static int never(void *ud) {
  (void)ud;
  return 0;
}

/* Kill the workers and free everything, whatever state the pool is in. Raises nothing. */
static void end_now(lua_State *L, struct lpool *lpool) {
  uint64_t patience = mch_now() + 5000000000u;
  lpool->task.L = L;
  if (lpool->listening)
    mch_pool_cancel_all(lpool->pool, NULL, UINT64_MAX);
  mch_pool_quit(lpool->pool, 1);
  while (!mch_pool_gone(lpool->pool) && mch_now() < patience) {
    mch_pool_pump(lpool->pool);
    if (!mch_pool_gone(lpool->pool))
      mch_pool_wait(lpool->pool, &(struct mch_waiting){patience, NULL, never, NULL, NULL, 1});
  }
  mch_levents_tell_last(L, lpool);
  free_pool(L, lpool);
}

/* A pool that nobody closed: its workers end now. In a process that did not make it, nothing. */
int mch_lends_pool_gc(lua_State *L) {
  struct lpool *lpool = mch_lpool_to_pool(L);
  struct mch_output *output;
  if (lpool->pool == NULL) { /* it is closed, or could not be made */
    mch_buf_free(&lpool->record);
    mch_mark_free(&lpool->mark);
    mch_lhosts_free(L, lpool);
    return 0;
  }
  if (!mch_mark_is_ours(&lpool->mark))
    return 0;
  output = mch_output_ref(lpool->output);
  if (lpool->started)
    mch_notices_collected(L, mch_pool_unfinished(lpool->pool, NULL),
                          mch_pool_failed(lpool->pool, &lpool->group, 0));
  mch_output_finalize(output, 1);
  lpool->listens = 0; /* the object goes: only the sink of a program in C is told */
  end_now(L, lpool);
  mch_output_finalize(output, 0);
  mch_output_unref(output);
  mch_lhosts_free(L, lpool);
  return 0;
}

/* Whether the state closes, when a <close> variable's method runs: there is no function then whose
 * variable it could be. (Up to Lua 5.4.3 the call of os.exit is still there, whose place on the
 * stack has become the variable's; or the call itself.) */
static int is_state_closing(lua_State *L) {
  lua_Debug info;
  int is_exit = 0;
  if (L != mch_lwait_main_thread(L))
    return 0;
  if (!lua_getstack(L, 1, &info))
    return 1;
  luaL_checkstack(L, 4, NULL);
  lua_getinfo(L, "f", &info);
  if (!lua_isfunction(L, -1))
    is_exit = 1;
  else if (lua_iscfunction(L, -1) &&
           lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE) {
    if (lua_getfield(L, -1, "os") == LUA_TTABLE) {
      lua_getfield(L, -1, "exit");
      is_exit = lua_rawequal(L, -1, 3);
    }
  }
  lua_settop(L, 2);
  return is_exit;
}

/* __close(pool, error): calls what pool.lua wants (the upvalue) as leave(pool, error, state
 * closes), and sees to it that the pool is closed even if that was interrupted. */
static int leave(lua_State *L) {
  struct lpool *lpool = mch_lpool_to_pool(L);
  int closing;
  lua_settop(L, 2);
  if (!mch_lpool_is_open(lpool))
    return 0;
  check_not_busy(L, lpool);
  closing = is_state_closing(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_pushboolean(L, closing);
  if (lua_pcall(L, 3, 0, 0) == LUA_OK)
    return 0;
  if (mch_lpool_is_open(lpool) && why_busy(lpool) == NULL)
    end_now(L, lpool);
  return lua_error(L);
}

/* leaving(function): a __close method that is safe from interruptions. */
int mch_core_leaving(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushcclosure(L, leave, 1);
  return 1;
}

/* unfinished(pool): how many tasks and items have not ended. */
int mch_core_unfinished(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)mch_pool_unfinished(mch_lpool_check_pool(L)->pool, NULL));
  return 1;
}
