/* Runs in: parent. Purpose: store.h. Here: opening, making and closing. */
#include "store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "place.h"
#include "bindings/values/graph.h"
#include "runtime/base/platform.h"

#define DIGITS_OF(number) #number
#define DIGITS(macro) DIGITS_OF(macro)

/* What the bytes of values and functions are. */
#define FORMAT "Lua 5." DIGITS(MCH_LUA_MINOR) " graph " DIGITS(MCH_GRAPH_VERSION)
#if LUA_VERSION_NUM == 504
#define MCH_LUA_MINOR 4
#else
#define MCH_LUA_MINOR 5
#endif

static const char schema[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE runs(id INTEGER PRIMARY KEY AUTOINCREMENT, began REAL, pid INTEGER,"
    " program TEXT, folder TEXT, path TEXT, cpath TEXT);"
    "CREATE TABLE tasks(id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, run INTEGER,"
    " kind TEXT NOT NULL, runid INTEGER, item INTEGER, attempt INTEGER, time REAL, elapsed REAL,"
    " cpu REAL, maxrss INTEGER, waited REAL, sent INTEGER, received INTEGER, pid INTEGER,"
    " slot INTEGER, signal INTEGER, exitcode INTEGER, name TEXT, place TEXT, text TEXT,"
    " length INTEGER, digest BLOB, value BLOB, file TEXT, emitted INTEGER, parts BLOB, own BLOB,"
    " outputs BLOB, why TEXT, classes BLOB);"
    "CREATE INDEX tasks_key ON tasks(key);"
    "CREATE INDEX tasks_run ON tasks(run);"
    "CREATE TABLE uses(run INTEGER, task INTEGER, PRIMARY KEY(run, task)) WITHOUT ROWID;"
    "CREATE TABLE parts(hash BLOB PRIMARY KEY, bytes BLOB) WITHOUT ROWID;"
    "CREATE TABLE emitted(task INTEGER, number INTEGER, attempt INTEGER, value BLOB,"
    " PRIMARY KEY(task, number)) WITHOUT ROWID;"
    "CREATE TABLE calls(task INTEGER PRIMARY KEY, bytes BLOB);"
    "CREATE TABLE files(device INTEGER, inode INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER,"
    " hash BLOB, PRIMARY KEY(device, inode)) WITHOUT ROWID;";

/* So long another script that makes the file at this very moment is waited for. */
enum { MAKING = 5000 /* milliseconds */ };

static int is_pending(void) {
  sigset_t pending;
  return sigpending(&pending) == 0 && sigismember(&pending, SIGXFSZ) == 1;
}

void mch_store_begin_shield(struct mch_store_shield *shield) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGXFSZ);
  shield->is_pending = is_pending();
  pthread_sigmask(SIG_BLOCK, &set, &shield->before);
}

void mch_store_end_shield(const struct mch_store_shield *shield) {
  sigset_t set;
  int number;
  sigemptyset(&set);
  sigaddset(&set, SIGXFSZ);
  if (!shield->is_pending && is_pending())
    sigwait(&set, &number); /* it is there: this takes it away */
  pthread_sigmask(SIG_SETMASK, &shield->before, NULL);
}

static int run(sqlite3 *db, const char *sql) {
  return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

/* An integer that a statement says; `other` if it says none. */
static int64_t number_of(sqlite3 *db, const char *sql, int64_t other) {
  sqlite3_stmt *statement = NULL;
  int64_t number = other;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK &&
      sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_type(statement, 0) == SQLITE_INTEGER)
    number = sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  return number;
}

static int format_is_ours(sqlite3 *db) {
  sqlite3_stmt *statement = NULL;
  int ours = 0;
  if (sqlite3_prepare_v2(db, "SELECT value FROM meta WHERE name = 'format'", -1, &statement,
                         NULL) == SQLITE_OK &&
      sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_text(statement, 0) != NULL)
    ours = strcmp((const char *)sqlite3_column_text(statement, 0), FORMAT) == 0;
  sqlite3_finalize(statement);
  return ours;
}

