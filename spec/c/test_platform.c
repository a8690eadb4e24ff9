/* runtime/platform: descriptors above stdio, ends of processes, the lifeline, the poller. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "runtime/base/platform.h"

#include <errno.h>
#include <poll.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static int open_descriptors(void) {
  int fd, count = 0;
  for (fd = 0; fd < 256; fd++)
    count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

static void close_both(int fds[2]) {
  close(fds[0]);
  close(fds[1]);
}

/* With stdin and stdout closed, and with no or one or more free numbers: all or nothing. */
static void test_descriptors(void) {
  struct rlimit before, limit;
  int saved[2], fds[2], kind, room, made, why, count;
  struct mch_error error;
  saved[0] = fcntl(0, F_DUPFD, 100);
  saved[1] = fcntl(1, F_DUPFD, 100);
  close(0);
  close(1);
  for (kind = 0; kind < 2; kind++) {
    made = kind == 0 ? mch_platform_pipe(fds, &error) : mch_platform_socketpair(fds, &error);
    CHECK(made == 0 && fds[0] > 2 && fds[1] > 2);
    CHECK(fcntl(fds[0], F_GETFD) == FD_CLOEXEC && fcntl(fds[1], F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0);
    close_both(fds);
  }
  getrlimit(RLIMIT_NOFILE, &before);
  for (kind = 0; kind < 2; kind++)
    for (room = 0; room < 6; room++) {
      limit = before;
      limit.rlim_cur = (rlim_t)room;
      setrlimit(RLIMIT_NOFILE, &limit);
      fds[0] = fds[1] = -7;
      made = kind == 0 ? mch_platform_pipe(fds, &error) : mch_platform_socketpair(fds, &error);
      why = errno;
      setrlimit(RLIMIT_NOFILE, &before);
      count = open_descriptors();
      if (made == 0) {
        CHECK(fds[0] > 2 && fds[1] > 2);
        close_both(fds);
        CHECK(open_descriptors() == count - 2);
      } else {
        CHECK(made == MCH_SYSTEM && (why == EMFILE || why == EINVAL));
        CHECK(fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0);
        /* Nothing that the caller could close a second time. */
        CHECK(fds[0] < 0 && fds[1] < 0);
      }
    }
  for (room = 0; room < 6; room++) {
    struct mch_poller *poller;
    int watch;
    limit = before;
    limit.rlim_cur = (rlim_t)room;
    count = open_descriptors();
    setrlimit(RLIMIT_NOFILE, &limit);
    poller = mch_poller_new(&error);
    watch = mch_platform_watch_process(getpid());
    setrlimit(RLIMIT_NOFILE, &before);
    mch_poller_free(poller);
    if (watch >= 0)
      close(watch);
    CHECK(open_descriptors() == count);
  }
  dup2(saved[0], 0);
  dup2(saved[1], 1);
  close_both(saved);
}

static pid_t fork_and(void (*body)(void)) {
  pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(9);
  }
  return pid;
}

/* The kernel counts pages in batches: some must have been used to be seen. */
static void exit_3(void) {
  static volatile char pages[4 << 20];
  size_t i;
  for (i = 0; i < sizeof pages; i += 512)
    pages[i] = 1;
  _exit(3);
}

static void stay(void) {
  for (;;)
    pause();
}

/* Without a descriptor for it the end is there when the process is a zombie, or gone. */
static void wait_for_end(pid_t pid, int watch) {
  struct mch_poller *poller;
  struct mch_ready ready[1];
#if defined(MANTICHORA_PORTABLE)
  siginfo_t info;
  CHECK(watch == -1);
  CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0 || errno == ECHILD);
  return;
#endif
  (void)pid;
  poller = mch_poller_new(NULL);
  CHECK(mch_poller_add(poller, watch, &ready) == 0);
  CHECK(mch_poller_wait(poller, ready, 1, mch_now() + 5000000000u, NULL) == 1);
  CHECK(ready[0].ud == &ready);
  mch_poller_free(poller);
}

