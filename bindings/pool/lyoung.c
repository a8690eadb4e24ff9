/* Runs in: both (in the parent only mch_parent_heap_*). Purpose: lyoung.h. */
#include "lyoung.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdint.h>

enum {
  LARGE_HEAP_KB = 64 * 1024,
  NEWS_KB = 4 * 1024,     /* what the parent may add before it is made old, too */
  AGES = 3,               /* collections after which what is new is old */
  MOST_PERCENT = 250,     /* Lua keeps the two limits in a byte, */
  MOST_FOURFOLD = 255 * 4 /* the other as a quarter */
};

#define MIB ((size_t)1 << 20)

#if LUA_VERSION_NUM >= 505
#define NO_STEP ((size_t)0)
#else
#define NO_STEP 0
#endif

/* -- in the parent ------------------------------------------------------------------------ */

static int ask_collector(lua_State *L) {
  int *is_refused = *(int **)lua_touserdata(L, 1);
  *is_refused = lua_gc(L, LUA_GCCOUNT) < 0;
  return 0;
}

/* Called with where to answer. */
static int make_asker(lua_State *L) {
  int *is_refused = lua_touserdata(L, 1);
  *(int **)lua_newuserdatauv(L, sizeof is_refused, 0) = is_refused;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, ask_collector);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  return 0;
}

/* Before Lua 5.4.4 generational collection was not sound. No number tells the release at run time,
 * but since then a finalizer cannot use the collector; a state of its own, with one object, shows
 * it. */
static int can_be_generational(void) {
  int is_refused = 0;
  lua_State *probe = luaL_newstate();
  if (probe == NULL)
    return 0;
  lua_pushcfunction(probe, make_asker);
  lua_pushlightuserdata(probe, &is_refused);
  if (lua_pcall(probe, 1, 0, 0) != LUA_OK)
    lua_pop(probe, 1);
  lua_close(probe);
  return is_refused;
}

static int see_major(lua_State *L) {
  struct mch_young *young = *(struct mch_young **)lua_touserdata(L, 1);
  if (young != NULL)
    young->major = 1;
  return 0;
}

/* Push a userdata that holds a pointer and is finalized by `f`. */
static struct mch_young **push_witness(lua_State *L, lua_CFunction f) {
  struct mch_young **witness = lua_newuserdatauv(L, sizeof *witness, 0);
  *witness = NULL;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, f);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  return witness;
}

static size_t heap_size(lua_State *L) {
  return (size_t)lua_gc(L, LUA_GCCOUNT) * 1024;
}

/* What is new becomes old, so that collections in workers do not touch it. */
static void make_old(lua_State *L, struct mch_parent_heap *heap) {
  int i;
  for (i = 0; i < AGES; i++)
    lua_gc(L, LUA_GCSTEP, NO_STEP);
  heap->size = heap_size(L);
}

/* Enter generational collection, anew if this state has it already: a major collection is due when
 * the heap has grown by so much since the last one, and would come in each worker. Returns the mode
 * that it had. */
static int enter(lua_State *L, struct mch_parent_heap *heap) {
  int former = lua_gc(L, LUA_GCINC, 0, 0, 0);
  lua_gc(L, LUA_GCGEN, 0, 0);
  heap->base = heap_size(L);
  return former;
}

void mch_parent_heap_prepare(lua_State *L, struct mch_parent_heap *heap) {
  if (lua_gc(L, LUA_GCCOUNT) < LARGE_HEAP_KB || !can_be_generational())
    return;
  push_witness(L, see_major);
  heap->old = luaL_ref(L, LUA_REGISTRYINDEX);
  heap->was_young = enter(L, heap) == LUA_GCGEN;
  make_old(L, heap);
}

/* To say once more that it is generational costs nothing where it is as it should be. Where it is
 * not (another pool has closed, a structure was built that its major collections could not make
 * smaller) the first collection in each worker would walk through all. */
void mch_parent_heap_renew(lua_State *L, struct mch_parent_heap *heap) {
  if (heap->size == 0 || lua_gc(L, LUA_GCISRUNNING) != 1)
    return;
  if (heap_size(L) > heap->base * 4)
    enter(L, heap);
  lua_gc(L, LUA_GCGEN, 0, 0);
  if (heap_size(L) > heap->size + NEWS_KB * 1024)
    make_old(L, heap);
}

void mch_parent_heap_restore(lua_State *L, struct mch_parent_heap *heap) {
  if (heap->size == 0)
    return;
  luaL_unref(L, LUA_REGISTRYINDEX, heap->old);
  heap->size = 0;
  if (!heap->was_young)
    lua_gc(L, LUA_GCINC, 0, 0, 0);
}

/* -- in a worker: when to collect --------------------------------------------------------- */

static size_t larger(size_t a, size_t b) {
  return a > b ? a : b;
}

/* How much may be there when the next collection is made. What is wasted for a structure is in
 * proportion to it; small garbage alone is collected often. */
static size_t due_after(const struct mch_young *young, size_t left) {
  size_t small = young->least / 2, slack = 0, limit = young->watch->limit;
  size_t most = left + larger(young->volume, young->structure + young->structure / 5);
  if (young->structure > small)
    slack = (young->structure - small) * 8;
  if (slack > young->slack)
    slack = young->slack;
  most = larger(most, slack + young->structure / 10 * 21);
  if (limit > left && most > left + (limit - left) / 2)
    most = left + (limit - left) / 2; /* before memory is short */
  return most;
}

