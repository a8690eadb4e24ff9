/* Runs in: both. Purpose: json.h. */
#define _POSIX_C_SOURCE 200809L

#include "bindings/commands/json.h"

#include <math.h>
#include <stdint.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int mch_json_is_null(lua_State *L, int index) {
  return lua_type(L, index) == LUA_TLIGHTUSERDATA && lua_touserdata(L, index) == NULL;
}

/* --- numbers ------------------------------------------------------------------------------------
 */

static void write_integer(lua_State *L, lua_Integer value, struct mch_text *text) {
  char digits[24];
  char *at = digits + sizeof digits;
  lua_Unsigned rest = value < 0 ? 0 - (lua_Unsigned)value : (lua_Unsigned)value;
  do {
    *--at = (char)('0' + rest % 10);
    rest /= 10;
  } while (rest > 0);
  if (value < 0)
    *--at = '-';
  mch_text_add(L, text, at, (size_t)(digits + sizeof digits - at));
}

/* The fewest digits that read back the same. 15 are right for each decimal of so many, which is
 * the shortest form of most; below the normal numbers fewer than that may do. */
static void write_float(lua_State *L, double value, struct mch_text *text) {
  char digits[40];
  int count;
  if (fabs(value) < 1e15 && value == (double)(lua_Integer)value && value != 0) {
    write_integer(L, (lua_Integer)value, text);
    mch_text_add(L, text, ".0", 2);
    return;
  }
  count = fabs(value) < DBL_MIN ? 1 : DBL_DIG;
  do {
    snprintf(digits, sizeof digits, "%.*g", count, value);
  } while (++count <= 17 && strtod(digits, NULL) != value);
  mch_text_add(L, text, digits, strlen(digits));
  if (strpbrk(digits, ".en") == NULL)
    mch_text_add(L, text, ".0", 2);
}

void mch_json_write_number(lua_State *L, int index, struct mch_text *text, int is_json) {
  if (lua_isinteger(L, index))
    write_integer(L, lua_tointeger(L, index), text);
  else {
    double value = lua_tonumber(L, index);
    if (is_json && !isfinite(value))
      luaL_error(L, "%s is no number of JSON", isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
    write_float(L, value, text);
  }
}

/* --- strings ------------------------------------------------------------------------------------
 */

static void write_escape(lua_State *L, unsigned char c, struct mch_text *text) {
  static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt";
  char escape[8];
  for (const char *at = letters; *at != '\0'; at += 2) {
    if ((unsigned char)*at == c) {
      escape[0] = '\\';
      escape[1] = at[1];
      mch_text_add(L, text, escape, 2);
      return;
    }
  }
  snprintf(escape, sizeof escape, "\\u%04x", c);
  mch_text_add(L, text, escape, 6);
}

static void write_string(lua_State *L, const char *bytes, size_t length, struct mch_text *text) {
  const char *end = bytes + length;
  mch_text_add_char(L, text, '"');
  while (bytes < end) {
    const char *plain = bytes;
    while (bytes < end && (unsigned char)*bytes >= 0x20 && *bytes != '"' && *bytes != '\\')
      bytes++;
    mch_text_add(L, text, plain, (size_t)(bytes - plain));
    if (bytes < end)
      write_escape(L, (unsigned char)*bytes++, text);
  }
  mch_text_add_char(L, text, '"');
}

/* --- tables -------------------------------------------------------------------------------------
 */

/* Where the value that is being written stands, for messages. */
struct level {
  const struct level *up; /* NULL: the outermost */
  const char *name;       /* NULL: in a list, at `index` */
  lua_Integer index;
  int depth;
};

/* The outermost levels are shown. */
static void push_path(lua_State *L, const struct level *level) {
  enum { SHOWN = 8 };
  const struct level *levels[SHOWN];
  luaL_Buffer path;
  int count = 0;
  for (; level->up != NULL; level = level->up)
    levels[count++ % SHOWN] = level;
  luaL_buffinit(L, &path);
  luaL_addstring(&path, "the result");
  for (int i = count - 1; i >= 0 && i >= count - SHOWN; i--) {
    const struct level *at = levels[i % SHOWN];
    char number[32];
    snprintf(number, sizeof number, "[%lld]", (long long)at->index);
    luaL_addstring(&path, at->name != NULL ? "." : number);
    luaL_addstring(&path, at->name != NULL ? at->name : "");
  }
  luaL_addstring(&path, count > SHOWN ? "..." : "");
  luaL_pushresult(&path);
}

static void refuse(lua_State *L, const struct level *level, const char *what) {
  push_path(L, level);
  luaL_error(L, "%s cannot be written as JSON: %s", lua_tostring(L, -1), what);
}

static void write_value(lua_State *L, int index, struct mch_text *text, const struct level *level);

static void write_list(lua_State *L, int index, size_t count, struct mch_text *text,
                       const struct level *level) {
  struct level inside = {level, NULL, 0, level->depth + 1};
  mch_text_add_char(L, text, '[');
  for (size_t i = 1; i <= count; i++) {
    inside.index = (lua_Integer)i;
    if (i > 1)
      mch_text_add_char(L, text, ',');
    if (lua_rawgeti(L, index, inside.index) == LUA_TNIL)
      refuse(L, &inside, "a list has a hole there");
    write_value(L, lua_gettop(L), text, &inside);
    lua_pop(L, 1);
  }
  mch_text_add_char(L, text, ']');
}

struct mch_name {
  const char *bytes; /* the table keeps it alive */
  size_t length;
};

static int compare(const void *a, const void *b) {
  const struct mch_name *left = a, *right = b;
  size_t least = left->length < right->length ? left->length : right->length;
  int order = memcmp(left->bytes, right->bytes, least);
  return order != 0 ? order : (left->length > right->length) - (left->length < right->length);
}

static void sort(struct mch_name *names, size_t count) {
  if (count > 12) {
    qsort(names, count, sizeof *names, compare);
    return;
  }
  for (size_t i = 1; i < count; i++) {
    struct mch_name name = names[i];
    size_t at = i;
    for (; at > 0 && compare(&names[at - 1], &name) > 0; at--)
      names[at] = names[at - 1];
    names[at] = name;
  }
}

/* One name on top, as a key of a table. */
static void collect_name(lua_State *L, struct mch_text *text) {
  struct mch_name *name;
  if (text->name_count == text->name_room) {
    size_t room = 2 * text->name_room + 16;
    struct mch_name *names = realloc(text->names, room * sizeof *names);
    if (names == NULL)
      luaL_error(L, "not enough memory");
    text->names = names;
    text->name_room = room;
  }
  name = &text->names[text->name_count++];
  name->bytes = lua_tolstring(L, -1, &name->length);
}

/* Nothing large stands on the stack of C here: objects may stand deep in each other. */
static void write_object(lua_State *L, int index, struct mch_text *text,
                         const struct level *level) {
  struct level inside = {level, "", 0, level->depth + 1};
  size_t first = text->name_count;
  size_t end;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    collect_name(L, text);
  }
  end = text->name_count;
  if (end > first)
    sort(text->names + first, end - first);
  mch_text_add_char(L, text, '{');
  for (size_t i = first; i < end; i++) {
    size_t length = text->names[i].length;
    if (i > first)
      mch_text_add_char(L, text, ',');
    inside.name = text->names[i].bytes;
    write_string(L, inside.name, length, text);
    mch_text_add_char(L, text, ':');
    lua_pushlstring(L, inside.name, length);
    lua_rawget(L, index);
    write_value(L, lua_gettop(L), text, &inside);
    lua_pop(L, 1);
  }
  mch_text_add_char(L, text, '}');
  text->name_count = first;
}

