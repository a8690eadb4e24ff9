/* Runs in: parent.
 *
 * What the server looks up for those who watch: all, in a snapshot; what has changed, four times a
 * second; how much is used, once a second. What is seen of a pool under its lock comes in its
 * order among the events of that pool: nothing is missed, nothing is told twice. */
#define _POSIX_C_SOURCE 200809L
#include "server_state.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/gate.h"
#include "runtime/base/grow.h"
#include "runtime/show/jsonl.h"
#include "runtime/show/output.h"

enum { USAGES = 64 }; /* processes that are looked at in one pool at a time */

static uint64_t hash_of(const struct mch_buf *line) {
  uint64_t hash = UINT64_C(14695981039346656037);
  size_t i;
  for (i = line->read; i < line->length; i++)
    hash = (hash ^ line->data[i]) * UINT64_C(1099511628211);
  return hash;
}

static void end_line(struct mch_buf *line, uint64_t now) {
  mch_jsonl_seconds(line, "clock", now);
  mch_jsonl_close(line);
}

/* -- workers ------------------------------------------------------------------------------- */

/* NULL: no memory. */
static struct worker_seen *worker_of(struct pool_seen *seen, unsigned slot) {
  struct worker_seen *workers = mch_grow(seen->workers, &seen->worker_room, slot, sizeof *workers);
  if (workers == NULL)
    return NULL;
  seen->workers = workers;
  return slot > 0 ? &workers[slot - 1] : NULL;
}

/* What its process uses, as of now. */
static void measure(struct worker_seen *worker, int pid, uint64_t now) {
  uint64_t cpu, rss;
  if (worker->pid != pid)
    memset(worker, 0, sizeof *worker);
  if (mch_platform_usage((pid_t)pid, &cpu, &rss) != 0)
    return;
  if (worker->at != 0 && now > worker->at && cpu >= worker->cpu)
    worker->usage.cpu = (double)(cpu - worker->cpu) / (double)(now - worker->at);
  worker->usage.rss = rss;
  worker->pid = pid;
  worker->cpu = cpu;
  worker->at = now;
}

static void sum_usage(struct mch_server *server, const struct worker_seen *worker) {
  server->workers_cpu += worker->usage.cpu;
  server->workers_rss += worker->usage.rss;
}

/* -- a look at one pool -------------------------------------------------------------------- */

struct look {
  struct mch_server *server;
  struct viewer *viewer; /* whose snapshot it is; NULL: what has changed, for all */
  uint64_t now;
  int measures; /* a second has passed */
  int with_workers;
};

static void give(const struct look *look, uint64_t number, const struct mch_buf *line) {
  if (look->viewer != NULL)
    mch_server_give(look->viewer, line);
  else
    mch_server_give_pool(look->server, number, line);
}

static void look_at_workers(const struct look *look, const struct mch_pool_view *view,
                            struct pool_seen *seen) {
  struct mch_server *server = look->server;
  static const struct mch_usage unknown = {0, 0};
  size_t i;
  for (i = 0; i < view->worker_count; i++) {
    const struct mch_worker_info *info = &view->workers[i];
    struct worker_seen *worker = worker_of(seen, info->slot);
    uint64_t hash;
    int is_measured; /* only processes of this machine are */
    if (worker != NULL && info->host == NULL &&
        (worker->pid != info->pid ||
         (look->measures && (i + server->usage_turn) % view->worker_count < USAGES)))
      measure(worker, info->pid, look->now);
    is_measured = worker != NULL && info->host == NULL;
    if (look->measures && is_measured)
      sum_usage(server, worker);
    mch_buf_clear(&server->line);
    mch_lines_worker(&server->line, view, info, is_measured ? &worker->usage : &unknown);
    hash = hash_of(&server->line);
    if (look->viewer == NULL && worker != NULL && worker->hash == hash)
      continue;
    if (worker != NULL && look->viewer == NULL)
      worker->hash = hash;
    end_line(&server->line, look->now);
    give(look, view->number, &server->line);
  }
}

