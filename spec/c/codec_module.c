/* Runs in: both. The codec for specs: require "codec_module".
 *
 *   bytes, ids = codec.encode(opts, ...)   opts: {baseline=, kind="task"|"result"|"error",
 * dictionary=}
 *   ... = codec.decode(opts, bytes)        opts: {baseline=, kind=, code=false, dictionary=}
 *   in both, ahead=: a list that gets the pieces which go ahead of the bytes, or that has them
 *   baseline = codec.baseline(); codec.update(baseline); codec.replace(baseline, module, field)
 *   report = codec.explain(baseline or nil, f, ...)
 *   state = codec.state()                  another Lua state, with the standard libraries
 *   ... = state:run(source, bytes, ...)    runs a chunk there; only strings, numbers and booleans
 * pass
 *
 * In that state `codec` is this module again. A dictionary is a table {[id] = bytes}. */
#include "codec_module.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "bindings/values/code.h"
#include "bindings/values/early.h"
#include "bindings/values/graph.h"
#include "bindings/values/modules.h"

struct holder {
  struct mch_buf out, ids;
  lua_State *L; /* while encoding */
  int dictionary, ahead;
  int busy;
};

static int free_holder(lua_State *L) {
  struct holder *holder = lua_touserdata(L, 1);
  mch_buf_free(&holder->out);
  mch_buf_free(&holder->ids);
  return 0;
}

