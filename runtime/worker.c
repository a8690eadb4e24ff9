/* Runs in: child only. Purpose: worker.h. */
#include "worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "platform.h"

enum { EXIT_POOL_GONE = 0, EXIT_BROKEN = 70 };

/* -- saying ------------------------------------------------------------------------------- */

/* A worker whose pool has gone has nobody to tell. Its streams are dropped unflushed: the pipes
 * behind them have gone too, and writing to them would raise SIGPIPE. */
static void die(int status) __attribute__((noreturn));
static void die(int status) {
  _exit(status);
}

static void put(struct mch_worker *worker, enum mch_message type, const void *first,
                size_t first_length, const void *second, size_t second_length) {
  struct mch_message_head head = {(uint8_t)type, worker->attempt, worker->ticket, worker->runid};
  if (mch_channel_put2(&worker->channel, &head, first, first_length, second, second_length, NULL) !=
      0)
    die(EXIT_BROKEN);
}

/* The same with a graph and the spans that belong into it, which are not copied: to be flushed
 * before anything becomes of them. */
static void put_answer(struct mch_worker *worker, enum mch_message type, const void *facts,
                       size_t facts_length, const struct mch_buf *graph) {
  struct mch_message_head head = {(uint8_t)type, worker->attempt, worker->ticket, worker->runid};
  struct mch_body body = mch_body_of(graph, &worker->spans);
  if (mch_channel_put_body(&worker->channel, &head, facts, facts_length, &body, NULL, NULL) != 0)
    die(EXIT_BROKEN);
}

static void flush(struct mch_worker *worker) {
  if (mch_channel_flush(&worker->channel, 1, NULL) != 0)
    die(EXIT_POOL_GONE);
}

static void say(struct mch_worker *worker, enum mch_message type, const void *first,
                size_t first_length, const void *second, size_t second_length) {
  put(worker, type, first, first_length, second, second_length);
  flush(worker);
}

/* It goes with what is said next: nobody waits for it. */
static void put_hello(struct mch_worker *worker) {
  unsigned char fixed[8];
  const char *format = worker->runner.format;
  mch_store_u32(fixed, MCH_PROTOCOL_VERSION);
  mch_store_u32(fixed + 4, (uint32_t)worker->pid);
  put(worker, MCH_MESSAGE_HELLO, fixed, sizeof fixed, format, strlen(format));
}

void mch_worker_log(struct mch_worker *worker, const void *graph, size_t length) {
  mch_chaos_busy(&worker->chaos);
  say(worker, MCH_MESSAGE_LOG, graph, length, NULL, 0);
}

int mch_worker_send_ahead(struct mch_worker *worker, const void *piece, size_t length) {
  struct mch_message_head head = {MCH_MESSAGE_AHEAD, worker->attempt, worker->ticket,
                                  worker->runid};
  mch_chaos_busy(&worker->chaos);
  if (mch_channel_put(&worker->channel, &head, piece, length, NULL) != 0)
    return 0;
  if (mch_channel_flush(&worker->channel, 0, NULL) != 0)
    die(EXIT_POOL_GONE);
  return 1;
}

void mch_worker_forget_task(struct mch_worker *worker) {
  if (worker->forgettable)
    mch_channel_forget(&worker->channel);
}

int mch_worker_log_threshold(const struct mch_worker *worker) {
  return atomic_load_explicit(&worker->shared->log_threshold, memory_order_relaxed);
}

void mch_worker_leave(struct mch_worker *worker, int status) {
  unsigned char bytes[4];
  if (worker->leaving)
    _exit(status);
  worker->leaving = 1;
  mch_platform_flush_streams();
  mch_chaos_idle(&worker->chaos);
  mch_store_u32(bytes, (uint32_t)status);
  say(worker, MCH_MESSAGE_EXIT, bytes, sizeof bytes, NULL, 0);
  mch_chaos_idle(&worker->chaos);
  _exit(status);
}

/* -- running ------------------------------------------------------------------------------ */

/* The bytes in pipe `which`; notes how fast a system call can be. */
static long ask_unread(struct mch_worker *worker, int which) {
  uint64_t start = mch_now(), took;
  long unread = mch_platform_unread(worker->pipes[which]);
  took = mch_now() - start;
  if (took < worker->fastest_ask || worker->fastest_ask == 0)
    worker->fastest_ask = took;
  return unread;
}

