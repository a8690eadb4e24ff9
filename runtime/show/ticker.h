/* Runs in: parent, on a thread of its own.
 *
 * While the host's text is held and no helper thread of a pool pumps, a thread must bring that text
 * to the screen even if the host's code is busy for a long time. This one lives as long as bars are
 * on the terminal. It never touches Lua, takes no signals, and does nothing while the process
 * forks. */
#ifndef MCH_TICKER_H
#define MCH_TICKER_H

#include <pthread.h>

struct mch_ticker {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  pthread_t thread;
  int alive; /* there is a thread to join */
  int stop;
  void (*tick)(void *ud); /* called ten times a second */
  void *ud;
};

void mch_ticker_init(struct mch_ticker *ticker, void (*tick)(void *ud), void *ud);

/* Start the thread, unless there is one; one that was told to stop must be joined first. Without
 * one (no memory) nobody ticks. */
void mch_ticker_start(struct mch_ticker *ticker);

/* Let it end; also from tick(). */
void mch_ticker_stop(struct mch_ticker *ticker);

/* Wait for it to end if it was told to. Not from tick(), and with no lock that tick() takes. */
void mch_ticker_join(struct mch_ticker *ticker);

/* Stop, join and free. */
void mch_ticker_free(struct mch_ticker *ticker);

#endif
