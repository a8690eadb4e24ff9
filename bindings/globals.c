/* Runs in: both.
 *
 * Which globals travel: the notes of what they were at the fork, and what a function's bytecode
 * names. */
#include "graph.h"

#include <lauxlib.h>

#include "modules.h"

static void new_weak(lua_State *L, const char *mode) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushstring(L, mode);
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
}

/* Values are held weakly, so that the notes keep nothing alive that the program has dropped; what
 * was collected cannot be what the global is now. */
static void note_globals(lua_State *L, int notes) {
  int values = lua_gettop(L) + 1, present = values + 1, globals = values + 2;
  new_weak(L, "v");
  lua_createtable(L, 0, 64);
  lua_pushglobaltable(L);
  lua_pushnil(L);
  while (lua_next(L, globals)) {
    if (lua_type(L, -2) == LUA_TSTRING) {
      lua_pushvalue(L, -2);
      lua_pushboolean(L, 1);
      lua_rawset(L, present);
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, values);
    } else {
      lua_pop(L, 1);
    }
  }
  lua_settop(L, present);
  lua_rawseti(L, notes, MCH_NOTES_PRESENT);
  lua_rawseti(L, notes, MCH_NOTES_GLOBALS);
}

void mch_notes_take(lua_State *L) {
  int notes;
  luaL_checkstack(L, 24, NULL);
  lua_createtable(L, MCH_NOTES_PARTS, 0);
  notes = lua_gettop(L);
  mch_modules_note(L, notes);
  note_globals(L, notes);
  new_weak(L, "k");
  lua_rawseti(L, notes, MCH_NOTES_CODES);
}

/* Is the global whose name is on top what it was at the first fork? Pops the name. */
static int is_as_noted(lua_State *L, int values, int present, int globals) {
  int name = lua_gettop(L), same;
  lua_pushvalue(L, name);
  lua_rawget(L, globals);
  lua_pushvalue(L, name);
  lua_rawget(L, present);
  lua_pushvalue(L, name);
  lua_rawget(L, values);
  if (lua_isnil(L, name + 2))
    same = lua_isnil(L, name + 1);
  else
    same = lua_toboolean(L, name + 2) && lua_rawequal(L, name + 1, name + 3) &&
           !lua_isnil(L, name + 1);
  lua_settop(L, name - 1);
  return same;
}

/* Mark every name of the table at `names` whose global is not as noted. */
static void mark_changed(lua_State *L, int names, int values, int present, int globals) {
  lua_pushnil(L);
  while (lua_next(L, names)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
      continue;
    lua_pushvalue(L, -1);
    if (!is_as_noted(L, values, present, globals)) {
      lua_pushvalue(L, -1);
      lua_pushboolean(L, 0);
      lua_rawset(L, present);
    }
  }
}

void mch_notes_update(lua_State *L, int notes) {
  int values, present, globals, top = lua_gettop(L), names;
  luaL_checkstack(L, 24, NULL);
  notes = lua_absindex(L, notes);
  values = top + 1;
  present = top + 2;
  globals = top + 3;
  lua_rawgeti(L, notes, MCH_NOTES_GLOBALS);
  lua_rawgeti(L, notes, MCH_NOTES_PRESENT);
  lua_pushglobaltable(L);
  /* A copy of the names: `present` may not get new keys while it is walked, and the globals may not
   * be changed by it. */
  lua_newtable(L);
  names = top + 4;
  lua_pushnil(L);
  while (lua_next(L, globals)) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 1);
    lua_rawset(L, names);
  }
  mark_changed(L, names, values, present, globals);
  mark_changed(L, present, values, present,
               globals); /* those that are nil now; sets known keys only */
  lua_settop(L, top);
}
