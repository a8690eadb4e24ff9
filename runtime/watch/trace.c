/* Runs in: both. Purpose: trace.h.
 *
 * What is told becomes text at once, on whichever thread; `serve` writes it. Locks: that of the hub
 * for all but the file, which `writing` is for; the hub's is never waited for under the latter. */
#define _POSIX_C_SOURCE 200809L
#include "trace.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attempt.h"
#include "lanes.h"
#include "runtime/base/buf.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"
#include "runtime/engines/task.h"
#include "runtime/pool/pool.h"
#include "runtime/show/anchor.h"
#include "runtime/show/jsontext.h"
#include "runtime/show/observe.h"
#include "tracefile.h"

enum {
  PERIOD = 500000000,         /* nanoseconds between two writes at most */
  SAMPLE = 1000000000,        /* between two looks at memory */
  QUEUE_STEP = 20000000,      /* between two counts of tasks */
  PATIENCE = 50000000,        /* so long a write waits for another process's, */
  LAST_PATIENCE = 1000000000, /* and the last one */
  HASTE = 1024 * 1024,        /* so many bytes are written soon */
  MOST = 64 * 1024 * 1024,    /* so many wait at most */
  NAME_MOST = 256
};

struct mch_trace {
  struct mch_observer observer;
  struct mch_hub *hub; /* NULL: none is observed */
  struct mch_tracefile *file;
  struct mch_anchor *anchor; /* NULL: what happened since the last write is lost at exit() */
  int pid;
  int nested; /* in a worker */
  /* Under the hub's lock: */
  struct mch_buf pending, place, name;
  struct mch_lanes lanes;
  uint64_t accepted, ended; /* tasks */
  uint64_t counted;         /* when "queue" was last written */
  int recount;              /* and it has changed since */
  uint64_t lost;            /* events for which there was no room */
  /* Under `writing`: */
  pthread_mutex_t writing;
  struct mch_buf text; /* on its way to the file */
  uint64_t sampled;
  struct mch_error error;
  atomic_int problem; /* `error` is to be told */
  atomic_int broken;  /* nothing is written any more */
};

/* -- events as text ----------------------------------------------------------------------- */

static void put(struct mch_buf *to, const char *text) {
  mch_jsontext_put(to, text);
}

static void put_key(struct mch_buf *to, const char *key, uint64_t value) {
  put(to, ",\"");
  put(to, key);
  put(to, "\":");
  mch_jsontext_count(to, value);
}

/* The beginning of an event; `time` is in nanoseconds. */
static void put_head(const struct mch_trace *trace, struct mch_buf *to, const char *phase,
                     uint64_t time) {
  put(to, ",\n{\"ph\":\"");
  put(to, phase);
  put(to, "\",\"pid\":");
  mch_jsontext_count(to, (uint64_t)trace->pid);
  put(to, ",\"ts\":");
  mch_jsontext_fixed(to, time, 3);
}

