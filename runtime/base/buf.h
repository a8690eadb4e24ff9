/* Runs in: both.
 *
 * Growable bytes with a read mark and a hard maximum. Appending latches the first failure in
 * `failed`, so that a writer checks once, at its end. A zeroed struct is an empty buffer without a
 * maximum; mch_buf_free() brings it back to that. */
#ifndef MCH_BUF_H
#define MCH_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct mch_buf {
  unsigned char *data;
  size_t read;     /* consumed up to here */
  size_t length;   /* written up to here; read <= length <= capacity */
  size_t capacity; /* bytes allocated */
  size_t maximum;  /* never hold more than this many bytes; 0: no maximum */
  int failed;      /* 0, MCH_NOMEM or MCH_LIMIT: bytes were lost since the last reset */
};

/* Make room for `more` bytes behind `length`. 0, MCH_NOMEM or MCH_LIMIT (latched in `failed`). */
int mch_buf_reserve(struct mch_buf *buf, size_t more);

/* Append bytes. After a failure it does nothing. */
void mch_buf_append(struct mch_buf *buf, const void *bytes, size_t count);

/* Drop `count` unread bytes from the front; count <= mch_buf_unread(). */
void mch_buf_consume(struct mch_buf *buf, size_t count);

/* Forget the contents and the failure; keep the memory. */
void mch_buf_clear(struct mch_buf *buf);

/* Forget the contents and the failure, and keep no more than so much memory. */
void mch_buf_shrink(struct mch_buf *buf, size_t capacity);

/* Forget everything and free the memory; `maximum` stays. */
void mch_buf_free(struct mch_buf *buf);

static inline size_t mch_buf_unread(const struct mch_buf *buf) {
  return buf->length - buf->read;
}

/* Append one byte, or fixed-width integers in little-endian order. */
void mch_buf_u8(struct mch_buf *buf, uint8_t value);
void mch_buf_u32(struct mch_buf *buf, uint32_t value);
void mch_buf_u64(struct mch_buf *buf, uint64_t value);

/* Little-endian integers to and from memory of any alignment. */
static inline void mch_store_u16(unsigned char *at, uint16_t value) {
  at[0] = (unsigned char)value;
  at[1] = (unsigned char)(value >> 8);
}
static inline void mch_store_u32(unsigned char *at, uint32_t value) {
  mch_store_u16(at, (uint16_t)value);
  mch_store_u16(at + 2, (uint16_t)(value >> 16));
}
static inline void mch_store_u64(unsigned char *at, uint64_t value) {
  mch_store_u32(at, (uint32_t)value);
  mch_store_u32(at + 4, (uint32_t)(value >> 32));
}
static inline uint16_t mch_load_u16(const unsigned char *at) {
  return (uint16_t)(at[0] | at[1] << 8);
}
static inline uint32_t mch_load_u32(const unsigned char *at) {
  return mch_load_u16(at) | (uint32_t)mch_load_u16(at + 2) << 16;
}
static inline uint64_t mch_load_u64(const unsigned char *at) {
  return mch_load_u32(at) | (uint64_t)mch_load_u32(at + 4) << 32;
}

#endif
