/* Runs in: both.
 *
 * Lua values to bytes and back: one message is one graph. What can be sent is in encode.c, how
 * values are sent by name is in modules.c, how globals are sent is in globals.c.
 *
 * The format (version MCH_GRAPH_VERSION). Integers are little-endian; `varint` is LEB128, at most
 * ten bytes. A message ends exactly at its last byte.
 *
 *   message := version(1) varint(n) value*n set* END class*
 *   value   := tag(1) payload            see MCH_GRAPH_TAGS and MCH_GRAPH_OBJECTS
 *   set     := SET target key value      an assignment made when the values are there
 *   class   := varint(object) varint(id) that object is the sender's class `id` (classes.h)
 *
 *   tag 00..3f  the integers 0..63
 *       40..7f  plain values: nothing can refer back to them
 *       80..ff  objects, numbered 0, 1, 2 ... in the order of their tags. Bit 20 says that a later
 *               REF names this object, so that the reader keeps only what it will need; the writer
 *               sets the bit in place when it meets the object again.
 *       80..9f  a string of 0..31 bytes (a0..bf with bit 20)
 *       c0..df  the others (e0..ff with bit 20). Bit 10 of tables: a metatable follows
 *               the contents.
 *
 *   table   := varint(array) varint(hash) element*array (key value)*hash [metatable]
 *   element := value | SKIP varint(n)    n nils
 *            | RUNw varint(n) n*w bytes  n integers of w bytes each, or n floats
 *   shape   := varint(n) string*n    the keys of a record, kept by the reader, numbered 0, 1 ...
 *   record  := [shape] value*n [metatable]
 *   loose   := value*k CUT (key value)* END [metatable]
 *                                    only the first k <= n keys are those of the shape: what the
 *                                    writer took for a record, and put while it walked, was none
 *   function:= code varint(n) upvalue*n
 *   code    := varint(0) varint(len) bytes   first use of a chunk of bytecode, numbered 1, 2 ...
 *            | varint(2k)                    the k-th of those
 *            | varint(2id + 1)               the receiver knows it by this id
 *   upvalue := value | CELL varint(object) varint(i)
 *                                    the variable is the i-th upvalue of that function
 *
 *   early   := varint(k) varint(n) table
 *                                    the first n elements of table k came before the message
 *   piece   := varint(k) varint(array) run*
 *                                    the next ones of table k, which will have so many
 *
 * Of a large table, whole pieces of numbers may go early while the writer goes on with the next
 * (early.h has their reader), so that both sides work at the same time. Tables are numbered from 1.
 *
 * Nesting is as deep as memory allows: neither side recurses on the C stack (stack.h). */
#ifndef MCH_GRAPH_H
#define MCH_GRAPH_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/buf.h"
#include "runtime/wire/cargo.h"

#define MCH_GRAPH_VERSION 4

/* Plain values: name, tag, payload. */
#define MCH_GRAPH_TAGS(X)                                                                          \
  X(NIL, 0x40)     /* */                                                                           \
  X(FALSE, 0x41)   /* */                                                                           \
  X(TRUE, 0x42)    /* */                                                                           \
  X(INT1, 0x43)    /* 1 byte, signed */                                                            \
  X(INT2, 0x44)    /* 2 bytes */                                                                   \
  X(INT4, 0x45)    /* 4 bytes */                                                                   \
  X(INT8, 0x46)    /* 8 bytes */                                                                   \
  X(FLOAT, 0x47)   /* 8 bytes, the bits of a double */                                             \
  X(LIGHT, 0x48)   /* 8 bytes, a light userdata */                                                 \
  X(GLOBALS, 0x49) /* the receiver's _G */                                                         \
  X(REF, 0x4a)     /* varint: an object met before */                                              \
  X(CELL, 0x4b)    /* in upvalues only */                                                          \
  X(SKIP, 0x4c)    /* in arrays only, as the RUNs */                                               \
  X(RUN1, 0x4d)                                                                                    \
  X(RUN2, 0x4e)                                                                                    \
  X(RUN4, 0x4f)                                                                                    \
  X(RUN8, 0x50)                                                                                    \
  X(RUNF, 0x51)                                                                                    \
  X(SET, 0x52) /* behind the values of a message or a hook */                                      \
  X(END, 0x53)                                                                                     \
  X(CUT, 0x54) /* in LOOSE only */

