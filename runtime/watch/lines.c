/* Runs in: parent. Purpose: lines.h. */
#define _POSIX_C_SOURCE 200809L
#include "lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "runtime/engines/task.h"
#include "runtime/show/jsonl.h"
#include "runtime/show/jsontext.h"

/* Bytes of texts, at most. */
enum { NAME = 256, PLACE = 512, HAPPENED = 1024, TEXT = 4096, REPORT = 8192, SCRIPT = 4096 };

static void open(struct mch_buf *to, const char *event, uint64_t clock) {
  mch_jsonl_open(to, event);
  mch_jsonl_seconds(to, "clock", clock);
}

void mch_lines_plain(struct mch_buf *to, const char *event, uint64_t now) {
  open(to, event, now);
  mch_jsonl_close(to);
}

/* The first line has no field "event". */
void mch_lines_hello(struct mch_buf *to, const struct mch_script *script) {
  char folder[4096];
  struct utsname system;
  mch_jsontext_put(to, "{\"mantichora\":");
  mch_jsontext_count(to, MCH_WATCH_VERSION);
  mch_jsonl_word(to, "version", script->version);
  mch_jsonl_count(to, "pid", (uint64_t)getpid());
  if (script->name != NULL)
    mch_jsonl_text(to, "script", script->name, strlen(script->name), SCRIPT);
  mch_jsonl_raw(to, "arguments", script->arguments);
  if (getcwd(folder, sizeof folder) != NULL)
    mch_jsonl_text(to, "folder", folder, strlen(folder), SCRIPT);
  if (uname(&system) == 0)
    mch_jsonl_word(to, "host", system.nodename);
  mch_jsonl_count(to, "user", (uint64_t)geteuid());
  mch_jsonl_number(to, "time", mch_wall(), 3);
  mch_jsonl_seconds(to, "clock", mch_now());
  mch_jsonl_close(to);
}

/* -- tasks --------------------------------------------------------------------------------- */

static void put_name(struct mch_buf *to, const struct mch_task *task) {
  if (task->extra != NULL && task->extra->name_length > 0)
    mch_jsonl_text(to, "name", task->extra->name, task->extra->name_length, NAME);
}

static void put_place(struct mch_buf *to, const struct mch_buf *place) {
  if (mch_buf_unread(place) > 0)
    mch_jsonl_text(to, "place", (const char *)place->data, place->length, PLACE);
}

static void put_measured(struct mch_buf *to, const char *key, uint64_t value) {
  if (value != MCH_UNMEASURED)
    mch_jsonl_count(to, key, value);
}

static void put_time(struct mch_buf *to, const char *key, uint64_t value) {
  if (value != MCH_UNMEASURED)
    mch_jsonl_seconds(to, key, value);
}

static void put_words(struct mch_buf *to, const struct mch_told *told) {
  struct mch_buf message = {0}, report = {0};
  mch_pool_report(told, &message, &report);
  if (mch_buf_unread(&message) > 0)
    mch_jsonl_text(to, "message", (const char *)message.data, message.length, HAPPENED);
  if (mch_buf_unread(&report) > 0)
    mch_jsonl_text(to, "report", (const char *)report.data, report.length, REPORT);
  mch_buf_free(&message);
  mch_buf_free(&report);
}

/* How it went, of ENDED. */
static void put_end(struct mch_buf *to, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  if (event->course.started != 0)
    mch_jsonl_seconds(to, "began", event->course.started);
  put_time(to, "waited", event->waited);
  put_time(to, "elapsed", event->course.elapsed);
  put_time(to, "cpu", event->course.cpu);
  put_measured(to, "maxrss", event->course.maxrss);
  put_measured(to, "sent", event->sent);
  put_measured(to, "received", event->received);
  if (event->found)
    mch_jsonl_flag(to, "found", 1);
  if (told->result != NULL && event->kind == MCH_KIND_EXITED)
    mch_jsonl_count(to, "exitcode", (uint64_t)(unsigned)told->result->exitcode);
  if (told->result != NULL && event->kind == MCH_KIND_KILLED && told->result->signal != 0)
    mch_jsonl_count(to, "signal", (uint64_t)told->result->signal);
}

