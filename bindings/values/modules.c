/* Runs in: both. Purpose: modules.h. */
#include "modules.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <string.h>

#include "bindings/context.h"
#include "graph.h"
#include "private.h"

static void push_loaded(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
}

/* ---- the iterator of ipairs ---- */

/* What it is called: no field has this name. */
static const char iterator_name[] = "ipairs()";

/* Its key in the registry is the address of this. */
static const char iterator_key = 0;

/* Likewise, of a list that has the baseline which was taken last, weakly. */
static const char latest_key = 0;

/* Push what the standard ipairs returns first, or nil. It is looked for once: a program may give
 * the name to another function later, and one in Lua is not called here. */
static void push_iterator(lua_State *L) {
  int top = lua_gettop(L);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &iterator_key) != LUA_TNIL)
    return;
  push_loaded(L);
  lua_pushliteral(L, LUA_GNAME);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushliteral(L, "ipairs");
    lua_rawget(L, -2);
    if (lua_iscfunction(L, -1)) {
      lua_newtable(L);
      if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_iscfunction(L, -1)) {
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &iterator_key);
        lua_replace(L, top + 1);
      }
    }
  }
  lua_settop(L, top + 1);
}

static int is_iterator_name(lua_State *L, int field) {
  return lua_type(L, field) == LUA_TSTRING && strcmp(lua_tostring(L, field), iterator_name) == 0;
}

/* Should an object that has a name already take this one? Shorter names first, `_G` last: any order
 * that does not depend on the order of the tables would do. */
static int is_better(const char *module, const char *field, const char *old_module,
                     const char *old_field) {
  size_t length, old_length;
  int global = strcmp(module, LUA_GNAME) == 0, old_global = strcmp(old_module, LUA_GNAME) == 0;
  if (global != old_global)
    return old_global;
  if ((field == NULL) != (old_field == NULL))
    return field == NULL;
  length = strlen(module) + (field != NULL ? strlen(field) : 0);
  old_length = strlen(old_module) + (old_field != NULL ? strlen(old_field) : 0);
  if (length != old_length)
    return length < old_length;
  if (strcmp(module, old_module) != 0)
    return strcmp(module, old_module) < 0;
  return field != NULL && strcmp(field, old_field) < 0;
}

/* Stack indices during noting. */
struct noting {
  int module_of, field_of;
  int late;   /* the module was loaded after the fork, or by workers themselves */
  int remote; /* workers begin with a fresh state */
};

/* Give the object on top of the stack the name module.field; field 0 is none. Pops nothing. */
static void name_object(lua_State *L, const struct noting *n, int module, int field) {
  int object = lua_gettop(L);
  lua_pushvalue(L, object);
  if (lua_rawget(L, n->module_of) == LUA_TSTRING) {
    int keep;
    lua_pushvalue(L, object);
    lua_rawget(L, n->field_of);
    keep = !is_better(lua_tostring(L, module), field != 0 ? lua_tostring(L, field) : NULL,
                      lua_tostring(L, -2), lua_tostring(L, -1));
    if (keep) {
      lua_settop(L, object);
      return;
    }
  }
  lua_settop(L, object);
  lua_pushvalue(L, object);
  lua_pushvalue(L, module);
  lua_rawset(L, n->module_of);
  lua_pushvalue(L, object);
  if (field != 0)
    lua_pushvalue(L, field);
  else
    lua_pushnil(L);
  lua_rawset(L, n->field_of);
}

/* Was the Lua function on top defined in the file that `require` runs for this module? Told by the
 * end of its file's name: a.b is in .../a/b.lua or .../a/b/init.lua. */
static int is_from_file(lua_State *L, int module) {
  static const char *const endings[] = {".lua", "/init.lua"};
  lua_Debug ar;
  const char *file, *tail;
  int i, same;
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">S", &ar);
  luaL_gsub(L, lua_tostring(L, module), ".", "/");
  file = lua_tostring(L, -1);
  for (same = 0, i = 0; i < 2 && !same; i++) {
    size_t wanted = strlen(file) + strlen(endings[i]), length = strlen(ar.source);
    if (length <= wanted)
      continue;
    tail = ar.source + length - wanted;
    same = strncmp(tail, file, strlen(file)) == 0 && strcmp(tail + strlen(file), endings[i]) == 0 &&
           (tail[-1] == '/' || tail[-1] == '@');
  }
  lua_pop(L, 1);
  return same;
}