/* Objects: name, tag, contents. */
#define MCH_GRAPH_OBJECTS(X)                                                                       \
  X(SHORT, 0x80)    /* a string: bytes, the length is in the tag */                                \
  X(STRING, 0xc0)   /* varint(len) bytes */                                                        \
  X(TABLE, 0xc1)    /* table */                                                                    \
  X(SHAPED, 0xc2)   /* record with a new shape */                                                  \
  X(RECORD, 0xc3)   /* varint(shape), record */                                                    \
  X(FUNCTION, 0xc4) /* function */                                                                 \
  X(MODULE, 0xc5)   /* string: a module by its name in package.loaded */                           \
  X(FIELD, 0xc6)    /* string string: a field of a module */                                       \
  X(HOOK, 0xc7)     /* varint(n) value*n set* END: rebuilt by calling the first with the others */ \
  X(ENV, 0xc8)      /* a custom _ENV, filled by SETs; bit 10: it falls back on _G */               \
  X(LOOSE, 0xc9)    /* varint(shape), loose */                                                     \
  X(EARLY, 0xca)    /* early */                                                                    \
  X(CLASS, 0xcb)    /* varint(id): the receiver's own class. Bit 10: value, if it has none */

enum mch_graph_tag {
#define MCH_TAG(name, tag) MCH_TAG_##name = tag,
  MCH_GRAPH_TAGS(MCH_TAG) MCH_GRAPH_OBJECTS(MCH_TAG)
#undef MCH_TAG
      MCH_TAG_SMALL = 0x40, /* below this: a small integer */
  MCH_TAG_OBJECT = 0x80,    /* from here on: an object */
  MCH_TAG_META = 0x10,
  MCH_TAG_KEPT = 0x20
};

/* Tables with at most so many entries are read in one go; records are among them. */
#define MCH_GRAPH_SMALL_TABLE 16

/* What a value is part of; words the paths in messages. */
enum mch_graph_kind {
  MCH_SEND_TASK,    /* the function, then "argument 1" ... */
  MCH_SEND_RESULT,  /* "result 1" ... */
  MCH_SEND_ERROR,   /* "error value" */
  MCH_SEND_ITEM,    /* "argument 1" ..., of a function that went before */
  MCH_SEND_EMITTED, /* the same, of emit() in a task */
  MCH_SEND_SETUP    /* init, fini, and what stands in the standard library, of a pool */
};

struct mch_code_memory;
struct mch_listener;

/* Who is encoding for whom and what is known there. Zero it, then fill in. */
struct mch_encoder {
  struct mch_buf *out;   /* the message is appended here; owned by the caller, who keeps it in a
                            userdata because an error leaves by longjmp */
  struct mch_buf *spans; /* gets a struct mch_span for each long string, which is then not copied;
                            owned like `out`. NULL: all is copied */
  int baseline; /* stack index of the baseline (mch_baseline_take), or 0: the receiver is taken to
                have what this state has now */
  enum mch_graph_kind kind;
  /* The dictionary of bytecode: the id (>= 1) by which the receiver will know these bytes when it
   * gets the message, and where the dictionary has them for as long as `memory` is used; or 0: put
   * them inline. NULL: always inline. May not raise. */
  uint32_t (*intern_code)(void *ud, const char *bytes, size_t len, const char **kept);
  /* Send a piece before the message: 1, or 0: put what is in it into the message. NULL: always
   * so. May not raise. */
  int (*send_early)(void *ud, const unsigned char *piece, size_t len);
  void *ud;                       /* of these two */
  struct mch_listener *listener;  /* follows the encoding (encoding.h), or NULL */
  struct mch_code_memory *memory; /* the caller's, or NULL */
  int own;   /* stack index of a table class -> id: the receiver has these by that (`own` of
                struct mch_decoder); or 0 */
  int found; /* stack index of a list that gets the classes that go by value with an id; or 0 */
  int classes_from; /* values from this number on (0, 1 ...) are classes; 0: if they look like it */
  int hooked; /* stack index of a table: object -> list of what its __mantichora has returned, [0]
                 their number. Hooks that are in it are not called, others are and come into it; or
                 0 */
  int stands_alone; /* what the receiver has by an id goes by value, too */
  int collect;  /* stack index of a table that gets the names of the globals that the message needs,
                   which are then not sent; or 0 */
  int puts;     /* stack index of a list of names: these globals go along; or 0 */
  int is_plain; /* what is a class is not noted: these bytes depend on the values alone */
  unsigned *reach; /* gets bits: what of a fresh state the message can look into (reach.h), where
                      the receiver has the bytecode in its dictionary; or NULL */
  struct mch_buf *left; /* gets the name of each global that cannot be sent, and why, both with a
                           zero; owned like `out`, may be NULL */
  lua_Integer classes;  /* set to the number of classes that go by value with an id */
  int called;           /* set when a hook was called */
  int assigns;          /* set when globals or fields of environments went along */
  char left_out[100];   /* set to words for one of them that could not, if there is one */
  struct mch_buf *code_ids; /* gets each id that the message uses once, as a uint32_t of this
                               machine, in order of first use; owned like `out`, may be NULL */
};

