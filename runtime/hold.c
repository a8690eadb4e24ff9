/* Runs in: parent. Purpose: hold.h. */
#define _POSIX_C_SOURCE 200809L
#include "hold.h"

#include <stdlib.h>
#include <string.h>

#if defined(__GLIBC__)
#include <stdio_ext.h>
#endif

enum { ROOM = 32768 }; /* bytes of a held stream's buffer */

int mch_hold_lock(FILE *stream, int wait) {
  if (wait)
    flockfile(stream);
  else if (ftrylockfile(stream) != 0)
    return 0;
  if (fileno(stream) >= 0)
    return 1;
  funlockfile(stream);
  return -1;
}

void mch_hold_unlock(FILE *stream) {
  funlockfile(stream);
}

#if defined(__GLIBC__)

/* A held stream's file offset is set to 0. The stream adds to it what it writes, a terminal has no
 * offset of its own: so it counts what has gone past us. */
enum { NO_OFFSET = -1 };

size_t mch_hold_pending(FILE *stream) {
  return __fpending(stream);
}

static int mode_of(FILE *stream) {
  if (stream->_flags & 0x0002) /* unbuffered */
    return _IONBF;
  /* A terminal's stream that has not been used yet becomes line-buffered at its first use. */
  return __flbf(stream) || stream->_IO_buf_base == NULL ? _IOLBF : _IOFBF;
}

static size_t room_of(const FILE *stream) {
  return (size_t)(stream->_IO_buf_end - stream->_IO_buf_base);
}

/* A buffer that we gave to a stream for ever (it is too late to get the stream's own back) serves
 * the next hold as well. */
static int set_buffering(struct mch_hold *hold) {
  if (hold->restore != _IONBF && room_of(hold->stream) >= ROOM)
    return setvbuf(hold->stream, NULL, _IOFBF, 0);
  hold->buffer = malloc(ROOM);
  if (hold->buffer == NULL)
    return -1;
  return setvbuf(hold->stream, hold->buffer, _IOFBF, ROOM);
}

void mch_hold_begin(struct mch_hold *hold) {
  if (hold->active || hold->stream->_offset >= 0) /* by another Lua state of this process */
    return;
  hold->restore = mode_of(hold->stream);
  hold->buffer = NULL;
  if (set_buffering(hold) != 0) {
    free(hold->buffer);
    return;
  }
  hold->active = 1;
  hold->stream->_offset = 0;
  memset(hold->stream->_IO_buf_base, 0, room_of(hold->stream));
}

void mch_hold_end(struct mch_hold *hold) {
  if (!hold->active)
    return;
  hold->active = 0;
  hold->stream->_offset = NO_OFFSET;
  setvbuf(hold->stream, NULL, hold->restore, 0);
  if (hold->restore == _IONBF && hold->buffer != (void *)hold->stream->_IO_buf_base)
    free(hold->buffer); /* else it stays with the stream */
  hold->buffer = NULL;
}

/* The buffer is kept zeroed behind what is in it. After a single flush all that has passed still
 * stands at its front; after several, the last of so many bytes is one of the zeroes. */
static int get_passed(const struct mch_hold *hold, size_t pending, struct mch_buf *passed) {
  const char *base = hold->stream->_IO_buf_base;
  size_t count = hold->stream->_offset > 0 ? (size_t)hold->stream->_offset : 0;
  if (count == 0)
    return 0;
  if (pending > 0 || count > room_of(hold->stream) || base[count - 1] == '\0')
    return 1;
  mch_buf_append(passed, base, count);
  return 0;
}

int mch_hold_take(struct mch_hold *hold, struct mch_buf *text, struct mch_buf *passed) {
  FILE *stream = hold->stream;
  size_t pending = __fpending(stream);
  int lost = hold->active ? get_passed(hold, pending, passed) : 0;
  if (pending > 0)
    mch_buf_append(text, stream->_IO_write_base, pending);
  if (hold->active && (pending > 0 || stream->_offset > 0)) {
    stream->_offset = 0;
    memset(stream->_IO_buf_base, 0, room_of(stream));
  }
  if (pending > 0)
    __fpurge(stream);
  return lost;
}

int mch_hold_urgent(const struct mch_hold *hold) {
  return hold->active && (hold->stream->_offset > 0 || __fpending(hold->stream) > ROOM / 2);
}

void mch_hold_drop(struct mch_hold *hold) {
  if (hold->active)
    __fpurge(hold->stream);
  mch_hold_end(hold);
}

#else

size_t mch_hold_pending(FILE *stream) {
  (void)stream;
  return 1;
}

void mch_hold_begin(struct mch_hold *hold) {
  (void)hold;
}

void mch_hold_end(struct mch_hold *hold) {
  (void)hold;
}

int mch_hold_take(struct mch_hold *hold, struct mch_buf *text, struct mch_buf *passed) {
  (void)text;
  (void)passed;
  fflush(hold->stream);
  return 0;
}

int mch_hold_urgent(const struct mch_hold *hold) {
  (void)hold;
  return 0;
}

void mch_hold_drop(struct mch_hold *hold) {
  (void)hold;
}

#endif
