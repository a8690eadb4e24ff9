/* Runs in: both.
 *
 * Bytes of a fixed room, filled at one end and emptied at the other. A helper has no malloc(). */
#ifndef MCH_TUB_H
#define MCH_TUB_H

#include <stddef.h>
#include <string.h>

struct mch_tub {
  unsigned char *bytes;
  size_t read, length, room; /* read <= length <= room */
};

static inline size_t mch_tub_unread(const struct mch_tub *tub) {
  return tub->length - tub->read;
}

/* How much more it could take. */
static inline size_t mch_tub_space(const struct mch_tub *tub) {
  return tub->room - mch_tub_unread(tub);
}

/* Have at least `more` bytes free behind `length`; more than its space must not be asked for. */
static inline void mch_tub_make_room(struct mch_tub *tub, size_t more) {
  if (tub->room - tub->length >= more && tub->read < tub->length)
    return;
  memmove(tub->bytes, tub->bytes + tub->read, mch_tub_unread(tub));
  tub->length -= tub->read;
  tub->read = 0;
}

/* As many of these bytes as there is space for. */
static inline void mch_tub_add(struct mch_tub *tub, const void *bytes, size_t count) {
  if (count > mch_tub_space(tub))
    count = mch_tub_space(tub);
  if (count == 0)
    return;
  mch_tub_make_room(tub, count);
  memcpy(tub->bytes + tub->length, bytes, count);
  tub->length += count;
}

static inline void mch_tub_drop(struct mch_tub *tub, size_t count) {
  tub->read += count;
  if (tub->read == tub->length)
    tub->read = tub->length = 0;
}

/* The last bytes of a text: what no longer fits goes at its begin. */
static inline void mch_tub_add_last(struct mch_tub *tub, const unsigned char *bytes, size_t count) {
  if (count > tub->room) {
    bytes += count - tub->room;
    count = tub->room;
  }
  if (count > mch_tub_space(tub))
    mch_tub_drop(tub, count - mch_tub_space(tub));
  mch_tub_add(tub, bytes, count);
}

#endif
