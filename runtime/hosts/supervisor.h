/* Runs in: a supervisor, the program `mantichora worker --stdio`.
 *
 * A machine's end of the engine for many machines: an ordinary fork engine, fed by a link. It runs
 * no task code itself, and knows no Lua: what workers do with a task is its maker's business. */
#ifndef MCH_HOSTS_SUPERVISOR_H
#define MCH_HOSTS_SUPERVISOR_H

#include "runtime/engines/engine.h"
#include "runtime/links/link.h"
#include "wire.h"

struct mch_supervisor;

struct mch_supervisor_config {
  struct mch_link *link;               /* the supervisor's from now on */
  struct mch_output *output;           /* of the workers' state */
  const char *program, *format, *host; /* what it says of itself */
  unsigned slots;                      /* of this machine; 0: its CPUs */
  /* Make ready for workers: fill in the engine's configuration, but for its events. Once. 0;
   * MCH_FULL: it works, and the pool is told what `error` says; or another code. */
  int (*configure)(void *ud, const struct mch_hosts_config *config,
                   struct mch_engine_config *engine, struct mch_error *error);
  /* Keep these bytes by that id, where they stay until nothing (0 bytes) is to be kept by it. 0, or
   * -1. */
  int (*put_code)(void *ud, uint32_t id, const void *bytes, size_t length);
  const void *(*get_code)(void *ud, uint32_t id, size_t *length);
  void *ud;
  int asks; /* a datagram socket by which workers ask for modules; -1: none */
};

/* Serve until the pool lets go, or the link is lost; the exit status. */
int mch_supervisor_run(const struct mch_supervisor_config *config);

#endif
