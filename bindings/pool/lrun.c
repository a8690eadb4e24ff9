/* Runs in: parent.
 *
 * From a call of `run` into the pool: encodes a task and submits it. */
#include "lpool_state.h"
#include "lglobals.h"
#include "lhosts.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/notices.h"
#include "bindings/values/classes.h"
#include "runtime/base/buf.h"
#include "runtime/base/error.h"
#include "runtime/base/mix.h"
#include "runtime/base/platform.h"
#include "runtime/engines/task.h"
#include "runtime/show/output.h"
#include "runtime/wire/cargo.h"

/* group(pool, coming, most, halt): so many tasks will be run in it; 0: not known. While results of
 * more than `most` bytes wait no further one starts; 0: no such bound. `halt`: as options.lua has
 * checked it, or nil. And its number in the pool. */
int mch_core_group(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct lgroup *lgroup = lua_newuserdatauv(L, sizeof *lgroup, 2);
  memset(lgroup, 0, sizeof *lgroup);
  lgroup->lpool = lpool;
  lgroup->steady.anchors = LUA_NOREF;
  lgroup->slow = SLOW_STEPS;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, GROUP);
  lgroup->group = mch_pool_group(lpool->pool, (size_t)luaL_optinteger(L, 2, 0),
                                 (size_t)luaL_optinteger(L, 3, 0));
  if (lgroup->group == NULL)
    return luaL_error(L, "not enough memory");
  lgroup->group->calling = 1;
  lgroup->group->halt = mch_lpool_halt_arg(L, 4);
  lua_pushinteger(L, (lua_Integer)lgroup->group->call);
  return 2;
}

/* go_on(pool, group, runid): the failure of this task was handed over. If it has halted the group,
 * tasks of it run again. */
int mch_core_go_on(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  mch_pool_go_on(lpool->pool, mch_lpool_group_arg(L, lpool, 2), (uint64_t)luaL_checkinteger(L, 3));
  return 0;
}

