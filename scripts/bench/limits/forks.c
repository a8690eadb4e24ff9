/* What it takes a small program to fork: forks.h.
 *
 *     forks CHILDREN */
#include "forks.h"

static double measure(void *with) {
  return fork_exit_wait(*(int *)with);
}

int main(int argc, char **argv) {
  int children = argc > 1 ? atoi(argv[1]) : 4;

  serve(measure, &children);
  return 0;
}
