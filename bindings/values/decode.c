/* Runs in: both.
 *
 * Bytes to Lua values; graph.h has the format and the interface. Trusts nothing: every number is
 * bounded before something is allocated by it, and a value is complete before anything sees it.
 * Metatables are set at the end, so that no finalizer meets a half-built object and no weak table
 * loses its entries on the way. */
#include "graph.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "ahead.h"
#include "bytecode.h"
#include "large.h"
#include "modules.h"
#include "path.h"
#include "plain.h"
#include "stack.h"

/* Stack slots of a decoding, above what the caller had. */
enum {
  SPILLS = 1,
  HEAP,
  REFS,      /* number -> object, for those that something refers to */
  SHAPES,    /* lists of keys, [0] their number */
  SETS,      /* assignments to be made: target, key, value ...; no key: a metatable */
  FALL_BACK, /* the metatable of environments that fall back on _G */
  KEYS,      /* those of some shapes: shape i has its place in line i % KEY_LINES */
  KEY_LINES = 4,
  AHEAD = KEYS + KEY_LINES * MCH_GRAPH_SMALL_TABLE, /* strings that are read ahead */
  AHEAD_MOST = 3,
  SLOTS = AHEAD + AHEAD_MOST - 1
};

enum { HEAP_FRAMES = MCH_HEAP_FIRST, HEAP_CODES };

enum frame_kind {
  ROOT,      /* the values of the message: they stay on the stack */
  HOOK,      /* likewise what rebuilds an object */
  ITEMS,     /* of a table */
  PAIRS,     /* of a table */
  RECORD,    /* a table of a known shape */
  LOOSE,     /* a table whose first fields are those of a shape */
  REST,      /* of a LOOSE table: pairs until the END */
  FUNCTION,  /* upvalues */
  METATABLE, /* of the object whose contents are complete */
  ASSIGNED   /* target, key, value: what follows the values of ROOT and HOOK */
};

/* An object whose parts are being read. It is at `place`; a part that is read comes on top. */
struct frame {
  enum frame_kind kind;
  int has_metatable; /* follows the contents */
  size_t place;
  uint64_t next, count; /* parts read, and to read */
  uint64_t pairs;       /* ITEMS: how many follow the items */
  uint64_t shape;       /* RECORD, LOOSE */
  uint64_t number;      /* HOOK: its object's */
  unsigned tag;         /* likewise */
  int has_key;          /* PAIRS: the key is read */
  int has_sets;         /* ROOT, HOOK: the assignments behind the values are read */
  lua_Integer from;     /* HOOK: its first assignment */
};

struct code {
  const char *bytes;
  size_t length;
  uint32_t id; /* by which the caller knows it, or 0 */
};

enum { FRAMES_START = 12, CODES_START = 4 };

struct decoding {
  lua_State *L;
  struct mch_decoder *from;
  const unsigned char *at, *end;
  int slots;
  int notes, makers;         /* stack indices, or 0 */
  int tables_ahead;          /* likewise: the tables of which a part came ahead */
  uint64_t values;           /* of the message that are complete */
  uint64_t objects;          /* numbered so far */
  uint64_t shapes;           /* known so far */
  uint64_t lines[KEY_LINES]; /* which shape is in the line; UINT64_MAX: none */
  int line_keys[KEY_LINES];  /* how many keys it has */
  uint64_t credit;           /* how many more entries may be allocated ahead */
  lua_Integer sets;          /* triples in SETS */
  int ahead, ahead_next;     /* strings in AHEAD, and the first that was not come to */
  const unsigned char *ahead_at[AHEAD_MOST]; /* where their bytes are */
  struct mch_stack stack;
  struct mch_array frames; /* struct frame */
  struct mch_array codes;  /* struct code */
  struct frame start[FRAMES_START];
  struct code start_codes[CODES_START];
};

/* ---- failures ---- */

static struct frame *innermost(struct decoding *d) {
  return (struct frame *)d->frames.items + d->frames.count - 1;
}

static int frame_at(struct decoding *d, const struct frame *frame) {
  return mch_stack_at(&d->stack, frame->place);
}

