/* Runs in: both. Purpose: shown.h. */
#include "shown.h"

#include <ctype.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "number.h"
#include "path.h"

/* What is shown at the most. */
enum {
  BYTES = 900,  /* in all */
  DEPTH = 4,    /* tables in tables */
  ENTRIES = 20, /* of a table */
  STRING = 120, /* bytes of a string */
  SORTED = 1000 /* entries of a table whose keys are put in order */
};

struct text {
  char bytes[BYTES + 64]; /* room for what closes it */
  size_t length;
  int full; /* something was left out for want of room */
};

static void add_bytes(struct text *text, const char *bytes, size_t length) {
  if (text->full || length > BYTES - text->length) {
    text->full = 1;
    return;
  }
  memcpy(text->bytes + text->length, bytes, length);
  text->length += length;
}

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...) {
  char part[LUA_IDSIZE + 64];
  va_list arguments;
  int n;
  va_start(arguments, format);
  n = vsnprintf(part, sizeof part, format, arguments);
  va_end(arguments);
  if (n > 0)
    add_bytes(text, part, strlen(part));
}

/* ---- values without parts ---- */

/* As Lua would read it back, but for its length. Bytes above 127 are left as they are: most texts
 * are UTF-8, and what is none is for the terminal's side to mend. */
static void add_string(struct text *text, const char *s, size_t length) {
  size_t i, most = length < STRING ? length : STRING;
  while (most < length && most > 0 && ((unsigned char)s[most] & 0xc0) == 0x80)
    most--; /* not in the middle of a character */
  add(text, "\"");
  for (i = 0; i < most; i++) {
    if (s[i] == '"' || s[i] == '\\')
      add(text, "\\%c", s[i]);
    else if (s[i] == '\n')
      add(text, "\\n");
    else if (iscntrl((unsigned char)s[i]) && (unsigned char)s[i] < 0x80)
      add(text, "\\x%02X", (unsigned)(unsigned char)s[i]);
    else
      add_bytes(text, s + i, 1);
  }
  add(text, most < length ? "...\"" : "\"");
}

static void add_float(struct text *text, lua_Number number) {
  char part[MCH_NUMBER_TEXT];
  mch_number_print(part, number);
  add(text, part[strspn(part, "-0123456789")] == '\0' ? "%s.0" : "%s", part);
}

static void add_function(struct text *text, lua_State *L, int at) {
  lua_Debug info;
  lua_pushvalue(L, at);
  lua_getinfo(L, ">S", &info);
  if (info.what[0] == 'C')
    add(text, "<C function>");
  else
    add(text, "<function %s:%d>", info.short_src, info.linedefined);
}

/* The name of the value's metatable, if it has one. */
static void add_name(struct text *text, lua_State *L, int at, const char *otherwise) {
  int top = lua_gettop(L);
  if (lua_getmetatable(L, at)) {
    lua_pushliteral(L, "__name");
    if (lua_rawget(L, -2) == LUA_TSTRING)
      otherwise = lua_tostring(L, -1);
  }
  add(text, "%.60s", otherwise);
  lua_settop(L, top);
}

static void add_flat(struct text *text, lua_State *L, int at) {
  size_t length;
  const char *s;
  switch (lua_type(L, at)) {
  case LUA_TNIL:
    add(text, "nil");
    return;
  case LUA_TBOOLEAN:
    add(text, lua_toboolean(L, at) ? "true" : "false");
    return;
  case LUA_TNUMBER:
    if (lua_isinteger(L, at))
      add(text, LUA_INTEGER_FMT, lua_tointeger(L, at));
    else
      add_float(text, lua_tonumber(L, at));
    return;
  case LUA_TSTRING:
    s = lua_tolstring(L, at, &length);
    add_string(text, s, length);
    return;
  case LUA_TFUNCTION:
    add_function(text, L, at);
    return;
  default:
    add(text, "<");
    add_name(text, L, at, lua_type(L, at) == LUA_TTHREAD ? "coroutine" : luaL_typename(L, at));
    add(text, ">");
  }
}

/* ---- tables ---- */

static void add_table(struct text *text, lua_State *L, int table, int depth);

static void add_value(struct text *text, lua_State *L, int at, int depth) {
  if (lua_type(L, at) == LUA_TTABLE)
    add_table(text, L, at, depth);
  else
    add_flat(text, L, at);
}

static void add_key(struct text *text, lua_State *L, int at) {
  size_t length = 0;
  const char *s = lua_type(L, at) == LUA_TSTRING ? lua_tolstring(L, at, &length) : NULL;
  if (s != NULL && length <= STRING && mch_path_is_name(s, length)) {
    add(text, "%s = ", s);
    return;
  }
  add(text, "[");
  add_value(text, L, at, DEPTH);
  add(text, "] = ");
}

/* The entries of a table that are not at its front, as far as it was shown. */
struct entries {
  int table;
  lua_Integer front; /* elements 1 .. front go without their keys */
  size_t count;      /* of the others */
};

