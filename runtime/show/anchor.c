/* Runs in: both. Purpose: anchor.h. */
#include "anchor.h"

#include <stdlib.h>

#include "hold.h"

struct mch_anchor {
  void (*leave)(void *object);
  void *object; /* NULL: it has gone */
};

static void at_exit(void *arg) {
  struct mch_anchor *anchor = arg;
  if (anchor->object != NULL)
    anchor->leave(anchor->object);
  free(anchor);
}

struct mch_anchor *mch_anchor_cast(void (*leave)(void *object), void *object) {
  struct mch_anchor *anchor = malloc(sizeof *anchor);
  if (anchor == NULL)
    return NULL;
  anchor->leave = leave;
  anchor->object = object;
  if (mch_hold_at_exit(at_exit, anchor) == 0)
    return anchor;
  free(anchor);
  return NULL;
}

void mch_anchor_drop(struct mch_anchor **anchor) {
  if (*anchor != NULL)
    (*anchor)->object = NULL;
  *anchor = NULL;
}
