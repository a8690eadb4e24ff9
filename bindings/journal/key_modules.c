/* Runs in: parent.
 *
 * Modules in the walk of a key (key_walk.h). The table of a module counts with those fields whose
 * names stand as constants in the walked code: each constant that comes up is looked for in each
 * module that was met, until there is nothing new. A module that goes where the code does not tell
 * what becomes of it counts as a whole. */
#include "key_walk.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

enum { MET_FIELD = 21, MET_CONSTANT, MET_REQUIRED, MET_PASSED, DEEPEST_PASS = 30 };

static struct mch_key_module *module_at(const struct mch_key_walk *w, size_t i) {
  return (struct mch_key_module *)(void *)w->modules.data + i;
}

static size_t module_count(const struct mch_key_walk *w) {
  return w->modules.length / sizeof(struct mch_key_module);
}

static const struct mch_key_text *constant_at(const struct mch_key_walk *w, size_t i) {
  return (const struct mch_key_text *)(const void *)w->constants.data + i;
}

static size_t constant_count(const struct mch_key_walk *w) {
  return w->constants.length / sizeof(struct mch_key_text);
}

/* ---- what is met ---- */

void mch_key_modules_add_constants(struct mch_key_walk *w, const struct mch_key_code *code) {
  size_t i, n = mch_code_constant_count(code);
  for (i = 0; i < n; i++) {
    const struct mch_key_text *text = mch_code_constant(code, i);
    uint64_t id = text->mix ^ MET_CONSTANT;
    if (mch_key_walk_met(w, id) != 0)
      continue;
    mch_key_walk_meet(w, id, 1);
    mch_buf_append(&w->constants, text, sizeof *text);
  }
  if (w->constants.failed)
    mch_key_walk_no_memory(w);
}

uint32_t mch_key_modules_meet(struct mch_key_walk *w, int table, const char *name, int *is_new) {
  uint32_t number = mch_key_walk_met(w, mch_set_of_pointer(lua_topointer(w->L, table)));
  struct mch_node node;
  struct mch_key_module module;
  *is_new = number == 0;
  if (number != 0)
    return number;
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_MODULE;
  node.is_module = 1;
  node.text = name;
  node.length = strlen(name);
  memset(&module, 0, sizeof module);
  module.node = mch_key_walk_add(w, table, &node);
  module.kind = (unsigned char)mch_names_kind(name);
  mch_buf_append(&w->modules, &module, sizeof module);
  if (w->modules.failed)
    mch_key_walk_no_memory(w);
  return module.node;
}

void mch_key_modules_use(struct mch_key_walk *w, uint32_t node, int as_whole, int as_metatable) {
  size_t i;
  for (i = 0; i < module_count(w); i++) {
    struct mch_key_module *module = module_at(w, i);
    if (module->node == node) {
      if (as_whole && module->kind == MCH_MODULE_OTHER)
        module->is_whole = 1;
      if (as_metatable)
        module->is_meta = 1;
      return;
    }
  }
}

/* ---- what of a module counts ---- */

/* Write the field of the module on top of the stack, if it has it. */
static int put_field(struct mch_key_walk *w, uint32_t module, const char *name, size_t length,
                     uint64_t mix, int *more) {
  lua_State *L = w->L;
  struct mch_node node;
  uint64_t id = mix ^ (uint64_t)module << 24 ^ MET_FIELD;
  if (mch_key_walk_met(w, id) != 0)
    return 1;
  lua_pushlstring(L, name, length);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_pop(L, 1);
    return 1;
  }
  mch_key_walk_meet(w, id, 1);
  *more = 1;
  mch_key_state_reach(w, mch_key_walk_node(w, module)->text, name, length);
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_FIELD;
  node.parent = module;
  node.text = name;
  node.length = length;
  if (w->is_versioned)
    return mch_key_version_take(w, &node, 1);
  mch_key_out_begin_part(w);
  mch_key_out_byte(w, 'M');
  mch_key_out_number(w, module);
  mch_key_out_string(w, 's', name, length);
  if (!mch_key_walk_value(w, &node, 1))
    return 0;
  mch_key_out_end_part(w, &node, -1);
  return 1;
}

