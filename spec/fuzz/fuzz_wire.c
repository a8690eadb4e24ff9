/* Any messages that come over a link do what they may, or end it: a pool that hears a supervisor,
 * and a supervisor that hears a pool. Every task that a machine was given ends in exactly one way.
 *
 * The first byte says who hears; then come messages: u8 type, u16 length, bytes. No link is there:
 * what would be sent is read and dropped. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"
#include "runtime/hosts/hosts_state.h"
#include "runtime/hosts/supervisor_state.h"
#include "runtime/show/output.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* -- the link ----------------------------------------------------------------------------- */

static struct mch_link *const no_link = (struct mch_link *)(void *)&no_link;
static const unsigned char *last;
static size_t last_length;
static uint64_t sum;

static void read_all(const void *bytes, size_t length) {
  const unsigned char *at = bytes;
  for (; length > 0; length--)
    sum += *at++;
}

int __wrap_mch_link_send(struct mch_link *link, unsigned char type, const void *head, size_t length,
                         const struct mch_link_body *body);
int __wrap_mch_link_send(struct mch_link *link, unsigned char type, const void *head, size_t length,
                         const struct mch_link_body *body) {
  (void)type;
  if (link != no_link)
    abort();
  read_all(head, length);
  if (body == NULL)
    return 0;
  read_all(body->bytes, body->length);
  if (body->release != NULL)
    body->release(body->ud);
  return 0;
}

int __wrap_mch_link_keep(struct mch_link *link, struct mch_buf *to);
int __wrap_mch_link_keep(struct mch_link *link, struct mch_buf *to) {
  (void)link;
  mch_buf_append(to, last, last_length);
  return to->failed;
}

size_t __wrap_mch_link_queued(const struct mch_link *link);
size_t __wrap_mch_link_queued(const struct mch_link *link) {
  (void)link;
  return 0;
}

void __wrap_mch_link_flush(struct mch_link *link);
void __wrap_mch_link_flush(struct mch_link *link) {
  (void)link;
}
void __wrap_mch_link_close(struct mch_link *link);
void __wrap_mch_link_close(struct mch_link *link) {
  (void)link;
}
void __wrap_mch_link_free(struct mch_link *link);
void __wrap_mch_link_free(struct mch_link *link) {
  (void)link;
}

/* A message, in memory of its own so that one byte too far is seen. NULL: there is none. */
static unsigned char *next_message(const uint8_t **data, size_t *size, unsigned *type,
                                   size_t *length) {
  unsigned char *copy;
  if (*size < 3)
    return NULL;
  *type = (*data)[0];
  *length = mch_load_u16(*data + 1);
  if (*length > *size - 3)
    *length = *size - 3;
  copy = malloc(*length + 1);
  if (copy == NULL)
    return NULL;
  memcpy(copy, *data + 3, *length);
  *data += 3 + *length;
  *size -= 3 + *length;
  last = copy;
  last_length = *length;
  return copy;
}

/* -- what is told ------------------------------------------------------------------------- */

enum { TASKS = 6, ITEMS = 5 };
static unsigned ended[TASKS], parts[TASKS], items[TASKS]; /* of batches also the parts end */

static void end(struct mch_task *task) {
  if (ended[task->accepted]++ > parts[task->accepted])
    abort();
  if (task->batch != NULL && items[task->accepted] > ITEMS)
    abort();
  mch_task_free(task);
}

static void finished(void *ud, struct mch_task *task, struct mch_result *result) {
  (void)ud;
  if (task->batch != NULL)
    abort();
  if (result != NULL)
    read_all(result->graph, result->length);
  mch_result_free(result);
  end(task);
}

static void returned(void *ud, struct mch_task *task) {
  (void)ud;
  if (task->batch != NULL && task->batch->answered > 0)
    abort();
  if (task->batch != NULL)
    items[task->accepted] += task->batch->count;
  end(task);
}

static void count_items(struct mch_task *batch, uint32_t count) {
  if (count > batch->batch->count - batch->batch->answered)
    abort();
  batch->batch->answered += count;
  items[batch->accepted] += count;
}

static void answered(void *ud, struct mch_task *batch, const unsigned char *graph, size_t length,
                     const struct mch_course *course) {
  (void)ud;
  (void)course;
  read_all(graph, length);
  count_items(batch, 1);
}

static void answered_many(void *ud, struct mch_task *batch, const unsigned char *records,
                          size_t length, uint32_t count, const struct mch_course *course) {
  uint32_t i;
  (void)ud;
  (void)course;
  for (i = 0; i < count; i++) {
    size_t size = records[0];
    if (size >= length)
      abort();
    read_all(records + 1, size);
    records += 1 + size;
    length -= 1 + size;
  }
  if (length != 0)
    abort();
  count_items(batch, count);
}

static void failed(void *ud, struct mch_task *batch, struct mch_result *result) {
  (void)ud;
  mch_result_free(result);
  count_items(batch, 1);
}

