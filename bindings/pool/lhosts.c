/* Runs in: parent. Purpose: lhosts.h. */
#define _POSIX_C_SOURCE 200809L
#include "lhosts.h"

#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bindings/notices.h"
#include "bindings/values/graph.h"
#include "lglobals.h"
#include "lpool_state.h"
#include "runtime/base/mix.h"
#include "runtime/hosts/library.h"
#include "runtime/links/program.h"
#include "runtime/links/url.h"

/* -- options ------------------------------------------------------------------------------ */

static char *copy_string(lua_State *L, int index) {
  size_t length;
  const char *text = lua_tolstring(L, index, &length);
  char *copy = malloc(length + 1);
  if (copy != NULL)
    memcpy(copy, text, length + 1);
  return copy;
}

static void string_field(lua_State *L, const char *name, struct mch_buf *to) {
  size_t length;
  const char *text;
  lua_getfield(L, -1, name);
  text = lua_tolstring(L, -1, &length);
  if (text != NULL)
    mch_buf_append(to, text, length);
  lua_pop(L, 1);
}

static lua_Number number_field(lua_State *L, const char *name) {
  lua_Number number;
  lua_getfield(L, -1, name);
  number = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return number;
}

/* The words in the list on top of the stack. NULL: no memory. */
static char **words_of(lua_State *L) {
  size_t count = (size_t)lua_rawlen(L, -1), i;
  char **words = calloc(count + 1, sizeof *words);
  for (i = 0; words != NULL && i < count; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    words[i] = copy_string(L, -1);
    lua_pop(L, 1);
    if (words[i] == NULL) {
      while (i > 0)
        free(words[--i]);
      free(words);
      return NULL;
    }
  }
  return words;
}

/* The machines in the list on top. 0, or -1: no memory. */
static int fill_hosts(lua_State *L, struct mch_hosts *hosts) {
  size_t count = (size_t)lua_rawlen(L, -1), i;
  hosts->hosts = calloc(count, sizeof *hosts->hosts);
  if (hosts->hosts == NULL)
    return -1;
  hosts->count = count;
  for (i = 0; i < count; i++) {
    struct mch_host *host = &hosts->hosts[i];
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    lua_getfield(L, -1, "name");
    host->name = copy_string(L, -1);
    lua_pop(L, 1);
    host->slots = (unsigned)number_field(L, "slots");
    lua_getfield(L, -1, "command");
    host->command = words_of(L);
    lua_pop(L, 1);
    host->is_fleet = lua_getfield(L, -1, "environment") == LUA_TTABLE;
    host->environment = host->is_fleet ? words_of(L) : NULL;
    lua_pop(L, 2);
    if (host->name == NULL || host->command == NULL ||
        (host->is_fleet && host->environment == NULL))
      return -1;
  }
  return 0;
}

struct mch_hosts *mch_lhosts_new(lua_State *L, struct lpool *lpool) {
  struct mch_hosts *hosts = calloc(1, sizeof *hosts);
  char format[MCH_LTASK_FORMAT];
  int failed;
  lpool->hosts = hosts;
  if (hosts != NULL) {
    hosts->path_ref = hosts->sent_ref = hosts->groups_ref = LUA_NOREF;
    hosts->watched_ref = hosts->names_ref = LUA_NOREF;
  }
  luaL_checkstack(L, 8, NULL);
  lua_getfield(L, -1, "hosts");
  failed = hosts == NULL || fill_hosts(L, hosts) != 0;
  lua_pop(L, 1);
  if (failed)
    luaL_error(L, "not enough memory for a pool");
  hosts->lease = mch_lrun_nanoseconds(number_field(L, "lease"));
  hosts->connect_timeout = mch_lrun_nanoseconds(number_field(L, "connect_timeout"));
  string_field(L, "cwd", &hosts->cwd);
  hosts->cwd_chosen = number_field(L, "cwd_chosen") != 0;
  string_field(L, "environment", &hosts->environment);
  mch_ltask_format(format);
  mch_buf_append(&hosts->format, format, strlen(format));
  hosts->program = MANTICHORA_VERSION;
  hosts->only_loaded = number_field(L, "only_loaded") != 0;
  hosts->shelf = mch_shelf_new();
  if (hosts->shelf == NULL)
    luaL_error(L, "not enough memory for a pool");
  hosts->library = (struct mch_library){hosts->shelf, mch_shelf_find};
  return hosts;
}

