/* The task sink of mantichora.h: what a program that embeds Lua is told of tasks, each end exactly
 * once, also when the state is closed in the middle. */
#define _GNU_SOURCE
#include "runtime/mantichora.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"

enum { MOST = 4096 };

/* What came for the tasks of one pool. */
static struct {
  int queued[MOST], started[MOST], ended[MOST], emitted[MOST];
  char kind[MOST][16];
  int64_t last; /* highest run ID */
  int workers, events, inside, odd;
  char name[32], place[128], message[128];
  double elapsed, waited;
  int64_t index, call;
} seen;

static void note(const struct mantichora_task *event) {
  int64_t id = event->runid;
  CHECK(id < MOST);
  if (id > seen.last)
    seen.last = id;
  if (strcmp(event->event, "queued") == 0) {
    seen.odd += seen.queued[id]++ != 0;
    snprintf(seen.name, sizeof seen.name, "%s", event->name != NULL ? event->name : "");
    snprintf(seen.place, sizeof seen.place, "%s", event->place != NULL ? event->place : "");
    seen.index = event->index;
    seen.call = event->call;
  } else if (strcmp(event->event, "started") == 0)
    seen.odd += seen.ended[id] != 0, seen.started[id]++;
  else if (strcmp(event->event, "emitted") == 0) {
    CHECK(event->L != NULL && event->count >= 1);
    CHECK(lua_tointeger(event->L, event->first) == seen.emitted[id] + 1);
    seen.odd += seen.started[id] == 0 || seen.ended[id] != 0;
    seen.emitted[id]++;
  } else if (strcmp(event->event, "ended") == 0) {
    seen.odd += seen.ended[id]++ != 0;
    snprintf(seen.kind[id], sizeof seen.kind[id], "%s", event->kind);
    snprintf(seen.message, sizeof seen.message, "%s", event->message != NULL ? event->message : "");
    seen.elapsed = event->elapsed;
    seen.waited = event->waited;
  }
}

static void sink(void *ud, const struct mantichora_task *event) {
  CHECK(ud == &seen && event->size == sizeof *event && event->pool > 0);
  CHECK(event->time > 1e9 && event->clock > 0);
  CHECK(!seen.inside);
  seen.inside = 1;
  seen.events++;
  if (event->runid < 0) {
    seen.workers += strcmp(event->event, "worker_started") == 0;
    seen.workers -= strcmp(event->event, "worker_ended") == 0;
    CHECK(event->pid > 0 && event->slot > 0);
  } else
    note(event);
  seen.inside = 0;
}

static void run(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) != LUA_OK) {
    fprintf(stderr, "script: %s\n", luaL_tolstring(L, -1, NULL));
    CHECK(0);
  }
  lua_settop(L, 0);
}

static lua_State *state(void) {
  lua_State *L = luaL_newstate();
  memset(&seen, 0, sizeof seen);
  seen.last = -1;
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_pop(L, 1);
  run(L, "mantichora = require 'mantichora'\n"
         "require 'mantichora.logging'.basic_config { level = 'CRITICAL' }");
  return L;
}

/* Every task of the pool was queued once and has ended once. */
static void check_all_ended(int64_t count) {
  int64_t i;
  CHECK(seen.last + 1 == count);
  CHECK(seen.odd == 0);
  for (i = 0; i < count; i++) {
    CHECK(seen.queued[i] == 1);
    CHECK(seen.ended[i] == 1);
    CHECK(seen.started[i] <= 1);
  }
}

static void test_fields(const char *engine) {
  lua_State *L = state();
  CHECK(mantichora_set_task_sink(L, sink, &seen) == 0);
  lua_pushstring(L, engine);
  lua_setglobal(L, "engine");
  run(L, "p = mantichora { nworkers = 2, engine = engine, on_error = 'return' }\n"
         "p:run_with({ name = 'mine' }, function() mantichora.emit(1, {}) mantichora.emit(2) end)");
  CHECK(seen.queued[0] == 1);
  CHECK(strcmp(seen.name, "mine") == 0 && strstr(seen.place, "mantichora") != NULL);
  CHECK(seen.index == -1 && seen.call == -1);
  run(L, "p:returns()");
  CHECK(seen.started[0] == 1 && seen.emitted[0] == 2);
  CHECK(strcmp(seen.kind[0], "ok") == 0 && strcmp(seen.message, "") == 0);
  CHECK(seen.elapsed >= 0 && seen.waited >= 0);
  run(L, "p:run(error, 'my words') p:returns()");
  CHECK(strcmp(seen.kind[1], "error") == 0 && strcmp(seen.message, "my words") == 0);
  run(L, "p:map(function(x) return x end, { 1, 2, 3 })");
  CHECK(seen.index == 3 && seen.call == 1);
  run(L, "p:close()");
  CHECK(seen.workers == 0);
  check_all_ended(5);
  lua_close(L);
}

