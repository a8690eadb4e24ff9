/* Runs in: parent. Purpose: key.h. */
#include "key.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/values/number.h"
#include "key_walk.h"

static const char keyer_type[] = "mantichora.journal.keyer";

/* User values of a keyer, which come to the stack in this order. */
enum {
  VALUE_QUEUE = 1,
  VALUE_OBJECTS,
  VALUE_MODULES,
  VALUE_OWNERS,
  VALUE_VERSIONS,
  VALUE_DUMPS,
  VALUE_FUNCTIONS,
  VALUE_CHUNKS,
  VALUE_CALL,      /* the function of the call */
  VALUE_VALUES,    /* the queue of the walk through single values */
  VALUE_FOLLOWED,  /* functions in whose place a version stands */
  VALUE_NAMED,     /* objects in the values that these reach, by number */
  VALUE_NAMED_OWN, /* likewise, of one task */
  VALUE_HOOKED,    /* what hooks have returned, or nil */
  VALUES = VALUE_HOOKED
};

/* More codes than these are forgotten, when a call begins. */
enum { MOST_CODES = 20000 };

struct mch_keyer {
  struct mch_key_walk walk;
  struct mch_key_walk values; /* through values that code reaches, if it has a version */
  struct mch_buf dump;
  lua_Integer stamp;   /* of package.loaded, for names */
  int is_begun;        /* the common walk was good */
  int function_is_lua; /* of the call */
  int hooks;           /* that the common walk has called */
  unsigned char common[MCH_HASH_SIZE];
};

static void free_walk(struct mch_key_walk *w) {
  int i;
  for (i = 0; i < 2; i++) {
    mch_set_free(&w->met[i]);
    mch_buf_free(&w->parts[i]);
    mch_buf_free(&w->digests[i]);
  }
  mch_buf_free(&w->nodes);
  mch_buf_free(&w->constants);
  mch_buf_free(&w->modules);
  mch_buf_free(&w->modules_kept);
  mch_buf_free(&w->out);
  mch_buf_free(&w->text);
  mch_buf_free(&w->keys);
  mch_buf_free(&w->inputs);
  mch_buf_free(&w->reached);
}

static int free_keyer(lua_State *L) {
  struct mch_keyer *keyer = luaL_checkudata(L, 1, keyer_type);
  free_walk(&keyer->walk);
  free_walk(&keyer->values);
  mch_buf_free(&keyer->dump);
  mch_files_free(keyer->walk.files);
  keyer->walk.files = NULL;
  return 0;
}

static void set_new_table(lua_State *L, int keyer, int value, const char *mode) {
  lua_newtable(L);
  if (mode != NULL) {
    lua_createtable(L, 0, 1);
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
  }
  lua_setiuservalue(L, keyer, value);
}

void mch_keyer_push(lua_State *L) {
  struct mch_keyer *keyer = lua_newuserdatauv(L, sizeof *keyer, VALUES);
  int at = lua_gettop(L);
  memset(keyer, 0, sizeof *keyer);
  if (luaL_newmetatable(L, keyer_type)) {
    lua_pushcfunction(L, free_keyer);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, at);
  keyer->walk.files = mch_files_new();
  keyer->walk.values = &keyer->values;
  keyer->values.owner = &keyer->walk;
  if (keyer->walk.files == NULL)
    luaL_error(L, "not enough memory");
  set_new_table(L, at, VALUE_QUEUE, NULL);
  set_new_table(L, at, VALUE_OBJECTS, "k");
  set_new_table(L, at, VALUE_MODULES, "k");
  set_new_table(L, at, VALUE_OWNERS, NULL);
  set_new_table(L, at, VALUE_VERSIONS, NULL);
  set_new_table(L, at, VALUE_DUMPS, NULL);
  set_new_table(L, at, VALUE_FUNCTIONS, "k");
  set_new_table(L, at, VALUE_CHUNKS, NULL);
  set_new_table(L, at, VALUE_VALUES, NULL);
  set_new_table(L, at, VALUE_FOLLOWED, NULL);
  set_new_table(L, at, VALUE_NAMED, NULL);
  set_new_table(L, at, VALUE_NAMED_OWN, NULL);
}

