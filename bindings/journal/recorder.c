/* Runs in: parent.
 *
 * What pools tell a journal about tasks gathers here, and is written together: on a pool's helper
 * thread, or in its calls. Purpose: journal.h. */
#include "journal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"

static const uint64_t gathering = 100000000u; /* 0.1 s */
static const uint64_t busy_pause = 20000000u; /* 20 ms */

enum {
  CROWD = 1000,    /* rows: with so many it is written at once, and a transaction has no more */
  PATIENCE = 10000 /* milliseconds that the end of a pool waits for other scripts */
};

/* -- complaints --------------------------------------------------------------------------- */

static void append_complaint(struct journal *journal, struct complaint *complaint) {
  struct complaint **at = &journal->complaints;
  while (*at != NULL)
    at = &(*at)->next;
  *at = complaint;
}

void mch_journal_complain(struct journal *journal, int is_error, const char *format, ...) {
  char text[900];
  struct complaint *complaint;
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  complaint = malloc(sizeof *complaint + strlen(text) + 1);
  if (complaint == NULL)
    return;
  complaint->next = NULL;
  complaint->is_error = is_error;
  strcpy(complaint->text, text);
  pthread_mutex_lock(&journal->lock);
  append_complaint(journal, complaint);
  pthread_mutex_unlock(&journal->lock);
}

size_t mch_journal_complaint(struct mch_journal *head, char *text, size_t room, int *is_error) {
  struct journal *journal = (struct journal *)head;
  struct complaint *complaint;
  pthread_mutex_lock(&journal->lock);
  complaint = journal->complaints;
  if (complaint != NULL)
    journal->complaints = complaint->next;
  pthread_mutex_unlock(&journal->lock);
  if (complaint == NULL)
    return 0;
  snprintf(text, room, "%s", complaint->text);
  *is_error = complaint->is_error;
  free(complaint);
  return strlen(text);
}

/* -- records ------------------------------------------------------------------------------ */

struct record *mch_journal_new_record(struct journal *journal, size_t data) {
  struct record *record = malloc(sizeof *record + data);
  if (record == NULL)
    return NULL;
  memset(record, 0, sizeof *record);
  record->head.recorder = &journal->head.recorder;
  record->journal = journal;
  return record;
}

void mch_journal_drop_parts(struct parts *parts) {
  if (parts != NULL && atomic_fetch_sub(&parts->holds, 1) == 1)
    free(parts);
}

void mch_journal_free_record(struct record *record) {
  mch_journal_drop_parts(record->parts);
  free(record->call);
  free(record->inputs);
  free(record->outputs);
  mch_buf_free(&record->emitted);
  mch_buf_free(&record->classes);
  free(record->text);
  free(record->why);
  free(record->value);
  free(record);
}

static void drop(struct mch_record *head) {
  mch_journal_free_record((struct record *)head);
}

static void emitted(struct mch_record *head, unsigned attempt, const void *graph, size_t length) {
  struct record *record = (struct record *)head;
  mch_buf_u32(&record->emitted, attempt);
  mch_buf_u64(&record->emitted, length);
  mch_buf_append(&record->emitted, graph, length);
  record->emitted_count++;
}

void mch_journal_gather(struct journal *journal, struct record *record) {
  pthread_mutex_lock(&journal->lock);
  if (!journal->may_record) {
    pthread_mutex_unlock(&journal->lock);
    mch_journal_free_record(record);
    return;
  }
  if (journal->last != NULL)
    journal->last->next = record;
  else
    journal->first = record;
  journal->last = record;
  record->next = NULL;
  if (journal->count++ == 0)
    journal->due = mch_now() + gathering;
  else if (journal->count == CROWD)
    journal->due = 0;
  pthread_mutex_unlock(&journal->lock);
}

/* -- files at the end of a task ------------------------------------------------------------ */

static int find_known(void *ud, const struct mch_file_id *id, unsigned char hash[MCH_HASH_SIZE]) {
  struct journal *journal = ud;
  int found;
  pthread_mutex_lock(&journal->lock);
  found = journal->known != NULL && mch_files_recall(journal->known, id, hash);
  pthread_mutex_unlock(&journal->lock);
  return found;
}

