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

/* Push true; or, if `problem` is an errno, nil and what it means. How many values that are. */
int mch_commands_done(lua_State *L, int problem);

/* Push what the parts of map, filter and run are made of. */
int mch_commands_open_core(lua_State *L);

/* Push what a notebook is made of, a table of functions:
 *
 *   open(frames, lifeline, acks)
 *                            three descriptors, as strings: the socket; the pipe whose other end
 *                            the kernel holds; the pipe by which it says that something is shown.
 *                            From now on bars go to the kernel.
 *   receive()                wait for a frame while pools move on; nil: the kernel has gone
 *   send(frame, waits)       after all that was written before; `waits`: until it is shown
 *   call(f, ...)             true and its values; or false, the error value, its message and its
 *                            traceback. SIGINT meanwhile raises "interrupted!", here only
 *   is_incomplete(message)   whether code failed to compile only because it is not complete yet
 *   part(name, environment)  what the part of the prompt returns, loaded with these globals
 *   file(name)               the bytes of a part of scripts/commands
 *   fields(frame)            list of the fields of a frame
 */
int mch_kernel_open(lua_State *L);

/* Push JSON for parts written in Lua, a table: read(text): its value, or nil and what is wrong
 * (there is no `read` in a program that was built without yajl); write(value): its text; list(t):
 * t, which will be written as a list; null. */
int mch_commands_open_json(lua_State *L);

/* Push the viewer's side of scripts' sockets, a table:
 *
 *   folders([pid])   where the sockets of this user's scripts may be, or of that process's user's
 *   pids(folder)     of whom there are sockets; of some the process has gone
 *   runs(pid)        whether there is such a process
 *   owner(pid)       the user whose process that is; nil: ours
 *   connect(path)    a connection; or nil and why not: "none": no socket, "refused": nobody listens
 *     :fd()            to wait for
 *     :lines()         the objects that have come, without waiting; nil: the other side has gone
 *     :texts()         the same lines as they are
 *     :send(text)      whether it went
 *     :close() */
int mch_commands_open_socket(lua_State *L);

/* Push the terminal as `top` uses it: a table of functions, which lscreen.c describes. */
int mch_commands_open_screen(lua_State *L);

/* Push what the part of busted takes: the streams of a task, kept in files. */
int mch_commands_open_streams(lua_State *L);

#endif
