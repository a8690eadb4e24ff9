/* Runs in: both (a worker has pools of its own).
 *
 * A client of GNU make's jobserver, which hands out tokens: one for each job beside the one that
 * make has started itself. So a process may run one task without a token, and needs one for each
 * that runs beside it, whatever pools and Lua states it has: what is counted here is the process's.
 *
 * Tokens are bytes in a pipe or a FIFO. Which ones were taken stands in memory that a process
 * shares with its workers, so that what a worker had taken for a pool of its own is given back when
 * it is killed. They are given back at the end of the process too, and at a SIGTERM, SIGINT or
 * SIGHUP that nobody handles; only SIGKILL to the outermost process loses them. */
#ifndef MCH_JOBSERVER_H
#define MCH_JOBSERVER_H

#include <stddef.h>

enum mch_jobserver {
  MCH_JOBSERVER_NONE,    /* not under make -j */
  MCH_JOBSERVER_READY,   /* tokens are to be had */
  MCH_JOBSERVER_UNUSABLE /* under make -j, but they are not */
};

/* What `makeflags` (MAKEFLAGS, or NULL) says. READY: it is open until mch_jobserver_close(), which
 * is called as often. `jobs`: the number behind -j, or 0. UNUSABLE: `why` says it; empty if it was
 * said before in this process or one that it is a fork of, or nobody need be told. */
enum { MCH_JOBSERVER_WHY = 384 };
enum mch_jobserver mch_jobserver_open(const char *makeflags, unsigned *jobs,
                                      char why[MCH_JOBSERVER_WHY]);
void mch_jobserver_close(void);

/* The process ends, whatever it still does: all tokens are given back. */
void mch_jobserver_leave(void);

/* Whether one more task may run now: never waits. To be given back when it has ended. */
int mch_jobserver_take(void);
void mch_jobserver_give(void);

/* So many tasks run already, without having asked. To be given back likewise. */
void mch_jobserver_adopt(size_t tasks);

/* Readable when there may be a token. */
int mch_jobserver_fd(void);

#endif
