/* Runs in: both. Purpose: kept.h. */
#define _POSIX_C_SOURCE 200809L
#include "kept.h"

#include <string.h>

void mch_kept_put(struct mch_kept *kept, struct mch_cargo *graph) {
  struct mch_cargo **place = &kept->places[kept->next];
  kept->next = (kept->next + 1) % MCH_KEPT_PLACES;
  mch_cargo_drop(*place);
  mch_cargo_hold(graph);
  *place = graph;
}

void mch_kept_clear(struct mch_kept *kept) {
  unsigned i;
  for (i = 0; i < MCH_KEPT_PLACES; i++)
    mch_cargo_drop(kept->places[i]);
  memset(kept, 0, sizeof *kept);
}

/* How many bytes are the same from the front on, of so many; in blocks first, which memcmp() is
 * quick with. */
static size_t same_first(const unsigned char *a, const unsigned char *b, size_t most) {
  const size_t block = 4096;
  size_t count = 0;
  while (count + block <= most && memcmp(a + count, b + count, block) == 0)
    count += block;
  while (count < most && a[count] == b[count])
    count++;
  return count;
}

/* The same before these ends. */
static size_t same_last(const unsigned char *a, const unsigned char *b, size_t most) {
  const size_t block = 4096;
  size_t count = 0;
  while (count + block <= most && memcmp(a - count - block, b - count - block, block) == 0)
    count += block;
  while (count < most && a[-(ptrdiff_t)count - 1] == b[-(ptrdiff_t)count - 1])
    count++;
  return count;
}

int mch_kept_find(const struct mch_kept *kept, const unsigned char *bytes, size_t length,
                  struct mch_same *same) {
  size_t best = 0;
  uint8_t i;
  for (i = 0; i < MCH_KEPT_PLACES; i++) {
    const struct mch_body *body;
    size_t most, first, last;
    if (kept->places[i] == NULL)
      continue;
    body = &kept->places[i]->body;
    most = body->length < length ? body->length : length;
    first = same_first(body->bytes, bytes, most);
    last = same_last(body->bytes + body->length, bytes + length, most - first);
    if (first + last > best) {
      best = first + last;
      *same = (struct mch_same){i, (uint32_t)first, (uint32_t)last};
    }
  }
  return best > 0 && best >= length / 8 * 7;
}

const struct mch_body *mch_kept_get(const struct mch_kept *kept, const struct mch_same *same) {
  const struct mch_cargo *graph = same->place < MCH_KEPT_PLACES ? kept->places[same->place] : NULL;
  return graph != NULL && (size_t)same->first + same->last <= graph->size ? &graph->body : NULL;
}
