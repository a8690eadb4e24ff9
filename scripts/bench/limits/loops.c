/* The same arithmetic by one process and by two: how much faster this machine is with both of its
 * cores.
 *
 *     loops ADDITIONS
 *
 * The answer of a round is not a time, but how many times faster two are. */
#include <sys/wait.h>
#include <unistd.h>

#include "serve.h"

static void work(size_t additions) {
  volatile double sum = 0;

  for (size_t i = 0; i < additions; i++)
    sum = sum + 1.5;
}

static double time_of(int processes, size_t additions) {
  double start = now();

  for (int i = 0; i < processes; i++) {
    pid_t pid = fork();

    must(pid >= 0, "fork");
    if (pid == 0) {
      work(additions / (size_t)processes);
      _exit(0);
    }
  }
  for (int i = 0; i < processes; i++)
    must(wait(NULL) > 0, "wait");
  return now() - start;
}

static double measure(void *with) {
  size_t additions = *(size_t *)with;

  return time_of(1, additions) / time_of(2, additions);
}

int main(int argc, char **argv) {
  size_t additions = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;

  serve(measure, &additions);
  return 0;
}
