/* Runs in: both. Purpose: tidy.h. */
#include "tidy.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

#include "bindings/values/graph.h"
#include "bindings/lwatch.h"
#include "limit.h"

/* Where Lua's own libraries keep these, in the registry. */
static const char *const file_keys[] = {"_IO_input", "_IO_output"};
static const char *const hooks_key =
    "_HOOKKEY"; /* a table: functions of debug.sethook() by thread */

/* -- the debug hook ----------------------------------------------------------------------- */

/* Push what debug.sethook() has set for this thread, or nil. */
static void push_function(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, hooks_key) == LUA_TTABLE) {
    lua_pushthread(L);
    lua_rawget(L, -2);
  } else
    lua_pushnil(L);
  lua_remove(L, -2);
}

static void note_hook(lua_State *L, struct mch_tidy *tidy) {
  tidy->function = LUA_NOREF;
  tidy->hook = mch_lwatch_is_stopping(L) || mch_limit_holds(L) ? NULL : lua_gethook(L);
  if (tidy->hook == NULL)
    return;
  tidy->mask = lua_gethookmask(L);
  tidy->count = lua_gethookcount(L);
  push_function(L);
  tidy->function = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void put_function(lua_State *L, int reference) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, hooks_key) == LUA_TTABLE) {
    lua_pushthread(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, reference);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
}

void mch_tidy_restore_hook(lua_State *L, const struct mch_tidy *tidy) {
  if (tidy->hook == NULL && lua_gethook(L) == NULL)
    return;
  lua_sethook(L, tidy->hook, tidy->mask, tidy->count);
  if (tidy->function != LUA_NOREF)
    put_function(L, tidy->function);
}

/* -- the collector ------------------------------------------------------------------------ */

#if LUA_VERSION_NUM >= 505
enum { PAUSE = LUA_GCPPAUSE, STEPMUL = LUA_GCPSTEPMUL };

static int parameter(lua_State *L, int which) {
  return lua_gc(L, LUA_GCPARAM, which, -1);
}

static void set_parameter(lua_State *L, int which, int value) {
  lua_gc(L, LUA_GCPARAM, which, value);
}
#else
enum { PAUSE = LUA_GCSETPAUSE, STEPMUL = LUA_GCSETSTEPMUL };

static int parameter(lua_State *L, int which) {
  int value = lua_gc(L, which, 0);
  lua_gc(L, which, value);
  return value;
}

static void set_parameter(lua_State *L, int which, int value) {
  lua_gc(L, which, value);
}
#endif

static void note_collector(lua_State *L, struct mch_tidy *tidy) {
  tidy->runs = lua_gc(L, LUA_GCISRUNNING);
  tidy->pause = parameter(L, PAUSE);
  tidy->stepmul = parameter(L, STEPMUL);
  tidy->touched = tidy->mode = 0;
}

static void restore_collector(lua_State *L, struct mch_tidy *tidy) {
  if (tidy->mode == LUA_GCGEN)
    lua_gc(L, LUA_GCGEN, 0, 0);
  else if (tidy->mode == LUA_GCINC)
    lua_gc(L, LUA_GCINC, 0, 0, 0);
  tidy->mode = 0;
  set_parameter(L, PAUSE, tidy->pause);
  set_parameter(L, STEPMUL, tidy->stepmul);
}

/* -- the default files -------------------------------------------------------------------- */

static void note_file(lua_State *L, struct mch_tidy *tidy, int i) {
  tidy->references[i] = LUA_NOREF;
  tidy->files[i] = NULL;
  if (lua_getfield(L, LUA_REGISTRYINDEX, file_keys[i]) == LUA_TUSERDATA) {
    tidy->files[i] = lua_touserdata(L, -1);
    tidy->references[i] = luaL_ref(L, LUA_REGISTRYINDEX);
  } else
    lua_pop(L, 1);
}

/* The file that is taken out of its place is the task's: it is flushed, and not closed. */
static void replace_file(lua_State *L, const struct mch_tidy *tidy, int i) {
  const luaL_Stream *stream = luaL_testudata(L, -1, LUA_FILEHANDLE);
  if (i == 1 && stream != NULL && stream->closef != NULL)
    fflush(stream->f);
  lua_rawgeti(L, LUA_REGISTRYINDEX, tidy->references[i]);
  lua_setfield(L, LUA_REGISTRYINDEX, file_keys[i]);
}

static void restore_file(lua_State *L, const struct mch_tidy *tidy, int i) {
  if (tidy->files[i] == NULL)
    return;
  lua_getfield(L, LUA_REGISTRYINDEX, file_keys[i]);
  if (lua_touserdata(L, -1) != tidy->files[i])
    replace_file(L, tidy, i);
  lua_pop(L, 1);
}

