/* Runs in: parent, on a thread of its own. Purpose: driver.h.
 *
 * It has three ways of waiting: PARKED, on the condition variable, or in poll() where something is
 * served besides, while there is nothing to do or the owner is inside the pool; NEAR, a short
 * sleep, when the owner has just left and may be back at once (a loop of receive_one would
 * otherwise wake the thread each time; that is why it begins with one), when the owner queues tasks
 * without a pause (it pumps as it does so), or when many tasks end in a burst; POLLING, in poll(),
 * until a worker sends something. */
#include "driver.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/base/gate.h"
#include "runtime/base/platform.h"

static const uint64_t first_rest = 1000000u;      /* 1 ms: a short-lived pool needs no look */
static const uint64_t near_rest = 500000u;        /* 0.5 ms */
static const uint64_t unwatched_rest = 20000000u; /* where no descriptor tells */

enum rest { AWAKE, PARKED, NEAR, POLLING };

struct mch_driver {
  struct mch_driven driven;
  pthread_t thread;
  pthread_cond_t changed;
  enum rest rest;
  uint64_t until; /* POLLING, PARKED: when it will come back by itself */
  int wake[2];    /* a pipe to end POLLING and NEAR with */
  int woken;      /* a byte is in it */
  int listens;    /* PARKED in poll() */
  int serves;     /* what is served besides is due */
  int near;       /* the next rest is NEAR */
  int stop;
};

static void wake(struct mch_driver *driver) {
  if (!driver->woken && write(driver->wake[1], "", 1) == 1)
    driver->woken = 1;
}

/* A descriptor and a time to wait for besides; MCH_NEVER and -1: none. */
static int side(const struct mch_driver *driver, uint64_t *due) {
  *due = MCH_NEVER;
  return driver->driven.side != NULL ? driver->driven.side(driver->driven.ud, due) : -1;
}

/* Until it is woken, `fd` (-1: none) is readable, or what is served besides is due; at `until` at
 * the latest. */
static void rest_in_poll(struct mch_driver *driver, int fd, uint64_t until) {
  struct pollfd fds[3] = {{driver->wake[0], POLLIN, 0}, {fd, POLLIN, 0}, {-1, POLLIN, 0}};
  uint64_t due;
  char bytes[16];
  fds[2].fd = side(driver, &due);
  pthread_mutex_unlock(driver->driven.lock);
  poll(fds, 3, mch_milliseconds_until(mch_sooner(until, due)));
  pthread_mutex_lock(driver->driven.lock);
  driver->rest = AWAKE;
  driver->serves |= (fds[2].revents != 0) || (due != MCH_NEVER && mch_now() >= due);
  if (driver->woken && read(driver->wake[0], bytes, sizeof bytes) > 0)
    driver->woken = 0;
}

static void rest_parked(struct mch_driver *driver) {
  uint64_t due, now;
  driver->until = driver->driven.record_due(driver->driven.ud);
  driver->rest = PARKED;
  driver->listens = side(driver, &due) >= 0 || due != MCH_NEVER;
  if (driver->listens)
    rest_in_poll(driver, -1, driver->until);
  else if (driver->until == MCH_NEVER)
    pthread_cond_wait(&driver->changed, driver->driven.lock);
  else if ((now = mch_now()) < driver->until)
    mch_platform_condition_wait(&driver->changed, driver->driven.lock, driver->until - now);
  driver->rest = AWAKE;
  driver->near = 1;
}

static void come_from_near(struct mch_driver *driver, uint64_t rest) {
  mch_platform_await(&driver->wake[0], 1, mch_now() + rest, NULL);
  pthread_mutex_lock(driver->driven.lock);
  driver->rest = AWAKE;
}

static void rest_near(struct mch_driver *driver) {
  driver->rest = NEAR;
  driver->near = 0;
  pthread_mutex_unlock(driver->driven.lock);
  come_from_near(driver, near_rest);
}

static void rest_polling(struct mch_driver *driver) {
  driver->until = mch_sooner(driver->driven.deadline(driver->driven.ud),
                             driver->driven.record_due(driver->driven.ud));
  if (driver->driven.fd < 0 && driver->until > mch_now() + unwatched_rest)
    driver->until = mch_now() + unwatched_rest;
  driver->rest = POLLING;
  rest_in_poll(driver, driver->driven.fd, driver->until);
}

