/* What the benchmarks need in Lua, and Lua has not: a clock, an iterator in C, what is allocated,
 * what it costs to fork this very process.
 *
 * A module for Lua 5.4, compiled by scripts/bench/support/programs.lua. */
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <lauxlib.h>
#include <lua.h>

#include "forks.h"

/* clock(): seconds, monotonic. */
static int lua_clock(lua_State *L) {
  lua_pushnumber(L, now());
  return 1;
}

static double seconds_of(struct timeval time) {
  return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

/* cpu(): seconds of processor time of this process and of its children that have ended. */
static int cpu(lua_State *L) {
  static const int whose[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
  double sum = 0;
  int i;

  for (i = 0; i < 2; i++) {
    struct rusage usage;
    getrusage(whose[i], &usage);
    sum += seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
  }
  lua_pushnumber(L, sum);
  return 1;
}

/* The cheapest step that an iterator in C can have: one more, until the end. */
static int step(lua_State *L) {
  lua_Integer i = lua_tointeger(L, 2) + 1;

  if (i > lua_tointeger(L, 1))
    lua_pushnil(L);
  else
    lua_pushinteger(L, i);
  return 1;
}

/* range(n): for i in range(n) do ... end */
static int range(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);

  lua_pushcfunction(L, step);
  lua_pushinteger(L, n);
  lua_pushinteger(L, 0);
  return 3;
}

/* trim(): give free memory back to the system, so that the size of the process says what is in use.
 */
static int trim(lua_State *L) {
  (void)L;
  malloc_trim(0);
  return 0;
}

/* forks(n): seconds that it takes this process to fork n children that exit, and to wait for them.
 */
static int forks(lua_State *L) {
  lua_pushnumber(L, fork_exit_wait((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* A socket pair, and pipes for stdout, stderr and the parent's end. */
enum { MOST = 16, PAIRS = 4 };

struct worker {
  pid_t pid;
  int watch;
  int fds[PAIRS][2]; /* [0] is the parent's */
};

static void *wait_for_a_byte(void *argument) {
  char byte;

  must(read(*(int *)argument, &byte, 1) >= 0, "read");
  return NULL;
}

static void open_worker(struct worker *worker) {
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, worker->fds[0]) == 0, "socketpair");
  for (int i = 1; i < PAIRS; i++)
    must(pipe2(worker->fds[i], O_CLOEXEC) == 0, "pipe2");
}

/* Echo bytes until the parent has gone. */
static void echo(const struct worker *workers, int self) {
  int end = workers[self].fds[0][1];
  char byte;

  for (int i = 0; i <= self; i++)
    close(workers[i].fds[0][0]);
  while (read(end, &byte, 1) == 1 && write(end, &byte, 1) == 1)
    ;
  _exit(0);
}

static void watch_worker(int poller, struct worker *worker) {
  struct epoll_event event = {.events = EPOLLIN};

  worker->watch = (int)syscall(SYS_pidfd_open, worker->pid, 0);
  epoll_ctl(poller, EPOLL_CTL_ADD, worker->watch, &event);
  for (int i = 0; i < PAIRS; i++) {
    close(worker->fds[i][1]);
    if (i < PAIRS - 1)
      epoll_ctl(poller, EPOLL_CTL_ADD, worker->fds[i][0], &event);
  }
}

static void close_worker(struct worker *worker) {
  waitpid(worker->pid, NULL, 0);
  close(worker->watch);
  for (int i = 1; i < PAIRS; i++)
    close(worker->fds[i][0]);
}

/* bare_pool(n): seconds that it takes to make n forks of this process with the descriptors that a
 * pool needs for each, and a thread; to have an answer of one byte from the first; and to end all
 * that. What a pool does besides comes on top. */
static int bare_pool(lua_State *L) {
  struct worker workers[MOST];
  int n = (int)luaL_checkinteger(L, 1), poller, wake[2];
  double start = now();
  pthread_t thread;
  char byte = 0;

  luaL_argcheck(L, n >= 1 && n <= MOST, 1, "1 to 16 workers");
  poller = epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < n; i++) {
    open_worker(&workers[i]);
    workers[i].pid = fork_one();
    if (workers[i].pid == 0)
      echo(workers, i);
    watch_worker(poller, &workers[i]);
  }
  must(pipe2(wake, O_CLOEXEC) == 0, "pipe2");
  must(pthread_create(&thread, NULL, wait_for_a_byte, wake) == 0, "pthread_create");
  must(write(workers[0].fds[0][0], &byte, 1) == 1, "write");
  must(read(workers[0].fds[0][0], &byte, 1) == 1, "read");
  must(write(wake[1], &byte, 1) == 1, "write");
  for (int i = 0; i < n; i++)
    close(workers[i].fds[0][0]);
  for (int i = 0; i < n; i++)
    close_worker(&workers[i]);
  pthread_join(thread, NULL);
  close(wake[0]);
  close(wake[1]);
  close(poller);
  lua_pushnumber(L, now() - start);
  return 1;
}

int luaopen_lua_limits(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"bare_pool", bare_pool}, {"clock", lua_clock}, {"cpu", cpu}, {"forks", forks},
      {"range", range},         {"trim", trim},       {NULL, NULL}};

  luaL_newlib(L, functions);
  return 1;
}
