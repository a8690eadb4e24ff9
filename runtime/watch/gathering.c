/* Runs in: parent. Purpose: gathering.h. */
#define _POSIX_C_SOURCE 200809L
#include "gathering.h"

#include <stdlib.h>
#include <string.h>

#include "attempt.h"
#include "nested.h"
#include "runtime/base/grow.h"
#include "runtime/engines/event.h"
#include "runtime/engines/task.h"
#include "runtime/pool/pool.h"
#include "runtime/show/jsontext.h"
#include "runtime/show/observe.h"

enum { NAME_MOST = 200, REPORT_MOST = 8192, FIRST_GRAIN = 10000 };

/* A text of its own, cut; NULL: no memory. */
static char *copy(const struct mch_buf *text, size_t most) {
  size_t length = text->length < most ? text->length : most;
  char *to = text->failed == 0 ? malloc(length + 1) : NULL;
  if (to == NULL)
    return NULL;
  if (length > 0)
    memcpy(to, text->data, length);
  to[length] = '\0';
  return to;
}

static int is_failure(enum mch_kind kind) {
  return kind != MCH_KIND_OK && kind != MCH_KIND_CANCELLED;
}

/* -- the timeline ------------------------------------------------------------------------- */

static int is_close(const struct mch_gather_box *a, const struct mch_gather_box *b,
                    uint64_t grain) {
  return b->stop - a->start <= grain;
}

static void merge_into(struct mch_gather_box *box, struct mch_gather_box *next) {
  free(box->name);
  free(next->name);
  box->name = NULL;
  box->stop = next->stop;
  box->busy += next->busy;
  box->count += next->count;
  if (!is_failure(box->kind) && next->kind != MCH_KIND_OK)
    box->kind = next->kind;
}

static void merge_lane(struct mch_gather_lane *lane, uint64_t grain) {
  size_t from, to = 0;
  for (from = 1; from < lane->count; from++)
    if (is_close(&lane->boxes[to], &lane->boxes[from], grain))
      merge_into(&lane->boxes[to], &lane->boxes[from]);
    else
      lane->boxes[++to] = lane->boxes[from];
  if (lane->count > 0)
    lane->count = to + 1;
}

static void merge_all(struct mch_gathering *all) {
  size_t i;
  all->boxes = 0;
  for (i = 0; i < all->lanes.count && i < all->lane_room; i++) {
    merge_lane(&all->rows_of_boxes[i], all->grain);
    all->boxes += all->rows_of_boxes[i].count;
  }
}

/* Merge the smallest until half of them are left; first those that have come since the last time.
 */
static void merge(struct mch_gathering *all) {
  if (all->grain == 0)
    all->grain = FIRST_GRAIN;
  merge_all(all);
  while (all->boxes > MCH_GATHER_BOXES / 2 && all->grain < UINT64_MAX / 4) {
    all->grain *= 2;
    merge_all(all);
  }
}

/* The boxes of a lane; NULL: no memory. */
static struct mch_gather_lane *boxes_of(struct mch_gathering *all, size_t lane) {
  struct mch_gather_lane *larger =
      mch_grow(all->rows_of_boxes, &all->lane_room, lane + 1, sizeof *larger);
  if (larger == NULL)
    return NULL;
  all->rows_of_boxes = larger;
  return &larger[lane];
}

static void add_box(struct mch_gathering *all, size_t number, const struct mch_attempt *attempt) {
  struct mch_gather_lane *lane = boxes_of(all, number);
  struct mch_gather_box *box;
  if (lane == NULL)
    return;
  if (lane->count == lane->room) {
    size_t room = lane->room > 0 ? 2 * lane->room : 16;
    struct mch_gather_box *larger = realloc(lane->boxes, room * sizeof *larger);
    if (larger == NULL)
      return;
    lane->boxes = larger;
    lane->room = room;
  }
  box = &lane->boxes[lane->count++];
  box->start = attempt->started;
  box->stop = attempt->started + attempt->elapsed;
  box->busy = attempt->elapsed;
  box->runid = attempt->runid;
  box->count = 1;
  box->kind = attempt->kind;
  box->name = copy(&all->name, NAME_MOST);
  if (++all->boxes > MCH_GATHER_BOXES)
    merge(all);
}

/* -- the table: a heap with the fastest of the slowest at its head -------------------------- */