static int compare_names(const void *one, const void *other) {
  return strcmp(*(const char *const *)one, *(const char *const *)other);
}

/* Write the metamethods of the module on top of the stack: code does not name what it calls. */
static int put_metamethods(struct mch_key_walk *w, uint32_t module, int *more) {
  lua_State *L = w->L;
  const char *names[64];
  int table = lua_gettop(L);
  size_t count = 0, i;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) == LUA_TSTRING && strncmp(lua_tostring(L, -1), "__", 2) == 0 && count < 64)
      names[count++] = lua_tostring(L, -1);
  }
  qsort(names, count, sizeof *names, compare_names);
  for (i = 0; i < count; i++)
    if (!put_field(w, module, names[i], strlen(names[i]),
                   mch_set_mix(1, names[i], strlen(names[i])), more))
      return 0;
  return 1;
}

static int put_metatable(struct mch_key_walk *w, uint32_t module) {
  struct mch_node node;
  if (!lua_getmetatable(w->L, -1))
    return 1;
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_META;
  node.parent = module;
  if (w->is_versioned)
    return mch_key_version_take(w, &node, 0);
  mch_key_out_begin_part(w);
  mch_key_out_byte(w, 'M');
  if (!mch_key_walk_value(w, &node, 0))
    return 0;
  mch_key_out_end_part(w, &node, -1);
  return 1;
}

static void reach_all(struct mch_key_walk *w, uint32_t module) {
  lua_State *L = w->L;
  int table = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) == LUA_TSTRING)
      mch_key_state_reach(w, mch_key_walk_node(w, module)->text, lua_tostring(L, -1),
                          (size_t)lua_rawlen(L, -1));
  }
}

/* Write all that is in the module on top of the stack. */
static int put_whole(struct mch_key_walk *w, uint32_t module) {
  lua_State *L = w->L;
  struct mch_node node;
  int table = lua_gettop(L);
  reach_all(w, module);
  if (!w->is_versioned) {
    mch_key_out_byte(w, 'A');
    mch_key_out_number(w, module);
    return mch_key_walk_table_entries(w, module);
  }
  memset(&node, 0, sizeof node);
  node.parent = module;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    node.kind = MCH_NODE_KEY;
    node.text = lua_typename(L, lua_type(L, -2));
    node.length = strlen(node.text);
    if (lua_type(L, -2) == LUA_TSTRING) {
      node.kind = MCH_NODE_FIELD;
      node.text = lua_tolstring(L, -2, &node.length);
    }
    if (!mch_key_version_take(w, &node, 0))
      return 0;
  }
  return 1;
}

/* Write what of module number i, whose table is on top of the stack, is new. */
static int put_module(struct mch_key_walk *w, size_t i, int *more) {
  struct mch_key_module module = *module_at(w, i);
  module_at(w, i)->is_begun = 1;
  if (!module.is_begun && module.kind == MCH_MODULE_OTHER) {
    *more = 1;
    if (!put_metatable(w, module.node))
      return 0;
  }
  if (module.is_meta && !module.is_meta_done) {
    module_at(w, i)->is_meta_done = 1;
    if (!put_metamethods(w, module.node, more))
      return 0;
  }
  if (module.is_whole_done)
    return 1;
  if (module.is_whole) {
    module_at(w, i)->is_whole_done = 1;
    *more = 1;
    return put_whole(w, module.node);
  }
  for (; module.done < constant_count(w); module.done++) {
    struct mch_key_text text = *constant_at(w, module.done);
    if (!put_field(w, module.node, text.text, text.length, text.mix, more))
      return 0;
  }
  module_at(w, i)->done = module.done;
  return 1;
}

int mch_key_modules_step(struct mch_key_walk *w, int *more) {
  lua_State *L = w->L;
  size_t i;
  *more = 0;
  for (i = 0; i < module_count(w); i++) {
    int good;
    luaL_checkstack(L, 30, NULL);
    lua_rawgeti(L, w->queue, (lua_Integer)module_at(w, i)->node);
    good = put_module(w, i, more);
    lua_pop(L, 1);
    if (!good)
      return 0;
  }
  return 1;
}

/* ---- where modules go ---- */

