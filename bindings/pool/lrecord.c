/* Runs in: parent.
 *
 * A pool with a journal (recording.h): before a call is run its journal is asked for it, and what
 * that has to say is logged. */
#include "lpool_state.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/context.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"
#include "runtime/base/error.h"
#include "runtime/engines/task.h"

void mch_lrecord_settle(struct lpool *lpool) {
  struct mch_reply *told = &lpool->told;
  if (told->record != NULL)
    told->record->recorder->drop(told->record);
  mch_result_free(told->found.result);
  free(told->memory);
  memset(told, 0, sizeof *told);
}

/* Do its tasks run in workers that were forked before? Else they see what there is. */
static int has_workers(const struct lpool *lpool) {
  return !lpool->is_inline && lpool->task.payloads == LUA_NOREF;
}

/* -- engine "snapshot": a task sees what is there when it starts --------------------------- */

/* Keep what a call was asked for with, but for what the items of a map share, until its payload is
 * made. `options`: a stack index, or 0. */
static void keep_asked(lua_State *L, struct lpool *lpool, int options) {
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->asked);
  lpool->asked = LUA_NOREF;
  if (lpool->told.record == NULL)
    return;
  luaL_checkstack(L, 8, NULL);
  lua_createtable(L, 0, 2);
  lua_pushlstring(L, (const char *)lpool->told.base, sizeof lpool->told.base);
  lua_setfield(L, -2, "base");
  if (options != 0) {
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, options)) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, -4);
    }
    lua_pushnil(L);
    lua_setfield(L, -2, "walk");
    lua_setfield(L, -2, "options");
  }
  lpool->asked = luaL_ref(L, LUA_REGISTRYINDEX);
}

void mch_lrecord_attach(lua_State *L, struct lpool *lpool) {
  if (lpool->asked == LUA_NOREF)
    return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->asked);
  lua_setfield(L, -2, "asked");
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->asked);
  lpool->asked = LUA_NOREF;
}

/* With the pool, options or nil, and the call on the stack. */
static struct mch_asked asked_of(lua_State *L, const struct lpool *lpool) {
  const struct mch_context *context = mch_context_get(L);
  struct mch_asked asked = {.function = 3, .options = lua_istable(L, 2) ? 2 : 0};
  asked.is_forked = has_workers(lpool);
  if (lpool->task.baseline != LUA_NOREF && asked.is_forked) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
    lua_insert(L, 3);
    asked.baseline = 3;
    asked.function = 4;
  }
  if (context->running && context->task != NULL && context->task->recorded) {
    asked.outer = context->stream;
    asked.task = context->tasks;
  }
  if (lpool->task.init != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.init);
    lua_insert(L, 3);
    asked.init = 3;
    asked.baseline += asked.baseline != 0;
    asked.function++;
  }
  return asked;
}

/* Called with the pool, options or nil, and the call. */
static int ask(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  struct mch_asked asked = asked_of(L, lpool);
  lpool->journal->ask(L, lpool->journal, &asked, &lpool->told);
  if (lpool->task.payloads != LUA_NOREF)
    keep_asked(L, lpool, asked.options);
  return 0;
}

/* Push options or nil and the call of a payload, and return 1; 0: there is nothing to look at. Its
 * key at the time of `run` goes to `base`. */
static int push_call(lua_State *L, struct lpool *lpool, uint64_t payload, unsigned char base[32]) {
  int count, i, top = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  if (lua_rawgeti(L, -1, (lua_Integer)payload) != LUA_TTABLE ||
      lua_getfield(L, -1, "asked") != LUA_TTABLE)
    return 0;
  lua_getfield(L, -1, "base");
  memcpy(base, lua_tostring(L, -1), 32);
  lua_getfield(L, top + 2, "n");
  count = (int)lua_tointeger(L, -1);
  luaL_checkstack(L, count + 10, NULL);
  lua_getfield(L, top + 3, "options");
  for (i = 1; i <= count; i++)
    lua_rawgeti(L, top + 2, i);
  for (i = 0; i < 5; i++)
    lua_remove(L, top + 1);
  return 1;
}

/* Called with the pool and a struct mch_coming: if the call is not any more what it was at `run`,
 * it is asked for anew. */
