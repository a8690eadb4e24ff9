/* Runs in: both. Purpose: sink.h. */
#define _POSIX_C_SOURCE 200809L
#include "sink.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "runtime/base/error.h"

static int sigpipe_pending(void) {
  sigset_t pending;
  sigemptyset(&pending);
  sigpending(&pending);
  return sigismember(&pending, SIGPIPE) == 1;
}

/* SIGPIPE is blocked for the call and taken away after it if it came by it. */
ssize_t mch_sink_write(void *ud, int fd, const void *bytes, size_t count) {
  sigset_t block, before;
  ssize_t written;
  int saved, was_pending, number;
  (void)ud;
  sigemptyset(&block);
  sigaddset(&block, SIGPIPE);
  was_pending = sigpipe_pending();
  pthread_sigmask(SIG_BLOCK, &block, &before);
  written = write(fd, bytes, count);
  saved = errno;
  if (written < 0 && saved == EPIPE && !was_pending && sigpipe_pending())
    sigwait(&block, &number);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = saved;
  return written;
}

void mch_sink_die(void) {
  struct sigaction action;
  sigset_t pipe;
  if (sigaction(SIGPIPE, NULL, &action) != 0 || (action.sa_flags & SA_SIGINFO) != 0 ||
      action.sa_handler != SIG_DFL)
    return;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_UNBLOCK, &pipe, NULL);
  raise(SIGPIPE);
}

/* One write: the bytes taken, or MCH_FULL. A descriptor that fails for good takes everything. */
static ssize_t try(struct mch_sink *sink, const void *bytes, size_t count) {
  ssize_t written;
  if (sink->dead)
    return (ssize_t)count;
  do
    written = sink->write(sink->ud, sink->fd, bytes, count);
  while (written < 0 && errno == EINTR);
  if (written >= 0)
    return written;
  if (errno == EAGAIN || errno == EWOULDBLOCK)
    return MCH_FULL;
  sink->failure = errno;
  sink->dead = errno == EBADF || errno == EPIPE;
  return (ssize_t)count;
}

void mch_sink_put(struct mch_sink *sink, const void *bytes, size_t count) {
  if (!sink->dead)
    mch_buf_append(&sink->unsent, bytes, count);
}

int mch_sink_push(struct mch_sink *sink) {
  while (mch_buf_unread(&sink->unsent) > 0) {
    size_t count = mch_buf_unread(&sink->unsent);
    ssize_t taken = try(sink, sink->unsent.data + sink->unsent.read, count);
    if (taken < 0)
      return MCH_FULL;
    mch_buf_consume(&sink->unsent, (size_t)taken);
  }
  mch_buf_clear(&sink->unsent); /* also a want of memory that has passed */
  return 0;
}

int mch_sink_wait(struct mch_sink *sink, int milliseconds) {
  struct pollfd entry = {sink->fd, POLLOUT, 0};
  int ready = poll(&entry, 1, milliseconds);
  return ready == 0 || (ready < 0 && errno != EINTR) ? MCH_FULL : 0;
}

int mch_sink_finish(struct mch_sink *sink, int milliseconds) {
  while (mch_sink_push(sink) != 0)
    if (mch_sink_wait(sink, milliseconds) != 0)
      return MCH_FULL;
  return 0;
}

int mch_sink_offer(struct mch_sink *sink, const void *bytes, size_t count) {
  ssize_t taken;
  if (mch_sink_push(sink) != 0)
    return MCH_FULL;
  taken = try(sink, bytes, count);
  if (taken < 0)
    return MCH_FULL;
  mch_sink_put(sink, (const char *)bytes + taken, count - (size_t)taken);
  mch_sink_push(sink);
  return 0;
}
