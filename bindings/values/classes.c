/* Runs in: both. Purpose: classes.h. */
#include "classes.h"

#include <lauxlib.h>

#include "bindings/context.h"
#include "modules.h"
#include "walk.h"

void mch_classes_begin(lua_State *L, int baseline) {
  mch_context_push_weak(L, "v");
  lua_pushinteger(L, 0);
  lua_rawseti(L, -2, 0); /* the last one given */
  lua_rawseti(L, baseline, MCH_BASELINE_CLASSES);
  lua_newtable(L);
  lua_rawseti(L, baseline, MCH_BASELINE_HELD);
  lua_newtable(L);
  lua_rawseti(L, baseline, MCH_BASELINE_HELD_BEFORE);
  lua_newtable(L);
  lua_rawseti(L, baseline, MCH_BASELINE_CAME);
}

/* The id at which the table on top of the stack has its next class. */
static lua_Integer next_id(lua_State *L, enum mch_class_kind kind) {
  lua_Integer id;
  lua_rawgeti(L, -1, 0);
  id = lua_tointeger(L, -1) + 4;
  lua_pop(L, 1);
  lua_pushinteger(L, id);
  lua_rawseti(L, -2, 0);
  return id + (lua_Integer)kind;
}

lua_Integer mch_classes_send(lua_State *L, int baseline, int object, enum mch_class_kind kind) {
  int top = lua_gettop(L), names = top + 1;
  lua_Integer id = 0;
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_pushvalue(L, object);
  if (lua_rawget(L, names) == LUA_TNUMBER)
    id = lua_tointeger(L, -1);
  lua_rawgeti(L, baseline, MCH_BASELINE_CLASSES);
  if (id == 0 || kind < MCH_CLASS_KIND(id)) {
    id = next_id(L, kind);
    lua_pushvalue(L, object);
    lua_pushinteger(L, id);
    lua_rawset(L, names);
  }
  if (lua_rawgeti(L, -1, id) == LUA_TNIL) { /* or it is a copy whose class is gone, sent on */
    lua_pushvalue(L, object);
    lua_rawseti(L, -3, id);
  }
  lua_rawgeti(L, baseline, MCH_BASELINE_HELD);
  lua_pushvalue(L, object);
  lua_pushinteger(L, id);
  lua_rawset(L, -3);
  lua_settop(L, top);
  return id;
}

static int is_empty(lua_State *L, int baseline, int part) {
  int top = lua_gettop(L), empty;
  lua_rawgeti(L, baseline, part);
  empty = mch_modules_is_empty(L, top + 1);
  lua_settop(L, top);
  return empty;
}

int mch_classes_age(lua_State *L, int baseline) {
  if (is_empty(L, baseline, MCH_BASELINE_HELD) && is_empty(L, baseline, MCH_BASELINE_HELD_BEFORE))
    return 0;
  lua_newtable(L); /* before anything is dropped: this may raise */
  lua_rawgeti(L, baseline, MCH_BASELINE_HELD);
  lua_rawseti(L, baseline, MCH_BASELINE_HELD_BEFORE);
  lua_rawseti(L, baseline, MCH_BASELINE_HELD);
  return 1;
}

void mch_classes_receive(lua_State *L, int baseline, int copy, lua_Integer id) {
  int top = lua_gettop(L);
  copy = lua_absindex(L, copy);
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_pushvalue(L, copy);
  lua_pushinteger(L, id);
  lua_rawset(L, -3);
  lua_rawgeti(L, baseline, MCH_BASELINE_CAME);
  lua_pushboolean(L, 1);
  lua_rawseti(L, -2, id);
  lua_settop(L, top);
}

