/* Runs in: parent.
 *
 * The pool's side of one worker, without a decision: the lists that it is in, the tasks that it was
 * offered, what their claims and the mark say, and how it is killed. Who decides is in fork_feed.c,
 * fork_time.c, fork_hear.c and fork_bury.c. */
#define _POSIX_C_SOURCE 200809L
#include "fork_state.h"

#include <signal.h>
#include <stdatomic.h>

#include "runtime/base/platform.h"
#include "runtime/wire/protocol.h"
#include "task.h"

/* -- lists of workers --------------------------------------------------------------------- */

void mch_child_take_out(struct child *child, enum membership kind) {
  struct link *link = &child->links[kind];
  if (link->list == NULL)
    return;
  if (link->next != NULL)
    link->next->links[kind].previous = link->previous;
  if (link->previous != NULL)
    link->previous->links[kind].next = link->next;
  else
    *link->list = link->next;
  link->list = NULL;
}

/* Be the first of this list, and in no other of its kind. */
void mch_child_put_into(struct child *child, enum membership kind, struct child **list) {
  struct link *link = &child->links[kind];
  mch_child_take_out(child, kind);
  link->next = *list;
  link->previous = NULL;
  link->list = list;
  if (link->next != NULL)
    link->next->links[kind].previous = child;
  *list = child;
}

/* Something has happened to a worker: it may have room, and is looked at by the next pump. */
void mch_child_wake(struct child *child) {
  struct engine_fork *engine = child->engine;
  if (child->links[AWAKE].list == NULL)
    mch_child_put_into(child, AWAKE, &engine->awake);
  if (child->state != LIVE) {
    mch_child_take_out(child, LOAD);
    return;
  }
  if (child->links[LOAD].list != &engine->open[child->outstanding])
    mch_child_put_into(child, LOAD, &engine->open[child->outstanding]);
  if (child->outstanding < engine->least)
    engine->least = child->outstanding;
  if (child->outstanding > engine->most)
    engine->most = child->outstanding;
}

/* At this time it is to be looked whether a worker's is up. */
void mch_child_look_at(struct engine_fork *engine, uint64_t when) {
  if (when < engine->look)
    engine->look = when;
}

void mch_child_kill_later(struct child *child, uint64_t when) {
  child->kill_at = when;
  mch_child_look_at(child->engine, when);
}

const struct mch_task *mch_child_offered_with(const struct child *child, uint64_t runid) {
  size_t i;
  for (i = 0; i < MCH_CLAIMS; i++)
    if (child->offered[i] != NULL && runid >= child->offered[i]->runid &&
        runid - child->offered[i]->runid < mch_task_count(child->offered[i]))
      return child->offered[i];
  return NULL;
}

/* -- what is told of a worker ------------------------------------------------------------- */

/* Times that a worker may say are not later than this; looking at the clock for each takes longer
 * than what comes of one that is a little wrong. */
static uint64_t latest(const struct child *child) {
  enum { GRACE = 1000000000 };
  return child->engine->pumped + GRACE;
}

/* A time that the worker says, or 0 where it cannot be. */
uint64_t mch_child_believed(const struct child *child, uint64_t when) {
  return when < child->forked || when > latest(child) ? 0 : when;
}

/* It has worked so long. */
void mch_child_count_work(const struct child *child, uint64_t nanoseconds) {
  if (child->slot - 1 < child->engine->slots && nanoseconds <= latest(child) - child->forked)
    child->engine->worked[child->slot - 1] += nanoseconds;
}

/* Tell the pool that it came, or (why) went. */
void mch_child_tell(struct child *child, const char *why) {
  if (!child->engine->listening)
    return;
  child->announced = 1;
  mch_child_events(child)->worker(mch_child_events(child)->ud, (int)child->pid, child->slot, NULL,
                                  why);
}

/* -- its tasks, and its end --------------------------------------------------------------- */

const struct mch_events *mch_child_events(const struct child *child) {
  return &child->engine->config.events;
}

/* Whether ticket `a` was given out before `b`; both are of late. */
int mch_child_is_before(uint32_t a, uint32_t b) {
  return (int32_t)(a - b) < 0;
}

/* The ticket after `ticket`; 0 means none, so it is left out when the count wraps. */
static uint32_t after(uint32_t ticket) {
  return ticket == UINT32_MAX ? 1 : ticket + 1;
}

/* The oldest task with the worker, or NULL. It answers them in their order, so all others have
 * surely not begun when this one is not answered. */
struct mch_task *mch_child_oldest(const struct child *child) {
  return child->outstanding > 0 ? child->offered[child->first_ticket % MCH_CLAIMS] : NULL;
}

/* When to look at a worker again that has not begun the oldest task that it has. */
uint64_t mch_child_slow_at(const struct child *child) {
  uint64_t slow = child->oldest_since + slow_start;
  return child->engine->live > 1 && slow > child->engine->pumped ? slow : child->ring_at;
}

