/* Runs in: both (in the parent only with the inline engine).
 *
 * From a task's bytes to a call, under a traceback handler, and back to bytes. */
#ifndef MCH_LTASK_H
#define MCH_LTASK_H

#include <lua.h>

#include "bindings/values/steady.h"
#include "runtime/wire/codes.h"
#include "bindings/context.h"
#include "runtime/engines/engine.h"
#include "bindings/lwatch.h"
#include "tidy.h"
#include "lyoung.h"

struct call;

/* The state of Lua's own math.random, xoshiro256**, where it is kept in this way. */
struct mch_stream {
  uint64_t words[4];
};

/* What a worker needs to run tasks; part of the pool object, inherited through the fork. */
struct mch_ltask {
  lua_State *L;      /* the state's main thread, or any that lives as long */
  lua_State *thread; /* where tasks run; made when first needed */
  int anchor;        /* registry reference to it */
  struct mch_context *context;
  struct mch_output *output;
  int baseline; /* registry references; LUA_NOREF: none */
  int init, fini;
  int mapped;               /* of the batch that runs: its function, rebuilt */
  int mapped_own;           /* likewise: the classes that came with it, by id */
  struct mch_steady steady; /* likewise: how its tables looked */
  int unsteady;             /* likewise: it is rebuilt for each item */
  int factories;     /* in a worker: what makes closures of code that comes often (mch_decoder) */
  int lent;          /* what the spans of the last answer need */
  int payloads;      /* engine "snapshot": table of { n = , function, arguments ... } by number */
  struct call *call; /* the item that is called */
  struct mch_stream *stream; /* the state of math.random, if it is as we know it */
  int stream_known;          /* that was looked at */
  lua_Integer seed;
  struct mch_parent_heap heap; /* how the collector was made ready for workers */
  int hides_bars;              /* bars of tasks are not shown */
  int recorded;                /* results are written down: each is to stand for itself */
  int running;                 /* a task runs in this process */
  /* Engine "inline": the function and its arguments, `count` values, are on top of the stack. 1: it
   * has another random stream now. NULL: nobody wants to know. */
  int (*starting)(lua_State *L, struct mch_ltask *task, struct mch_run *run, int count);
  size_t memory;               /* limit of what a worker adds, bytes; 0: none */
  struct mch_lwatch watch;     /* in a worker */
  int watching;                /* it is installed */
  int covers;                  /* luacov counts lines in this worker */
  struct mch_tidy tidy;        /* what each task finds, whatever the one before has done */
  struct mch_young young;      /* likewise */
  struct mch_dictionary codes; /* what the pool told by CODE */
  int prepared;                /* init has run */
  int broken;                  /* init raised: `complaint` is the answer to the first task */
  int complaint;               /* registry reference to { message, traceback, shown, value } */
  /* On another machine: what workers set up first, a graph of init, fini and functions in tables of
   * the standard library; and whether it has the first two. */
  const unsigned char *setup;
  size_t setup_length;
  int has_init, has_fini;
  int remote;               /* messages have a trailer: see lglobals.h */
  int applied, globals_own; /* registry references: name of a global -> group that set it; id ->
                               class in those groups */
};

/* As struct mch_decoder wants it; `ud` is a task. */
const char *mch_ltask_find_code(void *ud, uint32_t id, size_t *length);

/* Names the format of bytecode and graphs in words, as another machine must have it: `room` bytes.
 */
enum { MCH_LTASK_FORMAT = 128 };
void mch_ltask_format(char room[MCH_LTASK_FORMAT]);

/* The runner of a pool whose `task` this is. */
struct mch_runner mch_ltask_runner(struct mch_ltask *task);

/* Run the user's `fini`, where `init` has not failed, for so many nanoseconds at most (0: any).
 * What it raises is logged. */
void mch_ltask_end(struct mch_ltask *task, uint64_t grace);

/* Push an integer from the running task's random stream. 0: there is no such stream. */
int mch_ltask_random(lua_State *L);

/* Keep math.random and math.randomseed as they are now. Called when the module opens. */
void mch_ltask_open(lua_State *L);

/* Free what a runner in this process has gathered (inline engine). */
void mch_ltask_close(lua_State *L, struct mch_ltask *task);

#endif
