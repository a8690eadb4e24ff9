/* Runs in: parent.
 *
 * Numbers by numbers: a small hash table in plain memory. */
#ifndef MCH_KEY_SET_H
#define MCH_KEY_SET_H

#include <stddef.h>
#include <stdint.h>

struct mch_set {
  uint64_t *keys; /* open addressing; 0: empty */
  uint32_t *values;
  size_t room; /* a power of two, or 0 */
  size_t used;
};

/* The value of a key that is there, or NULL. */
uint32_t *mch_set_find(const struct mch_set *set, uint64_t key);

/* Put a key that is not there. 0: there is no memory. */
int mch_set_put(struct mch_set *set, uint64_t key, uint32_t value);

/* Forget all; the memory stays, unless it is much. */
void mch_set_clear(struct mch_set *set);
void mch_set_free(struct mch_set *set);

/* A number for these bytes, the same in every process. */
uint64_t mch_set_mix(uint64_t salt, const void *bytes, size_t count);

static inline uint64_t mch_set_of_pointer(const void *pointer) {
  return (uint64_t)(uintptr_t)pointer;
}

#endif
