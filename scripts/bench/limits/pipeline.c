/* A pool of two children over socketpairs, kept full: what many tiny tasks cost at least.
 *
 *     pipeline TASKS BATCH
 *
 * A request and a reply have 64 bytes each. BATCH 1: each is one call of write and one of read.
 * More: so many requests in a write, and a reader takes what there is and answers all of it in one
 * write. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve.h"

enum { CHILDREN = 2, FRAME = 64, BUFFER = 64 * 1024 };

struct pool {
  size_t tasks, batch; /* of a round; requests in a write */
  size_t read;         /* bytes at most */
  struct child {
    int fd;
    size_t to_send, to_receive; /* bytes of this round */
  } children[CHILDREN];
};

static void child_write(int fd, const char *bytes, size_t size) {
  while (size) {
    ssize_t wrote = write(fd, bytes, size);

    must(wrote > 0, "write of a child");
    bytes += wrote;
    size -= (size_t)wrote;
  }
}

/* Answer until the parent closes. */
static void child_work(int fd, size_t at_most) {
  static char buffer[BUFFER];
  size_t have = 0;
  ssize_t got;

  while ((got = read(fd, buffer + have, at_most - have)) > 0) {
    size_t whole = (have + (size_t)got) / FRAME * FRAME;

    child_write(fd, buffer, whole);
    have = have + (size_t)got - whole;
    memmove(buffer, buffer + whole, have);
  }
  _exit(0);
}

static void start(struct pool *pool) {
  for (int i = 0; i < CHILDREN; i++) {
    int fds[2];

    must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "socketpair");
    if (fork() == 0) {
      for (int j = 0; j < i; j++)
        close(pool->children[j].fd);
      close(fds[0]);
      child_work(fds[1], pool->read);
    }
    close(fds[1]);
    must(fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0, "fcntl");
    pool->children[i].fd = fds[0];
  }
}

/* Until the socket is full. */
static void send_requests(struct pool *pool, struct child *child) {
  static const char requests[BUFFER];

  while (child->to_send) {
    size_t size = pool->batch * FRAME;
    ssize_t wrote = write(child->fd, requests, size < child->to_send ? size : child->to_send);

    if (wrote < 0 && errno == EAGAIN)
      return;
    must(wrote > 0, "write");
    child->to_send -= (size_t)wrote;
  }
}

static void receive_replies(struct pool *pool, struct child *child) {
  static char replies[BUFFER];
  ssize_t got = read(child->fd, replies, pool->read);

  must(got > 0, "read");
  child->to_receive -= (size_t)got;
}

static double measure(void *with) {
  struct pool *pool = with;
  size_t left = CHILDREN;
  double start_time = now();

  for (size_t i = 0; i < CHILDREN; i++) {
    size_t share = (pool->tasks + i) / CHILDREN * FRAME;

    pool->children[i].to_send = pool->children[i].to_receive = share;
    send_requests(pool, &pool->children[i]);
  }
  while (left) {
    struct pollfd polled[CHILDREN];

    left = 0;
    for (size_t i = 0; i < CHILDREN; i++) {
      struct child *child = &pool->children[i];

      polled[i].fd = child->to_receive ? child->fd : -1;
      polled[i].events = (short)(POLLIN | (child->to_send ? POLLOUT : 0));
      left += child->to_receive != 0;
    }
    if (left)
      must(poll(polled, CHILDREN, -1) > 0, "poll");
    for (size_t i = 0; left && i < CHILDREN; i++) {
      if (polled[i].revents & POLLIN)
        receive_replies(pool, &pool->children[i]);
      if (polled[i].revents & POLLOUT)
        send_requests(pool, &pool->children[i]);
    }
  }
  return now() - start_time;
}

int main(int argc, char **argv) {
  struct pool pool = {0};

  pool.tasks = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
  pool.batch = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
  must(pool.tasks >= CHILDREN && pool.batch >= 1 && pool.batch * FRAME <= BUFFER,
       "usage: TASKS BATCH");
  pool.read = pool.batch > 1 ? BUFFER : FRAME;
  start(&pool);
  serve(measure, &pool);
  return 0;
}
