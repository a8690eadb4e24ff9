/* Runs in: parent.
 *
 * What a supervisor says: its first words, results, items, output, bars. Nothing of it is believed
 * that can be checked; one that says what it may not is lost. */
#define _POSIX_C_SOURCE 200809L
#include "hosts_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"
#include "runtime/show/output.h"

enum { MOST_BARS = 65536, MOST_WORKERS = 2 * MCH_HOSTS_SLOTS, LARGE = 256 * 1024 };

static const struct mch_events *events_of(const struct machine *machine) {
  return &machine->engine->config.events;
}

/* -- first words -------------------------------------------------------------------------- */

static void send_config(struct machine *machine) {
  const struct mch_engine_config *config = &machine->engine->config;
  struct mch_hosts *hosts = machine->engine->hosts;
  struct mch_buf *out = &machine->engine->scratch;
  struct mch_hosts_config setup = {.slots = machine->share != 0 ? machine->share : 1,
                                   .timeout = config->timeout,
                                   .max_tasks_per_worker = config->max_tasks_per_worker,
                                   .max_memory_per_worker = config->max_memory_per_worker,
                                   .min_free_memory = hosts->min_free_memory,
                                   .limit_memory = hosts->limit_memory,
                                   .limit_cpu = config->limit_cpu,
                                   .limit_files = config->limit_files,
                                   .grace = config->grace,
                                   .seed = hosts->seed,
                                   .log_level = (uint64_t)(int64_t)machine->engine->log_level,
                                   .listening = (uint64_t)machine->engine->listening,
                                   .bars = (uint64_t)config->bars,
                                   .joined = (uint64_t)mch_output_is_joined(config->output),
                                   .keep_gc = (uint64_t)hosts->keep_gc,
                                   .cwd = hosts->cwd.data,
                                   .cwd_length = hosts->cwd.length,
                                   .cwd_chosen = (const unsigned char *)"y",
                                   .cwd_chosen_length = (size_t)hosts->cwd_chosen,
                                   .environment = hosts->environment.data,
                                   .environment_length = hosts->environment.length,
                                   .setup = hosts->setup.data,
                                   .setup_length = hosts->setup.length,
                                   .has_init = (uint64_t)hosts->has_init,
                                   .has_fini = (uint64_t)hosts->has_fini};
  if (mch_hfeed_send_codes(machine, hosts->setup_ids.data,
                           (uint32_t)(hosts->setup_ids.length / sizeof(uint32_t))) != 0) {
    mch_machine_broken(machine, "there is not enough memory for its setup");
    return;
  }
  mch_buf_clear(out);
  mch_hosts_put_config(out, &setup);
  machine->told_share = machine->share;
  mch_machine_send(machine, MCH_HOSTS_CONFIG, out->data, out->length);
  if (machine->link != NULL)
    mch_link_flush(machine->link);
}

static int hello(struct machine *machine, struct mch_reader_of *reader) {
  const struct mch_hosts *hosts = machine->engine->hosts;
  struct mch_hosts_hello said;
  if (machine->state != CONNECTING || mch_hosts_take_hello(reader, &said) != 0 || said.cpus == 0)
    return -1;
  if (said.version != MCH_HOSTS_VERSION) {
    mch_machine_refuse(machine,
                       "it has mantichora %.*s, which speaks version %u of the wire; here are "
                       "mantichora %s and version %u",
                       (int)said.program_length, (const char *)said.program, said.version,
                       hosts->program, MCH_HOSTS_VERSION);
    return 0;
  }
  if (said.format_length != hosts->format.length ||
      memcmp(said.format, hosts->format.data, said.format_length) != 0) {
    mch_machine_refuse(machine,
                       "its Lua is not ours: it has %.*s, here is %.*s (mantichora %.*s and %s)",
                       (int)said.format_length, (const char *)said.format,
                       (int)hosts->format.length, (const char *)hosts->format.data,
                       (int)said.program_length, (const char *)said.program, hosts->program);
    return 0;
  }
  machine->cpus = said.cpus > MCH_HOSTS_SLOTS ? MCH_HOSTS_SLOTS : said.cpus;
  machine->state = LOADING;
  mch_machine_allot(machine->engine);
  send_config(machine);
  return 0;
}

