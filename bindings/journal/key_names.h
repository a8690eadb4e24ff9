/* Runs in: parent.
 *
 * What goes into keys by name: modules, functions in C, the standard files, and what is
 * mantichora's own. An object that has several names gets the same one in every process. */
#ifndef MCH_KEY_NAMES_H
#define MCH_KEY_NAMES_H

#include <lua.h>

#include "files.h"

/* Stack indices of tables, which the keyer keeps. */
struct mch_names {
  int objects;  /* weak: function in C, file, light userdata -> "module.field" */
  int modules;  /* weak: table of a module -> its name */
  int owners;   /* "module.field" -> name of the module */
  int versions; /* name of a module -> what tells its library's version */
  int fresh;    /* they are as package.loaded is now */
};

enum mch_module_kind {
  MCH_MODULE_OTHER,
  MCH_MODULE_STANDARD, /* a library of Lua */
  MCH_MODULE_OURS      /* mantichora, or a part of it */
};

/* Look for modules that were loaded since `stamp` was made. Raises on memory. */
void mch_names_open(lua_State *L, struct mch_names *names, lua_Integer *stamp);

/* Push the name of the object at this index, and return 1; or 0. */
int mch_names_find(lua_State *L, struct mch_names *names, int object);

/* The name of the module whose table is at this index, or NULL: it is none. */
const char *mch_names_module(lua_State *L, const struct mch_names *names, int table);

enum mch_module_kind mch_names_kind(const char *module);

/* Push what tells the version of the function in C at this index, whose name is on top of the
 * stack: an empty string for what is known by name only. Raises on memory. */
void mch_names_push_version(lua_State *L, const struct mch_names *names, struct mch_files *files,
                            int function);

#endif
