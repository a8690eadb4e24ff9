/* Text and numbers as JSON: any bytes give a string of valid UTF-8, numbers have a point. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "runtime/show/jsontext.h"

static int is(struct mch_buf *buf, const char *expected) {
  int same = buf->length == strlen(expected) && memcmp(buf->data, expected, buf->length) == 0;
  if (!same)
    fprintf(stderr, "  is %.*s, not %s\n", (int)buf->length, (const char *)buf->data, expected);
  mch_buf_free(buf);
  return same;
}

static int string_is(const char *text, size_t length, const char *expected) {
  struct mch_buf buf = {0};
  mch_jsontext_string(&buf, text, length);
  return is(&buf, expected);
}

static int cut_is(const char *text, size_t most, const char *expected) {
  struct mch_buf buf = {0};
  mch_jsontext_cut(&buf, text, strlen(text), most);
  return is(&buf, expected);
}

static int fixed_is(uint64_t number, unsigned digits, const char *expected) {
  struct mch_buf buf = {0};
  mch_jsontext_fixed(&buf, number, digits);
  return is(&buf, expected);
}

int main(void) {
  CHECK(string_is("", 0, "\"\""));
  CHECK(string_is("a\"b\\c", 5, "\"a\\\"b\\\\c\""));
  CHECK(string_is("\0\n\x1b\x7f", 4, "\"\\u0000\\u000a\\u001b\\u007f\""));
  CHECK(string_is("</script><img src=x>", 20, "\"\\u003c/script>\\u003cimg src=x>\""));
  CHECK(string_is("\xc3\xa4\xf0\x9f\x98\x80", 6, "\"\xc3\xa4\xf0\x9f\x98\x80\""));
  CHECK(string_is("\xff"
                  "a\xc3",
                  3, "\"\\ufffda\\ufffd\""));
  CHECK(string_is("\xed\xa0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\"")); /* half of a pair */
  CHECK(string_is("\xc0\xaf\xc2\x9b\xe2\x80\xa8", 7, "\"\\ufffd\\ufffd\\u009b\\u2028\""));
  CHECK(cut_is("abcdefgh", 8, "\"abcdefgh\""));
  CHECK(cut_is("abcdefghi", 8, "\"abcde...\""));
  CHECK(cut_is("abcd\xc3\xa4"
               "efghi",
               8, "\"abcd...\"")); /* not within a character */
  CHECK(cut_is("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 8,
               "\"\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd...\""));
  CHECK(fixed_is(0, 0, "0"));
  CHECK(fixed_is(0, 9, "0"));
  CHECK(fixed_is(UINT64_MAX, 0, "18446744073709551615"));
  CHECK(fixed_is(UINT64_MAX, 9, "18446744073.709551615"));
  CHECK(fixed_is(1500000000, 9, "1.5"));
  CHECK(fixed_is(7, 3, "0.007"));
  CHECK(fixed_is(12000, 3, "12"));
  CHECK(fixed_is(100, 0, "100"));
  return check_report();
}
