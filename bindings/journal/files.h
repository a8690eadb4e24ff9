/* Runs in: parent.
 *
 * Hashes of files' contents, made once for each state of a file: kept by device, inode, size, mtime
 * and ctime, unless the file was changed less than 2 s before its hash was made (it may then change
 * again without any of these telling). */
#ifndef MCH_FILES_H
#define MCH_FILES_H

#include <stdint.h>

#include "hash.h"
#include "runtime/base/error.h"

/* What tells one state of a file. */
struct mch_file_id {
  uint64_t device, inode, size;
  int64_t mtime, ctime; /* in nanoseconds */
};

/* Where hashes are kept beyond this process, if anywhere: asked before a file is read, told after.
 */
struct mch_files_memory {
  int (*find)(void *ud, const struct mch_file_id *id, unsigned char hash[MCH_HASH_SIZE]);
  void (*keep)(void *ud, const struct mch_file_id *id, const unsigned char hash[MCH_HASH_SIZE]);
  void *ud;
};

struct mch_files;

struct mch_files *mch_files_new(void); /* NULL: no memory */
void mch_files_free(struct mch_files *files);
void mch_files_set_memory(struct mch_files *files, const struct mch_files_memory *memory);

/* 1: there is such a file. 0: there is none. Negative: as mch_files_hash(). */
int mch_files_look(const char *path, struct mch_error *error);

/* The hash of this state of a file, if it is known: 1; else 0. Make one known. */
int mch_files_recall(struct mch_files *files, const struct mch_file_id *id,
                     unsigned char hash[MCH_HASH_SIZE]);
void mch_files_remember(struct mch_files *files, const struct mch_file_id *id,
                        const unsigned char hash[MCH_HASH_SIZE]);

/* What the file contains now. 1: it is there. 0: there is no such file (the hash is all zeros).
 * Negative: it is a directory, or cannot be read; the error has the sentence. */
int mch_files_hash(struct mch_files *files, const char *path, unsigned char hash[MCH_HASH_SIZE],
                   struct mch_error *error);

#endif
