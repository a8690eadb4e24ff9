/* Runs in: both.
 *
 * How tables are read: their heads, then their contents, part by part. The mirror of
 * encode_table.c. */
#include "decoding.h"

#include <limits.h>

#include "early.h"
#include "runtime/base/buf.h"

/* ---- heads ---- */

/* How many of `wanted` entries to allocate at once: each takes a byte at least, so all tables
 * together cannot have more entries than the message has bytes. */
static int allocate(struct decoding *d, uint64_t wanted) {
  if (wanted > d->credit)
    wanted = d->credit;
  if (wanted > INT_MAX)
    wanted = INT_MAX;
  d->credit -= wanted;
  return (int)wanted;
}

/* The table on top of the stack has its first `there` elements already. */
static void open_elements(struct decoding *d, unsigned tag, uint64_t there, uint64_t elements,
                          uint64_t pairs) {
  struct frame *frame;
  if (elements > LUA_MAXINTEGER || there > elements)
    mch_decode_malformed(d, "too many elements");
  keep(d, tag, d->objects++);
  frame = mch_decode_open_frame(d, ARRAY, elements);
  frame->next = there;
  frame->pairs = pairs;
  frame->has_metatable = (tag & MCH_TAG_META) != 0;
}

void mch_decode_table(struct decoding *d, unsigned tag) {
  uint64_t elements = take_varint(d), pairs = take_varint(d);
  int array = allocate(d, elements);
  lua_createtable(d->L, array, allocate(d, pairs));
  open_elements(d, tag, 0, elements, pairs);
}

void mch_decode_early(struct decoding *d, unsigned tag) {
  uint64_t table = take_varint(d), there = take_varint(d), elements = take_varint(d);
  if (d->early_tables == 0 || !mch_early_take(d->L, d->early_tables, table, there)) {
    lua_pushliteral(d->L, "not enough memory");
    mch_decode_fail(d);
  }
  open_elements(d, tag, there, elements, take_varint(d));
}

/* Bring the keys of a shape to its line. Returns the stack index of the first. */
static int use_shape(struct decoding *d, uint64_t shape) {
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
    mch_decode_string(d);
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
    read_value(d);
    lua_rawset(d->L, record);
  }
  return i;
}

int mch_decode_record(struct decoding *d, unsigned tag) {
  uint64_t shape, number = d->objects++;
  struct frame *frame;
  int n, keys, fields, is_loose = (tag & 0xf) == (MCH_TAG_LOOSE & 0xf);
  if ((tag & 0xf) == (MCH_TAG_SHAPED & 0xf))
    shape = read_shape(d);
  else
    shape = take_varint(d);
  if (shape >= d->shapes)
    mch_decode_malformed(d, "unknown shape");
  keys = use_shape(d, shape);
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

/* ---- contents: read parts until one opens a frame (0) or the table is complete (1) ---- */

static void store_element(struct decoding *d, struct frame *frame) {
  lua_rawseti(d->L, mch_decode_frame_at(d, frame), (lua_Integer)++frame->next);
}

static void read_run(struct decoding *d, struct frame *frame, unsigned tag) {
  uint64_t n = take_varint(d);
  size_t width = mch_number_run_width(tag);
  if (n > frame->count - frame->next || n > left(d) / width)
    mch_decode_malformed(d, "run too long");
  mch_number_store_run(d->L, mch_decode_frame_at(d, frame), (lua_Integer)frame->next, tag,
                       take(d, (size_t)n * width), (size_t)n);
  frame->next += n;
}

static void skip_elements(struct decoding *d, struct frame *frame) {
  uint64_t n = take_varint(d);
  if (n > frame->count - frame->next)
    mch_decode_malformed(d, "too many elements");
  frame->next += n;
}

static int read_elements(struct decoding *d, struct frame *frame) {
  while (frame->next < frame->count) {
    unsigned tag = d->at < d->end ? *d->at : 0;
    if (tag >= MCH_TAG_RUN1 && tag <= MCH_TAG_RUNF) {
      d->at++;
      read_run(d, frame, tag);
    } else if (tag == MCH_TAG_SKIP) {
      d->at++;
      skip_elements(d, frame);
    } else {
      if (!read_value(d))
        return 0;
      store_element(d, frame);
    }
  }
  frame->kind = PAIRS;
  frame->next = 0;
  frame->count = frame->pairs;
  return 1;
}

/* Take the part on top of the stack as a key, or as the value of the key beneath it. */
static void store_pair(struct decoding *d, struct frame *frame) {
  if (!frame->has_key) {
    mch_decode_check_key(d);
    frame->has_key = 1;
    return;
  }
  lua_rawset(d->L, mch_decode_frame_at(d, frame));
  frame->has_key = 0;
  frame->next++;
}

static int read_pairs(struct decoding *d, struct frame *frame) {
  while (frame->next < frame->count) {
    if (!read_value(d))
      return 0;
    store_pair(d, frame);
  }
  return 1;
}

/* The key is beneath the value on top of the stack. */
static void store_field(struct decoding *d, struct frame *frame) {
  lua_rawset(d->L, mch_decode_frame_at(d, frame));
  frame->next++;
}

static int read_record(struct decoding *d, struct frame *frame) {
  int record = mch_decode_frame_at(d, frame);
  while (frame->next < frame->count) { /* a record among the fields may have taken the line */
    if (frame->kind == LOOSE && next_is(d, MCH_TAG_CUT))
      break;
    lua_pushvalue(d->L, use_shape(d, frame->shape) + (int)frame->next);
    if (!read_value(d))
      return 0;
    lua_rawset(d->L, record);
    frame->next++;
  }
  return 1;
}

/* The fields of a LOOSE table are complete. */
static void begin_rest(struct decoding *d, struct frame *frame) {
  if (!take_tag(d, MCH_TAG_CUT))
    mch_decode_malformed(d, "more fields than keys");
  frame->kind = REST;
}

static int read_rest(struct decoding *d, struct frame *frame) {
  while (frame->has_key || !take_tag(d, MCH_TAG_END)) {
    if (!read_value(d))
      return 0;
    store_pair(d, frame);
  }
  return 1;
}

static int read_loose(struct decoding *d, struct frame *frame) {
  if (!read_record(d, frame))
    return 0;
  begin_rest(d, frame);
  return read_rest(d, frame);
}

int mch_decode_contents(struct decoding *d, struct frame *frame) {
  switch (frame->kind) {
  case ARRAY:
    return read_elements(d, frame) && read_pairs(d, frame);
  case PAIRS:
    return read_pairs(d, frame);
  case RECORD:
    return read_record(d, frame);
  case LOOSE:
    return read_loose(d, frame);
  default:
    return read_rest(d, frame);
  }
}

void mch_decode_store(struct decoding *d, struct frame *frame) {
  switch (frame->kind) {
  case ARRAY:
    store_element(d, frame);
    break;
  case PAIRS:
  case REST:
    store_pair(d, frame);
    break;
  default:
    store_field(d, frame);
  }
}
