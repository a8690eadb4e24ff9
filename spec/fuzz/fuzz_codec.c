/* Any bytes give a value or a clean error, in memory bounded by a multiple of their number: the
 * decoder, with pieces that came ahead (an input that begins with PIECES: u16 length and bytes of
 * each, 0 and the message), and the reader of bytecode. Build with -DMANTICHORA_FUZZ=ON and clang;
 * spec/fuzz/corpus_codec has inputs to begin with. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/values/early.h"
#include "bindings/values/bytecode.h"
#include "bindings/values/graph.h"

/* Tables of one byte each, kept and nested, need about 250. */
enum { MOST_PER_BYTE = 512, MOST_AT_ALL = 1 << 16, RUNS_PER_STATE = 2000 };
enum { PIECES = 'P' };

static size_t in_use, limit = SIZE_MAX;

static void *allocate(void *ud, void *old, size_t old_size, size_t size) {
  (void)ud;
  if (old == NULL)
    old_size = 0;
  if (size == 0) {
    free(old);
    in_use -= old_size;
    return NULL;
  }
  if (size > old_size && in_use + size - old_size > limit) {
    fprintf(stderr, "fuzz_codec: too much memory for such a message\n");
    abort();
  }
  old = realloc(old, size);
  if (old != NULL)
    in_use += size - old_size;
  return old;
}

static int decode(lua_State *L) {
  struct mch_decoder *decoder = lua_touserdata(L, 1);
  int n = mch_decode(L, decoder);
  if (lua_gettop(L) != 1 + n)
    abort();
  return 0;
}

static int decode_ahead(lua_State *L) {
  struct mch_decoder *decoder = lua_touserdata(L, 1);
  const unsigned char *at = decoder->bytes + 1, *end = decoder->bytes + decoder->len;
  lua_newtable(L);
  while (end - at >= 2) {
    size_t length = mch_load_u16(at);
    at += 2;
    if (length == 0 || length > (size_t)(end - at))
      break;
    while (!mch_early_is_ready(L, 2, at, length))
      ;
    mch_early_store(L, 2, at, length);
    at += length;
  }
  decoder->bytes = at;
  decoder->len = (size_t)(end - at);
  decoder->early = 2;
  mch_decode(L, decoder);
  return 0;
}

static int read_bytecode(lua_State *L) {
  const struct mch_decoder *decoder = lua_touserdata(L, 1);
  unsigned char wanted[256] = {1, 0, 1};
  mch_bytecode_uses(L, decoder->bytes, decoder->len, wanted);
  return 0;
}

static lua_CFunction reader_of(const uint8_t *data) {
  if (data[0] == LUA_SIGNATURE[0])
    return read_bytecode;
  return data[0] == PIECES ? decode_ahead : decode;
}

static void run(lua_State *L, lua_CFunction f, struct mch_decoder *decoder) {
  limit = in_use + decoder->len * MOST_PER_BYTE + MOST_AT_ALL;
  lua_pushcfunction(L, f);
  lua_pushlightuserdata(L, decoder);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK && lua_type(L, -1) != LUA_TSTRING)
    abort();
  limit = SIZE_MAX;
  lua_settop(L, 0);
  lua_gc(L, LUA_GCCOLLECT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static lua_State *L;
  static int runs;
  struct mch_decoder decoder;
  if (size == 0)
    return 0;
  if (L == NULL) {
    L = lua_newstate(allocate, NULL);
    luaL_openlibs(L);
    lua_gc(L, LUA_GCSTOP);
  }
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = data;
  decoder.len = size;
  run(L, reader_of(data), &decoder);
  if (++runs == RUNS_PER_STATE) {
    runs = 0;
    lua_close(L);
    L = NULL;
  }
  return 0;
}
