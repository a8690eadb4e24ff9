/* Inside a program in C: several states, several threads, children that others reap, ends without
 * lua_close. Each case runs in a process of its own, whose orphans come to this one. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/mantichora.h"

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                      \
      _exit(1);                                                                                    \
    }                                                                                              \
  } while (0)

enum { HEIR_COMPLAINS = 42 };

/* -- helpers ------------------------------------------------------------------------------ */

/* The states, where a leak checker finds them: some cases end without closing them. */
static lua_State *states[2];

static lua_State *new_state(int index) {
  lua_State *L = luaL_newstate();
  CHECK(L != NULL);
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 1);
  lua_settop(L, 0);
  states[index] = L;
  return L;
}

static void run_lua(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) == LUA_OK)
    return;
  fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
  _exit(1);
}

static void rest(long milliseconds) {
  struct timespec moment = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  nanosleep(&moment, NULL);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void start(pthread_t *thread, void *(*function)(void *), void *argument) {
  CHECK(pthread_create(thread, NULL, function, argument) == 0);
}

static void join(pthread_t thread) {
  CHECK(pthread_join(thread, NULL) == 0);
}

/* Run two functions on threads of their own, at the same time. (But one after the other under the
 * address sanitizer: its allocator's locks stay locked in a child that is forked beside them.) */
static void run_both(void *(*first)(void *), void *(*second)(void *)) {
  static const int indices[2] = {0, 1};
  pthread_t threads[2];
  start(&threads[0], first, (void *)(size_t)&indices[0]);
#if defined(__SANITIZE_ADDRESS__)
  join(threads[0]);
#endif
  start(&threads[1], second, (void *)(size_t)&indices[1]);
#if !defined(__SANITIZE_ADDRESS__)
  join(threads[0]);
#endif
  join(threads[1]);
}

/* -- cases -------------------------------------------------------------------------------- */

/* Workers come and go all the time while the other state does the same. */
static const char *const churn =
    "local pool = mantichora{nworkers = 3, max_tasks_per_worker = 3}\n"
    "for round = 1, 5 do\n"
    "  for i = 1, 30 do pool:run(function(a) return a * a end, i) end\n"
    "  local results = pool:returns()\n"
    "  assert(results.n == 30)\n"
    "  for i = 1, 30 do assert(results[i] == i * i) end\n"
    "end\n"
    "kept = pool\n";

static void *churn_state(void *argument) {
  int index = *(int *)argument;
  run_lua(new_state(index), churn);
  return NULL;
}

static void two_states(int first_closed) {
  run_both(churn_state, churn_state);
  lua_close(states[first_closed]);
  run_lua(states[1 - first_closed], churn);
  lua_close(states[1 - first_closed]);
}

static void two_states_first_closed_first(void) {
  two_states(0);
}
static void two_states_second_closed_first(void) {
  two_states(1);
}

/* A state that is made and closed again and again beside another one's pool. */
static void *come_and_go(void *argument) {
  int i;
  (void)argument;
  for (i = 0; i < 10; i++) {
    lua_State *L = new_state(1);
    run_lua(L, "local pool = mantichora{nworkers = 2}\n"
               "for i = 1, 10 do pool:run(string.rep, 'x', i) end\n"
               "if math.random(2) == 1 then assert(#pool:returns()[10] == 10) end\n");
    lua_close(L);
  }
  return NULL;
}

static void states_come_and_go(void) {
  run_both(churn_state, come_and_go);
  run_lua(states[0], churn);
  lua_close(states[0]);
}

static void *make_pool(void *argument) {
  (void)argument;
  run_lua(states[0], "pool = mantichora{nworkers = 2}\n"
                     "pool:start()\n"
                     "pids = {}\n"
                     "for i, worker in ipairs(pool:workers()) do pids[i] = worker.pid end\n"
                     "pool:run(function() mantichora.sleep(0.2) return 'slow' end)\n");
  return NULL;
}

static void *use_pool(void *argument) {
  (void)argument;
  run_lua(states[0], "pool:run(function() return 'quick' end)\n"
                     "local results = pool:returns()\n"
                     "assert(results[1] == 'slow' and results[2] == 'quick')\n"
                     "for i, worker in ipairs(pool:workers()) do\n"
                     "  assert(worker.pid == pids[1] or worker.pid == pids[2])\n"
                     "end\n");
  return NULL;
}

/* The thread that forked ends; its workers do not. Others use the pool after it, one at a time. */
static void threads_take_turns(void) {
  pthread_t thread;
  lua_State *L = new_state(0);
  start(&thread, make_pool, NULL);
  join(thread);
  start(&thread, use_pool, NULL);
  join(thread);
  lua_close(L);
}

static _Atomic int reaping;

/* A host that takes the status of every child. */
static void *reap_all(void *argument) {
  (void)argument;
  while (reaping)
    if (waitpid(-1, NULL, WNOHANG) <= 0)
      rest(1);
  return NULL;
}

static const char *const deaths =
    "local pool <close> = mantichora{nworkers = 2, on_error = 'return', max_tasks_per_worker = 2}\n"
    "for i = 1, 10 do\n"
    "  pool:run(function(n) return n end, i)\n"
    "  pool:run(function() os.exit(3) end)\n"
    "  pool:run(function() os.execute('kill -9 ' .. io.open('/proc/self/stat'):read('n')) end)\n"
    "end\n"
    "local results = pool:returns()\n"
    "for i = 1, 10 do\n"
    "  assert(results[3 * i - 2] == i)\n"
    "  assert(results[3 * i - 1].kind == 'exited' and results[3 * i - 1].exitcode == 3)\n"
    "  assert(results[3 * i].kind == 'killed', results[3 * i].kind)\n"
    "end\n"
    "pool:run(os.execute, 'exit 7')\n" /* in a worker a program's status is to be had */
    "pool:run(function() return select(3, os.execute('exit 7')) end)\n"
    "assert(pool:returns()[2] == 7)\n";

static void children_are_reaped_by_the_host(void) {
  pthread_t thread;
  lua_State *L = new_state(0);
  reaping = 1;
  start(&thread, reap_all, NULL);
  run_lua(L, deaths);
  lua_close(L);
  reaping = 0;
  join(thread);
}

static void sigchld_is_ignored(void) {
  lua_State *L;
  signal(SIGCHLD, SIG_IGN);
  L = new_state(0);
  run_lua(L, deaths);
  lua_close(L);
}

static const char *const busy =
    "pool = mantichora{nworkers = 2}\n"
    "pool:run(function() while true do end end)\n"
    "pool:run(function() os.execute('sleep 60') end)\n"
    "local function all_run()\n"
    "  local count = 0\n"
    "  for _, worker in ipairs(pool:workers()) do count = count + (worker.runid and 1 or 0) end\n"
    "  return count == 2\n"
    "end\n"
    "while not all_run() do pool:poll(0.01) end\n"
    "idle = mantichora{nworkers = 2}\n"
    "idle:start()\n";

static void *make_busy(void *argument) {
  run_lua(new_state(*(int *)argument), busy);
  return NULL;
}

/* Two states with busy and idle pools, each of which forked with those of the other there. */
static void make_all_busy(void) {
  run_both(make_busy, make_busy);
  /* Replaced workers of the first pools have those of the last ones before their eyes. */
  run_lua(states[0], "idle:run(os.exit); pcall(idle.returns, idle); idle:poll()\n");
  run_lua(states[1], "idle:run(os.exit); pcall(idle.returns, idle); idle:poll()\n");
}

static void exit_without_closing(void) {
  make_all_busy();
  exit(0);
}

static void exit_of_another_thread(void) {
  make_all_busy();
  _exit(0);
}

static void sudden_death(void) {
  make_all_busy();
  raise(SIGKILL);
}

/* A child that the host forked keeps the descriptors that it has inherited, and lives on. Its
 * status tells the first process whether the workers do so too. */
static void death_with_an_heir(void) {
  pid_t parent = getpid();
  pid_t workers[8];
  int count = 0, i, left = 1;
  make_all_busy();
  for (i = 0; i < 2; i++) {
    int n;
    run_lua(states[i], "all = {} for _, p in ipairs{pool, idle} do\n"
                       "for _, w in ipairs(p:workers()) do all[#all + 1] = w.pid end end");
    lua_getglobal(states[i], "all");
    for (n = 1; n <= 4 && lua_rawgeti(states[i], -1, n) != LUA_TNIL; n++) {
      workers[count++] = (pid_t)lua_tointeger(states[i], -1);
      lua_pop(states[i], 1);
    }
  }
  CHECK(count >= 6);
  if (fork() != 0)
    raise(SIGKILL);
  while (getppid() == parent)
    rest(1);
  for (i = 0; i < 100 && left > 0; i++) {
    int n;
    rest(10);
    for (n = left = 0; n < count; n++)
      left += kill(workers[n], 0) == 0;
  }
  _exit(left == 0 ? 0 : HEIR_COMPLAINS);
}

static void descriptors_closed(void) {
  lua_State *L = new_state(0);
  close(0);
  close(1);
  close(2);
  run_lua(L, "local pool <close> = mantichora{nworkers = 2}\n"
             "for i = 1, 10 do\n"
             "  pool:run(function(n) print(n) io.stderr:write('x') return n end, i)\n"
             "end\n"
             "assert(pool:returns()[10] == 10)\n"
             "pool:run(function() return io.popen('echo found'):read('l') end)\n"
             "assert(pool:returns()[1] == 'found')\n");
  lua_close(L);
}

static volatile sig_atomic_t signals_seen;

static void count_signal(int number) {
  (void)number;
  signals_seen = signals_seen + 1;
}

/* A host whose handlers only set a flag: its way holds, waits go on, workers do not run them. */
static void host_keeps_its_handlers(void) {
  struct sigaction action, after;
  lua_State *L;
  memset(&action, 0, sizeof action);
  action.sa_handler = count_signal;
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGCHLD, &action, NULL);
  L = new_state(0);
  run_lua(L, "local pool <close> = mantichora{nworkers = 2, on_error = 'return'}\n"
             "local parent = io.open('/proc/self/stat'):read('n')\n"
             "pool:run(function(pid) os.execute('kill -INT ' .. pid) return 1 end, parent)\n"
             "pool:run(function(pid) mantichora.sleep(0.1) return 2 end)\n"
             "local results = pool:returns()\n"
             "assert(results[1] == 1 and results[2] == 2)\n"
             "pool:run(function()\n"
             "  os.execute('kill -TERM ' .. io.open('/proc/self/stat'):read('n'))\n"
             "  mantichora.sleep(5)\n"
             "end)\n"
             "assert(pool:returns()[1].signal == 15)\n");
  lua_close(L);
  CHECK(signals_seen > 0);
  sigaction(SIGINT, NULL, &after);
  CHECK(after.sa_handler == count_signal);
  sigaction(SIGCHLD, NULL, &after);
  CHECK(after.sa_handler == count_signal);
}

