/* Runs in: both. Purpose: lpool.h. */
#include "lpool.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bindings/values/ahead.h"
#include "bindings/context.h"
#include "runtime/base/decimal.h"
#include "bindings/values/graph.h"
#include "bindings/values/items.h"
#include "bindings/values/large.h"
#include "bindings/show/latpbar.h"
#include "ltask.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"
#include "runtime/show/output.h"
#include "runtime/base/platform.h"
#include "runtime/pool/pool.h"
#include "bindings/values/text.h"
#include "runtime/engines/worker.h"

#define TYPE "mantichora pool"

/* How hooks of one Lua thread looked when they were last known to be harmless. */
struct hooks {
  lua_Hook hook;
  int mask;
};

struct lpool {
  struct mch_pool *pool;  /* NULL: closed */
  struct mch_group group; /* the tasks of run() */
  struct mch_ltask task;  /* for the workers */
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
  int encoding;         /* `graph` and `ids` are in use */
  int batches;          /* small tasks of one function may travel together */
  int started;          /* has had workers */
  uint64_t pumped;      /* when the owner last pumped */
  size_t capture_warn;  /* warn of messages above so many bytes; 0: never */
  uint64_t weight;      /* bytes of the last result that was taken */
  int warned;           /* registry reference: the functions that were warned of (weak keys) */
  int keep_gc;          /* the collector was seen to, or is not to be touched */
  uint64_t round;       /* of the state, when this pool was last looked at */
  int gathered;         /* the state's poller hears it */
  int called;           /* and has named it */
  unsigned nworkers;    /* at most */
  int frugal;           /* as last told to the pool */
};

enum {
  FRESH_NANOSECONDS = 200000,
  MOST_PIECES = 32,               /* of results, between two looks at anything else */
  SLICE = 20000000,               /* nanoseconds between looks where no descriptor tells */
  MEMORY_SLACK = 64 * 1024 * 1024 /* what C may add besides Lua before the system's limit */
};

/* Push why the pool cannot be used here and now; 0: nothing stands against it. */
static int push_problem(lua_State *L, const struct lpool *lpool) {
  if (!mch_mark_is_ours(&lpool->mark))
    lua_pushfstring(L,
                    "this pool belongs to process %d and cannot be used in process %d (a task may "
                    "make a pool of its own)",
                    lpool->mark.pid, (int)getpid());
  else if (lpool->pool == NULL)
    lua_pushliteral(L, "pool is closed");
  else
    return 0;
  return 1;
}

static int is_open(const struct lpool *lpool) {
  return lpool->pool != NULL && mch_mark_is_ours(&lpool->mark);
}

/* Is this function on the way from the user's call to the core? */
static int is_between(lua_State *L, lua_Debug *info) {
  return lua_getinfo(L, "S", info) && (strcmp(info->short_src, "mantichora/pool.lua") == 0 ||
                                       strcmp(info->short_src, "mantichora/map.lua") == 0);
}

/* The level of what called us: the first that is not our own. */
static int caller_level(lua_State *L) {
  lua_Debug info;
  int level = 1;
  while (lua_getstack(L, level, &info) && is_between(L, &info))
    level++;
  return level;
}

/* Raise the sentence on top with the place where that level is. */
static int raise_at(lua_State *L, int level) {
  luaL_checkstack(L, 4, NULL);
  luaL_where(L, level);
  lua_insert(L, -2);
  lua_concat(L, 2);
  return lua_error(L);
}

/* Raise the error on top; if it is a sentence, with the place where the user's code calls us. */
static int raise_at_caller(lua_State *L) {
  return lua_type(L, -1) == LUA_TSTRING ? raise_at(L, caller_level(L)) : lua_error(L);
}

/* The name that the table on top has for the function at `function`, of several the first by the
 * alphabet; or NULL. */
static const char *name_in(lua_State *L, int function) {
  const char *name = NULL;
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    if (lua_rawequal(L, -1, function) && lua_type(L, -2) == LUA_TSTRING &&
        (name == NULL || strcmp(lua_tostring(L, -2), name) < 0))
      name = lua_tostring(L, -2); /* a key of that table: it stays */
    lua_pop(L, 1);
  }
  return name;
}

/* The name of the function on top, which is popped, among the methods of pools, or (then *is_method
 * is 0) the functions of the module; or NULL. */
static const char *name_of(lua_State *L, int *is_method) {
  const char *name = NULL;
  int function = lua_gettop(L);
  luaL_getmetatable(L, TYPE);
  if (lua_getfield(L, -1, "__index") == LUA_TTABLE)
    name = name_in(L, function);
  *is_method = name != NULL;
  lua_settop(L, function);
  if (name == NULL && lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE &&
      lua_getfield(L, -1, "mantichora") == LUA_TTABLE)
    name = name_in(L, function);
  lua_settop(L, function - 1);
  return name;
}

/* Raise that argument `number` of the function that the user has called is wrong, which counts a
 * method's pool as the first one: `what` says how. The place is the user's, also through a pcall.
 */
static int raise_argument(lua_State *L, int number, const char *what) {
  lua_Debug info;
  const char *name = NULL;
  int level = caller_level(L), is_method = 0;
  luaL_checkstack(L, 8, NULL);
  if (lua_getstack(L, level - 1, &info)) {
    lua_getinfo(L, "nf", &info);
    name = name_of(L, &is_method);
    if (name == NULL)
      name = info.name;
    if (is_method && strcmp(info.namewhat, "method") == 0)
      number--;
  }
  if (name == NULL)
    name = "?";
  if (is_method && number == 0)
    lua_pushfstring(L, "calling '%s' on bad self (%s)", name, what);
  else
    lua_pushfstring(L, "bad argument #%d to '%s' (%s)", number, name, what);
  while (lua_getstack(L, level, &info) && lua_getinfo(L, "l", &info) && info.currentline < 0)
    level++;
  return raise_at(L, level);
}

/* Push the name of the type of what stands at `index`, as Lua's own messages have it. */
static const char *push_typename(lua_State *L, int index) {
  luaL_checkstack(L, 4, NULL);
  if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING)
    return lua_tostring(L, -1);
  return lua_pushstring(L, luaL_typename(L, index));
}

/* The same for a value of a wrong type. */
static int raise_type(lua_State *L, int number, int index, const char *expected) {
  const char *got = push_typename(L, index);
  return raise_argument(L, number, lua_pushfstring(L, "%s expected, got %s", expected, got));
}

/* typename(value) */
static int core_typename(lua_State *L) {
  push_typename(L, 1);
  return 1;
}

/* raise(message): with the place where the user's code calls us. */
static int core_raise(lua_State *L) {
  lua_settop(L, 1);
  return raise_at_caller(L);
}

/* argument(number, what): raise that this argument of the caller's is wrong. */
static int core_argument(lua_State *L) {
  return raise_argument(L, (int)luaL_checkinteger(L, 1), luaL_checkstring(L, 2));
}

/* The pool at index 1. Methods are called by users, with anything. */
static struct lpool *to_pool(lua_State *L) {
  struct lpool *lpool = luaL_testudata(L, 1, TYPE);
  if (lpool == NULL)
    raise_type(L, 1, 1, TYPE);
  return lpool;
}

/* The pool at index 1, if it can be used here and now. */
static struct lpool *check_pool(lua_State *L) {
  struct lpool *lpool = to_pool(L);
  if (push_problem(L, lpool))
    raise_at_caller(L);
  return lpool;
}

static int raise_sentence(lua_State *L, const char *sentence) {
  lua_pushstring(L, sentence);
  return raise_at_caller(L);
}

static int raise_closed(lua_State *L) {
  return raise_sentence(L, "pool is closed");
}

static int raise_error(lua_State *L, const struct mch_error *error) {
  return raise_sentence(L, error->text);
}

/* -- log records -------------------------------------------------------------------------- */

/* Called with the bytes of a record as light userdata and a length. */
static int hand_over(lua_State *L) {
  struct mch_decoder decoder;
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = lua_touserdata(L, 1);
  decoder.len = (size_t)lua_tointeger(L, 2);
  decoder.kind = MCH_SEND_RESULT;
  mch_context_push_log_handler(L);
  if (lua_isnil(L, -1)) { /* logging was never used here: a worker's records call for it */
    if (lua_getglobal(L, "require") == LUA_TFUNCTION) {
      lua_pushliteral(L, "mantichora.logging");
      lua_call(L, 1, 0);
    } else {
      lua_pop(L, 1);
      luaL_requiref(L, "mantichora.logging", luaopen_mantichora_logging, 0);
      lua_pop(L, 1);
    }
    mch_context_push_log_handler(L);
  }
  if (mch_decode(L, &decoder) != 1)
    return luaL_error(L, "a log record with more than one value");
  lua_call(L, 1, 0);
  return 0;
}

/* Give all records that have come to their handlers. What a handler raises is told through warn. */
static void deliver_logs(lua_State *L, struct lpool *lpool) {
  int stops;
  luaL_checkstack(L, 8, NULL);
  while (lpool->pool != NULL && mch_pool_take_log(lpool->pool, &lpool->record)) {
    if (lpool->record.failed != 0)
      continue;
    lua_pushcfunction(L, hand_over);
    lua_pushlightuserdata(L, lpool->record.data);
    lua_pushinteger(L, (lua_Integer)lpool->record.length);
    stops = mch_lwatch_stops(L);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK)
      continue;
    if (!mch_lwatch_caught(L, stops)) {
      const char *message = luaL_tolstring(L, -1, NULL);
      if (strstr(message, "interrupted!") != NULL) { /* Ctrl-C came in the handler */
        lua_pop(L, 1);
        lua_error(L);
      }
      lua_warning(L, "mantichora: a log record was not handled: ", 1);
      lua_warning(L, message, 0);
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
}

/* -- forking ------------------------------------------------------------------------------ */

/* Before the first fork: once for the pool. */
static void prepare_collector(lua_State *L, struct lpool *lpool) {
  if (!lpool->keep_gc)
    mch_heap_prepare(L, &lpool->task.heap);
  lpool->keep_gc = 1;
}

/* Before the first fork: note what the workers will know. */
static void note_state(lua_State *L, struct lpool *lpool) {
  lpool->task.L = L;
  if (lpool->task.notes != LUA_NOREF)
    return;
  mch_notes_take(L);
  lpool->task.notes = luaL_ref(L, LUA_REGISTRYINDEX);
  prepare_collector(L, lpool);
}

static int update_notes(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.notes);
  mch_notes_update(L, lua_gettop(L));
  return 0;
}

/* Before a replacement is forked: what the host has printed goes first, and what has changed since
 * the first fork is noted. Without memory for that the new worker is named a little less. */
static void prepare_fork(lua_State *L, struct lpool *lpool) {
  mch_output_flush(lpool->output);
  if (lpool->task.notes == LUA_NOREF)
    return;
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, update_notes);
  lua_pushlightuserdata(L, lpool);
  if (mch_lwatch_pcall(L, 1, 0, 0) != LUA_OK)
    lua_pop(L, 1);
  mch_heap_renew(L, &lpool->task.heap);
}

/* -- what is lent to messages -------------------------------------------------------------- */

/* What the spans of a message need is needed no longer. */
static void release_lent(lua_State *L, struct lpool *lpool) {
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->lent);
  lpool->lent = LUA_NOREF;
}

/* The same for messages that were sent. */
static void release_spent(lua_State *L, struct lpool *lpool) {
  struct mch_cargo *cargo = mch_cargos_take(&lpool->spent), *next;
  for (; cargo != NULL; cargo = next) {
    next = cargo->next;
    luaL_unref(L, LUA_REGISTRYINDEX, (int)cargo->anchor);
    mch_cargo_free(cargo);
  }
}

/* -- results that come ahead --------------------------------------------------------------- */

/* Push the list of tables that came for a piece's task; if there is none yet, the new one on top of
 * the stack becomes it, and is anchored as long as anybody holds the task's `ahead`. */
static void push_tables(lua_State *L, struct lpool *lpool, const struct mch_piece *piece) {
  if (piece->of->anchor == 0) {
    lua_pushvalue(L, -1);
    piece->of->spent = &lpool->spent;
    piece->of->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, (lua_Integer)piece->of->anchor);
}

/* Called with the pool: store the oldest piece. Where something is allocated the collector may run
 * code that uses this very pool; from then on another piece may be the oldest, of another task. */
static int store_piece(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  for (;;) {
    const struct mch_piece *piece;
    lua_settop(L, 1);
    lua_newtable(L);
    piece = lpool->pool != NULL ? mch_pool_piece(lpool->pool) : NULL;
    if (piece == NULL)
      return 0;
    push_tables(L, lpool, piece);
    if (!mch_ahead_is_ready(L, 3, piece->bytes, piece->length))
      continue;
    mch_ahead_store(L, 3, piece->bytes, piece->length);
    mch_pool_drop_piece(lpool->pool);
    return 0;
  }
}

