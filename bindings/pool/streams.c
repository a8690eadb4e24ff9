/* Runs in: child. Purpose: streams.h. */
#define _POSIX_C_SOURCE 200809L
#include "streams.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "runtime/base/process.h"
#include "runtime/show/hold.h"

/* The stream of that name in module io, if it is still `before`, is `after` from now on. */
static void exchange_stream(lua_State *L, const char *name, const FILE *before, FILE *after) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushliteral(L, LUA_IOLIBNAME);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    luaL_Stream *stream;
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    stream = luaL_testudata(L, -1, LUA_FILEHANDLE);
    if (stream != NULL && stream->f == before)
      stream->f = after;
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
}

/* Where both streams are one file, io.stderr keeps the order of writes to both. */
static void join_streams(lua_State *L) {
  const FILE *before = stderr;
  if (!mch_hold_same_file(STDOUT_FILENO, STDERR_FILENO))
    return;
  mch_platform_join_streams();
  exchange_stream(L, "stderr", before, stderr);
}

/* A thread of the host was in a read of stdin when this worker was forked: io.stdin, and so
 * io.read, is another stream that is as empty. */
static void replace_lost_stdin(lua_State *L) {
  FILE *empty = mch_process_stdin_is_lost() ? fopen("/dev/null", "r") : NULL;
  if (empty != NULL)
    exchange_stream(L, "stdin", stdin, empty);
}

void mch_streams_settle(lua_State *L) {
  join_streams(L);
  replace_lost_stdin(L);
}
