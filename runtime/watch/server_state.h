/* Runs in: parent.
 *
 * What the files of the server share: server.c (the socket and its viewers), server_tell.c (what
 * observers are told), server_look.c (what is looked up: snapshots, and what changes meanwhile).
 * Under the hub's lock unless said. */
#ifndef MCH_SERVER_STATE_H
#define MCH_SERVER_STATE_H

#include "lines.h"
#include "place.h"
#include "runtime/base/buf.h"
#include "runtime/base/platform.h"
#include "runtime/show/observe.h"
#include "server.h"

#define SECOND UINT64_C(1000000000)
#define TICK (SECOND / 4)

enum {
  MOST_VIEWERS = 16,
  MOST_WAITS = 1024 * 1024, /* bytes of lines for one viewer, besides a snapshot */
  MOST_ASKED = 4096,        /* bytes of a line of a viewer */
  TOLD_TASKS = 60,          /* of a pool in a tick: the others come as `many` */
  TOLD_FAILURES = 20,
  FEW = 50 /* workers, or bars: with more of them they are looked at once a second */
};

/* One who watches. */
struct viewer {
  struct viewer *next;
  int fd; /* of the serving thread, as are `asked` and the next four */
  struct mch_buf asked;
  int begun;       /* has got his first line */
  int pauses;      /* has asked for a pause */
  uint64_t looked; /* when his last snapshot was made */
  int gone;
  struct mch_buf out; /* what waits to be sent */
  size_t allowed;     /* bytes that may wait */
  size_t missed;      /* lines, since he was too slow; 0: none */
  uint64_t upto;      /* he has seen the pools up to this number */
  int sees_bars, is_ready;
  int broken; /* there was no memory for a line */
};

/* Lines for those who come later, the last ones. */
struct past {
  struct mch_buf lines;
  size_t most;
};

/* What was last said of a worker. */
struct worker_seen {
  int pid;
  uint64_t hash;    /* of the line */
  uint64_t cpu, at; /* nanoseconds used at that time */
  struct mch_usage usage;
};

/* What was said of a pool. */
struct pool_seen {
  struct pool_seen *next;
  uint64_t number;
  unsigned started_left, ended_left, failures_left;
  struct mch_many *many; /* by slot; [0]: of none */
  size_t slots;
  struct mch_buf tick;         /* the last one */
  struct worker_seen *workers; /* by slot, from 1 */
  size_t worker_room;
  unsigned nworkers;
};

/* What was last said of a running bar; in order of their keys. */
struct bar_seen {
  uint64_t key, done, total, running, failed, cancelled;
};

struct bars_seen {
  struct bar_seen *bars;
  size_t count, room;
};

struct mch_server {
  struct mch_observer observer;
  struct mch_output *output;
  struct mch_hub *hub;
  struct mch_mark mark;
  int listener;
  char path[MCH_PLACE_ROOM];
  struct mch_poller *poller;
  struct mch_script script;
  int left;                       /* the process ends */
  uint64_t next_tick, next_stats; /* of the serving thread */
  int hurries;                    /* a tick is due at once */
  uint64_t own_cpu, own_at;
  size_t workers, usage_turn; /* of all pools, in the last look */
  double workers_cpu;
  uint64_t workers_rss;
  struct viewer *viewers;
  size_t viewer_count;
  struct past failures, records, printed;
  struct pool_seen *pools;
  struct bars_seen bars, bars_before;
  struct mch_buf line; /* scratch */
};

/* -- server.c: to one viewer, or to all who see the pool with this number, bars, or the rest */

void mch_server_give(struct viewer *viewer, const struct mch_buf *line);
void mch_server_give_pool(struct mch_server *server, uint64_t number, const struct mch_buf *line);
void mch_server_give_bars(struct mch_server *server, const struct mch_buf *line);
void mch_server_give_all(struct mch_server *server, const struct mch_buf *line);

/* -- server_tell.c */

void mch_server_set_observer(struct mch_server *server);
struct pool_seen *mch_server_pool(struct mch_server *server, uint64_t number);
void mch_server_tell_many(struct mch_server *server, struct pool_seen *seen, uint64_t now);
void mch_server_free_pools(struct mch_server *server);
void mch_server_free_past(struct past *past);
/* Put the lines of the past at the end of `to`, each marked as past. */
void mch_server_put_past(struct mch_buf *to, const struct past *past);

/* -- server_look.c: without the lock */

void mch_server_snapshot(struct mch_server *server, struct viewer *viewer, uint64_t now);
void mch_server_last_look(void *ud, struct mch_pool *pool, uint64_t number);
void mch_server_tick(struct mch_server *server, uint64_t now);
void mch_server_stats(struct mch_server *server, uint64_t now);

#endif
