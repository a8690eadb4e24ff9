/* Runs in: both.
 *
 * Values that are sent by name: the modules in package.loaded, their functions, their classes, and
 * the three standard files. Names are looked up raw. */
#ifndef MCH_MODULES_H
#define MCH_MODULES_H

#include <lua.h>
#include <stdint.h>

/* The parts of a baseline table (mch_baseline_take), by their array index. */
enum mch_baseline_part {
  MCH_BASELINE_MODULE = 1,  /* weak: object -> name of its module, or id of a class (classes.h) */
  MCH_BASELINE_FIELD,       /* object -> field in that module; nothing for the module itself */
  MCH_BASELINE_LOADED,      /* module -> true when noted at the fork, false when loaded later */
  MCH_BASELINE_STAMP,       /* a sum over package.loaded, to see cheaply that it did not change */
  MCH_BASELINE_GLOBALS,     /* weak: global -> value at the fork */
  MCH_BASELINE_PRESENT,     /* global -> true if it was not nil, false if workers differ in it */
  MCH_BASELINE_CODES,       /* weak: function -> id of its bytecode */
  MCH_BASELINE_USES,        /* id of bytecode -> what mch_bytecode_uses() says */
  MCH_BASELINE_NAMES,       /* weak: function that is not sent -> what mch_bytecode_uses() says */
  MCH_BASELINE_CALM,        /* weak: such a function -> list of all names that it leads to */
  MCH_BASELINE_CLASSES,     /* weak: id of a class -> the class */
  MCH_BASELINE_HELD,        /* classes that answers may name -> id */
  MCH_BASELINE_HELD_BEFORE, /* likewise, those that were sent a while ago */
  MCH_BASELINE_CAME,        /* ids of classes that came with the task at hand -> true */
  MCH_BASELINE_STATE,       /* what a journal has noted of globals and fields of modules; or nil */
  MCH_BASELINE_ASSIGNED,    /* list of modules and fields that go along with each task; or nil */
  MCH_BASELINE_REMOTE,      /* true: workers begin with a fresh state, on any machine */
  MCH_BASELINE_PARTS = MCH_BASELINE_REMOTE
};

/* Note the fields of all modules that are loaded now, in a baseline table. */
void mch_modules_note(lua_State *L, int baseline);

/* This baseline was taken last: mch_modules_push_former() asks it. */
void mch_modules_note_latest(lua_State *L, int baseline);

/* For looking up many objects: stack indices, all filled by mch_modules_open(). */
enum { MCH_MODULES_SLOTS = 4 };
struct mch_modules {
  int module_of, field_of, loaded, baseline;
  int opened;
  lua_Integer id; /* of the class that was looked for last and has no name; 0: it has none either */
  int fresh;      /* modules loaded since the fork have been looked for */
  size_t missed;  /* objects that had no name */
  int filtered;   /* `filter` is filled */
  uint64_t
      filter[128]; /* bits for the addresses that have a name, good while the message is encoded */
};

/* Fill four stack slots from `slot` on. baseline: a stack index, or 0. */
void mch_modules_open(lua_State *L, struct mch_modules *modules, int slot, int baseline);

/* Does this baseline have a name for the object at this index? The name may mean something else by
 * now. */
int mch_modules_have_noted(lua_State *L, int baseline, int object);

/* Is the object at this index known by name, and does the name still mean it? Then push the
 * module's name and the field (nil for the module itself) and return 1; else 0. For a table that is
 * used as a metatable, `as_metatable` is true. Functions in Lua that workers may not have by that
 * name are not known. */
int mch_modules_find(lua_State *L, struct mch_modules *modules, int object, int as_metatable);

/* Whether the table has no field. Raw. */
int mch_modules_is_empty(lua_State *L, int table);

/* Is the table at this index a class or a sentinel, whatever it is used as? A class has a raw
 * __index, which its instances share, or a metatable with __call, its constructor; a sentinel is
 * empty, with a metatable that has neither __index nor __newindex. */
int mch_modules_is_class(lua_State *L, int object);

/* Push the name of the module that the class at this index was of before that was loaded anew, or
 * nil. For messages: it is a guess by what the module's tables look like now. */
void mch_modules_push_former(lua_State *L, const struct mch_modules *modules, int object);

/* Can the object at this address have a name? Quick, and sometimes wrong when it says so. */
static inline int mch_modules_may_know(const struct mch_modules *modules, const void *object) {
  uint64_t hash = (uint64_t)(uintptr_t)object * UINT64_C(0x9e3779b97f4a7c15) >> 51;
  return !modules->filtered || (modules->filter[hash >> 6] >> (hash & 63) & 1) != 0;
}

/* Workers have another value in this field of the module: it goes along with each task from now on.
 * What is in it loses its name, so that it goes by value. Raises on memory. */
void mch_modules_assign(lua_State *L, int baseline, const char *module, const char *field);

/* The other way: push the object that a name stands for and return 1. Else push a message and
 * return 0. `field` may be the index of a nil. `loaded`: NULL, or the module is
 * required if it is not loaded, and *loaded set. */
int mch_modules_resolve(lua_State *L, int baseline, int module, int field, int *loaded);

#endif
