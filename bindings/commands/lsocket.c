/* Runs in: parent. Purpose: the socket of a watched script for parts written in Lua (commands.h).
 */
#include <string.h>

#include <lauxlib.h>

#include "bindings/commands/commands.h"
#include "bindings/commands/json.h"
#include "runtime/commands/line_socket.h"

#define TYPE "mantichora socket"

/* The reader of JSON is the user value. */
static struct mch_line_socket *to_socket(lua_State *L) {
  return luaL_checkudata(L, 1, TYPE);
}

static int socket_fd(lua_State *L) {
  const struct mch_line_socket *socket = to_socket(L);
  if (socket->fd < 0)
    return 0;
  lua_pushinteger(L, socket->fd);
  return 1;
}

/* What is no JSON is left out: a later version may say it. */
static int socket_lines(lua_State *L) {
  struct mch_line_socket *socket = to_socket(L);
  int gone = mch_line_socket_fill(socket) != 0;
  struct mch_json_reader *reader;
  const char *line;
  size_t length;
  lua_Integer count = 0;
  lua_settop(L, 1);
  lua_getiuservalue(L, 1, 1);
  reader = lua_touserdata(L, 2);
  lua_newtable(L);
  while ((line = mch_line_socket_next(socket, &length)) != NULL) {
    size_t column;
    const char *message;
    if (!mch_json_read(L, reader, line, length, &column, &message))
      continue;
    if (lua_istable(L, -1))
      lua_rawseti(L, 3, ++count);
    else
      lua_pop(L, 1);
  }
  if (gone && count == 0) {
    mch_line_socket_close(socket);
    return 0;
  }
  return 1;
}

static int socket_send(lua_State *L) {
  struct mch_line_socket *socket = to_socket(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  lua_pushboolean(L, mch_line_socket_send(socket, bytes, length) == 0);
  return 1;
}

static int socket_close(lua_State *L) {
  mch_line_socket_close(to_socket(L));
  return 0;
}

static int socket_connect(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct mch_line_socket *socket = lua_newuserdatauv(L, sizeof *socket, 1);
  int problem;
  memset(socket, 0, sizeof *socket);
  socket->fd = -1;
  luaL_setmetatable(L, TYPE);
  if (mch_json_new_reader(L) == NULL)
    return luaL_error(L, "this program was built without yajl (Debian: libyajl-dev)");
  lua_setiuservalue(L, -2, 1);
  problem = mch_line_socket_open(socket, path);
  if (problem == 0)
    return 1;
  lua_pushnil(L);
  lua_pushstring(L, strerror(problem));
  return 2;
}

int mch_commands_open_socket(lua_State *L) {
  static const luaL_Reg methods[] = {{"fd", socket_fd},
                                     {"lines", socket_lines},
                                     {"send", socket_send},
                                     {"close", socket_close},
                                     {"__gc", socket_close},
                                     {"__close", socket_close},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {{"connect", socket_connect}, {NULL, NULL}};
  if (luaL_newmetatable(L, TYPE)) {
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
