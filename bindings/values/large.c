/* Runs in: both. Purpose: large.h. */
#include "large.h"

#include "runtime/base/platform.h"

static void *allocate(void *ud, void *block, size_t osize, size_t nsize) {
  const struct mch_large *large = ud;
  size_t from = block != NULL ? osize : 0;
  char *result = large->forward(large->ud, block, osize, nsize);
  if (result != NULL && nsize > from)
    mch_platform_use_large_pages(result + from, nsize - from);
  return result;
}

void mch_large_begin(lua_State *L, struct mch_large *large) {
  large->forward = lua_getallocf(L, &large->ud);
  lua_setallocf(L, allocate, large);
}

void mch_large_end(lua_State *L, struct mch_large *large) {
  void *ud;
  if (lua_getallocf(L, &ud) == allocate && ud == large)
    lua_setallocf(L, large->forward, large->ud);
}
