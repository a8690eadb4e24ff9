/* Runs in: both. Purpose: ltrace.h. */
#include "ltrace.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

#include "bindings/notices.h"
#include "bindings/show/loutput.h"
#include "runtime/pool/jobserver.h"
#include "runtime/watch/farewell.h"
#include "runtime/watch/report.h"
#include "runtime/watch/trace.h"

#define TYPE "mantichora trace"

/* No call of the library will come that could log it. */
static void print_problem(const char *what, const struct mch_error *error) {
  fprintf(stderr, "ERROR:mantichora:%s: %s\n", what, error->text);
  fflush(stderr);
}

/* The state closes. Pools, which are younger, have ended; the output is older. */
static int trace_gc(lua_State *L) {
  struct mch_context *context = mch_context_find(L);
  struct mch_error error;
  if (context == NULL || context->worker != NULL)
    return 0;
  mch_farewell_end();
  if (context->trace != NULL) {
    mch_trace_finish(context->trace);
    if (mch_trace_problem(context->trace, &error))
      print_problem("the trace ends early", &error);
  }
  if (context->report != NULL) {
    mch_report_finish(context->report, 1);
    if (mch_report_problem(context->report, &error))
      print_problem("the report cannot be written", &error);
  }
  mch_trace_close(context->trace);
  mch_report_close(context->report);
  context->trace = NULL;
  context->report = NULL;
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

/* What is begun is the context's before anything can raise. */
static void begin(lua_State *L, struct mch_context *context, const char *trace,
                  const char *report) {
  const char *script = push_script(L);
  struct mch_error no_trace, no_report;
  if (trace != NULL)
    context->trace = mch_trace_open(trace, script, &no_trace);
  if (report != NULL)
    context->report = mch_report_open(report, script, MANTICHORA_VERSION, &no_report);
  lua_pop(L, 1);
  if (trace != NULL && context->trace == NULL)
    log_refusal(L, "trace", &no_trace);
  if (report != NULL && context->report == NULL)
    log_refusal(L, "report", &no_report);
}

void mch_ltrace_open(lua_State *L, const char *trace, const char *report) {
  struct mch_context *context = mch_context_get(L);
  if (context->recorded || context->worker != NULL)
    return;
  context->recorded = 1;
  trace = wanted(trace, "MANTICHORA_TRACE");
  report = wanted(report, "MANTICHORA_REPORT");
  if (trace == NULL && report == NULL)
    return;
  luaL_checkstack(L, 6, NULL);
  mch_loutput_get(L); /* made before, so that it is finalized after */
  lua_newuserdatauv(L, 0, 0);
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, trace_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  luaL_ref(L, LUA_REGISTRYINDEX);
  begin(L, context, trace, report);
}

/* On a thread of its own, while the state may run. */
static void leave(void *ud) {
  const struct mch_context *context = ud;
  if (context->trace != NULL)
    mch_trace_finish(context->trace);
  if (context->report != NULL)
    mch_report_finish(context->report, 0);
  mch_jobserver_leave(); /* its handler of these signals found ours */
}

void mch_ltrace_say_farewell(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  if (context->trace != NULL || context->report != NULL)
    mch_farewell_begin(leave, context);
}

void mch_ltrace_observe(lua_State *L, struct mch_hub *hub) {
  const struct mch_context *context = mch_context_get(L);
  if ((context->trace != NULL && mch_trace_observe(context->trace, hub) != 0) ||
      (context->report != NULL && mch_report_observe(context->report, hub) != 0))
    luaL_error(L, "not enough memory to record the run");
}

void mch_ltrace_flush(const struct mch_context *context) {
  if (context->trace != NULL)
    mch_trace_flush(context->trace);
  if (context->report != NULL)
    mch_report_flush(context->report);
}
