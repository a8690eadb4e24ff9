/* Runs in: both.
 *
 * What a finalizer has to report but cannot report itself, since it may run in the middle of
 * anything: that pools were collected without having been closed. The next call of the library logs
 * it; if the state closes first, it goes to stderr. */
#ifndef MCH_NOTICES_H
#define MCH_NOTICES_H

#include <lua.h>
#include <stddef.h>

/* Once in a state, before anything that makes notices: its finalizer then runs after theirs. */
void mch_notices_open(lua_State *L);

/* A pool was collected: so many of its tasks had not ended, and so many failures nobody received.
 * Raises nothing. */
void mch_notices_collected(lua_State *L, size_t tasks, size_t failures);

/* Log what was noted in this process, if anything. Called where a call of the library begins: code
 * of the user (handlers) runs. May raise "interrupted!". */
void mch_notices_tell(lua_State *L);

/* Log that sentence with the logger `mantichora`, by its method `level`, or at WARNING; likewise.
 */
void mch_notices_log(lua_State *L, const char *level, const char *sentence);
void mch_notices_warn(lua_State *L, const char *sentence);
void mch_notices_error(lua_State *L, const char *sentence); /* at ERROR */

/* Push the module mantichora.logging, loading it where that has not been done. */
void mch_notices_push_logging(lua_State *L);

#endif
