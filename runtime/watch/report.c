/* Runs in: parent. Purpose: report.h. Locks: the hub's for what is gathered, `writing` for the
 * file; the hub's is never waited for under the latter by who has it. */
#define _POSIX_C_SOURCE 200809L
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attempt.h"
#include "gathering.h"
#include "lanes.h"
#include "nested.h"
#include "page.h"
#include "runtime/base/file.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"
#include "runtime/engines/task.h"
#include "runtime/pool/pool.h"
#include "runtime/show/anchor.h"
#include "runtime/show/observe.h"
#include "tracefile.h"

static const uint64_t second = 1000000000u;
/* Seconds between two versions of the file at most; bytes of a worker that are written soon, and
 * that are kept at most. */
enum { RAREST = 8, HASTE = 256 * 1024, MOST = 16 * 1024 * 1024 };

struct mch_report_file {
  struct mch_observer observer;
  struct mch_hub *hub; /* NULL: none is observed */
  struct mch_anchor *anchor;
  char *path, *other; /* `other`: while it is being written */
  struct mch_page_run run;
  char *script, *version;
  pthread_mutex_t writing;
  uint64_t written, pause; /* when, and how long until the next time */
  struct mch_error error;
  atomic_int problem;              /* `error` is to be told */
  atomic_int finished;             /* nothing is written any more */
  struct mch_gathering *gathering; /* under the hub's lock */
  int tasks;                       /* the file of those of pools inside of tasks; -1: none */
  off_t heard_at;
  struct mch_buf heard; /* under `writing` */
  /* In a worker, under the lock of its hub: */
  int nested;
  struct mch_lanes lanes;
  struct mch_buf told, text[MCH_NESTED_TEXTS], message;
};

/* -- what happens --------------------------------------------------------------------------- */

static void on_event(void *ud, const struct mch_told *told) {
  struct mch_report_file *report = ud;
  mch_gather(report->gathering, told);
}

static void on_pool(void *ud, struct mch_pool *pool, uint64_t number, int comes) {
  struct mch_report_file *report = ud;
  (void)pool;
  if (!comes)
    mch_gather_pool_gone(report->gathering, number);
}

static size_t local_workers(const struct mch_gathering *all, int *workers, size_t room) {
  size_t i, count = 0;
  for (i = 0; i < all->lanes.count && count < room; i++)
    if (all->lanes.lanes[i].worker != 0)
      workers[count++] = all->lanes.lanes[i].worker;
  return count;
}

/* What workers have written of their own pools. */
static void hear_workers(struct mch_report_file *report) {
  struct mch_nested task;
  while (report->tasks >= 0 && mch_nested_read(report->tasks, &report->heard_at, &report->heard)) {
    mch_hub_lock(report->hub);
    while (mch_nested_take(&report->heard, &task))
      mch_gather_nested(report->gathering, &task);
    mch_hub_unlock(report->hub);
  }
}

static void look(struct mch_report_file *report, uint64_t now) {
  int workers[256];
  uint64_t cpu, own = 0, sum = 0, rss;
  size_t count, i;
  hear_workers(report);
  mch_hub_lock(report->hub);
  count = local_workers(report->gathering, workers, sizeof workers / sizeof workers[0]);
  mch_hub_unlock(report->hub);
  mch_platform_usage(report->run.pid, &cpu, &own);
  for (i = 0; i < count; i++)
    sum += mch_platform_usage(workers[i], &cpu, &rss) == 0 ? rss : 0;
  mch_hub_lock(report->hub);
  mch_gather_sample(report->gathering, now, own, sum);
  mch_hub_unlock(report->hub);
}

/* -- the file ------------------------------------------------------------------------------- */

static int write_page(int fd, const struct mch_buf *data) {
  int problem = mch_file_write(fd, mch_page_head, mch_page_head_length, MCH_FILE_HERE);
  if (problem == 0)
    problem = mch_file_write(fd, data->data, data->length, MCH_FILE_HERE);
  return problem == 0 ? mch_file_write(fd, mch_page_tail, mch_page_tail_length, MCH_FILE_HERE)
                      : problem;
}

