/* Runs in: both.
 *
 * What lua_dump() writes, read: which names a function looks up in its environment, whether it
 * assigns to its upvalues, and what lies where. Knows the formats of Lua 5.4 and 5.5, whichever
 * it runs in, and refuses to guess at another. */
#ifndef MCH_BYTECODE_H
#define MCH_BYTECODE_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Push a table of what the dumped function does with those of its upvalues 1..255 for which
 * wanted[i - 1] is 1 and not 0, its inner functions included:
 *
 *   uses[i] = {name, name, ..., [name] = true, [0] = whole}
 *
 * whole is true if the code takes the upvalue as a value, or indexes it with a computed key, else
 * nil. Or push false when no upvalue is wanted, or true when the format is not the known one.
 * Raises on memory. */
void mch_bytecode_uses(lua_State *L, const void *dump, size_t length,
                       const unsigned char wanted[256]);

/* Whether the dumped function, or one inside of it, assigns to one of its upvalues; also true when
 * the format is not the known one. Raises on memory. */
int mch_bytecode_assigns(lua_State *L, const void *dump, size_t length);

struct mch_bytecode_constant {
  const char *string; /* NULL: it is none */
  size_t length;
  const unsigned char *raw; /* as the dump has it, with its type; strings may be numbers there */
  size_t raw_length;
};

/* One function of a dump, as it lies there. */
struct mch_bytecode_function {
  int depth; /* 0: the outermost */
  size_t line;
  const unsigned char *head; /* three bytes: parameters, varargs, stack size */
  const unsigned char *code; /* not aligned: see mch_bytecode_instruction() */
  size_t instructions;
  const struct mch_bytecode_constant *constants;
  size_t constant_count;
  const unsigned char *upvalues; /* three bytes each: in the stack?, index, kind */
  size_t upvalue_count;
  const int *outer; /* these as upvalues of the outermost function, from 0; -1: of another one */
  size_t inner;     /* functions directly inside, which come next */
};

static inline uint32_t mch_bytecode_instruction(const unsigned char *code, size_t pc) {
  uint32_t word;
  memcpy(&word, code + 4 * pc, sizeof word);
  return word;
}

/* Call the visitor for each function of a dump, the outer one first. 0: the format is not a known
 * one; what was visited counts for nothing. Raises on memory. */
typedef void (*mch_bytecode_visitor)(lua_State *L, void *ud, const struct mch_bytecode_function *f);
int mch_bytecode_visit(lua_State *L, const void *dump, size_t length, mch_bytecode_visitor visitor,
                       void *ud);

/* Push what lua_dump() writes of the Lua function on top of the stack, without what is there for
 * debugging only. Raises on memory. */
void mch_bytecode_push_dump(lua_State *L);

struct mch_bytecode_part {
  const unsigned char *from, *to;
};

/* Of the outermost function of a dump [0], and of the last one directly inside of it [1]: where
 * they are, and where they say which variables their upvalues are. */
struct mch_bytecode_parts {
  struct mch_bytecode_part functions[2], upvalues[2];
  int upvalue_count; /* of the outermost function */
};

/* Find the parts of a dump. 0: its format is not a known one, or is one whose parts cannot be moved
 * to another dump (5.5). Raises on memory. */
int mch_bytecode_find_parts(lua_State *L, const void *dump, size_t length,
                            struct mch_bytecode_parts *parts);

/* Where the dumped function is defined: its source as Lua names it (not terminated) and its line.
 * 0: not known. Uses no Lua. */
int mch_bytecode_origin(const void *dump, size_t length, const char **source, size_t *source_length,
                        size_t *line);

#endif
