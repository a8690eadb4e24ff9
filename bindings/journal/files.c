/* Runs in: parent. Purpose: files.h. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/file.h"

/* How long a file must have been left alone for its times to tell of the next change. */
#define SETTLED INT64_C(2000000000)

enum { FIRST_SLOTS = 64, MOST_SLOTS = 1 << 17, BLOCK = 1 << 16, TRIES = 3 };

struct slot {
  struct mch_file_id id;
  unsigned char hash[MCH_HASH_SIZE];
  int used;
};

struct mch_files {
  struct slot *slots; /* open addressing; a power of two of them */
  size_t room, used;
  struct mch_files_memory memory;
  unsigned char block[BLOCK];
};

/* ---- what is known ---- */

struct mch_files *mch_files_new(void) {
  struct mch_files *files = calloc(1, sizeof *files);
  if (files == NULL)
    return NULL;
  files->slots = calloc(FIRST_SLOTS, sizeof *files->slots);
  files->room = FIRST_SLOTS;
  if (files->slots == NULL) {
    free(files);
    return NULL;
  }
  return files;
}

void mch_files_free(struct mch_files *files) {
  if (files != NULL)
    free(files->slots);
  free(files);
}

void mch_files_set_memory(struct mch_files *files, const struct mch_files_memory *memory) {
  if (memory != NULL)
    files->memory = *memory;
  else
    memset(&files->memory, 0, sizeof files->memory);
}

static int is_same(const struct mch_file_id *a, const struct mch_file_id *b) {
  return a->device == b->device && a->inode == b->inode && a->size == b->size &&
         a->mtime == b->mtime && a->ctime == b->ctime;
}

/* The slot of this file, in whatever state, or an empty one. */
static struct slot *find_slot(struct slot *slots, size_t room, const struct mch_file_id *id) {
  uint64_t place = (id->inode ^ id->device << 40) * UINT64_C(0x9e3779b97f4a7c15);
  size_t at = (size_t)(place >> 20) & (room - 1);
  while (slots[at].used && (slots[at].id.inode != id->inode || slots[at].id.device != id->device))
    at = (at + 1) & (room - 1);
  return &slots[at];
}

/* Double the slots, or begin anew when they are very many. 0: there is no memory. */
static int grow(struct mch_files *files) {
  struct slot *more;
  size_t i, room = files->room * 2;
  if (room > MOST_SLOTS) {
    memset(files->slots, 0, files->room * sizeof *files->slots);
    files->used = 0;
    return 1;
  }
  more = calloc(room, sizeof *more);
  if (more == NULL)
    return 0;
  for (i = 0; i < files->room; i++)
    if (files->slots[i].used)
      *find_slot(more, room, &files->slots[i].id) = files->slots[i];
  free(files->slots);
  files->slots = more;
  files->room = room;
  return 1;
}

void mch_files_remember(struct mch_files *files, const struct mch_file_id *id,
                        const unsigned char hash[MCH_HASH_SIZE]) {
  struct slot *slot;
  if (files->used >= files->room / 2 && !grow(files))
    return;
  slot = find_slot(files->slots, files->room, id);
  files->used += !slot->used;
  slot->used = 1;
  slot->id = *id;
  memcpy(slot->hash, hash, MCH_HASH_SIZE);
}

int mch_files_recall(struct mch_files *files, const struct mch_file_id *id,
                     unsigned char hash[MCH_HASH_SIZE]) {
  const struct slot *slot = find_slot(files->slots, files->room, id);
  if (slot->used && is_same(&slot->id, id)) {
    memcpy(hash, slot->hash, MCH_HASH_SIZE);
    return 1;
  }
  if (files->memory.find == NULL || !files->memory.find(files->memory.ud, id, hash))
    return 0;
  mch_files_remember(files, id, hash);
  return 1;
}

/* ---- the files themselves ---- */

static int64_t in_nanoseconds(struct timespec time) {
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static struct mch_file_id id_of(const struct stat *about) {
  struct mch_file_id id;
  id.device = (uint64_t)about->st_dev;
  id.inode = (uint64_t)about->st_ino;
  id.size = (uint64_t)about->st_size;
#ifdef __APPLE__
  id.mtime = in_nanoseconds(about->st_mtimespec);
  id.ctime = in_nanoseconds(about->st_ctimespec);
#else
  id.mtime = in_nanoseconds(about->st_mtim);
  id.ctime = in_nanoseconds(about->st_ctim);
#endif
  return id;
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return in_nanoseconds(time);
}

static int fail(struct mch_error *error, const char *path, const char *why) {
  return mch_error_set(error, MCH_SYSTEM, "'%s' %s", path, why);
}

/* What is there? 1: a file. 0: nothing. */
static int look(const char *path, struct stat *about, struct mch_error *error) {
  if (stat(path, about) != 0) {
    if (errno == ENOENT || errno == ENOTDIR)
      return 0;
    return mch_error_set(error, MCH_SYSTEM, "'%s' cannot be looked at: %s", path, strerror(errno));
  }
  if (S_ISDIR(about->st_mode))
    return fail(error, path, "is a directory: give the files in it");
  if (!S_ISREG(about->st_mode))
    return fail(error, path, "is no regular file");
  return 1;
}

int mch_files_look(const char *path, struct mch_error *error) {
  struct stat about;
  return look(path, &about, error);
}

static int add_contents(struct mch_files *files, int fd, struct mch_hash *hash) {
  ssize_t count;
  while ((count = mch_file_read(fd, files->block, sizeof files->block)) > 0)
    mch_hash_add(hash, files->block, (size_t)count);
  return (int)count;
}

/* Read the open file. 1: it was the same before and after. */
static int read_once(struct mch_files *files, int fd, const char *path,
                     unsigned char to[MCH_HASH_SIZE], struct mch_error *error) {
  struct stat before, after;
  struct mch_file_id id, later;
  struct mch_hash hash;
  int64_t begun = now();
  mch_hash_begin(&hash);
  if (fstat(fd, &before) != 0 || lseek(fd, 0, SEEK_SET) != 0 ||
      add_contents(files, fd, &hash) != 0 || fstat(fd, &after) != 0)
    return mch_error_set(error, MCH_SYSTEM, "'%s' cannot be read: %s", path, strerror(errno));
  mch_hash_end(&hash, to);
  id = id_of(&before);
  later = id_of(&after);
  if (!is_same(&id, &later))
    return 0;
  if (id.mtime <= begun - SETTLED) {
    mch_files_remember(files, &id, to);
    if (files->memory.keep != NULL)
      files->memory.keep(files->memory.ud, &id, to);
  }
  return 1;
}

static int read_file(struct mch_files *files, const char *path, unsigned char hash[MCH_HASH_SIZE],
                     struct mch_error *error) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), tries, status = 0;
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR)
      return 0;
    return mch_error_set(error, MCH_SYSTEM, "'%s' cannot be read: %s", path, strerror(errno));
  }
  for (tries = 0; tries < TRIES && status == 0; tries++)
    status = read_once(files, fd, path, hash, error);
  close(fd);
  return status < 0 ? status : 1; /* one that changes all the time is what it was at the last try */
}

int mch_files_hash(struct mch_files *files, const char *path, unsigned char hash[MCH_HASH_SIZE],
                   struct mch_error *error) {
  struct stat about;
  struct mch_file_id id;
  int status = look(path, &about, error);
  memset(hash, 0, MCH_HASH_SIZE);
  if (status <= 0)
    return status;
  id = id_of(&about);
  if (mch_files_recall(files, &id, hash))
    return 1;
  return read_file(files, path, hash, error);
}
