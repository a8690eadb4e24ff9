/* Runs in: parent. Purpose: the terminal for parts written in Lua (commands.h). */

#include <lauxlib.h>

#include "bindings/commands/commands.h"
#include "bindings/lbuf.h"
#include "runtime/base/platform.h"
#include "runtime/commands/tty.h"
#include "runtime/show/width.h"

/* open(): true; or nil and why not. */
static int screen_open(lua_State *L) {
  return mch_commands_done(L, mch_tty_open());
}

static int screen_close(lua_State *L) {
  (void)L;
  mch_tty_close();
  return 0;
}

/* size(fd): columns and rows; nothing: that is no terminal. */
static int screen_size(lua_State *L) {
  unsigned columns, rows;
  if (!mch_tty_size((int)luaL_checkinteger(L, 1), &columns, &rows))
    return 0;
  lua_pushinteger(L, columns);
  lua_pushinteger(L, rows);
  return 2;
}

static int screen_write(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  lua_pushboolean(L, mch_tty_write(bytes, length));
  return 1;
}

/* wait(fd or nil, seconds): what keys have sent, or nil; and whether fd is readable, the screen is
 * to be drawn anew, the terminal has gone. */
static int screen_wait(lua_State *L) {
  char keys[256];
  size_t length;
  lua_Number seconds = luaL_checknumber(L, 2);
  int brought = mch_tty_wait((int)luaL_optinteger(L, 1, -1), (int)(seconds * 1000), keys,
                             sizeof keys, &length);
  if (brought & MCH_TTY_KEYS)
    lua_pushlstring(L, keys, length);
  else
    lua_pushnil(L);
  lua_pushboolean(L, brought & MCH_TTY_READABLE);
  lua_pushboolean(L, brought & MCH_TTY_CHANGED);
  lua_pushboolean(L, brought & MCH_TTY_GONE);
  return 4;
}

/* rest(fd, seconds): wait until it is readable, whatever the terminal is. */
static int screen_rest(lua_State *L) {
  int fd = (int)luaL_optinteger(L, 1, -1);
  lua_Number seconds = luaL_checknumber(L, 2);
  mch_platform_await(&fd, 1, mch_now() + (uint64_t)(seconds * 1e9), NULL);
  return 0;
}

static int screen_stop(lua_State *L) {
  (void)L;
  mch_tty_stop();
  return 0;
}

/* fit(text, cells, fills): as much of it as so many cells hold, harmless; `fills`: with blanks up
 * to them. */
static int screen_fit(lua_State *L) {
  size_t length, used;
  const char *text = luaL_checklstring(L, 1, &length);
  lua_Integer cells = luaL_checkinteger(L, 2);
  int fills = lua_toboolean(L, 3);
  struct mch_buf *to;
  if (cells < 0)
    cells = 0;
  to = mch_lbuf_push(L);
  used = mch_width_put(to, text, length, (size_t)cells);
  if (fills)
    for (; used < (size_t)cells; used++)
      mch_buf_u8(to, ' ');
  lua_pushlstring(L, to->failed == 0 && to->data != NULL ? (const char *)to->data : "",
                  to->failed == 0 ? to->length : 0);
  lua_pushinteger(L, (lua_Integer)used);
  return 2;
}

/* cells(text): how many it takes. */
static int screen_cells(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  lua_pushinteger(L, (lua_Integer)mch_width_cells(text, length));
  return 1;
}

/* clock(): seconds that never go back. */
static int screen_clock(lua_State *L) {
  lua_pushnumber(L, (lua_Number)mch_now() / 1e9);
  return 1;
}

int mch_commands_open_screen(lua_State *L) {
  static const luaL_Reg functions[] = {{"open", screen_open},
                                       {"close", screen_close},
                                       {"size", screen_size},
                                       {"write", screen_write},
                                       {"wait", screen_wait},
                                       {"stop", screen_stop},
                                       {"rest", screen_rest},
                                       {"fit", screen_fit},
                                       {"cells", screen_cells},
                                       {"clock", screen_clock},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
