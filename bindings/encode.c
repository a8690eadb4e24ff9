/* Runs in: both.
 *
 * Lua values to bytes; graph.h has the format and the interface. A walk over the graph with a stack
 * of its own: put() writes a value, or opens a frame for one that has contents, and the main loop
 * lets the innermost frame put its next part. */
#include "graph.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "bytecode.h"
#include "globals.h"
#include "identity.h"
#include "modules.h"
#include "path.h"
#include "stack.h"

/* Stack slots of an encoding, above what the caller had. */
enum {
  SPILLS = 1,
  HEAP,
  REASON,
  CODES,      /* of the notes: function -> id */
  KNOWN_USES, /* id -> uses, kept in the notes if there are any */
  USES,       /* number of inline code -> uses */
  HOOKS,      /* object -> list of what its __mantichora returned, [0] their number */
  ENVS,       /* environment that is put in part -> true */
  KIND,       /* of the part that is explained */
  WANTS,
  MODULES = WANTS + MCH_WANTS_SLOTS,
  SLOTS = MODULES + MCH_MODULES_SLOTS - 1
};

/* Arrays in the heap. */
enum { HEAP_FRAMES, HEAP_MET, HEAP_MET_SLOTS, HEAP_SHAPES, HEAP_DUMP, HEAP_MARKS };

enum frame_kind {
  ROOT,     /* the values of the message */
  HOOK,     /* what a __mantichora returned */
  SMALL,    /* a table, its entries on the stack */
  WALK,     /* a table, read with lua_next() */
  FUNCTION, /* its upvalues */
  SETS,     /* assignments behind the values of a message or a hook */
  SPREAD    /* assignments of all fields of an environment */
};

/* A value whose contents are being put. `next` counts the parts begun: the one at hand is next - 1.
 */
struct frame {
  enum frame_kind kind;
  int has_metatable; /* still to be put, after the contents */
  size_t place;      /* of the value; its working values are above it */
  size_t next;
  size_t array;    /* SMALL, WALK: items that go without their keys */
  size_t count;    /* SMALL: entries; WALK: pairs put; FUNCTION, ROOT, HOOK: parts */
  size_t count_at; /* WALK: where in the message the number of pairs belongs */
  int values_only; /* SMALL: a record */
  int in_value;    /* WALK, SPREAD: the key is put, its value is next */
  int indexed;     /* WALK: items are read by their index; lua_next() comes after them */
  size_t met;      /* FUNCTION: number of its entry in the map */
  size_t number;   /* HOOK: its object's */
  size_t outer;    /* HOOK: value of e->hook outside */
  size_t from;     /* ROOT, HOOK, SETS: its first assignment in the queue */
  size_t start;    /* where its value began, if the message is explained */
};

enum { FRAMES_START = 8 };

/* The keys of a record; `first` is their place among all. */
struct shape {
  const void *first_key; /* NULL: no shape */
  uint64_t number;
  size_t first, count;
  int is_flat; /* the last such record had only values without contents */
};

enum { RECENT_SHAPES = 8 };

/* What an assignment began with, to forget it if its value cannot be sent. */
struct mark {
  int global; /* it may be left out */
  size_t frame, position, met, keys, ids, queued, done, hook;
  uint64_t objects, shapes, codes;
};

/* What a part is to its whole. */
enum role { VALUE, METATABLE, ENVIRONMENT };

/* put(): what has become of the value. */
enum { REFUSED = -1, DONE = 0, OPENED = 1 };

struct encoding {
  lua_State *L;
  struct mch_encoder *to;
  struct mch_buf *out;
  size_t begin;           /* the message's place among the unread bytes of out */
  int slots;              /* SPILLS is at slots + SPILLS and so on */
  int first;              /* stack index of the first value */
  int notes;              /* absolute, or 0 */
  int explain;            /* likewise */
  const void *globals;    /* _G */
  uint64_t objects;       /* numbered so far */
  uint64_t shapes, codes; /* likewise */
  struct mch_stack stack;
  struct mch_array frames; /* struct frame */
  struct mch_array keys;   /* const void *: the keys of all shapes */
  struct mch_identity met;
  struct shape recent[RECENT_SHAPES];
  struct mch_wants wants;
  size_t hook;            /* one more than the number of the innermost HOOK frame; 0: none */
  const void *noted[2];   /* uses and environment whose names were queued last */
  struct mch_array marks; /* struct mark */
  struct mch_modules modules;
  struct frame start[FRAMES_START];
};

/* ---- bytes ---- */

/* Where the next `count` bytes go; NULL when there is no memory (latched in the buffer). */
static inline unsigned char *room(struct encoding *e, size_t count) {
  struct mch_buf *out = e->out;
  if (out->capacity - out->length < count && mch_buf_reserve(out, count) != 0)
    luaL_error(e->L, "not enough memory for the message");
  return out->data + out->length;
}

static inline void put_u8(struct encoding *e, unsigned value) {
  *room(e, 1) = (unsigned char)value;
  e->out->length++;
}

/* The number of bytes written so far: stays true when the buffer moves what is unread to its front.
 */
static inline size_t position(const struct encoding *e) {
  return mch_buf_unread(e->out);
}

static inline unsigned char *at_position(const struct encoding *e, size_t place) {
  return e->out->data + e->out->read + place;
}

static inline void put_varint(struct encoding *e, uint64_t value) {
  unsigned char *to = room(e, 10);
  size_t n = 0;
  for (; value >= 0x80; value >>= 7)
    to[n++] = (unsigned char)(value | 0x80);
  to[n++] = (unsigned char)value;
  e->out->length += n;
}

/* A varint that is not known yet takes PADDED bytes. */
enum { PADDED = 6 };

static void put_padded(unsigned char *to, uint64_t value) {
  int i;
  for (i = 0; i < PADDED - 1; i++, value >>= 7)
    to[i] = (unsigned char)(value | 0x80);
  to[i] = (unsigned char)(value & 0x7f);
}

static void put_bytes(struct encoding *e, const void *bytes, size_t count) {
  if (count == 0)
    return;
  memcpy(room(e, count), bytes, count);
  e->out->length += count;
}

/* ---- plain values ---- */

static int put_integer(struct encoding *e, lua_Integer value) {
  unsigned char *to = room(e, 9);
  uint64_t bits = (uint64_t)value;
  size_t n;
  if (value >= 0 && value < MCH_TAG_SMALL) {
    to[0] = (unsigned char)value;
    n = 1;
  } else if (value == (int8_t)value) {
    to[0] = MCH_TAG_INT1;
    to[1] = (unsigned char)bits;
    n = 2;
  } else if (value == (int16_t)value) {
    to[0] = MCH_TAG_INT2;
    mch_store_u16(to + 1, (uint16_t)bits);
    n = 3;
  } else if (value == (int32_t)value) {
    to[0] = MCH_TAG_INT4;
    mch_store_u32(to + 1, (uint32_t)bits);
    n = 5;
  } else {
    to[0] = MCH_TAG_INT8;
    mch_store_u64(to + 1, bits);
    n = 9;
  }
  e->out->length += n;
  return DONE;
}

