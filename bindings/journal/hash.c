/* Runs in: both. Purpose: hash.h. */
#include "hash.h"

#include <sodium.h>

enum { ALIGNMENT = 64 };

_Static_assert(sizeof(struct mch_hash) >= sizeof(crypto_generichash_state) + ALIGNMENT - 1,
               "libsodium's state is larger than ours");

static crypto_generichash_state *state_of(struct mch_hash *hash) {
  uintptr_t over = (uintptr_t)hash->memory % ALIGNMENT;
  return (void *)(hash->memory + (over != 0 ? ALIGNMENT - over : 0));
}

int mch_hash_open(void) {
  return sodium_init() < 0 ? -1 : 0;
}

void mch_hash_begin(struct mch_hash *hash) {
  crypto_generichash_init(state_of(hash), NULL, 0, MCH_HASH_SIZE);
}

void mch_hash_add(struct mch_hash *hash, const void *bytes, size_t count) {
  crypto_generichash_update(state_of(hash), bytes, count);
}

void mch_hash_end(struct mch_hash *hash, unsigned char to[MCH_HASH_SIZE]) {
  crypto_generichash_final(state_of(hash), to, MCH_HASH_SIZE);
}

void mch_hash_of(const void *bytes, size_t count, unsigned char to[MCH_HASH_SIZE]) {
  crypto_generichash(to, MCH_HASH_SIZE, bytes, count, NULL, 0);
}