/* Replace what a hook has returned, on the stack from `first` on, by a list of it, [0] their
 * number. Raises on memory. */
void mch_encode_list_hooked(lua_State *L, int first);

/* Encode the values at the stack indices first..first+n-1 as one message (for a task: the function,
 * then its arguments). The stack is left as it was. Raises a sentence that says where the value is
 * that cannot go, e.g. "cannot send upvalue 'file' of function <img.lua:12>: userdata (FILE*)";
 * then, as after a memory error, what was appended to `out` means nothing. Calls no metamethod but
 * __mantichora. Returns 1, with a value on top of the stack that is to be kept while the spans are
 * in use, or 0 if there are none. */
int mch_encode(lua_State *L, struct mch_encoder *encoder, int first, int n);

/* Push a report of what would be sent if the values at the stack indices first..first+n-1 (a
 * function and its arguments) were run: a table whose tostring shows the tree, see
 * scripts/mantichora/explain.lua. `baseline`: a stack index, or 0. Raises on memory only: what
 * cannot be sent is in the report. */
void mch_explain(lua_State *L, int baseline, int first, int n);

/* mantichora.explain(f, ...): a lua_CFunction. */
int mch_explain_call(lua_State *L);

/* What to decode and how far to trust it. Zero it, then fill in. */
struct mch_decoder {
  const unsigned char *bytes;
  size_t len;
  int baseline;   /* stack index of the baseline, or 0 */
  int early;      /* stack index of the tables that came early (early.h), or 0 */
  int own;        /* stack index of a table id -> class that the message may name, or 0 */
  int allow_code; /* accept what runs code: bytecode, hooks, modules that are to be loaded */
  enum mch_graph_kind kind; /* words the paths */
  int called;               /* set when code was called: a hook, a module's file */
  /* The bytecode known by an id; NULL when unknown. NULL: no dictionary. May not raise, and has no
   * stack indices of the caller; the bytes stay where they are until mch_decode() is done. */
  const char *(*find_code)(void *ud, uint32_t id, size_t *len);
  void *ud;
  int factories; /* stack index of a table of the caller's that keeps, by these ids, what makes
                 closures of code that comes often; or 0 */
  int only;      /* stack index of a set of names: only these globals are set; or 0 */
  int set; /* with `only`, stack index of a table: those that are not in it are set, too, and come
              into it with the value `set_by`; or 0 */
  lua_Integer set_by;
  int most; /* so many values are wanted, and what follows them is not looked at; 0: all */
};

/* Push the values of a message and return how many. Sets the globals that came along, raw. Raises a
 * sentence on malformed bytes, on memory, and when a value cannot be rebuilt (naming the module and
 * the path to the value). Memory use is bounded by a multiple of `len`. */
int mch_decode(lua_State *L, struct mch_decoder *decoder);

/* Push a new table that holds what this state looks like, its baseline: its raw globals, and the
 * functions and tables in the fields of its loaded modules. To be taken right before a pool's first
 * fork, and inherited by its workers, who name things by it in their results. Keeps nothing alive,
 * and holds no C pointers. */
void mch_baseline_take(lua_State *L);

/* The same for workers on other machines, which begin with a fresh state: of the globals only the
 * standard ones are known there, of the modules what their files give. */
void mch_baseline_take_remote(lua_State *L);

/* Before a later fork of the same pool: a global that differs from what was noted is sent from now
 * on whenever it is named, because workers differ in it. */
void mch_baseline_update(lua_State *L, int baseline);

/* In a worker that put another function in the place of a module's (os.exit): it is known by that
 * name from now on. */
void mch_baseline_replace(lua_State *L, int baseline, const char *module, const char *field);

#endif
