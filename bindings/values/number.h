/* Runs in: both.
 *
 * Numbers in the format of graph.h: the one place that knows how they are laid out. */
#ifndef MCH_NUMBER_H
#define MCH_NUMBER_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "graph.h"

/* The bytes that a number takes at most, with its tag; that a varint takes at most. */
enum { MCH_NUMBER_ROOM = 9, MCH_NUMBER_VARINT = 10 };

/* Store an integer with its tag; returns how many bytes it takes. */
static inline size_t mch_number_store_integer(unsigned char *to, lua_Integer value) {
  uint64_t bits = (uint64_t)value;
  if (value >= 0 && value < MCH_TAG_SMALL) {
    to[0] = (unsigned char)value;
    return 1;
  }
  if (value == (int8_t)value) {
    to[0] = MCH_TAG_INT1;
    to[1] = (unsigned char)bits;
    return 2;
  }
  if (value == (int16_t)value) {
    to[0] = MCH_TAG_INT2;
    mch_store_u16(to + 1, (uint16_t)bits);
    return 3;
  }
  if (value == (int32_t)value) {
    to[0] = MCH_TAG_INT4;
    mch_store_u32(to + 1, (uint32_t)bits);
    return 5;
  }
  to[0] = MCH_TAG_INT8;
  mch_store_u64(to + 1, bits);
  return 9;
}

/* Bytes behind the tag of an integer of the sizes INT1 to INT8. */
static inline size_t mch_number_integer_size(unsigned tag) {
  return (size_t)1 << (tag - MCH_TAG_INT1);
}

/* And the integer in them. */
static inline int64_t mch_number_load_integer(unsigned tag, const unsigned char *from) {
  switch (tag) {
  case MCH_TAG_INT1:
    return (int8_t)from[0];
  case MCH_TAG_INT2:
    return (int16_t)mch_load_u16(from);
  case MCH_TAG_INT4:
    return (int32_t)mch_load_u32(from);
  default:
    return (int64_t)mch_load_u64(from);
  }
}

static inline uint64_t mch_number_bits_of_float(lua_Number value) {
  double number = (double)value;
  uint64_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

static inline lua_Number mch_number_float(uint64_t bits) {
  double number;
  memcpy(&number, &bits, sizeof number);
  return (lua_Number)number;
}

enum { MCH_NUMBER_TEXT = 64 };

/* Write a float as text, with a point whatever the locale has. */
static inline void mch_number_print(char to[MCH_NUMBER_TEXT], lua_Number number) {
  char *comma;
  snprintf(to, MCH_NUMBER_TEXT, LUA_NUMBER_FMT, number);
  comma = strchr(to, ',');
  if (comma != NULL)
    *comma = '.';
}

/* Store a varint (graph.h); returns how many bytes it takes, at most MCH_NUMBER_VARINT. */
static inline size_t mch_number_store_varint(unsigned char *to, uint64_t value) {
  size_t n = 0;
  for (; value >= 0x80; value >>= 7)
    to[n++] = (unsigned char)(value | 0x80);
  to[n++] = (unsigned char)value;
  return n;
}

/* Read a varint at *at, which moves behind it, and not past `end`. NULL, or what is wrong
 * with it. */
static inline const char *mch_number_load_varint(const unsigned char **at, const unsigned char *end,
                                                 uint64_t *value) {
  unsigned shift;
  *value = 0;
  for (shift = 0; shift < 64; shift += 7) {
    unsigned char byte;
    if (*at == end)
      return "cut short";
    byte = *(*at)++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80)
      return NULL;
  }
  return "number too long";
}

/* Bytes of each number in a run with this tag. */
static inline size_t mch_number_run_width(unsigned tag) {
  return tag == MCH_TAG_RUNF ? 8 : (size_t)1 << (tag - MCH_TAG_RUN1);
}

/* Store the `n` numbers of such a run into the table at `table`, behind element `last`. */
static inline void mch_number_store_run(lua_State *L, int table, lua_Integer last, unsigned tag,
                                        const unsigned char *bytes, size_t n) {
  size_t width = mch_number_run_width(tag), i;
  for (i = 0; i < n; i++, bytes += width) {
    switch (tag) {
    case MCH_TAG_RUN1:
      lua_pushinteger(L, (int8_t)bytes[0]);
      break;
    case MCH_TAG_RUN2:
      lua_pushinteger(L, (int16_t)mch_load_u16(bytes));
      break;
    case MCH_TAG_RUN4:
      lua_pushinteger(L, (int32_t)mch_load_u32(bytes));
      break;
    case MCH_TAG_RUN8:
      lua_pushinteger(L, (lua_Integer)mch_load_u64(bytes));
      break;
    default:
      lua_pushnumber(L, mch_number_float(mch_load_u64(bytes)));
    }
    lua_rawseti(L, table, ++last);
  }
}

#endif