void mch_lines_event(struct mch_buf *to, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  struct mch_buf place = {0};
  open(to, mch_event_word(event->type), event->clock);
  mch_jsonl_count(to, "pool", told->number);
  mch_jsonl_count(to, "runid", event->runid);
  put_name(to, told->task);
  mch_pool_place(told, &place);
  put_place(to, &place);
  mch_buf_free(&place);
  if (event->index > 0)
    mch_jsonl_count(to, "index", event->index);
  if (event->type != MCH_EVENT_STARTED)
    mch_jsonl_word(to, "kind", mch_kind_word(event->kind));
  mch_jsonl_count(to, "attempt", event->attempt);
  if (event->course.pid != 0)
    mch_jsonl_count(to, "pid", (uint64_t)event->course.pid);
  if (event->course.slot != 0)
    mch_jsonl_count(to, "slot", event->course.slot);
  mch_jsonl_word(to, "host", event->course.host);
  if (event->type == MCH_EVENT_ENDED)
    put_end(to, told);
  if (told->result != NULL)
    put_words(to, told);
  mch_jsonl_close(to);
}

void mch_lines_gone(struct mch_buf *to, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  open(to, "worker", event->clock);
  mch_jsonl_count(to, "pool", told->number);
  mch_jsonl_count(to, "slot", event->course.slot);
  mch_jsonl_count(to, "pid", (uint64_t)event->course.pid);
  mch_jsonl_word(to, "gone", event->why);
  mch_jsonl_close(to);
}

void mch_lines_many(struct mch_buf *to, uint64_t pool, unsigned slot, const struct mch_many *many,
                    uint64_t now) {
  int kind;
  open(to, "many", now);
  mch_jsonl_count(to, "pool", pool);
  if (slot != 0)
    mch_jsonl_count(to, "slot", slot);
  mch_jsonl_seconds(to, "from", many->from);
  mch_jsonl_seconds(to, "to", many->to);
  for (kind = 0; kind < MCH_KIND_COUNT; kind++)
    if (many->kinds[kind] > 0)
      mch_jsonl_count(to, mch_kind_word((enum mch_kind)kind), many->kinds[kind]);
  mch_jsonl_seconds(to, "worked", many->worked);
  mch_jsonl_close(to);
}

/* -- pools --------------------------------------------------------------------------------- */

void mch_lines_pool(struct mch_buf *to, const struct mch_pool_view *view, uint64_t now) {
  open(to, "pool", now);
  mch_jsonl_count(to, "pool", view->number);
  if (view->facts.name != NULL)
    mch_jsonl_text(to, "name", view->facts.name, strlen(view->facts.name), NAME);
  mch_jsonl_word(to, "engine", view->facts.engine);
  mch_jsonl_count(to, "nworkers", view->facts.nworkers);
  mch_jsonl_seconds(to, "since", view->facts.since);
  mch_jsonl_raw(to, "options", view->facts.options);
  mch_jsonl_close(to);
}

void mch_lines_tick(struct mch_buf *to, const struct mch_pool_view *view) {
  const struct mch_pool_stats *stats = &view->stats;
  const struct mch_tally *tally = &stats->tally;
  size_t i;
  mch_jsonl_open(to, "tick");
  mch_jsonl_count(to, "pool", view->number);
  mch_jsonl_count(to, "queued", stats->queued);
  mch_jsonl_count(to, "running", stats->running);
  mch_jsonl_count(to, "unreceived", stats->unreceived);
  mch_jsonl_count(to, "accepted", view->accepted);
  mch_jsonl_count(to, "coming", view->coming);
  for (i = 0; i < MCH_KIND_COUNT; i++)
    mch_jsonl_count(to, mch_kind_word((enum mch_kind)i), tally->ended[i]);
  mch_jsonl_count(to, "retried", tally->retried);
  mch_jsonl_count(to, "found", tally->found);
  mch_jsonl_count(to, "sent", tally->sent);
  mch_jsonl_count(to, "received", tally->received);
  mch_jsonl_seconds(to, "waited", tally->waiting.sum);
  mch_jsonl_seconds(to, "worked", tally->working.sum);
  mch_jsontext_put(to, ",\"slots\":[");
  for (i = 0; i < stats->slots; i++) {
    if (i > 0)
      mch_jsontext_put(to, ",");
    mch_jsontext_fixed(to, view->worked[i] / 1000000, 3);
  }
  mch_jsontext_put(to, "]");
}

