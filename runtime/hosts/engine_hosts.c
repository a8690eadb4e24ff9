/* Runs in: parent.
 *
 * The engine for many machines: its table of functions and its pump. hosts_state.h has a drawing of
 * a machine's states, hosts_machine.c their changes; hosts_feed.c who gets which task; hosts_hear.c
 * what a supervisor says. */
#define _POSIX_C_SOURCE 200809L
#include "hosts_state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/show/output.h"
#include "library.h"

enum { FLEET_ROOM = 500 }; /* machines of fleets; an array, since others point into it */
static const uint64_t burst_gap = 100000u; /* a message wakes several processes on its way */

static int start(struct mch_engine *base, struct mch_error *error) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t i;
  (void)error;
  engine->quitting = 0;
  if (engine->first_start == 0)
    engine->first_start = mch_now();
  for (i = 0; i < engine->count; i++)
    if (engine->machines[i].state == IDLE || engine->machines[i].state == AWAY)
      mch_machine_connect(&engine->machines[i]);
  engine->started = 1;
  return 0;
}

/* -- tasks for which there is no machine left --------------------------------------------- */

/* Why each of them is none. The caller frees it. */
static char *sentences(const struct engine_hosts *engine) {
  struct mch_buf text = {0};
  size_t i;
  for (i = 0; i < engine->count; i++) {
    const struct machine *machine = &engine->machines[i];
    const char *why = machine->why != NULL ? machine->why : "it has gone";
    if (i > 0)
      mch_buf_append(&text, "; ", 2);
    mch_buf_append(&text, machine->host->name, strlen(machine->host->name));
    mch_buf_append(&text, ": ", 2);
    mch_buf_append(&text, why, strlen(why));
  }
  mch_buf_u8(&text, 0);
  if (text.failed == 0)
    return (char *)text.data;
  mch_buf_free(&text);
  return NULL;
}

static struct mch_result *no_machine(const char *why) {
  char text[4096 + 64];
  struct mch_result *result;
  size_t length;
  strcpy(text, "no machine is left: ");
  length = strlen(text);
  strncpy(text + length, why != NULL ? why : "", sizeof text - length - 1);
  text[sizeof text - 1] = '\0';
  result = mch_result_new(MCH_KIND_KILLED, text, NULL, 0);
  if (result != NULL)
    result->whole = 1;
  return result;
}

static void end_doomed(struct engine_hosts *engine) {
  const struct mch_events *events = &engine->config.events;
  char *why;
  size_t i;
  if (engine->doomed_count == 0)
    return;
  why = sentences(engine);
  for (i = 0; i < engine->doomed_count; i++) {
    struct mch_task *task = engine->doomed[i];
    task->holder = NULL;
    if (task->batch == NULL) {
      events->finished(events->ud, task, no_machine(why));
      continue;
    }
    while (task->batch->answered < task->batch->count)
      events->failed(events->ud, task, no_machine(why));
    events->batch_over(events->ud, task, 0);
  }
  engine->doomed_count = 0;
  free(why);
}

/* -- the pump ----------------------------------------------------------------------------- */

static void collect_ready(struct engine_hosts *engine) {
  struct mch_ready ready[64];
  mch_poller_wait(engine->base.poller, ready, 64, 0, NULL);
}

static void pump(struct mch_engine *base, int owner, size_t queued) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t i;
  (void)owner;
  engine->queued = queued;
  engine->now = mch_now();
  collect_ready(engine);
  for (i = 0; i < engine->count; i++)
    mch_machine_serve(&engine->machines[i]);
  end_doomed(engine);
  engine->halve_at = MCH_NEVER;
  if (queued == 0)
    mch_hfeed_steal(engine);
}

static void flush_all(struct mch_engine *base) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t i;
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    if (machine->link == NULL)
      continue;
    for (; machine->heard_owed > 0; machine->heard_owed--)
      mch_machine_send(machine, MCH_HOSTS_HEARD, NULL, 0);
    if (mch_link_queued(machine->link) > 0)
      mch_link_flush(machine->link);
  }
}

static uint64_t deadline(struct mch_engine *base) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  uint64_t soonest = engine->doomed_count > 0 ? 0 : engine->halve_at;
  size_t i;
  for (i = 0; i < engine->count; i++)
    soonest = mch_sooner(soonest, mch_machine_deadline(&engine->machines[i]));
  return soonest;
}

static int wants_tasks(struct mch_engine *base) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  size_t i;
  for (i = 0; i < engine->count; i++)
    if (mch_hfeed_has_room(&engine->machines[i]))
      return 1;
  return 0;
}

