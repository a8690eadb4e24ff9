/* Runs in: child only. Purpose: lwatch.h. */
#include "lwatch.h"

#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

#include "runtime/base/platform.h"
#include "context.h"

/* What is known of a thread; NULL: it is none that a task has made, or there was no memory. */
static struct mch_thread *look_up(struct mch_lwatch *watch, const lua_State *L) {
  if (L == watch->main.L)
    return &watch->main;
  return mch_threads_find(&watch->threads, L);
}

/* -- stopping -----------------------------------------------------------------------------

   pool                      signal handler            a thread of the task
   ----                      --------------            --------------------
   stop = ticket, SIGURG --> requests = 1,             an event of its Lua code:
                             hook on all threads  -->  met = 1, raised++, the error is raised
                                                       (later events: met == requests, nothing)
   0.3 s later:                                        coroutines that it makes get its hook,
   insist = ticket, SIGURG > requests = 2,             and have met none
                             hook on all threads  -->  met = 2, raised++, the error is raised
   0.5 s later: SIGKILL

   While `held` (this library ends a pool of the task's) events do nothing: the error is raised
   after it. Where a protected call of ours fails and `raised` has grown meanwhile, the thread's met
   = 0: so what the call has caught is raised again at the next event, whatever became of its value.
   A thread that has met the error keeps the hook, for calls only, as what coroutines inherit. */

static void set_hook(lua_State *L);

/* Watch over the tasks of this state, or NULL: it is in no worker. */
static struct mch_lwatch *watch_of(lua_State *L) {
  const struct mch_context *context = mch_context_find(L);
  return context != NULL ? context->watch : NULL;
}

static void look_if_under(struct mch_thread *thread, const lua_State *L) {
  lua_Debug call;
  thread->under =
      thread->L != L && lua_status(thread->L) == LUA_OK && lua_getstack(thread->L, 0, &call);
}

/* Before the error of a request is raised for the first time: which threads resume this one. */
static void find_resumers(struct mch_lwatch *watch, const lua_State *L) {
  struct mch_thread *thread;
  size_t at = 0;
  if (watch->looked == watch->requests)
    return;
  watch->looked = watch->requests;
  look_if_under(&watch->main, L);
  while ((thread = mch_threads_next(&watch->threads, &at)) != NULL)
    look_if_under(thread, L);
}

/* Note that this thread meets the error now. Whether it had not yet. */
static int meet(struct mch_lwatch *watch, lua_State *L) {
  struct mch_thread *thread = look_up(watch, L);
  sig_atomic_t requests;
  if (thread == NULL) /* it will meet no other */
    lua_sethook(L, NULL, 0, 0);
  else
    do {
      requests = watch->requests;
      if (lua_gethookmask(L) != LUA_MASKCALL || lua_gethook(L) == NULL)
        lua_sethook(L, lua_gethook(L), LUA_MASKCALL, 0);
      if (thread->met == requests)
        return 0;
      thread->met = requests;
    } while (requests != watch->requests); /* or the signal's hook was just taken away */
  find_resumers(watch, L);
  watch->raised++;
  return 1;
}

static int raise_stop(lua_State *L) {
  return luaL_error(L, "task stopped");
}

static int is_c(lua_State *L, lua_Debug *call) {
  lua_getinfo(L, "S", call);
  return call->what[0] == 'C';
}

/* Whether a C function is at this level, or none: C code outside of all. */
static int is_c_at(lua_State *L, int level) {
  lua_Debug call;
  return !lua_getstack(L, level, &call) || is_c(L, &call);
}

/* Whether this event is no place for an error: a C function begins, which may see to it that it is
 * not cut short, or returns to another one, which would lose what it has done. */
static int is_among_c(lua_State *L, lua_Debug *event) {
  return event->event != LUA_HOOKLINE && event->event != LUA_HOOKCOUNT && is_c(L, event) &&
         (event->event != LUA_HOOKRET || is_c_at(L, 1));
}

/* Whether the error comes up from a coroutine that this thread has resumed by a function of
 * coroutine.wrap(): then C code calls a `__close` or a message handler first, before anything else
 * happens here. That was this thread's error, and its clean-up is not disturbed. */
static int comes_up(struct mch_lwatch *watch, lua_State *L, const lua_Debug *event) {
  struct mch_thread *thread = look_up(watch, L);
  int is_under = thread != NULL && thread->under;
  if (!is_under)
    return 0;
  thread->under = 0;
  return event->event == LUA_HOOKCALL && is_c_at(L, 1);
}

static void stop_hook(lua_State *L, lua_Debug *event) {
  struct mch_lwatch *watch = watch_of(L);
  if (watch == NULL || watch->requests == 0) { /* inherited by a worker of a stopped task's pool */
    lua_sethook(L, NULL, 0, 0);
    return;
  }
  if (watch->held > 0 || is_among_c(L, event))
    return;
  if (comes_up(watch, L, event))
    meet(watch, L);
  else if (meet(watch, L))
    raise_stop(L);
}