/* While another thread serves it is left alone for a moment. */
static void serve(struct mch_driver *driver) {
  int served;
  driver->serves = 0;
  pthread_mutex_unlock(driver->driven.lock);
  served = driver->driven.serve(driver->driven.ud);
  pthread_mutex_lock(driver->driven.lock);
  if (!served && !driver->stop)
    rest_near(driver);
}

static void record(struct mch_driver *driver) {
  mch_gate_hold_off();
  pthread_mutex_unlock(driver->driven.lock);
  driver->driven.record(driver->driven.ud);
  mch_gate_let_go();
  pthread_mutex_lock(driver->driven.lock);
}

static void *drive(void *argument) {
  struct mch_driver *driver = argument;
  const struct mch_driven *driven = &driver->driven;
  mch_gate_let_go(); /* it is born */
  come_from_near(driver, first_rest);
  while (!driver->stop) {
    if (driven->record_due(driven->ud) <= mch_now())
      record(driver);
    else if (driven->attended(driven->ud) || !driven->busy(driven->ud)) {
      rest_parked(driver);
      if (driver->serves)
        serve(driver);
    } else {
      if (driver->near)
        rest_near(driver);
      else
        rest_polling(driver);
      if (driver->serves)
        serve(driver);
      if (driver->stop || driven->attended(driven->ud))
        continue;
      mch_gate_hold_off();
      driver->near = driven->pump(driven->ud);
      pthread_mutex_unlock(driven->lock);
      driven->draw(driven->ud);
      mch_gate_let_go();
      pthread_mutex_lock(driven->lock);
    }
  }
  pthread_mutex_unlock(driven->lock);
  return NULL;
}

/* A thread that is being born holds locks of the C library (or of a sanitizer) that a fork would
 * copy: nobody forks before it has come to its function. */
static int start_thread(struct mch_driver *driver) {
  sigset_t all, old;
  int code;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old); /* the thread inherits it: it takes no signals */
  mch_gate_hold_off();
  code = pthread_create(&driver->thread, NULL, drive, driver);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (code != 0)
    mch_gate_let_go();
  return code;
}

struct mch_driver *mch_driver_new(const struct mch_driven *driven) {
  struct mch_driver *driver = calloc(1, sizeof *driver);
  if (driver == NULL)
    return NULL;
  driver->driven = *driven;
  driver->rest = NEAR;
  if (mch_platform_pipe(driver->wake, NULL) != 0) {
    free(driver);
    return NULL;
  }
  mch_platform_nonblocking(driver->wake[0]);
  mch_platform_nonblocking(driver->wake[1]);
  mch_platform_condition_init(&driver->changed);
  if (start_thread(driver) == 0)
    return driver;
  pthread_cond_destroy(&driver->changed);
  close(driver->wake[0]);
  close(driver->wake[1]);
  free(driver);
  return NULL;
}

void mch_driver_notice(struct mch_driver *driver) {
  const struct mch_driven *driven = &driver->driven;
  if (driver->rest == PARKED && ((driven->busy(driven->ud) && !driven->attended(driven->ud)) ||
                                 driven->record_due(driven->ud) < driver->until)) {
    if (driver->listens)
      wake(driver);
    else
      pthread_cond_signal(&driver->changed);
  } else if (driver->rest == POLLING && mch_sooner(driven->deadline(driven->ud),
                                                   driven->record_due(driven->ud)) < driver->until)
    wake(driver);
}

void mch_driver_look(struct mch_driver *driver) {
  if (driver->rest == PARKED && !driver->listens)
    pthread_cond_signal(&driver->changed);
  else if (driver->rest != AWAKE)
    wake(driver);
}

/* It is woken when the lock is free, which is what it wants first. */
void mch_driver_stop(struct mch_driver *driver) {
  pthread_mutex_lock(driver->driven.lock);
  driver->stop = 1;
  if (driver->rest != PARKED || driver->listens)
    wake(driver);
  pthread_mutex_unlock(driver->driven.lock);
  pthread_cond_signal(&driver->changed);
}

void mch_driver_free(struct mch_driver *driver) {
  mch_driver_stop(driver);
  pthread_join(driver->thread, NULL);
  pthread_cond_destroy(&driver->changed);
  close(driver->wake[0]);
  close(driver->wake[1]);
  free(driver);
}
