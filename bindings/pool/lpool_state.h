/* Runs in: both.
 *
 * What the rooms of the pool object share. */
#ifndef MCH_LPOOL_STATE_H
#define MCH_LPOOL_STATE_H

#include <lua.h>

#include "bindings/values/code.h"
#include "bindings/values/graph.h"
#include "lpool.h"
#include "ltask.h"
#include "recording.h"
#include "runtime/pool/pool.h"

#define TYPE "mantichora pool"

/* How hooks of one Lua thread looked when they were last known to be harmless. */
struct hooks {
  lua_Hook hook;
  int mask;
};

struct lpool {
  struct mch_pool *pool;   /* NULL: closed */
  struct mch_group group;  /* the tasks of run() */
  struct mch_ltask task;   /* for the workers */
  struct mch_hosts *hosts; /* of a pool over many machines; else NULL */
  int leave_failed;        /* bars of what ended well go */
  int shows_bars;          /* of its tasks */
  struct mch_output *output;
  struct mch_task *taken;     /* between being taken and being turned into values */
  struct mch_task *left;      /* was taken for the next take() of a task of run() */
  struct mch_task *held;      /* taken by calls in which other code may run; linked by next */
  unsigned decoding;          /* calls that rebuild a result: its bytes are to stay */
  unsigned handing;           /* calls that hand over what they have taken: the pool is to stay */
  int in_bulk;                /* several results are handed over, one after the other */
  struct mch_answers answers; /* between being taken and being turned into values */
  struct mch_buf graph, spans, ids, record; /* while encoding; a log record */
  int lent;                                 /* likewise: registry reference to what `spans` need */
  struct mch_cargos spent; /* cargo whose anchor, such a reference, is to be freed */
  struct mch_code_memory code_memory;
  struct hooks main_hooks, own_hooks;
  struct mch_mark mark; /* of the process that made it */
  uint64_t payloads;    /* engine \"snapshot\": the last number given to one */
  int holds;            /* classes are held for answers (classes.h) */
  uint64_t held_until;  /* those held before are for tasks below this */
  int encoding;         /* `graph` and `ids` are in use */
  int batches;          /* small tasks of one function may travel together */
  int started;          /* has had workers */
  uint64_t pumped;      /* when the owner last pumped */
  size_t capture_warn;  /* warn of messages above so many bytes; 0: never */
  uint64_t weight;      /* bytes of the last result that was taken */
  int asked;         /* registry reference, engines "snapshot" and "inline": what the last call was
                        asked for with */
  int warned;        /* registry reference: the functions that were warned of (weak keys) */
  int keep_gc;       /* the collector was seen to, or is not to be touched */
  uint64_t visit;    /* of the state, when this pool was last looked at */
  int joined;        /* the state's poller hears it */
  int ready;         /* and has named it */
  unsigned nworkers; /* at most */
  int frugal;        /* as last told to the pool */
  size_t max_queued; /* so many tasks of run() may be queued before it waits; 0: any */
  int causes;        /* registry reference: failures that have halted tasks, by run ID (weak) */
  int place;         /* registry reference: where the function `place_code` is defined */
  uint32_t place_code; /* its id; 0: none yet */
  int is_inline;       /* tasks run in this process */
  int listens;         /* some function of the script is to be told of events */
  int listening;       /* or a sink of the program in C */
  int places;          /* registry reference: where functions are defined, by their bytecode's id */
  uint64_t number;     /* tells the pools of a state apart */
  struct mch_journal *journal; /* NULL: none */
  int journal_anchor;          /* registry reference to it */
  struct mch_reply told;       /* what it has said of the call that is being run */
};

enum {
  FRESH_NANOSECONDS = 200000,
  MOST_PIECES = 32,               /* of results, between two looks at anything else */
  SLICE = 20000000,               /* nanoseconds between looks where no descriptor tells */
  MEMORY_SLACK = 64 * 1024 * 1024 /* what C may add besides Lua before the system's limit */
};

/* What a wait looks at to know of signals. */
struct mch_look {
  lua_State *L, *main;
  const struct hooks *own_hooks, *main_hooks;
  int (*woken)(void); /* NULL: nobody else knows of signals */
};

/* -- groups ------------------------------------------------------------------------------- */

#define GROUP "mantichora group"

/* The tasks of one map or imap: a userdata that holds its group until it is abandoned. Its user
 * values are the pool, and the list of the classes that go with its function. */
struct lgroup {
  struct lpool *lpool;
  struct mch_group *group; /* NULL: abandoned */
  /* The function whose items travel in batches, as it was when the first one was made. */
  enum { UNSEEN, STEADY, UNSTEADY } kind;
  int named;                    /* globals go along, which may change from batch to batch */
  int shares;                   /* the classes of the items may go with it */
  struct mch_steady steady;     /* how the tables of these looked then */
  struct mch_buf function, ids; /* its graph, and the bytecode that this needs */
  uint64_t glanced;             /* when the caller was last about to ask its iterator */
  unsigned slow;                /* so many more of its steps are taken for slow */
};

