/* Runs in: parent.
 *
 * What workers have of globals and modules, and what of it is not as it was (key.h). Each global,
 * and each field of a module, is hashed by itself, with all that it holds but for other globals and
 * modules. */
#include "key.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/values/globals.h"
#include "bindings/values/modules.h"
#include "key_walk.h"

/* What no task has reached yet is hashed before a fork only if that is quick, and so is all. */
enum { MOST_OBJECTS = 3000, MOST_IN_ALL = 200000 };

/* Of the first task's call: hashes that are good for the fork it leads to. Their table is in the
 * registry, by this address. */
static const char pending_key = 0;

void mch_key_state_reach(struct mch_key_walk *w, const char *module, const char *name,
                         size_t length) {
  struct mch_reached reached = {module, name, length};
  mch_buf_append(&w->reached, &reached, sizeof reached);
  if (w->reached.failed)
    mch_key_walk_no_memory(w);
}

/* ---- hashes ---- */

/* Push the hash of the value on top of the stack, in its place, or false: it has none, or is of
 * more than `most` objects or entries (0: of however many). Returns how many objects there were. */
static size_t hash_value(struct mch_key_walk *w, size_t most) {
  lua_State *L = w->L;
  struct mch_key_walk *values = w->values;
  struct mch_node node;
  unsigned char hash[MCH_HASH_SIZE];
  size_t objects;
  int good;
  values->L = L;
  mch_key_walk_clear(values);
  values->is_state = 1;
  values->most = most;
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_WORDS;
  node.text = "";
  good = mch_key_walk_value(values, &node, 1);
  while (good && values->done < mch_key_walk_nodes(values))
    good = (most == 0 || mch_key_walk_nodes(values) <= most) && mch_key_walk_next(values);
  objects = mch_key_walk_nodes(values);
  if (good) {
    mch_key_out_end(values, hash);
    lua_pushlstring(L, (const char *)hash, sizeof hash);
  } else {
    lua_pushboolean(L, 0);
  }
  mch_key_walk_clear(values);
  return objects + 1;
}

/* ---- single globals and fields ---- */

/* Push the value of a global, or of a field of a module, as it is now. */
static void push_current(lua_State *L, const char *module, const char *name) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushstring(L, module != NULL ? module : "_G");
  lua_rawget(L, -2);
  lua_replace(L, -2);
  if (!lua_istable(L, -1)) {
    lua_pop(L, 1);
    lua_pushnil(L);
    return;
  }
  lua_pushstring(L, name);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

static void push_name(lua_State *L, const char *module, const char *name) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  if (module != NULL) {
    luaL_addstring(&buffer, module);
    luaL_addchar(&buffer, '\0');
  }
  luaL_addstring(&buffer, name);
  luaL_pushresult(&buffer);
}

/* Can the value on top change without being assigned, or, in a module, at all? What is only
 * assigned to a global is seen by the pool itself. */
static int can_change(struct mch_key_walk *w, const char *module) {
  lua_State *L = w->L;
  int value = lua_gettop(L), is_named;
  switch (lua_type(L, value)) {
  case LUA_TFUNCTION:
    if (lua_iscfunction(L, value))
      return 0;
    lua_pushvalue(L, value);
    is_named = lua_rawget(L, w->names.objects) == LUA_TSTRING; /* one of ours */
    lua_pop(L, 1);
    return !is_named;
  case LUA_TTABLE:
    return mch_names_module(L, &w->names, value) == NULL;
  default:
    return module != NULL;
  }
}

/* Was the module there at the fork? */
static int was_loaded(lua_State *L, int baseline, const char *module) {
  int was;
  lua_rawgeti(L, baseline, MCH_BASELINE_LOADED);
  lua_getfield(L, -1, module);
  was = lua_toboolean(L, -1);
  lua_pop(L, 2);
  return was;
}

/* Workers have something else: it goes along from now on. */
static void send_along(lua_State *L, int baseline, const char *module, const char *name) {
  if (module != NULL) {
    mch_modules_assign(L, baseline, module, name);
  } else {
    lua_pushstring(L, name);
    mch_globals_differ(L, baseline, lua_gettop(L));
    lua_pop(L, 1);
  }
}

/* The part of the baseline for this, made when first needed. Pushed. */
static int push_state(lua_State *L, int baseline) {
  if (lua_rawgeti(L, baseline, MCH_BASELINE_STATE) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, baseline, MCH_BASELINE_STATE);
  }
  return lua_gettop(L);
}

/* Compare one that was reached with what was noted, in the table at `state`. */
static void compare(struct mch_key_walk *w, int baseline, int state, const char *module,
                    const char *name) {
  lua_State *L = w->L;
  int top = lua_gettop(L), known = top + 2;
  luaL_checkstack(L, 40, NULL);
  push_name(L, module, name);
  lua_pushvalue(L, -1);
  lua_rawget(L, state);
  push_current(L, module, name);
  if (lua_isboolean(L, known) || !can_change(w, module) ||
      (baseline != 0 && module != NULL && lua_isfunction(L, -1) &&
       !was_loaded(L, baseline, module))) { /* workers run the module's file */
    lua_settop(L, top);
    return;
  }
  hash_value(w, 0);
  if (baseline == 0) {
    lua_pushvalue(L, top + 1);
    lua_pushvalue(L, -2);
    lua_rawset(L, state);
  } else if (!lua_toboolean(L, -1) || !lua_rawequal(L, -1, known)) {
    send_along(L, baseline, module, name);
    lua_pushvalue(L, top + 1);
    lua_pushboolean(L, 1);
    lua_rawset(L, state);
  }
  lua_settop(L, top);
}

