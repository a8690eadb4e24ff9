/* runtime/driver: the helper thread, with real workers but no Lua: it moves things on while the
 * owner is away, keeps away while he waits, loses no wake-up and burns no time. Meant to be run
 * under the thread sanitizer, too. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "runtime/pool/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "runtime/pool/pool.h"
#include "runtime/engines/worker.h"

/* -- tasks -------------------------------------------------------------------------------- */

/* The first byte of a graph says what its task does; two more are a number. */
enum {
  CLOSE = 'c', /* all descriptors but stdio */
  COVER = 'o', /* all of them with one of /dev/null */
  FORK = 'f',  /* a child without exec that exits */
  HOLD = 'h',  /* one that stays for seconds, and die */
  ECHO = 'e',
  SLEEP = 's',
  LOOP = 'l',
  RECORDS = 'r',
  DIE = 'd',
  LEAVE = 'x',
  PRINT = 'p'
};

static volatile sig_atomic_t interrupted_task;
static struct mch_worker *this_worker;

static void nap(unsigned milliseconds) {
  struct timespec moment = {(time_t)(milliseconds / 1000), (long)(milliseconds % 1000) * 1000000};
  nanosleep(&moment, NULL);
}

static void just_exit(void) {
  puts("a line of a child");
  exit(0);
}

static void nap_and_exit(void) {
  nap(4000);
  _exit(0);
}

static int lazy_setup(void *ud) {
  (void)ud;
  return 0;
}

static void begin(void *ud, struct mch_worker *worker) {
  (void)ud;
  this_worker = worker;
}

static void spoil_descriptors(int cover) {
  int null = open("/dev/null", O_RDWR), fd;
  for (fd = 3; fd < 256; fd++)
    if (fd == null)
      continue;
    else if (cover && fcntl(fd, F_GETFD) >= 0)
      dup2(null, fd);
    else
      close(fd);
}

static void fork_here(void (*body)(void)) {
  pid_t pid = fork();
  if (pid == 0)
    body();
  else if (body != nap_and_exit)
    waitpid(pid, NULL, 0);
}

static enum mch_kind run_task(void *ud, struct mch_run *run, struct mch_buf *answer) {
  unsigned number = mch_load_u16(run->graph + 1);
  (void)ud;
  switch (run->graph[0]) {
  case SLEEP:
    nap(number);
    break;
  case LOOP:
    while (!interrupted_task)
      ;
    break;
  case RECORDS:
    while (number-- > 0)
      mch_worker_log(this_worker, run->graph, run->length);
    break;
  case CLOSE:
  case COVER:
    spoil_descriptors(run->graph[0] == COVER);
    break;
  case FORK:
    fork_here(just_exit);
    break;
  case HOLD:
    fork_here(nap_and_exit);
    raise(SIGKILL);
    break;
  case DIE:
    raise(SIGKILL);
    break;
  case LEAVE:
    mch_worker_leave(this_worker, (int)number);
  case PRINT:
    while (number-- > 0)
      puts("a line of a task");
    break;
  default:
    break;
  }
  mch_buf_append(answer, run->graph, run->length);
  return MCH_KIND_OK;
}

static void code(void *ud, uint32_t id, const unsigned char *bytes, size_t length) {
  (void)ud, (void)id, (void)bytes, (void)length;
}
static void interrupt(void *ud) {
  (void)ud;
  interrupted_task = 1;
}
static void calm(void *ud) {
  (void)ud;
  interrupted_task = 0;
}

