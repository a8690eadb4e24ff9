/* Runs in: both. Purpose: frame.h. */
#include "frame.h"

#include <string.h>

#include "runtime/base/buf.h"

/* The most that may stand behind a head of each kind. */
static uint32_t most_of(uint8_t kind) {
  switch (kind) {
  case MCH_FRAME_HELLO:
    return 256; /* a later version may say more */
  case MCH_FRAME_DATA:
    return MCH_FRAME_MOST;
  case MCH_FRAME_BEAT:
    return 24;
  case MCH_FRAME_TAKEN:
    return 8;
  case MCH_FRAME_BYE:
  case MCH_FRAME_NOTE:
    return MCH_FRAME_TEXT;
  }
  return 0;
}

static uint32_t least_of(uint8_t kind) {
  switch (kind) {
  case MCH_FRAME_HELLO:
    return 16;
  case MCH_FRAME_BEAT:
    return 24;
  case MCH_FRAME_TAKEN:
    return 8;
  }
  return 0;
}

static int is_right(const struct mch_frame *frame) {
  if (frame->kind < MCH_FRAME_HELLO || frame->kind > MCH_FRAME_NOTE ||
      frame->length > most_of(frame->kind) || frame->length < least_of(frame->kind))
    return 0;
  if (frame->kind != MCH_FRAME_DATA)
    return frame->flags == 0 && frame->total == 0 &&
           (frame->type == 0 || frame->kind == MCH_FRAME_NOTE);
  if (frame->flags > (MCH_FRAME_FIRST | MCH_FRAME_LAST))
    return 0;
  if ((frame->flags & MCH_FRAME_FIRST) == 0)
    return frame->total == 0 && frame->length > 0;
  if (frame->flags & MCH_FRAME_LAST)
    return frame->total == frame->length;
  return frame->total > frame->length && frame->length > 0;
}

int mch_frame_read(const unsigned char *bytes, size_t count, struct mch_frame *frame) {
  if (count > 0 && bytes[0] != MCH_FRAME_MARK)
    return -1;
  if (count < MCH_FRAME_HEAD)
    return 0;
  frame->kind = bytes[1];
  frame->type = bytes[2];
  frame->flags = bytes[3];
  frame->length = mch_load_u32(bytes + 4);
  frame->total = mch_load_u64(bytes + 8);
  return is_right(frame) ? 1 : -1;
}

void mch_frame_write(unsigned char head[MCH_FRAME_HEAD], const struct mch_frame *frame) {
  head[0] = MCH_FRAME_MARK;
  head[1] = frame->kind;
  head[2] = frame->type;
  head[3] = frame->flags;
  mch_store_u32(head + 4, frame->length);
  mch_store_u64(head + 8, frame->total);
}

int mch_frame_follow(struct mch_frame_order *order, const struct mch_frame *frame) {
  int first = (frame->flags & MCH_FRAME_FIRST) != 0, last = (frame->flags & MCH_FRAME_LAST) != 0;
  if (frame->kind != MCH_FRAME_DATA)
    return 0;
  if (first == order->open || (order->open && frame->type != order->type))
    return -1;
  if (first) {
    order->open = 1;
    order->type = frame->type;
    order->left = frame->total;
  }
  if (frame->length > order->left || last != (frame->length == order->left))
    return -1;
  order->left -= frame->length;
  order->open = !last;
  return 0;
}

int mch_frame_next(struct mch_frame_order *order, const unsigned char *bytes, size_t count,
                   struct mch_frame *frame) {
  int whole = mch_frame_read(bytes, count, frame);
  if (whole != 1)
    return whole;
  if (count < MCH_FRAME_HEAD + frame->length)
    return 0;
  return mch_frame_follow(order, frame) == 0 ? 1 : -1;
}

size_t mch_frame_find_preamble(const unsigned char *bytes, size_t count) {
  size_t at = 0;
  while (at + MCH_PREAMBLE_SIZE <= count) {
    const unsigned char *found =
        memchr(bytes + at, MCH_PREAMBLE[0], count - at - (MCH_PREAMBLE_SIZE - 1));
    if (found == NULL)
      return count;
    at = (size_t)(found - bytes);
    if (memcmp(found, MCH_PREAMBLE, MCH_PREAMBLE_SIZE) == 0)
      return at;
    at++;
  }
  return count;
}
