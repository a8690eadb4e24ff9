/* Runs in: both. The part `mantichora.commands.streams`, of which commands/busted.lua is made: what
 * a task says on stdout and stderr, kept in files that the parent reads. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/commands/streams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "bindings/commands/commands.h"

static const char type_name[] = "mantichora streams";

static struct mch_streams *check(lua_State *L) {
  return luaL_checkudata(L, 1, type_name);
}

/* open(): a pair of files. */
static int streams_open(lua_State *L) {
  struct mch_streams *streams = lua_newuserdatauv(L, sizeof *streams, 0);
  int problem;
  mch_streams_init(streams);
  luaL_setmetatable(L, type_name);
  problem = mch_streams_open(streams);
  if (problem != 0)
    return luaL_error(L, "cannot make a file for the output of a spec: %s", strerror(problem));
  return 1;
}

/* streams:take(): stdout and stderr of this process are these. */
static int streams_take(lua_State *L) {
  int problem = mch_streams_take(check(L));
  if (problem != 0)
    return luaL_error(L, "cannot replace stdout: %s", strerror(problem));
  return 0;
}

/* streams:are_one() */
static int streams_are_one(lua_State *L) {
  lua_pushboolean(L, mch_streams_are_one(check(L)));
  return 1;
}

/* streams:get(which, offset): what was said from there on. */
static int streams_get(lua_State *L) {
  struct mch_streams *streams = check(L);
  int which = (int)luaL_checkinteger(L, 2);
  lua_Integer offset = luaL_checkinteger(L, 3);
  luaL_Buffer bytes;
  ssize_t count;
  luaL_buffinit(L, &bytes);
  do {
    char *to = luaL_prepbuffer(&bytes);
    count = mch_streams_get(streams, which, (off_t)offset, to, LUAL_BUFFERSIZE);
    if (count > 0) {
      luaL_addsize(&bytes, (size_t)count);
      offset += count;
    }
  } while (count > 0);
  luaL_pushresult(&bytes);
  return 1;
}

static int streams_close(lua_State *L) {
  mch_streams_close(check(L));
  return 0;
}

/* setenv(name, value) */
static int set_environment(lua_State *L) {
  if (setenv(luaL_checkstring(L, 1), luaL_checkstring(L, 2), 1) != 0)
    return luaL_error(L, "cannot set '%s' in the environment: %s", lua_tostring(L, 1),
                      strerror(errno));
  return 0;
}

int mch_commands_open_streams(lua_State *L) {
  static const luaL_Reg methods[] = {{"take", streams_take},  {"are_one", streams_are_one},
                                     {"get", streams_get},    {"close", streams_close},
                                     {"__gc", streams_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"open", streams_open}, {"setenv", set_environment}, {NULL, NULL}};
  luaL_newmetatable(L, type_name);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
