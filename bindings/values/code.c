/* Runs in: both. Purpose: code.h. */
#include "code.h"

#include <lauxlib.h>
#include <string.h>

#include "bytecode.h"

/* ---- the memory ---- */

static int write_dump(lua_State *L, const void *bytes, size_t count, void *ud) {
  struct mch_buf *dump = ud;
  (void)L;
  if (count == 0) /* Lua 5.5 says that it has ended */
    return 0;
  if (count > dump->capacity - dump->length) { /* comes in many small pieces */
    mch_buf_append(dump, bytes, count);
    return dump->failed;
  }
  memcpy(dump->data + dump->length, bytes, count);
  dump->length += count;
  return 0;
}

/* A dump that is not kept, but compared with what it may be equal to. */
struct comparison {
  const char *at, *end;
};

static int compare_dump(lua_State *L, const void *bytes, size_t count, void *ud) {
  struct comparison *with = ud;
  (void)L;
  if (count == 0)
    return 0;
  if (count > (size_t)(with->end - with->at) ||
      (count == 1 ? *(const char *)bytes != *with->at : memcmp(bytes, with->at, count) != 0))
    return 1;
  with->at += count;
  return 0;
}

int mch_code_dump(lua_State *L, struct mch_buf *dump) {
  return lua_dump(L, write_dump, dump, 0) == 0;
}

int mch_code_is_sample(const struct mch_code_memory *memory) {
  enum { FEW = 64, SAMPLE = 16 };
  return memory == NULL || memory->fresh < FEW || memory->fresh % SAMPLE == 0;
}

int mch_code_is_last(lua_State *L, const struct mch_code_memory *memory) {
  struct comparison with;
  if (memory == NULL || memory->id == 0)
    return 0;
  with = (struct comparison){memory->bytes, memory->bytes + memory->length};
  return lua_dump(L, compare_dump, &with, 0) == 0 && with.at == with.end;
}

void mch_code_goes(struct mch_code_memory *memory, const char *bytes, size_t length) {
  memory->id = 0;
  memory->bytes = bytes;
  memory->length = length;
}

void mch_code_went(struct mch_code_memory *memory, uint32_t id) {
  memory->id = id;
}

void mch_code_count(struct mch_code_memory *memory, int is_known) {
  memory->fresh = is_known ? 0 : memory->fresh + 1;
}

/* ---- factories ---- */

/* Each is a local variable of the factory, which cannot have ever more of those. */
enum { MOST_UPVALUES = 100 };

/* Push the source of a factory of functions that do nothing but have n upvalues. */
static void push_source(lua_State *L, int n) {
  luaL_Buffer names;
  int i;
  if (n == 0) {
    lua_pushliteral(L, "return function() end");
    return;
  }
  luaL_buffinit(L, &names);
  for (i = 0; i < n; i++) {
    lua_pushfstring(L, i == 0 ? "v%d" : ",v%d", i);
    luaL_addvalue(&names);
  }
  luaL_pushresult(&names);
  lua_pushfstring(L, "local %s return function() return %s end", lua_tostring(L, -1),
                  lua_tostring(L, -1));
  lua_remove(L, -2);
}

/* Replace the source on top of the stack by its bytecode. */
static void compile(lua_State *L) {
  if (luaL_loadbufferx(L, lua_tostring(L, -1), (size_t)lua_rawlen(L, -1), "=?", "t") != LUA_OK)
    lua_error(L);
  lua_replace(L, -2);
  mch_bytecode_push_dump(L);
  lua_replace(L, -2);
}

static void push_bytes(lua_State *L, const unsigned char *from, const unsigned char *to) {
  lua_pushlstring(L, (const char *)from, (size_t)(to - from));
}

/* Push a factory for the dumped function, or false: there can be none. */
static void push_factory(lua_State *L, const void *dump, size_t length) {
  struct mch_bytecode_parts function, factory;
  int top = lua_gettop(L), status = LUA_ERRSYNTAX;
  const unsigned char *bytes;
  luaL_checkstack(L, 10, NULL);
  if (!mch_bytecode_find_parts(L, dump, length, &function) ||
      function.upvalue_count > MOST_UPVALUES) {
    lua_pushboolean(L, 0);
    return;
  }
  push_source(L, function.upvalue_count);
  compile(L);
  bytes = (const unsigned char *)lua_tostring(L, -1);
  if (mch_bytecode_find_parts(L, bytes, (size_t)lua_rawlen(L, -1), &factory)) {
    push_bytes(L, bytes, factory.functions[1].from);
    push_bytes(L, function.functions[0].from, function.upvalues[0].from);
    push_bytes(L, factory.upvalues[1].from, factory.upvalues[1].to);
    push_bytes(L, function.upvalues[0].to, function.functions[0].to);
    push_bytes(L, factory.functions[1].to, bytes + lua_rawlen(L, top + 1));
    lua_concat(L, 5);
    status = luaL_loadbufferx(L, lua_tostring(L, -1), (size_t)lua_rawlen(L, -1), "=?", "b");
  }
  if (status != LUA_OK)
    lua_pushboolean(L, 0);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

int mch_code_push_closure(lua_State *L, int factories, uint32_t id, const char *bytes,
                          size_t length) {
  switch (lua_rawgeti(L, factories, id)) {
  case LUA_TFUNCTION:
    lua_call(L, 0, 1);
    return 1;
  case LUA_TNIL:
    lua_pushboolean(L, 1); /* the first time */
    break;
  default:
    if (lua_toboolean(L, -1))
      push_factory(L, bytes, length);
    else
      lua_pushboolean(L, 0); /* there is none */
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, factories, id);
  lua_replace(L, -2);
  if (lua_isfunction(L, -1)) {
    lua_call(L, 0, 1);
    return 1;
  }
  lua_pop(L, 1);
  return 0;
}
