/* Runs in: both.
 *
 * What happens in a pool, told to the script's listeners and to the sink of the program in C; what
 * tasks emit; what was counted. */
#include "lpool_state.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/context.h"
#include "bindings/lbuf.h"
#include "bindings/lwatch.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"
#include "runtime/engines/task.h"
#include "runtime/engines/worker.h"

#define EVENT "mantichora event"

/* Keys of the registry are the addresses of these. */
static const char teller_key = 0;

/* -- who listens -------------------------------------------------------------------------- */

void mch_levents_listen(lua_State *L, struct lpool *lpool) {
  int on = lpool->listens || mch_context_get(L)->sinks.task != NULL;
  struct mch_error error;
  if (on == lpool->listening)
    return;
  if (mch_pool_listen(lpool->pool, on, &error) != 0)
    mch_lpool_raise_error(L, &error);
  lpool->listening = on;
}

/* listen(pool, on): whether the script wants to be told of events. */
int mch_core_listen(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  lpool->listens = lua_toboolean(L, 2);
  mch_levents_listen(L, lpool);
  return 0;
}

/* set_teller(function): called as function(pool, event, number) for each event. */
int mch_core_set_teller(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &teller_key);
  return 0;
}

/* last_event(pool): the number of what happened last. */
int mch_core_last_event(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)mch_pool_last_event(mch_lpool_check_pool(L)->pool));
  return 1;
}

void mch_levents_check_may_wait(lua_State *L) {
  if (mch_context_get(L)->telling)
    mch_lpool_raise_sentence(L, "a listener cannot wait: it is called inside of another call");
}

/* check_may_wait(): raises in a listener. */
int mch_core_check_may_wait(lua_State *L) {
  mch_levents_check_may_wait(L);
  return 0;
}

/* -- an event in Lua ---------------------------------------------------------------------- */

static void set_text(lua_State *L, const char *name, const char *text) {
  if (text == NULL)
    return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
  if (count != MCH_UNMEASURED)
    mch_lpool_set_integer(L, name, (lua_Integer)count);
}

static void set_seconds(lua_State *L, const char *name, uint64_t nanoseconds) {
  if (nanoseconds == MCH_UNMEASURED)
    return;
  lua_pushnumber(L, (lua_Number)nanoseconds / 1e9);
  lua_setfield(L, -2, name);
}

static int is_of_worker(const struct mch_event *event) {
  return event->type == MCH_EVENT_WORKER_STARTED || event->type == MCH_EVENT_WORKER_ENDED;
}

/* Set the field `place` of the table on top; looking into bytecode is slow. */
static void set_place(lua_State *L, struct lpool *lpool, const struct mch_task *about) {
  int event = lua_gettop(L);
  uint32_t id;
  if (about->codes == 0) {
    mch_ltake_push_place(L, lpool, about);
    return;
  }
  memcpy(&id, about->body, sizeof id);
  if (lpool->places == LUA_NOREF) {
    lua_newtable(L);
    lpool->places = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->places);
  if (lua_rawgeti(L, -1, id) == LUA_TNIL) {
    lua_pushvalue(L, event);
    mch_ltake_push_place(L, lpool, about);
    lua_getfield(L, event, "place");
    lua_rawseti(L, event + 1, id);
  } else
    lua_setfield(L, event, "place");
  lua_settop(L, event);
}

static void set_how_it_ended(lua_State *L, const struct mch_event *event) {
  const struct mch_result *result = event->about != NULL ? event->about->result : NULL;
  if (event->found) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "found");
  }
  set_seconds(L, "waited", event->waited);
  set_seconds(L, "elapsed", event->course.elapsed);
  set_seconds(L, "cpu", event->course.cpu);
  set_count(L, "maxrss", event->course.maxrss);
  set_count(L, "sent", event->sent);
  set_count(L, "received", event->received);
  if (result != NULL && result->kind == MCH_KIND_KILLED && result->signal != 0)
    mch_lpool_set_integer(L, "signal", result->signal);
  if (result != NULL && result->kind == MCH_KIND_EXITED)
    mch_lpool_set_integer(L, "exitcode", result->exitcode);
}

