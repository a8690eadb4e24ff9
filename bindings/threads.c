/* Runs in: both. Purpose: threads.h. */
#include "threads.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Marks a place of the set whose thread has gone. */
#define GONE ((lua_State *)(void *)&gone_mark)
static const char gone_mark = 0;

/* A thread's state stands behind its extra space, in every Lua 5.4. */
static lua_State *thread_in(void *block) {
  return (lua_State *)(void *)((char *)block + LUA_EXTRASPACE);
}

static int lives(const struct mch_thread *thread) {
  return thread->L != NULL && thread->L != GONE;
}

static size_t place_of(const lua_State *L, size_t room) {
  uintptr_t bits = (uintptr_t)L;
  return (size_t)((bits >> 4 ^ bits >> 12) * 0x9e3779b1u) & (room - 1);
}

static struct mch_thread *insert(struct mch_thread *places, size_t room, lua_State *L) {
  size_t at = place_of(L, room);
  while (places[at].L != NULL)
    at = (at + 1) & (room - 1);
  places[at].L = L;
  return &places[at];
}

/* Keep at most half of the places used. Without memory for that, a hook reaches fewer threads. */
static int reserve(struct mch_threads *set) {
  size_t room = set->room == 0 ? 16 : set->room, i;
  struct mch_thread *places;
  if (set->used * 2 < set->room)
    return 1;
  while (room < (set->count + 1) * 4)
    room *= 2;
  places = calloc(room, sizeof *places);
  if (places == NULL)
    return 0;
  for (i = 0; i < set->room; i++)
    if (lives(&set->places[i]))
      *insert(places, room, set->places[i].L) = set->places[i];
  free(set->places);
  set->places = places;
  set->room = room;
  set->used = set->count;
  return 1;
}

void mch_threads_add(struct mch_threads *set, void *block, size_t size) {
  memset(block, 0, size);
  set->changing = 1;
  set->thread_size = size;
  if (reserve(set)) {
    insert(set->places, set->room, thread_in(block));
    set->count++;
    set->used++;
  }
  set->changing = 0;
}

void mch_threads_drop(struct mch_threads *set, void *block) {
  struct mch_thread *thread;
  set->changing = 1;
  thread = mch_threads_find(set, thread_in(block));
  if (thread != NULL) {
    thread->L = GONE;
    set->count--;
  }
  set->changing = 0;
}

struct mch_thread *mch_threads_find(struct mch_threads *set, const lua_State *L) {
  size_t at;
  if (set->room == 0)
    return NULL;
  for (at = place_of(L, set->room); set->places[at].L != NULL; at = (at + 1) & (set->room - 1))
    if (set->places[at].L == L)
      return &set->places[at];
  return NULL;
}

struct mch_thread *mch_threads_next(struct mch_threads *set, size_t *at) {
  while (*at < set->room) {
    struct mch_thread *thread = &set->places[(*at)++];
    if (lives(thread))
      return thread;
  }
  return NULL;
}

void mch_threads_free(struct mch_threads *set) {
  free(set->places);
  memset(set, 0, sizeof *set);
}
