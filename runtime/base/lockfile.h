/* Runs in: both.
 *
 * One process at a time: whoever has PATH.lock. It goes with the process, however that ends. */
#ifndef MCH_LOCKFILE_H
#define MCH_LOCKFILE_H

struct mch_lockfile {
  int fd;     /* -1: not taken */
  char *path; /* of PATH.lock, or NULL */
};

/* Wait until nobody else has it. 0, or errno, and it is not taken. */
int mch_lockfile_take(struct mch_lockfile *lock, const char *path);

/* Let others have it, and leave no file behind. Nothing happens if it was not taken. */
void mch_lockfile_drop(struct mch_lockfile *lock);

#endif