/* Bytes that ever went into pipe `which`: what the pool took plus what is still in it. The pool
 * marks the moments in which the two numbers do not fit together. */
static uint64_t position(struct mch_worker *worker, int which) {
  struct mch_shared *shared = worker->shared;
  int tries;
  for (tries = 0; tries < 2000; tries++) {
    uint32_t before = atomic_load(&shared->reading[which]);
    uint64_t consumed = atomic_load(&shared->consumed[which]);
    long unread = ask_unread(worker, which);
    if (unread < 0)
      return MCH_POSITION_UNKNOWN;
    if ((before & 1) == 0 && atomic_load(&shared->reading[which]) == before)
      return consumed + (uint64_t)unread;
    if (tries < 100)
      sched_yield();
    else { /* the pool was stopped or lost its processor in the middle */
      struct timespec moment = {0, 500000};
      nanosleep(&moment, NULL);
    }
  }
  return MCH_POSITION_UNKNOWN;
}

/* Whether a task has surely written nothing: it had less time for it, by half, than the fastest
 * system call takes. Spares the short ones the question, which takes longer than they do. */
static int was_silent(const struct mch_worker *worker, uint64_t own_time) {
  return own_time < worker->fastest_ask / 2 && !mch_platform_stdout_pending();
}

static void find_positions(struct mch_worker *worker) {
  int which, warm;
  fflush(stdout);
  fflush(stderr);
  for (warm = worker->fastest_ask == 0 ? 16 : 0; warm > 0; warm--)
    ask_unread(worker, 0);
  for (which = 0; which < 2; which++)
    worker->told[which] = position(worker, which);
}

/* Chaos: this worker dies with a part of its answer sent. */
static void tear(struct mch_worker *worker) {
  uint64_t part = mch_chaos_number(&worker->chaos.fate);
  mch_channel_tear(&worker->channel, (size_t)(part % mch_channel_unsent(&worker->channel)));
  mch_channel_flush(&worker->channel, 1, NULL);
  mch_chaos_die();
}

/* The largest size so far; short tasks are not worth a system call each. */
static uint64_t maxrss_after(struct mch_worker *worker, uint64_t elapsed) {
  if (elapsed > 500000u || worker->maxrss_age++ % 64 == 0)
    worker->maxrss = mch_platform_maxrss();
  return worker->maxrss;
}

static void put_facts(struct mch_worker *worker, enum mch_kind kind, uint64_t elapsed,
                      unsigned char *facts) {
  facts[0] = (unsigned char)kind;
  mch_store_u64(facts + 1, elapsed);
  mch_store_u64(facts + 9, maxrss_after(worker, elapsed));
  mch_store_u64(facts + 17, worker->told[0]);
  mch_store_u64(facts + 25, worker->told[1]);
}

static void send_answer(struct mch_worker *worker) {
  if (mch_chaos_dooms(&worker->chaos))
    tear(worker);
  flush(worker);
}

static void answer(struct mch_worker *worker, enum mch_kind kind, uint64_t elapsed,
                   uint64_t own_time, const struct mch_buf *graph) {
  unsigned char facts[MCH_FACTS_SIZE];
  if (!was_silent(worker, own_time))
    find_positions(worker);
  mch_chaos_busy(&worker->chaos);
  put_facts(worker, kind, elapsed, facts);
  put_answer(worker, MCH_MESSAGE_RESULT, facts, sizeof facts, graph);
  send_answer(worker);
}

/* Answer with all facts, after a question where the streams are. */
static void answer_item(struct mch_worker *worker, uint32_t number, enum mch_kind kind,
                        uint64_t elapsed, const struct mch_buf *graph) {
  unsigned char head[4 + MCH_FACTS_SIZE];
  find_positions(worker);
  mch_store_u32(head, number);
  put_facts(worker, kind, elapsed, head + 4);
  put_answer(worker, MCH_MESSAGE_ITEM, head, sizeof head, graph);
  send_answer(worker);
}

/* The answer of an item that is OK and has written nothing. Whether that took no time worth a look
 * at the clock. */
