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
#include "runtime/base/mix.h"
#include "runtime/engines/task.h"

void mch_lrecord_settle(lua_State *L, struct lpool *lpool) {
  struct mch_reply *told = &lpool->told;
  if (told->classes != 0)
    luaL_unref(L, LUA_REGISTRYINDEX, told->classes);
  if (told->hooked != 0)
    luaL_unref(L, LUA_REGISTRYINDEX, told->hooked);
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

/* -- engines "snapshot" and "inline": a task sees what is there when it starts -------------- */

/* Whether a call is to be looked at again when its task starts. */
static int is_looked_at_again(const struct lpool *lpool) {
  return lpool->is_inline || lpool->task.payloads != LUA_NOREF;
}

/* What hooks say of values cannot be had of those that were sent: keep the call itself in the table
 * on top. */
static void keep_call(lua_State *L, int function) {
  int table = lua_gettop(L), count = table - function, i;
  lua_createtable(L, count, 1); /* the table is behind the call */
  for (i = 0; i < count; i++) {
    lua_pushvalue(L, function + i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushinteger(L, count);
  lua_setfield(L, -2, "n");
  lua_setfield(L, table, "call");
}

/* Keep what a call was asked for with, but for what the items of a map share, until its task is
 * made. `asked->options`: a stack index, or 0. */
static void keep_asked(lua_State *L, struct lpool *lpool, const struct mch_asked *asked) {
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->asked);
  lpool->asked = LUA_NOREF;
  if (lpool->told.record == NULL)
    return;
  luaL_checkstack(L, 8, NULL);
  lua_createtable(L, 0, 5);
  if (lpool->is_inline && lpool->told.hooked != 0) {
    keep_call(L, asked->function);
    lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->told.hooked);
    lua_setfield(L, -2, "hooked");
  }
  lua_pushlstring(L, (const char *)lpool->told.base, sizeof lpool->told.base);
  lua_setfield(L, -2, "base");
  lua_pushinteger(L, (lua_Integer)asked->outer);
  lua_setfield(L, -2, "outer");
  lua_pushinteger(L, (lua_Integer)asked->task);
  lua_setfield(L, -2, "task");
  if (asked->options != 0) {
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, asked->options)) {
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

void mch_lrecord_anchor(lua_State *L, struct lpool *lpool) {
  if (!lpool->is_inline || lpool->asked == LUA_NOREF)
    return;
  if (lpool->lent != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->asked);
    lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->lent);
    lua_setfield(L, -2, "lent");
    lua_pop(L, 1);
    luaL_unref(L, LUA_REGISTRYINDEX, lpool->lent);
  }
  lpool->lent = lpool->asked;
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
  int top = lua_gettop(L);
  lpool->journal->ask(L, lpool->journal, &asked, &lpool->told);
  lua_settop(L, top);
  if (is_looked_at_again(lpool))
    keep_asked(L, lpool, &asked);
  return 0;
}

/* A call to be looked at again. */
struct look {
  struct lpool *lpool;
  uint64_t runid, payload;
  int anchor; /* engine "inline": registry reference to what it was asked for with */
  int keyed;  /* it has another key now, and `stream` is named by that */
  uint64_t stream;
  unsigned char base[32]; /* at `run` */
  uint64_t outer, task;   /* likewise; see recording.h */
};

/* Push what a call was asked for with. 0: there is nothing to look at. */
static int push_asked(lua_State *L, const struct look *look) {
  if (look->anchor != 0)
    return lua_rawgeti(L, LUA_REGISTRYINDEX, look->anchor) == LUA_TTABLE &&
           lua_getfield(L, -1, "base") == LUA_TSTRING;
  lua_rawgeti(L, LUA_REGISTRYINDEX, look->lpool->task.payloads);
  return lua_rawgeti(L, -1, (lua_Integer)look->payload) == LUA_TTABLE &&
         lua_getfield(L, -1, "asked") == LUA_TTABLE && lua_getfield(L, -1, "base") == LUA_TSTRING;
}