/* The schema, unless it is there; in one transaction. 0 or a code of SQLite. */
static int make(struct mch_store *store, int64_t seed) {
  sqlite3 *db = store->writer;
  char text[256];
  int code = run(db, "BEGIN IMMEDIATE");
  if (code != SQLITE_OK)
    return code;
  if (number_of(db, "SELECT count(*) FROM sqlite_schema", -1) == 0 &&
      number_of(db, "PRAGMA application_id", -1) == 0) {
    snprintf(text, sizeof text,
             "PRAGMA application_id = %d; PRAGMA user_version = %d;"
             "INSERT INTO meta VALUES('format', '" FORMAT "'), ('seed', %lld)",
             MCH_STORE_APPLICATION, MCH_STORE_SCHEMA, (long long)seed);
    code = run(db, schema);
    if (code == SQLITE_OK)
      code = run(db, text);
  }
  if (code == SQLITE_OK)
    code = run(db, "COMMIT");
  if (code != SQLITE_OK)
    run(db, "ROLLBACK");
  return code;
}

/* Whether an open file is a journal of this version; its seed. */
static enum mch_store_opened know(struct mch_store *store, sqlite3 *db, struct mch_error *error) {
  int64_t application = number_of(db, "PRAGMA application_id", -1), version;
  if (application < 0) {
    mch_error_set(error, MCH_PROTOCOL, "the journal %.120s cannot be read: %.60s", store->path,
                  sqlite3_errmsg(db));
    return MCH_STORE_UNUSABLE;
  }
  if (application != MCH_STORE_APPLICATION) {
    mch_error_set(error, MCH_PROTOCOL, "%.140s is no journal of mantichora", store->path);
    return MCH_STORE_UNUSABLE;
  }
  version = number_of(db, "PRAGMA user_version", -1);
  if (version != MCH_STORE_SCHEMA || !format_is_ours(db)) {
    mch_error_set(error, MCH_PROTOCOL,
                  "the journal %.100s is of another version of mantichora or Lua (%s expected)",
                  store->path, FORMAT);
    return MCH_STORE_UNUSABLE;
  }
  store->seed = number_of(db, "SELECT value FROM meta WHERE name = 'seed'", 0);
  return MCH_STORE_READY;
}

static int connect(const struct mch_store *store, int flags, int is_still, sqlite3 **db) {
  char *uri = NULL;
  int code;
  flags |= SQLITE_OPEN_FULLMUTEX | SQLITE_OPEN_NOFOLLOW;
  if (is_still) { /* nobody writes it: no locks and no file of shared memory are needed */
    uri = sqlite3_mprintf("file:%w?immutable=1", store->path);
    if (uri == NULL)
      return SQLITE_NOMEM;
    flags |= SQLITE_OPEN_URI;
  }
  code = sqlite3_open_v2(uri != NULL ? uri : store->path, db, flags, NULL);
  sqlite3_free(uri);
  if (*db != NULL)
    sqlite3_extended_result_codes(*db, 0);
  return code;
}

static int prepare_finders(struct mch_store *store) {
  static const char find[] = "SELECT id, length, digest, value, file, emitted, outputs,"
                             " classes FROM tasks"
                             " WHERE key = ?1 AND kind = 'ok' ORDER BY id DESC LIMIT 1";
  static const char emitted[] =
      "SELECT attempt, value FROM emitted WHERE task = ?1 ORDER BY number";
  static const char file[] = "SELECT hash FROM files WHERE device = ?1 AND inode = ?2 AND size = ?3"
                             " AND mtime = ?4 AND ctime = ?5";
  const unsigned kept = SQLITE_PREPARE_PERSISTENT;
  int code = sqlite3_prepare_v3(store->reader, find, -1, kept, &store->find, NULL);
  if (code == SQLITE_OK)
    code = sqlite3_prepare_v3(store->reader, emitted, -1, kept, &store->find_emitted, NULL);
  if (code == SQLITE_OK)
    code = sqlite3_prepare_v3(store->reader, file, -1, kept, &store->find_file, NULL);
  return code;
}

