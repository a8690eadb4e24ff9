/* Runs in: both.
 *
 * What a run leaves behind for those who look: a trace (MANTICHORA_TRACE) and a report
 * (MANTICHORA_REPORT). They begin when the module is loaded, and end with the state. */
#ifndef MCH_LTRACE_H
#define MCH_LTRACE_H

#include <lua.h>

#include "bindings/context.h"

struct mch_hub;

/* Once in a state: begin what is wanted, in these files; NULL: what the environment says, "":
 * nothing. What cannot be is logged at ERROR. Later calls do nothing. */
void mch_ltrace_open(lua_State *L, const char *trace, const char *report);

/* A pool is about to be made, whose output has this hub. */
void mch_ltrace_observe(lua_State *L, struct mch_hub *hub);

/* A pool has gone: what is known of it shall be in the files. */
void mch_ltrace_flush(const struct mch_context *context);

/* In our own program: when SIGTERM or SIGHUP ends it, all is written first. */
void mch_ltrace_say_farewell(lua_State *L);

#endif
