/* Runs in: both. Purpose: buf.h. */
#include "buf.h"

#include <stdlib.h>

#include "error.h"
#include "platform.h"

static int fail(struct mch_buf *buf, int code) {
  if (buf->failed == 0)
    buf->failed = code;
  return buf->failed;
}

/* Move the unread bytes to the front, which makes the consumed ones room again. */
static void compact(struct mch_buf *buf) {
  size_t unread = mch_buf_unread(buf);
  if (buf->read == 0)
    return;
  if (unread > 0)
    memmove(buf->data, buf->data + buf->read, unread);
  buf->read = 0;
  buf->length = unread;
}

static int grow(struct mch_buf *buf, size_t needed) {
  size_t capacity = buf->capacity < 64 ? 64 : buf->capacity;
  unsigned char *data;
  while (capacity < needed)
    capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
  if (buf->maximum > 0 && capacity > buf->maximum)
    capacity = needed > buf->maximum ? needed : buf->maximum;
  data = realloc(buf->data, capacity);
  if (data == NULL)
    return fail(buf, MCH_NOMEM);
  mch_platform_use_large_pages(data + buf->capacity, capacity - buf->capacity);
  buf->data = data;
  buf->capacity = capacity;
  return 0;
}

int mch_buf_reserve(struct mch_buf *buf, size_t more) {
  size_t unread = mch_buf_unread(buf), consumed = buf->read;
  int fits;
  if (buf->failed != 0)
    return buf->failed;
  if (more <= buf->capacity - buf->length)
    return 0;
  if (more > SIZE_MAX - unread || (buf->maximum > 0 && unread + more > buf->maximum))
    return fail(buf, MCH_LIMIT);
  fits = unread + more <= buf->capacity;
  compact(buf);
  /* Where little was consumed, more room: else each append could move everything. */
  if (fits && (consumed >= buf->capacity / 2 || buf->capacity == buf->maximum))
    return 0;
  if (grow(buf, fits ? buf->capacity + 1 : unread + more) != 0 && fits)
    buf->failed = 0; /* it would only have been faster */
  return buf->failed;
}

void mch_buf_append(struct mch_buf *buf, const void *bytes, size_t count) {
  if (count == 0 || mch_buf_reserve(buf, count) != 0)
    return;
  memcpy(buf->data + buf->length, bytes, count);
  buf->length += count;
}

void mch_buf_consume(struct mch_buf *buf, size_t count) {
  buf->read += count;
  if (buf->read == buf->length)
    buf->read = buf->length = 0;
}

void mch_buf_clear(struct mch_buf *buf) {
  buf->read = buf->length = 0;
  buf->failed = 0;
}

void mch_buf_shrink(struct mch_buf *buf, size_t capacity) {
  unsigned char *data;
  mch_buf_clear(buf);
  if (buf->capacity <= capacity)
    return;
  data = realloc(buf->data, capacity);
  if (data == NULL) {
    mch_buf_free(buf);
    return;
  }
  buf->data = data;
  buf->capacity = capacity;
}

void mch_buf_free(struct mch_buf *buf) {
  free(buf->data);
  buf->data = NULL;
  buf->capacity = 0;
  mch_buf_clear(buf);
}

void mch_buf_u8(struct mch_buf *buf, uint8_t value) {
  mch_buf_append(buf, &value, 1);
}

void mch_buf_u32(struct mch_buf *buf, uint32_t value) {
  unsigned char bytes[4];
  mch_store_u32(bytes, value);
  mch_buf_append(buf, bytes, sizeof bytes);
}

void mch_buf_u64(struct mch_buf *buf, uint64_t value) {
  unsigned char bytes[8];
  mch_store_u64(bytes, value);
  mch_buf_append(buf, bytes, sizeof bytes);
}
