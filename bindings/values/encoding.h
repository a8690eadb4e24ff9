/* Runs in: both.
 *
 * What the files of the encoder share. encode.c has the walk: mch_encode_put() writes a value, or
 * opens a frame for one that has contents, and the main loop lets the innermost frame put its next
 * part. encode_table.c and encode_function.c know how tables and functions are put. A listener
 * (struct mch_listener) may follow it. */
#ifndef MCH_ENCODING_H
#define MCH_ENCODING_H

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

#include "classes.h"
#include "globals.h"
#include "graph.h"
#include "identity.h"
#include "modules.h"
#include "path.h"
#include "reach.h"
#include "scalar.h"
#include "stack.h"

/* Stack slots of an encoding, above what the caller had. */
enum {
  SPILLS = 1,
  HEAP,
  REASON,
  CODES,      /* of the baseline: function -> id */
  KNOWN_USES, /* id -> uses, kept in the baseline if there are any */
  USES,       /* number of inline code -> uses */
  HOOKS,      /* object -> list of what its __mantichora returned, [0] their number */
  LENT,       /* list of the strings that are lent */
  ENVS,       /* environment that is put in part -> true */
  CLASSES,    /* list of the classes that go with their ids; class -> its kind */
  PAUSE,      /* of the collector, once a hook was called */
  WANTS,
  MODULES = WANTS + MCH_WANTS_SLOTS,
  SLOTS = MODULES + MCH_MODULES_SLOTS - 1
};

/* Arrays in the heap. */
enum { HEAP_FRAMES = MCH_HEAP_FIRST, HEAP_MET, HEAP_KEYS, HEAP_DUMP, HEAP_MARKS };

enum frame_kind {
  ROOT,     /* the values of the message */
  HOOK,     /* what a __mantichora returned */
  SMALL,    /* a table, its entries on the stack */
  WALK,     /* a table, read with lua_next() */
  RECORD,   /* likewise, taken to have the keys of a known shape */
  ENDED,    /* a table whose contents are put, but not its metatable */
  FUNCTION, /* its upvalues */
  SETS,     /* assignments behind the values of a message or a hook */
  SPREAD    /* assignments of all fields of an environment */
};

/* A value whose contents are being put. `next` counts the parts begun: next - 1 is at hand. */
struct frame {
  enum frame_kind kind;
  unsigned char has_metatable; /* still to be put, after the contents */
  unsigned char in_value;      /* WALK, SPREAD: the key is put, its value is next */
  unsigned char values_only;   /* SMALL: a record */
  signed char type;            /* RECORD: of the value at hand, see encode_table.c */
  size_t place;                /* of the value; its working values are above it */
  size_t next;
  size_t count; /* WALK: pairs put; others: parts */
  union {
    struct {           /* SMALL, WALK */
      size_t array;    /* elements that go without their keys */
      size_t count_at; /* where in the message the number of pairs belongs; 0: an END does */
    };
    struct {         /* RECORD */
      size_t keys;   /* place of the first of its keys among all */
      size_t tag_at; /* where in the message it begins */
    };
    size_t met;      /* FUNCTION: number of its entry in the map */
    struct {         /* ROOT, HOOK, SETS */
      size_t from;   /* its first assignment in the queue */
      size_t number; /* HOOK: its object's */
      size_t outer;  /* HOOK: value of e->hook outside */
    };
  };
  size_t start; /* size before its value, if there is a listener */
};

enum { FRAMES_START = 8 };

/* The keys of a record; `first` is their place among all. The next table with this first key is
 * taken to be such a record again, if those before it were. */
struct shape {
  const void *first_key; /* NULL: no shape */
  uint64_t number;
  size_t first, count;
  int trust;    /* above 0: there is no reason for doubt */
  int is_class; /* the kind that its keys make of a table, or NO_CLASS */
};

enum { RECENT_SHAPES = 32, NO_CLASS = -1 };

/* What an assignment is to; those of the latter two may be left out. */
enum assigned { OF_ENVIRONMENT, OF_GLOBALS, OF_MODULE };

/* What an assignment began with, to forget it if its value cannot be sent. */
struct mark {
  enum assigned global;
  const char *name;
  size_t frame, position, spans, lent, met, keys, ids, queued, done, followed, hook, hooks;
  uint64_t objects, shapes, codes;
};

/* What a part is to its whole. */
enum role { VALUE, METATABLE, ENVIRONMENT };

