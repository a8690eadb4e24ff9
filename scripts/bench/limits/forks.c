/* fork, exit and wait of some children at once: what a pool costs at least to make and to end.
 *
 *     forks CHILDREN */
#include <sys/wait.h>
#include <unistd.h>

#include "serve.h"

static double measure(void *with) {
  int children = *(int *)with;
  double start = now();

  for (int i = 0; i < children; i++) {
    pid_t pid = fork();

    must(pid >= 0, "fork");
    if (pid == 0)
      _exit(0);
  }
  for (int i = 0; i < children; i++)
    must(wait(NULL) > 0, "wait");
  return now() - start;
}

int main(int argc, char **argv) {
  int children = argc > 1 ? atoi(argv[1]) : 4;

  serve(measure, &children);
  return 0;
}
