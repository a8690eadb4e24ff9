/* runtime/engine_fork: the pool's side of a worker, with the test as its worker: no fork, the whole
 * protocol spoken by hand, at any point of it and wrongly too. */
#include "runtime/engines/fork_state.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "check.h"
#include "runtime/base/gate.h"
#include "runtime/pool/pool.h"
#include "runtime/wire/facts.h"

/* -- the pool's part ---------------------------------------------------------------------- */

enum { MOST = 2 * MCH_CLAIMS, MORE = MCH_CLAIMS + 50 };

static struct {
  struct mch_task *finished[MOST], *returned[MOST];
  struct mch_result *results[MOST];
  size_t finished_count, returned_count, log_count;
} told;

static void on_finished(void *ud, struct mch_task *task, struct mch_result *result) {
  (void)ud;
  told.results[told.finished_count] = result;
  told.finished[told.finished_count++] = task;
}
static void on_returned(void *ud, struct mch_task *task) {
  (void)ud;
  told.returned[told.returned_count++] = task;
}
static void on_log(void *ud, const unsigned char *graph, size_t length) {
  (void)ud, (void)graph, (void)length;
  told.log_count++;
}
static void no_lock(void *ud) {
  (void)ud;
}
static int no_code; /* the dictionary has run out of memory */
static const void *get_code(void *ud, uint32_t id, size_t *length) {
  (void)ud, (void)id;
  *length = 4;
  return no_code ? NULL : "code";
}

static void forget(void) {
  size_t i;
  for (i = 0; i < told.finished_count; i++)
    mch_result_free(told.results[i]);
  memset(&told, 0, sizeof told);
}

/* What tasks have printed. */
static char printed[2][1 << 20];
static size_t printed_count[2];
static ssize_t on_write(void *ud, int fd, const void *bytes, size_t count) {
  (void)ud;
  memcpy(printed[fd - 1] + printed_count[fd - 1], bytes, count);
  printed_count[fd - 1] += count;
  return (ssize_t)count;
}

static struct engine_fork *new_engine(unsigned nworkers) {
  struct mch_engine_config config;
  struct mch_output_config output;
  struct engine_fork *engine;
  memset(&config, 0, sizeof config);
  memset(&output, 0, sizeof output);
  output.write = on_write;
  config.nworkers = nworkers;
  config.grace = 500000000u;
  config.output = mch_output_new(&output, NULL);
  config.runner.format = "test";
  config.events.finished = on_finished;
  config.events.returned = on_returned;
  config.events.log = on_log;
  config.events.unlock = config.events.lock = no_lock;
  config.codes = (struct mch_codes){NULL, get_code};
  engine = (struct engine_fork *)mch_engine_fork_new(&config, NULL);
  mch_output_unref(config.output);
  engine->started = 1;
  printed_count[0] = printed_count[1] = 0;
  return engine;
}

/* When the engine wants to be pumped; where ends of processes cannot be watched it looks for them
 * from time to time, which is not counted here. */
static uint64_t watched_until(struct engine_fork *engine) {
  uint64_t until = engine->base.ops->deadline(&engine->base);
#if defined(MANTICHORA_PORTABLE)
  uint64_t now = mch_now();
  if (until > now && until <= now + unwatched_check)
    until = MCH_NEVER;
#endif
  return until;
}

/* -- the worker's part -------------------------------------------------------------------- */

struct peer {
  struct mch_channel channel;
  int out[2]; /* write ends */
  struct child *child;
};

/* Stand for a worker as a process, as long as the test lives (its end of `alive` is never closed).
 */
static int alive[2];
static void sleep_with_test(void) {
  char byte;
  int i;
  setpgid(0, 0);
  for (i = 0; i < 200; i++)
    if (i != alive[0])
      close(i);
  while (read(alive[0], &byte, 1) < 0)
    ;
  _exit(0);
}

/* A worker whose words are the test's. */
static void hire(struct engine_fork *engine, struct peer *peer) {
  struct plumbing plumbing;
  struct child *child = calloc(1, sizeof *child);
  child->shared = mch_platform_share(sizeof *child->shared);
  child->engine = engine;
  child->kill_at = child->insist_at = MCH_NEVER;
  child->never_ran = 1;
  CHECK(mch_spawn_make_plumbing(&plumbing, NULL) == 0);
  memset(peer, 0, sizeof *peer);
  mch_channel_open(&peer->channel, dup(plumbing.sockets[1]));
  mch_channel_use_rings(&peer->channel, &child->shared->down, &child->shared->up);
  peer->out[0] = dup(plumbing.out[1]);
  peer->out[1] = dup(plumbing.err[1]);
  peer->child = child;
  child->pid = fork();
  if (child->pid == 0)
    sleep_with_test();
  CHECK(mch_spawn_adopt(child, &plumbing) == 0);
}

static void leave(struct peer *peer) {
  mch_channel_close(&peer->channel);
  close(peer->out[0]);
  close(peer->out[1]);
}

static void say(struct peer *peer, uint8_t type, uint32_t ticket, uint64_t runid, const void *body,
                size_t length) {
  struct mch_message_head head = {type, 0, ticket, runid};
  CHECK(mch_channel_put(&peer->channel, &head, body, length, NULL) == 0);
  CHECK(mch_channel_flush(&peer->channel, 1, NULL) == 0);
}

/* The next message from the pool; its type, 0 for none. */
static int hear(struct peer *peer, struct mch_message_in *message) {
  int got = mch_channel_next(&peer->channel, message, NULL);
  if (got == 0 && mch_channel_fill(&peer->channel, 0, NULL) > 0)
    got = mch_channel_next(&peer->channel, message, NULL);
  return got == 1 ? message->head.type : 0;
}