/* Whether a fresh state has the module: the standard library and our own. */
static int is_standard(const char *module) {
  static const char *const names[] = {
      LUA_GNAME,     LUA_LOADLIBNAME, LUA_COLIBNAME,   LUA_TABLIBNAME,  LUA_IOLIBNAME,
      LUA_OSLIBNAME, LUA_STRLIBNAME,  LUA_MATHLIBNAME, LUA_UTF8LIBNAME, LUA_DBLIBNAME};
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], module) == 0)
      return 1;
  return 0;
}

static int is_ours(const char *module) {
  return strncmp(module, "mantichora", 10) == 0 && (module[10] == '\0' || module[10] == '.');
}

static int is_standard_file(lua_State *L, int module, int field) {
  const char *name = lua_tostring(L, field);
  return strcmp(lua_tostring(L, module), LUA_IOLIBNAME) == 0 &&
         (strcmp(name, "stdin") == 0 || strcmp(name, "stdout") == 0 || strcmp(name, "stderr") == 0);
}

/* Can the field on top of the stack be known by name? */
static int is_nameable(lua_State *L, const struct noting *n, int module, int field) {
  switch (lua_type(L, -1)) {
  case LUA_TFUNCTION:
    if (lua_iscfunction(L, -1))
      return 1;
    if (n->remote && is_standard(lua_tostring(L, module)))
      return 0;
    /* Lua functions that are globals go by value, and so does what was put into a module by others.
     */
    return n->late ? is_from_file(L, module) : strcmp(lua_tostring(L, module), LUA_GNAME) != 0;
  case LUA_TTABLE:
    return !n->remote || strcmp(lua_tostring(L, module), LUA_GNAME) != 0;
  case LUA_TUSERDATA:
    return is_standard_file(L, module, field);
  default:
    return 0;
  }
}

/* Name the module on top of the stack and its fields. */
static void note_module(lua_State *L, const struct noting *n, int module) {
  int value = lua_gettop(L);
  if (!n->late || lua_type(L, value) == LUA_TTABLE || lua_iscfunction(L, value))
    name_object(L, n, module, 0);
  if (lua_type(L, value) != LUA_TTABLE)
    return;
  lua_pushnil(L);
  while (lua_next(L, value)) {
    if (lua_type(L, -2) == LUA_TSTRING && !mch_private_is_path(L, value + 1) &&
        is_nameable(L, n, module, value + 1))
      name_object(L, n, module, value + 1);
    lua_pop(L, 1);
  }
}

static void note_iterator(lua_State *L, const struct noting *n) {
  int top = lua_gettop(L);
  lua_pushliteral(L, LUA_GNAME);
  lua_pushstring(L, iterator_name);
  push_iterator(L);
  if (!lua_isnil(L, -1))
    name_object(L, n, top + 1, top + 2);
  lua_settop(L, top);
}

static lua_Integer stamp(lua_State *L, int loaded) {
  uint64_t sum = 0;
  lua_pushnil(L);
  while (lua_next(L, loaded)) {
    uint64_t name = (uint64_t)(uintptr_t)lua_topointer(L, -2);
    uint64_t value = (uint64_t)(uintptr_t)lua_topointer(L, -1);
    sum += (name ^ (value << 20) ^ (value >> 12)) * UINT64_C(0x9e3779b97f4a7c15);
    lua_pop(L, 1);
  }
  return (lua_Integer)sum;
}

/* Name what is private to the modules that are in the set at `fresh`, the globals last. */
static void note_private(lua_State *L, const struct noting *n, int fresh, int loaded) {
  struct mch_private walk;
  int top = lua_gettop(L), globals;
  mch_private_begin(L, &walk, n->module_of, n->field_of);
  if (n->late || n->remote)
    walk.is_own = is_from_file;
  for (globals = 0; globals <= !n->remote; globals++) {
    lua_pushnil(L);
    while (lua_next(L, fresh)) {
      int name = lua_gettop(L) - 1;
      lua_pushvalue(L, name);
      lua_rawget(L, loaded);
      if ((strcmp(lua_tostring(L, name), LUA_GNAME) == 0) == globals)
        mch_private_note(L, &walk, name, name + 2);
      lua_settop(L, name);
    }
  }
  lua_settop(L, top);
}