static uint64_t cpu_time(void) {
  struct timespec used;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

/* -- pools -------------------------------------------------------------------------------- */

static size_t printed;   /* bytes of task output, under the output's lock */
static atomic_int stuck; /* nobody reads it */
static ssize_t count_output(void *ud, int fd, const void *bytes, size_t count) {
  (void)ud, (void)fd, (void)bytes;
  if (stuck) {
    errno = EAGAIN;
    return -1;
  }
  printed += count;
  return (ssize_t)count;
}

static struct mch_pool *new_pool(unsigned nworkers, int background) {
  struct mch_output_config sink;
  struct mch_pool_config config;
  struct mch_error error;
  struct mch_pool *pool;
  memset(&sink, 0, sizeof sink);
  sink.write = count_output;
  memset(&config, 0, sizeof config);
  config.make = mch_engine_fork_new;
  config.background = background;
  config.engine.nworkers = nworkers;
  config.engine.grace = 300000000u;
  config.engine.output = mch_output_new(&sink, NULL);
  config.engine.runner = (struct mch_runner){
      NULL, lazy_setup, begin, run_task, code, interrupt, NULL, calm, NULL, "test of the driver"};
  pool = mch_pool_new(&config, &error);
  mch_output_unref(config.engine.output);
  if (pool == NULL)
    fprintf(stderr, "%s\n", error.text), exit(1);
  return pool;
}

static int never(void *ud) {
  (void)ud;
  return 0;
}

/* Wait for one word of a worker. */
static void wait_once(struct mch_pool *pool, uint64_t until) {
  mch_pool_wait(pool, &(struct mch_waiting){until, NULL, never, NULL, NULL, 1});
}

static void turn(struct mch_pool *pool, uint64_t until) {
  struct mch_buf record = {0};
  mch_pool_pump(pool);
  if (mch_pool_short_of_workers(pool))
    mch_pool_add_workers(pool);
  while (mch_pool_take_log(pool, &record))
    ;
  mch_buf_free(&record);
  if (until != 0)
    wait_once(pool, until);
}

static void end_pool(struct mch_pool *pool) {
  uint64_t patience = mch_now() + 5000000000u;
  mch_pool_quit(pool, 0);
  while (turn(pool, 0), !mch_pool_gone(pool) && mch_now() < patience)
    wait_once(pool, patience);
  CHECK(mch_pool_gone(pool));
  mch_pool_free(pool);
}

static uint64_t run(struct mch_pool *pool, struct mch_group *group, int what, unsigned number) {
  unsigned char graph[100] = {(unsigned char)what};
  struct mch_error error;
  uint64_t runid = 0;
  mch_store_u16(graph + 1, (uint16_t)number);
  if (mch_pool_run(pool, mch_task_new(NULL, 0, graph, sizeof graph), group, &runid, &error) != 0)
    fprintf(stderr, "%s\n", error.text), exit(1);
  return runid;
}

/* Take what has finished; how many there were. */
static size_t take_all(struct mch_pool *pool, struct mch_group *group) {
  struct mch_task *task;
  size_t count = 0;
  for (; (task = mch_pool_take(pool, group)) != NULL; count++)
    mch_pool_discard(pool, task);
  return count;
}

/* Wait, as returns() does, until nothing is unfinished. 0 if it took more than five seconds. */
static int finish_all(struct mch_pool *pool, struct mch_group *group) {
  uint64_t patience = mch_now() + 5000000000u;
  for (;;) {
    turn(pool, 0);
    if (mch_pool_unfinished(pool, group) == 0)
      return 1;
    if (mch_now() > patience)
      return 0;
    wait_once(pool, patience);
  }
}

/* -- the cases ---------------------------------------------------------------------------- */

/* What a wait is asked by the pool. */
struct asked {
  struct mch_pool *pool;
  struct mch_group *group;
  unsigned enough, interrupted; /* so many times */
  unsigned interrupt_at;        /* 0: never */
};
static int all_finished(void *ud) {
  struct asked *asked = ud;
  asked->enough++;
  return mch_pool_unfinished(asked->pool, asked->group) == 0;
}
static int is_interrupted(void *ud) {
  struct asked *asked = ud;
  return ++asked->interrupted == asked->interrupt_at;
}

static void wait_for_all(struct asked *asked, uint64_t until) {
  mch_pool_wait(asked->pool,
                &(struct mch_waiting){until, all_finished, is_interrupted, asked, NULL, 1});
}

/* One wait pumps until enough is there, and comes back for what only the owner can do. */
static void test_one_wait(int background) {
  struct mch_pool *pool = new_pool(2, background);
  struct mch_group group = {0};
  struct asked asked = {pool, &group, 0, 0, 0};
  struct mch_buf record = {0};
  uint64_t patience = mch_now() + 20000000000u, start;
  int i;
  for (i = 0; i < 40; i++)
    run(pool, &group, SLEEP, 1);
  while (mch_pool_unfinished(pool, &group) > 0 && mch_now() < patience)
    wait_for_all(&asked, patience);
  CHECK(take_all(pool, &group) == 40 && asked.enough > 1);
  /* A record, before its task has ended. */
  run(pool, &group, RECORDS, 1);
  while (!mch_pool_has_logs(pool) && mch_now() < patience)
    wait_for_all(&asked, patience);
  CHECK(mch_pool_take_log(pool, &record));
  mch_buf_free(&record);
  CHECK(finish_all(pool, &group) && take_all(pool, &group) == 1);
  /* The time, and a signal; a replacement for a worker that died. */
  run(pool, &group, SLEEP, 400);
  start = mch_now();
  wait_for_all(&asked, start + 30000000u);
  CHECK(mch_now() >= start + 30000000u && mch_pool_unfinished(pool, &group) == 1);
  asked.interrupted = 0;
  asked.interrupt_at = 1;
  wait_for_all(&asked, patience);
  CHECK(asked.interrupted == 1 && mch_pool_unfinished(pool, &group) == 1);
  asked.interrupt_at = 0;
  run(pool, &group, DIE, 0);
  while (!mch_pool_short_of_workers(pool) && mch_now() < patience)
    wait_for_all(&asked, patience);
  CHECK(mch_pool_short_of_workers(pool));
  CHECK(finish_all(pool, &group) && take_all(pool, &group) == 2);
  end_pool(pool);
}

/* Without a call of the owner tasks end, records and output come. */
static void test_owner_is_away(void) {
  struct mch_pool *pool = new_pool(2, 1);
  struct mch_group group = {0};
  uint64_t patience;
  int i;
  for (i = 0; i < 500; i++)
    run(pool, &group, i % 50 == 0 ? RECORDS : i % 50 == 1 ? PRINT : ECHO, 20);
  patience = mch_now() + 5000000000u;
  while (mch_pool_unfinished(pool, &group) > 0 && mch_now() < patience)
    nap(1);
  CHECK(mch_pool_unfinished(pool, &group) == 0);
  CHECK(mch_pool_take(pool, &group) == NULL); /* records first */
  CHECK(finish_all(pool, &group) && take_all(pool, &group) == 500);
  end_pool(pool);
}

static int ends_without_owner(struct mch_pool *pool, struct mch_group *group) {
  uint64_t patience = mch_now() + 60000000000u;
  while (mch_pool_unfinished(pool, group) > 0 && mch_now() < patience)
    nap(1);
  return mch_pool_unfinished(pool, group) == 0;
}

/* The tasks of `count` that have not finished when, some being done, no other has ended for a
 * while. */
static size_t until_it_rests(struct mch_pool *pool, struct mch_group *group, size_t count) {
  uint64_t patience = mch_now() + 60000000000u;
  size_t unfinished = count, last;
  do {
    last = unfinished;
    nap(700);
    unfinished = mch_pool_unfinished(pool, group);
  } while ((unfinished < last || unfinished == count) && mch_now() < patience);
  return unfinished;
}

/* More records than are kept for an owner who is away: it goes on when he has taken some. */
static void test_many_records(void) {
  struct mch_pool *pool = new_pool(2, 1);
  struct mch_group group = {0};
  struct mch_buf record = {0};
  size_t unfinished;
  int i;
  for (i = 0; i < 20; i++)
    run(pool, &group, RECORDS, 60000);
  unfinished = until_it_rests(pool, &group, 20);
  CHECK(unfinished > 0);
  while (mch_pool_take_log(pool, &record))
    ;
  CHECK(ends_without_owner(pool, &group));
  while (mch_pool_take_log(pool, &record))
    ;
  mch_buf_free(&record);
  CHECK(take_all(pool, &group) == 20);
  end_pool(pool);
}

/* Output that nobody reads for a while does not pile up without end, and comes when it can. */
static void test_stuck_output(void) {
  struct mch_pool *pool = new_pool(2, 1);
  struct mch_group group = {0};
  size_t before = printed, unfinished;
  uint64_t used;
  int i;
  stuck = 1;
  for (i = 0; i < 30; i++)
    run(pool, &group, PRINT, 60000);
  unfinished = until_it_rests(pool, &group, 30);
  CHECK(unfinished > 0 && unfinished < 30);
  used = cpu_time();
  nap(300);
  CHECK(cpu_time() - used < 100000000u);
  stuck = 0;
  CHECK(ends_without_owner(pool, &group));
  CHECK(take_all(pool, &group) == 30);
  end_pool(pool);
  CHECK(printed - before == (size_t)30 * 60000 * strlen("a line of a task\n"));
}

/* Short tasks one by one, the owner going away for moments of any length in between. */
static void test_turns(int background) {
  struct mch_pool *pool = new_pool(2, background);
  struct mch_group group = {0};
  uint32_t random = 1;
  int i, right = 1;
  for (i = 0; i < 1500 && right; i++) {
    struct timespec moment = {0, 0};
    random = random * 1664525u + 1013904223u;
    moment.tv_nsec = (long)(random >> 12) % 300000;
    run(pool, &group, ECHO, 0);
    if (random >> 30 == 0)
      run(pool, &group, SLEEP, 1);
    if (random >> 29 & 1)
      nanosleep(&moment, NULL);
    right = finish_all(pool, &group) && take_all(pool, &group) > 0;
  }
  CHECK(right);
  end_pool(pool);
}

/* While one task runs long, neither the owner who waits nor the one who is away burns time. */
static void test_costs_nothing(int background) {
  struct mch_pool *pool = new_pool(4, background);
  struct mch_group group = {0};
  uint64_t before;
  run(pool, &group, SLEEP, 600);
  turn(pool, 0);
  before = cpu_time();
  nap(300);
  CHECK(cpu_time() - before < 20000000u);
  before = cpu_time();
  CHECK(finish_all(pool, &group));
  CHECK(cpu_time() - before < 20000000u);
  end_pool(pool);
}

static int is_readable(int fd, int milliseconds) {
  struct pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, milliseconds) == 1;
}