static uint64_t float_bits(lua_Number value) {
  double number = (double)value;
  uint64_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

static int put_tag64(struct encoding *e, int tag, uint64_t bits) {
  unsigned char *to = room(e, 9);
  to[0] = (unsigned char)tag;
  mch_store_u64(to + 1, bits);
  e->out->length += 9;
  return DONE;
}

static int put_tag(struct encoding *e, int tag) {
  put_u8(e, (unsigned)tag);
  return DONE;
}

/* ---- objects ---- */

/* Say why the value cannot go. */
static int refuse(struct encoding *e, const char *why) {
  lua_pushstring(e->L, why);
  lua_replace(e->L, e->slots + REASON);
  return REFUSED;
}

/* Is this object being rebuilt by a hook whose values are being put? */
static int is_in_hook(const struct encoding *e, uint64_t number) {
  size_t hook = e->hook;
  while (hook != 0) {
    const struct frame *frame = (const struct frame *)e->frames.items + hook - 1;
    if (frame->number == number)
      return 1;
    hook = frame->outer;
  }
  return 0;
}

/* Refer to an object that the message has; tell the reader to keep it. */
static int put_ref(struct encoding *e, const struct mch_met *met) {
  if (e->hook != 0 && is_in_hook(e, met->a))
    return refuse(e, "what its __mantichora returned leads back to it");
  *at_position(e, met->b) |= MCH_TAG_KEPT;
  put_u8(e, MCH_TAG_REF);
  put_varint(e, met->a);
  return DONE;
}

/* Number the object whose tag is written next. */
static void meet(struct encoding *e, const void *object) {
  mch_identity_add(&e->met, (uint64_t)(uintptr_t)object, e->objects++, position(e));
}

static int put_bytes_of_string(struct encoding *e, const void *object, const char *s,
                               size_t length) {
  if (length > 1) { /* shorter ones are cheaper again than referred to */
    const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
    if (met != NULL)
      return put_ref(e, met);
    meet(e, object);
  } else {
    e->objects++;
  }
  if (length < 32) {
    unsigned char *to = room(e, 32);
    to[0] = (unsigned char)(MCH_TAG_SHORT | length);
    memcpy(to + 1, s, length);
    e->out->length += length + 1;
  } else {
    put_u8(e, MCH_TAG_STRING);
    put_varint(e, length);
    put_bytes(e, s, length);
  }
  return DONE;
}

static int put_string(struct encoding *e, int at) {
  size_t length;
  const char *s = lua_tolstring(e->L, at, &length);
  return put_bytes_of_string(e, lua_topointer(e->L, at), s, length);
}

static int put(struct encoding *e, int at);
static void explain_names(struct encoding *e);

/* If the value goes by name, put the name and return 1. */
static int put_name(struct encoding *e, int at, const void *object, int as_metatable) {
  lua_State *L = e->L;
  if (!mch_modules_may_know(&e->modules, object))
    return 0;
  if (!e->modules.opened)
    mch_modules_open(L, &e->modules, e->slots + MODULES, e->notes);
  if (!mch_modules_find(L, &e->modules, at, as_metatable))
    return 0;
  meet(e, object);
  put_u8(e, lua_isnil(L, -1) ? MCH_TAG_MODULE : MCH_TAG_FIELD);
  put_string(e, -2);
  if (!lua_isnil(L, -1))
    put_string(e, -1);
  lua_pop(L, 2);
  return 1;
}

/* Add a frame for the value at this place. */
static struct frame *add_frame(struct encoding *e, enum frame_kind kind, size_t place) {
  struct frame *frame;
  if (e->frames.count == e->frames.capacity)
    mch_array_grow(e->L, &e->frames, sizeof *frame, e->frames.count + 1, e->slots + HEAP,
                   HEAP_FRAMES);
  frame = (struct frame *)e->frames.items + e->frames.count++;
  memset(frame, 0, sizeof *frame);
  frame->kind = kind;
  frame->place = place;
  return frame;
}

/* Open a frame for the value at a stack index; a copy of it is now on top of the stack. */
static struct frame *open_frame(struct encoding *e, enum frame_kind kind, int at) {
  lua_pushvalue(e->L, at);
  mch_stack_reserve(&e->stack);
  return add_frame(e, kind, mch_stack_top(&e->stack));
}

static struct frame *innermost(struct encoding *e) {
  return (struct frame *)e->frames.items + e->frames.count - 1;
}

static int frame_at(struct encoding *e, const struct frame *frame) {
  return mch_stack_at(&e->stack, frame->place);
}

/* ---- hooks ---- */

/* Call the hook on top of the stack for the object at `at`; replaces it by the list of what it
 * returned. */
static int call_hook(struct encoding *e, int at) {
  lua_State *L = e->L;
  int hook = lua_gettop(L), n, i;
  lua_pushvalue(L, at);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK) {
    const char *why = lua_tostring(L, -1);
    lua_pushfstring(L, "its __mantichora failed: %s", why != NULL ? why : "(no message)");
    return refuse(e, lua_tostring(L, -1));
  }
  n = lua_gettop(L) - hook + 1;
  if (n == 0 || !lua_isfunction(L, hook))
    return refuse(e, "its __mantichora returned no function");
  luaL_checkstack(L, 4, NULL);
  lua_createtable(L, n, 1);
  lua_insert(L, hook);
  for (i = n; i > 0; i--)
    lua_rawseti(L, hook, i);
  lua_pushinteger(L, n);
  lua_rawseti(L, hook, 0);
  return DONE;
}

/* If the object at `at` has a hook, push the list of what it returned: OPENED. DONE: it has none.
 * The hook is called once for each object, and what it returned lives as long as the message. */
static int push_hooked(struct encoding *e, int at) {
  lua_State *L = e->L;
  int top = lua_gettop(L);
  if (!lua_getmetatable(L, at))
    return DONE;
  lua_pushliteral(L, "__mantichora");
  if (lua_rawget(L, -2) == LUA_TNIL) {
    lua_settop(L, top);
    return DONE;
  }
  lua_remove(L, -2);
  if (lua_isnil(L, e->slots + HOOKS)) {
    lua_newtable(L);
    lua_replace(L, e->slots + HOOKS);
  }
  lua_pushvalue(L, at);
  if (lua_rawget(L, e->slots + HOOKS) != LUA_TNIL) {
    lua_remove(L, -2);
    return OPENED;
  }
  lua_pop(L, 1);
  if (call_hook(e, at) != DONE)
    return REFUSED;
  lua_pushvalue(L, at);
  lua_pushvalue(L, -2);
  lua_rawset(L, e->slots + HOOKS);
  return OPENED;
}