static int started(struct machine *machine, struct mch_reader_of *reader) {
  mch_take_u32(reader);
  if (machine->state != LOADING || reader->bad)
    return machine->state == LEAVING ? 0 : -1;
  machine->state = UP;
  machine->was_up = 1;
  machine->up_since = mch_now();
  mch_machine_allot(machine->engine);
  return 0;
}

/* -- tasks -------------------------------------------------------------------------------- */

static double smooth(double before, double now) {
  return before == 0 ? now : before + (now - before) / 8;
}

/* The task that a message is about, which may have begun. */
static struct held *told_of(struct machine *machine, uint32_t ticket) {
  struct held *held = mch_hfeed_held(machine, ticket);
  return held != NULL && held->granted ? held : NULL;
}

static void count_tasks(struct machine *machine, const struct mch_hosts_facts *facts,
                        uint32_t count);

/* One that had to wait for a processor says little about the others. */
static void count_time(struct machine *machine, uint64_t elapsed, uint32_t count) {
  double each = (double)elapsed / (count > 0 ? count : 1) + 1;
  machine->engine->worked += elapsed;
  machine->last_end = machine->engine->now;
  if (machine->run_time > 0 && each > 4 * machine->run_time)
    each = 4 * machine->run_time;
  machine->run_time = smooth(machine->run_time, each);
}

/* The result with the graph behind its facts; a long message's memory goes along. */
static struct mch_result *take_result(struct machine *machine, const struct mch_hosts_facts *facts,
                                      const unsigned char *bytes, size_t length,
                                      const unsigned char *graph) {
  struct mch_hosts_facts own = *facts;
  struct mch_result *result;
  size_t head = (size_t)(graph - bytes);
  if (length >= LARGE && facts->text == NULL && facts->progress == NULL) {
    struct mch_buf whole = {0};
    if (mch_link_keep(machine->link, &whole) != 0)
      return NULL;
    result = mch_hosts_result_of(&own, whole.data, whole.data + head, length - head);
  } else
    result = mch_hosts_result_of(&own, NULL, graph, length - head);
  if (result != NULL)
    result->host = machine->host->name;
  return result;
}

/* What a stop has made of it: that the task caught the error and returned does not count. */
static void judge(struct mch_result *result, int stop) {
  if (result == NULL || stop == 0)
    return;
  if (result->kind == MCH_KIND_OK)
    result->length = 0;
  result->kind = (enum mch_kind)stop;
}

static void owe_heard(struct machine *machine, const struct mch_task *task, int kind) {
  if (task->careful && kind != MCH_KIND_OK)
    machine->heard_owed++;
}

static int take_facts(struct machine *machine, struct mch_reader_of *reader,
                      struct mch_hosts_facts *facts) {
  int code = mch_hosts_take_facts(reader, facts);
  if (code == 0)
    facts->slot = mch_hslots_number(machine, facts->slot);
  return code;
}

static int finished(struct machine *machine, const unsigned char *bytes, size_t length) {
  struct mch_reader_of reader = {bytes, length, 0};
  struct mch_hosts_facts facts;
  struct mch_result *result;
  struct mch_task *task;
  struct held *held;
  if (take_facts(machine, &reader, &facts) != 0 ||
      (held = told_of(machine, facts.ticket)) == NULL || held->task->batch != NULL)
    return -1;
  task = held->task;
  result = take_result(machine, &facts, bytes, length, reader.at);
  judge(result, task->stop);
  count_time(machine, facts.elapsed, 1);
  count_tasks(machine, &facts, 1);
  owe_heard(machine, task, facts.kind);
  mch_hfeed_settle(machine, held);
  events_of(machine)->finished(events_of(machine)->ud, task, result);
  return 0;
}