static int is_front(lua_State *L, const struct entries *entries, int key) {
  return lua_isinteger(L, key) && lua_tointeger(L, key) >= 1 &&
         lua_tointeger(L, key) <= entries->front;
}

static struct entries count_entries(lua_State *L, int table) {
  struct entries entries = {table, 0, 0};
  int top = lua_gettop(L);
  while (lua_rawgeti(L, table, entries.front + 1) != LUA_TNIL) {
    entries.front++;
    lua_settop(L, top);
  }
  lua_settop(L, top);
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    entries.count += !is_front(L, &entries, top + 1);
  }
  return entries;
}

/* Numbers first, then strings; the rest as it comes. */
static int rank(lua_State *L, int at) {
  int type = lua_type(L, at);
  return type == LUA_TNUMBER ? 0 : type == LUA_TSTRING ? 1 : 2;
}

static int is_before(lua_State *L, int a, int b) {
  int rank_a = rank(L, a), rank_b = rank(L, b);
  return rank_a != rank_b ? rank_a < rank_b : rank_a < 2 && lua_compare(L, a, b, LUA_OPLT);
}

/* Replace the key at `last` (nil: none yet) by the next number or string in order. 0: that was the
 * last one; then it is nil. */
static int next_in_order(lua_State *L, const struct entries *entries, int last) {
  int top = lua_gettop(L), best = top + 1, key = top + 2;
  lua_pushnil(L);
  lua_pushnil(L);
  while (lua_next(L, entries->table)) {
    lua_pop(L, 1);
    if (rank(L, key) < 2 && !is_front(L, entries, key) &&
        (lua_isnil(L, last) || is_before(L, last, key)) &&
        (lua_isnil(L, best) || is_before(L, key, best)))
      lua_copy(L, key, best);
  }
  lua_copy(L, best, last);
  lua_settop(L, top);
  return !lua_isnil(L, last);
}

/* Replace the key at `key` by the next one that is shown with its key. 0: there is none. */
static int next_key(lua_State *L, const struct entries *entries, int key, int *in_order) {
  int sorted = entries->count <= SORTED;
  if (*in_order && next_in_order(L, entries, key))
    return 1;
  *in_order = 0; /* now the others, from the beginning, for the key is nil */
  do {
    lua_pushvalue(L, key);
    if (!lua_next(L, entries->table))
      return 0;
    lua_pop(L, 1);
    lua_replace(L, key);
  } while (is_front(L, entries, key) || (sorted && rank(L, key) < 2));
  return 1;
}

static void separate(struct text *text, size_t shown) {
  add(text, shown > 0 ? ", " : " ");
}

/* Returns how many entries were shown. */
static size_t add_entries(struct text *text, lua_State *L, const struct entries *entries,
                          int depth) {
  int key = lua_gettop(L) + 1, in_order = entries->count <= SORTED;
  size_t shown = 0;
  lua_Integer i;
  for (i = 1; i <= entries->front && shown < ENTRIES && !text->full; i++) {
    separate(text, shown++);
    lua_rawgeti(L, entries->table, i);
    add_value(text, L, key, depth + 1);
    lua_settop(L, key - 1);
  }
  lua_pushnil(L);
  while (shown < ENTRIES && !text->full && next_key(L, entries, key, &in_order)) {
    separate(text, shown++);
    add_key(text, L, key);
    lua_pushvalue(L, key);
    lua_rawget(L, entries->table);
    add_value(text, L, key + 1, depth + 1);
    lua_settop(L, key);
  }
  lua_settop(L, key - 1);
  return shown;
}

static void add_table(struct text *text, lua_State *L, int table, int depth) {
  struct entries entries = count_entries(L, table);
  size_t all = (size_t)entries.front + entries.count, shown, before = text->length;
  add_name(text, L, table, "");
  if (text->length > before)
    add(text, " ");
  if (all == 0 || depth >= DEPTH) {
    add(text, all == 0 ? "{}" : "{...}");
    return;
  }
  add(text, "{");
  shown = add_entries(text, L, &entries, depth);
  if (shown < all)
    add(text, ", ... and %d more", all - shown > INT_MAX ? INT_MAX : (int)(all - shown));
  add(text, " }");
}

/* ---- the interface ---- */

int mch_shown_is_mute(lua_State *L, int index) {
  int mute = 1;
  if (lua_type(L, index) != LUA_TTABLE)
    return 0;
  if (lua_getmetatable(L, index)) {
    lua_pushliteral(L, "__tostring");
    mute = lua_rawget(L, -2) == LUA_TNIL;
    lua_pop(L, 2);
  }
  return mute;
}

void mch_shown_push(lua_State *L, int index) {
  struct text text;
  text.length = 0;
  text.full = 0;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 8 * (DEPTH + 2), NULL);
  add_table(&text, L, index, 0);
  if (text.full) {
    memcpy(text.bytes + text.length, " ...", 4);
    text.length += 4;
  }
  lua_pushlstring(L, text.bytes, text.length);
}