static void batch_over(void *ud, struct mch_task *batch, uint64_t elapsed) {
  (void)ud;
  (void)elapsed;
  if (batch->batch->answered != batch->batch->count)
    abort();
  end(batch);
}

static void split(void *ud, struct mch_task *batch, struct mch_task *rest, int stays) {
  (void)ud;
  if (stays) {
    parts[rest->accepted]++;
    return;
  }
  items[batch->accepted] += rest->batch->count;
  mch_task_free(rest);
}

static void early(void *ud, struct mch_task *task, const unsigned char *piece, size_t length) {
  (void)ud;
  (void)task;
  read_all(piece, length);
}

static void started(void *ud, struct mch_task *task, const struct mch_course *course) {
  (void)ud;
  (void)task;
  sum += course->slot;
}

static int emitted(void *ud, struct mch_task *task, int source, const char *host,
                   const unsigned char *graph, size_t length) {
  (void)ud;
  (void)task;
  (void)source;
  (void)host;
  read_all(graph, length);
  return length % 2 == 0;
}

static void worker(void *ud, int pid, unsigned slot, const char *host, const char *why) {
  (void)ud;
  (void)pid;
  (void)host;
  (void)why;
  sum += slot;
}

static void log_record(void *ud, const unsigned char *graph, size_t length) {
  (void)ud;
  read_all(graph, length);
}

static void notice(void *ud, const char *text) {
  (void)ud;
  sum += strlen(text);
}

static void no_lock(void *ud) {
  (void)ud;
}

static const struct mch_events told = {
    NULL,  finished, returned, answered, answered_many, failed, batch_over, split,
    early, started,  emitted,  worker,   log_record,    notice, no_lock,    no_lock};

/* -- bars and lines, as in a supervisor --------------------------------------------------- */

static struct mch_bar_slot *bar_start(void *ud, uint64_t key, const struct mch_bar_spec *spec) {
  (void)ud;
  sum += key;
  read_all(spec->name, spec->name_length);
  return NULL;
}
static void bar_update(void *ud, uint64_t key, uint64_t done, uint64_t total) {
  (void)ud;
  sum += key + done + total;
}
static void bar_name(void *ud, uint64_t key, const char *name, size_t length) {
  (void)ud;
  sum += key;
  read_all(name, length);
}
static void bar_end(void *ud, uint64_t key, uint64_t done, uint64_t total, enum mch_bar_end how) {
  (void)ud;
  sum += key + done + total + (uint64_t)how;
}
static void lines(void *ud, int stream, const char *bytes, size_t length) {
  (void)ud;
  sum += (uint64_t)stream;
  read_all(bytes, length);
}

static struct mch_output *make_output(void) {
  struct mch_upstream upstream = {NULL, bar_start, bar_update, bar_name, bar_end, lines, 0};
  struct mch_output_config config;
  struct mch_output *output;
  struct mch_error error;
  memset(&config, 0, sizeof config);
  output = mch_output_new(&config, &error);
  if (output == NULL)
    abort();
  mch_output_no_thread(output);
  mch_output_become_child(output, &upstream);
  return output;
}

/* -- a pool hears a supervisor ------------------------------------------------------------ */

static struct mch_task *make_task(uint32_t number, int is_batch) {
  unsigned char graph[5 * ITEMS] = {0};
  struct mch_task *task = mch_task_new(NULL, 0, NULL, sizeof graph);
  uint32_t i;
  if (task == NULL)
    abort();
  for (i = 0; i < ITEMS; i++)
    mch_store_u32(graph + 5 * i, 1);
  memcpy(task->body, graph, sizeof graph);
  task->length = sizeof graph;
  task->runid = 10 * number;
  task->accepted = number;
  if (is_batch) {
    task->batch = calloc(1, sizeof *task->batch);
    if (task->batch == NULL)
      abort();
    task->batch->count = task->batch->kept = ITEMS;
  }
  return task;
}

/* It holds tasks 1 to 6, of which 5 may begin; two are batches. */
static void give_tasks(struct engine_hosts *engine) {
  struct machine *machine = engine->machines;
  struct mch_error error;
  uint32_t i;
  for (i = 0; i < TASKS; i++) {
    struct mch_task *task = make_task(i, i == 1 || i == 4);
    if (mch_hfeed_submit(&engine->base, task, 1, &error) != 0)
      abort();
  }
  mch_hfeed_grant(machine);
}