static int answer_silent_item(struct mch_worker *worker, uint32_t number,
                              const struct mch_buf *graph) {
  struct mch_message_head head = {MCH_MESSAGE_ITEMS, worker->attempt, worker->ticket,
                                  worker->runid};
  unsigned char front[4 + 1];
  if (graph->length - 1 < MCH_RECORD_MAX && worker->spans.length == 0) {
    if (mch_channel_put_record(&worker->channel, &head, graph->data, graph->length, NULL) != 0)
      die(EXIT_BROKEN);
    if (mch_channel_unsent(&worker->channel) == 0)
      return 1;
  } else {
    mch_store_u32(front, number);
    front[4] = MCH_ITEM_OK;
    put_answer(worker, MCH_MESSAGE_ITEM, front, sizeof front, graph);
  }
  send_answer(worker);
  return 0;
}

/* Whether the task of `ticket` is ours now; it is not if the pool took it back. */
static int claim(struct mch_worker *worker, uint32_t ticket) {
  uint64_t offered = (uint64_t)ticket << 2 | MCH_CLAIM_OFFERED;
  return atomic_compare_exchange_strong(&worker->shared->claims[ticket % MCH_CLAIMS], &offered,
                                        (uint64_t)ticket << 2 | MCH_CLAIM_TAKEN);
}

/* Between tasks. One that was stopped does not leave programs behind, which would run on or, when
 * their pipes are closed, be waited for: this group ends, and the pool makes another worker. */
static void rest(struct mch_worker *worker, uint32_t ticket, struct mch_buf *graph) {
  if (atomic_load(&worker->shared->stop) == ticket && mch_platform_has_children())
    kill(0, SIGKILL);
  worker->ticket = 0;
  mch_chaos_idle(&worker->chaos);
  worker->runner.calm(worker->runner.ud);
  if (graph->capacity > 1u << 20)
    mch_buf_free(graph);
}

static void clear_answer(struct mch_worker *worker, struct mch_buf *graph) {
  mch_buf_clear(graph);
  mch_buf_clear(&worker->spans);
}

/* Whatever is begun next began at this time. It is said before it is begun: the pool, which finds
 * out first that a task is begun, must never judge it by the time of the one before. */
static void say_since(struct mch_worker *worker, uint64_t start) {
  atomic_store_explicit(&worker->shared->running_since, start, memory_order_release);
}

/* Pass on what the pool wants of the task or item that runs, or of `init`. For signal handlers too.
 */
static void heed(struct mch_worker *worker) {
  uint32_t stop = atomic_load(&worker->shared->stop);
  if (!worker->preparing && (worker->ticket == 0 || stop != worker->ticket))
    return;
  worker->runner.interrupt(worker->runner.ud);
  if (stop != 0 && atomic_load(&worker->shared->insist) == stop && worker->runner.insist != NULL)
    worker->runner.insist(worker->runner.ud);
}

/* The task or item of this ticket runs from here on: the signal handler interrupts it, and a stop
 * that came before is seen here. */
static void enter(struct mch_worker *worker, uint32_t ticket, struct mch_buf *graph) {
  worker->ticket = ticket;
  heed(worker);
  clear_answer(worker, graph);
}

/* Run a task of this ticket and answer, if it was not taken back. */
static void run(struct mch_worker *worker, uint32_t ticket, uint16_t attempt, struct mch_run *task,
                struct mch_buf *graph) {
  enum mch_kind kind;
  uint64_t start = mch_now();
  mch_chaos_idle(&worker->chaos);
  say_since(worker, start);
  if (!claim(worker, ticket))
    return;
  mch_chaos_begin_task(&worker->chaos, task->runid, attempt);
  mch_chaos_busy(&worker->chaos);
  worker->runid = task->runid;
  worker->attempt = attempt;
  enter(worker, ticket, graph);
  kind = worker->runner.run(worker->runner.ud, task, graph);
  answer(worker, kind, mch_now() - start, task->own_time, graph);
  rest(worker, ticket, graph);
}

/* -- batches ------------------------------------------------------------------------------ */

/* A batch on its way: where the next item is; NULL: there was no memory for them. */
struct items {
  const unsigned char *at, *end;
};