/* A pool that was there before, and one that came later; and none any more. */
static void test_when(void) {
  lua_State *L = state();
  int events;
  run(L, "p = mantichora { nworkers = 1 } p:run(function() end)");
  CHECK(mantichora_set_task_sink(L, sink, &seen) == 0);
  run(L, "p:returns() p:run(function() end) p:returns()");
  CHECK(seen.queued[0] == 0 && seen.ended[0] == 1 && seen.queued[1] == 1 && seen.ended[1] == 1);
  CHECK(mantichora_set_task_sink(L, NULL, NULL) == 0);
  events = seen.events;
  run(L, "p:run(function() end) p:returns() q = mantichora { nworkers = 1 }\n"
         "q:run(function() end) q:returns() q:close()");
  CHECK(seen.events == events);
  lua_close(L);
  CHECK(seen.events == events);
}

/* The state is closed with tasks of all kinds on their way. */
static void test_closed_midway(const char *engine, const char *ending) {
  lua_State *L = state();
  CHECK(mantichora_set_task_sink(L, sink, &seen) == 0);
  lua_pushstring(L, engine);
  lua_setglobal(L, "engine");
  run(L, "p = mantichora { nworkers = 3, engine = engine, on_error = 'return' }\n"
         "for i = 1, 40 do p:run(function() return i end) end\n"
         "for i = 1, 6 do p:run(function() mantichora.emit(1) mantichora.sleep(30) end) end\n"
         "for i = 1, 40 do p:run(function() return i end) end\n"
         "local list = {} for i = 1, 300 do list[i] = i end\n"
         "step = p:imap(function(x) return x end, list)\n"
         "if engine ~= 'inline' then mantichora.sleep(0.05) end");
  run(L, ending);
  lua_close(L);
  check_all_ended(seen.last + 1);
  CHECK(seen.last >= 85);
  CHECK(seen.workers == 0);
}

/* The same while workers die, tear their answers and delay. */
static void test_chaos(void) {
  static const char *const chaos[] = {"1,0.01", "2,0.05", "3,0.2",  "4,0.02", "5,0.1",
                                      "6,0.01", "7,0.05", "8,0.02", "9,0.5",  "10,0.1"};
  size_t i;
  for (i = 0; i < sizeof chaos / sizeof chaos[0]; i++) {
    setenv("MANTICHORA_CHAOS", chaos[i], 1);
    test_closed_midway("fork", "");
    test_closed_midway("fork", "mantichora.sleep(0.1)");
    test_closed_midway("snapshot", i % 2 == 0 ? "" : "p:poll(0.05)");
  }
  unsetenv("MANTICHORA_CHAOS");
}

static void failing_sink(void *ud, const struct mantichora_task *event) {
  (void)event;
  luaL_error(ud, "the sink's own");
}

static void test_errors(void) {
  lua_State *L = state();
  CHECK(mantichora_set_task_sink(L, failing_sink, L) == 0);
  run(L, "p = mantichora { nworkers = 1 } p:run(function() return 7 end)\n"
         "assert(p:returns()[1] == 7)");
  CHECK(mantichora_set_task_sink(L, NULL, NULL) == 0);
  lua_close(L);
}

static int waits;

static void waiting_sink(void *ud, const struct mantichora_task *event) {
  (void)event;
  CHECK(mantichora_poll(ud, 0) >= 0);
  waits += mantichora_poll(ud, 1) == MANTICHORA_ERRRUN;
}

static void test_no_wait(void) {
  lua_State *L = state();
  CHECK(mantichora_set_task_sink(L, waiting_sink, L) == 0);
  run(L, "p = mantichora { nworkers = 1 } p:run(function() return 7 end)\n"
         "assert(p:returns()[1] == 7)");
  CHECK(waits >= 3);
  CHECK(mantichora_set_task_sink(L, NULL, NULL) == 0);
  lua_close(L);
}

int main(void) {
  test_fields("fork");
  test_fields("snapshot");
  test_fields("inline");
  test_when();
  test_closed_midway("fork", "");
  test_closed_midway("fork", "p = nil collectgarbage() collectgarbage()");
  test_closed_midway("fork", "p:cancel(45)");
  test_closed_midway("fork", "p:terminate()");
  test_closed_midway("fork", "p:terminate() p:close()");
  test_closed_midway("snapshot", "");
  test_closed_midway("snapshot", "p:terminate()");
  test_closed_midway("inline", "");
  test_chaos();
  test_errors();
  test_no_wait();
  return check_report();
}
