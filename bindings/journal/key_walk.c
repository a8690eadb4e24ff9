/* Runs in: parent.
 *
 * The walk itself (key_walk.h): values, and the order in which objects are written. */
#include "key_walk.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "bindings/values/graph.h"
#include "bindings/values/number.h"

enum { MOST_HOOKS = 10000, LONG = 1 << 18 };

uint32_t mch_key_walk_met(const struct mch_key_walk *w, uint64_t key) {
  const uint32_t *number = mch_set_find(&w->met[0], key);
  if (number == NULL && w->layer == 1)
    number = mch_set_find(&w->met[1], key);
  return number != NULL ? *number : 0;
}

void mch_key_walk_meet(struct mch_key_walk *w, uint64_t key, uint32_t number) {
  if (!mch_set_put(&w->met[w->layer], key, number))
    mch_key_walk_no_memory(w);
}

uint32_t mch_key_walk_add(struct mch_key_walk *w, int object, const struct mch_node *node) {
  uint32_t number = mch_key_walk_nodes(w) + 1;
  mch_buf_append(&w->nodes, node, sizeof *node);
  if (w->nodes.failed)
    mch_key_walk_no_memory(w);
  mch_key_walk_meet(w, mch_set_of_pointer(lua_topointer(w->L, object)), number);
  lua_pushvalue(w->L, object);
  lua_rawseti(w->L, w->queue, (lua_Integer)number);
  return number;
}

/* ---- values ---- */

static void put_integer(struct mch_key_walk *w, lua_Integer value) {
  unsigned char bytes[9];
  bytes[0] = 'i';
  mch_store_u64(bytes + 1, (uint64_t)value);
  mch_key_out_bytes(w, bytes, sizeof bytes);
}

static void put_float(struct mch_key_walk *w, lua_Number value) {
  unsigned char bytes[9];
  bytes[0] = 'd';
  mch_store_u64(bytes + 1, mch_number_bits_of_float(value));
  mch_key_out_bytes(w, bytes, sizeof bytes);
}

/* The name is on top of the stack. Pops it. */
static int put_name(struct mch_key_walk *w, int object) {
  lua_State *L = w->L;
  size_t length;
  const char *text = lua_tolstring(L, -1, &length);
  mch_key_out_string(w, 'c', text, length);
  if (lua_iscfunction(L, object))
    mch_names_push_version(L, &w->names, w->files, object);
  else
    lua_pushliteral(L, "");
  text = lua_tolstring(L, -1, &length);
  mch_key_out_string(w, 's', text, length);
  lua_pop(L, 2);
  return 1;
}

/* The object at this index, by its number; a new one is written later. */
static int put_object(struct mch_key_walk *w, int object, const struct mch_node *node) {
  static const char types[] = "?????TFU?";
  uint32_t number = mch_key_walk_met(w, mch_set_of_pointer(lua_topointer(w->L, object)));
  if (number != 0) {
    mch_key_out_byte(w, 'R');
    mch_key_out_number(w, number);
    return 1;
  }
  mch_key_walk_add(w, object, node);
  mch_key_out_byte(w, 'N');
  mch_key_out_byte(w, (unsigned char)types[lua_type(w->L, object)]);
  return 1;
}

int mch_key_walk_module(struct mch_key_walk *w, int table, const char *name,
                        const struct mch_node *node, int followed) {
  struct mch_key_walk *of = w->owner != NULL ? w->owner : w;
  int is_new;
  uint32_t number;
  if (w->is_state || mch_names_kind(name) == MCH_MODULE_OURS) {
    mch_key_out_string(w, 'c', name, strlen(name));
    return 1;
  }
  number = mch_key_modules_meet(of, table, name, &is_new);
  if (is_new || w->is_versioned) {
    mch_key_out_string(w, 'm', name, strlen(name));
  } else {
    mch_key_out_byte(w, 'R');
    mch_key_out_number(w, number);
  }
  mch_key_modules_use(of, number, !followed && node->kind != MCH_NODE_META,
                      node->kind == MCH_NODE_META);
  return 1;
}