/* Name all modules that the baseline does not know yet. */
static void note_modules(lua_State *L, int baseline, int late) {
  struct noting n;
  int top = lua_gettop(L), known = top + 3, loaded = top + 4, new_ones = top + 5;
  luaL_checkstack(L, 24, NULL);
  lua_rawgeti(L, baseline, MCH_BASELINE_REMOTE);
  n.remote = lua_toboolean(L, -1);
  lua_pop(L, 1);
  n.late = late;
  n.module_of = top + 1;
  n.field_of = top + 2;
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_rawgeti(L, baseline, MCH_BASELINE_FIELD);
  if (!late)
    note_iterator(L, &n);
  lua_rawgeti(L, baseline, MCH_BASELINE_LOADED);
  push_loaded(L);
  lua_newtable(L);
  lua_pushnil(L);
  while (lua_next(L, loaded)) {
    int name = new_ones + 1, type = lua_type(L, -1), fresh;
    if (lua_type(L, name) == LUA_TSTRING && (type == LUA_TTABLE || type == LUA_TFUNCTION)) {
      lua_pushvalue(L, name);
      fresh = lua_rawget(L, known) == LUA_TNIL;
      lua_pop(L, 1);
      if (fresh) {
        const char *module = lua_tostring(L, name);
        n.late = late || (n.remote && !is_standard(module) && !is_ours(module));
        note_module(L, &n, name);
        lua_pushvalue(L, name);
        lua_pushboolean(L, !n.late);
        lua_rawset(L, known);
        lua_pushvalue(L, name);
        lua_pushboolean(L, 1);
        lua_rawset(L, new_ones);
      }
    }
    lua_pop(L, 1);
  }
  n.late = late;
  note_private(L, &n, new_ones, loaded);
  lua_pushinteger(L, stamp(L, loaded));
  lua_rawseti(L, baseline, MCH_BASELINE_STAMP);
  lua_settop(L, top);
}

void mch_modules_note(lua_State *L, int baseline) {
  int part;
  for (part = MCH_BASELINE_MODULE; part < MCH_BASELINE_LOADED; part++) {
    mch_context_push_weak(L, "k"); /* keeps nothing alive that the program has dropped */
    lua_rawseti(L, baseline, part);
  }
  lua_newtable(L);
  lua_rawseti(L, baseline, MCH_BASELINE_LOADED);
  note_modules(L, baseline, 0);
}

void mch_modules_note_latest(lua_State *L, int baseline) {
  mch_context_push_weak(L, "v");
  lua_pushvalue(L, baseline);
  lua_rawseti(L, -2, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &latest_key);
}

void mch_modules_open(lua_State *L, struct mch_modules *modules, int slot, int baseline) {
  modules->module_of = slot;
  modules->field_of = slot + 1;
  modules->loaded = slot + 2;
  modules->baseline = slot + 3;
  modules->fresh = baseline == 0;
  modules->opened = 1;
  modules->filtered = 0;
  modules->missed = 0;
  if (baseline != 0) {
    lua_pushvalue(L, baseline);
    lua_replace(L, modules->baseline);
  } else {
    lua_createtable(L, MCH_BASELINE_PARTS, 0);
    lua_replace(L, modules->baseline);
    mch_modules_note(L, modules->baseline);
  }
  lua_rawgeti(L, modules->baseline, MCH_BASELINE_MODULE);
  lua_replace(L, modules->module_of);
  lua_rawgeti(L, modules->baseline, MCH_BASELINE_FIELD);
  lua_replace(L, modules->field_of);
  push_loaded(L);
  lua_replace(L, modules->loaded);
}

/* Name the modules that were loaded since the fork. */
static void refresh(lua_State *L, struct mch_modules *modules) {
  int same;
  modules->fresh = 1;
  lua_rawgeti(L, modules->baseline, MCH_BASELINE_STAMP);
  same = lua_tointeger(L, -1) == stamp(L, modules->loaded);
  lua_pop(L, 1);
  if (!same)
    note_modules(L, modules->baseline, 1);
}

/* Many objects are looked up: be quick to see that one has no name. */
static void fill_filter(lua_State *L, struct mch_modules *modules) {
  modules->filtered = 1;
  memset(modules->filter, 0, sizeof modules->filter);
  lua_pushnil(L);
  while (lua_next(L, modules->module_of)) {
    uint64_t hash = (uint64_t)(uintptr_t)lua_topointer(L, -2) * UINT64_C(0x9e3779b97f4a7c15) >> 51;
    modules->filter[hash >> 6] |= UINT64_C(1) << (hash & 63);
    lua_pop(L, 1);
  }
}

