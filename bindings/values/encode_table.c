/* Runs in: both.
 *
 * Encodes tables: small ones in one go, records by their shape, large ones by a walk, numbers in
 * runs. */
#include "encoding.h"

#include <lauxlib.h>

#include "classes.h"

/* ---- records ---- */

static uint64_t hash_shape(const void **keys, size_t n) {
  uint64_t hash = n;
  size_t i;
  for (i = 0; i < n; i++)
    hash = (hash ^ (uint64_t)(uintptr_t)keys[i]) * UINT64_C(0x9e3779b97f4a7c15) ^ hash >> 29;
  return hash | UINT64_C(1) << 63;
}

/* Trust in a shape after a table that had its first key, but other ones behind. */
enum { DOUBT = -8 };

/* Where a shape is kept at hand. */
static struct shape *recent_shape(struct encoding *e, const void *first_key) {
  return &e->recent[mch_identity_hash((uint64_t)(uintptr_t)first_key) % RECENT_SHAPES];
}

/* What the keys make of a table, every second value from `first` on: a class if one of them is
 * __index, perhaps one if one is another metamethod's. */
static int kind_of_keys(const struct encoding *e, int first, int n) {
  int i, kind = NO_CLASS;
  for (i = 0; e->has_classes && i < n; i++) {
    if (!mch_classes_is_metamethod(e->L, first + 2 * i))
      continue;
    if (strcmp(lua_tostring(e->L, first + 2 * i), "__index") == 0)
      return MCH_CLASS;
    kind = MCH_MAYBE;
  }
  return kind;
}

/* Keep a shape at hand. Where another one was with the same first key, the tables behind that
 * cannot be known by it. */
static struct shape *use_shape(struct encoding *e, struct shape shape) {
  struct shape *recent = recent_shape(e, shape.first_key);
  shape.trust = recent->first_key == shape.first_key ? DOUBT : 1;
  *recent = shape;
  return recent;
}

static int has_keys(const struct encoding *e, size_t first, const void **keys, size_t n) {
  const void **known = (const void **)e->keys.elements + first;
  size_t i = 0;
  if (first + n > e->keys.count)
    return 0;
  while (i < n && known[i] == keys[i])
    i++;
  return i == n;
}

/* Find the shape with these keys: it is at hand then. NULL: there is none. */
static const struct shape *find_shape(struct encoding *e, const void **keys, size_t n,
                                      uint64_t hash, int kind) {
  const struct mch_met *met;
  struct mch_probe probe = mch_probe_first(&e->met, hash);
  while ((met = mch_identity_next(&e->met, hash, &probe)) != NULL)
    if (has_keys(e, (size_t)met->b, keys, n))
      return use_shape(e, (struct shape){keys[0], met->a, (size_t)met->b, n, 0, kind});
  return NULL;
}

static void add_shape(struct encoding *e, const void **keys, size_t n, uint64_t hash, int kind) {
  size_t before = e->keys.count;
  if (before + n > e->keys.capacity)
    mch_array_grow(e->L, &e->keys, sizeof *keys, before + n, e->slots + HEAP, HEAP_KEYS);
  if (e->shapes == 0)
    memset(e->recent, 0, sizeof e->recent);
  memcpy((const void **)e->keys.elements + before, keys, n * sizeof *keys);
  e->keys.count += n;
  use_shape(e, (struct shape){keys[0], e->shapes, before, n, 0, kind});
  mch_identity_add(&e->met, hash, e->shapes++, before);
}

static int are_strings(lua_State *L, int first, int n) {
  int i;
  for (i = 0; i < n; i++)
    if (lua_type(L, first + 2 * i) != LUA_TSTRING)
      return 0;
  return 1;
}

static inline void put_record_head(struct encoding *e, const struct shape *shape,
                                   unsigned metatable) {
  put_tag_varint(e, MCH_TAG_RECORD | metatable, shape->number);
}

/* The keys of the table at `at` make this of it. */
static inline void note_class(struct encoding *e, int at, int kind) {
  if (kind != NO_CLASS)
    mch_encode_class(e, at, (enum mch_class_kind)kind);
}

