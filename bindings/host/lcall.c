/* Runs in: parent. Purpose: lcall.h. */
#define _POSIX_C_SOURCE 200809L
#include "lcall.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>

/* A signal handler has no other way to know: the state that runs now. */
static lua_State *volatile running;

static void raise_interrupted(lua_State *L, lua_Debug *activation) {
  (void)activation;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

/* Of Lua a signal handler may call lua_sethook (and look at what it has set). A Ctrl-C that comes
 * while the hook of the last one still waits, for Lua does not come round to it, ends the process.
 */
static void on_sigint(int signal_number) {
  int events = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;
  if (lua_gethook(running) == raise_interrupted) {
    signal(signal_number, SIG_DFL);
    raise(signal_number);
  } else
    lua_sethook(running, raise_interrupted, events, 1);
}

int mch_lcall_traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  if (message == NULL) {
    if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING)
      return 1;
    message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  }
  luaL_traceback(L, L, message, 1);
  return 1;
}

int mch_lcall_under(lua_State *L, int count, int handler) {
  struct sigaction action = {0};
  struct sigaction before;
  int status;
  running = L;
  action.sa_handler = on_sigint;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before);
  status = lua_pcall(L, count, LUA_MULTRET, handler);
  sigaction(SIGINT, &before, NULL);
  return status;
}

int mch_lcall(lua_State *L, int count, bool with_traceback) {
  int handler = lua_gettop(L) - count, status;
  lua_pushcfunction(L, mch_lcall_traceback);
  lua_insert(L, handler);
  status = mch_lcall_under(L, count, with_traceback ? handler : 0);
  lua_remove(L, handler);
  return status;
}

int mch_lcall_report(lua_State *L, int status, const char *program) {
  if (status != LUA_OK) {
    const char *message = lua_tostring(L, -1);
    fflush(stdout);
    if (program != NULL)
      fprintf(stderr, "%s: ", program);
    fprintf(stderr, "%s\n", message != NULL ? message : "(error message not a string)");
    fflush(stderr);
    lua_pop(L, 1);
  }
  return status;
}
