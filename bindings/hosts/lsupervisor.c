/* Runs in: a supervisor. Purpose: lsupervisor.h.
 *
 * The Lua state that its workers are forked with: fresh, with the standard library and our own
 * modules; nothing of the script is ever run here. */
#define _POSIX_C_SOURCE 200809L
#include "lsupervisor.h"

#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bindings/context.h"
#include "bindings/pool/ltask.h"
#include "bindings/show/loutput.h"
#include "bindings/values/graph.h"
#include "lneed.h"
#include "runtime/base/platform.h"
#include "runtime/hosts/question.h"
#include "runtime/hosts/supervisor.h"
#include "runtime/mantichora.h"

struct lsupervisor {
  lua_State *L;
  struct mch_ltask task;
  struct mch_buf setup;
};

/* -- the state ---------------------------------------------------------------------------- */

static int open_pool_module(lua_State *L) {
  lua_settop(L, 1);
  lua_pushliteral(L, "here");
  return luaopen_mantichora(L);
}

static int make_state(lua_State *L) {
  static const luaL_Reg modules[] = {{"mantichora", open_pool_module},
                                     {"mantichora.atpbar", luaopen_mantichora_atpbar},
                                     {"mantichora.logging", luaopen_mantichora_logging},
                                     {NULL, NULL}};
  const luaL_Reg *module;
  struct lsupervisor *self = lua_touserdata(L, 1);
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  for (module = modules; module->name != NULL; module++) {
    lua_pushcfunction(L, module->func);
    lua_setfield(L, -2, module->name);
  }
  lua_pop(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "mantichora");
  lua_call(L, 1, 0);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "mantichora.logging");
  lua_call(L, 1, 0);
  self->task.output = mch_loutput_get(L);
  mch_baseline_take(L);
  self->task.baseline = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static int begin_state(struct lsupervisor *self, int socket) {
  struct mch_ltask *task = &self->task;
  self->L = luaL_newstate();
  if (self->L == NULL)
    return -1;
  task->L = self->L;
  task->baseline = task->init = task->fini = task->mapped = task->factories = LUA_NOREF;
  task->mapped_own = task->steady.anchors = LUA_NOREF;
  task->payloads = task->lent = task->anchor = LUA_NOREF;
  task->applied = task->globals_own = LUA_NOREF;
  task->remote = 1;
  lua_pushcfunction(self->L, make_state);
  lua_pushlightuserdata(self->L, self);
  if (lua_pcall(self->L, 1, 0, 0) != LUA_OK) {
    fprintf(stderr, "mantichora worker: %s\n", lua_tostring(self->L, -1));
    return -1;
  }
  task->context = mch_context_get(self->L);
  mch_lneed_install(self->L, socket);
  return 0;
}

/* -- what the pool wants ------------------------------------------------------------------ */

/* Where the script is, if that is here; else at home. */
static int enter_folder(const struct mch_hosts_config *said, struct mch_engine_config *engine,
                        struct mch_error *error) {
  char path[PATH_MAX];
  const char *home = getenv("HOME");
  int problem;
  (void)engine;
  if (said->cwd_length == 0)
    return 0;
  if (said->cwd_length >= sizeof path)
    return mch_error_set(error, MCH_SYSTEM, "the working directory has too long a name");
  memcpy(path, said->cwd, said->cwd_length);
  path[said->cwd_length] = '\0';
  if (chdir(path) == 0)
    return 0;
  problem = errno;
  if (said->cwd_chosen_length > 0)
    return mch_error_set(error, MCH_SYSTEM, "the option cwd: %.150s: %s", path, strerror(problem));
  if (home == NULL || chdir(home) != 0)
    home = "the present one";
  return mch_error_set(error, MCH_FULL, "there is no directory %.100s: tasks work in %.80s", path,
                       home);
}

static int set_environment(const struct mch_hosts_config *said, struct mch_error *error) {
  const char *at = (const char *)said->environment, *end = at + said->environment_length;
  while (at < end) {
    const char *stop = memchr(at, 0, (size_t)(end - at)), *equals;
    char name[256];
    if (stop == NULL || (equals = memchr(at, '=', (size_t)(stop - at))) == NULL || equals == at ||
        (size_t)(equals - at) >= sizeof name)
      return mch_error_set(error, MCH_PROTOCOL, "a variable of the environment has no name");
    memcpy(name, at, (size_t)(equals - at));
    name[equals - at] = '\0';
    if (setenv(name, equals + 1, 1) != 0)
      return mch_error_system(error, "a variable of the environment cannot be set");
    at = stop + 1;
  }
  return 0;
}

