/* Runs in: both.
 *
 * The objects that a message contains so far: a hash map from 64-bit keys (addresses of Lua values,
 * or hashes with the top bit set) to entries. Entries stay in order and are found by number.
 *
 * A slot holds the number of an entry + stamp + 1. The slots of a large map are kept for the next
 * message, unchanged: that message begins with a higher stamp, and a slot that is not above it
 * counts as empty. */
#ifndef MCH_IDENTITY_H
#define MCH_IDENTITY_H

#include <stdint.h>

#include "stack.h"

struct mch_met {
  uint64_t key;
  uint64_t a, b; /* what it means is the caller's business */
};

enum { MCH_MET_START = 24, MCH_MET_SLOTS = 64 };

struct mch_identity {
  struct mch_array entries; /* struct mch_met */
  struct mch_array slots;   /* uint32_t; their number is mask + 1 */
  size_t mask;
  size_t room;    /* so many entries fit without growing anything */
  uint32_t stamp; /* slots up to this are empty */
  lua_State *L;
  int heap;       /* stack index for mch_array_grow() */
  int entries_in; /* number of the array there */
  struct mch_met start[MCH_MET_START];
  uint32_t start_slots[MCH_MET_SLOTS];
};

void mch_identity_init(struct mch_identity *map, lua_State *L, int heap, int entries_in);

/* The message is complete: the next one may use the slots. To be called before mch_heap_release().
 */
void mch_identity_release(struct mch_identity *map);

/* Add an entry and return it; raises on memory. Does not look whether the key is there. */
struct mch_met *mch_identity_add(struct mch_identity *map, uint64_t key, uint64_t a, uint64_t b);

/* Forget all entries from number `count` on. */
void mch_identity_cut(struct mch_identity *map, size_t count);

static inline struct mch_met *mch_identity_entry(const struct mch_identity *map, size_t number) {
  return (struct mch_met *)map->entries.elements + number;
}

/* Objects that were made one after the other lie one behind the other, and are often met so: their
 * slots do, too, which is kind to the cache. */
static inline size_t mch_identity_hash(uint64_t key) {
  return (size_t)(key >> 5 ^ key >> 37);
}

/* A search: where it is, and what the next step depends on, so that crowded places are left soon.
 */
struct mch_probe {
  size_t slot;
  uint64_t perturb;
};

static inline struct mch_probe mch_probe_first(const struct mch_identity *map, uint64_t key) {
  struct mch_probe probe = {mch_identity_hash(key) & map->mask, key};
  return probe;
}

static inline void mch_probe_step(const struct mch_identity *map, struct mch_probe *probe) {
  probe->perturb = probe->perturb * UINT64_C(0x9e3779b97f4a7c15) >> 7;
  probe->slot = (probe->slot * 5 + 1 + (size_t)probe->perturb) & map->mask;
}

/* The next entry with this key, or NULL: then the probe is at the slot where it would be. */
static inline struct mch_met *mch_identity_next(const struct mch_identity *map, uint64_t key,
                                                struct mch_probe *probe) {
  const uint32_t *slots = map->slots.elements;
  for (;;) {
    uint32_t slot = slots[probe->slot];
    struct mch_met *met;
    if (slot <= map->stamp)
      return NULL;
    mch_probe_step(map, probe);
    met = mch_identity_entry(map, slot - map->stamp - 1);
    if (met->key == key)
      return met;
  }
}

static inline struct mch_met *mch_identity_find(const struct mch_identity *map, uint64_t key) {
  struct mch_probe probe = mch_probe_first(map, key);
  return mch_identity_next(map, key, &probe);
}

/* mch_identity_add(), after mch_identity_next() gave NULL and nothing was added since. */
static inline void mch_identity_put(struct mch_identity *map, const struct mch_probe *probe,
                                    uint64_t key, uint64_t a, uint64_t b) {
  size_t number = map->entries.count;
  if (number >= map->room) {
    mch_identity_add(map, key, a, b);
    return;
  }
  *mch_identity_entry(map, number) = (struct mch_met){key, a, b};
  map->entries.count = number + 1;
  ((uint32_t *)map->slots.elements)[probe->slot] = map->stamp + (uint32_t)number + 1;
}

#endif
