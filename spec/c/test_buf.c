/* runtime/buf: growth, marks, the maximum, latched failures, byte order. */
#include "runtime/base/buf.h"

#include <string.h>

#include "check.h"
#include "runtime/base/error.h"

/* Under the address sanitizer: what is too large gets NULL, as it does from malloc(). */
const char *__asan_default_options(void) __attribute__((visibility("default")));
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

static void test_order_of_bytes(void) {
  static const unsigned char expected[] = {1, 7, 6, 5, 4, 15, 14, 13, 12, 11, 10, 9, 8};
  struct mch_buf buf = {0};
  mch_buf_u8(&buf, 1);
  mch_buf_u32(&buf, 0x04050607);
  mch_buf_u64(&buf, 0x08090a0b0c0d0e0f);
  CHECK(buf.failed == 0);
  CHECK(mch_buf_unread(&buf) == sizeof expected);
  CHECK(memcmp(buf.data, expected, sizeof expected) == 0);
  CHECK(mch_load_u16(buf.data + 1) == 0x0607);
  CHECK(mch_load_u32(buf.data + 1) == 0x04050607);
  CHECK(mch_load_u64(buf.data + 5) == 0x08090a0b0c0d0e0f);
  mch_buf_free(&buf);
  CHECK(buf.data == NULL && buf.capacity == 0 && buf.length == 0 && buf.read == 0);
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* Bytes come out as they went in, whatever the steps; room stays near what is in use. */
static void test_queue(void) {
  struct mch_buf buf = {0};
  uint32_t random = 7;
  unsigned char in = 0, out = 0;
  size_t most = 0;
  int step, right = 1;
  for (step = 0; step < 200000; step++) {
    size_t count = next_random(&random) % 300, i;
    if (next_random(&random) % 2) {
      unsigned char bytes[300];
      for (i = 0; i < count; i++)
        bytes[i] = in++;
      mch_buf_append(&buf, bytes, count);
    } else {
      if (count > mch_buf_unread(&buf))
        count = mch_buf_unread(&buf);
      for (i = 0; i < count; i++)
        right &= buf.data[buf.read + i] == out++;
      mch_buf_consume(&buf, count);
    }
    if (mch_buf_unread(&buf) > most)
      most = mch_buf_unread(&buf);
    right &= buf.read <= buf.length && buf.length <= buf.capacity;
  }
  CHECK(right);
  CHECK(buf.failed == 0);
  CHECK(buf.capacity <= 4 * most + 64);
  mch_buf_free(&buf);
}

static void test_maximum(void) {
  unsigned char bytes[101] = {0};
  struct mch_buf buf = {0};
  buf.maximum = 100;
  mch_buf_append(&buf, bytes, 100);
  CHECK(buf.failed == 0 && buf.capacity <= 100);
  mch_buf_append(&buf, bytes, 1);
  CHECK(buf.failed == MCH_LIMIT);
  mch_buf_append(&buf, bytes, 0);
  mch_buf_u8(&buf, 1);
  CHECK(buf.failed == MCH_LIMIT && mch_buf_unread(&buf) == 100); /* nothing after a failure */
  mch_buf_clear(&buf);
  CHECK(buf.failed == 0 && mch_buf_unread(&buf) == 0);
  mch_buf_append(&buf, bytes, 101);
  CHECK(buf.failed == MCH_LIMIT && mch_buf_unread(&buf) == 0);
  mch_buf_free(&buf);
  CHECK(buf.maximum == 100 && buf.failed == 0);
}

/* What was consumed is room again, also when it is little: never more is allocated than allowed. */
static void test_maximum_with_consumed_front(void) {
  unsigned char bytes[100];
  struct mch_buf buf = {0};
  size_t i;
  int round, right = 1;
  for (i = 0; i < sizeof bytes; i++)
    bytes[i] = (unsigned char)i;
  buf.maximum = 100;
  mch_buf_append(&buf, bytes, 100);
  for (round = 0; round < 10; round++) {
    mch_buf_consume(&buf, 5);
    mch_buf_append(&buf, bytes, 5);
    right &= buf.failed == 0 && mch_buf_unread(&buf) == 100 && buf.capacity <= 100;
  }
  CHECK(right);
  CHECK(buf.data[buf.read] == 50 && buf.data[buf.length - 1] == 4);
  mch_buf_free(&buf);
}

static void test_sizes_that_wrap(void) {
  struct mch_buf buf = {0};
  mch_buf_u8(&buf, 1);
  CHECK(mch_buf_reserve(&buf, SIZE_MAX) == MCH_LIMIT);
  mch_buf_clear(&buf);
  mch_buf_u8(&buf, 1);
  CHECK(mch_buf_reserve(&buf, SIZE_MAX / 2) == MCH_NOMEM);
  CHECK(mch_buf_unread(&buf) == 1 && buf.data[0] == 1);
  mch_buf_free(&buf);
}

static void test_shrink(void) {
  struct mch_buf buf = {0};
  static const char text[5000] = {0};
  mch_buf_append(&buf, text, sizeof text);
  mch_buf_shrink(&buf, 1000);
  CHECK(buf.capacity == 1000 && buf.length == 0 && buf.read == 0);
  mch_buf_append(&buf, text, 1000);
  mch_buf_shrink(&buf, 4000);
  CHECK(buf.capacity == 1000 && buf.length == 0);
  mch_buf_append(&buf, text, sizeof text);
  CHECK(buf.failed == 0 && mch_buf_unread(&buf) == sizeof text);
  mch_buf_free(&buf);
}

int main(void) {
  test_shrink();
  test_order_of_bytes();
  test_queue();
  test_maximum();
  test_maximum_with_consumed_front();
  test_sizes_that_wrap();
  return check_report();
}
