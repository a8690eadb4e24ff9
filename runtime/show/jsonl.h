/* Runs in: both.
 *
 * Lines of JSON for programs: one object a line, put together field by field (jsontext.h). */
#ifndef MCH_JSONL_H
#define MCH_JSONL_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"

/* {"event":"word" */
void mch_jsonl_open(struct mch_buf *to, const char *event);
/* } and a newline. */
void mch_jsonl_close(struct mch_buf *to);

/* A field behind another. NULL: none is written. Of more than `most` bytes (0: any) the beginning.
 */
void mch_jsonl_text(struct mch_buf *to, const char *key, const char *text, size_t length,
                    size_t most);
void mch_jsonl_word(struct mch_buf *to, const char *key, const char *word);
void mch_jsonl_count(struct mch_buf *to, const char *key, uint64_t count);
/* With so many digits behind the point. */
void mch_jsonl_number(struct mch_buf *to, const char *key, double number, int digits);
/* Nanoseconds as seconds, to the microsecond. */
void mch_jsonl_seconds(struct mch_buf *to, const char *key, uint64_t nanoseconds);
void mch_jsonl_flag(struct mch_buf *to, const char *key, int flag);
/* What is JSON already. */
void mch_jsonl_raw(struct mch_buf *to, const char *key, const char *json);

#endif
