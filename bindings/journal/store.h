/* Runs in: parent.
 *
 * The file of a journal: SQLite. Knows no Lua, and of a pool only what a struct mch_recorded says.
 *
 *     runs    one row for each process that wrote: when, what, where
 *     tasks   one row for each task that ended: key, how it ended, its values
 *     uses    which run has found which task
 *     parts   what a key was made of, as far as it is shared; rows of tasks name them by their hash
 *     emitted, calls, files    what a task emitted; what to call to run it again; hashes of files
 *
 * Two connections: one reads, on the owner's thread, and never waits; one writes, on whatever
 * thread writes. Neither is used in a fork. Values that are large stand in files of a folder beside
 * it. */
#ifndef MCH_STORE_H
#define MCH_STORE_H

#include <signal.h>
#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

#include "files.h"
#include "hash.h"
#include "runtime/base/error.h"
#include "runtime/engines/recorder.h"

enum { MCH_STORE_SCHEMA = 2, MCH_STORE_APPLICATION = 0x6d6a6f75 /* "mjou" */ };

/* Values of more bytes stand in files of their own. */
enum { MCH_STORE_LARGE = 1024 * 1024 };

enum { MCH_STORE_DIGEST = 16 };

struct mch_store {
  char *path, *folder; /* the file, absolute; where its large values are */
  sqlite3 *reader, *writer;
  sqlite3_stmt *find, *find_emitted, *find_file;
  sqlite3_stmt *add[7]; /* see store_write.c */
  int64_t run;          /* id of this process's row; 0: there is none yet */
  int run_is_new;       /* that is not committed yet */
  uint64_t files;       /* large values written so far */
  int is_readonly;
  int process; /* that opened it */
  int64_t seed;
  char *program, *module_path, *module_cpath; /* what runs, for the row of this run; or NULL */
};

/* How opening went. */
enum mch_store_opened {
  MCH_STORE_READY,
  MCH_STORE_REFUSED, /* it must not be used, or cannot be made: an error of who wants it */
  MCH_STORE_UNUSABLE /* it is no journal of ours, or damaged: one goes on without */
};

/* Open the file, and make it if it is not there, with that seed. `error` has a sentence unless it
 * is ready; of one that is ready but cannot be written also (else error->code is 0). */
enum mch_store_opened mch_store_open(struct mch_store *store, const char *path, int64_t seed,
                                     struct mch_error *error);

/* Open it for questions: it must be there. */
enum mch_store_opened mch_store_look(struct mch_store *store, const char *path, int may_write,
                                     struct mch_error *error);

/* Writing beyond the limit of a file's size is an error here, as a full disk is, and no signal that
 * ends the process: between these two, which opening and closing have by themselves. */
struct mch_store_shield {
  sigset_t before;
  int is_pending;
};
void mch_store_begin_shield(struct mch_store_shield *shield);
void mch_store_end_shield(const struct mch_store_shield *shield);

/* In the process that opened it. */
void mch_store_close(struct mch_store *store);

/* -- finding */

/* What was found. The memory is the caller's (free). */
struct mch_stored_emitted {
  unsigned attempt;
  size_t at, length; /* in `memory` */
};
struct mch_stored {
  int64_t id;
  unsigned char *memory; /* the value first */
  size_t length;         /* of the value */
  struct mch_stored_emitted *emitted;
  size_t count;
  unsigned char *outputs; /* as they were recorded; NULL: none */
  size_t outputs_length;
  unsigned char *classes; /* likewise */
  size_t classes_length;
};

enum mch_store_found { MCH_STORE_NOTHING, MCH_STORE_FOUND, MCH_STORE_DAMAGED };

/* The last OK result under a key. What cannot be looked for now is not found. */
enum mch_store_found mch_store_find(struct mch_store *store, const unsigned char key[MCH_HASH_SIZE],
                                    struct mch_stored *stored);
void mch_stored_free(struct mch_stored *stored);

/* The value of row `id`, from its file: 0, and *memory to be freed, or -1: it is damaged. */
int mch_store_read_file(const struct mch_store *store, const char *name, size_t length,
                        unsigned char **memory);

int mch_store_find_file(void *store, const struct mch_file_id *id,
                        unsigned char hash[MCH_HASH_SIZE]);

/* -- writing */

/* Bytes that are somebody else's, NULL: none. */
struct mch_bytes {
  const void *bytes;
  size_t length;
};

struct mch_row {
  unsigned char key[MCH_HASH_SIZE];
  const struct mch_recorded *how; /* its graph and text are not used */
  double time;                    /* seconds since 1970 */
  struct mch_bytes value, text, name, place, own, outputs, classes, call, why;
  unsigned char common_hash[MCH_HASH_SIZE];
  struct mch_bytes common; /* NULL: it was written before */
  int64_t emitted;         /* so many values follow */
};

/* Rows are written between begin and end. 0, or a result code of SQLite: SQLITE_BUSY means later;
 * after any failure nothing of what was written since begin is there. */
int mch_store_begin(struct mch_store *store, int milliseconds);
int mch_store_put(struct mch_store *store, const struct mch_row *row, int64_t *id);
int mch_store_put_emitted(struct mch_store *store, int64_t task, unsigned number, unsigned attempt,
                          struct mch_bytes value);
int mch_store_put_use(struct mch_store *store, int64_t task);
int mch_store_put_file(struct mch_store *store, const struct mch_file_id *id,
                       const unsigned char hash[MCH_HASH_SIZE]);
int mch_store_end(struct mch_store *store);
void mch_store_undo(struct mch_store *store);

void mch_store_digest(const void *bytes, size_t length, unsigned char digest[MCH_STORE_DIGEST]);

#endif
