/* Runs in: both. Purpose: lglobals.h. */
#include "lglobals.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "bindings/values/classes.h"
#include "bindings/values/modules.h"
#include "bindings/values/reach.h"
#include "lpool_state.h"
#include "lshared.h"
#include "runtime/base/mix.h"
#include "runtime/hosts/hosts.h"

/* -- in the parent ------------------------------------------------------------------------ */

/* What is known of a global that was sent, by its name in the table `sent`. */
enum entry { PRINT = 1, GROUP_ID, NEEDS, ENTRY_PARTS = NEEDS };
/* And of a group, by its id in the table `groups`. */
enum group { CLASSES = 1, IDS, MEMBERS, GROUP_PARTS = MEMBERS };

/* Stack indices during a seal. */
struct sealing {
  lua_State *L;
  struct lpool *lpool;
  int names, sent, groups, list, fresh, baseline;
  lua_Integer count, fresh_count;
};

/* 128 bits that depend on all bytes. */
static void fingerprint(const struct mch_buf *buf, uint64_t print[3]) {
  uint64_t a = 0x9e3779b97f4a7c15u, b = 0xc2b2ae3d27d4eb4fu, word;
  const unsigned char *at = buf->data;
  size_t left = buf->length;
  for (; left >= 8; at += 8, left -= 8) {
    memcpy(&word, at, 8);
    a = (a ^ word) * 0xff51afd7ed558ccdu;
    a ^= a >> 32;
    b = (b + word) * 0xc4ceb9fe1a85ec53u;
    b ^= b >> 29;
  }
  word = 0;
  if (left > 0)
    memcpy(&word, at, left);
  print[0] = mch_mix(a ^ word);
  print[1] = mch_mix(b + word);
  print[2] = buf->length;
}

static uint32_t intern_code(void *ud, const char *bytes, size_t length, const char **kept) {
  uint32_t id = mch_pool_intern(ud, bytes, length);
  if (id != 0)
    *kept = mch_pool_code(ud, id, &length);
  return id;
}

void mch_lglobals_set_up(struct lpool *lpool, int baseline, struct mch_encoder *encoder) {
  struct mch_hosts *hosts = lpool->hosts;
  memset(encoder, 0, sizeof *encoder);
  mch_buf_clear(&hosts->scratch);
  mch_buf_clear(&hosts->ids);
  encoder->out = &hosts->scratch;
  encoder->code_ids = &hosts->ids;
  encoder->intern_code = intern_code;
  encoder->ud = lpool->pool;
  encoder->kind = MCH_SEND_TASK;
  encoder->baseline = baseline;
}

static void set_up(const struct sealing *s, struct mch_encoder *encoder) {
  mch_lglobals_set_up(s->lpool, s->baseline, encoder);
}

/* Called with the sealing and a table: encode the value of the global whose name is behind them, by
 * itself; the table gets the names that it needs. */
static int encode_alone(lua_State *L) {
  const struct sealing *s = lua_touserdata(L, 1);
  struct mch_encoder encoder;
  struct sealing here = *s;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->lpool->task.baseline);
  here.baseline = lua_gettop(L);
  set_up(&here, &encoder);
  encoder.collect = 2;
  encoder.is_plain = 1;
  lua_pushglobaltable(L);
  lua_pushvalue(L, 3);
  lua_rawget(L, -2);
  mch_encode(L, &encoder, lua_gettop(L), 1);
  return 0;
}

/* What is stored as this is for no task to come. What workers were set up with stays: others will
 * be. */
static void retire(const struct lpool *lpool, uint32_t id) {
  if (id > lpool->hosts->last_of_setup)
    mch_pool_retire(lpool->pool, id);
}

