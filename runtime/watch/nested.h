/* Runs in: both.
 *
 * Tasks of pools inside of tasks, on their way from the workers that had them to the report of the
 * process above: records at the end of a file without a name, which all of them have open. */
#ifndef MCH_NESTED_H
#define MCH_NESTED_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "attempt.h"
#include "runtime/base/buf.h"

/* Texts, in this order; a record has the first bytes of them. */
enum { MCH_NESTED_NAME, MCH_NESTED_PLACE, MCH_NESTED_REPORT, MCH_NESTED_TEXTS };

/* An attempt that is over. */
struct mch_nested {
  int worker;                 /* the process whose task had the pool */
  unsigned row;               /* of its slots, from 1: of pools that were there at the same time */
  int ended;                  /* 0: another attempt follows */
  int begun;                  /* 0: it has no time */
  uint64_t at;                /* when it ended */
  struct mch_attempt attempt; /* without a machine */
  struct {
    const unsigned char *bytes;
    size_t length;
  } texts[MCH_NESTED_TEXTS];
};

/* The file; it lies where `path` does until it is open. -1: there can be none. */
int mch_nested_open(const char *path);

void mch_nested_put(struct mch_buf *to, const struct mch_nested *task);

/* Add whole records to the file; at the end of any others. */
void mch_nested_write(int fd, const struct mch_buf *records);

/* Read what the file has from *at on, but not all at once, to the end of `heard`. Whether there was
 * something. */
int mch_nested_read(int fd, off_t *at, struct mch_buf *heard);

/* The next one of `heard`, which its texts are in. 0: no whole one is there. */
int mch_nested_take(struct mch_buf *heard, struct mch_nested *task);

#endif
