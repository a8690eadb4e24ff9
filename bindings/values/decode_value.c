/* Runs in: both.
 *
 * Values without a frame, and the heads of tables: the decoder's half of encode_table.c. */
#include "decoding.h"

#include <limits.h>

#include "early.h"
#include "runtime/base/buf.h"

/* How many of `wanted` entries to allocate ahead: each takes a byte at least, so all tables
 * together cannot have more entries than the message has bytes. */
static int allocate(struct decoding *d, uint64_t wanted) {
  if (wanted > d->credit)
    wanted = d->credit;
  if (wanted > INT_MAX)
    wanted = INT_MAX;
  d->credit -= wanted;
  return (int)wanted;
}

void mch_decode_push_ref(struct decoding *d) {
  uint64_t number = take_varint(d);
  if (number >= d->objects || lua_isnil(d->L, d->slots + REFS) ||
      lua_rawgeti(d->L, d->slots + REFS, (lua_Integer)number) == LUA_TNIL)
    mch_decode_malformed(d, "reference to nothing");
}

/* Bytes that a tag takes with its value: of such as often stand between strings. 0: of others. */
static size_t plain_size(unsigned tag) {
  switch (tag) {
  case MCH_TAG_INT1:
  case MCH_TAG_REF:    /* unless its number is large: then what */
  case MCH_TAG_RECORD: /* is found may be none, and is not used */
    return 2;
  case MCH_TAG_INT2:
    return 3;
  case MCH_TAG_INT4:
    return 5;
  case MCH_TAG_INT8:
  case MCH_TAG_FLOAT:
    return 9;
  default:
    return tag <= MCH_TAG_TRUE;
  }
}

static inline int is_short_tag(unsigned tag) {
  return tag >= MCH_TAG_SHORT && tag < MCH_TAG_STRING;
}

/* Find short strings behind this place, as far as that is easy. */
static void look_ahead(struct decoding *d) {
  const unsigned char *at = d->at;
  d->ahead = d->ahead_next = 0;
  while (at < d->end && d->ahead < AHEAD_MOST) {
    unsigned tag = *at;
    size_t size = is_short_tag(tag) ? 1 + (tag & 0x1f) : plain_size(tag);
    if (size == 0 || size > (size_t)(d->end - at))
      break;
    if (is_short_tag(tag))
      d->ahead_at[d->ahead++] = at + 1;
    at += size;
  }
}

/* Lua looks for each short string among all it has, and waits for memory. When the next ones are
 * looked for at once, it waits for all of them together. */
static void push_short(struct decoding *d, size_t length) {
  const unsigned char *bytes = take(d, length);
  int i;
  if (d->ahead_next < d->ahead && d->ahead_at[d->ahead_next] == bytes) {
    lua_pushvalue(d->L, d->slots + AHEAD + d->ahead_next++);
    return;
  }
  look_ahead(d);
  lua_pushlstring(d->L, (const char *)bytes, length);
  for (i = 0; i < d->ahead; i++)
    lua_pushlstring(d->L, (const char *)d->ahead_at[i], d->ahead_at[i][-1] & 0x1f);
  while (i > 0)
    lua_replace(d->L, d->slots + AHEAD + --i);
}

static void push_string(struct decoding *d, unsigned tag) {
  if (tag < MCH_TAG_STRING) {
    push_short(d, tag & 0x1f);
  } else {
    uint64_t length = take_varint(d);
    if (length > left(d))
      mch_decode_malformed(d, "string too long");
    lua_pushlstring(d->L, (const char *)take(d, (size_t)length), (size_t)length);
  }
  keep(d, tag, d->objects++);
}

static inline int is_string_tag(unsigned tag) {
  return tag >= MCH_TAG_OBJECT && (tag & ~(unsigned)MCH_TAG_KEPT) <= MCH_TAG_STRING;
}

/* Read a value that must be a string. */
void mch_decode_read_string(struct decoding *d) {
  unsigned tag = *take(d, 1);
  if (tag == MCH_TAG_REF)
    mch_decode_push_ref(d);
  else if (is_string_tag(tag))
    push_string(d, tag);
  else
    mch_decode_malformed(d, "no string");
  if (lua_type(d->L, -1) != LUA_TSTRING)
    mch_decode_malformed(d, "no string");
}

/* The table on top of the stack has its first `there` items already. */
static void open_items(struct decoding *d, unsigned tag, uint64_t there, uint64_t items,
                       uint64_t pairs) {
  struct frame *frame;
  if (items > LUA_MAXINTEGER || there > items)
    mch_decode_malformed(d, "too many items");
  keep(d, tag, d->objects++);
  frame = mch_decode_open_frame(d, ITEMS, items);
  frame->next = there;
  frame->pairs = pairs;
  frame->has_metatable = (tag & MCH_TAG_META) != 0;
}

static void open_table(struct decoding *d, unsigned tag) {
  uint64_t items = take_varint(d), pairs = take_varint(d);
  int ahead = allocate(d, items);
  lua_createtable(d->L, ahead, allocate(d, pairs));
  open_items(d, tag, 0, items, pairs);
}

static void open_ahead(struct decoding *d, unsigned tag) {
  uint64_t table = take_varint(d), there = take_varint(d), items = take_varint(d);
  if (d->early_tables == 0 || !mch_early_take(d->L, d->early_tables, table, there)) {
    lua_pushliteral(d->L, "not enough memory");
    mch_decode_fail(d);
  }
  open_items(d, tag, there, items, take_varint(d));
}