/* Called with the pool and an event: push its values. */
static int decode_values(lua_State *L) {
  const struct lpool *lpool = lua_touserdata(L, 1);
  const struct mch_event *event = lua_touserdata(L, 2);
  int count;
  lua_settop(L, 0);
  count = event->found
              ? mch_ltake_decode_found(L, event->values, event->length, MCH_SEND_EMITTED,
                                       mch_pool_found_anchor(lpool->pool, event->runid))
              : mch_ltake_decode_graph(L, lpool, event->values, event->length, MCH_SEND_EMITTED, 0);
  mch_ltake_pack_values(L, lua_gettop(L) - count + 1);
  return 1;
}

/* The field `values` of the table on top; or `lost`, why they cannot be had here. */
static void set_values(lua_State *L, struct lpool *lpool, struct mch_event *event) {
  int status;
  lua_pushcfunction(L, decode_values);
  lua_pushlightuserdata(L, lpool);
  lua_pushlightuserdata(L, event);
  status = mch_lwatch_pcall(L, 2, 1, 0);
  lua_setfield(L, -2, status == LUA_OK ? "values" : "lost");
}

/* Push the event as a table; a failure in it is raw. */
static void push_event(lua_State *L, struct lpool *lpool, struct mch_event *event) {
  const struct mch_task *about = event->about;
  lua_createtable(L, 0, 12);
  set_text(L, "event", mch_event_word(event->type));
  set_seconds(L, "time", event->time);
  set_seconds(L, "clock", event->clock);
  if (event->course.pid != 0)
    mch_lpool_set_integer(L, "pid", event->course.pid);
  if (event->course.slot != 0)
    mch_lpool_set_integer(L, "slot", event->course.slot);
  set_text(L, "host", event->course.host);
  set_text(L, "why", event->why);
  if (is_of_worker(event))
    return;
  mch_lpool_set_integer(L, "runid", (lua_Integer)event->runid);
  if (about != NULL && about->extra != NULL && about->extra->name_length > 0) {
    lua_pushlstring(L, about->extra->name, about->extra->name_length);
    lua_setfield(L, -2, "name");
  }
  if (event->index > 0) {
    mch_lpool_set_integer(L, "index", (lua_Integer)event->index);
    mch_lpool_set_integer(L, "call", (lua_Integer)event->call);
  }
  if (event->type == MCH_EVENT_QUEUED) {
    mch_lpool_set_integer(L, "priority", event->priority);
    if (about != NULL)
      set_place(L, lpool, about);
    return;
  }
  mch_lpool_set_integer(L, "attempt", event->attempt);
  if (event->type == MCH_EVENT_EMITTED)
    set_values(L, lpool, event);
  if (event->type != MCH_EVENT_ENDED && event->type != MCH_EVENT_RETRIED)
    return;
  set_text(L, "kind", mch_kind_word(event->kind));
  if (event->type == MCH_EVENT_ENDED)
    set_how_it_ended(L, event);
  if (about != NULL && about->result != NULL) {
    mch_ltake_push_failure(L, lpool, event->about);
    lua_setfield(L, -2, "failure");
  }
}

/* -- the same in C ------------------------------------------------------------------------ */

struct task_call {
  mantichora_task_sink sink;
  void *ud;
  struct mantichora_task event;
};

static double seconds(uint64_t nanoseconds) {
  return nanoseconds == MCH_UNMEASURED ? -1 : (double)nanoseconds / 1e9;
}

static int64_t count_or_none(uint64_t count) {
  return count == MCH_UNMEASURED ? -1 : (int64_t)count;
}

/* A string field of the table at `index`, which it keeps alive; or NULL. */
static const char *text_field(lua_State *L, int index, const char *name) {
  const char *text = NULL;
  lua_pushstring(L, name);
  lua_rawget(L, index);
  if (lua_type(L, -1) == LUA_TSTRING)
    text = lua_tostring(L, -1);
  lua_pop(L, 1);
  return text;
}

