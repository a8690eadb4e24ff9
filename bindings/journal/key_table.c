/* Runs in: parent.
 *
 * Tables in the walk of a key (key_walk.h): the elements from 1 on, then the other entries in the
 * order of their keys. */
#include "key_walk.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

/* More entries than these are one part. */
enum { PARTS_OF_TABLE = 40 };

/* A key in its order: by rank, then by value. */
struct key {
  enum { RANK_FALSE, RANK_TRUE, RANK_INTEGER, RANK_FLOAT, RANK_STRING, RANK_NULL } rank;
  union {
    lua_Integer integer;
    lua_Number number;
    struct {
      const char *text; /* held by the table: no Lua code runs meanwhile */
      size_t length;
    } string;
  } as;
};

static int compare(const void *one, const void *other) {
  const struct key *a = one, *b = other;
  size_t length;
  int order;
  if (a->rank != b->rank)
    return a->rank < b->rank ? -1 : 1;
  switch (a->rank) {
  case RANK_INTEGER:
    return a->as.integer < b->as.integer ? -1 : a->as.integer > b->as.integer;
  case RANK_FLOAT:
    return a->as.number < b->as.number ? -1 : a->as.number > b->as.number;
  case RANK_STRING:
    length = a->as.string.length < b->as.string.length ? a->as.string.length : b->as.string.length;
    order = memcmp(a->as.string.text, b->as.string.text, length);
    if (order == 0 && a->as.string.length != b->as.string.length)
      order = a->as.string.length < b->as.string.length ? -1 : 1;
    return order;
  default:
    return 0;
  }
}

/* The key at this index, as something that has an order. 0: it has none. */
static int read_key(lua_State *L, int at, struct key *key) {
  switch (lua_type(L, at)) {
  case LUA_TBOOLEAN:
    key->rank = lua_toboolean(L, at) ? RANK_TRUE : RANK_FALSE;
    return 1;
  case LUA_TNUMBER:
    key->rank = lua_isinteger(L, at) ? RANK_INTEGER : RANK_FLOAT;
    if (key->rank == RANK_INTEGER)
      key->as.integer = lua_tointeger(L, at);
    else
      key->as.number = lua_tonumber(L, at);
    return 1;
  case LUA_TSTRING:
    key->rank = RANK_STRING;
    key->as.string.text = lua_tolstring(L, at, &key->as.string.length);
    return 1;
  case LUA_TLIGHTUSERDATA:
    key->rank = RANK_NULL;
    return lua_touserdata(L, at) == NULL;
  default:
    return 0;
  }
}

static void push_key(lua_State *L, const struct key *key) {
  switch (key->rank) {
  case RANK_INTEGER:
    lua_pushinteger(L, key->as.integer);
    break;
  case RANK_FLOAT:
    lua_pushnumber(L, key->as.number);
    break;
  case RANK_STRING:
    lua_pushlstring(L, key->as.string.text, key->as.string.length);
    break;
  case RANK_NULL:
    lua_pushlightuserdata(L, NULL);
    break;
  default:
    lua_pushboolean(L, key->rank == RANK_TRUE);
  }
}

static struct mch_node node_of_key(uint32_t parent, const struct key *key) {
  struct mch_node node;
  memset(&node, 0, sizeof node);
  node.parent = parent;
  node.kind = MCH_NODE_KEY;
  switch (key->rank) {
  case RANK_INTEGER:
    node.kind = MCH_NODE_INDEX;
    node.number = key->as.integer;
    break;
  case RANK_STRING:
    node.kind = MCH_NODE_FIELD;
    node.text = key->as.string.text;
    node.length = key->as.string.length;
    break;
  case RANK_FLOAT:
    node.text = "a float";
    break;
  case RANK_NULL:
    node.text = "light userdata";
    break;
  default:
    node.text = key->rank == RANK_TRUE ? "true" : "false";
  }
  if (node.length == 0 && node.text != NULL && node.kind == MCH_NODE_KEY)
    node.length = strlen(node.text);
  return node;
}

static int refuse_key(struct mch_key_walk *w, uint32_t parent, int at) {
  struct mch_node node;
  memset(&node, 0, sizeof node);
  node.parent = parent;
  node.kind = MCH_NODE_KEY;
  node.text = lua_typename(w->L, lua_type(w->L, at));
  node.length = strlen(node.text);
  return mch_key_refuse(w, &node, NULL);
}

/* Elements from 1 on; those beyond w->most are not counted. */
static lua_Integer count_elements(const struct mch_key_walk *w) {
  lua_State *L = w->L;
  lua_Integer n = 0;
  while ((w->most == 0 || n <= (lua_Integer)w->most) && lua_rawgeti(L, -1, n + 1) != LUA_TNIL) {
    n++;
    lua_pop(L, 1);
  }
  if (w->most == 0 || n <= (lua_Integer)w->most)
    lua_pop(L, 1);
  return n;
}

