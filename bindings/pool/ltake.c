/* Runs in: parent.
 *
 * From the pool into Lua: decodes results, and turns failures into tables. */
#include "lpool_state.h"

#include <lauxlib.h>
#include <signal.h>
#include <string.h>

#include "bindings/lwatch.h"
#include "bindings/show/loutput.h"
#include "bindings/values/items.h"
#include "bindings/values/modules.h"
#include "bindings/values/number.h"
#include "runtime/base/buf.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"
#include "runtime/wire/cargo.h"
#include "runtime/wire/protocol.h"

/* Pack the values from `first` on, up to the top, into a table as table.pack() does. */
void mch_ltake_pack_values(lua_State *L, int first) {
  int count = lua_gettop(L) - first + 1, i;
  lua_createtable(L, count, 1);
  lua_insert(L, first);
  for (i = count; i > 0; i--)
    lua_rawseti(L, first, i);
  lua_pushinteger(L, count);
  lua_setfield(L, first, "n");
}

/* Push the values of a graph that came from a worker of this pool; returns how many. All that comes
 * back goes through here: results, errors, log records. */
int mch_ltake_decode(lua_State *L, const struct lpool *lpool, struct mch_decoder *decoder) {
  int baseline = lua_gettop(L) + 1, count;
  luaL_checkstack(L, 4, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  if (lua_istable(L, baseline)) {
    lua_rawgeti(L, baseline, MCH_BASELINE_CLASSES);
    decoder->baseline = baseline;
    decoder->own = baseline + 1;
  } else {
    lua_pushnil(L);
  }
  count = mch_decode(L, decoder);
  lua_remove(L, baseline + 1);
  lua_remove(L, baseline);
  return count;
}

static struct mch_decoder new_decoder(const unsigned char *graph, size_t length,
                                      enum mch_graph_kind kind) {
  struct mch_decoder decoder;
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = graph;
  decoder.len = length;
  decoder.allow_code = 1;
  decoder.kind = kind;
  return decoder;
}

/* `early`: stack index of the tables that came before it, or 0. */
int mch_ltake_decode_graph(lua_State *L, const struct lpool *lpool, const unsigned char *graph,
                           size_t length, enum mch_graph_kind kind, int early) {
  struct mch_decoder decoder = new_decoder(graph, length, kind);
  decoder.early = early;
  return mch_ltake_decode(L, lpool, &decoder);
}

/* The values of a graph that another process may have written: ids of classes in it are those of
 * the table `classes`, a registry reference; 0: there are none. */
int mch_ltake_decode_found(lua_State *L, const unsigned char *graph, size_t length,
                           enum mch_graph_kind kind, int64_t classes) {
  struct mch_decoder decoder = new_decoder(graph, length, kind);
  int count;
  luaL_checkstack(L, 4, NULL);
  if (classes == 0 || lua_rawgeti(L, LUA_REGISTRYINDEX, (lua_Integer)classes) != LUA_TTABLE)
    lua_newtable(L);
  decoder.own = lua_gettop(L);
  count = mch_decode(L, &decoder);
  lua_remove(L, decoder.own);
  return count;
}

/* Finalizers may run wherever values are made. */
void mch_ltake_check_not_in_bulk(lua_State *L, const struct lpool *lpool) {
  if (lpool->in_bulk)
    luaL_error(L, "the pool is handing over results: a finalizer cannot receive from it now");
}

/* Call what is below its arguments on top of the stack, which may set `in_bulk`. Returns as many
 * values as are asked for, or raises. */
void mch_ltake_call_in_bulk(lua_State *L, struct lpool *lpool, int arguments, int results) {
  int status = lua_pcall(L, arguments, results, 0);
  lpool->in_bulk = 0;
  if (status != LUA_OK)
    lua_error(L);
}

/* weight(pool): bytes of the result that take() has just handed over. */
int mch_core_weight(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)mch_lpool_to_pool(L)->weight);
  return 1;
}

/* -- receiving ---------------------------------------------------------------------------- */

