/* Runs in: both.
 *
 * Classes and sentinels of the script keep their identity by an id. Whoever sends one for the first
 * time gives it one, and the id goes with it; the receiver remembers by which id its copy came, and
 * sends the id instead of the copy when it comes to go back. What is private to a module goes by
 * its name (private.h) and needs none.
 *
 *   parent                                worker
 *   class -> id, weakly                   copy -> id, weakly; many copies have one
 *   id -> class, weakly                   ids that came with the task at hand
 *   classes that were sent since the pool was last idle: held, so that answers find them
 *
 * A class that the parent may have dropped meanwhile, since it came with an earlier task, goes back
 * by its id and by value. All of it is part of the baseline. */
#ifndef MCH_CLASSES_H
#define MCH_CLASSES_H

#include <lua.h>

/* The kind of a class is in the low bits of its id: what it must be to go back as itself. */
enum mch_class_kind {
  MCH_CLASS,    /* nothing more */
  MCH_SENTINEL, /* still empty */
  MCH_MAYBE     /* a metatable or a class: it has only a field with the name of a metamethod */
};
#define MCH_CLASS_KIND(id) ((enum mch_class_kind)((id)&3))

/* Put the tables for all this into a new baseline. */
void mch_classes_begin(lua_State *L, int baseline);

/* The id of the class at this index, given if it has none. It is held from now on. Raises on
 * memory.
 */
lua_Integer mch_classes_send(lua_State *L, int baseline, int object, enum mch_class_kind kind);

/* Nothing needs the classes any more that were held before the last call of this: hold them no
 * longer. 0: none is held. Raises on memory. */
int mch_classes_age(lua_State *L, int baseline);

/* Workers inherit classes: give an id to each of those that the values at the stack indices
 * first..first+n-1 hold, and the globals, as far as 10,000 objects go, the nearest first. Is it the
 * whole state? Else what has a name is left out, which was looked at then. Raises on memory. */
void mch_classes_scan(lua_State *L, int baseline, int first, int n, int is_whole);

/* The copy at this index came as class `id` of the sender. Raises on memory. */
void mch_classes_receive(lua_State *L, int baseline, int copy, lua_Integer id);

/* A new task begins: what came with those before may be gone. Engine "snapshot": what the parent
 * holds has come with it. */
void mch_classes_begin_task(lua_State *L, int baseline, int is_inherited);

/* Does the key at this index look like the name of a metamethod? */
static inline int mch_classes_is_metamethod(lua_State *L, int key) {
  const char *name = lua_type(L, key) == LUA_TSTRING ? lua_tostring(L, key) : "";
  return name[0] == '_' && name[1] == '_';
}

/* Did class `id` come with the task at hand? */
int mch_classes_came(lua_State *L, int baseline, lua_Integer id);

#endif
