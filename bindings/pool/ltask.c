/* Runs in: both. Purpose: ltask.h. */
#include "ltask.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bindings/notices.h"
#include "bindings/pool/lglobals.h"
#include "bindings/values/classes.h"
#include "bindings/pool/coverage.h"
#include "bindings/pool/limit.h"
#include "bindings/pool/streams.h"
#include "bindings/values/graph.h"
#include "bindings/values/items.h"
#include "bindings/values/modules.h"
#include "runtime/show/output.h"
#include "runtime/base/mix.h"
#include "runtime/base/platform.h"
#include "bindings/values/shown.h"
#include "bindings/values/text.h"
#include "runtime/engines/worker.h"

/* Keys of the registry are the addresses of these. */
static const char randomseed_key = 0, random_key = 0, stream_key = 0, exit_key = 0;

/* One run, on its way through the protected call. */
struct call {
  struct mch_ltask *task;
  struct mch_run *run;
  struct mch_buf *answer;
  enum mch_kind kind;
  int called; /* by the codec: code that is not the task's function */
};

/* -- errors ------------------------------------------------------------------------------- */

static int to_string(lua_State *L) {
  mch_text_push(L, 1);
  return 1;
}

/* Push the text of the value at `index`, whatever its __tostring does: 0, if that failed. */
static int push_text(lua_State *L, int index) {
  index = lua_absindex(L, index);
  lua_pushcfunction(L, to_string);
  lua_pushvalue(L, index);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK)
    return 1;
  lua_pop(L, 1);
  lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, index));
  return 0;
}

/* The message handler: from an error value to a table { message, traceback, shown, value }. A table
 * whose message would be an address is shown, too; else `shown` is false. */
static int describe_error(lua_State *L) {
  int says_itself;
  lua_settop(L, 1);
  lua_createtable(L, 4, 0);
  says_itself = push_text(L, 1) && !mch_shown_is_mute(L, 1);
  lua_rawseti(L, 2, 1);
  luaL_traceback(L, L, NULL, 1);
  lua_rawseti(L, 2, 2);
  if (lua_istable(L, 1) && !says_itself)
    mch_shown_push(L, 1);
  else
    lua_pushboolean(L, 0);
  lua_rawseti(L, 2, 3);
  lua_pushvalue(L, 1);
  lua_rawseti(L, 2, 4);
  return 1;
}

/* Forget what was encoded. */
static void clear_answer(lua_State *L, struct call *call) {
  mch_buf_clear(call->answer);
  if (call->task->watching)
    mch_buf_clear(&call->task->context->worker->spans);
  luaL_unref(L, LUA_REGISTRYINDEX, call->task->lent);
  call->task->lent = LUA_NOREF;
}

/* Encode n values from `first` on as the answer; in a worker its long strings stay where they are
 * until it has been sent. */
static void encode_answer(lua_State *L, struct call *call, struct mch_encoder *encoder, int first,
                          int n) {
  clear_answer(L, call);
  encoder->out = call->answer;
  if (call->task->watching)
    encoder->spans = &call->task->context->worker->spans;
  if (mch_encode(L, encoder, first, n))
    call->task->lent = luaL_ref(L, LUA_REGISTRYINDEX);
  call->called |= encoder->called;
}

/* Append the graph of the error table on top: all of it, or without a value that cannot be sent. */
static int encode_error(lua_State *L) {
  struct call *call = lua_touserdata(L, 1);
  struct mch_encoder encoder;
  int with_value, i;
  with_value = lua_toboolean(L, 3);
  memset(&encoder, 0, sizeof encoder);
  encoder.kind = MCH_SEND_ERROR;
  lua_rawgeti(L, LUA_REGISTRYINDEX, call->task->baseline);
  if (lua_istable(L, -1))
    encoder.baseline = lua_gettop(L);
  for (i = 1; i <= 4; i++)
    lua_rawgeti(L, 2, i);
  if (!with_value) {
    lua_pop(L, 1);
    lua_pushnil(L);
  }
  encode_answer(L, call, &encoder, lua_gettop(L) - 3, 4);
  return 0;
}

/* Answer with the error table on top of the stack; pops it. If even that is impossible the answer
 * stays empty, and the pool says that memory was short. */
static void answer_error(lua_State *L, struct call *call, enum mch_kind kind) {
  int table = lua_gettop(L), with_value;
  call->kind = kind;
  for (with_value = 1; with_value >= 0; with_value--) {
    lua_pushcfunction(L, encode_error);
    lua_pushlightuserdata(L, call);
    lua_pushvalue(L, table);
    lua_pushboolean(L, with_value);
    if (lua_pcall(L, 3, 0, 0) == LUA_OK)
      break;
    lua_pop(L, 1);
    clear_answer(L, call);
  }
  lua_settop(L, table - 1);
}