static void test_ends(void) {
  struct mch_ending ending;
  pid_t pid = fork_and(exit_3);
  int watch = mch_platform_watch_process(pid);
  wait_for_end(pid, watch);
  CHECK(watch < 0 || mch_platform_has_ended(watch));
  CHECK(mch_platform_ended(pid, watch, 1, &ending) == 1);
  CHECK(ending.known && ending.signal == 0 && ending.exitcode == 3 && ending.maxrss > 0);
  CHECK(waitpid(pid, NULL, WNOHANG) < 0 && errno == ECHILD);
  close(watch);

  pid = fork_and(stay);
  watch = mch_platform_watch_process(pid);
  CHECK(mch_platform_ended(pid, watch, 1, &ending) == 0 && !mch_platform_has_ended(watch));
  kill(pid, SIGSTOP);
  CHECK(mch_platform_ended(pid, watch, 1, &ending) == 0);
  kill(pid, SIGTERM);
  kill(pid, SIGCONT);
  wait_for_end(pid, watch);
  CHECK(mch_platform_ended(pid, watch, 0, &ending) == 1 && ending.known);
  CHECK(ending.signal == SIGTERM && ending.exitcode == 0);
  close(watch);
}

/* Somebody else takes the status: SIGCHLD is ignored, or a loop reaps all. */
static void test_stolen_status(void) {
  struct mch_ending ending;
  struct sigaction action, before;
  pid_t pid;
  int watch;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_IGN;
  sigaction(SIGCHLD, &action, &before);
  pid = fork_and(stay);
  watch = mch_platform_watch_process(pid);
  CHECK(mch_platform_ended(pid, watch, 1, &ending) == 0);
  kill(pid, SIGKILL);
  wait_for_end(pid, watch);
  CHECK(mch_platform_ended(pid, watch, 1, &ending) == 1 && !ending.known);
  close(watch);
  sigaction(SIGCHLD, &before, NULL);
  pid = fork_and(exit_3);
  waitpid(pid, NULL, 0);
  CHECK(mch_platform_ended(pid, -1, 1, &ending) == 1 && !ending.known);
}

static int lifeline[2], ready_pipe[2];

static void live_on_lifeline(void) {
  setpgid(0, 0);
  close(lifeline[1]);
  if (mch_platform_lifeline(lifeline[0], getppid()) != 0)
    _exit(1);
  if (fork() == 0) { /* its child hangs on it, too */
    close(lifeline[0]);
    if (write(ready_pipe[1], "c", 1) == 1)
      stay();
  }
  if (write(ready_pipe[1], "p", 1) == 1)
    stay();
}

static void test_lifeline(void) {
  struct mch_ending ending;
  char bytes[2];
  size_t have = 0;
  pid_t pid;
  int watch;
  CHECK(mch_platform_pipe(lifeline, NULL) == 0 && mch_platform_pipe(ready_pipe, NULL) == 0);
  pid = fork_and(live_on_lifeline);
  watch = mch_platform_watch_process(pid);
  close(lifeline[0]);
  close(ready_pipe[1]);
  while (have < 2)
    have += (size_t)read(ready_pipe[0], bytes + have, 2 - have);
  CHECK(mch_platform_ended(pid, watch, 0, &ending) == 0);
  close(lifeline[1]);
  wait_for_end(pid, watch);
  CHECK(mch_platform_ended(pid, watch, 0, &ending) == 1 && ending.signal == SIGKILL);
  CHECK(read(ready_pipe[0], bytes, 1) == 0); /* comes when the grandchild has gone as well */
  close(ready_pipe[0]);
  close(watch);
}

