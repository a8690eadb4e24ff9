/* Runs in: parent.
 *
 * What the owner's thread does for a pool around each pump: prepare forks, deliver log records,
 * decode early pieces of results. */
#include "lpool_state.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/context.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"
#include "bindings/values/early.h"
#include "bindings/values/large.h"
#include "lhosts.h"
#include "lyoung.h"
#include "bindings/values/classes.h"
#include "runtime/base/platform.h"
#include "runtime/mantichora.h"
#include "runtime/show/output.h"
#include "runtime/wire/cargo.h"

/* -- log records -------------------------------------------------------------------------- */

/* Called with the bytes of a record as light userdata, a length, and the pool. */
static int hand_over(lua_State *L) {
  struct mch_decoder decoder;
  const struct lpool *lpool = lua_touserdata(L, 3);
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = lua_touserdata(L, 1);
  decoder.len = (size_t)lua_tointeger(L, 2);
  decoder.kind = MCH_SEND_RESULT;
  mch_context_push_log_handler(L);
  if (lua_isnil(L, -1)) { /* logging was never used here: a worker's records call for it */
    if (lua_getglobal(L, "require") == LUA_TFUNCTION) {
      lua_pushliteral(L, "mantichora.logging");
      lua_call(L, 1, 0);
    } else {
      lua_pop(L, 1);
      luaL_requiref(L, "mantichora.logging", luaopen_mantichora_logging, 0);
      lua_pop(L, 1);
    }
    mch_context_push_log_handler(L);
  }
  if (mch_ltake_decode(L, lpool, &decoder) != 1)
    return luaL_error(L, "a log record with more than one value");
  lua_call(L, 1, 0);
  return 0;
}

/* Give all records that have come to their handlers. What a handler raises is told through warn. */
void mch_lserve_deliver_logs(lua_State *L, struct lpool *lpool) {
  int stops;
  luaL_checkstack(L, 8, NULL);
  while (lpool->pool != NULL && mch_pool_take_log(lpool->pool, &lpool->record)) {
    if (lpool->record.failed != 0)
      continue;
    if (lpool->record.length > 1 && lpool->record.data[0] == MCH_NOTICE) {
      mch_notices_warn(L, (const char *)lpool->record.data + 1);
      continue;
    }
    lua_pushcfunction(L, hand_over);
    lua_pushlightuserdata(L, lpool->record.data);
    lua_pushinteger(L, (lua_Integer)lpool->record.length);
    lua_pushlightuserdata(L, lpool);
    stops = mch_lwatch_stops(L);
    if (lua_pcall(L, 3, 0, 0) == LUA_OK)
      continue;
    if (!mch_lwatch_caught(L, stops)) {
      const char *message = luaL_tolstring(L, -1, NULL);
      if (strstr(message, "interrupted!") != NULL) { /* Ctrl-C came in the handler */
        lua_pop(L, 1);
        lua_error(L);
      }
      lua_warning(L, "mantichora: a log record was not handled: ", 1);
      lua_warning(L, message, 0);
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
}

/* -- forking ------------------------------------------------------------------------------ */

/* Before the first fork: once for the pool. */
void mch_lserve_prepare_collector(lua_State *L, struct lpool *lpool) {
  if (!lpool->keep_gc)
    mch_parent_heap_prepare(L, &lpool->task.heap);
  lpool->keep_gc = 1;
}

/* Before the first fork: note what the workers will know. */
void mch_lserve_take_baseline(lua_State *L, struct lpool *lpool) {
  lpool->task.L = L;
  if (lpool->task.baseline != LUA_NOREF) {
    if (lpool->hosts != NULL)
      mch_lhosts_prepare(L, lpool);
    return;
  }
  if (lpool->hosts != NULL)
    mch_baseline_take_remote(L);
  else
    mch_baseline_take(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.init);
  mch_classes_scan(L, lua_gettop(L) - 1, lua_gettop(L), 1, 1);
  lua_pop(L, 1);
  lpool->holds = 1;
  lpool->task.baseline = luaL_ref(L, LUA_REGISTRYINDEX);
  mch_lrecord_forking(L, lpool, lpool->encoding);
  if (lpool->hosts != NULL)
    mch_lhosts_prepare(L, lpool);
  if (lpool->hosts == NULL)
    mch_lserve_prepare_collector(L, lpool);
}

static int age_classes(lua_State *L) {
  lua_pushboolean(L, mch_classes_age(L, 1));
  return 1;
}

/* Classes that were sent are held until the tasks that have them are over. Two sets take turns, so
 * that a pool that is never idle drops them, too. */
void mch_lserve_release_classes(lua_State *L, struct lpool *lpool) {
  uint64_t next, over;
  if (!lpool->holds || lpool->encoding || lpool->pool == NULL)
    return;
  over = mch_pool_over(lpool->pool, &next);
  while (lpool->holds && over >= lpool->held_until) {
    luaL_checkstack(L, 4, NULL);
    lua_pushcfunction(L, age_classes);
    lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK) {
      lpool->holds = lua_toboolean(L, -1);
      lpool->held_until = next;
      lua_pop(L, 1);
    } else { /* no memory: another time */
      lua_pop(L, 1);
      break;
    }
    if (over < next)
      break;
  }
}

static int update_baseline(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  mch_baseline_update(L, lua_gettop(L));
  mch_lrecord_forking(L, lpool, 0);
  return 0;
}

/* Before a replacement is forked: what the host has printed goes first, and what has changed since
 * the first fork is noted. Without memory for that the new worker is named a little less. */
static void prepare_fork(lua_State *L, struct lpool *lpool) {
  mch_output_flush(lpool->output);
  if (lpool->task.baseline == LUA_NOREF || lpool->task.payloads != LUA_NOREF ||
      lpool->hosts != NULL)
    return;
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, update_baseline);
  lua_pushlightuserdata(L, lpool);
  if (mch_lwatch_pcall(L, 1, 0, 0) != LUA_OK)
    lua_pop(L, 1);
  mch_parent_heap_renew(L, &lpool->task.heap);
}

