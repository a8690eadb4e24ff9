/* Runs in: both. Purpose: latpbar.h.
 *
 * A loop is the iterator function, and a closing value that ends the bar when the loop is left by
 * `break` or an error. Both are one userdata, `struct loop`, which is an upvalue of the iterator.
 * An iteration is complete when the next one is asked for. */
#include "latpbar.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <lauxlib.h>

#include "bindings/context.h"
#include "bindings/lwatch.h"
#include "runtime/mantichora.h"
#include "bindings/notices.h"
#include "runtime/show/output.h"
#include "sinks.h"
#include "bindings/values/text.h"

/***
Progress bars, for loops and by hand, in tasks and outside.

The module is called like a function.

    local atpbar = require "mantichora.atpbar"
    for i in atpbar(1000, "name") do ... end

Bars go to stderr. On a terminal they are drawn at most ten times a second; elsewhere a line is
written at the start, at the end, and every 60 seconds. The environment variable MANTICHORA_PROGRESS
chooses: `auto`, `bar`, `text`, `json`, `off` or `eta`. A bar blocks only while the terminal accepts
its lines; in a worker it never does.
@module mantichora.atpbar
*/

static const char *const loop_type = "mantichora.atpbar.loop";
static const char *const bar_type = "mantichora.atpbar.bar";
static const char *const output_type = "mantichora.output";

/* Registry keys: their addresses. */
static const char output_key = 0, renderer_key = 0, complaint_key = 0;

/* --- the output of the state --- */

struct output_box {
  struct mch_output *out;
};

static int call_render(lua_State *L);

/* The state closes. Pools and loops, which are younger, have ended their bars: the last that sinks
 * and renderers are told. */
static void tell_the_end(lua_State *L, struct mch_output *out) {
  if (!lua_checkstack(L, 4))
    return;
  lua_pushcfunction(L, call_render);
  lua_pushlightuserdata(L, out);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK)
    lua_pop(L, 1);
}

/* Pools and loops that are finalized later still end their bars in it. */
static int output_gc(lua_State *L) {
  struct output_box *box = lua_touserdata(L, 1);
  if (box->out != NULL)
    tell_the_end(L, box->out);
  mch_output_unref(box->out);
  box->out = NULL;
  return 0;
}

static struct mch_output *new_output(lua_State *L) {
  struct mch_error error;
  struct output_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->out = NULL;
  if (luaL_newmetatable(L, output_type)) {
    lua_pushcfunction(L, output_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  box->out = mch_output_new(NULL, &error);
  if (box->out == NULL)
    luaL_error(L, "%s", error.text);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &output_key);
  return box->out;
}

struct mch_output *mch_atpbar_output(lua_State *L) {
  struct output_box *box;
  luaL_checkstack(L, 4, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &output_key);
  box = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return box != NULL && box->out != NULL ? box->out : new_output(L);
}

/* --- the renderer of the script --- */

static void set_integer(lua_State *L, const char *key, uint64_t value) {
  lua_pushinteger(L, value > LUA_MAXINTEGER ? LUA_MAXINTEGER : (lua_Integer)value);
  lua_setfield(L, -2, key);
}

static void set_string(lua_State *L, const char *key, const char *text, size_t length) {
  lua_pushlstring(L, text, length);
  lua_setfield(L, -2, key);
}

static void push_report(lua_State *L, const struct mch_report *report) {
  static const char *const events[] = {"start", "update", "end"};
  lua_createtable(L, 0, 12);
  lua_pushstring(L, events[report->event]);
  lua_setfield(L, -2, "event");
  set_integer(L, "id", report->key);
  set_string(L, "name", report->name, report->name_length);
  set_integer(L, "done", report->done);
  if (report->total != MCH_BAR_UNKNOWN)
    set_integer(L, "total", report->total);
  lua_pushnumber(L, (lua_Number)report->elapsed_ns / 1e9);
  lua_setfield(L, -2, "elapsed");
  if (report->of_tasks) {
    set_integer(L, "running", report->running);
    set_integer(L, "queued", mch_render_queued(report));
    set_integer(L, "failed", report->failed);
  }
  if (report->runid >= 0)
    set_integer(L, "runid", (uint64_t)report->runid);
  if (report->task != NULL)
    set_string(L, "task", report->task, report->task_length);
  if (report->event == MCH_REPORT_END) {
    lua_pushstring(L, mch_bar_end_word(report->how));
    lua_setfield(L, -2, "state");
  }
}

void mch_atpbar_choose_mode(lua_State *L) {
  struct mch_output *out = mch_atpbar_output(L);
  int told = mch_context_get(L)->sinks.progress != NULL;
  luaL_checkstack(L, 4, NULL);
  told |= lua_rawgetp(L, LUA_REGISTRYINDEX, &renderer_key) != LUA_TNIL;
  lua_pop(L, 1);
  mch_output_set_mode(out, told ? MCH_PROGRESS_REPORTS : MCH_PROGRESS_AUTO);
}

static void forget_renderer(lua_State *L) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &renderer_key);
  mch_atpbar_choose_mode(L);
}

