/* How a limit is asked: it says `ready`; then each line on stdin is a round, answered by its
 * seconds.
 *
 * Every program of this folder is a bare use of the system, without anything of mantichora, that
 * shows what the machine can do. scripts/bench/support/programs.lua compiles and asks them. */
#ifndef SERVE_H
#define SERVE_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double now(void) {
  struct timespec time;

  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* End with a word on what failed. */
static inline void must(int fine, const char *what) {
  if (fine)
    return;
  perror(what);
  exit(1);
}

static inline int by_time(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;

  return (x > y) - (x < y);
}

static inline double median(double *times, size_t count) {
  qsort(times, count, sizeof *times, by_time);
  return times[count / 2];
}

static inline void serve(double (*measure)(void *), void *with) {
  char line[64];

  printf("ready\n");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    printf("%.9f\n", measure(with));
    fflush(stdout);
  }
}

#endif
