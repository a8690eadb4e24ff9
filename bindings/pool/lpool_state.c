/* Runs in: both.
 *
 * Checks and errors shared by the files of the pool object. */
#include "lpool_state.h"

#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/buf.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"

/* Push why the pool cannot be used here and now; 0: nothing stands against it. */
int mch_lpool_push_problem(lua_State *L, const struct lpool *lpool) {
  if (!mch_mark_is_ours(&lpool->mark))
    lua_pushfstring(L,
                    "this pool belongs to process %d and cannot be used in process %d (a task may "
                    "make a pool of its own)",
                    lpool->mark.pid, (int)getpid());
  else if (lpool->pool == NULL)
    lua_pushliteral(L, "pool is closed");
  else
    return 0;
  return 1;
}

int mch_lpool_is_open(const struct lpool *lpool) {
  return lpool->pool != NULL && mch_mark_is_ours(&lpool->mark);
}

/* Is this function on the way from the user's call to the core? */
static int is_between(lua_State *L, lua_Debug *info) {
  static const char *const ours[] = {"mantichora/pool.lua", "mantichora/map.lua",
                                     "mantichora/options.lua", "mantichora/events.lua",
                                     "mantichora/hosts.lua"};
  size_t i;
  if (!lua_getinfo(L, "S", info))
    return 0;
  for (i = 0; i < sizeof ours / sizeof ours[0]; i++)
    if (strcmp(info->short_src, ours[i]) == 0)
      return 1;
  return 0;
}

/* The level of what called us: the first that is not our own. */
static int caller_level(lua_State *L) {
  lua_Debug info;
  int level = 1;
  while (lua_getstack(L, level, &info) && is_between(L, &info))
    level++;
  return level;
}

/* Raise the sentence on top with the place where that level is. */
static int raise_at(lua_State *L, int level) {
  luaL_checkstack(L, 4, NULL);
  luaL_where(L, level);
  lua_insert(L, -2);
  lua_concat(L, 2);
  return lua_error(L);
}

/* Raise the error on top; if it is a sentence, with the place where the user's code calls us. */
int mch_lpool_raise_at_caller(lua_State *L) {
  return lua_type(L, -1) == LUA_TSTRING ? raise_at(L, caller_level(L)) : lua_error(L);
}

/* The name that the table on top has for the function at `function`, of several the first by the
 * alphabet; or NULL. */
static const char *name_in(lua_State *L, int function) {
  const char *name = NULL;
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    if (lua_rawequal(L, -1, function) && lua_type(L, -2) == LUA_TSTRING &&
        (name == NULL || strcmp(lua_tostring(L, -2), name) < 0))
      name = lua_tostring(L, -2); /* a key of that table: it stays */
    lua_pop(L, 1);
  }
  return name;
}

/* The name of the function on top, which is popped, among the methods of pools, or (then *is_method
 * is 0) the functions of the module; or NULL. */
static const char *name_of(lua_State *L, int *is_method) {
  const char *name = NULL;
  int function = lua_gettop(L);
  luaL_getmetatable(L, TYPE);
  if (lua_getfield(L, -1, "__index") == LUA_TTABLE)
    name = name_in(L, function);
  *is_method = name != NULL;
  lua_settop(L, function);
  if (name == NULL && lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE &&
      lua_getfield(L, -1, "mantichora") == LUA_TTABLE)
    name = name_in(L, function);
  lua_settop(L, function - 1);
  return name;
}

/* Raise that argument `number` of the function that the user has called is wrong, which counts a
 * method's pool as the first one: `what` says how. The place is the user's, also through a pcall.
 */
static int raise_argument(lua_State *L, int number, const char *what) {
  lua_Debug info;
  const char *name = NULL;
  int level = caller_level(L), is_method = 0;
  luaL_checkstack(L, 8, NULL);
  if (lua_getstack(L, level - 1, &info)) {
    lua_getinfo(L, "nf", &info);
    name = name_of(L, &is_method);
    if (name == NULL)
      name = info.name;
    if (is_method && strcmp(info.namewhat, "method") == 0)
      number--;
  }
  if (name == NULL)
    name = "?";
  if (is_method && number == 0)
    lua_pushfstring(L, "calling '%s' on bad self (%s)", name, what);
  else
    lua_pushfstring(L, "bad argument #%d to '%s' (%s)", number, name, what);
  while (lua_getstack(L, level, &info) && lua_getinfo(L, "l", &info) && info.currentline < 0)
    level++;
  return raise_at(L, level);
}

