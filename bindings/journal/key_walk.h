/* Runs in: parent.
 *
 * The walk of a key (key.h), for the files key_*.c: what it has met, and the bytes that are hashed.
 *
 * Objects are numbered as they are met and written out in that order, so the depth of a graph needs
 * no stack. The walk has two layers: what the function reaches, which all tasks of a call have in
 * common, and what a task has of its own, which is dropped before the next one.
 *
 *   value  := n | t | f                     nil, true, false
 *           | i 8 bytes | d 8 bytes         integer, float by its bits
 *           | s length bytes | S length hash
 *           | l | c length name version     light userdata 0; what goes by name
 *           | N type | R number             an object that is new; one that was met before
 *           | m length name                 a module that is new
 *   object := T [metatable] count values... count (key value)...
 *           | W [metatable]                 a weak table
 *           | H count values...             what the hook returned
 *           | F code count upvalue... globals...
 */
#ifndef MCH_KEY_WALK_H
#define MCH_KEY_WALK_H

#include <lua.h>

#include "files.h"
#include "hash.h"
#include "key_code.h"
#include "key_names.h"
#include "key_set.h"
#include "runtime/base/buf.h"

/* How an object is reached from another one, or what it is. */
enum mch_node_kind {
  MCH_NODE_FUNCTION = 1, /* the task's */
  MCH_NODE_INIT,
  MCH_NODE_ARGUMENT, /* `number` */
  MCH_NODE_UPVALUE,  /* `text` of function `parent` */
  MCH_NODE_GLOBAL,   /* `text` */
  MCH_NODE_MODULE,   /* `text`: the module's table, or its file's code */
  MCH_NODE_WORDS,    /* `text` says it */
  MCH_NODE_FIELD,    /* `text` of `parent` */
  MCH_NODE_INDEX,    /* `number` of `parent` */
  MCH_NODE_KEY,      /* another key of `parent`, in `text` */
  MCH_NODE_META,     /* metatable of `parent` */
  MCH_NODE_HOOK      /* what the hook of `parent` returned */
};

struct mch_node {
  unsigned char kind;
  unsigned char is_module;
  uint32_t parent; /* number of a node, from 1; 0: none */
  lua_Integer number;
  const char *text; /* held by the parent, by code, or for ever */
  size_t length;
};

/* A module that was met. */
struct mch_key_module {
  uint32_t node;
  uint32_t done; /* so many of the constants were looked for in it */
  unsigned char kind;
  unsigned char is_begun; /* its metatable was written */
  unsigned char is_whole; /* it is indexed otherwise than by constants */
  unsigned char is_whole_done;
  unsigned char is_meta; /* it is a metatable */
  unsigned char is_meta_done;
};

/* A global or a field of a module that was reached. The strings are held by code or the module. */
struct mch_reached {
  const char *module; /* NULL: a global */
  const char *name;   /* not terminated */
  size_t length;
};

/* What is dropped when a task is done: how much there was before. */
struct mch_key_mark {
  uint32_t nodes, done, functions;
  size_t constants, modules, reached;
};

struct mch_key_walk {
  lua_State *L;
  int queue; /* stack index of a table: number -> object */
  struct mch_names names;
  struct mch_codes codes;
  int chunks; /* stack index of a table: hash of a file -> its code as a function */
  struct mch_files *files;

  struct mch_buf nodes;                 /* of struct mch_node, from number 1 on */
  uint32_t done;                        /* so many were written out */
  struct mch_set met[2];                /* by layer: objects, variables, names, ... -> number */
  int layer;                            /* 0: common, 1: own */
  uint32_t variables;                   /* upvalues that were met */
  struct mch_buf constants;             /* of struct mch_key_text */
  struct mch_buf modules, modules_kept; /* of struct mch_key_module; as the common walk left them */
  struct mch_key_mark mark;

  struct mch_buf out; /* bytes to be hashed */
  size_t part;        /* where the part at hand begins */
  uint64_t part_hash; /* of what of it is not in `out` any more */
  int hashes;         /* `hash` has begun */
  struct mch_hash hash;
  struct mch_buf parts[2]; /* by layer: as in key.h */
  unsigned part_count[2];
  struct mch_buf text;   /* for paths */
  struct mch_buf keys;   /* for sorting */
  struct mch_buf inputs; /* the hashes of a task's inputs */
  int hooks;             /* called so far */
  /* A version stands for code (key_version.c). */
  int is_versioned;
  struct mch_key_walk *values; /* walks the values that code reaches, one by one */
  struct mch_key_walk *owner;  /* of such a walk: that which it is part of */
  int functions;               /* stack index of a list: those whose values count */
  int hooked; /* stack index of a table: object -> list of what its hook returned, [0] their number;
                 or of nil, which becomes one */
  int named[2]; /* by layer: stack index of a table: what numbers objects in those values -> object,
                or false if there are several such */
  uint32_t function_count, functions_done;
  struct mch_buf digests[2]; /* by layer: of these values */
  int is_state;              /* of `values`: what workers have is walked (key_state.c) */
  size_t most;               /* then: so many entries and objects, and no long strings; 0: all */
  struct mch_buf reached;    /* of struct mch_reached */
  char refused[300];         /* the path of what cannot be keyed */
};

/* ---- bytes (key_out.c) ---- */