/* Engine "snapshot": the payload of a task that is over is dropped. */
static void drop_payload(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  if (lpool->task.payloads == LUA_NOREF)
    return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_pushnil(L);
  lua_rawseti(L, -2, (lua_Integer)mch_load_u64(task->body));
  lua_pop(L, 1);
}

/* Pop a Lua function and note where it is defined in the table below it. */
static void set_place(lua_State *L) {
  lua_Debug info;
  lua_getinfo(L, ">S", &info);
  lua_pushfstring(L, "<%s:%d>", info.short_src, info.linedefined);
  lua_setfield(L, -2, "place");
}

static void push_payload_place(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  if (lua_rawgeti(L, -1, (lua_Integer)mch_load_u64(task->body)) == LUA_TTABLE)
    lua_rawgeti(L, -1, 1);
  else
    lua_pushnil(L); /* a sink has just abandoned the task's group */
  lua_replace(L, -3);
  lua_pop(L, 1);
  if (lua_isfunction(L, -1) && !lua_iscfunction(L, -1))
    set_place(L);
  else
    lua_pop(L, 1);
}

/* Push the fields that say where a function comes from: its bytecode is the first that its task
 * names, if it travelled by a name. */
static void push_function_place(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  int failure = lua_gettop(L);
  uint32_t id;
  size_t length;
  const void *bytes;
  if (lpool->task.payloads != LUA_NOREF) {
    push_payload_place(L, lpool, task);
    return;
  }
  if (task->codes == 0)
    return;
  memcpy(&id, task->body, sizeof id);
  if (id != lpool->place_code) { /* failures of one function often come in crowds */
    bytes = mch_pool_code(lpool->pool, id, &length);
    if (bytes == NULL || luaL_loadbufferx(L, bytes, length, "=", "b") != LUA_OK) {
      lua_settop(L, failure);
      return;
    }
    set_place(L);
    lua_getfield(L, failure, "place");
    lpool->place_code = 0;
    luaL_unref(L, LUA_REGISTRYINDEX, lpool->place);
    lpool->place = luaL_ref(L, LUA_REGISTRYINDEX);
    lpool->place_code = id;
    return;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->place);
  lua_setfield(L, failure, "place");
}

static void set_number(lua_State *L, const char *name, uint64_t nanoseconds) {
  lua_pushnumber(L, (lua_Number)nanoseconds / 1e9);
  lua_setfield(L, -2, name);
}

/* Called with the answer of a worker that died, and the pool: push the last record that its task
 * logged. */
static int decode_last_log(lua_State *L) {
  const struct mch_result *result = lua_touserdata(L, 1);
  const struct lpool *lpool = lua_touserdata(L, 2);
  return mch_ltake_decode_graph(L, lpool, result->graph, result->length, MCH_SEND_RESULT, 0);
}

/* Its message goes into the failure on top; where it cannot be had, the failure is told without. */
static void set_last_log(lua_State *L, const struct lpool *lpool, const struct mch_result *result) {
  int failure = lua_gettop(L);
  lua_pushcfunction(L, decode_last_log);
  lua_pushlightuserdata(L, (void *)result);
  lua_pushlightuserdata(L, (void *)lpool);
  if (lua_pcall(L, 2, 1, 0) == LUA_OK && lua_istable(L, -1)) {
    lua_pushliteral(L, "message");
    lua_rawget(L, -2);
    lua_setfield(L, failure, "last_log");
  }
  lua_settop(L, failure);
}

/* What a worker says of an error: message, traceback, the value shown as text or false, value. */
enum { ERROR_PARTS = 4, PARTS_WITHOUT_VALUE = 3 };

/* Called with the answer, the pool, and how many of those are wanted: push them. */
static int decode_error(lua_State *L) {
  const struct mch_result *result = lua_touserdata(L, 1);
  const struct lpool *lpool = lua_touserdata(L, 2);
  struct mch_decoder decoder = new_decoder(result->graph, result->length, MCH_SEND_ERROR);
  int wanted = (int)lua_tointeger(L, 3);
  decoder.most = wanted;
  if (mch_ltake_decode(L, lpool, &decoder) != wanted)
    return luaL_error(L, "a worker described an error in an unknown way");
  return wanted;
}