/* The mode that the file has, or a new one would have. */
static mode_t mode_of(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 ? status.st_mode & 0777 : 0666;
}

/* Only what is an ordinary file, or nothing yet, can have another in its place. 0, or a code. */
static int check_path(const char *path, struct mch_error *error) {
  struct stat status;
  if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
    return mch_error_set(error, MCH_SYSTEM, "%s is no ordinary file, which a report needs", path);
  return 0;
}

/* A whole one by another name, which then takes the place of the one before. 0, or a code. */
static int replace(const struct mch_report_file *report, const struct mch_buf *data,
                   struct mch_error *error) {
  int fd, problem;
  if (check_path(report->path, error) != 0)
    return error->code;
  unlink(report->other);
  fd = open(report->other, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode_of(report->path));
  problem = fd < 0 ? errno : write_page(fd, data);
  if (fd >= 0 && close(fd) != 0 && problem == 0)
    problem = errno;
  if (problem == 0 && rename(report->other, report->path) != 0)
    problem = errno;
  if (problem == 0)
    return 0;
  if (fd >= 0)
    unlink(report->other);
  return mch_error_set(error, MCH_SYSTEM, "%s: %s", report->path, strerror(problem));
}

/* Under `writing`. What was gathered does not change while it becomes text. */
static int write_now(struct mch_report_file *report, uint64_t now, int over,
                     struct mch_error *error) {
  struct mch_buf data = {0};
  int code;
  report->run.over = over;
  report->run.now = now;
  report->run.written = mch_wall();
  if (report->hub != NULL)
    mch_hub_lock(report->hub);
  mch_page_data(&data, report->gathering, &report->run);
  if (report->hub != NULL)
    mch_hub_unlock(report->hub);
  code = data.failed != 0 ? mch_error_set(error, MCH_NOMEM, "not enough memory")
                          : replace(report, &data, error);
  mch_buf_free(&data);
  report->written = now;
  return code;
}

static void write_and_note(struct mch_report_file *report, uint64_t now, int over) {
  struct mch_error error;
  if (write_now(report, now, over, &error) == 0 || report->error.code != 0)
    return; /* a problem is told once; it is tried again, a disk may have room then */
  report->error = error;
  report->problem = 1;
}

static uint64_t serve(void *ud, uint64_t now) {
  struct mch_report_file *report = ud;
  pthread_mutex_lock(&report->writing);
  if (!report->finished) {
    look(report, now);
    if (now >= report->written + report->pause * second) {
      write_and_note(report, now, 0);
      report->pause = report->pause < RAREST ? 2 * report->pause : RAREST;
    }
  }
  pthread_mutex_unlock(&report->writing);
  return report->finished ? MCH_NEVER : now + second;
}

void mch_report_finish(struct mch_report_file *report, int over) {
  uint64_t now = mch_now();
  if (report->run.pid != (int)getpid())
    return;
  pthread_mutex_lock(&report->writing);
  if (!report->finished) {
    if (report->hub != NULL)
      look(report, now);
    write_and_note(report, now, over);
    report->finished = 1;
  }
  pthread_mutex_unlock(&report->writing);
}

/* -- in a worker: what its own pools do ------------------------------------------------------ */

static struct mch_lane *lane_of(struct mch_report_file *report, const struct mch_told *told) {
  return mch_lanes_find(&report->lanes, told->number, told->event->course.slot,
                        mch_observe_name(told->pool));
}

static int is_failure(const struct mch_told *told) {
  return told->event->type == MCH_EVENT_ENDED && told->event->kind != MCH_KIND_OK &&
         told->event->kind != MCH_KIND_CANCELLED;
}

