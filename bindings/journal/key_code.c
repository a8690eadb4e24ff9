/* Runs in: parent. Purpose: key_code.h. */
#include "key_code.h"

#include <lauxlib.h>
#include <string.h>

#include "bindings/values/bytecode.h"

static const char code_type[] = "mantichora.journal.code";

/* ---- dumps ---- */

static int write_dump(lua_State *L, const void *bytes, size_t count, void *ud) {
  struct mch_buf *dump = ud;
  (void)L;
  if (count == 0) /* Lua 5.5 says that it has ended */
    return 0;
  mch_buf_append(dump, bytes, count);
  return dump->failed;
}

/* Which upvalue of the function has its globals? */
static int find_env(lua_State *L, int function) {
  const char *name;
  int i, env = 0;
  for (i = 1; env == 0 && (name = lua_getupvalue(L, function, i)) != NULL; i++) {
    if (strcmp(name, "_ENV") == 0) {
      env = i;
    } else if (name[0] == '(') { /* stripped */
      lua_pushglobaltable(L);
      env = lua_rawequal(L, -1, -2) ? i : 0;
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
  return env;
}

/* Dump the function, with which upvalue is its environment. */
static void dump_function(lua_State *L, struct mch_codes *codes, int function) {
  mch_buf_clear(codes->buf);
  lua_pushvalue(L, function);
  lua_dump(L, write_dump, codes->buf, 1);
  lua_pop(L, 1);
  mch_buf_u8(codes->buf, (uint8_t)find_env(L, function));
  if (codes->buf->failed)
    luaL_error(L, "not enough memory");
}

/* ---- what is told of code ---- */

struct telling {
  struct mch_key_code *code;
  struct mch_hash hash;
  struct mch_set met;
};

static void add_number(struct mch_hash *hash, size_t number) {
  unsigned char bytes[8];
  mch_store_u64(bytes, number);
  mch_hash_add(hash, bytes, sizeof bytes);
}

/* Strings by their bytes, since a dump may have their numbers only. */
static void add_constant(struct mch_hash *hash, const struct mch_bytecode_constant *constant) {
  add_number(hash, constant->string != NULL ? constant->length : SIZE_MAX);
  if (constant->string != NULL)
    mch_hash_add(hash, constant->string, constant->length);
  else
    mch_hash_add(hash, constant->raw, constant->raw_length);
}

static void note_constant(lua_State *L, struct telling *t,
                          const struct mch_bytecode_constant *constant) {
  struct mch_key_text text = {constant->string, constant->length, 0};
  if (text.text == NULL)
    return;
  text.mix = mch_set_mix(1, text.text, text.length);
  if (mch_set_find(&t->code->flow.known, text.mix) != NULL)
    return;
  mch_buf_append(&t->code->constants, &text, sizeof text);
  if (t->code->constants.failed || !mch_set_put(&t->code->flow.known, text.mix, 1))
    luaL_error(L, "not enough memory");
}

/* All that says what the function does: no lines, and of the outermost not where its upvalues
 * are. */
static void tell_function(lua_State *L, void *ud, const struct mch_bytecode_function *f) {
  struct telling *t = ud;
  size_t i;
  if (f->depth == 0) {
    t->code->line = (int)f->line;
    t->code->parameters = f->head[0];
    t->code->takes_more = f->head[1] != 0;
  }
  add_number(&t->hash, (size_t)f->depth);
  mch_hash_add(&t->hash, f->head, 3);
  add_number(&t->hash, f->instructions);
  mch_hash_add(&t->hash, f->code, f->instructions * 4);
  add_number(&t->hash, f->constant_count);
  for (i = 0; i < f->constant_count; i++) {
    add_constant(&t->hash, &f->constants[i]);
    note_constant(L, t, &f->constants[i]);
  }
  add_number(&t->hash, f->upvalue_count);
  if (f->depth > 0)
    mch_hash_add(&t->hash, f->upvalues, 3 * f->upvalue_count);
  add_number(&t->hash, f->inner);
}

/* The names of globals as the code's user value: a list, or nil. */
static void note_names(lua_State *L, struct mch_key_code *code, int object) {
  unsigned char wanted[256] = {0};
  if (code->env == 0)
    return;
  wanted[code->env - 1] = 1;
  mch_bytecode_uses(L, code->dump, code->dump_length - 1, wanted);
  if (lua_istable(L, -1) && lua_rawgeti(L, -1, code->env) == LUA_TTABLE) {
    lua_rawgeti(L, -1, 0);
    code->wants_env = lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_setiuservalue(L, object, MCH_CODE_NAMES);
  }
  lua_settop(L, object);
}

static void tell_code(lua_State *L, struct mch_key_code *code, int object) {
  struct telling t;
  memset(&t, 0, sizeof t);
  t.code = code;
  mch_hash_begin(&t.hash);
  code->is_known = mch_bytecode_visit(L, code->dump, code->dump_length - 1, tell_function, &t);
  mch_set_free(&code->flow.known);
  mch_hash_end(&t.hash, code->hash);
  if (code->is_known) {
    code->is_known = mch_flow_read(L, &code->flow, code->dump, code->dump_length - 1, code->env);
    note_names(L, code, object);
  } else {
    mch_hash_of(code->dump, code->dump_length, code->hash);
    code->flow.is_opaque = 1;
  }
}

/* ---- codes ---- */

static int free_code(lua_State *L) {
  struct mch_key_code *code = luaL_checkudata(L, 1, code_type);
  mch_buf_free(&code->constants);
  mch_flow_free(&code->flow);
  return 0;
}

static struct mch_key_code *push_new(lua_State *L) {
  struct mch_key_code *code = lua_newuserdatauv(L, sizeof *code, MCH_CODE_VALUES);
  memset(code, 0, sizeof *code);
  if (luaL_newmetatable(L, code_type)) {
    lua_pushcfunction(L, free_code);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return code;
}

/* Push what is told of the dump in the buffer, which is new. */
static struct mch_key_code *push_told(lua_State *L, struct mch_codes *codes) {
  int dump = lua_gettop(L) + 1, object = dump + 1;
  struct mch_key_code *code;
  lua_pushlstring(L, (const char *)codes->buf->data, codes->buf->length);
  code = push_new(L);
  lua_pushvalue(L, dump);
  lua_setiuservalue(L, object, MCH_CODE_DUMP);
  code->dump = lua_tolstring(L, dump, &code->dump_length);
  code->env = (unsigned char)code->dump[code->dump_length - 1];
  tell_code(L, code, object);
  lua_pushvalue(L, dump);
  lua_pushvalue(L, object);
  lua_rawset(L, codes->by_dump);
  lua_replace(L, dump);
  codes->count++;
  return code;
}

static int is_last(const struct mch_codes *codes) {
  return codes->last != NULL && codes->last->dump_length == codes->buf->length &&
         memcmp(codes->last->dump, codes->buf->data, codes->buf->length) == 0;
}

/* Push the code of the dump in the buffer. */
static struct mch_key_code *push_dumped(lua_State *L, struct mch_codes *codes) {
  struct mch_key_code *code;
  if (is_last(codes)) {
    lua_rawgetp(L, codes->by_dump, codes->last);
    return codes->last;
  }
  lua_pushlstring(L, (const char *)codes->buf->data, codes->buf->length);
  if (lua_rawget(L, codes->by_dump) == LUA_TUSERDATA) {
    code = lua_touserdata(L, -1);
  } else {
    lua_pop(L, 1);
    code = push_told(L, codes);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, codes->by_dump, code);
  }
  codes->last = code;
  return code;
}

/* Is the function one to look for, and to remember, by itself? Loops that run tasks make new ones
 * all the time. */
static int is_sample(const struct mch_codes *codes) {
  enum { FEW = 64, SAMPLE = 16 };
  return codes->fresh < FEW || codes->fresh % SAMPLE == 0;
}

struct mch_key_code *mch_key_code_push(lua_State *L, struct mch_codes *codes, int function,
                                       int comes_again) {
  int remembers = comes_again || is_sample(codes);
  struct mch_key_code *code;
  if (remembers) {
    lua_pushvalue(L, function);
    if (lua_rawget(L, codes->by_function) == LUA_TUSERDATA) {
      if (!comes_again)
        codes->fresh = 0;
      return lua_touserdata(L, -1);
    }
    lua_pop(L, 1);
  }
  dump_function(L, codes, function);
  code = push_dumped(L, codes);
  if (remembers) {
    lua_pushvalue(L, function);
    lua_pushvalue(L, -2);
    lua_rawset(L, codes->by_function);
  }
  codes->fresh += !comes_again;
  return code;
}
