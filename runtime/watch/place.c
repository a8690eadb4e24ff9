/* Runs in: both. Purpose: place.h. */
#define _POSIX_C_SOURCE 200809L
#include "place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/base/platform.h"

int mch_place_folder(char *path, size_t room, int which, uid_t uid) {
  const char *base = getenv(which == 0 ? "XDG_RUNTIME_DIR" : "TMPDIR");
  int length;
  if (which > 1 || (which == 0 && (base == NULL || *base != '/')))
    return 0;
  if (base == NULL || *base != '/')
    base = "/tmp";
  if (which == 0)
    length = snprintf(path, room, "%s/mantichora", base);
  else
    length = snprintf(path, room, "%s/mantichora-%lu", base, (unsigned long)uid);
  return length > 0 && (size_t)length < room;
}

/* The folder is there, and is this user's alone. 0; or a code, errno == ENOENT: it cannot be made.
 */
static int have_folder(const char *path, struct mch_error *error) {
  struct stat stat;
  if (mkdir(path, 0700) != 0 && errno != EEXIST) {
    mch_error_system(error, "there is no folder for the socket of viewers");
    return MCH_SYSTEM;
  }
  if (lstat(path, &stat) != 0)
    return mch_error_system(error, "the folder for the socket of viewers cannot be used");
  if (!S_ISDIR(stat.st_mode) || stat.st_uid != geteuid())
    return mch_error_set(error, MCH_LIMIT, "%s is not a folder of this user", path);
  if ((stat.st_mode & 077) != 0 && chmod(path, 0700) != 0)
    return mch_error_system(error, "the folder for the socket of viewers cannot be used");
  return 0;
}

static void set_address(struct sockaddr_un *address, const char *path) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  strncpy(address->sun_path, path, sizeof address->sun_path - 1);
}

int mch_place_connect(const char *path) {
  struct sockaddr_un address;
  int fd, cause;
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  fd = mch_platform_unix_socket();
  set_address(&address, path);
  if (fd < 0)
    return -1;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
      mch_platform_nonblocking(fd) == 0)
    return fd;
  cause = errno;
  close(fd);
  errno = cause;
  return -1;
}

/* One that was left by a process which had our number before is taken away. */
static int bind_to(int fd, const char *path) {
  struct sockaddr_un address;
  int other;
  set_address(&address, path);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
    return 0;
  if (errno != EADDRINUSE)
    return -1;
  other = mch_place_connect(path);
  if (other >= 0) {
    close(other);
    errno = EADDRINUSE;
    return -1;
  }
  unlink(path);
  return bind(fd, (struct sockaddr *)&address, sizeof address);
}

static int listen_at(const char *path, struct mch_error *error) {
  int fd = mch_platform_unix_socket();
  if (fd < 0)
    return mch_error_system(error, "there is no socket for viewers"), -1;
  if (bind_to(fd, path) == 0 && chmod(path, 0600) == 0 && listen(fd, 16) == 0 &&
      mch_platform_nonblocking(fd) == 0)
    return fd;
  mch_error_set(error, MCH_SYSTEM, "%s cannot be the socket of viewers: %s", path, strerror(errno));
  close(fd);
  return -1;
}

int mch_place_listen(char path[MCH_PLACE_ROOM], struct mch_error *error) {
  char folder[4096];
  int which;
  mch_error_set(error, MCH_LIMIT, "there is no folder for the socket of viewers");
  for (which = 0; which < 2; which++) {
    int length, code;
    if (!mch_place_folder(folder, sizeof folder, which, geteuid()))
      continue;
    code = have_folder(folder, error);
    if (code == MCH_SYSTEM)
      continue; /* the next one, then */
    if (code != 0)
      return -1;
    length = snprintf(path, MCH_PLACE_ROOM, "%s/%ld.sock", folder, (long)getpid());
    if (length > 0 && length < MCH_PLACE_ROOM)
      return listen_at(path, error);
    mch_error_set(error, MCH_LIMIT, "the path of the socket of viewers would be too long: %s/...",
                  folder);
    return -1;
  }
  return -1;
}

int mch_place_may_look(int fd) {
  return geteuid() == 0 || mch_place_is_friend(fd);
}

int mch_place_is_friend(int fd) {
  uid_t uid;
  return mch_platform_peer(fd, &uid) == 0 && (uid == geteuid() || uid == 0);
}
