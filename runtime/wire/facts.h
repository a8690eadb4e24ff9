/* Runs in: both.
 *
 * What a worker reports about a task besides its values: at the head of RESULT, and of an ITEM that
 * is not simply OK. A new fact is a line of the table here; whoever measures it sets the field, and
 * whoever wants it reads the field. */
#ifndef MCH_FACTS_H
#define MCH_FACTS_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"
#include "protocol.h"

/* Each is a u64, in this order behind the kind, which is a u8. A position counts the bytes that had
 * gone into that pipe when the task ended; MCH_POSITION_UNKNOWN: read until it is empty. */
#define MCH_FACTS(X)                                                                               \
  X(elapsed)         /* nanoseconds of run time */                                                 \
  X(maxrss)          /* bytes, 0: unknown */                                                       \
  X(started)         /* mch_now() when it was begun */                                             \
  X(cpu)             /* nanoseconds of processor time; UINT64_MAX: not measured */                 \
  X(stdout_position) /* */                                                                         \
  X(stderr_position) /* */
#define MCH_POSITION_UNKNOWN UINT64_MAX

struct mch_facts {
  enum mch_kind kind; /* OK, ERROR or UNSENDABLE */
#define MCH_FACT_FIELD(name) uint64_t name;
  MCH_FACTS(MCH_FACT_FIELD)
#undef MCH_FACT_FIELD
};

/* Bytes of the wire form. */
#define MCH_FACT_BYTES(name) +8u
#define MCH_FACTS_SIZE (1u MCH_FACTS(MCH_FACT_BYTES))

static inline void mch_facts_store(const struct mch_facts *facts, unsigned char *bytes) {
  *bytes++ = (unsigned char)facts->kind;
#define MCH_FACT_STORE(name)                                                                       \
  mch_store_u64(bytes, facts->name);                                                               \
  bytes += 8;
  MCH_FACTS(MCH_FACT_STORE)
#undef MCH_FACT_STORE
}

/* 0, or -1: `length` bytes are too few, or the kind is none that a worker may report. */
static inline int mch_facts_load(struct mch_facts *facts, const unsigned char *bytes,
                                 size_t length) {
  if (length < MCH_FACTS_SIZE || *bytes > MCH_KIND_UNSENDABLE)
    return -1;
  facts->kind = (enum mch_kind)bytes[0];
  bytes++;
#define MCH_FACT_LOAD(name)                                                                        \
  facts->name = mch_load_u64(bytes);                                                               \
  bytes += 8;
  MCH_FACTS(MCH_FACT_LOAD)
#undef MCH_FACT_LOAD
  return 0;
}

#endif
