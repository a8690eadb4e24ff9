/* Runs in: both. Purpose: path.h. */
#include "path.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "number.h"

#define SHOWN 40 /* longest key shown in full */

void mch_path_begin(struct mch_path *path) {
  path->length = 0;
  path->parts[0] = '\0';
  path->start = sizeof path->keys - 1;
  path->keys[path->start] = '\0';
  path->cut = 0;
}

void mch_path_step(struct mch_path *path, const char *step) {
  size_t length = strlen(step);
  if (path->cut || length + 3 > path->start) {
    path->cut = 1;
    return;
  }
  path->start -= length;
  memcpy(path->keys + path->start, step, length);
}

int mch_path_is_name(const char *s, size_t length) {
  size_t i;
  if (length == 0 || isdigit((unsigned char)s[0]))
    return 0;
  for (i = 0; i < length; i++)
    if (!isalnum((unsigned char)s[i]) && s[i] != '_')
      return 0;
  return 1;
}

static void string_key(struct mch_path *path, const char *s, size_t length) {
  char step[SHOWN + 16];
  char *to = step;
  size_t i;
  if (length <= SHOWN && mch_path_is_name(s, length)) {
    snprintf(step, sizeof step, ".%s", s);
  } else {
    *to++ = '[';
    *to++ = '"';
    for (i = 0; i < length && i < SHOWN; i++)
      *to++ = isprint((unsigned char)s[i]) ? s[i] : '?';
    snprintf(to, 8, length > SHOWN ? "...\"]" : "\"]");
  }
  mch_path_step(path, step);
}

void mch_path_index(struct mch_path *path, lua_Integer index) {
  char step[32];
  snprintf(step, sizeof step, "[" LUA_INTEGER_FMT "]", index);
  mch_path_step(path, step);
}

void mch_path_key(struct mch_path *path, lua_State *L, int key) {
  char step[MCH_NUMBER_TEXT + 2], number[MCH_NUMBER_TEXT];
  switch (lua_type(L, key)) {
  case LUA_TSTRING: {
    size_t length;
    const char *s = lua_tolstring(L, key, &length);
    string_key(path, s, length);
    return;
  }
  case LUA_TNUMBER:
    if (lua_isinteger(L, key)) {
      mch_path_index(path, lua_tointeger(L, key));
      return;
    }
    mch_number_print(number, lua_tonumber(L, key));
    snprintf(step, sizeof step, "[%s]", number);
    break;
  case LUA_TBOOLEAN:
    snprintf(step, sizeof step, "[%s]", lua_toboolean(L, key) ? "true" : "false");
    break;
  default:
    snprintf(step, sizeof step, "[<%s>]", lua_typename(L, lua_type(L, key)));
  }
  mch_path_step(path, step);
}

static void add(struct mch_path *path, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add(struct mch_path *path, const char *format, ...) {
  size_t room = sizeof path->parts - path->length;
  va_list arguments;
  int n;
  va_start(arguments, format);
  n = vsnprintf(path->parts + path->length, room, format, arguments);
  va_end(arguments);
  if (n > 0)
    path->length += (size_t)n < room ? (size_t)n : room - 1;
}

/* Complete a part: its head, then the keys so far; `tail` follows. */
static void part(struct mch_path *path, const char *head, const char *tail) {
  add(path, "%s%s%s%s%s", path->length > 0 ? " in " : "", head, path->cut ? "[...]" : "",
      path->keys + path->start, tail);
  path->start = sizeof path->keys - 1;
  path->cut = 0;
}

static void describe(lua_State *L, int function, char *text, size_t size) {
  lua_Debug ar;
  lua_pushvalue(L, function);
  lua_getinfo(L, ">S", &ar);
  snprintf(text, size, "function <%s:%d>", ar.short_src, ar.linedefined);
}

void mch_path_function(lua_State *L, int function) {
  char text[LUA_IDSIZE + 40];
  describe(L, function, text, sizeof text);
  lua_pushstring(L, text);
}

void mch_path_upvalue(struct mch_path *path, lua_State *L, int function, int upvalue) {
  char head[80], tail[LUA_IDSIZE + 48] = " of ";
  const char *name = lua_getupvalue(L, function, upvalue);
  if (name != NULL)
    lua_pop(L, 1);
  snprintf(head, sizeof head, "upvalue '%s'", name != NULL ? name : "?");
  describe(L, function, tail + 4, sizeof tail - 4);
  part(path, head, tail);
}

void mch_path_set(struct mch_path *path, int global, const char *name) {
  char head[80];
  if (global)
    snprintf(head, sizeof head, "global '%s'", name != NULL ? name : "?");
  else
    snprintf(head, sizeof head, name != NULL ? "_ENV.%s" : "_ENV", name);
  part(path, head, "");
}

void mch_path_root(struct mch_path *path, enum mch_graph_kind kind, int value) {
  char head[40];
  int bare = path->keys[path->start] == '\0' && !path->cut;
  if (kind == MCH_SEND_TASK && value == 0 && bare && path->length > 0)
    return; /* the task's function needs no saying */
  if (kind == MCH_SEND_SETUP) {
    static const char *const parts[] = {"init", "fini", "the standard library"};
    snprintf(head, sizeof head, "%s", parts[value < 3 ? value : 2]);
  } else if (kind == MCH_SEND_TASK && value == 0)
    snprintf(head, sizeof head, "the function");
  else if (kind == MCH_SEND_ERROR)
    snprintf(head, sizeof head, "error value");
  else if (kind == MCH_SEND_RESULT)
    snprintf(head, sizeof head, "result %d", value + 1);
  else
    snprintf(head, sizeof head, "argument %d", kind == MCH_SEND_TASK ? value : value + 1);
  part(path, head, "");
}

int mch_path_full(const struct mch_path *path) {
  return path->cut || path->length > sizeof path->parts - 200;
}

void mch_path_push(const struct mch_path *path, lua_State *L) {
  lua_pushlstring(L, path->parts, path->length);
}

void mch_path_push_step(const struct mch_path *path, lua_State *L) {
  const char *tail = strstr(path->parts, " of function ");
  if (path->length == 0) {
    lua_pushstring(L, path->keys + path->start);
    lua_pushnil(L);
  } else if (tail != NULL) {
    lua_pushlstring(L, path->parts, (size_t)(tail - path->parts));
    lua_pushstring(L, tail);
  } else {
    lua_pushlstring(L, path->parts, path->length);
    lua_pushliteral(L, "");
  }
}
