/* Runs in: parent.
 *
 * What `mantichora journal` asks of a file: rows of a statement, and little more. Nothing here
 * makes a value of stored bytes. Purpose: journal.h. */
#include "journal.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "call.h"
#include "key.h"
#include "runtime/base/buf.h"
#include "runtime/base/error.h"
#include "runtime/base/mix.h"

#define QUESTIONS "mantichora journal file"
#define ROWS "mantichora journal rows"

static struct mch_store *check_store(lua_State *L) {
  struct mch_store *store = luaL_checkudata(L, 1, QUESTIONS);
  if (store->path == NULL)
    luaL_error(L, "the journal is closed");
  return store;
}

static sqlite3 *db_of(const struct mch_store *store) {
  return store->writer != NULL ? store->writer : store->reader;
}

static int raise_sqlite(lua_State *L, const struct mch_store *store) {
  return luaL_error(L, "the journal %s cannot be used: %s", store->path,
                    sqlite3_errmsg(db_of(store)));
}

/* Bind the arguments from `first` on. */
static void bind(lua_State *L, sqlite3_stmt *s, int first) {
  int last = lua_gettop(L), i;
  for (i = first; i <= last; i++) {
    int at = i - first + 1;
    size_t length;
    const char *bytes;
    if (lua_isinteger(L, i))
      sqlite3_bind_int64(s, at, (int64_t)lua_tointeger(L, i));
    else if (lua_type(L, i) == LUA_TNUMBER)
      sqlite3_bind_double(s, at, (double)lua_tonumber(L, i));
    else if (lua_type(L, i) == LUA_TSTRING) {
      bytes = lua_tolstring(L, i, &length);
      sqlite3_bind_text64(s, at, bytes, length, SQLITE_TRANSIENT, SQLITE_UTF8);
    } else
      sqlite3_bind_null(s, at);
  }
}

/* -- rows --------------------------------------------------------------------------------- */

static int rows_gc(lua_State *L) {
  sqlite3_stmt **s = luaL_checkudata(L, 1, ROWS);
  sqlite3_finalize(*s);
  *s = NULL;
  return 0;
}

static void push_column(lua_State *L, sqlite3_stmt *s, int i) {
  switch (sqlite3_column_type(s, i)) {
  case SQLITE_INTEGER:
    lua_pushinteger(L, (lua_Integer)sqlite3_column_int64(s, i));
    break;
  case SQLITE_FLOAT:
    lua_pushnumber(L, (lua_Number)sqlite3_column_double(s, i));
    break;
  case SQLITE_TEXT:
  case SQLITE_BLOB: {
    const void *bytes = sqlite3_column_blob(s, i);
    lua_pushlstring(L, bytes != NULL ? bytes : "", (size_t)sqlite3_column_bytes(s, i));
    break;
  }
  default:
    lua_pushnil(L);
  }
}

/* The next row as a table by the columns' names; nil: there is none. */
static int next_row(lua_State *L) {
  sqlite3_stmt **s = lua_touserdata(L, lua_upvalueindex(1));
  int code = *s != NULL ? sqlite3_step(*s) : SQLITE_DONE, i, count;
  if (code == SQLITE_DONE) {
    sqlite3_finalize(*s);
    *s = NULL;
    return 0;
  }
  if (code != SQLITE_ROW)
    return luaL_error(L, "the journal cannot be read: %s", sqlite3_errmsg(sqlite3_db_handle(*s)));
  count = sqlite3_column_count(*s);
  lua_createtable(L, 0, count);
  for (i = 0; i < count; i++) {
    push_column(L, *s, i);
    lua_setfield(L, -2, sqlite3_column_name(*s, i));
  }
  return 1;
}

