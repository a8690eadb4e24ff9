/* Runs in: both. Purpose: loutput.h. */
#include "loutput.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/context.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"
#include "runtime/show/output.h"
#include "sinks.h"

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

struct mch_output *mch_loutput_get(lua_State *L) {
  struct output_box *box;
  struct mch_output *out;
  luaL_checkstack(L, 4, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &output_key);
  box = lua_touserdata(L, -1);
  lua_pop(L, 1);
  out = box != NULL && box->out != NULL ? box->out : new_output(L);
  mch_output_may_die(out, !mch_context_get(L)->embedded);
  return out;
}

/* --- what is to be logged --- */

static void log_trouble(lua_State *L, int trouble, int cause) {
  const char *word = getenv("MANTICHORA_PROGRESS");
  if (trouble == MCH_TROUBLE_MODE) {
    lua_pushfstring(L, "MANTICHORA_PROGRESS is '%s': auto, bar, text, json, off or eta is expected",
                    word != NULL ? word : "");
    mch_notices_warn(L, lua_tostring(L, -1));
  } else {
    lua_pushfstring(L, "output to %s cannot be written and is lost: %s",
                    trouble == MCH_TROUBLE_STDOUT ? "stdout" : "stderr", strerror(cause));
    mch_notices_error(L, lua_tostring(L, -1));
  }
  lua_pop(L, 1);
}

static void log_troubles(lua_State *L, struct mch_output *out) {
  int trouble, cause;
  while ((trouble = mch_output_trouble(out, &cause)) != 0) {
    luaL_checkstack(L, 4, NULL);
    log_trouble(L, trouble, cause);
  }
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
    set_integer(L, "cancelled", report->cancelled);
  }
  if (report->unit != MCH_UNIT_NONE) {
    lua_pushstring(L, mch_bar_unit_word(report->unit));
    lua_setfield(L, -2, "unit");
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

void mch_loutput_choose_mode(lua_State *L) {
  struct mch_output *out = mch_loutput_get(L);
  int told = mch_context_get(L)->sinks.progress != NULL;
  luaL_checkstack(L, 4, NULL);
  told |= lua_rawgetp(L, LUA_REGISTRYINDEX, &renderer_key) != LUA_TNIL;
  lua_pop(L, 1);
  mch_output_set_mode(out, told ? MCH_PROGRESS_REPORTS : MCH_PROGRESS_AUTO);
}

void mch_loutput_set_renderer(lua_State *L) {
  lua_pushboolean(L, 0);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &complaint_key);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &renderer_key);
}

static int describe_error(lua_State *L) {
  lua_pushliteral(L, "the renderer failed and is not called any more: ");
  luaL_tolstring(L, 1, NULL);
  lua_concat(L, 2);
  return 1;
}

/* The renderer has raised the error on top, which is popped. It is told of once: it is set no more.
 */
static void drop_renderer(lua_State *L) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &renderer_key);
  mch_loutput_choose_mode(L);
  lua_pushcfunction(L, describe_error);
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) { /* its __tostring raised */
    lua_pop(L, 1);
    lua_pushliteral(L, "the renderer failed and is not called any more");
  }
  mch_notices_error(L, lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* Whether the error on top is for whoever runs this code: that of Ctrl-C, or of a stop (there were
 * so many before). */
static int goes_on(lua_State *L, int stops) {
  return mch_lwatch_stops(L) != stops ||
         (lua_type(L, -1) == LUA_TSTRING && strstr(lua_tostring(L, -1), "interrupted!") != NULL);
}

/* Tell sinks, or the script's renderer, all that is new. */
void mch_loutput_render(lua_State *L, struct mch_output *out) {
  struct mch_context *context = mch_context_get(L);
  struct mch_report report;
  int stops, status;
  log_troubles(L, out);
  mch_sinks_output(L, out);
  if (mch_sinks_progress(L, out))
    return;
  luaL_checkstack(L, 8, NULL);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &renderer_key) == LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  while (mch_output_report(out, mch_output_now(out), &report)) {
    lua_pushvalue(L, -1);
    push_report(L, &report);
    stops = mch_lwatch_stops(L);
    context->inside++;
    status = lua_pcall(L, 1, 0, 0);
    context->inside--;
    if (status == LUA_OK)
      continue;
    if (goes_on(L, stops))
      lua_error(L);
    drop_renderer(L);
    break;
  }
  lua_pop(L, 1);
}

static int call_render(lua_State *L) {
  mch_loutput_render(L, lua_touserdata(L, 1));
  return 0;
}

/* The error on top, which is popped, is to be raised by the next mch_loutput_pump(), if no other
 * one waits for that. */
static void keep_complaint(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &complaint_key) == LUA_TBOOLEAN) {
    lua_pushvalue(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &complaint_key); /* needs no memory: the key is there */
  }
  lua_pop(L, 2);
}

void mch_loutput_tell(lua_State *L, struct mch_output *out) {
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

void mch_loutput_pump_quietly(lua_State *L) {
  struct mch_output *out = mch_loutput_get(L);
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

/* Raise what the renderer has let through when that could not go on. */
void mch_loutput_complain(lua_State *L) {
  luaL_checkstack(L, 2, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &complaint_key);
  if (lua_toboolean(L, -1)) {
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &complaint_key);
    lua_error(L);
  }
  lua_pop(L, 1);
}

void mch_loutput_pump(lua_State *L) {
  struct mch_output *out = mch_loutput_get(L);
  mch_output_pump(out, mch_output_now(out), 1);
  mch_loutput_render(L, out);
  mch_loutput_complain(L);
}
