/* Runs in: parent.
 *
 * A machine comes and goes: its link, its first words, its share of the pool's slots, its loss and
 * the attempts after it. hosts_state.h has a drawing of the states. */
#define _POSIX_C_SOURCE 200809L
#include "hosts_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"

enum { MOST_ATTEMPTS = 5, AT_ONCE = 64 * 1024 * 1024, MOST_MESSAGES = 20000 };
static const uint64_t first_pause = 1000000000u;
static const uint64_t settled = 60000000000u; /* up for so long: its losses are forgotten */
static const uint64_t ping_often = 20000000u; /* until a trip is known */
static const uint64_t ping_seldom = 1000000000u;
static const uint64_t quit_patience = 5000000000u;

int mch_machine_is_open(const struct machine *machine) {
  return machine->link != NULL && (machine->state == UP || machine->state == SUSPECT);
}

void mch_machine_send(struct machine *machine, unsigned type, const void *bytes, size_t length) {
  if (machine->link != NULL &&
      mch_link_send(machine->link, (unsigned char)type, bytes, length, NULL) != 0)
    mch_machine_broken(machine, "there is not enough memory for a message");
}

static void note_why(struct machine *machine, const char *why) {
  free(machine->why);
  machine->why = strdup(why);
}

/* Its link follows the poller's descriptor. */
static void unwatch(struct machine *machine) {
  if (machine->fd >= 0)
    mch_poller_remove(machine->engine->base.poller, machine->fd);
  machine->fd = -1;
}

static void drop_link(struct machine *machine) {
  unwatch(machine);
  mch_link_free(machine->link);
  machine->link = NULL;
  mch_hslots_release(machine);
}

/* -- slots -------------------------------------------------------------------------------- */

static unsigned own_slots(const struct machine *machine) {
  return machine->host->slots != 0 ? machine->host->slots : machine->cpus;
}

static int counts(const struct machine *machine) {
  return machine->link != NULL && machine->cpus != 0 &&
         (machine->state == LOADING || machine->state == UP || machine->state == SUSPECT);
}

/* The pool's slots go round the machines that are there. */
void mch_machine_allot(struct engine_hosts *engine) {
  unsigned left = engine->wanted != 0 ? engine->wanted : UINT32_MAX, given = 1;
  size_t i;
  for (i = 0; i < engine->count; i++)
    engine->machines[i].share = 0;
  while (left > 0 && given > 0) {
    given = 0;
    for (i = 0; i < engine->count && left > 0; i++) {
      struct machine *machine = &engine->machines[i];
      if (!counts(machine) || machine->share >= own_slots(machine))
        continue;
      machine->share++;
      given++;
      left--;
    }
  }
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    unsigned char bytes[9];
    if (!mch_machine_is_open(machine) || machine->share == machine->told_share)
      continue;
    machine->told_share = machine->share;
    mch_store_u32(bytes, (uint32_t)engine->log_level);
    bytes[4] = (unsigned char)engine->listening;
    mch_store_u32(bytes + 5, machine->share);
    mch_machine_send(machine, MCH_HOSTS_LEVEL, bytes, sizeof bytes);
  }
}

/* -- coming ------------------------------------------------------------------------------- */

void mch_machine_connect(struct machine *machine) {
  struct mch_link_config config = {machine->host->command, machine->host->environment,
                                   machine->engine->hosts->lease,
                                   machine->engine->hosts->connect_timeout};
  struct mch_error error;
  machine->state = CONNECTING;
  machine->last_ticket = 0;
  machine->cpus = 0;
  machine->run_time = machine->trip = 0;
  machine->pinged = 0;
  machine->pong_due = 0;
  machine->heard_owed = 0;
  free(machine->codes);
  machine->codes = NULL;
  machine->code_room = 0;
  mch_kept_clear(&machine->kept);
  machine->deaf = 0;
  machine->link = mch_link_start(&config, &error);
  if (machine->link == NULL) {
    mch_machine_lose(machine, error.text);
    return;
  }
  machine->fd = mch_link_fd(machine->link);
  if (machine->fd >= 0 && mch_poller_add(machine->engine->base.poller, machine->fd, machine) != 0) {
    machine->fd = -1;
    mch_machine_lose(machine, "it cannot be listened to");
  }
}

