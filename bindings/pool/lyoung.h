/* Runs in: both.
 *
 * Generational collection over a large heap that workers inherit. A minor collection does not touch
 * old objects, so that their pages stay shared; a major one visits all of them, and the worker then
 * has its own copy of every page. So a worker makes only minor collections, and times them: what
 * lives through two of them becomes old, and is never freed. The worker's allocator knows how much
 * memory is young, and requests a collection when the young generation has grown beyond the largest
 * structure that was built so far; what is built and dropped then never becomes old. Objects that
 * became old nevertheless and died are garbage that only a major collection would free: when that
 * has grown large the worker leaves, between two tasks, and the pool forks another. */
#ifndef MCH_LYOUNG_H
#define MCH_LYOUNG_H

#include <lua.h>
#include <stddef.h>

#include "bindings/lwatch.h"

/* What the parent settles before a fork. */
struct mch_parent_heap {
  size_t size;   /* bytes when all of it was last made old; 0: the collector is left as it is */
  size_t base;   /* bytes when all of it was last walked through */
  int old;       /* registry reference to what only a major collection finalizes */
  int nworkers;  /* set before: what they may waste is divided among them */
  int was_young; /* the parent's collector was generational before */
};

/* In a worker. Sizes are of what it has added since its fork, in bytes. */
struct mch_young {
  struct mch_lwatch *watch; /* NULL: the collector is not driven by us */
  size_t least;             /* size of the young generation at least */
  size_t spare;             /* may become old garbage before the worker leaves */
  size_t slack;             /* may be wasted where structures are built */
  size_t left;              /* by the last collection */
  size_t room;              /* until the next one */
  size_t structure;         /* the largest that was seen to be built lately */
  size_t base;              /* there after the first task */
  size_t check;             /* a task that leaves more is looked at */
  size_t volume;            /* that may be made while something is built */
  int grows;                /* something was at the last collection */
  int rested;               /* a task has ended since the last collection */
  int settled;              /* the first task has ended */
  int armed;                /* collections are told */
  int major;                /* a major collection was made */
};

/* Before the first fork of a pool, where the heap is large: make the collector generational, and
 * all that is there old. Does nothing where Lua cannot do it well. Raises errors of memory. */
void mch_parent_heap_prepare(lua_State *L, struct mch_parent_heap *heap);

/* Before each later fork: the same for what was made since. May run finalizers. */
void mch_parent_heap_renew(lua_State *L, struct mch_parent_heap *heap);

/* Go back to the collector that this state had. */
void mch_parent_heap_restore(lua_State *L, struct mch_parent_heap *heap);

/* In a new worker with its allocator, before anything is run. Raises errors of memory. */
void mch_young_begin(lua_State *L, struct mch_young *young, const struct mch_parent_heap *heap,
                     struct mch_lwatch *watch);

/* What `init` did is not counted. */
void mch_young_forgive(struct mch_young *young);

/* After a task: whether this worker should make room for another. May run finalizers. */
int mch_young_is_spent(lua_State *L, struct mch_young *young);

#endif