/* Only to be read: what is in it can be found. */
static enum mch_store_opened open_still(struct mch_store *store, struct mch_error *error) {
  enum mch_store_opened opened;
  struct mch_error why = *error;
  size_t room = strlen(store->path) + 8;
  char *log = malloc(room);
  int is_still;
  if (log == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory for a journal");
    return MCH_STORE_UNUSABLE;
  }
  snprintf(log, room, "%s-wal", store->path);
  is_still = access(log, F_OK) != 0;
  free(log);
  sqlite3_close(store->writer);
  store->writer = NULL;
  store->is_readonly = 1;
  if (connect(store, SQLITE_OPEN_READONLY, is_still, &store->reader) != SQLITE_OK ||
      (opened = know(store, store->reader, error)) != MCH_STORE_READY) {
    if (number_of(store->reader, "SELECT count(*) FROM sqlite_schema", -1) == 0)
      *error = why; /* it could not be made */
    return MCH_STORE_UNUSABLE;
  }
  *error = why;
  return prepare_finders(store) == SQLITE_OK ? MCH_STORE_READY : MCH_STORE_UNUSABLE;
}

/* Several scripts may come to a new file at once. Where one has read it and another writes it
 * SQLite does not wait, so that none waits for the other for ever; then this begins anew. */
static int begin_log(sqlite3 *db) {
  static const struct timespec nap = {0, 2000000};
  uint64_t until = mch_now() + MAKING * UINT64_C(1000000);
  int code;
  while ((code = run(db, "PRAGMA journal_mode = WAL")) == SQLITE_BUSY && mch_now() < until)
    nanosleep(&nap, NULL);
  return code;
}

static enum mch_store_opened open_both(struct mch_store *store, int64_t seed,
                                       struct mch_error *error) {
  enum mch_store_opened opened;
  int is_remote = mch_place_is_remote(store->path);
  int code = access(store->path, W_OK) == 0
                 ? connect(store, SQLITE_OPEN_READWRITE, 0, &store->writer)
                 : SQLITE_READONLY;
  if (code == SQLITE_OK) {
    sqlite3_busy_timeout(store->writer, MAKING);
    if (is_remote)
      code = run(store->writer, "PRAGMA journal_mode = DELETE");
    else if (number_of(store->writer, "SELECT count(*) FROM sqlite_schema", -1) == 0)
      code = begin_log(store->writer);
    if (code == SQLITE_OK)
      code = run(store->writer, "PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY");
  }
  if (code == SQLITE_OK && number_of(store->writer, "PRAGMA application_id", -1) == 0)
    code = make(store, seed);
  if (code == SQLITE_OK) {
    opened = know(store, store->writer, error);
    if (opened != MCH_STORE_READY)
      return opened;
    code = connect(store, SQLITE_OPEN_READONLY, 0, &store->reader);
  }
  if (code == SQLITE_OK) {
    sqlite3_busy_timeout(store->reader, MAKING);
    code = prepare_finders(store);
  }
  if (code == SQLITE_OK) {
    error->code = 0;
    sqlite3_busy_timeout(store->reader, 0);
    return MCH_STORE_READY;
  }
  if (code == SQLITE_NOTADB) {
    mch_error_set(error, MCH_PROTOCOL, "%.140s is no journal of mantichora", store->path);
    return MCH_STORE_UNUSABLE;
  }
  mch_error_set(error, MCH_SYSTEM, "the journal %.100s cannot be written: %.80s", store->path,
                store->writer != NULL && sqlite3_errcode(store->writer) != SQLITE_OK
                    ? sqlite3_errmsg(store->writer)
                    : sqlite3_errstr(code));
  return open_still(store, error);
}