static int is_ours_or_standard(const char *module) {
  return module != NULL && mch_names_kind(module) != MCH_MODULE_OTHER;
}

void mch_keyer_new_call(lua_State *L) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
}

void mch_keyer_compare(lua_State *L, int keyer, int baseline, int is_own) {
  int top = lua_gettop(L), state;
  struct mch_key_walk *w = mch_keyer_walk(L, keyer);
  size_t from = is_own ? w->mark.reached : 0, end = is_own ? w->reached.length : w->mark.reached;
  if (from == end) {
    lua_settop(L, top);
    return;
  }
  if (baseline != 0) {
    state = push_state(L, baseline);
  } else {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &pending_key) != LUA_TTABLE) {
      lua_pop(L, 1);
      lua_newtable(L);
      lua_pushvalue(L, -1);
      lua_rawsetp(L, LUA_REGISTRYINDEX, &pending_key);
    }
    state = lua_gettop(L);
  }
  for (; from < end; from += sizeof(struct mch_reached)) {
    struct mch_reached reached = *(struct mch_reached *)(void *)(w->reached.data + from);
    if (is_ours_or_standard(reached.module))
      continue;
    lua_pushlstring(L, reached.name, reached.length);
    if (strlen(lua_tostring(L, -1)) == reached.length)
      compare(w, baseline, state, reached.module, lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  lua_settop(L, top);
}

/* ---- before a fork ---- */

/* Stack indices; `pending` may be 0. */
struct noting {
  int baseline, state, pending;
  int is_first; /* no worker was forked before */
  size_t left;  /* of MOST_IN_ALL */
};

/* Push the hash of the value at this index, above which are its name and nil; 0: it has none. */
static int push_first(struct mch_key_walk *w, struct noting *n, int value) {
  lua_State *L = w->L;
  if (n->pending != 0) {
    lua_pushvalue(L, value + 1);
    if (lua_rawget(L, n->pending) == LUA_TSTRING)
      return 1;
    lua_pop(L, 1);
  }
  if (n->left < MOST_OBJECTS)
    return 0;
  lua_pushvalue(L, value);
  n->left -= hash_value(w, MOST_OBJECTS);
  return lua_toboolean(L, -1);
}

/* The same, above which are its name and what was noted at the first fork. Push true if it differs,
 * and send it along. What was not noted then is not known now, either. */
static int push_again(struct mch_key_walk *w, const struct noting *n, int value, const char *module,
                      const char *name) {
  lua_State *L = w->L;
  if (lua_type(L, value + 2) != LUA_TSTRING)
    return 0;
  lua_pushvalue(L, value);
  hash_value(w, 0);
  if (lua_rawequal(L, -1, value + 2))
    return 0;
  send_along(L, n->baseline, module, name);
  lua_pushboolean(L, 1);
  return 1;
}

/* Note one, whose value is on top of the stack; or, if it was noted before, see whether it differs:
 * workers that differ among themselves are sent it always. Pops the value. */
static void note(struct mch_key_walk *w, struct noting *n, const char *module, const char *name) {
  lua_State *L = w->L;
  int value = lua_gettop(L);
  luaL_checkstack(L, 40, NULL);
  if (!can_change(w, module)) {
    lua_pop(L, 1);
    return;
  }
  push_name(L, module, name);
  lua_pushvalue(L, -1);
  lua_rawget(L, n->state);
  if (n->is_first ? push_first(w, n, value) : push_again(w, n, value, module, name)) {
    lua_pushvalue(L, value + 1);
    lua_pushvalue(L, -2);
    lua_rawset(L, n->state);
  }
  lua_settop(L, value - 1);
}

/* Note the fields of the table on top of the stack, which are globals, or of a module. */
static void note_fields(struct mch_key_walk *w, struct noting *n, const char *module) {
  lua_State *L = w->L;
  int table = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (lua_type(L, -2) == LUA_TSTRING && strlen(lua_tostring(L, -2)) == lua_rawlen(L, -2))
      note(w, n, module, lua_tostring(L, -2));
    else
      lua_pop(L, 1);
  }
}

static void note_modules(struct mch_key_walk *w, struct noting *n) {
  lua_State *L = w->L;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_istable(L, -1) &&
        mch_names_kind(lua_tostring(L, -2)) == MCH_MODULE_OTHER)
      note_fields(w, n, lua_tostring(L, -2));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

void mch_keyer_forking(lua_State *L, int keyer, int baseline, int in_call) {
  int top = lua_gettop(L);
  struct noting n;
  struct mch_key_walk *w = mch_keyer_walk(L, keyer);
  n.baseline = lua_absindex(L, baseline);
  n.is_first = lua_rawgeti(L, baseline, MCH_BASELINE_STATE) == LUA_TNIL;
  lua_pop(L, 1);
  n.state = push_state(L, n.baseline);
  n.pending = 0;
  n.left = MOST_IN_ALL;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &pending_key) == LUA_TTABLE && in_call)
    n.pending = lua_gettop(L);
  mch_keyer_new_call(L);
  lua_pushglobaltable(L);
  note_fields(w, &n, NULL);
  note_modules(w, &n);
  lua_settop(L, top);
}
