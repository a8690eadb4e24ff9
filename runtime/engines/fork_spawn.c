/* Runs in: parent, then hands over to worker.c in the child.
 *
 * The one place that makes workers: what is made before (pipes, shared memory), the child's way
 * from the fork to its task loop, and the parent's way to listening to it. */
#define _POSIX_C_SOURCE 200809L
#include "fork_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/chaos.h"
#include "runtime/base/error.h"
#include "runtime/base/gate.h"
#include "runtime/base/platform.h"
#include "runtime/base/process.h"
#include "runtime/base/tricks.h"
#include "runtime/show/output.h"
#include "runtime/wire/protocol.h"
#include "task.h"
#include "worker.h"

static const uint64_t lazy_setup_delay = 20000000u; /* without a task it sets itself up then */

/* -- pipes and sockets -------------------------------------------------------------------- */

static void close_pair(int fds[2]) {
  if (fds[0] >= 0)
    close(fds[0]);
  if (fds[1] >= 0)
    close(fds[1]);
  fds[0] = fds[1] = -1;
}

static void close_plumbing(struct plumbing *plumbing) {
  close_pair(plumbing->sockets);
  close_pair(plumbing->out);
  close_pair(plumbing->err);
  close_pair(plumbing->life);
  if (plumbing->begun >= 0)
    close(plumbing->begun);
  plumbing->begun = -1;
}

int mch_spawn_make_plumbing(struct plumbing *plumbing, struct mch_error *error) {
  int code;
  memset(plumbing, -1, sizeof *plumbing);
  if ((code = mch_platform_socketpair(plumbing->sockets, error)) != 0 ||
      (code = mch_platform_pipe(plumbing->out, error)) != 0 ||
      (code = mch_platform_pipe(plumbing->err, error)) != 0 ||
      (code = mch_platform_pipe(plumbing->life, error)) != 0 ||
      (code = mch_platform_mark_open(&plumbing->begun, error)) != 0) {
    close_plumbing(plumbing);
    return code;
  }
  mch_platform_nonblocking(plumbing->out[0]);
  mch_platform_nonblocking(plumbing->err[0]);
  plumbing->owner = getpid();
  return 0;
}

/* -- the child ---------------------------------------------------------------------------- */

/* Close what belongs to the pool: its ends to other workers (else their ends of stream are lost on
 * it) and its poller. */
static void child_close_pools(struct engine_fork *engine) {
  struct child *child;
  for (child = engine->children; child != NULL; child = child->next) {
    close(child->channel.fd);
    close(child->lifeline);
    if (child->streams[0].fd >= 0)
      close(child->streams[0].fd);
    if (child->streams[1].fd >= 0)
      close(child->streams[1].fd);
    if (child->watch >= 0)
      close(child->watch);
    if (child->begun >= 0)
      close(child->begun);
    if (!child->unforked)
      mch_platform_unshare(child->shared, sizeof *child->shared);
    child->shared = NULL;
  }
  mch_poller_disown(engine->base.poller);
}

/* `joined`: both streams go into the first pipe, in the order of their writes. */
static void child_set_stdio(const struct plumbing *plumbing, int joined) {
  int null = open("/dev/null", O_RDONLY);
  if (null >= 0) {
    dup2(null, 0); /* nothing happens when it is 0 already: so without O_CLOEXEC */
    if (null > 2)
      close(null);
  }
  dup2(plumbing->out[1], 1);
  dup2(joined ? plumbing->out[1] : plumbing->err[1], 2);
  if (!mch_process_stdin_is_lost())
    clearerr(stdin);
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  setvbuf(stderr, NULL, _IONBF, 0);
}

/* Most workers of a pool that lives for moments only are never asked for anything: until there is a
 * message or some time has passed no more is set up. All signals are blocked so long; and nobody
 * waits for the ends of other workers' streams that this one has yet to close. */
static void child_wait_to_be_asked(int socket) {
  mch_platform_await(&socket, 1, mch_now() + lazy_setup_delay, NULL);
  if (mch_platform_stream_ended(socket))
    _exit(0);
}

/* The child's way from the fork to its task loop. What is undone here, in this order, and why:
 *  1. group: of its own, so that a terminal's Ctrl-C and Ctrl-Z reach the parent only, and so that
 *     it can be killed together with what it starts;
 *  2. lifeline: from here on it does not outlive the parent;
 *  3. handlers: a worker must not run the host's (print its summary, reset its terminal);
 *  4. the pool's descriptors: else this process keeps other workers' streams open;
 *  5. stdio: stdin empty, stdout and stderr into the pipes; nothing buffered of the parent's;
 *  6. signal mask: empty;
 *  7. the outer worker's descriptors, when this is a worker's worker;
 *  8. the gate, should the C library not know what is to be done with it.
 * Random state, pools, os.exit and finalizers are Lua's: the runner's `begin` sees to them. */
