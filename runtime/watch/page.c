/* Runs in: parent. Purpose: page.h.
 *
 * Lists are arrays without keys: a report may have tens of thousands of boxes. Times are seconds
 * since the run began. */
#include "page.h"

#include <string.h>

#include "runtime/engines/event.h"
#include "runtime/show/jsontext.h"

static void put(struct mch_buf *to, const char *text) {
  mch_jsontext_put(to, text);
}

/* -- items of a list: each begins with a comma unless it is the first ------------------------ */

static void next(struct mch_buf *to) {
  if (to->length > 0 && to->data[to->length - 1] != '[')
    mch_buf_u8(to, ',');
}

static void put_count(struct mch_buf *to, uint64_t count) {
  next(to);
  if (count == MCH_UNMEASURED)
    put(to, "null");
  else
    mch_jsontext_count(to, count);
}

static void put_seconds(struct mch_buf *to, uint64_t nanoseconds) {
  next(to);
  if (nanoseconds == MCH_UNMEASURED)
    put(to, "null");
  else
    mch_jsontext_fixed(to, nanoseconds, 9);
}

/* A time since the run began; not before it. */
static void put_time(struct mch_buf *to, const struct mch_page_run *run, uint64_t at) {
  put_seconds(to, at > run->started ? at - run->started : 0);
}

static void put_text(struct mch_buf *to, const char *text) {
  next(to);
  if (text == NULL)
    put(to, "null");
  else
    mch_jsontext_string(to, text, strlen(text));
}

static void put_kind(struct mch_buf *to, enum mch_kind kind) {
  put_text(to, mch_kind_word(kind));
}

static void open_list(struct mch_buf *to) {
  next(to);
  mch_buf_u8(to, '[');
}

static void close_list(struct mch_buf *to) {
  mch_buf_u8(to, ']');
}

/* -- fields of the object --------------------------------------------------------------------- */

static void key(struct mch_buf *to, const char *name) {
  if (to->data[to->length - 1] != '{')
    mch_buf_u8(to, ',');
  mch_buf_u8(to, '"');
  put(to, name);
  put(to, "\":");
}

static void field_count(struct mch_buf *to, const char *name, uint64_t count) {
  key(to, name);
  mch_jsontext_count(to, count);
}

static void field_seconds(struct mch_buf *to, const char *name, uint64_t nanoseconds) {
  key(to, name);
  mch_jsontext_fixed(to, nanoseconds, 9);
}

static void field_text(struct mch_buf *to, const char *name, const char *text) {
  key(to, name);
  mch_jsontext_string(to, text, strlen(text));
}

static void field_list(struct mch_buf *to, const char *name) {
  key(to, name);
  mch_buf_u8(to, '[');
}

static void put_run(struct mch_buf *to, const struct mch_page_run *run) {
  field_text(to, "script", run->script);
  field_text(to, "version", run->version);
  field_count(to, "pid", (uint64_t)run->pid);
  key(to, "over");
  put(to, run->over ? "true" : "false");
  key(to, "begin");
  mch_jsontext_fixed(to, (uint64_t)(run->begin * 1000 + 0.5), 3);
  key(to, "written");
  mch_jsontext_fixed(to, (uint64_t)(run->written * 1000 + 0.5), 3);
  field_seconds(to, "now", run->now > run->started ? run->now - run->started : 0);
}

static void put_sums(struct mch_buf *to, const struct mch_gathering *all) {
  unsigned kind;
  key(to, "counts");
  mch_buf_u8(to, '{');
  for (kind = 0; kind < MCH_KIND_COUNT; kind++)
    field_count(to, mch_kind_word((enum mch_kind)kind), all->ended[kind]);
  mch_buf_u8(to, '}');
  field_count(to, "accepted", all->accepted);
  field_count(to, "retried", all->retried);
  field_count(to, "running", all->lanes.running);
  field_count(to, "queued", mch_gather_queued(all));
  field_count(to, "nested", all->nested);
  field_count(to, "timed", all->timed);
  field_seconds(to, "worked", all->worked);
  field_count(to, "waits", all->waits);
  field_seconds(to, "waited", all->waited);
}

/* [name, from, worked, 1: of a pool inside of a task] */
static void put_lanes(struct mch_buf *to, const struct mch_gathering *all,
                      const struct mch_page_run *run) {
  size_t i;
  field_list(to, "lanes");
  for (i = 0; i < all->lanes.count; i++) {
    const struct mch_lane *lane = &all->lanes.lanes[i];
    open_list(to);
    put_text(to, lane->name);
    put_time(to, run, i < all->lane_room ? all->rows_of_boxes[i].from : 0);
    put_seconds(to, lane->worked);
    put_count(to, (uint64_t)lane->nested);
    close_list(to);
  }
  close_list(to);
}

/* [lane, start, length, kind, name, run ID] or [lane, start, length, kind, null, null, count, busy]
 */
static void put_box(struct mch_buf *to, const struct mch_gather_box *box, size_t lane,
                    const struct mch_page_run *run) {
  open_list(to);
  put_count(to, lane);
  put_time(to, run, box->start);
  put_seconds(to, box->stop - box->start);
  put_kind(to, box->kind);
  if (box->count > 1) {
    put(to, ",null,null");
    put_count(to, box->count);
    put_seconds(to, box->busy);
  } else {
    put_text(to, box->name);
    put_count(to, box->runid);
  }
  close_list(to);
}

