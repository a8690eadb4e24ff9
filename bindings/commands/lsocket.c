/* Runs in: parent. Purpose: the socket of a watched script for parts written in Lua (commands.h).
 */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <errno.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lauxlib.h>

#include "bindings/commands/commands.h"
#include "bindings/commands/json.h"
#include "runtime/commands/line_socket.h"
#include "runtime/watch/place.h"

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

/* The same as they came. */
static int socket_texts(lua_State *L) {
  struct mch_line_socket *socket = to_socket(L);
  int gone = mch_line_socket_fill(socket) != 0;
  const char *line;
  size_t length;
  lua_Integer count = 0;
  lua_newtable(L);
  while ((line = mch_line_socket_next(socket, &length)) != NULL) {
    lua_pushlstring(L, line, length);
    lua_rawseti(L, -2, ++count);
  }
  if (gone && count == 0)
    return 0;
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
  if (problem == 0 && mch_place_may_look(socket->fd))
    return 1;
  lua_pushnil(L);
  if (problem == ENOENT || problem == ENOTDIR)
    lua_pushliteral(L, "none");
  else if (problem == ECONNREFUSED) /* left behind, or made at this moment */
    lua_pushliteral(L, "refused");
  else
    lua_pushstring(L, problem != 0 ? strerror(problem) : "its socket is another user's");
  return 2;
}

/* --- where they are ----------------------------------------------------------------------------
 */

static uid_t owner_of(lua_Integer pid) {
  char path[64];
  struct stat stat_of;
  snprintf(path, sizeof path, "/proc/%lld", (long long)pid);
  return stat(path, &stat_of) == 0 ? stat_of.st_uid : geteuid();
}

/* owner(pid): the name of the user whose process this is; nil: he is ours, or there is no such
 * process. */
static int socket_owner(lua_State *L) {
  uid_t owner = owner_of(luaL_checkinteger(L, 1));
  const struct passwd *entry;
  if (owner == geteuid())
    return 0;
  entry = getpwuid(owner);
  if (entry != NULL)
    lua_pushstring(L, entry->pw_name);
  else
    lua_pushinteger(L, (lua_Integer)owner);
  return 1;
}

static void add_folder(lua_State *L, const char *path) {
  lua_pushstring(L, path);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

/* folders([pid]) */
static int socket_folders(lua_State *L) {
  uid_t owner = lua_isnoneornil(L, 1) ? geteuid() : owner_of(luaL_checkinteger(L, 1));
  char path[MCH_PLACE_ROOM];
  lua_newtable(L);
  for (int which = 0; which < 2; which++) {
    if (mch_place_folder(path, sizeof path, which, owner))
      add_folder(L, path);
  }
  if (owner != geteuid()) { /* root looks at another's */
    snprintf(path, sizeof path, "/run/user/%lu/mantichora", (unsigned long)owner);
    add_folder(L, path);
  }
  return 1;
}

/* The number before ".sock", or 0. */
static lua_Integer pid_of(const char *name) {
  long long pid = 0;
  int length = 0;
  if (*name < '1' || *name > '9' || sscanf(name, "%18lld.sock%n", &pid, &length) != 1 ||
      length == 0 || name[length] != '\0')
    return 0;
  return (lua_Integer)pid;
}

/* What somebody else put there is not looked at. */
static int is_own(const char *folder) {
  struct stat stat_of;
  return lstat(folder, &stat_of) == 0 && S_ISDIR(stat_of.st_mode) && stat_of.st_uid == geteuid();
}

/* The stream of a folder, closed whatever happens. */
static int close_folder(lua_State *L) {
  DIR **folder = lua_touserdata(L, 1);
  if (*folder != NULL)
    closedir(*folder);
  *folder = NULL;
  return 0;
}

static int socket_pids(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  DIR **folder = lua_newuserdatauv(L, sizeof *folder, 0);
  struct dirent *entry;
  lua_Integer count = 0;
  *folder = NULL;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, close_folder);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  *folder = is_own(path) ? opendir(path) : NULL;
  lua_newtable(L);
  while (*folder != NULL && (entry = readdir(*folder)) != NULL) {
    lua_Integer pid = pid_of(entry->d_name);
    if (pid > 0) {
      lua_pushinteger(L, pid);
      lua_rawseti(L, -2, ++count);
    }
  }
  if (*folder != NULL)
    closedir(*folder);
  *folder = NULL;
  return 1;
}

static int socket_runs(lua_State *L) {
  lua_Integer pid = luaL_checkinteger(L, 1);
  lua_pushboolean(L, pid > 0 && (lua_Integer)(pid_t)pid == pid &&
                         (kill((pid_t)pid, 0) == 0 || errno == EPERM));
  return 1;
}

int mch_commands_open_socket(lua_State *L) {
  static const luaL_Reg methods[] = {{"fd", socket_fd},         {"lines", socket_lines},
                                     {"texts", socket_texts},   {"send", socket_send},
                                     {"close", socket_close},   {"__gc", socket_close},
                                     {"__close", socket_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"connect", socket_connect}, {"folders", socket_folders},
                                       {"pids", socket_pids},       {"owner", socket_owner},
                                       {"runs", socket_runs},       {NULL, NULL}};
  if (luaL_newmetatable(L, TYPE)) {
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
