/* Runs in: parent. Purpose: hold.h. */
#define _POSIX_C_SOURCE 200809L
#include "hold.h"

#include <sys/stat.h>

void mch_hold_unlock(int streams) {
  int bit;
  for (bit = 1; bit <= MCH_HOLD_BOTH; bit <<= 1)
    if (streams & bit)
      funlockfile(mch_hold_stream(bit));
}

static int lock_one(FILE *stream, int wait) {
  if (wait)
    flockfile(stream);
  return wait || ftrylockfile(stream) == 0;
}

int mch_hold_lock(int streams, int wait) {
  int bit, locked = 0;
  for (bit = 1; bit <= MCH_HOLD_BOTH; bit <<= 1) {
    FILE *stream = mch_hold_stream(bit);
    if (!(streams & bit))
      continue;
    if (!lock_one(stream, wait)) {
      mch_hold_unlock(locked);
      return -1;
    }
    if (fileno(stream) >= 0)
      locked |= bit;
    else
      funlockfile(stream);
  }
  return locked;
}

int mch_hold_same_file(int a, int b) {
  struct stat first, second;
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

/* Who reads holds the lock of the stream meanwhile. */
int mch_hold_is_reading(void) {
  if (ftrylockfile(stdin) != 0)
    return 1;
  funlockfile(stdin);
  return 0;
}

void mch_hold_flush_stdout(void) {
  if (fileno(stdout) >= 0)
    fflush(stdout);
}
