/* Runs in: parent. Purpose: lshared.h. */
#include "lshared.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/values/modules.h"

enum {
  MOST_LOOKS = 20000,  /* variables and fields that are looked at, all in all */
  MOST_FIELDS = 1000,  /* of one table */
  DEEPEST = 50,        /* functions that hold functions */
  LARGE_TABLE = 10000, /* elements */
  LARGE_STRING = 64 * 1024
};

/* Stack indices of tables, and what is left to look at. */
struct looking {
  lua_State *L;
  int apart; /* a set of what goes by name: modules, and _G */
  int keys;  /* a set that gets what a value holds: variables and tables */
  int met;   /* a set of functions */
  int left;
  int is_large;
};

static int is_in(const struct looking *k, int set, int value) {
  int is;
  lua_pushvalue(k->L, value);
  is = lua_rawget(k->L, set) != LUA_TNIL;
  lua_pop(k->L, 1);
  return is;
}

static void put_in(const struct looking *k, int set, const void *key) {
  lua_pushboolean(k->L, 1);
  lua_rawsetp(k->L, set, key);
}

static void look_at_function(struct looking *k, int function, int depth);

/* What the variable whose value is on top of the stack is worth. */
static void look_at_variable(struct looking *k, void *variable, int depth) {
  lua_State *L = k->L;
  int value = lua_gettop(L), type = lua_type(L, value);
  if (lua_iscfunction(L, value) || (type == LUA_TTABLE && is_in(k, k->apart, value)))
    return;
  put_in(k, k->keys, variable);
  k->is_large |= lua_rawlen(L, value) > (type == LUA_TSTRING ? LARGE_STRING : LARGE_TABLE);
  if (type == LUA_TTABLE)
    put_in(k, k->keys, lua_topointer(L, value));
  else if (type == LUA_TFUNCTION)
    look_at_function(k, value, depth + 1);
}

static void look_at_function(struct looking *k, int function, int depth) {
  lua_State *L = k->L;
  const char *name;
  int i;
  if (depth > DEEPEST || is_in(k, k->met, function))
    return;
  luaL_checkstack(L, 8, NULL);
  lua_pushvalue(L, function);
  lua_pushboolean(L, 1);
  lua_rawset(L, k->met);
  for (i = 1; k->left > 0 && (name = lua_getupvalue(L, function, i)) != NULL; i++) {
    k->left--;
    if (strcmp(name, "_ENV") != 0)
      look_at_variable(k, lua_upvalueid(L, function, i), depth);
    lua_pop(L, 1);
  }
}

static void look_at_table(struct looking *k, int table) {
  lua_State *L = k->L;
  int fields = MOST_FIELDS;
  put_in(k, k->keys, lua_topointer(L, table));
  k->is_large |= lua_rawlen(L, table) > LARGE_TABLE;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (fields-- == 0 || k->left-- <= 0) {
      lua_pop(L, 2);
      return;
    }
    if (lua_isfunction(L, -1) && !lua_iscfunction(L, -1))
      look_at_function(k, lua_gettop(L), 1);
    lua_pop(L, 1);
  }
}

/* Put into `keys` what the global's value on top of the stack holds. */
static void look_at_global(struct looking *k) {
  lua_State *L = k->L;
  int value = lua_gettop(L);
  lua_newtable(L);
  k->met = lua_gettop(L);
  k->is_large = 0;
  if (lua_isfunction(L, value) && !lua_iscfunction(L, value))
    look_at_function(k, value, 0);
  else if (lua_istable(L, value) && !is_in(k, k->apart, value))
    look_at_table(k, value);
  lua_settop(L, value);
}

static int may_share(lua_State *L, int value) {
  return lua_istable(L, value) || (lua_isfunction(L, value) && !lua_iscfunction(L, value));
}

/* Whether the set on top of the stack and that of `known` have something in common. */
static int meet(lua_State *L, int known) {
  int set = lua_gettop(L), found = 0;
  lua_pushnil(L);
  while (!found && lua_next(L, set)) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    found = lua_rawget(L, known) != LUA_TNIL;
    lua_pop(L, 1);
  }
  lua_settop(L, set);
  return found;
}

static void merge(lua_State *L, int known) {
  int set = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, set)) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, known);
  }
}

/* Push the set of what goes by name. */
static void push_apart(lua_State *L) {
  int set = lua_gettop(L) + 1;
  lua_newtable(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  while (lua_next(L, set + 1)) {
    if (lua_istable(L, -1)) {
      lua_pushboolean(L, 1);
      lua_rawset(L, set);
    } else
      lua_pop(L, 1);
  }
  lua_pushglobaltable(L);
  lua_pushboolean(L, 1);
  lua_rawset(L, set);
  lua_settop(L, set);
}

/* Push a table: name of a global -> what it holds. Those in `names` come into `known` instead. */
static void push_others(struct looking *k, int names, int known) {
  lua_State *L = k->L;
  int others = lua_gettop(L) + 1, globals = others + 1, ours = others + 2;
  lua_Integer i;
  lua_newtable(L);
  lua_pushglobaltable(L);
  lua_newtable(L);
  k->keys = known;
  for (i = 1; lua_rawgeti(L, names, i) != LUA_TNIL; i++) {
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 1);
    lua_rawset(L, ours);
    lua_rawget(L, globals);
    look_at_global(k);
    lua_settop(L, ours);
  }
  lua_settop(L, ours);
  if (!mch_modules_is_empty(L, known)) {
    lua_pushnil(L);
    while (k->left > 0 && lua_next(L, globals)) {
      int name = lua_gettop(L) - 1;
      if (lua_type(L, name) == LUA_TSTRING && may_share(L, name + 1) && !is_in(k, ours, name)) {
        lua_newtable(L);
        k->keys = lua_gettop(L);
        lua_pushvalue(L, name + 1);
        look_at_global(k);
        lua_settop(L, k->keys);
        lua_pushvalue(L, name);
        lua_insert(L, -2);
        if (!k->is_large && !mch_modules_is_empty(L, k->keys + 1))
          lua_rawset(L, others);
      }
      lua_settop(L, name);
    }
  }
  lua_settop(L, others);
}

void mch_lshared_push(lua_State *L, int names) {
  struct looking k = {.L = L, .left = MOST_LOOKS};
  int list, known, others, some = 1;
  lua_Integer count = 0;
  names = lua_absindex(L, names);
  luaL_checkstack(L, 24, NULL);
  lua_newtable(L);
  list = lua_gettop(L);
  push_apart(L);
  k.apart = lua_gettop(L);
  lua_newtable(L);
  known = lua_gettop(L);
  push_others(&k, names, known);
  others = lua_gettop(L);
  while (some) {
    some = 0;
    lua_pushnil(L);
    while (lua_next(L, others)) {
      if (meet(L, known)) {
        merge(L, known);
        lua_pushvalue(L, -2);
        lua_rawseti(L, list, ++count);
        lua_pushvalue(L, -2);
        lua_pushnil(L);
        lua_rawset(L, others); /* of one that is there, while it is gone through */
        some = 1;
      }
      lua_pop(L, 1);
    }
  }
  lua_settop(L, list);
}
