/* For the C tests: checks that say what failed and go on, and the way out of main(). */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

static _Atomic int checks, failures; /* threads of a test check too */

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    checks++;                                                                                      \
    if (!(condition)) {                                                                            \
      failures++;                                                                                  \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                              \
    }                                                                                              \
  } while (0)

static int check_report(void) {
  printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

#endif