/* The classes that are held in this part of the baseline came along. */
static void add_held(lua_State *L, int baseline, int part, int came) {
  int held;
  lua_rawgeti(L, baseline, part);
  held = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, held)) {
    lua_pushboolean(L, 1);
    lua_rawseti(L, came, lua_tointeger(L, -2));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

void mch_classes_begin_task(lua_State *L, int baseline, int is_inherited) {
  int top = lua_gettop(L), came = top + 1;
  if (!is_empty(L, baseline, MCH_BASELINE_CAME)) { /* a new one is cheaper than to empty it */
    lua_newtable(L);
    lua_rawseti(L, baseline, MCH_BASELINE_CAME);
  }
  if (is_inherited) {
    lua_rawgeti(L, baseline, MCH_BASELINE_CAME);
    add_held(L, baseline, MCH_BASELINE_HELD, came);
    add_held(L, baseline, MCH_BASELINE_HELD_BEFORE, came);
  }
  lua_settop(L, top);
}

int mch_classes_came(lua_State *L, int baseline, lua_Integer id) {
  int came;
  lua_rawgeti(L, baseline, MCH_BASELINE_CAME);
  came = lua_rawgeti(L, -1, id) != LUA_TNIL;
  lua_pop(L, 2);
  return came;
}

/* ---- classes that are inherited ---- */

/* What is looked at: objects in all, and entries of one table. */
enum { MOST_OBJECTS = 10000, MOST_ENTRIES = 256 };

/* A walk through what is inherited. */
struct scan {
  struct mch_walk objects;
  int baseline; /* stack index */
  int is_whole; /* what has a name is looked at, too, for what it holds */
};

static int is_named(lua_State *L, const struct scan *scan, int object) {
  return mch_walk_is_named(L, &scan->objects, object);
}

/* Queue the value on top, if it may hold classes and is to be looked at. Pops it. */
static void queue(lua_State *L, struct scan *scan) {
  int value = lua_gettop(L), type = lua_type(L, value);
  if ((type == LUA_TTABLE || (type == LUA_TFUNCTION && !lua_iscfunction(L, value))) &&
      scan->objects.last < MOST_OBJECTS && mch_walk_is_new(L, &scan->objects, value) &&
      (scan->is_whole || !is_named(L, scan, value)))
    mch_walk_add(L, &scan->objects, value);
  lua_settop(L, value - 1);
}

/* Queue what the table on top holds. */
static void queue_entries(lua_State *L, struct scan *scan) {
  int table = lua_gettop(L), entries = 0;
  lua_pushnil(L);
  while (entries++ < MOST_ENTRIES && lua_next(L, table)) {
    queue(L, scan);
    lua_pushvalue(L, -1);
    queue(L, scan); /* keys may be classes, too */
  }
  lua_settop(L, table);
}

static int has_metamethod(lua_State *L, int table) {
  int entries = 0, has = 0;
  lua_pushnil(L);
  while (!has && entries++ < MOST_ENTRIES && lua_next(L, table)) {
    lua_pop(L, 1);
    has = mch_classes_is_metamethod(L, -1);
  }
  lua_settop(L, table);
  return has;
}

/* The table on top: is it a class, and its metatable? */
static void scan_table(lua_State *L, struct scan *scan) {
  int table = lua_gettop(L);
  if (mch_modules_is_class(L, table) && !is_named(L, scan, table)) {
    int is_filled;
    lua_pushnil(L);
    is_filled = lua_next(L, table);
    lua_settop(L, table);
    mch_classes_send(L, scan->baseline, table, is_filled ? MCH_CLASS : MCH_SENTINEL);
  } else if (has_metamethod(L, table) && !is_named(L, scan, table)) {
    mch_classes_send(L, scan->baseline, table, MCH_MAYBE);
  }
  queue_entries(L, scan);
  if (lua_getmetatable(L, table)) {
    if (!is_named(L, scan, table + 1))
      mch_classes_send(L, scan->baseline, table + 1, MCH_CLASS);
    queue(L, scan);
  }
}

static void scan_function(lua_State *L, struct scan *scan) {
  int function = lua_gettop(L), i;
  for (i = 1; lua_getupvalue(L, function, i) != NULL; i++)
    queue(L, scan);
}

void mch_classes_scan(lua_State *L, int baseline, int first, int n, int is_whole) {
  struct scan scan;
  int top = lua_gettop(L), i;
  luaL_checkstack(L, 24, NULL);
  scan.baseline = lua_absindex(L, baseline);
  scan.is_whole = is_whole;
  mch_walk_begin(L, &scan.objects, scan.baseline);
  for (i = first; i < first + n; i++) {
    lua_pushvalue(L, i);
    queue(L, &scan);
  }
  lua_pushglobaltable(L);
  queue_entries(L, &scan);
  lua_pop(L, 1);
  while (mch_walk_next(L, &scan.objects)) {
    if (lua_istable(L, -1))
      scan_table(L, &scan);
    else
      scan_function(L, &scan);
    lua_settop(L, top + 3);
  }
  lua_settop(L, top);
}
