/* Runs in: parent.
 *
 * What a report is made of, gathered from what is told, in bounded memory: MCH_GATHER_ROWS slowest
 * tasks, MCH_GATHER_FAILURES reports, sums by function, and a timeline whose boxes are merged where
 * they are small when there are more than MCH_GATHER_BOXES. */
#ifndef MCH_GATHERING_H
#define MCH_GATHERING_H

#include <stddef.h>
#include <stdint.h>

#include "lanes.h"
#include "runtime/base/buf.h"
#include "runtime/wire/protocol.h"

struct mch_nested;
struct mch_told;

enum {
  MCH_GATHER_ROWS = 3000,
  MCH_GATHER_FAILURES = 300, /* the first ones and, half of them, the last ones */
  MCH_GATHER_BOXES = 20000,
  MCH_GATHER_GROUPS = 200,
  MCH_GATHER_DEATHS = 1000,
  MCH_GATHER_SAMPLES = 600,
  MCH_GATHER_WORKERS = 1024
};

struct mch_gather_box {
  uint64_t start, stop, busy; /* nanoseconds; `busy` of them in tasks */
  uint64_t runid;             /* of one task */
  uint32_t count;
  enum mch_kind kind; /* of many: that of a failed one, if there is one */
  char *name;         /* of one task; NULL: not known */
};

/* A task as a row of the table. */
struct mch_gather_row {
  uint64_t pool, runid, index, start, elapsed, waited, cpu, maxrss;
  size_t lane;
  unsigned attempt;
  enum mch_kind kind;
  char *name;
};

struct mch_gather_group {
  char *name; /* NULL: all others */
  uint64_t count, failed, sum, most;
};

struct mch_gather_failure {
  uint64_t number; /* counted from 1 */
  uint64_t pool, runid, at;
  enum mch_kind kind;
  char *name, *report;
};

struct mch_gather_death {
  uint64_t at;
  size_t lane;
  int worker;
  const char *why;
};

struct mch_gather_sample {
  uint64_t at, queued, running, script, workers;
};

struct mch_gathering {
  struct mch_lanes lanes;
  struct mch_gather_lane {
    struct mch_gather_box *boxes;
    size_t count, room;
    uint64_t from; /* when its first worker came */
  } * rows_of_boxes;
  size_t lane_room, boxes;
  uint64_t grain; /* boxes within so many nanoseconds were merged; 0: none was */
  struct mch_gather_row rows[MCH_GATHER_ROWS]; /* a heap: the fastest is the first */
  size_t row_count;
  struct mch_gather_group groups[MCH_GATHER_GROUPS + 1];
  size_t group_count;
  struct mch_gather_failure failures[MCH_GATHER_FAILURES];
  struct mch_gather_death deaths[MCH_GATHER_DEATHS];
  uint64_t death_count;
  struct mch_gather_sample samples[MCH_GATHER_SAMPLES];
  size_t sample_count;
  uint64_t sample_step;
  uint64_t ended[MCH_KIND_COUNT];
  uint64_t nested; /* tasks of pools inside of tasks that ran: in no sum but those by function */
  struct mch_gather_worker {
    int worker;
    size_t lane;
  } workers[MCH_GATHER_WORKERS]; /* the last ones, by the remainder of their numbers */
  uint64_t worker_count;
  uint64_t accepted, all_ended, timed, retried, failed, worked, waited, waits;
  struct mch_buf name, report, message, key; /* while taking something in */
};

/* Take in what was told. */
void mch_gather(struct mch_gathering *all, const struct mch_told *told);
/* What a worker's own pool has done. */
void mch_gather_nested(struct mch_gathering *all, struct mch_nested *task);
void mch_gather_pool_gone(struct mch_gathering *all, uint64_t pool);
/* How things stand at this time. */
void mch_gather_sample(struct mch_gathering *all, uint64_t now, uint64_t script, uint64_t workers);

/* Tasks that wait now. */
uint64_t mch_gather_queued(const struct mch_gathering *all);

void mch_gather_free(struct mch_gathering *all);

#endif
