/* Runs in: both. Purpose: ending.h. */
#define _POSIX_C_SOURCE 200809L
#include "ending.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { ACTS = 4, SIGNALS = 3 };
static const int signals[SIGNALS] = {SIGTERM, SIGINT, SIGHUP};

/* Handlers of signals have no argument: this is theirs, and the process's. */
static struct {
  atomic_int pid; /* whose state this is */
  _Atomic(mch_last_act) acts[ACTS];
  atomic_int handles; /* bit i: of the signals above the i-th was taken */
} own;

static int is_ours(void) {
  return own.pid == (int)getpid();
}

static void on_end(int number) {
  int saved = errno, i;
  for (i = 0; i < ACTS && is_ours(); i++) {
    mch_last_act act = own.acts[i];
    if (act != NULL)
      act();
  }
  signal(number, SIG_DFL);
  raise(number);
  errno = saved;
}

static int has_acts(void) {
  int i;
  for (i = 0; i < ACTS; i++)
    if (own.acts[i] != NULL)
      return 1;
  return 0;
}

int mch_ending_is_usual(const struct sigaction *action) {
  return (action->sa_flags & SA_SIGINFO) == 0 &&
         (action->sa_handler == SIG_DFL || action->sa_handler == on_end);
}

void mch_ending_set_usual(int number) {
  struct sigaction action;
  int i, can_end = 0;
  for (i = 0; i < SIGNALS; i++)
    can_end |= signals[i] == number;
  memset(&action, 0, sizeof action);
  sigfillset(&action.sa_mask);
  action.sa_handler = can_end && is_ours() && has_acts() ? on_end : SIG_DFL;
  sigaction(number, &action, NULL);
}

/* Take those signals that nobody else handles, or (without anything to do) let go of ours. */
static void arm(int bits) {
  struct sigaction now;
  int i;
  for (i = 0; i < SIGNALS; i++)
    if ((bits & 1 << i) != 0 && sigaction(signals[i], NULL, &now) == 0 &&
        mch_ending_is_usual(&now)) {
      mch_ending_set_usual(signals[i]);
      own.handles |= 1 << i;
    }
}

void mch_ending_add(mch_last_act act) {
  int i, free = -1;
  if (!is_ours()) {
    for (i = 0; i < ACTS; i++)
      own.acts[i] = NULL;
    own.handles = 0;
    own.pid = (int)getpid();
  }
  for (i = ACTS - 1; i >= 0; i--) {
    if (own.acts[i] == act)
      break;
    if (own.acts[i] == NULL)
      free = i;
  }
  if (i < 0 && free >= 0)
    own.acts[free] = act;
  arm(~own.handles);
}

void mch_ending_remove(mch_last_act act) {
  int i;
  if (!is_ours())
    return;
  for (i = 0; i < ACTS; i++)
    if (own.acts[i] == act)
      own.acts[i] = NULL;
  if (has_acts())
    return;
  arm(own.handles);
  own.handles = 0;
}
