/* Runs in: parent.
 *
 * Items of a map that are sent as one batch, and their answers. */
#include "lglobals.h"
#include "lhosts.h"
#include "lpool_state.h"

#include <lauxlib.h>
#include <limits.h>
#include <string.h>

#include "bindings/lwatch.h"
#include "bindings/show/loutput.h"
#include "bindings/values/encoding.h"
#include "bindings/values/items.h"
#include "bindings/values/number.h"
#include "bindings/values/steady.h"
#include "runtime/base/buf.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"

/* keep(pool, group, bytes): of results that the caller keeps until they are handed over. */
int mch_core_keep(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_group *group = mch_lpool_group_arg(L, lpool, 2);
  mch_pool_keep(lpool->pool, group, (size_t)luaL_checkinteger(L, 3));
  return 0;
}

/* want(pool, group, wanted): whether the caller waits for anything of the group. */
int mch_core_want(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_group *group = mch_lpool_group_arg(L, lpool, 2);
  mch_pool_want(lpool->pool, group, lua_toboolean(L, 3));
  return 0;
}

/* -- batches ------------------------------------------------------------------------------ */

enum { BATCH_BYTES = 128 * 1024 }; /* a batch that has grown so long is closed */

/* What encode_batch() works with. */
struct batching {
  struct lpool *lpool;
  struct lgroup *lgroup;
  struct mch_encoder encoder;
  int encoding;      /* `encoder` is ready */
  lua_Integer count; /* items that are in the message, which is so long then */
  size_t length;
  int classes; /* stack index of the list of the classes that go with the function, [class] = id */
  int found;   /* likewise, of those that were found in an item */
};

/* User values of a group: its pool, and the classes of its objects. */
enum { GROUP_POOL = 1, GROUP_CLASSES };

enum { MOST_CLASSES = 50 };

/* Items that are not plain are encoded after the function. The baseline come to stand at index 1.
 */
static void begin_items(lua_State *L, struct batching *batching) {
  struct lpool *lpool = batching->lpool;
  if (batching->encoding)
    return;
  mch_lserve_take_baseline(L, lpool);
  if (lpool->hosts != NULL)
    mch_lhosts_renew(L, lpool);
  mch_lrun_set_up_encoder(L, lpool, &batching->encoder);
  batching->encoder.kind = MCH_SEND_ITEM;
  batching->encoder.spans = &lpool->spans; /* what would be in them is too large for a batch */
  batching->encoder.own = batching->classes;
  batching->encoder.found = batching->found;
  batching->encoding = 1;
}

/* Encode the function at index 2 with the classes that go with it, behind which the items come. */
static void encode_function_with_classes(lua_State *L, struct batching *batching) {
  struct lpool *lpool = batching->lpool;
  struct lgroup *lgroup = batching->lgroup;
  int first = lua_gettop(L) + 1, count = (int)lua_rawlen(L, batching->classes), i;
  luaL_checkstack(L, count + 8, NULL);
  lua_pushvalue(L, 2);
  for (i = 1; i <= count; i++)
    lua_rawgeti(L, batching->classes, i);
  lgroup->kind = UNSTEADY;
  if (mch_steady_is(L, 1, first, 1 + count)) {
    mch_lrun_begin_encoding(L, lpool, &batching->encoder);
    batching->encoder.classes_from = 1;
    batching->encoding = 0;
    if (lpool->hosts != NULL)
      mch_lglobals_push_names(L, lpool->hosts);
    if (lpool->hosts != NULL)
      batching->encoder.collect = lua_gettop(L);
    mch_encode(L, &batching->encoder, first, 1 + count);
    if (lpool->hosts != NULL &&
        mch_lglobals_seal(L, lpool, &batching->encoder, batching->encoder.collect)) {
      mch_lrun_clear_message(lpool);
      batching->encoder.own = lua_gettop(L);
      mch_encode(L, &batching->encoder, first, 1 + count);
      mch_lglobals_seal(L, lpool, &batching->encoder, batching->encoder.collect);
    }
    lgroup->named = 0;
    if (lpool->hosts != NULL) {
      lua_pushnil(L);
      lgroup->named = lua_next(L, batching->encoder.collect);
    }
    lpool->holds |= batching->encoder.classes > 0;
    mch_buf_clear(&lgroup->function);
    mch_buf_clear(&lgroup->ids);
    mch_buf_append(&lgroup->function, lpool->graph.data, lpool->graph.length);
    mch_buf_append(&lgroup->ids, lpool->ids.data, lpool->ids.length);
    if (lpool->graph.failed == 0 && lpool->ids.failed == 0 && lgroup->function.failed == 0 &&
        lgroup->ids.failed == 0 &&
        !batching->encoder.assigns) /* each task has globals as they were */
      lgroup->kind = mch_steady_watch(L, &lgroup->steady, 1, first, 1 + count) ? STEADY : UNSTEADY;
  }
  lua_settop(L, first - 1);
}

