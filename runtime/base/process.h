/* Runs in: both.
 *
 * What makes a process one of its own: the one function that forks, and what a fork then undoes;
 * clocks and timers that go on while it is stopped, and while the machine sleeps. Linux first, each
 * with a fallback, as in platform.h. */
#ifndef MCH_PROCESS_H
#define MCH_PROCESS_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The one function that forks. All signals are blocked around it, so that no handler of the host
 * runs in the new process before it is reset; no thread of ours is at work, so that all locks of
 * ours are free there. As fork(2); in the new process signals stay blocked. */
pid_t mch_process_fork(void);

/* In the new process: stdin's lock belongs to a thread that it has not got, which sat in a read of
 * it. Who used the stream would wait for ever. (Never with glibc.) */
int mch_process_stdin_is_lost(void);

/* Handlers of the host become default; what it ignores stays ignored, as after exec; SIGCHLD
 * becomes default. */
void mch_process_reset_signals(void);

/* Let all signals come. */
void mch_process_unblock_signals(void);

/* Close all descriptors from `first` on but those of `kept` (ascending, -1: none). */
void mch_process_close_others(int first, const int *kept, size_t count);

/* Let a pipe hold more than it does, where that can be had: fewer processes wake for it. */
void mch_process_widen_pipe(int fd);

/* Have the kernel kill this process (SIGKILL) as soon as the thread that forked it ends, `parent`
 * being that process's number. Call after the fork; the mark survives exec. Elsewhere than on Linux
 * it does nothing. */
void mch_process_die_with(pid_t parent);

/* The file of this program, and that of the module or library that this very code is in. 0 or -1.
 */
int mch_process_program(char *path, size_t room);
int mch_process_own_file(char *path, size_t room);

/* Nanoseconds of a clock that also goes on while the machine sleeps. */
uint64_t mch_process_clock(void);

/* A timer that kills this process (SIGKILL) at a time of mch_process_clock(), even if it is stopped
 * then. Not inherited by forks. `-1`: there is no such thing. */
struct mch_deadman {
  int timer;
};
void mch_deadman_make(struct mch_deadman *deadman);
/* MCH_NEVER: it is disarmed. */
void mch_deadman_arm(const struct mch_deadman *deadman, uint64_t when);

/* In a fork that does next to nothing for a long time: give back all large memory that was copied
 * from the process before, so that it does not keep old pages alive. What `kept` (`count` of them)
 * points to stays; so do the stack, all that is mapped from files, and shared memory. After it
 * neither malloc() nor anything that may call it may be used. */
void mch_process_forget_memory(const void *const *kept, size_t count);

#endif