static void tell_step(struct decoding *d, struct mch_path *path, const struct frame *frame) {
  int at = frame_at(d, frame);
  switch (frame->kind) {
  case ITEMS:
    mch_path_index(path, (lua_Integer)frame->next + 1);
    break;
  case FUNCTION:
    mch_path_upvalue(path, d->L, at, (int)frame->next + 1);
    break;
  case METATABLE:
    mch_path_step(path, ".(metatable)");
    break;
  case HOOK:
    if (!frame->has_sets)
      mch_path_step(path, ".(__mantichora)");
    break;
  case ASSIGNED:
    lua_pushglobaltable(d->L);
    mch_path_set(path, lua_rawequal(d->L, -1, at + 1),
                 frame->next == 2 && lua_type(d->L, at + 2) == LUA_TSTRING
                     ? lua_tostring(d->L, at + 2)
                     : NULL);
    break;
  case PAIRS:
  case REST:
    if (frame->has_key)
      mch_path_key(path, d->L, at + 1);
    else
      mch_path_step(path, "[?]");
    break;
  default:
    mch_path_key(path, d->L, at + 1);
  }
}

/* Raise the message on top of the stack, with the path to the value at hand. */
_Noreturn static void fail(struct decoding *d) {
  struct mch_path path;
  lua_State *L = d->L;
  lua_replace(L, d->slots + REFS);
  mch_path_begin(&path);
  while (d->frames.count > 0) {
    struct frame *frame = innermost(d);
    if (frame->kind == ROOT) {
      if (frame->next < frame->count) /* else it is in an assignment */
        mch_path_root(&path, d->from->kind, (int)frame->next);
    } else if (!mch_path_full(&path)) {
      mch_stack_reach(&d->stack, frame->place);
      tell_step(d, &path, frame);
      lua_settop(L, frame_at(d, frame) - 1);
    }
    d->frames.count--;
  }
  mch_path_push(&path, L);
  luaL_error(L, "cannot rebuild %s: %s", lua_tostring(L, -1), lua_tostring(L, d->slots + REFS));
  abort(); /* not reached */
}

_Noreturn static void malformed(struct decoding *d, const char *what) {
  luaL_error(d->L, "malformed message: %s at byte %d", what, (int)(d->at - d->from->bytes));
  abort(); /* not reached */
}

/* ---- bytes ---- */

static inline size_t left(const struct decoding *d) {
  return (size_t)(d->end - d->at);
}

/* The next `count` bytes. */
static inline const unsigned char *take(struct decoding *d, size_t count) {
  const unsigned char *bytes = d->at;
  if (count > left(d))
    malformed(d, "cut short");
  d->at += count;
  return bytes;
}

static uint64_t long_varint(struct decoding *d) {
  uint64_t value;
  const char *wrong = mch_plain_load_varint(&d->at, d->end, &value);
  if (wrong != NULL)
    malformed(d, wrong);
  return value;
}

static inline uint64_t take_varint(struct decoding *d) {
  if (d->at < d->end && *d->at < 0x80)
    return *d->at++;
  return long_varint(d);
}

static inline int next_is(const struct decoding *d, unsigned tag) {
  return d->at < d->end && *d->at == tag;
}

/* Is this tag next? Then it is read. */
static inline int take_tag(struct decoding *d, unsigned tag) {
  int is_next = next_is(d, tag);
  d->at += is_next;
  return is_next;
}

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

/* ---- objects ---- */

/* The object on top of the stack has this tag and number: keep it if something will refer to it. */
static inline void keep(struct decoding *d, unsigned tag, uint64_t number) {
  if ((tag & MCH_TAG_KEPT) == 0)
    return;
  if (lua_isnil(d->L, d->slots + REFS)) {
    lua_newtable(d->L);
    lua_replace(d->L, d->slots + REFS);
  }
  lua_pushvalue(d->L, -1);
  lua_rawseti(d->L, d->slots + REFS, (lua_Integer)number);
}

