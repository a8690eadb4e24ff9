/* Runs in: parent.
 *
 * Where the values go that code takes from its upvalues, parameters and globals: which of them are
 * indexed with constant names only, and which are used in another way. Told from the bytecode,
 * with no regard to what the values are; what may be counts as what is. The code of modules need
 * count only as far as it is named where the table of a module is indexed with constants.
 *
 * A value that is followed is a source: upvalue 2, parameter 1, global 'x', a field of another
 * source, or what came of a call with a constant string (`require "x"`). What else is done with a
 * source than to index it by names is a fact: it was passed to a function, or went anywhere. */
#ifndef MCH_KEY_FLOW_H
#define MCH_KEY_FLOW_H

#include <lua.h>

#include "key_set.h"
#include "runtime/base/buf.h"

enum mch_source_kind {
  MCH_SOURCE_UPVALUE = 1, /* number `index`, from 1 */
  MCH_SOURCE_PARAMETER,   /* likewise */
  MCH_SOURCE_GLOBAL,      /* `name` */
  MCH_SOURCE_FIELD,       /* `name` of source `of` */
  MCH_SOURCE_CALLED       /* source `of` called with the string `name` */
};

struct mch_source {
  unsigned char kind;
  unsigned char index;
  unsigned short of; /* number of a source before this one */
  const char *name;  /* in the dump */
  size_t length;
};

struct mch_fact {
  unsigned short source;
  unsigned short callee;   /* a source, or 0: not known */
  unsigned short position; /* is passed to the callee as this argument, from 1; 0: goes anywhere */
};

/* Of a function and those inside of it. Zero it; freed by mch_flow_free(). */
struct mch_flow {
  struct mch_buf sources; /* of struct mch_source; those at 0 and 1 are none */
  struct mch_buf facts;   /* of struct mch_fact */
  struct mch_set known;   /* of both; while it is read */
  int is_opaque;          /* it is too large: everything may go anywhere */
};

/* Follow the dumped function, whose upvalue `env` (from 1; 0: none) has its globals. Raises on
 * memory. The dump must stay where it is as long as the flow is used. 0: its format is not known.
 */
int mch_flow_read(lua_State *L, struct mch_flow *flow, const void *dump, size_t length, int env);

void mch_flow_free(struct mch_flow *flow);

static inline size_t mch_flow_source_count(const struct mch_flow *flow) {
  return flow->sources.length / sizeof(struct mch_source);
}

static inline const struct mch_source *mch_flow_source(const struct mch_flow *flow, size_t i) {
  return (const struct mch_source *)(const void *)flow->sources.data + i;
}

static inline size_t mch_flow_fact_count(const struct mch_flow *flow) {
  return flow->facts.length / sizeof(struct mch_fact);
}

static inline const struct mch_fact *mch_flow_fact(const struct mch_flow *flow, size_t i) {
  return (const struct mch_fact *)(const void *)flow->facts.data + i;
}

#endif
