/* Runs in: both.
 *
 * Words where in a message a value is: "argument 2.conn.socket", "upvalue 'file' of function
 * <img.lua:12>". The steps are given from the value outwards; each function starts a new part,
 * joined by "in". Too long a path keeps its inner end and its outermost step. */
#ifndef MCH_PATH_H
#define MCH_PATH_H

#include <lua.h>
#include <stddef.h>

#include "graph.h"

struct mch_path {
  char parts[512]; /* what is complete, inner end first */
  size_t length;
  char keys[160]; /* ".conn.socket", written from the end backwards */
  size_t start;
  int cut; /* keys were left out */
};

void mch_path_begin(struct mch_path *path);

/* The value is at the key at this stack index of the next value given; at an array index of it; is
 * one of its keys, its metatable, or what its hook returned. */
void mch_path_key(struct mch_path *path, lua_State *L, int key);
void mch_path_index(struct mch_path *path, lua_Integer index);
void mch_path_step(struct mch_path *path, const char *step);

/* It is (part of) an upvalue of this function. */
void mch_path_upvalue(struct mch_path *path, lua_State *L, int function, int upvalue);

/* It is (part of) an assignment to a global, or to a name in a custom environment (NULL: part of
 * that environment). */
void mch_path_set(struct mch_path *path, int global, const char *name);

/* It is (part of) the value 0, 1, ... of the message. */
void mch_path_root(struct mch_path *path, enum mch_graph_kind kind, int value);

/* There is no room for more steps: go on to the root. */
int mch_path_full(const struct mch_path *path);

/* Push the step that was given, when it was one; then what comes after the keys of deeper steps. */
void mch_path_push_step(const struct mch_path *path, lua_State *L);

/* Push the sentence's part. */
void mch_path_push(const struct mch_path *path, lua_State *L);

/* Whether these bytes are letters, digits and "_", and no digit first: `.name` and `name =` can be
 * said of such a key. */
int mch_path_is_name(const char *s, size_t length);

/* Push "function <img.lua:12>" for the function at this stack index. */
void mch_path_function(lua_State *L, int function);

#endif
