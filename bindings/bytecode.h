/* Runs in: both.
 *
 * Which names a function looks up in its environment, read from the instructions of what lua_dump()
 * writes. Knows Lua 5.4's format and refuses to guess at another. */
#ifndef MCH_BYTECODE_H
#define MCH_BYTECODE_H

#include <lua.h>
#include <stddef.h>

/* Push a table of what the dumped function does with those of its upvalues 1..n for which wanted[i
 * - 1] is not 0, its inner functions included:
 *
 *   uses[i] = {name, name, ..., [name] = true, [0] = whole}
 *
 * whole is true if the code takes the upvalue as a value, or indexes it with a computed key, else
 * nil. Or push false when no such upvalue is used, or true when the format is not the known one.
 * Raises on memory. */
void mch_bytecode_uses(lua_State *L, const void *dump, size_t length, const unsigned char *wanted,
                       int n);

/* Whether the dumped function, or one inside of it, assigns to one of its upvalues; also true when
 * the format is not the known one. Raises on memory. */
int mch_bytecode_assigns(lua_State *L, const void *dump, size_t length);

#endif