static int take(struct peer *peer, uint32_t ticket) {
  uint64_t offered = (uint64_t)ticket << 2 | MCH_CLAIM_OFFERED;
  return atomic_compare_exchange_strong(&peer->child->shared->claims[ticket % MCH_CLAIMS], &offered,
                                        (uint64_t)ticket << 2 | MCH_CLAIM_TAKEN);
}

static void answer(struct peer *peer, uint32_t ticket, uint64_t runid, uint64_t out, uint64_t err) {
  struct mch_facts facts = {.kind = MCH_KIND_OK, .stdout_position = out, .stderr_position = err};
  unsigned char bytes[MCH_FACTS_SIZE];
  mch_facts_store(&facts, bytes);
  say(peer, MCH_MESSAGE_RESULT, ticket, runid, bytes, sizeof bytes);
}

static void end_all(struct engine_fork *engine) {
  struct mch_ready ready[8];
  uint64_t patience = mch_now() + 5000000000u;
  engine->base.ops->quit(&engine->base, 1);
  while (!engine->base.ops->gone(&engine->base) && mch_now() < patience) {
    mch_poller_wait(engine->base.poller, ready, 8, mch_now() + 10000000u, NULL);
    engine->base.ops->pump(&engine->base, 1, 0);
  }
  CHECK(engine->base.ops->gone(&engine->base));
  CHECK(engine->live == 0);
  forget();
  engine->base.ops->free(&engine->base);
}

static struct mch_task *new_task(uint64_t runid, uint32_t codes) {
  uint32_t ids[300] = {0}, i;
  struct mch_task *task;
  for (i = 0; i < codes; i++)
    ids[i] = i + 1;
  task = mch_task_new(ids, codes, "graph", 5);
  task->runid = runid;
  return task;
}

static int give(struct engine_fork *engine, struct mch_task *task) {
  int code = engine->base.ops->submit(&engine->base, task, 1, NULL);
  engine->base.ops->flush(&engine->base);
  return code;
}

static void pump_now(struct engine_fork *engine) {
  engine->base.ops->pump(&engine->base, 1, 0);
}

static int has_ended(const struct engine_fork *engine) {
  return engine->children == NULL ||
         (engine->children->next == NULL && engine->children->state == ENDED);
}

/* Pump until the one worker has been buried. */
static void pump_to_end(struct engine_fork *engine) {
  uint64_t patience = mch_now() + 5000000000u;
  struct mch_ready ready[8];
  while (!has_ended(engine) && mch_now() < patience) {
    uint64_t due = engine->base.ops->deadline(&engine->base);
    mch_poller_wait(engine->base.poller, ready, 8, due < patience ? due : patience, NULL);
    pump_now(engine);
  }
  CHECK(has_ended(engine));
}

/* -- the cases ---------------------------------------------------------------------------- */

static void test_a_task(void) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *task = new_task(7, 2);
  struct mch_message_in message;
  struct peer peer;
  hire(engine, &peer);
  CHECK(give(engine, task) == 0 && task->ticket == 1);
  CHECK(hear(&peer, &message) == MCH_MESSAGE_CODE && message.head.runid == 1);
  CHECK(hear(&peer, &message) == MCH_MESSAGE_CODE && message.head.runid == 2);
  CHECK(hear(&peer, &message) == MCH_MESSAGE_TASK && message.head.runid == 7);
  CHECK(message.length == 8 && memcmp(message.body, "\0\0\0graph", 8) == 0);
  CHECK(hear(&peer, &message) == 0);
  CHECK(engine->base.ops->running(&engine->base, NULL, NULL) == 0);
  CHECK(take(&peer, 1));
  CHECK(engine->base.ops->running(&engine->base, NULL, NULL) == 1);
  CHECK(write(peer.out[0], "one\ntw", 6) == 6);
  answer(&peer, 1, 7, 6, 0);
  CHECK(write(peer.out[0], "next\n", 5) == 5); /* the next task's */
  pump_now(engine);
  CHECK(told.finished_count == 1 && told.finished[0] == task);
  CHECK(told.results[0]->kind == MCH_KIND_OK && told.results[0]->pid == peer.child->pid);
  mch_output_flush(engine->config.output);
  CHECK(printed_count[0] == 12 && memcmp(printed[0], "one\ntw\nnext\n", 12) == 0);
  mch_task_free(task);
  /* The worker has the code by now. */
  task = new_task(8, 2);
  CHECK(give(engine, task) == 0);
  CHECK(hear(&peer, &message) == MCH_MESSAGE_TASK);
  leave(&peer);
  end_all(engine);
  mch_task_free(task);
}

/* What a worker may not say: it is killed, and its task ends. */
static void test_broken_worker(void) {
  static const struct {
    uint8_t type;
    uint32_t ticket;
    uint64_t runid;
    size_t length;
  } wrong[] = {{MCH_MESSAGE_RESULT, 1, 7, MCH_FACTS_SIZE - 1},
               {MCH_MESSAGE_RESULT, 2, 7, MCH_FACTS_SIZE},
               {MCH_MESSAGE_RESULT, 1, 8, MCH_FACTS_SIZE},
               {MCH_MESSAGE_RESULT, 129, 7, MCH_FACTS_SIZE},
               {MCH_MESSAGE_TASK, 1, 7, 10},
               {MCH_MESSAGE_QUIT, 0, 0, 0},
               {MCH_MESSAGE_CODE, 0, 1, 4},
               {MCH_MESSAGE_BAR_START, 1, 7, 19},
               {MCH_MESSAGE_BAR_UPDATE, 1, 7, 23},
               {MCH_MESSAGE_BAR_END, 1, 7, 24},
               {MCH_MESSAGE_EXIT, 1, 7, 3},
               {MCH_MESSAGE_HELLO, 0, 0, 11},
               {MCH_MESSAGE_HELLO, 0, 0, 12}};
  static const unsigned char zeros[64];
  size_t i;
  for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    struct engine_fork *engine = new_engine(1);
    struct mch_task *task = new_task(7, 0);
    struct peer peer;
    hire(engine, &peer);
    CHECK(give(engine, task) == 0);
    CHECK(take(&peer, 1));
    say(&peer, wrong[i].type, wrong[i].ticket, wrong[i].runid, zeros, wrong[i].length);
    pump_to_end(engine);
    if (told.finished_count != 1)
      fprintf(stderr, "case %zu\n", i);
    CHECK(told.finished_count == 1 && told.finished[0] == task);
    CHECK(told.finished_count == 1 && told.results[0]->kind == MCH_KIND_KILLED);
    leave(&peer);
    end_all(engine);
    mch_task_free(task);
  }
}