/* Replace the table on top by its field, looked for along __index tables. Anything else by nil. */
static void get_field(lua_State *L, const char *name, size_t length) {
  int links, top = lua_gettop(L);
  for (links = 0; links < 20 && lua_istable(L, top); links++) {
    lua_pushlstring(L, name, length);
    if (lua_rawget(L, top) != LUA_TNIL) {
      lua_replace(L, top);
      return;
    }
    lua_pop(L, 1);
    if (!lua_getmetatable(L, top))
      break;
    lua_pushliteral(L, "__index");
    lua_rawget(L, -2);
    lua_replace(L, top);
    lua_settop(L, top);
  }
  lua_settop(L, top - 1);
  lua_pushnil(L);
}

static void push_loaded(lua_State *L, const char *name, size_t length) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushlstring(L, name, length);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

static void push_source(struct mch_key_walk *w, const struct mch_key_code *code, int function,
                        size_t source, int parameter);

/* Is the source the function `require`? */
static int is_require(struct mch_key_walk *w, const struct mch_key_code *code, int function,
                      size_t source, int parameter) {
  lua_State *L = w->L;
  const struct mch_source *s = mch_flow_source(&code->flow, source);
  int same;
  if (s->kind == MCH_SOURCE_GLOBAL && s->length == 7 && memcmp(s->name, "require", 7) == 0)
    return 1;
  push_source(w, code, function, source, parameter);
  lua_pushglobaltable(L);
  lua_pushliteral(L, "require");
  lua_rawget(L, -2);
  same = lua_isfunction(L, -1) && lua_rawequal(L, -1, -3);
  lua_pop(L, 3);
  return same;
}

/* Push what a source of the function at this index is now, or nil. `parameter`: stack index of the
 * value of the parameter that is asked about, or 0. */
static void push_source(struct mch_key_walk *w, const struct mch_key_code *code, int function,
                        size_t source, int parameter) {
  lua_State *L = w->L;
  const struct mch_source *s = mch_flow_source(&code->flow, source);
  luaL_checkstack(L, 10, NULL);
  switch (s->kind) {
  case MCH_SOURCE_UPVALUE:
    if (lua_getupvalue(L, function, s->index) == NULL)
      lua_pushnil(L);
    break;
  case MCH_SOURCE_PARAMETER:
    if (parameter != 0)
      lua_pushvalue(L, parameter);
    else
      lua_pushnil(L);
    break;
  case MCH_SOURCE_GLOBAL:
    if (lua_getupvalue(L, function, code->env) == NULL)
      lua_pushnil(L);
    mch_key_walk_global(w, lua_gettop(L), s->name, s->length);
    lua_remove(L, -2);
    break;
  case MCH_SOURCE_FIELD:
    push_source(w, code, function, s->of, parameter);
    get_field(L, s->name, s->length);
    break;
  default:
    if (is_require(w, code, function, s->of, parameter))
      push_loaded(L, s->name, s->length);
    else
      lua_pushnil(L);
  }
}

/* The parameter that a source is, or is a field of; 0: none. */
static int parameter_of(const struct mch_key_code *code, size_t source) {
  const struct mch_source *s = mch_flow_source(&code->flow, source);
  while (s->kind == MCH_SOURCE_FIELD || s->kind == MCH_SOURCE_CALLED)
    s = mch_flow_source(&code->flow, s->of);
  return s->kind == MCH_SOURCE_PARAMETER ? s->index : 0;
}

/* The module at this index goes where nobody knows what is done with it. */
static void use_whole(struct mch_key_walk *w, int table) {
  int is_new;
  const char *name = mch_names_module(w->L, &w->names, table);
  if (name == NULL || mch_names_kind(name) != MCH_MODULE_OTHER)
    return;
  mch_key_modules_use(w, mch_key_modules_meet(w, table, name, &is_new), 1, 0);
}

/* Functions in C that do nothing with a table but to look at what it is. */
static int is_harmless(struct mch_key_walk *w, int function) {
  static const char *const names[] = {"_G.type",     "_G.setmetatable", "_G.getmetatable",
                                      "_G.rawequal", "_G.assert",       "_G.tostring",
                                      "_G.print",    "_G.rawlen"};
  lua_State *L = w->L;
  const char *name;
  size_t i;
  int is = 0;
  if (!mch_names_find(L, &w->names, function))
    return 0;
  name = lua_tostring(L, -1);
  for (i = 0; i < sizeof names / sizeof *names; i++)
    is |= strcmp(name, names[i]) == 0;
  lua_pop(L, 1);
  return is;
}

