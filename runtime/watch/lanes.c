/* Runs in: both. Purpose: lanes.h. */
#define _POSIX_C_SOURCE 200809L
#include "lanes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/grow.h"

enum { MOST_SLOTS = 1 << 16 };

static struct mch_lane_pool *find_pool(struct mch_lanes *lanes, uint64_t number) {
  size_t i;
  for (i = 0; i < lanes->pool_count; i++)
    if (lanes->pools[i].number == number)
      return &lanes->pools[i];
  return NULL;
}

static int is_taken(const struct mch_lanes *lanes, const char *name) {
  size_t i;
  for (i = 0; i < lanes->pool_count; i++)
    if (lanes->pools[i].name != NULL && strcmp(lanes->pools[i].name, name) == 0)
      return 1;
  return 0;
}

/* What no other pool of now is called: the name itself, or with a number behind it. The first
 * without a name needs none. */
static char *choose_name(const struct mch_lanes *lanes, const char *name) {
  size_t room = (name != NULL ? strlen(name) : 0) + 32;
  unsigned number = 1;
  char *chosen = malloc(room);
  if (chosen == NULL)
    return NULL;
  snprintf(chosen, room, "%s", name != NULL ? name : "");
  while (is_taken(lanes, chosen)) {
    number++;
    snprintf(chosen, room, "%s %u", name != NULL && name[0] != '\0' ? name : "pool", number);
  }
  return chosen;
}

static struct mch_lane_pool *add_pool(struct mch_lanes *lanes, uint64_t number, const char *name) {
  struct mch_lane_pool *pool,
      *pools = mch_grow(lanes->pools, &lanes->pool_room, lanes->pool_count + 1, sizeof *pools);
  if (pools == NULL)
    return NULL;
  lanes->pools = pools;
  pool = &pools[lanes->pool_count];
  memset(pool, 0, sizeof *pool);
  pool->number = number;
  pool->name = choose_name(lanes, name);
  lanes->pool_count++;
  return pool;
}

static int is_of(const struct mch_lane *lane, const char *name, unsigned slot) {
  return lane->pool == 0 && lane->slot == slot && lane->pool_name != NULL &&
         strcmp(lane->pool_name, name) == 0;
}

static char *lane_name(const char *pool, unsigned slot) {
  size_t room = strlen(pool) + 32;
  char *name = malloc(room);
  if (name == NULL)
    return NULL;
  if (slot == 0)
    snprintf(name, room, "%s%sin the script", pool, pool[0] != '\0' ? " " : "");
  else
    snprintf(name, room, "%s%sslot %u", pool, pool[0] != '\0' ? " " : "", slot);
  return name;
}

/* One that has gone, or a new one. Its number, or `count`: no memory. */
static size_t choose_lane(struct mch_lanes *lanes, const struct mch_lane_pool *pool,
                          unsigned slot) {
  const char *name = pool->name != NULL ? pool->name : "";
  struct mch_lane *lane, *larger;
  size_t i;
  for (i = 0; i < lanes->count; i++)
    if (is_of(&lanes->lanes[i], name, slot))
      return i;
  larger = mch_grow(lanes->lanes, &lanes->room, lanes->count + 1, sizeof *larger);
  if (larger == NULL)
    return lanes->count;
  lanes->lanes = larger;
  lane = &lanes->lanes[lanes->count];
  memset(lane, 0, sizeof *lane);
  lane->slot = slot;
  lane->name = lane_name(name, slot);
  lane->pool_name = strdup(name);
  return lanes->count++;
}

static int make_room(struct mch_lane_pool *pool, unsigned slot) {
  size_t *of_slot = NULL;
  if (slot < MOST_SLOTS)
    of_slot = mch_grow(pool->of_slot, &pool->slots, (size_t)slot + 1, sizeof *of_slot);
  if (of_slot == NULL)
    return -1;
  pool->of_slot = of_slot;
  return 0;
}

struct mch_lane *mch_lanes_find(struct mch_lanes *lanes, uint64_t number, unsigned slot,
                                const char *name) {
  struct mch_lane_pool *pool;
  size_t at, before = lanes->count;
  if (lanes->last < lanes->count && lanes->lanes[lanes->last].pool == number &&
      lanes->lanes[lanes->last].slot == slot)
    return &lanes->lanes[lanes->last];
  pool = find_pool(lanes, number);
  if ((pool == NULL && (pool = add_pool(lanes, number, name)) == NULL) ||
      make_room(pool, slot) != 0)
    return NULL;
  if (pool->of_slot[slot] == 0) {
    at = choose_lane(lanes, pool, slot);
    if (at == lanes->count && at == before)
      return NULL;
    lanes->lanes[at].pool = number;
    pool->of_slot[slot] = at + 1;
  }
  lanes->last = pool->of_slot[slot] - 1;
  return &lanes->lanes[lanes->last];
}

void mch_lanes_set_busy(struct mch_lanes *lanes, struct mch_lane *lane, int busy) {
  if (lane->busy && !busy)
    lanes->running--;
  else if (!lane->busy && busy)
    lanes->running++;
  lane->busy = busy;
}

void mch_lanes_drop_pool(struct mch_lanes *lanes, uint64_t number) {
  struct mch_lane_pool *pool = find_pool(lanes, number);
  size_t i;
  for (i = 0; i < lanes->count; i++) {
    struct mch_lane *lane = &lanes->lanes[i];
    if (lane->pool == number) {
      mch_lanes_set_busy(lanes, lane, 0);
      lane->pool = 0;
      lane->worker = 0;
    }
  }
  if (pool == NULL)
    return;
  free(pool->name);
  free(pool->of_slot);
  *pool = lanes->pools[--lanes->pool_count];
}

void mch_lanes_free(struct mch_lanes *lanes) {
  size_t i;
  for (i = 0; i < lanes->count; i++) {
    free(lanes->lanes[i].name);
    free(lanes->lanes[i].pool_name);
  }
  for (i = 0; i < lanes->pool_count; i++) {
    free(lanes->pools[i].name);
    free(lanes->pools[i].of_slot);
  }
  free(lanes->lanes);
  free(lanes->pools);
  memset(lanes, 0, sizeof *lanes);
}