/* Tell sinks, or the script's renderer, all that is new. */
static void render(lua_State *L, struct mch_output *out) {
  struct mch_report report;
  int stops;
  mch_sinks_output(L, out);
  if (mch_sinks_progress(L, out))
    return;
  luaL_checkstack(L, 6, NULL);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &renderer_key) == LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  while (mch_output_report(out, mch_output_now(out), &report)) {
    lua_pushvalue(L, -1);
    push_report(L, &report);
    stops = mch_lwatch_stops(L);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
      if (mch_lwatch_stops(L) == stops)
        forget_renderer(L);
      lua_error(L);
    }
  }
  lua_pop(L, 1);
}

static int call_render(lua_State *L) {
  render(L, lua_touserdata(L, 1));
  return 0;
}

/* The error on top, which is popped, is to be raised by the next mch_atpbar_pump(), if no other one
 * waits for that. */
static void keep_complaint(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &complaint_key) == LUA_TBOOLEAN) {
    lua_pushvalue(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &complaint_key); /* needs no memory: the key is there */
  }
  lua_pop(L, 2);
}

void mch_atpbar_tell(lua_State *L, struct mch_output *out) {
  int stops = mch_lwatch_stops(L);
  if (!mch_output_wants_owner(out, 0) || !lua_checkstack(L, 4))
    return;
  lua_pushcfunction(L, call_render);
  lua_pushlightuserdata(L, out);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK)
    return;
  if (mch_lwatch_caught(L, stops))
    lua_pop(L, 1);
  else
    keep_complaint(L);
}

void mch_atpbar_pump_quietly(lua_State *L) {
  struct mch_output *out = mch_atpbar_output(L);
  int stops = mch_lwatch_stops(L);
  const char *text;
  mch_output_pump(out, mch_output_now(out), 1);
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, call_render);
  lua_pushlightuserdata(L, out);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK)
    return;
  text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  if (strstr(text, "interrupted!") != NULL) /* Ctrl-C */
    lua_error(L);
  if (mch_lwatch_caught(L, stops))
    lua_pop(L, 1);
  else
    keep_complaint(L);
}

/* Raise what the renderer has raised when its error could not go on. */
static void complain(lua_State *L) {
  luaL_checkstack(L, 2, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &complaint_key);
  if (lua_toboolean(L, -1)) {
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &complaint_key);
    lua_error(L);
  }
  lua_pop(L, 1);
}

void mch_atpbar_pump(lua_State *L) {
  struct mch_output *out = mch_atpbar_output(L);
  mch_output_pump(out, mch_output_now(out), 1);
  render(L, out);
  complain(L);
}

/* --- bars --- */

/* What a loop and a bar object have in common. */
struct handle {
  struct mch_output *out;
  struct mch_bar *bar; /* NULL: ended, or progress is off */
  unsigned fast;       /* ticks in a row that came soon after the one before */
  unsigned skip;       /* so many ticks may be left out */
};