/* Engine "snapshot": nobody will take the group's tasks, so their payloads go now. */
static void drop_payloads(lua_State *L, const struct lpool *lpool, const struct mch_group *group) {
  int payloads = lua_gettop(L) + 1;
  if (lpool->task.payloads == LUA_NOREF)
    return;
  luaL_checkstack(L, 6, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_pushnil(L);
  while (lua_next(L, payloads) != 0) {
    int is_its;
    lua_rawgeti(L, -1, 0);
    is_its = lua_touserdata(L, -1) == group;
    lua_pop(L, 2);
    if (is_its) {
      lua_pushvalue(L, -1);
      lua_pushnil(L);
      lua_rawset(L, payloads);
    }
  }
  lua_pop(L, 1);
}

/* abandon(group): also when it is closed or collected. */
int mch_core_abandon(lua_State *L) {
  struct lgroup *lgroup = luaL_checkudata(L, 1, GROUP);
  struct mch_group *group = lgroup->group;
  lgroup->group = NULL;
  mch_lpool_forget_function(lgroup);
  mch_steady_forget(L, &lgroup->steady);
  if (group != NULL && mch_lpool_is_open(lgroup->lpool))
    drop_payloads(L, lgroup->lpool, group);
  /* A pool that was closed has freed its tasks, and this process may not be its own. */
  if (group != NULL && lgroup->lpool->pool == NULL)
    mch_pool_free_group(group);
  else if (group != NULL && mch_mark_is_ours(&lgroup->lpool->mark))
    mch_pool_abandon(lgroup->lpool->pool, group);
  return 0;
}

/* The same as a step of the library, which ends with telling what it has caused. */
int mch_core_leave(lua_State *L) {
  struct lgroup *lgroup = luaL_checkudata(L, 1, GROUP);
  mch_core_abandon(L);
  if (mch_lpool_is_open(lgroup->lpool))
    mch_levents_tell(L, lgroup->lpool);
  return 0;
}

/* -- running ------------------------------------------------------------------------------ */

static uint32_t intern_code(void *ud, const char *bytes, size_t length, const char **kept) {
  uint32_t id = mch_pool_intern(ud, bytes, length);
  if (id != 0)
    *kept = mch_pool_code(ud, id, &length);
  return id;
}

void mch_lrun_clear_message(struct lpool *lpool) {
  mch_buf_clear(&lpool->graph);
  mch_buf_clear(&lpool->spans);
  mch_buf_clear(&lpool->ids);
}

/* Engine "snapshot": keep the function and its arguments for the worker that will be forked, in a
 * table that has their group at 0; the task's bytes are their number. */
static int keep_payload(lua_State *L, struct lpool *lpool) {
  int count = lua_gettop(L) - 1, i;
  mch_lserve_take_baseline(L, lpool);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  mch_classes_scan(L, lua_gettop(L), 2, count, 0);
  lua_pop(L, 1);
  lpool->holds = 1;
  lua_createtable(L, count, 2);
  lua_pushinteger(L, count);
  lua_setfield(L, -2, "n");
  for (i = 1; i <= count; i++) {
    lua_pushvalue(L, i + 1);
    lua_rawseti(L, -2, i);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_insert(L, -2);
  lua_rawseti(L, -2, (lua_Integer)++lpool->payloads);
  mch_lrun_clear_message(lpool);
  mch_buf_u64(&lpool->graph, lpool->payloads);
  if (lpool->graph.failed != 0)
    luaL_error(L, "not enough memory for another task");
  mch_lrecord_sent(L, lpool, 2, "");
  return 0;
}

/* The last payload belongs to a task of this group. */
static void set_group(lua_State *L, struct lpool *lpool, struct mch_group *group) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_rawgeti(L, -1, (lua_Integer)lpool->payloads);
  lua_pushlightuserdata(L, group);
  lua_rawseti(L, -2, 0);
  mch_lrecord_attach(L, lpool);
  lua_pop(L, 2);
}

static size_t graph_size(const struct lpool *lpool) {
  struct mch_body body = mch_body_of(&lpool->graph, &lpool->spans);
  return mch_body_size(&body);
}

/* A message of this size is worth a warning, once for each function: it often takes along what
 * nobody meant to send. Called with the baseline at index 1, the function at 2 and its arguments
 * behind it. Pushes the sentence, to be logged when the message is done; 0: none. */
static int push_warning(lua_State *L, struct lpool *lpool, int count) {
  luaL_Buffer sentence;
  lua_Integer i, parts;
  int largest;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->warned);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, -2) != LUA_TNIL)
    return 0;
  lua_pushvalue(L, 2);
  lua_pushboolean(L, 1);
  lua_rawset(L, -4);
  mch_explain(L, 1, 2, count);
  lua_getfield(L, -1, "largest");
  lua_pushvalue(L, -2);
  lua_pushinteger(L, 3);
  lua_call(L, 2, 1);
  largest = lua_gettop(L);
  parts = (lua_Integer)lua_rawlen(L, largest);
  luaL_buffinit(L, &sentence);
  lua_pushfstring(L, "%d MiB are sent with a task, mostly", (int)(graph_size(lpool) >> 20));
  luaL_addvalue(&sentence);
  for (i = 1; i <= parts; i++) {
    lua_rawgeti(L, largest, i);
    lua_getfield(L, -1, "path");
    lua_getfield(L, -2, "size");
    lua_pushfstring(L, "%s %s (%d KiB)", i == 1 ? "" : ",", lua_tostring(L, -2),
                    (int)(lua_tointeger(L, -1) >> 10));
    lua_insert(L, -4);
    lua_pop(L, 3);
    luaL_addvalue(&sentence);
  }
  luaL_addstring(&sentence, "; mantichora.explain shows everything");
  luaL_pushresult(&sentence);
  return 1;
}

