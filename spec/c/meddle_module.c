/* Runs in: both. What a C module of a user may do to the worker that it runs in, by accident or
 * not: require "meddle_module".
 *
 *   pid = meddle.fork()              0 in the new process; meddle.raw_fork(): past the C library
 *   meddle._exit(status); meddle.exit(status); meddle.raise(signal)
 *   how, number = meddle.wait(pid)   "exit" or "signal"
 *   meddle.kill(pid, signal); pid = meddle.getpid(); pid = meddle.getppid()
 *   bytes = meddle.write(fd, text)   or nil; meddle.close(fd); meddle.shut(fd); meddle.dup2(from,
 * to) fds = meddle.sockets(), all = meddle.descriptors()      above 2 meddle.rewind(fd)
 *   meddle.set(field, value [, index])   a word of the page that is shared with the pool
 *   value = meddle.get(field [, index])
 *   meddle.fill(byte); meddle.scribble(seed, count)         all of it that can be written
 *   copy = meddle.copy(); meddle.restore(copy)                                              */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif
#include <dirent.h>
#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/wire/protocol.h"

/* What a worker can write of what it shares: the beginning of the page, up to the ring that the
 * pool writes. */
enum { WRITABLE = offsetof(struct mch_shared, down.bytes) };

/* The mapping of that size, of memory that has no name; pools around this one have gone. */
static struct mch_shared *find_page(lua_State *L) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[512], mode[8];
  unsigned long start, end;
  struct mch_shared *page = NULL;
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
    if (sscanf(line, "%lx-%lx %7s", &start, &end, mode) == 3 && mode[3] == 's' && mode[1] == 'w' &&
        (end - start == WRITABLE || end - start >= sizeof *page))
      page = (struct mch_shared *)start;
  if (maps != NULL)
    fclose(maps);
  if (page == NULL)
    luaL_error(L, "this process shares no page");
  return page;
}

static int meddle_fork(lua_State *L) {
  lua_pushinteger(L, fork());
  return 1;
}

