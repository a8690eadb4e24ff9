/* Runs in: parent. Purpose: JSON for the parts of the program's commands that are written in Lua
 * (commands.h, json.h). */
#include <lauxlib.h>

#include "bindings/commands/commands.h"
#include "bindings/commands/json.h"

#define TYPE "mantichora json"

static int free_text(lua_State *L) {
  mch_text_free(lua_touserdata(L, 1));
  return 0;
}

static int json_read(lua_State *L) {
  struct mch_json_reader *reader = lua_touserdata(L, lua_upvalueindex(1));
  size_t length, column;
  const char *message;
  const char *bytes = luaL_checklstring(L, 1, &length);
  if (mch_json_read(L, reader, bytes, length, &column, &message))
    return 1;
  lua_pushnil(L);
  lua_pushfstring(L, "column %I: %s", (LUAI_UACINT)column, message);
  return 2;
}

static int json_write(lua_State *L) {
  struct mch_text *text = lua_touserdata(L, lua_upvalueindex(1));
  luaL_checkany(L, 1);
  text->length = 0;
  text->name_count = 0; /* of a call that raised */
  mch_json_write(L, 1, text);
  lua_pushlstring(L, text->bytes, text->length);
  return 1;
}

int mch_commands_open_json(lua_State *L) {
  struct mch_text *text;
  lua_createtable(L, 0, 4);
  if (mch_json_new_reader(L) != NULL) {
    lua_pushcclosure(L, json_read, 1);
    lua_setfield(L, -2, "read");
  } else {
    lua_pop(L, 1);
  }
  text = lua_newuserdatauv(L, sizeof *text, 0);
  memset(text, 0, sizeof *text);
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, free_text);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_pushcclosure(L, json_write, 1);
  lua_setfield(L, -2, "write");
  lua_pushcfunction(L, mch_json_list);
  lua_setfield(L, -2, "list");
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  return 1;
}