/* -- running ------------------------------------------------------------------------------ */

/* What math.random does to the state of a stream for each number. */
static void step(struct mch_stream *stream) {
  uint64_t *s = stream->words, before = s[1];
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= before << 17;
  s[3] = s[3] << 45 | s[3] >> 19;
}

/* What math.randomseed(first, second) makes of it. */
static struct mch_stream seeded(uint64_t first, uint64_t second) {
  struct mch_stream stream = {{first, 0xff, second, 0}};
  int i;
  for (i = 0; i < 16; i++)
    step(&stream);
  return stream;
}

static int call_randomseed(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &randomseed_key);
  lua_pushinteger(L, 3);
  lua_pushinteger(L, 5);
  lua_call(L, 2, 0);
  return 0;
}

/* The state of math.random is the first upvalue of math.randomseed in every Lua 5.4 as it comes. It
 * is trusted to be so if seeding has the effect there that it must have. */
static struct mch_stream *find_stream(lua_State *L) {
  struct mch_stream *stream, expected = seeded(3, 5), before;
  int top = lua_gettop(L), is_known;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &randomseed_key) != LUA_TFUNCTION ||
      lua_getupvalue(L, -1, 1) == NULL || lua_type(L, -1) != LUA_TUSERDATA ||
      lua_rawlen(L, -1) != sizeof *stream) {
    lua_settop(L, top);
    return NULL;
  }
  stream = lua_touserdata(L, -1);
  memcpy(&before, stream, sizeof before);
  lua_pushcfunction(L, call_randomseed);
  is_known = lua_pcall(L, 0, 0, 0) == LUA_OK && memcmp(stream, &expected, sizeof expected) == 0;
  memcpy(stream, &before, sizeof before);
  if (is_known)
    lua_rawsetp(L, LUA_REGISTRYINDEX, &stream_key); /* it lasts as long as it is used */
  lua_settop(L, top);
  return is_known ? stream : NULL;
}

static lua_Unsigned own_seed(const struct call *call) {
  return mch_mix((lua_Unsigned)call->task->seed ^ mch_mix((lua_Unsigned)call->run->stream));
}

/* As math.randomseed would, but without a call, which takes longer than many an item does. */
static int seed_directly(const struct call *call) {
  lua_Unsigned own = own_seed(call);
  if (call->task->stream == NULL)
    return 0;
  *call->task->stream = seeded(own, mch_mix(own));
  return 1;
}

static void know_stream(lua_State *L, struct mch_ltask *task) {
  if (task->stream_known)
    return;
  task->stream = find_stream(L);
  task->stream_known = 1;
}

static void seed_stream(lua_State *L, const struct call *call) {
  lua_Unsigned own = own_seed(call);
  know_stream(L, call->task);
  if (seed_directly(call))
    return;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &randomseed_key) == LUA_TFUNCTION) {
    lua_pushinteger(L, (lua_Integer)own);
    lua_pushinteger(L, (lua_Integer)mch_mix(own));
    lua_call(L, 2, 0);
  } else
    lua_pop(L, 1);
}

const char *mch_ltask_find_code(void *ud, uint32_t id, size_t *length) {
  return mch_dictionary_get(&((struct mch_ltask *)ud)->codes, id, length);
}

static int worker_exit(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  int status;
  if (lua_isboolean(L, 1))
    status = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  else
    status = (int)luaL_optinteger(L, 1, EXIT_SUCCESS);
  mch_worker_leave(context->worker, status);
}

/* Functions that hold functions are followed so far. */
enum { DEEP = 100 };

/* Put ours in the place of os.exit where the function at `at`, or one that it holds, has kept that
 * in a local variable. What is inherited comes here; what is sent names it. `seen`: a table. */
static void exchange_exit(lua_State *L, int at, int seen, int depth) {
  int i;
  lua_pushvalue(L, at);
  if (lua_rawget(L, seen) != LUA_TNIL || depth == 0 || !lua_checkstack(L, 8)) {
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  lua_pushvalue(L, at);
  lua_pushboolean(L, 1);
  lua_rawset(L, seen);
  for (i = 1; lua_getupvalue(L, at, i) != NULL; i++) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &exit_key);
    if (lua_rawequal(L, -1, -2) && !lua_isnil(L, -1)) {
      lua_pushcfunction(L, worker_exit);
      lua_setupvalue(L, at, i);
      lua_pop(L, 2);
      continue;
    }
    lua_pop(L, 1);
    if (lua_isfunction(L, -1) && !lua_iscfunction(L, -1))
      exchange_exit(L, lua_gettop(L), seen, depth - 1);
    lua_pop(L, 1);
  }
}