/* A worker dies with some tasks answered, one begun, and some ahead. */
static void test_death(int how) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *tasks[5];
  struct peer peer;
  uint64_t i;
  unsigned char status[4];
  hire(engine, &peer);
  for (i = 0; i < 5; i++) {
    tasks[i] = new_task(i, 0);
    CHECK(give(engine, tasks[i]) == 0);
  }
  CHECK(take(&peer, 1));
  answer(&peer, 1, 0, 0, 0);
  if (how == 1)
    pump_now(engine); /* the answer is taken before `passed` tells of it */
  else
    atomic_store(&peer.child->shared->passed, 1);
  CHECK(take(&peer, 2));
  CHECK(write(peer.out[1], "last wor", 8) == 8);
  if (how == 2) {
    mch_store_u32(status, 7);
    say(&peer, MCH_MESSAGE_EXIT, 2, 1, status, 4);
  }
  if (how == 3) { /* in the middle of an answer */
    struct mch_message_head head = {MCH_MESSAGE_RESULT, 0, 2, 1};
    mch_channel_put(&peer.channel, &head, status, 4, NULL);
    peer.channel.out.length -= 2;
    mch_channel_flush(&peer.channel, 1, NULL);
  }
  if (how == 4)
    leave(&peer); /* its stream ends, its process lives on */
  else
    kill(peer.child->pid, SIGTERM);
  pump_to_end(engine);
  CHECK(told.finished_count == 2 && told.finished[0] == tasks[0] && told.finished[1] == tasks[1]);
  CHECK(told.results[1]->kind == (how == 2 ? MCH_KIND_EXITED : MCH_KIND_KILLED));
  CHECK(how != 2 || told.results[1]->exitcode == 7);
  CHECK(how == 2 || told.results[1]->signal == (how == 4 ? SIGKILL : SIGTERM));
  CHECK(told.returned_count == 3);
  for (i = 0; i < 3; i++)
    CHECK(told.returned[i] == tasks[4 - i]);
  mch_output_flush(engine->config.output);
  CHECK(printed_count[1] == 9 && memcmp(printed[1], "last wor\n", 9) == 0);
  if (how != 4)
    leave(&peer);
  end_all(engine);
  for (i = 0; i < 5; i++)
    mch_task_free(tasks[i]);
}

/* All tickets are out although the worker has nothing: the pool looks again soon, by itself. */
static void test_full_ring(void) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *task = new_task(0, 0), *more[MORE];
  struct peer peer;
  uint64_t i, given = 0;
  hire(engine, &peer);
  CHECK(give(engine, task) == 0);
  CHECK(take(&peer, 1));
  for (i = 0; i < MORE; i++) {
    more[i] = new_task(i + 1, 0);
    more[i]->priority = -1;
    if (give(engine, more[i]) == 0)
      given++;
    engine->base.ops->recall(&engine->base, 0);
  }
  CHECK(given == MCH_CLAIMS - 2 && told.returned_count == given);
  answer(&peer, 1, 0, 0, 0);
  pump_now(engine);
  CHECK(told.finished_count == 1);
  CHECK(give(engine, more[MORE - 1]) == MCH_FULL);
  CHECK(engine->base.ops->deadline(&engine->base) < mch_now() + 10000000u);
  atomic_store(&peer.child->shared->passed, peer.child->last_ticket);
  pump_now(engine);
  CHECK(give(engine, more[MORE - 1]) == 0);
  CHECK(watched_until(engine) > mch_now() + 50000000u);
  leave(&peer);
  end_all(engine);
  mch_task_free(task);
  for (i = 0; i < MORE; i++)
    mch_task_free(more[i]);
}

/* The 2^32nd task of a worker: no ticket is 0, which means none. */
static void test_tickets_wrap(void) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *tasks[6];
  struct mch_message_in message;
  struct peer peer;
  uint64_t i;
  hire(engine, &peer);
  peer.child->last_ticket = UINT32_MAX - 2;
  atomic_store(&peer.child->shared->passed, UINT32_MAX - 2);
  peer.child->passed = UINT32_MAX - 2;
  for (i = 0; i < 6; i++) {
    tasks[i] = new_task(i, 0);
    CHECK(give(engine, tasks[i]) == 0 && tasks[i]->ticket != 0);
  }
  for (i = 0; i < 6; i++) {
    CHECK(hear(&peer, &message) == MCH_MESSAGE_TASK && message.head.runid == i);
    CHECK(take(&peer, message.head.ticket));
    CHECK(mch_child_begun(peer.child) == tasks[i]);
    answer(&peer, message.head.ticket, i, 0, 0);
    atomic_store(&peer.child->shared->passed, message.head.ticket);
    pump_now(engine);
    CHECK(told.finished_count == i + 1 && mch_child_begun(peer.child) == NULL);
  }
  leave(&peer);
  end_all(engine);
  for (i = 0; i < 6; i++)
    mch_task_free(tasks[i]);
}