/* Push what decode_error() is called with: itself, and its arguments. */
static void push_decode_error(lua_State *L, const struct lpool *lpool,
                              const struct mch_result *result, int wanted) {
  lua_pushcfunction(L, decode_error);
  lua_pushlightuserdata(L, (void *)result);
  lua_pushlightuserdata(L, (void *)lpool);
  lua_pushinteger(L, wanted);
}

/* Push what was said of an error without the value: only strings, so that no code runs. For the
 * value, nil. */
static void push_error_in_words(lua_State *L, const struct lpool *lpool,
                                const struct mch_result *result) {
  push_decode_error(L, lpool, result, PARTS_WITHOUT_VALUE);
  lua_call(L, 3, PARTS_WITHOUT_VALUE);
  lua_pushnil(L);
}

/* Push all that was said of an error, and behind it nil, or why the value is not there: one that
 * cannot be rebuilt here must not take along what else is known of the error. */
static void push_error(lua_State *L, const struct lpool *lpool, const struct mch_result *result) {
  int top = lua_gettop(L);
  push_decode_error(L, lpool, result, ERROR_PARTS);
  if (lua_pcall(L, 3, ERROR_PARTS, 0) == LUA_OK) {
    lua_pushnil(L);
    return;
  }
  push_error_in_words(L, lpool, result);
  lua_rotate(L, top + 1, -1);
}

/* What a worker said of an error, into the failure on top. */
static void set_error(lua_State *L, const struct lpool *lpool, const struct mch_result *result,
                      int in_words) {
  int failure = lua_gettop(L);
  if (result->text != NULL) {
    lua_pushstring(L, result->text);
    lua_setfield(L, failure, "reason");
  }
  if (result->length == 0 || (result->graph_is_log && in_words))
    return;
  if (result->graph_is_log) {
    set_last_log(L, lpool, result);
    return;
  }
  if (in_words) {
    push_error_in_words(L, lpool, result);
    lua_pushnil(L);
  } else
    push_error(L, lpool, result);
  lua_pushvalue(L, failure + 1);
  lua_setfield(L, failure, "reason");
  lua_pushvalue(L, failure + 2);
  lua_setfield(L, failure, "traceback");
  if (lua_type(L, failure + 3) == LUA_TSTRING) {
    lua_pushvalue(L, failure + 3);
    lua_setfield(L, failure, "shown");
  }
  lua_pushvalue(L, failure + 4);
  lua_setfield(L, failure, "value");
  if (lua_type(L, failure + 5) == LUA_TSTRING) {
    lua_pushvalue(L, failure + 5);
    lua_setfield(L, failure, "lost");
  }
  lua_settop(L, failure);
}

/* Push a table of all kinds: number by name. */
void mch_ltake_push_kinds(lua_State *L) {
  int kind;
  lua_createtable(L, 0, MCH_KIND_CANCELLED + 1);
  for (kind = 0; kind <= MCH_KIND_CANCELLED; kind++)
    mch_lpool_set_integer(L, mch_kind_word((enum mch_kind)kind), kind);
}

/* While other code may run that receives from this pool (sinks, finalizers), the taken task is kept
 * from it. */
static struct mch_task *hold_taken(struct lpool *lpool) {
  struct mch_task *task = lpool->taken;
  task->next = lpool->held;
  lpool->held = task;
  lpool->taken = NULL;
  return task;
}

static void take_held(lua_State *L, struct lpool *lpool, struct mch_task *task) {
  struct mch_task **at = &lpool->held;
  if (lpool->pool == NULL)
    mch_lpool_raise_closed(L);
  while (*at != task)
    at = &(*at)->next;
  *at = task->next;
  mch_pool_discard(lpool->pool, lpool->taken);
  lpool->taken = task;
}