/* The classes of an item that was encoded go with the function from now on, if that may be shared
 * with them. 1: so it is, and what was encoded so far does not fit any more. */
static int take_classes(lua_State *L, struct batching *batching) {
  lua_Integer known = (lua_Integer)lua_rawlen(L, batching->classes), n = known, i;
  lua_Integer count = (lua_Integer)lua_rawlen(L, batching->found);
  for (i = 1; i <= count; i++) {
    lua_rawgeti(L, batching->found, i);
    if (n < MOST_CLASSES && batching->lgroup->shares) {
      lua_pushvalue(L, -1);
      lua_rawseti(L, batching->classes, ++n);
      lua_pushvalue(L, -1);
      lua_pushboolean(L, 1);
      lua_rawset(L, batching->classes);
    }
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_rawseti(L, batching->found, i);
  }
  if (n == known)
    return 0;
  encode_function_with_classes(L, batching);
  if (batching->lgroup->kind == STEADY)
    return 1;
  batching->lgroup->shares = 0; /* not even with these: then as it was */
  for (; n > known; n--) {
    lua_rawgeti(L, batching->classes, n);
    lua_pushnil(L);
    lua_rawset(L, batching->classes);
    lua_pushnil(L);
    lua_rawseti(L, batching->classes, n);
  }
  encode_function_with_classes(L, batching);
  return 1;
}

/* Append the item on top: u32 length and its graph; pops it. A packed one has several values. 0: it
 * is so large that it is to travel alone. */
static int encode_item(lua_State *L, struct batching *batching, int is_packed) {
  struct mch_buf *graph = &batching->lpool->graph;
  size_t at = graph->length;
  int item = lua_gettop(L), count = 1, is_large, i;
  if (is_packed) {
    lua_getfield(L, item, "n");
    count = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    luaL_checkstack(L, count + 1, "too many values");
    for (i = 1; i <= count; i++)
      lua_rawgeti(L, item, i);
  }
  if (count == 1 && mch_items_put_sized(graph, L, -1)) {
    lua_settop(L, item - 1);
    return 1;
  }
  begin_items(L, batching);
  mch_buf_u32(graph, 0);
  is_large = mch_encode(L, &batching->encoder, lua_gettop(L) - count + 1, count);
  batching->lpool->holds |= batching->encoder.classes > 0;
  lua_settop(L, item - 1);
  if (graph->failed != 0)
    luaL_error(L, "not enough memory to send the task");
  if (is_large || graph->length - at > CARGO_FROM) {
    graph->length = at;
    return 0;
  }
  mch_store_u32(graph->data + at, (uint32_t)(graph->length - at - 4));
  return 1;
}

/* The function at index 2 goes with many items if no call can change it. All of them get it as it
 * is now; so it is looked at and encoded once. */