/* A stop that comes in time, one that comes too late, and the grace. */
static void test_stop(void) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *tasks[3];
  struct peer peer;
  uint64_t i;
  hire(engine, &peer);
  for (i = 0; i < 3; i++) {
    tasks[i] = new_task(i, 0);
    tasks[i]->stop = MCH_KIND_CANCELLED;
    CHECK(give(engine, tasks[i]) == 0);
  }
  CHECK(take(&peer, 1));
  engine->base.ops->stop(&engine->base, tasks[1]);
  CHECK(told.finished_count == 1 && told.results[0]->kind == MCH_KIND_CANCELLED);
  CHECK(!take(&peer, 2)); /* provably never starts */
  engine->base.ops->stop(&engine->base, tasks[0]);
  CHECK(atomic_load(&peer.child->shared->orders.stop) == 1 && peer.child->kill_at != MCH_NEVER);
  CHECK(peer.child->insist_at < peer.child->kill_at);
  mch_time_check_time(peer.child, peer.child->insist_at - 1);
  CHECK(atomic_load(&peer.child->shared->orders.insist) == 0);
  mch_time_check_time(peer.child, peer.child->insist_at);
  CHECK(atomic_load(&peer.child->shared->orders.insist) == 1 && peer.child->insist_at == MCH_NEVER);
  answer(&peer, 1, 0, 0, 0);
  pump_now(engine);
  CHECK(told.finished_count == 2 && told.results[1]->kind == MCH_KIND_CANCELLED);
  CHECK(peer.child->kill_at == MCH_NEVER); /* the worker is not to blame any more */
  atomic_store(&peer.child->shared->passed, 2);
  CHECK(take(&peer, 3));
  peer.child->engine->config.grace = 0;
  engine->base.ops->stop(&engine->base, tasks[2]);
  pump_to_end(engine);
  CHECK(told.finished_count == 3 && told.results[2]->kind == MCH_KIND_CANCELLED);
  leave(&peer);
  end_all(engine);
  for (i = 0; i < 3; i++)
    mch_task_free(tasks[i]);
}

/* No memory while a task was sent: that task fails, later ones do not. */
/* A task that is told to stop keeps being told so, though the one before it, whose answer is not
 * read yet, is stopped after it; `is_first`: before it. */
static void test_stop_of_two(int is_first) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *tasks[2];
  struct peer peer;
  uint64_t kill_at;
  int i;
  hire(engine, &peer);
  for (i = 0; i < 2; i++) {
    tasks[i] = new_task((uint64_t)i, 0);
    tasks[i]->stop = MCH_KIND_CANCELLED;
    CHECK(give(engine, tasks[i]) == 0);
  }
  CHECK(take(&peer, 1));
  if (is_first)
    engine->base.ops->stop(&engine->base, tasks[0]);
  answer(&peer, 1, 0, 0, 0);
  CHECK(take(&peer, 2));
  engine->base.ops->stop(&engine->base, tasks[1]);
  kill_at = peer.child->kill_at;
  if (!is_first)
    engine->base.ops->stop(&engine->base, tasks[0]);
  CHECK(atomic_load(&peer.child->shared->orders.stop) == 2);
  pump_now(engine);
  CHECK(told.finished_count == 1 && told.results[0]->kind == MCH_KIND_CANCELLED);
  CHECK(kill_at != MCH_NEVER && peer.child->kill_at == kill_at);
  answer(&peer, 2, 1, 0, 0);
  pump_now(engine);
  CHECK(told.finished_count == 2 && peer.child->kill_at == MCH_NEVER);
  leave(&peer);
  end_all(engine);
  for (i = 0; i < 2; i++)
    mch_task_free(tasks[i]);
}

static void test_no_memory(void) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *task = new_task(0, 3);
  struct mch_message_in message;
  struct mch_error error;
  struct peer peer;
  hire(engine, &peer);
  peer.child->codes.maximum = 4; /* room for one id */
  CHECK(engine->base.ops->submit(&engine->base, task, 1, &error) == MCH_NOMEM);
  CHECK(peer.child->outstanding == 0 && peer.child->last_ticket == 0);
  peer.child->codes.maximum = 0;
  CHECK(give(engine, task) == 0);
  while (hear(&peer, &message) == MCH_MESSAGE_CODE)
    ;
  CHECK(message.head.type == MCH_MESSAGE_TASK);
  leave(&peer);
  end_all(engine);
  mch_task_free(task);
}

/* The last that waits at a busy worker goes to one that has nothing, and the next to the next. */
static void test_steal(void) {
  struct engine_fork *engine = new_engine(2);
  struct mch_task *tasks[9];
  struct peer busy, idle;
  uint64_t i;
  hire(engine, &busy);
  for (i = 0; i < 9; i++) {
    tasks[i] = new_task(i, 0);
    CHECK(give(engine, tasks[i]) == 0);
  }
  CHECK(take(&busy, 1));
  CHECK(take(&busy, 2));
  hire(engine, &idle);
  engine->base.ops->pump(&engine->base, 1, 5); /* others wait: no need */
  CHECK(told.returned_count == 0);
  pump_now(engine);
  CHECK(told.returned_count == 1 && told.returned[0] == tasks[8]);
  CHECK(give(engine, tasks[8]) == 0);
  CHECK(idle.child->outstanding == 1 && busy.child->outstanding == 8);
  CHECK(take(&idle, 1));
  answer(&idle, 1, 8, 0, 0);
  pump_now(engine);
  CHECK(told.returned_count == 2 && told.returned[1] == tasks[7]);
  CHECK(give(engine, tasks[7]) == 0);
  CHECK(idle.child->outstanding == 1 && busy.child->outstanding == 7);
  leave(&busy);
  leave(&idle);
  end_all(engine);
  for (i = 0; i < 9; i++)
    mch_task_free(tasks[i]);
}