/* The global whose entry is at `entry` has left its group, if it was in one. */
static void leave_group(const struct sealing *s, int entry) {
  lua_State *L = s->L;
  lua_Integer id, members;
  lua_rawgeti(L, entry, GROUP_ID);
  id = lua_tointeger(L, -1);
  lua_pop(L, 1);
  if (id == 0)
    return;
  lua_rawgeti(L, s->groups, id);
  lua_rawgeti(L, -1, MEMBERS);
  members = lua_tointeger(L, -1) - 1;
  lua_pop(L, 1);
  lua_pushinteger(L, members);
  lua_rawseti(L, -2, MEMBERS);
  lua_pop(L, 1);
  if (members > 0)
    return;
  lua_pushnil(L);
  lua_rawseti(L, s->groups, id);
  retire(s->lpool, (uint32_t)id);
}

/* Push the entry of the global whose name is on top: as it was if the global is what it was. */
static void push_entry(struct sealing *s) {
  lua_State *L = s->L;
  int name = lua_gettop(L), entry = name + 1, needs = name + 2, same = 0;
  uint64_t print[3] = {0};
  lua_pushvalue(L, name);
  lua_rawget(L, s->sent);
  lua_newtable(L);
  lua_pushcfunction(L, encode_alone);
  lua_pushlightuserdata(L, s);
  lua_pushvalue(L, needs);
  lua_pushvalue(L, name);
  if (lua_pcall(L, 3, 0, 0) == LUA_OK)
    fingerprint(&s->lpool->hosts->scratch, print);
  else
    lua_pop(L, 1); /* it cannot be sent, as will be told */
  lua_pushlstring(L, (const char *)print, sizeof print);
  if (lua_istable(L, entry)) {
    lua_rawgeti(L, entry, PRINT);
    same = lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
    lua_rawgeti(L, entry, GROUP_ID);
    same = same && !lua_isnil(L, -1); /* else it was to be sent, and something went wrong */
    lua_pop(L, 1);
    if (!same)
      leave_group(s, entry);
  }
  if (!same) {
    lua_createtable(L, ENTRY_PARTS, 0);
    lua_replace(L, entry);
    lua_rawseti(L, entry, PRINT);
    lua_pushvalue(L, needs);
    lua_rawseti(L, entry, NEEDS);
    lua_pushvalue(L, name);
    lua_pushvalue(L, entry);
    lua_rawset(L, s->sent);
    lua_pushvalue(L, name);
    lua_rawseti(L, s->fresh, ++s->fresh_count);
  }
  lua_settop(L, entry);
}

/* From now on it counts as changed whenever it is named: workers have got it. */
static void mark(struct sealing *s, int name) {
  lua_State *L = s->L;
  lua_rawgeti(L, s->baseline, MCH_BASELINE_PRESENT);
  lua_pushvalue(L, name);
  lua_pushboolean(L, 0);
  lua_rawset(L, -3);
  lua_rawgeti(L, s->baseline, MCH_BASELINE_GLOBALS);
  lua_pushvalue(L, name);
  lua_pushnil(L);
  lua_rawset(L, -3);
  lua_pop(L, 2);
}

/* Put the name on top into the list, unless it is there. Pops it. */
static void add_name(struct sealing *s) {
  lua_State *L = s->L;
  lua_pushvalue(L, -1);
  if (lua_rawget(L, s->list) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 1);
    lua_rawset(L, s->list);
    lua_rawseti(L, s->list, ++s->count);
    return;
  }
  lua_pop(L, 2);
}

static void add_names_of(struct sealing *s, int set) {
  lua_State *L = s->L;
  lua_pushnil(L);
  while (lua_next(L, set) != 0) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    add_name(s);
  }
}

/* Gather all names, with those that their values need, and find out which are fresh. */
static void gather(struct sealing *s) {
  lua_State *L = s->L;
  lua_Integer i;
  int top = lua_gettop(L);
  add_names_of(s, s->names);
  for (i = 1; i <= s->count; i++) {
    lua_rawgeti(L, s->list, i);
    mark(s, top + 1);
    push_entry(s);
    lua_rawgeti(L, top + 2, NEEDS);
    add_names_of(s, top + 3);
    lua_settop(L, top);
  }
}

/* With the fresh ones go others that share something with them, named or not: a variable of two
 * functions stays one only if both come by one message. What cannot go does not, nor does what is
 * large. */