/* Without memory for a piece it is lost, and missed when the result is rebuilt. */
static void store_pieces(lua_State *L, struct lpool *lpool, int most) {
  struct mch_large large;
  if (mch_pool_piece(lpool->pool) == NULL)
    return;
  luaL_checkstack(L, 8, NULL);
  mch_pool_attend(lpool->pool, 1);
  while (most-- > 0 && lpool->pool != NULL && mch_pool_piece(lpool->pool) != NULL) {
    int status;
    lua_pushcfunction(L, store_piece);
    lua_pushlightuserdata(L, lpool);
    mch_large_begin(L, &large);
    status = mch_lwatch_pcall(L, 1, 0, 0);
    mch_large_end(L, &large);
    if (status != LUA_OK) {
      lua_pop(L, 1);
      if (lpool->pool != NULL && mch_pool_piece(lpool->pool) != NULL)
        mch_pool_drop_piece(lpool->pool);
    }
  }
  if (lpool->pool != NULL)
    mch_pool_attend(lpool->pool, 0);
}

/* -- waiting ------------------------------------------------------------------------------ */

static lua_State *main_thread(lua_State *L) {
  lua_State *main;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  main = lua_tothread(L, -1);
  lua_pop(L, 1);
  return main;
}

static struct hooks hooks_of(lua_State *L) {
  struct hooks hooks = {lua_gethook(L), lua_gethookmask(L)};
  return hooks;
}

static int same_hooks(struct hooks a, struct hooks b) {
  return a.hook == b.hook && (a.hook == NULL || a.mask == b.mask);
}

/* What a wait looks at to know of signals. */
struct look {
  lua_State *L, *main;
  const struct hooks *own_hooks, *main_hooks;
  int (*woken)(void); /* NULL: nobody else knows of signals */
};

/* A handler of the host (lua.c's for SIGINT is the model) speaks by setting a hook. Signals are
 * blocked here. */
static int interrupted(void *ud) {
  const struct look *look = ud;
  return !same_hooks(hooks_of(look->L), *look->own_hooks) ||
         !same_hooks(hooks_of(look->main), *look->main_hooks) ||
         (look->woken != NULL && look->woken());
}

static int no_operation(lua_State *L) {
  (void)L;
  return 0;
}

/* Let a new hook of L fire: it may raise. One on the main thread does not see a coroutine's calls:
 * then the error that it means is raised here. The error of a stop is raised too, but not where the
 * wait is for the end of a pool (`is_ending`). */
static void obey_hooks(lua_State *L, struct mch_output *output, struct hooks *own_hooks,
                       struct hooks *main_hooks, int is_ending) {
  lua_State *main = main_thread(L);
  mch_lwatch_check(L, !is_ending);
  if (!same_hooks(hooks_of(L), *own_hooks)) {
    mch_output_detach(output);
    lua_pushcfunction(L, no_operation);
    lua_call(L, 0, 0);
    *own_hooks = hooks_of(L); /* it did not raise: a debugger's, say */
    if (L == main)
      *main_hooks = *own_hooks;
  }
  if (L != main && !same_hooks(hooks_of(main), *main_hooks)) {
    lua_sethook(main, main_hooks->hook, main_hooks->mask, 0);
    mch_output_detach(output);
    lua_pushliteral(L, "interrupted!");
    lua_error(L);
  }
}

/* -- groups ------------------------------------------------------------------------------- */

#define GROUP "mantichora group"

/* The tasks of one map or imap: a userdata that holds its group until it is abandoned. Its user
 * value is the pool. */
struct lgroup {
  struct lpool *lpool;
  struct mch_group *group; /* NULL: abandoned */
  /* The function whose items travel in batches, as it was when the first one was made. */
  enum { UNSEEN, STEADY, UNSTEADY } kind;
  struct mch_buf function, ids; /* its graph, and the bytecode that this needs */
  uint64_t glanced;             /* when the caller was last about to ask its iterator */
  unsigned slow;                /* so many more of its steps are taken for slow */
};

enum {
  LATE = 1000000,  /* nanoseconds: after so long it is looked again whether something has ended */
  SLOW = 5000000,  /* nanoseconds that a slow step of an iterator takes */
  SLOW_STEPS = 500 /* after one, and at first, so many are taken for slow */
};

static void forget_function(struct lgroup *lgroup) {
  mch_buf_free(&lgroup->function);
  mch_buf_free(&lgroup->ids);
}

/* group(pool, coming, most): so many tasks will be run in it; 0: not known. While results of more
 * than `most` bytes wait no further one starts; 0: no such bound. */
static int core_group(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct lgroup *lgroup = lua_newuserdatauv(L, sizeof *lgroup, 1);
  memset(lgroup, 0, sizeof *lgroup);
  lgroup->lpool = lpool;
  lgroup->slow = SLOW_STEPS;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, GROUP);
  lgroup->group = mch_pool_group(lpool->pool, (size_t)luaL_optinteger(L, 2, 0),
                                 (size_t)luaL_optinteger(L, 3, 0));
  if (lgroup->group == NULL)
    return luaL_error(L, "not enough memory");
  return 1;
}

/* Engine "snapshot": nobody will take the group's tasks, so their payloads go now. */
static void drop_payloads(lua_State *L, const struct lpool *lpool, const struct mch_group *group) {
  int payloads = lua_gettop(L) + 1;
  if (lpool->task.payloads == LUA_NOREF)
    return;
  luaL_checkstack(L, 6, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_pushnil(L);
  while (lua_next(L, payloads) != 0) {
    int is_its;
    lua_rawgeti(L, -1, 0);
    is_its = lua_touserdata(L, -1) == group;
    lua_pop(L, 2);
    if (is_its) {
      lua_pushvalue(L, -1);
      lua_pushnil(L);
      lua_rawset(L, payloads);
    }
  }
  lua_pop(L, 1);
}

/* abandon(group): also when it is closed or collected. */
static int core_abandon(lua_State *L) {
  struct lgroup *lgroup = luaL_checkudata(L, 1, GROUP);
  struct mch_group *group = lgroup->group;
  lgroup->group = NULL;
  forget_function(lgroup);
  if (group != NULL && is_open(lgroup->lpool))
    drop_payloads(L, lgroup->lpool, group);
  /* A pool that was closed has freed its tasks, and this process may not be its own. */
  if (group != NULL && lgroup->lpool->pool == NULL)
    free(group);
  else if (group != NULL && mch_mark_is_ours(&lgroup->lpool->mark))
    mch_pool_abandon(lgroup->lpool->pool, group);
  return 0;
}

/* The group at `index`, or that of run() where there is none. */
static struct mch_group *group_arg(lua_State *L, struct lpool *lpool, int index) {
  struct lgroup *lgroup;
  if (lua_isnoneornil(L, index))
    return &lpool->group;
  lgroup = luaL_checkudata(L, index, GROUP);
  if (lgroup->group == NULL)
    raise_sentence(L, "this iteration has ended: it was left, or an item has failed");
  return lgroup->group;
}

/* -- waiting for something ---------------------------------------------------------------- */

enum condition {
  UNTIL_ONE,
  UNTIL_MANY,
  UNTIL_ALL,
  UNTIL_IDLE,
  UNTIL_BELOW,
  UNTIL_GONE,
  UNTIL_TIME
};

/* What a wait is for. */
struct goal {
  enum condition condition;
  const struct mch_group *group; /* ONE, MANY, ALL */
  uint64_t limit;                /* BELOW; MANY: so many */
};

static int is_met(const struct lpool *lpool, const struct goal *goal) {
  struct mch_pool *pool = lpool->pool;
  switch (goal->condition) {
  case UNTIL_ONE:
    return mch_pool_finished(pool, goal->group) > 0 || mch_pool_unfinished(pool, goal->group) == 0;
  case UNTIL_MANY:
    return mch_pool_finished(pool, goal->group) >= goal->limit ||
           mch_pool_unfinished(pool, goal->group) == 0;
  case UNTIL_ALL:
    return mch_pool_unfinished(pool, goal->group) == 0;
  case UNTIL_IDLE:
    return mch_pool_unfinished(pool, NULL) == 0;
  case UNTIL_BELOW:
    return mch_pool_unfinished(pool, NULL) == 0 ||
           mch_pool_unfinished_below(pool, goal->limit) == 0;
  case UNTIL_GONE:
    return mch_pool_gone(pool);
  case UNTIL_TIME:
  default:
    return 0;
  }
}

/* Each coroutine has its own hooks; those last seen belong to whoever waited last. */
static void look_at_hooks(lua_State *L, struct lpool *lpool) {
  if (L == main_thread(L))
    lpool->own_hooks = lpool->main_hooks;
  else if (hooks_of(L).hook == NULL)
    lpool->own_hooks = hooks_of(L);
}

/* Results that the last pump has brought are received without another one, for a moment: so that a
 * crowd of small ones costs one pump. */
static int is_fresh(const struct lpool *lpool, const struct goal *goal) {
  return goal->condition == UNTIL_ONE && mch_pool_finished(lpool->pool, goal->group) > 0 &&
         mch_now() - lpool->pumped < FRESH_NANOSECONDS;
}

/* Move the pool on and hand over its log records; a handler of these may close it. `frugal`: the
 * caller has no time for more forks than the one without which nothing is done. */
static void pump(lua_State *L, struct lpool *lpool, int frugal) {
  lpool->task.L = L;
  if (frugal != lpool->frugal)
    mch_pool_spare_forks(lpool->pool, frugal);
  lpool->frugal = frugal;
  mch_pool_pump(lpool->pool);
  lpool->pumped = mch_now();
  release_spent(L, lpool);
  if (mch_pool_short_of_workers(lpool->pool)) {
    prepare_fork(L, lpool); /* runs finalizers, which may close the pool */
    if (lpool->pool == NULL)
      return;
    mch_pool_add_workers(lpool->pool);
  }
  store_pieces(L, lpool, MOST_PIECES);
  deliver_logs(L, lpool);
}

/* What the pool asks while it waits. */
struct wait {
  struct look look;
  const struct lpool *lpool;
  const struct goal *goal;
};

static int is_interrupted(void *ud) {
  return interrupted(&((struct wait *)ud)->look);
}

static int is_enough(void *ud) {
  const struct wait *wait = ud;
  return is_met(wait->lpool, wait->goal) || mch_cargos_some(&wait->lpool->spent);
}

/* A wait of terminate(), close() and the end of a scope. */
static int is_end(const struct goal *goal) {
  return goal->condition == UNTIL_IDLE || goal->condition == UNTIL_BELOW ||
         goal->condition == UNTIL_GONE;
}

/* Pump, hand over log records and wait until the condition is met (1) or `until` comes (0). */
static int wait_for(lua_State *L, struct lpool *lpool, const struct goal *goal, uint64_t until) {
  struct wait wait = {
      {L, main_thread(L), &lpool->own_hooks, &lpool->main_hooks, NULL}, lpool, goal};
  struct mch_waiting waiting = {until,          is_enough,
                                is_interrupted, &wait,
                                goal->group,    goal->condition == UNTIL_MANY ? goal->limit : 1};
  look_at_hooks(L, lpool);
  if (is_fresh(lpool, goal))
    return 1;
  for (;;) {
    pump(L, lpool, 0);
    if (is_end(goal))
      mch_atpbar_pump_quietly(L);
    else
      mch_atpbar_pump(L);
    if (lpool->pool == NULL)
      raise_closed(L);
    if (is_met(lpool, goal))
      return 1;
    if (until != MCH_NEVER && (until == 0 || mch_now() >= until))
      return 0;
    if (until == MCH_NEVER && lpool->task.running) /* the engine "inline" runs one at a time */
      luaL_error(L, "cannot wait for the pool inside of one of its own tasks");
    mch_pool_wait(lpool->pool, &waiting);
    obey_hooks(L, lpool->output, &lpool->own_hooks, &lpool->main_hooks,
               goal->condition == UNTIL_BELOW || goal->condition == UNTIL_GONE);
  }
}

/* Seconds at `index` to a deadline; nil: never. */
static uint64_t deadline_arg(lua_State *L, int index) {
  lua_Number seconds;
  if (lua_isnoneornil(L, index))
    return MCH_NEVER;
  seconds = luaL_checknumber(L, index);
  if (!(seconds > 0))
    return 0;
  return seconds > 1e9 ? MCH_NEVER : mch_now() + (uint64_t)(seconds * 1e9);
}

/* wait(pool, condition, limit (below: run ID, many: count) or nil, seconds or nil, group or nil):
 * whether the condition was met in time. */
static int core_wait(lua_State *L) {
  static const char *const names[] = {"one", "many", "all", "idle", "below", "gone", "time", NULL};
  struct lpool *lpool = check_pool(L);
  struct goal goal;
  goal.condition = (enum condition)luaL_checkoption(L, 2, NULL, names);
  goal.limit = (uint64_t)luaL_optinteger(L, 3, 0);
  goal.group = group_arg(L, lpool, 5);
  lua_pushboolean(L, wait_for(L, lpool, &goal, deadline_arg(L, 4)));
  return 1;
}

/* keep(pool, group, bytes): of results that the caller keeps until they are handed over. */
static int core_keep(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_group *group = group_arg(L, lpool, 2);
  mch_pool_keep(lpool->pool, group, (size_t)luaL_checkinteger(L, 3));
  return 0;
}

/* want(pool, group, wanted): whether the caller waits for anything of the group. */
static int core_want(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_group *group = group_arg(L, lpool, 2);
  mch_pool_want(lpool->pool, group, lua_toboolean(L, 3));
  return 0;
}

/* The first pool of this state that is open, or NULL. */
static struct lpool *pump_others(lua_State *L, struct lpool *first) {
  struct lpool *found = NULL;
  luaL_checkstack(L, 6, NULL);
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (lpool == first || lpool->pool == NULL || !mch_mark_is_ours(&lpool->mark))
      continue;
    mch_pool_pump(lpool->pool);
    found = lpool;
  }
  lua_pop(L, 1);
  return found;
}

