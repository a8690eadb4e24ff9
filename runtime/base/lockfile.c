/* Runs in: both. Purpose: lockfile.h. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/base/lockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int wait_for(int fd) {
  struct flock whole = {0};
  int problem;
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  do
    problem = fcntl(fd, F_SETLKW, &whole) == 0 ? 0 : errno;
  while (problem == EINTR);
  return problem;
}

/* Whoever had it before may have removed the file while we waited: then it is another's. */
static int is_there(const struct mch_lockfile *lock) {
  struct stat ours, named;
  return fstat(lock->fd, &ours) == 0 && stat(lock->path, &named) == 0 &&
         ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
}

static void let_go(struct mch_lockfile *lock) {
  if (lock->fd >= 0)
    close(lock->fd);
  free(lock->path);
  lock->fd = -1;
  lock->path = NULL;
}

int mch_lockfile_take(struct mch_lockfile *lock, const char *path) {
  static const char ending[] = ".lock";
  size_t length = strlen(path);
  int problem = 0;
  lock->fd = -1;
  lock->path = malloc(length + sizeof ending);
  if (lock->path == NULL)
    return ENOMEM;
  memcpy(lock->path, path, length);
  memcpy(lock->path + length, ending, sizeof ending);
  do {
    if (lock->fd >= 0)
      close(lock->fd);
    lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    problem = lock->fd < 0 ? errno : wait_for(lock->fd);
  } while (problem == 0 && !is_there(lock));
  if (problem != 0)
    let_go(lock);
  return problem;
}

void mch_lockfile_drop(struct mch_lockfile *lock) {
  if (lock->fd >= 0)
    unlink(lock->path);
  let_go(lock);
}