static void add_partners(struct sealing *s) {
  enum { LARGE = 64 * 1024 };
  static const uint64_t none[3] = {0};
  lua_State *L = s->L;
  int list = lua_gettop(L) + 1, name = list + 1, entry = list + 2;
  lua_Integer i;
  if (s->fresh_count == 0)
    return;
  mch_lshared_push(L, s->fresh);
  for (i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
    lua_Integer before = s->fresh_count;
    push_entry(s);
    lua_rawgeti(L, entry, PRINT);
    if (memcmp(lua_tostring(L, -1), none, sizeof none) != 0 &&
        s->lpool->hosts->scratch.length <= LARGE) {
      mark(s, name);
      lua_pushvalue(L, name);
      lua_rawseti(L, s->fresh, before + 1);
      s->fresh_count = before + 1;
    } else if (s->fresh_count > before) { /* as if it had not been looked at */
      lua_pushnil(L);
      lua_rawseti(L, s->fresh, s->fresh_count--);
      lua_pushvalue(L, name);
      lua_pushnil(L);
      lua_rawset(L, s->sent);
    }
    lua_settop(L, list);
  }
  lua_settop(L, list - 1);
}

/* Called with the sealing, the list of fresh names, and a list that gets the classes. */
static int encode_group(lua_State *L) {
  const struct sealing *s = lua_touserdata(L, 1);
  struct mch_encoder encoder;
  struct sealing here = *s;
  lua_Integer count, i;
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->lpool->task.baseline);
  here.baseline = lua_gettop(L);
  lua_newtable(L);
  for (count = 0;;) {
    int first = lua_gettop(L) + 1;
    set_up(&here, &encoder);
    encoder.puts = 2;
    encoder.collect = here.baseline + 1;
    encoder.found = count > 0 ? 0 : 3;
    encoder.classes_from = count > 0 ? -1 : 0;
    encoder.left = &s->lpool->hosts->left;
    mch_buf_clear(encoder.left);
    luaL_checkstack(L, (int)count + 8, NULL);
    for (i = 1; i <= count; i++)
      lua_rawgeti(L, 3, i);
    mch_encode(L, &encoder, first, (int)count);
    s->lpool->holds |= encoder.classes > 0;
    lua_settop(L, first - 1);
    if (count == (lua_Integer)lua_rawlen(L, 3) || count > 0)
      return 0;
    count = (lua_Integer)lua_rawlen(L, 3);
  }
}

/* Store the fresh names as a group. */
static void make_group(struct sealing *s) {
  lua_State *L = s->L;
  struct mch_hosts *hosts = s->lpool->hosts;
  int top = lua_gettop(L), classes = top + 1;
  uint32_t id;
  lua_Integer i;
  if (s->fresh_count == 0)
    return;
  lua_newtable(L);
  lua_pushcfunction(L, encode_group);
  lua_pushlightuserdata(L, s);
  lua_pushvalue(L, s->fresh);
  lua_pushvalue(L, classes);
  lua_call(L, 3, 0);
  id = hosts->scratch.failed == 0
           ? mch_pool_store(s->lpool->pool, hosts->scratch.data, hosts->scratch.length)
           : 0;
  if (id == 0)
    luaL_error(L, "not enough memory to send globals");
  lua_createtable(L, GROUP_PARTS, 0);
  lua_pushvalue(L, classes);
  lua_rawseti(L, -2, CLASSES);
  lua_pushlstring(L, hosts->ids.length > 0 ? (const char *)hosts->ids.data : "", hosts->ids.length);
  lua_rawseti(L, -2, IDS);
  lua_pushinteger(L, s->fresh_count);
  lua_rawseti(L, -2, MEMBERS);
  lua_rawseti(L, s->groups, id);
  for (i = 1; i <= s->fresh_count; i++) {
    lua_rawgeti(L, s->fresh, i);
    lua_rawget(L, s->sent);
    lua_pushinteger(L, id);
    lua_rawseti(L, -2, GROUP_ID);
    lua_pop(L, 1);
  }
  lua_settop(L, top);
}

