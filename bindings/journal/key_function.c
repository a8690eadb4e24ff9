/* Runs in: parent.
 *
 * Functions in the walk of a key (key_walk.h): their code, what is in their upvalues, and the
 * globals that the code names. */
#include "key_walk.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/values/globals.h"

/* Salts for what is met once. */
enum { MET_VARIABLE = 11, MET_GLOBAL };

void mch_key_walk_global(struct mch_key_walk *w, int env, const char *name, size_t length) {
  lua_State *L = w->L;
  int top = lua_gettop(L), found = -1;
  lua_pushlstring(L, name, length);
  lua_pushglobaltable(L);
  if (lua_istable(L, env) && !lua_rawequal(L, env, top + 2))
    found = mch_globals_find(L, env, top + 1);
  if (found < 0) {
    lua_pushvalue(L, top + 1);
    lua_rawget(L, top + 2);
  } else if (found == 0) {
    lua_pushnil(L);
  }
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* Write the variable that is the upvalue, and what is in it, which is on top of the stack.
 * Functions that share a variable differ from functions that have two of the same value. */
static int put_variable(struct mch_key_walk *w, int function, int i, const struct mch_node *node,
                        int followed) {
  uint64_t id = mch_set_of_pointer(lua_upvalueid(w->L, function, i)) ^ UINT64_C(1) << 63;
  uint32_t known = mch_key_walk_met(w, id);
  int good;
  if (known != 0) {
    if (!w->is_versioned) {
      mch_key_out_byte(w, 'V');
      mch_key_out_number(w, known);
    }
    lua_pop(w->L, 1);
    return 1;
  }
  mch_key_walk_meet(w, id, ++w->variables);
  if (w->is_versioned)
    return mch_key_version_take(w, node, followed);
  mch_key_out_begin_part(w);
  mch_key_out_byte(w, 'v');
  good = mch_key_walk_value(w, node, followed);
  if (good)
    mch_key_out_end_part(w, node, -1);
  return good;
}

static int put_upvalues(struct mch_key_walk *w, uint32_t number, const struct mch_key_code *code) {
  lua_State *L = w->L;
  int function = lua_gettop(L) - 1, i; /* the code is above */
  const char *name;
  struct mch_node node;
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_UPVALUE;
  node.parent = number;
  for (i = 1; (name = lua_getupvalue(L, function, i)) != NULL; i++) {
    if (i == code->env && (w->is_state || !code->wants_env || lua_isnil(L, -1))) {
      lua_pop(L, 1);
      continue;
    }
    if (i == code->env) {
      lua_pushglobaltable(L);
      if (lua_rawequal(L, -1, -2)) { /* its fields count by name */
        lua_pop(L, 2);
        continue;
      }
      lua_pop(L, 1);
    }
    node.text = name;
    node.length = strlen(name);
    if (!put_variable(w, function, i, &node, !code->flow.is_opaque))
      return 0;
  }
  return 1;
}

/* Write the global with the name on top of the stack, as the environment below it has it. Pops the
 * name. */
static int put_global(struct mch_key_walk *w, int env, int followed) {
  lua_State *L = w->L;
  struct mch_node node;
  uint64_t id;
  const void *of = NULL;
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_GLOBAL;
  node.text = lua_tolstring(L, -1, &node.length);
  lua_pushglobaltable(L);
  if (!lua_rawequal(L, -1, env))
    of = lua_topointer(L, env);
  lua_pop(L, 1);
  id = mch_set_mix(MET_GLOBAL, node.text, node.length) ^ mch_set_of_pointer(of);
  if (mch_key_walk_met(w, id) != 0) {
    lua_pop(L, 1);
    return 1;
  }
  mch_key_walk_meet(w, id, 1);
  if (of == NULL)
    mch_key_state_reach(w, NULL, node.text, node.length);
  mch_key_walk_global(w, env, node.text, node.length);
  if (w->is_versioned) {
    if (!mch_key_version_take(w, &node, followed))
      return 0;
  } else {
    mch_key_out_begin_part(w);
    mch_key_out_string(w, 'G', node.text, node.length);
    if (!mch_key_walk_value(w, &node, followed))
      return 0;
    mch_key_out_end_part(w, &node, -1);
  }
  lua_pop(L, 1);
  return 1;
}

static int put_globals(struct mch_key_walk *w, const struct mch_key_code *code) {
  lua_State *L = w->L;
  int top = lua_gettop(L), function = top - 1, names = top + 1, env = top + 2;
  lua_Integer i;
  if (code->env == 0 || lua_getiuservalue(L, top, MCH_CODE_NAMES) != LUA_TTABLE) {
    lua_settop(L, top);
    return 1;
  }
  lua_getupvalue(L, function, code->env);
  for (i = 1; lua_rawgeti(L, names, i) == LUA_TSTRING; i++)
    if (!put_global(w, env, !code->flow.is_opaque))
      return 0;
  lua_settop(L, top);
  return 1;
}

int mch_key_walk_function(struct mch_key_walk *w, uint32_t number) {
  lua_State *L = w->L;
  int function = lua_gettop(L);
  struct mch_node node;
  const struct mch_key_code *code;
  memset(&node, 0, sizeof node);
  if (!w->is_versioned)
    node = *mch_key_walk_node(w, number);
  code = mch_key_code_push(L, w->owner != NULL ? &w->owner->codes : &w->codes, function,
                           node.kind != MCH_NODE_FUNCTION);
  if (!w->is_versioned) {
    mch_key_out_begin_part(w);
    mch_key_out_byte(w, 'F');
    mch_key_out_bytes(w, code->hash, sizeof code->hash);
    mch_key_out_end_part(w, &node, code->line);
  }
  if (!put_upvalues(w, number, code))
    return 0;
  if (!w->is_state) {
    mch_key_modules_add_constants(w, code);
    if (!put_globals(w, code) || !mch_key_modules_require(w, code))
      return 0;
    mch_key_modules_follow(w, code);
  }
  lua_settop(L, function);
  return 1;
}
