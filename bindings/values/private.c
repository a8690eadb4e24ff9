/* Runs in: both. Purpose: private.h. */
#include "private.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

/* Entries of one table that are looked at: fields, and elements from the first on. */
enum { MOST_FIELDS = 256, MOST_ELEMENTS = 16 };

/* ---- the walk ---- */

void mch_private_begin(lua_State *L, struct mch_private *walk, int module_of, int field_of) {
  lua_newtable(L);
  lua_newtable(L);
  walk->seen = lua_gettop(L);
  walk->queue = walk->seen - 1;
  walk->module_of = module_of;
  walk->field_of = field_of;
  walk->first = walk->last = 0;
  walk->left = MCH_PRIVATE_MOST;
  walk->is_own = NULL;
}

static int is_noted(lua_State *L, int table, int object) {
  int noted;
  lua_pushvalue(L, object);
  noted = lua_rawget(L, table) != LUA_TNIL;
  lua_pop(L, 1);
  return noted;
}

/* Is the object at this index to be looked at with the module at hand? What has a name is looked at
 * with its own one; but its plain tables are looked at only when a function holds them. */
static int is_ours(lua_State *L, const struct mch_private *walk, int object) {
  int ours;
  lua_pushvalue(L, object);
  if (lua_rawget(L, walk->module_of) == LUA_TNIL) {
    lua_pop(L, 1);
    return 1;
  }
  ours = lua_istable(L, object) && !walk->is_globals && lua_rawequal(L, -1, walk->module);
  lua_pop(L, 1);
  return ours;
}

/* The object under the path on top of the stack is to be looked at, if it is a function or a table,
 * and was not met. Pops both. */
static void queue(lua_State *L, struct mch_private *walk) {
  int path = lua_gettop(L), object = path - 1, type = lua_type(L, object);
  if ((type == LUA_TFUNCTION || type == LUA_TTABLE) && walk->left > 0 &&
      !is_noted(L, walk->seen, object) && is_ours(L, walk, object)) {
    walk->left--;
    lua_pushvalue(L, object);
    lua_pushboolean(L, 1);
    lua_rawset(L, walk->seen);
    lua_rawseti(L, walk->queue, 2 * ++walk->last);
    lua_rawseti(L, walk->queue, 2 * walk->last - 1);
    return;
  }
  lua_pop(L, 2);
}

static void push_step(lua_State *L, int path, char kind, const char *step) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  lua_pushvalue(L, path);
  luaL_addvalue(&buffer);
  luaL_addchar(&buffer, '\0');
  luaL_addchar(&buffer, kind);
  luaL_addstring(&buffer, step);
  luaL_pushresult(&buffer);
}

static void push_number(lua_State *L, int path, char kind, lua_Integer number) {
  char step[32];
  lua_Unsigned rest = (lua_Unsigned)number;
  char *at = step + sizeof step - 1;
  *at = '\0';
  do
    *--at = (char)('0' + rest % 10);
  while ((rest /= 10) > 0);
  push_step(L, path, kind, at);
}

/* Queue the upvalues of the function at index `object`. */
static void look_at_function(lua_State *L, struct mch_private *walk, int object, int path) {
  int i;
  for (i = 1; lua_getupvalue(L, object, i) != NULL; i++) {
    if (!lua_isfunction(L, -1) && !lua_istable(L, -1)) {
      lua_pop(L, 1);
      continue;
    }
    push_number(L, path, '^', i);
    queue(L, walk);
  }
}

/* The key below the value on top of the stack, as a step; 0: it is none. */
static int push_key(lua_State *L, int path, int key) {
  size_t length;
  const char *name;
  if (lua_type(L, key) == LUA_TSTRING) {
    name = lua_tolstring(L, key, &length);
    if (strlen(name) != length)
      return 0;
    push_step(L, path, '.', name);
    return 1;
  }
  if (!lua_isinteger(L, key) || lua_tointeger(L, key) < 1 || lua_tointeger(L, key) > MOST_ELEMENTS)
    return 0;
  push_number(L, path, '#', lua_tointeger(L, key));
  return 1;
}