/* For a message to workers in `graph` and `ids`; the baseline come to stand at index 1. */
void mch_lrun_set_up_encoder(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder) {
  memset(encoder, 0, sizeof *encoder);
  encoder->out = &lpool->graph;
  encoder->code_ids = &lpool->ids;
  encoder->intern_code = intern_code;
  encoder->ud = lpool->pool;
  encoder->memory = &lpool->code_memory;
  encoder->kind = MCH_SEND_TASK;
  encoder->baseline = 1;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  lua_replace(L, 1);
}

void mch_lrun_begin_encoding(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder) {
  mch_lrun_set_up_encoder(L, lpool, encoder);
  mch_lrun_clear_message(lpool);
}

/* Called with the pool, then the function and its arguments. Returns what is to be logged of that,
 * if anything. */
static int encode_task(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  struct mch_encoder encoder;
  unsigned reach = 0;
  int count = lua_gettop(L) - 1;
  if (lpool->task.payloads != LUA_NOREF)
    return keep_payload(L, lpool);
  mch_lserve_release_lent(L, lpool); /* of a message that came to nothing */
  mch_lserve_take_baseline(L, lpool);
  mch_lrun_begin_encoding(L, lpool, &encoder);
  encoder.spans = &lpool->spans;
  if (lpool->told.hooked != 0) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->told.hooked);
    encoder.hooked = lua_gettop(L);
  }
  if (lpool->hosts != NULL) {
    mch_lglobals_push_names(L, lpool->hosts);
    encoder.collect = lua_gettop(L);
    encoder.reach = &reach;
  }
  if (mch_encode(L, &encoder, 2, count))
    lpool->lent = luaL_ref(L, LUA_REGISTRYINDEX);
  lpool->holds |= encoder.classes > 0;
  if (lpool->hosts != NULL && mch_lglobals_seal(L, lpool, &encoder, encoder.collect)) {
    mch_lserve_release_lent(L, lpool);
    mch_lrun_clear_message(lpool);
    encoder.own = lua_gettop(L);
    if (mch_encode(L, &encoder, 2, count))
      lpool->lent = luaL_ref(L, LUA_REGISTRYINDEX);
    mch_lglobals_seal(L, lpool, &encoder, encoder.collect);
  }
  if (reach & MCH_REACH_MODULES)
    mch_lhosts_renew(L, lpool);
  mch_lrecord_sent(L, lpool, 2, encoder.left_out);
  if (lpool->graph.failed != 0 || lpool->ids.failed != 0)
    luaL_error(L, "not enough memory to send the task");
  if (lpool->capture_warn > 0 && graph_size(lpool) > lpool->capture_warn)
    return push_warning(L, lpool, count);
  return 0;
}

/* Whether the value can be called, looked at raw. */
static int is_callable(lua_State *L, int index) {
  int callable;
  if (lua_isfunction(L, index))
    return 1;
  if (!lua_getmetatable(L, index))
    return 0;
  lua_pushliteral(L, "__call");
  callable = lua_rawget(L, -2) != LUA_TNIL;
  lua_pop(L, 2);
  return callable;
}

/* What run_with adds to run. */
struct run_options {
  const char *name; /* on the stack */
  size_t name_length;
  uint64_t timeout, delay, stream;
  unsigned retries, retry_on;
  int keyed; /* `stream` is given */
  int32_t priority;
};

/* The same on every machine. `type` keeps keys of different types apart. */
static uint64_t hash(char type, const unsigned char *bytes, size_t length) {
  uint64_t state = mch_mix((uint64_t)(unsigned char)type << 56 ^ length);
  while (length > 0) {
    uint64_t word = 0;
    size_t count = length < 8 ? length : 8, i;
    for (i = 0; i < count; i++)
      word |= (uint64_t)bytes[i] << 8 * i;
    state = mch_mix(state ^ word);
    bytes += count;
    length -= count;
  }
  return state;
}