static void push_ref(struct decoding *d) {
  uint64_t number = take_varint(d);
  if (number >= d->objects || lua_isnil(d->L, d->slots + REFS) ||
      lua_rawgeti(d->L, d->slots + REFS, (lua_Integer)number) == LUA_TNIL)
    malformed(d, "reference to nothing");
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
      malformed(d, "string too long");
    lua_pushlstring(d->L, (const char *)take(d, (size_t)length), (size_t)length);
  }
  keep(d, tag, d->objects++);
}

static inline int is_string_tag(unsigned tag) {
  return tag >= MCH_TAG_OBJECT && (tag & ~(unsigned)MCH_TAG_KEPT) <= MCH_TAG_STRING;
}

/* Read a value that must be a string. */
static void read_string(struct decoding *d) {
  unsigned tag = *take(d, 1);
  if (tag == MCH_TAG_REF)
    push_ref(d);
  else if (is_string_tag(tag))
    push_string(d, tag);
  else
    malformed(d, "no string");
  if (lua_type(d->L, -1) != LUA_TSTRING)
    malformed(d, "no string");
}

/* Open a frame for the object on top of the stack. */
static struct frame *open_frame(struct decoding *d, enum frame_kind kind, uint64_t count) {
  struct frame *frame;
  mch_stack_reserve(&d->stack, lua_gettop(d->L));
  if (d->frames.count == d->frames.capacity)
    mch_array_grow(d->L, &d->frames, sizeof *frame, d->frames.count + 1, d->slots + HEAP,
                   HEAP_FRAMES);
  frame = (struct frame *)d->frames.items + d->frames.count++;
  *frame = (struct frame){.kind = kind, .count = count, .place = mch_stack_top(&d->stack)};
  return frame;
}

/* The table on top of the stack has its first `there` items already. */
static void open_items(struct decoding *d, unsigned tag, uint64_t there, uint64_t items,
                       uint64_t pairs) {
  struct frame *frame;
  if (items > LUA_MAXINTEGER || there > items)
    malformed(d, "too many items");
  keep(d, tag, d->objects++);
  frame = open_frame(d, ITEMS, items);
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
  if (d->tables_ahead == 0 || !mch_ahead_take(d->L, d->tables_ahead, table, there)) {
    lua_pushliteral(d->L, "not enough memory");
    fail(d);
  }
  open_items(d, tag, there, items, take_varint(d));
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
    malformed(d, "bad record");
  if (lua_isnil(d->L, d->slots + SHAPES)) {
    lua_newtable(d->L);
    lua_replace(d->L, d->slots + SHAPES);
  }
  lua_createtable(d->L, (int)n, 0);
  for (i = 1; i <= n; i++) {
    read_string(d);
    lua_rawseti(d->L, -2, (lua_Integer)i);
  }
  lua_rawseti(d->L, d->slots + SHAPES, (lua_Integer)++d->shapes);
  return d->shapes - 1;
}

/* ---- functions ---- */

static const char *read_code(lua_State *L, void *ud, size_t *size) {
  struct code *code = ud;
  const char *bytes = code->bytes;
  (void)L;
  *size = code->length;
  code->bytes = NULL;
  code->length = 0;
  return bytes;
}

static struct code new_code(struct decoding *d) {
  uint64_t length = take_varint(d);
  struct code code = {NULL, 0, 0};
  if (length > left(d))
    malformed(d, "code too long");
  code.length = (size_t)length;
  code.bytes = (const char *)take(d, code.length);
  if (d->codes.count == d->codes.capacity)
    mch_array_grow(d->L, &d->codes, sizeof code, d->codes.count + 1, d->slots + HEAP, HEAP_CODES);
  ((struct code *)d->codes.items)[d->codes.count++] = code;
  return code;
}

static struct code find_code(struct decoding *d) {
  uint64_t given = take_varint(d);
  struct code code = {NULL, 0, 0};
  if (given == 0)
    return new_code(d);
  if (given % 2 == 0) {
    if (given / 2 > d->codes.count)
      malformed(d, "unknown code");
    return ((struct code *)d->codes.items)[given / 2 - 1];
  }
  if (d->from->find_code != NULL && given / 2 <= UINT32_MAX) {
    code.id = (uint32_t)(given / 2);
    code.bytes = d->from->find_code(d->from->ud, code.id, &code.length);
  }
  if (code.bytes == NULL)
    malformed(d, "unknown code");
  return code;
}

