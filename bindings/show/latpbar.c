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
#include "bindings/notices.h"
#include "runtime/show/output.h"
#include "lattach.h"
#include "loutput.h"
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

/* --- bars --- */

/* What a loop and a bar object have in common. */
struct handle {
  struct mch_output *out;
  struct mch_bar *bar; /* NULL: ended, or there is none */
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
    mch_loutput_render(L, handle->out);
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

static void start_as(lua_State *L, struct handle *handle, const struct mch_bar_spec *wish) {
  struct mch_context *context = mch_context_get(L);
  struct mch_bar_spec spec = *wish;
  handle->out = mch_output_ref(mch_loutput_get(L));
  if (context->hides_bars)
    return;
  mch_lattach_begin(L);
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

static void start(lua_State *L, struct handle *handle, const char *name, size_t length,
                  uint64_t total) {
  struct mch_bar_spec spec = {0};
  spec.name = name;
  spec.name_length = length;
  spec.total = total;
  start_as(L, handle, &spec);
}

/* How a bar ends whose loop or scope is left, with the error at `index` or without. */
static enum mch_bar_end how_left(lua_State *L, int index) {
  if (lua_isnoneornil(L, index))
    return MCH_BAR_BROKEN;
  if (lua_type(L, index) == LUA_TSTRING && strstr(lua_tostring(L, index), "interrupted!") != NULL)
    return MCH_BAR_CANCELLED;
  return MCH_BAR_ERROR;
}

/* The same for a bar that nobody has any more. */
static void forget(struct handle *handle, uint64_t done, uint64_t total) {
  struct mch_output *out = handle->out;
  if (handle->bar == NULL)
    return;
  mch_output_finalize(out, 1);
  finish(handle, done, total, MCH_BAR_BROKEN);
  mch_output_finalize(out, 0);
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
  forget(&loop->handle, loop->done, loop->total);
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
  finish(&loop->handle, loop->done, loop->total, how_left(L, 2));
  lua_settop(L, 2);
  if (lua_isnil(L, 2) && loop->handle.out != NULL)
    mch_loutput_render(L, loop->handle.out);
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
    mch_loutput_render(L, loop->handle.out);
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

static uint64_t check_total(lua_State *L, int index) {
  lua_Integer total;
  if (lua_isnoneornil(L, index))
    return MCH_BAR_UNKNOWN;
  total = luaL_checkinteger(L, index);
  if (total < 0)
    luaL_argerror(
        L, index,
        lua_pushfstring(L, "total must not be negative: %I is given", (LUAI_UACINT)total));
  return (uint64_t)total;
}

static int loop_over_count(lua_State *L) {
  struct namer namer = {{0}, 0};
  lua_Integer count = luaL_checkinteger(L, 1);
  uint64_t total = check_total(L, 1);
  struct loop *loop = new_loop(L);
  loop->total = total;
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

/* nil or an integer from zero. */
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

static int is_option(const char *key) {
  static const char *const known[] = {"name", "total", "unit", "leave", NULL};
  int i = 0;
  while (known[i] != NULL && strcmp(key, known[i]) != 0)
    i++;
  return known[i] != NULL;
}

static void check_options(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_pushnil(L);
  while (lua_next(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
    if (!is_option(key))
      luaL_argerror(
          L, 1,
          lua_pushfstring(L, "unknown option '%s': 'name', 'total', 'unit' and 'leave' are known",
                          key));
    lua_pop(L, 1);
  }
}

static enum mch_bar_unit option_unit(lua_State *L) {
  const char *word;
  int unit;
  if (lua_getfield(L, 1, "unit") == LUA_TNIL) {
    lua_pop(L, 1);
    return MCH_UNIT_NONE;
  }
  word = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  for (unit = MCH_UNIT_NONE + 1; unit < MCH_UNITS; unit++)
    if (strcmp(word, mch_bar_unit_word((enum mch_bar_unit)unit)) == 0)
      break;
  if (unit == MCH_UNITS)
    luaL_argerror(L, 1,
                  lua_pushfstring(L, "unit: \"B\" or \"iB\" expected, got %s",
                                  *word != '\0' ? word : luaL_typename(L, -1)));
  lua_pop(L, 1);
  return (enum mch_bar_unit)unit;
}

static enum mch_bar_leave option_leave(lua_State *L) {
  enum mch_bar_leave leave = MCH_LEAVE_ALWAYS;
  if (lua_getfield(L, 1, "leave") != LUA_TNIL && lua_type(L, -1) != LUA_TBOOLEAN)
    luaL_argerror(
        L, 1, lua_pushfstring(L, "leave: true or false expected, got %s", luaL_typename(L, -1)));
  if (lua_isboolean(L, -1) && !lua_toboolean(L, -1))
    leave = MCH_LEAVE_NEVER;
  lua_pop(L, 1);
  return leave;
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
  if (total < 0)
    luaL_argerror(
        L, 1, lua_pushfstring(L, "total must not be negative: %I is given", (LUAI_UACINT)total));
  lua_pop(L, 1);
  return (uint64_t)total;
}

/***
A bar that your code advances: `local bar <close> = atpbar.bar{ name = "copy", total = 100 }`.
@function bar
@tparam table options `name`, a string; `total`, an integer from 0 (nil: not known, count and rate
are shown, as they are beyond it); `unit`, `"B"` or `"iB"`: the numbers are bytes, shown as
`3.00M / 1.00G` in powers of 1000, or of 1024; `leave`, false: its line goes from the terminal when
it has ended
@treturn bar the bar, which should stand in a `<close>` variable
@raise an unknown option, or one of the wrong type
*/
static int atpbar_bar(lua_State *L) {
  struct bar *bar;
  struct mch_bar_spec spec = {0};
  mch_notices_tell(L);
  lua_settop(L, 1);
  check_options(L);
  spec.name = "";
  spec.total = option_total(L);
  spec.unit = option_unit(L);
  spec.leave = option_leave(L);
  if (lua_getfield(L, 1, "name") != LUA_TNIL && lua_type(L, -1) != LUA_TSTRING)
    return luaL_argerror(L, 1,
                         lua_pushfstring(L, "name: string expected, got %s", luaL_typename(L, -1)));
  if (!lua_isnil(L, -1))
    spec.name = lua_tolstring(L, -1, &spec.name_length);
  bar = lua_newuserdatauv(L, sizeof *bar, 0);
  memset(bar, 0, sizeof *bar);
  bar->total = spec.total;
  luaL_setmetatable(L, bar_type);
  start_as(L, &bar->handle, &spec);
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

/***
Give it another name.
@function set_name
@string name the name
@treturn bar itself
@raise `bar is closed`
*/
static int bar_set_name(lua_State *L) {
  struct bar *bar = check_bar(L);
  size_t length;
  const char *name;
  luaL_checktype(L, 2, LUA_TSTRING);
  name = lua_tolstring(L, 2, &length);
  mch_output_bar_name(bar->handle.out, bar->handle.bar, name, length);
  store(L, &bar->handle, bar->done);
  lua_settop(L, 1);
  return 1;
}

/* With the error at `index`, or without. */
static void close_bar(lua_State *L, struct bar *bar, int index) {
  enum mch_bar_end how = how_left(L, index);
  if (how == MCH_BAR_BROKEN && (bar->total == MCH_BAR_UNKNOWN || bar->done >= bar->total))
    how = MCH_BAR_FINISHED;
  bar->closed = 1;
  finish(&bar->handle, bar->done, bar->total, how);
}

/***
End the bar where it is, as leaving the scope of a `<close>` variable does. Closing twice does no
harm.
@function close
*/
static int bar_close(lua_State *L) {
  struct bar *bar = luaL_checkudata(L, 1, bar_type);
  close_bar(L, bar, 2);
  if (lua_isnoneornil(L, 2) && bar->handle.out != NULL)
    mch_loutput_render(L, bar->handle.out);
  return 0;
}

static int bar_gc(lua_State *L) {
  struct bar *bar = luaL_checkudata(L, 1, bar_type);
  bar->closed = 1;
  forget(&bar->handle, bar->done, bar->total);
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
  struct mch_output *out = mch_loutput_get(L);
  mch_notices_tell(L);
  mch_output_draw(out);
  mch_loutput_render(L, out);
  mch_loutput_complain(L);
  return 0;
}

/***
Show no progress from now on. Who watches the script from outside sees it.
@function disable
*/
static int atpbar_disable(lua_State *L) {
  lua_pushnil(L);
  mch_loutput_set_renderer(L);
  mch_output_set_mode(mch_loutput_get(L), MCH_PROGRESS_OFF);
  return 0;
}

/***
Let a function show progress. It is called as `f(report)`, inside of calls of this library only, on
the caller's thread. A report is a table with `event` ("start", "update" or "end"), `id`, `name`,
`done`, `total` (nil: not known), `elapsed` (seconds); of a task's bar also `runid` and `task`; of a
pool's bar (`poolbar = true`) the numbers of tasks `running`, `queued`, `failed` and `cancelled`; of
a bar of bytes `unit`; at the end
`state` ("finished", "broken", or the kind of the task's end). An error in `f` is logged once at
ERROR by the logger `mantichora`; `f` is then called no more, and bars are shown as before.
@function set_renderer
@tparam[opt] function f nil: bars are shown as before
@raise an argument that is not a function
*/
static int atpbar_set_renderer(lua_State *L) {
  lua_settop(L, 1);
  if (!lua_isnil(L, 1))
    luaL_checktype(L, 1, LUA_TFUNCTION);
  mch_loutput_set_renderer(L);
  mch_loutput_choose_mode(L);
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
  mch_output_set_style(mch_loutput_get(L), styles[luaL_checkoption(L, 1, NULL, names)]);
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
      {"add", bar_add},           {"set", bar_set},     {"set_total", bar_set_total},
      {"set_name", bar_set_name}, {"close", bar_close}, {NULL, NULL},
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
