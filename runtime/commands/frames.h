/* Runs in: parent.
 *
 * Frames over a socket: four bytes with the length, the lowest first, and so many bytes. What the
 * host and its notebook's kernel say to each other. */
#ifndef MCH_FRAMES_H
#define MCH_FRAMES_H

#include <stddef.h>

#include "runtime/base/buf.h"

enum {
  MCH_FRAMES_OK = 0,
  MCH_FRAMES_END = -1,         /* the other side has gone, or breaks the rules */
  MCH_FRAMES_INTERRUPTED = -2, /* by a signal, before anything of the frame was read */
  MCH_FRAMES_MEMORY = -3
};

/* Send a frame; waits until all of it has gone. Signals do not end it. */
int mch_frames_send(int fd, const void *bytes, size_t length);

/* Wait for the next frame and put it into `frame`, which is cleared first. */
int mch_frames_receive(int fd, struct mch_buf *frame);

/* Append a field to a frame that is being made: its length in four bytes, and its bytes. */
void mch_frames_field(struct mch_buf *frame, const void *bytes, size_t length);

#endif
