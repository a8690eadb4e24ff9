/* Runs in: both. Purpose: process.h. Holds the one fork(). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "gate.h"
#include "platform.h"

#if defined(__linux__) && !defined(MANTICHORA_PORTABLE)
#define ON_LINUX
#include <sys/prctl.h>
#include <sys/syscall.h>
#else
#undef CLOCK_BOOTTIME
#endif

#if defined(__has_feature) /* clang */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SHADOWED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHADOWED
#endif

/* A fork copies the locks of streams as they stand, also those that a thread of the host has just
 * then, which the child has not got; glibc alone makes them anew there. So the thread that forks
 * has them: but not stdin's, while another thread sits in a read of it. */
#if defined(__GLIBC__)

static int close_gate(void) {
  mch_gate_close();
  return 0;
}
static void unlock_streams(int locked) {
  (void)locked;
}
int mch_process_stdin_is_lost(void) {
  return 0;
}

#else

enum { STDOUT_LOCKED = 1, STDERR_LOCKED = 2, STDIN_LOCKED = 4 };

static int lock_streams(void) {
  return (ftrylockfile(stdout) == 0 ? STDOUT_LOCKED : 0) |
         (ftrylockfile(stderr) == 0 ? STDERR_LOCKED : 0) |
         (ftrylockfile(stdin) == 0 ? STDIN_LOCKED : 0);
}

static void unlock_streams(int locked) {
  if (locked & STDIN_LOCKED)
    funlockfile(stdin);
  if (locked & STDERR_LOCKED)
    funlockfile(stderr);
  if (locked & STDOUT_LOCKED)
    funlockfile(stdout);
}

static void wait_for(FILE *stream) {
  flockfile(stream);
  funlockfile(stream);
}

/* Who has a stream may wait for the gate, and who waits for a stream be inside of it: so nobody
 * waits for the one who has the other. */
static int close_gate(void) {
  const int needed = STDOUT_LOCKED | STDERR_LOCKED;
  for (;;) {
    int locked;
    mch_gate_close();
    locked = lock_streams();
    if ((locked & needed) == needed)
      return locked;
    unlock_streams(locked);
    mch_gate_open();
    wait_for(stdout);
    wait_for(stderr);
  }
}

int mch_process_stdin_is_lost(void) {
  if (ftrylockfile(stdin) != 0)
    return 1;
  funlockfile(stdin);
  return 0;
}

#endif

pid_t mch_process_fork(void) {
  sigset_t all, old;
  pid_t pid;
  int saved, streams;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  streams = close_gate();
  pid = fork();
  if (pid == 0) {
    unlock_streams(streams);
    return 0;
  }
  saved = errno;
  unlock_streams(streams);
  mch_gate_open();
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  errno = saved;
  return pid;
}

void mch_process_reset_signals(void) {
  int number, last = mch_platform_last_signal();
  for (number = 1; number <= last; number++) {
    struct sigaction action;
    if (sigaction(number, NULL, &action) != 0)
      continue;
    if ((action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_DFL)
      continue;
    if ((action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_IGN && number != SIGCHLD)
      continue;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_DFL;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
  }
}

void mch_process_unblock_signals(void) {
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, NULL);
}

/* -- descriptors -------------------------------------------------------------------------- */

static void close_range_of(int first, int last) {
  struct rlimit limit;
  int fd;
#if defined(ON_LINUX) && defined(SYS_close_range)
  if (last < first || syscall(SYS_close_range, (unsigned)first, (unsigned)last, 0) == 0)
    return;
#endif
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < (rlim_t)last)
    last = (int)limit.rlim_cur;
  for (fd = first; fd <= last; fd++)
    close(fd);
}

enum { LAST_DESCRIPTOR = 1024 * 1024 * 1024 };

void mch_process_close_others(int first, const int *kept, size_t count) {
  size_t i;
  for (i = 0; i < count; i++) {
    if (kept[i] < first)
      continue;
    close_range_of(first, kept[i] - 1);
    first = kept[i] + 1;
  }
  close_range_of(first, LAST_DESCRIPTOR);
}

void mch_process_widen_pipe(int fd) {
#if defined(ON_LINUX) && defined(F_SETPIPE_SZ)
  fcntl(fd, F_SETPIPE_SZ, 256 * 1024);
#else
  (void)fd;
#endif
}

/* -- parents and clocks ------------------------------------------------------------------- */

void mch_process_die_with(pid_t parent) {
#if defined(ON_LINUX)
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) /* it went before */
    kill(getpid(), SIGKILL);
#else
  (void)parent;
#endif
}

#if defined(CLOCK_BOOTTIME)
#define SLEEPLESS_CLOCK CLOCK_BOOTTIME
#else
#define SLEEPLESS_CLOCK CLOCK_MONOTONIC
#endif

