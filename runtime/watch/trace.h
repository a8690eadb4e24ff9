/* Runs in: both.
 *
 * A trace of the run for Perfetto and chrome://tracing: their JSON events, one a line of a
 * tracefile. A process is a process, a slot of a pool a thread of it:
 *
 *   M   process_name, thread_name: the script, "slot 3"
 *   X   an attempt of a task: from its start on the worker's own clock, with run ID, name, kind,
 *       attempt, worker, memory
 *   i   the death of a worker
 *   C   "queue": tasks that wait and run; "memory": bytes of this process and of its workers
 *
 * It observes a state's pools (show/observe.h). In workers it is quiet until they make pools of
 * their own, whose events go to the same file. */
#ifndef MCH_TRACE_H
#define MCH_TRACE_H

#include "runtime/base/error.h"

struct mch_hub;
struct mch_trace;

/* Begin a trace in a file of this name ("%p" in it is the process's number); `script` is what the
 * process is called there. NULL: `error` says why. */
struct mch_trace *mch_trace_open(const char *pattern, const char *script, struct mch_error *error);

/* Observe this hub's pools from now on, if it does not yet; in a worker what happens there is that
 * of the run ID's task. 0, or MCH_NOMEM. */
int mch_trace_observe(struct mch_trace *trace, struct mch_hub *hub);

/* Write what has happened so far. On any thread, also while others are at it. */
void mch_trace_flush(struct mch_trace *trace);

/* Write what is left; nothing is observed any more, and nothing written later. On any thread. */
void mch_trace_finish(struct mch_trace *trace);

/* Why nothing is written any more, told once: 1. 0: all is well. */
int mch_trace_problem(struct mch_trace *trace, struct mch_error *error);

/* Finish and free it. NULL: nothing. */
void mch_trace_close(struct mch_trace *trace);

#endif