static struct mch_course course_of(const struct machine *machine,
                                   const struct mch_hosts_facts *facts) {
  uint64_t now = mch_now();
  struct mch_course course = {(int)facts->pid,
                              facts->slot,
                              facts->age != 0 && facts->age <= now ? now - facts->age + 1 : 0,
                              facts->age != 0 ? facts->elapsed : MCH_UNMEASURED,
                              facts->age != 0 ? facts->cpu : MCH_UNMEASURED,
                              facts->age != 0 ? facts->maxrss : MCH_UNMEASURED,
                              machine->host->name};
  return course;
}

/* Whether these are so many records, exactly. */
static int are_records(const unsigned char *at, size_t length, uint32_t count) {
  const unsigned char *end = at + length;
  for (; count > 0 && at < end; count--) { /* there are many */
    size_t size = *at++;
    if (size == 0 || size > MCH_RECORD_MAX || size > (size_t)(end - at))
      return 0;
    at += size;
  }
  return count == 0 && at == end;
}

static int answered(struct machine *machine, const unsigned char *bytes, size_t length) {
  struct mch_reader_of reader = {bytes, length, 0};
  struct mch_hosts_facts facts;
  struct mch_course course;
  struct held *held;
  struct mch_batch *batch;
  uint32_t count;
  if (take_facts(machine, &reader, &facts) != 0)
    return -1;
  count = mch_take_u32(&reader);
  held = told_of(machine, facts.ticket);
  if (reader.bad || held == NULL || held->task->batch == NULL || facts.kind != MCH_KIND_OK)
    return -1;
  batch = held->task->batch;
  if ((count > 0 ? count : 1) > batch->count - batch->answered ||
      (count > 0 && !are_records(reader.at, reader.left, count)))
    return -1;
  course = course_of(machine, &facts);
  count_tasks(machine, &facts, count > 0 ? count : 1);
  if (count > 0)
    events_of(machine)->answered_many(events_of(machine)->ud, held->task, reader.at, reader.left,
                                      count, &course);
  else
    events_of(machine)->answered(events_of(machine)->ud, held->task, reader.at, reader.left,
                                 &course);
  return 0;
}

static int failed(struct machine *machine, const unsigned char *bytes, size_t length) {
  struct mch_reader_of reader = {bytes, length, 0};
  struct mch_hosts_facts facts;
  struct held *held;
  if (take_facts(machine, &reader, &facts) != 0 ||
      (held = told_of(machine, facts.ticket)) == NULL || held->task->batch == NULL ||
      held->task->batch->answered >= held->task->batch->count)
    return -1;
  owe_heard(machine, held->task, facts.kind);
  count_tasks(machine, &facts, 1);
  events_of(machine)->failed(events_of(machine)->ud, held->task,
                             take_result(machine, &facts, bytes, length, reader.at));
  return 0;
}

/* What was not begun of a batch that is cancelled ends by that; else the pool has it again. */
static void return_rest(struct machine *machine, struct held *held, uint32_t number) {
  const struct mch_events *events = events_of(machine);
  struct mch_task *task = held->task, *rest;
  if (number >= task->batch->count)
    return;
  if (!held->cancelled && (rest = mch_task_split(task, number)) != NULL) {
    task->batch->count = number;
    events->split(events->ud, task, rest, 0);
    return;
  }
  while (task->batch->answered < task->batch->count)
    events->failed(events->ud, task,
                   mch_result_new(held->cancelled ? (enum mch_kind)task->stop : MCH_KIND_ERROR,
                                  held->cancelled ? NULL : "not enough memory", NULL, 0));
}

