/* Runs in: both.
 *
 * What lua_dump() writes, read: which names a function looks up in its environment, whether it
 * assigns to its upvalues, and what lies where. Knows the formats of Lua 5.4 and 5.5, whichever
 * it runs in, and refuses to guess at another. */
#ifndef MCH_BYTECODE_H
#define MCH_BYTECODE_H

#include <lua.h>
#include <stddef.h>

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
 * 0: not known, or not without more work (5.5). Uses no Lua. */
int mch_bytecode_origin(const void *dump, size_t length, const char **source, size_t *source_length,
                        size_t *line);

#endif
