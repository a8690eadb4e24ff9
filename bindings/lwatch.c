/* Runs in: child only. Purpose: lwatch.h. */
#include "lwatch.h"

#include <lauxlib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/platform.h"

/* Marks a place of the set whose thread has gone. */
#define GONE ((lua_State *)(void *)&gone_mark)
static const char gone_mark = 0;

/* -- stopping ----------------------------------------------------------------------------- */

static void stop_hook(lua_State *L, lua_Debug *event) {
  (void)event;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "task stopped");
}

static void set_hook(lua_State *L) {
  lua_sethook(L, stop_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void mch_lwatch_interrupt(struct mch_lwatch *watch) {
  size_t i;
  if (watch->changing) {
    watch->missed = 1;
    return;
  }
  watch->hooked = 1;
  set_hook(watch->main);
  for (i = 0; i < watch->room; i++)
    if (watch->threads[i] != NULL && watch->threads[i] != GONE)
      set_hook(watch->threads[i]);
}

static void clear_hook(lua_State *L) {
  if (lua_gethook(L) == stop_hook)
    lua_sethook(L, NULL, 0, 0);
}

void mch_lwatch_calm(struct mch_lwatch *watch) {
  size_t i;
  if (!watch->hooked)
    return;
  watch->hooked = 0;
  clear_hook(watch->main);
  for (i = 0; i < watch->room; i++)
    if (watch->threads[i] != NULL && watch->threads[i] != GONE)
      clear_hook(watch->threads[i]);
}

/* -- the set of threads ------------------------------------------------------------------- */

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

/* Keep at most half of the places used. Without memory for that, a stop reaches fewer threads. */
static int reserve(struct mch_lwatch *watch) {
  size_t room = watch->room == 0 ? 16 : watch->room, i;
  lua_State **threads;
  if (watch->used * 2 < watch->room)
    return 1;
  while (room < (watch->count + 1) * 4)
    room *= 2;
  threads = calloc(room, sizeof *threads);
  if (threads == NULL)
    return 0;
  for (i = 0; i < watch->room; i++)
    if (watch->threads[i] != NULL && watch->threads[i] != GONE)
      insert(threads, room, watch->threads[i]);
  free(watch->threads);
  watch->threads = threads;
  watch->room = room;
  watch->used = watch->count;
  return 1;
}

/* A change of the set, safe against the signal that reads it. */
static void begin_change(struct mch_lwatch *watch) {
  watch->changing = 1;
}

static void end_change(struct mch_lwatch *watch) {
  watch->changing = 0;
  if (watch->missed) {
    watch->missed = 0;
    mch_lwatch_interrupt(watch);
  }
}

/* A thread's state stands behind its extra space, in every Lua 5.4. It is zeroed, so that a hook
 * can be set on it before Lua has filled it in. */
static void add_thread(struct mch_lwatch *watch, void *block, size_t size) {
  memset(block, 0, size);
  begin_change(watch);
  watch->thread_size = size;
  if (reserve(watch)) {
    insert(watch->threads, watch->room, (lua_State *)(void *)((char *)block + LUA_EXTRASPACE));
    watch->count++;
    watch->used++;
  }
  end_change(watch);
}

static void remove_thread(struct mch_lwatch *watch, void *block) {
  lua_State *thread = (lua_State *)(void *)((char *)block + LUA_EXTRASPACE);
  size_t at;
  if (watch->room == 0)
    return;
  begin_change(watch);
  for (at = place_of(thread, watch->room); watch->threads[at] != NULL;
       at = (at + 1) & (watch->room - 1))
    if (watch->threads[at] == thread) {
      watch->threads[at] = GONE;
      watch->count--;
      break;
    }
  end_change(watch);
}

/* -- the allocator ------------------------------------------------------------------------ */

/* Count a change of size; memory from before the installation may be given back too. */
static void account(struct mch_lwatch *watch, size_t from, size_t to) {
  if (to >= from)
    watch->added += to - from;
  else
    watch->added -= watch->added < from - to ? watch->added : from - to;
}

static void *allocate(void *ud, void *block, size_t osize, size_t nsize) {
  struct mch_lwatch *watch = ud;
  size_t from = block != NULL ? osize : 0;
  void *result;
  if (nsize > from && watch->limit > 0 && watch->added + (nsize - from) > watch->limit)
    return NULL;
  if (block != NULL && nsize == 0 && osize == watch->thread_size && osize != 0)
    remove_thread(watch, block);
  result = watch->forward(watch->forward_ud, block, osize, nsize);
  if (result != NULL || nsize == 0)
    account(watch, from, nsize);
  if (result != NULL && block == NULL && osize == LUA_TTHREAD)
    add_thread(watch, result, nsize);
  if (result != NULL && nsize > from)
    mch_platform_use_large_pages((char *)result + from, nsize - from);
  if (watch->added >= watch->due && nsize > from)
    watch->when_due(watch, watch->due_ud);
  return result;
}

void mch_lwatch_install(struct mch_lwatch *watch, lua_State *L, lua_State *main, size_t limit) {
  memset(watch, 0, sizeof *watch);
  watch->main = main;
  watch->limit = limit;
  watch->due = SIZE_MAX;
  watch->forward = lua_getallocf(L, &watch->forward_ud);
  lua_setallocf(L, allocate, watch);
}
