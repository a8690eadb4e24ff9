/* Runs in: both. Purpose: ltrace.h. */
#include "ltrace.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

#include "bindings/notices.h"
#include "bindings/show/loutput.h"
#include "runtime/watch/trace.h"

#define TYPE "mantichora records"

/* The state closes. Pools, which are younger, have ended; the output is older. */
static int records_gc(lua_State *L) {
  struct mch_context *context = mch_context_find(L);
  struct mch_error error;
  struct mch_trace *trace;
  if (context == NULL || (trace = context->trace) == NULL)
    return 0;
  context->trace = NULL;
  mch_trace_finish(trace);
  if (mch_trace_problem(trace, &error)) {
    fprintf(stderr, "ERROR:mantichora:the trace ends early: %s\n", error.text);
    fflush(stderr);
  }
  mch_trace_close(trace);
  return 0;
}

/* What the run is called: its script. */
static const char *push_script(lua_State *L) {
  const char *name = NULL;
  if (lua_getglobal(L, "arg") == LUA_TTABLE) {
    lua_rawgeti(L, -1, 0);
    lua_remove(L, -2);
    if (lua_type(L, -1) == LUA_TSTRING)
      name = lua_tostring(L, -1);
  }
  return name != NULL ? name : "lua";
}

static const char *wanted(const char *given, const char *variable) {
  const char *value = given != NULL ? given : getenv(variable);
  return value != NULL && value[0] != '\0' ? value : NULL;
}

static void log_refusal(lua_State *L, const char *what, const struct mch_error *error) {
  lua_pushfstring(L, "there is no %s of this run: %s", what, error->text);
  mch_notices_error(L, lua_tostring(L, -1));
  lua_pop(L, 1);
}

static void open_trace(lua_State *L, struct mch_context *context, const char *pattern) {
  struct mch_error error;
  context->trace = mch_trace_open(pattern, push_script(L), &error);
  lua_pop(L, 1);
  if (context->trace == NULL)
    log_refusal(L, "trace", &error);
}

void mch_ltrace_open(lua_State *L, const char *trace, const char *report) {
  struct mch_context *context = mch_context_get(L);
  (void)report;
  if (context->recorded || context->worker != NULL)
    return;
  context->recorded = 1;
  trace = wanted(trace, "MANTICHORA_TRACE");
  if (trace == NULL)
    return;
  luaL_checkstack(L, 6, NULL);
  mch_loutput_get(L); /* made before, so that it is finalized after */
  lua_newuserdatauv(L, 0, 0);
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, records_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  luaL_ref(L, LUA_REGISTRYINDEX);
  open_trace(L, context, trace);
}

void mch_ltrace_observe(lua_State *L, struct mch_hub *hub) {
  struct mch_context *context = mch_context_get(L);
  if (context->trace != NULL && mch_trace_observe(context->trace, hub) != 0)
    luaL_error(L, "not enough memory for a trace");
}

void mch_ltrace_flush(const struct mch_context *context) {
  if (context->trace != NULL)
    mch_trace_flush(context->trace);
}

void mch_ltrace_finish(const struct mch_context *context) {
  if (context->trace != NULL)
    mch_trace_finish(context->trace);
}