static void forget(struct mch_young *young) {
  young->structure -= young->structure / 32;
  young->volume = larger(young->least, young->volume - young->volume / 32);
  young->rested = 0;
}

/* A collection has left so much. What there is more than at the last one is new and lives. If that
 * is much of what was made since, and was so the last time, then something that is being built has
 * met two collections, and will stay for ever with all that it comes to hold: there shall be fewer.
 */
static void learn(struct mch_young *young, size_t left) {
  size_t built = left > young->left ? left - young->left : 0;
  int grows = built > young->room / 3;
  if (young->rested)
    forget(young);
  young->structure = larger(built, young->structure);
  if (grows && young->grows)
    young->volume = larger(young->volume, young->room / 4 * 7);
  young->grows = grows;
  young->watch->due = due_after(young, left);
  young->room = young->watch->due - left;
  young->left = left;
}

static int see_collection(lua_State *L);

static void arm(lua_State *L, struct mch_young *young) {
  young->armed = 0;
  *push_witness(L, see_collection) = young;
  lua_pop(L, 1);
  young->armed = 1;
}

/* The finalizer of garbage is called at the end of each collection, where what it may not do is to
 * use the collector. */
static int see_collection(lua_State *L) {
  struct mch_young *young = *(struct mch_young **)lua_touserdata(L, 1);
  learn(young, young->watch->added);
  arm(L, young);
  return 0;
}

/* Called by the allocator: the next time that Lua looks it makes a collection, unless the user has
 * stopped that. Neither call does more than to set numbers. */
static void demand(struct mch_lwatch *watch, void *ud) {
  const struct mch_young *young = ud;
  watch->due = watch->added + young->least; /* should this one not come */
  if (lua_gc(watch->main.L, LUA_GCISRUNNING) == 1)
    lua_gc(watch->main.L, LUA_GCRESTART);
}

static size_t between(size_t value, size_t least, size_t most) {
  return value < least ? least : value > most ? most : value;
}

/* Lua's own limits shall not be met: that of minor collections is in percent of the heap, mostly
 * inherited. A major collection comes when the worker has added as much as it would copy. */
static void set_limits(lua_State *L, const struct mch_parent_heap *heap) {
  size_t grown = heap->size > heap->base ? heap->size - heap->base : 0;
  size_t most = grown + larger(heap->size, 450 * MIB);
  int percent = (int)between(most / (heap->base / 100), 100, MOST_FOURFOLD);
#if LUA_VERSION_NUM >= 505
  lua_gc(L, LUA_GCPARAM, LUA_GCPMINORMUL, MOST_PERCENT);
  lua_gc(L, LUA_GCPARAM, LUA_GCPMINORMAJOR, percent);
#else
  lua_gc(L, LUA_GCGEN, MOST_PERCENT, percent);
#endif
}

void mch_young_begin(lua_State *L, struct mch_young *young, const struct mch_parent_heap *heap,
                     struct mch_lwatch *watch) {
  size_t share;
  if (heap->size == 0)
    return;
  share = heap->size / 16 / (size_t)heap->nworkers;
  young->least = between(share, MIB, 4 * MIB);
  young->slack = heap->size / 5 / (size_t)heap->nworkers;
  young->room = young->volume = young->least;
  young->left = watch->added;
  young->spare = between(share, 4 * MIB, 64 * MIB);
  set_limits(L, heap);
  lua_rawgeti(L, LUA_REGISTRYINDEX, heap->old);
  *(struct mch_young **)lua_touserdata(L, -1) = young;
  lua_pop(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, heap->old);
  young->watch = watch;
  arm(L, young);
  watch->when_due = demand;
  watch->due_ud = young;
  watch->due = watch->added + young->least;
}

/* -- in a worker: when to leave ----------------------------------------------------------- */

void mch_young_forgive(struct mch_young *young) {
  young->major = 0;
}

/* What the first task leaves may be what it has loaded for all. */
static void settle(lua_State *L, struct mch_young *young) {
  young->settled = 1;
  if (young->watch->added > young->spare)
    lua_gc(L, LUA_GCSTEP, NO_STEP);
  young->base = young->watch->added;
  young->check = young->base + young->spare;
}

static int arm_again(lua_State *L) {
  arm(L, lua_touserdata(L, 1));
  return 0;
}

int mch_young_is_spent(lua_State *L, struct mch_young *young) {
  if (young->watch == NULL)
    return 0;
  if (!young->armed) { /* there was no memory */
    lua_pushcfunction(L, arm_again);
    lua_pushlightuserdata(L, young);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK)
      lua_pop(L, 1);
  }
  if (!young->settled)
    settle(L, young);
  young->rested = 1;
  if (young->watch->added <= young->check || young->major)
    return young->major;
  lua_gc(L, LUA_GCSTEP, NO_STEP);
  if (young->watch->added > young->base + young->spare)
    return 1;
  young->check = young->watch->added + young->spare / 2;
  return 0;
}