/* The same for the values from `first` on that are functions. */
static void exchange_exits(lua_State *L, int first) {
  int last = lua_gettop(L);
  lua_newtable(L);
  for (; first <= last; first++)
    if (lua_isfunction(L, first) && !lua_iscfunction(L, first))
      exchange_exit(L, first, last + 1, DEEP);
  lua_settop(L, last);
}

/* The same out of the memory that was inherited: the task's bytes are the number of its payload. */
static int unpack_payload(lua_State *L, const struct call *call) {
  lua_Integer count, i;
  int payload;
  lua_rawgeti(L, LUA_REGISTRYINDEX, call->task->payloads);
  lua_rawgeti(L, -1, (lua_Integer)mch_load_u64(call->run->graph));
  lua_remove(L, -2);
  payload = lua_gettop(L);
  lua_getfield(L, payload, "n");
  count = lua_tointeger(L, -1);
  lua_pop(L, 1);
  luaL_checkstack(L, (int)count + 4, "too many arguments");
  for (i = 1; i <= count; i++)
    lua_rawgeti(L, payload, i);
  lua_remove(L, payload);
  if (call->task->watching)
    exchange_exits(L, payload);
  if (lua_rawgeti(L, LUA_REGISTRYINDEX, call->task->baseline) == LUA_TTABLE)
    mch_classes_begin_task(L, lua_gettop(L), 1);
  lua_pop(L, 1);
  return (int)count;
}

/* Push the values of a graph that the pool sent; returns how many. */
static int decode_graph(lua_State *L, struct call *call, const unsigned char *graph, size_t length,
                        enum mch_graph_kind kind) {
  struct mch_decoder decoder;
  int count, baseline;
  lua_rawgeti(L, LUA_REGISTRYINDEX, call->task->baseline);
  lua_rawgeti(L, LUA_REGISTRYINDEX, call->task->factories);
  lua_rawgeti(L, LUA_REGISTRYINDEX, call->task->mapped_own);
  baseline = lua_gettop(L) - 2;
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = graph;
  decoder.len = length;
  decoder.baseline = lua_istable(L, baseline) ? baseline : 0;
  decoder.allow_code = 1;
  decoder.kind = kind;
  decoder.find_code = mch_ltask_find_code;
  decoder.ud = call->task;
  decoder.factories = lua_istable(L, baseline + 1) ? baseline + 1 : 0;
  if (kind == MCH_SEND_TASK && decoder.baseline != 0)
    mch_classes_begin_task(L, baseline, 0);
  decoder.own = kind == MCH_SEND_ITEM && lua_istable(L, baseline + 2) ? baseline + 2 : 0;
  if (kind == MCH_SEND_TASK && call->task->remote) {
    decoder.len = mch_lglobals_apply(L, call->task, graph, length);
    lua_replace(L, baseline + 2); /* in the place of the classes of a batch */
    decoder.own = lua_istable(L, baseline + 2) ? baseline + 2 : 0;
  }
  count = mch_decode(L, &decoder);
  call->called |= decoder.called;
  lua_rotate(L, baseline, -3);
  lua_pop(L, 3);
  return count;
}

/* The function of a batch, with what came with it, is to be rebuilt for the next item. */
static void forget_mapped(lua_State *L, struct mch_ltask *task) {
  luaL_unref(L, LUA_REGISTRYINDEX, task->mapped);
  luaL_unref(L, LUA_REGISTRYINDEX, task->mapped_own);
  task->mapped = task->mapped_own = LUA_NOREF;
  mch_steady_forget(L, &task->steady);
}

