/* Runs in: both. Purpose: wire.h. */
#define _POSIX_C_SOURCE 200809L
#include "wire.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"

/* -- reading and writing ------------------------------------------------------------------ */

const unsigned char *mch_take_bytes(struct mch_reader_of *reader, size_t count) {
  const unsigned char *at = reader->at;
  if (reader->bad || count > reader->left) {
    reader->bad = 1;
    return NULL;
  }
  if (count > 0) { /* of an empty message there is no place */
    reader->at += count;
    reader->left -= count;
  }
  return at;
}

uint8_t mch_take_u8(struct mch_reader_of *reader) {
  const unsigned char *at = mch_take_bytes(reader, 1);
  return at != NULL ? *at : 0;
}

uint16_t mch_take_u16(struct mch_reader_of *reader) {
  const unsigned char *at = mch_take_bytes(reader, 2);
  return at != NULL ? mch_load_u16(at) : 0;
}

uint32_t mch_take_u32(struct mch_reader_of *reader) {
  const unsigned char *at = mch_take_bytes(reader, 4);
  return at != NULL ? mch_load_u32(at) : 0;
}

uint64_t mch_take_u64(struct mch_reader_of *reader) {
  const unsigned char *at = mch_take_bytes(reader, 8);
  return at != NULL ? mch_load_u64(at) : 0;
}

const unsigned char *mch_take_text(struct mch_reader_of *reader, size_t most, size_t *length) {
  *length = mch_take_u32(reader);
  if (*length > most) {
    reader->bad = 1;
    *length = 0;
  }
  return mch_take_bytes(reader, *length);
}

void mch_put_u16(struct mch_buf *buf, uint16_t value) {
  unsigned char bytes[2];
  mch_store_u16(bytes, value);
  mch_buf_append(buf, bytes, sizeof bytes);
}

void mch_put_text(struct mch_buf *buf, const void *bytes, size_t length) {
  mch_buf_u32(buf, (uint32_t)length);
  mch_buf_append(buf, bytes, length);
}

/* All of it was read, and nothing was missing. */
static int at_end(const struct mch_reader_of *reader) {
  return reader->bad || reader->left != 0 ? -1 : 0;
}

/* -- the beginning ------------------------------------------------------------------------ */

void mch_hosts_put_hello(struct mch_buf *buf, const struct mch_hosts_hello *hello) {
  mch_buf_u32(buf, hello->version);
  mch_buf_u32(buf, hello->cpus);
  mch_buf_u32(buf, hello->pid);
  mch_put_text(buf, hello->program, hello->program_length);
  mch_put_text(buf, hello->format, hello->format_length);
  mch_put_text(buf, hello->host, hello->host_length);
}

int mch_hosts_take_hello(struct mch_reader_of *reader, struct mch_hosts_hello *hello) {
  hello->version = mch_take_u32(reader);
  hello->cpus = mch_take_u32(reader);
  hello->pid = mch_take_u32(reader);
  hello->program = mch_take_text(reader, 64, &hello->program_length);
  hello->format = mch_take_text(reader, 128, &hello->format_length);
  hello->host = mch_take_text(reader, MCH_HOSTS_NAME, &hello->host_length);
  return reader->bad ? -1 : 0; /* a later version may say more */
}

void mch_hosts_put_config(struct mch_buf *buf, const struct mch_hosts_config *config) {
#define MCH_HOSTS_PUT(name) mch_buf_u64(buf, config->name);
  MCH_HOSTS_NUMBERS(MCH_HOSTS_PUT)
#undef MCH_HOSTS_PUT
#define MCH_HOSTS_PUT(name) mch_put_text(buf, config->name, config->name##_length);
  MCH_HOSTS_TEXTS(MCH_HOSTS_PUT)
#undef MCH_HOSTS_PUT
}

