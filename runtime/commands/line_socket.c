/* Runs in: parent. Purpose: line_socket.h. */
#include "runtime/commands/line_socket.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "runtime/watch/place.h"

enum {
  PIECE = 1 << 16,
  MOST_AT_ONCE = 1 << 20,
  LONGEST = 1 << 20 /* of a line: 16 times what a script sends */
};

int mch_line_socket_open(struct mch_line_socket *line_socket, const char *path) {
  memset(line_socket, 0, sizeof *line_socket);
  line_socket->fd = mch_place_connect(path);
  return line_socket->fd >= 0 ? 0 : errno;
}

int mch_line_socket_fill(struct mch_line_socket *line_socket) {
  struct mch_buf *heard = &line_socket->heard;
  size_t taken = 0;
  if (line_socket->fd < 0)
    return -1;
  while (taken < MOST_AT_ONCE) {
    ssize_t count;
    if (mch_buf_unread(heard) - line_socket->searched > LONGEST ||
        mch_buf_reserve(heard, PIECE) != 0)
      return -1;
    count = recv(line_socket->fd, heard->data + heard->length, PIECE, 0);
    if (count < 0)
      return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
    if (count == 0)
      return -1;
    heard->length += (size_t)count;
    taken += (size_t)count;
  }
  return 0;
}

const char *mch_line_socket_next(struct mch_line_socket *line_socket, size_t *length) {
  struct mch_buf *heard = &line_socket->heard;
  size_t unread = mch_buf_unread(heard);
  const char *from, *end;
  if (unread == line_socket->searched)
    return NULL;
  from = (const char *)heard->data + heard->read;
  end = memchr(from + line_socket->searched, '\n', unread - line_socket->searched);
  if (end == NULL) {
    line_socket->searched = unread;
    return NULL;
  }
  *length = (size_t)(end - from);
  /* The bytes stay where they are until more is appended. */
  heard->read += *length + 1;
  line_socket->searched = 0;
  return from;
}

int mch_line_socket_send(struct mch_line_socket *line_socket, const void *bytes, size_t length) {
  const char *at = bytes;
  uint64_t deadline = mch_now() + 1000000000u;
  while (length > 0) {
    ssize_t count = line_socket->fd < 0 ? -1 : mch_platform_send(line_socket->fd, at, length, 0);
    if (count >= 0) {
      at += count;
      length -= (size_t)count;
      continue;
    }
    if (line_socket->fd < 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) ||
        mch_now() > deadline)
      return -1;
    poll(&(struct pollfd){line_socket->fd, POLLOUT, 0}, 1, mch_milliseconds_until(deadline));
  }
  return 0;
}

void mch_line_socket_close(struct mch_line_socket *line_socket) {
  if (line_socket->fd >= 0)
    close(line_socket->fd);
  line_socket->fd = -1;
  mch_buf_free(&line_socket->heard);
  line_socket->searched = 0;
}
