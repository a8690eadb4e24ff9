/* Runs in: both.
 *
 * Code that comes again and again. A loop that runs tasks makes a new closure for each of them, all
 * of the same code, and Lua knows neither: that two functions have the same code, nor how to make
 * another closure of code that it has loaded. Three things make up for that, one at each end of the
 * way and one between them:
 *
 *   parent                         the wire                worker
 *   struct mch_code_memory         dictionary              factories
 *   Is it the code that went       The bytes go once, as   A function that returns a new closure
 *   last? Then its id is known,    CODE (codes.h), then    of the code. Made the second time the
 *   and nothing is looked up.      by an id of 4 bytes.    code comes, by its id.
 *
 * The memory. To know a function's code is to dump it. lua_dump() calls a writer in many small
 * pieces; one that compares them with the bytes at hand and stops at the first difference needs
 * neither a buffer nor a hash. A function that is met again itself (a task function that is run
 * many times) is found in the baseline by its identity, MCH_BASELINE_CODES, before it is dumped:
 * but where each function is a new one that search and the entry are waste, so after some that were
 * new only a sample is looked for and remembered, to see when that changes.
 *
 * The factories. lua_load() allocates all of a function: its prototype, constants, names, lines. A
 * Lua function that contains it as its only inner function allocates a closure and its variables
 * when it is called, and no more. Such a function is not to be had from the source, which the
 * worker has not, so it is made from bytecode: the compiler makes one around a function that does
 * nothing but have as many upvalues, `local v0, v1 return function() return v0, v1 end`, and in its
 * dump the inner function is replaced by the one at hand. Where the inner function finds its
 * upvalues stays as the compiler wrote it: in the variables of the outer one, in their order. What
 * lies where in a dump is known to bytecode.c, which refuses a format that it does not know: then
 * there is no factory, and the code is loaded each time.
 *
 * Both change nothing but time. Measured by scripts/bench/closures.lua and codec.lua. */
#ifndef MCH_CODE_H
#define MCH_CODE_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"

/* What the caller keeps between messages about functions. Zero it, then leave it alone. */
struct mch_code_memory {
  unsigned fresh;    /* functions since one was met again */
  uint32_t id;       /* of the code that went last, or 0 */
  const char *bytes; /* the dictionary's */
  size_t length;
};

/* Write the Lua function on top of the stack to `dump`, with what is there for debugging. 0: there
 * was no memory. */
int mch_code_dump(lua_State *L, struct mch_buf *dump);

/* Is the next function one to look for, and to remember, by itself? `memory` may be NULL. */
int mch_code_is_sample(const struct mch_code_memory *memory);

/* Is the code of the Lua function on top of the stack that which went last? */
int mch_code_is_last(lua_State *L, const struct mch_code_memory *memory);

/* The dictionary has these bytes: code that will have gone last when mch_code_went() has its id. */
void mch_code_goes(struct mch_code_memory *memory, const char *bytes, size_t length);
void mch_code_went(struct mch_code_memory *memory, uint32_t id);

/* A function went by value; `is_known`: it was found by itself. */
void mch_code_count(struct mch_code_memory *memory, int is_known);

/* Push a new closure of the code with this id and these bytes, with upvalues of its own that are
 * nil, and return 1; 0: load it. `factories`: stack index of a table that the caller keeps, one for
 * all messages of a dictionary, in which the second call makes a factory. Raises on memory. */
int mch_code_push_closure(lua_State *L, int factories, uint32_t id, const char *bytes,
                          size_t length);

#endif