void mch_lpool_sleep(lua_State *L, uint64_t until) {
  struct mch_output *output = mch_atpbar_output(L);
  struct hooks own = {NULL, 0}, of_main = {NULL, 0};
  struct goal goal = {UNTIL_TIME, NULL, 0};
  struct look look = {L, main_thread(L), &own, &of_main, NULL};
  for (;;) {
    uint64_t now = mch_now(), next = mch_output_next(output);
    struct lpool *lpool = pump_others(L, NULL);
    if (lpool != NULL) {
      /* Others have drivers of their own, or wait for their turn in slices. */
      uint64_t slice = now + 20000000u;
      int alone = pump_others(L, lpool) == NULL;
      if (wait_for(L, lpool, &goal, alone || slice > until ? until : slice) == 0 &&
          mch_now() >= until)
        return;
      continue;
    }
    mch_atpbar_pump(L);
    if (now >= until)
      return;
    mch_sleep_until(next < until ? next : until, interrupted, &look);
    obey_hooks(L, output, &own, &of_main, 0);
  }
}

/* -- all pools of a state ----------------------------------------------------------------- */

#define GATHERING "mantichora gathering"

static uint64_t sooner(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

/* Leave an open pool that this round has not seen yet on the stack and return it; NULL (and
 * nothing) when all were seen. It starts anew each time: handlers make and close pools meanwhile.
 */
static struct lpool *next_in_round(lua_State *L, uint64_t round) {
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (lpool->round != round && is_open(lpool)) {
      lpool->round = round;
      lua_remove(L, -2);
      return lpool;
    }
  }
  lua_pop(L, 1);
  return NULL;
}

/* A userdata without a body: as the state closes its pools leave the poller, which is freed. */
static int gathering_gc(lua_State *L) {
  struct mch_context *context = mch_context_get(L);
  struct lpool *lpool;
  context->round++;
  while ((lpool = next_in_round(L, context->round)) != NULL) {
    mch_pool_part(lpool->pool);
    lpool->gathered = 0;
    lua_pop(L, 1);
  }
  mch_context_drop_poller(context);
  return 0;
}

/* The poller that all open pools of this state join, made at the first call in this process. NULL:
 * none is to be had. */
static struct mch_poller *gathering(lua_State *L, struct mch_error *error) {
  struct mch_context *context = mch_context_get(L);
  if (context->poller != NULL && mch_mark_is_ours(&context->poller_mark))
    return context->poller;
  mch_context_drop_poller(context); /* that of the process which we are a fork of */
  lua_newuserdatauv(L, 0, 0);
  if (luaL_newmetatable(L, GATHERING)) {
    lua_pushcfunction(L, gathering_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  luaL_ref(L, LUA_REGISTRYINDEX);
  context->poller = mch_poller_new(error);
  if (context->poller != NULL)
    mch_mark_make(&context->poller_mark);
  return context->poller;
}

/* Have the pool tell `poller` when it has something to do. 0, or a code. */
static int gather(struct mch_poller *poller, struct lpool *lpool, struct mch_error *error) {
  int code = lpool->gathered ? 0 : mch_pool_join(lpool->pool, poller, lpool, error);
  lpool->gathered = code == 0;
  return code;
}

/* Note which pools the poller names. A pool leaves it before it is freed. */
static void call_up(struct mch_poller *poller) {
  struct mch_ready ready[64];
  int count = poller != NULL ? mch_poller_wait(poller, ready, 64, 0, NULL) : 0, i;
  for (i = 0; i < count; i++)
    ((struct lpool *)ready[i].ud)->called = 1;
}

/* What there is to know of all pools together. */
struct tally {
  size_t finished, unfinished; /* tasks of run() */
  uint64_t due;                /* when one has something to do though the poller says nothing */
};

/* `due` costs a little: filled in only if it is wanted. */
static struct tally add_up(lua_State *L, int want_due) {
  struct tally tally = {0, 0, MCH_NEVER};
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (!is_open(lpool))
      continue;
    tally.finished += mch_pool_finished(lpool->pool, &lpool->group);
    tally.unfinished += mch_pool_unfinished(lpool->pool, &lpool->group);
    if (want_due)
      tally.due = sooner(tally.due, mch_pool_deadline(lpool->pool));
    if (want_due && !lpool->gathered)
      tally.due = sooner(tally.due, mch_now() + SLICE);
  }
  lua_pop(L, 1);
  return tally;
}

/* Pump each pool that has something to do. */
static void pump_all(lua_State *L, struct mch_poller *poller, int frugal) {
  struct mch_context *context = mch_context_get(L);
  struct lpool *lpool;
  uint64_t round = ++context->round, now = mch_now();
  struct mch_error error;
  call_up(poller);
  while ((lpool = next_in_round(L, round)) != NULL) {
    if (poller == NULL || gather(poller, lpool, &error) != 0 || lpool->called ||
        mch_pool_deadline(lpool->pool) <= now) {
      lpool->called = 0;
      pump(L, lpool, frugal);
    }
    lua_pop(L, 1);
  }
}

/* A frame of an engine has no time for forks. */
size_t mch_lpool_poll(lua_State *L, uint64_t until) {
  int frugal = until == 0 && mch_context_get(L)->embedded;
  struct mch_output *output = mch_atpbar_output(L);
  struct hooks own = {NULL, 0}, of_main = {NULL, 0};
  struct look look = {L, main_thread(L), &own, &of_main, NULL};
  struct mch_error error;
  mch_notices_tell(L);
  luaL_checkstack(L, 8, NULL);
  for (;;) {
    struct mch_poller *poller = gathering(L, &error);
    struct tally tally;
    uint64_t now, due;
    pump_all(L, poller, frugal);
    now = mch_now();
    if (mch_output_next(output) <= now || mch_output_wants_owner(output, now))
      mch_atpbar_pump(L);
    tally = add_up(L, now < until);
    if (tally.finished > 0 || tally.unfinished == 0 || now >= until)
      return tally.finished;
    due = sooner(until, sooner(tally.due, mch_output_next(output)));
    if (poller != NULL)
      mch_wait(poller, due, interrupted, &look);
    else
      mch_sleep_until(due, interrupted, &look);
    obey_hooks(L, output, &own, &of_main, 0);
  }
}

int mch_lpool_await(lua_State *L, int fd, int (*woken)(void)) {
  struct mch_output *output = mch_atpbar_output(L);
  struct hooks own = {NULL, 0}, of_main = {NULL, 0};
  struct look look = {L, main_thread(L), &own, &of_main, woken};
  int readable = 0;
  mch_notices_tell(L);
  luaL_checkstack(L, 8, NULL);
  while (!readable && !woken()) {
    struct mch_error error;
    struct mch_poller *poller = gathering(L, &error);
    int fds[] = {fd, poller != NULL ? mch_poller_fd(poller) : -1}; /* poll(2) passes over -1 */
    pump_all(L, poller, 0);
    mch_atpbar_pump(L);
    readable = mch_await_until(fds, 2, mch_lpool_due(L), interrupted, &look);
    obey_hooks(L, output, &own, &of_main, 0);
  }
  return readable;
}

uint64_t mch_lpool_due(lua_State *L) {
  luaL_checkstack(L, 8, NULL);
  return sooner(add_up(L, 1).due, mch_output_next(mch_atpbar_output(L)));
}

int mch_lpool_fd(lua_State *L, struct mch_error *error) {
  struct mch_poller *poller = gathering(L, error);
  struct lpool *lpool;
  uint64_t round = ++mch_context_get(L)->round;
  int code = 0;
  luaL_checkstack(L, 8, NULL);
  while (poller != NULL && code == 0 && (lpool = next_in_round(L, round)) != NULL) {
    code = gather(poller, lpool, error);
    lua_pop(L, 1);
  }
  return poller == NULL || code != 0 ? -1 : mch_poller_fd(poller);
}

/* -- running ------------------------------------------------------------------------------ */

static uint32_t intern_code(void *ud, const char *bytes, size_t length, const char **kept) {
  uint32_t id = mch_pool_intern(ud, bytes, length);
  if (id != 0)
    *kept = mch_pool_code(ud, id, &length);
  return id;
}

static void clear_message(struct lpool *lpool) {
  mch_buf_clear(&lpool->graph);
  mch_buf_clear(&lpool->spans);
  mch_buf_clear(&lpool->ids);
}

/* Engine "snapshot": keep the function and its arguments for the worker that will be forked, in a
 * table that has their group at 0; the task's bytes are their number. */
static int keep_payload(lua_State *L, struct lpool *lpool) {
  int count = lua_gettop(L) - 1, i;
  lpool->task.L = L;
  prepare_collector(L, lpool);
  lua_createtable(L, count, 2);
  lua_pushinteger(L, count);
  lua_setfield(L, -2, "n");
  for (i = 1; i <= count; i++) {
    lua_pushvalue(L, i + 1);
    lua_rawseti(L, -2, i);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_insert(L, -2);
  lua_rawseti(L, -2, (lua_Integer)++lpool->payloads);
  clear_message(lpool);
  mch_buf_u64(&lpool->graph, lpool->payloads);
  if (lpool->graph.failed != 0)
    luaL_error(L, "not enough memory for another task");
  return 0;
}

/* The last payload belongs to a task of this group. */
static void set_group(lua_State *L, const struct lpool *lpool, struct mch_group *group) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_rawgeti(L, -1, (lua_Integer)lpool->payloads);
  lua_pushlightuserdata(L, group);
  lua_rawseti(L, -2, 0);
  lua_pop(L, 2);
}

static size_t graph_size(const struct lpool *lpool) {
  struct mch_body body = mch_body_of(&lpool->graph, &lpool->spans);
  return mch_body_size(&body);
}

/* A message of this size is worth a warning, once for each function: it often takes along what
 * nobody meant to send. Called with the notes at index 1, the function at 2 and its arguments
 * behind it. Pushes the sentence, to be logged when the message is done; 0: none. */
static int push_warning(lua_State *L, struct lpool *lpool, int count) {
  luaL_Buffer sentence;
  lua_Integer i, parts;
  int largest;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->warned);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, -2) != LUA_TNIL)
    return 0;
  lua_pushvalue(L, 2);
  lua_pushboolean(L, 1);
  lua_rawset(L, -4);
  mch_explain(L, 1, 2, count);
  lua_getfield(L, -1, "largest");
  lua_pushvalue(L, -2);
  lua_pushinteger(L, 3);
  lua_call(L, 2, 1);
  largest = lua_gettop(L);
  parts = (lua_Integer)lua_rawlen(L, largest);
  luaL_buffinit(L, &sentence);
  lua_pushfstring(L, "%d MiB go with a task, above all", (int)(graph_size(lpool) >> 20));
  luaL_addvalue(&sentence);
  for (i = 1; i <= parts; i++) {
    lua_rawgeti(L, largest, i);
    lua_getfield(L, -1, "path");
    lua_getfield(L, -2, "size");
    lua_pushfstring(L, "%s %s (%d KiB)", i == 1 ? "" : ",", lua_tostring(L, -2),
                    (int)(lua_tointeger(L, -1) >> 10));
    lua_insert(L, -4);
    lua_pop(L, 3);
    luaL_addvalue(&sentence);
  }
  luaL_addstring(&sentence, "; mantichora.explain shows all");
  luaL_pushresult(&sentence);
  return 1;
}

/* For a message to workers in `graph` and `ids`; the notes come to stand at index 1. */
static void set_up_encoder(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder) {
  memset(encoder, 0, sizeof *encoder);
  encoder->out = &lpool->graph;
  encoder->code_ids = &lpool->ids;
  encoder->intern_code = intern_code;
  encoder->ud = lpool->pool;
  encoder->memory = &lpool->code_memory;
  encoder->kind = MCH_SEND_TASK;
  encoder->notes = 1;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.notes);
  lua_replace(L, 1);
}

static void begin_encoding(lua_State *L, struct lpool *lpool, struct mch_encoder *encoder) {
  set_up_encoder(L, lpool, encoder);
  clear_message(lpool);
}

/* Called with the pool, then the function and its arguments. Returns what is to be logged of that,
 * if anything. */
static int encode_task(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  struct mch_encoder encoder;
  int count = lua_gettop(L) - 1;
  if (lpool->task.payloads != LUA_NOREF)
    return keep_payload(L, lpool);
  release_lent(L, lpool); /* of a message that came to nothing */
  note_state(L, lpool);
  begin_encoding(L, lpool, &encoder);
  encoder.spans = &lpool->spans;
  if (mch_encode(L, &encoder, 2, count))
    lpool->lent = luaL_ref(L, LUA_REGISTRYINDEX);
  if (lpool->graph.failed != 0 || lpool->ids.failed != 0)
    luaL_error(L, "not enough memory to send the task");
  if (lpool->capture_warn > 0 && graph_size(lpool) > lpool->capture_warn)
    return push_warning(L, lpool, count);
  return 0;
}

/* Whether the value can be called, looked at raw. */
static int is_callable(lua_State *L, int index) {
  int callable;
  if (lua_isfunction(L, index))
    return 1;
  if (!lua_getmetatable(L, index))
    return 0;
  lua_pushliteral(L, "__call");
  callable = lua_rawget(L, -2) != LUA_TNIL;
  lua_pop(L, 2);
  return callable;
}