static void encode_function(lua_State *L, struct batching *batching) {
  mch_lserve_take_baseline(L, batching->lpool);
  lua_rawgeti(L, LUA_REGISTRYINDEX, batching->lpool->task.baseline);
  lua_replace(L, 1);
  batching->lgroup->shares = 1;
  if (batching->lpool->hosts != NULL)
    mch_lhosts_renew(L, batching->lpool);
  encode_function_with_classes(L, batching);
}

/* The message begins with the function. */
static void begin_batch(struct batching *batching) {
  struct lpool *lpool = batching->lpool;
  mch_lrun_clear_message(lpool);
  mch_buf_append(&lpool->graph, batching->lgroup->function.data, batching->lgroup->function.length);
  mch_buf_append(&lpool->ids, batching->lgroup->ids.data, batching->lgroup->ids.length);
}

/* Push the list of the group's classes, and an empty one. */
static void push_classes(lua_State *L, struct batching *batching) {
  if (lua_getiuservalue(L, 7, GROUP_CLASSES) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 7, GROUP_CLASSES);
  }
  batching->classes = lua_gettop(L);
  lua_newtable(L);
  batching->found = lua_gettop(L);
}

/* encode_batch(batching, function, list, from, count, packed, group): number of items that are in
 * lpool->graph now, behind the function; 0 if it has to be sent anew for each. */
static int encode_batch(lua_State *L) {
  struct batching *batching = lua_touserdata(L, 1);
  struct lpool *lpool = batching->lpool;
  lua_Integer from = lua_tointeger(L, 4), most = lua_tointeger(L, 5), count = 0;
  int is_packed = lua_toboolean(L, 6), is_raw = !lua_getmetatable(L, 3);
  lua_settop(L, 7);
  push_classes(L, batching);
  if (batching->lgroup->kind == UNSEEN || batching->lgroup->named ||
      !mch_steady_is_same(L, &batching->lgroup->steady))
    encode_function(L, batching); /* an iterator may change what the next items are to find */
  if (batching->lgroup->kind == UNSTEADY)
    return 0;
  begin_batch(batching);
  while (count < most && lpool->graph.length < BATCH_BYTES) {
    if (is_raw && !is_packed)
      count += (lua_Integer)mch_items_put_integers(&lpool->graph, BATCH_BYTES, L, 3, from + count,
                                                   (size_t)(most - count));
    if (count == most || lpool->graph.length >= BATCH_BYTES)
      break;
    batching->count = count;
    batching->length = lpool->graph.length;
    lua_geti(L, 3, from + count);
    if (!encode_item(L, batching, is_packed))
      break;
    if (batching->encoding && batching->encoder.classes > 0 && take_classes(L, batching)) {
      if (batching->lgroup->kind == UNSTEADY)
        return 0;
      begin_batch(batching);
      count = 0;
      continue;
    }
    count++;
  }
  lua_pushinteger(L, count);
  return 1;
}

/* Call encode_batch() with the function and what is behind it, from index 4 on, and the group at 2:
 * how many items are
 * in the message. -1: the first one cannot be sent, for the reason on top of the stack; one that is
 * not the first ends the batch, and is tried again as the first of the next. */
static lua_Integer encode_items(lua_State *L, struct batching *batching) {
  struct lpool *lpool = batching->lpool;
  int status;
  lua_pushcfunction(L, encode_batch);
  lua_pushlightuserdata(L, batching);
  lua_rotate(L, 4, 2);
  lua_pushvalue(L, 2);
  lpool->encoding = 1;
  status = lua_pcall(L, 7, 1, 0);
  lpool->encoding = 0;
  if (status == LUA_OK)
    return lua_tointeger(L, -1);
  if (batching->count == 0)
    return -1;
  lpool->graph.length = batching->length;
  lpool->graph.failed = 0;
  return batching->count;
}

