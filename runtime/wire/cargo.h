/* Runs in: both.
 *
 * The body of a message that is too large to be copied: bytes of its own, and between them spans
 * that are sent from where they are (Lua's long strings, which do not move). */
#ifndef MCH_CARGO_H
#define MCH_CARGO_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"

/* From so many bytes on, writing from where they are is cheaper than a copy. */
#define MCH_SPAN_MIN (64u * 1024u)

/* `length` bytes that come before byte `at` of the body's own. */
struct mch_span {
  size_t at;
  const void *bytes;
  size_t length;
};

/* The spans are in order of `at`. All of it belongs to somebody else. */
struct mch_body {
  const unsigned char *bytes;
  size_t length;
  const struct mch_span *spans;
  size_t count;
};

/* The body that consists of these bytes, of which none was consumed, and of the struct mch_span in
 * `spans` (NULL: none). */
struct mch_body mch_body_of(const struct mch_buf *bytes, const struct mch_buf *spans);

/* Bytes of the body and its spans together. */
size_t mch_body_size(const struct mch_body *body);

/* Write the body in one piece to `to`, which has room for its size. */
void mch_body_copy(const struct mch_body *body, unsigned char *to);

/* Where cargo goes that nobody needs any more: its anchor is then to be released. Zeroed: empty. */
struct mch_cargo;
struct mch_cargos {
  _Atomic(struct mch_cargo *) first;
};

/* A body with the memory of its own bytes, held by its task and by the channels that have yet to
 * write it, on any thread. */
struct mch_cargo {
  struct mch_body body;
  size_t size;
  int64_t anchor; /* what keeps the spans where they are, in the owner's words; 0: nothing */
  _Atomic unsigned holders;
  struct mch_cargos *spent;
  struct mch_cargo *next; /* among the spent */
  struct mch_span spans[];
};

/* Held once. Where `bytes` have much memory it is taken over, and they are empty then. NULL: no
 * memory, `bytes` are as they were. */
struct mch_cargo *mch_cargo_new(struct mch_buf *bytes, const struct mch_buf *spans, int64_t anchor,
                                struct mch_cargos *spent);
void mch_cargo_hold(struct mch_cargo *cargo);

/* Whether somebody else holds it, too (NULL: no). */
int mch_cargo_is_shared(const struct mch_cargo *cargo);

/* Let go of it (NULL: nothing). The last one to do so frees it, or, if it has an anchor, puts it
 * among the spent. */
void mch_cargo_drop(struct mch_cargo *cargo);

/* Whether there are spent ones. */
static inline int mch_cargos_some(const struct mch_cargos *spent) {
  return atomic_load_explicit(&spent->first, memory_order_relaxed) != NULL;
}

/* Take all spent ones, a list by `next`; each is the caller's to free. */
struct mch_cargo *mch_cargos_take(struct mch_cargos *spent);
void mch_cargo_free(struct mch_cargo *cargo);

#endif
