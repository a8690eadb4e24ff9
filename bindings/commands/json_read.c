/* Runs in: both. Purpose: json.h. */
#define _POSIX_C_SOURCE 200809L

#include "bindings/commands/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mch_json_push_list_metatable(lua_State *L) {
  static const char key = 'l';
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) == LUA_TTABLE)
    return;
  lua_pop(L, 1);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "list");
  lua_setfield(L, -2, "__name");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
}

#ifdef MANTICHORA_YAJL

#include <yajl/yajl_parse.h>

/* A list or an object that is being read; it stands on Lua's stack, below its key if it has one. */
struct frame {
  lua_Integer count; /* of a list, its values so far; -1: an object */
};

struct mch_json_reader {
  yajl_handle handle; /* NULL: none yet, or an error has broken it */
  lua_State *L;
  struct frame *frames;
  int depth, room;
  int values;      /* on the outermost level */
  int list_meta;   /* where the metatable of lists stands on the stack */
  int has_message; /* one of ours */
  char message[192];
};

static int fail(struct mch_json_reader *reader, const char *message) {
  snprintf(reader->message, sizeof reader->message, "%s", message);
  reader->has_message = 1;
  return 0;
}

static const char more_values[] = "more than one value stands in the line";

/* The value on top has been read: it goes into what it is in. */
static int put(struct mch_json_reader *reader) {
  lua_State *L = reader->L;
  struct frame *frame;
  if (reader->depth == 0) {
    reader->values++;
    return reader->values == 1 ? 1 : fail(reader, more_values);
  }
  frame = &reader->frames[reader->depth - 1];
  if (frame->count >= 0)
    lua_rawseti(L, -2, ++frame->count);
  else
    lua_rawset(L, -3);
  return 1;
}

static int on_null(void *ud) {
  struct mch_json_reader *reader = ud;
  lua_pushlightuserdata(reader->L, NULL);
  return put(reader);
}

static int on_boolean(void *ud, int value) {
  struct mch_json_reader *reader = ud;
  lua_pushboolean(reader->L, value);
  return put(reader);
}

static int bad_number(struct mch_json_reader *reader, const char *what, const char *digits,
                      size_t length) {
  snprintf(reader->message, sizeof reader->message, "%s: %.*s%s", what,
           length > 60 ? 60 : (int)length, digits, length > 60 ? "..." : "");
  reader->has_message = 1;
  return 0;
}

static int read_integer(struct mch_json_reader *reader, const char *digits, size_t length) {
  lua_Unsigned value = 0;
  int is_negative = digits[0] == '-';
  lua_Unsigned most = (lua_Unsigned)LUA_MAXINTEGER + (is_negative ? 1 : 0);
  for (size_t i = is_negative ? 1 : 0; i < length; i++) {
    unsigned digit = (unsigned)(digits[i] - '0');
    if (value > (most - digit) / 10)
      return bad_number(reader, "an integer beyond 64 bits", digits, length);
    value = 10 * value + digit;
  }
  lua_pushinteger(reader->L, (lua_Integer)(is_negative ? 0 - value : value));
  return put(reader);
}

/* Whether the number has a digit other than 0 before its exponent. */
static int is_nonzero(const char *digits, size_t length) {
  for (size_t i = 0; i < length && digits[i] != 'e' && digits[i] != 'E'; i++) {
    if (digits[i] >= '1' && digits[i] <= '9')
      return 1;
  }
  return 0;
}

/* Up to 15 digits times a power of ten up to 10^22: both are doubles, so that one operation rounds
 * once and gives what strtod does. */
static int read_short_float(const char *digits, size_t length, double *value) {
  static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  size_t at = digits[0] == '-' ? 1 : 0;
  int64_t mantissa = 0;
  int fraction = 0, has_point = 0;
  if (length > 16)
    return 0;
  for (; at < length; at++) {
    if (digits[at] == '.')
      has_point = 1;
    else if (digits[at] < '0' || digits[at] > '9')
      return 0;
    else {
      mantissa = 10 * mantissa + (digits[at] - '0');
      fraction += has_point;
    }
  }
  if (mantissa >= INT64_C(1000000000000000) || fraction > 22)
    return 0;
  *value = (double)mantissa / powers[fraction];
  if (digits[0] == '-')
    *value = -*value;
  return 1;
}

/* strtod wants a closing zero, and takes the point of the locale: that of a program that did not
 * set one is the right one. */