static struct items parse_batch(const struct mch_message_in *message, struct mch_run *run,
                                uint32_t *count) {
  struct items items = {message->body, message->body + message->length};
  if (message->length < 8)
    die(EXIT_BROKEN);
  *count = mch_load_u32(items.at);
  run->function_length = mch_load_u32(items.at + 4);
  items.at += 8;
  run->function = items.at;
  if (message->lost) {
    items.at = NULL;
    return items;
  }
  if (*count > MCH_BATCH_MOST || run->function_length > (size_t)(items.end - items.at))
    die(EXIT_BROKEN);
  items.at += run->function_length;
  return items;
}

static void next_item(struct items *items, struct mch_run *run) {
  if (items->at == NULL)
    return;
  if (items->end - items->at < 4)
    die(EXIT_BROKEN);
  run->length = mch_load_u32(items->at);
  run->graph = items->at + 4;
  if (run->length > (size_t)(items->end - run->graph))
    die(EXIT_BROKEN);
  items->at = run->graph + run->length;
}

/* Begin the next item of the batch, at `start`: its number, or -1 when the others are not ours any
 * more. */
static int32_t claim_item(struct mch_worker *worker, uint64_t start) {
  struct mch_shared *shared = worker->shared;
  uint64_t word = atomic_load(&shared->items);
  say_since(worker, start);
  do
    if (mch_items_next(word) >= mch_items_limit(word))
      return -1;
  while (!atomic_compare_exchange_weak(&shared->items, &word, word + 1));
  return (int32_t)mch_items_next(word);
}

/* After an item that took so long that it may have written, so many are timed more precisely. */
enum { PRECISE_ITEMS = 16 };

/* Run one item and answer; returns when it ended. */
static uint64_t run_item(struct mch_worker *worker, uint32_t ticket, uint32_t number,
                         uint64_t start, struct mch_run *run, struct mch_buf *graph) {
  enum mch_kind kind;
  mch_chaos_begin_task(&worker->chaos, run->runid, 0);
  mch_chaos_busy(&worker->chaos);
  worker->runid = run->runid;
  run->began = start;
  worker->runner.calm(worker->runner.ud);
  enter(worker, ticket, graph);
  kind = worker->runner.run(worker->runner.ud, run, graph);
  mch_chaos_busy(&worker->chaos);
  if (kind == MCH_KIND_OK && was_silent(worker, run->own_time)) {
    run->precise -= run->precise > 0;
    return answer_silent_item(worker, number, graph) ? run->ended : mch_now();
  }
  run->precise = PRECISE_ITEMS;
  answer_item(worker, number, kind, run->ended - start, graph);
  return mch_now();
}

/* Run the items of a batch as long as they are ours, and answer with a last word: what was not
 * begun until then never is. The item that is stopped is the last one, since the pool takes back
 * those behind it first. */
static void run_batch(struct mch_worker *worker, const struct mch_message_in *message,
                      struct mch_buf *graph) {
  uint32_t ticket = message->head.ticket, count;
  struct mch_run run;
  struct items items;
  uint64_t start, now;
  int32_t number;
  memset(&run, 0, sizeof run);
  run.name = "";
  items = parse_batch(message, &run, &count);
  mch_chaos_idle(&worker->chaos);
  atomic_store(&worker->shared->items, mch_items_word(ticket, count, 0));
  start = now = mch_now();
  say_since(worker, start);
  if (!claim(worker, ticket))
    return;
  worker->attempt = 0;
  worker->ticket = ticket; /* all its items may have been taken back by now */
  run.first = 1;
  while (!worker->spent && (number = claim_item(worker, now)) >= 0) {
    next_item(&items, &run);
    run.runid = message->head.runid + (uint32_t)number;
    now = run_item(worker, ticket, (uint32_t)number, now, &run, graph);
    run.first = 0;
  }
  worker->runid = message->head.runid;
  clear_answer(worker, graph);
  answer(worker, MCH_KIND_OK, now - start, 0, graph);
  rest(worker, ticket, graph);
}

