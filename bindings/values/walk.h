/* Runs in: both.
 *
 * Walks through what values consist of: each object is looked at once, in the order in which it was
 * met. Who walks says what is met. */
#ifndef MCH_WALK_H
#define MCH_WALK_H

#include <lua.h>

struct mch_walk {
  int names;               /* stack index: objects of the baseline that go by name */
  int list, seen;          /* likewise: objects in their order; object -> true */
  lua_Integer first, last; /* of the list: looked at; met */
};

/* Push the three tables of a walk that has met nothing. */
void mch_walk_begin(lua_State *L, struct mch_walk *walk, int baseline);

/* Does the object at this index go by name? Has the walk not met it yet? */
int mch_walk_is_named(lua_State *L, const struct mch_walk *walk, int object);
int mch_walk_is_new(lua_State *L, const struct mch_walk *walk, int object);

/* The object at this index is to be looked at. */
void mch_walk_add(lua_State *L, struct mch_walk *walk, int object);

/* Push the next object to be looked at, if there is one. */
int mch_walk_next(lua_State *L, struct mch_walk *walk);

#endif
