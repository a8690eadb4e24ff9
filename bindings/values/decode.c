/* Runs in: both.
 *
 * Bytes to Lua values; graph.h has the format and the interface. The walk over the message, values
 * that are neither tables nor functions, what stands outside of them (hooks, assignments), and the
 * words for what cannot be rebuilt. The mirror of encode.c. Trusts nothing: every number is bounded
 * before something is allocated by it, and a value is complete before anything sees it. Metatables
 * are set at the end, so that no finalizer meets a half-built object and no weak table loses its
 * entries on the way. */

#include "decoding.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "classes.h"
#include "large.h"
#include "modules.h"
#include "path.h"

/* ---- failures ---- */

static struct frame *innermost(struct decoding *d) {
  return (struct frame *)d->frames.elements + d->frames.count - 1;
}

int mch_decode_frame_at(struct decoding *d, const struct frame *frame) {
  return mch_stack_at(&d->stack, frame->place);
}

static void add_step(struct decoding *d, struct mch_path *path, const struct frame *frame) {
  int at = mch_decode_frame_at(d, frame);
  switch (frame->kind) {
  case ARRAY:
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
_Noreturn void mch_decode_fail(struct decoding *d) {
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
      add_step(d, &path, frame);
      lua_settop(L, mch_decode_frame_at(d, frame) - 1);
    }
    d->frames.count--;
  }
  mch_path_push(&path, L);
  luaL_error(L, "cannot rebuild %s: %s", lua_tostring(L, -1), lua_tostring(L, d->slots + REFS));
  abort(); /* not reached */
}

_Noreturn void mch_decode_malformed(struct decoding *d, const char *what) {
  luaL_error(d->L, "malformed message: %s at byte %d", what, (int)(d->at - d->from->bytes));
  abort(); /* not reached */
}

uint64_t mch_decode_long_varint(struct decoding *d) {
  uint64_t value;
  const char *wrong = mch_number_load_varint(&d->at, d->end, &value);
  if (wrong != NULL)
    mch_decode_malformed(d, wrong);
  return value;
}