/* Which task it was, into the failure on top. */
static void set_task(lua_State *L, const struct mch_task *task) {
  mch_lpool_set_integer(L, "runid", (lua_Integer)task->runid);
  if (task->extra != NULL && task->extra->name_length > 0) {
    lua_pushlstring(L, task->extra->name, task->extra->name_length);
    lua_setfield(L, -2, "name");
  }
  if (task->index > 0)
    mch_lpool_set_integer(L, "index", (lua_Integer)task->index);
  if (task->result->pid != 0)
    mch_lpool_set_integer(L, "pid", task->result->pid);
  if (task->result->host != NULL) {
    lua_pushstring(L, task->result->host);
    lua_setfield(L, -2, "host");
  }
  if (task->result->whole) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "whole");
  }
  set_number(L, "elapsed", task->result->elapsed);
}

/* Push the raw facts of a task's failure; `in_words`: without its value, and no code runs. */
static void push_raw_failure(lua_State *L, struct lpool *lpool, const struct mch_task *task,
                             int in_words) {
  const struct mch_result *result = task->result;
  luaL_checkstack(L, 16, NULL);
  lua_newtable(L);
  lua_pushstring(L, mch_kind_word(result->kind));
  lua_setfield(L, -2, "kind");
  set_task(L, task);
  if (result->kind == MCH_KIND_KILLED && result->signal != 0)
    mch_lpool_set_integer(L, "signal", result->signal);
  if (result->kind == MCH_KIND_EXITED)
    mch_lpool_set_integer(L, "exitcode", result->exitcode);
  if (task->attempt > 0)
    mch_lpool_set_integer(L, "attempts", task->attempt + 1);
  if (result->progress != NULL) {
    lua_pushstring(L, result->progress);
    lua_setfield(L, -2, "progress");
  }
  if (result->perhaps_oom) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "perhaps_oom");
  }
  if (result->maxrss != 0)
    mch_lpool_set_integer(L, "maxrss", (lua_Integer)result->maxrss);
  push_function_place(L, lpool, task);
  set_error(L, lpool, result, in_words);
}

static void push_causes(lua_State *L, struct lpool *lpool) {
  if (lpool->causes == LUA_NOREF) {
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lpool->causes = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->causes);
}

/* Push the failure of a task that has halted others: the same table for all of them, as long as
 * somebody has it. */
static void push_cause(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  int causes = lua_gettop(L) + 1;
  push_causes(L, lpool);
  if (lua_rawgeti(L, causes, (lua_Integer)task->runid) != LUA_TTABLE) {
    lua_settop(L, causes);
    push_raw_failure(L, lpool, task, 0);
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "halts");
    lua_pushvalue(L, -1);
    lua_rawseti(L, causes, (lua_Integer)task->runid);
  }
  lua_remove(L, causes);
}

/* Push the raw facts of a failure. One that has halted others is held by them, or by its group. */
static void push_failure(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  if (task->halts) {
    push_cause(L, lpool, task);
    return;
  }
  push_raw_failure(L, lpool, task, 0);
  if (task->cause != NULL) {
    push_cause(L, lpool, task->cause);
    lua_setfield(L, -2, "cause");
  }
}

/* Called with the pool: push the raw facts of the failure of the task that is held. */
static int make_failure(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  const struct mch_task *task = lpool->held;
  lua_settop(L, 0);
  push_failure(L, lpool, task);
  return 1;
}

/* Called with the pool and its task, which somebody could receive meanwhile: but no finalizer runs,
 * nor anything else. */
static int describe_untold(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  const struct mch_task *task = lua_touserdata(L, 2);
  push_raw_failure(L, lpool, task, 1);
  return 1;
}

/* untold(pool): the raw facts of the next failure that was neither received nor told by this; nil:
 * none. The task stays to be received. */
int mch_core_untold(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  const struct mch_task *task = mch_pool_untold(lpool->pool, &lpool->group);
  int runs = lua_gc(L, LUA_GCISRUNNING), status;
  if (task == NULL)
    return 0;
  lua_pushcfunction(L, describe_untold);
  lua_pushlightuserdata(L, lpool);
  lua_pushlightuserdata(L, (void *)(uintptr_t)task);
  lua_gc(L, LUA_GCSTOP);
  status = lua_pcall(L, 2, 1, 0);
  if (runs)
    lua_gc(L, LUA_GCRESTART);
  return status == LUA_OK ? 1 : lua_error(L);
}