static void child_main(const struct child *self, struct plumbing *plumbing,
                       const struct mch_task *only, int joined) __attribute__((noreturn));
static void child_main(const struct child *self, struct plumbing *plumbing,
                       const struct mch_task *only, int joined) {
  struct engine_fork *engine = self->engine;
  struct mch_worker *worker;
  setpgid(0, 0);
  close(plumbing->life[1]);
  if (mch_platform_lifeline(plumbing->life[0], plumbing->owner) != 0)
    _exit(71);
  close(plumbing->sockets[0]);
  if (self->lazy_setup)
    child_wait_to_be_asked(plumbing->sockets[1]);
  mch_process_reset_signals();
  child_close_pools(engine);
  close(plumbing->out[0]);
  close(plumbing->err[0]);
  mch_platform_limit(engine->config.limit_memory, engine->config.limit_cpu,
                     engine->config.limit_files);
  mch_platform_purge_stdio();
  child_set_stdio(plumbing, joined);
  mch_process_unblock_signals();
  if (engine->config.self != NULL)
    mch_worker_disown(engine->config.self);
  mch_gate_open_copied();
  worker = calloc(1, sizeof *worker);
  if (worker == NULL)
    _exit(71);
  mch_channel_open(&worker->channel, plumbing->sockets[1]);
  mch_channel_use_rings(&worker->channel, &self->shared->down, &self->shared->up);
  worker->shared = self->shared;
  worker->begun = plumbing->begun;
  mch_platform_protect(self->shared->down.bytes,
                       sizeof *self->shared - offsetof(struct mch_shared, down.bytes));
  worker->only = only;
  worker->max_memory = only == NULL ? engine->config.max_memory_per_worker : 0;
  worker->chaos = mch_chaos_split(&engine->chaos, engine->forks);
  worker->lifeline = plumbing->life[0];
  worker->owner = plumbing->owner;
  worker->pipes[0] = plumbing->out[1];
  worker->pipes[1] = plumbing->err[1];
  worker->runner = engine->config.runner;
  if (engine->config.child_hook != NULL)
    engine->config.child_hook(engine->config.child_hook_ud);
  mch_worker_main(worker);
}

/* -- the parent --------------------------------------------------------------------------- */

static int watch(struct child *child, size_t index, int fd, unsigned bit) {
  child->sources[index].child = child;
  child->sources[index].bit = bit;
  return mch_poller_add(child->engine->base.poller, fd, &child->sources[index]);
}

/* The least number that no living worker has; there are at most as many as MOST_SLOTS. */
static unsigned free_slot(const struct engine_fork *engine) {
  unsigned char taken[MOST_SLOTS] = {0};
  const struct child *child;
  unsigned slot = 1;
  for (child = engine->children; child != NULL; child = child->next)
    if (child->state == LIVE && child->slot < MOST_SLOTS)
      taken[child->slot] = 1;
  while (slot < MOST_SLOTS - 1 && taken[slot])
    slot++;
  return slot;
}

/* Count what this slot works from now on. */
static void count_slot(struct engine_fork *engine, unsigned slot) {
  if (slot > engine->slot_room) {
    size_t room = 2 * slot;
    uint64_t *worked = realloc(engine->worked, room * sizeof *worked);
    if (worked == NULL)
      return;
    engine->worked = worked;
    engine->slot_room = room;
  }
  while (engine->slots < slot)
    engine->worked[engine->slots++] = 0;
}

/* The parent's side of a fresh worker. 0, or -1: it cannot be listened to. */
int mch_spawn_adopt(struct child *child, struct plumbing *plumbing) {
  struct engine_fork *engine = child->engine;
  int deaf;
  setpgid(child->pid, child->pid); /* both do it, so that it is done for both */
  close(plumbing->sockets[1]);
  close(plumbing->out[1]);
  close(plumbing->err[1]);
  close(plumbing->life[0]);
  mch_channel_open(&child->channel, plumbing->sockets[0]);
  mch_channel_use_rings(&child->channel, &child->shared->up, &child->shared->down);
  child->channel.chaos = &engine->chaos;
  child->streams[0].fd = plumbing->out[0];
  child->streams[1].fd = plumbing->err[0];
  child->lifeline = plumbing->life[1];
  child->begun = plumbing->begun;
  child->watch = mch_platform_watch_process(child->pid);
  deaf = watch(child, 0, child->channel.fd, CHANNEL) != 0 ||
         watch(child, 1, child->streams[0].fd, STDOUT) != 0 ||
         watch(child, 2, child->streams[1].fd, STDERR) != 0;
  if (child->watch >= 0 && watch(child, 3, child->watch, PROCESS) != 0) {
    close(child->watch);
    child->watch = -1; /* looked at from time to time instead */
  }
  child->unforked = mch_platform_keep_from_forks(child->shared, sizeof *child->shared);
  child->slot = free_slot(engine);
  count_slot(engine, child->slot);
  if (engine->first_fork == 0)
    engine->first_fork = child->forked;
  child->next = engine->children;
  engine->children = child;
  engine->live++;
  mch_child_wake(child);
  if (child->watch < 0)
    mch_child_look_at(engine, mch_now() + unwatched_check);
  return deaf ? -1 : 0;
}