static struct holder *new_holder(lua_State *L) {
  struct holder *holder = lua_newuserdatauv(L, sizeof *holder, 0);
  memset(holder, 0, sizeof *holder);
  if (luaL_newmetatable(L, "codec_module.holder")) {
    lua_pushcfunction(L, free_holder);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return holder;
}

static enum mch_graph_kind get_kind(lua_State *L) {
  static const char *const names[] = {"task", "result", "error", NULL};
  int kind;
  lua_getfield(L, 1, "kind");
  kind = luaL_checkoption(L, -1, "task", names);
  lua_pop(L, 1);
  return (enum mch_graph_kind)kind;
}

/* Push opts[name] and return its index, or 0. */
static int get_table(lua_State *L, const char *name) {
  if (lua_getfield(L, 1, name) == LUA_TTABLE)
    return lua_gettop(L);
  return 0;
}

static uint32_t intern(void *ud, const char *bytes, size_t len, const char **kept) {
  struct holder *holder = ud;
  lua_State *L = holder->L;
  lua_Integer id, n = (lua_Integer)lua_rawlen(L, holder->dictionary);
  for (id = 1; id <= n; id++) {
    size_t length;
    const char *known;
    int same;
    lua_rawgeti(L, holder->dictionary, id);
    known = lua_tolstring(L, -1, &length);
    same = length == len && memcmp(known, bytes, len) == 0;
    *kept = known;
    lua_pop(L, 1);
    if (same)
      return (uint32_t)id;
  }
  *kept = lua_pushlstring(L, bytes, len);
  lua_rawseti(L, holder->dictionary, n + 1);
  return (uint32_t)(n + 1);
}

static int send_early(void *ud, const unsigned char *piece, size_t len) {
  struct holder *holder = ud;
  lua_pushlstring(holder->L, (const char *)piece, len);
  lua_rawseti(holder->L, holder->ahead, (lua_Integer)lua_rawlen(holder->L, holder->ahead) + 1);
  return 1;
}

/* The holder that all encodings share (a pool keeps its buffer, too), or a new one inside of
 * another encoding, or after one that failed. */
static struct holder *use_holder(lua_State *L) {
  struct holder *holder = NULL;
  if (lua_getfield(L, LUA_REGISTRYINDEX, "codec_module.shared") == LUA_TUSERDATA)
    holder = lua_touserdata(L, -1);
  if (holder == NULL || holder->busy) {
    holder = new_holder(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, "codec_module.shared");
  }
  mch_buf_clear(&holder->out);
  mch_buf_clear(&holder->ids);
  holder->busy = 1;
  return holder;
}

static int encode(lua_State *L) {
  struct mch_encoder encoder;
  struct holder *holder;
  int n = lua_gettop(L) - 1;
  size_t i;
  luaL_checktype(L, 1, LUA_TTABLE);
  memset(&encoder, 0, sizeof encoder);
  holder = use_holder(L);
  holder->L = L;
  encoder.out = &holder->out;
  encoder.code_ids = &holder->ids;
  encoder.kind = get_kind(L);
  encoder.baseline = get_table(L, "baseline");
  holder->dictionary = get_table(L, "dictionary");
  lua_getfield(L, 1, "memory");
  encoder.memory = lua_touserdata(L, -1);
  if (holder->dictionary != 0)
    encoder.intern_code = intern;
  holder->ahead = get_table(L, "ahead");
  if (holder->ahead != 0)
    encoder.send_early = send_early;
  encoder.ud = holder;
  mch_encode(L, &encoder, 2, n);
  lua_pushlstring(L, (const char *)holder->out.data, holder->out.length);
  holder->busy = 0;
  lua_newtable(L);
  for (i = 0; i < holder->ids.length / 4; i++) {
    uint32_t id; /* in the order of this machine */
    memcpy(&id, holder->ids.data + sizeof id * i, sizeof id);
    lua_pushinteger(L, id);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 2;
}

static int put(lua_State *L) {
  struct mch_encoder encoder;
  struct holder *holder;
  int n = lua_gettop(L);
  memset(&encoder, 0, sizeof encoder);
  holder = use_holder(L);
  encoder.out = &holder->out;
  mch_encode(L, &encoder, 1, n);
  holder->busy = 0;
  lua_pushinteger(L, (lua_Integer)mch_buf_unread(&holder->out));
  return 1;
}

static const char *find(void *ud, uint32_t id, size_t *len) {
  lua_State *L = ud;
  const char *bytes;
  lua_getfield(L, LUA_REGISTRYINDEX, "codec_module.dictionary");
  lua_rawgeti(L, -1, id);
  bytes = lua_tolstring(L, -1, len);
  lua_pop(L, 2);
  return bytes;
}

/* Replace the list of pieces on top of the stack by that of their tables. */
static void store_pieces(lua_State *L) {
  int pieces = lua_gettop(L), list = pieces + 1;
  lua_Integer i, n = (lua_Integer)lua_rawlen(L, pieces);
  lua_newtable(L);
  for (i = 1; i <= n; i++) {
    size_t len;
    const unsigned char *piece;
    lua_rawgeti(L, pieces, i);
    piece = (const unsigned char *)lua_tolstring(L, -1, &len);
    while (!mch_early_is_ready(L, list, piece, len))
      ;
    mch_early_store(L, list, piece, len);
    lua_settop(L, list);
  }
  lua_replace(L, pieces);
}

static int decode(lua_State *L) {
  struct mch_decoder decoder;
  size_t length;
  luaL_checktype(L, 1, LUA_TTABLE);
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = (const unsigned char *)luaL_checklstring(L, 2, &length);
  decoder.len = length;
  decoder.kind = get_kind(L);
  decoder.baseline = get_table(L, "baseline");
  lua_getfield(L, 1, "code");
  decoder.allow_code = lua_isnil(L, -1) || lua_toboolean(L, -1);
  decoder.early = get_table(L, "ahead");
  if (decoder.early != 0)
    store_pieces(L);
  if (get_table(L, "dictionary") != 0) {
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, "codec_module.dictionary");
    decoder.find_code = find;
    decoder.ud = L;
  }
  decoder.factories = get_table(L, "factories");
  if (decoder.baseline != 0 && decoder.kind != MCH_SEND_TASK) { /* what comes back names classes */
    lua_rawgeti(L, decoder.baseline, MCH_BASELINE_CLASSES);
    decoder.own = lua_gettop(L);
  }
  return mch_decode(L, &decoder);
}

/* What a caller keeps between messages that have the same baseline and dictionary: opts.memory. */
static int new_memory(lua_State *L) {
  struct mch_code_memory *memory = lua_newuserdatauv(L, sizeof *memory, 0);
  memset(memory, 0, sizeof *memory);
  return 1;
}

static int baseline(lua_State *L) {
  mch_baseline_take(L);
  return 1;
}

static int update(lua_State *L) {
  mch_baseline_update(L, 1);
  return 0;
}

static int replace(lua_State *L) {
  mch_baseline_replace(L, 1, luaL_checkstring(L, 2), luaL_checkstring(L, 3));
  return 0;
}

static int state_new(lua_State *L) {
  lua_State **other = lua_newuserdatauv(L, sizeof *other, 0);
  *other = NULL;
  luaL_setmetatable(L, "codec_module.state");
  *other = luaL_newstate();
  if (*other == NULL)
    return luaL_error(L, "not enough memory");
  luaL_openlibs(*other);
  luaL_requiref(*other, "codec", luaopen_codec_module, 1);
  lua_settop(*other, 0);
  return 1;
}

static int copy_value(lua_State *to, lua_State *from, int at) {
  size_t length;
  const char *s;
  switch (lua_type(from, at)) {
  case LUA_TBOOLEAN:
    lua_pushboolean(to, lua_toboolean(from, at));
    return 1;
  case LUA_TNUMBER:
    if (lua_isinteger(from, at))
      lua_pushinteger(to, lua_tointeger(from, at));
    else
      lua_pushnumber(to, lua_tonumber(from, at));
    return 1;
  case LUA_TSTRING:
    s = lua_tolstring(from, at, &length);
    lua_pushlstring(to, s, length);
    return 1;
  default:
    lua_pushnil(to);
    return 1;
  }
}

static int state_run(lua_State *L) {
  lua_State *other = *(lua_State **)luaL_checkudata(L, 1, "codec_module.state");
  size_t length;
  const char *source = luaL_checklstring(L, 2, &length);
  int i, top = lua_gettop(L), failed;
  lua_settop(other, 0);
  failed = luaL_loadbuffer(other, source, length, "=other") != LUA_OK;
  for (i = 3; !failed && i <= top; i++)
    copy_value(other, L, i);
  failed = failed || lua_pcall(other, top - 2, LUA_MULTRET, 0) != LUA_OK;
  if (failed) {
    copy_value(L, other, -1);
    lua_settop(other, 0);
    return lua_error(L);
  }
  top = lua_gettop(other);
  luaL_checkstack(L, top, NULL);
  for (i = 1; i <= top; i++)
    copy_value(L, other, i);
  lua_settop(other, 0);
  return top;
}

static int state_close(lua_State *L) {
  lua_State **other = luaL_checkudata(L, 1, "codec_module.state");
  if (*other != NULL)
    lua_close(*other);
  *other = NULL;
  return 0;
}

static int explain(lua_State *L) {
  mch_explain(L, lua_istable(L, 1) ? 1 : 0, 2, lua_gettop(L) - 1);
  return 1;
}

int luaopen_codec_module(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"encode", encode},     {"put", put},       {"decode", decode},   {"memory", new_memory},
      {"baseline", baseline}, {"update", update}, {"explain", explain}, {"replace", replace},
      {"state", state_new},   {NULL, NULL}};
  if (luaL_newmetatable(L, "codec_module.state")) {
    lua_pushcfunction(L, state_close);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, state_run);
    lua_setfield(L, -2, "run");
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
