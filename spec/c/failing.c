/* Preloaded (LD_PRELOAD) by spec/scarcity_spec.lua: the calls of one kind that mantichora makes
 * fail.
 *
 *     FAIL_CALL    which: malloc, fork, ...
 *     FAIL_FIRST   the first that fails, from 1; FAIL_LAST the last one
 *     FAIL_TOUCH   this file is made when one has failed
 *
 * Only calls out of code of ours count: others' have their own ways to fail. Calls are counted in
 * each process by itself; a child goes on from its parent's count. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

static int count;

static int number(const char *name) {
  const char *text = getenv(name);
  return text != NULL ? atoi(text) : 0;
}

/* Whether this call, made at `caller`, is one that fails. */
static int fails(const char *call, void *caller) {
  const char *wanted = getenv("FAIL_CALL"), *path;
  Dl_info info;
  int fd;
  if (wanted == NULL || strcmp(wanted, call) != 0 || dladdr(caller, &info) == 0 ||
      info.dli_fname == NULL || strstr(info.dli_fname, "mantichora") == NULL)
    return 0;
  count++;
  if (count < number("FAIL_FIRST") || count > number("FAIL_LAST"))
    return 0;
  path = getenv("FAIL_TOUCH");
  if (path != NULL && (fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) >= 0)
    close(fd);
  return 1;
}

#define FAILS(call) fails(call, __builtin_return_address(0))
#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

void *malloc(size_t size) {
  if (!FAILS("malloc"))
    return __libc_malloc(size);
  errno = ENOMEM;
  return NULL;
}

void *calloc(size_t many, size_t size) {
  if (!FAILS("calloc"))
    return __libc_calloc(many, size);
  errno = ENOMEM;
  return NULL;
}

void *realloc(void *old, size_t size) {
  if (!FAILS("realloc"))
    return __libc_realloc(old, size);
  errno = ENOMEM;
  return NULL;
}

pid_t fork(void) {
  if (!FAILS("fork"))
    return NEXT(pid_t(*)(void), "fork")();
  errno = EAGAIN;
  return -1;
}

int pipe2(int fds[2], int flags) {
  if (!FAILS("pipe2"))
    return NEXT(int (*)(int[2], int), "pipe2")(fds, flags);
  errno = EMFILE;
  return -1;
}

int socketpair(int domain, int type, int protocol, int fds[2]) {
  if (!FAILS("socketpair"))
    return NEXT(int (*)(int, int, int, int[2]), "socketpair")(domain, type, protocol, fds);
  errno = EMFILE;
  return -1;
}

int epoll_create1(int flags) {
  if (!FAILS("epoll_create1"))
    return NEXT(int (*)(int), "epoll_create1")(flags);
  errno = EMFILE;
  return -1;
}

int epoll_ctl(int set, int what, int fd, struct epoll_event *event) {
  if (what != EPOLL_CTL_ADD || !FAILS("epoll_ctl"))
    return NEXT(int (*)(int, int, int, struct epoll_event *), "epoll_ctl")(set, what, fd, event);
  errno = ENOSPC;
  return -1;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (!FAILS("mmap"))
    return NEXT(void *(*)(void *, size_t, int, int, int, off_t), "mmap")(at, size, protection,
                                                                         flags, fd, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *),
                   void *argument) {
  if (FAILS("pthread_create"))
    return EAGAIN;
  return NEXT(int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *),
              "pthread_create")(thread, attributes, body, argument);
}

/* pidfd_open has no function of its own. */
long syscall(long what, ...) {
  long arguments[6];
  va_list list;
  int i;
  va_start(list, what);
  for (i = 0; i < 6; i++)
    arguments[i] = va_arg(list, long);
  va_end(list);
  if (FAILS("syscall")) {
    errno = ENOSYS;
    return -1;
  }
  return NEXT(long (*)(long, ...), "syscall")(what, arguments[0], arguments[1], arguments[2],
                                              arguments[3], arguments[4], arguments[5]);
}