static int refuse_size(struct mch_key_walk *w, uint32_t number) {
  return mch_key_refuse(w, mch_key_walk_node(w, number), "a large table");
}

/* Collect the keys of the table on top of the stack, but for those from 1 to n, in `keys` behind
 * what is there; sorted. *count: how many. */
static int sort_keys(struct mch_key_walk *w, uint32_t number, lua_Integer n, size_t *count) {
  lua_State *L = w->L;
  int table = lua_gettop(L);
  size_t from = w->keys.length;
  struct key key;
  memset(&key, 0, sizeof key);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    if (!read_key(L, table + 1, &key))
      return refuse_key(w, number, table + 1);
    if (key.rank == RANK_INTEGER && key.as.integer >= 1 && key.as.integer <= n)
      continue;
    mch_buf_append(&w->keys, &key, sizeof key);
    if (w->most > 0 && w->keys.length - from > w->most * sizeof key)
      return refuse_size(w, number);
  }
  if (w->keys.failed)
    mch_key_walk_no_memory(w);
  *count = (w->keys.length - from) / sizeof key;
  if (*count > 1)
    qsort(w->keys.data + from, *count, sizeof key, compare);
  return 1;
}

/* Write the value on top, as a part of its own if there are few. Pops it. */
static int put_entry(struct mch_key_walk *w, const struct mch_node *node, int is_part) {
  int good;
  if (!is_part)
    return mch_key_walk_value(w, node, 0);
  mch_key_out_begin_part(w);
  good = mch_key_walk_value(w, node, 0);
  if (good)
    mch_key_out_end_part(w, node, -1);
  return good;
}

static int put_elements(struct mch_key_walk *w, uint32_t number, lua_Integer n, int are_parts) {
  struct mch_node node;
  int table = lua_gettop(w->L);
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_INDEX;
  node.parent = number;
  for (node.number = 1; node.number <= n; node.number++) {
    lua_rawgeti(w->L, table, node.number);
    if (!put_entry(w, &node, are_parts))
      return 0;
  }
  return 1;
}

static int put_entries(struct mch_key_walk *w, uint32_t number, size_t count, int are_parts) {
  lua_State *L = w->L;
  int table = lua_gettop(L);
  size_t i;
  for (i = 0; i < count; i++) {
    struct key key = ((const struct key *)(const void *)w->keys.data)[i];
    struct mch_node node = node_of_key(number, &key);
    if (are_parts)
      mch_key_out_begin_part(w);
    push_key(L, &key);
    if (!mch_key_walk_value(w, &node, 0))
      return 0;
    push_key(L, &key);
    lua_rawget(L, table);
    if (!mch_key_walk_value(w, &node, 0))
      return 0;
    if (are_parts)
      mch_key_out_end_part(w, &node, -1);
  }
  return 1;
}

int mch_key_walk_table_entries(struct mch_key_walk *w, uint32_t number) {
  lua_Integer n = count_elements(w);
  size_t count = 0, total;
  int are_parts, good;
  if (w->most > 0 && n > (lua_Integer)w->most)
    return refuse_size(w, number);
  mch_buf_clear(&w->keys);
  if (!sort_keys(w, number, n, &count))
    return 0;
  total = (size_t)n + count;
  are_parts = total <= PARTS_OF_TABLE && mch_key_out_may_part(w, total);
  if (!are_parts)
    mch_key_out_begin_part(w);
  mch_key_out_number(w, (uint64_t)n);
  good = put_elements(w, number, n, are_parts);
  if (good) {
    mch_key_out_number(w, count);
    good = put_entries(w, number, count, are_parts);
  }
  if (good && !are_parts) {
    struct mch_node node = *mch_key_walk_node(w, number);
    mch_key_out_end_part(w, &node, -1);
  }
  return good;
}

/* Is the table with the metatable on top weak? */
static int is_weak(lua_State *L) {
  const char *mode;
  int weak;
  lua_pushliteral(L, "__mode");
  lua_rawget(L, -2);
  mode = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  weak = strpbrk(mode, "kv") != NULL;
  lua_pop(L, 1);
  return weak;
}

int mch_key_walk_table(struct mch_key_walk *w, uint32_t number) {
  lua_State *L = w->L;
  struct mch_node node;
  int weak;
  if (!lua_getmetatable(L, -1)) {
    mch_key_out_bytes(w, "T0", 2);
    return mch_key_walk_table_entries(w, number);
  }
  weak = is_weak(L);
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_META;
  node.parent = number;
  mch_key_out_bytes(w, weak ? "W1" : "T1", 2);
  if (!put_entry(w, &node, mch_key_out_may_part(w, 1)))
    return 0;
  return weak || mch_key_walk_table_entries(w, number);
}
