/* Runs in: mantichora-amqp. Purpose: key.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypt.h"
#include "runtime/base/file.h"

enum { HEX = 2 * MCH_KEY_SIZE };

int mch_key_settings(const char *name, char *path, size_t room, struct mch_error *error) {
  const char *home = getenv("HOME"), *config = getenv("XDG_CONFIG_HOME");
  int length =
      config != NULL && config[0] == '/'
          ? snprintf(path, room, "%s/mantichora/%s", config, name)
          : snprintf(path, room, "%s/.config/mantichora/%s", home == NULL ? "" : home, name);
  if (length < 0 || (size_t)length >= room)
    return mch_error_set(error, MCH_LIMIT, "the path of ~/.config/mantichora/%s is too long", name);
  return 0;
}

int mch_key_path(const char *given, char *path, size_t room, struct mch_error *error) {
  const char *named = given != NULL ? given : getenv("MANTICHORA_KEY_FILE");
  if (named == NULL || named[0] == '\0')
    return mch_key_settings("key", path, room, error);
  if (strlen(named) >= room)
    return mch_error_set(error, MCH_LIMIT, "the path of the key is too long");
  strcpy(path, named);
  return 0;
}

/* The folders above `path` that are missing; those of settings for their owner alone. */
static void make_folders(const char *path) {
  char folder[4096];
  char *at;
  if (strlen(path) >= sizeof folder)
    return;
  strcpy(folder, path);
  for (at = strchr(folder + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
    *at = '\0';
    mkdir(folder, 0700);
    *at = '/';
  }
}

int mch_key_new(const char *path, struct mch_error *error) {
  unsigned char key[MCH_KEY_SIZE];
  char text[HEX + 2];
  int fd, failed, code = 0;
  make_folders(path);
  fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0 && errno == EEXIST)
    return mch_error_set(error, MCH_SYSTEM, "%s exists: it was left as it is", path);
  if (fd < 0)
    return mch_error_set(error, MCH_SYSTEM, "cannot make %s: %s", path, strerror(errno));
  mch_crypt_random(key, sizeof key);
  mch_crypt_to_hex(text, key, sizeof key);
  text[HEX] = '\n';
  failed = fchmod(fd, 0600) != 0 || mch_file_write(fd, text, HEX + 1, MCH_FILE_HERE) != 0 ||
           fsync(fd) != 0;
  if (close(fd) != 0 || failed) {
    code = mch_error_set(error, MCH_SYSTEM, "cannot write %s: %s", path, strerror(errno));
    unlink(path);
  }
  mch_crypt_wipe(key, sizeof key);
  mch_crypt_wipe(text, sizeof text);
  return code;
}

int mch_key_read_private(const char *path, char *text, size_t room, struct mch_error *error) {
  struct stat about;
  ssize_t got;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 && errno == ENOENT)
    return 0;
  if (fd < 0)
    return mch_error_set(error, MCH_SYSTEM, "cannot read %s: %s", path, strerror(errno));
  if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) {
    close(fd);
    return mch_error_set(error, MCH_SYSTEM, "%s is no ordinary file", path);
  }
  if ((about.st_mode & 077) != 0 || (about.st_uid != geteuid() && about.st_uid != 0)) {
    close(fd);
    return mch_error_set(error, MCH_SYSTEM,
                         "%s may be read or written by others: `chmod 600` it, as its owner", path);
  }
  got = read(fd, text, room - 1);
  close(fd);
  if (got < 0 || (size_t)got == room - 1)
    return mch_error_set(error, MCH_SYSTEM, "cannot read %s: %s", path,
                         got < 0 ? strerror(errno) : "it is too long");
  while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == '\r'))
    got--;
  text[got] = '\0';
  return 1;
}

int mch_key_read(const char *path, unsigned char key[MCH_KEY_SIZE], struct mch_error *error) {
  char text[256];
  int there = mch_key_read_private(path, text, sizeof text, error);
  if (there == 0)
    return mch_error_set(
        error, MCH_SYSTEM,
        "there is no site key in %s: make one with `mantichora key new`, and copy it "
        "to each machine (MANTICHORA_KEY_FILE names another file)",
        path);
  if (there < 0)
    return there;
  there = mch_crypt_from_hex(key, MCH_KEY_SIZE, text);
  mch_crypt_wipe(text, sizeof text);
  return there ? 0
               : mch_error_set(error, MCH_SYSTEM,
                               "%s holds no site key, which is %d hexadecimal digits", path, HEX);
}
