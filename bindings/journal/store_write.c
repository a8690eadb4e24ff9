/* Runs in: parent, on the thread that writes.
 *
 * Rows into the file, many in a transaction. Purpose: store.h. */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"

/* Statements, made when they are first used. */
#define STATEMENTS(X)                                                                              \
  X(RUN,                                                                                           \
    "INSERT INTO runs(began, pid, program, folder, path, cpath) VALUES(?1, ?2, ?3, ?4, ?5, ?6)")   \
  X(TASK, "INSERT INTO tasks(key, run, kind, runid, item, attempt, time, elapsed, cpu, maxrss,"    \
          " waited, sent, received, pid, slot, signal, exitcode, name, place, text, length,"       \
          " digest, value, file, emitted, parts, own, outputs, why, classes) VALUES(?1, ?2, ?3, "  \
          "?4, ?5, ?6, ?7,"                                                                        \
          " ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24,"    \
          " ?25, ?26, ?27, ?28, ?29, ?30)")                                                        \
  X(EMITTED, "INSERT INTO emitted(task, number, attempt, value) VALUES(?1, ?2, ?3, ?4)")           \
  X(PARTS, "INSERT OR IGNORE INTO parts(hash, bytes) VALUES(?1, ?2)")                              \
  X(USE, "INSERT OR IGNORE INTO uses(run, task) VALUES(?1, ?2)")                                   \
  X(HASH, "INSERT OR REPLACE INTO files VALUES(?1, ?2, ?3, ?4, ?5, ?6)")                           \
  X(CALL, "INSERT INTO calls(task, bytes) VALUES(?1, ?2)")

enum statement {
#define CODE(name, sql) name,
  STATEMENTS(CODE)
#undef CODE
      STATEMENT_COUNT
};

static const char *const texts[] = {
#define TEXT(name, sql) sql,
    STATEMENTS(TEXT)
#undef TEXT
};

_Static_assert(STATEMENT_COUNT == sizeof((struct mch_store *)0)->add / sizeof(sqlite3_stmt *),
               "struct mch_store has room for the statements");

static sqlite3_stmt *statement(struct mch_store *store, enum statement which) {
  if (store->add[which] == NULL)
    sqlite3_prepare_v3(store->writer, texts[which], -1, SQLITE_PREPARE_PERSISTENT,
                       &store->add[which], NULL);
  return store->add[which];
}

/* Run it to its end. 0, or a code of SQLite. */
static int carry_out(struct mch_store *store, sqlite3_stmt *s) {
  int code = s != NULL ? sqlite3_step(s) : sqlite3_errcode(store->writer);
  sqlite3_reset(s);
  return code == SQLITE_DONE ? SQLITE_OK : code != SQLITE_OK ? code : SQLITE_ERROR;
}

static void bind_bytes(sqlite3_stmt *s, int at, struct mch_bytes bytes) {
  if (bytes.bytes == NULL)
    sqlite3_bind_null(s, at);
  else
    sqlite3_bind_blob64(s, at, bytes.bytes, bytes.length, SQLITE_STATIC);
}

static void bind_text(sqlite3_stmt *s, int at, struct mch_bytes text) {
  if (text.bytes == NULL)
    sqlite3_bind_null(s, at);
  else
    sqlite3_bind_text64(s, at, text.bytes, text.length, SQLITE_STATIC, SQLITE_UTF8);
}

static void bind_seconds(sqlite3_stmt *s, int at, uint64_t nanoseconds) {
  if (nanoseconds == MCH_UNMEASURED)
    sqlite3_bind_null(s, at);
  else
    sqlite3_bind_double(s, at, (double)nanoseconds / 1e9);
}

static void bind_count(sqlite3_stmt *s, int at, uint64_t count, uint64_t none) {
  if (count == none)
    sqlite3_bind_null(s, at);
  else
    sqlite3_bind_int64(s, at, (int64_t)count);
}

/* -- runs --------------------------------------------------------------------------------- */