int mch_hosts_take_config(struct mch_reader_of *reader, struct mch_hosts_config *config) {
#define MCH_HOSTS_TAKE(name) config->name = mch_take_u64(reader);
  MCH_HOSTS_NUMBERS(MCH_HOSTS_TAKE)
#undef MCH_HOSTS_TAKE
#define MCH_HOSTS_TAKE(name) config->name = mch_take_text(reader, SIZE_MAX, &config->name##_length);
  MCH_HOSTS_TEXTS(MCH_HOSTS_TAKE)
#undef MCH_HOSTS_TAKE
  if (config->slots == 0 || config->slots > MCH_HOSTS_SLOTS)
    return -1;
  return at_end(reader);
}

/* -- tasks -------------------------------------------------------------------------------- */

void mch_hosts_put_task(struct mch_buf *buf, const struct mch_task *task, uint32_t ticket,
                        unsigned options) {
  const struct mch_task_extra *extra = task->extra;
  size_t name_length = extra != NULL ? extra->name_length : 0;
  if (name_length > MCH_NAME_MAX)
    name_length = MCH_NAME_MAX;
  if (task->careful)
    options |= MCH_HOSTS_CAREFUL;
  if (extra != NULL && extra->keyed)
    options |= MCH_HOSTS_KEYED;
  if (task->priority != 0)
    options |= MCH_HOSTS_PRIORITY;
  mch_buf_u32(buf, ticket);
  mch_buf_u8(buf, (uint8_t)options);
  mch_put_u16(buf, task->attempt);
  mch_buf_u64(buf, task->runid);
  mch_buf_u64(buf, extra != NULL && extra->keyed ? extra->stream : 0);
  mch_buf_u64(buf, extra != NULL ? extra->timeout : 0);
  if (options & MCH_HOSTS_PRIORITY)
    mch_buf_u32(buf, (uint32_t)task->priority);
  mch_put_text(buf, extra != NULL ? extra->name : "", name_length);
  mch_buf_u32(buf, task->codes);
  for (uint32_t i = 0; i < task->codes; i++) {
    uint32_t id;
    memcpy(&id, task->body + i * sizeof id, sizeof id);
    mch_buf_u32(buf, id);
  }
  if (task->batch != NULL) {
    mch_buf_u32(buf, task->batch->count);
    mch_buf_u32(buf, task->batch->function_length);
    mch_buf_u64(buf, task->batch->index);
  }
}

int mch_hosts_take_task(struct mch_reader_of *reader, struct mch_hosts_task *task, int is_batch) {
  memset(task, 0, sizeof *task);
  task->is_batch = is_batch;
  task->ticket = mch_take_u32(reader);
  task->options = mch_take_u8(reader);
  task->attempt = mch_take_u16(reader);
  task->runid = mch_take_u64(reader);
  task->stream = mch_take_u64(reader);
  task->timeout = mch_take_u64(reader);
  if (task->options & MCH_HOSTS_PRIORITY)
    task->priority = (int32_t)mch_take_u32(reader);
  task->name = mch_take_text(reader, MCH_NAME_MAX, &task->name_length);
  task->codes = mch_take_u32(reader);
  if (task->codes > reader->left / sizeof(uint32_t))
    return -1;
  task->ids = mch_take_bytes(reader, task->codes * sizeof(uint32_t));
  if (is_batch) {
    task->count = mch_take_u32(reader);
    task->function_length = mch_take_u32(reader);
    task->index = mch_take_u64(reader);
    if (task->count == 0 || task->count > MCH_BATCH_MOST)
      return -1;
  }
  return reader->bad ? -1 : 0;
}

/* Whether the items of a batch are in these bytes, exactly. */
static int are_items(const struct mch_hosts_task *head, const unsigned char *graph, size_t length) {
  uint32_t i;
  if (head->function_length > length)
    return 0;
  graph += head->function_length;
  length -= head->function_length;
  for (i = 0; i < head->count; i++) { /* there are many */
    size_t size = length >= 4 ? 4 + (size_t)mch_load_u32(graph) : SIZE_MAX;
    if (size > length)
      return 0;
    graph += size;
    length -= size;
  }
  return length == 0;
}

