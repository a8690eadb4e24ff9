/* 64 bytes to a child over a socketpair and back: what one task to a waiting worker costs at least.
 *
 *     pingpong both|one ROUNDTRIPS
 *
 * The two processes are on cores of their own, or on one. The answer is the median of a round. */
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve.h"

enum { FRAME = 64 };

struct pair {
  int fd;
  size_t roundtrips;
  double *times;
};

static void stay_on(int place) {
  cpu_set_t usable, chosen;
  int seen = 0;
  size_t last = 0;

  must(sched_getaffinity(0, sizeof usable, &usable) == 0, "sched_getaffinity");
  for (size_t cpu = 0; cpu < CPU_SETSIZE && seen <= place; cpu++) {
    if (CPU_ISSET(cpu, &usable)) {
      last = cpu;
      seen++;
    }
  }
  CPU_ZERO(&chosen);
  CPU_SET(last, &chosen);
  must(sched_setaffinity(0, sizeof chosen, &chosen) == 0, "sched_setaffinity");
}

static void echo(int fd) {
  char frame[FRAME];

  while (read(fd, frame, sizeof frame) == FRAME)
    must(write(fd, frame, sizeof frame) == FRAME, "write of the child");
  _exit(0);
}

static double measure(void *with) {
  struct pair *pair = with;
  char frame[FRAME] = {0};

  for (size_t i = 0; i < pair->roundtrips; i++) {
    double start = now();

    must(write(pair->fd, frame, sizeof frame) == FRAME, "write");
    must(read(pair->fd, frame, sizeof frame) == FRAME, "read");
    pair->times[i] = now() - start;
  }
  return median(pair->times, pair->roundtrips);
}

int main(int argc, char **argv) {
  struct pair pair = {0};
  int fds[2];

  must(argc > 2, "usage: pingpong both|one ROUNDTRIPS");
  pair.roundtrips = strtoul(argv[2], NULL, 10);
  pair.times = calloc(pair.roundtrips + 1, sizeof *pair.times);
  must(pair.times && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "socketpair");
  if (fork() == 0) {
    close(fds[0]);
    stay_on(strcmp(argv[1], "both") == 0);
    echo(fds[1]);
  }
  close(fds[1]);
  stay_on(0);
  pair.fd = fds[0];
  serve(measure, &pair);
  return 0;
}