/* The function of a batch and its classes are the values from `first` on: keep them. */
static void keep_mapped(lua_State *L, struct mch_ltask *task, int first) {
  int count = lua_gettop(L) - first + 1, own, baseline, names, i;
  lua_createtable(L, 0, count - 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->baseline);
  own = first + count;
  baseline = own + 1;
  if (lua_istable(L, baseline)) {
    lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
    names = baseline + 1;
    for (i = first + 1; i < first + count; i++) {
      lua_pushvalue(L, i);
      if (lua_rawget(L, names) == LUA_TNUMBER) {
        lua_pushvalue(L, i);
        lua_rawset(L, own);
      } else {
        lua_pop(L, 1);
      }
    }
    task->unsteady = !mch_steady_watch(L, &task->steady, baseline, first, count);
  }
  lua_pushvalue(L, own);
  task->mapped_own = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_settop(L, first);
  task->mapped = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Push the function of a batch, which is rebuilt for its first item. */
static void push_mapped(lua_State *L, struct call *call) {
  struct mch_ltask *task = call->task;
  if (call->run->first)
    forget_mapped(L, task);
  if (task->mapped == LUA_NOREF) { /* or that failed, or an item has changed it */
    int first = lua_gettop(L) + 1;
    forget_mapped(L, task);
    if (decode_graph(L, call, call->run->function, call->run->function_length, MCH_SEND_TASK) < 1)
      luaL_error(L, "a batch must have exactly one function");
    keep_mapped(L, task, first);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->mapped);
}

/* The next item is to find the function and its classes as this one did. */
static void check_mapped(lua_State *L, struct mch_ltask *task) {
  if (task->unsteady || !mch_steady_is_same(L, &task->steady))
    forget_mapped(L, task);
}

/* Push the function and its arguments; returns how many values. */
static int decode(lua_State *L, struct call *call) {
  const struct mch_run *run = call->run;
  if (call->task->payloads != LUA_NOREF)
    return unpack_payload(L, call);
  if (run->graph == NULL)
    return luaL_error(L, "not enough memory for the task's arguments");
  if (run->function == NULL) {
    int count = decode_graph(L, call, run->graph, run->length, MCH_SEND_TASK);
    if (call->task->watching)
      mch_worker_forget_task(call->task->context->worker);
    return count;
  }
  push_mapped(L, call);
  if (mch_items_get(L, run->graph, run->length))
    return 2;
  return 1 + decode_graph(L, call, run->graph, run->length, MCH_SEND_ITEM);
}

static int send_early(void *ud, const unsigned char *piece, size_t length) {
  struct mch_ltask *task = ud;
  return mch_worker_send_early(task->context->worker, piece, length);
}

static int encode_results(lua_State *L) {
  struct call *call = lua_touserdata(L, 1);
  struct mch_encoder encoder;
  int count;
  lua_rawgeti(L, LUA_REGISTRYINDEX, call->task->baseline);
  lua_replace(L, 1);
  count = lua_gettop(L) - 1;
  memset(&encoder, 0, sizeof encoder);
  encoder.kind = MCH_SEND_RESULT;
  encoder.baseline = lua_istable(L, 1) ? 1 : 0;
  encoder.stands_alone = call->task->recorded;
  if (call->task->watching && !call->task->recorded &&
      call->run->function == NULL) { /* the answer will be a RESULT */
    encoder.send_early = send_early;
    encoder.ud = call->task;
  }
  encode_answer(L, call, &encoder, 2, count);
  return 0;
}

/* Code of the user has run, with this status: a fork that it made of the worker ends here. */
static void end_stranger(const struct mch_ltask *task, int status) {
  if (task->watching)
    mch_worker_end_stranger(task->context->worker, status == LUA_OK ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Called with the call; returns nothing on success, else the error table. */
static int run_protected(lua_State *L) {
  struct call *call = lua_touserdata(L, 1);
  uint64_t start;
  int count, status;
  lua_pushcfunction(L, describe_error);
  lua_pushcfunction(L, encode_results);
  lua_pushvalue(L, 1);
  seed_stream(L, call);
  count = decode(L, call);
  if (call->task->starting != NULL && call->task->starting(L, call->task, call->run, count))
    seed_stream(L, call);
  end_stranger(call->task, LUA_OK); /* a fork by code that rebuilds a value does not run the task */
  start = mch_now();
  status = lua_pcall(L, count - 1, LUA_MULTRET, 2);
  call->run->ended = mch_now();
  call->run->own_time = call->run->ended - start;
  end_stranger(call->task, status);
  if (status != LUA_OK) {
    call->kind = MCH_KIND_ERROR;
    return 1;
  }
  call->kind = MCH_KIND_UNSENDABLE;
  if (lua_gettop(L) == 4 ? mch_items_put_none(call->answer)
                         : lua_gettop(L) == 5 && mch_items_put(call->answer, L, 5)) {
    call->kind = MCH_KIND_OK;
    return 0;
  }
  lua_call(L, lua_gettop(L) - 3, 0); /* encode_results(call, ...) */
  call->kind = MCH_KIND_OK;
  return 0;
}

/* An error outside the task's own code (a value that could not be rebuilt or sent, memory) has only
 * a message. */
static void push_plain_error(lua_State *L) {
  if (lua_istable(L, -1))
    return;
  lua_createtable(L, 4, 0);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, 1);
  lua_pushboolean(L, 0);
  lua_rawseti(L, -2, 3);
  lua_remove(L, -2);
}

static int make_plain_error(lua_State *L) {
  push_plain_error(L);
  return 1;
}

/* The error on top is the answer. A table says all; anything else (memory, an error in the handler)
 * is a message only. */
static void answer_failure(lua_State *L, struct call *call) {
  lua_pushcfunction(L, make_plain_error);
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    clear_answer(L, call);
    return;
  }
  answer_error(L, call, call->kind);
}

static void run_call(lua_State *L, struct call *call) {
  int status;
  lua_settop(L, 0);
  call->kind = MCH_KIND_ERROR;
  lua_pushcfunction(L, run_protected);
  lua_pushlightuserdata(L, call);
  status = lua_pcall(L, 1, LUA_MULTRET, 0);
  end_stranger(call->task, status);
  if (status != LUA_OK || call->kind != MCH_KIND_OK)
    answer_failure(L, call);
  lua_settop(L, 0);
}

/* What stays on the stack while the items of a batch are called one after the other: the values
 * of each come behind it. */
enum { HANDLER = 1, MAPPED = 2, ENCODE = 3, TASK = 4 };

/* Called with the task, then the values of its item. */
static int encode_item_results(lua_State *L) {
  struct mch_ltask *task = lua_touserdata(L, 1);
  lua_pushlightuserdata(L, task->call);
  lua_replace(L, 1);
  return encode_results(L);
}

static void set_up_stack(lua_State *L, struct mch_ltask *task) {
  lua_settop(L, 0);
  lua_pushcfunction(L, describe_error);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->mapped);
  lua_pushcfunction(L, encode_item_results);
  lua_pushlightuserdata(L, task);
}

