/* Runs in: both. Purpose: cargo.h. */
#include "cargo.h"

#include <stdlib.h>

struct mch_body mch_body_of(const struct mch_buf *bytes, const struct mch_buf *spans) {
  struct mch_body body = {bytes->data, bytes->length, NULL, 0};
  if (spans != NULL && spans->length > 0) {
    body.spans = (const struct mch_span *)(const void *)spans->data;
    body.count = spans->length / sizeof *body.spans;
  }
  return body;
}

size_t mch_body_size(const struct mch_body *body) {
  size_t size = body->length, i;
  for (i = 0; i < body->count; i++)
    size += body->spans[i].length;
  return size;
}

void mch_body_copy(const struct mch_body *body, unsigned char *to) {
  size_t at = 0, i;
  for (i = 0; i <= body->count; i++) {
    size_t until = i < body->count ? body->spans[i].at : body->length;
    if (until > at)
      memcpy(to, body->bytes + at, until - at);
    to += until - at;
    at = until;
    if (i < body->count) {
      memcpy(to, body->spans[i].bytes, body->spans[i].length);
      to += body->spans[i].length;
    }
  }
}

enum { WORTH_TAKING = 1024 * 1024 };

/* Exactly the bytes of the buffer, in memory of their own. NULL: no memory. */
static unsigned char *own(struct mch_buf *bytes) {
  unsigned char *data = bytes->data, *fitting;
  if (bytes->length < WORTH_TAKING) {
    data = malloc(bytes->length > 0 ? bytes->length : 1);
    return data != NULL && bytes->length > 0 ? memcpy(data, bytes->data, bytes->length) : data;
  }
  fitting = realloc(data, bytes->length);
  bytes->data = NULL;
  mch_buf_free(bytes);
  return fitting != NULL ? fitting : data;
}

struct mch_cargo *mch_cargo_new(struct mch_buf *bytes, const struct mch_buf *spans, int64_t anchor,
                                struct mch_cargos *spent) {
  struct mch_body body = mch_body_of(bytes, spans);
  struct mch_cargo *cargo = malloc(sizeof *cargo + body.count * sizeof *body.spans);
  if (cargo == NULL || (body.bytes = own(bytes)) == NULL) {
    free(cargo);
    return NULL;
  }
  if (body.count > 0)
    memcpy(cargo->spans, body.spans, body.count * sizeof *body.spans);
  body.spans = cargo->spans;
  cargo->body = body;
  cargo->size = mch_body_size(&body);
  cargo->anchor = anchor;
  atomic_init(&cargo->holders, 1);
  cargo->spent = spent;
  cargo->next = NULL;
  return cargo;
}

void mch_cargo_hold(struct mch_cargo *cargo) {
  atomic_fetch_add(&cargo->holders, 1);
}

int mch_cargo_is_shared(const struct mch_cargo *cargo) {
  return cargo != NULL && atomic_load(&cargo->holders) > 1;
}

void mch_cargo_drop(struct mch_cargo *cargo) {
  if (cargo == NULL || atomic_fetch_sub(&cargo->holders, 1) > 1)
    return;
  if (cargo->anchor == 0) {
    mch_cargo_free(cargo);
    return;
  }
  cargo->next = atomic_load(&cargo->spent->first);
  while (!atomic_compare_exchange_weak(&cargo->spent->first, &cargo->next, cargo))
    ;
}

struct mch_cargo *mch_cargos_take(struct mch_cargos *spent) {
  return mch_cargos_some(spent) ? atomic_exchange(&spent->first, NULL) : NULL;
}

void mch_cargo_free(struct mch_cargo *cargo) {
  free((void *)(uintptr_t)cargo->body.bytes);
  free(cargo);
}
