/* Runs in: both.
 *
 * Text and numbers as JSON has them, whatever the bytes and the locale are. */
#ifndef MCH_JSONTEXT_H
#define MCH_JSONTEXT_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"

/* Append the text as a JSON string, with its quotes: what is no UTF-8 is U+FFFD; control characters
 * and what ends lines are escaped, and so is '<', so that it may stand in a page. */
void mch_jsontext_string(struct mch_buf *to, const char *text, size_t length);

/* The same of at most `most` bytes; what was cut ends with "...". */
void mch_jsontext_cut(struct mch_buf *to, const char *text, size_t length, size_t most);

/* Append bytes as they are; a number; a number with `digits` of its digits behind the point, which
 * are not written if they are all 0: nanoseconds are seconds with 9, microseconds with 3. */
void mch_jsontext_put(struct mch_buf *to, const char *text);
void mch_jsontext_count(struct mch_buf *to, uint64_t number);
void mch_jsontext_fixed(struct mch_buf *to, uint64_t number, unsigned digits);

#endif
