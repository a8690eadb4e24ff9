/* The C API of mantichora.h as a program that embeds Lua uses it: unprotected calls, under a panic
 * function that ends the test. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "runtime/mantichora.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "new_state.h"

/* -- small helpers ------------------------------------------------------------------------ */

static int panic(lua_State *L) {
  fprintf(stderr, "panic: %s\n", lua_tostring(L, -1));
  abort();
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void run(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) != LUA_OK) {
    fprintf(stderr, "script: %s\n", luaL_tolstring(L, -1, NULL));
    CHECK(0);
  }
  lua_settop(L, 0);
}

/* A state with a pool `p` of two workers that has no thread. */
static const char prelude[] = "mantichora = require 'mantichora'\n"
                              "atpbar = require 'mantichora.atpbar'\n"
                              "logging = require 'mantichora.logging'\n"
                              "sleep = mantichora.sleep\n";

static lua_State *state(void) {
  lua_State *L = luaL_newstate();
  lua_atpanic(L, panic);
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_pop(L, 1);
  run(L, prelude);
  return L;
}

static const char new_pool[] = "p = mantichora { nworkers = 2, background = false }";

static int truth(lua_State *L, const char *condition) {
  int value;
  lua_pushfstring(L, "return %s", condition);
  CHECK(luaL_dostring(L, lua_tostring(L, -1)) == LUA_OK);
  value = lua_toboolean(L, -1);
  lua_settop(L, 0);
  return value;
}