void mch_key_out_byte(struct mch_key_walk *w, unsigned char byte);
void mch_key_out_number(struct mch_key_walk *w, uint64_t number);
void mch_key_out_bytes(struct mch_key_walk *w, const void *bytes, size_t count);
void mch_key_out_string(struct mch_key_walk *w, unsigned char tag, const char *s, size_t length);

/* What is written between belongs to the part of this node. `line`: of code, or -1. */
void mch_key_out_begin_part(struct mch_key_walk *w);
void mch_key_out_end_part(struct mch_key_walk *w, const struct mch_node *node, int line);
void mch_key_out_end_named_part(struct mch_key_walk *w, const char *name, size_t length);

/* Is there room for so many more parts? */
int mch_key_out_may_part(const struct mch_key_walk *w, size_t count);

/* The hash of all that was written; then nothing is. */
void mch_key_out_end(struct mch_key_walk *w, unsigned char hash[MCH_HASH_SIZE]);

/* ---- paths (key_path.c) ---- */

/* Append the words for a node to `text`. */
void mch_key_path(struct mch_key_walk *w, const struct mch_node *node, int line);

/* What is at this node cannot be keyed. Returns 0. `what`: NULL, or says why. */
int mch_key_refuse(struct mch_key_walk *w, const struct mch_node *node, const char *what);

/* ---- the walk (key_walk.c, key_table.c, key_function.c, key_modules.c) ---- */

/* Write the value on top of the stack, which is at this node. Pops it. 0: it cannot be keyed.
 * `followed`: the code tells what it does with it, if it is a module. */
int mch_key_walk_value(struct mch_key_walk *w, const struct mch_node *node, int followed);

/* Write the next object that was met. 0: it cannot be keyed. */
int mch_key_walk_next(struct mch_key_walk *w);

/* Write the objects that were met, and what of modules is named, until there are no more. */
int mch_key_walk_run(struct mch_key_walk *w);

/* The number of a key that was met; 0: it was not. Note one. Raises on memory. */
uint32_t mch_key_walk_met(const struct mch_key_walk *w, uint64_t key);
void mch_key_walk_meet(struct mch_key_walk *w, uint64_t key, uint32_t number);

/* Give the object at this index a number. Raises on memory. */
uint32_t mch_key_walk_add(struct mch_key_walk *w, int object, const struct mch_node *node);

static inline struct mch_node *mch_key_walk_node(const struct mch_key_walk *w, uint32_t number) {
  return (struct mch_node *)(void *)w->nodes.data + (number - 1);
}

static inline uint32_t mch_key_walk_nodes(const struct mch_key_walk *w) {
  return (uint32_t)(w->nodes.length / sizeof(struct mch_node));
}

/* Write the contents of object `number`, which is on top of the stack and stays. */
int mch_key_walk_table(struct mch_key_walk *w, uint32_t number);
int mch_key_walk_table_entries(struct mch_key_walk *w, uint32_t number);
int mch_key_walk_function(struct mch_key_walk *w, uint32_t number);

/* A module: its name, or its number when it was met before. */
int mch_key_walk_module(struct mch_key_walk *w, int table, const char *name,
                        const struct mch_node *node, int followed);

/* The module whose table is at this index was met. Returns its node's number. */
uint32_t mch_key_modules_meet(struct mch_key_walk *w, int table, const char *name, int *is_new);
void mch_key_modules_use(struct mch_key_walk *w, uint32_t node, int as_whole, int as_metatable);

/* Write what is named of modules by now: 1. 0: refused. *more: something was written. */
int mch_key_modules_step(struct mch_key_walk *w, int *more);

/* The constants of this code stand in the walk. */
void mch_key_modules_add_constants(struct mch_key_walk *w, const struct mch_key_code *code);

/* Follow what the function on top of the stack, whose code this is, does with modules. */
void mch_key_modules_follow(struct mch_key_walk *w, const struct mch_key_code *code);

/* The module at stack index `table` is argument `position` of the function on top. */
void mch_key_modules_pass(struct mch_key_walk *w, int table, int position);

/* Write the modules that the function on top requires by constants. */
int mch_key_modules_require(struct mch_key_walk *w, const struct mch_key_code *code);

/* Push the value of a name as code with the environment on top of the stack sees it. */
void mch_key_walk_global(struct mch_key_walk *w, int env, const char *name, size_t length);

/* ---- a version in the place of code (key_version.c) ---- */

/* Values of the function at this index count. */
void mch_key_version_follow(struct mch_key_walk *w, int function);

/* Count the value on top of the stack, which code reaches. Pops it. */
int mch_key_version_take(struct mch_key_walk *w, const struct mch_node *node, int followed);

/* Follow the functions that were met. *more is set if there were any. */
int mch_key_version_step(struct mch_key_walk *w, int *more);

/* Write what was counted in this layer. */
void mch_key_version_end(struct mch_key_walk *w);

/* A global (of no module) or a field of one was reached (key_state.c). */
void mch_key_state_reach(struct mch_key_walk *w, const char *module, const char *name,
                         size_t length);

/* The walk of a keyer, with what it needs on the stack (key.c). */
struct mch_key_walk *mch_keyer_walk(lua_State *L, int keyer);

/* Forget all that was met (key.c). The table at `queue` is to be a new one. */
void mch_key_walk_clear(struct mch_key_walk *w);

void mch_key_walk_no_memory(struct mch_key_walk *w);

#endif
