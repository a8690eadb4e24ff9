/* Those who observe pools from outside (show/observe.h): what they are told, in which words; who
 * serves them; what they may ask of a pool from another thread. */
#define _GNU_SOURCE
#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bindings/show/loutput.h"
#include "check.h"
#include "runtime/base/platform.h"
#include "runtime/engines/event.h"
#include "runtime/engines/task.h"
#include "runtime/mantichora.h"
#include "runtime/pool/pool.h"
#include "runtime/show/observe.h"
#include "runtime/show/output.h"

enum { MOST = 4096 };

static struct {
  struct mch_observer observer;
  struct mch_hub *hub;
  atomic_int queued[MOST], started[MOST], ended[MOST];
  atomic_int odd, workers, failures, kinds[MCH_KIND_COUNT], bars, lines, logs, pools, served;
  char report[4096], message[512], place[256], name[64], text[256], record[256];
  pthread_t owner;
  atomic_int foreign;                      /* served by another thread */
  _Atomic uint64_t cancel, workers_wanted; /* to be asked for by `serve`; 0: nothing */
  atomic_int pause;                        /* 1: on, 2: off */
  atomic_int was, asked;
} seen;

static void keep(char *to, size_t room, const struct mch_buf *from) {
  size_t length = mch_buf_unread(from) < room - 1 ? mch_buf_unread(from) : room - 1;
  if (length > 0)
    memcpy(to, from->data + from->read, length);
  to[length] = '\0';
}

static void note_failure(const struct mch_told *told) {
  struct mch_buf message = {0}, report = {0}, place = {0};
  seen.failures++;
  mch_pool_report(told, &message, &report);
  mch_pool_place(told, &place);
  keep(seen.message, sizeof seen.message, &message);
  keep(seen.report, sizeof seen.report, &report);
  keep(seen.place, sizeof seen.place, &place);
  mch_buf_free(&message);
  mch_buf_free(&report);
  mch_buf_free(&place);
}

static void on_event(void *ud, const struct mch_told *told) {
  const struct mch_event *event = told->event;
  uint32_t i;
  CHECK(ud == &seen && told->number > 0);
  seen.workers += event->type == MCH_EVENT_WORKER_STARTED;
  seen.workers -= event->type == MCH_EVENT_WORKER_ENDED;
  if (told->task == NULL)
    return;
  for (i = 0; i < event->count; i++) {
    uint64_t id = event->runid + i;
    CHECK(id < MOST);
    if (event->type == MCH_EVENT_QUEUED)
      seen.odd += seen.queued[id]++ != 0;
    else if (event->type == MCH_EVENT_STARTED) {
      seen.odd += seen.queued[id] == 0 || seen.ended[id] != 0;
      seen.started[id]++;
    } else if (event->type == MCH_EVENT_ENDED)
      seen.odd += seen.queued[id] == 0 || seen.ended[id]++ != 0;
  }
  if (event->type == MCH_EVENT_ENDED)
    seen.kinds[event->kind] += (int)event->count;
  if (told->task->extra != NULL && told->task->extra->name_length > 0)
    snprintf(seen.name, sizeof seen.name, "%.*s", (int)told->task->extra->name_length,
             told->task->extra->name);
  if (told->result != NULL)
    note_failure(told);
}

static void on_bar(void *ud, const struct mch_report *report) {
  CHECK(ud == &seen && report->name_length > 0);
  seen.bars += report->event == MCH_REPORT_START ? 1 : report->event == MCH_REPORT_END ? 100 : 0;
}

static void on_lines(void *ud, int stream, const char *bytes, size_t length) {
  CHECK(ud == &seen && stream == 1);
  seen.lines++;
  snprintf(seen.text, sizeof seen.text, "%.*s", (int)length, bytes);
}

static void on_log(void *ud, const struct mch_log_record *record) {
  CHECK(ud == &seen);
  seen.logs++;
  snprintf(seen.record, sizeof seen.record, "%.*s:%.*s:%.*s", (int)record->level_length,
           record->level_name, (int)record->logger_length, record->logger,
           (int)record->message_length, record->message);
}

