/* Runs in: parent.
 *
 * Items of commands. Purpose: journal.h. */
#include "journal.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/lbuf.h"
#include "bindings/values/graph.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"

static struct journal *check_journal(lua_State *L) {
  return luaL_checkudata(L, 1, MCH_JOURNAL_TYPE);
}

static const unsigned char *check_key(lua_State *L, int arg) {
  size_t length;
  const char *key = luaL_checklstring(L, arg, &length);
  luaL_argcheck(L, length == MCH_HASH_SIZE, arg, "no key");
  return (const unsigned char *)key;
}

static int make_key(lua_State *L) {
  struct journal *journal = check_journal(L);
  size_t prefix_length, item_length;
  const char *prefix = luaL_checklstring(L, 2, &prefix_length);
  const char *item = luaL_checklstring(L, 3, &item_length);
  unsigned char key[MCH_HASH_SIZE], number[8];
  struct mch_hash hash;
  mch_hash_begin(&hash);
  mch_hash_add(&hash, "item", 5);
  mch_store_u64(number, prefix_length);
  mch_hash_add(&hash, number, sizeof number);
  mch_hash_add(&hash, prefix, prefix_length);
  mch_hash_add(&hash, item, item_length);
  mch_hash_end(&hash, key);
  mch_store_u64(number, mch_counts_next(&journal->counts, key));
  mch_hash_begin(&hash);
  mch_hash_add(&hash, key, sizeof key);
  mch_hash_add(&hash, number, sizeof number);
  mch_hash_end(&hash, key);
  lua_pushlstring(L, (const char *)key, sizeof key);
  return 1;
}

/* Called with bytes and their number: the values. */
static int make_values(lua_State *L) {
  struct mch_decoder decoder;
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = lua_touserdata(L, 1);
  decoder.len = (size_t)lua_tointeger(L, 2);
  decoder.kind = MCH_SEND_RESULT;
  return mch_decode(L, &decoder);
}

static int find(lua_State *L) {
  struct journal *journal = check_journal(L);
  const unsigned char *key = check_key(L, 2);
  struct mch_stored stored;
  enum mch_store_found found;
  int top = lua_gettop(L);
  if (!journal->is_open)
    return 0;
  found = mch_store_find(&journal->store, key, &stored);
  if (found == MCH_STORE_FOUND) {
    lua_pushcfunction(L, make_values);
    lua_pushlightuserdata(L, stored.memory);
    lua_pushinteger(L, (lua_Integer)stored.length);
    if (lua_pcall(L, 2, LUA_MULTRET, 0) == LUA_OK)
      mch_journal_note_use(journal, stored.id);
    else {
      lua_settop(L, top);
      found = MCH_STORE_DAMAGED;
    }
    mch_stored_free(&stored);
  }
  if (found == MCH_STORE_DAMAGED)
    mch_journal_tell_damaged(journal);
  return lua_gettop(L) - top;
}

static uint64_t seconds_field(lua_State *L, const char *name) {
  lua_Number seconds;
  lua_getfield(L, 3, name);
  seconds = luaL_optnumber(L, -1, -1);
  lua_pop(L, 1);
  return seconds >= 0 ? (uint64_t)(seconds * 1e9) : MCH_UNMEASURED;
}

static lua_Integer integer_field(lua_State *L, const char *name) {
  lua_Integer value;
  lua_getfield(L, 3, name);
  value = luaL_optinteger(L, -1, 0);
  lua_pop(L, 1);
  return value;
}

static enum mch_kind kind_field(lua_State *L) {
  const char *word;
  int kind;
  lua_getfield(L, 3, "kind");
  word = luaL_checkstring(L, -1);
  for (kind = MCH_KIND_OK; kind < MCH_KIND_COUNT; kind++)
    if (strcmp(mch_kind_word((enum mch_kind)kind), word) == 0)
      break;
  lua_pop(L, 1);
  return kind < MCH_KIND_COUNT ? (enum mch_kind)kind : MCH_KIND_ERROR;
}

/* put(journal, key, options, ...) */
static int put(lua_State *L) {
  struct journal *journal = check_journal(L);
  const unsigned char *key = check_key(L, 2);
  int count = lua_gettop(L) - 3;
  struct mch_encoder encoder;
  struct mch_buf *graph;
  struct record *record;
  const char *name, *place;
  size_t name_length, place_length;
  luaL_checktype(L, 3, LUA_TTABLE);
  if (!journal->may_record)
    return 0;
  graph = mch_lbuf_push(L);
  lua_insert(L, 4);
  memset(&encoder, 0, sizeof encoder);
  encoder.out = graph;
  encoder.kind = MCH_SEND_RESULT;
  mch_encode(L, &encoder, 5, count);
  lua_getfield(L, 3, "name");
  name = luaL_optlstring(L, -1, "", &name_length);
  lua_getfield(L, 3, "place");
  place = luaL_optlstring(L, -1, "", &place_length);
  record =
      graph->failed == 0 ? mch_journal_new_record(journal, name_length + place_length + 2) : NULL;
  if (record == NULL)
    return 0;
  memcpy(record->key, key, MCH_HASH_SIZE);
  memcpy(record->data, name, name_length);
  record->name_length = name_length;
  memcpy(record->data + name_length, place, place_length);
  record->place = name_length;
  record->place_length = place_length;
  record->how.kind = kind_field(L);
  record->how.attempt = (unsigned)integer_field(L, "attempt") + 1;
  record->how.exitcode = (int)integer_field(L, "exitcode");
  record->how.signal = (int)integer_field(L, "signal");
  record->how.elapsed = seconds_field(L, "elapsed");
  record->how.index = (uint64_t)integer_field(L, "number");
  record->how.cpu = record->how.maxrss = record->how.waited = MCH_UNMEASURED;
  record->how.received = mch_buf_unread(graph);
  record->how.length = mch_buf_unread(graph);
  record->time = mch_wall();
  record->value = malloc(record->how.length + 1);
  if (record->value == NULL) {
    mch_journal_free_record(record);
    return 0;
  }
  memcpy(record->value, graph->data + graph->read, record->how.length);
  mch_buf_free(graph);
  mch_journal_gather(journal, record);
  return 0;
}

void mch_journal_register_items(lua_State *L) {
  static const luaL_Reg methods[] = {{"key", make_key}, {"find", find}, {"put", put}, {NULL, NULL}};
  luaL_setfuncs(L, methods, 0);
}