int mch_modules_have_noted(lua_State *L, int baseline, int object) {
  int known;
  object = lua_absindex(L, object);
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_pushvalue(L, object);
  known = lua_rawget(L, -2) != LUA_TNIL;
  lua_pop(L, 2);
  return known;
}

/* Push the module's name, if the object has one. */
static int push_module(lua_State *L, struct mch_modules *modules, int object) {
  enum { WORTH_FILTERING = 100 };

  modules->id = 0;
  lua_pushvalue(L, object);
  switch (lua_rawget(L, modules->module_of)) {
  case LUA_TSTRING:
    return 1;
  case LUA_TNUMBER:
    modules->id = lua_tointeger(L, -1);
    lua_pop(L, 1);
    return 0;
  default:
    lua_pop(L, 1);
  }
  if (!modules->fresh) {
    refresh(L, modules);
    return push_module(L, modules, object);
  }
  if (++modules->missed == WORTH_FILTERING)
    fill_filter(L, modules);
  return 0;
}

static int has_raw(lua_State *L, int table, const char *field) {
  int has;
  lua_pushstring(L, field);
  has = lua_rawget(L, table) != LUA_TNIL;
  lua_pop(L, 1);
  return has;
}

int mch_modules_is_empty(lua_State *L, int table) {
  lua_pushnil(L);
  if (!lua_next(L, table))
    return 1;
  lua_pop(L, 2);
  return 0;
}

int mch_modules_is_class(lua_State *L, int object) {
  int top = lua_gettop(L), is;
  if (has_raw(L, object, "__index"))
    return 1;
  if (!lua_getmetatable(L, object))
    return 0;
  is = has_raw(L, top + 1, "__call");
  if (!is && mch_modules_is_empty(L, object) && !has_raw(L, top + 1, "__index") &&
      !has_raw(L, top + 1, "__newindex")) { /* a sentinel, unless that is a class */
    is = 1;
    if (lua_getmetatable(L, top + 1))
      is = !has_raw(L, top + 2, "__call");
  }
  lua_settop(L, top);
  return is;
}

/* Is loaded[module][field] still this object? The names are the two values on top. */
static int is_current(lua_State *L, const struct mch_modules *modules, int object) {
  int top = lua_gettop(L), same = 0;
  if (is_iterator_name(L, top))
    return 1;
  if (mch_private_is_path(L, top)) {
    lua_pushvalue(L, top - 1);
    lua_rawget(L, modules->loaded);
    mch_private_follow(L, top + 1, top);
    same = lua_rawequal(L, -1, object);
    lua_settop(L, top);
    return same;
  }
  lua_pushvalue(L, top - 1);
  if (lua_rawget(L, modules->loaded) == LUA_TTABLE && !lua_isnil(L, top)) {
    lua_pushvalue(L, top);
    lua_rawget(L, top + 1);
    same = lua_rawequal(L, -1, object);
  } else if (lua_isnil(L, top)) {
    same = lua_rawequal(L, -1, object);
  }
  lua_settop(L, top);
  return same;
}

int mch_modules_find(lua_State *L, struct mch_modules *modules, int object, int as_metatable) {
  object = lua_absindex(L, object);
  if (!push_module(L, modules, object))
    return 0;
  lua_pushvalue(L, object);
  lua_rawget(L, modules->field_of);
  if (is_current(L, modules, object) && (!lua_istable(L, object) || lua_isnil(L, -1) ||
                                         as_metatable || mch_modules_is_class(L, object)))
    return 1;
  lua_pop(L, 2);
  return 0;
}

/* Push the name that the baseline which was taken last has for the object, or nil. */
static void push_noted_name(lua_State *L, int object) {
  int top = lua_gettop(L);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &latest_key) == LUA_TTABLE &&
      lua_rawgeti(L, -1, 1) == LUA_TTABLE) {
    lua_rawgeti(L, -1, MCH_BASELINE_MODULE);
    lua_pushvalue(L, object);
    lua_rawget(L, -2);
  }
  if (lua_gettop(L) == top + 1 || lua_type(L, -1) != LUA_TSTRING)
    lua_pushnil(L);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* Push the first key and Lua function of the table at this index: 1. 0: it has none. */