/* Begin a table all of whose keys are strings: after the first one of a shape the keys need not be
 * put. A shape is known by the addresses of its keys. 0: it has other keys. */
static int put_record(struct encoding *e, int first, int n, unsigned metatable) {
  const void *keys[MCH_GRAPH_SMALL_TABLE];
  const struct shape *shape;
  struct shape *recent;
  uint64_t hash;
  int i, kind;
  for (i = 0; i < n; i++)
    keys[i] = lua_topointer(e->L, first + 2 * i);
  recent = recent_shape(e, keys[0]);
  if (e->shapes > 0 && recent->first_key == keys[0] && recent->count == (size_t)n &&
      has_keys(e, recent->first, keys, (size_t)n)) {
    recent->trust++;
    note_class(e, first - 1, recent->is_class);
    put_record_head(e, recent, metatable);
    return 1;
  }
  if (!are_strings(e->L, first, n))
    return 0;
  hash = hash_shape(keys, (size_t)n);
  kind = kind_of_keys(e, first, n);
  note_class(e, first - 1, kind);
  shape = e->shapes > 0 ? find_shape(e, keys, (size_t)n, hash, kind) : NULL;
  if (shape != NULL) {
    put_record_head(e, shape, metatable);
    return 1;
  }
  add_shape(e, keys, (size_t)n, hash, kind);
  put_u8(e, MCH_TAG_SHAPED | metatable);
  put_varint(e, (uint64_t)n);
  for (i = 0; i < n; i++)
    mch_encode_string(e, first + 2 * i);
  return 1;
}

/* ---- records that are put while they are walked ---- */

enum { HAS_CONTENTS = 2 };

/* Put the value of this type at a stack index, if it is one without contents: DONE. */
static inline int put_flat(struct encoding *e, int at, int type) {
  if (type == LUA_TSTRING)
    return mch_encode_string(e, at);
  return put_scalar(e, at, type) ? DONE : HAS_CONTENTS;
}

/* The shape that a table with this first key most likely has, or NULL. */
static const struct shape *expect_shape(struct encoding *e, const void *first_key) {
  const struct shape *shape = recent_shape(e, first_key);
  if (first_key == NULL || e->shapes == 0 || shape->first_key != first_key || shape->trust <= 0)
    return NULL;
  return shape;
}

/* What a RECORD frame knows about the entry on top of the stack: the type of its value (or
 * LUA_TNONE: it is not the next field of the shape), or that there is none yet. */
enum { NO_ENTRY = -2 };

/* Put fields of a record, the first of which is on top of the stack, until one has contents or is
 * not the next of the shape. Returns how many; *type: of that one, or NO_ENTRY. */
static size_t put_flat_fields(struct encoding *e, const struct shape *shape, int table, int *type) {
  lua_State *L = e->L;
  const void *const *keys = (const void *const *)e->keys.elements + shape->first;
  size_t n = 0;
  for (;;) {
    *type = lua_type(L, table + 2);
    if (put_flat(e, table + 2, *type) != DONE)
      return n;
    lua_settop(L, table + 1);
    n++;
    if (!lua_next(L, table)) {
      *type = NO_ENTRY;
      return n;
    }
    if (n == shape->count || lua_topointer(L, table + 1) != keys[n]) {
      *type = LUA_TNONE;
      return n;
    }
  }
}

/* What was begun as a record is none after all. Its pairs follow, and END. */
static void put_loose(struct encoding *e, size_t tag_at, size_t keys) {
  *at_position(e, tag_at) ^= MCH_TAG_RECORD ^ MCH_TAG_LOOSE;
  put_u8(e, MCH_TAG_CUT);
  recent_shape(e, ((const void *const *)e->keys.elements)[keys])->trust = DOUBT;
}

static void put_loose_end(struct encoding *e, size_t tag_at, size_t keys) {
  put_loose(e, tag_at, keys);
  put_tag(e, MCH_TAG_END);
}

/* Put the table whose first key and value are on top of the stack as a record of this shape, as far
 * as it is one. Only what has contents, or a metatable, takes a frame. */
