/* Runs in: parent.
 *
 * Time limits: of tasks, of `init` and the set-up before the first task, of leaving; and how a task
 * is stopped. */
#define _POSIX_C_SOURCE 200809L
#include "fork_state.h"

#include <signal.h>
#include <stdatomic.h>

#include "runtime/base/platform.h"
#include "runtime/wire/protocol.h"
#include "task.h"

static const uint64_t leave_grace = 500000000u;   /* an idle worker that was asked to leave */
static const uint64_t end_patience = 2000000000u; /* one that has yet to begin its `fini` */
static const uint64_t end_look = 50000000u;       /* how soon to look whether it has */
static const uint64_t end_moment = 100000000u;    /* between telling `fini` to stop and SIGKILL */

/* -- stopping a task ---------------------------------------------------------------------- */

/* Whether a task behind this one was told to stop: that one has begun, so that this one is over and
 * its answer on the way. */
static int is_over(const struct child *child, const struct mch_task *task) {
  uint32_t stop = atomic_load(&child->shared->orders.stop);
  return stop != 0 && mch_child_is_before(task->ticket, stop);
}

void mch_time_stop(struct mch_engine *base, struct mch_task *task) {
  struct engine_fork *engine = (struct engine_fork *)base;
  struct child *child = task->holder;
  if (child == NULL)
    return;
  if (task->batch != NULL) {
    mch_hear_shorten_batch(child, task, 0, 0);
    if (!mch_hear_item_has_begun(child, task)) {
      task->stop = 0; /* it ended this moment */
      return;
    }
  } else if (mch_child_take_back(child, task)) {
    struct mch_result *result = mch_result_new((enum mch_kind)task->stop, NULL, NULL, 0);
    engine->config.events.finished(engine->config.events.ud, task, result);
    return;
  }
  if (task->stop == MCH_KIND_CANCELLED)
    mch_hear_stopping(child);
  if (is_over(child, task))
    return;
  atomic_store(&child->shared->orders.stop, task->ticket);
  kill(child->pid, MCH_STOP_SIGNAL);
  mch_child_kill_later(child, mch_now() + engine->config.grace);
  child->insist_at = child->kill_at - engine->config.grace / 5 * 2;
  mch_child_look_at(engine, child->insist_at);
}

/* What has met the error of the stop and runs on meets it once more before it is killed: it may
 * have been caught by code that knows nothing of it. A task that has ended by now is not meant. */
static void insist(struct child *child) {
  child->insist_at = MCH_NEVER;
  atomic_store(&child->shared->orders.insist, atomic_load(&child->shared->orders.stop));
  if (!child->killed && !mch_platform_has_ended(child->watch))
    kill(child->pid, MCH_STOP_SIGNAL);
}

/* -- limits ------------------------------------------------------------------------------- */

uint64_t mch_time_timeout_of(const struct engine_fork *engine, const struct mch_task *task) {
  return task->extra != NULL && task->extra->timeout != 0 ? task->extra->timeout
                                                          : engine->config.timeout;
}

/* When the task or item that the worker has begun will have run too long. MCH_NEVER: it may run as
 * long as it likes, or it is being stopped. */
static uint64_t limit_of(const struct child *child, const struct mch_task *task) {
  uint64_t timeout = mch_time_timeout_of(child->engine, task);
  uint64_t began;
  if (timeout == 0 || task->stop != 0)
    return MCH_NEVER;
  /* Read after its claim, before which the worker has written it. */
  began = atomic_load(&child->shared->running_since);
  return began <= mch_now() && timeout < MCH_NEVER - began ? began + timeout : MCH_NEVER;
}

/* When the pool's time for what comes before the first task is over: the earliest time, while it
 * has not begun. MCH_NEVER: there is no limit, or it is over. */
uint64_t mch_time_init_limit(struct child *child) {
  uint64_t timeout = child->engine->config.timeout, now = mch_now(), since;
  if (!child->eager || timeout == 0 || child->state != LIVE)
    return MCH_NEVER;
  since = atomic_load(&child->shared->preparing_since);
  if (since == MCH_NEVER)
    return MCH_NEVER;
  if (child->prepares == 0 && since != 0)
    child->prepares = since < now ? since : now;
  return (child->prepares != 0 ? child->prepares : now) + timeout;
}

/* When to look at the worker's time-outs: when what it has begun will have run too long; for tasks
 * that have not begun the earliest time at which that may be. MCH_NEVER: no need. */
uint64_t mch_time_timeout_at(struct child *child) {
  const struct engine_fork *engine = child->engine;
  const struct mch_task *task = mch_child_begun(child);
  uint64_t limit = task != NULL ? limit_of(child, task) : mch_time_init_limit(child), least = 0;
  uint32_t i;
  if (limit != MCH_NEVER)
    return limit;
  for (i = 0; i < MCH_CLAIMS; i++)
    if ((task = child->offered[i]) != NULL && mch_time_timeout_of(engine, task) != 0 &&
        (least == 0 || mch_time_timeout_of(engine, task) < least))
      least = mch_time_timeout_of(engine, task);
  return least == 0 ? MCH_NEVER : mch_now() + least;
}

/* -- leaving ------------------------------------------------------------------------------ */

/* A worker that was never asked for anything has nothing to finish: the end of its stream will do.
 */
void mch_time_send_quit(struct child *child) {
  struct mch_message_head head = {MCH_MESSAGE_QUIT, 0, 0, 0};
  if (child->state != LIVE)
    return;
  if (child->lazy_setup && child->last_ticket == 0)
    mch_platform_end_stream(child->channel.fd);
  else if (mch_channel_put(&child->channel, &head, NULL, 0, NULL) != 0) {
    mch_child_kill_now(child);
    return;
  }
  mch_child_put_into(child, UNSENT, &child->engine->unsent);
  mch_time_leaves(child);
}