static int begin_run(struct mch_store *store) {
  sqlite3_stmt *s = statement(store, RUN);
  char folder[4096] = "";
  int code;
  if (s == NULL)
    return sqlite3_errcode(store->writer);
  sqlite3_bind_double(s, 1, mch_wall());
  sqlite3_bind_int64(s, 2, (int64_t)getpid());
  if (store->program != NULL)
    sqlite3_bind_text(s, 3, store->program, -1, SQLITE_STATIC);
  if (getcwd(folder, sizeof folder) != NULL)
    sqlite3_bind_text(s, 4, folder, -1, SQLITE_TRANSIENT);
  if (store->module_path != NULL)
    sqlite3_bind_text(s, 5, store->module_path, -1, SQLITE_STATIC);
  if (store->module_cpath != NULL)
    sqlite3_bind_text(s, 6, store->module_cpath, -1, SQLITE_STATIC);
  code = carry_out(store, s);
  if (code == SQLITE_OK) {
    store->run = sqlite3_last_insert_rowid(store->writer);
    store->run_is_new = 1;
  }
  return code;
}

int mch_store_begin(struct mch_store *store, int milliseconds) {
  int code;
  sqlite3_busy_timeout(store->writer, milliseconds);
  code = sqlite3_exec(store->writer, "BEGIN IMMEDIATE", NULL, NULL, NULL);
  if (code != SQLITE_OK || store->run != 0)
    return code;
  code = begin_run(store);
  if (code != SQLITE_OK)
    mch_store_undo(store);
  return code;
}

/* Of a run that nobody will see there is no row. */
void mch_store_undo(struct mch_store *store) {
  if (!sqlite3_get_autocommit(store->writer))
    sqlite3_exec(store->writer, "ROLLBACK", NULL, NULL, NULL);
  if (store->run_is_new)
    store->run = store->run_is_new = 0;
}

int mch_store_end(struct mch_store *store) {
  int code = sqlite3_exec(store->writer, "COMMIT", NULL, NULL, NULL);
  if (code != SQLITE_OK)
    mch_store_undo(store);
  else
    store->run_is_new = 0;
  return code;
}

/* -- large values ------------------------------------------------------------------------- */

/* A file of the folder with these bytes, which is there whole or not at all. 0, or a code of
 * SQLite. */
static int write_file(struct mch_store *store, const struct mch_row *row, char name[64]) {
  size_t room = strlen(store->folder) + 80;
  char *path = malloc(2 * room), *final = path + room;
  int fd, code = SQLITE_FULL, i, length = 0;
  if (path == NULL)
    return SQLITE_NOMEM;
  for (i = 0; i < 8; i++)
    length += snprintf(name + length, 64 - (size_t)length, "%02x", row->key[i]);
  snprintf(name + length, 64 - (size_t)length, "-%lld-%llu", (long long)store->run,
           (unsigned long long)++store->files);
  if (mkdir(store->folder, S_IRWXU) != 0 && errno != EEXIST)
    code = errno == ENOSPC ? SQLITE_FULL : SQLITE_IOERR;
  snprintf(path, room, "%s/.%s", store->folder, name);
  snprintf(final, room, "%s/%s", store->folder, name);
  fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (fd >= 0) {
    code = mch_file_write(fd, row->value.bytes, row->value.length, MCH_FILE_HERE) == 0 &&
                   fsync(fd) == 0
               ? SQLITE_OK
           : errno == ENOSPC || errno == EDQUOT ? SQLITE_FULL
                                                : SQLITE_IOERR;
    close(fd);
    if (code == SQLITE_OK && rename(path, final) != 0)
      code = SQLITE_IOERR;
    if (code != SQLITE_OK)
      unlink(path);
  } else if (errno != ENOSPC && errno != EDQUOT)
    code = SQLITE_CANTOPEN;
  free(path);
  return code;
}

/* -- rows --------------------------------------------------------------------------------- */

static void bind_course(sqlite3_stmt *s, const struct mch_recorded *how) {
  const char *kind = mch_kind_word(how->kind);
  sqlite3_bind_text(s, 3, kind, -1, SQLITE_STATIC);
  sqlite3_bind_int64(s, 4, (int64_t)how->runid);
  bind_count(s, 5, how->index, 0);
  sqlite3_bind_int64(s, 6, how->attempt);
  bind_seconds(s, 8, how->elapsed);
  bind_seconds(s, 9, how->cpu);
  bind_count(s, 10, how->maxrss, MCH_UNMEASURED);
  bind_seconds(s, 11, how->waited);
  bind_count(s, 12, how->sent, MCH_UNMEASURED);
  bind_count(s, 13, how->received, MCH_UNMEASURED);
  bind_count(s, 14, (uint64_t)how->pid, 0);
  bind_count(s, 15, how->slot, 0);
  bind_count(s, 16, (uint64_t)how->signal, 0);
  sqlite3_bind_int64(s, 17, how->exitcode);
}