static void sink(struct mch_gather_row *rows, size_t count, size_t at) {
  for (;;) {
    size_t least = at, child = 2 * at + 1;
    struct mch_gather_row row;
    if (child < count && rows[child].elapsed < rows[least].elapsed)
      least = child;
    if (child + 1 < count && rows[child + 1].elapsed < rows[least].elapsed)
      least = child + 1;
    if (least == at)
      return;
    row = rows[at];
    rows[at] = rows[least];
    rows[least] = row;
    at = least;
  }
}

static void rise(struct mch_gather_row *rows, size_t at) {
  while (at > 0 && rows[at].elapsed < rows[(at - 1) / 2].elapsed) {
    struct mch_gather_row row = rows[at];
    rows[at] = rows[(at - 1) / 2];
    rows[(at - 1) / 2] = row;
    at = (at - 1) / 2;
  }
}

static void add_row(struct mch_gathering *all, uint64_t pool, size_t lane,
                    const struct mch_attempt *attempt) {
  struct mch_gather_row row = {.pool = pool,
                               .runid = attempt->runid,
                               .index = attempt->index,
                               .start = attempt->started,
                               .elapsed = attempt->elapsed,
                               .waited = attempt->waited,
                               .cpu = attempt->cpu,
                               .maxrss = attempt->maxrss,
                               .lane = lane,
                               .attempt = attempt->number,
                               .kind = attempt->kind};
  int is_full = all->row_count == MCH_GATHER_ROWS;
  if (is_full && row.elapsed <= all->rows[0].elapsed)
    return;
  row.name = copy(&all->name, NAME_MOST);
  if (is_full) {
    free(all->rows[0].name);
    all->rows[0] = row;
    sink(all->rows, all->row_count, 0);
  } else {
    all->rows[all->row_count] = row;
    rise(all->rows, all->row_count++);
  }
}

/* -- sums by function ----------------------------------------------------------------------- */

/* The group of the function whose place is in `key`, or else of the name; that of all others when
 * there are too many. */
static struct mch_gather_group *group_of(struct mch_gathering *all) {
  size_t i;
  if (all->key.length == 0)
    mch_buf_append(&all->key, all->name.data, all->name.length);
  mch_buf_u8(&all->key, 0);
  if (all->key.failed == 0)
    for (i = 0; i < all->group_count; i++)
      if (strcmp(all->groups[i].name, (const char *)all->key.data) == 0)
        return &all->groups[i];
  if (all->group_count < MCH_GATHER_GROUPS && all->key.failed == 0) {
    struct mch_gather_group *group = &all->groups[all->group_count];
    if ((group->name = strdup((const char *)all->key.data)) != NULL) {
      all->group_count++;
      return group;
    }
  }
  return &all->groups[MCH_GATHER_GROUPS];
}

static void add_to_group(struct mch_gathering *all, const struct mch_attempt *attempt) {
  struct mch_gather_group *group = group_of(all);
  group->count++;
  group->failed += (uint64_t)is_failure(attempt->kind);
  group->sum += attempt->elapsed;
  if (attempt->elapsed > group->most)
    group->most = attempt->elapsed;
}

/* -- failures ------------------------------------------------------------------------------- */

/* Where the next one goes: when all are taken, in the place of the oldest of the last ones. */
static struct mch_gather_failure *next_failure(struct mch_gathering *all) {
  enum { HALF = MCH_GATHER_FAILURES / 2 };
  uint64_t number = all->failed++;
  size_t at = number < MCH_GATHER_FAILURES ? (size_t)number : HALF + (size_t)(number % HALF);
  struct mch_gather_failure *failure = &all->failures[at];
  free(failure->name);
  free(failure->report);
  failure->number = number + 1;
  return failure;
}

/* With its report in `report`. */
static void add_failure(struct mch_gathering *all, uint64_t pool, uint64_t runid, uint64_t at,
                        enum mch_kind kind) {
  struct mch_gather_failure *failure = next_failure(all);
  failure->pool = pool;
  failure->runid = runid;
  failure->at = at;
  failure->kind = kind;
  failure->name = copy(&all->name, NAME_MOST);
  failure->report = copy(&all->report, REPORT_MOST);
}

/* -- what happens --------------------------------------------------------------------------- */

static struct mch_lane *lane_of(struct mch_gathering *all, const struct mch_told *told) {
  return mch_lanes_find(&all->lanes, told->number, told->event->course.slot,
                        mch_observe_name(told->pool));
}