static lua_Integer number(lua_State *L, const char *name) {
  lua_Integer value;
  lua_getglobal(L, name);
  value = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

/* Poll as a frame loop does until `count` tasks wait. */
static int poll_until(lua_State *L, int count) {
  double end = now() + 30;
  int waiting;
  do
    waiting = mantichora_poll(L, 0.01);
  while (waiting >= 0 && waiting < count && now() < end);
  return waiting;
}

static int is_readable(int fd) {
  struct pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

/* Sleep as an event loop does and poll, until `count` tasks wait; how often it woke, -1: it took
 * too long. */
static int loop_until(lua_State *L, int count) {
  double end = now() + 30;
  int rounds = 0;
  while (mantichora_poll(L, 0) < count && now() < end) {
    struct pollfd entry = {mantichora_fd(L), POLLIN, 0};
    double seconds = mantichora_timeout(L);
    poll(&entry, 1, seconds < 0 || seconds > 10 ? 10000 : (int)(seconds * 1000) + 1);
    rounds++;
  }
  return now() < end ? rounds : -1;
}

static int count_entries(const char *path) {
  DIR *folder = opendir(path);
  int count = 0;
  if (folder == NULL)
    return -1;
  while (readdir(folder) != NULL)
    count++;
  closedir(folder);
  return count;
}

/* -- moving on ---------------------------------------------------------------------------- */

static void test_nothing(void) {
  lua_State *L = luaL_newstate();
  lua_atpanic(L, panic);
  CHECK(strcmp(mantichora_error(L), "") == 0); /* before all else */
  CHECK(mantichora_poll(L, 0) == 0);
  CHECK(mantichora_poll(L, 10) == 0); /* nothing is outstanding: it does not wait */
  CHECK(strcmp(mantichora_error(L), "") == 0);
  CHECK(mantichora_timeout(L) < 0);
  CHECK(mantichora_fd(L) >= 0);
  CHECK(!is_readable(mantichora_fd(L)));
  CHECK(lua_gettop(L) == 0);
  lua_close(L);
}

static void test_poll(void) {
  lua_State *L = state();
  double start;
  run(L, new_pool);
  run(L, "for i = 1, 5 do p:run(function() return i end) end");
  CHECK(poll_until(L, 5) == 5);
  CHECK(mantichora_poll(L, 10) == 5); /* they wait: it does not */
  run(L, "sum = 0 for _, v in ipairs(p:returns()) do sum = sum + v end");
  CHECK(number(L, "sum") == 15);
  CHECK(mantichora_poll(L, 0) == 0);
  run(L, "p:run(sleep, 30)");
  start = now();
  CHECK(mantichora_poll(L, 0.05) == 0);
  CHECK(now() - start >= 0.05 && now() - start < 20);
  run(L, "p:terminate()");
  CHECK(lua_gettop(L) == 0);
  lua_close(L);
}

static int signals_with_handlers(void) {
  struct sigaction action;
  int signal_number, count = 0;
  for (signal_number = 1; signal_number < NSIG; signal_number++)
    count += sigaction(signal_number, NULL, &action) == 0 && action.sa_handler != SIG_DFL;
  return count;
}

/* With background = false the process has no thread more, and no handler. */
static void test_no_thread(void) {
  lua_State *L = state();
  int handlers = signals_with_handlers(), threads = count_entries("/proc/self/task");
  run(L, new_pool);
  run(L, "for i = 1, 3 do p:run(function() for _ in atpbar(9, 'x') do sleep(0.01) end end) end");
  do {
    CHECK(count_entries("/proc/self/task") == threads);
    CHECK(signals_with_handlers() == handlers);
  } while (mantichora_poll(L, 0.01) == 0);
  CHECK(poll_until(L, 3) == 3);
  CHECK(count_entries("/proc/self/task") == threads);
  lua_close(L);
}

static void test_several_pools(const char *background) {
  lua_State *L = state();
  char code[256];
  int rounds;
  CHECK(mantichora_fd(L) == mantichora_fd(L));
  snprintf(code, sizeof code,
           "pools = {} for i = 1, 3 do pools[i] = mantichora { nworkers = 1, background = %s } "
           "for j = 1, 4 do pools[i]:run(function() sleep(0.02) return j end) end end",
           background);
  run(L, code);
  rounds = loop_until(L, 12);
  CHECK(rounds >= 0 && rounds < 400);
  run(L, "n = 0 for i = 1, 3 do n = n + #pools[i]:receive_finished() end");
  CHECK(number(L, "n") == 12);
  CHECK(mantichora_poll(L, 0) == 0);
  CHECK(!is_readable(mantichora_fd(L)));
  run(L, "pools[2]:close() pools[2] = nil collectgarbage() pools[1]:run(sleep, 0)");
  CHECK(loop_until(L, 1) >= 0);
  lua_close(L);
}

/* The end of a task's time comes without anybody's descriptor. */
static void test_timeout(void) {
  lua_State *L = state();
  double seconds;
  int rounds;
  run(L, new_pool);
  run(L, "p:run_with({ timeout = 0.2 }, function() while true do end end)");
  mantichora_poll(L, 0);
  seconds = mantichora_timeout(L);
  CHECK(seconds >= 0 && seconds <= 0.2);
  rounds = loop_until(L, 1);
  CHECK(rounds >= 0 && rounds < 100);
  run(L, "local ok, e = pcall(p.receive_one, p) n = e.kind == 'timeout' and 1 or 0");
  CHECK(number(L, "n") == 1);
  lua_close(L);
}

/* -- errors ------------------------------------------------------------------------------- */

static void set_hook_error(lua_State *L, lua_Debug *info) {
  (void)info;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

static lua_State *_Atomic hooked;

static void on_alarm(int number_of) {
  (void)number_of;
  lua_sethook(hooked, set_hook_error, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

static void test_interrupt(void) {
  lua_State *L = state();
  struct sigaction action, old;
  double start = now();
  memset(&action, 0, sizeof action);
  action.sa_handler = on_alarm;
  hooked = L;
  run(L, new_pool);
  run(L, "p:run(sleep, 30)");
  sigaction(SIGALRM, &action, &old);
  alarm(1);
  CHECK(mantichora_poll(L, 25) == MANTICHORA_ERRRUN);
  CHECK(strstr(mantichora_error(L), "interrupted!") != NULL);
  CHECK(now() - start < 20);
  sigaction(SIGALRM, &old, NULL);
  CHECK(lua_gettop(L) == 0);
  run(L, "p:terminate()");
  lua_close(L);
}

static void test_raising_renderer(void) {
  lua_State *L = state();
  int code = 0;
  double end = now() + 30;
  run(L, new_pool);
  run(L, "atpbar.set_renderer(function() error { } end)");
  run(L, "logged = {} require 'mantichora.logging'.get('mantichora'):add_handler(function(r) "
         "logged[#logged + 1] = r.levelname .. r.message end)");
  run(L, "p:run(function() for _ in atpbar(3) do end return 7 end)");
  run(L, "p:run(function() for _ in atpbar(3) do end return 8 end)");
  while (code >= 0 && now() < end && !truth(L, "#logged > 0"))
    code = mantichora_poll(L, 0.01);
  CHECK(code >= 0);
  run(L, "local list = p:returns() fine = list[1] == 7 and list[2] == 8");
  CHECK(truth(
      L, "fine and #logged == 1 and logged[1]:find('ERRORthe renderer failed', 1, true) == 1"));
  CHECK(lua_gettop(L) == 0);
  lua_close(L);
}

/* -- sinks -------------------------------------------------------------------------------- */

/* What sinks were told, as lines of text. */
struct book {
  char text[8192];
  size_t length;
  pthread_t thread;
  lua_State *L;
};

static void note(struct book *book, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(struct book *book, const char *format, ...) {
  va_list arguments;
  size_t room = sizeof book->text - book->length;
  int length;
  CHECK(pthread_equal(book->thread, pthread_self()));
  va_start(arguments, format);
  length = vsnprintf(book->text + book->length, room, format, arguments);
  va_end(arguments);
  if (length > 0 && (size_t)length < room)
    book->length += (size_t)length;
}

static void open_book(struct book *book, lua_State *L) {
  memset(book, 0, sizeof *book);
  book->thread = pthread_self();
  book->L = L;
}

static void note_log(void *ud, const struct mantichora_log *record) {
  CHECK(record->size == sizeof *record);
  CHECK(record->message_length == strlen(record->message));
  CHECK(record->created > 1e9 && record->process > 0);
  note(ud, "%d %s %s %s %lld %s\n", record->level, record->level_name, record->logger,
       record->message, (long long)record->runid, record->task);
}

static void note_progress(void *ud, const struct mantichora_progress *report) {
  CHECK(report->size == sizeof *report);
  CHECK(report->elapsed >= 0);
  if (report->event != MANTICHORA_BAR_UPDATE)
    note(ud, "%s %s %lld/%lld %lld %s %s\n",
         report->event == MANTICHORA_BAR_START ? "start" : "end", report->name,
         (long long)report->done, (long long)report->total, (long long)report->runid, report->task,
         report->state);
}

static void note_output(void *ud, const struct mantichora_output *output) {
  CHECK(output->size == sizeof *output);
  CHECK(output->length == strlen(output->line));
  note(ud, "%d:%s\n", output->stream, output->line);
}

static int note_event(lua_State *L) {
  note(lua_touserdata(L, lua_upvalueindex(1)), "%s ", luaL_checkstring(L, 1));
  return 0;
}

static void test_log_sink(void) {
  lua_State *L = state();
  struct book book;
  open_book(&book, L);
  CHECK(mantichora_set_log_sink(L, note_log, &book) == 0);
  run(L, new_pool);
  run(L, "p:run_with({ name = 'bake' }, function() logging.warning('hot %d', 1) "
         "logging.info('not this') logging.get('net.http'):critical('down') end)");
  run(L, "seen = 0 logging.add_handler(function() seen = seen + 1 end)");
  CHECK(poll_until(L, 1) == 1);
  run(L, "logging.error('own')");
  CHECK(strcmp(book.text, "30 WARNING root hot 1 0 bake\n"
                          "50 CRITICAL net.http down 0 bake\n"
                          "40 ERROR root own -1 \n") == 0);
  CHECK(number(L, "seen") == 3);
  run(L, "lines = 0 logging.basic_config { stream = function() lines = lines + 1 end }");
  run(L, "logging.error('own')");
  CHECK(number(L, "lines") == 0);
  CHECK(mantichora_set_log_sink(L, NULL, NULL) == 0);
  run(L, "logging.error('own')");
  CHECK(number(L, "lines") == 1);
  lua_close(L);
}

/* A program that gives its scripts neither files nor the system. */
static void test_few_libraries(void) {
  static const luaL_Reg libraries[] = {
      {"_G", luaopen_base},       {"package", luaopen_package}, {"table", luaopen_table},
      {"string", luaopen_string}, {"math", luaopen_math},       {NULL, NULL},
  };
  lua_State *L = luaL_newstate();
  const luaL_Reg *library;
  struct book book;
  lua_atpanic(L, panic);
  open_book(&book, L);
  for (library = libraries; library->name != NULL; library++)
    luaL_requiref(L, library->name, library->func, 1);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_settop(L, 0);
  run(L, prelude);
  CHECK(mantichora_set_output_sink(L, note_output, &book) == 0);
  run(L, "logging.basic_config { format = '%(asctime)s %(name)s %(message)s', datefmt = '%H' }");
  run(L, new_pool);
  run(L, "p:run(function() print('out') logging.warning('of %s', 'a task') return 7 end)");
  CHECK(poll_until(L, 1) == 1);
  run(L, "got = p:returns()[1] logging.error('own')");
  run(L, "fine, message = pcall(logging.basic_config, { filename = 'x' })"
         "assert(not fine and message:find('no io library'))");
  CHECK(number(L, "got") == 7);
  CHECK(strstr(book.text, "1:out\n") != NULL);
  CHECK(strstr(book.text, "2:- root of a task\n") != NULL);
  CHECK(strstr(book.text, "2:- root own\n") != NULL);
  lua_close(L);
}

static void test_progress_sink(void) {
  lua_State *L = state();
  struct book book;
  open_book(&book, L);
  CHECK(mantichora_set_progress_sink(L, note_progress, &book) == 0);
  run(L, "told = 0 atpbar.set_renderer(function() told = told + 1 end)");
  run(L, new_pool);
  run(L, "p:run_with({ name = 'bake' }, function() for _ in atpbar(7, 'tiles') do end end)");
  CHECK(poll_until(L, 1) == 1);
  CHECK(strcmp(book.text, "start tiles 0/7 0 bake running\nend tiles 7/7 0 bake finished\n") == 0);
  open_book(&book, L);
  run(L, "for _ in atpbar(2, 'own') do end");
  CHECK(strcmp(book.text, "start own 0/2 -1  running\nend own 2/2 -1  finished\n") == 0);
  CHECK(number(L, "told") == 0);
  CHECK(mantichora_set_progress_sink(L, NULL, NULL) == 0);
  open_book(&book, L);
  run(L, "for _ in atpbar(2, 'own') do end");
  CHECK(book.length == 0 && number(L, "told") >= 2);
  lua_close(L);
}

static void test_output_sink(const char *background) {
  lua_State *L = state();
  struct book book;
  char code[128];
  int rounds;
  open_book(&book, L);
  CHECK(mantichora_set_output_sink(L, note_output, &book) == 0);
  snprintf(code, sizeof code, "p = mantichora { nworkers = 1, background = %s }", background);
  run(L, code);
  run(L, "p:run(function() print('one') io.stderr:write('two\\n') print() io.write('end') end)");
  run(L, "p:run(function() os.execute('echo three') end)");
  rounds = loop_until(L, 2);
  CHECK(rounds >= 0 && rounds < 200);
  /* The order between the two streams of a task is not promised. */
  CHECK(strstr(book.text, "1:one\n") != NULL && strstr(book.text, "2:two\n") != NULL);
  CHECK(strstr(book.text, "1:\n") != NULL && strstr(book.text, "1:end\n") != NULL);
  CHECK(strstr(book.text, "1:three\n") > strstr(book.text, "1:end\n"));
  CHECK(book.length == strlen("1:one\n2:two\n1:\n1:end\n1:three\n"));
  open_book(&book, L);
  run(L, "logging.warning('log')");
  CHECK(strcmp(book.text, "2:WARNING:root:log\n") == 0);
  lua_close(L);
}

/* Lines come before the result also where nobody polls: the script waits by itself. */
static void test_before_results(void) {
  lua_State *L = state();
  struct book book;
  open_book(&book, L);
  CHECK(mantichora_set_output_sink(L, note_output, &book) == 0);
  CHECK(mantichora_set_log_sink(L, note_log, &book) == 0);
  run(L, "p = mantichora { nworkers = 1 }"
         "p:run(function() print('line') logging.error('record') end) p:receive_one()");
  CHECK(strstr(book.text, "1:line\n") != NULL);
  CHECK(strstr(book.text, "40 ERROR root record") != NULL);
  lua_close(L);
}

/* Without a sink again, what was kept is written. */
static void test_output_restored(void) {
  lua_State *L = state();
  struct book book;
  int ends[2], saved = dup(1);
  char text[64] = "";
  CHECK(pipe(ends) == 0);
  fflush(stdout);
  dup2(ends[1], 1);
  open_book(&book, L);
  CHECK(mantichora_set_output_sink(L, note_output, &book) == 0);
  CHECK(mantichora_set_output_sink(L, NULL, NULL) == 0);
  run(L, new_pool);
  run(L, "p:run(print, 'plain')");
  CHECK(poll_until(L, 1) == 1);
  run(L, "p:returns()");
  dup2(saved, 1);
  close(saved);
  close(ends[1]);
  CHECK(read(ends[0], text, sizeof text - 1) == 6 && strcmp(text, "plain\n") == 0);
  close(ends[0]);
  CHECK(book.length == 0);
  lua_close(L);
}

/* A sink that uses the library and Lua, and one that raises. */
static void receive_in_sink(void *ud, const struct mantichora_output *output) {
  struct book *book = ud;
  note_output(book, output);
  CHECK(mantichora_poll(book->L, 0) >= 0);
  CHECK(luaL_dostring(book->L, "n = (n or 0) + #p:receive_finished()") == LUA_OK);
}

static void raise_in_sink(void *ud, const struct mantichora_output *output) {
  note_output(ud, output);
  luaL_error(((struct book *)ud)->L, "from a sink");
}

static void test_busy_sinks(void) {
  lua_State *L = state();
  struct book book;
  open_book(&book, L);
  CHECK(mantichora_set_output_sink(L, receive_in_sink, &book) == 0);
  run(L, new_pool);
  run(L, "p:run(function() for i = 1, 3 do print(i) end end) p:returns()");
  CHECK(strcmp(book.text, "1:1\n1:2\n1:3\n") == 0);
  open_book(&book, L);
  CHECK(mantichora_set_output_sink(L, raise_in_sink, &book) == 0);
  run(L, "p:run(function() for i = 4, 5 do print(i) end end) p:returns()");
  CHECK(strcmp(book.text, "1:4\n1:5\n") == 0);
  CHECK(mantichora_poll(L, 0) == 0);
  lua_close(L);
}

/* A sink that receives what the call in which it runs is about to hand over, and at last closes the
 * pool: all of it while the helper thread brings more. */
static void receive_one_in_sink(void *ud, const struct mantichora_output *output) {
  struct book *book = ud;
  (void)output;
  if (luaL_dostring(book->L, "local id = p:receive_one(0) n = n + (id and 1 or 0) "
                             "if n >= limit then p:terminate() p:close() end") != LUA_OK)
    lua_pop(book->L, 1);
}

static void test_receiving_sink(void) {
  lua_State *L = state();
  struct book book;
  int round;
  open_book(&book, L);
  CHECK(mantichora_set_output_sink(L, receive_one_in_sink, &book) == 0);
  for (round = 0; round < 20; round++) {
    run(L, "n, limit = 0, 1 / 0 p = mantichora { nworkers = 2 } "
           "for i = 1, 60 do p:run(print, i) end "
           "for _ in p:as_completed() do n = n + 1 end p:close()");
    CHECK(number(L, "n") == 60);
    run(L,
        "n, limit = 0, 1 / 0 p = mantichora { nworkers = 2 } local list = {} "
        "for i = 1, 60 do list[i] = i end values = p:map(function(i) print(i) return i end, list) "
        "for i = 1, 60 do n = n + (values[i] == i and 1 or 0) end p:close()");
    CHECK(number(L, "n") == 60);
    run(L, "n, limit = 0, 20 p = mantichora { nworkers = 2 } "
           "for i = 1, 60 do p:run(print, i) end "
           "pcall(function() for _ in p:as_completed() do end end) p:close()");
  }
  lua_close(L);
}

/* -- workers ------------------------------------------------------------------------------ */

struct handles {
  int fd;
  pid_t owner;
};

static void drop_handles(void *ud) {
  struct handles *handles = ud;
  if (getpid() == handles->owner)
    abort();
  close(handles->fd);
  handles->fd = -1;
  if (write(1, "hook\n", 5) != 5)
    abort();
}

static void test_child_hook(void) {
  lua_State *L = state();
  struct book book;
  struct handles handles = {open("/dev/null", O_RDONLY), getpid()};
  char code[512];
  open_book(&book, L);
  CHECK(mantichora_set_output_sink(L, note_output, &book) == 0);
  run(L, "p = mantichora { nworkers = 1, init = function() print 'init' end }");
  CHECK(mantichora_set_child_hook(L, drop_handles, &handles) == 0);
  snprintf(code, sizeof code,
           "p:run(function() local f = io.open('/proc/self/fd/%d') "
           "print(f == nil) local q <close> = mantichora { nworkers = 1, background = false } "
           "q:run(print, 'inner') "
           "q:returns() end) p:returns()",
           handles.fd);
  run(L, code);
  CHECK(strcmp(book.text, "1:hook\n1:init\n1:true\n1:inner\n") == 0);
  CHECK(handles.fd >= 0 && fcntl(handles.fd, F_GETFD) >= 0);
  open_book(&book, L);
  CHECK(mantichora_set_child_hook(L, NULL, NULL) == 0);
  run(L, "p:close() p = mantichora { nworkers = 1 } p:run(print, 'task') p:returns()");
  CHECK(strcmp(book.text, "1:task\n") == 0);
  close(handles.fd);
  lua_close(L);
}

/* A fork of the program's own has the parent's poller and pools: it leaves them alone. */
static void test_foreign_fork(void) {
  lua_State *L = state();
  pid_t pid;
  int status;
  run(L, new_pool);
  mantichora_fd(L);
  run(L, "p:start()");
  pid = fork();
  if (pid == 0) {
    int fine = mantichora_poll(L, 0) == 0;
    fine = fine && luaL_dostring(L, "q = mantichora { nworkers = 1, background = false } "
                                    "q:run(function() return 1 end)") == LUA_OK;
    fine = fine && loop_until(L, 1) >= 0;
    fine = fine && luaL_dostring(L, "assert(q:returns()[1] == 1) q:close()") == LUA_OK;
    _exit(fine ? 0 : 1);
  }
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  run(L, "p:run(function() return 1 end)");
  CHECK(loop_until(L, 1) >= 0);
  run(L, "n = p:returns()[1]");
  CHECK(number(L, "n") == 1);
  lua_close(L);
}

/* -- states ------------------------------------------------------------------------------- */

/* An engine's collector is left alone unless the script wants it touched. */
static void test_collector(void) {
  lua_State *L = state();
  int mode;
  mantichora_poll(L, 0);
  run(L,
      "ballast = {} for i = 1, 8 << 20 do ballast[i] = i end " /* 5.5 does not count long strings */
      "p = mantichora { nworkers = 1 } p:run(sleep, 0) p:returns()");
  mode = lua_gc(L, LUA_GCINC, 0, 0, 0);
  CHECK(mode == LUA_GCINC);
#if LUA_VERSION_RELEASE_NUM >= 50404
  run(L, "p:close() p = mantichora { nworkers = 1, gc = 'auto' } p:run(sleep, 0) p:returns()");
  mode = lua_gc(L, LUA_GCINC, 0, 0, 0);
  CHECK(mode == LUA_GCGEN);
#endif
  lua_close(L);
}

/* To have been given the library is enough: the first run makes no collection of a large heap. */
static void test_given(void) {
  lua_State *L = state();
  int mode;
  run(L,
      "ballast = ('x'):rep(80 << 20) p = mantichora { nworkers = 1 } p:run(sleep, 0) p:returns()");
  mode = lua_gc(L, LUA_GCINC, 0, 0, 0);
  CHECK(mode == LUA_GCINC);
  lua_close(L);
}

/* The same where it stands ready for `require`. */
static void test_given_for_require(void) {
  lua_State *L = luaL_newstate();
  int mode;
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_mantichora);
  lua_setfield(L, -2, "mantichora");
  run(L, "ballast = ('x'):rep(80 << 20) local mantichora = require 'mantichora'"
         "p = mantichora { nworkers = 1 } p:run(mantichora.sleep, 0) p:returns()");
  mode = lua_gc(L, LUA_GCINC, 0, 0, 0);
  CHECK(mode == LUA_GCINC);
  lua_close(L);
}

/* Poll frames until so many workers are left; how many are. */
static lua_Integer frames_until(lua_State *L, lua_Integer workers) {
  double end = now() + 30;
  lua_Integer count;
  do {
    CHECK(mantichora_poll(L, 0) >= 0);
    run(L, "count = #p:workers()");
    count = number(L, "count");
  } while (count != workers && now() < end);
  return count;
}

/* A frame has no time for forks: what ended is replaced when somebody waits, or when none is left.
 */
static void test_frames(const char *background) {
  lua_State *L = state();
  double end = now() + 30;
  int i, waiting = 0;
  lua_pushstring(L, background);
  lua_setglobal(L, "background");
  run(L, "p = mantichora { nworkers = 3, background = background == 'true' } p:start()");
  run(L, "pids = p:workers() a, b, c = pids[1].pid, pids[2].pid, pids[3].pid");
  CHECK(kill((pid_t)number(L, "a"), SIGKILL) == 0);
  CHECK(frames_until(L, 2) == 2);
  for (i = 0; i < 100; i++)
    CHECK(mantichora_poll(L, 0) == 0);
  CHECK(frames_until(L, 2) == 2);
  run(L, "for i = 1, 3 do p:run(function() return i end) end");
  while ((waiting = mantichora_poll(L, 0)) < 3 && now() < end)
    ;
  CHECK(waiting == 3);
  CHECK(frames_until(L, 2) == 2);
  CHECK(kill((pid_t)number(L, "b"), SIGKILL) == 0 && kill((pid_t)number(L, "c"), SIGKILL) == 0);
  run(L, "p:run(function() return 4 end)");
  while ((waiting = mantichora_poll(L, 0)) < 4 && now() < end)
    ;
  CHECK(waiting == 4);
  CHECK(frames_until(L, 1) == 1);
  run(L, "assert(p:returns()[4] == 4) p:run(sleep, 0) p:returns() count = #p:workers()");
  CHECK(number(L, "count") == 3);
  lua_close(L);
}

/* Each bar that began is told its end, once, however the state ends; and what was written before.
 */
static void test_closed_state(const char *ending, const char *states) {
  static const char open[] =
      "p = mantichora { nworkers = 2 }"
      "p:run(function() print('written') local bar = atpbar.bar { name = 'task', total = 10 }"
      " bar:add(3) bar2 = atpbar.bar { name = 'second', total = 5 } while true do sleep(0.01) end "
      "end)"
      "own = atpbar.bar { name = 'own', total = 4 } own:add(1)"
      "loop = coroutine.wrap(function() for i in atpbar(3, 'loop') do coroutine.yield(i) end end) "
      "loop()";
  lua_State *L = state();
  double end = now() + 30;
  struct book book;
  char line[64];
  const char *name;
  open_book(&book, L);
  CHECK(mantichora_set_progress_sink(L, note_progress, &book) == 0);
  CHECK(mantichora_set_output_sink(L, note_output, &book) == 0);
  run(L, open);
  while (strstr(book.text, "start second") == NULL && now() < end)
    CHECK(mantichora_poll(L, 0.01) == 0);
  CHECK(strstr(book.text, "start second") != NULL && strstr(book.text, "end ") == NULL);
  run(L, ending);
  lua_close(L);
  for (name = "task\0second\0own\0loop\0"; *name != '\0'; name += strlen(name) + 1) {
    const char *first;
    snprintf(line, sizeof line, "end %s ", name);
    first = strstr(book.text, line);
    CHECK(first != NULL && strstr(first + 1, line) == NULL);
    snprintf(line, sizeof line, "start %s ", name);
    first = strstr(book.text, line);
    CHECK(first != NULL && strstr(first + 1, line) == NULL);
  }
  CHECK(strstr(book.text, "1:written\n") != NULL);
  CHECK(strstr(book.text, states) != NULL);
}

/* A renderer of the script likewise. */
static void test_closed_renderer(void) {
  lua_State *L = state();
  struct book book;
  open_book(&book, L);
  lua_pushlightuserdata(L, &book);
  lua_pushcclosure(L, note_event, 1);
  lua_setglobal(L, "note");
  run(L, "atpbar.set_renderer(function(report) note(report.event) end)"
         "bar = atpbar.bar { name = 'bar', total = 4 } sleep(0)");
  lua_close(L);
  CHECK(strcmp(book.text, "start end ") == 0);
}

static void test_any_order(void) {
  lua_State *a = state(), *b = state(), *c = state();
  run(a, new_pool);
  mantichora_fd(a);
  mantichora_fd(b);
  run(b, new_pool);
  run(c, "local p = mantichora { nworkers = 1 } p:run(sleep, 30)"); /* nobody closes it */
  run(a, "p:run(sleep, 30)");
  run(b, "p:run(function() return 7 end)");
  lua_close(a);
  CHECK(poll_until(b, 1) == 1);
  lua_close(c);
  run(b, "n = p:returns()[1]");
  CHECK(number(b, "n") == 7);
  lua_close(b);
}

/* The locks of a sanitizer's allocator stay locked in a child that is forked while another thread
 * allocates: there the workers of all threads are forked before any of them goes on. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FORKS_IN_TURN = 1 };
#else
enum { FORKS_IN_TURN = 0 };
#endif

struct crowd {
  pthread_mutex_t turn;
  pthread_barrier_t started;
};

struct member {
  struct crowd *crowd;
  pthread_t thread;
  int fine;
};

static void *frames(void *argument) {
  struct member *member = argument;
  struct book book;
  lua_State *L;
  if (FORKS_IN_TURN)
    pthread_mutex_lock(&member->crowd->turn);
  L = state();
  open_book(&book, L);
  mantichora_set_output_sink(L, note_output, &book);
  mantichora_set_progress_sink(L, note_progress, &book);
  run(L, new_pool);
  if (FORKS_IN_TURN) {
    run(L, "p:start()");
    pthread_mutex_unlock(&member->crowd->turn);
    pthread_barrier_wait(&member->crowd->started);
  }
  run(L, "for i = 1, 8 do p:run(function() print(i) return i end) end");
  member->fine = poll_until(L, 8) == 8 && book.length == 8 * 4;
  lua_close(L);
  return NULL;
}

static void test_threads(void) {
  enum { THREADS = 4 };
  struct crowd crowd;
  struct member members[THREADS];
  int i;
  pthread_mutex_init(&crowd.turn, NULL);
  pthread_barrier_init(&crowd.started, NULL, THREADS);
  for (i = 0; i < THREADS; i++) {
    members[i].crowd = &crowd;
    members[i].fine = 0;
    CHECK(pthread_create(&members[i].thread, NULL, frames, &members[i]) == 0);
  }
  for (i = 0; i < THREADS; i++) {
    pthread_join(members[i].thread, NULL);
    CHECK(members[i].fine);
  }
  pthread_barrier_destroy(&crowd.started);
  pthread_mutex_destroy(&crowd.turn);
}

/* An allocator that gives `left` more blocks, for ever if that is negative. */
struct purse {
  long left;
  size_t bytes;
};

static void *spend(void *ud, void *block, size_t old, size_t size) {
  struct purse *purse = ud;
  void *got;
  if (block == NULL)
    old = 0;
  if (size == 0) {
    purse->bytes -= old;
    free(block);
    return NULL;
  }
  if (size > old && purse->left == 0)
    return NULL;
  if (size > old && purse->left > 0)
    purse->left--;
  got = realloc(block, size);
  if (got != NULL)
    purse->bytes += size - old;
  return got;
}

static void ignore_output(void *ud, const struct mantichora_output *output) {
  (void)ud;
  (void)output;
}

static void ignore_progress(void *ud, const struct mantichora_progress *report) {
  (void)ud;
  (void)report;
}

/* All that the C API does, with so many allocations; 1 if none was missing. */
static int afford(long count) {
  struct purse purse = {-1, 0};
  lua_State *L = new_state(spend, &purse);
  int codes[7], i, complete = 1;
  lua_atpanic(L, panic);
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  run(L, prelude);
  run(L, "function work() for _ in atpbar(2, 'x') do end print('x') logging.error('x') return 7 end"
         " function try() p = mantichora { nworkers = 1, background = false } p:run(work) end");
  lua_gc(L, LUA_GCSTOP);
  purse.left = count;
  codes[0] = mantichora_set_output_sink(L, ignore_output, NULL);
  codes[1] = mantichora_set_progress_sink(L, ignore_progress, NULL);
  codes[2] = mantichora_set_child_hook(L, NULL, NULL);
  codes[3] = mantichora_set_log_sink(L, NULL, NULL);
  codes[4] = mantichora_fd(L);
  lua_getglobal(L, "try");
  codes[5] = lua_pcall(L, 0, 0, 0) == LUA_OK ? 0 : -1;
  codes[6] = mantichora_poll(L, 5);
  for (i = 0; i < 7; i++) {
    complete &= codes[i] >= 0;
    CHECK(codes[i] >= 0 || mantichora_error(L)[0] != '\0' || i == 5);
  }
  purse.left = -1;
  lua_settop(L, 0);
  lua_gc(L, LUA_GCRESTART);
  if (codes[5] == 0) { /* the worker has inherited what little there was */
    CHECK(poll_until(L, 1) == 1);
    run(L, "ok = pcall(p.returns, p) and 1 or 0");
  }
  complete &= number(L, "ok") == 1;
  lua_close(L);
  CHECK(purse.bytes == 0);
  return complete;
}

/* In large steps where one takes seconds (an emulated processor). */
static void test_allocator(void) {
  long count = 0, step = 1;
  time_t begin = time(NULL);
  while (count < 4000 && !afford(count)) {
    if (count >= 40)
      step = time(NULL) - begin < 10 ? 7 : 97;
    count += step;
  }
  CHECK(count > 20 && count < 4000);
}

int main(void) {
  test_nothing();
  test_poll();
  test_no_thread();
  test_several_pools("true");
  test_several_pools("false");
  test_timeout();
  test_interrupt();
  test_raising_renderer();
  test_log_sink();
  test_few_libraries();
  test_progress_sink();
  test_output_sink("true");
  test_output_sink("false");
  test_before_results();
  test_output_restored();
  test_busy_sinks();
  test_receiving_sink();
  test_child_hook();
  test_foreign_fork();
  test_collector();
  test_given();
  test_given_for_require();
  test_frames("true");
  test_frames("false");
  test_closed_state("", "end task 3/10");
  test_closed_state("p = nil collectgarbage()", "end task 3/10");
  test_closed_state("p:terminate()", "end task 3/10 0  cancelled");
  test_closed_state("p:terminate() p:close()", "end task 3/10 0  cancelled");
  test_closed_renderer();
  test_any_order();
  test_threads();
  test_allocator();
  return check_report();
}