/* Open a frame for an object that has a hook. DONE: it has none. */
static int put_hooked(struct encoding *e, int at, const void *object) {
  lua_State *L = e->L;
  struct frame *frame;
  int status = push_hooked(e, at);
  if (status != OPENED)
    return status;
  frame = open_frame(e, HOOK, -1);
  lua_rawgeti(L, -1, 0);
  frame->count = (size_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  frame->number = e->objects;
  frame->from = e->wants.queued;
  frame->outer = e->hook;
  e->hook = e->frames.count;
  e->noted[0] = NULL;
  meet(e, object);
  put_u8(e, MCH_TAG_HOOK);
  put_varint(e, frame->count);
  return OPENED;
}

/* ---- tables ---- */

/* The first key and value of a table are on top of the stack: push the others, key, value, key,
 * value
 * ... Returns the number of entries, or -1 (nothing is pushed) when they are too many. */
static int push_entries(lua_State *L, int table) {
  int n = 1;
  for (;; n++) {
    lua_pushvalue(L, -2);
    if (!lua_next(L, table))
      return n;
    if (n == MCH_GRAPH_SMALL_TABLE)
      return -1;
  }
}

/* The number of entries at the front whose keys are 1, 2, 3 ... */
static int count_items(lua_State *L, int first, int n) {
  int i = 0;
  while (i < n && lua_isinteger(L, first + 2 * i) && lua_tointeger(L, first + 2 * i) == i + 1)
    i++;
  return i;
}

static uint64_t hash_shape(const void **keys, size_t n) {
  uint64_t hash = n;
  size_t i;
  for (i = 0; i < n; i++)
    hash = (hash ^ (uint64_t)(uintptr_t)keys[i]) * UINT64_C(0x9e3779b97f4a7c15) ^ hash >> 29;
  return hash | UINT64_C(1) << 63;
}

/* Where a shape is kept at hand. */
static struct shape *recent_shape(struct encoding *e, const void *first_key) {
  return &e->recent[mch_identity_hash((uint64_t)(uintptr_t)first_key) % RECENT_SHAPES];
}

static int has_keys(const struct encoding *e, size_t first, const void **keys, size_t n) {
  const void **known = (const void **)e->keys.items + first;
  size_t i = 0;
  if (first + n > e->keys.count)
    return 0;
  while (i < n && known[i] == keys[i])
    i++;
  return i == n;
}

/* Find the shape with these keys: it is at hand then. NULL: there is none. */
static struct shape *find_shape(struct encoding *e, const void **keys, size_t n, uint64_t hash) {
  struct shape *shape = recent_shape(e, keys[0]);
  const struct mch_met *met;
  size_t probe = 0;
  while ((met = mch_identity_next(&e->met, hash, &probe)) != NULL) {
    if (has_keys(e, met->b, keys, n)) {
      *shape = (struct shape){keys[0], met->a, met->b, n, 0};
      return shape;
    }
  }
  return NULL;
}

static void add_shape(struct encoding *e, const void **keys, size_t n, uint64_t hash) {
  size_t before = e->keys.count;
  if (before + n > e->keys.capacity)
    mch_array_grow(e->L, &e->keys, sizeof *keys, before + n, e->slots + HEAP, HEAP_SHAPES);
  memcpy((const void **)e->keys.items + before, keys, n * sizeof *keys);
  e->keys.count += n;
  *recent_shape(e, keys[0]) = (struct shape){keys[0], e->shapes, before, n, 0};
  mch_identity_add(&e->met, hash, e->shapes++, before);
}

static int are_strings(lua_State *L, int first, int n) {
  int i;
  for (i = 0; i < n; i++)
    if (lua_type(L, first + 2 * i) != LUA_TSTRING)
      return 0;
  return 1;
}

static void put_record_head(struct encoding *e, const struct shape *shape, unsigned metatable) {
  put_u8(e, MCH_TAG_RECORD | metatable);
  put_varint(e, shape->number);
}

/* Begin a table all of whose keys are strings: after the first one of a shape the keys need not be
 * put. A shape is known by the addresses of its keys. 0: it has other keys. */
static int put_record(struct encoding *e, int first, int n, unsigned metatable) {
  const void *keys[MCH_GRAPH_SMALL_TABLE];
  const struct shape *shape;
  uint64_t hash;
  int i;
  for (i = 0; i < n; i++)
    keys[i] = lua_topointer(e->L, first + 2 * i);
  shape = recent_shape(e, keys[0]);
  if (shape->first_key == keys[0] && shape->count == (size_t)n &&
      has_keys(e, shape->first, keys, (size_t)n)) {
    put_record_head(e, shape, metatable);
    return 1;
  }
  if (!are_strings(e->L, first, n))
    return 0;
  hash = hash_shape(keys, (size_t)n);
  shape = find_shape(e, keys, (size_t)n, hash);
  if (shape != NULL) {
    put_record_head(e, shape, metatable);
    return 1;
  }
  add_shape(e, keys, (size_t)n, hash);
  put_u8(e, MCH_TAG_SHAPED | metatable);
  put_varint(e, (uint64_t)n);
  for (i = 0; i < n; i++)
    put_string(e, first + 2 * i);
  return 1;
}

/* A value that has no contents. */
struct flat {
  int tag;       /* INT8, FLOAT and STRING stand for integers, floats and strings of any size */
  uint64_t bits; /* or the string's length */
  const char *string;
  const void *object;
};

/* Take the value on top of the stack, if it is one without contents. */
static int take_flat(lua_State *L, struct flat *flat) {
  size_t length;
  switch (lua_type(L, -1)) {
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1)) {
      flat->tag = MCH_TAG_INT8;
      flat->bits = (uint64_t)lua_tointeger(L, -1);
    } else {
      flat->tag = MCH_TAG_FLOAT;
      flat->bits = float_bits(lua_tonumber(L, -1));
    }
    return 1;
  case LUA_TSTRING:
    flat->tag = MCH_TAG_STRING;
    flat->string = lua_tolstring(L, -1, &length);
    flat->bits = length;
    flat->object = lua_topointer(L, -1);
    return 1;
  case LUA_TBOOLEAN:
    flat->tag = lua_toboolean(L, -1) ? MCH_TAG_TRUE : MCH_TAG_FALSE;
    return 1;
  default:
    return 0;
  }
}

static void put_flat(struct encoding *e, const struct flat *flat) {
  switch (flat->tag) {
  case MCH_TAG_INT8:
    put_integer(e, (lua_Integer)flat->bits);
    break;
  case MCH_TAG_FLOAT:
    put_tag64(e, MCH_TAG_FLOAT, flat->bits);
    break;
  case MCH_TAG_STRING:
    put_bytes_of_string(e, flat->object, flat->string, (size_t)flat->bits);
    break;
  default:
    put_tag(e, flat->tag);
  }
}

/* Put the table at `table`, whose first key and value are on top of the stack, if it is a record of
 * this shape and has only values without contents: the common case among many records, made fast.
 * Else its first key and value are on top of the stack again. */
static int put_flat_record(struct encoding *e, struct shape *shape, int table, const void *object) {
  lua_State *L = e->L;
  struct flat flat[MCH_GRAPH_SMALL_TABLE];
  const void **keys = (const void **)e->keys.items + shape->first;
  size_t n = 0, i;
  do {
    if (n == shape->count || lua_topointer(L, -2) != keys[n])
      break;
    shape->is_flat = take_flat(L, &flat[n]);
    if (!shape->is_flat)
      break;
    n++;
    lua_pop(L, 1);
    if (!lua_next(L, table)) {
      if (n < shape->count)
        lua_pushnil(L);
      else
        n++;
      break;
    }
  } while (1);
  if (n <= shape->count) {
    lua_settop(L, table);
    lua_pushnil(L);
    lua_next(L, table);
    return 0;
  }
  meet(e, object);
  put_record_head(e, shape, 0);
  for (i = 0; i < shape->count; i++)
    put_flat(e, &flat[i]);
  return 1;
}

static void put_small_table(struct encoding *e, struct frame *frame, int n, unsigned metatable) {
  int first = frame_at(e, frame) + 1;
  int items = count_items(e->L, first, n);
  frame->kind = SMALL;
  frame->count = (size_t)n;
  frame->array = (size_t)items;
  if (n > 0 && items == 0 && put_record(e, first, n, metatable)) {
    frame->values_only = 1;
    return;
  }
  put_u8(e, MCH_TAG_TABLE | metatable);
  put_varint(e, (uint64_t)items);
  put_varint(e, (uint64_t)(n - items));
}

static int probe_next(lua_State *L) {
  return lua_next(L, 1) ? 2 : 0;
}

/* Are the items 1..n of the table on top of the stack in its array part? Then they can be read by
 * index, which is faster, and lua_next() from n gives all the others, since it begins with the
 * array part. n is a border, so the key n + 1 is not there; lua_next() takes an absent key only if
 * it lies within the array part, and raises otherwise. (No means: cannot be told.) */
static int is_array(lua_State *L, size_t n) {
  int top = lua_gettop(L), known;
  lua_pushcfunction(L, probe_next);
  lua_pushvalue(L, top);
  lua_pushinteger(L, (lua_Integer)n + 1);
  known = lua_pcall(L, 2, 0, 0) == LUA_OK;
  lua_settop(L, top);
  return known;
}

/* A large table is walked; its border tells how many items to expect, the number of pairs turns out
 * at the end. */
static void put_large_table(struct encoding *e, struct frame *frame, unsigned metatable) {
  enum { WORTH_PROBING = 64 };
  frame->array = (size_t)lua_rawlen(e->L, -1);
  frame->indexed = frame->array >= WORTH_PROBING && frame->array < LUA_MAXINTEGER &&
                   is_array(e->L, frame->array);
  frame->next = 1;
  put_u8(e, MCH_TAG_TABLE | metatable);
  put_varint(e, frame->array);
  frame->count_at = position(e);
  put_padded(room(e, PADDED), 0);
  e->out->length += PADDED;
  lua_pushnil(e->L);
}