static void set_hook(lua_State *L) {
  lua_sethook(L, stop_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

static void hook_all(struct mch_lwatch *watch) {
  const struct mch_thread *thread;
  size_t at = 0;
  if (watch->threads.changing) {
    watch->missed = 1;
    return;
  }
  set_hook(watch->main.L);
  while ((thread = mch_threads_next(&watch->threads, &at)) != NULL)
    set_hook(thread->L);
}

static void request(struct mch_lwatch *watch, int number) {
  if (watch->requests >= number)
    return;
  watch->requests = number;
  hook_all(watch);
}

void mch_lwatch_interrupt(struct mch_lwatch *watch) {
  request(watch, 1);
}

void mch_lwatch_insist(struct mch_lwatch *watch) {
  request(watch, 2);
}

static void calm(struct mch_thread *thread) {
  thread->met = 0;
  thread->under = 0;
  if (lua_gethook(thread->L) == stop_hook)
    lua_sethook(thread->L, NULL, 0, 0);
}

void mch_lwatch_calm(struct mch_lwatch *watch) {
  struct mch_thread *thread;
  size_t at = 0;
  if (watch->requests == 0)
    return;
  watch->requests = watch->looked = 0;
  calm(&watch->main);
  while ((thread = mch_threads_next(&watch->threads, &at)) != NULL)
    calm(thread);
}

int mch_lwatch_is_stopping(lua_State *L) {
  return lua_gethook(L) == stop_hook;
}

int mch_lwatch_stops(lua_State *L) {
  const struct mch_lwatch *watch = watch_of(L);
  return watch != NULL ? watch->raised : 0;
}

int mch_lwatch_caught(lua_State *L, int stops) {
  struct mch_lwatch *watch = watch_of(L);
  struct mch_thread *thread;
  if (watch == NULL || watch->raised == stops || watch->requests == 0)
    return 0;
  thread = look_up(watch, L);
  if (thread != NULL)
    thread->met = thread->under = 0;
  set_hook(L);
  return 1;
}

int mch_lwatch_pcall(lua_State *L, int arguments, int results, int handler) {
  int stops = mch_lwatch_stops(L), status = lua_pcall(L, arguments, results, handler);
  if (status != LUA_OK)
    mch_lwatch_caught(L, stops);
  return status;
}

void mch_lwatch_check(lua_State *L, int held_too) {
  struct mch_lwatch *watch = watch_of(L);
  if (watch != NULL && watch->requests != 0 && (held_too || watch->held == 0) && meet(watch, L))
    raise_stop(L);
}

int mch_lwatch_undisturbed(lua_State *L) {
  struct mch_lwatch *watch = watch_of(L);
  int status, held;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  if (watch == NULL) {
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
  }
  held = watch->held++;
  status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  watch->held = held;
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* -- the allocator ------------------------------------------------------------------------ */

/* Count a change of size; memory from before the installation may be given back too. */
static void account(struct mch_lwatch *watch, size_t from, size_t to) {
  if (to >= from)
    watch->added += to - from;
  else
    watch->added -= watch->added < from - to ? watch->added : from - to;
}

/* The set of threads has changed: see to a stop whose signal found it changing. */
static void make_up(struct mch_lwatch *watch) {
  if (watch->missed) {
    watch->missed = 0;
    hook_all(watch);
  }
}

static void *allocate(void *ud, void *block, size_t osize, size_t nsize) {
  struct mch_lwatch *watch = ud;
  size_t from = block != NULL ? osize : 0;
  void *result;
  if (nsize > from && watch->limit > 0 && watch->added + (nsize - from) > watch->limit)
    return NULL;
  if (block != NULL && nsize == 0 && mch_threads_is_size(&watch->threads, osize)) {
    mch_threads_drop(&watch->threads, block);
    make_up(watch);
  }
  result = watch->forward(watch->forward_ud, block, osize, nsize);
  if (result != NULL || nsize == 0)
    account(watch, from, nsize);
  if (result != NULL && block == NULL && osize == LUA_TTHREAD) {
    mch_threads_add(&watch->threads, result, nsize);
    make_up(watch);
  }
  if (result != NULL && nsize > from)
    mch_platform_use_large_pages((char *)result + from, nsize - from);
  if (watch->added >= watch->due && nsize > from)
    watch->when_due(watch, watch->due_ud);
  return result;
}

void mch_lwatch_install(struct mch_lwatch *watch, lua_State *L, lua_State *main, size_t limit) {
  memset(watch, 0, sizeof *watch);
  watch->main.L = main;
  watch->limit = limit;
  watch->due = SIZE_MAX;
  watch->forward = lua_getallocf(L, &watch->forward_ud);
  lua_setallocf(L, allocate, watch);
}