static int over(struct machine *machine, struct mch_reader_of *reader) {
  uint32_t ticket = mch_take_u32(reader);
  uint64_t elapsed = mch_take_u64(reader);
  struct held *held = told_of(machine, ticket);
  struct mch_task *task;
  if (reader->bad || held == NULL || held->task->batch == NULL)
    return -1;
  task = held->task;
  return_rest(machine, held, task->batch->answered);
  count_time(machine, elapsed, 1);
  mch_hfeed_settle(machine, held);
  events_of(machine)->batch_over(events_of(machine)->ud, task, elapsed);
  return 0;
}

/* The rest goes on there by itself. Without memory for it the machine is lost, as nothing could be
 * heard of it. */
static int go_on(struct machine *machine, struct held *held, uint32_t number, uint32_t part) {
  const struct mch_events *events = events_of(machine);
  struct mch_task *task = held->task, *rest;
  if ((part & MCH_HOSTS_PART) == 0 || machine->held[mch_hosts_place(part)] != NULL ||
      (rest = mch_task_split(task, number)) == NULL)
    return -1;
  if (mch_hfeed_hold(machine, rest, part, 1) != 0) {
    mch_task_free(rest);
    return -1;
  }
  task->batch->count = number;
  rest->stop = task->stop;
  events->split(events->ud, task, rest, 1);
  machine->heard_owed += rest->careful != 0;
  if (held->cancelled)
    mch_hfeed_stop(&machine->engine->base, rest);
  return 0;
}

static int split(struct machine *machine, struct mch_reader_of *reader) {
  uint32_t ticket = mch_take_u32(reader), number = mch_take_u32(reader);
  uint32_t part = mch_take_u32(reader);
  struct held *held = told_of(machine, ticket);
  if (reader->bad || held == NULL || held->task->batch == NULL ||
      number < held->task->batch->answered || number >= held->task->batch->count)
    return -1;
  if (part != 0)
    return go_on(machine, held, number, part);
  if (!held->cancelled)
    return_rest(machine, held, number);
  return 0;
}

static int returned(struct machine *machine, struct mch_reader_of *reader) {
  uint32_t ticket = mch_take_u32(reader);
  struct held *held = told_of(machine, ticket);
  struct mch_task *task;
  if (reader->bad || held == NULL || (held->task->batch != NULL && held->task->batch->answered > 0))
    return -1;
  task = held->task;
  mch_hfeed_settle(machine, held);
  events_of(machine)->returned(events_of(machine)->ud, task);
  return 0;
}

static int began(struct machine *machine, struct mch_reader_of *reader) {
  struct mch_hosts_facts facts = {.cpu = MCH_UNMEASURED};
  struct mch_course course;
  struct held *held;
  facts.ticket = mch_take_u32(reader);
  facts.pid = mch_take_u32(reader);
  facts.slot = mch_take_u32(reader);
  facts.age = mch_take_u64(reader);
  held = told_of(machine, facts.ticket);
  if (reader->bad || held == NULL || facts.slot > MCH_HOSTS_SLOTS ||
      (held->task->batch != NULL && held->task->batch->answered >= held->task->batch->count))
    return -1;
  facts.slot = mch_hslots_number(machine, facts.slot);
  course = course_of(machine, &facts);
  course.elapsed = course.cpu = course.maxrss = MCH_UNMEASURED;
  events_of(machine)->started(events_of(machine)->ud, held->task, &course);
  return 0;
}

static int ahead(struct machine *machine, struct mch_reader_of *reader) {
  struct held *held = told_of(machine, mch_take_u32(reader));
  if (reader->bad || held == NULL || held->task->batch != NULL)
    return -1;
  if (held->task->stop == 0)
    events_of(machine)->early(events_of(machine)->ud, held->task, reader->at, reader->left);
  return 0;
}

