/* Runs in: both.
 *
 * What the files of the decoder share, the mirror of encoding.h. decode.c has the walk:
 * read_value() pushes a value, or opens a frame for one that has parts, and the main loop lets the
 * innermost frame read its next part. decode_table.c and decode_function.c know how tables and
 * functions are read. Nothing of a message is trusted. */
#ifndef MCH_DECODING_H
#define MCH_DECODING_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "graph.h"
#include "scalar.h"
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
  AHEAD = KEYS + KEY_LINES * MCH_GRAPH_SMALL_TABLE, /* strings that were looked ahead for */
  AHEAD_MOST = 3,
  SLOTS = AHEAD + AHEAD_MOST - 1
};

enum { HEAP_FRAMES = MCH_HEAP_FIRST, HEAP_CODES };

enum frame_kind {
  ROOT,      /* the values of the message: they stay on the stack */
  HOOK,      /* likewise what rebuilds an object */
  ARRAY,     /* of a table */
  PAIRS,     /* of a table */
  RECORD,    /* a table of a known shape */
  LOOSE,     /* a table whose first fields are those of a shape */
  REST,      /* of a LOOSE table: pairs until the END */
  FUNCTION,  /* upvalues */
  OWN,       /* a class that is ours, and the value that it is if it is gone */
  METATABLE, /* of the object whose contents are complete */
  ASSIGNED   /* target, key, value: what follows the values of ROOT and HOOK */
};

/* An object whose parts are being read. It is at `place`; a part that is read comes on top. */
struct frame {
  enum frame_kind kind;
  int has_metatable; /* follows the contents */
  size_t place;
  uint64_t next, count; /* parts read, and to read */
  uint64_t pairs;       /* ARRAY: how many follow the elements */
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
  int baseline, factories;   /* stack indices, or 0 */
  int early_tables;          /* likewise: the tables of which a part came early */
  int own;                   /* likewise: classes by id */
  int only, set;             /* likewise: names, see struct mch_decoder */
  uint64_t values;           /* of the message that are complete */
  uint64_t objects;          /* numbered so far */
  uint64_t shapes;           /* known so far */
  uint64_t lines[KEY_LINES]; /* which shape is in the line; UINT64_MAX: none */
  int line_keys[KEY_LINES];  /* how many keys it has */
  uint64_t credit;           /* how many more entries may be allocated at once */
  lua_Integer sets;          /* triples in SETS */
  int ahead, ahead_next;     /* strings in AHEAD, and the first that was not come to */
  const unsigned char *ahead_at[AHEAD_MOST]; /* where their bytes are */
  struct mch_stack stack;
  struct mch_array frames; /* struct frame */
  struct mch_array codes;  /* struct code */
  struct frame start[FRAMES_START];
  struct code start_codes[CODES_START];
};

/* ---- decode.c ---- */

int mch_decode_frame_at(struct decoding *d, const struct frame *frame);

/* Raise the message on top of the stack with the path to the value at hand; raise what is wrong
 * with the bytes. */
_Noreturn void mch_decode_fail(struct decoding *d);
_Noreturn void mch_decode_malformed(struct decoding *d, const char *what);
uint64_t mch_decode_long_varint(struct decoding *d);

/* Open a frame for the object on top of the stack. */
struct frame *mch_decode_open_frame(struct decoding *d, enum frame_kind kind, uint64_t count);

/* Read a value with this tag, which is no scalar: 1, it is on top of the stack; 0, a frame was
 * opened for it. */
int mch_decode_value(struct decoding *d, unsigned tag);

/* Read a value that must be a string; push the object that a reference names; refuse the value on
 * top of the stack if it cannot be a key. */
void mch_decode_string(struct decoding *d);
void mch_decode_push_ref(struct decoding *d);
void mch_decode_check_key(struct decoding *d);

/* ---- decode_table.c ---- */

/* Push a table and open a frame for its contents; likewise one whose first elements came early. */
void mch_decode_table(struct decoding *d, unsigned tag);
void mch_decode_early(struct decoding *d, unsigned tag);

/* Push a record, loose or not: 1, if none of its fields has parts; else 0, with a frame. */
int mch_decode_record(struct decoding *d, unsigned tag);

/* Read parts of an ARRAY, PAIRS, RECORD, LOOSE or REST frame until one opens a frame (0) or the
 * table is complete (1); store the part that is on top of the stack. */
int mch_decode_contents(struct decoding *d, struct frame *frame);
void mch_decode_store(struct decoding *d, struct frame *frame);

/* ---- decode_function.c ---- */

/* Push a function and open a frame for its upvalues, which are read and stored like contents. */
void mch_decode_function(struct decoding *d, unsigned tag);
int mch_decode_upvalues(struct decoding *d, struct frame *frame);
void mch_decode_store_upvalue(struct decoding *d, struct frame *frame);

/* Push a custom environment. */
void mch_decode_environment(struct decoding *d, unsigned tag);

/* ---- bytes ---- */

static inline size_t left(const struct decoding *d) {
  return (size_t)(d->end - d->at);
}

/* The next `count` bytes. */
static inline const unsigned char *take(struct decoding *d, size_t count) {
  const unsigned char *bytes = d->at;
  if (count > left(d))
    mch_decode_malformed(d, "cut short");
  d->at += count;
  return bytes;
}

static inline uint64_t take_varint(struct decoding *d) {
  if (d->at < d->end && *d->at < 0x80)
    return *d->at++;
  return mch_decode_long_varint(d);
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

static inline int is_string_tag(unsigned tag) {
  return tag >= MCH_TAG_OBJECT && (tag & ~(unsigned)MCH_TAG_KEPT) <= MCH_TAG_STRING;
}

/* Read the next value. 1: it is on top of the stack. 0: a frame was opened for it. */
static inline int read_value(struct decoding *d) {
  unsigned tag = *take(d, 1);
  if (tag > MCH_TAG_LIGHT)
    return mch_decode_value(d, tag);
  mch_scalar_push(d->L, tag, take(d, mch_scalar_size(tag)));
  return 1;
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

#endif
