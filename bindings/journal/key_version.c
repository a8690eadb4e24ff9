/* Runs in: parent.
 *
 * A version in the place of code in the walk of a key (key_walk.h). Functions are not hashed, but
 * the values that they reach are, each by itself, and the hashes go in sorted and each once: an
 * edit that takes the same values in another order, from another function or under other names
 * makes the same key. */
#include "key_walk.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

void mch_key_version_follow(struct mch_key_walk *w, int function) {
  lua_State *L = w->L;
  uint64_t id = mch_set_of_pointer(lua_topointer(L, function));
  if (lua_iscfunction(L, function) || mch_key_walk_met(w, id) != 0)
    return;
  mch_key_walk_meet(w, id, 1);
  lua_pushvalue(L, function);
  lua_rawseti(L, w->functions, (lua_Integer)++w->function_count);
}

/* Number the tables of the value that was walked, by its hash. */
static void name_tables(struct mch_key_walk *w, const unsigned char hash[MCH_HASH_SIZE]) {
  lua_State *L = w->L;
  uint32_t number;
  for (number = 1; number <= mch_key_walk_nodes(w->values); number++) {
    int top = lua_gettop(L);
    uint64_t name = mch_set_mix(number, hash, MCH_HASH_SIZE) | UINT64_C(1) << 63;
    if (lua_rawgeti(L, w->values->queue, (lua_Integer)number) == LUA_TTABLE) {
      if (lua_rawgeti(L, w->named[w->layer], (lua_Integer)name) != LUA_TNIL &&
          !lua_rawequal(L, -1, -2))
        lua_pushboolean(L, 0);
      else
        lua_pop(L, 1);
      lua_rawseti(L, w->named[w->layer], (lua_Integer)name);
    }
    lua_settop(L, top);
  }
}

/* Walk the value on top of the stack by itself. Pops it. */
static int digest(struct mch_key_walk *w, const struct mch_node *node) {
  struct mch_key_walk *values = w->values;
  struct mch_node base;
  unsigned char hash[MCH_HASH_SIZE];
  struct mch_buf *parts = &w->parts[w->layer];
  mch_key_walk_clear(values);
  values->is_versioned = 1;
  values->L = w->L;
  mch_buf_clear(&w->text);
  mch_key_path(w, node, -1);
  memset(&base, 0, sizeof base);
  base.kind = MCH_NODE_WORDS;
  base.text = (const char *)w->text.data;
  base.length = w->text.length;
  mch_key_out_begin_part(values);
  if (!mch_key_walk_value(values, &base, 0)) {
    memcpy(w->refused, values->refused, sizeof w->refused);
    return 0;
  }
  mch_key_out_end_part(values, &base, -1);
  if (!mch_key_walk_run(values)) {
    memcpy(w->refused, values->refused, sizeof w->refused);
    return 0;
  }
  mch_key_out_end(values, hash);
  w->hooks += values->hooks;
  name_tables(w, hash);
  mch_buf_append(&w->digests[w->layer], hash, sizeof hash);
  if (mch_key_out_may_part(w, values->part_count[0])) {
    mch_buf_append(parts, values->parts[0].data, values->parts[0].length);
    w->part_count[w->layer] += values->part_count[0];
  }
  if (w->digests[w->layer].failed || parts->failed)
    mch_key_walk_no_memory(w);
  return 1;
}

int mch_key_version_take(struct mch_key_walk *w, const struct mch_node *node, int followed) {
  lua_State *L = w->L;
  int value = lua_gettop(L), good = 1;
  const char *module;
  if (lua_isfunction(L, value)) {
    mch_key_version_follow(w, value);
  } else if (lua_istable(L, value) && (module = mch_names_module(L, &w->names, value)) != NULL) {
    if (mch_names_kind(module) != MCH_MODULE_OURS) {
      int is_new;
      uint32_t number = mch_key_modules_meet(w, value, module, &is_new);
      mch_key_modules_use(w, number, !followed && node->kind != MCH_NODE_META,
                          node->kind == MCH_NODE_META);
    }
  } else if (!lua_isnil(L, value)) {
    good = digest(w, node);
  }
  lua_settop(L, value - 1);
  return good;
}

int mch_key_version_step(struct mch_key_walk *w, int *more) {
  lua_State *L = w->L;
  while (w->functions_done < w->function_count) {
    int top = lua_gettop(L), good;
    luaL_checkstack(L, 30, NULL);
    lua_rawgeti(L, w->functions, (lua_Integer)++w->functions_done);
    good = mch_key_walk_function(w, 0);
    lua_settop(L, top);
    if (!good)
      return 0;
    *more = 1;
  }
  return 1;
}

static int compare(const void *one, const void *other) {
  return memcmp(one, other, MCH_HASH_SIZE);
}

void mch_key_version_end(struct mch_key_walk *w) {
  struct mch_buf *digests = &w->digests[w->layer];
  size_t count = digests->length / MCH_HASH_SIZE, i;
  const unsigned char *at = digests->data;
  if (!w->is_versioned)
    return;
  if (count > 1)
    qsort(digests->data, count, MCH_HASH_SIZE, compare);
  mch_key_out_byte(w, '{');
  for (i = 0; i < count; i++, at += MCH_HASH_SIZE)
    if (i == 0 || memcmp(at, at - MCH_HASH_SIZE, MCH_HASH_SIZE) != 0)
      mch_key_out_bytes(w, at, MCH_HASH_SIZE);
  mch_key_out_byte(w, '}');
}
