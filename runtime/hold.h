/* Runs in: parent.
 *
 * The host prints through its own `stdout` and `stderr` while bars stand on the same terminal. So
 * that its text lands above the bars instead of in them, these streams are held while bars are
 * there: switched to full buffering; whoever draws takes what they hold and writes it in its place.
 *
 * What has gone past a hold (the host flushed, or more than a bufferful came at once) is noticed:
 * the text of a single flush is told, so that the drawer can count its rows; more than that is
 * reported as lost track. What does not pass through these streams at all (a child of os.execute,
 * write(2)) is not seen.
 *
 * All of this knows the inside of glibc's streams. Elsewhere nothing is held, and only flushing
 * before drawing is done. All functions but mch_hold_lock() are called between it and unlock. */
#ifndef MCH_HOLD_H
#define MCH_HOLD_H

#include <stdio.h>

#include "buf.h"

struct mch_hold {
  FILE *stream;
  int active;
  int restore;  /* the buffering mode to go back to */
  void *buffer; /* ours; NULL while the stream uses its own */
};

/* Keep other threads off the stream: 1. `wait`: for as long as it takes; else 0 if it is busy. -1
 * if the host has closed it. */
int mch_hold_lock(FILE *stream, int wait);
void mch_hold_unlock(FILE *stream);

/* The bytes that the stream has buffered, as far as can be known; 0 or 1 where it cannot: 1. */
size_t mch_hold_pending(FILE *stream);

/* Begin and end to hold. Text that the stream has buffered must have been taken before. */
void mch_hold_begin(struct mch_hold *hold);
void mch_hold_end(struct mch_hold *hold);

/* Move what the stream has buffered to `text`; also while not held. To `passed` goes the text of a
 * single flush that went past the hold. Nonzero: more than that has passed. */
int mch_hold_take(struct mch_hold *hold, struct mch_buf *text, struct mch_buf *passed);

/* Nonzero if text is waiting that had better be taken now: something went past, or the buffer fills
 * up. */
int mch_hold_urgent(const struct mch_hold *hold);

/* After a fork, in the child: forget buffered text (it is the parent's) and end the hold. */
void mch_hold_drop(struct mch_hold *hold);

#endif
