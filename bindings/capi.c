/* Runs in: parent (in a worker: pools of its own only, and no sinks).
 *
 * The functions of mantichora.h for programs in C. Each works in protected mode, so that no error
 * leaves it. */
#include "runtime/mantichora.h"

#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <stdio.h>

#include "context.h"
#include "bindings/show/loutput.h"
#include "bindings/pool/lpool.h"
#include "lwatch.h"
#include "runtime/show/output.h"
#include "bindings/values/text.h"

static int to_text(lua_State *L) {
  mch_text_push(L, 1);
  return 1;
}

/* Keep what was wrong, in memory that is there already. */
static void keep_message(lua_State *L, const char *text) {
  struct mch_context *context = mch_context_find(L);
  if (context != NULL)
    snprintf(context->message, sizeof context->message, "%s", text);
}

/* Call `f` with `what`; 0, or a code for the error that it raised. */
static int protect(lua_State *L, lua_CFunction f, void *what) {
  int status;
  if (!lua_checkstack(L, 4)) {
    keep_message(L, "not enough memory for Lua's stack");
    return MANTICHORA_ERRMEM;
  }
  lua_pushcfunction(L, to_text);
  lua_pushcfunction(L, f);
  lua_pushlightuserdata(L, what);
  status = mch_lwatch_pcall(L, 1, 0, -3);
  if (status != LUA_OK) {
    keep_message(L, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an unknown error");
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return status == LUA_OK ? 0 : status == LUA_ERRMEM ? MANTICHORA_ERRMEM : MANTICHORA_ERRRUN;
}

/* The context of a state that a program in C takes part in. */
static struct mch_context *embed(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  context->embedded = 1;
  return context;
}

static int call_embed(lua_State *L) {
  embed(L);
  return 0;
}

/* Where there is no context either nothing has failed yet, or there was no memory for one. */
const char *mantichora_error(lua_State *L) {
  const struct mch_context *context = NULL;
  if (lua_checkstack(L, 1) && (context = mch_context_find(L)) == NULL &&
      protect(L, call_embed, NULL) == 0)
    context = mch_context_find(L);
  return context != NULL ? context->message : "not enough memory";
}

/* -- moving on ---------------------------------------------------------------------------- */

/* Seconds to a deadline; what is not a number is 0. */
static uint64_t deadline_of(double seconds) {
  if (seconds < 0 || seconds > 1e9)
    return MCH_NEVER;
  return seconds > 0 ? mch_now() + (uint64_t)(seconds * 1e9) : 0;
}

struct poll_call {
  uint64_t until;
  size_t finished;
};

static int call_poll(lua_State *L) {
  struct poll_call *call = lua_touserdata(L, 1);
  embed(L);
  call->finished = mch_lpool_poll(L, call->until);
  return 0;
}

int mantichora_poll(lua_State *L, double timeout) {
  struct poll_call call = {deadline_of(timeout), 0};
  int code = protect(L, call_poll, &call);
  if (code != 0)
    return code;
  return call.finished < INT_MAX ? (int)call.finished : INT_MAX;
}

struct fd_call {
  int fd;
  struct mch_error error;
};

static int call_fd(lua_State *L) {
  struct fd_call *call = lua_touserdata(L, 1);
  embed(L);
  call->fd = mch_lpool_fd(L, &call->error);
  return 0;
}

int mantichora_fd(lua_State *L) {
  struct fd_call call;
  int code = protect(L, call_fd, &call);
  if (code != 0)
    return code;
  if (call.fd >= 0)
    return call.fd;
  keep_message(L, call.error.text);
  return call.error.code == MCH_NOMEM ? MANTICHORA_ERRMEM : MANTICHORA_ERRSYS;
}

static int call_timeout(lua_State *L) {
  uint64_t *due = lua_touserdata(L, 1);
  *due = mch_lpool_due(L);
  return 0;
}

double mantichora_timeout(lua_State *L) {
  uint64_t due = 0, now;
  if (protect(L, call_timeout, &due) != 0)
    return 0; /* the next poll says why */
  if (due == MCH_NEVER)
    return -1;
  now = mch_now();
  return due > now ? (double)(due - now) / 1e9 : 0;
}

/* -- what the program wants to be told ---------------------------------------------------- */

struct log_call {
  mantichora_log_sink fn;
  void *ud;
};

static int call_set_log(lua_State *L) {
  const struct log_call *call = lua_touserdata(L, 1);
  struct mch_sinks *sinks = &embed(L)->sinks;
  sinks->log = call->fn;
  sinks->log_ud = call->ud;
  return 0;
}

int mantichora_set_log_sink(lua_State *L, mantichora_log_sink fn, void *ud) {
  struct log_call call = {fn, ud};
  return protect(L, call_set_log, &call);
}

struct progress_call {
  mantichora_progress_sink fn;
  void *ud;
};

static int call_set_progress(lua_State *L) {
  const struct progress_call *call = lua_touserdata(L, 1);
  struct mch_context *context = embed(L);
  mch_loutput_get(L); /* may raise: before anything is changed */
  context->sinks.progress = call->fn;
  context->sinks.progress_ud = call->ud;
  mch_loutput_choose_mode(L);
  return 0;
}

int mantichora_set_progress_sink(lua_State *L, mantichora_progress_sink fn, void *ud) {
  struct progress_call call = {fn, ud};
  return protect(L, call_set_progress, &call);
}

struct output_call {
  mantichora_output_sink fn;
  void *ud;
};

static int call_set_output(lua_State *L) {
  const struct output_call *call = lua_touserdata(L, 1);
  struct mch_context *context = embed(L);
  struct mch_output *out = mch_loutput_get(L);
  context->sinks.output = call->fn;
  context->sinks.output_ud = call->ud;
  mch_output_keep_lines(out, call->fn != NULL && context->worker == NULL);
  return 0;
}

int mantichora_set_output_sink(lua_State *L, mantichora_output_sink fn, void *ud) {
  struct output_call call = {fn, ud};
  return protect(L, call_set_output, &call);
}

struct task_call {
  mantichora_task_sink fn;
  void *ud;
};

static int call_set_task(lua_State *L) {
  const struct task_call *call = lua_touserdata(L, 1);
  struct mch_sinks *sinks = &embed(L)->sinks;
  sinks->task = call->fn;
  sinks->task_ud = call->ud;
  mch_lpool_listen_all(L);
  return 0;
}

int mantichora_set_task_sink(lua_State *L, mantichora_task_sink fn, void *ud) {
  struct task_call call = {fn, ud};
  return protect(L, call_set_task, &call);
}

/* -- workers ------------------------------------------------------------------------------ */

struct hook_call {
  mantichora_child_hook fn;
  void *ud;
};

static int call_set_hook(lua_State *L) {
  const struct hook_call *call = lua_touserdata(L, 1);
  struct mch_context *context = embed(L);
  context->child_hook = call->fn;
  context->child_hook_ud = call->ud;
  return 0;
}

int mantichora_set_child_hook(lua_State *L, mantichora_child_hook fn, void *ud) {
  struct hook_call call = {fn, ud};
  return protect(L, call_set_hook, &call);
}