/* -- what is lent to messages -------------------------------------------------------------- */

/* What the spans of a message need is needed no longer. */
void mch_lserve_release_lent(lua_State *L, struct lpool *lpool) {
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->lent);
  lpool->lent = LUA_NOREF;
}

/* The same for messages that were sent. */
void mch_lserve_release_spent(lua_State *L, struct lpool *lpool) {
  struct mch_cargo *cargo = mch_cargos_take(&lpool->spent), *next;
  for (; cargo != NULL; cargo = next) {
    next = cargo->next;
    luaL_unref(L, LUA_REGISTRYINDEX, (int)cargo->anchor);
    mch_cargo_free(cargo);
  }
}

/* -- results that come ahead --------------------------------------------------------------- */

/* Push the list of tables that came for a piece's task; if there is none yet, the new one on top of
 * the stack becomes it, and is anchored as long as anybody holds the task's `ahead`. */
static void push_tables(lua_State *L, struct lpool *lpool, const struct mch_piece *piece) {
  if (piece->of->anchor == 0) {
    lua_pushvalue(L, -1);
    piece->of->spent = &lpool->spent;
    piece->of->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, (lua_Integer)piece->of->anchor);
}

/* Called with the pool: store the oldest piece. Where something is allocated the collector may run
 * code that uses this very pool; from then on another piece may be the oldest, of another task. */
static int store_piece(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  for (;;) {
    const struct mch_piece *piece;
    lua_settop(L, 1);
    lua_newtable(L);
    piece = lpool->pool != NULL ? mch_pool_piece(lpool->pool) : NULL;
    if (piece == NULL)
      return 0;
    push_tables(L, lpool, piece);
    if (!mch_early_is_ready(L, 3, piece->bytes, piece->length))
      continue;
    mch_early_store(L, 3, piece->bytes, piece->length);
    mch_pool_drop_piece(lpool->pool);
    return 0;
  }
}

/* Without memory for a piece it is lost, and missed when the result is rebuilt. */
void mch_lserve_store_pieces(lua_State *L, struct lpool *lpool, int most) {
  struct mch_large large;
  if (mch_pool_piece(lpool->pool) == NULL)
    return;
  luaL_checkstack(L, 8, NULL);
  mch_pool_attend(lpool->pool, 1);
  while (most-- > 0 && lpool->pool != NULL && mch_pool_piece(lpool->pool) != NULL) {
    int status;
    lua_pushcfunction(L, store_piece);
    lua_pushlightuserdata(L, lpool);
    mch_large_begin(L, &large);
    status = mch_lwatch_pcall(L, 1, 0, 0);
    mch_large_end(L, &large);
    if (status != LUA_OK) {
      lua_pop(L, 1);
      if (lpool->pool != NULL && mch_pool_piece(lpool->pool) != NULL)
        mch_pool_drop_piece(lpool->pool);
    }
  }
  if (lpool->pool != NULL)
    mch_pool_attend(lpool->pool, 0);
}

/* Move the pool on and hand over its log records; a handler of these may close it. `frugal`: the
 * caller has no time for more forks than the one without which nothing is done. */
void mch_lserve_pump(lua_State *L, struct lpool *lpool, int frugal) {
  lpool->task.L = L;
  if (frugal != lpool->frugal)
    mch_pool_spare_forks(lpool->pool, frugal);
  lpool->frugal = frugal;
  if (!lpool->is_inline || !mch_context_get(L)->telling) /* a listener runs no tasks */
    mch_pool_pump(lpool->pool);
  lpool->pumped = mch_now();
  mch_lserve_release_spent(L, lpool);
  if (mch_pool_short_of_workers(lpool->pool)) {
    prepare_fork(L, lpool); /* runs finalizers, which may close the pool */
    if (lpool->pool != NULL)
      mch_lrecord_starting(L, lpool);
    if (lpool->pool == NULL)
      return;
    mch_pool_add_workers(lpool->pool);
  }
  mch_lserve_store_pieces(L, lpool, MOST_PIECES);
  mch_lserve_deliver_logs(L, lpool);
  mch_lrecord_tell(L, lpool);
  mch_levents_tell(L, lpool);
}
