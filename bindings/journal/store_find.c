/* Runs in: parent, on the owner's thread.
 *
 * Looking for results: what cannot be read at this moment is not there. Purpose: store.h. */
#include "store.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "place.h"

void mch_store_digest(const void *bytes, size_t length, unsigned char digest[MCH_STORE_DIGEST]) {
  unsigned char whole[MCH_HASH_SIZE];
  mch_hash_of(bytes, length, whole);
  memcpy(digest, whole, MCH_STORE_DIGEST);
}

void mch_stored_free(struct mch_stored *stored) {
  free(stored->memory);
  free(stored->emitted);
  free(stored->outputs);
  free(stored->classes);
  memset(stored, 0, sizeof *stored);
}

int mch_store_read_file(const struct mch_store *store, const char *name, size_t length,
                        unsigned char **memory) {
  size_t room = strlen(store->folder) + strlen(name) + 2;
  char *path = strchr(name, '/') == NULL ? malloc(room) : NULL;
  int fd, code = -1;
  *memory = NULL;
  if (path == NULL)
    return -1;
  snprintf(path, room, "%s/%s", store->folder, name);
  fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  free(path);
  if (fd < 0)
    return -1;
  if (mch_place_is_own(fd) && (off_t)length == lseek(fd, 0, SEEK_END) &&
      lseek(fd, 0, SEEK_SET) == 0 && (*memory = malloc(length + 1)) != NULL)
    code = mch_file_read(fd, *memory, length) == (ssize_t)length ? 0 : -1;
  close(fd);
  if (code != 0) {
    free(*memory);
    *memory = NULL;
  }
  return code;
}

/* The value of the row at hand: inline or in a file. 0, or -1: it is damaged. */
static int take_value(struct mch_store *store, struct mch_stored *stored) {
  sqlite3_stmt *find = store->find;
  unsigned char digest[MCH_STORE_DIGEST];
  const char *file = (const char *)sqlite3_column_text(find, 4);
  const void *bytes;
  stored->length = (size_t)sqlite3_column_int64(find, 1);
  if (file != NULL) {
    if (mch_store_read_file(store, file, stored->length, &stored->memory) != 0)
      return -1;
  } else {
    bytes = sqlite3_column_blob(find, 3);
    if ((size_t)sqlite3_column_bytes(find, 3) != stored->length ||
        (stored->memory = malloc(stored->length + 1)) == NULL)
      return -1;
    if (stored->length > 0)
      memcpy(stored->memory, bytes, stored->length);
  }
  mch_store_digest(stored->memory, stored->length, digest);
  return sqlite3_column_bytes(find, 2) == MCH_STORE_DIGEST &&
                 memcmp(digest, sqlite3_column_blob(find, 2), MCH_STORE_DIGEST) == 0
             ? 0
             : -1;
}

/* A copy of the bytes in this column; *copy stays NULL if there are none. 0 or -1. */
static int take_bytes(sqlite3_stmt *find, int column, unsigned char **copy, size_t *length) {
  const void *bytes = sqlite3_column_blob(find, column);
  *length = (size_t)sqlite3_column_bytes(find, column);
  if (bytes == NULL)
    return 0;
  *copy = malloc(*length + 1);
  if (*copy == NULL)
    return -1;
  memcpy(*copy, bytes, *length);
  return 0;
}

/* Put bytes behind those in memory. Where they are; -1: no memory. */
static int64_t append(struct mch_stored *stored, size_t *used, const void *bytes, size_t length) {
  unsigned char *memory = realloc(stored->memory, *used + length + 1);
  size_t at = *used;
  if (memory == NULL)
    return -1;
  stored->memory = memory;
  if (length > 0)
    memcpy(memory + at, bytes, length);
  *used += length;
  return (int64_t)at;
}

/* What the task has emitted: so many values. 0 or -1. */
static int take_emitted(struct mch_store *store, struct mch_stored *stored, size_t count) {
  sqlite3_stmt *find = store->find_emitted;
  size_t used = stored->length, i;
  int code = 0;
  if (count == 0)
    return 0;
  if (count > SIZE_MAX / sizeof *stored->emitted ||
      (stored->emitted = calloc(count, sizeof *stored->emitted)) == NULL)
    return -1;
  sqlite3_bind_int64(find, 1, stored->id);
  for (i = 0; i < count && code == 0; i++) {
    struct mch_stored_emitted *emitted = &stored->emitted[i];
    int64_t at;
    if (sqlite3_step(find) != SQLITE_ROW)
      code = -1;
    else {
      emitted->attempt = (unsigned)sqlite3_column_int(find, 0);
      emitted->length = (size_t)sqlite3_column_bytes(find, 1);
      at = append(stored, &used, sqlite3_column_blob(find, 1), emitted->length);
      emitted->at = (size_t)at;
      code = at < 0 ? -1 : 0;
    }
  }
  sqlite3_reset(find);
  stored->count = i;
  return code;
}

enum mch_store_found mch_store_find(struct mch_store *store, const unsigned char key[MCH_HASH_SIZE],
                                    struct mch_stored *stored) {
  enum mch_store_found found = MCH_STORE_NOTHING;
  int code;
  memset(stored, 0, sizeof *stored);
  if (store->find == NULL)
    return MCH_STORE_NOTHING;
  sqlite3_bind_blob(store->find, 1, key, MCH_HASH_SIZE, SQLITE_STATIC);
  code = sqlite3_step(store->find);
  if (code == SQLITE_ROW) {
    stored->id = sqlite3_column_int64(store->find, 0);
    found = take_value(store, stored) == 0 &&
                    take_bytes(store->find, 6, &stored->outputs, &stored->outputs_length) == 0 &&
                    take_bytes(store->find, 7, &stored->classes, &stored->classes_length) == 0 &&
                    take_emitted(store, stored, (size_t)sqlite3_column_int64(store->find, 5)) == 0
                ? MCH_STORE_FOUND
                : MCH_STORE_DAMAGED;
  } else if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_IOERR)
    found = MCH_STORE_DAMAGED;
  sqlite3_reset(store->find);
  if (found != MCH_STORE_FOUND)
    mch_stored_free(stored);
  return found;
}

int mch_store_find_file(void *ud, const struct mch_file_id *id, unsigned char hash[MCH_HASH_SIZE]) {
  struct mch_store *store = ud;
  sqlite3_stmt *find = store->find_file;
  int found = 0;
  if (find == NULL)
    return 0;
  sqlite3_bind_int64(find, 1, (int64_t)id->device);
  sqlite3_bind_int64(find, 2, (int64_t)id->inode);
  sqlite3_bind_int64(find, 3, (int64_t)id->size);
  sqlite3_bind_int64(find, 4, id->mtime);
  sqlite3_bind_int64(find, 5, id->ctime);
  if (sqlite3_step(find) == SQLITE_ROW && sqlite3_column_bytes(find, 0) == MCH_HASH_SIZE) {
    memcpy(hash, sqlite3_column_blob(find, 0), MCH_HASH_SIZE);
    found = 1;
  }
  sqlite3_reset(find);
  return found;
}
