/* Runs in: both.
 *
 * Where the sockets of scripts are that can be watched: PID.sock in a folder of the user's own. */
#ifndef MCH_PLACE_H
#define MCH_PLACE_H

#include <stddef.h>
#include <sys/types.h>

#include "runtime/base/error.h"

/* What fits into an address of a socket, with its end. */
enum { MCH_PLACE_ROOM = 108 };

/* The folders, in the order in which a script tries them: $XDG_RUNTIME_DIR/mantichora, and
 * mantichora-UID in the folder for temporary files. Writes the name of number `which` (0, 1); 0:
 * there is no such one, or it is too long. */
int mch_place_folder(char *path, size_t room, int which, uid_t uid);

/* A socket that listens as that of this process, and its path. -1: `error` says why not. */
int mch_place_listen(char path[MCH_PLACE_ROOM], struct mch_error *error);

/* Connect to a socket, not blocking; -1 with errno: ECONNREFUSED: its script has gone. */
int mch_place_connect(const char *path);

/* Whether the other side of a connection is this user, or root: of who may look at this script. */
int mch_place_is_friend(int fd);

/* Whether this process may look at the script on the other side: that is a friend, or we are root.
 */
int mch_place_may_look(int fd);

#endif
