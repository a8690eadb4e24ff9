/* Runs in: both. Purpose: decimal.h. */
#include "decimal.h"

#include <stdio.h>
#include <string.h>

static int is_digit(char c) {
  return c >= '0' && c <= '9';
}

/* What may stand in a number besides digits and the locale's point. */
static int is_ours(char c) {
  return is_digit(c) || strchr("+-.eExXpPabcdfinABCDFIN", c) != NULL;
}

void mch_decimal_point(char *text) {
  char *to = text;
  int in_point = 0;
  for (; *text != '\0'; text++) {
    int ours = is_ours(*text);
    if (ours)
      *to++ = *text;
    else if (!in_point)
      *to++ = '.'; /* of several bytes the first */
    in_point = !ours;
  }
  *to = '\0';
}

int mch_decimal_fixed(char *text, double number, int digits) {
  snprintf(text, MCH_DECIMAL_ROOM, "%.*f", digits, number);
  mch_decimal_point(text);
  return (int)strlen(text);
}

/* The exponent at `*at`, which moves on; 0 if there is none. */
static int exponent(const char **at) {
  const char *next = *at;
  int sign = 1, value = 0;
  if (*next != 'e' && *next != 'E')
    return 0;
  next++;
  if (*next == '+' || *next == '-')
    sign = *next++ == '-' ? -1 : 1;
  if (!is_digit(*next))
    return 0;
  for (; is_digit(*next); next++)
    value = value < 1000 ? value * 10 + (*next - '0') : value;
  *at = next;
  return sign * value;
}

size_t mch_decimal_parse(const char *text, double *number) {
  const char *at = text;
  double value = 0, power = 1;
  int digits = 0, scale = 0, seen_point = 0;
  for (; is_digit(*at) || (*at == '.' && !seen_point); at++) {
    if (*at == '.') {
      seen_point = 1;
      continue;
    }
    value = value * 10 + (*at - '0');
    digits++;
    scale -= seen_point;
  }
  if (digits == 0)
    return 0;
  scale += exponent(&at);
  for (; scale < 0 && power < 1e300; scale++)
    power *= 10;
  value /= power;
  for (; scale > 0 && value < 1e300 && value > 0; scale--)
    value *= 10;
  *number = value;
  return (size_t)(at - text);
}
