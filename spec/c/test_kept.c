/* Large graphs that both sides keep: what one side tells as the same is what the other makes of it,
 * with pieces that change at the front, in the middle and at the end; what is wrong is refused. */
#include "runtime/hosts/kept.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

static unsigned state = 7;

static unsigned random_below(unsigned most) {
  state = state * 1103515245u + 12345u;
  return (state >> 8) % most;
}

static struct mch_cargo *cargo_of(struct mch_buf *bytes) {
  struct mch_cargo *cargo = mch_cargo_new(bytes, NULL, 0, NULL);
  mch_buf_free(bytes);
  return cargo;
}

static struct mch_cargo *filled(size_t length, int seed) {
  struct mch_buf bytes = {0};
  size_t i;
  for (i = 0; i < length; i++)
    mch_buf_u8(&bytes, (uint8_t)(i * 31 + i / 251 + (size_t)seed));
  return cargo_of(&bytes);
}

/* What was said of `graph`, against the same graph made from what is kept there. */
static int is_told(const struct mch_kept *here, const struct mch_kept *there,
                   const struct mch_body *graph) {
  struct mch_same same;
  const struct mch_body *base;
  size_t between;
  if (!mch_kept_find(here, graph->bytes, graph->length, &same))
    return 0;
  base = mch_kept_get(there, &same);
  if (base == NULL || (size_t)same.first + same.last > graph->length)
    return 0;
  between = graph->length - same.first - same.last;
  return memcmp(base->bytes, graph->bytes, same.first) == 0 &&
         memcmp(base->bytes + base->length - same.last, graph->bytes + same.first + between,
                same.last) == 0;
}

static void keep(struct mch_kept *here, struct mch_kept *there, size_t length, int seed) {
  struct mch_cargo *graph = filled(length, seed);
  mch_kept_put(here, graph);
  mch_kept_put(there, graph);
  mch_cargo_drop(graph);
}

/* `base` with other bytes in the place of some. */
static struct mch_cargo *spliced(const struct mch_body *base) {
  struct mch_buf bytes = {0};
  size_t removed = random_below(64), added = random_below(64);
  size_t at = random_below((unsigned)(base->length - removed + 1));
  mch_buf_append(&bytes, base->bytes, at);
  for (; added > 0; added--)
    mch_buf_u8(&bytes, (uint8_t)random_below(256));
  mch_buf_append(&bytes, base->bytes + at + removed, base->length - at - removed);
  return cargo_of(&bytes);
}

static void tells(void) {
  struct mch_kept here = {0}, there = {0};
  int round;
  keep(&here, &there, MCH_KEPT_LEAST, 1);
  keep(&here, &there, MCH_KEPT_LEAST + 5000, 2);
  for (round = 0; round < 2000; round++) {
    struct mch_cargo *graph = spliced(&here.places[round % 2]->body);
    CHECK(is_told(&here, &there, &graph->body));
    mch_cargo_drop(graph);
  }
  mch_kept_clear(&here);
  mch_kept_clear(&there);
}

static void forgets(void) {
  struct mch_kept here = {0}, there = {0};
  struct mch_same same;
  unsigned i;
  struct mch_cargo *first = filled(MCH_KEPT_LEAST, 100);
  mch_kept_put(&here, first);
  CHECK(mch_kept_find(&here, first->body.bytes, first->size, &same) && same.first == first->size);
  for (i = 0; i < MCH_KEPT_PLACES; i++) {
    CHECK(mch_kept_find(&here, first->body.bytes, first->size, &same));
    keep(&here, &there, MCH_KEPT_LEAST, (int)i);
  }
  CHECK(!mch_kept_find(&here, first->body.bytes, first->size, &same));
  CHECK(first->holders == 1);
  mch_cargo_drop(first);
  mch_kept_clear(&here);
  mch_kept_clear(&there);
  CHECK(here.places[0] == NULL && here.next == 0);
}

/* The oldest go where all of them would be too large. */
static void is_bounded(void) {
  struct mch_kept here = {0}, there = {0};
  unsigned i, count = 0;
  for (i = 0; i < 5; i++)
    keep(&here, &there, MCH_KEPT_MOST, (int)i);
  for (i = 0; i < MCH_KEPT_PLACES; i++)
    count += here.places[i] != NULL;
  CHECK(count == MCH_KEPT_BYTES / MCH_KEPT_MOST && here.places[0] == NULL);
  CHECK(here.bytes == MCH_KEPT_BYTES && there.bytes == here.bytes);
  keep(&here, &there, MCH_KEPT_LEAST, 9);
  CHECK(here.places[1] == NULL && here.places[2] != NULL);
  mch_kept_clear(&here);
  mch_kept_clear(&there);
  CHECK(here.bytes == 0);
}

static void refuses(void) {
  struct mch_kept kept = {0}, none = {0};
  keep(&kept, &none, MCH_KEPT_LEAST, 1);
  CHECK(mch_kept_get(&kept, &(struct mch_same){0, 1, 1}) == &kept.places[0]->body);
  CHECK(mch_kept_get(&kept, &(struct mch_same){0, 0, MCH_KEPT_LEAST}) != NULL);
  CHECK(mch_kept_get(&kept, &(struct mch_same){0, 1, MCH_KEPT_LEAST}) == NULL);
  CHECK(mch_kept_get(&kept, &(struct mch_same){0, UINT32_MAX, UINT32_MAX}) == NULL);
  CHECK(mch_kept_get(&kept, &(struct mch_same){1, 0, 0}) == NULL);
  CHECK(mch_kept_get(&kept, &(struct mch_same){MCH_KEPT_PLACES, 0, 0}) == NULL);
  CHECK(mch_kept_get(&kept, &(struct mch_same){255, 0, 0}) == NULL);
  CHECK(!mch_kept_wants(MCH_KEPT_LEAST - 1) && mch_kept_wants(MCH_KEPT_LEAST));
  CHECK(mch_kept_wants(MCH_KEPT_MOST) && !mch_kept_wants(MCH_KEPT_MOST + 1));
  mch_kept_clear(&kept);
  mch_kept_clear(&none);
}

int main(void) {
  tells();
  forgets();
  is_bounded();
  refuses();
  return check_report();
}
