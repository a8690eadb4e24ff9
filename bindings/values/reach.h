/* Runs in: parent.
 *
 * What of a fresh state the code in a message can look into: which tables of the standard library,
 * and whether it can come to Lua modules. Who has to bring along what the script has changed there
 * looks only at what is in reach, for to look at all takes longer than a small task. Nothing is
 * left out: a table is in reach by its name, a string's by an index or a method of whatever value,
 * and all is by a name that is not known, by what is sent by name, and by code that cannot be read.
 */
#ifndef MCH_REACH_H
#define MCH_REACH_H

#include <lua.h>
#include <stddef.h>

/* Bits: a table of mch_reach_libraries each, in its order, and what comes by `require`. */
enum {
  MCH_REACH_LIBRARIES = 8,
  MCH_REACH_MODULES = 1 << MCH_REACH_LIBRARIES,
  MCH_REACH_ALL = 2 * MCH_REACH_MODULES - 1
};
extern const char *const mch_reach_libraries[MCH_REACH_LIBRARIES];

/* Of who gets a value by the names in the list on top of the stack, which mch_bytecode_uses() has
 * made, in a fresh state's globals. It is remembered in the list. */
unsigned mch_reach_of_names(lua_State *L);

/* Of the code of a dumped function, besides its environments: upvalues for which `wanted` is 1. */
unsigned mch_reach_of_code(lua_State *L, const void *dump, size_t length,
                           const unsigned char wanted[256]);

#endif
