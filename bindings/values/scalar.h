/* Runs in: both.
 *
 * Scalars in the format of graph.h, the values that have no parts and refer to nothing: nil,
 * booleans, numbers, light userdata, and short strings where these are not counted as objects. The
 * one place that writes and reads them (number.h has the layout of their numbers). */
#ifndef MCH_SCALAR_H
#define MCH_SCALAR_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "graph.h"
#include "number.h"

/* The longest short string, and the bytes that a scalar takes at most with its tag. */
enum { MCH_SCALAR_LONGEST = 31, MCH_SCALAR_ROOM = 1 + MCH_SCALAR_LONGEST };

static inline size_t mch_scalar_store_bits(unsigned char *to, unsigned tag, uint64_t bits) {
  to[0] = (unsigned char)tag;
  mch_store_u64(to + 1, bits);
  return 9;
}

/* Store the value of this type at a stack index, where there is MCH_NUMBER_ROOM. Returns how many
 * bytes it takes; 0: it is none of these. Strings are not stored here. */
static inline size_t mch_scalar_store(unsigned char *to, lua_State *L, int at, int type) {
  switch (type) {
  case LUA_TNUMBER:
    if (lua_isinteger(L, at))
      return mch_number_store_integer(to, lua_tointegerx(L, at, NULL));
    return mch_scalar_store_bits(to, MCH_TAG_FLOAT,
                                 mch_number_bits_of_float(lua_tonumberx(L, at, NULL)));
  case LUA_TBOOLEAN:
    to[0] = lua_toboolean(L, at) ? MCH_TAG_TRUE : MCH_TAG_FALSE;
    return 1;
  case LUA_TNIL:
    to[0] = MCH_TAG_NIL;
    return 1;
  case LUA_TLIGHTUSERDATA:
    return mch_scalar_store_bits(to, MCH_TAG_LIGHT, (uint64_t)(uintptr_t)lua_touserdata(L, at));
  default:
    return 0;
  }
}

/* Store a string that is not longer than MCH_SCALAR_LONGEST. */
static inline size_t mch_scalar_store_short(unsigned char *to, const char *s, size_t length) {
  to[0] = (unsigned char)(MCH_TAG_SHORT | length);
  memcpy(to + 1, s, length);
  return 1 + length;
}

static inline int mch_scalar_is_short(unsigned tag) {
  return (tag & ~(unsigned)MCH_SCALAR_LONGEST) == MCH_TAG_SHORT;
}

/* How many bytes follow this tag; SIZE_MAX: it is not a scalar's. */
static inline size_t mch_scalar_size(unsigned tag) {
  static const unsigned char sizes[] = {0, 0, 0, 1, 2, 4, 8, 8, 8}; /* from NIL to LIGHT */
  if (tag < MCH_TAG_SMALL)
    return 0;
  if (tag <= MCH_TAG_LIGHT)
    return sizes[tag - MCH_TAG_NIL];
  return mch_scalar_is_short(tag) ? (tag & MCH_SCALAR_LONGEST) : SIZE_MAX;
}

/* Push the scalar with this tag, whose bytes are at `from`. */
static inline void mch_scalar_push(lua_State *L, unsigned tag, const unsigned char *from) {
  switch (tag) {
  case MCH_TAG_NIL:
    lua_pushnil(L);
    break;
  case MCH_TAG_FALSE:
  case MCH_TAG_TRUE:
    lua_pushboolean(L, tag == MCH_TAG_TRUE);
    break;
  case MCH_TAG_INT1:
  case MCH_TAG_INT2:
  case MCH_TAG_INT4:
  case MCH_TAG_INT8:
    lua_pushinteger(L, (lua_Integer)mch_number_load_integer(tag, from));
    break;
  case MCH_TAG_FLOAT:
    lua_pushnumber(L, mch_number_float(mch_load_u64(from)));
    break;
  case MCH_TAG_LIGHT:
    lua_pushlightuserdata(L, (void *)(uintptr_t)mch_load_u64(from));
    break;
  default:
    if (tag < MCH_TAG_SMALL)
      lua_pushinteger(L, (lua_Integer)tag);
    else
      lua_pushlstring(L, (const char *)from, tag & MCH_SCALAR_LONGEST);
  }
}

#endif
