/* Runs in: both. Purpose: grow.h. */
#include "grow.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST = 8 };

void *mch_grow(void *list, size_t *room, size_t wanted, size_t size) {
  size_t more = *room < LEAST / 2 ? LEAST : 2 * *room;
  char *larger;
  if (wanted <= *room)
    return list;
  more = more < wanted ? wanted : more;
  if (more > SIZE_MAX / 2 / size || (larger = realloc(list, more * size)) == NULL)
    return NULL;
  memset(larger + *room * size, 0, (more - *room) * size);
  *room = more;
  return larger;
}