/* A worker that came to nothing goes, as one that has left; its task was never its own. */
static int disown(struct child *child, struct mch_task *only, struct mch_error *error) {
  int code = mch_error_system(error, "cannot watch a worker");
  if (only != NULL)
    mch_child_settle(child, only);
  mch_child_kill_now(child);
  child->state = LEAVING;
  child->engine->live--;
  mch_child_wake(child);
  return code;
}

/* Chaos makes it fail at times, but only while there are workers: so the promise stands. */
static pid_t fork_now(struct engine_fork *engine) {
  if (engine->live > 0 && mch_chaos_strikes(&engine->chaos)) {
    errno = EAGAIN;
    return -1;
  }
  return mch_process_fork();
}

int mch_spawn_fork_worker(struct engine_fork *engine, struct mch_task *only, int lazy_setup,
                          struct mch_error *error) {
  struct plumbing plumbing;
  struct child *child = calloc(1, sizeof *child);
  int code, joined;
  if (child == NULL)
    return mch_error_set(error, MCH_NOMEM, "cannot start a worker: not enough memory");
  child->shared = mch_platform_share(sizeof *child->shared);
  if (child->shared == NULL) {
    free(child);
    return mch_error_set(error, MCH_NOMEM, "cannot start a worker: not enough memory");
  }
  if ((code = mch_spawn_make_plumbing(&plumbing, error)) != 0) {
    mch_platform_unshare(child->shared, sizeof *child->shared);
    free(child);
    return code;
  }
  child->engine = engine;
  child->kill_at = child->insist_at = MCH_NEVER;
  child->begun = -1;
  child->forked = mch_now();
  child->never_ran = 1;
  child->eager = engine->config.runner.eager(engine->config.runner.ud);
  child->lazy_setup = lazy_setup && !child->eager && engine->config.runner.end == NULL &&
                      !mch_without(MCH_TRICK_LAZY);
  atomic_store(&child->shared->orders.log_threshold, engine->log_level);
  atomic_store(&child->shared->orders.listening, (uint32_t)engine->listening);
  atomic_store(&child->shared->down.reader_sleeps,
               1); /* one that defers its set-up must be woken by a bell */
  if (only != NULL)
    mch_feed_book(child, only);
  joined = mch_output_is_joined(engine->config.output);
  mch_platform_flush_streams();
  engine->forks++;
  child->pid = fork_now(engine);
  if (child->pid == 0)
    child_main(child, &plumbing, only, joined);
  if (child->pid < 0) {
    code = mch_error_system(error, "cannot start a worker");
    if (only != NULL)
      only->holder = NULL;
    close_plumbing(&plumbing);
    mch_platform_unshare(child->shared, sizeof *child->shared);
    free(child);
    return code;
  }
  code = mch_spawn_adopt(child, &plumbing);
  mch_child_tell(child, NULL);
  return code == 0 ? 0 : disown(child, only, error);
}

/* -- how many ----------------------------------------------------------------------------- */

/* How many workers there shall be now. */
unsigned mch_spawn_wanted(const struct engine_fork *engine) {
  return engine->base.frugal ? 1 : engine->config.nworkers;
}

/* Fork up to the number of workers. 0 when at least one lives. */
static int fork_missing(struct engine_fork *engine, size_t queued, struct mch_error *error) {
  int code = 0;
  while (code == 0 && engine->live < mch_spawn_wanted(engine))
    code = mch_spawn_fork_worker(engine, NULL, queued == 0, error);
  engine->fork_again = code == 0 ? 0 : mch_now() + fork_retry;
  return engine->live > 0 ? 0 : code;
}

/* Workers that ended are replaced; after one that did not live to its first task only for a task.
 */
int mch_spawn_short_of_workers(struct mch_engine *base, size_t queued) {
  struct engine_fork *engine = (struct engine_fork *)base;
  return engine->started && !engine->quitting && engine->live < mch_spawn_wanted(engine) &&
         mch_now() >= engine->fork_again &&
         ((!engine->died_idle && !engine->config.snapshot) || queued > 0);
}

int mch_spawn_add(struct mch_engine *base, size_t queued, struct mch_error *error) {
  struct engine_fork *engine = (struct engine_fork *)base;
  engine->died_idle = 0;
  return engine->config.snapshot ? 0 : fork_missing(engine, queued, error);
}