static lua_Integer integer_field(lua_State *L, int index, const char *name) {
  lua_Integer value = -1;
  lua_pushstring(L, name);
  if (lua_rawget(L, index) == LUA_TNUMBER)
    value = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

/* From the event and its table on top; what stands on the stack in the end stays for the call. */
static void fill(lua_State *L, const struct lpool *lpool, const struct mch_event *event,
                 struct mantichora_task *to) {
  int table = lua_gettop(L), is_worker = is_of_worker(event);
  memset(to, 0, sizeof *to);
  to->size = sizeof *to;
  to->event = mch_event_word(event->type);
  to->pool = lpool->number;
  to->time = (double)event->time / 1e9;
  to->clock = (double)event->clock / 1e9;
  to->runid = is_worker ? -1 : (int64_t)event->runid;
  to->name = text_field(L, table, "name");
  to->place = text_field(L, table, "place");
  to->priority = event->priority;
  to->index = event->index > 0 ? (int64_t)event->index : -1;
  to->call = event->index > 0 ? (int64_t)event->call : -1;
  to->attempt = event->attempt > 0 ? (int)event->attempt : -1;
  to->pid = event->course.pid != 0 ? event->course.pid : -1;
  to->slot = event->course.slot != 0 ? (int)event->course.slot : -1;
  to->kind = text_field(L, table, "kind");
  to->waited = seconds(event->waited);
  to->elapsed = seconds(event->course.elapsed);
  to->cpu = seconds(event->course.cpu);
  to->maxrss = count_or_none(event->course.maxrss);
  to->sent = count_or_none(event->sent);
  to->received = count_or_none(event->received);
  to->exitcode = (int)integer_field(L, table, "exitcode");
  to->signal = (int)integer_field(L, table, "signal");
  to->why = event->why;
  to->L = L;
  if (lua_getfield(L, table, "failure") == LUA_TTABLE)
    to->message = text_field(L, lua_gettop(L), "reason");
  if (lua_getfield(L, table, "values") == LUA_TTABLE) {
    int values = lua_gettop(L), i;
    to->count = (int)integer_field(L, values, "n");
    luaL_checkstack(L, to->count + LUA_MINSTACK, "too many values");
    to->first = values + 1;
    for (i = 1; i <= to->count; i++)
      lua_rawgeti(L, values, i);
  }
}

/* Called with the pool, the event's own and its table. */
static int call_sink(lua_State *L) {
  const struct mch_sinks *sinks = &mch_context_get(L)->sinks;
  struct mantichora_task event;
  fill(L, lua_touserdata(L, 1), lua_touserdata(L, 2), &event);
  sinks->task(sinks->task_ud, &event);
  return 0;
}

/* The event's table is on top, and stays. An error that leaves the sink is told through warn. */
static void tell_sink(lua_State *L, struct lpool *lpool, struct mch_event *event) {
  if (mch_context_get(L)->sinks.task == NULL)
    return;
  lua_pushcfunction(L, call_sink);
  lua_pushlightuserdata(L, lpool);
  lua_pushlightuserdata(L, event);
  lua_pushvalue(L, -4);
  if (mch_lwatch_pcall(L, 3, 0, 0) == LUA_OK)
    return;
  lua_warning(L, "mantichora: a sink raised an error: ", 1);
  lua_warning(L, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1), 0);
  lua_pop(L, 1);
}

/* -- telling ------------------------------------------------------------------------------ */

/* Push the pool object; nil: it is being collected. */
static void push_pool(lua_State *L, const struct lpool *lpool) {
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    lua_pop(L, 1);
    if (lua_touserdata(L, -1) == lpool) {
      lua_remove(L, -2);
      return;
    }
  }
  lua_pop(L, 1);
  lua_pushnil(L);
}

static int event_gc(lua_State *L) {
  mch_event_clear(luaL_checkudata(L, 1, EVENT));
  return 0;
}