/* Queue what the table at index `object` holds, and its metatable. */
static void look_at_table(lua_State *L, struct mch_private *walk, int object, int path) {
  int entries = 0;
  lua_pushnil(L);
  while (lua_next(L, object)) {
    int key = lua_gettop(L) - 1;
    if (++entries > MOST_FIELDS) {
      lua_pop(L, 2);
      break;
    }
    if ((lua_isfunction(L, -1) || lua_istable(L, -1)) && push_key(L, path, key))
      queue(L, walk);
    lua_settop(L, key);
  }
  if (lua_getmetatable(L, object)) {
    push_step(L, path, '@', "");
    queue(L, walk);
  }
}

/* Does the table at this index hold a function of another file than the module's? Then it is a
 * class that somebody else has put there, and a module that is loaded anew has not got it. */
static int is_foreign(lua_State *L, const struct mch_private *walk, int object, int module) {
  int foreign = 0;
  if (walk->is_own == NULL)
    return 0;
  lua_pushnil(L);
  while (!foreign && lua_next(L, object)) {
    foreign = lua_isfunction(L, -1) && !lua_iscfunction(L, -1) && !walk->is_own(L, module);
    lua_pop(L, 1);
  }
  if (foreign)
    lua_pop(L, 1);
  return foreign;
}

static void name(lua_State *L, const struct mch_private *walk, int object, int path, int module) {
  if (is_noted(L, walk->module_of, object))
    return;
  lua_pushvalue(L, object);
  lua_pushvalue(L, module);
  lua_rawset(L, walk->module_of);
  lua_pushvalue(L, object);
  lua_pushvalue(L, path);
  lua_rawset(L, walk->field_of);
}

static void look_at_all(lua_State *L, struct mch_private *walk, int module) {
  int top = lua_gettop(L);
  while (walk->first < walk->last) {
    int object = top + 1, path = top + 2;
    walk->first++;
    lua_rawgeti(L, walk->queue, 2 * walk->first - 1);
    lua_rawgeti(L, walk->queue, 2 * walk->first);
    lua_pushnil(L);
    lua_rawseti(L, walk->queue, 2 * walk->first - 1);
    lua_pushnil(L);
    lua_rawseti(L, walk->queue, 2 * walk->first);
    if (lua_isfunction(L, object)) {
      look_at_function(L, walk, object, path);
    } else if (!is_foreign(L, walk, object, module)) {
      name(L, walk, object, path, module);
      look_at_table(L, walk, object, path);
    }
    lua_settop(L, top);
  }
}

/* Are the contents of the field on top of the stack, a table, the module's own? Of a class they
 * are. */
static int is_class(lua_State *L) {
  int is;
  lua_pushliteral(L, "__index");
  is = lua_rawget(L, -2) != LUA_TNIL;
  lua_pop(L, 1);
  return is;
}

/* The name at `module` and its field at `field`, or none (0), are those of the object on top. */
static int is_name_of_top(lua_State *L, const struct mch_private *walk, int module, int field) {
  int object = lua_gettop(L), same;
  lua_pushvalue(L, object);
  lua_rawget(L, walk->module_of);
  lua_pushvalue(L, object);
  lua_rawget(L, walk->field_of);
  same =
      lua_rawequal(L, -2, module) && (field != 0 ? lua_rawequal(L, -1, field) : lua_isnil(L, -1));
  lua_settop(L, object);
  return same;
}

/* Look at the object on top, which has a name of the module's, under this path. Pops the path. */
static void look_at_named(lua_State *L, struct mch_private *walk) {
  int path = lua_gettop(L), object = path - 1;
  if (lua_isfunction(L, object))
    look_at_function(L, walk, object, path);
  else
    look_at_table(L, walk, object, path);
  lua_settop(L, object);
}

