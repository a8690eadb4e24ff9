/* Runs in: parent.
 *
 * A journal as a pool uses it: what recording.h asks for, made of a store and of keys. journal.c
 * has the Lua object, ask.c looks for calls, recorder.c gathers what came and has it written. */
#ifndef MCH_JOURNAL_H
#define MCH_JOURNAL_H

#include <lua.h>
#include <pthread.h>
#include <stdatomic.h>

#include "bindings/pool/recording.h"
#include "counts.h"
#include "files.h"
#include "store.h"
#include "runtime/base/buf.h"

/* Which calls are stored so that they can be run again. */
enum keep { KEEP_NONE, KEEP_FAILED, KEEP_ALL };

/* A file that is to stay as it is, or to be there in the end. */
struct watched {
  const char *path; /* in the record's data */
  unsigned char hash[MCH_HASH_SIZE];
};

struct journal;

/* Parts of keys that many tasks share. */
struct parts {
  atomic_uint holds;
  unsigned char hash[MCH_HASH_SIZE];
  size_t length;
  char bytes[];
};

/* A task on its way, then a row; or the use of a task that was found, or the hash of a file. */
struct record {
  struct mch_record head;
  struct record *next;
  struct journal *journal;
  int64_t used; /* id of a task that was found; 0: this is a task */
  int is_file;  /* or it is this state of a file, and `key` the hash of its content */
  struct mch_file_id file;
  unsigned char key[MCH_HASH_SIZE];
  struct parts *parts; /* one hold */
  unsigned char *call; /* NULL: not stored */
  size_t call_length;
  size_t name, name_length, place, place_length, own, own_length; /* in `data` */
  struct watched *inputs, *outputs;
  size_t input_count, output_count;
  struct mch_buf emitted; /* u32 attempt, u64 length, bytes */
  int64_t emitted_count;
  struct mch_buf
      classes; /* of the script that went along: varint id, u64 number in the key's walk */
  /* How it ended. */
  struct mch_recorded how;
  double time;
  char *text;
  unsigned char *value;
  char *why; /* what was found was not right; or NULL */
  char data[];
};

struct complaint {
  struct complaint *next;
  int is_error;
  char text[];
};

struct journal {
  struct mch_journal head;
  char *path; /* absolute */
  struct mch_store store;
  int is_open;   /* the store can be read */
  int is_seeded; /* the seed was given: streams derive from it whatever becomes of the file */
  atomic_int may_record; /* rows are taken */
  unsigned users;        /* pools */
  int process;           /* that made it */
  int64_t seed, run;
  unsigned char seed_bytes[MCH_HASH_SIZE];
  enum keep keep;
  /* The owner's. */
  int keyer;  /* registry references: the keyer of single calls */
  int told;   /* and a table of what was said already */
  int walked; /* what the key of the last call has met, until that is encoded; or LUA_NOREF */
  struct mch_counts counts, inner; /* outside of tasks, and in one */
  uint64_t task;                   /* the one of this process for which `inner` was counted */
  struct parts *parts;             /* of the last call; one hold, or NULL */
  struct mch_buf call;             /* while one is noted */
  /* What gathers. */
  pthread_mutex_t lock;
  struct record *first, *last;
  size_t count;
  uint64_t due;
  struct complaint *complaints;
  struct mch_files *known;     /* hashes of files, under the lock */
  struct mch_files *end_files; /* hashes of files at the end of tasks */
  int damaged_told;
  pthread_mutex_t writing;   /* held while rows are written */
  struct mch_counts written; /* likewise: hashes of parts that are in the file */
};

/* recorder.c */

void mch_journal_set_up_recorder(struct journal *journal);
struct record *mch_journal_new_record(struct journal *journal, size_t data);
void mch_journal_free_record(struct record *record);
void mch_journal_drop_parts(struct parts *parts);
/* To be written; the record is the journal's from now on. */
void mch_journal_gather(struct journal *journal, struct record *record);
void mch_journal_complain(struct journal *journal, int is_error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
size_t mch_journal_complaint(struct mch_journal *head, char *text, size_t room, int *is_error);
/* Where hashes of files are kept: `ud` is the journal. The first is for the owner's thread. */
int mch_journal_find_file(void *ud, const struct mch_file_id *id,
                          unsigned char hash[MCH_HASH_SIZE]);
void mch_journal_keep_file(void *ud, const struct mch_file_id *id,
                           const unsigned char hash[MCH_HASH_SIZE]);
/* The last pool that used it has gone. */
void mch_journal_rest(struct journal *journal);
void mch_journal_drop_all(struct journal *journal);

/* ask.c */

void mch_journal_ask(lua_State *L, struct mch_journal *head, const struct mch_asked *asked,
                     struct mch_reply *told);

/* A journal's `is_same`, `forking` and `unsent`. */
int mch_journal_is_same(lua_State *L, struct mch_journal *head, const struct mch_asked *asked,
                        const unsigned char base[MCH_HASH_SIZE]);
void mch_journal_forking(lua_State *L, struct mch_journal *head, int baseline, int in_call);
void mch_journal_unsent(lua_State *L, struct mch_journal *head, int function, const char *what);

/* A journal's `encoded`. */
void mch_journal_encoded(lua_State *L, struct mch_journal *head, int baseline,
                         struct mch_record *record);

/* That this run has found the task of this id. */
void mch_journal_note_use(struct journal *journal, int64_t id);
/* That something in the file is damaged; once. */
void mch_journal_tell_damaged(struct journal *journal);

/* questions.c: registers look() and what else the command needs in the table on top. */

void mch_journal_register_questions(lua_State *L);

/* items.c. Items of the program's own commands (map, filter, run) are no tasks of a pool: their
 * keys are made of bytes, and what came of them is a few strings and numbers. Set the methods for
 * that, in the table on top:
 *
 *   journal:key(prefix, item)   its key: 32 bytes. Equal ones are counted, each has its own
 *   journal:find(key)           what put() was given behind its options; nothing: it is not there
 *   journal:put(key, options, ...)
 *                               an item has ended. Options: kind, name, place, attempt, elapsed
 * (seconds), exitcode, signal. The values are strings and numbers
 */
void mch_journal_register_items(lua_State *L);

/* journal.c: registers open() and what belongs to it in the table on top. */

void mch_journal_register(lua_State *L);

#endif