/* Push an event of our own, empty, which is freed whatever happens. */
static struct mch_event *new_event(lua_State *L) {
  struct mch_event *event = lua_newuserdatauv(L, sizeof *event, 0);
  memset(event, 0, sizeof *event);
  if (luaL_newmetatable(L, EVENT)) {
    lua_pushcfunction(L, event_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return event;
}

/* Called with the pool's own: tell all that has happened, one after the other; functions that are
 * told may cause more. What they raise was seen to, unless it is to go on. */
static int tell_all(lua_State *L) {
  enum { OWN = 1, TELLER, POOL, EVENT_AT };
  struct lpool *lpool = lua_touserdata(L, OWN);
  struct mch_event *event;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &teller_key);
  push_pool(L, lpool);
  event = new_event(L);
  while (lpool->pool != NULL && lpool->listening && mch_pool_take_event(lpool->pool, event)) {
    push_event(L, lpool, event);
    tell_sink(L, lpool, event);
    if (lpool->listens && !lua_isnil(L, POOL)) {
      lua_pushvalue(L, TELLER);
      lua_pushvalue(L, POOL);
      lua_pushvalue(L, -3);
      lua_pushinteger(L, (lua_Integer)event->number);
      lua_call(L, 3, 0);
    }
    lua_settop(L, EVENT_AT);
    mch_event_clear(event);
  }
  return 0;
}

int mch_levents_may_tell(lua_State *L, const struct lpool *lpool) {
  const struct mch_context *context;
  if (!lpool->listening || lpool->pool == NULL || !mch_pool_has_events(lpool->pool))
    return 0;
  context = mch_context_get(L);
  return !context->telling && context->inside == 0;
}

void mch_levents_tell(lua_State *L, struct lpool *lpool) {
  struct mch_context *context;
  int status;
  if (!mch_levents_may_tell(L, lpool))
    return;
  context = mch_context_get(L);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_pushcfunction(L, tell_all);
  lua_pushlightuserdata(L, lpool);
  context->telling = 1;
  lpool->handing++;
  status = lua_pcall(L, 1, 0, 0);
  lpool->handing--;
  context->telling = 0;
  if (status != LUA_OK)
    lua_error(L);
}

void mch_levents_tell_last(lua_State *L, struct lpool *lpool) {
  struct mch_context *context = mch_context_get(L);
  size_t patience = 100000; /* without memory nothing can be told */
  if (!lpool->listening || context->telling || !lua_checkstack(L, LUA_MINSTACK))
    return;
  mch_pool_end_all(lpool->pool);
  context->telling = 1;
  do { /* one that raises ends only its own call */
    lua_pushcfunction(L, tell_all);
    lua_pushlightuserdata(L, lpool);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK)
      lua_pop(L, 1);
  } while (mch_pool_has_events(lpool->pool) && patience-- > 0);
  context->telling = 0;
}

void mch_levents_prepare_take(lua_State *L, struct lpool *lpool) {
  const struct mch_context *context;
  if (!lpool->listening)
    return;
  context = mch_context_get(L);
  mch_pool_be_hasty(lpool->pool, context->inside > 0 && !context->telling);
}

/* -- emitting ----------------------------------------------------------------------------- */

static int never(void *ud) {
  (void)ud;
  return 0;
}

/* Wait until the pool has taken enough of what this worker has emitted; a stop is raised. Whether
 * anybody wants it. */
static int wait_for_room(lua_State *L, const struct mch_worker *worker, size_t length) {
  enum { SHORTEST = 50000, LONGEST = 5000000 }; /* nanoseconds */
  uint64_t pause = SHORTEST;
  int may;
  while ((may = mch_worker_may_emit(worker, length)) == 0) {
    mch_lwatch_check(L, 1);
    mch_sleep_until(mch_now() + pause, never, NULL);
    pause = 2 * pause < LONGEST ? 2 * pause : LONGEST;
  }
  return may > 0;
}

/* Engine "inline": the pool whose task runs. */
static void emit_inline(lua_State *L, struct mch_ltask *task, const struct mch_buf *buffer) {
  struct lpool *lpool = (struct lpool *)(void *)((char *)task - offsetof(struct lpool, task));
  if (mch_pool_emit(lpool->pool, task->context->runid, buffer->data, buffer->length) != 0)
    luaL_error(L, "not enough memory for emitted values");
  mch_levents_tell(L, lpool);
}

