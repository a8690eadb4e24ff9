/* Many bytes from a child over a socketpair: what a large string costs at least to move.
 *
 *     transfer fresh|huge|warm BYTES
 *
 * They are received into memory that is mapped for each round, in pages as they come or advised to
 * be huge, or into memory that has been there before. The child's side is warm. */
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve.h"

enum { PIECE = 1024 * 1024 };

struct transfer {
  const char *into;
  size_t size;
  char *warm;
  int fd;
};

static char *map(size_t size) {
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  must(memory != MAP_FAILED, "mmap");
  return memory;
}

static void receive(int fd, char *memory, size_t size) {
  while (size) {
    ssize_t got = read(fd, memory, size < PIECE ? size : PIECE);

    must(got > 0, "read");
    memory += got;
    size -= (size_t)got;
  }
}

/* For each byte of the parent, all of it. */
static void child_send(int fd, size_t size) {
  char *memory = map(size);
  char one;

  memset(memory, 'x', size);
  while (read(fd, &one, 1) == 1)
    for (size_t sent = 0; sent < size;) {
      ssize_t wrote = write(fd, memory + sent, size - sent);

      must(wrote > 0, "write of the child");
      sent += (size_t)wrote;
    }
  _exit(0);
}

static double measure(void *with) {
  struct transfer *transfer = with;
  double start = now(), seconds;
  char *memory = transfer->warm ? transfer->warm : map(transfer->size);

  if (strcmp(transfer->into, "huge") == 0)
    must(madvise(memory, transfer->size, MADV_HUGEPAGE) == 0, "madvise");
  must(write(transfer->fd, "", 1) == 1, "write");
  receive(transfer->fd, memory, transfer->size);
  seconds = now() - start;
  if (!transfer->warm)
    must(munmap(memory, transfer->size) == 0, "munmap");
  return seconds;
}

int main(int argc, char **argv) {
  struct transfer transfer = {0};
  int fds[2];

  must(argc > 2, "usage: transfer fresh|huge|warm BYTES");
  transfer.into = argv[1];
  transfer.size = strtoul(argv[2], NULL, 10);
  if (strcmp(transfer.into, "warm") == 0)
    transfer.warm = map(transfer.size);
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "socketpair");
  if (fork() == 0) {
    close(fds[0]);
    child_send(fds[1], transfer.size);
  }
  close(fds[1]);
  transfer.fd = fds[0];
  serve(measure, &transfer);
  return 0;
}