static void run_message(struct mch_worker *worker, const struct mch_message_in *message,
                        struct mch_buf *graph) {
  struct mch_run task;
  size_t length = message->length < 2 ? SIZE_MAX : mch_load_u16(message->body);
  memset(&task, 0, sizeof task);
  if (message->lost && length > message->length - 2)
    length = message->length - 2;
  if (length > MCH_NAME_MAX || length > message->length - 2)
    die(EXIT_BROKEN);
  memcpy(worker->name, message->body + 2, length);
  task.runid = message->head.runid;
  task.name = worker->name;
  task.name_length = length;
  task.graph = message->lost ? NULL : message->body + 2 + length;
  task.length = message->lost ? 0 : message->length - 2 - length;
  worker->forgettable = 1;
  run(worker, message->head.ticket, message->head.attempt, &task, graph);
  worker->forgettable = 0;
}

/* The task stands in the memory that was there at the fork. */
static void run_only(struct mch_worker *worker, struct mch_buf *graph) __attribute__((noreturn));
static void run_only(struct mch_worker *worker, struct mch_buf *graph) {
  const struct mch_task *only = worker->only;
  struct mch_run task;
  memset(&task, 0, sizeof task);
  task.runid = only->runid;
  task.name = only->extra != NULL ? only->extra->name : "";
  task.name_length = only->extra != NULL ? only->extra->name_length : 0;
  task.graph = only->body;
  task.length = only->length;
  run(worker, 1, only->attempt, &task, graph);
  mch_worker_leave(worker, 0);
}

static void handle(struct mch_worker *worker, const struct mch_message_in *message,
                   struct mch_buf *graph) {
  if (message->lost && message->head.type == MCH_MESSAGE_CODE)
    return; /* the tasks that need it will fail */
  switch (message->head.type) {
  case MCH_MESSAGE_CODE:
    worker->runner.code(worker->runner.ud, (uint32_t)message->head.runid, message->body,
                        message->length);
    break;
  case MCH_MESSAGE_TASK:
  case MCH_MESSAGE_BATCH:
    if (message->head.type == MCH_MESSAGE_TASK)
      run_message(worker, message, graph);
    else
      run_batch(worker, message, graph);
    atomic_store(&worker->shared->passed, message->head.ticket);
    if (worker->spent)
      mch_worker_leave(worker, 0);
    break;
  case MCH_MESSAGE_QUIT:
    mch_platform_flush_streams();
    die(0);
  default:
    die(EXIT_BROKEN);
  }
}

/* The one worker that this process is, for its signal handler, which gets no argument. */
static struct mch_worker *_Atomic signalled_worker;

static void on_stop_signal(int number) {
  struct mch_worker *worker = signalled_worker;
  int saved = errno;
  (void)number;
  if (worker != NULL)
    heed(worker);
  errno = saved;
}

/* The lifeline does not tell while another process holds its other end. */
static void die_with_owner(const struct mch_worker *worker) {
  if (getppid() != worker->owner)
    kill(0, SIGKILL);
}

static void on_owner_signal(int number) {
  int saved = errno;
  (void)number;
  if (signalled_worker != NULL)
    die_with_owner(signalled_worker);
  errno = saved;
}

/* A stop is without SA_RESTART, so that blocking calls of the task return. */
static void listen(struct mch_worker *worker) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  sigemptyset(&action.sa_mask);
  signalled_worker = worker;
  action.sa_handler = on_stop_signal;
  sigaction(MCH_STOP_SIGNAL, &action, NULL);
  action.sa_handler = on_owner_signal;
  action.sa_flags = SA_RESTART;
  sigaction(MCH_OWNER_SIGNAL, &action, NULL);
  mch_platform_signal_orphan();
  die_with_owner(worker); /* it may have died before */
}

/* exit() was called, by C code of a task: leave in our way instead of the host's. A process that
 * was forked by a task's C code comes by here too, and goes on with its own exit. */
static void on_exit_called(int status, void *ud) {
  struct mch_worker *worker = ud;
  if (worker->pid == (int)getpid())
    mch_worker_leave(worker, status);
}

/* What is to be done before the first task. When that took too long the pool has stopped it; then
 * this worker only leaves, and like a stopped task it takes along what it started. */
static void prepare(struct mch_worker *worker) {
  struct mch_shared *shared = worker->shared;
  worker->preparing = 1;
  atomic_store(&shared->preparing_since, mch_now());
  worker->runner.begin(worker->runner.ud, worker);
  worker->preparing = 0;
  atomic_store(&shared->preparing_since, MCH_NEVER);
  if (atomic_load(&shared->stop) != 0 && mch_platform_has_children())
    kill(0, SIGKILL);
}