static int is_same(const struct mch_buf *a, const struct mch_buf *b) {
  return a->length == b->length && memcmp(a->data, b->data, a->length) == 0;
}

static void look_at_counts(const struct look *look, const struct mch_pool_view *view,
                           struct pool_seen *seen) {
  struct mch_server *server = look->server;
  mch_buf_clear(&server->line);
  mch_lines_tick(&server->line, view);
  if (look->viewer == NULL && is_same(&server->line, &seen->tick))
    return;
  mch_buf_clear(&seen->tick);
  mch_buf_append(&seen->tick, server->line.data, server->line.length);
  end_line(&server->line, look->now);
  give(look, view->number, &server->line);
}

/* Under the pool's lock. */
static void look_at(void *ud, const struct mch_pool_view *view) {
  struct look *look = ud;
  struct mch_server *server = look->server;
  struct pool_seen *seen;
  mch_hub_lock(server->hub);
  seen = mch_server_pool(server, view->number);
  if (seen != NULL) {
    if (look->viewer != NULL || seen->nworkers != view->facts.nworkers) {
      mch_buf_clear(&server->line);
      mch_lines_pool(&server->line, view, look->now);
      give(look, view->number, &server->line);
    }
    if (look->viewer == NULL) {
      seen->nworkers = view->facts.nworkers;
      mch_server_tell_many(server, seen, look->now);
    }
    look_at_counts(look, view, seen);
    server->workers += view->worker_count;
    if (look->with_workers)
      look_at_workers(look, view, seen);
  }
  if (look->viewer != NULL)
    look->viewer->upto = view->number;
  mch_hub_unlock(server->hub);
}

/* With NULL after the last one: while no other pool can come. */
static void look_at_pool(void *ud, struct mch_pool *pool, uint64_t number) {
  struct look *look = ud;
  (void)number;
  if (pool != NULL) {
    mch_pool_look_at(pool, look_at, look);
    return;
  }
  mch_hub_lock(look->server->hub);
  if (look->viewer != NULL)
    look->viewer->upto = UINT64_MAX;
  mch_hub_unlock(look->server->hub);
}

/* -- bars ---------------------------------------------------------------------------------- */

static void note_bar(struct bars_seen *seen, const struct mch_report *report) {
  struct bar_seen *bar;
  if (seen->count == seen->room) {
    size_t room = 2 * seen->room + 16;
    struct bar_seen *bars = realloc(seen->bars, room * sizeof *bars);
    if (bars == NULL)
      return; /* it is told each time */
    seen->bars = bars;
    seen->room = room;
  }
  bar = &seen->bars[seen->count++];
  *bar = (struct bar_seen){report->key,     report->done,   report->total,
                           report->running, report->failed, report->cancelled};
}

static const struct bar_seen *find_bar(const struct bars_seen *seen, uint64_t key) {
  size_t low = 0, high = seen->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (seen->bars[middle].key < key)
      low = middle + 1;
    else
      high = middle;
  }
  return low < seen->count && seen->bars[low].key == key ? &seen->bars[low] : NULL;
}

static int has_moved(const struct bars_seen *before, const struct mch_report *report) {
  const struct bar_seen *bar = find_bar(before, report->key);
  return bar == NULL || bar->done != report->done || bar->total != report->total ||
         (report->of_tasks && (bar->running != report->running || bar->failed != report->failed ||
                               bar->cancelled != report->cancelled));
}

/* Under the output's lock. */
static void look_at_bar(void *ud, const struct mch_report *report) {
  struct look *look = ud;
  struct mch_server *server = look->server;
  mch_hub_lock(server->hub);
  if (report == NULL) {
    if (look->viewer != NULL)
      look->viewer->sees_bars = 1;
  } else if (look->viewer != NULL || has_moved(&server->bars_before, report)) {
    mch_buf_clear(&server->line);
    mch_lines_bar(&server->line, report, look->now);
    if (look->viewer != NULL)
      mch_server_give(look->viewer, &server->line);
    else
      mch_server_give_bars(server, &server->line);
  }
  if (report != NULL && look->viewer == NULL)
    note_bar(&server->bars, report);
  mch_hub_unlock(server->hub);
}