/* A lost machine is to be tried again, which is the owner's to do: it forks. */
static int short_of_workers(struct mch_engine *base, size_t queued) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  size_t i;
  (void)queued;
  for (i = 0; i < engine->count; i++)
    if (mch_machine_is_due(&engine->machines[i]))
      return 1;
  return 0;
}

static int add(struct mch_engine *base, size_t queued, struct mch_error *error) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t i;
  (void)queued;
  (void)error;
  for (i = 0; i < engine->count; i++)
    if (mch_machine_is_due(&engine->machines[i]))
      mch_machine_connect(&engine->machines[i]);
  return 0;
}

static void resize(struct mch_engine *base, unsigned nworkers) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  engine->wanted = nworkers;
  mch_machine_allot(engine);
}

static int could_start(struct mch_engine *base, int owner) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  size_t i;
  (void)owner;
  for (i = 0; i < engine->count; i++)
    if (engine->machines[i].state == UP &&
        engine->machines[i].outstanding < engine->machines[i].share)
      return 1;
  return 0;
}

/* -- what is known ------------------------------------------------------------------------ */

/* Whether a task of the group has this run ID on the machine. */
static int is_of_group(const struct machine *machine, uint64_t runid,
                       const struct mch_group *group) {
  const struct mch_task *task = mch_hhear_task_with(machine, runid);
  return task != NULL && task->group == group;
}

/* As the machines have told last. */
static unsigned running(struct mch_engine *base, const struct mch_group *group, unsigned *others) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  unsigned count = 0, not_begun = 0;
  size_t i, k;
  for (i = 0; i < engine->count; i++) {
    const struct machine *machine = &engine->machines[i];
    unsigned busy = 0;
    for (k = 0; k < machine->worker_count && busy < machine->granted; k++) {
      const struct mch_worker_info *info = &machine->workers[k];
      if (!info->busy)
        continue;
      busy++;
      count += group == NULL || is_of_group(machine, info->runid, group);
    }
    not_begun +=
        machine->outstanding > busy && busy < machine->share
            ? (machine->outstanding - busy < machine->share - busy ? machine->outstanding - busy
                                                                   : machine->share - busy)
            : 0;
  }
  if (others != NULL)
    *others = not_begun;
  return count;
}

static int by_slot(const void *one, const void *other) {
  unsigned a = ((const struct mch_worker_info *)one)->slot;
  unsigned b = ((const struct mch_worker_info *)other)->slot;
  return (a > b) - (a < b);
}

static size_t workers(struct mch_engine *base, struct mch_worker_info *infos, size_t room) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  size_t count = 0, i, k;
  for (i = 0; i < engine->count; i++)
    for (k = 0; k < engine->machines[i].worker_count && count < room; k++)
      infos[count++] = engine->machines[i].workers[k];
  qsort(infos, count, sizeof *infos, by_slot);
  return count;
}

static void tell_level(struct engine_hosts *engine) {
  size_t i;
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    unsigned char bytes[9];
    if (!mch_machine_is_open(machine))
      continue;
    mch_store_u32(bytes, (uint32_t)engine->log_level);
    bytes[4] = (unsigned char)engine->listening;
    mch_store_u32(bytes + 5, machine->share);
    mch_machine_send(machine, MCH_HOSTS_LEVEL, bytes, sizeof bytes);
  }
}

static void log_threshold(struct mch_engine *base, int level) {
  ((struct engine_hosts *)base)->log_level = level;
  tell_level((struct engine_hosts *)base);
}

static void set_listening(struct mch_engine *base, int on) {
  ((struct engine_hosts *)base)->listening = on;
  tell_level((struct engine_hosts *)base);
}

/* A source is the number of a machine and a process there. */
static void accept_emitted(struct mch_engine *base, int source, size_t bytes) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t which = (size_t)(unsigned)source >> 22;
  unsigned char body[12];
  if (which >= engine->count || !mch_machine_is_open(&engine->machines[which]))
    return;
  mch_store_u32(body, (uint32_t)source & 0x3fffff);
  mch_store_u64(body + 4, bytes);
  mch_machine_send(&engine->machines[which], MCH_HOSTS_ACCEPT, body, sizeof body);
}

/* One slot stands for all of a machine. */
static size_t work(struct mch_engine *base, uint64_t *worked, size_t room, uint64_t *since) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  unsigned slots = mch_engine_hosts_slots(base);
  size_t i;
  *since = engine->first_start;
  if (slots > room)
    slots = (unsigned)room;
  for (i = 0; i < slots; i++)
    worked[i] = engine->worked / slots;
  return slots;
}