static int emitted(struct machine *machine, struct mch_reader_of *reader) {
  struct held *held = told_of(machine, mch_take_u32(reader));
  uint32_t pid = mch_take_u32(reader);
  size_t which = (size_t)(machine - machine->engine->machines);
  int source = (int)(which << 22 | (pid & 0x3fffff));
  if (reader->bad || held == NULL || pid > 0x3fffff || which > 511)
    return -1;
  if (!events_of(machine)->emitted(events_of(machine)->ud, held->task, source, machine->host->name,
                                   reader->at, reader->left)) {
    unsigned char body[12];
    mch_store_u32(body, pid);
    mch_store_u64(body + 4, reader->left);
    mch_machine_send(machine, MCH_HOSTS_ACCEPT, body, sizeof body);
  }
  return 0;
}

/* -- output and bars ---------------------------------------------------------------------- */

static int lines(struct machine *machine, struct mch_reader_of *reader) {
  uint8_t stream = mch_take_u8(reader);
  if (reader->bad || stream < 1 || stream > 2 || reader->left == 0 ||
      reader->at[reader->left - 1] != '\n')
    return -1;
  mch_output_lines(machine->engine->config.output, stream, (const char *)reader->at, reader->left);
  return 0;
}

static size_t find_bar(const struct machine *machine, uint64_t key) {
  size_t i = 0;
  while (i < machine->bar_count && machine->bar_keys[i] != key)
    i++;
  return i;
}

static int bar_room(struct machine *machine) {
  size_t room = machine->bar_room == 0 ? 16 : 2 * machine->bar_room;
  struct mch_bar **bars;
  uint64_t *keys, *runids;
  if (machine->bar_count < machine->bar_room)
    return 1;
  if (room > MOST_BARS)
    return 0;
  if ((bars = realloc(machine->bars, room * sizeof(struct mch_bar *))) != NULL)
    machine->bars = bars;
  if ((keys = realloc(machine->bar_keys, room * sizeof *keys)) != NULL)
    machine->bar_keys = keys;
  if ((runids = realloc(machine->bar_runids, room * sizeof *runids)) != NULL)
    machine->bar_runids = runids;
  if (bars == NULL || keys == NULL || runids == NULL)
    return 0;
  machine->bar_room = room;
  return 1;
}

const struct mch_task *mch_hhear_task_with(const struct machine *machine, uint64_t runid) {
  uint32_t i;
  for (i = 0; i < MCH_HOSTS_PLACES; i++) {
    const struct held *held = machine->held[i];
    if (held != NULL && runid >= held->task->runid &&
        runid - held->task->runid < mch_task_count(held->task))
      return held->task;
  }
  return NULL;
}

static int bar_start(struct machine *machine, struct mch_reader_of *reader) {
  struct mch_output *output = machine->engine->config.output;
  const struct mch_task *task;
  struct mch_bar_spec spec;
  struct mch_bar *bar;
  uint64_t key = mch_take_u64(reader);
  uint8_t unit, leave;
  memset(&spec, 0, sizeof spec);
  spec.total = mch_take_u64(reader);
  spec.runid = (int64_t)mch_take_u64(reader);
  unit = mch_take_u8(reader);
  leave = mch_take_u8(reader);
  if (reader->bad || unit >= MCH_UNITS || leave > MCH_LEAVE_FAILED ||
      find_bar(machine, key) < machine->bar_count)
    return -1;
  if (!machine->engine->config.bars || !bar_room(machine))
    return 0;
  spec.unit = (enum mch_bar_unit)unit;
  spec.leave = (enum mch_bar_leave)leave;
  if (spec.leave == MCH_LEAVE_ALWAYS && machine->engine->config.leave_failed)
    spec.leave = MCH_LEAVE_FAILED;
  spec.name = (const char *)reader->at;
  spec.name_length = reader->left;
  task = spec.runid >= 0 ? mch_hhear_task_with(machine, (uint64_t)spec.runid) : NULL;
  if (task != NULL && task->extra != NULL) {
    spec.task = task->extra->name;
    spec.task_length = task->extra->name_length;
  }
  bar = mch_output_bar_start(output, &spec);
  if (bar == NULL)
    return 0;
  if (task != NULL && task->stop == MCH_KIND_CANCELLED)
    mch_output_bar_stopping(output, bar);
  machine->bars[machine->bar_count] = bar;
  machine->bar_runids[machine->bar_count] = (uint64_t)spec.runid;
  machine->bar_keys[machine->bar_count++] = key;
  return 0;
}

