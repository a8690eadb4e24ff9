/* fork, exit and wait of some children at once: what a pool costs at least to make and to end. Of a
 * small program (forks.c), or of our own process (lua_limits.c). */
#ifndef FORKS_H
#define FORKS_H

#include <sys/wait.h>
#include <unistd.h>

#include "serve.h"

static inline pid_t fork_one(void) {
  pid_t pid = fork();

  must(pid >= 0, "fork");
  return pid;
}

/* Seconds that it takes. */
static inline double fork_exit_wait(int children) {
  double start = now();

  for (int i = 0; i < children; i++)
    if (fork_one() == 0)
      _exit(0);
  for (int i = 0; i < children; i++)
    must(wait(NULL) > 0, "wait");
  return now() - start;
}

#endif
