/* Runs in: both.
 *
 * What a module holds in private: tables that only its functions know, as upvalues, directly or by
 * way of other functions and tables (`local mt = {}` in a file that returns functions). Each gets a
 * path from its module, which both sides can follow: "\0.diff\0^3" is upvalue 3 of the field diff.
 *
 *   path := (NUL step)*
 *   step := .key         a field
 *         | #integer     likewise
 *         | ^number      an upvalue
 *         | @            the metatable
 *
 * A path stands where the name of a field does (modules.h); no field's name begins with a NUL. */
#ifndef MCH_PRIVATE_H
#define MCH_PRIVATE_H

#include <lua.h>
#include <stddef.h>

/* So many objects are looked at when the modules of a state are noted. The nearest come first. */
enum { MCH_PRIVATE_MOST = 20000 };

/* Walking the modules of a state. Stack indices. */
struct mch_private {
  int queue, seen;         /* to be looked at: object, its path; objects that were queued */
  int module_of, field_of; /* of the baseline: what has a name, and gets one */
  lua_Integer first, last; /* in the queue */
  size_t left;             /* of MCH_PRIVATE_MOST */
  int module;              /* name of the module at hand */
  int is_globals;          /* it is _G */
  int (*is_own)(lua_State *L, int module); /* is the Lua function on top from the module's file?
                                              NULL: all are taken */
};

/* Push two tables for a walk and set it up. */
void mch_private_begin(lua_State *L, struct mch_private *walk, int module_of, int field_of);

/* Name what is held by the functions of the module whose name is at index `module`, and whose value
 * is at `value`. Of the globals, only functions are looked at, of other modules classes, too. */
void mch_private_note(lua_State *L, struct mch_private *walk, int module, int value);

/* Is the value at this index a path? */
int mch_private_is_path(lua_State *L, int field);

/* Push what is at the end of the path at index `path` from the value at index `module`, or nil. */
void mch_private_follow(lua_State *L, int module, int path);

/* Push the path in words: "diff, upvalue 3". */
void mch_private_push_words(lua_State *L, int path);

#endif