static struct mch_keyer *get(lua_State *L, int at) {
  return lua_touserdata(L, at);
}

struct mch_files *mch_keyer_files(lua_State *L, int keyer) {
  return get(L, keyer)->walk.files;
}

/* ---- layers ---- */

/* Bring what the walk needs to the stack. */
static void use_stack(lua_State *L, struct mch_keyer *keyer, int at) {
  struct mch_key_walk *w = &keyer->walk;
  int value, base = lua_gettop(L);
  luaL_checkstack(L, VALUES + 30, NULL);
  for (value = 1; value <= VALUES; value++)
    lua_getiuservalue(L, at, value);
  w->L = L;
  w->queue = base + VALUE_QUEUE;
  w->names.objects = base + VALUE_OBJECTS;
  w->names.modules = base + VALUE_MODULES;
  w->names.owners = base + VALUE_OWNERS;
  w->names.versions = base + VALUE_VERSIONS;
  w->codes.by_dump = base + VALUE_DUMPS;
  w->codes.by_function = base + VALUE_FUNCTIONS;
  w->codes.buf = &keyer->dump;
  w->chunks = base + VALUE_CHUNKS;
  w->functions = base + VALUE_FOLLOWED;
  w->named[0] = base + VALUE_NAMED;
  w->named[1] = base + VALUE_NAMED_OWN;
  w->hooked = keyer->values.hooked = base + VALUE_HOOKED;
  keyer->values.L = L;
  keyer->values.queue = base + VALUE_VALUES;
}

struct mch_key_walk *mch_keyer_walk(lua_State *L, int at) {
  struct mch_keyer *keyer = lua_touserdata(L, at);
  use_stack(L, keyer, lua_absindex(L, at));
  mch_names_open(L, &keyer->walk.names, &keyer->stamp);
  keyer->values.names = keyer->walk.names;
  keyer->values.files = keyer->walk.files;
  return &keyer->walk;
}

static void clear_out(struct mch_key_walk *w) {
  mch_buf_shrink(&w->out, 1 << 20);
  w->hashes = 0;
  w->part = 0;
  w->hooks = 0;
}

void mch_key_walk_clear(struct mch_key_walk *w) {
  int i;
  uint32_t n;
  if (w->owner != NULL) /* the queue stays, and is on the stack */
    for (n = mch_key_walk_nodes(w); n > 0; n--) {
      lua_pushnil(w->L);
      lua_rawseti(w->L, w->queue, (lua_Integer)n);
    }
  for (i = 0; i < 2; i++) {
    mch_set_clear(&w->met[i]);
    mch_buf_clear(&w->parts[i]);
    mch_buf_clear(&w->digests[i]);
    w->part_count[i] = 0;
  }
  mch_buf_shrink(&w->nodes, 1 << 20);
  mch_buf_clear(&w->constants);
  mch_buf_clear(&w->modules);
  mch_buf_shrink(&w->keys, 1 << 20);
  w->done = 0;
  w->layer = 0;
  w->variables = 0;
  w->is_versioned = w->is_state = 0;
  w->most = 0;
  mch_buf_clear(&w->reached);
  w->function_count = w->functions_done = 0;
  clear_out(w);
}

/* What hooks have returned is kept for the call. */
static void keep_hooked(lua_State *L, const struct mch_keyer *keyer, int at) {
  if (keyer->walk.hooks == 0)
    return;
  lua_pushvalue(L, keyer->walk.hooked);
  lua_setiuservalue(L, at, VALUE_HOOKED);
}