static int read_float(struct mch_json_reader *reader, const char *digits, size_t length) {
  char few[64];
  char *copy = length < sizeof few ? few : malloc(length + 1);
  double value;
  if (read_short_float(digits, length, &value)) {
    lua_pushnumber(reader->L, value);
    return put(reader);
  }
  if (copy == NULL)
    return fail(reader, "not enough memory");
  memcpy(copy, digits, length);
  copy[length] = '\0';
  value = strtod(copy, NULL);
  if (copy != few)
    free(copy);
  if (isinf(value) || (value == 0 && is_nonzero(digits, length)))
    return bad_number(reader, "a number beyond what a double can hold", digits, length);
  lua_pushnumber(reader->L, value);
  return put(reader);
}

static int on_number(void *ud, const char *digits, size_t length) {
  struct mch_json_reader *reader = ud;
  for (size_t i = 0; i < length; i++) {
    if (digits[i] == '.' || digits[i] == 'e' || digits[i] == 'E')
      return read_float(reader, digits, length);
  }
  return read_integer(reader, digits, length);
}

static int on_string(void *ud, const unsigned char *bytes, size_t length) {
  struct mch_json_reader *reader = ud;
  lua_pushlstring(reader->L, (const char *)bytes, length);
  return put(reader);
}

static int on_key(void *ud, const unsigned char *bytes, size_t length) {
  struct mch_json_reader *reader = ud;
  lua_pushlstring(reader->L, (const char *)bytes, length);
  return 1;
}

static int begin(struct mch_json_reader *reader, lua_Integer count) {
  if (reader->depth == 0 && reader->values > 0)
    return fail(reader, more_values);
  if (reader->depth == MCH_JSON_DEPTH || !lua_checkstack(reader->L, 8))
    return fail(reader, "lists and objects stand too deep in each other");
  if (reader->depth == reader->room) {
    int room = 2 * reader->room + 16;
    struct frame *frames = realloc(reader->frames, (size_t)room * sizeof *frames);
    if (frames == NULL)
      return fail(reader, "not enough memory");
    reader->frames = frames;
    reader->room = room;
  }
  lua_newtable(reader->L);
  reader->frames[reader->depth++].count = count;
  return 1;
}

static int on_begin_object(void *ud) {
  return begin(ud, -1);
}

static int on_begin_list(void *ud) {
  struct mch_json_reader *reader = ud;
  if (!begin(reader, 0))
    return 0;
  lua_pushvalue(reader->L, reader->list_meta);
  lua_setmetatable(reader->L, -2);
  return 1;
}

static int on_end(void *ud) {
  struct mch_json_reader *reader = ud;
  reader->depth--;
  return put(reader);
}

static void drop_handle(struct mch_json_reader *reader) {
  if (reader->handle != NULL)
    yajl_free(reader->handle);
  reader->handle = NULL;
}

static int free_reader(lua_State *L) {
  struct mch_json_reader *reader = lua_touserdata(L, 1);
  drop_handle(reader);
  free(reader->frames);
  reader->frames = NULL;
  return 0;
}

struct mch_json_reader *mch_json_new_reader(lua_State *L) {
  struct mch_json_reader *reader = lua_newuserdatauv(L, sizeof *reader, 0);
  memset(reader, 0, sizeof *reader);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, free_reader);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  return reader;
}

/* Several values one after the other, so that one handle reads line after line. */
static int new_handle(struct mch_json_reader *reader) {
  static const yajl_callbacks callbacks = {
      on_null,         on_boolean, NULL,   NULL,          on_number, on_string,
      on_begin_object, on_key,     on_end, on_begin_list, on_end};
  reader->handle = yajl_alloc(&callbacks, NULL, reader);
  if (reader->handle == NULL)
    return 0;
  yajl_config(reader->handle, yajl_allow_multiple_values, 1);
  yajl_config(reader->handle, yajl_dont_validate_strings, 1);
  return 1;
}

static int hex(const char *at, const char *end) {
  int value = 0;
  for (int i = 0; i < 4; i++, at++) {
    const char *digits = "0123456789abcdef";
    const char *digit = at < end ? strchr(digits, *at | 0x20) : NULL;
    if (digit == NULL || *at == '\0')
      return -1;
    value = 16 * value + (int)(digit - digits);
  }
  return value;
}

/* yajl makes a question mark of half a surrogate pair. NULL: there is none; else where it is. */
static const char *find_half_pair(const char *at, const char *end) {
  while ((at = memchr(at, '\\', (size_t)(end - at))) != NULL && end - at > 1) {
    int value = at[1] == 'u' ? hex(at + 2, end) : -1;
    if (value >= 0xDC00 && value <= 0xDFFF)
      return at;
    if (value >= 0xD800 && value <= 0xDBFF) {
      int low = end - at > 7 && at[6] == '\\' && at[7] == 'u' ? hex(at + 8, end) : -1;
      if (low < 0xDC00 || low > 0xDFFF)
        return at;
      at += 12;
    } else
      at += 2;
  }
  return NULL;
}

