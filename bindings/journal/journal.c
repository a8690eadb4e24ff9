/* Runs in: parent.
 *
 * The journal as an object of Lua, of which there is one for each file in a state: it counts equal
 * tasks over all pools that use it, and has the file open while one does. Purpose: journal.h. */
#include "journal.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/error.h"

/* Key of the registry: the journals of this state, by path. */
static const char journals_key = 0;

static void set_seed(struct journal *journal, int64_t seed) {
  journal->seed = seed;
  memset(journal->seed_bytes, 0, sizeof journal->seed_bytes);
  mch_store_u64(journal->seed_bytes, (uint64_t)seed);
}

/* A copy of the string that is at `key` (or, if that is NULL, at 0) of the global table `name`,
 * read raw, so that no code runs; or NULL. */
static char *string_of(lua_State *L, const char *name, const char *key) {
  char *string = NULL;
  int top = lua_gettop(L);
  lua_pushglobaltable(L);
  lua_pushstring(L, name);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    if (key != NULL)
      lua_pushstring(L, key);
    else
      lua_pushinteger(L, 0);
    if (lua_rawget(L, -2) == LUA_TSTRING)
      string = strdup(lua_tostring(L, -1));
  }
  lua_settop(L, top);
  return string;
}

/* Open the file. A sentence in `error` if that is an error of who wants it: -1. */
static int open_store(lua_State *L, struct journal *journal, struct mch_error *error) {
  int top = lua_gettop(L);
  enum mch_store_opened opened;
  error->code = 0;
  opened = mch_store_open(&journal->store, journal->path, journal->seed, error);
  if (opened == MCH_STORE_REFUSED) {
    mch_store_close(&journal->store);
    return -1;
  }
  if (opened == MCH_STORE_UNUSABLE)
    mch_journal_complain(journal, 1, "%s; tasks run without it", error->text);
  else if (error->code != 0)
    mch_journal_complain(journal, 1, "%s; what ends is not recorded", error->text);
  journal->is_open = opened == MCH_STORE_READY;
  journal->may_record = journal->is_open && journal->store.writer != NULL;
  if (journal->is_open) {
    journal->store.program = string_of(L, "arg", NULL);
    journal->store.module_path = string_of(L, "package", "path");
    journal->store.module_cpath = string_of(L, "package", "cpath");
    journal->store.run = journal->run;
  }
  lua_settop(L, top);
  return 0;
}

void mch_journal_rest(struct journal *journal) {
  journal->run = journal->store.run;
  mch_store_close(&journal->store);
  journal->is_open = 0;
  journal->may_record = 0;
  mch_counts_clear(&journal->written);
}

static int journal_gc(lua_State *L) {
  struct journal *journal = luaL_checkudata(L, 1, MCH_JOURNAL_TYPE);
  if (journal->process != (int)getpid() || journal->path == NULL)
    return 0;
  mch_journal_drop_all(journal);
  mch_store_close(&journal->store);
  mch_counts_clear(&journal->counts);
  mch_counts_clear(&journal->inner);
  mch_counts_clear(&journal->written);
  mch_journal_drop_parts(journal->parts);
  mch_buf_free(&journal->call);
  mch_files_free(journal->end_files);
  mch_files_free(journal->known);
  while (journal->complaints != NULL) {
    struct complaint *next = journal->complaints->next;
    free(journal->complaints);
    journal->complaints = next;
  }
  pthread_mutex_destroy(&journal->lock);
  pthread_mutex_destroy(&journal->writing);
  free(journal->path);
  journal->path = NULL;
  return 0;
}

static void push_journals(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &journals_key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &journals_key);
}