/* Was the table at `at` met as an environment, of which only what the code names is put? */
static int is_partial(struct encoding *e, int at) {
  int partial;
  if (lua_isnil(e->L, e->slots + ENVS))
    return 0;
  lua_pushvalue(e->L, at);
  partial = lua_rawget(e->L, e->slots + ENVS) != LUA_TNIL;
  lua_pop(e->L, 1);
  return partial;
}

/* Put a table that has no name and no hook. */
static int put_contents(struct encoding *e, int at, const void *object, unsigned metatable) {
  lua_State *L = e->L;
  struct frame *frame;
  size_t place;
  int table, n = 0;
  lua_pushvalue(L, at);
  table = mch_stack_room(&e->stack);
  place = mch_stack_place(&e->stack, table);
  lua_pushnil(L);
  if (lua_next(L, table)) {
    const void *key = lua_topointer(L, -2);
    struct shape *shape = recent_shape(e, key);
    if (key != NULL && shape->first_key == key && shape->is_flat && metatable == 0 &&
        put_flat_record(e, shape, table, object)) {
      lua_settop(L, table - 1);
      return DONE;
    }
    /* lua_next() begins with the items, so a first key that is a string means that there are few.
     */
    n = key == NULL && lua_rawlen(L, table) > MCH_GRAPH_SMALL_TABLE ? -1 : push_entries(L, table);
  }
  if (n < 0)
    lua_settop(L, table);
  mch_stack_reserve(&e->stack);
  frame = add_frame(e, WALK, place);
  frame->has_metatable = metatable != 0;
  meet(e, object);
  if (n >= 0)
    put_small_table(e, frame, n, metatable);
  else
    put_large_table(e, frame, metatable);
  return OPENED;
}

static int put_table(struct encoding *e, int at, int as_metatable) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met;
  unsigned metatable = 0;
  if (object == e->globals)
    return put_tag(e, MCH_TAG_GLOBALS);
  met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  if (met != NULL) {
    if (is_partial(e, at))
      mch_wants_all(&e->wants, at);
    return put_ref(e, met);
  }
  if (put_name(e, at, object, as_metatable))
    return DONE;
  if (lua_getmetatable(L, at)) {
    int status;
    lua_pop(L, 1);
    metatable = MCH_TAG_META;
    status = put_hooked(e, at, object);
    if (status != DONE)
      return status;
  }
  return put_contents(e, at, object, metatable);
}

/* ---- functions ---- */

static int write_dump(lua_State *L, const void *bytes, size_t count, void *ud) {
  struct mch_buf *dump = ud;
  (void)L;
  if (count > dump->capacity - dump->length) { /* comes in many small pieces */
    mch_buf_append(dump, bytes, count);
    return dump->failed;
  }
  memcpy(dump->data + dump->length, bytes, count);
  dump->length += count;
  return 0;
}

static uint64_t hash_bytes(const unsigned char *bytes, size_t count) {
  uint64_t hash = count;
  for (; count >= 8; bytes += 8, count -= 8)
    hash = (hash ^ mch_load_u64(bytes)) * UINT64_C(0x9e3779b97f4a7c15) ^ hash >> 31;
  for (; count > 0; bytes++, count--)
    hash = (hash ^ *bytes) * UINT64_C(0x9e3779b97f4a7c15);
  return hash ^ hash >> 32;
}

/* Keys of code in the map: bytes of this message by hash, ids of the dictionary by themselves. */
#define INLINE_CODE(hash) (((hash) >> 2) | UINT64_C(2) << 62)
#define CODE_ID(id) ((id) | UINT64_C(3) << 62)

static void put_code_id(struct encoding *e, uint32_t id) {
  if (e->to->code_ids != NULL && mch_identity_find(&e->met, CODE_ID(id)) == NULL) {
    mch_identity_add(&e->met, CODE_ID(id), id, 0);
    mch_buf_u32(e->to->code_ids, id);
    if (e->to->code_ids->failed != 0)
      luaL_error(e->L, "not enough memory");
  }
  put_varint(e, (uint64_t)id * 2 + 1);
}

/* Returns the number of the code in this message. */
static uint64_t put_inline_code(struct encoding *e, const struct mch_buf *dump) {
  uint64_t key = INLINE_CODE(hash_bytes(dump->data, dump->length)), number;
  const struct mch_met *met;
  size_t probe = 0;
  while ((met = mch_identity_next(&e->met, key, &probe)) != NULL) {
    if (met->a >> 32 == dump->length &&
        memcmp(at_position(e, met->b), dump->data, dump->length) == 0) {
      number = met->a & 0xffffffff;
      put_varint(e, number * 2);
      return number;
    }
  }
  put_varint(e, 0);
  put_varint(e, dump->length);
  number = ++e->codes;
  mch_identity_add(&e->met, key, (uint64_t)dump->length << 32 | number, position(e));
  put_bytes(e, dump->data, dump->length);
  return number;
}

/* The id by which the dictionary has the code of the function at this index, if that was found out
 * before; else 0. */
static uint32_t cached_id(struct encoding *e, int at) {
  lua_State *L = e->L;
  int codes = e->slots + CODES;
  uint32_t id = 0;
  if (e->to->intern_code == NULL || e->notes == 0)
    return 0;
  if (lua_isnil(L, codes)) {
    lua_rawgeti(L, e->notes, MCH_NOTES_CODES);
    lua_replace(L, codes);
  }
  lua_pushvalue(L, at);
  if (lua_rawget(L, codes) == LUA_TNUMBER)
    id = (uint32_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return id;
}

static void cache_id(struct encoding *e, int at, uint32_t id) {
  if (e->notes == 0)
    return;
  lua_pushvalue(e->L, at);
  lua_pushinteger(e->L, id);
  lua_rawset(e->L, e->slots + CODES);
}

/* The table at `slot`, taken from the notes or made when first needed. */
static int use_table(struct encoding *e, int slot, int part) {
  slot += e->slots;
  if (lua_isnil(e->L, slot)) {
    if (part != 0 && e->notes != 0)
      lua_rawgeti(e->L, e->notes, part);
    else
      lua_newtable(e->L);
    lua_replace(e->L, slot);
  }
  return slot;
}

/* Push what the function on top of the stack does with its environments. */
static void read_uses(struct encoding *e, const struct mch_buf *dump) {
  lua_State *L = e->L;
  int function = lua_gettop(L), n;
  unsigned char wanted[256];
  const char *name;
  for (n = 0; n < 255 && (name = lua_getupvalue(L, function, n + 1)) != NULL; n++) {
    lua_pop(L, 1);
    wanted[n] = strcmp(name, "_ENV") == 0 || name[0] == '('; /* stripped: it may be one */
  }
  mch_bytecode_uses(L, dump->data, dump->length, wanted, n);
}

/* The same, remembered in the table at `known` by this key. */
static void push_uses(struct encoding *e, int known, lua_Integer key, const struct mch_buf *dump) {
  lua_State *L = e->L;
  if (lua_rawgeti(L, known, key) != LUA_TNIL)
    return;
  lua_pop(L, 1);
  if (dump == NULL) { /* the notes have its id, but forgot this: take it as not known */
    lua_pushboolean(L, 1);
    return;
  }
  read_uses(e, dump);
  lua_pushvalue(L, -1);
  lua_rawseti(L, known, key);
}

/* Put the bytecode of the function on top of the stack. Pushes what it does with its environments.
 */
static void put_code(struct encoding *e) {
  struct mch_buf *dump;
  int at = lua_gettop(e->L);
  uint32_t id = cached_id(e, at);
  if (id != 0) {
    put_code_id(e, id);
    push_uses(e, use_table(e, KNOWN_USES, MCH_NOTES_USES), id, NULL);
    return;
  }
  dump = mch_heap_buf(e->L, e->slots + HEAP, HEAP_DUMP);
  mch_buf_clear(dump);
  if (lua_dump(e->L, write_dump, dump, 0) != 0 || dump->length > UINT32_MAX)
    luaL_error(e->L, "not enough memory");
  if (e->to->intern_code != NULL)
    id = e->to->intern_code(e->to->ud, (const char *)dump->data, dump->length);
  if (id == 0) {
    lua_Integer number = (lua_Integer)put_inline_code(e, dump);
    push_uses(e, use_table(e, USES, 0), number, dump);
    return;
  }
  put_code_id(e, id);
  push_uses(e, use_table(e, KNOWN_USES, MCH_NOTES_USES), id, dump);
  if (e->notes != 0)
    cache_id(e, at, id);
}

static size_t count_upvalues(lua_State *L) {
  lua_Debug ar;
  lua_pushvalue(L, -1);
  lua_getinfo(L, ">u", &ar);
  return ar.nups;
}

static int put_function(struct encoding *e, int at) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  struct frame *frame;
  if (met != NULL)
    return put_ref(e, met);
  if (lua_iscfunction(L, at) || cached_id(e, at) == 0) {
    if (put_name(e, at, object, 0))
      return DONE;
    if (lua_iscfunction(L, at))
      return refuse(e, "C function");
  }
  frame = open_frame(e, FUNCTION, at);
  frame->met = e->met.entries.count;
  frame->count = count_upvalues(L);
  meet(e, object);
  put_u8(e, MCH_TAG_FUNCTION);
  put_code(e);
  put_varint(e, frame->count);
  return OPENED;
}

