/* Runs in: parent.
 *
 * A unix stream socket that carries lines, from the side of a viewer: the socket of a watched
 * script. Nothing here waits for the other side but mch_line_socket_send(). */
#ifndef MCH_LINE_SOCKET_H
#define MCH_LINE_SOCKET_H

#include <stddef.h>

#include "runtime/base/buf.h"

struct mch_line_socket {
  int fd; /* -1: closed */
  struct mch_buf heard;
  size_t searched; /* bytes of `heard`, unread, that have no end of a line */
};

/* Connect to the socket at this path. 0, or the errno: ENOENT or ECONNREFUSED: nobody listens. */
int mch_line_socket_open(struct mch_line_socket *socket, const char *path);

/* Take what has come, up to a MiB or so. 0, or -1: the other side has gone, or sends lines without
 * an end; what came before can still be had. */
int mch_line_socket_fill(struct mch_line_socket *socket);

/* The next whole line of what was taken, without its end; NULL: there is none. Valid until the next
 * call. */
const char *mch_line_socket_next(struct mch_line_socket *socket, size_t *length);

/* Send bytes; waits for room, at most a second. 0 or -1. */
int mch_line_socket_send(struct mch_line_socket *socket, const void *bytes, size_t length);

void mch_line_socket_close(struct mch_line_socket *socket);

#endif