/* What comes back does not wait behind a later one, which may take long; what was sent ahead behind
 * that comes back, too. A more urgent one is an earlier one. */
static void test_order(int32_t priority) {
  struct engine_fork *engine = new_engine(2);
  struct mch_task *early = new_task(priority > 0 ? 9 : 1, 0), *later[3];
  struct mch_error error;
  struct peer one, other;
  uint64_t i;
  early->priority = priority;
  hire(engine, &one);
  hire(engine, &other);
  for (i = 0; i < 3; i++) {
    later[i] = new_task(5 + i, 0);
    CHECK(give(engine, later[i]) == 0);
  }
  CHECK(one.child->outstanding + other.child->outstanding == 3);
  CHECK(take(&one, 1) && take(&other, 1));
  CHECK(engine->base.ops->submit(&engine->base, early, 1, &error) == MCH_FULL);
  CHECK(told.returned_count == 1 && told.returned[0] == later[2]);
  CHECK(one.child->outstanding == 1 && other.child->outstanding == 1);
  answer(&other, 1, other.child->offered[1]->runid, 0, 0);
  pump_now(engine);
  CHECK(give(engine, early) == 0 && other.child->outstanding == 1);
  CHECK(give(engine, later[2]) == 0);
  leave(&one);
  leave(&other);
  end_all(engine);
  mch_task_free(early);
  for (i = 0; i < 3; i++)
    mch_task_free(later[i]);
}

/* Output to the position, however it comes in; a position that nobody knows: all there is. */
static void test_positions(void) {
  struct engine_fork *engine = new_engine(1);
  struct mch_task *tasks[3];
  struct peer peer;
  uint64_t i;
  hire(engine, &peer);
  for (i = 0; i < 3; i++) {
    tasks[i] = new_task(i, 0);
    CHECK(give(engine, tasks[i]) == 0);
  }
  CHECK(take(&peer, 1));
  CHECK(write(peer.out[0], "a\nbc", 4) == 4);
  pump_now(engine);
  CHECK(write(peer.out[0], "de", 2) == 2);
  answer(&peer, 1, 0, 5, 0); /* "d" is its own, "e" the next one's */
  CHECK(take(&peer, 2));
  CHECK(write(peer.out[0], "f", 1) == 1);
  answer(&peer, 2, 1, MCH_POSITION_UNKNOWN, MCH_POSITION_UNKNOWN);
  CHECK(take(&peer, 3));
  CHECK(write(peer.out[0], "g", 1) == 1);
  pump_now(engine);
  mch_output_flush(engine->config.output);
  /* The third's "g" was there when the second was settled. */
  CHECK(printed_count[0] == 10 && memcmp(printed[0], "a\nbcd\nefg\n", 10) == 0);
  answer(&peer, 3, 2, 7, 0); /* behind what was taken: nothing more */
  pump_now(engine);
  CHECK(told.finished_count == 3 && printed_count[0] == 10);
  leave(&peer);
  end_all(engine);
  for (i = 0; i < 3; i++)
    mch_task_free(tasks[i]);
}

/* Programs that have a worker's pipes are heard after its end, but not of ever more workers. */
/* The part of a line that was searched for its end is not read again: nobody may, meanwhile. */
static void test_long_line(void) {
  enum { STEP = 32 * 1024, STEPS = 256, PAGE = 64 * 1024 };
  struct stream stream = {0};
  unsigned char *from, bytes[STEP];
  size_t i, before;
  memset(bytes, 'x', sizeof bytes);
  CHECK(mch_buf_reserve(&stream.raw, (STEPS + 4) * STEP) == 0);
  from = stream.raw.data + (PAGE - (uintptr_t)stream.raw.data % PAGE);
  for (i = 0; i < STEPS; i++) {
    size_t end = stream.raw.data + stream.searched > from
                     ? (size_t)(stream.raw.data + stream.searched - from) / PAGE * PAGE
                     : 0;
    mch_buf_append(&stream.raw, bytes, sizeof bytes);
    CHECK(end == 0 || mprotect(from, end, PROT_NONE) == 0);
    before = stream.searched;
    CHECK(mch_hear_whole_lines(&stream, mch_buf_unread(&stream.raw)) == 0);
    CHECK(end == 0 || mprotect(from, end, PROT_READ | PROT_WRITE) == 0);
    CHECK(stream.searched == before + STEP);
  }
  CHECK(mch_hear_whole_lines(&stream, STEP) == 0 && stream.searched == STEPS * STEP);
  mch_buf_append(&stream.raw, "y\nz", 3);
  CHECK(mch_hear_whole_lines(&stream, mch_buf_unread(&stream.raw)) == STEPS * STEP + 2);
  mch_buf_free(&stream.raw);
}