/* The random stream that the key at `index`, a string or a number, names. Keys that are equal and
 * of one type name the same. */
static uint64_t stream_of(lua_State *L, int index) {
  unsigned char bytes[8];
  size_t length = sizeof bytes;
  uint64_t word = 0;
  lua_Number number;
  if (lua_type(L, index) == LUA_TSTRING) {
    const char *string = lua_tolstring(L, index, &length);
    return hash('s', (const unsigned char *)string, length);
  }
  number = lua_tonumber(L, index);
  if (lua_isinteger(L, index))
    word = (uint64_t)lua_tointeger(L, index);
  else if (number != number)
    word = UINT64_MAX; /* nan, of whatever bits */
  else if (number != 0) {
    double value = (double)number;
    memcpy(&word, &value, sizeof word);
  }
  mch_store_u64(bytes, word);
  return hash(lua_isinteger(L, index) ? 'i' : 'f', bytes, sizeof bytes);
}

/* What the journal has said of the call counts, too; `told`: or NULL. */
static int add_extra(struct mch_task *task, const struct run_options *options,
                     struct mch_reply *told) {
  struct mch_task_extra *extra;
  task->priority = options->priority;
  if (options->name_length == 0 && options->timeout == 0 && options->retries == 0 &&
      !options->keyed && told == NULL)
    return 0;
  extra = calloc(1, sizeof *extra + options->name_length);
  if (extra == NULL)
    return -1;
  extra->timeout = options->timeout;
  extra->delay = options->delay;
  extra->keyed = options->keyed;
  extra->stream = options->stream;
  extra->retries = options->retries;
  extra->retry_on = options->retry_on;
  extra->name_length = options->name_length;
  if (options->name_length > 0)
    memcpy(extra->name, options->name, options->name_length);
  task->extra = extra;
  if (told == NULL)
    return 0;
  if (told->keyed) {
    extra->keyed = 1;
    extra->stream = told->stream;
  }
  extra->record = told->record;
  told->record = NULL;
  return 0;
}

/* A task of what was encoded; NULL: no memory. What goes with an anchor is cargo, however small. */
static struct mch_task *new_task(struct lpool *lpool) {
  int large = lpool->graph.length >= CARGO_FROM || lpool->spans.length > 0 ||
              (lpool->is_inline && lpool->lent != LUA_NOREF);
  struct mch_task *task = mch_task_new((const uint32_t *)(const void *)lpool->ids.data,
                                       (uint32_t)(lpool->ids.length / sizeof(uint32_t)),
                                       lpool->graph.data, large ? 0 : lpool->graph.length);
  struct mch_cargo *cargo;
  if (task == NULL || !large)
    return task;
  cargo = mch_cargo_new(&lpool->graph, &lpool->spans, lpool->lent != LUA_NOREF ? lpool->lent : 0,
                        &lpool->spent);
  if (cargo == NULL) {
    mch_task_free(task);
    return NULL;
  }
  lpool->lent = LUA_NOREF; /* the cargo's now */
  mch_task_carry(task, cargo);
  return task;
}

/* What was printed before the first run forks the workers goes first. */
void mch_lrun_flush_before_fork(struct lpool *lpool) {
  if (!lpool->started || lpool->task.payloads != LUA_NOREF)
    mch_output_flush(lpool->output);
}

/* Engine "snapshot": the payloads that were kept since there were `kept` of them are for no task.
 */
static void forget_payloads(lua_State *L, struct lpool *lpool, uint64_t kept) {
  if (lpool->task.payloads == LUA_NOREF)
    return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  for (; lpool->payloads > kept; lpool->payloads--) {
    lua_pushnil(L);
    lua_rawseti(L, -2, (lua_Integer)lpool->payloads);
  }
  lua_pop(L, 1);
}