/* The values behind TASK are the answer. What has to be encoded takes ENCODE and TASK along. */
static void answer_values(lua_State *L, struct call *call) {
  int count = lua_gettop(L) - TASK;
  if (count == 0 ? mch_items_put_none(call->answer)
                 : count == 1 && mch_items_put(call->answer, L, TASK + 1))
    return;
  call->task->call = call;
  call->kind = MCH_KIND_UNSENDABLE;
  if (lua_pcall(L, count + 1, 0, 0) == LUA_OK)
    call->kind = MCH_KIND_OK;
}

/* After the first item of a batch the others are called without the protection that making their
 * arguments needs, if they are so plain that this cannot fail. Whether it was done. */
static int run_plain_item(lua_State *L, struct call *call) {
  struct mch_run *run = call->run;
  uint64_t start = run->began;
  if (run->first || call->task->mapped == LUA_NOREF || run->graph == NULL ||
      !mch_items_is_safe(run->graph, run->length) || !seed_directly(call))
    return 0;
  if (lua_gettop(L) != TASK)
    set_up_stack(L, call->task);
  lua_pushvalue(L, MAPPED);
  if (!mch_items_get(L, run->graph, run->length)) {
    lua_settop(L, TASK);
    return 0;
  }
  if (run->precise)
    start = mch_now();
  call->kind = lua_pcall(L, 1, LUA_MULTRET, HANDLER) == LUA_OK ? MCH_KIND_OK : MCH_KIND_ERROR;
  end_stranger(call->task, call->kind == MCH_KIND_OK ? LUA_OK : LUA_ERRRUN);
  run->ended = mch_now();
  run->own_time = run->ended - start;
  if (call->kind == MCH_KIND_OK)
    answer_values(L, call);
  if (call->kind != MCH_KIND_OK)
    answer_failure(L, call);
  lua_settop(L, lua_gettop(L) >= TASK && call->kind == MCH_KIND_OK ? TASK : 0);
  return 1;
}

/* The thread on which tasks run: one for the life of the worker. */
static lua_State *task_thread(struct mch_ltask *task) {
  if (task->thread == NULL) {
    task->thread = lua_newthread(task->L);
    task->anchor = luaL_ref(task->L, LUA_REGISTRYINDEX);
  }
  return task->thread;
}