/* What run_with adds to run. */
struct run_options {
  const char *name; /* on the stack */
  size_t name_length;
  uint64_t timeout;
  unsigned retries;
  int32_t priority;
};

static int add_extra(struct mch_task *task, const struct run_options *options) {
  struct mch_task_extra *extra;
  task->priority = options->priority;
  if (options->name_length == 0 && options->timeout == 0 && options->retries == 0)
    return 0;
  extra = malloc(sizeof *extra + options->name_length);
  if (extra == NULL)
    return -1;
  extra->index = 0;
  extra->timeout = options->timeout;
  extra->retries = options->retries;
  extra->name_length = options->name_length;
  memcpy(extra->name, options->name, options->name_length);
  task->extra = extra;
  return 0;
}

/* A large graph goes with its task as it is. */
enum { CARGO_FROM = 1024 * 1024 };

/* A task of what was encoded; NULL: no memory. */
static struct mch_task *new_task(struct lpool *lpool) {
  int large = lpool->graph.length >= CARGO_FROM || lpool->spans.length > 0;
  struct mch_task *task = mch_task_new((const uint32_t *)(const void *)lpool->ids.data,
                                       (uint32_t)(lpool->ids.length / sizeof(uint32_t)),
                                       lpool->graph.data, large ? 0 : lpool->graph.length);
  struct mch_cargo *cargo;
  if (task == NULL || !large)
    return task;
  cargo = mch_cargo_new(&lpool->graph, &lpool->spans, lpool->lent != LUA_NOREF ? lpool->lent : 0,
                        &lpool->spent);
  if (cargo == NULL) {
    mch_task_free(task);
    return NULL;
  }
  lpool->lent = LUA_NOREF; /* the cargo's now */
  mch_task_carry(task, cargo);
  return task;
}

/* What was printed before the first run forks the workers goes first. */
static void flush_before_fork(struct lpool *lpool) {
  if (!lpool->started || lpool->task.payloads != LUA_NOREF)
    mch_output_flush(lpool->output);
}

/* Engine "snapshot": the payloads that were kept since there were `kept` of them are for no task.
 */
static void forget_payloads(lua_State *L, struct lpool *lpool, uint64_t kept) {
  if (lpool->task.payloads == LUA_NOREF)
    return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  for (; lpool->payloads > kept; lpool->payloads--) {
    lua_pushnil(L);
    lua_rawseti(L, -2, (lua_Integer)lpool->payloads);
  }
  lua_pop(L, 1);
}

/* A task of what encode_task() has made. */
static struct mch_task *make_task(lua_State *L, struct lpool *lpool, struct mch_group *group) {
  struct mch_task *task;
  if (lpool->task.payloads != LUA_NOREF)
    set_group(L, lpool, group);
  task = new_task(lpool);
  if (task == NULL)
    luaL_error(L, "not enough memory for another task");
  if (lpool->graph.capacity > CARGO_FROM)
    mch_buf_free(&lpool->graph);
  return task;
}

static void check_not_encoding(lua_State *L, const struct lpool *lpool) {
  if (lpool->encoding)
    luaL_error(
        L, "run was called from a __mantichora hook or a finalizer while another run is sending");
}

/* Encode the function at `first` and the arguments behind it. What lua_pcall() returns, with the
 * error on top of the stack. */
static int encode_call(lua_State *L, struct lpool *lpool, int first) {
  int status;
  check_not_encoding(L, lpool);
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, encode_task);
  lua_pushlightuserdata(L, lpool);
  lua_rotate(L, first, 2);
  lpool->encoding = 1;
  status = lua_pcall(L, lua_gettop(L) - first, 1, 0);
  lpool->encoding = 0;
  return status;
}

/* Queue what was encoded; pushes the run ID. Returns the bytes of its message. */
static size_t queue_encoded(lua_State *L, struct lpool *lpool, struct mch_group *group,
                            const struct run_options *options) {
  struct mch_task *task;
  struct mch_error error;
  uint64_t runid, kept = lpool->payloads - (lpool->task.payloads != LUA_NOREF);
  size_t size = graph_size(lpool);
  flush_before_fork(lpool);
  task = make_task(L, lpool, group);
  if (options != NULL && add_extra(task, options) != 0) {
    mch_task_free(task);
    luaL_error(L, "not enough memory for another task");
  }
  if (mch_pool_run(lpool->pool, task, group, &runid, &error) != 0) {
    mch_task_free(task);
    forget_payloads(L, lpool, kept);
    raise_error(L, &error);
  }
  lpool->started = 1;
  if (lua_isstring(L, -1))
    mch_notices_warn(L, lua_tostring(L, -1));
  lua_pushinteger(L, (lua_Integer)runid);
  return size;
}

/* Encode and queue the function at `first` with the arguments behind it; pushes the run ID. */
static int run_task(lua_State *L, struct lpool *lpool, int first, struct mch_group *group,
                    const struct run_options *options) {
  if (encode_call(L, lpool, first) != LUA_OK)
    return raise_at_caller(L);
  queue_encoded(L, lpool, group, options);
  return 1;
}

/* What stands at `index` here is that argument of the method. */
static void check_callable(lua_State *L, int index, int argument) {
  if (!is_callable(L, index))
    raise_type(L, argument, index, "function or callable table");
}

/* run(pool, function, ...): the run ID. */
static int core_run(lua_State *L) {
  struct lpool *lpool;
  mch_notices_tell(L);
  lpool = check_pool(L);
  check_callable(L, 2, 2);
  return run_task(L, lpool, 2, &lpool->group, NULL);
}

/* What is less than a nanosecond is one, for 0 is no limit; what is long is 30 years. */
static uint64_t nanoseconds(lua_Number seconds) {
  if (!(seconds > 0))
    return 0;
  if (seconds > 1e9)
    return (uint64_t)1000000000 * 1000000000;
  return seconds < 1e-9 ? 1 : (uint64_t)(seconds * 1e9);
}

/* The nearest number to this one from `least` to `most`. */
static lua_Integer within(lua_Integer number, lua_Integer least, lua_Integer most) {
  if (number < least)
    return least;
  return number > most ? most : number;
}

/* run_with(pool, name or nil, timeout or nil, retries, priority, function, ...) */
static int core_run_with(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct run_options options;
  options.name = luaL_optlstring(L, 2, "", &options.name_length);
  options.timeout = nanoseconds(luaL_optnumber(L, 3, 0));
  options.retries = (unsigned)within(luaL_checkinteger(L, 4), 0, INT32_MAX);
  options.priority = (int32_t)within(luaL_checkinteger(L, 5), INT32_MIN, INT32_MAX);
  check_callable(L, 6, 3);
  return run_task(L, lpool, 6, &lpool->group, &options);
}

/* -- many at once, or none ----------------------------------------------------------------- */

#define TASKS "mantichora tasks"

/* Tasks that were made and not accepted yet, in a userdata. */
struct tasks {
  size_t count;
  struct mch_task *tasks[];
};

static int tasks_gc(lua_State *L) {
  struct tasks *tasks = luaL_checkudata(L, 1, TASKS);
  size_t i;
  for (i = 0; i < tasks->count; i++)
    if (tasks->tasks[i] != NULL)
      mch_task_free(tasks->tasks[i]);
  tasks->count = 0;
  return 0;
}

/* Push room for so many. */
static struct tasks *new_tasks(lua_State *L, size_t count) {
  struct tasks *tasks = lua_newuserdatauv(L, sizeof *tasks + count * sizeof(struct mch_task *), 0);
  tasks->count = 0;
  luaL_setmetatable(L, TASKS);
  return tasks;
}

/* encode_many(pool, list, tasks, warnings): make a task of each function of the list. */
static int encode_many(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  struct tasks *tasks = lua_touserdata(L, 3);
  lua_Integer count = (lua_Integer)lua_rawlen(L, 2), i;
  for (i = 1; i <= count; i++) {
    lua_pushcfunction(L, encode_task);
    lua_pushvalue(L, 1);
    lua_rawgeti(L, 2, i);
    if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
      if (lua_type(L, -1) == LUA_TSTRING)
        lua_pushfstring(L, "function %I: %s", (LUAI_UACINT)i, lua_tostring(L, -1));
      return lua_error(L);
    }
    if (lua_isstring(L, -1))
      lua_rawseti(L, 4, (lua_Integer)lua_rawlen(L, 4) + 1);
    lua_settop(L, 4);
    tasks->tasks[tasks->count] = make_task(L, lpool, &lpool->group);
    tasks->count++;
  }
  return 0;
}