/* Push the name of the type of what stands at `index`, as Lua's own messages have it. */
static const char *push_typename(lua_State *L, int index) {
  luaL_checkstack(L, 4, NULL);
  if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING)
    return lua_tostring(L, -1);
  return lua_pushstring(L, luaL_typename(L, index));
}

/* The same for a value of a wrong type. */
int mch_lpool_raise_type(lua_State *L, int number, int index, const char *expected) {
  const char *got = push_typename(L, index);
  return raise_argument(L, number, lua_pushfstring(L, "%s expected, got %s", expected, got));
}

/* typename(value) */
int mch_core_typename(lua_State *L) {
  push_typename(L, 1);
  return 1;
}

/* raise(message): with the place where the user's code calls us. */
int mch_core_raise(lua_State *L) {
  lua_settop(L, 1);
  return mch_lpool_raise_at_caller(L);
}

/* argument(number, what): raise that this argument of the caller's is wrong. */
int mch_core_argument(lua_State *L) {
  return raise_argument(L, (int)luaL_checkinteger(L, 1), luaL_checkstring(L, 2));
}

/* The pool at index 1. Methods are called by users, with anything. */
struct lpool *mch_lpool_to_pool(lua_State *L) {
  struct lpool *lpool = luaL_testudata(L, 1, TYPE);
  if (lpool == NULL)
    mch_lpool_raise_type(L, 1, 1, TYPE);
  return lpool;
}

/* The pool at index 1, if it can be used here and now. */
struct lpool *mch_lpool_check_pool(lua_State *L) {
  struct lpool *lpool = mch_lpool_to_pool(L);
  if (mch_lpool_push_problem(L, lpool))
    mch_lpool_raise_at_caller(L);
  return lpool;
}

int mch_lpool_raise_sentence(lua_State *L, const char *sentence) {
  lua_pushstring(L, sentence);
  return mch_lpool_raise_at_caller(L);
}

int mch_lpool_raise_closed(lua_State *L) {
  return mch_lpool_raise_sentence(L, "pool is closed");
}

int mch_lpool_raise_error(lua_State *L, const struct mch_error *error) {
  return mch_lpool_raise_sentence(L, error->text);
}

void mch_lpool_forget_function(struct lgroup *lgroup) {
  mch_buf_free(&lgroup->function);
  mch_buf_free(&lgroup->ids);
}

/* The group at `index`, or that of run() where there is none. */
struct mch_group *mch_lpool_group_arg(lua_State *L, struct lpool *lpool, int index) {
  struct lgroup *lgroup;
  if (lua_isnoneornil(L, index))
    return &lpool->group;
  lgroup = luaL_checkudata(L, index, GROUP);
  if (lgroup->group == NULL)
    mch_lpool_raise_sentence(L, "this iteration has ended: it was left, or an item has failed");
  return lgroup->group;
}

/* Seconds at `index` to a deadline; nil: never. */
uint64_t mch_lpool_deadline_arg(lua_State *L, int index) {
  lua_Number seconds;
  if (lua_isnoneornil(L, index))
    return MCH_NEVER;
  seconds = luaL_checknumber(L, index);
  if (!(seconds > 0))
    return 0;
  return seconds > 1e9 ? MCH_NEVER : mch_now() + (uint64_t)(seconds * 1e9);
}

/* What options.lua has made of `halt`: a table with `how`, `after` and `share`; nil: never. */
struct mch_halt mch_lpool_halt_arg(lua_State *L, int index) {
  struct mch_halt halt = {MCH_HALT_NEVER, 0, 0};
  int top = lua_gettop(L);
  if (!lua_istable(L, index))
    return halt;
  index = lua_absindex(L, index);
  lua_getfield(L, index, "how");
  lua_getfield(L, index, "after");
  lua_getfield(L, index, "share");
  if (lua_type(L, top + 1) == LUA_TSTRING)
    halt.how = strcmp(lua_tostring(L, top + 1), "now") == 0 ? MCH_HALT_NOW : MCH_HALT_SOON;
  halt.after = (uint64_t)lua_tointeger(L, top + 2);
  halt.share = (double)lua_tonumber(L, top + 3);
  lua_settop(L, top);
  return halt;
}

void mch_lpool_set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}