/* A task of what encode_task() has made. */
static struct mch_task *make_task(lua_State *L, struct lpool *lpool, struct mch_group *group) {
  struct mch_task *task;
  if (lpool->task.payloads != LUA_NOREF)
    set_group(L, lpool, group);
  mch_lrecord_anchor(L, lpool);
  task = new_task(lpool);
  if (task == NULL)
    luaL_error(L, "not enough memory for another task");
  if (lpool->graph.capacity > CARGO_FROM)
    mch_buf_free(&lpool->graph);
  return task;
}

static void check_not_encoding(lua_State *L, const struct lpool *lpool) {
  if (lpool->encoding)
    luaL_error(
        L, "run was called from a __mantichora hook or a finalizer while another run is sending");
}

/* Encode the function at `first` and the arguments behind it. What lua_pcall() returns, with the
 * error on top of the stack. */
static int encode_call(lua_State *L, struct lpool *lpool, int first) {
  int status;
  check_not_encoding(L, lpool);
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, encode_task);
  lua_pushlightuserdata(L, lpool);
  lua_rotate(L, first, 2);
  lpool->encoding = 1;
  status = lua_pcall(L, lua_gettop(L) - first, 1, 0);
  lpool->encoding = 0;
  return status;
}

/* Give the task its options, if there are any (else it is freed), and what the journal has said. */
static void set_extra(lua_State *L, struct lpool *lpool, struct mch_task *task,
                      const struct run_options *options) {
  static const struct run_options none;
  struct mch_reply *told = lpool->told.keyed || lpool->told.record != NULL ? &lpool->told : NULL;
  if ((options == NULL && told == NULL) ||
      add_extra(task, options != NULL ? options : &none, told) == 0)
    return;
  mch_task_free(task);
  luaL_error(L, "not enough memory for another task");
}

/* Have a task end at once with what the journal has found; pushes the run ID. */
static void queue_found(lua_State *L, struct lpool *lpool, struct mch_group *group,
                        const struct run_options *options) {
  struct mch_task *task = mch_lrecord_task(lpool);
  struct mch_error error;
  uint64_t runid;
  if (task == NULL)
    luaL_error(L, "not enough memory for another task");
  set_extra(L, lpool, task, options);
  if (mch_pool_find(lpool->pool, task, group, &lpool->told.found, &runid, &error) != 0) {
    mch_task_free(task);
    mch_lpool_raise_error(L, &error);
  }
  mch_lrecord_settle(L, lpool);
  lua_pushinteger(L, (lua_Integer)runid);
}

/* Queue what was encoded; pushes the run ID. Returns the bytes of its message. */
static size_t queue_encoded(lua_State *L, struct lpool *lpool, struct mch_group *group,
                            const struct run_options *options) {
  struct mch_task *task;
  struct mch_error error;
  uint64_t runid, kept = lpool->payloads - (lpool->task.payloads != LUA_NOREF);
  size_t size = graph_size(lpool);
  mch_lrun_flush_before_fork(lpool);
  task = make_task(L, lpool, group);
  set_extra(L, lpool, task, options);
  if (mch_pool_run(lpool->pool, task, group, &runid, &error) != 0) {
    mch_task_free(task);
    forget_payloads(L, lpool, kept);
    mch_lpool_raise_error(L, &error);
  }
  lpool->started = 1;
  if (lua_isstring(L, -1))
    mch_notices_warn(L, lua_tostring(L, -1));
  if (lpool->hosts != NULL)
    mch_lhosts_tell_left(L, lpool);
  lua_pushinteger(L, (lua_Integer)runid);
  return size;
}

/* Encode and queue the function at `first` with the arguments behind it; pushes the run ID. */
static int run_task(lua_State *L, struct lpool *lpool, int first, struct mch_group *group,
                    const struct run_options *options) {
  if (lpool->told.found.result != NULL) {
    if (lpool->listening && lpool->task.payloads == LUA_NOREF)
      encode_call(L, lpool, first); /* to know where it is from; that it could go is not asked */
    queue_found(L, lpool, group, options);
    return 1;
  }
  if (encode_call(L, lpool, first) != LUA_OK)
    return mch_lpool_raise_at_caller(L);
  queue_encoded(L, lpool, group, options);
  return 1;
}

