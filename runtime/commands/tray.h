/* Runs in: both.
 *
 * Trays: memory that the parent of a shell command (map, filter, run) shares with its workers. The
 * parent lays a batch of items into a tray and gives the tray's number to a worker as a task; the
 * worker lays a record for each item beside them as soon as the item is done. So
 *
 *  - a result is seen when it is there, not when its batch has ended;
 *  - after the death of a worker it is known which items were done and which one was running;
 *  - items of a batch that were not begun can be taken back, and given to another worker.
 *
 * All of that hangs on one word, the claim: how many items are done, where the batch ends by now,
 * whether an item runs, whether that one was stopped. It is changed by compare-and-swap only. */
#ifndef MCH_TRAY_H
#define MCH_TRAY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
  MCH_TRAY_ITEMS = 64 * 1024,    /* bytes of a batch; a larger item travels as an argument */
  MCH_TRAY_RECORDS = 256 * 1024, /* bytes of results; a larger one travels as the task's result */
  MCH_TRAY_MOST = 8192,          /* items of a batch */
};

/* How an item ended. */
enum mch_record_kind {
  MCH_RECORD_OK,     /* payload: what is printed */
  MCH_RECORD_FAILED, /* payload: the message, behind what is printed (`printed` bytes) */
  MCH_RECORD_BAD,    /* bad input; payload: the message */
};

/* Stands before the payload of each item in a tray. */
struct mch_record {
  uint32_t kind;    /* enum mch_record_kind */
  uint32_t is_away; /* the payload is the task's result */
  uint32_t length;  /* bytes of the payload, also of one that is away */
  uint32_t printed; /* of these for stdout; for stderr the rest, in `run`, or the message */
  uint32_t message; /* bytes of the message, which are the payload's last ones */
  uint32_t lines;   /* bytes of result lines among those for stdout */
  uint32_t header;  /* bytes of a header, which are the payload's first ones */
  int32_t exitcode; /* of a command */
  int32_t signal;   /* that ended a command, or 0 */
  uint32_t line;    /* lines of the batch before the item's */
  uint64_t at;      /* where the item stands in the batch */
  uint64_t size;    /* and how many bytes it has */
  uint64_t started; /* mch_now() */
  uint64_t ended;
};

struct mch_tray {
  _Atomic uint64_t claim;
  _Atomic uint64_t started; /* when the attempt that runs was begun */
  _Atomic uint32_t attempt; /* its number, from 0 */
  uint32_t length;          /* bytes of items */
  uint32_t written;         /* bytes of records; the worker's */
  uint32_t had, read;       /* records that the parent has had, and their bytes; the parent's */
  char items[MCH_TRAY_ITEMS];
  char records[MCH_TRAY_RECORDS];
};

/* What all workers and the parent share. */
struct mch_counter {
  _Atomic uint64_t ended;
  _Atomic uint64_t failed;
  _Atomic uint64_t halted; /* no item of this number or above begins any more; 0: all may */
  /* Set before the first fork: the failure that halts, or 0; or the share of failures, or 0. */
  uint64_t halt_count;
  double halt_share;
  int halts_all; /* a halt is for all items, and not for those behind its failure only */
};

/* Count an item, by its number from 1, that has ended; a failure may halt what follows. Workers do
 * not begin their items in one order: those before the failure still do, as they would have begun
 * before it if there were no batches. */
void mch_counter_add(struct mch_counter *counter, uint64_t number, int has_failed);

/* Whether this item must not begin. */
int mch_counter_is_halted(const struct mch_counter *counter, uint64_t number);

/* --- the parent ---------------------------------------------------------------------------- */

/* Lay a batch of `count` items into the tray; `length` may be 0: they travel as an argument. */
void mch_tray_fill(struct mch_tray *tray, const char *items, size_t length, uint32_t count);

/* No item of this batch that was not begun shall begin any more. How many items of it are begun:
 * those that follow will not be. */
uint32_t mch_tray_cut(struct mch_tray *tray);

/* Whatever its worker says of the running item, it was stopped. Whether there was one, and it is
 * the one at `index` (UINT32_MAX: whichever). Nothing else of the batch begins. */
int mch_tray_stop(struct mch_tray *tray, uint32_t index);

struct mch_tray_state {
  uint32_t done;  /* items that ended, each with a record */
  uint32_t limit; /* items that the batch has by now */
  int runs;       /* the item after these runs, or ran when its worker died */
  int is_stopped; /* that one was stopped */
};
struct mch_tray_state mch_tray_look(const struct mch_tray *tray);

/* The next record that the parent has not had, whose payload stands at `*payload`; 0: none. It
 * counts as had if `take`. */
int mch_tray_next(struct mch_tray *tray, int take, struct mch_record *record, const char **payload);

/* --- a worker ------------------------------------------------------------------------------ */

/* Begin the next item; 0: there is none for this worker. */
int mch_tray_begin(struct mch_tray *tray, uint64_t now);

/* Begin the running item again; 0: it was stopped. */
int mch_tray_retry(struct mch_tray *tray, uint64_t now);

/* Whether a record with so many bytes has room, and leaves room for one that is away. */
int mch_tray_has_room(const struct mch_tray *tray, size_t length);

/* The running item has ended so. 0: it was stopped meanwhile, and nothing is recorded. */
int mch_tray_finish(struct mch_tray *tray, const struct mch_record *record, const char *payload);

#endif