/* Put an environment of which only what the code names goes, as assignments at the end. */
static int put_environment(struct encoding *e, int at) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  unsigned fall_back;
  if (met != NULL)
    return put_ref(e, met);
  if (put_name(e, at, object, 0))
    return DONE;
  fall_back = mch_globals_fall_back(L, at) ? MCH_TAG_META : 0;
  lua_pushvalue(L, at);
  lua_pushboolean(L, 1);
  lua_rawset(L, use_table(e, ENVS, 0));
  meet(e, object);
  return put_tag(e, (int)(MCH_TAG_ENV | fall_back));
}

/* The table on top of the stack is upvalue `i` of a function whose uses are below it: queue the
 * names that the code looks up in it, if it is an environment. 1: nothing more of it is needed. */
static int note_environment(struct encoding *e, int i, const char *name) {
  lua_State *L = e->L;
  int env = lua_gettop(L), uses = env - 1, whole;
  const void *object = lua_topointer(L, env);
  int custom = object != e->globals;
  if (!lua_istable(L, uses) || (custom && strcmp(name, "_ENV") != 0))
    return 0;
  if (lua_rawgeti(L, uses, i) == LUA_TNIL) {
    lua_pop(L, 1);
    return custom; /* not used at all */
  }
  lua_rawgeti(L, -1, 0);
  whole = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (e->noted[0] != lua_topointer(L, env + 1) || e->noted[1] != object) {
    int is_whole = whole || (custom && !is_partial(e, env) &&
                             mch_identity_find(&e->met, (uint64_t)(uintptr_t)object) != NULL);
    mch_wants_names(&e->wants, env, env + 1, is_whole);
    if (e->explain != 0 && !custom)
      explain_names(e);
    e->noted[0] = lua_topointer(L, env + 1);
    e->noted[1] = object;
  }
  lua_pop(L, 1);
  return custom && !whole;
}

/* ---- the rest ---- */

static int put_userdata(struct encoding *e, int at) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met = mch_identity_find(&e->met, (uint64_t)(uintptr_t)object);
  char why[80] = "userdata";
  int status;
  if (met != NULL)
    return put_ref(e, met);
  if (put_name(e, at, object, 0))
    return DONE;
  status = put_hooked(e, at, object);
  if (status != DONE)
    return status;
  if (lua_getmetatable(L, at)) {
    lua_pushliteral(L, "__name");
    if (lua_rawget(L, -2) == LUA_TSTRING)
      snprintf(why, sizeof why, "userdata (%s)", lua_tostring(L, -1));
    lua_pop(L, 2);
  }
  return refuse(e, why);
}

static int put_value(struct encoding *e, int at) {
  lua_State *L = e->L;
  switch (lua_type(L, at)) {
  case LUA_TNIL:
    return put_tag(e, MCH_TAG_NIL);
  case LUA_TBOOLEAN:
    return put_tag(e, lua_toboolean(L, at) ? MCH_TAG_TRUE : MCH_TAG_FALSE);
  case LUA_TNUMBER:
    if (lua_isinteger(L, at))
      return put_integer(e, lua_tointeger(L, at));
    return put_tag64(e, MCH_TAG_FLOAT, float_bits(lua_tonumber(L, at)));
  case LUA_TSTRING:
    return put_string(e, at);
  case LUA_TTABLE:
    return put_table(e, at, 0);
  case LUA_TFUNCTION:
    return put_function(e, at);
  case LUA_TLIGHTUSERDATA:
    return put_tag64(e, MCH_TAG_LIGHT, (uint64_t)(uintptr_t)lua_touserdata(L, at));
  case LUA_TUSERDATA:
    return put_userdata(e, at);
  default:
    return refuse(e, "coroutine (thread)");
  }
}

static int put_as(struct encoding *e, int at, enum role role) {
  if (role == VALUE)
    return put_value(e, at);
  return role == METATABLE ? put_table(e, at, 1) : put_environment(e, at);
}

/* ---- explaining: all parts are told to a function, and nothing is refused ---- */

static void tell_step(struct encoding *e, struct mch_path *path, const struct frame *frame);

/* Push "function <img.lua:12>", "userdata (FILE*)" or the type's name. */
static void push_kind(lua_State *L, int at) {
  if (lua_type(L, at) == LUA_TFUNCTION && lua_iscfunction(L, at))
    lua_pushliteral(L, "C function");
  else if (lua_type(L, at) == LUA_TFUNCTION)
    mch_path_function(L, at);
  else
    lua_pushstring(L, luaL_typename(L, at));
}

/* What became of a part, by the tag that was put for it. */
static const char *name_tag(unsigned tag) {
  if (tag < MCH_TAG_OBJECT)
    return tag == MCH_TAG_REF ? "shared" : tag == MCH_TAG_GLOBALS ? "globals" : "value";
  switch (tag & ~(unsigned)(MCH_TAG_KEPT | MCH_TAG_META)) {
  case MCH_TAG_MODULE:
  case MCH_TAG_FIELD:
    return "name";
  case MCH_TAG_HOOK:
    return "hook";
  case MCH_TAG_ENV:
    return "environment";
  default:
    return "value";
  }
}

/* Push how a part goes, and the name or the reason that belongs to it. */
static void push_how(struct encoding *e, int at, enum role role, int status, size_t start) {
  lua_State *L = e->L;
  const char *how = status == REFUSED ? "refused" : name_tag(*at_position(e, start));
  lua_pushstring(L, how);
  if (status == REFUSED)
    lua_pushvalue(L, e->slots + REASON);
  else if (strcmp(how, "name") == 0 && mch_modules_find(L, &e->modules, at, role == METATABLE)) {
    const char *field = lua_tostring(L, -1);
    lua_pushfstring(L, field != NULL ? "%s.%s" : "%s", lua_tostring(L, -2), field);
    lua_rotate(L, -3, 1);
    lua_pop(L, 2);
  } else
    lua_pushnil(L);
}

/* The number of the object that the reference at `start` names, or of the object that is there. */
static uint64_t object_number(const struct encoding *e, size_t start, uint64_t next) {
  const unsigned char *at = at_position(e, start);
  uint64_t number = 0;
  unsigned shift = 0;
  if (*at != MCH_TAG_REF)
    return next;
  do {
    at++;
    number |= (uint64_t)(*at & 0x7f) << shift;
    shift += 7;
  } while (*at >= 0x80);
  return number;
}

