/* Runs in: both (a task may have a pool of its own).
 *
 * The pool object: a userdata around struct mch_pool. Methods that are single steps are here; those
 * that combine steps are in scripts/mantichora/pool.lua. */
#ifndef MCH_LPOOL_H
#define MCH_LPOOL_H

#include <lua.h>
#include <stdint.h>

struct mch_error;

/* Push the table of small steps (the "core") that pool.lua builds the methods from. */
int mch_lpool_open(lua_State *L);

/* Move all pools of this state on until `until` (monotonic nanoseconds), hand over log records,
 * draw. Blocks until then. Raises what a signal handler of the host asks for ("interrupted!"). */
void mch_lpool_sleep(lua_State *L, uint64_t until);

/* Move all pools of this state on, and wait until a task waits to be received, none is outstanding,
 * or `until`. How many wait. Raises as mch_lpool_sleep() does. */
size_t mch_lpool_poll(lua_State *L, uint64_t until);

/* See to it that all open pools of this state tell what happens, if a sink or a listener wants to
 * know. May raise (memory). */
void mch_lpool_listen_all(lua_State *L);

/* A descriptor that is readable when mch_lpool_poll() has something to do; -1 and `error`: none is
 * to be had. And when it has although that is not readable. May raise (memory). */
int mch_lpool_fd(lua_State *L, struct mch_error *error);
uint64_t mch_lpool_due(lua_State *L);

/* Move all pools of this state on, in the same way, until the descriptor is readable (1), or until
 * `woken` says so, which is asked with all signals blocked (0). For a prompt. */
int mch_lpool_await(lua_State *L, int fd, int (*woken)(void));

/* The same, and until a task has failed of which untold() of the core did not tell (0). */
int mch_lpool_await_failure(lua_State *L, int fd, int (*woken)(void));

#endif
