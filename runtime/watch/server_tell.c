/* Runs in: parent.
 *
 * What the server is told as an observer, on whichever thread, under the hub's lock: lines for
 * those who watch, and a little of the past for those who will come. Where tasks are short only
 * some are told one by one, so that neither side works for what nobody can see. */
#include "server_state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/grow.h"
#include "runtime/engines/task.h"
#include "runtime/show/jsontext.h"

/* -- the past ------------------------------------------------------------------------------ */

static void keep(struct past *past, const struct mch_buf *line) {
  mch_buf_append(&past->lines, line->data + line->read, mch_buf_unread(line));
  while (mch_buf_unread(&past->lines) > past->most) {
    const unsigned char *from = past->lines.data + past->lines.read;
    const unsigned char *end = memchr(from, '\n', mch_buf_unread(&past->lines));
    mch_buf_consume(&past->lines,
                    end != NULL ? (size_t)(end - from) + 1 : mch_buf_unread(&past->lines));
  }
  past->lines.failed = 0; /* without memory it is forgotten */
}

void mch_server_put_past(struct mch_buf *to, const struct past *past) {
  const unsigned char *at = past->lines.data + past->lines.read;
  size_t left = mch_buf_unread(&past->lines);
  while (left > 0) {
    const unsigned char *end = memchr(at, '\n', left);
    size_t length = end != NULL ? (size_t)(end - at) + 1 : left;
    if (length > 2) { /* before the brace */
      mch_buf_append(to, at, length - 2);
      mch_jsontext_put(to, ",\"past\":true}\n");
    }
    at += length;
    left -= length;
  }
}

void mch_server_free_past(struct past *past) {
  mch_buf_free(&past->lines);
}

/* -- pools --------------------------------------------------------------------------------- */

static void refill(struct pool_seen *seen) {
  seen->started_left = seen->ended_left = TOLD_TASKS;
  seen->failures_left = TOLD_FAILURES;
}

/* NULL: no memory. */
struct pool_seen *mch_server_pool(struct mch_server *server, uint64_t number) {
  struct pool_seen *seen = server->pools;
  while (seen != NULL && seen->number != number)
    seen = seen->next;
  if (seen != NULL || (seen = calloc(1, sizeof *seen)) == NULL)
    return seen;
  seen->number = number;
  refill(seen);
  seen->next = server->pools;
  server->pools = seen;
  return seen;
}

static void free_pool(struct pool_seen *seen) {
  free(seen->many);
  free(seen->workers);
  mch_buf_free(&seen->tick);
  free(seen);
}

void mch_server_free_pools(struct mch_server *server) {
  struct pool_seen *seen = server->pools, *next;
  for (; seen != NULL; seen = next) {
    next = seen->next;
    free_pool(seen);
  }
  server->pools = NULL;
}

static void forget_pool(struct mch_server *server, uint64_t number) {
  struct pool_seen **at = &server->pools, *seen;
  while (*at != NULL && (*at)->number != number)
    at = &(*at)->next;
  if ((seen = *at) == NULL)
    return;
  *at = seen->next;
  free_pool(seen);
}

static void on_pool(void *ud, struct mch_pool *pool, uint64_t number, int comes) {
  struct mch_server *server = ud;
  (void)pool;
  if (comes) { /* it is looked at soon */
    mch_hub_hasten(server->hub, &server->observer, 0);
    server->hurries = 1;
    return;
  }
  if (server->viewers != NULL) {
    struct pool_seen *seen = mch_server_pool(server, number);
    uint64_t now = mch_now();
    if (seen != NULL)
      mch_server_tell_many(server, seen, now);
    mch_buf_clear(&server->line);
    mch_jsontext_put(&server->line, "{\"event\":\"pool_closed\",\"pool\":");
    mch_jsontext_count(&server->line, number);
    mch_jsontext_put(&server->line, ",\"clock\":");
    mch_jsontext_fixed(&server->line, now / 1000, 6);
    mch_jsontext_put(&server->line, "}\n");
    mch_server_give_pool(server, number, &server->line);
  }
  forget_pool(server, number);
}

/* -- tasks --------------------------------------------------------------------------------- */

/* Room for this slot. NULL: no memory. */
static struct mch_many *many_of(struct pool_seen *seen, unsigned slot) {
  struct mch_many *many = mch_grow(seen->many, &seen->slots, (size_t)slot + 1, sizeof *many);
  if (many == NULL)
    return NULL;
  seen->many = many;
  return &many[slot];
}

