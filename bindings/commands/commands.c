/* Runs in: parent. Purpose: commands.h. */
#include "bindings/commands/commands.h"

#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#include "bindings/web/web.h"

/* A word, and the part that runs it: a function of the word and its arguments that returns the exit
 * status. NULL: the word is kept for a command that this version does not have. */
struct command {
  const char *word;
  const char *part;
};

static const struct command commands[] = {
    {"map", "commands.main"},
    {"filter", "commands.main"},
    {"run", "commands.main"},
    {"worker", NULL},
    {"journal", "commands.journal"},
    {"top", "commands.top"},
    {"key", NULL},
    {"busted", "commands.busted"},
    {"jupyter", "commands.jupyter"},
    {NULL, NULL},
};

static const struct command *find(const char *word) {
  const struct command *command = commands;
  while (command->word != NULL && strcmp(command->word, word) != 0)
    command++;
  return command->word != NULL ? command : NULL;
}

int mch_commands_has(const char *word) {
  return find(word) != NULL;
}

/* require for the parts: they are searched in the program only. */
static int load_part(lua_State *L) {
  const struct mch_embedded *part = mch_commands_find_part(luaL_checkstring(L, 1));
  if (part == NULL)
    return luaL_error(L, "there is no part '%s'", lua_tostring(L, 1));
  if (luaL_loadbuffer(L, (const char *)part->bytes, part->length, part->chunkname) != LUA_OK)
    return lua_error(L);
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

static void preload(lua_State *L, const char *name, lua_CFunction open) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, open);
  lua_setfield(L, -2, name);
  lua_pop(L, 1);
}

int mch_commands_done(lua_State *L, int problem) {
  if (problem == 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, strerror(problem));
  return 2;
}

int mch_commands_run(lua_State *L, const char *program, int count, char **words) {
  static const char *const parts[] = {
      "main",     "options", "expression", "template", "stream",     "report",    "jupyter",
      "notebook", "cell",    "nearest",    "busted",   "replay",     "web",       "web_state",
      "journal",  "graph",   "again",      "top",      "top_screen", "top_model", "resume"};
  const struct command *command = find(words[0]);
  int status;
  if (command->part == NULL) {
    fprintf(stderr, "%s: this version has no command '%s'; ", program, words[0]);
    fprintf(stderr, "a script of that name is run as ./%s\n", words[0]);
    return 255;
  }
  preload(L, "mantichora.commands.core", mch_commands_open_core);
  preload(L, "mantichora.commands.kernel", mch_kernel_open);
  preload(L, "mantichora.commands.streams", mch_commands_open_streams);
  preload(L, "mantichora.commands.json", mch_commands_open_json);
  preload(L, "mantichora.commands.socket", mch_commands_open_socket);
  preload(L, "mantichora.commands.screen", mch_commands_open_screen);
  preload(L, "mantichora.commands.web", mch_web_open_core);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    lua_pushfstring(L, "commands.%s", parts[i]);
    preload(L, lua_tostring(L, -1), load_part);
    lua_pop(L, 1);
  }
  lua_getglobal(L, "require");
  lua_pushstring(L, command->part);
  lua_call(L, 1, 1);
  luaL_checkstack(L, count + 2, "too many arguments");
  for (int i = 0; i < count; i++)
    lua_pushstring(L, words[i]);
  lua_call(L, count, 1);
  status = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return status;
}
