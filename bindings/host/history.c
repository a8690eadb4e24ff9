/* Runs in: parent. Purpose: history.h.
 *
 * Every access to the file locks it. It is trimmed by a rename of a new file over it, so that it is
 * whole at every moment; a session that holds the lock of the old file then opens it again. */
#define _POSIX_C_SOURCE 200809L
#include "history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST = 64 * 1024 }; /* bytes of a chunk that is kept */

/* --- the place --- */

/* Make the folders of a path that are missing. They are the user's alone. */
static bool make_folders(char *path) {
  char *slash = path;
  while ((slash = strchr(slash + 1, '/')) != NULL) {
    bool made;
    *slash = '\0';
    made = mkdir(path, 0700) == 0 || errno == EEXIST;
    *slash = '/';
    if (!made)
      return false;
  }
  return true;
}

static char *joined(const char *path, const char *rest) {
  size_t size = strlen(path) + strlen(rest) + 1;
  char *whole = malloc(size);
  if (whole != NULL)
    snprintf(whole, size, "%s%s", path, rest);
  return whole;
}

char *mch_history_path(void) {
  const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
  char *path = NULL;
  if (state != NULL && state[0] == '/')
    path = joined(state, "/mantichora/history");
  else if (home != NULL && home[0] == '/')
    path = joined(home, "/.local/state/mantichora/history");
  if (path == NULL || make_folders(path))
    return path;
  free(path);
  return NULL;
}

/* --- the file --- */

/* Is this still the file of that name? */
static bool is_current(FILE *file, const char *path) {
  struct stat opened, named;
  return fstat(fileno(file), &opened) == 0 && stat(path, &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* The file, locked, for reading and for writing at its end; NULL if it is not to be had. */
static FILE *open_locked(const char *path) {
  for (;;) {
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "a+") : NULL;
    if (file == NULL) {
      if (fd >= 0)
        close(fd);
      return NULL;
    }
    if (flock(fd, LOCK_EX) != 0 || is_current(file, path))
      return file;
    fclose(file);
  }
}

/* A chunk is one line: newlines and backslashes are escaped. */
static void put_chunk(FILE *file, const char *chunk) {
  for (; *chunk != '\0'; chunk++) {
    if (*chunk == '\n')
      fputs("\\n", file);
    else if (*chunk == '\\')
      fputs("\\\\", file);
    else
      putc(*chunk, file);
  }
  putc('\n', file);
}

/* Undo it, in place. */
static void unescape(char *line) {
  char *to = line;
  for (; *line != '\0'; line++) {
    if (*line == '\\' && line[1] != '\0')
      *to++ = *++line == 'n' ? '\n' : *line;
    else if (*line != '\n')
      *to++ = *line;
  }
  *to = '\0';
}

static size_t count_lines(FILE *file) {
  size_t count = 0;
  int c;
  rewind(file);
  while ((c = getc(file)) != EOF)
    count += c == '\n';
  return count;
}

/* The rest of the file from line `first` on, to a new one in its place. */
static void cut(FILE *file, const char *path, size_t first) {
  char *name = joined(path, ".XXXXXX");
  FILE *to;
  size_t line = 0;
  int c, fd;
  if (name == NULL)
    return;
  fd = mkstemp(name); /* mode 0600 */
  to = fd >= 0 ? fdopen(fd, "w") : NULL;
  rewind(file);
  while (to != NULL && (c = getc(file)) != EOF) {
    if (line >= first)
      putc(c, to);
    line += c == '\n';
  }
  if (to != NULL && (fclose(to) != 0 || rename(name, path) != 0))
    unlink(name);
  free(name);
}

void mch_history_load(const char *path, void (*add)(void *ud, const char *chunk), void *ud) {
  FILE *file = open_locked(path);
  char *line = NULL;
  size_t room = 0, count, at;
  if (file == NULL)
    return;
  count = count_lines(file);
  rewind(file);
  for (at = 0; getline(&line, &room, file) > 0; at++) {
    unescape(line);
    if (at + MCH_HISTORY_MOST >= count)
      add(ud, line);
  }
  free(line);
  if (count > 2 * MCH_HISTORY_MOST)
    cut(file, path, count - MCH_HISTORY_MOST);
  fclose(file);
}

void mch_history_append(const char *path, const char *chunk) {
  size_t length = strlen(chunk);
  FILE *file;
  if (length == 0 || length > LONGEST)
    return;
  file = open_locked(path);
  if (file == NULL)
    return;
  put_chunk(file, chunk);
  fclose(file);
}