/* Call explain("part", level, step, tail, kind, how, detail, number, size or nil if it has parts).
 */
static int explain_part(struct encoding *e, int at, enum role role) {
  lua_State *L = e->L;
  struct mch_path step;
  size_t level = e->frames.count - 1, start = position(e);
  uint64_t number = e->objects;
  int status, kind = e->slots + KIND, top;
  mch_path_begin(&step);
  if (innermost(e)->kind == ROOT)
    mch_path_root(&step, e->to->kind, (int)innermost(e)->next - 1);
  else
    tell_step(e, &step, innermost(e));
  push_kind(L, at);
  lua_replace(L, kind);
  status = put_as(e, at, role);
  if (status == REFUSED)
    put_tag(e, MCH_TAG_NIL);
  if (status == OPENED)
    innermost(e)->start = start;
  top = lua_gettop(L);
  lua_pushvalue(L, e->explain);
  lua_pushliteral(L, "part");
  lua_pushinteger(L, (lua_Integer)level);
  mch_path_push_step(&step, L);
  lua_pushvalue(L, kind);
  push_how(e, at, role, status, start);
  lua_pushinteger(L, (lua_Integer)object_number(e, start, number));
  if (status == OPENED)
    lua_pushnil(L);
  else
    lua_pushinteger(L, (lua_Integer)(position(e) - start));
  lua_call(L, 9, 0);
  lua_settop(L, top);
  return status == OPENED ? OPENED : DONE;
}

/* Call explain("close", level, size) for a frame that is complete. */
static void explain_close(struct encoding *e, const struct frame *frame) {
  lua_pushvalue(e->L, e->explain);
  lua_pushliteral(e->L, "close");
  lua_pushinteger(e->L, (lua_Integer)e->frames.count - 1);
  lua_pushinteger(e->L, (lua_Integer)(position(e) - frame->start));
  lua_call(e->L, 3, 0);
}

/* Call explain("names", names) for the names on top of the stack that a function looks up in _G. */
static void explain_names(struct encoding *e) {
  lua_pushvalue(e->L, e->explain);
  lua_pushliteral(e->L, "names");
  lua_pushvalue(e->L, -3);
  lua_call(e->L, 2, 0);
}

static inline int put_part(struct encoding *e, int at, enum role role) {
  return e->explain == 0 ? put_as(e, at, role) : explain_part(e, at, role);
}

/* Put the value at this stack index. DONE, OPENED (a frame will put its contents) or REFUSED. */
static int put(struct encoding *e, int at) {
  return e->explain == 0 ? put_value(e, at) : explain_part(e, at, VALUE);
}

/* ---- frames: put parts until one opens a frame (OPENED), is REFUSED, or none is left (DONE) ----
 */

static int put_metatable(struct encoding *e, struct frame *frame) {
  int status;
  if (!frame->has_metatable)
    return DONE;
  frame->has_metatable = 0;
  frame->next = SIZE_MAX;
  lua_settop(e->L, frame_at(e, frame));
  lua_getmetatable(e->L, frame_at(e, frame));
  status = put_part(e, lua_gettop(e->L), METATABLE);
  return status;
}

/* Behind values come the assignments that they need. */
static int continue_sets_of(struct encoding *e, struct frame *frame) {
  size_t from = frame->from;
  if (frame->next == SIZE_MAX)
    return DONE;
  frame->next = SIZE_MAX;
  if (e->wants.queued == from)
    return put_tag(e, MCH_TAG_END);
  lua_pushnil(e->L);
  frame = open_frame(e, SETS, -1);
  frame->next = frame->from = from;
  return OPENED;
}

static int continue_root(struct encoding *e, struct frame *frame) {
  while (frame->next < frame->count) {
    int status = put(e, e->first + (int)frame->next++);
    if (status != DONE)
      return status;
  }
  return continue_sets_of(e, frame);
}

static int continue_hook(struct encoding *e, struct frame *frame) {
  int list = frame_at(e, frame);
  while (frame->next < frame->count) {
    int status;
    lua_settop(e->L, list);
    lua_rawgeti(e->L, list, (lua_Integer)++frame->next);
    status = put(e, list + 1);
    if (status != DONE)
      return status;
  }
  lua_settop(e->L, list);
  return continue_sets_of(e, frame);
}

/* The parts of a small table: its items, or the values of a record; then keys and values in turn.
 */
static int continue_small(struct encoding *e, struct frame *frame) {
  int first = frame_at(e, frame) + 1;
  size_t alone = frame->values_only ? frame->count : frame->array;
  size_t parts = alone + 2 * (frame->count - alone), begun = frame->next;
  while (frame->next < parts) {
    size_t part = frame->next++;
    int status = put(e, first + (int)(part < alone ? 2 * part + 1 : alone + part));
    if (status != DONE)
      return status;
  }
  if (begun == 0 && frame->values_only) /* none of them opened a frame */
    recent_shape(e, lua_topointer(e->L, first))->is_flat = 1;
  return frame->next == SIZE_MAX ? DONE : put_metatable(e, frame);
}

/* Put what is missing until the item `to`. */
static void skip_items(struct encoding *e, struct frame *frame, size_t to) {
  if (to > frame->next) {
    put_u8(e, MCH_TAG_SKIP);
    put_varint(e, to - frame->next);
    frame->next = to;
  }
}

enum { RUN_MOST = 1024, RUN_LEAST = 4 };

/* Numbers of one kind, collected from the items of a table. */
struct run {
  int integers;
  size_t count;
  uint64_t bits; /* all bits that an integer among them has beyond its sign */
  uint64_t values[RUN_MOST];
};

/* Add the number at this stack index. */
static inline void add_number(lua_State *L, struct run *run, int at) {
  uint64_t value;
  if (run->integers) {
    value = (uint64_t)lua_tointegerx(L, at, NULL);
    run->bits |= value >> 63 ? ~value : value;
  } else {
    value = float_bits(lua_tonumberx(L, at, NULL));
  }
  run->values[run->count++] = value;
}

static int run_tag(const struct run *run) {
  if (!run->integers)
    return MCH_TAG_RUNF;
  if (run->bits <= INT8_MAX)
    return MCH_TAG_RUN1;
  if (run->bits <= INT16_MAX)
    return MCH_TAG_RUN2;
  return run->bits <= INT32_MAX ? MCH_TAG_RUN4 : MCH_TAG_RUN8;
}

static void put_numbers(struct encoding *e, const struct run *run) {
  const uint64_t *values = run->values;
  size_t i, n = run->count, width;
  int tag = run_tag(run);
  unsigned char *to;
  put_u8(e, (unsigned)tag);
  put_varint(e, n);
  width = tag == MCH_TAG_RUNF ? 8 : (size_t)1 << (tag - MCH_TAG_RUN1);
  to = room(e, n * width);
  e->out->length += n * width;
  switch (width) {
  case 1:
    for (i = 0; i < n; i++)
      to[i] = (unsigned char)values[i];
    break;
  case 2:
    for (i = 0; i < n; i++)
      mch_store_u16(to + 2 * i, (uint16_t)values[i]);
    break;
  case 4:
    for (i = 0; i < n; i++)
      mch_store_u32(to + 4 * i, (uint32_t)values[i]);
    break;
  default:
    for (i = 0; i < n; i++)
      mch_store_u64(to + 8 * i, values[i]);
  }
}

/* Put a run; the numbers of a short one go one by one. */
static void put_run(struct encoding *e, const struct run *run) {
  size_t i;
  if (run->count >= RUN_LEAST) {
    put_numbers(e, run);
    return;
  }
  for (i = 0; i < run->count; i++) {
    if (run->integers)
      put_integer(e, (lua_Integer)run->values[i]);
    else
      put_tag64(e, MCH_TAG_FLOAT, run->values[i]);
  }
}

