/* Runs in: both. Purpose: codes.h. */
#include "codes.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 16 * 1024 * 1024, MOST_ENTRIES = 1 << 20 };

/* FNV-1a over eight bytes at a time: bytecode is short, and equality is compared anyway. */
static uint64_t hash_of(const unsigned char *bytes, size_t length) {
  uint64_t hash = 1469598103934665603u ^ length, word;
  for (; length >= 8; bytes += 8, length -= 8) {
    memcpy(&word, bytes, 8);
    hash = (hash ^ word) * 1099511628211u;
    hash ^= hash >> 29;
  }
  for (; length > 0; bytes++, length--)
    hash = (hash ^ *bytes) * 1099511628211u;
  return hash ^ hash >> 32;
}

static int grow_entries(struct mch_dictionary *dictionary, uint32_t needed) {
  uint32_t room = dictionary->room == 0 ? 16 : dictionary->room;
  struct mch_code_entry *entries;
  if (needed <= dictionary->room)
    return 0;
  while (room < needed)
    room *= 2;
  entries = realloc(dictionary->entries, room * sizeof *entries);
  if (entries == NULL)
    return -1;
  memset(entries + dictionary->room, 0, (room - dictionary->room) * sizeof *entries);
  dictionary->entries = entries;
  dictionary->room = room;
  return 0;
}

static void insert(uint32_t *buckets, uint32_t bucket_count, uint64_t hash, uint32_t id) {
  uint32_t at = (uint32_t)hash & (bucket_count - 1);
  while (buckets[at] != 0)
    at = (at + 1) & (bucket_count - 1);
  buckets[at] = id;
}

/* At most half of the buckets are in use. */
static int grow_buckets(struct mch_dictionary *dictionary) {
  uint32_t bucket_count = dictionary->bucket_count == 0 ? 32 : dictionary->bucket_count * 2, i;
  uint32_t *buckets;
  if ((dictionary->count + 1) * 2 <= dictionary->bucket_count)
    return 0;
  buckets = calloc(bucket_count, sizeof *buckets);
  if (buckets == NULL)
    return -1;
  for (i = 0; i < dictionary->count; i++)
    insert(buckets, bucket_count, dictionary->entries[i].hash, i + 1);
  free(dictionary->buckets);
  dictionary->buckets = buckets;
  dictionary->bucket_count = bucket_count;
  return 0;
}

static uint32_t find(const struct mch_dictionary *dictionary, const void *bytes, size_t length,
                     uint64_t hash) {
  uint32_t at;
  if (dictionary->bucket_count == 0)
    return 0;
  at = (uint32_t)hash & (dictionary->bucket_count - 1);
  for (; dictionary->buckets[at] != 0; at = (at + 1) & (dictionary->bucket_count - 1)) {
    const struct mch_code_entry *entry = &dictionary->entries[dictionary->buckets[at] - 1];
    if (entry->hash == hash && entry->length == length && entry->bytes != NULL &&
        memcmp(entry->bytes, bytes, length) == 0)
      return dictionary->buckets[at];
  }
  return 0;
}

static unsigned char *copy_of(const void *bytes, size_t length) {
  unsigned char *copy = malloc(length > 0 ? length : 1);
  if (copy != NULL && length > 0)
    memcpy(copy, bytes, length);
  return copy;
}

uint32_t mch_dictionary_intern(struct mch_dictionary *dictionary, const void *bytes,
                               size_t length) {
  uint64_t hash = hash_of(bytes, length);
  uint32_t id = find(dictionary, bytes, length, hash);
  struct mch_code_entry *entry;
  if (id != 0)
    return id;
  if (length > MOST_BYTES - dictionary->total || dictionary->count >= MOST_ENTRIES ||
      grow_entries(dictionary, dictionary->count + 1) != 0 || grow_buckets(dictionary) != 0)
    return 0;
  entry = &dictionary->entries[dictionary->count];
  entry->bytes = copy_of(bytes, length);
  if (entry->bytes == NULL)
    return 0;
  entry->length = length;
  entry->hash = hash;
  dictionary->total += length;
  insert(dictionary->buckets, dictionary->bucket_count, hash, ++dictionary->count);
  return dictionary->count;
}

uint32_t mch_dictionary_add(struct mch_dictionary *dictionary, const void *bytes, size_t length) {
  uint32_t id = dictionary->count + 1;
  if (grow_buckets(dictionary) != 0 || mch_dictionary_put(dictionary, id, bytes, length) != 0)
    return 0;
  return id;
}

int mch_dictionary_put(struct mch_dictionary *dictionary, uint32_t id, const void *bytes,
                       size_t length) {
  struct mch_code_entry *entry;
  unsigned char *copy;
  if (id == 0 || id > MOST_ENTRIES || grow_entries(dictionary, id) != 0 ||
      (copy = copy_of(bytes, length)) == NULL)
    return -1;
  entry = &dictionary->entries[id - 1];
  free(entry->bytes);
  entry->bytes = copy;
  entry->length = length;
  if (id > dictionary->count)
    dictionary->count = id;
  return 0;
}

void mch_dictionary_forget(struct mch_dictionary *dictionary, uint32_t id) {
  if (id == 0 || id > dictionary->count)
    return;
  free(dictionary->entries[id - 1].bytes);
  dictionary->entries[id - 1].bytes = NULL;
}

const void *mch_dictionary_get(const struct mch_dictionary *dictionary, uint32_t id,
                               size_t *length) {
  if (id == 0 || id > dictionary->count || dictionary->entries[id - 1].bytes == NULL)
    return NULL;
  *length = dictionary->entries[id - 1].length;
  return dictionary->entries[id - 1].bytes;
}

void mch_dictionary_free(struct mch_dictionary *dictionary) {
  uint32_t i;
  for (i = 0; i < dictionary->count; i++)
    free(dictionary->entries[i].bytes);
  free(dictionary->entries);
  free(dictionary->buckets);
  memset(dictionary, 0, sizeof *dictionary);
}