void mch_keyer_set_hooked(lua_State *L, int at, int hooked) {
  at = lua_absindex(L, at);
  if (hooked != 0)
    lua_pushvalue(L, hooked);
  else
    lua_pushnil(L);
  lua_setiuservalue(L, at, VALUE_HOOKED);
}

void mch_keyer_push_hooked(lua_State *L, int at) {
  at = lua_absindex(L, at);
  if (lua_getiuservalue(L, at, VALUE_HOOKED) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, at, VALUE_HOOKED);
}

/* Forget all that was met before, and which code, if that is much. */
static void clear_all(lua_State *L, struct mch_keyer *keyer, int at) {
  struct mch_key_walk *w = &keyer->walk;
  if (w->nodes.length > 0)
    set_new_table(L, at, VALUE_QUEUE, NULL);
  if (w->is_versioned) {
    set_new_table(L, at, VALUE_VALUES, NULL);
    set_new_table(L, at, VALUE_FOLLOWED, NULL);
    set_new_table(L, at, VALUE_NAMED, NULL);
    keyer->values.nodes.length = 0;
  }
  mch_key_walk_clear(w);
  keyer->is_begun = 0;
  if (w->codes.count > MOST_CODES) {
    set_new_table(L, at, VALUE_DUMPS, NULL);
    set_new_table(L, at, VALUE_FUNCTIONS, "k");
    set_new_table(L, at, VALUE_CHUNKS, NULL);
    w->codes.last = NULL;
    w->codes.count = 0;
  }
}

/* What comes now is of one task only. */
static void begin_own(struct mch_key_walk *w) {
  w->mark = (struct mch_key_mark){mch_key_walk_nodes(w), w->done,           w->function_count,
                                  w->constants.length,   w->modules.length, w->reached.length};
  mch_buf_clear(&w->modules_kept);
  mch_buf_append(&w->modules_kept, w->modules.data, w->modules.length);
  if (w->modules_kept.failed)
    mch_key_walk_no_memory(w);
  w->layer = 1;
}

/* Forget what a task had of its own. */
static void clear_own(struct mch_key_walk *w) {
  uint32_t i;
  for (i = mch_key_walk_nodes(w); i > w->mark.nodes; i--) {
    lua_pushnil(w->L);
    lua_rawseti(w->L, w->queue, (lua_Integer)i);
  }
  w->nodes.length = w->mark.nodes * sizeof(struct mch_node);
  w->done = w->mark.done;
  w->function_count = w->functions_done = w->mark.functions;
  w->constants.length = w->mark.constants;
  w->modules.length = w->mark.modules;
  w->reached.length = w->mark.reached;
  if (w->mark.modules > 0)
    memcpy(w->modules.data, w->modules_kept.data, w->mark.modules);
  mch_set_clear(&w->met[1]);
  mch_buf_clear(&w->parts[1]);
  mch_buf_clear(&w->digests[1]);
  w->part_count[1] = 0;
  clear_out(w);
}

/* ---- the function ---- */

/* Methods of strings have no name that leads to them: the library counts as soon as somebody has
 * put a function in Lua into it. */
static void meet_strings(struct mch_key_walk *w) {
  lua_State *L = w->L;
  int top = lua_gettop(L), is_extended = 0, is_new;
  lua_pushliteral(L, "");
  if (luaL_getmetafield(L, -1, "__index") == LUA_TTABLE) {
    lua_pushnil(L);
    while (!is_extended && lua_next(L, top + 2)) {
      is_extended = lua_isfunction(L, -1) && !lua_iscfunction(L, -1);
      lua_pop(L, 1);
    }
    if (is_extended)
      mch_key_modules_meet(w, top + 2, "string", &is_new);
  }
  lua_settop(L, top);
}

