/* Runs in: both. Purpose: platform.h. The one file with system-specific calls. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tricks.h"

/* What Linux alone has is used; the option MANTICHORA_PORTABLE leaves it out, to see that the rest
 * does. */
#if defined(__linux__) && !defined(MANTICHORA_PORTABLE)
#define ON_LINUX
#else
#undef MADV_DONTFORK
#undef MADV_HUGEPAGE
#undef MADV_WIPEONFORK
#undef CLOCK_MONOTONIC_COARSE
#undef F_SETSIG
#endif

#if defined(ON_LINUX) && defined(__GLIBC__)
#define HAS_ON_EXIT
#endif

#if defined(__linux__) /* the C library has it, whatever the kernel is asked for */
#include <stdio_ext.h>
#endif
#if defined(ON_LINUX)
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#endif

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* -- time --------------------------------------------------------------------------------- */

static uint64_t nanoseconds_of(clockid_t clock) {
  struct timespec now = {0, 0};
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t mch_now(void) {
  return nanoseconds_of(CLOCK_MONOTONIC);
}

#if defined(CLOCK_MONOTONIC_COARSE)
#define CHEAP_CLOCK CLOCK_MONOTONIC_COARSE
#else
#define CHEAP_CLOCK CLOCK_MONOTONIC
#endif

uint64_t mch_cheap_now(void) {
  return nanoseconds_of(CHEAP_CLOCK);
}

double mch_wall(void) {
  return (double)nanoseconds_of(CLOCK_REALTIME) / 1e9;
}

int mch_milliseconds_until(uint64_t deadline) {
  uint64_t now, left;
  if (deadline == 0)
    return 0;
  if (deadline == MCH_NEVER)
    return -1;
  now = mch_now();
  left = deadline > now ? (deadline - now + 999999u) / 1000000u : 0;
  return left > INT_MAX ? INT_MAX : (int)left;
}

#if defined(__APPLE__) /* no pthread_condattr_setclock() */
#define CONDITION_CLOCK CLOCK_REALTIME
#else
#define CONDITION_CLOCK CLOCK_MONOTONIC
#endif

void mch_platform_condition_init(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
  pthread_condattr_setclock(&attributes, CONDITION_CLOCK);
#endif
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

static struct timespec from_now(clockid_t clock, uint64_t nanoseconds) {
  uint64_t when = nanoseconds_of(clock) + nanoseconds;
  struct timespec time = {(time_t)(when / 1000000000u), (long)(when % 1000000000u)};
  return time;
}

void mch_platform_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock,
                                 uint64_t nanoseconds) {
  struct timespec until = from_now(CONDITION_CLOCK, nanoseconds);
  pthread_cond_timedwait(condition, lock, &until);
}

int mch_platform_lock_within(pthread_mutex_t *lock, uint64_t nanoseconds) {
#if defined(__APPLE__) /* no pthread_mutex_timedlock() */
  uint64_t end = mch_now() + nanoseconds;
  struct timespec moment = {0, 1000000};
  while (pthread_mutex_trylock(lock) != 0) {
    if (mch_now() >= end)
      return 0;
    nanosleep(&moment, NULL);
  }
  return 1;
#else
  struct timespec until = from_now(CLOCK_REALTIME, nanoseconds);
  return pthread_mutex_timedlock(lock, &until) == 0;
#endif
}

/* -- descriptors -------------------------------------------------------------------------- */

/* Move a fresh descriptor out of 0..2, where the C library and exec'd programs expect stdio. On
 * Linux it was made to close on exec. */
static int lift(int *fd) {
  int lifted;
#if defined(ON_LINUX)
  if (*fd > 2)
    return 0;
#else
  if (*fd > 2)
    return fcntl(*fd, F_SETFD, FD_CLOEXEC);
#endif
  lifted = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
  if (lifted < 0)
    return -1;
  close(*fd);
  *fd = lifted;
  return 0;
}

static int lift_both(int fds[2], const char *what, struct mch_error *error) {
  if (lift(&fds[0]) == 0 && lift(&fds[1]) == 0)
    return 0;
  mch_error_system(error, what);
  close(fds[0]);
  close(fds[1]);
  fds[0] = fds[1] = -1; /* nothing that the caller would close once more */
  return MCH_SYSTEM;
}

int mch_platform_pipe(int fds[2], struct mch_error *error) {
#if defined(ON_LINUX)
  int made = pipe2(fds, O_CLOEXEC);
#else
  int made = pipe(fds);
#endif
  if (made != 0)
    return mch_error_system(error, "cannot make a pipe");
  return lift_both(fds, "cannot make a pipe", error);
}

int mch_platform_socketpair(int fds[2], struct mch_error *error) {
#if defined(ON_LINUX)
  int made = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
#else
  int made = socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
#endif
  if (made != 0)
    return mch_error_system(error, "cannot make a socket pair");
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(fds[0], SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
  setsockopt(fds[1], SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  return lift_both(fds, "cannot make a socket pair", error);
}

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* there the socket has SO_NOSIGPIPE */
#endif

ssize_t mch_platform_send(int socket, const void *bytes, size_t count, int wait) {
  return send(socket, bytes, count, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
}

ssize_t mch_platform_send_parts(int socket, struct iovec *parts, size_t count) {
  struct msghdr message;
  memset(&message, 0, sizeof message);
  message.msg_iov = parts;
  message.msg_iovlen = count;
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void mch_platform_end_stream(int socket) {
  shutdown(socket, SHUT_WR);
}

int mch_platform_stream_ended(int socket) {
  char byte;
  return recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static int lifted(int fd) {
  int saved;
  if (fd < 0 || lift(&fd) == 0)
    return fd;
  saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

int mch_platform_unix_socket(void) {
#if defined(ON_LINUX)
  return lifted(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
#else
  return lifted(socket(AF_UNIX, SOCK_STREAM, 0));
#endif
}

int mch_platform_accept(int socket) {
#if defined(ON_LINUX)
  return lifted(accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
#else
  int fd = lifted(accept(socket, NULL, NULL));
  if (fd >= 0)
    mch_platform_nonblocking(fd);
  return fd;
#endif
}

int mch_platform_peer(int socket, uid_t *uid) {
#if defined(__linux__)
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
    return -1;
  *uid = peer.uid;
  return 0;
#elif defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__)
  gid_t gid;
  return getpeereid(socket, uid, &gid);
#else
  (void)socket;
  (void)uid;
  return -1;
#endif
}

int mch_platform_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

void *mch_platform_share(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

void mch_platform_unshare(void *memory, size_t bytes) {
  if (memory != NULL)
    munmap(memory, bytes);
}

#if defined(MADV_DONTFORK) || defined(MADV_WIPEONFORK)
/* Advice that is an order. Who takes one that there is not does not look at what is said (qemu's
 * emulation of programs of other processors), and does nothing. Nonzero: it is done. */
static int is_ordered(void *memory, size_t bytes, int advice) {
  return madvise(memory, bytes, -1) != 0 && madvise(memory, bytes, advice) == 0;
}
#endif

int mch_platform_keep_from_forks(void *memory, size_t bytes) {
#if defined(MADV_DONTFORK)
  return is_ordered(memory, bytes, MADV_DONTFORK);
#else
  (void)memory;
  (void)bytes;
  return 0;
#endif
}

/* Smaller blocks are not worth the call, and may lie among others in a heap that a fork shares. */
enum { LARGE_PAGES_FROM = 4 * 1024 * 1024 };

void mch_platform_use_large_pages(void *memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  uintptr_t start = ((uintptr_t)memory + page - 1) / page * page;
  if (bytes >= LARGE_PAGES_FROM && !mch_without(MCH_TRICK_HUGE))
    madvise((void *)start, (bytes - (start - (uintptr_t)memory)) / page * page, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

void mch_mark_make(struct mch_mark *mark) {
  mark->pid = (int)getpid();
  mark->page = NULL;
#if defined(MADV_WIPEONFORK)
  size_t size = (size_t)sysconf(_SC_PAGESIZE);
  void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED)
    return;
  if (!is_ordered(page, size, MADV_WIPEONFORK)) {
    munmap(page, size);
    return;
  }
  mark->page = page;
  *mark->page = 1;
#endif
}

void mch_mark_free(struct mch_mark *mark) {
  if (mark->page != NULL)
    munmap((void *)(uintptr_t)mark->page, (size_t)sysconf(_SC_PAGESIZE));
  mark->page = NULL;
}

int mch_mark_is_ours(const struct mch_mark *mark) {
  return mark->page != NULL ? *mark->page != 0 : mark->pid == (int)getpid();
}

int mch_platform_mark_open(int *fd, struct mch_error *error) {
  *fd = -1;
#if defined(ON_LINUX) && defined(MFD_ALLOW_SEALING)
  if (sizeof(off_t) < 8)
    return 0;
  *fd = memfd_create("mantichora", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (*fd < 0)
    return errno == ENOSYS ? 0 : mch_error_system(error, "cannot make a file in memory");
  fcntl(*fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  return lift(fd) == 0 ? 0 : mch_error_system(error, "cannot make a file in memory");
#else
  (void)error;
  return 0;
#endif
}

int mch_platform_mark_set(int fd, uint64_t value) {
  return lseek(fd, (off_t)value, SEEK_SET) == (off_t)value ? 0 : -1;
}

uint64_t mch_platform_mark_get(int fd) {
  off_t value = fd < 0 ? -1 : lseek(fd, 0, SEEK_CUR);
  return value < 0 ? 0 : (uint64_t)value;
}

int mch_platform_protect(void *memory, size_t bytes) {
  return mprotect(memory, bytes, PROT_READ);
}

void mch_platform_replace(void *memory, size_t bytes) {
  mmap(memory, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

int mch_platform_is_locked(int fd, off_t at) {
#if defined(ON_LINUX) && defined(F_OFD_GETLK) /* asks for locks of this process, too */
  struct flock lock = {0};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
#else
  (void)fd;
  (void)at;
  return 0;
#endif
}

long mch_platform_unread(int fd) {
  int count = 0;
  return ioctl(fd, FIONREAD, &count) == 0 ? (long)count : -1;
}

#if defined(__linux__)
static ssize_t take_from_reader(void *cookie, char *bytes, size_t room) {
  struct mch_reader *reader = cookie;
  return reader->take(reader->ud, bytes, room);
}
#endif

FILE *mch_platform_reader(struct mch_reader *reader) {
#if defined(__linux__)
  cookie_io_functions_t functions = {take_from_reader, NULL, NULL, NULL};
  FILE *file = fopencookie(reader, "r", functions);
  if (file != NULL)
    setvbuf(file, NULL, _IONBF, 0);
  return file;
#else
  (void)reader;
  return NULL;
#endif
}

/* -- processes ---------------------------------------------------------------------------- */

int mch_platform_watch_process(pid_t pid) {
#if defined(ON_LINUX) && defined(SYS_pidfd_open)
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd >= 0 && lift(&fd) == 0)
    return fd;
  if (fd >= 0)
    close(fd);
#endif
  (void)pid;
  return -1;
}

int mch_platform_has_ended(int watch) {
  struct pollfd end = {watch, POLLIN, 0};
  return watch >= 0 && poll(&end, 1, 0) == 1;
}

int mch_platform_ended(pid_t pid, int watch, int group, struct mch_ending *ending) {
  siginfo_t info;
  struct rusage usage;
  int status;
  pid_t taken;
  memset(ending, 0, sizeof *ending);
  memset(&info, 0, sizeof info);
  /* Look first and leave it a zombie: while it is one, its group's number is its own. */
  if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
    return errno == ECHILD && (watch < 0 || mch_platform_has_ended(watch));
  if (info.si_pid == 0)
    return 0;
  ending->known = 1;
  ending->signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
  ending->exitcode = info.si_code == CLD_EXITED ? info.si_status : 0;
  if (group)
    kill(-pid, SIGKILL);
  do
    taken = wait4(pid, &status, 0, &usage);
  while (taken < 0 && errno == EINTR);
  if (taken != pid)
    return 1;
#if defined(__APPLE__)
  ending->maxrss = (uint64_t)usage.ru_maxrss;
#else
  ending->maxrss = (uint64_t)usage.ru_maxrss * 1024u;
#endif
  return 1;
}

int mch_platform_has_children(void) {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) == 0;
}

/* Read at once: the kernel counts it all anew for each piece. */
uint64_t mch_platform_oom_count(void) {
#if defined(ON_LINUX)
  char text[8192];
  const char *line;
  ssize_t got;
  int fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  got = read(fd, text, sizeof text - 1);
  close(fd);
  text[got > 0 ? got : 0] = '\0';
  line = strstr(text, "\noom_kill ");
  if (line != NULL)
    return 1 + strtoull(line + sizeof "\noom_kill", NULL, 10);
#endif
  return 0;
}

#if defined(RLIMIT_AS)
/* Bytes of address space in use; 0: unknown. */
static uint64_t address_space(void) {
  unsigned long long pages = 0;
#if defined(ON_LINUX)
  FILE *file = fopen("/proc/self/statm", "re");
  if (file == NULL)
    return 0;
  if (fscanf(file, "%llu", &pages) != 1)
    pages = 0;
  fclose(file);
#endif
  return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
#endif

#if defined(__GLIBC__)
typedef __rlimit_resource_t limited; /* an enum under _GNU_SOURCE */
#else
typedef int limited;
#endif

/* Lower the soft limit, and the hard one by `slack` above it; never raise one. */
static void lower_limit(limited resource, uint64_t most, uint64_t slack) {
  struct rlimit limit;
  if (getrlimit(resource, &limit) != 0)
    return;
  if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max > most + slack)
    limit.rlim_max = (rlim_t)(most + slack);
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > most)
    limit.rlim_cur = (rlim_t)most;
  setrlimit(resource, &limit);
}

void mch_platform_limit(uint64_t memory, uint64_t cpu, uint64_t files) {
#if defined(RLIMIT_AS)
  uint64_t size = memory > 0 ? address_space() : 0;
  if (size > 0)
    lower_limit(RLIMIT_AS, size + memory, 0);
#endif
  if (cpu > 0)
    lower_limit(RLIMIT_CPU, cpu, 1);
  if (files > 0)
    lower_limit(RLIMIT_NOFILE, files, 0);
}

#if !defined(F_SETSIG)
enum { LOOK_AT_OWNER = 100 }; /* milliseconds */

/* What a worker's life hangs on: its lifeline and its owner. Once a process. */
static struct lifeline {
  int fd;
  pid_t owner;
  struct stat file;
} life;

/* Whether the lifeline's other end has gone; a task may have closed the descriptor, or put another
 * file there. Waits a moment if not. */
static int has_parted(const struct lifeline *line) {
  struct pollfd end = {line->fd, POLLIN, 0};
  struct timespec moment = {0, LOOK_AT_OWNER * 1000000L};
  struct stat file;
  if (poll(&end, 1, LOOK_AT_OWNER) <= 0)
    return 0;
  if ((end.revents & POLLHUP) != 0 && fstat(line->fd, &file) == 0 &&
      file.st_ino == line->file.st_ino && file.st_dev == line->file.st_dev)
    return 1;
  nanosleep(&moment, NULL);
  return 0;
}

/* A thread that waits for the end of the lifeline. As long as another process holds it the owner's
 * death shows in the parent's number alone. */
static void *watch_lifeline(void *argument) {
  const struct lifeline *line = argument;
  while (getppid() == line->owner && !has_parted(line))
    ;
  kill(0, SIGKILL);
  return NULL;
}
#endif

int mch_platform_lifeline(int fd, pid_t owner) {
#if defined(F_SETSIG)
  char byte;
  (void)owner;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETSIG, SIGKILL) != 0 || fcntl(fd, F_SETOWN, -getpid()) != 0 ||
      fcntl(fd, F_SETFL, flags | O_ASYNC | O_NONBLOCK) != 0)
    return -1;
  /* The owner may have died before the signal was armed: then the pipe is at its end already. */
  if (read(fd, &byte, 1) == 0)
    kill(0, SIGKILL);
  return 0;
#else
  pthread_t thread;
  sigset_t all, old;
  int failed;
  life.fd = fd;
  life.owner = owner;
  if (fstat(fd, &life.file) != 0)
    return -1;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  failed = pthread_create(&thread, NULL, watch_lifeline, &life);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (failed == 0)
    pthread_detach(thread);
  return failed == 0 ? 0 : -1;
#endif
}

void mch_platform_signal_orphan(void) {
#if defined(ON_LINUX)
  prctl(PR_SET_PDEATHSIG, MCH_OWNER_SIGNAL);
#endif
}

int mch_platform_last_signal(void) {
#if defined(NSIG)
  return NSIG - 1;
#elif defined(SIGRTMAX)
  return SIGRTMAX;
#else
  return 31;
#endif
}

int mch_platform_is_main_thread(void) {
#if defined(ON_LINUX)
  return (pid_t)syscall(SYS_gettid) == getpid();
#elif defined(__APPLE__)
  return pthread_main_np();
#else
  return 0;
#endif
}

uint64_t mch_platform_maxrss(void) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0)
    return 0;
#if defined(__APPLE__)
  return (uint64_t)usage.ru_maxrss;
#else
  return (uint64_t)usage.ru_maxrss * 1024u;
#endif
}

uint64_t mch_platform_cpu_time(void) {
  struct timespec used;
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) != 0)
    return 0;
  return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

/* Fields of /proc/PID/stat behind the name, which may contain anything but ends with the last
 * parenthesis: state, ten numbers, utime, stime, eight numbers, rss. */
int mch_platform_usage(pid_t pid, uint64_t *cpu, uint64_t *rss) {
#if defined(__linux__)
  char path[64], text[1024], *at;
  unsigned long user, system;
  long pages;
  ssize_t got;
  int fd;
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0)
    return -1;
  text[got] = '\0';
  at = strrchr(text, ')');
  if (at == NULL || sscanf(at + 1,
                           " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d "
                           "%*d %*d %*u %*u %ld",
                           &user, &system, &pages) != 3)
    return -1;
  *cpu = (uint64_t)(user + system) * (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
  *rss = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
  return 0;
#else
  (void)pid;
  (void)cpu;
  (void)rss;
  return -1;
#endif
}

/* -- stdio -------------------------------------------------------------------------------- */

int mch_platform_stdout_pending(void) {
#if defined(__linux__)
  return __fpending(stdout) > 0;
#else
  return 1;
#endif
}

void mch_platform_purge_stdio(void) {
#if defined(__linux__)
  __fpurge(stdin);
  __fpurge(stdout);
  __fpurge(stderr);
#else
  fpurge(stdin);
  fpurge(stdout);
  fpurge(stderr);
#endif
}

#if defined(__GLIBC__)

static ssize_t write_after_stdout(void *ud, const char *bytes, size_t count) {
  size_t done = 0;
  (void)ud;
  if (__fpending(stdout) > 0)
    fflush(stdout);
  while (done < count) {
    ssize_t written = write(STDERR_FILENO, bytes + done, count - done);
    if (written < 0 && errno != EINTR)
      return 0; /* the error */
    done += written > 0 ? (size_t)written : 0;
  }
  return (ssize_t)done;
}

/* What a line-buffered stdout keeps goes out before any write to the new stderr, which is the old
 * one's descriptor for whoever asks. */
void mch_platform_join_streams(void) {
  cookie_io_functions_t functions = {NULL, write_after_stdout, NULL, NULL};
  FILE *joined = fopencookie(NULL, "w", functions);
  if (joined == NULL)
    return;
  setvbuf(joined, NULL, _IONBF, 0);
  joined->_fileno = STDERR_FILENO;
  stderr = joined;
}

#else

void mch_platform_join_streams(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
}

#endif

void mch_platform_flush_streams(void) {
  if (ftrylockfile(stdin) == 0) {
    fflush(NULL);
    funlockfile(stdin);
    return;
  }
  fflush(stdout);
  fflush(stderr);
}

#if !defined(HAS_ON_EXIT)
/* atexit() passes no argument: the pair waits here. Set once per process, in a worker. */
static struct {
  void (*leave)(int status, void *ud);
  void *ud;
} at_exit;
static void leave_at_exit(void) {
  at_exit.leave(1, at_exit.ud);
}
#endif

void mch_platform_on_exit(void (*leave)(int status, void *ud), void *ud) {
#if defined(HAS_ON_EXIT)
  on_exit(leave, ud);
#else
  at_exit.leave = leave;
  at_exit.ud = ud;
  atexit(leave_at_exit);
#endif
}

/* -- CPUs --------------------------------------------------------------------------------- */

static unsigned affinity_count(void) {
#if defined(ON_LINUX)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (unsigned)CPU_COUNT(&set);
#endif
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? (unsigned)online : 1;
}

#if defined(ON_LINUX)
/* The quota of one cgroup in whole CPUs, rounded up; 0: none is set. `path` names its folder. */
static unsigned quota_of(const char *path) {
  char name[PATH_MAX + 96];
  long long quota = 0, period = 0;
  FILE *file;
  int fields;
  snprintf(name, sizeof name, "%s/cpu.max", path);
  file = fopen(name, "re");
  if (file != NULL) {
    fields = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
  } else {
    snprintf(name, sizeof name, "%s/cpu.cfs_quota_us", path);
    file = fopen(name, "re");
    if (file == NULL)
      return 0;
    fields = fscanf(file, "%lld", &quota);
    fclose(file);
    snprintf(name, sizeof name, "%s/cpu.cfs_period_us", path);
    file = fopen(name, "re");
    if (file == NULL)
      return 0;
    fields += fscanf(file, "%lld", &period);
    fclose(file);
  }
  if (fields != 2 || quota <= 0 || period <= 0)
    return 0;
  return (unsigned)((quota + period - 1) / period);
}

/* The smallest quota on the way from this process's cgroup up to the root. */
static unsigned cgroup_count(void) {
  char line[PATH_MAX], path[PATH_MAX + 64];
  unsigned smallest = 0;
  FILE *file = fopen("/proc/self/cgroup", "re");
  if (file == NULL)
    return 0;
  while (fgets(line, sizeof line, file) != NULL) {
    char *controllers = strchr(line, ':'), *group, *slash;
    if (controllers == NULL || (group = strchr(controllers + 1, ':')) == NULL)
      continue;
    *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    if (controllers[1] != '\0' && strstr(controllers + 1, "cpu") == NULL)
      continue;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s%s", controllers[1] != '\0' ? "/cpu" : "", group);
    do {
      unsigned quota = quota_of(path);
      if (quota > 0 && (smallest == 0 || quota < smallest))
        smallest = quota;
      slash = strrchr(path, '/');
      if (slash != NULL)
        *slash = '\0';
    } while (slash != NULL && strlen(path) >= strlen("/sys/fs/cgroup"));
  }
  fclose(file);
  return smallest;
}
#endif

int mch_platform_is_remote(const char *path) {
#if defined(ON_LINUX)
  static const unsigned long kinds[] = {0x6969 /* NFS */, 0x517b /* SMB */, 0xff534d42 /* CIFS */,
                                        0xfe534d42 /* SMB 2 */, 0x5346414f /* AFS */};
  struct statfs status;
  size_t i;
  if (statfs(path, &status) == 0)
    for (i = 0; i < sizeof kinds / sizeof *kinds; i++)
      if (((unsigned long)status.f_type & 0xffffffff) == kinds[i])
        return 1;
#else
  (void)path;
#endif
  return 0;
}

unsigned mch_platform_cpu_count(void) {
  unsigned count = affinity_count();
#if defined(ON_LINUX)
  unsigned quota = cgroup_count();
  if (quota > 0 && quota < count)
    count = quota;
#endif
  return count;
}

/* -- waiting ------------------------------------------------------------------------------ */

int mch_platform_poll(struct pollfd *fds, size_t count, uint64_t deadline, const sigset_t *mask) {
  uint64_t now = mch_now(), wait = deadline > now ? deadline - now : 0;
#if defined(__APPLE__) /* no ppoll: the small window is closed by a bounded wait */
  sigset_t old;
  int got;
  if (mask != NULL)
    pthread_sigmask(SIG_SETMASK, mask, &old);
  if (deadline == MCH_NEVER || wait > 200000000u)
    wait = 200000000u;
  got = poll(fds, (nfds_t)count, (int)(wait / 1000000u));
  if (mask != NULL)
    pthread_sigmask(SIG_SETMASK, &old, NULL);
  return got;
#else
  struct timespec left = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
  return ppoll(fds, (nfds_t)count, deadline == MCH_NEVER ? NULL : &left, mask);
#endif
}

enum { MOST_AWAITED = 4 };

int mch_platform_await(const int *fds, size_t count, uint64_t deadline, const sigset_t *mask) {
  struct pollfd entries[MOST_AWAITED];
  size_t i;
  for (i = 0; i < count && i < MOST_AWAITED; i++) {
    entries[i].fd = fds[i];
    entries[i].events = POLLIN;
    entries[i].revents = 0;
  }
  return mch_platform_poll(entries, i, deadline, mask) > 0 && entries[0].revents != 0;
}

int mch_platform_get_byte(int fd) {
  unsigned char byte;
  ssize_t got;
  do
    got = read(fd, &byte, 1);
  while (got < 0 && errno == EINTR);
  return got == 1 ? byte : -1;
}

#if defined(ON_LINUX) /* elsewhere: poller.c */

struct mch_poller {
  int fd;
};

struct mch_poller *mch_poller_new(struct mch_error *error) {
  struct mch_poller *poller = malloc(sizeof *poller);
  if (poller == NULL) {
    mch_error_set(error, MCH_NOMEM, "not enough memory");
    return NULL;
  }
  poller->fd = epoll_create1(EPOLL_CLOEXEC);
  if (poller->fd >= 0 && lift(&poller->fd) == 0)
    return poller;
  mch_error_system(error, "cannot make an epoll set");
  if (poller->fd >= 0)
    close(poller->fd);
  free(poller);
  return NULL;
}

void mch_poller_free(struct mch_poller *poller) {
  if (poller != NULL)
    close(poller->fd);
  free(poller);
}

int mch_poller_add(struct mch_poller *poller, int fd, void *ud) {
  struct epoll_event event;
  memset(&event, 0, sizeof event);
  event.events = EPOLLIN;
  event.data.ptr = ud;
  return epoll_ctl(poller->fd, EPOLL_CTL_ADD, fd, &event);
}

void mch_poller_remove(struct mch_poller *poller, int fd) {
  epoll_ctl(poller->fd, EPOLL_CTL_DEL, fd, NULL);
}

int mch_poller_add_inner(struct mch_poller *poller, struct mch_poller *inner, void *ud) {
  return mch_poller_add(poller, inner->fd, ud);
}

void mch_poller_remove_inner(struct mch_poller *poller, struct mch_poller *inner) {
  mch_poller_remove(poller, inner->fd);
}

int mch_poller_wait(struct mch_poller *poller, struct mch_ready *ready, int room, uint64_t deadline,
                    const sigset_t *mask) {
  struct epoll_event events[64];
  int count, i;
  count = epoll_pwait(poller->fd, events, room < 64 ? room : 64, mch_milliseconds_until(deadline),
                      mask);
  for (i = 0; i < count; i++)
    ready[i].ud = events[i].data.ptr;
  return count;
}

void mch_poller_sleep(struct mch_poller *poller, uint64_t deadline, const sigset_t *mask) {
  struct pollfd fd = {poller->fd, POLLIN, 0};
  uint64_t now = mch_now(), left = deadline > now ? deadline - now : 0;
  struct timespec moment = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
  ppoll(&fd, 1, deadline == MCH_NEVER ? NULL : &moment, mask);
}

/* The descriptor of the set itself, which says at each moment what is so. */
int mch_poller_fd(struct mch_poller *poller) {
  return poller->fd;
}

int mch_poller_has_fd(void) {
  return 1;
}

void mch_poller_settle(struct mch_poller *poller) {
  (void)poller;
}

void mch_poller_disown(struct mch_poller *poller) {
  close(poller->fd);
}

#endif