/* Push what makes closures of this code, if it has come before. The second time it is made. The
 * hooks of tools need not see it at work. */
static int push_maker(struct decoding *d, const struct code *code) {
  lua_State *L = d->L;
  if (code->id == 0 || d->makers == 0 || lua_gethookmask(L) != 0)
    return 0;
  switch (lua_rawgeti(L, d->makers, code->id)) {
  case LUA_TFUNCTION:
    return 1;
  case LUA_TNIL:
    lua_pushboolean(L, 1);
    break;
  default:
    if (lua_toboolean(L, -1))
      mch_bytecode_push_maker(L, code->bytes, code->length);
    else
      lua_pushboolean(L, 0); /* there is none */
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, d->makers, code->id);
  lua_replace(L, -2);
  if (lua_isfunction(L, -1))
    return 1;
  lua_pop(L, 1);
  return 0;
}

static void open_function(struct decoding *d, unsigned tag) {
  struct code code;
  lua_Debug ar;
  if (!d->from->allow_code)
    malformed(d, "code is not allowed here");
  code = find_code(d);
  if (push_maker(d, &code))
    lua_call(d->L, 0, 1);
  else if (lua_load(d->L, read_code, &code, "=?", "b") != LUA_OK)
    fail(d);
  keep(d, tag, d->objects++);
  lua_pushvalue(d->L, -1);
  lua_getinfo(d->L, ">u", &ar);
  if (take_varint(d) != ar.nups)
    malformed(d, "wrong number of upvalues");
  open_frame(d, FUNCTION, ar.nups);
}

/* Let upvalue `next` of the function in the frame be an upvalue of another one. */
static void join_upvalue(struct decoding *d, struct frame *frame) {
  lua_State *L = d->L;
  uint64_t n;
  int function = frame_at(d, frame), owner;
  push_ref(d);
  owner = lua_gettop(L);
  n = take_varint(d);
  if (lua_type(L, owner) != LUA_TFUNCTION || lua_iscfunction(L, owner) || n == 0 || n > 255 ||
      lua_getupvalue(L, owner, (int)n) == NULL)
    malformed(d, "no such variable");
  lua_upvaluejoin(L, function, (int)frame->next + 1, owner, (int)n);
  lua_settop(L, owner - 1);
  frame->next++;
}

/* ---- names ---- */

static void read_name(struct decoding *d, unsigned tag) {
  lua_State *L = d->L;
  int top = lua_gettop(L);
  uint64_t number = d->objects++;
  read_string(d);
  if ((tag & 0xf) == (MCH_TAG_FIELD & 0xf))
    read_string(d);
  else
    lua_pushnil(L);
  if (!mch_modules_resolve(L, d->notes, top + 1, top + 2,
                           d->from->allow_code ? &d->from->called : NULL))
    fail(d);
  lua_copy(L, -1, top + 1);
  lua_settop(L, top + 1);
  keep(d, tag, number);
}

/* ---- environments and hooks ---- */

static void read_environment(struct decoding *d, unsigned tag) {
  lua_State *L = d->L;
  int fall_back = d->slots + FALL_BACK;
  lua_newtable(L);
  keep(d, tag, d->objects++);
  if ((tag & MCH_TAG_META) == 0)
    return;
  if (lua_isnil(L, fall_back)) {
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "__index");
    lua_pushglobaltable(L);
    lua_rawset(L, -3);
    lua_replace(L, fall_back);
  }
  lua_pushvalue(L, fall_back);
  lua_setmetatable(L, -2);
}

