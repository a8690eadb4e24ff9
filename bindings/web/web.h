/* Runs in: parent.
 *
 * The server of `mantichora top --web` (runtime/web/server.h) for the program's command. */
#ifndef MCH_BINDINGS_WEB_H
#define MCH_BINDINGS_WEB_H

#include <lua.h>

#include "bindings/embedded.h"

/* The files of scripts/web, by name: "web/page.js". */
const struct mch_embedded *mch_web_find_file(const char *name);

/* Push what scripts/commands/web.lua is made of, a table of functions:
 *
 *   open()                   a server that listens; or nil and why there is none. Its methods:
 *     :url()                 the address of the page, with the token
 *     :serve(fd, seconds)    wait until `fd` (nil: none) is readable, a browser wants something or
 *                            the time is over, and serve the browsers; whether `fd` is readable
 *     :viewers(), :wanting() how many there are, and how many wait for a snapshot
 *     :publish(text, snap)   to all that are up to date; or, with `snap`, to those that wait
 *     :close()
 *   clock()                  monotonic seconds
 *   wait(fd, seconds)        until `fd` is readable, so long at most
 */
int mch_web_open_core(lua_State *L);

#endif