static void make_known(struct journal *journal, const struct mch_file_id *id,
                       const unsigned char hash[MCH_HASH_SIZE]) {
  pthread_mutex_lock(&journal->lock);
  if (journal->known == NULL)
    journal->known = mch_files_new();
  if (journal->known != NULL)
    mch_files_remember(journal->known, id, hash);
  pthread_mutex_unlock(&journal->lock);
}

int mch_journal_find_file(void *ud, const struct mch_file_id *id,
                          unsigned char hash[MCH_HASH_SIZE]) {
  struct journal *journal = ud;
  if (find_known(journal, id, hash))
    return 1;
  if (!mch_store_find_file(&journal->store, id, hash))
    return 0;
  make_known(journal, id, hash);
  return 1;
}

void mch_journal_keep_file(void *ud, const struct mch_file_id *id,
                           const unsigned char hash[MCH_HASH_SIZE]) {
  struct journal *journal = ud;
  struct record *record;
  make_known(journal, id, hash);
  if (!journal->may_record || (record = mch_journal_new_record(journal, 1)) == NULL)
    return;
  record->is_file = 1;
  record->file = *id;
  memcpy(record->key, hash, MCH_HASH_SIZE);
  mch_journal_gather(journal, record);
}

static const char *name_of(const struct record *record) {
  return record->name_length > 0 ? record->data + record->name : record->data + record->place;
}

static void hash_now(struct journal *journal, const char *path, unsigned char hash[MCH_HASH_SIZE]) {
  struct mch_error error;
  if (journal->end_files == NULL && (journal->end_files = mch_files_new()) != NULL)
    mch_files_set_memory(journal->end_files,
                         &(struct mch_files_memory){find_known, mch_journal_keep_file, journal});
  if (journal->end_files == NULL || mch_files_hash(journal->end_files, path, hash, &error) < 0)
    memset(hash, 0, MCH_HASH_SIZE);
}

static int is_missing(const unsigned char hash[MCH_HASH_SIZE]) {
  static const unsigned char none[MCH_HASH_SIZE];
  return memcmp(hash, none, MCH_HASH_SIZE) == 0;
}

/* Whether the result may stand for what the task was asked to do. */
static int files_are_right(struct journal *journal, struct record *record) {
  unsigned char hash[MCH_HASH_SIZE];
  size_t i;
  for (i = 0; i < record->input_count; i++) {
    hash_now(journal, record->inputs[i].path, hash);
    if (memcmp(hash, record->inputs[i].hash, MCH_HASH_SIZE) == 0)
      continue;
    mch_journal_complain(journal, 0,
                         "the result of %.200s is not recorded: its input %.300s changed before "
                         "it ended",
                         name_of(record), record->inputs[i].path);
    return 0;
  }
  for (i = 0; i < record->output_count; i++) {
    hash_now(journal, record->outputs[i].path, record->outputs[i].hash);
    if (!is_missing(record->outputs[i].hash))
      continue;
    mch_journal_complain(journal, 0,
                         "the result of %.200s is not recorded: its output %.300s is missing",
                         name_of(record), record->outputs[i].path);
    return 0;
  }
  return 1;
}

/* -- ends --------------------------------------------------------------------------------- */

/* Keep what only stays for the call. 0 or -1. */
static int keep_ending(struct record *record, const struct mch_recorded *how) {
  record->how = *how;
  record->how.graph = NULL;
  record->how.text = NULL;
  record->time = mch_wall();
  record->value = malloc(how->length + 1);
  if (record->value == NULL)
    return -1;
  if (how->length > 0)
    memcpy(record->value, how->graph, how->length);
  if (how->text != NULL && (record->text = strdup(how->text)) == NULL)
    return -1;
  return 0;
}

