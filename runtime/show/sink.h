/* Runs in: both.
 *
 * Bytes to a descriptor that belongs to somebody else (standard output or error of the host): it
 * may be closed, full, non-blocking, or a pipe whose reader has gone. Bytes are lost only when the
 * descriptor has become unusable, and no SIGPIPE is raised. */
#ifndef MCH_SINK_H
#define MCH_SINK_H

#include <stddef.h>
#include <sys/types.h>

#include "runtime/base/buf.h"

struct mch_sink {
  int fd;
  int dead;    /* closed, or nobody reads: bytes are discarded */
  int failure; /* errno of the last write that failed for good; 0: none yet */
  struct mch_buf unsent;
  ssize_t (*write)(void *ud, int fd, const void *bytes, size_t count); /* as write(2) */
  void *ud;
};

/* Nobody reads: end as any program does then, if SIGPIPE has its default action. */
void mch_sink_die(void);

/* write(2) without SIGPIPE; the default for `write`. */
ssize_t mch_sink_write(void *ud, int fd, const void *bytes, size_t count);

/* Queue bytes; they are sent by mch_sink_push(). */
void mch_sink_put(struct mch_sink *sink, const void *bytes, size_t count);

/* Send what is queued. 0: all is sent; MCH_FULL: the descriptor takes no more now. Blocks as the
 * descriptor does. */
int mch_sink_push(struct mch_sink *sink);

/* Wait up to `milliseconds` until the descriptor takes something: 0, or MCH_FULL. */
int mch_sink_wait(struct mch_sink *sink, int milliseconds);

/* Send what is queued, and wait up to `milliseconds` for room each time that there is none. 0, or
 * MCH_FULL. */
int mch_sink_finish(struct mch_sink *sink, int milliseconds);

/* Send these bytes whole or not at all: MCH_FULL if none was taken. What a partial write has left
 * over is queued, and 0 returned. */
int mch_sink_offer(struct mch_sink *sink, const void *bytes, size_t count);

#endif
