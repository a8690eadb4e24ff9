/* Runs in: both. Purpose: notices.h. */
#include "notices.h"

#include <lauxlib.h>
#include <stdio.h>
#include <unistd.h>

#include "context.h"
#include "runtime/mantichora.h"
#include "runtime/watch/report.h"
#include "runtime/watch/trace.h"

#define TYPE "mantichora notices"

enum { ROOM = 240 };

void mch_notices_push_logging(lua_State *L) {
  luaL_requiref(L, "mantichora.logging", luaopen_mantichora_logging, 0);
}

void mch_notices_collected(lua_State *L, size_t tasks, size_t failures) {
  struct mch_context *context = mch_context_find(L);
  struct mch_collected *collected = &context->collected;
  if (collected->process != (int)getpid()) { /* what the process that we are a fork of has noted */
    collected->pools = collected->tasks = collected->failures = 0;
    collected->process = (int)getpid();
  }
  collected->pools++;
  collected->tasks += tasks;
  collected->failures += failures;
}

static const char *plural(size_t count) {
  return count == 1 ? "" : "s";
}

/* Write what was noted as a sentence, and forget it. 0: nothing was. */
static int take_sentence(struct mch_context *context, char *sentence) {
  struct mch_collected collected;
  if (context->collected.pools == 0)
    return 0;
  collected = context->collected;
  context->collected.pools = context->collected.tasks = context->collected.failures = 0;
  if (collected.process != (int)getpid())
    return 0;
  snprintf(sentence, ROOM,
           "%zu pool%s collected that nobody had closed: %zu task%s had not ended, %zu failure%s "
           "%s received by nobody",
           collected.pools, collected.pools == 1 ? " was" : "s were", collected.tasks,
           plural(collected.tasks), collected.failures, plural(collected.failures),
           collected.failures == 1 ? "was" : "were");
  return 1;
}

void mch_notices_log(lua_State *L, const char *level, const char *sentence) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 6, NULL);
  mch_notices_push_logging(L);
  lua_getfield(L, -1, "get");
  lua_pushliteral(L, "mantichora");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, level);
  lua_insert(L, -2);
  lua_pushstring(L, sentence);
  lua_call(L, 2, 0);
  lua_settop(L, top);
}

void mch_notices_warn(lua_State *L, const char *sentence) {
  mch_notices_log(L, "warning", sentence);
}

void mch_notices_error(lua_State *L, const char *sentence) {
  mch_notices_log(L, "error", sentence);
}

/* A trace or report that cannot be written any more. */
static void tell_problems(lua_State *L, const struct mch_context *context) {
  struct mch_error error;
  if (context->trace != NULL && mch_trace_problem(context->trace, &error))
    lua_pushfstring(L, "the trace ends early: %s", error.text);
  else if (context->report != NULL && mch_report_problem(context->report, &error))
    lua_pushfstring(L, "the report cannot be written: %s", error.text);
  else
    return;
  mch_notices_error(L, lua_tostring(L, -1));
  lua_pop(L, 1);
}

void mch_notices_tell(lua_State *L) {
  struct mch_context *context = mch_context_find(L);
  char sentence[ROOM];
  if (context == NULL)
    return;
  if (context->trace != NULL || context->report != NULL)
    tell_problems(L, context);
  if (take_sentence(context, sentence))
    mch_notices_warn(L, sentence);
}

/* Whether the logger `mantichora` lets warnings pass. */
static int passes(lua_State *L) {
  mch_notices_push_logging(L);
  lua_getfield(L, -1, "get");
  lua_pushliteral(L, "mantichora");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "is_enabled_for");
  lua_insert(L, -2);
  lua_pushliteral(L, "WARNING");
  lua_call(L, 2, 1);
  return 1;
}

/* The state closes: no call of the library will come. */
static int notices_gc(lua_State *L) {
  struct mch_context *context = mch_context_find(L);
  char sentence[ROOM];
  int hidden;
  if (context == NULL || !take_sentence(context, sentence))
    return 0;
  lua_pushcfunction(L, passes);
  hidden = lua_pcall(L, 0, 1, 0) == LUA_OK && !lua_toboolean(L, -1);
  if (!hidden) {
    fflush(stdout);
    fprintf(stderr, "WARNING:mantichora:%s\n", sentence);
    fflush(stderr);
  }
  return 0;
}

void mch_notices_open(lua_State *L) {
  mch_context_get(L);
  lua_newuserdatauv(L, 0, 0);
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, notices_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  luaL_ref(L, LUA_REGISTRYINDEX);
}