/* run_many(pool, list of functions): queue all of them, or none; the list of their run IDs. */
static int core_run_many(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct tasks *tasks;
  struct mch_error error;
  uint64_t kept = lpool->payloads, runid;
  size_t i;
  luaL_checktype(L, 2, LUA_TTABLE);
  check_not_encoding(L, lpool);
  lua_settop(L, 2);
  lua_createtable(L, (int)lua_rawlen(L, 2), 0);
  tasks = new_tasks(L, lua_rawlen(L, 2));
  lua_newtable(L);
  lua_pushcfunction(L, encode_many);
  lua_pushlightuserdata(L, lpool);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 4);
  lua_pushvalue(L, 5);
  lpool->encoding = 1;
  i = lua_pcall(L, 4, 0, 0) == LUA_OK;
  lpool->encoding = 0;
  if (!i) {
    forget_payloads(L, lpool, kept);
    return raise_at_caller(L);
  }
  flush_before_fork(lpool);
  if (tasks->count > 0 && mch_pool_reserve(lpool->pool, tasks->tasks, tasks->count, &error) != 0) {
    forget_payloads(L, lpool, kept);
    return raise_error(L, &error);
  }
  for (i = 0; i < tasks->count; i++) {
    if (mch_pool_run(lpool->pool, tasks->tasks[i], &lpool->group, &runid, &error) != 0)
      return raise_error(L, &error); /* it has all that it needs */
    tasks->tasks[i] = NULL;
    lpool->started = 1;
    lua_pushinteger(L, (lua_Integer)runid);
    lua_rawseti(L, 3, (lua_Integer)i + 1);
  }
  for (i = 1; i <= lua_rawlen(L, 5); i++) {
    lua_rawgeti(L, 5, (lua_Integer)i);
    mch_notices_warn(L, lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  lua_settop(L, 3);
  return 1;
}

/* Options that pool.lua has checked, from the table at `index`; the name stays on the stack. */
static struct run_options options_arg(lua_State *L, int index) {
  struct run_options options;
  lua_getfield(L, index, "timeout");
  options.timeout = nanoseconds(lua_tonumber(L, -1));
  lua_getfield(L, index, "retries");
  options.retries = (unsigned)within(lua_tointeger(L, -1), 0, INT32_MAX);
  lua_getfield(L, index, "priority");
  options.priority = (int32_t)within(lua_tointeger(L, -1), INT32_MIN, INT32_MAX);
  lua_pop(L, 3);
  lua_getfield(L, index, "name");
  options.name = luaL_optlstring(L, -1, "", &options.name_length);
  return options;
}

/* run_in(pool, group, options, function, ...): the run ID and the bytes of the message; or false
 * and why it cannot be sent. */
static int core_run_in(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_group *group = group_arg(L, lpool, 2);
  struct run_options options = options_arg(L, 3);
  lua_replace(L, 3); /* the name instead of its table */
  if (encode_call(L, lpool, 4) != LUA_OK) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushinteger(L, (lua_Integer)queue_encoded(L, lpool, group, &options));
  return 2;
}

/* -- batches ------------------------------------------------------------------------------ */

enum { BATCH_BYTES = 128 * 1024 }; /* a batch that has grown so long is closed */

/* What encode_batch() works with. */
struct batching {
  struct lpool *lpool;
  struct lgroup *lgroup;
  struct mch_encoder encoder;
  int encoding;      /* `encoder` is ready */
  lua_Integer count; /* items that are in the message, which is so long then */
  size_t length;
};

/* Items that are not plain are encoded after the function. The notes come to stand at index 1. */
static void begin_items(lua_State *L, struct batching *batching) {
  struct lpool *lpool = batching->lpool;
  if (batching->encoding)
    return;
  note_state(L, lpool);
  set_up_encoder(L, lpool, &batching->encoder);
  batching->encoder.kind = MCH_SEND_ITEM;
  batching->encoder.spans = &lpool->spans; /* what would be in them is too large for a batch */
  batching->encoding = 1;
}

/* Append the item on top: u32 length and its graph; pops it. A packed one has several values. 0: it
 * is so large that it is to travel alone. */
static int encode_item(lua_State *L, struct batching *batching, int is_packed) {
  struct mch_buf *graph = &batching->lpool->graph;
  size_t at = graph->length;
  int item = lua_gettop(L), count = 1, is_large, i;
  if (is_packed) {
    lua_getfield(L, item, "n");
    count = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    luaL_checkstack(L, count + 1, "too many values");
    for (i = 1; i <= count; i++)
      lua_rawgeti(L, item, i);
  }
  if (count == 1 && mch_items_put_sized(graph, L, -1)) {
    lua_settop(L, item - 1);
    return 1;
  }
  begin_items(L, batching);
  mch_buf_u32(graph, 0);
  is_large = mch_encode(L, &batching->encoder, lua_gettop(L) - count + 1, count);
  lua_settop(L, item - 1);
  if (graph->failed != 0)
    luaL_error(L, "not enough memory to send the task");
  if (is_large || graph->length - at > CARGO_FROM) {
    graph->length = at;
    return 0;
  }
  mch_store_u32(graph->data + at, (uint32_t)(graph->length - at - 4));
  return 1;
}

/* The function at index 2 goes with many items if no call can change it. All of them get it as it
 * is now; so it is looked at and encoded once. */
static void encode_function(lua_State *L, struct batching *batching) {
  struct lpool *lpool = batching->lpool;
  struct lgroup *lgroup = batching->lgroup;
  note_state(L, lpool);
  lgroup->kind = UNSTEADY;
  if (!mch_items_is_steady(L, 2))
    return;
  begin_encoding(L, lpool, &batching->encoder);
  mch_encode(L, &batching->encoder, 2, 1);
  if (batching->encoder.assigns)
    return; /* globals go along, and each task has them as they were */
  mch_buf_append(&lgroup->function, lpool->graph.data, lpool->graph.length);
  mch_buf_append(&lgroup->ids, lpool->ids.data, lpool->ids.length);
  if (lpool->graph.failed == 0 && lpool->ids.failed == 0 && lgroup->function.failed == 0 &&
      lgroup->ids.failed == 0)
    lgroup->kind = STEADY;
}

/* encode_batch(batching, function, list, from, count, packed): number of items that are in
 * lpool->graph now, behind the function; 0 if it has to be sent anew for each. */
static int encode_batch(lua_State *L) {
  struct batching *batching = lua_touserdata(L, 1);
  struct lpool *lpool = batching->lpool;
  lua_Integer from = lua_tointeger(L, 4), most = lua_tointeger(L, 5), count = 0;
  int is_packed = lua_toboolean(L, 6), is_raw = !lua_getmetatable(L, 3);
  lua_settop(L, 6);
  if (batching->lgroup->kind == UNSEEN)
    encode_function(L, batching);
  if (batching->lgroup->kind == UNSTEADY)
    return 0;
  clear_message(lpool);
  mch_buf_append(&lpool->graph, batching->lgroup->function.data, batching->lgroup->function.length);
  mch_buf_append(&lpool->ids, batching->lgroup->ids.data, batching->lgroup->ids.length);
  while (count < most && lpool->graph.length < BATCH_BYTES) {
    if (is_raw && !is_packed)
      count += (lua_Integer)mch_items_put_integers(&lpool->graph, BATCH_BYTES, L, 3, from + count,
                                                   (size_t)(most - count));
    if (count == most || lpool->graph.length >= BATCH_BYTES)
      break;
    batching->count = count;
    batching->length = lpool->graph.length;
    lua_geti(L, 3, from + count);
    if (!encode_item(L, batching, is_packed))
      break;
    count++;
  }
  lua_pushinteger(L, count);
  return 1;
}

/* Call encode_batch() with the function and what is behind it, from index 4 on: how many items are
 * in the message. -1: the first one cannot be sent, for the reason on top of the stack; one that is
 * not the first ends the batch, and is tried again as the first of the next. */
static lua_Integer encode_items(lua_State *L, struct batching *batching) {
  struct lpool *lpool = batching->lpool;
  int status;
  lua_pushcfunction(L, encode_batch);
  lua_pushlightuserdata(L, batching);
  lua_rotate(L, 4, 2);
  lpool->encoding = 1;
  status = lua_pcall(L, 6, 1, 0);
  lpool->encoding = 0;
  if (status == LUA_OK)
    return lua_tointeger(L, -1);
  if (batching->count == 0)
    return -1;
  lpool->graph.length = batching->length;
  lpool->graph.failed = 0;
  return batching->count;
}

/* Queue the items that were encoded; pushes the run ID of the first. */
static void queue_items(lua_State *L, struct batching *batching, struct mch_group *group,
                        int32_t priority, uint32_t count, uint64_t index) {
  struct lpool *lpool = batching->lpool;
  struct mch_task *task;
  struct mch_error error;
  uint64_t runid;
  flush_before_fork(lpool);
  task = mch_batch_new((const uint32_t *)(const void *)lpool->ids.data,
                       (uint32_t)(lpool->ids.length / sizeof(uint32_t)), lpool->graph.data,
                       lpool->graph.length, batching->lgroup->function.length, count, index);
  if (lpool->graph.capacity > CARGO_FROM)
    mch_buf_free(&lpool->graph);
  if (task == NULL)
    luaL_error(L, "not enough memory for another task");
  task->priority = priority;
  if (mch_pool_run(lpool->pool, task, group, &runid, &error) != 0) {
    mch_task_free(task);
    raise_error(L, &error);
  }
  lpool->started = 1;
  lua_pushinteger(L, (lua_Integer)runid);
}

/* run_batch(pool, group, priority, function, list, from, count, packed, index): queue list[from]
 * and so on, at most `count` of them, as tasks of one function that travel together: how many, the
 * run ID of the first and the bytes of the message. Nothing: the function may not be shared by many
 * calls; run them one by one. False and why: the first one cannot be sent. */
static int core_run_batch(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_group *group = group_arg(L, lpool, 2);
  struct batching batching = {.lpool = lpool, .lgroup = luaL_checkudata(L, 2, GROUP)};
  lua_Integer priority = within(luaL_checkinteger(L, 3), INT32_MIN, INT32_MAX), count;
  lua_Integer index = luaL_checkinteger(L, 9);
  size_t bytes;
  if (!lpool->batches || lpool->encoding || batching.lgroup->kind == UNSTEADY)
    return 0;
  lua_settop(L, 8);
  count = encode_items(L, &batching);
  if (count == 0)
    return 0;
  if (count < 0) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  if (lpool->graph.failed != 0 || lpool->ids.failed != 0)
    return luaL_error(L, "not enough memory to send the task");
  bytes = lpool->graph.length - batching.lgroup->function.length;
  lua_pushinteger(L, count);
  queue_items(L, &batching, group, (int32_t)priority, (uint32_t)count, (uint64_t)index);
  lua_pushinteger(L, (lua_Integer)bytes);
  return 3;
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

/* Pack the values from `first` on, up to the top, into a table as table.pack() does. */
static void pack_values(lua_State *L, int first) {
  int count = lua_gettop(L) - first + 1, i;
  lua_createtable(L, count, 1);
  lua_insert(L, first);
  for (i = count; i > 0; i--)
    lua_rawseti(L, first, i);
  lua_pushinteger(L, count);
  lua_setfield(L, first, "n");
}

/* For a graph that came from a worker. */
static struct mch_decoder new_decoder(const unsigned char *graph, size_t length,
                                      enum mch_graph_kind kind) {
  struct mch_decoder decoder;
  memset(&decoder, 0, sizeof decoder);
  decoder.bytes = graph;
  decoder.len = length;
  decoder.allow_code = 1;
  decoder.kind = kind;
  return decoder;
}

/* Push the values of a graph that came from a worker; returns how many. `ahead`: stack index of the
 * tables that came ahead of it, or 0. */
static int decode_graph(lua_State *L, const unsigned char *graph, size_t length,
                        enum mch_graph_kind kind, int ahead) {
  struct mch_decoder decoder = new_decoder(graph, length, kind);
  decoder.ahead = ahead;
  return mch_decode(L, &decoder);
}

/* Keep the answer of an item: a single value in the table at 1; where there are several, or a nil,
 * all of them, packed, in that at 2 if there is one. */
static void store_answer(lua_State *L, const unsigned char *graph, size_t length,
                         lua_Integer index) {
  int top = lua_gettop(L), count = decode_graph(L, graph, length, MCH_SEND_RESULT, 0);
  if (lua_isnil(L, 2) || (count == 1 && !lua_isnil(L, top + 1))) {
    lua_settop(L, top + 1);
    lua_rawseti(L, 1, index);
  } else {
    pack_values(L, top + 1);
    lua_rawseti(L, 2, index);
  }
  lua_settop(L, top);
}

/* What hand_over_batch() counts. */
struct weighing {
  struct lpool *lpool;
  uint64_t heavy, largest; /* bytes of all results that are worth counting; of the largest result */
};

enum { HEAVY = 1024 }; /* bytes */

/* An answer of this length came for the item at `index`: its bytes into the table at 4 if they are
 * worth counting; the item is not needed any more, and leaves the table at 5. Both may be nil. */
static void weigh(lua_State *L, struct weighing *weighing, size_t length, lua_Integer index) {
  if (length > weighing->largest)
    weighing->largest = length;
  if (length >= HEAVY && lua_istable(L, 4)) {
    lua_pushinteger(L, (lua_Integer)length);
    lua_rawseti(L, 4, index);
    weighing->heavy += length;
  }
  if (lua_istable(L, 5)) {
    lua_pushnil(L);
    lua_rawseti(L, 5, index);
  }
}

/* store_answers(values, packed values or nil, weighing, weights or nil, items or nil): those of
 * lpool->answers. An answer is done with before it is stored, so that after an error the next one
 * follows. */
static int store_answers(lua_State *L) {
  struct weighing *weighing = lua_touserdata(L, 3);
  struct mch_answers *answers = &weighing->lpool->answers;
  struct mch_buf *graphs = &answers->graphs;
  int packs = !lua_isnil(L, 2);
  luaL_checkstack(L, 8, NULL);
  while (mch_buf_unread(graphs) > 0) {
    const unsigned char *at = graphs->data + graphs->read;
    size_t length = *at++;
    lua_Integer index = (lua_Integer)answers->index++;
    answers->runid++;
    answers->count--;
    if (length == MCH_ANSWER_LONG) {
      length = mch_load_u32(at);
      at += 4;
    }
    graphs->read = (size_t)(at - graphs->data) + length;
    if (length == MCH_ANSWER_APART)
      continue;
    if (!mch_items_get(L, at, length))
      store_answer(L, at, length, index);
    else if (!packs || !lua_isnil(L, -1))
      lua_rawseti(L, 1, index);
    else {
      pack_values(L, 6);
      lua_rawseti(L, 2, index);
    }
    weigh(L, weighing, length, index);
  }
  return 0;
}

/* Finalizers may run wherever values are made. */
static void check_not_in_bulk(lua_State *L, const struct lpool *lpool) {
  if (lpool->in_bulk)
    luaL_error(L, "the pool is handing over results: a finalizer cannot receive from it now");
}

/* Call what is below its arguments on top of the stack, which may set `in_bulk`. Returns as many
 * values as are asked for, or raises. */
static void call_in_bulk(lua_State *L, struct lpool *lpool, int arguments, int results) {
  int status = lua_pcall(L, arguments, results, 0);
  lpool->in_bulk = 0;
  if (status != LUA_OK)
    lua_error(L);
}

/* Put the raw failure of an item into the list at `to`; pops the reason. */
static void add_problem(lua_State *L, int to, uint64_t runid, uint64_t index) {
  lua_createtable(L, 0, 4);
  lua_insert(L, -2);
  lua_setfield(L, -2, "reason");
  lua_pushliteral(L, "error");
  lua_setfield(L, -2, "kind");
  set_integer(L, "runid", (lua_Integer)runid);
  set_integer(L, "index", (lua_Integer)index);
  lua_rawseti(L, to, (lua_Integer)lua_rawlen(L, to) + 1);
}

/* What the items of the taken answers wrote and showed is told before their values are handed over.
 * A sink may map on this pool meanwhile, and close it. */
static void tell_sinks_of_batch(lua_State *L, struct lpool *lpool) {
  struct mch_answers answers = lpool->answers;
  if (!mch_output_wants_owner(lpool->output, 0))
    return;
  memset(&lpool->answers, 0, sizeof lpool->answers);
  lpool->handing++;
  mch_atpbar_tell(L, lpool->output); /* raises nothing: these answers are held by nobody else */
  lpool->handing--;
  mch_buf_free(&lpool->answers.graphs);
  lpool->answers = answers;
  if (lpool->pool != NULL)
    return;
  mch_buf_free(&lpool->answers.graphs);
  raise_closed(L);
}

/* hand_over(values, packed values or nil, problems, items or nil, weights or nil, weighing): all of
 * lpool->answers. */
static int hand_over_batch(lua_State *L) {
  struct weighing *weighing = lua_touserdata(L, 6);
  struct lpool *lpool = weighing->lpool;
  struct mch_answers *answers = &lpool->answers;
  lpool->in_bulk = 1;
  for (;;) {
    lua_pushcfunction(L, store_answers);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 6);
    lua_pushvalue(L, 5);
    lua_pushvalue(L, 4);
    if (mch_lwatch_pcall(L, 5, 0, 0) == LUA_OK)
      break;
    add_problem(L, 3, answers->runid - 1, answers->index - 1);
  }
  for (; answers->count > 0; answers->count--) {
    lua_pushliteral(L, "not enough memory for the task's result");
    add_problem(L, 3, answers->runid++, answers->index++);
  }
  return 0;
}

/* take_batch(pool, group, values, packed values or nil, problems, items or nil, weights or nil): if
 * answers of a batch are next, keep them by the caller's numbers, and return how many items they
 * were, without those that left the batch; the numbers of the first and the last; the bytes of the
 * large ones, which stand in `weights`, of the largest, and of all. Their items leave `items`. What
 * cannot be had is put into the list of problems, as raw failures. Else nil. */
static int core_take_batch(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_answers *answers = &lpool->answers;
  struct mch_group *group = group_arg(L, lpool, 2);
  struct weighing weighing = {lpool, 0, 0};
  lua_Integer count, first, last, bytes;
  check_not_in_bulk(L, lpool);
  deliver_logs(L, lpool);
  if (lpool->pool == NULL)
    return raise_closed(L);
  mch_buf_free(&answers->graphs);
  if (!mch_pool_take_answers(lpool->pool, group, answers))
    return 0;
  if (mch_output_backlog(lpool->output) > 0)
    mch_output_flush(lpool->output);
  tell_sinks_of_batch(L, lpool);
  count = answers->taken;
  first = (lua_Integer)answers->index;
  last = first + answers->count - 1;
  bytes = (lua_Integer)answers->graphs.length;
  lua_settop(L, 7);
  lua_pushcfunction(L, hand_over_batch);
  lua_insert(L, 3);
  lua_pushlightuserdata(L, &weighing);
  call_in_bulk(L, lpool, 6, 0);
  mch_buf_free(&answers->graphs);
  lua_pushinteger(L, count);
  lua_pushinteger(L, first);
  lua_pushinteger(L, last);
  lua_pushinteger(L, (lua_Integer)weighing.heavy);
  lua_pushinteger(L, (lua_Integer)weighing.largest);
  lua_pushinteger(L, bytes);
  return 6;
}

/* weight(pool): bytes of the result that take() has just handed over. */
static int core_weight(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)to_pool(L)->weight);
  return 1;
}

