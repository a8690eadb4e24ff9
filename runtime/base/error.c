/* Runs in: both. Purpose: error.h. */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int mch_error_set(struct mch_error *error, int code, const char *format, ...) {
  int saved = errno;
  if (error != NULL) {
    va_list arguments;
    error->code = code;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
  }
  errno = saved;
  return code;
}

int mch_error_system(struct mch_error *error, const char *what) {
  int saved = errno;
  mch_error_set(error, MCH_SYSTEM, "%s: %s", what, strerror(saved));
  errno = saved;
  return MCH_SYSTEM;
}