/* Attempts of so many tasks or items are over. */
static void add_attempts(struct mch_gathering *all, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  struct mch_lane *lane = lane_of(all, told);
  struct mch_attempt attempt;
  uint32_t i;
  if (lane == NULL)
    return;
  for (i = 0; i < event->count; i++) {
    size_t number = (size_t)(lane - all->lanes.lanes);
    mch_attempt_end(&attempt, lane, told, i);
    mch_buf_clear(&all->name);
    mch_attempt_name(&all->name, told, attempt.runid);
    add_box(all, number, &attempt);
    if (event->type != MCH_EVENT_ENDED)
      continue;
    all->timed++;
    all->worked += attempt.elapsed;
    add_row(all, told->number, number, &attempt);
    mch_buf_clear(&all->key);
    mch_pool_place(told, &all->key);
    add_to_group(all, &attempt);
  }
  mch_lanes_set_busy(&all->lanes, lane, 0);
}

static void on_ended(struct mch_gathering *all, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  all->all_ended += event->count;
  all->ended[event->kind] += event->count;
  if (event->waited != MCH_UNMEASURED) {
    all->waited += event->waited;
    all->waits += event->count;
  }
  if (mch_attempt_had_begun(told))
    add_attempts(all, told);
  if (is_failure(event->kind)) {
    mch_buf_clear(&all->name);
    mch_attempt_name(&all->name, told, event->runid);
    mch_buf_clear(&all->message);
    mch_buf_clear(&all->report);
    mch_pool_report(told, &all->message, &all->report);
    add_failure(all, told->number, event->runid, event->clock, event->kind);
  }
}

static void on_worker(struct mch_gathering *all, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  struct mch_lane *lane = lane_of(all, told);
  struct mch_gather_lane *boxes;
  if (lane == NULL)
    return;
  boxes = boxes_of(all, (size_t)(lane - all->lanes.lanes));
  if (boxes != NULL && boxes->from == 0)
    boxes->from = event->clock;
  if (event->type == MCH_EVENT_WORKER_STARTED && event->course.host == NULL) {
    struct mch_gather_worker *seen = &all->workers[all->worker_count++ % MCH_GATHER_WORKERS];
    lane->worker = seen->worker = event->course.pid;
    seen->lane = (size_t)(lane - all->lanes.lanes);
  } else if (lane->worker == event->course.pid)
    lane->worker = 0;
  if (event->why == NULL || strcmp(event->why, "closed") == 0 ||
      strcmp(event->why, "replaced") == 0)
    return;
  if (all->death_count < MCH_GATHER_DEATHS) {
    struct mch_gather_death *death = &all->deaths[all->death_count];
    death->at = event->clock;
    death->lane = (size_t)(lane - all->lanes.lanes);
    death->worker = event->course.pid;
    death->why = event->why;
  }
  all->death_count++;
}

void mch_gather(struct mch_gathering *all, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  struct mch_lane *lane;
  switch (event->type) {
  case MCH_EVENT_QUEUED:
    all->accepted += event->count;
    break;
  case MCH_EVENT_STARTED:
    if ((lane = lane_of(all, told)) == NULL)
      return;
    mch_lanes_set_busy(&all->lanes, lane, 1);
    mch_attempt_begin(lane, told);
    break;
  case MCH_EVENT_ENDED:
    on_ended(all, told);
    break;
  case MCH_EVENT_RETRIED:
    all->retried++;
    if (mch_attempt_had_begun(told))
      add_attempts(all, told);
    break;
  case MCH_EVENT_WORKER_STARTED:
  case MCH_EVENT_WORKER_ENDED:
    on_worker(all, told);
    break;
  case MCH_EVENT_EMITTED:
    break;
  }
}

/* -- pools inside of tasks ------------------------------------------------------------------ */

/* The lane of a worker, also when it has gone; `count`: not known. */
static size_t lane_of_worker(const struct mch_gathering *all, int worker) {
  uint64_t i,
      kept = all->worker_count < MCH_GATHER_WORKERS ? all->worker_count : MCH_GATHER_WORKERS;
  for (i = 1; i <= kept; i++) {
    const struct mch_gather_worker *seen =
        &all->workers[(all->worker_count - i) % MCH_GATHER_WORKERS];
    if (seen->worker == worker)
      return seen->lane;
  }
  return all->lanes.count;
}

