/* Runs in: parent.
 *
 * The REPL: reads chunks of one or more lines, runs them, prints their values. On a terminal lines
 * come from lineedit.h, and tables are shown readably; otherwise it is as plain as `lua`. */
#define _POSIX_C_SOURCE 200809L

#include "host.h"
#include "lcall.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>

#include "bindings/context.h"
#include "bindings/incomplete.h"
#include "bindings/part.h"
#include "bindings/show/loutput.h"
#include "lineedit.h"
#include "runtime/show/output.h"

struct repl {
  lua_State *L;
  struct mch_lineedit *edit; /* NULL: plain */
  bool terminal;             /* somebody types */
  bool ending;               /* the end of input was answered by how many tasks have not ended */
  int show, print;           /* with an editor: what shows values instead of this `print` */
  int prompt;                /* the functions of scripts/mantichora/prompt.lua */
};

/* --- what is said in Lua -------------------------------------------------------------------------
 */

/* Call this function of prompt.lua with the `count` values on top, which are popped. Its value is
 * pushed; nil if there is none, or if it raised, which is reported. */
static void ask(const struct repl *repl, const char *name, int count) {
  lua_State *L = repl->L;
  int first = lua_gettop(L) - count + 1;
  lua_rawgeti(L, LUA_REGISTRYINDEX, repl->prompt);
  lua_getfield(L, -1, name);
  lua_replace(L, -2);
  lua_insert(L, first);
  if (mch_lcall_report(L, mch_lcall(L, count, false), NULL) != LUA_OK)
    lua_settop(L, first - 1);
  lua_settop(L, first);
}

/* Print the text on top, if it is one, and pop it; whether it was. */
static bool say(const struct repl *repl) {
  size_t length;
  const char *text = lua_tolstring(repl->L, -1, &length);
  if (text != NULL) {
    fwrite(text, 1, length, stdout);
    fflush(stdout);
  }
  lua_pop(repl->L, 1);
  return text != NULL;
}

/* --- reading ------------------------------------------------------------------------------------
 */

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
  const char *prompt;
  if (repl->terminal) { /* what has failed since the last line; with an editor also while it waits
                         */
    ask(repl, "failures", 0);
    say(repl);
  }
  prompt = push_prompt(L, is_first);
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

/* Try the line at index 1 as an expression; `=expr` is the old way to say so, and stands for it
 * from here on, in what follows too. Leaves the function, or nothing. */