uint64_t mch_process_clock(void) {
  struct timespec now = {0, 0};
  clock_gettime(SLEEPLESS_CLOCK, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* By the kernel's own calls: some C libraries allocate memory in theirs. */
void mch_deadman_make(struct mch_deadman *deadman) {
  deadman->timer = -1;
#if defined(ON_LINUX) && defined(SYS_timer_create) && defined(CLOCK_BOOTTIME)
  {
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    if (syscall(SYS_timer_create, CLOCK_BOOTTIME, &event, &deadman->timer) != 0)
      deadman->timer = -1;
  }
#endif
}

void mch_deadman_arm(const struct mch_deadman *deadman, uint64_t when) {
#if defined(ON_LINUX) && defined(SYS_timer_settime) && defined(CLOCK_BOOTTIME)
  struct {
    long seconds, nanoseconds;
  } times[2] = {{0, 0}, {0, 0}}; /* as the kernel has it, whatever time_t is here */
  if (deadman->timer < 0)
    return;
  if (when != MCH_NEVER) {
    times[1].seconds = (long)(when / 1000000000u);
    times[1].nanoseconds = (long)(when % 1000000000u) + (when == 0);
  }
  syscall(SYS_timer_settime, deadman->timer, TIMER_ABSTIME, times, NULL);
#else
  (void)deadman;
  (void)when;
#endif
}

/* -- files -------------------------------------------------------------------------------- */

int mch_process_program(char *path, size_t room) {
#if defined(__linux__)
  ssize_t length = readlink("/proc/self/exe", path, room - 1);
  if (length > 0 && (size_t)length < room - 1) {
    path[length] = '\0';
    return 0;
  }
#endif
  (void)path;
  (void)room;
  return -1;
}

/* What is mapped where this function is. */
int mch_process_own_file(char *path, size_t room) {
  int found = -1;
#if defined(__linux__)
  char line[4096 + 128];
  unsigned long start, end, here = (unsigned long)(uintptr_t)mch_process_own_file;
  FILE *file = fopen("/proc/self/maps", "re");
  while (found != 0 && file != NULL && fgets(line, sizeof line, file) != NULL) {
    const char *name = strchr(line, '/');
    if (name == NULL || sscanf(line, "%lx-%lx", &start, &end) != 2 || here < start || here >= end)
      continue;
    line[strcspn(line, "\n")] = '\0';
    if (strlen(name) >= room)
      break;
    strcpy(path, name);
    found = 0;
  }
  if (file != NULL)
    fclose(file);
#endif
  (void)path;
  (void)room;
  return found;
}

/* -- memory ------------------------------------------------------------------------------- */

#if defined(ON_LINUX) && !defined(SHADOWED)

enum { WORTH_FORGETTING = 1024 * 1024 }; /* smaller ones hold thread-local data, and the loader's */

/* One line of /proc/self/maps: "start-end rwxp offset device inode name". */
static void forget_line(const char *line, const void *const *kept, size_t count) {
  uintptr_t bounds[2] = {0, 0};
  const char *at = line;
  size_t i;
  int b;
  for (b = 0; b < 2; b++, at++)
    for (; *at != '-' && *at != ' '; at++) {
      if (*at == '\0')
        return;
      bounds[b] = bounds[b] * 16 + (uintptr_t)(*at <= '9' ? *at - '0' : *at - 'a' + 10);
    }
  if (strncmp(at, "rw-p ", 5) != 0 || bounds[1] - bounds[0] < WORTH_FORGETTING)
    return;
  for (i = 0; i < 3; i++) /* offset, device and inode */
    while (*at != '\0' && *at++ != ' ')
      ;
  if (at[0] != '0' || at[1] != ' ') /* of a file */
    return;
  for (i = 0; i < count; i++)
    if ((uintptr_t)kept[i] >= bounds[0] && (uintptr_t)kept[i] < bounds[1])
      return;
  madvise((void *)bounds[0], bounds[1] - bounds[0], MADV_DONTNEED);
}

void mch_process_forget_memory(const void *const *kept, size_t count) {
  char text[8192];
  const void *always[8];
  size_t held = 0, i;
  ssize_t got;
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  always[0] = text;   /* the stack */
  always[1] = &errno; /* what belongs to this thread */
  for (i = 0; i < count && i < 6; i++)
    always[2 + i] = kept[i];
  while ((got = read(fd, text + held, sizeof text - 1 - held)) > 0) {
    char *line = text, *end;
    held += (size_t)got;
    text[held] = '\0';
    while ((end = strchr(line, '\n')) != NULL) {
      *end = '\0';
      forget_line(line, always, 2 + i);
      line = end + 1;
    }
    held = (size_t)(text + held - line);
    memmove(text, line, held);
    if (held == sizeof text - 1) /* a line of that length is none of ours */
      held = 0;
  }
  close(fd);
}

#else

void mch_process_forget_memory(const void *const *kept, size_t count) {
  (void)kept;
  (void)count;
}

#endif
