/* Runs in: both.
 *
 * Functions, names and rebuilt objects: the decoder's half of encode_function.c. */
#include "decoding.h"

#include <limits.h>

#include "bytecode.h"
#include "modules.h"

/* ---- functions ---- */

static const char *read_code(lua_State *L, void *ud, size_t *size) {
  struct code *code = ud;
  const char *bytes = code->bytes;
  (void)L;
  *size = code->length;
  code->bytes = NULL;
  code->length = 0;
  return bytes;
}

static struct code new_code(struct decoding *d) {
  uint64_t length = take_varint(d);
  struct code code = {NULL, 0, 0};
  if (length > left(d))
    mch_decode_malformed(d, "code too long");
  code.length = (size_t)length;
  code.bytes = (const char *)take(d, code.length);
  if (d->codes.count == d->codes.capacity)
    mch_array_grow(d->L, &d->codes, sizeof code, d->codes.count + 1, d->slots + HEAP, HEAP_CODES);
  ((struct code *)d->codes.items)[d->codes.count++] = code;
  return code;
}

static struct code find_code(struct decoding *d) {
  uint64_t given = take_varint(d);
  struct code code = {NULL, 0, 0};
  if (given == 0)
    return new_code(d);
  if (given % 2 == 0) {
    if (given / 2 > d->codes.count)
      mch_decode_malformed(d, "unknown code");
    return ((struct code *)d->codes.items)[given / 2 - 1];
  }
  if (d->from->find_code != NULL && given / 2 <= UINT32_MAX) {
    code.id = (uint32_t)(given / 2);
    code.bytes = d->from->find_code(d->from->ud, code.id, &code.length);
  }
  if (code.bytes == NULL)
    mch_decode_malformed(d, "unknown code");
  return code;
}

/* Push what makes closures of this code, if it has come before. The second time it is made. The
 * hooks of tools need not see it at work. */
static int push_factory(struct decoding *d, const struct code *code) {
  lua_State *L = d->L;
  if (code->id == 0 || d->factories == 0 || lua_gethookmask(L) != 0)
    return 0;
  switch (lua_rawgeti(L, d->factories, code->id)) {
  case LUA_TFUNCTION:
    return 1;
  case LUA_TNIL:
    lua_pushboolean(L, 1);
    break;
  default:
    if (lua_toboolean(L, -1))
      mch_bytecode_push_maker(L, code->bytes, code->length);
    else
      lua_pushboolean(L, 0); /* there is none */
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, d->factories, code->id);
  lua_replace(L, -2);
  if (lua_isfunction(L, -1))
    return 1;
  lua_pop(L, 1);
  return 0;
}

void mch_decode_open_function(struct decoding *d, unsigned tag) {
  struct code code;
  lua_Debug ar;
  if (!d->from->allow_code)
    mch_decode_malformed(d, "code is not allowed here");
  code = find_code(d);
  if (push_factory(d, &code))
    lua_call(d->L, 0, 1);
  else if (lua_load(d->L, read_code, &code, "=?", "b") != LUA_OK)
    mch_decode_fail(d);
  keep(d, tag, d->objects++);
  lua_pushvalue(d->L, -1);
  lua_getinfo(d->L, ">u", &ar);
  if (take_varint(d) != ar.nups)
    mch_decode_malformed(d, "wrong number of upvalues");
  mch_decode_open_frame(d, FUNCTION, ar.nups);
}

/* Let upvalue `next` of the function in the frame be an upvalue of another one. */
void mch_decode_join_upvalue(struct decoding *d, struct frame *frame) {
  lua_State *L = d->L;
  uint64_t n;
  int function = mch_decode_frame_at(d, frame), owner;
  mch_decode_push_ref(d);
  owner = lua_gettop(L);
  n = take_varint(d);
  if (lua_type(L, owner) != LUA_TFUNCTION || lua_iscfunction(L, owner) || n == 0 || n > 255 ||
      lua_getupvalue(L, owner, (int)n) == NULL)
    mch_decode_malformed(d, "no such variable");
  lua_upvaluejoin(L, function, (int)frame->next + 1, owner, (int)n);
  lua_settop(L, owner - 1);
  frame->next++;
}

/* ---- names ---- */

void mch_decode_read_name(struct decoding *d, unsigned tag) {
  lua_State *L = d->L;
  int top = lua_gettop(L);
  uint64_t number = d->objects++;
  mch_decode_read_string(d);
  if ((tag & 0xf) == (MCH_TAG_FIELD & 0xf))
    mch_decode_read_string(d);
  else
    lua_pushnil(L);
  if (!mch_modules_resolve(L, d->baseline, top + 1, top + 2,
                           d->from->allow_code ? &d->from->called : NULL))
    mch_decode_fail(d);
  lua_copy(L, -1, top + 1);
  lua_settop(L, top + 1);
  keep(d, tag, number);
}

/* ---- environments and hooks ---- */

void mch_decode_read_environment(struct decoding *d, unsigned tag) {
  lua_State *L = d->L;
  int fall_back = d->slots + FALL_BACK;
  lua_newtable(L);
  keep(d, tag, d->objects++);
  if ((tag & MCH_TAG_META) == 0)
    return;
  if (lua_isnil(L, fall_back)) {
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "__index");
    lua_pushglobaltable(L);
    lua_rawset(L, -3);
    lua_replace(L, fall_back);
  }
  lua_pushvalue(L, fall_back);
  lua_setmetatable(L, -2);
}

void mch_decode_open_hook(struct decoding *d, unsigned tag) {
  struct frame *frame;
  uint64_t n = take_varint(d);
  if (!d->from->allow_code)
    mch_decode_malformed(d, "code is not allowed here");
  if (n == 0 || n > left(d) || n > INT_MAX)
    mch_decode_malformed(d, "bad hook");
  lua_pushnil(d->L);
  frame = mch_decode_open_frame(d, HOOK, n);
  frame->number = d->objects++;
  frame->tag = tag;
  frame->from = d->sets;
}
