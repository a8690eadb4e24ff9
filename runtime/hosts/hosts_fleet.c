/* Runs in: parent.
 *
 * A fleet: an entry of `hosts` that is no machine, but a list of those that come and go. Its link
 * leads to `mantichora-amqp list`; each machine that this names gets a link of its own, by
 * `mantichora-amqp connect`, and is one like any other then. */
#define _POSIX_C_SOURCE 200809L
#include "hosts_state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"

enum { JOIN = 1 }; /* as runtime/amqp/fleet.h has it: "ID SLOTS HOST" */

static void free_host(struct mch_host *host) {
  size_t i;
  if (host == NULL)
    return;
  for (i = 0; host->command != NULL && host->command[i] != NULL; i++)
    free(host->command[i]);
  free(host->command);
  free(host->name);
  free(host);
}

void mch_fleet_drop(struct machine *machine) {
  free_host(machine->own_host);
  machine->own_host = NULL;
}

/* The command that leads to this machine of the fleet. NULL: no memory. */
static struct mch_host *make_host(const struct mch_host *fleet, const char *id, unsigned slots,
                                  const char *name) {
  const char *words[4] = {fleet->command[0], "connect", fleet->command[2], id};
  struct mch_host *host = calloc(1, sizeof *host);
  size_t i;
  int failed;
  if (host == NULL)
    return NULL;
  host->slots = slots;
  host->environment = fleet->environment;
  host->name = strdup(name);
  host->command = calloc(5, sizeof *host->command);
  failed = host->name == NULL || host->command == NULL;
  for (i = 0; !failed && i < 4; i++)
    failed = (host->command[i] = strdup(words[i])) == NULL;
  if (!failed)
    return host;
  free_host(host);
  return NULL;
}

static struct machine *find(struct engine_hosts *engine, const struct mch_host *fleet,
                            const char *id) {
  size_t i;
  for (i = 0; i < engine->count; i++) {
    const struct mch_host *host = engine->machines[i].own_host;
    if (host != NULL && strcmp(host->command[3], id) == 0 &&
        strcmp(host->command[2], fleet->command[2]) == 0)
      return &engine->machines[i];
  }
  return NULL;
}

/* The place of one that is not used any more, or a new one. NULL: there are too many. */
static struct machine *make_place(struct engine_hosts *engine) {
  size_t i;
  for (i = 0; i < engine->count; i++) {
    struct machine *machine = &engine->machines[i];
    if (machine->own_host != NULL && machine->state == REFUSED && machine->outstanding == 0) {
      mch_machine_drop(machine);
      memset(machine, 0, sizeof *machine);
      return machine;
    }
  }
  return engine->count < engine->room ? &engine->machines[engine->count++] : NULL;
}

/* It is connected by the owner's next pump, since that forks. */
static void come(struct machine *machine) {
  machine->state = LOST;
  machine->losses = 0;
  machine->retry_at = mch_now();
}

static void join(struct machine *fleet, const char *id, unsigned slots, const char *name) {
  struct engine_hosts *engine = fleet->engine;
  struct machine *machine = find(engine, fleet->host, id);
  struct mch_host *host;
  if (machine != NULL) { /* the list was made anew */
    if (machine->state == REFUSED && machine->was_up)
      come(machine);
    return;
  }
  host = make_host(fleet->host, id, slots, name);
  machine = host == NULL ? NULL : make_place(engine);
  if (machine == NULL) {
    free_host(host);
    return;
  }
  machine->engine = engine;
  machine->own_host = host;
  machine->host = host;
  machine->fd = -1;
  come(machine);
}

/* 0, or -1: this is not what a list says. */
int mch_fleet_message(struct machine *fleet, unsigned type, const unsigned char *bytes,
                      size_t length) {
  char text[512], *slots, *name, *end;
  unsigned long count;
  if (type != JOIN) /* one that leaves is seen by its own link */
    return 0;
  if (length == 0 || length >= sizeof text)
    return -1;
  memcpy(text, bytes, length);
  text[length] = '\0';
  slots = strchr(text, ' ');
  name = slots == NULL ? NULL : strchr(slots + 1, ' ');
  if (name == NULL)
    return -1;
  *slots++ = *name++ = '\0';
  count = strtoul(slots, &end, 10);
  if (*end != '\0' || count == 0 || count > 4096 || *name == '\0' || text[0] == '\0' ||
      text[0] == '-')
    return -1;
  join(fleet, text, (unsigned)count, name);
  return 0;
}

/* A machine of it is up, or may come to be so. */
static int has_some(const struct machine *fleet) {
  const struct engine_hosts *engine = fleet->engine;
  size_t i;
  for (i = 0; i < engine->count; i++) {
    const struct mch_host *host = engine->machines[i].own_host;
    if (host != NULL && engine->machines[i].state != REFUSED &&
        strcmp(host->command[2], fleet->host->command[2]) == 0)
      return 1;
  }
  return 0;
}

/* When a fleet is given up in which nobody has answered, or nobody is left. */
uint64_t mch_fleet_deadline(const struct machine *fleet) {
  return fleet->up_since == 0 || has_some(fleet)
             ? MCH_NEVER
             : fleet->alone_since + fleet->engine->hosts->connect_timeout;
}

void mch_fleet_serve(struct machine *fleet) {
  if (has_some(fleet) || fleet->alone_since < fleet->up_since)
    fleet->alone_since = mch_now();
  if (fleet->link != NULL && mch_now() >= mch_fleet_deadline(fleet)) {
    const char *said = mch_link_said(fleet->link);
    mch_machine_refuse(fleet, "no machine of the fleet was there in time%s%s",
                       *said == '\0' ? "" : ": ", said);
  }
}
