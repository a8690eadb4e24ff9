/* Runs in: parent.
 *
 * The socket of a script that can be watched, and those who watch: each gets a snapshot and then
 * what happens, as lines of JSON (scripts/manual/watch.md), and may ask for a few things. It
 * observes the hub of a state (show/observe.h); nobody waits for a viewer: who is too slow is told
 * that he missed something, and gets a new snapshot. */
#ifndef MCH_SERVER_H
#define MCH_SERVER_H

#include "lines.h"
#include "place.h"
#include "runtime/base/error.h"
#include "runtime/show/output.h"

struct mch_server;

/* Begin to listen. What `script` says is copied. NULL: `error` says why it cannot be; its code is
 * MCH_NOMEM or another. */
struct mch_server *mch_server_open(struct mch_output *output, const struct mch_script *script,
                                   struct mch_error *error);

/* The path of its socket. */
const char *mch_server_path(const struct mch_server *server);

/* Tell viewers that it ends, take the socket away and free all. NULL: nothing. */
void mch_server_close(struct mch_server *server);

/* The process ends in another way: the same without freeing, on any thread. */
void mch_server_leave(struct mch_server *server);

#endif
