/* Runs in: both.
 *
 * Many items of a map may share one copy of their function, and of the classes of their objects, as
 * long as no call changes it: each is to find them as they were. What a function keeps in upvalues
 * is known not to change if no code assigns to one. What is in tables is looked at after each call:
 * a copy that differs then is rebuilt for the next. So the tables must be few and small. */
#ifndef MCH_STEADY_H
#define MCH_STEADY_H

#include <lua.h>
#include <stdint.h>

/* What is looked at at the most: functions and tables, and entries of tables. */
enum { MCH_STEADY_OBJECTS = 300, MCH_STEADY_ENTRIES = 600 };

/* In the parent: whether the n values from stack index `first` on can be shared so: they consist of
 * plain values, functions in which no code assigns to an upvalue, few tables, and what goes by
 * name. May say no where the answer is yes. `baseline`: a stack index. May raise on memory. */
int mch_steady_is(lua_State *L, int baseline, int first, int n);

/* How the tables in the copy of a worker looked. */
struct mch_steady {
  int anchors; /* registry reference to all that was seen; LUA_NOREF: nothing is watched */
  int tables;  /* the first so many of them are the tables to be looked at */
  uint64_t digest;
};

/* In the worker: watch the n values from stack index `first` on. 0: they are too many, or too
 * large. May raise on memory. */
int mch_steady_watch(lua_State *L, struct mch_steady *steady, int baseline, int first, int n);

/* Are all tables as they were? Raises nothing. */
int mch_steady_is_same(lua_State *L, const struct mch_steady *steady);

void mch_steady_forget(lua_State *L, struct mch_steady *steady);

#endif
