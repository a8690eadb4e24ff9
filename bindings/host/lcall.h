/* Runs in: parent.
 *
 * Calls of the program's own into Lua, which Ctrl-C interrupts, and what is said of their errors.
 */
#ifndef MCH_LCALL_H
#define MCH_LCALL_H

#include <stdbool.h>

#include <lua.h>

/* Call the function below `count` arguments in protected mode, with a traceback added to errors if
 * wanted; all its values, or the error, stay on the stack. SIGINT meanwhile raises "interrupted!"
 * in Lua, and ends the process if it comes twice. Returns Lua's status. */
int mch_lcall(lua_State *L, int count, bool with_traceback);

/* The same with a message handler at this index, which stays there; 0: none. */
int mch_lcall_under(lua_State *L, int count, int handler);

/* The message handler for a traceback: errors become strings; those that know how to become one
 * stay without. */
int mch_lcall_traceback(lua_State *L);

/* If `status` tells of an error, print the message on top of the stack to stderr, after `program`
 * and a colon unless that is NULL, and pop it. Returns `status`. */
int mch_lcall_report(lua_State *L, int status, const char *program);

#endif