/* Bring the keys of a shape to its line. Returns the stack index of the first. */
int mch_decode_use_shape(struct decoding *d, uint64_t shape) {
  lua_State *L = d->L;
  size_t line = (size_t)(shape % KEY_LINES);
  int first = d->slots + KEYS + (int)line * MCH_GRAPH_SMALL_TABLE, i, n;
  if (d->lines[line] == shape)
    return first;
  lua_rawgeti(L, d->slots + SHAPES, (lua_Integer)shape + 1);
  n = (int)lua_rawlen(L, -1);
  for (i = 0; i < n; i++) {
    lua_rawgeti(L, -1, i + 1);
    lua_replace(L, first + i);
  }
  lua_pop(L, 1);
  d->lines[line] = shape;
  d->line_keys[line] = n;
  return first;
}

static uint64_t read_shape(struct decoding *d) {
  uint64_t n = take_varint(d), i;
  if (n == 0 || n > MCH_GRAPH_SMALL_TABLE)
    mch_decode_malformed(d, "bad record");
  if (lua_isnil(d->L, d->slots + SHAPES)) {
    lua_newtable(d->L);
    lua_replace(d->L, d->slots + SHAPES);
  }
  lua_createtable(d->L, (int)n, 0);
  for (i = 1; i <= n; i++) {
    mch_decode_read_string(d);
    lua_rawseti(d->L, -2, (lua_Integer)i);
  }
  lua_rawseti(d->L, d->slots + SHAPES, (lua_Integer)++d->shapes);
  return d->shapes - 1;
}

/* Does this tag begin a value without parts? */
static inline int is_plain(unsigned tag) {
  return tag < MCH_TAG_OBJECT || is_string_tag(tag);
}

/* Read fields of the record on top of the stack until one has parts. Returns how many. */
static int read_fields(struct decoding *d, int n, int keys) {
  int record = lua_gettop(d->L), i = 0;
  while (i < n && d->at < d->end && is_plain(*d->at)) {
    lua_pushvalue(d->L, keys + i++);
    mch_decode_read_value(d);
    lua_rawset(d->L, record);
  }
  return i;
}

/* Read a record, loose or not: 1, if none of its fields has parts, or open a frame for it. */
static int read_record(struct decoding *d, unsigned tag) {
  uint64_t shape, number = d->objects++;
  struct frame *frame;
  int n, keys, fields, is_loose = (tag & 0xf) == (MCH_TAG_LOOSE & 0xf);
  if ((tag & 0xf) == (MCH_TAG_SHAPED & 0xf))
    shape = read_shape(d);
  else
    shape = take_varint(d);
  if (shape >= d->shapes)
    mch_decode_malformed(d, "unknown shape");
  keys = mch_decode_use_shape(d, shape);
  n = d->line_keys[shape % KEY_LINES];
  lua_createtable(d->L, 0, allocate(d, (uint64_t)n));
  keep(d, tag, number);
  fields = is_loose ? 0 : read_fields(d, n, keys);
  if (fields == n && (tag & MCH_TAG_META) == 0)
    return 1;
  frame = mch_decode_open_frame(d, is_loose ? LOOSE : RECORD, (uint64_t)n);
  frame->next = (uint64_t)fields;
  frame->shape = shape;
  frame->has_metatable = (tag & MCH_TAG_META) != 0;
  return 0;
}

/* Read a value. 1: it is on top of the stack. 0: a frame was opened for it. */
static int read_object(struct decoding *d, unsigned tag) {
  if (is_string_tag(tag)) {
    push_string(d, tag);
    return 1;
  }
  switch (tag & ~(unsigned)(MCH_TAG_KEPT | MCH_TAG_META)) {
  case MCH_TAG_TABLE:
    open_table(d, tag);
    return 0;
  case MCH_TAG_EARLY:
    open_ahead(d, tag);
    return 0;
  case MCH_TAG_SHAPED:
  case MCH_TAG_RECORD:
  case MCH_TAG_LOOSE:
    return read_record(d, tag);
  case MCH_TAG_FUNCTION:
    mch_decode_open_function(d, tag);
    return 0;
  case MCH_TAG_MODULE:
  case MCH_TAG_FIELD:
    mch_decode_read_name(d, tag);
    return 1;
  case MCH_TAG_ENV:
    mch_decode_read_environment(d, tag);
    return 1;
  case MCH_TAG_HOOK:
    mch_decode_open_hook(d, tag);
    return 0;
  default:
    mch_decode_malformed(d, "unknown tag");
  }
}

int mch_decode_read_value(struct decoding *d) {
  lua_State *L = d->L;
  unsigned tag = *take(d, 1);
  if (tag >= MCH_TAG_OBJECT)
    return read_object(d, tag);
  if (tag < MCH_TAG_SMALL) {
    lua_pushinteger(L, (lua_Integer)tag);
    return 1;
  }
  switch (tag) {
  case MCH_TAG_NIL:
    lua_pushnil(L);
    return 1;
  case MCH_TAG_FALSE:
  case MCH_TAG_TRUE:
    lua_pushboolean(L, tag == MCH_TAG_TRUE);
    return 1;
  case MCH_TAG_INT1:
  case MCH_TAG_INT2:
  case MCH_TAG_INT4:
  case MCH_TAG_INT8:
    lua_pushinteger(L,
                    (lua_Integer)mch_plain_load_integer(tag, take(d, mch_plain_integer_size(tag))));
    return 1;
  case MCH_TAG_FLOAT:
    lua_pushnumber(L, mch_plain_float(mch_load_u64(take(d, 8))));
    return 1;
  case MCH_TAG_LIGHT:
    lua_pushlightuserdata(L, (void *)(uintptr_t)mch_load_u64(take(d, 8)));
    return 1;
  case MCH_TAG_GLOBALS:
    lua_pushglobaltable(L);
    return 1;
  case MCH_TAG_REF:
    mch_decode_push_ref(d);
    return 1;
  default:
    mch_decode_malformed(d, "unknown tag");
  }
}
