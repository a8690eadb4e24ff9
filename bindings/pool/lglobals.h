/* Runs in: both.
 *
 * Globals for workers that begin with a fresh state. Those that a message names travel apart from
 * it, in groups that are sent once to each machine while their content stays the same, and are set
 * once in each worker: what tasks do to them there stays. The message says which it needs:
 *
 *     message := graph trailer u32(length of the trailer)
 *     trailer := nothing | u32(n) (u32(group) u32(length) name)*n
 *     group   := a graph whose values are the classes in it, with an assignment for each name
 *
 * The name "" stands for functions that the script put into the standard library: its group is a
 * graph with a list of { module, field, function }. */
#ifndef MCH_LGLOBALS_H
#define MCH_LGLOBALS_H

#include <lua.h>

#include "bindings/values/graph.h"
#include "bindings/values/reach.h"

struct lpool;
struct mch_hosts;
struct mch_ltask;

/* An encoder for something of the pool's own: into `scratch` and `ids` of its hosts. */
void mch_lglobals_set_up(struct lpool *lpool, int baseline, struct mch_encoder *encoder);

/* Push an empty set for the option `collect` of an encoder. */
void mch_lglobals_push_names(lua_State *L, struct mch_hosts *hosts);

/* After a message was encoded with `collect`, and mostly `reach` (NULL: it may be all): see to it
 * that the globals in the set at `names` will be there, and what else of the script is in reach
 * (all, if there are any), and append the trailer to it. 1: some of its classes are in those
 * groups: it is to be encoded anew with the set of them that was pushed as `own`. Raises on memory.
 */
int mch_lglobals_seal(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder, int names);

/* In a worker: set what the trailer at the end of these bytes needs. Returns the length of the
 * graph before it; pushes the table of classes that the graph may name by id, or nil. Raises. */
size_t mch_lglobals_apply(lua_State *L, struct mch_ltask *task, const unsigned char *bytes,
                          size_t length);

/* Push the list of { module, field, function } of functions in Lua that stand in tables of the
 * standard library. */
void mch_lglobals_push_additions(lua_State *L);
/* A sum over them for each of those tables that is in reach (reach.h). */
void mch_lglobals_stamp_additions(lua_State *L, struct mch_hosts *hosts, unsigned reach,
                                  uint64_t stamps[MCH_REACH_LIBRARIES]);

/* Push the module `package`, or its table of functions that load modules, as they were first seen;
 * their type. */
int mch_lglobals_push_package(lua_State *L, struct mch_hosts *hosts, int preload);

/* A lua_CFunction, called with the task in a worker: what workers of another machine set up first.
 */
int mch_lglobals_decode_setup(lua_State *L);

#endif
