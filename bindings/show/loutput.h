/* Runs in: both.
 *
 * The one struct mch_output of a Lua state, and the renderer that the script has set. */
#ifndef MCH_LOUTPUT_H
#define MCH_LOUTPUT_H

#include <lua.h>

struct mch_output;

/* The output of this state: made at the first call and kept in the registry until the state is
 * closed. Take a reference (mch_output_ref()) to use it beyond that. May raise (memory). */
struct mch_output *mch_loutput_get(lua_State *L);

/* mch_output_pump() on the Lua thread, and then the renderer that the script has set, if any.
 * Raises only the errors of Ctrl-C and of a stop; another one of the renderer is logged, once. */
void mch_loutput_pump(lua_State *L);

/* The same where a pool ends: raises nothing but "interrupted!". */
void mch_loutput_pump_quietly(lua_State *L);

/* Tell sinks and renderer what is there at once: before a result is handed over. Raises nothing:
 * Ctrl-C inside of the renderer is raised by the next mch_loutput_pump(). */
void mch_loutput_tell(lua_State *L, struct mch_output *out);

/* Have progress told, if there is a sink or renderer now, or else shown as the user wants it. May
 * raise (memory). */
void mch_loutput_choose_mode(lua_State *L);

/* The renderer, or nil, is on top and popped. */
void mch_loutput_set_renderer(lua_State *L);

/* What a loop, a bar or a pool does when it may be time: tell sinks or renderer all that is new.
 * Raises as mch_loutput_pump() does. */
void mch_loutput_render(lua_State *L, struct mch_output *out);

/* Raise what mch_loutput_tell() and mch_loutput_pump_quietly() had to keep. */
void mch_loutput_complain(lua_State *L);

#endif
