/* Runs in: child only. Purpose: worker.h. */
#include "worker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/platform.h"
#include "runtime/base/tricks.h"
#include "runtime/wire/facts.h"

enum { EXIT_POOL_GONE = 0, EXIT_BROKEN = 70 };

/* -- saying ------------------------------------------------------------------------------- */

/* A worker whose pool has gone has nobody to tell. Its streams are dropped unflushed: the pipes
 * behind them have gone too, and writing to them would raise SIGPIPE. */
static void die(int status) __attribute__((noreturn));
static void die(int status) {
  _exit(status);
}

/* -- strangers ---------------------------------------------------------------------------- */

/* The one worker that this process is: for its signal handlers and for forks, which get no
 * argument. */
static struct mch_worker *_Atomic this_worker;

int mch_worker_is_stranger(const struct mch_worker *worker) {
  return !mch_mark_is_ours(&worker->mark);
}

void mch_worker_end_stranger(const struct mch_worker *worker, int status) {
  if (!mch_worker_is_stranger(worker))
    return;
  mch_platform_flush_streams();
  _exit(status);
}

/* What is buffered is written by the one that printed it, and not by the new process as well. */
static void before_fork(void) {
  if (this_worker != NULL)
    mch_platform_flush_streams();
}

/* In a process that somebody forked: it stores into memory of its own, should the code of a bar
 * store something, and does not keep the worker's stream open. (Of a nested pool's worker this is
 * only the beginning: see mch_worker_disown.) */
static void after_fork(void) {
  struct mch_worker *worker = this_worker;
  if (worker == NULL)
    return;
  this_worker = NULL;
  mch_platform_replace(worker->shared, sizeof *worker->shared);
  if (worker->channel.fd >= 0)
    close(worker->channel.fd);
  if (worker->begun >= 0)
    close(worker->begun);
  worker->channel.fd = worker->begun = -1;
}

static pthread_once_t forks_are_watched = PTHREAD_ONCE_INIT;
static void watch_forks(void) {
  pthread_atfork(before_fork, NULL, after_fork);
}

/* -- a page or a stream that is not what it was ------------------------------------------- */

/* Something wrote over what this process shares with its pool. The pool is told by the only thing
 * that could not be written over, and sorts out what was begun. */
static void break_off(const struct mch_worker *worker) __attribute__((noreturn));
static void break_off(const struct mch_worker *worker) {
  mch_platform_mark_set(worker->begun, mch_platform_mark_get(worker->begun) | MCH_BEGUN_BROKEN);
  kill(getpid(), SIGKILL);
  for (;;)
    pause();
}

/* Note in the mark that this is begun. */
static int note(const struct mch_worker *worker, uint32_t ticket) {
  return worker->begun < 0 ? 0 : mch_platform_mark_set(worker->begun, mch_begun_word(ticket, 0));
}

static uint64_t claim_word(uint32_t ticket, enum mch_claim claim) {
  return (uint64_t)ticket << 2 | (uint64_t)claim;
}

/* -- saying, in the words of the protocol ------------------------------------------------- */

static void put(struct mch_worker *worker, enum mch_message type, const void *first,
                size_t first_length, const void *second, size_t second_length) {
  struct mch_message_head head = {(uint8_t)type, worker->attempt, worker->ticket, worker->runid};
  if (mch_channel_put2(&worker->channel, &head, first, first_length, second, second_length, NULL) !=
      0)
    die(EXIT_BROKEN);
}

/* Queue a message that has facts, a graph and the spans that belong into it. Spans are not copied:
 * to be flushed before anything becomes of them. */
static void put_answer(struct mch_worker *worker, enum mch_message type, const void *facts,
                       size_t facts_length, const struct mch_buf *graph) {
  struct mch_message_head head = {(uint8_t)type, worker->attempt, worker->ticket, worker->runid};
  struct mch_body body = mch_body_of(graph, &worker->spans);
  if (mch_channel_put_body(&worker->channel, &head, facts, facts_length, &body, NULL, NULL) != 0)
    die(EXIT_BROKEN);
}