/* glance(pool, group, begin): called before an iterator is asked for the first of several items,
 * and after each of them. Whether something of the group has ended; whether what was had from the
 * iterator is to be queued at once, since it may be slow, or workers have nothing to do; and the
 * seconds that a slow step took. */
static int core_glance(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_group *group = group_arg(L, lpool, 2);
  struct lgroup *lgroup = lua_touserdata(L, 2);
  int begins = lua_toboolean(L, 3), there, hungry;
  uint64_t now = mch_now(), step = begins ? 0 : now - lgroup->glanced;
  if (step >= SLOW)
    lgroup->slow = SLOW_STEPS;
  else if (!begins && lgroup->slow > 0)
    lgroup->slow--;
  if (now - lpool->pumped >= LATE) {
    pump(L, lpool, 0);
    if (lpool->pool == NULL)
      return raise_closed(L);
    group = group_arg(L, lpool, 2);
    now = mch_now();
  }
  lgroup->glanced = now;
  mch_pool_look(lpool->pool, group, lpool->nworkers, &there, &hungry);
  lua_pushboolean(L, there);
  lua_pushboolean(L, lgroup->slow > 0 || hungry);
  if (step < SLOW)
    return 2;
  lua_pushnumber(L, (lua_Number)step / 1e9);
  return 3;
}

/* list(n): a table with room for so many items. */
static int core_list(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  lua_createtable(L, count < INT_MAX ? (int)count : 0, 1);
  return 1;
}

/* pace(pool, group): mean run time of the items of batches in seconds; nil: not known yet. */
static int core_pace(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  uint64_t pace = mch_pool_pace(lpool->pool, group_arg(L, lpool, 2));
  if (pace == 0)
    return 0;
  lua_pushnumber(L, (lua_Number)pace / 1e9);
  return 1;
}

/* fixed(number, digits): as %.*f, in every locale. */
static int core_fixed(lua_State *L) {
  char text[MCH_DECIMAL_ROOM];
  int digits = (int)within(luaL_checkinteger(L, 2), 0, MCH_DECIMAL_DIGITS);
  mch_decimal_fixed(text, luaL_checknumber(L, 1), digits);
  lua_pushstring(L, text);
  return 1;
}

/* text(value): as tostring(), with a point in a number in every locale. */
static int core_text(lua_State *L) {
  luaL_checkany(L, 1);
  mch_text_push(L, 1);
  return 1;
}

/* tointeger(value): of a number with an integral value; nil of anything else. */
static int core_tointeger(lua_State *L) {
  int is_integer = 0;
  lua_Integer integer = lua_type(L, 1) == LUA_TNUMBER ? lua_tointegerx(L, 1, &is_integer) : 0;
  if (!is_integer)
    return 0;
  lua_pushinteger(L, integer);
  return 1;
}

/* is_callable(value) */
static int core_is_callable(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, is_callable(L, 1));
  return 1;
}

/* -- receiving ---------------------------------------------------------------------------- */

/* Engine "snapshot": the payload of a task that is over is dropped. */
static void drop_payload(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  if (lpool->task.payloads == LUA_NOREF)
    return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  lua_pushnil(L);
  lua_rawseti(L, -2, (lua_Integer)mch_load_u64(task->body));
  lua_pop(L, 1);
}

/* Pop a Lua function and note where it is defined in the table below it. */
static void set_place(lua_State *L) {
  lua_Debug info;
  lua_getinfo(L, ">S", &info);
  lua_pushfstring(L, "<%s:%d>", info.short_src, info.linedefined);
  lua_setfield(L, -2, "place");
}

static void push_payload_place(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, lpool->task.payloads);
  if (lua_rawgeti(L, -1, (lua_Integer)mch_load_u64(task->body)) == LUA_TTABLE)
    lua_rawgeti(L, -1, 1);
  else
    lua_pushnil(L); /* a sink has just abandoned the task's group */
  lua_replace(L, -3);
  lua_pop(L, 1);
  if (lua_isfunction(L, -1) && !lua_iscfunction(L, -1))
    set_place(L);
  else
    lua_pop(L, 1);
}

/* Push the fields that say where a function comes from: its bytecode is the first that its task
 * names, if it travelled by a name. */
static void push_function_place(lua_State *L, struct lpool *lpool, const struct mch_task *task) {
  uint32_t id;
  size_t length;
  const void *bytes;
  if (lpool->task.payloads != LUA_NOREF) {
    push_payload_place(L, lpool, task);
    return;
  }
  if (task->codes == 0)
    return;
  memcpy(&id, task->body, sizeof id);
  bytes = mch_pool_code(lpool->pool, id, &length);
  if (bytes == NULL)
    return;
  if (luaL_loadbufferx(L, bytes, length, "=", "b") == LUA_OK)
    set_place(L);
  else
    lua_pop(L, 1);
}

static void set_number(lua_State *L, const char *name, uint64_t nanoseconds) {
  lua_pushnumber(L, (lua_Number)nanoseconds / 1e9);
  lua_setfield(L, -2, name);
}

/* Called with the answer of a worker that died: push the last record that its task logged. */
static int decode_last_log(lua_State *L) {
  const struct mch_result *result = lua_touserdata(L, 1);
  return decode_graph(L, result->graph, result->length, MCH_SEND_RESULT, 0);
}

/* Its message goes into the failure on top; where it cannot be had, the failure is told without. */
static void set_last_log(lua_State *L, const struct mch_result *result) {
  int failure = lua_gettop(L);
  lua_pushcfunction(L, decode_last_log);
  lua_pushlightuserdata(L, (void *)result);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_istable(L, -1)) {
    lua_pushliteral(L, "message");
    lua_rawget(L, -2);
    lua_setfield(L, failure, "last_log");
  }
  lua_settop(L, failure);
}

/* What a worker says of an error: message, traceback, the value shown as text or false, value. */
enum { ERROR_PARTS = 4, PARTS_WITHOUT_VALUE = 3 };

/* Called with the answer, and how many of those are wanted: push them. */
static int decode_error(lua_State *L) {
  const struct mch_result *result = lua_touserdata(L, 1);
  struct mch_decoder decoder = new_decoder(result->graph, result->length, MCH_SEND_ERROR);
  int wanted = (int)lua_tointeger(L, 2);
  decoder.most = wanted;
  if (mch_decode(L, &decoder) != wanted)
    return luaL_error(L, "a worker described an error in an unknown way");
  return wanted;
}

/* Push what was said of an error. An error value that cannot be
 * rebuilt here must not take along what else is known of the error: then it is nil. */
static void push_error(lua_State *L, const struct mch_result *result) {
  int top = lua_gettop(L);
  lua_pushcfunction(L, decode_error);
  lua_pushlightuserdata(L, (void *)result);
  lua_pushinteger(L, ERROR_PARTS);
  if (lua_pcall(L, 2, ERROR_PARTS, 0) == LUA_OK) {
    lua_pushnil(L);
    return;
  }
  lua_pushcfunction(L, decode_error);
  lua_pushlightuserdata(L, (void *)result);
  lua_pushinteger(L, PARTS_WITHOUT_VALUE);
  lua_call(L, 2, PARTS_WITHOUT_VALUE);
  lua_pushnil(L);
  lua_rotate(L, top + 1, -1);
}

/* What a worker said of an error, into the failure on top. */
static void set_error(lua_State *L, const struct mch_result *result) {
  int failure = lua_gettop(L);
  if (result->text != NULL) {
    lua_pushstring(L, result->text);
    lua_setfield(L, failure, "reason");
  }
  if (result->length == 0)
    return;
  if (result->graph_is_log) {
    set_last_log(L, result);
    return;
  }
  push_error(L, result);
  lua_pushvalue(L, failure + 1);
  lua_setfield(L, failure, "reason");
  lua_pushvalue(L, failure + 2);
  lua_setfield(L, failure, "traceback");
  if (lua_type(L, failure + 3) == LUA_TSTRING) {
    lua_pushvalue(L, failure + 3);
    lua_setfield(L, failure, "shown");
  }
  lua_pushvalue(L, failure + 4);
  lua_setfield(L, failure, "value");
  if (lua_type(L, failure + 5) == LUA_TSTRING) {
    lua_pushvalue(L, failure + 5);
    lua_setfield(L, failure, "lost");
  }
  lua_settop(L, failure);
}

static const char *kind_word(enum mch_kind kind) {
  static const char *const words[] = {
#define MCH_KIND_WORD(name, word) word,
      MCH_KINDS(MCH_KIND_WORD)
#undef MCH_KIND_WORD
  };
  return words[kind];
}

/* While other code may run that receives from this pool (sinks, finalizers), the taken task is kept
 * from it. */
static struct mch_task *hold_taken(struct lpool *lpool) {
  struct mch_task *task = lpool->taken;
  task->next = lpool->held;
  lpool->held = task;
  lpool->taken = NULL;
  return task;
}

static void take_held(lua_State *L, struct lpool *lpool, struct mch_task *task) {
  struct mch_task **at = &lpool->held;
  if (lpool->pool == NULL)
    raise_closed(L);
  while (*at != task)
    at = &(*at)->next;
  *at = task->next;
  mch_pool_discard(lpool->pool, lpool->taken);
  lpool->taken = task;
}

/* Which task it was, into the failure on top. */
static void set_task(lua_State *L, const struct mch_task *task) {
  set_integer(L, "runid", (lua_Integer)task->runid);
  if (task->extra != NULL && task->extra->name_length > 0) {
    lua_pushlstring(L, task->extra->name, task->extra->name_length);
    lua_setfield(L, -2, "name");
  }
  if (task->extra != NULL && task->extra->index > 0)
    set_integer(L, "index", (lua_Integer)task->extra->index);
  if (task->result->pid != 0)
    set_integer(L, "pid", task->result->pid);
  set_number(L, "elapsed", task->result->elapsed);
}

/* Called with the pool: push the raw facts of the failure of the task that is held. */
static int make_failure(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  const struct mch_task *task = lpool->held;
  const struct mch_result *result = task->result;
  lua_settop(L, 0);
  lua_newtable(L);
  lua_pushstring(L, kind_word(result->kind));
  lua_setfield(L, -2, "kind");
  set_task(L, task);
  if (result->kind == MCH_KIND_KILLED && result->signal != 0)
    set_integer(L, "signal", result->signal);
  if (result->kind == MCH_KIND_EXITED)
    set_integer(L, "exitcode", result->exitcode);
  if (task->attempt > 0)
    set_integer(L, "attempts", task->attempt + 1);
  if (result->progress != NULL) {
    lua_pushstring(L, result->progress);
    lua_setfield(L, -2, "progress");
  }
  if (result->perhaps_oom) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "perhaps_oom");
  }
  if (result->maxrss != 0)
    set_integer(L, "maxrss", (lua_Integer)result->maxrss);
  push_function_place(L, lpool, task);
  set_error(L, result);
  return 1;
}

/* Called with the pool: push the values of the task that is held. */
static int make_values(lua_State *L) {
  const struct mch_task *task = ((struct lpool *)lua_touserdata(L, 1))->held;
  const struct mch_result *result = task->result;
  int ahead = 0;
  lua_settop(L, 0);
  if (mch_items_is_none(result->graph, result->length))
    return 0;
  if (mch_items_get(L, result->graph, result->length))
    return 1;
  if (task->ahead != NULL)
    ahead = lua_rawgeti(L, LUA_REGISTRYINDEX, (lua_Integer)task->ahead->anchor) == LUA_TTABLE;
  return decode_graph(L, result->graph, result->length, MCH_SEND_RESULT, ahead);
}

/* An answer that cannot be turned into values here is an error of its task. */
static void push_undecodable(lua_State *L, const struct mch_task *task) {
  lua_createtable(L, 0, 4);
  lua_insert(L, -2);
  lua_setfield(L, -2, "reason");
  lua_pushliteral(L, "error");
  lua_setfield(L, -2, "kind");
  set_task(L, task);
}

