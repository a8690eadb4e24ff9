/* Runs in: both. Purpose: steady.h. */
#include "steady.h"

#include <lauxlib.h>
#include <string.h>

#include "bytecode.h"
#include "number.h"
#include "walk.h"

/* A walk through what values consist of. */
struct steady_walk {
  struct mch_walk objects;
  size_t entries;
  int bad; /* there is something that is not steady, or too much */
};

static void begin(lua_State *L, struct steady_walk *walk, int baseline) {
  luaL_checkstack(L, 24, NULL);
  mch_walk_begin(L, &walk->objects, baseline);
  walk->entries = 0;
  walk->bad = 0;
}

/* Look at the value on top, and later at what it consists of. Pops it. */
static void visit(lua_State *L, struct steady_walk *walk) {
  int value = lua_gettop(L), type = lua_type(L, value);
  if (type == LUA_TUSERDATA || type == LUA_TTHREAD) {
    walk->bad |= !mch_walk_is_named(L, &walk->objects, value);
  } else if (((type == LUA_TFUNCTION && !lua_iscfunction(L, value)) || type == LUA_TTABLE) &&
             mch_walk_is_new(L, &walk->objects, value) &&
             !mch_walk_is_named(L, &walk->objects, value)) {
    walk->bad |= walk->objects.last >= MCH_STEADY_OBJECTS;
    mch_walk_add(L, &walk->objects, value);
  }
  lua_settop(L, value - 1);
}

static void visit_upvalues(lua_State *L, struct steady_walk *walk) {
  int function = lua_gettop(L), i;
  for (i = 1; lua_getupvalue(L, function, i) != NULL; i++)
    visit(L, walk);
}

static void visit_entries(lua_State *L, struct steady_walk *walk) {
  int table = lua_gettop(L);
  lua_pushnil(L);
  while (!walk->bad && lua_next(L, table)) {
    walk->bad |= ++walk->entries > MCH_STEADY_ENTRIES;
    visit(L, walk);
    lua_pushvalue(L, -1);
    visit(L, walk);
  }
  lua_settop(L, table);
}

/* ---- in the parent ---- */

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

/* Has the metatable on top one of the fields that make a table more than its contents? */
static int is_special(lua_State *L) {
  static const char *const fields[] = {"__mode", "__gc", "__mantichora"};
  int metatable = lua_gettop(L), special = 0;
  size_t i;
  for (i = 0; i < sizeof fields / sizeof *fields; i++) {
    lua_pushstring(L, fields[i]);
    special |= lua_rawget(L, metatable) != LUA_TNIL;
    lua_settop(L, metatable);
  }
  return special;
}

/* Environments are not looked at as tables: only what code names goes along. */
static int is_environment(lua_State *L, int function) {
  const char *name;
  int i, is = 0;
  for (i = 1; !is && (name = lua_getupvalue(L, function, i)) != NULL; i++) {
    lua_pushglobaltable(L);
    is = strcmp(name, "_ENV") == 0 && !lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
  }
  return is;
}

int mch_steady_is(lua_State *L, int baseline, int first, int n) {
  int top = lua_gettop(L), i;
  struct steady_walk walk;
  begin(L, &walk, baseline);
  for (i = 0; i < n; i++) {
    lua_pushvalue(L, first + i);
    visit(L, &walk);
  }
  while (!walk.bad && mch_walk_next(L, &walk.objects)) {
    int object = lua_gettop(L);
    if (lua_isfunction(L, object)) {
      walk.bad = assigns(L) || is_environment(L, object);
      visit_upvalues(L, &walk);
    } else {
      visit_entries(L, &walk);
      if (lua_getmetatable(L, object)) {
        walk.bad |= is_special(L);
        visit(L, &walk);
      }
    }
    lua_settop(L, object - 1);
  }
  lua_settop(L, top);
  return !walk.bad;
}

/* ---- in the worker ---- */

static uint64_t mix(uint64_t digest, uint64_t bits) {
  digest = (digest ^ bits) * UINT64_C(0x9e3779b97f4a7c15);
  return digest ^ digest >> 29;
}

