/* Runs in: a supervisor.
 *
 * What goes up to the pool: all that the fork engine says, bars and lines. */
#define _POSIX_C_SOURCE 200809L
#include "supervisor_state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"
#include "runtime/show/output.h"

enum { SMALL_GRAPH = 16 * 1024, MOST_RECORDS = 16 * 1024 };

/* Without memory for what is to be said the pool cannot be served: it will see the end. */
static void check(int code) {
  if (code != 0)
    exit(71);
}

void mch_supervisor_say(struct supervisor *self, unsigned type, const void *bytes, size_t length) {
  mch_supervisor_say_records(self);
  check(mch_link_send(self->link, (unsigned char)type, bytes, length, NULL));
}

static void say_scratch(struct supervisor *self, unsigned type) {
  check(self->scratch.failed);
  mch_supervisor_say(self, type, self->scratch.data, self->scratch.length);
}

void mch_supervisor_say_hello(struct supervisor *self) {
  const struct mch_supervisor_config *own = self->config;
  struct mch_hosts_hello hello = {.version = MCH_HOSTS_VERSION,
                                  .cpus = own->slots != 0 ? own->slots : mch_platform_cpu_count(),
                                  .pid = 0,
                                  .program = (const unsigned char *)own->program,
                                  .program_length = strlen(own->program),
                                  .format = (const unsigned char *)own->format,
                                  .format_length = strlen(own->format),
                                  .host = (const unsigned char *)own->host,
                                  .host_length = strlen(own->host)};
  mch_buf_clear(&self->scratch);
  mch_hosts_put_hello(&self->scratch, &hello);
  say_scratch(self, MCH_HOSTS_HELLO);
  mch_link_flush(self->link);
}

/* -- ends of tasks ------------------------------------------------------------------------ */

static struct here *here_of(struct supervisor *self, const struct mch_task *task) {
  return mch_supervisor_here(self, (uint32_t)task->accepted);
}

static void release_result(void *ud) {
  mch_result_free(ud);
}

/* The facts in `scratch`, and the result's graph behind them; the result is gone then. */
static void say_result(struct supervisor *self, unsigned type, struct mch_result *result) {
  struct mch_link_body body;
  if (result == NULL || result->length <= SMALL_GRAPH) {
    if (result != NULL)
      mch_buf_append(&self->scratch, result->graph, result->length);
    say_scratch(self, type);
    mch_result_free(result);
    return;
  }
  check(self->scratch.failed);
  mch_supervisor_say_records(self);
  body = (struct mch_link_body){result->graph, result->length, release_result, result};
  check(mch_link_send(self->link, (unsigned char)type, self->scratch.data, self->scratch.length,
                      &body));
}

static void put_result_facts(struct supervisor *self, uint32_t ticket,
                             const struct mch_result *result) {
  static const char no_memory[] = "not enough memory for the task's result";
  struct mch_hosts_facts facts;
  mch_hosts_facts_of_result(&facts, ticket, result);
  if (result == NULL) {
    facts.flags |= MCH_HOSTS_TEXT;
    facts.text = (const unsigned char *)no_memory;
    facts.text_length = sizeof no_memory - 1;
  }
  mch_buf_clear(&self->scratch);
  mch_hosts_put_facts(&self->scratch, &facts);
}

/* The pool may have something to say about the others before anything more begins. */
static void owe(struct supervisor *self, const struct mch_task *task,
                const struct mch_result *result) {
  if (task->careful && (result == NULL || result->kind != MCH_KIND_OK))
    self->owed++;
}

static void finished(void *ud, struct mch_task *task, struct mch_result *result) {
  struct supervisor *self = ud;
  struct here *here = here_of(self, task);
  owe(self, task, result);
  put_result_facts(self, here->ticket, result);
  say_result(self, MCH_HOSTS_FINISHED, result);
  mch_supervisor_forget(self, here);
}

void mch_supervisor_fail(struct supervisor *self, struct here *here, const char *why) {
  mch_supervisor_end(self, here, MCH_KIND_ERROR, why);
}

