/* Runs in: both.
 *
 * The module `mantichora.atpbar`, and the one struct mch_output of a Lua state. */
#ifndef MCH_LATPBAR_H
#define MCH_LATPBAR_H

#include <lua.h>

#include "runtime/mantichora.h" /* declares luaopen_mantichora_atpbar */

struct mch_output;

/* The output of this state: made at the first call and kept in the registry until the state is
 * closed. Take a reference (mch_output_ref()) to use it beyond that. May raise (memory). */
struct mch_output *mch_atpbar_output(lua_State *L);

/* mch_output_pump() on the Lua thread, and then the renderer that the script has set, if any.
 * Raises what the renderer raises, which is then set no more: call it where that may happen. */
void mch_atpbar_pump(lua_State *L);

/* The same where a pool ends: raises nothing but "interrupted!"; what else the renderer raises is
 * raised by the next mch_atpbar_pump(). */
void mch_atpbar_pump_quietly(lua_State *L);

/* Tell sinks and renderer what is there at once: before a result is handed over. Raises nothing:
 * what the renderer raises is raised by the next mch_atpbar_pump(). */
void mch_atpbar_tell(lua_State *L, struct mch_output *out);

/* Have progress told, if there is a sink or renderer now, or else shown as the user wants it. May
 * raise (memory). */
void mch_atpbar_choose_mode(lua_State *L);

#endif
