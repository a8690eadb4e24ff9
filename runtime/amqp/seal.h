/* Runs in: mantichora-amqp.
 *
 * What goes through a broker is sealed: a code (HMAC-SHA256) over all of it, by a key that both
 * sides derive from the site key and, for a session, from what each of them has thrown dice for. A
 * sealed message that is not opened by the same key, with the next counter, reaches nobody.
 *
 *     0  u8   kind
 *     1  u64  counter, from 1 (0 where there is no session)
 *     9       what is to be said
 *    -32      the code of all that */
#ifndef MCH_SEAL_H
#define MCH_SEAL_H

#include <stddef.h>
#include <stdint.h>

enum {
  MCH_KEY_SIZE = 32,
  MCH_NONCE_SIZE = 32,
  MCH_SEAL_HEAD = 9,
  MCH_SEAL_ROOM = MCH_SEAL_HEAD + 32,
  MCH_SEAL_MOST = 64 * 1024, /* a whole message */
  MCH_SEAL_CONTEXT = 512     /* a label and a context, together */
};

struct mch_seal {
  unsigned char key[MCH_KEY_SIZE];
  uint64_t counter; /* of the last message; stays 0 where there is no session */
  int counts;
};

/* A key for one purpose: `label`, and of a session what tells it from all others. */
void mch_seal_derive(struct mch_seal *seal, const unsigned char site_key[MCH_KEY_SIZE],
                     const char *label, const char *context, int counts);

/* Write the next message to `to`, which has room for it; its length. `bytes` may stand there
 * already, at MCH_SEAL_HEAD. */
size_t mch_seal_close(struct mch_seal *seal, uint8_t kind, const void *bytes, size_t length,
                      unsigned char *to);

enum mch_seal_answer {
  MCH_SEAL_FINE,
  MCH_SEAL_SEEN,  /* its counter was there before */
  MCH_SEAL_GAP,   /* one that should have come before it is missing */
  MCH_SEAL_FORGED /* this is not from anybody who has the key, or not as it was sent */
};
struct mch_sealed {
  uint8_t kind;
  uint64_t counter;
  const unsigned char *bytes;
  size_t length;
};
enum mch_seal_answer mch_seal_open(struct mch_seal *seal, const void *message, size_t length,
                                   struct mch_sealed *sealed);

#endif