static void set_up_remote(lua_State *L, struct mch_ltask *task) {
  if (task->setup == NULL)
    return;
  lua_pushcfunction(L, describe_error);
  lua_pushcfunction(L, mch_lglobals_decode_setup);
  lua_pushlightuserdata(L, task);
  task->prepared = 0;
  if (lua_pcall(L, 1, 0, -3) != LUA_OK) {
    push_plain_error(L);
    task->broken = task->prepared = 1;
    task->complaint = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  task->setup = NULL;
  lua_settop(L, 0);
}

/* Run the user's init, once; what it raises is kept for the first task. */
static void run_init(lua_State *L, struct mch_ltask *task) {
  int status;
  if (task->init == LUA_NOREF || task->prepared)
    return;
  task->prepared = 1;
  lua_pushcfunction(L, describe_error);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->init);
  status = lua_pcall(L, 0, 0, -2);
  end_stranger(task, status);
  if (status != LUA_OK) {
    push_plain_error(L);
    task->broken = 1;
    task->complaint = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_settop(L, 0);
}

/* There is no other worker in which init could be tried again. */
static void forget_complaint(lua_State *L, struct mch_ltask *task) {
  luaL_unref(L, LUA_REGISTRYINDEX, task->complaint);
  task->broken = task->prepared = 0;
}

static int note_protected(lua_State *L) {
  struct mch_ltask *task = lua_touserdata(L, 1);
  mch_tidy_note(task->thread, &task->tidy);
  return 0;
}

/* What a worker's `init` has left holds for all its tasks; in this process, what its own code has.
 * Without memory for that, tasks find what others have left. */
static void note_settings(lua_State *L, struct mch_ltask *task) {
  if (!task->watching)
    mch_tidy_forget(L, &task->tidy);
  if (task->tidy.noted)
    return;
  lua_pushcfunction(L, note_protected);
  lua_pushlightuserdata(L, task);
  lua_pcall(L, 1, 0, 0);
  lua_settop(L, 0);
}

/* What a task in this process (inline) is run with. */
struct here {
  struct mch_limit limit;
  struct mch_stream before; /* the random numbers of the caller */
  int stops;                /* of the worker that this is, if it is one */
};

static void begin_here(lua_State *L, struct mch_ltask *task, const struct mch_run *run,
                       struct here *here) {
  know_stream(L, task);
  if (task->stream != NULL)
    here->before = *task->stream;
  here->stops = mch_lwatch_stops(L);
  mch_coverage_follow(L, task->L);
  mch_limit_begin(&here->limit, L, task->context, run->timeout);
}

static void end_here(struct mch_ltask *task, struct mch_run *run, enum mch_kind kind,
                     struct here *here) {
  run->stopped = mch_limit_end(&here->limit);
  if (task->stream != NULL)
    *task->stream = here->before;
  if (kind != MCH_KIND_OK) /* in a task that is stopped */
    mch_lwatch_caught(task->L, here->stops);
}

/* A task of so many nanoseconds is worth a thorough look at what it has left. */
enum { LONG = 5000 };

static enum mch_kind run(void *ud, struct mch_run *run, struct mch_buf *answer) {
  struct mch_ltask *task = ud;
  struct mch_context outer = *task->context;
  struct call call = {task, run, answer, MCH_KIND_ERROR, 0};
  lua_State *L = task_thread(task);
  struct here here;
  if (!task->watching)
    begin_here(L, task, run, &here);
  run_init(L, task);
  if (task->broken) {
    run->own_time = UINT64_MAX;
    run->ended = mch_now();
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, task->complaint);
    answer_error(L, &call, MCH_KIND_ERROR);
    if (task->watching) /* not an inline pool's in a worker */
      outer.worker->spent = 1;
    else
      forget_complaint(L, task);
    if (!task->watching)
      end_here(task, run, call.kind, &here);
    return call.kind;
  }
  note_settings(L, task);
  task->running = task->context->running = 1;
  task->context->task = task;
  task->context->tasks++;
  task->context->stream = mch_mix(run->stream);
  task->context->runid = run->runid;
  task->context->name = run->name;
  task->context->name_length = run->name_length;
  task->context->hides_bars |= task->hides_bars;
  task->context->first_bar = 0;
  if (run->function == NULL || !run_plain_item(L, &call))
    run_call(L, &call);
  if (run->function != NULL)
    check_mapped(L, task);
  if (task->covers)
    mch_coverage_save(L);
  if (!task->watching)
    end_here(task, run, call.kind, &here);
  mch_tidy_restore(L, &task->tidy,
                   !task->watching || call.kind != MCH_KIND_OK || run->own_time > LONG);
  if (call.called || call.kind != MCH_KIND_OK) {
    run->own_time = UINT64_MAX;
    run->ended = mch_now();
  }
  if (task->watching && mch_young_is_spent(L, &task->young))
    outer.worker->spent = 1;
  task->running = 0;
  task->context->running = outer.running;
  task->context->task = outer.task;
  task->context->runid = outer.runid;
  task->context->stream = outer.stream;
  task->context->name = outer.name;
  task->context->name_length = outer.name_length;
  if (task->context->first_bar != 0)
    mch_output_leave_bars(task->output, task->context->first_bar,
                          call.kind == MCH_KIND_ERROR ? MCH_BAR_ERROR : MCH_BAR_FINISHED);
  task->context->hides_bars = outer.hides_bars;
  task->context->first_bar = outer.first_bar;
  return call.kind;
}