/* The task that a worker runs. */
static void put_task(struct mch_buf *to, const struct mch_pool_view *view,
                     const struct mch_worker_info *worker) {
  const struct mch_task *task = mch_pool_view_task(view, worker->runid);
  struct mch_buf place = {0};
  mch_jsonl_count(to, "runid", worker->runid);
  if (worker->since != 0)
    mch_jsonl_seconds(to, "since", worker->since);
  if (task == NULL)
    return;
  put_name(to, task);
  mch_pool_view_place(view, task, &place);
  put_place(to, &place);
  mch_buf_free(&place);
  if (task->index > 0)
    mch_jsonl_count(to, "index", task->index + (worker->runid - task->runid));
  mch_jsonl_count(to, "attempt", task->attempt + 1u);
}

void mch_lines_worker(struct mch_buf *to, const struct mch_pool_view *view,
                      const struct mch_worker_info *worker, const struct mch_usage *usage) {
  mch_jsonl_open(to, "worker");
  mch_jsonl_count(to, "pool", view->number);
  mch_jsonl_count(to, "slot", worker->slot);
  mch_jsonl_count(to, "pid", (uint64_t)worker->pid);
  mch_jsonl_word(to, "host", worker->host);
  mch_jsonl_count(to, "tasks", worker->tasks);
  if (worker->maxrss != 0)
    mch_jsonl_count(to, "maxrss", worker->maxrss);
  if (usage->rss != 0) {
    mch_jsonl_count(to, "rss", usage->rss);
    mch_jsonl_number(to, "cpu", usage->cpu, 2);
  }
  if (worker->busy)
    put_task(to, view, worker);
}

/* -- bars, log, lines ---------------------------------------------------------------------- */

void mch_lines_bar(struct mch_buf *to, const struct mch_report *report, uint64_t now) {
  open(to, "bar", now);
  mch_jsonl_count(to, "bar", report->key);
  mch_jsonl_text(to, "name", report->name, report->name_length, HAPPENED);
  mch_jsonl_count(to, "done", report->done);
  if (report->total != MCH_BAR_UNKNOWN)
    mch_jsonl_count(to, "total", report->total);
  mch_jsonl_word(to, "state", mch_bar_end_word(report->how));
  mch_jsonl_seconds(to, "elapsed", report->elapsed_ns);
  if (report->pace >= 0)
    mch_jsonl_number(to, "rate", report->pace, 3);
  if (report->unit != MCH_UNIT_NONE)
    mch_jsonl_word(to, "unit", mch_bar_unit_word(report->unit));
  if (report->of_tasks) {
    mch_jsonl_count(to, "running", report->running);
    mch_jsonl_count(to, "queued", mch_render_queued(report));
    mch_jsonl_count(to, "failed", report->failed);
    mch_jsonl_count(to, "cancelled", report->cancelled);
  }
  if (report->runid >= 0)
    mch_jsonl_count(to, "runid", (uint64_t)report->runid);
  if (report->task != NULL)
    mch_jsonl_text(to, "task", report->task, report->task_length, NAME);
  mch_jsonl_close(to);
}

void mch_lines_log(struct mch_buf *to, const struct mch_log_record *record, uint64_t now) {
  open(to, "log", now);
  mch_jsonl_number(to, "time", record->time, 3);
  mch_jsonl_text(to, "level", record->level_name, record->level_length, NAME);
  mch_jsonl_number(to, "levelno", record->level, 0);
  mch_jsonl_text(to, "logger", record->logger, record->logger_length, NAME);
  mch_jsonl_text(to, "message", record->message, record->message_length, TEXT);
  if (record->process >= 0)
    mch_jsonl_count(to, "process", (uint64_t)record->process);
  if (record->runid >= 0)
    mch_jsonl_count(to, "runid", (uint64_t)record->runid);
  mch_jsonl_text(to, "task", record->task, record->task_length, NAME);
  mch_jsonl_close(to);
}

void mch_lines_line(struct mch_buf *to, int stream, const char *text, size_t length, uint64_t now) {
  open(to, "line", now);
  mch_jsonl_word(to, "stream", stream == 1 ? "stdout" : "stderr");
  mch_jsonl_text(to, "text", text, length, TEXT);
  mch_jsonl_close(to);
}