static void open_hook(struct decoding *d, unsigned tag) {
  struct frame *frame;
  uint64_t n = take_varint(d);
  if (!d->from->allow_code)
    malformed(d, "code is not allowed here");
  if (n == 0 || n > left(d) || n > INT_MAX)
    malformed(d, "bad hook");
  lua_pushnil(d->L);
  frame = open_frame(d, HOOK, n);
  frame->number = d->objects++;
  frame->tag = tag;
  frame->from = d->sets;
}

/* Note an assignment, the three values on top of the stack. Pops them. */
static void note_set(struct decoding *d) {
  lua_Integer i = 3 * d->sets++, part;
  if (lua_isnil(d->L, d->slots + SETS)) {
    lua_newtable(d->L);
    lua_replace(d->L, d->slots + SETS);
  }
  for (part = 3; part > 0; part--)
    lua_rawseti(d->L, d->slots + SETS, i + part);
}

/* Make the assignments from number `from` on: metatables first, while nothing depends on them. */
static void make_sets(struct decoding *d, lua_Integer from) {
  lua_State *L = d->L;
  lua_Integer i;
  int metatables, sets = d->slots + SETS;
  luaL_checkstack(L, 3, NULL);
  for (metatables = 1; metatables >= 0; metatables--) {
    for (i = from; i < d->sets; i++) {
      lua_rawgeti(L, sets, 3 * i + 1);
      if ((lua_rawgeti(L, sets, 3 * i + 2) == LUA_TNIL) == metatables) {
        lua_rawgeti(L, sets, 3 * i + 3);
        if (metatables) {
          lua_setmetatable(L, -3);
          lua_pop(L, 2);
        } else {
          lua_rawset(L, -3);
          lua_pop(L, 1);
        }
      } else {
        lua_pop(L, 2);
      }
    }
  }
  d->sets = from;
}

/* ---- values ---- */

static int read_value(struct decoding *d);

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
    malformed(d, "unknown shape");
  keys = use_shape(d, shape);
  n = d->line_keys[shape % KEY_LINES];
  lua_createtable(d->L, 0, allocate(d, (uint64_t)n));
  keep(d, tag, number);
  fields = is_loose ? 0 : read_fields(d, n, keys);
  if (fields == n && (tag & MCH_TAG_META) == 0)
    return 1;
  frame = open_frame(d, is_loose ? LOOSE : RECORD, (uint64_t)n);
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
  case MCH_TAG_AHEAD:
    open_ahead(d, tag);
    return 0;
  case MCH_TAG_SHAPED:
  case MCH_TAG_RECORD:
  case MCH_TAG_LOOSE:
    return read_record(d, tag);
  case MCH_TAG_FUNCTION:
    open_function(d, tag);
    return 0;
  case MCH_TAG_MODULE:
  case MCH_TAG_FIELD:
    read_name(d, tag);
    return 1;
  case MCH_TAG_ENV:
    read_environment(d, tag);
    return 1;
  case MCH_TAG_HOOK:
    open_hook(d, tag);
    return 0;
  default:
    malformed(d, "unknown tag");
  }
}

static int read_value(struct decoding *d) {
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
    push_ref(d);
    return 1;
  default:
    malformed(d, "unknown tag");
  }
}

/* ---- frames: read parts until one opens a frame (0) or the object is complete (1) ---- */

/* Put the part on top of the stack where it belongs. */
static void store_item(struct decoding *d, struct frame *frame) {
  lua_rawseti(d->L, frame_at(d, frame), (lua_Integer)++frame->next);
}

static void read_run(struct decoding *d, struct frame *frame, unsigned tag) {
  uint64_t n = take_varint(d);
  size_t width = mch_plain_run_width(tag);
  if (n > frame->count - frame->next || n > left(d) / width)
    malformed(d, "run too long");
  mch_plain_store_run(d->L, frame_at(d, frame), (lua_Integer)frame->next, tag,
                      take(d, (size_t)n * width), (size_t)n);
  frame->next += n;
}

static void skip_items(struct decoding *d, struct frame *frame) {
  uint64_t n = take_varint(d);
  if (n > frame->count - frame->next)
    malformed(d, "too many items");
  frame->next += n;
}