static void put_version(struct mch_key_walk *w, const struct mch_key_call *call) {
  lua_State *L = w->L;
  struct mch_node none;
  if (call->version == 0 || lua_isnil(L, call->version))
    return;
  if (call->name == 0 || lua_type(L, call->name) != LUA_TSTRING)
    luaL_error(L, "version needs a name: it counts with it in the place of the task's code");
  w->is_versioned = 1;
  memset(&none, 0, sizeof none);
  mch_key_out_begin_part(w);
  mch_key_out_byte(w, '=');
  lua_pushvalue(L, call->name);
  mch_key_walk_value(w, &none, 0);
  lua_pushvalue(L, call->version);
  mch_key_walk_value(w, &none, 0);
  mch_key_out_end_named_part(w, "version", 7);
}

static int put_function(struct mch_key_walk *w, int function, enum mch_node_kind kind) {
  struct mch_node node;
  memset(&node, 0, sizeof node);
  node.kind = (unsigned char)kind;
  lua_pushvalue(w->L, function);
  return mch_key_walk_value(w, &node, 1);
}

static int walk_common(struct mch_keyer *keyer, const struct mch_key_call *call) {
  struct mch_key_walk *w = &keyer->walk;
  lua_State *L = w->L;
  put_version(w, call);
  meet_strings(w);
  if (!put_function(w, call->function, MCH_NODE_FUNCTION))
    return 0;
  if (call->init != 0 && !lua_isnil(L, call->init) && !put_function(w, call->init, MCH_NODE_INIT))
    return 0;
  if (!mch_key_walk_run(w))
    return 0;
  mch_key_version_end(w);
  return 1;
}

int mch_keyer_begin(lua_State *L, int at, const struct mch_key_call *call) {
  struct mch_keyer *keyer = get(L, at);
  struct mch_key_walk *w = &keyer->walk;
  struct mch_key_call c = *call;
  int top = lua_gettop(L);
  at = lua_absindex(L, at);
  c.function = lua_absindex(L, c.function);
  clear_all(L, keyer, at);
  lua_pushvalue(L, c.function);
  lua_setiuservalue(L, at, VALUE_CALL);
  use_stack(L, keyer, at);
  mch_names_open(L, &w->names, &keyer->stamp);
  keyer->values.names = w->names;
  keyer->values.files = w->files;
  keyer->function_is_lua = lua_isfunction(L, c.function) && !lua_iscfunction(L, c.function);
  keyer->is_begun = walk_common(keyer, &c);
  keep_hooked(L, keyer, at);
  lua_settop(L, top);
  if (!keyer->is_begun) {
    lua_pushstring(L, w->refused);
    return 0;
  }
  mch_key_out_end(w, keyer->common);
  keyer->hooks = w->hooks;
  begin_own(w);
  return 1;
}

void mch_keyer_end(lua_State *L, int at) {
  struct mch_keyer *keyer = get(L, at);
  at = lua_absindex(L, at);
  clear_all(L, keyer, at);
  mch_keyer_set_hooked(L, at, 0);
  lua_pushnil(L);
  lua_setiuservalue(L, at, VALUE_CALL);
}

/* ---- tasks ---- */

static int put_arguments(struct mch_keyer *keyer, const struct mch_key_task *task) {
  struct mch_key_walk *w = &keyer->walk;
  lua_State *L = w->L;
  struct mch_node node;
  int i, function = w->queue + VALUE_CALL - VALUE_QUEUE;
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_ARGUMENT;
  mch_key_out_number(w, (uint64_t)task->n);
  for (i = 0; i < task->n; i++) {
    int at = task->first + i;
    node.number = i + 1;
    mch_key_out_begin_part(w);
    lua_pushvalue(L, at);
    if (!mch_key_walk_value(w, &node, keyer->function_is_lua))
      return 0;
    mch_key_out_end_part(w, &node, -1);
    if (lua_istable(L, at) && keyer->function_is_lua &&
        mch_names_module(L, &w->names, at) != NULL) {
      lua_pushvalue(L, function);
      mch_key_modules_pass(w, at, i + 1);
      lua_pop(L, 1);
    }
  }
  if (!mch_key_walk_run(w))
    return 0;
  mch_key_version_end(w);
  return 1;
}