static int is_of_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
         c == '-' || c == '.';
}

/* Whether the quote at `at` is escaped. */
static int is_escaped(const char *bytes, size_t at) {
  size_t count = 0;
  while (count < at && bytes[at - 1 - count] == '\\')
    count++;
  return count % 2 == 1;
}

/* Where the token begins that ends before `end`: yajl says where it stopped, which is behind it. */
static size_t token_start(const char *bytes, size_t end) {
  size_t at = end > 0 ? end - 1 : 0;
  if (bytes[at] == '"') {
    while (at > 0 && (bytes[--at] != '"' || is_escaped(bytes, at))) {
    }
  } else {
    while (is_of_word(bytes[at]) && at > 0 && is_of_word(bytes[at - 1]))
      at--;
  }
  return at;
}

/* What yajl says, in one line. */
static void copy_message(struct mch_json_reader *reader) {
  unsigned char *text = yajl_get_error(reader->handle, 0, NULL, 0);
  if (text == NULL) {
    fail(reader, "not enough memory");
    return;
  }
  fail(reader, (const char *)text);
  reader->message[strcspn(reader->message, "\n")] = '\0';
  if (reader->message[strlen(reader->message) - 1] == '.')
    reader->message[strlen(reader->message) - 1] = '\0';
  yajl_free_error(reader->handle, text);
}

static size_t find_place(const struct mch_json_reader *reader, const char *bytes, size_t length) {
  size_t end = yajl_get_bytes_consumed(reader->handle);
  if (end > length)
    return length;
  if (strncmp(reader->message, "lexical error", 13) != 0)
    return token_start(bytes, end);
  return end > 0 && strstr(reader->message, "invalid char in json") != NULL ? end - 1 : end;
}

/* Feed the line and what ends its last token; where it went wrong, from 0, or -1. */
static long feed(struct mch_json_reader *reader, const char *bytes, size_t length) {
  yajl_status status = yajl_parse(reader->handle, (const unsigned char *)bytes, length);
  if (status == yajl_status_ok && (length == 0 || bytes[length - 1] != '\n')) {
    status = yajl_parse(reader->handle, (const unsigned char *)"\n", 1);
    if (status != yajl_status_ok && !reader->has_message) {
      fail(reader, "the value does not end");
      return (long)length;
    }
  }
  if (status == yajl_status_ok && reader->depth == 0 && reader->values == 1)
    return -1;
  if (status == yajl_status_ok) {
    fail(reader, "the value does not end");
    return (long)(length > 0 && bytes[length - 1] == '\n' ? length - 1 : length);
  }
  if (!reader->has_message)
    copy_message(reader);
  return (long)find_place(reader, bytes, length);
}

int mch_json_read(lua_State *L, struct mch_json_reader *reader, const char *bytes, size_t length,
                  size_t *column, const char **message) {
  int base = lua_gettop(L);
  const char *half = find_half_pair(bytes, bytes + length);
  long place;
  /* An error of Lua may have left the handle in the middle of something. */
  if (reader->depth != 0 || reader->values != 1 || reader->has_message)
    drop_handle(reader);
  reader->depth = reader->values = reader->has_message = 0;
  reader->L = L;
  *message = reader->message;
  if (reader->handle == NULL && !new_handle(reader))
    return luaL_error(L, "not enough memory");
  luaL_checkstack(L, 8, NULL);
  mch_json_push_list_metatable(L);
  reader->list_meta = base + 1;
  place = feed(reader, bytes, length);
  if (place < 0 && half != NULL) {
    fail(reader, "half of a surrogate pair is no character");
    place = half - bytes;
  }
  if (place >= 0) {
    lua_settop(L, base);
    *column = (size_t)place + 1;
    return 0;
  }
  lua_remove(L, base + 1);
  return 1;
}

#else

struct mch_json_reader *mch_json_new_reader(lua_State *L) {
  lua_pushnil(L);
  return NULL;
}

int mch_json_read(lua_State *L, struct mch_json_reader *reader, const char *bytes, size_t length,
                  size_t *column, const char **message) {
  (void)reader, (void)bytes, (void)length;
  *column = 1;
  *message = "this program was built without libyajl";
  return luaL_error(L, "%s", *message);
}

#endif