/* It is on its way out: another worker may have its place. */
void mch_time_leaves(struct child *child) {
  child->state = LEAVING;
  child->engine->live--;
  child->asked = mch_now();
  mch_child_kill_later(child, child->asked + leave_grace);
  mch_child_wake(child);
}

/* `fini` may run for the grace from when it begins, which a busy machine may delay. Then it is told
 * to stop. Whether the worker is not to be killed yet. */
static int may_finish(struct child *child, uint64_t now) {
  const struct mch_engine_config *config = &child->engine->config;
  uint64_t since = atomic_load(&child->shared->leaving_since), latest = child->asked + end_patience;
  if (config->runner.end == NULL || child->state != LEAVING || child->barren || child->hurried)
    return 0;
  if (since != 0)
    latest = mch_sooner(since, latest) + config->grace;
  if (now < latest) {
    mch_child_kill_later(child, mch_sooner(since == 0 ? now + end_look : latest, latest));
    return 1;
  }
  if (since == 0)
    return 0;
  child->hurried = 1;
  if (!mch_platform_has_ended(child->watch))
    kill(child->pid, MCH_STOP_SIGNAL);
  mch_child_kill_later(child, now + end_moment);
  return 1;
}

/* Whether there are more workers than there shall be. While it is so nothing is given to any: so
 * many as there shall be may run already. (Each task of a "snapshot" has its own, which leaves by
 * itself.)
 */
int mch_time_has_too_many(const struct engine_fork *engine) {
  return !engine->config.snapshot && engine->live > engine->config.nworkers;
}

/* A worker that did its share, or is superfluous, leaves once nothing is with it. */
void mch_time_retire(struct engine_fork *engine, struct child *child) {
  uint64_t most = engine->config.max_tasks_per_worker;
  int has_done_its_share = most > 0 && child->tasks >= most;
  if (child->state == LIVE && child->outstanding == 0 &&
      (has_done_its_share || mch_time_has_too_many(engine)))
    mch_time_send_quit(child);
}

/* What does not fit stays; the worker rings when it has made room. */
void mch_time_flush(struct child *child) {
  if (child->state != ENDED && mch_channel_unsent(&child->channel) > 0)
    mch_channel_flush(&child->channel, 0, NULL); /* its end is seen when reading */
  if (child->state == ENDED || mch_channel_unsent(&child->channel) == 0)
    mch_child_take_out(child, UNSENT);
}

/* -- when time is up ---------------------------------------------------------------------- */

/* Its `init` takes too long. The task that waits for it ends by that, the others are for other
 * workers; this one is stopped like a task, and leaves. They are taken back from the last to the
 * first: when the first is among them the worker has none, and begins none. */
static void end_init(struct child *child, uint64_t now) {
  struct mch_task *task = mch_child_oldest(child);
  struct mch_result *result;
  uint32_t ticket;
  for (ticket = child->last_ticket; ticket != task->ticket; ticket--) {
    struct mch_task *other = child->offered[ticket % MCH_CLAIMS];
    if (other != NULL && other->ticket == ticket && mch_child_take_back(child, other))
      mch_child_give_back(child, other);
  }
  if (!mch_child_withdraw(child, task))
    return; /* it is over this moment */
  atomic_store(&child->shared->orders.stop, task->ticket);
  kill(child->pid, MCH_STOP_SIGNAL);
  child->barren = 1;
  result = mch_result_new(MCH_KIND_TIMEOUT, "init", NULL, 0);
  if (result != NULL)
    result->elapsed = now - child->prepares;
  if (task->batch != NULL) {
    mch_hear_fail_item(child, task, result);
    mch_hear_return_rest(child, task);
    mch_hear_finish_batch(child, task, 0);
  } else
    mch_hear_finish(child, task, result);
  mch_time_send_quit(child);
  mch_time_flush(child);
}

/* Of a batch no other item begins from here on, so that the one that is stopped is the one that
 * runs too long. */
void mch_time_check_time(struct child *child, uint64_t now) {
  struct mch_task *task;
  if (child->kill_at <= now && may_finish(child, now))
    return;
  if (child->kill_at <= now)
    mch_child_kill_now(child);
  else if (child->insist_at <= now)
    insist(child);
  if (!child->engine->timeouts || child->outstanding == 0 || child->killed)
    return;
  if ((task = mch_child_begun(child)) == NULL) {
    if (mch_time_init_limit(child) <= now)
      end_init(child, now);
    return;
  }
  if (limit_of(child, task) > now)
    return;
  if (task->batch != NULL) {
    mch_hear_shorten_batch(child, task, 0, 0);
    if (limit_of(child, task) > now)
      return;
  }
  task->stop = MCH_KIND_TIMEOUT;
  mch_time_stop(&child->engine->base, task);
}

/* When time has something to do with this worker. */
uint64_t mch_time_due_at(struct child *child, uint64_t now) {
  uint64_t due = mch_sooner(child->kill_at, child->insist_at);
  if (child->state == ENDED)
    return MCH_NEVER;
  if (child->stream_ended != 0 && !child->killed)
    due = mch_sooner(due, child->stream_ended + end_grace);
  if (child->watch < 0)
    due = mch_sooner(due, now + unwatched_check);
  if (child->outstanding > 0 && !mch_child_is_taken(child, child->first_ticket))
    due = mch_sooner(due, mch_child_slow_at(child));
  if (child->engine->timeouts && child->outstanding > 0)
    due = mch_sooner(due, mch_time_timeout_at(child));
  return due;
}
