/* Runs in: parent. Purpose: library.h. */
#define _POSIX_C_SOURCE 200809L
#include "library.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct preloaded {
  struct preloaded *next;
  char *name;
  struct mch_buf graph;
};

struct mch_shelf {
  pthread_mutex_t lock;
  char *path;           /* NULL: none */
  struct mch_buf names; /* with `only` */
  int only;
  struct preloaded *preloaded;
};

struct mch_shelf *mch_shelf_new(void) {
  struct mch_shelf *shelf = calloc(1, sizeof *shelf);
  if (shelf != NULL)
    pthread_mutex_init(&shelf->lock, NULL);
  return shelf;
}

static void clear(struct mch_shelf *shelf) {
  while (shelf->preloaded != NULL) {
    struct preloaded *one = shelf->preloaded;
    shelf->preloaded = one->next;
    mch_buf_free(&one->graph);
    free(one->name);
    free(one);
  }
}

void mch_shelf_free(struct mch_shelf *shelf) {
  if (shelf == NULL)
    return;
  clear(shelf);
  mch_buf_free(&shelf->names);
  free(shelf->path);
  pthread_mutex_destroy(&shelf->lock);
  free(shelf);
}

void mch_shelf_set_path(struct mch_shelf *shelf, const char *path) {
  pthread_mutex_lock(&shelf->lock);
  free(shelf->path);
  shelf->path = path != NULL ? strdup(path) : NULL;
  pthread_mutex_unlock(&shelf->lock);
}

void mch_shelf_set_names(struct mch_shelf *shelf, const char *names, size_t length) {
  pthread_mutex_lock(&shelf->lock);
  mch_buf_clear(&shelf->names);
  shelf->only = names != NULL;
  if (names != NULL)
    mch_buf_append(&shelf->names, names, length);
  pthread_mutex_unlock(&shelf->lock);
}

void mch_shelf_clear(struct mch_shelf *shelf) {
  pthread_mutex_lock(&shelf->lock);
  clear(shelf);
  pthread_mutex_unlock(&shelf->lock);
}

void mch_shelf_add(struct mch_shelf *shelf, const char *name, const void *graph, size_t length) {
  struct preloaded *one = calloc(1, sizeof *one);
  if (one == NULL)
    return;
  one->name = strdup(name);
  mch_buf_append(&one->graph, graph, length);
  if (one->name == NULL || one->graph.failed != 0) {
    mch_buf_free(&one->graph);
    free(one->name);
    free(one);
    return;
  }
  pthread_mutex_lock(&shelf->lock);
  one->next = shelf->preloaded;
  shelf->preloaded = one;
  pthread_mutex_unlock(&shelf->lock);
}

/* -- looking for one ---------------------------------------------------------------------- */

static int is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-';
}

int mch_shelf_is_name(const char *name, size_t length) {
  size_t i;
  if (length == 0 || length > 255 || name[0] == '.' || name[length - 1] == '.')
    return 0;
  for (i = 0; i < length; i++)
    if (!is_letter(name[i]) && (name[i] != '.' || name[i - 1] == '.'))
      return 0;
  return 1;
}

static int is_listed(const struct mch_shelf *shelf, const char *name, size_t length) {
  const char *at = (const char *)shelf->names.data, *end = at + shelf->names.length;
  if (!shelf->only)
    return 1;
  while (at < end) {
    size_t here = strlen(at);
    if (here == length && memcmp(at, name, length) == 0)
      return 1;
    at += here + 1;
  }
  return 0;
}

/* The template with the name in it, dots as slashes. 0: it does not fit, or is none for sources. */
static int fill_in(char path[PATH_MAX], const char *template, size_t length, const char *name,
                   size_t name_length) {
  size_t used = 0, i, k;
  if (length < 5 || memcmp(template + length - 4, ".lua", 4) != 0 ||
      memchr(template, '?', length) == NULL)
    return 0;
  for (i = 0; i < length; i++) {
    if (used + name_length + 1 >= PATH_MAX)
      return 0;
    if (template[i] != '?')
      path[used++] = template[i];
    else
      for (k = 0; k < name_length; k++)
        path[used++] = name[k] == '.' ? '/' : name[k];
  }
  path[used] = '\0';
  return 1;
}

/* 1: it is there, whether it could be read or not. */
static int read_file(const char *path, struct mch_buf *source) {
  struct stat about;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  ssize_t got = 0;
  if (fd < 0)
    return 0;
  if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) {
    close(fd);
    return 0;
  }
  do {
    if (mch_buf_reserve(source, 64 * 1024) != 0)
      break;
    got = read(fd, source->data + source->length, 64 * 1024);
    if (got > 0)
      source->length += (size_t)got;
  } while (got > 0 || (got < 0 && errno == EINTR));
  close(fd);
  return 1;
}

/* Lua passes over a first line that begins with #: so does what loads it from memory. */
static void blank_first_line(struct mch_buf *source) {
  size_t i;
  if (source->length == 0 || source->data[0] != '#')
    return;
  for (i = 0; i < source->length && source->data[i] != '\n'; i++)
    source->data[i] = ' ';
}

static enum mch_module_kind find_file(const struct mch_shelf *shelf, const char *name,
                                      size_t length, struct mch_buf *chunk,
                                      struct mch_buf *source) {
  const char *at = shelf->path;
  char path[PATH_MAX];
  while (at != NULL && *at != '\0') {
    size_t here = strcspn(at, ";");
    if (fill_in(path, at, here, name, length) && read_file(path, source)) {
      blank_first_line(source);
      mch_buf_append(chunk, path, strlen(path));
      return MCH_MODULE_SOURCE;
    }
    at += here + (at[here] == ';');
  }
  return MCH_MODULE_NONE;
}

enum mch_module_kind mch_shelf_find(void *ud, const char *name, size_t length,
                                    struct mch_buf *chunk, struct mch_buf *source) {
  struct mch_shelf *shelf = ud;
  enum mch_module_kind kind = MCH_MODULE_NONE;
  const struct preloaded *one;
  if (!mch_shelf_is_name(name, length))
    return MCH_MODULE_NONE;
  pthread_mutex_lock(&shelf->lock);
  for (one = shelf->preloaded; one != NULL && kind == MCH_MODULE_NONE; one = one->next)
    if (strlen(one->name) == length && memcmp(one->name, name, length) == 0 &&
        is_listed(shelf, name, length)) {
      kind = MCH_MODULE_GRAPH;
      mch_buf_append(source, one->graph.data, one->graph.length);
    }
  if (kind == MCH_MODULE_NONE && is_listed(shelf, name, length))
    kind = find_file(shelf, name, length, chunk, source);
  pthread_mutex_unlock(&shelf->lock);
  return kind;
}
