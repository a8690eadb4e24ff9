/* Runs in: both.
 *
 * Numbers as text. The host's locale decides how printf() and strtod() write and read fractions;
 * what this library writes and reads does not depend on it: every fraction goes through here. */
#ifndef MCH_DECIMAL_H
#define MCH_DECIMAL_H

#include <stddef.h>

enum {
  MCH_DECIMAL_DIGITS = 17, /* behind the point, at most */
  MCH_DECIMAL_ROOM = 352   /* for any number and its end */
};

/* Write the number as printf("%.*f") does in the locale "C" to `text`, which has MCH_DECIMAL_ROOM;
 * returns its length. */
int mch_decimal_fixed(char *text, double number, int digits);

/* In the text of a number that printf() has written (one of Lua's, say): a point for whatever
 * stands between the digits in this locale. In place; it never gets longer. */
void mch_decimal_point(char *text);

/* Read digits with or without a point and an exponent of ten from the start of `text`: how many
 * bytes they are, 0 if there is no number. The error is a few units of the last place at most. */
size_t mch_decimal_parse(const char *text, double *number);

#endif
