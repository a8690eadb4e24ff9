/* Runs in: both.
 *
 * Lists that grow, and begin with zeroes. */
#ifndef MCH_GROW_H
#define MCH_GROW_H

#include <stddef.h>

/* The list, or a larger one in its place, with room for `wanted` elements of `size` bytes; *room is
 * how many it has room for, and what is new is 0. NULL: there is no memory, and it is as it was. */
void *mch_grow(void *list, size_t *room, size_t wanted, size_t size);

#endif
