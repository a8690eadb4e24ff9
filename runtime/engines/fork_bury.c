/* Runs in: parent.
 *
 * A worker has gone: what becomes of its tasks, and when its last output has been read. The task
 * that it had begun ends with it, as killed, exited or whatever stopped it; those that it provably
 * had not begun go back to the queue. */
#define _POSIX_C_SOURCE 200809L
#include "fork_state.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/buf.h"
#include "runtime/base/platform.h"
#include "runtime/wire/protocol.h"
#include "task.h"

/* -- deaths ------------------------------------------------------------------------------- */

static int has_exited(const struct child *child, const struct mch_ending *ending) {
  return !child->broke && (child->exit_said || (ending->known && ending->signal == 0));
}

/* When what the worker runs was begun: not later than now, nor before it could be. */
static uint64_t since(const struct child *child, uint64_t now) {
  uint64_t told = atomic_load(&child->shared->running_since);
  return told > now || told < child->forked ? now : told;
}

static struct mch_result *obituary(const struct child *child, const struct mch_task *victim,
                                   const struct mch_ending *ending, int had_begun,
                                   const char *progress) {
  uint64_t now = mch_now();
  uint64_t oom_count = atomic_load(&child->shared->oom_count);
  enum mch_kind kind = MCH_KIND_KILLED;
  struct mch_result *result;
  if (victim->stop != 0)
    kind = (enum mch_kind)victim->stop;
  else if (has_exited(child, ending))
    kind = MCH_KIND_EXITED;
  result = mch_result_new(kind,
                          kind == MCH_KIND_KILLED && child->broke ? "its worker broke the protocol"
                          : had_begun                             ? NULL
                                                                  : "before its first task",
                          child->last_log.data, child->last_log.length);
  if (result == NULL)
    return NULL;
  result->graph_is_log = 1;
  result->signal = ending->signal;
  result->exitcode = child->exit_said ? child->exit_status : ending->exitcode;
  result->maxrss = ending->maxrss;
  result->begun = had_begun;
  if (had_begun) {
    result->started = since(child, now);
    result->elapsed = now - result->started;
    mch_child_count_work(child, result->elapsed);
  }
  if (progress != NULL)
    result->progress = strdup(progress);
  result->perhaps_oom = kind == MCH_KIND_KILLED && ending->signal == SIGKILL && !child->killed &&
                        oom_count != 0 && mch_platform_oom_count() > oom_count;
  return result;
}

/* Tasks that were sent ahead to a worker that has gone: they never started. */
static void give_back_all(struct child *child) {
  uint32_t i;
  for (i = 0; i < MCH_CLAIMS; i++) {
    /* From the last to the first, since each goes to the head of the queue. */
    uint32_t ticket = child->last_ticket - i;
    struct mch_task *task = child->offered[ticket % MCH_CLAIMS];
    if (task == NULL || task->ticket != ticket)
      continue;
    mch_child_settle(child, task);
    mch_child_give_back(child, task);
  }
}

/* Of a batch the item that ran goes with its worker; those behind it go to another one. */
static void bury_batch(struct child *child, struct mch_task *victim,
                       const struct mch_ending *ending, int had_begun, const char *progress) {
  uint32_t end = had_begun ? mch_fork_first_unbegun(child, victim) : victim->batch->answered + 1;
  while (victim->batch->answered < end && victim->batch->answered < victim->batch->count)
    mch_hear_fail_item(child, victim, obituary(child, victim, ending, had_begun, progress));
  mch_hear_return_rest(child, victim);
  mch_hear_finish_batch(child, victim, 0);
}

static void bury_task(struct child *child, struct mch_task *victim, const struct mch_ending *ending,
                      int had_begun, const char *progress) {
  if (victim->batch != NULL)
    bury_batch(child, victim, ending, had_begun, progress);
  else
    mch_hear_finish(child, victim, obituary(child, victim, ending, had_begun, progress));
}

/* Whether the oldest task was begun, as far as can be told: if it may have been, it was. */
static int may_have_begun(const struct child *child) {
  const struct mch_task *task = mch_child_oldest(child);
  if (task == NULL)
    return 0;
  return mch_child_is_taken(child, task->ticket) || mch_child_is_marked(child, task->ticket) ||
         (child->begun < 0 && mch_child_claim_of(child, task->ticket) !=
                                  mch_child_claim_word(task->ticket, MCH_CLAIM_OFFERED));
}

/* Why the worker went, in a word. */
static const char *why_gone(const struct child *child, const struct mch_ending *ending,
                            int had_begun) {
  if (child->why != NULL)
    return child->why;
  if (!has_exited(child, ending))
    return "killed";
  return had_begun ? "exited" : "replaced";
}

