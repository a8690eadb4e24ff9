/* Runs in: both.
 *
 * Encodes functions: their code, once in a message or by an id that the receiver knows, their
 * upvalues, and as much of their environments as the code names. */
#include "encoding.h"

#include <lauxlib.h>

#include "bytecode.h"
#include "code.h"

/* ---- code ---- */

static uint64_t hash_bytes(const unsigned char *bytes, size_t count) {
  uint64_t hash = count;
  for (; count >= 8; bytes += 8, count -= 8)
    hash = (hash ^ mch_load_u64(bytes)) * UINT64_C(0x9e3779b97f4a7c15) ^ hash >> 31;
  for (; count > 0; bytes++, count--)
    hash = (hash ^ *bytes) * UINT64_C(0x9e3779b97f4a7c15);
  return hash ^ hash >> 32;
}

/* Keys of code in the map: bytes of this message by hash, ids of the dictionary by themselves. */
#define INLINE_CODE(hash) (((hash) >> 2) | UINT64_C(2) << 62)
#define CODE_ID(id) ((id) | UINT64_C(3) << 62)

static void put_code_id(struct encoding *e, uint32_t id) {
  if (e->to->code_ids != NULL && mch_identity_find(&e->met, CODE_ID(id)) == NULL) {
    mch_identity_add(&e->met, CODE_ID(id), id, 0);
    mch_buf_append(e->to->code_ids, &id, sizeof id);
    if (e->to->code_ids->failed != 0)
      luaL_error(e->L, "not enough memory");
  }
  put_varint(e, (uint64_t)id * 2 + 1);
}

/* Returns the number of the code in this message. */
static uint64_t put_inline_code(struct encoding *e, const struct mch_buf *dump) {
  uint64_t key = INLINE_CODE(hash_bytes(dump->data, dump->length)), number;
  const struct mch_met *met;
  struct mch_probe probe = mch_probe_first(&e->met, key);
  while ((met = mch_identity_next(&e->met, key, &probe)) != NULL) {
    if (met->a >> 32 == dump->length &&
        memcmp(at_position(e, (size_t)met->b), dump->data, dump->length) == 0) {
      number = met->a & 0xffffffff;
      put_varint(e, number * 2);
      return number;
    }
  }
  put_varint(e, 0);
  put_varint(e, dump->length);
  number = ++e->codes;
  mch_identity_add(&e->met, key, (uint64_t)dump->length << 32 | number, position(e));
  put_bytes(e, dump->data, dump->length);
  return number;
}

/* The id by which the dictionary has the code of the function at this index, if that was found out
 * before; else 0. */
