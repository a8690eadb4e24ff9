/* Runs in: both. Purpose: items.h. */
#include "items.h"

#include <lauxlib.h>
#include <string.h>

#include "scalar.h"

enum { ROOM = 3 + MCH_SCALAR_ROOM, POPPED_AT_ONCE = 16 };

/* -- scalars ------------------------------------------------------------------------------- */

static size_t store(unsigned char *to, lua_State *L, int index) {
  int type = lua_type(L, index);
  size_t length;
  const char *string;
  if (type != LUA_TSTRING)
    return mch_scalar_store(to, L, index, type);
  string = lua_tolstring(L, index, &length);
  return length <= MCH_SCALAR_LONGEST ? mch_scalar_store_short(to, string, length) : 0;
}

/* What is around a value of this length at to + 2; the length of the message. */
static inline size_t enclose(unsigned char *to, size_t length) {
  to[0] = MCH_GRAPH_VERSION;
  to[1] = 1;
  to[2 + length] = MCH_TAG_END;
  return length + 3;
}

/* Write the message to `to`, where there is ROOM; its length, or 0. */
static size_t write_message(unsigned char *to, lua_State *L, int index) {
  size_t length = store(to + 2, L, index);
  return length > 0 ? enclose(to, length) : 0;
}

/* Whoever tries again, where this says no, says so. */
static int has_room(struct mch_buf *out, size_t room) {
  if (out->capacity - out->length >= room || mch_buf_reserve(out, room) == 0)
    return 1;
  out->failed = 0;
  return 0;
}

int mch_items_put(struct mch_buf *out, lua_State *L, int index) {
  size_t length = has_room(out, ROOM) ? write_message(out->data + out->length, L, index) : 0;
  out->length += length;
  return length > 0;
}

size_t mch_items_put_integers(struct mch_buf *out, size_t full, lua_State *L, int table,
                              lua_Integer from, size_t most) {
  int top = lua_gettop(L), i = 0;
  size_t count;
  luaL_checkstack(L, POPPED_AT_ONCE, NULL);
  for (count = 0; count < most && out->length < full && has_room(out, 4 + ROOM); count++) {
    unsigned char *to = out->data + out->length;
    size_t length;
    if (i == POPPED_AT_ONCE) {
      lua_settop(L, top);
      i = 0;
    }
    lua_rawgeti(L, table, from + (lua_Integer)count);
    i++;
    if (!lua_isinteger(L, -1))
      break;
    length = enclose(to + 4, mch_number_store_integer(to + 6, lua_tointeger(L, -1)));
    mch_store_u32(to, (uint32_t)length);
    out->length += 4 + length;
  }
  lua_settop(L, top);
  return count;
}

int mch_items_put_sized(struct mch_buf *out, lua_State *L, int index) {
  unsigned char *to;
  size_t length;
  if (!has_room(out, 4 + ROOM))
    return 0;
  to = out->data + out->length;
  length = write_message(to + 4, L, index);
  if (length == 0)
    return 0;
  mch_store_u32(to, (uint32_t)length);
  out->length += 4 + length;
  return 1;
}

int mch_items_put_none(struct mch_buf *out) {
  static const unsigned char none[] = {MCH_GRAPH_VERSION, 0, MCH_TAG_END};
  mch_buf_append(out, none, sizeof none);
  return out->failed == 0;
}

int mch_items_is_none(const unsigned char *bytes, size_t length) {
  return length == 3 && bytes[0] == MCH_GRAPH_VERSION && bytes[1] == 0 && bytes[2] == MCH_TAG_END;
}

int mch_items_get(lua_State *L, const unsigned char *bytes, size_t length) {
  if (length < 4 || length > ROOM || bytes[0] != MCH_GRAPH_VERSION || bytes[1] != 1 ||
      bytes[length - 1] != MCH_TAG_END)
    return 0;
  if (mch_scalar_size(bytes[2]) != length - 4)
    return 0;
  mch_scalar_push(L, bytes[2], bytes + 3);
  return 1;
}

int mch_items_is_safe(const unsigned char *bytes, size_t length) {
  return length >= 4 && bytes[0] == MCH_GRAPH_VERSION && bytes[1] == 1 &&
         !mch_scalar_is_short(bytes[2]);
}
