/* Runs in: parent. Purpose: coroutines.h. */
#include "bindings/commands/coroutines.h"

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size) {
  struct mch_coroutines *set = ud;
  void *got;
  if (new_size == 0 && block != NULL && mch_threads_is_size(&set->threads, old_size))
    mch_threads_drop(&set->threads, block);
  got = set->forward(set->forward_ud, block, old_size, new_size);
  if (block == NULL && old_size == LUA_TTHREAD && got != NULL)
    mch_threads_add(&set->threads, got, new_size);
  return got;
}

void mch_coroutines_watch(struct mch_coroutines *set, lua_State *L) {
  set->forward = lua_getallocf(L, &set->forward_ud);
  lua_setallocf(L, allocate, set);
}

void mch_coroutines_leave(struct mch_coroutines *set, lua_State *L) {
  lua_setallocf(L, set->forward, set->forward_ud);
  mch_threads_free(&set->threads);
}

int mch_coroutines_set_hook(struct mch_coroutines *set, lua_Hook hook, int mask, int count) {
  const struct mch_thread *thread;
  size_t at = 0;
  if (set->threads.changing)
    return 0;
  while ((thread = mch_threads_next(&set->threads, &at)) != NULL)
    lua_sethook(thread->L, hook, mask, count);
  return 1;
}