static int put_table(struct mch_key_walk *w, int table, const struct mch_node *node, int followed) {
  const char *module = mch_names_module(w->L, &w->names, table);
  if (module != NULL)
    return mch_key_walk_module(w, table, module, node, followed);
  return put_object(w, table, node);
}

/* Is the Lua function at this index from a part of mantichora? */
static int is_ours(lua_State *L, int function) {
  static const char prefix[] = "=mantichora/";
  lua_Debug ar;
  lua_pushvalue(L, function);
  lua_getinfo(L, ">S", &ar);
  return strncmp(ar.source, prefix, sizeof prefix - 1) == 0;
}

/* Push the name by which the Lua function at this index goes, if it is one of ours. Those that have
 * none of their own are known by who holds them: `is_task`, nobody does. */
static int push_our_name(struct mch_key_walk *w, int function, int is_task) {
  lua_State *L = w->L;
  lua_pushvalue(L, function);
  if (lua_rawget(L, w->names.objects) == LUA_TSTRING)
    return 1;
  lua_pop(L, 1);
  if (is_task || !is_ours(L, function))
    return 0;
  lua_pushliteral(L, "mantichora");
  return 1;
}

/* A version says what functions do; the values that they reach count. */
static int put_versioned(struct mch_key_walk *w, int function) {
  mch_key_out_byte(w, 'f');
  mch_key_version_follow(w->owner != NULL ? w->owner : w, function);
  return 1;
}

static int put_function(struct mch_key_walk *w, int function, const struct mch_node *node) {
  lua_State *L = w->L;
  if (w->is_versioned)
    return put_versioned(w, function);
  if (lua_iscfunction(L, function)) {
    if (mch_names_find(L, &w->names, function))
      return put_name(w, function);
    return mch_key_refuse(w, node, "C function");
  }
  if (mch_key_walk_met(w, mch_set_of_pointer(lua_topointer(L, function))) == 0 &&
      push_our_name(w, function, node->kind == MCH_NODE_FUNCTION))
    return put_name(w, function);
  return put_object(w, function, node);
}

/* Push the hook of the value at this index, unless it has none. */
static int push_hook(lua_State *L, int object) {
  if (!lua_getmetatable(L, object))
    return 0;
  lua_pushliteral(L, "__mantichora");
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_pop(L, 2);
    return 0;
  }
  lua_remove(L, -2);
  return 1;
}

static int put_userdata(struct mch_key_walk *w, int object, const struct mch_node *node) {
  lua_State *L = w->L;
  char what[100];
  const char *name = NULL;
  if (!w->is_state && push_hook(L, object)) {
    lua_pop(L, 1);
    return put_object(w, object, node);
  }
  if (mch_names_find(L, &w->names, object))
    return put_name(w, object);
  if (luaL_getmetafield(L, object, "__name") == LUA_TSTRING)
    name = lua_tostring(L, -1);
  snprintf(what, sizeof what, name != NULL ? "userdata (%s)" : "userdata", name);
  return mch_key_refuse(w, node, what);
}

static int put_light(struct mch_key_walk *w, int at, const struct mch_node *node) {
  if (lua_touserdata(w->L, at) == NULL) {
    mch_key_out_byte(w, 'l');
    return 1;
  }
  if (mch_names_find(w->L, &w->names, at))
    return put_name(w, at);
  return mch_key_refuse(w, node, "light userdata");
}