/* Nobody hears any more: the pool has gone, or does not want a worker that it never asked for
 * anything. While it lives it is otherwise the work of a task, on the descriptor. */
static void end_of_stream(const struct mch_worker *worker) __attribute__((noreturn));
static void end_of_stream(const struct mch_worker *worker) {
  if ((worker->passed != 0 || worker->ticket != 0) && getppid() == worker->owner)
    break_off(worker);
  die(EXIT_POOL_GONE);
}

static void flush(struct mch_worker *worker) {
  if (mch_channel_flush(&worker->channel, 1, NULL) != 0)
    end_of_stream(worker);
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
  if (mch_worker_is_stranger(worker))
    return;
  mch_chaos_busy(&worker->chaos);
  say(worker, MCH_MESSAGE_LOG, graph, length, NULL, 0);
}

int mch_worker_may_emit(const struct mch_worker *worker, size_t length) {
  const struct mch_orders *orders = &worker->shared->orders;
  uint64_t waiting = worker->emitted - atomic_load(&orders->accepted);
  if (mch_worker_is_stranger(worker) || !atomic_load(&orders->listening))
    return -1;
  return waiting == 0 || (length <= MCH_EMITTED_MOST && waiting <= MCH_EMITTED_MOST - length);
}

void mch_worker_emit(struct mch_worker *worker, const void *graph, size_t length) {
  if (mch_worker_is_stranger(worker))
    return;
  mch_chaos_busy(&worker->chaos);
  worker->emitted += length;
  say(worker, MCH_MESSAGE_EMITTED, graph, length, NULL, 0);
}

int mch_worker_send_early(struct mch_worker *worker, const void *piece, size_t length) {
  struct mch_message_head head = {MCH_MESSAGE_EARLY, worker->attempt, worker->ticket,
                                  worker->runid};
  if (mch_without(MCH_TRICK_EARLY))
    return 0;
  if (mch_worker_is_stranger(worker))
    return 1;
  mch_chaos_busy(&worker->chaos);
  if (mch_channel_put(&worker->channel, &head, piece, length, NULL) != 0)
    return 0;
  if (mch_channel_flush(&worker->channel, 0, NULL) != 0)
    end_of_stream(worker);
  return 1;
}

void mch_worker_forget_task(struct mch_worker *worker) {
  if (worker->forgettable)
    mch_channel_forget(&worker->channel);
}

int mch_worker_log_threshold(const struct mch_worker *worker) {
  return atomic_load_explicit(&worker->shared->orders.log_threshold, memory_order_relaxed);
}

static void say_exit(struct mch_worker *worker, int status) {
  unsigned char bytes[4];
  mch_store_u32(bytes, (uint32_t)status);
  say(worker, MCH_MESSAGE_EXIT, bytes, sizeof bytes, NULL, 0);
}