/* Tasks that are not told one by one. */
static void sum_up(struct pool_seen *seen, const struct mch_event *event) {
  struct mch_many *many = many_of(seen, event->course.slot);
  uint64_t elapsed = event->course.elapsed != MCH_UNMEASURED ? event->course.elapsed : 0;
  uint64_t from = event->course.started != 0 ? event->course.started : event->clock - elapsed;
  if (many == NULL)
    return;
  if (many->to == 0 || from < many->from)
    many->from = from;
  if (event->clock > many->to)
    many->to = event->clock;
  many->worked += elapsed;
  many->kinds[event->kind] += event->count;
}

void mch_server_tell_many(struct mch_server *server, struct pool_seen *seen, uint64_t now) {
  size_t slot;
  for (slot = 0; slot < seen->slots; slot++) {
    if (seen->many[slot].to == 0)
      continue;
    mch_buf_clear(&server->line);
    mch_lines_many(&server->line, seen->number, (unsigned)slot, &seen->many[slot], now);
    mch_server_give_pool(server, seen->number, &server->line);
    memset(&seen->many[slot], 0, sizeof seen->many[slot]);
  }
  refill(seen);
}

/* Whether there is room for one more line of this kind. */
static int is_told(struct pool_seen *seen, const struct mch_told *told) {
  unsigned *left = told->result != NULL                     ? &seen->failures_left
                   : told->event->type == MCH_EVENT_STARTED ? &seen->started_left
                                                            : &seen->ended_left;
  if (*left == 0 || told->event->count > 1)
    return 0;
  --*left;
  return 1;
}

/* The line of an event is made once; failures are kept. */
static void on_task(struct mch_server *server, const struct mch_told *told) {
  struct pool_seen *seen = mch_server_pool(server, told->number);
  int is_end = told->event->type == MCH_EVENT_ENDED;
  int keeps = is_end && told->result != NULL && told->event->kind != MCH_KIND_CANCELLED;
  int tells = server->viewers != NULL && seen != NULL;
  int is_single = seen != NULL && is_told(seen, told);
  if (tells && !is_single && is_end)
    sum_up(seen, told->event);
  if (server->viewers == NULL && seen != NULL)
    refill(seen);
  if (!is_single && !keeps)
    return;
  if (!tells && !keeps)
    return;
  mch_buf_clear(&server->line);
  mch_lines_event(&server->line, told);
  if (keeps)
    keep(&server->failures, &server->line);
  if (tells && is_single)
    mch_server_give_pool(server, told->number, &server->line);
}

static void on_event(void *ud, const struct mch_told *told) {
  struct mch_server *server = ud;
  switch (told->event->type) {
  case MCH_EVENT_STARTED:
  case MCH_EVENT_RETRIED:
  case MCH_EVENT_ENDED:
    on_task(server, told);
    break;
  case MCH_EVENT_WORKER_ENDED:
    mch_buf_clear(&server->line);
    mch_lines_gone(&server->line, told);
    mch_server_give_pool(server, told->number, &server->line);
    break;
  default:
    break; /* counts say it */
  }
}

/* -- bars, log, lines ---------------------------------------------------------------------- */

static void on_bar(void *ud, const struct mch_report *report) {
  struct mch_server *server = ud;
  mch_buf_clear(&server->line);
  mch_lines_bar(&server->line, report, mch_now());
  mch_server_give_bars(server, &server->line);
}

static void on_log(void *ud, const struct mch_log_record *record) {
  struct mch_server *server = ud;
  mch_buf_clear(&server->line);
  mch_lines_log(&server->line, record, mch_now());
  keep(&server->records, &server->line);
  mch_server_give_all(server, &server->line);
}

/* Of many lines at once, the last ones are enough. */
static void on_lines(void *ud, int stream, const char *bytes, size_t length) {
  enum { MOST = 64 * 1024 };
  struct mch_server *server = ud;
  uint64_t now = mch_now();
  if (length > MOST) {
    const char *from = memchr(bytes + length - MOST, '\n', MOST);
    size_t skipped = from != NULL ? (size_t)(from + 1 - bytes) : length - MOST;
    bytes += skipped;
    length -= skipped;
  }
  while (length > 0) {
    const char *end = memchr(bytes, '\n', length);
    size_t whole = end != NULL ? (size_t)(end - bytes) : length;
    mch_buf_clear(&server->line);
    mch_lines_line(&server->line, stream, bytes, whole, now);
    keep(&server->printed, &server->line);
    mch_server_give_all(server, &server->line);
    whole += end != NULL;
    bytes += whole;
    length -= whole;
  }
}

void mch_server_set_observer(struct mch_server *server) {
  struct mch_observer *observer = &server->observer;
  observer->ud = server;
  observer->event = on_event;
  observer->pool = on_pool;
  observer->leaving = mch_server_last_look;
  observer->bar = on_bar;
  observer->log = on_log;
  observer->lines = on_lines;
  server->failures.most = 256 * 1024;
  server->records.most = server->printed.most = 64 * 1024;
}