static int bar_update(struct machine *machine, struct mch_reader_of *reader) {
  size_t i = find_bar(machine, mch_take_u64(reader));
  uint64_t done = mch_take_u64(reader), total = mch_take_u64(reader);
  if (reader->bad)
    return -1;
  if (i < machine->bar_count) {
    mch_bar_set(machine->bars[i], done);
    mch_bar_set_total(machine->bars[i], total);
  }
  return 0;
}

static int bar_name(struct machine *machine, struct mch_reader_of *reader) {
  size_t i = find_bar(machine, mch_take_u64(reader));
  if (reader->bad)
    return -1;
  if (i < machine->bar_count)
    mch_output_bar_name(machine->engine->config.output, machine->bars[i], (const char *)reader->at,
                        reader->left);
  return 0;
}

static void drop_bar(struct machine *machine, size_t i) {
  machine->bar_count--;
  machine->bars[i] = machine->bars[machine->bar_count];
  machine->bar_keys[i] = machine->bar_keys[machine->bar_count];
  machine->bar_runids[i] = machine->bar_runids[machine->bar_count];
}

static int bar_end(struct machine *machine, struct mch_reader_of *reader) {
  size_t i = find_bar(machine, mch_take_u64(reader));
  uint64_t done = mch_take_u64(reader), total = mch_take_u64(reader);
  uint8_t how = mch_take_u8(reader);
  if (reader->bad || reader->left != 0 || how > MCH_BAR_CANCELLED)
    return -1;
  if (i < machine->bar_count) {
    struct mch_bar *bar = machine->bars[i];
    drop_bar(machine, i);
    mch_output_bar_end(machine->engine->config.output, bar, done, total, (enum mch_bar_end)how);
  }
  return 0;
}

void mch_hhear_end_bars(struct machine *machine, enum mch_bar_end how) {
  while (machine->bar_count > 0) {
    machine->bar_count--;
    mch_output_bar_end(machine->engine->config.output, machine->bars[machine->bar_count],
                       MCH_BAR_UNKNOWN, MCH_BAR_UNKNOWN, how);
  }
}

/* -- workers and modules ------------------------------------------------------------------ */

static const char *word_of(const unsigned char *why, size_t length) {
  static const char *const words[] = {"closed", "replaced", "killed", "exited"};
  size_t i;
  for (i = 0; i < sizeof words / sizeof *words; i++)
    if (strlen(words[i]) == length && memcmp(words[i], why, length) == 0)
      return words[i];
  return "replaced";
}

static int worker_room(struct machine *machine, size_t count) {
  struct mch_worker_info *workers;
  if (count <= machine->worker_room)
    return 1;
  if (count > MOST_WORKERS)
    return 0;
  workers = realloc(machine->workers, 2 * count * sizeof *workers);
  if (workers == NULL)
    return 0;
  machine->workers = workers;
  machine->worker_room = 2 * count;
  return 1;
}

static int worker(struct machine *machine, struct mch_reader_of *reader) {
  uint32_t pid = mch_take_u32(reader), slot = mch_take_u32(reader);
  const char *why = reader->left > 0 ? word_of(reader->at, reader->left) : NULL;
  size_t i;
  if (reader->bad || pid > INT32_MAX || slot > MCH_HOSTS_SLOTS)
    return -1;
  for (i = 0; why != NULL && i < machine->worker_count; i++)
    if (machine->workers[i].pid == (int)pid) {
      machine->workers[i] = machine->workers[--machine->worker_count];
      break;
    }
  events_of(machine)->worker(events_of(machine)->ud, (int)pid, mch_hslots_number(machine, slot),
                             machine->host->name, why);
  return 0;
}

