/* Runs in: both. Purpose: lpool.h. */

#include "lpool_state.h"
#include "lhosts.h"

#include <lauxlib.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bindings/context.h"
#include "bindings/part.h"
#include "bindings/lwatch.h"
#include "bindings/notices.h"
#include "bindings/show/lattach.h"
#include "bindings/show/loutput.h"
#include "bindings/values/text.h"
#include "ltrace.h"
#include "words.h"
#include "runtime/base/chaos.h"
#include "runtime/base/decimal.h"
#include "runtime/base/error.h"
#include "runtime/base/platform.h"
#include "runtime/engines/engine.h"
#include "runtime/engines/worker.h"
#include "runtime/pool/jobserver.h"
#include "runtime/show/jsonl.h"
#include "runtime/show/output.h"
#include "runtime/show/output_state.h"

/* Nanoseconds that a task or `fini` has between being asked to stop and being killed. */
static const uint64_t grace = 500000000u;

/* fixed(number, digits): as %.*f, in every locale. */
static int core_fixed(lua_State *L) {
  char text[MCH_DECIMAL_ROOM];
  int digits = (int)mch_lrun_within(luaL_checkinteger(L, 2), 0, MCH_DECIMAL_DIGITS);
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

/* absolute(path or nil): from where the process is now; nil of nil and of "". */
static int core_absolute(lua_State *L) {
  const char *path = luaL_optstring(L, 1, "");
  char here[4096];
  if (path[0] == '\0')
    return 0;
  if (path[0] == '/' || getcwd(here, sizeof here) == NULL)
    lua_settop(L, 1);
  else
    lua_pushfstring(L, "%s/%s", here, path);
  return 1;
}

/* -- the rest ----------------------------------------------------------------------------- */

/* problem(pool): why it cannot be used here and now, or nil. A method begins with it. */
static int core_problem(lua_State *L) {
  mch_notices_tell(L);
  return mch_lpool_push_problem(L, mch_lpool_to_pool(L));
}

static int core_is_closed(lua_State *L) {
  lua_pushboolean(L, mch_lpool_to_pool(L)->pool == NULL);
  return 1;
}

/* counts(pool): unfinished and finished tasks of run(), running, queued, next run ID. */
static int core_counts(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_pool_counts counts;
  mch_pool_count(lpool->pool, &counts);
  lua_pushinteger(L, (lua_Integer)mch_pool_unfinished(lpool->pool, &lpool->group));
  lua_pushinteger(L, (lua_Integer)mch_pool_finished(lpool->pool, &lpool->group));
  lua_pushinteger(L, counts.running);
  lua_pushinteger(L, (lua_Integer)counts.queued);
  lua_pushinteger(L, (lua_Integer)counts.next_runid);
  return 5;
}

/* summary(pool): the line that a pool ends with which leaves only bars of what failed; nil: none.
 */
static int core_summary(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_pool_tally tally;
  char seconds[MCH_DECIMAL_ROOM], cancelled[40] = "", text[200];
  uint64_t all;
  mch_pool_get_tally(lpool->pool, &tally);
  all = tally.ok + tally.failed + tally.cancelled;
  if (!lpool->leave_failed || !lpool->shows_bars || all == 0 ||
      !mch_output_shows_bars(lpool->output))
    return 0;
  if (tally.cancelled > 0)
    snprintf(cancelled, sizeof cancelled, ", %" PRIu64 " cancelled", tally.cancelled);
  mch_decimal_fixed(seconds, (double)tally.elapsed / 1e9, 1);
  snprintf(text, sizeof text, "%" PRIu64 " task%s: %" PRIu64 " ok, %" PRIu64 " failed%s, %.20s s\n",
           all, all == 1 ? "" : "s", tally.ok, tally.failed, cancelled, seconds);
  mch_output_lines(lpool->output, 2, text, strlen(text));
  return 0;
}

static int core_start(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_error error;
  mch_lserve_take_baseline(L, lpool);
  mch_output_flush(lpool->output);
  if (mch_pool_start(lpool->pool, &error) != 0)
    return mch_lpool_raise_error(L, &error);
  lpool->started = 1;
  mch_levents_tell(L, lpool);
  return 0;
}

enum { MOST_WORKERS = 4096 };

static int core_workers(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_worker_info *infos = lua_newuserdatauv(L, MOST_WORKERS * sizeof *infos, 0);
  size_t count = mch_pool_workers(lpool->pool, infos, MOST_WORKERS), i;
  lua_createtable(L, (int)count, 0);
  for (i = 0; i < count; i++) {
    lua_createtable(L, 0, 5);
    mch_lpool_set_integer(L, "pid", infos[i].pid);
    mch_lpool_set_integer(L, "slot", infos[i].slot);
    mch_lpool_set_integer(L, "tasks", (lua_Integer)infos[i].tasks);
    mch_lpool_set_integer(L, "maxrss", (lua_Integer)infos[i].maxrss);
    if (infos[i].busy)
      mch_lpool_set_integer(L, "runid", (lua_Integer)infos[i].runid);
    if (infos[i].host != NULL) {
      lua_pushstring(L, infos[i].host);
      lua_setfield(L, -2, "host");
    }
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* end_inline(pool): what workers do as they leave, where there are none. */
static int core_end_inline(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  lpool->task.L = L;
  mch_ltask_end(&lpool->task, grace);
  return 0;
}

/* auto_workers(): how many workers "auto" means here; whether the jobserver of make hands out what
 * they need to run; and what is to be told of it, or nil. */
static int core_auto_workers(lua_State *L) {
  char why[MCH_JOBSERVER_WHY];
  unsigned jobs, count = mch_platform_cpu_count();
  enum mch_jobserver found = mch_jobserver_open(getenv("MAKEFLAGS"), &jobs, why);
  if (found == MCH_JOBSERVER_READY)
    mch_jobserver_close(); /* the pool has it open */
  if (found == MCH_JOBSERVER_UNUSABLE)
    count = 1;
  else if (found == MCH_JOBSERVER_READY && jobs > 0 && jobs < count)
    count = jobs;
  lua_pushinteger(L, (lua_Integer)count);
  lua_pushboolean(L, found == MCH_JOBSERVER_READY);
  if (*why == '\0')
    return 2;
  lua_pushstring(L, why);
  return 3;
}

/* resize(pool, nworkers, jobserver) */
static int core_resize(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  lpool->nworkers = (unsigned)luaL_checkinteger(L, 2);
  lpool->task.heap.nworkers = (int)lpool->nworkers;
  mch_pool_resize(lpool->pool, lpool->nworkers, lua_toboolean(L, 3) ? getenv("MAKEFLAGS") : NULL);
  if (lpool->started)
    mch_lserve_pump(L, lpool, 0);
  return 0;
}

/* cancel(pool, runid): "queued", "running" or nil. */
static int core_cancel(lua_State *L) {
  static const char *const was[] = {NULL, "queued", "running"};
  struct lpool *lpool = mch_lpool_check_pool(L);
  uint64_t runid = (uint64_t)luaL_checkinteger(L, 2);
  int now = mch_pool_cancel(lpool->pool, runid);
  if (now == 2)
    now = mch_lwait_for_cancelled(L, lpool, runid);
  lua_pushstring(L, was[now]);
  mch_levents_tell(L, lpool);
  return 1;
}

static int core_cancel_all(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  mch_pool_cancel_all(lpool->pool, NULL, (uint64_t)luaL_checkinteger(L, 2));
  return 0;
}

static int core_fd(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
  struct mch_error error;
  int fd = mch_pool_fd(lpool->pool, &error);
  if (fd < 0)
    return mch_lpool_raise_error(L, &error);
  lua_pushinteger(L, fd);
  return 1;
}

/* due(pool): seconds until the pump has something to do without its descriptor; nil: never. */
static int core_due(lua_State *L) {
  struct lpool *lpool = mch_lpool_check_pool(L);
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

/* program(): a path of the program `mantichora`, or its name. */
static int core_program(lua_State *L) {
  char path[4096];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  const char *base;
  path[length > 0 ? length : 0] = '\0';
  base = strrchr(path, '/');
  lua_pushstring(L, base != NULL && strcmp(base, "/mantichora") == 0 ? path : "mantichora");
  return 1;
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
  return mch_lrun_nanoseconds(seconds);
}

/* A reference to it, or LUA_NOREF. */
static int function_field(lua_State *L, const char *name) {
  if (lua_getfield(L, 1, name) != LUA_TNIL)
    return luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pop(L, 1);
  return LUA_NOREF;
}

/* Faults on purpose, as the environment wants them: see chaos.h. */
static void configure_chaos(lua_State *L, struct mch_chaos *chaos) {
  struct mch_error error;
  if (mch_chaos_parse(chaos, getenv("MANTICHORA_CHAOS"), &error) != 0)
    mch_lpool_raise_error(L, &error);
}

/* In a new worker. */
static void run_child_hook(void *ud) {
  const struct mch_context *context = ud;
  if (context->child_hook != NULL)
    context->child_hook(context->child_hook_ud);
}

/* What was set, as a JSON object for those who look on. */
static void put_options(lua_State *L, struct mch_buf *to) {
  static const char *const counts[] = {"max_tasks_per_worker", "max_memory_per_worker",
                                       "min_free_memory",      "max_queued",
                                       "limit_memory",         "limit_cpu",
                                       "limit_files"};
  lua_Number timeout;
  size_t i;
  mch_buf_append(to, "{\"background\":", 14);
  mch_buf_append(to, flag_field(L, "background") ? "true" : "false",
                 flag_field(L, "background") ? 4 : 5);
  lua_getfield(L, 1, "timeout");
  timeout = lua_tonumber(L, -1);
  lua_pop(L, 1);
  if (timeout > 0 && timeout < 1e15)
    mch_jsonl_number(to, "timeout", timeout, 3);
  for (i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    int64_t count = integer_field(L, counts[i]);
    if (count > 0)
      mch_jsonl_count(to, counts[i], (uint64_t)count);
  }
  mch_buf_append(to, "}", 2); /* with its end */
}

/* What is told of the pool to those who look on. */
static void configure_facts(lua_State *L, struct mch_pool_config *config, struct mch_buf *options) {
  config->words = mch_words_of_pools();
  put_options(L, options);
  config->facts.options = options->failed == 0 ? (const char *)options->data : NULL;
  config->facts.engine = flag_field(L, "inline")     ? "inline"
                         : flag_field(L, "snapshot") ? "snapshot"
                                                     : "fork";
  lua_getfield(L, 1, "name");
  config->facts.name = lua_tostring(L, -1); /* the settings keep it */
  lua_pop(L, 1);
}

static void configure(lua_State *L, struct lpool *lpool, struct mch_pool_config *config) {
  struct mch_context *context = mch_context_get(L);
  memset(config, 0, sizeof *config);
  config->make = flag_field(L, "inline") ? mch_engine_inline_new : mch_engine_fork_new;
  if (lpool->hosts != NULL) {
    config->make = mch_engine_hosts_new;
    config->engine.hosts = lpool->hosts;
  }
  config->engine.snapshot = flag_field(L, "snapshot");
  config->background = flag_field(L, "background");
  config->engine.nworkers = lpool->nworkers = (unsigned)integer_field(L, "nworkers");
  lpool->task.heap.nworkers = (int)config->engine.nworkers;
  config->engine.max_tasks_per_worker = (uint64_t)integer_field(L, "max_tasks_per_worker");
  config->engine.max_memory_per_worker = (uint64_t)integer_field(L, "max_memory_per_worker");
  config->makeflags = flag_field(L, "jobserver") ? getenv("MAKEFLAGS") : NULL;
  config->min_free_memory = (uint64_t)integer_field(L, "min_free_memory");
  config->memory_root = getenv("MANTICHORA_TEST_ROOT"); /* for our tests */
  config->engine.timeout = time_field(L, "timeout");
  config->engine.grace = grace;
  config->engine.limit_cpu = (uint64_t)integer_field(L, "limit_cpu");
  config->engine.limit_files = (uint64_t)integer_field(L, "limit_files");
  lpool->task.memory = (size_t)integer_field(L, "limit_memory");
  if (lpool->task.memory > 0)
    config->engine.limit_memory = lpool->task.memory + MEMORY_SLACK;
  config->engine.bars = flag_field(L, "progressbar") && !context->hides_bars;
  config->engine.leave_failed = lpool->leave_failed = flag_field(L, "leave_failed");
  lpool->shows_bars = config->engine.bars;
  lpool->task.hides_bars = !config->engine.bars;
  config->engine.log_level = context->worker != NULL ? INT_MIN : context->log_level;
  config->engine.output = lpool->output;
  if (!config->background)
    mch_output_no_thread(lpool->output);
  config->engine.self = context->worker;
  config->engine.runner = mch_ltask_runner(&lpool->task);
  config->engine.child_hook = run_child_hook;
  config->engine.child_hook_ud = context;
  if (lpool->journal != NULL)
    config->recorder = &lpool->journal->recorder;
  lpool->task.recorded = lpool->journal != NULL;
  configure_chaos(L, &config->engine.chaos);
  if (lpool->hosts != NULL) {
    lpool->hosts->seed = (uint64_t)lpool->task.seed;
    lpool->hosts->limit_memory = lpool->task.memory;
    lpool->hosts->min_free_memory = config->min_free_memory;
    config->min_free_memory = 0; /* it is of each machine */
    config->engine.limit_memory = 0;
  }
}

/* The journal that is to record its tasks, if there is one. */
static void take_journal(lua_State *L, struct lpool *lpool) {
  lua_getfield(L, 1, "journal");
  lpool->journal = luaL_testudata(L, -1, MCH_JOURNAL_TYPE);
  if (lpool->journal != NULL && strcmp(lpool->journal->version, MANTICHORA_VERSION) != 0)
    luaL_error(L, "the module mantichora.journal is that of mantichora %s, and this one is %s",
               lpool->journal->version, MANTICHORA_VERSION);
  lpool->journal_anchor = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* new(settings): a pool object. The settings were checked by pool.lua: nworkers, timeout,
 * max_tasks_per_worker (0: none), seed, init, poolbar (its name, if it is wanted), and the flags
 * inline, background, progressbar, leave_failed. */
static int core_new(lua_State *L) {
  struct mch_pool_config config;
  struct mch_error error;
  struct mch_output *output;
  struct mch_poller *poller;
  struct lpool *lpool;
  luaL_checktype(L, 1, LUA_TTABLE);
  mch_notices_tell(L);
  output = mch_loutput_get(L); /* made before the pool, so that it is finalized after it */
  lpool = lua_newuserdatauv(L, sizeof *lpool, 1);
  memset(lpool, 0, sizeof *lpool);
  mch_mark_make(&lpool->mark);
  lpool->task.baseline = lpool->task.init = lpool->task.fini = lpool->task.mapped =
      lpool->task.factories = LUA_NOREF;
  lpool->task.mapped_own = lpool->task.steady.anchors = LUA_NOREF;
  lpool->task.payloads = lpool->task.lent = lpool->task.anchor = LUA_NOREF;
  lpool->lent = lpool->warned = lpool->places = lpool->causes = lpool->place = LUA_NOREF;
  lpool->journal_anchor = lpool->asked = LUA_NOREF;
  luaL_setmetatable(L, TYPE);
  lpool->output = output;
  lpool->task.L = mch_lwait_main_thread(L);
  lpool->task.context = mch_context_get(L);
  lpool->task.output = lpool->output;
  lpool->task.seed = (lua_Integer)integer_field(L, "seed");
  lpool->main_hooks = mch_lwait_hooks_of(mch_lwait_main_thread(L));
  lpool->task.init = function_field(L, "init");
  lpool->task.fini = function_field(L, "fini");
  lpool->keep_gc = flag_field(L, "keep_gc");
  lpool->max_queued = (size_t)integer_field(L, "max_queued");
  lua_getfield(L, 1, "halt");
  lpool->group.halt = mch_lpool_halt_arg(L, -1);
  lua_pop(L, 1);
  lpool->capture_warn = (size_t)integer_field(L, "capture_warn");
  take_journal(L, lpool);
  mch_context_push_weak(L, "k");
  lpool->warned = luaL_ref(L, LUA_REGISTRYINDEX);
  if (flag_field(L, "snapshot")) {
    lua_newtable(L);
    lpool->task.payloads = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_settop(L, 2);
  lua_getfield(L, 1, "machines");
  if (lua_istable(L, -1))
    mch_lhosts_new(L, lpool);
  lua_settop(L, 2);
  configure(L, lpool, &config);
  configure_facts(L, &config, &lpool->record);
  /* Items of a batch are not counted one by one before they run. */
  lpool->batches = config.make != mch_engine_inline_new && !config.engine.snapshot &&
                   config.engine.max_tasks_per_worker == 0;
  mch_context_push_pools(L);
  lua_pushvalue(L, 2);
  lua_pushboolean(L, 1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  lua_getfield(L, 1, "poolbar");
  config.bar = lua_isstring(L, -1) && !lpool->task.context->hides_bars ? lua_tostring(L, -1) : NULL;
  mch_ltrace_observe(L, mch_output_hub(output));
  mch_lattach_begin(L);
  lpool->pool = mch_pool_new(&config, &error);
  lua_pop(L, 1);
  if (lpool->pool == NULL)
    return mch_lpool_raise_error(L, &error);
  lpool->is_inline = config.make == mch_engine_inline_new;
  lpool->task.starting = lpool->is_inline ? mch_lrecord_start : NULL;
  lpool->number = ++mch_context_get(L)->pools;
  mch_levents_listen(L, lpool);
  if (mch_context_get(L)->poller != NULL && (poller = mch_lpools_poller(L, &error)) != NULL)
    mch_lpools_join(poller, lpool, &error); /* else it is tried again at the next poll */
  return 1;
}

int mch_lpool_open(lua_State *L) {
  static const luaL_Reg core[] = {{"part", mch_part_call},
                                  {"new", core_new},
                                  {"run", mch_core_run},
                                  {"run_with", mch_core_run_with},
                                  {"wait", mch_core_wait},
                                  {"take", mch_core_take},
                                  {"take_plain", mch_core_take_plain},
                                  {"problem", core_problem},
                                  {"is_closed", core_is_closed},
                                  {"pump", mch_core_pump},
                                  {"counts", core_counts},
                                  {"summary", core_summary},
                                  {"start", core_start},
                                  {"workers", core_workers},
                                  {"auto_workers", core_auto_workers},
                                  {"resize", core_resize},
                                  {"end_inline", core_end_inline},
                                  {"cancel", core_cancel},
                                  {"cancel_all", core_cancel_all},
                                  {"quit", mch_core_quit},
                                  {"free", mch_core_free},
                                  {"check_not_busy", mch_core_check_not_busy},
                                  {"hand_over", mch_core_hand_over},
                                  {"failed", mch_core_failed},
                                  {"drop", mch_core_drop},
                                  {"untold", mch_core_untold},
                                  {"leaving", mch_core_leaving},
                                  {"logging", core_logging},
                                  {"argument", mch_core_argument},
                                  {"raise", mch_core_raise},
                                  {"typename", mch_core_typename},
                                  {"unfinished", mch_core_unfinished},
                                  {"run_many", mch_core_run_many},
                                  {"group", mch_core_group},
                                  {"abandon", mch_core_leave},
                                  {"go_on", mch_core_go_on},
                                  {"run_in", mch_core_run_in},
                                  {"run_batch", mch_core_run_batch},
                                  {"take_batch", mch_core_take_batch},
                                  {"pace", mch_core_pace},
                                  {"listen", mch_core_listen},
                                  {"set_teller", mch_core_set_teller},
                                  {"last_event", mch_core_last_event},
                                  {"check_may_wait", mch_core_check_may_wait},
                                  {"emit", mch_core_emit},
                                  {"attach", mch_lattach_call},
                                  {"stats", mch_core_stats},
                                  {"weight", mch_core_weight},
                                  {"keep", mch_core_keep},
                                  {"want", mch_core_want},
                                  {"glance", mch_core_glance},
                                  {"fixed", core_fixed},
                                  {"text", core_text},
                                  {"absolute", core_absolute},
                                  {"tointeger", core_tointeger},
                                  {"list", mch_core_list},
                                  {"is_callable", mch_core_is_callable},
                                  {"explain", mch_explain_call},
                                  {"fd", core_fd},
                                  {"due", core_due},
                                  {"seed", core_seed},
                                  {"sleep", mch_core_sleep},
                                  {"cpu_count", core_cpu_count},
                                  {"program", core_program},
                                  {"fleet", mch_lhosts_fleet},
                                  {"is_worker", core_is_worker},
                                  {"runid", core_runid},
                                  {"embedded", core_embedded},
                                  {"undisturbed", core_undisturbed},
                                  {"stops", core_stops},
                                  {NULL, NULL}};
  mch_context_get(L)->tell_log_level = mch_lpools_log_threshold;
  mch_notices_open(L);
  luaL_newlib(L, core);
  mch_ltake_push_kinds(L);
  lua_setfield(L, -2, "kinds");
  if (luaL_newmetatable(L, TASKS)) {
    lua_pushcfunction(L, mch_lrun_tasks_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
  if (luaL_newmetatable(L, TYPE)) {
    lua_pushcfunction(L, mch_lends_pool_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setfield(L, -2, "metatable");
  if (luaL_newmetatable(L, GROUP)) {
    lua_pushcfunction(L, mch_core_abandon);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, mch_core_leave);
    lua_setfield(L, -2, "__close");
  }
  lua_pop(L, 1);
  return 1;
}