static void code(void *ud, uint32_t id, const unsigned char *bytes, size_t length) {
  struct mch_dictionary *codes = &((struct mch_ltask *)ud)->codes;
  if (length == 0)
    mch_dictionary_forget(codes, id);
  else /* without memory the task that needs it fails by itself: the id is unknown */
    mch_dictionary_put(codes, id, bytes, length);
}

/* -- a worker begins ---------------------------------------------------------------------- */

/* os.exit would close the state, with the parent's objects in it, and run the host's handlers. */
static void replace_exit(lua_State *L, int baseline) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushliteral(L, LUA_OSLIBNAME);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushliteral(L, "exit");
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_tocfunction(L, -1) == worker_exit) /* in a worker of a worker */
      lua_pop(L, 1);
    else
      lua_rawsetp(L, LUA_REGISTRYINDEX, &exit_key);
    lua_pushcfunction(L, worker_exit);
    lua_rawset(L, -3);
    lua_rawgeti(L, LUA_REGISTRYINDEX, baseline);
    if (lua_istable(L, -1))
      mch_baseline_replace(L, lua_gettop(L), LUA_OSLIBNAME, "exit");
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
}

/* Append the values of the table at `from` to the list at `to`. */
static void keep_values(lua_State *L, int from, int to) {
  lua_Integer n = (lua_Integer)lua_rawlen(L, to);
  lua_pushnil(L);
  while (lua_next(L, from) != 0)
    if (lua_istable(L, -1) || lua_isuserdata(L, -1))
      lua_rawseti(L, to, ++n);
    else
      lua_pop(L, 1);
}

/* What tasks take out of the globals, or out of the loaded modules, stays alive here: its finalizer
 * is the parent's to run. */
static void keep_inherited(lua_State *L) {
  int list;
  lua_newtable(L);
  list = lua_gettop(L);
  lua_pushglobaltable(L);
  keep_values(L, list + 1, list);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  keep_values(L, list + 2, list);
  lua_settop(L, list);
  luaL_ref(L, LUA_REGISTRYINDEX);
}

static int set_up_worker(lua_State *L) {
  struct mch_ltask *task = lua_touserdata(L, 1);
  mch_streams_settle(L);
  lua_newtable(L);
  task->factories = luaL_ref(L, LUA_REGISTRYINDEX);
  keep_inherited(L);
  replace_exit(L, task->baseline);
  mch_tidy_watch(L, &task->tidy, task->baseline);
  task->covers = mch_coverage_begin(L, task->L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->init);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->fini);
  exchange_exits(L, lua_gettop(L) - 1);
  lua_pop(L, 2);
  mch_young_begin(L, &task->young, &task->heap, &task->watch);
  return 0;
}

static void begin(void *ud, struct mch_worker *worker) {
  struct mch_ltask *task = ud;
  struct mch_upstream upstream = mch_worker_upstream(worker);
  lua_State *L;
  mch_context_become_worker(task->context, worker);
  mch_output_become_child(task->output, &upstream);
  task->thread = NULL;
  L = task_thread(task);
  mch_lwatch_install(&task->watch, L, L, task->memory);
  task->context->watch = &task->watch;
  task->context->baseline = task->baseline != LUA_NOREF ? task->baseline : 0;
  task->watching = 1;
  lua_pushcfunction(L, set_up_worker);
  lua_pushlightuserdata(L, task);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK)
    mch_worker_leave(worker, EXIT_FAILURE);
  set_up_remote(L, task);
  run_init(L, task);
  mch_young_forgive(&task->young);
}

/* -- a worker leaves ---------------------------------------------------------------------- */

/* Log what the error table on top says. */
static int log_error_of_fini(lua_State *L) {
  int was_stopped = (int)lua_tointeger(L, 2);
  luaL_Buffer sentence;
  luaL_buffinit(L, &sentence);
  if (was_stopped)
    luaL_addstring(&sentence, "fini of a worker took too long and was stopped");
  else {
    luaL_addstring(&sentence, "fini of a worker raised an error: ");
    if (lua_istable(L, 1))
      lua_rawgeti(L, 1, 1);
    else
      lua_pushvalue(L, 1);
    if (!lua_isstring(L, -1)) {
      lua_pop(L, 1);
      lua_pushliteral(L, "(there is no message)");
    }
    luaL_addvalue(&sentence);
  }
  luaL_pushresult(&sentence);
  mch_notices_log(L, "error", lua_tostring(L, -1));
  return 0;
}