/* Queue the items that were encoded; pushes the run ID of the first. */
static void queue_items(lua_State *L, struct batching *batching, struct mch_group *group,
                        int32_t priority, uint32_t count, uint64_t index) {
  struct lpool *lpool = batching->lpool;
  struct mch_task *task;
  struct mch_error error;
  uint64_t runid;
  mch_lrun_flush_before_fork(lpool);
  task = mch_batch_new((const uint32_t *)(const void *)lpool->ids.data,
                       (uint32_t)(lpool->ids.length / sizeof(uint32_t)), lpool->graph.data,
                       lpool->graph.length, batching->lgroup->function.length, count, index);
  if (lpool->graph.capacity > CARGO_FROM)
    mch_buf_free(&lpool->graph);
  if (task == NULL)
    luaL_error(L, "not enough memory for another task");
  task->priority = priority;
  if (mch_pool_run(lpool->pool, task, group, &runid, &error) != 0) {
    mch_task_free(task);
    mch_lpool_raise_error(L, &error);
  }
  lpool->started = 1;
  lua_pushinteger(L, (lua_Integer)runid);
}

/* run_batch(pool, group, priority, function, list, from, count, packed, index): queue list[from]
 * and so on, at most `count` of them, as tasks of one function that travel together: how many, the
 * run ID of the first and the bytes of the message. Nothing: the function may not be shared by many
 * calls; run them one by one. False and why: the first one cannot be sent. */
int mch_core_run_batch(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_group *group = mch_lpool_group_arg(L, lpool, 2);
  struct batching batching = {.lpool = lpool, .lgroup = luaL_checkudata(L, 2, GROUP)};
  lua_Integer priority = mch_lrun_within(luaL_checkinteger(L, 3), INT32_MIN, INT32_MAX), count;
  lua_Integer index = luaL_checkinteger(L, 9);
  size_t bytes;
  if (!lpool->batches || lpool->encoding || batching.lgroup->kind == UNSTEADY)
    return 0;
  lua_settop(L, 8);
  count = encode_items(L, &batching);
  if (count == 0)
    return 0;
  if (count < 0) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  if (lpool->graph.failed != 0 || lpool->ids.failed != 0)
    return luaL_error(L, "not enough memory to send the task");
  bytes = lpool->graph.length - batching.lgroup->function.length;
  lua_pushinteger(L, count);
  queue_items(L, &batching, group, (int32_t)priority, (uint32_t)count, (uint64_t)index);
  lua_pushinteger(L, (lua_Integer)bytes);
  return 3;
}

/* Keep the answer of an item: a single value in the table at 1; where there are several, or a nil,
 * all of them, packed, in that at 2 if there is one. */
static void store_answer(lua_State *L, const struct lpool *lpool, const unsigned char *graph,
                         size_t length, lua_Integer index) {
  int top = lua_gettop(L);
  int count = mch_ltake_decode_graph(L, lpool, graph, length, MCH_SEND_RESULT, 0);
  if (lua_isnil(L, 2) || (count == 1 && !lua_isnil(L, top + 1))) {
    lua_settop(L, top + 1);
    lua_rawseti(L, 1, index);
  } else {
    mch_ltake_pack_values(L, top + 1);
    lua_rawseti(L, 2, index);
  }
  lua_settop(L, top);
}

/* What hand_over_batch() counts. */
struct weighing {
  struct lpool *lpool;
  uint64_t heavy, largest; /* bytes of all results that are worth counting; of the largest result */
};

enum { HEAVY = 1024 }; /* bytes */

/* An answer of this length came for the item at `index`: its bytes into the table at 4 if they are
 * worth counting; the item is not needed any more, and leaves the table at 5. Both may be nil. */
static void weigh(lua_State *L, struct weighing *weighing, size_t length, lua_Integer index) {
  if (length > weighing->largest)
    weighing->largest = length;
  if (length >= HEAVY && lua_istable(L, 4)) {
    lua_pushinteger(L, (lua_Integer)length);
    lua_rawseti(L, 4, index);
    weighing->heavy += length;
  }
  if (lua_istable(L, 5)) {
    lua_pushnil(L);
    lua_rawseti(L, 5, index);
  }
}