/* Called with the pool: push the values of the task that is held. */
static int make_values(lua_State *L) {
  const struct lpool *lpool = lua_touserdata(L, 1);
  const struct mch_task *task = lpool->held;
  const struct mch_result *result = task->result;
  int early = 0;
  lua_settop(L, 0);
  if (mch_items_is_none(result->graph, result->length))
    return 0;
  if (mch_items_get(L, result->graph, result->length))
    return 1;
  if (task->found)
    return mch_ltake_decode_found(L, result->graph, result->length, MCH_SEND_RESULT,
                                  task->early != NULL ? task->early->anchor : 0);
  if (task->early != NULL)
    early = lua_rawgeti(L, LUA_REGISTRYINDEX, (lua_Integer)task->early->anchor) == LUA_TTABLE;
  return mch_ltake_decode_graph(L, lpool, result->graph, result->length, MCH_SEND_RESULT, early);
}

/* An answer that cannot be turned into values here is an error of its task. */
static void push_undecodable(lua_State *L, const struct mch_task *task) {
  lua_createtable(L, 0, 4);
  lua_insert(L, -2);
  lua_setfield(L, -2, "reason");
  lua_pushliteral(L, "error");
  lua_setfield(L, -2, "kind");
  set_task(L, task);
}

/* Called with the pool and the task: push the raw facts of its failure. */
static int make_failure_of(lua_State *L) {
  push_failure(L, lua_touserdata(L, 1), lua_touserdata(L, 2));
  return 1;
}

void mch_ltake_push_failure(lua_State *L, struct lpool *lpool, struct mch_task *task) {
  lua_pushcfunction(L, make_failure_of);
  lua_pushlightuserdata(L, lpool);
  lua_pushlightuserdata(L, task);
  if (mch_lwatch_pcall(L, 2, 1, 0) != LUA_OK)
    push_undecodable(L, task);
}

void mch_ltake_push_place(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  push_function_place(L, lpool, task);
}

/* What the taken task wrote and showed is told before its values are handed over, and what came
 * ahead of them is stored. Code that runs then may receive from this pool, and close it. */
static void settle_taken(lua_State *L, struct lpool *lpool) {
  struct mch_task *task = lpool->taken;
  int tell = mch_output_wants_owner(lpool->output, 0);
  if (!tell && !mch_cargo_is_shared(task->early))
    return;
  hold_taken(lpool);
  if (tell)
    mch_loutput_tell(L, lpool->output);
  while (lpool->pool != NULL && mch_cargo_is_shared(task->early))
    mch_lserve_store_pieces(L, lpool, 1);
  take_held(L, lpool, task);
}

/* Take a finished task, the first one from run ID *from on or (NULL) the first that finished, after
 * the log records and lines that came before it. 0: none is there. */
static int take_next(lua_State *L, struct lpool *lpool, struct mch_group *group, uint64_t *from) {
  mch_pool_discard(lpool->pool, lpool->taken);
  lpool->taken = NULL;
  mch_levents_prepare_take(L, lpool);
  for (;;) {
    lpool->taken = from != NULL ? mch_pool_take_in_order(lpool->pool, group, from)
                                : mch_pool_take(lpool->pool, group);
    if (lpool->taken != NULL)
      break;
    if (!mch_pool_has_logs(lpool->pool) && !mch_levents_may_tell(L, lpool))
      return 0;
    mch_lserve_deliver_logs(L, lpool); /* they come first */
    mch_levents_tell(L, lpool);
    if (lpool->pool == NULL)
      return mch_lpool_raise_closed(L);
  }
  if (mch_output_backlog(lpool->output) > 0)
    mch_output_flush(lpool->output);
  settle_taken(L, lpool);
  return 1;
}

/* What core_take_plain() does, with its arguments. Only while values are made the pool is in bulk:
 * sinks and handlers of log records may receive from it. */