static void on_pool(void *ud, struct mch_pool *pool, uint64_t number, int comes) {
  CHECK(ud == &seen && pool != NULL && number > 0);
  seen.pools += comes ? 1 : 100;
}

static void ask(void *ud, struct mch_pool *pool, uint64_t number) {
  uint64_t cancel, workers;
  (void)ud, (void)number;
  if (pool == NULL)
    return;
  if ((cancel = atomic_exchange(&seen.cancel, 0)) != 0)
    seen.was = mch_pool_cancel_from_outside(pool, cancel);
  if ((workers = atomic_exchange(&seen.workers_wanted, 0)) != 0)
    mch_pool_resize_from_outside(pool, (unsigned)workers);
}

/* What is asked for is done once; `asked` says that it was. */
static uint64_t serve(void *ud, uint64_t now) {
  int pause = atomic_exchange(&seen.pause, 0);
  CHECK(ud == &seen);
  seen.served++;
  seen.foreign += !pthread_equal(pthread_self(), seen.owner);
  if (pause != 0)
    mch_hub_pause(seen.hub, pause == 1);
  mch_hub_each_pool(seen.hub, ask, NULL);
  if (pause != 0)
    seen.asked = 1;
  return now + 2000000u;
}

static void run(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) != LUA_OK) {
    fprintf(stderr, "script: %s\n", luaL_tolstring(L, -1, NULL));
    CHECK(0);
  }
  lua_settop(L, 0);
}

/* Functions by which a script asks from "outside". */
static int ask_pause(lua_State *L) {
  seen.asked = 0;
  seen.pause = lua_toboolean(L, 1) ? 1 : 2;
  while (!seen.asked)
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  return 0;
}
static int ask_later(lua_State *L) {
  seen.cancel = (uint64_t)luaL_optinteger(L, 1, 0);
  seen.workers_wanted = (uint64_t)luaL_optinteger(L, 2, 0);
  seen.pause = (int)luaL_optinteger(L, 3, 0);
  return 0;
}
static int get_seen(lua_State *L) {
  lua_pushstring(L, seen.message);
  lua_pushstring(L, seen.report);
  lua_pushstring(L, seen.place);
  return 3;
}
static int started_of(lua_State *L) {
  lua_pushinteger(L, seen.started[luaL_checkinteger(L, 1)]);
  return 1;
}
static int nap(lua_State *L) {
  lua_Number seconds = luaL_checknumber(L, 1);
  nanosleep(&(struct timespec){(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)},
            NULL);
  return 0;
}

static lua_State *state(unsigned wants) {
  lua_State *L = luaL_newstate();
  memset(&seen, 0, sizeof seen);
  seen.owner = pthread_self();
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_settop(L, 0);
  lua_register(L, "ask_pause", ask_pause);
  lua_register(L, "ask_later", ask_later);
  lua_register(L, "get_seen", get_seen);
  lua_register(L, "started_of", started_of);
  lua_register(L, "nap", nap);
  run(L, "mantichora = require 'mantichora'; atpbar = require 'mantichora.atpbar'\n"
         "logging = require 'mantichora.logging'\n"
         "logging.basic_config { stream = function() end }");
  seen.hub = mch_output_hub(mch_loutput_get(L));
  seen.observer = (struct mch_observer){.ud = &seen,
                                        .wants = wants,
                                        .event = on_event,
                                        .bar = on_bar,
                                        .lines = on_lines,
                                        .log = on_log,
                                        .pool = on_pool,
                                        .serve = serve,
                                        .fd = -1};
  CHECK(mch_hub_add(seen.hub, &seen.observer) == 0);
  return L;
}

static void end(lua_State *L) {
  mch_hub_remove(seen.hub, &seen.observer);
  lua_close(L);
}

static void check_all(int count) {
  int i;
  for (i = 0; i < count; i++)
    CHECK(seen.queued[i] == 1 && seen.ended[i] == 1);
  CHECK(seen.queued[count] == 0 && seen.odd == 0);
}

static const unsigned all = MCH_WISH_TASKS | MCH_WISH_BARS | MCH_WISH_LINES | MCH_WISH_LOG;

