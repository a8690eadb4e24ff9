/* Runs in: parent.
 *
 * The sinks of a program in C (mantichora_set_..._sink()): reports are converted to the public
 * structures, and the sinks are called in protected mode, on the Lua thread. */
#ifndef MCH_SINKS_H
#define MCH_SINKS_H

#include <lua.h>

struct mch_output;
struct mch_report;

/* Tell the log sink the record (a table) at `index`. 0: there is no such sink. May raise. */
int mch_sinks_log(lua_State *L, int index);

/* Tell the progress sink all that is due. 0: there is no such sink. */
int mch_sinks_progress(lua_State *L, struct mch_output *out);

/* Tell the output sink all lines that have come, if there is such a sink. */
void mch_sinks_output(lua_State *L, struct mch_output *out);

#endif
