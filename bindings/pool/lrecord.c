/* Runs in: parent.
 *
 * A pool with a journal (recording.h): before a call is run its journal is asked for it, and what
 * that has to say is logged. */
#include "lpool_state.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/context.h"
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

/* Called with the pool, options or nil, and the call. */
static int ask(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
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
  lpool->journal->ask(L, lpool->journal, &asked, &lpool->told);
  return 0;
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