enum {
  LATE = 1000000,  /* nanoseconds: after so long it is looked again whether something has ended */
  SLOW = 5000000,  /* nanoseconds that a slow step of an iterator takes */
  SLOW_STEPS = 500 /* after one, and at first, so many are taken for slow */
};

/* -- waiting for something ---------------------------------------------------------------- */

enum condition {
  UNTIL_ONE,
  UNTIL_MANY,
  UNTIL_ALL,
  UNTIL_IDLE,
  UNTIL_BELOW,
  UNTIL_GONE,
  UNTIL_ROOM,
  UNTIL_KNOWN,
  UNTIL_TIME
};

/* What a wait is for. */
struct goal {
  enum condition condition;
  const struct mch_group *group; /* ONE, MANY, ALL */
  uint64_t limit;                /* BELOW, KNOWN; MANY: so many; ROOM: fewer are queued */
};

/* A large graph goes with its task as it is. */
enum { CARGO_FROM = 1024 * 1024 };

/* -- many at once, or none ----------------------------------------------------------------- */

#define TASKS "mantichora tasks"

/* -- lpool_state.c */

int mch_lpool_push_problem(lua_State *L, const struct lpool *lpool);
int mch_lpool_is_open(const struct lpool *lpool);
int mch_lpool_raise_at_caller(lua_State *L);
int mch_lpool_raise_type(lua_State *L, int number, int index, const char *expected);
int mch_core_typename(lua_State *L);
int mch_core_raise(lua_State *L);
int mch_core_argument(lua_State *L);
struct lpool *mch_lpool_to_pool(lua_State *L);
struct lpool *mch_lpool_check_pool(lua_State *L);
int mch_lpool_raise_sentence(lua_State *L, const char *sentence);
int mch_lpool_raise_closed(lua_State *L);
int mch_lpool_raise_error(lua_State *L, const struct mch_error *error);
void mch_lpool_forget_function(struct lgroup *lgroup);
struct mch_group *mch_lpool_group_arg(lua_State *L, struct lpool *lpool, int index);
uint64_t mch_lpool_deadline_arg(lua_State *L, int index);
struct mch_halt mch_lpool_halt_arg(lua_State *L, int index);
void mch_lpool_set_integer(lua_State *L, const char *name, lua_Integer value);

/* -- lserve.c */

void mch_lserve_deliver_logs(lua_State *L, struct lpool *lpool);
void mch_lserve_prepare_collector(lua_State *L, struct lpool *lpool);
void mch_lserve_take_baseline(lua_State *L, struct lpool *lpool);
void mch_lserve_release_lent(lua_State *L, struct lpool *lpool);
void mch_lserve_release_spent(lua_State *L, struct lpool *lpool);
void mch_lserve_store_pieces(lua_State *L, struct lpool *lpool, int most);
void mch_lserve_pump(lua_State *L, struct lpool *lpool, int frugal);

void mch_lserve_release_classes(lua_State *L, struct lpool *lpool);

/* -- lwait.c */

lua_State *mch_lwait_main_thread(lua_State *L);
struct hooks mch_lwait_hooks_of(lua_State *L);
int mch_lwait_interrupted(void *ud);
void mch_lwait_obey_hooks(lua_State *L, struct mch_output *output, struct hooks *own_hooks,
                          struct hooks *main_hooks, int is_ending);
int mch_lwait_wait_for(lua_State *L, struct lpool *lpool, const struct goal *goal, uint64_t until);
void mch_lwait_for_room(lua_State *L, struct lpool *lpool);
int mch_lwait_for_cancelled(lua_State *L, struct lpool *lpool, uint64_t runid);
int mch_core_wait(lua_State *L);
int mch_core_pump(lua_State *L);

/* -- lpools.c */

struct mch_poller *mch_lpools_poller(lua_State *L, struct mch_error *error);
int mch_lpools_join(struct mch_poller *poller, struct lpool *lpool, struct mch_error *error);
/* Tell all pools of this state the lowest level of log records that is wanted. */
void mch_lpools_log_threshold(lua_State *L, int level);
int mch_core_sleep(lua_State *L);

/* -- lrun.c */

int mch_core_group(lua_State *L);
int mch_core_go_on(lua_State *L);
int mch_core_abandon(lua_State *L);
int mch_core_leave(lua_State *L);
void mch_lrun_clear_message(struct lpool *lpool);
void mch_lrun_set_up_encoder(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder);
void mch_lrun_begin_encoding(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder);
void mch_lrun_flush_before_fork(struct lpool *lpool);
int mch_core_run(lua_State *L);
uint64_t mch_lrun_nanoseconds(lua_Number seconds);
lua_Integer mch_lrun_within(lua_Integer number, lua_Integer least, lua_Integer most);
int mch_core_run_with(lua_State *L);
int mch_lrun_tasks_gc(lua_State *L);
int mch_core_run_many(lua_State *L);
int mch_core_run_in(lua_State *L);
int mch_core_is_callable(lua_State *L);