/* Open a frame for the object on top of the stack. */
struct frame *mch_decode_open_frame(struct decoding *d, enum frame_kind kind, uint64_t count) {
  struct frame *frame;
  mch_stack_reserve(&d->stack, lua_gettop(d->L));
  if (d->frames.count == d->frames.capacity)
    mch_array_grow(d->L, &d->frames, sizeof *frame, d->frames.count + 1, d->slots + HEAP,
                   HEAP_FRAMES);
  frame = (struct frame *)d->frames.elements + d->frames.count++;
  *frame = (struct frame){.kind = kind, .count = count, .place = mch_stack_top(&d->stack)};
  return frame;
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

/* Whether the assignment of the target and the key on top of the stack is to be made. */
static int is_wanted(struct decoding *d) {
  lua_State *L = d->L;
  int wanted;
  if (d->only == 0)
    return 1;
  lua_pushglobaltable(L);
  wanted = !lua_rawequal(L, -1, -3);
  lua_pop(L, 1);
  if (!wanted) {
    lua_pushvalue(L, -1);
    wanted = lua_rawget(L, d->only) != LUA_TNIL;
    lua_pop(L, 1);
  }
  if (!wanted && d->set != 0) {
    lua_pushvalue(L, -1);
    wanted = lua_rawget(L, d->set) == LUA_TNIL;
    lua_pop(L, 1);
    if (wanted) {
      lua_pushvalue(L, -1);
      lua_pushinteger(L, d->from->set_by);
      lua_rawset(L, d->set);
    }
  }
  return wanted;
}

/* Make the assignments from number `from` on: metatables first, while nothing depends on them. */
static void make_sets(struct decoding *d, lua_Integer from) {
  lua_State *L = d->L;
  lua_Integer i;
  int metatables, sets = d->slots + SETS;
  luaL_checkstack(L, 5, NULL);
  for (metatables = 1; metatables >= 0; metatables--) {
    for (i = from; i < d->sets; i++) {
      lua_rawgeti(L, sets, 3 * i + 1);
      if ((lua_rawgeti(L, sets, 3 * i + 2) == LUA_TNIL) == metatables && is_wanted(d)) {
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

void mch_decode_push_ref(struct decoding *d) {
  uint64_t number = take_varint(d);
  if (number >= d->objects || lua_isnil(d->L, d->slots + REFS) ||
      lua_rawgeti(d->L, d->slots + REFS, (lua_Integer)number) == LUA_TNIL)
    mch_decode_malformed(d, "reference to nothing");
}

/* Bytes that a tag takes with what follows, of those that often stand between strings. 0: of
 * others. */
static size_t flat_size(unsigned tag) {
  if (tag == MCH_TAG_REF || tag == MCH_TAG_RECORD) /* if its number is small; else what is found */
    return 2;                                      /* may be no string, and is not used */
  return tag <= MCH_TAG_LIGHT || mch_scalar_is_short(tag) ? 1 + mch_scalar_size(tag) : 0;
}

/* Find short strings behind this place, as far as that is easy. */
static void look_ahead(struct decoding *d) {
  const unsigned char *at = d->at;
  d->ahead = d->ahead_next = 0;
  while (at < d->end && d->ahead < AHEAD_MOST) {
    unsigned tag = *at;
    size_t size = flat_size(tag);
    if (size == 0 || size > (size_t)(d->end - at))
      break;
    if (mch_scalar_is_short(tag) && size > 2)
      d->ahead_at[d->ahead++] = at + 1;
    at += size;
  }
}

/* Lua looks for each short string among all it has, and waits for memory. When the next ones are
 * looked for at once, it waits for all of them together: 10^5 records with a name of their own are
 * read in 0.78 of the time (scripts/bench/codec.lua). Those of one byte are few, and at hand. */
static void push_short(struct decoding *d, size_t length) {
  const unsigned char *bytes = take(d, length);
  int i;
  if (length < 2) {
    lua_pushlstring(d->L, (const char *)bytes, length);
    return;
  }
  if (d->ahead_next < d->ahead && d->ahead_at[d->ahead_next] == bytes) {
    lua_pushvalue(d->L, d->slots + AHEAD + d->ahead_next++);
    return;
  }
  look_ahead(d);
  lua_pushlstring(d->L, (const char *)bytes, length);
  for (i = 0; i < d->ahead; i++)
    lua_pushlstring(d->L, (const char *)d->ahead_at[i], d->ahead_at[i][-1] & MCH_SCALAR_LONGEST);
  while (i > 0)
    lua_replace(d->L, d->slots + AHEAD + --i);
}

static void push_string(struct decoding *d, unsigned tag) {
  if (tag < MCH_TAG_STRING) {
    push_short(d, tag & MCH_SCALAR_LONGEST);
  } else {
    uint64_t length = take_varint(d);
    if (length > left(d))
      mch_decode_malformed(d, "string too long");
    lua_pushlstring(d->L, (const char *)take(d, (size_t)length), (size_t)length);
  }
  keep(d, tag, d->objects++);
}

/* Read a value that must be a string. */
void mch_decode_string(struct decoding *d) {
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

static void read_name(struct decoding *d, unsigned tag) {
  lua_State *L = d->L;
  int top = lua_gettop(L);
  uint64_t number = d->objects++;
  mch_decode_string(d);
  if ((tag & 0xf) == (MCH_TAG_FIELD & 0xf))
    mch_decode_string(d);
  else
    lua_pushnil(L);
  if (!mch_modules_resolve(L, d->baseline, top + 1, top + 2,
                           d->from->allow_code ? &d->from->called : NULL))
    mch_decode_fail(d);
  lua_copy(L, -1, top + 1);
  lua_settop(L, top + 1);
  keep(d, tag, number);
}

static void open_hook(struct decoding *d, unsigned tag) {
  struct frame *frame;
  uint64_t n = take_varint(d);
  if (!d->from->allow_code)
    mch_decode_malformed(d, "code is not allowed here");
  if (n == 0 || n > left(d) || n > INT_MAX)
    mch_decode_malformed(d, "bad hook");
  lua_pushnil(d->L);
  frame = mch_decode_open_frame(d, HOOK, n);
  frame->number = d->objects++;
  frame->tag = tag;
  frame->from = d->sets;
}

/* Push our class `id`, or nil. */
static void push_own(struct decoding *d, uint64_t id) {
  if (d->own == 0 || id == 0 || id > LUA_MAXINTEGER)
    mch_decode_malformed(d, "unknown class");
  lua_rawgeti(d->L, d->own, (lua_Integer)id);
}

/* Read the value of a class that may be gone here, in the frame for it. When that is open, whatever
 * refers to it refers to ours, if there is one. */
static int read_copy(struct decoding *d) {
  lua_State *L = d->L;
  uint64_t number = d->objects;
  int own = mch_decode_frame_at(d, innermost(d)), is_complete = read_value(d);
  if (own > lua_gettop(L) || lua_isnil(L, own) || lua_isnil(L, d->slots + REFS))
    return is_complete;
  if (lua_rawgeti(L, d->slots + REFS, (lua_Integer)number) != LUA_TNIL) {
    lua_pushvalue(L, own);
    lua_rawseti(L, d->slots + REFS, (lua_Integer)number);
  }
  lua_pop(L, 1);
  return is_complete;
}

/* 1: our class is on top of the stack. 0: a frame was opened. */
static int read_class(struct decoding *d, unsigned tag) {
  uint64_t id = take_varint(d);
  push_own(d, id);
  if ((tag & MCH_TAG_META) != 0) {
    mch_decode_open_frame(d, OWN, 1);
    return 0;
  }
  if (lua_isnil(d->L, -1)) {
    lua_pushliteral(d->L, "its class is gone");
    mch_decode_fail(d);
  }
  keep(d, tag, d->objects++);
  return 1;
}

static int read_object(struct decoding *d, unsigned tag) {
  if (is_string_tag(tag)) {
    push_string(d, tag);
    return 1;
  }
  switch (tag & ~(unsigned)(MCH_TAG_KEPT | MCH_TAG_META)) {
  case MCH_TAG_TABLE:
    mch_decode_table(d, tag);
    return 0;
  case MCH_TAG_EARLY:
    mch_decode_early(d, tag);
    return 0;
  case MCH_TAG_SHAPED:
  case MCH_TAG_RECORD:
  case MCH_TAG_LOOSE:
    return mch_decode_record(d, tag);
  case MCH_TAG_FUNCTION:
    mch_decode_function(d, tag);
    return 0;
  case MCH_TAG_MODULE:
  case MCH_TAG_FIELD:
    read_name(d, tag);
    return 1;
  case MCH_TAG_CLASS:
    return read_class(d, tag);
  case MCH_TAG_ENV:
    mch_decode_environment(d, tag);
    return 1;
  case MCH_TAG_HOOK:
    open_hook(d, tag);
    return 0;
  default:
    mch_decode_malformed(d, "unknown tag");
  }
}

int mch_decode_value(struct decoding *d, unsigned tag) {
  if (tag >= MCH_TAG_OBJECT)
    return read_object(d, tag);
  if (tag == MCH_TAG_GLOBALS)
    lua_pushglobaltable(d->L);
  else if (tag == MCH_TAG_REF)
    mch_decode_push_ref(d);
  else
    mch_decode_malformed(d, "unknown tag");
  return 1;
}

/* A part on top of the stack is to be a key. */
void mch_decode_check_key(struct decoding *d) {
  if (lua_isnil(d->L, -1) ||
      (lua_type(d->L, -1) == LUA_TNUMBER && lua_tonumber(d->L, -1) != lua_tonumber(d->L, -1)))
    mch_decode_malformed(d, "bad key");
}

/* ---- frames: read parts until one opens a frame (0) or the object is complete (1) ---- */

/* The metatable of the frame's object is on top of the stack: note the two for the end. */
static void store_metatable(struct decoding *d, struct frame *frame) {
  if (lua_type(d->L, -1) != LUA_TTABLE)
    mch_decode_malformed(d, "bad metatable");
  lua_pushvalue(d->L, mch_decode_frame_at(d, frame));
  lua_pushnil(d->L);
  lua_rotate(d->L, -3, -1);
  note_set(d);
  frame->next++;
}

/* The value of a class is complete, on top of the stack: it is dropped if we have the class. */
static void store_copy(struct decoding *d, struct frame *frame) {
  lua_State *L = d->L;
  int own = mch_decode_frame_at(d, frame), sets = d->slots + SETS;
  frame->next++;
  if (lua_isnil(L, own)) {
    lua_replace(L, own);
    return;
  }
  if (d->sets > 0) { /* nor does it get its metatable, which was noted last */
    lua_rawgeti(L, sets, 3 * d->sets - 2);
    lua_rawgeti(L, sets, 3 * d->sets - 1);
    if (lua_isnil(L, -1) && lua_rawequal(L, -2, -3))
      d->sets--;
  }
  lua_settop(L, own);
}

static int continue_own(struct decoding *d, struct frame *frame) {
  if (frame->next == 0) {
    if (!read_copy(d))
      return 0;
    store_copy(d, frame);
  }
  return 1;
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
      mch_decode_malformed(d, "bad target");
    lua_pushglobaltable(L);
    if (lua_rawequal(L, -1, -2) && !d->from->allow_code)
      mch_decode_malformed(d, "globals are not allowed here");
    lua_pop(L, 1);
    break;
  case 1:
    if (!lua_isnil(L, -1))
      mch_decode_check_key(d);
    break;
  default:
    if (lua_isnil(L, -2) && lua_type(L, -1) != LUA_TTABLE)
      mch_decode_malformed(d, "bad metatable");
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
        mch_decode_malformed(d, "no assignment");
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
  mch_decode_open_frame(d, ASSIGNED, 0);
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
  at = mch_decode_frame_at(d, frame);
  d->from->called = 1;
  if (lua_pcall(L, (int)frame->count - 1, 1, 0) != LUA_OK) {
    const char *why = lua_tostring(L, -1);
    lua_pushfstring(L, "what its __mantichora returned failed: %s",
                    why != NULL ? why : "(no message)");
    mch_decode_fail(d);
  }
  if (lua_isnil(L, -1)) {
    lua_pushliteral(L, "what its __mantichora returned gave nil");
    mch_decode_fail(d);
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
  case FUNCTION:
    return mch_decode_upvalues(d, frame);
  case OWN:
    return continue_own(d, frame);
  case METATABLE:
    return continue_metatable(d, frame);
  default:
    return mch_decode_contents(d, frame);
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
  case FUNCTION:
    mch_decode_store_upvalue(d, frame);
    break;
  case OWN:
    store_copy(d, frame);
    break;
  case METATABLE:
    store_metatable(d, frame);
    break;
  default:
    mch_decode_store(d, frame);
  }
}

static void begin(struct decoding *d, lua_State *L) {
  d->L = L;
  d->at = d->from->bytes;
  d->end = d->from->bytes + d->from->len;
  d->objects = d->shapes = 0;
  memset(d->lines, 0xff, sizeof d->lines);
  d->credit = d->from->len;
  d->baseline = lua_isnil(L, 2) ? 0 : 2;
  d->factories = lua_isnil(L, 3) ? 0 : 3;
  d->early_tables = lua_isnil(L, 4) ? 0 : 4;
  d->own = lua_isnil(L, 5) ? 0 : 5;
  d->only = lua_isnil(L, 6) ? 0 : 6;
  d->set = lua_isnil(L, 7) ? 0 : 7;
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
  mch_decode_open_frame(d, ROOT, n)->has_sets = !are_all;
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

/* What is behind a message: its classes. They are remembered by their ids, where there is a
 * baseline to remember them in. */
static void read_classes(struct decoding *d) {
  while (d->at < d->end) {
    uint64_t id;
    mch_decode_push_ref(d);
    id = take_varint(d);
    if (!d->from->allow_code || !lua_istable(d->L, -1) || id < 4 || id > LUA_MAXINTEGER)
      mch_decode_malformed(d, "bad class");
    if (d->baseline != 0)
      mch_classes_receive(d->L, d->baseline, -1, (lua_Integer)id);
    lua_pop(d->L, 1);
  }
}

/* decode(decoding; baseline, factories, tables that came early, classes, names, names
 * that are set, each or nil): the values. */
static int decode(lua_State *L) {
  struct decoding *d = lua_touserdata(L, 1);
  uint64_t n;
  int are_all;
  begin(d, L);
  if (*take(d, 1) != MCH_GRAPH_VERSION)
    mch_decode_malformed(d, "unknown version");
  n = take_varint(d);
  if (n > left(d) || n > INT_MAX)
    mch_decode_malformed(d, "too many values");
  are_all = d->from->most == 0 || n <= (uint64_t)d->from->most;
  if (!are_all)
    n = (uint64_t)d->from->most;
  read_values(d, n, are_all);
  if (are_all)
    read_classes(d);
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
  luaL_checkstack(L, 9, NULL);
  d.from = decoder;
  d.values = 0;
  lua_pushcfunction(L, decode);
  lua_pushlightuserdata(L, &d);
  push_given(L, decoder->baseline);
  push_given(L, decoder->factories);
  push_given(L, decoder->early);
  push_given(L, decoder->own);
  push_given(L, decoder->only);
  push_given(L, decoder->set);
  if (decoder->len >= LARGE_FROM)
    mch_large_begin(L, &pages);
  status = lua_pcall(L, 7, LUA_MULTRET, 0);
  if (decoder->len >= LARGE_FROM)
    mch_large_end(L, &pages);
  return status == LUA_OK ? lua_gettop(L) - top : raise_error(L, &d, status);
}
