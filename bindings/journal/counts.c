/* Runs in: parent. Purpose: counts.h. */
#include "counts.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/buf.h"

static struct mch_count *slot_of(const struct mch_counts *counts, uint64_t hash) {
  size_t at = (size_t)hash & counts->mask;
  while (counts->slots[at].count != 0 && counts->slots[at].hash != hash)
    at = (at + 1) & counts->mask;
  return &counts->slots[at];
}

static int grow(struct mch_counts *counts) {
  struct mch_counts larger = {NULL, counts->slots != NULL ? 2 * counts->mask + 1 : 63, 0};
  size_t i;
  larger.slots = calloc(larger.mask + 1, sizeof *larger.slots);
  if (larger.slots == NULL)
    return -1;
  for (i = 0; counts->slots != NULL && i <= counts->mask; i++)
    if (counts->slots[i].count != 0)
      *slot_of(&larger, counts->slots[i].hash) = counts->slots[i];
  larger.used = counts->used;
  free(counts->slots);
  *counts = larger;
  return 0;
}

uint64_t mch_counts_next(struct mch_counts *counts, const unsigned char hash[MCH_HASH_SIZE]) {
  struct mch_count *slot;
  if ((counts->slots == NULL || 4 * counts->used >= 3 * counts->mask) && grow(counts) != 0 &&
      (counts->slots == NULL || counts->used >= counts->mask))
    return 0;
  slot = slot_of(counts, mch_load_u64(hash));
  if (slot->count == 0) {
    slot->hash = mch_load_u64(hash);
    counts->used++;
  }
  return slot->count++;
}

void mch_counts_clear(struct mch_counts *counts) {
  free(counts->slots);
  memset(counts, 0, sizeof *counts);
}