static int take_plain(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  uint64_t from = (uint64_t)luaL_checkinteger(L, 2);
  lua_Integer n = luaL_checkinteger(L, 4);
  while (lpool->left == NULL && take_next(L, lpool, &lpool->group, &from)) {
    struct mch_task *task = lpool->taken;
    const struct mch_result *result = task->result;
    lpool->left = task; /* nobody else's: a finalizer may map or receive now */
    lpool->taken = NULL;
    lpool->in_bulk = 1;
    if (result->kind == MCH_KIND_OK && mch_items_is_none(result->graph, result->length))
      lua_pushnil(L);
    else if (result->kind != MCH_KIND_OK || !mch_items_get(L, result->graph, result->length))
      break;
    lua_pushvalue(L, -1);
    lua_rawseti(L, 5, (lua_Integer)task->runid);
    lua_rawseti(L, 3, ++n);
    lpool->left = NULL;
    lpool->in_bulk = 0;
    drop_payload(L, lpool, task);
    mch_pool_discard(lpool->pool, task);
  }
  lua_pushinteger(L, (lua_Integer)from);
  lua_pushinteger(L, n);
  return 2;
}

/* take_plain(pool, from, list, n, results): take tasks of run() in run order from run ID `from` on,
 * as long as they returned a plain value or none: to the end of the list, which has n, and by run
 * ID to the results. The new `from` and n. The task at which it ended is there for take(). */
int mch_core_take_plain(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  mch_ltake_check_not_in_bulk(L, lpool);
  lua_settop(L, 5);
  lua_pushcfunction(L, take_plain);
  lua_insert(L, 1);
  mch_ltake_call_in_bulk(L, lpool, 5, 2);
  mch_lserve_release_classes(L, lpool);
  return 2;
}

/* take(pool, from or nil, group or nil, copies or nil): nil, or run ID, whether it failed, and its
 * values or the raw failure. In order of completion, or in run order from run ID `from`. What
 * receives them makes so many copies of the values on the stack, one if it does not say. */
int mch_core_take(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  int in_order = !lua_isnoneornil(L, 2), copies = (int)luaL_optinteger(L, 4, 1), failed;
  uint64_t from = in_order ? (uint64_t)luaL_checkinteger(L, 2) : 0;
  struct mch_group *group = mch_lpool_group_arg(L, lpool, 3);
  struct mch_task *task;
  int status;
  mch_ltake_check_not_in_bulk(L, lpool);
  if (lpool->left != NULL && group == &lpool->group) {
    mch_pool_discard(lpool->pool, lpool->taken);
    lpool->taken = lpool->left;
    lpool->left = NULL;
  } else if (!take_next(L, lpool, group, in_order ? &from : NULL))
    return 0;
  failed = lpool->taken->result->kind != MCH_KIND_OK;
  lua_settop(L, 0);
  lua_pushinteger(L, (lua_Integer)lpool->taken->runid);
  lua_pushboolean(L, failed);
  lua_pushcfunction(L, failed ? make_failure : make_values);
  lua_pushlightuserdata(L, lpool);
  task = hold_taken(lpool);
  lpool->decoding++;
  status = mch_lwatch_pcall(L, 1, LUA_MULTRET, 0);
  lpool->decoding--;
  if (lpool->pool == NULL)
    return mch_lpool_raise_closed(L);
  if (status == LUA_OK && !lua_checkstack(L, copies * lua_gettop(L) + LUA_MINSTACK)) {
    lua_settop(L, 2);
    lua_pushliteral(L, "it returned more values than a call can hand over: put them into a table");
    status = LUA_ERRRUN;
  }
  if (status != LUA_OK) { /* the task is held meanwhile: finalizers may receive here too */
    push_undecodable(L, task);
    lua_pushboolean(L, 1);
    lua_replace(L, 2);
  }
  take_held(L, lpool, task);
  drop_payload(L, lpool, lpool->taken);
  lpool->weight = lpool->taken->result->length + lpool->taken->early_bytes;
  mch_pool_discard(lpool->pool, lpool->taken);
  lpool->taken = NULL;
  mch_lserve_release_classes(L, lpool);
  return lua_gettop(L);
}
