/* Runs in: parent.
 *
 * How often equal tasks came: a map from hashes to numbers. */
#ifndef MCH_COUNTS_H
#define MCH_COUNTS_H

#include <stddef.h>
#include <stdint.h>

#include "hash.h"

struct mch_counts {
  struct mch_count {
    uint64_t hash, count; /* 0: an empty slot */
  } * slots;
  size_t mask, used;
};

/* How often this was asked before about this hash. Without memory for another one: 0. */
uint64_t mch_counts_next(struct mch_counts *counts, const unsigned char hash[MCH_HASH_SIZE]);

void mch_counts_clear(struct mch_counts *counts);

#endif
