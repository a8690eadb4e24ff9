/* Runs in: parent, on a thread of its own. Purpose: ticker.h. */
#define _POSIX_C_SOURCE 200809L
#include "ticker.h"

#include <signal.h>
#include <time.h>

#include "runtime/base/gate.h"

enum { INTERVAL = 100000000 }; /* nanoseconds */

#if defined(__APPLE__) /* no pthread_condattr_setclock() */
#define TICKER_CLOCK CLOCK_REALTIME
#else
#define TICKER_CLOCK CLOCK_MONOTONIC
#endif

static struct timespec in_an_interval(void) {
  struct timespec time = {0, 0};
  clock_gettime(TICKER_CLOCK, &time);
  time.tv_nsec += INTERVAL;
  if (time.tv_nsec >= 1000000000) {
    time.tv_nsec -= 1000000000;
    time.tv_sec++;
  }
  return time;
}

static void *run(void *argument) {
  struct mch_ticker *ticker = argument;
  pthread_mutex_lock(&ticker->lock);
  while (!ticker->stop) {
    struct timespec until = in_an_interval();
    pthread_cond_timedwait(&ticker->changed, &ticker->lock, &until);
    if (ticker->stop)
      break;
    pthread_mutex_unlock(&ticker->lock);
    mch_gate_hold_off();
    ticker->tick(ticker->ud);
    mch_gate_let_go();
    pthread_mutex_lock(&ticker->lock);
  }
  pthread_mutex_unlock(&ticker->lock);
  return NULL;
}

void mch_ticker_init(struct mch_ticker *ticker, void (*tick)(void *ud), void *ud) {
  pthread_condattr_t attributes;
  pthread_mutex_init(&ticker->lock, NULL);
  pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
  pthread_condattr_setclock(&attributes, TICKER_CLOCK);
#endif
  pthread_cond_init(&ticker->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  ticker->alive = ticker->stop = 0;
  ticker->tick = tick;
  ticker->ud = ud;
}

void mch_ticker_start(struct mch_ticker *ticker) {
  sigset_t all, old;
  pthread_mutex_lock(&ticker->lock);
  if (!ticker->alive) {
    ticker->stop = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the thread inherits it: it takes no signals */
    ticker->alive = pthread_create(&ticker->thread, NULL, run, ticker) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
  }
  pthread_mutex_unlock(&ticker->lock);
}

void mch_ticker_stop(struct mch_ticker *ticker) {
  pthread_mutex_lock(&ticker->lock);
  ticker->stop = 1;
  pthread_cond_signal(&ticker->changed);
  pthread_mutex_unlock(&ticker->lock);
}

void mch_ticker_join(struct mch_ticker *ticker) {
  int join;
  pthread_mutex_lock(&ticker->lock);
  join = ticker->alive && ticker->stop;
  if (join)
    ticker->alive = 0;
  pthread_mutex_unlock(&ticker->lock);
  if (join)
    pthread_join(ticker->thread, NULL);
}

void mch_ticker_free(struct mch_ticker *ticker) {
  mch_ticker_stop(ticker);
  mch_ticker_join(ticker);
  pthread_cond_destroy(&ticker->changed);
  pthread_mutex_destroy(&ticker->lock);
}
