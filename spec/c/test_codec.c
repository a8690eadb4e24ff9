/* The codec where Lua cannot reach: random graphs and hostile bytes under the sanitizers, and
 * memory that runs out at every single allocation. Run in the root of the source tree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

#include "bindings/values/stack.h"
#include "codec_module.h"
#include "new_state.h"

/* The codec's own buffers fail on demand as well: the linker leads every call of realloc() to the
 * function below (CMakeLists.txt), where it can do that. */
#if defined(REALLOC_IS_WRAPPED)
void *__real_realloc(void *old, size_t size);
/* Not hidden: the linker takes the calls in a shared Lua for ours, too, where libc has no versions.
 */
__attribute__((visibility("default"))) void *__wrap_realloc(void *old, size_t size);
#else
#define __real_realloc realloc
#endif

/* How many allocations may still succeed; -1: all. */
static long allowed = -1;
static size_t in_use;
static size_t most_at_once = SIZE_MAX; /* for Lua's allocations only */

static int may_allocate(void) {
  if (allowed == 0)
    return 0;
  if (allowed > 0)
    allowed--;
  return 1;
}

#if defined(REALLOC_IS_WRAPPED)
void *__wrap_realloc(void *old, size_t size) {
  return may_allocate() ? __real_realloc(old, size) : NULL;
}
#endif

static void *allocate(void *ud, void *old, size_t old_size, size_t size) {
  void *block;
  (void)ud;
  if (old == NULL)
    old_size = 0;
  if (size == 0) {
    free(old);
    in_use -= old_size;
    return NULL;
  }
  if (size > old_size && (size > most_at_once || !may_allocate()))
    return NULL;
  block = __real_realloc(old, size);
  if (block != NULL)
    in_use += size - old_size;
  return block;
}

static int failures;

static void check(int holds, const char *what) {
  if (!holds) {
    fprintf(stderr, "test_codec: %s\n", what);
    failures++;
  }
}

static lua_State *open_state(void) {
  lua_State *L = new_state(allocate, NULL);
  if (L == NULL)
    abort();
  luaL_openlibs(L);
  luaL_requiref(L, "codec_module", luaopen_codec_module, 0);
  lua_pop(L, 1);
  return L;
}

static void run_properties(const char *what, int seeds) {
  lua_State *L = open_state();
  if (luaL_loadfile(L, "spec/c/codec_properties.lua") != LUA_OK)
    check(0, lua_tostring(L, -1));
  else {
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "codec_module");
    lua_remove(L, -2);
    lua_pushstring(L, what);
    lua_pushinteger(L, seeds);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK)
      check(0, lua_tostring(L, -1));
  }
  lua_close(L);
}

/* A script that leaves in globals what is encoded and how it looks encoded. */
static const char PREPARE[] =
    "codec = require 'codec_module'\n"
    "baseline = codec.baseline()\n"
    "local n, shared = 0, { 'shared' }\n"
    "function new_global() return shared end\n"
    "local env = setmetatable({ a = { 1 }, b = 2 }, { __index = _G })\n"
    "local hooked = setmetatable({}, { __mantichora = function() return setmetatable, {}, { 1 } "
    "end })\n"
    "value = { 1, 2.5, 'text', ('long'):rep(50), { id = 1, name = 'n' }, { id = 2, name = 'm' }, "
    "shared,\n"
    "  function() n = n + 1 return new_global() end, function() return n, value end, print, "
    "string,\n"
    "  load('return a, b', '=env', 't', env), hooked, hooked, setmetatable({}, { __index = shared, "
    "__name = 'N' }) }\n"
    "value.self, value.floats, value.ints = value, {}, {}\n"
    "for i = 1, 300 do value.floats[i], value.ints[i] = i / 4, i * 1000 end\n"
    "for i = 1, 40 do value[{ i }] = 'key ' .. i end\n"
    "local deep = {} value.deep = deep for i = 1, 1500 do deep[1] = {} deep = deep[1] end\n"
    "opts = { baseline = baseline }\n"
    "bytes = codec.encode(opts, value)\n";

static int run_string(lua_State *L, const char *source) {
  int status = luaL_dostring(L, source);
  if (status != LUA_OK)
    fprintf(stderr, "test_codec: %s\n", lua_tostring(L, -1));
  lua_settop(L, 0);
  return status;
}

/* Call the Lua function in the global `name` with only the n-th allocation failing; returns whether
 * it came to its end all the same. */
