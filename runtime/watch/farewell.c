/* Runs in: parent. Purpose: farewell.h. */
#define _POSIX_C_SOURCE 200809L
#include "farewell.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/ending.h"
#include "runtime/base/gate.h"
#include "runtime/base/platform.h"

enum { SIGNALS = 2 };
static const int signals[SIGNALS] = {SIGTERM, SIGHUP};

/* Signal handlers have no argument: this is theirs. */
static struct {
  pid_t pid; /* 0: not begun */
  int pipe[2];
  int handles; /* by bits: which signals */
  volatile sig_atomic_t asked;
  pthread_t thread;
  void (*leave)(void *ud);
  void *ud;
} own;

/* In a fork, and the second time, the signal does what it does without us. */
static void on_signal(int number) {
  int saved = errno;
  char byte = (char)number;
  if (own.pid != getpid() || own.asked || write(own.pipe[1], &byte, 1) != 1) {
    mch_ending_set_usual(number);
    raise(number);
  }
  own.asked = 1;
  errno = saved;
}

static void *wait_for_signal(void *unused) {
  char byte = 0;
  ssize_t count;
  (void)unused;
  mch_gate_let_go(); /* it is born */
  do
    count = read(own.pipe[0], &byte, 1);
  while (count < 0 && errno == EINTR);
  if (count != 1 || byte == 0)
    return NULL;
  mch_gate_hold_off();
  own.leave(own.ud);
  mch_gate_let_go();
  mch_ending_set_usual(byte);
  kill(getpid(), byte);
  return NULL;
}

/* It takes no signals, and no fork happens before it has begun. */
static int start_thread(void) {
  sigset_t all, old;
  int code;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  mch_gate_hold_off();
  code = pthread_create(&own.thread, NULL, wait_for_signal, NULL);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (code != 0)
    mch_gate_let_go();
  return code;
}

static void take_signals(void) {
  struct sigaction action, old;
  int i;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigfillset(&action.sa_mask);
  for (i = 0; i < SIGNALS; i++)
    if (sigaction(signals[i], NULL, &old) == 0 && mch_ending_is_usual(&old) &&
        sigaction(signals[i], &action, NULL) == 0)
      own.handles |= 1 << i;
}

static void release_signals(void) {
  struct sigaction now;
  int i;
  for (i = 0; i < SIGNALS; i++)
    if ((own.handles & 1 << i) != 0 && sigaction(signals[i], NULL, &now) == 0 &&
        (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == on_signal)
      mch_ending_set_usual(signals[i]);
  own.handles = 0;
}

void mch_farewell_begin(void (*leave)(void *ud), void *ud) {
  if (own.pid == getpid() || mch_platform_pipe(own.pipe, NULL) != 0)
    return;
  own.asked = 0;
  own.leave = leave;
  own.ud = ud;
  if (start_thread() == 0) {
    own.pid = getpid();
    take_signals();
    return;
  }
  close(own.pipe[0]);
  close(own.pipe[1]);
}

void mch_farewell_end(void) {
  if (own.pid != getpid())
    return;
  release_signals();
  if (!own.asked)
    own.asked = write(own.pipe[1], "", 1) == 1;
  pthread_join(own.thread, NULL);
  own.pid = 0;
  close(own.pipe[0]);
  close(own.pipe[1]);
}