/* Forget an offered task; its claim is settled. */
void mch_child_settle(struct child *child, struct mch_task *task) {
  child->offered[task->ticket % MCH_CLAIMS] = NULL;
  child->outstanding--;
  child->in_flight_bytes -= task->length;
  child->engine->batches -= task->batch != NULL;
  task->holder = NULL;
  mch_child_wake(child);
  if (task->ticket != child->first_ticket)
    return;
  while (child->outstanding > 0 && mch_child_oldest(child) == NULL)
    child->first_ticket = after(child->first_ticket);
  child->oldest_since = child->engine->pumped;
  child->ring_at = child->oldest_since + ring_again;
  if (child->outstanding > 0)
    mch_child_look_at(child->engine, mch_child_slow_at(child));
}

void mch_child_kill_now(struct child *child) {
  if (child->killed || child->state == ENDED)
    return;
  child->killed = 1;
  child->kill_at = MCH_NEVER;
  /* The group's number is safe to use while its leader is known to live. */
  if (!mch_platform_has_ended(child->watch)) {
    kill(-child->pid, SIGKILL);
    kill(child->pid, SIGKILL); /* when it has not made its group yet */
  }
}

/* The worker, or what a task did to it, broke the protocol: it is not listened to any longer. */
void mch_child_break_off(struct child *child) {
  child->broke = 1;
  mch_child_kill_now(child);
}

/* -- what its claims say ------------------------------------------------------------------ */

uint64_t mch_child_claim_word(uint32_t ticket, enum mch_claim claim) {
  return (uint64_t)ticket << 2 | (uint64_t)claim;
}

uint64_t mch_child_claim_of(const struct child *child, uint32_t ticket) {
  return atomic_load(&child->shared->claims[ticket % MCH_CLAIMS]);
}

int mch_child_is_taken(const struct child *child, uint32_t ticket) {
  return mch_child_claim_of(child, ticket) == mch_child_claim_word(ticket, MCH_CLAIM_TAKEN);
}

/* Whether the mark says that this ticket was begun. It says nothing of tickets not given out. */
int mch_child_is_marked(const struct child *child, uint32_t ticket) {
  uint32_t last = mch_begun_ticket(mch_platform_mark_get(child->begun));
  return last != 0 && !mch_child_is_before(child->last_ticket, last) &&
         !mch_child_is_before(last, ticket);
}

/* See to it that a task which has not begun never does. 0: it has begun. A claim can be written
 * over; the mark knows better. */
int mch_child_withdraw(struct child *child, const struct mch_task *task) {
  uint32_t ticket = task->ticket;
  uint64_t offered = mch_child_claim_word(ticket, MCH_CLAIM_OFFERED);
  if (!atomic_compare_exchange_strong(&child->shared->claims[ticket % MCH_CLAIMS], &offered,
                                      mch_child_claim_word(ticket, MCH_CLAIM_REVOKED)))
    return 0;
  if (mch_child_is_marked(child, ticket)) {
    mch_child_break_off(child);
    return 0;
  }
  atomic_store(&child->shared->orders.revoked[ticket % MCH_CLAIMS], ticket);
  return 1;
}

/* Take back a task that has not begun. 1 if it is ours again. */
int mch_child_take_back(struct child *child, struct mch_task *task) {
  if (!mch_child_withdraw(child, task))
    return 0;
  mch_child_settle(child, task);
  child->offers--;
  return 1;
}

void mch_child_give_back(struct child *child, struct mch_task *task) {
  mch_child_events(child)->returned(mch_child_events(child)->ud, task);
}

/* The task that the worker runs by what the page says, or NULL. Those before it may have answers
 * that are not read yet. */
struct mch_task *mch_child_begun(const struct child *child) {
  uint32_t passed = atomic_load(&child->shared->passed), ticket = child->first_ticket, i;
  if (child->outstanding == 0)
    return NULL;
  if (!mch_child_is_before(passed, ticket) && !mch_child_is_before(child->last_ticket, passed))
    ticket = after(passed);
  for (i = 0; i < MCH_CLAIMS && !mch_child_is_before(child->last_ticket, ticket); i++) {
    struct mch_task *task = child->offered[ticket % MCH_CLAIMS];
    if (task != NULL && task->ticket == ticket && mch_child_is_taken(child, ticket))
      return task;
    ticket = after(ticket);
  }
  return NULL;
}

/* Whether the page's word on items is about this batch, and can be right. */
int mch_child_is_items_word(const struct mch_task *task, uint64_t word) {
  return mch_items_ticket(word) == task->ticket && mch_items_limit(word) == task->batch->count &&
         mch_items_next(word) <= task->batch->count &&
         mch_items_next(word) >= task->batch->answered;
}

/* The ticket after the last one; 0 means none, so it is left out when the count wraps. */
uint32_t mch_child_next_ticket(const struct child *child) {
  return after(child->last_ticket);
}