static void test_late_output(void) {
  struct engine_fork *engine = new_engine(1);
  struct peer peers[MOST_HEARD + 2];
  struct child *child;
  size_t i, count = 0;
  int fds[2];
  for (i = 0; i < MOST_HEARD + 2; i++) {
    hire(engine, &peers[i]);
    mch_channel_close(&peers[i].channel);
    kill(peers[i].child->pid, SIGKILL);
    while (peers[i].child->state != ENDED)
      pump_now(engine);
  }
  for (child = engine->children; child != NULL; child = child->next)
    count++;
  CHECK(count == MOST_HEARD && engine->live == 0);
  mch_fork_visit_all(engine, mch_now()); /* as when a time is up that was theirs */
  CHECK(engine->base.ops->deadline(&engine->base) == MCH_NEVER);
  i = MOST_HEARD + 1;
  CHECK(write(peers[i].out[0], "late\n", 5) == 5);
  CHECK(write(peers[i].out[1], "la", 2) == 2);
  pump_now(engine);
  mch_output_flush(engine->config.output);
  CHECK(printed_count[0] == 5 && printed_count[1] == 0);
  CHECK(write(peers[i].out[1], "st", 2) == 2);
  close(peers[i].out[0]);
  close(peers[i].out[1]);
  for (count = 0; count < 3; count++)
    pump_now(engine);
  mch_output_flush(engine->config.output);
  CHECK(printed_count[1] == 5 && memcmp(printed[1], "last\n", 5) == 0);
  CHECK(mch_platform_pipe(fds, NULL) == 0);
  peers[i].out[0] = fds[0];
  peers[i].out[1] = fds[1];
  for (i = 0; i < MOST_HEARD + 2; i++)
    leave(&peers[i]);
  end_all(engine);
}

/* -- time-outs ---------------------------------------------------------------------------- */

static void nothing(void *ud) {
  (void)ud;
}
static int lazy_setup(void *ud) {
  (void)ud;
  return 0;
}

static void begin_nothing(void *ud, struct mch_worker *worker) {
  (void)ud, (void)worker;
}
static enum mch_kind run_nothing(void *ud, struct mch_run *run, struct mch_buf *answer) {
  (void)ud, (void)run, (void)answer;
  return MCH_KIND_OK;
}
static void no_bytecode(void *ud, uint32_t id, const unsigned char *bytes, size_t length) {
  (void)ud, (void)id, (void)bytes, (void)length;
}

/* Whoever sees that a worker has begun a task sees the time of that one, not of the one before:
 * that one's time-out would be over at once. */
static void test_begun_when(void) {
  struct engine_fork *engine = new_engine(1);
  uint64_t i, patience = mch_now() + 20000000000u, stale = 0;
  engine->config.runner =
      (struct mch_runner){NULL,    lazy_setup, begin_nothing, run_nothing, no_bytecode,
                          nothing, NULL,       nothing,       NULL,        "test"};
  CHECK(engine->base.ops->start(&engine->base, NULL) == 0);
  for (i = 0; i < 2000 && mch_now() < patience; i++) {
    struct mch_task *task = new_task(i, 0);
    struct child *child = engine->children;
    uint64_t before = mch_now();
    told.finished_count = 0;
    while (give(engine, task) == MCH_FULL && mch_now() < patience)
      pump_now(engine);
    while (!mch_child_is_taken(child, task->ticket) && mch_now() < patience)
      ;
    stale += atomic_load(&child->shared->running_since) < before;
    while (told.finished_count == 0 && mch_now() < patience)
      pump_now(engine);
    CHECK(told.finished_count == 1 && told.results[0]->kind == MCH_KIND_OK);
    mch_result_free(told.results[0]);
    mch_task_free(task);
  }
  CHECK(i == 2000 && stale == 0);
  told.finished_count = 0;
  end_all(engine);
}

static uint64_t begun_meanwhile; /* the worker has ended one item then and begun the next */
static struct child *of_child;
static struct mch_task *cut_off;
static void on_split(void *ud, struct mch_task *batch, struct mch_task *rest, int stays) {
  (void)ud, (void)batch, (void)stays;
  cut_off = rest;
  if (begun_meanwhile != 0)
    atomic_store(&of_child->shared->running_since, begun_meanwhile);
}

static void on_failed(void *ud, struct mch_task *batch, struct mch_result *result) {
  (void)ud;
  batch->batch->answered++;
  mch_result_free(result);
}
static void on_batch_over(void *ud, struct mch_task *batch, uint64_t elapsed) {
  (void)ud, (void)elapsed;
  CHECK(batch->batch->answered == 1);
}

/* An item is stopped when it runs too long, and not in the place of the one before, which ended
 * while it was looked at. */
static void test_timeout_of_items(int is_other) {
  unsigned char items[3 * 5];
  struct engine_fork *engine = new_engine(1);
  struct mch_task *task;
  struct peer peer;
  uint64_t since = mch_now(), due;
  memset(items, 0, sizeof items);
  items[0] = items[5] = items[10] = 1;
  task = mch_batch_new(NULL, 0, items, sizeof items, 0, 3, 1);
  task->runid = 7;
  hire(engine, &peer);
  engine->config.timeout = 1000000000u;
  engine->config.events.split = on_split;
  engine->config.events.failed = on_failed;
  engine->config.events.batch_over = on_batch_over;
  engine->timeouts = 1;
  of_child = peer.child;
  cut_off = NULL;
  CHECK(give(engine, task) == 0);
  atomic_store(&peer.child->shared->items, mch_items_word(1, 3, 0));
  atomic_store(&peer.child->shared->running_since, since);
  CHECK(take(&peer, 1));
  atomic_fetch_add(&peer.child->shared->items, 1);
  due = mch_time_timeout_at(peer.child);
  CHECK(due == since + engine->config.timeout);
  CHECK(engine->base.ops->deadline(&engine->base) <= mch_now() + engine->config.timeout);
  mch_fork_visit_all(engine, mch_now());
#if !defined(MANTICHORA_PORTABLE) /* there it looks sooner */
  CHECK(engine->base.ops->deadline(&engine->base) == due);
#endif
  mch_time_check_time(peer.child, due - 1);
  CHECK(task->stop == 0 && task->batch->count == 3);
  begun_meanwhile = is_other ? due - 5 : 0;
  mch_time_check_time(peer.child, due);
  CHECK(task->batch->count == 1 && cut_off != NULL && cut_off->batch->count == 2);
  CHECK(task->stop == (is_other ? 0 : MCH_KIND_TIMEOUT));
  CHECK(atomic_load(&peer.child->shared->orders.stop) == (is_other ? 0 : 1));
  leave(&peer);
  end_all(engine);
  mch_task_free(cut_off);
  mch_task_free(task);
}

