/* Runs in: both. Purpose: tricks.h. Empty unless built with switches. */
#include "tricks.h"

#if defined(MANTICHORA_SWITCHES)

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
#define MCH_TRICK_NAME(name, word) word,
    MCH_TRICKS(MCH_TRICK_NAME)
#undef MCH_TRICK_NAME
};

/* Whether `name` is one of the words of a list with commas. */
static int is_in(const char *list, const char *name) {
  size_t length = strlen(name);
  for (; list != NULL; list = strchr(list, ',')) {
    list += *list == ',';
    if (strncmp(list, name, length) == 0 && (list[length] == '\0' || list[length] == ','))
      return 1;
  }
  return 0;
}

int mch_without(enum mch_trick trick) {
  static int known[sizeof names / sizeof *names]; /* 0: not yet looked, 1: no, 2: yes */
  if (known[trick] == 0)
    known[trick] = 1 + is_in(getenv("MANTICHORA_WITHOUT"), names[trick]);
  return known[trick] == 2;
}

#else

typedef int nothing; /* ISO C wants a declaration */

#endif
