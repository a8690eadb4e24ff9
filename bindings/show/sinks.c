/* Runs in: parent. Purpose: sinks.h. */
#include "sinks.h"

#include <lauxlib.h>
#include <string.h>

#include "runtime/base/buf.h"
#include "bindings/context.h"
#include "bindings/lwatch.h"
#include "runtime/show/output.h"

/* Call `f` with `what` in protected mode; an error that leaves a sink is told through warn. */
static void tell(lua_State *L, lua_CFunction f, void *what, int *told) {
  struct mch_context *context = mch_context_get(L);
  int status;
  lua_pushcfunction(L, f);
  lua_pushlightuserdata(L, what);
  *told = 1;
  context->inside++;
  status = mch_lwatch_pcall(L, 1, 0, 0);
  context->inside--;
  *told = 0;
  if (status == LUA_OK)
    return;
  lua_warning(L, "mantichora: a sink raised an error: ", 1);
  lua_warning(L, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1), 0);
  lua_pop(L, 1);
}

/* -- log records -------------------------------------------------------------------------- */

struct log_call {
  mantichora_log_sink sink;
  void *ud;
  struct mantichora_log record;
};

static int call_log(lua_State *L) {
  struct log_call *call = lua_touserdata(L, 1);
  call->sink(call->ud, &call->record);
  return 0;
}

/* Push a field of the record; its text, which is valid while it stands on the stack. */
static const char *push_text(lua_State *L, int record, const char *name, size_t *length) {
  lua_pushstring(L, name);
  if (lua_rawget(L, record) == LUA_TSTRING)
    return lua_tolstring(L, -1, length);
  *length = 0;
  return "";
}

static lua_Number number(lua_State *L, int record, const char *name, lua_Number none) {
  int is_number;
  lua_Number value;
  lua_pushstring(L, name);
  lua_rawget(L, record);
  value = lua_tonumberx(L, -1, &is_number);
  lua_pop(L, 1);
  return is_number ? value : none;
}

int mch_sinks_log(lua_State *L, int index) {
  const struct mch_sinks *sinks = &mch_context_get(L)->sinks;
  struct log_call call;
  int top = lua_gettop(L), told;
  size_t length;
  if (sinks->log == NULL)
    return 0;
  luaL_checkstack(L, 8, NULL);
  call.sink = sinks->log;
  call.ud = sinks->log_ud;
  call.record.size = sizeof call.record;
  call.record.level = (int)number(L, index, "levelno", 0);
  call.record.level_name = push_text(L, index, "levelname", &length);
  call.record.logger = push_text(L, index, "name", &length);
  call.record.message = push_text(L, index, "message", &call.record.message_length);
  call.record.created = number(L, index, "created", 0);
  call.record.process = (int64_t)number(L, index, "process", 0);
  call.record.runid = (int64_t)number(L, index, "runid", -1);
  call.record.task = push_text(L, index, "taskname", &length);
  tell(L, call_log, &call, &told);
  lua_settop(L, top);
  return 1;
}

/* -- progress ----------------------------------------------------------------------------- */

struct progress_call {
  mantichora_progress_sink sink;
  void *ud;
  struct mantichora_progress report;
  char name[MCH_BAR_TEXT + 1], task[MCH_BAR_TEXT + 1];
};

static int call_progress(lua_State *L) {
  struct progress_call *call = lua_touserdata(L, 1);
  call->sink(call->ud, &call->report);
  return 0;
}

static const char *copy(char *to, const char *text, size_t length) {
  length = length < MCH_BAR_TEXT ? length : MCH_BAR_TEXT;
  if (text != NULL)
    memcpy(to, text, length);
  to[text != NULL ? length : 0] = '\0';
  return to;
}

static void fill(struct progress_call *call, const struct mch_report *report) {
  static const int events[] = {MANTICHORA_BAR_START, MANTICHORA_BAR_UPDATE, MANTICHORA_BAR_END};
  call->report.size = sizeof call->report;
  call->report.event = events[report->event];
  call->report.id = report->key;
  call->report.done = report->done;
  call->report.total = report->total == MCH_BAR_UNKNOWN ? MANTICHORA_UNKNOWN : report->total;
  call->report.elapsed = (double)report->elapsed_ns / 1e9;
  call->report.name = copy(call->name, report->name, report->name_length);
  call->report.runid = report->runid;
  call->report.task = copy(call->task, report->task, report->task_length);
  call->report.state = mch_bar_end_word(report->how);
}

int mch_sinks_progress(lua_State *L, struct mch_output *out) {
  struct mch_sinks *sinks = &mch_context_get(L)->sinks;
  struct progress_call call;
  struct mch_report report;
  if (sinks->progress == NULL)
    return 0;
  if (!lua_checkstack(L, 4))
    return 1;
  while (sinks->progress != NULL && !sinks->told &&
         mch_output_report(out, mch_output_now(out), &report)) {
    fill(&call, &report);
    call.sink = sinks->progress;
    call.ud = sinks->progress_ud;
    tell(L, call_progress, &call, &sinks->told);
  }
  return 1;
}

/* -- output ------------------------------------------------------------------------------- */

struct output_call {
  mantichora_output_sink sink;
  void *ud;
  struct mantichora_output output;
};

static int call_output(lua_State *L) {
  struct output_call *call = lua_touserdata(L, 1);
  call->sink(call->ud, &call->output);
  return 0;
}

/* The line is ours while a sink has it: none of this raises, and no other call takes one meanwhile.
 */
void mch_sinks_output(lua_State *L, struct mch_output *out) {
  struct mch_sinks *sinks = &mch_context_get(L)->sinks;
  struct output_call call;
  struct mch_buf line = {0};
  if (sinks->output == NULL || sinks->told || !lua_checkstack(L, 4))
    return;
  call.output.size = sizeof call.output;
  while (sinks->output != NULL && (call.output.stream = mch_output_take_line(out, &line)) != 0) {
    if (line.failed != 0)
      continue;
    call.sink = sinks->output;
    call.ud = sinks->output_ud;
    call.output.line = (const char *)line.data;
    call.output.length = line.length - 1;
    tell(L, call_output, &call, &sinks->told);
  }
  mch_buf_free(&line);
}