void mch_worker_leave(struct mch_worker *worker, int status) {
  mch_worker_end_stranger(worker, status);
  if (worker->leaving)
    _exit(status);
  worker->leaving = 1;
  mch_platform_flush_streams();
  mch_chaos_idle(&worker->chaos);
  say_exit(worker, status);
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
  const struct mch_orders *shared = &worker->shared->orders;
  int tries;
  for (tries = 0; tries < 2000; tries++) {
    uint32_t before = atomic_load(&shared->reading[which]);
    uint64_t consumed = atomic_load(&shared->consumed[which]);
    long unread = mch_platform_unread(worker->pipes[which]);
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
  return own_time < worker->fastest_ask / 2 && !mch_platform_stdout_pending() &&
         !mch_without(MCH_TRICK_SILENT);
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

/* The largest size so far; short tasks are not worth a system call each, unless somebody listens.
 */
static uint64_t maxrss_after(struct mch_worker *worker, uint64_t elapsed) {
  if (elapsed > 500000u || worker->cpu != MCH_UNMEASURED || worker->maxrss_age++ % 64 == 0)
    worker->maxrss = mch_platform_maxrss();
  return worker->maxrss;
}

/* If somebody listens: say that the task or item begins, and measure more of it. */
static void say_started(struct mch_worker *worker, uint64_t start) {
  unsigned char when[8];
  worker->cpu = MCH_UNMEASURED;
  if (!atomic_load_explicit(&worker->shared->orders.listening, memory_order_relaxed))
    return;
  mch_store_u64(when, start);
  mch_chaos_busy(&worker->chaos);
  say(worker, MCH_MESSAGE_STARTED, when, sizeof when, NULL, 0);
  worker->cpu = mch_platform_cpu_time();
}

/* Processor time since it began. */
static uint64_t cpu_since(const struct mch_worker *worker) {
  return worker->cpu == MCH_UNMEASURED ? MCH_UNMEASURED : mch_platform_cpu_time() - worker->cpu;
}

static void store_facts(struct mch_worker *worker, enum mch_kind kind, uint64_t started,
                        uint64_t elapsed, unsigned char *bytes) {
  struct mch_facts facts = {.kind = kind,
                            .started = started,
                            .cpu = cpu_since(worker),
                            .elapsed = elapsed,
                            .maxrss = maxrss_after(worker, elapsed),
                            .stdout_position = worker->told[0],
                            .stderr_position = worker->told[1]};
  mch_facts_store(&facts, bytes);
}

static void send_answer(struct mch_worker *worker) {
  if (mch_chaos_dooms(&worker->chaos))
    tear(worker);
  flush(worker);
}

static void answer(struct mch_worker *worker, enum mch_kind kind, uint64_t started,
                   uint64_t elapsed, uint64_t own_time, const struct mch_buf *graph) {
  unsigned char facts[MCH_FACTS_SIZE];
  if (!was_silent(worker, own_time))
    find_positions(worker);
  mch_chaos_busy(&worker->chaos);
  store_facts(worker, kind, started, elapsed, facts);
  put_answer(worker, MCH_MESSAGE_RESULT, facts, sizeof facts, graph);
  send_answer(worker);
}

/* Answer with all facts. */
static void answer_item(struct mch_worker *worker, uint32_t number, enum mch_kind kind,
                        uint64_t started, uint64_t elapsed, const struct mch_buf *graph) {
  unsigned char head[4 + MCH_FACTS_SIZE];
  mch_store_u32(head, number);
  store_facts(worker, kind, started, elapsed, head + 4);
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
  if (graph->length - 1 < MCH_RECORD_MAX && worker->spans.length == 0 &&
      !mch_without(MCH_TRICK_ITEMS)) {
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

/* Whether the task of `ticket` is ours now; it is not if the pool took it back. What else the claim
 * says, or that the pool took back what can be claimed, comes of writing over it. */
static int claim(struct mch_worker *worker, uint32_t ticket) {
  struct mch_shared *shared = worker->shared;
  _Atomic uint64_t *word = &shared->claims[ticket % MCH_CLAIMS];
  uint64_t found = claim_word(ticket, MCH_CLAIM_OFFERED);
  if (!atomic_compare_exchange_strong(word, &found, claim_word(ticket, MCH_CLAIM_TAKEN))) {
    if (found != claim_word(ticket, MCH_CLAIM_REVOKED))
      break_off(worker);
    return 0;
  }
  if (atomic_load(&shared->orders.revoked[ticket % MCH_CLAIMS]) == ticket)
    break_off(worker);
  worker->noted = 0;
  if (note(worker, ticket) != 0) { /* nothing may begin without: as if it had not been claimed */
    atomic_store(word, claim_word(ticket, MCH_CLAIM_OFFERED));
    break_off(worker);
  }
  return 1;
}

/* After a task or item: that it left the page as it was, so that the next one may begin. All that
 * the pool looks at is looked at here, so that no later task is running when it finds something. */
static void look_at_page(const struct mch_worker *worker, uint32_t ticket) {
  const struct mch_shared *shared = worker->shared;
  if (atomic_load_explicit(&shared->claims[ticket % MCH_CLAIMS], memory_order_relaxed) !=
          claim_word(ticket, MCH_CLAIM_TAKEN) ||
      atomic_load_explicit(&shared->passed, memory_order_relaxed) != worker->passed ||
      atomic_load_explicit(&shared->running_since, memory_order_relaxed) != worker->since ||
      !mch_channel_is_whole(&worker->channel))
    break_off(worker);
}

/* What was forked by the code that has just run ends here, and the worker goes on if all is well.
 */
static void after_code(const struct mch_worker *worker, uint32_t ticket, enum mch_kind kind) {
  mch_worker_end_stranger(worker, kind == MCH_KIND_ERROR);
  look_at_page(worker, ticket);
}

static void look_at_memory(struct mch_worker *worker) {
  if (worker->max_memory > 0 && mch_own_memory_exceeds(&worker->own_memory, worker->max_memory))
    worker->spent = 1;
}

/* Between tasks. One that was stopped does not leave programs behind, which would run on or, when
 * their pipes are closed, be waited for: this group ends, and the pool makes another worker. */
static void rest(struct mch_worker *worker, uint32_t ticket, struct mch_buf *graph) {
  if (atomic_load(&worker->shared->orders.stop) == ticket && mch_platform_has_children())
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
  worker->since = start;
  atomic_store_explicit(&worker->shared->running_since, start, memory_order_release);
}

/* Pass on what the pool wants of the task or item that runs, or of `init`. For signal handlers too.
 */
static void heed(struct mch_worker *worker) {
  uint32_t stop = atomic_load(&worker->shared->orders.stop);
  if (!worker->preparing && (worker->ticket == 0 || stop != worker->ticket))
    return;
  worker->runner.interrupt(worker->runner.ud);
  if (stop != 0 && atomic_load(&worker->shared->orders.insist) == stop &&
      worker->runner.insist != NULL)
    worker->runner.insist(worker->runner.ud);
}

/* The task or item of this ticket runs from here on: the signal handler interrupts it, and a stop
 * that came before is seen here. */
static void enter(struct mch_worker *worker, uint32_t ticket, struct mch_buf *graph) {
  worker->ticket = ticket;
  heed(worker);
  clear_answer(worker, graph);
}

/* What was careful has failed or was to stop: nothing begins before the pool has dealt with that
 * answer. `items`: of a batch, so many are answered. The pool may be away for long. */
static void await_conclusions(const struct mch_worker *worker, uint32_t ticket, uint32_t items) {
  const _Atomic uint64_t *heard = &worker->shared->orders.heard;
  uint64_t start = mch_now(), now = start;
  while (atomic_load(heard) < mch_heard_word(ticket, items) || atomic_load(heard) >> 32 != ticket) {
    uint64_t pause = (now - start) / 8;
    struct timespec moment = {0, 0};
    moment.tv_nsec = pause < 20000000u ? (long)pause : 20000000;
    if (now - start < 20000u)
      sched_yield();
    else
      nanosleep(&moment, NULL);
    now = mch_now();
  }
}

/* Whether the pool may take back more because of how the task of this ticket has ended. */
static int has_consequences(const struct mch_worker *worker, uint32_t ticket, unsigned options,
                            enum mch_kind kind) {
  return (options & MCH_OPTION_CAREFUL) != 0 &&
         (kind != MCH_KIND_OK || atomic_load(&worker->shared->orders.stop) == ticket);
}

/* Run a task of this ticket and answer, if it was not taken back. */
static void run(struct mch_worker *worker, uint32_t ticket, uint16_t attempt, unsigned options,
                struct mch_run *task, struct mch_buf *graph) {
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
  say_started(worker, start);
  kind = worker->runner.run(worker->runner.ud, task, graph);
  after_code(worker, ticket, kind);
  answer(worker, kind, start, mch_now() - start, task->own_time, graph);
  rest(worker, ticket, graph);
  look_at_memory(worker);
  if (has_consequences(worker, ticket, options, kind))
    await_conclusions(worker, ticket, MCH_HEARD_ALL);
}

/* -- batches ------------------------------------------------------------------------------ */

/* A batch on its way: where the next item is; NULL: there was no memory for them. */
struct items {
  const unsigned char *at, *end;
};

static struct items parse_batch(const struct mch_worker *worker,
                                const struct mch_message_in *message, struct mch_run *run,
                                uint32_t *count) {
  struct items items = {message->body + 1, message->body + message->length};
  if (message->length < 1 + 8)
    break_off(worker);
  *count = mch_load_u32(items.at);
  run->function_length = mch_load_u32(items.at + 4);
  items.at += 8;
  run->function = items.at;
  if (message->lost) {
    items.at = NULL;
    return items;
  }
  if (*count > MCH_BATCH_MOST || run->function_length > (size_t)(items.end - items.at))
    break_off(worker);
  items.at += run->function_length;
  return items;
}

static void next_item(const struct mch_worker *worker, struct items *items, struct mch_run *run) {
  if (items->at == NULL)
    return;
  if (items->end - items->at < 4)
    break_off(worker);
  run->length = mch_load_u32(items->at);
  run->graph = items->at + 4;
  if (run->length > (size_t)(items->end - run->graph))
    break_off(worker);
  items->at = run->graph + run->length;
}

/* Note that item `number` is begun. Where items last no time some are noted at once. Without a note
 * it must not begin: then it is given back. */
static int note_item(struct mch_worker *worker, uint32_t ticket, uint32_t number, uint32_t count) {
  uint32_t bound = number + (worker->exact ? 1 : MCH_ITEMS_RESERVED);
  if (number < worker->noted)
    return 0;
  worker->noted = bound < count ? bound : count;
  if (worker->begun >= 0 &&
      mch_platform_mark_set(worker->begun, mch_begun_word(ticket, worker->noted) |
                                               (worker->exact ? MCH_BEGUN_EXACT : 0)) != 0) {
    atomic_fetch_sub(&worker->shared->items, 1);
    break_off(worker);
  }
  return 1;
}

/* Begin the next item of the batch, which must be `number`, at `start`. 0 when it and the others
 * are not ours any more. */
static int claim_item(struct mch_worker *worker, uint32_t ticket, uint32_t number, uint32_t count,
                      uint64_t start) {
  struct mch_shared *shared = worker->shared;
  uint64_t word = atomic_load(&shared->items), limit;
  say_since(worker, start);
  do {
    if (mch_items_ticket(word) != ticket || mch_items_next(word) != number ||
        mch_items_limit(word) > count)
      break_off(worker);
    if (number >= mch_items_limit(word))
      return 0;
  } while (!atomic_compare_exchange_weak(&shared->items, &word, word + 1));
  limit = atomic_load(&shared->orders.limit);
  if ((uint32_t)(limit >> 32) == ticket && number >= (uint32_t)limit)
    break_off(worker);
  return 1;
}

/* After an item that took so long that it may have written, so many are noted one by one; */
enum { EXACT_ITEMS = 16 };
/* and so many are timed more precisely: the more, the more often that was said of one only since
 * what is around an item took so long. */
enum { LEAST_PRECISE = 16, MOST_PRECISE = 4096 };

/* An item is over; `was_precise`: it was timed so. */
static void note_time(struct mch_worker *worker, struct mch_run *run, int is_silent,
                      int was_precise) {
  int times = worker->precise_for;
  if (is_silent) {
    worker->exact -= worker->exact > 0;
    run->precise -= run->precise > 0;
    times -= was_precise ? 0 : times / 16;
  } else {
    worker->exact = EXACT_ITEMS;
    times *= was_precise ? 1 : 2;
  }
  worker->precise_for = times < LEAST_PRECISE  ? LEAST_PRECISE
                        : times > MOST_PRECISE ? MOST_PRECISE
                                               : times;
  if (!is_silent)
    run->precise = worker->precise_for;
}

/* Run one item and answer; returns when the next one may begin. */
static uint64_t run_item(struct mch_worker *worker, uint32_t ticket, uint32_t number,
                         unsigned options, uint64_t start, struct mch_run *run,
                         struct mch_buf *graph) {
  enum mch_kind kind;
  int is_silent, was_precise = run->precise > 0;
  mch_chaos_begin_task(&worker->chaos, run->runid, 0);
  mch_chaos_busy(&worker->chaos);
  worker->runid = run->runid;
  run->began = start;
  worker->runner.calm(worker->runner.ud);
  enter(worker, ticket, graph);
  say_started(worker, start);
  kind = worker->runner.run(worker->runner.ud, run, graph);
  after_code(worker, ticket, kind);
  mch_chaos_busy(&worker->chaos);
  is_silent = kind == MCH_KIND_OK && was_silent(worker, run->own_time) &&
              !has_consequences(worker, ticket, options, kind);
  note_time(worker, run, is_silent, was_precise);
  if (!is_silent)
    find_positions(worker);
  else if (worker->cpu == MCH_UNMEASURED) /* nobody listens */
    return answer_silent_item(worker, number, graph) ? run->ended : mch_now();
  answer_item(worker, number, kind, start, run->ended - start, graph);
  if (has_consequences(worker, ticket, options, kind))
    await_conclusions(worker, ticket, number + 1);
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
  uint32_t number;
  memset(&run, 0, sizeof run);
  run.name = "";
  items = parse_batch(worker, message, &run, &count);
  mch_chaos_idle(&worker->chaos);
  atomic_store(&worker->shared->items, mch_items_word(ticket, count, 0));
  start = now = mch_now();
  say_since(worker, start);
  if (!claim(worker, ticket))
    return;
  worker->attempt = 0;
  worker->ticket = ticket; /* all its items may have been taken back by now */
  run.first = 1;
  run.precise = worker->exact = 1; /* it is not known yet how long they take */
  for (number = 0; !worker->spent; number++) {
    if (!claim_item(worker, ticket, number, count, now))
      break;
    if (note_item(worker, ticket, number, count))
      now = mch_now(); /* the note is none of the item's time */
    next_item(worker, &items, &run);
    run.runid = message->head.runid + number;
    run.stream = run.runid;
    now = run_item(worker, ticket, number, message->body[0], now, &run, graph);
    run.first = 0;
    look_at_memory(worker);
  }
  worker->runid = message->head.runid;
  worker->cpu = MCH_UNMEASURED;
  clear_answer(worker, graph);
  answer(worker, MCH_KIND_OK, start, now - start, 0, graph);
  rest(worker, ticket, graph);
}

static void run_message(struct mch_worker *worker, const struct mch_message_in *message,
                        struct mch_buf *graph) {
  const unsigned char *at = message->body;
  unsigned options = message->length > 0 ? *at++ : 0;
  size_t front = 1 + (options & MCH_OPTION_STREAM ? 8 : 0) + 2, length;
  struct mch_run task;
  memset(&task, 0, sizeof task);
  if (message->length < front)
    break_off(worker);
  task.runid = task.stream = message->head.runid;
  if (options & MCH_OPTION_STREAM) {
    task.stream = mch_load_u64(at);
    at += 8;
  }
  length = mch_load_u16(at);
  at += 2;
  if (message->lost && length > message->length - front)
    length = message->length - front;
  if (length > MCH_NAME_MAX || length > message->length - front)
    break_off(worker);
  memcpy(worker->name, at, length);
  task.name = worker->name;
  task.name_length = length;
  task.graph = message->lost ? NULL : at + length;
  task.length = message->lost ? 0 : message->length - front - length;
  worker->forgettable = 1;
  run(worker, message->head.ticket, message->head.attempt, options, &task, graph);
  worker->forgettable = 0;
}

/* Its last task is over: the user's `fini` runs. The pool stops it when it takes too long. */
static void end_well(struct mch_worker *worker) {
  if (worker->runner.end == NULL)
    return;
  atomic_store(&worker->shared->leaving_since, mch_now());
  worker->preparing = 1;
  worker->runner.end(worker->runner.ud);
  worker->preparing = 0;
  mch_worker_end_stranger(worker, 0);
}

/* It leaves by itself, between tasks: the pool hears of that first, so that no task waits here. */
static void leave_well(struct mch_worker *worker) __attribute__((noreturn));
static void leave_well(struct mch_worker *worker) {
  if (worker->runner.end != NULL)
    say_exit(worker, 0);
  end_well(worker);
  mch_worker_leave(worker, 0);
}

/* The task stands in the memory that was there at the fork. */
static void run_only(struct mch_worker *worker, struct mch_buf *graph) __attribute__((noreturn));
static void run_only(struct mch_worker *worker, struct mch_buf *graph) {
  const struct mch_task *only = worker->only;
  struct mch_run task;
  memset(&task, 0, sizeof task);
  task.runid = only->runid;
  task.stream = mch_task_stream(only);
  task.name = only->extra != NULL ? only->extra->name : "";
  task.name_length = only->extra != NULL ? only->extra->name_length : 0;
  task.graph = only->body;
  task.length = only->length;
  run(worker, 1, only->attempt, 0, &task, graph); /* it is the last that begins here */
  leave_well(worker);
}

/* Tickets come one after the other. */
static void pass(struct mch_worker *worker, uint32_t ticket) {
  if (ticket != (worker->passed == UINT32_MAX ? 1 : worker->passed + 1))
    break_off(worker);
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
    pass(worker, message->head.ticket);
    if (message->head.type == MCH_MESSAGE_TASK)
      run_message(worker, message, graph);
    else
      run_batch(worker, message, graph);
    worker->passed = message->head.ticket;
    atomic_store(&worker->shared->passed, worker->passed);
    if (worker->spent)
      leave_well(worker);
    break;
  case MCH_MESSAGE_QUIT:
    end_well(worker);
    mch_platform_flush_streams();
    die(0);
  default:
    break_off(worker);
  }
}

static void on_stop_signal(int number) {
  struct mch_worker *worker = this_worker;
  int saved = errno;
  (void)number;
  if (worker != NULL)
    heed(worker);
  errno = saved;
}

/* The lifeline does not tell while another process holds its other end. */
static void die_with_owner(const struct mch_worker *worker) {
  if (getppid() != worker->owner && !mch_worker_is_stranger(worker))
    kill(0, SIGKILL);
}

static void on_owner_signal(int number) {
  int saved = errno;
  (void)number;
  if (this_worker != NULL)
    die_with_owner(this_worker);
  errno = saved;
}

/* A stop is without SA_RESTART, so that blocking calls of the task return. */
static void listen(struct mch_worker *worker) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  sigemptyset(&action.sa_mask);
  this_worker = worker;
  action.sa_handler = on_stop_signal;
  sigaction(MCH_STOP_SIGNAL, &action, NULL);
  action.sa_handler = on_owner_signal;
  action.sa_flags = SA_RESTART;
  sigaction(MCH_OWNER_SIGNAL, &action, NULL);
  mch_platform_signal_orphan();
  die_with_owner(worker); /* it may have died before */
}

/* exit() was called, by C code of a task or in a fork that such code made: leave in our way instead
 * of the host's. */
static void on_exit_called(int status, void *ud) {
  mch_worker_leave(ud, status);
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
  if (atomic_load(&shared->orders.stop) != 0 && mch_platform_has_children())
    kill(0, SIGKILL);
}

void mch_worker_main(struct mch_worker *worker) {
  struct mch_buf graph;
  memset(&graph, 0, sizeof graph);
  worker->pid = (int)getpid();
  mch_mark_make(&worker->mark);
  pthread_once(&forks_are_watched, watch_forks);
  mch_platform_on_exit(on_exit_called, worker);
  worker->channel.chaos = &worker->chaos;
  listen(worker);
  mch_chaos_idle(&worker->chaos);
  put_hello(worker);
  atomic_store(&worker->shared->oom_count, mch_platform_oom_count());
  if (worker->max_memory > 0)
    mch_own_memory_begin(&worker->own_memory);
  prepare(worker);
  mch_worker_end_stranger(worker, 0);
  if (worker->only != NULL)
    run_only(worker, &graph);
  for (;;) {
    struct mch_message_in message;
    int got = mch_channel_next(&worker->channel, &message, NULL);
    if (got == 1)
      handle(worker, &message, &graph);
    else if (got < 0)
      break_off(worker);
    else if ((got = (int)mch_channel_fill(&worker->channel, 1, NULL)) == MCH_PROTOCOL)
      break_off(worker);
    else if (got <= 0)
      end_of_stream(worker);
  }
}

void mch_worker_disown(struct mch_worker *worker) {
  this_worker = NULL;
  mch_channel_close(&worker->channel);
  if (worker->begun >= 0)
    close(worker->begun);
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
  unsigned char fixed[MCH_BAR_START_SIZE];
  struct mch_bar_slot *slot;
  uint32_t i;
  if (mch_worker_is_stranger(worker))
    return NULL;
  i = take_bar_slot(worker);
  slot = i < MCH_BARS ? &worker->shared->bars[i] : NULL;
  if (slot != NULL) {
    atomic_store(&slot->id, 0);
    atomic_store(&slot->done, 0);
    atomic_store(&slot->total, spec->total);
    atomic_store(&slot->id, key);
  }
  mch_store_u64(fixed, key);
  mch_store_u64(fixed + 8, spec->total);
  mch_store_u32(fixed + 16, i);
  fixed[20] = (unsigned char)spec->unit;
  fixed[21] = (unsigned char)spec->leave;
  mch_chaos_busy(&worker->chaos);
  say(worker, MCH_MESSAGE_BAR_START, fixed, sizeof fixed, spec->name, spec->name_length);
  return slot;
}

static void bar_update(void *ud, uint64_t key, uint64_t done, uint64_t total) {
  struct mch_worker *worker = ud;
  unsigned char fixed[24];
  if (mch_worker_is_stranger(worker))
    return;
  mch_chaos_busy(&worker->chaos);
  mch_store_u64(fixed, key);
  mch_store_u64(fixed + 8, done);
  mch_store_u64(fixed + 16, total);
  say(worker, MCH_MESSAGE_BAR_UPDATE, fixed, sizeof fixed, NULL, 0);
}

static void bar_name(void *ud, uint64_t key, const char *name, size_t length) {
  struct mch_worker *worker = ud;
  unsigned char fixed[8];
  if (mch_worker_is_stranger(worker))
    return;
  mch_chaos_busy(&worker->chaos);
  mch_store_u64(fixed, key);
  say(worker, MCH_MESSAGE_BAR_NAME, fixed, sizeof fixed, name, length);
}

/* With where the streams are: what is printed from now on stands below the bar. */
static void bar_end(void *ud, uint64_t key, uint64_t done, uint64_t total, enum mch_bar_end how) {
  struct mch_worker *worker = ud;
  unsigned char fixed[MCH_BAR_END_SIZE];
  uint32_t i;
  if (mch_worker_is_stranger(worker))
    return;
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
  fflush(stdout);
  fflush(stderr);
  mch_store_u64(fixed + 25, position(worker, 0));
  mch_store_u64(fixed + 33, position(worker, 1));
  say(worker, MCH_MESSAGE_BAR_END, fixed, sizeof fixed, NULL, 0);
}

struct mch_upstream mch_worker_upstream(struct mch_worker *worker) {
  struct mch_upstream upstream = {.ud = worker,
                                  .bar_start = bar_start,
                                  .bar_update = bar_update,
                                  .bar_name = bar_name,
                                  .bar_end = bar_end};
  return upstream;
}