/* A loop that has been fast for so many ticks ticks once in 8 iterations from then on. Should it
 * become slow, it is late by no more than these. */
enum { FAST = 64, SKIP = 7 };

static void tick(lua_State *L, struct handle *handle) {
  int ticked = mch_output_tick(handle->out);
  handle->fast = ticked & MCH_TICK_SOON ? handle->fast + 1 : 0;
  handle->skip = handle->fast > FAST ? SKIP : 0;
  if (ticked & MCH_TICK_OWNER)
    render(L, handle->out);
}

static void store(lua_State *L, struct handle *handle, uint64_t done) {
  struct mch_bar *bar = handle->bar;
  if (bar == NULL)
    return;
  mch_bar_set(bar, done);
  if (!bar->ticking)
    return;
  if (handle->skip > 0)
    handle->skip--;
  else
    tick(L, handle);
}

static void finish(struct handle *handle, uint64_t done, uint64_t total, enum mch_bar_end how) {
  struct mch_bar *bar = handle->bar;
  handle->bar = NULL;
  if (bar != NULL)
    mch_output_bar_end(handle->out, bar, done, total, how);
}

static void release(struct handle *handle) {
  struct mch_output *out = handle->out;
  handle->out = NULL;
  mch_output_unref(out);
}

static void start(lua_State *L, struct handle *handle, const char *name, size_t length,
                  uint64_t total) {
  struct mch_context *context = mch_context_get(L);
  struct mch_bar_spec spec = {0};
  handle->out = mch_output_ref(mch_atpbar_output(L));
  if (context->hides_bars)
    return;
  spec.name = name;
  spec.name_length = length;
  spec.total = total;
  spec.loop = 1;
  spec.runid = -1;
  if (context->running) { /* of a worker's bars the process above knows it */
    spec.runid = (int64_t)context->runid;
    spec.task = context->name;
    spec.task_length = context->name_length;
  }
  handle->bar = mch_output_bar_start(handle->out, &spec);
  if (handle->bar != NULL && context->running && context->first_bar == 0)
    context->first_bar = handle->bar->key;
}

/* --- loops --- */

struct loop {
  struct handle handle; /* first: a loop is a handle */
  uint64_t done;        /* complete iterations */
  uint64_t total;
  int begun; /* an iteration is under way */
};

enum { LOOP_CLOSING = 1 }; /* user value: the closing value of the iterator inside */

static int loop_gc(lua_State *L) {
  struct loop *loop = lua_touserdata(L, 1);
  finish(&loop->handle, loop->done, loop->total, MCH_BAR_BROKEN);
  release(&loop->handle);
  return 0;
}

static int after_close(lua_State *L, int status, lua_KContext context) {
  (void)L;
  (void)status;
  (void)context;
  return 0;
}

/* Left before its end: the bar stays at the last complete iteration. Then what the inner iterator
 * wanted to have closed. */
static int loop_close(lua_State *L) {
  struct loop *loop = lua_touserdata(L, 1);
  finish(&loop->handle, loop->done, loop->total, MCH_BAR_BROKEN);
  lua_settop(L, 2);
  if (lua_isnil(L, 2) && loop->handle.out != NULL)
    render(L, loop->handle.out);
  if (lua_getiuservalue(L, 1, LOOP_CLOSING) == LUA_TNIL ||
      luaL_getmetafield(L, -1, "__close") == LUA_TNIL)
    return 0;
  lua_pushnil(L);
  lua_setiuservalue(L, 1, LOOP_CLOSING);
  lua_insert(L, -2);
  lua_pushvalue(L, 2);
  lua_callk(L, 2, 0, 0, after_close);
  return 0;
}

/* One more iteration has been completed, or the loop begins. */
static void step(lua_State *L, struct loop *loop) {
  loop->done += (uint64_t)loop->begun;
  loop->begun = 1;
  store(L, &loop->handle, loop->done);
}