static void test_poller(void) {
  struct mch_poller *poller = mch_poller_new(NULL);
  struct mch_ready ready[4];
  int fds[2], pair[2], count;
  uint64_t start;
  char byte;
  CHECK(mch_platform_pipe(fds, NULL) == 0 && mch_platform_socketpair(pair, NULL) == 0);
  CHECK(mch_poller_add(poller, fds[0], &fds[0]) == 0);
  CHECK(mch_poller_add(poller, fds[0], &fds[0]) != 0);
  CHECK(mch_poller_wait(poller, ready, 4, 0, NULL) == 0);
  start = mch_now();
  CHECK(mch_poller_wait(poller, ready, 4, start + 20000000u, NULL) == 0);
  CHECK(mch_now() >= start + 20000000u);
  CHECK(write(fds[1], "x", 1) == 1);
  CHECK(mch_platform_unread(fds[0]) == 1 && mch_platform_unread(fds[1]) == 1);
  CHECK(mch_poller_wait(poller, ready, 4, MCH_NEVER, NULL) == 1 && ready[0].ud == &fds[0]);
  CHECK(mch_poller_add(poller, pair[0], &pair[0]) == 0);
  CHECK(mch_poller_wait(poller, ready, 4, 0, NULL) == 1);
  CHECK(write(pair[1], "x", 1) == 1);
  CHECK(mch_poller_wait(poller, ready, 4, 0, NULL) == 2);
  CHECK(mch_poller_wait(poller, ready, 1, 0, NULL) == 1);
  CHECK(read(pair[0], &byte, 1) == 1);
  CHECK(read(fds[0], &byte, 1) == 1);
  CHECK(mch_poller_wait(poller, ready, 4, 0, NULL) == 0);
  close(pair[1]);
  CHECK(mch_poller_wait(poller, ready, 4, 0, NULL) == 1);
  CHECK(ready[0].ud == &pair[0]);
  mch_poller_remove(poller, pair[0]);
  CHECK(mch_poller_wait(poller, ready, 4, 0, NULL) == 0);
  count = mch_poller_fd(poller);
  CHECK(count < 0 || count > 2);
  mch_poller_free(poller);
  mch_poller_free(NULL);
  close(pair[0]);
  close_both(fds);
  CHECK(mch_platform_unread(fds[0]) == -1);
}

static int says(int fd, int milliseconds) {
  struct pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, milliseconds) == 1;
}

/* The descriptors of pollers, one of which watches the other: they say what comes while nobody
 * waits, and, once its owner has looked, nothing of what was taken. */
static void test_poller_descriptor(int inner_first) {
  struct mch_poller *outer = mch_poller_new(NULL), *inner = mch_poller_new(NULL);
  struct mch_ready ready[2];
  int fds[40][2], fd, i;
  char byte;
  for (i = 0; i < 40; i++)
    CHECK(mch_platform_pipe(fds[i], NULL) == 0);
  if (inner_first)
    CHECK(mch_poller_fd(inner) > 2);
  CHECK(mch_poller_add_inner(outer, inner, inner) == 0);
  CHECK(mch_poller_add(inner, fds[0][0], NULL) == 0);
  CHECK(mch_poller_wait(outer, ready, 2, 0, NULL) == 0);
  CHECK(write(fds[0][1], "x", 1) == 1);
  CHECK(mch_poller_wait(outer, ready, 2, mch_now() + 5000000000u, NULL) == 1);
  CHECK(ready[0].ud == inner);
  CHECK(read(fds[0][0], &byte, 1) == 1);
  fd = mch_poller_fd(outer);
  CHECK(fd > 2 && mch_poller_fd(outer) == fd);
  mch_poller_settle(inner);
  mch_poller_settle(outer);
  CHECK(!says(fd, 5));
  for (i = 1; i < 40; i++)
    CHECK(mch_poller_add(inner, fds[i][0], NULL) == 0);
  CHECK(mch_poller_add(outer, fds[0][1], NULL) == 0 && !says(fd, 0)); /* nothing to read there */
  for (i = 0; i < 40; i++) {
    CHECK(!says(fd, i == 1 ? 20 : 0));
    CHECK(write(fds[i][1], "xy", 2) == 2);
    CHECK(says(fd, 5000));
    CHECK(read(fds[i][0], &byte, 1) == 1);
    mch_poller_settle(inner);
    mch_poller_settle(outer);
    CHECK(says(fd, 5000)); /* there is more */
    CHECK(mch_poller_wait(outer, ready, 2, 0, NULL) == 1 && ready[0].ud == inner);
    CHECK(read(fds[i][0], &byte, 1) == 1);
    CHECK(mch_poller_wait(inner, ready, 2, 0, NULL) == 0);
    CHECK(mch_poller_wait(outer, ready, 2, 0, NULL) == 0);
    CHECK(!says(fd, 0));
    mch_poller_remove(inner, fds[i][0]);
    if (i > 0)
      close_both(fds[i]);
  }
  mch_poller_remove_inner(outer, inner);
  mch_poller_free(inner);
  CHECK(!says(fd, 5));
  mch_poller_free(outer);
  close_both(fds[0]);
}