/* Collect numbers of one kind from the items at frame->next on. */
static void collect(lua_State *L, int table, const struct frame *frame, struct run *run) {
  enum { BLOCK = 32 }; /* read ahead so many, once there were some */
  int top = lua_gettop(L), block, i, read;
  do {
    size_t left = frame->array - frame->next + 1 - run->count;
    block = run->count < RUN_LEAST ? RUN_LEAST : BLOCK;
    if ((size_t)block > left)
      block = (int)left;
    if ((size_t)block > RUN_MOST - run->count)
      block = (int)(RUN_MOST - run->count);
    for (read = 0; read < block; read++)
      if (lua_rawgeti(L, table, (lua_Integer)(frame->next + run->count) + read) != LUA_TNUMBER)
        break;
    for (i = 1; i <= read && lua_isinteger(L, top + i) == run->integers; i++)
      add_number(L, run, top + i);
    lua_settop(L, top);
  } while (i > block && block > 0);
}

/* Put the items of an array by their index. Above the table is the item at hand. */
static int continue_indexed(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int table = frame_at(e, frame);
  while (frame->next <= frame->array) {
    struct run run;
    int status;
    lua_settop(L, table);
    if (lua_rawgeti(L, table, (lua_Integer)frame->next) != LUA_TNUMBER) {
      frame->next++;
      status = put(e, table + 1);
      if (status != DONE)
        return status;
      continue;
    }
    run.integers = lua_isinteger(L, table + 1);
    run.count = 0;
    run.bits = 0;
    collect(L, table, frame, &run);
    put_run(e, &run);
    frame->next += run.count;
  }
  frame->indexed = 0;
  lua_settop(L, table);
  lua_pushinteger(L, (lua_Integer)frame->array);
  return DONE;
}

static int is_item(lua_State *L, const struct frame *frame) {
  return lua_isinteger(L, -2) && (uint64_t)lua_tointeger(L, -2) == frame->next &&
         frame->next <= frame->array;
}

/* Put the number on top of the stack, which is the next item, and the items behind it that are
 * numbers of its kind. Returns as lua_next() does, with the first entry that is not among them. */
static int walk_numbers(struct encoding *e, struct frame *frame, int table) {
  lua_State *L = e->L;
  struct run run;
  int more;
  run.integers = lua_isinteger(L, -1);
  run.count = 0;
  run.bits = 0;
  do {
    add_number(L, &run, -1);
    frame->next++;
    lua_pop(L, 1);
    more = lua_next(L, table);
  } while (more && run.count < RUN_MOST && lua_type(L, -1) == LUA_TNUMBER &&
           lua_isinteger(L, -1) == run.integers && is_item(L, frame));
  put_run(e, &run);
  return more;
}

/* The entry on top of the stack: an item in its turn, an item after some that are missing, or a
 * pair. */
static int put_entry(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  enum { GAP = 8 }; /* a larger one ends the items */
  if (frame->next <= frame->array) {
    if (lua_isinteger(L, -2)) {
      uint64_t key = (uint64_t)lua_tointeger(L, -2);
      if (key >= frame->next && key <= frame->array && key - frame->next <= GAP) {
        skip_items(e, frame, (size_t)key);
        frame->next++;
        return put(e, lua_gettop(L));
      }
    }
    skip_items(e, frame, frame->array + 1);
  }
  frame->count++;
  frame->in_value = 1;
  return put(e, lua_gettop(L) - 1);
}

static int finish_walk(struct encoding *e, struct frame *frame) {
  skip_items(e, frame, frame->array + 1);
  put_padded(at_position(e, frame->count_at), frame->count);
  return put_metatable(e, frame);
}

/* Above the table are the key at hand and its value. */
static int continue_walk(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int table = frame_at(e, frame), status = DONE, more;
  if (frame->next == SIZE_MAX)
    return DONE;
  if (frame->indexed) {
    status = continue_indexed(e, frame);
    if (status != DONE)
      return status;
  }
  if (frame->in_value) {
    frame->in_value = 0;
    lua_settop(L, table + 2);
    status = put(e, table + 2);
    if (status != DONE)
      return status;
  }
  lua_settop(L, table + 1);
  more = lua_next(L, table);
  while (more) {
    if (lua_type(L, -1) == LUA_TNUMBER && is_item(L, frame)) {
      more = walk_numbers(e, frame, table);
      continue;
    }
    status = put_entry(e, frame);
    if (status == DONE && frame->in_value) {
      frame->in_value = 0;
      status = put(e, table + 2);
    }
    if (status != DONE)
      return status;
    lua_settop(L, table + 1);
    more = lua_next(L, table);
  }
  return finish_walk(e, frame);
}

/* Above the function is what it does with its environments, then the upvalue at hand. */
static int continue_function(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int function = frame_at(e, frame), value = function + 2;
  while (frame->next < frame->count) {
    int upvalue = (int)++frame->next, status, partial = 0;
    uint64_t id = (uint64_t)(uintptr_t)lua_upvalueid(L, function, upvalue);
    const struct mch_met *met;
    const char *name;
    lua_settop(L, value - 1);
    name = lua_getupvalue(L, function, upvalue);
    if (lua_istable(L, value))
      partial = note_environment(e, upvalue, name);
    met = mch_identity_find(&e->met, id);
    if (met != NULL) {
      const struct mch_met *owner = mch_identity_entry(&e->met, met->a);
      *at_position(e, owner->b) |= MCH_TAG_KEPT;
      put_u8(e, MCH_TAG_CELL);
      put_varint(e, owner->a);
      put_varint(e, met->b);
      continue;
    }
    mch_identity_add(&e->met, id, frame->met, (uint64_t)upvalue);
    status = put_part(e, value, partial ? ENVIRONMENT : VALUE);
    if (status != DONE)
      return status;
  }
  return DONE;
}

/* ---- assignments ---- */

static void push_mark(struct encoding *e, int global) {
  struct mark *mark;
  if (e->marks.count == e->marks.capacity)
    mch_array_grow(e->L, &e->marks, sizeof *mark, e->marks.count + 1, e->slots + HEAP, HEAP_MARKS);
  mark = (struct mark *)e->marks.items + e->marks.count++;
  mark->global = global;
  mark->frame = e->frames.count - 1;
  mark->position = position(e);
  mark->met = e->met.entries.count;
  mark->keys = e->keys.count;
  mark->ids = e->to->code_ids != NULL ? mch_buf_unread(e->to->code_ids) : 0;
  mark->queued = e->wants.queued;
  mark->done = e->wants.done;
  mark->hook = e->hook;
  mark->objects = e->objects;
  mark->shapes = e->shapes;
  mark->codes = e->codes;
}

/* A value cannot be sent: if that is in a global, leave it out and return 1. */
static int leave_out(struct encoding *e) {
  const struct mark *marks = e->marks.items, *mark;
  size_t i = e->marks.count;
  while (i > 0 && !marks[i - 1].global)
    i--;
  if (i == 0)
    return 0;
  mark = &marks[i - 1];
  e->marks.count = i;
  e->frames.count = mark->frame + 1;
  e->out->length = e->out->read + mark->position;
  if (e->to->code_ids != NULL)
    e->to->code_ids->length = e->to->code_ids->read + mark->ids;
  mch_identity_cut(&e->met, mark->met);
  mch_wants_cut(&e->wants, mark->queued, mark->done);
  e->keys.count = mark->keys;
  e->hook = mark->hook;
  e->objects = mark->objects;
  e->shapes = mark->shapes;
  e->codes = mark->codes;
  e->noted[0] = NULL;
  memset(e->recent, 0, sizeof e->recent);
  return 1;
}