/* file:rows(sql, ...): an iterator. */
static int rows(lua_State *L) {
  struct mch_store *store = check_store(L);
  sqlite3_stmt **s;
  int top = lua_gettop(L);
  s = lua_newuserdatauv(L, sizeof *s, 1);
  *s = NULL;
  if (luaL_newmetatable(L, ROWS)) {
    lua_pushcfunction(L, rows_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  if (sqlite3_prepare_v2(db_of(store), luaL_checkstring(L, 2), -1, s, NULL) != SQLITE_OK)
    return raise_sqlite(L, store);
  lua_insert(L, 1);
  lua_settop(L, top + 1);
  bind(L, *s, 4);
  lua_settop(L, 1);
  lua_pushcclosure(L, next_row, 1);
  return 1;
}

/* file:exec(sql, ...): how many rows it changed. */
static int exec(lua_State *L) {
  struct mch_store *store = check_store(L);
  sqlite3_stmt *s = NULL;
  int code;
  if (sqlite3_prepare_v2(db_of(store), luaL_checkstring(L, 2), -1, &s, NULL) != SQLITE_OK)
    return raise_sqlite(L, store);
  bind(L, s, 3);
  code = sqlite3_step(s);
  sqlite3_finalize(s);
  if (code != SQLITE_DONE && code != SQLITE_ROW)
    return raise_sqlite(L, store);
  lua_pushinteger(L, sqlite3_changes(db_of(store)));
  return 1;
}

/* -- large values ------------------------------------------------------------------------- */

/* file:large(name, length): the bytes; nil: they are missing or damaged. */
static int large(lua_State *L) {
  struct mch_store *store = check_store(L);
  const char *name = luaL_checkstring(L, 2);
  size_t length = (size_t)luaL_checkinteger(L, 3);
  unsigned char *bytes;
  if (mch_store_read_file(store, name, length, &bytes) != 0)
    return 0;
  lua_pushlstring(L, (const char *)bytes, length); /* a leak only if memory is short */
  free(bytes);
  return 1;
}

/* file:remove(name): of a large value. */
static int remove_large(lua_State *L) {
  struct mch_store *store = check_store(L);
  const char *name = luaL_checkstring(L, 2);
  if (strchr(name, '/') != NULL)
    return 0;
  lua_pushfstring(L, "%s/%s", store->folder, name);
  unlink(lua_tostring(L, -1));
  return 0;
}

/* file:digest_is(bytes, digest): whether these bytes are those that were recorded. */
static int digest_is(lua_State *L) {
  unsigned char digest[MCH_STORE_DIGEST];
  size_t length, digest_length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  const char *expected = luaL_checklstring(L, 3, &digest_length);
  mch_store_digest(bytes, length, digest);
  lua_pushboolean(L,
                  digest_length == sizeof digest && memcmp(digest, expected, sizeof digest) == 0);
  return 1;
}

/* -- the file ----------------------------------------------------------------------------- */

static int questions_gc(lua_State *L) {
  mch_store_close(luaL_checkudata(L, 1, QUESTIONS));
  return 0;
}

/* look(path, may_write): the file, for questions; or nil and a sentence. */
static int look(lua_State *L) {
  static const luaL_Reg methods[] = {{"rows", rows},           {"exec", exec},
                                     {"large", large},         {"remove", remove_large},
                                     {"digest_is", digest_is}, {NULL, NULL}};
  const char *path = luaL_checkstring(L, 1);
  int may_write = lua_toboolean(L, 2);
  struct mch_store *store = lua_newuserdatauv(L, sizeof *store, 0);
  struct mch_error error;
  memset(store, 0, sizeof *store);
  if (luaL_newmetatable(L, QUESTIONS)) {
    lua_pushcfunction(L, questions_gc);
    lua_setfield(L, -2, "__gc");
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
  }
  lua_setmetatable(L, -2);
  if (mch_store_look(store, path, may_write, &error) == MCH_STORE_READY)
    return 1;
  lua_pushnil(L);
  lua_pushstring(L, error.text);
  return 2;
}

/* random_seeds(seed, key): what math.randomseed is to be given for the task of that key. */
static int random_seeds(lua_State *L) {
  uint64_t seed = (uint64_t)luaL_checkinteger(L, 1), own;
  size_t length;
  const char *key = luaL_checklstring(L, 2, &length);
  if (length != MCH_HASH_SIZE)
    return luaL_argerror(L, 2, "no key");
  own = mch_mix(seed ^ mch_mix(mch_load_u64((const unsigned char *)key)));
  lua_pushinteger(L, (lua_Integer)own);
  lua_pushinteger(L, (lua_Integer)mch_mix(own));
  return 2;
}

/* parts(bytes): a table of the parts of a key: hash by path. */
static int parts(lua_State *L) {
  size_t length;
  const char *at = luaL_checklstring(L, 1, &length), *end = at + length;
  struct mch_key_part part;
  lua_newtable(L);
  while (mch_key_next_part(&at, end, &part)) {
    lua_pushlstring(L, part.path, part.length);
    lua_pushinteger(L, (lua_Integer)part.hash);
    lua_rawset(L, -3);
  }
  return 1;
}

void mch_journal_register_questions(lua_State *L) {
  lua_pushcfunction(L, look);
  lua_setfield(L, -2, "look");
  lua_pushcfunction(L, random_seeds);
  lua_setfield(L, -2, "random_seeds");
  lua_pushcfunction(L, parts);
  lua_setfield(L, -2, "parts");
  lua_pushcfunction(L, mch_call_rebuild);
  lua_setfield(L, -2, "rebuild");
}