/* Make the texts of the i-th task that an event is about. */
static void put_texts(struct mch_report_file *report, const struct mch_told *told,
                      struct mch_nested *task) {
  int i;
  for (i = 0; i < MCH_NESTED_TEXTS; i++)
    mch_buf_clear(&report->text[i]);
  mch_attempt_name(&report->text[MCH_NESTED_NAME], told, task->attempt.runid);
  mch_pool_place(told, &report->text[MCH_NESTED_PLACE]);
  if (is_failure(told)) {
    mch_buf_clear(&report->message);
    mch_pool_report(told, &report->message, &report->text[MCH_NESTED_REPORT]);
  }
  for (i = 0; i < MCH_NESTED_TEXTS; i++) {
    task->texts[i].bytes = report->text[i].data;
    task->texts[i].length = report->text[i].length;
  }
}

static void on_nested_end(struct mch_report_file *report, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  struct mch_lane *lane = lane_of(report, told);
  struct mch_nested task = {.worker = report->run.pid,
                            .ended = event->type == MCH_EVENT_ENDED,
                            .begun = mch_attempt_had_begun(told),
                            .at = event->clock};
  uint32_t i;
  if (lane == NULL || (!task.begun && !is_failure(told)))
    return;
  task.row = (unsigned)(lane - report->lanes.lanes) + 1;
  for (i = 0; i < event->count && report->told.length < MOST; i++) {
    task.attempt = (struct mch_attempt){.runid = event->runid + i, .kind = event->kind};
    if (task.begun)
      mch_attempt_end(&task.attempt, lane, told, i);
    put_texts(report, told, &task);
    mch_nested_put(&report->told, &task);
  }
  mch_lanes_set_busy(&report->lanes, lane, 0);
  if (report->told.length > HASTE)
    mch_hub_hasten(report->hub, &report->observer, event->clock);
}

static void on_nested_event(void *ud, const struct mch_told *told) {
  struct mch_report_file *report = ud;
  struct mch_lane *lane;
  switch (told->event->type) {
  case MCH_EVENT_STARTED:
    if ((lane = lane_of(report, told)) != NULL) {
      mch_lanes_set_busy(&report->lanes, lane, 1);
      mch_attempt_begin(lane, told);
    }
    break;
  case MCH_EVENT_ENDED:
  case MCH_EVENT_RETRIED:
    on_nested_end(report, told);
    break;
  default:
    break;
  }
}

static void on_nested_pool(void *ud, struct mch_pool *pool, uint64_t number, int comes) {
  struct mch_report_file *report = ud;
  (void)pool;
  if (!comes)
    mch_lanes_drop_pool(&report->lanes, number);
}

/* Also from serve(), on the helper thread of the worker's pools. */
static void pass_on(struct mch_report_file *report) {
  struct mch_buf told;
  pthread_mutex_lock(&report->writing);
  mch_hub_lock(report->hub);
  told = report->told;
  memset(&report->told, 0, sizeof report->told);
  mch_hub_unlock(report->hub);
  mch_nested_write(report->tasks, &told);
  pthread_mutex_unlock(&report->writing);
  mch_buf_free(&told);
}

static uint64_t serve_nested(void *ud, uint64_t now) {
  pass_on(ud);
  return now + second / 2;
}

void mch_report_flush(struct mch_report_file *report) {
  if (report->nested && report->hub != NULL && report->run.pid == (int)getpid())
    pass_on(report);
}

/* -- the end of the process ----------------------------------------------------------------- */

/* By exit(): another thread may be writing, and be ended while it does. */
static void leave(void *object) {
  struct mch_report_file *report = object;
  if (report->run.pid == (int)getpid() && mch_platform_lock_within(&report->writing, second)) {
    pthread_mutex_unlock(&report->writing);
    mch_report_finish(report, 1);
  }
  report->anchor = NULL;
}

/* -- its life ------------------------------------------------------------------------------- */

static void free_report(struct mch_report_file *report) {
  if (report->gathering != NULL)
    mch_gather_free(report->gathering);
  free(report->gathering);
  free(report->path);
  free(report->other);
  free(report->script);
  free(report->version);
  if (report->tasks >= 0)
    close(report->tasks);
  mch_buf_free(&report->heard);
  pthread_mutex_destroy(&report->writing);
  free(report);
}