static void tells_each_task(const char *options) {
  lua_State *L = state(all);
  char code[1024];
  snprintf(
      code, sizeof code,
      "local pool = mantichora { %s, on_error = 'return' }\n"
      "for i = 1, 100 do pool:run(function(i) if i %% 10 == 0 then error('no') end end, i) end\n"
      "pool:returns()\n"
      "pool:run_with({ name = 'a name' }, function() end)\n"
      "pool:returns()\n"
      "pool:map(function(x) return x end, (function() local t = {} for i = 1, 500 do t[i] = i end\n"
      "return t end)())\n"
      "for i = 1, 20 do pool:run(function() end) end\n"
      "pool:terminate() pool:close()\n",
      options);
  run(L, code);
  check_all(621);
  CHECK(seen.kinds[MCH_KIND_ERROR] == 10 && seen.failures >= 10);
  CHECK(seen.kinds[MCH_KIND_OK] + seen.kinds[MCH_KIND_CANCELLED] == 611);
  CHECK(seen.workers == 0 && seen.pools == 101);
  CHECK(strcmp(seen.name, "a name") == 0);
  end(L);
}

static void tells_what_ends_with_the_pool(void) {
  lua_State *L = state(all);
  run(L, "pool = mantichora { nworkers = 2 }\n"
         "for i = 1, 50 do pool:run(function() mantichora.sleep(30) end) end\n"
         "pool = nil collectgarbage() collectgarbage()");
  check_all(50);
  end(L);
}

static void tells_failures_alone(void) {
  lua_State *L = state(MCH_WISH_FAILURES);
  run(L, "local pool <close> = mantichora { nworkers = 2, on_error = 'return' }\n"
         "for i = 1, 50 do pool:run(function(i) if i == 7 then error('no') end end, i) end\n"
         "pool:returns()");
  CHECK(seen.failures == 1 && seen.kinds[MCH_KIND_ERROR] == 1 && seen.kinds[MCH_KIND_OK] == 0);
  end(L);
}

/* The words are those of the failure itself. */
static void words(void) {
  lua_State *L = state(all);
  run(L,
      "local pool <close> = mantichora { nworkers = 1, on_error = 'return', name = 'the pool' }\n"
      "local function check(f, options)\n"
      "  pool:run_with(options or { name = 'n' }, f)\n"
      "  local failure = pool:returns()[1]\n"
      "  local message, report, place = get_seen()\n"
      "  assert(message == failure.message, message .. ' / ' .. failure.message)\n"
      "  assert(report == tostring(failure), report .. '\\n/ ' .. tostring(failure))\n"
      "  assert(place == failure.place, place .. ' / ' .. failure.place)\n"
      "end\n"
      "check(function() error('no') end)\n"
      "check(function() error({ code = 7 }) end)\n"
      "check(function() error(('long'):rep(100)) end)\n"
      "check(function() return io.tmpfile() end)\n"
      "check(function() os.exit(3) end)\n"
      "check(function() while true do end end, { timeout = 0.1 })\n"
      "check(function() require 'mantichora' io.popen('kill -SEGV $PPID'):close()\n"
      "  mantichora.sleep(9) end)\n"
      "check(load('\\n\\nerror(1)', '@' .. ('path/'):rep(30) .. 'file.lua'))\n"
      "check(load('local a = 1 error(a) -- ' .. ('x'):rep(70)))\n"
      "check(load('error(2)', '=name'))\n");
  end(L);
}

static void tells_the_rest(void) {
  lua_State *L = state(all);
  run(L, "local pool <close> = mantichora { nworkers = 1 }\n"
         "pool:run(function() print('a line') logging.warning('a record')\n"
         "  for i in atpbar(10, 'a bar') do end end)\n"
         "pool:returns()");
  CHECK(seen.lines == 1 && strcmp(seen.text, "a line\n") == 0);
  CHECK(seen.logs == 1 && strcmp(seen.record, "WARNING:root:a record") == 0);
  CHECK(seen.bars == 101);
  end(L);
}

/* By the helper thread, whether the pool has something to do or not. */
static void serves_while_the_owner_is_away(void) {
  lua_State *L = state(all);
  int before, patience = 2000;
  run(L, "pool = mantichora { nworkers = 1 } pool:run(function() end) pool:returns()");
  for (before = seen.foreign; seen.foreign < before + 3 && patience > 0; patience--)
    nanosleep(&(struct timespec){0, 5000000}, NULL);
  CHECK(patience > 0);
  end(L);
}