void mch_supervisor_end(struct supervisor *self, struct here *here, enum mch_kind kind,
                        const char *why) {
  struct mch_result *result = mch_result_new(kind, why, NULL, 0);
  unsigned char body[12] = {0};
  if (here->task->batch == NULL) {
    finished(self, here->task, result);
    return;
  }
  mch_store_u32(body, here->ticket);
  put_result_facts(self, here->ticket, result);
  say_result(self, MCH_HOSTS_FAILED, result);
  mch_supervisor_say(self, MCH_HOSTS_OVER, body, sizeof body);
  mch_supervisor_forget(self, here);
}

static void returned(void *ud, struct mch_task *task) {
  struct supervisor *self = ud;
  mch_supervisor_requeue(self, here_of(self, task));
}

/* -- items -------------------------------------------------------------------------------- */

static void put_course_facts(struct mch_buf *buf, uint32_t ticket, const struct mch_course *course,
                             uint32_t count) {
  uint64_t now = course->started != 0 ? mch_now() : 0;
  struct mch_hosts_facts facts = {
      .ticket = ticket,
      .kind = MCH_KIND_OK,
      .pid = (uint32_t)course->pid,
      .slot = course->slot,
      .elapsed = course->elapsed,
      .maxrss = course->maxrss,
      .age = course->started != 0 && course->started <= now ? now - course->started + 1 : 0,
      .cpu = course->cpu};
  mch_buf_clear(buf);
  mch_hosts_put_facts(buf, &facts);
  mch_buf_u32(buf, count);
}

static void say_answers(struct supervisor *self, uint32_t ticket, const struct mch_course *course,
                        uint32_t count, const unsigned char *bytes, size_t length) {
  put_course_facts(&self->scratch, ticket, course, count);
  mch_buf_append(&self->scratch, bytes, length);
  say_scratch(self, MCH_HOSTS_ANSWERED);
}

static void count_answered(struct supervisor *self, struct mch_task *batch, uint32_t count) {
  batch->batch->answered += count;
  self->items -= count;
  self->answered += count;
}

/* Answers without times come in crowds, of which each would be a message. */
void mch_supervisor_say_records(struct supervisor *self) {
  static const uint64_t none = MCH_UNMEASURED;
  struct mch_course course = {(int)self->record_pid, self->record_slot, 0, none, none, none, NULL};
  uint32_t count = self->record_count;
  if (count == 0)
    return;
  self->record_count = 0;
  put_course_facts(&self->front, self->record_ticket, &course, count);
  mch_buf_append(&self->front, self->records.data, self->records.length);
  check(self->front.failed | self->records.failed);
  mch_buf_clear(&self->records); /* what stands in a head is copied, however long it is */
  check(mch_link_send(self->link, MCH_HOSTS_ANSWERED, self->front.data, self->front.length, NULL));
}

static void answered(void *ud, struct mch_task *batch, const unsigned char *graph, size_t length,
                     const struct mch_course *course) {
  struct supervisor *self = ud;
  say_answers(self, (uint32_t)batch->accepted, course, 0, graph, length);
  count_answered(self, batch, 1);
}

static void answered_many(void *ud, struct mch_task *batch, const unsigned char *records,
                          size_t length, uint32_t count, const struct mch_course *course) {
  struct supervisor *self = ud;
  uint32_t ticket = (uint32_t)batch->accepted;
  int timed = course->started != 0 || course->elapsed != MCH_UNMEASURED ||
              course->cpu != MCH_UNMEASURED || course->maxrss != MCH_UNMEASURED;
  if (timed || ticket != self->record_ticket || (uint32_t)course->pid != self->record_pid ||
      self->records.length >= MOST_RECORDS)
    mch_supervisor_say_records(self);
  count_answered(self, batch, count);
  if (timed) {
    say_answers(self, ticket, course, count, records, length);
    return;
  }
  mch_buf_append(&self->records, records, length);
  self->record_count += count;
  self->record_ticket = ticket;
  self->record_pid = (uint32_t)course->pid;
  self->record_slot = course->slot;
}

static void failed(void *ud, struct mch_task *batch, struct mch_result *result) {
  struct supervisor *self = ud;
  owe(self, batch, result);
  put_result_facts(self, (uint32_t)batch->accepted, result);
  say_result(self, MCH_HOSTS_FAILED, result);
  count_answered(self, batch, 1);
}

