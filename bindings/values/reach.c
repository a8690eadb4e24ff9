/* Runs in: parent. Purpose: reach.h. */
#include "reach.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

#include "bytecode.h"

const char *const mch_reach_libraries[MCH_REACH_LIBRARIES] = {
    LUA_COLIBNAME,  LUA_TABLIBNAME,  LUA_IOLIBNAME,   LUA_OSLIBNAME,
    LUA_STRLIBNAME, LUA_MATHLIBNAME, LUA_UTF8LIBNAME, LUA_DBLIBNAME};

enum { STRINGS = 4, DEBUG = 7 };

/* Globals of a fresh state that lead to no table of it. Not getmetatable, which knows that of
 * strings; nor what loads code, nor debug, which come to everything. */
static const char *const harmless[] = {
    "_VERSION",     "assert",   "collectgarbage", "error",  "ipairs", "next",   "pairs",
    "pcall",        "print",    "rawequal",       "rawget", "rawlen", "rawset", "select",
    "setmetatable", "tonumber", "tostring",       "type",   "warn",   "xpcall"};

static unsigned reach_of_name(const char *name) {
  size_t i;
  for (i = 0; i < DEBUG; i++)
    if (strcmp(name, mch_reach_libraries[i]) == 0)
      return 1u << i;
  for (i = 0; i < sizeof harmless / sizeof *harmless; i++)
    if (strcmp(name, harmless[i]) == 0)
      return 0;
  return MCH_REACH_ALL;
}

enum { REMEMBERED = -1 };

unsigned mch_reach_of_names(lua_State *L) {
  int names = lua_gettop(L);
  unsigned reach = 0;
  lua_Integer i;
  if (lua_rawgeti(L, names, REMEMBERED) == LUA_TNUMBER)
    reach = (unsigned)lua_tointeger(L, -1);
  else {
    if (lua_rawgeti(L, names, 0) != LUA_TNIL)
      reach = MCH_REACH_ALL; /* it is used as a value */
    for (i = 1; lua_rawgeti(L, names, i) == LUA_TSTRING; i++) {
      reach |= reach_of_name(lua_tostring(L, -1));
      lua_pop(L, 1);
    }
    lua_pushinteger(L, (lua_Integer)reach);
    lua_rawseti(L, names, REMEMBERED);
  }
  lua_settop(L, names);
  return reach;
}

enum { OP_GETTABUP = 11, OP_GETTABLE = 12, OP_GETI = 13, OP_GETFIELD = 14, OP_SELF = 20 };

struct looking {
  const unsigned char *wanted;
  int looks; /* it looks something up in a value, which may be a string */
};

static void look(lua_State *L, void *ud, const struct mch_bytecode_function *f) {
  struct looking *looking = ud;
  size_t pc;
  (void)L;
  for (pc = 0; pc < f->instructions && !looking->looks; pc++) {
    uint32_t i = mch_bytecode_instruction(f->code, pc);
    uint32_t upvalue = i >> 16 & 0xff;
    switch (i & 0x7f) {
    case OP_GETTABUP:
      looking->looks = upvalue >= f->upvalue_count || f->outer[upvalue] < 0 ||
                       !looking->wanted[f->outer[upvalue]];
      break;
    case OP_GETTABLE:
    case OP_GETI:
    case OP_GETFIELD:
    case OP_SELF:
      looking->looks = 1;
      break;
    default:
      break;
    }
  }
}

unsigned mch_reach_of_code(lua_State *L, const void *dump, size_t length,
                           const unsigned char wanted[256]) {
  struct looking looking = {wanted, 0};
  if (!mch_bytecode_visit(L, dump, length, look, &looking))
    return MCH_REACH_ALL;
  return looking.looks ? 1u << STRINGS : 0;
}
