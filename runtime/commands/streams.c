/* Runs in: both. Purpose: streams.h. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/commands/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/commands/spawn.h"

void mch_streams_init(struct mch_streams *streams) {
  streams->out = streams->err = -1;
}

/* Whether stdout and stderr lead to the same place: then what is said must keep its order. */
static int same_here(void) {
  struct stat out, err;
  return fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
         out.st_dev == err.st_dev && out.st_ino == err.st_ino;
}

int mch_streams_open(struct mch_streams *streams) {
  streams->out = mch_spawn_nameless();
  if (streams->out < 0)
    return errno;
  streams->err = same_here() ? fcntl(streams->out, F_DUPFD_CLOEXEC, 3) : mch_spawn_nameless();
  if (streams->err < 0) {
    int problem = errno;
    mch_streams_close(streams);
    return problem;
  }
  return 0;
}

int mch_streams_take(const struct mch_streams *streams) {
  fflush(stdout);
  fflush(stderr);
  if (dup2(streams->out, STDOUT_FILENO) < 0 || dup2(streams->err, STDERR_FILENO) < 0)
    return errno;
  return 0;
}

int mch_streams_are_one(const struct mch_streams *streams) {
  struct stat out, err;
  return fstat(streams->out, &out) == 0 && fstat(streams->err, &err) == 0 &&
         out.st_dev == err.st_dev && out.st_ino == err.st_ino;
}

ssize_t mch_streams_get(const struct mch_streams *streams, int which, off_t offset, char *to,
                        size_t size) {
  ssize_t count;
  do
    count = pread(which == 1 ? streams->out : streams->err, to, size, offset);
  while (count < 0 && errno == EINTR);
  return count;
}

void mch_streams_close(struct mch_streams *streams) {
  if (streams->out >= 0)
    close(streams->out);
  if (streams->err >= 0)
    close(streams->err);
  mch_streams_init(streams);
}
