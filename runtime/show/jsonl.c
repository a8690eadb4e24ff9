/* Runs in: both. Purpose: jsonl.h. */
#include "jsonl.h"

#include <string.h>

#include "jsontext.h"
#include "runtime/base/decimal.h"

void mch_jsonl_open(struct mch_buf *to, const char *event) {
  mch_jsontext_put(to, "{\"event\":\"");
  mch_jsontext_put(to, event);
  mch_buf_u8(to, '"');
}

void mch_jsonl_close(struct mch_buf *to) {
  mch_jsontext_put(to, "}\n");
}

static void put_key(struct mch_buf *to, const char *key) {
  mch_jsontext_put(to, ",\"");
  mch_jsontext_put(to, key);
  mch_jsontext_put(to, "\":");
}

void mch_jsonl_text(struct mch_buf *to, const char *key, const char *text, size_t length,
                    size_t most) {
  if (text == NULL)
    return;
  put_key(to, key);
  if (most > 0)
    mch_jsontext_cut(to, text, length, most);
  else
    mch_jsontext_string(to, text, length);
}

void mch_jsonl_word(struct mch_buf *to, const char *key, const char *word) {
  if (word != NULL)
    mch_jsonl_text(to, key, word, strlen(word), 0);
}

void mch_jsonl_count(struct mch_buf *to, const char *key, uint64_t count) {
  put_key(to, key);
  mch_jsontext_count(to, count);
}

void mch_jsonl_number(struct mch_buf *to, const char *key, double number, int digits) {
  char text[MCH_DECIMAL_ROOM];
  put_key(to, key);
  mch_decimal_fixed(text, number, digits);
  mch_jsontext_put(to, text);
}

void mch_jsonl_seconds(struct mch_buf *to, const char *key, uint64_t nanoseconds) {
  put_key(to, key);
  mch_jsontext_fixed(to, (nanoseconds + 500) / 1000, 6);
}

void mch_jsonl_flag(struct mch_buf *to, const char *key, int flag) {
  put_key(to, key);
  mch_jsontext_put(to, flag ? "true" : "false");
}

void mch_jsonl_raw(struct mch_buf *to, const char *key, const char *json) {
  if (json == NULL)
    return;
  put_key(to, key);
  mch_jsontext_put(to, json);
}