static int put_expected(struct encoding *e, const struct shape *shape, int table,
                        const struct look *look, unsigned metatable) {
  size_t count = shape->count, keys = shape->first, tag_at = position(e), n = 0;
  int type;
  struct frame *frame;
  meet_looked(e, look);
  note_class(e, table, e->has_classes ? shape->is_class : NO_CLASS);
  put_record_head(e, shape, metatable);
  if (e->listener == NULL)
    n = put_flat_fields(e, shape, table, &type);
  else
    type = lua_type(e->L, table + 2);
  if (type == NO_ENTRY) {
    if (n < count)
      put_loose_end(e, tag_at, keys);
    if (metatable == 0)
      return DONE;
  }
  frame = add_frame(e, type == NO_ENTRY ? ENDED : RECORD, mch_stack_place(&e->stack, table));
  frame->has_metatable = metatable != 0;
  frame->type = (signed char)type;
  frame->next = n;
  frame->count = count;
  frame->keys = keys;
  frame->tag_at = tag_at;
  mch_stack_reserve(&e->stack, table + 2);
  return OPENED;
}

/* ---- runs of numbers ---- */

enum { RUN_MOST = 1024, RUN_LEAST = 4 };

/* Numbers of one kind, collected from the elements of a table. */
struct run {
  int integers;
  size_t count;
  uint64_t bits; /* all bits that an integer among them has beyond its sign */
  uint64_t values[RUN_MOST];
};

/* A number with a fraction is a float: Lua need not be asked. */
static inline int has_fraction(lua_Number number) {
  const lua_Number exact = (lua_Number)((int64_t)1 << 52);
  return number > -exact && number < exact && (lua_Number)(int64_t)number != number;
}

/* Whether the value at this index is an integer: then it is added to a run of integers. */
static inline int add_integer(lua_State *L, struct run *run, int at) {
  uint64_t value;
  if (!lua_isinteger(L, at))
    return 0;
  value = (uint64_t)lua_tointegerx(L, at, NULL);
  run->bits |= value >> 63 ? ~value : value;
  run->values[run->count++] = value;
  return 1;
}

static inline int add_float(lua_State *L, struct run *run, int at) {
  lua_Number number;
  if (lua_type(L, at) != LUA_TNUMBER)
    return 0;
  number = lua_tonumberx(L, at, NULL);
  if (!has_fraction(number) && lua_isinteger(L, at))
    return 0;
  run->values[run->count++] = mch_number_bits_of_float(number);
  return 1;
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
  width = mch_number_run_width((unsigned)tag);
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
      put_float(e, run->values[i]);
  }
}

/* Go on to the next entry of the table: is it the element `next`? Each key is looked at: that the
 * walk gives the elements first, or in their order, is not promised. */
static inline int next_is_element(lua_State *L, int table, size_t next, int *more) {
  lua_settop(L, table + 1);
  *more = lua_next(L, table);
  return *more && lua_isinteger(L, table + 1) &&
         (uint64_t)lua_tointegerx(L, table + 1, NULL) == next;
}

/* Put the number on top of the stack, which is the next element, and the elements behind it that
 * are numbers of its kind. Returns as lua_next() does, with the first entry that is not among them.
 */
static int walk_numbers(struct encoding *e, struct frame *frame, int table) {
  lua_State *L = e->L;
  struct run run;
  size_t most = frame->array - frame->next + 1, next = frame->next;
  int more = 1;
  if (most > RUN_MOST)
    most = RUN_MOST;
  run.count = 0;
  run.bits = 0;
  run.integers = lua_isinteger(L, table + 2);
  if (run.integers)
    while (add_integer(L, &run, table + 2) && next_is_element(L, table, ++next, &more) &&
           run.count < most)
      ;
  else
    while (add_float(L, &run, table + 2) && next_is_element(L, table, ++next, &more) &&
           run.count < most)
      ;
  frame->next += run.count;
  put_run(e, &run);
  return more;
}

static int is_element(lua_State *L, const struct frame *frame) {
  return lua_isinteger(L, -2) && (uint64_t)lua_tointeger(L, -2) == frame->next &&
         frame->next <= frame->array;
}