void mch_worker_main(struct mch_worker *worker) {
  struct mch_buf graph;
  memset(&graph, 0, sizeof graph);
  worker->pid = (int)getpid();
  mch_platform_on_exit(on_exit_called, worker);
  worker->channel.chaos = &worker->chaos;
  listen(worker);
  mch_chaos_idle(&worker->chaos);
  put_hello(worker);
  atomic_store(&worker->shared->oom_count, mch_platform_oom_count());
  prepare(worker);
  if (worker->only != NULL)
    run_only(worker, &graph);
  for (;;) {
    struct mch_message_in message;
    int got = mch_channel_next(&worker->channel, &message, NULL);
    if (got == 1)
      handle(worker, &message, &graph);
    else if (got < 0)
      die(EXIT_BROKEN);
    else if (mch_channel_fill(&worker->channel, 1, NULL) <= 0)
      die(EXIT_POOL_GONE);
  }
}

void mch_worker_disown(struct mch_worker *worker) {
  signalled_worker = NULL;
  mch_channel_close(&worker->channel);
  close(worker->lifeline);
  close(worker->pipes[0]);
  close(worker->pipes[1]);
}

/* -- bars --------------------------------------------------------------------------------- */

static uint32_t take_bar_slot(struct mch_worker *worker) {
  uint32_t i;
  for (i = 0; i < MCH_BARS; i++)
    if ((worker->bar_slots & (uint64_t)1 << i) == 0) {
      worker->bar_slots |= (uint64_t)1 << i;
      return i;
    }
  return MCH_BARS;
}

static struct mch_bar_slot *bar_start(void *ud, uint64_t key, const struct mch_bar_spec *spec) {
  struct mch_worker *worker = ud;
  unsigned char fixed[20];
  uint32_t i = take_bar_slot(worker);
  struct mch_bar_slot *slot = i < MCH_BARS ? &worker->shared->bars[i] : NULL;
  if (slot != NULL) {
    atomic_store(&slot->id, 0);
    atomic_store(&slot->done, 0);
    atomic_store(&slot->total, spec->total);
    atomic_store(&slot->id, key);
  }
  mch_store_u64(fixed, key);
  mch_store_u64(fixed + 8, spec->total);
  mch_store_u32(fixed + 16, i);
  mch_chaos_busy(&worker->chaos);
  say(worker, MCH_MESSAGE_BAR_START, fixed, sizeof fixed, spec->name, spec->name_length);
  return slot;
}

static void bar_update(void *ud, uint64_t key, uint64_t done, uint64_t total) {
  struct mch_worker *worker = ud;
  unsigned char fixed[24];
  mch_chaos_busy(&worker->chaos);
  mch_store_u64(fixed, key);
  mch_store_u64(fixed + 8, done);
  mch_store_u64(fixed + 16, total);
  say(worker, MCH_MESSAGE_BAR_UPDATE, fixed, sizeof fixed, NULL, 0);
}

static void bar_end(void *ud, uint64_t key, uint64_t done, uint64_t total, enum mch_bar_end how) {
  struct mch_worker *worker = ud;
  unsigned char fixed[25];
  uint32_t i;
  mch_chaos_busy(&worker->chaos);
  for (i = 0; i < MCH_BARS; i++)
    if ((worker->bar_slots & (uint64_t)1 << i) != 0 &&
        atomic_load(&worker->shared->bars[i].id) == key) {
      atomic_store(&worker->shared->bars[i].id, 0);
      worker->bar_slots &= ~((uint64_t)1 << i);
    }
  mch_store_u64(fixed, key);
  mch_store_u64(fixed + 8, done);
  mch_store_u64(fixed + 16, total);
  fixed[24] = (unsigned char)how;
  say(worker, MCH_MESSAGE_BAR_END, fixed, sizeof fixed, NULL, 0);
}

struct mch_upstream mch_worker_upstream(struct mch_worker *worker) {
  struct mch_upstream upstream = {worker, bar_start, bar_update, bar_end};
  return upstream;
}