static int continue_items(struct decoding *d, struct frame *frame) {
  while (frame->next < frame->count) {
    unsigned tag = d->at < d->end ? *d->at : 0;
    if (tag >= MCH_TAG_RUN1 && tag <= MCH_TAG_RUNF) {
      d->at++;
      read_run(d, frame, tag);
    } else if (tag == MCH_TAG_SKIP) {
      d->at++;
      skip_items(d, frame);
    } else {
      if (!read_value(d))
        return 0;
      store_item(d, frame);
    }
  }
  frame->kind = PAIRS;
  frame->next = 0;
  frame->count = frame->pairs;
  return 1;
}

static void check_key(struct decoding *d) {
  if (lua_isnil(d->L, -1) ||
      (lua_type(d->L, -1) == LUA_TNUMBER && lua_tonumber(d->L, -1) != lua_tonumber(d->L, -1)))
    malformed(d, "bad key");
}

/* Take the part on top of the stack as a key, or as the value of the key beneath it. */
static void store_pair(struct decoding *d, struct frame *frame) {
  if (!frame->has_key) {
    check_key(d);
    frame->has_key = 1;
    return;
  }
  lua_rawset(d->L, frame_at(d, frame));
  frame->has_key = 0;
  frame->next++;
}

static int continue_pairs(struct decoding *d, struct frame *frame) {
  while (frame->next < frame->count) {
    if (!read_value(d))
      return 0;
    store_pair(d, frame);
  }
  return 1;
}

/* The key is beneath the value on top of the stack. */
static void store_field(struct decoding *d, struct frame *frame) {
  lua_rawset(d->L, frame_at(d, frame));
  frame->next++;
}

static int continue_record(struct decoding *d, struct frame *frame) {
  int record = frame_at(d, frame);
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
    malformed(d, "more fields than keys");
  frame->kind = REST;
}

static int continue_rest(struct decoding *d, struct frame *frame) {
  while (frame->has_key || !take_tag(d, MCH_TAG_END)) {
    if (!read_value(d))
      return 0;
    store_pair(d, frame);
  }
  return 1;
}

static int continue_loose(struct decoding *d, struct frame *frame) {
  if (!continue_record(d, frame))
    return 0;
  begin_rest(d, frame);
  return continue_rest(d, frame);
}

static void store_upvalue(struct decoding *d, struct frame *frame) {
  lua_setupvalue(d->L, frame_at(d, frame), (int)++frame->next);
}

static int continue_function(struct decoding *d, struct frame *frame) {
  while (frame->next < frame->count) {
    if (take_tag(d, MCH_TAG_CELL)) {
      join_upvalue(d, frame);
      continue;
    }
    if (!read_value(d))
      return 0;
    store_upvalue(d, frame);
  }
  return 1;
}

/* The metatable of the frame's object is on top of the stack: note the two for the end. */
static void store_metatable(struct decoding *d, struct frame *frame) {
  if (lua_type(d->L, -1) != LUA_TTABLE)
    malformed(d, "bad metatable");
  lua_pushvalue(d->L, frame_at(d, frame));
  lua_pushnil(d->L);
  lua_rotate(d->L, -3, -1);
  note_set(d);
  frame->next++;
}

static int continue_metatable(struct decoding *d, struct frame *frame) {
  if (frame->next == 0) {
    if (!read_value(d))
      return 0;
    store_metatable(d, frame);
  }
  return 1;
}

/* Parts of an assignment: target, key, value. */
static void store_assigned(struct decoding *d, struct frame *frame) {
  lua_State *L = d->L;
  switch (frame->next++) {
  case 0:
    if (lua_type(L, -1) != LUA_TTABLE)
      malformed(d, "bad target");
    lua_pushglobaltable(L);
    if (lua_rawequal(L, -1, -2) && !d->from->allow_code)
      malformed(d, "globals are not allowed here");
    lua_pop(L, 1);
    break;
  case 1:
    if (!lua_isnil(L, -1))
      check_key(d);
    break;
  default:
    if (lua_isnil(L, -2) && lua_type(L, -1) != LUA_TTABLE)
      malformed(d, "bad metatable");
    note_set(d);
    frame->next = 0;
  }
}