static void hear_supervisor(const uint8_t *data, size_t size) {
  static char name[] = "m", *command[] = {name, NULL};
  struct mch_host host = {name, command, 4, 0, NULL};
  struct mch_hosts hosts;
  struct engine_hosts engine;
  struct machine *machine = calloc(1, sizeof *machine);
  unsigned char *bytes;
  unsigned type, i;
  size_t length;
  memset(&hosts, 0, sizeof hosts);
  memset(&engine, 0, sizeof engine);
  memset(ended, 0, sizeof ended);
  memset(parts, 0, sizeof parts);
  memset(items, 0, sizeof items);
  if (machine == NULL)
    return;
  hosts.hosts = &host;
  hosts.count = 1;
  hosts.program = "0";
  mch_buf_append(&hosts.format, "f", 1);
  engine.hosts = &hosts;
  engine.machines = machine;
  engine.count = engine.room = 1;
  engine.config.events = told;
  engine.config.bars = 1;
  engine.config.output = make_output();
  engine.now = mch_now();
  machine->engine = &engine;
  machine->host = &host;
  machine->fd = -1;
  machine->link = no_link;
  machine->share = machine->cpus = 4;
  machine->state = size > 0 && data[0] % 4 == 0 ? CONNECTING : UP;
  if (machine->state == UP)
    give_tasks(&engine);
  while (machine->link != NULL && (bytes = next_message(&data, &size, &type, &length)) != NULL) {
    if (mch_hhear_message(machine, type, bytes, length) != 0 && machine->link != NULL)
      mch_machine_broken(machine, "a message is not what it should be");
    free(bytes);
  }
  mch_hfeed_fail_all(machine, "the end");
  for (i = 0; i < TASKS && machine->last_ticket > 0; i++)
    if (ended[i] != 1 + parts[i] || (i % 3 == 1 && items[i] != ITEMS))
      abort();
  mch_machine_drop(machine);
  free(engine.taken);
  mch_output_unref(engine.config.output);
  mch_buf_free(&engine.scratch);
  mch_buf_free(&hosts.format);
  free(machine);
}

/* -- a supervisor hears a pool ------------------------------------------------------------ */

static void nothing(struct mch_engine *engine, struct mch_task *task) {
  (void)engine;
  (void)task;
}
static int no_code(struct mch_engine *engine, uint32_t id) {
  (void)engine;
  sum += id;
  return 1;
}
static void no_resize(struct mch_engine *engine, unsigned nworkers) {
  (void)engine;
  if (nworkers == 0 || nworkers > MCH_HOSTS_SLOTS)
    abort();
}
static void no_level(struct mch_engine *engine, int level) {
  (void)engine;
  sum += (uint64_t)level;
}
static void no_accept(struct mch_engine *engine, int source, size_t bytes) {
  (void)engine;
  sum += (uint64_t)source + bytes;
}
static void no_quit(struct mch_engine *engine, int kill) {
  (void)engine;
  sum += (uint64_t)kill;
}

static int put_code(void *ud, uint32_t id, const void *bytes, size_t length) {
  (void)ud;
  sum += id;
  read_all(bytes, length);
  return 0;
}

static void hear_config(const unsigned char *bytes, size_t length) {
  struct mch_reader_of reader = {bytes, length, 0};
  struct mch_hosts_config config;
  if (mch_hosts_take_config(&reader, &config) != 0)
    return;
  read_all(config.cwd, config.cwd_length);
  read_all(config.environment, config.environment_length);
  read_all(config.setup, config.setup_length);
}

static void hear_pool(const uint8_t *data, size_t size) {
  static const struct mch_engine_ops ops = {.stop = nothing,
                                            .forget_code = no_code,
                                            .resize = no_resize,
                                            .log_threshold = no_level,
                                            .listen = no_level,
                                            .accept = no_accept,
                                            .quit = no_quit};
  struct mch_supervisor_config config = {.put_code = put_code, .asks = -1};
  struct mch_engine engine = {.ops = &ops};
  struct supervisor *self = calloc(1, sizeof *self);
  unsigned char *bytes;
  unsigned type;
  size_t length, count = 0;
  int code = 0;
  uint32_t i;
  if (self == NULL)
    return;
  self->config = &config;
  self->link = no_link;
  self->engine = &engine;
  while (code == 0 && (bytes = next_message(&data, &size, &type, &length)) != NULL) {
    struct mch_link_event event = {
        .what = MCH_LINK_MESSAGE, .type = (unsigned char)type, .bytes = bytes, .length = length};
    if (type == MCH_HOSTS_CONFIG)
      hear_config(bytes, length);
    else
      code = mch_supervisor_hear(self, &event);
    free(bytes);
  }
  for (i = 0; i < MCH_HOSTS_PLACES; i++)
    if (self->here[i] != NULL) {
      struct mch_body graph = mch_task_graph(self->here[i]->task);
      read_all(graph.bytes, graph.length);
      mch_supervisor_forget(self, self->here[i]);
      count++;
    }
  if (self->count != 0 || self->queued != 0 || self->first != NULL)
    abort();
  sum += count;
  mch_supervisor_free_asks(self);
  mch_buf_free(&self->head);
  mch_buf_free(&self->scratch);
  mch_buf_free(&self->told);
  free(self);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  if (data[0] % 2 == 0)
    hear_pool(data + 1, size - 1);
  else
    hear_supervisor(data + 1, size - 1);
  return 0;
}