/* put(): what has become of the value. */
enum { REFUSED = -1, DONE = 0, OPENED = 1 };

struct encoding;

/* A part of the message, as a listener sees it. */
struct mch_part {
  int at;          /* stack index of the value, good in `begin` only */
  enum role role;  /* in the whole around it */
  size_t level;    /* of frames around it; the innermost one is that of its whole */
  size_t place;    /* where in the message it begins */
  size_t before;   /* size of the message before it */
  uint64_t number; /* that it gets if it is an object */
  int status;      /* in `end`: what became of it. Of one that was refused a nil is put */
};

/* Follows an encoding: a value before it is put and after, a frame when it is complete, and the
 * names in the list on top of the stack, which a function looks up in _G. Nothing is refused then,
 * and no global left out. Each leaves the stack as it is and may raise. */
struct mch_listener {
  void (*begin)(struct mch_listener *listener, struct encoding *e, const struct mch_part *);
  void (*end)(struct mch_listener *listener, struct encoding *e, const struct mch_part *);
  void (*close)(struct mch_listener *listener, struct encoding *e, const struct frame *);
  void (*names)(struct mch_listener *listener, struct encoding *e);
};

struct encoding {
  lua_State *L;
  struct mch_encoder *to;
  struct mch_buf *out;
  int slots;                     /* SPILLS is at slots + SPILLS and so on */
  int first;                     /* stack index of the first value */
  int baseline;                  /* absolute, or 0 */
  struct mch_listener *listener; /* or NULL */
  int has_classes;               /* classes go with their ids */
  int returns_classes;           /* those of the receiver go by its ids */
  const void *last_class;        /* the one noted last */
  const void *last_metatable;    /* the one looked at last ... */
  int last_is_callable;          /* ... and whether it has a __call */
  const void *globals;           /* _G */
  uint64_t objects;              /* numbered so far */
  uint64_t shapes, codes;        /* likewise */
  uint64_t early;                /* likewise: tables of which a part went early */
  size_t lent;                   /* bytes in spans */
  struct mch_stack stack;
  struct mch_array frames; /* struct frame */
  struct mch_array keys;   /* const void *: the keys of all shapes */
  struct mch_identity met;
  struct shape recent[RECENT_SHAPES]; /* if there are shapes at all */
  struct mch_wants wants;
  size_t hook;            /* one more than the number of the innermost HOOK frame; 0: none */
  size_t hooks;           /* HOOK frames that are open */
  int endless;            /* they were too many */
  const void *noted[2];   /* uses and environment whose names were queued last */
  struct mch_array marks; /* struct mark */
  struct mch_modules modules;
  struct frame start[FRAMES_START];
};

/* ---- bytes ---- */

/* Where the next `count` bytes go. Raises on memory. */
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

/* The number of bytes in the buffer so far: holds when the buffer moves what is unread to its
 * front. */
static inline size_t position(const struct encoding *e) {
  return mch_buf_unread(e->out);
}

/* The number of bytes that the message has so far. */
static inline size_t size_so_far(const struct encoding *e) {
  return position(e) + e->lent;
}

static inline unsigned char *at_position(const struct encoding *e, size_t place) {
  return e->out->data + e->out->read + place;
}

static inline void put_varint(struct encoding *e, uint64_t value) {
  unsigned char *to = room(e, MCH_NUMBER_VARINT);
  e->out->length += mch_number_store_varint(to, value);
}

static inline void put_tag_varint(struct encoding *e, unsigned tag, uint64_t value) {
  unsigned char *to = room(e, 1 + MCH_NUMBER_VARINT);
  to[0] = (unsigned char)tag;
  e->out->length += 1 + mch_number_store_varint(to + 1, value);
}

static inline void put_bytes(struct encoding *e, const void *bytes, size_t count) {
  if (count == 0)
    return;
  memcpy(room(e, count), bytes, count);
  e->out->length += count;
}

static inline int put_integer(struct encoding *e, lua_Integer value) {
  unsigned char *to = room(e, MCH_NUMBER_ROOM);
  e->out->length += mch_number_store_integer(to, value);
  return DONE;
}

static inline int put_float(struct encoding *e, uint64_t bits) {
  unsigned char *to = room(e, MCH_NUMBER_ROOM);
  e->out->length += mch_scalar_store_bits(to, MCH_TAG_FLOAT, bits);
  return DONE;
}