enum { PIECE_RUNS = 16, EARLY_FROM = 4 * PIECE_RUNS * RUN_MOST };

/* Make a piece of the next numbers of the table, behind what the message has so far; the entry at
 * which the walk is stands on top of the stack. 0: they are not as many as a piece has. */
static int put_piece(struct encoding *e, struct frame *frame, int table, int *more) {
  int i;
  put_varint(e, e->early + 1);
  put_varint(e, frame->array);
  for (i = 0; i < PIECE_RUNS; i++) {
    size_t before = frame->next;
    if (!*more || lua_type(e->L, table + 2) != LUA_TNUMBER || !is_element(e->L, frame))
      return 0;
    *more = walk_numbers(e, frame, table);
    if (frame->next - before != RUN_MOST)
      return 0;
  }
  return 1;
}

/* Send the numbers with which the walk through the table on top of the stack begins before the
 * message, as many as fill pieces. */
static void send_early(struct encoding *e, struct frame *frame) {
  size_t before = position(e), sent = frame->next;
  int table = lua_gettop(e->L), more;
  lua_pushnil(e->L);
  more = lua_next(e->L, table);
  while (put_piece(e, frame, table, &more) &&
         e->to->send_early(e->to->ud, at_position(e, before), position(e) - before)) {
    sent = frame->next;
    e->out->length = e->out->read + before;
  }
  frame->next = sent;
  e->out->length = e->out->read + before;
  lua_settop(e->L, table);
}

/* ---- heads ---- */

/* The first key and value of a table are on top of the stack: push all others above them, in turn.
 * Returns the number of entries, or -1 when they are too many. */
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
static int count_elements(lua_State *L, int first, int n) {
  int i = 0;
  while (i < n && lua_isinteger(L, first + 2 * i) && lua_tointeger(L, first + 2 * i) == i + 1)
    i++;
  return i;
}

/* A table without contents, but with a metatable, may be a sentinel. */
static int is_sentinel(const struct encoding *e, int at, int n, unsigned metatable) {
  return n == 0 && metatable != 0 && e->has_classes && mch_modules_is_class(e->L, at);
}

static void put_small_table(struct encoding *e, struct frame *frame, int n, unsigned metatable) {
  int first = frame_at(e, frame) + 1;
  int elements = count_elements(e->L, first, n);
  if (is_sentinel(e, first - 1, n, metatable))
    mch_encode_class(e, first - 1, MCH_SENTINEL);
  frame->kind = SMALL;
  frame->count = (size_t)n;
  frame->array = (size_t)elements;
  if (n > 0 && elements == 0 && put_record(e, first, n, metatable)) {
    frame->values_only = 1;
    return;
  }
  note_class(e, first - 1, kind_of_keys(e, first + 2 * elements, n - elements));
  put_u8(e, MCH_TAG_TABLE | metatable);
  put_varint(e, (uint64_t)elements);
  put_varint(e, (uint64_t)(n - elements));
}

/* A varint that is not known yet takes PADDED bytes. */
enum { PADDED = 6 };

static void put_padded(unsigned char *to, uint64_t value) {
  int i;
  for (i = 0; i < PADDED - 1; i++, value >>= 7)
    to[i] = (unsigned char)(value | 0x80);
  to[i] = (unsigned char)(value & 0x7f);
}

/* A large table is walked. Its border says how many elements to expect, which is a guess and no
 * more: what the walk gives in another order goes as pairs. Their number turns out at the end. */
static void put_large_table(struct encoding *e, struct frame *frame, unsigned metatable) {
  const size_t most = SIZE_MAX / 2 - 1; /* below what `next` means at the end of a frame */
  lua_Unsigned border = lua_rawlen(e->L, -1);
  frame->array = border < most ? (size_t)border : most;
  frame->next = 1;
  if (frame->array >= EARLY_FROM && e->to->send_early != NULL)
    send_early(e, frame);
  if (frame->next > 1) {
    put_u8(e, MCH_TAG_EARLY | metatable);
    put_varint(e, ++e->early);
    put_varint(e, frame->next - 1);
  } else {
    put_u8(e, MCH_TAG_TABLE | metatable);
  }
  put_varint(e, frame->array);
  frame->count_at = position(e);
  put_padded(room(e, PADDED), 0);
  e->out->length += PADDED;
  if (frame->next > 1)
    lua_pushinteger(e->L, (lua_Integer)frame->next - 1); /* where the walk goes on */
  else
    lua_pushnil(e->L);
}