static void batch_over(void *ud, struct mch_task *batch, uint64_t elapsed) {
  struct supervisor *self = ud;
  unsigned char body[12];
  mch_store_u32(body, (uint32_t)batch->accepted);
  mch_store_u64(body + 4, elapsed);
  mch_supervisor_say(self, MCH_HOSTS_OVER, body, sizeof body);
  mch_supervisor_forget(self, here_of(self, batch));
}

/* The pool splits it, too. What it asked for it gives to whoever has room. All else goes on here
 * next: sent back, it would come again behind what was granted in between, and wait for that. */
void mch_supervisor_split(struct supervisor *self, const struct mch_task *batch,
                          struct mch_task *rest) {
  unsigned char body[12];
  uint32_t part = self->recalling ? 0 : mch_supervisor_keep(self, rest);
  self->items -= rest->batch->count; /* what is kept was counted as its own */
  mch_store_u32(body, (uint32_t)batch->accepted);
  mch_store_u32(body + 4, batch->batch->count);
  mch_store_u32(body + 8, part);
  mch_supervisor_say(self, MCH_HOSTS_SPLIT, body, sizeof body);
  if (part == 0)
    mch_task_free(rest);
  else
    self->owed += rest->careful != 0; /* nor may it begin before the pool knows of it */
}

static void split(void *ud, struct mch_task *batch, struct mch_task *rest, int stays) {
  (void)stays;
  mch_supervisor_split(ud, batch, rest);
}

/* -- the rest ----------------------------------------------------------------------------- */

static void early(void *ud, struct mch_task *task, const unsigned char *piece, size_t length) {
  struct supervisor *self = ud;
  mch_buf_clear(&self->scratch);
  mch_buf_u32(&self->scratch, (uint32_t)task->accepted);
  mch_buf_append(&self->scratch, piece, length);
  say_scratch(self, MCH_HOSTS_AHEAD);
}

static void started(void *ud, struct mch_task *task, const struct mch_course *course) {
  struct supervisor *self = ud;
  uint64_t now = mch_now();
  mch_buf_clear(&self->scratch);
  mch_buf_u32(&self->scratch, (uint32_t)task->accepted);
  mch_buf_u32(&self->scratch, (uint32_t)course->pid);
  mch_buf_u32(&self->scratch, course->slot);
  mch_buf_u64(&self->scratch,
              course->started != 0 && course->started <= now ? now - course->started + 1 : 0);
  say_scratch(self, MCH_HOSTS_BEGAN);
}

static int emitted(void *ud, struct mch_task *task, int source, const char *host,
                   const unsigned char *graph, size_t length) {
  struct supervisor *self = ud;
  (void)host;
  mch_buf_clear(&self->scratch);
  mch_buf_u32(&self->scratch, (uint32_t)task->accepted);
  mch_buf_u32(&self->scratch, (uint32_t)source);
  mch_buf_append(&self->scratch, graph, length);
  say_scratch(self, MCH_HOSTS_EMITTED);
  return 1;
}

static void worker(void *ud, int pid, unsigned slot, const char *host, const char *why) {
  struct supervisor *self = ud;
  (void)host;
  mch_buf_clear(&self->scratch);
  mch_buf_u32(&self->scratch, (uint32_t)pid);
  mch_buf_u32(&self->scratch, slot);
  if (why != NULL)
    mch_buf_append(&self->scratch, why, strlen(why));
  say_scratch(self, MCH_HOSTS_WORKER);
}

static void log_record(void *ud, const unsigned char *graph, size_t length) {
  mch_supervisor_say(ud, MCH_HOSTS_LOG, graph, length);
}

static void notice(void *ud, const char *text) {
  mch_supervisor_say(ud, MCH_HOSTS_NOTICE, text, strlen(text));
}

static void no_lock(void *ud) {
  (void)ud;
}

void mch_supervisor_fill_events(struct supervisor *self, struct mch_engine_config *engine) {
  engine->events = (struct mch_events){.ud = self,
                                       .finished = finished,
                                       .returned = returned,
                                       .answered = answered,
                                       .answered_many = answered_many,
                                       .failed = failed,
                                       .batch_over = batch_over,
                                       .split = split,
                                       .early = early,
                                       .started = started,
                                       .emitted = emitted,
                                       .worker = worker,
                                       .log = log_record,
                                       .notice = notice,
                                       .unlock = no_lock,
                                       .lock = no_lock};
  engine->codes = (struct mch_codes){self->config->ud, self->config->get_code};
}