static void ended(struct mch_record *head, const struct mch_recorded *how) {
  struct record *record = (struct record *)head;
  struct journal *journal = record->journal;
  if (how->kind == MCH_KIND_OK && (record->input_count > 0 || record->output_count > 0)) {
    int fine;
    pthread_mutex_lock(&journal->writing);
    fine = files_are_right(journal, record);
    pthread_mutex_unlock(&journal->writing);
    if (!fine) {
      mch_journal_free_record(record);
      return;
    }
  }
  if (journal->keep == KEEP_NONE || (journal->keep == KEEP_FAILED && how->kind == MCH_KIND_OK)) {
    free(record->call);
    record->call = NULL;
  }
  if (keep_ending(record, how) != 0) {
    mch_journal_free_record(record);
    return;
  }
  mch_journal_gather(journal, record);
}

/* -- writing ------------------------------------------------------------------------------ */

static uint64_t due(struct mch_recorder *recorder) {
  struct journal *journal =
      (struct journal *)(void *)((char *)recorder - offsetof(struct mch_journal, recorder));
  uint64_t when;
  pthread_mutex_lock(&journal->lock);
  when = journal->count > 0 ? journal->due : MCH_NEVER;
  pthread_mutex_unlock(&journal->lock);
  return when;
}

/* Take up to CROWD rows off the list. */
static struct record *take_rows(struct journal *journal, size_t *count) {
  struct record *rows, *end;
  pthread_mutex_lock(&journal->lock);
  rows = end = journal->first;
  *count = 0;
  while (end != NULL) {
    ++*count;
    if (*count == CROWD || end->next == NULL)
      break;
    end = end->next;
  }
  if (end != NULL) {
    journal->first = end->next;
    if (journal->first == NULL)
      journal->last = NULL;
    end->next = NULL;
  }
  journal->count -= *count;
  journal->due = journal->count >= CROWD ? 0 : mch_now() + gathering;
  pthread_mutex_unlock(&journal->lock);
  return rows;
}

static void give_back(struct journal *journal, struct record *rows, size_t count, uint64_t pause) {
  struct record *end = rows;
  while (end->next != NULL)
    end = end->next;
  pthread_mutex_lock(&journal->lock);
  end->next = journal->first;
  journal->first = rows;
  if (journal->last == NULL)
    journal->last = end;
  journal->count += count;
  journal->due = mch_now() + pause;
  pthread_mutex_unlock(&journal->lock);
}

static void free_rows(struct record *rows) {
  while (rows != NULL) {
    struct record *next = rows->next;
    mch_journal_free_record(rows);
    rows = next;
  }
}

void mch_journal_drop_all(struct journal *journal) {
  struct record *rows;
  pthread_mutex_lock(&journal->lock);
  rows = journal->first;
  journal->first = journal->last = NULL;
  journal->count = 0;
  pthread_mutex_unlock(&journal->lock);
  free_rows(rows);
}

static int put_emitted(struct mch_store *store, const struct record *record, int64_t id) {
  const unsigned char *at = record->emitted.data;
  unsigned number;
  int code = 0;
  for (number = 1; number <= (unsigned)record->emitted_count && code == 0; number++) {
    size_t length = (size_t)mch_load_u64(at + 4);
    code = mch_store_put_emitted(store, id, number, mch_load_u32(at),
                                 (struct mch_bytes){at + 12, length});
    at += 12 + length;
  }
  return code;
}

/* Outputs as they are kept: for each the length of its path, the path and the hash. */
static void list_outputs(const struct record *record, struct mch_buf *to) {
  size_t i;
  for (i = 0; i < record->output_count; i++) {
    const struct watched *output = &record->outputs[i];
    mch_buf_u32(to, (uint32_t)strlen(output->path));
    mch_buf_append(to, output->path, strlen(output->path));
    mch_buf_append(to, output->hash, MCH_HASH_SIZE);
  }
}

static struct mch_bytes bytes_of(const void *bytes, size_t length) {
  return (struct mch_bytes){length > 0 ? bytes : NULL, length};
}

/* Whether these parts are to be written with the task. */
static int are_new(struct journal *journal, const struct parts *parts) {
  return parts != NULL && mch_counts_next(&journal->written, parts->hash) == 0;
}