/* Put a table that has no name and no hook. Whoever opened a frame made room on the stack. */
static int put_contents(struct encoding *e, int at, int top, const struct look *look,
                        unsigned metatable) {
  lua_State *L = e->L;
  struct frame *frame;
  size_t place;
  int table = at, n = 0;
  if (table != top) {
    lua_pushvalue(L, at);
    table = top + 1;
  }
  lua_pushnil(L);
  if (lua_next(L, table)) {
    const void *key = lua_topointer(L, table + 1);
    const struct shape *shape = expect_shape(e, key);
    if (shape != NULL) {
      int status = put_expected(e, shape, table, look, metatable);
      if (status == DONE && table != at)
        lua_settop(L, top);
      return status;
    }
    mch_stack_room(&e->stack, table + 2);
    /* lua_next() begins with the elements, so a first key that is a string means that there are
     * few.
     */
    n = key == NULL && lua_rawlen(L, table) > MCH_GRAPH_SMALL_TABLE ? -1 : push_entries(L, table);
  }
  if (n < 0)
    lua_settop(L, table);
  place = mch_stack_place(&e->stack, table);
  mch_stack_reserve(&e->stack, lua_gettop(L));
  frame = add_frame(e, WALK, place);
  frame->has_metatable = metatable != 0;
  meet_looked(e, look);
  if (n >= 0)
    put_small_table(e, frame, n, metatable);
  else
    put_large_table(e, frame, metatable);
  return OPENED;
}

/* Has the metatable of the table at `at` a __call? Then that is a class: what it makes are its
 * instances. */
static int is_callable(struct encoding *e, int at) {
  lua_State *L = e->L;
  if (!lua_getmetatable(L, at))
    return 0;
  if (lua_topointer(L, -1) != e->last_metatable) {
    e->last_metatable = lua_topointer(L, -1);
    lua_pushliteral(L, "__call");
    e->last_is_callable = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return e->last_is_callable;
}

/* The table at `at` was met, and is used as a metatable now. One that went by its name, or by the
 * receiver's id, needs no id. */
static void note_metatable(struct encoding *e, int at) {
  const struct mch_met *met =
      mch_identity_find(&e->met, (uint64_t)(uintptr_t)lua_topointer(e->L, at));
  unsigned tag = *at_position(e, (size_t)met->b) & ~(unsigned)(MCH_TAG_KEPT | MCH_TAG_META);
  if (tag == MCH_TAG_TABLE || tag == MCH_TAG_SHAPED || tag == MCH_TAG_RECORD ||
      tag == MCH_TAG_LOOSE)
    mch_encode_class(e, at, MCH_CLASS);
  else
    e->last_class = lua_topointer(e->L, at);
}

/* The table at `at` has no name. If the receiver has it as its own class, say which: 1. If that may
 * be gone by now, it goes by value, too: 0. */
static int put_own(struct encoding *e, int at, const void *object, int as_metatable) {
  lua_State *L = e->L;
  lua_Integer id = e->modules.id;
  int is_known = 1;
  if (id == 0 || (MCH_CLASS_KIND(id) == MCH_SENTINEL && !mch_modules_is_class(L, at)) ||
      (MCH_CLASS_KIND(id) == MCH_MAYBE && !as_metatable && !mch_modules_is_class(L, at)))
    return 0;
  if (e->to->own != 0) {
    lua_pushvalue(L, at);
    is_known = lua_rawget(L, e->to->own) != LUA_TNIL;
    lua_pop(L, 1);
    if (!is_known)
      return 0;
  } else if (!e->returns_classes) {
    return 0;
  } else {
    is_known = !e->to->stands_alone && mch_classes_came(L, e->baseline, id);
  }
  if (is_known)
    meet(e, object);
  put_tag_varint(e, is_known ? MCH_TAG_CLASS : MCH_TAG_CLASS | MCH_TAG_META, (uint64_t)id);
  return is_known;
}

/* Put the table at `at`; `top` is the top of the stack. */
static int put_table(struct encoding *e, int at, int top, int as_metatable) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, at);
  const struct mch_met *met;
  unsigned metatable = 0;
  struct look look;
  if (object == e->globals) {
    if (e->to->reach != NULL)
      *e->to->reach |= MCH_REACH_ALL;
    return put_tag(e, MCH_TAG_GLOBALS);
  }
  met = look_up(e, object, &look);
  if (met != NULL) {
    if (mch_encode_is_partial(e, at))
      mch_wants_all(&e->wants, at);
    if (as_metatable && e->has_classes && object != e->last_class)
      note_metatable(e, at);
    return mch_encode_ref(e, met);
  }
  if (mch_modules_may_know(&e->modules, object) &&
      (mch_encode_name(e, at, object, as_metatable) || put_own(e, at, object, as_metatable)))
    return DONE;
  if (as_metatable && e->has_classes)
    mch_encode_class(e, at, MCH_CLASS);
  if (lua_getmetatable(L, at)) {
    int status;
    lua_pop(L, 1);
    metatable = MCH_TAG_META;
    status = mch_encode_hooked(e, at, object);
    if (status != DONE)
      return status;
    if (e->has_classes && is_callable(e, at))
      mch_encode_class(e, at, MCH_CLASS);
  }
  return put_contents(e, at, top, &look, metatable);
}