unsigned mch_engine_hosts_slots(const struct mch_engine *base) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  unsigned all = 0, up = 0;
  size_t i;
  for (i = 0; i < engine->count; i++) {
    const struct machine *machine = &engine->machines[i];
    unsigned own = machine->host->slots != 0 ? machine->host->slots : machine->cpus;
    all += own;
    up += mch_machine_is_open(machine) ? machine->share : 0;
  }
  if (up == 0)
    up = all != 0 ? all : 1;
  return engine->wanted != 0 && engine->wanted < up ? engine->wanted : up;
}

/* -- the end ------------------------------------------------------------------------------ */

static void quit(struct mch_engine *base, int kill) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t i;
  engine->quitting = 1;
  for (i = 0; i < engine->count; i++)
    mch_machine_quit(&engine->machines[i], kill);
}

static int gone(struct mch_engine *base) {
  const struct engine_hosts *engine = (const struct engine_hosts *)base;
  size_t i;
  for (i = 0; i < engine->count; i++)
    if (engine->machines[i].link != NULL)
      return 0;
  return 1;
}

static void free_engine(struct mch_engine *base) {
  struct engine_hosts *engine = (struct engine_hosts *)base;
  size_t i;
  for (i = 0; i < engine->count; i++)
    mch_machine_drop(&engine->machines[i]);
  mch_output_unref(engine->config.output);
  mch_poller_free(base->poller);
  mch_buf_free(&engine->scratch);
  free(engine->doomed);
  free(engine->machines);
  free(engine->taken);
  free(engine);
}

static const struct mch_engine_ops ops = {start,
                                          mch_hfeed_submit,
                                          mch_hfeed_stop,
                                          mch_hfeed_reclaim,
                                          mch_hfeed_shorten,
                                          mch_hfeed_stop_item,
                                          mch_hfeed_recall,
                                          mch_hfeed_forget_code,
                                          flush_all,
                                          pump,
                                          wants_tasks,
                                          short_of_workers,
                                          add,
                                          resize,
                                          mch_hfeed_withdraw,
                                          could_start,
                                          deadline,
                                          running,
                                          workers,
                                          log_threshold,
                                          set_listening,
                                          accept_emitted,
                                          work,
                                          quit,
                                          gone,
                                          free_engine};

struct mch_engine *mch_engine_hosts_new(const struct mch_engine_config *config,
                                        struct mch_error *error) {
  struct engine_hosts *engine = calloc(1, sizeof *engine);
  size_t i, room = config->hosts->count;
  for (i = 0; i < config->hosts->count && room == config->hosts->count; i++)
    room += config->hosts->hosts[i].is_fleet ? FLEET_ROOM : 0;
  if (engine != NULL)
    engine->machines = calloc(room, sizeof *engine->machines);
  if (engine == NULL || engine->machines == NULL) {
    free(engine);
    mch_error_set(error, MCH_NOMEM, "not enough memory for a pool");
    return NULL;
  }
  engine->halve_at = MCH_NEVER;
  engine->base.ops = &ops;
  engine->base.burst_gap = burst_gap;
  engine->base.poller = mch_poller_new(error);
  if (engine->base.poller == NULL) {
    free(engine->machines);
    free(engine);
    return NULL;
  }
  engine->config = *config;
  engine->hosts = config->hosts;
  engine->count = config->hosts->count;
  engine->room = room;
  engine->wanted = config->nworkers;
  engine->log_level = config->log_level;
  for (i = 0; i < engine->count; i++) {
    engine->machines[i].engine = engine;
    engine->machines[i].host = &config->hosts->hosts[i];
    engine->machines[i].fd = -1;
  }
  mch_output_ref(config->output);
  return &engine->base;
}

void mch_hosts_free(struct mch_hosts *hosts) {
  size_t i;
  if (hosts == NULL)
    return;
  for (i = 0; i < hosts->count; i++) {
    char **word = hosts->hosts[i].command;
    for (; word != NULL && *word != NULL; word++)
      free(*word);
    free(hosts->hosts[i].command);
    for (word = hosts->hosts[i].environment; word != NULL && *word != NULL; word++)
      free(*word);
    free(hosts->hosts[i].environment);
    free(hosts->hosts[i].name);
  }
  free(hosts->hosts);
  mch_buf_free(&hosts->format);
  mch_buf_free(&hosts->cwd);
  mch_buf_free(&hosts->environment);
  mch_buf_free(&hosts->setup);
  mch_buf_free(&hosts->scratch);
  mch_buf_free(&hosts->ids);
  mch_buf_free(&hosts->left);
  mch_buf_free(&hosts->trailer);
  mch_buf_free(&hosts->setup_ids);
  mch_buf_free(&hosts->additions_ids);
  mch_buf_free(&hosts->told);
  mch_shelf_free(hosts->shelf);
  free(hosts);
}