/* The path and that of its folder, absolute. 0 or a code. */
static int set_path(struct mch_store *store, const char *path, struct mch_error *error) {
  char here[4096] = "";
  size_t room;
  if (path[0] != '/' && getcwd(here, sizeof here) == NULL)
    return mch_error_system(error, "the journal's path cannot be made absolute");
  room = strlen(here) + strlen(path) + 16;
  store->path = malloc(room);
  store->folder = malloc(room);
  if (store->path == NULL || store->folder == NULL)
    return mch_error_set(error, MCH_NOMEM, "not enough memory for a journal");
  snprintf(store->path, room, "%s%s%s", here, here[0] != '\0' ? "/" : "", path);
  snprintf(store->folder, room, "%s-values", store->path);
  return 0;
}

enum mch_store_opened mch_store_open(struct mch_store *store, const char *path, int64_t seed,
                                     struct mch_error *error) {
  struct mch_store_shield shield;
  enum mch_store_opened opened;
  memset(store, 0, sizeof *store);
  store->process = (int)getpid();
  store->seed = seed;
  if (sqlite3_initialize() != SQLITE_OK) {
    mch_error_set(error, MCH_SYSTEM, "SQLite cannot be used");
    return MCH_STORE_REFUSED;
  }
  if (set_path(store, path, error) != 0 || mch_place_check(store->path, store->folder, error) != 0)
    return MCH_STORE_REFUSED;
  if (mch_place_make(store->path, error) != 0) {
    if (errno == EROFS || errno == ENOSPC || errno == EDQUOT || errno == EACCES)
      return MCH_STORE_UNUSABLE;
    return MCH_STORE_REFUSED;
  }
  mch_store_begin_shield(&shield);
  opened = open_both(store, seed, error);
  mch_store_end_shield(&shield);
  if (opened != MCH_STORE_READY)
    mch_store_close(store);
  return opened;
}

enum mch_store_opened mch_store_look(struct mch_store *store, const char *path, int may_write,
                                     struct mch_error *error) {
  enum mch_store_opened opened = MCH_STORE_UNUSABLE;
  sqlite3 **db = may_write ? &store->writer : &store->reader;
  memset(store, 0, sizeof *store);
  store->process = (int)getpid();
  if (set_path(store, path, error) != 0 || mch_place_check(store->path, store->folder, error) != 0)
    return MCH_STORE_REFUSED;
  if (access(store->path, R_OK) != 0)
    mch_error_set(error, MCH_SYSTEM, "there is no journal %.120s: %.60s", path, strerror(errno));
  else if (connect(store, may_write ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY, 0, db) !=
           SQLITE_OK)
    mch_error_set(error, MCH_SYSTEM, "the journal %.120s cannot be opened: %.60s", path,
                  *db != NULL ? sqlite3_errmsg(*db) : "not enough memory");
  else {
    sqlite3_busy_timeout(*db, MAKING);
    opened = know(store, *db, error);
  }
  if (opened == MCH_STORE_UNUSABLE && !may_write && access(store->path, R_OK) == 0 &&
      access(store->path, W_OK) != 0) {
    sqlite3_close(store->reader);
    store->reader = NULL;
    opened = open_still(store, error);
  }
  if (opened != MCH_STORE_READY)
    mch_store_close(store);
  return opened;
}

void mch_store_close(struct mch_store *store) {
  struct mch_store_shield shield;
  size_t i;
  if (store->process == (int)getpid()) {
    mch_store_begin_shield(&shield);
    sqlite3_finalize(store->find);
    sqlite3_finalize(store->find_emitted);
    sqlite3_finalize(store->find_file);
    for (i = 0; i < sizeof store->add / sizeof *store->add; i++)
      sqlite3_finalize(store->add[i]);
    sqlite3_close(store->reader);
    sqlite3_close(store->writer); /* the last one puts the log into the file */
    mch_store_end_shield(&shield);
  }
  free(store->path);
  free(store->folder);
  free(store->program);
  free(store->module_path);
  free(store->module_cpath);
  memset(store, 0, sizeof *store);
}
