/* Runs in: parent.
 *
 * A report of the run: one HTML file that needs no network, with a timeline, the slowest tasks, the
 * failures, counts and utilisation. It is written anew while the script runs, by another name
 * first, so that there is always a whole one. What it keeps is bounded: of many tasks the slowest,
 * and sums (gathering.h). It observes a state's pools; workers pass on what pools inside of their
 * tasks do. */
#ifndef MCH_REPORT_H
#define MCH_REPORT_H

#include "runtime/base/error.h"

struct mch_hub;
struct mch_report_file;

/* Begin a report in a file of this name ("%p" in it is the process's number), and write it for the
 * first time. NULL: `error` says why not. */
struct mch_report_file *mch_report_open(const char *pattern, const char *script,
                                        const char *version, struct mch_error *error);

/* Observe this hub's pools from now on, if it does not yet. 0, or MCH_NOMEM. */
int mch_report_observe(struct mch_report_file *report, struct mch_hub *hub);

/* In a worker, at the end of a pool of its own: pass on what it has done. */
void mch_report_flush(struct mch_report_file *report);

/* Write it as it is now, for the last time: `over`: the script has ended. On any thread. */
void mch_report_finish(struct mch_report_file *report, int over);

/* Why it could not be written, told once: 1. 0: all is well. */
int mch_report_problem(struct mch_report_file *report, struct mch_error *error);

/* Finish and free it. NULL: nothing. */
void mch_report_close(struct mch_report_file *report);

#endif
