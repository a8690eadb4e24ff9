/* Runs in: both. Purpose: lreport.h. */
#include "lreport.h"

#include <lauxlib.h>
#include <lualib.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "bindings/context.h"
#include "bindings/lbuf.h"
#include "bindings/values/graph.h"
#include "loutput.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"
#include "runtime/show/observe.h"
#include "runtime/show/output.h"
#include "sinks.h"
#include "runtime/engines/worker.h"

static int in_worker(lua_State *L) {
  lua_pushboolean(L, mch_context_get(L)->worker != NULL);
  return 1;
}

/* send_log(record): to the process above, before the result of the task that runs. */
static int send_log(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  struct mch_buf *graph = lua_touserdata(L, lua_upvalueindex(1));
  struct mch_encoder encoder;
  luaL_checktype(L, 1, LUA_TTABLE);
  if (context->worker == NULL)
    return luaL_error(L, "send_log is for workers");
  memset(&encoder, 0, sizeof encoder);
  mch_buf_clear(graph);
  encoder.out = graph;
  encoder.kind = MCH_SEND_RESULT;
  lua_settop(L, 1);
  if (lua_rawgeti(L, LUA_REGISTRYINDEX, context->baseline) == LUA_TTABLE)
    encoder.baseline = 2;
  mch_encode(L, &encoder, 1, 1);
  if (graph->failed != 0)
    return luaL_error(L, "not enough memory for a log record");
  mch_worker_log(context->worker, graph->data, graph->length);
  return 0;
}

static int process(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)getpid());
  return 1;
}

static int runid(lua_State *L) {
  const struct mch_context *context = mch_context_get(L);
  if (!context->running)
    return 0;
  lua_pushinteger(L, (lua_Integer)context->runid);
  return 1;
}

static int taskname(lua_State *L) {
  const struct mch_context *context = mch_context_get(L);
  if (!context->running || context->name_length == 0)
    return 0;
  lua_pushlstring(L, context->name, context->name_length);
  return 1;
}

/* set_log_threshold(level): nobody here wants records below it. */
static int set_log_threshold(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  lua_Number level = luaL_checknumber(L, 1);
  context->log_level = level < -1e6 ? INT_MIN : level > 1e6 ? INT_MAX : (int)level;
  if (context->tell_log_level != NULL)
    context->tell_log_level(L, context->log_level);
  return 0;
}

/* log_threshold(): in a worker, the level that the process above has set; nil: none yet. */
static int log_threshold(lua_State *L) {
  const struct mch_context *context = mch_context_get(L);
  int level;
  if (context->worker == NULL)
    return 0;
  level = mch_worker_log_threshold(context->worker);
  lua_pushinteger(L, level);
  return 1;
}

/* write_line(line, stream): a line of the log, above the bars; without its newline. */
static int write_line(lua_State *L) {
  struct mch_output *output = mch_loutput_get(L);
  size_t length;
  const char *line;
  int stream = 2;
  luaL_checkstring(L, 1);
  if (lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE &&
      lua_getfield(L, -1, LUA_IOLIBNAME) == LUA_TTABLE) {
    lua_getfield(L, -1, "stdout");
    if (lua_rawequal(L, -1, 2))
      stream = 1;
  }
  lua_settop(L, 1);
  lua_pushliteral(L, "\n");
  lua_concat(L, 2);
  line = lua_tolstring(L, 1, &length);
  mch_output_lines(output, stream, line, length);
  mch_output_tick(output); /* now, or with the next frame if there are bars */
  mch_sinks_output(L, output);
  return 0;
}

static const char *text_field(lua_State *L, const char *name, size_t *length) {
  const char *text = NULL;
  lua_pushstring(L, name);
  if (lua_rawget(L, 1) == LUA_TSTRING)
    text = lua_tolstring(L, -1, length);
  lua_pop(L, 1); /* the record keeps it */
  return text;
}

static lua_Number number_field(lua_State *L, const char *name, lua_Number otherwise) {
  lua_Number number = otherwise;
  lua_pushstring(L, name);
  if (lua_rawget(L, 1) == LUA_TNUMBER)
    number = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return number;
}

/* Tell those who look on. The record is at 1. */
static void tell_observers(lua_State *L) {
  struct mch_hub *hub = mch_output_hub(mch_loutput_get(L));
  struct mch_log_record record;
  memset(&record, 0, sizeof record);
  if ((mch_hub_wants(hub) & MCH_WISH_LOG) == 0)
    return;
  record.time = number_field(L, "created", 0);
  record.level = (int)number_field(L, "levelno", 0);
  record.process = (int64_t)number_field(L, "process", -1);
  record.runid = (int64_t)number_field(L, "runid", -1);
  record.level_name = text_field(L, "levelname", &record.level_length);
  record.logger = text_field(L, "name", &record.logger_length);
  record.message = text_field(L, "message", &record.message_length);
  record.task = text_field(L, "taskname", &record.task_length);
  mch_hub_tell_log(hub, &record);
}

/* sink(record): whether a sink of the program in C has taken it. */
static int sink(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  tell_observers(L);
  lua_pushboolean(L, mch_sinks_log(L, 1));
  return 1;
}

/* notices(): log what finalizers have noted. */
static int notices(lua_State *L) {
  mch_notices_tell(L);
  return 0;
}

/* on_log(function): it gets each record that comes from a worker. */
static int on_log(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  mch_context_set_log_handler(L);
  return 0;
}

/* stops(): how often the error of a stop was raised in tasks of this worker. */
static int stops(lua_State *L) {
  lua_pushinteger(L, mch_lwatch_stops(L));
  return 1;
}

/* enter(step): so many more handlers run, or less. */
static int enter(lua_State *L) {
  mch_context_get(L)->inside += (int)luaL_checkinteger(L, 1);
  return 0;
}

/* time(): seconds since the epoch, with a fraction. */
static int wall_time(lua_State *L) {
  lua_pushnumber(L, mch_wall());
  return 1;
}

int luaopen_mantichora_report(lua_State *L) {
  static const luaL_Reg functions[] = {{"in_worker", in_worker},
                                       {"process", process},
                                       {"runid", runid},
                                       {"taskname", taskname},
                                       {"log_threshold", log_threshold},
                                       {"set_log_threshold", set_log_threshold},
                                       {"write_line", write_line},
                                       {"sink", sink},
                                       {"notices", notices},
                                       {"on_log", on_log},
                                       {"stops", stops},
                                       {"enter", enter},
                                       {"time", wall_time},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  mch_lbuf_push(L);
  lua_pushcclosure(L, send_log, 1);
  lua_setfield(L, -2, "send_log");
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "mantichora.report");
  lua_pop(L, 1);
  return 1;
}
