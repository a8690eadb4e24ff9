/* Runs in: parent. Purpose: coroutines.h. */
#include "bindings/commands/coroutines.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Marks a place of the set whose thread has gone. */
#define GONE ((lua_State *)(void *)&gone_mark)
static const char gone_mark = 0;

static size_t place_of(const lua_State *thread, size_t room) {
  uintptr_t bits = (uintptr_t)thread;
  return (size_t)((bits >> 4 ^ bits >> 12) * 0x9e3779b1u) & (room - 1);
}

static void insert(lua_State **threads, size_t room, lua_State *thread) {
  size_t at = place_of(thread, room);
  while (threads[at] != NULL)
    at = (at + 1) & (room - 1);
  threads[at] = thread;
}

/* Keep at most half of the places used. Without memory for that, a hook reaches fewer threads. */
static int reserve(struct mch_coroutines *set) {
  size_t room = set->room == 0 ? 16 : set->room, i;
  lua_State **threads;
  if (set->used * 2 < set->room)
    return 1;
  while (room < (set->count + 1) * 4)
    room *= 2;
  threads = calloc(room, sizeof *threads);
  if (threads == NULL)
    return 0;
  for (i = 0; i < set->room; i++)
    if (set->threads[i] != NULL && set->threads[i] != GONE)
      insert(threads, room, set->threads[i]);
  free(set->threads);
  set->threads = threads;
  set->room = room;
  set->used = set->count;
  return 1;
}

static void add(struct mch_coroutines *set, lua_State *thread) {
  set->changing = 1;
  if (reserve(set)) {
    insert(set->threads, set->room, thread);
    set->count++;
    set->used++;
  }
  set->changing = 0;
}

static void drop(struct mch_coroutines *set, const lua_State *thread) {
  size_t at;
  if (set->room == 0)
    return;
  for (at = place_of(thread, set->room); set->threads[at] != NULL; at = (at + 1) & (set->room - 1))
    if (set->threads[at] == thread) {
      set->threads[at] = GONE;
      set->count--;
      return;
    }
}

/* What Lua knows as a lua_State stands behind the bytes that belong to the program. */
static lua_State *thread_in(void *block) {
  return (lua_State *)(void *)((char *)block + LUA_EXTRASPACE);
}

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size) {
  struct mch_coroutines *set = ud;
  void *got;
  if (new_size == 0 && block != NULL && old_size == set->thread_size)
    drop(set, thread_in(block));
  got = set->forward(set->forward_ud, block, old_size, new_size);
  if (block == NULL && old_size == LUA_TTHREAD && got != NULL) {
    /* Zeroed: a hook may be set on it before Lua has filled it in. */
    memset(got, 0, new_size);
    set->thread_size = new_size;
    add(set, thread_in(got));
  }
  return got;
}

void mch_coroutines_watch(struct mch_coroutines *set, lua_State *L) {
  set->forward = lua_getallocf(L, &set->forward_ud);
  lua_setallocf(L, allocate, set);
}

void mch_coroutines_leave(struct mch_coroutines *set, lua_State *L) {
  lua_setallocf(L, set->forward, set->forward_ud);
  free(set->threads);
  set->threads = NULL;
  set->room = 0;
}

int mch_coroutines_set_hook(struct mch_coroutines *set, lua_Hook hook, int mask, int count) {
  size_t i;
  if (set->changing)
    return 0;
  for (i = 0; i < set->room; i++)
    if (set->threads[i] != NULL && set->threads[i] != GONE)
      lua_sethook(set->threads[i], hook, mask, count);
  return 1;
}
