/* Runs in: parent, on a thread of its own.
 *
 * The optional helper thread that pumps while the host's own code is busy. It never touches Lua,
 * never forks, takes no signals, and stays out of the pool while the owner waits inside it. */
#ifndef MCH_DRIVER_H
#define MCH_DRIVER_H

#include <pthread.h>
#include <stdint.h>

/* What it drives. All but `draw` and `record` are called under the lock. */
struct mch_driven {
  void *ud;
  pthread_mutex_t *lock;
  int (*pump)(void *ud);          /* not 0: much was done, a rest will bring much again */
  void (*draw)(void *ud);         /* after each pump */
  int (*attended)(void *ud);      /* the owner is waiting inside: keep away */
  int (*busy)(void *ud);          /* there is something to wait for */
  uint64_t (*deadline)(void *ud); /* when to pump at the latest */
  /* Writing what has gathered for a journal: when that is due, also while the owner is attending;
   * and doing it. */
  uint64_t (*record_due)(void *ud);
  void (*record)(void *ud);
  int fd; /* readable when to pump at once; -1: look at it often */
  /* Something else that is served besides, whether the owner is inside or not; NULL: nothing. A
   * descriptor that is readable when it is due, or -1; and when it is due at the latest. */
  int (*side)(void *ud, uint64_t *due);
  /* Serve it. Not under the lock. 0: another thread is at it. */
  int (*serve)(void *ud);
};

struct mch_driver;

/* Start the thread, without waiting for it: it has its first look some time after. No fork happens
 * in this process until it has begun. NULL: there is none to be had. May be called under the lock.
 */
struct mch_driver *mch_driver_new(const struct mch_driven *driven);

/* Things have changed (under the lock): there may be something to do, sooner than it thinks. */
void mch_driver_notice(struct mch_driver *driver);

/* What it serves besides may be due sooner than it thinks, or anew (under the lock). */
void mch_driver_look(struct mch_driver *driver);

/* Have it end, without waiting for that. Not under the lock. */
void mch_driver_stop(struct mch_driver *driver);

/* End and join it. Not under the lock. */
void mch_driver_free(struct mch_driver *driver);

#endif
