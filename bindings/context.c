/* Runs in: both. Purpose: context.h. */
#include "context.h"

#include <lauxlib.h>
#include <limits.h>
#include <string.h>

/* Keys of the registry are the addresses of these. */
static const char context_key = 0, pools_key = 0, handler_key = 0;

struct mch_context *mch_context_find(lua_State *L) {
  struct mch_context *context;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &context_key);
  context = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return context;
}

struct mch_context *mch_context_get(lua_State *L) {
  struct mch_context *context = mch_context_find(L);
  if (context != NULL)
    return context;
  context = lua_newuserdatauv(L, sizeof *context, 0);
  memset(context, 0, sizeof *context);
  context->log_level = INT_MIN;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &context_key);
  return context;
}

void mch_context_become_worker(struct mch_context *context, struct mch_worker *worker) {
  context->worker = worker;
  context->watch = NULL;
  context->running = 0;
  context->hides_bars = 0;
  context->telling = context->inside = 0;
  context->child_hook = NULL;
  memset(&context->collected, 0, sizeof context->collected);
  memset(&context->sinks, 0, sizeof context->sinks);
  mch_context_drop_poller(context);
}

void mch_context_drop_poller(struct mch_context *context) {
  if (context->poller == NULL)
    return;
  mch_poller_free(context->poller);
  mch_mark_free(&context->poller_mark);
  context->poller = NULL;
}

void mch_context_push_weak(lua_State *L, const char *mode) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushstring(L, mode);
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
}

void mch_context_push_pools(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  mch_context_push_weak(L, "k");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &pools_key);
}

void mch_context_push_log_handler(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &handler_key);
}

void mch_context_set_log_handler(lua_State *L) {
  lua_rawsetp(L, LUA_REGISTRYINDEX, &handler_key);
}