void mch_supervisor_tell_workers(struct supervisor *self) {
  enum { MOST = 256 };
  struct mch_worker_info infos[MOST];
  size_t count = self->engine->ops->workers(self->engine, infos, MOST), i;
  mch_buf_clear(&self->scratch);
  self->told_busy = 0;
  for (i = 0; i < count; i++) {
    mch_buf_u32(&self->scratch, (uint32_t)infos[i].pid);
    mch_buf_u32(&self->scratch, infos[i].slot);
    mch_buf_u64(&self->scratch, infos[i].tasks);
    mch_buf_u64(&self->scratch, infos[i].maxrss);
    mch_buf_u8(&self->scratch, (uint8_t)infos[i].busy);
    mch_buf_u64(&self->scratch, infos[i].busy ? infos[i].runid : 0);
    self->told_busy |= infos[i].busy;
  }
  check(self->scratch.failed);
  if (self->told.length == self->scratch.length &&
      memcmp(self->told.data, self->scratch.data, self->told.length) == 0)
    return;
  mch_buf_clear(&self->told);
  mch_buf_append(&self->told, self->scratch.data, self->scratch.length);
  say_scratch(self, MCH_HOSTS_WORKERS);
}

/* -- bars and lines ----------------------------------------------------------------------- */

static struct mch_bar_slot *bar_start(void *ud, uint64_t key, const struct mch_bar_spec *spec) {
  struct supervisor *self = ud;
  mch_buf_clear(&self->scratch);
  mch_buf_u64(&self->scratch, key);
  mch_buf_u64(&self->scratch, spec->total);
  mch_buf_u64(&self->scratch, (uint64_t)spec->runid);
  mch_buf_u8(&self->scratch, (uint8_t)spec->unit);
  mch_buf_u8(&self->scratch, (uint8_t)spec->leave);
  mch_buf_append(&self->scratch, spec->name, spec->name_length);
  say_scratch(self, MCH_HOSTS_BAR_START);
  return NULL;
}

static void bar_update(void *ud, uint64_t key, uint64_t done, uint64_t total) {
  unsigned char body[24];
  mch_store_u64(body, key);
  mch_store_u64(body + 8, done);
  mch_store_u64(body + 16, total);
  mch_supervisor_say(ud, MCH_HOSTS_BAR_UPDATE, body, sizeof body);
}

static void bar_name(void *ud, uint64_t key, const char *name, size_t length) {
  struct supervisor *self = ud;
  mch_buf_clear(&self->scratch);
  mch_buf_u64(&self->scratch, key);
  mch_buf_append(&self->scratch, name, length);
  say_scratch(self, MCH_HOSTS_BAR_NAME);
}

static void bar_end(void *ud, uint64_t key, uint64_t done, uint64_t total, enum mch_bar_end how) {
  unsigned char body[25];
  mch_store_u64(body, key);
  mch_store_u64(body + 8, done);
  mch_store_u64(body + 16, total);
  body[24] = (unsigned char)how;
  mch_supervisor_say(ud, MCH_HOSTS_BAR_END, body, sizeof body);
}

static void lines(void *ud, int stream, const char *bytes, size_t length) {
  struct supervisor *self = ud;
  mch_buf_clear(&self->scratch);
  mch_buf_u8(&self->scratch, (uint8_t)stream);
  mch_buf_append(&self->scratch, bytes, length);
  if (length > 0 && bytes[length - 1] != '\n')
    mch_buf_u8(&self->scratch, '\n');
  say_scratch(self, MCH_HOSTS_LINES);
}

void mch_supervisor_listen_to_output(struct supervisor *self, int joined) {
  struct mch_upstream upstream = {self, bar_start, bar_update, bar_name, bar_end, lines, joined};
  mch_output_no_thread(self->config->output);
  mch_output_become_child(self->config->output, &upstream);
  mch_output_set_mode(self->config->output, MCH_PROGRESS_TEXT);
}
