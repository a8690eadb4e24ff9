/* Runs in: mantichora-amqp. Purpose: seal.h. */
#include "seal.h"

#include <string.h>

#include "crypt.h"
#include "runtime/base/buf.h"

void mch_seal_derive(struct mch_seal *seal, const unsigned char site_key[MCH_KEY_SIZE],
                     const char *label, const char *context, int counts) {
  unsigned char bytes[MCH_SEAL_CONTEXT];
  /* The label with its end, so that no label and context read like others. */
  size_t head = strlen(label) + 1, length = strlen(context);
  if (length > sizeof bytes - head)
    length = sizeof bytes - head; /* none is so long */
  memcpy(bytes, label, head);
  memcpy(bytes + head, context, length);
  mch_crypt_code(site_key, MCH_KEY_SIZE, bytes, head + length, seal->key);
  seal->counter = 0;
  seal->counts = counts;
}

size_t mch_seal_close(struct mch_seal *seal, uint8_t kind, const void *bytes, size_t length,
                      unsigned char *to) {
  to[0] = kind;
  mch_store_u64(to + 1, seal->counts ? ++seal->counter : 0);
  if (length > 0 && bytes != to + MCH_SEAL_HEAD)
    memcpy(to + MCH_SEAL_HEAD, bytes, length);
  mch_crypt_code(seal->key, sizeof seal->key, to, MCH_SEAL_HEAD + length,
                 to + MCH_SEAL_HEAD + length);
  return MCH_SEAL_ROOM + length;
}

enum mch_seal_answer mch_seal_open(struct mch_seal *seal, const void *message, size_t length,
                                   struct mch_sealed *sealed) {
  const unsigned char *bytes = message;
  unsigned char code[MCH_CODE_SIZE];
  if (length < MCH_SEAL_ROOM || length > MCH_SEAL_MOST)
    return MCH_SEAL_FORGED;
  mch_crypt_code(seal->key, sizeof seal->key, bytes, length - sizeof code, code);
  if (!mch_crypt_same(code, bytes + (length - sizeof code), sizeof code))
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