static int push_method(lua_State *L, int table) {
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_isfunction(L, -1) && !lua_iscfunction(L, -1))
      return 1;
    lua_pop(L, 1);
  }
  return 0;
}

/* Is the value on top a function of the same place in a file as the one at this index, but another?
 */
static int is_same_place(lua_State *L, int function) {
  lua_Debug a, b;
  if (!lua_isfunction(L, -1) || lua_iscfunction(L, -1) || lua_rawequal(L, -1, function))
    return 0;
  lua_pushvalue(L, function);
  lua_getinfo(L, ">S", &a);
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">S", &b);
  return a.linedefined == b.linedefined && strcmp(a.source, b.source) == 0;
}

/* Push the name of the module that has another table with a function of the same key and place as
 * one of the class has, or nil. */
static void push_module_of_twin(lua_State *L, const struct mch_modules *modules, int object) {
  int top = lua_gettop(L), key = top + 1, function = top + 2, other = top + 3;
  if (!modules->opened || !push_method(L, object)) {
    lua_pushnil(L);
    return;
  }
  lua_pushnil(L);
  while (lua_next(L, modules->module_of)) {
    int is_twin = 0;
    if (lua_istable(L, other) && lua_type(L, -1) == LUA_TSTRING &&
        !lua_rawequal(L, other, object)) {
      lua_pushvalue(L, key);
      lua_rawget(L, other);
      is_twin = is_same_place(L, function);
      lua_pop(L, 1);
    }
    if (is_twin) {
      lua_replace(L, key);
      lua_settop(L, key);
      return;
    }
    lua_pop(L, 1);
  }
  lua_pushnil(L);
  lua_replace(L, key);
  lua_settop(L, key);
}

void mch_modules_push_former(lua_State *L, const struct mch_modules *modules, int object) {
  luaL_checkstack(L, 16, NULL);
  object = lua_absindex(L, object);
  push_noted_name(L, object);
  if (!lua_isnil(L, -1))
    return;
  lua_pop(L, 1);
  push_module_of_twin(L, modules, object);
}

/* Push package.loaded[module], loading it if need be and allowed. */
static int push_module_value(lua_State *L, int module, int *loaded) {
  push_loaded(L);
  lua_pushvalue(L, module);
  if (lua_rawget(L, -2) != LUA_TNIL) {
    lua_remove(L, -2);
    return 1;
  }
  lua_pop(L, 1);
  lua_pushglobaltable(L);
  lua_pushliteral(L, "require");
  if (loaded == NULL || lua_rawget(L, -2) != LUA_TFUNCTION) {
    lua_pushfstring(L, "module '%s' is not loaded", lua_tostring(L, module));
    return 0;
  }
  *loaded = 1;
  lua_pushvalue(L, module);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    const char *why = lua_tostring(L, -1);
    lua_pushfstring(L, "module '%s' cannot be loaded: %s", lua_tostring(L, module),
                    why != NULL ? why : "(error is not a string)");
    return 0;
  }
  lua_pushvalue(L, module);
  lua_rawget(L, -4); /* what it returned may be only true: the table is what counts */
  return 1;
}

/* The parent may have given the name to another value before this worker was forked: the object
 * that was meant is the one in the baseline. C functions are what the worker has put there.
 * Replaces the value on top if so. */
static void prefer_noted(lua_State *L, int baseline, int module, int field) {
  int live = lua_gettop(L), module_of = live + 1, field_of = live + 2;
  lua_rawgeti(L, baseline, MCH_BASELINE_LOADED);
  lua_pushvalue(L, module);
  lua_rawget(L, -2);
  if (!lua_toboolean(L, -1) || lua_iscfunction(L, live)) {
    lua_settop(L, live);
    return;
  }
  lua_settop(L, live);
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_rawgeti(L, baseline, MCH_BASELINE_FIELD);
  lua_pushnil(L);
  while (lua_next(L, module_of)) {
    int object = lua_gettop(L) - 1;
    lua_pushvalue(L, object);
    lua_rawget(L, field_of);
    if (lua_rawequal(L, -2, module) && lua_rawequal(L, -1, field) && !lua_iscfunction(L, object)) {
      lua_pushvalue(L, object);
      lua_replace(L, live);
      break;
    }
    lua_pop(L, 2);
  }
  lua_settop(L, live);
}