static void raise_interrupted(lua_State *L, lua_Debug *activation) {
  (void)activation;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

/* As lua.c does it. */
static void set_hook(int number) {
  (void)number;
  lua_sethook(states[0], raise_interrupted, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

static double came_back;

static void *wait_for_interrupts(void *argument) {
  (void)argument;
  run_lua(states[0], "local function interrupted(wait, ...)\n"
                     "  os.execute('(sleep 0.1; kill -INT ' .. pid .. ') &')\n"
                     "  local fine, message = pcall(wait, ...)\n"
                     "  assert(not fine and tostring(message):find('interrupted!'), message)\n"
                     "end\n"
                     "interrupted(mantichora.sleep, 30)\n"
                     "local pool <close> = mantichora{nworkers = 2}\n"
                     "pool:run(mantichora.sleep, 30)\n"
                     "interrupted(pool.returns, pool)\n"
                     "interrupted(coroutine.wrap(function() pool:receive_one() end))\n"
                     "interrupted(mantichora.sleep, 30)\n"
                     "pool:terminate()\n");
  came_back = now();
  return NULL;
}

/* The main thread takes the signal while Lua waits on another one. */
static void signal_on_the_main_thread(void) {
  pthread_t thread;
  double begin = now();
  lua_State *L = new_state(0);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = set_hook;
  sigaction(SIGINT, &action, NULL);
  lua_pushinteger(L, getpid());
  lua_setglobal(L, "pid");
  start(&thread, wait_for_interrupts, NULL);
  join(thread);
  CHECK(came_back - begin < 4 * (0.1 + 0.5) + 0.5);
  lua_close(L);
}

/* Other threads of the host are in the middle of a read and of a line, and stay there. */
static atomic_int lines_end;

static void *read_a_line(void *argument) {
  char line[8];
  (void)argument;
  CHECK(fgets(line, sizeof line, stdin) != NULL && strcmp(line, "x") == 0);
  return NULL;
}

static void *write_lines(void *stream) {
  while (!atomic_load(&lines_end)) {
    flockfile(stream);
    rest(2);
    funlockfile(stream);
    rest(1);
  }
  return NULL;
}

static void threads_use_the_streams(void) {
  pthread_t threads[3];
  lua_State *L = new_state(0);
  int left = 1, typed[2];
  CHECK(pipe(typed) == 0 && dup2(typed[0], 0) == 0 && write(typed[1], "x", 1) == 1);
  start(&threads[0], read_a_line, NULL);
  while (ioctl(0, FIONREAD, &left) == 0 && left > 0)
    rest(1);
  start(&threads[1], write_lines, stdout);
  start(&threads[2], write_lines, stderr);
  run_lua(L, "for _, engine in ipairs{'fork', 'snapshot'} do\n"
             "  local pool <close> = mantichora{nworkers = 2, engine = engine}\n"
             "  for i = 1, 4 do\n"
             "    pool:run(function()\n"
             "      io.write('') io.stdout:flush() io.stderr:flush()\n"
             "      return io.read() or io.stdin:read('n') or i\n"
             "    end)\n"
             "  end\n"
             "  local results = pool:returns()\n"
             "  for i = 1, 4 do assert(results[i] == i) end\n"
             "end\n");
  lua_close(L);
  atomic_store(&lines_end, 1);
  close(typed[1]);
  join(threads[0]);
  join(threads[1]);
  join(threads[2]);
}

/* -- running them ------------------------------------------------------------------------- */

static int failures;

/* Everything that the case's process left behind must end by itself, within a second. */
static void wait_for_orphans(const char *name) {
  double deadline = now() + 1.5;
  while (now() < deadline) {
    int status = 0;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid < 0)
      return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == HEIR_COMPLAINS)
      break;
    if (pid == 0)
      rest(5);
  }
  fprintf(stderr, "%s: processes are left behind\n", name);
  failures++;
  /* End those that are known, so that the next case starts afresh. */
  for (;;) {
    char line[32];
    FILE *list = popen("ps -o pid=,comm= --ppid $PPID", "r");
    int found = 0;
    while (list != NULL && fgets(line, sizeof line, list) != NULL)
      if (strstr(line, "sh") == NULL && strstr(line, "ps") == NULL) {
        kill((pid_t)atol(line), SIGKILL);
        found = 1;
      }
    if (list != NULL)
      pclose(list);
    while (waitpid(-1, NULL, WNOHANG) > 0)
      ;
    if (!found)
      return;
    rest(20);
  }
}

static void run_case(const char *name, void (*body)(void), int signal_expected) {
  double begin = now();
  int status = 0, fine;
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    alarm(60);
    body();
    exit(0);
  }
  while (waitpid(pid, &status, 0) != pid)
    ;
  fine = signal_expected != 0 ? WIFSIGNALED(status) && WTERMSIG(status) == signal_expected
                              : WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!fine) {
    fprintf(stderr, "%s: failed with status %#x\n", name, (unsigned)status);
    failures++;
  }
  wait_for_orphans(name);
  printf("%6.2f s %s\n", now() - begin, name);
  fflush(stdout);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*body)(void);
    int signal;
  } cases[] = {{"two states, the first closed first", two_states_first_closed_first, 0},
               {"two states, the second closed first", two_states_second_closed_first, 0},
               {"states come and go", states_come_and_go, 0},
               {"threads take turns", threads_take_turns, 0},
               {"children are reaped by the host", children_are_reaped_by_the_host, 0},
               {"SIGCHLD is ignored", sigchld_is_ignored, 0},
               {"the host keeps its handlers", host_keeps_its_handlers, 0},
               {"a signal on the main thread", signal_on_the_main_thread, 0},
               {"threads use the streams", threads_use_the_streams, 0},
               {"descriptors 0 to 2 are closed", descriptors_closed, 0},
               {"exit without closing", exit_without_closing, 0},
               {"_exit without closing", exit_of_another_thread, 0},
               {"sudden death", sudden_death, SIGKILL},
               {"sudden death, and an heir lives on", death_with_an_heir, SIGKILL}};
  size_t i;
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  for (i = 0; i < sizeof cases / sizeof *cases; i++)
    if (argc < 2 || strstr(cases[i].name, argv[1]) != NULL)
      run_case(cases[i].name, cases[i].body, cases[i].signal);
  return failures == 0 ? 0 : 1;
}