static int configure(void *ud, const struct mch_hosts_config *said,
                     struct mch_engine_config *engine, struct mch_error *error) {
  enum { MEMORY_SLACK = 64 * 1024 * 1024 };
  struct lsupervisor *self = ud;
  struct mch_ltask *task = &self->task;
  int warned = enter_folder(said, engine, error), code;
  if (warned != 0 && warned != MCH_FULL)
    return warned;
  if ((code = set_environment(said, warned == 0 ? error : NULL)) != 0)
    return code;
  unsetenv("MANTICHORA_HOSTS"); /* pools that tasks make are of this machine */
  task->seed = (lua_Integer)said->seed;
  task->memory = (size_t)said->limit_memory;
  if (task->memory > 0)
    engine->limit_memory = task->memory + MEMORY_SLACK;
  task->hides_bars = said->bars == 0;
  task->heap.nworkers = (int)said->slots;
  if (said->setup_length > 0) {
    mch_buf_append(&self->setup, said->setup, said->setup_length);
    if (self->setup.failed != 0)
      return mch_error_set(error, MCH_NOMEM, "not enough memory for a worker's setup");
    task->has_init = said->has_init != 0;
    task->has_fini = said->has_fini != 0;
    task->setup = self->setup.data;
    task->setup_length = self->setup.length;
  }
  engine->runner = mch_ltask_runner(task);
  return warned;
}

static int put_code(void *ud, uint32_t id, const void *bytes, size_t length) {
  struct mch_dictionary *codes = &((struct lsupervisor *)ud)->task.codes;
  if (length > 0)
    return mch_dictionary_put(codes, id, bytes, length);
  mch_dictionary_forget(codes, id);
  return 0;
}

static const void *get_code(void *ud, uint32_t id, size_t *length) {
  return mch_dictionary_get(&((struct lsupervisor *)ud)->task.codes, id, length);
}

/* -- the command line --------------------------------------------------------------------- */

static void print_usage(FILE *to) {
  fputs("usage: mantichora worker --stdio [--slots N]\n"
        "       mantichora worker amqps://USER@HOST/VHOST [--slots N]\n"
        "Serve the pools of scripts on other machines, which start it by the option `hosts`.\n"
        "  --stdio     by standard input and output, until these end. Nothing is listened on\n"
        "  --slots N   run so many tasks at a time at most (default: the machine's CPUs)\n"
        "  --help      show this text\n"
        "See the manual's chapter about many machines.\n",
        to);
}

static int complain(const char *word) {
  fprintf(stderr, "mantichora worker: '%s' is not understood\n", word);
  print_usage(stderr);
  return 255;
}

static int serve(unsigned slots, int slots_fd) {
  static struct lsupervisor self; /* outlives all, as the process does */
  struct mch_link_serve_config how = {slots_fd};
  struct mch_supervisor_config config = {0};
  struct mch_error error;
  char format[MCH_LTASK_FORMAT], host[256] = "";
  int sockets[2];
  config.link = mch_link_serve(&how, &error);
  if (config.link == NULL) {
    fprintf(stderr, "mantichora worker: %s\n", error.text);
    return 71;
  }
  if (mch_question_sockets(sockets) != 0 || begin_state(&self, sockets[1]) != 0)
    return 71;
  gethostname(host, sizeof host - 1);
  mch_ltask_format(format);
  config.output = self.task.output;
  config.program = MANTICHORA_VERSION;
  config.format = format;
  config.host = host;
  config.slots = slots;
  config.configure = configure;
  config.put_code = put_code;
  config.get_code = get_code;
  config.ud = &self;
  config.asks = sockets[0];
  return mch_supervisor_run(&config);
}

/* A number from `least` to `most`; -1: it is none. */
static int number_of(const char *word, int least, int most) {
  char *end;
  unsigned long number = strtoul(word, &end, 10);
  return *end == '\0' && number >= (unsigned long)least && number <= (unsigned long)most
             ? (int)number
             : -1;
}

int mch_lsupervisor_main(int count, char **words) {
  int slots = 0, slots_fd = -1, stdio = 0, i;
  for (i = 1; i < count; i++) {
    if (strcmp(words[i], "--help") == 0) {
      print_usage(stdout);
      return 0;
    }
    if (strcmp(words[i], "--stdio") == 0)
      stdio = 1;
    else if (strcmp(words[i], "--slots") == 0 && i + 1 < count) {
      if ((slots = number_of(words[++i], 1, MCH_HOSTS_SLOTS)) < 0)
        return complain(words[i]);
    } else if (strcmp(words[i], "--slots-from") == 0 && i + 1 < count) { /* by a fleet's agent */
      if ((slots_fd = number_of(words[++i], 3, 1024)) < 0)
        return complain(words[i]);
    } else
      return complain(words[i]);
  }
  if (!stdio) {
    print_usage(stderr);
    return 255;
  }
  return serve((unsigned)slots, slots_fd);
}