static uint32_t cached_id(struct encoding *e, int at) {
  lua_State *L = e->L;
  int codes = e->slots + CODES;
  uint32_t id = 0;
  if (e->to->intern_code == NULL || e->baseline == 0 || !mch_code_is_sample(e->to->memory))
    return 0;
  if (lua_isnil(L, codes)) {
    lua_rawgeti(L, e->baseline, MCH_BASELINE_CODES);
    lua_replace(L, codes);
  }
  lua_pushvalue(L, at);
  if (lua_rawget(L, codes) == LUA_TNUMBER)
    id = (uint32_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return id;
}

static void cache_id(struct encoding *e, int at, uint32_t id) {
  if (e->baseline == 0)
    return;
  lua_pushvalue(e->L, at);
  lua_pushinteger(e->L, id);
  lua_rawset(e->L, e->slots + CODES);
}

/* The table at `slot`, taken from the baseline or made when first needed. */
static int use_table(struct encoding *e, int slot, int part) {
  slot += e->slots;
  if (lua_isnil(e->L, slot)) {
    if (part != 0 && e->baseline != 0)
      lua_rawgeti(e->L, e->baseline, part);
    else
      lua_newtable(e->L);
    lua_replace(e->L, slot);
  }
  return slot;
}

/* What the code can reach by itself is in its uses, where no upvalue is. */
enum { REACH = -1 };

/* Read it from the dump. */
static void read_uses(struct encoding *e, const struct mch_buf *dump) {
  lua_State *L = e->L;
  unsigned char wanted[256];
  unsigned reach;
  mch_globals_wanted(L, lua_gettop(L), wanted);
  mch_bytecode_uses(L, dump->data, dump->length, wanted);
  if (e->to->intern_code == NULL ||
      (reach = mch_reach_of_code(L, dump->data, dump->length, wanted)) == 0 ||
      (!lua_istable(L, -1) && lua_toboolean(L, -1)))
    return;
  if (!lua_istable(L, -1)) {
    lua_pop(L, 1);
    lua_newtable(L);
  }
  lua_pushinteger(L, (lua_Integer)reach);
  lua_rawseti(L, -2, REACH);
}

/* The uses of code that is put are on top of the stack; `is_known`: it has an id. */
static void note_reach(struct encoding *e, int is_known) {
  lua_State *L = e->L;
  if (!is_known || (!lua_istable(L, -1) && lua_toboolean(L, -1)))
    *e->to->reach |= MCH_REACH_ALL;
  else if (lua_istable(L, -1)) {
    lua_rawgeti(L, -1, REACH);
    *e->to->reach |= (unsigned)lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
}

/* Push what the function on top of the stack does with its environments, remembered in the table at
 * `known` by this key. */
static void push_uses(struct encoding *e, int known, lua_Integer key, const struct mch_buf *dump) {
  lua_State *L = e->L;
  if (lua_rawgeti(L, known, key) != LUA_TNIL)
    return;
  lua_pop(L, 1);
  if (dump == NULL) { /* the baseline has its id, but forgot this: take it as not known */
    lua_pushboolean(L, 1);
    return;
  }
  read_uses(e, dump);
  lua_pushvalue(L, -1);
  lua_rawseti(L, known, key);
}

/* The code of a Lua function on its way into a message. */
struct code {
  uint32_t id;          /* in the dictionary; 0: it has none */
  int met;              /* so was the function itself before */
  struct mch_buf *dump; /* NULL: the code went before */
};

/* Has this code gone by value before? */
static int went_by_value(struct encoding *e, uint32_t id) {
  int went = lua_rawgeti(e->L, use_table(e, KNOWN_USES, MCH_BASELINE_USES), id) != LUA_TNIL;
  lua_pop(e->L, 1);
  return went;
}

/* Look up the code of the function at this index in the dictionary. 1: it has gone by value before.
 */
static int find_code(struct encoding *e, int at, struct code *code) {
  lua_State *L = e->L;
  struct mch_code_memory *memory = e->to->memory;
  const char *kept = NULL;
  lua_pushvalue(L, at);
  if (e->baseline != 0 && mch_code_is_last(L, memory)) {
    code->id = memory->id;
    lua_pop(L, 1);
    return 1;
  }
  code->dump = mch_heap_buf(L, e->slots + HEAP, HEAP_DUMP);
  mch_buf_clear(code->dump);
  if (!mch_code_dump(L, code->dump) || code->dump->length > UINT32_MAX)
    luaL_error(L, "not enough memory");
  lua_pop(L, 1);
  if (e->to->intern_code != NULL)
    code->id =
        e->to->intern_code(e->to->ud, (const char *)code->dump->data, code->dump->length, &kept);
  if (memory != NULL)
    mch_code_goes(memory, kept, code->dump->length);
  return code->id != 0 && went_by_value(e, code->id);
}

/* Note what was found out about the function at this index. */
static void remember(struct encoding *e, int at, const struct code *code) {
  struct mch_code_memory *memory = e->to->memory;
  if (!code->met && mch_code_is_sample(e->to->memory))
    cache_id(e, at, code->id);
  if (memory == NULL)
    return;
  mch_code_count(memory, code->met);
  if (code->dump != NULL && e->baseline != 0)
    mch_code_went(memory, code->id);
}

/* Put the code of the function on top of the stack. Pushes what it does with its environments. */
static void put_code(struct encoding *e, const struct code *code) {
  int at = lua_gettop(e->L);
  if (code->id == 0) {
    lua_Integer number = (lua_Integer)put_inline_code(e, code->dump);
    push_uses(e, use_table(e, USES, 0), number, code->dump);
  } else {
    put_code_id(e, code->id);
    push_uses(e, use_table(e, KNOWN_USES, MCH_BASELINE_USES), code->id, code->dump);
    remember(e, at, code);
  }
  if (e->to->reach != NULL)
    note_reach(e, code->id != 0);
}

/* Put the function by its name in a module, if it has one: 1. Else find its code. Whether a module
 * was loaded since the last look takes a walk through all: spared for code that has gone by value
 * before. */
static int put_name_or_find_code(struct encoding *e, int at, const void *object,
                                 struct code *code) {
  int is_noted = e->baseline == 0 || mch_modules_have_noted(e->L, e->baseline, at);
  if (is_noted && mch_encode_name(e, at, object, 0))
    return 1;
  return !find_code(e, at, code) && !is_noted && mch_encode_name(e, at, object, 0);
}

/* ---- environments ---- */

int mch_encode_is_partial(struct encoding *e, int at) {
  int partial;
  if (lua_isnil(e->L, e->slots + ENVS))
    return 0;
  lua_pushvalue(e->L, at);
  partial = lua_rawget(e->L, e->slots + ENVS) != LUA_TNIL;
  lua_pop(e->L, 1);
  return partial;
}

int mch_encode_environment(struct encoding *e, int at) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  unsigned fall_back;
  if (met != NULL)
    return mch_encode_ref(e, met);
  if (mch_encode_name(e, at, object, 0))
    return DONE;
  fall_back = mch_globals_fall_back(L, at) ? MCH_TAG_META : 0;
  lua_pushvalue(L, at);
  lua_pushboolean(L, 1);
  lua_rawset(L, use_table(e, ENVS, 0));
  meet(e, object);
  return put_tag(e, (int)(MCH_TAG_ENV | fall_back));
}

/* The table on top of the stack is upvalue `i` of a function whose uses are below it: queue the
 * names that the code looks up in it, if it is an environment; `is_used` is set then. 1: nothing
 * more of it is needed. */
static int note_environment(struct encoding *e, int i, const char *name, int *is_used) {
  lua_State *L = e->L;
  int env = lua_gettop(L), uses = env - 1, whole;
  const void *object = lua_topointer(L, env);
  int custom = object != e->globals;
  if (!lua_istable(L, uses) || (custom && strcmp(name, "_ENV") != 0))
    return 0;
  if (lua_rawgeti(L, uses, i) == LUA_TNIL) {
    lua_pop(L, 1);
    return custom; /* not used at all */
  }
  *is_used = 1;
  lua_rawgeti(L, -1, 0);
  whole = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (e->noted[0] != lua_topointer(L, env + 1) || e->noted[1] != object) {
    int is_whole = whole || (custom && !mch_encode_is_partial(e, env) &&
                             mch_identity_find(&e->met, (uint64_t)(uintptr_t)object) != NULL);
    mch_wants_names(&e->wants, env, env + 1, is_whole);
    if (e->to->reach != NULL)
      *e->to->reach |= custom ? MCH_REACH_ALL : mch_reach_of_names(L);
    if (e->listener != NULL && !custom)
      e->listener->names(e->listener, e);
    e->noted[0] = lua_topointer(L, env + 1);
    e->noted[1] = object;
  }
  lua_pop(L, 1);
  return custom && !whole;
}

/* ---- functions ---- */

static size_t count_upvalues(lua_State *L) {
  lua_Debug ar;
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">u", &ar);
  return ar.nups;
}