/* A fork closes what it has inherited, and its parent does not notice. */
static void test_poller_in_a_fork(void) {
  struct mch_poller *poller = mch_poller_new(NULL);
  int fds[2], fd = mch_poller_fd(poller), before = open_descriptors();
  pid_t pid;
  int status = 1;
  CHECK(mch_platform_pipe(fds, NULL) == 0 && mch_poller_add(poller, fds[0], NULL) == 0);
  pid = fork();
  if (pid == 0) {
    mch_poller_disown(poller);
    _exit(fcntl(fd, F_GETFD) < 0 && open_descriptors() < before + 2 ? 0 : 1);
  }
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  CHECK(write(fds[1], "x", 1) == 1 && says(fd, 5000));
  mch_poller_free(poller);
  close_both(fds);
}

/* A wait ends by a signal that only its mask lets through. */
static void on_alarm(int number) {
  (void)number;
}
static void test_wait_and_signals(void) {
  struct mch_poller *poller = mch_poller_new(NULL);
  struct mch_ready ready[1];
  struct sigaction action;
  sigset_t all, old;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_alarm;
  sigaction(SIGALRM, &action, NULL);
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  raise(SIGALRM); /* pending: no window to lose it in */
  CHECK(mch_poller_wait(poller, ready, 1, mch_now() + 5000000000u, &old) == -1 && errno == EINTR);
  sigprocmask(SIG_SETMASK, &old, NULL);
  mch_poller_free(poller);
}

static void test_share(void) {
  int *shared = mch_platform_share(sizeof *shared);
  pid_t pid;
  CHECK(shared != NULL && *shared == 0);
  pid = fork();
  if (pid == 0) {
    *shared = 42;
    _exit(0);
  }
  waitpid(pid, NULL, 0);
  CHECK(*shared == 42);
  mch_platform_unshare(shared, sizeof *shared);
  mch_platform_unshare(NULL, 1);
}

/* A fork knows that it is one, also where the kernel says yes to all advice on memory; its own mark
 * is its own. */
static void test_mark(void) {
  struct mch_mark mark, own;
  int status = -1;
  pid_t pid;
  mch_mark_make(&mark);
  CHECK(mch_mark_is_ours(&mark));
  pid = fork();
  if (pid == 0) {
    int fine = !mch_mark_is_ours(&mark);
    mch_mark_make(&own);
    fine = fine && mch_mark_is_ours(&own);
    _exit(fine ? 0 : 1);
  }
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  CHECK(mch_mark_is_ours(&mark));
  mch_mark_free(&mark);
}

int main(void) {
  CHECK(mch_platform_cpu_count() >= 1);
  CHECK(mch_platform_maxrss() > 100000);
  test_descriptors();
  test_ends();
  test_stolen_status();
  test_lifeline();
  test_poller();
  test_poller_descriptor(0);
  test_poller_descriptor(1);
  test_poller_in_a_fork();
  test_wait_and_signals();
  test_share();
  test_mark();
  return check_report();
}
