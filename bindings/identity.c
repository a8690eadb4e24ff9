/* Runs in: both. Purpose: identity.h. */
#include "identity.h"

#include <string.h>

void mch_identity_init(struct mch_identity *map, lua_State *L, int heap, int entries_in,
                       int slots_in) {
  map->L = L;
  map->heap = heap;
  map->entries_in = entries_in;
  map->slots_in = slots_in;
  map->mask = MCH_MET_SLOTS - 1;
  map->entries = (struct mch_array){map->start, 0, MCH_MET_START, NULL};
  map->slots = (struct mch_array){map->start_slots, 0, MCH_MET_SLOTS, NULL};
  memset(map->start_slots, 0, sizeof map->start_slots);
}

static void fill_slot(struct mch_identity *map, uint64_t key, size_t number) {
  struct mch_met_slot *slots = map->slots.items;
  struct mch_probe probe = mch_probe_first(map, key);
  while (slots[probe.slot].entry != 0)
    mch_probe_step(map, &probe);
  slots[probe.slot].hash = mch_identity_hash(key);
  slots[probe.slot].entry = (uint32_t)number + 1;
}

static void fill_slots(struct mch_identity *map) {
  size_t i;
  memset(map->slots.items, 0, (map->mask + 1) * sizeof(struct mch_met_slot));
  for (i = 0; i < map->entries.count; i++)
    fill_slot(map, mch_identity_entry(map, i)->key, i);
}

struct mch_met *mch_identity_add(struct mch_identity *map, uint64_t key, uint64_t a, uint64_t b) {
  size_t number = map->entries.count;
  if (number == map->entries.capacity)
    mch_array_grow(map->L, &map->entries, sizeof(struct mch_met), number + 1, map->heap,
                   map->entries_in);
  if (number > map->mask / 8 * 5) {
    size_t slots = (map->mask + 1) * 2;
    map->slots.count = 0;
    mch_array_grow(map->L, &map->slots, sizeof(struct mch_met_slot), slots, map->heap,
                   map->slots_in);
    map->mask = slots - 1;
    fill_slots(map);
  }
  *mch_identity_entry(map, number) = (struct mch_met){key, a, b};
  map->entries.count = number + 1;
  fill_slot(map, key, number);
  return mch_identity_entry(map, number);
}

void mch_identity_cut(struct mch_identity *map, size_t count) {
  if (count >= map->entries.count)
    return;
  map->entries.count = count;
  fill_slots(map);
}