static void put_thread_name(const struct mch_trace *trace, struct mch_buf *to, size_t tid,
                            const char *name) {
  put_head(trace, to, "M", 0);
  put_key(to, "tid", tid);
  put(to, ",\"name\":\"thread_name\",\"args\":{\"name\":");
  mch_jsontext_cut(to, name, strlen(name), NAME_MOST);
  put(to, "}}");
  put_head(trace, to, "M", 0);
  put_key(to, "tid", tid);
  put(to, ",\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":");
  mch_jsontext_count(to, tid);
  put(to, "}}");
}

/* The lane of an event, named in the trace when it is new. NULL: no memory. */
static struct mch_lane *lane_of(struct mch_trace *trace, const struct mch_told *told) {
  size_t before = trace->lanes.count;
  struct mch_lane *lane = mch_lanes_find(&trace->lanes, told->number, told->event->course.slot,
                                         mch_observe_name(told->pool));
  if (trace->lanes.count > before && lane != NULL)
    put_thread_name(trace, &trace->pending, trace->lanes.count,
                    lane->name != NULL ? lane->name : "?");
  return lane;
}

static size_t tid_of(const struct mch_trace *trace, const struct mch_lane *lane) {
  return (size_t)(lane - trace->lanes.lanes) + 1;
}

/* Make its name as JSON text. */
static void make_name(struct mch_trace *trace, const struct mch_told *told, uint64_t runid) {
  mch_buf_clear(&trace->place);
  mch_buf_clear(&trace->name);
  mch_attempt_name(&trace->place, told, runid);
  mch_jsontext_cut(&trace->name, (const char *)trace->place.data, trace->place.length, NAME_MOST);
}

static void put_attempt(struct mch_trace *trace, const struct mch_lane *lane,
                        const struct mch_attempt *attempt) {
  struct mch_buf *to = &trace->pending;
  put_head(trace, to, "X", attempt->started);
  put(to, ",\"dur\":");
  mch_jsontext_fixed(to, attempt->elapsed, 3);
  put_key(to, "tid", tid_of(trace, lane));
  put(to, ",\"cat\":\"task\",\"name\":");
  mch_buf_append(to, trace->name.data, trace->name.length);
  put(to, ",\"args\":{\"runid\":");
  mch_jsontext_count(to, attempt->runid);
  put(to, ",\"name\":");
  mch_buf_append(to, trace->name.data, trace->name.length);
  put(to, ",\"kind\":\"");
  put(to, mch_kind_word(attempt->kind));
  put(to, "\"");
  put_key(to, "attempt", attempt->number);
  if (attempt->index > 0)
    put_key(to, "index", attempt->index);
  if (attempt->worker != 0)
    put_key(to, "worker", (uint64_t)attempt->worker);
  if (attempt->host != NULL) {
    put(to, ",\"host\":");
    mch_jsontext_cut(to, attempt->host, strlen(attempt->host), NAME_MOST / 2);
  }
  if (attempt->maxrss != MCH_UNMEASURED)
    put_key(to, "maxrss", attempt->maxrss);
  if (attempt->cpu != MCH_UNMEASURED) {
    put(to, ",\"cpu\":");
    mch_jsontext_fixed(to, attempt->cpu, 9);
  }
  put(to, "}}");
}

static void put_queue(struct mch_trace *trace, uint64_t time) {
  struct mch_buf *to = &trace->pending;
  uint64_t open = trace->accepted - trace->ended;
  put_head(trace, to, "C", time);
  put(to, ",\"name\":\"queue\",\"args\":{\"queued\":");
  mch_jsontext_count(to, open > trace->lanes.running ? open - trace->lanes.running : 0);
  put_key(to, "running", trace->lanes.running);
  put(to, "}}");
  trace->counted = time;
  trace->recount = 0;
}

static void put_death(struct mch_trace *trace, const struct mch_lane *lane,
                      const struct mch_event *event) {
  struct mch_buf *to = &trace->pending;
  put_head(trace, to, "i", event->clock);
  put_key(to, "tid", tid_of(trace, lane));
  put(to, ",\"s\":\"t\",\"cat\":\"death\",\"name\":\"worker ");
  mch_jsontext_count(to, (uint64_t)event->course.pid);
  put(to, " ");
  put(to, event->why);
  put(to, "\",\"args\":{\"why\":\"");
  put(to, event->why);
  put(to, "\"");
  put_key(to, "worker", (uint64_t)event->course.pid);
  put(to, "}}");
}

/* -- what happens ------------------------------------------------------------------------- */

static int is_full(struct mch_trace *trace, const struct mch_event *event) {
  if (trace->pending.length < MOST && trace->pending.failed == 0)
    return 0;
  trace->lost += event->count;
  return 1;
}

static void on_started(struct mch_trace *trace, const struct mch_told *told) {
  struct mch_lane *lane = lane_of(trace, told);
  if (lane == NULL)
    return;
  mch_lanes_set_busy(&trace->lanes, lane, 1);
  mch_attempt_begin(lane, told);
}

/* An attempt is over, or those of so many items. */
static void on_over(struct mch_trace *trace, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  struct mch_lane *lane = lane_of(trace, told);
  struct mch_attempt attempt;
  uint32_t i;
  if (lane == NULL || is_full(trace, event))
    return;
  for (i = 0; i < event->count; i++) {
    mch_attempt_end(&attempt, lane, told, i);
    make_name(trace, told, attempt.runid);
    put_attempt(trace, lane, &attempt);
  }
  mch_lanes_set_busy(&trace->lanes, lane, 0);
}

static void on_worker(struct mch_trace *trace, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  struct mch_lane *lane = lane_of(trace, told);
  if (lane == NULL)
    return;
  if (event->type == MCH_EVENT_WORKER_STARTED && event->course.host == NULL)
    lane->worker = event->course.pid;
  else if (lane->worker == event->course.pid)
    lane->worker = 0;
  if (event->why != NULL && strcmp(event->why, "closed") != 0 &&
      strcmp(event->why, "replaced") != 0)
    put_death(trace, lane, event);
}

static void on_event(void *ud, const struct mch_told *told) {
  struct mch_trace *trace = ud;
  const struct mch_event *event = told->event;
  switch (event->type) {
  case MCH_EVENT_QUEUED:
    trace->accepted += event->count;
    break;
  case MCH_EVENT_STARTED:
    on_started(trace, told);
    break;
  case MCH_EVENT_ENDED:
    trace->ended += event->count; /* fall through */
  case MCH_EVENT_RETRIED:
    if (mch_attempt_had_begun(told))
      on_over(trace, told);
    break;
  case MCH_EVENT_WORKER_STARTED:
  case MCH_EVENT_WORKER_ENDED:
    on_worker(trace, told);
    return;
  case MCH_EVENT_EMITTED:
    return;
  }
  trace->recount = 1;
  if (event->clock > trace->counted + QUEUE_STEP)
    put_queue(trace, event->clock);
  if (trace->pending.length > HASTE)
    mch_hub_hasten(trace->hub, &trace->observer, event->clock);
}

static void on_pool(void *ud, struct mch_pool *pool, uint64_t number, int comes) {
  struct mch_trace *trace = ud;
  (void)pool;
  if (comes)
    return;
  mch_lanes_drop_pool(&trace->lanes, number);
  mch_hub_hasten(trace->hub, &trace->observer, mch_now());
}

/* -- writing ------------------------------------------------------------------------------ */

static void put_memory(struct mch_trace *trace, uint64_t now) {
  struct mch_buf *to = &trace->text;
  int workers[256];
  size_t count = 0, i;
  uint64_t cpu, own = 0, sum = 0, rss;
  mch_hub_lock(trace->hub);
  for (i = 0; i < trace->lanes.count && count < sizeof workers / sizeof workers[0]; i++)
    if (trace->lanes.lanes[i].worker != 0)
      workers[count++] = trace->lanes.lanes[i].worker;
  mch_hub_unlock(trace->hub);
  mch_platform_usage(trace->pid, &cpu, &own);
  for (i = 0; i < count; i++)
    sum += mch_platform_usage(workers[i], &cpu, &rss) == 0 ? rss : 0;
  put_head(trace, to, "C", now);
  put(to, ",\"name\":\"memory\",\"args\":{\"script\":");
  mch_jsontext_count(to, own);
  put_key(to, "workers", sum);
  put(to, "}}");
}

/* Move what has gathered to `text`. */
static void gather(struct mch_trace *trace, uint64_t now) {
  mch_hub_lock(trace->hub);
  if (trace->recount)
    put_queue(trace, now);
  if (trace->pending.failed == 0)
    mch_buf_append(&trace->text, trace->pending.data, trace->pending.length);
  else
    trace->lost++;
  mch_buf_shrink(&trace->pending, 4 * HASTE);
  if (trace->lost > 0) {
    put_head(trace, &trace->text, "i", now);
    put(&trace->text,
        ",\"s\":\"p\",\"name\":\"events were lost: no memory\",\"args\":{\"events\":");
    mch_jsontext_count(&trace->text, trace->lost);
    put(&trace->text, "}}");
    trace->lost = 0;
  }
  mch_hub_unlock(trace->hub);
}

static void write_text(struct mch_trace *trace, size_t patience) {
  struct mch_error error;
  int code = 0;
  if (mch_buf_reserve(&trace->text, 1) == 0)
    trace->text.data[trace->text.length] = 0; /* behind what is written */
  if (trace->text.length > 0)
    code = trace->text.failed != 0 ? mch_error_set(&error, MCH_NOMEM, "not enough memory")
                                   : mch_tracefile_append(trace->file, trace->text.data,
                                                          trace->text.length, patience, &error);
  if (code == MCH_FULL && trace->text.length < MOST)
    return; /* another time */
  mch_buf_shrink(&trace->text, 4 * HASTE);
  if (code == 0 || code == MCH_FULL)
    return;
  trace->broken = 1;
  mch_error_set(&trace->error, code, "%s", error.text);
  trace->problem = 1;
}

static void flush(struct mch_trace *trace, uint64_t now, size_t patience) {
  pthread_mutex_lock(&trace->writing);
  if (trace->hub != NULL && !trace->broken) {
    gather(trace, now);
    if (now >= trace->sampled + SAMPLE) {
      trace->sampled = now;
      put_memory(trace, now);
    }
    write_text(trace, patience);
  }
  pthread_mutex_unlock(&trace->writing);
}

static uint64_t serve(void *ud, uint64_t now) {
  struct mch_trace *trace = ud;
  flush(trace, now, PATIENCE);
  return trace->broken ? MCH_NEVER : now + PERIOD;
}

void mch_trace_flush(struct mch_trace *trace) {
  if (trace->pid == (int)getpid())
    flush(trace, mch_now(), LAST_PATIENCE);
}

/* -- the end of the process --------------------------------------------------------------- */

/* By exit(): another thread may be writing, and be ended while it does. */
static void leave(void *object) {
  struct mch_trace *trace = object;
  if (trace->pid == (int)getpid() && mch_platform_lock_within(&trace->writing, LAST_PATIENCE)) {
    pthread_mutex_unlock(&trace->writing);
    mch_trace_finish(trace);
  }
  trace->anchor = NULL;
}

/* -- its life ----------------------------------------------------------------------------- */

/* The first event, which tells this run's file from all others. Not terminated by a line. */
static void make_first(const struct mch_trace *trace, const char *script, struct mch_buf *first) {
  struct mch_buf text = {0};
  put_head(trace, &text, "M", mch_now());
  mch_buf_append(first, text.data + 2, text.length > 2 ? text.length - 2 : 0);
  put(first, ",\"name\":\"process_name\",\"args\":{\"name\":");
  mch_jsontext_cut(first, script, strlen(script), NAME_MOST);
  put(first, ",\"started\":");
  mch_jsontext_fixed(first, (uint64_t)(mch_wall() * 1000), 3);
  put(first, "}}");
  mch_buf_u8(first, 0);
  mch_buf_free(&text);
}

/* In a worker: what was gathered is the parent's to write. It may be in the middle of a change by
 * another thread: it is not freed. */
static void forked(void *ud) {
  struct mch_trace *trace = ud;
  struct mch_trace old = *trace;
  memset(trace, 0, sizeof *trace);
  trace->file = old.file;
  pthread_mutex_init(&trace->writing, NULL);
  mch_tracefile_inherit(trace->file);
  trace->nested = 1;
}

struct mch_trace *mch_trace_open(const char *pattern, const char *script, struct mch_error *error) {
  struct mch_trace *trace = calloc(1, sizeof *trace);
  char *path = mch_tracefile_name(pattern);
  struct mch_buf first = {0};
  if (trace != NULL) {
    trace->pid = (int)getpid();
    pthread_mutex_init(&trace->writing, NULL);
    make_first(trace, script, &first);
  }
  if (path == NULL || trace == NULL || first.failed != 0)
    mch_error_set(error, MCH_NOMEM, "not enough memory");
  else
    trace->file = mch_tracefile_open(path, (const char *)first.data, error);
  mch_buf_free(&first);
  free(path);
  if (trace != NULL && trace->file != NULL) {
    trace->anchor = mch_anchor_cast(leave, trace);
    return trace;
  }
  if (trace != NULL)
    pthread_mutex_destroy(&trace->writing);
  free(trace);
  return NULL;
}

/* A worker is a process of its own in the trace. */
static void put_process(struct mch_trace *trace) {
  struct mch_buf *to = &trace->text;
  put_head(trace, to, "M", 0);
  put(to, ",\"name\":\"process_name\",\"args\":{\"name\":\"worker ");
  mch_jsontext_count(to, (uint64_t)trace->pid);
  put(to, "\"}}");
}

int mch_trace_observe(struct mch_trace *trace, struct mch_hub *hub) {
  struct mch_observer observer = {.ud = trace,
                                  .wants = MCH_WISH_TASKS,
                                  .event = on_event,
                                  .pool = on_pool,
                                  .serve = serve,
                                  .fd = -1,
                                  .forked = forked};
  int code;
  if (trace->hub != NULL || trace->broken)
    return 0;
  if (trace->nested && trace->pid != (int)getpid()) {
    trace->pid = (int)getpid();
    put_process(trace);
  }
  trace->observer = observer;
  trace->hub = hub;
  code = mch_hub_add(hub, &trace->observer);
  if (code != 0)
    trace->hub = NULL;
  return code;
}

void mch_trace_finish(struct mch_trace *trace) {
  if (trace->pid != (int)getpid())
    return;
  mch_trace_flush(trace);
  pthread_mutex_lock(&trace->writing);
  trace->broken = 1;
  mch_tracefile_trim(trace->file);
  pthread_mutex_unlock(&trace->writing);
}

int mch_trace_problem(struct mch_trace *trace, struct mch_error *error) {
  if (!atomic_exchange(&trace->problem, 0))
    return 0;
  *error = trace->error;
  return 1;
}

void mch_trace_close(struct mch_trace *trace) {
  if (trace == NULL)
    return;
  mch_trace_finish(trace);
  mch_anchor_drop(&trace->anchor);
  if (trace->hub != NULL)
    mch_hub_remove(trace->hub, &trace->observer);
  mch_tracefile_close(trace->file);
  mch_lanes_free(&trace->lanes);
  mch_buf_free(&trace->pending);
  mch_buf_free(&trace->place);
  mch_buf_free(&trace->name);
  mch_buf_free(&trace->text);
  pthread_mutex_destroy(&trace->writing);
  free(trace);
}
