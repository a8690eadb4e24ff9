/* Runs in: parent.
 *
 * What makes two tasks the same task: a hash of what they consist of, equal in every process and
 * run. A walk goes through the function and all that it reaches, in an order that depends on the
 * values only:
 *
 *   - of Lua functions the code without lines and names, the upvalues, the globals that the code
 *     names; C functions, and what is mantichora's own, by name;
 *   - tables raw, keys sorted; an object that was met before by its number, so that shared ones and
 *     equal ones differ;
 *   - of modules the fields whose names stand as constants in the walked code, or all.
 *
 * A keyer is one state's memory for that. To make keys: begin with the function, then ask for the
 * key of each task of it (one of `run`, many of `map`), then end.
 *
 *   mch_keyer_push(L)                                     once a state; keep it anchored
 *   if (mch_keyer_begin(L, keyer, &call)) {               once a call of run, run_with, map, imap
 *     if (mch_keyer_task(L, keyer, &task, &keyed)) {      for each task
 *       mch_key_finish(&keyed, &place, key);              what it is the how manieth of, and where
 *       ... write down key and parts ...
 *     } else ... unrecorded; the path on top of the stack says what cannot be keyed ...
 *   } else ... likewise, for all tasks of the call ...
 *   mch_keyer_end(L, keyer)                               also after a failure
 *
 * All of it runs on the thread of Lua. */
#ifndef MCH_KEY_H
#define MCH_KEY_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "files.h"
#include "hash.h"

/* What all tasks of a call have in common. Stack indices of Lua values; 0: there is none. */
struct mch_key_call {
  int function; /* or a callable table */
  int init;     /* the pool's option */
  int name;     /* counts only with `version` */
  int version;  /* a string or a number. Without a name mch_keyer_begin() raises */
};

/* What a task has of its own. */
struct mch_key_task {
  int first, n; /* its arguments: the values at stack index `first` and after it */
  int inputs;   /* stack index of a list of paths; 0: none */
  int outputs;  /* likewise */
};

/* What came of it. The bytes are the keyer's: good until its next call. */
struct mch_keyed {
  unsigned char base[MCH_HASH_SIZE]; /* equal tasks have equal ones */
  /* Parts of the function and what it reaches, equal for all tasks of a call as long as their
   * `common_hash` is: to be written once. */
  const char *common;
  size_t common_length;
  unsigned char common_hash[MCH_HASH_SIZE];
  /* Parts of the arguments, inputs and outputs. */
  const char *own;
  size_t own_length;
  const unsigned char *input_hashes; /* of each input, one after the other */
  int hooks;                         /* `__mantichora` hooks that were called for it */
  /* What the inputs contain: mch_keyer_inputs() says the same later, if none has changed. */
  unsigned char inputs[MCH_HASH_SIZE];
};

/* Push a new keyer. Raises on memory. */
void mch_keyer_push(lua_State *L);

/* Walk the function. `keyer`: a stack index. 1: go on. 0: it cannot be keyed; pushes the sentence's
 * part that says which value it is ("upvalue 'co' ..."). Raises on memory, and for a version
 * without name. */
int mch_keyer_begin(lua_State *L, int keyer, const struct mch_key_call *call);

/* Make the key of a task of that function. 1: it is there. 0: as above ("argument 1[table]").
 * Raises on memory, and if a file of the inputs is a directory or cannot be read. */
int mch_keyer_task(lua_State *L, int keyer, const struct mch_key_task *task,
                   struct mch_keyed *keyed);

/* Drop what the walk holds on to. Raises nothing. */
void mch_keyer_end(lua_State *L, int keyer);

/* Hash the files in the list at stack index `inputs` as they are now. Raises as above. */
void mch_keyer_inputs(lua_State *L, int keyer, int inputs, unsigned char hash[MCH_HASH_SIZE]);

/* Push a table of what the last mch_keyer_task() has met: number -> object, equal for equal keys in
 * every process. 0: nothing but the function. To be left as it is. */
int mch_keyer_push_walked(lua_State *L, int keyer);

/* What hooks have returned for the call at hand, a table as that of an encoder (graph.h): give the
 * one at this stack index (0: none) before a walk, so that those in it are not called; or push the
 * one that there is after a walk. */
void mch_keyer_set_hooked(lua_State *L, int keyer, int hooked);
void mch_keyer_push_hooked(lua_State *L, int keyer);

/* The keyer's hashes of files (files.h). */
struct mch_files *mch_keyer_files(lua_State *L, int keyer);

/* ---- the whole key ---- */

/* What tells equal tasks apart. */
struct mch_key_place {
  const unsigned char *seed; /* the journal's, MCH_HASH_SIZE bytes */
  const unsigned char
      *outer; /* key of the task that this one's pool was made in, MCH_HASH_SIZE bytes; or NULL */
  int key;    /* stack index of the `key` of run_with; 0: none */
  uint64_t occurrence; /* without `key`: so many equal tasks came before in this process */
};

/* Mix the base key with its place. Raises nothing. */
void mch_key_finish(lua_State *L, const struct mch_keyed *keyed, const struct mch_key_place *place,
                    unsigned char key[MCH_HASH_SIZE]);

/* ---- what workers have ---- */

/* A key is to describe what its task sees, and workers see globals and modules as they were at the
 * fork. So these are hashed before a fork, and again when a task reaches them: those that differ,
 * or of which that is not known, go along from then on, as if they had been assigned (globals.h,
 * modules.h). What is noted is in the baseline, MCH_BASELINE_STATE:
 *
 *   "name" or "module\0field" -> hash, or true: it goes along already */

/* A call is asked for in which the first workers may be forked. */
void mch_keyer_new_call(lua_State *L);

/* Look at what the last mch_keyer_begin() has reached, or, if `is_own`, mch_keyer_task().
 * `baseline`: a stack index; 0: the first fork comes in this call. Raises on memory. */
void mch_keyer_compare(lua_State *L, int keyer, int baseline, int is_own);

/* Workers are about to be forked. `in_call`: for the first task, whose state was looked at. Raises
 * on memory. */
void mch_keyer_forking(lua_State *L, int keyer, int baseline, int in_call);

/* ---- parts ---- */

/* The blobs `common` and `own` are lists of parts: a path in words ("upvalue 'cfg'.quality") and a
 * hash of 8 bytes of what is there. They refer to nothing outside and may be kept for ever.
 *
 *   parts := (length:varint path hash:8)*
 *
 * Reads the next part at *at, which moves behind it. 0: there is none, or the bytes are damaged. */
struct mch_key_part {
  const char *path; /* not terminated */
  size_t length;
  uint64_t hash;
};
int mch_key_next_part(const char **at, const char *end, struct mch_key_part *part);

/* In how many parts does a task differ from an earlier one? Code that was moved, and a value whose
 * variable has another name now, are the same. The first of these in the order of the
 * newer goes to *first, or, if all of its parts are in the older, one that the older only has. */
size_t mch_key_difference(const char *older, size_t older_length, const char *newer,
                          size_t newer_length, struct mch_key_part *first);

/* For specs, of Lua: key(options, f, ...) -> key, a list of parts, their bytes; or nil, what cannot
 * be keyed. Options: inputs, outputs, name, version, init, key, occurrence, seed. And
 * difference(older, newer) of the bytes of parts -> count, the first. */
int mch_key_lua(lua_State *L);
int mch_key_difference_lua(lua_State *L);

#endif
