/* Runs in: both.
 *
 * What a message has met so far: a hash map from 64-bit keys (addresses of Lua values, or hashes
 * with the top bit set) to entries. Entries stay in order and are found by number. */
#ifndef MCH_IDENTITY_H
#define MCH_IDENTITY_H

#include <stdint.h>

#include "stack.h"

struct mch_met {
  uint64_t key;
  uint64_t a, b; /* what it means is the caller's business */
};

struct mch_met_slot {
  uint32_t hash, entry; /* entry is one more than the number; 0: empty */
};

enum { MCH_MET_START = 24, MCH_MET_SLOTS = 64 };

struct mch_identity {
  struct mch_array entries; /* struct mch_met */
  struct mch_array slots;   /* struct mch_met_slot; their number is mask + 1 */
  size_t mask;
  lua_State *L;
  int heap;                 /* stack index for mch_array_grow() */
  int entries_in, slots_in; /* numbers of the two arrays there */
  struct mch_met start[MCH_MET_START];
  struct mch_met_slot start_slots[MCH_MET_SLOTS];
};

void mch_identity_init(struct mch_identity *map, lua_State *L, int heap, int entries_in,
                       int slots_in);

/* Add an entry and return it; raises on memory. Does not look whether the key is there. */
struct mch_met *mch_identity_add(struct mch_identity *map, uint64_t key, uint64_t a, uint64_t b);

/* Forget all entries from number `count` on. */
void mch_identity_cut(struct mch_identity *map, size_t count);

static inline struct mch_met *mch_identity_entry(const struct mch_identity *map, size_t number) {
  return (struct mch_met *)map->entries.items + number;
}

static inline uint32_t mch_identity_hash(uint64_t key) {
  return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
}

/* The first entry with this key, or NULL; the next one with it. `*probe` is the place of the
 * search. */
static inline struct mch_met *mch_identity_next(const struct mch_identity *map, uint64_t key,
                                                size_t *probe) {
  const struct mch_met_slot *slots = map->slots.items;
  uint32_t hash = mch_identity_hash(key);
  size_t i = *probe;
  for (;; i++) {
    const struct mch_met_slot *slot = &slots[(hash + i) & map->mask];
    if (slot->entry == 0)
      return NULL;
    if (slot->hash == hash && mch_identity_entry(map, slot->entry - 1)->key == key) {
      *probe = i + 1;
      return mch_identity_entry(map, slot->entry - 1);
    }
  }
}

static inline struct mch_met *mch_identity_find(const struct mch_identity *map, uint64_t key) {
  size_t probe = 0;
  return mch_identity_next(map, key, &probe);
}

#endif