/* Look at the fields of the module. */
static void look_at_fields(lua_State *L, struct mch_private *walk, int module, int value) {
  int globals = walk->is_globals;
  lua_pushnil(L);
  while (lua_next(L, value)) {
    int field = lua_gettop(L) - 1;
    if (lua_type(L, field) == LUA_TSTRING &&
        (lua_isfunction(L, -1) || (!globals && lua_istable(L, -1) && is_class(L))) &&
        (is_name_of_top(L, walk, module, field) ||
         (globals && !is_noted(L, walk->module_of, -1)))) {
      lua_pushliteral(L, "");
      if (push_key(L, field + 2, field)) {
        lua_remove(L, field + 2);
        look_at_named(L, walk);
      }
    }
    lua_settop(L, field);
  }
}

void mch_private_note(lua_State *L, struct mch_private *walk, int module, int value) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 24, NULL);
  walk->module = module;
  walk->is_globals = strcmp(lua_tostring(L, module), LUA_GNAME) == 0;
  if (lua_isfunction(L, value)) {
    lua_pushvalue(L, value);
    if (is_name_of_top(L, walk, module, 0)) {
      lua_pushliteral(L, "");
      look_at_named(L, walk);
    }
  } else if (lua_istable(L, value)) {
    look_at_fields(L, walk, module, value);
    if (!walk->is_globals && lua_getmetatable(L, value)) {
      lua_pushliteral(L, "");
      push_step(L, lua_gettop(L), '@', "");
      lua_remove(L, -2);
      queue(L, walk);
    }
  }
  lua_settop(L, top);
  look_at_all(L, walk, module);
}

/* ---- paths ---- */

int mch_private_is_path(lua_State *L, int field) {
  size_t length;
  const char *path;
  if (lua_type(L, field) != LUA_TSTRING)
    return 0;
  path = lua_tolstring(L, field, &length);
  return length > 0 && path[0] == '\0';
}

/* Replace the object on top by what the step leads to; 0: to nothing. */
static int follow_step(lua_State *L, const char *step) {
  int object = lua_gettop(L), found = 0;
  switch (step[0]) {
  case '^':
    found = lua_isfunction(L, object) && lua_getupvalue(L, object, atoi(step + 1)) != NULL;
    break;
  case '@':
    found = lua_getmetatable(L, object);
    break;
  case '#':
    if (lua_istable(L, object)) {
      lua_rawgeti(L, object, atoi(step + 1));
      found = 1;
    }
    break;
  case '.':
    if (lua_istable(L, object)) {
      lua_pushstring(L, step + 1);
      lua_rawget(L, object);
      found = 1;
    }
    break;
  default:
    break;
  }
  if (found)
    lua_replace(L, object);
  lua_settop(L, object);
  return found;
}

void mch_private_follow(lua_State *L, int module, int path) {
  size_t length, at;
  const char *steps = lua_tolstring(L, path, &length);
  luaL_checkstack(L, 4, NULL);
  lua_pushvalue(L, module);
  for (at = 0; at < length; at += 1 + strlen(steps + at + 1)) {
    if (!follow_step(L, steps + at + 1)) {
      lua_pop(L, 1);
      lua_pushnil(L);
      return;
    }
  }
}

void mch_private_push_words(lua_State *L, int path) {
  size_t length, at;
  const char *steps = lua_tolstring(L, path, &length);
  luaL_Buffer words;
  path = lua_absindex(L, path);
  luaL_buffinit(L, &words);
  for (at = 0; at < length; at += 1 + strlen(steps + at + 1)) {
    const char *step = steps + at + 1;
    if (step[0] == '\0') /* none of ours: such a path leads nowhere */
      continue;
    if (at > 0 && step[0] != '#')
      luaL_addstring(&words, ", ");
    if (step[0] == '^')
      luaL_addstring(&words, "upvalue ");
    if (step[0] == '@')
      luaL_addstring(&words, "metatable");
    if (step[0] == '#')
      luaL_addchar(&words, '[');
    luaL_addstring(&words, step + 1);
    if (step[0] == '#')
      luaL_addchar(&words, ']');
  }
  luaL_pushresult(&words);
}