/* -- all ---------------------------------------------------------------------------------- */

void mch_tidy_note(lua_State *L, struct mch_tidy *tidy) {
  luaL_checkstack(L, 4, NULL);
  note_hook(L, tidy);
  note_collector(L, tidy);
  note_file(L, tidy, 0);
  note_file(L, tidy, 1);
  tidy->noted = 1;
}

void mch_tidy_restore(lua_State *L, struct mch_tidy *tidy, int thorough) {
  if (!tidy->noted)
    return;
  mch_tidy_restore_hook(L, tidy);
  if (lua_gc(L, LUA_GCISRUNNING) != tidy->runs)
    lua_gc(L, tidy->runs ? LUA_GCRESTART : LUA_GCSTOP);
  if (!tidy->touched && !thorough)
    return;
  tidy->touched = 0;
  restore_collector(L, tidy);
  restore_file(L, tidy, 0);
  restore_file(L, tidy, 1);
}

void mch_tidy_forget(lua_State *L, struct mch_tidy *tidy) {
  int i;
  if (!tidy->noted)
    return;
  luaL_unref(L, LUA_REGISTRYINDEX, tidy->function);
  for (i = 0; i < 2; i++)
    luaL_unref(L, LUA_REGISTRYINDEX, tidy->references[i]);
  tidy->noted = 0;
}

/* -- functions that say what they do ------------------------------------------------------- */

/* Upvalues of those below: the function of Lua's library, and the struct. */
enum { ORIGINAL = 1, TIDY = 2 };

/* Call the original with all arguments, and note that it may have changed something. Its errors are
 * told as if the caller had called it. */
static struct mch_tidy *pass(lua_State *L) {
  struct mch_tidy *tidy = lua_touserdata(L, lua_upvalueindex(TIDY));
  int top = lua_gettop(L), i;
  luaL_checkstack(L, top + 4, "too many arguments");
  lua_pushvalue(L, lua_upvalueindex(ORIGINAL));
  for (i = 1; i <= top; i++)
    lua_pushvalue(L, i);
  if (lua_pcall(L, top, LUA_MULTRET, 0) != LUA_OK) {
    if (lua_type(L, -1) == LUA_TSTRING) {
      luaL_where(L, 1);
      lua_insert(L, -2);
      lua_concat(L, 2);
    }
    lua_error(L);
  }
  if (tidy != NULL)
    tidy->touched = 1;
  return tidy;
}

static int collect(lua_State *L) {
  static const char *const options[] = {"stop",         "restart",     "collect",    "count",
                                        "step",         "setpause",    "setstepmul", "isrunning",
                                        "generational", "incremental", NULL};
  int what = luaL_checkoption(L, 1, "collect", options), top = lua_gettop(L);
  struct mch_tidy *tidy = pass(L);
  if (what >= 8 && tidy->mode == 0 && lua_type(L, top + 1) == LUA_TSTRING)
    tidy->mode = lua_tostring(L, top + 1)[0] == 'g' ? LUA_GCGEN : LUA_GCINC;
  return lua_gettop(L) - top;
}

static int choose_file(lua_State *L) {
  int top = lua_gettop(L);
  if (!lua_isnoneornil(L, 1) && !lua_isstring(L, 1))
    luaL_checkudata(L, 1, LUA_FILEHANDLE);
  pass(L);
  return lua_gettop(L) - top;
}

/* Replace the field of a loaded library by `ours`, around what is there if that is of C. In a
 * worker of a worker it is ours already. */
static void replace(lua_State *L, struct mch_tidy *tidy, int baseline, const char *library,
                    const char *name, lua_CFunction ours) {
  int top = lua_gettop(L), table = top + 2;
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushstring(L, library);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushstring(L, name);
    lua_pushvalue(L, -1);
    lua_rawget(L, table);
    lua_pushlightuserdata(L, tidy);
    if (lua_tocfunction(L, -2) == ours)
      lua_setupvalue(L, -2, TIDY);
    else if (lua_iscfunction(L, -2)) {
      lua_pushcclosure(L, ours, 2);
      lua_rawset(L, table);
      if (lua_rawgeti(L, LUA_REGISTRYINDEX, baseline) == LUA_TTABLE)
        mch_baseline_replace(L, lua_gettop(L), library, name);
    }
  }
  lua_settop(L, top);
}

void mch_tidy_watch(lua_State *L, struct mch_tidy *tidy, int baseline) {
  luaL_checkstack(L, 8, NULL);
  replace(L, tidy, baseline, LUA_GNAME, "collectgarbage", collect);
  replace(L, tidy, baseline, LUA_IOLIBNAME, "input", choose_file);
  replace(L, tidy, baseline, LUA_IOLIBNAME, "output", choose_file);
}