/* emit(...): to the listeners of the pool whose task this is. */
int mch_core_emit(lua_State *L) {
  const struct mch_context *context = mch_context_get(L);
  struct mch_encoder encoder;
  struct mch_buf *buffer;
  int count = lua_gettop(L);
  if (!context->running)
    return mch_lpool_raise_sentence(L, "emit is for tasks: none runs here");
  buffer = mch_lbuf_push(L);
  lua_insert(L, 1);
  memset(&encoder, 0, sizeof encoder);
  encoder.out = buffer;
  encoder.kind = MCH_SEND_EMITTED;
  encoder.stands_alone = context->task->recorded;
  lua_rawgeti(L, LUA_REGISTRYINDEX, context->task->baseline);
  lua_insert(L, 2);
  encoder.baseline = lua_istable(L, 2) ? 2 : 0;
  mch_encode(L, &encoder, 3, count);
  if (buffer->failed != 0)
    return luaL_error(L, "not enough memory to emit values");
  if (!context->task->watching)
    emit_inline(L, context->task, buffer);
  else if (wait_for_room(L, context->worker, buffer->length))
    mch_worker_emit(context->worker, buffer->data, buffer->length);
  mch_buf_free(buffer);
  return 0;
}

/* -- what was counted --------------------------------------------------------------------- */

static void set_span(lua_State *L, const char *name, const struct mch_time_span *span) {
  lua_createtable(L, 0, 3);
  set_seconds(L, "sum", span->sum);
  lua_pushnumber(L, span->count > 0 ? (lua_Number)span->sum / 1e9 / (lua_Number)span->count : 0.0);
  lua_setfield(L, -2, "mean");
  set_seconds(L, "max", span->most);
  lua_setfield(L, -2, name);
}

static void set_slots(lua_State *L, const struct mch_pool_stats *stats, const uint64_t *worked) {
  uint64_t now = mch_now(), span = now > stats->since ? now - stats->since : 1;
  size_t i;
  lua_createtable(L, (int)stats->slots, 0);
  for (i = 0; i < stats->slots; i++) {
    lua_Number share = (lua_Number)worked[i] / (lua_Number)span;
    lua_pushnumber(L, share < 1 ? share : 1.0);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "slots");
}

static void set_slowest(lua_State *L, const struct mch_tally *tally) {
  unsigned i;
  lua_createtable(L, (int)tally->slow, 0);
  for (i = 0; i < tally->slow; i++) {
    const struct mch_slow *slow = &tally->slowest[i];
    lua_createtable(L, 0, 5);
    mch_lpool_set_integer(L, "runid", (lua_Integer)slow->runid);
    if (slow->name[0] != '\0')
      set_text(L, "name", slow->name);
    if (slow->index > 0)
      mch_lpool_set_integer(L, "index", (lua_Integer)slow->index);
    set_seconds(L, "elapsed", slow->elapsed);
    set_text(L, "kind", mch_kind_word(slow->kind));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "slowest");
}

/* stats(pool): see pool.lua. */
int mch_core_stats(lua_State *L) {
  enum { MOST_SLOTS = 4096 + 2 };
  struct lpool *lpool = mch_lpool_check_pool(L);
  uint64_t *worked = lua_newuserdatauv(L, MOST_SLOTS * sizeof *worked, 0);
  struct mch_pool_stats stats;
  unsigned kind;
  mch_pool_stats(lpool->pool, &stats, worked, MOST_SLOTS);
  lua_createtable(L, 0, 20);
  for (kind = 0; kind < MCH_KIND_COUNT; kind++)
    mch_lpool_set_integer(L, mch_kind_word((enum mch_kind)kind),
                          (lua_Integer)stats.tally.ended[kind]);
  mch_lpool_set_integer(L, "retried", (lua_Integer)stats.tally.retried);
  mch_lpool_set_integer(L, "found", (lua_Integer)stats.tally.found);
  mch_lpool_set_integer(L, "queued", (lua_Integer)stats.queued);
  mch_lpool_set_integer(L, "running", (lua_Integer)stats.running);
  mch_lpool_set_integer(L, "unreceived", (lua_Integer)stats.unreceived);
  mch_lpool_set_integer(L, "bytes_sent", (lua_Integer)stats.tally.sent);
  mch_lpool_set_integer(L, "bytes_received", (lua_Integer)stats.tally.received);
  set_span(L, "waiting", &stats.tally.waiting);
  set_span(L, "working", &stats.tally.working);
  set_slots(L, &stats, worked);
  set_slowest(L, &stats.tally);
  return 1;
}