void mch_ltask_end(struct mch_ltask *task, uint64_t grace) {
  lua_State *L = task_thread(task);
  struct mch_limit limit;
  int status, stops;
  if (task->fini == LUA_NOREF || task->broken || (task->init != LUA_NOREF && !task->prepared))
    return;
  lua_settop(L, 0);
  stops = mch_lwatch_stops(L);
  lua_pushcfunction(L, log_error_of_fini);
  lua_pushcfunction(L, describe_error);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->fini);
  mch_limit_begin(&limit, L, task->context, grace);
  status = lua_pcall(L, 0, 0, 2);
  end_stranger(task, status);
  stops = mch_limit_end(&limit) + mch_lwatch_stops(L) - stops;
  if (task->watching)
    mch_lwatch_calm(&task->watch);
  lua_remove(L, 2);
  if (status != LUA_OK) {
    lua_pushinteger(L, stops);
    lua_pcall(L, 2, 0, 0);
  }
  lua_settop(L, 0);
}

static void end(void *ud) {
  mch_ltask_end(ud, 0); /* the pool sees to its grace */
}

/* -- stopping a task ---------------------------------------------------------------------- */

static void interrupt(void *ud) {
  struct mch_ltask *task = ud;
  if (task->watching)
    mch_lwatch_interrupt(&task->watch);
}

static void insist(void *ud) {
  struct mch_ltask *task = ud;
  if (task->watching)
    mch_lwatch_insist(&task->watch);
}

static void calm(void *ud) {
  struct mch_ltask *task = ud;
  if (!task->watching)
    return;
  mch_lwatch_calm(&task->watch);
  if (task->tidy.hook != NULL)
    mch_tidy_restore_hook(task->thread, &task->tidy);
  luaL_unref(task->thread, LUA_REGISTRYINDEX, task->lent);
  task->lent = LUA_NOREF;
  /* Under a limit the next task starts with room: buffers of C code get none by collecting. */
  if (task->memory > 0 && task->watch.added > task->memory / 2)
    lua_gc(task->thread, LUA_GCCOLLECT);
}

/* The user's `init`, or the host's hook that drops its handles. */
static int eager(void *ud) {
  const struct mch_ltask *task = ud;
  return task->init != LUA_NOREF || task->setup != NULL || task->context->child_hook != NULL;
}

#define DIGITS_OF(number) #number
#define DIGITS(macro) DIGITS_OF(macro)

struct mch_runner mch_ltask_runner(struct mch_ltask *task) {
  struct mch_runner runner = {
      .ud = task,
      .eager = eager,
      .begin = begin,
      .end = task != NULL && (task->fini != LUA_NOREF || task->has_fini) ? end : NULL,
      .run = run,
      .code = code,
      .interrupt = interrupt,
      .insist = insist,
      .calm = calm,
      .format = "Lua 5.4 graph " DIGITS(MCH_GRAPH_VERSION)};
  return runner;
}

void mch_ltask_format(char room[MCH_LTASK_FORMAT]) {
  const uint16_t one = 1;
  snprintf(room, MCH_LTASK_FORMAT,
           LUA_VERSION " (%s-endian, sizes %u %u %u %u), graphs " DIGITS(MCH_GRAPH_VERSION),
           *(const unsigned char *)&one == 1 ? "little" : "big", (unsigned)sizeof(int),
           (unsigned)sizeof(size_t), (unsigned)sizeof(lua_Integer), (unsigned)sizeof(lua_Number));
}

void mch_ltask_open(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushliteral(L, LUA_MATHLIBNAME);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushliteral(L, "randomseed");
    lua_rawget(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &randomseed_key);
    lua_pushliteral(L, "random");
    lua_rawget(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &random_key);
  }
  lua_pop(L, 2);
}

int mch_ltask_random(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &random_key) != LUA_TFUNCTION) {
    lua_pop(L, 1);
    return 0;
  }
  lua_pushinteger(L, 0); /* all bits */
  lua_call(L, 1, 1);
  return 1;
}

void mch_ltask_close(lua_State *L, struct mch_ltask *task) {
  luaL_unref(L, LUA_REGISTRYINDEX, task->baseline);
  luaL_unref(L, LUA_REGISTRYINDEX, task->init);
  luaL_unref(L, LUA_REGISTRYINDEX, task->fini);
  luaL_unref(L, LUA_REGISTRYINDEX, task->payloads);
  luaL_unref(L, LUA_REGISTRYINDEX, task->lent);
  luaL_unref(L, LUA_REGISTRYINDEX, task->anchor);
  mch_tidy_forget(L, &task->tidy);
  task->baseline = task->init = task->fini = task->payloads = task->lent = task->anchor = LUA_NOREF;
  mch_dictionary_free(&task->codes);
}
