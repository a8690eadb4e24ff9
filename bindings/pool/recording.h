/* Runs in: parent.
 *
 * What a pool and the module mantichora.journal have of each other. The pool loads the module by
 * `require` when its option `journal` asks for one, and has it make a userdata, which begins with a
 * struct mch_journal: what stands there is all that the pool knows of journals. */
#ifndef MCH_RECORDING_H
#define MCH_RECORDING_H

#include <lua.h>
#include <stdint.h>

#include "runtime/engines/recorder.h"
#include "runtime/pool/pool.h"

#define MCH_JOURNAL_TYPE "mantichora journal"

/* A call that is to be run. Stack indices; 0: there is none. */
struct mch_asked {
  int function; /* its arguments stand behind it, up to the top of the stack */
  int options;  /* a table: `inputs`, `outputs`, `version`, `key` and `name` as run_with takes them,
                   and in a map `walk`, a table in which the journal keeps what all its items share
                 */
  int init;
  int baseline;       /* what the pool's workers have (graph.h), if there are any */
  int is_forked;      /* it is to run in a worker that stays */
  int hooked;         /* a table of what hooks have returned for it at `run` (graph.h) */
  lua_Unsigned outer; /* what tells the task apart in which this pool was made; 0: none */
  uint64_t task;      /* counts the tasks that run in this process, while one does; 0: none */
};

/* What a journal says of it. */
struct mch_reply {
  struct mch_record *record; /* to go with the task; NULL: it will not be recorded */
  int keyed;                 /* `stream` names its random numbers */
  uint64_t stream;
  unsigned char base[32]; /* likewise: what the call is, wherever it comes from */
  int hooked; /* registry reference to a table: what hooks have returned for the call (graph.h); 0:
                 none was called, or it was found */
  struct mch_found found; /* without a result: it was not found */
  int classes;  /* registry reference to a table: id of a class in what was found -> the class of
                   this script that it is; 0: there are none */
  void *memory; /* of what was found; freed by free(), or NULL */
  const char *warning; /* to be logged, or NULL; good until the next call */
};

struct mch_journal {
  const char *version; /* of mantichora, that both were built from */
  struct mch_recorder recorder;
  /* Look for a call. Raises what is wrong with its options; then nothing of `told` is to be freed.
   */
  void (*ask)(lua_State *L, struct mch_journal *journal, const struct mch_asked *asked,
              struct mch_reply *told);
  /* Is the call still what it was, as `base` of the reply says? Raises as `ask` does. */
  int (*is_same)(lua_State *L, struct mch_journal *journal, const struct mch_asked *asked,
                 const unsigned char base[32]);
  /* Workers will be forked from what this state is now, the first ones for the call that was asked
   * for last if `in_call`. `baseline`: a stack index. What they have of globals and modules is
   * noted in it, and what later calls need besides that. Raises on memory. */
  void (*forking)(lua_State *L, struct mch_journal *journal, int baseline, int in_call);
  /* The call that was asked for last, and goes with this record, was encoded with this baseline:
   * its classes have ids. Raises on memory. */
  void (*encoded)(lua_State *L, struct mch_journal *journal, int baseline,
                  struct mch_record *record);
  /* Something that the call of the function at this stack index was to see cannot be sent, in these
   * words: it will not be recorded. */
  void (*unsent)(lua_State *L, struct mch_journal *journal, int function, const char *what);
  /* The next thing that is to be logged once, its length, with its level: 1 at ERROR, 0 at WARNING.
   * 0: nothing. */
  size_t (*complaint)(struct mch_journal *journal, char *text, size_t room, int *is_error);
};

#endif
