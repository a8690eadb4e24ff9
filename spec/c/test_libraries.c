/* States that have only some of Lua's libraries: the module loads and runs where base, string,
 * table, math and coroutine are, and in one without math; where base, string or table is missing it
 * says so. */
#define _POSIX_C_SOURCE 200809L
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "runtime/mantichora.h"

static const luaL_Reg libraries[] = {
    {LUA_GNAME, luaopen_base},          {LUA_STRLIBNAME, luaopen_string},
    {LUA_TABLIBNAME, luaopen_table},    {LUA_MATHLIBNAME, luaopen_math},
    {LUA_COLIBNAME, luaopen_coroutine}, {LUA_IOLIBNAME, luaopen_io},
    {LUA_OSLIBNAME, luaopen_os},        {LUA_LOADLIBNAME, luaopen_package},
    {LUA_DBLIBNAME, luaopen_debug},     {LUA_UTF8LIBNAME, luaopen_utf8},
};

enum { COUNT = sizeof libraries / sizeof libraries[0], NEEDED = 3, PROMISED = 5 };

static lua_State *new_state(unsigned set) {
  lua_State *L = luaL_newstate();
  int i;
  CHECK(L != NULL);
  for (i = 0; i < COUNT; i++)
    if (set & 1u << i) {
      luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
      lua_pop(L, 1);
    }
  return L;
}

static int push_loaded(lua_State *L, const char *name) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  return lua_istable(L, -1);
}

static int open_all(lua_State *L) {
  static const luaL_Reg parts[] = {{"mantichora", luaopen_mantichora},
                                   {"mantichora.logging", luaopen_mantichora_logging},
                                   {"mantichora.atpbar", luaopen_mantichora_atpbar}};
  size_t i;
  for (i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    lua_pushcfunction(L, parts[i].func);
    lua_call(L, 0, 1);
    CHECK(push_loaded(L, parts[i].name) && lua_rawequal(L, -1, -2));
    lua_pop(L, 2);
  }
  CHECK(push_loaded(L, "mantichora"));
  lua_setglobal(L, "mantichora");
  CHECK(push_loaded(L, "mantichora.logging"));
  lua_setglobal(L, "logging");
  CHECK(push_loaded(L, "mantichora.atpbar"));
  lua_setglobal(L, "atpbar");
  return 0;
}

/* Everything that needs no library of its own, with each engine; what tasks log arrives. */
static const char script[] =
    "local mantichora, logging, atpbar = mantichora, logging, atpbar\n"
    "local lines = {}\n"
    "logging.basic_config{ level = 'INFO', stream = function(line) lines[#lines + 1] = line end,\n"
    "  format = '%(levelname)s:%(message)s' }\n"
    "for _, engine in ipairs{ 'fork', 'snapshot', 'inline' } do\n"
    "  local pool = mantichora{ nworkers = 2, engine = engine, name = 'small', timeout = 60 }\n"
    "  pool:run(function(a, b) return a + b end, 1, 2)\n"
    "  pool:run_with({ name = 'second', priority = 1 }, function()\n"
    "    for _ in atpbar(3) do end\n"
    "    return mantichora.runid(), mantichora.is_worker()\n"
    "  end)\n"
    "  local values = pool:returns()\n"
    "  assert(values.n == 2 and values[1] == 3 and values[2] == 1)\n"
    "  local mapped = pool:map(function(x) return x * x end, { 1, 2, 3 })\n"
    "  assert(mapped[3] == 9 and mapped.n == 3)\n"
    "  local sum, at = 0, 0\n"
    "  for _, value in pool:imap(function(x) return x end, function()\n"
    "    at = at + 1\n"
    "    if at <= 100 then return at end\n"
    "  end) do sum = sum + value end\n"
    "  assert(sum == 5050)\n"
    "  local fine, failure = pcall(pool.map, pool, function(x) error('no ' .. x) end, { 'way' })\n"
    "  assert(not fine and failure.item == 'way')\n"
    "  assert(tostring(failure):find('item 1', 1, true), tostring(failure))\n"
    "  assert(not pcall(mantichora, { nworker = 3 }))\n"
    "  lines[1] = nil\n"
    "  pool:run(function() logging.info('hello %d', 7) end)\n"
    "  pool:returns()\n"
    "  assert(lines[1] == 'INFO:hello 7', lines[1])\n"
    "  assert(#pool:workers() >= 0 and tostring(pool):find('workers'))\n"
    "  assert(tostring(mantichora.explain(function() return sum end)):find('sum', 1, true))\n"
    "  mantichora.sleep(0.001)\n"
    "  pool:close()\n"
    "  assert(tostring(pool) == 'mantichora: closed')\n"
    "end\n"
    "logging.basic_config{ level = 'INFO', format = '%(asctime)s %(message)s' }\n"
    "logging.debug('not shown')\n";

static void runs_with(unsigned set) {
  lua_State *L = new_state(set);
  lua_pushcfunction(L, open_all);
  CHECK(lua_pcall(L, 0, 0, 0) == LUA_OK);
  if (luaL_loadstring(L, script) != LUA_OK || lua_pcall(L, 0, 0, 0) != LUA_OK) {
    fprintf(stderr, "with libraries %x: %s\n", set, lua_tostring(L, -1));
    CHECK(0);
  }
  lua_close(L);
}

/* What a state lacks is said in a sentence. */
static void complains_without(int missing) {
  lua_State *L = new_state(((1u << PROMISED) - 1) & ~(1u << missing));
  lua_pushcfunction(L, luaopen_mantichora);
  CHECK(lua_pcall(L, 0, 0, 0) == LUA_ERRRUN);
  CHECK(strstr(lua_tostring(L, -1), "mantichora needs Lua's basic library, string and table") !=
        NULL);
  lua_close(L);
}

int main(void) {
  unsigned all = (1u << COUNT) - 1, promised = (1u << PROMISED) - 1;
  int i;
  setenv("MANTICHORA_PROGRESS", "off", 1);
  runs_with(promised);
  runs_with(all);
  for (i = NEEDED; i < COUNT; i++)
    runs_with(all & ~(1u << i)); /* each one missing alone */
  runs_with((1u << NEEDED) - 1); /* without math and coroutine too */
  for (i = 0; i < NEEDED; i++)
    complains_without(i);
  return check_report();
}
