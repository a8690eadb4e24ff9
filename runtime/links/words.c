/* Runs in: both. Purpose: words.h. */
#include "words.h"

#include <string.h>

static void add(struct mch_words *words, const char *bytes, size_t count) {
  if (count > words->room - words->length)
    count = words->room - words->length;
  memcpy(words->text + words->length, bytes, count);
  words->length += count;
}

void mch_words_say(struct mch_words *words, const char *text) {
  add(words, text, strlen(text));
}

void mch_words_number(struct mch_words *words, uint64_t number) {
  char digits[24];
  size_t at = sizeof digits;
  do
    digits[--at] = (char)('0' + number % 10);
  while ((number /= 10) != 0);
  add(words, digits + at, sizeof digits - at);
}

void mch_words_seconds(struct mch_words *words, uint64_t nanoseconds) {
  uint64_t tenths = (nanoseconds + 50000000u) / 100000000u;
  mch_words_number(words, tenths / 10);
  if (tenths % 10 != 0) {
    mch_words_say(words, ".");
    mch_words_number(words, tenths % 10);
  }
  mch_words_say(words, " s");
}

static int is_space(unsigned char byte) {
  return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

void mch_words_quote(struct mch_words *words, const unsigned char *bytes, size_t count) {
  size_t i;
  while (count > 0 && is_space(bytes[count - 1]))
    count--;
  while (count > 0 && is_space(*bytes))
    bytes++, count--;
  for (i = 0; i < count && words->length < words->room; i++) {
    if (bytes[i] == '\r')
      continue;
    words->text[words->length++] =
        (bytes[i] < ' ' && bytes[i] != '\n' && bytes[i] != '\t') || bytes[i] == 0x7f
            ? '?'
            : (char)bytes[i];
  }
}