static int put_task(struct journal *journal, const struct record *record) {
  struct mch_store *store = &journal->store;
  struct mch_row row;
  struct mch_buf outputs = {0};
  int64_t id;
  int code;
  memset(&row, 0, sizeof row);
  list_outputs(record, &outputs);
  memcpy(row.key, record->key, sizeof row.key);
  if (record->parts != NULL)
    memcpy(row.common_hash, record->parts->hash, sizeof row.common_hash);
  row.how = &record->how;
  row.time = record->time;
  row.value = (struct mch_bytes){record->value, record->how.length};
  row.text = bytes_of(record->text, record->text != NULL ? strlen(record->text) : 0);
  row.why = bytes_of(record->why, record->why != NULL ? strlen(record->why) : 0);
  row.name = bytes_of(record->data + record->name, record->name_length);
  row.place = bytes_of(record->data + record->place, record->place_length);
  row.own = bytes_of(record->data + record->own, record->own_length);
  if (record->classes.failed == 0)
    row.classes = bytes_of(record->classes.data, record->classes.length);
  row.outputs = bytes_of(outputs.data, outputs.length);
  row.call = bytes_of(record->call, record->call != NULL ? record->call_length : 0);
  if (are_new(journal, record->parts))
    row.common = bytes_of(record->parts->bytes, record->parts->length);
  if (record->emitted.failed == 0)
    row.emitted = record->emitted_count;
  code = mch_store_put(store, &row, &id);
  if (code == 0 && row.emitted > 0)
    code = put_emitted(store, record, id);
  mch_buf_free(&outputs);
  return code;
}

static int put_row(struct journal *journal, const struct record *record) {
  if (record->used != 0)
    return mch_store_put_use(&journal->store, record->used);
  if (record->is_file)
    return mch_store_put_file(&journal->store, &record->file, record->key);
  return put_task(journal, record);
}

/* 0, or a code of SQLite: then none is there. */
static int put_rows(struct journal *journal, const struct record *rows, int milliseconds) {
  struct mch_store *store = &journal->store;
  int code = mch_store_begin(store, milliseconds);
  if (code != 0)
    return code;
  for (; rows != NULL && code == 0; rows = rows->next)
    code = put_row(journal, rows);
  if (code == 0)
    code = mch_store_end(store);
  else
    mch_store_undo(store);
  if (code != 0)
    mch_counts_clear(&journal->written);
  return code;
}

/* It cannot be written from now on. */
static void give_up(struct journal *journal, int code) {
  const char *why = sqlite3_errstr(code);
  journal->may_record = 0;
  mch_journal_complain(journal, 1,
                       "the journal %.300s cannot be written: %.100s; what ends from now on is not "
                       "recorded",
                       journal->path, code == SQLITE_FULL ? "the disk is full" : why);
  mch_journal_drop_all(journal);
}

/* One group of rows. 0: there may be more; 1: nothing more now. */
static int write_some(struct journal *journal, int milliseconds) {
  size_t count;
  struct record *rows = take_rows(journal, &count);
  int code;
  if (rows == NULL)
    return 1;
  code = put_rows(journal, rows, milliseconds);
  if (code == SQLITE_BUSY || code == SQLITE_LOCKED) {
    give_back(journal, rows, count, busy_pause);
    return 1;
  }
  free_rows(rows);
  if (code != 0)
    give_up(journal, code);
  return code != 0;
}

static void write_rows(struct mch_recorder *recorder, int last) {
  struct journal *journal =
      (struct journal *)(void *)((char *)recorder - offsetof(struct mch_journal, recorder));
  struct mch_store_shield shield;
  if (journal->process != (int)getpid())
    return;
  mch_store_begin_shield(&shield);
  pthread_mutex_lock(&journal->writing);
  while (journal->may_record && journal->store.writer != NULL &&
         write_some(journal, last ? PATIENCE : 0) == 0)
    ;
  if (last && due(recorder) != MCH_NEVER) {
    mch_journal_complain(journal, 1,
                         "the journal %.300s cannot be written: other scripts keep it busy",
                         journal->path);
    mch_journal_drop_all(journal);
  }
  if (last && --journal->users == 0)
    mch_journal_rest(journal);
  pthread_mutex_unlock(&journal->writing);
  mch_store_end_shield(&shield);
}

void mch_journal_set_up_recorder(struct journal *journal) {
  journal->head.recorder = (struct mch_recorder){emitted, ended, drop, due, write_rows};
}