static void pass(struct mch_key_walk *w, int table, int position, int depth);

/* A fact about a source of the function at this index: if that is the table of a module, it is as
 * the fact says. */
static void apply(struct mch_key_walk *w, const struct mch_key_code *code, int function,
                  const struct mch_fact *fact, int parameter, int depth) {
  lua_State *L = w->L;
  int top = lua_gettop(L), table = top + 1;
  luaL_checkstack(L, 10, NULL);
  push_source(w, code, function, fact->source, parameter);
  if (lua_istable(L, table) && mch_names_module(L, &w->names, table) != NULL) {
    if (fact->position == 0 || fact->callee == 0) {
      use_whole(w, table);
    } else {
      push_source(w, code, function, fact->callee, parameter);
      pass(w, table, fact->position, depth);
    }
  }
  lua_settop(L, top);
}

/* The table of a module is an argument of the value on top of the stack. Pops that. */
static void pass(struct mch_key_walk *w, int table, int position, int depth) {
  lua_State *L = w->L;
  int function = lua_gettop(L);
  const struct mch_key_code *code;
  uint64_t id = mch_set_of_pointer(lua_topointer(L, function)) * 31 +
                mch_set_of_pointer(lua_topointer(L, table)) * 17 + (uint64_t)position;
  size_t i;
  id = mch_set_mix(MET_PASSED, &id, sizeof id);
  if (mch_key_walk_met(w, id) != 0 || (lua_iscfunction(L, function) && is_harmless(w, function))) {
    lua_pop(L, 1);
    return;
  }
  mch_key_walk_meet(w, id, 1);
  luaL_checkstack(L, 20, NULL);
  if (!lua_isfunction(L, function) || lua_iscfunction(L, function) || depth > DEEPEST_PASS) {
    use_whole(w, table);
    lua_pop(L, 1);
    return;
  }
  code = mch_key_code_push(L, &w->codes, function, depth > 0);
  if (code->flow.is_opaque || !code->is_known || position > code->parameters) {
    if (position <= code->parameters || code->takes_more)
      use_whole(w, table);
  } else {
    for (i = 0; i < mch_flow_fact_count(&code->flow); i++) {
      const struct mch_fact *fact = mch_flow_fact(&code->flow, i);
      if (parameter_of(code, fact->source) == position)
        apply(w, code, function, fact, table, depth + 1);
    }
  }
  lua_settop(L, function - 1);
}

void mch_key_modules_pass(struct mch_key_walk *w, int table, int position) {
  lua_pushvalue(w->L, -1);
  pass(w, table, position, 0);
}

/* Everything that the function below its code on top of the stack has may go anywhere. */
static void use_all(struct mch_key_walk *w, int function) {
  lua_State *L = w->L;
  int i;
  for (i = 1; lua_getupvalue(L, function, i) != NULL; i++) {
    if (lua_istable(L, -1))
      use_whole(w, lua_gettop(L));
    lua_pop(L, 1);
  }
}

void mch_key_modules_follow(struct mch_key_walk *w, const struct mch_key_code *code) {
  int function = lua_gettop(w->L) - 1;
  size_t i;
  if (code->flow.is_opaque)
    use_all(w, function);
  for (i = 0; i < mch_flow_fact_count(&code->flow); i++) {
    const struct mch_fact *fact = mch_flow_fact(&code->flow, i);
    if (parameter_of(code, fact->source) == 0)
      apply(w, code, function, fact, 0, 0);
  }
}

/* ---- what code requires ---- */

/* Replace the name of a module on top by the path of its file in this field of `package`, or nil.
 */