/* The loop has come to its end by itself. */
static int stop(lua_State *L, struct loop *loop) {
  finish(&loop->handle, loop->done, loop->total, MCH_BAR_FINISHED);
  if (loop->handle.out != NULL)
    render(L, loop->handle.out);
  lua_pushnil(L);
  return 1;
}

static struct loop *loop_of(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

static int next_count(lua_State *L) {
  struct loop *loop = loop_of(L);
  step(L, loop);
  if (loop->done >= loop->total)
    return stop(L, loop);
  lua_pushinteger(L, (lua_Integer)(loop->done + 1));
  return 1;
}

static int next_item(lua_State *L) {
  struct loop *loop = loop_of(L);
  step(L, loop);
  if (loop->done >= loop->total)
    return stop(L, loop);
  lua_pushinteger(L, (lua_Integer)(loop->done + 1));
  if (lua_geti(L, lua_upvalueindex(2), (lua_Integer)(loop->done + 1)) == LUA_TNIL)
    return stop(L, loop);
  return 2;
}

static int next_pair(lua_State *L) {
  struct loop *loop = loop_of(L);
  step(L, loop);
  lua_settop(L, 2);
  return lua_next(L, lua_upvalueindex(2)) ? 2 : stop(L, loop);
}

/* What the inner iterator gave: on the stack above the two arguments. */
static int after_inner(lua_State *L, int status, lua_KContext context) {
  struct loop *loop = (struct loop *)context;
  (void)status;
  if (lua_isnoneornil(L, 3))
    return stop(L, loop);
  return lua_gettop(L) - 2;
}

static int next_inner(lua_State *L) {
  struct loop *loop = loop_of(L);
  step(L, loop);
  lua_settop(L, 2);
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_callk(L, 2, LUA_MULTRET, (lua_KContext)loop, after_inner);
  return after_inner(L, LUA_OK, (lua_KContext)loop);
}

static struct loop *new_loop(lua_State *L) {
  struct loop *loop = lua_newuserdatauv(L, sizeof *loop, 1);
  memset(loop, 0, sizeof *loop);
  luaL_setmetatable(L, loop_type);
  return loop;
}

/* --- names --- */

/* A name for who gives none: what Python's repr() would show, "range(0, 10)" or "[1, 2, 3]". */
struct namer {
  char text[128];
  size_t length;
};

static void add(struct namer *namer, const char *text, size_t length) {
  size_t room = sizeof namer->text - namer->length;
  size_t count = length < room ? length : room;
  memcpy(namer->text + namer->length, text, count);
  namer->length += count;
}

static void add_string(struct namer *namer, const char *text) {
  add(namer, text, strlen(text));
}

static void add_quoted(lua_State *L, struct namer *namer, int index) {
  size_t length;
  const char *text = lua_tolstring(L, index, &length);
  add_string(namer, "'");
  add(namer, text, length);
  add_string(namer, "'");
}

/* One value on the top of the stack, which is popped. Nothing is called. */
static void add_value(lua_State *L, struct namer *namer) {
  switch (lua_type(L, -1)) {
  case LUA_TSTRING:
    add_quoted(L, namer, -1);
    break;
  case LUA_TNUMBER:
    add_string(namer, mch_text_push(L, -1));
    lua_pop(L, 1);
    break;
  case LUA_TBOOLEAN:
    add_string(namer, lua_toboolean(L, -1) ? "true" : "false");
    break;
  default:
    add_string(namer, luaL_typename(L, -1));
  }
  lua_pop(L, 1);
}

static void name_list(lua_State *L, struct namer *namer, int index, lua_Integer count) {
  lua_Integer i;
  add_string(namer, "[");
  for (i = 1; i <= count && namer->length < sizeof namer->text; i++) {
    if (i > 1)
      add_string(namer, ", ");
    lua_rawgeti(L, index, i);
    add_value(L, namer);
  }
  add_string(namer, "]");
}

static void name_pairs(lua_State *L, struct namer *namer, int index) {
  int first = 1;
  add_string(namer, "{");
  lua_pushnil(L);
  while (lua_next(L, index)) {
    if (!first)
      add_string(namer, ", ");
    first = 0;
    lua_pushvalue(L, -2);
    add_value(L, namer);
    add_string(namer, ": ");
    add_value(L, namer);
    if (namer->length == sizeof namer->text) {
      lua_pop(L, 1);
      break;
    }
  }
  add_string(namer, "}");
}

/* --- the module's functions --- */

/* The name at `index`, or what the namer has. */
static void start_loop(lua_State *L, struct loop *loop, int index, const struct namer *namer) {
  size_t length = namer->length;
  const char *name = luaL_optlstring(L, index, NULL, &length);
  if (name == NULL)
    start(L, &loop->handle, namer->text, namer->length, loop->total);
  else
    start(L, &loop->handle, name, length, loop->total);
}

static void check_name(lua_State *L, int index) {
  if (!lua_isnoneornil(L, index) && lua_type(L, index) != LUA_TSTRING)
    luaL_argerror(L, index,
                  lua_pushfstring(L, "name: string expected, got %s", luaL_typename(L, index)));
}

static int loop_over_count(lua_State *L) {
  struct namer namer = {{0}, 0};
  lua_Integer count = luaL_checkinteger(L, 1);
  struct loop *loop = new_loop(L);
  loop->total = count > 0 ? (uint64_t)count : 0;
  add_string(&namer, lua_pushfstring(L, "range(0, %I)", (LUAI_UACINT)count));
  lua_pop(L, 1);
  start_loop(L, loop, 2, &namer);
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, next_count, 1);
  lua_pushnil(L);
  lua_pushnil(L);
  lua_rotate(L, -4, -1);
  return 4;
}

