/* Runs in: parent. Purpose: web.h. */
#include "bindings/web/web.h"

#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#include "runtime/base/platform.h"
#include "runtime/web/server.h"

#define TYPE "mantichora page server"

/* What everybody may have: neither data nor a token is in them. */
static const char *const served[][3] = {
    {"/", "text/html; charset=utf-8", "web/page.html"},
    {"/common.css", "text/css; charset=utf-8", "web/common.css"},
    {"/page.css", "text/css; charset=utf-8", "web/page.css"},
    {"/timeline.js", "text/javascript; charset=utf-8", "web/timeline.js"},
    {"/page.js", "text/javascript; charset=utf-8", "web/page.js"},
    {"/icon.svg", "image/svg+xml", "web/icon.svg"},
};

enum { SERVED = sizeof served / sizeof *served };

struct server {
  struct mch_web *web; /* NULL: closed */
  struct mch_web_file files[SERVED];
};

static struct server *to_server(lua_State *L) {
  struct server *server = luaL_checkudata(L, 1, TYPE);
  if (server->web == NULL)
    luaL_error(L, "the server of the page is closed");
  return server;
}

static int server_url(lua_State *L) {
  const struct server *server = to_server(L);
  lua_pushfstring(L, "http://127.0.0.1:%d/#t=%s", mch_web_port(server->web),
                  mch_web_token(server->web));
  return 1;
}

static int server_serve(lua_State *L) {
  struct server *server = to_server(L);
  int fd = (int)luaL_optinteger(L, 2, -1);
  lua_pushboolean(L, mch_web_serve(server->web, fd, luaL_checknumber(L, 3)));
  return 1;
}

static int server_viewers(lua_State *L) {
  lua_pushinteger(L, mch_web_viewers(to_server(L)->web));
  return 1;
}

static int server_wanting(lua_State *L) {
  lua_pushinteger(L, mch_web_wanting(to_server(L)->web));
  return 1;
}

static int server_publish(lua_State *L) {
  struct server *server = to_server(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  /* Out of memory: they get a snapshot later. */
  lua_pushboolean(L, mch_web_publish(server->web, bytes, length, lua_toboolean(L, 3)) == 0);
  return 1;
}

static int server_close(lua_State *L) {
  struct server *server = luaL_checkudata(L, 1, TYPE);
  mch_web_close(server->web);
  server->web = NULL;
  return 0;
}

static int find_files(lua_State *L, struct server *server) {
  for (int i = 0; i < SERVED; i++) {
    const struct mch_embedded *part = mch_web_find_file(served[i][2]);
    if (part == NULL)
      return luaL_error(L, "this program was built without %s", served[i][2]);
    server->files[i].path = served[i][0];
    server->files[i].type = served[i][1];
    server->files[i].bytes = part->bytes;
    server->files[i].length = part->length;
  }
  return 0;
}

static int web_open(lua_State *L) {
  struct mch_error error;
  struct server *server = lua_newuserdatauv(L, sizeof *server, 0);
  server->web = NULL;
  luaL_setmetatable(L, TYPE);
  find_files(L, server);
  if (mch_web_open(&server->web, server->files, SERVED, &error) != 0) {
    lua_pushnil(L);
    lua_pushstring(L, error.text);
    return 2;
  }
  return 1;
}

static int web_clock(lua_State *L) {
  lua_pushnumber(L, (double)mch_now() / 1e9);
  return 1;
}

static int web_wait(lua_State *L) {
  lua_pushboolean(L, mch_web_wait((int)luaL_checkinteger(L, 1), luaL_checknumber(L, 2)));
  return 1;
}

int mch_web_open_core(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"url", server_url},         {"serve", server_serve},     {"viewers", server_viewers},
      {"wanting", server_wanting}, {"publish", server_publish}, {"close", server_close},
      {"__gc", server_close},      {"__close", server_close},   {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"open", web_open}, {"clock", web_clock}, {"wait", web_wait}, {NULL, NULL}};
  if (luaL_newmetatable(L, TYPE)) {
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