/* -- many workers ------------------------------------------------------------------------- */

static size_t length_of(struct child *first, enum membership kind) {
  size_t count = 0;
  for (; first != NULL; first = first->links[kind].next)
    count++;
  return count;
}

/* The load of the worker that is to be chosen, by looking at all. */
static unsigned least_load(const struct engine_fork *engine) {
  const struct child *child;
  unsigned least = UINT32_MAX;
  for (child = engine->children; child != NULL; child = child->next)
    if (mch_feed_has_room(engine, child) && child->outstanding < least)
      least = child->outstanding;
  return least;
}

/* The next task of this worker, which is begun and answered; 0: it has none. */
static int work(struct peer *peer) {
  struct mch_message_in message;
  int type;
  while ((type = hear(peer, &message)) != 0) {
    uint32_t ticket = message.head.ticket;
    uint64_t runid = message.head.runid;
    int taken;
    if (type != MCH_MESSAGE_TASK)
      continue;
    taken = take(peer, ticket);
    if (taken)
      answer(peer, ticket, runid, 0, 0);
    atomic_store(&peer->child->shared->passed, ticket);
    if (taken)
      return 1;
  }
  return 0;
}

/* Whatever happens, the least loaded one is chosen; and those that say nothing are left alone. */
static void test_many_workers(uint32_t random) {
  enum { PEERS = 6, STEPS = 400 };
  struct engine_fork *engine = new_engine(PEERS);
  static struct mch_task *tasks[STEPS];
  struct peer peers[PEERS];
  size_t i, made = 0, back = 0, over = 0;
  int busy;
  for (i = 0; i < PEERS; i++)
    hire(engine, &peers[i]);
  for (i = 0; i < STEPS; i++) {
    random = random * 1664525u + 1013904223u;
    if ((random >> 8) % 3 == 0) {
      work(&peers[(random >> 16) % PEERS]);
      pump_now(engine);
    } else if ((random >> 8) % 29 == 1) {
      mch_feed_recall(&engine->base, 1);
    } else {
      unsigned least = least_load(engine);
      struct mch_task *task = tasks[made++] = new_task(i, 0);
      CHECK((give(engine, task) == 0) == (least != UINT32_MAX));
      CHECK(task->holder != NULL && ((struct child *)task->holder)->outstanding == least + 1);
    }
    over += told.finished_count;
    for (; told.returned_count > 0; back++)
      CHECK(told.returned[--told.returned_count]->holder == NULL);
    forget();
  }
  do { /* all of them: one that has yet to pass over a ticket stays awake */
    for (busy = 0, i = 0; i < PEERS; i++)
      busy |= work(&peers[i]);
    pump_now(engine);
    busy |= engine->awake != NULL;
    engine->base.ops->deadline(&engine->base);
    over += told.finished_count;
    back += told.returned_count;
    forget();
  } while (busy);
  CHECK(made == over + back);
  engine->look = 0; /* it was set while there were tasks; a look finds nothing */
  pump_now(engine);
  CHECK(watched_until(engine) == MCH_NEVER);
  CHECK(engine->awake == NULL && engine->unsent == NULL && engine->batches == 0);
  CHECK(length_of(engine->open[0], LOAD) + length_of(engine->out_of_tickets, LOAD) == PEERS);
  give(engine, tasks[0]);
  pump_now(engine);
  CHECK(length_of(engine->awake, AWAKE) == 1);
  CHECK(engine->awake == tasks[0]->holder);
  for (i = 0; i < PEERS; i++)
    leave(&peers[i]);
  end_all(engine);
  for (i = 0; i < made; i++)
    mch_task_free(tasks[i]);
}

/* -- answers of items in a row ------------------------------------------------------------ */

static struct {
  uint32_t one, many, failed;
  enum mch_kind kind;
  unsigned char last; /* byte of the last record */
} answers;

static void on_answered(void *ud, struct mch_task *batch, const unsigned char *graph, size_t length,
                        const struct mch_course *course) {
  (void)ud, (void)course;
  answers.one++;
  answers.last = graph[length - 1];
  batch->batch->answered++;
}
static void on_answered_many(void *ud, struct mch_task *batch, const unsigned char *records,
                             size_t length, uint32_t count, const struct mch_course *course) {
  (void)ud, (void)course;
  answers.many += count;
  answers.last = records[length - 1];
  batch->batch->answered += count;
}
static void on_item_failed(void *ud, struct mch_task *batch, struct mch_result *result) {
  (void)ud;
  answers.failed++;
  answers.kind = result->kind;
  batch->batch->answered++;
  mch_result_free(result);
}
static void on_over(void *ud, struct mch_task *batch, uint64_t elapsed) {
  (void)ud, (void)batch, (void)elapsed;
}
static void drop_rest(void *ud, struct mch_task *batch, struct mch_task *rest, int stays) {
  (void)ud, (void)batch, (void)stays;
  mch_task_free(rest);
}

/* A worker that has taken a batch of `count` items and begun `begun_items` of them. */
static struct engine_fork *begin_batch(struct peer *peer, struct mch_task **task, uint32_t count,
                                       uint32_t begun_items) {
  struct engine_fork *engine = new_engine(1);
  unsigned char *items = calloc(count, 4);
  memset(&answers, 0, sizeof answers);
  *task = mch_batch_new(NULL, 0, items, 4 * (size_t)count, 0, count, 1);
  (*task)->runid = 7;
  free(items);
  hire(engine, peer);
  engine->config.events.answered = on_answered;
  engine->config.events.answered_many = on_answered_many;
  engine->config.events.failed = on_item_failed;
  engine->config.events.split = drop_rest;
  engine->config.events.batch_over = on_over;
  CHECK(give(engine, *task) == 0);
  atomic_store(&peer->child->shared->items, mch_items_word(1, count, begun_items));
  CHECK(take(peer, 1));
  return engine;
}