/* What runs now is a box without an end. */
static void put_running(struct mch_buf *to, const struct mch_lane *lane, size_t number,
                        const struct mch_page_run *run) {
  open_list(to);
  put_count(to, number);
  put_time(to, run, lane->started);
  put(to, ",null,\"running\",null");
  put_count(to, lane->runid);
  close_list(to);
}

static void put_boxes(struct mch_buf *to, const struct mch_gathering *all,
                      const struct mch_page_run *run) {
  size_t i, j;
  field_seconds(to, "grain", all->grain);
  field_list(to, "boxes");
  for (i = 0; i < all->lanes.count; i++) {
    for (j = 0; i < all->lane_room && j < all->rows_of_boxes[i].count; j++)
      put_box(to, &all->rows_of_boxes[i].boxes[j], i, run);
    if (all->lanes.lanes[i].busy)
      put_running(to, &all->lanes.lanes[i], i, run);
  }
  close_list(to);
}

/* [run ID, name, kind, lane, start, elapsed, waited, cpu, maxrss, attempt, index or 0] */
static void put_rows(struct mch_buf *to, const struct mch_gathering *all,
                     const struct mch_page_run *run) {
  size_t i;
  field_list(to, "rows");
  for (i = 0; i < all->row_count; i++) {
    const struct mch_gather_row *row = &all->rows[i];
    open_list(to);
    put_count(to, row->runid);
    put_text(to, row->name);
    put_kind(to, row->kind);
    put_count(to, row->lane);
    put_time(to, run, row->start);
    put_seconds(to, row->elapsed);
    put_seconds(to, row->waited);
    put_seconds(to, row->cpu);
    put_count(to, row->maxrss);
    put_count(to, row->attempt);
    put_count(to, row->index);
    close_list(to);
  }
  close_list(to);
}

/* [name or null: all others, tasks, failed, sum, longest] */
static void put_group(struct mch_buf *to, const struct mch_gather_group *group) {
  if (group->count == 0)
    return;
  open_list(to);
  put_text(to, group->name);
  put_count(to, group->count);
  put_count(to, group->failed);
  put_seconds(to, group->sum);
  put_seconds(to, group->most);
  close_list(to);
}

static void put_groups(struct mch_buf *to, const struct mch_gathering *all) {
  size_t i;
  field_list(to, "groups");
  for (i = 0; i <= MCH_GATHER_GROUPS; i++)
    put_group(to, &all->groups[i]);
  close_list(to);
}

/* [number, run ID, at, kind, name, report] */
static void put_failures(struct mch_buf *to, const struct mch_gathering *all,
                         const struct mch_page_run *run) {
  size_t i;
  field_count(to, "failed", all->failed);
  field_list(to, "failures");
  for (i = 0; i < MCH_GATHER_FAILURES; i++) {
    const struct mch_gather_failure *failure = &all->failures[i];
    if (failure->number == 0)
      continue;
    open_list(to);
    put_count(to, failure->number);
    put_count(to, failure->runid);
    put_time(to, run, failure->at);
    put_kind(to, failure->kind);
    put_text(to, failure->name);
    put_text(to, failure->report);
    close_list(to);
  }
  close_list(to);
}

/* [at, lane, worker, why] */
static void put_deaths(struct mch_buf *to, const struct mch_gathering *all,
                       const struct mch_page_run *run) {
  size_t i;
  field_count(to, "died", all->death_count);
  field_list(to, "deaths");
  for (i = 0; i < all->death_count && i < MCH_GATHER_DEATHS; i++) {
    open_list(to);
    put_time(to, run, all->deaths[i].at);
    put_count(to, all->deaths[i].lane);
    put_count(to, (uint64_t)all->deaths[i].worker);
    put_text(to, all->deaths[i].why);
    close_list(to);
  }
  close_list(to);
}

/* [at, queued, running, bytes of the script, of its workers] */
static void put_samples(struct mch_buf *to, const struct mch_gathering *all,
                        const struct mch_page_run *run) {
  size_t i;
  field_list(to, "samples");
  for (i = 0; i < all->sample_count; i++) {
    open_list(to);
    put_time(to, run, all->samples[i].at);
    put_count(to, all->samples[i].queued);
    put_count(to, all->samples[i].running);
    put_count(to, all->samples[i].script);
    put_count(to, all->samples[i].workers);
    close_list(to);
  }
  close_list(to);
}

void mch_page_data(struct mch_buf *to, const struct mch_gathering *all,
                   const struct mch_page_run *run) {
  mch_buf_u8(to, '{');
  if (to->failed != 0)
    return;
  put_run(to, run);
  put_sums(to, all);
  put_lanes(to, all, run);
  put_boxes(to, all, run);
  put_rows(to, all, run);
  put_groups(to, all);
  put_failures(to, all, run);
  put_deaths(to, all, run);
  put_samples(to, all, run);
  mch_buf_u8(to, '}');
}