static int is_marked_list(lua_State *L, int index) {
  int is_marked;
  if (!lua_getmetatable(L, index))
    return 0;
  mch_json_push_list_metatable(L);
  is_marked = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return is_marked;
}

int mch_json_list(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    lua_settop(L, 0);
    lua_newtable(L);
  }
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  mch_json_push_list_metatable(L);
  lua_setmetatable(L, 1);
  return 1;
}

/* Look at all keys: what does not fit is an error, never left out. */
static void check_keys(lua_State *L, int index, const struct level *level, size_t *numbers,
                       size_t *names) {
  *numbers = *names = 0;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) == LUA_TSTRING)
      ++*names;
    else if (lua_isinteger(L, -1))
      ++*numbers;
    else {
      lua_pushfstring(L, "a table has a key that is a %s", luaL_typename(L, -1));
      refuse(L, level, lua_tostring(L, -1));
    }
  }
}

static void write_table(lua_State *L, int index, struct mch_text *text, const struct level *level) {
  size_t numbers, names;
  int is_marked = is_marked_list(L, index);
  if (level->depth > MCH_JSON_DEPTH || !lua_checkstack(L, 12))
    refuse(L, level, "tables stand too deep in each other (is one inside of itself?)");
  check_keys(L, index, level, &numbers, &names);
  if (names > 0 && (numbers > 0 || is_marked))
    refuse(L, level, "a table is a list and has names too");
  if (numbers > 0 && lua_rawlen(L, index) != numbers)
    refuse(L, level, "a table has numbers as keys, but not 1 to n");
  if (numbers > 0 || is_marked)
    write_list(L, index, numbers, text, level);
  else
    write_object(L, index, text, level);
}

static void write_value(lua_State *L, int index, struct mch_text *text, const struct level *level) {
  size_t length;
  const char *bytes;
  switch (lua_type(L, index)) {
  case LUA_TSTRING:
    bytes = lua_tolstring(L, index, &length);
    write_string(L, bytes, length, text);
    break;
  case LUA_TNUMBER:
    if (!lua_isinteger(L, index) && !isfinite(lua_tonumber(L, index)))
      refuse(L, level, "inf and nan are no numbers there");
    mch_json_write_number(L, index, text, 1);
    break;
  case LUA_TBOOLEAN:
    mch_text_add(L, text, lua_toboolean(L, index) ? "true" : "false",
                 lua_toboolean(L, index) ? 4 : 5);
    break;
  case LUA_TNIL:
    mch_text_add(L, text, "null", 4);
    break;
  case LUA_TTABLE:
    write_table(L, index, text, level);
    break;
  default:
    if (mch_json_is_null(L, index))
      mch_text_add(L, text, "null", 4);
    else
      refuse(L, level, luaL_typename(L, index));
  }
}

void mch_json_write(lua_State *L, int index, struct mch_text *text) {
  struct level outermost = {NULL, NULL, 0, 0};
  luaL_checkstack(L, 12, NULL);
  text->name_count = 0;
  write_value(L, lua_absindex(L, index), text, &outermost);
}
