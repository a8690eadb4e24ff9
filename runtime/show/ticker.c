/* Runs in: parent, on a thread of its own. Purpose: ticker.h. */
#define _POSIX_C_SOURCE 200809L
#include "ticker.h"

#include <signal.h>

#include "runtime/base/gate.h"
#include "runtime/base/platform.h"

enum { INTERVAL = 100000000 }; /* nanoseconds */

static void *run(void *argument) {
  struct mch_ticker *ticker = argument;
  pthread_mutex_lock(&ticker->lock);
  while (!ticker->stop) {
    mch_platform_condition_wait(&ticker->changed, &ticker->lock, INTERVAL);
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
  pthread_mutex_init(&ticker->lock, NULL);
  mch_platform_condition_init(&ticker->changed);
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
