/* Runs in: parent.
 *
 * What a key needs to know of code, once for each code that a state meets: a hash that does not
 * change with comments, layout and names, which constants stand in it, which globals it names, and
 * where its values go. Found again by the dump of a function, or by the function itself. */
#ifndef MCH_KEY_CODE_H
#define MCH_KEY_CODE_H

#include <lua.h>

#include "hash.h"
#include "key_flow.h"

/* A string constant, in the dump. */
struct mch_key_text {
  const char *text;
  size_t length;
  uint64_t mix; /* of its bytes */
};

struct mch_key_code {
  unsigned char hash[MCH_HASH_SIZE];
  int line;                 /* where it is defined */
  int env;                  /* the upvalue that has its globals, from 1; 0: none */
  int parameters;           /* of a function that takes so many */
  int takes_more;           /* ... */
  int is_known;             /* 0: the dump is of an unknown format, and hashed as it is */
  int wants_env;            /* the environment is used as a value, too */
  struct mch_buf constants; /* of struct mch_key_text, each once */
  struct mch_flow flow;
  const char *dump; /* and the number of the environment's upvalue, one byte */
  size_t dump_length;
};

enum { MCH_CODE_NAMES = 1, MCH_CODE_DUMP, MCH_CODE_VALUES = MCH_CODE_DUMP };

/* What a state has met. Slots of the stack; the memory is the keyer's. */
struct mch_codes {
  int by_dump;               /* stack index of a table: dump -> code */
  int by_function;           /* likewise, weak: function -> code */
  struct mch_buf *buf;       /* for a dump */
  struct mch_key_code *last; /* that was met by its dump; in by_dump */
  unsigned fresh;            /* functions since one was met again */
  size_t count;
};

/* Push the code (a userdata) of the Lua function at this index. `comes_again`: the function is
 * likely to be met again itself. Raises on memory. */
struct mch_key_code *mch_key_code_push(lua_State *L, struct mch_codes *codes, int function,
                                       int comes_again);

static inline size_t mch_code_constant_count(const struct mch_key_code *code) {
  return code->constants.length / sizeof(struct mch_key_text);
}

static inline const struct mch_key_text *mch_code_constant(const struct mch_key_code *code,
                                                           size_t i) {
  return (const struct mch_key_text *)(const void *)code->constants.data + i;
}

#endif
