/* Runs in: parent. Purpose: key_names.h. */
#include "key_names.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "key_library.h"

enum { DEEPEST = 3 };

static void push_loaded(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
}

enum mch_module_kind mch_names_kind(const char *module) {
  static const char *const standard[] = {LUA_GNAME,       LUA_COLIBNAME,   LUA_TABLIBNAME,
                                         LUA_IOLIBNAME,   LUA_OSLIBNAME,   LUA_STRLIBNAME,
                                         LUA_UTF8LIBNAME, LUA_MATHLIBNAME, LUA_DBLIBNAME,
                                         LUA_LOADLIBNAME, "package.loaded"};
  static const char ours[] = "mantichora";
  size_t i;
  for (i = 0; i < sizeof standard / sizeof *standard; i++)
    if (strcmp(module, standard[i]) == 0)
      return MCH_MODULE_STANDARD;
  if (strncmp(module, ours, sizeof ours - 1) == 0 &&
      (module[sizeof ours - 1] == '\0' || module[sizeof ours - 1] == '.'))
    return MCH_MODULE_OURS;
  return MCH_MODULE_OTHER;
}

/* ---- the names ---- */

/* Is it a function of Lua's basic library, by its name in `_G`? */
static int is_basic(const char *field) {
  static const char *const names[] = {
      "assert", "collectgarbage", "dofile",   "error",    "getmetatable", "ipairs",
      "load",   "loadfile",       "next",     "pairs",    "pcall",        "print",
      "rawget", "rawequal",       "rawlen",   "rawset",   "require",      "select",
      "type",   "setmetatable",   "tonumber", "tostring", "warn",         "xpcall"};
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(field, names[i]) == 0)
      return 1;
  return 0;
}

/* Standard names come first, globals that others have made last. */
static int rank(const char *name) {
  static const char globals[] = LUA_GNAME ".";
  char module[32];
  size_t length = strcspn(name, ".");
  if (strncmp(name, globals, sizeof globals - 1) == 0)
    return is_basic(name + sizeof globals - 1) ? 0 : 3;
  if (length >= sizeof module)
    return 2;
  memcpy(module, name, length);
  module[length] = '\0';
  return mch_names_kind(module) == MCH_MODULE_OTHER ? 2 : 1;
}

/* Should an object with one name take another? Any order that does not depend on the order of
 * tables would do. */
static int is_better(const char *name, const char *old) {
  int ranks = rank(name) - rank(old);
  if (ranks != 0)
    return ranks < 0;
  if (strlen(name) != strlen(old))
    return strlen(name) < strlen(old);
  return strcmp(name, old) < 0;
}

struct scan {
  const struct mch_names *names;
  int module;  /* stack index of its name */
  int is_ours; /* its functions in Lua go by name, too */
  int is_standard;
};

/* Give the object at this index the name on top of the stack, unless it has a better one. Pops
 * it. */
static void name_object(lua_State *L, const struct scan *scan, int object) {
  int name = lua_gettop(L);
  lua_pushvalue(L, object);
  if (lua_rawget(L, scan->names->objects) != LUA_TSTRING ||
      is_better(lua_tostring(L, name), lua_tostring(L, -1))) {
    lua_pushvalue(L, object);
    lua_pushvalue(L, name);
    lua_rawset(L, scan->names->objects);
    lua_pushvalue(L, name);
    lua_pushvalue(L, scan->module);
    lua_rawset(L, scan->names->owners);
  }
  lua_settop(L, name - 1);
}

static int is_named(lua_State *L, const struct scan *scan, int value) {
  switch (lua_type(L, value)) {
  case LUA_TFUNCTION:
    return scan->is_ours || lua_iscfunction(L, value);
  case LUA_TLIGHTUSERDATA:
    return lua_touserdata(L, value) != NULL;
  case LUA_TUSERDATA:
    return scan->is_standard && luaL_testudata(L, value, LUA_FILEHANDLE) != NULL;
  default:
    return 0;
  }
}

static int is_module(lua_State *L, const struct scan *scan, int table) {
  int type;
  lua_pushvalue(L, table);
  type = lua_rawget(L, scan->names->modules);
  lua_pop(L, 1);
  return type == LUA_TSTRING;
}

