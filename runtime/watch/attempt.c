/* Runs in: both. Purpose: attempt.h. */
#define _POSIX_C_SOURCE 200809L
#include "attempt.h"

#include "runtime/engines/event.h"
#include "runtime/engines/task.h"
#include "runtime/pool/pool.h"
#include "runtime/show/jsontext.h"
#include "runtime/show/observe.h"

void mch_attempt_begin(struct mch_lane *lane, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  lane->runid = event->runid;
  lane->attempt = event->attempt;
  lane->started = event->course.started != 0 ? event->course.started : event->clock;
  if (event->course.pid != 0 && event->course.host == NULL)
    lane->worker = event->course.pid;
}

int mch_attempt_had_begun(const struct mch_told *told) {
  if (told->event->type == MCH_EVENT_RETRIED)
    return told->result != NULL && told->result->begun;
  return told->event->many_begin;
}

static void measure(struct mch_attempt *attempt, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  const struct mch_result *result = told->result;
  attempt->started = event->course.started;
  attempt->elapsed = event->course.elapsed;
  attempt->waited = event->waited;
  attempt->cpu = event->course.cpu;
  attempt->maxrss = event->course.maxrss;
  attempt->kind = event->kind;
  attempt->number = event->attempt;
  attempt->worker = event->course.pid;
  attempt->host = event->course.host;
  if (event->type == MCH_EVENT_RETRIED && result != NULL) {
    attempt->started = result->started;
    attempt->elapsed = result->elapsed;
    attempt->cpu = result->cpu;
    attempt->maxrss = result->maxrss != 0 ? result->maxrss : MCH_UNMEASURED;
  }
}

void mch_attempt_fit(struct mch_attempt *attempt, struct mch_lane *lane) {
  uint64_t end = attempt->started + attempt->elapsed;
  if (attempt->started < lane->ended) {
    attempt->started = lane->ended;
    attempt->elapsed = end > lane->ended ? end - lane->ended : 0;
  }
  lane->ended = attempt->started + attempt->elapsed;
  lane->worked += attempt->elapsed;
}

void mch_attempt_end(struct mch_attempt *attempt, struct mch_lane *lane,
                     const struct mch_told *told, uint32_t i) {
  const struct mch_event *event = told->event;
  measure(attempt, told);
  attempt->runid = event->runid + i;
  attempt->index = event->index > 0 ? event->index + i : 0;
  if (attempt->started == 0)
    attempt->started = lane->busy && lane->runid == event->runid ? lane->started : event->clock;
  if (attempt->elapsed == MCH_UNMEASURED)
    attempt->elapsed = event->clock > attempt->started ? event->clock - attempt->started : 0;
  attempt->elapsed /= event->count;
  attempt->started += i * attempt->elapsed;
  mch_attempt_fit(attempt, lane);
}

void mch_attempt_name(struct mch_buf *name, const struct mch_told *told, uint64_t runid) {
  const struct mch_task_extra *extra = told->task != NULL ? told->task->extra : NULL;
  size_t before = name->length;
  if (extra != NULL && extra->name_length > 0)
    mch_buf_append(name, extra->name, extra->name_length);
  else
    mch_pool_place(told, name);
  if (name->length > before)
    return;
  mch_jsontext_put(name, "task ");
  mch_jsontext_count(name, runid);
}
