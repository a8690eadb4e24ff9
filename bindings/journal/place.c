/* Runs in: parent. Purpose: place.h. */
#define _XOPEN_SOURCE 700 /* S_ISVTX */
#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/platform.h"

/* Nothing is there, or something of ours that others cannot change. */
static int check_one(const char *path, mode_t type, const char *what, struct mch_error *error) {
  struct stat status;
  if (lstat(path, &status) != 0) {
    if (errno == ENOENT)
      return 0;
    return mch_error_set(error, MCH_SYSTEM, "the journal %.120s cannot be looked at: %.40s", path,
                         strerror(errno));
  }
  if (S_ISLNK(status.st_mode))
    return mch_error_set(error, MCH_LIMIT,
                         "the journal is not used: %.120s is a symbolic link, which may lead "
                         "to what others write",
                         path);
  if ((status.st_mode & S_IFMT) != type)
    return mch_error_set(error, MCH_LIMIT, "the journal is not used: %.140s is no %s", path, what);
  if (status.st_uid != geteuid())
    return mch_error_set(error, MCH_LIMIT,
                         "the journal is not used: %.120s belongs to another user", path);
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return mch_error_set(error, MCH_LIMIT,
                         "the journal is not used: others may write %.110s (chmod go-w mends it)",
                         path);
  return 0;
}

/* The folder that a path is in, in memory of its own. */
static char *folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  if (slash == NULL)
    return strdup(".");
  return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

/* Who may write a folder may put other files in the place of ours; not where it is sticky. */
static int check_folder(const char *path, struct mch_error *error) {
  char *folder = folder_of(path);
  struct stat status;
  int code = 0;
  if (folder == NULL)
    return mch_error_set(error, MCH_NOMEM, "not enough memory for a journal");
  if (stat(folder, &status) != 0)
    code = mch_error_set(error, MCH_SYSTEM, "the folder of the journal %.90s cannot be used: %.40s",
                         path, strerror(errno));
  else if (!S_ISDIR(status.st_mode))
    code =
        mch_error_set(error, MCH_SYSTEM, "the journal cannot be made: %.120s is no folder", folder);
  else if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (status.st_mode & S_ISVTX) == 0)
    code = mch_error_set(error, MCH_LIMIT,
                         "the journal is not used: others may write its folder, %.80s (chmod go-w "
                         "or +t mends it)",
                         folder);
  free(folder);
  return code;
}

int mch_place_check(const char *path, const char *folder, struct mch_error *error) {
  static const char *const ends[] = {"", "-wal", "-shm", "-journal", NULL};
  size_t room = strlen(path) + 16, i;
  char *name = malloc(room);
  int code = name != NULL ? check_folder(path, error)
                          : mch_error_set(error, MCH_NOMEM, "not enough memory for a journal");
  for (i = 0; code == 0 && ends[i] != NULL; i++) {
    snprintf(name, room, "%s%s", path, ends[i]);
    code = check_one(name, S_IFREG, "plain file", error);
  }
  free(name);
  return code != 0 ? code : check_one(folder, S_IFDIR, "folder", error);
}

int mch_place_is_own(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
         (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

int mch_place_make(const char *path, struct mch_error *error) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (fd >= 0) {
    close(fd);
    return 0;
  }
  if (errno == EEXIST)
    return 0;
  return mch_error_set(error, MCH_SYSTEM, "the journal %.120s cannot be made: %.50s", path,
                       strerror(errno));
}

int mch_place_is_remote(const char *path) {
  return mch_platform_is_remote(path);
}
