/* Any bytes that come from another machine give frames, a wait for more, or a clean end: the
 * greeting, heads, their order, beats and sentences, as a helper reads them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/links/frame.h"
#include "runtime/links/lease.h"
#include "runtime/links/words.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(const struct mch_frame *frame, const unsigned char *bytes,
                 struct mch_lease *lease) {
  char text[256];
  struct mch_words words = {text, 0, sizeof text};
  uint64_t until = lease->until;
  if (frame->kind == MCH_FRAME_BYE || frame->kind == MCH_FRAME_NOTE)
    mch_words_quote(&words, bytes, frame->length);
  if (frame->kind != MCH_FRAME_BEAT)
    return;
  mch_lease_take_beat(lease, lease->heard + 1000, bytes);
  if (lease->until < until || lease->until > lease->heard + lease->length)
    abort(); /* nobody else lengthens it beyond what this side's own clock says */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct mch_frame_order order = {0, 0, 0};
  struct mch_lease lease = {0};
  struct mch_frame frame;
  unsigned char *copy; /* so that one byte too far is seen */
  size_t at = mch_frame_find_preamble(data, size);
  uint64_t sum = 0;
  lease.length = 20000000000u;
  lease.heard = lease.until = 1000000;
  if (at < size && memcmp(data + at, MCH_PREAMBLE, MCH_PREAMBLE_SIZE) != 0)
    abort();
  at = at < size ? at + MCH_PREAMBLE_SIZE : 0;
  copy = malloc(size - at + 1);
  if (copy == NULL)
    return 0;
  memcpy(copy, data + at, size - at);
  size -= at;
  at = 0;
  while (mch_frame_next(&order, copy + at, size - at, &frame) == 1) {
    if (frame.kind == MCH_FRAME_DATA)
      sum += frame.length;
    take(&frame, copy + at + MCH_FRAME_HEAD, &lease);
    at += MCH_FRAME_HEAD + frame.length;
  }
  free(copy);
  if (sum > size)
    abort();
  return 0;
}
