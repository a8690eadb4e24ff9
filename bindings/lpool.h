/* Runs in: both (a task may have a pool of its own).
 *
 * The pool object: a userdata around struct mch_pool. Its methods that are small steps are here;
 * those that put steps together are in scripts/mantichora/pool.lua. */
#ifndef MCH_LPOOL_H
#define MCH_LPOOL_H

#include <lua.h>
#include <stdint.h>

/* Push the table of small steps (the "core") that pool.lua builds the methods from. */
int mch_lpool_open(lua_State *L);

/* Move all pools of this state on until `until` (monotonic nanoseconds), hand over log records,
 * draw. Blocks until then. Raises what a signal handler of the host asks for ("interrupted!"). */
void mch_lpool_sleep(lua_State *L, uint64_t until);

/* Move all pools of this state on, in the same way, until the descriptor is readable (1), or until
 * `woken` says so, which is asked with all signals blocked (0). For a prompt. */
int mch_lpool_await(lua_State *L, int fd, int (*woken)(void));

/* Tell all pools of this state the lowest level of log records that is wanted. */
void mch_lpool_log_threshold(lua_State *L, int level);

#endif
