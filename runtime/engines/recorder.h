/* Runs in: parent.
 *
 * What keeps how tasks ended beyond the life of their pool: a journal. The pool knows no more of it
 * than this table of functions, which the module mantichora.journal fills in, so that it needs none
 * of the libraries that a journal needs.
 *
 *     accepted: the recorder makes a struct mch_record, which the task takes along
 *     emitted:  values go into the record
 *     ended:    the record comes back, with how; or drop: it never will
 *     write:    what has gathered goes to the disk, on the pool's helper thread, or in its calls
 *               where there is none
 *
 * One recorder may serve several pools of a process. */
#ifndef MCH_RECORDER_H
#define MCH_RECORDER_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/wire/protocol.h"

struct mch_recorder;

/* What a recorder keeps of a task that is under way: the beginning of something of its own. */
struct mch_record {
  struct mch_recorder *recorder;
};

/* How a task ended. What it points to is good during the call. Times are in nanoseconds,
 * MCH_UNMEASURED where they are not known. */
struct mch_recorded {
  enum mch_kind kind;
  uint64_t runid, index; /* `index`: of its item in a map; 0: none */
  unsigned attempt;      /* from 1 */
  int pid;               /* 0: no worker */
  unsigned slot;
  int signal, exitcode;
  uint64_t waited, elapsed, cpu, maxrss, sent, received;
  const unsigned char *graph; /* OK: its values. Else, unless `length` is 0, what is known of the
                                 error: message, traceback, shown, value */
  size_t length;
  const char *text; /* why, in words; or NULL */
};

/* The first three are called under the lock of a pool, by its owner or its helper thread: they do
 * not wait for a disk. The last two without a lock, by one thread of a pool at a time; while
 * `write` runs no fork happens. */
struct mch_recorder {
  void (*emitted)(struct mch_record *record, unsigned attempt, const void *graph, size_t length);
  void (*ended)(struct mch_record *record, const struct mch_recorded *recorded);
  void (*drop)(struct mch_record *record);
  /* When `write` has something to do (mch_now); MCH_NEVER: nothing. */
  uint64_t (*due)(struct mch_recorder *recorder);
  /* Write what has gathered. `last`: the pool ends; all that is there, also if that lasts. */
  void (*write)(struct mch_recorder *recorder, int last);
};

#endif