/* Replace the list on top, which has `n`, by what is in it. */
static void push_listed(lua_State *L) {
  int list = lua_gettop(L), count, i;
  lua_getfield(L, list, "n");
  count = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  luaL_checkstack(L, count + 10, "too many arguments");
  for (i = 1; i <= count; i++)
    lua_rawgeti(L, list, i);
  lua_remove(L, list);
}

static uint64_t integer_of(lua_State *L, const char *name) {
  uint64_t integer;
  lua_getfield(L, -1, name);
  integer = (uint64_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return integer;
}

/* The call is another one now. */
static void ask_anew(lua_State *L, struct look *look, const struct mch_asked *asked) {
  struct lpool *lpool = look->lpool;
  int top = lua_gettop(L);
  lpool->journal->ask(L, lpool->journal, asked, &lpool->told);
  lua_settop(L, top);
  mch_lrecord_sent(L, lpool, asked->function, "");
  look->keyed = lpool->told.keyed;
  look->stream = lpool->told.stream;
  if (lpool->pool != NULL)
    mch_pool_record_anew(lpool->pool, look->runid, &lpool->told.record, look->keyed, look->stream);
  if (push_asked(L, look)) {
    lua_pushlstring(L, (const char *)lpool->told.base, sizeof lpool->told.base);
    lua_setfield(L, -3, "base");
  }
  lua_settop(L, top);
}

/* What was asked for is what there was at `run`, by the call from stack index 3 on; options or nil
 * stand at 2. `hooked`: stack index of what hooks returned then, or 0. 1: it is still. */
static int is_same(lua_State *L, const struct look *look, struct mch_asked *asked, int hooked) {
  struct lpool *lpool = look->lpool;
  int top, same;
  *asked = asked_of(L, lpool);
  asked->outer = look->outer;
  asked->task = look->task;
  asked->hooked = hooked;
  top = lua_gettop(L);
  same = lpool->journal->is_same(L, lpool->journal, asked, look->base);
  lua_settop(L, top);
  return same;
}

/* Called with a struct look, options or nil, a list, and what hooks returned: is this call what it
 * was? */
static int is_list_same(lua_State *L) {
  const struct look *look = lua_touserdata(L, 1);
  struct mch_asked asked;
  lua_replace(L, 1);
  push_listed(L);
  lua_pushboolean(L, is_same(L, look, &asked, 1));
  return 1;
}

/* Called with a struct look and, unless there is a payload, the call as it was sent: if it is not
 * any more what it was at `run`, it is asked for anew. */
static int look_again(lua_State *L) {
  struct look *look = lua_touserdata(L, 1);
  struct mch_asked asked;
  int top = lua_gettop(L);
  if (!push_asked(L, look))
    return 0;
  memcpy(look->base, lua_tostring(L, -1), sizeof look->base);
  lua_pop(L, 1);
  look->outer = integer_of(L, "outer");
  look->task = integer_of(L, "task");
  lua_getfield(L, -1, "options");
  lua_insert(L, 2);
  if (look->anchor == 0) {
    lua_pop(L, 1);
    push_listed(L);
    lua_remove(L, 3); /* all payloads */
  } else if (lua_getfield(L, -1, "call") == LUA_TTABLE) {
    lua_pushcfunction(L, is_list_same);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, -4);
    lua_getfield(L, -6, "hooked");
    lua_call(L, 4, 1);
    if (lua_toboolean(L, -1))
      return 0;
  }
  if (look->anchor != 0)
    lua_settop(L, top + 1);
  if (!is_same(L, look, &asked, 0))
    ask_anew(L, look, &asked);
  return 0;
}

/* Call the function that is below its `count` arguments on top of the stack, of which the first is
 * `look`. Pops all. */
static void call_look(lua_State *L, struct look *look, int count) {
  struct lpool *lpool = look->lpool;
  struct mch_reply told = lpool->told;
  int encoding = lpool->encoding;
  memset(&lpool->told, 0, sizeof lpool->told);
  lpool->encoding = 1; /* hooks may be called that must not run anything */
  if (mch_lwatch_pcall(L, count, 0, 0) != LUA_OK) { /* what it was is not known */
    lua_pop(L, 1);
    mch_lrecord_settle(L, lpool);
    if (lpool->pool != NULL)
      mch_pool_record_anew(lpool->pool, look->runid, &lpool->told.record, 0, 0);
  }
  mch_lrecord_settle(L, lpool);
  lpool->encoding = encoding;
  lpool->told = told;
}