/* Push a new journal that has no file yet. */
static struct journal *new_journal(lua_State *L, const char *path) {
  struct journal *journal = lua_newuserdatauv(L, sizeof *journal, 0);
  memset(journal, 0, sizeof *journal);
  journal->keyer = journal->told = journal->walked = LUA_NOREF;
  journal->process = (int)getpid();
  if (luaL_newmetatable(L, MCH_JOURNAL_TYPE)) {
    lua_pushcfunction(L, journal_gc);
    lua_setfield(L, -2, "__gc");
    lua_newtable(L);
    mch_journal_register_items(L);
    lua_setfield(L, -2, "__index");
  }
  journal->head.version = MANTICHORA_VERSION;
  journal->head.ask = mch_journal_ask;
  journal->head.is_same = mch_journal_is_same;
  journal->head.forking = mch_journal_forking;
  journal->head.encoded = mch_journal_encoded;
  journal->head.unsent = mch_journal_unsent;
  journal->head.complaint = mch_journal_complaint;
  mch_journal_set_up_recorder(journal);
  journal->path = strdup(path);
  if (journal->path == NULL)
    luaL_error(L, "not enough memory for a journal");
  pthread_mutex_init(&journal->lock, NULL);
  pthread_mutex_init(&journal->writing, NULL);
  lua_setmetatable(L, -2);
  lua_newtable(L);
  journal->told = luaL_ref(L, LUA_REGISTRYINDEX);
  return journal;
}

/* open(path, keep, random, seed or nil): the journal and its seed; the path is absolute. Or nil and
 * a sentence. One more pool uses it. */
static int open_journal(lua_State *L) {
  static const char *const keeps[] = {"none", "failed", "all", NULL};
  const char *path = luaL_checkstring(L, 1);
  enum keep keep = (enum keep)luaL_checkoption(L, 2, "failed", keeps);
  int64_t seed = (int64_t)luaL_optinteger(L, 4, luaL_checkinteger(L, 3));
  int is_given = !lua_isnoneornil(L, 4);
  struct journal *journal;
  struct mch_error error = {0, ""};
  lua_settop(L, 4);
  push_journals(L);
  lua_pushvalue(L, 1);
  lua_rawget(L, 5);
  journal = luaL_testudata(L, 6, MCH_JOURNAL_TYPE);
  if (journal == NULL || journal->process != (int)getpid()) {
    lua_settop(L, 5);
    journal = new_journal(L, path);
    set_seed(journal, seed);
    journal->is_seeded = is_given;
  }
  if (journal->users == 0 && open_store(L, journal, &error) != 0) {
    lua_pushnil(L);
    lua_pushstring(L, error.text);
    return 2;
  }
  if (journal->is_open && journal->store.seed != journal->seed && !journal->is_seeded)
    set_seed(journal, journal->store.seed);
  if (is_given && seed != (journal->is_open ? journal->store.seed : journal->seed)) {
    int64_t its_seed = journal->is_open ? journal->store.seed : journal->seed;
    if (journal->users == 0)
      mch_journal_rest(journal);
    lua_pushnil(L);
    lua_pushfstring(L,
                    "the journal %s has the seed %I, and %I is given as the pool's: journals keep "
                    "the seed that they were made with",
                    path, (LUAI_UACINT)its_seed, (LUAI_UACINT)seed);
    return 2;
  }
  journal->is_seeded |= is_given;
  journal->keep = keep;
  journal->users++;
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 6);
  lua_rawset(L, 5);
  lua_pushinteger(L, (lua_Integer)journal->seed);
  return 2;
}

/* of(path): the journal of this path that a pool uses, or nil. */
static int journal_of(lua_State *L) {
  char here[4096];
  if (*luaL_checkstring(L, 1) != '/' && getcwd(here, sizeof here) != NULL) {
    lua_pushfstring(L, "%s/%s", here, lua_tostring(L, 1));
    lua_replace(L, 1);
  }
  lua_settop(L, 1);
  push_journals(L);
  lua_insert(L, 1);
  lua_rawget(L, 1);
  return 1;
}

void mch_journal_register(lua_State *L) {
  lua_pushcfunction(L, journal_of);
  lua_setfield(L, -2, "of");
  lua_pushcfunction(L, open_journal);
  lua_setfield(L, -2, "open");
  mch_journal_register_questions(L);
}
