/* Runs in: parent.
 *
 * The host's side of a notebook: what scripts/commands/notebook.lua cannot do in Lua. The other
 * side is a kernel in Python, scripts/jupyter/kernel.py, which started this process. */
#ifndef MCH_KERNEL_H
#define MCH_KERNEL_H

#include <lua.h>

/* Push a table of functions:
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

#endif