static struct mch_lane *nested_lane(struct mch_gathering *all, const struct mch_nested *task) {
  size_t outer = lane_of_worker(all, task->worker);
  const char *name = outer < all->lanes.count ? all->lanes.lanes[outer].name : NULL;
  struct mch_lane *lane;
  mch_buf_clear(&all->message);
  mch_jsontext_put(&all->message, name != NULL ? name : "a worker");
  mch_jsontext_put(&all->message, ", inside");
  mch_buf_u8(&all->message, 0);
  if (all->message.failed != 0)
    return NULL;
  lane = mch_lanes_find(&all->lanes, UINT64_MAX - (outer < all->lanes.count ? outer + 1 : 0),
                        task->row, (const char *)all->message.data);
  if (lane != NULL)
    lane->nested = 1;
  return lane;
}

static void set_text(struct mch_buf *to, const struct mch_nested *task, int which) {
  mch_buf_clear(to);
  mch_buf_append(to, task->texts[which].bytes, task->texts[which].length);
}

void mch_gather_nested(struct mch_gathering *all, struct mch_nested *task) {
  struct mch_attempt *attempt = &task->attempt;
  struct mch_lane *lane = task->begun ? nested_lane(all, task) : NULL;
  set_text(&all->name, task, MCH_NESTED_NAME);
  if (lane != NULL) {
    size_t number = (size_t)(lane - all->lanes.lanes);
    mch_attempt_fit(attempt, lane);
    add_box(all, number, attempt);
    if (task->ended)
      add_row(all, 0, number, attempt);
  }
  if (!task->ended)
    return;
  all->nested += (uint64_t)task->begun;
  set_text(&all->key, task, MCH_NESTED_PLACE);
  if (lane != NULL)
    add_to_group(all, attempt);
  if (is_failure(attempt->kind)) {
    set_text(&all->report, task, MCH_NESTED_REPORT);
    add_failure(all, 0, attempt->runid, task->at, attempt->kind);
  }
}

void mch_gather_pool_gone(struct mch_gathering *all, uint64_t pool) {
  mch_lanes_drop_pool(&all->lanes, pool);
}

uint64_t mch_gather_queued(const struct mch_gathering *all) {
  uint64_t open = all->accepted - all->all_ended;
  return open > all->lanes.running ? open - all->lanes.running : 0;
}

/* Every second one goes; from now on they come half as often. */
static void thin_out(struct mch_gathering *all) {
  size_t i;
  for (i = 0; 2 * i < all->sample_count; i++)
    all->samples[i] = all->samples[2 * i];
  all->sample_count = i;
  all->sample_step = all->sample_step > 0 ? 2 * all->sample_step : 2000000000u;
}

/* The last one is always the newest, and gives its place to the next if it came too soon. */
void mch_gather_sample(struct mch_gathering *all, uint64_t now, uint64_t script, uint64_t workers) {
  struct mch_gather_sample *sample;
  if (all->sample_count == MCH_GATHER_SAMPLES)
    thin_out(all);
  if (all->sample_count >= 2 && all->samples[all->sample_count - 1].at <
                                    all->samples[all->sample_count - 2].at + all->sample_step)
    all->sample_count--;
  sample = &all->samples[all->sample_count++];
  sample->at = now;
  sample->queued = mch_gather_queued(all);
  sample->running = all->lanes.running;
  sample->script = script;
  sample->workers = workers;
}

void mch_gather_free(struct mch_gathering *all) {
  size_t i, j;
  for (i = 0; i < all->lane_room; i++) {
    for (j = 0; j < all->rows_of_boxes[i].count; j++)
      free(all->rows_of_boxes[i].boxes[j].name);
    free(all->rows_of_boxes[i].boxes);
  }
  free(all->rows_of_boxes);
  for (i = 0; i < all->row_count; i++)
    free(all->rows[i].name);
  for (i = 0; i < all->group_count; i++)
    free(all->groups[i].name);
  for (i = 0; i < MCH_GATHER_FAILURES; i++) {
    free(all->failures[i].name);
    free(all->failures[i].report);
  }
  mch_lanes_free(&all->lanes);
  mch_buf_free(&all->name);
  mch_buf_free(&all->report);
  mch_buf_free(&all->message);
  mch_buf_free(&all->key);
}
