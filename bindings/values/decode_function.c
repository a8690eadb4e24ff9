/* Runs in: both.
 *
 * How functions are read: their code, from the message or by an id that the caller knows, their
 * upvalues, and their environments, which assignments fill. The mirror of encode_function.c. */
#include "decoding.h"

#include "code.h"

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
  ((struct code *)d->codes.elements)[d->codes.count++] = code;
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
    return ((struct code *)d->codes.elements)[given / 2 - 1];
  }
  if (d->from->find_code != NULL && given / 2 <= UINT32_MAX) {
    code.id = (uint32_t)(given / 2);
    code.bytes = d->from->find_code(d->from->ud, code.id, &code.length);
  }
  if (code.bytes == NULL)
    mch_decode_malformed(d, "unknown code");
  return code;
}

/* Push a closure of this code, if it comes often. The hooks of tools need not see its factory at
 * work. */
static int push_often(struct decoding *d, const struct code *code) {
  return code->id != 0 && d->factories != 0 && lua_gethookmask(d->L) == 0 &&
         mch_code_push_closure(d->L, d->factories, code->id, code->bytes, code->length);
}

void mch_decode_function(struct decoding *d, unsigned tag) {
  struct code code;
  lua_Debug ar;
  if (!d->from->allow_code)
    mch_decode_malformed(d, "code is not allowed here");
  code = find_code(d);
  if (!push_often(d, &code) && lua_load(d->L, read_code, &code, "=?", "b") != LUA_OK)
    mch_decode_fail(d);
  keep(d, tag, d->objects++);
  lua_pushvalue(d->L, -1);
  lua_getinfo(d->L, ">u", &ar);
  if (take_varint(d) != ar.nups)
    mch_decode_malformed(d, "wrong number of upvalues");
  mch_decode_open_frame(d, FUNCTION, ar.nups);
}

/* Let upvalue `next` of the function in the frame be an upvalue of another one. */
static void join_upvalue(struct decoding *d, struct frame *frame) {
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

void mch_decode_store_upvalue(struct decoding *d, struct frame *frame) {
  lua_setupvalue(d->L, mch_decode_frame_at(d, frame), (int)++frame->next);
}

int mch_decode_upvalues(struct decoding *d, struct frame *frame) {
  while (frame->next < frame->count) {
    if (take_tag(d, MCH_TAG_CELL)) {
      join_upvalue(d, frame);
      continue;
    }
    if (!read_value(d))
      return 0;
    mch_decode_store_upvalue(d, frame);
  }
  return 1;
}

/* ---- environments ---- */

void mch_decode_environment(struct decoding *d, unsigned tag) {
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