void mch_lhosts_free(lua_State *L, struct lpool *lpool) {
  struct mch_hosts *hosts = lpool->hosts;
  if (hosts == NULL)
    return;
  luaL_unref(L, LUA_REGISTRYINDEX, hosts->path_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, hosts->sent_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, hosts->groups_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, hosts->watched_ref);
  luaL_unref(L, LUA_REGISTRYINDEX, hosts->names_ref);
  mch_hosts_free(hosts);
  lpool->hosts = NULL;
}

int mch_lhosts_fleet(lua_State *L) {
  size_t length;
  const char *given = luaL_checklstring(L, 1, &length);
  char *url = lua_newuserdatauv(L, length + 1, 0), *password, path[4096];
  struct mch_url parsed;
  struct mch_error error;
  memcpy(url, given, length + 1);
  password = mch_url_split(url);
  if (password != NULL && strlen(password) < sizeof path)
    strcpy(path, password);
  else
    path[0] = '\0';
  free(password);
  luaL_checkstack(L, 4, NULL);
  lua_pushstring(L, path[0] == '\0' ? NULL : path);
  if (mch_url_parse(&parsed, url, &error) != 0) {
    lua_pushnil(L);
    lua_pushstring(L, error.text);
    return 2;
  }
  lua_pushstring(L, url);
  lua_pushstring(L, mch_link_find("mantichora-amqp", path, sizeof path));
  lua_pushvalue(L, -3);
  return 3;
}

/* -- modules ------------------------------------------------------------------------------ */

/* Push package.path. */
static int push_path(lua_State *L, struct mch_hosts *hosts) {
  if (mch_lglobals_push_package(L, hosts, 0) == LUA_TTABLE) {
    lua_pushliteral(L, "path");
    lua_rawget(L, -2);
  } else
    lua_pushnil(L);
  lua_remove(L, -2);
  return lua_type(L, -1);
}

/* Encode the function on top, for a worker that finds it under this name. */
static int encode_preloaded(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  struct mch_encoder encoder;
  memset(&encoder, 0, sizeof encoder);
  mch_buf_clear(&lpool->hosts->scratch);
  encoder.out = &lpool->hosts->scratch;
  encoder.kind = MCH_SEND_RESULT;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  encoder.baseline = lua_gettop(L);
  mch_encode(L, &encoder, 2, 1);
  return 0;
}

static void put_preloaded(lua_State *L, struct lpool *lpool, const char *name) {
  struct mch_buf *graph = &lpool->hosts->scratch;
  lua_pushcfunction(L, encode_preloaded);
  lua_pushlightuserdata(L, lpool);
  lua_pushvalue(L, -3);
  if (lua_pcall(L, 2, 0, 0) == LUA_OK && graph->failed == 0)
    mch_shelf_add(lpool->hosts->shelf, name, graph->data, graph->length);
  else
    lua_pop(L, graph->failed == 0);
}

/* A sum over the names and functions of the table on top, to see that it did not change. */
static uint64_t stamp(lua_State *L) {
  uint64_t sum = 1;
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    sum += mch_mix((uint64_t)(uintptr_t)lua_topointer(L, -2) ^
                   (uint64_t)(uintptr_t)lua_topointer(L, -1) * 31);
    lua_pop(L, 1);
  }
  return sum;
}