/* Ask the journal, if there is one, whether it has the call of the function at `first`. */
static void ask_journal(lua_State *L, struct lpool *lpool, int options, int first) {
  if (lpool->journal == NULL)
    return;
  check_not_encoding(L, lpool);
  if (mch_lrecord_ask(L, lpool, options, first) != LUA_OK)
    mch_lpool_raise_at_caller(L);
}

/* What stands at `index` here is that argument of the method. */
static void check_callable(lua_State *L, int index, int argument) {
  if (!is_callable(L, index))
    mch_lpool_raise_type(L, argument, index, "function or callable table");
}

/* run(pool, function, ...): the run ID. */
int mch_core_run(lua_State *L) {
  struct lpool *lpool;
  mch_notices_tell(L);
  lpool = mch_lpool_check_pool(L);
  check_callable(L, 2, 2);
  if (lpool->max_queued > 0)
    mch_lwait_for_room(L, lpool);
  ask_journal(L, lpool, 0, 2);
  run_task(L, lpool, 2, &lpool->group, NULL);
  mch_levents_tell(L, lpool);
  return 1;
}

/* What is less than a nanosecond is one, for 0 is no limit; what is long is 30 years. */
uint64_t mch_lrun_nanoseconds(lua_Number seconds) {
  if (!(seconds > 0))
    return 0;
  if (seconds > 1e9)
    return (uint64_t)1000000000 * 1000000000;
  return seconds < 1e-9 ? 1 : (uint64_t)(seconds * 1e9);
}

/* The nearest number to this one from `least` to `most`. */
lua_Integer mch_lrun_within(lua_Integer number, lua_Integer least, lua_Integer most) {
  if (number < least)
    return least;
  return number > most ? most : number;
}

/* A field of the table at `index`, as nanoseconds; 0: none. */
static uint64_t time_option(lua_State *L, int index, const char *name) {
  uint64_t time;
  lua_getfield(L, index, name);
  time = mch_lrun_nanoseconds(lua_tonumber(L, -1));
  lua_pop(L, 1);
  return time;
}

static lua_Integer integer_option(lua_State *L, int index, const char *name, lua_Integer most) {
  lua_Integer number;
  lua_getfield(L, index, name);
  number = mch_lrun_within(lua_tointeger(L, -1), -most - 1, most);
  lua_pop(L, 1);
  return number;
}

/* Options that pool.lua has checked, from the table at `index`, in whose place the name comes. */
static struct run_options options_arg(lua_State *L, int index) {
  struct run_options options;
  memset(&options, 0, sizeof options);
  options.timeout = time_option(L, index, "timeout");
  options.delay = time_option(L, index, "retry_delay");
  options.retries = (unsigned)integer_option(L, index, "retries", UINT16_MAX);
  options.retry_on = (unsigned)integer_option(L, index, "retry_on", UINT16_MAX);
  options.priority = (int32_t)integer_option(L, index, "priority", INT32_MAX);
  if (lua_getfield(L, index, "retry_on") == LUA_TNIL)
    options.retry_on = 1u << MCH_KIND_KILLED | 1u << MCH_KIND_EXITED;
  options.keyed = lua_getfield(L, index, "key") != LUA_TNIL;
  if (options.keyed)
    options.stream = stream_of(L, -1);
  lua_pop(L, 2);
  lua_getfield(L, index, "name");
  options.name = luaL_optlstring(L, -1, "", &options.name_length);
  lua_replace(L, index);
  return options;
}