/* It will not be tried again. */
void mch_machine_refuse(struct machine *machine, const char *format, ...) {
  char text[4096 + 512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  note_why(machine, text);
  drop_link(machine);
  machine->state = REFUSED;
  mch_machine_allot(machine->engine);
  if (!machine->engine->quitting) {
    char notice[4096 + 1024];
    snprintf(notice, sizeof notice, "machine %s is not used: %s", machine->host->name, text);
    machine->engine->config.events.notice(machine->engine->config.events.ud, notice);
  }
}

static void forget_workers(struct machine *machine, const char *why) {
  const struct mch_events *events = &machine->engine->config.events;
  size_t i;
  for (i = 0; machine->engine->listening && i < machine->worker_count; i++)
    events->worker(events->ud, machine->workers[i].pid, machine->workers[i].slot,
                   machine->host->name, why);
  machine->worker_count = 0;
}

void mch_machine_lose(struct machine *machine, const char *why) {
  struct engine_hosts *engine = machine->engine;
  char text[4096 + 512];
  snprintf(text, sizeof text, "%s", why);
  if (!machine->was_up && machine->state != LEAVING) {
    mch_machine_refuse(machine, "%s", text);
    return;
  }
  note_why(machine, text);
  drop_link(machine);
  mch_hhear_end_bars(machine, MCH_BAR_KILLED);
  forget_workers(machine, machine->state == LEAVING ? "closed" : "killed");
  if (machine->state == LEAVING || engine->quitting) {
    machine->state = AWAY;
    mch_hfeed_fail_all(machine, why);
    return;
  }
  if (machine->up_since != 0 && mch_now() - machine->up_since > settled)
    machine->losses = 0;
  machine->up_since = 0;
  machine->state = LOST;
  machine->retry_at = mch_now() + (first_pause << (machine->losses < 5 ? machine->losses : 5));
  machine->losses++;
  mch_hfeed_fail_all(machine, why);
  mch_machine_allot(engine);
  if (machine->losses > MOST_ATTEMPTS)
    mch_machine_refuse(machine, "it was lost: %s", text);
  else {
    char notice[4096 + 1024];
    snprintf(notice, sizeof notice, "machine %s was lost: %s", machine->host->name, text);
    engine->config.events.notice(engine->config.events.ud, notice);
  }
}

/* It says what it may not. */
void mch_machine_broken(struct machine *machine, const char *what) {
  char text[256];
  snprintf(text, sizeof text, "it broke the protocol: %s", what);
  mch_machine_lose(machine, text);
}

/* -- going -------------------------------------------------------------------------------- */

void mch_machine_quit(struct machine *machine, int kill) {
  unsigned char how = (unsigned char)kill;
  switch (machine->state) {
  case UP:
  case SUSPECT:
  case LOADING:
    machine->state = LEAVING;
    machine->quit_at = mch_now() + quit_patience;
    mch_machine_send(machine, MCH_HOSTS_QUIT, &how, 1);
    if (machine->link != NULL)
      mch_link_flush(machine->link);
    break;
  case LEAVING:
    if (kill) {
      mch_machine_send(machine, MCH_HOSTS_QUIT, &how, 1);
      if (machine->link != NULL)
        mch_link_flush(machine->link);
    }
    break;
  case CONNECTING:
    drop_link(machine);
    machine->state = AWAY;
    break;
  case LOST:
    machine->state = AWAY;
    break;
  default:
    break;
  }
}

/* The engine is freed: what is left goes at once. */
void mch_machine_drop(struct machine *machine) {
  uint32_t i;
  mch_hhear_end_bars(machine, MCH_BAR_CANCELLED);
  drop_link(machine);
  for (i = 0; i < MCH_HOSTS_PLACES; i++)
    free(machine->held[i]);
  free(machine->codes);
  mch_kept_clear(&machine->kept);
  free(machine->why);
  free(machine->bars);
  free(machine->bar_keys);
  free(machine->bar_runids);
  free(machine->workers);
  free(machine->slots);
  mch_fleet_drop(machine);
}

/* -- serving ------------------------------------------------------------------------------ */

static void ping(struct machine *machine, uint64_t now) {
  unsigned char bytes[8];
  uint64_t pause = machine->trip > 0 ? ping_seldom : ping_often;
  if (machine->state != UP || machine->pong_due || now < machine->pinged + pause)
    return;
  machine->pinged = now;
  machine->pong_due = 1;
  mch_store_u64(bytes, now);
  mch_machine_send(machine, MCH_HOSTS_PING, bytes, sizeof bytes);
}

int mch_machine_is_due(const struct machine *machine) {
  return machine->state == LOST && !machine->engine->quitting && mch_now() >= machine->retry_at;
}

/* What the link has to say. Whether there may be more. */
static int serve_event(struct machine *machine, size_t *taken) {
  struct mch_link_event event;
  switch (mch_link_next(machine->link, &event)) {
  case MCH_LINK_MESSAGE:
    *taken += event.length + 32;
    if ((machine->host->is_fleet
             ? mch_fleet_message(machine, event.type, event.bytes, event.length)
             : mch_hhear_message(machine, event.type, event.bytes, event.length)) != 0 &&
        machine->link != NULL)
      mch_machine_broken(machine, "a message is not what it should be");
    return machine->link != NULL;
  case MCH_LINK_SUSPECT:
    if (machine->state == UP)
      machine->state = SUSPECT;
    if (event.ended) {
      unwatch(machine);
      machine->deaf = 1;
      mch_hfeed_take_back_all(machine);
    }
    return 1;
  case MCH_LINK_AGAIN:
    if (machine->state == SUSPECT)
      machine->state = UP;
    return 1;
  case MCH_LINK_LOST:
    mch_machine_lose(machine, event.text);
    return 0;
  case MCH_LINK_UP:
    if (machine->host->is_fleet) { /* it stays CONNECTING, and has no slots */
      machine->was_up = 1;
      machine->up_since = mch_now();
    }
    return 1;
  case MCH_LINK_SLOTS:
    return 1;
  default:
    return 0;
  }
}

void mch_machine_serve(struct machine *machine) {
  uint64_t now = mch_now();
  size_t taken = 0, count = 0;
  while (machine->link != NULL && taken < AT_ONCE && count++ < MOST_MESSAGES &&
         serve_event(machine, &taken))
    ;
  if (machine->host->is_fleet)
    mch_fleet_serve(machine);
  if (machine->link == NULL || machine->host->is_fleet)
    return;
  if (machine->state == LEAVING && now >= machine->quit_at) {
    mch_machine_lose(machine, "it did not leave in time");
    return;
  }
  ping(machine, now);
  if (machine->link == NULL)
    return;
  mch_hfeed_ask_back(machine);
  mch_hfeed_grant(machine);
}

uint64_t mch_machine_deadline(const struct machine *machine) {
  uint64_t due = MCH_NEVER;
  if (machine->link == NULL)
    return machine->state == LOST && !machine->engine->quitting ? machine->retry_at : MCH_NEVER;
  due = mch_link_deadline(machine->link);
  if (machine->host->is_fleet)
    return mch_sooner(due, mch_fleet_deadline(machine));
  due = mch_sooner(due, mch_hfeed_ask_at(machine));
  if (machine->state == LEAVING)
    due = mch_sooner(due, machine->quit_at);
  if (machine->state == UP && !machine->pong_due && machine->outstanding > 0)
    due = mch_sooner(due, machine->pinged + (machine->trip > 0 ? ping_seldom : ping_often));
  return due;
}
