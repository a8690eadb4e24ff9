/* Runs in: both.
 *
 * What is done at once when SIGTERM, SIGINT or SIGHUP ends this process, where nobody else wants to
 * know of it: then the end is the same as without us. Who takes these signals for a while asks here
 * what they would do otherwise. */
#ifndef MCH_ENDING_H
#define MCH_ENDING_H

#include <signal.h>

/* Called in a handler of signals, in this process alone. */
typedef void (*mch_last_act)(void);

/* To be done from now on; once, however often it is added. Nothing in a fork, until it is added
 * there. There may be four. */
void mch_ending_add(mch_last_act act);
void mch_ending_remove(mch_last_act act);

/* Whether nobody else handles the signal of which this is the action. */
int mch_ending_is_usual(const struct sigaction *action);

/* What the signal does without anybody else: what is to be done, if there is something, and then
 * its default. */
void mch_ending_set_usual(int number);

#endif