int mch_encode_table(struct encoding *e, int at, int as_metatable) {
  return put_table(e, at, lua_gettop(e->L), as_metatable);
}

/* ---- contents ---- */

static int put_metatable(struct encoding *e, struct frame *frame) {
  int status;
  if (!frame->has_metatable)
    return DONE;
  frame->has_metatable = 0;
  frame->next = SIZE_MAX;
  lua_settop(e->L, frame_at(e, frame));
  lua_getmetatable(e->L, frame_at(e, frame));
  status = mch_encode_part(e, lua_gettop(e->L), METATABLE);
  return status;
}

int mch_encode_small(struct encoding *e, struct frame *frame) {
  int first = frame_at(e, frame) + 1;
  size_t alone = frame->values_only ? frame->count : frame->array;
  size_t parts = alone + 2 * (frame->count - alone);
  if (frame->next < parts)
    lua_settop(e->L, first - 1 + 2 * (int)frame->count);
  while (frame->next < parts) {
    size_t part = frame->next++;
    int status = mch_encode_put(e, first + (int)(part < alone ? 2 * part + 1 : alone + part));
    if (status != DONE)
      return status;
  }
  return frame->next == SIZE_MAX ? DONE : put_metatable(e, frame);
}

/* Put what is missing until the element `to`. */
static void skip_elements(struct encoding *e, struct frame *frame, size_t to) {
  if (to > frame->next) {
    put_u8(e, MCH_TAG_SKIP);
    put_varint(e, to - frame->next);
    frame->next = to;
  }
}

/* The entry on top of the stack: an element in its turn, an element after some that are missing, or
 * a pair. */
static int put_entry(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  enum { GAP = 8 }; /* a larger one ends the elements */
  if (frame->next <= frame->array) {
    if (lua_isinteger(L, -2)) {
      uint64_t key = (uint64_t)lua_tointeger(L, -2);
      if (key >= frame->next && key <= frame->array && key - frame->next <= GAP) {
        skip_elements(e, frame, (size_t)key);
        frame->next++;
        return mch_encode_put(e, lua_gettop(L));
      }
    }
    skip_elements(e, frame, frame->array + 1);
  }
  frame->count++;
  frame->in_value = 1;
  if (e->has_classes && mch_classes_is_metamethod(L, -2))
    note_class(e, frame_at(e, frame), kind_of_keys(e, lua_gettop(L) - 1, 1));
  return mch_encode_put(e, lua_gettop(L) - 1);
}