/* Of a value: its own bits, or where it is. */
static uint64_t add_value(lua_State *L, uint64_t digest, int at) {
  int type = lua_type(L, at);
  uint64_t bits;
  if (type == LUA_TNUMBER && lua_isinteger(L, at))
    bits = (uint64_t)lua_tointeger(L, at);
  else if (type == LUA_TNUMBER)
    bits = mch_number_bits_of_float(lua_tonumber(L, at)) ^ UINT64_C(1) << 40;
  else if (type == LUA_TBOOLEAN)
    bits = (uint64_t)lua_toboolean(L, at);
  else if (type == LUA_TLIGHTUSERDATA)
    bits = (uint64_t)(uintptr_t)lua_touserdata(L, at);
  else
    bits = (uint64_t)(uintptr_t)lua_topointer(L, at);
  return mix(digest, bits + ((uint64_t)type << 56));
}

/* Of the table on top: its entries in their order, and its metatable. */
static uint64_t add_table(lua_State *L, uint64_t digest) {
  int table = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    digest = add_value(L, digest, table + 1);
    digest = add_value(L, digest, table + 2);
    lua_pop(L, 1);
  }
  if (lua_getmetatable(L, table)) {
    digest = add_value(L, digest, table + 1);
    lua_pop(L, 1);
  }
  return mix(digest, 1);
}

static uint64_t add_tables(lua_State *L, int anchors, int tables) {
  uint64_t digest = 0;
  int i;
  for (i = 1; i <= tables; i++) {
    lua_rawgeti(L, anchors, i);
    digest = add_table(L, digest);
    lua_pop(L, 1);
  }
  return digest;
}

/* Append what the table on top refers to: nothing else shall come to be where it is. */
static void anchor_entries(lua_State *L, int anchors) {
  int table = lua_gettop(L);
  lua_Integer n = (lua_Integer)lua_rawlen(L, anchors);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_rawseti(L, anchors, ++n);
    lua_pushvalue(L, -1);
    lua_rawseti(L, anchors, ++n);
  }
}

static void visit_all(lua_State *L, struct steady_walk *walk, int anchors) {
  lua_Integer tables = 0;
  while (!walk->bad && mch_walk_next(L, &walk->objects)) {
    int object = lua_gettop(L);
    if (lua_isfunction(L, object)) {
      visit_upvalues(L, walk);
    } else {
      lua_pushvalue(L, object);
      lua_rawseti(L, anchors, ++tables);
      visit_entries(L, walk);
      if (lua_getmetatable(L, object))
        visit(L, walk);
    }
    lua_settop(L, object - 1);
  }
}

int mch_steady_watch(lua_State *L, struct mch_steady *steady, int baseline, int first, int n) {
  int top = lua_gettop(L), i, anchors;
  struct steady_walk walk;
  mch_steady_forget(L, steady);
  begin(L, &walk, baseline);
  for (i = 0; i < n; i++) {
    lua_pushvalue(L, first + i);
    visit(L, &walk);
  }
  lua_newtable(L);
  anchors = lua_gettop(L);
  visit_all(L, &walk, anchors);
  steady->tables = (int)lua_rawlen(L, anchors);
  for (i = 1; !walk.bad && i <= steady->tables; i++) {
    lua_rawgeti(L, anchors, i);
    anchor_entries(L, anchors);
    lua_pop(L, 1);
  }
  if (!walk.bad && steady->tables > 0) {
    steady->digest = add_tables(L, anchors, steady->tables);
    steady->anchors = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_settop(L, top);
  return !walk.bad;
}

int mch_steady_is_same(lua_State *L, const struct mch_steady *steady) {
  int top = lua_gettop(L), same;
  if (steady->anchors == LUA_NOREF)
    return 1;
  if (!lua_checkstack(L, 8))
    return 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, steady->anchors);
  same = add_tables(L, top + 1, steady->tables) == steady->digest;
  lua_settop(L, top);
  return same;
}

void mch_steady_forget(lua_State *L, struct mch_steady *steady) {
  luaL_unref(L, LUA_REGISTRYINDEX, steady->anchors);
  steady->anchors = LUA_NOREF;
  steady->tables = 0;
}