static int look_again(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  const struct mch_coming *coming = lua_touserdata(L, 2);
  unsigned char base[32];
  struct mch_asked asked;
  int top;
  lua_settop(L, 1);
  if (!push_call(L, lpool, coming->payload, base))
    return 0;
  asked = asked_of(L, lpool);
  top = lua_gettop(L);
  if (lpool->journal->is_same(L, lpool->journal, &asked, base))
    return 0;
  lua_settop(L, top);
  lpool->journal->ask(L, lpool->journal, &asked, &lpool->told);
  lua_settop(L, top);
  if (lpool->pool != NULL)
    mch_pool_record_anew(lpool->pool, coming->runid, &lpool->told.record, lpool->told.keyed,
                         lpool->told.stream);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  if (lua_rawgeti(L, -1, (lua_Integer)coming->payload) == LUA_TTABLE &&
      lua_getfield(L, -1, "asked") == LUA_TTABLE) {
    lua_pushlstring(L, (const char *)lpool->told.base, sizeof lpool->told.base);
    lua_setfield(L, -2, "base");
  }
  return 0;
}

void mch_lrecord_starting(lua_State *L, struct lpool *lpool) {
  struct mch_coming coming[MCH_MOST_LOOKED];
  struct mch_reply told = lpool->told;
  size_t count, i;
  int encoding = lpool->encoding;
  if (lpool->journal == NULL || lpool->task.payloads == LUA_NOREF)
    return;
  count = mch_pool_coming(lpool->pool, coming, lpool->nworkers);
  memset(&lpool->told, 0, sizeof lpool->told);
  lpool->encoding = 1; /* hooks may be called that must not run anything */
  luaL_checkstack(L, 4, NULL);
  for (i = 0; i < count && lpool->pool != NULL; i++) {
    lua_pushcfunction(L, look_again);
    lua_pushlightuserdata(L, lpool);
    lua_pushlightuserdata(L, &coming[i]);
    if (mch_lwatch_pcall(L, 2, 0, 0) != LUA_OK) { /* what it was is not known */
      lua_pop(L, 1);
      mch_lrecord_settle(lpool);
      if (lpool->pool != NULL)
        mch_pool_record_anew(lpool->pool, coming[i].runid, &lpool->told.record, 0, 0);
    }
    mch_lrecord_settle(lpool);
  }
  lpool->encoding = encoding;
  lpool->told = told;
}

int mch_lrecord_ask(lua_State *L, struct lpool *lpool, int options, int first) {
  int count = lua_gettop(L) - first + 1, encoding = lpool->encoding, status, i;
  mch_lrecord_settle(lpool);
  if (lpool->journal == NULL)
    return LUA_OK;
  if (options != 0) {
    lua_getfield(L, options, "journal");
    status = lua_isboolean(L, -1) && !lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (status)
      return LUA_OK;
  }
  luaL_checkstack(L, count + 4, "too many arguments");
  lua_pushcfunction(L, ask);
  lua_pushlightuserdata(L, lpool);
  if (options != 0)
    lua_pushvalue(L, options);
  else
    lua_pushnil(L);
  for (i = 0; i < count; i++)
    lua_pushvalue(L, first + i);
  lpool->encoding = 1; /* hooks may be called that must not run anything */
  status = lua_pcall(L, count + 2, 0, 0);
  lpool->encoding = encoding;
  if (status == LUA_OK && lpool->told.warning != NULL)
    mch_notices_warn(L, lpool->told.warning);
  return status;
}

void mch_lrecord_forking(lua_State *L, struct lpool *lpool, int in_call) {
  if (lpool->journal == NULL || !has_workers(lpool))
    return;
  luaL_checkstack(L, 4, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  lpool->journal->forking(L, lpool->journal, lua_gettop(L), in_call);
  lua_pop(L, 1);
}

void mch_lrecord_sent(lua_State *L, struct lpool *lpool, int function, const char *left_out) {
  struct mch_record *record = lpool->told.record;
  if (left_out[0] == '\0' || record == NULL)
    return;
  lpool->told.record = NULL;
  record->recorder->drop(record);
  lpool->journal->unsent(L, lpool->journal, function, left_out);
}

/* Engine "snapshot": a number that no payload has. */
static struct mch_task *new_task(const struct lpool *lpool, const uint32_t *code) {
  static const unsigned char none[sizeof(uint64_t)];
  int is_snapshot = lpool->task.payloads != LUA_NOREF;
  return mch_task_new(code, code != NULL, none, is_snapshot ? sizeof none : 0);
}

struct mch_task *mch_lrecord_task(const struct lpool *lpool) {
  uint32_t code;
  if (lpool->listening && lpool->ids.length >= sizeof code) { /* where it is from is to be told */
    memcpy(&code, lpool->ids.data, sizeof code);
    return new_task(lpool, &code);
  }
  return new_task(lpool, NULL);
}

void mch_lrecord_tell(lua_State *L, struct lpool *lpool) {
  struct mch_journal *journal = lpool->journal;
  char text[1024];
  int is_error;
  while (journal != NULL && journal->complaint(journal, text, sizeof text, &is_error) > 0) {
    if (is_error)
      mch_notices_error(L, text);
    else
      mch_notices_warn(L, text);
  }
}