static int continue_assigned(struct decoding *d, struct frame *frame) {
  for (;;) {
    if (frame->next == 0) {
      unsigned tag = *take(d, 1);
      if (tag == MCH_TAG_END)
        return 1;
      if (tag != MCH_TAG_SET)
        malformed(d, "no assignment");
    }
    if (!read_value(d))
      return 0;
    store_assigned(d, frame);
  }
}

/* Values that stay on the stack, and the assignments behind them. */
static int continue_values(struct decoding *d, struct frame *frame) {
  while (frame->next < frame->count) {
    mch_stack_reserve(&d->stack, lua_gettop(d->L));
    if (!read_value(d))
      return 0;
    frame->next++;
    d->values += frame->kind == ROOT;
  }
  if (frame->has_sets)
    return 1;
  frame->has_sets = 1;
  if (take_tag(d, MCH_TAG_END))
    return 1;
  lua_pushnil(d->L);
  open_frame(d, ASSIGNED, 0);
  return 0;
}

/* Call what rebuilds an object: the function and its arguments are above the frame's place. */
static int continue_hook(struct decoding *d, struct frame *frame) {
  lua_State *L = d->L;
  int at;
  if (!continue_values(d, frame))
    return 0;
  mch_stack_reach(&d->stack, frame->place);
  make_sets(d, frame->from);
  at = frame_at(d, frame);
  d->from->called = 1;
  if (lua_pcall(L, (int)frame->count - 1, 1, 0) != LUA_OK) {
    const char *why = lua_tostring(L, -1);
    lua_pushfstring(L, "what its __mantichora returned failed: %s",
                    why != NULL ? why : "(no message)");
    fail(d);
  }
  if (lua_isnil(L, -1)) {
    lua_pushliteral(L, "what its __mantichora returned gave nil");
    fail(d);
  }
  lua_replace(L, at);
  keep(d, frame->tag, frame->number);
  return 1;
}

static int continue_parts(struct decoding *d, struct frame *frame) {
  switch (frame->kind) {
  case ROOT:
    return continue_values(d, frame);
  case HOOK:
    return continue_hook(d, frame);
  case ASSIGNED:
    return continue_assigned(d, frame);
  case ITEMS:
    return continue_items(d, frame) && continue_pairs(d, frame);
  case PAIRS:
    return continue_pairs(d, frame);
  case RECORD:
    return continue_record(d, frame);
  case LOOSE:
    return continue_loose(d, frame);
  case REST:
    return continue_rest(d, frame);
  case FUNCTION:
    return continue_function(d, frame);
  default:
    return continue_metatable(d, frame);
  }
}

static int continue_frame(struct decoding *d, struct frame *frame) {
  if (!continue_parts(d, frame))
    return 0;
  if (!frame->has_metatable)
    return 1;
  frame->has_metatable = 0;
  frame->kind = METATABLE;
  frame->next = 0;
  return continue_metatable(d, frame);
}

/* A part that had a frame of its own is complete and on top of the stack. */
static void store_part(struct decoding *d, struct frame *frame) {
  switch (frame->kind) {
  case ROOT:
  case HOOK:
    if (frame->has_sets) {
      lua_pop(d->L, 1); /* that was the frame of the assignments */
    } else {
      frame->next++;
      d->values += frame->kind == ROOT;
    }
    break;
  case ASSIGNED:
    store_assigned(d, frame);
    break;
  case ITEMS:
    store_item(d, frame);
    break;
  case PAIRS:
  case REST:
    store_pair(d, frame);
    break;
  case RECORD:
  case LOOSE:
    store_field(d, frame);
    break;
  case FUNCTION:
    store_upvalue(d, frame);
    break;
  case METATABLE:
    store_metatable(d, frame);
  }
}