static int loop_over_list(lua_State *L) {
  struct namer namer = {{0}, 0};
  lua_Integer count = luaL_len(L, 1);
  struct loop *loop = new_loop(L);
  loop->total = count > 0 ? (uint64_t)count : 0;
  if (lua_isnoneornil(L, 2))
    name_list(L, &namer, 1, count);
  start_loop(L, loop, 2, &namer);
  lua_pushvalue(L, -1);
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, next_item, 2);
  lua_pushnil(L);
  lua_pushnil(L);
  lua_rotate(L, -4, -1);
  return 4;
}

/* A table, or a userdata that can be indexed. */
static int is_list(lua_State *L, int index) {
  if (!lua_isuserdata(L, index) || luaL_getmetafield(L, index, "__index") == LUA_TNIL)
    return lua_istable(L, index);
  lua_pop(L, 1);
  return 1;
}

/***
Loop with a progress bar: `for i in atpbar(n, name)` counts from 1 to n,
`for i, v in atpbar(list, name)` walks a sequence. The bar ends with the loop; when the loop is left
by `break` or an error, the bar stays at the last complete iteration.
@function atpbar
@param what integer, or list
@string[opt] name the label; a description of `what` by default
@return what a generic `for` takes: iterator, nil, nil, closing value
@raise an argument that is neither
*/
static int atpbar_call(lua_State *L) {
  mch_notices_tell(L);
  lua_remove(L, 1); /* the module itself */
  lua_settop(L, 2);
  if (!is_list(L, 1) &&
      lua_type(L, 1) != LUA_TNUMBER) /* a `for` without the call has other names */
    return luaL_error(L, "bad argument #1 to 'atpbar' (count or list expected, got %s)",
                      luaL_typename(L, 1));
  check_name(L, 2);
  return lua_type(L, 1) == LUA_TNUMBER ? loop_over_count(L) : loop_over_list(L);
}

/* The iterator inside stands at first .. first + 3: function, state, control, closing value. */
static int loop_over_iterator(lua_State *L, struct loop *loop, int first) {
  int self = lua_gettop(L);
  lua_pushvalue(L, first + 3);
  lua_setiuservalue(L, self, LOOP_CLOSING);
  lua_pushvalue(L, self);
  lua_pushvalue(L, first);
  lua_pushcclosure(L, next_inner, 2);
  lua_pushvalue(L, first + 1);
  lua_pushvalue(L, first + 2);
  lua_pushvalue(L, self);
  (void)loop;
  return 4;
}