/* store_answers(values, packed values or nil, weighing, weights or nil, items or nil): those of
 * lpool->answers. An answer is done with before it is stored, so that after an error the next one
 * follows. */
static int store_answers(lua_State *L) {
  struct weighing *weighing = lua_touserdata(L, 3);
  struct mch_answers *answers = &weighing->lpool->answers;
  struct mch_buf *graphs = &answers->graphs;
  int packs = !lua_isnil(L, 2);
  luaL_checkstack(L, 8, NULL);
  while (mch_buf_unread(graphs) > 0) {
    const unsigned char *at = graphs->data + graphs->read;
    size_t length = *at++;
    lua_Integer index = (lua_Integer)answers->index++;
    answers->runid++;
    answers->count--;
    if (length == MCH_ANSWER_LONG) {
      length = mch_load_u32(at);
      at += 4;
    }
    graphs->read = (size_t)(at - graphs->data) + length;
    if (length == MCH_ANSWER_APART)
      continue;
    if (!mch_items_get(L, at, length))
      store_answer(L, weighing->lpool, at, length, index);
    else if (!packs || !lua_isnil(L, -1))
      lua_rawseti(L, 1, index);
    else {
      mch_ltake_pack_values(L, 6);
      lua_rawseti(L, 2, index);
    }
    weigh(L, weighing, length, index);
  }
  return 0;
}

/* Put the raw failure of an item into the list at `to`; pops the reason. */
static void add_problem(lua_State *L, int to, uint64_t runid, uint64_t index) {
  lua_createtable(L, 0, 4);
  lua_insert(L, -2);
  lua_setfield(L, -2, "reason");
  lua_pushliteral(L, "error");
  lua_setfield(L, -2, "kind");
  mch_lpool_set_integer(L, "runid", (lua_Integer)runid);
  mch_lpool_set_integer(L, "index", (lua_Integer)index);
  lua_rawseti(L, to, (lua_Integer)lua_rawlen(L, to) + 1);
}

/* What the items of the taken answers wrote and showed is told before their values are handed over.
 * A sink may map on this pool meanwhile, and close it. */
static void tell_sinks_of_batch(lua_State *L, struct lpool *lpool) {
  struct mch_answers answers = lpool->answers;
  if (!mch_output_wants_owner(lpool->output, 0))
    return;
  memset(&lpool->answers, 0, sizeof lpool->answers);
  lpool->handing++;
  mch_loutput_tell(L, lpool->output); /* raises nothing: these answers are held by nobody else */
  lpool->handing--;
  mch_buf_free(&lpool->answers.graphs);
  lpool->answers = answers;
  if (lpool->pool != NULL)
    return;
  mch_buf_free(&lpool->answers.graphs);
  mch_lpool_raise_closed(L);
}

/* hand_over(values, packed values or nil, problems, items or nil, weights or nil, weighing): all of
 * lpool->answers. */
static int hand_over_batch(lua_State *L) {
  struct weighing *weighing = lua_touserdata(L, 6);
  struct lpool *lpool = weighing->lpool;
  struct mch_answers *answers = &lpool->answers;
  lpool->in_bulk = 1;
  for (;;) {
    lua_pushcfunction(L, store_answers);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 6);
    lua_pushvalue(L, 5);
    lua_pushvalue(L, 4);
    if (mch_lwatch_pcall(L, 5, 0, 0) == LUA_OK)
      break;
    add_problem(L, 3, answers->runid - 1, answers->index - 1);
  }
  for (; answers->count > 0; answers->count--) {
    lua_pushliteral(L, "not enough memory for the task's result");
    add_problem(L, 3, answers->runid++, answers->index++);
  }
  return 0;
}