/* Tables inside of modules that are larger hold data. Which of their entries come first differs
 * from process to process, so it is all or none. */
static int is_small(lua_State *L, int table) {
  enum { MOST_ENTRIES = 200 };
  int n = 0;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    if (++n > MOST_ENTRIES) {
      lua_pop(L, 1);
      return 0;
    }
  }
  return 1;
}

/* Name what is in the table on top of the stack, whose name is at index `prefix`. */
static void scan_table(lua_State *L, const struct scan *scan, int prefix, int depth) {
  int table = lua_gettop(L), value = table + 2;
  luaL_checkstack(L, 12, NULL);
  if (depth > 1 && !is_small(L, table))
    return;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    int is_list = lua_isinteger(L, -2);
    if (lua_type(L, -2) == LUA_TSTRING || is_list) {
      int named = is_named(L, scan, value);
      int inside = depth < DEEPEST && lua_istable(L, value) && !is_module(L, scan, value);
      if (named || inside) {
        if (is_list)
          lua_pushfstring(L, "%s[%I]", lua_tostring(L, prefix),
                          (LUAI_UACINT)lua_tointeger(L, table + 1));
        else
          lua_pushfstring(L, "%s.%s", lua_tostring(L, prefix), lua_tostring(L, table + 1));
        if (named) {
          name_object(L, scan, value);
        } else {
          lua_pushvalue(L, value);
          scan_table(L, scan, value + 1, depth + 1);
        }
      }
    }
    lua_settop(L, table + 1);
  }
}

/* Note the names of modules, so that none is taken for a table of another. */
static void note_modules(lua_State *L, const struct mch_names *names, int loaded) {
  lua_pushvalue(L, loaded); /* a list of them counts by what is named, too */
  lua_pushliteral(L, "package.loaded");
  lua_rawset(L, names->modules);
  lua_pushnil(L);
  while (lua_next(L, loaded)) {
    int name = lua_gettop(L) - 1, value = name + 1;
    if (lua_type(L, name) == LUA_TSTRING && lua_istable(L, value)) {
      lua_pushvalue(L, value);
      if (lua_rawget(L, names->modules) != LUA_TSTRING ||
          is_better(lua_tostring(L, name), lua_tostring(L, -1))) {
        lua_pushvalue(L, value);
        lua_pushvalue(L, name);
        lua_rawset(L, names->modules);
      }
    }
    lua_settop(L, name);
  }
}

static void scan_modules(lua_State *L, const struct mch_names *names) {
  struct scan scan;
  int top = lua_gettop(L), loaded = top + 1;
  luaL_checkstack(L, 12, NULL);
  push_loaded(L);
  scan.names = names;
  scan.module = top + 2;
  note_modules(L, names, loaded);
  lua_pushnil(L);
  while (lua_next(L, loaded)) {
    if (lua_type(L, scan.module) == LUA_TSTRING) {
      enum mch_module_kind kind = mch_names_kind(lua_tostring(L, scan.module));
      scan.is_ours = kind == MCH_MODULE_OURS;
      scan.is_standard = kind == MCH_MODULE_STANDARD;
      if (lua_istable(L, -1)) {
        scan_table(L, &scan, scan.module, 1);
      } else if (lua_iscfunction(L, -1)) {
        lua_pushvalue(L, scan.module);
        name_object(L, &scan, lua_gettop(L) - 1);
      }
    }
    lua_settop(L, scan.module);
  }
  lua_settop(L, top);
}

/* The iterator that `ipairs` returns has no field. */
static void name_iterator(lua_State *L, const struct mch_names *names) {
  int top = lua_gettop(L);
  lua_pushglobaltable(L);
  lua_pushliteral(L, "ipairs");
  lua_rawget(L, -2);
  if (lua_iscfunction(L, -1)) {
    lua_newtable(L);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_iscfunction(L, -1)) {
      lua_pushliteral(L, LUA_GNAME ".ipairs()");
      lua_pushvalue(L, -1);
      lua_pushliteral(L, LUA_GNAME);
      lua_rawset(L, names->owners);
      lua_rawset(L, names->objects);
    }
  }
  lua_settop(L, top);
}