static int finish_walk(struct encoding *e, struct frame *frame) {
  skip_elements(e, frame, frame->array + 1);
  if (frame->count_at == 0)
    put_tag(e, MCH_TAG_END);
  else
    put_padded(at_position(e, frame->count_at), frame->count);
  return put_metatable(e, frame);
}

int mch_encode_walk(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int table = frame_at(e, frame), status = DONE, more;
  if (frame->next == SIZE_MAX)
    return DONE;
  if (frame->in_value) {
    frame->in_value = 0;
    lua_settop(L, table + 2);
    status = mch_encode_put(e, table + 2);
    if (status != DONE)
      return status;
  }
  lua_settop(L, table + 1);
  more = lua_next(L, table);
  while (more) {
    if (lua_type(L, -1) == LUA_TNUMBER && is_element(L, frame)) {
      more = walk_numbers(e, frame, table);
      continue;
    }
    status = put_entry(e, frame);
    if (status == DONE && frame->in_value) {
      frame->in_value = 0;
      status = mch_encode_put(e, table + 2);
    }
    if (status != DONE)
      return status;
    lua_settop(L, table + 1);
    more = lua_next(L, table);
  }
  return finish_walk(e, frame);
}

/* Put the entry on top of the stack and all others behind it as pairs, since it is not the one that
 * was expected. */
static int leave_record(struct encoding *e, struct frame *frame) {
  int status;
  put_loose(e, frame->tag_at, frame->keys);
  note_class(e, frame_at(e, frame), kind_of_keys(e, frame_at(e, frame) + 1, 1));
  frame->kind = WALK;
  frame->array = frame->count_at = 0;
  frame->next = 1;
  status = put_entry(e, frame);
  return status == DONE ? mch_encode_walk(e, frame) : status;
}

/* Of the value on top of the stack; LUA_TNONE if its key is not that of the frame's next field. */
static int field_type(const struct encoding *e, const struct frame *frame, int table) {
  const void *const *keys = (const void *const *)e->keys.elements + frame->keys;
  if (frame->next == frame->count || lua_topointer(e->L, table + 1) != keys[frame->next])
    return LUA_TNONE;
  return lua_type(e->L, table + 2);
}

/* Put the value on top of the stack. */
static int put_field(struct encoding *e, int at, int type) {
  int status;
  if (e->listener != NULL)
    return mch_encode_put(e, at);
  if (type == LUA_TTABLE)
    return put_table(e, at, at, 0);
  status = put_flat(e, at, type);
  return status == HAS_CONTENTS ? mch_encode_put(e, at) : status;
}

static inline int put_fields(struct encoding *e, struct frame *frame) {
  lua_State *L = e->L;
  int table = frame_at(e, frame), type = frame->type;
  if (frame->next == SIZE_MAX)
    return DONE;
  frame->type = NO_ENTRY;
  for (;; type = NO_ENTRY) {
    int status;
    if (type == NO_ENTRY) {
      lua_settop(L, table + 1);
      if (!lua_next(L, table))
        break;
      type = field_type(e, frame, table);
    }
    if (type == LUA_TNONE)
      return leave_record(e, frame);
    frame->next++;
    status = put_field(e, table + 2, type);
    if (status != DONE)
      return status;
  }
  if (frame->next < frame->count)
    put_loose_end(e, frame->tag_at, frame->keys);
  return put_metatable(e, frame);
}

/* Is there a record around this one, to go on with when this one is complete? */
static int is_in_record(const struct encoding *e, const struct frame *frame) {
  return e->listener == NULL && e->frames.count > 1 && frame[-1].kind == RECORD;
}

/* Records in records are common: spare them the way through the main loop. */
int mch_encode_record(struct encoding *e, struct frame *frame) {
  for (;;) {
    int status = put_fields(e, frame);
    if (status == DONE && is_in_record(e, frame))
      e->frames.count--;
    else if (status != OPENED || innermost(e)->kind != RECORD)
      return status;
    frame = innermost(e);
    mch_stack_reach(&e->stack, frame->place);
  }
}

int mch_encode_ended(struct encoding *e, struct frame *frame) {
  return put_metatable(e, frame);
}
