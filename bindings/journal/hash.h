/* Runs in: both.
 *
 * BLAKE2b of 256 bits, by libsodium: the one file that knows it. */
#ifndef MCH_HASH_H
#define MCH_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { MCH_HASH_SIZE = 32 };

/* A hash that grows: begin, add, end. Opaque; plain memory that needs no freeing, and stays where
 * it is: the state in it is aligned, which memory of Lua's need not be. */
struct mch_hash {
  unsigned char memory[384 + 63];
};

void mch_hash_begin(struct mch_hash *hash);
void mch_hash_add(struct mch_hash *hash, const void *bytes, size_t count);
void mch_hash_end(struct mch_hash *hash, unsigned char to[MCH_HASH_SIZE]);

/* Of these bytes alone. */
void mch_hash_of(const void *bytes, size_t count, unsigned char to[MCH_HASH_SIZE]);

/* 0, or MCH_NOMEM-like negative code: the library cannot be used. To be called once before. */
int mch_hash_open(void);

#endif
