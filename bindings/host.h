/* Runs in: parent.
 *
 * What host.c and repl.c share. */
#ifndef MCH_HOST_H
#define MCH_HOST_H

#include <stdbool.h>

#include <lua.h>

/* Call the function below `count` arguments in protected mode, with a traceback added to errors if
 * wanted; all its values, or the error, stay on the stack. SIGINT meanwhile raises "interrupted!"
 * in Lua, and ends the process if it comes twice. Returns Lua's status. */
int mch_host_call(lua_State *L, int count, bool with_traceback);

/* If `status` tells of an error, print the message on top of the stack to stderr, after `program`
 * and a colon unless that is NULL, and pop it. Returns `status`. */
int mch_host_report(lua_State *L, int status, const char *program);

/* Print who we are: our version, and Lua's. */
void mch_host_version(void);

/* Whether a chunk failed to compile, with the message on top of the stack, only because it is not
 * complete yet. */
bool mch_repl_is_incomplete(lua_State *L, int status);

/* Read, evaluate and print until the end of stdin. */
void mch_repl_run(lua_State *L);

#endif
