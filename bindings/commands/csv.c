/* Runs in: both. Purpose: csv.h. */
#include "bindings/commands/csv.h"

#include <string.h>

/* Push the field in quotes that begins behind the quote at `at`; where it ends, or NULL. */
static const char *read_quoted(lua_State *L, const char *at, const char *end) {
  luaL_Buffer field;
  luaL_buffinit(L, &field);
  for (;;) {
    const char *quote = memchr(at, '"', (size_t)(end - at));
    if (quote == NULL)
      break;
    luaL_addlstring(&field, at, (size_t)(quote - at));
    at = quote + 1;
    if (at == end || *at != '"') {
      luaL_pushresult(&field);
      return at;
    }
    luaL_addchar(&field, '"');
    at++;
  }
  luaL_pushresult(&field);
  lua_pop(L, 1);
  return NULL;
}

/* Push the field that begins at `at`; where it ends, or NULL with *problem set. */
static const char *read_field(lua_State *L, const char *at, const char *end, const char **problem,
                              const char **message) {
  const char *begin = at;
  if (at < end && *at == '"') {
    const char *stop = read_quoted(L, at + 1, end);
    *problem = stop != NULL ? stop : at;
    *message = stop != NULL ? "text stands behind the closing quote" : "a quote is not closed";
    if (stop == NULL || stop == end || *stop == ',')
      return stop;
    lua_pop(L, 1);
    return NULL;
  }
  for (; at < end && *at != ','; at++) {
    if (*at == '"' || *at == '\r') {
      *problem = at;
      *message = *at == '"' ? "a quote stands in a field that is not in quotes"
                            : "a carriage return stands in a field that is not in quotes";
      return NULL;
    }
  }
  lua_pushlstring(L, begin, (size_t)(at - begin));
  return at;
}

int mch_csv_read(lua_State *L, const char *record, size_t length, size_t *column,
                 const char **message) {
  const char *at = record;
  const char *end = record + length;
  const char *problem = NULL;
  lua_Integer count = 0;
  if (at < end && end[-1] == '\n')
    end -= end - at > 1 && end[-2] == '\r' ? 2 : 1;
  lua_newtable(L);
  for (;;) {
    at = read_field(L, at, end, &problem, message);
    if (at == NULL) {
      lua_pop(L, 1);
      *column = (size_t)(problem - record) + 1;
      return 0;
    }
    lua_rawseti(L, -2, ++count);
    if (at == end)
      return 1;
    at++;
  }
}

void mch_csv_write(lua_State *L, const char *field, size_t length, struct mch_text *text) {
  const char *end = field + length;
  const char *at = field;
  while (at < end && *at != '"' && *at != ',' && *at != '\r' && *at != '\n')
    at++;
  if (at == end) {
    mch_text_add(L, text, field, length);
    return;
  }
  mch_text_add_char(L, text, '"');
  for (; field < end; field++) {
    if (*field == '"')
      mch_text_add_char(L, text, '"');
    mch_text_add_char(L, text, *field);
  }
  mch_text_add_char(L, text, '"');
}