/* What the taken task wrote and showed is told before its values are handed over, and what came
 * ahead of them is stored. Code that runs then may receive from this pool, and close it. */
static void settle_taken(lua_State *L, struct lpool *lpool) {
  struct mch_task *task = lpool->taken;
  int tell = mch_output_wants_owner(lpool->output, 0);
  if (!tell && !mch_cargo_is_shared(task->ahead))
    return;
  hold_taken(lpool);
  if (tell)
    mch_atpbar_tell(L, lpool->output);
  while (lpool->pool != NULL && mch_cargo_is_shared(task->ahead))
    store_pieces(L, lpool, 1);
  take_held(L, lpool, task);
}

/* Take a finished task, the first one from run ID *from on or (NULL) the first that finished, after
 * the log records and lines that came before it. 0: none is there. */
static int take_next(lua_State *L, struct lpool *lpool, struct mch_group *group, uint64_t *from) {
  mch_pool_discard(lpool->pool, lpool->taken);
  lpool->taken = NULL;
  for (;;) {
    lpool->taken = from != NULL ? mch_pool_take_in_order(lpool->pool, group, from)
                                : mch_pool_take(lpool->pool, group);
    if (lpool->taken != NULL)
      break;
    if (!mch_pool_has_logs(lpool->pool))
      return 0;
    deliver_logs(L, lpool); /* they come first */
    if (lpool->pool == NULL)
      return raise_closed(L);
  }
  if (mch_output_backlog(lpool->output) > 0)
    mch_output_flush(lpool->output);
  settle_taken(L, lpool);
  return 1;
}

/* What core_take_plain() does, with its arguments. Only while values are made the pool is in bulk:
 * sinks and handlers of log records may receive from it. */
static int take_plain(lua_State *L) {
  struct lpool *lpool = lua_touserdata(L, 1);
  uint64_t from = (uint64_t)luaL_checkinteger(L, 2);
  lua_Integer n = luaL_checkinteger(L, 4);
  while (lpool->left == NULL && take_next(L, lpool, &lpool->group, &from)) {
    struct mch_task *task = lpool->taken;
    const struct mch_result *result = task->result;
    lpool->left = task; /* nobody else's: a finalizer may map or receive now */
    lpool->taken = NULL;
    lpool->in_bulk = 1;
    if (result->kind == MCH_KIND_OK && mch_items_is_none(result->graph, result->length))
      lua_pushnil(L);
    else if (result->kind != MCH_KIND_OK || !mch_items_get(L, result->graph, result->length))
      break;
    lua_pushvalue(L, -1);
    lua_rawseti(L, 5, (lua_Integer)task->runid);
    lua_rawseti(L, 3, ++n);
    lpool->left = NULL;
    lpool->in_bulk = 0;
    drop_payload(L, lpool, task);
    mch_pool_discard(lpool->pool, task);
  }
  lua_pushinteger(L, (lua_Integer)from);
  lua_pushinteger(L, n);
  return 2;
}

/* take_plain(pool, from, list, n, results): take tasks of run() in run order from run ID `from` on,
 * as long as they returned a plain value or none: to the end of the list, which has n, and by run
 * ID to the results. The new `from` and n. The task at which it ended is there for take(). */
static int core_take_plain(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  check_not_in_bulk(L, lpool);
  lua_settop(L, 5);
  lua_pushcfunction(L, take_plain);
  lua_insert(L, 1);
  call_in_bulk(L, lpool, 5, 2);
  return 2;
}

/* take(pool, from or nil, group or nil, copies or nil): nil, or run ID, whether it failed, and its
 * values or the raw failure. In order of completion, or in run order from run ID `from`. What
 * receives them makes so many copies of the values on the stack, one if it does not say. */
static int core_take(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  int in_order = !lua_isnoneornil(L, 2), copies = (int)luaL_optinteger(L, 4, 1), failed;
  uint64_t from = in_order ? (uint64_t)luaL_checkinteger(L, 2) : 0;
  struct mch_group *group = group_arg(L, lpool, 3);
  struct mch_task *task;
  int status;
  check_not_in_bulk(L, lpool);
  if (lpool->left != NULL && group == &lpool->group) {
    mch_pool_discard(lpool->pool, lpool->taken);
    lpool->taken = lpool->left;
    lpool->left = NULL;
  } else if (!take_next(L, lpool, group, in_order ? &from : NULL))
    return 0;
  failed = lpool->taken->result->kind != MCH_KIND_OK;
  lua_settop(L, 0);
  lua_pushinteger(L, (lua_Integer)lpool->taken->runid);
  lua_pushboolean(L, failed);
  lua_pushcfunction(L, failed ? make_failure : make_values);
  lua_pushlightuserdata(L, lpool);
  task = hold_taken(lpool);
  lpool->decoding++;
  status = mch_lwatch_pcall(L, 1, LUA_MULTRET, 0);
  lpool->decoding--;
  take_held(L, lpool, task);
  if (status == LUA_OK && !lua_checkstack(L, copies * lua_gettop(L) + LUA_MINSTACK)) {
    lua_settop(L, 2);
    lua_pushliteral(L, "it returned more values than a call can hand over: put them into a table");
    status = LUA_ERRRUN;
  }
  if (status != LUA_OK) {
    push_undecodable(L, lpool->taken);
    lua_pushboolean(L, 1);
    lua_replace(L, 2);
  }
  drop_payload(L, lpool, lpool->taken);
  lpool->weight = lpool->taken->result->length + lpool->taken->ahead_bytes;
  mch_pool_discard(lpool->pool, lpool->taken);
  lpool->taken = NULL;
  return lua_gettop(L);
}

/* -- the rest ----------------------------------------------------------------------------- */

/* problem(pool): why it cannot be used here and now, or nil. A method begins with it. */
static int core_problem(lua_State *L) {
  mch_notices_tell(L);
  return push_problem(L, to_pool(L));
}

static int core_is_closed(lua_State *L) {
  lua_pushboolean(L, to_pool(L)->pool == NULL);
  return 1;
}

/* pump(pool): never waits. */
static int core_pump(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct goal goal = {UNTIL_TIME, NULL, 0};
  wait_for(L, lpool, &goal, 0);
  return 0;
}

/* counts(pool): unfinished and finished tasks of run(), running, queued, next run ID. */
static int core_counts(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_pool_counts counts;
  mch_pool_count(lpool->pool, &counts);
  lua_pushinteger(L, (lua_Integer)mch_pool_unfinished(lpool->pool, &lpool->group));
  lua_pushinteger(L, (lua_Integer)mch_pool_finished(lpool->pool, &lpool->group));
  lua_pushinteger(L, counts.running);
  lua_pushinteger(L, (lua_Integer)counts.queued);
  lua_pushinteger(L, (lua_Integer)counts.next_runid);
  return 5;
}

static int core_start(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_error error;
  note_state(L, lpool);
  mch_output_flush(lpool->output);
  if (mch_pool_start(lpool->pool, &error) != 0)
    return raise_error(L, &error);
  lpool->started = 1;
  return 0;
}

enum { MOST_WORKERS = 4096 };