static void begin(struct decoding *d, lua_State *L) {
  d->L = L;
  d->at = d->from->bytes;
  d->end = d->from->bytes + d->from->len;
  d->objects = d->shapes = 0;
  memset(d->lines, 0xff, sizeof d->lines);
  d->credit = d->from->len;
  d->notes = lua_isnil(L, 2) ? 0 : 2;
  d->makers = lua_isnil(L, 3) ? 0 : 3;
  d->tables_ahead = lua_isnil(L, 4) ? 0 : 4;
  d->sets = 0;
  d->ahead = d->ahead_next = 0;
  luaL_checkstack(L, SLOTS + MCH_STACK_ROOM, NULL);
  d->slots = lua_gettop(L);
  lua_settop(L, d->slots + SLOTS);
  d->stack = (struct mch_stack){L, d->slots + SLOTS + 1, d->slots + SPILLS, 0, 0};
  d->frames = (struct mch_array){d->start, 0, FRAMES_START, NULL};
  d->codes = (struct mch_array){d->start_codes, 0, CODES_START, NULL};
}

/* Bring the frame's object within reach. Those whose parts stay on the stack do not need theirs. */
static void reach_frame(struct decoding *d, const struct frame *frame) {
  if (frame->kind != ROOT && frame->kind != HOOK)
    mch_stack_reach(&d->stack, frame->place);
}

/* Read so many values, and if these are all of them, what follows them. */
static void read_values(struct decoding *d, uint64_t n, int are_all) {
  lua_pushnil(d->L);
  open_frame(d, ROOT, n)->has_sets = !are_all;
  for (;;) {
    if (!continue_frame(d, innermost(d)))
      continue; /* a new frame is innermost */
    if (--d->frames.count == 0)
      break;
    reach_frame(d, innermost(d));
    store_part(d, innermost(d));
  }
  mch_stack_reach(&d->stack, 0);
}

/* decode(decoding; notes, makers, tables that came ahead, each or nil): the values. */
static int decode(lua_State *L) {
  struct decoding *d = lua_touserdata(L, 1);
  uint64_t n;
  int are_all;
  begin(d, L);
  if (*take(d, 1) != MCH_GRAPH_VERSION)
    malformed(d, "unknown version");
  n = take_varint(d);
  if (n > left(d) || n > INT_MAX)
    malformed(d, "too many values");
  are_all = d->from->most == 0 || n <= (uint64_t)d->from->most;
  if (!are_all)
    n = (uint64_t)d->from->most;
  read_values(d, n, are_all);
  if (are_all && d->at != d->end)
    malformed(d, "more than one message");
  make_sets(d, 0);
  mch_heap_release(L, d->slots + HEAP);
  return (int)n;
}

/* Raise the error on top of the stack; when memory ran out, say where. */
static int raise_error(lua_State *L, const struct decoding *d, int status) {
  struct mch_path path;
  if (status != LUA_ERRMEM)
    return lua_error(L);
  mch_path_begin(&path);
  mch_path_root(&path, d->from->kind, (int)d->values);
  mch_path_push(&path, L);
  lua_pushfstring(L, "cannot rebuild %s: not enough memory", lua_tostring(L, -1));
  return lua_error(L);
}

enum { LARGE_FROM = 4 * 1024 * 1024 };

/* Push the value at this index of the caller's, or nil. */
static void push_given(lua_State *L, int index) {
  if (index != 0)
    lua_pushvalue(L, index);
  else
    lua_pushnil(L);
}

int mch_decode(lua_State *L, struct mch_decoder *decoder) {
  struct decoding d;
  struct mch_large pages;
  int top = lua_gettop(L), status;
  luaL_checkstack(L, 5, NULL);
  d.from = decoder;
  d.values = 0;
  lua_pushcfunction(L, decode);
  lua_pushlightuserdata(L, &d);
  push_given(L, decoder->notes);
  push_given(L, decoder->makers);
  push_given(L, decoder->ahead);
  if (decoder->len >= LARGE_FROM)
    mch_large_begin(L, &pages);
  status = lua_pcall(L, 4, LUA_MULTRET, 0);
  if (decoder->len >= LARGE_FROM)
    mch_large_end(L, &pages);
  return status == LUA_OK ? lua_gettop(L) - top : raise_error(L, &d, status);
}
