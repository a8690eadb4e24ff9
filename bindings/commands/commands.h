/* Runs in: parent.
 *
 * The commands of the program: `mantichora map ...`. A word of the table in commands.c names one;
 * each is a part written in Lua, of scripts/commands. */
#ifndef MCH_COMMANDS_H
#define MCH_COMMANDS_H

#include <lua.h>

#include "bindings/embedded.h"

/* Whether this word is a command. */
int mch_commands_has(const char *word);

/* Run the command that `words` begin with, `count` words in all. Its exit status. Raises errors of
 * the program itself only. */
int mch_commands_run(lua_State *L, const char *program, int count, char **words);

/* The parts of scripts/commands, by name: "commands.main". */
const struct mch_embedded *mch_commands_find_part(const char *name);

/* Push what the parts of map, filter and run are made of. */
int mch_commands_open_core(lua_State *L);

/* Push what the part of busted takes: the streams of a task, kept in files. */
int mch_commands_open_streams(lua_State *L);

#endif