static void serves_inside_of_calls(void) {
  lua_State *L = state(all);
  run(L, "local pool <close> = mantichora { nworkers = 1, background = false }\n"
         "pool:run(function() mantichora.sleep(0.5) end) pool:returns()");
  CHECK(seen.foreign == 0 && seen.served > 3);
  end(L);
}

/* What is asked for meanwhile reaches the owner who waits. */
static void pauses(const char *engine) {
  lua_State *L = state(all);
  char code[1024];
  snprintf(code, sizeof code,
           "local pool <close> = mantichora { nworkers = 2, engine = '%s' }\n"
           "for i = 1, 2 do pool:run(function() end) end pool:returns()\n"
           "ask_pause(true)\n"
           "for i = 1, 20 do pool:run(function() end) end\n"
           "assert(pool:poll(0.2) == 0 and pool:stats().queued == 20)\n"
           "for i = 2, 21 do assert(started_of(i) == 0) end\n"
           "ask_later(0, 0, 2)\n" /* resume while it waits */
           "assert(pool:returns().n == 20)",
           engine);
  run(L, code);
  end(L);
}

static void takes_back_what_was_sent_ahead(void) {
  lua_State *L = state(all);
  run(L, "local pool <close> = mantichora { nworkers = 1 }\n"
         "for i = 1, 50 do pool:run(function(i) mantichora.sleep(0.03) return i end, i) end\n"
         "assert(pool:receive_one()) ask_pause(true)\n"
         "nap(0.2) pool:poll() local done = #pool:receive_finished()\n"
         "assert(done <= 3, done)\n"
         "nap(0.1) assert(pool:poll() == 0)\n"
         "ask_pause(false) assert(pool:returns().n == 49 - done)");
  CHECK(seen.odd == 0);
  end(L);
}

static void cancels_from_outside(void) {
  lua_State *L = state(all);
  run(L, "local pool <close> = mantichora { nworkers = 1, on_error = 'return' }\n"
         "pool:run(function() end) pool:returns()\n"
         "pool:run(function() mantichora.sleep(60) end) ask_later(1)\n"
         "assert(pool:returns()[1].kind == 'cancelled')\n"
         "ask_pause(true) pool:run(function() end) ask_later(2)\n"
         "assert(pool:returns()[1].kind == 'cancelled') ask_pause(false)");
  CHECK(seen.was == 1 && seen.odd == 0);
  end(L);
}

static void has_other_workers(void) {
  lua_State *L = state(all);
  run(L, "local pool <close> = mantichora { nworkers = 1 }\n"
         "pool:run(function() end) pool:returns()\n"
         "local from = os.time() ask_later(0, 3)\n"
         "for i = 1, 3 do pool:run(function() mantichora.sleep(2) end) end\n"
         "pool:returns() assert(#pool:workers() == 3 and os.time() - from < 5)");
  end(L);
}

/* What was sent ahead to one worker goes to those that come, though nothing else happens. */
static void gives_new_workers_what_was_sent_ahead(void) {
  lua_State *L = state(all);
  run(L, "local pool <close> = mantichora { nworkers = 1 }\n"
         "pool:run(function() end) pool:returns()\n"
         "for i = 1, 3 do pool:run(function() mantichora.sleep(3) end) end\n"
         "pool:poll(0.2) local from = os.time() ask_later(0, 3)\n"
         "pool:returns() assert(os.time() - from < 8)");
  end(L);
}

int main(void) {
  tells_each_task("nworkers = 3");
  tells_each_task("nworkers = 3, background = false");
  tells_each_task("nworkers = 3, engine = 'snapshot'");
  tells_what_ends_with_the_pool();
  tells_failures_alone();
  words();
  tells_the_rest();
  serves_while_the_owner_is_away();
  serves_inside_of_calls();
  pauses("fork");
  pauses("snapshot");
  takes_back_what_was_sent_ahead();
  cancels_from_outside();
  has_other_workers();
  gives_new_workers_what_was_sent_ahead();
  return check_report();
}