/* The script may go to another folder. */
static char *absolute(char *path) {
  size_t length = strlen(path), room = length + 4096;
  char *whole = path[0] != '/' ? malloc(room) : NULL;
  if (whole == NULL)
    return path;
  if (getcwd(whole, room - length - 2) == NULL) {
    free(whole);
    return path;
  }
  strcat(strcat(whole, "/"), path);
  free(path);
  return whole;
}

static char *name_beside(const char *path) {
  size_t room = strlen(path) + 32;
  char *name = malloc(room);
  if (name != NULL)
    snprintf(name, room, "%s.%ld.new", path, (long)getpid());
  return name;
}

static int fill_in(struct mch_report_file *report, const char *pattern, const char *script,
                   const char *version) {
  report->gathering = calloc(1, sizeof *report->gathering);
  report->path = mch_tracefile_name(pattern);
  if (report->path != NULL)
    report->path = absolute(report->path);
  report->other = report->path != NULL ? name_beside(report->path) : NULL;
  report->script = strdup(script);
  report->version = strdup(version);
  report->pause = 1;
  report->run = (struct mch_page_run){.script = report->script,
                                      .version = report->version,
                                      .pid = (int)getpid(),
                                      .started = mch_now(),
                                      .begin = mch_wall()};
  return report->gathering != NULL && report->other != NULL && report->script != NULL &&
         report->version != NULL;
}

struct mch_report_file *mch_report_open(const char *pattern, const char *script,
                                        const char *version, struct mch_error *error) {
  struct mch_report_file *report = calloc(1, sizeof *report);
  if (report == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory");
    return NULL;
  }
  pthread_mutex_init(&report->writing, NULL);
  report->tasks = -1;
  if (!fill_in(report, pattern, script, version))
    mch_error_set(error, MCH_NOMEM, "not enough memory");
  else if (write_now(report, report->run.started, 0, error) == 0) {
    report->anchor = mch_anchor_cast(leave, report);
    report->tasks = mch_nested_open(report->other);
    return report;
  }
  free_report(report);
  return NULL;
}

/* In a worker: it is the parent's, and what its own pools do is passed on. What was gathered may be
 * in the middle of a change by another thread: it is not freed. */
static void forked(void *ud) {
  struct mch_report_file *report = ud;
  struct mch_report_file old = *report;
  memset(report, 0, sizeof *report);
  pthread_mutex_init(&report->writing, NULL);
  report->finished = 1;
  report->nested = 1;
  report->tasks = old.tasks;
  report->path = old.path;
  report->other = old.other;
}

int mch_report_observe(struct mch_report_file *report, struct mch_hub *hub) {
  int code;
  if (report->hub != NULL || (report->finished && (!report->nested || report->tasks < 0)))
    return 0;
  report->observer = (struct mch_observer){.ud = report,
                                           .wants = MCH_WISH_TASKS,
                                           .event = on_event,
                                           .pool = on_pool,
                                           .serve = serve,
                                           .fd = -1,
                                           .forked = forked};
  if (report->nested) {
    report->run.pid = (int)getpid();
    report->observer.event = on_nested_event;
    report->observer.pool = on_nested_pool;
    report->observer.serve = serve_nested;
  }
  report->hub = hub;
  code = mch_hub_add(hub, &report->observer);
  if (code != 0)
    report->hub = NULL;
  return code;
}

int mch_report_problem(struct mch_report_file *report, struct mch_error *error) {
  if (!atomic_exchange(&report->problem, 0))
    return 0;
  *error = report->error;
  return 1;
}

void mch_report_close(struct mch_report_file *report) {
  if (report == NULL)
    return;
  mch_report_finish(report, 1);
  mch_anchor_drop(&report->anchor);
  if (report->hub != NULL)
    mch_hub_remove(report->hub, &report->observer);
  free_report(report);
}