static void bury(struct child *child, const struct mch_ending *ending) {
  struct engine_fork *engine = child->engine;
  struct mch_task *victim;
  const char *why;
  char *progress;
  int had_begun, which, never_ran, was_killed = child->killed, was_asked = child->state == LEAVING;
  child->ready |= STDOUT | STDERR;
  child->channel.ended = 0; /* a task closed its bell, say: the ring may have got more since then */
  mch_hear_drain(child);
  for (which = 0; which < 2; which++)
    while (mch_hear_read_stream(child, which) > 0)
      ;
  if (mch_platform_mark_get(child->begun) & MCH_BEGUN_BROKEN)
    child->broke = 1;
  never_ran = child->never_ran && !was_killed && !was_asked; /* by all that it said */
  had_begun = may_have_begun(child);
  why = why_gone(child, ending, had_begun);
  victim = mch_child_oldest(child);
  mch_hear_pass_last_lines(child);
  progress = mch_hear_last_progress(child);
  mch_hear_stop_bars(child, mch_hear_stopped_or(had_begun ? victim : NULL, has_exited(child, ending)
                                                                               ? MCH_BAR_EXITED
                                                                               : MCH_BAR_KILLED));
  if (child->state == LIVE)
    engine->live--;
  child->state = ENDED;
  engine->ended++;
  mch_child_take_out(child, LOAD);
  if (!had_begun && never_ran && victim != NULL)
    bury_task(child, victim, ending, 0, progress);
  while (may_have_begun(child)) /* more than one: answers were lost */
    bury_task(child, mch_child_oldest(child), ending, 1, progress);
  free(progress);
  engine->died_idle = child->barren || (never_ran && !had_begun);
  give_back_all(child);
  mch_child_tell(child, why);
}

/* A worker that died with a task takes what it started along; one that left in peace does not. */
static int takes_group_along(const struct child *child) {
  return child->killed || !child->exit_said;
}

/* Look whether the worker has gone, and settle everything if so. */
void mch_bury_check_end(struct child *child, uint64_t now) {
  struct mch_ending ending;
  int suspicious = (child->ready & PROCESS) != 0 || child->stream_ended != 0 || child->watch < 0;
  if (child->state == ENDED || !suspicious)
    return;
  if (child->state == LIVE)
    mch_hear_drain(child); /* an EXIT that is on its way decides about its group */
  if (mch_platform_ended(child->pid, child->watch, child->state == LIVE && takes_group_along(child),
                         &ending))
    bury(child, &ending);
  else if (child->stream_ended != 0 && now >= child->stream_ended + end_grace)
    mch_child_kill_now(child); /* it cannot answer any more, whatever it does */
}

/* -- afterwards --------------------------------------------------------------------------- */

/* What belongs to its process, which has gone. */
static void close_process(struct child *child) {
  struct engine_fork *engine = child->engine;
  if (child->channel.fd >= 0)
    mch_poller_remove(engine->base.poller, child->channel.fd);
  mch_channel_close(&child->channel);
  if (child->watch >= 0) {
    mch_poller_remove(engine->base.poller, child->watch);
    close(child->watch);
  }
  if (child->lifeline >= 0)
    close(child->lifeline);
  child->watch = child->lifeline = -1;
}

void mch_bury_close_child(struct child *child) {
  struct engine_fork *engine = child->engine;
  int which;
  for (which = 0; which < MEMBERSHIPS; which++)
    mch_child_take_out(child, (enum membership)which);
  engine->wants_tasks = NULL;
  close_process(child);
  if (child->begun >= 0)
    close(child->begun);
  for (which = 0; which < 2; which++) {
    if (child->streams[which].fd >= 0) {
      mch_poller_remove(engine->base.poller, child->streams[which].fd);
      close(child->streams[which].fd);
    }
    mch_buf_free(&child->streams[which].raw);
  }
  mch_platform_unshare(child->shared, sizeof *child->shared);
  mch_buf_free(&child->codes);
  mch_buf_free(&child->last_log);
  free(child->bars);
  free(child->bar_ids);
  free(child);
}

/* Programs that it started may outlive it and have its pipes: they are read to their end. */
static int is_heard(const struct child *child) {
  return child->streams[0].fd >= 0 || child->streams[1].fd >= 0;
}

void mch_bury_remove_ended(struct engine_fork *engine) {
  struct child **at = &engine->children;
  unsigned heard = 0;
  while (engine->ended > 0 && *at != NULL) {
    struct child *child = *at;
    if (child->state == ENDED && !engine->quitting && is_heard(child) && heard++ < MOST_HEARD)
      close_process(child);
    else if (child->state == ENDED) {
      *at = child->next;
      mch_hear_pass_last_lines(child);
      mch_bury_close_child(child);
      engine->ended--;
      continue;
    }
    at = &child->next;
  }
}