/* Put the value of this type at a stack index, if it is a scalar and no string: 1. */
static inline int put_scalar(struct encoding *e, int at, int type) {
  size_t length = mch_scalar_store(room(e, MCH_NUMBER_ROOM), e->L, at, type);
  e->out->length += length;
  return length > 0;
}

static inline int put_tag(struct encoding *e, int tag) {
  put_u8(e, (unsigned)tag);
  return DONE;
}

/* ---- objects ---- */

/* A look whether an object was met before; if not, where to note it. */
struct look {
  uint64_t key;
  struct mch_probe probe;
};

static inline const struct mch_met *look_up(struct encoding *e, const void *object,
                                            struct look *look) {
  look->key = (uint64_t)(uintptr_t)object;
  look->probe = mch_probe_first(&e->met, look->key);
  return mch_identity_next(&e->met, look->key, &look->probe);
}

/* Number the object whose tag is written next. It was looked up, and nothing was met since. */
static inline void meet_looked(struct encoding *e, const struct look *look) {
  mch_identity_put(&e->met, &look->probe, look->key, e->objects++, position(e));
}

static inline void meet(struct encoding *e, const void *object) {
  mch_identity_add(&e->met, (uint64_t)(uintptr_t)object, e->objects++, position(e));
}

static inline struct frame *innermost(struct encoding *e) {
  return (struct frame *)e->frames.elements + e->frames.count - 1;
}

static inline int frame_at(struct encoding *e, const struct frame *frame) {
  return mch_stack_at(&e->stack, frame->place);
}

/* Make room for one more frame. */
void mch_encode_more_frames(struct encoding *e);

/* Add a frame for the value at this place. */
static inline struct frame *add_frame(struct encoding *e, enum frame_kind kind, size_t place) {
  struct frame *frame;
  if (e->frames.count == e->frames.capacity)
    mch_encode_more_frames(e);
  frame = (struct frame *)e->frames.elements + e->frames.count++;
  *frame = (struct frame){.kind = kind, .place = place};
  return frame;
}

/* ---- encode.c ---- */

/* Put the value at this stack index. DONE, OPENED (a frame will put its contents) or REFUSED. */
int mch_encode_put(struct encoding *e, int at);

/* Put a value that is something else to its whole than a part. */
int mch_encode_part(struct encoding *e, int at, enum role role);

/* Put a string: the one at a stack index, or the bytes of the string object at this address. */
int mch_encode_string(struct encoding *e, int at);
int mch_encode_text(struct encoding *e, const void *object, const char *s, size_t length);

/* Refer to an object that the message has; tell the reader to keep it. */
int mch_encode_ref(struct encoding *e, const struct mch_met *met);

/* If the value goes by name, put the name and return 1. */
int mch_encode_name(struct encoding *e, int at, const void *object, int as_metatable);

/* Open a frame for an object that has a hook. DONE: it has none. */
int mch_encode_hooked(struct encoding *e, int at, const void *object);

/* Say why the value cannot go. Returns REFUSED. */
int mch_encode_refuse(struct encoding *e, const char *why);

/* The table at a stack index, which was met, is a class of the script or a sentinel: its id is to
 * go along. */
void mch_encode_class(struct encoding *e, int at, enum mch_class_kind kind);

/* Open a frame for the value at a stack index; a copy of it is now on top of the stack. When the
 * frame is closed, that is off the stack again. */
struct frame *mch_encode_open(struct encoding *e, enum frame_kind kind, int at);

/* Tell the step from a frame to the part at hand. */
void mch_encode_step(struct encoding *e, struct mch_path *path, const struct frame *frame);

/* ---- encode_table.c ---- */

int mch_encode_table(struct encoding *e, int at, int as_metatable);

/* Put the next parts of a SMALL, WALK, RECORD or ENDED frame: as mch_encode_put() returns. */
int mch_encode_small(struct encoding *e, struct frame *frame);
int mch_encode_walk(struct encoding *e, struct frame *frame);
int mch_encode_record(struct encoding *e, struct frame *frame);
int mch_encode_ended(struct encoding *e, struct frame *frame);

/* ---- encode_function.c ---- */

int mch_encode_function(struct encoding *e, int at);

/* Put an environment of which only what the code names goes, as assignments at the end. */
int mch_encode_environment(struct encoding *e, int at);

/* Was the table at `at` met as such an environment? */
int mch_encode_is_partial(struct encoding *e, int at);

/* Put the next parts of a FUNCTION frame. */
int mch_encode_upvalues(struct encoding *e, struct frame *frame);

#endif