int mch_key_walk_value(struct mch_key_walk *w, const struct mch_node *node, int followed) {
  lua_State *L = w->L;
  int at = lua_gettop(L), good = 1;
  const char *text;
  size_t length;
  switch (lua_type(L, at)) {
  case LUA_TNIL:
    mch_key_out_byte(w, 'n');
    break;
  case LUA_TBOOLEAN:
    mch_key_out_byte(w, lua_toboolean(L, at) ? 't' : 'f');
    break;
  case LUA_TNUMBER:
    if (lua_isinteger(L, at))
      put_integer(w, lua_tointeger(L, at));
    else
      put_float(w, lua_tonumber(L, at));
    break;
  case LUA_TSTRING:
    text = lua_tolstring(L, at, &length);
    if (w->most > 0 && length > LONG)
      good = mch_key_refuse(w, node, "a long string");
    else
      mch_key_out_string(w, 's', text, length);
    break;
  case LUA_TTABLE:
    good = put_table(w, at, node, followed);
    break;
  case LUA_TFUNCTION:
    good = put_function(w, at, node);
    break;
  case LUA_TUSERDATA:
    good = put_userdata(w, at, node);
    break;
  case LUA_TLIGHTUSERDATA:
    good = put_light(w, at, node);
    break;
  default:
    good = mch_key_refuse(w, node, "coroutine (thread)");
  }
  lua_settop(L, at - 1);
  return good;
}

/* ---- objects ---- */

/* Replace the hook on top of the stack by the list of what it returns for the object below it. 0:
 * it failed. */
static int call_hook(struct mch_key_walk *w) {
  lua_State *L = w->L;
  int hook = lua_gettop(L);
  lua_pushvalue(L, hook - 1);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK)
    return 0;
  mch_encode_list_hooked(L, hook);
  return 1;
}

/* The same, unless it was called already. */
static int find_hooked(struct mch_key_walk *w) {
  lua_State *L = w->L;
  int hook = lua_gettop(L);
  if (lua_isnil(L, w->hooked)) {
    lua_newtable(L);
    lua_replace(L, w->hooked);
  }
  lua_pushvalue(L, hook - 1);
  if (lua_rawget(L, w->hooked) == LUA_TTABLE) {
    lua_replace(L, hook);
    return 1;
  }
  lua_pop(L, 1);
  if (!call_hook(w))
    return 0;
  lua_pushvalue(L, hook - 1);
  lua_pushvalue(L, hook);
  lua_rawset(L, w->hooked);
  return 1;
}

/* Write what the hook on top of the stack returns for the object below it. Pops it. */
static int put_hooked(struct mch_key_walk *w, uint32_t number) {
  lua_State *L = w->L;
  struct mch_node node;
  int object = lua_gettop(L) - 1, n, i, good = 1;
  if (++w->hooks > MOST_HOOKS)
    return mch_key_refuse(w, mch_key_walk_node(w, number),
                          "its __mantichora goes on without an end");
  if (!find_hooked(w))
    return mch_key_refuse(w, mch_key_walk_node(w, number), "its __mantichora failed");
  lua_rawgeti(L, object + 1, 0);
  n = (int)lua_tointeger(L, -1);
  mch_key_out_byte(w, 'H');
  mch_key_out_number(w, (uint64_t)n);
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_HOOK;
  node.parent = number;
  for (i = 1; i <= n && good; i++) {
    lua_rawgeti(L, object + 1, i);
    mch_key_out_begin_part(w);
    good = mch_key_walk_value(w, &node, 0);
    mch_key_out_end_part(w, &node, -1);
  }
  lua_settop(L, object);
  return good;
}

int mch_key_walk_next(struct mch_key_walk *w) {
  lua_State *L = w->L;
  int top = lua_gettop(L), good;
  uint32_t number = ++w->done;
  if (mch_key_walk_node(w, number)->is_module)
    return 1;
  luaL_checkstack(L, 30, NULL);
  if (lua_rawgeti(L, w->queue, (lua_Integer)number) == LUA_TFUNCTION)
    good = mch_key_walk_function(w, number);
  else if (!w->is_state && push_hook(L, top + 1))
    good = put_hooked(w, number);
  else
    good = mch_key_walk_table(w, number);
  lua_settop(L, top);
  return good;
}

int mch_key_walk_run(struct mch_key_walk *w) {
  int more = 1;
  while (more) {
    while (w->done < mch_key_walk_nodes(w))
      if (!mch_key_walk_next(w))
        return 0;
    if (!mch_key_modules_step(w, &more) || !mch_key_version_step(w, &more))
      return 0;
  }
  return 1;
}