/* Put the head of an assignment to the table at `target`. */
static void put_target(struct encoding *e, int target) {
  const void *object = lua_topointer(e->L, target);
  put_u8(e, MCH_TAG_SET);
  if (object == e->globals)
    put_u8(e, MCH_TAG_GLOBALS);
  else
    put_ref(e, mch_identity_find(&e->met, (uint64_t)(uintptr_t)object));
}

/* Put the assignment of target and name, the two values on top of the stack. */
static int put_set(struct encoding *e) {
  lua_State *L = e->L;
  int target = lua_gettop(L) - 1, name = target + 1;
  push_mark(e, lua_topointer(L, target) == e->globals);
  if (lua_type(L, name) != LUA_TSTRING) {
    open_frame(e, SPREAD, target);
    lua_pushnil(L);
    return OPENED;
  }
  put_target(e, target);
  put_string(e, name);
  if (lua_topointer(L, target) == e->globals) {
    lua_pushvalue(L, name);
    lua_rawget(L, target);
  } else if (mch_globals_find(L, target, name) <= 0) {
    lua_pushnil(L); /* a hook has just removed it */
  }
  return put(e, name + 1);
}

static int continue_sets(struct encoding *e, struct frame *frame) {
  for (;;) {
    int status;
    lua_settop(e->L, frame_at(e, frame));
    if (frame->in_value)
      e->marks.count--;
    frame->in_value = 0;
    if (frame->next >= e->wants.queued)
      break;
    if (!mch_wants_take(&e->wants, frame->next++))
      continue;
    frame->in_value = 1;
    status = put_set(e);
    if (status != DONE)
      return status;
  }
  mch_wants_cut(&e->wants, frame->from, e->wants.done);
  return put_tag(e, MCH_TAG_END);
}

/* Above the environment are the key at hand and its value. */
static int continue_spread(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int env = frame_at(e, frame), status;
  if (frame->next == SIZE_MAX)
    return DONE;
  for (;;) {
    if (!frame->in_value) {
      lua_settop(L, env + 1);
      if (!lua_next(L, env))
        break;
      put_target(e, env);
      frame->in_value = 1;
      status = put(e, env + 1);
      if (status != DONE)
        return status;
    }
    frame->in_value = 0;
    lua_settop(L, env + 2);
    status = put(e, env + 2);
    if (status != DONE)
      return status;
  }
  frame->next = SIZE_MAX;
  if (!lua_getmetatable(L, env))
    return DONE;
  put_target(e, env);
  put_u8(e, MCH_TAG_NIL);
  return put_part(e, env + 1, METATABLE);
}

static int continue_frame(struct encoding *e, struct frame *frame) {
  mch_stack_reach(&e->stack, frame->place);
  switch (frame->kind) {
  case ROOT:
    return continue_root(e, frame);
  case HOOK:
    return continue_hook(e, frame);
  case SMALL:
    return continue_small(e, frame);
  case WALK:
    return continue_walk(e, frame);
  case FUNCTION:
    return continue_function(e, frame);
  case SETS:
    return continue_sets(e, frame);
  default:
    return continue_spread(e, frame);
  }
}

static void close_frame(struct encoding *e, const struct frame *frame) {
  lua_settop(e->L, frame_at(e, frame) - 1);
  if (e->explain != 0 && frame->kind != ROOT)
    explain_close(e, frame);
  if (frame->kind == HOOK) {
    e->hook = frame->outer;
    e->noted[0] = NULL;
  }
  e->frames.count--;
}

/* ---- refusals ---- */

/* Tell the step from a frame to the part at hand. */
static void tell_step(struct encoding *e, struct mch_path *path, const struct frame *frame) {
  int at = frame_at(e, frame);
  size_t part = frame->next - 1, alone = frame->values_only ? frame->count : frame->array;
  switch (frame->kind) {
  case FUNCTION:
    mch_path_upvalue(path, e->L, at, (int)frame->next);
    break;
  case HOOK:
    if (frame->next != SIZE_MAX)
      mch_path_step(path, ".(__mantichora)");
    break;
  case SETS:
    mch_path_set(path, lua_topointer(e->L, at + 1) == e->globals, lua_tostring(e->L, at + 2));
    break;
  case SMALL:
    if (frame->next == SIZE_MAX)
      mch_path_step(path, ".(metatable)");
    else
      mch_path_key(path, e->L,
                   at + 1 + (int)(part < alone ? 2 * part : alone + (part - alone) / 2 * 2));
    break;
  default:
    if (frame->next == SIZE_MAX)
      mch_path_step(path, ".(metatable)");
    else if (frame->indexed)
      mch_path_index(path, (lua_Integer)part);
    else
      mch_path_key(path, e->L, at + 1);
  }
}

/* Push the path from the message to the part at hand. Takes the frames apart. */
static void push_path(struct encoding *e) {
  struct mch_path path;
  mch_path_begin(&path);
  while (e->frames.count > 0) {
    struct frame *frame = innermost(e);
    if (frame->kind == ROOT) {
      if (frame->next != SIZE_MAX) /* else it is in an assignment */
        mch_path_root(&path, e->to->kind, (int)frame->next - 1);
    } else if (!mch_path_full(&path)) {
      mch_stack_reach(&e->stack, frame->place);
      tell_step(e, &path, frame);
      lua_settop(e->L, frame_at(e, frame) - 1);
    }
    e->frames.count--;
  }
  mch_path_push(&path, e->L);
}

static int raise_refusal(struct encoding *e) {
  push_path(e);
  lua_pushvalue(e->L, e->slots + REASON);
  return luaL_error(e->L, "cannot send %s: %s", lua_tostring(e->L, -2), lua_tostring(e->L, -1));
}

static void begin(struct encoding *e, lua_State *L, struct mch_encoder *encoder, int first) {
  e->L = L;
  e->to = encoder;
  e->out = encoder->out;
  e->first = first;
  e->notes = encoder->notes != 0 ? lua_absindex(L, encoder->notes) : 0;
  e->explain = encoder->explain != 0 ? lua_absindex(L, encoder->explain) : 0;
  e->objects = e->shapes = e->codes = 0;
  luaL_checkstack(L, SLOTS + MCH_STACK_ROOM, NULL);
  e->slots = lua_gettop(L);
  lua_settop(L, e->slots + SLOTS);
  lua_pushglobaltable(L);
  e->globals = lua_topointer(L, -1);
  lua_pop(L, 1);
  e->stack = (struct mch_stack){L, e->slots + SLOTS + 1, e->slots + SPILLS, 0, 0};
  e->frames = (struct mch_array){e->start, 0, FRAMES_START, NULL};
  e->keys = (struct mch_array){NULL, 0, 0, NULL};
  e->marks = (struct mch_array){NULL, 0, 0, NULL};
  e->hook = 0;
  memset(e->recent, 0, sizeof e->recent);
  e->noted[0] = e->noted[1] = NULL;
  e->modules.opened = e->modules.filtered = 0;
  mch_wants_init(&e->wants, L, e->slots + WANTS, encoder->kind == MCH_SEND_TASK ? e->notes : 0);
  mch_identity_init(&e->met, L, e->slots + HEAP, HEAP_MET, HEAP_MET_SLOTS);
}

void mch_encode(lua_State *L, struct mch_encoder *encoder, int first, int n) {
  struct encoding e;
  struct frame *frame;
  int top = lua_gettop(L);
  first = lua_absindex(L, first);
  begin(&e, L, encoder, first);
  put_u8(&e, MCH_GRAPH_VERSION);
  put_varint(&e, (uint64_t)n);
  lua_pushnil(L);
  frame = open_frame(&e, ROOT, -1);
  frame->count = (size_t)n;
  while (e.frames.count > 0) {
    int status = continue_frame(&e, innermost(&e));
    if (status == DONE)
      close_frame(&e, innermost(&e));
    else if (status == REFUSED && !leave_out(&e))
      raise_refusal(&e);
  }
  mch_heap_release(L, e.slots + HEAP);
  lua_settop(L, top);
}
