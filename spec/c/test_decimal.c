/* Numbers as text and back, in the locale "C" and, where the system has one, with a decimal comma.
 */
#include "runtime/base/decimal.h"

#include <locale.h>
#include <string.h>

#include "check.h"

static int is_written(double number, int digits, const char *expected) {
  char text[MCH_DECIMAL_ROOM];
  return mch_decimal_fixed(text, number, digits) == (int)strlen(expected) &&
         strcmp(text, expected) == 0;
}

static void writes(void) {
  CHECK(is_written(0.514, 2, "0.51"));
  CHECK(is_written(-1234567.5, 1, "-1234567.5"));
  CHECK(is_written(3, 0, "3"));
}

static int is_pointed(const char *from, const char *expected) {
  char text[MCH_DECIMAL_ROOM];
  strcpy(text, from);
  mch_decimal_point(text);
  return strcmp(text, expected) == 0;
}

static int is_read(const char *text, size_t length, double expected) {
  double number = -1;
  size_t count = mch_decimal_parse(text, &number);
  double off = number - expected;
  return count == length && (length == 0 || (off < 1e-12 && off > -1e-12));
}

static void reads(void) {
  CHECK(is_read("0.05", 4, 0.05));
  CHECK(is_read("1", 1, 1));
  CHECK(is_read(".5x", 2, 0.5));
  CHECK(is_read("5.", 2, 5));
  CHECK(is_read("25e-3", 5, 0.025));
  CHECK(is_read("1e2", 3, 100));
  CHECK(is_read("1e", 1, 1));
  CHECK(is_read("0.5.5", 3, 0.5));
  CHECK(is_read("0,5", 1, 0));
  CHECK(is_read("1e-99999", 8, 0));
  CHECK(is_read("", 0, 0));
  CHECK(is_read("-1", 0, 0));
  CHECK(is_read(".", 0, 0));
  CHECK(is_read("nan", 0, 0));
}

int main(void) {
  writes();
  reads();
  CHECK(is_pointed("0,5", "0.5"));
  CHECK(is_pointed("-1,25e-07", "-1.25e-07"));
  CHECK(is_pointed("1\xd9\xab"
                   "5",
                   "1.5")); /* a separator of several bytes */
  CHECK(is_pointed("inf", "inf"));
  CHECK(is_pointed("-nan", "-nan"));
  if (setlocale(LC_ALL, "de_DE.UTF-8") != NULL) {
    writes();
    reads();
  }
  return check_report();
}
