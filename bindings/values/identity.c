/* Runs in: both. Purpose: identity.h. */
#include "identity.h"

#include <lauxlib.h>
#include <string.h>

/* Beyond this a stamp might be followed by more entries than there are numbers. */
#define STAMP_MOST (UINT32_MAX / 2)

static size_t slots_full(const struct mch_identity *map) {
  return map->mask / 8 * 5 + 1;
}

static void set_room(struct mch_identity *map) {
  map->room = slots_full(map);
  if (map->room > map->entries.capacity)
    map->room = map->entries.capacity;
}

void mch_identity_init(struct mch_identity *map, lua_State *L, int heap, int entries_in) {
  map->L = L;
  map->heap = heap;
  map->entries_in = entries_in;
  map->mask = MCH_MET_SLOTS - 1;
  map->stamp = 0;
  map->entries = (struct mch_array){map->start, 0, MCH_MET_START, NULL};
  map->slots = (struct mch_array){map->start_slots, 0, MCH_MET_SLOTS, NULL};
  memset(map->start_slots, 0, sizeof map->start_slots);
  set_room(map);
}

static void fill_slot(struct mch_identity *map, size_t number) {
  uint32_t *slots = map->slots.elements;
  struct mch_probe probe = mch_probe_first(map, mch_identity_entry(map, number)->key);
  while (slots[probe.slot] > map->stamp)
    mch_probe_step(map, &probe);
  slots[probe.slot] = map->stamp + (uint32_t)number + 1;
}

static void fill_slots(struct mch_identity *map) {
  size_t i;
  for (i = 0; i < map->entries.count; i++)
    fill_slot(map, i);
}

/* Empty all slots and fill in the entries: by a later stamp, if all slots were set before. */
static void reset_slots(struct mch_identity *map, uint32_t stamp, int were_set) {
  map->stamp = stamp;
  if (!were_set || stamp > STAMP_MOST) {
    map->stamp = 0;
    memset(map->slots.elements, 0, (map->mask + 1) * sizeof(uint32_t));
    if (map->slots.heap != NULL)
      ((struct mch_heap *)lua_touserdata(map->L, map->heap))->slots = map->mask + 1;
  }
  fill_slots(map);
}

/* The newest of all slots so far. */
static uint32_t newest(const struct mch_identity *map) {
  return map->stamp + (uint32_t)map->entries.count;
}

/* Make more slots. Those that an earlier message left need no clearing, and to leave out the sizes
 * in between saves moving entries; but many more than are needed would be far apart. */
static void grow_slots(struct mch_identity *map) {
  enum { FEW = 1 << 14 };
  size_t slots = (map->mask + 1) * (map->mask < FEW ? 4 : 2);
  int first = map->slots.heap == NULL;
  const struct mch_heap *heap;
  map->slots.count = 0;
  mch_array_grow(map->L, &map->slots, sizeof(uint32_t), slots, map->heap, MCH_HEAP_SLOTS);
  heap = lua_touserdata(map->L, map->heap);
  if (first && slots < FEW && heap->slots >= FEW)
    slots = FEW;
  map->mask = slots - 1;
  reset_slots(map, first ? heap->stamp : newest(map), slots <= heap->slots);
}

struct mch_met *mch_identity_add(struct mch_identity *map, uint64_t key, uint64_t a, uint64_t b) {
  size_t number = map->entries.count;
  if (number == map->entries.capacity)
    mch_array_grow(map->L, &map->entries, sizeof(struct mch_met), number + 1, map->heap,
                   map->entries_in);
  if (number > STAMP_MOST)
    luaL_error(map->L, "too many objects in one message");
  if (number >= slots_full(map))
    grow_slots(map);
  set_room(map);
  *mch_identity_entry(map, number) = (struct mch_met){key, a, b};
  map->entries.count = number + 1;
  fill_slot(map, number);
  return mch_identity_entry(map, number);
}

void mch_identity_cut(struct mch_identity *map, size_t count) {
  uint32_t stamp = newest(map);
  if (count >= map->entries.count)
    return;
  map->entries.count = count;
  reset_slots(map, stamp, 1);
}

void mch_identity_release(struct mch_identity *map) {
  if (map->slots.heap != NULL)
    ((struct mch_heap *)lua_touserdata(map->L, map->heap))->stamp = newest(map);
}
