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

void mch_identity_release(struct mch_identity *map) {
  if (map->slots.heap != NULL)
    ((struct mch_heap *)lua_touserdata(map->L, map->heap))->stamp =
        map->stamp + (uint32_t)map->entries.count;
}

static void fill_slot(struct mch_identity *map, size_t number) {
  uint32_t *slots = map->slots.items;
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

static void clear_slots(struct mch_identity *map) {
  map->stamp = 0;
  memset(map->slots.items, 0, (map->mask + 1) * sizeof(uint32_t));
}

/* Take the slots that an earlier message left, if those are more; else make more. */
static void grow_slots(struct mch_identity *map) {
  enum { FEW = 1 << 14 }; /* their number grows faster */
  size_t slots = (map->mask + 1) * (map->mask < FEW ? 4 : 2);
  int first = map->slots.heap == NULL;
  struct mch_heap *heap;
  map->slots.count = 0;
  mch_array_grow(map->L, &map->slots, sizeof(uint32_t), slots, map->heap, MCH_HEAP_SLOTS);
  heap = lua_touserdata(map->L, map->heap);
  if (first && heap->slots >= slots && heap->stamp <= STAMP_MOST) {
    map->mask = heap->slots - 1;
    map->stamp = heap->stamp;
  } else {
    map->mask = slots - 1;
    heap->slots = slots;
    clear_slots(map);
  }
  fill_slots(map);
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
  if (count >= map->entries.count)
    return;
  map->entries.count = count;
  clear_slots(map);
  fill_slots(map);
}