/* Push path number i of a list; 0: there are no more. */
static int push_path(lua_State *L, int list, lua_Integer i, const char *what) {
  int type = lua_rawgeti(L, list, i);
  if (type == LUA_TNIL) {
    lua_pop(L, 1);
    return 0;
  }
  if (type != LUA_TSTRING)
    luaL_error(L, "%s must be a list of paths: element %d is a %s", what, (int)i,
               lua_typename(L, type));
  if (strlen(lua_tostring(L, -1)) != lua_rawlen(L, -1))
    luaL_error(L, "%s: path %d contains a zero byte", what, (int)i);
  return 1;
}

/* The file whose path is on top of the stack as it is now. Says whether it is there. */
static int hash_file(lua_State *L, struct mch_files *files, unsigned char hash[MCH_HASH_SIZE]) {
  struct mch_error error;
  int status = mch_files_hash(files, lua_tostring(L, -1), hash, &error);
  if (status < 0)
    luaL_error(L, "inputs: %s", error.text);
  return status;
}

static void add_file(struct mch_key_walk *w, const char *what, const unsigned char *hash) {
  lua_State *L = w->L;
  size_t length, all;
  const char *path = lua_tolstring(L, -1, &length), *name;
  mch_key_out_begin_part(w);
  mch_key_out_string(w, 'p', path, length);
  if (hash != NULL)
    mch_key_out_bytes(w, hash, MCH_HASH_SIZE);
  name = lua_pushfstring(L, "%s %s", what, path);
  all = strlen(name);
  if (mch_key_out_may_part(w, 1))
    mch_key_out_end_named_part(w, name, all);
  lua_pop(L, 1);
}

static void put_files(struct mch_key_walk *w, const struct mch_key_task *task,
                      unsigned char all[MCH_HASH_SIZE]) {
  lua_State *L = w->L;
  unsigned char hash[MCH_HASH_SIZE + 1];
  struct mch_hash sum;
  struct mch_error error;
  lua_Integer i;
  memset(all, 0, MCH_HASH_SIZE);
  mch_hash_begin(&sum);
  mch_buf_clear(&w->inputs);
  for (i = 1; task->inputs != 0 && push_path(L, task->inputs, i, "inputs"); i++) {
    hash[MCH_HASH_SIZE] = (unsigned char)hash_file(L, w->files, hash);
    mch_hash_add(&sum, hash, sizeof hash);
    mch_buf_append(&w->inputs, hash, MCH_HASH_SIZE);
    add_file(w, "input", hash);
    mch_key_out_byte(w, hash[MCH_HASH_SIZE]);
    lua_pop(L, 1);
  }
  if (w->inputs.failed)
    mch_key_walk_no_memory(w);
  mch_hash_end(&sum, all);
  mch_key_out_byte(w, '>');
  for (i = 1; task->outputs != 0 && push_path(L, task->outputs, i, "outputs"); i++) {
    if (mch_files_look(lua_tostring(L, -1), &error) < 0)
      luaL_error(L, "outputs: %s", error.text);
    add_file(w, "output", NULL);
    lua_pop(L, 1);
  }
}

void mch_keyer_inputs(lua_State *L, int at, int inputs, unsigned char all[MCH_HASH_SIZE]) {
  struct mch_files *files = mch_keyer_files(L, at);
  unsigned char hash[MCH_HASH_SIZE + 1];
  struct mch_hash sum;
  lua_Integer i;
  inputs = lua_absindex(L, inputs);
  mch_hash_begin(&sum);
  for (i = 1; push_path(L, inputs, i, "inputs"); i++) {
    hash[MCH_HASH_SIZE] = (unsigned char)hash_file(L, files, hash);
    mch_hash_add(&sum, hash, sizeof hash);
    lua_pop(L, 1);
  }
  mch_hash_end(&sum, all);
}