static lua_Integer stamp_of_loaded(lua_State *L) {
  uint64_t sum = 1;
  push_loaded(L);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    uint64_t name = (uint64_t)(uintptr_t)lua_topointer(L, -2);
    uint64_t value = (uint64_t)(uintptr_t)lua_topointer(L, -1);
    sum += (name ^ (value << 20) ^ (value >> 12)) * UINT64_C(0x9e3779b97f4a7c15);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return (lua_Integer)sum;
}

void mch_names_open(lua_State *L, struct mch_names *names, lua_Integer *stamp) {
  lua_Integer now = stamp_of_loaded(L);
  names->fresh = 0;
  if (*stamp == now)
    return;
  if (*stamp == 0)
    name_iterator(L, names);
  scan_modules(L, names);
  names->fresh = 1;
  *stamp = now;
}

static int push_name(lua_State *L, const struct mch_names *names, int object) {
  lua_pushvalue(L, object);
  if (lua_rawget(L, names->objects) == LUA_TSTRING)
    return 1;
  lua_pop(L, 1);
  return 0;
}

int mch_names_find(lua_State *L, struct mch_names *names, int object) {
  object = lua_absindex(L, object);
  if (push_name(L, names, object))
    return 1;
  if (names->fresh)
    return 0;
  scan_modules(L, names); /* a module may have got more fields */
  names->fresh = 1;
  return push_name(L, names, object);
}

const char *mch_names_module(lua_State *L, const struct mch_names *names, int table) {
  const char *name;
  lua_pushvalue(L, table);
  lua_rawget(L, names->modules);
  name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  lua_pop(L, 1);
  return name;
}

/* ---- versions ---- */

/* Push the path of the library that has the function at this index, or nil. */
static void push_library(lua_State *L, int function, int module) {
  lua_CFunction pointer = lua_tocfunction(L, function);
  const char *path = mch_key_library((void (*)(void))pointer);
  int top = lua_gettop(L);
  if (path != NULL) {
    lua_pushstring(L, path);
    return;
  }
  lua_getglobal(L, LUA_LOADLIBNAME);
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, "searchpath");
    lua_pushvalue(L, module);
    lua_getfield(L, -3, "cpath");
    if (lua_isfunction(L, -3) && lua_isstring(L, -1) && lua_pcall(L, 2, 1, 0) == LUA_OK &&
        lua_isstring(L, -1)) {
      lua_replace(L, top + 1);
      lua_settop(L, top + 1);
      return;
    }
  }
  lua_settop(L, top);
  lua_pushnil(L);
}

/* Push the module's field _VERSION, if that is a string; else the hash of the library's file; else
 * an empty string. */
static void push_version(lua_State *L, struct mch_files *files, int function, int module) {
  unsigned char hash[MCH_HASH_SIZE];
  int top = lua_gettop(L);
  push_loaded(L);
  lua_pushvalue(L, module);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushliteral(L, "_VERSION");
    if (lua_rawget(L, -2) == LUA_TSTRING) {
      lua_replace(L, top + 1);
      lua_settop(L, top + 1);
      return;
    }
  }
  lua_settop(L, top);
  push_library(L, function, module);
  if (lua_isstring(L, -1) && mch_files_hash(files, lua_tostring(L, -1), hash, NULL) == 1)
    lua_pushlstring(L, (const char *)hash, sizeof hash);
  else
    lua_pushliteral(L, "");
  lua_replace(L, top + 1);
}

void mch_names_push_version(lua_State *L, const struct mch_names *names, struct mch_files *files,
                            int function) {
  int name = lua_gettop(L), module = name + 1;
  luaL_checkstack(L, 12, NULL);
  lua_pushvalue(L, name);
  lua_rawget(L, names->owners);
  if (mch_names_kind(lua_tostring(L, module)) != MCH_MODULE_OTHER) {
    lua_pushliteral(L, "");
  } else {
    lua_pushvalue(L, module);
    if (lua_rawget(L, names->versions) != LUA_TSTRING) {
      lua_pop(L, 1);
      push_version(L, files, function, module);
      lua_pushvalue(L, module);
      lua_pushvalue(L, -2);
      lua_rawset(L, names->versions);
    }
  }
  lua_replace(L, module);
}
