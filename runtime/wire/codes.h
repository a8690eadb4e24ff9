/* Runs in: both.
 *
 * A dictionary of byte strings, mostly bytecode of functions: equal bytes get one small id, so that
 * they are sent to each worker once and by id after that. Ids count from 1. What was interned is
 * never dropped; when the dictionary is full, bytes are sent with each message instead. */
#ifndef MCH_CODES_H
#define MCH_CODES_H

#include <stddef.h>
#include <stdint.h>

struct mch_code_entry {
  unsigned char *bytes;
  size_t length;
  uint64_t hash;
};

struct mch_dictionary {
  struct mch_code_entry *entries; /* [id - 1] */
  uint32_t count, room;
  uint32_t *buckets; /* ids by hash, 0: empty */
  uint32_t bucket_count;
  size_t total; /* bytes kept */
};

/* The id of these bytes, copied when they are new; 0 when there is no room for them. */
uint32_t mch_dictionary_intern(struct mch_dictionary *dictionary, const void *bytes, size_t length);

/* A new id for these bytes, copied, whatever there is; 0 when there is no memory. */
uint32_t mch_dictionary_add(struct mch_dictionary *dictionary, const void *bytes, size_t length);

/* Keep a copy under a given id (a worker learns from its pool). 0, or -1 when there is no memory.
 */
int mch_dictionary_put(struct mch_dictionary *dictionary, uint32_t id, const void *bytes,
                       size_t length);

/* Drop what an id stands for, which was not interned. */
void mch_dictionary_forget(struct mch_dictionary *dictionary, uint32_t id);

/* The bytes of an id, owned by the dictionary; NULL for an unknown one. */
const void *mch_dictionary_get(const struct mch_dictionary *dictionary, uint32_t id,
                               size_t *length);

void mch_dictionary_free(struct mch_dictionary *dictionary);

#endif