static int put_parts(struct mch_store *store, const struct mch_row *row) {
  sqlite3_stmt *s;
  if (row->common.bytes == NULL)
    return SQLITE_OK;
  if ((s = statement(store, PARTS)) == NULL)
    return sqlite3_errcode(store->writer);
  sqlite3_bind_blob(s, 1, row->common_hash, MCH_HASH_SIZE, SQLITE_STATIC);
  bind_bytes(s, 2, row->common);
  return carry_out(store, s);
}

static int put_call(struct mch_store *store, int64_t task, struct mch_bytes call) {
  sqlite3_stmt *s;
  if (call.bytes == NULL)
    return SQLITE_OK;
  if ((s = statement(store, CALL)) == NULL)
    return sqlite3_errcode(store->writer);
  sqlite3_bind_int64(s, 1, task);
  bind_bytes(s, 2, call);
  return carry_out(store, s);
}

int mch_store_put(struct mch_store *store, const struct mch_row *row, int64_t *id) {
  sqlite3_stmt *s = statement(store, TASK);
  unsigned char digest[MCH_STORE_DIGEST];
  char file[64];
  int in_file = row->value.length > MCH_STORE_LARGE, code = put_parts(store, row);
  if (s == NULL)
    return sqlite3_errcode(store->writer);
  if (code == SQLITE_OK && in_file)
    code = write_file(store, row, file);
  if (code != SQLITE_OK)
    return code;
  sqlite3_bind_blob(s, 1, row->key, MCH_HASH_SIZE, SQLITE_STATIC);
  sqlite3_bind_int64(s, 2, store->run);
  bind_course(s, row->how);
  sqlite3_bind_double(s, 7, row->time);
  bind_text(s, 18, row->name);
  bind_text(s, 19, row->place);
  bind_text(s, 20, row->text);
  sqlite3_bind_int64(s, 21, (int64_t)row->value.length);
  mch_store_digest(row->value.bytes, row->value.length, digest);
  sqlite3_bind_blob(s, 22, digest, sizeof digest, SQLITE_STATIC);
  bind_bytes(s, 23, in_file ? (struct mch_bytes){NULL, 0} : row->value);
  bind_text(s, 24, in_file ? (struct mch_bytes){file, strlen(file)} : (struct mch_bytes){NULL, 0});
  sqlite3_bind_int64(s, 25, row->emitted);
  sqlite3_bind_blob(s, 26, row->common_hash, MCH_HASH_SIZE, SQLITE_STATIC);
  bind_bytes(s, 27, row->own);
  bind_bytes(s, 28, row->outputs);
  bind_text(s, 29, row->why);
  bind_bytes(s, 30, row->classes);
  code = carry_out(store, s);
  *id = sqlite3_last_insert_rowid(store->writer);
  return code == SQLITE_OK ? put_call(store, *id, row->call) : code;
}

int mch_store_put_emitted(struct mch_store *store, int64_t task, unsigned number, unsigned attempt,
                          struct mch_bytes value) {
  sqlite3_stmt *s = statement(store, EMITTED);
  if (s == NULL)
    return sqlite3_errcode(store->writer);
  sqlite3_bind_int64(s, 1, task);
  sqlite3_bind_int64(s, 2, number);
  sqlite3_bind_int64(s, 3, attempt);
  bind_bytes(s, 4, value);
  return carry_out(store, s);
}

int mch_store_put_use(struct mch_store *store, int64_t task) {
  sqlite3_stmt *s = statement(store, USE);
  if (s == NULL)
    return sqlite3_errcode(store->writer);
  sqlite3_bind_int64(s, 1, store->run);
  sqlite3_bind_int64(s, 2, task);
  return carry_out(store, s);
}

int mch_store_put_file(struct mch_store *store, const struct mch_file_id *id,
                       const unsigned char hash[MCH_HASH_SIZE]) {
  sqlite3_stmt *s = statement(store, HASH);
  if (s == NULL)
    return sqlite3_errcode(store->writer);
  sqlite3_bind_int64(s, 1, (int64_t)id->device);
  sqlite3_bind_int64(s, 2, (int64_t)id->inode);
  sqlite3_bind_int64(s, 3, (int64_t)id->size);
  sqlite3_bind_int64(s, 4, id->mtime);
  sqlite3_bind_int64(s, 5, id->ctime);
  sqlite3_bind_blob(s, 6, hash, MCH_HASH_SIZE, SQLITE_STATIC);
  return carry_out(store, s);
}