/* Push the list of tables that are looked at where they are in reach: those of the libraries, then
 * the module `package` and its `preload`. */
static void push_watched(lua_State *L, struct mch_hosts *hosts) {
  enum { COUNT = MCH_REACH_LIBRARIES };
  int list = lua_gettop(L) + 1, i;
  if (hosts->watched_ref != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, hosts->watched_ref);
    return;
  }
  lua_createtable(L, COUNT + 2, 0);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (i = 0; i <= COUNT; i++) {
    lua_pushstring(L, i < COUNT ? mch_reach_libraries[i] : LUA_LOADLIBNAME);
    lua_rawget(L, -2);
    lua_rawseti(L, list, i + 1);
  }
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_rawseti(L, list, COUNT + 2);
  lua_settop(L, list);
  lua_pushvalue(L, list);
  hosts->watched_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

int mch_lglobals_push_package(lua_State *L, struct mch_hosts *hosts, int preload) {
  push_watched(L, hosts);
  lua_rawgeti(L, -1, MCH_REACH_LIBRARIES + 1 + preload);
  lua_remove(L, -2);
  return lua_type(L, -1);
}

void mch_lglobals_stamp_additions(lua_State *L, struct mch_hosts *hosts, unsigned reach,
                                  uint64_t stamps[MCH_REACH_LIBRARIES]) {
  int top = lua_gettop(L), i;
  push_watched(L, hosts);
  for (i = 0; i < MCH_REACH_LIBRARIES; i++) {
    if ((reach & 1u << i) == 0)
      continue;
    stamps[i] = 1;
    if (lua_rawgeti(L, top + 1, i + 1) == LUA_TTABLE) {
      lua_pushnil(L);
      while (lua_next(L, top + 2) != 0) { /* many: most are functions in C */
        if (!lua_iscfunction(L, -1) && lua_isfunction(L, -1))
          stamps[i] += mch_mix((uint64_t)(uintptr_t)lua_topointer(L, -2) ^
                               (uint64_t)(uintptr_t)lua_topointer(L, -1) * 31);
        lua_pop(L, 1);
      }
    }
    lua_settop(L, top + 1);
  }
  lua_settop(L, top);
}

void mch_lglobals_push_names(lua_State *L, struct mch_hosts *hosts) {
  if (hosts->names_ref != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, hosts->names_ref);
    lua_pushnil(L);
    if (!lua_next(L, -2))
      return;
    lua_pop(L, 3);
    luaL_unref(L, LUA_REGISTRYINDEX, hosts->names_ref);
    hosts->names_ref = LUA_NOREF;
  }
  lua_newtable(L);
  lua_pushvalue(L, -1);
  hosts->names_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Push the list of { module, field, function } of functions in Lua that stand in tables of the
 * standard library. */
