/* For the C tests: a state with an allocator of one's own, in every Lua. */
#ifndef NEW_STATE_H
#define NEW_STATE_H

#include <lua.h>

static inline lua_State *new_state(lua_Alloc allocate, void *ud) {
#if LUA_VERSION_NUM >= 505
  return lua_newstate(allocate, ud, 0);
#else
  return lua_newstate(allocate, ud);
#endif
}

#endif