/* When what this one runs began, as far as it is seen from here: when it was first told. */
static uint64_t since(const struct mch_worker_info *info, const struct mch_worker_info *before,
                      size_t count, uint64_t now) {
  size_t i;
  for (i = 0; i < count; i++)
    if (before[i].pid == info->pid && before[i].busy && before[i].runid == info->runid)
      return before[i].since;
  return now;
}

/* All that there are. */
static int workers(struct machine *machine, struct mch_reader_of *reader) {
  enum { ENTRY = 4 + 4 + 8 + 8 + 1 + 8 };
  size_t count = reader->left / ENTRY, before_count = machine->worker_count, i;
  size_t size = before_count * sizeof *machine->workers;
  struct mch_worker_info *before = size > 0 ? malloc(size) : NULL;
  uint64_t now = mch_now();
  if (before != NULL)
    memcpy(before, machine->workers, size);
  else
    before_count = 0;
  if (reader->left % ENTRY != 0 || !worker_room(machine, count)) {
    free(before);
    return -1;
  }
  for (i = 0; i < count; i++) {
    struct mch_worker_info *info = &machine->workers[i];
    memset(info, 0, sizeof *info);
    info->pid = (int)(mch_take_u32(reader) & INT32_MAX);
    info->slot = mch_take_u32(reader);
    if (info->slot > MCH_HOSTS_SLOTS) {
      machine->worker_count = i;
      free(before);
      return -1;
    }
    info->slot = mch_hslots_number(machine, info->slot);
    info->tasks = mch_take_u64(reader);
    info->maxrss = mch_take_u64(reader);
    info->busy = mch_take_u8(reader) != 0;
    info->runid = mch_take_u64(reader);
    info->host = machine->host->name;
    if (info->busy)
      info->since = since(info, before, before_count, now);
  }
  free(before);
  machine->worker_count = count;
  mch_hslots_trim(machine);
  return 0;
}

/* Between two such lists: a worker has ended so many more tasks. */
static void count_tasks(struct machine *machine, const struct mch_hosts_facts *facts,
                        uint32_t count) {
  size_t i;
  for (i = 0; i < machine->worker_count; i++) {
    struct mch_worker_info *info = &machine->workers[i];
    if (info->pid != (int)facts->pid)
      continue;
    info->tasks += count;
    if (facts->maxrss != MCH_UNMEASURED && facts->maxrss > info->maxrss)
      info->maxrss = facts->maxrss;
    info->busy = 0;
    return;
  }
}

/* A worker there wants a module. */
static int need(struct machine *machine, struct mch_reader_of *reader) {
  const struct mch_library *library = &machine->engine->hosts->library;
  struct mch_buf *head = &machine->engine->scratch, chunk = {0}, source = {0};
  struct mch_link_body body;
  uint32_t request = mch_take_u32(reader);
  enum mch_module_kind kind = MCH_MODULE_NONE;
  if (reader->bad || reader->left > 4096)
    return -1;
  if (library->find != NULL)
    kind = library->find(library->ud, (const char *)reader->at, reader->left, &chunk, &source);
  if (chunk.failed != 0 || source.failed != 0 || chunk.length > UINT16_MAX)
    kind = MCH_MODULE_NONE;
  mch_buf_clear(head);
  mch_buf_u32(head, request);
  mch_buf_u8(head, (uint8_t)kind);
  mch_put_u16(head, kind != MCH_MODULE_NONE ? (uint16_t)chunk.length : 0);
  if (kind != MCH_MODULE_NONE) {
    mch_buf_append(head, chunk.data, chunk.length);
    body = (struct mch_link_body){source.data, source.length, free, source.data};
    if (mch_link_send(machine->link, MCH_HOSTS_MODULE, head->data, head->length, &body) != 0)
      mch_buf_free(&source);
  } else {
    mch_buf_free(&source);
    mch_machine_send(machine, MCH_HOSTS_MODULE, head->data, head->length);
  }
  mch_buf_free(&chunk);
  return 0;
}

