/* Runs in: both.
 *
 * Large graphs that a pool has sent to a machine. Both sides keep the last few, in the same places;
 * a graph that begins and ends as one of them does is told by what differs between. So what many
 * tasks hold as an upvalue goes once, as long as it stays the same. Both sides keep each graph that
 * mch_kept_wants(), unless less than MCH_KEPT_LEAST of it differed. */
#ifndef MCH_HOSTS_KEPT_H
#define MCH_HOSTS_KEPT_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/wire/cargo.h"

#define MCH_KEPT_PLACES 16u
#define MCH_KEPT_BYTES ((size_t)64 * 1024 * 1024) /* in all places; the oldest go first */
#define MCH_KEPT_LEAST ((size_t)64 * 1024)
#define MCH_KEPT_MOST ((size_t)16 * 1024 * 1024) /* larger ones go each time */

struct mch_kept {
  struct mch_cargo *places[MCH_KEPT_PLACES]; /* in one piece each */
  unsigned next;
  size_t bytes;
};

static inline int mch_kept_wants(size_t length) {
  return length >= MCH_KEPT_LEAST && length <= MCH_KEPT_MOST;
}
/* Hold it, too, in the place of the oldest. */
void mch_kept_put(struct mch_kept *kept, struct mch_cargo *graph);
void mch_kept_clear(struct mch_kept *kept);

/* A graph: the first and the last bytes of the one in that place, and others between. */
struct mch_same {
  uint8_t place;
  uint32_t first, last;
};
/* The best of what is kept. 0: less than half of MCH_KEPT_LEAST is the same. */
int mch_kept_find(const struct mch_kept *kept, const unsigned char *bytes, size_t length,
                  struct mch_same *same);
/* The one in that place; NULL: there is none, or it is not so long. */
const struct mch_body *mch_kept_get(const struct mch_kept *kept, const struct mch_same *same);

#endif
