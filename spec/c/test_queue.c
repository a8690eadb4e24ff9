/* runtime/queue: whose turn it is, against a list that is searched; levels come and go. */
#include <string.h>

#include "runtime/base/buf.h"
#include "runtime/pool/queue_state.h"

#include "check.h"

enum { MOST = 400, MANY = 60000 };

struct known {
  enum { OUT, WAITS, AWAY } where;
  struct mch_task task; /* whose end is open */
};

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

static int less_urgent(const struct mch_task *a, const struct mch_task *b) {
  return a->priority != b->priority ? a->priority < b->priority : a->runid > b->runid;
}

static struct mch_task *head_of(struct known *all) {
  struct mch_task *best = NULL;
  int i;
  for (i = 0; i < MOST; i++)
    if (all[i].where == WAITS && (best == NULL || less_urgent(best, &all[i].task)))
      best = &all[i].task;
  return best;
}

static int overtakes(struct known *all, int32_t priority) {
  const struct mch_task *head = head_of(all);
  int i;
  if (head != NULL && head->priority >= priority)
    return 0;
  for (i = 0; i < MOST; i++)
    if (all[i].where == AWAY && all[i].task.priority < priority)
      return 1;
  return 0;
}

static size_t depth(const struct mch_level *level) {
  size_t left = level != NULL ? depth(level->left) : 0;
  size_t right = level != NULL ? depth(level->right) : 0;
  return level == NULL ? 0 : 1 + (left > right ? left : right);
}

/* One step with one of the tasks. */
static void step(struct mch_queue *queue, struct known *known, uint32_t what, int32_t priority) {
  struct mch_task *task = &known->task;
  if (known->where == OUT) {
    task->priority = priority;
    CHECK(mch_queue_enter(queue, task) == 0);
    mch_queue_add(queue, task);
    known->where = WAITS;
  } else if (known->where == WAITS) {
    mch_queue_remove(queue, task);
    if (what % 4 == 0) {
      mch_queue_leave(queue, task);
      known->where = OUT;
    } else {
      mch_queue_send(queue, task, 1);
      known->where = AWAY;
    }
  } else {
    mch_queue_send(queue, task, 0);
    if (what % 2 == 0)
      mch_queue_add(queue, task);
    else
      mch_queue_leave(queue, task);
    known->where = what % 2 == 0 ? WAITS : OUT;
  }
}

static void test_turns(uint32_t seed) {
  static struct known all[MOST];
  struct mch_queue queue = {0};
  uint32_t random = seed;
  int i;
  memset(all, 0, sizeof all);
  for (i = 0; i < MOST; i++)
    all[i].task.runid = (uint64_t)i;
  for (i = 0; i < 4000; i++) {
    uint32_t which = next_random(&random) % MOST, what = next_random(&random);
    int32_t priority = (int32_t)(next_random(&random) % (1 + seed * 13 % 200)) - 50;
    if (what % 97 == 0)
      priority = what % 2 == 0 ? INT32_MAX : INT32_MIN;
    step(&queue, &all[which], what, priority);
    CHECK(mch_queue_head(&queue) == head_of(all));
    CHECK(mch_queue_overtakes(&queue, priority) == overtakes(all, priority));
  }
  for (i = 0; i < MOST; i++)
    while (all[i].where != OUT)
      step(&queue, &all[i], 8 + (all[i].where == AWAY), 0);
  CHECK(queue.count == 0 && mch_queue_levels(&queue) == 0);
}

/* Whatever the order of priorities the tree stays low, and nothing of it stays behind. */
static void test_many_levels(void) {
  static struct mch_task tasks[MANY];
  int way, i;
  for (way = 0; way < 3; way++) {
    struct mch_queue queue = {0};
    memset(tasks, 0, sizeof tasks);
    for (i = 0; i < MANY; i++) {
      tasks[i].runid = (uint64_t)i;
      tasks[i].priority = way == 0 ? i : way == 1 ? -i : (int32_t)((uint32_t)i * 2654435761u);
      CHECK(mch_queue_enter(&queue, &tasks[i]) == 0);
      mch_queue_add(&queue, &tasks[i]);
    }
    CHECK(mch_queue_levels(&queue) == MANY && depth(queue.root) < 80);
    for (i = 0; i < MANY; i++) {
      struct mch_task *task = mch_queue_head(&queue);
      if (way < 2)
        CHECK(task == &tasks[way == 0 ? MANY - 1 - i : i]);
      mch_queue_remove(&queue, task);
      mch_queue_leave(&queue, task);
    }
    CHECK(mch_queue_levels(&queue) == 0 && mch_queue_head(&queue) == NULL);
    mch_queue_free(&queue);
  }
}

/* A part of a batch is of its batch's level, which lasts as long as either. */
static void test_parts(void) {
  struct mch_queue queue = {0};
  struct mch_task whole = {.priority = 3}, part = {.priority = 3, .runid = 1};
  CHECK(mch_queue_enter(&queue, &whole) == 0);
  mch_queue_enter_with(&part, &whole);
  mch_queue_leave(&queue, &whole);
  mch_queue_leave(&queue, &whole); /* nothing more */
  mch_queue_add(&queue, &part);
  CHECK(mch_queue_levels(&queue) == 1 && mch_queue_head(&queue) == &part);
  mch_queue_free(&queue);
}

/* Bytes of so many items in the body of a batch. */
static size_t size_of_items(const struct mch_task *task, uint32_t count) {
  size_t start = task->codes * sizeof(uint32_t) + task->batch->function_length, at = start;
  for (; count > 0; count--)
    at += 4 + mch_load_u32(task->body + at);
  return at - start;
}

/* A part has the items behind it that were split off before. */
static void test_items_in_parts(void) {
  enum { FUNCTION = 3, ITEMS = 10 };
  unsigned char graph[FUNCTION + ITEMS * (4 + ITEMS)] = "fun";
  size_t length = FUNCTION;
  uint32_t i;
  struct mch_task *batch, *second, *first;
  for (i = 0; i < ITEMS; i++) {
    mch_store_u32(graph + length, i);
    length += 4 + i;
  }
  batch = mch_batch_new(NULL, 0, graph, length, FUNCTION, ITEMS, 1);
  second = mch_task_split(batch, 7);
  batch->batch->count = 7;
  first = mch_task_split(batch, 2);
  CHECK(batch->batch->whole == ITEMS && second->batch->whole == 3 && second->batch->count == 3);
  CHECK(first->batch->count == 5 && first->batch->whole == 8);
  CHECK(size_of_items(second, second->batch->whole) == second->length - FUNCTION);
  CHECK(size_of_items(first, first->batch->whole) == first->length - FUNCTION);
  mch_task_free(batch);
  mch_task_free(second);
  mch_task_free(first);
}

int main(void) {
  uint32_t seed;
  for (seed = 1; seed <= 20; seed++)
    test_turns(seed);
  test_many_levels();
  test_parts();
  test_items_in_parts();
  return check_report();
}