static int pong(struct machine *machine, struct mch_reader_of *reader) {
  uint64_t sent = mch_take_u64(reader), now = mch_now();
  if (reader->bad || sent > now)
    return -1;
  machine->pong_due = 0;
  machine->trip = smooth(machine->trip, (double)(now - sent) + 1);
  return 0;
}

static int notice(struct machine *machine, struct mch_reader_of *reader) {
  char words[1501], text[2048];
  snprintf(words, sizeof words, "%.*s", (int)(reader->left < 1500 ? reader->left : 1500),
           (const char *)reader->at);
  snprintf(text, sizeof text, "machine %s: %s", machine->host->name, words);
  if (machine->state == LOADING) { /* it may be the reason why it leaves */
    free(machine->why);
    machine->why = strdup(words);
  }
  events_of(machine)->notice(events_of(machine)->ud, text);
  return 0;
}

static int gone(struct machine *machine) {
  char why[2048];
  if (machine->state == LEAVING) {
    mch_link_close(machine->link);
    return 0;
  }
  snprintf(why, sizeof why, "%s",
           machine->state == LOADING && machine->why != NULL ? machine->why : "it has left");
  mch_machine_lose(machine, why);
  return 0;
}

int mch_hhear_message(struct machine *machine, unsigned type, const unsigned char *bytes,
                      size_t length) {
  struct mch_reader_of reader = {bytes, length, 0};
  int is_up = machine->state == UP || machine->state == SUSPECT || machine->state == LEAVING;
  if (type != MCH_HOSTS_HELLO && type != MCH_HOSTS_NOTICE && type != MCH_HOSTS_START && !is_up &&
      machine->state != LOADING)
    return -1;
  switch (type) {
  case MCH_HOSTS_HELLO:
    return hello(machine, &reader);
  case MCH_HOSTS_START:
    return started(machine, &reader);
  case MCH_HOSTS_NEED:
    return need(machine, &reader);
  case MCH_HOSTS_FINISHED:
    return finished(machine, bytes, length);
  case MCH_HOSTS_ANSWERED:
    return answered(machine, bytes, length);
  case MCH_HOSTS_FAILED:
    return failed(machine, bytes, length);
  case MCH_HOSTS_OVER:
    return over(machine, &reader);
  case MCH_HOSTS_SPLIT:
    return split(machine, &reader);
  case MCH_HOSTS_RETURNED:
    return returned(machine, &reader);
  case MCH_HOSTS_LOG:
    if (length > 0 && bytes[0] == MCH_HOSTS_NO_RECORD)
      return -1;
    events_of(machine)->log(events_of(machine)->ud, bytes, length);
    return 0;
  case MCH_HOSTS_LINES:
    return lines(machine, &reader);
  case MCH_HOSTS_BAR_START:
    return bar_start(machine, &reader);
  case MCH_HOSTS_BAR_UPDATE:
    return bar_update(machine, &reader);
  case MCH_HOSTS_BAR_NAME:
    return bar_name(machine, &reader);
  case MCH_HOSTS_BAR_END:
    return bar_end(machine, &reader);
  case MCH_HOSTS_AHEAD:
    return ahead(machine, &reader);
  case MCH_HOSTS_EMITTED:
    return emitted(machine, &reader);
  case MCH_HOSTS_BEGAN:
    return began(machine, &reader);
  case MCH_HOSTS_WORKER:
    return worker(machine, &reader);
  case MCH_HOSTS_WORKERS:
    return workers(machine, &reader);
  case MCH_HOSTS_PONG:
    return pong(machine, &reader);
  case MCH_HOSTS_NOTICE:
    return notice(machine, &reader);
  case MCH_HOSTS_GONE:
    return gone(machine);
  default:
    return -1;
  }
}
