/* Runs in: mantichora-amqp.
 *
 * What is needed of cryptography, by libcrypto of OpenSSL, which librabbitmq has for TLS anyway and
 * which uses the processor's own instructions for SHA-256: the one file that knows it. Where it
 * fails, the process ends with a sentence: nothing may go on without it. */
#ifndef MCH_CRYPT_H
#define MCH_CRYPT_H

#include <stddef.h>

enum { MCH_CODE_SIZE = 32 };

/* HMAC-SHA256 of `bytes`. */
void mch_crypt_code(const unsigned char *key, size_t key_length, const unsigned char *bytes,
                    size_t length, unsigned char code[MCH_CODE_SIZE]);

/* Whether they are the same, in a time that does not tell where they differ. */
int mch_crypt_same(const void *a, const void *b, size_t length);

void mch_crypt_random(unsigned char *bytes, size_t length);

/* Overwrite a secret. */
void mch_crypt_wipe(void *bytes, size_t length);

/* As hexadecimal digits, two for each byte and a NUL. */
void mch_crypt_to_hex(char *hex, const unsigned char *bytes, size_t length);
/* From exactly two digits for each byte. 1, or 0: these are none. */
int mch_crypt_from_hex(unsigned char *bytes, size_t length, const char *hex);

#endif
