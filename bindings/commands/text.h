/* Runs in: both.
 *
 * Bytes that grow, for results of items. They belong to a userdata, whose __gc frees them: Lua may
 * raise an error at any time. */
#ifndef MCH_TEXT_H
#define MCH_TEXT_H

#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

struct mch_text {
  char *bytes;
  size_t length, room;
  /* What json_write.c sorts: names of the objects that it is in, the innermost last. */
  struct mch_name *names;
  size_t name_count, name_room;
};

/* Room for `count` more bytes, or an error of Lua. */
static inline char *mch_text_room(lua_State *L, struct mch_text *text, size_t count) {
  if (text->room - text->length < count) {
    size_t room = 2 * text->room + count + 256;
    char *bytes = room < count ? NULL : realloc(text->bytes, room);
    if (bytes == NULL)
      luaL_error(L, "not enough memory");
    text->bytes = bytes;
    text->room = room;
  }
  return text->bytes + text->length;
}

static inline void mch_text_add(lua_State *L, struct mch_text *text, const char *bytes,
                                size_t count) {
  if (count > 0)
    memcpy(mch_text_room(L, text, count), bytes, count);
  text->length += count;
}

static inline void mch_text_add_char(lua_State *L, struct mch_text *text, char c) {
  *mch_text_room(L, text, 1) = c;
  text->length++;
}

static inline void mch_text_free(struct mch_text *text) {
  free(text->bytes);
  free(text->names);
  memset(text, 0, sizeof *text);
}

#endif