static void find_file(lua_State *L, const char *field) {
  int name = lua_gettop(L);
  lua_getglobal(L, LUA_LOADLIBNAME);
  if (lua_istable(L, -1)) {
    lua_pushliteral(L, "searchpath");
    lua_rawget(L, name + 1);
    lua_pushvalue(L, name);
    lua_pushstring(L, field);
    lua_rawget(L, name + 1);
    if (lua_iscfunction(L, name + 2) && lua_isstring(L, name + 4) &&
        lua_pcall(L, 2, 1, 0) == LUA_OK && lua_isstring(L, -1)) {
      lua_replace(L, name);
      lua_settop(L, name);
      return;
    }
  }
  lua_settop(L, name - 1);
  lua_pushnil(L);
}

/* Replace the path of a file of Lua on top by its code as a function; or by the hash of the file,
 * if it cannot be compiled. */
static void load_code(struct mch_key_walk *w) {
  lua_State *L = w->L;
  int path = lua_gettop(L);
  unsigned char hash[MCH_HASH_SIZE];
  if (mch_files_hash(w->files, lua_tostring(L, path), hash, NULL) != 1) {
    lua_pushnil(L);
  } else {
    lua_pushlstring(L, (const char *)hash, sizeof hash);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, w->chunks) == LUA_TNIL) {
      lua_pop(L, 1);
      if (luaL_loadfilex(L, lua_tostring(L, path), NULL) != LUA_OK) {
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
      }
      lua_pushvalue(L, path + 1);
      lua_pushvalue(L, -2);
      lua_rawset(L, w->chunks);
    }
  }
  lua_replace(L, path);
  lua_settop(L, path);
}

/* Replace the name of a module that is not loaded on top by what `require` would run: a function,
 * the hash of a library, or nil. */
static void find_code(struct mch_key_walk *w) {
  lua_State *L = w->L;
  int name = lua_gettop(L);
  unsigned char hash[MCH_HASH_SIZE];
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  if (lua_istable(L, -1)) {
    lua_pushvalue(L, name);
    if (lua_rawget(L, -2) == LUA_TFUNCTION) {
      lua_replace(L, name);
      lua_settop(L, name);
      return;
    }
  }
  lua_settop(L, name);
  lua_pushvalue(L, name);
  find_file(L, "path");
  if (!lua_isnil(L, -1)) {
    load_code(w);
  } else {
    lua_pop(L, 1);
    lua_pushvalue(L, name);
    find_file(L, "cpath");
    if (lua_isstring(L, -1)) {
      if (mch_files_hash(w->files, lua_tostring(L, -1), hash, NULL) == 1)
        lua_pushlstring(L, (const char *)hash, sizeof hash);
      else
        lua_pushnil(L);
    }
  }
  lua_replace(L, name);
  lua_settop(L, name);
}

static int put_required(struct mch_key_walk *w, const char *name, size_t length) {
  lua_State *L = w->L;
  struct mch_node node;
  uint64_t id = mch_set_mix(MET_REQUIRED, name, length);
  int good;
  if (mch_key_walk_met(w, id) != 0)
    return 1;
  mch_key_walk_meet(w, id, 1);
  memset(&node, 0, sizeof node);
  node.kind = MCH_NODE_MODULE;
  node.text = name;
  node.length = length;
  luaL_checkstack(L, 12, NULL);
  push_loaded(L, name, length);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_pushlstring(L, name, length);
    if (mch_names_kind(lua_tostring(L, -1)) == MCH_MODULE_OURS)
      lua_tostring(L, -1); /* by name */
    else
      find_code(w);
  }
  if (w->is_versioned)
    return mch_key_version_take(w, &node, 1);
  mch_key_out_begin_part(w);
  mch_key_out_string(w, 'Q', name, length);
  good = mch_key_walk_value(w, &node, 1);
  if (good)
    mch_key_out_end_part(w, &node, -1);
  return good;
}

int mch_key_modules_require(struct mch_key_walk *w, const struct mch_key_code *code) {
  int function = lua_gettop(w->L) - 1;
  size_t i, n = mch_flow_source_count(&code->flow);
  for (i = 0; i < n; i++) {
    const struct mch_source *s = mch_flow_source(&code->flow, i);
    if (s->kind == MCH_SOURCE_CALLED && is_require(w, code, function, s->of, 0) &&
        !put_required(w, s->name, s->length))
      return 0;
  }
  return 1;
}