void mch_lrecord_starting(lua_State *L, struct lpool *lpool) {
  struct mch_coming coming[MCH_MOST_LOOKED];
  size_t count, i;
  if (lpool->journal == NULL || lpool->task.payloads == LUA_NOREF)
    return;
  count = mch_pool_coming(lpool->pool, coming, lpool->nworkers);
  luaL_checkstack(L, 4, NULL);
  for (i = 0; i < count && lpool->pool != NULL; i++) {
    struct look look = {.lpool = lpool, .runid = coming[i].runid, .payload = coming[i].payload};
    lua_pushcfunction(L, look_again);
    lua_pushlightuserdata(L, &look);
    call_look(L, &look, 1);
  }
}

int mch_lrecord_start(lua_State *L, struct mch_ltask *task, struct mch_run *run, int count) {
  struct lpool *lpool = (struct lpool *)(void *)((char *)task - offsetof(struct lpool, task));
  struct look look = {.lpool = lpool, .runid = run->runid, .anchor = (int)run->anchor};
  int first = lua_gettop(L) - count + 1, i;
  if (lpool->journal == NULL || run->anchor == 0)
    return 0;
  luaL_checkstack(L, count + 4, "too many arguments");
  lua_pushcfunction(L, look_again);
  lua_pushlightuserdata(L, &look);
  for (i = 0; i < count; i++)
    lua_pushvalue(L, first + i);
  call_look(L, &look, count + 1);
  if (look.keyed) {
    run->stream = look.stream;
    task->context->stream = mch_mix(run->stream);
  }
  return look.keyed;
}

int mch_lrecord_ask(lua_State *L, struct lpool *lpool, int options, int first) {
  int count = lua_gettop(L) - first + 1, encoding = lpool->encoding, status, i;
  mch_lrecord_settle(L, lpool);
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
  if (lpool->told.hooked != 0)
    luaL_unref(L, LUA_REGISTRYINDEX, lpool->told.hooked);
  lpool->told.hooked = 0;
  if (record == NULL)
    return;
  if (left_out[0] != '\0') {
    lpool->told.record = NULL;
    record->recorder->drop(record);
    lpool->journal->unsent(L, lpool->journal, function, left_out);
    return;
  }
  if (lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline) == LUA_TTABLE)
    lpool->journal->encoded(L, lpool->journal, lua_gettop(L), record);
  lua_pop(L, 1);
}

/* Engine "snapshot": a number that no payload has. */
static struct mch_task *new_task(const struct lpool *lpool, const uint32_t *code) {
  static const unsigned char none[sizeof(uint64_t)];
  int is_snapshot = lpool->task.payloads != LUA_NOREF;
  return mch_task_new(code, code != NULL, none, is_snapshot ? sizeof none : 0);
}

/* What was found names its classes by this table: the task takes it along. 0 or -1. */
static int take_classes(struct lpool *lpool, struct mch_task *task) {
  struct mch_buf none = {0};
  if (lpool->told.classes == 0)
    return 0;
  task->early = mch_cargo_new(&none, NULL, lpool->told.classes, &lpool->spent);
  if (task->early == NULL)
    return -1;
  lpool->told.classes = 0;
  return 0;
}

struct mch_task *mch_lrecord_task(struct lpool *lpool) {
  struct mch_task *task;
  uint32_t code;
  if (lpool->listening && lpool->ids.length >= sizeof code) { /* where it is from is to be told */
    memcpy(&code, lpool->ids.data, sizeof code);
    task = new_task(lpool, &code);
  } else {
    task = new_task(lpool, NULL);
  }
  if (task != NULL && take_classes(lpool, task) != 0) {
    mch_task_free(task);
    return NULL;
  }
  return task;
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
