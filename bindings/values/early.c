/* Runs in: both. Purpose: early.h. */
#include "early.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>

#include "number.h"

/* For a table that says it will be long, room is made for so many elements per byte of its first
 * piece; then it grows as it fills. */
enum { ROOM_PER_BYTE = 24 };

/* A piece that is being read. */
struct piece {
  lua_State *L;
  const unsigned char *at, *end;
  lua_Integer table; /* its number */
  uint64_t array;
};

_Noreturn static void malformed(struct piece *piece) {
  luaL_error(piece->L, "malformed message: bad piece");
  abort(); /* not reached */
}

static uint64_t take_varint(struct piece *piece) {
  uint64_t value;
  if (mch_number_load_varint(&piece->at, piece->end, &value) != NULL)
    malformed(piece);
  return value;
}

static struct piece begin(lua_State *L, const unsigned char *bytes, size_t len) {
  struct piece piece = {L, bytes, bytes + len, 0, 0};
  uint64_t table = take_varint(&piece);
  piece.array = take_varint(&piece);
  if (table == 0 || table > INT_MAX || piece.array > LUA_MAXINTEGER)
    malformed(&piece);
  piece.table = (lua_Integer)table;
  return piece;
}

int mch_early_is_ready(lua_State *L, int list, const unsigned char *bytes, size_t len) {
  struct piece piece = begin(L, bytes, len);
  uint64_t room = len < INT_MAX / ROOM_PER_BYTE ? len * ROOM_PER_BYTE : INT_MAX;
  int is_ready = lua_rawgeti(L, list, piece.table) != LUA_TNIL;
  lua_pop(L, 1);
  if (is_ready)
    return 1;
  lua_createtable(L, (int)(piece.array < room ? piece.array : room), 0);
  if (lua_rawgeti(L, list, piece.table) == LUA_TNIL) { /* a finalizer may have brought us here */
    lua_pushvalue(L, -2);
    lua_rawseti(L, list, piece.table);
    lua_pushinteger(L, 0);
    lua_rawseti(L, list, -piece.table);
  }
  lua_pop(L, 2);
  return 0;
}

/* Store the next run behind element `last`; returns the last one then. */
static uint64_t store_run(struct piece *piece, int table, uint64_t last) {
  unsigned tag = *piece->at++;
  uint64_t n = take_varint(piece);
  size_t width;
  if (tag < MCH_TAG_RUN1 || tag > MCH_TAG_RUNF)
    malformed(piece);
  width = mch_number_run_width(tag);
  if (n > piece->array - last || n > (size_t)(piece->end - piece->at) / width)
    malformed(piece);
  mch_number_store_run(piece->L, table, (lua_Integer)last, tag, piece->at, (size_t)n);
  piece->at += (size_t)n * width;
  return last + n;
}

void mch_early_store(lua_State *L, int list, const unsigned char *bytes, size_t len) {
  struct piece piece = begin(L, bytes, len);
  uint64_t last;
  int table;
  if (lua_rawgeti(L, list, piece.table) != LUA_TTABLE)
    malformed(&piece);
  table = lua_gettop(L);
  lua_rawgeti(L, list, -piece.table);
  last = (uint64_t)lua_tointeger(L, -1);
  if (last > piece.array)
    malformed(&piece);
  while (piece.at < piece.end)
    last = store_run(&piece, table, last);
  lua_pushinteger(L, (lua_Integer)last);
  lua_rawseti(L, list, -piece.table);
  lua_settop(L, table - 1);
}

int mch_early_take(lua_State *L, int list, uint64_t k, uint64_t count) {
  int complete;
  if (k == 0 || k > INT_MAX)
    return 0;
  lua_rawgeti(L, list, -(lua_Integer)k);
  complete = (uint64_t)lua_tointeger(L, -1) == count;
  lua_pop(L, 1);
  if (!complete)
    return 0;
  if (lua_rawgeti(L, list, (lua_Integer)k) != LUA_TTABLE) {
    lua_pop(L, 1);
    return 0;
  }
  lua_pushnil(L);
  lua_rawseti(L, list, (lua_Integer)k);
  return 1;
}