int mch_keyer_task(lua_State *L, int at, const struct mch_key_task *task, struct mch_keyed *keyed) {
  struct mch_keyer *keyer = get(L, at);
  struct mch_key_walk *w = &keyer->walk;
  int top = lua_gettop(L), good;
  if (!keyer->is_begun)
    return luaL_error(L, "the keyer has not begun");
  at = lua_absindex(L, at);
  if (w->is_versioned)
    set_new_table(L, at, VALUE_NAMED_OWN, NULL);
  use_stack(L, keyer, at);
  clear_own(w);
  mch_key_out_bytes(w, keyer->common, sizeof keyer->common);
  good = put_arguments(keyer, task);
  keep_hooked(L, keyer, at);
  if (good)
    put_files(w, task, keyed->inputs);
  lua_settop(L, top);
  if (!good) {
    lua_pushstring(L, w->refused);
    return 0;
  }
  mch_key_out_end(w, keyed->base);
  keyed->common = (const char *)w->parts[0].data;
  keyed->common_length = w->parts[0].length;
  memcpy(keyed->common_hash, keyer->common, MCH_HASH_SIZE);
  keyed->own = (const char *)w->parts[1].data;
  keyed->own_length = w->parts[1].length;
  keyed->input_hashes = w->inputs.data;
  keyed->hooks = keyer->hooks + w->hooks;
  return 1;
}

int mch_keyer_push_walked(lua_State *L, int at) {
  const struct mch_keyer *keyer = get(L, at);
  int i;
  at = lua_absindex(L, at);
  if (!keyer->walk.is_versioned) {
    if (mch_key_walk_nodes(&keyer->walk) < 2) /* but the function */
      return 0;
    lua_getiuservalue(L, at, VALUE_QUEUE);
    return 1;
  }
  lua_newtable(L);
  for (i = 0; i < 3; i++) {
    static const int values[] = {VALUE_QUEUE, VALUE_NAMED, VALUE_NAMED_OWN};
    lua_getiuservalue(L, at, values[i]);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, -5);
    }
    lua_pop(L, 1);
  }
  return 1;
}

/* ---- the whole key ---- */

void mch_key_finish(lua_State *L, const struct mch_keyed *keyed, const struct mch_key_place *place,
                    unsigned char key[MCH_HASH_SIZE]) {
  unsigned char bytes[9];
  struct mch_hash hash;
  size_t length;
  const char *text;
  mch_hash_begin(&hash);
  mch_hash_add(&hash, keyed->base, MCH_HASH_SIZE);
  mch_hash_add(&hash, place->seed, MCH_HASH_SIZE);
  bytes[0] = place->outer != NULL;
  mch_hash_add(&hash, bytes, 1);
  if (place->outer != NULL)
    mch_hash_add(&hash, place->outer, MCH_HASH_SIZE);
  if (place->key == 0 || lua_isnil(L, place->key)) {
    bytes[0] = '#';
    mch_store_u64(bytes + 1, place->occurrence);
    mch_hash_add(&hash, bytes, sizeof bytes);
  } else if (lua_type(L, place->key) == LUA_TSTRING) {
    text = lua_tolstring(L, place->key, &length);
    mch_hash_add(&hash, "s", 1);
    mch_hash_add(&hash, text, length);
  } else {
    int is_integer = lua_isinteger(L, place->key);
    bytes[0] = is_integer ? 'i' : 'd';
    mch_store_u64(bytes + 1, is_integer ? (uint64_t)lua_tointeger(L, place->key)
                                        : mch_number_bits_of_float(lua_tonumber(L, place->key)));
    mch_hash_add(&hash, bytes, sizeof bytes);
  }
  mch_hash_end(&hash, key);
}

/* ---- parts ---- */

