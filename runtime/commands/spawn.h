/* Runs in: child.
 *
 * Runs a command of the shell in a worker and keeps what it says in files without a name, so that
 * a program which it leaves behind cannot hold up its end. The command stays in the worker's
 * process group: what kills the worker kills it too. */
#ifndef MCH_SPAWN_H
#define MCH_SPAWN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mch_spawned {
  pid_t pid;    /* 0: none runs */
  int out, err; /* files; -1: none */
  int exitcode; /* when it has ended */
  int signal;   /* that ended it, or 0 */
};

/* An empty one. */
void mch_spawn_init(struct mch_spawned *command);

/* Begin `/bin/sh -c text`. 0, or errno. */
int mch_spawn_start(struct mch_spawned *command, const char *text);

/* Wait until it has ended: 0; EINTR: a signal came before; or another errno. */
int mch_spawn_wait(struct mch_spawned *command);

/* How much it has said on stdout (`which` is 1) or stderr (2), and those bytes. 0, or errno. */
int mch_spawn_size(const struct mch_spawned *command, int which, size_t *size);
int mch_spawn_get(const struct mch_spawned *command, int which, char *to, size_t size);

/* The worker's own stdout and stderr go to files while something of its own runs. */
struct mch_capture {
  int files[2], saved[2]; /* -1: none */
};

/* 0, or errno, and nothing has changed. */
int mch_capture_begin(struct mch_capture *capture);

/* Back to what they were; the files keep what was written, for mch_capture_size() and _get(). */
void mch_capture_end(struct mch_capture *capture);
int mch_capture_size(const struct mch_capture *capture, int which, size_t *size);
int mch_capture_get(const struct mch_capture *capture, int which, char *to, size_t size);
void mch_capture_drop(struct mch_capture *capture);

/* Ask the command and all that it started to end (SIGTERM), if it still runs; close the files. */
void mch_spawn_drop(struct mch_spawned *command);

#endif
