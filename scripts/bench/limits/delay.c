/* A long way: runs a command, and passes on what goes into it and comes out of it so much later.
 *
 *     delay MILLISECONDS COMMAND ...
 *
 * It stands for a link of twice that round trip, without a network that could be set to it. No
 * more than a few MiB wait on the way in each direction. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "serve.h"

enum { PIECES = 4096, ROOM = 4 * 1024 * 1024 };

struct way {
  int from, to, ended;
  double late;
  size_t read, length; /* of bytes, which go round */
  unsigned char *bytes;
  struct {
    double due;
    size_t count;
  } pieces[PIECES];
  size_t first, count;
};

static void take(struct way *way) {
  size_t at = (way->read + way->length) % ROOM, room = ROOM - way->length;
  size_t most = at + room > ROOM ? ROOM - at : room, last = (way->first + way->count) % PIECES;
  ssize_t got = read(way->from, way->bytes + at, most);

  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (got <= 0) {
    way->ended = 1;
    return;
  }
  way->length += (size_t)got;
  way->pieces[last].due = now() + way->late;
  way->pieces[last].count = (size_t)got;
  way->count++;
}

static void give(struct way *way) {
  while (way->count > 0 && way->pieces[way->first].due <= now()) {
    size_t count = way->pieces[way->first].count;
    size_t most = way->read + count > ROOM ? ROOM - way->read : count;
    ssize_t wrote = write(way->to, way->bytes + way->read, most);

    if (wrote < 0 && errno == EAGAIN)
      return;
    must(wrote > 0, "write");
    way->read = (way->read + (size_t)wrote) % ROOM;
    way->length -= (size_t)wrote;
    way->pieces[way->first].count -= (size_t)wrote;
    if (way->pieces[way->first].count > 0)
      continue;
    way->first = (way->first + 1) % PIECES;
    way->count--;
  }
  if (way->ended && way->count == 0 && way->to >= 0) {
    close(way->to);
    way->to = -1;
  }
}

static void pass(struct way ways[2]) {
  struct pollfd fds[4];
  int patience = 1000, i;

  for (i = 0; i < 2; i++) {
    struct way *way = &ways[i];
    double left = way->count > 0 ? way->pieces[way->first].due - now() : 1;

    fds[i].fd = !way->ended && way->count < PIECES && way->length < ROOM ? way->from : -1;
    fds[i].events = POLLIN;
    fds[2 + i].fd = left <= 0 ? way->to : -1;
    fds[2 + i].events = POLLOUT;
    if (left > 0 && left * 1000 < patience)
      patience = (int)(left * 1000) + 1;
  }
  must(poll(fds, 4, patience) >= 0 || errno == EINTR, "poll");
  for (i = 0; i < 2; i++) {
    if (fds[i].fd >= 0 && fds[i].revents != 0)
      take(&ways[i]);
    give(&ways[i]);
  }
}

int main(int argc, char **argv) {
  static struct way ways[2];
  int in[2], out[2], i;

  must(argc > 2, "usage: delay MILLISECONDS COMMAND ...");
  must(pipe(in) == 0 && pipe(out) == 0, "pipe");
  if (fork() == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    for (i = 0; i < 2; i++) {
      close(in[i]);
      close(out[i]);
    }
    execvp(argv[2], argv + 2);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  ways[0].from = 0;
  ways[0].to = in[1];
  ways[1].from = out[0];
  ways[1].to = 1;
  for (i = 0; i < 2; i++) {
    ways[i].late = strtod(argv[1], NULL) / 1000;
    ways[i].bytes = malloc(ROOM);
    must(ways[i].bytes != NULL, "malloc");
    fcntl(ways[i].from, F_SETFL, O_NONBLOCK);
    fcntl(ways[i].to, F_SETFL, O_NONBLOCK);
  }
  while (ways[1].to >= 0) /* until the command has ended, and all of it was said */
    pass(ways);
  return 0;
}