int mch_key_next_part(const char **at, const char *end, struct mch_key_part *part) {
  const unsigned char *from = (const unsigned char *)*at;
  uint64_t length;
  if (*at == end || mch_number_load_varint(&from, (const unsigned char *)end, &length) != NULL ||
      length > (uint64_t)((const unsigned char *)end - from) ||
      (uint64_t)((const unsigned char *)end - from) - length < 8)
    return 0;
  part->path = (const char *)from;
  part->length = (size_t)length;
  part->hash = mch_load_u64(from + length);
  *at = (const char *)from + length + 8;
  return 1;
}

/* The path without the line that it may end with: code that was moved is the same. */
static size_t stable_length(const struct mch_key_part *part) {
  static const char before[] = ", line ";
  size_t n = part->length;
  if (n > 0 && part->path[n - 1] == ')')
    n--;
  if (n == 0 || part->path[n - 1] < '0' || part->path[n - 1] > '9')
    return part->length;
  while (n > 0 && part->path[n - 1] >= '0' && part->path[n - 1] <= '9')
    n--;
  if (n < sizeof before - 1 ||
      memcmp(part->path + n - (sizeof before - 1), before, sizeof before - 1) != 0)
    return part->length;
  return n;
}

/* Two lists of parts, and what is known of each. */
struct side {
  const char *parts;
  size_t length;
  struct mch_set paths; /* path -> 1 */
  struct mch_set whole; /* path and hash -> 1 */
  struct mch_set lone;  /* hash of a part whose path the other side has not -> 1 */
};

static uint64_t path_of(const struct mch_key_part *part) {
  return mch_set_mix(31, part->path, stable_length(part));
}

static int put_once(struct mch_set *set, uint64_t key) {
  return mch_set_find(set, key) != NULL || mch_set_put(set, key, 1);
}

static int read_side(struct side *side) {
  const char *at = side->parts;
  struct mch_key_part part;
  while (mch_key_next_part(&at, side->parts + side->length, &part)) {
    uint64_t path = path_of(&part);
    if (!put_once(&side->paths, path) || !put_once(&side->whole, path ^ part.hash))
      return 0;
  }
  return 1;
}

static int find_lone(struct side *side, const struct side *other) {
  const char *at = side->parts;
  struct mch_key_part part;
  while (mch_key_next_part(&at, side->parts + side->length, &part))
    if (mch_set_find(&other->paths, path_of(&part)) == NULL && !put_once(&side->lone, part.hash))
      return 0;
  return 1;
}

/* The parts of one side that the other has not, under whatever name. */
static size_t missing(const struct side *side, const struct side *other,
                      struct mch_key_part *first) {
  const char *at = side->parts;
  struct mch_key_part part;
  size_t count = 0;
  while (mch_key_next_part(&at, side->parts + side->length, &part)) {
    uint64_t path = path_of(&part);
    int is_renamed =
        mch_set_find(&other->paths, path) == NULL && mch_set_find(&other->lone, part.hash) != NULL;
    if (mch_set_find(&other->whole, path ^ part.hash) == NULL && !is_renamed && count++ == 0)
      *first = part;
  }
  return count;
}

static void free_side(struct side *side) {
  mch_set_free(&side->paths);
  mch_set_free(&side->whole);
  mch_set_free(&side->lone);
}

size_t mch_key_difference(const char *older, size_t older_length, const char *newer,
                          size_t newer_length, struct mch_key_part *first) {
  struct side old, new;
  struct mch_key_part other;
  size_t added = 0, gone = 0;
  memset(&old, 0, sizeof old);
  memset(&new, 0, sizeof new);
  old.parts = older;
  old.length = older_length;
  new.parts = newer;
  new.length = newer_length;
  if (read_side(&old) && read_side(&new) && find_lone(&old, &new) && find_lone(&new, &old)) {
    added = missing(&new, &old, first);
    gone = missing(&old, &new, &other);
    if (added == 0 && gone > 0)
      *first = other;
  }
  free_side(&old);
  free_side(&new);
  return added > gone ? added : gone;
}
