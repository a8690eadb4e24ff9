/* Runs in: parent.
 *
 * The part of hold.h that swaps the descriptor inside of glibc's streams. With another C library
 * nothing is held: the host's text appears at once, and the next frame is drawn below it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include "hold.h"

#if defined(__GLIBC__)

#include <fcntl.h>
#include <stdio_ext.h>
#include <sys/mman.h>
#include <unistd.h>

enum { UNBUFFERED = 2 }; /* in a stream's flags */

static int descriptor_of(int bit) {
  return bit == MCH_HOLD_STDOUT ? STDOUT_FILENO : STDERR_FILENO;
}

/* Another descriptor of it above the standard ones, which may be closed. */
static int duplicate(int fd) {
  return fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1) : -1;
}

static int new_file(void) {
  int fd = memfd_create("mantichora-held", MFD_CLOEXEC);
  int high = duplicate(fd);
  if (fd >= 0)
    close(fd);
  if (high >= 0)
    fcntl(high, F_SETFL, O_APPEND);
  return high;
}

/* A stream that has not been used yet asks at its first use whether it writes to a terminal. It
 * must not ask while it is held. */
static void make_line_buffered(FILE *stream) {
  if (stream->_IO_buf_base == NULL && (stream->_flags & UNBUFFERED) == 0)
    setvbuf(stream, NULL, _IOLBF, 0);
}

static size_t index_of(int bit) {
  return bit == MCH_HOLD_STDERR;
}

static void hold_one(struct mch_hold *hold, int bit) {
  FILE *stream = mch_hold_stream(bit);
  int fd;
  /* Not a stream that is held for another Lua state, or has been reopened. */
  if (stream->_fileno != descriptor_of(bit) || (fd = duplicate(hold->fd)) < 0)
    return;
  make_line_buffered(stream);
  stream->_fileno = hold->given[index_of(bit)] = fd;
  hold->streams |= bit;
}

void mch_hold_begin(struct mch_hold *hold, int streams) {
  int bit;
  if (hold->streams != 0 || streams == 0)
    return;
  hold->fd = new_file();
  for (bit = 1; bit <= MCH_HOLD_BOTH && hold->fd >= 0; bit <<= 1)
    if (streams & bit)
      hold_one(hold, bit);
  if (hold->fd >= 0 && hold->streams == 0)
    close(hold->fd);
}

/* The host has neither closed nor reopened it since: freopen() keeps the number. */
static int holds(const struct mch_hold *hold, int bit) {
  int given = hold->given[index_of(bit)];
  return (hold->streams & bit) && mch_hold_stream(bit)->_fileno == given &&
         mch_hold_same_file(given, hold->fd);
}

static void flush_held(const struct mch_hold *hold) {
  int bit;
  for (bit = 1; bit <= MCH_HOLD_BOTH; bit <<= 1)
    if (holds(hold, bit))
      fflush(mch_hold_stream(bit));
}

void mch_hold_take(struct mch_hold *hold, struct mch_buf *text) {
  off_t size;
  ssize_t got;
  if (hold->streams == 0)
    return;
  flush_held(hold);
  size = lseek(hold->fd, 0, SEEK_END);
  if (size <= 0)
    return;
  if (mch_buf_reserve(text, (size_t)size) != 0) {
    text->failed = 0; /* it waits for the next time */
    return;
  }
  got = pread(hold->fd, text->data + text->length, (size_t)size, 0);
  if (got > 0)
    text->length += (size_t)got;
  if (ftruncate(hold->fd, 0) != 0) /* never seen; the text would come twice */
    mch_hold_end(hold);
}

int mch_hold_waiting(const struct mch_hold *hold) {
  if (hold->streams == 0)
    return 0;
  flush_held(hold);
  return lseek(hold->fd, 0, SEEK_END) > 0;
}

void mch_hold_drop(struct mch_hold *hold) {
  int bit;
  for (bit = 1; bit <= MCH_HOLD_BOTH; bit <<= 1)
    if (holds(hold, bit))
      __fpurge(mch_hold_stream(bit));
  mch_hold_end(hold);
}

void mch_hold_end(struct mch_hold *hold) {
  int bit;
  if (hold->streams == 0)
    return;
  flush_held(hold);
  for (bit = 1; bit <= MCH_HOLD_BOTH; bit <<= 1) {
    if (!holds(hold, bit))
      continue;
    mch_hold_stream(bit)->_fileno = descriptor_of(bit);
    close(hold->given[index_of(bit)]);
  }
  hold->streams = 0;
  close(hold->fd);
}

/* What C++ compilers use for objects of a library: known to exit() and to dlclose(). */
extern int __cxa_atexit(void (*function)(void *), void *argument, void *library);
extern void *__dso_handle __attribute__((visibility("hidden")));

int mch_hold_at_exit(void (*leave)(void *arg), void *arg) {
  return __cxa_atexit(leave, arg, &__dso_handle);
}

#else /* nothing is held */

void mch_hold_begin(struct mch_hold *hold, int streams) {
  (void)hold;
  (void)streams;
}

void mch_hold_take(struct mch_hold *hold, struct mch_buf *text) {
  (void)hold;
  (void)text;
}

int mch_hold_waiting(const struct mch_hold *hold) {
  (void)hold;
  return 0;
}

void mch_hold_end(struct mch_hold *hold) {
  (void)hold;
}

void mch_hold_drop(struct mch_hold *hold) {
  (void)hold;
}

int mch_hold_at_exit(void (*leave)(void *arg), void *arg) {
  (void)leave;
  (void)arg;
  return -1;
}

#endif
