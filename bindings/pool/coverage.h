/* Runs in: child, and in the parent with the inline engine.
 *
 * Lines that tasks run count where luacov counts lines: it was loaded before the fork, its hook is
 * that of another thread, and it saves when the process ends, which a worker does not do in its
 * way. Nothing of this costs anything without luacov. */
#ifndef MCH_COVERAGE_H
#define MCH_COVERAGE_H

#include <lua.h>

/* In a new worker, on the thread of tasks: count here too what `from` counts, from nothing on.
 * Whether luacov counts at all. Raises errors of memory. */
int mch_coverage_begin(lua_State *L, lua_State *from);

/* In this process (an inline pool): the thread of tasks counts what `from` does. Raises errors of
 * memory. */
void mch_coverage_follow(lua_State *L, lua_State *from);

/* After a task: add what it has run to luacov's file, one worker at a time. Raises nothing. */
void mch_coverage_save(lua_State *L);

#endif
