/* Runs in: mantichora-amqp. Purpose: seal.h. */
#include "seal.h"

#include <sodium.h>
#include <string.h>

#include "runtime/base/buf.h"

void mch_seal_derive(struct mch_seal *seal, const unsigned char site_key[MCH_KEY_SIZE],
                     const char *label, const void *context, size_t length, int counts) {
  crypto_auth_hmacsha256_state state;
  crypto_auth_hmacsha256_init(&state, site_key, MCH_KEY_SIZE);
  /* With its end, so that no label and context read like others. */
  crypto_auth_hmacsha256_update(&state, (const unsigned char *)label, strlen(label) + 1);
  crypto_auth_hmacsha256_update(&state, context, length);
  crypto_auth_hmacsha256_final(&state, seal->key);
  sodium_memzero(&state, sizeof state);
  seal->counter = 0;
  seal->counts = counts;
}

static void code_of(const struct mch_seal *seal, const unsigned char *bytes, size_t length,
                    unsigned char code[crypto_auth_hmacsha256_BYTES]) {
  crypto_auth_hmacsha256_state state;
  crypto_auth_hmacsha256_init(&state, seal->key, sizeof seal->key);
  crypto_auth_hmacsha256_update(&state, bytes, length);
  crypto_auth_hmacsha256_final(&state, code);
  sodium_memzero(&state, sizeof state);
}

size_t mch_seal_close(struct mch_seal *seal, uint8_t kind, const void *bytes, size_t length,
                      unsigned char *to) {
  to[0] = kind;
  mch_store_u64(to + 1, seal->counts ? ++seal->counter : 0);
  if (length > 0)
    memmove(to + MCH_SEAL_HEAD, bytes, length);
  code_of(seal, to, MCH_SEAL_HEAD + length, to + MCH_SEAL_HEAD + length);
  return MCH_SEAL_ROOM + length;
}

enum mch_seal_answer mch_seal_open(struct mch_seal *seal, const void *message, size_t length,
                                   struct mch_sealed *sealed) {
  const unsigned char *bytes = message;
  unsigned char code[crypto_auth_hmacsha256_BYTES];
  if (length < MCH_SEAL_ROOM || length > MCH_SEAL_MOST)
    return MCH_SEAL_FORGED;
  code_of(seal, bytes, length - sizeof code, code);
  if (sodium_memcmp(code, bytes + (length - sizeof code), sizeof code) != 0)
    return MCH_SEAL_FORGED;
  sealed->kind = bytes[0];
  sealed->counter = mch_load_u64(bytes + 1);
  sealed->bytes = bytes + MCH_SEAL_HEAD;
  sealed->length = length - MCH_SEAL_ROOM;
  if (!seal->counts)
    return sealed->counter == 0 ? MCH_SEAL_FINE : MCH_SEAL_FORGED;
  if (sealed->counter <= seal->counter)
    return MCH_SEAL_SEEN;
  if (sealed->counter != seal->counter + 1)
    return MCH_SEAL_GAP;
  seal->counter = sealed->counter;
  return MCH_SEAL_FINE;
}
