/* Runs in: both. Purpose: kept.h. */
#define _POSIX_C_SOURCE 200809L
#include "kept.h"

#include <string.h>

static void empty(struct mch_kept *kept, unsigned place) {
  kept->bytes -= kept->places[place] != NULL ? kept->places[place]->size : 0;
  mch_cargo_drop(kept->places[place]);
  kept->places[place] = NULL;
}

void mch_kept_put(struct mch_kept *kept, struct mch_cargo *graph) {
  unsigned place = kept->next, oldest;
  empty(kept, place);
  kept->next = oldest = (place + 1) % MCH_KEPT_PLACES;
  for (; oldest != place && kept->bytes + graph->size > MCH_KEPT_BYTES;
       oldest = (oldest + 1) % MCH_KEPT_PLACES)
    empty(kept, oldest);
  mch_cargo_hold(graph);
  kept->places[place] = graph;
  kept->bytes += graph->size;
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
  const size_t little = 4096; /* what differs: none is looked for that is still better */
  size_t best = 0;
  unsigned i;
  for (i = 1; i <= MCH_KEPT_PLACES && best + little < length; i++) {
    unsigned place = (kept->next + MCH_KEPT_PLACES - i) % MCH_KEPT_PLACES; /* the newest first */
    const struct mch_body *body;
    size_t most, first, last;
    if (kept->places[place] == NULL)
      continue;
    body = &kept->places[place]->body;
    most = body->length < length ? body->length : length;
    first = same_first(body->bytes, bytes, most);
    last = same_last(body->bytes + body->length, bytes + length, most - first);
    if (first + last > best) {
      best = first + last;
      *same = (struct mch_same){(uint8_t)place, (uint32_t)first, (uint32_t)last};
    }
  }
  return best >= MCH_KEPT_LEAST / 2;
}

const struct mch_body *mch_kept_get(const struct mch_kept *kept, const struct mch_same *same) {
  const struct mch_cargo *graph = same->place < MCH_KEPT_PLACES ? kept->places[same->place] : NULL;
  return graph != NULL && (size_t)same->first + same->last <= graph->size ? &graph->body : NULL;
}
