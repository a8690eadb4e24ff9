/* Runs in: parent.
 *
 * How the owner waits: for one pool, for several that have joined a poller, for descriptors, for a
 * moment. Signals are blocked from the last look at them to the sleep. Naps are the one guess about
 * the rhythm of results: where they come in crowds, being woken for each costs more than it brings.
 */
#define _POSIX_C_SOURCE 200809L
#include "pool_state.h"

#include <pthread.h>
#include <signal.h>
#include <sys/select.h>
#include <time.h>

#include "runtime/base/platform.h"
#include "runtime/base/tricks.h"
#include "runtime/show/output.h"

static const uint64_t nap = 30000u;              /* 30 us, and what the kernel adds */
static const uint64_t longest_nap = 1000000u;    /* 1 ms */
static const uint64_t longest_look = 250000000u; /* for a signal that another thread took */

enum wakeup { NO_WAIT, NAP, WAIT };

/* How long to sleep without being woken when so many tasks or items of a group are waited for: half
 * of the time that they take by the mean of those that ran; 0: too short a time, or not known. */
static uint64_t nap_for(struct mch_pool *pool, const struct mch_group *group, size_t count) {
  size_t missing = count > group->finished ? count - group->finished : 0;
  uint64_t pace = group->items > 0 ? group->item_time / group->items : 0, time;
  unsigned running = pool->engine->ops->running(pool->engine, NULL, NULL);
  if (running == 0)
    return 0;
  time = missing > longest_nap / (pace + 1) * running ? longest_nap : missing * pace / running / 2;
  return time < nap ? 0 : time < longest_nap ? time : longest_nap;
}

/* Set `attended` for a wait. NO_WAIT: the driver took what the caller waits for. NAP: results come
 * in crowds and the workers have enough to do, so that a sleep, until `until` at the latest, brings
 * many, and being woken for each would slow all down. */
static enum wakeup attend(struct mch_pool *pool, const struct mch_waiting *waiting,
                          uint64_t *until) {
  enum wakeup wakeup = WAIT;
  pthread_mutex_lock(&pool->lock);
  if (pool->drives != pool->drives_seen || pool->pieces != NULL)
    wakeup = NO_WAIT;
  else {
    uint64_t length = pool->ended_since_wait >= CROWD && pool->submitted >= CROWD ? nap : 0;
    if (waiting->count > 1) /* a nap that brought nothing is the last one */
      length = pool->ended_since_wait > 0 ? nap_for(pool, waiting->group, waiting->count) : 0;
    pool->attended = 1;
    if (length > 0 && !mch_without(MCH_TRICK_NAPS)) {
      uint64_t end = mch_now() + length;
      wakeup = NAP;
      if (end < *until)
        *until = end;
    } else {
      uint64_t own = mch_pool_next_deadline(pool);
      if (own < *until)
        *until = own;
    }
  }
  pool->ended_since_wait = 0;
  pthread_mutex_unlock(&pool->lock);
  return wakeup;
}

void mch_pool_attend(struct mch_pool *pool, int attended) {
  pthread_mutex_lock(&pool->lock);
  pool->attended = attended;
  if (pool->driver != NULL)
    mch_driver_notice(pool->driver);
  pthread_mutex_unlock(&pool->lock);
}

/* A signal of the process that the main thread takes does not end another thread's wait: that one
 * looks again by itself. */
static uint64_t look_again(uint64_t until) {
  uint64_t look;
  if (mch_platform_is_main_thread())
    return until;
  look = mch_now() + longest_look;
  return look < until ? look : until;
}

void mch_wait(struct mch_poller *poller, uint64_t until, int (*interrupted)(void *ud), void *ud) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (!interrupted(ud))
    mch_poller_sleep(poller, look_again(until), &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* Sleep until a worker speaks, or as long as `wakeup` says. Whether a signal has something to
 * say. */
static int sleep_attended(struct mch_pool *pool, const struct mch_waiting *waiting,
                          enum wakeup wakeup, uint64_t until) {
  struct mch_ready ready[8];
  sigset_t all, old;
  int is_interrupted;
  if (wakeup == NAP) {
    mch_sleep_until(until, waiting->interrupted, waiting->ud);
    return waiting->interrupted(waiting->ud);
  }
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  is_interrupted = waiting->interrupted(waiting->ud);
  if (!is_interrupted)
    mch_poller_wait(pool->engine->poller, ready, 8, look_again(until), &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return is_interrupted;
}

/* Whether there is something that only the owner can do, outside of the pool. */
static int needs_owner(struct mch_pool *pool) {
  uint64_t now = mch_now();
  return pool->records != NULL || pool->pieces != NULL || pool->events.count > 0 ||
         pool->engine->ops->short_of_workers(pool->engine, pool->queue.count) ||
         mch_output_next(pool->output) <= now || mch_output_wants_owner(pool->output, now);
}

void mch_pool_wait(struct mch_pool *pool, const struct mch_waiting *waiting) {
  int is_over;
  do {
    uint64_t until = waiting->until;
    enum wakeup wakeup = attend(pool, waiting, &until);
    is_over = (wakeup != NO_WAIT && sleep_attended(pool, waiting, wakeup, until)) ||
              waiting->enough == NULL ||
              (waiting->until != MCH_NEVER && mch_now() >= waiting->until);
    if (!is_over) {
      pthread_mutex_lock(&pool->lock);
      mch_pool_pump_as_owner(pool);
      is_over = needs_owner(pool);
      pthread_mutex_unlock(&pool->lock);
      mch_hub_look(mch_output_hub(pool->output), mch_now());
    }
  } while (!is_over && !waiting->enough(waiting->ud));
  mch_pool_attend(pool, 0);
}

int mch_await_until(const int *fds, size_t count, uint64_t until, int (*interrupted)(void *ud),
                    void *ud) {
  sigset_t all, old;
  int readable = 0;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (!interrupted(ud))
    readable = mch_platform_await(fds, count, look_again(until), &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return readable;
}

void mch_sleep_until(uint64_t until, int (*interrupted)(void *ud), void *ud) {
  uint64_t now = mch_now(), end = look_again(until), left = end > now ? end - now : 0;
  struct timespec moment = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (!interrupted(ud))
    pselect(0, NULL, NULL, NULL, &moment, &old);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}