void mch_lglobals_push_additions(lua_State *L) {
  int list = lua_gettop(L) + 1, loaded = list + 1;
  lua_Integer count = 0;
  size_t i;
  lua_newtable(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (i = 0; i < MCH_REACH_LIBRARIES; i++) {
    lua_settop(L, loaded);
    lua_pushstring(L, mch_reach_libraries[i]);
    if (lua_rawget(L, loaded) != LUA_TTABLE)
      continue;
    lua_pushnil(L);
    while (lua_next(L, loaded + 1)) {
      if (lua_type(L, -2) == LUA_TSTRING && lua_isfunction(L, -1) && !lua_iscfunction(L, -1)) {
        lua_createtable(L, 3, 0);
        lua_pushstring(L, mch_reach_libraries[i]);
        lua_rawseti(L, -2, 1);
        lua_pushvalue(L, -3);
        lua_rawseti(L, -2, 2);
        lua_pushvalue(L, -2);
        lua_rawseti(L, -2, 3);
        lua_rawseti(L, list, ++count);
      }
      lua_pop(L, 1);
    }
  }
  lua_settop(L, list);
}

/* Called with the pool: encode what stands in the standard library by now. */
static int encode_additions(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  struct sealing here = {.L = L, .lpool = lpool};
  struct mch_encoder encoder;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  here.baseline = lua_gettop(L);
  set_up(&here, &encoder);
  encoder.kind = MCH_SEND_SETUP;
  mch_lglobals_push_additions(L);
  mch_encode(L, &encoder, lua_gettop(L), 1);
  return 0;
}

/* Functions were put into tables of the standard library that are in reach since the setup was
 * encoded: all there are by now are a group, too. */
static void renew_additions(lua_State *L, struct lpool *lpool, unsigned reach) {
  struct mch_hosts *hosts = lpool->hosts;
  uint64_t now[MCH_REACH_LIBRARIES];
  _Static_assert(sizeof now == sizeof hosts->additions_stamps, "a stamp for each library");
  memcpy(now, hosts->additions_stamps, sizeof now);
  mch_lglobals_stamp_additions(L, hosts, reach, now);
  if (memcmp(now, hosts->additions_stamps, sizeof now) == 0)
    return;
  lua_pushcfunction(L, encode_additions);
  lua_pushlightuserdata(L, lpool);
  lua_call(L, 1, 0);
  memcpy(hosts->additions_stamps, now, sizeof now);
  mch_buf_clear(&hosts->additions_ids);
  mch_buf_append(&hosts->additions_ids, hosts->ids.data, hosts->ids.length);
  if (hosts->additions != 0)
    retire(lpool, hosts->additions);
  hosts->additions = mch_pool_store(lpool->pool, hosts->scratch.data, hosts->scratch.length);
  mch_buf_append(&hosts->additions_ids, &hosts->additions, sizeof hosts->additions);
  if (hosts->additions == 0 || hosts->additions_ids.failed != 0)
    luaL_error(L, "not enough memory to send functions of the standard library");
}

/* Append what the message needs; the set at `own` gets the classes in those groups. */
static void put_trailer(struct sealing *s, struct mch_encoder *encoder, int own) {
  lua_State *L = s->L;
  struct mch_buf *trailer = &s->lpool->hosts->trailer;
  int top = lua_gettop(L);
  lua_Integer i, k;
  mch_buf_clear(trailer);
  mch_buf_u32(trailer, (uint32_t)s->count);
  if (s->lpool->hosts->additions != 0) {
    mch_buf_u32(trailer, s->lpool->hosts->additions);
    mch_buf_u32(trailer, 0);
    mch_buf_append(encoder->code_ids, s->lpool->hosts->additions_ids.data,
                   s->lpool->hosts->additions_ids.length);
  }
  for (i = 1; i <= s->count; i++) {
    size_t length;
    const char *name;
    uint32_t id;
    lua_rawgeti(L, s->list, i);
    name = lua_tolstring(L, top + 1, &length);
    lua_pushvalue(L, top + 1);
    lua_rawget(L, s->sent);
    lua_rawgeti(L, top + 2, GROUP_ID);
    id = (uint32_t)lua_tointeger(L, -1);
    mch_buf_u32(trailer, id);
    mch_buf_u32(trailer, (uint32_t)length);
    mch_buf_append(trailer, name, length);
    lua_rawgeti(L, s->groups, id);
    lua_rawgeti(L, -1, IDS);
    name = lua_tolstring(L, -1, &length);
    mch_buf_append(encoder->code_ids, name, length);
    mch_buf_append(encoder->code_ids, &id, sizeof id);
    lua_pop(L, 1);
    lua_rawgeti(L, -1, CLASSES);
    for (k = 1; lua_rawgeti(L, -1, k) == LUA_TTABLE; k++) {
      lua_pushboolean(L, 1);
      lua_rawset(L, own);
    }
    lua_settop(L, top);
  }
  mch_buf_append(encoder->out, trailer->data, trailer->length);
  mch_buf_u32(encoder->out, (uint32_t)trailer->length);
}

/* Push a table of the pool's, made when first needed. */
static void push_table(lua_State *L, int *reference) {
  if (*reference != LUA_NOREF) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, *reference);
    return;
  }
  lua_newtable(L);
  lua_pushvalue(L, -1);
  *reference = luaL_ref(L, LUA_REGISTRYINDEX);
}