/* An event loop that goes by the descriptor alone: it is told of all that comes. */
static void test_event_loop(int background) {
  struct mch_pool *pool = new_pool(2, background);
  struct mch_group group = {0};
  int fd = mch_pool_fd(pool, NULL), i, told = 1;
  CHECK(fd > 2);
  for (i = 0; i < 200 && told; i++) {
    uint64_t patience = mch_now() + 5000000000u;
    run(pool, &group, i % 10 == 0 ? SLEEP : ECHO, 5);
    while (told && mch_pool_finished(pool, &group) == 0) {
      turn(pool, 0);
      if (mch_pool_finished(pool, &group) == 0)
        told = is_readable(fd, 2000) && mch_now() < patience;
    }
    CHECK(take_all(pool, &group) == 1);
  }
  CHECK(told);
  turn(pool, 0);
  CHECK(!is_readable(fd, 20)); /* and of nothing when there is nothing */
  end_pool(pool);
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* Deaths, cancels, records, output: each task ends once. */
static void test_storm(int background, uint32_t seed) {
  static const int fates[] = {ECHO, ECHO, ECHO, ECHO, SLEEP, RECORDS, DIE, LEAVE, PRINT, LOOP};
  struct mch_pool *pool = new_pool(3, background);
  struct mch_group group = {0};
  size_t run_count = 0, taken = 0;
  uint64_t patience = mch_now() + 90000000000u;
  while (taken < 600 && mch_now() < patience) {
    uint32_t what = next_random(&seed) % 8;
    if (run_count < 600 && what < 4) {
      int fate = fates[next_random(&seed) % 10];
      uint64_t runid = run(pool, &group, fate, next_random(&seed) % 3);
      run_count++;
      if (fate == LOOP || next_random(&seed) % 30 == 0)
        mch_pool_cancel(pool, runid);
    } else if (what == 4)
      nap(next_random(&seed) % 3);
    else if (what == 5 && run_count > 0)
      mch_pool_cancel(pool, next_random(&seed) % run_count);
    else
      turn(pool, what == 6 && run_count == 600 ? mch_now() + 5000000u : 0);
    taken += take_all(pool, &group);
  }
  CHECK(taken == 600 && run_count == 600);
  CHECK(group.unfinished == 0 && group.finished == 0);
  end_pool(pool);
}

/* Tasks of C code that knows nothing of us. */
static void test_rude_tasks(void) {
  static const struct {
    int what;
    enum mch_kind kind;
  } cases[] = {
      {CLOSE, MCH_KIND_OK}, {COVER, MCH_KIND_OK}, {FORK, MCH_KIND_OK}, {HOLD, MCH_KIND_KILLED}};
  size_t i;
  for (i = 0; i < 4; i++) {
    struct mch_pool *pool = new_pool(1, 1);
    struct mch_group group = {0};
    struct mch_task *task;
    uint64_t start = mch_now(), from = 0;
    int next;
    run(pool, &group, cases[i].what, 0);
    for (next = 0; next < 5; next++)
      run(pool, &group, ECHO, 0);
    CHECK(finish_all(pool, &group));
    CHECK(mch_now() - start < 3000000000u);
    for (next = 0; (task = mch_pool_take_in_order(pool, &group, &from)) != NULL; next++) {
      CHECK(task->result->kind == (next == 0 ? cases[i].kind : MCH_KIND_OK));
      mch_pool_discard(pool, task);
    }
    CHECK(next == 6);
    end_pool(pool);
  }
}

/* Pools come and go, and fork, while the drivers of others are at work. */
static void test_neighbours(void) {
  struct mch_pool *busy = new_pool(2, 1);
  struct mch_group group = {0};
  size_t taken = 0;
  int i, j;
  for (i = 0; i < 25; i++) {
    struct mch_pool *pool = new_pool(2, i % 2);
    struct mch_group own = {0};
    for (j = 0; j < 40; j++)
      run(busy, &group, j % 8 == 0 ? PRINT : ECHO, 3);
    run(pool, &own, ECHO, 0);
    CHECK(finish_all(pool, &own) && take_all(pool, &own) == 1);
    end_pool(pool);
    taken += take_all(busy, &group);
  }
  CHECK(finish_all(busy, &group));
  taken += take_all(busy, &group);
  CHECK(taken == 25 * 40);
  end_pool(busy);
}

/* The owner's calls come from several threads, one at a time. */
struct errand {
  struct mch_pool *pool;
  struct mch_group *group;
  pthread_mutex_t turn;
  int failed;
};
static void *run_errands(void *argument) {
  struct errand *errand = argument;
  int i;
  for (i = 0; i < 100; i++) {
    pthread_mutex_lock(&errand->turn);
    run(errand->pool, errand->group, ECHO, 0);
    if (i % 3 == 0)
      errand->failed |= !finish_all(errand->pool, errand->group);
    take_all(errand->pool, errand->group);
    pthread_mutex_unlock(&errand->turn);
  }
  return NULL;
}
static void test_threads(void) {
  struct mch_group group = {0};
  struct errand errand = {new_pool(2, 1), &group, PTHREAD_MUTEX_INITIALIZER, 0};
  pthread_t threads[3];
  int i;
  for (i = 0; i < 3; i++)
    pthread_create(&threads[i], NULL, run_errands, &errand);
  for (i = 0; i < 3; i++)
    pthread_join(threads[i], NULL);
  CHECK(!errand.failed && finish_all(errand.pool, &group));
  end_pool(errand.pool);
}

int main(void) {
  uint32_t seed;
  int background;
  test_one_wait(0);
  test_one_wait(1);
  test_owner_is_away();
  test_many_records();
  test_stuck_output();
  for (background = 0; background < 2; background++) {
    test_turns(background);
    test_costs_nothing(background);
    test_event_loop(background);
    for (seed = 1; seed <= 3; seed++)
      test_storm(background, seed);
  }
  test_rude_tasks();
  test_neighbours();
  test_threads();
  CHECK(printed > 0);
  return check_report();
}