static uint64_t count_pairs(lua_State *L, int index) {
  uint64_t count = 0;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    count++;
  }
  return count;
}

static int loop_over_table(lua_State *L) {
  struct namer namer = {{0}, 0};
  struct loop *loop = new_loop(L);
  int self = lua_gettop(L);
  loop->total = count_pairs(L, 1);
  if (lua_isnoneornil(L, 2))
    name_pairs(L, &namer, 1);
  start_loop(L, loop, 2, &namer);
  lua_pushvalue(L, self);
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, next_pair, 2);
  lua_pushvalue(L, 1);
  lua_pushnil(L);
  lua_pushvalue(L, self);
  return 4;
}

/***
Loop over the pairs of a table with a progress bar. With a `__pairs` metamethod the total is not
known.
@function pairs
@param t table, or value with `__pairs`
@string[opt] name the label
@return what a generic `for` takes: iterator, state, control, closing value
@raise a value that has no pairs
*/
static int atpbar_pairs(lua_State *L) {
  struct namer namer = {{0}, 0};
  struct loop *loop;
  mch_notices_tell(L);
  lua_settop(L, 2);
  check_name(L, 2);
  if (luaL_getmetafield(L, 1, "__pairs") == LUA_TNIL) {
    luaL_checktype(L, 1, LUA_TTABLE);
    return loop_over_table(L);
  }
  lua_pushvalue(L, 1);
  lua_call(L, 1, 3);
  lua_pushnil(L); /* 3 .. 6: function, state, control, nothing to close */
  loop = new_loop(L);
  loop->total = MCH_BAR_UNKNOWN;
  add_string(&namer, luaL_tolstring(L, 1, NULL));
  lua_pop(L, 1);
  start_loop(L, loop, 2, &namer);
  return loop_over_iterator(L, loop, 3);
}

/* nil or an integer; below zero is zero. */
static uint64_t check_total(lua_State *L, int index) {
  lua_Integer total;
  if (lua_isnoneornil(L, index))
    return MCH_BAR_UNKNOWN;
  total = luaL_checkinteger(L, index);
  return total > 0 ? (uint64_t)total : 0;
}

/***
Loop over any iterator with a progress bar: `for line in atpbar.wrap(100, "lines", io.lines(f))`.
@function wrap
@int[opt] total how many iterations are expected; nil: not known, count and rate are shown
@string[opt] name the label
@param ... what a generic `for` takes: function, state, control, closing value
@return the same, with a bar; the closing value is closed when the loop is left
@raise a missing iterator
*/
static int atpbar_wrap(lua_State *L) {
  struct namer namer = {{0}, 0};
  struct loop *loop;
  uint64_t total = check_total(L, 1);
  mch_notices_tell(L);
  check_name(L, 2);
  if (lua_isnoneornil(L, 3))
    return luaL_argerror(L, 3,
                         lua_pushfstring(L, "iterator expected, got %s", luaL_typename(L, 3)));
  lua_settop(L, 6);
  loop = new_loop(L);
  loop->total = total;
  add_string(&namer, luaL_tolstring(L, 3, NULL));
  lua_pop(L, 1);
  start_loop(L, loop, 2, &namer);
  return loop_over_iterator(L, loop, 3);
}

/* --- bar objects --- */

struct bar {
  struct handle handle;
  uint64_t done, total;
  int closed;
};

static struct bar *check_bar(lua_State *L) {
  struct bar *bar = luaL_checkudata(L, 1, bar_type);
  if (bar->closed)
    luaL_argerror(L, 1, "bar is closed");
  return bar;
}