int mch_lglobals_seal(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder, int names) {
  struct sealing s = {.L = L, .lpool = lpool, .names = lua_absindex(L, names)};
  int top = lua_gettop(L), again = 0, named;
  unsigned all = MCH_REACH_ALL, *reach = encoder->reach != NULL ? encoder->reach : &all;
  luaL_checkstack(L, 32, NULL);
  named = !mch_modules_is_empty(L, s.names);
  if (named) /* what those globals can look into is not asked */
    *reach = MCH_REACH_ALL;
  if (*reach != 0)
    renew_additions(L, lpool, *reach);
  if (lpool->hosts->additions == 0 && !named) {
    mch_buf_u32(encoder->out, 0);
    return 0;
  }
  lua_newtable(L); /* own */
  push_table(L, &lpool->hosts->sent_ref);
  s.sent = lua_gettop(L);
  push_table(L, &lpool->hosts->groups_ref);
  s.groups = lua_gettop(L);
  lua_newtable(L);
  s.list = lua_gettop(L);
  lua_newtable(L);
  s.fresh = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  s.baseline = lua_gettop(L);
  gather(&s);
  add_partners(&s);
  make_group(&s);
  put_trailer(&s, encoder, top + 1);
  lua_settop(L, top + 1);
  if (encoder->own == 0 && encoder->classes > 0)
    again = !mch_modules_is_empty(L, top + 1);
  if (!again)
    lua_settop(L, top);
  return again;
}

/* -- in a worker -------------------------------------------------------------------------- */

static void add_to_library(lua_State *L, int list) {
  lua_Integer i;
  int top = lua_gettop(L);
  if (!lua_istable(L, list))
    return;
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (i = 1; lua_rawgeti(L, list, i) == LUA_TTABLE; i++) {
    lua_rawgeti(L, top + 2, 1);
    if (lua_rawget(L, top + 1) == LUA_TTABLE) {
      lua_rawgeti(L, top + 2, 2);
      lua_rawgeti(L, top + 2, 3);
      lua_rawset(L, top + 3);
    }
    lua_settop(L, top + 1);
  }
  lua_settop(L, top);
}

/* Push a table of the worker's, made when first needed. */
static void push_own(lua_State *L, int *reference) {
  push_table(L, reference);
}

/* The graph of this group, decoded. It assigns the names in the set at `only`, and those that no
 * group has assigned before, which come into `applied`: they may share what they hold with these.
 * Its classes go into the table at `own`, by id. */
static void decode_group(lua_State *L, struct mch_ltask *task, uint32_t id, int only, int applied,
                         int own) {
  struct mch_decoder decoder;
  size_t length;
  int top = lua_gettop(L), count, names, i;
  const void *bytes = mch_dictionary_get(&task->codes, id, &length);
  if (bytes == NULL)
    luaL_error(L, "the globals of a task did not come");
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->baseline);
  memset(&decoder, 0, sizeof decoder);
  decoder.baseline = lua_gettop(L);
  decoder.bytes = bytes;
  decoder.len = length;
  decoder.allow_code = 1;
  decoder.kind = MCH_SEND_TASK;
  decoder.only = only;
  decoder.set = applied;
  decoder.set_by = (lua_Integer)id;
  decoder.find_code = mch_ltask_find_code;
  decoder.ud = task;
  count = mch_decode(L, &decoder);
  lua_pushliteral(L, "");
  if (lua_rawget(L, only) != LUA_TNIL) {
    lua_pop(L, 1);
    add_to_library(L, lua_gettop(L));
    lua_settop(L, top);
    return;
  }
  lua_pop(L, 1);
  lua_rawgeti(L, top + 1, MCH_BASELINE_MODULE);
  names = lua_gettop(L);
  for (i = names - count; i < names; i++) {
    lua_pushvalue(L, i);
    if (lua_rawget(L, names) == LUA_TNUMBER) {
      lua_pushvalue(L, i);
      lua_rawset(L, own);
    } else
      lua_pop(L, 1);
  }
  lua_settop(L, top);
}

