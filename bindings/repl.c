/* Runs in: parent.
 *
 * The REPL: reads chunks of one or more lines, runs them, prints their values. Lines come from
 * read_line() alone, so that an editing library can take its place. */
#include "host.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

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

/* Push the line typed, without its newline. False, and nothing pushed, at the end of stdin. */
static bool read_line(lua_State *L, bool is_first) {
  luaL_Buffer line;
  int c;
  show_prompt(L, is_first);
  c = getc(stdin);
  if (c == EOF)
    return false;
  luaL_buffinit(L, &line);
  for (; c != EOF && c != '\n'; c = getc(stdin))
    luaL_addchar(&line, (char)c);
  luaL_pushresult(&line);
  return true;
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

/* Compile the lines from index 1 on as a statement, reading more while it is incomplete. */
static int load_statement(lua_State *L) {
  for (;;) {
    int status = load(L, 1);
    if (!is_incomplete(L, status) || !read_line(L, false))
      return status;
    lua_remove(L, 2); /* the message */
    lua_pushliteral(L, "\n");
    lua_insert(L, 2);
    lua_concat(L, 3);
  }
}

/* Read one chunk and leave it compiled, or the message why it cannot be. False at the end. */
static bool read_chunk(lua_State *L, int *status) {
  lua_settop(L, 0);
  if (!read_line(L, true))
    return false;
  *status = load_expression(L) ? LUA_OK : load_statement(L);
  lua_remove(L, 1);
  return true;
}

/* Print all values on the stack by the global `print`. */
static void print_values(lua_State *L) {
  int count = lua_gettop(L);
  if (count == 0)
    return;
  luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
  lua_getglobal(L, "print");
  lua_insert(L, 1);
  if (lua_pcall(L, count, 0, 0) == LUA_OK)
    return;
  lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1));
  mch_host_report(L, LUA_ERRRUN, NULL);
}

void mch_repl_run(lua_State *L) {
  int status;
  while (read_chunk(L, &status)) {
    if (status == LUA_OK)
      status = mch_host_call(L, 0);
    if (mch_host_report(L, status, NULL) == LUA_OK)
      print_values(L);
  }
  lua_settop(L, 0);
  puts("");
  fflush(stdout);
}