static void look_at_bars(struct look *look) {
  struct mch_server *server = look->server;
  struct bars_seen before = server->bars_before;
  if (look->viewer == NULL) {
    server->bars_before = server->bars;
    server->bars = before;
    server->bars.count = 0;
  }
  mch_output_each_bar(server->output, look->now, look_at_bar, look);
}

/* -- all of it ----------------------------------------------------------------------------- */

void mch_server_snapshot(struct mch_server *server, struct viewer *viewer, uint64_t now) {
  struct look look = {server, viewer, now, 0, 1};
  size_t before = mch_buf_unread(&viewer->out);
  mch_hub_lock(server->hub);
  viewer->upto = 0;
  viewer->sees_bars = viewer->is_ready = 0;
  viewer->missed = 0;
  viewer->allowed = SIZE_MAX; /* for this once */
  mch_buf_clear(&server->line);
  mch_jsonl_open(&server->line, "snapshot");
  mch_jsonl_number(&server->line, "time", mch_wall(), 3);
  end_line(&server->line, now);
  mch_jsonl_open(&server->line, "paused");
  mch_jsonl_flag(&server->line, "paused", mch_hub_is_paused(server->hub));
  end_line(&server->line, now);
  mch_server_give(viewer, &server->line);
  mch_hub_unlock(server->hub);
  mch_hub_each_pool(server->hub, look_at_pool, &look);
  look_at_bars(&look);
  mch_hub_lock(server->hub);
  mch_buf_clear(&server->line);
  mch_server_put_past(&server->line, &server->failures);
  mch_server_put_past(&server->line, &server->records);
  mch_server_put_past(&server->line, &server->printed);
  mch_lines_plain(&server->line, "ready", now);
  mch_server_give(viewer, &server->line);
  viewer->is_ready = 1;
  viewer->allowed = mch_buf_unread(&viewer->out) - before + MOST_WAITS;
  mch_hub_unlock(server->hub);
}

void mch_server_tick(struct mch_server *server, uint64_t now) {
  int measures = now >= server->next_stats;
  struct look look = {server, NULL, now, measures, measures || server->workers <= FEW};
  server->next_tick = now + TICK;
  if (measures) {
    server->workers_cpu = 0;
    server->workers_rss = 0;
    server->usage_turn += USAGES;
  }
  server->workers = 0;
  mch_hub_each_pool(server->hub, look_at_pool, &look);
  if (measures || server->bars.count <= FEW)
    look_at_bars(&look);
}

void mch_server_last_look(void *ud, struct mch_pool *pool, uint64_t number) {
  struct look look = {ud, NULL, mch_now(), 0, 0};
  (void)number;
  if (look.server->viewers != NULL)
    mch_pool_look_at(pool, look_at, &look);
}

void mch_server_stats(struct mch_server *server, uint64_t now) {
  uint64_t cpu = mch_platform_cpu_time(), used, rss;
  server->next_stats = now + SECOND;
  mch_hub_lock(server->hub);
  mch_buf_clear(&server->line);
  mch_jsonl_open(&server->line, "stats");
  mch_jsonl_number(&server->line, "time", mch_wall(), 3);
  if (server->own_at != 0 && now > server->own_at)
    mch_jsonl_number(&server->line, "cpu",
                     (double)(cpu - server->own_cpu) / (double)(now - server->own_at), 3);
  if (mch_platform_usage(getpid(), &used, &rss) == 0) {
    mch_jsonl_count(&server->line, "rss", rss);
    mch_jsonl_number(&server->line, "workers_cpu", server->workers_cpu, 3);
    mch_jsonl_count(&server->line, "workers_rss", server->workers_rss);
  }
  mch_jsonl_count(&server->line, "viewers", server->viewer_count);
  end_line(&server->line, now);
  mch_server_give_all(server, &server->line);
  mch_hub_unlock(server->hub);
  server->own_cpu = cpu;
  server->own_at = now;
}
