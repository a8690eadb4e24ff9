/* Runs in: parent. Purpose: gate.h. */
#define _POSIX_C_SOURCE 200809L
#include "gate.h"

#include <pthread.h>

/* A fork copies locks as they stand: it waits until no thread of ours is at work or being born, and
 * none begins before it is over. Not a lock for reading and writing, which only the thread that
 * took it may let go: the maker of a thread takes it for the new one. One per process because
 * fork() is. */
struct gate {
  pthread_mutex_t lock; /* held around fork() */
  pthread_cond_t changed;
  unsigned inside; /* threads that hold forks off */
  unsigned forks;  /* that wait: they go first */
};
#define OPEN_GATE                                                                                  \
  { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 }
static struct gate gate = OPEN_GATE;
static pthread_once_t gate_is_known = PTHREAD_ONCE_INIT;

/* In a new process, which has none of the threads that the fork found inside: one of the host's
 * comes by here as well, and may have pools of its own. */
void mch_gate_open_copied(void) {
  gate = (struct gate)OPEN_GATE;
}

static void know_gate(void) {
  pthread_atfork(NULL, NULL, mch_gate_open_copied);
}

static void lock_gate(void) {
  pthread_once(&gate_is_known, know_gate);
  pthread_mutex_lock(&gate.lock);
}

void mch_gate_hold_off(void) {
  lock_gate();
  while (gate.forks > 0)
    pthread_cond_wait(&gate.changed, &gate.lock);
  gate.inside++;
  pthread_mutex_unlock(&gate.lock);
}

void mch_gate_let_go(void) {
  lock_gate();
  if (--gate.inside == 0)
    pthread_cond_broadcast(&gate.changed);
  pthread_mutex_unlock(&gate.lock);
}

void mch_gate_close(void) {
  lock_gate();
  gate.forks++;
  while (gate.inside > 0)
    pthread_cond_wait(&gate.changed, &gate.lock);
}

void mch_gate_open(void) {
  if (--gate.forks == 0)
    pthread_cond_broadcast(&gate.changed);
  pthread_mutex_unlock(&gate.lock);
}
