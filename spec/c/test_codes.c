/* runtime/codes: equal bytes get one id; ids of a worker are those of its pool. */
#include "runtime/wire/codes.h"

#include <stdio.h>
#include <string.h>

#include "check.h"

static void test_intern(void) {
  struct mch_dictionary dictionary = {0};
  char text[16];
  uint32_t i;
  size_t length;
  int right = 1;
  CHECK(mch_dictionary_get(&dictionary, 1, &length) == NULL);
  CHECK(mch_dictionary_get(&dictionary, 0, &length) == NULL);
  for (i = 1; i <= 5000; i++)
    right &= mch_dictionary_intern(&dictionary, text, (size_t)sprintf(text, "code %u", i)) == i;
  for (i = 5000; i >= 1; i--)
    right &= mch_dictionary_intern(&dictionary, text, (size_t)sprintf(text, "code %u", i)) == i;
  CHECK(right);
  CHECK(mch_dictionary_get(&dictionary, 77, &length) != NULL && length == 7);
  CHECK(memcmp(mch_dictionary_get(&dictionary, 77, &length), "code 77", 7) == 0);
  CHECK(mch_dictionary_get(&dictionary, 5001, &length) == NULL);
  CHECK(mch_dictionary_get(&dictionary, UINT32_MAX, &length) == NULL);
  mch_dictionary_free(&dictionary);
}

static void test_bytes_that_differ_little(void) {
  struct mch_dictionary dictionary = {0};
  static const unsigned char zeros[64];
  uint32_t id, i;
  size_t length;
  int right = 1;
  CHECK(mch_dictionary_intern(&dictionary, NULL, 0) == 1);
  CHECK(mch_dictionary_get(&dictionary, 1, &length) != NULL && length == 0);
  for (i = 1; i <= 64; i++) /* a prefix of each other */
    right &= (id = mch_dictionary_intern(&dictionary, zeros, i)) == i + 1 &&
             mch_dictionary_get(&dictionary, id, &length) != NULL && length == i;
  CHECK(right);
  CHECK(mch_dictionary_intern(&dictionary, zeros, 0) == 1);
  mch_dictionary_free(&dictionary);
}

/* Full: 0, and what is in it stays. */
static void test_full(void) {
  struct mch_dictionary dictionary = {0};
  static unsigned char large[6 * 1024 * 1024];
  size_t length;
  CHECK(mch_dictionary_intern(&dictionary, large, sizeof large) == 1);
  large[0] = 1;
  CHECK(mch_dictionary_intern(&dictionary, large, sizeof large) == 2);
  large[0] = 2;
  CHECK(mch_dictionary_intern(&dictionary, large, sizeof large) == 0);
  CHECK(mch_dictionary_intern(&dictionary, "x", 1) == 3);
  large[0] = 0;
  CHECK(mch_dictionary_intern(&dictionary, large, sizeof large) == 1);
  CHECK(mch_dictionary_get(&dictionary, 2, &length) != NULL && length == sizeof large);
  mch_dictionary_free(&dictionary);
}

static void test_put(void) {
  struct mch_dictionary dictionary = {0};
  size_t length;
  CHECK(mch_dictionary_put(&dictionary, 3, "three", 5) == 0);
  CHECK(mch_dictionary_get(&dictionary, 1, &length) == NULL);
  CHECK(mch_dictionary_get(&dictionary, 2, &length) == NULL);
  CHECK(mch_dictionary_put(&dictionary, 1, "one", 3) == 0);
  CHECK(mch_dictionary_put(&dictionary, 3, "drei", 4) == 0);
  CHECK(memcmp(mch_dictionary_get(&dictionary, 3, &length), "drei", 4) == 0 && length == 4);
  CHECK(memcmp(mch_dictionary_get(&dictionary, 1, &length), "one", 3) == 0 && length == 3);
  CHECK(mch_dictionary_put(&dictionary, 0, "zero", 4) == -1);
  CHECK(mch_dictionary_put(&dictionary, UINT32_MAX, "far", 3) == -1);
  CHECK(mch_dictionary_put(&dictionary, 1000, "", 0) == 0);
  CHECK(mch_dictionary_get(&dictionary, 1000, &length) != NULL && length == 0);
  mch_dictionary_free(&dictionary);
}

/* What is forgotten is not found, by its id or by its bytes, and the id stands for nothing else. */
static void test_forget(void) {
  struct mch_dictionary dictionary = {0};
  uint32_t stored, after;
  size_t length;
  CHECK(mch_dictionary_intern(&dictionary, "one", 3) == 1);
  stored = mch_dictionary_add(&dictionary, "two", 3);
  mch_dictionary_forget(&dictionary, stored);
  mch_dictionary_forget(&dictionary, 0);
  mch_dictionary_forget(&dictionary, 77);
  CHECK(mch_dictionary_get(&dictionary, stored, &length) == NULL);
  after = mch_dictionary_intern(&dictionary, "two", 3);
  CHECK(after != 0 && after != stored);
  CHECK(mch_dictionary_intern(&dictionary, "", 0) != stored);
  CHECK(mch_dictionary_intern(&dictionary, "one", 3) == 1);
  CHECK(mch_dictionary_put(&dictionary, stored, "zwei", 4) == 0);
  CHECK(memcmp(mch_dictionary_get(&dictionary, stored, &length), "zwei", 4) == 0 && length == 4);
  mch_dictionary_free(&dictionary);
}

int main(void) {
  test_intern();
  test_bytes_that_differ_little();
  test_full();
  test_put();
  test_forget();
  return check_report();
}
