/* Runs in: both. Purpose: items.h. */
#include "items.h"

#include <lauxlib.h>
#include <string.h>

#include "bytecode.h"
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

/* -- steady functions --------------------------------------------------------------------- */

/* Whether the Lua function on top, or one that it makes, assigns to its upvalues. */
static int assigns(lua_State *L) {
  int function = lua_gettop(L), writes;
  size_t length;
  const char *bytes;
  mch_bytecode_push_dump(L);
  bytes = lua_tolstring(L, -1, &length);
  writes = mch_bytecode_assigns(L, bytes, length);
  lua_settop(L, function);
  return writes;
}

/* Push a set of the tables that go by name: _G and loaded modules. */
static void push_named(lua_State *L) {
  int named;
  lua_newtable(L);
  named = lua_gettop(L);
  lua_pushglobaltable(L);
  lua_pushboolean(L, 1);
  lua_rawset(L, named);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  while (lua_next(L, named + 1) != 0) {
    if (lua_istable(L, -1)) {
      lua_pushboolean(L, 1);
      lua_rawset(L, named);
    } else
      lua_pop(L, 1);
  }
  lua_settop(L, named);
}

/* Whether the value on top, an upvalue, stays as it is. A function is put at the end of the list to
 * be looked at, if it is not there: list[function] is set. */
static int stays(lua_State *L, int named, int list) {
  int known;
  switch (lua_type(L, -1)) {
  case LUA_TNIL:
  case LUA_TBOOLEAN:
  case LUA_TNUMBER:
  case LUA_TSTRING:
    return 1;
  case LUA_TFUNCTION:
    lua_pushvalue(L, -1);
    known = lua_rawget(L, list) != LUA_TNIL;
    lua_pop(L, 1);
    if (known)
      return 1;
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 1);
    lua_rawset(L, list);
    lua_pushvalue(L, -1);
    lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
    return 1;
  case LUA_TTABLE:
    lua_pushvalue(L, -1);
    known = lua_rawget(L, named) != LUA_TNIL;
    lua_pop(L, 1);
    return known;
  default:
    return 0;
  }
}

/* Whether the function on top stays as it is, with its upvalues. */
static int is_steady(lua_State *L, int named, int list) {
  int function = lua_gettop(L), i;
  if (lua_iscfunction(L, function))
    return 1; /* it goes by its name */
  if (assigns(L))
    return 0;
  for (i = 1; lua_getupvalue(L, function, i) != NULL; i++) {
    if (!stays(L, named, list))
      return 0;
    lua_pop(L, 1);
  }
  return 1;
}

int mch_items_is_steady(lua_State *L, int index) {
  int top = lua_gettop(L), steady = 1;
  lua_Integer i;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 20, NULL);
  push_named(L);
  lua_newtable(L);
  lua_pushvalue(L, index);
  steady = lua_isfunction(L, -1) && stays(L, top + 1, top + 2);
  lua_settop(L, top + 2);
  for (i = 1; steady && lua_rawgeti(L, top + 2, i) != LUA_TNIL; i++) {
    steady = is_steady(L, top + 1, top + 2);
    lua_settop(L, top + 2);
  }
  lua_settop(L, top);
  return steady;
}