static bool load_expression(lua_State *L) {
  const char *line = lua_tostring(L, 1);
  if (line[0] == '=') {
    lua_pushfstring(L, "return %s", line + 1);
    lua_replace(L, 1);
    return false;
  }
  lua_pushfstring(L, "return %s", line);
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

/* The end of stdin: whether to leave. While tasks have not ended it takes two of them, one behind
 * the other, of somebody who types. */
static bool leaves(struct repl *repl) {
  if (!repl->terminal)
    return true;
  if (!repl->ending) {
    ask(repl, "outstanding", 0);
    repl->ending = say(repl);
    clearerr(stdin);
    if (repl->ending)
      return false;
  }
  ask(repl, "leave", 0);
  lua_pop(repl->L, 1);
  return true;
}

/* Read one chunk and leave it compiled, or the message why it cannot be. False at the end. */
static bool read_chunk(struct repl *repl, int *status) {
  lua_State *L = repl->L;
  for (;;) {
    enum mch_typed typed;
    bool loaded;
    lua_settop(L, 0);
    typed = read_line(repl, true);
    if (typed == MCH_TYPED_END && leaves(repl))
      return false;
    if (typed == MCH_TYPED_END)
      continue;
    repl->ending = false;
    if (typed == MCH_TYPED_CTRL_C)
      continue;
    lua_pushvalue(L, 1);
    ask(repl, "hint", 1);
    if (say(repl))
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

/* --- values and errors --------------------------------------------------------------------------
 */

/* Set a global, whatever its table's metatable says, to the value on top, which is popped. */
static void set_global(lua_State *L, const char *name) {
  lua_pushglobaltable(L);
  lua_pushstring(L, name);
  lua_rotate(L, -3, -1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* The message handler of what is typed: the error stays in _ERR; a table, which would only be said
 * to be one, is shown. */
static int keep_error(lua_State *L) {
  const struct repl *repl = lua_touserdata(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  set_global(L, "_ERR");
  if (repl->edit != NULL && lua_type(L, 1) == LUA_TTABLE) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, repl->prompt);
    lua_getfield(L, -1, "error_text");
    lua_pushvalue(L, 1);
    lua_pushinteger(L, (lua_Integer)mch_lineedit_columns(repl->edit));
    if (lua_pcall(L, 2, 1, 0) == LUA_OK && lua_isstring(L, -1)) {
      luaL_traceback(L, L, lua_tostring(L, -1), 1);
      return 1;
    }
    lua_settop(L, 1);
  }
  return mch_lcall_traceback(L);
}

/* Call the chunk on the stack, or take the message why it is none. Values or the message stay. */
static int evaluate(struct repl *repl, int status) {
  lua_State *L = repl->L;
  if (status == LUA_OK) {
    lua_pushlightuserdata(L, repl);
    lua_pushcclosure(L, keep_error, 1);
    lua_insert(L, 1);
    status = mch_lcall_under(L, 0, 1);
    lua_remove(L, 1);
    if (status == LUA_OK || status == LUA_ERRRUN)
      return status;
  }
  lua_pushvalue(L, -1);
  set_global(L, "_ERR");
  return status;
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
  lua_pushvalue(L, 1);
  set_global(L, "_");
  count = insert_printer(repl, count);
  if (mch_lcall(L, count, false) == LUA_OK)
    return;
  lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1));
  mch_lcall_report(L, LUA_ERRRUN, NULL);
}

/* --- life ---------------------------------------------------------------------------------------
 */

/* Does nothing but end the read that waits for a line. */
static void on_sigint(int signal_number) {
  (void)signal_number;
}

enum { MOST_NAMES = 10000 };

/* list(path): the names in a folder; none if it cannot be read. */
static int list_folder(lua_State *L) {
  DIR *folder = opendir(luaL_checkstring(L, 1));
  const struct dirent *entry;
  lua_Integer count = 0;
  lua_newtable(L);
  while (folder != NULL && count < MOST_NAMES && (entry = readdir(folder)) != NULL) {
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, ++count);
  }
  if (folder != NULL)
    closedir(folder);
  return 1;
}

/* Push what a part of ours returns when it is called with the `count` values on top, which are
 * popped. */
static void push_part(lua_State *L, const char *name, int count, int results) {
  mch_part_push(L, name);
  lua_insert(L, -count - 1);
  lua_call(L, count, results);
}

static void open_prompt(struct repl *repl) {
  lua_State *L = repl->L;
  push_part(L, "mantichora.show", 0, 2); /* what shows values, and what makes text of one */
  mch_context_push_pools(L);
  push_part(L, "mantichora.help", 0, 1);
  push_part(L, "mantichora.prompt", 3, 1);
  repl->prompt = luaL_ref(L, LUA_REGISTRYINDEX);
  repl->show = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_getglobal(L, "print");
  repl->print = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void open_repl(struct repl *repl, lua_State *L) {
  memset(repl, 0, sizeof *repl);
  repl->L = L;
  repl->terminal = isatty(STDIN_FILENO);
  lua_settop(L, 0);
  open_prompt(repl);
  lua_pushcfunction(L, list_folder);
  push_part(L, "mantichora.complete", 1, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, repl->prompt);
  lua_getfield(L, -1, "failures");
  lua_replace(L, -2);
  repl->edit = mch_lineedit_new(L);
  ask(repl, "open", 0);
  if (repl->terminal)
    say(repl);
  lua_settop(L, 0);
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
    status = evaluate(&repl, status);
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