/* Fields of the options: `name` and `total`. */
static void check_options(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_pushnil(L);
  while (lua_next(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
    if (strcmp(key, "name") != 0 && strcmp(key, "total") != 0)
      luaL_argerror(L, 1,
                    lua_pushfstring(L, "unknown option '%s': 'name' and 'total' are known", key));
    lua_pop(L, 1);
  }
}

static uint64_t option_total(lua_State *L) {
  int whole;
  lua_Integer total;
  if (lua_getfield(L, 1, "total") == LUA_TNIL) {
    lua_pop(L, 1);
    return MCH_BAR_UNKNOWN;
  }
  total = lua_tointegerx(L, -1, &whole);
  if (!whole)
    luaL_argerror(L, 1,
                  lua_pushfstring(L, "total: integer expected, got %s", luaL_typename(L, -1)));
  lua_pop(L, 1);
  return total > 0 ? (uint64_t)total : 0;
}

/***
A bar that your code advances: `local bar <close> = atpbar.bar{ name = "copy", total = 100 }`.
@function bar
@tparam table options `name`, a string; `total`, an integer (nil: not known, count and rate are
shown)
@treturn bar the bar, which should stand in a `<close>` variable
@raise an unknown option, or one of the wrong type
*/
static int atpbar_bar(lua_State *L) {
  struct bar *bar;
  size_t length = 0;
  const char *name = "";
  uint64_t total;
  mch_notices_tell(L);
  lua_settop(L, 1);
  check_options(L);
  total = option_total(L);
  if (lua_getfield(L, 1, "name") != LUA_TNIL && lua_type(L, -1) != LUA_TSTRING)
    return luaL_argerror(L, 1,
                         lua_pushfstring(L, "name: string expected, got %s", luaL_typename(L, -1)));
  if (!lua_isnil(L, -1))
    name = lua_tolstring(L, -1, &length);
  bar = lua_newuserdatauv(L, sizeof *bar, 0);
  memset(bar, 0, sizeof *bar);
  bar->total = total;
  luaL_setmetatable(L, bar_type);
  start(L, &bar->handle, name, length, total);
  return 1;
}

/***
A bar that your code advances.
@type bar
*/

/***
Add to the count.
@function add
@int[opt=1] n how many to add; negative: subtract, but not below 0
@treturn bar itself
@raise `bar is closed`
*/
static int bar_add(lua_State *L) {
  struct bar *bar = check_bar(L);
  lua_Integer count = luaL_optinteger(L, 2, 1);
  uint64_t step = count < 0 ? 0 - (uint64_t)count : (uint64_t)count;
  if (count < 0)
    bar->done -= step < bar->done ? step : bar->done;
  else
    bar->done += step;
  store(L, &bar->handle, bar->done);
  lua_settop(L, 1);
  return 1;
}

/***
Set the count.
@function set
@int n how many are done
@treturn bar itself
@raise `bar is closed`
*/
static int bar_set(lua_State *L) {
  struct bar *bar = check_bar(L);
  lua_Integer done = luaL_checkinteger(L, 2);
  bar->done = done > 0 ? (uint64_t)done : 0;
  store(L, &bar->handle, bar->done);
  lua_settop(L, 1);
  return 1;
}

/***
Set the total.
@function set_total
@int[opt] total how many there are; nil: not known
@treturn bar itself
@raise `bar is closed`
*/
static int bar_set_total(lua_State *L) {
  struct bar *bar = check_bar(L);
  bar->total = check_total(L, 2);
  if (bar->handle.bar != NULL)
    mch_bar_set_total(bar->handle.bar, bar->total);
  store(L, &bar->handle, bar->done);
  lua_settop(L, 1);
  return 1;
}

static void close_bar(struct bar *bar) {
  int whole = bar->total == MCH_BAR_UNKNOWN || bar->done >= bar->total;
  bar->closed = 1;
  finish(&bar->handle, bar->done, bar->total, whole ? MCH_BAR_FINISHED : MCH_BAR_BROKEN);
}

/***
End the bar where it is, as leaving the scope of a `<close>` variable does. Closing twice does no
harm.
@function close
*/
static int bar_close(lua_State *L) {
  struct bar *bar = luaL_checkudata(L, 1, bar_type);
  close_bar(bar);
  if (lua_isnoneornil(L, 2) && bar->handle.out != NULL)
    render(L, bar->handle.out);
  return 0;
}

static int bar_gc(lua_State *L) {
  struct bar *bar = luaL_checkudata(L, 1, bar_type);
  close_bar(bar);
  release(&bar->handle);
  return 0;
}

/* --- the rest of the module --- */

/***
@section end
*/

/***
Draw all bars and write all lines now.
@function flush
@blocks until they are written
*/
static int atpbar_flush(lua_State *L) {
  struct mch_output *out = mch_atpbar_output(L);
  mch_notices_tell(L);
  mch_output_draw(out);
  render(L, out);
  complain(L);
  return 0;
}

/***
Show no progress from now on.
@function disable
*/
static int atpbar_disable(lua_State *L) {
  struct mch_output *out = mch_atpbar_output(L);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &renderer_key);
  mch_output_set_mode(out, MCH_PROGRESS_OFF);
  return 0;
}

