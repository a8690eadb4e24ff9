/* Runs in: both. Purpose: lattach.h. */
#include "lattach.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/context.h"
#include "bindings/notices.h"
#include "loutput.h"
#include "runtime/base/buf.h"
#include "runtime/base/error.h"
#include "runtime/show/anchor.h"
#include "runtime/show/jsontext.h"
#include "runtime/watch/server.h"

static const char *const attach_type = "mantichora.attach";

/* Key of the registry: its address. */
static const char attach_key = 0;

struct attached {
  struct mch_server *server; /* NULL: none */
  struct mch_anchor *anchor; /* NULL: exit() does nothing for it */
};

static void leave(void *object) {
  struct attached *attached = object;
  mch_server_leave(attached->server);
  attached->anchor = NULL;
}

static int attached_gc(lua_State *L) {
  struct attached *attached = luaL_checkudata(L, 1, attach_type);
  const struct mch_context *context = mch_context_find(L);
  struct mch_server *server = attached->server;
  attached->server = NULL;
  mch_anchor_drop(&attached->anchor);
  mch_server_close(server);
  if (server != NULL && context != NULL && context->attached != NULL && context->worker == NULL)
    context->attached(NULL);
  return 0;
}

/* The socket of this state; NULL: there is none. */
static struct mch_server *server_of(lua_State *L) {
  const struct attached *attached;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &attach_key);
  attached = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return attached != NULL ? attached->server : NULL;
}

/* The words of the command line behind the script, as a list of JSON. `arg` is at the top; what is
 * above it afterwards means nothing. */
static void put_arguments(lua_State *L, struct mch_buf *to) {
  lua_Integer i;
  mch_jsontext_put(to, "[");
  for (i = 1; i <= 1000 && lua_rawgeti(L, -1, i) == LUA_TSTRING; i++) {
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (i > 1)
      mch_jsontext_put(to, ",");
    mch_jsontext_cut(to, text, length, 1024);
    lua_pop(L, 1);
    if (to->length > 4096)
      break;
  }
  mch_jsontext_put(to, "]");
  mch_buf_u8(to, 0);
}

/* Open it; `attached` was created empty and is in the registry. */
static void open_server(lua_State *L, struct attached *attached, struct mch_error *error) {
  struct mch_script script = {NULL, NULL, MANTICHORA_VERSION};
  struct mch_buf arguments = {0};
  int top = lua_gettop(L);
  lua_pushglobaltable(L);
  lua_pushliteral(L, "arg");
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    int list = lua_gettop(L);
    put_arguments(L, &arguments);
    lua_settop(L, list);
    if (lua_rawgeti(L, list, 0) == LUA_TSTRING)
      script.name = lua_tostring(L, -1);
    script.arguments = arguments.failed == 0 ? (const char *)arguments.data : NULL;
  }
  attached->server = mch_server_open(mch_loutput_get(L), &script, error);
  mch_buf_free(&arguments);
  lua_settop(L, top);
}

/* 0, or a code. */
static int attach(lua_State *L, struct mch_error *error) {
  const struct mch_context *context = mch_context_get(L);
  struct attached *attached;
  if (server_of(L) != NULL)
    return 0;
  luaL_checkstack(L, 8, NULL);
  mch_loutput_get(L); /* made before it, so that it is finalized after it */
  attached = lua_newuserdatauv(L, sizeof *attached, 0);
  memset(attached, 0, sizeof *attached);
  if (luaL_newmetatable(L, attach_type)) {
    lua_pushcfunction(L, attached_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &attach_key);
  open_server(L, attached, error);
  if (attached->server == NULL)
    return error->code;
  attached->anchor = mch_anchor_cast(leave, attached);
  if (context->attached != NULL)
    context->attached(mch_server_path(attached->server));
  return 0;
}

/* What the user has said: 1, 0, or -1 for nothing. */
static int wish(void) {
  const char *word = getenv("MANTICHORA_ATTACH");
  if (word == NULL || *word == '\0')
    return -1;
  return strcmp(word, "0") != 0;
}

void mch_lattach_begin(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  struct mch_error error;
  int wanted;
  if (context->attach_seen || context->worker != NULL)
    return;
  context->attach_seen = 1;
  wanted = wish();
  if (wanted == 0 || (wanted < 0 && !context->watchable) || attach(L, &error) == 0)
    return;
  lua_pushfstring(L, "nobody can watch this script: %s", error.text);
  mch_notices_log(L, "info", lua_tostring(L, -1));
  lua_pop(L, 1);
}

int mch_lattach_call(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  struct mch_error error;
  mch_notices_tell(L);
  context->attach_seen = 1;
  if (context->worker != NULL)
    mch_error_set(&error, MCH_LIMIT, "a worker is watched through the script that has it");
  else if (wish() == 0)
    mch_error_set(&error, MCH_LIMIT, "MANTICHORA_ATTACH is 0");
  else if (attach(L, &error) == 0) {
    lua_pushstring(L, mch_server_path(server_of(L)));
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, error.text);
  return 2;
}
