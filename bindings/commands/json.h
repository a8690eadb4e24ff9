/* Runs in: both.
 *
 * JSON, exact: numbers keep their kind and all their digits, null, empty lists and empty objects
 * stay what they were, strings may have any bytes, and the keys of an object are written in the
 * order of their names. yajl reads, because it hands numbers over as text.
 *
 * In Lua null is a light userdata without an address (as cjson.null is), a list is a table with
 * one metatable, an object is a table without. */
#ifndef MCH_JSON_H
#define MCH_JSON_H

#include <stddef.h>

#include "bindings/commands/text.h"

/* Lists and objects may stand so deep in each other. */
enum { MCH_JSON_DEPTH = 10000 };

/* A reader is a userdata on top of the stack afterwards; NULL: this program was built without yajl.
 */
struct mch_json_reader;
struct mch_json_reader *mch_json_new_reader(lua_State *L);

/* Push the one value of these bytes: 1. Or push nothing: 0, *column (from 1, in bytes) and
 * *message (valid until the next call) say what is wrong. Raises errors of memory only. */
int mch_json_read(lua_State *L, struct mch_json_reader *reader, const char *bytes, size_t length,
                  size_t *column, const char **message);

/* Append the value at `index`. Raises what cannot be written, with its path. */
void mch_json_write(lua_State *L, int index, struct mch_text *text);

/* Append a number as JSON and Lua write it: a float has a point or an exponent. Raises that inf
 * and nan are no JSON if `is_json`. */
void mch_json_write_number(lua_State *L, int index, struct mch_text *text, int is_json);

/* Whether the value is null. */
int mch_json_is_null(lua_State *L, int index);

/* Push the metatable of lists. */
void mch_json_push_list_metatable(lua_State *L);

/* A C function, list([table]): the table, or a new one, which is a list from now on. */
int mch_json_list(lua_State *L);

#endif
