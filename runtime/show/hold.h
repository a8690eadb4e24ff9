/* Runs in: parent.
 *
 * The host prints through its own `stdout` and `stderr` while bars stand on the same terminal. So
 * that its text lands above the bars instead of in them, these streams are held while bars are
 * there: what they write goes, in order, to a file in memory, and whoever draws next takes it from
 * there and writes it in its place. (Lua's print flushes: a larger buffer would hold nothing back.)
 *
 * What does not pass through these streams (a child of os.execute, write(2) to descriptor 1) is not
 * held. Text of a host that dies of a signal within the tenth of a second before the next frame is
 * lost; that of one which calls exit() is not, see mch_hold_at_exit().
 *
 * hold_glibc.c swaps the descriptor inside of glibc's streams. Elsewhere nothing is held. */
#ifndef MCH_HOLD_H
#define MCH_HOLD_H

#include <stdio.h>

#include "runtime/base/buf.h"

enum { MCH_HOLD_STDOUT = 1, MCH_HOLD_STDERR = 2, MCH_HOLD_BOTH = 3 };

static inline FILE *mch_hold_stream(int bit) {
  return bit == MCH_HOLD_STDOUT ? stdout : stderr;
}

struct mch_hold {
  int fd;       /* the file in memory, while held */
  int given[2]; /* its other descriptors, one for each stream: the host may close or reopen it */
  int streams;  /* which are held; 0: none */
};

/* Keep other threads off these streams. Returns those that it got, without those that the host has
 * closed; -1: one of them is busy just now (never with `wait`). */
int mch_hold_lock(int streams, int wait);
void mch_hold_unlock(int streams);

/* Whether two descriptors are open on the same file. */
int mch_hold_same_file(int a, int b);

/* Whether another thread reads from the host's stdin just now, and waits for what is typed there if
 * that is a terminal. */
int mch_hold_is_reading(void);

/* Flush the host's stdout. Lua thread only. */
void mch_hold_flush_stdout(void);

/* Hold these streams, which must be locked. Does nothing if some are held already, or if it cannot
 * be done. */
void mch_hold_begin(struct mch_hold *hold, int streams);

/* Move the text that has come so far to `text`. The streams must be locked. */
void mch_hold_take(struct mch_hold *hold, struct mch_buf *text);

/* Nonzero if text has come. The streams must be locked. */
int mch_hold_waiting(const struct mch_hold *hold);

/* The streams, which must be locked, write to where they did before. Text that was not taken is
 * forgotten. */
void mch_hold_end(struct mch_hold *hold);

/* After a fork, in the child: the streams write to where they did before, and what they have in
 * their buffers is forgotten, for it is the parent's. */
void mch_hold_drop(struct mch_hold *hold);

/* Have `leave(arg)` called by exit(), before it flushes the streams, or when this library is
 * unloaded. Zero: it will be. */
int mch_hold_at_exit(void (*leave)(void *arg), void *arg);

#endif
