/* runtime/amqp/seal and crypt: codes as RFC 4231 has them, keys and messages to the byte, and
 * whatever is not the next message of the same key. */
#include "runtime/amqp/seal.h"

#include <string.h>

#include "check.h"
#include "runtime/amqp/crypt.h"

static int is_code(const unsigned char *key, size_t key_length, const char *text,
                   const char *expected) {
  unsigned char code[MCH_CODE_SIZE];
  char hex[2 * MCH_CODE_SIZE + 1];
  mch_crypt_code(key, key_length, (const unsigned char *)text, strlen(text), code);
  mch_crypt_to_hex(hex, code, sizeof code);
  return strcmp(hex, expected) == 0;
}

static void test_codes(void) {
  unsigned char key[131];
  memset(key, 0x0b, 20);
  CHECK(is_code(key, 20, "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"));
  CHECK(is_code((const unsigned char *)"Jefe", 4, "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
  memset(key, 0xaa, sizeof key);
  CHECK(is_code(key, sizeof key, "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"));
}

static void test_hex(void) {
  unsigned char bytes[3] = {0, 0, 0};
  char hex[7];
  CHECK(mch_crypt_from_hex(bytes, 3, "00ffA9") == 1);
  CHECK(bytes[0] == 0 && bytes[1] == 0xff && bytes[2] == 0xa9);
  mch_crypt_to_hex(hex, bytes, 3);
  CHECK(strcmp(hex, "00ffa9") == 0);
  CHECK(mch_crypt_from_hex(bytes, 3, "00ffa") == 0);
  CHECK(mch_crypt_from_hex(bytes, 3, "00ffa90") == 0);
  CHECK(mch_crypt_from_hex(bytes, 3, "00ffag") == 0);
  CHECK(mch_crypt_from_hex(bytes, 3, "00ff@9") == 0);
  CHECK(mch_crypt_from_hex(bytes, 3, "00ff 9") == 0);
}

static const unsigned char site_key[MCH_KEY_SIZE] = "0123456789abcdef0123456789abcde";

static void make_pair(struct mch_seal *out, struct mch_seal *in, int counts) {
  mch_seal_derive(out, site_key, "mantichora 1 to the machine", "context", counts);
  *in = *out;
}

/* The same bytes were made by Python's hmac. */
static void test_form(void) {
  static const char expected[] = "5ebcac0b9b6dd2d71e6462934a510f3c12d3290d5d72260de91c0f8b51ea1e09";
  static const char sealed_hex[] = "07010000000000000068656c6c6f7ed3c43f57015ccc78a01b2793fb1d4206a"
                                   "825b2132295ef16c075b094649a80";
  struct mch_seal out, in;
  unsigned char bytes[MCH_SEAL_ROOM + 5];
  char hex[2 * sizeof bytes + 1];
  make_pair(&out, &in, 1);
  mch_crypt_to_hex(hex, out.key, sizeof out.key);
  CHECK(strcmp(hex, expected) == 0);
  CHECK(mch_seal_close(&out, 7, "hello", 5, bytes) == sizeof bytes);
  mch_crypt_to_hex(hex, bytes, sizeof bytes);
  CHECK(strcmp(hex, sealed_hex) == 0);
}

static void test_order(void) {
  struct mch_seal out, in;
  unsigned char messages[4][MCH_SEAL_ROOM + 1];
  struct mch_sealed sealed;
  unsigned i;
  make_pair(&out, &in, 1);
  for (i = 0; i < 4; i++) {
    messages[i][MCH_SEAL_HEAD] = (unsigned char)i; /* what stands there already stays there */
    mch_seal_close(&out, 1, messages[i] + MCH_SEAL_HEAD, 1, messages[i]);
  }
  CHECK(mch_seal_open(&in, messages[0], sizeof *messages, &sealed) == MCH_SEAL_FINE);
  CHECK(sealed.kind == 1 && sealed.counter == 1 && sealed.length == 1 && sealed.bytes[0] == 0);
  CHECK(mch_seal_open(&in, messages[0], sizeof *messages, &sealed) == MCH_SEAL_SEEN);
  CHECK(mch_seal_open(&in, messages[2], sizeof *messages, &sealed) == MCH_SEAL_GAP);
  CHECK(mch_seal_open(&in, messages[1], sizeof *messages, &sealed) == MCH_SEAL_FINE);
  CHECK(mch_seal_open(&in, messages[2], sizeof *messages, &sealed) == MCH_SEAL_FINE);
  CHECK(mch_seal_open(&in, messages[0], sizeof *messages, &sealed) == MCH_SEAL_SEEN);
  CHECK(mch_seal_open(&in, messages[3], sizeof *messages, &sealed) == MCH_SEAL_FINE);
  CHECK(sealed.bytes[0] == 3);
}

/* Every byte of it counts, and so do its length, and the key. */
static void test_forged(void) {
  struct mch_seal out, in, other;
  unsigned char bytes[MCH_SEAL_ROOM + 20];
  struct mch_sealed sealed;
  size_t i;
  make_pair(&out, &in, 1);
  mch_seal_close(&out, 1, "01234567890123456789", 20, bytes);
  for (i = 0; i < sizeof bytes; i++) {
    bytes[i] ^= 1;
    CHECK(mch_seal_open(&in, bytes, sizeof bytes, &sealed) == MCH_SEAL_FORGED);
    bytes[i] ^= 1;
  }
  for (i = 0; i < sizeof bytes; i++)
    CHECK(mch_seal_open(&in, bytes, i, &sealed) == MCH_SEAL_FORGED);
  mch_seal_derive(&other, site_key, "mantichora 1 to the machine", "contexT", 1);
  CHECK(mch_seal_open(&other, bytes, sizeof bytes, &sealed) == MCH_SEAL_FORGED);
  mch_seal_derive(&other, site_key, "mantichora 1 to the script", "context", 1);
  CHECK(mch_seal_open(&other, bytes, sizeof bytes, &sealed) == MCH_SEAL_FORGED);
  CHECK(mch_seal_open(&in, bytes, sizeof bytes, &sealed) == MCH_SEAL_FINE);
}

/* Without a session a counter is none, and one that has a counter is of a session. */
static void test_without_session(void) {
  struct mch_seal out, in;
  unsigned char bytes[MCH_SEAL_ROOM];
  struct mch_sealed sealed;
  make_pair(&out, &in, 0);
  CHECK(mch_seal_close(&out, 5, NULL, 0, bytes) == sizeof bytes);
  CHECK(mch_seal_open(&in, bytes, sizeof bytes, &sealed) == MCH_SEAL_FINE);
  CHECK(mch_seal_open(&in, bytes, sizeof bytes, &sealed) == MCH_SEAL_FINE);
  CHECK(sealed.kind == 5 && sealed.length == 0 && sealed.counter == 0);
  out.counts = 1;
  mch_seal_close(&out, 5, NULL, 0, bytes);
  CHECK(mch_seal_open(&in, bytes, sizeof bytes, &sealed) == MCH_SEAL_FORGED);
}

int main(void) {
  test_codes();
  test_hex();
  test_form();
  test_order();
  test_forged();
  test_without_session();
  return check_report();
}
