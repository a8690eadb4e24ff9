/* Runs in: both. Purpose: file.h. */
#define _POSIX_C_SOURCE 200809L
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int mch_file_open(const char *path, int flags, mode_t mode) {
  int fd = open(path, flags | O_CLOEXEC, mode), other;
  if (fd < 0 || fd > 2)
    return fd;
  other = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  close(fd);
  return other;
}

int mch_file_write(int fd, const void *bytes, size_t length, off_t at) {
  const char *from = bytes;
  size_t done = 0;
  while (done < length) {
    ssize_t count = at < 0 ? write(fd, from + done, length - done)
                           : pwrite(fd, from + done, length - done, at + (off_t)done);
    if (count < 0 && errno == EINTR)
      continue;
    if (count == 0)
      errno = ENOSPC;
    if (count <= 0)
      return errno;
    done += (size_t)count;
  }
  return 0;
}

ssize_t mch_file_read(int fd, void *to, size_t length) {
  size_t done = 0;
  while (done < length) {
    ssize_t count = read(fd, (char *)to + done, length - done);
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0)
      return -1;
    if (count == 0)
      break;
    done += (size_t)count;
  }
  return (ssize_t)done;
}
