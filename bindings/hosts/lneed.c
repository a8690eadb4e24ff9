/* Runs in: child. Purpose: lneed.h. */
#define _POSIX_C_SOURCE 200809L
#include "lneed.h"

#include <errno.h>
#include <lauxlib.h>
#include <string.h>

#include "bindings/context.h"
#include "bindings/lwatch.h"
#include "bindings/values/graph.h"
#include "runtime/hosts/hosts.h"
#include "runtime/hosts/library.h"
#include "runtime/hosts/question.h"

static const char question_type[] = "mantichora question";

static int question_gc(lua_State *L) {
  mch_question_free(lua_touserdata(L, 1));
  return 0;
}

/* Push a question of its own, which is closed whatever happens. */
static struct mch_question *new_question(lua_State *L) {
  struct mch_question *question = lua_newuserdatauv(L, sizeof *question, 0);
  memset(question, 0, sizeof *question);
  question->fd = -1;
  if (luaL_newmetatable(L, question_type)) {
    lua_pushcfunction(L, question_gc);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__gc");
    lua_setfield(L, -2, "__close");
  }
  lua_setmetatable(L, -2);
  lua_toclose(L, -1);
  return question;
}

/* Push the function that the graph of one from package.preload has. */
static void push_preload(lua_State *L, const unsigned char *bytes, size_t length) {
  struct mch_decoder decoder;
  int top = lua_gettop(L);
  memset(&decoder, 0, sizeof decoder);
  lua_rawgeti(L, LUA_REGISTRYINDEX, mch_context_get(L)->baseline);
  decoder.baseline = lua_gettop(L);
  decoder.bytes = bytes;
  decoder.len = length;
  decoder.allow_code = 1;
  decoder.kind = MCH_SEND_RESULT;
  if (mch_decode(L, &decoder) != 1)
    luaL_error(L, "a function of package.preload is not what it should be");
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* searcher(name): as package.searchers has them. */
static int search(lua_State *L) {
  size_t name_length;
  const char *name = luaL_checklstring(L, 1, &name_length);
  int socket = (int)lua_tointeger(L, lua_upvalueindex(1));
  struct mch_question *question;
  const char *chunk, *source;
  size_t chunk_length, length;
  enum mch_module_kind kind;
  if (mch_context_get(L)->worker == NULL)
    return 0;
  if (!mch_shelf_is_name(name, name_length)) {
    lua_pushfstring(L, "no module '%s' on the script's machine", name);
    return 1;
  }
  question = new_question(L);
  if (mch_question_ask(question, socket, name) != 0)
    return luaL_error(L, "module '%s': the script's machine cannot be asked", name);
  while (!mch_question_hear(question))
    mch_lwatch_check(L, 0);
  kind = mch_question_answer(question, &chunk, &chunk_length, &source, &length);
  if (kind == MCH_MODULE_NONE) {
    lua_pushfstring(L, "no module '%s' on the script's machine", name);
    return 1;
  }
  lua_pushlstring(L, chunk, chunk_length);
  if (kind == MCH_MODULE_GRAPH) {
    push_preload(L, (const unsigned char *)source, length);
    lua_pushliteral(L, ":preload:");
    return 2;
  }
  lua_pushfstring(L, "@%s", lua_tostring(L, -1));
  if (luaL_loadbufferx(L, source, length, lua_tostring(L, -1), NULL) != LUA_OK)
    return luaL_error(L, "error loading module '%s' from file '%s':\n\t%s", name,
                      lua_tostring(L, -3), lua_tostring(L, -1));
  lua_pushvalue(L, -3);
  return 2;
}

void mch_lneed_install(lua_State *L, int socket) {
  int top = lua_gettop(L);
  lua_Integer i;
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchers");
  for (i = (lua_Integer)lua_rawlen(L, -1); i >= 2; i--) {
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushinteger(L, socket);
  lua_pushcclosure(L, search, 1);
  lua_rawseti(L, -2, 2);
  lua_settop(L, top);
}