/* Does the baseline give the live value on top this name? */
static int is_noted(lua_State *L, int baseline, int module, int field) {
  int live = lua_gettop(L), same = 0;
  if (!lua_isnil(L, live)) {
    lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
    lua_pushvalue(L, live);
    lua_rawget(L, -2);
    lua_rawgeti(L, baseline, MCH_BASELINE_FIELD);
    lua_pushvalue(L, live);
    lua_rawget(L, -2);
    same = lua_rawequal(L, live + 2, module) && lua_rawequal(L, -1, field);
  }
  lua_settop(L, live);
  return same;
}

int mch_modules_resolve(lua_State *L, int baseline, int module, int field, int *loaded) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 16, NULL);
  if (is_iterator_name(L, field)) {
    push_iterator(L);
    if (lua_isfunction(L, -1))
      return 1;
    lua_pop(L, 1);
  }
  if (!push_module_value(L, module, loaded)) {
    lua_copy(L, -1, top + 1);
    lua_settop(L, top + 1);
    return 0;
  }
  if (mch_private_is_path(L, field)) {
    mch_private_follow(L, lua_gettop(L), field);
  } else if (!lua_isnil(L, field)) {
    if (lua_istable(L, -1)) {
      lua_pushvalue(L, field);
      lua_rawget(L, -2);
    } else {
      lua_pushnil(L);
    }
  }
  lua_copy(L, -1, top + 1);
  lua_settop(L, top + 1);
  if (baseline != 0 && !is_noted(L, baseline, module, field))
    prefer_noted(L, baseline, module, field);
  if (!lua_isnil(L, -1))
    return 1;
  if (mch_private_is_path(L, field)) {
    mch_private_push_words(L, field);
    lua_pushfstring(L, "module '%s' has nothing at %s", lua_tostring(L, module),
                    lua_tostring(L, -1));
  } else if (lua_isnil(L, field))
    lua_pushfstring(L, "module '%s' has no value", lua_tostring(L, module));
  else
    lua_pushfstring(L, "module '%s' has no field '%s'", lua_tostring(L, module),
                    lua_tostring(L, field));
  return 0;
}

/* The value on top loses its name. */
static void forget_name(lua_State *L, int baseline) {
  int value = lua_gettop(L), part;
  if (!lua_istable(L, value) && !(lua_isfunction(L, value) && !lua_iscfunction(L, value)))
    return;
  for (part = MCH_BASELINE_MODULE; part <= MCH_BASELINE_FIELD; part++) {
    lua_rawgeti(L, baseline, part);
    lua_pushvalue(L, value);
    lua_pushnil(L);
    lua_rawset(L, -3);
  }
  lua_settop(L, value);
}

void mch_modules_assign(lua_State *L, int baseline, const char *module, const char *field) {
  int top = lua_gettop(L);
  lua_Integer n;
  baseline = lua_absindex(L, baseline);
  luaL_checkstack(L, 12, NULL);
  push_loaded(L);
  lua_pushstring(L, module);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushstring(L, field);
    lua_rawget(L, -2);
    forget_name(L, baseline);
  }
  lua_settop(L, top);
  if (lua_rawgeti(L, baseline, MCH_BASELINE_ASSIGNED) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, baseline, MCH_BASELINE_ASSIGNED);
  }
  n = (lua_Integer)lua_rawlen(L, -1);
  lua_pushstring(L, module);
  lua_rawseti(L, -2, n + 1);
  lua_createtable(L, 1, 0);
  lua_pushstring(L, field);
  lua_rawseti(L, -2, 1);
  lua_rawseti(L, -2, n + 2);
  lua_settop(L, top);
}

void mch_baseline_replace(lua_State *L, int baseline, const char *module, const char *field) {
  struct noting n;
  int top = lua_gettop(L);
  baseline = lua_absindex(L, baseline);
  luaL_checkstack(L, 16, NULL);
  n.late = n.remote = 0;
  n.module_of = top + 3;
  n.field_of = top + 4;
  lua_pushstring(L, module);
  lua_pushstring(L, field);
  lua_rawgeti(L, baseline, MCH_BASELINE_MODULE);
  lua_rawgeti(L, baseline, MCH_BASELINE_FIELD);
  push_loaded(L);
  lua_pushvalue(L, top + 1);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushvalue(L, top + 2);
    lua_rawget(L, -2);
    if (!lua_isnil(L, -1))
      name_object(L, &n, top + 1, top + 2);
  }
  lua_settop(L, top);
}