/* run_with(pool, options, function, ...): the run ID; nil and "full" if it is not to wait. */
int mch_core_run_with(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct run_options options;
  int waits;
  check_callable(L, 3, 3);
  waits = lua_getfield(L, 2, "wait") == LUA_TNIL || lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (lpool->max_queued > 0 && !waits &&
      mch_pool_is_full(lpool->pool, &lpool->group, lpool->max_queued)) {
    mch_core_pump(L); /* it may not have been looked for long */
    if (lpool->pool == NULL)
      return mch_lpool_raise_closed(L);
    if (mch_pool_is_full(lpool->pool, &lpool->group, lpool->max_queued)) {
      lua_pushnil(L);
      lua_pushliteral(L, "full");
      return 2;
    }
  } else if (lpool->max_queued > 0 && waits)
    mch_lwait_for_room(L, lpool);
  ask_journal(L, lpool, 2, 3);
  options = options_arg(L, 2);
  run_task(L, lpool, 3, &lpool->group, &options);
  mch_levents_tell(L, lpool);
  return 1;
}

/* Tasks that were made and not accepted yet, in a userdata: with what a journal has of them, if it
 * has that. */
struct made {
  struct mch_task *task;
  struct mch_reply told;
};
struct tasks {
  size_t count;
  struct made made[];
};

int mch_lrun_tasks_gc(lua_State *L) {
  struct tasks *tasks = luaL_checkudata(L, 1, TASKS);
  size_t i;
  for (i = 0; i < tasks->count; i++) {
    mch_task_free(tasks->made[i].task);
    mch_result_free(tasks->made[i].told.found.result);
    free(tasks->made[i].told.memory);
  }
  tasks->count = 0;
  return 0;
}

/* Push room for so many. */
static struct tasks *new_tasks(lua_State *L, size_t count) {
  struct tasks *tasks = lua_newuserdatauv(L, sizeof *tasks + count * sizeof(struct made), 0);
  tasks->count = 0;
  luaL_setmetatable(L, TASKS);
  return tasks;
}

/* Called with the pool and a function. As encode_task(). */
static int ask_and_encode(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  if (mch_lrecord_ask(L, lpool, 0, 2) != LUA_OK)
    return lua_error(L);
  if (lpool->told.found.result != NULL && !lpool->listening)
    return 0;
  return encode_task(L);
}

/* Make a task of what was encoded, or found. */
static void make_one(lua_State *L, struct lpool *lpool, struct made *made) {
  memset(made, 0, sizeof *made);
  if (lpool->told.found.result == NULL)
    made->task = make_task(L, lpool, &lpool->group);
  else if ((made->task = mch_lrecord_task(lpool)) == NULL)
    luaL_error(L, "not enough memory for another task");
  set_extra(L, lpool, made->task, NULL);
  made->told = lpool->told;
  memset(&lpool->told, 0, sizeof lpool->told);
}

/* encode_many(pool, list, tasks, warnings): make a task of each function of the list. */
static int encode_many(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  struct tasks *tasks = lua_touserdata(L, 3);
  lua_Integer count = (lua_Integer)lua_rawlen(L, 2), i;
  for (i = 1; i <= count; i++) {
    lua_pushcfunction(L, ask_and_encode);
    lua_pushvalue(L, 1);
    lua_rawgeti(L, 2, i);
    if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
      if (lua_type(L, -1) == LUA_TSTRING)
        lua_pushfstring(L, "function %I: %s", (LUAI_UACINT)i, lua_tostring(L, -1));
      return lua_error(L);
    }
    if (lua_isstring(L, -1))
      lua_rawseti(L, 4, (lua_Integer)lua_rawlen(L, 4) + 1);
    lua_settop(L, 4);
    make_one(L, lpool, &tasks->made[tasks->count]);
    tasks->count++;
  }
  return 0;
}

