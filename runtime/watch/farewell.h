/* Runs in: parent.
 *
 * A program that is told to end by SIGTERM or SIGHUP, and has no handler of its own, ends at once:
 * here it writes first what it has to leave. One per process, for our program only: in others these
 * signals are the host's. */
#ifndef MCH_FAREWELL_H
#define MCH_FAREWELL_H

/* Have `leave` called on a thread of its own when such a signal comes; then the process ends by it.
 * A second signal ends it at once. Nothing happens where the signals are ignored or handled, or no
 * thread can be had. */
void mch_farewell_begin(void (*leave)(void *ud), void *ud);

/* No longer; waits for `leave` if it runs. Nothing happens if it was not begun, or in a fork. */
void mch_farewell_end(void);

#endif
