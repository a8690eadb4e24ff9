/* Runs in: both.
 *
 * Huge pages for one allocation: most of the time that a long string or table takes is spent on
 * page faults. */
#ifndef MCH_LARGE_H
#define MCH_LARGE_H

#include <lua.h>

/* An allocator that forwards to the state's own; of what is large the pages are large, too. */
struct mch_large {
  lua_Alloc forward;
  void *ud;
};

/* Put it in the place of the state's own, until the end, which must come before `large` goes: call
 * what may raise in protected mode in between. */
void mch_large_begin(lua_State *L, struct mch_large *large);
void mch_large_end(lua_State *L, struct mch_large *large);

#endif