static int survives(lua_State *L, const char *name, long n) {
  int status;
  lua_getglobal(L, name);
  allowed = n;
  status = lua_pcall(L, 0, 0, 0);
  allowed = -1;
  if (status != LUA_OK) {
    const char *message = lua_tostring(L, -1);
    if (message == NULL || strstr(message, "not enough memory") == NULL)
      check(0, message != NULL ? message : "an error that is no string");
  }
  lua_settop(L, 0);
  return status == LUA_OK;
}

static void run_out_of_memory(const char *name) {
  lua_State *L = open_state();
  long n = 0;
  check(run_string(L, PREPARE) == LUA_OK, "preparing");
  check(run_string(L, "function encode() codec.encode(opts, value) end\n"
                      "function decode() codec.decode(opts, bytes) end\n"
                      "many, pieces = {}, {}\n"
                      "for i = 1, 70000 do many[i] = i / 4 end\n"
                      "many_bytes = codec.encode({ ahead = pieces }, many)\n"
                      "function encode_ahead() codec.encode({ ahead = {} }, many) end\n"
                      "function decode_ahead() codec.decode({ ahead = pieces }, many_bytes) end\n"
                      "function take() codec.baseline() end\n"
                      "function update() codec.update(baseline) end\n") == LUA_OK,
        "preparing");
  while (!survives(L, name, n)) {
    if (++n > 100000) {
      check(0, "never enough memory");
      break;
    }
  }
  printf("test_codec: %s failed cleanly %ld times\n", name, n);
  check(n > 3, "nothing was allocated");
  check(run_string(L, "local got = codec.decode(opts, (codec.encode(opts, value)))\n"
                      "assert(got.self == got and got[9]() == 0 and got[13] == got[14])\n"
                      "assert(#got.ints == 300)") == LUA_OK,
        "it works after failures");
  lua_close(L);
  check(in_use == 0, "memory is left");
}

/* What is too large for the memory is named by its place. */
static void run_out_at_argument(void) {
  lua_State *L = open_state();
  const char *message;
  check(run_string(L, "codec = require 'codec_module'\n"
                      "bytes = codec.encode({}, print, 1, { ('long'):rep(100000) })\n"
                      "function decode() codec.decode({}, bytes) end\n") == LUA_OK,
        "preparing");
  lua_getglobal(L, "decode");
  most_at_once = 100000;
  check(lua_pcall(L, 0, 0, 0) != LUA_OK, "too large a string was received");
  most_at_once = SIZE_MAX;
  message = lua_tostring(L, -1);
  check(message != NULL && strcmp(message, "cannot rebuild argument 2: not enough memory") == 0,
        message != NULL ? message : "an error that is no string");
  lua_close(L);
}

/* Slots that are kept from message to message know the old entries by their numbers, which end. */
static void run_out_of_numbers(void) {
  static const uint32_t stamps[] = {UINT32_MAX / 2 - 500, UINT32_MAX / 2, UINT32_MAX - 1};
  lua_State *L = open_state();
  size_t i;
  check(run_string(
            L, "codec = require 'codec_module'\n"
               "function round()\n"
               "  local list = {}\n"
               "  for i = 1, 400 do list[i] = { i } list[i + 400] = list[i] end\n"
               "  local got = codec.decode({}, (codec.encode({}, list)))\n"
               "  for i = 1, 400 do\n"
               "    assert(got[i][1] == i and got[i + 400] == got[i] and got[i] ~= got[i - 1])\n"
               "  end\n"
               "end\n"
               "round()\n") == LUA_OK,
        "preparing");
  for (i = 0; i < sizeof stamps / sizeof *stamps; i++) {
    struct mch_heap *heap;
    lua_getfield(L, LUA_REGISTRYINDEX, "mantichora.heap.kept");
    heap = lua_touserdata(L, -1);
    check(heap != NULL && heap->slots > 0, "no slots were kept");
    if (heap != NULL)
      heap->stamp = stamps[i];
    lua_pop(L, 1);
    check(run_string(L, "for _ = 1, 4 do round() end") == LUA_OK, "numbers that end");
  }
  lua_close(L);
}

int main(void) {
  const char *const calls[] = {"encode",       "decode", "encode_ahead",
                               "decode_ahead", "take",   "update"};
  size_t i;
  run_properties("round", 2500);
  run_properties("hostile", 400);
  run_out_at_argument();
  run_out_of_numbers();
  for (i = 0; i < sizeof calls / sizeof *calls; i++)
    run_out_of_memory(calls[i]);
  if (failures > 0)
    printf("test_codec: %d failed\n", failures);
  return failures > 0;
}