/* See to it that those which have to run are accepted. */
static int reserve(lua_State *L, struct lpool *lpool, const struct tasks *tasks,
                   struct mch_error *error) {
  struct mch_task **list = lua_newuserdatauv(L, (tasks->count + 1) * sizeof *list, 0);
  size_t count = 0, i;
  int code = 0;
  for (i = 0; i < tasks->count; i++)
    if (tasks->made[i].told.found.result == NULL)
      list[count++] = tasks->made[i].task;
  if (count > 0)
    code = mch_pool_reserve(lpool->pool, list, count, error);
  lua_pop(L, 1);
  return code;
}

static int accept(struct lpool *lpool, struct made *made, uint64_t *runid,
                  struct mch_error *error) {
  struct mch_found *found = &made->told.found;
  int code;
  if (found->result != NULL)
    return mch_pool_find(lpool->pool, made->task, &lpool->group, found, runid, error);
  code = mch_pool_run(lpool->pool, made->task, &lpool->group, runid, error);
  lpool->started |= code == 0;
  return code;
}

/* run_many(pool, list of functions): queue all of them, or none; the list of their run IDs. */
int mch_core_run_many(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct tasks *tasks;
  struct mch_error error;
  uint64_t kept = lpool->payloads, runid;
  size_t i;
  luaL_checktype(L, 2, LUA_TTABLE);
  if (lpool->max_queued > 0 && lua_rawlen(L, 2) > 0)
    mch_lwait_for_room(L, lpool);
  check_not_encoding(L, lpool);
  lua_settop(L, 2);
  lua_createtable(L, (int)lua_rawlen(L, 2), 0);
  tasks = new_tasks(L, (size_t)lua_rawlen(L, 2));
  lua_newtable(L);
  lua_pushcfunction(L, encode_many);
  lua_pushlightuserdata(L, lpool);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 4);
  lua_pushvalue(L, 5);
  lpool->encoding = 1;
  i = lua_pcall(L, 4, 0, 0) == LUA_OK;
  lpool->encoding = 0;
  if (!i) {
    forget_payloads(L, lpool, kept);
    return mch_lpool_raise_at_caller(L);
  }
  mch_lrun_flush_before_fork(lpool);
  if (reserve(L, lpool, tasks, &error) != 0) {
    forget_payloads(L, lpool, kept);
    return mch_lpool_raise_error(L, &error);
  }
  for (i = 0; i < tasks->count; i++) {
    struct made *made = &tasks->made[i];
    if (accept(lpool, made, &runid, &error) != 0)
      return mch_lpool_raise_error(L, &error); /* it has all that it needs */
    made->task = NULL;
    lua_pushinteger(L, (lua_Integer)runid);
    lua_rawseti(L, 3, (lua_Integer)i + 1);
  }
  for (i = 1; i <= lua_rawlen(L, 5); i++) {
    lua_rawgeti(L, 5, (lua_Integer)i);
    mch_notices_warn(L, lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  lua_settop(L, 3);
  mch_levents_tell(L, lpool);
  return 1;
}

/* run_in(pool, group, options, function, ...): the run ID and the bytes of the message; or false
 * and why it cannot be sent. */
int mch_core_run_in(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_group *group = mch_lpool_group_arg(L, lpool, 2);
  struct run_options options;
  check_not_encoding(L, lpool);
  if (mch_lrecord_ask(L, lpool, 3, 4) != LUA_OK) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  options = options_arg(L, 3);
  if (lpool->told.found.result != NULL) {
    if (lpool->listening && lpool->task.payloads == LUA_NOREF)
      encode_call(L, lpool, 4);
    queue_found(L, lpool, group, &options);
    lua_pushinteger(L, 0);
    return 2;
  }
  if (encode_call(L, lpool, 4) != LUA_OK) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushinteger(L, (lua_Integer)queue_encoded(L, lpool, group, &options));
  return 2;
}

/* is_callable(value) */
int mch_core_is_callable(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, is_callable(L, 1));
  return 1;
}
