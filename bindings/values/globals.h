/* Runs in: both.
 *
 * The assignments that a message needs besides its values: globals that its code names and that
 * changed since the fork, and fields of custom environments. */
#ifndef MCH_GLOBALS_H
#define MCH_GLOBALS_H

#include <lua.h>
#include <stddef.h>

/* Stack slots from `slot` on: queue of targets and names, what is done, the baseline's parts,
 * functions that were followed, and names that these led to. */
enum { MCH_WANTS_SLOTS = 7 };

struct mch_wants {
  lua_State *L;
  int slot;
  int baseline;  /* stack index, or 0: globals do not travel */
  size_t queued; /* entries in the queue */
  size_t done;   /* entries in the list of what is done */
  size_t met;    /* functions that are followed: they are not sent, but what they name is wanted */
  size_t followed; /* of these, so many are done with */
  size_t names;    /* that were met since the first of those that are followed now */
  int calm;        /* nothing was met since that may be different the next time */
  int collect;     /* stack index of a table that gets names of globals instead; or 0 */
  int has_globals; /* the parts of the baseline are in their slots */
};

void mch_wants_init(struct mch_wants *wants, lua_State *L, int slot, int baseline);

/* Queue the names in the list at stack index `names` (of mch_bytecode_uses()) that the environment
 * at stack index `env` has to bring along; globals among them only, if it is put as a whole. */
void mch_wants_names(struct mch_wants *wants, int env, int names, int is_whole);

/* The function at this stack index is called there without being sent, since the receiver has it:
 * queue the globals that it names, and so on with the functions that these are, or that it has as
 * upvalues. C functions name none. */
void mch_wants_follow(struct mch_wants *wants, int function);

/* Queue the globals whose names are in the list at this stack index. */
void mch_wants_put(struct mch_wants *wants, int names);

/* Queue all fields of the table at this stack index, and its metatable. */
void mch_wants_all(struct mch_wants *wants, int env);

/* Push target and name of the entry `i` of the queue and return 1, unless that was done before:
 * then 0. The name is `true` for all fields. Counts as done from now on. */
int mch_wants_take(struct mch_wants *wants, size_t i);

/* Queue what a journal wants to go along (mch_modules_assign()): fields of modules. */
void mch_wants_assigned(struct mch_wants *wants);

/* The global whose name is at this stack index is sent: from now on it always is when it is named,
 * since the worker that gets it differs from the others. */
void mch_wants_sent(struct mch_wants *wants, int name);

/* Workers differ in the global whose name is at this stack index: likewise. */
void mch_globals_differ(lua_State *L, int baseline, int name);

/* Go back to an earlier state: only so many queued, done, and functions met. */
void mch_wants_cut(struct mch_wants *wants, size_t queued, size_t done, size_t met);

/* Push the field of an environment by the name at a stack index: found raw in it, or along the
 * __index tables of its metatables. 0 (pushes nothing): it is not there. -1 (pushes nothing): it
 * may be a global, since the chain ends in _G, or in a function, which may not be called. */
int mch_globals_find(lua_State *L, int env, int name);

/* For mch_bytecode_uses(): which upvalues of the function at this index may be environments. */
void mch_globals_wanted(lua_State *L, int function, unsigned char wanted[256]);

/* Does the chain of this environment end in _G, or in a function? */
int mch_globals_fall_back(lua_State *L, int env);

#endif
