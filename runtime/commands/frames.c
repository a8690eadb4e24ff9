/* Runs in: parent. Purpose: frames.h. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/commands/frames.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#include "runtime/show/sink.h"

enum { HEAD = 4, MOST = 1 << 30 };

static int send_all(int fd, const unsigned char *bytes, size_t length) {
  while (length > 0) {
    ssize_t sent = mch_sink_write(NULL, fd, bytes, length);
    if (sent < 0 && errno != EINTR)
      return MCH_FRAMES_END;
    if (sent > 0) {
      bytes += sent;
      length -= (size_t)sent;
    }
  }
  return MCH_FRAMES_OK;
}

int mch_frames_send(int fd, const void *bytes, size_t length) {
  unsigned char head[HEAD];
  int code;
  if (length > MOST)
    return MCH_FRAMES_MEMORY;
  mch_store_u32(head, (uint32_t)length);
  code = send_all(fd, head, HEAD);
  return code == MCH_FRAMES_OK ? send_all(fd, bytes, length) : code;
}

/* `may_stop`: a signal ends it while nothing has come. */
static int receive_all(int fd, unsigned char *to, size_t length, int may_stop) {
  size_t have = 0;
  while (have < length) {
    ssize_t got = read(fd, to + have, length - have);
    if (got == 0 || (got < 0 && errno != EINTR))
      return MCH_FRAMES_END;
    if (got > 0)
      have += (size_t)got;
    else if (may_stop && have == 0)
      return MCH_FRAMES_INTERRUPTED;
  }
  return MCH_FRAMES_OK;
}

int mch_frames_receive(int fd, struct mch_buf *frame) {
  unsigned char head[HEAD];
  size_t length;
  int code = receive_all(fd, head, HEAD, 1);
  mch_buf_clear(frame);
  if (code != MCH_FRAMES_OK)
    return code;
  length = mch_load_u32(head);
  if (length > MOST)
    return MCH_FRAMES_END;
  if (mch_buf_reserve(frame, length) != 0)
    return MCH_FRAMES_MEMORY;
  code = receive_all(fd, frame->data, length, 0);
  if (code == MCH_FRAMES_OK)
    frame->length = length;
  return code;
}

void mch_frames_field(struct mch_buf *frame, const void *bytes, size_t length) {
  mch_buf_u32(frame, (uint32_t)length);
  mch_buf_append(frame, bytes, length);
}
