/* Runs in: parent.
 *
 * The engine for many machines, as its pool's maker describes them. On each of them a supervisor
 * (supervisor.h) owns an ordinary fork engine; wire.h has what goes between. */
#ifndef MCH_HOSTS_H
#define MCH_HOSTS_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"
#include "runtime/engines/engine.h"

/* A machine: a command whose stdin and stdout lead to a supervisor. */
struct mch_host {
  char *name;         /* as failures and events have it */
  char **command;     /* words, NULL-terminated */
  unsigned slots;     /* 0: its CPUs */
  int is_fleet;       /* it is a list of machines that come and go (RabbitMQ) */
  char **environment; /* more of it for the command, "NAME=value", NULL-terminated; or NULL */
};

/* What a module's name leads to. */
enum mch_module_kind {
  MCH_MODULE_NONE,   /* not here: look on your own machine */
  MCH_MODULE_SOURCE, /* Lua source, or a precompiled chunk */
  MCH_MODULE_GRAPH   /* a function of package.preload */
};

/* The Lua modules of the script, asked for by name. Both are called under the pool's lock. */
struct mch_library {
  void *ud;
  /* Fill in the chunk's name and the source. */
  enum mch_module_kind (*find)(void *ud, const char *name, size_t length, struct mch_buf *chunk,
                               struct mch_buf *source);
};

struct mch_shelf;

/* All that is the same for all machines. Owned by the pool's maker, and lasts longer than the pool.
 */
struct mch_hosts {
  struct mch_host *hosts;
  size_t count;
  uint64_t lease, connect_timeout;
  uint64_t seed, limit_memory, min_free_memory;
  int keep_gc;
  const char *program;   /* mantichora's version */
  struct mch_buf format; /* what a machine must say of its Lua and graphs: see lformat.h */
  struct mch_buf cwd, environment, setup;
  int cwd_chosen, has_init, has_fini;
  struct mch_library library;
  /* The maker's own: */
  struct mch_shelf *shelf;
  struct mch_buf scratch, ids, left, trailer, setup_ids, additions_ids;
  struct mch_buf told; /* names of globals that were told not to be sent, each with a zero */
  int prepared;
  int sent_ref, groups_ref, watched_ref, names_ref;
  uint64_t additions_stamps[8]; /* of each table there */
  uint32_t last_of_setup;       /* code that the setup needs, and all before, stays */
  uint32_t additions;           /* group of functions in the standard library; 0: as in the setup */
  int only_loaded;              /* modules that the script has not loaded are not served */
  uint64_t preload_stamp;
  const void *path_seen; /* the string that package.path was, which path_ref keeps */
  int path_ref;
};

void mch_hosts_free(struct mch_hosts *hosts);

mch_engine_maker mch_engine_hosts_new;

/* Slots of the machines that are up; of all that say how many they have, before. */
unsigned mch_engine_hosts_slots(const struct mch_engine *engine);

#endif
