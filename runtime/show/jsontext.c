/* Runs in: both. Purpose: jsontext.h. */
#include "jsontext.h"

#include <string.h>

#include "width.h"

void mch_jsontext_put(struct mch_buf *to, const char *text) {
  mch_buf_append(to, text, strlen(text));
}

static void put_code(struct mch_buf *to, uint32_t code) {
  static const char digits[] = "0123456789abcdef";
  char escape[6] = {'\\', 'u'};
  int i;
  for (i = 0; i < 4; i++)
    escape[2 + i] = digits[code >> (12 - 4 * i) & 15];
  mch_buf_append(to, escape, sizeof escape);
}

static int is_plain(unsigned char byte) {
  return byte >= 0x20 && byte < 0x7F && byte != '"' && byte != '\\' && byte != '<';
}

/* One character that is not plain; its bytes. */
static size_t put_character(struct mch_buf *to, const char *text, size_t length) {
  uint32_t code;
  size_t count = mch_width_decode(text, length, &code);
  if (code == MCH_UTF8_INVALID)
    put_code(to, 0xFFFD);
  else if (code == '"' || code == '\\') {
    mch_buf_u8(to, '\\');
    mch_buf_u8(to, (uint8_t)code);
  } else if (code < 0x20 || code == '<' || (code >= 0x7F && code < 0xA0) || code == 0x2028 ||
             code == 0x2029)
    put_code(to, code);
  else
    mch_buf_append(to, text, count);
  return count;
}

static void put_inside(struct mch_buf *to, const char *text, size_t length) {
  size_t at = 0, from;
  while (at < length) {
    for (from = at; at < length && is_plain((unsigned char)text[at]); at++) {
    }
    mch_buf_append(to, text + from, at - from);
    if (at < length)
      at += put_character(to, text + at, length - at);
  }
}

void mch_jsontext_string(struct mch_buf *to, const char *text, size_t length) {
  mch_buf_u8(to, '"');
  put_inside(to, text, length);
  mch_buf_u8(to, '"');
}

/* Where a text may be cut so that no character is: at most `most`. */
static size_t cut_at(const char *text, size_t most) {
  size_t at = most, back;
  for (back = 0; back < 4 && at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80; back++)
    at--;
  return back < 4 ? at : most;
}

void mch_jsontext_cut(struct mch_buf *to, const char *text, size_t length, size_t most) {
  static const char ending[] = "...";
  if (length <= most) {
    mch_jsontext_string(to, text, length);
    return;
  }
  mch_buf_u8(to, '"');
  put_inside(to, text, cut_at(text, most > sizeof ending ? most - (sizeof ending - 1) : 0));
  mch_buf_append(to, ending, sizeof ending - 1);
  mch_buf_u8(to, '"');
}

void mch_jsontext_fixed(struct mch_buf *to, uint64_t number, unsigned digits) {
  char text[32];
  size_t at = sizeof text;
  unsigned behind = digits;
  for (; behind > 0 && number % 10 == 0; behind--) /* zeros at the end */
    number /= 10;
  if (behind > 0) {
    for (; behind > 0; behind--) {
      text[--at] = (char)('0' + number % 10);
      number /= 10;
    }
    text[--at] = '.';
  }
  do {
    text[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  mch_buf_append(to, text + at, sizeof text - at);
}

void mch_jsontext_count(struct mch_buf *to, uint64_t number) {
  mch_jsontext_fixed(to, number, 0);
}