int mch_encode_function(struct encoding *e, int at) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  struct code code = {0, 0, NULL};
  struct frame *frame;
  if (met != NULL)
    return mch_encode_ref(e, met);
  if (lua_iscfunction(L, at))
    return mch_encode_name(e, at, object, 0) ? DONE : mch_encode_refuse(e, "C function");
  code.id = cached_id(e, at);
  code.met = code.id != 0;
  if (!code.met && put_name_or_find_code(e, at, object, &code)) {
    mch_wants_follow(&e->wants, at);
    return DONE;
  }
  frame = mch_encode_open(e, FUNCTION, at);
  frame->met = e->met.entries.count;
  frame->count = count_upvalues(L);
  meet(e, object);
  put_u8(e, MCH_TAG_FUNCTION);
  put_code(e, &code);
  put_varint(e, frame->count);
  return OPENED;
}

/* The upvalue at this index is not an environment whose names are known. */
static void note_reach_of_upvalue(struct encoding *e, int at, const char *name) {
  if (lua_istable(e->L, at) ? lua_topointer(e->L, at) == e->globals
                            : name[0] == '(' || strcmp(name, "_ENV") == 0)
    *e->to->reach |= MCH_REACH_ALL;
}

int mch_encode_upvalues(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int function = frame_at(e, frame), value = function + 2;
  while (frame->next < frame->count) {
    int upvalue = (int)++frame->next, status, partial = 0, is_env = 0;
    uint64_t id = (uint64_t)(uintptr_t)lua_upvalueid(L, function, upvalue);
    const struct mch_met *met;
    const char *name;
    lua_settop(L, value - 1);
    name = lua_getupvalue(L, function, upvalue);
    if (lua_istable(L, value))
      partial = note_environment(e, upvalue, name, &is_env);
    if (e->to->reach != NULL && !is_env)
      note_reach_of_upvalue(e, value, name);
    met = mch_identity_find(&e->met, id);
    if (met != NULL) {
      const struct mch_met *owner = mch_identity_entry(&e->met, (size_t)met->a);
      *at_position(e, (size_t)owner->b) |= MCH_TAG_KEPT;
      put_u8(e, MCH_TAG_CELL);
      put_varint(e, owner->a);
      put_varint(e, met->b);
      continue;
    }
    mch_identity_add(&e->met, id, frame->met, (uint64_t)upvalue);
    if (is_env && e->to->reach != NULL && lua_topointer(L, value) == e->globals)
      status = put_tag(e, MCH_TAG_GLOBALS); /* its names are what is in reach of it */
    else
      status = mch_encode_part(e, value, partial ? ENVIRONMENT : VALUE);
    if (status != DONE)
      return status;
  }
  return DONE;
}