static void renew_preloaded(lua_State *L, struct lpool *lpool) {
  struct mch_hosts *hosts = lpool->hosts;
  uint64_t now;
  mch_lglobals_push_package(L, hosts, 1);
  now = stamp(L);
  if (now != hosts->preload_stamp) {
    hosts->preload_stamp = now;
    mch_shelf_clear(hosts->shelf);
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
      if (lua_type(L, -2) == LUA_TSTRING && lua_isfunction(L, -1) && !lua_iscfunction(L, -1))
        put_preloaded(L, lpool, lua_tostring(L, -2));
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

static void renew_names(lua_State *L, struct mch_hosts *hosts) {
  struct mch_buf *names = &hosts->scratch;
  mch_buf_clear(names);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    if (lua_type(L, -2) == LUA_TSTRING) {
      size_t length;
      const char *name = lua_tolstring(L, -2, &length);
      mch_buf_append(names, name, length + 1);
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  mch_shelf_set_names(hosts->shelf, names->failed == 0 ? (const char *)names->data : "",
                      names->failed == 0 ? names->length : 0);
}

void mch_lhosts_renew(lua_State *L, struct lpool *lpool) {
  struct mch_hosts *hosts = lpool->hosts;
  luaL_checkstack(L, 12, NULL);
  if (push_path(L, hosts) == LUA_TSTRING && lua_topointer(L, -1) != hosts->path_seen) {
    mch_shelf_set_path(hosts->shelf, lua_tostring(L, -1));
    hosts->path_seen = lua_topointer(L, -1);
    luaL_unref(L, LUA_REGISTRYINDEX, hosts->path_ref);
    hosts->path_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  } else
    lua_pop(L, 1);
  renew_preloaded(L, lpool);
  if (hosts->only_loaded)
    renew_names(L, hosts);
}

/* -- what workers set up first ------------------------------------------------------------ */

/* Where the script is. */
static void note_folder(struct mch_hosts *hosts) {
  char path[PATH_MAX];
  if (getcwd(path, sizeof path) != NULL)
    mch_buf_append(&hosts->cwd, path, strlen(path));
}

void mch_lhosts_prepare(lua_State *L, struct lpool *lpool) {
  struct mch_hosts *hosts = lpool->hosts;
  struct mch_encoder encoder;
  int top = lua_gettop(L), again;
  uint32_t id;
  size_t at;
  if (hosts->prepared)
    return;
  luaL_checkstack(L, 16, NULL);
  if (hosts->cwd.length == 0)
    note_folder(hosts);
  hosts->has_init = lpool->task.init != LUA_NOREF;
  hosts->has_fini = lpool->task.fini != LUA_NOREF;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.baseline);
  lua_newtable(L);
  mch_lglobals_set_up(lpool, top + 1, &encoder);
  encoder.out = &hosts->setup;
  encoder.code_ids = &hosts->setup_ids;
  encoder.kind = MCH_SEND_SETUP;
  encoder.collect = top + 2;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.init);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.fini);
  mch_lglobals_push_additions(L);
  mch_lglobals_stamp_additions(L, hosts, MCH_REACH_ALL, hosts->additions_stamps);
  do {
    mch_buf_clear(&hosts->setup);
    mch_buf_clear(&hosts->setup_ids);
    mch_encode(L, &encoder, top + 3, 3);
    lpool->holds |= encoder.classes > 0;
    again = mch_lglobals_seal(L, lpool, &encoder, top + 2);
    if (again)
      encoder.own = lua_gettop(L);
  } while (again);
  if (hosts->setup.failed != 0 || hosts->setup_ids.failed != 0)
    luaL_error(L, "not enough memory for the setup of workers");
  for (at = 0; at + sizeof id <= hosts->setup_ids.length; at += sizeof id) {
    memcpy(&id, hosts->setup_ids.data + at, sizeof id);
    hosts->last_of_setup = id > hosts->last_of_setup ? id : hosts->last_of_setup;
  }
  lua_settop(L, top);
  hosts->prepared = 1;
}

static int was_told(const struct mch_buf *told, const char *name) {
  const char *at = (const char *)told->data, *end = at + told->length;
  for (; at < end; at += strlen(at) + 1)
    if (strcmp(at, name) == 0)
      return 1;
  return 0;
}

void mch_lhosts_tell_left(lua_State *L, struct lpool *lpool) {
  struct mch_hosts *hosts = lpool->hosts;
  size_t at = 0;
  luaL_checkstack(L, 4, NULL);
  while (hosts->left.failed == 0 && at < hosts->left.length) {
    const char *name = (const char *)hosts->left.data + at, *why = name + strlen(name) + 1;
    at += strlen(name) + 1 + strlen(why) + 1;
    if (was_told(&hosts->told, name))
      continue;
    mch_buf_append(&hosts->told, name, strlen(name) + 1);
    hosts->told.failed = 0;
    lua_pushfstring(L, "the global '%s' is not sent to other machines and is absent there: %s",
                    name, why);
    mch_notices_warn(L, lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  mch_buf_clear(&hosts->left);
}
