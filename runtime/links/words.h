/* Runs in: both.
 *
 * Sentences put together in a fixed room, without the C library. */
#ifndef MCH_WORDS_H
#define MCH_WORDS_H

#include <stddef.h>
#include <stdint.h>

struct mch_words {
  char *text; /* not terminated */
  size_t length, room;
};

/* What does not fit is left out. */
void mch_words_say(struct mch_words *words, const char *text);
void mch_words_number(struct mch_words *words, uint64_t number);
/* Seconds, with a digit behind the point unless it is 0. */
void mch_words_seconds(struct mch_words *words, uint64_t nanoseconds);
/* What a program has said: without white space around it, and with `?` for control characters. */
void mch_words_quote(struct mch_words *words, const unsigned char *bytes, size_t count);

#endif
