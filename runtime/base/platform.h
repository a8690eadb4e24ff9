/* Runs in: both.
 *
 * What differs between systems, each behind one function: Linux first, with a fallback that is
 * slower or less exact but right. Nothing else in runtime asks which system or C library this is,
 * except process.c beside it, which holds the fork, and show/hold_glibc.c, which is about the
 * inside of glibc's streams. */
#ifndef MCH_PLATFORM_H
#define MCH_PLATFORM_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "error.h"

/* Nanoseconds of a clock that never goes back. */
uint64_t mch_now(void);

/* A deadline that never comes. */
#define MCH_NEVER UINT64_MAX

static inline uint64_t mch_sooner(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

/* Milliseconds until `deadline`, rounded up so that it has passed when the wait ends; -1: never. As
 * poll(2) takes them. */
int mch_milliseconds_until(uint64_t deadline);

/* The time as by mch_now(), where it may be some milliseconds behind if that makes it cheaper.
 */
uint64_t mch_cheap_now(void);

/* Seconds since the epoch. */
double mch_wall(void);

/* A condition variable whose waits are not changed by setting the clock, where there are such. */
void mch_platform_condition_init(pthread_cond_t *condition);
/* Wait for it so long at most. */
void mch_platform_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock,
                                 uint64_t nanoseconds);
/* Take a lock unless that lasts longer; whether it was taken. */
int mch_platform_lock_within(pthread_mutex_t *lock, uint64_t nanoseconds);

/* Pipes and socket pairs whose descriptors are close-on-exec and 3 or above, so that they survive
 * in a process whose standard descriptors are closed. 0, or MCH_SYSTEM with `error` filled. */
int mch_platform_pipe(int fds[2], struct mch_error *error);
int mch_platform_socketpair(int fds[2], struct mch_error *error);

/* A unix stream socket, and what comes to one that listens; likewise close-on-exec and 3 or above.
 * -1 with errno. Who is at the other side: 0 and its user, or -1. */
int mch_platform_unix_socket(void);
int mch_platform_accept(int socket);
int mch_platform_peer(int socket, uid_t *uid);

/* Both ends' O_NONBLOCK is a property of the open file; set it only on ends of our own. */
int mch_platform_nonblocking(int fd);

/* Memory that stays shared across fork, zeroed; NULL when there is none. */
void *mch_platform_share(size_t bytes);
void mch_platform_unshare(void *memory, size_t bytes);

/* From now on processes that are forked do not get it: 1. 0: they do. */
int mch_platform_keep_from_forks(void *memory, size_t bytes);

/* From here on this process can only read it. 0 or -1. */
int mch_platform_protect(void *memory, size_t bytes);

/* Put memory of this process's own, zeroed, in its place. */
void mch_platform_replace(void *memory, size_t bytes);

/* Say no more on a stream socket: the other side will find its end. */
void mch_platform_end_stream(int socket);

/* As send(2), without a signal if the other side has gone; `wait`: until there is room. */
ssize_t mch_platform_send(int socket, const void *bytes, size_t count, int wait);
/* The same from several places, without waiting. */
struct iovec;
ssize_t mch_platform_send_parts(int socket, struct iovec *parts, size_t count);

/* Whether there is nothing more to be read than its end. */
int mch_platform_stream_ended(int socket);

/* Have the system use its largest pages for what is not yet used of these bytes, where that is
 * worth it. */
void mch_platform_use_large_pages(void *memory, size_t bytes);

/* A descriptor that becomes readable when process `pid` ends, or -1 where there is no such thing;
 * then the caller asks mch_platform_ended() from time to time. */
int mch_platform_watch_process(pid_t pid);

/* Whether the process behind such a descriptor has ended; 0 when `watch` is -1. */
int mch_platform_has_ended(int watch);

/* How an own child ended. */
struct mch_ending {
  int known;       /* 0: somebody else took the status (SIGCHLD ignored, a host that reaps all) */
  int signal;      /* it was killed by this signal, or 0 */
  int exitcode;    /* its exit status when signal is 0 */
  uint64_t maxrss; /* bytes, 0: unknown */
};

/* Take the status of child `pid` if it has ended; never waits. `group` != 0: whatever still runs in
 * its process group is killed in the same step, while the number cannot belong to anybody else.
 * 1: it has ended (`ending` filled), 0: it runs. */
int mch_platform_ended(pid_t pid, int watch, int group, struct mch_ending *ending);

/* Whether this process has children, ended or not. */
int mch_platform_has_children(void);

/* A number that grows with each process that the kernel kills for want of memory; 0: it is not
 * known. */
uint64_t mch_platform_oom_count(void);

/* Limit this process: address space to its present size plus `memory` bytes, processor time to
 * `cpu` seconds (SIGXCPU), descriptors to `files`. 0: not limited. */
void mch_platform_limit(uint64_t memory, uint64_t cpu, uint64_t files);

/* Bind the life of this process's group to the other end of pipe `fd`: when its last copy closes,
 * the kernel kills the group; elsewhere than on Linux a thread does, and within a tenth of a second
 * also when `owner`, the parent, has gone. Call after setpgid(). */
int mch_platform_lifeline(int fd, pid_t owner);

/* Have MCH_OWNER_SIGNAL sent to this process when its parent dies, whoever else holds the other end
 * of the lifeline (another pool's worker, a child of the host). It also comes, for nothing, when
 * only the thread that forked ends: the handler looks at getppid(). Does nothing elsewhere than on
 * Linux. */
void mch_platform_signal_orphan(void);

/* Forget what stdin has buffered; what stdout has not written. */
void mch_platform_purge_stdio(void);