static int add_extra(struct mch_task *task, const struct mch_hosts_task *head) {
  struct mch_task_extra *extra;
  if (head->name_length == 0 && head->timeout == 0 && (head->options & MCH_HOSTS_KEYED) == 0)
    return 0;
  task->extra = extra = calloc(1, sizeof *extra + head->name_length);
  if (extra == NULL)
    return -1;
  extra->timeout = head->timeout;
  extra->keyed = (head->options & MCH_HOSTS_KEYED) != 0;
  extra->stream = head->stream;
  extra->name_length = head->name_length;
  if (head->name_length > 0)
    memcpy(extra->name, head->name, head->name_length);
  return 0;
}

static struct mch_task *bare_task(const struct mch_hosts_task *head, const unsigned char *graph,
                                  size_t length) {
  struct mch_task *task = mch_task_new(NULL, 0, NULL, head->codes * sizeof(uint32_t) + length);
  uint32_t i;
  if (task == NULL)
    return NULL;
  task->codes = head->codes;
  for (i = 0; i < head->codes; i++) {
    uint32_t id = mch_load_u32(head->ids + i * sizeof id);
    memcpy(task->body + i * sizeof id, &id, sizeof id);
  }
  if (length > 0)
    memcpy(task->body + head->codes * sizeof(uint32_t), graph, length);
  task->runid = head->runid;
  task->attempt = head->attempt;
  task->priority = head->priority;
  task->careful = (head->options & MCH_HOSTS_CAREFUL) != 0;
  return task;
}

static int make_batch(struct mch_task *task, const struct mch_hosts_task *head) {
  task->batch = calloc(1, sizeof *task->batch);
  if (task->batch == NULL)
    return -1;
  task->batch->count = task->batch->whole = task->batch->kept = head->count;
  task->batch->function_length = head->function_length;
  task->batch->index = task->index = head->index;
  return 0;
}

struct mch_task *mch_hosts_make_task(const struct mch_hosts_task *head, const unsigned char *graph,
                                     size_t length, struct mch_cargo *cargo, int *broken) {
  struct mch_task *task;
  int carries = cargo != NULL && !head->is_batch;
  *broken = head->is_batch && !are_items(head, graph, length);
  if (*broken)
    return NULL;
  task = bare_task(head, graph, carries ? 0 : length);
  if (task == NULL || add_extra(task, head) != 0 ||
      (head->is_batch && make_batch(task, head) != 0)) {
    mch_task_free(task);
    return NULL;
  }
  if (carries) {
    mch_cargo_hold(cargo);
    mch_task_carry(task, cargo);
  }
  return task;
}

/* -- ends --------------------------------------------------------------------------------- */

void mch_hosts_put_facts(struct mch_buf *buf, const struct mch_hosts_facts *facts) {
  mch_buf_u32(buf, facts->ticket);
  mch_buf_u8(buf, facts->kind);
  mch_buf_u8(buf, facts->flags);
  mch_buf_u32(buf, facts->pid);
  mch_buf_u32(buf, facts->slot);
  mch_buf_u64(buf, facts->elapsed);
  mch_buf_u64(buf, facts->maxrss);
  mch_buf_u64(buf, facts->age);
  mch_buf_u64(buf, facts->cpu);
  if (facts->kind >= MCH_KIND_EXITED) {
    mch_buf_u32(buf, facts->signal);
    mch_buf_u32(buf, facts->exitcode);
  }
  if (facts->flags & MCH_HOSTS_TEXT)
    mch_put_text(buf, facts->text, facts->text_length);
  if (facts->flags & MCH_HOSTS_PROGRESS)
    mch_put_text(buf, facts->progress, facts->progress_length);
}