static int core_workers(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_worker_info *infos = lua_newuserdatauv(L, MOST_WORKERS * sizeof *infos, 0);
  size_t count = mch_pool_workers(lpool->pool, infos, MOST_WORKERS), i;
  lua_createtable(L, (int)count, 0);
  for (i = 0; i < count; i++) {
    lua_createtable(L, 0, 5);
    set_integer(L, "pid", infos[i].pid);
    set_integer(L, "slot", infos[i].slot);
    set_integer(L, "tasks", (lua_Integer)infos[i].tasks);
    set_integer(L, "maxrss", (lua_Integer)infos[i].maxrss);
    if (infos[i].busy)
      set_integer(L, "runid", (lua_Integer)infos[i].runid);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* cancel(pool, runid): "queued", "running" or nil. */
static int core_cancel(lua_State *L) {
  static const char *const was[] = {NULL, "queued", "running"};
  struct lpool *lpool = check_pool(L);
  lua_pushstring(L, was[mch_pool_cancel(lpool->pool, (uint64_t)luaL_checkinteger(L, 2))]);
  return 1;
}

static int core_cancel_all(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  mch_pool_cancel_all(lpool->pool, NULL, (uint64_t)luaL_checkinteger(L, 2));
  return 0;
}

/* Why the pool cannot be closed now: code that runs inside of another call, which needs it, wants
 * to. NULL: it can. */
static const char *why_busy(const struct lpool *lpool) {
  if (lpool->task.running) /* engine "inline": the pump that runs it is the pool's */
    return mch_pool_unfinished(lpool->pool, &lpool->group) > 0
               ? "cannot wait for the pool inside of one of its own tasks"
               : "cannot close the pool inside of one of its own tasks";
  if (lpool->encoding || lpool->in_bulk || lpool->decoding > 0)
    return "the pool is sending or rebuilding a value: a hook or finalizer cannot close it now";
  if (lpool->handing > 0 || lpool->held != NULL)
    return "the pool is handing over results: close it when that call has returned";
  return NULL;
}

static void check_not_busy(lua_State *L, const struct lpool *lpool) {
  const char *why = why_busy(lpool);
  if (why != NULL)
    raise_sentence(L, why);
}

/* check_not_busy(pool): raises where it cannot be closed. */
static int core_check_not_busy(lua_State *L) {
  check_not_busy(L, check_pool(L));
  return 0;
}

static int core_quit(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  check_not_busy(L, lpool);
  mch_pool_quit(lpool->pool, 0);
  return 0;
}

/* hand_over(pool, function, ...): what the function returns, while which the pool cannot be closed,
 * so that nothing that was received gets lost. */
static int core_hand_over(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  int status;
  lua_remove(L, 1);
  lpool->handing++;
  status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  lpool->handing--;
  if (status != LUA_OK)
    return lua_error(L);
  return lua_gettop(L);
}

/* failed(pool, from): how many tasks of run() from that run ID on have failed, other than by being
 * cancelled, and were received by nobody. */
static int core_failed(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  uint64_t from = (uint64_t)luaL_optinteger(L, 2, 0);
  lua_Integer count = (lua_Integer)mch_pool_failed(lpool->pool, &lpool->group, from);
  if (lpool->left != NULL && lpool->left->runid >= from) {
    enum mch_kind kind = lpool->left->result->kind;
    count += kind != MCH_KIND_OK && kind != MCH_KIND_CANCELLED;
  }
  lua_pushinteger(L, count);
  return 1;
}

/* drop(pool, all): the results of run() that nobody received; failures stay, unless `all` is set.
 */
static int core_drop(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  int all = lua_toboolean(L, 2);
  enum mch_kind kind = lpool->left != NULL ? lpool->left->result->kind : MCH_KIND_OK;
  if (lpool->left != NULL && (all || kind == MCH_KIND_OK || kind == MCH_KIND_CANCELLED)) {
    mch_pool_discard(lpool->pool, lpool->left);
    lpool->left = NULL;
  }
  mch_pool_drop(lpool->pool, &lpool->group, all);
  if (mch_output_backlog(lpool->output) > 0)
    mch_output_flush(lpool->output);
  return 0;
}

static void free_pool(lua_State *L, struct lpool *lpool) {
  struct mch_pool *pool = lpool->pool;
  lpool->pool = NULL;
  if (pool == NULL)
    return;
  mch_pool_discard(pool, lpool->taken);
  mch_pool_discard(pool, lpool->left);
  lpool->taken = lpool->left = NULL;
  while (lpool->held != NULL) {
    struct mch_task *next = lpool->held->next;
    mch_pool_discard(pool, lpool->held);
    lpool->held = next;
  }
  mch_output_ref(lpool->output); /* as a state closes, the pool's may be the last one */
  mch_pool_free(pool);
  release_lent(L, lpool);
  release_spent(L, lpool);
  mch_ltask_close(L, &lpool->task);
  luaL_unref(L, LUA_REGISTRYINDEX, lpool->warned);
  mch_heap_restore(L, &lpool->task.heap);
  mch_buf_free(&lpool->graph);
  mch_buf_free(&lpool->spans);
  mch_buf_free(&lpool->ids);
  mch_buf_free(&lpool->record);
  mch_buf_free(&lpool->answers.graphs);
  mch_mark_free(&lpool->mark);
  if (lpool->started)
    mch_output_detach(lpool->output);
  mch_output_unref(lpool->output);
}

static int core_free(lua_State *L) {
  free_pool(L, check_pool(L));
  return 0;
}

static int core_fd(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  struct mch_error error;
  int fd = mch_pool_fd(lpool->pool, &error);
  if (fd < 0)
    return raise_error(L, &error);
  lua_pushinteger(L, fd);
  return 1;
}

/* due(pool): seconds until the pump has something to do without its descriptor; nil: never. */
static int core_due(lua_State *L) {
  struct lpool *lpool = check_pool(L);
  uint64_t due = mch_pool_deadline(lpool->pool), now = mch_now();
  if (due == MCH_NEVER)
    return 0;
  lua_pushnumber(L, due > now ? (lua_Number)(due - now) / 1e9 : 0.0);
  return 1;
}

/* seed(): in a task the next number of its stream, else an integer that nobody foresees. */
static int core_seed(lua_State *L) {
  uint64_t now = mch_now(), place = (uint64_t)(uintptr_t)&now;
  if (mch_context_get(L)->running && mch_ltask_random(L))
    return 1;
  now ^= (uint64_t)getpid() << 40 ^ place << 17 ^ (uint64_t)(uintptr_t)L;
  now = (now ^ now >> 31) * 0x9e3779b97f4a7c15u;
  lua_pushinteger(L, (lua_Integer)(now ^ now >> 29));
  return 1;
}

/* sleep(seconds) */
static int core_sleep(lua_State *L) {
  uint64_t until = deadline_arg(L, 1);
  mch_notices_tell(L);
  mch_lpool_sleep(L, until == 0 ? mch_now() : until);
  return 0;
}

static int core_cpu_count(lua_State *L) {
  mch_notices_tell(L);
  lua_pushinteger(L, (lua_Integer)mch_platform_cpu_count());
  return 1;
}

static int core_is_worker(lua_State *L) {
  const struct mch_worker *worker = mch_context_get(L)->worker;
  mch_notices_tell(L);
  lua_pushboolean(L, worker != NULL && !mch_worker_is_stranger(worker));
  return 1;
}

/* embedded(): whether a program uses the C API on this state. */
static int core_embedded(lua_State *L) {
  lua_pushboolean(L, mch_context_get(L)->embedded);
  return 1;
}

/* undisturbed(f): a function that calls f. The error of a stop is raised after it, not in it. */
static int core_undisturbed(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushcclosure(L, mch_lwatch_undisturbed, 1);
  return 1;
}

/* stops(): how often the error of a stop was raised in tasks of this worker. */
static int core_stops(lua_State *L) {
  lua_pushinteger(L, mch_lwatch_stops(L));
  return 1;
}

static int core_runid(lua_State *L) {
  const struct mch_context *context = mch_context_get(L);
  mch_notices_tell(L);
  if (!context->running)
    return 0;
  lua_pushinteger(L, (lua_Integer)context->runid);
  return 1;
}

static int never(void *ud) {
  (void)ud;
  return 0;
}

/* Kill the workers and free everything, whatever state the pool is in. Raises nothing. */
static void end_now(lua_State *L, struct lpool *lpool) {
  uint64_t patience = mch_now() + 5000000000u;
  lpool->task.L = L;
  mch_pool_quit(lpool->pool, 1);
  while (!mch_pool_gone(lpool->pool) && mch_now() < patience) {
    mch_pool_pump(lpool->pool);
    if (!mch_pool_gone(lpool->pool))
      mch_pool_wait(lpool->pool, &(struct mch_waiting){patience, NULL, never, NULL, NULL, 1});
  }
  free_pool(L, lpool);
}

/* A pool that nobody closed: its workers end now. In a process that did not make it, nothing. */
static int pool_gc(lua_State *L) {
  struct lpool *lpool = to_pool(L);
  if (lpool->pool == NULL) {
    mch_mark_free(&lpool->mark);
    return 0;
  }
  if (!mch_mark_is_ours(&lpool->mark))
    return 0;
  if (lpool->started)
    mch_notices_collected(L, mch_pool_unfinished(lpool->pool, NULL),
                          mch_pool_failed(lpool->pool, &lpool->group, 0));
  end_now(L, lpool);
  return 0;
}

/* Whether the state closes, when a <close> variable's method runs: there is no function then whose
 * variable it could be. (Before Lua 5.4.3 the call of os.exit is still there.) */
static int is_state_closing(lua_State *L) {
  lua_Debug info;
  int is_exit = 0;
  if (L != main_thread(L))
    return 0;
  if (!lua_getstack(L, 1, &info))
    return 1;
  luaL_checkstack(L, 4, NULL);
  lua_getinfo(L, "f", &info);
  if (lua_iscfunction(L, -1) &&
      lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE) {
    if (lua_getfield(L, -1, "os") == LUA_TTABLE) {
      lua_getfield(L, -1, "exit");
      is_exit = lua_rawequal(L, -1, 3);
    }
  }
  lua_settop(L, 2);
  return is_exit;
}

/* __close(pool, error): calls what pool.lua wants (the upvalue) as leave(pool, error, state
 * closes), and sees to it that the pool is closed even if that was interrupted. */
static int leave(lua_State *L) {
  struct lpool *lpool = to_pool(L);
  int closing;
  lua_settop(L, 2);
  if (!is_open(lpool))
    return 0;
  check_not_busy(L, lpool);
  closing = is_state_closing(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_pushboolean(L, closing);
  if (lua_pcall(L, 3, 0, 0) == LUA_OK)
    return 0;
  if (is_open(lpool) && why_busy(lpool) == NULL)
    end_now(L, lpool);
  return lua_error(L);
}

/* leaving(function): a __close method that is safe from interruptions. */
static int core_leaving(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushcclosure(L, leave, 1);
  return 1;
}

/* unfinished(pool): how many tasks and items have not ended. */
static int core_unfinished(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)mch_pool_unfinished(check_pool(L)->pool, NULL));
  return 1;
}

/* logging(): the module, loaded at the first call. */
static int core_logging(lua_State *L) {
  mch_notices_push_logging(L);
  return 1;
}

static int64_t integer_field(lua_State *L, const char *name) {
  int64_t value;
  lua_getfield(L, 1, name);
  value = (int64_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

static int flag_field(lua_State *L, const char *name) {
  int value;
  lua_getfield(L, 1, name);
  value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

static uint64_t time_field(lua_State *L, const char *name) {
  lua_Number seconds;
  lua_getfield(L, 1, name);
  seconds = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return nanoseconds(seconds);
}

/* Faults on purpose, as the environment wants them: see chaos.h. */
static void configure_chaos(lua_State *L, struct mch_chaos *chaos) {
  struct mch_error error;
  if (mch_chaos_parse(chaos, getenv("MANTICHORA_CHAOS"), &error) != 0)
    raise_error(L, &error);
}

/* In a new worker. */
static void run_child_hook(void *ud) {
  const struct mch_context *context = ud;
  if (context->child_hook != NULL)
    context->child_hook(context->child_hook_ud);
}

static void configure(lua_State *L, struct lpool *lpool, struct mch_pool_config *config) {
  struct mch_context *context = mch_context_get(L);
  memset(config, 0, sizeof *config);
  config->kind = flag_field(L, "inline") ? MCH_ENGINE_INLINE : MCH_ENGINE_FORK;
  config->engine.snapshot = flag_field(L, "snapshot");
  config->background = flag_field(L, "background");
  config->engine.nworkers = lpool->nworkers = (unsigned)integer_field(L, "nworkers");
  lpool->task.heap.nworkers = (int)config->engine.nworkers;
  config->engine.max_tasks_per_worker = (uint64_t)integer_field(L, "max_tasks_per_worker");
  config->engine.timeout = time_field(L, "timeout");
  config->engine.grace = 500000000u;
  config->engine.limit_cpu = (uint64_t)integer_field(L, "limit_cpu");
  config->engine.limit_files = (uint64_t)integer_field(L, "limit_files");
  lpool->task.memory = (size_t)integer_field(L, "limit_memory");
  if (lpool->task.memory > 0)
    config->engine.limit_memory = lpool->task.memory + MEMORY_SLACK;
  config->engine.bars = flag_field(L, "progressbar") && !context->hides_bars;
  lpool->task.hides_bars = !config->engine.bars;
  config->engine.log_level = context->worker != NULL ? INT_MIN : context->log_level;
  config->engine.output = lpool->output;
  if (!config->background)
    mch_output_no_thread(lpool->output);
  config->engine.self = context->worker;
  config->engine.runner = mch_ltask_runner(&lpool->task);
  config->engine.child_hook = run_child_hook;
  config->engine.child_hook_ud = context;
  configure_chaos(L, &config->engine.chaos);
}

/* new(settings): a pool object. The settings were checked by pool.lua: nworkers, timeout,
 * max_tasks_per_worker (0: none), seed, init, poolbar (its name, if it is wanted), and the flags
 * inline, background, progressbar. */
static int core_new(lua_State *L) {
  struct mch_pool_config config;
  struct mch_error error;
  struct mch_output *output;
  struct mch_poller *poller;
  struct lpool *lpool;
  luaL_checktype(L, 1, LUA_TTABLE);
  mch_notices_tell(L);
  output = mch_atpbar_output(L); /* made before the pool, so that it is finalized after it */
  lpool = lua_newuserdatauv(L, sizeof *lpool, 1);
  memset(lpool, 0, sizeof *lpool);
  mch_mark_make(&lpool->mark);
  lpool->task.notes = lpool->task.init = lpool->task.mapped = lpool->task.makers = LUA_NOREF;
  lpool->task.payloads = lpool->task.lent = lpool->task.anchor = LUA_NOREF;
  lpool->lent = lpool->warned = LUA_NOREF;
  luaL_setmetatable(L, TYPE);
  lpool->output = output;
  lpool->task.L = main_thread(L);
  lpool->task.context = mch_context_get(L);
  lpool->task.output = lpool->output;
  lpool->task.seed = (lua_Integer)integer_field(L, "seed");
  lpool->main_hooks = hooks_of(main_thread(L));
  if (lua_getfield(L, 1, "init") != LUA_TNIL)
    lpool->task.init = luaL_ref(L, LUA_REGISTRYINDEX);
  else
    lua_pop(L, 1);
  lpool->keep_gc = flag_field(L, "keep_gc");
  lpool->capture_warn = (size_t)integer_field(L, "capture_warn");
  mch_context_push_weak(L);
  lpool->warned = luaL_ref(L, LUA_REGISTRYINDEX);
  if (flag_field(L, "snapshot")) {
    lua_newtable(L);
    lpool->task.payloads = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  configure(L, lpool, &config);
  /* Items of a batch are not counted one by one before they run. */
  lpool->batches = config.kind == MCH_ENGINE_FORK && !config.engine.snapshot &&
                   config.engine.max_tasks_per_worker == 0;
  mch_context_push_pools(L);
  lua_pushvalue(L, 2);
  lua_pushboolean(L, 1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  lua_getfield(L, 1, "poolbar");
  config.bar = lua_isstring(L, -1) && !lpool->task.context->hides_bars ? lua_tostring(L, -1) : NULL;
  lpool->pool = mch_pool_new(&config, &error);
  lua_pop(L, 1);
  if (lpool->pool == NULL)
    return raise_error(L, &error);
  if (mch_context_get(L)->poller != NULL && (poller = gathering(L, &error)) != NULL)
    gather(poller, lpool, &error); /* else it is tried again at the next poll */
  return 1;
}

void mch_lpool_log_threshold(lua_State *L, int level) {
  mch_context_get(L)->log_level = level;
  mch_context_push_pools(L);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    struct lpool *lpool = lua_touserdata(L, -2);
    lua_pop(L, 1);
    if (lpool->pool != NULL && mch_mark_is_ours(&lpool->mark))
      mch_pool_log_threshold(lpool->pool, level);
  }
  lua_pop(L, 1);
}

int mch_lpool_open(lua_State *L) {
  static const luaL_Reg core[] = {{"new", core_new},
                                  {"run", core_run},
                                  {"run_with", core_run_with},
                                  {"wait", core_wait},
                                  {"take", core_take},
                                  {"take_plain", core_take_plain},
                                  {"problem", core_problem},
                                  {"is_closed", core_is_closed},
                                  {"pump", core_pump},
                                  {"counts", core_counts},
                                  {"start", core_start},
                                  {"workers", core_workers},
                                  {"cancel", core_cancel},
                                  {"cancel_all", core_cancel_all},
                                  {"quit", core_quit},
                                  {"free", core_free},
                                  {"check_not_busy", core_check_not_busy},
                                  {"hand_over", core_hand_over},
                                  {"failed", core_failed},
                                  {"drop", core_drop},
                                  {"leaving", core_leaving},
                                  {"logging", core_logging},
                                  {"argument", core_argument},
                                  {"raise", core_raise},
                                  {"typename", core_typename},
                                  {"unfinished", core_unfinished},
                                  {"run_many", core_run_many},
                                  {"group", core_group},
                                  {"abandon", core_abandon},
                                  {"run_in", core_run_in},
                                  {"run_batch", core_run_batch},
                                  {"take_batch", core_take_batch},
                                  {"pace", core_pace},
                                  {"weight", core_weight},
                                  {"keep", core_keep},
                                  {"want", core_want},
                                  {"glance", core_glance},
                                  {"fixed", core_fixed},
                                  {"text", core_text},
                                  {"tointeger", core_tointeger},
                                  {"list", core_list},
                                  {"is_callable", core_is_callable},
                                  {"explain", mch_explain_call},
                                  {"fd", core_fd},
                                  {"due", core_due},
                                  {"seed", core_seed},
                                  {"sleep", core_sleep},
                                  {"cpu_count", core_cpu_count},
                                  {"is_worker", core_is_worker},
                                  {"runid", core_runid},
                                  {"embedded", core_embedded},
                                  {"undisturbed", core_undisturbed},
                                  {"stops", core_stops},
                                  {NULL, NULL}};
  mch_notices_open(L);
  luaL_newlib(L, core);
  if (luaL_newmetatable(L, TASKS)) {
    lua_pushcfunction(L, tasks_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, pool_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setfield(L, -2, "metatable");
  if (luaL_newmetatable(L, GROUP)) {
    lua_pushcfunction(L, core_abandon);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, core_abandon);
    lua_setfield(L, -2, "__close");
  }
  lua_pop(L, 1);
  return 1;
}
