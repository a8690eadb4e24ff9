/* Runs in: parent. Purpose: key_set.h. */
#include "key_set.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 32, KEPT_ROOM = 4096 };

static uint64_t scatter(uint64_t bits) {
  bits ^= bits >> 32;
  bits *= UINT64_C(0x9e3779b97f4a7c15);
  bits ^= bits >> 29;
  return bits;
}

static uint64_t usable(uint64_t key) {
  return key != 0 ? key : UINT64_C(0x5bd1e9955bd1e995);
}

static size_t place_of(const struct mch_set *set, uint64_t key) {
  size_t at = (size_t)(scatter(key) >> 8) & (set->room - 1);
  while (set->keys[at] != 0 && set->keys[at] != key)
    at = (at + 1) & (set->room - 1);
  return at;
}

uint32_t *mch_set_find(const struct mch_set *set, uint64_t key) {
  size_t at;
  if (set->used == 0)
    return NULL;
  key = usable(key);
  at = place_of(set, key);
  return set->keys[at] == key ? &set->values[at] : NULL;
}

static int grow(struct mch_set *set) {
  struct mch_set more = {NULL, NULL, set->room > 0 ? set->room * 2 : FIRST_ROOM, set->used};
  size_t i;
  more.keys = calloc(more.room, sizeof *more.keys);
  more.values = malloc(more.room * sizeof *more.values);
  if (more.keys == NULL || more.values == NULL) {
    free(more.keys);
    free(more.values);
    return 0;
  }
  for (i = 0; i < set->room; i++)
    if (set->keys[i] != 0) {
      size_t at = place_of(&more, set->keys[i]);
      more.keys[at] = set->keys[i];
      more.values[at] = set->values[i];
    }
  free(set->keys);
  free(set->values);
  *set = more;
  return 1;
}

int mch_set_put(struct mch_set *set, uint64_t key, uint32_t value) {
  size_t at;
  if (set->used >= set->room / 2 && !grow(set))
    return 0;
  key = usable(key);
  at = place_of(set, key);
  set->used += set->keys[at] == 0;
  set->keys[at] = key;
  set->values[at] = value;
  return 1;
}

void mch_set_clear(struct mch_set *set) {
  if (set->room > KEPT_ROOM)
    mch_set_free(set);
  else if (set->used > 0)
    memset(set->keys, 0, set->room * sizeof *set->keys);
  set->used = 0;
}

void mch_set_free(struct mch_set *set) {
  free(set->keys);
  free(set->values);
  memset(set, 0, sizeof *set);
}

uint64_t mch_set_mix(uint64_t salt, const void *bytes, size_t count) {
  const unsigned char *at = bytes;
  uint64_t sum = salt ^ (uint64_t)count * UINT64_C(0xff51afd7ed558ccd);
  for (; count >= 8; count -= 8, at += 8) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    sum ^= sum >> 32;
  }
  for (; count > 0; count--, at++)
    sum = (sum ^ *at) * UINT64_C(0xc4ceb9fe1a85ec53);
  return scatter(sum ^ sum >> 31);
}
