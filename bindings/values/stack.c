/* Runs in: both. Purpose: stack.h. */
#include "stack.h"

#include <lauxlib.h>
#include <string.h>

#define HEAP_NAME "mantichora.heap"
#define HEAP_KEPT "mantichora.heap.kept" /* one that nobody uses */

/* Move the lowest piece into a table. What is left is long enough that the walk can go up and down
 * for a while before the next piece moves. */
void mch_stack_spill(struct mch_stack *s) {
  lua_State *L = s->L;
  int i;
  if (lua_isnil(L, s->spills)) {
    lua_newtable(L);
    lua_replace(L, s->spills);
  }
  lua_createtable(L, MCH_STACK_PIECE, 0);
  for (i = 0; i < MCH_STACK_PIECE; i++) {
    lua_pushvalue(L, s->base + i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_rawseti(L, s->spills, (lua_Integer)s->pieces + 1);
  lua_rotate(L, s->base, -MCH_STACK_PIECE);
  lua_pop(L, MCH_STACK_PIECE);
  s->pieces++;
}

void mch_stack_unspill(struct mch_stack *s) {
  lua_State *L = s->L;
  int i, piece;
  luaL_checkstack(L, MCH_STACK_PIECE + MCH_STACK_ROOM, "value is nested too deeply");
  lua_rawgeti(L, s->spills, (lua_Integer)s->pieces);
  piece = lua_gettop(L);
  for (i = 0; i < MCH_STACK_PIECE; i++)
    lua_rawgeti(L, piece, i + 1);
  lua_remove(L, piece);
  lua_rotate(L, s->base, MCH_STACK_PIECE);
  lua_pushnil(L);
  lua_rawseti(L, s->spills, (lua_Integer)s->pieces);
  s->pieces--;
}

void mch_stack_check(struct mch_stack *s) {
  enum { AHEAD = 4 * MCH_STACK_ROOM };
  luaL_checkstack(s->L, AHEAD, "too many values");
  s->checked = lua_gettop(s->L) + AHEAD;
}

static int free_heap(lua_State *L) {
  struct mch_heap *heap = lua_touserdata(L, 1);
  int i;
  for (i = 0; i < MCH_HEAP_ARRAYS; i++)
    mch_buf_free(&heap->arrays[i]);
  return 0;
}

static struct mch_heap *make_heap(lua_State *L, int slot) {
  struct mch_heap *heap;
  if (lua_getfield(L, LUA_REGISTRYINDEX, HEAP_KEPT) == LUA_TUSERDATA) {
    heap = lua_touserdata(L, -1);
    lua_replace(L, slot);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, HEAP_KEPT);
    return heap;
  }
  lua_pop(L, 1);
  heap = lua_newuserdatauv(L, sizeof *heap, 0);
  memset(heap, 0, sizeof *heap);
  if (luaL_getmetatable(L, HEAP_NAME) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, free_heap);
    lua_setfield(L, -2, "__gc");
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, HEAP_NAME);
  }
  lua_setmetatable(L, -2);
  lua_replace(L, slot);
  return heap;
}

struct mch_buf *mch_heap_buf(lua_State *L, int slot, int which) {
  struct mch_heap *heap = lua_touserdata(L, slot);
  if (heap == NULL)
    heap = make_heap(L, slot);
  return &heap->arrays[which];
}

void mch_array_grow(lua_State *L, struct mch_array *array, size_t size, size_t more, int slot,
                    int which) {
  struct mch_buf *heap = array->heap;
  size_t used = array->count * size;
  if (heap == NULL) {
    heap = mch_heap_buf(L, slot, which);
    mch_buf_append(heap, array->elements, used);
  }
  heap->length = used;
  mch_buf_reserve(heap, more * size);
  if (heap->failed != 0)
    luaL_error(L, "not enough memory");
  array->heap = heap;
  array->elements = heap->data;
  array->capacity = heap->capacity / size;
}

void mch_heap_release(lua_State *L, int slot) {
  enum { WORTH_KEEPING = 1 << 20 };
  struct mch_heap *heap = lua_touserdata(L, slot);
  int i;
  if (heap == NULL)
    return;
  for (i = 0; i < MCH_HEAP_ARRAYS; i++)
    mch_buf_shrink(&heap->arrays[i], WORTH_KEEPING);
  if (heap->slots > heap->arrays[MCH_HEAP_SLOTS].capacity / sizeof(uint32_t))
    heap->slots = heap->arrays[MCH_HEAP_SLOTS].capacity / sizeof(uint32_t);
  lua_pushvalue(L, slot);
  lua_setfield(L, LUA_REGISTRYINDEX, HEAP_KEPT);
}