int mch_hosts_take_facts(struct mch_reader_of *reader, struct mch_hosts_facts *facts) {
  enum { LONGEST_TEXT = 64 * 1024 };
  memset(facts, 0, sizeof *facts);
  facts->ticket = mch_take_u32(reader);
  facts->kind = mch_take_u8(reader);
  facts->flags = mch_take_u8(reader);
  facts->pid = mch_take_u32(reader);
  facts->slot = mch_take_u32(reader);
  facts->elapsed = mch_take_u64(reader);
  facts->maxrss = mch_take_u64(reader);
  facts->age = mch_take_u64(reader);
  facts->cpu = mch_take_u64(reader);
  if (facts->kind >= MCH_KIND_COUNT)
    return -1;
  if (facts->kind >= MCH_KIND_EXITED) {
    facts->signal = mch_take_u32(reader);
    facts->exitcode = mch_take_u32(reader);
  }
  if (facts->flags & MCH_HOSTS_TEXT)
    facts->text = mch_take_text(reader, LONGEST_TEXT, &facts->text_length);
  if (facts->flags & MCH_HOSTS_PROGRESS)
    facts->progress = mch_take_text(reader, LONGEST_TEXT, &facts->progress_length);
  if (facts->signal > 1000 || facts->exitcode > 255 || facts->pid > INT32_MAX ||
      facts->slot > MCH_HOSTS_SLOTS)
    return -1;
  return reader->bad ? -1 : 0;
}

void mch_hosts_facts_of_result(struct mch_hosts_facts *facts, uint32_t ticket,
                               const struct mch_result *result) {
  uint64_t now = mch_now();
  memset(facts, 0, sizeof *facts);
  facts->ticket = ticket;
  facts->cpu = MCH_UNMEASURED;
  if (result == NULL) {
    facts->kind = MCH_KIND_ERROR;
    facts->flags = MCH_HOSTS_BEGUN;
    return;
  }
  facts->kind = (uint8_t)result->kind;
  facts->flags = (uint8_t)((result->begun ? MCH_HOSTS_BEGUN : 0) |
                           (result->graph_is_log ? MCH_HOSTS_LOG_GRAPH : 0) |
                           (result->perhaps_oom ? MCH_HOSTS_OOM : 0) |
                           (result->text != NULL ? MCH_HOSTS_TEXT : 0) |
                           (result->progress != NULL ? MCH_HOSTS_PROGRESS : 0));
  facts->pid = (uint32_t)result->pid;
  facts->slot = result->slot;
  facts->signal = (uint32_t)result->signal;
  facts->exitcode = (uint32_t)result->exitcode & 0xff;
  facts->elapsed = result->elapsed;
  facts->maxrss = result->maxrss;
  facts->age = result->started != 0 && result->started <= now ? now - result->started + 1 : 0;
  facts->cpu = result->cpu;
  facts->text = (const unsigned char *)result->text;
  facts->text_length = result->text != NULL ? strlen(result->text) : 0;
  facts->progress = (const unsigned char *)result->progress;
  facts->progress_length = result->progress != NULL ? strlen(result->progress) : 0;
}

static char *copy_text(const unsigned char *text, size_t length) {
  char *copy = text != NULL ? malloc(length + 1) : NULL;
  if (copy != NULL) {
    memcpy(copy, text, length);
    copy[length] = '\0';
  }
  return copy;
}

struct mch_result *mch_hosts_result_of(const struct mch_hosts_facts *facts, void *memory,
                                       const unsigned char *graph, size_t length) {
  enum mch_kind kind = (enum mch_kind)facts->kind;
  struct mch_result *result = memory != NULL ? mch_result_adopt(kind, memory, graph, length)
                                             : mch_result_new(kind, NULL, graph, length);
  uint64_t now = mch_now();
  if (result == NULL)
    return NULL;
  result->begun = (facts->flags & MCH_HOSTS_BEGUN) != 0;
  result->graph_is_log = (facts->flags & MCH_HOSTS_LOG_GRAPH) != 0;
  result->perhaps_oom = (facts->flags & MCH_HOSTS_OOM) != 0;
  result->pid = (int)facts->pid;
  result->slot = facts->slot;
  result->signal = (int)facts->signal;
  result->exitcode = (int)facts->exitcode;
  result->elapsed = facts->elapsed;
  result->maxrss = facts->maxrss;
  result->cpu = facts->cpu;
  result->started = facts->age != 0 && facts->age <= now ? now - facts->age + 1 : 0;
  result->text = copy_text(facts->text, facts->text_length);
  result->progress = copy_text(facts->progress, facts->progress_length);
  return result;
}