static void say_record(struct peer *peer, uint32_t ticket, uint64_t runid, const char *record) {
  struct mch_message_head head = {MCH_MESSAGE_ITEMS, 0, ticket, runid};
  CHECK(mch_channel_put_record(&peer->channel, &head, record, strlen(record), NULL) == 0);
  CHECK(mch_channel_flush(&peer->channel, 1, NULL) == 0);
}

static void test_items(void) {
  static const unsigned char single[] = {3, 0, 0, 0, MCH_ITEM_OK, 'x'};
  struct mch_task *task;
  struct peer peer;
  struct engine_fork *engine = begin_batch(&peer, &task, 6, 6);
  say_record(&peer, 1, 7, "a");
  say_record(&peer, 1, 8, "bb");
  pump_now(engine);
  CHECK(answers.many == 2 && answers.last == 'b');
  say_record(&peer, 1, 9, "c");
  say(&peer, MCH_MESSAGE_ITEM, 1, 10, single, sizeof single);
  say_record(&peer, 1, 11, "d");
  pump_now(engine);
  CHECK(answers.many == 4 && answers.one == 1 && answers.last == 'd');
  CHECK(peer.child->tasks == 5);
  say_record(&peer, 1, 12, "e");
  pump_now(engine);
  CHECK(answers.many == 5 && task->batch->answered == 6 && answers.failed == 0);
  leave(&peer);
  end_all(engine);
  mch_task_free(task);
}

/* The item that was stopped is the last one, and fails whatever it answers. */
static void test_stopped_item(void) {
  struct mch_task *task;
  struct peer peer;
  struct engine_fork *engine = begin_batch(&peer, &task, 6, 3);
  task->stop = MCH_KIND_CANCELLED;
  engine->base.ops->stop(&engine->base, task);
  CHECK(task->batch->count == 3 && task->stop == MCH_KIND_CANCELLED);
  say_record(&peer, 1, 7, "a");
  say_record(&peer, 1, 8, "b");
  say_record(&peer, 1, 9, "c");
  pump_now(engine);
  CHECK(answers.many == 2 && answers.last == 'b');
  CHECK(answers.failed == 1 && answers.kind == MCH_KIND_CANCELLED && task->stop == 0);
  CHECK(peer.child->kill_at == MCH_NEVER);
  leave(&peer);
  end_all(engine);
  mch_task_free(task);
}

/* A death loses the item that ran, whose answer has come in part. */
static void test_death_between_records(void) {
  struct mch_task *task;
  struct peer peer;
  struct engine_fork *engine = begin_batch(&peer, &task, 6, 3);
  say_record(&peer, 1, 7, "a");
  say_record(&peer, 1, 8, "b");
  CHECK(mch_ring_write(peer.channel.ring_out, "\5part", 5) == 5);
  kill(peer.child->pid, SIGKILL);
  leave(&peer);
  pump_to_end(engine);
  CHECK(answers.many == 2 && answers.failed == 1 && answers.kind == MCH_KIND_KILLED);
  CHECK(task->batch->count == 3);
  end_all(engine);
  mch_task_free(task);
}

/* What a worker may not say of items. Both had begun, and neither is begun again. */
static void test_broken_items(void) {
  int wrong;
  for (wrong = 0; wrong < 4; wrong++) {
    struct mch_task *task;
    struct peer peer;
    struct engine_fork *engine = begin_batch(&peer, &task, 2, 2);
    if (wrong == 0)
      say_record(&peer, 1, 8, "not the next one");
    else if (wrong == 1)
      say_record(&peer, 2, 7, "of no batch");
    else if (wrong == 2)
      say_record(&peer, 1 + MCH_CLAIMS, 7, "of another time");
    else {
      say_record(&peer, 1, 7, "a");
      say_record(&peer, 1, 8, "b");
      say_record(&peer, 1, 9, "one too many");
    }
    pump_to_end(engine);
    CHECK(has_ended(engine) && answers.one == 0 && answers.many == 0);
    CHECK(answers.failed == 2 && answers.kind == MCH_KIND_KILLED);
    leave(&peer);
    end_all(engine);
    mch_task_free(task);
  }
}

/* A fork of the host's, while a thread of ours is at work: the new process can fork workers. */
static void test_foreign_fork(void) {
  pid_t pid;
  int status = -1;
  mch_gate_hold_off();
  pid = fork();
  if (pid == 0) {
    alarm(10);
    mch_gate_close();
    mch_gate_open();
    _exit(0);
  }
  mch_gate_let_go();
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void) {
  uint32_t random;
  int how;
  CHECK(mch_platform_pipe(alive, NULL) == 0);
  test_a_task();
  test_broken_worker();
  for (how = 0; how < 5; how++)
    test_death(how);
  test_full_ring();
  test_tickets_wrap();
  test_stop();
  test_stop_of_two(0);
  test_stop_of_two(1);
  test_no_memory();
  test_steal();
  test_order(0);
  test_order(1);
  test_positions();
  test_long_line();
  test_late_output();
  test_begun_when();
  test_timeout_of_items(0);
  test_timeout_of_items(1);
  for (random = 1; random <= 20; random++)
    test_many_workers(random);
  test_items();
  test_stopped_item();
  test_death_between_records();
  test_broken_items();
  test_foreign_fork();
  return check_report();
}