/* stdout and stderr are one file: what is written to either stays in the order of the calls, though
 * stdout has a buffer. `stderr` is another stream then. In a new worker only. */
void mch_platform_join_streams(void);

/* Whether stdout may have bytes that were not written yet: 1 also where that is not known. */
int mch_platform_stdout_pending(void);

/* Flush all C streams, unless another thread sits in a read of stdin (which would not return). */
void mch_platform_flush_streams(void);

/* Run `leave(status)` as the first of all exit handlers; it must not return. */
void mch_platform_on_exit(void (*leave)(int status, void *ud), void *ud);

/* A stream without a buffer whose bytes `take` gives: as read(2), 0: the end. NULL: not on this
 * system, or no memory. The reader must live until fclose(). */
struct mch_reader {
  ssize_t (*take)(void *ud, char *bytes, size_t room);
  void *ud;
};
FILE *mch_platform_reader(struct mch_reader *reader);

/* A number that processes share after a fork, kept as the position of a file in memory: nothing
 * that one of them writes moves it, and it is there when one has gone. 0, and -1 in `fd` where
 * there is no such file, or an error. */
int mch_platform_mark_open(int *fd, struct mch_error *error);
/* 0, or -1: the descriptor is not what it was. */
int mch_platform_mark_set(int fd, uint64_t value);
/* 0 also when there is none. */
uint64_t mch_platform_mark_get(int fd);

/* Whether byte `at` of the file is locked (fcntl) by anybody, this process included; 0 also where
 * that is not known. */
int mch_platform_is_locked(int fd, off_t at);

/* Bytes in a pipe that its reader has not taken yet, asked at either end; -1: unknown. */
long mch_platform_unread(int fd);

/* The largest number of a signal. */
int mch_platform_last_signal(void);

/* The signal by which a worker is asked to stop its task: ignored by default, so that one that
 * comes late does no harm. */
#define MCH_STOP_SIGNAL SIGURG

/* Says that the owner may have died. Its default is to be ignored, too. */
#define MCH_OWNER_SIGNAL SIGWINCH

/* Whether this is still the process that made the mark, and not a fork of it: a look at memory that
 * a fork wipes, or else a system call. */
struct mch_mark {
  volatile unsigned char *page; /* NULL: there is no such memory */
  int pid;
};
void mch_mark_make(struct mch_mark *mark);
void mch_mark_free(struct mch_mark *mark);
int mch_mark_is_ours(const struct mch_mark *mark);

/* Whether the calling thread is the one that is offered the process's signals first. */
int mch_platform_is_main_thread(void);

/* Whether a path is on another machine's file system, as far as that is known. */
int mch_platform_is_remote(const char *path);

/* CPUs that this process may use: affinity and cgroup quota; at least 1. */
unsigned mch_platform_cpu_count(void);

/* The largest resident size of this process so far, in bytes; 0: unknown. */
uint64_t mch_platform_maxrss(void);

/* Nanoseconds of processor time that this process has used. */
uint64_t mch_platform_cpu_time(void);

/* What a process of this machine uses now: nanoseconds of processor time so far, bytes that are
 * resident. 0, or -1: it is not known. */
int mch_platform_usage(pid_t pid, uint64_t *cpu, uint64_t *rss);

/* Wait until one of these descriptors (four at most, -1: none) is readable, or `deadline` comes,
 * under the signal mask `mask`. Whether the first one is; 0 also for a signal. */
int mch_platform_await(const int *fds, size_t count, uint64_t deadline, const sigset_t *mask);

/* One byte from `fd`, which may have to be waited for; -1 at the end, or for an error. */
int mch_platform_get_byte(int fd);

/* A set of descriptors to wait for. */
struct mch_poller;
struct mch_ready {
  void *ud;
};
struct mch_poller *mch_poller_new(struct mch_error *error);
void mch_poller_free(struct mch_poller *poller);
/* Watch whether `fd` is readable or at its end; one fd once. `ud` comes back when it is. 0, or -1
 * with errno. */
int mch_poller_add(struct mch_poller *poller, int fd, void *ud);
void mch_poller_remove(struct mch_poller *poller, int fd);
/* Watch whether mch_poller_wait() of another poller would have something. */
int mch_poller_add_inner(struct mch_poller *poller, struct mch_poller *inner, void *ud);
void mch_poller_remove_inner(struct mch_poller *poller, struct mch_poller *inner);
/* Wait until `deadline` (0: do not wait) under the signal mask `mask` (NULL: the present one).
 * Number of entries in `ready`, 0 for a time-out, -1 with errno EINTR or another. */
int mch_poller_wait(struct mch_poller *poller, struct mch_ready *ready, int room, uint64_t deadline,
                    const sigset_t *mask);
/* Sleep until mch_poller_wait() has something, `deadline` to the microsecond, or a signal. */
void mch_poller_sleep(struct mch_poller *poller, uint64_t deadline, const sigset_t *mask);
/* A descriptor that is readable when mch_poller_wait() has something; -1: none can be had. Where
 * the system has none, a thread makes it so, and is a moment behind: who has taken what there was
 * says so by mch_poller_settle(), after which it is not readable for what has gone. */
int mch_poller_fd(struct mch_poller *poller);
/* Whether that takes no thread. */
int mch_poller_has_fd(void);
void mch_poller_settle(struct mch_poller *poller);
/* In a fork: close what is the parent's. */
void mch_poller_disown(struct mch_poller *poller);

/* poll(2) until `deadline` under a signal mask (NULL: the present one). */
struct pollfd;
int mch_platform_poll(struct pollfd *fds, size_t count, uint64_t deadline, const sigset_t *mask);

#endif
