/* Runs in: parent.
 *
 * A pool over many machines: from the options that hosts.lua has read to what the engine wants, and
 * what of the script's state goes along. */
#ifndef MCH_LHOSTS_H
#define MCH_LHOSTS_H

#include <lua.h>

#include "runtime/hosts/hosts.h"

struct lpool;

/* What the table on top of the stack says, of hosts.lua; pops nothing. Raises errors of memory. The
 * pool frees it (mch_lhosts_free). */
struct mch_hosts *mch_lhosts_new(lua_State *L, struct lpool *lpool);

/* The pool's, if it has any. */
void mch_lhosts_free(lua_State *L, struct lpool *lpool);

/* Before the machines are connected, once: encode what workers set up first (init, fini, functions
 * that the script put into the standard library). Raises what cannot be sent. */
void mch_lhosts_prepare(lua_State *L, struct lpool *lpool);

/* Warn of globals that could not be sent, of each once. Code of the user runs. */
void mch_lhosts_tell_left(lua_State *L, struct lpool *lpool);

/* At each run that may come to modules: what may be asked for. */
void mch_lhosts_renew(lua_State *L, struct lpool *lpool);

/* fleet(url): the URL of a broker without its password, the path of mantichora-amqp, and the
 * password or nil; or nil and what is wrong with it. */
int mch_lhosts_fleet(lua_State *L);

#endif