/* take_batch(pool, group, values, packed values or nil, problems, items or nil, weights or nil): if
 * answers of a batch are next, keep them by the caller's numbers, and return how many items they
 * were, without those that left the batch; the numbers of the first and the last; the bytes of the
 * large ones, which stand in `weights`, of the largest, and of all. Their items leave `items`. What
 * cannot be had is put into the list of problems, as raw failures. Else nil. */
int mch_core_take_batch(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_answers *answers = &lpool->answers;
  struct mch_group *group = mch_lpool_group_arg(L, lpool, 2);
  struct weighing weighing = {lpool, 0, 0};
  lua_Integer count, first, last, bytes;
  mch_ltake_check_not_in_bulk(L, lpool);
  mch_lserve_deliver_logs(L, lpool);
  mch_levents_prepare_take(L, lpool);
  mch_levents_tell(L, lpool);
  if (lpool->pool == NULL)
    return mch_lpool_raise_closed(L);
  mch_buf_free(&answers->graphs);
  if (!mch_pool_take_answers(lpool->pool, group, answers))
    return 0;
  if (mch_output_backlog(lpool->output) > 0)
    mch_output_flush(lpool->output);
  tell_sinks_of_batch(L, lpool);
  count = answers->taken;
  first = (lua_Integer)answers->index;
  last = first + answers->count - 1;
  bytes = (lua_Integer)answers->graphs.length;
  lua_settop(L, 7);
  lua_pushcfunction(L, hand_over_batch);
  lua_insert(L, 3);
  lua_pushlightuserdata(L, &weighing);
  mch_ltake_call_in_bulk(L, lpool, 6, 0);
  mch_buf_free(&answers->graphs);
  mch_lserve_release_classes(L, lpool);
  lua_pushinteger(L, count);
  lua_pushinteger(L, first);
  lua_pushinteger(L, last);
  lua_pushinteger(L, (lua_Integer)weighing.heavy);
  lua_pushinteger(L, (lua_Integer)weighing.largest);
  lua_pushinteger(L, bytes);
  return 6;
}

/* glance(pool, group, begin): called before an iterator is asked for the first of several items,
 * and after each of them. Whether something of the group has ended; whether what was had from the
 * iterator is to be queued at once, since it may be slow, or workers have nothing to do; and the
 * seconds that a slow step took. */
int mch_core_glance(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_group *group = mch_lpool_group_arg(L, lpool, 2);
  struct lgroup *lgroup = lua_touserdata(L, 2);
  int begins = lua_toboolean(L, 3), there, hungry;
  uint64_t now = mch_now(), step = begins ? 0 : now - lgroup->glanced;
  if (step >= SLOW)
    lgroup->slow = SLOW_STEPS;
  else if (!begins && lgroup->slow > 0)
    lgroup->slow--;
  if (now - lpool->pumped >= LATE) {
    mch_lserve_pump(L, lpool, 0);
    if (lpool->pool == NULL)
      return mch_lpool_raise_closed(L);
    group = mch_lpool_group_arg(L, lpool, 2);
    now = mch_now();
  }
  lgroup->glanced = now;
  mch_pool_look(lpool->pool, group, lpool->nworkers, &there, &hungry);
  lua_pushboolean(L, there);
  lua_pushboolean(L, lgroup->slow > 0 || hungry);
  if (step < SLOW)
    return 2;
  lua_pushnumber(L, (lua_Number)step / 1e9);
  return 3;
}

/* list(n): a table with room for so many items. */
int mch_core_list(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  lua_createtable(L, count < INT_MAX ? (int)count : 0, 1);
  return 1;
}

/* pace(pool, group): mean run time of the items of batches in seconds; nil: not known yet. */
int mch_core_pace(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  uint64_t pace = mch_pool_pace(lpool->pool, mch_lpool_group_arg(L, lpool, 2));
  if (pace == 0)
    return 0;
  lua_pushnumber(L, (lua_Number)pace / 1e9);
  return 1;
}
