/* memcpy: what every further copy of a large string costs.
 *
 *     copy BYTES */
#include <string.h>

#include "serve.h"

struct copy {
  char *from, *to;
  size_t size;
};

static double measure(void *with) {
  struct copy *copy = with;
  double start = now();

  memcpy(copy->to, copy->from, copy->size);
  copy->from[0] = copy->to[copy->size - 1]; /* it is needed */
  return now() - start;
}

int main(int argc, char **argv) {
  struct copy copy = {0};

  copy.size = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
  copy.from = malloc(copy.size);
  copy.to = malloc(copy.size);
  must(copy.from && copy.to, "malloc");
  memset(copy.from, 'x', copy.size);
  serve(measure, &copy);
  return 0;
}