static int meddle_raw_fork(lua_State *L) {
#if defined(SYS_fork)
  lua_pushinteger(L, syscall(SYS_fork));
#else
  lua_pushinteger(L, syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
#endif
  return 1;
}

static int meddle_quick_exit(lua_State *L) {
  _exit((int)luaL_checkinteger(L, 1));
}

static int meddle_exit(lua_State *L) {
  exit((int)luaL_checkinteger(L, 1));
}

static int meddle_raise(lua_State *L) {
  raise((int)luaL_checkinteger(L, 1));
  return 0;
}

static int meddle_wait(lua_State *L) {
  int status;
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return luaL_error(L, "no such child");
  lua_pushstring(L, WIFEXITED(status) ? "exit" : "signal");
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  return 2;
}

static int meddle_kill(lua_State *L) {
  kill((pid_t)luaL_checkinteger(L, 1), (int)luaL_checkinteger(L, 2));
  return 0;
}

static int meddle_getpid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static int meddle_getppid(lua_State *L) {
  lua_pushinteger(L, getppid());
  return 1;
}

static int meddle_write(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  ssize_t count = write((int)luaL_checkinteger(L, 1), text, length);
  if (count < 0)
    return 0;
  lua_pushinteger(L, (lua_Integer)count);
  return 1;
}

static int meddle_close(lua_State *L) {
  close((int)luaL_checkinteger(L, 1));
  return 0;
}

static int meddle_shut(lua_State *L) {
  shutdown((int)luaL_checkinteger(L, 1), SHUT_RDWR);
  return 0;
}

static int meddle_dup2(lua_State *L) {
  dup2((int)luaL_checkinteger(L, 1), (int)luaL_checkinteger(L, 2));
  return 0;
}

static int meddle_rewind(lua_State *L) {
  lseek((int)luaL_checkinteger(L, 1), 0, SEEK_SET);
  return 0;
}

static int push_descriptors(lua_State *L, int sockets) {
  DIR *folder = opendir("/proc/self/fd");
  struct dirent *entry;
  lua_Integer count = 0;
  lua_newtable(L);
  while (folder != NULL && (entry = readdir(folder)) != NULL) {
    int fd = atoi(entry->d_name);
    struct stat status;
    if (fd <= 2 || fd == dirfd(folder) || fstat(fd, &status) != 0 ||
        (sockets && !S_ISSOCK(status.st_mode)))
      continue;
    lua_pushinteger(L, fd);
    lua_rawseti(L, -2, ++count);
  }
  if (folder != NULL)
    closedir(folder);
  return 1;
}

static int meddle_descriptors(lua_State *L) {
  return push_descriptors(L, 0);
}

static int meddle_sockets(lua_State *L) {
  return push_descriptors(L, 1);
}

/* Fields by name: where, and whether it has 64 bits. */
#define FIELD(name, bytes)                                                                         \
  { #name, offsetof(struct mch_shared, name), bytes }
static const struct field {
  const char *name;
  size_t at;
  int bytes;
} fields[] = {
    FIELD(claims, 8),
    FIELD(items, 8),
    FIELD(passed, 4),
    FIELD(running_since, 8),
    FIELD(oom_count, 8),
    FIELD(bars, 8),
    FIELD(up.written, 4),
    FIELD(up.read, 4),
    FIELD(up.reader_sleeps, 4),
    FIELD(up.writer_sleeps, 4),
    FIELD(down.written, 4),
    FIELD(down.read, 4),
    FIELD(down.reader_sleeps, 4),
    FIELD(down.writer_sleeps, 4),
    FIELD(up.bytes, 8),
    FIELD(down.bytes, 8),
    FIELD(orders, 8),
};

static unsigned char *find_word(lua_State *L, int index, int *bytes) {
  const char *name = luaL_checkstring(L, 1);
  size_t i;
  for (i = 0; i < sizeof fields / sizeof *fields; i++)
    if (strcmp(fields[i].name, name) == 0) {
      *bytes = fields[i].bytes;
      return (unsigned char *)find_page(L) + fields[i].at +
             (size_t)luaL_optinteger(L, index, 0) * (size_t)*bytes;
    }
  luaL_error(L, "the page has no '%s'", name);
  return NULL;
}

static int meddle_set(lua_State *L) {
  int bytes;
  unsigned char *word = find_word(L, 3, &bytes);
  uint64_t value = (uint64_t)luaL_checkinteger(L, 2);
  if (bytes == 4)
    *(volatile uint32_t *)(void *)word = (uint32_t)value;
  else
    *(volatile uint64_t *)(void *)word = value;
  return 0;
}

static int meddle_get(lua_State *L) {
  int bytes;
  unsigned char *word = find_word(L, 2, &bytes);
  lua_pushinteger(L, bytes == 4 ? (lua_Integer) * (volatile uint32_t *)(void *)word
                                : (lua_Integer) * (volatile uint64_t *)(void *)word);
  return 1;
}

static int meddle_fill(lua_State *L) {
  memset((void *)find_page(L), (int)luaL_checkinteger(L, 1), WRITABLE);
  return 0;
}

/* `count` times up to 64 bytes, half of them anywhere, half among the words at the beginning. Not
 * in the bytes of answers: those of others that were not read yet may be there, which then fail in
 * ways that depend on what they were. */
static int meddle_scribble(lua_State *L) {
  unsigned char *page = (unsigned char *)find_page(L);
  uint64_t x = (uint64_t)luaL_checkinteger(L, 1) * 2654435761u + 88172645463325252u;
  lua_Integer count = luaL_checkinteger(L, 2);
  while (count-- > 0) {
    size_t at, length, i;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    at = (size_t)(x >> 8) % (x & 1 ? (size_t)WRITABLE - 64 : sizeof(uint64_t) * MCH_CLAIMS + 64);
    if (at + 64 > offsetof(struct mch_shared, up.bytes) &&
        at < offsetof(struct mch_shared, up.bytes) + MCH_RING_SIZE)
      continue;
    length = 1 + (size_t)(x >> 2) % 64;
    for (i = 0; i < length; i++) {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      page[at + i] = (unsigned char)x;
    }
  }
  return 0;
}

static int meddle_copy(lua_State *L) {
  lua_pushlstring(L, (const char *)find_page(L), WRITABLE);
  return 1;
}

static int meddle_restore(lua_State *L) {
  size_t length;
  const char *copy = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length == WRITABLE, 1, "not a copy of the page");
  memcpy((void *)find_page(L), copy, length);
  return 0;
}

int luaopen_meddle_module(lua_State *L) __attribute__((visibility("default")));
int luaopen_meddle_module(lua_State *L) {
  static const luaL_Reg functions[] = {{"fork", meddle_fork},
                                       {"raw_fork", meddle_raw_fork},
                                       {"_exit", meddle_quick_exit},
                                       {"exit", meddle_exit},
                                       {"raise", meddle_raise},
                                       {"wait", meddle_wait},
                                       {"kill", meddle_kill},
                                       {"getpid", meddle_getpid},
                                       {"getppid", meddle_getppid},
                                       {"write", meddle_write},
                                       {"close", meddle_close},
                                       {"shut", meddle_shut},
                                       {"dup2", meddle_dup2},
                                       {"rewind", meddle_rewind},
                                       {"set", meddle_set},
                                       {"get", meddle_get},
                                       {"fill", meddle_fill},
                                       {"scribble", meddle_scribble},
                                       {"copy", meddle_copy},
                                       {"restore", meddle_restore},
                                       {"sockets", meddle_sockets},
                                       {"descriptors", meddle_descriptors},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
