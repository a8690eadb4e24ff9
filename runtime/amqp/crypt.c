/* Runs in: mantichora-amqp. Purpose: crypt.h. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "crypt.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what) __attribute__((noreturn));
static void fail(const char *what) {
  fprintf(stderr, "mantichora-amqp: libcrypto cannot %s here\n", what);
  _exit(1);
}

void mch_crypt_code(const unsigned char *key, size_t key_length, const unsigned char *bytes,
                    size_t length, unsigned char code[MCH_CODE_SIZE]) {
  unsigned int size = 0;
  if (HMAC(EVP_sha256(), key, (int)key_length, bytes, length, code, &size) == NULL ||
      size != MCH_CODE_SIZE)
    fail("make codes (HMAC-SHA256)");
}

int mch_crypt_same(const void *a, const void *b, size_t length) {
  return CRYPTO_memcmp(a, b, length) == 0;
}

void mch_crypt_random(unsigned char *bytes, size_t length) {
  if (RAND_bytes(bytes, (int)length) != 1)
    fail("throw dice");
}

void mch_crypt_wipe(void *bytes, size_t length) {
  OPENSSL_cleanse(bytes, length);
}

static const char digits[] = "0123456789abcdef";

void mch_crypt_to_hex(char *hex, const unsigned char *bytes, size_t length) {
  size_t i;
  for (i = 0; i < length; i++) {
    hex[2 * i] = digits[bytes[i] >> 4];
    hex[2 * i + 1] = digits[bytes[i] & 15];
  }
  hex[2 * length] = '\0';
}

static int value_of(char digit) {
  const char *at = strchr(digits, digit >= 'A' && digit <= 'F' ? digit - 'A' + 'a' : digit);
  return digit == '\0' || at == NULL ? -1 : (int)(at - digits);
}

int mch_crypt_from_hex(unsigned char *bytes, size_t length, const char *hex) {
  size_t i;
  if (strlen(hex) != 2 * length)
    return 0;
  for (i = 0; i < length; i++) {
    int high = value_of(hex[2 * i]), low = value_of(hex[2 * i + 1]);
    if (high < 0 || low < 0)
      return 0;
    bytes[i] = (unsigned char)(high << 4 | low);
  }
  return 1;
}