/* Those of the names that have this group and have not got it. */
static void apply_group(lua_State *L, struct mch_ltask *task, const unsigned char *trailer,
                        size_t length, uint32_t id, int applied, int own) {
  size_t at = 4;
  int top = lua_gettop(L), some = 0;
  lua_newtable(L);
  while (at + 8 <= length) {
    uint32_t group = mch_load_u32(trailer + at), size = mch_load_u32(trailer + at + 4);
    if (size > length - at - 8)
      break;
    if (group == id) {
      lua_pushlstring(L, (const char *)trailer + at + 8, size);
      lua_pushvalue(L, -1);
      lua_rawget(L, applied);
      if (lua_tointeger(L, -1) != (lua_Integer)id) {
        some = 1;
        lua_pushvalue(L, -2);
        lua_pushinteger(L, id);
        lua_rawset(L, top + 1);
      }
      lua_settop(L, top + 1);
    }
    at += 8 + size;
  }
  if (some) {
    decode_group(L, task, id, top + 1, applied, own);
    lua_pushnil(L);
    while (lua_next(L, top + 1) != 0) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, applied);
    }
  }
  lua_settop(L, top);
}

/* They have come, as far as what goes back is concerned. */
static void note_classes(lua_State *L, const struct mch_ltask *task, int own) {
  int top = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->baseline);
  lua_rawgeti(L, -1, MCH_BASELINE_CAME);
  lua_pushnil(L);
  while (lua_next(L, own) != 0) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 1);
    lua_rawset(L, top + 2);
  }
  lua_settop(L, top);
}

size_t mch_lglobals_apply(lua_State *L, struct mch_ltask *task, const unsigned char *bytes,
                          size_t length) {
  uint32_t size = length >= 4 ? mch_load_u32(bytes + length - 4) : 0;
  const unsigned char *trailer;
  size_t at = 4;
  int top = lua_gettop(L);
  if (length < 4 || size > length - 4)
    luaL_error(L, "a message without its end");
  luaL_checkstack(L, 24, NULL);
  if (size == 0) {
    lua_pushnil(L);
    return length - 4;
  }
  trailer = bytes + length - 4 - size;
  push_own(L, &task->globals_own);
  push_own(L, &task->applied);
  while (at + 8 <= size) {
    uint32_t name_length = mch_load_u32(trailer + at + 4);
    apply_group(L, task, trailer, size, mch_load_u32(trailer + at), top + 2, top + 1);
    if (name_length > size - at - 8)
      luaL_error(L, "a message whose end is broken");
    at += 8 + name_length;
  }
  note_classes(L, task, top + 1);
  lua_settop(L, top + 1);
  return length - 4 - size;
}

/* Called with the task: what workers of another machine set up first. */
int mch_lglobals_decode_setup(lua_State *L) {
  struct mch_ltask *task = lua_touserdata(L, 1);
  struct mch_decoder decoder;
  memset(&decoder, 0, sizeof decoder);
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->baseline);
  decoder.baseline = lua_gettop(L);
  decoder.allow_code = 1;
  decoder.kind = MCH_SEND_SETUP;
  decoder.find_code = mch_ltask_find_code;
  decoder.ud = task;
  mch_classes_begin_task(L, decoder.baseline, 0);
  decoder.bytes = task->setup;
  decoder.len = mch_lglobals_apply(L, task, task->setup, task->setup_length);
  decoder.own = lua_istable(L, -1) ? lua_gettop(L) : 0;
  if (mch_decode(L, &decoder) < 3)
    return luaL_error(L, "the setup of a worker is not what it should be");
  add_to_library(L, 6);
  if (task->has_fini) {
    lua_pushvalue(L, 5);
    task->fini = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  if (task->has_init) {
    lua_pushvalue(L, 4);
    task->init = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  return 0;
}