/* -- lrecord.c */

/* Ask the journal, if there is one, for the call of the function at `first` with the arguments
 * behind it; `options`: stack index of a table, or 0. What it says stands in `told` from now on.
 * What lua_pcall() returns, with an error on top of the stack. */
int mch_lrecord_ask(lua_State *L, struct lpool *lpool, int options, int first);
/* What it has said is of no use any more. */
void mch_lrecord_settle(lua_State *L, struct lpool *lpool);
/* Engine "snapshot": the payload on top of the stack is of the call that was asked for last. */
void mch_lrecord_attach(lua_State *L, struct lpool *lpool);
/* The same: tasks are about to start. Code of the user may run. */
void mch_lrecord_starting(lua_State *L, struct lpool *lpool);
/* Engine "inline": what the call was asked for with is lent to its task, too. */
void mch_lrecord_anchor(lua_State *L, struct lpool *lpool);
/* The same: the task of the function that is on top of the stack below its arguments, `count`
 * values, is about to start. 1: it has another random stream now. Code of the user may run. */
int mch_lrecord_start(lua_State *L, struct mch_ltask *task, struct mch_run *run, int count);
/* Workers will be forked. */
void mch_lrecord_forking(lua_State *L, struct lpool *lpool, int in_call);
/* The call of the function at this index was encoded, or kept; `left_out`: of struct mch_encoder.
 */
void mch_lrecord_sent(lua_State *L, struct lpool *lpool, int function, const char *left_out);
/* A task for what was found; NULL: no memory. */
struct mch_task *mch_lrecord_task(struct lpool *lpool);
/* Log what it has to say. Code of the user runs. */
void mch_lrecord_tell(lua_State *L, struct lpool *lpool);

/* -- lbatch.c */

int mch_core_keep(lua_State *L);
int mch_core_want(lua_State *L);
int mch_core_run_batch(lua_State *L);
int mch_core_take_batch(lua_State *L);
int mch_core_glance(lua_State *L);
int mch_core_list(lua_State *L);
int mch_core_pace(lua_State *L);

/* -- lends.c */

int mch_core_check_not_busy(lua_State *L);
int mch_core_quit(lua_State *L);
int mch_core_hand_over(lua_State *L);
int mch_core_failed(lua_State *L);
int mch_core_drop(lua_State *L);
int mch_core_free(lua_State *L);
int mch_lends_pool_gc(lua_State *L);
int mch_core_leaving(lua_State *L);
int mch_core_unfinished(lua_State *L);

/* -- levents.c */

/* Tell what has happened, if this is the moment for it. Code of the user runs. */
void mch_levents_tell(lua_State *L, struct lpool *lpool);
/* Tell what is left, as the pool ends. Raises nothing. */
void mch_levents_tell_last(lua_State *L, struct lpool *lpool);
int mch_levents_may_tell(lua_State *L, const struct lpool *lpool);
/* Where nothing can be told now, tasks may be taken before their ends are. */
void mch_levents_prepare_take(lua_State *L, struct lpool *lpool);
/* Listen, or no longer. Raises what stands against it. */
void mch_levents_listen(lua_State *L, struct lpool *lpool);
void mch_levents_check_may_wait(lua_State *L);
int mch_core_listen(lua_State *L);
int mch_core_set_teller(lua_State *L);
int mch_core_last_event(lua_State *L);
int mch_core_check_may_wait(lua_State *L);
int mch_core_emit(lua_State *L);
int mch_core_stats(lua_State *L);

/* -- ltake.c */

int mch_core_untold(lua_State *L);
void mch_ltake_pack_values(lua_State *L, int first);
int mch_ltake_decode(lua_State *L, const struct lpool *lpool, struct mch_decoder *decoder);
int mch_ltake_decode_graph(lua_State *L, const struct lpool *lpool, const unsigned char *graph,
                           size_t length, enum mch_graph_kind kind, int early);
int mch_ltake_decode_found(lua_State *L, const unsigned char *graph, size_t length,
                           enum mch_graph_kind kind, int64_t classes);
void mch_ltake_check_not_in_bulk(lua_State *L, const struct lpool *lpool);
void mch_ltake_call_in_bulk(lua_State *L, struct lpool *lpool, int arguments, int results);
void mch_ltake_push_kinds(lua_State *L);
/* Push the raw facts of the failure of a task. */
void mch_ltake_push_failure(lua_State *L, struct lpool *lpool, struct mch_task *task);
/* Set the field `place` of the table on top, if it is known where the task's function is from. */
void mch_ltake_push_place(lua_State *L, struct lpool *lpool, const struct mch_task *task);
int mch_core_weight(lua_State *L);
int mch_core_take_plain(lua_State *L);
int mch_core_take(lua_State *L);

#endif