/***
Let a function show progress. It is called as `f(report)`, inside of calls of this library only, on
the caller's thread. A report is a table with `event` ("start", "update" or "end"), `id`, `name`,
`done`, `total` (nil: not known), `elapsed` (seconds); of a task's bar also `runid` and `task`; of a
pool's bar (`poolbar = true`) the numbers of tasks `running`, `queued` and `failed`; at the end
`state` ("finished", "broken", or the kind of the task's end). An error in `f` reaches the caller of
the library, and `f` is called no more.
@function set_renderer
@tparam[opt] function f nil: bars are shown as before
@raise an argument that is not a function
*/
static int atpbar_set_renderer(lua_State *L) {
  lua_settop(L, 1);
  if (!lua_isnil(L, 1))
    luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushboolean(L, 0);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &complaint_key);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &renderer_key);
  mch_atpbar_choose_mode(L);
  return 0;
}

/***
Choose the line of bars on a terminal: "atpbar", the original's, or "eta", with elapsed and
remaining time and rate. A user who sets MANTICHORA_PROGRESS=eta gets the latter in any case.
@function set_style
@tparam string name "atpbar" or "eta"
@raise another name
*/
static int atpbar_set_style(lua_State *L) {
  static const char *const names[] = {"atpbar", "eta", NULL};
  static const enum mch_tty_style styles[] = {MCH_TTY_PLAIN, MCH_TTY_ETA};
  mch_output_set_style(mch_atpbar_output(L), styles[luaL_checkoption(L, 1, NULL, names)]);
  return 0;
}

static void new_loop_type(lua_State *L) {
  static const luaL_Reg metamethods[] = {
      {"__gc", loop_gc},
      {"__close", loop_close},
      {NULL, NULL},
  };
  luaL_newmetatable(L, loop_type);
  luaL_setfuncs(L, metamethods, 0);
  lua_pop(L, 1);
}

static void new_bar_type(lua_State *L) {
  static const luaL_Reg metamethods[] = {
      {"__gc", bar_gc},
      {"__close", bar_close},
      {NULL, NULL},
  };
  static const luaL_Reg methods[] = {
      {"add", bar_add},     {"set", bar_set}, {"set_total", bar_set_total},
      {"close", bar_close}, {NULL, NULL},
  };
  luaL_newmetatable(L, bar_type);
  luaL_setfuncs(L, metamethods, 0);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

int luaopen_mantichora_atpbar(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"pairs", atpbar_pairs},
      {"wrap", atpbar_wrap},
      {"bar", atpbar_bar},
      {"flush", atpbar_flush},
      {"disable", atpbar_disable},
      {"set_renderer", atpbar_set_renderer},
      {"set_style", atpbar_set_style},
      {NULL, NULL},
  };
  new_loop_type(L);
  new_bar_type(L);
  luaL_newlib(L, functions);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, atpbar_call);
  lua_setfield(L, -2, "__call");
  lua_setmetatable(L, -2);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "mantichora.atpbar");
  lua_pop(L, 1);
  return 1;
}
