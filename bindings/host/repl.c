/* Runs in: parent.
 *
 * The REPL: reads chunks of one or more lines, runs them, prints their values. On a terminal lines
 * come from lineedit.h, and tables are shown readably; otherwise it is as plain as `lua`. */
#define _POSIX_C_SOURCE 200809L

#include "host.h"
#include "lcall.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#include "bindings/incomplete.h"
#include "bindings/part.h"
#include "bindings/show/loutput.h"
#include "lineedit.h"
#include "runtime/show/output.h"

struct repl {
  lua_State *L;
  struct mch_lineedit *edit; /* NULL: plain */
  int show, print;           /* with an editor: what shows values instead of this `print` */
};

/* Push the prompt that the global _PROMPT or _PROMPT2 may set. */
static const char *push_prompt(lua_State *L, bool is_first) {
  if (lua_getglobal(L, is_first ? "_PROMPT" : "_PROMPT2") == LUA_TNIL)
    lua_pushstring(L, is_first ? "> " : ">> ");
  else
    luaL_tolstring(L, -1, NULL);
  lua_remove(L, -2);
  return lua_tostring(L, -1);
}

/* Push the line typed, without its newline; nothing is pushed if there is none. */
static enum mch_typed read_plain(lua_State *L, const char *prompt) {
  luaL_Buffer line;
  int c;
  fputs(prompt, stdout);
  fflush(stdout);
  errno = 0;
  c = getc(stdin);
  if (c == EOF && ferror(stdin) && errno == EINTR) {
    clearerr(stdin);
    puts("");
    return MCH_TYPED_CTRL_C;
  }
  if (c == EOF)
    return MCH_TYPED_END;
  luaL_buffinit(L, &line);
  for (; c != EOF && c != '\n'; c = getc(stdin))
    luaL_addchar(&line, (char)c);
  luaL_pushresult(&line);
  return MCH_TYPED_LINE;
}

/* The same, while bars and lines of tasks keep away from the prompt. */
static enum mch_typed read_paused(lua_State *L, const char *prompt) {
  struct mch_output *output = mch_loutput_get(L);
  enum mch_typed typed;
  mch_output_pause(output);
  typed = read_plain(L, prompt);
  mch_output_resume(output);
  return typed;
}

static enum mch_typed read_line(const struct repl *repl, bool is_first) {
  lua_State *L = repl->L;
  int place = lua_gettop(L) + 1;
  const char *prompt = push_prompt(L, is_first);
  enum mch_typed typed =
      repl->edit != NULL ? mch_lineedit_read(repl->edit, L, prompt) : read_paused(L, prompt);
  lua_remove(L, place);
  return typed;
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
static bool load_statement(const struct repl *repl, int *status) {
  lua_State *L = repl->L;
  for (;;) {
    enum mch_typed typed;
    *status = load(L, 1);
    if (!mch_incomplete(L, *status))
      return true;
    typed = read_line(repl, false);
    if (typed != MCH_TYPED_LINE)
      return typed == MCH_TYPED_END;
    lua_remove(L, 2); /* the message */
    lua_pushliteral(L, "\n");
    lua_insert(L, 2);
    lua_concat(L, 3);
  }
}

/* Read one chunk and leave it compiled, or the message why it cannot be. False at the end. */
static bool read_chunk(const struct repl *repl, int *status) {
  lua_State *L = repl->L;
  for (;;) {
    enum mch_typed typed;
    bool loaded;
    lua_settop(L, 0);
    typed = read_line(repl, true);
    if (typed == MCH_TYPED_END)
      return false;
    if (typed == MCH_TYPED_CTRL_C)
      continue;
    *status = LUA_OK;
    loaded = load_expression(L) || load_statement(repl, status);
    if (repl->edit != NULL)
      mch_lineedit_remember(repl->edit, lua_tostring(L, 1));
    if (loaded) {
      lua_remove(L, 1);
      return true;
    }
  }
}

/* Put the function that shows `count` values below them, with its other arguments: the global
 * `print`; on a terminal something better, unless somebody has changed that. How many arguments. */
static int insert_printer(const struct repl *repl, int count) {
  lua_State *L = repl->L;
  bool is_usual = false;
  lua_getglobal(L, "print");
  lua_insert(L, 1);
  if (repl->edit != NULL) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, repl->print);
    is_usual = lua_rawequal(L, 1, -1);
    lua_pop(L, 1);
  }
  if (!is_usual)
    return count;
  lua_rawgeti(L, LUA_REGISTRYINDEX, repl->show);
  lua_replace(L, 1);
  lua_pushinteger(L, (lua_Integer)mch_lineedit_columns(repl->edit));
  lua_insert(L, 2);
  return count + 1;
}

/* Print all values on the stack. */
static void print_values(const struct repl *repl) {
  lua_State *L = repl->L;
  int count = lua_gettop(L);
  if (count == 0)
    return;
  luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
  count = insert_printer(repl, count);
  if (mch_lcall(L, count, false) == LUA_OK)
    return;
  lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1));
  mch_lcall_report(L, LUA_ERRRUN, NULL);
}

/* Does nothing but end the read that waits for a line. */
static void on_sigint(int signal_number) {
  (void)signal_number;
}

/* Push what a part of ours returns. */
static void push_part(lua_State *L, const char *name) {
  mch_part_push(L, name);
  lua_call(L, 0, 1);
}

static void open_repl(struct repl *repl, lua_State *L) {
  repl->L = L;
  lua_settop(L, 0);
  push_part(L, "mantichora.complete");
  repl->edit = mch_lineedit_new(L);
  if (repl->edit == NULL)
    return;
  push_part(L, "mantichora.show");
  repl->show = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_getglobal(L, "print");
  repl->print = luaL_ref(L, LUA_REGISTRYINDEX);
}

void mch_repl_run(lua_State *L) {
  struct sigaction action = {0};
  struct sigaction before;
  struct repl repl;
  int status;
  open_repl(&repl, L);
  action.sa_handler = on_sigint;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before);
  while (read_chunk(&repl, &status)) {
    if (status == LUA_OK)
      status = mch_lcall(L, 0, true);
    if (mch_lcall_report(L, status, NULL) == LUA_OK)
      print_values(&repl);
  }
  sigaction(SIGINT, &before, NULL);
  lua_settop(L, 0);
  if (repl.edit == NULL)
    puts("");
  fflush(stdout);
  mch_lineedit_free(repl.edit);
}
