/* The module `links_module` for specs: the script's end of a link (runtime/links), in Lua.
 *
 *     local link = links.start{ command = { "ssh", ... }, lease = 20, connect_timeout = 15 }
 *     link:send(2, "bytes")
 *     local event = link:next(seconds)  -- { what = "message", type =, bytes = } and so on, or nil
 *     link:close()   link:free()   link:queued()   link:rtt()   link:said()
 *     links.sleep(seconds)   links.clock()   links.split(url) */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <lauxlib.h>
#include <lua.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/platform.h"
#include "runtime/links/link.h"
#include "runtime/links/url.h"

enum { MOST_WORDS = 64 };

static struct mch_link **check_link(lua_State *L) {
  return luaL_checkudata(L, 1, "links_module");
}

static struct mch_link *open_link(lua_State *L) {
  struct mch_link **link = check_link(L);
  luaL_argcheck(L, *link != NULL, 1, "the link was freed");
  return *link;
}

/* The list of strings in field `name` of the table at 1; they stay anchored there. */
static void get_words(lua_State *L, const char *name, char *words[MOST_WORDS + 1]) {
  int i;
  words[0] = NULL;
  if (lua_getfield(L, 1, name) != LUA_TNIL)
    for (i = 0; i < MOST_WORDS && lua_rawgeti(L, -1, i + 1) == LUA_TSTRING; i++) {
      words[i] = (char *)(uintptr_t)lua_tostring(L, -1);
      words[i + 1] = NULL;
      lua_pop(L, 1);
    }
  lua_settop(L, 1);
}

static uint64_t get_seconds(lua_State *L, const char *name, double otherwise) {
  lua_Number seconds;
  lua_getfield(L, 1, name);
  seconds = luaL_optnumber(L, -1, otherwise);
  lua_settop(L, 1);
  return (uint64_t)(seconds * 1e9);
}

static int links_start(lua_State *L) {
  char *command[MOST_WORDS + 1], *environment[MOST_WORDS + 1];
  struct mch_link_config config = {command, environment, 0, 0};
  struct mch_error error;
  struct mch_link **link;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  get_words(L, "command", command);
  get_words(L, "environment", environment);
  config.lease = get_seconds(L, "lease", 20);
  config.connect_timeout = get_seconds(L, "connect_timeout", 15);
  link = lua_newuserdatauv(L, sizeof *link, 1); /* true: it ended, and is not to be watched */
  *link = NULL;
  luaL_setmetatable(L, "links_module");
  *link = mch_link_start(&config, &error);
  return *link == NULL ? luaL_error(L, "%s", error.text) : 1;
}

static int link_send(lua_State *L) {
  struct mch_link *link = open_link(L);
  size_t length;
  const char *bytes = luaL_optlstring(L, 3, "", &length);
  if (mch_link_send(link, (unsigned char)luaL_checkinteger(L, 2), bytes, length, NULL) != 0)
    return luaL_error(L, "not enough memory");
  mch_link_flush(link);
  return 0;
}

static const char *const names[] = {"nothing", "up",    "message", "suspect",
                                    "again",   "slots", "leave",   "lost"};

static int push_event(lua_State *L, const struct mch_link_event *event) {
  lua_createtable(L, 0, 4);
  lua_pushstring(L, names[event->what]);
  lua_setfield(L, -2, "what");
  if (event->what == MCH_LINK_MESSAGE) {
    lua_pushinteger(L, event->type);
    lua_setfield(L, -2, "type");
    lua_pushlstring(L, (const char *)event->bytes, event->length);
    lua_setfield(L, -2, "bytes");
  }
  lua_pushstring(L, event->text);
  lua_setfield(L, -2, "text");
  lua_pushboolean(L, event->refused);
  lua_setfield(L, -2, "refused");
  lua_pushboolean(L, event->ended);
  lua_setfield(L, -2, "ended");
  return 1;
}

static int link_next(lua_State *L) {
  struct mch_link *link = open_link(L);
  uint64_t deadline = mch_now() + (uint64_t)(luaL_optnumber(L, 2, 10) * 1e9);
  struct mch_link_event event;
  lua_getiuservalue(L, 1, 1);
  mch_link_flush(link);
  while (mch_link_next(link, &event) == MCH_LINK_NOTHING) {
    struct pollfd entry = {lua_toboolean(L, -1) ? -1 : mch_link_fd(link), POLLIN, 0};
    uint64_t until = mch_sooner(deadline, mch_link_deadline(link));
    if (mch_now() >= deadline)
      return 0;
    poll(&entry, 1, mch_milliseconds_until(until));
  }
  if (event.what == MCH_LINK_SUSPECT && event.ended) {
    lua_pushboolean(L, 1);
    lua_setiuservalue(L, 1, 1);
  }
  return push_event(L, &event);
}

static int link_close(lua_State *L) {
  mch_link_close(open_link(L));
  return 0;
}

static int link_free(lua_State *L) {
  struct mch_link **link = check_link(L);
  mch_link_free(*link);
  *link = NULL;
  return 0;
}

static int link_rtt(lua_State *L) {
  lua_pushnumber(L, (lua_Number)mch_link_rtt(open_link(L)) / 1e9);
  return 1;
}

static int link_said(lua_State *L) {
  lua_pushstring(L, mch_link_said(open_link(L)));
  return 1;
}

static int link_queued(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)mch_link_queued(open_link(L)));
  return 1;
}

static int links_sleep(lua_State *L) {
  poll(NULL, 0, (int)(luaL_checknumber(L, 1) * 1000));
  return 0;
}

static int links_clock(lua_State *L) {
  lua_pushnumber(L, (lua_Number)mch_now() / 1e9);
  return 1;
}

/* The URL without its password, and the password or nil. */
static int links_split(lua_State *L) {
  size_t length;
  const char *url = luaL_checklstring(L, 1, &length);
  char *copy = lua_newuserdatauv(L, length + 1, 0), *password;
  memcpy(copy, url, length + 1);
  password = mch_url_split(copy);
  lua_pushstring(L, copy);
  lua_pushstring(L, password);
  free(password);
  return 2;
}

/* How it is read: host, port, user, name; or nil and what is wrong. */
static int links_parse(lua_State *L) {
  struct mch_url url;
  struct mch_error error;
  if (mch_url_parse(&url, luaL_checkstring(L, 1), &error) != 0) {
    lua_pushnil(L);
    lua_pushstring(L, error.text);
    return 2;
  }
  lua_pushfstring(L, "%s|%s|%d|%s|%s", url.tls ? "tls" : "plain", url.host, url.port, url.user,
                  url.name);
  lua_pushboolean(L, mch_url_is_loopback(&url));
  return 2;
}

__attribute__((visibility("default"))) int luaopen_links_module(lua_State *L);
int luaopen_links_module(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"send", link_send},    {"next", link_next}, {"close", link_close},   {"free", link_free},
      {"rtt", link_rtt},      {"said", link_said}, {"queued", link_queued}, {"__gc", link_free},
      {"__close", link_free}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"start", links_start}, {"sleep", links_sleep},
                                       {"clock", links_clock}, {"split", links_split},
                                       {"parse", links_parse}, {NULL, NULL}};
  luaL_newmetatable(L, "links_module");
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  luaL_newlib(L, functions);
  return 1;
}
