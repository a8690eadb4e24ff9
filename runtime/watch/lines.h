/* Runs in: parent.
 *
 * The lines that viewers get (scripts/manual/watch.md): what was told, and what is, as JSON. Each
 * function appends one line. */
#ifndef MCH_LINES_H
#define MCH_LINES_H

#include <stdint.h>

#include "runtime/base/buf.h"
#include "runtime/engines/event.h"
#include "runtime/pool/pool.h"
#include "runtime/show/observe.h"
#include "runtime/show/render.h"

enum { MCH_WATCH_VERSION = 1 };

/* What the script is, for the first line. NULL: not known. */
struct mch_script {
  const char *name;
  const char *arguments; /* a JSON list */
  const char *version;   /* of this program */
};

void mch_lines_hello(struct mch_buf *to, const struct mch_script *script);
/* Without further fields. */
void mch_lines_plain(struct mch_buf *to, const char *event, uint64_t now);

/* STARTED, RETRIED, ENDED. Under the pool's lock. */
void mch_lines_event(struct mch_buf *to, const struct mch_told *told);

/* WORKER_ENDED. */
void mch_lines_gone(struct mch_buf *to, const struct mch_told *told);

void mch_lines_pool(struct mch_buf *to, const struct mch_pool_view *view, uint64_t now);
/* Without its clock, so that two can be compared, and without an end. */
void mch_lines_tick(struct mch_buf *to, const struct mch_pool_view *view);

/* What a worker uses now; rss 0: not known. */
struct mch_usage {
  double cpu;
  uint64_t rss;
};
void mch_lines_worker(struct mch_buf *to, const struct mch_pool_view *view,
                      const struct mch_worker_info *worker, const struct mch_usage *usage);

/* Tasks of one slot that were not told one by one. */
struct mch_many {
  uint64_t from, to, worked; /* nanoseconds */
  uint64_t kinds[MCH_KIND_COUNT];
};
void mch_lines_many(struct mch_buf *to, uint64_t pool, unsigned slot, const struct mch_many *many,
                    uint64_t now);

void mch_lines_bar(struct mch_buf *to, const struct mch_report *report, uint64_t now);
void mch_lines_log(struct mch_buf *to, const struct mch_log_record *record, uint64_t now);
void mch_lines_line(struct mch_buf *to, int stream, const char *text, size_t length, uint64_t now);

#endif
