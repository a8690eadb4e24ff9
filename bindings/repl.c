/* Runs in: parent.
 *
 * The REPL: reads chunks of one or more lines, runs them, prints their values. Lines come from
 * read_line() alone, so that an editing library can take its place. */
#define _POSIX_C_SOURCE 200809L

#include "host.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#include "latpbar.h"
#include "output.h"

/* Show the prompt that the global _PROMPT or _PROMPT2 may set. */
static void show_prompt(lua_State *L, bool is_first) {
  int top = lua_gettop(L);
  const char *prompt = is_first ? "> " : ">> ";
  if (lua_getglobal(L, is_first ? "_PROMPT" : "_PROMPT2") != LUA_TNIL)
    prompt = luaL_tolstring(L, -1, NULL);
  fputs(prompt, stdout);
  fflush(stdout);
  lua_settop(L, top);
}

enum typed {
  TYPED_LINE,
  TYPED_END,   /* the end of stdin */
  TYPED_CTRL_C /* the line, and those before it that belong to the chunk, are abandoned */
};

/* Push the line typed, without its newline; nothing is pushed if there is none. */
static enum typed read_one(lua_State *L, bool is_first) {
  luaL_Buffer line;
  int c;
  show_prompt(L, is_first);
  errno = 0;
  c = getc(stdin);
  if (c == EOF && ferror(stdin) && errno == EINTR) {
    clearerr(stdin);
    puts("");
    return TYPED_CTRL_C;
  }
  if (c == EOF)
    return TYPED_END;
  luaL_buffinit(L, &line);
  for (; c != EOF && c != '\n'; c = getc(stdin))
    luaL_addchar(&line, (char)c);
  luaL_pushresult(&line);
  return TYPED_LINE;
}

/* The same, while bars and lines of tasks keep away from the prompt. */
static enum typed read_line(lua_State *L, bool is_first) {
  struct mch_output *output = mch_atpbar_output(L);
  enum typed typed;
  mch_output_pause(output);
  typed = read_one(L, is_first);
  mch_output_resume(output);
  return typed;
}

/* Whether a chunk failed to compile only because it is not complete yet. */
static bool is_incomplete(lua_State *L, int status) {
  static const char mark[] = "<eof>";
  size_t length;
  const char *message;
  if (status != LUA_ERRSYNTAX)
    return false;
  message = lua_tolstring(L, -1, &length);
  return length >= sizeof mark - 1 && strcmp(message + length - (sizeof mark - 1), mark) == 0;
}

static int load(lua_State *L, int text) {
  size_t length;
  const char *chunk = lua_tolstring(L, text, &length);
  return luaL_loadbufferx(L, chunk, length, "=stdin", "t");
}

/* Try the line at index 1 as an expression; `=expr` is the old way to say so. Leaves the function,
 * or nothing. */
static bool load_expression(lua_State *L) {
  const char *line = lua_tostring(L, 1);
  lua_pushfstring(L, "return %s", line[0] == '=' ? line + 1 : line);
  if (load(L, 2) == LUA_OK) {
    lua_remove(L, 2);
    return true;
  }
  lua_settop(L, 1);
  return false;
}

/* Compile the lines from index 1 on as a statement, reading more while it is incomplete; what stdin
 * ends in the middle of stays wrong. Leaves a function or a message. False if it was abandoned. */
static bool load_statement(lua_State *L, int *status) {
  for (;;) {
    enum typed typed;
    *status = load(L, 1);
    if (!is_incomplete(L, *status))
      return true;
    typed = read_line(L, false);
    if (typed != TYPED_LINE)
      return typed == TYPED_END;
    lua_remove(L, 2); /* the message */
    lua_pushliteral(L, "\n");
    lua_insert(L, 2);
    lua_concat(L, 3);
  }
}

/* Read one chunk and leave it compiled, or the message why it cannot be. False at the end. */
static bool read_chunk(lua_State *L, int *status) {
  for (;;) {
    enum typed typed;
    lua_settop(L, 0);
    typed = read_line(L, true);
    if (typed == TYPED_END)
      return false;
    if (typed == TYPED_LINE) {
      *status = LUA_OK;
      if (load_expression(L) || load_statement(L, status)) {
        lua_remove(L, 1);
        return true;
      }
    }
  }
}

/* Print all values on the stack by the global `print`. */
static void print_values(lua_State *L) {
  int count = lua_gettop(L);
  if (count == 0)
    return;
  luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
  lua_getglobal(L, "print");
  lua_insert(L, 1);
  if (mch_host_call(L, count, false) == LUA_OK)
    return;
  lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1));
  mch_host_report(L, LUA_ERRRUN, NULL);
}

/* Does nothing but end the read that waits for a line. */
static void on_sigint(int signal_number) {
  (void)signal_number;
}

void mch_repl_run(lua_State *L) {
  struct sigaction action = {0};
  struct sigaction before;
  int status;
  action.sa_handler = on_sigint;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before);
  while (read_chunk(L, &status)) {
    if (status == LUA_OK)
      status = mch_host_call(L, 0, true);
    if (mch_host_report(L, status, NULL) == LUA_OK)
      print_values(L);
  }
  sigaction(SIGINT, &before, NULL);
  lua_settop(L, 0);
  puts("");
  fflush(stdout);
}
