/* What the benchmarks need in Lua, and Lua has not: a clock, an iterator in C, what is allocated.
 *
 * A module for Lua 5.4, compiled by scripts/bench/support/programs.lua. */
#include <malloc.h>
#include <time.h>

#include <lauxlib.h>
#include <lua.h>

/* clock(): seconds, monotonic. */
static int lua_clock(lua_State *L) {
  struct timespec time;

  clock_gettime(CLOCK_MONOTONIC, &time);
  lua_pushnumber(L, (lua_Number)time.tv_sec + (lua_Number)time.tv_nsec * 1e-9);
  return 1;
}

/* The cheapest step that an iterator in C can have: one more, until the end. */
static int step(lua_State *L) {
  lua_Integer i = lua_tointeger(L, 2) + 1;

  if (i > lua_tointeger(L, 1))
    lua_pushnil(L);
  else
    lua_pushinteger(L, i);
  return 1;
}

/* range(n): for i in range(n) do ... end */
static int range(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);

  lua_pushcfunction(L, step);
  lua_pushinteger(L, n);
  lua_pushinteger(L, 0);
  return 3;
}

/* trim(): give free memory back to the system, so that the size of the process says what is in use.
 */
static int trim(lua_State *L) {
  (void)L;
  malloc_trim(0);
  return 0;
}

int luaopen_lua_limits(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"clock", lua_clock}, {"range", range}, {"trim", trim}, {NULL, NULL}};

  luaL_newlib(L, functions);
  return 1;
}
